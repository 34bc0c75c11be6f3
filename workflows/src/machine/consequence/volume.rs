//! The node's volumes.

use crate::model::operation_id::OperationKind;
use crate::model::volume::Slot;
use crate::operation::event::OperationEvent;
use crate::step::evidence::Evidence;

use super::Settled;

pub(super) fn released(settled: &Settled<'_>) -> Vec<OperationEvent> {
    match settled.evidence {
        // Gone for ever, and needed no more.
        Evidence::Lost { .. } if settled.op.order.kind == OperationKind::Delete => Vec::new(),
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
