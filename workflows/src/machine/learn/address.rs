//! The node's addresses.

use crate::model::aws::{AllocationId, InstanceId, SubnetId};
use crate::model::resources::HeldElastic;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

pub(super) fn returned(op: &mut Operation, subnet: &SubnetId, evidence: &Evidence) {
    if let Evidence::AddressReturned { .. } = evidence {
        op.facts.returned(subnet);
    }
}

pub(super) fn moved(op: &mut Operation, instance: &InstanceId, evidence: &Evidence) {
    let Evidence::Moved { address } = evidence else { return };
    let elsewhere = was_elsewhere(op, instance);
    let facts = &mut op.facts;
    match facts.candidate.as_mut().filter(|candidate| candidate.instance == *instance) {
        Some(candidate) if Operation::has_moved(candidate) => candidate.address = Some(*address),
        // Of an instance in another subnet that was lost meanwhile.
        None if elsewhere => {}
        _ => facts.address = Some(*address),
    }
    facts.address_on = Some(instance.clone());
}

pub(super) fn associated(
    op: &mut Operation,
    allocation: &AllocationId,
    instance: &InstanceId,
    evidence: &Evidence,
) {
    if let Evidence::Associated { public_ip } = evidence {
        let held = HeldElastic { allocation: allocation.clone(), public_ip: *public_ip };
        op.facts.elastic = Some((held, instance.clone()));
    }
}

/// Whether an instance was launched in another subnet than the node was in.
fn was_elsewhere(op: &Operation, instance: &InstanceId) -> bool {
    op.launch_of(instance)
        .is_some_and(|launch| matches!(launch.as_ref(), Intent::Launch { pool, .. } if pool.subnet.is_some()))
}
