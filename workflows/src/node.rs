//! The node: a durable identity, carried by one instance after the other.
//!
//! Its stream is short and is the replacement history: registered, operation started, operation finished with the
//! generation and the resources. Starting and finishing an operation appends to the node's stream and to the
//! operation's in one atomic append, which is also the lock: at most one open operation per node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{
    AllocationId, ImageId, InstanceId, InterfaceId, Market, SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use crate::backup::{Backup, BackupCause, BackupId};
use crate::found::{Found, HeldOff, Stranger};
use crate::loss::Origin;
use crate::prune::{self, Undeleted};
use crate::signal::{Cause, Signal};
use crate::spec::{NodeName, NodeSpec};
use crate::steps::{Placement, Slot, TagMap};
use crate::survey::Kept;

/// How many past instances a node remembers, so that a late event about one is recognised as such.
pub const PAST_INSTANCES_MAX: usize = 32;

/// How many operations with final snapshots a node remembers. Their snapshots stand in its book of backups seconds later; no
/// operation that takes some is shorter than that.
pub const FINALS_MAX: usize = 32;

/// How many notes about its present instance a node remembers; the journal keeps all.
pub const NOTED_MAX: usize = 8;

/// The name of one operation of one node: `db-1.3` is the third operation of `db-1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct OperationId {
    node: NodeName,
    number: u64,
}

/// Why a text names no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no workflow: it should look like \"db-1.3\" (node, dot, number)")]
pub struct BadOperationId {
    text: String,
}

impl OperationId {
    /// The `number`th operation of a node, counted from 1.
    #[must_use]
    pub const fn new(node: NodeName, number: u64) -> Self {
        Self { node, number }
    }

    /// Parses `db-1.3`.
    ///
    /// # Errors
    /// [`BadOperationId`].
    pub fn parse(text: &str) -> Result<Self, BadOperationId> {
        let bad = || BadOperationId { text: text.chars().take(80).collect() };
        let (node, number) = text.rsplit_once('.').ok_or_else(bad)?;
        let node = NodeName::parse(node).map_err(|_| bad())?;
        // One operation, one spelling: `u64` alone would also take `+3` and `03`.
        let canonical = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().map_err(|_| bad())?;
        if canonical { Ok(Self { node, number }) } else { Err(bad()) }
    }

    /// Whose operation it is.
    #[must_use]
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// Which one, counted from 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The one after it.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { node: self.node.clone(), number: self.number + 1 }
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        StreamId::parse(&format!("workflow/{self}"))
            .unwrap_or_else(|error| unreachable!("BUG: an operation's name is a stream name: {error}"))
    }

    /// The operation of a stream, if it is an operation's.
    #[must_use]
    pub fn of_stream(stream: &StreamId) -> Option<Self> {
        if stream.category() == "workflow" { Self::parse(stream.name()).ok() } else { None }
    }
}

impl TryFrom<String> for OperationId {
    type Error = BadOperationId;
    fn try_from(text: String) -> Result<Self, BadOperationId> {
        Self::parse(&text)
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.node, self.number))
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The stream of a node.
#[must_use]
pub fn node_stream(name: &NodeName) -> StreamId {
    StreamId::parse(&format!("node/{name}"))
        .unwrap_or_else(|error| unreachable!("BUG: a node's name is a stream name: {error}"))
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Makes the node's resources and its first instance.
    Provision,
    /// Brings the node back on another instance.
    Replace,
    /// Ends the node.
    Delete,
    /// Makes data volumes as large as the node file says, while the node runs.
    Grow,
    /// Gives the instance back and keeps everything else.
    Pause,
    /// Brings a paused node onto an instance.
    Resume,
    /// Takes volumes that somebody attached to its instance.
    Take,
    /// Deletes volumes that the node has outgrown, while it runs.
    Prune,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Provision => "provision",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Grow => "grow",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Take => "take",
            Self::Prune => "prune",
        })
    }
}

/// The instance that carries a node now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Carrier {
    /// Its id.
    pub instance: InstanceId,
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Spot or on-demand.
    pub market: Market,
    /// Its primary interface.
    pub interface: InterfaceId,
    /// Its primary address.
    pub private_ip: Ipv4Addr,
    /// Its spot request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot_request: Option<SpotRequestId>,
}

/// A volume that belongs to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldVolume {
    /// Its id.
    pub volume: VolumeId,
    /// Its device name.
    pub device: String,
    /// Its size, of data volumes, as far as it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Its zone, if it is not where the node lives: a move was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The snapshot it was made from, if it is a copy of the volume before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<SnapshotId>,
    /// What it is like, if it was there before it became the node's: somebody attached it to the instance, or the file names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
}

/// The interface that belongs to a node (`primary_eni`, `secondary_eni`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldInterface {
    /// Its id.
    pub interface: InterfaceId,
    /// Its address.
    pub private_ip: Ipv4Addr,
}

/// The Elastic IP address that leads to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldElastic {
    /// Its allocation.
    pub allocation: AllocationId,
    /// The public address.
    pub public_ip: Ipv4Addr,
}

/// A registered image of the root and its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RootImage {
    /// The image.
    pub image: ImageId,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// Whether the snapshot is a backup's, and does not end with the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub borrowed: bool,
}

/// A volume that a node has outgrown but that still holds data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retained {
    /// Its id.
    pub volume: VolumeId,
    /// What it was.
    pub slot: Slot,
    /// Why it is kept.
    pub because: String,
    /// Whether somebody else made it: no deletion deletes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// Whether its content goes on in another volume of the node's: it is never taken again, even if the file names it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub went_on: bool,
    /// Since when, in milliseconds since the Unix epoch: the end of the operation that left it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Its size, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Why it could not be deleted when that was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undeleted: Option<Undeleted>,
}

impl Retained {
    /// The node's own, whose content goes on in no other volume as far as is known.
    #[must_use]
    pub const fn new(volume: VolumeId, slot: Slot, because: String) -> Self {
        Self {
            volume,
            slot,
            because,
            foreign: false,
            went_on: false,
            since_ms: None,
            size_gib: None,
            undeleted: None,
        }
    }
}

/// Something that was only needed for a while and could not be cleaned up yet. The next operation tries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Leftover {
    /// What.
    pub thing: Thing,
    /// Why it is still there.
    pub because: String,
}

/// A thing of AWS's, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// A volume without data of the node's.
    Volume {
        /// Its id.
        volume: VolumeId,
    },
    /// A snapshot.
    Snapshot {
        /// Its id.
        snapshot: SnapshotId,
    },
    /// An interface.
    Interface {
        /// Its id.
        interface: InterfaceId,
    },
    /// An image.
    Image {
        /// Its id.
        image: ImageId,
    },
    /// An instance that an abandoned operation launched: to be fenced.
    Instance {
        /// Its id.
        instance: InstanceId,
        /// Its spot request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spot_request: Option<SpotRequestId>,
    },
    /// What a step may have made whose outcome nobody knows: to be looked for.
    Unsettled {
        /// What kind of thing.
        made: Made,
        /// The tags it would have; `perennial:step` names the attempt.
        tags: TagMap,
    },
}

/// What kind of thing a step makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "AWS's words for AWS's things")]
pub enum Made {
    Instance,
    Volume,
    Interface,
    Snapshot,
    Image,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it was for. Events say so by saying nothing.
    #[default]
    #[serde(skip)]
    Completed,
    /// It was undone, as somebody asked.
    Cancelled,
    /// It was stuck, and a deletion took over what it had.
    Abandoned,
    /// It gave up bringing the node onto an instance, as somebody asked: everything is free.
    Paused,
}

impl Outcome {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "finished",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::Paused => "paused",
        }
    }

    /// Whether it did what it was for.
    #[must_use]
    pub const fn is_completed(&self) -> bool {
        matches!(self, Self::Completed)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Thing {
    /// Its id, as AWS writes it; of what is only suspected, the step that may have made it.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Interface { interface } => interface.to_string(),
            Self::Image { image } => image.to_string(),
            Self::Instance { instance, .. } => instance.to_string(),
            Self::Unsettled { made, tags } => Self::suspected(*made, tags),
            Self::Volume { volume } => volume.to_string(),
            Self::Snapshot { snapshot } => snapshot.to_string(),
        }
    }

    /// The name of what a step may have made: the attempt's, and, of a launch, whether it is about its volumes.
    #[must_use]
    pub fn suspected(made: Made, tags: &TagMap) -> String {
        let step = tags.get("perennial:step").map_or("", String::as_str);
        if made == Made::Volume && step.contains("/launch/") {
            format!("{step} volumes")
        } else {
            step.to_owned()
        }
    }
}

/// What belongs to a node between operations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Where it lives and what it boots; known once resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The subnet it lives in, if not the node file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<SubnetId>,
    /// What carries it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<Carrier>,
    /// Its volumes; the root is among them if it is kept.
    #[serde(default)]
    pub volumes: BTreeMap<Slot, HeldVolume>,
    /// Its own interface (`primary_eni`, `secondary_eni`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<HeldInterface>,
    /// Its own address (`primary_eni`, `secondary_eni`, `secondary_ip`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The interface of its last instance, which has the address while nothing carries the node (`secondary_ip`, `ip_pool`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_interface: Option<InterfaceId>,
    /// The addresses it has of pools of other subnets than the one it lives in (`ip_pool`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
    /// The Elastic IP address that leads to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<HeldElastic>,
    /// Images registered from its root, newest last.
    #[serde(default)]
    pub root_images: Vec<RootImage>,
    /// Volumes it has outgrown.
    #[serde(default)]
    pub retained: Vec<Retained>,
    /// What could not be cleaned up yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Leftover>,
    /// Where the content of its volumes comes from, and so what the last operation that brought it onto an instance has lost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub origins: BTreeMap<Slot, Origin>,
    /// The survey it went by last, if its file asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survey: Option<Box<Kept>>,
    /// The UEFI variables of its instance, in base64, as they were last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uefi_data: Option<String>,
    /// Volumes on its instance that are not the node's and are left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<Stranger>,
}

impl Resources {
    /// Whether a data volume is known to be smaller than a spec says.
    #[must_use]
    pub fn is_smaller_than(&self, spec: &NodeSpec) -> bool {
        self.carrier.is_some()
            && spec.data_volumes.iter().any(|wanted| {
                let held = self.volumes.get(&Slot::Data(wanted.name.clone()));
                held.and_then(|held| held.size_gib).is_some_and(|size_gib| size_gib < wanted.size_gib)
            })
    }
}

/// What happened to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeEvent {
    /// It exists from now on.
    Registered {
        /// What it is meant to be.
        spec: NodeSpec,
        /// Who asked.
        requested_by: String,
    },
    /// What it is meant to be has changed; the next operation works with it.
    SpecChanged {
        /// The new one.
        spec: NodeSpec,
        /// Who asked.
        requested_by: String,
        /// The addresses that were taken from pools it names now, by subnet; those of pools it names no more are given back.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
    },
    /// An operation holds the node.
    OperationStarted {
        /// Which.
        operation: OperationId,
        /// What it does.
        kind: OperationKind,
        /// Why.
        cause: Cause,
    },
    /// The operation is over; the node is free.
    OperationFinished {
        /// Which.
        operation: OperationId,
        /// What it did.
        kind: OperationKind,
        /// The node's generation from now on: how many instances have carried it.
        generation: u64,
        /// What belongs to it now.
        resources: Resources,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Outcome::is_completed")]
        outcome: Outcome,
        /// Whether it has taken final snapshots, or tried to: the book of the node's backups takes them over.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        finals: bool,
    },
    /// Something was heard that leads to nothing by itself.
    SignalNoted {
        /// What.
        signal: Signal,
        /// Why it leads to nothing.
        because: String,
    },
    /// Somebody detached a volume that had been found on the instance: it is given back.
    VolumeLeft {
        /// What it was.
        slot: Slot,
        /// Which.
        volume: VolumeId,
        /// The instance it was on.
        instance: InstanceId,
    },
}

/// Something heard about the instance that carries a node, which led to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// What.
    pub signal: Signal,
    /// Why it led to nothing.
    pub because: String,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// `None` before it is registered.
    pub spec: Option<NodeSpec>,
    /// Who said last what it is meant to be.
    pub described_by: String,
    /// Whether it has been deleted. It may be registered again under the same name.
    pub deleted: bool,
    /// How many instances have carried it.
    pub generation: u64,
    /// How many operations it has had.
    pub operations: u64,
    /// The one that holds it.
    pub open: Option<(OperationId, OperationKind)>,
    /// What belongs to it; during an operation, what belonged to it before.
    pub resources: Resources,
    /// Instances that carried it, newest last, at most [`PAST_INSTANCES_MAX`].
    pub past: Vec<InstanceId>,
    /// The newest of each kind that was heard about what carries it now and led to nothing, newest last, at most
    /// [`NOTED_MAX`].
    pub noted: Vec<Noted>,
    /// When its spec, generation or operation last changed.
    pub changed_at_ms: u64,
    /// Since when its present instance carries it.
    pub carried_since_ms: u64,
    /// When it last began to go back to spot.
    pub returned_at_ms: Option<u64>,
    /// Volumes found on its instance that it does not take for a while.
    pub held_off: HeldOff,
    /// The operations that have taken final snapshots, newest last, at most [`FINALS_MAX`].
    pub finals: Vec<OperationId>,
    /// Where its present root begins: what backups from before it have in them was left behind.
    pub root_began: Option<Box<RootBegan>>,
}

/// Where the content of a node's root begins: it was new then, or came from a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootBegan {
    /// With which operation.
    pub with: OperationId,
    /// With which generation of the node.
    pub generation: u64,
    /// From which backup.
    pub from: Option<BackupId>,
}

impl RootBegan {
    /// Whether a backup has the same root in it, or the one that this began with.
    #[must_use]
    pub fn is_of(&self, backup: &Backup) -> bool {
        let order = &backup.order;
        let is_later = match &order.cause {
            // Of what was there before its operation.
            BackupCause::Final { operation } => operation.number() > self.with.number(),
            BackupCause::Schedule | BackupCause::Asked { .. } => order.generation >= self.generation,
        };
        is_later || self.from == Some(BackupId::new(order.node.clone(), order.number))
    }

    /// What an operation that brought the node onto an instance changes about it.
    fn after(
        known: Option<Box<Self>>,
        with: &OperationId,
        generation: u64,
        before: &Resources,
        after: &Resources,
    ) -> Option<Box<Self>> {
        let began = |from| Some(Box::new(Self { with: with.clone(), generation, from }));
        match after.origins.get(&Slot::Root) {
            Some(Origin::Anew) => began(None),
            Some(Origin::Backup { backup, .. }) => began(Some(backup.clone())),
            Some(Origin::SameVolume | Origin::Clone { .. } | Origin::FinalSnapshot { .. }) => known,
            None if before.volumes.contains_key(&Slot::Root) => known,
            None => began(None),
        }
    }
}

impl Node {
    /// Whether there is a node to work with.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.spec.is_some() && !self.deleted
    }

    /// Whether it is at rest without an instance.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.exists() && self.open.is_none() && self.resources.carrier.is_none()
    }

    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &NodeEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match event {
            NodeEvent::Registered { spec, requested_by } => {
                if self.exists() {
                    return illegal("the node is registered already");
                }
                // What a deletion kept comes back with the name; where it lives and what it boots is looked up anew.
                self.resources.placement = None;
                self.spec = Some(spec.clone());
                self.described_by.clone_from(requested_by);
                self.deleted = false;
                self.changed_at_ms = stamp.at_ms;
            }
            NodeEvent::SpecChanged { spec, requested_by, addresses_elsewhere } => {
                if !self.exists() {
                    return illegal("the node is not registered");
                }
                if self.spec.as_ref().is_some_and(|old| !old.lives_like(spec)) {
                    self.resources.placement = None;
                }
                self.held_off.forget();
                if let Some(old) = &self.spec {
                    self.resources.repool(old, spec, addresses_elsewhere);
                }
                self.spec = Some(spec.clone());
                self.described_by.clone_from(requested_by);
                self.changed_at_ms = stamp.at_ms;
            }
            NodeEvent::OperationStarted { operation, kind, cause } => {
                if self.open.is_some() {
                    return illegal("another operation is open");
                }
                if operation.number() != self.operations + 1 {
                    return illegal("the operation's number does not follow the last one");
                }
                if let Cause::ReturnToSpot { .. } = cause {
                    self.returned_at_ms = Some(stamp.at_ms);
                }
                self.held_off.begins(cause);
                self.operations = operation.number();
                self.open = Some((operation.clone(), *kind));
                self.changed_at_ms = stamp.at_ms;
            }
            NodeEvent::OperationFinished { operation, kind, generation, resources, outcome, finals } => {
                if self.open.as_ref().map(|(open, _)| open) != Some(operation) {
                    return illegal("this operation is not open");
                }
                if let Some(carrier) = &self.resources.carrier
                    && resources.carrier.as_ref().map(|new| &new.instance) != Some(&carrier.instance)
                {
                    self.past.push(carrier.instance.clone());
                    if self.past.len() > PAST_INSTANCES_MAX {
                        self.past.remove(0);
                    }
                    self.noted.clear();
                }
                let carrier = |resources: &Resources| resources.carrier.as_ref().map(|c| c.instance.clone());
                if carrier(&self.resources) != carrier(resources) {
                    self.carried_since_ms = stamp.at_ms;
                    self.held_off = HeldOff::default();
                }
                self.held_off.ends(*outcome, stamp.at_ms);
                self.open = None;
                if *finals {
                    self.finals.push(operation.clone());
                    if self.finals.len() > FINALS_MAX {
                        self.finals.remove(0);
                    }
                }
                if outcome.is_completed()
                    && let OperationKind::Provision | OperationKind::Replace | OperationKind::Resume = kind
                {
                    let (known, before) = (self.root_began.take(), &self.resources);
                    self.root_began = RootBegan::after(known, operation, *generation, before, resources);
                }
                self.generation = *generation;
                let mut resources = resources.clone();
                prune::date(&self.resources, &mut resources, stamp.at_ms);
                self.resources = resources;
                self.deleted = match (kind, outcome) {
                    (OperationKind::Delete, Outcome::Completed)
                    | (OperationKind::Provision, Outcome::Cancelled) => true,
                    // A deletion follows at once.
                    (_, Outcome::Abandoned) => self.deleted,
                    (
                        OperationKind::Provision
                        | OperationKind::Replace
                        | OperationKind::Grow
                        | OperationKind::Pause
                        | OperationKind::Resume
                        | OperationKind::Take
                        | OperationKind::Prune,
                        Outcome::Completed,
                    )
                    | (
                        OperationKind::Replace
                        | OperationKind::Delete
                        | OperationKind::Grow
                        | OperationKind::Pause
                        | OperationKind::Resume
                        | OperationKind::Take
                        | OperationKind::Prune,
                        Outcome::Cancelled,
                    )
                    | (_, Outcome::Paused) => false,
                };
                self.changed_at_ms = stamp.at_ms;
            }
            NodeEvent::SignalNoted { signal, because } => {
                self.noted.retain(|noted| !noted.signal.is_of_the_kind_of(signal));
                self.noted.push(Noted { signal: signal.clone(), because: because.clone() });
                if self.noted.len() > NOTED_MAX {
                    self.noted.remove(0);
                }
            }
            NodeEvent::VolumeLeft { slot, volume, .. } => {
                let held = self.resources.volumes.get(slot).filter(|held| held.volume == *volume);
                let (None, Some(found)) = (&self.open, held.and_then(|held| held.found.clone())) else {
                    return illegal("the node has no such volume that was found, or an operation holds it");
                };
                let left = self.resources.volumes.remove(slot);
                // A copy was made for the node: it stays listed.
                if found.is_copy {
                    let because = "it was detached by hand".to_owned();
                    self.resources.retained.push(Retained {
                        since_ms: Some(stamp.at_ms),
                        size_gib: left.and_then(|held| held.size_gib),
                        ..Retained::new(volume.clone(), slot.clone(), because)
                    });
                }
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_one_spelling() {
        assert_eq!(OperationId::parse("db-1.30").unwrap().to_string(), "db-1.30");
        for wrong in
            ["db-1.+3", "db-1.03", "db-1.0", "db-1.", "db-1", ".3", "db-1.3 ", "db-1.99999999999999999999"]
        {
            assert!(OperationId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
