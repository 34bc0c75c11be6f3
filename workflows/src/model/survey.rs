//! # The survey: which pools there are, what they cost, and which of them are asked
//!
//! A node file may say what an instance type must be like instead of naming types, in which order pools are asked, and what
//! the most is that is paid. Then an operation begins with a look at the region:
//!
//! ```text
//!   the file, the image's architecture, the zones ─► Question
//!   types, what each zone offers, prices, scores ──► Looked ─┐
//!                                          Question ─────────┴─ resolve ─► Survey: ranked pools, and what is against others
//! ```
//!
//! `rules::ranking::resolve` is a pure function; the step only looks. A file that just lists its types makes no call at all.
//!
//! | rule | why |
//! | --- | --- |
//! | it is due at once, beside everything of the release half | it takes a second, and the launch waits for nothing else |
//! | with an earlier survey, or a list, to go by, the launch waits [`PATIENCE_MS`] at most | prices and scores are hints: a hint that fails is recorded and holds nothing up |
//! | without either it waits for the survey | there is nothing to launch |
//! | when nothing fits, or the calls are not allowed, and nothing is known: stuck, with what is missing | no repeat would help |
//! | after a round of the ladder that found no capacity it is made again | prices move; a pool that was too expensive may not be |
//! | a spot pool that costs more than `price_max` now is not asked; without any other pool the node waits and looks again | the launch would be refused, or wait |
//! | a type that cannot boot the image (boot mode, ENA, NitroTPM) is passed over | EC2 would refuse the launch, and only then |
//! | on-demand pools come in the order of the list, then the smallest first | their prices are told by another service (the Pricing API); what a type costs on the spot market says nothing about them |
//! | on-demand pools are not subject to `price_max` | how far on-demand may go is said by `market` and `on_demand` |
//! | the subnet the node lives in comes first, whatever the others cost | a move to another zone costs snapshots and the address |
//! | while no pool is known, the old instance is not taken away | it still carries the node |
//!
//! The ranked pools stay with the node's resources: they are what the next operation goes by when its own survey is late.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{Market, SubnetId};
use crate::model::boot::{Boots, Needs};
use crate::model::capacity::{MarketPolicy, markets};
use crate::model::requirements::{CapacityOrder, Requirements, SCORED_TYPES_MIN};

/// How long a launch waits for a survey it could do without. A look at prices takes under a second, the region's whole
/// catalogue, once a day, about three.
pub const PATIENCE_MS: u64 = 6_000;

/// How many rejected pools a survey names; of the others it says how many they are.
pub const REJECTED_MAX: usize = 40;

/// How many pools of a survey a history names.
pub(crate) const TOLD_MAX: usize = 12;

/// What EC2 says of an instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFacts {
    /// Such as `m6i.large`.
    pub name: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// Graphics processors.
    pub gpus: u32,
    /// `x86_64`, `arm64`…
    pub architectures: Vec<String>,
    /// Whether it is throttled when its credits are spent.
    pub burstable: bool,
    /// Without a hypervisor.
    pub bare_metal: bool,
    /// Whether AWS still sells it as current.
    pub current: bool,
    /// Whether it is sold on the spot market.
    pub on_spot: bool,
    /// Whether it is sold on demand.
    pub on_demand: bool,
    /// Which images it can boot.
    pub boots: Boots,
}

impl TypeFacts {
    pub(crate) fn is_sold(&self, market: Market) -> bool {
        match market {
            Market::Spot => self.on_spot,
            Market::OnDemand => self.on_demand,
        }
    }
}

/// A subnet with its zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The subnet.
    pub subnet: SubnetId,
    /// Its availability zone.
    pub zone: String,
}

/// What a survey is to find out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Of the node's image.
    pub architecture: String,
    /// What else the image needs of a type.
    #[serde(default, skip_serializing_if = "Needs::is_nothing")]
    pub image: Needs,
    /// The types the file lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instance_types: Vec<String>,
    /// What further types must be like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
    /// In which order.
    pub order: CapacityOrder,
    /// Which markets.
    pub market: MarketPolicy,
    /// The most to pay on the spot market.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_max: Option<String>,
    /// Where: the subnet the node lives in, then the others as the file lists them.
    pub places: Vec<Place>,
    /// Whether the launch cannot do without: there is neither an earlier survey nor a list of types.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needed: bool,
}

/// What was seen of the region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Looked {
    /// The types; `None` when they could not be looked at, and the listed ones are taken as they are.
    pub types: Option<Vec<TypeFacts>>,
    /// What each zone offers; a zone that is missing could not be looked at.
    pub offered: BTreeMap<String, BTreeSet<String>>,
    /// By zone and type, per hour on the spot market.
    pub prices: BTreeMap<String, BTreeMap<String, String>>,
    /// By zone, 1 to 10.
    pub scores: BTreeMap<String, u8>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// A pool that may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ranked {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Spot or on-demand.
    pub market: Market,
    /// Where.
    pub subnet: SubnetId,
    /// What it costs per hour on the spot market, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// The placement score of its zone, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
}

/// A pool, or a type, that is not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PassedOver {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// On which market; none means on any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<Market>,
    /// In which zone; none means in any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it costs per hour on the spot market, if it is too expensive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Why.
    pub because: String,
}

/// What a survey found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// The pools that are asked, in order.
    pub pools: Vec<Ranked>,
    /// Pools that would do but for one reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<PassedOver>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected_more: u32,
    /// How many types are not as the file requires, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unfit: BTreeMap<String, u32>,
    /// What could not be looked at, and what was left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A survey that a node goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// What was asked.
    pub question: Question,
    /// When it was answered.
    pub at_ms: u64,
    /// The pools, in order.
    pub pools: Vec<Ranked>,
    /// The first pools that were passed over, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<PassedOver>,
}

/// A launch's place among the pools of a survey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rank {
    /// From 1.
    pub place: u32,
    /// Of so many.
    pub of: u32,
    /// What the pool cost per hour on the spot market, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
}

impl std::fmt::Display for Rank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} surveyed", self.place, self.of)?;
        match &self.price {
            Some(price) => write!(f, ", {price} an hour"),
            None => Ok(()),
        }
    }
}

impl Kept {
    /// What it said, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        let survey =
            Survey { pools: self.pools.clone(), rejected: self.rejected.clone(), ..Survey::default() };
        let asked = first_few(&survey.pools);
        if survey.rejected.is_empty() {
            asked
        } else {
            format!("{asked}. Passed over: {}", survey.rejections().join("; "))
        }
    }
}

/// The first pools by name, and how many more there are.
fn first_few(pools: &[Ranked]) -> String {
    let mut asked: Vec<String> = pools.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    if pools.len() > TOLD_MAX {
        asked.push(format!("{} more", pools.len() - TOLD_MAX));
    }
    asked.join(", ")
}

impl Survey {
    /// Whether there would be pools if they cost less.
    #[must_use]
    pub fn is_too_expensive(&self) -> bool {
        self.pools.is_empty() && self.rejected.iter().any(|rejected| rejected.price.is_some())
    }

    /// What is against the pools and types that are not asked, in words.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let unfit = self.unfit.iter().map(|(why, n)| format!("{n} types: {why}"));
        let mut reasons: Vec<String> = self.rejected.iter().map(ToString::to_string).chain(unfit).collect();
        if self.rejected_more > 0 {
            reasons.push(format!("{} more pools", self.rejected_more));
        }
        reasons
    }

    /// What it found, in a line.
    #[must_use]
    pub fn in_words(&self) -> String {
        let rejected = self.rejected.len() + usize::try_from(self.rejected_more).unwrap_or(usize::MAX);
        let against = if rejected == 0 { String::new() } else { format!(", {rejected} passed over") };
        match self.pools.first() {
            Some(first) => format!("{} pools, first {first}{against}", self.pools.len()),
            None => format!("no pool{against}"),
        }
    }

    /// What is against the pools that are not asked, a line each, for a history.
    #[must_use]
    pub fn rejections(&self) -> Vec<String> {
        let named = self.rejected.len().min(TOLD_MAX);
        let mut lines: Vec<String> = self.rejected[..named].iter().map(ToString::to_string).collect();
        let more = self.rejected.len() - named + usize::try_from(self.rejected_more).unwrap_or(0);
        if more > 0 {
            lines.push(format!("{more} more pools: `perennial workflow show --output json` names them"));
        }
        if !self.unfit.is_empty() {
            let unfit: Vec<String> = self.unfit.iter().map(|(why, n)| format!("{n} {why}")).collect();
            lines.push(format!("types that are not as required: {}", unfit.join("; ")));
        }
        lines
    }

    /// Which pools are asked, and what could not be looked at, for a history.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let pools =
            (!self.pools.is_empty()).then(|| format!("surveyed, in order: {}", first_few(&self.pools)));
        pools.into_iter().chain(self.notes.iter().map(|note| format!("survey: {note}"))).collect()
    }

    pub(crate) fn reject(&mut self, rejected: PassedOver) {
        if self.rejected.len() < REJECTED_MAX {
            self.rejected.push(rejected);
        } else {
            self.rejected_more += 1;
        }
    }
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.instance_type)?;
        if let Some(market) = self.market {
            write!(f, " {market}")?;
        }
        if let Some(zone) = &self.zone {
            write!(f, " in {zone}")?;
        }
        write!(f, ": {}", self.because)
    }
}

impl std::fmt::Display for Ranked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.instance_type, self.market)?;
        let known = [
            self.price.as_ref().map(|price| format!("{price} an hour")),
            self.score.map(|score| format!("score {score}")),
        ];
        let known: Vec<String> = known.into_iter().flatten().collect();
        if known.is_empty() { Ok(()) } else { write!(f, " ({})", known.join(", ")) }
    }
}

impl Question {
    /// Whether prices make a difference.
    #[must_use]
    pub fn asks_for_prices(&self) -> bool {
        self.market != MarketPolicy::OnDemandOnly
    }

    /// Whether scores make a difference, for so many types.
    #[must_use]
    pub fn asks_for_scores(&self, types: usize) -> bool {
        self.order == CapacityOrder::Score && types >= SCORED_TYPES_MIN
    }

    pub(crate) fn markets(&self) -> &'static [Market] {
        markets(self.market)
    }
}

/// What a plan calls a type that is only known at run time.
pub const TO_BE_FOUND: &str = "a type that fits";
