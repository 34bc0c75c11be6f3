//! What an operation leaves: what belongs to the node at its end, and what is left over.

use std::collections::BTreeMap;

use super::{GivenUp, Operation};
use crate::aws::SnapshotId;
use crate::node::{
    Carrier, HeldInterface, HeldVolume, Leftover, OperationKind, Outcome, Resources, Retained, RootImage,
    Thing,
};
use crate::spec::NetworkMode;
use crate::steps::Slot;
use crate::{delete, elsewhere, found, grow, keeping, loss, pause, prune, uefi, undo};

impl Operation {
    /// What a deletion takes over when it supersedes this operation, which is stuck: everything that belongs to the node or
    /// may have been made for it.
    #[must_use]
    pub fn handed_over(&self, at_ms: u64) -> Resources {
        let mut end = self.clone();
        end.give_up_candidate(at_ms, GivenUp::Cancelled);
        let facts = &end.facts;
        let gone = |id: &str| facts.gone.iter().any(|gone| gone == id);
        let mut left = end.order.before.clone();
        left.carrier = left
            .carrier
            .filter(|_| found::is_in_place(end.order.kind) || end.old().is_some_and(|old| !old.fenced));
        left.placement = facts.placement.clone();
        left.origins.extend(loss::changed(&end));
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
        left.volumes.retain(|_, held| !gone(held.volume.as_str()));
        if let Some(fact) = &facts.interface {
            left.interface = fact.held.clone();
        }
        left.interface = left.interface.filter(|held| !gone(held.interface.as_str()));
        if end.order.spec.persist.network != NetworkMode::None {
            left.address = facts.address;
        }
        left.addresses_elsewhere.clone_from(&facts.addresses_elsewhere);
        let keeper = keeping::keeper(&end);
        left.address_interface = keeper.clone().filter(|_| left.carrier.is_none());
        left.retained.extend(end.outlived("the root of an instance that was lost before the end"));
        left.retained.extend(facts.superseded.iter().cloned());
        left.retained.retain(|old| !gone(old.volume.as_str()));
        left.leftovers = end.leftovers();
        // The old instance is still the carrier, and the address has left it.
        let elsewhere =
            left.carrier.as_ref().and_then(|carrier| keeper.filter(|keeper| *keeper != carrier.interface));
        left.leftovers.extend(elsewhere.map(|interface| Leftover {
            thing: Thing::Interface { interface },
            because: format!("{}: of an instance that is given up", end.id),
        }));
        // A volume is the node's or left over, never both: what is left over is deleted, whatever the deletion keeps.
        left.leftovers.retain(|old| {
            !matches!(&old.thing, Thing::Volume { volume } if left.volumes.values().any(|held| held.volume == *volume))
        });
        if let (Some(image), Some(snapshot)) = (&facts.root_image, &facts.root_snapshot) {
            left.root_images.push(RootImage {
                image: image.clone(),
                snapshot: snapshot.clone(),
                borrowed: facts.root_is_borrowed,
            });
        }
        left.root_images.retain(|root| !gone(root.image.as_str()));
        let old: Vec<SnapshotId> =
            end.order.before.volumes.values().filter_map(|held| held.made_from.clone()).collect();
        let held = |snapshot: &SnapshotId| {
            left.volumes.values().any(|held| held.made_from.as_ref() == Some(snapshot))
                || left.root_images.iter().any(|root| root.snapshot == *snapshot)
                || gone(snapshot.as_str())
        };
        let loose: Vec<SnapshotId> =
            facts.copies.iter().chain(&old).filter(|copy| !held(copy)).cloned().collect();
        for snapshot in loose {
            let because = format!("{}: of a volume", end.id);
            left.leftovers.push(Leftover { thing: Thing::Snapshot { snapshot }, because });
        }
        for holder in facts.holders.iter().filter(|holder| !holder.is_old && !holder.fenced) {
            left.leftovers.push(Leftover {
                thing: Thing::Instance {
                    instance: holder.instance.clone(),
                    spot_request: holder.spot_request.clone(),
                },
                because: format!("{}: launched by it", end.id),
            });
        }
        for record in end.steps.values().filter(|record| record.outcome.is_none()) {
            for (made, tags) in record.intent.makes() {
                left.leftovers.push(Leftover {
                    thing: Thing::Unsettled { made, tags: tags.clone() },
                    because: format!("{}: {} did not settle", end.id, record.step),
                });
            }
        }
        left
    }

    /// Roots of lost instances that may have carried the node for a while.
    pub(crate) fn outlived(&self, why: &str) -> Vec<Retained> {
        let roots = self.facts.outlived.iter();
        roots.map(|root| Retained::new(root.clone(), Slot::Root, format!("{}: {why}", self.id))).collect()
    }

    /// What is left over at the end of this operation.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        let mut left: Vec<Leftover> = self.facts.things.clone();
        let temporary = self.facts.temporary.iter().filter(|temporary| !temporary.deleted);
        let volumes = temporary.map(|temporary| Thing::Volume { volume: temporary.volume.clone() });
        let superseded = self.order.before.root_images.iter().filter(|root| {
            let gone = |id: &str| self.facts.gone.iter().any(|gone| gone == id);
            !root.borrowed && gone(root.image.as_str()) && !gone(root.snapshot.as_str())
        });
        let snapshots = superseded.map(|root| Thing::Snapshot { snapshot: root.snapshot.clone() });
        let made = if self.facts.undoing { undo::made(self) } else { Vec::new() };
        let copies = self.superseded_things();
        let given_up = self.facts.candidate.is_none() && !self.facts.undoing;
        let interfaces = keeping::spare(self).filter(|_| given_up);
        for thing in
            volumes.chain(snapshots).chain(made).chain(copies).chain(elsewhere::spare(self)).chain(interfaces)
        {
            if !left.iter().any(|known| known.thing == thing) {
                let because = format!("{}: not cleaned up", self.id);
                left.push(Leftover { thing, because });
            }
        }
        left.retain(|left| !self.facts.gone.contains(&left.thing.id()));
        for left in &mut left {
            if let Some(because) = self.facts.uncleaned.get(&left.thing.id()) {
                left.because = format!("{}: {because}", self.id);
            }
        }
        left
    }

    /// What belongs to the node, if everything is in place.
    pub(super) fn finished(&self) -> Option<(Resources, Outcome)> {
        if self.steps.values().any(|record| record.outcome.is_none()) {
            return None;
        }
        if self.facts.undoing {
            return undo::restored(self).map(|resources| (resources, Outcome::Cancelled));
        }
        if self.facts.diverted.is_some() {
            let outcome =
                if self.order.kind == OperationKind::Pause { Outcome::Completed } else { Outcome::Paused };
            return pause::paused(self, self.started_at_ms).map(|resources| (resources, outcome));
        }
        let resources = match self.order.kind {
            OperationKind::Provision | OperationKind::Replace | OperationKind::Resume => {
                self.carried_resources()
            }
            OperationKind::Pause => pause::paused(self, self.started_at_ms),
            OperationKind::Delete => delete::remaining(self),
            OperationKind::Grow => grow::grown(self),
            OperationKind::Take => found::taken_up(self),
            OperationKind::Prune => prune::pruned(self),
        };
        resources.map(|resources| (resources, Outcome::Completed))
    }

    /// What belongs to the node once the candidate carries it.
    pub(super) fn carried_resources(&self) -> Option<Resources> {
        let facts = &self.facts;
        let candidate = facts.candidate.as_ref()?;
        let (interface, private_ip) = candidate.network.clone()?;
        if !facts.verified || facts.holders.iter().any(|holder| !holder.fenced) {
            return None;
        }
        let before = &self.order.before;
        let mut volumes: BTreeMap<Slot, HeldVolume> = BTreeMap::new();
        for (slot, fact) in &facts.volumes {
            if let Some(volume) = &fact.id {
                // All of them are where the node lives now.
                volumes.insert(slot.clone(), HeldVolume { zone: None, ..fact.held(volume) });
            }
        }
        let mut retained = before.retained.clone();
        retained.extend(facts.superseded.iter().cloned());
        if self.keeps_root()
            && let Some(root) = &candidate.root_volume
        {
            let device = candidate.root_device.clone().unwrap_or_default();
            let new = HeldVolume {
                volume: root.clone(),
                device,
                size_gib: None,
                zone: None,
                made_from: None,
                found: None,
            };
            if let Some(old) = volumes.insert(Slot::Root, new)
                && old.volume != *root
            {
                let way = self.rung_of(&candidate.pool);
                let because = format!("{}: the root went on as another volume ({way})", self.id);
                let size_gib = prune::size_seen(self, &old.volume);
                retained.push(Retained { size_gib, ..Retained::new(old.volume, Slot::Root, because) });
            }
        }
        if !self.keeps_root()
            && let Some(old) = before.volumes.get(&Slot::Root)
        {
            let because = format!("{}: the node's root is not kept any more", self.id);
            let size_gib = prune::size_seen(self, &old.volume);
            retained.push(Retained { size_gib, ..Retained::new(old.volume.clone(), Slot::Root, because) });
        }
        retained.extend(self.outlived("the root of an instance that was lost before the end"));
        let mut root_images: Vec<RootImage> = before
            .root_images
            .iter()
            .filter(|image| !facts.gone.contains(&image.image.to_string()))
            .cloned()
            .collect();
        if let (Some(image), Some(snapshot)) = (&facts.root_image, &facts.root_snapshot) {
            root_images.push(RootImage {
                image: image.clone(),
                snapshot: snapshot.clone(),
                borrowed: facts.root_is_borrowed,
            });
        }
        let subnet = candidate.pool.subnet.as_ref().unwrap_or(&facts.subnet);
        Some(Resources {
            subnet: (*subnet != self.order.spec.subnet).then(|| subnet.clone()),
            placement: facts.placement.as_ref().map(|placement| match &candidate.pool.subnet {
                Some(subnet) => placement.moved(&facts.subnet, subnet),
                None => placement.clone(),
            }),
            carrier: Some(Carrier {
                instance: candidate.instance.clone(),
                instance_type: candidate.pool.instance_type.clone(),
                market: candidate.pool.market,
                interface,
                private_ip,
                spot_request: candidate.spot_request.clone(),
            }),
            volumes,
            interface: self
                .interface_on(candidate)
                .zip(self.address_on(candidate))
                .map(|(interface, private_ip)| HeldInterface { interface, private_ip }),
            address: self.address_on(candidate),
            address_interface: None,
            addresses_elsewhere: facts.addresses_but_in(subnet),
            elastic: facts.elastic.as_ref().map(|(held, _)| held.clone()),
            root_images,
            retained,
            leftovers: self.leftovers(),
            origins: loss::origins(self, candidate),
            survey: facts.survey.as_deref().cloned().map(Box::new),
            uefi_data: uefi::of_the_root(self, candidate),
            strangers: Vec::new(),
        })
    }
}
