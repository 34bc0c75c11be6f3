//! What an instance type must be like, where a node file does not name its types; and in which order pools are asked.
//!
//! The types are found by the step `survey` ([`survey`](crate::survey)). Everything here is about the file alone.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{CapacitySpec, MarketPolicy, SpecError};

/// How many patterns a list may hold; as many as types may be named.
pub const PATTERNS_MAX: usize = 40;

/// The longest pattern; no instance type's name is longer.
const PATTERN_MAX: usize = 32;

/// With fewer types a placement score is always low, and says nothing (EC2 API reference, GetSpotPlacementScores).
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

/// What an instance type must be like. Only types of the current generation and of the image's architecture are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    /// Virtual processors.
    pub vcpus: Range,
    /// Memory.
    pub memory_gib: Range,
    /// Graphics processors; without it, types with none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Range>,
    /// Must be the image's, which is taken anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Only these families, such as `m6i` or `m6*`; none means every family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub families: Vec<String>,
    /// Not these types, such as `m6a.*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub exclude: Vec<String>,
    /// Whether burstable types (`t3`…) are taken as well: they are throttled when their credits are spent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub burstable: bool,
    /// Whether bare metal types are taken as well: they take many minutes to start and to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bare_metal: bool,
}

/// In which order pools of one market are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CapacityOrder {
    /// As the file lists the types; those that were found after them, the cheapest first.
    Listed,
    /// The cheapest on the spot market first; other subnets likewise. Unknown prices come last.
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

impl CapacitySpec {
    /// In which order pools are asked.
    #[must_use]
    pub fn order(&self) -> CapacityOrder {
        let unnamed =
            if self.instance_types.is_empty() { CapacityOrder::Price } else { CapacityOrder::Listed };
        self.order.unwrap_or(unnamed)
    }

    /// Whether the pools are found by a survey: a plain list needs none.
    #[must_use]
    pub fn is_surveyed(&self) -> bool {
        self.requirements.is_some()
            || self.price_max.is_some() && self.market != MarketPolicy::OnDemandOnly
            || self.order() != CapacityOrder::Listed
    }

    /// Checks requirements and order.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check_requirements(&self) -> Result<(), SpecError> {
        if let Some(wanted) = &self.requirements {
            wanted.check(&self.instance_types)?;
        }
        if self.price_max.is_some() && self.market == MarketPolicy::OnDemandOnly {
            return wrong(
                "price_max",
                "is a price on the spot market; with `market: on_demand_only` remove it",
            );
        }
        match self.order {
            None => {}
            Some(CapacityOrder::Listed) if self.instance_types.is_empty() => {
                return wrong("order", "`listed` needs `instance_types`; say `price` or `score`");
            }
            Some(CapacityOrder::Listed) => {}
            Some(order) if self.market == MarketPolicy::OnDemandOnly => {
                return wrong(
                    "order",
                    &format!("`{order}` is about the spot market; with `market: on_demand_only` remove it"),
                );
            }
            Some(CapacityOrder::Price)
                if self.requirements.is_none()
                    && self.instance_types.len() < 2
                    && self.other_subnets.len() < 2 =>
            {
                return wrong("order", "there is one type only, so there is nothing to order; remove it");
            }
            Some(CapacityOrder::Price) => {}
            Some(CapacityOrder::Score) if self.other_subnets.len() < 2 => {
                return wrong(
                    "order",
                    "`score` orders `other_subnets` by the scores of their zones; name two at least, or remove it",
                );
            }
            Some(CapacityOrder::Score)
                if self.requirements.is_none() && self.instance_types.len() < SCORED_TYPES_MIN =>
            {
                return wrong(
                    "order",
                    "with fewer than three types a placement score is always low and says nothing; name more, or remove it",
                );
            }
            Some(CapacityOrder::Score) => {}
        }
        Ok(())
    }
}

impl Requirements {
    fn check(&self, named: &[String]) -> Result<(), SpecError> {
        let ranges =
            [("vcpus", Some(self.vcpus)), ("memory_gib", Some(self.memory_gib)), ("gpus", self.gpus)];
        for (field, range) in ranges {
            let Some(range) = range else { continue };
            let field = format!("requirements.{field}");
            if range.max.is_some_and(|max| max < range.min) {
                return wrong(&format!("{field}.max"), "is less than `min`");
            }
            if range.min == 0 && (field != "requirements.gpus" || range.max == Some(0)) {
                let why = if field == "requirements.gpus" {
                    "none is what is taken without this field; remove it"
                } else {
                    "must be at least 1"
                };
                return wrong(&format!("{field}.min"), why);
            }
        }
        for (field, patterns) in [("families", &self.families), ("exclude", &self.exclude)] {
            if patterns.len() > PATTERNS_MAX {
                return wrong(&format!("requirements.{field}"), &format!("at most {PATTERNS_MAX} patterns"));
            }
            for (i, pattern) in patterns.iter().enumerate() {
                let field_of = format!("requirements.{field}[{i}]");
                let may_have_a_dot = field == "exclude";
                let is_shaped = !pattern.is_empty()
                    && pattern.len() <= PATTERN_MAX
                    && pattern.bytes().all(|b| {
                        b.is_ascii_lowercase()
                            || b.is_ascii_digit()
                            || matches!(b, b'-' | b'*')
                            || b == b'.' && may_have_a_dot
                    });
                if !is_shaped {
                    let like = if may_have_a_dot {
                        "a pattern of types such as \"m6a.*\""
                    } else {
                        "a pattern of families such as \"m6*\""
                    };
                    return wrong(&field_of, &format!("{pattern:?} is not {like}"));
                }
                if patterns[..i].contains(pattern) {
                    return wrong(&field_of, &format!("{pattern} stands there twice"));
                }
            }
        }
        for (i, pattern) in self.exclude.iter().enumerate() {
            if let Some(name) = named.iter().find(|name| fits(pattern, name)) {
                return wrong(
                    &format!("requirements.exclude[{i}]"),
                    &format!(
                        "{pattern} excludes {name}, which `instance_types` names; remove one of the two"
                    ),
                );
            }
        }
        Ok(())
    }
}

fn wrong(field: &str, why: &str) -> Result<(), SpecError> {
    Err(SpecError { field: format!("capacity.{field}"), why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{NetworkMode, NodeSpec, RootMode, ZoneChange, example};

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, fit) in [
            ("m6*", "m6i", true),
            ("m6*", "m6", true),
            ("m6*", "m5", false),
            ("m6i", "m6i", true),
            ("m6i", "m6id", false),
            ("*.metal", "c5.metal", true),
            ("*.metal", "c5.large", false),
            ("m*a.*large", "m6a.xlarge", true),
            ("m*a.*large", "m6i.xlarge", false),
            ("*a*a*", "aa", true),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    fn spec() -> NodeSpec {
        let mut spec = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
        spec.capacity.instance_types.clear();
        spec.capacity.requirements = Some(
            serde_json::from_str(r#"{"vcpus": {"min": 2, "max": 4}, "memory_gib": {"min": 8}}"#).unwrap(),
        );
        spec
    }

    fn wanted(spec: &mut NodeSpec) -> &mut Requirements {
        spec.capacity.requirements.as_mut().unwrap()
    }

    fn three_zones(spec: &mut NodeSpec) {
        spec.network.zone_change = ZoneChange::Allow;
        for id in ["subnet-b", "subnet-c"] {
            spec.capacity.other_subnets.push(crate::aws::SubnetId::parse(id).unwrap());
        }
    }

    #[test]
    fn types_may_be_found_by_requirements_alone_or_after_a_list() {
        let mut spec = spec();
        spec.check().unwrap();
        assert_eq!(spec.capacity.order(), CapacityOrder::Price);
        spec.capacity.instance_types.push("m6i.large".into());
        spec.check().unwrap();
        assert_eq!(spec.capacity.order(), CapacityOrder::Listed);
        for order in [CapacityOrder::Listed, CapacityOrder::Price] {
            spec.capacity.order = Some(order);
            spec.check().unwrap();
        }
        three_zones(&mut spec);
        spec.capacity.order = Some(CapacityOrder::Score);
        spec.check().unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<NodeSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn a_plain_list_needs_no_survey() {
        let mut spec = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
        assert!(!spec.capacity.is_surveyed());
        spec.capacity.price_max = Some("0.1".into());
        assert!(spec.capacity.is_surveyed());
        spec.capacity.price_max = None;
        spec.capacity.order = Some(CapacityOrder::Price);
        assert!(spec.capacity.is_surveyed());
    }

    #[test]
    fn what_has_no_effect_or_makes_no_sense_is_named() {
        let check = |change: fn(&mut NodeSpec), field: &str| {
            let mut spec = spec();
            change(&mut spec);
            assert_eq!(spec.check().unwrap_err().field, format!("capacity.{field}"));
        };
        check(|s| s.capacity.requirements = None, "instance_types");
        check(|s| wanted(s).vcpus.min = 0, "requirements.vcpus.min");
        check(|s| wanted(s).vcpus.max = Some(1), "requirements.vcpus.max");
        check(|s| wanted(s).memory_gib.min = 0, "requirements.memory_gib.min");
        check(|s| wanted(s).gpus = Some(Range { min: 0, max: Some(0) }), "requirements.gpus.min");
        check(|s| wanted(s).families = vec!["m6i.large".into()], "requirements.families[0]");
        check(|s| wanted(s).families = vec!["m6*".into(), "m6*".into()], "requirements.families[1]");
        check(|s| wanted(s).exclude = vec!["M6".into()], "requirements.exclude[0]");
        check(
            |s| {
                s.capacity.instance_types.push("m6a.large".into());
                wanted(s).exclude = vec!["m6a.*".into()];
            },
            "requirements.exclude[0]",
        );
        check(|s| s.capacity.order = Some(CapacityOrder::Listed), "order");
        check(|s| s.capacity.order = Some(CapacityOrder::Score), "order");
        check(
            |s| {
                s.capacity.market = MarketPolicy::OnDemandOnly;
                s.capacity.order = Some(CapacityOrder::Price);
            },
            "order",
        );
        check(
            |s| {
                s.capacity.market = MarketPolicy::OnDemandOnly;
                s.capacity.price_max = Some("0.1".into());
            },
            "price_max",
        );
        check(
            |s| {
                s.capacity.requirements = None;
                s.capacity.instance_types = vec!["m6i.large".into()];
                s.capacity.order = Some(CapacityOrder::Price);
            },
            "order",
        );
        check(
            |s| {
                s.capacity.requirements = None;
                s.capacity.instance_types = vec!["m6i.large".into(), "m5.large".into()];
                three_zones(s);
                s.capacity.order = Some(CapacityOrder::Score);
            },
            "order",
        );
    }
}
