//! What of a launch a launch template says.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::LaunchTemplateId;

/// One version of a launch template (`LaunchTemplate` of RunInstances). The version is a number: `$Latest`
/// and `$Default` would change under a launch that is repeated with its client token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaunchTemplate {
    /// Its id.
    pub id: LaunchTemplateId,
    /// The number of its version, from 1.
    #[schemars(range(min = 1))]
    pub version: u32,
}

impl fmt::Display for LaunchTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.id, self.version)
    }
}
