//! Moves the node's secondary address to an instance's primary interface.
//!
//! Call: AssignPrivateIpAddresses. The worker first looks at the interface, and at the holder of the address;
//! assigning an address that the interface already has changes nothing. Observed on: the interface.

use crate::model::aws::InstanceId;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, MoveAddress};
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for MoveAddress {
    fn name(&self) -> StepName {
        Only::MoveAddress.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::Moved { address } = seen.evidence else { return };
        let elsewhere = was_elsewhere(op, &self.instance);
        let facts = &mut op.facts;
        match facts.candidate.as_mut().filter(|candidate| candidate.instance == self.instance) {
            Some(candidate) if Operation::has_moved(candidate) => candidate.address = Some(*address),
            // Of an instance in another subnet that was lost meanwhile.
            None if elsewhere => {}
            _ => facts.network.address = Some(*address),
        }
        facts.network.address_on = Some(self.instance.clone());
    }

    fn is_needed_by_undo(&self, op: &Operation) -> bool {
        op.is_old(&self.instance)
    }

    fn typical_ms(&self) -> u64 {
        3_000
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        Evidence::Moved { address: self.address.unwrap_or_else(|| imagined.address()) }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Moved { address } => format!("{address} is on {}", self.instance),
            other => words::common(other),
        }
    }

    fn brings(&self, seen: &Evidence) -> Option<String> {
        match seen {
            Evidence::Moved { address } => Some(format!("{address} was moved")),
            _ => None,
        }
    }
}

/// Whether an instance was launched in another subnet than the node was in.
fn was_elsewhere(op: &Operation, instance: &InstanceId) -> bool {
    op.launch_of(instance).is_some_and(
        |intent| matches!(intent.as_ref(), Intent::Launch(launch) if launch.pool.subnet.is_some()),
    )
}
