//! The region itself: EC2's objects, the calls that change them, and the transitions that time brings.
//!
//! # Shape
//! The world is synchronous, seeded and deterministic; it has no clock and no global state. Every call takes
//! `now_ms` and first applies the transitions that are due ([`World::advance`]), in the order of their time
//! and then of their scheduling. Time never runs backwards: a smaller `now_ms` counts as the present one. The
//! port's request and view types are used as they are, so that a wire server over this world has only to
//! translate text.
//!
//! | module | contents |
//! | --- | --- |
//! | [`settings`] | latencies, quotas, switches for unconfirmed behaviour |
//! | [`state`] | the objects |
//! | `requests` | the parameters of RunInstances and ModifyVolume |
//! | `instances` | RunInstances, TerminateInstances, ModifyInstanceAttribute, spot requests |
//! | `spot` | notices, reclaims, capacity |
//! | `storage` | volumes, snapshots, images, root replacement |
//! | `network` | interfaces and addresses |
//! | `volume_modification` | ModifyVolume |
//! | `failed_snapshots` | snapshots that end in `error` |
//! | `volume_types` | sizes, IOPS and throughput of each type |
//! | `guest` | the operating system inside: writes, mounts |
//! | `describe` | describes |
//! | `checkers` | invariants, leaks, dump |
//! | `stops` | StopInstances, StartInstances, status checks |
//! | `elastic` | Elastic addresses |
//! | `groups` | security groups, by name only |
//! | `fleets` | launch templates, CreateFleet |
//! | `balancers` | target groups of Elastic Load Balancing |
//! | `run_command` | Systems Manager's Run Command |
//! | `catalogue` | instance types and spot prices |
//! | `instance_types` | the names of all instance types |
//! | `tags` | CreateTags and DeleteTags on anything |
//! | `persistence` | the serialised form |
//! | `eventual_consistency` | reads that are answered with an older version |
//!
//! # Guesses
//! Guesses are marked where they are made. The important ones: volumes and interfaces become free a little
//! *after* `terminated`; a launch that fails does not consume its client token; a volume given to a root
//! replacement stays `available` until the swap; the status of a spot request under notice stays as the
//! notice set it, even when its user terminates the instance first; detaching a volume that is already
//! detaching is answered with success.

mod balancers;
pub mod catalogue;
mod checkers;
mod describe;
mod elastic;
mod events;
mod eventual_consistency;
mod failed_snapshots;
mod fleets;
mod groups;
mod guest;
mod instance_types;
mod instances;
mod network;
mod persistence;
mod quotas;
mod requests;
mod run_command;
pub mod settings;
mod spot;
pub mod state;
mod stops;
mod storage;
pub mod stuck_detach;
mod tags;
mod volume_modification;
mod volume_types;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

pub use balancers::{Health, Target, TargetGroup, TargetGroupSettings};
pub use catalogue::{Gpu, Price, Shape, TYPES, is_current};
pub use checkers::{NODE_TAG, OWNER_TAG};
pub use elastic::Destination;
pub use events::ACCOUNT;
#[cfg(feature = "wire")]
pub(crate) use events::rfc3339;
use eventual_consistency::Versioned;
pub use fleets::{Fleet, FleetAnswer, FleetPart, FleetRequest, NotDeleted};
pub use guest::GuestError;
pub use instances::Termination;
pub use network::Reassignment;
use perennial_workers::port::error::Action;
use perennial_workers::port::{ImageState, ImageTraits, SnapshotState, Tags};
use perennial_workflows::model::aws::{
    GroupId, ImageId, InstanceId, InterfaceId, Market, RootTaskId, SnapshotId, SpotRequestId, SubnetId,
    VolumeId,
};
#[cfg(feature = "wire")]
pub(crate) use persistence::seeded;
pub use requests::{
    Behaviour, DeviceMapping, LaunchExtras, LaunchTags, ModifyVolume, MoreInterface, Placement, RunInstances,
    SpotKind,
};
pub use run_command::{Command, Invocation, Outcome, Script, SendCommand, Stage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use settings::{Capacity, Quotas, Settings, Span};
pub use spot::Notice;
pub use state::{Dimensions, Modification, ModificationState};
use state::{
    Elastic, Group, Image, Instance, Interface, RootTask, Snapshot, SpotRequest, Subnet, Template, Volume,
};
pub use stops::Check;
pub use storage::{Detach, RootSource, SnapshotSet};
pub use tags::Tagged;
pub use volume_types::iops_of;

/// The first record on the root of every instance of the default image.
pub const IMAGE_RECORD: &str = "image";
/// How many deleted volumes are remembered with their contents, for tests that look for lost writes.
const GRAVEYARD_MAX: usize = 10_000;
/// How many events wait until they are taken; beyond it the oldest are lost (EventBridge is best effort).
const OUTBOX_MAX: usize = 100_000;
/// How many client tokens are kept before the expired ones are swept out.
const TOKENS_SWEEP: usize = 50_000;
/// The size of the default image's root.
const IMAGE_GIB: u32 = 8;

/// An EC2 error answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({http_status}): {message}")]
pub struct ApiError {
    /// EC2's code.
    pub code: String,
    /// For people.
    pub message: String,
    /// 400 for client errors, 500 and 503 for the server's.
    pub http_status: u16,
}

impl ApiError {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self::with_status(400, code, message)
    }

    pub(crate) fn with_status(http_status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), http_status }
    }
}

/// A simulated region. Its serialised form is the whole of it: a world that is read back goes on as this one
/// would.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct World {
    /// May be changed at any time; holds from then on.
    pub settings: Settings,
    now_ms: u64,
    #[serde(with = "persistence::seeded")]
    rng: fastrand::Rng,
    /// How many ids were given out.
    ids: u64,
    /// How many transitions were scheduled.
    scheduled: u64,
    #[serde(with = "persistence::pairs")]
    schedule: BTreeMap<(u64, u64), Transition>,
    meter: quotas::Meter,
    #[serde(with = "persistence::pairs")]
    tokens: BTreeMap<(String, String, String), Token>,
    outbox: VecDeque<Value>,
    #[serde(with = "persistence::pairs")]
    capacity: BTreeMap<(String, String, Market), Capacity>,
    #[serde(default, with = "persistence::pairs")]
    prices_set: BTreeMap<(String, String), u64>,
    #[serde(default)]
    scores_set: BTreeMap<String, u8>,
    failing_launches: VecDeque<String>,
    /// Instances that stay in `shutting-down` until they are terminated by force.
    #[serde(default)]
    hanging_shutdowns: BTreeSet<InstanceId>,
    #[serde(default)]
    failing_snapshots: failed_snapshots::FailingSnapshots,
    stuck_attaches: u32,
    stuck_detaches: u32,
    /// Volumes whose detach is stuck, in every state of their instance.
    #[serde(default, rename = "hanging")]
    stuck_detaching: BTreeMap<VolumeId, stuck_detach::StuckDetach>,
    /// Volumes that were detached by force, and how their instance was then.
    #[serde(default)]
    forced: Vec<(VolumeId, InstanceId, String)>,

    instances: Versioned<InstanceId, Instance>,
    volumes: Versioned<VolumeId, Volume>,
    snapshots: BTreeMap<SnapshotId, Snapshot>,
    images: BTreeMap<ImageId, Image>,
    interfaces: Versioned<InterfaceId, Interface>,
    subnets: BTreeMap<SubnetId, Subnet>,
    spot_requests: BTreeMap<SpotRequestId, SpotRequest>,
    root_tasks: BTreeMap<RootTaskId, RootTask>,
    groups: BTreeMap<GroupId, Group>,
    /// Elastic addresses by allocation id.
    elastic: BTreeMap<String, Elastic>,
    /// Fleets by id.
    #[serde(default)]
    fleets: BTreeMap<String, Fleet>,
    /// Launch templates by id.
    templates: BTreeMap<String, Template>,
    /// Target groups by ARN.
    target_groups: BTreeMap<String, TargetGroup>,
    /// Commands by id.
    commands: BTreeMap<String, Command>,
    /// Scripted outcomes of commands; the first that fits is used.
    scripts: VecDeque<Script>,
    /// The holder of each address, arriving ones included.
    addresses: BTreeMap<Ipv4Addr, InterfaceId>,
    /// Deleted volumes with their contents; the newest last.
    graveyard: VecDeque<Volume>,
    default_image: ImageId,
    default_group: GroupId,
}

/// The use of a client token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    parameters: String,
    made_at_ms: u64,
    answer: String,
}

/// Changes that time brings. Each checks that it still applies.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Transition {
    Running(InstanceId),
    Stopped(InstanceId),
    Respawn(SpotRequestId),
    LaunchFails(InstanceId, String),
    Terminated(InstanceId),
    Released(InstanceId),
    Forgotten(InstanceId),
    Warn(InstanceId, Notice),
    Reclaim(InstanceId),
    VolumeAvailable(VolumeId),
    Attached(VolumeId, u64),
    Detached(VolumeId, u64),
    #[serde(rename = "LetsGo")]
    StuckDetachReleased(VolumeId),
    VolumeGone(VolumeId),
    SnapshotCompleted(SnapshotId),
    SetCompleted(Vec<SnapshotId>),
    ImageAvailable(ImageId),
    AddressShows(InterfaceId, Ipv4Addr, u64),
    RootTaskEnds(RootTaskId),
    VolumeModified(VolumeId),
    Restart(InstanceId),
    CommandArrives(String, InstanceId),
    CommandEnds(String, InstanceId),
    CommandRunsOut(String, InstanceId),
    CommandExpires(String),
}

impl World {
    /// A region with one default VPC (a zone's subnet each) and one image, at a moment.
    #[must_use]
    pub fn new(settings: Settings, now_ms: u64) -> Self {
        let id = |text: &str| format!("{text}{:017x}", 0);
        let default_image = ImageId::parse(&id("ami-")).expect("BUG: a constant id");
        let default_group = GroupId::parse(&id("sg-")).expect("BUG: a constant id");
        let (stale_for, seed) = (settings.stale_for, settings.seed);
        let mut world = Self {
            rng: fastrand::Rng::with_seed(settings.seed),
            settings,
            now_ms,
            ids: 0,
            scheduled: 0,
            schedule: BTreeMap::new(),
            meter: quotas::Meter::default(),
            tokens: BTreeMap::new(),
            outbox: VecDeque::new(),
            capacity: BTreeMap::new(),
            prices_set: BTreeMap::new(),
            scores_set: BTreeMap::new(),
            failing_launches: VecDeque::new(),
            failing_snapshots: failed_snapshots::FailingSnapshots::default(),
            stuck_attaches: 0,
            stuck_detaches: 0,
            hanging_shutdowns: BTreeSet::new(),
            stuck_detaching: BTreeMap::new(),
            forced: Vec::new(),
            instances: Versioned::new(stale_for, seed),
            volumes: Versioned::new(stale_for, seed),
            snapshots: BTreeMap::new(),
            images: BTreeMap::new(),
            interfaces: Versioned::new(stale_for, seed),
            subnets: BTreeMap::new(),
            spot_requests: BTreeMap::new(),
            root_tasks: BTreeMap::new(),
            groups: BTreeMap::new(),
            elastic: BTreeMap::new(),
            fleets: BTreeMap::new(),
            templates: BTreeMap::new(),
            target_groups: BTreeMap::new(),
            commands: BTreeMap::new(),
            scripts: VecDeque::new(),
            addresses: BTreeMap::new(),
            graveyard: VecDeque::new(),
            default_image,
            default_group,
        };
        world.furnish();
        world
    }

    fn furnish(&mut self) {
        for pool in self.settings.capacity.clone() {
            self.set_capacity(&pool.instance_type, &pool.zone, pool.market, pool.capacity);
        }
        self.groups.insert(
            self.default_group.clone(),
            Group {
                id: self.default_group.clone(),
                name: "default".to_owned(),
                description: "default VPC security group".to_owned(),
                tags: Tags::new(),
            },
        );
        let prefix = self.settings.subnet_prefix;
        for (n, zone) in self.zones().into_iter().enumerate() {
            let id = SubnetId::parse(&self.fresh("subnet-")).expect("BUG: made to fit");
            let network = Ipv4Addr::from(0xac1f_0000 + ((n as u32) << (32 - u32::from(prefix))));
            self.subnets.insert(id.clone(), Subnet { id, zone, network, prefix, cursor: 4, taken: 0 });
        }
        let snapshot = SnapshotId::parse(&self.fresh("snap-")).expect("BUG: made to fit");
        self.snapshots.insert(
            snapshot.clone(),
            Snapshot {
                id: snapshot.clone(),
                state: SnapshotState::Completed,
                volume: None,
                size_gib: IMAGE_GIB,
                encrypted: false,
                product_codes: BTreeSet::new(),
                description: "the simulated system".to_owned(),
                started_at_ms: self.now_ms,
                completes_at_ms: self.now_ms,
                fails: false,
                visible_at_ms: self.now_ms,
                content: vec![IMAGE_RECORD.to_owned()],
                tags: Tags::new(),
            },
        );
        self.images.insert(
            self.default_image.clone(),
            Image {
                id: self.default_image.clone(),
                name: "al2023-simulated".to_owned(),
                state: ImageState::Available,
                traits: ImageTraits {
                    architecture: "x86_64".to_owned(),
                    root_device: "/dev/xvda".to_owned(),
                    boot_mode: Some("uefi-preferred".to_owned()),
                    ena_support: true,
                    tpm_support: None,
                    imds_support: Some("v2.0".to_owned()),
                    platform: None,
                },
                root_snapshot: snapshot,
                devices: Vec::new(),
                description: "the simulated system".to_owned(),
                uefi_data: None,
                created_at_ms: self.now_ms,
                visible_at_ms: self.now_ms,
                tags: Tags::new(),
            },
        );
    }

    /// The region's zones.
    #[must_use]
    pub fn zones(&self) -> Vec<String> {
        self.settings.zones()
    }

    /// The default subnet of a zone.
    ///
    /// # Panics
    /// When the region has no such zone.
    #[must_use]
    pub fn subnet_in(&self, zone: &str) -> SubnetId {
        let found = self.subnets.values().find(|subnet| subnet.zone == zone);
        found.unwrap_or_else(|| panic!("BUG: no zone {zone} in this region")).id.clone()
    }

    /// The image that exists from the beginning.
    #[must_use]
    pub fn default_image(&self) -> ImageId {
        self.default_image.clone()
    }

    /// The default security group.
    #[must_use]
    pub fn default_group(&self) -> GroupId {
        self.default_group.clone()
    }

    /// The moment the world has reached.
    #[must_use]
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// When the next transition is due.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.schedule.keys().next().map(|(due, _)| *due)
    }

    /// Applies every transition that is due, in order.
    pub fn advance(&mut self, now_ms: u64) {
        while let Some(entry) = self.schedule.first_entry() {
            let due = entry.key().0;
            if due > now_ms {
                break;
            }
            let transition = entry.remove();
            self.reach(due);
            self.apply(transition);
        }
        self.reach(now_ms);
    }

    fn reach(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.instances.reach(self.now_ms);
        self.volumes.reach(self.now_ms);
        self.interfaces.reach(self.now_ms);
    }

    fn apply(&mut self, transition: Transition) {
        match transition {
            Transition::Running(id) => self.starts_running(&id),
            Transition::Stopped(id) => self.is_stopped(&id),
            Transition::Respawn(id) => self.respawns(&id),
            Transition::LaunchFails(id, reason) => self.fails_to_launch(&id, &reason),
            Transition::Terminated(id) => self.is_terminated(&id),
            Transition::Released(id) => self.is_released(&id),
            Transition::Forgotten(id) => self.is_forgotten(&id),
            Transition::Warn(id, notice) => self.warns(&id, &notice),
            Transition::Reclaim(id) => self.reclaims(&id),
            Transition::VolumeAvailable(id) => self.volume_is_available(&id),
            Transition::Attached(id, serial) => self.volume_is_attached(&id, serial),
            Transition::Detached(id, serial) => self.volume_is_detached(&id, serial),
            Transition::StuckDetachReleased(id) => self.detach_is_released(&id),
            Transition::VolumeGone(id) => self.volume_is_gone(&id),
            Transition::SnapshotCompleted(id) => {
                self.snapshots_end(std::slice::from_ref(&id));
                self.tell_snapshots(std::slice::from_ref(&id), false);
            }
            Transition::SetCompleted(ids) => {
                self.snapshots_end(&ids);
                self.tell_snapshots(&ids, true);
            }
            Transition::ImageAvailable(id) => self.image_is_made(&id),
            Transition::AddressShows(id, address, serial) => self.address_shows(&id, address, serial),
            Transition::RootTaskEnds(id) => self.root_task_ends(&id),
            Transition::VolumeModified(id) => self.volume_is_modified(&id),
            Transition::Restart(id) => self.restarts(&id),
            Transition::CommandArrives(id, instance) => self.command_arrives(&id, &instance),
            Transition::CommandEnds(id, instance) => self.command_ends(&id, &instance),
            Transition::CommandRunsOut(id, instance) => self.command_runs_out(&id, &instance),
            Transition::CommandExpires(id) => self.command_expires(&id),
        }
    }

    /// How long a call takes, to and fro; drawn anew each time.
    pub fn call_latency(&mut self, action: Action) -> u64 {
        let latencies = &self.settings.latencies;
        let span = match action {
            Action::RunInstances => latencies.launch,
            action if action.is_look() => latencies.look,
            _ => latencies.act,
        };
        span.draw(&mut self.rng)
    }

    /// The beginning of a call that only reads: due transitions happen, the quota is charged.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn begin_read(&mut self, now_ms: u64, action: &'static str) -> Result<(), ApiError> {
        self.begin(now_ms, action)
    }

    /// A copy in which a call can be tried without effect (`DryRun`): no events, no quota of requests, and
    /// unlimited capacity, as EC2 checks permissions and parameters only.
    #[must_use]
    pub fn rehearsal(&self) -> Self {
        let mut world = self.clone();
        world.settings.quotas = Quotas::Off;
        world.settings.events_enabled = false;
        world.capacity.clear();
        world
    }

    /// The beginning of every call.
    fn begin(&mut self, now_ms: u64, action: &'static str) -> Result<(), ApiError> {
        self.begin_counted(now_ms, action, 1)
    }

    /// The beginning of a call that names so many instances.
    fn begin_counted(&mut self, now_ms: u64, action: &'static str, count: u64) -> Result<(), ApiError> {
        self.advance(now_ms);
        let Settings { quotas, request_quotas, .. } = &self.settings;
        self.meter.admit(*quotas, request_quotas, self.now_ms, action, count)
    }

    fn after(&mut self, span: Span, transition: Transition) -> u64 {
        let due = self.now_ms + span.draw(&mut self.rng);
        self.at(due, transition);
        due
    }

    fn at(&mut self, due_ms: u64, transition: Transition) {
        self.scheduled += 1;
        self.schedule.insert((due_ms, self.scheduled), transition);
    }

    /// When a fresh object becomes known.
    fn known_at(&mut self) -> u64 {
        self.now_ms + self.settings.unknown_for.draw(&mut self.rng)
    }

    /// An id that depends only on the seed and on how many were given out before.
    fn fresh(&mut self, prefix: &str) -> String {
        self.ids += 1;
        let mixed = self.settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.ids);
        format!("{prefix}0{:016x}", fastrand::Rng::with_seed(mixed).u64(..))
    }

    /// The earlier answer to a client token, if there is one.
    fn replayed(
        &mut self,
        action: &'static str,
        scope: &str,
        token: &str,
        parameters: &str,
    ) -> Result<Option<String>, ApiError> {
        if token.len() > 64 || !token.is_ascii() {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "A client token has at most 64 ASCII characters",
            ));
        }
        let key = (action.to_owned(), scope.to_owned(), token.to_owned());
        let Some(known) = self.tokens.get(&key) else { return Ok(None) };
        let memory_ms = self.settings.token_memory.as_millis() as u64;
        if self.now_ms.saturating_sub(known.made_at_ms) > memory_ms {
            self.tokens.remove(&key);
            return Ok(None);
        }
        if known.parameters != parameters {
            return Err(mismatch(token));
        }
        Ok(Some(known.answer.clone()))
    }

    fn remember(&mut self, action: &'static str, scope: &str, token: &str, parameters: String, answer: &str) {
        if !token.is_empty() {
            if self.tokens.len() >= TOKENS_SWEEP {
                let oldest_ms = self.now_ms.saturating_sub(self.settings.token_memory.as_millis() as u64);
                self.tokens.retain(|_, token| token.made_at_ms >= oldest_ms);
            }
            let value = Token { parameters, made_at_ms: self.now_ms, answer: answer.to_owned() };
            self.tokens.insert((action.to_owned(), scope.to_owned(), token.to_owned()), value);
        }
    }
}

fn mismatch(token: &str) -> ApiError {
    ApiError::new(
        "IdempotentParameterMismatch",
        format!(
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s) with client token {token}"
        ),
    )
}

/// An object that exists and is known by now.
macro_rules! known {
    ($world:expr, $map:ident, $id:expr, $code:literal, $what:literal) => {{
        let now_ms = $world.now_ms;
        match $world.$map.get($id) {
            Some(found) if found.visible_at_ms <= now_ms => Ok(found),
            _ => Err($crate::world::ApiError::new($code, format!("The {} '{}' does not exist", $what, $id))),
        }
    }};
}

impl World {
    fn known_instance(&self, id: &InstanceId) -> Result<&Instance, ApiError> {
        known!(self, instances, id, "InvalidInstanceID.NotFound", "instance ID")
    }

    fn known_volume(&self, id: &VolumeId) -> Result<&Volume, ApiError> {
        known!(self, volumes, id, "InvalidVolume.NotFound", "volume")
    }

    fn known_snapshot(&self, id: &SnapshotId) -> Result<&Snapshot, ApiError> {
        known!(self, snapshots, id, "InvalidSnapshot.NotFound", "snapshot")
    }

    fn known_image(&self, id: &ImageId) -> Result<&Image, ApiError> {
        known!(self, images, id, "InvalidAMIID.NotFound", "image id")
    }

    fn known_interface(&self, id: &InterfaceId) -> Result<&Interface, ApiError> {
        known!(self, interfaces, id, "InvalidNetworkInterfaceID.NotFound", "networkInterface ID")
    }

    fn known_subnet(&self, id: &SubnetId) -> Result<&Subnet, ApiError> {
        self.subnets.get(id).ok_or_else(|| {
            ApiError::new("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
        })
    }

    fn check_zone(&self, zone: &str) -> Result<(), ApiError> {
        if self.subnets.values().any(|subnet| subnet.zone == zone) {
            Ok(())
        } else {
            Err(ApiError::new("InvalidZone.NotFound", format!("The zone '{zone}' does not exist")))
        }
    }
}

/// The ids of a set, so that the set's owner can be changed while they are gone through.
fn ids_of<Id: Clone + Ord>(set: &BTreeSet<Id>) -> Vec<Id> {
    set.iter().cloned().collect()
}
