//! Sees a volume free, after its holder was seen terminated.
//!
//! Call: DetachVolume by force, only when a terminated instance still has the volume after minutes. It names
//! that instance, so a repeat cannot affect a newer holder. Observed on: the volume, free. A volume that is
//! lost needs a person, unless the operation deletes it anyway.

use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::volume::Slot;
use crate::operation::event::OperationEvent;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::rules::recovery_point;
use crate::step::evidence::Evidence;
use crate::step::intent::Release;
use crate::step::name::{OfVolume, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, is_ending, words};

impl Step for Release {
    fn name(&self) -> StepName {
        OfVolume::Release.of(&self.slot)
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(60 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        // A volume becomes free a little later than its instance ends: a look then comes soon enough.
        hint.is_about_volume(&self.volume) || hint.is_about_instance(&self.from)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let is_ending = is_ending(op);
        let is_left = recovery_point::is_left_to_the_next(op, &self.slot);
        if let Evidence::HeldByAnother { by, .. } = seen.evidence {
            arrived_already(op, &self.slot, by);
            return;
        }
        let fact = op.facts.volumes.get_mut(&self.slot);
        match seen.evidence {
            Evidence::Released => {
                if let Some(fact) = fact.filter(|fact| fact.place.is_on(&self.from)) {
                    fact.place = Place::Free;
                }
            }
            // What the operation deletes may be gone already.
            Evidence::Lost { .. } if is_ending => {
                if let Some(fact) = fact {
                    fact.place = Place::Free;
                }
                op.facts.cleanup.deleted(&self.volume);
            }
            Evidence::Lost { .. } if is_left => {
                if let Some(fact) = fact {
                    fact.place = Place::Free;
                }
            }
            _ => {}
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        let op = settled.op;
        match settled.evidence {
            // Gone for ever, and needed no more.
            Evidence::Lost { .. } if op.order.kind == OperationKind::Delete => Vec::new(),
            Evidence::Lost { .. } if recovery_point::is_left_to_the_next(op, &self.slot) => Vec::new(),
            // It is where it was to go, or on an instance that is fenced.
            Evidence::HeldByAnother { .. }
                if op.facts.volumes.get(&self.slot).is_some_and(|fact| !fact.place.is_on(&self.from)) =>
            {
                Vec::new()
            }
            _ => settled.blocked(),
        }
    }

    fn consequence_when_given_up(&self, settled: &Settled<'_>) -> Option<Vec<OperationEvent>> {
        let ends_with_it = settled.op.facts.is_undoing()
            && settled.op.order.kind == OperationKind::Provision
            && matches!(settled.evidence, Evidence::Lost { .. });
        ends_with_it.then(Vec::new)
    }

    fn is_needed_by_undo(&self, _op: &Operation) -> bool {
        true
    }

    fn remedy(&self, operation: &OperationId) -> String {
        let Self { volume, from, .. } = self;
        format!(
            "see that {volume} leaves {from}: `aws ec2 describe-volumes --volume-ids {volume}` shows it, \
             `aws ec2 detach-volume --volume-id {volume} --instance-id {from} --force` takes it off a terminated instance. \
             Then `perennial workflow resume {operation}`"
        )
    }

    fn typical_ms(&self) -> u64 {
        2_500
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
}

/// A data volume that left the old instance was attached by hand to one that this operation has launched. Or
/// the journal was put back from a backup, and what it is about to do was done: then the root is on the new
/// instance as well, and the adoption, which looks first, finds it there.
fn arrived_already(op: &mut Operation, slot: &Slot, on: &str) {
    let facts = &mut op.facts;
    if *slot == Slot::Root {
        let is_there = facts.candidate.as_ref().is_some_and(|candidate| candidate.instance.as_str() == on);
        if let Some(fact) = facts.volumes.get_mut(slot).filter(|_| is_there) {
            fact.place = Place::Free;
        }
        return;
    }
    let instance = facts.launched_here(on);
    if let Some((fact, instance)) = facts.volumes.get_mut(slot).zip(instance) {
        fact.goes_to(&instance);
    }
}
