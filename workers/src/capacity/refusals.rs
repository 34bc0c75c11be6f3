//! The memory of pools without capacity, shared by all nodes of this process.
//!
//! A pool that answered "no capacity" a moment ago will say so again: for [`REMEMBERED_FOR`] no other launch
//! asks it, and the journal shows it as considered and passed over. An interruption warning says the same of
//! the pool its instance came from. Which launch asks a pool in spite of it, so that a ladder never goes
//! round on memory alone, is the workflow's decision ([`capacity`](perennial_workflows::rules::capacity)).
//!
//! Losing the memory costs calls, nothing else: it is not in the journal.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::Rejection;
use perennial_workflows::domain::states::State;
use perennial_workflows::model::capacity::{NotAsked, PoolSign};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::node_stream;
use perennial_workflows::model::signal::{News, Signal};
use perennial_workflows::operation::state::Operation;
use perennial_workflows::step::evidence::Evidence;
use tracing::debug;

use super::pool::PoolKey;

/// How long a pool without capacity is not asked. Karpenter's time for the same: long enough for the other
/// nodes of one shortage, short enough to notice its end.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(180);

/// What a pool last said.
#[derive(Debug, Clone)]
struct Refusal {
    sign: PoolSign,
    /// In monotonic milliseconds; negative: before this process.
    at_ms: i64,
}

/// The memory.
#[derive(Debug)]
pub struct CapacityRefusals {
    clock: Clock,
    /// Bounded by what exists (some hundred types, a few zones, two markets): what is out of date goes with
    /// every new entry.
    refusals: Mutex<BTreeMap<PoolKey, Refusal>>,
}

impl CapacityRefusals {
    /// An empty memory.
    #[must_use]
    pub const fn new(clock: Clock) -> Self {
        Self { clock, refusals: Mutex::new(BTreeMap::new()) }
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, BTreeMap<PoolKey, Refusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> i64 {
        self.clock.monotonic_ms().cast_signed()
    }

    fn age(&self, refusal: &Refusal) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(refusal.at_ms).max(0).cast_unsigned())
    }

    fn is_fresh(&self, refusal: &Refusal) -> bool {
        self.age(refusal) < REMEMBERED_FOR
    }

    /// The pool has no capacity now.
    pub fn refused(&self, pool: PoolKey, code: &str) {
        self.note(pool, PoolSign::Refused { code: code.to_owned() }, Duration::ZERO);
    }

    fn note(&self, pool: PoolKey, sign: PoolSign, ago: Duration) {
        let at_ms = self.now_ms().saturating_sub_unsigned(ago.as_millis() as u64);
        let mut refusals = self.refusals();
        refusals.retain(|_, refusal| self.is_fresh(refusal));
        refusals.insert(pool, Refusal { sign, at_ms });
    }

    /// The pool has served.
    pub fn served(&self, pool: &PoolKey) {
        self.refusals().remove(pool);
    }

    /// Why the pool is not asked now; `None` when nothing is known against it.
    #[must_use]
    pub fn recall(&self, pool: &PoolKey) -> Option<NotAsked> {
        let refusals = self.refusals();
        let refusal = refusals.get(pool).filter(|refusal| self.is_fresh(refusal))?;
        let ago_s = self.age(refusal).as_secs();
        Some(NotAsked::Remembered {
            sign: refusal.sign.clone(),
            ago_s,
            again_in_s: REMEMBERED_FOR.as_secs().saturating_sub(ago_s),
        })
    }

    /// Takes from an interruption warning what it says of the pool. What cannot be read is passed over: it is
    /// only a hint.
    pub async fn on_signal(&self, engine: &Engine<Perennial>, node: &NodeName, signal: &Signal) {
        if !matches!(signal.news, News::SpotInterruption { .. }) {
            return;
        }
        match pool_of(engine, node, signal).await {
            Ok(Some(pool)) => {
                // How long ago it was sent is a matter of wall time.
                let ago = Duration::from_millis(self.clock.now_ms().saturating_sub(signal.at_ms));
                self.note(pool, PoolSign::Interrupted, ago);
            }
            Ok(None) => {}
            Err(error) => debug!(%node, %error, "the pool of an instance that is warned cannot be found"),
        }
    }
}

/// The pool an instance of a node came from.
async fn pool_of(
    engine: &Engine<Perennial>,
    node: &NodeName,
    signal: &Signal,
) -> Result<Option<PoolKey>, ExecuteError<Rejection>> {
    let (state, _) = engine.load(&node_stream(node)).await?;
    let State::Node(state) = state.as_ref() else { return Ok(None) };
    if let Some(pool) = carried_by(state, signal) {
        return Ok(Some(pool));
    }
    let Some((open, _)) = &state.open else { return Ok(None) };
    Ok(match engine.load(&open.stream()).await?.0.as_ref() {
        State::Operation(Some(operation)) => launched_in(operation, signal),
        _ => None,
    })
}

/// The pool of the instance that carries the node, if the signal is about it.
fn carried_by(node: &Node, signal: &Signal) -> Option<PoolKey> {
    let carrier = node.resources.carrier.as_ref().filter(|carrier| carrier.instance == signal.instance)?;
    let placement = node.resources.placement.as_ref()?;
    let subnet = node.resources.subnet.as_ref();
    let zone = subnet.and_then(|subnet| placement.other_zones.get(subnet)).unwrap_or(&placement.zone);
    Some(PoolKey { instance_type: carrier.instance_type.clone(), zone: zone.clone(), market: carrier.market })
}

/// The pool of an instance that the operation launched.
fn launched_in(operation: &Operation, signal: &Signal) -> Option<PoolKey> {
    operation.steps.values().find_map(|record| match (record.intent.as_ref(), &record.outcome) {
        (intent, Some((Evidence::Launched { instance, .. }, _))) if *instance == signal.instance => {
            PoolKey::of(intent)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use perennial_workflows::model::aws::Market;

    use super::*;

    fn pool(instance_type: &str) -> PoolKey {
        let zone = "us-east-1a".to_owned();
        PoolKey { instance_type: instance_type.to_owned(), zone, market: Market::Spot }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_for_three_minutes_and_forgotten_when_the_pool_serves() {
        let clock = Clock::scaled(1_000_000, 1.0);
        let refusals = CapacityRefusals::new(clock.clone());
        refusals.refused(pool("m6i.large"), "InsufficientInstanceCapacity");
        assert_eq!(refusals.recall(&pool("m5.large")), None);
        clock.sleep(Duration::from_secs(42)).await;
        assert_eq!(
            refusals.recall(&pool("m6i.large")).unwrap().to_string(),
            "skipped: InsufficientInstanceCapacity 42 s ago"
        );
        clock.sleep(Duration::from_secs(138)).await;
        assert_eq!(refusals.recall(&pool("m6i.large")), None);
        refusals.refused(pool("m6i.large"), "InsufficientInstanceCapacity");
        refusals.served(&pool("m6i.large"));
        assert_eq!(refusals.recall(&pool("m6i.large")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_heard_long_ago_is_not_remembered() {
        let clock = Clock::scaled(1_000_000, 1.0);
        let refusals = CapacityRefusals::new(clock);
        refusals.note(pool("m6i.large"), PoolSign::Interrupted, Duration::from_secs(180));
        assert_eq!(refusals.recall(&pool("m6i.large")), None);
    }
}
