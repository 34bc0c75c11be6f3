//! Creates the node's own interface.
//!
//! Call: CreateNetworkInterface with the client token of the intent. Observed on: the interface, `available`.

use std::net::Ipv4Addr;

use crate::model::resources::HeldInterface;
use crate::operation::event::OperationEvent;
use crate::operation::facts::InterfaceFact;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::CreateInterface;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for CreateInterface {
    fn name(&self) -> StepName {
        Only::CreateInterface.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn follows_the_file(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::InterfaceCreated { interface, private_ip } = seen.evidence else { return };
        let facts = &mut op.facts;
        let held = HeldInterface { interface: interface.clone(), private_ip: *private_ip };
        let fact = InterfaceFact::new(Some(held), Some(self.groups.clone()));
        if self.subnet == facts.subnet {
            facts.network.address = Some(*private_ip);
            facts.network.interface = Some(fact);
        } else {
            facts.made_elsewhere(&self.subnet, fact, &op.id);
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.not_created()
    }

    fn typical_ms(&self) -> u64 {
        1_500
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        Evidence::InterfaceCreated {
            interface: imagined.interface(),
            private_ip: match self.private_ip {
                Some(given) => given,
                None if self.subnet == imagined.state.facts.subnet => imagined.address(),
                None => Ipv4Addr::UNSPECIFIED,
            },
        }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::InterfaceCreated { interface, private_ip } => format!("{interface} with {private_ip}"),
            other => words::common(other),
        }
    }
}
