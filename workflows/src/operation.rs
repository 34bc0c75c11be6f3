//! One operation on one node: what happened so far, what is known, and what follows from it.
//!
//! An operation is a machine of *facts and rules*. Evidence becomes facts ([`Facts`]); the rules of the operation's kind
//! ([`provision`], [`replace`], [`delete`]) say which intents hold under the
//! facts; an intent without an open step is written as `step_intended`, in the same append as the event that made it
//! possible. Parallelism is not programmed: it is whatever the facts allow. There is no way back through code: a crash, a
//! retry and a first try all fold the same events to the same facts.
//!
//! ```text
//!              report(token, evidence)                    signal(instance)
//!                        │                                       │
//!                        ▼                                       ▼
//!   step_settled ──► facts ──► rules ──► step_intended …   signal_received / candidate_lost
//!                        │
//!                        ├─ nothing more can be tried ──► stuck ──(resume)──► rules
//!                        └─ everything is in place ─────► finished  (+ the node's operation_finished, atomically)
//! ```
//!
//! # Rules that are never broken
//! - Nothing of the node's is moved before it is seen free, and it is seen free only after its holder was fenced (or the
//!   volume was detached without force).
//! - A second instance is launched only when the first launch has settled; an instance that may hold anything of the node's is
//!   fenced before the operation finishes.
//! - A volume that holds the node's data is never deleted, except by `delete`, by id, where the request says so.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use perennial_engine::domain::{Illegal, OpenStep, Stamp};
use perennial_engine::ids::{Seq, Token};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{
    GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, SnapshotId, SpotRequestId, SubnetId,
    VolumeId,
};
use crate::backup::BackupId;
use crate::found::{self, Found};
use crate::node::{
    Carrier, HeldElastic, HeldInterface, HeldVolume, Leftover, Made, OperationId, OperationKind, Outcome,
    Resources, Retained, RootImage, Thing,
};
use crate::signal::{Cause, Certainty, News, Signal};
use crate::spec::{NetworkMode, NodeSpec, Pool, RootMode};
use crate::steps::{Evidence, Intent, Placement, Slot, TagMap};
use crate::survey::{self, Kept};
use crate::{
    capacity, cloning, delete, devices, grow, hanging, loss, notice, pause, pool, provision, replace, undo,
};

/// How many launches in a row may end before their instance runs, for another reason than capacity (which is waited for
/// without end). Three rounds of a ladder of four pools: with the pauses between rounds that is past what passes by itself.
const LAUNCH_FAILURES_MAX: u32 = 12;

/// What the order of an operation fixes at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which of the node's operations it is, counted from 1.
    pub number: u64,
    /// What it does.
    pub kind: OperationKind,
    /// The node's generation once it is done.
    pub generation: u64,
    /// Whose installation this is; in every tag.
    pub owner: String,
    /// The node's spec when it started.
    pub spec: NodeSpec,
    /// What belonged to the node when it started.
    pub before: Resources,
    /// For `delete`: what is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// The backup whose content the volumes come back with; the present ones are retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// The root starts anew from the node's image: its present content ends, the volume is retained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reimage: bool,
    /// Why.
    pub cause: Cause,
}

/// A backup that volumes are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Which.
    pub backup: BackupId,
    /// Of which moment it is, in milliseconds since the Unix epoch: what was written later is lost.
    pub taken_at_ms: u64,
    /// Its snapshots of the volumes that come back from it. They stay the backup's.
    pub snapshots: BTreeMap<Slot, SnapshotId>,
}

/// What a deletion keeps, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The root volume, and volumes the node has outgrown.
    pub root: bool,
    /// The data volumes.
    pub data: bool,
    /// The node's own interface and so its address (`primary_eni` and `secondary_eni` only).
    pub network: bool,
    /// Images and snapshots of the root.
    pub backups: bool,
}

/// What happened in an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "events are few and short-lived; boxes would only blur the shapes"
)]
pub enum OperationEvent {
    /// It began.
    Started(Order),
    /// A step may run: the whole request, written before the first call. This event's place is the step's token.
    StepIntended {
        /// Its name.
        step: String,
        /// How many times this step has been intended in this operation, with this.
        attempt: u32,
        /// The request.
        intent: Intent,
        /// Not to be run before this time.
        not_before_ms: u64,
        /// To be settled by this time.
        deadline_ms: u64,
    },
    /// A step is over.
    StepSettled {
        /// Which.
        #[schemars(with = "u64")]
        token: Token,
        /// Its name, for readers.
        step: String,
        /// What was observed.
        evidence: Evidence,
    },
    /// The root will be carried in another way.
    RungChosen {
        /// On which instance the first way was tried.
        instance: InstanceId,
        /// What was tried.
        from: RootRung,
        /// What is tried now.
        to: RootRung,
        /// Why.
        because: String,
    },
    /// The new instance is not the one: another will be launched, this one fenced.
    CandidateLost {
        /// Which.
        instance: InstanceId,
        /// Why.
        because: String,
    },
    /// The notice is too short for what would only have made the outage shorter.
    Dropped {
        /// The steps, in the order in which they are dropped.
        steps: Vec<String>,
        /// Why.
        because: String,
    },
    /// Something was heard about an instance of this operation.
    SignalReceived {
        /// What.
        signal: Signal,
    },
    /// Nothing more can be tried; every resource is kept.
    Stuck {
        /// The step that could not be done.
        step: String,
        /// Why.
        because: String,
        /// What a person must do before `perennial workflow resume`.
        needs: String,
    },
    /// A person says: try again.
    Resumed {
        /// Who.
        requested_by: String,
        /// What is given up: the root starts anew from the node's image, a data volume is made anew.
        #[serde(default)]
        accept_loss: Vec<Slot>,
        /// What the node is meant to be now: a corrected file mends what stuck.
        spec: NodeSpec,
        /// The address that was taken from the node's pool with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<Ipv4Addr>,
        /// Lost volumes come back from this backup.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<Restore>,
    },
    /// The node is not to be brought onto an instance any more: everything is freed.
    Diverted {
        /// Why.
        cause: Cause,
        /// A deletion follows, which keeps this; otherwise the node is paused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delete: Option<Keep>,
    },
    /// A person says: undo it. Only before the point of no return.
    CancelRequested {
        /// Who.
        requested_by: String,
        /// In their words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A volume that somebody attached to the node's instance is the node's from now on.
    VolumeFound {
        /// On which instance.
        instance: InstanceId,
        /// As what.
        slot: Slot,
        /// The volume.
        held: HeldVolume,
    },
    /// Everything is in place; or everything is back, when it was cancelled; or a deletion takes over.
    Finished {
        /// What belongs to the node now.
        resources: Resources,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Outcome::is_completed")]
        outcome: Outcome,
    },
}

/// How the root is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootRung {
    /// A new root from the node's image.
    Fresh,
    /// The very same volume (CreateReplaceRootVolumeTask).
    Adopt,
    /// An image registered from a snapshot of it.
    Image,
    /// A clone of the volume (CopyVolumes) in its place.
    Clone,
}

impl std::fmt::Display for RootRung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Fresh => "fresh",
            Self::Adopt => "adopt",
            Self::Image => "image",
            Self::Clone => "clone",
        })
    }
}

/// Where a thing of the node's is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It does not exist yet.
    Absent,
    /// On this instance, as far as known.
    On(InstanceId),
    /// Seen free.
    Free,
}

impl Place {
    fn is_on(&self, instance: &InstanceId) -> bool {
        matches!(self, Self::On(on) if on == instance)
    }
}

/// What is known of one of the node's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFact {
    /// Its id, once it exists.
    pub id: Option<VolumeId>,
    /// Its device name.
    pub device: String,
    /// Where it is.
    pub place: Place,
    /// The instance a live detach was tried on.
    pub detach_tried_on: Option<InstanceId>,
    /// Whether an instance of this operation may have written to it.
    pub touched: bool,
    /// Its size, as far as known.
    pub size_gib: Option<u32>,
    /// Its zone, if it is not known to be where the node lives.
    pub zone: Option<String>,
    /// A complete snapshot of it as it is now.
    pub snapshot: Option<SnapshotId>,
    /// The snapshot it was made from, as a copy.
    pub made_from: Option<SnapshotId>,
    /// What it is like, if it was found on the instance.
    pub found: Option<Found>,
}

impl VolumeFact {
    /// Of a volume that does not exist yet.
    pub(crate) fn absent(device: String) -> Self {
        Self {
            id: None,
            device,
            place: Place::Absent,
            detach_tried_on: None,
            touched: false,
            size_gib: None,
            zone: None,
            snapshot: None,
            made_from: None,
            found: None,
        }
    }

    pub(crate) fn held(&self, volume: &VolumeId) -> HeldVolume {
        HeldVolume {
            volume: volume.clone(),
            device: self.device.clone(),
            size_gib: self.size_gib,
            zone: self.zone.clone(),
            made_from: self.made_from.clone(),
            found: self.found.clone(),
        }
    }

    /// It is on an instance that may write to it.
    fn goes_to(&mut self, instance: &InstanceId) {
        self.place = Place::On(instance.clone());
        self.touched = true;
        self.snapshot = None;
    }
}

/// What is known of the node's own interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFact {
    /// Id and address, once it exists.
    pub held: Option<HeldInterface>,
    /// Where it is.
    pub place: Place,
    /// The instance a live detach was tried on.
    pub detach_tried_on: Option<InstanceId>,
    /// Its security groups, once they were seen or it was made with them.
    pub groups: Option<Vec<GroupId>>,
}

impl InterfaceFact {
    /// One that exists and is free, or does not exist yet.
    pub(crate) fn new(held: Option<HeldInterface>, groups: Option<Vec<GroupId>>) -> Self {
        let place = if held.is_some() { Place::Free } else { Place::Absent };
        Self { held, place, detach_tried_on: None, groups }
    }
}

/// An instance that holds, or may hold, something of the node's, and is to be fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub instance: InstanceId,
    /// Its spot request.
    pub spot_request: Option<SpotRequestId>,
    /// Whether it is the instance that carried the node when the operation began.
    pub is_old: bool,
    /// DeleteOnTermination is false for everything on it, or nothing is.
    pub preserved: bool,
    /// It was seen shutting down or gone.
    pub known_over: bool,
    /// How sure it is, by what was heard, that it is being taken.
    pub heard: Certainty,
    /// It was seen terminated, twice.
    pub fenced: bool,
    /// When it is taken, as far as heard, in milliseconds since the Unix epoch.
    pub deadline_ms: Option<u64>,
}

impl Holder {
    /// An instance that may hold anything.
    const fn new(instance: InstanceId, spot_request: Option<SpotRequestId>) -> Self {
        Self {
            instance,
            spot_request,
            is_old: false,
            preserved: false,
            known_over: false,
            heard: Certainty::Warned,
            fenced: false,
            deadline_ms: None,
        }
    }
}

/// The new instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub instance: InstanceId,
    /// The pool it came from.
    pub pool: Pool,
    /// The image it boots: an instance launched for one rung is of no use to another.
    pub image: ImageId,
    /// Its spot request.
    pub spot_request: Option<SpotRequestId>,
    /// Known once it runs: primary interface and address.
    pub network: Option<(InterfaceId, Ipv4Addr)>,
    /// Known once it runs: the volume it booted from.
    pub root_volume: Option<VolumeId>,
    /// Known once it runs: the root's device name.
    pub root_device: Option<String>,
    /// Whether its root would survive its termination, or need not.
    pub protected: bool,
    /// Whether the node's root has been adopted.
    pub adopted: bool,
    /// The node's data volumes that were made with it, by device name, with their snapshots.
    pub launched_with: BTreeMap<String, (Slot, SnapshotId)>,
    /// The node's address on it, where it could not stay the same.
    pub address: Option<Ipv4Addr>,
}

/// A pool that could not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub pool: Pool,
    /// EC2's code, or one of ours when it was not asked ([`capacity`]).
    pub code: String,
    /// When.
    pub at_ms: u64,
}

/// Where on the ladder the operation is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ladder {
    /// The next pool's place.
    pub next: usize,
    /// How many times the whole ladder was without capacity.
    pub rounds: u32,
    /// No launch before this time.
    pub not_before_ms: u64,
    /// Whether a pool of the present stretch was really asked in this round.
    pub answered: bool,
    /// What was refused.
    pub rejected: Vec<Rejected>,
}

/// A volume that was only needed for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Temporary {
    /// Which.
    pub volume: VolumeId,
    /// Whether it has been deleted.
    pub deleted: bool,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The subnet the node lives in.
    pub subnet: SubnetId,
    /// Where that is and what it boots.
    pub placement: Option<Placement>,
    /// The node's volumes; the root only if it is kept and exists.
    pub volumes: BTreeMap<Slot, VolumeFact>,
    /// The node's own interface (`primary_eni`, `secondary_eni`).
    pub interface: Option<InterfaceFact>,
    /// The node's own address, once known.
    pub address: Option<Ipv4Addr>,
    /// The instance the secondary address has been moved to.
    pub address_on: Option<InstanceId>,
    /// The Elastic IP address, and the instance it leads to.
    pub elastic: Option<(HeldElastic, InstanceId)>,
    /// Instances to be fenced.
    pub holders: Vec<Holder>,
    /// The new instance.
    pub candidate: Option<Candidate>,
    /// How many launches were intended.
    pub launches: u32,
    /// How many candidates were lost.
    pub losses: u32,
    /// How many launches in a row ended before their instance ran.
    pub failed_launches: u32,
    /// How the last of them ended.
    pub last_failure: String,
    /// Where on the ladder.
    pub ladder: Ladder,
    /// The survey it goes by: its own or the last operation's.
    pub survey: Option<Arc<Kept>>,
    /// The round of the ladder that the last survey was for, however it ended.
    pub surveyed: Option<u32>,
    /// How the root is carried.
    pub rung: RootRung,
    /// The snapshot of the root.
    pub root_snapshot: Option<SnapshotId>,
    /// The image registered from it.
    pub root_image: Option<ImageId>,
    /// Snapshots of a backup that volumes are still to be made from.
    pub restore: BTreeMap<Slot, SnapshotId>,
    /// Whether the root's snapshot is a backup's.
    pub root_is_borrowed: bool,
    /// The volume that the root was cloned from in this operation.
    pub cloned_from: Option<VolumeId>,
    /// The backup, and its moment, of each volume that comes back from one.
    pub restored: BTreeMap<Slot, (BackupId, u64)>,
    /// Snapshots of data volumes that this operation took.
    pub copies: Vec<SnapshotId>,
    /// Volumes that went on as copies.
    pub superseded: Vec<Retained>,
    /// Roots that were only booted once.
    pub temporary: Vec<Temporary>,
    /// Roots of lost instances that may have carried the node for a while: kept, for a person to look at.
    pub outlived: Vec<VolumeId>,
    /// Everything on the candidate would survive its termination.
    pub final_preserved: bool,
    /// Everything was looked at once more.
    pub verified: bool,
    /// An interruption of the candidate that came when it was nearly done: the next operation's cause.
    pub carried_over: Option<Signal>,
    /// Superseded images that are gone, and things `delete` has deleted, by id.
    pub gone: Vec<String>,
    /// It is being undone.
    pub undoing: bool,
    /// It only frees what the node holds: somebody asked for a pause, or for a deletion that follows.
    pub diverted: Option<Diversion>,
    /// What earlier operations left over, and what this one looks for because it may have made it.
    pub things: Vec<Leftover>,
    /// Nothing more is detached from the old instance while it runs: there is no time.
    pub handover_dropped: bool,
    /// What could not be cleaned up in this operation, by id, with the reason.
    pub uncleaned: BTreeMap<String, String>,
}

/// Why a candidate is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    /// It is or will be gone: the next launch asks another pool.
    Lost,
    /// It was launched for another way of carrying the root: its own root is of no worth.
    RungChanged,
    /// The operation ends without it.
    Cancelled,
}

/// What follows an operation that gave up bringing the node onto an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diversion {
    /// A deletion, which keeps this; otherwise the node is paused.
    pub delete: Option<Keep>,
    /// Why.
    pub cause: Cause,
}

/// One step, from its intention to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRecord {
    /// Its name.
    pub step: String,
    /// Which attempt at it.
    pub attempt: u32,
    /// The request.
    pub intent: Arc<Intent>,
    /// When it was intended.
    pub intended_at_ms: u64,
    /// Not to be run before this time.
    pub not_before_ms: u64,
    /// To be settled by this time.
    pub deadline_ms: u64,
    /// What was observed, and when.
    pub outcome: Option<(Evidence, u64)>,
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Steps are open.
    Running,
    /// A person is needed.
    Stuck {
        /// The step that could not be done.
        step: String,
        /// Why.
        because: String,
        /// What a person must do.
        needs: String,
        /// Since when.
        since_ms: u64,
    },
    /// It is over.
    Finished {
        /// Since when.
        at_ms: u64,
        /// How it ended.
        outcome: Outcome,
    },
}

/// The state of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Its name.
    pub id: OperationId,
    /// What was fixed at its start.
    pub order: Arc<Order>,
    /// When that was.
    pub started_at_ms: u64,
    /// How far it is.
    pub status: Status,
    /// Every step, by token.
    pub steps: BTreeMap<Token, StepRecord>,
    /// What is known.
    pub facts: Facts,
}

/// Why an operation refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is not that of an open step: the report is late or doubled.
    #[error("step {token} of {operation} is not open; this report is late or doubled")]
    Fenced {
        /// The operation.
        operation: OperationId,
        /// The token it quoted.
        token: Token,
    },
    /// Only a stuck operation can be resumed.
    #[error("workflow {operation} is not stuck; there is nothing to resume")]
    NotStuck {
        /// The operation.
        operation: OperationId,
    },
    /// After the point of no return there is only forward.
    #[error(
        "workflow {operation} cannot be cancelled any more, it goes only forward: {because}. If it is stuck, `perennial workflow resume {operation}` goes on, and `perennial node delete` gives the node up"
    )]
    OnlyForward {
        /// The operation.
        operation: OperationId,
        /// Why.
        because: String,
    },
    /// It is being undone already.
    #[error("workflow {operation} is being cancelled already")]
    AlreadyCancelled {
        /// The operation.
        operation: OperationId,
    },
    /// Only an operation that brings the node onto an instance can end without one.
    #[error("workflow {operation} does not bring the node onto an instance; wait for it")]
    NotDiverted {
        /// The operation.
        operation: OperationId,
    },
    /// A loss can be accepted only of what was seen to be lost.
    #[error("volume {slot} was not seen to be lost in {operation}; only what is lost can be given up")]
    NotLost {
        /// The operation.
        operation: OperationId,
        /// The volume.
        slot: Slot,
    },
    /// The operation's own rules refuse what they made: a bug, kept from the journal.
    #[error("BUG: workflow {operation} cannot follow its own decision: {why}")]
    Inconsistent {
        /// The operation.
        operation: OperationId,
        /// What.
        why: String,
    },
}

/// A rule that holds: what to do, and from when on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Due {
    pub(crate) intent: Intent,
    pub(crate) not_before_ms: u64,
}

impl From<Intent> for Due {
    fn from(intent: Intent) -> Self {
        Self { intent, not_before_ms: 0 }
    }
}

impl Operation {
    /// Begins.
    #[must_use]
    pub fn start(id: OperationId, order: Order, at_ms: u64) -> Self {
        let tracked = order.spec.persist.root != RootMode::None;
        let old = match order.kind {
            OperationKind::Provision | OperationKind::Grow | OperationKind::Resume | OperationKind::Take => {
                None
            }
            OperationKind::Replace | OperationKind::Delete | OperationKind::Pause => {
                order.before.carrier.as_ref()
            }
        };
        // What an abandoned operation had launched may hold anything of the node's.
        let inherited = order.before.leftovers.iter().filter_map(|left| match &left.thing {
            Thing::Instance { instance, spot_request } => Some((instance.clone(), spot_request.clone())),
            _ => None,
        });
        let inherited: Vec<(InstanceId, Option<SpotRequestId>)> = inherited.collect();
        let on = old.map(|carrier| &carrier.instance).or(inherited.first().map(|(instance, _)| instance));
        let place = || on.map_or(Place::Free, |instance| Place::On(instance.clone()));
        let mut things = order.before.leftovers.clone();
        things.retain(|left| !matches!(left.thing, Thing::Instance { .. }));
        let mut volumes: BTreeMap<Slot, VolumeFact> = order
            .before
            .volumes
            .iter()
            .filter(|(slot, _)| tracked || **slot != Slot::Root || order.kind == OperationKind::Delete)
            .map(|(slot, held)| {
                let fact = VolumeFact {
                    id: Some(held.volume.clone()),
                    place: place(),
                    size_gib: held.size_gib,
                    zone: held.zone.clone(),
                    made_from: held.made_from.clone(),
                    found: held.found.clone(),
                    ..VolumeFact::absent(held.device.clone())
                };
                (slot.clone(), fact)
            })
            .collect();
        if !matches!(order.kind, OperationKind::Delete | OperationKind::Pause)
            && !found::is_in_place(order.kind)
        {
            for wanted in &order.spec.data_volumes {
                let chosen = devices::choose(&order.spec, volumes.values().map(|fact| fact.device.as_str()));
                volumes
                    .entry(Slot::Data(wanted.name.clone()))
                    .or_insert_with(|| VolumeFact::absent(wanted.device.clone().unwrap_or(chosen)));
            }
        }
        let interface = match order.spec.persist.network {
            NetworkMode::PrimaryEni | NetworkMode::SecondaryEni => Some(InterfaceFact {
                place: if order.before.interface.is_some() { place() } else { Place::Absent },
                held: order.before.interface.clone(),
                detach_tried_on: None,
                groups: None,
            }),
            NetworkMode::SecondaryIp | NetworkMode::IpPool | NetworkMode::None => None,
        };
        let goes_on = volumes.contains_key(&Slot::Root) && !order.reimage;
        let restore = order.restore.clone().map(|restore| restore.snapshots).unwrap_or_default();
        let root_snapshot = restore.get(&Slot::Root).cloned();
        let rung =
            match (order.kind, order.spec.persist.root) {
                _ if root_snapshot.is_some() => RootRung::Image,
                (
                    OperationKind::Replace | OperationKind::Provision | OperationKind::Resume,
                    RootMode::Adopt,
                ) if goes_on => RootRung::Adopt,
                (
                    OperationKind::Replace | OperationKind::Provision | OperationKind::Resume,
                    RootMode::Image,
                ) if goes_on => RootRung::Image,
                _ => RootRung::Fresh,
            };
        let known_over = match &order.cause {
            Cause::Signal { signal } => signal.is_over(),
            Cause::Request { .. } | Cause::ReturnToSpot { .. } | Cause::Found { .. } => false,
        };
        let inherited =
            inherited.into_iter().map(|(instance, spot_request)| Holder::new(instance, spot_request));
        let holders = old
            .map(|carrier| Holder {
                instance: carrier.instance.clone(),
                spot_request: carrier.spot_request.clone(),
                is_old: true,
                preserved: false,
                known_over,
                heard: match &order.cause {
                    Cause::Signal { signal } => signal.certainty(),
                    Cause::Request { .. } | Cause::ReturnToSpot { .. } | Cause::Found { .. } => {
                        Certainty::Well
                    }
                },
                fenced: false,
                deadline_ms: match &order.cause {
                    Cause::Signal { signal } => signal.deadline_ms(),
                    Cause::Request { .. } | Cause::ReturnToSpot { .. } | Cause::Found { .. } => None,
                },
            })
            .into_iter()
            .chain(inherited)
            .collect();
        let facts = Facts {
            subnet: order.before.subnet.clone().unwrap_or_else(|| order.spec.subnet.clone()),
            placement: order.before.placement.clone(),
            volumes,
            interface,
            address: order.before.address.or(order.spec.private_ip),
            address_on: None,
            elastic: None,
            holders,
            candidate: None,
            launches: 0,
            losses: 0,
            failed_launches: 0,
            last_failure: String::new(),
            ladder: Ladder::default(),
            survey: order.before.survey.as_deref().cloned().map(Arc::new),
            surveyed: None,
            rung,
            root_is_borrowed: root_snapshot.is_some(),
            cloned_from: None,
            restored: order.restore.iter().flat_map(loss::from_backup).collect(),
            root_snapshot,
            root_image: None,
            restore,
            copies: Vec::new(),
            superseded: Vec::new(),
            temporary: Vec::new(),
            outlived: Vec::new(),
            final_preserved: false,
            verified: false,
            carried_over: None,
            gone: Vec::new(),
            undoing: false,
            diverted: None,
            things,
            handover_dropped: false,
            uncleaned: BTreeMap::new(),
        };
        Self {
            id,
            order: Arc::new(order),
            started_at_ms: at_ms,
            status: Status::Running,
            steps: BTreeMap::new(),
            facts,
        }
    }

    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &OperationEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        if let Status::Finished { .. } = self.status {
            return illegal("the operation is finished");
        }
        match event {
            OperationEvent::Started(_) => return illegal("the operation has started already"),
            OperationEvent::StepIntended { step, attempt, intent, not_before_ms, deadline_ms } => {
                if self.has_open(step) {
                    return illegal("this step is open already");
                }
                if let Intent::Launch { .. } = intent {
                    self.facts.launches += 1;
                }
                self.steps.insert(
                    stamp.seq.into(),
                    StepRecord {
                        step: step.clone(),
                        attempt: *attempt,
                        intent: Arc::new(intent.clone()),
                        intended_at_ms: stamp.at_ms,
                        not_before_ms: *not_before_ms,
                        deadline_ms: *deadline_ms,
                        outcome: None,
                    },
                );
            }
            OperationEvent::StepSettled { token, evidence, .. } => {
                let Some(record) = self.steps.get_mut(token).filter(|record| record.outcome.is_none()) else {
                    return illegal("this step is not open");
                };
                record.outcome = Some((evidence.clone(), stamp.at_ms));
                let intent = Arc::clone(&record.intent);
                self.learn(&intent, evidence, stamp.at_ms);
            }
            OperationEvent::RungChosen { to, .. } => {
                self.facts.rung = *to;
                // An instance that was launched for the old rung is of no use to the new one.
                self.give_up_candidate(stamp.at_ms, GivenUp::RungChanged);
                if *to == RootRung::Image {
                    cloning::give_back(&mut self);
                }
            }
            OperationEvent::CandidateLost { instance, because } => {
                let Some(candidate) = self.facts.candidate.as_ref().filter(|c| c.instance == *instance)
                else {
                    return illegal("this instance is not the candidate");
                };
                if candidate.network.is_none() {
                    self.facts.failed_launches += 1;
                    self.facts.last_failure = format!("{}: {instance}: {because}", candidate.pool);
                }
                self.facts.losses += 1;
                let given_up = self.facts.undoing || self.facts.diverted.is_some();
                let why = if given_up { GivenUp::Cancelled } else { GivenUp::Lost };
                self.give_up_candidate(stamp.at_ms, why);
            }
            OperationEvent::Dropped { .. } => self.facts.handover_dropped = true,
            OperationEvent::SignalReceived { signal } => {
                for holder in self.facts.holders.iter_mut().filter(|h| h.instance == signal.instance) {
                    holder.known_over |= signal.is_over();
                    holder.heard = holder.heard.max(signal.certainty());
                    holder.deadline_ms =
                        [signal.deadline_ms(), holder.deadline_ms].into_iter().flatten().min();
                    // There is nothing to go back to: it goes forward after all.
                    self.facts.undoing &= !holder.is_old;
                }
                let about_candidate = self
                    .facts
                    .candidate
                    .as_ref()
                    .is_some_and(|candidate| candidate.instance == signal.instance);
                // The carrier is lost: its replacement does not wait for a volume to grow.
                if found::is_in_place(self.order.kind) && signal.is_loss() {
                    self.facts.carried_over = Some(signal.clone());
                    self.status = Status::Running;
                    for record in self.steps.values_mut().filter(|record| record.outcome.is_none()) {
                        let because = "the instance is lost".to_owned();
                        record.outcome = Some((Evidence::OutOfTime { because }, stamp.at_ms));
                    }
                }
                if about_candidate && signal.is_notice() {
                    self.facts.carried_over = Some(signal.clone());
                }
            }
            OperationEvent::VolumeFound { instance, slot, held } => {
                if self.facts.volumes.contains_key(slot) {
                    return illegal("another volume has this name");
                }
                found::remember(&mut self, instance, slot, held);
            }
            OperationEvent::Stuck { step, because, needs } => {
                self.status = Status::Stuck {
                    step: step.clone(),
                    because: because.clone(),
                    needs: needs.clone(),
                    since_ms: stamp.at_ms,
                };
            }
            OperationEvent::Resumed { accept_loss, spec, address, restore, .. } => {
                if !matches!(self.status, Status::Stuck { .. }) {
                    return illegal("the operation is not stuck");
                }
                self.facts.address = address.or(self.facts.address);
                self.status = Status::Running;
                self.facts.failed_launches = 0;
                self.facts.surveyed = None;
                if !spec.lives_like(&self.order.spec) {
                    self.facts.placement = None;
                }
                Arc::make_mut(&mut self.order).spec = spec.clone();
                for record in self.steps.values_mut().filter(|record| record.outcome.is_none()) {
                    record.deadline_ms = stamp.at_ms + record.intent.budget_ms();
                }
                self.facts.restored.retain(|slot, _| !accept_loss.contains(slot));
                self.facts.restored.extend(restore.iter().flat_map(loss::from_backup));
                for slot in accept_loss {
                    match slot {
                        Slot::Root => {
                            let snapshot = restore.as_ref().and_then(|from| from.snapshots.get(slot));
                            self.facts.volumes.remove(slot);
                            self.facts.rung =
                                if snapshot.is_some() { RootRung::Image } else { RootRung::Fresh };
                            if let Some(snapshot) = snapshot {
                                self.facts.root_snapshot = Some(snapshot.clone());
                                self.facts.root_is_borrowed = true;
                                self.facts.root_image = None;
                                // An instance that was launched to adopt the root is of no use to its image.
                                self.give_up_candidate(stamp.at_ms, GivenUp::RungChanged);
                            }
                        }
                        Slot::Data(_) if found::ends_with_its_loss(&self, slot, restore.as_ref()) => {
                            self.facts.volumes.remove(slot);
                            self.order_mut().before.volumes.remove(slot);
                        }
                        Slot::Data(_) => {
                            if let Some(fact) = self.facts.volumes.get_mut(slot) {
                                fact.id = None;
                                fact.place = Place::Absent;
                            }
                            if let Some(snapshot) = restore.as_ref().and_then(|from| from.snapshots.get(slot))
                            {
                                self.facts.restore.insert(slot.clone(), snapshot.clone());
                            }
                        }
                    }
                }
            }
            OperationEvent::CancelRequested { .. } => {
                if self.facts.undoing || self.no_return().is_some() {
                    return illegal("the operation cannot be undone");
                }
                self.begin_undoing(stamp.at_ms);
            }
            OperationEvent::Diverted { cause, delete } => {
                if !self.may_be_diverted() {
                    return illegal("the operation does not bring the node onto an instance");
                }
                if self.facts.diverted.is_none() {
                    self.withdraw(stamp.at_ms);
                }
                self.facts.diverted = Some(Diversion { delete: *delete, cause: cause.clone() });
            }
            OperationEvent::Finished { outcome, .. } => {
                self.status = Status::Finished { at_ms: stamp.at_ms, outcome: *outcome };
            }
        }
        Ok(self)
    }

    /// The steps that may run now.
    #[must_use]
    pub fn open_steps(&self) -> Vec<OpenStep<Intent>> {
        match self.status {
            Status::Running => self
                .steps
                .iter()
                .filter(|(_, record)| record.outcome.is_none())
                .map(|(token, record)| OpenStep {
                    token: *token,
                    step: record.step.clone(),
                    intent: Arc::clone(&record.intent),
                    intended_at_ms: record.intended_at_ms,
                    not_before_ms: record.not_before_ms,
                    deadline_ms: record.deadline_ms,
                    priority: 0,
                })
                .collect(),
            Status::Stuck { .. } | Status::Finished { .. } => Vec::new(),
        }
    }

    /// Whether a step of this name is open.
    pub(crate) fn has_open(&self, step: &str) -> bool {
        self.steps.values().any(|record| record.outcome.is_none() && record.step == step)
    }

    /// Instances that matter to this operation.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceId> {
        let holders = self.facts.holders.iter().map(|holder| holder.instance.clone());
        let carrier = self.order.before.carrier.iter().filter(|_| found::is_in_place(self.order.kind));
        let holders = holders.chain(carrier.map(|carrier| carrier.instance.clone()));
        holders.chain(self.facts.candidate.iter().map(|candidate| candidate.instance.clone())).collect()
    }

    /// The volumes that were seen to be lost, by the last step about each.
    pub(crate) fn lost(&self) -> Vec<Slot> {
        let mut last: BTreeMap<&Slot, bool> = BTreeMap::new();
        for record in self.steps.values() {
            if let Some(slot) = loss::looks_at(&record.intent) {
                last.insert(slot, matches!(record.outcome, Some((Evidence::Lost { .. }, _))));
            }
        }
        last.into_iter().filter(|(_, is_lost)| *is_lost).map(|(slot, _)| slot.clone()).collect()
    }

    /// Whether it goes back, or only frees what the node holds.
    pub(crate) const fn gives_up(&self) -> bool {
        self.facts.undoing || self.facts.diverted.is_some()
    }

    /// Whether the node's root volume is kept at all.
    #[must_use]
    pub fn keeps_root(&self) -> bool {
        self.order.spec.persist.root != RootMode::None
    }

    /// Why the operation cannot be undone any more; `None` while it can.
    #[must_use]
    pub fn no_return(&self) -> Option<String> {
        if self.facts.diverted.is_some() {
            return Some("it frees what the node holds, as somebody asked".to_owned());
        }
        if matches!(self.order.kind, OperationKind::Provision | OperationKind::Resume)
            || found::is_in_place(self.order.kind)
        {
            return None;
        }
        let Some(old) = self.facts.holders.iter().find(|holder| holder.is_old) else {
            return Some("there is no instance to go back to".to_owned());
        };
        let fencing = self.steps.values().any(
            |record| matches!(record.intent.as_ref(), Intent::Fence { instance, .. } if *instance == old.instance),
        );
        if old.known_over {
            Some(format!("{} is gone", old.instance))
        } else if fencing {
            Some(format!("{} is terminated, or is being so", old.instance))
        } else if self.order.kind == OperationKind::Delete && self.facts.holders.len() > 1 {
            Some("it has taken over from an abandoned workflow".to_owned())
        } else {
            None
        }
    }

    pub(crate) fn order_mut(&mut self) -> &mut Order {
        Arc::make_mut(&mut self.order)
    }

    /// The instance that carried the node when the operation began.
    pub(crate) fn old(&self) -> Option<&Holder> {
        self.facts.holders.iter().find(|holder| holder.is_old)
    }

    /// Whether the node can be paused, or its deletion begun, in the middle of this operation.
    #[must_use]
    pub fn may_be_diverted(&self) -> bool {
        !self.facts.undoing
            && matches!(
                self.order.kind,
                OperationKind::Provision
                    | OperationKind::Replace
                    | OperationKind::Resume
                    | OperationKind::Pause
            )
    }

    /// Whether its pool has had no address for it so far.
    pub(crate) fn lacks_address(&self) -> bool {
        self.order.spec.pool().is_some() && self.facts.address.is_none()
    }

    /// Gives up the new instance and what is not asked for yet.
    fn withdraw(&mut self, at_ms: u64) {
        self.status = Status::Running;
        self.give_up_candidate(at_ms, GivenUp::Cancelled);
        let mut suspected = Vec::new();
        for record in self.steps.values_mut().filter(|record| record.outcome.is_none()) {
            let withdrawn = match record.intent.as_ref() {
                // Not asked for yet, so surely not made.
                Intent::Launch { .. } => record.not_before_ms > at_ms,
                // Its completion may take hours; it can be deleted before.
                Intent::SnapshotRoot { .. } | Intent::SnapshotVolume { .. } => {
                    suspected.push(Arc::clone(&record.intent));
                    true
                }
                // The growth of a volume is looked at again when it is asked for again; nothing is launched any more.
                Intent::Grow { .. } | Intent::Survey(_) => true,
                // As are the volumes on the instance.
                Intent::Preserve { .. } => self.order.kind == OperationKind::Take,
                _ => false,
            };
            if withdrawn {
                record.outcome = Some((Evidence::OutOfTime { because: "cancelled".to_owned() }, at_ms));
            }
            record.deadline_ms = at_ms.max(record.not_before_ms) + record.intent.budget_ms();
        }
        for intent in suspected {
            self.suspect(&intent);
        }
    }

    fn begin_undoing(&mut self, at_ms: u64) {
        self.facts.undoing = true;
        self.withdraw(at_ms);
        // A live detach may still come true: the volume is looked at, and attached again if it has left.
        if let Some(old) = self.old().map(|old| old.instance.clone()) {
            for fact in self.facts.volumes.values_mut() {
                if fact.detach_tried_on.as_ref() == Some(&old) {
                    fact.place = Place::Free;
                }
            }
            if let Some(fact) = &mut self.facts.interface
                && fact.place.is_on(&old)
                && fact.detach_tried_on.as_ref() == Some(&old)
            {
                fact.place = Place::Free;
            }
        }
    }

    /// Remembers that a step may have made something, to be looked for.
    fn suspect(&mut self, intent: &Intent) {
        for (made, tags) in intent.makes() {
            let thing = Thing::Unsettled { made, tags: tags.clone() };
            let because = format!("{}: {} did not settle", self.id, intent.step());
            self.facts.things.push(Leftover { thing, because });
        }
    }

    /// What a deletion takes over when it supersedes this operation, which is stuck: everything that belongs to the node or
    /// may have been made for it.
    #[must_use]
    pub fn handed_over(&self, at_ms: u64) -> Resources {
        let mut end = self.clone();
        end.give_up_candidate(at_ms, GivenUp::Cancelled);
        let facts = &end.facts;
        let gone = |id: &str| facts.gone.iter().any(|gone| gone == id);
        let mut left = end.order.before.clone();
        left.carrier = left
            .carrier
            .filter(|_| found::is_in_place(end.order.kind) || end.old().is_some_and(|old| !old.fenced));
        left.placement = facts.placement.clone();
        left.origins.extend(loss::changed(&end));
        left.survey = facts.survey.as_deref().cloned().map(Box::new);
        for (slot, fact) in &facts.volumes {
            match &fact.id {
                Some(volume) => {
                    let held = fact.held(volume);
                    left.volumes.insert(slot.clone(), held);
                }
                None => {
                    left.volumes.remove(slot);
                }
            }
        }
        left.volumes.retain(|_, held| !gone(held.volume.as_str()));
        if let Some(fact) = &facts.interface {
            left.interface = fact.held.clone();
        }
        left.interface = left.interface.filter(|held| !gone(held.interface.as_str()));
        if end.order.spec.persist.network != NetworkMode::None {
            left.address = facts.address;
        }
        left.retained.extend(end.outlived("the root of an instance that was lost before the end"));
        left.retained.extend(facts.superseded.iter().cloned());
        left.retained.retain(|old| !gone(old.volume.as_str()));
        left.leftovers = end.leftovers();
        // A volume is the node's or left over, never both: what is left over is deleted, whatever the deletion keeps.
        left.leftovers.retain(|old| {
            !matches!(&old.thing, Thing::Volume { volume } if left.volumes.values().any(|held| held.volume == *volume))
        });
        if let (Some(image), Some(snapshot)) = (&facts.root_image, &facts.root_snapshot) {
            left.root_images.push(RootImage {
                image: image.clone(),
                snapshot: snapshot.clone(),
                borrowed: facts.root_is_borrowed,
            });
        } else if let Some(snapshot) = facts.root_snapshot.as_ref().filter(|_| !facts.root_is_borrowed) {
            let because = format!("{}: made for a root image", end.id);
            let thing = Thing::Snapshot { snapshot: snapshot.clone() };
            left.leftovers.push(Leftover { thing, because });
        }
        left.root_images.retain(|root| !gone(root.image.as_str()));
        let old: Vec<SnapshotId> =
            end.order.before.volumes.values().filter_map(|held| held.made_from.clone()).collect();
        let held = |snapshot: &SnapshotId| {
            left.volumes.values().any(|held| held.made_from.as_ref() == Some(snapshot))
                || gone(snapshot.as_str())
        };
        let loose: Vec<SnapshotId> =
            facts.copies.iter().chain(&old).filter(|copy| !held(copy)).cloned().collect();
        for snapshot in loose {
            let because = format!("{}: of a data volume", end.id);
            left.leftovers.push(Leftover { thing: Thing::Snapshot { snapshot }, because });
        }
        for holder in facts.holders.iter().filter(|holder| !holder.is_old && !holder.fenced) {
            left.leftovers.push(Leftover {
                thing: Thing::Instance {
                    instance: holder.instance.clone(),
                    spot_request: holder.spot_request.clone(),
                },
                because: format!("{}: launched by it", end.id),
            });
        }
        for record in end.steps.values().filter(|record| record.outcome.is_none()) {
            for (made, tags) in record.intent.makes() {
                left.leftovers.push(Leftover {
                    thing: Thing::Unsettled { made, tags: tags.clone() },
                    because: format!("{}: {} did not settle", end.id, record.step),
                });
            }
        }
        left
    }

    /// Roots of lost instances that may have carried the node for a while.
    pub(crate) fn outlived(&self, why: &str) -> Vec<Retained> {
        let roots = self.facts.outlived.iter();
        roots
            .map(|root| Retained {
                volume: root.clone(),
                slot: Slot::Root,
                because: format!("{}: {why}", self.id),
                foreign: false,
            })
            .collect()
    }

    /// Turns evidence into facts.
    fn learn(&mut self, intent: &Intent, evidence: &Evidence, at_ms: u64) {
        let deleting = self.order.kind == OperationKind::Delete;
        let ending = deleting || (self.facts.undoing && self.order.kind == OperationKind::Provision);
        if self.may_be_left(intent)
            && let Some(id) = intent.cleans()
        {
            let because = match evidence {
                Evidence::Refused { code, message } => Some(format!("{code}: {message}")),
                Evidence::OutOfTime { because } => Some(format!("not in time: {because}")),
                _ => None,
            };
            if let Some(because) = because {
                self.facts.uncleaned.insert(id, because);
            }
        }
        if (self.facts.undoing || self.facts.diverted.is_some())
            && matches!(evidence, Evidence::OutOfTime { .. })
        {
            self.suspect(intent);
        }
        found::leave(self, evidence);
        let undoing = self.facts.undoing;
        let given_up = self.gives_up();
        let another = devices::another(self).filter(|_| *evidence == Evidence::DeviceInUse);
        let facts = &mut self.facts;
        match (intent, evidence) {
            (Intent::Resolve { .. }, Evidence::Resolved(placement)) => {
                facts.placement = Some(placement.clone());
                found::map(self);
            }
            (Intent::Survey(question), evidence) => survey::learn(self, question, evidence, at_ms),
            (Intent::Grow { slot, .. }, Evidence::Grown { size_gib }) => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.size_gib = Some(*size_gib);
                }
            }
            (Intent::CreateVolume { .. }, Evidence::VolumeCreated { volume }) => self.made(intent, volume),
            (Intent::CloneRoot { volume: of, .. }, Evidence::VolumeCreated { volume }) => {
                cloning::cloned(self, of, volume);
            }
            // It may come into being all the same.
            (Intent::CloneRoot { .. }, Evidence::OutOfTime { .. }) if !given_up => self.suspect(intent),
            (Intent::TakeVolume { slot, volume, zone, .. }, Evidence::VolumeTaken { size_gib }) => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.id = Some(volume.clone());
                    fact.place = Place::Free;
                    fact.size_gib = Some(*size_gib);
                    fact.zone = Some(zone.clone());
                }
            }
            (
                Intent::CreateInterface { groups, .. },
                Evidence::InterfaceCreated { interface, private_ip },
            ) => {
                facts.address = Some(*private_ip);
                let held = HeldInterface { interface: interface.clone(), private_ip: *private_ip };
                facts.interface = Some(InterfaceFact::new(Some(held), Some(groups.clone())));
            }
            (Intent::Preserve { instance, .. }, Evidence::Preserved | Evidence::PreservedWith { .. }) => {
                for holder in &mut facts.holders {
                    holder.preserved |= holder.instance == *instance;
                }
                if let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == *instance) {
                    if candidate.protected {
                        facts.final_preserved = true;
                    } else {
                        candidate.protected = true;
                    }
                }
            }
            (Intent::Detach { slot, .. }, Evidence::Released) => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.place = Place::Free;
                }
            }
            (Intent::Detach { slot, instance, .. }, _) => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.detach_tried_on = Some(instance.clone());
                    if undoing {
                        fact.place = Place::Free;
                    }
                }
            }
            (Intent::DetachInterface { instance, .. }, evidence) => {
                if let Some(fact) = facts.interface.as_mut().filter(|fact| fact.place.is_on(instance)) {
                    fact.detach_tried_on = Some(instance.clone());
                    if undoing || *evidence == Evidence::Released {
                        fact.place = Place::Free;
                    }
                }
            }
            (Intent::Fence { instance, .. }, Evidence::Fenced { .. }) => {
                for holder in facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
                    holder.fenced = true;
                    holder.known_over = true;
                }
            }
            (Intent::Release { slot, from, .. }, Evidence::Released) => {
                if let Some(fact) = facts.volumes.get_mut(slot).filter(|fact| fact.place.is_on(from)) {
                    fact.place = Place::Free;
                }
            }
            (Intent::ReleaseInterface { .. }, Evidence::Released) => {
                if let Some(interface) = &mut facts.interface {
                    interface.place = Place::Free;
                }
            }
            // What is to end anyway may be gone already.
            (Intent::Release { slot, volume, .. }, Evidence::Lost { .. }) if ending => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.place = Place::Free;
                }
                facts.gone.push(volume.to_string());
            }
            (Intent::ReleaseInterface { interface, .. }, Evidence::Lost { .. }) if ending => {
                if let Some(fact) = &mut facts.interface {
                    fact.place = Place::Free;
                }
                facts.gone.push(interface.to_string());
            }
            // An interface holds no data: it is made anew, with the node's address.
            (
                Intent::ReleaseInterface { .. } | Intent::AttachInterface { .. } | Intent::Launch { .. },
                Evidence::Lost { .. },
            ) => {
                facts.interface = Some(InterfaceFact::new(None, None));
            }
            (Intent::SnapshotRoot { .. }, Evidence::SnapshotCompleted { snapshot }) => {
                facts.root_snapshot = Some(snapshot.clone());
            }
            (Intent::SnapshotVolume { slot, volume, .. }, Evidence::SnapshotCompleted { snapshot }) => {
                facts.copies.push(snapshot.clone());
                if let Some(fact) = facts
                    .volumes
                    .get_mut(slot)
                    .filter(|fact| fact.place == Place::Free && fact.id.as_ref() == Some(volume))
                {
                    fact.snapshot = Some(snapshot.clone());
                }
            }
            (Intent::RegisterImage { .. }, Evidence::ImageAvailable { image, .. }) => {
                facts.root_image = Some(image.clone());
            }
            (
                Intent::Launch { pool, image, interface, volumes, .. },
                Evidence::Launched { instance, spot_request },
            ) => {
                let launched_with = volumes
                    .iter()
                    .map(|volume| (volume.device.clone(), (volume.slot.clone(), volume.snapshot.clone())));
                if let (crate::steps::LaunchInterface::Kept(_), Some(held)) =
                    (interface, &mut facts.interface)
                {
                    held.place = Place::On(instance.clone());
                }
                facts.candidate = Some(Candidate {
                    instance: instance.clone(),
                    pool: pool.clone(),
                    image: image.clone(),
                    spot_request: spot_request.clone(),
                    network: None,
                    root_volume: None,
                    root_device: None,
                    protected: self.order.spec.persist.root == RootMode::None,
                    adopted: false,
                    launched_with: launched_with.collect(),
                    address: None,
                });
            }
            (Intent::Launch { pool, .. }, Evidence::NoCapacity { code, .. }) => {
                let (pool, code) = (pool.clone(), code.clone());
                capacity::climb(self, pool, code, at_ms);
            }
            (Intent::Launch { pool, volumes, .. }, Evidence::InstanceGone { reason, .. }) => {
                if !volumes.is_empty() {
                    facts.suspect_volumes_of(intent, &self.id);
                }
                let code = reason.clone().unwrap_or_else(|| "instance terminated".to_owned());
                let pool = pool.clone();
                facts.failed_launches += 1;
                facts.last_failure = format!("{pool}: {code}");
                capacity::climb(self, pool, code, at_ms);
            }
            (
                Intent::Start { instance, .. },
                Evidence::Started { interface, private_ip, root_device, root_volume, volumes },
            ) => {
                let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == *instance) else {
                    return;
                };
                facts.failed_launches = 0;
                candidate.network = Some((interface.clone(), *private_ip));
                candidate.root_device = Some(root_device.clone());
                candidate.root_volume.clone_from(root_volume);
                if root_volume.is_none() {
                    candidate.protected = true;
                }
                let (pool, launched_with) = (candidate.pool.clone(), candidate.launched_with.clone());
                for (device, volume) in volumes {
                    let Some((slot, snapshot)) = launched_with.get(device) else { continue };
                    self.replace_by_copy(slot, volume, snapshot, &pool);
                    if let Some(fact) = self.facts.volumes.get_mut(slot) {
                        fact.goes_to(instance);
                    }
                }
            }
            (Intent::AdoptRoot { instance, temporary, .. }, Evidence::Adopted { .. }) => {
                if let Some(root) = facts.volumes.get_mut(&Slot::Root) {
                    root.place = Place::On(instance.clone());
                    root.touched = true;
                }
                if let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == *instance) {
                    candidate.adopted = true;
                    // The flag of an adopted root is not documented: it is looked at before anything else happens.
                    candidate.protected = false;
                    candidate.root_volume = facts.volumes.get(&Slot::Root).and_then(|root| root.id.clone());
                }
                if let Some(temporary) = temporary {
                    facts.add_temporary(temporary.clone());
                }
            }
            (Intent::Attach { slot, instance, .. }, Evidence::Attached) => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.goes_to(instance);
                }
            }
            (Intent::Attach { slot, .. }, Evidence::DeviceInUse) => {
                if let (Some(fact), Some(another)) = (facts.volumes.get_mut(slot), another) {
                    fact.device = another;
                }
            }
            // As with a volume: what may have been attached counts as attached.
            (
                Intent::AttachInterface { instance, .. },
                Evidence::Attached | Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. },
            ) => {
                if let Some(fact) = &mut facts.interface {
                    fact.place = Place::On(instance.clone());
                }
            }
            (Intent::ReturnAddress { .. }, Evidence::AddressReturned { .. }) => {
                facts.address = None;
                facts.address_on = None;
            }
            // One that is gone is found so by the steps that need it.
            (Intent::SetGroups { groups, .. }, Evidence::GroupsSet | Evidence::Lost { .. }) => {
                if let Some(fact) = &mut facts.interface {
                    fact.groups = Some(groups.clone());
                }
            }
            (Intent::MoveAddress { instance, .. }, Evidence::Moved { address }) => {
                match facts.candidate.as_mut().filter(|candidate| candidate.instance == *instance) {
                    Some(candidate) if Self::has_moved(candidate) => candidate.address = Some(*address),
                    _ => facts.address = Some(*address),
                }
                facts.address_on = Some(instance.clone());
            }
            (Intent::Associate { allocation, instance, .. }, Evidence::Associated { public_ip }) => {
                let held = HeldElastic { allocation: allocation.clone(), public_ip: *public_ip };
                facts.elastic = Some((held, instance.clone()));
            }
            (Intent::Verify { .. }, Evidence::Verified) => facts.verified = true,
            (Intent::DeleteVolume { volume, .. }, Evidence::Deleted) => {
                for temporary in facts.temporary.iter_mut().filter(|temporary| temporary.volume == *volume) {
                    temporary.deleted = true;
                }
                facts.gone.push(volume.to_string());
                // Made by this operation and undone: if it goes forward after all, it is made anew.
                for fact in
                    facts.volumes.values_mut().filter(|fact| !deleting && fact.id.as_ref() == Some(volume))
                {
                    fact.id = None;
                    fact.place = Place::Absent;
                }
            }
            (Intent::DeleteInterface { interface }, Evidence::Deleted) => {
                facts.gone.push(interface.to_string());
                if !deleting && let Some(fact) = &mut facts.interface {
                    *fact = InterfaceFact::new(None, None);
                }
            }
            (Intent::Find { made, tags }, Evidence::Found { things }) => {
                facts.gone.push(Thing::suspected(*made, tags));
                for thing in things {
                    if let Thing::Instance { instance, spot_request } = thing {
                        facts.holders.push(Holder::new(instance.clone(), spot_request.clone()));
                    } else {
                        let because = format!("{}: made by a step that did not settle", self.id);
                        facts.things.push(Leftover { thing: thing.clone(), because });
                    }
                }
            }
            (Intent::DeregisterImage { image }, Evidence::Deleted) => facts.gone.push(image.to_string()),
            (Intent::DeleteSnapshot { snapshot }, Evidence::Deleted) => facts.gone.push(snapshot.to_string()),
            // An attachment whose outcome is not known may have happened: the volume counts as there.
            (
                Intent::Attach { slot, instance, .. },
                Evidence::InstanceGone { .. } | Evidence::OutOfTime { .. },
            ) => {
                if let Some(fact) = facts.volumes.get_mut(slot) {
                    fact.goes_to(instance);
                }
            }
            // Whatever became of an adoption that did not succeed, the volume is seen free again before it is used.
            (Intent::AdoptRoot { instance, .. }, _) => {
                if let Some(root) = facts.volumes.get_mut(&Slot::Root) {
                    root.place = Place::On(instance.clone());
                    root.touched = true;
                }
            }
            _ => {}
        }
        if let Evidence::InstanceGone { instance, .. } = evidence
            && self.old().is_some_and(|old| old.instance == *instance)
        {
            self.facts.undoing = false;
        }
        if let Evidence::InstanceGone { instance, state, .. } = evidence
            && state.is_none_or(InstanceState::is_over)
        {
            for holder in self.facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
                holder.known_over = true;
            }
        }
    }

    /// A volume was created: one that was absent, or a copy of one that is in another zone.
    fn made(&mut self, intent: &Intent, volume: &VolumeId) {
        let Intent::CreateVolume { slot, size_gib, zone, snapshot, .. } = intent else { return };
        let restored = self.facts.restore.remove(slot).is_some();
        let why = if restored { "it came back from a backup" } else { "the node moved to another zone" };
        let Some(fact) = self.facts.volumes.get(slot) else { return };
        let superseded = self.superseded(slot, fact, why);
        let is_copy = superseded.is_some();
        self.facts.superseded.extend(superseded);
        if let Some(fact) = self.facts.volumes.get_mut(slot) {
            *fact = VolumeFact {
                id: Some(volume.clone()),
                place: Place::Free,
                size_gib: Some(*size_gib),
                zone: Some(zone.clone()),
                made_from: snapshot.clone().filter(|_| is_copy && !restored),
                found: fact.found.as_ref().map(Found::copied),
                // A copy holds the node's data before any instance has written to it.
                touched: is_copy || (restored && self.order.kind != OperationKind::Provision),
                ..VolumeFact::absent(fact.device.clone())
            };
        }
    }

    /// The launch has made a copy of a volume.
    fn replace_by_copy(&mut self, slot: &Slot, volume: &VolumeId, snapshot: &SnapshotId, pool: &Pool) {
        let zone = self.facts.placement.as_ref().map(|placement| self.zone_of(placement, pool).to_owned());
        let Some(fact) = self.facts.volumes.get(slot) else { return };
        let superseded = self.superseded(slot, fact, "it went on as a copy, by its snapshot");
        self.facts.superseded.extend(superseded);
        let restored = self.facts.restore.remove(slot).is_some();
        let wanted = self.launch_size(slot, pool);
        if let Some(fact) = self.facts.volumes.get_mut(slot) {
            *fact = VolumeFact {
                id: Some(volume.clone()),
                size_gib: wanted.or(fact.size_gib),
                zone,
                made_from: (!restored).then(|| snapshot.clone()),
                found: fact.found.as_ref().map(Found::copied),
                ..VolumeFact::absent(fact.device.clone())
            };
        }
    }

    /// How large the launch made a volume.
    fn launch_size(&self, slot: &Slot, pool: &Pool) -> Option<u32> {
        self.steps.values().rev().find_map(|record| match record.intent.as_ref() {
            Intent::Launch { pool: asked, volumes, .. } if asked == pool => {
                volumes.iter().find(|volume| volume.slot == *slot)?.size_gib
            }
            _ => None,
        })
    }

    /// The request an instance was launched by.
    fn launch_of(&self, instance: &InstanceId) -> Option<Arc<Intent>> {
        self.steps.values().rev().find_map(|record| match &record.outcome {
            Some((Evidence::Launched { instance: launched, .. }, _)) if launched == instance => {
                Some(Arc::clone(&record.intent))
            }
            _ => None,
        })
    }

    /// The candidate becomes one more instance to fence.
    fn give_up_candidate(&mut self, at_ms: u64, why: GivenUp) {
        let keeps_root = self.keeps_root();
        let Some(candidate) = self.facts.candidate.take() else { return };
        let rung = self.rung_of(&candidate.pool);
        // What was made with an instance that never ran is nobody's.
        if candidate.network.is_none()
            && !candidate.launched_with.is_empty()
            && let Some(launch) = self.launch_of(&candidate.instance)
        {
            self.facts.suspect_volumes_of(&launch, &self.id);
        }
        if Self::has_moved(&candidate)
            && self.facts.final_preserved
            && self.order.spec.persist.network == NetworkMode::PrimaryEni
            && let Some((interface, _)) = &candidate.network
        {
            let thing = Thing::Interface { interface: interface.clone() };
            self.facts.things.push(Leftover { thing, because: format!("{}: of a lost instance", self.id) });
        }
        let adopting = self.steps.values().any(|record| {
            record.outcome.is_none()
                && matches!(record.intent.as_ref(), Intent::AdoptRoot { instance, .. } if *instance == candidate.instance)
        });
        let facts = &mut self.facts;
        if adopting && let Some(root) = facts.volumes.get_mut(&Slot::Root) {
            // The task may have put it there already, with a DeleteOnTermination nobody has looked at.
            root.place = Place::On(candidate.instance.clone());
            root.touched = true;
        }
        let carries = facts.volumes.values().any(|fact| fact.place.is_on(&candidate.instance));
        if let Some(root) = candidate.root_volume.clone().filter(|_| !candidate.adopted) {
            // A root that was launched to be the node's own may have been written to; only one that waited for an
            // adoption is surely of no worth.
            // One that was not protected yet dies with its instance, if no call under way protects it after all.
            let adopts = matches!(rung, RootRung::Adopt | RootRung::Clone);
            let of_no_worth = adopts || !keeps_root || !candidate.protected;
            if of_no_worth || why == GivenUp::RungChanged {
                facts.add_temporary(root);
            } else {
                facts.outlived.push(root);
            }
        }
        if facts.address_on.as_ref() == Some(&candidate.instance) {
            facts.address_on = None;
        }
        if facts.elastic.as_ref().is_some_and(|(_, on)| *on == candidate.instance) {
            facts.elastic = None;
        }
        facts.final_preserved = false;
        facts.verified = false;
        facts.carried_over = None;
        facts
            .holders
            .push(Holder { preserved: !carries, ..Holder::new(candidate.instance, candidate.spot_request) });
        if why == GivenUp::Lost {
            capacity::climb(self, candidate.pool, "lost before it carried the node".to_owned(), at_ms);
        }
    }

    /// Which intents hold under the facts.
    pub(crate) fn rules(&self) -> Vec<Due> {
        if self.facts.undoing {
            return undo::rules(self);
        }
        if self.facts.diverted.is_some() {
            return pause::rules(self);
        }
        match self.order.kind {
            OperationKind::Provision => provision::rules(self),
            OperationKind::Replace => replace::rules(self),
            OperationKind::Delete => delete::rules(self),
            OperationKind::Grow => grow::rules(self),
            OperationKind::Pause => pause::rules(self),
            OperationKind::Resume => provision::rules(self),
            OperationKind::Take => found::rules(self),
        }
    }

    /// Whether an intent only cleans up: when it cannot be done, the operation ends without it and lists what is left.
    pub(crate) fn may_be_left(&self, intent: &Intent) -> bool {
        intent.cleans().is_some_and(|id| {
            self.order.kind != OperationKind::Delete
                || self.facts.things.iter().any(|left| left.thing.id() == id)
        })
    }

    /// Whether something is still to be cleaned up in this operation.
    pub(crate) fn is_to_clean(&self, id: &str) -> bool {
        !self.facts.uncleaned.contains_key(id) && !self.facts.gone.iter().any(|gone| gone == id)
    }

    /// Snapshots of data volumes, and an interface, that nothing of the node's needs any more.
    pub(crate) fn superseded_things(&self) -> Vec<Thing> {
        let (facts, before) = (&self.facts, &self.order.before);
        let mut things = Vec::new();
        let needed = |snapshot: &SnapshotId| {
            facts.volumes.values().any(|fact| fact.made_from.as_ref() == Some(snapshot))
        };
        let Some(candidate) = facts.candidate.as_ref().filter(|_| facts.verified) else { return things };
        let old = before.volumes.values().filter_map(|held| held.made_from.as_ref());
        for snapshot in facts.copies.iter().chain(old).filter(|snapshot| !needed(snapshot)) {
            things.push(Thing::Snapshot { snapshot: snapshot.clone() });
        }
        if Self::has_moved(candidate)
            && let Some(held) = facts.interface.as_ref().and_then(|fact| fact.held.as_ref())
        {
            things.push(Thing::Interface { interface: held.interface.clone() });
        }
        things
    }

    /// What is left over at the end of this operation.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        let mut left: Vec<Leftover> = self.facts.things.clone();
        let temporary = self.facts.temporary.iter().filter(|temporary| !temporary.deleted);
        let volumes = temporary.map(|temporary| Thing::Volume { volume: temporary.volume.clone() });
        let superseded = self.order.before.root_images.iter().filter(|root| {
            let gone = |id: &str| self.facts.gone.iter().any(|gone| gone == id);
            !root.borrowed && gone(root.image.as_str()) && !gone(root.snapshot.as_str())
        });
        let snapshots = superseded.map(|root| Thing::Snapshot { snapshot: root.snapshot.clone() });
        let made = if self.facts.undoing { undo::made(self) } else { Vec::new() };
        let copies = self.superseded_things();
        for thing in volumes.chain(snapshots).chain(made).chain(copies) {
            if !left.iter().any(|known| known.thing == thing) {
                let because = format!("{}: not cleaned up", self.id);
                left.push(Leftover { thing, because });
            }
        }
        left.retain(|left| !self.facts.gone.contains(&left.thing.id()));
        for left in &mut left {
            if let Some(because) = self.facts.uncleaned.get(&left.thing.id()) {
                left.because = format!("{}: {because}", self.id);
            }
        }
        left
    }

    /// What belongs to the node, if everything is in place.
    fn finished(&self) -> Option<(Resources, Outcome)> {
        if self.steps.values().any(|record| record.outcome.is_none()) {
            return None;
        }
        if self.facts.undoing {
            return undo::restored(self).map(|resources| (resources, Outcome::Cancelled));
        }
        if self.facts.diverted.is_some() {
            let outcome =
                if self.order.kind == OperationKind::Pause { Outcome::Completed } else { Outcome::Paused };
            return pause::paused(self, self.started_at_ms).map(|resources| (resources, outcome));
        }
        let resources = match self.order.kind {
            OperationKind::Provision | OperationKind::Replace | OperationKind::Resume => {
                self.carried_resources()
            }
            OperationKind::Pause => pause::paused(self, self.started_at_ms),
            OperationKind::Delete => delete::remaining(self),
            OperationKind::Grow => grow::grown(self),
            OperationKind::Take => found::taken_up(self),
        };
        resources.map(|resources| (resources, Outcome::Completed))
    }

    /// What belongs to the node once the candidate carries it.
    fn carried_resources(&self) -> Option<Resources> {
        let facts = &self.facts;
        let candidate = facts.candidate.as_ref()?;
        let (interface, private_ip) = candidate.network.clone()?;
        if !facts.verified || facts.holders.iter().any(|holder| !holder.fenced) {
            return None;
        }
        let before = &self.order.before;
        let mut volumes: BTreeMap<Slot, HeldVolume> = BTreeMap::new();
        for (slot, fact) in &facts.volumes {
            if let Some(volume) = &fact.id {
                // All of them are where the node lives now.
                volumes.insert(slot.clone(), HeldVolume { zone: None, ..fact.held(volume) });
            }
        }
        let mut retained = before.retained.clone();
        retained.extend(facts.superseded.iter().cloned());
        if self.keeps_root()
            && let Some(root) = &candidate.root_volume
        {
            let device = candidate.root_device.clone().unwrap_or_default();
            let new = HeldVolume {
                volume: root.clone(),
                device,
                size_gib: None,
                zone: None,
                made_from: None,
                found: None,
            };
            if let Some(old) = volumes.insert(Slot::Root, new)
                && old.volume != *root
            {
                retained.push(Retained {
                    volume: old.volume,
                    slot: Slot::Root,
                    because: format!(
                        "{}: the root went on as another volume ({})",
                        self.id,
                        self.rung_of(&candidate.pool)
                    ),
                    foreign: false,
                });
            }
        }
        if !self.keeps_root()
            && let Some(old) = before.volumes.get(&Slot::Root)
        {
            retained.push(Retained {
                volume: old.volume.clone(),
                slot: Slot::Root,
                because: format!("{}: the node's root is not kept any more", self.id),
                foreign: false,
            });
        }
        retained.extend(self.outlived("the root of an instance that was lost before the end"));
        let mut root_images: Vec<RootImage> = before
            .root_images
            .iter()
            .filter(|image| !facts.gone.contains(&image.image.to_string()))
            .cloned()
            .collect();
        if let (Some(image), Some(snapshot)) = (&facts.root_image, &facts.root_snapshot) {
            root_images.push(RootImage {
                image: image.clone(),
                snapshot: snapshot.clone(),
                borrowed: facts.root_is_borrowed,
            });
        }
        let subnet = candidate.pool.subnet.as_ref().unwrap_or(&facts.subnet);
        Some(Resources {
            subnet: (*subnet != self.order.spec.subnet).then(|| subnet.clone()),
            placement: facts.placement.as_ref().map(|placement| match &candidate.pool.subnet {
                Some(subnet) => placement.moved(&facts.subnet, subnet),
                None => placement.clone(),
            }),
            carrier: Some(Carrier {
                instance: candidate.instance.clone(),
                instance_type: candidate.pool.instance_type.clone(),
                market: candidate.pool.market,
                interface,
                private_ip,
                spot_request: candidate.spot_request.clone(),
            }),
            volumes,
            interface: self
                .interface_on(candidate)
                .zip(self.address_on(candidate))
                .map(|(interface, private_ip)| HeldInterface { interface, private_ip }),
            address: self.address_on(candidate),
            elastic: facts.elastic.as_ref().map(|(held, _)| held.clone()),
            root_images,
            retained,
            leftovers: self.leftovers(),
            origins: loss::origins(self, candidate),
            survey: facts.survey.as_deref().cloned().map(Box::new),
            strangers: Vec::new(),
        })
    }

    /// The tags that say whose a thing is.
    pub(crate) fn own_tags(&self) -> TagMap {
        TagMap::from([
            ("perennial:owner".to_owned(), self.order.owner.clone()),
            ("perennial:node".to_owned(), self.id.node().to_string()),
        ])
    }

    /// Instances of the node's but this one: those of this operation, and the one before it.
    pub(crate) fn own_instances(&self, but: &InstanceId) -> Vec<InstanceId> {
        let before = self.order.before.carrier.iter().map(|carrier| carrier.instance.clone());
        let mut own: Vec<InstanceId> = self.instances().into_iter().chain(before).collect();
        own.retain(|instance| instance != but);
        own.sort();
        own.dedup();
        own
    }

    /// The tags of a resource made by a step. Nothing in them changes when the step is repeated.
    pub(crate) fn tags(&self, step: &str, role: &str) -> TagMap {
        let mut tags = self.order.spec.tags.clone();
        let node = self.id.node();
        tags.entry("Name".to_owned()).or_insert_with(|| node.to_string());
        for (key, value) in [
            ("perennial:owner", self.order.owner.clone()),
            ("perennial:node", node.to_string()),
            ("perennial:generation", self.order.generation.to_string()),
            ("perennial:operation", self.id.to_string()),
            ("perennial:step", format!("{}/{step}/{}", self.id, self.next_attempt(step))),
            ("perennial:role", role.to_owned()),
        ] {
            tags.insert(key.to_owned(), value);
        }
        tags
    }

    /// The client token of a step: 64 hexadecimal characters, the same whenever this attempt is repeated.
    pub(crate) fn client_token(&self, step: &str) -> String {
        let attempt = self.next_attempt(step);
        blake3::hash(format!("{}\n{}\n{step}\n{attempt}", self.order.owner, self.id).as_bytes())
            .to_hex()
            .to_string()
    }

    /// Which attempt at a step comes next, from 1.
    pub(crate) fn next_attempt(&self, step: &str) -> u32 {
        let before = self.steps.values().filter(|record| record.step == step).count();
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The volumes that belong to the node on the candidate, once everything is in place.
    pub(crate) fn volumes_on_candidate(&self) -> BTreeMap<Slot, VolumeId> {
        let mut volumes: BTreeMap<Slot, VolumeId> = self
            .facts
            .volumes
            .iter()
            .filter_map(|(slot, fact)| Some((slot.clone(), fact.id.clone()?)))
            .collect();
        if self.keeps_root()
            && let Some(root) =
                self.facts.candidate.as_ref().and_then(|candidate| candidate.root_volume.clone())
        {
            volumes.insert(Slot::Root, root);
        }
        volumes
    }

    /// Whether the market of the candidate can be interrupted.
    #[must_use]
    pub fn candidate_market(&self) -> Option<Market> {
        self.facts.candidate.as_ref().map(|candidate| candidate.pool.market)
    }
}

/// Reasons of a failed launch that no other pool would mend (EC2 User Guide, "Instance terminates immediately").
fn is_ours_to_mend(reason: &str) -> bool {
    matches!(
        reason,
        "Client.InternalError" | "Client.VolumeLimitExceeded" | "Client.InvalidSnapshot.NotFound"
    )
}

impl Facts {
    pub(crate) fn add_temporary(&mut self, volume: VolumeId) {
        let is_ours = self.volumes.values().any(|fact| fact.id.as_ref() == Some(&volume));
        if !is_ours && !self.temporary.iter().any(|temporary| temporary.volume == volume) {
            self.temporary.push(Temporary { volume, deleted: false });
        }
    }

    /// Data volumes that a launch may have made for an instance that never ran: to be looked for.
    fn suspect_volumes_of(&mut self, launch: &Intent, operation: &OperationId) {
        if let Intent::Launch { tags, .. } = launch {
            let thing = Thing::Unsettled { made: Made::Volume, tags: tags.clone() };
            let because = format!("{operation}: made with an instance that never ran");
            self.things.push(Leftover { thing, because });
        }
    }

    /// Whether an instance is fenced, or none of ours.
    pub(crate) fn is_fenced(&self, instance: &InstanceId) -> bool {
        self.holders.iter().find(|holder| holder.instance == *instance).is_some_and(|holder| holder.fenced)
    }
}

/// A decision in the making: each event is remembered at once, so that the rules see what it changed.
#[derive(Debug)]
pub struct Draft {
    /// The state after the events so far.
    pub state: Operation,
    /// The events so far.
    pub events: Vec<OperationEvent>,
    seq: Seq,
    now_ms: u64,
}

impl Draft {
    /// A new operation, with its first steps.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn start(id: OperationId, order: Order, now_ms: u64) -> Result<Self, Refusal> {
        let state = Operation::start(id, order.clone(), now_ms);
        let mut draft = Self { state, events: vec![OperationEvent::Started(order)], seq: Seq(1), now_ms };
        draft.intend()?;
        Ok(draft)
    }

    /// Goes on from a state.
    #[must_use]
    pub fn from(state: &Operation, head: Seq, now_ms: u64) -> Self {
        Self { state: state.clone(), events: Vec::new(), seq: head, now_ms }
    }

    fn push(&mut self, event: OperationEvent) -> Result<(), Refusal> {
        self.seq = self.seq.next();
        let stamp = Stamp { seq: self.seq, at_ms: self.now_ms };
        self.state = self.state.clone().evolve(stamp, &event).map_err(|illegal| Refusal::Inconsistent {
            operation: self.state.id.clone(),
            why: illegal.to_string(),
        })?;
        self.events.push(event);
        Ok(())
    }

    /// Writes an intent for every rule that holds and has no open step; finishes when everything is in place.
    fn intend(&mut self) -> Result<(), Refusal> {
        if self.state.status != Status::Running {
            return Ok(());
        }
        let launches_on = !self.state.facts.undoing && self.state.facts.diverted.is_none();
        if self.state.facts.failed_launches >= LAUNCH_FAILURES_MAX && launches_on {
            let because = format!(
                "{LAUNCH_FAILURES_MAX} launches in a row ended before their instance ran; the last: {}",
                self.state.facts.last_failure
            );
            let needs = format!("find out why, then: perennial workflow resume {}", self.state.id);
            return self.stuck("launch", because, needs);
        }
        if let Some((because, needs)) = pool::missing(&self.state) {
            return self.stuck("take_address", because, needs);
        }
        if let Some(reason) = capacity::gives_up(&self.state) {
            let requested_by = capacity::BY_ITSELF.to_owned();
            self.push(OperationEvent::CancelRequested { requested_by, reason: Some(reason) })?;
        }
        if let Some((steps, because)) = notice::dropped(&self.state, self.now_ms) {
            self.push(OperationEvent::Dropped { steps, because })?;
        }
        for due in self.state.rules() {
            let step = due.intent.step();
            if self.state.has_open(&step) {
                continue;
            }
            let not_before_ms = due.not_before_ms.max(self.now_ms);
            self.push(OperationEvent::StepIntended {
                attempt: self.state.next_attempt(&step),
                step,
                deadline_ms: not_before_ms + due.intent.budget_ms(),
                intent: due.intent,
                not_before_ms,
            })?;
        }
        if let Some((resources, outcome)) = self.state.finished() {
            self.push(OperationEvent::Finished { resources, outcome })?;
        } else if self.state.open_steps().is_empty() {
            // The rules leave nothing to do and nothing is finished: a bug, but one that keeps every resource.
            self.push(OperationEvent::Stuck {
                step: "rules".into(),
                because: "BUG: no rule holds and the operation is not finished".into(),
                needs: "a report to the developers with `perennial journal export`".into(),
            })?;
        }
        Ok(())
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when the token is not open.
    pub fn report(&mut self, token: Token, evidence: Evidence) -> Result<(), Refusal> {
        let open = self.state.steps.get(&token).filter(|record| record.outcome.is_none());
        let Some(record) = open.filter(|_| !matches!(self.state.status, Status::Finished { .. })) else {
            return Err(Refusal::Fenced { operation: self.state.id.clone(), token });
        };
        let (step, intent) = (record.step.clone(), Arc::clone(&record.intent));
        if let Evidence::OutOfTime { because } = &evidence
            && !intent.has_another_way()
            && !self.state.may_be_left(&intent)
            && !(self.state.gives_up() && undo::goes_on_without(&self.state, &intent))
        {
            // What became of it is not known, so it is not settled: after a resume the same request looks on.
            let because = format!("its time is over: {because}");
            let needs = hanging::needs(&self.state.id, &intent);
            return self.stuck(&step, because, needs);
        }
        self.push(OperationEvent::StepSettled { token, step: step.clone(), evidence: evidence.clone() })?;
        for event in found::taken(&self.state, &intent, &evidence) {
            self.push(event)?;
        }
        self.consequences(&step, &intent, &evidence)?;
        self.intend()
    }

    /// What an unwelcome observation leads to.
    fn consequences(&mut self, step: &str, intent: &Intent, evidence: &Evidence) -> Result<(), Refusal> {
        let candidate = self.state.facts.candidate.as_ref().map(|candidate| candidate.instance.clone());
        let concerns_candidate = |instance: &InstanceId| candidate.as_ref() == Some(instance);
        if self.state.gives_up() {
            match (intent, evidence) {
                (Intent::Launch { .. }, Evidence::Launched { instance, .. }) => {
                    return self.push(OperationEvent::CandidateLost {
                        instance: instance.clone(),
                        because: "the workflow is cancelled".to_owned(),
                    });
                }
                (Intent::Release { .. }, Evidence::Lost { .. })
                    if self.state.facts.undoing && self.state.order.kind == OperationKind::Provision =>
                {
                    return Ok(());
                }
                (intent, _) if undo::goes_on_without(&self.state, intent) => return Ok(()),
                _ => {}
            }
        }
        match (intent, evidence) {
            (
                Intent::Launch { .. } | Intent::Start { .. },
                Evidence::InstanceGone { instance, reason: Some(reason), .. },
            ) if is_ours_to_mend(reason) => {
                if concerns_candidate(instance) {
                    let because = format!("it ended with {reason}");
                    self.push(OperationEvent::CandidateLost { instance: instance.clone(), because })?;
                }
                let needs = format!(
                    "remove the cause (often a key), then: perennial workflow resume {}",
                    self.state.id
                );
                self.stuck(step, format!("{instance} ended with {reason}"), needs)
            }
            (_, Evidence::InstanceGone { instance, state, reason }) if concerns_candidate(instance) => {
                let state = state.map_or("not known any more".to_owned(), |state| state.to_string());
                let reason = reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
                self.push(OperationEvent::CandidateLost {
                    instance: instance.clone(),
                    because: format!("it is {state}{reason}"),
                })
            }
            (Intent::Start { instance, .. }, Evidence::OutOfTime { because })
                if concerns_candidate(instance) =>
            {
                self.push(OperationEvent::CandidateLost {
                    instance: instance.clone(),
                    because: format!("it did not start in time: {because}"),
                })
            }
            // Refused on an instance that is lost anyway: the loss may be the reason; the next one is asked again.
            (Intent::AdoptRoot { instance, .. }, _) if !concerns_candidate(instance) => Ok(()),
            (
                Intent::AdoptRoot { instance, .. },
                Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message },
            ) => self.fall(instance, evidence, format!("CreateReplaceRootVolumeTask: {code}: {message}")),
            (Intent::AdoptRoot { instance, .. }, Evidence::OutOfTime { because }) => {
                self.fall(instance, evidence, format!("the adoption did not end in time: {because}"))
            }
            (
                Intent::CloneRoot { .. },
                Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message },
            ) => self.fall_from_clone(evidence, format!("CopyVolumes: {code}: {message}")),
            (Intent::CloneRoot { .. }, Evidence::OutOfTime { because }) => {
                self.fall_from_clone(evidence, format!("the copy was not there in time: {because}"))
            }
            (Intent::Launch { image, .. }, Evidence::Launched { instance, .. })
                if self.state.rung() == RootRung::Image
                    && self.state.facts.root_image.as_ref() != Some(image) =>
            {
                self.push(OperationEvent::CandidateLost {
                    instance: instance.clone(),
                    because: "it was launched before the root went on as an image".to_owned(),
                })
            }
            (Intent::Survey(_), evidence) => match survey::missing(&self.state, evidence) {
                Some((because, needs)) => self.stuck(step, because, needs),
                None => Ok(()),
            },
            // A live detach is only tried; the volume follows after the fence.
            (Intent::Detach { .. } | Intent::DetachInterface { .. }, _) => Ok(()),
            // Gone for ever, and needed no more; or made anew.
            (Intent::Release { .. }, Evidence::Lost { .. })
                if self.state.order.kind == OperationKind::Delete =>
            {
                Ok(())
            }
            (
                Intent::ReleaseInterface { .. }
                | Intent::AttachInterface { .. }
                | Intent::SetGroups { .. }
                | Intent::Launch { .. },
                Evidence::Lost { .. },
            ) => Ok(()),
            (Intent::AttachInterface { instance, .. }, Evidence::NoCapacity { code, message }) => {
                let because = format!("{code}: {instance} takes no further interface: {message}");
                let needs = format!(
                    "detach another interface from it; or name types that take more interfaces than {}, `perennial node apply`, and terminate it: then another is launched. Then: perennial workflow resume {}",
                    self.state.facts.candidate.as_ref().map_or("its own", |c| c.pool.instance_type.as_str()),
                    self.state.id
                );
                self.stuck(step, because, needs)
            }
            // The node is well without it; what is left is listed.
            (intent, _) if self.state.may_be_left(intent) => Ok(()),
            (Intent::Attach { slot, device, .. }, Evidence::DeviceInUse) => {
                let fact = self.state.facts.volumes.get(slot);
                if fact.is_some_and(|fact| fact.device != *device) {
                    return Ok(());
                }
                let because = format!("no device name is free on the instance; {device} was the last");
                let needs = format!("detach a volume, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            (_, Evidence::HeldByAnother { what, by }) => {
                let because = format!("{what} is held by {by}");
                let needs = format!("free {what}, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            (_, Evidence::Lost { what }) => self.stuck(
                step,
                what.clone(),
                format!(
                    "{}bring it back, or take it from a backup (`perennial node backups {}`): perennial workflow resume {} \
                     --from-backup <backup>, or accept the loss: --accept-loss <volume>",
                    loss::goes_on_by_itself(&self.state, intent),
                    self.state.id.node(),
                    self.state.id
                ),
            ),
            (_, Evidence::Refused { code, message }) => {
                let because = format!("{code}: {message}");
                let needs = format!("remove the cause, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            (
                Intent::CreateVolume { .. } | Intent::CreateInterface { .. },
                Evidence::NoCapacity { code, message },
            ) => {
                let because = format!("{code}: {message}");
                let needs = format!("capacity or a quota, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            _ => Ok(()),
        }
    }

    fn fall(&mut self, instance: &InstanceId, evidence: &Evidence, because: String) -> Result<(), Refusal> {
        let (from, to) = (self.state.facts.rung, cloning::after_adoption(&self.state, evidence));
        self.push(OperationEvent::RungChosen { instance: instance.clone(), from, to, because })
    }

    fn fall_from_clone(&mut self, evidence: &Evidence, because: String) -> Result<(), Refusal> {
        match cloning::tried_on(&self.state) {
            Some(instance) if self.state.facts.rung == RootRung::Clone => {
                self.fall(&instance, evidence, because)
            }
            _ => Ok(()),
        }
    }

    fn stuck(&mut self, step: &str, because: String, needs: String) -> Result<(), Refusal> {
        if self.state.status == Status::Running {
            self.push(OperationEvent::Stuck { step: step.to_owned(), because, needs })?;
        }
        Ok(())
    }

    /// Takes what was heard about an instance of this operation. Leaves no events when it is of no consequence.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn signal(&mut self, signal: &Signal) -> Result<(), Refusal> {
        if matches!(self.state.status, Status::Finished { .. }) {
            return Ok(());
        }
        let candidate =
            self.state.facts.candidate.as_ref().filter(|candidate| candidate.instance == signal.instance);
        let holder = self.state.facts.holders.iter().find(|holder| holder.instance == signal.instance);
        let (is_candidate, is_holder) = (candidate.is_some(), holder.is_some());
        let is_carrier = found::is_in_place(self.state.order.kind)
            && self.state.order.before.carrier.as_ref().is_some_and(|c| c.instance == signal.instance);
        if !(is_candidate || is_holder || is_carrier) || !signal.is_loss() {
            return Ok(());
        }
        // A young instance that a describe does not show proves nothing; the steps that work on it decide.
        if is_candidate && matches!(signal.news, News::Missing { .. }) {
            return Ok(());
        }
        // What changes nothing is not written: our own terminations echo back as events, and the sweep repeats itself.
        let certainty = signal.certainty();
        let known_of_holder = holder.is_some_and(|holder| holder.known_over || certainty <= holder.heard);
        let known_of_candidate = is_candidate
            && signal.is_notice()
            && self.state.facts.carried_over.as_ref().is_some_and(|known| certainty <= known.certainty());
        if known_of_holder || known_of_candidate {
            return Ok(());
        }
        self.push(OperationEvent::SignalReceived { signal: signal.clone() })?;
        if is_candidate {
            let carries = self.state.facts.volumes.values().any(|fact| fact.place.is_on(&signal.instance));
            // What has days left, or carries already, is finished first; the notice is the next operation's cause.
            let finished_first = signal.is_notice() && (carries || certainty == Certainty::Announced);
            if !finished_first {
                self.push(OperationEvent::CandidateLost {
                    instance: signal.instance.clone(),
                    because: signal.to_string(),
                })?;
            }
        }
        self.intend()
    }

    /// Takes a person's word that what was missing is there.
    ///
    /// # Errors
    /// [`Refusal::NotStuck`], [`Refusal::NotLost`].
    pub fn resume(
        &mut self,
        requested_by: String,
        accept_loss: Vec<Slot>,
        spec: NodeSpec,
    ) -> Result<(), Refusal> {
        self.resume_with(requested_by, accept_loss, spec, None, None)
    }

    /// As [`resume`](Self::resume), with an address that was taken from the node's pool, and with a backup that what is lost
    /// comes back from.
    ///
    /// # Errors
    /// [`Refusal::NotStuck`], [`Refusal::NotLost`].
    pub fn resume_with(
        &mut self,
        requested_by: String,
        accept_loss: Vec<Slot>,
        spec: NodeSpec,
        address: Option<Ipv4Addr>,
        restore: Option<Restore>,
    ) -> Result<(), Refusal> {
        if !matches!(self.state.status, Status::Stuck { .. }) {
            return Err(Refusal::NotStuck { operation: self.state.id.clone() });
        }
        for slot in &accept_loss {
            if !self.state.lost().contains(slot) {
                return Err(Refusal::NotLost { operation: self.state.id.clone(), slot: slot.clone() });
            }
        }
        self.push(OperationEvent::Resumed { requested_by, accept_loss, spec, address, restore })?;
        self.intend()
    }

    /// Takes a person's word that it is to be undone.
    ///
    /// # Errors
    /// [`Refusal::OnlyForward`], [`Refusal::AlreadyCancelled`].
    pub fn cancel(&mut self, requested_by: String, reason: Option<String>) -> Result<(), Refusal> {
        let operation = self.state.id.clone();
        if self.state.facts.undoing {
            return Err(Refusal::AlreadyCancelled { operation });
        }
        if let Some(because) = self.state.no_return() {
            return Err(Refusal::OnlyForward { operation, because });
        }
        self.push(OperationEvent::CancelRequested { requested_by, reason })?;
        self.intend()
    }

    /// Frees what the node holds instead of bringing it onto an instance.
    ///
    /// # Errors
    /// [`Refusal::AlreadyCancelled`], [`Refusal::NotDiverted`].
    pub fn divert(&mut self, cause: Cause, delete: Option<Keep>) -> Result<(), Refusal> {
        let operation = self.state.id.clone();
        if self.state.facts.undoing {
            return Err(Refusal::AlreadyCancelled { operation });
        }
        if !self.state.may_be_diverted() {
            return Err(Refusal::NotDiverted { operation });
        }
        self.push(OperationEvent::Diverted { cause, delete })?;
        self.intend()
    }

    /// Ends a stuck operation, whose things a deletion takes over.
    ///
    /// # Errors
    /// [`Refusal::NotStuck`].
    pub fn abandon(&mut self) -> Result<Resources, Refusal> {
        if !matches!(self.state.status, Status::Stuck { .. }) {
            return Err(Refusal::NotStuck { operation: self.state.id.clone() });
        }
        let resources = self.state.handed_over(self.now_ms);
        let outcome = Outcome::Abandoned;
        self.push(OperationEvent::Finished { resources: resources.clone(), outcome })?;
        Ok(resources)
    }

    /// The resources it finished with, and how, if it did in this draft.
    #[must_use]
    pub fn finished_with(&self) -> Option<(&Resources, Outcome)> {
        self.events.iter().rev().find_map(|event| match event {
            OperationEvent::Finished { resources, outcome } => Some((resources, *outcome)),
            _ => None,
        })
    }
}
