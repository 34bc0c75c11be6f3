//! What an operation leaves: what belongs to the node at its end, and what is left over.

use std::collections::BTreeMap;

use crate::model::operation_id::{OperationKind, Outcome};
use crate::model::resources::{Carrier, HeldInterface, HeldVolume, Resources, Retained, RootImage};
use crate::model::volume::Slot;
use crate::operation::facts::{Candidate, Running};
use crate::operation::state::Operation;
use crate::rules::{cleanup, recovery_point, uefi};
use crate::workflow::{adopt_volumes, delete, grow, pause, prune, undo};

/// What belongs to the node, if everything is in place.
pub(super) fn finished(op: &Operation) -> Option<(Resources, Outcome)> {
    if op.steps.values().any(|record| record.outcome.is_none()) {
        return None;
    }
    if op.facts.is_undoing() {
        return undo::restored(op).map(|resources| (resources, Outcome::Cancelled));
    }
    if op.facts.diversion().is_some() {
        let outcome =
            if op.order.kind == OperationKind::Pause { Outcome::Completed } else { Outcome::Paused };
        return pause::paused(op, op.started_at_ms).map(|resources| (resources, outcome));
    }
    let resources = match op.order.kind {
        OperationKind::Provision | OperationKind::Replace | OperationKind::Resume => carried_resources(op),
        OperationKind::Pause => pause::paused(op, op.started_at_ms),
        OperationKind::Delete => delete::remaining(op),
        OperationKind::Grow => grow::grown(op),
        OperationKind::AdoptVolumes => adopt_volumes::adopted(op),
        OperationKind::Prune => prune::pruned(op),
    };
    resources.map(|resources| (resources, Outcome::Completed))
}

/// What belongs to the node once the candidate carries it.
pub(super) fn carried_resources(op: &Operation) -> Option<Resources> {
    let facts = &op.facts;
    let candidate = facts.candidate.as_ref()?;
    let running = candidate.running.as_ref()?;
    if !candidate.verified || facts.holders.iter().any(|holder| !holder.fenced) {
        return None;
    }
    let (volumes, retained) = volumes_and_retained(op, candidate);
    let subnet = candidate.pool.subnet.as_ref().unwrap_or(&facts.subnet);
    Some(Resources {
        subnet: (*subnet != op.order.spec.subnet).then(|| subnet.clone()),
        placement: facts.placement.as_ref().map(|placement| match &candidate.pool.subnet {
            Some(subnet) => placement.moved(&facts.subnet, subnet),
            None => placement.clone(),
        }),
        carrier: Some(Carrier {
            instance: candidate.instance.clone(),
            instance_type: candidate.pool.instance_type.clone(),
            market: candidate.pool.market,
            interface: running.interface.clone(),
            private_ip: running.private_ip,
            spot_request: candidate.spot_request.clone(),
        }),
        volumes,
        interface: op
            .interface_on(candidate)
            .zip(op.address_on(candidate))
            .map(|(interface, private_ip)| HeldInterface { interface, private_ip }),
        address: op.address_on(candidate),
        address_interface: None,
        addresses_elsewhere: facts.addresses_but_in(subnet),
        elastic: facts.network.elastic.as_ref().map(|(held, _)| held.clone()),
        root_images: root_images(op),
        retained,
        orphans: op.orphans(),
        recovery_points: recovery_point::recovery_points(op, candidate),
        survey: facts.survey.as_deref().cloned().map(Box::new),
        uefi_data: uefi::of_the_root(op, candidate),
        unmanaged: Vec::new(),
    })
}

/// The volumes it lives on, and those that are kept beside them.
fn volumes_and_retained(
    op: &Operation,
    candidate: &Candidate,
) -> (BTreeMap<Slot, HeldVolume>, Vec<Retained>) {
    let facts = &op.facts;
    let before = &op.order.before;
    let mut volumes: BTreeMap<Slot, HeldVolume> = BTreeMap::new();
    for (slot, fact) in &facts.volumes {
        if let Some(volume) = &fact.id {
            // All of them are where the node lives now.
            volumes.insert(slot.clone(), HeldVolume { zone: None, ..fact.held(volume) });
        }
    }
    let mut retained = before.retained.clone();
    retained.extend(facts.superseded.iter().cloned());
    if op.keeps_root()
        && let Some(Running { root_volume: Some(root), root_device, .. }) = &candidate.running
    {
        let device = root_device.clone();
        let new = HeldVolume {
            volume: root.clone(),
            device,
            size_gib: None,
            zone: None,
            made_from: None,
            found: None,
        };
        if let Some(old) = volumes.insert(Slot::Root, new)
            && old.volume != *root
        {
            let way = op.root_method_of(&candidate.pool);
            let because = format!("{}: the root went on as another volume ({way})", op.id);
            let size_gib = cleanup::size_seen(op, &old.volume);
            retained.push(Retained { size_gib, ..Retained::new(old.volume, Slot::Root, because) });
        }
    }
    if !op.keeps_root()
        && let Some(old) = before.volumes.get(&Slot::Root)
    {
        let because = format!("{}: the node's root is not kept any more", op.id);
        let size_gib = cleanup::size_seen(op, &old.volume);
        retained.push(Retained { size_gib, ..Retained::new(old.volume.clone(), Slot::Root, because) });
    }
    retained.extend(op.outlived("the root of an instance that was lost before the end"));
    (volumes, retained)
}

/// The images of the root that are still there.
fn root_images(op: &Operation) -> Vec<RootImage> {
    let facts = &op.facts;
    let mut root_images: Vec<RootImage> = op
        .order
        .before
        .root_images
        .iter()
        .filter(|image| !facts.cleanup.is_deleted(&image.image))
        .cloned()
        .collect();
    if let (Some(image), Some(snapshot)) = (&facts.root.image, &facts.root.snapshot) {
        root_images.push(RootImage {
            image: image.clone(),
            snapshot: snapshot.clone(),
            borrowed: facts.root.is_borrowed,
        });
    }
    root_images
}
