//! The section `signals` of a node file: the reaction to a signal, where the operator has a choice.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The reaction to signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalsSpec {
    /// The reaction to a rebalance recommendation: EC2 sees an elevated risk of an interruption.
    #[serde(default)]
    pub rebalance: RebalancePolicy,
    /// The reaction to failing status checks.
    #[serde(default, skip_serializing_if = "is_default_policy")]
    pub impaired: ImpairedPolicy,
    /// How long status checks must have failed, in seconds.
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

/// How long status checks must have failed if the file does not say, in seconds. A reboot fails them for a
/// minute or two.
pub const IMPAIRED_AFTER_S: u32 = 300;

/// The shortest such time. EC2 checks once a minute, and Karpenter acts after two failed checks.
pub const IMPAIRED_AFTER_S_MIN: u32 = 120;

/// The longest such time. A whole day has the same effect as `note`.
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

/// The reaction to failing status checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImpairedPolicy {
    /// The failure is noted.
    Note,
    /// The node is replaced when the system check or the instance check fails, unless its instance has
    /// carried it for less than `capacity.min_lifetime_min`. A root that does not boot fails on every
    /// instance.
    #[default]
    Move,
}

/// The reaction to a rebalance recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebalancePolicy {
    /// The recommendation is noted.
    Ignore,
    /// The recommendation is noted. With a section `backup` a backup is taken at once.
    #[default]
    Prepare,
    /// The node is replaced, unless `capacity.min_lifetime_min` or `maintenance_windows` forbid a move at
    /// this time.
    Move,
}
