//! Sees the node's interface free, after its holder was seen terminated.
//!
//! Call: DescribeNetworkInterfaces; nothing is changed. Observed on: the interface, free. An interface that
//! is lost is created again with the node's address: it holds no data.

use crate::operation::event::OperationEvent;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::ReleaseInterface;
use crate::step::name::{Only, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, is_ending, words};

impl Step for ReleaseInterface {
    fn name(&self) -> StepName {
        Only::ReleaseInterface.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(60 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_instance(&self.from)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let is_lost = matches!(seen.evidence, Evidence::Lost { .. });
        let is_ending = is_ending(op);
        if is_lost && !is_ending {
            op.facts.forget_interface(&self.interface);
        } else if is_lost || *seen.evidence == Evidence::Released {
            if let Some(fact) = op.facts.interface_mut(&self.interface) {
                fact.place = Place::Free;
            }
            if is_lost {
                // What the operation deletes may be gone already.
                op.facts.cleanup.deleted(&self.interface);
            }
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.unless_lost()
    }

    fn typical_ms(&self) -> u64 {
        2_500
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Released
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Released => format!("{} is free", self.interface),
            other => words::common(other),
        }
    }
}
