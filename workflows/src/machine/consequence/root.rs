//! The root: the way it was to go on in does not work.

use crate::model::aws::InstanceId;
use crate::model::root::RootMethod;
use crate::operation::event::OperationEvent;
use crate::rules::root_clone;
use crate::step::evidence::Evidence;

use super::Settled;
use super::instance::is_candidate;

pub(super) fn adopted(settled: &Settled<'_>, instance: &InstanceId) -> Vec<OperationEvent> {
    match settled.evidence {
        // Refused on an instance that is lost anyway: the loss may be the reason, so the next one is asked.
        _ if !is_candidate(settled.op, instance) => Vec::new(),
        Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message } => {
            fall(settled, instance, format!("CreateReplaceRootVolumeTask: {code}: {message}"))
        }
        Evidence::OutOfTime { because } => {
            fall(settled, instance, format!("the adoption did not end in time: {because}"))
        }
        _ => settled.blocked(),
    }
}

pub(super) fn cloned(settled: &Settled<'_>) -> Vec<OperationEvent> {
    let because = match settled.evidence {
        Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message } => {
            format!("CopyVolumes: {code}: {message}")
        }
        Evidence::OutOfTime { because } => format!("the copy was not there in time: {because}"),
        _ => return settled.blocked(),
    };
    match root_clone::tried_on(settled.op) {
        Some(instance) if settled.op.facts.root_method == RootMethod::Clone => {
            fall(settled, &instance, because)
        }
        _ => Vec::new(),
    }
}

/// The root goes on in the next way.
fn fall(settled: &Settled<'_>, instance: &InstanceId, because: String) -> Vec<OperationEvent> {
    let from = settled.op.facts.root_method;
    let to = root_clone::after_adoption(settled.op, settled.evidence);
    vec![OperationEvent::RootMethodChosen { instance: Some(instance.clone()), from, to, because }]
}
