//! What a node has: its instance, volumes, interfaces, addresses, images, and what is left of earlier ones.

use std::collections::BTreeMap;
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
    /// It is the very same volume: nothing is lost.
    SameVolume,
    /// A clone, made after the volume's instance was gone: nothing that reached the volume is lost.
    Clone {
        /// Of which volume.
        of: VolumeId,
    },
    /// A snapshot that was taken after the volume's instance was gone: nothing that reached the volume is lost.
    FinalSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// A backup: what was written after its moment is lost.
    Backup {
        /// Which.
        backup: BackupId,
        /// Of which moment, in milliseconds since the Unix epoch.
        taken_at_ms: u64,
        /// Nothing was written after this, because the instance was seen to be over, or there was none.
        until_ms: u64,
    },
    /// It began anew: all earlier content is lost to the node.
    Anew,
}

impl RecoveryPoint {
    /// How much time's writes are lost at most, in milliseconds; `None` for all of them.
    #[must_use]
    pub const fn loss_ms(&self) -> Option<u64> {
        match self {
            Self::SameVolume | Self::Clone { .. } | Self::FinalSnapshot { .. } => Some(0),
            Self::Backup { taken_at_ms, until_ms, .. } => Some(until_ms.saturating_sub(*taken_at_ms)),
            Self::Anew => None,
        }
    }

    /// Whether something is lost.
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
    pub failed_deletion: Option<FailedDeletion>,
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
            failed_deletion: None,
        }
    }
}

/// Something that was only needed for a while and could not be cleaned up yet. The next operation tries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Orphan {
    /// What.
    pub resource: Resource,
    /// Why it is still there.
    pub because: String,
}

/// A thing of AWS's, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
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
        kind: ResourceKind,
        /// The tags it would have; `perennial:step` names the attempt.
        tags: TagMap,
    },
}

/// What kind of thing a step makes.
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

impl Resource {
    /// Its id, as AWS writes it; of what is only suspected, the step that may have made it.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Interface { interface } => interface.to_string(),
            Self::Image { image } => image.to_string(),
            Self::Instance { instance, .. } => instance.to_string(),
            Self::Unsettled { kind: made, tags } => Self::suspected(*made, tags),
            Self::Volume { volume } => volume.to_string(),
            Self::Snapshot { snapshot } => snapshot.to_string(),
        }
    }

    /// The name of what a step may have made: the attempt's, and, of a launch, whether it is about its volumes.
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
    pub orphans: Vec<Orphan>,
    /// Where the content of its volumes comes from, and so what the last operation that brought it onto an instance has lost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recovery_points: BTreeMap<Slot, RecoveryPoint>,
    /// The survey it went by last, if its file asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survey: Option<Box<Kept>>,
    /// The UEFI variables of its instance, in base64, as they were last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uefi_data: Option<String>,
    /// Volumes on its instance that are not the node's and are left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmanaged: Vec<UnmanagedVolume>,
}

/// How many volumes one prune deletes: the oldest first, the next prune takes more. A node that leaves two with each replacement has had
/// fifty of them, and all of their steps fit one append.
pub const PRUNED_MAX: usize = 100;

/// A retained volume that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneItem {
    /// Which.
    pub volume: VolumeId,
    /// What it was.
    pub slot: Slot,
    /// Since when it is retained, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Its size, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// The volume that has its place.
    pub successor: VolumeId,
    /// Why it may be deleted.
    pub because: String,
}

/// What must be seen before a retained volume is deleted, beside that it is free.
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

/// That a retained volume could not be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailedDeletion {
    /// When that was known, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Why.
    pub because: String,
}
