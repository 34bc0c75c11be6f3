//! The release half, shared by `replace` and `delete`, and by `provision` when a candidate is lost: the
//! resources on an instance are made safe, the instance is fenced, and every resource of the node is seen
//! free.

use crate::model::operation_id::OperationKind;
use crate::model::volume::Slot;
use crate::operation::facts::{Holder, Place};
use crate::operation::state::{Due, Operation};
use crate::rules::{address_retention, attached_volumes, capacity, interface, short_notice, uefi};
use crate::spec::node::Handover;
use crate::step::intent::Intent;

/// Every rule of the release half that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = Vec::new();
    for holder in &op.facts.holders {
        // A cancelled operation ends on the old instance.
        if op.facts.is_undoing() && holder.is_old {
            continue;
        }
        let preserve = preserve(op, holder);
        let safe = holder.preserved || holder.ended || preserve.is_none();
        if let Some(preserve) = preserve.filter(|_| !safe) {
            due.push(preserve.into());
        }
        // What an adoption under way may still put there is preserved after it.
        let adopts = !holder.ended && op.is_adopting(&holder.instance);
        if safe && !adopts && !holder.fenced && may_fence(op, holder) {
            due.push(
                Intent::Fence {
                    instance: holder.instance.clone(),
                    spot_request: holder.spot_request.clone(),
                }
                .into(),
            );
        }
    }
    for (slot, fact) in &op.facts.volumes {
        let (Place::On(on), Some(volume)) = (&fact.place, &fact.id) else { continue };
        let Some(holder) = op.facts.holders.iter().find(|holder| holder.instance == *on) else { continue };
        if holder.fenced && !op.has_open(&format!("detach:{slot}")) {
            due.push(Intent::Release { slot: slot.clone(), volume: volume.clone(), from: on.clone() }.into());
        } else if may_detach(op, holder, slot) {
            due.push(
                Intent::Detach { slot: slot.clone(), volume: volume.clone(), instance: on.clone() }.into(),
            );
        }
    }
    due.extend(interface::release(op));
    due
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
    is_any.then(|| Intent::Preserve {
        instance: holder.instance.clone(),
        volumes,
        interface,
        address_interface,
        others,
        uefi: holder.is_old && uefi::is_asked(op),
    })
}

/// When a holder may be terminated: the point of no return for the old instance.
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
    // A security group that does not exist is detected while the old instance still runs.
    if !interface::are_groups_right(op) {
        return false;
    }
    if !op.order.spec.makes_before_breaks() || op.launches_late() {
        return true;
    }
    // Make before break: capacity is secured before anything is taken away, and every resource that can leave
    // a running instance has left it.
    let secured = op.facts.candidate.as_ref().is_some_and(|candidate| candidate.network.is_some());
    let leaving =
        op.facts.volumes.keys().any(|slot| may_detach(op, holder, slot)) || interface::may_detach(op, holder);
    secured && !leaving
}

/// When a data volume may leave an instance that still runs.
fn may_detach(op: &Operation, holder: &Holder, slot: &Slot) -> bool {
    let Some(fact) = op.facts.volumes.get(slot) else { return false };
    let secured = op.facts.candidate.as_ref().is_some_and(|candidate| candidate.network.is_some());
    op.order.spec.persist.handover == Handover::Detach
        && op.order.kind == OperationKind::Replace
        && !op.facts.is_undoing()
        && op.order.spec.makes_before_breaks()
        && *slot != Slot::Root
        && secured
        && holder.is_old
        && holder.preserved
        && !holder.ended
        && !short_notice::is_short(op, holder)
        && matches!(&fact.place, Place::On(on) if *on == holder.instance)
        && fact.detach_tried_on.as_ref() != Some(&holder.instance)
}
