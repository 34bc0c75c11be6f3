//! Where an instance can be launched: the market policy, one capacity pool (type, market, subnet), and why a
//! pool was not asked.

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

/// How many nodes a refusal names.
const NAMED_MAX: usize = 5;

/// What spoke against a pool a moment ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolSign {
    /// It answered a launch with this code.
    Refused {
        /// EC2's code.
        code: String,
    },
    /// An instance that came from it got an interruption warning.
    Interrupted,
}

impl fmt::Display for PoolSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code } => f.write_str(code),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// Why a launch did not ask its pool: a decision of Perennial's, and no answer of EC2's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotAsked {
    /// Something spoke against the pool a moment ago.
    Remembered {
        /// What it was.
        sign: PoolSign,
        /// How long ago, in seconds.
        ago_s: u64,
        /// When the pool is asked again, in seconds from then.
        again_in_s: u64,
    },
    /// As many nodes are on demand as may be.
    OnDemandBudget {
        /// How many other nodes are on demand.
        others: usize,
        /// Some of them.
        named: Vec<String>,
        /// How many there may be.
        max: u32,
    },
}

impl NotAsked {
    /// The maximum number of nodes is on demand: these.
    #[must_use]
    pub fn on_demand_budget(mut nodes: Vec<String>, max: u32) -> Self {
        let others = nodes.len();
        nodes.truncate(NAMED_MAX);
        Self::OnDemandBudget { others, named: nodes, max }
    }
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remembered { sign, ago_s, .. } => write!(f, "skipped: {sign} {ago_s} s ago"),
            Self::OnDemandBudget { others, named, max } => {
                let more = if *others > named.len() { ", …" } else { "" };
                write!(
                    f,
                    "skipped: {others} other nodes are on demand, at most {max} may be ({}{more})",
                    named.join(", ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_pool_is_told_with_its_reason() {
        let remembered = |sign| NotAsked::Remembered { sign, ago_s: 1, again_in_s: 179 }.to_string();
        assert_eq!(remembered(PoolSign::Interrupted), "skipped: interrupted 1 s ago");
        let code = "InsufficientInstanceCapacity".to_owned();
        assert_eq!(remembered(PoolSign::Refused { code }), "skipped: InsufficientInstanceCapacity 1 s ago");
    }

    #[test]
    fn a_budget_names_some_of_the_nodes() {
        let of = |count: usize| {
            let nodes = (1..=count).map(|number| format!("n{number}")).collect();
            NotAsked::on_demand_budget(nodes, 2).to_string()
        };
        assert_eq!(of(2), "skipped: 2 other nodes are on demand, at most 2 may be (n1, n2)");
        assert_eq!(of(6), "skipped: 6 other nodes are on demand, at most 2 may be (n1, n2, n3, n4, n5, …)");
    }
}
