//! # The survey: the available pools, their prices, and the choice among them
//!
//! A node file may state requirements for instance types instead of naming types, the order of pools, and the
//! maximum price. Then an operation begins with a look at the region:
//!
//! ```text
//!   the file, the image's architecture, the zones ─► Question
//!   types, what each zone offers, prices, scores ──► Looked ─┐
//!                                          Question ─────────┴─ resolve ─► Survey: ranked, rejected
//! ```
//!
//! `rules::ranking::resolve` is a pure function; the step only looks. A file that just lists its types causes
//! no call at all.
//!
//! - The survey is due at once, in parallel with the release half.
//!   - Why: it takes a second, and the launch waits for no other preparation.
//! - With an earlier survey, or a list, the launch waits [`PATIENCE_MS`] at most.
//!   - Why: prices and scores are hints. A failed hint is recorded and delays nothing.
//! - Without either, the launch waits for the survey.
//!   - Why: no pool to launch in is known.
//! - If nothing fits or the calls are not allowed, and no pool is known, the workflow is stuck and says what
//!   is missing.
//!   - Why: repeating would not help.
//! - After a round of the ladder that found no capacity, the survey is repeated.
//!   - Why: prices move; a pool that was too expensive may not be any more.
//! - A spot pool that costs more than `price_max` now is not asked. If it is the only pool, the node waits
//!   and looks again.
//!   - Why: the launch would be refused, or would wait.
//! - A type that cannot boot the image (boot mode, ENA, NitroTPM) is passed over.
//!   - Why: EC2 would refuse the launch, and only then.
//! - On-demand pools come in the order of the list, then the smallest first.
//!   - Why: another service (the Pricing API) reports their prices, and a type's spot price says nothing
//!     about them.
//! - On-demand pools are not subject to `price_max`.
//!   - Why: `market` and `on_demand` limit the use of on-demand.
//! - The subnet the node lives in comes first, whatever the others cost.
//!   - Why: a move to another zone costs snapshots and the address.
//! - While no pool is known, the old instance is not taken away.
//!   - Why: it still carries the node.
//!
//! The ranked pools stay with the node's resources: the next operation uses them when its own survey is late.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{Market, SubnetId};
use crate::model::boot::{Boots, Needs};
use crate::model::capacity::{MarketPolicy, markets};
use crate::model::requirements::{CapacityOrder, Requirements, SCORED_TYPES_MIN};

/// How long a launch waits for a survey it could do without. A look at prices takes under a second; the
/// region's whole catalogue, once a day, about three.
pub const PATIENCE_MS: u64 = 6_000;

/// How many rejected pools a survey names; it gives only the number of the others.
pub const REJECTED_MAX: usize = 40;

/// How many pools of a survey a history names.
pub(crate) const TOLD_MAX: usize = 12;

/// EC2's description of an instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFacts {
    /// Such as `m6i.large`.
    pub name: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Graphics processors.
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
    /// The images it can boot.
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

/// The question that a survey answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The architecture of the node's image.
    pub architecture: String,
    /// Further needs of the image.
    #[serde(default, skip_serializing_if = "Needs::is_nothing")]
    pub image: Needs,
    /// The types the file lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instance_types: Vec<String>,
    /// Requirements for further types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
    /// The order of the pools.
    pub order: CapacityOrder,
    /// The markets.
    pub market: MarketPolicy,
    /// The maximum price on the spot market.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_max: Option<String>,
    /// The subnets: the one the node lives in, then the others as the file lists them.
    pub places: Vec<Place>,
    /// Whether the launch needs the survey: there is neither an earlier survey nor a list of types.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needed: bool,
}

/// The observations of the region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Looked {
    /// The types; `None` when they could not be looked up, and the listed ones are used unchecked.
    pub types: Option<Vec<TypeFacts>>,
    /// The types that each zone offers; a missing zone could not be looked up.
    pub offered: BTreeMap<String, BTreeSet<String>>,
    /// Spot prices per hour, by zone and type.
    pub prices: BTreeMap<String, BTreeMap<String, String>>,
    /// Placement scores, 1 to 10, by zone.
    pub scores: BTreeMap<String, u8>,
    /// Failed look-ups, with the reasons.
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
    /// The subnet.
    pub subnet: SubnetId,
    /// Its price per hour on the spot market, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// The placement score of its zone, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
}

/// A pool, or a type, that is not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PassedOver {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// The market; none means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<Market>,
    /// The zone; none means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its price per hour on the spot market, if it is too expensive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// The reason.
    pub because: String,
}

/// The result of a survey.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// The pools that are asked, in order.
    pub pools: Vec<Ranked>,
    /// Pools that would fit but for one reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<PassedOver>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected_more: u32,
    /// How many types do not meet the file's requirements, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unfit: BTreeMap<String, u32>,
    /// Failed look-ups and omissions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The survey that a node uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The question.
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
    /// The number of pools.
    pub of: u32,
    /// The pool's price per hour on the spot market, if it was known.
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
    /// The rank in words.
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
    /// Whether lower prices would admit pools.
    #[must_use]
    pub fn is_too_expensive(&self) -> bool {
        self.pools.is_empty() && self.rejected.iter().any(|rejected| rejected.price.is_some())
    }

    /// The reasons against pools and types that are not asked, in words.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let unfit = self.unfit.iter().map(|(why, n)| format!("{n} types: {why}"));
        let mut reasons: Vec<String> = self.rejected.iter().map(ToString::to_string).chain(unfit).collect();
        if self.rejected_more > 0 {
            reasons.push(format!("{} more pools", self.rejected_more));
        }
        reasons
    }

    /// The result, in a line.
    #[must_use]
    pub fn in_words(&self) -> String {
        let rejected = self.rejected.len() + usize::try_from(self.rejected_more).unwrap_or(usize::MAX);
        let against = if rejected == 0 { String::new() } else { format!(", {rejected} passed over") };
        match self.pools.first() {
            Some(first) => format!("{} pools, first {first}{against}", self.pools.len()),
            None => format!("no pool{against}"),
        }
    }

    /// The reasons against pools that are not asked, a line each, for a history.
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

    /// The pools that are asked and the failed look-ups, for a history.
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

/// A plan's name for a type that is known only at run time.
pub const TO_BE_FOUND: &str = "a type that fits";
