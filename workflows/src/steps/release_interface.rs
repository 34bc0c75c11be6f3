//! Sees the node's interface free, after its holder was seen terminated.
//!
//! Call: DescribeNetworkInterfaces; nothing is changed. Observed on: the interface, free. An interface that
//! is lost is created again with the node's address: it holds no data.

use crate::operation::event::OperationEvent;
use crate::operation::facts::{InterfaceFact, Place};
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
        if let Evidence::HeldByAnother { by, .. } = seen.evidence {
            let instance = op.facts.launched_here(by);
            if let Some((fact, instance)) = op.facts.interface_mut(&self.interface).zip(instance) {
                fact.place = Place::On(instance);
            }
            return;
        }
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
        // The journal was put back from a backup, and what it is about to do was done.
        let is_it =
            |fact: &&InterfaceFact| fact.held.as_ref().is_some_and(|held| held.interface == self.interface);
        let fact = settled.op.facts.interfaces().find(is_it);
        let is_there = matches!(settled.evidence, Evidence::HeldByAnother { .. })
            && fact.is_some_and(|fact| !fact.place.is_on(&self.from));
        if is_there { Vec::new() } else { settled.unless_lost() }
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
