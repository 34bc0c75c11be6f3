//! Looks for resources that a step of a cancelled or abandoned operation may have made.
//!
//! Call: describes by tag; nothing is changed. Observed on: whatever carries the tags. Absence is believed
//! only after minutes. What is found is an orphan, and deleted; an instance is fenced.

use crate::model::aws::VolumeId;
use crate::model::resources::{Resource, ResourceId, Retained};
use crate::model::volume::Slot;
use crate::operation::event::OperationEvent;
use crate::operation::facts::Holder;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Find;
use crate::step::name::StepName;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for Find {
    fn name(&self) -> StepName {
        StepName::Find(Resource::suspected(self.kind, &self.tags))
    }

    fn patience(&self) -> Patience {
        // Absence is believed only after minutes.
        Patience::until_a_person_is_needed(30 * MINUTE_MS)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::Found { resources, kept } = seen.evidence else { return };
        op.facts.cleanup.deleted(ResourceId::Suspected(Resource::suspected(self.kind, &self.tags)));
        for volume in kept {
            let slot =
                op.order.spec.data_volumes.first().map_or(Slot::Root, |data| Slot::Data(data.name.clone()));
            let because = format!("{}: made by a step that did not settle; it may have been attached", op.id);
            op.facts.superseded.push(Retained::new(volume.clone(), slot, because));
        }
        for resource in resources {
            if let Resource::Instance { instance, spot_request } = resource {
                op.facts.holders.push(Holder::new(instance.clone(), spot_request.clone()));
            } else {
                let because = format!("{}: made by a step that did not settle", op.id);
                op.facts.cleanup.orphan(resource.clone(), because);
            }
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.not_cleaned()
    }

    fn typical_ms(&self) -> u64 {
        300_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Found { resources: Vec::new(), kept: Vec::new() }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Found { resources, kept } => found_in_words(resources, kept),
            other => words::common(other),
        }
    }
}

fn found_in_words(resources: &[Resource], kept: &[VolumeId]) -> String {
    let made = |ids: Vec<String>| (!ids.is_empty()).then(|| format!("it has made {}", ids.join(", ")));
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let kept = (!kept.is_empty())
        .then(|| format!("it may have made {}, which is kept: it may have been attached", kept.join(", ")));
    let said: Vec<String> =
        made(resources.iter().map(Resource::id).collect()).into_iter().chain(kept).collect();
    if said.is_empty() { "it has made nothing".to_owned() } else { said.join("; ") }
}
