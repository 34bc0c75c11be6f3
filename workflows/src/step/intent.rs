//! The requests of steps.
//!
//! An intent is the whole request, made before the first call: a worker adds nothing to it. Each step is safe
//! to repeat, for these reasons:
//!
//! - resolve, survey, claim_volume, release_interface, return_address, start, verify, find
//!   - Call: describe only. Nothing is changed.
//! - create_volume, create_interface, launch, adopt_root, clone_root
//!   - Call: a create with the client token of the intent.
//! - snapshot_root, snapshot, snapshot_ahead
//!   - Call: CreateSnapshot. The worker first looks for the tag `perennial:step`.
//! - register_image
//!   - Call: RegisterImage. The name is unique.
//! - preserve
//!   - Call: ModifyInstanceAttribute. It is declarative.
//! - fence
//!   - Call: TerminateInstances. EC2 documents it as idempotent.
//! - detach
//!   - Call: DetachVolume, naming the old instance. It cannot affect a newer holder.
//! - attach
//!   - Call: AttachVolume. EBS attaches a volume once; the worker looks at the volume first.
//! - detach_interface
//!   - Call: DetachNetworkInterface, naming the attachment. An attachment's id is never reused.
//! - attach_interface
//!   - Call: AttachNetworkInterface. EC2 attaches an interface once; the worker looks at the interface first.
//! - set_groups
//!   - Call: ModifyNetworkInterfaceAttribute. It is declarative; the worker looks at the interface first.
//! - move_address
//!   - Call: AssignPrivateIpAddresses. The worker first looks at the interface, and at the holder of the
//!     address. Assigning an address that the interface already has changes nothing.
//! - associate_elastic_ip
//!   - Call: AssociateAddress. EC2 documents it as idempotent. The worker first looks where the address
//!     leads, and takes it only from an interface of the node.
//! - grow
//!   - Call: ModifyVolume. The worker looks at the size first; a reached size is not requested again.
//! - release
//!   - Call: DetachVolume by force, from a terminated instance that still has the volume. It names that
//!     instance, and cannot affect a newer holder.
//! - delete_volume, delete_interface, deregister_image, delete_snapshot
//!   - Call: a deletion by id. "Not found" means done.
//!
//! The steps of backups stand in [`backup`](crate::step::backup).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{
    AllocationId, GroupId, ImageId, InstanceId, InterfaceId, SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use crate::model::capacity::CapacityPool;
use crate::model::image::ImageFacts;
use crate::model::name::NodeName;
use crate::model::resources::{Resource, ResourceKind, Succession};
use crate::model::survey::{PATIENCE_MS, Question, Rank};
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
pub enum Intent {
    /// Looks up the subnet's zone and the image's traits.
    Resolve {
        /// The node's subnet.
        subnet: SubnetId,
        /// The node's image.
        image: ImageId,
        /// The other subnets it may live in.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<SubnetId>,
    },
    /// Looks up the available pools, and their prices.
    Survey(Question),
    /// Creates a data volume.
    CreateVolume {
        /// The volume's place in the node.
        slot: Slot,
        /// Sent as it stands.
        client_token: String,
        /// The zone.
        zone: String,
        /// How large.
        size_gib: u32,
        /// Such as `gp3`.
        volume_type: String,
        /// Provisioned IOPS.
        iops: Option<u32>,
        /// In MiB/s.
        throughput: Option<u32>,
        /// Encrypted.
        encrypted: bool,
        /// With this key.
        kms_key: Option<String>,
        /// From this snapshot.
        snapshot: Option<SnapshotId>,
        /// At creation.
        tags: TagMap,
    },
    /// Checks that an existing volume can be the node's.
    ClaimVolume {
        /// The volume's place in the node.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// The zone.
        zone: String,
        /// Its minimum size.
        size_gib: u32,
        /// The tags of the node's own resources.
        own: TagMap,
    },
    /// Creates the node's own interface.
    CreateInterface {
        /// Sent as it stands.
        client_token: String,
        /// The subnet.
        subnet: SubnetId,
        /// With these groups.
        groups: Vec<GroupId>,
        /// With this address.
        private_ip: Option<Ipv4Addr>,
        /// At creation.
        tags: TagMap,
    },
    /// Sets DeleteOnTermination=false for volumes (and an interface) of an instance, and sees it set.
    Preserve {
        /// The instance.
        instance: InstanceId,
        /// The volumes; those that are not attached to it are passed over.
        volumes: Vec<VolumeId>,
        /// The node's own interface.
        interface: Option<InterfaceId>,
        /// The instance's primary interface, which has the node's address and keeps it until the address
        /// moves. If it cannot be preserved, the step succeeds without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address_interface: Option<InterfaceId>,
        /// Whether the step looks at the other volumes on it, and preserves those that the node can adopt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        others: Option<OtherVolumes>,
        /// Whether its UEFI variables are read: they belong to the instance, and end with it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        uefi: bool,
    },
    /// Detaches a data volume from an instance that still runs, without force.
    Detach {
        /// The volume's place in the node.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// From which instance.
        instance: InstanceId,
    },
    /// Cancels a persistent spot request, terminates the instance and sees it terminated, twice.
    Fence {
        /// The instance.
        instance: InstanceId,
        /// Its spot request, if known.
        spot_request: Option<SpotRequestId>,
    },
    /// Sees a volume free, after its holder was seen terminated, twice.
    Release {
        /// The volume's place in the node.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// Its last holder.
        from: InstanceId,
    },
    /// Sees the node's interface free, after its holder was seen terminated, twice.
    ReleaseInterface {
        /// The interface.
        interface: InterfaceId,
        /// Its last holder.
        from: InstanceId,
    },
    /// Takes a snapshot of the free root volume and sees it complete.
    SnapshotRoot {
        /// Of this volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
    /// Takes a snapshot of a free data volume and sees it complete.
    SnapshotVolume {
        /// The volume's place in the node.
        slot: Slot,
        /// Of this volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
    /// Copies the free root volume (CopyVolumes) and sees the copy available.
    CloneRoot {
        /// Of this volume.
        volume: VolumeId,
        /// Sent as it stands.
        client_token: String,
        /// At creation.
        tags: TagMap,
    },
    /// Registers an image from the root's snapshot and sees it available.
    RegisterImage {
        /// Unique, and so the key of the repeat.
        name: String,
        /// Of the root.
        snapshot: SnapshotId,
        /// From the node's first image.
        facts: ImageFacts,
        /// The UEFI variables of its instances, in base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uefi_data: Option<String>,
        /// At creation.
        tags: TagMap,
    },
    /// Launches one instance in one pool.
    Launch {
        /// Sent as it stands.
        client_token: String,
        /// The pool.
        pool: CapacityPool,
        /// Whether it is asked even if it is remembered as being without capacity.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ask_anyway: bool,
        /// It is asked only while fewer than this many other nodes are on demand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_demand_max: Option<u32>,
        /// Its place among the pools of the survey, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rank: Option<Rank>,
        /// At most this price per hour.
        price_max: Option<String>,
        /// The zone.
        zone: String,
        /// The image to boot.
        image: ImageId,
        /// The primary interface.
        interface: LaunchInterface,
        /// Data volumes that are created with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        volumes: Vec<LaunchVolume>,
        /// Device names of the image's mapping at which no volume is created: the node's own volumes are
        /// attached there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        suppress: Vec<String>,
        /// The image's root device.
        root_device: String,
        /// The root's size, if it is to differ from the image's.
        root_size_gib: Option<u32>,
        /// The root's type, if it is to differ from the image's.
        root_volume_type: Option<String>,
        /// The key pair.
        key_name: Option<String>,
        /// The instance profile.
        instance_profile: Option<String>,
        /// As text.
        user_data: Option<String>,
        /// At creation.
        tags: TagMap,
    },
    /// Sees the launched instance running.
    Start {
        /// The instance.
        instance: InstanceId,
        /// The device names of the data volumes it was launched with.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        devices: Vec<String>,
    },
    /// Makes the node's own root volume the root of the new instance.
    AdoptRoot {
        /// The instance.
        instance: InstanceId,
        /// The node's root volume.
        volume: VolumeId,
        /// The root it was launched with, if the endpoint shows one.
        temporary: Option<VolumeId>,
        /// Sent as it stands.
        client_token: String,
        /// At creation.
        tags: TagMap,
    },
    /// Attaches a data volume.
    Attach {
        /// The volume's place in the node.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// To which instance.
        instance: InstanceId,
        /// Under this device name.
        device: String,
    },
    /// Attaches the node's second interface.
    AttachInterface {
        /// The interface.
        interface: InterfaceId,
        /// To which instance.
        instance: InstanceId,
        /// At which index; 0 is the primary interface.
        device_index: u32,
    },
    /// Detaches the node's second interface from an instance that still runs, without force.
    DetachInterface {
        /// The interface.
        interface: InterfaceId,
        /// From which instance.
        instance: InstanceId,
    },
    /// Gives the node's own interface the security groups of the file, and sees them.
    SetGroups {
        /// The interface.
        interface: InterfaceId,
        /// All of its groups from now on.
        groups: Vec<GroupId>,
    },
    /// Moves the node's secondary address to the new instance's primary interface.
    MoveAddress {
        /// The instance.
        instance: InstanceId,
        /// Its primary interface.
        interface: InterfaceId,
        /// The node's address; none at first: the subnet chooses.
        address: Option<Ipv4Addr>,
        /// Instances of the node that it may be taken from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<InstanceId>,
        /// The tags of an interface that it may be taken from: those of this node of this owner.
        #[serde(default, skip_serializing_if = "TagMap::is_empty")]
        own: TagMap,
    },
    /// Sees that no resource of the node has its address any more, which returns to its pool.
    ReturnAddress {
        /// The pool.
        pool: NodeName,
        /// Its subnet.
        subnet: SubnetId,
        /// The address.
        address: Ipv4Addr,
        /// The tags of an interface of the node.
        own: TagMap,
    },
    /// Associates the node's Elastic IP address with the new instance.
    Associate {
        /// The allocation.
        allocation: AllocationId,
        /// The instance.
        instance: InstanceId,
        /// Its primary interface.
        interface: InterfaceId,
        /// The private address to associate it with; none: the interface's primary one.
        private_ip: Option<Ipv4Addr>,
        /// Instances of the node that it may be taken from.
        from: Vec<InstanceId>,
        /// The tags of an interface that it may be taken from.
        own: TagMap,
    },
    /// Enlarges a data volume, wherever it is.
    Grow {
        /// The volume's place in the node.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// To this size.
        size_gib: u32,
    },
    /// Looks at every resource once more.
    Verify {
        /// The new instance.
        instance: InstanceId,
        /// Its volumes.
        volumes: BTreeMap<Slot, VolumeId>,
        /// The interface that holds the address.
        interface: Option<InterfaceId>,
        /// The node's address.
        address: Option<Ipv4Addr>,
    },
    /// Deletes a volume by id.
    DeleteVolume {
        /// The volume.
        volume: VolumeId,
        /// Its former purpose: `temporary root`, `data`…
        role: String,
        /// For a retained volume: the conditions of its deletion.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retained: Option<Succession>,
    },
    /// Deletes the node's interface.
    DeleteInterface {
        /// The interface.
        interface: InterfaceId,
    },
    /// Deregisters a superseded root image.
    DeregisterImage {
        /// The image.
        image: ImageId,
    },
    /// Deletes a superseded root snapshot.
    DeleteSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Looks for resources that a step of a cancelled or abandoned operation may have made.
    Find {
        /// The kind of resource.
        kind: ResourceKind,
        /// The tags it would have.
        tags: TagMap,
    },
    /// A step of a backup, which is no operation.
    Backup(BackupIntent),
    /// Takes a snapshot of a volume that has just become free, for the node's backups. No step waits for its
    /// completion.
    FinalSnapshot {
        /// The volume's place in the node.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
    /// Takes a snapshot of a free volume that only another zone would need, while home waits for another
    /// snapshot.
    SnapshotAhead {
        /// The volume's place in the node.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
}

impl Intent {
    /// The step's name: the same for every attempt at the same thing.
    #[must_use]
    pub fn step(&self) -> String {
        match self {
            Self::Resolve { .. } => "resolve".into(),
            Self::Survey(_) => "survey".into(),
            Self::CreateVolume { slot, .. } => format!("create_volume:{slot}"),
            Self::ClaimVolume { slot, .. } => format!("claim_volume:{slot}"),
            Self::CreateInterface { .. } => "create_interface".into(),
            Self::Preserve { instance, .. } => format!("preserve:{instance}"),
            Self::Detach { slot, .. } => format!("detach:{slot}"),
            Self::Fence { instance, .. } => format!("fence:{instance}"),
            Self::Release { slot, .. } => format!("release:{slot}"),
            Self::ReleaseInterface { .. } => "release_interface".into(),
            Self::SnapshotRoot { .. } => "snapshot_root".into(),
            Self::CloneRoot { .. } => "clone_root".into(),
            Self::SnapshotVolume { slot, .. } => format!("snapshot:{slot}"),
            Self::RegisterImage { .. } => "register_image".into(),
            Self::Launch { .. } => "launch".into(),
            Self::Start { .. } => "start".into(),
            Self::AdoptRoot { .. } => "adopt_root".into(),
            Self::Attach { slot, .. } => format!("attach:{slot}"),
            Self::AttachInterface { .. } => "attach_interface".into(),
            Self::DetachInterface { .. } => "detach_interface".into(),
            Self::SetGroups { .. } => "set_groups".into(),
            Self::ReturnAddress { .. } => "return_address".into(),
            Self::MoveAddress { .. } => "move_address".into(),
            Self::Associate { .. } => "associate_elastic_ip".into(),
            Self::Grow { slot, .. } => format!("grow:{slot}"),
            Self::Verify { .. } => "verify".into(),
            Self::DeleteVolume { volume, .. } => format!("delete_volume:{volume}"),
            Self::DeleteInterface { interface } => format!("delete_interface:{interface}"),
            Self::DeregisterImage { image } => format!("deregister_image:{image}"),
            Self::DeleteSnapshot { snapshot } => format!("delete_snapshot:{snapshot}"),
            Self::Find { kind: made, tags } => format!("find:{}", Resource::suspected(*made, tags)),
            Self::Backup(intent) => intent.step(),
            Self::FinalSnapshot { slot, .. } => format!("final_snapshot:{slot}"),
            Self::SnapshotAhead { slot, .. } => format!("snapshot_ahead:{slot}"),
        }
    }

    /// How long a step may take before the workflow does something else, in milliseconds.
    ///
    /// Chosen well above the measured or documented times (`ec2-semantics` §6): a bound catches stuck steps,
    /// and does not cut slow ones short.
    #[must_use]
    pub const fn budget_ms(&self) -> u64 {
        const SECOND: u64 = 1_000;
        const MINUTE: u64 = 60 * SECOND;
        match self {
            // Seconds in practice; an EBS control-plane brown-out can make them minutes.
            Self::Resolve { .. }
            | Self::CreateVolume { .. }
            | Self::CloneRoot { .. }
            | Self::ClaimVolume { .. }
            | Self::CreateInterface { .. }
            | Self::Preserve { .. }
            | Self::SetGroups { .. }
            | Self::ReturnAddress { .. }
            | Self::MoveAddress { .. }
            | Self::Associate { .. }
            | Self::Verify { .. } => 15 * MINUTE,
            // With pools to fall back on, the survey delays the launch no longer than this.
            Self::Survey(question) if !question.needed => PATIENCE_MS,
            Self::Survey(_) => 15 * MINUTE,
            // Seconds in practice. A resource that cannot be deleted by then stays listed; the next operation
            // tries again.
            Self::DeleteInterface { .. }
            | Self::DeregisterImage { .. }
            | Self::DeleteSnapshot { .. }
            | Self::DeleteVolume { .. } => 5 * MINUTE,
            // A volume in use stays in use; after termination it becomes free in any case.
            Self::Detach { .. } | Self::DetachInterface { .. } => 20 * SECOND,
            // A second in practice, and EC2 takes one snapshot of a volume every 15 s. The operation ends
            // only after the snapshot is seen, but no other step waits for it.
            Self::FinalSnapshot { .. } => 5 * MINUTE,
            // The same; a move would wait for the snapshot itself in any case.
            Self::SnapshotAhead { .. } => 5 * MINUTE,
            // Seconds to minutes in practice; EC2 promises nothing.
            // EC2 grants one modification in six hours.
            Self::Grow { .. } => 26 * 60 * MINUTE,
            // Absence is believed only after minutes.
            Self::Find { .. } => 30 * MINUTE,
            // A metal instance took over 19 minutes to terminate.
            Self::Fence { .. } | Self::Release { .. } | Self::ReleaseInterface { .. } => 60 * MINUTE,
            // A first full snapshot takes hours.
            Self::SnapshotRoot { .. } | Self::SnapshotVolume { .. } => 24 * 60 * MINUTE,
            Self::RegisterImage { .. } => 60 * MINUTE,
            Self::Launch { .. } | Self::Start { .. } => 10 * MINUTE,
            // The documentation's example took 20 seconds.
            Self::AdoptRoot { .. } => 10 * MINUTE,
            Self::Attach { .. } | Self::AttachInterface { .. } => 15 * MINUTE,
            Self::Backup(intent) => intent.budget_ms(),
        }
    }

    /// Whether the workflow has an alternative when the step's time is over. Other steps are looked at until
    /// their outcome is known.
    #[must_use]
    pub const fn has_another_way(&self) -> bool {
        matches!(
            self,
            Self::Start { .. }
                | Self::Detach { .. }
                | Self::DetachInterface { .. }
                | Self::AdoptRoot { .. }
                | Self::Survey(Question { needed: false, .. })
                | Self::CloneRoot { .. }
                | Self::FinalSnapshot { .. }
                | Self::SnapshotAhead { .. }
        )
    }

    /// Whether the step is of no use later: a snapshot beside the way, a detach that only shortens the
    /// outage, a look at prices. Other steps wait for as long as something hinders them.
    #[must_use]
    pub const fn is_only_good_in_time(&self) -> bool {
        matches!(
            self,
            Self::Detach { .. }
                | Self::DetachInterface { .. }
                | Self::Survey(Question { needed: false, .. })
                | Self::FinalSnapshot { .. }
                | Self::SnapshotAhead { .. }
                | Self::Backup(_)
        )
    }

    /// The resource that an intent deletes, by id.
    #[must_use]
    pub fn cleans(&self) -> Option<String> {
        match self {
            Self::DeleteVolume { volume, .. } => Some(volume.to_string()),
            Self::DeleteInterface { interface } => Some(interface.to_string()),
            Self::DeregisterImage { image } => Some(image.to_string()),
            Self::DeleteSnapshot { snapshot } => Some(snapshot.to_string()),
            Self::Find { kind: made, tags } => Some(Resource::suspected(*made, tags)),
            _ => None,
        }
    }

    /// The instance a step works on, whose loss ends the step.
    #[must_use]
    pub const fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Start { instance, .. }
            | Self::AdoptRoot { instance, .. }
            | Self::Attach { instance, .. }
            | Self::AttachInterface { instance, .. }
            | Self::DetachInterface { instance, .. }
            | Self::MoveAddress { instance, .. }
            | Self::Associate { instance, .. }
            | Self::Verify { instance, .. }
            | Self::Preserve { instance, .. }
            | Self::Detach { instance, .. } => Some(instance),
            Self::Resolve { .. }
            | Self::Survey(_)
            | Self::CreateVolume { .. }
            | Self::CloneRoot { .. }
            | Self::ClaimVolume { .. }
            | Self::CreateInterface { .. }
            | Self::Fence { .. }
            | Self::Release { .. }
            | Self::ReleaseInterface { .. }
            | Self::SnapshotRoot { .. }
            | Self::SnapshotVolume { .. }
            | Self::RegisterImage { .. }
            | Self::Launch { .. }
            | Self::DeleteVolume { .. }
            | Self::DeleteInterface { .. }
            | Self::DeregisterImage { .. }
            | Self::DeleteSnapshot { .. }
            | Self::SetGroups { .. }
            | Self::ReturnAddress { .. }
            | Self::Grow { .. }
            | Self::Find { .. }
            | Self::FinalSnapshot { .. }
            | Self::SnapshotAhead { .. }
            | Self::Backup(_) => None,
        }
    }

    /// The resources that a step makes, and the tags it makes them with; empty for a step that makes none.
    #[must_use]
    pub fn makes(&self) -> Vec<(ResourceKind, &TagMap)> {
        match self {
            Self::Launch { tags, volumes, .. } if !volumes.is_empty() => {
                vec![(ResourceKind::Instance, tags), (ResourceKind::Volume, tags)]
            }
            Self::Launch { tags, .. } => vec![(ResourceKind::Instance, tags)],
            Self::CreateVolume { tags, .. } | Self::CloneRoot { tags, .. } => {
                vec![(ResourceKind::Volume, tags)]
            }
            Self::CreateInterface { tags, .. } => vec![(ResourceKind::Interface, tags)],
            Self::SnapshotRoot { tags, .. }
            | Self::SnapshotVolume { tags, .. }
            | Self::FinalSnapshot { tags, .. }
            | Self::SnapshotAhead { tags, .. } => vec![(ResourceKind::Snapshot, tags)],
            Self::RegisterImage { tags, .. } => vec![(ResourceKind::Image, tags)],
            _ => Vec::new(),
        }
    }
}
