//! The port `Cloud`: only the EC2 calls we make, in our words.
//!
//! Looks return views of the authoritative objects; acts return what the call said and nothing more. Whether an act
//! worked is decided by a later look (look, act, look). Two adapters: `aws::Ec2` and the simulated region.
//!
//! # Guarantees an adapter gives
//! - A look returns every page of what matches, and never an object that does not match.
//! - An act with a client token sends exactly that token; an adapter never invents one.
//! - An act that creates tags at creation; there is no call that tags afterwards.
//! - No adapter retries; retries are the workers', in one place.
//! - Errors are classified once, by [`classify`](crate::classify).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use async_trait::async_trait;
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, RootTaskId,
    SnapshotId, SpotRequestId, SubnetId, VolumeId,
};

use perennial_workflows::model::signal::StatusCheck;
use perennial_workflows::model::survey::TypeFacts;
use perennial_workflows::model::volume::MappedVolume;
use perennial_workflows::step::intent::LaunchVolume;

use crate::classify::CloudError;

/// Tags, sorted.
pub type Tags = BTreeMap<String, String>;

/// Which objects to look at. Both forms are server-side filters; an id that does not exist is simply missing from
/// the answer (adapters use filters, not id lists, so that one bad id cannot hide the rest).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select<Id> {
    /// These ids.
    Ids(Vec<Id>),
    /// Objects that carry all these tags.
    Tagged(Tags),
}

/// Which instance types to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TypeQuery {
    /// These.
    Named(Vec<String>),
    /// All of an architecture, such as `x86_64`.
    Of(String),
}

/// An instance, as DescribeInstances shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Its id.
    pub id: InstanceId,
    /// Its state.
    pub state: InstanceState,
    /// The code of the state's reason, such as `Server.SpotInstanceTermination`.
    pub state_reason: Option<String>,
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// The availability zone.
    pub zone: String,
    /// Its subnet, while it has one.
    pub subnet: Option<SubnetId>,
    /// Spot or on-demand.
    pub market: Market,
    /// The image it was launched from.
    pub image: Option<ImageId>,
    /// The primary private address, while it has one.
    pub private_ip: Option<Ipv4Addr>,
    /// The device name of its root.
    pub root_device: Option<String>,
    /// Its volumes by device name, as the instance lists them (not authoritative: see [`VolumeView::attachments`]).
    pub block_devices: Vec<BlockDevice>,
    /// Its network interfaces.
    pub interfaces: Vec<InstanceInterface>,
    /// Its spot request, if it is a spot instance and the region says so.
    pub spot_request: Option<SpotRequestId>,
    /// When it was launched, in milliseconds since the Unix epoch.
    pub launched_at_ms: u64,
    /// Its tags.
    pub tags: Tags,
}

/// One entry of an instance's block device mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Such as `/dev/xvda`.
    pub device: String,
    /// The volume.
    pub volume: VolumeId,
    /// Whether termination deletes it.
    pub delete_on_termination: bool,
}

/// One network interface of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceInterface {
    /// Its id.
    pub id: InterfaceId,
    /// 0 is the primary one.
    pub device_index: u32,
    /// The attachment.
    pub attachment: Option<AttachmentId>,
    /// Whether termination deletes it.
    pub delete_on_termination: bool,
}

/// A volume, as DescribeVolumes shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its id.
    pub id: VolumeId,
    /// Its state.
    pub state: VolumeState,
    /// Its zone.
    pub zone: String,
    /// Its size.
    pub size_gib: u32,
    /// Such as `gp3`.
    pub volume_type: String,
    /// Its IOPS, also where they are not provisioned.
    pub iops: Option<u32>,
    /// In MiB/s.
    pub throughput: Option<u32>,
    /// The snapshot it was made from.
    pub snapshot: Option<SnapshotId>,
    /// Whether several instances may attach it; we refuse such volumes.
    pub multi_attach: bool,
    /// Authoritative for attachments. Finished detachments are not listed.
    pub attachments: Vec<VolumeAttachment>,
    /// Its tags.
    pub tags: Tags,
}

/// The state of a volume (EC2 API reference, Volume).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// Not usable yet.
    Creating,
    /// Free.
    Available,
    /// Attached, or becoming so, or ceasing to be.
    InUse,
    /// On its way out.
    Deleting,
    /// Gone.
    Deleted,
    /// Failed (for example: the key cannot be used).
    Error,
}

/// One attachment of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeAttachment {
    /// To which instance.
    pub instance: InstanceId,
    /// Under which device name.
    pub device: String,
    /// How far it is.
    pub state: AttachmentState,
    /// Whether the instance's termination deletes the volume.
    pub delete_on_termination: bool,
}

/// The state of an attachment (EC2 API reference, VolumeAttachment).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachmentState {
    /// On its way.
    Attaching,
    /// Done.
    Attached,
    /// Ceasing.
    Detaching,
    /// The operating system still uses the device; may stay so for ever.
    Busy,
}

/// A network interface, as DescribeNetworkInterfaces shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceView {
    /// Its id.
    pub id: InterfaceId,
    /// Whether it is free (`available`).
    pub available: bool,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its zone.
    pub zone: String,
    /// Its primary private address.
    pub primary_ip: Ipv4Addr,
    /// Its other private addresses, in order.
    pub secondary_ips: Vec<Ipv4Addr>,
    /// Its security groups.
    pub groups: Vec<GroupId>,
    /// To what it is attached. Authoritative.
    pub attachment: Option<InterfaceAttachment>,
    /// Its tags.
    pub tags: Tags,
}

/// The attachment of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAttachment {
    /// Its id; unique per attachment.
    pub id: AttachmentId,
    /// To which instance.
    pub instance: Option<InstanceId>,
    /// 0 is the primary interface.
    pub device_index: u32,
    /// Whether the instance's termination deletes the interface.
    pub delete_on_termination: bool,
}

/// A snapshot, as DescribeSnapshots shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    /// Its id.
    pub id: SnapshotId,
    /// Its state.
    pub state: SnapshotState,
    /// Of which volume.
    pub volume: Option<VolumeId>,
    /// In percent.
    pub progress: u8,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Its tags.
    pub tags: Tags,
}

/// The state of a snapshot (EC2 API reference, Snapshot).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    /// The point in time is fixed, the copy is under way.
    Pending,
    /// Usable.
    Completed,
    /// Failed.
    Error,
}

/// An image, as DescribeImages shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// Its id.
    pub id: ImageId,
    /// Its name, unique per account and region.
    pub name: String,
    /// Its state.
    pub state: ImageState,
    /// What a launched machine must be like.
    pub traits: ImageTraits,
    /// The snapshot of its root.
    pub root_snapshot: Option<SnapshotId>,
    /// The EBS volumes it maps beside its root; no instance store.
    pub mapped: Vec<MappedVolume>,
    /// Its tags.
    pub tags: Tags,
}

/// The state of an image (EC2 API reference, Image).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// Not usable yet.
    Pending,
    /// Usable.
    Available,
    /// Failed, deregistered or invalid.
    Failed,
}

/// What an image says of the machines launched from it; carried over when an image is registered from a root
/// snapshot (`RegisterImage`'s own defaults, i386 and paravirtual, would not boot).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTraits {
    /// `x86_64`, `arm64`…
    pub architecture: String,
    /// The device name of the root.
    pub root_device: String,
    /// `legacy-bios`, `uefi`, `uefi-preferred`.
    pub boot_mode: Option<String>,
    /// Enhanced networking.
    pub ena_support: bool,
    /// `v2.0` with a TPM.
    pub tpm_support: Option<String>,
    /// `v2.0` when instances require IMDSv2.
    pub imds_support: Option<String>,
    /// Set for Windows and some licensed systems; those cannot be registered from a snapshot without losing it.
    pub platform: Option<String>,
}

/// A subnet, as DescribeSubnets shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetView {
    /// Its id.
    pub id: SubnetId,
    /// Its availability zone.
    pub zone: String,
    /// Its address range, as `10.0.0.0/20`.
    pub cidr: String,
}

/// A root-volume replacement task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootTaskView {
    /// Its id.
    pub id: RootTaskId,
    /// Of which instance.
    pub instance: InstanceId,
    /// How far it is; states we do not know count as in progress.
    pub state: RootTaskState,
}

/// The state of a root replacement task (EC2 API reference, ReplaceRootVolumeTask).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootTaskState {
    /// Pending, in progress, failing, or a state we do not know.
    InProgress,
    /// The new root is in place.
    Succeeded,
    /// The old root is still in place; the instance was rebooted.
    Failed,
    /// There is no root: the instance must be terminated.
    FailedDetached,
}

/// An instance whose status checks fail, as DescribeInstanceStatus shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImpairedView {
    /// Which.
    pub instance: InstanceId,
    /// The checks that fail.
    pub checks: Vec<StatusCheck>,
    /// Since when the first of them does, in milliseconds since the Unix epoch, where it says so.
    pub since_ms: Option<u64>,
}

/// A spot request, as DescribeSpotInstanceRequests shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpotRequestView {
    /// Its id.
    pub id: SpotRequestId,
    /// Such as `fulfilled`, `marked-for-termination`, `instance-terminated-no-capacity`.
    pub status: String,
    /// Whether it would launch again after a termination.
    pub persistent: bool,
    /// Its instance.
    pub instance: Option<InstanceId>,
}

/// Whether an address may be taken from the interface that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// Only if nobody has it: EC2 refuses otherwise, so that it is a compare-and-set.
    Unheld,
    /// Also from another interface, which was looked at and is the node's own.
    FromOwn,
}

/// An Elastic IP address, as DescribeAddresses shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElasticView {
    /// Its allocation.
    pub allocation: AllocationId,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// The interface it leads to, and the private address there.
    pub leads_to: Option<(InterfaceId, Option<Ipv4Addr>)>,
    /// The instance of that interface.
    pub instance: Option<InstanceId>,
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

/// Only the EC2 calls we make. See the module's guarantees.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// DescribeInstances.
    async fn instances(&self, select: &Select<InstanceId>) -> Result<Vec<InstanceView>, CloudError>;
    /// DescribeVolumes.
    async fn volumes(&self, select: &Select<VolumeId>) -> Result<Vec<VolumeView>, CloudError>;
    /// DescribeNetworkInterfaces.
    async fn interfaces(&self, select: &Select<InterfaceId>) -> Result<Vec<InterfaceView>, CloudError>;
    /// DescribeNetworkInterfaces: the one that has this private address in this subnet, as its primary or another one.
    async fn interface_with(
        &self,
        subnet: &SubnetId,
        address: Ipv4Addr,
    ) -> Result<Option<InterfaceView>, CloudError>;
    /// DescribeSnapshots, owned by this account.
    async fn snapshots(&self, select: &Select<SnapshotId>) -> Result<Vec<SnapshotView>, CloudError>;
    /// DescribeImages, by id or (for our own) by tag.
    async fn images(&self, select: &Select<ImageId>) -> Result<Vec<ImageView>, CloudError>;
    /// DescribeImages by exact name, owned by this account.
    async fn image_named(&self, name: &str) -> Result<Option<ImageView>, CloudError>;
    /// DescribeSubnets.
    async fn subnets(&self, ids: &[SubnetId]) -> Result<Vec<SubnetView>, CloudError>;
    /// DescribeInstanceTypes. A name that does not exist is simply missing.
    async fn instance_types(&self, query: &TypeQuery) -> Result<Vec<TypeFacts>, CloudError>;
    /// DescribeInstanceTypeOfferings: the names of the types that a zone offers.
    async fn offered_types(&self, zone: &str) -> Result<BTreeSet<String>, CloudError>;
    /// DescribeSpotPriceHistory: what each type costs per hour on the spot market of a zone now, as a decimal (Linux).
    async fn spot_prices(
        &self,
        types: &[String],
        zone: &str,
        now_ms: u64,
    ) -> Result<BTreeMap<String, String>, CloudError>;
    /// GetSpotPlacementScores: how likely one instance of any of these types would come up in a zone, 1 to 10; `None` when
    /// the zone is not in the answer. With fewer than three types the score is always low (API reference).
    async fn placement_score(&self, types: &[String], zone: &str) -> Result<Option<u8>, CloudError>;
    /// DescribeSpotInstanceRequests.
    async fn spot_requests(&self, select: &Select<SpotRequestId>)
    -> Result<Vec<SpotRequestView>, CloudError>;
    /// DescribeInstanceStatus, once for each check: the running instances of the region whose status checks fail, each once.
    async fn impaired(&self) -> Result<Vec<ImpairedView>, CloudError>;
    /// DescribeReplaceRootVolumeTasks of one instance.
    async fn root_tasks(&self, instance: &InstanceId) -> Result<Vec<RootTaskView>, CloudError>;

    /// GetInstanceUefiData: the UEFI variables of a running or stopped instance, in base64; `None` where it has none.
    async fn uefi_data(&self, instance: &InstanceId) -> Result<Option<String>, CloudError>;

    /// RunInstances, one instance.
    async fn run_instance(&self, request: &LaunchRequest) -> Result<InstanceView, CloudError>;
    /// TerminateInstances, one instance.
    async fn terminate_instance(&self, id: &InstanceId) -> Result<(), CloudError>;
    /// CancelSpotInstanceRequests, one request.
    async fn cancel_spot_request(&self, id: &SpotRequestId) -> Result<(), CloudError>;
    /// ModifyInstanceAttribute: DeleteOnTermination=false for these devices.
    async fn preserve_volumes(&self, id: &InstanceId, devices: &[String]) -> Result<(), CloudError>;
    /// ModifyNetworkInterfaceAttribute: DeleteOnTermination=false for this attachment.
    async fn preserve_interface(&self, id: &InterfaceId, attachment: &AttachmentId)
    -> Result<(), CloudError>;

    /// CreateVolume.
    async fn create_volume(&self, request: &VolumeRequest) -> Result<VolumeId, CloudError>;
    /// CopyVolumes: a new volume in the same zone with what this one holds now, of its size and type.
    async fn copy_volume(
        &self,
        source: &VolumeId,
        client_token: &str,
        tags: &Tags,
    ) -> Result<VolumeId, CloudError>;
    /// DeleteVolume.
    async fn delete_volume(&self, id: &VolumeId) -> Result<(), CloudError>;
    /// ModifyVolume: the size.
    async fn grow_volume(&self, id: &VolumeId, size_gib: u32) -> Result<(), CloudError>;
    /// AttachVolume.
    async fn attach_volume(
        &self,
        id: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), CloudError>;
    /// DetachVolume, not forced, always naming the instance so that a late repeat cannot hit a newer owner.
    async fn detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> Result<(), CloudError>;
    /// DetachVolume with `Force`, naming the instance: only from one that was seen terminated, where nobody is left to write.
    async fn force_detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> Result<(), CloudError>;
    /// CreateReplaceRootVolumeTask with an existing volume. The replaced root is never deleted by the task.
    async fn replace_root(
        &self,
        instance: &InstanceId,
        volume: &VolumeId,
        client_token: &str,
        tags: &Tags,
    ) -> Result<RootTaskId, CloudError>;

    /// CreateSnapshot. No client token exists: look by tag first.
    async fn create_snapshot(
        &self,
        volume: &VolumeId,
        description: &str,
        tags: &Tags,
    ) -> Result<SnapshotId, CloudError>;
    /// CreateSnapshots. No client token exists: look by tag first.
    async fn create_snapshots(&self, request: &SnapshotsRequest) -> Result<Vec<SnapshotId>, CloudError>;
    /// DeleteSnapshot.
    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), CloudError>;
    /// RegisterImage. No client token exists: the name is unique.
    async fn register_image(&self, request: &ImageRequest) -> Result<ImageId, CloudError>;
    /// DeregisterImage.
    async fn deregister_image(&self, id: &ImageId) -> Result<(), CloudError>;

    /// CreateNetworkInterface.
    async fn create_interface(&self, request: &InterfaceRequest) -> Result<InterfaceView, CloudError>;
    /// DeleteNetworkInterface.
    async fn delete_interface(&self, id: &InterfaceId) -> Result<(), CloudError>;
    /// ModifyNetworkInterfaceAttribute: all of its security groups.
    async fn set_interface_groups(&self, id: &InterfaceId, groups: &[GroupId]) -> Result<(), CloudError>;
    /// AttachNetworkInterface. No client token exists: look at the interface first.
    async fn attach_interface(
        &self,
        id: &InterfaceId,
        instance: &InstanceId,
        device_index: u32,
    ) -> Result<(), CloudError>;
    /// DetachNetworkInterface, never forced, naming the attachment so that a late repeat cannot hit a newer one.
    async fn detach_interface(&self, attachment: &AttachmentId) -> Result<(), CloudError>;
    /// AssignPrivateIpAddresses: this address, or with `None` one that the subnet chooses.
    async fn assign_private_ip(
        &self,
        id: &InterfaceId,
        address: Option<Ipv4Addr>,
        taking: Taking,
    ) -> Result<(), CloudError>;
    /// DescribeAddresses of one allocation.
    async fn elastic_address(&self, id: &AllocationId) -> Result<Option<ElasticView>, CloudError>;
    /// AssociateAddress: to this interface's private address, or its primary one.
    async fn associate_address(
        &self,
        id: &AllocationId,
        interface: &InterfaceId,
        private_ip: Option<Ipv4Addr>,
        taking: Taking,
    ) -> Result<(), CloudError>;
    /// UnassignPrivateIpAddresses.
    async fn unassign_private_ip(&self, id: &InterfaceId, address: Ipv4Addr) -> Result<(), CloudError>;

    /// Asks EC2 whether we may make a call (`DryRun`), for `doctor`. `Ok` means we may.
    async fn may_run_instances(&self, request: &LaunchRequest) -> Result<(), CloudError>;
    /// Who we are: the account id, or an empty text where the endpoint has no such call.
    async fn identity(&self) -> Result<String, CloudError>;
}
