//! The instance that is to carry the node: when it is given up, and what happens to the resources that were
//! attached to it.

use std::sync::Arc;

use crate::model::aws::{InstanceId, VolumeId};
use crate::model::root::RootMethod;
use crate::model::volume::Slot;
use crate::operation::facts::{Holder, Place};
use crate::operation::state::Operation;
use crate::rules::{address_retention, capacity};
use crate::spec::node::NetworkMode;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// Why a candidate is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// It is or will be gone: the next launch asks another pool.
    Lost,
    /// It was launched for another root method: its own root is worthless.
    RungChanged,
    /// The operation ends without it.
    Cancelled,
}

impl Operation {
    /// The request an instance was launched by.
    pub(crate) fn launch_of(&self, instance: &InstanceId) -> Option<Arc<Intent>> {
        self.steps.values().rev().find_map(|record| match &record.outcome {
            Some((Evidence::Launched { instance: launched, .. }, _)) if launched == instance => {
                Some(Arc::clone(&record.intent))
            }
            _ => None,
        })
    }

    /// The candidate becomes one more instance to fence.
    pub(crate) fn give_up_candidate(&mut self, at_ms: u64, why: GivenUp) {
        let keeps_root = self.keeps_root();
        let Some(candidate) = self.facts.candidate.take() else { return };
        let root_method = self.root_method_of(&candidate.pool);
        // Volumes that were created with an instance that never ran hold no data.
        if !candidate.runs()
            && !candidate.launched_with.is_empty()
            && let Some(launch) = self.launch_of(&candidate.instance)
        {
            let origin = self.origin(&launch);
            self.facts.suspect_volumes_of(&launch, origin, &self.id);
        }
        if Self::has_moved(&candidate)
            && candidate.preserved
            && self.order.spec.persist.network == NetworkMode::PrimaryEni
            && let Some(interface) = candidate.interface()
        {
            self.facts.cleanup.orphan(interface.into(), format!("{}: of a lost instance", self.id));
        }
        let adopting = self.is_adopting(&candidate.instance);
        let is_root = |volume: &VolumeId| candidate.root_volume() == Some(volume);
        let preserving = self.steps.values().any(|record| match record.intent.as_ref() {
            Intent::Preserve(preserve) => {
                preserve.instance == candidate.instance && preserve.volumes.iter().any(is_root)
            }
            _ => false,
        });
        let keeps_address = address_retention::preserved(self, &candidate.instance).is_some();
        let facts = &mut self.facts;
        if adopting && let Some(root) = facts.volumes.get_mut(&Slot::Root) {
            // The task may have put it there already, and its DeleteOnTermination is not known.
            root.place = Place::On(candidate.instance.clone());
            root.touched = true;
        }
        let carries =
            keeps_address || facts.volumes.values().any(|fact| fact.place.is_on(&candidate.instance));
        if let Some(root) = candidate.root_volume().cloned().filter(|_| !candidate.adopted) {
            // A root that was launched as the node's own may have been written to; only a root that waited
            // for an adoption is known to be worthless. One that was never to be protected dies with its
            // instance. One that was may have outlived it, with whatever it was given.
            let adopts = matches!(root_method, RootMethod::Adopt | RootMethod::Clone);
            let of_no_worth = adopts || !keeps_root || !(candidate.protected || preserving);
            if of_no_worth || why == GivenUp::RungChanged {
                facts.add_temporary(&root);
            } else {
                facts.outlived.push(root);
            }
        }
        if facts.network.address_on.as_ref() == Some(&candidate.instance) {
            facts.network.address_on = None;
        }
        if facts.network.elastic.as_ref().is_some_and(|(_, on)| *on == candidate.instance) {
            facts.network.elastic = None;
        }
        facts.carried_over = None;
        facts
            .holders
            .push(Holder { preserved: !carries, ..Holder::new(candidate.instance, candidate.spot_request) });
        if why == GivenUp::Lost {
            capacity::climb(self, candidate.pool, "lost before it carried the node".to_owned(), at_ms);
        }
    }
}
