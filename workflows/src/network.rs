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
//! | `create_interface` | it does not exist where the new instance goes | CreateNetworkInterface, tokenised, with the node's address | interface `available` | address held by another: stuck |
//! | `set_groups` | it exists, the file names groups (also `primary_eni`) | ModifyNetworkInterfaceAttribute, declarative | the interface's groups | gone: found so by the other steps; refused: stuck |
//! | `detach_interface` | `handover: detach`, new instance runs, old preserved, its data volumes have left | DetachNetworkInterface, never forced | interface free | 20 s: follows after the fence |
//! | `release_interface` | its holder is fenced | – | free | gone for ever: made anew, with the node's address |
//! | `attach_interface` | free, groups right, new instance runs | AttachNetworkInterface at index 1 | the interface | gone for ever: made anew; no place for it: stuck |
//!
//! Neither attaching nor detaching has a client token. What makes their repeat safe is that the interface, not the instance, says
//! where it is: it is attached once at most, and an attachment's id is never used again.
//!
//! Undone by: `attach_interface` to the old instance, after the new one is fenced. In another subnet: see [`elsewhere`].

use std::net::Ipv4Addr;

use crate::aws::{GroupId, InstanceId, InterfaceId, SubnetId};
use crate::elsewhere;
use crate::node::OperationKind;
use crate::notice;
use crate::operation::{Candidate, Due, Holder, InterfaceFact, Operation, Place};
use crate::spec::{Handover, NetworkMode};
use crate::steps::{Intent, Slot};

/// Where the node's second interface goes. Index 0 is the primary one, and every type has room for two.
pub const SECOND: u32 = 1;

/// The node's own interface in a subnet (none: where the node was), once it exists.
pub(crate) fn own_interface(op: &Operation, subnet: Option<&SubnetId>) -> Option<InterfaceId> {
    op.facts.interface_in(subnet)?.held.as_ref().map(|held| held.interface.clone())
}

/// The interface of an instance in a subnet (none: where the node was) that has the node's address, or that the Elastic IP address
/// is to lead to.
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

/// The second interface of a subnet (none: where the node was) comes onto an instance, once it is free.
pub(crate) fn attach(op: &Operation, subnet: Option<&SubnetId>, instance: &InstanceId) -> Option<Due> {
    let fact = op.facts.interface_in(subnet)?;
    let interface = own_interface(op, subnet)?;
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
    attach(op, candidate.pool.subnet.as_ref(), &candidate.instance)
}

/// When the second interface may leave an instance that still runs: the address follows the data.
pub(crate) fn may_detach(op: &Operation, holder: &Holder) -> bool {
    let on_it = |place: &Place| matches!(place, Place::On(on) if *on == holder.instance);
    // In another subnet another one is needed.
    let secured = op
        .facts
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.network.is_some() && !Operation::has_moved(candidate));
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
    if let Some((interface, from)) =
        elsewhere::on_fenced(op).next().filter(|_| !op.has_open("detach_interface"))
    {
        return Some(Intent::ReleaseInterface { interface, from }.into());
    }
    let fact = op.facts.interface.as_ref()?;
    let (Place::On(on), Some(held)) = (&fact.place, &fact.held) else { return None };
    let holder = op.facts.holders.iter().find(|holder| holder.instance == *on)?;
    let (interface, instance) = (held.interface.clone(), on.clone());
    may_detach(op, holder).then(|| Intent::DetachInterface { interface, instance }.into())
}

/// The node's own interface, while it does not exist.
pub(crate) fn create(op: &Operation) -> Option<Due> {
    let stays = op.target().is_none_or(|pool| pool.subnet.is_none());
    if stays { create_here(op) } else { elsewhere::create(op) }
}

/// The same where the node was.
fn create_here(op: &Operation) -> Option<Due> {
    let is_absent = op.facts.interface.as_ref().is_some_and(|fact| fact.place == Place::Absent);
    is_absent.then(|| creation(op, &op.facts.subnet, op.facts.address))
}

/// What makes the node's own interface in a subnet.
pub(crate) fn creation(op: &Operation, subnet: &SubnetId, private_ip: Option<Ipv4Addr>) -> Due {
    let step = "create_interface";
    Intent::CreateInterface {
        client_token: op.client_token(step),
        subnet: subnet.clone(),
        groups: op.order.spec.security_groups.clone(),
        private_ip,
        tags: op.tags(step, "interface"),
    }
    .into()
}

/// Whether the second interface belongs on the old instance when the operation is undone, even one that was made anew.
pub(crate) fn goes_back(op: &Operation) -> bool {
    op.order.spec.persist.network == NetworkMode::SecondaryEni && op.facts.undoing && op.old().is_some()
}

/// The second interface goes back to the old instance.
pub(crate) fn put_back(op: &Operation, old: &InstanceId) -> Option<Due> {
    if goes_back(op) { create_here(op).or_else(|| attach(op, None, old)) } else { None }
}

/// Whether the node's own interface has the groups of the file. Without groups in the file it keeps those it has.
pub(crate) fn are_groups_right(op: &Operation) -> bool {
    let wanted = &op.order.spec.security_groups;
    op.facts.undoing || wanted.is_empty() || op.facts.interfaces().all(|fact| has_groups(fact, wanted))
}

fn has_groups(fact: &InterfaceFact, wanted: &[GroupId]) -> bool {
    fact.held.is_none() || fact.groups.as_ref().is_some_and(|groups| groups == wanted)
}

/// The node's own interface gets the groups of the file, wherever it is: what the file says holds from its next operation on.
pub(crate) fn set_groups(op: &Operation) -> Option<Due> {
    let wanted = &op.order.spec.security_groups;
    let wrong =
        op.facts.interfaces().find(|fact| !has_groups(fact, wanted)).filter(|_| !are_groups_right(op));
    let interface = wrong?.held.as_ref()?.interface.clone();
    Some(Intent::SetGroups { interface, groups: wanted.clone() }.into())
}
