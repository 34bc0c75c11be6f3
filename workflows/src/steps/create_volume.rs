//! Creates a data volume: one that was absent, or a copy of one that is in another zone.
//!
//! Call: CreateVolume with the client token of the intent. Observed on: the volume, `available`.

use crate::model::operation_id::OperationKind;
use crate::model::volume::Found;
use crate::operation::event::OperationEvent;
use crate::operation::facts::{Place, VolumeFact};
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::CreateVolume;
use crate::step::name::{OfVolume, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for CreateVolume {
    fn name(&self) -> StepName {
        OfVolume::Create.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        // Seconds in practice; an EBS control-plane brown-out can make them minutes.
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        // The request does not know the volume's id yet; there are few such steps.
        matches!(hint, WakeHint::Volume { .. })
    }

    fn follows_the_file(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::VolumeCreated { volume, found } = seen.evidence else { return };
        let restored = op.facts.restore.remove(&self.slot).is_some();
        let why = if restored { "it came back from a backup" } else { "the node moved to another zone" };
        let Some(fact) = op.facts.volumes.get(&self.slot) else { return };
        let superseded = op.superseded(&self.slot, fact, why);
        let is_copy = superseded.is_some();
        op.facts.superseded.extend(superseded);
        if let Some(fact) = op.facts.volumes.get_mut(&self.slot) {
            *fact = VolumeFact {
                id: Some(volume.clone()),
                place: Place::Free,
                size_gib: Some(self.size_gib),
                zone: Some(self.zone.clone()),
                made_from: self.snapshot.clone().filter(|_| is_copy && !restored),
                found: fact.found.as_ref().map(Found::copied),
                // A copy holds the node's data before any instance has written to it.
                touched: is_copy || (restored && op.order.kind != OperationKind::Provision),
                unproven: *found,
                ..VolumeFact::absent(fact.device.clone())
            };
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.not_created()
    }

    fn typical_ms(&self) -> u64 {
        2_500
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        Evidence::VolumeCreated { volume: imagined.volume(), found: false }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::VolumeCreated { volume, .. } => format!("{volume} is available"),
            other => words::common(other),
        }
    }
}
