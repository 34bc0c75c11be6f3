//! How evidence becomes facts.

mod address;
mod cleanup;
mod image;
mod instance;
mod interface;
mod root;
mod snapshot;
mod survey;
mod volume;

pub(super) use cleanup::suspect;

use crate::model::operation_id::OperationKind;
use crate::operation::state::Operation;
use crate::rules::attached_volumes;
use crate::rules::survey as survey_rules;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// Turns evidence into facts.
pub(super) fn learn(op: &mut Operation, intent: &Intent, evidence: &Evidence, at_ms: u64) {
    cleanup::left_over(op, intent, evidence);
    if op.gives_up() && matches!(evidence, Evidence::OutOfTime { .. }) {
        suspect(op, intent);
    }
    attached_volumes::leave(op, evidence);
    by_subject(op, intent, evidence, at_ms);
    instance::gone(op, evidence);
}

fn by_subject(op: &mut Operation, intent: &Intent, evidence: &Evidence, at_ms: u64) {
    match intent {
        Intent::Resolve { .. } => survey::resolved(op, evidence),
        Intent::Survey(question) => survey_rules::learn(op, question, evidence, at_ms),
        Intent::CreateVolume { .. } => volume::created(op, intent, evidence),
        Intent::ClaimVolume { slot, volume, zone, .. } => volume::claimed(op, slot, volume, zone, evidence),
        Intent::Grow { slot, .. } => volume::grown(op, slot, evidence),
        Intent::Detach { slot, instance, .. } => volume::detached(op, slot, instance, evidence),
        Intent::Release { slot, volume, from } => volume::released(op, slot, volume, from, evidence),
        Intent::Attach { slot, instance, .. } => volume::attached(op, slot, instance, evidence),
        Intent::CloneRoot { volume, .. } => root::cloned(op, intent, volume, evidence),
        Intent::AdoptRoot { instance, temporary, .. } => {
            root::adopted(op, instance, temporary.as_ref(), evidence);
        }
        Intent::CreateInterface { subnet, groups, .. } => interface::created(op, subnet, groups, evidence),
        Intent::DetachInterface { interface, instance } => {
            interface::detached(op, interface, instance, evidence);
        }
        Intent::ReleaseInterface { interface, .. } => interface::released(op, interface, evidence),
        Intent::AttachInterface { interface, instance, .. } => {
            interface::attached(op, interface, instance, evidence);
        }
        Intent::SetGroups { interface, groups } => interface::groups_set(op, interface, groups, evidence),
        Intent::ReturnAddress { subnet, .. } => address::returned(op, subnet, evidence),
        Intent::MoveAddress { instance, .. } => address::moved(op, instance, evidence),
        Intent::Associate { allocation, instance, .. } => {
            address::associated(op, allocation, instance, evidence);
        }
        Intent::Launch { .. } => instance::launched(op, intent, evidence, at_ms),
        Intent::Start { instance, .. } => instance::started(op, instance, evidence),
        Intent::Preserve { instance, address_interface, .. } => {
            instance::preserved(op, instance, address_interface.as_ref(), evidence);
        }
        Intent::Fence { instance, .. } => instance::fenced(op, instance, evidence),
        Intent::Verify { .. } => instance::verified(op, evidence),
        Intent::SnapshotRoot { .. } => snapshot::of_root(op, intent, evidence),
        Intent::SnapshotVolume { slot, volume, .. } => {
            snapshot::of_volume(op, intent, slot, volume, evidence);
        }
        Intent::FinalSnapshot { .. } | Intent::SnapshotAhead { .. } => {
            snapshot::optional(op, intent, evidence);
        }
        Intent::RegisterImage { snapshot, .. } => image::registered(op, snapshot, evidence),
        Intent::DeleteVolume { volume, .. } => cleanup::volume_deleted(op, volume, evidence),
        Intent::DeleteInterface { interface } => cleanup::interface_deleted(op, interface, evidence),
        Intent::DeregisterImage { image } => cleanup::deleted(op, image.to_string(), evidence),
        Intent::DeleteSnapshot { snapshot } => cleanup::deleted(op, snapshot.to_string(), evidence),
        Intent::Find { kind, tags, .. } => cleanup::found(op, *kind, tags, evidence),
        // Its evidence is the backup catalog's.
        Intent::Backup(_) => {}
    }
}

/// Whether the operation deletes what the node has: all of it, or what a cancelled provision has made.
fn is_ending(op: &Operation) -> bool {
    let kind = op.order.kind;
    kind == OperationKind::Delete || (op.facts.is_undoing() && kind == OperationKind::Provision)
}
