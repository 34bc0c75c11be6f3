//! The planner: the one owner of what EC2 grants an account in a region, so that our own calls never become
//! the storm, and the most urgent ones go first.
//!
//! A [`Planner`] is a cloud around a cloud: every call of the process goes through it. It has a token bucket
//! for each action, and one for the instances that launches and terminations name (`bucket.rs`, seeded from
//! `published.rs`). A call whose tokens are not there waits in its action's line (`line.rs`).
//!
//! # How a call waits
//! - *An act of a step* ends the pass, which the engine runs again when the turn has come
//!   ([`StepResult::Queued`](perennial_engine::dispatcher::StepResult::Queued)): it waits without a running
//!   slot, no patience of the step is spent, and what it does then rests on looks of then. The tokens are
//!   held for it meanwhile. So does a call of a step that EC2 has throttled all the same: it goes back to its
//!   place, and is not tried again at some moment.
//! - *A look of a step* waits for up to `LOOK_HELD_MAX` in place, and then likewise.
//! - *Other calls* (describes that many steps share, the sweep) wait in place. They go before all others. A
//!   look that had to wait for longer than `SHARED_LOOK_HELD_MAX` is given up, because whoever waits for it
//!   may hold a slot; that takes an account that grants hardly any looks.
//!
//! # What it learns
//! See `bucket.rs`. Whether an account has a bucket for each action is not known for sure (`ec2-semantics`
//! §2.1). A mutating call that is throttled while half of its burst should be left is a sign that it has
//! not, or that others call as well: for ten minutes all mutating calls are also charged to one shared
//! bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::Turn;
use perennial_engine::ids::{StreamId, Token};
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, GroupId, ImageId, InstanceId, InterfaceId, RootTaskId, SnapshotId,
    SpotRequestId, SubnetId, VolumeId,
};
use perennial_workflows::model::survey::TypeFacts;
use tokio::sync::{Notify, oneshot};
use tracing::warn;

use super::line::{Admitted, Lines, Place, Step, Urgency};
use super::trouble::Troubles;
use crate::port::error::{Action, Class, CloudError};
use crate::port::{
    Cloud, ElasticView, ImageRequest, ImageView, ImpairedView, InstanceView, InterfaceRequest, InterfaceView,
    LaunchRequest, RootTaskView, Select, SnapshotView, SnapshotsRequest, SpotRequestView, SubnetView, Tags,
    Taking, ToldTime, TypeQuery, VolumeRequest, VolumeView,
};

/// The longest time that a look of a running step waits in place: most waits for a look are shorter, and
/// every pass begins with one.
const LOOK_HELD_MAX: Duration = Duration::from_secs(1);

/// The longest wait of a look that no step makes for itself; no longer than a few seconds, in which a step
/// would take for watched what was not.
const SHARED_LOOK_HELD_MAX: Duration = Duration::from_secs(15);

/// The largest part of the account's quotas that can be left to others, in percent: the rest must make
/// progress.
pub const RESERVE_MAX_PERCENT: u8 = 90;

/// The part of each of the account's request quotas that is left to its other users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserve(u8);

impl Reserve {
    /// So many percent; `None` beyond [`RESERVE_MAX_PERCENT`].
    #[must_use]
    pub const fn percent(percent: u8) -> Option<Self> {
        if percent <= RESERVE_MAX_PERCENT { Some(Self(percent)) } else { None }
    }

    fn part(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

tokio::task_local! {
    /// The step whose pass runs.
    static SEAT: Seat;
}

/// A pass of a step.
struct Seat {
    step: Step,
    urgency: Urgency,
    /// The turn that a call of it waits for.
    turn: Mutex<Option<Waiting>>,
}

/// Runs a pass of a step. Also returns the turn that one of its calls waits for, if there is one: then the
/// pass is to be run again when it has come.
pub(crate) async fn seated<T>(
    (workflow, token): (&StreamId, Token),
    urgency: Urgency,
    pass: impl Future<Output = T>,
) -> (T, Option<Box<dyn Turn>>) {
    let seat = Seat { step: (workflow.clone(), token), urgency, turn: Mutex::new(None) };
    SEAT.scope(seat, async {
        let ended = pass.await;
        let turn = SEAT.with(|seat| lock(&seat.turn).take());
        (ended, turn.map(|turn| Box::new(turn) as Box<dyn Turn>))
    })
    .await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cloud whose calls wait for their turn.
pub struct Planner {
    cloud: Arc<dyn Cloud>,
    inner: Arc<Inner>,
    troubles: Troubles,
}

struct Inner {
    clock: Clock,
    state: Mutex<State>,
    /// Rung when what is waited for has changed.
    changed: Notify,
}

struct State {
    lines: Lines,
    /// How many looks were given up.
    given_up: u64,
    /// Whether a task serves the lines.
    is_served: bool,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Lets a task serve the lines until they are empty.
    fn see_to_it(self: &Arc<Self>) {
        self.changed.notify_one();
        if !std::mem::replace(&mut self.state().is_served, true) {
            tokio::spawn(serve(Arc::clone(self)));
        }
    }
}

/// Serves the lines until they are empty.
async fn serve(inner: Arc<Inner>) {
    loop {
        let next = {
            let mut state = inner.state();
            let next = state.lines.serve(inner.clock.monotonic_ms());
            state.is_served = next.is_some();
            next
        };
        let Some(next) = next else { return };
        tokio::select! {
            biased;
            () = inner.changed.notified() => {}
            () = inner.clock.sleep(next) => {}
        }
    }
}

/// A call that waits in a line.
struct Waiting {
    inner: Arc<Inner>,
    action: Action,
    count: u32,
    place: Place,
    step: Option<Step>,
    come: oneshot::Receiver<()>,
    has_come: bool,
    /// What EC2 answered, if it was called before.
    refused: Option<String>,
}

#[async_trait]
impl Turn for Waiting {
    async fn come(&mut self) {
        if !self.has_come {
            // Whoever serves leaves no waiter without a word.
            let _ = (&mut self.come).await;
            self.has_come = true;
        }
    }

    fn because(&self) -> String {
        let now_ms = self.inner.clock.monotonic_ms();
        let mut state = self.inner.state();
        let outlook = state.lines.outlook(self.action, &self.place, now_ms);
        let of = if state.lines.is_shared() && !self.action.is_look() { "all acts" } else { "them" };
        drop(state);
        let turn = format!(
            "{} waits for its turn under EC2's request quotas: {} of {} in line, in about {} s ({:.1} of {of} a second)",
            self.action,
            outlook.place,
            outlook.of.max(outlook.place),
            outlook.expected_in.as_secs_f64().ceil(),
            outlook.refill,
        );
        match &self.refused {
            Some(refused) => format!("{refused}; {turn}"),
            None => turn,
        }
    }

    fn expected_in(&self) -> Duration {
        let now_ms = self.inner.clock.monotonic_ms();
        self.inner.state().lines.outlook(self.action, &self.place, now_ms).expected_in
    }

    fn was_refused(&self) -> bool {
        self.refused.is_some()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        {
            let mut state = self.inner.state();
            state.lines.leave(self.action, &self.place);
            match &self.step {
                Some(step) => state.lines.turn_ends(step),
                // It went away between the word and the call.
                None if !self.has_come && self.come.try_recv().is_ok() => {
                    state.lines.not_used(self.action, self.count);
                }
                None => {}
            }
        }
        self.inner.changed.notify_one();
    }
}

/// Tokens that are held for a pass.
pub(crate) struct Held {
    inner: Arc<Inner>,
    step: Step,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.state().lines.turn_ends(&self.step);
        self.inner.changed.notify_one();
    }
}

impl Planner {
    /// A planner around a cloud.
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>, clock: Clock, reserve: Reserve) -> Self {
        let troubles = Troubles::new(clock.clone());
        let state = State { lines: Lines::new(reserve.part()), given_up: 0, is_served: false };
        let inner = Inner { clock, state: Mutex::new(state), changed: Notify::new() };
        Self { cloud, inner: Arc::new(inner), troubles }
    }

    /// How many looks that are shared were given up because they waited for too long.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.inner.state().given_up
    }

    /// Holds the tokens of a call for the step whose pass runs, unless they are held already.
    ///
    /// # Errors
    /// What the step waits for, to whose turn the pass leads.
    pub(crate) fn ahead(&self, action: Action) -> Result<Option<Held>, String> {
        let Ok(step) = SEAT.try_with(|seat| seat.step.clone()) else { return Ok(None) };
        let now_ms = self.inner.clock.monotonic_ms();
        let mut state = self.inner.state();
        if state.lines.holds(&step, action) {
            return Ok(None);
        }
        if state.lines.hold(&step, action, now_ms) {
            drop(state);
            return Ok(Some(Held { inner: Arc::clone(&self.inner), step }));
        }
        drop(state);
        let waiting = self.join(action, 1, None);
        let because = waiting.because();
        queue(waiting);
        Err(because)
    }

    fn join(&self, action: Action, count: u32, refused: Option<String>) -> Waiting {
        let inner = Arc::clone(&self.inner);
        let now_ms = inner.clock.monotonic_ms();
        let seat = SEAT.try_with(|seat| (seat.urgency, seat.step.clone())).ok();
        let (urgency, step) = match seat {
            Some((urgency, step)) => (urgency, Some(step)),
            None => (Urgency::of_many(inner.clock.now_ms()), None),
        };
        let (place, come) = inner.state().lines.join(action, count, urgency, step.clone(), now_ms);
        let waiting = Waiting { inner, action, count, place, step, come, has_come: false, refused };
        self.inner.see_to_it();
        waiting
    }

    /// Takes the tokens of a call, or waits for them. An error: the step waits, and looks again then.
    async fn admit(&self, action: Action, count: u32) -> Result<Admitted, CloudError> {
        let step = SEAT.try_with(|seat| seat.step.clone()).ok();
        let at_once = {
            let now_ms = self.inner.clock.monotonic_ms();
            let lines = &mut self.inner.state().lines;
            let granted = step.as_ref().and_then(|step| lines.use_granted(step, action));
            granted.or_else(|| lines.take(action, count, now_ms))
        };
        if let Some(admitted) = at_once {
            return Ok(admitted);
        }
        let mut waiting = self.join(action, count, None);
        let held_max = match (&step, action.is_look()) {
            (Some(_), false) => Some(Duration::ZERO),
            (Some(_), true) => Some(LOOK_HELD_MAX),
            (None, true) => Some(SHARED_LOOK_HELD_MAX),
            (None, false) => None,
        };
        let come = match held_max {
            Some(Duration::ZERO) => false,
            Some(held_max) => tokio::select! {
                biased;
                () = waiting.come() => true,
                () = self.inner.clock.sleep(held_max) => false,
            },
            None => {
                waiting.come().await;
                true
            }
        };
        if come {
            let at_ms = self.inner.clock.monotonic_ms();
            let granted = step.and_then(|step| self.inner.state().lines.use_granted(&step, action));
            return Ok(granted.unwrap_or(Admitted { at_ms, waited: true, had_half: false }));
        }
        let because = waiting.because();
        if step.is_none() {
            warn!(%action, %because, "a look is given up for now");
            self.inner.state().given_up += 1;
        }
        queue(waiting);
        Err(CloudError::coded(action, "RequestLimitExceeded", because))
    }

    async fn within<T>(
        &self,
        action: Action,
        count: u32,
        call: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        let admitted = self.admit(action, count).await?;
        let result = call.await;
        self.troubles.note(action, &result);
        let throttled = result.as_ref().err().filter(|error| error.class == Class::Throttled);
        let now_ms = self.inner.clock.monotonic_ms();
        self.inner.state().lines.learn(action, admitted, throttled.is_some(), now_ms);
        self.inner.changed.notify_one();
        if let Some(error) = throttled
            && SEAT.try_with(|_| ()).is_ok()
        {
            queue(self.join(action, count, Some(error.to_string())));
        }
        result
    }
}

/// Lets the pass that runs wait for this, unless it waits already. What no pass waits for leaves the line.
fn queue(waiting: Waiting) {
    let _ = SEAT.try_with(|seat| {
        lock(&seat.turn).get_or_insert(waiting);
    });
}

macro_rules! planned {
    ($($action:ident: fn $name:ident(&self $(, $argument:ident: $type:ty)*) -> $result:ty;)*) => {
        #[async_trait]
        impl Cloud for Planner {
            fn told_time(&self) -> Option<ToldTime> {
                self.cloud.told_time()
            }
            $(async fn $name(&self $(, $argument: $type)*) -> Result<$result, CloudError> {
                // Each of our calls is about one instance at most.
                self.within(Action::$action, 1, self.cloud.$name($($argument),*)).await
            })*
        }
    };
}

planned! {
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A cloud that answers every call with an error, and throttles so many first.
    struct Absent {
        throttles: AtomicU32,
        asked: AtomicU32,
    }

    impl Absent {
        fn answer(&self) -> CloudError {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let less = |left: u32| left.checked_sub(1);
            match self.throttles.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
                Ok(_) => CloudError::coded(Action::AttachVolume, "RequestLimitExceeded", "slow down"),
                Err(_) => CloudError::lost(Action::AttachVolume, "nothing is there"),
            }
        }
    }

    macro_rules! absent {
        ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
            #[async_trait]
            impl Cloud for Absent {
                fn told_time(&self) -> Option<ToldTime> {
                    None
                }
                $(async fn $name(&self $(, $argument: $type)*) -> Result<$result, CloudError> {
                    $(let _ = $argument;)*
                    Err(self.answer())
                })*
            }
        };
    }
    absent! {
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

    struct Desk {
        planner: Planner,
        absent: Arc<Absent>,
    }

    impl Desk {
        fn new(throttles: u32) -> Self {
            let absent = Arc::new(Absent { throttles: throttles.into(), asked: 0.into() });
            let planner = Planner::new(Arc::clone(&absent) as Arc<dyn Cloud>, clock(), Reserve::default());
            Self { planner, absent }
        }

        fn asked(&self) -> u32 {
            self.absent.asked.load(Ordering::SeqCst)
        }

        /// A pass of a step that attaches a volume; whether it queues.
        async fn attaches(&self, n: u64) -> Option<Box<dyn Turn>> {
            let (workflow, urgency) = (stream(n), Urgency::of_step(0, None, n));
            let call = async {
                self.planner.attach_volume(&volume(), &instance(), "/dev/sdf").await.unwrap_err();
            };
            seated((&workflow, Token(n)), urgency, call).await.1
        }

        /// Takes every token of attaches.
        async fn spend(&self) {
            for n in 1_000.. {
                if self.attaches(n).await.is_some() {
                    return;
                }
            }
        }
    }

    fn clock() -> Clock {
        Clock::scaled(0, 1.0)
    }

    fn stream(n: u64) -> StreamId {
        StreamId::parse(&format!("workflow/n-{n}.1")).unwrap()
    }

    fn volume() -> VolumeId {
        VolumeId::parse("vol-0123456789abcdef0").unwrap()
    }

    fn instance() -> InstanceId {
        InstanceId::parse("i-0123456789abcdef0").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_act_without_tokens_is_not_called_until_the_turn_of_its_step_has_come() {
        let desk = Desk::new(0);
        desk.spend().await;
        let asked = desk.asked();
        let mut second = desk.attaches(2).await.expect("it waits");
        let mut first = desk.attaches(1).await.expect("it waits");
        assert_eq!(desk.asked(), asked, "the call was not made");
        assert!(
            first.because().contains("1 of 2 in line, in about 1 s (5.0 of them a second)"),
            "{}",
            first.because()
        );
        assert!(second.because().contains("2 of 2 in line"), "the older step is first: {}", second.because());
        let began = tokio::time::Instant::now();
        first.come().await;
        assert_eq!(began.elapsed().as_millis(), 200);
        assert!(desk.attaches(3).await.is_some(), "it is held for the first");
        assert!(desk.attaches(1).await.is_none());
        assert_eq!(desk.asked(), asked + 1);
        second.come().await;
        assert_eq!(began.elapsed().as_millis(), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_ends_unused_is_the_next_ones() {
        let desk = Desk::new(0);
        desk.spend().await;
        let mut first = desk.attaches(1).await.expect("it waits");
        let mut second = desk.attaches(2).await.expect("it waits");
        let third = desk.attaches(3).await.expect("it waits");
        first.come().await;
        drop(first);
        drop(third);
        let began = tokio::time::Instant::now();
        second.come().await;
        assert!(began.elapsed() < Duration::from_millis(5), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ec2_throttles_goes_back_to_its_place() {
        let desk = Desk::new(1);
        let mut turn = desk.attaches(1).await.expect("it was throttled");
        assert!(turn.because().contains("slow down; AttachVolume waits"), "{}", turn.because());
        turn.come().await;
        assert!(desk.attaches(1).await.is_none(), "it is answered now");
        assert_eq!(desk.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_needs_two_scarce_calls_keeps_the_first_while_it_waits_for_the_second() {
        let desk = Desk::new(0);
        let pass = || async {
            let (workflow, urgency) = (stream(1), Urgency::of_step(0, None, 1));
            let calls = async {
                let run =
                    desk.planner.cancel_spot_request(&SpotRequestId::parse("sir-12345678").unwrap()).await;
                if run.is_err_and(|error| error.class != Class::Throttled) {
                    let _ = desk.planner.attach_volume(&volume(), &instance(), "/dev/sdf").await;
                }
            };
            seated((&workflow, Token(1)), urgency, calls).await.1
        };
        let cancels = async |n: u64| {
            let (workflow, urgency) = (stream(n), Urgency::of_step(0, None, n));
            let call = async {
                desk.planner
                    .cancel_spot_request(&SpotRequestId::parse("sir-12345678").unwrap())
                    .await
                    .unwrap_err();
            };
            seated((&workflow, Token(n)), urgency, call).await.1
        };
        // Both are spent by others again and again.
        let mut held = None;
        let mut passes = 0;
        loop {
            desk.spend().await;
            while cancels(1_000).await.is_none() {}
            passes += 1;
            let Some(mut turn) = pass().await else { break };
            turn.come().await;
            held.replace(turn);
            assert!(passes < 5, "it never has both");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_no_step_makes_waits_in_place_and_is_given_up_at_last() {
        let desk = Desk::new(0);
        let look = || async { desk.planner.volumes(&Select::Ids(vec![volume()])).await.unwrap_err() };
        for _ in 0..200 {
            look().await;
        }
        assert_eq!((desk.asked(), desk.planner.given_up()), (200, 0), "a hundred wait, for five seconds");
        desk.absent.throttles.store(1_000, Ordering::SeqCst);
        for _ in 0..10 {
            look().await;
        }
        let given_up = tokio::join!(look(), look(), look()).2;
        assert!(desk.planner.given_up() > 0, "the third would wait for half a minute");
        assert!(given_up.message.contains("in line"), "{given_up}");
    }
}
