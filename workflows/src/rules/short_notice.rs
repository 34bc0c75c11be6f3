//! Short notice: the optional steps that are skipped when too little time is left before the old instance is
//! taken.
//!
//! Every step that keeps the node's state is done, whatever the time. Steps that only shorten the outage are
//! optional. Whenever one of them is about to begin, they are checked in this order. The first one without
//! enough time is dropped, and all that follow it are dropped too. The journal records it
//! ([`OperationEvent::Dropped`](crate::operation::event::OperationEvent::Dropped)).
//!
//! 1. `detach:x` is dropped when less than its own time is left (`Intent::budget_ms`). The volume then
//!    follows after the fence.
//! 2. `detach_interface` is dropped when less than its own time is left. The interface then follows after the
//!    fence.
//!
//! A detach that is under way when the instance is taken would lose nothing either. But it would hold the
//! volume in `detaching` on an instance that shuts down, which is the slowest case for EBS.

use crate::operation::facts::Holder;
use crate::operation::state::Operation;

/// Whether no further volume or interface is detached from an instance that still runs.
pub(crate) fn is_short(op: &Operation, holder: &Holder) -> bool {
    holder.is_old && op.facts.handover_dropped
}
