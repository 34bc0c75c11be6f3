//! The section `signals` of a node file: what is done about what is heard, where there is a choice.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done about what is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalsSpec {
    /// About a rebalance recommendation: EC2 sees an elevated risk that the instance is taken.
    #[serde(default)]
    pub rebalance: RebalancePolicy,
    /// About status checks that fail.
    #[serde(default, skip_serializing_if = "is_default_policy")]
    pub impaired: ImpairedPolicy,
    /// For how long they must have failed, in seconds.
    #[serde(default = "impaired_after_s", skip_serializing_if = "is_default_time")]
    pub impaired_after_s: u32,
}

impl Default for SignalsSpec {
    fn default() -> Self {
        Self {
            rebalance: RebalancePolicy::default(),
            impaired: ImpairedPolicy::default(),
            impaired_after_s: impaired_after_s(),
        }
    }
}

/// How long status checks fail before that counts, without being told: a reboot fails them for a minute or two.
pub const IMPAIRED_AFTER_S: u32 = 300;

/// The least: EC2 looks once a minute, and Karpenter acts after two of them.
pub const IMPAIRED_AFTER_S_MIN: u32 = 120;

/// The longest: a day is as good as `note`.
pub const IMPAIRED_AFTER_S_MAX: u32 = 86_400;

const fn impaired_after_s() -> u32 {
    IMPAIRED_AFTER_S
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_default_time(after_s: &u32) -> bool {
    *after_s == IMPAIRED_AFTER_S
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_default_policy(policy: &ImpairedPolicy) -> bool {
    *policy == ImpairedPolicy::default()
}

/// What is done about status checks that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImpairedPolicy {
    /// It is noted.
    Note,
    /// The node is replaced when the check of the system or of the instance fails, unless its instance has carried it for less
    /// than `capacity.min_lifetime_min`: a root that does not start fails on every instance.
    #[default]
    Move,
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
