//! The ways a root volume reaches the next instance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the root reaches the next instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootMethod {
    /// A new root from the node's image.
    Fresh,
    /// The same volume (CreateReplaceRootVolumeTask).
    Adopt,
    /// An image registered from a snapshot of it.
    Image,
    /// A clone of the volume (CopyVolumes) in its place.
    Clone,
}

impl std::fmt::Display for RootMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Fresh => "fresh",
            Self::Adopt => "adopt",
            Self::Image => "image",
            Self::Clone => "clone",
        })
    }
}
