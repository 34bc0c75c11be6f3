//! The last backup of an instance: a snapshot of each of the node's volumes when it is free.
//!
//! Between two instances no volume is mounted and nothing writes. This is the best moment for a backup, and
//! it costs no time: CreateSnapshot returns at once, and the snapshot is of the moment of the call. So with a
//! section `backup` (and unless it says `final: false`) an operation that takes the volumes from the node's
//! instance takes a snapshot of each. They become a backup like any other: the node's backup catalog takes
//! them over (`backup/…`: `began` with the cause `final`, `inherited`), waits for their completion, lists
//! them, and prunes them.
//!
//! - `final_snapshot:x`
//!   - May start when: the volume was seen free, and its content is still that of the old instance.
//!   - Does: CreateSnapshot.
//!   - Observed by: DescribeSnapshots by the tag `perennial:step` lists it, whatever its progress.
//!   - On failure: the backup has failed: it is listed, and the loss window stays.
//!   - Safe to repeat because: the worker first looks for the tag. If the outcome is unknown, it looks for
//!     the snapshot to delete it.
//!
//! # What waits for it
//! The end of the operation and the deletion of the volume wait for it. No step that would lengthen the
//! outage waits for it. A volume may be attached again while its snapshot is being requested. If the volume
//! is seen attached before (another snapshot of it was less than 15 s old, or the process was not running),
//! no snapshot is taken, and the backup has failed.
//!
//! If a volume continues as a copy, or might (`rules::snapshot_ahead`), the snapshot that carries it comes
//! first. EC2 takes snapshots of one volume [15 s](VOLUME_PAUSE_MS) apart. The old volume stays free, and the
//! final snapshot, of the same content, follows then.
//!
//! # After a stop midway
//! Every snapshot is known: it stands in the operation until a backup catalog has it. An operation that is
//! cancelled after some were taken hands those over as a failed backup, which is pruned.

use std::collections::BTreeMap;

use crate::aggregate::backup_catalog::VOLUME_PAUSE_MS;
use crate::model::aws::VolumeId;
use crate::model::operation_id::OperationKind;
use crate::model::volume::{Slot, TakenSnapshot};
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation, Status, StepRecord};
use crate::spec::node::RootMode;
use crate::step::backup::BackupEvidence;
use crate::step::evidence::Evidence;
use crate::step::intent::{
    DeleteVolume, Detach, FinalSnapshot, Intent, Release, SnapshotAhead, SnapshotRoot, SnapshotVolume,
};
use crate::step::name::OfVolume;

/// An operation's last backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finals {
    /// The volumes it should contain.
    pub volumes: BTreeMap<Slot, VolumeId>,
    /// The snapshots that were taken.
    pub taken: BTreeMap<Slot, TakenSnapshot>,
    /// When the first of them was taken, in milliseconds since the Unix epoch.
    pub taken_at_ms: u64,
    /// Why it is incomplete; `None` when it is complete.
    pub because: Option<String>,
}

/// The volumes that are taken from the node's instance.
fn freed(op: &Operation) -> impl Iterator<Item = (&Slot, &VolumeId)> {
    let order = &op.order;
    let takes_away = match order.kind {
        OperationKind::Replace | OperationKind::Pause | OperationKind::Delete => op.old().is_some(),
        OperationKind::Provision
        | OperationKind::Resume
        | OperationKind::Grow
        | OperationKind::AdoptVolumes
        | OperationKind::Prune => false,
    };
    let keeps_root = order.spec.persist.root != RootMode::None;
    let volumes = order.before.volumes.iter().filter(move |(slot, _)| keeps_root || **slot != Slot::Root);
    volumes.filter(move |_| takes_away).map(|(slot, held)| (slot, &held.volume))
}

/// Whether a last backup is wanted now. A file that changes meanwhile, or a deletion that follows, may drop
/// it.
fn is_wanted(op: &Operation) -> bool {
    op.order.spec.backup.is_some_and(|backup| backup.at_release)
        && op.order.keep.is_none_or(|keep| keep.backups)
        && op.facts.diversion().and_then(|diversion| diversion.delete).is_none_or(|keep| keep.backups)
}

/// The volumes in a last backup: those that are taken from the instance, and those that already have a
/// snapshot, whatever happened to them since.
fn backed_up(op: &Operation) -> BTreeMap<Slot, VolumeId> {
    let mut volumes: BTreeMap<Slot, VolumeId> =
        freed(op).map(|(slot, volume)| (slot.clone(), volume.clone())).collect();
    for record in op.steps.values() {
        if let Intent::FinalSnapshot(FinalSnapshot { slot, volume, .. }) = record.intent.as_ref() {
            volumes.entry(slot.clone()).or_insert_with(|| volume.clone());
        }
    }
    volumes
}

/// The step about a volume, once it is intended.
fn record<'a>(op: &'a Operation, wanted: &VolumeId) -> Option<&'a StepRecord> {
    op.steps.values().rfind(
        |record| matches!(record.intent.as_ref(), Intent::FinalSnapshot(FinalSnapshot { volume, .. }) if volume == wanted),
    )
}

/// Whether a volume was seen free and nothing has written to it since.
fn is_at_rest(op: &Operation, slot: &Slot, volume: &VolumeId) -> bool {
    let was_freed = op.steps.values().any(|record| {
        let of_it = matches!(
            record.intent.as_ref(),
            Intent::Release(Release { volume: freed, .. }) | Intent::Detach(Detach { volume: freed, .. }) if freed == volume
        );
        of_it && matches!(record.outcome, Some((Evidence::Released, _)))
    });
    let fact = op.facts.volumes.get(slot).filter(|fact| fact.id.as_ref() == Some(volume));
    was_freed && fact.is_none_or(|fact| fact.place == Place::Free && !fact.touched)
}

/// The earliest time of the next snapshot of a volume; `None` while the snapshot that carries it is still to
/// come.
fn earliest_ms(op: &Operation, volume: &VolumeId, due: &[Due]) -> Option<u64> {
    let carries = |intent: &Intent| {
        matches!(
            intent,
            Intent::SnapshotRoot(SnapshotRoot { volume: of, .. })
                | Intent::SnapshotVolume(SnapshotVolume { volume: of, .. })
                | Intent::SnapshotAhead(SnapshotAhead { volume: of, .. }) if of == volume
        )
    };
    let is_ahead = |record: &StepRecord| {
        record.outcome.is_none()
            && matches!(record.intent.as_ref(), Intent::SnapshotAhead(SnapshotAhead { volume: of, .. }) if of == volume)
    };
    if due.iter().any(|due| carries(&due.intent)) || op.steps.values().any(is_ahead) {
        return None;
    }
    let settled = op.steps.values().filter(|record| carries(&record.intent));
    let last_ms = settled.filter_map(|record| record.outcome.as_ref().map(|(_, at_ms)| *at_ms)).max();
    Some(last_ms.map_or(0, |at_ms| at_ms + VOLUME_PAUSE_MS))
}

/// The rules of an operation, and a final snapshot of each volume that is free for the first time.
pub(crate) fn with(op: &Operation, mut due: Vec<Due>) -> Vec<Due> {
    let mut finals = Vec::new();
    let is_wanted = is_wanted(op);
    for (slot, volume) in freed(op) {
        let record = record(op, volume);
        if is_wanted
            && record.is_none()
            && is_at_rest(op, slot, volume)
            && let Some(not_before_ms) = earliest_ms(op, volume, &due)
        {
            let tags = op.tags(&OfVolume::FinalSnapshot.of(slot), "backup");
            let intent =
                Intent::FinalSnapshot(FinalSnapshot { slot: slot.clone(), volume: volume.clone(), tags });
            finals.push(Due { intent, not_before_ms });
        } else if record.is_none_or(|record| record.outcome.is_some()) {
            continue;
        }
        // A volume that is to be deleted is deleted after its last snapshot.
        due.retain(|due| !matches!(&due.intent, Intent::DeleteVolume(DeleteVolume { volume: gone, .. }) if gone == volume));
    }
    // Their doorbells ring before those of the attachments.
    finals.extend(due);
    finals
}

/// Whether a step that has ended may have created a snapshot even so.
pub(crate) const fn may_have_made_one(evidence: &Evidence) -> bool {
    !matches!(
        evidence,
        Evidence::Backup(BackupEvidence::Taken { .. } | BackupEvidence::NotTaken { in_doubt: false, .. })
    )
}

impl Operation {
    /// Its last backup, once its extent is known: each snapshot is seen, or the operation is over.
    #[must_use]
    pub fn finals(&self) -> Option<Finals> {
        let is_over = matches!(self.status, Status::Finished { .. });
        let mut found =
            Finals { volumes: BTreeMap::new(), taken: BTreeMap::new(), taken_at_ms: u64::MAX, because: None };
        let mut tried = false;
        for (slot, volume) in backed_up(self) {
            found.volumes.insert(slot.clone(), volume.clone());
            let record = record(self, &volume);
            tried |= record.is_some();
            let why = match record.and_then(|record| record.outcome.as_ref()) {
                Some((Evidence::Backup(BackupEvidence::Taken { snapshots, taken_at_ms, .. }), _)) => {
                    let of_it = snapshots.iter().find(|taken| taken.volume == volume);
                    found.taken.extend(of_it.map(|taken| (slot.clone(), taken.clone())));
                    found.taken_at_ms = found.taken_at_ms.min(*taken_at_ms);
                    continue;
                }
                Some((Evidence::Backup(BackupEvidence::NotTaken { because, .. }), _)) => because.clone(),
                Some((Evidence::OutOfTime { because }, _)) => format!("not in time: {because}"),
                Some((Evidence::Refused { code, message }, _)) => format!("{code}: {message}"),
                Some((other, _)) => format!("BUG: the worker answered {other:?}"),
                None if is_over && !is_wanted(self) => "none is wanted any more".to_owned(),
                None if is_over => "it was not seen free".to_owned(),
                None => return None,
            };
            found.because.get_or_insert(format!("{volume} ({slot}): {why}"));
        }
        // An operation that was undone before any volume was free needs no backup.
        (tried
            && (found.because.is_none()
                || !found.taken.is_empty()
                || self.old().is_some_and(|old| old.fenced)))
        .then_some(found)
    }
}
