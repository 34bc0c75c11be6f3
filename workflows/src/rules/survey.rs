//! When the survey of capacity pools is due, what it asks, and what its answer changes.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::model::aws::Market;
use crate::model::boot::Needs;
use crate::model::capacity::CapacityPool;
use crate::model::image::Placement;
use crate::model::survey::{Kept, Place, Question, Rank, Ranked, Survey, TO_BE_FOUND, TOLD_MAX};
use crate::operation::state::{Due, Operation};
use crate::rules::capacity;
use crate::rules::capacity::is_awaited;
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

impl Question {
    /// Whether it is the question that a file asks.
    fn is_of(&self, spec: &NodeSpec) -> bool {
        let capacity = &spec.capacity;
        self.has_types_of(spec) && self.order == capacity.order() && self.price_max == capacity.price_max
    }
}

/// The survey, when it is due.
pub(crate) fn due(op: &Operation, placement: &Placement) -> Option<Due> {
    is_awaited(op).then(|| Due {
        intent: Intent::Survey(question(op, placement)),
        not_before_ms: op.facts.ladder.not_before_ms,
    })
}

pub(crate) fn question(op: &Operation, placement: &Placement) -> Question {
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
    // The file was corrected meanwhile: another survey is due.
    if !question.is_of(&op.order.spec) {
        return;
    }
    op.facts.surveyed = Some(op.facts.ladder.rounds);
    forget_earlier(op);
    let Evidence::Surveyed(survey) = evidence else { return };
    // Pools that are only too expensive now are looked at again. If nothing fits at all, the known pools
    // stay.
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

/// The state keeps only the last survey of an operation, because a node may wait for capacity for days. The
/// journal keeps all.
fn forget_earlier(op: &mut Operation) {
    let surveys = op.steps.values_mut().rev().filter_map(|record| match &mut record.outcome {
        Some((Evidence::Surveyed(survey), _)) => Some(survey),
        _ => None,
    });
    for survey in surveys.skip(1) {
        *survey = Survey::default();
    }
}

/// The problem when no pool is known after a survey, and what the operator must do.
pub(crate) fn missing(op: &Operation, evidence: &Evidence) -> Option<(String, String)> {
    let resume = format!("then `perennial workflow resume {}`", op.id);
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
                format!(
                    "change `capacity.requirements` in the node file, `perennial node apply -f FILE`, {resume}"
                ),
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
pub(crate) fn rank(op: &Operation, pool: &CapacityPool) -> Option<Rank> {
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

/// The expected result of a survey, for a plan: the pools of the last one, those of the list, or one of a
/// type that will be found.
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
