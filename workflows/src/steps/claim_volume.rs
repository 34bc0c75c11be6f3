//! Checks that an existing volume, which the file names, can be the node's.
//!
//! Call: DescribeVolumes; nothing is changed. Observed on: the volume, free in two reads, in the node's zone
//! and large enough.

use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::ClaimVolume;
use crate::step::name::{OfVolume, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for ClaimVolume {
    fn name(&self) -> StepName {
        OfVolume::Claim.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_volume(&self.volume)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if let Evidence::VolumeClaimed { size_gib, traits } = seen.evidence
            && let Some(fact) = op.facts.volumes.get_mut(&self.slot)
        {
            fact.id = Some(self.volume.clone());
            fact.place = Place::Free;
            fact.size_gib = Some(*size_gib);
            fact.zone = Some(self.zone.clone());
            fact.found.clone_from(traits);
        }
    }

    fn typical_ms(&self) -> u64 {
        1_500
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::VolumeClaimed { size_gib: self.size_gib, traits: None }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::VolumeClaimed { size_gib, .. } => {
                format!("{} ({size_gib} GiB) is free, seen twice", self.volume)
            }
            other => words::common(other),
        }
    }
}
