//! # Capacity: which pool is asked next, and when
//!
//! A pool is an instance type on a market in a subnet; the ladder is the order in which an operation asks
//! pools (`NodeSpec::ladder`). One pool is asked at a time: a second launch is intended only when the first
//! one has settled. "No capacity" is evidence, and each refusal stands in the journal with its reason.
//!
//! ```text
//!   m6i.large spot ─► m5.large spot ─► m6i.large on-demand ─► m5.large on-demand ─► pause ─► (again)
//!   └────────── a stretch ────────┘   └──────── a stretch, from `after_s` on ────┘
//! ```
//!
//! - After the last pool comes a pause: 15 s at first, five minutes at most.
//!   - Why: a notice gives two minutes; later, asking more often brings no capacity.
//! - A pool that had no capacity is not asked for three minutes, by any node
//!   ([`NotAsked::Remembered`](crate::model::capacity::NotAsked)).
//!   - Why: each refusal costs a call and a second, and its answer is known.
//! - A stretch (pools of one market and one subnet) is left only after one of its pools was really asked.
//!   - Why: no node pays for on-demand, or leaves its zone, on memory alone; and a round never consists of
//!     memory alone.
//! - An on-demand pool is not asked before `on_demand.after_s`.
//!   - Why: spot may come back within the time a node can do without.
//! - If an on-demand pool opens before the pause would be over, the ladder waits for it instead.
//!   - Why: the time that the file asks for is the time it takes.
//! - An on-demand pool is refused while `on_demand.max_nodes` nodes are on demand
//!   ([`NotAsked::OnDemandBudget`](crate::model::capacity::NotAsked)).
//!   - Why: a shortage of spot must not become an unbounded bill.
//!
//! If the file states requirements for types, an order, or a maximum price, the pools come from a survey: see
//! `rules::survey`. Everything above holds for them as well.
//!
//! # Return to spot
//! A node on demand returns to spot when its file says so (`return_to_spot`). The return is a replacement
//! that may end undone:
//!
//! - It does not begin within `min_lifetime_min` of the last move, nor of the last try.
//!   - Why: a node does not go back and forth.
//! - It begins within a maintenance window, where the file names windows.
//!   - Why: the operator chooses the outage of a planned move.
//! - It begins after spot has looked available for a while. Where no data says whether spot is available,
//!   there is one try per window (or per `BLIND_TRIES`).
//!   - Why: a try costs calls and may cost an outage.
//! - Until the point of no return only spot pools of the present subnet are asked; if none has capacity, it
//!   is undone.
//!   - Why: the node is carried already, and need neither go on demand again nor move to another subnet.
//! - After that point the whole ladder is asked.
//!   - Why: bringing the node back comes first.
//! - Where the old instance must go first (`primary_eni`, `persist.root: image`, `persist.data: snapshot`),
//!   it begins only in a window.
//!   - Why: it cannot be undone, and may end on demand again after an outage.
//!
//! A node that is dying moves whatever these rules say.
//!
//! Pools are not asked in parallel: `docs/decisions/0008-one-launch-at-a-time.md` says why.
//!
//! The memory lives with the workers and may be lost at any time; that costs calls only. The budget is
//! counted from the journal. Both end a launch as `not_asked`, before any call is made.

use std::time::Duration;

use perennial_engine::retry::Intervals;

use crate::model::aws::{Market, SubnetId};
use crate::model::capacity::{CapacityPool, NotAsked};
use crate::model::signal::Cause;
use crate::model::survey::{Kept, Question, Ranked};
use crate::operation::facts::{Ladder, Rejected};
use crate::operation::state::Operation;
use crate::spec::checks::makes_before_it_breaks;
use crate::spec::node::{NodeSpec, ReturnToSpot};
use crate::step::name::Only;

/// The pause between two rounds of the ladder, when no pool had capacity. Karpenter remembers a pool without
/// capacity for three minutes; the first rounds are faster because a notice gives two.
const LADDER_ROUND: Intervals = Intervals {
    first: Duration::from_secs(15),
    longest: Duration::from_millis(ROUND_PAUSE_MAX_MS),
    jitter: 0.0,
};

/// The longest such pause. No step of an operation waits longer for its time.
pub(crate) const ROUND_PAUSE_MAX_MS: u64 = 300_000;

/// The requester recorded for a workflow that gives up on its own.
pub const BY_ITSELF: &str = "perennial";

/// How many refusals the reason of an undone return names.
const REASONS_MAX: usize = 8;

/// How many refused pools an operation remembers in its state (the journal keeps all).
const REJECTED_MAX: usize = 200;

/// The request of the next launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Which pool.
    pub(crate) pool: CapacityPool,
    /// Whether it is asked even if it is remembered as being without capacity.
    pub(crate) ask_anyway: bool,
    /// The maximum number of nodes on demand, including this one.
    pub(crate) on_demand_max: Option<u32>,
}

/// Whether an operation knows any pool at all.
pub(crate) fn has_pools(op: &Operation) -> bool {
    !op.order.spec.ladder(&op.facts.subnet, op.facts.survey.as_deref()).is_empty()
}

/// The pools of an operation, in order: listed ones or surveyed ones.
pub(crate) fn pools(op: &Operation) -> Vec<CapacityPool> {
    let pools = op.order.spec.ladder(&op.facts.subnet, op.facts.survey.as_deref());
    if !returns(op) || op.no_return().is_some() {
        return pools;
    }
    let may_go = |pool: &&CapacityPool| pool.market == Market::Spot && pool.subnet.is_none();
    pools.iter().filter(may_go).cloned().collect()
}

/// Whether an operation brings a node back to spot.
fn returns(op: &Operation) -> bool {
    matches!(op.order.cause, Cause::ReturnToSpot { .. })
}

/// Why a return to spot is to be undone: no pool has capacity, and an instance still carries the node.
pub(crate) fn gives_up(op: &Operation) -> Option<String> {
    let facts = &op.facts;
    let is_due = returns(op)
        && !facts.is_undoing()
        && facts.candidate.is_none()
        && !op.has_open(&Only::Launch.into())
        && (facts.ladder.rounds > 0 || (pools(op).is_empty() && !is_awaited(op)))
        && op.no_return().is_none();
    is_due.then(|| {
        let last = facts.ladder.rejected.iter().rev().take(REASONS_MAX).rev();
        let refusals: Vec<String> =
            last.map(|rejected| format!("{}: {}", rejected.pool, rejected.because)).collect();
        format!("no spot pool could carry the node, it stays where it is ({})", refusals.join("; "))
    })
}

/// The request of the next launch.
pub(crate) fn next(op: &Operation) -> Option<Asked> {
    let pools = pools(op);
    let ladder = &op.facts.ladder;
    let place = ladder.next % pools.len().max(1);
    let pool = pools.get(place)?.clone();
    let is_last = pools.get(place + 1).is_none_or(|next| !is_one_stretch(&pool, next));
    let on_demand = &op.order.spec.capacity.on_demand;
    Some(Asked {
        ask_anyway: is_last && !ladder.answered,
        on_demand_max: on_demand.max_nodes.filter(|_| pool.market == Market::OnDemand),
        pool,
    })
}

/// Goes to the next pool of the ladder, after one that was asked and could not serve.
pub(crate) fn climb(op: &mut Operation, pool: CapacityPool, because: String, at_ms: u64) {
    op.facts.ladder.answered = true;
    go_on(op, pool, because, at_ms);
}

/// Goes to the next pool of the ladder, after one that was not asked.
pub(crate) fn pass_over(op: &mut Operation, pool: CapacityPool, because: &NotAsked, at_ms: u64) {
    go_on(op, pool, because.to_string(), at_ms);
}

fn go_on(op: &mut Operation, pool: CapacityPool, because: String, at_ms: u64) {
    let pools = pools(op);
    // By the earliest stamp: a clock that was set back since the start closes on demand for no longer.
    let began_ms = op.facts.ladder.rejected.iter().map(|rejected| rejected.at_ms).min();
    let began_ms = began_ms.map_or(op.started_at_ms, |at_ms| at_ms.min(op.started_at_ms));
    let opens_ms = began_ms + u64::from(op.order.spec.capacity.on_demand.after_s) * 1_000;
    let ladder = &mut op.facts.ladder;
    let place = ladder.next % pools.len().max(1);
    // The file was changed while this pool was asked: the new ladder has its own next pool.
    let is_next = pools.get(place) == Some(&pool);
    if ladder.rejected.len() < REJECTED_MAX {
        ladder.rejected.push(Rejected { pool, because, at_ms });
    }
    if !is_next {
        return;
    }
    let is_closed = |pool: &CapacityPool| pool.market == Market::OnDemand && at_ms < opens_ms;
    let above = pools.iter().enumerate().skip(place + 1);
    if let Some((next, _)) = above.into_iter().find(|(_, pool)| !is_closed(pool)) {
        ladder.go(&pools, place, next);
        return;
    }
    let again_ms = ladder.ends_round(at_ms);
    let waited_for = pools.iter().position(is_closed).filter(|_| opens_ms <= again_ms);
    ladder.not_before_ms = if waited_for.is_some() { opens_ms } else { again_ms };
    ladder.next = waited_for.unwrap_or(0);
    ladder.answered = false;
}

/// Another file says which pools there are: they are asked at once, from the first one on.
pub(crate) fn begin_anew(op: &mut Operation) {
    let rejected = std::mem::take(&mut op.facts.ladder.rejected);
    op.facts.ladder = Ladder { rejected, ..Ladder::default() };
    op.facts.surveyed = None;
}

/// No pool may be asked now: the next look at them follows after a pause.
pub(crate) fn pause(op: &mut Operation, at_ms: u64) {
    let again_ms = op.facts.ladder.ends_round(at_ms);
    op.facts.ladder.not_before_ms = again_ms;
    op.facts.ladder.answered = false;
}

/// Notes for a plan that the ladder alone does not show.
pub(crate) fn notes(spec: &NodeSpec) -> Vec<String> {
    let mut notes = Vec::new();
    let on_demand = &spec.capacity.on_demand;
    if on_demand.after_s > 0 {
        notes.push(format!(
            "On-demand pools are asked from {} s after the beginning on; until then spot is asked again and again.",
            on_demand.after_s
        ));
    }
    if let Some(max) = on_demand.max_nodes {
        notes.push(format!(
            "On-demand pools are asked only while fewer than {max} other nodes are on demand."
        ));
    }
    let windows: Vec<String> = spec.maintenance_windows.iter().map(ToString::to_string).collect();
    match spec.capacity.return_to_spot {
        ReturnToSpot::Never => {}
        ReturnToSpot::WhenAvailable => notes.push(format!(
            "On demand, it goes back to spot when that is available, at most once in {} min.",
            spec.capacity.min_lifetime_min
        )),
        ReturnToSpot::Window if makes_before_it_breaks(spec) => notes.push(format!(
            "On demand, it goes back to spot in a maintenance window ({}) when that is available.",
            windows.join("; ")
        )),
        ReturnToSpot::Window => notes.push(format!(
            "On demand, it goes back to spot in a maintenance window ({}). The old instance goes first: that cannot be \
             undone, and without spot capacity it is on demand again after an outage.",
            windows.join("; ")
        )),
    }
    notes
}

/// Whether two neighbours on the ladder are of one market and one subnet.
fn is_one_stretch(one: &CapacityPool, other: &CapacityPool) -> bool {
    one.market == other.market && one.subnet == other.subnet
}

impl Ladder {
    /// A round is over; when the next one begins, in milliseconds.
    fn ends_round(&mut self, at_ms: u64) -> u64 {
        self.rounds += 1;
        let pause = LADDER_ROUND.after(self.rounds, 0.5);
        at_ms + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2)
    }

    fn go(&mut self, pools: &[CapacityPool], from: usize, to: usize) {
        self.answered &=
            pools.get(from).zip(pools.get(to)).is_some_and(|(from, to)| is_one_stretch(from, to));
        self.next = to;
        // The round has begun: what it waited for is over, whatever the clock shows now.
        self.not_before_ms = 0;
    }
}

impl NodeSpec {
    /// The pools to try, in order. If the file asks for a survey: those of the node's survey. Otherwise:
    /// every pool of the subnet the node lives in, then those of each other subnet, in the file's order.
    #[must_use]
    pub fn ladder(&self, present: &SubnetId, survey: Option<&Kept>) -> Vec<CapacityPool> {
        if let Some(kept) = survey.filter(|kept| kept.answers(self, present)) {
            return kept.pools(self, present);
        }
        let mut pools = self.rungs(None);
        for subnet in self.subnets().filter(|subnet| *subnet != present) {
            pools.extend(self.rungs(Some(subnet)));
        }
        pools
    }
}

impl Question {
    pub(crate) fn has_types_of(&self, spec: &NodeSpec) -> bool {
        let capacity = &spec.capacity;
        self.instance_types == capacity.instance_types
            && self.requirements == capacity.requirements
            && self.market == capacity.market
    }
}

impl Kept {
    /// Whether it answers the question of the present file; its prices may be old, and it may lack other
    /// subnets.
    #[must_use]
    pub fn answers(&self, spec: &NodeSpec, present: &SubnetId) -> bool {
        let knows = |subnet: &SubnetId| self.question.places.iter().any(|place| place.subnet == *subnet);
        spec.capacity.is_surveyed() && self.question.has_types_of(spec) && knows(present)
    }

    /// The pools, as seen from the subnet the node lives in.
    pub(crate) fn pools(&self, spec: &NodeSpec, present: &SubnetId) -> Vec<CapacityPool> {
        let pool = |ranked: &Ranked| CapacityPool {
            instance_type: ranked.instance_type.clone(),
            market: ranked.market,
            subnet: Some(&ranked.subnet).filter(|subnet| *subnet != present).cloned(),
        };
        let here = self.pools.iter().filter(|ranked| ranked.subnet == *present);
        let elsewhere = self.pools.iter().filter(|ranked| {
            ranked.subnet != *present && spec.subnets().any(|subnet| *subnet == ranked.subnet)
        });
        here.chain(elsewhere).map(pool).collect()
    }
}

/// Whether the launch waits for a survey: one is due for this round of the ladder.
pub(crate) fn is_awaited(op: &Operation) -> bool {
    op.order.spec.capacity.is_surveyed()
        && op.facts.candidate.is_none()
        && op.facts.surveyed != Some(op.facts.ladder.rounds)
}
