//! Instance types and spot prices. A type's size follows from its name; nothing here is AWS's price list.

use std::collections::BTreeSet;

use perennial_workers::port::TypeQuery;
use perennial_workflows::model::aws::Market;
use perennial_workflows::model::boot::Boots;
use perennial_workflows::model::survey::TypeFacts;

use super::settings::Capacity;
use super::{ApiError, World, instance_types};

/// The types that are listed when a call names none. All others of EC2's exist as well.
pub const TYPES: [&str; 31] = [
    "c5.large",
    "c5.metal",
    "c5.xlarge",
    "c6i.large",
    "c6i.xlarge",
    "c7g.large",
    "c7g.xlarge",
    "g4dn.xlarge",
    "g5.12xlarge",
    "g5.xlarge",
    "g5g.xlarge",
    "g6.xlarge",
    "i4i.large",
    "m4.large",
    "m5.large",
    "m5.xlarge",
    "m6a.large",
    "m6i.large",
    "m6i.xlarge",
    "m6i.2xlarge",
    "m7g.large",
    "m7i.large",
    "p4d.24xlarge",
    "r5.large",
    "r6i.large",
    "r6i.xlarge",
    "r7g.large",
    "t3.micro",
    "t3.small",
    "t3.medium",
    "t4g.micro",
];

/// With fewer types the placement score is always low (EC2 API reference, GetSpotPlacementScores).
pub const SCORED_TYPES_MIN: usize = 3;

/// Prices change this often.
const PRICE_STEP_MS: u64 = 3_600_000;

/// The properties that follow from a type's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// `x86_64` or `arm64`.
    pub architecture: &'static str,
    /// Its graphics processors.
    pub gpu: Option<Gpu>,
}

/// The graphics processors of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Such as `A10G`.
    pub name: &'static str,
    /// How many.
    pub count: u32,
    /// Memory of each.
    pub memory_mib: u32,
}

impl Shape {
    /// The shape of a type such as `m6i.2xlarge`, or nothing when EC2 has no such type. Processors and memory
    /// follow from the size: those of the first generations, of bare metal and of families with a ratio of
    /// their own are near what EC2 has.
    #[must_use]
    pub fn of(instance_type: &str) -> Option<Self> {
        let (family, size) = instance_type.split_once('.')?;
        if !instance_types::exists(family, size) {
            return None;
        }
        let letters: &str = &family[..family.find(|c: char| !c.is_ascii_lowercase())?];
        let variant = family[letters.len()..].trim_start_matches(|c: char| c.is_ascii_digit());
        let mib_per_vcpu = match letters {
            "a" | "c" | "cc" | "inf" | "hpc" => 2_048,
            "r" | "i" | "d" | "h" | "z" | "p" | "dl" | "is" | "im" | "cr" | "gr" | "hi" | "hs" => 8_192,
            "x" | "u" => 16_384,
            _ => 4_096,
        };
        let burstable = letters == "t" && family != "t1";
        let (vcpus, memory_mib) = match size {
            "nano" if burstable => (2, 512),
            "micro" if burstable => (2, 1_024),
            "small" if burstable => (2, 2_048),
            "medium" if burstable => (2, 4_096),
            "large" if burstable => (2, 8_192),
            "micro" => (1, 627),
            "small" => (1, 1_740),
            "medium" => (1, mib_per_vcpu),
            "large" => (2, 2 * mib_per_vcpu),
            "xlarge" => (4, 4 * mib_per_vcpu),
            "metal" => (96, 96 * mib_per_vcpu),
            other => {
                let metal = other.strip_prefix("metal-").and_then(|size| size.strip_suffix("xl"));
                let times: u32 = metal.or_else(|| other.strip_suffix("xlarge"))?.parse().ok()?;
                (4 * times, 4 * times * mib_per_vcpu)
            }
        };
        let arm = variant.starts_with('g')
            && matches!(letters, "t" | "m" | "c" | "r" | "x" | "i" | "im" | "is" | "hpc" | "g")
            || matches!(family, "a1" | "p6e-gb200");
        let architecture = match letters {
            "mac" if family == "mac1" => "x86_64_mac",
            "mac" => "arm64_mac",
            _ if arm => "arm64",
            _ => "x86_64",
        };
        let gpu = match family {
            "g4dn" => Some(("T4", 16_384)),
            "g5" => Some(("A10G", 24_576)),
            "g5g" => Some(("T4g", 16_384)),
            "g6" => Some(("L4", 24_576)),
            "p3" => Some(("V100", 16_384)),
            "p4d" => Some(("A100", 40_960)),
            "p5" => Some(("H100", 81_920)),
            _ => None,
        };
        // As the families' largest sizes have them: four from 48 processors on, eight from 96.
        let count = match vcpus {
            96.. => 8,
            48.. => 4,
            _ => 1,
        };
        let gpu = gpu.map(|(name, memory_mib)| Gpu { name, count, memory_mib });
        Some(Self { vcpus, memory_mib, architecture, gpu })
    }
}

/// The facts of a type, as the port gives them. Previous generations are those with a number less than five,
/// burstable types apart.
#[must_use]
pub fn facts(name: &str) -> Option<TypeFacts> {
    let shape = Shape::of(name)?;
    Some(TypeFacts {
        name: name.to_owned(),
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        gpus: shape.gpu.map_or(0, |gpu| gpu.count),
        architectures: vec![shape.architecture.to_owned()],
        burstable: name.starts_with('t'),
        bare_metal: name.ends_with(".metal"),
        current: is_current(name),
        on_spot: true,
        on_demand: true,
        boots: boots(name, shape.architecture),
    })
}

/// How types boot: previous generations on Xen, in BIOS and without ENA being required; all others as Nitro
/// does, Graviton with UEFI only.
fn boots(name: &str, architecture: &str) -> Boots {
    let is_xen = !is_current(name) || name.starts_with("t2.");
    let modes: &[&str] = match (is_xen, architecture) {
        (true, _) => &["legacy-bios"],
        (false, "arm64") => &["uefi"],
        (false, _) => &["legacy-bios", "uefi"],
    };
    Boots {
        modes: modes.iter().map(|mode| (*mode).to_owned()).collect(),
        requires_ena: !is_xen,
        lacks_tpm: is_xen || name.ends_with(".metal"),
    }
}

/// Whether a type is of a current generation.
#[must_use]
pub fn is_current(name: &str) -> bool {
    let generation = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let old = ["m", "c", "r"].iter().any(|family| name.strip_prefix(family) == Some(generation))
        && generation.starts_with(['1', '2', '3', '4']);
    let oldest =
        ["t1.", "i2.", "g2.", "cc2.", "cr1.", "hs1.", "hi1."].iter().any(|old| name.starts_with(old));
    !old && !oldest
}

/// One price of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// The type.
    pub instance_type: String,
    /// The zone.
    pub zone: String,
    /// Per hour, in millionths of a dollar.
    pub micro_dollars: u64,
    /// Since when.
    pub at_ms: u64,
}

impl Price {
    /// As EC2 writes it.
    #[must_use]
    pub fn dollars(&self) -> String {
        format!("{}.{:06}", self.micro_dollars / 1_000_000, self.micro_dollars % 1_000_000)
    }
}

impl World {
    /// Whether a pool exists; without capacity it still does.
    #[must_use]
    pub fn offers(&self, instance_type: &str, zone: &str) -> bool {
        Shape::of(instance_type).is_some()
            && [Market::Spot, Market::OnDemand].iter().any(|market| {
                let pool = (instance_type.to_owned(), zone.to_owned(), *market);
                self.capacity.get(&pool) != Some(&Capacity::Unsupported)
            })
    }

    /// DescribeInstanceTypes: the listed types, or some by name; a name that does not exist is missing.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_types(&mut self, now_ms: u64, query: &TypeQuery) -> Result<Vec<TypeFacts>, ApiError> {
        self.begin_read(now_ms, "DescribeInstanceTypes")?;
        Ok(match query {
            TypeQuery::Named(names) => names.iter().filter_map(|name| facts(name)).collect(),
            TypeQuery::Of(architecture) => {
                let all = TYPES.iter().filter_map(|name| facts(name));
                all.filter(|facts| facts.architectures.contains(architecture)).collect()
            }
        })
    }

    /// DescribeInstanceTypeOfferings of a zone: the listed types, and those whose capacity was ever set.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_offered(&mut self, now_ms: u64, zone: &str) -> Result<BTreeSet<String>, ApiError> {
        self.begin_read(now_ms, "DescribeInstanceTypeOfferings")?;
        let known = self.capacity.keys().map(|(name, _, _)| name.clone());
        let names = TYPES.iter().map(|name| (*name).to_owned()).chain(known);
        Ok(names.filter(|name| self.offers(name, zone)).collect())
    }

    /// Sets the spot price of a type in a zone from now on, in millionths of a dollar per hour.
    pub fn set_spot_price(&mut self, instance_type: &str, zone: &str, micro_dollars: u64) {
        self.prices_set.insert((instance_type.to_owned(), zone.to_owned()), micro_dollars);
    }

    /// Sets the placement score of a zone, independent of its capacity.
    pub fn set_placement_score(&mut self, zone: &str, score: u8) {
        self.scores_set.insert(zone.to_owned(), score);
    }

    /// DescribeSpotPriceHistory of one pool, newest first: made up, but the same for the same seed, different
    /// by type, zone and hour. Days of it exist, before the region's own beginning too.
    ///
    /// # Panics
    /// Never: prices of unknown types are empty.
    #[must_use]
    pub fn spot_prices(&self, instance_type: &str, zone: &str, since_ms: u64) -> Vec<Price> {
        let Some(shape) = Shape::of(instance_type) else { return Vec::new() };
        let newest = self.now_ms / PRICE_STEP_MS;
        let oldest = since_ms.max(self.now_ms.saturating_sub(PRICE_STEP_MS * 24)) / PRICE_STEP_MS;
        (oldest..=newest)
            .rev()
            .map(|hour| {
                let text = format!("{instance_type} {zone} {hour} {}", self.settings.seed);
                let chance = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
                });
                let base = u64::from(shape.vcpus) * 9_000 + u64::from(shape.memory_mib) * 2;
                let set = self.prices_set.get(&(instance_type.to_owned(), zone.to_owned()));
                let micro_dollars = set.copied().unwrap_or(base * (80 + chance % 41) / 100);
                Price {
                    instance_type: instance_type.to_owned(),
                    zone: zone.to_owned(),
                    micro_dollars,
                    at_ms: hour * PRICE_STEP_MS,
                }
            })
            .collect()
    }

    /// GetSpotPlacementScores of a zone, 1 to 10: how likely so many instances of any of the types would
    /// come.
    ///
    /// # Errors
    /// InvalidParameterValue for an unknown type.
    pub fn placement_score(&self, types: &[String], target: u32, zone: &str) -> Result<u8, ApiError> {
        let mut best = 1;
        for instance_type in types {
            if Shape::of(instance_type).is_none() {
                let message = format!("Invalid value '{instance_type}' for InstanceType.");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            let pool = (instance_type.clone(), zone.to_owned(), Market::Spot);
            best = best.max(match self.capacity.get(&pool) {
                None | Some(Capacity::Unlimited) => 9,
                Some(Capacity::Free(free)) if *free >= target => 7,
                Some(Capacity::Free(free)) if *free > 0 => 3,
                Some(Capacity::Free(_) | Capacity::Unsupported) => 1,
            });
        }
        Ok(self.scores_set.get(zone).copied().unwrap_or(best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_as_large_as_its_name_says() {
        for (name, expected) in [
            ("m5.large", Some((2, 8_192, "x86_64"))),
            ("m6i.2xlarge", Some((8, 32_768, "x86_64"))),
            ("c7g.xlarge", Some((4, 8_192, "arm64"))),
            ("t3.micro", Some((2, 1_024, "x86_64"))),
            ("g5g.xlarge", Some((4, 16_384, "arm64"))),
            ("g5.xlarge", Some((4, 16_384, "x86_64"))),
            ("m1.small", Some((1, 1_740, "x86_64"))),
            ("t1.micro", Some((1, 627, "x86_64"))),
            ("a1.medium", Some((1, 2_048, "arm64"))),
            ("u-6tb1.metal", Some((96, 96 * 16_384, "x86_64"))),
            ("c7i.metal-48xl", Some((192, 393_216, "x86_64"))),
            ("is4gen.medium", Some((1, 8_192, "arm64"))),
            ("mac2.metal", Some((96, 393_216, "arm64_mac"))),
            ("zz9.plural", None),
            // Of the right form, and no types of EC2's.
            ("m99.large", None),
            ("m5.3xlarge", None),
            ("c5.112xlarge", None),
            ("t3.4xlarge", None),
            ("p4d.large", None),
            ("m6i.metal-2xl", None),
            ("m5.micro", None),
            ("m5", None),
            ("", None),
            (".large", None),
        ] {
            let shape = Shape::of(name).map(|shape| (shape.vcpus, shape.memory_mib, shape.architecture));
            assert_eq!(shape, expected, "{name}");
        }
        assert!(TYPES.iter().all(|name| Shape::of(name).is_some()));
        let gpus = |name: &str| Shape::of(name).unwrap().gpu.map(|gpu| (gpu.name, gpu.count));
        assert_eq!(gpus("g5.xlarge"), Some(("A10G", 1)));
        assert_eq!(gpus("g5.12xlarge"), Some(("A10G", 4)));
        assert_eq!(gpus("p4d.24xlarge"), Some(("A100", 8)));
        assert_eq!(gpus("m5.24xlarge"), None);
    }

    #[test]
    fn the_port_is_told_what_a_type_is_like() {
        let like = |name: &str| {
            let facts = facts(name).unwrap();
            (facts.gpus, facts.burstable, facts.bare_metal, facts.current)
        };
        for (name, expected) in [
            ("m5.large", (0, false, false, true)),
            ("m4.large", (0, false, false, false)),
            ("t3.small", (0, true, false, true)),
            ("c5.metal", (0, false, true, true)),
            ("g4dn.xlarge", (1, false, false, true)),
            ("p4d.24xlarge", (8, false, false, true)),
        ] {
            assert_eq!(like(name), expected, "{name}");
        }
    }
}
