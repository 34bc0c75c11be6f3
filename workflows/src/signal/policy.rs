//! The section `signals` of a node file: what is done about what is heard, where there is a choice.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done about what is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalsSpec {
    /// About a rebalance recommendation: EC2 sees an elevated risk that the instance is taken.
    #[serde(default)]
    pub rebalance: RebalancePolicy,
}

/// What is done about a rebalance recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebalancePolicy {
    /// It is noted.
    Ignore,
    /// It is noted, and with a section `backup` a backup is taken at once.
    #[default]
    Prepare,
    /// The node is replaced, unless `capacity.min_lifetime_min` or `maintenance_windows` say that it may not be moved now.
    Move,
}
