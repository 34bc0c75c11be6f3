//! API budgets: one token bucket per action, so that our own calls never become the storm.
//!
//! The buckets are seeded with EC2's published limits (EC2 Developer Guide, "Request throttling", per account
//! and region). A `RequestLimitExceeded` teaches: the refill of that action is halved, and grows back a
//! little with every call that is not throttled (additive increase, multiplicative decrease).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, GroupId, ImageId, InstanceId, InterfaceId, RootTaskId, SnapshotId,
    SpotRequestId, SubnetId, VolumeId,
};
use perennial_workflows::model::survey::TypeFacts;

use super::trouble::Troubles;
use crate::port::error::{Action, Class, CloudError};
use crate::port::{
    Cloud, ElasticView, ImageRequest, ImageView, ImpairedView, InstanceView, InterfaceRequest, InterfaceView,
    LaunchRequest, RootTaskView, Select, SnapshotView, SnapshotsRequest, SpotRequestView, SubnetView, Tags,
    Taking, ToldTime, TypeQuery, VolumeRequest, VolumeView,
};

/// The smallest refill a bucket can learn: one call in ten seconds still makes progress.
const REFILL_MIN: f64 = 0.1;

/// The longest wait for a token that a running step sits out.
const HELD_MAX: Duration = Duration::from_secs(1);

/// The longest wait for a token of a look. Many steps share a look, so it waits longer; but no longer than a
/// few seconds, in which a step would take for watched what was not.
const LOOK_HELD_MAX: Duration = Duration::from_secs(15);

/// What the clock can show.
const TICK: Duration = Duration::from_millis(1);

/// Burst and refill per second of an action, as published.
#[must_use]
pub const fn published(action: Action) -> (f64, f64) {
    use Action as A;
    match action {
        A::RunInstances => (5.0, 2.0),
        A::DescribeInstances
        | A::DescribeVolumes
        | A::DescribeNetworkInterfaces
        | A::DescribeSnapshots
        | A::DescribeImages
        | A::DescribeSubnets
        | A::DescribeSpotInstanceRequests
        | A::DescribeInstanceStatus
        | A::DescribeReplaceRootVolumeTasks
        | A::GetInstanceUefiData
        | A::DescribeAddresses
        | A::DescribeSpotPriceHistory
        | A::GetSpotPlacementScores
        | A::DescribeInstanceTypes
        | A::DescribeInstanceTypeOfferings
        | A::GetCallerIdentity => (100.0, 20.0),
        A::CreateSnapshot
        | A::CreateSnapshots
        | A::DeleteSnapshot
        | A::CreateVolume
        | A::DeleteVolume
        | A::CreateNetworkInterface
        | A::DeleteNetworkInterface
        | A::ModifyNetworkInterfaceAttribute
        | A::AssignPrivateIpAddresses
        | A::UnassignPrivateIpAddresses
        | A::DeregisterImage
        | A::TerminateInstances => (100.0, 5.0),
        A::CancelSpotInstanceRequests
        | A::ModifyInstanceAttribute
        | A::AttachVolume
        | A::DetachVolume
        | A::AttachNetworkInterface
        | A::DetachNetworkInterface
        | A::CreateReplaceRootVolumeTask
        | A::CopyVolumes
        | A::RegisterImage
        | A::AssociateAddress
        | A::ModifyVolume => (50.0, 5.0),
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    refill: f64,
    at_ms: u64,
}

/// A cloud whose calls wait for their budget.
pub struct Budgeted {
    cloud: Arc<dyn Cloud>,
    clock: Clock,
    buckets: Mutex<BTreeMap<Action, Bucket>>,
    troubles: Troubles,
}

impl Budgeted {
    /// Budgets around a cloud.
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>, clock: Clock) -> Self {
        let troubles = Troubles::new(clock.clone());
        Self { cloud, clock, buckets: Mutex::new(BTreeMap::new()), troubles }
    }

    /// Takes a token, or says how long to wait for one.
    fn take(&self, action: Action) -> Result<(), Duration> {
        let now_ms = self.clock.monotonic_ms();
        let (burst, refill) = published(action);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(action).or_insert(Bucket { tokens: burst, refill, at_ms: now_ms });
        let elapsed = now_ms.saturating_sub(bucket.at_ms) as f64 / 1000.0;
        bucket.tokens = (bucket.tokens + elapsed * bucket.refill).min(burst);
        bucket.at_ms = now_ms;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            // Never less than the clock can show: a wait of nothing would ask again at the same moment, for
            // ever.
            Err(Duration::from_secs_f64((1.0 - bucket.tokens) / bucket.refill).max(TICK))
        }
    }

    fn learn(&self, action: Action, throttled: bool) {
        let (_, published) = published(action);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(&action) {
            if throttled {
                bucket.refill = (bucket.refill / 2.0).max(REFILL_MIN);
                bucket.tokens = 0.0;
            } else {
                bucket.refill = (bucket.refill + published / 20.0).min(published);
            }
        }
    }

    async fn within<T>(
        &self,
        action: Action,
        call: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        let began_ms = self.clock.monotonic_ms();
        while let Err(wait) = self.take(action) {
            // A long wait is handed back: the step waits without holding a place among the running ones, and
            // its time does not count.
            let held = Duration::from_millis(self.clock.monotonic_ms().saturating_sub(began_ms));
            let held_max = if action.is_look() { LOOK_HELD_MAX } else { HELD_MAX };
            if held + wait > held_max {
                let message = format!("our own budget is spent for {} ms", wait.as_millis());
                return Err(CloudError::coded(action, "RequestLimitExceeded", message));
            }
            self.clock.sleep(wait).await;
        }
        let result = call.await;
        self.troubles.note(action, &result);
        let throttled = result.as_ref().is_err_and(|error| error.class == Class::Throttled);
        self.learn(action, throttled);
        result
    }
}

macro_rules! budgeted {
    ($($action:ident: fn $name:ident(&self $(, $argument:ident: $type:ty)*) -> $result:ty;)*) => {
        #[async_trait]
        impl Cloud for Budgeted {
            fn told_time(&self) -> Option<ToldTime> {
                self.cloud.told_time()
            }
            $(async fn $name(&self $(, $argument: $type)*) -> Result<$result, CloudError> {
                self.within(Action::$action, self.cloud.$name($($argument),*)).await
            })*
        }
    };
}

budgeted! {
    DescribeInstances: fn instances(&self, select: &Select<InstanceId>) -> Vec<InstanceView>;
    DescribeInstances: fn instances_not_running(&self, ids: &[InstanceId]) -> Vec<InstanceView>;
    DescribeVolumes: fn volumes(&self, select: &Select<VolumeId>) -> Vec<VolumeView>;
    DescribeNetworkInterfaces: fn interfaces(&self, select: &Select<InterfaceId>) -> Vec<InterfaceView>;
    DescribeNetworkInterfaces: fn interface_with(&self, subnet: &SubnetId, address: Ipv4Addr) -> Option<InterfaceView>;
    DescribeSnapshots: fn snapshots(&self, select: &Select<SnapshotId>) -> Vec<SnapshotView>;
    DescribeImages: fn images(&self, select: &Select<ImageId>) -> Vec<ImageView>;
    DescribeImages: fn image_named(&self, name: &str) -> Option<ImageView>;
    DescribeSubnets: fn subnets(&self, ids: &[SubnetId]) -> Vec<SubnetView>;
    DescribeInstanceTypes: fn instance_types(&self, query: &TypeQuery) -> Vec<TypeFacts>;
    DescribeInstanceTypeOfferings: fn offered_types(&self, zone: &str) -> BTreeSet<String>;
    DescribeSpotPriceHistory: fn spot_prices(&self, types: &[String], zone: &str, now_ms: u64) -> BTreeMap<String, String>;
    GetSpotPlacementScores: fn placement_score(&self, types: &[String], zone: &str) -> Option<u8>;
    DescribeSpotInstanceRequests: fn spot_requests(&self, select: &Select<SpotRequestId>) -> Vec<SpotRequestView>;
    DescribeSpotInstanceRequests: fn doomed_spot_requests(&self, ids: &[SpotRequestId]) -> Vec<SpotRequestView>;
    DescribeInstanceStatus: fn impaired(&self) -> Vec<ImpairedView>;
    DescribeReplaceRootVolumeTasks: fn root_tasks(&self, instance: &InstanceId) -> Vec<RootTaskView>;
    GetInstanceUefiData: fn uefi_data(&self, instance: &InstanceId) -> Option<String>;
    RunInstances: fn run_instance(&self, request: &LaunchRequest) -> InstanceView;
    TerminateInstances: fn terminate_instance(&self, id: &InstanceId) -> ();
    TerminateInstances: fn force_terminate_instance(&self, id: &InstanceId) -> ();
    CancelSpotInstanceRequests: fn cancel_spot_request(&self, id: &SpotRequestId) -> ();
    ModifyInstanceAttribute: fn preserve_volumes(&self, id: &InstanceId, devices: &[String]) -> ();
    ModifyNetworkInterfaceAttribute: fn preserve_interface(&self, id: &InterfaceId, attachment: &AttachmentId) -> ();
    CreateVolume: fn create_volume(&self, request: &VolumeRequest) -> VolumeId;
    CopyVolumes: fn copy_volume(&self, source: &VolumeId, client_token: &str, tags: &Tags) -> VolumeId;
    DeleteVolume: fn delete_volume(&self, id: &VolumeId) -> ();
    ModifyVolume: fn grow_volume(&self, id: &VolumeId, size_gib: u32) -> ();
    AttachVolume: fn attach_volume(&self, id: &VolumeId, instance: &InstanceId, device: &str) -> ();
    DetachVolume: fn detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> ();
    DetachVolume: fn force_detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> ();
    CreateReplaceRootVolumeTask: fn replace_root(&self, instance: &InstanceId, volume: &VolumeId, client_token: &str, tags: &Tags) -> RootTaskId;
    CreateSnapshot: fn create_snapshot(&self, volume: &VolumeId, description: &str, tags: &Tags) -> SnapshotId;
    CreateSnapshots: fn create_snapshots(&self, request: &SnapshotsRequest) -> Vec<SnapshotId>;
    DeleteSnapshot: fn delete_snapshot(&self, id: &SnapshotId) -> ();
    RegisterImage: fn register_image(&self, request: &ImageRequest) -> ImageId;
    DeregisterImage: fn deregister_image(&self, id: &ImageId) -> ();
    CreateNetworkInterface: fn create_interface(&self, request: &InterfaceRequest) -> InterfaceView;
    DeleteNetworkInterface: fn delete_interface(&self, id: &InterfaceId) -> ();
    ModifyNetworkInterfaceAttribute: fn set_interface_groups(&self, id: &InterfaceId, groups: &[GroupId]) -> ();
    AttachNetworkInterface: fn attach_interface(&self, id: &InterfaceId, instance: &InstanceId, device_index: u32) -> ();
    DetachNetworkInterface: fn detach_interface(&self, attachment: &AttachmentId) -> ();
    AssignPrivateIpAddresses: fn assign_private_ip(&self, id: &InterfaceId, address: Option<Ipv4Addr>, taking: Taking) -> ();
    DescribeAddresses: fn elastic_address(&self, id: &AllocationId) -> Option<ElasticView>;
    AssociateAddress: fn associate_address(&self, id: &AllocationId, interface: &InterfaceId, private_ip: Option<Ipv4Addr>, taking: Taking) -> ();
    UnassignPrivateIpAddresses: fn unassign_private_ip(&self, id: &InterfaceId, address: Ipv4Addr) -> ();
    RunInstances: fn may_run_instances(&self, request: &LaunchRequest) -> ();
    GetCallerIdentity: fn identity(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cloud that is never asked.
    fn budgets() -> Budgeted {
        struct Nobody;
        impl Nobody {
            fn unasked<T>() -> Result<T, CloudError> {
                Err(CloudError::lost(Action::DescribeInstances, "nobody is there"))
            }
        }
        macro_rules! nobody {
            ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
                #[async_trait]
                impl Cloud for Nobody {
                    fn told_time(&self) -> Option<ToldTime> {
                        None
                    }
                    $(async fn $name(&self $(, $argument: $type)*) -> Result<$result, CloudError> {
                        $(let _ = $argument;)*
                        Self::unasked()
                    })*
                }
            };
        }
        nobody! {
            fn instances(s: &Select<InstanceId>) -> Vec<InstanceView>;
            fn instances_not_running(i: &[InstanceId]) -> Vec<InstanceView>;
            fn volumes(s: &Select<VolumeId>) -> Vec<VolumeView>;
            fn interfaces(s: &Select<InterfaceId>) -> Vec<InterfaceView>;
            fn interface_with(s: &SubnetId, a: Ipv4Addr) -> Option<InterfaceView>;
            fn snapshots(s: &Select<SnapshotId>) -> Vec<SnapshotView>;
            fn images(s: &Select<ImageId>) -> Vec<ImageView>;
            fn image_named(n: &str) -> Option<ImageView>;
            fn subnets(i: &[SubnetId]) -> Vec<SubnetView>;
            fn instance_types(q: &TypeQuery) -> Vec<TypeFacts>;
            fn offered_types(z: &str) -> BTreeSet<String>;
            fn spot_prices(t: &[String], z: &str, n: u64) -> BTreeMap<String, String>;
            fn placement_score(t: &[String], z: &str) -> Option<u8>;
            fn spot_requests(s: &Select<SpotRequestId>) -> Vec<SpotRequestView>;
            fn doomed_spot_requests(i: &[SpotRequestId]) -> Vec<SpotRequestView>;
            fn impaired() -> Vec<ImpairedView>;
            fn root_tasks(i: &InstanceId) -> Vec<RootTaskView>;
            fn uefi_data(i: &InstanceId) -> Option<String>;
            fn run_instance(r: &LaunchRequest) -> InstanceView;
            fn terminate_instance(i: &InstanceId) -> ();
            fn force_terminate_instance(i: &InstanceId) -> ();
            fn cancel_spot_request(i: &SpotRequestId) -> ();
            fn preserve_volumes(i: &InstanceId, d: &[String]) -> ();
            fn preserve_interface(i: &InterfaceId, a: &AttachmentId) -> ();
            fn create_volume(r: &VolumeRequest) -> VolumeId;
            fn copy_volume(i: &VolumeId, t: &str, g: &Tags) -> VolumeId;
            fn delete_volume(i: &VolumeId) -> ();
            fn grow_volume(i: &VolumeId, s: u32) -> ();
            fn attach_volume(i: &VolumeId, n: &InstanceId, d: &str) -> ();
            fn detach_volume(i: &VolumeId, n: &InstanceId) -> ();
            fn force_detach_volume(i: &VolumeId, n: &InstanceId) -> ();
            fn replace_root(i: &InstanceId, v: &VolumeId, t: &str, g: &Tags) -> RootTaskId;
            fn create_snapshot(v: &VolumeId, d: &str, g: &Tags) -> SnapshotId;
            fn create_snapshots(r: &SnapshotsRequest) -> Vec<SnapshotId>;
            fn delete_snapshot(i: &SnapshotId) -> ();
            fn register_image(r: &ImageRequest) -> ImageId;
            fn deregister_image(i: &ImageId) -> ();
            fn create_interface(r: &InterfaceRequest) -> InterfaceView;
            fn delete_interface(i: &InterfaceId) -> ();
            fn set_interface_groups(i: &InterfaceId, g: &[GroupId]) -> ();
            fn attach_interface(i: &InterfaceId, m: &InstanceId, n: u32) -> ();
            fn detach_interface(a: &AttachmentId) -> ();
            fn assign_private_ip(i: &InterfaceId, a: Option<Ipv4Addr>, t: Taking) -> ();
            fn elastic_address(i: &AllocationId) -> Option<ElasticView>;
            fn associate_address(i: &AllocationId, n: &InterfaceId, a: Option<Ipv4Addr>, t: Taking) -> ();
            fn unassign_private_ip(i: &InterfaceId, a: Ipv4Addr) -> ();
            fn may_run_instances(r: &LaunchRequest) -> ();
            fn identity() -> String;
        }
        Budgeted::new(Arc::new(Nobody), Clock::scaled(0, 1.0))
    }

    #[tokio::test(start_paused = true)]
    async fn the_burst_is_free_and_then_calls_come_at_the_refill() {
        let budgets = budgets();
        for _ in 0..5 {
            assert_eq!(budgets.take(Action::RunInstances), Ok(()));
        }
        assert_eq!(budgets.take(Action::RunInstances), Err(Duration::from_millis(500)));
        assert_eq!(budgets.take(Action::TerminateInstances), Ok(()), "each action has its own bucket");
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_action_slows_down_and_recovers() {
        let budgets = budgets();
        budgets.take(Action::AttachVolume).unwrap();
        budgets.learn(Action::AttachVolume, true);
        let slow = budgets.take(Action::AttachVolume).unwrap_err();
        assert_eq!(slow, Duration::from_millis(400), "half of five a second");
        for _ in 0..100 {
            budgets.learn(Action::AttachVolume, false);
        }
        assert_eq!(budgets.take(Action::AttachVolume).unwrap_err(), Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_never_nothing() {
        // A refill that is no round number leaves a bucket a hair short of a token: storm seed 1324 asked for
        // ever.
        let budgets = budgets();
        budgets.take(Action::AttachVolume).unwrap();
        if let Some(bucket) = budgets.buckets.lock().unwrap().get_mut(&Action::AttachVolume) {
            bucket.tokens = 1.0 - f64::EPSILON;
        }
        assert_eq!(budgets.take(Action::AttachVolume), Err(TICK));
    }
}
