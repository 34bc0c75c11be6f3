//! Looks at every resource of the node once more.
//!
//! Call: describes only. Observed on: the instance, its volumes and its interface. The operation can finish
//! only after it.

use crate::model::aws::InstanceId;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Verify;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for Verify {
    fn name(&self) -> StepName {
        Only::Verify.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if let Some(candidate) = op.facts.candidate.as_mut().filter(|c| c.instance == self.instance) {
            candidate.verified |= *seen.evidence == Evidence::Verified;
        }
    }

    fn typical_ms(&self) -> u64 {
        2_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Verified
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Verified => "everything is in place".to_owned(),
            other => words::common(other),
        }
    }
}
