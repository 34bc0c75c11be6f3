//! The UEFI variables of a node: boot entries and Secure Boot keys. They are the instance's, not the root volume's, so they end
//! with it; an image that is registered of the root gets them (EC2 API reference, GetInstanceUefiData and RegisterImage).
//!
//! They are read while the old instance lives, by the step that preserves it, where the node's image boots by UEFI. What was read
//! last stays with the node, for a loss without a warning. What cannot be read holds nothing up: the history says so.
//! With `adopt` the new instance has those of the node's image. A root that begins anew begins without those of the one before, and
//! those of a deleted node end with its root.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most that is kept, in characters of base64: EC2 takes no more (API reference, RegisterImage: `UefiData`).
pub const UEFI_DATA_MAX: usize = 64_000;

/// The UEFI variables of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UefiVariables {
    /// These; none where it has none of its own.
    Read {
        /// In base64, as EC2 says and takes them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<String>,
    },
    /// They could not be read.
    Unread {
        /// Why.
        because: String,
    },
}

impl UefiVariables {
    /// What EC2 said of them.
    #[must_use]
    pub fn read(data: Option<String>) -> Self {
        match data {
            Some(data) if data.len() > UEFI_DATA_MAX => {
                Self::Unread { because: format!("{} characters; at most {UEFI_DATA_MAX}", data.len()) }
            }
            data => Self::Read { data },
        }
    }
}
