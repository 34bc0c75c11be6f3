//! The steps of a backup. They belong to a node's backup catalog, which is no operation and has its own
//! machine (`aggregate::backup_catalog`); name and time stand with their request in `step::backup`. No
//! operation opens one.

use crate::operation::state::Operation;
use crate::step::backup::BackupIntent;
use crate::step::evidence::Evidence;
use crate::step::name::StepName;
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::{Patience, Seen, Step, words};

impl Step for BackupIntent {
    fn name(&self) -> StepName {
        self.step()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(self.budget_ms())
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        match (self, hint) {
            (Self::Await { snapshots: awaited }, WakeHint::Snapshots { snapshots, .. }) => {
                awaited.iter().any(|awaited| snapshots.contains(awaited))
            }
            _ => false,
        }
    }

    fn is_only_good_in_time(&self) -> bool {
        true
    }

    fn learn(&self, _op: &mut Operation, _seen: &Seen<'_>) {}

    fn typical_ms(&self) -> u64 {
        0
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::OutOfTime { because: "a plan takes no backup".to_owned() }
    }

    fn words(&self, seen: &Evidence) -> String {
        words::common(seen)
    }
}
