//! What looks return: the authoritative objects as EC2 shows them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_engine::clock::Clock;
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, RootTaskId,
    SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use perennial_workflows::model::signal::StatusCheck;
use perennial_workflows::model::volume::{Found, MappedVolume};
use tokio::time::Instant;

/// Tags, sorted.
pub type Tags = BTreeMap<String, String>;

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
    /// Its volumes by device name, as the instance lists them (not authoritative: see
    /// [`VolumeView::attachments`]).
    pub block_devices: Vec<BlockDevice>,
    /// Its network interfaces.
    pub interfaces: Vec<InstanceInterface>,
    /// Its spot request, if it is a spot instance and the region says so.
    pub spot_request: Option<SpotRequestId>,
    /// When it was launched, in milliseconds since the Unix epoch.
    pub launched_at_ms: u64,
    /// The client token of its launch, if it had one.
    pub client_token: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

impl InstanceView {
    /// The volumes of its mapping that are not among these, and not its root. None where no root can be told.
    #[must_use]
    pub fn volumes_beside(&self, known: &[VolumeId]) -> Vec<VolumeId> {
        let is_root = |device: &str| self.root_device.as_deref() == Some(device);
        if !self.block_devices.iter().any(|device| is_root(&device.device)) {
            return Vec::new();
        }
        let others = self.block_devices.iter().filter(|device| !is_root(&device.device));
        others.filter(|device| !known.contains(&device.volume)).map(|device| device.volume.clone()).collect()
    }
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
    /// When it was made, in milliseconds since the Unix epoch, where the endpoint says so.
    pub created_at_ms: Option<u64>,
    /// Its tags.
    pub tags: Tags,
}

impl VolumeView {
    /// Free for another instance: `available` and nothing attached.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.state == VolumeState::Available && self.attachments.is_empty()
    }

    /// What a copy of it is made as.
    #[must_use]
    pub fn as_found(&self) -> Found {
        let kind = self.volume_type.as_str();
        Found {
            volume_type: self.volume_type.clone(),
            // Shown for other types as well, and settable for these only (EC2 API reference, CreateVolume).
            iops: self.iops.filter(|_| matches!(kind, "gp3" | "io1" | "io2")),
            throughput: self.throughput.filter(|_| kind == "gp3"),
            is_copy: false,
            snapshot: None,
            named: false,
        }
    }

    /// The device name under which it is attached to an instance, for good.
    #[must_use]
    pub fn device_on(&self, instance: &InstanceId) -> Option<&str> {
        let on = self.attachments.iter().find(|attachment| attachment.instance == *instance)?;
        (on.state == AttachmentState::Attached).then_some(on.device.as_str())
    }
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

impl InterfaceView {
    /// Free for another instance: `available` and attached to nothing.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.available && self.attachment.is_none()
    }
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
    /// When it was made, in milliseconds since the Unix epoch, where the endpoint says so.
    pub created_at_ms: Option<u64>,
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
    /// Set for Windows and some licensed systems; those cannot be registered from a snapshot without losing
    /// it.
    pub platform: Option<String>,
}

/// What a region's own clock showed when it last answered.
#[derive(Debug, Clone, Copy)]
pub struct ToldTime {
    /// Its time, in milliseconds since the Unix epoch; to the second.
    pub at_ms: u64,
    /// When the answer came.
    pub heard: Instant,
}

impl ToldTime {
    /// By how many milliseconds a clock is ahead of the region's; negative: behind.
    #[must_use]
    pub fn ahead_ms(&self, clock: &Clock) -> i64 {
        let there_ms = self.at_ms.saturating_add(clock.since(self.heard).as_millis() as u64);
        clock.now_ms().cast_signed() - there_ms.cast_signed()
    }
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

impl SpotRequestView {
    /// What the statuses that mean it begin with (EC2 User Guide, "Get the status of a Spot Instance
    /// request").
    pub const DOOMED: [&'static str; 3] = ["marked-for-", "instance-terminated-", "instance-stopped-"];

    /// Whether EC2 takes or took its instance, by its status. Our own terminations say
    /// `instance-terminated-by-user`.
    #[must_use]
    pub fn is_doomed(&self) -> bool {
        self.status != "instance-terminated-by-user"
            && Self::DOOMED.iter().any(|begins| self.status.starts_with(begins))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ec2s_own_taking_counts_as_doomed() {
        let of = |status: &str| SpotRequestView {
            id: SpotRequestId::parse("sir-0123456789abcdef0").unwrap(),
            status: status.to_owned(),
            persistent: false,
            instance: None,
        };
        for status in [
            "marked-for-termination",
            "instance-terminated-no-capacity",
            "instance-terminated-by-price",
            "marked-for-stop",
            "instance-stopped-no-capacity",
        ] {
            assert!(of(status).is_doomed(), "{status}");
        }
        for status in ["fulfilled", "instance-terminated-by-user", "pending-fulfillment", ""] {
            assert!(!of(status).is_doomed(), "{status}");
        }
    }
}
