//! The UEFI variables of a node: boot entries and Secure Boot keys. They belong to the instance, not to the
//! root volume, so they end with it. An image that is registered from the root gets them (EC2 API reference,
//! GetInstanceUefiData and RegisterImage).
//!
//! The step that preserves the old instance reads them while it lives, if the node's image boots by UEFI. The
//! last read value stays with the node, for a loss without a warning. An unreadable value delays nothing: the
//! history reports it.
//!
//! With `adopt` the new instance has the variables of the node's image. A new root does not get the variables
//! of the previous root, and those of a deleted node are deleted with its root.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The maximum length, in characters of base64: EC2 accepts no more (API reference, RegisterImage:
/// `UefiData`).
pub const UEFI_DATA_MAX: usize = 64_000;

/// The UEFI variables of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UefiVariables {
    /// They were read; no data if the instance has none of its own.
    Read {
        /// In base64, as EC2 reports and accepts them.
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
    /// EC2's answer.
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
