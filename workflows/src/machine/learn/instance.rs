//! Instances: the candidate, and those that are to be fenced.

use crate::model::aws::{InstanceId, InstanceState, InterfaceId, SpotRequestId};
use crate::operation::facts::{Candidate, Place};
use crate::operation::state::Operation;
use crate::rules::{address_retention, capacity, uefi};
use crate::spec::node::RootMode;
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, LaunchInterface};

use super::volume::replace_by_copy;

pub(super) fn launched(op: &mut Operation, launch: &Intent, evidence: &Evidence, at_ms: u64) {
    let Intent::Launch { pool, interface, volumes, .. } = launch else { return };
    match evidence {
        // An interface holds no data: it is made anew, with the node's address.
        Evidence::Lost { .. } => {
            if let LaunchInterface::Kept(interface) = interface {
                op.facts.forget_interface(interface);
            }
        }
        Evidence::Launched { instance, spot_request } => {
            candidate_launched(op, launch, instance, spot_request.as_ref());
        }
        Evidence::NoCapacity { code, .. } => capacity::climb(op, pool.clone(), code.clone(), at_ms),
        Evidence::InstanceGone { reason, .. } => {
            if !volumes.is_empty() {
                let origin = op.origin(launch);
                op.facts.suspect_volumes_of(launch, origin, &op.id);
            }
            let code = reason.clone().unwrap_or_else(|| "instance terminated".to_owned());
            op.facts.failed_launches += 1;
            op.facts.last_failure = format!("{pool}: {code}");
            capacity::climb(op, pool.clone(), code, at_ms);
        }
        _ => {}
    }
}

fn candidate_launched(
    op: &mut Operation,
    launch: &Intent,
    instance: &InstanceId,
    spot_request: Option<&SpotRequestId>,
) {
    let Intent::Launch { pool, image, interface, volumes, .. } = launch else { return };
    if let (LaunchInterface::Kept(_), Some(held)) = (interface, &mut op.facts.interface) {
        held.place = Place::On(instance.clone());
    }
    let launched_with =
        volumes.iter().map(|volume| (volume.device.clone(), (volume.slot.clone(), volume.snapshot.clone())));
    op.facts.candidate = Some(Candidate {
        instance: instance.clone(),
        pool: pool.clone(),
        image: image.clone(),
        spot_request: spot_request.cloned(),
        network: None,
        root_volume: None,
        root_device: None,
        protected: op.order.spec.persist.root == RootMode::None,
        adopted: false,
        launched_with: launched_with.collect(),
        address: None,
    });
}

pub(super) fn started(op: &mut Operation, instance: &InstanceId, evidence: &Evidence) {
    let Evidence::Started { interface, private_ip, root_device, root_volume, volumes } = evidence else {
        return;
    };
    let Some(candidate) = op.facts.candidate.as_mut().filter(|c| c.instance == *instance) else {
        return;
    };
    op.facts.failed_launches = 0;
    candidate.network = Some((interface.clone(), *private_ip));
    candidate.root_device = Some(root_device.clone());
    candidate.root_volume.clone_from(root_volume);
    if root_volume.is_none() {
        candidate.protected = true;
    }
    let (pool, launched_with) = (candidate.pool.clone(), candidate.launched_with.clone());
    for (device, volume) in volumes {
        let Some((slot, snapshot)) = launched_with.get(device) else { continue };
        replace_by_copy(op, slot, volume, snapshot, &pool);
        if let Some(fact) = op.facts.volumes.get_mut(slot) {
            fact.goes_to(instance);
        }
    }
}

pub(super) fn preserved(
    op: &mut Operation,
    instance: &InstanceId,
    kept: Option<&InterfaceId>,
    evidence: &Evidence,
) {
    let seen = match evidence {
        Evidence::Preserved => None,
        Evidence::PreservedWith { uefi, .. } => Some(uefi.as_ref()),
        _ => return,
    };
    // One that was asked for before the address was to come here has not looked at its interface.
    let is_all = kept.is_some() || address_retention::preserved(op, instance).is_none();
    let facts = &mut op.facts;
    if let Some(uefi) = seen {
        uefi::learn(&mut facts.uefi_data, uefi);
    }
    for holder in facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
        holder.preserved |= is_all;
    }
    if let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == *instance) {
        if candidate.protected {
            facts.final_preserved = true;
        } else {
            candidate.protected = true;
        }
    }
}

pub(super) fn fenced(op: &mut Operation, instance: &InstanceId, evidence: &Evidence) {
    let Evidence::Fenced { reason, .. } = evidence else { return };
    op.facts.launches_failed_because(instance, reason.as_deref());
    for holder in op.facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
        holder.fenced = true;
        holder.ended = true;
    }
}

pub(super) fn verified(op: &mut Operation, evidence: &Evidence) {
    op.facts.verified |= *evidence == Evidence::Verified;
}

/// An instance was seen gone, or on its way: there is no going back to the old one then.
pub(super) fn gone(op: &mut Operation, evidence: &Evidence) {
    let Evidence::InstanceGone { instance, state, .. } = evidence else { return };
    if op.old().is_some_and(|old| old.instance == *instance) {
        op.facts.cannot_go_back();
    }
    if state.is_none_or(InstanceState::is_over) {
        for holder in op.facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
            holder.ended = true;
        }
    }
}
