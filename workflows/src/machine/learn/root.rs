//! The root: cloned, and adopted.

use crate::model::aws::{InstanceId, VolumeId};
use crate::model::volume::Slot;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::rules::root_clone;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

use super::suspect;

pub(super) fn cloned(op: &mut Operation, intent: &Intent, of: &VolumeId, evidence: &Evidence) {
    match evidence {
        Evidence::VolumeCreated { volume, .. } => root_clone::cloned(op, of, volume),
        // It may come into being all the same.
        Evidence::OutOfTime { .. } if !op.gives_up() => suspect(op, intent),
        _ => {}
    }
}

pub(super) fn adopted(
    op: &mut Operation,
    instance: &InstanceId,
    temporary: Option<&VolumeId>,
    evidence: &Evidence,
) {
    let facts = &mut op.facts;
    // Whatever became of an adoption that did not succeed, the volume is seen free again before it is used.
    if let Some(root) = facts.volumes.get_mut(&Slot::Root) {
        root.place = Place::On(instance.clone());
        root.touched = true;
    }
    if !matches!(evidence, Evidence::Adopted { .. }) {
        return;
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
