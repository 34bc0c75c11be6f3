//! Detaches the node's second interface from an instance that still runs.
//!
//! Call: DetachNetworkInterface, never forced. It names the attachment, whose id is never reused. Observed
//! on: the interface, free. It is only tried: an interface that stays follows after the fence.

use crate::model::aws::InstanceId;
use crate::operation::event::OperationEvent;
use crate::operation::facts::Place;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::DetachInterface;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{Patience, SECOND_MS, Seen, Step, words};

impl Step for DetachInterface {
    fn name(&self) -> StepName {
        Only::DetachInterface.into()
    }

    fn patience(&self) -> Patience {
        Patience::then_another_way(20 * SECOND_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn is_only_good_in_time(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let is_free = op.facts.is_undoing() || *seen.evidence == Evidence::Released;
        let fact = op.facts.interface_mut(&self.interface);
        if let Some(fact) = fact.filter(|fact| fact.place.is_on(&self.instance)) {
            fact.detach_tried_on = Some(self.instance.clone());
            if is_free {
                fact.place = Place::Free;
            }
        }
    }

    fn consequence(&self, _settled: &Settled<'_>) -> Vec<OperationEvent> {
        Vec::new()
    }

    fn is_dropped_on_short_notice(&self) -> bool {
        true
    }

    fn typical_ms(&self) -> u64 {
        4_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Released
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Released => format!("{} is free", self.interface),
            other => words::common(other),
        }
    }

    fn takes_away(&self, _old: Option<&InstanceId>) -> Option<String> {
        Some(format!("{} was detached", self.interface))
    }
}
