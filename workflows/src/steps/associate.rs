//! Associates the node's Elastic IP address with an instance.
//!
//! Call: AssociateAddress; EC2 documents it as idempotent. The worker first looks where the address leads,
//! and takes it only from an interface of the node. Observed on: the address.

use std::net::Ipv4Addr;

use crate::model::aws::InstanceId;
use crate::model::resources::HeldElastic;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Associate;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for Associate {
    fn name(&self) -> StepName {
        Only::AssociateElasticIp.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if let Evidence::Associated { public_ip } = seen.evidence {
            let held = HeldElastic { allocation: self.allocation.clone(), public_ip: *public_ip };
            op.facts.network.elastic = Some((held, self.instance.clone()));
        }
    }

    fn is_needed_by_undo(&self, op: &Operation) -> bool {
        op.is_old(&self.instance)
    }

    fn typical_ms(&self) -> u64 {
        3_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Associated { public_ip: Ipv4Addr::UNSPECIFIED }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Associated { public_ip } => format!("{public_ip} leads to it"),
            other => words::common(other),
        }
    }

    fn brings(&self, seen: &Evidence) -> Option<String> {
        match seen {
            Evidence::Associated { public_ip } => Some(format!("{public_ip} led to it")),
            _ => None,
        }
    }
}
