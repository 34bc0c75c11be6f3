//! The node's volumes.

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
use crate::model::capacity::CapacityPool;
use crate::model::operation_id::OperationKind;
use crate::model::volume::{Found, Slot};
use crate::operation::facts::{Place, VolumeFact};
use crate::operation::state::Operation;
use crate::rules::device_names;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

use super::is_ending;

pub(super) fn grown(op: &mut Operation, slot: &Slot, evidence: &Evidence) {
    if let Evidence::Grown { size_gib } = evidence
        && let Some(fact) = op.facts.volumes.get_mut(slot)
    {
        fact.size_gib = Some(*size_gib);
    }
}

pub(super) fn claimed(op: &mut Operation, slot: &Slot, volume: &VolumeId, zone: &str, evidence: &Evidence) {
    if let Evidence::VolumeClaimed { size_gib, traits } = evidence
        && let Some(fact) = op.facts.volumes.get_mut(slot)
    {
        fact.id = Some(volume.clone());
        fact.place = Place::Free;
        fact.size_gib = Some(*size_gib);
        fact.zone = Some(zone.to_owned());
        fact.found.clone_from(traits);
    }
}

pub(super) fn detached(op: &mut Operation, slot: &Slot, instance: &InstanceId, evidence: &Evidence) {
    let undoing = op.facts.is_undoing();
    let Some(fact) = op.facts.volumes.get_mut(slot) else { return };
    if *evidence == Evidence::Released {
        fact.place = Place::Free;
        return;
    }
    fact.detach_tried_on = Some(instance.clone());
    if undoing {
        fact.place = Place::Free;
    }
}

pub(super) fn released(
    op: &mut Operation,
    slot: &Slot,
    volume: &VolumeId,
    from: &InstanceId,
    evidence: &Evidence,
) {
    let is_ending = is_ending(op);
    let fact = op.facts.volumes.get_mut(slot);
    match evidence {
        Evidence::Released => {
            if let Some(fact) = fact.filter(|fact| fact.place.is_on(from)) {
                fact.place = Place::Free;
            }
        }
        // What is to end anyway may be gone already.
        Evidence::Lost { .. } if is_ending => {
            if let Some(fact) = fact {
                fact.place = Place::Free;
            }
            op.facts.deleted.push(volume.to_string());
        }
        _ => {}
    }
}

pub(super) fn attached(op: &mut Operation, slot: &Slot, instance: &InstanceId, evidence: &Evidence) {
    match evidence {
        // An attachment whose outcome is not known may have happened: the volume counts as there.
        Evidence::Attached | Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. } => {
            if let Some(fact) = op.facts.volumes.get_mut(slot) {
                fact.goes_to(instance);
            }
        }
        Evidence::DeviceInUse => {
            let another = device_names::another(op);
            if let (Some(fact), Some(another)) = (op.facts.volumes.get_mut(slot), another) {
                fact.device = another;
            }
        }
        _ => {}
    }
}

pub(super) fn created(op: &mut Operation, intent: &Intent, evidence: &Evidence) {
    if let Evidence::VolumeCreated { volume, found } = evidence {
        made(op, intent, volume);
        if *found
            && let Intent::CreateVolume { slot, .. } = intent
            && let Some(fact) = op.facts.volumes.get_mut(slot)
        {
            fact.touched = true;
        }
    }
}

/// A volume was created: one that was absent, or a copy of one that is in another zone.
fn made(op: &mut Operation, intent: &Intent, volume: &VolumeId) {
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
fn launch_size(op: &Operation, slot: &Slot, pool: &CapacityPool) -> Option<u32> {
    op.steps.values().rev().find_map(|record| match record.intent.as_ref() {
        Intent::Launch { pool: asked, volumes, .. } if asked == pool => {
            volumes.iter().find(|volume| volume.slot == *slot)?.size_gib
        }
        _ => None,
    })
}
