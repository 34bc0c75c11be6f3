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
//! - A volume that holds the node's data is never deleted, except by `delete` and `prune`, by id, where the request says so.

mod draft;
mod facts;
mod learning;
mod outcome;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use perennial_engine::domain::{Illegal, OpenStep, Stamp};
use perennial_engine::ids::Token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::draft::Draft;
pub use self::facts::{
    Candidate, Facts, Holder, InterfaceFact, Ladder, Place, Rejected, RootRung, Temporary, VolumeFact,
};
use self::learning::GivenUp;
use crate::aws::{InstanceId, Market, SnapshotId, SpotRequestId, SubnetId, VolumeId};
use crate::backup::BackupId;
use crate::found;
use crate::node::{HeldVolume, Leftover, OperationId, OperationKind, Outcome, Resources, Thing};
use crate::signal::{Cause, Certainty, Signal};
use crate::spec::{NetworkMode, NodeSpec, RootMode};
use crate::steps::{Evidence, Intent, Slot, TagMap};
use crate::{
    ahead, cloning, delete, devices, elsewhere, final_backup, grow, keeping, loss, pause, provision, prune,
    replace, undo,
};

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
    /// For `prune`: the retained volumes that are to be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prune: Vec<prune::Condemned>,
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
        /// The addresses that were taken with it from pools of other subnets.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
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
            OperationKind::Provision
            | OperationKind::Grow
            | OperationKind::Resume
            | OperationKind::Take
            | OperationKind::Prune => None,
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
            devices::add_absent(&order.spec, &mut volumes);
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
            Cause::Request { .. }
            | Cause::ReturnToSpot { .. }
            | Cause::Found { .. }
            | Cause::FileChanged { .. }
            | Cause::RetainedLonger { .. } => false,
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
                    Cause::Request { .. }
                    | Cause::ReturnToSpot { .. }
                    | Cause::Found { .. }
                    | Cause::FileChanged { .. }
                    | Cause::RetainedLonger { .. } => Certainty::Well,
                },
                fenced: false,
                deadline_ms: match &order.cause {
                    Cause::Signal { signal } => signal.deadline_ms(),
                    Cause::Request { .. }
                    | Cause::ReturnToSpot { .. }
                    | Cause::Found { .. }
                    | Cause::FileChanged { .. }
                    | Cause::RetainedLonger { .. } => None,
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
            elsewhere: None,
            uefi_data: order.before.uefi_data.clone(),
            address: order.before.address.or(order.spec.private_ip),
            addresses_elsewhere: order.before.addresses_elsewhere.clone(),
            address_on: None,
            elastic: None,
            holders,
            candidate: None,
            launches: 0,
            losses: 0,
            failed_launches: 0,
            last_failure: String::new(),
            failure_reason: None,
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
                if let Intent::AdoptRoot { .. } = intent {
                    ahead::outdate_root(&mut self);
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
            OperationEvent::Resumed { accept_loss, spec, address, addresses_elsewhere, restore, .. } => {
                if !matches!(self.status, Status::Stuck { .. }) {
                    return illegal("the operation is not stuck");
                }
                self.facts.granted(*address, addresses_elsewhere);
                self.status = Status::Running;
                self.facts.failed_launches = 0;
                self.facts.surveyed = None;
                if !spec.lives_like(&self.order.spec) {
                    self.facts.placement = None;
                }
                let before = std::mem::replace(&mut self.order_mut().spec, spec.clone());
                provision::mend(&mut self, &before);
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
                // It gives way at once; what is gone all the same is found so by the next one.
                Intent::DeleteVolume { .. } => self.order.kind == OperationKind::Prune,
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

    /// Which intents hold under the facts.
    pub(crate) fn rules(&self) -> Vec<Due> {
        if self.facts.undoing {
            return undo::rules(self);
        }
        if self.facts.diverted.is_some() {
            return final_backup::with(self, pause::rules(self));
        }
        let due = match self.order.kind {
            OperationKind::Provision => provision::rules(self),
            OperationKind::Replace => replace::rules(self),
            OperationKind::Delete => delete::rules(self),
            OperationKind::Grow => grow::rules(self),
            OperationKind::Pause => pause::rules(self),
            OperationKind::Resume => provision::rules(self),
            OperationKind::Take => found::rules(self),
            OperationKind::Prune => prune::rules(self),
        };
        final_backup::with(self, due)
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

    /// Snapshots of volumes, and an interface, that nothing of the node's needs any more.
    pub(crate) fn superseded_things(&self) -> Vec<Thing> {
        let (facts, before) = (&self.facts, &self.order.before);
        let mut things = Vec::new();
        let needed = |snapshot: &SnapshotId| {
            facts.volumes.values().any(|fact| fact.made_from.as_ref() == Some(snapshot))
                || (facts.root_image.is_some() && facts.root_snapshot.as_ref() == Some(snapshot))
        };
        // One that is still under way, or is made into an image, may be any of them.
        let is_awaited = self.steps.values().any(|record| {
            let uses = matches!(
                record.intent.as_ref(),
                Intent::SnapshotRoot { .. } | Intent::SnapshotVolume { .. } | Intent::RegisterImage { .. }
            );
            uses && record.outcome.is_none()
        });
        let Some(candidate) = facts.candidate.as_ref().filter(|_| facts.verified) else { return things };
        let old = before.volumes.values().filter_map(|held| held.made_from.as_ref());
        for snapshot in facts.copies.iter().chain(old).filter(|snapshot| !is_awaited && !needed(snapshot)) {
            things.push(Thing::Snapshot { snapshot: snapshot.clone() });
        }
        if Self::has_moved(candidate)
            && let Some(held) = facts.interface.as_ref().and_then(|fact| fact.held.as_ref())
        {
            things.push(Thing::Interface { interface: held.interface.clone() });
        }
        things.extend(elsewhere::spare(self));
        things.extend(keeping::superseded(self));
        things
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
