//! How evidence becomes facts.

use std::sync::Arc;

use super::{Candidate, Holder, InterfaceFact, Operation, Place, RootRung, VolumeFact};
use crate::aws::{InstanceId, InstanceState, SnapshotId, VolumeId};
use crate::found::Found;
use crate::node::{HeldElastic, HeldInterface, Leftover, OperationKind, Thing};
use crate::spec::{NetworkMode, Pool, RootMode};
use crate::steps::{Evidence, Intent, LaunchInterface, Slot};
use crate::{ahead, capacity, cloning, devices, final_backup, found, keeping, survey, uefi};

/// Why a candidate is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// It is or will be gone: the next launch asks another pool.
    Lost,
    /// It was launched for another way of carrying the root: its own root is of no worth.
    RungChanged,
    /// The operation ends without it.
    Cancelled,
}

impl Operation {
    /// Turns evidence into facts.
    pub(super) fn learn(&mut self, intent: &Intent, evidence: &Evidence, at_ms: u64) {
        let deleting = self.order.kind == OperationKind::Delete;
        let ending = deleting || (self.facts.undoing && self.order.kind == OperationKind::Provision);
        if self.may_be_left(intent)
            && let Some(id) = intent.cleans()
        {
            let because = match evidence {
                Evidence::Refused { code, message } => Some(format!("{code}: {message}")),
                Evidence::OutOfTime { because } => Some(format!("not in time: {because}")),
                _ => None,
            };
            if let Some(because) = because {
                self.facts.uncleaned.insert(id, because);
            }
        }
        if (self.facts.undoing || self.facts.diverted.is_some())
            && matches!(evidence, Evidence::OutOfTime { .. })
        {
            self.suspect(intent);
        }
        found::leave(self, evidence);
        let undoing = self.facts.undoing;
        let given_up = self.gives_up();
        let another = devices::another(self).filter(|_| *evidence == Evidence::DeviceInUse);
        let elsewhere =
            matches!(intent, Intent::MoveAddress { instance, .. } if self.was_elsewhere(instance));
        let outdated = ahead::is_outdated(self, intent);
        let keeps_address = match intent {
            Intent::Preserve { instance, .. } => keeping::preserved(self, instance).is_some(),
            _ => false,
        };
        let facts = &mut self.facts;
        match (intent, evidence) {
            (Intent::Resolve { .. }, Evidence::Resolved(placement)) => {
                facts.placement = Some(placement.clone());
                found::map(self);
            }
            (Intent::Survey(question), evidence) => survey::learn(self, question, evidence, at_ms),
            (Intent::Grow { slot, .. }, Evidence::Grown { size_gib }) => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.size_gib = Some(*size_gib);
                }
            }
            (Intent::CreateVolume { .. }, Evidence::VolumeCreated { volume }) => self.made(intent, volume),
            (Intent::CloneRoot { volume: of, .. }, Evidence::VolumeCreated { volume }) => {
                cloning::cloned(self, of, volume);
            }
            // It may come into being all the same.
            (Intent::CloneRoot { .. }, Evidence::OutOfTime { .. }) if !given_up => self.suspect(intent),
            (Intent::FinalSnapshot { .. } | Intent::SnapshotAhead { .. }, evidence) => {
                // Of one that is given up with the operation that is remembered already.
                let is_suspected = given_up && matches!(evidence, Evidence::OutOfTime { .. });
                if final_backup::may_have_made_one(evidence) && !is_suspected {
                    self.suspect(intent);
                }
                ahead::learn(self, intent, evidence);
            }
            (Intent::TakeVolume { slot, volume, zone, .. }, Evidence::VolumeTaken { size_gib, traits }) => {
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
                    facts.made_elsewhere(subnet, fact, &self.id);
                }
            }
            (
                Intent::Preserve { instance, keeping: kept, .. },
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
                    holder.known_over = true;
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
                facts.gone.push(volume.to_string());
            }
            (Intent::ReleaseInterface { interface, .. }, Evidence::Lost { .. }) if ending => {
                if let Some(fact) = facts.interface_mut(interface) {
                    fact.place = Place::Free;
                }
                facts.gone.push(interface.to_string());
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
                    ahead::outdate_image(self);
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
                    protected: self.order.spec.persist.root == RootMode::None,
                    adopted: false,
                    launched_with: launched_with.collect(),
                    address: None,
                });
            }
            (Intent::Launch { pool, .. }, Evidence::NoCapacity { code, .. }) => {
                let (pool, code) = (pool.clone(), code.clone());
                capacity::climb(self, pool, code, at_ms);
            }
            (Intent::Launch { pool, volumes, .. }, Evidence::InstanceGone { reason, .. }) => {
                if !volumes.is_empty() {
                    facts.suspect_volumes_of(intent, &self.id);
                }
                let code = reason.clone().unwrap_or_else(|| "instance terminated".to_owned());
                let pool = pool.clone();
                facts.failed_launches += 1;
                facts.last_failure = format!("{pool}: {code}");
                capacity::climb(self, pool, code, at_ms);
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
                    self.replace_by_copy(slot, volume, snapshot, &pool);
                    if let Some(fact) = self.facts.volumes.get_mut(slot) {
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
                    Some(candidate) if Self::has_moved(candidate) => candidate.address = Some(*address),
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
                facts.gone.push(volume.to_string());
                // Made by this operation and undone: if it goes forward after all, it is made anew.
                for fact in
                    facts.volumes.values_mut().filter(|fact| !deleting && fact.id.as_ref() == Some(volume))
                {
                    fact.id = None;
                    fact.place = Place::Absent;
                }
            }
            (Intent::DeleteInterface { interface }, Evidence::Deleted) => {
                facts.gone.push(interface.to_string());
                if !deleting {
                    facts.forget_interface(interface);
                }
            }
            (Intent::Find { made, tags }, Evidence::Found { things }) => {
                facts.gone.push(Thing::suspected(*made, tags));
                for thing in things {
                    if let Thing::Instance { instance, spot_request } = thing {
                        facts.holders.push(Holder::new(instance.clone(), spot_request.clone()));
                    } else {
                        let because = format!("{}: made by a step that did not settle", self.id);
                        facts.things.push(Leftover { thing: thing.clone(), because });
                    }
                }
            }
            (Intent::DeregisterImage { image }, Evidence::Deleted) => facts.gone.push(image.to_string()),
            (Intent::DeleteSnapshot { snapshot }, Evidence::Deleted) => facts.gone.push(snapshot.to_string()),
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
            && self.old().is_some_and(|old| old.instance == *instance)
        {
            self.facts.undoing = false;
        }
        if let Evidence::InstanceGone { instance, state, .. } = evidence
            && state.is_none_or(InstanceState::is_over)
        {
            for holder in self.facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
                holder.known_over = true;
            }
        }
    }

    /// A volume was created: one that was absent, or a copy of one that is in another zone.
    pub(super) fn made(&mut self, intent: &Intent, volume: &VolumeId) {
        let Intent::CreateVolume { slot, size_gib, zone, snapshot, .. } = intent else { return };
        let restored = self.facts.restore.remove(slot).is_some();
        let why = if restored { "it came back from a backup" } else { "the node moved to another zone" };
        let Some(fact) = self.facts.volumes.get(slot) else { return };
        let superseded = self.superseded(slot, fact, why);
        let is_copy = superseded.is_some();
        self.facts.superseded.extend(superseded);
        if let Some(fact) = self.facts.volumes.get_mut(slot) {
            *fact = VolumeFact {
                id: Some(volume.clone()),
                place: Place::Free,
                size_gib: Some(*size_gib),
                zone: Some(zone.clone()),
                made_from: snapshot.clone().filter(|_| is_copy && !restored),
                found: fact.found.as_ref().map(Found::copied),
                // A copy holds the node's data before any instance has written to it.
                touched: is_copy || (restored && self.order.kind != OperationKind::Provision),
                ..VolumeFact::absent(fact.device.clone())
            };
        }
    }

    /// The launch has made a copy of a volume.
    pub(super) fn replace_by_copy(
        &mut self,
        slot: &Slot,
        volume: &VolumeId,
        snapshot: &SnapshotId,
        pool: &Pool,
    ) {
        let zone = self.facts.placement.as_ref().map(|placement| self.zone_of(placement, pool).to_owned());
        let Some(fact) = self.facts.volumes.get(slot) else { return };
        let superseded = self.superseded(slot, fact, "it went on as a copy, by its snapshot");
        self.facts.superseded.extend(superseded);
        let restored = self.facts.restore.remove(slot).is_some();
        let wanted = self.launch_size(slot, pool);
        if let Some(fact) = self.facts.volumes.get_mut(slot) {
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
    pub(super) fn launch_size(&self, slot: &Slot, pool: &Pool) -> Option<u32> {
        self.steps.values().rev().find_map(|record| match record.intent.as_ref() {
            Intent::Launch { pool: asked, volumes, .. } if asked == pool => {
                volumes.iter().find(|volume| volume.slot == *slot)?.size_gib
            }
            _ => None,
        })
    }

    /// The request an instance was launched by.
    pub(super) fn launch_of(&self, instance: &InstanceId) -> Option<Arc<Intent>> {
        self.steps.values().rev().find_map(|record| match &record.outcome {
            Some((Evidence::Launched { instance: launched, .. }, _)) if launched == instance => {
                Some(Arc::clone(&record.intent))
            }
            _ => None,
        })
    }

    /// Whether an instance was launched in another subnet than the node was in.
    fn was_elsewhere(&self, instance: &InstanceId) -> bool {
        self.launch_of(instance).is_some_and(
            |launch| matches!(launch.as_ref(), Intent::Launch { pool, .. } if pool.subnet.is_some()),
        )
    }

    /// The candidate becomes one more instance to fence.
    pub(super) fn give_up_candidate(&mut self, at_ms: u64, why: GivenUp) {
        let keeps_root = self.keeps_root();
        let Some(candidate) = self.facts.candidate.take() else { return };
        let rung = self.rung_of(&candidate.pool);
        // What was made with an instance that never ran is nobody's.
        if candidate.network.is_none()
            && !candidate.launched_with.is_empty()
            && let Some(launch) = self.launch_of(&candidate.instance)
        {
            self.facts.suspect_volumes_of(&launch, &self.id);
        }
        if Self::has_moved(&candidate)
            && self.facts.final_preserved
            && self.order.spec.persist.network == NetworkMode::PrimaryEni
            && let Some((interface, _)) = &candidate.network
        {
            let thing = Thing::Interface { interface: interface.clone() };
            self.facts.things.push(Leftover { thing, because: format!("{}: of a lost instance", self.id) });
        }
        let adopting = self.steps.values().any(|record| {
            record.outcome.is_none()
                && matches!(record.intent.as_ref(), Intent::AdoptRoot { instance, .. } if *instance == candidate.instance)
        });
        let keeps_address = keeping::preserved(self, &candidate.instance).is_some();
        let facts = &mut self.facts;
        if adopting && let Some(root) = facts.volumes.get_mut(&Slot::Root) {
            // The task may have put it there already, with a DeleteOnTermination nobody has looked at.
            root.place = Place::On(candidate.instance.clone());
            root.touched = true;
        }
        let carries =
            keeps_address || facts.volumes.values().any(|fact| fact.place.is_on(&candidate.instance));
        if let Some(root) = candidate.root_volume.clone().filter(|_| !candidate.adopted) {
            // A root that was launched to be the node's own may have been written to; only one that waited for an
            // adoption is surely of no worth.
            // One that was not protected yet dies with its instance, if no call under way protects it after all.
            let adopts = matches!(rung, RootRung::Adopt | RootRung::Clone);
            let of_no_worth = adopts || !keeps_root || !candidate.protected;
            if of_no_worth || why == GivenUp::RungChanged {
                facts.add_temporary(root);
            } else {
                facts.outlived.push(root);
            }
        }
        if facts.address_on.as_ref() == Some(&candidate.instance) {
            facts.address_on = None;
        }
        if facts.elastic.as_ref().is_some_and(|(_, on)| *on == candidate.instance) {
            facts.elastic = None;
        }
        facts.final_preserved = false;
        facts.verified = false;
        facts.carried_over = None;
        facts
            .holders
            .push(Holder { preserved: !carries, ..Holder::new(candidate.instance, candidate.spot_request) });
        if why == GivenUp::Lost {
            capacity::climb(self, candidate.pool, "lost before it carried the node".to_owned(), at_ms);
        }
    }
}
