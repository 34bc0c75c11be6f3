//! Copies the free root volume and sees the copy available.
//!
//! Call: CopyVolumes with the client token of the intent. Observed on: the copy. Where it is refused or
//! late, the root goes on in the next way (`rules::root_clone`); a late copy may come into being, and is
//! looked for.

use crate::model::root::RootMethod;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::rules::root_clone;
use crate::step::evidence::Evidence;
use crate::step::intent::CloneRoot;
use crate::step::name::{Only, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, suspect, words};

impl Step for CloneRoot {
    fn name(&self) -> StepName {
        Only::CloneRoot.into()
    }

    fn patience(&self) -> Patience {
        Patience::then_another_way(15 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        // The request does not know the copy's id yet; there are few such steps.
        matches!(hint, WakeHint::Volume { .. })
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        match seen.evidence {
            Evidence::VolumeCreated { volume, .. } => root_clone::cloned(op, &self.volume, volume),
            // It may come into being all the same.
            Evidence::OutOfTime { .. } if !op.gives_up() => suspect(op, seen.intent),
            _ => {}
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        let because = match settled.evidence {
            Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message } => {
                format!("CopyVolumes: {code}: {message}")
            }
            Evidence::OutOfTime { because } => format!("the copy was not there in time: {because}"),
            _ => return settled.blocked(),
        };
        match root_clone::tried_on(settled.op) {
            Some(instance) if settled.op.facts.root.method == RootMethod::Clone => {
                settled.next_root_method(&instance, because)
            }
            _ => Vec::new(),
        }
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
