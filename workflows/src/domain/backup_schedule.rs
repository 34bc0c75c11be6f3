//! The next task about a node's backups.

use std::collections::BTreeMap;

use crate::aggregate::backup_catalog::{Backup, BackupCatalog, BackupSchedule, CATALOG_BACKUPS_MAX};
use crate::aggregate::node::Node;
use crate::model::aws::VolumeId;
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::schedule::slot_after;
use crate::model::signal::Certainty;
use crate::model::volume::Slot;
use crate::operation::state::{Operation, Status};
use crate::rules::recovery_point::may_come_back;
use crate::spec::node::RootMode;
use crate::step::intent::Intent;

/// The next task about the backups of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupTask {
    /// No task.
    Nothing,
    /// A backup is due since this time.
    Begin {
        /// The time.
        due_ms: u64,
    },
    /// The backup catalog is full and at rest.
    RollOver,
    /// An operation has taken final snapshots that the catalog should take over.
    Inherit {
        /// The operation.
        operation: OperationId,
    },
    /// The node was deleted with its backups.
    GiveUp,
    /// The lost root of the node is restored from this backup.
    Rescue {
        /// Its number.
        backup: u64,
    },
}

/// What is to be done about the backups of a node now. `last` is the newest operation of the node.
#[must_use]
pub fn due_task(
    node: &Node,
    last: Option<&Operation>,
    name: &NodeName,
    catalog: &BackupCatalog,
    now_ms: u64,
) -> BackupTask {
    if catalog.closed {
        return BackupTask::Nothing;
    }
    if is_full(catalog) {
        return BackupTask::RollOver;
    }
    if let Some(operation) = to_inherit(node, last, catalog) {
        return BackupTask::Inherit { operation };
    }
    if node.deleted {
        let gives_up = gives_up(node, last, catalog) && catalog.known.holds.is_empty();
        return if gives_up { BackupTask::GiveUp } else { BackupTask::Nothing };
    }
    if let Some(backup) = rescue(node, last, catalog) {
        return BackupTask::Rescue { backup: backup.order.number };
    }
    let Some(spec) = node.spec.as_ref().and_then(|spec| spec.backup) else { return BackupTask::Nothing };
    if catalog.known.paused().is_some() || cannot_begin(node, last, catalog).is_some() {
        return BackupTask::Nothing;
    }
    // A node is due at its first turn after it is in place, and at the first one after each backup.
    let since_ms = catalog.known.newest_began_at_ms.unwrap_or(0).max(match &node.open {
        Some(_) => 0,
        None if catalog.known.backups.is_empty() => node.changed_at_ms,
        None => 0,
    });
    let due_ms = slot_after(name, spec.every_ms(), since_ms);
    // The turn is within an interval of `since_ms`. One that is further ahead than that counts from a time
    // that a clock has shown that was set back since.
    let is_due = due_ms <= now_ms || due_ms > now_ms.saturating_add(spec.every_ms());
    if is_due { BackupTask::Begin { due_ms: due_ms.min(now_ms) } } else { BackupTask::Nothing }
}

/// The time of the next backup, as far as the catalog alone tells, and the interval in milliseconds; `None`
/// while none can begin. The node's state may put it off, or forbid it: [`due_task`] decides.
#[must_use]
pub fn next_backup(name: &NodeName, catalog: &BackupCatalog) -> Option<(u64, u64)> {
    let known = &catalog.known;
    let schedule = known.schedule.as_ref().filter(|_| !catalog.closed && !is_full(catalog))?;
    if known.under_way().is_some() || known.paused().is_some() {
        return None;
    }
    let first_ms = if known.backups.is_empty() { schedule.since_ms } else { 0 };
    let since_ms = known.newest_began_at_ms.unwrap_or(0).max(first_ms);
    Some((slot_after(name, schedule.every_ms, since_ms), schedule.every_ms))
}

/// The schedule that the catalog of a node should have; `None` if it has that one.
pub(super) fn to_schedule(
    node: &Node,
    catalog: &BackupCatalog,
    owner: &str,
) -> Option<Option<BackupSchedule>> {
    let known = catalog.known.schedule.as_ref();
    let Some(every_ms) = node.backed_up_every_ms() else { return known.map(|_| None) };
    let is_first = catalog.known.backups.is_empty() && node.open.is_none();
    let is_right = known.is_some_and(|known| {
        known.every_ms == every_ms && !(is_first && known.since_ms < node.changed_at_ms)
    });
    let owner = owner.to_owned();
    (!is_right).then_some(Some(BackupSchedule { every_ms, since_ms: node.changed_at_ms, owner }))
}

/// Whether the backups of a deleted node are to be given up, and still stand in its catalog.
pub(super) fn gives_up(node: &Node, last: Option<&Operation>, catalog: &BackupCatalog) -> bool {
    let kept = || last.and_then(|last| last.order.keep).is_none_or(|keep| keep.backups);
    node.deleted && !catalog.known.backups.is_empty() && !kept()
}

/// Whether a catalog is full and at rest, so that the next one goes on.
pub(super) fn is_full(catalog: &BackupCatalog) -> bool {
    catalog.begun >= CATALOG_BACKUPS_MAX && catalog.steps.is_empty() && catalog.known.under_way().is_none()
}

/// The first operation whose final snapshots are not the catalog's yet: one that is over, or the open one
/// when it has them all.
pub(super) fn to_inherit(
    node: &Node,
    last: Option<&Operation>,
    catalog: &BackupCatalog,
) -> Option<OperationId> {
    let open = node.open.as_ref().map(|(open, _)| open);
    let has_all = |op: &&Operation| op.finals().is_some_and(|finals| finals.because.is_none());
    let open = last.filter(|last| open == Some(&last.id)).filter(has_all).map(|last| &last.id);
    node.finals.iter().chain(open).find(|operation| !catalog.known.has_inherited_from(operation)).cloned()
}

/// Why no backup can begin now; `None` when one can.
#[must_use]
pub fn cannot_begin(node: &Node, last: Option<&Operation>, catalog: &BackupCatalog) -> Option<String> {
    if node.resources.carrier.is_none() || !node.exists() {
        return Some("the node has no instance".to_owned());
    }
    if volumes(node).is_empty() {
        return Some("the node has no volume that is kept".to_owned());
    }
    if let Some((open, kind)) = &node.open
        && !last.is_some_and(|operation| operation.id == *open && leaves_alone(operation))
    {
        return Some(format!(
            "workflow {open} ({kind}) moves the node's volumes; the next backup follows it"
        ));
    }
    catalog.known.under_way().map(|backup| format!("backup number {} is under way", backup.order.number))
}

/// Whether the instance that carried the node at the operation's beginning still carries it, and is not about
/// to be taken.
fn leaves_alone(operation: &Operation) -> bool {
    let touches = |intent: &Intent| matches!(intent, Intent::Fence(_) | Intent::Detach(_));
    let going = |old: &crate::operation::facts::Holder| old.ended || old.certainty >= Certainty::Warned;
    !matches!(operation.status, Status::Finished { .. })
        && operation.order.kind != OperationKind::Delete
        && operation.order.before.carrier.is_some()
        && !operation.facts.holders.iter().any(going)
        && !operation.steps.values().any(|record| touches(&record.intent))
}

/// The volumes of a node that hold its state.
pub(crate) fn volumes(node: &Node) -> BTreeMap<Slot, VolumeId> {
    let keeps_root = node.spec.as_ref().is_some_and(|spec| spec.persist.root != RootMode::None);
    let kept = node.resources.volumes.iter().filter(|(slot, _)| keeps_root || **slot != Slot::Root);
    kept.map(|(slot, held)| (slot.clone(), held.volume.clone())).collect()
}

/// The backup from which the lost root of a stuck operation is restored automatically.
pub(crate) fn rescue<'a>(
    node: &Node,
    last: Option<&Operation>,
    catalog: &'a BackupCatalog,
) -> Option<&'a Backup> {
    let op = last.filter(|op| node.open.as_ref().is_some_and(|(open, _)| *open == op.id))?;
    let is_stuck = matches!(op.status, Status::Stuck { .. });
    // A root that was already given up is not given up again.
    let is_held = op.facts.volumes.get(&Slot::Root).is_some_and(|fact| fact.id.is_some());
    let spec = node.spec.as_ref()?;
    let is_lost = op.lost().contains(&Slot::Root);
    if !is_stuck || !is_held || !may_come_back(op, spec) || !is_lost {
        return None;
    }
    // The backup under way is the newest, and its completion prunes another.
    if catalog.known.under_way().is_some() {
        return None;
    }
    let mut with_root =
        catalog.known.complete().rev().filter(|backup| backup.snapshots.contains_key(&Slot::Root));
    // If the operator named a backup, that one is used.
    if let Some(asked) = op.order.restore.as_ref().filter(|asked| asked.snapshots.contains_key(&Slot::Root)) {
        return with_root.find(|backup| backup.order.number == asked.backup.number());
    }
    with_root.find(|backup| node.root_began.as_ref().is_none_or(|began| began.is_of(backup)))
}
