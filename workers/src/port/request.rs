//! What looks and acts are asked with.

use std::net::Ipv4Addr;

use perennial_workflows::model::aws::{
    GroupId, ImageId, InstanceId, InterfaceId, Market, SnapshotId, SubnetId, VolumeId,
};
use perennial_workflows::model::launch_template::LaunchTemplate;
use perennial_workflows::model::metadata::MetadataOptions;
use perennial_workflows::step::intent::LaunchVolume;

use super::view::{ImageTraits, Tags};

/// Which objects to look at. Both forms are server-side filters; an id that does not exist is simply missing
/// from the answer (adapters use filters, not id lists, so that one bad id cannot hide the rest).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select<Id> {
    /// These ids.
    Ids(Vec<Id>),
    /// Objects that carry all tags of one of these sets.
    Tagged(Vec<Tags>),
}

impl<Id> Select<Id> {
    /// Objects that carry all these tags.
    #[must_use]
    pub fn tagged(tags: Tags) -> Self {
        Self::Tagged(vec![tags])
    }
}

/// Which instance types to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TypeQuery {
    /// These.
    Named(Vec<String>),
    /// All of an architecture, such as `x86_64`.
    Of(String),
}

/// Whether an address may be taken from the interface that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// Only if no interface has it: EC2 refuses otherwise, so that it is a compare-and-set.
    Unheld,
    /// Also from another interface, which was looked at and is the node's own.
    FromOwn,
}

/// The whole request of RunInstances for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchRequest {
    /// Sent as it stands, at most 64 ASCII characters.
    pub client_token: String,
    /// What to boot.
    pub image: ImageId,
    /// One type; the ladder is the workflow's.
    pub instance_type: String,
    /// Spot (one-time, terminate on interruption) or on-demand.
    pub market: Market,
    /// The most to pay per hour on the spot market, as a decimal; none means the on-demand price.
    pub price_max: Option<String>,
    /// Also sent as the placement, so that the token's scope is clear.
    pub zone: String,
    /// An existing interface as the primary one, or a new one.
    pub network: LaunchNetwork,
    /// Overrides of the root volume. `None` sends no block device mapping.
    pub root: Option<RootOverride>,
    /// Data volumes made with it from snapshots; its termination does not delete them.
    pub volumes: Vec<LaunchVolume>,
    /// Device names of the image's mapping that nothing is made at (`NoDevice`).
    pub suppress: Vec<String>,
    /// The key pair.
    pub key_name: Option<String>,
    /// The name of the instance profile.
    pub instance_profile: Option<String>,
    /// Not yet encoded.
    pub user_data: Option<String>,
    /// The metadata service; none sends nothing, and the image and the account decide.
    pub metadata: Option<MetadataOptions>,
    /// The launch template under it.
    pub template: Option<LaunchTemplate>,
    /// On the instance, its volumes, its new interface and its spot request.
    pub tags: Tags,
}

impl LaunchRequest {
    /// The existing interface it is launched with.
    #[must_use]
    pub const fn kept_interface(&self) -> Option<&InterfaceId> {
        match &self.network {
            LaunchNetwork::Existing(interface) => Some(interface),
            LaunchNetwork::New { .. } => None,
        }
    }
}

/// The primary interface of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchNetwork {
    /// This one, which must be free.
    Existing(InterfaceId),
    /// A new one that dies with the instance.
    New {
        /// In this subnet.
        subnet: SubnetId,
        /// With these groups; empty means the VPC's default.
        groups: Vec<GroupId>,
    },
}

/// What may be changed of the root volume at launch. The snapshot may not (EC2 refuses it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootOverride {
    /// The image's root device name.
    pub device: String,
    /// At least the image's.
    pub size_gib: Option<u32>,
    /// Such as `gp3`.
    pub volume_type: Option<String>,
    /// For gp3, io1, io2.
    pub iops: Option<u32>,
    /// For gp3, in MiB/s.
    pub throughput: Option<u32>,
    /// With the account's key or `kms_key`.
    pub encrypted: bool,
    /// A customer key.
    pub kms_key: Option<String>,
}

impl RootOverride {
    /// Whether it says more than which device it is.
    #[must_use]
    pub const fn changes_something(&self) -> bool {
        let Self { device: _, size_gib, volume_type, iops, throughput, encrypted, kms_key } = self;
        size_gib.is_some()
            || volume_type.is_some()
            || iops.is_some()
            || throughput.is_some()
            || *encrypted
            || kms_key.is_some()
    }
}

/// The whole request of CreateVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Sent as it stands.
    pub client_token: String,
    /// Where.
    pub zone: String,
    /// How large.
    pub size_gib: u32,
    /// Such as `gp3`.
    pub volume_type: String,
    /// For gp3, io1, io2.
    pub iops: Option<u32>,
    /// For gp3, in MiB/s.
    pub throughput: Option<u32>,
    /// With the account's key or `kms_key`.
    pub encrypted: bool,
    /// A customer key.
    pub kms_key: Option<String>,
    /// Made from this.
    pub snapshot: Option<SnapshotId>,
    /// At creation.
    pub tags: Tags,
}

/// The whole request of CreateNetworkInterface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceRequest {
    /// Sent as it stands.
    pub client_token: String,
    /// Where.
    pub subnet: SubnetId,
    /// Empty means the VPC's default.
    pub groups: Vec<GroupId>,
    /// A chosen address, or the subnet's next.
    pub private_ip: Option<Ipv4Addr>,
    /// At creation.
    pub tags: Tags,
}

/// The whole request of RegisterImage. The name makes it idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Unique per account and region, 3 to 128 characters.
    pub name: String,
    /// Of the root; must be complete.
    pub root_snapshot: SnapshotId,
    /// From the image the node was first launched from.
    pub traits: ImageTraits,
    /// The UEFI variables of its instances, in base64; without them they have none of their own.
    pub uefi_data: Option<String>,
    /// At creation.
    pub tags: Tags,
}

/// The whole request of CreateSnapshots: the volumes of one instance at one moment, all of them or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotsRequest {
    /// Of this instance's volumes.
    pub instance: InstanceId,
    /// Not of its root.
    pub without_root: bool,
    /// Not of these other volumes of the instance.
    pub without: Vec<VolumeId>,
    /// Of each snapshot.
    pub description: String,
    /// Of each snapshot, at creation.
    pub tags: Tags,
}
