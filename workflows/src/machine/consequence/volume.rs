//! The node's volumes.

use crate::model::aws::InstanceId;
use crate::model::operation_id::OperationKind;
use crate::model::volume::Slot;
use crate::operation::event::OperationEvent;
use crate::rules::recovery_point;
use crate::step::evidence::Evidence;

use super::Settled;

pub(super) fn released(settled: &Settled<'_>, slot: &Slot, from: &InstanceId) -> Vec<OperationEvent> {
    let op = settled.op;
    match settled.evidence {
        // Gone for ever, and needed no more.
        Evidence::Lost { .. } if op.order.kind == OperationKind::Delete => Vec::new(),
        Evidence::Lost { .. } if recovery_point::is_left_to_the_next(op, slot) => Vec::new(),
        // It is where it was to go, or on an instance that is fenced.
        Evidence::HeldByAnother { .. }
            if op.facts.volumes.get(slot).is_some_and(|fact| !fact.place.is_on(from)) =>
        {
            Vec::new()
        }
        _ => settled.blocked(),
    }
}

pub(super) fn attached(settled: &Settled<'_>, slot: &Slot, device: &str) -> Vec<OperationEvent> {
    if *settled.evidence != Evidence::DeviceInUse {
        return settled.blocked();
    }
    let op = settled.op;
    // Another name is tried.
    if op.facts.volumes.get(slot).is_some_and(|fact| fact.device != device) {
        return Vec::new();
    }
    settled.stuck(
        format!("no device name is free on the instance; {device} was the last"),
        format!("detach a volume, then: perennial workflow resume {}", op.id),
    )
}
