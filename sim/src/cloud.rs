//! The region behind the port: [`SimRegion`] is a [`World`] with a clock, latencies, faults and crash points.
//!
//! # A call
//! 1. It is counted, and the hook is asked (`Before`).
//! 2. Two thirds of its latency pass (and a [`Fault::Delay`]).
//! 3. A fault may end it here: refused, or never arrived.
//! 4. It takes effect, at the clock's time. The hook is asked (`After`).
//! 5. A fault may spoil the answer: another code, or none.
//! 6. The rest of the latency passes; the answer arrives.
//!
//! A call whose future is dropped before 4 had no effect; afterwards it had its effect, without an answer.
//!
//! # Dying at a call
//! The hook answers [`CallVerdict`]: `Go`; `Hang`, this call never returns; or `Kill`, this call and every
//! other that is made through the same *connection* never return, and none of them takes effect any more. A
//! connection stands for a process: clones of a [`SimRegion`] share one, [`SimRegion::connect`] makes a new
//! one to the same world. `Before` with `Kill` is a death before the request was sent, `After` with `Kill`
//! one before the answer arrived. The test learns of it ([`SimRegion::died`]), drops its engine, and opens
//! another one on a new connection.
//!
//! # Time
//! World time is the clock's, so under tokio's paused time it is virtual. Transitions happen at calls, and
//! while [`SimRegion::run`] is polled, which also delivers events at their time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_workers::port::error::{Action, CloudError};
use perennial_workers::port::{
    Cloud, ElasticView, ImageRequest, ImageView, ImpairedView, InstanceView, InterfaceRequest, InterfaceView,
    LaunchNetwork, LaunchRequest, RootTaskView, Select, SnapshotView, SnapshotsRequest, SpotRequestView,
    SubnetView, Tags, Taking, ToldTime, TypeQuery, VolumeRequest, VolumeView,
};
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, RootTaskId,
    SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use perennial_workflows::model::installation::INSTALLATION_TAG;
use perennial_workflows::model::survey::TypeFacts;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::faults::{Fault, Faults, Rule};
use crate::policy::{Asked, Policy};
use crate::world::catalogue::SCORED_TYPES_MIN;
use crate::world::settings::Settings;
use crate::world::{
    ACCOUNT, ApiError, Destination, Detach, ModifyVolume, Reassignment, RunInstances, SnapshotSet,
    Termination, World,
};

/// How many calls the log keeps; enough for the longest simulation, small enough for a region that runs for
/// days.
const CALL_LOG_MAX: usize = 100_000;

/// A moment at which a process may die: before or after the effect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallPoint {
    /// The number of the call over all connections, from 0.
    pub index: u64,
    /// The call.
    pub action: Action,
    /// Before or after its effect.
    pub phase: Phase,
}

/// The sides of a call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has happened yet.
    Before,
    /// It has happened, and no answer was given.
    After,
}

/// The hook's decision about a call at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallVerdict {
    /// It goes on.
    Go,
    /// It never returns.
    Hang,
    /// The process behind the connection dies here: none of its calls returns or takes effect any more.
    Kill,
}

/// Asked at every point.
pub type Hook = Arc<dyn Fn(&CallPoint) -> CallVerdict + Send + Sync>;

/// One finished call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// When it took effect or failed, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The call.
    pub action: Action,
    /// The answer: nothing, or a code (empty when no answer came).
    pub answer: Result<(), String>,
}

/// A connection to a simulated region.
#[derive(Clone)]
pub struct SimRegion {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

struct Shared {
    world: Mutex<World>,
    clock: Clock,
    faults: Mutex<Faults>,
    calls: Mutex<Calls>,
    hook: Mutex<Option<Hook>>,
    deeds: Mutex<Deeds>,
    checks: Mutex<Checks>,
    /// Something was scheduled, or told.
    changed: Notify,
}

#[derive(Default)]
struct Connection {
    dead: AtomicBool,
    died: Notify,
    /// The installation that calls.
    installation: Option<String>,
    /// What it may do; without one, everything.
    policy: Option<Arc<Policy>>,
}

/// What policies said to the calls of all connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    /// The statements without which one of the calls would have been refused.
    pub needed: BTreeSet<String>,
    /// The messages of the refusals, each once.
    pub refused: BTreeSet<String>,
}

/// What calls did to objects that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Acts on objects that carry the tag of another installation than the caller's: when, the call, the
    /// object, and who.
    pub trespasses: Vec<String>,
    /// The volumes that DeleteVolume was called for.
    pub deleted_volumes: BTreeSet<VolumeId>,
}

#[derive(Default)]
struct Calls {
    count: u64,
    log: VecDeque<CallRecord>,
}

impl fmt::Debug for SimRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRegion").field("dead", &self.is_dead()).finish_non_exhaustive()
    }
}

impl SimRegion {
    /// A new region at the clock's time.
    #[must_use]
    pub fn new(settings: Settings, clock: Clock) -> Self {
        let seed = settings.seed;
        let world = World::new(settings, clock.now_ms());
        let shared = Shared {
            world: Mutex::new(world),
            clock,
            faults: Mutex::new(Faults::none(seed)),
            calls: Mutex::default(),
            hook: Mutex::default(),
            deeds: Mutex::default(),
            checks: Mutex::default(),
            changed: Notify::new(),
        };
        Self { shared: Arc::new(shared), connection: Arc::default() }
    }

    /// Another connection to the same region, as of another process.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), connection: Arc::default() }
    }

    /// The same, as of a process of this installation: its acts on what is another one's are noted.
    #[must_use]
    pub fn connect_as(&self, installation: &str) -> Self {
        let connection = Connection { installation: Some(installation.to_owned()), ..Connection::default() };
        Self { shared: Arc::clone(&self.shared), connection: Arc::new(connection) }
    }

    /// What calls did to objects that exist.
    #[must_use]
    pub fn deeds(&self) -> Deeds {
        lock(&self.shared.deeds).clone()
    }

    /// The same, as of a process that may do only what this policy allows.
    #[must_use]
    pub fn under(&self, policy: Arc<Policy>) -> Self {
        let installation = self.connection.installation.clone();
        let connection = Connection { installation, policy: Some(policy), ..Connection::default() };
        Self { shared: Arc::clone(&self.shared), connection: Arc::new(connection) }
    }

    /// What policies said until now.
    #[must_use]
    pub fn checks(&self) -> Checks {
        lock(&self.shared.checks).clone()
    }

    /// The clock of the region.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Does something with the world at the clock's time, outside of every call: sets capacity, interrupts,
    /// writes, checks.
    pub fn with<T>(&self, f: impl FnOnce(&mut World, u64) -> T) -> T {
        let now_ms = self.shared.clock.now_ms();
        let result = {
            let mut world = lock(&self.shared.world);
            world.advance(now_ms);
            f(&mut world, now_ms)
        };
        self.shared.changed.notify_one();
        result
    }

    /// Applies the transitions that are due.
    pub fn advance_now(&self) {
        self.with(|_, _| ());
    }

    /// The events told since the last time, as a queue would carry them. Not together with
    /// [`run`](Self::run), which takes them too.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.with(|world, _| world.take_events()).iter().map(ToString::to_string).collect()
    }

    /// Lets time pass in the region between calls, and sends every event at its time. Ends when the receiver
    /// is gone. One of these per region.
    pub async fn run(&self, events: mpsc::Sender<String>) {
        loop {
            let (told, due_ms) = {
                let mut world = lock(&self.shared.world);
                world.advance(self.shared.clock.now_ms());
                (world.take_events(), world.next_due_ms())
            };
            for event in told {
                if events.send(event.to_string()).await.is_err() {
                    return;
                }
            }
            let due = async {
                match due_ms {
                    Some(due_ms) => self.shared.clock.sleep_until_ms(due_ms).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.shared.changed.notified() => {}
                () = events.closed() => return,
            }
        }
    }

    /// Adds trouble.
    pub fn inject(&self, rule: Rule) {
        lock(&self.shared.faults).add(rule);
    }

    /// Ends this trouble.
    pub fn withdraw(&self, rule: &Rule) {
        lock(&self.shared.faults).remove(rule);
    }

    /// Ends all trouble.
    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Asks this hook at every point from now on; `None` removes it.
    pub fn on_call(&self, hook: Option<Hook>) {
        *lock(&self.shared.hook) = hook;
    }

    /// Kills the process behind this connection now.
    pub fn kill(&self) {
        self.connection.dead.store(true, Ordering::SeqCst);
        self.connection.died.notify_waiters();
    }

    /// Whether the process behind this connection was killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.connection.dead.load(Ordering::SeqCst)
    }

    /// Waits until the process behind this connection is killed.
    pub async fn died(&self) {
        let died = self.connection.died.notified();
        tokio::pin!(died);
        died.as_mut().enable();
        if !self.is_dead() {
            died.await;
        }
    }

    /// The finished calls of all connections, oldest first; the newest hundred thousand.
    #[must_use]
    pub fn calls(&self) -> Vec<CallRecord> {
        lock(&self.shared.calls).log.iter().cloned().collect()
    }

    /// How many calls were begun.
    #[must_use]
    pub fn call_count(&self) -> u64 {
        lock(&self.shared.calls).count
    }

    /// Whether the policy, if there is one, allows a call.
    fn authorize(&self, world: &World, asked: &Asked) -> Result<(), ApiError> {
        let Some(policy) = &self.connection.policy else { return Ok(()) };
        let answer = policy.check(world, asked);
        let mut checks = lock(&self.shared.checks);
        match answer {
            Ok(needed) => checks.needed.extend(needed),
            Err(refusal) => {
                checks.refused.insert(refusal.message.clone());
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// A call that a policy looks at in this way.
    async fn call_asking<T: Send>(
        &self,
        action: Action,
        asked: Asked,
        act: impl FnOnce(&mut World, u64) -> Result<T, ApiError> + Send,
    ) -> Result<T, CloudError> {
        self.pass_through(action, |world, now_ms| {
            self.authorize(world, &asked)?;
            act(world, now_ms)
        })
        .await
    }

    /// A call that names no object.
    async fn call<T: Send>(
        &self,
        action: Action,
        act: impl FnOnce(&mut World, u64) -> Result<T, ApiError> + Send,
    ) -> Result<T, CloudError> {
        self.call_asking(action, Asked::to(action), act).await
    }

    /// A call that acts on objects, by id.
    async fn call_on<T: Send>(
        &self,
        action: Action,
        objects: &[&str],
        act: impl FnOnce(&mut World, u64) -> Result<T, ApiError> + Send,
    ) -> Result<T, CloudError> {
        self.call_on_asking(action, objects, Asked::to(action).on(objects), act).await
    }

    /// The same, that a policy looks at in this way.
    async fn call_on_asking<T: Send>(
        &self,
        action: Action,
        objects: &[&str],
        asked: Asked,
        act: impl FnOnce(&mut World, u64) -> Result<T, ApiError> + Send,
    ) -> Result<T, CloudError> {
        self.call_asking(action, asked, |world, now_ms| {
            self.note(world, action, objects);
            act(world, now_ms)
        })
        .await
    }

    fn note(&self, world: &World, action: Action, objects: &[&str]) {
        let mut deeds = lock(&self.shared.deeds);
        if action == Action::DeleteVolume {
            deeds.deleted_volumes.extend(objects.iter().filter_map(|id| VolumeId::parse(id).ok()));
        }
        let Some(ours) = &self.connection.installation else { return };
        let touched = world.all_tagged().filter(|known| objects.contains(&known.id.as_str()));
        deeds.trespasses.extend(touched.filter_map(|known| {
            let theirs = known.tags.get(INSTALLATION_TAG).filter(|theirs| *theirs != ours)?;
            let at_ms = self.shared.clock.now_ms();
            Some(format!("{at_ms}: {action} of {ours} on {} of {theirs}", known.id))
        }));
    }

    /// A call, on its way there and back.
    async fn pass_through<T: Send>(
        &self,
        action: Action,
        act: impl FnOnce(&mut World, u64) -> Result<T, ApiError> + Send,
    ) -> Result<T, CloudError> {
        let index = {
            let mut calls = lock(&self.shared.calls);
            calls.count += 1;
            calls.count - 1
        };
        self.pass(CallPoint { index, action, phase: Phase::Before }).await;
        let latency_ms = lock(&self.shared.world).call_latency(action);
        let fault = lock(&self.shared.faults).strike(action);
        let there_ms = latency_ms * 2 / 3;
        self.wait(there_ms).await;
        if let Some(Fault::Delay(delay)) = &fault {
            self.shared.clock.sleep(*delay).await;
        }
        self.stop_if_dead().await;
        let result = match &fault {
            Some(Fault::Before(code)) => Err(CloudError::coded(action, code, "injected, without effect")),
            Some(Fault::LostRequest) => Err(CloudError::lost(action, "injected: the request was lost")),
            _ => self.with(act).map_err(|refusal| CloudError::coded(action, &refusal.code, refusal.message)),
        };
        self.pass(CallPoint { index, action, phase: Phase::After }).await;
        let result = match fault {
            Some(Fault::After(code)) => Err(CloudError::coded(action, &code, "injected, after the effect")),
            Some(Fault::LostReply) => Err(CloudError::lost(action, "injected: the answer was lost")),
            _ => result,
        };
        self.record(action, result.as_ref().map(|_| ()));
        self.wait(latency_ms - there_ms).await;
        self.stop_if_dead().await;
        result
    }

    async fn wait(&self, ms: u64) {
        if ms > 0 {
            self.shared.clock.sleep(Duration::from_millis(ms)).await;
        }
    }

    async fn pass(&self, point: CallPoint) {
        self.stop_if_dead().await;
        let hook = lock(&self.shared.hook).clone();
        match hook.map_or(CallVerdict::Go, |hook| hook(&point)) {
            CallVerdict::Go => {}
            CallVerdict::Hang => std::future::pending::<()>().await,
            CallVerdict::Kill => {
                self.kill();
                std::future::pending::<()>().await;
            }
        }
    }

    async fn stop_if_dead(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    fn record(&self, action: Action, answer: Result<(), &CloudError>) {
        let record = CallRecord {
            at_ms: self.shared.clock.now_ms(),
            action,
            answer: answer.map_err(|error| error.code.clone()),
        };
        tracing::trace!(action = %record.action, answer = ?record.answer, "simulated call");
        let mut calls = lock(&self.shared.calls);
        if calls.log.len() == CALL_LOG_MAX {
            calls.log.pop_front();
        }
        calls.log.push_back(record);
    }
}

/// A panic elsewhere must not hide behind a poisoned lock: the data it left are read all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a launch asks for.
fn launch_asks(request: &LaunchRequest) -> Asked {
    let snapshots = request.volumes.iter().map(|volume| &volume.snapshot);
    let asked = Asked {
        key_pair: request.key_name.clone(),
        profile: request.instance_profile.clone(),
        ..Asked::to(Action::RunInstances)
    };
    let templates = request.template.iter().map(|template| &template.id);
    let asked = asked.on([&request.image]).on(templates).on(snapshots).making("instance", &request.tags);
    let asked = asked.making("volume", &request.tags);
    let asked = match &request.network {
        LaunchNetwork::Existing(interface) => asked.on([interface]),
        LaunchNetwork::New { subnet, groups } => {
            asked.on([subnet]).on(groups).making("network-interface", &request.tags)
        }
    };
    match request.market {
        Market::Spot => asked.making("spot-instances-request", &request.tags),
        Market::OnDemand => asked,
    }
}

#[async_trait]
impl Cloud for SimRegion {
    fn told_time(&self) -> Option<ToldTime> {
        (self.call_count() > 0).then(|| ToldTime { at_ms: self.shared.clock.now_ms(), heard: Instant::now() })
    }

    async fn instances(&self, select: &Select<InstanceId>) -> Result<Vec<InstanceView>, CloudError> {
        self.call(Action::DescribeInstances, |world, now| world.describe_instances(now, select)).await
    }

    async fn instances_not_running(&self, ids: &[InstanceId]) -> Result<Vec<InstanceView>, CloudError> {
        self.call(Action::DescribeInstances, |world, now| {
            let mut found = world.describe_instances(now, &Select::Ids(ids.to_vec()))?;
            found.retain(|view| view.state != InstanceState::Running);
            Ok(found)
        })
        .await
    }

    async fn volumes(&self, select: &Select<VolumeId>) -> Result<Vec<VolumeView>, CloudError> {
        self.call(Action::DescribeVolumes, |world, now| world.describe_volumes(now, select)).await
    }

    async fn interfaces(&self, select: &Select<InterfaceId>) -> Result<Vec<InterfaceView>, CloudError> {
        self.call(Action::DescribeNetworkInterfaces, |world, now| world.describe_interfaces(now, select))
            .await
    }

    async fn interface_with(
        &self,
        subnet: &SubnetId,
        address: Ipv4Addr,
    ) -> Result<Option<InterfaceView>, CloudError> {
        self.call(Action::DescribeNetworkInterfaces, |world, now| {
            world.describe_interface_with(now, subnet, address)
        })
        .await
    }

    async fn snapshots(&self, select: &Select<SnapshotId>) -> Result<Vec<SnapshotView>, CloudError> {
        self.call(Action::DescribeSnapshots, |world, now| world.describe_snapshots(now, select)).await
    }

    async fn images(&self, select: &Select<ImageId>) -> Result<Vec<ImageView>, CloudError> {
        self.call(Action::DescribeImages, |world, now| world.describe_images(now, select)).await
    }

    async fn image_named(&self, name: &str) -> Result<Option<ImageView>, CloudError> {
        self.call(Action::DescribeImages, |world, now| world.describe_image_named(now, name)).await
    }

    async fn subnets(&self, ids: &[SubnetId]) -> Result<Vec<SubnetView>, CloudError> {
        self.call(Action::DescribeSubnets, |world, now| world.describe_subnets(now, ids)).await
    }

    async fn instance_types(&self, query: &TypeQuery) -> Result<Vec<TypeFacts>, CloudError> {
        self.call(Action::DescribeInstanceTypes, |world, now| world.describe_types(now, query)).await
    }

    async fn offered_types(&self, zone: &str) -> Result<BTreeSet<String>, CloudError> {
        self.call(Action::DescribeInstanceTypeOfferings, |world, now| world.describe_offered(now, zone)).await
    }

    async fn spot_prices(
        &self,
        types: &[String],
        zone: &str,
        now_ms: u64,
    ) -> Result<BTreeMap<String, String>, CloudError> {
        self.call(Action::DescribeSpotPriceHistory, |world, now| {
            world.begin_read(now, "DescribeSpotPriceHistory")?;
            let offered = types.iter().filter(|name| world.offers(name, zone));
            let newest = offered.filter_map(|name| world.spot_prices(name, zone, now_ms).into_iter().next());
            Ok(newest.map(|price| (price.instance_type.clone(), price.dollars())).collect())
        })
        .await
    }

    async fn placement_score(&self, types: &[String], zone: &str) -> Result<Option<u8>, CloudError> {
        self.call(Action::GetSpotPlacementScores, |world, now| {
            world.begin_read(now, "GetSpotPlacementScores")?;
            let few = types.len() < SCORED_TYPES_MIN;
            if few {
                return Ok(Some(1));
            }
            world.placement_score(types, 1, zone).map(Some)
        })
        .await
    }

    async fn spot_requests(
        &self,
        select: &Select<SpotRequestId>,
    ) -> Result<Vec<SpotRequestView>, CloudError> {
        self.call(Action::DescribeSpotInstanceRequests, |world, now| {
            world.describe_spot_requests(now, select)
        })
        .await
    }

    async fn doomed_spot_requests(&self, ids: &[SpotRequestId]) -> Result<Vec<SpotRequestView>, CloudError> {
        self.call(Action::DescribeSpotInstanceRequests, |world, now| {
            let mut found = world.describe_spot_requests(now, &Select::Ids(ids.to_vec()))?;
            found.retain(SpotRequestView::is_doomed);
            Ok(found)
        })
        .await
    }

    async fn impaired(&self) -> Result<Vec<ImpairedView>, CloudError> {
        self.call(Action::DescribeInstanceStatus, |world, now| {
            world.begin_read(now, "DescribeInstanceStatus")?;
            Ok(world.impaired())
        })
        .await
    }

    async fn root_tasks(&self, instance: &InstanceId) -> Result<Vec<RootTaskView>, CloudError> {
        self.call(Action::DescribeReplaceRootVolumeTasks, |world, now| {
            world.describe_root_tasks(now, instance)
        })
        .await
    }

    async fn uefi_data(&self, instance: &InstanceId) -> Result<Option<String>, CloudError> {
        let asked = Asked::to(Action::GetInstanceUefiData).on([instance]);
        self.call_asking(Action::GetInstanceUefiData, asked, |world, now| world.uefi_data(now, instance))
            .await
    }

    async fn run_instance(&self, request: &LaunchRequest) -> Result<InstanceView, CloudError> {
        let asked = launch_asks(request);
        let request = RunInstances::from(request);
        self.call_asking(Action::RunInstances, asked, move |world, now| world.run_instances(now, &request))
            .await
    }

    async fn terminate_instance(&self, id: &InstanceId) -> Result<(), CloudError> {
        self.call_on(Action::TerminateInstances, &[id.as_str()], |world, now| {
            world.terminate_instances(now, id).map(|_| ())
        })
        .await
    }

    async fn force_terminate_instance(&self, id: &InstanceId) -> Result<(), CloudError> {
        self.call_on(Action::TerminateInstances, &[id.as_str()], |world, now| {
            world.terminate_all(now, std::slice::from_ref(id), Termination::Forced).map(|_| ())
        })
        .await
    }

    async fn cancel_spot_request(&self, id: &SpotRequestId) -> Result<(), CloudError> {
        self.call_on(Action::CancelSpotInstanceRequests, &[id.as_str()], |world, now| {
            world.cancel_spot_request(now, id)
        })
        .await
    }

    async fn preserve_volumes(&self, id: &InstanceId, devices: &[String]) -> Result<(), CloudError> {
        let action = Action::ModifyInstanceAttribute;
        let asked = Asked { devices: devices.to_vec(), ..Asked::to(action).on([id]) };
        let devices: Vec<_> = devices.iter().map(|device| (device.clone(), false)).collect();
        self.call_on_asking(action, &[id.as_str()], asked, move |world, now| {
            world.modify_delete_on_termination(now, id, &devices)
        })
        .await
    }

    async fn preserve_interface(
        &self,
        id: &InterfaceId,
        attachment: &AttachmentId,
    ) -> Result<(), CloudError> {
        self.call_on(Action::ModifyNetworkInterfaceAttribute, &[id.as_str()], |world, now| {
            world.modify_interface_delete_on_termination(now, id, attachment, false)
        })
        .await
    }

    async fn create_volume(&self, request: &VolumeRequest) -> Result<VolumeId, CloudError> {
        let asked = Asked::to(Action::CreateVolume).on(&request.snapshot).making("volume", &request.tags);
        self.call_asking(Action::CreateVolume, asked, |world, now| world.create_volume(now, request)).await
    }

    async fn copy_volume(
        &self,
        source: &VolumeId,
        client_token: &str,
        tags: &Tags,
    ) -> Result<VolumeId, CloudError> {
        let asked = Asked::to(Action::CopyVolumes).on([source]).making("volume", tags);
        self.call_on_asking(Action::CopyVolumes, &[source.as_str()], asked, |world, now| {
            world.copy_volume(now, source, &ModifyVolume::default(), client_token, tags)
        })
        .await
    }

    async fn delete_volume(&self, id: &VolumeId) -> Result<(), CloudError> {
        self.call_on(Action::DeleteVolume, &[id.as_str()], |world, now| world.delete_volume(now, id)).await
    }

    async fn attach_volume(
        &self,
        id: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), CloudError> {
        self.call_on(Action::AttachVolume, &[id.as_str(), instance.as_str()], |world, now| {
            world.attach_volume(now, id, instance, device)
        })
        .await
    }

    async fn detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> Result<(), CloudError> {
        self.call_on(Action::DetachVolume, &[id.as_str(), instance.as_str()], |world, now| {
            world.detach_volume(now, id, Some(instance))
        })
        .await
    }

    async fn force_detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> Result<(), CloudError> {
        self.call_on(Action::DetachVolume, &[id.as_str(), instance.as_str()], |world, now| {
            world.detach_volume_with(now, id, Some(instance), Detach::Forced)
        })
        .await
    }

    async fn replace_root(
        &self,
        instance: &InstanceId,
        volume: &VolumeId,
        client_token: &str,
        tags: &Tags,
    ) -> Result<RootTaskId, CloudError> {
        let (action, objects) = (Action::CreateReplaceRootVolumeTask, [instance.as_str(), volume.as_str()]);
        let asked = Asked::to(action).on(objects).making("replace-root-volume-task", tags);
        self.call_on_asking(action, &objects, asked, |world, now| {
            world.replace_root(now, instance, volume, client_token, tags)
        })
        .await
    }

    async fn create_snapshot(
        &self,
        volume: &VolumeId,
        _description: &str,
        tags: &Tags,
    ) -> Result<SnapshotId, CloudError> {
        let asked = Asked::to(Action::CreateSnapshot).on([volume]).making("snapshot", tags);
        self.call_on_asking(Action::CreateSnapshot, &[volume.as_str()], asked, |world, now| {
            world.create_snapshot(now, volume, tags)
        })
        .await
    }

    async fn create_snapshots(&self, request: &SnapshotsRequest) -> Result<Vec<SnapshotId>, CloudError> {
        let set = SnapshotSet {
            without_root: request.without_root,
            without: request.without.clone(),
            description: request.description.clone(),
            tags: request.tags.clone(),
        };
        let asked = Asked {
            without: request.without.iter().map(ToString::to_string).collect(),
            without_root: request.without_root,
            ..Asked::to(Action::CreateSnapshots).on([&request.instance]).making("snapshot", &request.tags)
        };
        self.call_on_asking(Action::CreateSnapshots, &[request.instance.as_str()], asked, |world, now| {
            world.create_snapshots(now, &request.instance, &set)
        })
        .await
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), CloudError> {
        self.call_on(Action::DeleteSnapshot, &[id.as_str()], |world, now| world.delete_snapshot(now, id))
            .await
    }

    async fn register_image(&self, request: &ImageRequest) -> Result<ImageId, CloudError> {
        // RegisterImage has no parameter for a platform (EC2 API reference); snapshots here carry no metadata
        // that could set one.
        let mut request = request.clone();
        request.traits.platform = None;
        let asked = Asked::to(Action::RegisterImage).on([&request.root_snapshot]);
        let asked = asked.making("image", &request.tags);
        self.call_asking(Action::RegisterImage, asked, |world, now| world.register_image(now, &request)).await
    }

    async fn deregister_image(&self, id: &ImageId) -> Result<(), CloudError> {
        self.call_on(Action::DeregisterImage, &[id.as_str()], |world, now| world.deregister_image(now, id))
            .await
    }

    async fn create_interface(&self, request: &InterfaceRequest) -> Result<InterfaceView, CloudError> {
        let asked = Asked::to(Action::CreateNetworkInterface).on([&request.subnet]).on(&request.groups);
        let asked = asked.making("network-interface", &request.tags);
        self.call_asking(Action::CreateNetworkInterface, asked, |world, now| {
            let id = world.create_interface(now, request)?;
            Ok(world.interface_view(&id).expect("BUG: just created"))
        })
        .await
    }

    async fn delete_interface(&self, id: &InterfaceId) -> Result<(), CloudError> {
        self.call_on(Action::DeleteNetworkInterface, &[id.as_str()], |world, now| {
            world.delete_interface(now, id)
        })
        .await
    }

    async fn set_interface_groups(&self, id: &InterfaceId, groups: &[GroupId]) -> Result<(), CloudError> {
        let action = Action::ModifyNetworkInterfaceAttribute;
        let asked = Asked::to(action).on([id]).on(groups);
        self.call_on_asking(action, &[id.as_str()], asked, |world, now| {
            world.modify_interface_groups(now, id, groups)
        })
        .await
    }

    async fn attach_interface(
        &self,
        id: &InterfaceId,
        instance: &InstanceId,
        device_index: u32,
    ) -> Result<(), CloudError> {
        self.call_on(Action::AttachNetworkInterface, &[id.as_str(), instance.as_str()], |world, now| {
            world.attach_interface(now, id, instance, device_index).map(|_| ())
        })
        .await
    }

    async fn detach_interface(&self, attachment: &AttachmentId) -> Result<(), CloudError> {
        let asked = Asked::to(Action::DetachNetworkInterface).on([attachment]);
        self.call_asking(Action::DetachNetworkInterface, asked, |world, now| {
            let plugged = world
                .all_interfaces()
                .find(|interface| interface.attachment.as_ref().is_some_and(|plug| plug.id == *attachment));
            if let Some(interface) = plugged.map(|interface| interface.id.clone()) {
                self.note(world, Action::DetachNetworkInterface, &[interface.as_str()]);
            }
            world.detach_interface(now, attachment)
        })
        .await
    }

    async fn assign_private_ip(
        &self,
        id: &InterfaceId,
        address: Option<Ipv4Addr>,
        taking: Taking,
    ) -> Result<(), CloudError> {
        let reassignment = match taking {
            Taking::Unheld => Reassignment::Refused,
            Taking::FromOwn => Reassignment::Allowed,
        };
        self.call_on(Action::AssignPrivateIpAddresses, &[id.as_str()], |world, now| {
            world.assign_private_ip(now, id, address, reassignment)
        })
        .await
    }

    async fn grow_volume(&self, id: &VolumeId, size_gib: u32) -> Result<(), CloudError> {
        let change = ModifyVolume { size_gib: Some(size_gib), ..ModifyVolume::default() };
        self.call_on(Action::ModifyVolume, &[id.as_str()], move |world, now| {
            world.modify_volume(now, id, &change).map(|_| ())
        })
        .await
    }

    async fn elastic_address(&self, id: &AllocationId) -> Result<Option<ElasticView>, CloudError> {
        self.call(Action::DescribeAddresses, |world, now| world.describe_elastic(now, id)).await
    }

    async fn associate_address(
        &self,
        id: &AllocationId,
        interface: &InterfaceId,
        private_ip: Option<Ipv4Addr>,
        taking: Taking,
    ) -> Result<(), CloudError> {
        let reassociation = match taking {
            Taking::Unheld => Reassignment::Refused,
            Taking::FromOwn => Reassignment::Allowed,
        };
        let destination = Destination::Interface(interface.clone());
        let asked = Asked::to(Action::AssociateAddress).on([id.as_str(), interface.as_str()]);
        self.call_on_asking(Action::AssociateAddress, &[interface.as_str()], asked, |world, now| {
            world.associate_address(now, id.as_str(), &destination, private_ip, reassociation).map(|_| ())
        })
        .await
    }

    async fn unassign_private_ip(&self, id: &InterfaceId, address: Ipv4Addr) -> Result<(), CloudError> {
        self.call_on(Action::UnassignPrivateIpAddresses, &[id.as_str()], |world, now| {
            world.unassign_private_ip(now, id, address)
        })
        .await
    }

    async fn may_run_instances(&self, request: &LaunchRequest) -> Result<(), CloudError> {
        let asked = launch_asks(request);
        let request = RunInstances::from(request);
        self.call_asking(Action::RunInstances, asked, move |world, now| {
            world.may_run_instances(now, &request)
        })
        .await
    }

    async fn identity(&self) -> Result<String, CloudError> {
        // It needs no permission.
        self.pass_through(Action::GetCallerIdentity, |_, _| Ok(ACCOUNT.to_owned())).await
    }
}

#[cfg(test)]
mod tests;
