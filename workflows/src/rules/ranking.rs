//! Ranks capacity pools: which types meet the requirements, which are rejected and why, and in which order
//! the rest is tried.

use std::collections::BTreeMap;

use crate::model::aws::Market;
use crate::model::requirements::{CapacityOrder, Requirements, SCORED_TYPES_MIN, fits};
use crate::model::survey::{Looked, PassedOver, Place, Question, Ranked, Survey, TypeFacts};

/// How many found types are considered: the smallest first. AWS's advice for spot is ten types; the whole
/// catalogue has many hundred.
pub const CONSIDERED_MAX: usize = 100;

/// How many found types are asked on one market of one subnet, after those of the list. A longer ladder only
/// delays the on-demand pools.
pub const FOUND_MAX: usize = 20;

/// How many pools a survey keeps in all; the node's own subnet comes first. Twenty kilobytes of an event.
pub const RANKED_MAX: usize = 200;

/// The types to consider, in order of preference before prices are known: the listed ones, then the found
/// ones, the smallest first. The reasons against the others are noted.
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

/// Why a type does not meet the file's requirements.
pub(crate) fn unfit(question: &Question, wanted: &Requirements, facts: &TypeFacts) -> Option<String> {
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
    // A million dollars an hour is above every price, and well within the exact range of the product.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be between 0 and 10^12"
    )]
    (0.0..1_000_000.0).contains(&price).then(|| (price * 1_000_000.0).round() as u64)
}

/// The pools to ask, in order, and the reasons against the others.
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
    order_places(question, looked, &mut stretches);
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

/// Puts the places after the first, which is the node's home, in the order of the file.
fn order_places(question: &Question, looked: &Looked, stretches: &mut [(Place, Vec<Vec<Ranked>>)]) {
    if let Some((_, others)) = stretches.split_first_mut() {
        others.sort_by_key(|(place, rungs)| match question.order {
            CapacityOrder::Listed => 0,
            CapacityOrder::Price => rungs.iter().flatten().map(cost_of).min().unwrap_or(u64::MAX),
            CapacityOrder::Score => {
                looked.scores.get(&place.zone).map_or(u64::MAX, |score| u64::from(u8::MAX - score))
            }
        });
    }
}

/// The cost of an unknown price: more than every known one.
fn cost_of(ranked: &Ranked) -> u64 {
    ranked.price.as_deref().and_then(micro_dollars).unwrap_or(u64::MAX)
}

/// The pools of one market of one subnet, in order.
fn ranked(question: &Question, rung: Vec<Ranked>, notes: &mut Vec<String>) -> Vec<Ranked> {
    let is_listed = |ranked: &Ranked| question.instance_types.contains(&ranked.instance_type);
    let (listed, mut found): (Vec<Ranked>, Vec<Ranked>) = rung.into_iter().partition(is_listed);
    // A stable sort: pools of equal cost, or of unknown price, keep their order.
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
