//! Resources that an operation makes superfluous, because newer ones have taken their place.

use crate::model::aws::SnapshotId;
use crate::model::resources::Resource;
use crate::operation::state::Operation;
use crate::rules::{address_retention, existing_volumes, interface};
use crate::step::intent::Intent;

impl Operation {
    /// Snapshots of volumes, and an interface, that the node no longer needs.
    pub(crate) fn superseded_things(&self) -> Vec<Resource> {
        let (facts, before) = (&self.facts, &self.order.before);
        let mut resources = Vec::new();
        let needed = |snapshot: &SnapshotId| {
            facts.volumes.values().any(|fact| fact.made_from.as_ref() == Some(snapshot))
                || (facts.root.image.is_some() && facts.root.snapshot.as_ref() == Some(snapshot))
        };
        // A snapshot that is still under way, or is being made into an image, may be any of them.
        let is_awaited = self.steps.values().any(|record| {
            let uses = matches!(
                record.intent.as_ref(),
                Intent::SnapshotRoot(_) | Intent::SnapshotVolume(_) | Intent::RegisterImage(_)
            );
            uses && record.outcome.is_none()
        });
        let Some(candidate) = facts.candidate.as_ref().filter(|candidate| candidate.verified) else {
            return resources;
        };
        let old = before.volumes.values().filter_map(|held| held.made_from.as_ref());
        for snapshot in facts.cleanup.copies().chain(old).filter(|snapshot| !is_awaited && !needed(snapshot))
        {
            resources.push(Resource::Snapshot { snapshot: snapshot.clone() });
        }
        if Self::has_moved(candidate)
            && let Some(held) = facts.network.interface.as_ref().and_then(|fact| fact.held.as_ref())
        {
            resources.push(Resource::Interface { interface: held.interface.clone() });
        }
        resources.extend(interface::spare(self));
        resources.extend(address_retention::superseded(self));
        resources
    }
}

/// Resources of this operation that are no longer needed. Volumes that an instance may have written to are
/// not among them.
pub(crate) fn made(op: &Operation) -> Vec<Resource> {
    let (facts, before) = (&op.facts, &op.order.before);
    let mut made = Vec::new();
    for fact in facts.volumes.values().filter(|fact| !fact.may_have_content()) {
        if let Some(volume) = &fact.id
            && !before.volumes.values().any(|held| held.volume == *volume)
            && !existing_volumes::is_taken(op, volume)
        {
            made.push(Resource::Volume { volume: volume.clone() });
        }
    }
    made.extend(facts.cleanup.temporaries().map(Resource::from));
    if let Some(held) = facts.network.interface.as_ref().and_then(|fact| fact.held.as_ref())
        && before.interface.as_ref() != Some(held)
        && !interface::goes_back(op)
    {
        made.push(Resource::Interface { interface: held.interface.clone() });
    }
    made.extend(interface::spare(op));
    made.extend(address_retention::undone(op));
    if let Some(image) = &facts.root.image {
        made.push(Resource::Image { image: image.clone() });
    }
    made.extend(facts.cleanup.copies().map(Resource::from));
    made
}
