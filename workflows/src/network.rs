//! The node's own interface as a second one (`secondary_eni`): it leaves one instance and comes onto the next.
//!
//! ```text
//!  create_interface ───────────────────────────────┐
//!  launch ─ start ─┬─ detach_interface (alive) ────┴─ attach_interface ─ …
//!                  └─ fence:old ─ release_interface ─┘
//! ```
//!
//! | step | may start when | does | observed by | on failure |
//! | --- | --- | --- | --- | --- |
//! | `create_interface` | it does not exist | CreateNetworkInterface, tokenised, with the node's address | interface `available` | address held by another: stuck |
//! | `set_groups` | it exists, the file names groups (also `primary_eni`) | ModifyNetworkInterfaceAttribute, declarative | the interface's groups | gone: found so by the other steps; refused: stuck |
//! | `detach_interface` | `handover: detach`, new instance runs, old preserved, its data volumes have left | DetachNetworkInterface, never forced | interface free | 20 s: follows after the fence |
//! | `release_interface` | its holder is fenced | – | free | gone for ever: made anew, with the node's address |
//! | `attach_interface` | free, groups right, new instance runs | AttachNetworkInterface at index 1 | the interface | gone for ever: made anew; no place for it: stuck |
//!
//! Neither attaching nor detaching has a client token. What makes their repeat safe is that the interface, not the instance, says
//! where it is: it is attached once at most, and an attachment's id is never used again.
//!
//! Undone by: `attach_interface` to the old instance, after the new one is fenced.

use crate::aws::{InstanceId, InterfaceId};
use crate::node::OperationKind;
use crate::notice;
use crate::operation::{Candidate, Due, Holder, Operation, Place};
use crate::spec::{Handover, NetworkMode};
use crate::steps::{Intent, Slot};

/// Where the node's second interface goes. Index 0 is the primary one, and every type has room for two.
pub const SECOND: u32 = 1;

/// The node's own interface, once it exists.
pub(crate) fn own_interface(op: &Operation) -> Option<InterfaceId> {
    op.facts.interface.as_ref()?.held.as_ref().map(|held| held.interface.clone())
}

/// The interface of an instance that has the node's address, or that the Elastic IP address is to lead to.
pub(crate) fn addressed(op: &Operation, primary: &InterfaceId) -> InterfaceId {
    match op.order.spec.persist.network {
        NetworkMode::SecondaryEni => own_interface(op).unwrap_or_else(|| primary.clone()),
        NetworkMode::PrimaryEni | NetworkMode::SecondaryIp | NetworkMode::IpPool | NetworkMode::None => {
            primary.clone()
        }
    }
}

/// Whether the node's own interface is on an instance.
pub(crate) fn is_on(op: &Operation, instance: &InstanceId) -> bool {
    op.facts.interface.as_ref().is_some_and(|fact| matches!(&fact.place, Place::On(on) if on == instance))
}

/// The second interface comes onto an instance, once it is free.
pub(crate) fn attach(op: &Operation, instance: &InstanceId) -> Option<Due> {
    let fact = op.facts.interface.as_ref()?;
    let interface = own_interface(op)?;
    let comes = op.order.spec.persist.network == NetworkMode::SecondaryEni
        && fact.place == Place::Free
        && are_groups_right(op)
        // Made before a cancellation that ended: it may be gone in a moment, and is made anew then.
        && !op.has_open(&format!("delete_interface:{interface}"));
    comes.then(|| {
        Intent::AttachInterface { interface, instance: instance.clone(), device_index: SECOND }.into()
    })
}

/// The second interface comes onto the running candidate.
pub(crate) fn carry(op: &Operation, candidate: &Candidate) -> Option<Due> {
    attach(op, &candidate.instance)
}

/// When the second interface may leave an instance that still runs: the address follows the data.
pub(crate) fn may_detach(op: &Operation, holder: &Holder) -> bool {
    let on_it = |place: &Place| matches!(place, Place::On(on) if *on == holder.instance);
    let secured = op.facts.candidate.as_ref().is_some_and(|candidate| candidate.network.is_some());
    let data_left =
        || op.facts.volumes.iter().any(|(slot, fact)| matches!(slot, Slot::Data(_)) && on_it(&fact.place));
    op.order.spec.persist.network == NetworkMode::SecondaryEni
        && op.order.spec.persist.handover == Handover::Detach
        && op.order.kind == OperationKind::Replace
        && !op.facts.undoing
        && secured
        && holder.is_old
        && holder.preserved
        && !holder.known_over
        && !notice::is_short(op, holder)
        && op
            .facts
            .interface
            .as_ref()
            .is_some_and(|fact| on_it(&fact.place) && fact.detach_tried_on.as_ref() != Some(&holder.instance))
        && !data_left()
}

/// The second interface leaves a running instance, or is seen free after the fence of one.
pub(crate) fn release(op: &Operation) -> Option<Due> {
    let fact = op.facts.interface.as_ref()?;
    let (Place::On(on), Some(held)) = (&fact.place, &fact.held) else { return None };
    let holder = op.facts.holders.iter().find(|holder| holder.instance == *on)?;
    let (interface, instance) = (held.interface.clone(), on.clone());
    if holder.fenced && !op.has_open("detach_interface") {
        Some(Intent::ReleaseInterface { interface, from: instance }.into())
    } else if may_detach(op, holder) {
        Some(Intent::DetachInterface { interface, instance }.into())
    } else {
        None
    }
}

/// The node's own interface, while it does not exist.
pub(crate) fn create(op: &Operation) -> Option<Due> {
    let step = "create_interface";
    let is_absent = op.facts.interface.as_ref().is_some_and(|fact| fact.place == Place::Absent);
    let stays = op.target().is_none_or(|pool| pool.subnet.is_none());
    (is_absent && stays).then(|| {
        Intent::CreateInterface {
            client_token: op.client_token(step),
            subnet: op.facts.subnet.clone(),
            groups: op.order.spec.security_groups.clone(),
            private_ip: op.facts.address,
            tags: op.tags(step, "interface"),
        }
        .into()
    })
}

/// Whether the second interface belongs on the old instance when the operation is undone, even one that was made anew.
pub(crate) fn goes_back(op: &Operation) -> bool {
    op.order.spec.persist.network == NetworkMode::SecondaryEni && op.facts.undoing && op.old().is_some()
}

/// The second interface goes back to the old instance.
pub(crate) fn put_back(op: &Operation, old: &InstanceId) -> Option<Due> {
    if goes_back(op) { create(op).or_else(|| attach(op, old)) } else { None }
}

/// Whether the node's own interface has the groups of the file. Without groups in the file it keeps those it has.
pub(crate) fn are_groups_right(op: &Operation) -> bool {
    let wanted = &op.order.spec.security_groups;
    op.facts.undoing
        || wanted.is_empty()
        || op.facts.interface.as_ref().is_none_or(|fact| {
            fact.held.is_none() || fact.groups.as_ref().is_some_and(|groups| groups == wanted)
        })
}

/// The node's own interface gets the groups of the file, wherever it is: what the file says holds from its next operation on.
pub(crate) fn set_groups(op: &Operation) -> Option<Due> {
    let interface = own_interface(op).filter(|_| !are_groups_right(op))?;
    Some(Intent::SetGroups { interface, groups: op.order.spec.security_groups.clone() }.into())
}
