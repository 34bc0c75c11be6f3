//! The requests of steps.
//!
//! An intent is the whole request, made before the first call: a worker adds nothing to it. Requests are
//! stored, so they are data without behaviour; everything else about a step, and why it is safe to repeat,
//! stands in its file of [`steps`](crate::steps).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{
    AllocationId, GroupId, ImageId, InstanceId, InterfaceId, SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use crate::model::capacity::CapacityPool;
use crate::model::image::ImageFacts;
use crate::model::launch_template::LaunchTemplate;
use crate::model::metadata::MetadataOptions;
use crate::model::name::NodeName;
use crate::model::resources::{Origin, Resource, ResourceId, ResourceKind, Succession};
use crate::model::survey::{Question, Rank};
use crate::model::volume::{OtherVolumes, Slot, TagMap};
use crate::step::backup::BackupIntent;

/// The primary interface of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LaunchInterface {
    /// The node's own interface, which must be free.
    Kept(InterfaceId),
    /// A new interface that is deleted with the instance.
    New {
        /// In this subnet.
        subnet: SubnetId,
        /// With these groups.
        groups: Vec<GroupId>,
    },
}

/// A data volume in a launch request: made from a snapshot, and kept when the instance ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaunchVolume {
    /// The volume's place in the node.
    pub slot: Slot,
    /// Under this device name.
    pub device: String,
    /// From this snapshot.
    pub snapshot: SnapshotId,
    /// Its size, if it is to differ from the snapshot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Such as `gp3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// Provisioned IOPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// In MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// With this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
}

/// The whole request of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "requests are few and shared; a box would only blur the shapes"
)]
pub enum Intent {
    /// Looks up the subnet's zone and the image's traits.
    Resolve(Resolve),
    /// Looks up the available pools, and their prices.
    Survey(Question),
    /// Creates a data volume.
    CreateVolume(CreateVolume),
    /// Checks that an existing volume can be the node's.
    ClaimVolume(ClaimVolume),
    /// Creates the node's own interface.
    CreateInterface(CreateInterface),
    /// Sets DeleteOnTermination=false for volumes (and an interface) of an instance, and sees it set.
    Preserve(Preserve),
    /// Detaches a data volume from an instance that still runs, without force.
    Detach(Detach),
    /// Cancels a persistent spot request, terminates the instance and sees it terminated, twice.
    Fence(Fence),
    /// Sees a volume free, after its holder was seen terminated, twice.
    Release(Release),
    /// Sees the node's interface free, after its holder was seen terminated, twice.
    ReleaseInterface(ReleaseInterface),
    /// Takes a snapshot of the free root volume and sees it complete.
    SnapshotRoot(SnapshotRoot),
    /// Takes a snapshot of a free data volume and sees it complete.
    SnapshotVolume(SnapshotVolume),
    /// Copies the free root volume (CopyVolumes) and sees the copy available.
    CloneRoot(CloneRoot),
    /// Registers an image from the root's snapshot and sees it available.
    RegisterImage(RegisterImage),
    /// Launches one instance in one pool.
    Launch(Launch),
    /// Sees the launched instance running.
    Start(Start),
    /// Makes the node's own root volume the root of the new instance.
    AdoptRoot(AdoptRoot),
    /// Attaches a data volume.
    Attach(Attach),
    /// Attaches the node's second interface.
    AttachInterface(AttachInterface),
    /// Detaches the node's second interface from an instance that still runs, without force.
    DetachInterface(DetachInterface),
    /// Gives the node's own interface the security groups of the file, and sees them.
    SetGroups(SetGroups),
    /// Moves the node's secondary address to the new instance's primary interface.
    MoveAddress(MoveAddress),
    /// Sees that no resource of the node has its address any more, which returns to its pool.
    ReturnAddress(ReturnAddress),
    /// Associates the node's Elastic IP address with the new instance.
    Associate(Associate),
    /// Enlarges a data volume, wherever it is.
    Grow(Grow),
    /// Looks at every resource once more.
    Verify(Verify),
    /// Deletes a volume by id.
    DeleteVolume(DeleteVolume),
    /// Deletes the node's interface.
    DeleteInterface(DeleteInterface),
    /// Deregisters a superseded root image.
    DeregisterImage(DeregisterImage),
    /// Deletes a superseded root snapshot.
    DeleteSnapshot(DeleteSnapshot),
    /// Looks for resources that a step of a cancelled or abandoned operation may have made.
    Find(Find),
    /// A step of a backup, which is no operation.
    Backup(BackupIntent),
    /// Takes a snapshot of a volume that has just become free, for the node's backups. No step waits for its
    /// completion.
    FinalSnapshot(FinalSnapshot),
    /// Takes a snapshot of a free volume that only another zone would need, while home waits for another
    /// snapshot.
    SnapshotAhead(SnapshotAhead),
}

/// Looks up the subnet's zone and the image's traits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resolve {
    /// The node's subnet.
    pub subnet: SubnetId,
    /// The node's image.
    pub image: ImageId,
    /// The other subnets it may live in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<SubnetId>,
}

/// Creates a data volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreateVolume {
    /// The volume's place in the node.
    pub slot: Slot,
    /// Sent as it stands.
    pub client_token: String,
    /// The zone.
    pub zone: String,
    /// How large.
    pub size_gib: u32,
    /// Such as `gp3`.
    pub volume_type: String,
    /// Provisioned IOPS.
    pub iops: Option<u32>,
    /// In MiB/s.
    pub throughput: Option<u32>,
    /// Encrypted.
    pub encrypted: bool,
    /// With this key.
    pub kms_key: Option<String>,
    /// From this snapshot.
    pub snapshot: Option<SnapshotId>,
    /// At creation.
    pub tags: TagMap,
}

/// Checks that an existing volume can be the node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimVolume {
    /// The volume's place in the node.
    pub slot: Slot,
    /// The volume.
    pub volume: VolumeId,
    /// The zone.
    pub zone: String,
    /// Its minimum size.
    pub size_gib: u32,
    /// The tags of the node's own resources.
    pub own: TagMap,
}

/// Creates the node's own interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreateInterface {
    /// Sent as it stands.
    pub client_token: String,
    /// The subnet.
    pub subnet: SubnetId,
    /// With these groups.
    pub groups: Vec<GroupId>,
    /// With this address.
    pub private_ip: Option<Ipv4Addr>,
    /// At creation.
    pub tags: TagMap,
}

/// Sets DeleteOnTermination=false for volumes (and an interface) of an instance, and sees it set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preserve {
    /// The instance.
    pub instance: InstanceId,
    /// The volumes; those that are not attached to it are passed over.
    pub volumes: Vec<VolumeId>,
    /// The node's own interface.
    pub interface: Option<InterfaceId>,
    /// The instance's primary interface, which has the node's address and keeps it until the address
    /// moves. If it cannot be preserved, the step succeeds without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_interface: Option<InterfaceId>,
    /// Whether the step looks at the other volumes on it, and preserves those that the node can adopt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<OtherVolumes>,
    /// Whether its UEFI variables are read: they belong to the instance, and end with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uefi: bool,
}

/// Detaches a data volume from an instance that still runs, without force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detach {
    /// The volume's place in the node.
    pub slot: Slot,
    /// The volume.
    pub volume: VolumeId,
    /// From which instance.
    pub instance: InstanceId,
}

/// Cancels a persistent spot request, terminates the instance and sees it terminated, twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fence {
    /// The instance.
    pub instance: InstanceId,
    /// Its spot request, if known.
    pub spot_request: Option<SpotRequestId>,
}

/// Sees a volume free, after its holder was seen terminated, twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// The volume's place in the node.
    pub slot: Slot,
    /// The volume.
    pub volume: VolumeId,
    /// Its last holder.
    pub from: InstanceId,
}

/// Sees the node's interface free, after its holder was seen terminated, twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseInterface {
    /// The interface.
    pub interface: InterfaceId,
    /// Its last holder.
    pub from: InstanceId,
}

/// Takes a snapshot of the free root volume and sees it complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotRoot {
    /// Of this volume.
    pub volume: VolumeId,
    /// At creation; `perennial:step` makes it findable.
    pub tags: TagMap,
    /// When the speculative snapshot was intended that it waits for, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead_ms: Option<u64>,
}

/// Takes a snapshot of a free data volume and sees it complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotVolume {
    /// The volume's place in the node.
    pub slot: Slot,
    /// Of this volume.
    pub volume: VolumeId,
    /// At creation; `perennial:step` makes it findable.
    pub tags: TagMap,
    /// When the speculative snapshot was intended that it waits for, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead_ms: Option<u64>,
}

/// Copies the free root volume (CopyVolumes) and sees the copy available.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloneRoot {
    /// Of this volume.
    pub volume: VolumeId,
    /// Sent as it stands.
    pub client_token: String,
    /// At creation.
    pub tags: TagMap,
}

/// Registers an image from the root's snapshot and sees it available.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegisterImage {
    /// Unique, and so the key of the repeat.
    pub name: String,
    /// Of the root.
    pub snapshot: SnapshotId,
    /// From the node's first image.
    pub facts: ImageFacts,
    /// The UEFI variables of its instances, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uefi_data: Option<String>,
    /// At creation.
    pub tags: TagMap,
}

/// Launches one instance in one pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Launch {
    /// Sent as it stands.
    pub client_token: String,
    /// The pool.
    pub pool: CapacityPool,
    /// Whether it is asked even if it is remembered as being without capacity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ask_anyway: bool,
    /// It is asked only while fewer than this many other nodes are on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_max: Option<u32>,
    /// Its place among the pools of the survey, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    /// At most this price per hour.
    pub price_max: Option<String>,
    /// The zone.
    pub zone: String,
    /// The image to boot.
    pub image: ImageId,
    /// The primary interface.
    pub interface: LaunchInterface,
    /// Data volumes that are created with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<LaunchVolume>,
    /// Device names of the image's mapping at which no volume is created: the node's own volumes are
    /// attached there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppress: Vec<String>,
    /// The image's root device.
    pub root_device: String,
    /// The root's size, if it is to differ from the image's.
    pub root_size_gib: Option<u32>,
    /// The root's type, if it is to differ from the image's.
    pub root_volume_type: Option<String>,
    /// The root's IOPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_iops: Option<u32>,
    /// The root's throughput, in MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_throughput: Option<u32>,
    /// Whether the root is encrypted though the image is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub root_encrypted: bool,
    /// The key for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_kms_key: Option<String>,
    /// The metadata service; none of launches that were intended before it could be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataOptions>,
    /// The launch template under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<LaunchTemplate>,
    /// The key pair.
    pub key_name: Option<String>,
    /// The instance profile.
    pub instance_profile: Option<String>,
    /// As text.
    pub user_data: Option<String>,
    /// At creation.
    pub tags: TagMap,
}

/// Sees the launched instance running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    /// The instance.
    pub instance: InstanceId,
    /// The device names of the data volumes it was launched with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

/// Makes the node's own root volume the root of the new instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdoptRoot {
    /// The instance.
    pub instance: InstanceId,
    /// The node's root volume.
    pub volume: VolumeId,
    /// The root it was launched with, if the endpoint shows one.
    pub temporary: Option<VolumeId>,
    /// Sent as it stands.
    pub client_token: String,
    /// At creation.
    pub tags: TagMap,
}

/// Attaches a data volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attach {
    /// The volume's place in the node.
    pub slot: Slot,
    /// The volume.
    pub volume: VolumeId,
    /// To which instance.
    pub instance: InstanceId,
    /// Under this device name.
    pub device: String,
}

/// Attaches the node's second interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachInterface {
    /// The interface.
    pub interface: InterfaceId,
    /// To which instance.
    pub instance: InstanceId,
    /// At which index; 0 is the primary interface.
    pub device_index: u32,
}

/// Detaches the node's second interface from an instance that still runs, without force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DetachInterface {
    /// The interface.
    pub interface: InterfaceId,
    /// From which instance.
    pub instance: InstanceId,
}

/// Gives the node's own interface the security groups of the file, and sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetGroups {
    /// The interface.
    pub interface: InterfaceId,
    /// All of its groups from now on.
    pub groups: Vec<GroupId>,
}

/// Moves the node's secondary address to the new instance's primary interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveAddress {
    /// The instance.
    pub instance: InstanceId,
    /// Its primary interface.
    pub interface: InterfaceId,
    /// The node's address; none at first: the subnet chooses.
    pub address: Option<Ipv4Addr>,
    /// Instances of the node that it may be taken from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<InstanceId>,
    /// The tags of an interface that it may be taken from: those of this node of this owner.
    #[serde(default, skip_serializing_if = "TagMap::is_empty")]
    pub own: TagMap,
}

/// Sees that no resource of the node has its address any more, which returns to its pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReturnAddress {
    /// The pool.
    pub pool: NodeName,
    /// Its subnet.
    pub subnet: SubnetId,
    /// The address.
    pub address: Ipv4Addr,
    /// The tags of an interface of the node.
    pub own: TagMap,
}

/// Associates the node's Elastic IP address with the new instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Associate {
    /// The allocation.
    pub allocation: AllocationId,
    /// The instance.
    pub instance: InstanceId,
    /// Its primary interface.
    pub interface: InterfaceId,
    /// The private address to associate it with; none: the interface's primary one.
    pub private_ip: Option<Ipv4Addr>,
    /// Instances of the node that it may be taken from.
    pub from: Vec<InstanceId>,
    /// The tags of an interface that it may be taken from.
    pub own: TagMap,
}

/// Enlarges a data volume, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grow {
    /// The volume's place in the node.
    pub slot: Slot,
    /// The volume.
    pub volume: VolumeId,
    /// To this size.
    pub size_gib: u32,
}

/// Looks at every resource once more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verify {
    /// The new instance.
    pub instance: InstanceId,
    /// Its volumes.
    pub volumes: BTreeMap<Slot, VolumeId>,
    /// The interface that holds the address.
    pub interface: Option<InterfaceId>,
    /// The node's address.
    pub address: Option<Ipv4Addr>,
}

/// Deletes a volume by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its former purpose: `temporary root`, `data`…
    pub role: String,
    /// For a retained volume: the conditions of its deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<Succession>,
}

/// Deletes the node's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteInterface {
    /// The interface.
    pub interface: InterfaceId,
}

/// Deregisters a superseded root image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeregisterImage {
    /// The image.
    pub image: ImageId,
}

/// Deletes a superseded root snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteSnapshot {
    /// The snapshot.
    pub snapshot: SnapshotId,
}

/// Looks for resources that a step of a cancelled or abandoned operation may have made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Find {
    /// The kind of resource.
    pub kind: ResourceKind,
    /// The tags it would have.
    pub tags: TagMap,
    /// The step that may have made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Takes a snapshot of a volume that has just become free, for the node's backups. No step waits for its
/// completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FinalSnapshot {
    /// The volume's place in the node.
    pub slot: Slot,
    /// The volume.
    pub volume: VolumeId,
    /// At creation; `perennial:step` makes it findable.
    pub tags: TagMap,
}

/// Takes a snapshot of a free volume that only another zone would need, while home waits for another
/// snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotAhead {
    /// The volume's place in the node.
    pub slot: Slot,
    /// The volume.
    pub volume: VolumeId,
    /// At creation; `perennial:step` makes it findable.
    pub tags: TagMap,
}

// What the rules, which are below `steps`, ask of a request.
impl Intent {
    /// The resource that an intent deletes, or looks for.
    #[must_use]
    pub fn cleans(&self) -> Option<ResourceId> {
        match self {
            Self::DeleteVolume(step) => Some((&step.volume).into()),
            Self::DeleteInterface(step) => Some((&step.interface).into()),
            Self::DeregisterImage(step) => Some((&step.image).into()),
            Self::DeleteSnapshot(step) => Some((&step.snapshot).into()),
            Self::Find(step) => Some(ResourceId::Suspected(Resource::suspected(step.kind, &step.tags))),
            Self::Resolve(_)
            | Self::Survey(_)
            | Self::CreateVolume(_)
            | Self::ClaimVolume(_)
            | Self::CreateInterface(_)
            | Self::Preserve(_)
            | Self::Detach(_)
            | Self::Fence(_)
            | Self::Release(_)
            | Self::ReleaseInterface(_)
            | Self::SnapshotRoot(_)
            | Self::SnapshotVolume(_)
            | Self::CloneRoot(_)
            | Self::RegisterImage(_)
            | Self::Launch(_)
            | Self::Start(_)
            | Self::AdoptRoot(_)
            | Self::Attach(_)
            | Self::AttachInterface(_)
            | Self::DetachInterface(_)
            | Self::SetGroups(_)
            | Self::MoveAddress(_)
            | Self::ReturnAddress(_)
            | Self::Associate(_)
            | Self::Grow(_)
            | Self::Verify(_)
            | Self::Backup(_)
            | Self::FinalSnapshot(_)
            | Self::SnapshotAhead(_) => None,
        }
    }

    /// The client token that the call of a step is sent with.
    #[must_use]
    pub fn client_token(&self) -> Option<&str> {
        match self {
            Self::CreateVolume(step) => Some(&step.client_token),
            Self::CreateInterface(step) => Some(&step.client_token),
            Self::CloneRoot(step) => Some(&step.client_token),
            Self::Launch(step) => Some(&step.client_token),
            Self::AdoptRoot(step) => Some(&step.client_token),
            _ => None,
        }
    }

    /// The resources that a step makes, and the tags it makes them with; empty for a step that makes none.
    #[must_use]
    pub fn makes(&self) -> Vec<(ResourceKind, &TagMap)> {
        match self {
            Self::Launch(step) if !step.volumes.is_empty() => {
                vec![(ResourceKind::Instance, &step.tags), (ResourceKind::Volume, &step.tags)]
            }
            Self::Launch(step) => vec![(ResourceKind::Instance, &step.tags)],
            Self::CreateVolume(step) => vec![(ResourceKind::Volume, &step.tags)],
            Self::CloneRoot(step) => vec![(ResourceKind::Volume, &step.tags)],
            Self::CreateInterface(step) => vec![(ResourceKind::Interface, &step.tags)],
            Self::SnapshotRoot(step) => vec![(ResourceKind::Snapshot, &step.tags)],
            Self::SnapshotVolume(step) => vec![(ResourceKind::Snapshot, &step.tags)],
            Self::FinalSnapshot(step) => vec![(ResourceKind::Snapshot, &step.tags)],
            Self::SnapshotAhead(step) => vec![(ResourceKind::Snapshot, &step.tags)],
            Self::RegisterImage(step) => vec![(ResourceKind::Image, &step.tags)],
            Self::Resolve(_)
            | Self::Survey(_)
            | Self::ClaimVolume(_)
            | Self::Preserve(_)
            | Self::Detach(_)
            | Self::Fence(_)
            | Self::Release(_)
            | Self::ReleaseInterface(_)
            | Self::Start(_)
            | Self::AdoptRoot(_)
            | Self::Attach(_)
            | Self::AttachInterface(_)
            | Self::DetachInterface(_)
            | Self::SetGroups(_)
            | Self::MoveAddress(_)
            | Self::ReturnAddress(_)
            | Self::Associate(_)
            | Self::Grow(_)
            | Self::Verify(_)
            | Self::DeleteVolume(_)
            | Self::DeleteInterface(_)
            | Self::DeregisterImage(_)
            | Self::DeleteSnapshot(_)
            | Self::Find(_)
            | Self::Backup(_) => Vec::new(),
        }
    }
}
