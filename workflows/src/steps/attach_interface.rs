//! Attaches the node's second interface to an instance: to the new one, or back to the old one in an undo.
//!
//! Call: AttachNetworkInterface. It has no client token; repeating it is safe because EC2 attaches an
//! interface once, and the worker looks at the interface first. Observed on: the interface. If it is lost, it
//! is created again. An attachment whose outcome is not known may have happened: it counts as there.

use crate::model::aws::InstanceId;
use crate::operation::event::OperationEvent;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::AttachInterface;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for AttachInterface {
    fn name(&self) -> StepName {
        Only::AttachInterface.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        match seen.evidence {
            Evidence::Lost { .. } => op.facts.forget_interface(&self.interface),
            Evidence::Attached | Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. } => {
                if let Some(fact) = op.facts.interface_mut(&self.interface) {
                    fact.place = Place::On(self.instance.clone());
                }
            }
            _ => {}
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        let Evidence::NoCapacity { code, message } = settled.evidence else { return settled.unless_lost() };
        let candidate = settled.op.facts.candidate.as_ref();
        let needs = format!(
            "detach another interface from it; or name types that take more interfaces than {}, `perennial node apply -f FILE`, and terminate it: then another is launched. Then `perennial workflow resume {}`",
            candidate.map_or("its own", |candidate| candidate.pool.instance_type.as_str()),
            settled.op.id
        );
        settled.stuck(format!("{code}: {} takes no further interface: {message}", self.instance), needs)
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
            Evidence::Attached => format!("{} is attached at index {}", self.interface, self.device_index),
            other => words::common(other),
        }
    }

    fn brings(&self, seen: &Evidence) -> Option<String> {
        (*seen == Evidence::Attached).then(|| format!("{} was attached", self.interface))
    }
}
