//! The new instance: it is lost, or it is not the one.

use crate::model::aws::{ImageId, InstanceId};
use crate::model::root::RootMethod;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

use super::Settled;

pub(super) fn lost(instance: &InstanceId, because: String) -> Vec<OperationEvent> {
    vec![OperationEvent::CandidateLost { instance: instance.clone(), because }]
}

pub(super) fn is_candidate(op: &Operation, instance: &InstanceId) -> bool {
    op.facts.candidate.as_ref().is_some_and(|candidate| candidate.instance == *instance)
}

/// The instance of a step is gone; `None` when that says nothing about the candidate or the launch.
pub(super) fn gone(settled: &Settled<'_>) -> Option<Vec<OperationEvent>> {
    let Evidence::InstanceGone { instance, state, reason } = settled.evidence else { return None };
    let concerns_candidate = is_candidate(settled.op, instance);
    let (launches, optional) = match settled.intent {
        Intent::Launch { .. } | Intent::Start { .. } => (true, false),
        Intent::FinalSnapshot { .. } | Intent::SnapshotAhead { .. } => (false, true),
        _ => (false, false),
    };
    if let Some(reason) = reason.as_ref().filter(|reason| launches && is_ours_to_mend(reason)) {
        let mut events = Vec::new();
        if concerns_candidate {
            events.extend(lost(instance, format!("it ended with {reason}")));
        }
        let id = &settled.op.id;
        let needs = format!("remove the cause (often a key), then: perennial workflow resume {id}");
        events.extend(settled.stuck(format!("{instance} ended with {reason}"), needs));
        return Some(events);
    }
    if optional || !concerns_candidate {
        return None;
    }
    let state = state.map_or("not known any more".to_owned(), |state| state.to_string());
    let reason = reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    Some(lost(instance, format!("it is {state}{reason}")))
}

pub(super) fn launched(settled: &Settled<'_>, image: &ImageId) -> Vec<OperationEvent> {
    let op = settled.op;
    match settled.evidence {
        Evidence::Launched { instance, .. }
            if op.root_method() == RootMethod::Image && op.facts.root_image.as_ref() != Some(image) =>
        {
            lost(instance, "it was launched before the root went on as an image".to_owned())
        }
        // The interface it was to have is made anew.
        Evidence::Lost { .. } => Vec::new(),
        _ => settled.blocked(),
    }
}

pub(super) fn started(settled: &Settled<'_>, instance: &InstanceId) -> Vec<OperationEvent> {
    match settled.evidence {
        Evidence::OutOfTime { because } if is_candidate(settled.op, instance) => {
            lost(instance, format!("it did not start in time: {because}"))
        }
        _ => settled.blocked(),
    }
}

pub(super) fn not_fenced(settled: &Settled<'_>, instance: &InstanceId) -> Vec<OperationEvent> {
    match settled.evidence {
        // EC2's code for DisableApiTermination (EC2 API reference, TerminateInstances).
        Evidence::Refused { code, message } if code == "OperationNotPermitted" => settled.stuck(
            format!("{instance} has termination protection: {code}: {message}"),
            format!(
                "take it off: `aws ec2 modify-instance-attribute --instance-id {instance} \
                 --no-disable-api-termination`, then: perennial workflow resume {}",
                settled.op.id
            ),
        ),
        _ => settled.blocked(),
    }
}

/// Reasons of a failed launch that no other pool would mend (EC2 User Guide, "Instance terminates
/// immediately").
fn is_ours_to_mend(reason: &str) -> bool {
    matches!(
        reason,
        "Client.InternalError" | "Client.VolumeLimitExceeded" | "Client.InvalidSnapshot.NotFound"
    )
}
