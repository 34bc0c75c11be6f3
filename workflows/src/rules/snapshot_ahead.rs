//! Speculative snapshots: snapshots that only another zone would need are taken while home still waits for
//! its own.
//!
//! In another zone the root continues as an image and data as copies, both from final snapshots, and those
//! take minutes. Whether the node moves is known only when home has refused the launch. If that launch waits
//! for a snapshot anyway (root by image, or data by snapshots), the wait is used: the volumes that home would
//! take as they are get their snapshots at the same time. When home refuses, they are as far along as home's
//! own.
//!
//! ```text
//!  fence:old ─┬─ release:root ─ snapshot_root ─ register_image ─ launch (home) ─ refused ─┬─ launch (moved)
//!             └─ release:x ─ snapshot_ahead:x ············································└─ snapshot:x ─ …
//! ```
//! `create_volume:x` follows `snapshot:x`, and waits for the start of the instance in the other zone.
//!
//! - `snapshot_ahead:x`
//!   - May start when: home's launch waits for another volume's snapshot; a pool of the ladder is in another
//!     zone; the volume is free, and home takes it as it is.
//!   - Does: CreateSnapshot.
//!   - Observed by: DescribeSnapshots by the tag `perennial:step` lists it, whatever its progress.
//!   - On failure: nothing; the step that needs one takes it then. If the outcome is unknown, the worker
//!     looks for the snapshot to delete it.
//!   - Safe to repeat because: the worker first looks for the tag.
//!
//! No step waits for its completion until the move is certain. Then `snapshot:x` (or `snapshot_root`) first
//! looks for *this* snapshot, by its tag, and waits for the rest of it. An image is never registered
//! speculatively.
//!
//! # Validity
//! A snapshot must contain the volume as it is. If an instance may have written to the volume after the
//! snapshot was taken, the snapshot is unusable (`is_outdated`), and so is an image of it. This holds for
//! every snapshot of an operation, not only for speculative ones. An attachment or an adoption counts from
//! its intention on, whatever its outcome.
//!
//! # After a stop midway
//! The snapshot is known: it is among the operation's copies. It is deleted at the end or by the undo, unless
//! a volume or an image is made from it.
//!
//! Why only while a launch waits: `docs/decisions/0015-speculative-snapshots-while-home-waits.md`.

use perennial_engine::ids::Token;

use crate::model::aws::{SnapshotId, VolumeId};
use crate::model::capacity::CapacityPool;
use crate::model::root::RootMethod;
use crate::model::volume::{Slot, TagMap};
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation, StepRecord};
use crate::rules::capacity;
use crate::rules::transfer::TransferMethod;
use crate::step::backup::BackupEvidence;
use crate::step::evidence::Evidence;
use crate::step::intent::{AdoptRoot, Attach, Intent, SnapshotAhead, SnapshotRoot, SnapshotVolume};
use crate::step::name::{OfVolume, Only, StepName};

/// The snapshots to take now.
pub(crate) fn due(op: &Operation) -> Vec<Due> {
    let Some(home) = op.target().filter(|_| op.facts.candidate.is_none()) else { return Vec::new() };
    if !waits_for_a_snapshot(op, &home) {
        return Vec::new();
    }
    let pools = capacity::pools(op);
    let mut due = Vec::new();
    for (slot, fact) in &op.facts.volumes {
        let (Place::Free, Some(volume)) = (&fact.place, &fact.id) else { continue };
        let stays = match slot {
            Slot::Root => op.root_method_of(&home) == RootMethod::Adopt,
            Slot::Data(_) => op.transfer_method(slot, fact, &home) == TransferMethod::Attach,
        };
        let moves = |pool: &CapacityPool| match slot {
            Slot::Root => op.root_method_of(pool) == RootMethod::Image,
            Slot::Data(_) => op.transfer_method(slot, fact, pool) != TransferMethod::Attach,
        };
        let is_free_to_take =
            !is_snapshotted(op, slot) && !is_tried(op, volume) && !op.is_being_attached(slot);
        if stays && is_free_to_take && pools.iter().any(moves) {
            let tags = op.tags(&step(slot), if *slot == Slot::Root { "root" } else { "data" });
            due.push(
                Intent::SnapshotAhead(SnapshotAhead { slot: slot.clone(), volume: volume.clone(), tags })
                    .into(),
            );
        }
    }
    due
}

/// Whether the launch in a pool waits for a snapshot.
fn waits_for_a_snapshot(op: &Operation, pool: &CapacityPool) -> bool {
    let facts = &op.facts;
    let data_waits = facts.volumes.iter().any(|(slot, fact)| {
        *slot != Slot::Root
            && fact.place != Place::Absent
            && op.transfer_method(slot, fact, pool) == TransferMethod::Launch
            && fact.snapshot.is_none()
            && !facts.restore.contains_key(slot)
    });
    data_waits || (op.root_method_of(pool) == RootMethod::Image && facts.root.snapshot.is_none())
}

/// The name of the step about a volume.
fn step(slot: &Slot) -> StepName {
    OfVolume::SnapshotAhead.of(slot)
}

/// Whether a final snapshot of a volume may be taken: no speculative one is under way, and no attachment
/// whose instance may write.
pub(crate) fn is_clear(op: &Operation, slot: &Slot) -> bool {
    !op.has_open(&step(slot)) && !op.is_being_attached(slot)
}

/// The newest speculative snapshot of a volume.
fn newest<'a>(op: &'a Operation, of: &VolumeId) -> Option<(Token, &'a StepRecord)> {
    let found = op.steps.iter().rfind(
        |(_, record)| matches!(record.intent.as_ref(), Intent::SnapshotAhead(SnapshotAhead { volume, .. }) if volume == of),
    );
    found.map(|(token, record)| (*token, record))
}

/// Whether a complete one already exists, or is waited for: a move was on its way before.
fn is_snapshotted(op: &Operation, slot: &Slot) -> bool {
    match slot {
        Slot::Root => op.facts.root.snapshot.is_some() || op.has_open(&Only::SnapshotRoot.into()),
        Slot::Data(_) => {
            let is_complete = op.facts.volumes.get(slot).is_some_and(|fact| fact.snapshot.is_some());
            is_complete || op.has_open(&OfVolume::Snapshot.of(slot))
        }
    }
}

/// Whether a snapshot of the volume as it is was requested.
fn is_tried(op: &Operation, volume: &VolumeId) -> bool {
    newest(op, volume).is_some_and(|(token, _)| !is_written_after(op, volume, token))
}

/// Whether an instance may have written to a volume after a step was intended.
fn is_written_after(op: &Operation, volume: &VolumeId, step: Token) -> bool {
    let later = op.steps.iter().filter(|(token, _)| **token > step);
    later.into_iter().any(|(_, record)| match record.intent.as_ref() {
        Intent::Attach(Attach { volume: of, .. }) | Intent::AdoptRoot(AdoptRoot { volume: of, .. }) => {
            of == volume
        }
        _ => false,
    })
}

/// Whether the snapshot of a step no longer matches the volume.
pub(crate) fn is_outdated(op: &Operation, intent: &Intent) -> bool {
    let (Intent::SnapshotRoot(SnapshotRoot { volume, .. })
    | Intent::SnapshotVolume(SnapshotVolume { volume, .. })) = intent
    else {
        return false;
    };
    let intended = op.steps.iter().rfind(|(_, record)| record.intent.as_ref() == intent);
    intended.is_some_and(|(token, _)| is_written_after(op, volume, *token))
}

/// The tags of a speculative snapshot that matches the volume and may be waited for, and when it was
/// intended.
pub(crate) fn tags(op: &Operation, volume: &VolumeId) -> Option<(TagMap, u64)> {
    let (token, record) = newest(op, volume)?;
    let Intent::SnapshotAhead(SnapshotAhead { tags, .. }) = record.intent.as_ref() else { return None };
    let is_taken = snapshot_of(record).is_some() && !is_written_after(op, volume, token);
    // A failed one is not waited for again.
    let has_failed = op.steps.values().any(|record| {
        waits_for(record.intent.as_ref()) == Some(tags)
            && matches!(&record.outcome, Some((evidence, _)) if !matches!(evidence, Evidence::SnapshotCompleted { .. }))
    });
    (is_taken && !has_failed).then(|| (tags.clone(), record.made_from_ms))
}

/// The tags of the snapshot that a step takes, or waits for.
const fn waits_for(intent: &Intent) -> Option<&TagMap> {
    match intent {
        Intent::SnapshotRoot(SnapshotRoot { tags, .. })
        | Intent::SnapshotVolume(SnapshotVolume { tags, .. }) => Some(tags),
        _ => None,
    }
}

fn snapshot_of(record: &StepRecord) -> Option<&SnapshotId> {
    match &record.outcome {
        Some((Evidence::Backup(BackupEvidence::Taken { snapshots, .. }), _)) => {
            snapshots.first().map(|taken| &taken.snapshot)
        }
        _ => None,
    }
}

/// The speculative snapshot that a step waits for, and when it was seen.
pub(crate) fn awaited<'a>(op: &'a Operation, intent: &Intent) -> Option<(&'a SnapshotId, u64)> {
    let awaited = waits_for(intent)?;
    let record = op.steps.values().find(
        |record| matches!(record.intent.as_ref(), Intent::SnapshotAhead(SnapshotAhead { tags, .. }) if tags == awaited),
    )?;
    let seen_ms = record.outcome.as_ref().map(|(_, at_ms)| *at_ms)?;
    snapshot_of(record).map(|snapshot| (snapshot, seen_ms))
}

/// The root is about to become an instance's: its snapshot, and the image of that, are outdated.
pub(crate) fn outdate_root(op: &mut Operation) {
    if op.facts.root.is_borrowed {
        return;
    }
    // The snapshot stays among the copies, and is deleted after its image.
    op.facts.root.snapshot = None;
    outdate_image(op);
}

/// The image of the root no longer matches the root: it is deleted.
pub(crate) fn outdate_image(op: &mut Operation) {
    if let Some(image) = op.facts.root.image.take() {
        let because = format!("{}: of a root that an instance has had since", op.id);
        op.facts.cleanup.orphan((&image).into(), because);
    }
}
