//! What an operation cost the node's state: where the content of each volume comes from, and what is missing in it.
//!
//! | way | what is lost |
//! | --- | --- |
//! | the very same volume | nothing |
//! | a clone of it, made after its instance was gone | nothing that reached the volume |
//! | a final snapshot, taken of the volume after its instance was gone | nothing that reached the volume |
//! | a backup | what was written after its moment |
//! | anew | everything; the old volume, where there is one, is retained |
//!
//! It is recorded with the operation's end ([`Resources::origins`](crate::node::Resources::origins)), from what was observed: which
//! volume is there, and which snapshot it was made from.
//!
//! # When the root volume is lost
//! A volume that was seen to be lost leaves the operation stuck. For the root `persist.root_loss` says what follows:
//!
//! | `root_loss` | what follows |
//! | --- | --- |
//! | `newest_backup` | the root comes back from the newest complete backup of itself, as soon as none is under way; without one a person decides |
//! | `stuck` | a person decides |
//!
//! The decision is made where the backups are looked after ([`due_task`](crate::backup::task)): backup catalog and operation are read and written in one
//! append, so the backup that was chosen is there. What was left behind does not come back so: after a reimage, a restore or a deletion the
//! backups from before are a person's to choose ([`RootBegan`](crate::node::RootBegan)). Only the root is taken from it; data volumes stay as they are. A data volume
//! that is lost is left to a person: whether it may be older than the others is a question of what is in it.

use std::collections::BTreeMap;

use crate::model::backup_id::BackupId;
use crate::model::operation_id::OperationKind;
use crate::model::resources::RecoveryPoint;
use crate::model::restore::Restore;
use crate::model::root::RootMethod;
use crate::model::volume::Slot;
use crate::operation::facts::{Candidate, VolumeFact};
use crate::operation::state::Operation;
use crate::spec::node::{NodeSpec, RootLoss};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// Where the content of the volumes on a new instance comes from. A volume that is new to the node has no origin.
pub(crate) fn recovery_points(op: &Operation, candidate: &Candidate) -> BTreeMap<Slot, RecoveryPoint> {
    let data = op.facts.volumes.iter().filter(|(slot, _)| **slot != Slot::Root);
    let data = data.filter_map(|(slot, fact)| Some((slot.clone(), of_data(op, slot, fact)?)));
    let root = of_root(op, candidate).map(|origin| (Slot::Root, origin));
    data.chain(root).collect()
}

/// Of the data volumes that are others than before, where an operation ended without an instance.
pub(crate) fn changed(op: &Operation) -> BTreeMap<Slot, RecoveryPoint> {
    let data = op.facts.volumes.iter().filter(|(slot, fact)| **slot != Slot::Root && fact.id.is_some());
    let recovery_points = data.filter_map(|(slot, fact)| Some((slot.clone(), of_data(op, slot, fact)?)));
    recovery_points.filter(|(_, origin)| *origin != RecoveryPoint::SameVolume).collect()
}

fn of_root(op: &Operation, candidate: &Candidate) -> Option<RecoveryPoint> {
    if !op.keeps_root() {
        return None;
    }
    let was_there = op.order.before.volumes.contains_key(&Slot::Root);
    match op.root_method_of(&candidate.pool) {
        RootMethod::Adopt => Some(RecoveryPoint::SameVolume),
        RootMethod::Clone => op.facts.cloned_from.clone().map(|of| RecoveryPoint::Clone { of }),
        RootMethod::Image => of_backup(op, &Slot::Root).or_else(|| {
            let snapshot = op.facts.root_snapshot.clone()?;
            Some(RecoveryPoint::FinalSnapshot { snapshot })
        }),
        RootMethod::Fresh => was_there.then_some(RecoveryPoint::Anew),
    }
}

fn of_data(op: &Operation, slot: &Slot, fact: &VolumeFact) -> Option<RecoveryPoint> {
    let before = op.order.before.volumes.get(slot);
    if before.is_some_and(|held| Some(&held.volume) == fact.id.as_ref()) {
        return Some(RecoveryPoint::SameVolume);
    }
    let copied = || fact.made_from.clone().map(|snapshot| RecoveryPoint::FinalSnapshot { snapshot });
    of_backup(op, slot).or_else(copied).or_else(|| before.map(|_| RecoveryPoint::Anew))
}

fn of_backup(op: &Operation, slot: &Slot) -> Option<RecoveryPoint> {
    let (backup, taken_at_ms) = op.facts.restored.get(slot)?.clone();
    Some(RecoveryPoint::Backup { backup, taken_at_ms, until_ms: written_until_ms(op) })
}

/// Since when the instance that carried the node has surely written nothing more: when it was seen to be over.
fn written_until_ms(op: &Operation) -> u64 {
    let old = op.old().map(|old| &old.instance);
    let fenced = op.steps.values().filter_map(|record| match (record.intent.as_ref(), &record.outcome) {
        (Intent::Fence { instance, .. }, Some((Evidence::Fenced { .. }, at_ms))) if Some(instance) == old => {
            Some(*at_ms)
        }
        _ => None,
    });
    fenced.min().unwrap_or(op.started_at_ms)
}

/// Which backup each of these volumes comes back from.
pub(crate) fn from_backup(restore: &Restore) -> impl Iterator<Item = (Slot, (BackupId, u64))> + '_ {
    let of = (restore.backup.clone(), restore.taken_at_ms);
    restore.snapshots.keys().map(move |slot| (slot.clone(), of.clone()))
}

/// The volume whose loss a step can find out.
pub(crate) const fn looks_at(intent: &Intent) -> Option<&Slot> {
    match intent {
        Intent::Release { slot, .. } | Intent::Attach { slot, .. } | Intent::SnapshotVolume { slot, .. } => {
            Some(slot)
        }
        Intent::SnapshotRoot { .. } | Intent::CloneRoot { .. } => Some(&Slot::Root),
        _ => None,
    }
}

/// What is said to a person whose volume is lost, before what they can do.
pub(crate) fn goes_on_by_itself(op: &Operation, intent: &Intent) -> &'static str {
    if looks_at(intent) == Some(&Slot::Root) && may_come_back(op, &op.order.spec) {
        "a complete backup, which it goes on from by itself; without one: "
    } else {
        ""
    }
}

/// Whether an operation takes the root from a backup without being asked.
pub(crate) fn may_come_back(op: &Operation, spec: &NodeSpec) -> bool {
    let brings =
        matches!(op.order.kind, OperationKind::Provision | OperationKind::Replace | OperationKind::Resume);
    brings && !op.gives_up() && spec.persist.root_loss() == RootLoss::NewestBackup
}

impl Operation {
    /// The volumes that were seen to be lost, by the last step about each.
    pub(crate) fn lost(&self) -> Vec<Slot> {
        let mut last: BTreeMap<&Slot, bool> = BTreeMap::new();
        for record in self.steps.values() {
            if let Some(slot) = looks_at(&record.intent) {
                last.insert(slot, matches!(record.outcome, Some((Evidence::Lost { .. }, _))));
            }
        }
        last.into_iter().filter(|(_, is_lost)| *is_lost).map(|(slot, _)| slot.clone()).collect()
    }
}
