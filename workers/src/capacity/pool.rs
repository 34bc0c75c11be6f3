//! What capacity is counted by.

use perennial_workflows::model::aws::Market;
use perennial_workflows::step::intent::{Intent, Launch};

/// A capacity pool: a subnet makes no difference within its zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolKey {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// The availability zone.
    pub zone: String,
    /// Spot or on-demand.
    pub market: Market,
}

impl PoolKey {
    /// The pool that a launch asks; `None` for another step.
    #[must_use]
    pub fn of(intent: &Intent) -> Option<Self> {
        match intent {
            Intent::Launch(launch) => Some(Self::of_launch(launch)),
            _ => None,
        }
    }

    /// The pool that a launch asks.
    #[must_use]
    pub fn of_launch(launch: &Launch) -> Self {
        let Launch { pool, zone, .. } = launch;
        Self { instance_type: pool.instance_type.clone(), zone: zone.clone(), market: pool.market }
    }
}
