//! The resources of a node: its instance, volumes, interfaces, addresses, images, and remains of earlier
//! ones.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{
    AllocationId, ImageId, InstanceId, InterfaceId, Market, SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use crate::model::backup_id::BackupId;
use crate::model::image::Placement;
use crate::model::survey::Kept;
use crate::model::volume::{Found, Slot, TagMap, UnmanagedVolume};

/// Where the content of a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryPoint {
    /// The same volume: nothing is lost.
    SameVolume,
    /// A clone, made after the volume's instance had terminated: no write that reached the volume is lost.
    Clone {
        /// The original volume.
        of: VolumeId,
    },
    /// A snapshot that was taken after the volume's instance had terminated: no write that reached the volume
    /// is lost.
    FinalSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A backup: writes after its moment are lost.
    Backup {
        /// The backup.
        backup: BackupId,
        /// The moment of the backup, in milliseconds since the Unix epoch.
        taken_at_ms: u64,
        /// No write happened after this time: the instance was seen to be over, or there was none.
        until_ms: u64,
    },
    /// A new volume: all earlier content is lost to the node.
    Anew,
}

impl RecoveryPoint {
    /// The longest period whose writes are lost, in milliseconds; `None` for all of them.
    #[must_use]
    pub const fn loss_ms(&self) -> Option<u64> {
        match self {
            Self::SameVolume | Self::Clone { .. } | Self::FinalSnapshot { .. } => Some(0),
            Self::Backup { taken_at_ms, until_ms, .. } => Some(until_ms.saturating_sub(*taken_at_ms)),
            Self::Anew => None,
        }
    }

    /// Whether data is lost.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.loss_ms() != Some(0)
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
    /// The size of a data volume, if it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Its zone, if it is not where the node lives: a move was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The snapshot it was made from, if it is a copy of the volume before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<SnapshotId>,
    /// Its properties, if it existed before it became the node's: it was attached from outside Perennial, or
    /// the file names it.
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

/// The Elastic IP address that is associated with a node.
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
    /// Whether the snapshot belongs to a backup, and outlives the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub borrowed: bool,
}

/// A volume that a node no longer uses but that still holds data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retained {
    /// Its id.
    pub volume: VolumeId,
    /// Its former place in the node.
    pub slot: Slot,
    /// Why it is kept.
    pub because: String,
    /// Whether it was created outside Perennial: no deletion deletes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// Whether its content continues in another volume of the node: it is never claimed again, even if the
    /// file names it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub went_on: bool,
    /// The end of the operation that left it, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Its size, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Why the last attempt to delete it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_deletion: Option<FailedDeletion>,
}

impl Retained {
    /// A volume of the node, whose content continues in no other volume as far as known.
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
            failed_deletion: None,
        }
    }
}

/// A resource that was needed only for a while and could not be cleaned up yet. The next operation tries
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Orphan {
    /// The resource.
    pub resource: Resource,
    /// Why it still exists.
    pub because: String,
}

/// An AWS resource, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A volume without data of the node.
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
    /// A resource that a step with an unknown outcome may have made: to be looked for.
    Unsettled {
        /// The kind of resource.
        kind: ResourceKind,
        /// The tags it would have; `perennial:step` names the attempt.
        tags: TagMap,
        /// The step that may have made it. What was there before that step, it did not make.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
    },
}

/// The step that may have made a resource: by it a resource that carries the step's tags is told from one
/// that only carries them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// When the step was intended, in milliseconds since the Unix epoch.
    pub intended_at_ms: u64,
    /// The client token of its call, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
}

/// The kinds of resources that a step makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "AWS's words for AWS's things")]
pub enum ResourceKind {
    Instance,
    Volume,
    Interface,
    Snapshot,
    Image,
}

/// Which resource it is: two with the same id are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceId {
    /// A volume.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
    /// An interface.
    Interface(InterfaceId),
    /// An image.
    Image(ImageId),
    /// An instance.
    Instance(InstanceId),
    /// What a step may have made, by the name of the attempt ([`Resource::suspected`]).
    Suspected(String),
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(volume) => volume.fmt(f),
            Self::Snapshot(snapshot) => snapshot.fmt(f),
            Self::Interface(interface) => interface.fmt(f),
            Self::Image(image) => image.fmt(f),
            Self::Instance(instance) => instance.fmt(f),
            Self::Suspected(step) => step.fmt(f),
        }
    }
}

impl From<&Resource> for ResourceId {
    fn from(resource: &Resource) -> Self {
        match resource {
            Resource::Volume { volume } => Self::Volume(volume.clone()),
            Resource::Snapshot { snapshot } => Self::Snapshot(snapshot.clone()),
            Resource::Interface { interface } => Self::Interface(interface.clone()),
            Resource::Image { image } => Self::Image(image.clone()),
            Resource::Instance { instance, .. } => Self::Instance(instance.clone()),
            Resource::Unsettled { kind, tags, .. } => Self::Suspected(Resource::suspected(*kind, tags)),
        }
    }
}

impl From<&VolumeId> for ResourceId {
    fn from(volume: &VolumeId) -> Self {
        Self::Volume(volume.clone())
    }
}

impl From<&VolumeId> for Resource {
    fn from(volume: &VolumeId) -> Self {
        Self::Volume { volume: volume.clone() }
    }
}

impl From<&SnapshotId> for ResourceId {
    fn from(snapshot: &SnapshotId) -> Self {
        Self::Snapshot(snapshot.clone())
    }
}

impl From<&SnapshotId> for Resource {
    fn from(snapshot: &SnapshotId) -> Self {
        Self::Snapshot { snapshot: snapshot.clone() }
    }
}

impl From<&InterfaceId> for ResourceId {
    fn from(interface: &InterfaceId) -> Self {
        Self::Interface(interface.clone())
    }
}

impl From<&InterfaceId> for Resource {
    fn from(interface: &InterfaceId) -> Self {
        Self::Interface { interface: interface.clone() }
    }
}

impl From<&ImageId> for ResourceId {
    fn from(image: &ImageId) -> Self {
        Self::Image(image.clone())
    }
}

impl From<&ImageId> for Resource {
    fn from(image: &ImageId) -> Self {
        Self::Image { image: image.clone() }
    }
}

impl Resource {
    /// Its id, as AWS writes it; for a suspected resource, the step that may have made it.
    #[must_use]
    pub fn id(&self) -> String {
        ResourceId::from(self).to_string()
    }

    /// The name of a resource that a step may have made: that of the attempt and, for a launch, whether it
    /// concerns its volumes.
    #[must_use]
    pub fn suspected(made: ResourceKind, tags: &TagMap) -> String {
        let step = tags.get("perennial:step").map_or("", String::as_str);
        if made == ResourceKind::Volume && step.contains("/launch/") {
            format!("{step} volumes")
        } else {
            step.to_owned()
        }
    }
}

/// The resources of a node between operations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Its zone and the image it boots; known once resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The subnet it lives in, if not the node file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<SubnetId>,
    /// The instance that carries it now.
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
    /// The interface of its last instance, which has the address while no instance carries the node
    /// (`secondary_ip`, `ip_pool`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_interface: Option<InterfaceId>,
    /// Its addresses in pools of other subnets than the one it lives in (`ip_pool`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
    /// The Elastic IP address that is associated with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<HeldElastic>,
    /// Images registered from its root, newest last.
    #[serde(default)]
    pub root_images: Vec<RootImage>,
    /// Volumes that it no longer uses.
    #[serde(default)]
    pub retained: Vec<Retained>,
    /// Resources that could not be cleaned up yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<Orphan>,
    /// Where the content of its volumes comes from, and so the loss of the last operation that brought it
    /// onto an instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recovery_points: BTreeMap<Slot, RecoveryPoint>,
    /// The last survey it used, if its file asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survey: Option<Box<Kept>>,
    /// The UEFI variables of its instance, in base64, as they were last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uefi_data: Option<String>,
    /// Volumes on its instance that are not the node's and are left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmanaged: Vec<UnmanagedVolume>,
}

/// How many volumes one prune deletes: the oldest first; the next prune takes more. A node that leaves two
/// with each replacement has then had fifty replacements, and all of the prune's steps fit one append.
pub const PRUNED_MAX: usize = 100;

/// A retained volume that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneItem {
    /// The volume.
    pub volume: VolumeId,
    /// Its former place in the node.
    pub slot: Slot,
    /// When it was retained, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Its size, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// The volume that has its place.
    pub successor: VolumeId,
    /// Why it may be deleted.
    pub because: String,
}

/// The conditions for the deletion of a retained volume, besides that it is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Succession {
    /// The volume that has its place: attached to the instance.
    pub successor: VolumeId,
    /// The instance that carries the node.
    pub carrier: InstanceId,
    /// The tags it carries: those of this node of this owner.
    pub own: TagMap,
}

/// A failed deletion of a retained volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailedDeletion {
    /// When the failure was known, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Why.
    pub because: String,
}
