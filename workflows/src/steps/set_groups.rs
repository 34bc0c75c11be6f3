//! Gives the node's own interface the security groups of the file, and sees them.
//!
//! Call: ModifyNetworkInterfaceAttribute, which is declarative; the worker looks first. Observed on: the
//! interface. If it is lost, the steps that need it find that out.

use crate::model::aws::GroupId;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::SetGroups;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for SetGroups {
    fn name(&self) -> StepName {
        Only::SetGroups.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn follows_the_file(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if let Evidence::GroupsSet | Evidence::Lost { .. } = seen.evidence
            && let Some(fact) = op.facts.interface_mut(&self.interface)
        {
            fact.groups = Some(self.groups.clone());
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.unless_lost()
    }

    fn typical_ms(&self) -> u64 {
        1_500
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::GroupsSet
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::GroupsSet => {
                let groups: Vec<&str> = self.groups.iter().map(GroupId::as_str).collect();
                format!("{} has {}", self.interface, groups.join(", "))
            }
            other => words::common(other),
        }
    }
}
