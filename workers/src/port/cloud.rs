//! The port itself: one method a call.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use async_trait::async_trait;
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, GroupId, ImageId, InstanceId, InterfaceId, RootTaskId, SnapshotId,
    SpotRequestId, SubnetId, VolumeId,
};
use perennial_workflows::model::survey::TypeFacts;

use super::error::CloudError;
use super::request::{
    ImageRequest, InterfaceRequest, LaunchRequest, Select, SnapshotsRequest, Taking, TypeQuery, VolumeRequest,
};
use super::view::{
    ElasticView, ImageView, ImpairedView, InstanceView, InterfaceView, RootTaskView, SnapshotView,
    SpotRequestView, SubnetView, Tags, ToldTime, VolumeView,
};

/// Only the EC2 calls we make. See the module's guarantees.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// DescribeInstances.
    async fn instances(&self, select: &Select<InstanceId>) -> Result<Vec<InstanceView>, CloudError>;
    /// Those of these instances that are shown in any other state than running: none in a fleet in order,
    /// which makes the question cheap for thousands.
    async fn instances_not_running(&self, ids: &[InstanceId]) -> Result<Vec<InstanceView>, CloudError>;
    /// DescribeVolumes.
    async fn volumes(&self, select: &Select<VolumeId>) -> Result<Vec<VolumeView>, CloudError>;
    /// DescribeNetworkInterfaces.
    async fn interfaces(&self, select: &Select<InterfaceId>) -> Result<Vec<InterfaceView>, CloudError>;
    /// DescribeNetworkInterfaces: the one that has this private address in this subnet, as its primary or
    /// another one.
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
    /// DescribeSpotPriceHistory: what each type costs per hour on the spot market of a zone now, as a decimal
    /// (Linux).
    async fn spot_prices(
        &self,
        types: &[String],
        zone: &str,
        now_ms: u64,
    ) -> Result<BTreeMap<String, String>, CloudError>;
    /// GetSpotPlacementScores: how likely one instance of any of these types would come up in a zone, 1 to
    /// 10; `None` when the zone is not in the answer. With fewer than three types the score is always low
    /// (API reference).
    async fn placement_score(&self, types: &[String], zone: &str) -> Result<Option<u8>, CloudError>;
    /// DescribeSpotInstanceRequests.
    async fn spot_requests(&self, select: &Select<SpotRequestId>)
    -> Result<Vec<SpotRequestView>, CloudError>;
    /// DescribeSpotInstanceRequests: those of these whose instance EC2 takes or took
    /// ([`SpotRequestView::is_doomed`]). Filtered by EC2: a fleet in order answers with nothing.
    async fn doomed_spot_requests(&self, ids: &[SpotRequestId]) -> Result<Vec<SpotRequestView>, CloudError>;
    /// DescribeInstanceStatus, once for each check: the running instances of the region whose status checks
    /// fail, each once.
    async fn impaired(&self) -> Result<Vec<ImpairedView>, CloudError>;
    /// DescribeReplaceRootVolumeTasks of one instance.
    async fn root_tasks(&self, instance: &InstanceId) -> Result<Vec<RootTaskView>, CloudError>;

    /// GetInstanceUefiData: the UEFI variables of a running or stopped instance, in base64; `None` where it
    /// has none.
    async fn uefi_data(&self, instance: &InstanceId) -> Result<Option<String>, CloudError>;

    /// RunInstances, one instance.
    async fn run_instance(&self, request: &LaunchRequest) -> Result<InstanceView, CloudError>;
    /// TerminateInstances, one instance.
    async fn terminate_instance(&self, id: &InstanceId) -> Result<(), CloudError>;
    /// TerminateInstances with Force and SkipOsShutdown, one instance: for one that hangs in `shutting-down`.
    async fn force_terminate_instance(&self, id: &InstanceId) -> Result<(), CloudError>;
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
    /// DetachVolume with `Force`, naming the instance: only from one that was seen terminated, where nobody
    /// is left to write.
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
    /// DetachNetworkInterface, never forced, naming the attachment so that a late repeat cannot hit a newer
    /// one.
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

    /// What the region's own clock showed when it last answered (the header `Date`); `None` before the first
    /// answer. No call is made.
    fn told_time(&self) -> Option<ToldTime>;

    /// Asks EC2 whether we may make a call (`DryRun`), for `doctor`. `Ok` means we may.
    async fn may_run_instances(&self, request: &LaunchRequest) -> Result<(), CloudError>;
    /// Who we are: the account id, or an empty text where the endpoint has no such call.
    async fn identity(&self) -> Result<String, CloudError>;
}
