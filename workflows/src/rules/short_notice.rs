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

use crate::operation::facts::Holder;
use crate::operation::state::Operation;

/// Whether nothing more is detached from an instance that still runs.
pub(crate) fn is_short(op: &Operation, holder: &Holder) -> bool {
    holder.is_old && op.facts.handover_dropped
}
