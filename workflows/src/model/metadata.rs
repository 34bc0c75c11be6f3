//! The instance metadata service, as instances are launched with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// EC2's limit of the hops of an answer (API reference, InstanceMetadataOptionsRequest).
pub const HOP_LIMIT_MAX: u8 = 64;

/// The options of the metadata service (`MetadataOptions` of RunInstances).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetadataOptions {
    /// Whether every request needs a session token (IMDSv2).
    #[serde(default)]
    pub http_tokens: HttpTokens,
    /// How many hops an answer to a token request may take, 1 to 64. None means as the image or the account
    /// says; a container in the guest needs 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub hop_limit: Option<u8>,
    /// Whether the guest can read the instance's tags there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub instance_tags: bool,
}

impl MetadataOptions {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a request to the metadata service needs a session token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpTokens {
    /// Every request needs one: a request that a server in the guest is tricked into has none.
    #[default]
    Required,
    /// Requests without one are answered as well (IMDSv1).
    Optional,
}

impl HttpTokens {
    /// EC2's word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
        }
    }
}
