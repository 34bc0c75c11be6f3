//! The identity of an installation: what tells its journal, and the resources made by it, from all others.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The tag that names the installation that made a resource.
pub const INSTALLATION_TAG: &str = "perennial:installation";

/// The account, the region and the owner that a journal belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The owner; it stands in every tag.
    pub owner: String,
    /// The account id. None where the endpoint does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The region, such as `eu-central-1`. None where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

impl Place {
    /// Whether nothing that both name differs. What one does not know is no difference.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        let agree = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        self.owner == other.owner
            && agree(&self.account, &other.account)
            && agree(&self.region, &other.region)
    }

    /// The same with what only the other one knows.
    #[must_use]
    pub fn completed_by(&self, other: &Self) -> Self {
        Self {
            owner: self.owner.clone(),
            account: self.account.clone().or_else(|| other.account.clone()),
            region: self.region.clone().or_else(|| other.region.clone()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        write!(
            f,
            "owner {}, account {}, region {}",
            self.owner,
            or_unknown(&self.account),
            or_unknown(&self.region)
        )
    }
}

/// What an operation takes of the identity into its tags and client tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The installation id.
    pub id: String,
    /// How often the journal was brought up to the world by `perennial journal adopt`. Client tokens of an
    /// earlier incarnation never come back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub incarnation: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}
