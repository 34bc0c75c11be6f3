//! Takes a snapshot that the node can do without: a final one for its backups (`rules::final_snapshot`), or
//! one that only another zone would need (`rules::snapshot_ahead`).
//!
//! Call: CreateSnapshot. The worker first looks for the tag `perennial:step`, which makes a repeat safe.
//! Observed on: the snapshot; its completion is not waited for. Without it the backup catalog says what is
//! missing, and what needs the snapshot takes it then.

use crate::model::volume::TakenSnapshot;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::rules::final_snapshot;
use crate::step::backup::BackupEvidence;
use crate::step::evidence::Evidence;
use crate::step::intent::{FinalSnapshot, SnapshotAhead};
use crate::step::name::{OfVolume, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, WhenGone, suspect, words};

/// A second in practice, and EC2 takes one snapshot of a volume every 15 s. The operation ends only after the
/// snapshot is seen, but no other step waits for it.
const PATIENCE: Patience = Patience::then_another_way(5 * MINUTE_MS);

const TYPICAL_MS: u64 = 1_500;

impl Step for FinalSnapshot {
    fn name(&self) -> StepName {
        OfVolume::FinalSnapshot.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn is_only_good_in_time(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        suspect_one(op, seen);
    }

    fn consequence(&self, _settled: &Settled<'_>) -> Vec<OperationEvent> {
        Vec::new()
    }

    fn when_instance_gone(&self) -> WhenGone {
        WhenGone::Ignored
    }

    fn typical_ms(&self) -> u64 {
        TYPICAL_MS
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        let volume = self.volume.clone();
        taken(TakenSnapshot { snapshot: imagined.snapshot(), volume, size_gib: None })
    }

    fn words(&self, seen: &Evidence) -> String {
        words::common(seen)
    }
}

impl Step for SnapshotAhead {
    fn name(&self) -> StepName {
        OfVolume::SnapshotAhead.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn is_only_good_in_time(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        suspect_one(op, seen);
        // The snapshot belongs to the operation, which uses or deletes it.
        if let Evidence::Backup(BackupEvidence::Taken { snapshots, .. }) = seen.evidence {
            for taken in snapshots {
                op.facts.cleanup.copy(&taken.snapshot);
            }
        }
    }

    fn consequence(&self, _settled: &Settled<'_>) -> Vec<OperationEvent> {
        Vec::new()
    }

    fn when_instance_gone(&self) -> WhenGone {
        WhenGone::Ignored
    }

    fn typical_ms(&self) -> u64 {
        TYPICAL_MS
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        let volume = self.volume.clone();
        taken(TakenSnapshot { snapshot: imagined.snapshot(), volume, size_gib: None })
    }

    fn words(&self, seen: &Evidence) -> String {
        words::common(seen)
    }
}

fn suspect_one(op: &mut Operation, seen: &Seen<'_>) {
    // What an operation that is given up may have made is remembered already.
    let is_suspected = op.gives_up() && matches!(seen.evidence, Evidence::OutOfTime { .. });
    if final_snapshot::may_have_made_one(seen.evidence) && !is_suspected {
        suspect(op, seen.intent);
    }
}

fn taken(snapshot: TakenSnapshot) -> Evidence {
    let (snapshots, twins) = (vec![snapshot], Vec::new());
    Evidence::Backup(BackupEvidence::Taken { snapshots, taken_at_ms: 0, twins })
}
