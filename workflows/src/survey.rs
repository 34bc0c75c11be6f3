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
//! [`resolve`] is a pure function; the step only looks. A file that just lists its types makes no call at all.
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
use std::fmt::Write as _;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{Market, SubnetId};
use crate::bootable::{Boots, Needs};
use crate::capacity;
use crate::operation::{Due, Operation};
use crate::requirements::{CapacityOrder, Requirements, SCORED_TYPES_MIN, fits};
use crate::spec::{MarketPolicy, NodeSpec, Pool};
use crate::steps::{Evidence, Intent, Placement};

/// How long a launch waits for a survey it could do without. A look at prices takes under a second, the region's whole
/// catalogue, once a day, about three.
pub const PATIENCE_MS: u64 = 6_000;

/// How many types that were found are considered: the smallest first. AWS's advice for spot is ten types; the whole
/// catalogue has many hundred.
pub const CONSIDERED_MAX: usize = 100;

/// How many types that were found are asked on one market of one subnet, after those of the list. A longer ladder only delays
/// the on-demand rung.
pub const FOUND_MAX: usize = 20;

/// How many pools a survey keeps in all; the node's own subnet comes first. Twenty kilobytes of an event.
pub const RANKED_MAX: usize = 200;

/// How many rejected pools a survey names; of the others it says how many they are.
pub const REJECTED_MAX: usize = 40;

/// How many pools of a survey a history names.
const TOLD_MAX: usize = 12;

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
    fn is_sold(&self, market: Market) -> bool {
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

    fn reject(&mut self, rejected: PassedOver) {
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

    /// Whether it is what a file asks for.
    fn is_of(&self, spec: &NodeSpec) -> bool {
        let capacity = &spec.capacity;
        self.has_types_of(spec) && self.order == capacity.order() && self.price_max == capacity.price_max
    }

    fn has_types_of(&self, spec: &NodeSpec) -> bool {
        let capacity = &spec.capacity;
        self.instance_types == capacity.instance_types
            && self.requirements == capacity.requirements
            && self.market == capacity.market
    }

    fn markets(&self) -> &'static [Market] {
        markets(self.market)
    }
}

/// The markets of a policy, in order.
#[must_use]
pub const fn markets(policy: MarketPolicy) -> &'static [Market] {
    match policy {
        MarketPolicy::SpotOnly => &[Market::Spot],
        MarketPolicy::SpotThenOnDemand => &[Market::Spot, Market::OnDemand],
        MarketPolicy::OnDemandOnly => &[Market::OnDemand],
    }
}

impl Kept {
    /// Whether it answers what a file asks for now; its prices may be old, and it may not know every other subnet.
    #[must_use]
    pub fn answers(&self, spec: &NodeSpec, present: &SubnetId) -> bool {
        let knows = |subnet: &SubnetId| self.question.places.iter().any(|place| place.subnet == *subnet);
        spec.capacity.is_surveyed() && self.question.has_types_of(spec) && knows(present)
    }

    /// The pools, as seen from the subnet the node lives in.
    pub(crate) fn pools(&self, spec: &NodeSpec, present: &SubnetId) -> Vec<Pool> {
        let pool = |ranked: &Ranked| Pool {
            instance_type: ranked.instance_type.clone(),
            market: ranked.market,
            subnet: Some(&ranked.subnet).filter(|subnet| *subnet != present).cloned(),
        };
        let here = self.pools.iter().filter(|ranked| ranked.subnet == *present);
        let elsewhere = self.pools.iter().filter(|ranked| {
            ranked.subnet != *present && spec.subnets().any(|subnet| *subnet == ranked.subnet)
        });
        here.chain(elsewhere).map(pool).collect()
    }
}

/// The types that are considered, in order of preference before prices are known: the listed ones, then those that were found,
/// the smallest first. What is against the others is noted.
#[must_use]
pub fn candidates(question: &Question, types: Option<&[TypeFacts]>) -> (Vec<String>, Survey) {
    let mut noted = Survey::default();
    let by_name: BTreeMap<&str, &TypeFacts> =
        types.unwrap_or_default().iter().map(|facts| (facts.name.as_str(), facts)).collect();
    let mut names = Vec::new();
    for name in &question.instance_types {
        let because = match (types, by_name.get(name.as_str())) {
            (None, _) => None,
            (Some(_), None) => Some("there is no such type in this region".to_owned()),
            (Some(_), Some(facts)) => {
                wrong_architecture(question, facts).or_else(|| question.image.missing(&facts.boots))
            }
        };
        match because {
            None => names.push(name.clone()),
            Some(because) => noted.reject(PassedOver {
                instance_type: name.clone(),
                market: None,
                zone: None,
                price: None,
                because,
            }),
        }
    }
    let Some(wanted) = &question.requirements else { return (names, noted) };
    let mut found: Vec<&TypeFacts> = Vec::new();
    for facts in by_name.values().filter(|facts| !question.instance_types.contains(&facts.name)) {
        match unfit(question, wanted, facts) {
            None => found.push(facts),
            Some(why) => *noted.unfit.entry(why).or_default() += 1,
        }
    }
    found.sort_by_key(|facts| (facts.vcpus, facts.memory_mib, facts.name.clone()));
    if found.len() > CONSIDERED_MAX {
        let more = found.len() - CONSIDERED_MAX;
        noted.notes.push(format!("{more} larger types would do as well and were not considered"));
    }
    names.extend(found.into_iter().take(CONSIDERED_MAX).map(|facts| facts.name.clone()));
    (names, noted)
}

fn wrong_architecture(question: &Question, facts: &TypeFacts) -> Option<String> {
    let is_right = facts.architectures.contains(&question.architecture);
    (!is_right).then(|| {
        format!("it is {}, the image is {}", facts.architectures.join(" or "), question.architecture)
    })
}

/// Why a type is not as the file requires.
fn unfit(question: &Question, wanted: &Requirements, facts: &TypeFacts) -> Option<String> {
    let memory_gib = facts.memory_mib / 1_024;
    let too_much = wanted.memory_gib.max.is_some_and(|max| facts.memory_mib > max.saturating_mul(1_024));
    let family = facts.name.split('.').next().unwrap_or_default();
    if let Some(architecture) = wanted.architecture
        && architecture.name() != question.architecture
    {
        return Some(format!("the image is {}, the file requires {architecture}", question.architecture));
    }
    if !facts.architectures.contains(&question.architecture) {
        return Some(format!("not of the image's architecture, {}", question.architecture));
    }
    if let Some(why) = question.image.missing(&facts.boots) {
        return Some(why);
    }
    if !facts.current {
        return Some("of a previous generation".to_owned());
    }
    if facts.bare_metal && !wanted.bare_metal {
        return Some("bare metal".to_owned());
    }
    if facts.burstable && !wanted.burstable {
        return Some("burstable".to_owned());
    }
    if !wanted.families.is_empty() && !wanted.families.iter().any(|pattern| fits(pattern, family)) {
        return Some(format!("not of the families {}", wanted.families.join(", ")));
    }
    if let Some(pattern) = wanted.exclude.iter().find(|pattern| fits(pattern, &facts.name)) {
        return Some(format!("excluded by {pattern}"));
    }
    if !wanted.vcpus.admits(facts.vcpus) {
        return Some(format!("not {} vCPUs", wanted.vcpus));
    }
    if !wanted.memory_gib.admits(memory_gib) || too_much {
        return Some(format!("not {} GiB of memory", wanted.memory_gib));
    }
    match wanted.gpus {
        None if facts.gpus > 0 => Some("with GPUs, which are not asked for".to_owned()),
        Some(gpus) if !gpus.admits(facts.gpus) => Some(format!("not {gpus} GPUs")),
        None | Some(_) => None,
    }
}

/// A price in millionths of a dollar.
#[must_use]
pub fn micro_dollars(price: &str) -> Option<u64> {
    let price: f64 = price.parse().ok()?;
    // A million dollars an hour is beyond every price, and far within what the product can hold exactly.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be between 0 and 10^12"
    )]
    (0.0..1_000_000.0).contains(&price).then(|| (price * 1_000_000.0).round() as u64)
}

/// Which pools are asked, in order; and what is against the others.
#[must_use]
pub fn resolve(question: &Question, looked: &Looked) -> Survey {
    let (names, mut survey) = candidates(question, looked.types.as_deref());
    let by_name: BTreeMap<&str, &TypeFacts> =
        looked.types.iter().flatten().map(|facts| (facts.name.as_str(), facts)).collect();
    let max = question.price_max.as_deref().and_then(micro_dollars);
    let mut stretches: Vec<(Place, Vec<Vec<Ranked>>)> = Vec::new();
    for place in &question.places {
        let offered = looked.offered.get(&place.zone);
        let (here, missing): (Vec<&String>, Vec<&String>) =
            names.iter().partition(|name| offered.is_none_or(|offered| offered.contains(*name)));
        for name in missing {
            survey.reject(PassedOver {
                instance_type: name.clone(),
                market: None,
                zone: Some(place.zone.clone()),
                price: None,
                because: "not offered there".to_owned(),
            });
        }
        let mut rungs = Vec::new();
        for market in question.markets() {
            let mut rung = Vec::new();
            for name in &here {
                let price = (*market == Market::Spot)
                    .then(|| looked.prices.get(&place.zone).and_then(|prices| prices.get(*name)).cloned())
                    .flatten();
                let passed_over = |because: String| PassedOver {
                    instance_type: (*name).clone(),
                    market: Some(*market),
                    zone: Some(place.zone.clone()),
                    price: None,
                    because,
                };
                if by_name.get(name.as_str()).is_some_and(|facts| !facts.is_sold(*market)) {
                    survey.reject(passed_over("not sold there".to_owned()));
                    continue;
                }
                let cost = price.as_deref().and_then(micro_dollars);
                if let (Some(cost), Some(max), Some(price)) = (cost, max, &price)
                    && cost > max
                {
                    let at_most = question.price_max.as_deref().unwrap_or_default();
                    let because = format!("costs {price} an hour, at most {at_most} is paid");
                    survey.reject(PassedOver { price: Some(price.clone()), ..passed_over(because) });
                    continue;
                }
                rung.push(Ranked {
                    instance_type: (*name).clone(),
                    market: *market,
                    subnet: place.subnet.clone(),
                    price,
                    score: looked.scores.get(&place.zone).copied(),
                });
            }
            rungs.push(ranked(question, rung, &mut survey.notes));
        }
        stretches.push((place.clone(), rungs));
    }
    if let Some((_, others)) = stretches.split_first_mut() {
        others.sort_by_key(|(place, rungs)| match question.order {
            CapacityOrder::Listed => 0,
            CapacityOrder::Price => rungs.iter().flatten().map(cost_of).min().unwrap_or(u64::MAX),
            CapacityOrder::Score => {
                looked.scores.get(&place.zone).map_or(u64::MAX, |score| u64::from(u8::MAX - score))
            }
        });
    }
    survey.pools = stretches.into_iter().flat_map(|(_, rungs)| rungs.into_iter().flatten()).collect();
    if survey.pools.len() > RANKED_MAX {
        let more = survey.pools.len() - RANKED_MAX;
        survey.notes.push(format!("{more} pools after the first {RANKED_MAX} are left out"));
        survey.pools.truncate(RANKED_MAX);
    }
    if question.order == CapacityOrder::Score && !question.asks_for_scores(names.len()) {
        let few = SCORED_TYPES_MIN;
        survey
            .notes
            .push(format!("with fewer than {few} types a placement score says nothing: none was asked for"));
    }
    survey.notes.extend(looked.notes.iter().cloned());
    survey
}

/// What an unknown price counts as: more than every known one.
fn cost_of(ranked: &Ranked) -> u64 {
    ranked.price.as_deref().and_then(micro_dollars).unwrap_or(u64::MAX)
}

/// The pools of one market of one subnet, in order.
fn ranked(question: &Question, rung: Vec<Ranked>, notes: &mut Vec<String>) -> Vec<Ranked> {
    let is_listed = |ranked: &Ranked| question.instance_types.contains(&ranked.instance_type);
    let (listed, mut found): (Vec<Ranked>, Vec<Ranked>) = rung.into_iter().partition(is_listed);
    // A stable sort: what costs the same, or an unknown price, stays in the order it came in.
    found.sort_by_key(cost_of);
    if found.len() > FOUND_MAX {
        let note = format!(
            "of the types that were found, the first {FOUND_MAX} of each market and subnet are asked"
        );
        if !notes.contains(&note) {
            notes.push(note);
        }
        found.truncate(FOUND_MAX);
    }
    let mut rung = listed;
    rung.extend(found);
    match question.order {
        CapacityOrder::Price => rung.sort_by_key(cost_of),
        CapacityOrder::Listed | CapacityOrder::Score => {}
    }
    rung
}

/// Whether the launch waits for a survey: one is due for this round of the ladder.
pub(crate) fn is_awaited(op: &Operation) -> bool {
    op.order.spec.capacity.is_surveyed()
        && op.facts.candidate.is_none()
        && op.facts.surveyed != Some(op.facts.ladder.rounds)
}

/// The survey, when it is due.
pub(crate) fn due(op: &Operation, placement: &Placement) -> Option<Due> {
    is_awaited(op).then(|| Due {
        intent: Intent::Survey(question(op, placement)),
        not_before_ms: op.facts.ladder.not_before_ms,
    })
}

fn question(op: &Operation, placement: &Placement) -> Question {
    let (spec, present) = (&op.order.spec, &op.facts.subnet);
    let here = Place { subnet: present.clone(), zone: placement.zone.clone() };
    let others = spec.subnets().filter(|subnet| *subnet != present);
    let others = others.filter_map(|subnet| {
        let zone = placement.other_zones.get(subnet)?.clone();
        Some(Place { subnet: subnet.clone(), zone })
    });
    Question {
        architecture: placement.image.architecture.clone(),
        image: Needs::of(&placement.image),
        instance_types: spec.capacity.instance_types.clone(),
        requirements: spec.capacity.requirements.clone(),
        order: spec.capacity.order(),
        market: spec.capacity.market,
        price_max: spec.capacity.price_max.clone(),
        places: std::iter::once(here).chain(others).collect(),
        needed: spec.ladder(present, op.facts.survey.as_deref()).is_empty(),
    }
}

/// A survey is over.
pub(crate) fn learn(op: &mut Operation, question: &Question, evidence: &Evidence, at_ms: u64) {
    // Of a file that was corrected meanwhile: another one is due.
    if !question.is_of(&op.order.spec) {
        return;
    }
    op.facts.surveyed = Some(op.facts.ladder.rounds);
    forget_earlier(op);
    let Evidence::Surveyed(survey) = evidence else { return };
    // What is only too expensive now is looked at again; that nothing fits at all is no reason to forget what did.
    if survey.pools.is_empty() && !survey.is_too_expensive() {
        return;
    }
    let waited_for = capacity::pools(op).get(op.facts.ladder.next).map(|pool| pool.market);
    op.facts.survey = Some(Arc::new(Kept {
        question: question.clone(),
        at_ms,
        pools: survey.pools.clone(),
        rejected: survey.rejected.iter().take(TOLD_MAX).cloned().collect(),
    }));
    let pools = capacity::pools(op);
    // A round begins at its first pool, or at the on-demand pools it has waited for.
    let waits = op.facts.ladder.rounds > 0 && waited_for == Some(Market::OnDemand);
    let first = pools.iter().position(|pool| waits && pool.market == Market::OnDemand);
    op.facts.ladder.next = first.unwrap_or(0);
    if !capacity::has_pools(op) {
        capacity::pause(op, at_ms);
    }
}

/// Of the surveys of one operation the state remembers the last: a node may wait for capacity for days. The journal keeps all.
fn forget_earlier(op: &mut Operation) {
    let surveys = op.steps.values_mut().rev().filter_map(|record| match &mut record.outcome {
        Some((Evidence::Surveyed(survey), _)) => Some(survey),
        _ => None,
    });
    for survey in surveys.skip(1) {
        *survey = Survey::default();
    }
}

/// What is missing when no pool is known after a survey, and what a person must do.
pub(crate) fn missing(op: &Operation, evidence: &Evidence) -> Option<(String, String)> {
    let resume = format!("then: perennial workflow resume {}", op.id);
    if is_awaited(op) || capacity::has_pools(op) || capacity::gives_up(op).is_some() {
        return None;
    }
    match evidence {
        Evidence::Surveyed(survey) => {
            let mut because = "no instance type fits".to_owned();
            let reasons = survey.reasons();
            if !reasons.is_empty() {
                let _ = write!(because, " ({})", reasons.join("; "));
            }
            Some((
                because,
                format!("change `capacity.requirements` in the node file, `perennial node apply`, {resume}"),
            ))
        }
        Evidence::Refused { code, message } => Some((
            format!("the region's instance types cannot be looked at: {code}: {message}"),
            format!(
                "allow ec2:DescribeInstanceTypes and ec2:DescribeInstanceTypeOfferings, or name `capacity.instance_types`, {resume}"
            ),
        )),
        _ => None,
    }
}

/// The place of a pool among those of the survey the operation goes by.
pub(crate) fn rank(op: &Operation, pool: &Pool) -> Option<Rank> {
    let kept = op.facts.survey.as_deref()?;
    let subnet = pool.subnet.as_ref().unwrap_or(&op.facts.subnet);
    if !kept.answers(&op.order.spec, &op.facts.subnet) {
        return None;
    }
    let pools = capacity::pools(op);
    let place = pools.iter().position(|other| other == pool)?;
    let ranked = kept.pools.iter().find(|ranked| {
        ranked.instance_type == pool.instance_type && ranked.market == pool.market && ranked.subnet == *subnet
    })?;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Some(Rank { place: number(place + 1), of: number(pools.len()), price: ranked.price.clone() })
}

/// What a survey says when all is well, for a plan: the pools of the last one, those of the list, or one of a type that will
/// be found.
pub(crate) fn imagined(op: &Operation, question: &Question) -> Survey {
    let spec = &op.order.spec;
    if let Some(kept) = op.facts.survey.as_deref()
        && kept.answers(spec, &op.facts.subnet)
        && !kept.pools.is_empty()
    {
        return Survey { pools: kept.pools.clone(), ..Survey::default() };
    }
    let found = vec![TO_BE_FOUND.to_owned()];
    let names = if question.instance_types.is_empty() { &found } else { &question.instance_types };
    let mut pools = Vec::new();
    for place in &question.places {
        for market in question.markets() {
            pools.extend(names.iter().map(|name| Ranked {
                instance_type: name.clone(),
                market: *market,
                subnet: place.subnet.clone(),
                price: None,
                score: None,
            }));
        }
    }
    Survey { pools, ..Survey::default() }
}

/// What a plan calls a type that is only known at run time.
pub const TO_BE_FOUND: &str = "a type that fits";
