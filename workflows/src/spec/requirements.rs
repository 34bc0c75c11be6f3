//! The requirements for instance types, for a node file that does not name its types, and the order in which
//! capacity pools are asked.
//!
//! The step `survey` finds the types (`rules::survey`). This module is about the file alone.

use crate::model::capacity::MarketPolicy;
use crate::model::requirements::{CapacityOrder, Requirements, SCORED_TYPES_MIN, fits};
use crate::spec::error::SpecError;
use crate::spec::node::CapacitySpec;

/// How many patterns a list may hold: the same number as instance types.
pub const PATTERNS_MAX: usize = 40;

/// The longest pattern. No name of an instance type is longer.
pub const PATTERN_MAX: usize = 32;

impl CapacitySpec {
    /// The order in which pools are asked.
    #[must_use]
    pub fn order(&self) -> CapacityOrder {
        let unnamed =
            if self.instance_types.is_empty() { CapacityOrder::Price } else { CapacityOrder::Listed };
        self.order.unwrap_or(unnamed)
    }

    /// Whether a survey finds the pools. A plain list of types needs no survey.
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
    use crate::model::requirements::Range;
    use crate::spec::node::{NetworkMode, NodeSpec, RootMode, ZoneChange, example};

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
            spec.capacity.other_subnets.push(crate::model::aws::SubnetId::parse(id).unwrap());
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
