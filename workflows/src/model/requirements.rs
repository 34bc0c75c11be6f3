//! Instance types by their properties (`capacity.requirements`): the data, and whether a type fits.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// With fewer types a placement score is always low, and has no meaning (EC2 API reference,
/// GetSpotPlacementScores).
pub const SCORED_TYPES_MIN: usize = 3;

/// A number from `min` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// At least.
    pub min: u32,
    /// At most; none means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

impl Range {
    /// Whether a number is in it.
    #[must_use]
    pub fn admits(&self, n: u32) -> bool {
        n >= self.min && self.max.is_none_or(|max| n <= max)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            Some(max) if max == self.min => write!(f, "{max}"),
            Some(max) => write!(f, "{} to {max}", self.min),
            None => write!(f, "{} or more", self.min),
        }
    }
}

/// The architecture of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "EC2's words")]
pub enum Architecture {
    #[serde(rename = "x86_64")]
    X86_64,
    #[serde(rename = "arm64")]
    Arm64,
}

impl Architecture {
    /// As EC2 writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Requirements for an instance type. Only types of the current generation and of the image's architecture
/// are considered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    /// Virtual processors.
    pub vcpus: Range,
    /// Memory.
    pub memory_gib: Range,
    /// Graphics processors; if absent, only types without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Range>,
    /// Must be the image's, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Only these families, such as `m6i` or `m6*`; none means every family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub families: Vec<String>,
    /// Excludes these types, such as `m6a.*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub exclude: Vec<String>,
    /// Whether burstable types (`t3`…) are considered as well: they are throttled when their credits are
    /// spent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub burstable: bool,
    /// Whether bare metal types are considered as well: they take many minutes to start and to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bare_metal: bool,
}

/// The order in which pools of one market are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CapacityOrder {
    /// As the file lists the types; found types follow, the cheapest first.
    Listed,
    /// The cheapest on the spot market first; the same for other subnets. Unknown prices come last.
    Price,
    /// Other subnets by the placement score of their zones, the highest first; types as with `listed`.
    Score,
}

impl fmt::Display for CapacityOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Listed => "listed",
            Self::Price => "price",
            Self::Score => "score",
        })
    }
}

/// Whether a pattern, in which `*` stands for any text, fits a name.
#[must_use]
pub fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            let Some(at) = rest.find(middle) else { return false };
            rest = &rest[at + middle.len()..];
        }
    }
    last.map_or(rest.is_empty(), |tail| rest.ends_with(tail))
}
