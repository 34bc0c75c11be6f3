//! Backups: snapshots of all volumes of a node at one moment, while it runs.
//!
//! A backup is no operation: it does not hold the node, and nothing waits for it. Each node has a *backup
//! catalog* of its backups, the stream `backup/<node>.<n>`; the node's own stream does not grow with them.
//! When a backup catalog has had
//! [`CATALOG_BACKUPS_MAX`] backups and is at rest, the next one goes on with what it knew, so that years of
//! backups fold in milliseconds.
//!
//! ```text
//!   schedule, request, signal
//!        │
//!        ▼                     snapshots seen            all complete
//!      began ───► take ──────────────► await ─────────────► completed ───► prune what is more than is kept
//!                  │                     │
//!                  │ not taken           │ one has failed, or is gone
//!                  ▼                     ▼
//!                failed ──► find       failed ──► prune the set
//!                  (what may have been made after all, to be pruned)
//! ```
//!
//! The steps:
//!
//! - `take`
//!   - may start when: the backup has begun, and the last one of its volumes is 15 s old
//!   - does: CreateSnapshots over the node's volumes of the instance; the others are excluded
//!   - observed by: DescribeSnapshots by the tag `perennial:step` shows one for each volume
//!   - on failure: the backup has failed; the next one is taken at its time
//!   - safe to repeat because of: the tag, which is looked for first, and for longer after an unknown outcome
//! - `await`
//!   - may start when: taken
//!   - observed by: each snapshot is complete
//!   - on failure: the backup has failed, and its set is pruned
//!   - safe to repeat because: it changes nothing
//! - `find`
//!   - may start when: a take ended, and what it made is not known
//!   - observed by: DescribeSnapshots by the tag, for minutes
//!   - on failure: it is tried again after the next backup
//!   - safe to repeat because: it changes nothing
//! - `prune`
//!   - may start when: a newer backup is complete, or the set has failed, or the node was deleted with its
//!     backups
//!   - does: DeleteSnapshot by id, of a snapshot that this catalog recorded and that carries our tags
//!   - observed by: it is gone, seen twice
//!   - on failure: it stays listed as a pending deletion, and is tried again after the next backup
//!   - safe to repeat because: "not found" is "done"
//!
//! # What a stop in the middle leaves behind
//! Nothing that is not known: every snapshot carries the tags of its step before it exists, and the step
//! stays open until a look shows what became of it.
//!
//! # Rules that are never broken
//! - A complete backup is pruned only when as many newer ones as are kept are complete. One that failed
//!   prunes nothing but itself.
//! - A backup that volumes of this node or of a new one are being made from is *held*: it is not pruned
//!   before that operation is over.
//! - Only snapshots that a backup catalog of this node recorded are pruned.
//!
//! # Final ones
//! When an operation takes the volumes from the node's instance, it takes a snapshot of each while it is free
//! (`rules::final_snapshot`). The backup catalog takes them over (`began`, `inherited`) and awaits them as
//! any other. The newest complete final one is kept beside the `backup.keep` others. It may be copied while
//! another backup is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_engine::domain::{Illegal, OpenStep, Stamp};
use perennial_engine::ids::Token;
use perennial_engine::machine;
use perennial_engine::machine::{Due, Fault, Intended, StepRecord, gone_back_ms, made_from};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
use crate::model::backup_id::BackupId;
use crate::model::installation::{INSTALLATION_TAG, Mark};
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::model::signal::Cause;
use crate::model::volume::{Slot, TagMap, TakenSnapshot};
use crate::step::backup::{BackupEvidence, BackupIntent};
use crate::step::intent::Intent;
use crate::step::name::StepName;

/// How many backups a backup catalog has before the next one goes on: eight hours of one every five
/// minutes, about a thousand events.
pub const CATALOG_BACKUPS_MAX: u32 = 100;

/// How many snapshots may be waiting for their deletion before no more backups are taken: something is
/// wrong then that only a person can mend, and it would cost more with every backup. Two full sets of the
/// most volumes a node can have.
pub const PENDING_DELETIONS_MAX: usize = 54;

/// How many snapshots are being deleted at once: a set of a few volumes, and far below a second's budget of
/// DeleteSnapshot.
const PRUNES_MAX: usize = 4;

/// How many failures a backup catalog remembers in its state; the journal keeps all.
pub const FAILURES_MAX: usize = 8;

/// EC2 takes snapshots of one volume at least this far apart (`SnapshotCreationPerVolumeRateExceeded`).
pub const VOLUME_PAUSE_MS: u64 = 15_000;

/// Why a backup is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupCause {
    /// It was time.
    Schedule,
    /// Somebody asked for it, or something was heard.
    Asked {
        /// Who or what.
        cause: Cause,
    },
    /// The volumes were free: see `rules::final_snapshot`.
    Final {
        /// The operation that took them from the node's instance, and the snapshots.
        operation: OperationId,
    },
}

impl BackupCause {
    /// In one word, for tables.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Schedule => "timed",
            Self::Asked { .. } => "asked",
            Self::Final { .. } => "final",
        }
    }
}

impl std::fmt::Display for BackupCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Schedule => f.write_str("scheduled"),
            Self::Asked { cause } => cause.fmt(f),
            Self::Final { operation } => write!(f, "final, by workflow {operation}"),
        }
    }
}

/// What a backup fixes at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupOrder {
    /// Of which node.
    pub node: NodeName,
    /// Which of its backups it is, counted from 1.
    pub number: u64,
    /// Whose installation this is; in every tag.
    pub owner: String,
    /// The installation's identity; it stands in every tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<Mark>,
    /// What carries the node.
    pub instance: InstanceId,
    /// The node's generation.
    pub generation: u64,
    /// The volumes, by their places in the node.
    pub volumes: BTreeMap<Slot, VolumeId>,
    /// How many complete ones are kept once this one is.
    pub keep: u32,
    /// Further tags of each snapshot.
    #[serde(default, skip_serializing_if = "TagMap::is_empty")]
    pub tags: TagMap,
    /// Why.
    pub cause: BackupCause,
}

/// What happened in a backup catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupEvent {
    /// The backup catalog goes on from another one; the first one begins empty.
    Opened {
        /// What was known at the end of that.
        carried: Carried,
    },
    /// A backup began.
    Began(BackupOrder),
    /// A step may run: the whole request, written before the first call. This event's place is the step's
    /// token.
    StepIntended {
        /// Of which backup.
        backup: u64,
        /// Its name.
        step: StepName,
        /// The request.
        intent: BackupIntent,
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
        step: StepName,
        /// What was observed.
        evidence: BackupEvidence,
    },
    /// Every snapshot of the backup is complete: it can be restored.
    Completed {
        /// Which.
        backup: u64,
    },
    /// The backup has failed; what there is of it is pruned.
    Failed {
        /// Which.
        backup: u64,
        /// Why.
        because: String,
    },
    /// All backups are given up: the node was deleted with them.
    GivenUp {
        /// Why.
        because: String,
    },
    /// Volumes are being made from a backup: it is not pruned meanwhile.
    Held {
        /// Which.
        backup: u64,
        /// By which operation.
        by: OperationId,
    },
    /// The operation is over.
    HoldReleased {
        /// Which.
        by: OperationId,
    },
    /// When backups are due from now on.
    Scheduled {
        /// `None` when none is due before the node is in place again, or its file asks for backups.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schedule: Option<BackupSchedule>,
    },
    /// The next backup catalog goes on.
    Closed {
        /// Its number.
        next: u64,
    },
    /// The backup's snapshots were taken by an operation; from now on they are the catalog's.
    Inherited {
        /// Which.
        backup: u64,
        /// By which operation.
        operation: OperationId,
        /// Its snapshots, by the places of their volumes in the node.
        snapshots: BTreeMap<Slot, TakenSnapshot>,
        /// When the first of them was taken, in milliseconds since the Unix epoch.
        taken_at_ms: u64,
    },
}

/// When a node's backups are due.
///
/// The node file and the node's state decide that. The catalog has a copy, so that the time of the next
/// backup follows from the catalog alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupSchedule {
    /// From one backup to the next, in milliseconds.
    pub every_ms: u64,
    /// The node last changed at this time: its first backup is due at its first turn after it.
    pub since_ms: u64,
    /// Whose installation this is; in every tag.
    pub owner: String,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Its snapshots are being asked for.
    Taking,
    /// They are being copied; their moment is fixed.
    Copying,
    /// It can be restored.
    Complete,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Taking => "taking",
            Self::Copying => "copying",
            Self::Complete => "complete",
        })
    }
}

/// One backup that has not failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// What was fixed at its start.
    pub order: BackupOrder,
    /// When it began.
    pub began_at_ms: u64,
    /// How far it is.
    pub progress: Progress,
    /// Of which moment it is, once that is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at_ms: Option<u64>,
    /// When it was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_at_ms: Option<u64>,
    /// Its snapshots, by the places of their volumes in the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<Slot, TakenSnapshot>,
}

/// A snapshot that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PendingDeletion {
    /// Of which backup it was.
    pub backup: u64,
    /// The tags it must have.
    pub own: TagMap,
    /// Why it is still there, when it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The newest backup when it was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<u64>,
}

/// A take of which it is not known what it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnknownOutcome {
    /// How many snapshots it would have made.
    pub count: usize,
    /// The tags they would have.
    pub tags: TagMap,
    /// When the step was intended, in milliseconds since the Unix epoch: what is older, it has not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intended_at_ms: Option<u64>,
    /// The newest backup when they were looked for last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<u64>,
}

/// A backup that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Which.
    pub backup: u64,
    /// When.
    pub at_ms: u64,
    /// Why.
    pub because: String,
}

/// What a backup catalog knows, and hands on to the next one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The number of the newest backup; 0 before the first.
    pub newest: u64,
    /// When that began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_began_at_ms: Option<u64>,
    /// When the volumes' last snapshots may have been taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_take_at_ms: Option<u64>,
    /// Those that are kept, and the one under way; oldest first.
    pub backups: Vec<Backup>,
    /// Snapshots that are to be deleted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pending_deletions: BTreeMap<SnapshotId, PendingDeletion>,
    /// Takes of which it is not known what they made, by backup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown_outcomes: BTreeMap<u64, UnknownOutcome>,
    /// The newest failures, oldest first, at most [`FAILURES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// How many in a row have failed, up to now.
    #[serde(default)]
    pub failed_in_a_row: u32,
    /// Backups that volumes are being made from, by the operations that do it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<OperationId, u64>,
    /// Further ones of an operation that makes volumes from more than one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub further_holds: BTreeMap<OperationId, BTreeSet<u64>>,
    /// The newest operation whose final snapshots were taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherited_from: Option<OperationId>,
    /// When backups are due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<BackupSchedule>,
}

impl BackupOrder {
    /// Whether it is one of volumes that were free.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.cause, BackupCause::Final { .. })
    }
}

impl Carried {
    /// Whether the final snapshots of an operation are the catalog's already.
    #[must_use]
    pub fn has_inherited_from(&self, operation: &OperationId) -> bool {
        self.inherited_from.as_ref().is_some_and(|newest| newest.number() >= operation.number())
    }

    /// The operations that make volumes from backups, with each of those.
    pub fn holders(&self) -> impl Iterator<Item = (&OperationId, u64)> {
        let further = self.further_holds.iter().flat_map(|(by, of)| of.iter().map(move |of| (by, *of)));
        self.holds.iter().map(|(by, of)| (by, *of)).chain(further)
    }

    /// The backups that volumes are being made from.
    pub fn held(&self) -> impl Iterator<Item = u64> {
        self.holders().map(|(_, of)| of)
    }

    /// Whether an operation makes volumes from a backup.
    #[must_use]
    pub fn is_held_by(&self, backup: u64, by: &OperationId) -> bool {
        self.holds.get(by) == Some(&backup)
            || self.further_holds.get(by).is_some_and(|further| further.contains(&backup))
    }

    /// The newest one that can be restored.
    #[must_use]
    pub fn last_complete(&self) -> Option<&Backup> {
        self.complete().last()
    }

    /// Those that can be restored, oldest first.
    pub fn complete(&self) -> impl DoubleEndedIterator<Item = &Backup> {
        self.backups.iter().filter(|backup| backup.progress == Progress::Complete)
    }

    /// The one that is not complete yet.
    #[must_use]
    pub fn under_way(&self) -> Option<&Backup> {
        self.backups.iter().find(|backup| backup.progress != Progress::Complete)
    }

    /// Why no backup can be taken before a person has helped; `None` when one can.
    #[must_use]
    pub fn paused(&self) -> Option<String> {
        let (snapshot, first) =
            self.pending_deletions.iter().find(|(_, pending)| pending.because.is_some())?;
        let because = first.because.as_deref().unwrap_or_default();
        (self.pending_deletions.len() > PENDING_DELETIONS_MAX).then(|| {
            format!(
                "{} snapshots could not be deleted; no more are taken. {snapshot}: {because}",
                self.pending_deletions.len()
            )
        })
    }
}

/// What a step of a catalog is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStep {
    /// Of which backup.
    pub backup: u64,
    /// Its name there.
    pub name: StepName,
}

impl std::fmt::Display for BackupStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name.fmt(f)
    }
}

/// A step under way.
pub type OpenRecord = StepRecord<BackupStep, BackupIntent>;

/// The state of a backup catalog.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BackupCatalog {
    /// Whether anything stands in it.
    pub opened: bool,
    /// Whether the next one goes on.
    pub closed: bool,
    /// How many backups began in it.
    pub begun: u32,
    /// What it knows.
    pub known: Carried,
    /// The steps under way. What is over is not remembered: the journal keeps it.
    pub steps: BTreeMap<Token, OpenRecord>,
    /// The time of its last event.
    pub last_at_ms: u64,
}

/// Why a backup catalog refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is not that of an open step: the report is late or doubled.
    #[error("step {token} of the backups of {node} is not open; this report is late or doubled")]
    Fenced {
        /// Whose backups.
        node: NodeName,
        /// The token it quoted.
        token: Token,
    },
    /// The catalog's own rules refuse what they made: a bug, kept from the journal.
    #[error("BUG: the backups of {node} cannot follow their own decision: {why}")]
    Inconsistent {
        /// Whose backups.
        node: NodeName,
        /// What.
        why: String,
    },
}

impl From<Fault<NodeName>> for Refusal {
    fn from(fault: Fault<NodeName>) -> Self {
        match fault {
            Fault::Fenced { id, token, .. } => Self::Fenced { node: id, token },
            Fault::Inconsistent { id, why, .. } => Self::Inconsistent { node: id, why },
        }
    }
}

/// Why an event cannot follow.
type Why = &'static str;

const NOT_UNDER_WAY: Why = "this backup is not under way";

impl BackupCatalog {
    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &BackupEvent) -> Result<Self, Illegal> {
        match self.remember(stamp, event) {
            Ok(()) => Ok(self),
            Err(why) => Err(Illegal { seq: stamp.seq, why: why.to_owned() }),
        }
    }

    fn remember(&mut self, stamp: Stamp, event: &BackupEvent) -> Result<(), Why> {
        if self.closed {
            return Err("the catalog is closed");
        }
        if self.opened == matches!(event, BackupEvent::Opened { .. }) {
            return Err("a catalog is opened once, and first");
        }
        let at_ms = stamp.at_ms;
        if let Some(back_ms) = gone_back_ms(std::mem::replace(&mut self.last_at_ms, at_ms), at_ms) {
            let unseen_ms = self.steps.values().map(|record| record.budget_ms).max().unwrap_or_default();
            self.steps.values_mut().for_each(|record| record.clock_went_back(back_ms));
            let unknown = self.known.unknown_outcomes.values_mut();
            for at_ms in unknown.filter_map(|unknown| unknown.intended_at_ms.as_mut()) {
                *at_ms = made_from(*at_ms, back_ms, unseen_ms);
            }
        }
        match event {
            BackupEvent::Opened { carried } => {
                self.opened = true;
                self.known = carried.clone();
                Ok(())
            }
            BackupEvent::Began(order) => self.began(order, at_ms),
            BackupEvent::StepIntended { backup, step, intent, not_before_ms, deadline_ms } => {
                let intended = Intended {
                    step: BackupStep { backup: *backup, name: step.clone() },
                    intent: intent.clone(),
                    not_before_ms: *not_before_ms,
                    deadline_ms: *deadline_ms,
                };
                self.step_intended(stamp, intended.at(stamp))
            }
            BackupEvent::StepSettled { token, evidence, .. } => self.step_settled(*token, evidence, at_ms),
            BackupEvent::Completed { backup } => self.completed(*backup, at_ms),
            BackupEvent::Failed { backup, because } => self.failed(*backup, because, at_ms),
            BackupEvent::Held { backup, by } => self.held(*backup, by),
            BackupEvent::HoldReleased { by } => self.hold_released(by),
            BackupEvent::GivenUp { .. } => self.given_up(),
            BackupEvent::Scheduled { schedule } => {
                self.known.schedule.clone_from(schedule);
                Ok(())
            }
            BackupEvent::Closed { .. } if !self.steps.is_empty() => Err("steps are open"),
            BackupEvent::Closed { .. } => {
                self.closed = true;
                Ok(())
            }
            BackupEvent::Inherited { backup, operation, snapshots, taken_at_ms } => {
                let inherited = self.under_way_mut(*backup).ok_or(NOT_UNDER_WAY)?;
                inherited.progress = Progress::Copying;
                inherited.taken_at_ms = Some(*taken_at_ms);
                inherited.snapshots.clone_from(snapshots);
                self.known.last_take_at_ms = self.known.last_take_at_ms.max(Some(at_ms));
                self.known.inherited_from = Some(operation.clone());
                Ok(())
            }
        }
    }

    fn began(&mut self, order: &BackupOrder, at_ms: u64) -> Result<(), Why> {
        if order.number != self.known.newest + 1 {
            return Err("the backup's number does not follow the last one");
        }
        if self.known.under_way().is_some() && !order.is_final() {
            return Err("another backup is under way");
        }
        self.begun += 1;
        self.known.newest = order.number;
        self.known.newest_began_at_ms = Some(at_ms);
        self.known.backups.push(Backup {
            order: order.clone(),
            began_at_ms: at_ms,
            progress: Progress::Taking,
            taken_at_ms: None,
            complete_at_ms: None,
            snapshots: BTreeMap::new(),
        });
        Ok(())
    }

    fn step_intended(&mut self, stamp: Stamp, record: OpenRecord) -> Result<(), Why> {
        if self.has_open(&record.step) {
            return Err("this step is open already");
        }
        self.steps.insert(stamp.seq.into(), record);
        Ok(())
    }

    fn step_settled(&mut self, token: Token, evidence: &BackupEvidence, at_ms: u64) -> Result<(), Why> {
        let record = self.steps.remove(&token).ok_or("this step is not open")?;
        self.learn(&record, evidence, at_ms);
        Ok(())
    }

    fn completed(&mut self, backup: u64, at_ms: u64) -> Result<(), Why> {
        let completed = self.under_way_mut(backup).ok_or(NOT_UNDER_WAY)?;
        completed.progress = Progress::Complete;
        completed.complete_at_ms = Some(at_ms);
        self.known.failed_in_a_row = 0;
        self.forget_old();
        Ok(())
    }

    fn failed(&mut self, backup: u64, because: &str, at_ms: u64) -> Result<(), Why> {
        self.under_way_mut(backup).ok_or(NOT_UNDER_WAY)?;
        let is_it = |known: &mut Backup| known.order.number == backup;
        let failed: Vec<Backup> = self.known.backups.extract_if(.., is_it).collect();
        failed.iter().for_each(|backup| self.delete_later_all(backup));
        self.known.failed_in_a_row = self.known.failed_in_a_row.saturating_add(1);
        self.known.failures.push(Failure { backup, at_ms, because: because.to_owned() });
        if self.known.failures.len() > FAILURES_MAX {
            self.known.failures.remove(0);
        }
        Ok(())
    }

    fn held(&mut self, backup: u64, by: &OperationId) -> Result<(), Why> {
        if !self.known.complete().any(|known| known.order.number == backup) {
            return Err("this backup is not complete");
        }
        if self.known.holds.get(by).is_none_or(|held| *held == backup) {
            self.known.holds.insert(by.clone(), backup);
        } else {
            self.known.further_holds.entry(by.clone()).or_default().insert(backup);
        }
        Ok(())
    }

    fn hold_released(&mut self, by: &OperationId) -> Result<(), Why> {
        self.known.holds.remove(by).ok_or("no backup is held by it")?;
        self.known.further_holds.remove(by);
        self.forget_old();
        Ok(())
    }

    fn given_up(&mut self) -> Result<(), Why> {
        if !self.known.holds.is_empty() {
            return Err("a backup is held");
        }
        if self.known.under_way().is_some() {
            return Err("a backup is under way");
        }
        let all = std::mem::take(&mut self.known.backups);
        all.iter().for_each(|backup| self.delete_later_all(backup));
        Ok(())
    }

    /// The steps that may run now.
    #[must_use]
    pub fn open_steps(&self) -> Vec<OpenStep<Intent>> {
        let open = machine::open_steps::<Self>(self).into_iter().map(|open| OpenStep {
            token: open.token,
            step: open.step,
            intent: Arc::new(Intent::Backup(open.intent.as_ref().clone())),
            intended_at_ms: open.intended_at_ms,
            made_from_ms: open.made_from_ms,
            not_before_ms: open.not_before_ms,
            deadline_ms: open.deadline_ms,
            outdated: open.outdated,
            budget_ms: open.budget_ms,
            optional: open.optional,
            only_in_time: open.only_in_time,
            priority: open.priority,
            wanted_by_ms: open.wanted_by_ms,
        });
        open.collect()
    }

    fn has_open(&self, step: &BackupStep) -> bool {
        self.steps.values().any(|record| record.step == *step)
    }

    fn under_way_mut(&mut self, number: u64) -> Option<&mut Backup> {
        let mut all = self.known.backups.iter_mut();
        all.find(|known| known.order.number == number && known.progress != Progress::Complete)
    }

    /// Complete backups that are more than is kept are to be deleted, but those that are held. The newest
    /// final one is kept beside the others.
    fn forget_old(&mut self) {
        let keep = self.known.last_complete().map_or(0, |newest| newest.order.keep as usize);
        let finals = self.known.complete().filter(|backup| backup.order.is_final()).count();
        let mut finals_too_many = finals.saturating_sub(1);
        let mut too_many = (self.known.complete().count() - finals).saturating_sub(keep);
        for backup in std::mem::take(&mut self.known.backups) {
            let too_many = if backup.order.is_final() { &mut finals_too_many } else { &mut too_many };
            let is_old = backup.progress == Progress::Complete && *too_many > 0;
            *too_many -= usize::from(is_old);
            if is_old && !self.known.held().any(|held| held == backup.order.number) {
                self.delete_later_all(&backup);
            } else {
                self.known.backups.push(backup);
            }
        }
    }

    /// The snapshots of a backup are to be deleted.
    fn delete_later_all(&mut self, backup: &Backup) {
        let own = own_tags(&backup.order);
        for taken in backup.snapshots.values() {
            self.delete_later(taken.snapshot.clone(), backup.order.number, own.clone());
        }
    }

    fn delete_later(&mut self, snapshot: SnapshotId, backup: u64, own: TagMap) {
        let pending = PendingDeletion { backup, own, because: None, tried_at: None };
        self.known.pending_deletions.entry(snapshot).or_insert(pending);
    }

    /// Turns evidence into what is known.
    fn learn(&mut self, record: &OpenRecord, evidence: &BackupEvidence, at_ms: u64) {
        let (number, intended_at_ms) = (record.step.backup, record.made_from_ms);
        let newest = self.known.newest;
        match (record.intent.as_ref(), evidence) {
            (BackupIntent::Take { tags, volumes, .. }, evidence) => {
                let tags = tags.clone();
                self.known.last_take_at_ms = Some(at_ms);
                match evidence {
                    BackupEvidence::Taken { snapshots, taken_at_ms, twins } => {
                        self.taken(number, snapshots, *taken_at_ms);
                        let own = own_of(&tags);
                        for twin in twins {
                            self.delete_later(twin.clone(), number, own.clone());
                        }
                    }
                    // It surely made nothing.
                    BackupEvidence::NotTaken { in_doubt: false, .. } => {}
                    BackupEvidence::NotTaken { in_doubt: true, .. }
                    | BackupEvidence::Complete
                    | BackupEvidence::Broken { .. }
                    | BackupEvidence::Found { .. }
                    | BackupEvidence::Pruned
                    | BackupEvidence::Kept { .. }
                    | BackupEvidence::OutOfTime { .. } => {
                        let unknown_outcome = UnknownOutcome {
                            count: volumes.len(),
                            tags,
                            intended_at_ms: Some(intended_at_ms),
                            tried_at: None,
                        };
                        self.known.unknown_outcomes.insert(number, unknown_outcome);
                    }
                }
            }
            (BackupIntent::Await { .. }, _) => {}
            (BackupIntent::Find { tags, .. }, BackupEvidence::Found { snapshots }) => {
                let own = own_of(tags);
                self.known.unknown_outcomes.remove(&number);
                for snapshot in snapshots {
                    self.delete_later(snapshot.clone(), number, own.clone());
                }
            }
            (BackupIntent::Find { .. }, _) => {
                if let Some(unknown_outcome) = self.known.unknown_outcomes.get_mut(&number) {
                    unknown_outcome.tried_at = Some(newest);
                }
            }
            (BackupIntent::Prune { snapshot, .. }, BackupEvidence::Pruned) => {
                self.known.pending_deletions.remove(snapshot);
            }
            (BackupIntent::Prune { snapshot, .. }, evidence) => {
                if let Some(pending) = self.known.pending_deletions.get_mut(snapshot) {
                    pending.because = Some(why(evidence));
                    pending.tried_at = Some(newest);
                }
            }
        }
    }

    fn taken(&mut self, number: u64, snapshots: &[TakenSnapshot], taken_at_ms: u64) {
        let Some(backup) = self.under_way_mut(number) else { return };
        backup.progress = Progress::Copying;
        backup.taken_at_ms = Some(taken_at_ms);
        for (slot, volume) in &backup.order.volumes {
            if let Some(taken) = snapshots.iter().find(|taken| taken.volume == *volume) {
                backup.snapshots.insert(slot.clone(), taken.clone());
            }
        }
    }

    /// Every step that is to be open now.
    pub(crate) fn due(&self) -> Vec<Due<BackupStep, BackupIntent>> {
        let known = &self.known;
        let mut all: Vec<Due<BackupStep, BackupIntent>> =
            known.backups.iter().filter_map(|backup| self.next_of(backup)).collect();
        let again = |tried_at: Option<u64>| tried_at.is_none_or(|tried| tried < known.newest);
        let unknown = known.unknown_outcomes.iter().filter(|(_, unknown)| again(unknown.tried_at));
        all.extend(unknown.map(|(backup, unknown)| {
            due(
                *backup,
                BackupIntent::Find {
                    count: unknown.count,
                    tags: unknown.tags.clone(),
                    intended_at_ms: unknown.intended_at_ms,
                },
                0,
            )
        }));
        let is_prune = |record: &&OpenRecord| matches!(*record.intent, BackupIntent::Prune { .. });
        let room = PRUNES_MAX.saturating_sub(self.steps.values().filter(is_prune).count());
        let pending = known.pending_deletions.iter().filter(|(_, pending)| again(pending.tried_at));
        let prunes = pending.map(|(snapshot, pending)| {
            let prune = BackupIntent::Prune { snapshot: snapshot.clone(), own: pending.own.clone() };
            due(pending.backup, prune, 0)
        });
        all.extend(prunes.filter(|prune| !self.has_open(&prune.step)).take(room));
        all
    }

    /// The step of a backup that is not complete.
    fn next_of(&self, backup: &Backup) -> Option<Due<BackupStep, BackupIntent>> {
        let order = &backup.order;
        match backup.progress {
            Progress::Taking => {
                let take = BackupIntent::Take {
                    instance: order.instance.clone(),
                    volumes: order.volumes.values().cloned().collect(),
                    tags: tags(order),
                };
                let not_before_ms = self.known.last_take_at_ms.map_or(0, |last| last + VOLUME_PAUSE_MS);
                Some(due(order.number, take, not_before_ms))
            }
            Progress::Copying => {
                let snapshots = backup.snapshots.values().map(|taken| taken.snapshot.clone()).collect();
                Some(due(order.number, BackupIntent::Await { snapshots }, 0))
            }
            Progress::Complete => None,
        }
    }
}

fn due(backup: u64, intent: BackupIntent, not_before_ms: u64) -> Due<BackupStep, BackupIntent> {
    Due {
        step: BackupStep { backup, name: intent.step() },
        budget_ms: intent.budget_ms(),
        intent,
        not_before_ms,
        wait_max_ms: VOLUME_PAUSE_MS,
    }
}

/// Why something is not so, in words.
pub(crate) fn why(evidence: &BackupEvidence) -> String {
    match evidence {
        BackupEvidence::NotTaken { because, .. }
        | BackupEvidence::Broken { because }
        | BackupEvidence::Kept { because } => because.clone(),
        BackupEvidence::OutOfTime { because } => format!("not in time: {because}"),
        BackupEvidence::Taken { .. }
        | BackupEvidence::Complete
        | BackupEvidence::Found { .. }
        | BackupEvidence::Pruned => "BUG: the worker answered another question".to_owned(),
    }
}

/// The tags of every snapshot of a backup. Nothing in them changes when the step is repeated.
fn tags(order: &BackupOrder) -> TagMap {
    let id = BackupId::new(order.node.clone(), order.number);
    let mut tags = order.tags.clone();
    tags.entry("Name".to_owned()).or_insert_with(|| order.node.to_string());
    for (key, value) in [
        ("perennial:owner", order.owner.clone()),
        ("perennial:node", order.node.to_string()),
        ("perennial:generation", order.generation.to_string()),
        ("perennial:role", "backup".to_owned()),
        ("perennial:backup", id.to_string()),
        ("perennial:step", format!("{id}/take_backup/1")),
    ] {
        tags.insert(key.to_owned(), value);
    }
    if let Some(mark) = &order.installation {
        tags.insert(INSTALLATION_TAG.to_owned(), mark.id.clone());
    }
    tags
}

/// The tags without which a snapshot is none of this backup's.
fn own_tags(order: &BackupOrder) -> TagMap {
    match &order.cause {
        BackupCause::Schedule | BackupCause::Asked { .. } => own_of(&tags(order)),
        BackupCause::Final { operation } => {
            let mut own = own_of(&tags(order));
            own.remove("perennial:backup");
            own.insert("perennial:operation".to_owned(), operation.to_string());
            own
        }
    }
}

fn own_of(tags: &TagMap) -> TagMap {
    const OWN: [&str; 4] = ["perennial:owner", "perennial:node", "perennial:role", "perennial:backup"];
    let own = tags.iter().filter(|(key, _)| OWN.contains(&key.as_str()));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}
