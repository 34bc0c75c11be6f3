//! Enlarges a data volume, wherever it is.
//!
//! Call: ModifyVolume. The worker looks at the size first; a reached size is not requested again. Observed
//! on: the volume's size. An operation that is cancelled does not wait for it.

use crate::model::operation_id::OperationKind;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Grow;
use crate::step::name::{OfVolume, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, Withdrawal, words};

impl Step for Grow {
    fn name(&self) -> StepName {
        OfVolume::Grow.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        // Seconds to minutes in practice; EC2 promises nothing, and grants one modification in six hours.
        Patience::until_a_person_is_needed(26 * 60 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_volume(&self.volume)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if let Evidence::Grown { size_gib } = seen.evidence
            && let Some(fact) = op.facts.volumes.get_mut(&self.slot)
        {
            fact.size_gib = Some(*size_gib);
        }
    }

    fn withdrawal(&self, _kind: OperationKind, _is_asked: bool) -> Withdrawal {
        // The growth is looked at again when it is asked for again.
        Withdrawal::Ends
    }

    fn typical_ms(&self) -> u64 {
        60_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Grown { size_gib: self.size_gib }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Grown { size_gib } => format!("it has {size_gib} GiB"),
            other => words::common(other),
        }
    }
}
