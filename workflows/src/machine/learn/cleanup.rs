//! What is deleted, what could not be, and what is to be looked for.

use crate::model::aws::{InterfaceId, VolumeId};
use crate::model::operation_id::OperationKind;
use crate::model::resources::{Orphan, Resource, ResourceKind, Retained};
use crate::model::volume::{Slot, TagMap};
use crate::operation::facts::{Holder, Place};
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// Remembers that a step may have made something, to be looked for.
pub(in crate::machine) fn suspect(op: &mut Operation, intent: &Intent) {
    let origin = op.origin(intent);
    for (made, tags) in intent.makes() {
        let resource = Resource::Unsettled { kind: made, tags: tags.clone(), origin: origin.clone() };
        let because = format!("{}: {} did not settle", op.id, intent.step());
        op.facts.orphans.push(Orphan { resource, because });
    }
}

/// Remembers what could not be cleaned up.
pub(super) fn left_over(op: &mut Operation, intent: &Intent, evidence: &Evidence) {
    let because = match evidence {
        Evidence::Refused { code, message } => format!("{code}: {message}"),
        Evidence::OutOfTime { because } => format!("not in time: {because}"),
        _ => return,
    };
    if op.may_be_left(intent)
        && let Some(id) = intent.cleans()
    {
        op.facts.uncleaned.insert(id, because);
    }
}

pub(super) fn deleted(op: &mut Operation, id: String, evidence: &Evidence) {
    if *evidence == Evidence::Deleted {
        op.facts.deleted.push(id);
    }
}

pub(super) fn volume_deleted(op: &mut Operation, volume: &VolumeId, evidence: &Evidence) {
    if *evidence != Evidence::Deleted {
        return;
    }
    let facts = &mut op.facts;
    for temporary in facts.temporary.iter_mut().filter(|temporary| temporary.volume == *volume) {
        temporary.deleted = true;
    }
    facts.deleted.push(volume.to_string());
    if op.order.kind == OperationKind::Delete {
        return;
    }
    // Made by this operation and undone: if it goes forward after all, it is made anew.
    for fact in facts.volumes.values_mut().filter(|fact| fact.id.as_ref() == Some(volume)) {
        fact.id = None;
        fact.place = Place::Absent;
    }
}

pub(super) fn interface_deleted(op: &mut Operation, interface: &InterfaceId, evidence: &Evidence) {
    deleted(op, interface.to_string(), evidence);
    if *evidence == Evidence::Deleted && op.order.kind != OperationKind::Delete {
        op.facts.forget_interface(interface);
    }
}

pub(super) fn found(op: &mut Operation, kind: ResourceKind, tags: &TagMap, evidence: &Evidence) {
    let Evidence::Found { resources, kept } = evidence else { return };
    op.facts.deleted.push(Resource::suspected(kind, tags));
    for volume in kept {
        let slot =
            op.order.spec.data_volumes.first().map_or(Slot::Root, |data| Slot::Data(data.name.clone()));
        let because = format!("{}: made by a step that did not settle; it may have been attached", op.id);
        op.facts.superseded.push(Retained::new(volume.clone(), slot, because));
    }
    for resource in resources {
        if let Resource::Instance { instance, spot_request } = resource {
            op.facts.holders.push(Holder::new(instance.clone(), spot_request.clone()));
        } else {
            let because = format!("{}: made by a step that did not settle", op.id);
            op.facts.orphans.push(Orphan { resource: resource.clone(), because });
        }
    }
}
