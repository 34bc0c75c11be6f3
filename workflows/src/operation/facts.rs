//! The facts of an operation, which its rules read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::model::aws::{
    GroupId, ImageId, InstanceId, InterfaceId, SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use crate::model::backup_id::BackupId;
use crate::model::capacity::CapacityPool;
use crate::model::image::Placement;
use crate::model::operation_id::OperationId;
use crate::model::resources::{
    HeldElastic, HeldInterface, HeldVolume, Origin, Resource, ResourceKind, Retained,
};
use crate::model::root::RootMethod;
use crate::model::signal::{Certainty, Signal};
use crate::model::survey::Kept;
use crate::model::volume::{Found, Slot};
use crate::operation::cleanup::Cleanup;
use crate::operation::event::{Diversion, Order};
use crate::step::intent::{Intent, Launch};

/// An interface of the node in another subnet than the previous one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The subnet.
    pub subnet: SubnetId,
    /// Its facts; it exists.
    pub fact: InterfaceFact,
}

impl Elsewhere {
    /// Its id.
    pub(crate) fn id(&self) -> Option<&InterfaceId> {
        self.fact.held.as_ref().map(|held| &held.interface)
    }
}

impl Facts {
    /// The facts of the interface for an instance in a subnet; `None`: where the node was.
    pub(crate) fn interface_in(&self, subnet: Option<&SubnetId>) -> Option<&InterfaceFact> {
        match subnet {
            None => self.network.interface.as_ref(),
            Some(subnet) => self
                .network
                .elsewhere
                .as_ref()
                .filter(|there| there.subnet == *subnet)
                .map(|there| &there.fact),
        }
    }

    /// Every interface of the node.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &InterfaceFact> {
        self.network.interface.iter().chain(self.network.elsewhere.iter().map(|there| &there.fact))
    }

    /// An interface of the node by its id.
    pub(crate) fn interface_mut(&mut self, id: &InterfaceId) -> Option<&mut InterfaceFact> {
        let there = self.network.elsewhere.iter_mut().map(|there| &mut there.fact);
        self.network
            .interface
            .iter_mut()
            .chain(there)
            .find(|fact| fact.held.as_ref().is_some_and(|held| held.interface == *id))
    }

    /// An instance that this operation has launched and that was seen to hold something of the node already.
    /// What it holds may die with it, if it was preserved without that.
    pub(crate) fn launched_here(&mut self, instance: &str) -> Option<InstanceId> {
        let is_it = |id: &InstanceId| id.as_str() == instance;
        if let Some(candidate) = self.candidate.as_ref().filter(|candidate| is_it(&candidate.instance)) {
            return Some(candidate.instance.clone());
        }
        let holder = self.holders.iter_mut().find(|holder| is_it(&holder.instance) && !holder.is_old)?;
        holder.preserved &= holder.fenced;
        Some(holder.instance.clone())
    }

    /// An interface no longer exists: if it is needed, another one is created.
    pub(crate) fn forget_interface(&mut self, id: &InterfaceId) {
        if self.network.elsewhere.as_ref().is_some_and(|there| there.id() == Some(id)) {
            self.network.elsewhere = None;
        } else if let Some(fact) = self.interface_mut(id) {
            *fact = InterfaceFact::new(None, None);
        }
    }

    /// An interface was created in another subnet than the node was in.
    pub(crate) fn made_elsewhere(&mut self, subnet: &SubnetId, fact: InterfaceFact, by: &OperationId) {
        let there = Elsewhere { subnet: subnet.clone(), fact };
        // The node continues in a third subnet.
        let before = self.network.elsewhere.replace(there);
        if let Some(interface) = before.as_ref().and_then(Elsewhere::id) {
            self.cleanup.orphan(interface.into(), format!("{by}: made for an instance that was lost"));
        }
    }
}

/// The place of a resource of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It does not exist yet.
    Absent,
    /// On this instance, as far as known.
    On(InstanceId),
    /// Seen free.
    Free,
}

impl Place {
    pub(crate) fn is_on(&self, instance: &InstanceId) -> bool {
        matches!(self, Self::On(on) if on == instance)
    }
}

/// The facts of one of the node's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFact {
    /// Its id, once it exists.
    pub id: Option<VolumeId>,
    /// Its device name.
    pub device: String,
    /// Its place.
    pub place: Place,
    /// The instance a live detach was tried on.
    pub detach_tried_on: Option<InstanceId>,
    /// Whether an instance of this operation may have written to it.
    pub touched: bool,
    /// Whether it was found by its tags, and an earlier process may have attached it: it is not deleted.
    pub unproven: bool,
    /// Its size, if known.
    pub size_gib: Option<u32>,
    /// Its zone, if it is not known to be where the node lives.
    pub zone: Option<String>,
    /// A complete snapshot of it as it is now.
    pub snapshot: Option<SnapshotId>,
    /// The snapshot it was made from, as a copy.
    pub made_from: Option<SnapshotId>,
    /// Its properties, if it was found on the instance.
    pub found: Option<Found>,
}

impl VolumeFact {
    /// A volume that does not exist yet.
    pub(crate) fn absent(device: String) -> Self {
        Self {
            id: None,
            device,
            place: Place::Absent,
            detach_tried_on: None,
            touched: false,
            unproven: false,
            size_gib: None,
            zone: None,
            snapshot: None,
            made_from: None,
            found: None,
        }
    }

    pub(crate) fn held(&self, volume: &VolumeId) -> HeldVolume {
        HeldVolume {
            volume: volume.clone(),
            device: self.device.clone(),
            size_gib: self.size_gib,
            zone: self.zone.clone(),
            made_from: self.made_from.clone(),
            found: self.found.clone(),
        }
    }

    /// Whether it may have content that no snapshot has: then no cancellation deletes it.
    pub(crate) const fn may_have_content(&self) -> bool {
        self.touched || self.unproven
    }

    /// It is on an instance that may write to it.
    pub(crate) fn goes_to(&mut self, instance: &InstanceId) {
        self.place = Place::On(instance.clone());
        self.touched = true;
        self.snapshot = None;
    }
}

/// The facts of the node's own interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFact {
    /// Id and address, once it exists.
    pub held: Option<HeldInterface>,
    /// Its place.
    pub place: Place,
    /// The instance a live detach was tried on.
    pub detach_tried_on: Option<InstanceId>,
    /// Its security groups, once they were seen or it was made with them.
    pub groups: Option<Vec<GroupId>>,
}

impl InterfaceFact {
    /// An interface that exists and is free, or does not exist yet.
    pub(crate) fn new(held: Option<HeldInterface>, groups: Option<Vec<GroupId>>) -> Self {
        let place = if held.is_some() { Place::Free } else { Place::Absent };
        Self { held, place, detach_tried_on: None, groups }
    }
}

/// An instance that holds, or may hold, a resource of the node, and is to be fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The instance.
    pub instance: InstanceId,
    /// Its spot request.
    pub spot_request: Option<SpotRequestId>,
    /// Whether it is the instance that carried the node when the operation began.
    pub is_old: bool,
    /// DeleteOnTermination is false for every resource of the node on it, or there is none.
    pub preserved: bool,
    /// It was seen shutting down or terminated.
    pub ended: bool,
    /// How certain it is, by the signals, that it is being taken.
    pub certainty: Certainty,
    /// It was seen terminated, twice.
    pub fenced: bool,
    /// When it is taken, as far as reported, in milliseconds since the Unix epoch.
    pub deadline_ms: Option<u64>,
}

impl Holder {
    /// An instance that may hold any resource.
    pub(crate) const fn new(instance: InstanceId, spot_request: Option<SpotRequestId>) -> Self {
        Self {
            instance,
            spot_request,
            is_old: false,
            preserved: false,
            ended: false,
            certainty: Certainty::Warned,
            fenced: false,
            deadline_ms: None,
        }
    }
}

/// The new instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The instance.
    pub instance: InstanceId,
    /// The pool it came from.
    pub pool: CapacityPool,
    /// The image it boots: an instance launched for one root method is of no use to another.
    pub image: ImageId,
    /// Its spot request.
    pub spot_request: Option<SpotRequestId>,
    /// Known once it runs.
    pub running: Option<Running>,
    /// Whether its root would survive its termination, or need not.
    pub protected: bool,
    /// Whether the node's root has been adopted.
    pub adopted: bool,
    /// The node's data volumes that were created with it, by device name, with their snapshots.
    pub launched_with: BTreeMap<String, (Slot, SnapshotId)>,
    /// The node's address on it, if it could not stay the same.
    pub address: Option<Ipv4Addr>,
    /// Whether every resource on it would survive its termination.
    pub preserved: bool,
    /// Whether every resource was looked at once more.
    pub verified: bool,
}

/// The new instance, once it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its primary interface.
    pub interface: InterfaceId,
    /// Its primary address.
    pub private_ip: Ipv4Addr,
    /// Its root's device name.
    pub root_device: String,
    /// The volume it booted from, if the endpoint shows one.
    pub root_volume: Option<VolumeId>,
}

impl Candidate {
    /// Whether it was seen running.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Its primary interface, once it runs.
    #[must_use]
    pub fn interface(&self) -> Option<&InterfaceId> {
        self.running.as_ref().map(|running| &running.interface)
    }

    /// The volume it boots from, once known.
    #[must_use]
    pub fn root_volume(&self) -> Option<&VolumeId> {
        self.running.as_ref().and_then(|running| running.root_volume.as_ref())
    }
}

/// A pool that could not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The pool.
    pub pool: CapacityPool,
    /// EC2's code, or why it was not asked.
    pub because: String,
    /// When.
    pub at_ms: u64,
}

/// The operation's position on the ladder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ladder {
    /// The next pool's place.
    pub next: usize,
    /// How many times the whole ladder was without capacity.
    pub rounds: u32,
    /// No launch before this time.
    pub not_before_ms: u64,
    /// Whether a pool of the present stretch was really asked in this round.
    pub answered: bool,
    /// The refusals.
    pub rejected: Vec<Rejected>,
}

/// How the launches of an operation went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaunchHistory {
    /// The order, with the file, that the last launch was intended by.
    pub last_order: Option<Arc<Order>>,
    /// How many in a row ended before their instance ran.
    pub failed_in_a_row: u32,
    /// The last of them.
    pub last_failure: Option<LaunchFailure>,
    /// EC2's reason for the newest of them that it gave one for.
    pub reason: Option<String>,
}

/// A launch that ended before its instance ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFailure {
    /// The pool that was asked.
    pub pool: CapacityPool,
    /// The instance, if it is still to be fenced.
    pub instance: Option<InstanceId>,
    /// How it ended.
    pub because: String,
}

impl fmt::Display for LaunchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.pool)?;
        if let Some(instance) = &self.instance {
            write!(f, "{instance}: ")?;
        }
        f.write_str(&self.because)
    }
}

impl LaunchHistory {
    /// A launch ended before its instance ran.
    pub(crate) fn failed(&mut self, failure: LaunchFailure) {
        self.failed_in_a_row += 1;
        self.last_failure = Some(failure);
    }

    /// Records EC2's reason for an instance that ended before it ran.
    pub(crate) fn failed_because(&mut self, instance: &InstanceId, reason: Option<&str>) {
        let is_last =
            self.last_failure.as_ref().is_some_and(|failure| failure.instance.as_ref() == Some(instance));
        if let Some(reason) = reason.filter(|_| is_last) {
            self.reason = Some(format!("{reason} ({instance})"));
        }
    }
}

/// How the root reaches the new instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPlan {
    /// The method.
    pub method: RootMethod,
    /// The snapshot of the root.
    pub snapshot: Option<SnapshotId>,
    /// Whether that is a backup's.
    pub is_borrowed: bool,
    /// The image registered from it.
    pub image: Option<ImageId>,
    /// The volume that the root was cloned from in this operation.
    pub cloned_from: Option<VolumeId>,
}

/// The node's interface and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    /// The node's own interface (`primary_eni`, `secondary_eni`).
    pub interface: Option<InterfaceFact>,
    /// The interface that was created in another subnet, for a new instance there (`secondary_eni`).
    pub elsewhere: Option<Elsewhere>,
    /// The node's own address, once known.
    pub address: Option<Ipv4Addr>,
    /// Its addresses in pools of other subnets (`ip_pool`).
    pub addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
    /// The instance the secondary address has been moved to.
    pub address_on: Option<InstanceId>,
    /// The Elastic IP address, and the instance it leads to.
    pub elastic: Option<(HeldElastic, InstanceId)>,
    /// No address was free in the subnet where the node was, when a launch last asked there.
    pub subnet_is_full: bool,
}

/// Where an operation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// To its end.
    Forward,
    /// Back: it is being undone.
    Undo,
    /// It only frees what the node holds: the operator asked for a pause, or for a deletion that follows.
    Divert(Diversion),
}

/// The facts of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The subnet the node lives in.
    pub subnet: SubnetId,
    /// Its zone and the image that the node boots.
    pub placement: Option<Placement>,
    /// The node's volumes; the root only if it is kept and exists.
    pub volumes: BTreeMap<Slot, VolumeFact>,
    /// Its interface and addresses.
    pub network: NetworkFacts,
    /// The UEFI variables of the node's instance, in base64, as they were last read.
    pub uefi_data: Option<String>,
    /// Instances to be fenced.
    pub holders: Vec<Holder>,
    /// The new instance.
    pub candidate: Option<Candidate>,
    /// How the launches went.
    pub launches: LaunchHistory,
    /// The position on the ladder.
    pub ladder: Ladder,
    /// The survey it goes by: its own or the last operation's.
    pub survey: Option<Arc<Kept>>,
    /// The round of the ladder that the last survey was for, however it ended.
    pub surveyed: Option<u32>,
    /// How the root reaches the new instance.
    pub root: RootPlan,
    /// Snapshots of a backup that volumes are still to be made from.
    pub restore: BTreeMap<Slot, SnapshotId>,
    /// The backup, and its moment, of each volume that is restored from one.
    pub restored: BTreeMap<Slot, (BackupId, u64)>,
    /// Volumes that continue as copies.
    pub superseded: Vec<Retained>,
    /// Roots of lost instances that may have carried the node for a while: kept for the operator to look at.
    pub outlived: Vec<VolumeId>,
    /// An interruption of the candidate that came when it was nearly done: the next operation's cause.
    pub carried_over: Option<Signal>,
    /// Resources that are to be deleted, or were.
    pub cleanup: Cleanup,
    /// Where it goes.
    pub direction: Direction,
    /// No further volume or interface is detached from the old instance while it runs: there is no time.
    pub handover_dropped: bool,
}

impl Facts {
    /// Whether the operation is being undone.
    #[must_use]
    pub const fn is_undoing(&self) -> bool {
        matches!(self.direction, Direction::Undo)
    }

    /// What follows, if the operation only frees what the node holds.
    #[must_use]
    pub const fn diversion(&self) -> Option<&Diversion> {
        match &self.direction {
            Direction::Divert(diversion) => Some(diversion),
            Direction::Forward | Direction::Undo => None,
        }
    }

    /// There is nothing to go back to: an operation that was being undone goes forward after all.
    pub(crate) fn cannot_go_back(&mut self) {
        if self.is_undoing() {
            self.direction = Direction::Forward;
        }
    }

    pub(crate) fn add_temporary(&mut self, volume: &VolumeId) {
        if !self.volumes.values().any(|fact| fact.id.as_ref() == Some(volume)) {
            self.cleanup.temporary(volume);
        }
    }

    /// Data volumes that a launch may have created for an instance that never ran: to be looked for.
    pub(crate) fn suspect_volumes_of(
        &mut self,
        launch: &Intent,
        origin: Option<Origin>,
        operation: &OperationId,
    ) {
        if let Intent::Launch(Launch { tags, .. }) = launch {
            let resource = Resource::Unsettled { kind: ResourceKind::Volume, tags: tags.clone(), origin };
            let because = format!("{operation}: made with an instance that never ran");
            self.cleanup.orphan(resource, because);
        }
    }

    /// Whether an instance is fenced, or is none of the node's.
    pub(crate) fn is_fenced(&self, instance: &InstanceId) -> bool {
        self.holders.iter().find(|holder| holder.instance == *instance).is_some_and(|holder| holder.fenced)
    }
}

/// Addresses that are taken from a node's pools together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Granted {
    /// The address in the node's subnet.
    pub here: Option<Ipv4Addr>,
    /// Addresses in other subnets that it may live in.
    pub elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
}

impl Facts {
    /// The node's address in a subnet, if it has one there or one is reserved for it.
    pub(crate) fn address_in(&self, subnet: &SubnetId) -> Option<Ipv4Addr> {
        if *subnet == self.subnet {
            self.network.address
        } else {
            self.network.addresses_elsewhere.get(subnet).copied()
        }
    }

    /// Addresses were taken from the node's pools.
    pub(crate) fn granted(&mut self, here: Option<Ipv4Addr>, elsewhere: &BTreeMap<SubnetId, Ipv4Addr>) {
        self.network.address = here.or(self.network.address);
        self.network.addresses_elsewhere.extend(elsewhere.clone());
    }

    /// An address was returned to its pool.
    pub(crate) fn returned(&mut self, subnet: &SubnetId) {
        if *subnet == self.subnet {
            (self.network.address, self.network.address_on) = (None, None);
        } else {
            self.network.addresses_elsewhere.remove(subnet);
        }
    }

    /// Its addresses in other subnets than that of the instance that carries it now.
    pub(crate) fn addresses_but_in(&self, subnet: &SubnetId) -> BTreeMap<SubnetId, Ipv4Addr> {
        let mut left = self.network.addresses_elsewhere.clone();
        if left.remove(subnet).is_some() {
            left.extend(self.network.address.map(|address| (self.subnet.clone(), address)));
        }
        left
    }
}
