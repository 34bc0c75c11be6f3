//! When an instance is terminated: the steps `preserve` and `fence`. No other rule terminates one.
//!
//! A *holder* is an instance that holds, or may hold, a resource of the node: the old instance, and every
//! candidate that was given up. It is terminated when all of this holds:
//!
//! 1. It has not been seen terminated yet.
//! 2. Everything of the node on it is safe: DeleteOnTermination was seen false (`preserve`), or nothing of
//!    the node is on it, or the instance has ended by itself.
//! 3. The operation is not being undone, or the instance is not the old one.
//! 4. No adoption of the root by this instance is open: what it may still put there is preserved after it.
//!
//! For the old instance while it still runs, which is the point of no return, in addition:
//!
//! 5. The next instance has a target: a pool is known, and no survey is awaited. Its subnet and its image
//!    were looked up (`resolve`). Its security groups are right.
//! 6. Make before break: the new instance runs, and what can leave a running instance has left it
//!    ([`handover`]). Break before make: nothing further.
//! 7. An operation that only frees what the node holds (`delete`, `pause`, a diversion) needs neither 5 nor
//!    6.

use crate::model::operation_id::OperationKind;
use crate::operation::facts::{Holder, Place};
use crate::operation::state::{Due, Operation};
use crate::rules::{address_retention, attached_volumes, capacity, handover, interface, uefi};
use crate::step::intent::{Fence, Intent, Preserve};
use crate::step::name::Only;

/// The next step towards the termination of a holder: `preserve`, then `fence`.
pub(crate) fn due(op: &Operation, holder: &Holder) -> Option<Due> {
    // A cancelled operation ends on the old instance, which need not be made safe either.
    if op.facts.is_undoing() && holder.is_old {
        return None;
    }
    if let Some(preserve) = preserve(op, holder).filter(|_| !holder.preserved && !holder.ended) {
        return Some(preserve.into());
    }
    let adopts = !holder.ended && op.is_adopting(&holder.instance);
    let is_due = !adopts && !holder.fenced && may_fence(op, holder);
    is_due.then(|| {
        let (instance, spot_request) = (holder.instance.clone(), holder.spot_request.clone());
        Intent::Fence(Fence { instance, spot_request }).into()
    })
}

/// The resources that must survive the holder's termination; `None` when no resource of the node is on it.
fn preserve(op: &Operation, holder: &Holder) -> Option<Intent> {
    // A deletion that took over does not know where an abandoned operation has brought the resources.
    let any = op.order.kind == OperationKind::Delete && !holder.is_old;
    let on_it = |place: &Place| any || matches!(place, Place::On(on) if *on == holder.instance);
    let volumes: Vec<_> = op
        .facts
        .volumes
        .values()
        .filter(|fact| on_it(&fact.place))
        .filter_map(|fact| fact.id.clone())
        .collect();
    let interface = op
        .facts
        .interfaces()
        .find(|fact| on_it(&fact.place))
        .and_then(|fact| fact.held.as_ref())
        .map(|held| held.interface.clone());
    // Volumes that were attached from outside would be left behind.
    let others = attached_volumes::others(op, &holder.instance).filter(|_| holder.is_old);
    let address_interface = address_retention::preserved(op, &holder.instance);
    let is_any =
        !volumes.is_empty() || interface.is_some() || address_interface.is_some() || others.is_some();
    is_any.then(|| {
        Intent::Preserve(Preserve {
            instance: holder.instance.clone(),
            volumes,
            interface,
            address_interface,
            others,
            uefi: holder.is_old && uefi::is_asked(op),
        })
    })
}

/// Conditions 5 to 7: the point of no return for the old instance.
fn may_fence(op: &Operation, holder: &Holder) -> bool {
    let only_frees = matches!(op.order.kind, OperationKind::Delete | OperationKind::Pause)
        || op.facts.diversion().is_some();
    if !holder.is_old || holder.ended || only_frees {
        return true;
    }
    // A target must be known as well.
    if capacity::is_awaited(op) || !capacity::has_pools(op) {
        return false;
    }
    // An image that does not exist is detected while the old instance still runs.
    if op.has_open(&Only::Resolve.into()) {
        return false;
    }
    // A security group that does not exist is detected while the old instance still runs.
    if !interface::are_groups_right(op) {
        return false;
    }
    if !op.order.spec.makes_before_breaks() || op.launches_late() {
        return true;
    }
    // Make before break: capacity is secured before anything is taken away, and every resource that can leave
    // a running instance has left it.
    let secured = op.facts.candidate.as_ref().is_some_and(|candidate| candidate.runs());
    let leaving = op.facts.volumes.keys().any(|slot| handover::may_detach(op, holder, slot))
        || interface::may_detach(op, holder);
    secured && !leaving
}
