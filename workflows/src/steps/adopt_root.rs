//! Makes the node's own root volume the root of the new instance.
//!
//! Call: CreateReplaceRootVolumeTask with the client token of the intent. Observed on: the volume. Where it
//! is refused or late, the root goes on in the next way (`rules::root_clone`), on another instance. From
//! the intention on the instance may write to the volume.

use crate::model::aws::{InstanceId, RootTaskId};
use crate::model::volume::Slot;
use crate::operation::event::OperationEvent;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::rules::snapshot_ahead;
use crate::step::evidence::Evidence;
use crate::step::intent::AdoptRoot;
use crate::step::name::{Only, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::{Imagined, imaginary};
use crate::steps::settled::{Settled, is_candidate};
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for AdoptRoot {
    fn name(&self) -> StepName {
        Only::AdoptRoot.into()
    }

    fn patience(&self) -> Patience {
        // The documentation's example took 20 seconds.
        Patience::then_another_way(10 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_volume(&self.volume)
    }

    fn begin(&self, op: &mut Operation) {
        snapshot_ahead::outdate_root(op);
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let facts = &mut op.facts;
        // Whatever the outcome of an adoption that did not succeed, the volume is seen free again before it
        // is used.
        if let Some(root) = facts.volumes.get_mut(&Slot::Root) {
            root.place = Place::On(self.instance.clone());
            root.touched = true;
        }
        // An instance that was given up meanwhile may have been preserved before the root came.
        for holder in facts.holders.iter_mut().filter(|h| h.instance == self.instance && !h.fenced) {
            holder.preserved = false;
        }
        if !matches!(seen.evidence, Evidence::Adopted { .. }) {
            return;
        }
        if let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == self.instance) {
            candidate.adopted = true;
            // The flag of an adopted root is not documented: it is looked at before anything else happens.
            candidate.protected = false;
            if let Some(running) = &mut candidate.running {
                running.root_volume = facts.volumes.get(&Slot::Root).and_then(|root| root.id.clone());
            }
        }
        if let Some(temporary) = &self.temporary {
            facts.add_temporary(temporary);
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        match settled.evidence {
            // Refused on an instance that is lost anyway: the loss may be the reason, so the next one is
            // asked.
            _ if !is_candidate(settled.op, &self.instance) => Vec::new(),
            Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message } => {
                let because = format!("CreateReplaceRootVolumeTask: {code}: {message}");
                settled.next_root_method(&self.instance, because)
            }
            Evidence::OutOfTime { because } => {
                let because = format!("the adoption did not end in time: {because}");
                settled.next_root_method(&self.instance, because)
            }
            _ => settled.blocked(),
        }
    }

    fn typical_ms(&self) -> u64 {
        // The documentation's example took 20 seconds.
        23_000
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        let task = imaginary(RootTaskId::parse(&format!("replacevol-{}", imagined.suffix())));
        Evidence::Adopted { task: Some(task) }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Adopted { task: Some(task) } => format!("{} is the root ({task})", self.volume),
            Evidence::Adopted { task: None } => "is the root".to_owned(),
            other => words::common(other),
        }
    }

    fn brings(&self, seen: &Evidence) -> Option<String> {
        matches!(seen, Evidence::Adopted { .. }).then(|| "the root was adopted".to_owned())
    }
}
