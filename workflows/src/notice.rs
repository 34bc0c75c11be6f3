//! Short notice: what is left out when the time until the old instance is taken does not suffice for it.
//!
//! Everything that keeps the node's state is done whatever the time. What only makes the outage shorter is optional, and is
//! looked at in this order, whenever one of them is about to begin; with the first for which there is no time, all that follow are
//! dropped too. The journal records it ([`OperationEvent::Dropped`](crate::operation::OperationEvent::Dropped)):
//!
//! | | step | dropped when less is left than | then |
//! | --- | --- | --- | --- |
//! | 1 | `detach:x` | its own time ([`Intent::budget_ms`]) | the volume follows after the fence |
//! | 2 | `detach_interface` | its own time | the interface follows after the fence |
//!
//! A detach that is under way when the instance is taken would not lose anything either; but it would hold the volume in
//! `detaching` on an instance that shuts down, which is what EBS is slowest at.

use crate::operation::{Holder, Operation};
use crate::steps::Intent;

/// The optional steps that hold now and for which there is no time; with the reason.
pub(crate) fn dropped(op: &Operation, now_ms: u64) -> Option<(Vec<String>, String)> {
    let old = op.facts.holders.iter().find(|holder| holder.is_old)?;
    let deadline_ms = old.deadline_ms?;
    let left_ms = deadline_ms.saturating_sub(now_ms);
    let is_late = |intent: &Intent| {
        let is_optional = matches!(intent, Intent::Detach { .. } | Intent::DetachInterface { .. });
        is_optional && left_ms < intent.budget_ms()
    };
    let late: Vec<String> =
        op.rules().iter().map(|due| &due.intent).filter(|intent| is_late(intent)).map(Intent::step).collect();
    (!late.is_empty()).then(|| {
        let because = format!(
            "{} is taken in {} s, which may not suffice; the outage is longer for it, nothing is lost",
            old.instance,
            left_ms / 1_000
        );
        (late, because)
    })
}

/// Whether nothing more is detached from an instance that still runs.
pub(crate) fn is_short(op: &Operation, holder: &Holder) -> bool {
    holder.is_old && op.facts.handover_dropped
}
