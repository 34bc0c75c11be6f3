//! # Capacity: which pool is asked next, and when
//!
//! A pool is an instance type on a market in a subnet; the ladder is the order in which an operation asks pools
//! ([`NodeSpec::ladder`](crate::spec::NodeSpec::ladder)). One pool is asked at a time: a second launch is intended only when
//! the first one has settled. "No capacity" is evidence, and each refusal stands in the journal with its reason.
//!
//! ```text
//!   m6i.large spot ─► m5.large spot ─► m6i.large on-demand ─► m5.large on-demand ─► pause ─► (again)
//!   └────────── a stretch ────────┘   └──────── a stretch, from `after_s` on ────┘
//! ```
//!
//! | rule | why |
//! | --- | --- |
//! | after the last pool a pause, 15 s at first, five minutes at most | a notice gives two minutes; later, asking more often brings no capacity |
//! | a pool that had no capacity is not asked for three minutes, by any node ([`REMEMBERED`]) | each refusal costs a call and a second, and its answer is known |
//! | a stretch (pools of one market and one subnet) is left only after one of its pools was really asked | no node pays for on-demand, or leaves its zone, on memory alone; and memory alone is never the whole round |
//! | an on-demand pool is not asked before `on_demand.after_s` | spot may come back within the time a node can do without |
//! | one that opens before the pause would be over is waited for instead | the time that was asked for is the time it takes |
//! | an on-demand pool is refused while `on_demand.max_nodes` nodes are on demand ([`ON_DEMAND_BUDGET`]) | a shortage of spot must not become a bill without a bound |
//!
//! The memory lives with the workers and may be lost at any time: that costs calls, nothing else. The budget is counted from
//! the journal. Both answer a launch with "no capacity" and a code of ours, before any call is made.

use std::time::Duration;

use perennial_engine::retry::Intervals;

use crate::aws::Market;
use crate::operation::{Ladder, Operation, Rejected};
use crate::spec::{NodeSpec, Pool};

/// The code of a pool that was not asked, because it had no capacity a moment ago.
pub const REMEMBERED: &str = "Perennial.Remembered";

/// The code of an on-demand pool that was not asked, because as many nodes are on demand as may be.
pub const ON_DEMAND_BUDGET: &str = "Perennial.OnDemandBudget";

/// Between two rounds of the ladder, when no pool had capacity. Karpenter remembers a pool without capacity for three
/// minutes; the first rounds are faster because a notice gives two.
const LADDER_ROUND: Intervals =
    Intervals { first: Duration::from_secs(15), longest: Duration::from_secs(300), jitter: 0.0 };

/// How many refused pools an operation remembers in its state (the journal keeps all).
const REJECTED_MAX: usize = 200;

/// What the next launch asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Which pool.
    pub(crate) pool: Pool,
    /// Whether it is asked even if it is remembered as being without capacity.
    pub(crate) ask_anyway: bool,
    /// At most so many nodes may be on demand with it.
    pub(crate) on_demand_max: Option<u32>,
}

/// Whether a refusal is EC2's, and not ours.
#[must_use]
pub fn is_answer(code: &str) -> bool {
    !matches!(code, REMEMBERED | ON_DEMAND_BUDGET)
}

/// The pools of an operation, in order.
pub(crate) fn pools(op: &Operation) -> Vec<Pool> {
    op.order.spec.ladder(&op.facts.subnet)
}

/// What the next launch asks.
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

/// Up the ladder, after a pool that could not serve.
pub(crate) fn climb(op: &mut Operation, pool: Pool, code: String, at_ms: u64) {
    let pools = pools(op);
    let opens_ms = op.started_at_ms + u64::from(op.order.spec.capacity.on_demand.after_s) * 1_000;
    let ladder = &mut op.facts.ladder;
    ladder.answered |= is_answer(&code);
    if ladder.rejected.len() < REJECTED_MAX {
        ladder.rejected.push(Rejected { pool, code, at_ms });
    }
    let place = ladder.next % pools.len().max(1);
    let is_closed = |pool: &Pool| pool.market == Market::OnDemand && at_ms < opens_ms;
    let above = pools.iter().enumerate().skip(place + 1);
    if let Some((next, _)) = above.into_iter().find(|(_, pool)| !is_closed(pool)) {
        ladder.go(&pools, place, next);
        return;
    }
    ladder.rounds += 1;
    let pause = LADDER_ROUND.after(ladder.rounds, 0.5);
    let again_ms = at_ms + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2);
    let waited_for = pools.iter().position(is_closed).filter(|_| opens_ms <= again_ms);
    ladder.not_before_ms = if waited_for.is_some() { opens_ms } else { again_ms };
    ladder.next = waited_for.unwrap_or(0);
    ladder.answered = false;
}

/// What the ladder alone does not say, for a plan.
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
    notes
}

/// Whether two neighbours on the ladder are of one market and one subnet.
fn is_one_stretch(one: &Pool, other: &Pool) -> bool {
    one.market == other.market && one.subnet == other.subnet
}

impl Ladder {
    fn go(&mut self, pools: &[Pool], from: usize, to: usize) {
        self.answered &=
            pools.get(from).zip(pools.get(to)).is_some_and(|(from, to)| is_one_stretch(from, to));
        self.next = to;
    }
}
