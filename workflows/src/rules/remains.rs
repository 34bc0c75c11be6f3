//! The result of an operation when it ends: which instance carries the node, and which resources are retained
//! or orphaned.

use crate::model::aws::SnapshotId;
use crate::model::operation_id;
use crate::model::resources::{Orphan, Resource, Resources, Retained, RootImage};
use crate::model::volume::Slot;
use crate::operation::state::Operation;
use crate::rules::candidate::GivenUp;
use crate::rules::{address_retention, interface, recovery_point, superseded};
use crate::spec::node::NetworkMode;

impl Operation {
    /// The resources that a deletion takes over when it supersedes this operation, which is stuck: everything
    /// that belongs to the node or may have been created for it.
    #[must_use]
    pub fn handed_over(&self, at_ms: u64) -> Resources {
        let mut end = self.clone();
        end.give_up_candidate(at_ms, GivenUp::Cancelled);
        let facts = &end.facts;
        let mut left = end.order.before.clone();
        left.carrier = left.carrier.filter(|_| {
            operation_id::is_in_place(end.order.kind) || end.old().is_some_and(|old| !old.fenced)
        });
        left.placement = facts.placement.clone();
        left.recovery_points.extend(recovery_point::changed(&end));
        left.survey = facts.survey.as_deref().cloned().map(Box::new);
        left.uefi_data.clone_from(&facts.uefi_data);
        for (slot, fact) in &facts.volumes {
            match &fact.id {
                Some(volume) => {
                    let held = fact.held(volume);
                    left.volumes.insert(slot.clone(), held);
                }
                None => {
                    left.volumes.remove(slot);
                }
            }
        }
        left.volumes.retain(|_, held| !facts.cleanup.is_deleted(&held.volume));
        if let Some(fact) = &facts.network.interface {
            left.interface = fact.held.clone();
        }
        left.interface = left.interface.filter(|held| !facts.cleanup.is_deleted(&held.interface));
        if end.order.spec.persist.network != NetworkMode::None {
            left.address = facts.network.address;
        }
        left.addresses_elsewhere.clone_from(&facts.network.addresses_elsewhere);
        let keeper = address_retention::keeper(&end);
        left.address_interface = keeper.clone().filter(|_| left.carrier.is_none());
        left.retained.extend(end.outlived("the root of an instance that was lost before the end"));
        left.retained.extend(facts.superseded.iter().cloned());
        left.retained.retain(|old| !facts.cleanup.is_deleted(&old.volume));
        left.orphans = end.orphans();
        // The old instance is still the carrier, and the address has left it.
        let elsewhere =
            left.carrier.as_ref().and_then(|carrier| keeper.filter(|keeper| *keeper != carrier.interface));
        left.orphans.extend(elsewhere.map(|interface| Orphan {
            resource: Resource::Interface { interface },
            because: format!("{}: of an instance that is given up", end.id),
        }));
        // A volume is either the node's or an orphan: orphans are deleted, whatever the deletion keeps.
        left.orphans.retain(|old| {
            !matches!(&old.resource, Resource::Volume { volume } if left.volumes.values().any(|held| held.volume == *volume))
        });
        if let (Some(image), Some(snapshot)) = (&facts.root.image, &facts.root.snapshot) {
            left.root_images.push(RootImage {
                image: image.clone(),
                snapshot: snapshot.clone(),
                borrowed: facts.root.is_borrowed,
            });
        }
        left.root_images.retain(|root| !facts.cleanup.is_deleted(&root.image));
        left.orphans.extend(end.loose_snapshots(&left));
        left.orphans.extend(end.unsettled());
        left
    }

    /// Snapshots of volumes that nothing of what is left is made from.
    fn loose_snapshots(&self, left: &Resources) -> Vec<Orphan> {
        let facts = &self.facts;
        let old: Vec<SnapshotId> =
            self.order.before.volumes.values().filter_map(|held| held.made_from.clone()).collect();
        let held = |snapshot: &SnapshotId| {
            left.volumes.values().any(|held| held.made_from.as_ref() == Some(snapshot))
                || left.root_images.iter().any(|root| root.snapshot == *snapshot)
                || facts.cleanup.is_deleted(snapshot)
        };
        let loose = facts.cleanup.copies().chain(&old).filter(|copy| !held(copy)).cloned();
        let orphan = |snapshot| Orphan {
            resource: Resource::Snapshot { snapshot },
            because: format!("{}: of a volume", self.id),
        };
        loose.map(orphan).collect()
    }

    /// Instances that may still run, and resources of requests that did not settle.
    fn unsettled(&self) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        for holder in self.facts.holders.iter().filter(|holder| !holder.is_old && !holder.fenced) {
            orphans.push(Orphan {
                resource: Resource::Instance {
                    instance: holder.instance.clone(),
                    spot_request: holder.spot_request.clone(),
                },
                because: format!("{}: launched by it", self.id),
            });
        }
        for record in self.steps.values().filter(|record| record.outcome.is_none()) {
            for (kind, tags) in record.intent.makes() {
                orphans.push(Orphan {
                    resource: Resource::Unsettled {
                        kind,
                        tags: tags.clone(),
                        origin: self.origin(&record.intent),
                    },
                    because: format!("{}: {} did not settle", self.id, record.step),
                });
            }
        }
        orphans
    }

    /// Roots of lost instances that may have carried the node for a while.
    pub(crate) fn outlived(&self, why: &str) -> Vec<Retained> {
        let roots = self.facts.outlived.iter();
        roots.map(|root| Retained::new(root.clone(), Slot::Root, format!("{}: {why}", self.id))).collect()
    }

    /// The orphans at the end of this operation.
    #[must_use]
    pub fn orphans(&self) -> Vec<Orphan> {
        let cleanup = &self.facts.cleanup;
        let mut left: Vec<Orphan> = cleanup.orphans().cloned().collect();
        let volumes = cleanup.temporaries().map(Resource::from);
        let superseded = self.order.before.root_images.iter().filter(|root| {
            !root.borrowed && cleanup.is_deleted(&root.image) && !cleanup.is_deleted(&root.snapshot)
        });
        let snapshots = superseded.map(|root| Resource::Snapshot { snapshot: root.snapshot.clone() });
        let made = if self.facts.is_undoing() { superseded::made(self) } else { Vec::new() };
        let copies = self.superseded_things();
        let given_up = self.facts.candidate.is_none() && !self.facts.is_undoing();
        let interfaces = address_retention::spare(self).filter(|_| given_up);
        for resource in
            volumes.chain(snapshots).chain(made).chain(copies).chain(interface::spare(self)).chain(interfaces)
        {
            if !left.iter().any(|known| known.resource == resource) {
                let because = format!("{}: not cleaned up", self.id);
                left.push(Orphan { resource, because });
            }
        }
        left.retain(|left| !cleanup.is_deleted(&left.resource));
        for left in &mut left {
            if let Some(because) = cleanup.failure(&left.resource) {
                left.because = format!("{}: {because}", self.id);
            }
        }
        left
    }
}
