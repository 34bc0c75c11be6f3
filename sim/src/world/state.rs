//! The objects of a region, as the region knows them.
//!
//! An attachment is stored once, with the volume or the interface; an instance's sets are indexes of them,
//! compared by [`check_invariants`](super::World::check_invariants).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use perennial_workers::port::{
    AttachmentState, ImageState, ImageTraits, RootTaskState, SnapshotState, Tags, VolumeState,
};
use perennial_workflows::model::aws::{
    AttachmentId, GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, RootTaskId, SnapshotId,
    SpotRequestId, SubnetId, VolumeId,
};
use serde::{Deserialize, Serialize};

use super::persistence;
use super::requests::{Behaviour, DeviceMapping, RunInstances, SpotKind};

/// One record a guest wrote.
pub type Record = String;
/// A state or status, one of the model's constants.
pub type Word = Cow<'static, str>;

/// An instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's InstanceView")]
pub struct Instance {
    pub id: InstanceId,
    pub state: InstanceState,
    pub state_reason: Option<String>,
    pub instance_type: String,
    pub zone: String,
    pub subnet: SubnetId,
    pub market: Market,
    pub image: ImageId,
    pub root_device: String,
    /// Index of the volumes attached to it.
    pub volumes: BTreeSet<VolumeId>,
    /// Index of the interfaces attached to it.
    pub interfaces: BTreeSet<InterfaceId>,
    pub spot_request: Option<SpotRequestId>,
    pub client_token: String,
    pub user_data: Option<String>,
    pub key_name: Option<String>,
    pub instance_profile: Option<String>,
    /// The launch it came with, shared by all instances of one call.
    pub reservation: String,
    pub launch_index: u32,
    /// Such as `User initiated (2026-09-14 08:31:07 GMT)`.
    pub transition_reason: String,
    /// Whether the API may not terminate it (`DisableApiTermination`).
    pub protected: bool,
    /// Whether the API may not stop it (`DisableApiStop`).
    #[serde(default)]
    pub stop_protected: bool,
    /// Detailed monitoring; shown, nothing more.
    #[serde(default)]
    pub monitoring: bool,
    /// Shown, nothing more.
    #[serde(default)]
    pub ebs_optimized: bool,
    /// `MetadataOptions`, kept and shown.
    pub metadata: BTreeMap<String, String>,
    /// Whether it counts against its pool; a stopped one does not.
    pub occupies: bool,
    pub running_since_ms: Option<u64>,
    /// Whether it was `running` at any time: then its agent has reported.
    pub ever_ran: bool,
    /// Whether its Systems Manager agent was taken away.
    pub agentless: bool,
    /// When a rebalance was recommended.
    pub rebalance_at_ms: Option<u64>,
    /// Whether its status checks fail, as a test or a rehearsal decided.
    pub impaired: bool,
    /// Since when.
    #[serde(default)]
    pub impaired_since_ms: Option<u64>,
    /// Its UEFI variables, in base64; it has them from its image, and its guest changes them.
    #[serde(default)]
    pub uefi_data: Option<String>,
    pub launched_at_ms: u64,
    pub visible_at_ms: u64,
    /// When EC2 will reclaim it.
    pub reclaim_at_ms: Option<u64>,
    /// Whether no more events are sent about it.
    pub silenced: bool,
    pub tags: Tags,
}

impl Instance {
    /// Whether its operating system is up, which lasts until it is `terminated`: a machine that is shutting
    /// down may still write (EC2 User Guide).
    #[must_use]
    pub const fn has_guest(&self) -> bool {
        matches!(self.state, InstanceState::Running | InstanceState::ShuttingDown | InstanceState::Stopping)
    }
}

/// A volume and its contents.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's VolumeView")]
pub struct Volume {
    pub id: VolumeId,
    #[serde(with = "persistence::VolumeStateForm")]
    pub state: VolumeState,
    pub zone: String,
    pub size_gib: u32,
    pub volume_type: String,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub encrypted: bool,
    /// Product codes of the AWS Marketplace; they pass to its snapshots and the volumes made of those.
    #[serde(default)]
    pub product_codes: BTreeSet<String>,
    pub snapshot: Option<SnapshotId>,
    /// Whether several instances may attach it. The model attaches it to one at a time all the same.
    #[serde(default)]
    pub multi_attach: bool,
    pub attachment: Option<Attachment>,
    /// The root replacement that will use it.
    pub held_by: Option<RootTaskId>,
    pub snapshot_taken_at_ms: Option<u64>,
    /// The last time it was changed by ModifyVolume.
    pub modification: Option<Modification>,
    pub created_at_ms: u64,
    pub visible_at_ms: u64,
    pub content: Vec<Record>,
    pub tags: Tags,
}

/// The size, type, IOPS and throughput of a volume.
pub type Dimensions = (u32, String, Option<u32>, Option<u32>);

/// The last modification of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct Modification {
    pub stage: ModificationState,
    pub original: Dimensions,
    pub target: Dimensions,
    pub started_at_ms: u64,
    pub ended_at_ms: Option<u64>,
}

/// How far a modification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are EC2's")]
pub enum ModificationState {
    Modifying,
    Optimizing,
    Completed,
}

impl ModificationState {
    /// `ModificationState`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Modifying => "modifying",
            Self::Optimizing => "optimizing",
            Self::Completed => "completed",
        }
    }
}

/// The attachment of a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's VolumeAttachment")]
pub struct Attachment {
    pub instance: InstanceId,
    pub device: String,
    #[serde(with = "persistence::AttachmentStateForm")]
    pub state: AttachmentState,
    pub delete_on_termination: bool,
    /// Whether the guest has it mounted and would keep a detach `busy`.
    pub mounted: bool,
    /// Tells this attachment from a later one of the same volume.
    pub serial: u64,
}

/// A network interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's InterfaceView")]
pub struct Interface {
    pub id: InterfaceId,
    pub subnet: SubnetId,
    pub zone: String,
    pub groups: Vec<GroupId>,
    pub primary_ip: Ipv4Addr,
    pub secondary_ips: Vec<Ipv4Addr>,
    /// Assigned, but not shown yet; with the number of the assignment.
    pub arriving: BTreeMap<Ipv4Addr, u64>,
    pub attachment: Option<Plug>,
    pub description: String,
    pub visible_at_ms: u64,
    pub tags: Tags,
}

/// The attachment of an interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's InterfaceAttachment")]
pub struct Plug {
    pub id: AttachmentId,
    pub instance: InstanceId,
    pub device_index: u32,
    pub delete_on_termination: bool,
}

/// A snapshot and the copy it holds, taken at the moment of the call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's SnapshotView")]
pub struct Snapshot {
    pub id: SnapshotId,
    #[serde(with = "persistence::SnapshotStateForm")]
    pub state: SnapshotState,
    pub volume: Option<VolumeId>,
    pub size_gib: u32,
    /// As its volume is; so is every volume that is made of it.
    #[serde(default)]
    pub encrypted: bool,
    /// Its volume's.
    #[serde(default)]
    pub product_codes: BTreeSet<String>,
    pub description: String,
    pub started_at_ms: u64,
    pub completes_at_ms: u64,
    /// Whether it ends in `error` then.
    #[serde(default)]
    pub fails: bool,
    pub visible_at_ms: u64,
    pub content: Vec<Record>,
    pub tags: Tags,
}

/// An image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's ImageView")]
pub struct Image {
    pub id: ImageId,
    pub name: String,
    #[serde(with = "persistence::ImageStateForm")]
    pub state: ImageState,
    #[serde(with = "persistence::ImageTraitsForm")]
    pub traits: ImageTraits,
    pub root_snapshot: SnapshotId,
    /// The rest of its device mapping: its other volumes, and the root's type, size and DeleteOnTermination.
    pub devices: Vec<DeviceMapping>,
    pub description: String,
    /// The UEFI variables of its instances, in base64.
    #[serde(default)]
    pub uefi_data: Option<String>,
    pub created_at_ms: u64,
    pub visible_at_ms: u64,
    pub tags: Tags,
}

/// A subnet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's SubnetView")]
pub struct Subnet {
    pub id: SubnetId,
    pub zone: String,
    /// The network's own address.
    pub network: Ipv4Addr,
    pub prefix: u8,
    /// Where the search for a free address goes on.
    pub cursor: u32,
    /// How many of its addresses others have, who are not in this region.
    #[serde(default)]
    pub taken: u32,
}

/// A spot request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's SpotRequestView")]
pub struct SpotRequest {
    pub id: SpotRequestId,
    /// `open`, `active`, `disabled`, `closed` or `cancelled`.
    pub state: Word,
    /// The status code.
    pub status: Word,
    /// None while a persistent request waits for its next instance.
    pub instance: Option<InstanceId>,
    pub kind: SpotKind,
    pub behaviour: Behaviour,
    /// The launch that a persistent request repeats.
    pub launch: RunInstances,
    pub created_at_ms: u64,
    pub visible_at_ms: u64,
    pub tags: Tags,
}

/// A security group; only that it exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct Group {
    pub id: GroupId,
    pub name: String,
    pub description: String,
    pub tags: Tags,
}

/// An Elastic address.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct Elastic {
    /// The allocation.
    pub id: String,
    pub address: Ipv4Addr,
    pub association: Option<Association>,
    pub tags: Tags,
}

/// The private address to which an Elastic address leads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct Association {
    pub id: String,
    pub interface: InterfaceId,
    pub private_ip: Ipv4Addr,
}

/// A launch template: each version holds the parameters of RunInstances by their names on the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct Template {
    pub id: String,
    pub name: String,
    pub created_at_ms: u64,
    /// Version 1 first.
    pub versions: Vec<BTreeMap<String, String>>,
    /// By the version's number.
    #[serde(default)]
    pub descriptions: BTreeMap<usize, String>,
    pub default_version: usize,
    pub tags: Tags,
}

/// A root replacement task.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's RootTaskView")]
pub struct RootTask {
    pub id: RootTaskId,
    pub instance: InstanceId,
    pub volume: VolumeId,
    /// Whether the volume existed before, instead of being made from a snapshot or an image for this task.
    pub adopts: bool,
    /// Whether the replaced root is deleted at the end.
    pub deletes_replaced: bool,
    #[serde(with = "persistence::RootTaskStateForm")]
    pub state: RootTaskState,
    pub started_at_ms: u64,
    pub tags: Tags,
}
