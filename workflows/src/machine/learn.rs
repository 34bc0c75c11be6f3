//! How evidence becomes facts.

use crate::model::aws::{InstanceId, InstanceState, SnapshotId, VolumeId};
use crate::model::capacity::CapacityPool;
use crate::model::operation_id::OperationKind;
use crate::model::resources::{HeldElastic, HeldInterface, Orphan, Resource};
use crate::model::volume::{Found, Slot};
use crate::operation::facts::{Candidate, Holder, InterfaceFact, Place, VolumeFact};
use crate::operation::state::Operation;
use crate::rules::{
    address_retention, attached_volumes, capacity, device_names, final_snapshot, root_clone, snapshot_ahead,
    survey, uefi,
};
use crate::spec::node::RootMode;
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, LaunchInterface};

/// Remembers that a step may have made something, to be looked for.
pub(crate) fn suspect(op: &mut Operation, intent: &Intent) {
    for (made, tags) in intent.makes() {
        let resource = Resource::Unsettled { kind: made, tags: tags.clone() };
        let because = format!("{}: {} did not settle", op.id, intent.step());
        op.facts.orphans.push(Orphan { resource, because });
    }
}

/// Turns evidence into facts.
pub(super) fn learn(op: &mut Operation, intent: &Intent, evidence: &Evidence, at_ms: u64) {
    let deleting = op.order.kind == OperationKind::Delete;
    let ending = deleting || (op.facts.undoing && op.order.kind == OperationKind::Provision);
    if op.may_be_left(intent)
        && let Some(id) = intent.cleans()
    {
        let because = match evidence {
            Evidence::Refused { code, message } => Some(format!("{code}: {message}")),
            Evidence::OutOfTime { because } => Some(format!("not in time: {because}")),
            _ => None,
        };
        if let Some(because) = because {
            op.facts.uncleaned.insert(id, because);
        }
    }
    if (op.facts.undoing || op.facts.diverted.is_some()) && matches!(evidence, Evidence::OutOfTime { .. }) {
        suspect(op, intent);
    }
    attached_volumes::leave(op, evidence);
    let undoing = op.facts.undoing;
    let given_up = op.gives_up();
    let another = device_names::another(op).filter(|_| *evidence == Evidence::DeviceInUse);
    let elsewhere = matches!(intent, Intent::MoveAddress { instance, .. } if was_elsewhere(op, instance));
    let outdated = snapshot_ahead::is_outdated(op, intent);
    let keeps_address = match intent {
        Intent::Preserve { instance, .. } => address_retention::preserved(op, instance).is_some(),
        _ => false,
    };
    let facts = &mut op.facts;
    match (intent, evidence) {
        (Intent::Resolve { .. }, Evidence::Resolved(placement)) => {
            facts.placement = Some(placement.clone());
            attached_volumes::map(op);
        }
        (Intent::Survey(question), evidence) => survey::learn(op, question, evidence, at_ms),
        (Intent::Grow { slot, .. }, Evidence::Grown { size_gib }) => {
            if let Some(fact) = facts.volumes.get_mut(slot) {
                fact.size_gib = Some(*size_gib);
            }
        }
        (Intent::CreateVolume { .. }, Evidence::VolumeCreated { volume }) => made(op, intent, volume),
        (Intent::CloneRoot { volume: of, .. }, Evidence::VolumeCreated { volume }) => {
            root_clone::cloned(op, of, volume);
        }
        // It may come into being all the same.
        (Intent::CloneRoot { .. }, Evidence::OutOfTime { .. }) if !given_up => suspect(op, intent),
        (Intent::FinalSnapshot { .. } | Intent::SnapshotAhead { .. }, evidence) => {
            // Of one that is given up with the operation that is remembered already.
            let is_suspected = given_up && matches!(evidence, Evidence::OutOfTime { .. });
            if final_snapshot::may_have_made_one(evidence) && !is_suspected {
                suspect(op, intent);
            }
            snapshot_ahead::learn(op, intent, evidence);
        }
        (Intent::ClaimVolume { slot, volume, zone, .. }, Evidence::VolumeClaimed { size_gib, traits }) => {
            if let Some(fact) = facts.volumes.get_mut(slot) {
                fact.id = Some(volume.clone());
                fact.place = Place::Free;
                fact.size_gib = Some(*size_gib);
                fact.zone = Some(zone.clone());
                fact.found.clone_from(traits);
            }
        }
        (
            Intent::CreateInterface { subnet, groups, .. },
            Evidence::InterfaceCreated { interface, private_ip },
        ) => {
            let held = HeldInterface { interface: interface.clone(), private_ip: *private_ip };
            let fact = InterfaceFact::new(Some(held), Some(groups.clone()));
            if *subnet == facts.subnet {
                facts.address = Some(*private_ip);
                facts.interface = Some(fact);
            } else {
                facts.made_elsewhere(subnet, fact, &op.id);
            }
        }
        (
            Intent::Preserve { instance, address_interface: kept, .. },
            Evidence::Preserved | Evidence::PreservedWith { .. },
        ) => {
            if let Evidence::PreservedWith { uefi: seen, .. } = evidence {
                uefi::learn(&mut facts.uefi_data, seen.as_ref());
            }
            // One that was asked for before the address was to come here has not looked at its interface.
            let is_all = kept.is_some() || !keeps_address;
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
        (Intent::Detach { slot, .. }, Evidence::Released) => {
            if let Some(fact) = facts.volumes.get_mut(slot) {
                fact.place = Place::Free;
            }
        }
        (Intent::Detach { slot, instance, .. }, _) => {
            if let Some(fact) = facts.volumes.get_mut(slot) {
                fact.detach_tried_on = Some(instance.clone());
                if undoing {
                    fact.place = Place::Free;
                }
            }
        }
        (Intent::DetachInterface { interface, instance }, evidence) => {
            if let Some(fact) = facts.interface_mut(interface).filter(|fact| fact.place.is_on(instance)) {
                fact.detach_tried_on = Some(instance.clone());
                if undoing || *evidence == Evidence::Released {
                    fact.place = Place::Free;
                }
            }
        }
        (Intent::Fence { instance, .. }, Evidence::Fenced { reason, .. }) => {
            facts.launches_failed_because(instance, reason.as_deref());
            for holder in facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
                holder.fenced = true;
                holder.ended = true;
            }
        }
        (Intent::Release { slot, from, .. }, Evidence::Released) => {
            if let Some(fact) = facts.volumes.get_mut(slot).filter(|fact| fact.place.is_on(from)) {
                fact.place = Place::Free;
            }
        }
        (Intent::ReleaseInterface { interface, .. }, Evidence::Released) => {
            if let Some(fact) = facts.interface_mut(interface) {
                fact.place = Place::Free;
            }
        }
        // What is to end anyway may be gone already.
        (Intent::Release { slot, volume, .. }, Evidence::Lost { .. }) if ending => {
            if let Some(fact) = facts.volumes.get_mut(slot) {
                fact.place = Place::Free;
            }
            facts.deleted.push(volume.to_string());
        }
        (Intent::ReleaseInterface { interface, .. }, Evidence::Lost { .. }) if ending => {
            if let Some(fact) = facts.interface_mut(interface) {
                fact.place = Place::Free;
            }
            facts.deleted.push(interface.to_string());
        }
        // An interface holds no data: it is made anew, with the node's address.
        (
            Intent::ReleaseInterface { interface, .. }
            | Intent::AttachInterface { interface, .. }
            | Intent::Launch { interface: LaunchInterface::Kept(interface), .. },
            Evidence::Lost { .. },
        ) => facts.forget_interface(interface),
        (Intent::SnapshotRoot { .. }, Evidence::SnapshotCompleted { snapshot, .. }) => {
            facts.add_copy(snapshot.clone());
            if !outdated {
                facts.root_snapshot = Some(snapshot.clone());
            }
        }
        (Intent::SnapshotVolume { slot, volume, .. }, Evidence::SnapshotCompleted { snapshot, .. }) => {
            facts.add_copy(snapshot.clone());
            if let Some(fact) = facts
                .volumes
                .get_mut(slot)
                .filter(|fact| !outdated && fact.place == Place::Free && fact.id.as_ref() == Some(volume))
            {
                fact.snapshot = Some(snapshot.clone());
            }
        }
        (Intent::RegisterImage { snapshot, .. }, Evidence::ImageAvailable { image, .. }) => {
            facts.root_image = Some(image.clone());
            if facts.root_snapshot.as_ref() != Some(snapshot) {
                snapshot_ahead::outdate_image(op);
            }
        }
        (
            Intent::Launch { pool, image, interface, volumes, .. },
            Evidence::Launched { instance, spot_request },
        ) => {
            let launched_with = volumes
                .iter()
                .map(|volume| (volume.device.clone(), (volume.slot.clone(), volume.snapshot.clone())));
            if let (LaunchInterface::Kept(_), Some(held)) = (interface, &mut facts.interface) {
                held.place = Place::On(instance.clone());
            }
            facts.candidate = Some(Candidate {
                instance: instance.clone(),
                pool: pool.clone(),
                image: image.clone(),
                spot_request: spot_request.clone(),
                network: None,
                root_volume: None,
                root_device: None,
                protected: op.order.spec.persist.root == RootMode::None,
                adopted: false,
                launched_with: launched_with.collect(),
                address: None,
            });
        }
        (Intent::Launch { pool, .. }, Evidence::NoCapacity { code, .. }) => {
            let (pool, code) = (pool.clone(), code.clone());
            capacity::climb(op, pool, code, at_ms);
        }
        (Intent::Launch { pool, volumes, .. }, Evidence::InstanceGone { reason, .. }) => {
            if !volumes.is_empty() {
                facts.suspect_volumes_of(intent, &op.id);
            }
            let code = reason.clone().unwrap_or_else(|| "instance terminated".to_owned());
            let pool = pool.clone();
            facts.failed_launches += 1;
            facts.last_failure = format!("{pool}: {code}");
            capacity::climb(op, pool, code, at_ms);
        }
        (
            Intent::Start { instance, .. },
            Evidence::Started { interface, private_ip, root_device, root_volume, volumes },
        ) => {
            let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == *instance) else {
                return;
            };
            facts.failed_launches = 0;
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
        (Intent::AdoptRoot { instance, temporary, .. }, Evidence::Adopted { .. }) => {
            if let Some(root) = facts.volumes.get_mut(&Slot::Root) {
                root.place = Place::On(instance.clone());
                root.touched = true;
            }
            if let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == *instance) {
                candidate.adopted = true;
                // The flag of an adopted root is not documented: it is looked at before anything else happens.
                candidate.protected = false;
                candidate.root_volume = facts.volumes.get(&Slot::Root).and_then(|root| root.id.clone());
            }
            if let Some(temporary) = temporary {
                facts.add_temporary(temporary.clone());
            }
        }
        (Intent::Attach { slot, instance, .. }, Evidence::Attached) => {
            if let Some(fact) = facts.volumes.get_mut(slot) {
                fact.goes_to(instance);
            }
        }
        (Intent::Attach { slot, .. }, Evidence::DeviceInUse) => {
            if let (Some(fact), Some(another)) = (facts.volumes.get_mut(slot), another) {
                fact.device = another;
            }
        }
        // As with a volume: what may have been attached counts as attached.
        (
            Intent::AttachInterface { interface, instance, .. },
            Evidence::Attached | Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. },
        ) => {
            if let Some(fact) = facts.interface_mut(interface) {
                fact.place = Place::On(instance.clone());
            }
        }
        (Intent::ReturnAddress { subnet, .. }, Evidence::AddressReturned { .. }) => {
            facts.returned(subnet);
        }
        // One that is gone is found so by the steps that need it.
        (Intent::SetGroups { interface, groups }, Evidence::GroupsSet | Evidence::Lost { .. }) => {
            if let Some(fact) = facts.interface_mut(interface) {
                fact.groups = Some(groups.clone());
            }
        }
        (Intent::MoveAddress { instance, .. }, Evidence::Moved { address }) => {
            match facts.candidate.as_mut().filter(|candidate| candidate.instance == *instance) {
                Some(candidate) if Operation::has_moved(candidate) => candidate.address = Some(*address),
                // Of an instance in another subnet that was lost meanwhile.
                None if elsewhere => {}
                _ => facts.address = Some(*address),
            }
            facts.address_on = Some(instance.clone());
        }
        (Intent::Associate { allocation, instance, .. }, Evidence::Associated { public_ip }) => {
            let held = HeldElastic { allocation: allocation.clone(), public_ip: *public_ip };
            facts.elastic = Some((held, instance.clone()));
        }
        (Intent::Verify { .. }, Evidence::Verified) => facts.verified = true,
        (Intent::DeleteVolume { volume, .. }, Evidence::Deleted) => {
            for temporary in facts.temporary.iter_mut().filter(|temporary| temporary.volume == *volume) {
                temporary.deleted = true;
            }
            facts.deleted.push(volume.to_string());
            // Made by this operation and undone: if it goes forward after all, it is made anew.
            for fact in
                facts.volumes.values_mut().filter(|fact| !deleting && fact.id.as_ref() == Some(volume))
            {
                fact.id = None;
                fact.place = Place::Absent;
            }
        }
        (Intent::DeleteInterface { interface }, Evidence::Deleted) => {
            facts.deleted.push(interface.to_string());
            if !deleting {
                facts.forget_interface(interface);
            }
        }
        (Intent::Find { kind: made, tags }, Evidence::Found { resources }) => {
            facts.deleted.push(Resource::suspected(*made, tags));
            for resource in resources {
                if let Resource::Instance { instance, spot_request } = resource {
                    facts.holders.push(Holder::new(instance.clone(), spot_request.clone()));
                } else {
                    let because = format!("{}: made by a step that did not settle", op.id);
                    facts.orphans.push(Orphan { resource: resource.clone(), because });
                }
            }
        }
        (Intent::DeregisterImage { image }, Evidence::Deleted) => facts.deleted.push(image.to_string()),
        (Intent::DeleteSnapshot { snapshot }, Evidence::Deleted) => facts.deleted.push(snapshot.to_string()),
        // An attachment whose outcome is not known may have happened: the volume counts as there.
        (
            Intent::Attach { slot, instance, .. },
            Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. },
        ) => {
            if let Some(fact) = facts.volumes.get_mut(slot) {
                fact.goes_to(instance);
            }
        }
        // Whatever became of an adoption that did not succeed, the volume is seen free again before it is used.
        (Intent::AdoptRoot { instance, .. }, _) => {
            if let Some(root) = facts.volumes.get_mut(&Slot::Root) {
                root.place = Place::On(instance.clone());
                root.touched = true;
            }
        }
        _ => {}
    }
    if let Evidence::InstanceGone { instance, .. } = evidence
        && op.old().is_some_and(|old| old.instance == *instance)
    {
        op.facts.undoing = false;
    }
    if let Evidence::InstanceGone { instance, state, .. } = evidence
        && state.is_none_or(InstanceState::is_over)
    {
        for holder in op.facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
            holder.ended = true;
        }
    }
}

/// A volume was created: one that was absent, or a copy of one that is in another zone.
pub(super) fn made(op: &mut Operation, intent: &Intent, volume: &VolumeId) {
    let Intent::CreateVolume { slot, size_gib, zone, snapshot, .. } = intent else { return };
    let restored = op.facts.restore.remove(slot).is_some();
    let why = if restored { "it came back from a backup" } else { "the node moved to another zone" };
    let Some(fact) = op.facts.volumes.get(slot) else { return };
    let superseded = op.superseded(slot, fact, why);
    let is_copy = superseded.is_some();
    op.facts.superseded.extend(superseded);
    if let Some(fact) = op.facts.volumes.get_mut(slot) {
        *fact = VolumeFact {
            id: Some(volume.clone()),
            place: Place::Free,
            size_gib: Some(*size_gib),
            zone: Some(zone.clone()),
            made_from: snapshot.clone().filter(|_| is_copy && !restored),
            found: fact.found.as_ref().map(Found::copied),
            // A copy holds the node's data before any instance has written to it.
            touched: is_copy || (restored && op.order.kind != OperationKind::Provision),
            ..VolumeFact::absent(fact.device.clone())
        };
    }
}

/// The launch has made a copy of a volume.
pub(super) fn replace_by_copy(
    op: &mut Operation,
    slot: &Slot,
    volume: &VolumeId,
    snapshot: &SnapshotId,
    pool: &CapacityPool,
) {
    let zone = op.facts.placement.as_ref().map(|placement| op.zone_of(placement, pool).to_owned());
    let Some(fact) = op.facts.volumes.get(slot) else { return };
    let superseded = op.superseded(slot, fact, "it went on as a copy, by its snapshot");
    op.facts.superseded.extend(superseded);
    let restored = op.facts.restore.remove(slot).is_some();
    let wanted = launch_size(op, slot, pool);
    if let Some(fact) = op.facts.volumes.get_mut(slot) {
        *fact = VolumeFact {
            id: Some(volume.clone()),
            size_gib: wanted.or(fact.size_gib),
            zone,
            made_from: (!restored).then(|| snapshot.clone()),
            found: fact.found.as_ref().map(Found::copied),
            ..VolumeFact::absent(fact.device.clone())
        };
    }
}

/// How large the launch made a volume.
pub(super) fn launch_size(op: &Operation, slot: &Slot, pool: &CapacityPool) -> Option<u32> {
    op.steps.values().rev().find_map(|record| match record.intent.as_ref() {
        Intent::Launch { pool: asked, volumes, .. } if asked == pool => {
            volumes.iter().find(|volume| volume.slot == *slot)?.size_gib
        }
        _ => None,
    })
}

/// Whether an instance was launched in another subnet than the node was in.
fn was_elsewhere(op: &Operation, instance: &InstanceId) -> bool {
    op.launch_of(instance)
        .is_some_and(|launch| matches!(launch.as_ref(), Intent::Launch { pool, .. } if pool.subnet.is_some()))
}
