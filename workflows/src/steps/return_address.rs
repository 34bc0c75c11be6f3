//! Sees that no resource of the node has its address any more, which returns to its pool.
//!
//! Call: DescribeNetworkInterfaces; nothing is changed. Observed on: the interfaces with the address.

use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::ReturnAddress;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for ReturnAddress {
    fn name(&self) -> StepName {
        Only::ReturnAddress.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if let Evidence::AddressReturned { .. } = seen.evidence {
            op.facts.returned(&self.subnet);
        }
    }

    fn is_needed_by_undo(&self, _op: &Operation) -> bool {
        true
    }

    fn typical_ms(&self) -> u64 {
        1_500
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::AddressReturned { pool: self.pool.clone(), address: self.address }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::AddressReturned { pool, address } => format!("{address} is the pool {pool}'s again"),
            other => words::common(other),
        }
    }
}
