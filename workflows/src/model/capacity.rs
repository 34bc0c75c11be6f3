//! Where an instance can be launched: the market policy, and one capacity pool (type, market, subnet).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{Market, SubnetId};

/// The markets to use, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MarketPolicy {
    /// Spot only: without spot capacity the node waits.
    SpotOnly,
    /// Every type on the spot market first, then every type on demand.
    #[default]
    SpotThenOnDemand,
    /// On demand only.
    OnDemandOnly,
}

/// One capacity pool, a step of the capacity ladder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapacityPool {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Spot or on-demand.
    pub market: Market,
    /// The subnet, if not the one the node lives in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<SubnetId>,
}

impl fmt::Display for CapacityPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.instance_type, self.market)?;
        match &self.subnet {
            Some(subnet) => write!(f, " in {subnet}"),
            None => Ok(()),
        }
    }
}

/// The markets of a policy, in order.
#[must_use]
pub const fn markets(policy: MarketPolicy) -> &'static [Market] {
    match policy {
        MarketPolicy::SpotOnly => &[Market::Spot],
        MarketPolicy::SpotThenOnDemand => &[Market::Spot, Market::OnDemand],
        MarketPolicy::OnDemandOnly => &[Market::OnDemand],
    }
}
