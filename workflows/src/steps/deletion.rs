//! Deletes a resource by id: a volume, an interface, an image, a snapshot.
//!
//! Call: DeleteVolume, DeleteNetworkInterface, DeregisterImage, DeleteSnapshot. Each names an id that is
//! never reused, and "not found" means done. Observed on: the resource, absent. A resource that cannot be
//! deleted in time stays listed as an orphan, and the next operation tries again; only `delete` needs a
//! person for what belongs to the node.

use crate::model::operation_id::OperationKind;
use crate::model::resources::ResourceId;
use crate::operation::event::OperationEvent;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::{DeleteInterface, DeleteSnapshot, DeleteVolume, DeregisterImage};
use crate::step::name::StepName;
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, Withdrawal, words};

/// Seconds in practice.
const PATIENCE: Patience = Patience::until_a_person_is_needed(5 * MINUTE_MS);

impl Step for DeleteVolume {
    fn name(&self) -> StepName {
        StepName::DeleteVolume(self.volume.clone())
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_volume(&self.volume)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if *seen.evidence != Evidence::Deleted {
            return;
        }
        let facts = &mut op.facts;
        facts.cleanup.deleted(&self.volume);
        if op.order.kind == OperationKind::Delete {
            return;
        }
        // Made by this operation and undone: if it goes forward after all, it is made anew.
        for fact in facts.volumes.values_mut().filter(|fact| fact.id.as_ref() == Some(&self.volume)) {
            fact.id = None;
            fact.place = Place::Absent;
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.not_cleaned()
    }

    fn withdrawal(&self, kind: OperationKind, _is_asked: bool) -> Withdrawal {
        // A retention gives way at once; what is gone all the same is found so by the next one.
        if kind == OperationKind::Prune { Withdrawal::Ends } else { Withdrawal::Settles }
    }

    fn typical_ms(&self) -> u64 {
        2_500
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Deleted
    }

    fn words(&self, seen: &Evidence) -> String {
        in_words(seen)
    }
}

impl Step for DeleteInterface {
    fn name(&self) -> StepName {
        StepName::DeleteInterface(self.interface.clone())
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        deleted(op, (&self.interface).into(), seen);
        if *seen.evidence == Evidence::Deleted && op.order.kind != OperationKind::Delete {
            op.facts.forget_interface(&self.interface);
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.not_cleaned()
    }

    fn typical_ms(&self) -> u64 {
        2_500
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Deleted
    }

    fn words(&self, seen: &Evidence) -> String {
        in_words(seen)
    }
}

impl Step for DeregisterImage {
    fn name(&self) -> StepName {
        StepName::DeregisterImage(self.image.clone())
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        deleted(op, (&self.image).into(), seen);
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.not_cleaned()
    }

    fn typical_ms(&self) -> u64 {
        1_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Deleted
    }

    fn words(&self, seen: &Evidence) -> String {
        in_words(seen)
    }
}

impl Step for DeleteSnapshot {
    fn name(&self) -> StepName {
        StepName::DeleteSnapshot(self.snapshot.clone())
    }

    fn patience(&self) -> Patience {
        PATIENCE
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        deleted(op, (&self.snapshot).into(), seen);
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.not_cleaned()
    }

    fn typical_ms(&self) -> u64 {
        1_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Deleted
    }

    fn words(&self, seen: &Evidence) -> String {
        in_words(seen)
    }
}

fn deleted(op: &mut Operation, resource: ResourceId, seen: &Seen<'_>) {
    if *seen.evidence == Evidence::Deleted {
        op.facts.cleanup.deleted(resource);
    }
}

fn in_words(seen: &Evidence) -> String {
    match seen {
        Evidence::Deleted => "gone".to_owned(),
        other => words::common(other),
    }
}
