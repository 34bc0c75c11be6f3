//! The address that moves from interface to interface (`secondary_ip`, `ip_pool`) is never free between two
//! instances: the interface that has it outlives its instance.
//!
//! EC2 assigns a free address to whichever caller asks next: another group's launch, a task, another node. So
//! the primary interface of the carrier is preserved like a volume. When the instance is terminated, the
//! interface stays, with the address, until the address has moved to the next instance; then it is deleted. A
//! paused node keeps it ([`Resources::address_interface`]).
//!
//! ```text
//!  preserve:old ─ fence:old ─ move_address (from the old interface) ─ … ─ verify ─ delete_interface (old)
//! ```
//!
//! The journal determines the interface: that of the last carrier, and each one the address was to move to.
//! If an interface was not preserved in time, it has died with its instance: the address is free for a while,
//! and the deletion finds nothing. This happens to an instance that is lost in the seconds between
//! `move_address` and the last `preserve`, and to instances launched before this rule existed.
//!
//! EC2 User Guide, "Network interfaces": an interface whose DeleteOnTermination is false stays when its
//! instance is terminated, and AssignPrivateIpAddresses with AllowReassignment takes an address from another
//! interface. It is not documented whether the interface may be attached to an instance that is terminating
//! at that moment. If EC2 refuses it, the step waits until the interface is free.

use crate::model::aws::{InstanceId, InterfaceId};
use crate::model::operation_id::OperationKind;
use crate::model::resources::{Resource, Resources};
use crate::operation::state::{Due, Operation};
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, MoveAddress};

/// Whether the node's address is a secondary one on its carrier's primary interface.
fn is_secondary(before: &Resources) -> bool {
    before.interface.is_none() && before.address.is_some()
}

/// The interface of an instance that has, or may have, the node's address.
pub(crate) fn of(op: &Operation, instance: &InstanceId) -> Option<InterfaceId> {
    let moved = op.steps.values().rev().find_map(|record| match record.intent.as_ref() {
        Intent::MoveAddress(MoveAddress { instance: to, interface, .. }) if to == instance => {
            Some(interface.clone())
        }
        _ => None,
    });
    let before = op.order.before.carrier.as_ref().filter(|carrier| carrier.instance == *instance);
    moved.or_else(|| {
        before.filter(|_| is_secondary(&op.order.before)).map(|carrier| carrier.interface.clone())
    })
}

/// The interface that must survive an instance of the node, for the address on it.
pub(crate) fn preserved(op: &Operation, instance: &InstanceId) -> Option<InterfaceId> {
    let ends = op.order.kind == OperationKind::Delete || !op.order.spec.persist.network.moves_address();
    of(op, instance).filter(|_| !ends)
}

/// Every interface that may have outlived its instance for the address, oldest first.
fn outlived(op: &Operation) -> Vec<InterfaceId> {
    let holders = op.facts.holders.iter().filter_map(|holder| of(op, &holder.instance));
    let mut all: Vec<InterfaceId> =
        op.order.before.address_interface.iter().cloned().chain(holders).collect();
    let now = op.facts.candidate.as_ref().and_then(|candidate| candidate.interface());
    all.retain(|interface| now != Some(interface));
    let mut seen = Vec::new();
    all.retain(|interface| {
        let is_new = !seen.contains(interface);
        seen.push(interface.clone());
        is_new
    });
    all
}

/// Which of them has the address, as far as known; `None` if the node has no such address (any more).
pub(crate) fn keeper(op: &Operation) -> Option<InterfaceId> {
    if !op.order.spec.persist.network.moves_address() || op.facts.network.address.is_none() {
        return None;
    }
    let moved = op.steps.values().rev().find_map(|record| match (record.intent.as_ref(), &record.outcome) {
        // In another subnet the address is another one.
        (Intent::MoveAddress(MoveAddress { interface, .. }), Some((Evidence::Moved { address }, _)))
            if Some(*address) == op.facts.network.address =>
        {
            Some(interface.clone())
        }
        _ => None,
    });
    let all = outlived(op);
    moved.filter(|interface| all.contains(interface)).or_else(|| all.into_iter().next())
}

/// Interfaces that are not needed once the new instance is verified.
pub(crate) fn superseded(op: &Operation) -> impl Iterator<Item = Resource> {
    outlived(op).into_iter().map(resource)
}

/// Interfaces that are not needed while no instance carries the node.
pub(crate) fn spare(op: &Operation) -> impl Iterator<Item = Resource> {
    let keeper = keeper(op);
    outlived(op).into_iter().filter(move |interface| Some(interface) != keeper.as_ref()).map(resource)
}

/// The steps that delete those.
pub(crate) fn dispose(op: &Operation) -> impl Iterator<Item = Due> {
    spare(op)
        .filter(|resource| op.is_to_clean(resource))
        .filter_map(|resource| crate::rules::cleanup::clean(&resource))
        .map(Due::from)
}

/// Interfaces that an undone operation has left: the old instance, or the interface that had the address
/// before, has it again.
pub(crate) fn undone(op: &Operation) -> Vec<Resource> {
    let is_resumed = op.order.kind == OperationKind::Resume;
    let keeper = keeper(op).filter(|_| is_resumed);
    let old = op.old().and_then(|old| of(op, &old.instance));
    let is_needed =
        |interface: &InterfaceId| Some(interface) == keeper.as_ref() || Some(interface) == old.as_ref();
    outlived(op).into_iter().filter(|interface| !is_needed(interface)).map(resource).collect()
}

/// The interface that a deletion deletes.
pub(crate) fn doomed(before: &Resources) -> Option<InterfaceId> {
    let carrier = before.carrier.as_ref().filter(|_| is_secondary(before));
    before.address_interface.clone().or_else(|| carrier.map(|carrier| carrier.interface.clone()))
}

fn resource(interface: InterfaceId) -> Resource {
    Resource::Interface { interface }
}
