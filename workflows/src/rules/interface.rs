//! The node's own interface: as a second one (`secondary_eni`) it leaves one instance and comes onto the
//! next; in another subnet another interface takes its place.
//!
//! ```text
//!  create_interface ───────────────────────────────┐
//!  launch ─ start ─┬─ detach_interface (alive) ────┴─ attach_interface ─ …
//!                  └─ fence:old ─ release_interface ─┘
//! ```
//!
//! - `create_interface`
//!   - May start when: it does not exist where the new instance goes.
//!   - Does: CreateNetworkInterface with a client token and the node's address. Observed by: interface
//!     `available`.
//!   - On failure: if another interface holds the address: stuck.
//! - `set_groups`
//!   - May start when: it exists, and the file names groups (also with `primary_eni`).
//!   - Does: ModifyNetworkInterfaceAttribute, declarative. Observed by: the interface's groups.
//!   - On failure: if the interface no longer exists, the other steps find that out; refused: stuck.
//! - `detach_interface`
//!   - May start when: the file says `handover: detach`, the new instance runs, the old one is preserved, and
//!     its data volumes have left.
//!   - Does: DetachNetworkInterface, never forced. Observed by: the interface is free.
//!   - On failure: after 20 s the interface follows after the fence.
//! - `release_interface`
//!   - May start when: its holder is fenced.
//!   - Does: only describes. Observed by: the interface is free.
//!   - On failure: if the interface no longer exists, it is created again with the node's address.
//! - `attach_interface`
//!   - May start when: the interface is free, its groups are right, and the new instance runs.
//!   - Does: AttachNetworkInterface at index 1. Observed by: the interface.
//!   - On failure: if the interface no longer exists, it is created again; if the instance has no place for
//!     it: stuck.
//! - Undone by: `attach_interface` to the old instance, after the new one is fenced.
//!
//! Neither attaching nor detaching has a client token. Repeats are safe because the interface itself, not the
//! instance, shows where it is: it is attached once at most, and an attachment's id is never reused.
//!
//! # In another subnet
//! An interface always stays in one subnet. A node that moves to another subnet gets another interface there
//! (`secondary_eni`), with another address. The previous interface stays unchanged until everything is
//! verified.
//!
//! ```text
//!  launch (another subnet) ─┬─ start ────────────┬─ attach_interface ─ … ─ verify ─ delete_interface (old)
//!                           └─ create_interface ─┘
//! ```
//!
//! - `create_interface`
//!   - May start when: a new instance was launched in another subnet, and the node has no interface there.
//!   - Does: CreateNetworkInterface with a client token and the file's groups; the subnet chooses the
//!     address.
//!   - On failure: no free address, or refused: stuck.
//! - `attach_interface`
//!   - May start when: the interface is free, and the new instance runs.
//!   - Does and on failure: as above.
//! - `release_interface`
//!   - May start when: the interface came onto an instance that was lost and is fenced.
//!   - On failure: if it no longer exists, it is created again.
//! - `delete_interface:i`
//!   - May start when: everything is verified and fenced (deletes the previous interface). Or: the operation
//!     is undone, paused, or continues in a third subnet (deletes the created one).
//!   - Does: DeleteNetworkInterface.
//!   - On failure: it stays listed as an orphan.
//!
//! It is created only after an instance was launched there: a pool without capacity costs no interface. If
//! that instance is lost, the next one in the same subnet gets the interface. If the next one is in a third
//! subnet, the interface is unused and is deleted at the end.

use std::net::Ipv4Addr;

use crate::model::aws::{GroupId, InstanceId, InterfaceId, SubnetId};
use crate::model::operation_id::OperationKind;
use crate::model::resources::Resource;
use crate::model::volume::Slot;
use crate::operation::facts::{Candidate, Holder, InterfaceFact, Place};
use crate::operation::state::{Due, Operation};
use crate::rules::short_notice;
use crate::spec::node::{Handover, NetworkMode};
use crate::step::intent::{
    AttachInterface, CreateInterface, DeleteInterface, DetachInterface, Intent, ReleaseInterface, SetGroups,
};
use crate::step::name::{Only, StepName};

/// The node's own interface in the subnet of the new instance, while it does not exist there.
pub(crate) fn create_elsewhere(op: &Operation) -> Option<Due> {
    let subnet = op.facts.candidate.as_ref()?.pool.subnet.as_ref()?;
    let is_missing = op.order.spec.persist.network == NetworkMode::SecondaryEni
        && op.facts.interface_in(Some(subnet)).is_none();
    is_missing.then(|| creation(op, subnet, None))
}

/// The interface that was created in another subnet, while no new instance there needs it.
pub(crate) fn spare(op: &Operation) -> Option<Resource> {
    let there = op.facts.network.elsewhere.as_ref()?;
    let needed = op
        .facts
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.pool.subnet.as_ref() == Some(&there.subnet));
    let interface = there.id().filter(|_| !needed)?.clone();
    Some(Resource::Interface { interface })
}

/// Whether an interface is on no instance, or on none of the node's.
pub(crate) fn is_free(op: &Operation, id: &InterfaceId) -> bool {
    op.facts
        .interfaces()
        .filter(|fact| fact.held.as_ref().is_some_and(|held| held.interface == *id))
        .all(|fact| fact.place == Place::Free)
}

/// Every interface of the node that may be seen free now, and the instance it was on.
pub(crate) fn on_fenced(op: &Operation) -> impl Iterator<Item = (InterfaceId, InstanceId)> {
    op.facts.interfaces().filter_map(|fact| match (&fact.place, &fact.held) {
        (Place::On(on), Some(held)) if op.facts.is_fenced(on) => Some((held.interface.clone(), on.clone())),
        _ => None,
    })
}

/// The step that deletes the interface created in another subnet, once it is free and not needed.
pub(crate) fn dispose(op: &Operation) -> Option<Due> {
    let Resource::Interface { interface } = spare(op)? else { return None };
    let is_due = op.is_to_clean(&interface) && is_free(op, &interface);
    is_due.then(|| Intent::DeleteInterface(DeleteInterface { interface }).into())
}

/// The index of the node's second interface. Index 0 is the primary one, and every type has room for two.
pub const SECOND: u32 = 1;

/// The node's own interface in a subnet (`None`: where the node was), once it exists.
pub(crate) fn own_interface(op: &Operation, subnet: Option<&SubnetId>) -> Option<InterfaceId> {
    op.facts.interface_in(subnet)?.held.as_ref().map(|held| held.interface.clone())
}

/// The interface of an instance in a subnet (`None`: where the node was) that has the node's address, or that
/// the Elastic IP address should lead to.
pub(crate) fn addressed(op: &Operation, subnet: Option<&SubnetId>, primary: &InterfaceId) -> InterfaceId {
    match op.order.spec.persist.network {
        NetworkMode::SecondaryEni => own_interface(op, subnet).unwrap_or_else(|| primary.clone()),
        NetworkMode::PrimaryEni | NetworkMode::SecondaryIp | NetworkMode::IpPool | NetworkMode::None => {
            primary.clone()
        }
    }
}

/// Whether the node's own interface is on an instance.
pub(crate) fn is_on(op: &Operation, instance: &InstanceId) -> bool {
    op.facts.interfaces().any(|fact| matches!(&fact.place, Place::On(on) if on == instance))
}

/// Attaches the second interface of a subnet (`None`: where the node was) to an instance, once it is free.
pub(crate) fn attach(op: &Operation, subnet: Option<&SubnetId>, instance: &InstanceId) -> Option<Due> {
    let fact = op.facts.interface_in(subnet)?;
    let interface = own_interface(op, subnet)?;
    let comes = op.order.spec.persist.network == NetworkMode::SecondaryEni
        && fact.place == Place::Free
        && are_groups_right(op)
        // Created before a cancellation that ended: it may be deleted in a moment, and is then created again.
        && !op.has_open(&StepName::DeleteInterface(interface.clone()));
    comes.then(|| {
        Intent::AttachInterface(AttachInterface {
            interface,
            instance: instance.clone(),
            device_index: SECOND,
        })
        .into()
    })
}

/// Attaches the second interface to the running candidate.
pub(crate) fn carry(op: &Operation, candidate: &Candidate) -> Option<Due> {
    attach(op, candidate.pool.subnet.as_ref(), &candidate.instance)
}

/// When the second interface may leave an instance that still runs: the address follows the data.
pub(crate) fn may_detach(op: &Operation, holder: &Holder) -> bool {
    let on_it = |place: &Place| matches!(place, Place::On(on) if *on == holder.instance);
    // In another subnet another interface is needed.
    let secured = op
        .facts
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.runs() && !Operation::has_moved(candidate));
    let data_left =
        || op.facts.volumes.iter().any(|(slot, fact)| matches!(slot, Slot::Data(_)) && on_it(&fact.place));
    op.order.spec.persist.network == NetworkMode::SecondaryEni
        && op.order.spec.persist.handover == Handover::Detach
        && op.order.kind == OperationKind::Replace
        && !op.facts.is_undoing()
        && secured
        && holder.is_old
        && holder.preserved
        && !holder.ended
        && !short_notice::is_short(op, holder)
        && op
            .facts
            .network
            .interface
            .as_ref()
            .is_some_and(|fact| on_it(&fact.place) && fact.detach_tried_on.as_ref() != Some(&holder.instance))
        && !data_left()
}

/// The second interface leaves a running instance, or is seen free after the fence of one.
pub(crate) fn release(op: &Operation) -> Option<Due> {
    if let Some((interface, from)) =
        on_fenced(op).next().filter(|_| !op.has_open(&Only::DetachInterface.into()))
    {
        return Some(Intent::ReleaseInterface(ReleaseInterface { interface, from }).into());
    }
    let fact = op.facts.network.interface.as_ref()?;
    let (Place::On(on), Some(held)) = (&fact.place, &fact.held) else { return None };
    let holder = op.facts.holders.iter().find(|holder| holder.instance == *on)?;
    let (interface, instance) = (held.interface.clone(), on.clone());
    may_detach(op, holder).then(|| Intent::DetachInterface(DetachInterface { interface, instance }).into())
}

/// The node's own interface, while it does not exist.
pub(crate) fn create(op: &Operation) -> Option<Due> {
    let stays = op.target().is_none_or(|pool| pool.subnet.is_none());
    if stays { create_here(op) } else { create_elsewhere(op) }
}

/// The same, in the subnet where the node was.
fn create_here(op: &Operation) -> Option<Due> {
    let is_absent = op.facts.network.interface.as_ref().is_some_and(|fact| fact.place == Place::Absent);
    is_absent.then(|| creation(op, &op.facts.subnet, op.facts.network.address))
}

/// The step that creates the node's own interface in a subnet.
pub(crate) fn creation(op: &Operation, subnet: &SubnetId, private_ip: Option<Ipv4Addr>) -> Due {
    let step = &Only::CreateInterface.into();
    Intent::CreateInterface(CreateInterface {
        client_token: op.client_token(step),
        subnet: subnet.clone(),
        groups: op.order.spec.security_groups.clone(),
        private_ip,
        tags: op.tags(step, "interface"),
    })
    .into()
}

/// Whether the second interface belongs on the old instance when the operation is undone, even one that was
/// created again.
pub(crate) fn goes_back(op: &Operation) -> bool {
    op.order.spec.persist.network == NetworkMode::SecondaryEni && op.facts.is_undoing() && op.old().is_some()
}

/// Returns the second interface to the old instance.
pub(crate) fn put_back(op: &Operation, old: &InstanceId) -> Option<Due> {
    if goes_back(op) { create_here(op).or_else(|| attach(op, None, old)) } else { None }
}

/// Whether the node's own interface has the groups of the file. Without groups in the file it keeps its own.
pub(crate) fn are_groups_right(op: &Operation) -> bool {
    let wanted = &op.order.spec.security_groups;
    op.facts.is_undoing() || wanted.is_empty() || op.facts.interfaces().all(|fact| has_groups(fact, wanted))
}

fn has_groups(fact: &InterfaceFact, wanted: &[GroupId]) -> bool {
    fact.held.is_none() || fact.groups.as_ref().is_some_and(|groups| groups == wanted)
}

/// Gives the node's own interface the groups of the file, wherever it is. A changed file applies from the
/// node's next operation on.
pub(crate) fn set_groups(op: &Operation) -> Option<Due> {
    let wanted = &op.order.spec.security_groups;
    let wrong =
        op.facts.interfaces().find(|fact| !has_groups(fact, wanted)).filter(|_| !are_groups_right(op));
    let interface = wrong?.held.as_ref()?.interface.clone();
    Some(Intent::SetGroups(SetGroups { interface, groups: wanted.clone() }).into())
}

impl Operation {
    /// The node's own interface on an instance.
    pub(crate) fn interface_on(&self, candidate: &Candidate) -> Option<InterfaceId> {
        match self.order.spec.persist.network {
            NetworkMode::PrimaryEni if Self::has_moved(candidate) => candidate.interface().cloned(),
            NetworkMode::PrimaryEni
            | NetworkMode::SecondaryEni
            | NetworkMode::SecondaryIp
            | NetworkMode::IpPool
            | NetworkMode::None => own_interface(self, candidate.pool.subnet.as_ref()),
        }
    }
}
