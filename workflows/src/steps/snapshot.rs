//! Takes the final snapshot of a free volume, and sees it complete: of the root, for an image; of a data
//! volume, for a copy. Both are the same step, about another volume.
//!
//! Call: CreateSnapshot. The worker first looks for the tag `perennial:step`, which makes a repeat safe.
//! Observed on: the snapshot, `completed`. A snapshot that was taken before an instance may have written to
//! the volume is of no use (`rules::snapshot_ahead`). A cancelled operation does not wait for it.

use crate::model::aws::VolumeId;
use crate::model::operation_id::OperationKind;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::rules::snapshot_ahead;
use crate::step::evidence::Evidence;
use crate::step::intent::{SnapshotRoot, SnapshotVolume};
use crate::step::name::{OfVolume, Only, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, Withdrawal, words};

/// A first full snapshot takes hours.
const PATIENCE: Patience = Patience::until_a_person_is_needed(24 * 60 * MINUTE_MS);

/// Small increments take minutes. No promise is published.
const TYPICAL_MS: u64 = 105_000;

impl Step for SnapshotRoot {
    fn name(&self) -> StepName {
        Only::SnapshotRoot.into()
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        is_about(hint, &self.volume)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::SnapshotCompleted { snapshot, .. } = seen.evidence else { return };
        let outdated = snapshot_ahead::is_outdated(op, seen.intent);
        op.facts.cleanup.copy(snapshot);
        if !outdated {
            op.facts.root.snapshot = Some(snapshot.clone());
        }
    }

    fn withdrawal(&self, _kind: OperationKind, _is_asked: bool) -> Withdrawal {
        Withdrawal::EndsInDoubt
    }

    fn typical_ms(&self) -> u64 {
        TYPICAL_MS
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        completed(imagined)
    }

    fn words(&self, seen: &Evidence) -> String {
        in_words(seen)
    }
}

impl Step for SnapshotVolume {
    fn name(&self) -> StepName {
        OfVolume::Snapshot.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        is_about(hint, &self.volume)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::SnapshotCompleted { snapshot, .. } = seen.evidence else { return };
        let outdated = snapshot_ahead::is_outdated(op, seen.intent);
        op.facts.cleanup.copy(snapshot);
        let fact = op.facts.volumes.get_mut(&self.slot).filter(|fact| fact.place == Place::Free);
        if let Some(fact) = fact.filter(|fact| !outdated && fact.id.as_ref() == Some(&self.volume)) {
            fact.snapshot = Some(snapshot.clone());
        }
    }

    fn withdrawal(&self, _kind: OperationKind, _is_asked: bool) -> Withdrawal {
        Withdrawal::EndsInDoubt
    }

    fn typical_ms(&self) -> u64 {
        TYPICAL_MS
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        completed(imagined)
    }

    fn words(&self, seen: &Evidence) -> String {
        in_words(seen)
    }
}

fn is_about(hint: &WakeHint, volume: &VolumeId) -> bool {
    matches!(hint, WakeHint::Snapshots { volumes, .. } if volumes.contains(volume))
}

/// The speculative snapshot that the step waits for, or a new one.
fn completed(imagined: &Imagined<'_>) -> Evidence {
    let ahead =
        snapshot_ahead::awaited(imagined.state, imagined.intent).map(|(snapshot, _)| snapshot.clone());
    let snapshot = ahead.unwrap_or_else(|| imagined.snapshot());
    Evidence::SnapshotCompleted { snapshot, size_gib: None }
}

fn in_words(seen: &Evidence) -> String {
    match seen {
        Evidence::SnapshotCompleted { snapshot, .. } => format!("{snapshot} is complete"),
        other => words::common(other),
    }
}
