//! How state gets from one instance to the next: which root method is used, which way a data volume takes,
//! and what a move to another subnet changes. Everything follows from the pool that is asked, or that the new
//! instance came from.
//!
//! - Root, `adopt`
//!   - Same zone: the same volume; if that fails, a clone of it (`rules::root_clone`).
//!   - Another zone: an image of its final snapshot.
//! - Root, `image`: an image of its final snapshot, in every zone.
//! - Root, restored: an image of the backup's snapshot, in every zone.
//! - Data, restored: a new volume from the backup's snapshot, attached (`snapshot`: in the launch request),
//!   in every zone.
//! - Data, `reattach`
//!   - Same zone: the same volume is attached.
//!   - Another zone: final snapshot, new volume in the zone, attached.
//! - Data, `snapshot`: final snapshot, new volume in the launch request, in every zone. A volume that was new
//!   when the instance was launched is attached.
//! - Address, same subnet: the same.
//! - Address, another subnet: another one, in every zone.
//! - Address of an address pool, another subnet: the node's address of the pool there
//!   (`rules::address_pool`), in every zone.
//! - Second interface, another subnet: another one (`rules::interface`), in every zone.
//!
//! A volume that existed before the node moves in the same way: see `rules::existing_volumes`.
//!
//! If home waits for a snapshot anyway, snapshots that only another zone needs are taken speculatively: see
//! `rules::snapshot_ahead`.
//!
//! A volume that continues as a copy is *retained*, never deleted. A copy is the node's volume as soon as an
//! instance runs with it. If that instance is lost before the end, the copy continues, by the transfer method
//! of the next pool.

use std::net::Ipv4Addr;

use crate::model::capacity::CapacityPool;
use crate::model::image::Placement;
use crate::model::resources::Retained;
use crate::model::root::RootMethod;
use crate::model::volume::Slot;
use crate::operation::facts::{Candidate, Place, VolumeFact};
use crate::operation::state::Operation;
use crate::rules::capacity;
use crate::spec::node::{DataMode, NetworkMode};
use crate::step::intent::LaunchVolume;

/// How a data volume gets onto the new instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferMethod {
    /// The same volume is attached.
    Attach,
    /// A copy is made in the instance's zone and attached.
    Copy,
    /// A copy is in the launch request.
    Launch,
}

impl Operation {
    /// The pool of the new instance; before it is launched, the pool that is asked next.
    pub(crate) fn target(&self) -> Option<CapacityPool> {
        let asked = || capacity::next(self).map(|asked| asked.pool);
        self.facts.candidate.as_ref().map(|candidate| candidate.pool.clone()).or_else(asked)
    }

    /// The zone of a pool.
    pub(crate) fn zone_of<'a>(&'a self, placement: &'a Placement, pool: &CapacityPool) -> &'a str {
        match &pool.subnet {
            None => &placement.zone,
            Some(subnet) => placement.other_zones.get(subnet).unwrap_or(&placement.zone),
        }
    }

    /// Whether a volume is in the zone of a pool.
    fn is_near(&self, fact: &VolumeFact, pool: &CapacityPool) -> bool {
        let Some(placement) = &self.facts.placement else { return true };
        fact.zone.as_ref().unwrap_or(&placement.zone) == self.zone_of(placement, pool)
    }

    /// How an instance of a pool gets the root.
    pub(crate) fn root_method_of(&self, pool: &CapacityPool) -> RootMethod {
        let root = self.facts.volumes.get(&Slot::Root);
        match self.facts.root.method {
            RootMethod::Adopt | RootMethod::Clone if root.is_some_and(|root| !self.is_near(root, pool)) => {
                RootMethod::Image
            }
            root_method => root_method,
        }
    }

    /// How the new instance gets the root.
    pub(crate) fn root_method(&self) -> RootMethod {
        self.target().map_or(self.facts.root.method, |pool| self.root_method_of(&pool))
    }

    /// How an instance of a pool gets a data volume.
    pub(crate) fn transfer_method(
        &self,
        slot: &Slot,
        fact: &VolumeFact,
        pool: &CapacityPool,
    ) -> TransferMethod {
        let before = self.order.before.volumes.get(slot);
        let is_used = fact.touched || before.is_some_and(|held| Some(&held.volume) == fact.id.as_ref());
        match self.order.spec.persist.data {
            DataMode::Reattach if is_used && self.facts.restore.contains_key(slot) => TransferMethod::Copy,
            DataMode::Snapshot if is_used && !self.is_launched_without(slot) => TransferMethod::Launch,
            DataMode::Snapshot | DataMode::Reattach if self.is_near(fact, pool) => TransferMethod::Attach,
            DataMode::Snapshot | DataMode::Reattach => TransferMethod::Copy,
        }
    }

    /// Whether the new instance was launched without a copy of a volume, because nothing had written to the
    /// volume then: an attachment to the instance before may have come later. The volume itself is attached.
    fn is_launched_without(&self, slot: &Slot) -> bool {
        let Some(candidate) = &self.facts.candidate else { return false };
        let has_copy = candidate.launched_with.values().any(|(of, _)| of == slot);
        !has_copy && !self.facts.restore.contains_key(slot)
    }

    /// Whether the launch in the next pool waits for resources that the old instance still holds.
    pub(crate) fn launches_late(&self) -> bool {
        let Some(pool) = self.target() else { return false };
        let in_launch = |(slot, fact): (&Slot, &VolumeFact)| {
            *slot != Slot::Root
                && fact.place != Place::Absent
                && self.transfer_method(slot, fact, &pool) == TransferMethod::Launch
        };
        self.root_method_of(&pool) == RootMethod::Image || self.facts.volumes.iter().any(in_launch)
    }

    /// The data volumes of a launch request; `None` while a snapshot is missing.
    pub(crate) fn launch_volumes(&self, pool: &CapacityPool) -> Option<Vec<LaunchVolume>> {
        let mut volumes = Vec::new();
        for (slot, fact) in &self.facts.volumes {
            if *slot == Slot::Root
                || fact.place == Place::Absent
                || self.transfer_method(slot, fact, pool) != TransferMethod::Launch
            {
                continue;
            }
            let wanted = crate::rules::attached_volumes::wish(self, slot);
            let wanted = wanted.as_ref();
            volumes.push(LaunchVolume {
                slot: slot.clone(),
                device: fact.device.clone(),
                snapshot: self
                    .facts
                    .restore
                    .get(slot)
                    .or(fact.snapshot.as_ref().filter(|_| !self.is_being_attached(slot)))
                    .filter(|_| fact.place == Place::Free)?
                    .clone(),
                size_gib: wanted.map(|wanted| wanted.size_gib).max(fact.size_gib),
                volume_type: wanted.map(|wanted| wanted.volume_type.clone()),
                iops: wanted.and_then(|wanted| wanted.iops),
                throughput: wanted.and_then(|wanted| wanted.throughput),
                encrypted: wanted.is_some_and(|wanted| wanted.encrypted),
                kms_key: wanted.and_then(|wanted| wanted.kms_key.clone()),
            });
        }
        Some(volumes)
    }

    /// The node's own address on an instance: known beforehand if it stays.
    pub(crate) fn address_on(&self, candidate: &Candidate) -> Option<Ipv4Addr> {
        match self.order.spec.persist.network {
            NetworkMode::None => None,
            NetworkMode::PrimaryEni if Self::has_moved(candidate) => {
                candidate.running.as_ref().map(|running| running.private_ip)
            }
            NetworkMode::SecondaryEni if Self::has_moved(candidate) => {
                let there = self.facts.interface_in(candidate.pool.subnet.as_ref());
                there.and_then(|fact| fact.held.as_ref()).map(|held| held.private_ip)
            }
            NetworkMode::SecondaryIp if Self::has_moved(candidate) => candidate.address,
            NetworkMode::IpPool => {
                self.facts.address_in(candidate.pool.subnet.as_ref().unwrap_or(&self.facts.subnet))
            }
            NetworkMode::PrimaryEni | NetworkMode::SecondaryEni | NetworkMode::SecondaryIp => {
                self.facts.network.address
            }
        }
    }

    /// A volume continues as another one.
    pub(crate) fn superseded(&self, slot: &Slot, fact: &VolumeFact, why: &str) -> Option<Retained> {
        let because = format!("{}: {why}", self.id);
        fact.id.clone().map(|volume| {
            let foreign = crate::rules::attached_volumes::is_foreign(fact.found.as_ref())
                || crate::rules::existing_volumes::is_taken(self, &volume);
            Retained {
                foreign,
                went_on: true,
                size_gib: fact.size_gib,
                ..Retained::new(volume, slot.clone(), because)
            }
        })
    }
}
