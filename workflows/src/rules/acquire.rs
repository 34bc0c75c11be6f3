//! The acquire half, shared by `provision` and `replace`: missing resources are created, an instance is
//! launched, and every resource of the node is brought onto it.

use crate::model::aws::{AllocationId, InstanceId, SnapshotId, SubnetId};
use crate::model::image::Placement;
use crate::model::operation_id::OperationKind;
use crate::model::resources::Resource;
use crate::model::root::RootMethod;
use crate::model::volume::Slot;
use crate::operation::facts::{Candidate, Place};
use crate::operation::state::{Due, Operation};
use crate::rules::cleanup::{clean, orphans};
use crate::rules::transfer::TransferMethod;
use crate::rules::{
    address_retention, attached_volumes, capacity, existing_volumes, interface, launch_refused, root_clone,
    snapshot_ahead, survey,
};
use crate::spec::node::{DataVolumeSpec, Handover, NetworkMode};
use crate::step::intent::{
    AdoptRoot, Associate, Attach, CreateVolume, DeleteSnapshot, DeleteVolume, DeregisterImage, Intent,
    Launch, LaunchInterface, MoveAddress, Preserve, RegisterImage, Resolve, SnapshotRoot, SnapshotVolume,
    Start, Verify,
};
use crate::step::name::{OfVolume, Only, StepName};

/// Every rule of the acquire half that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let spec = &op.order.spec;
    let Some(placement) = &op.facts.placement else {
        let home = &op.facts.subnet;
        // A new instance may be in a subnet that the file no longer names.
        let new = op.facts.candidate.iter().filter_map(|candidate| candidate.pool.subnet.as_ref());
        let unnamed = new.filter(|subnet| !spec.subnets().any(|named| named == *subnet));
        let others = spec.subnets().chain(unnamed).filter(|subnet| *subnet != home).cloned().collect();
        return vec![
            Intent::Resolve(Resolve { subnet: home.clone(), image: spec.image.clone(), others }).into(),
        ];
    };
    let mut due = Vec::new();
    due.extend(survey::due(op, placement));
    make(op, placement, &mut due);
    copy(op, placement, &mut due);
    due.extend(snapshot_ahead::due(op));
    match op.root_method() {
        RootMethod::Image => image(op, placement, &mut due),
        RootMethod::Clone => due.extend(root_clone::clone(op)),
        RootMethod::Fresh | RootMethod::Adopt => {}
    }
    match &op.facts.candidate {
        None => due.extend(launch(op, placement)),
        Some(candidate) if !candidate.runs() => {
            due.push(
                Intent::Start(Start {
                    instance: candidate.instance.clone(),
                    devices: candidate.launched_with.keys().cloned().collect(),
                })
                .into(),
            );
        }
        Some(candidate) => carry(op, candidate, &mut due),
    }
    due
}

/// Creates missing resources. A node that may land in several zones creates its volumes once the zone is
/// known.
fn make(op: &Operation, placement: &Placement, due: &mut Vec<Due>) {
    let zone = match &op.facts.candidate {
        Some(candidate) if candidate.runs() => op.zone_of(placement, &candidate.pool),
        Some(_) | None if placement.other_zones.is_empty() => &placement.zone,
        Some(_) | None => "",
    };
    for wanted in &attached_volumes::wishes(op) {
        let slot = Slot::Data(wanted.name.clone());
        let absent = op.facts.volumes.get(&slot).is_some_and(|fact| fact.place == Place::Absent);
        if absent {
            let from = op.facts.restore.get(&slot).or(wanted.snapshot.as_ref()).cloned();
            let made = || create_volume(op, wanted, zone, wanted.size_gib, from);
            // An existing volume is claimed where the node lives, wherever the node lands.
            let taken = existing_volumes::take(op, wanted, &placement.zone);
            due.extend(taken.or_else(|| (!zone.is_empty()).then(made)));
        }
    }
    due.extend(interface::create(op));
    due.extend(interface::set_groups(op));
}

fn create_volume(
    op: &Operation,
    wanted: &DataVolumeSpec,
    zone: &str,
    size_gib: u32,
    snapshot: Option<SnapshotId>,
) -> Due {
    let slot = Slot::Data(wanted.name.clone());
    let step = OfVolume::Create.of(&slot);
    Intent::CreateVolume(CreateVolume {
        client_token: op.client_token(&step),
        tags: op.tags(&step, "data"),
        slot,
        zone: zone.to_owned(),
        size_gib,
        volume_type: wanted.volume_type.clone(),
        iops: wanted.iops,
        throughput: wanted.throughput,
        encrypted: wanted.encrypted,
        kms_key: wanted.kms_key.clone(),
        snapshot,
    })
    .into()
}

/// Data volumes that continue as copies: a final snapshot of each free one and, in the zone of a running
/// instance, a new volume from it.
fn copy(op: &Operation, placement: &Placement, due: &mut Vec<Due>) {
    let Some(pool) = op.target() else { return };
    for wanted in &attached_volumes::wishes(op) {
        let slot = Slot::Data(wanted.name.clone());
        let Some(fact) = op.facts.volumes.get(&slot) else { continue };
        let (Place::Free, Some(volume)) = (&fact.place, &fact.id) else { continue };
        let way = op.transfer_method(&slot, fact, &pool);
        let runs = op.facts.candidate.as_ref().is_some_and(|candidate| candidate.runs());
        // While an attachment is open, its instance may write: a snapshot from before it is not used.
        let own = fact.snapshot.as_ref().filter(|_| !op.is_being_attached(&slot));
        match (way, op.facts.restore.get(&slot).or(own)) {
            (TransferMethod::Attach, _) => {}
            (TransferMethod::Copy | TransferMethod::Launch, None) if !snapshot_ahead::is_clear(op, &slot) => {
            }
            (TransferMethod::Copy | TransferMethod::Launch, None) => {
                let (tags, ahead_ms) = snapshot_ahead::tags(op, volume).unzip();
                let tags = tags.unwrap_or_else(|| op.tags(&OfVolume::Snapshot.of(&slot), "data"));
                let volume = volume.clone();
                due.push(Intent::SnapshotVolume(SnapshotVolume { slot, volume, tags, ahead_ms }).into());
            }
            // Only past the point of no return is the old volume given up for its copy.
            (TransferMethod::Copy, Some(snapshot))
                if runs && op.facts.holders.iter().all(|holder| holder.fenced) =>
            {
                let size_gib = wanted.size_gib.max(fact.size_gib.unwrap_or(0));
                let zone = op.zone_of(placement, &pool);
                due.push(create_volume(op, wanted, zone, size_gib, Some(snapshot.clone())));
            }
            (TransferMethod::Copy | TransferMethod::Launch, Some(_)) => {}
        }
    }
}

/// The root continues as an image of itself.
fn image(op: &Operation, placement: &Placement, due: &mut Vec<Due>) {
    match (&op.facts.root.snapshot, &op.facts.root.image) {
        (None, _) => {
            let Some(root) = op.facts.volumes.get(&Slot::Root) else { return };
            let (Place::Free, Some(volume)) = (&root.place, &root.id) else { return };
            if !snapshot_ahead::is_clear(op, &Slot::Root) {
                return;
            }
            let (tags, ahead_ms) = snapshot_ahead::tags(op, volume).unzip();
            let tags = tags.unwrap_or_else(|| op.tags(&Only::SnapshotRoot.into(), "root"));
            let volume = volume.clone();
            due.push(Intent::SnapshotRoot(SnapshotRoot { volume, tags, ahead_ms }).into());
        }
        (Some(snapshot), None) => due.push(
            Intent::RegisterImage(RegisterImage {
                name: image_name(op, snapshot),
                snapshot: snapshot.clone(),
                facts: placement.image.clone(),
                uefi_data: op.facts.uefi_data.clone(),
                tags: op.tags(&Only::RegisterImage.into(), "root"),
            })
            .into(),
        ),
        (Some(_), Some(_)) => {}
    }
}

/// The name that makes RegisterImage repeatable. Names are unique per account and region, not per
/// installation. Two installations may each have a `db-1.2`, but no two snapshots have one id.
fn image_name(op: &Operation, snapshot: &SnapshotId) -> String {
    format!("perennial-{}-{}-{snapshot}", op.id, op.next_attempt(&Only::RegisterImage.into()))
}

/// One launch, in the next pool of the ladder.
fn launch(op: &Operation, placement: &Placement) -> Option<Due> {
    let (spec, facts) = (&op.order.spec, &op.facts);
    // An adoption under way on a lost instance settles first: its outcome decides the root method of the
    // launch.
    if op.has_open(&Only::AdoptRoot.into()) || capacity::is_awaited(op) {
        return None;
    }
    // A copy of the node boots with the instance. An instance that was given up may run another copy until it
    // is fenced; no two of them run at once.
    if op.launches_late() && op.facts.holders.iter().any(|holder| !holder.is_old && !holder.fenced) {
        return None;
    }
    let asked = capacity::next(op)?;
    let pool = asked.pool;
    let image = match op.root_method_of(&pool) {
        RootMethod::Fresh | RootMethod::Adopt | RootMethod::Clone => spec.image.clone(),
        RootMethod::Image => facts.root.image.clone()?,
    };
    let volumes = op.launch_volumes(&pool)?;
    let new = |subnet: &SubnetId| LaunchInterface::New {
        subnet: subnet.clone(),
        groups: spec.security_groups.clone(),
    };
    let kept = facts.network.interface.as_ref().filter(|_| spec.persist.network == NetworkMode::PrimaryEni);
    let interface = match (kept, &pool.subnet) {
        (_, Some(subnet)) => new(subnet),
        (None, None) => match launch_refused::kept_interface(op, &pool) {
            Some(kept) => LaunchInterface::Kept(kept),
            None => new(&facts.subnet),
        },
        (Some(fact), None) => match (&fact.place, &fact.held) {
            (Place::Free, Some(held)) if interface::are_groups_right(op) => {
                LaunchInterface::Kept(held.interface.clone())
            }
            _ => return None,
        },
    };
    // The requested size and type of the root are for the node's own root, not for one that is booted only
    // once.
    let own_root = facts.root.method == RootMethod::Fresh;
    let intent = Intent::Launch(Launch {
        client_token: op.client_token(&Only::Launch.into()),
        ask_anyway: asked.ask_anyway,
        on_demand_max: asked.on_demand_max,
        price_max: spec.capacity.price_max.clone(),
        rank: survey::rank(op, &pool),
        zone: op.zone_of(placement, &pool).to_owned(),
        pool,
        suppress: attached_volumes::suppressed(op, &image, &volumes),
        image,
        interface,
        volumes,
        root_device: placement.image.root_device.clone(),
        root_size_gib: spec.root.size_gib.filter(|_| own_root),
        root_volume_type: spec.root.volume_type.clone().filter(|_| own_root),
        root_iops: spec.root.iops.filter(|_| own_root),
        root_throughput: spec.root.throughput.filter(|_| own_root),
        root_encrypted: spec.root.encrypted && own_root,
        root_kms_key: spec.root.kms_key.clone().filter(|_| own_root),
        metadata: spec.launch_metadata(),
        template: spec.launch_template.clone(),
        key_name: spec.key_name.clone(),
        instance_profile: spec.instance_profile.clone(),
        user_data: spec.user_data.clone(),
        tags: op.tags(&Only::Launch.into(), "instance"),
    });
    Some(Due { intent, not_before_ms: facts.ladder.not_before_ms })
}

/// Brings every resource of the node onto the running candidate.
fn carry(op: &Operation, candidate: &Candidate, due: &mut Vec<Due>) {
    let facts = &op.facts;
    if !candidate.protected
        && let Some(root) = candidate.root_volume()
    {
        due.push(
            Intent::Preserve(Preserve {
                instance: candidate.instance.clone(),
                volumes: vec![root.clone()],
                interface: None,
                address_interface: None,
                others: None,
                uefi: false,
            })
            .into(),
        );
    }
    if root_clone::is_ready(op, op.root_method_of(&candidate.pool))
        && candidate.protected
        && !candidate.adopted
        && let Some(root) = facts.volumes.get(&Slot::Root)
        && let (Place::Free, Some(volume)) = (&root.place, &root.id)
    {
        due.push(
            Intent::AdoptRoot(AdoptRoot {
                instance: candidate.instance.clone(),
                volume: volume.clone(),
                temporary: candidate.root_volume().cloned(),
                client_token: op.client_token(&Only::AdoptRoot.into()),
                tags: op.tags(&Only::AdoptRoot.into(), "root"),
            })
            .into(),
        );
    }
    for (slot, fact) in &facts.volumes {
        if let (Slot::Data(_), Place::Free, Some(volume)) = (slot, &fact.place, &fact.id)
            && op.transfer_method(slot, fact, &candidate.pool) == TransferMethod::Attach
            // Created before a cancellation that ended: it may be deleted in a moment, and is then created
            // again.
            && !op.has_open(&StepName::DeleteVolume(volume.clone()))
        {
            due.push(
                Intent::Attach(Attach {
                    slot: slot.clone(),
                    volume: volume.clone(),
                    instance: candidate.instance.clone(),
                    device: fact.device.clone(),
                })
                .into(),
            );
        }
    }
    due.extend(interface::carry(op, candidate));
    carry_addresses(op, candidate, due);
    if in_place(op, candidate) {
        finish(op, candidate, due);
    }
}

/// Brings the node's private and public address onto the running candidate.
fn carry_addresses(op: &Operation, candidate: &Candidate, due: &mut Vec<Due>) {
    if may_move_address(op, candidate)
        && let Some(interface) = candidate.interface()
    {
        due.push(
            Intent::MoveAddress(MoveAddress {
                instance: candidate.instance.clone(),
                interface: interface.clone(),
                address: op.address_on(candidate),
                from: op.own_instances(&candidate.instance),
                own: op.own_tags(),
            })
            .into(),
        );
    }
    if let Some(allocation) = &op.order.spec.network.elastic_ip
        && !leads_to(op, allocation, &candidate.instance)
        && may_move(op, candidate)
        && has_address(op, candidate)
        && let Some(interface) = candidate.interface()
    {
        due.push(
            Intent::Associate(Associate {
                allocation: allocation.clone(),
                instance: candidate.instance.clone(),
                interface: interface::addressed(op, candidate.pool.subnet.as_ref(), interface),
                private_ip: op
                    .address_on(candidate)
                    .filter(|_| op.order.spec.persist.network.moves_address()),
                from: op.own_instances(&candidate.instance),
                own: op.own_tags(),
            })
            .into(),
        );
    }
}

/// Whether the Elastic IP address leads to an instance.
pub(crate) fn leads_to(op: &Operation, allocation: &AllocationId, instance: &InstanceId) -> bool {
    op.facts
        .network
        .elastic
        .as_ref()
        .is_some_and(|(held, on)| held.allocation == *allocation && on == instance)
}

/// Whether the candidate has the node's own address, if there is one that moves.
fn has_address(op: &Operation, candidate: &Candidate) -> bool {
    match op.order.spec.persist.network {
        NetworkMode::SecondaryIp | NetworkMode::IpPool => {
            op.facts.network.address_on.as_ref() == Some(&candidate.instance)
        }
        NetworkMode::SecondaryEni => interface::is_on(op, &candidate.instance),
        NetworkMode::PrimaryEni | NetworkMode::None => true,
    }
}

/// Whether the node's own address is to move to the candidate now.
fn may_move_address(op: &Operation, candidate: &Candidate) -> bool {
    op.order.spec.persist.network.moves_address() && !has_address(op, candidate) && may_move(op, candidate)
}

/// Addresses follow the data: they move when no data is left on an instance that may still run.
fn may_move(op: &Operation, candidate: &Candidate) -> bool {
    let data_left = op.facts.volumes.iter().any(|(slot, fact)| {
        matches!(slot, Slot::Data(_))
            && matches!(&fact.place, Place::On(on) if *on != candidate.instance && !op.facts.is_fenced(on))
    });
    let fenced = op.facts.holders.iter().all(|holder| holder.fenced);
    match op.order.spec.persist.handover {
        Handover::Terminate => fenced,
        Handover::Detach => fenced || !data_left,
    }
}

/// Whether every resource of the node is on the candidate.
pub(crate) fn in_place(op: &Operation, candidate: &Candidate) -> bool {
    let on_candidate = |place: &Place| matches!(place, Place::On(on) if *on == candidate.instance);
    let data = op
        .facts
        .volumes
        .iter()
        .filter(|(slot, _)| **slot != Slot::Root)
        // A volume that the file no longer names, and that was never created, is not waited for.
        .filter(|(slot, fact)| fact.place != Place::Absent || attached_volumes::wish(op, slot).is_some())
        .all(|(_, fact)| on_candidate(&fact.place));
    let root = match op.root_method_of(&candidate.pool) {
        RootMethod::Adopt | RootMethod::Clone => candidate.adopted && candidate.protected,
        RootMethod::Fresh => candidate.protected,
        RootMethod::Image => candidate.protected && op.facts.root.image.as_ref() == Some(&candidate.image),
    };
    let network = match op.order.spec.persist.network {
        NetworkMode::PrimaryEni => {
            Operation::has_moved(candidate)
                || op.facts.network.interface.as_ref().is_some_and(|fact| on_candidate(&fact.place))
        }
        NetworkMode::SecondaryIp | NetworkMode::SecondaryEni | NetworkMode::IpPool | NetworkMode::None => {
            has_address(op, candidate)
        }
    };
    let elastic = match &op.order.spec.network.elastic_ip {
        Some(allocation) => leads_to(op, allocation, &candidate.instance),
        None => true,
    };
    data && root && network && elastic && interface::are_groups_right(op)
}

/// Preserves and verifies everything, then cleans up.
fn finish(op: &Operation, candidate: &Candidate, due: &mut Vec<Due>) {
    let facts = &op.facts;
    let volumes = op.volumes_on_candidate();
    let own_interface = op.interface_on(candidate);
    let address_interface = address_retention::preserved(op, &candidate.instance);
    if !candidate.preserved && (!volumes.is_empty() || own_interface.is_some() || address_interface.is_some())
    {
        due.push(
            Intent::Preserve(Preserve {
                instance: candidate.instance.clone(),
                volumes: volumes.into_values().collect(),
                interface: own_interface,
                address_interface,
                others: None,
                uefi: false,
            })
            .into(),
        );
        return;
    }
    if !candidate.verified {
        due.push(
            Intent::Verify(Verify {
                instance: candidate.instance.clone(),
                volumes,
                interface: candidate
                    .interface()
                    .map(|primary| interface::addressed(op, candidate.pool.subnet.as_ref(), primary)),
                address: op.address_on(candidate),
            })
            .into(),
        );
        return;
    }
    // Resources on a lost instance are free only after its fence.
    if facts.holders.iter().any(|holder| !holder.fenced) {
        return;
    }
    // Another loss is known: the next operation can clean up as well, so this one ends now.
    if facts.carried_over.is_some() {
        return;
    }
    due.extend(orphans(op));
    let superseded = op.superseded_things();
    let loose = superseded.iter().filter(|resource| match resource {
        Resource::Interface { interface } => op.is_to_clean(interface) && interface::is_free(op, interface),
        Resource::Snapshot { .. } if op.has_images_to_clean() => false,
        resource => op.is_to_clean(*resource),
    });
    due.extend(loose.filter_map(clean).map(Due::from));
    for temporary in facts.cleanup.temporaries() {
        let ours = volumes.values().any(|volume| volume == temporary);
        if !ours && op.is_to_clean(temporary) {
            due.push(
                Intent::DeleteVolume(DeleteVolume {
                    volume: temporary.clone(),
                    role: "temporary root".to_owned(),
                    retained: None,
                })
                .into(),
            );
        }
    }
    if matches!(op.order.kind, OperationKind::Replace | OperationKind::Resume) && facts.root.image.is_some() {
        for old in &op.order.before.root_images {
            if op.is_to_clean(&old.image) {
                due.push(Intent::DeregisterImage(DeregisterImage { image: old.image.clone() }).into());
            } else if !old.borrowed && facts.cleanup.is_deleted(&old.image) && op.is_to_clean(&old.snapshot) {
                due.push(Intent::DeleteSnapshot(DeleteSnapshot { snapshot: old.snapshot.clone() }).into());
            }
        }
    }
}
