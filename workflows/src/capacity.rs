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
//! Where the file says what types must be like, in which order they are asked, or what they may cost, the pools come from a
//! survey: see [`survey`]. Everything above holds for them as well.
//!
//! # Return to spot
//! A node on demand goes back when its file says so (`return_to_spot`). It is a replacement that may end undone:
//!
//! | rule | why |
//! | --- | --- |
//! | not within `min_lifetime_min` of the last move, nor of the last try | a node does not go back and forth |
//! | within a maintenance window, where the file names windows | the outage of a planned move is chosen, not suffered |
//! | spot has looked available for a while; where nothing says whether it is, one try a window (or in [`BLIND_TRIES`]) | a try costs calls and may cost an outage |
//! | until the point of no return only spot pools of the present subnet are asked; when none serves, it is undone | the node is carried already: it need not go on demand again, nor elsewhere |
//! | after it the whole ladder is asked | the node comes back first of all |
//! | where the old instance must go first (`primary_eni`, `persist.root: image`, `persist.data: snapshot`), only in a window | it cannot be undone, and may end on demand again after an outage |
//!
//! A node that is dying moves whatever these rules say.
//!
//! Pools are not asked in parallel: `docs/decisions/0008-one-launch-at-a-time.md` says why.
//!
//! The memory lives with the workers and may be lost at any time: that costs calls, nothing else. The budget is counted from
//! the journal. Both answer a launch with "no capacity" and a code of ours, before any call is made.

use std::time::Duration;

use perennial_engine::retry::Intervals;

use crate::aws::Market;
use crate::node::Node;
use crate::operation::{Ladder, Operation, Rejected};
use crate::signal::{Cause, IMPAIRED_AFTER_S_MAX, IMPAIRED_AFTER_S_MIN, ImpairedPolicy, RebalancePolicy};
use crate::spec::{MarketPolicy, NodeSpec, Pool, ReturnToSpot, SpecError};
use crate::{plan, survey, windows};

/// The code of a pool that was not asked, because it had no capacity a moment ago.
pub const REMEMBERED: &str = "Perennial.Remembered";

/// The code of an on-demand pool that was not asked, because as many nodes are on demand as may be.
pub const ON_DEMAND_BUDGET: &str = "Perennial.OnDemandBudget";

/// Between two rounds of the ladder, when no pool had capacity. Karpenter remembers a pool without capacity for three
/// minutes; the first rounds are faster because a notice gives two.
const LADDER_ROUND: Intervals =
    Intervals { first: Duration::from_secs(15), longest: Duration::from_secs(300), jitter: 0.0 };

/// Between two tries to go back to spot when nothing says whether it is available and the file names no windows: four a
/// day find the end of a shortage the same day.
pub const BLIND_TRIES: Duration = Duration::from_secs(6 * 3600);

/// Who ends a workflow that gives up by itself.
pub const BY_ITSELF: &str = "perennial";

/// How many refusals the reason of a return that is undone names.
const REASONS_MAX: usize = 8;

/// The least time between two moves of a node that runs well: an hour is what EC2 once billed at least, and long against a
/// shortage that flickers.
pub const MIN_LIFETIME_MIN: u32 = 60;

/// Longer than a month would be `never`.
pub const MIN_LIFETIME_MIN_MAX: u32 = 31 * 24 * 60;

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

/// Whether an operation knows any pool at all.
pub(crate) fn has_pools(op: &Operation) -> bool {
    !op.order.spec.ladder(&op.facts.subnet, op.facts.survey.as_deref()).is_empty()
}

/// The pools of an operation, in order: listed ones or surveyed ones.
pub(crate) fn pools(op: &Operation) -> Vec<Pool> {
    let pools = op.order.spec.ladder(&op.facts.subnet, op.facts.survey.as_deref());
    if !returns(op) || op.no_return().is_some() {
        return pools;
    }
    let may_go = |pool: &&Pool| pool.market == Market::Spot && pool.subnet.is_none();
    pools.iter().filter(may_go).cloned().collect()
}

/// The types that a node asks for in the subnet it lives in, on whatever market: listed or surveyed ones.
#[must_use]
pub fn types_here(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let present = node.resources.subnet.as_ref().unwrap_or(&spec.subnet);
    let mut types: Vec<String> = Vec::new();
    for pool in spec.ladder(present, node.resources.survey.as_deref()) {
        if pool.subnet.is_none() && !types.contains(&pool.instance_type) {
            types.push(pool.instance_type);
        }
    }
    types
}

/// Whether an operation brings a node back to spot.
fn returns(op: &Operation) -> bool {
    matches!(op.order.cause, Cause::ReturnToSpot { .. })
}

/// Why a return to spot is to be undone: no pool serves, and the node is still carried.
pub(crate) fn gives_up(op: &Operation) -> Option<String> {
    let facts = &op.facts;
    let is_due = returns(op)
        && !facts.undoing
        && facts.candidate.is_none()
        && !op.has_open("launch")
        && (facts.ladder.rounds > 0 || (pools(op).is_empty() && !survey::is_awaited(op)))
        && op.no_return().is_none();
    is_due.then(|| {
        let last = facts.ladder.rejected.iter().rev().take(REASONS_MAX).rev();
        let refusals: Vec<String> =
            last.map(|rejected| format!("{}: {}", rejected.pool, rejected.code)).collect();
        format!("no spot pool could carry the node, it stays where it is ({})", refusals.join("; "))
    })
}

/// Whether a node that runs well may be moved now; or why not.
///
/// # Errors
/// Why not, as a clause for people.
pub fn may_move(node: &Node, now_ms: u64) -> Result<(), String> {
    let Some(spec) = node.spec.as_ref().filter(|_| node.exists()) else {
        return Err("there is no such node".to_owned());
    };
    if let Some((open, _)) = &node.open {
        return Err(format!("workflow {open} holds it"));
    }
    has_settled(node, now_ms)?;
    if !spec.maintenance_windows.is_empty() && windows::open_at(&spec.maintenance_windows, now_ms).is_none() {
        return Err("it is outside of its maintenance windows".to_owned());
    }
    Ok(())
}

/// Whether the present instance has carried a node for so long that it may be left for another.
///
/// # Errors
/// Why not, as a clause for people.
pub fn has_settled(node: &Node, now_ms: u64) -> Result<(), String> {
    let min = node.spec.as_ref().map_or(0, |spec| spec.capacity.min_lifetime_min);
    if now_ms < node.carried_since_ms + u64::from(min) * 60_000 {
        return Err(format!("its instance has carried it for less than {min} minutes"));
    }
    Ok(())
}

/// What is known of spot where a node lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpotSeen {
    /// It has looked available for a while; in words.
    Available(String),
    /// Nothing says whether it is.
    Unknown,
}

/// Whether a node may go back to spot now, and what speaks for it; or why not.
///
/// # Errors
/// Why not, as a clause for people.
pub fn may_return(node: &Node, seen: &SpotSeen, now_ms: u64) -> Result<String, String> {
    may_move(node, now_ms)?;
    let Some(spec) = &node.spec else { return Err("there is no such node".to_owned()) };
    if spec.capacity.return_to_spot == ReturnToSpot::Never {
        return Err("its file says `return_to_spot: never`".to_owned());
    }
    if node.resources.carrier.as_ref().is_none_or(|carrier| carrier.market != Market::OnDemand) {
        return Err("it does not run on demand".to_owned());
    }
    let tried_ms = node.returned_at_ms.unwrap_or(0);
    if now_ms < tried_ms + u64::from(spec.capacity.min_lifetime_min) * 60_000 {
        return Err("it has tried a while ago".to_owned());
    }
    let window = windows::open_at(&spec.maintenance_windows, now_ms);
    match (seen, window) {
        (SpotSeen::Available(because), _) => Ok(because.clone()),
        (SpotSeen::Unknown, Some(window)) if tried_ms < window.from_ms => {
            Ok("one try in this maintenance window; nothing says whether spot is available".to_owned())
        }
        (SpotSeen::Unknown, Some(_)) => Err("it has tried in this maintenance window".to_owned()),
        (SpotSeen::Unknown, None) => {
            let pause_ms = u64::try_from(BLIND_TRIES.as_millis()).unwrap_or(u64::MAX / 2);
            if now_ms < tried_ms + pause_ms {
                return Err("it has tried a while ago, and nothing says whether spot is available".to_owned());
            }
            Ok("a try; nothing says whether spot is available".to_owned())
        }
    }
}

/// Checks what a file says of moves that nobody needs at once.
pub(crate) fn check_moves(spec: &NodeSpec) -> Result<(), SpecError> {
    let wrong = |field: &str, why: &str| Err(SpecError { field: field.to_owned(), why: why.to_owned() });
    windows::check(&spec.maintenance_windows)?;
    let capacity = &spec.capacity;
    if capacity.min_lifetime_min > MIN_LIFETIME_MIN_MAX {
        return wrong(
            "capacity.min_lifetime_min",
            "is more than a month; say `return_to_spot: never` instead",
        );
    }
    let after_s = spec.signals.unwrap_or_default().impaired_after_s;
    if !(IMPAIRED_AFTER_S_MIN..=IMPAIRED_AFTER_S_MAX).contains(&after_s) {
        let why = format!("is {after_s}; it takes {IMPAIRED_AFTER_S_MIN} to {IMPAIRED_AFTER_S_MAX} seconds");
        return wrong("signals.impaired_after_s", &why);
    }
    match capacity.return_to_spot {
        ReturnToSpot::Never if spec.signals.unwrap_or_default().rebalance == RebalancePolicy::Move => {
            return Ok(());
        }
        ReturnToSpot::Never => {
            if !spec.maintenance_windows.is_empty() {
                return wrong(
                    "maintenance_windows",
                    "nothing moves the node in them; say `capacity.return_to_spot: window` or `signals.rebalance: move`, or remove them",
                );
            }
            let escapes = spec.signals.unwrap_or_default().impaired == ImpairedPolicy::Move;
            if capacity.min_lifetime_min != MIN_LIFETIME_MIN && !escapes {
                return wrong(
                    "capacity.min_lifetime_min",
                    "has no effect with `return_to_spot: never`, `signals.impaired: note` and without `signals.rebalance: move`; remove it",
                );
            }
            return Ok(());
        }
        ReturnToSpot::WhenAvailable if !spec.maintenance_windows.is_empty() => {
            return wrong(
                "maintenance_windows",
                "`return_to_spot: when_available` means at any time; say `window`, or remove them",
            );
        }
        ReturnToSpot::WhenAvailable if !makes_before_it_breaks(spec) => {
            return wrong(
                "capacity.return_to_spot",
                "here the old instance goes first (`primary_eni`, `persist.root: image` or `persist.data: snapshot`), an outage \
                 that cannot be undone: say `window`",
            );
        }
        ReturnToSpot::Window if spec.maintenance_windows.is_empty() => {
            return wrong("capacity.return_to_spot", "`window` needs `maintenance_windows`");
        }
        ReturnToSpot::WhenAvailable | ReturnToSpot::Window => {}
    }
    if capacity.market != MarketPolicy::SpotThenOnDemand {
        return wrong(
            "capacity.return_to_spot",
            "needs `market: spot_then_on_demand`: with another one the node stays on its market; remove it",
        );
    }
    Ok(())
}

/// Whether capacity is secured before anything is taken away.
fn makes_before_it_breaks(spec: &NodeSpec) -> bool {
    spec.makes_before_breaks() && !plan::launches_late(spec)
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
    let again_ms = ladder.ends_round(at_ms);
    let waited_for = pools.iter().position(is_closed).filter(|_| opens_ms <= again_ms);
    ladder.not_before_ms = if waited_for.is_some() { opens_ms } else { again_ms };
    ladder.next = waited_for.unwrap_or(0);
    ladder.answered = false;
}

/// No pool may be asked now: another look at them comes after a pause.
pub(crate) fn pause(op: &mut Operation, at_ms: u64) {
    let again_ms = op.facts.ladder.ends_round(at_ms);
    op.facts.ladder.not_before_ms = again_ms;
    op.facts.ladder.answered = false;
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
fn is_one_stretch(one: &Pool, other: &Pool) -> bool {
    one.market == other.market && one.subnet == other.subnet
}

impl Ladder {
    /// A round is over; when the next one begins, in milliseconds.
    fn ends_round(&mut self, at_ms: u64) -> u64 {
        self.rounds += 1;
        let pause = LADDER_ROUND.after(self.rounds, 0.5);
        at_ms + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2)
    }

    fn go(&mut self, pools: &[Pool], from: usize, to: usize) {
        self.answered &=
            pools.get(from).zip(pools.get(to)).is_some_and(|(from, to)| is_one_stretch(from, to));
        self.next = to;
    }
}
