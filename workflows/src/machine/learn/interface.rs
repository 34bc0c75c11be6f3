//! The node's own interface.

use crate::model::aws::{GroupId, InstanceId, InterfaceId, SubnetId};
use crate::model::resources::HeldInterface;
use crate::operation::facts::{InterfaceFact, Place};
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;

use super::is_ending;

pub(super) fn created(op: &mut Operation, subnet: &SubnetId, groups: &[GroupId], evidence: &Evidence) {
    let Evidence::InterfaceCreated { interface, private_ip } = evidence else { return };
    let facts = &mut op.facts;
    let held = HeldInterface { interface: interface.clone(), private_ip: *private_ip };
    let fact = InterfaceFact::new(Some(held), Some(groups.to_vec()));
    if *subnet == facts.subnet {
        facts.address = Some(*private_ip);
        facts.interface = Some(fact);
    } else {
        facts.made_elsewhere(subnet, fact, &op.id);
    }
}

pub(super) fn detached(
    op: &mut Operation,
    interface: &InterfaceId,
    instance: &InstanceId,
    evidence: &Evidence,
) {
    let is_free = op.facts.is_undoing() || *evidence == Evidence::Released;
    if let Some(fact) = op.facts.interface_mut(interface).filter(|fact| fact.place.is_on(instance)) {
        fact.detach_tried_on = Some(instance.clone());
        if is_free {
            fact.place = Place::Free;
        }
    }
}

pub(super) fn released(op: &mut Operation, interface: &InterfaceId, evidence: &Evidence) {
    let is_ending = is_ending(op);
    match evidence {
        Evidence::Released => free(op, interface),
        // What is to end anyway may be gone already.
        Evidence::Lost { .. } if is_ending => {
            free(op, interface);
            op.facts.deleted.push(interface.to_string());
        }
        // An interface holds no data: it is made anew, with the node's address.
        Evidence::Lost { .. } => op.facts.forget_interface(interface),
        _ => {}
    }
}

fn free(op: &mut Operation, interface: &InterfaceId) {
    if let Some(fact) = op.facts.interface_mut(interface) {
        fact.place = Place::Free;
    }
}

pub(super) fn attached(
    op: &mut Operation,
    interface: &InterfaceId,
    instance: &InstanceId,
    evidence: &Evidence,
) {
    match evidence {
        Evidence::Lost { .. } => op.facts.forget_interface(interface),
        // As with a volume: what may have been attached counts as attached.
        Evidence::Attached | Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. } => {
            if let Some(fact) = op.facts.interface_mut(interface) {
                fact.place = Place::On(instance.clone());
            }
        }
        _ => {}
    }
}

pub(super) fn groups_set(
    op: &mut Operation,
    interface: &InterfaceId,
    groups: &[GroupId],
    evidence: &Evidence,
) {
    // One that is gone is found so by the steps that need it.
    if let Evidence::GroupsSet | Evidence::Lost { .. } = evidence
        && let Some(fact) = op.facts.interface_mut(interface)
    {
        fact.groups = Some(groups.to_vec());
    }
}
