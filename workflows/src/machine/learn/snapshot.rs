//! Snapshots: those that volumes are made from, and those that the node can do without.

use crate::model::aws::VolumeId;
use crate::model::volume::Slot;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::rules::{final_snapshot, snapshot_ahead};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

use super::suspect;

pub(super) fn of_root(op: &mut Operation, intent: &Intent, evidence: &Evidence) {
    let Evidence::SnapshotCompleted { snapshot, .. } = evidence else { return };
    let outdated = snapshot_ahead::is_outdated(op, intent);
    op.facts.add_copy(snapshot.clone());
    if !outdated {
        op.facts.root_snapshot = Some(snapshot.clone());
    }
}

pub(super) fn of_volume(
    op: &mut Operation,
    intent: &Intent,
    slot: &Slot,
    volume: &VolumeId,
    evidence: &Evidence,
) {
    let Evidence::SnapshotCompleted { snapshot, .. } = evidence else { return };
    let outdated = snapshot_ahead::is_outdated(op, intent);
    op.facts.add_copy(snapshot.clone());
    let fact = op.facts.volumes.get_mut(slot).filter(|fact| fact.place == Place::Free);
    if let Some(fact) = fact.filter(|fact| !outdated && fact.id.as_ref() == Some(volume)) {
        fact.snapshot = Some(snapshot.clone());
    }
}

/// A final one, or one ahead of its need.
pub(super) fn optional(op: &mut Operation, intent: &Intent, evidence: &Evidence) {
    // What an operation that is given up may have made is remembered already.
    let is_suspected = op.gives_up() && matches!(evidence, Evidence::OutOfTime { .. });
    if final_snapshot::may_have_made_one(evidence) && !is_suspected {
        suspect(op, intent);
    }
    snapshot_ahead::learn(op, intent, evidence);
}
