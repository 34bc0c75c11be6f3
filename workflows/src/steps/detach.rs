//! Detaches a data volume from an instance that still runs.
//!
//! Call: DetachVolume, never forced. It names the instance, so a repeat cannot affect a newer holder.
//! Observed on: the volume, free. It is only tried: a volume that stays in use follows after the fence.

use crate::model::aws::InstanceId;
use crate::operation::event::OperationEvent;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Detach;
use crate::step::name::{OfVolume, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{Patience, SECOND_MS, Seen, Step, words};

impl Step for Detach {
    fn name(&self) -> StepName {
        OfVolume::Detach.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        // A volume in use stays in use; after termination it becomes free in any case.
        Patience::then_another_way(20 * SECOND_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_volume(&self.volume)
    }

    fn is_only_good_in_time(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let undoing = op.facts.is_undoing();
        let Some(fact) = op.facts.volumes.get_mut(&self.slot) else { return };
        if *seen.evidence == Evidence::Released {
            fact.place = Place::Free;
            return;
        }
        fact.detach_tried_on = Some(self.instance.clone());
        if undoing {
            fact.place = Place::Free;
        }
    }

    fn consequence(&self, _settled: &Settled<'_>) -> Vec<OperationEvent> {
        Vec::new()
    }

    fn is_dropped_on_short_notice(&self) -> bool {
        true
    }

    fn typical_ms(&self) -> u64 {
        4_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Released
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Released => format!("{} is free", self.volume),
            other => words::common(other),
        }
    }

    fn takes_away(&self, _old: Option<&InstanceId>) -> Option<String> {
        Some(format!("{} was detached", self.slot))
    }
}
