//! An operation's effect on the node's state: where the content of each volume comes from, and which writes
//! are missing in it.
//!
//! - The same volume: nothing is lost.
//! - A clone of it, made after its instance had terminated: no write that reached the volume is lost.
//! - A final snapshot, taken of the volume after its instance had terminated: no write that reached the
//!   volume is lost.
//! - A backup: writes after its moment are lost.
//! - A new volume: everything is lost; the old volume, where there is one, is retained.
//!
//! The operation's end records it
//! ([`Resources::recovery_points`](crate::model::resources::Resources::recovery_points)), from observations:
//! which volume is there, and which snapshot it was made from.
//!
//! # When the root volume is lost
//! A volume that was seen to be lost leaves the operation stuck. For the root, `persist.root_loss` says what
//! follows:
//!
//! - `newest_backup`: the root is restored from its newest complete backup, as soon as no backup is under
//!   way. Without one the operator decides.
//! - `stuck`: the operator decides.
//!
//! The command that reconciles backups decides (`domain::backup_schedule::due_task`): backup catalog and
//! operation are read and written in one append, so the chosen backup exists. Content that was given up on
//! purpose does not come back this way: after a reimage, a restore or a deletion the operator chooses among
//! the earlier backups ([`RootBegan`](crate::aggregate::node::RootBegan)). Only the root is taken from the
//! backup; data volumes stay as they are. The operator decides about a lost data volume: whether it may be
//! older than the others depends on its content.
//!
//! An operation that brings the node onto no instance (a pause, a cancelled resume) has no use for the root.
//! With `newest_backup` it ends without it, and the next resume misses the root and restores it. A deletion
//! that follows has no use for any volume.

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
use crate::step::intent::{Attach, Fence, Intent, Release, SnapshotVolume};

/// Where the content of the volumes on a new instance comes from. A volume that is new to the node has no
/// recovery point.
pub(crate) fn recovery_points(op: &Operation, candidate: &Candidate) -> BTreeMap<Slot, RecoveryPoint> {
    let data = op.facts.volumes.iter().filter(|(slot, _)| **slot != Slot::Root);
    let data = data.filter_map(|(slot, fact)| Some((slot.clone(), of_data(op, slot, fact)?)));
    let root = of_root(op, candidate).map(|origin| (Slot::Root, origin));
    data.chain(root).collect()
}

/// The same for data volumes that have changed, where an operation ended without an instance.
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
        RootMethod::Clone => op.facts.root.cloned_from.clone().map(|of| RecoveryPoint::Clone { of }),
        RootMethod::Image => of_backup(op, &Slot::Root).or_else(|| {
            let snapshot = op.facts.root.snapshot.clone()?;
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

/// The time after which the old carrier has certainly written nothing: when it was seen to be over.
fn written_until_ms(op: &Operation) -> u64 {
    let old = op.old().map(|old| &old.instance);
    let fenced = op.steps.values().filter_map(|record| match (record.intent.as_ref(), &record.outcome) {
        (Intent::Fence(Fence { instance, .. }), Some((Evidence::Fenced { .. }, at_ms)))
            if Some(instance) == old =>
        {
            Some(*at_ms)
        }
        _ => None,
    });
    fenced.min().unwrap_or(op.started_at_ms)
}

/// The backup that each of these volumes is restored from.
pub(crate) fn from_backup(restore: &Restore) -> impl Iterator<Item = (Slot, (BackupId, u64))> + '_ {
    let of = (restore.backup.clone(), restore.taken_at_ms);
    restore.snapshots.keys().map(move |slot| (slot.clone(), of.clone()))
}

/// The volume whose loss a step can detect.
pub(crate) const fn looks_at(intent: &Intent) -> Option<&Slot> {
    match intent {
        Intent::Release(Release { slot, .. })
        | Intent::Attach(Attach { slot, .. })
        | Intent::SnapshotVolume(SnapshotVolume { slot, .. }) => Some(slot),
        Intent::SnapshotRoot(_) | Intent::CloneRoot(_) | Intent::AdoptRoot(_) => Some(&Slot::Root),
        _ => None,
    }
}

/// The message to an operator whose volume is lost, before the possible actions.
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

/// Whether an operation ends without a volume that is lost: the next one misses it, and knows what to do.
pub(crate) fn is_left_to_the_next(op: &Operation, slot: &Slot) -> bool {
    let kind = op.order.kind;
    if op.facts.diversion().is_some_and(|diversion| diversion.delete.is_some()) {
        return true;
    }
    let ends_without_instance = kind == OperationKind::Pause
        || op.facts.diversion().is_some()
        || (op.facts.is_undoing() && kind == OperationKind::Resume);
    let returns = op.order.spec.persist.root_loss() == RootLoss::NewestBackup;
    ends_without_instance && *slot == Slot::Root && returns
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
