//! Attaches a data volume to an instance: to the new one, or back to the old one in an undo.
//!
//! Call: AttachVolume. It has no client token; repeating it is safe because EBS attaches a volume once, and
//! the worker looks at the volume first. Observed on: the volume. If the device name is in use, another one
//! is tried; if the instance is gone, the candidate is lost. An attachment whose outcome is not known may
//! have happened: the volume counts as there.

use crate::model::aws::InstanceId;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::rules::device_names;
use crate::step::evidence::Evidence;
use crate::step::intent::Attach;
use crate::step::name::{OfVolume, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for Attach {
    fn name(&self) -> StepName {
        OfVolume::Attach.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_volume(&self.volume)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        match seen.evidence {
            Evidence::Attached | Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. } => {
                if let Some(fact) = op.facts.volumes.get_mut(&self.slot) {
                    fact.goes_to(&self.instance);
                }
            }
            Evidence::DeviceInUse => {
                let another = device_names::another(op);
                if let (Some(fact), Some(another)) = (op.facts.volumes.get_mut(&self.slot), another) {
                    fact.device = another;
                }
            }
            _ => {}
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        if *settled.evidence != Evidence::DeviceInUse {
            return settled.blocked();
        }
        let op = settled.op;
        // Another name is tried.
        if op.facts.volumes.get(&self.slot).is_some_and(|fact| fact.device != self.device) {
            return Vec::new();
        }
        settled.stuck(
            format!("no device name is free on the instance; {} was the last", self.device),
            format!("detach a volume, then `perennial workflow resume {}`", op.id),
        )
    }

    fn is_needed_by_undo(&self, op: &Operation) -> bool {
        op.is_old(&self.instance)
    }

    fn typical_ms(&self) -> u64 {
        4_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Attached
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Attached => format!("{} is attached as {}", self.volume, self.device),
            Evidence::DeviceInUse => {
                format!("{} is in use on the instance: another name is taken", self.device)
            }
            other => words::common(other),
        }
    }

    fn brings(&self, seen: &Evidence) -> Option<String> {
        (*seen == Evidence::Attached).then(|| format!("{} was attached", self.slot))
    }
}
