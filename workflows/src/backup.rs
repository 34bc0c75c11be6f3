//! Backups: snapshots of all volumes of a node at one moment, while it runs.
//!
//! A backup is no operation: it does not hold the node, and nothing waits for it. Each node has a *book* of its backups, the
//! stream `backup/<node>.<n>`; the node's own stream does not grow with them. When a book has had
//! [`BOOK_BACKUPS_MAX`] backups and is at rest, the next one goes on with what it knew, so that years of backups fold in
//! milliseconds.
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
//! | step | may start when | does | observed by | on failure | its repeat is safe because of |
//! | --- | --- | --- | --- | --- | --- |
//! | take | the backup has begun; the last one of its volumes is 15 s old | CreateSnapshots over the volumes of the instance that are the node's; the others are excluded | DescribeSnapshots by the tag `perennial:step` shows one for each volume | the backup has failed; the next one is taken at its time | the tag, looked for first, and for longer in doubt |
//! | await | taken | – | each snapshot is complete | the backup has failed, its set is pruned | nothing is changed |
//! | find | a take ended, and what it made is not known | – | DescribeSnapshots by the tag, for minutes | tried again after the next backup | nothing is changed |
//! | prune | a newer backup is complete, or the set has failed, or the node was deleted with its backups | DeleteSnapshot by id, of a snapshot that this book recorded and that carries our tags | it is gone, seen twice | left over, listed, tried again after the next backup | "not found" is "done" |
//!
//! # What a stop in the middle leaves behind
//! Nothing that is not known: every snapshot carries the tags of its step before it exists, and the step stays open until a look
//! shows what became of it.
//!
//! # Rules that are never broken
//! - A complete backup is pruned only when as many newer ones as are kept are complete. One that failed prunes nothing but itself.
//! - A backup that volumes of this node or of a new one are being made from is *held*: it is not pruned before that operation
//!   is over.
//! - Only snapshots that a book of this node recorded are pruned.
//!
//! # Final ones
//! When an operation takes the volumes from the node's instance, it takes a snapshot of each while it is free
//! ([`final_backup`](crate::final_backup)). The book takes them over (`began`, `inherited`) and awaits them as any other. The newest
//! complete final one is kept beside the [`keep`](BackupSpec::keep) others. It may be copied while another backup is under way.

mod names;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_engine::domain::{Illegal, OpenStep, Stamp};
use perennial_engine::ids::{Seq, Token};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::names::{BackupId, BadBackupId, BookId, book_key};
pub use self::settings::{BackupSpec, EVERY_MIN_LEAST, EVERY_MIN_MOST, KEEP_DEFAULT, KEEP_MOST};
use crate::aws::{InstanceId, SnapshotId, VolumeId};
use crate::loss;
use crate::node::{Node, OperationId, OperationKind};
use crate::operation::{Operation, Status};
use crate::signal::{Cause, Certainty};
use crate::spec::{NodeName, RootMode};
use crate::steps::{Evidence, Intent, Slot, TagMap};

/// How many backups a book has before the next one goes on: eight hours of one every five minutes, about a thousand events.
pub const BOOK_BACKUPS_MAX: u32 = 100;

/// How many snapshots may be waiting for their deletion before no more backups are taken: something is wrong then that only a
/// person can mend, and it would cost more with every backup. Two full sets of the most volumes a node can have.
pub const CONDEMNED_MAX: usize = 54;

/// How many snapshots are being deleted at once: a set of a few volumes, and far below a second's budget of DeleteSnapshot.
const PRUNES_MAX: usize = 4;

/// How many failures a book remembers in its state; the journal keeps all.
pub const FAILURES_MAX: usize = 8;

/// EC2 takes snapshots of one volume at least this far apart (`SnapshotCreationPerVolumeRateExceeded`).
pub const VOLUME_PAUSE_MS: u64 = 15_000;

/// The whole request of a step of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupIntent {
    /// Takes the snapshots of an instance's volumes, and sees them.
    Take {
        /// Whose volumes.
        instance: InstanceId,
        /// Those that are the node's; whatever else is attached is left out.
        volumes: Vec<VolumeId>,
        /// At creation; `perennial:step` makes them findable.
        tags: TagMap,
    },
    /// Sees them complete.
    Await {
        /// Which.
        snapshots: Vec<SnapshotId>,
    },
    /// Looks for what a take may have made.
    Find {
        /// How many there would be.
        count: usize,
        /// The tags they would have.
        tags: TagMap,
    },
    /// Deletes a snapshot by id.
    Prune {
        /// Which.
        snapshot: SnapshotId,
        /// The tags it must have.
        own: TagMap,
    },
}

impl BackupIntent {
    /// How long the step may take, in milliseconds.
    #[must_use]
    pub const fn budget_ms(&self) -> u64 {
        const MINUTE: u64 = 60_000;
        match self {
            // A second in practice. A moment that comes much later than it was to is another one.
            Self::Take { .. } => 10 * MINUTE,
            // A first full snapshot takes hours.
            Self::Await { .. } => 24 * 60 * MINUTE,
            // Absence is believed after minutes only.
            Self::Find { .. } => 30 * MINUTE,
            // Seconds in practice. What cannot be deleted by then is left, listed, and tried again.
            Self::Prune { .. } => 5 * MINUTE,
        }
    }

    /// The step's name, for people; in a book each belongs to a backup.
    #[must_use]
    pub fn step(&self) -> String {
        match self {
            Self::Take { .. } => "take_backup".to_owned(),
            Self::Await { .. } => "await_backup".to_owned(),
            Self::Find { .. } => "find_backup".to_owned(),
            Self::Prune { snapshot, .. } => format!("prune:{snapshot}"),
        }
    }
}

/// A snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TakenSnapshot {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Of which volume.
    pub volume: VolumeId,
    /// The volume's size, as far as it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
}

/// What a step of a backup observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupEvidence {
    /// There is a snapshot of each volume: seen.
    Taken {
        /// One of each volume.
        snapshots: Vec<TakenSnapshot>,
        /// Of which moment, as EC2 says it, in milliseconds since the Unix epoch.
        taken_at_ms: u64,
        /// More of the same, of a call whose answer was lost; they are of no use.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        twins: Vec<SnapshotId>,
    },
    /// There is none.
    NotTaken {
        /// Why.
        because: String,
        /// Whether a call may have worked after all.
        in_doubt: bool,
    },
    /// Every snapshot is complete: seen.
    Complete,
    /// A snapshot has failed, or is gone.
    Broken {
        /// Which and how.
        because: String,
    },
    /// What a take had made; nothing, when it has surely made nothing.
    Found {
        /// Which.
        snapshots: Vec<SnapshotId>,
    },
    /// It is gone: seen twice.
    Pruned,
    /// It is not deleted.
    Kept {
        /// Why.
        because: String,
    },
    /// The step's time is over.
    OutOfTime {
        /// What was waited for.
        because: String,
    },
}

impl std::fmt::Display for BackupEvidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken { snapshots, .. } => write!(f, "{} snapshots of one moment", snapshots.len()),
            Self::NotTaken { because, in_doubt: false } => write!(f, "not taken: {because}"),
            Self::NotTaken { because, in_doubt: true } => write!(f, "perhaps not taken: {because}"),
            Self::Complete => f.write_str("complete"),
            Self::Broken { because } => write!(f, "of no use: {because}"),
            Self::Found { snapshots } if snapshots.is_empty() => f.write_str("it has made nothing"),
            Self::Found { snapshots } => write!(f, "it has made {} snapshots", snapshots.len()),
            Self::Pruned => f.write_str("gone"),
            Self::Kept { because } => write!(f, "not deleted: {because}"),
            Self::OutOfTime { because } => write!(f, "out of time: {because}"),
        }
    }
}

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
    /// The volumes were free: see [`final_backup`](crate::final_backup).
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

/// What happened in a book.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupEvent {
    /// The book goes on from another one; the first one begins empty.
    Opened {
        /// What was known at the end of that.
        carried: Carried,
    },
    /// A backup began.
    Began(BackupOrder),
    /// A step may run: the whole request, written before the first call. This event's place is the step's token.
    StepIntended {
        /// Of which backup.
        backup: u64,
        /// Its name.
        step: String,
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
        step: String,
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
    LetGo {
        /// Which.
        by: OperationId,
    },
    /// The next book goes on.
    Closed {
        /// Its number.
        next: u64,
    },
    /// The backup's snapshots were taken by an operation; from now on they are the book's.
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
pub struct Condemned {
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
pub struct Doubt {
    /// How many snapshots it would have made.
    pub count: usize,
    /// The tags they would have.
    pub tags: TagMap,
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

/// What a book knows, and hands on to the next one.
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
    pub condemned: BTreeMap<SnapshotId, Condemned>,
    /// Takes of which it is not known what they made, by backup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub doubts: BTreeMap<u64, Doubt>,
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
}

impl BackupOrder {
    /// Whether it is one of volumes that were free.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.cause, BackupCause::Final { .. })
    }
}

impl Carried {
    /// Whether the final snapshots of an operation are the book's already.
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
        let (snapshot, first) = self.condemned.iter().find(|(_, condemned)| condemned.because.is_some())?;
        let because = first.because.as_deref().unwrap_or_default();
        (self.condemned.len() > CONDEMNED_MAX).then(|| {
            format!(
                "{} snapshots could not be deleted; no more are taken. {snapshot}: {because}",
                self.condemned.len()
            )
        })
    }
}

/// A step under way.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenRecord {
    /// Of which backup.
    pub backup: u64,
    /// Its name.
    pub step: String,
    /// The request.
    pub intent: Arc<Intent>,
    /// When it was intended.
    pub intended_at_ms: u64,
    /// Not to be run before this time.
    pub not_before_ms: u64,
    /// To be settled by this time.
    pub deadline_ms: u64,
}

/// The state of a book.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Book {
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
}

/// Why a book refuses a command.
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
    /// The book's own rules refuse what they made: a bug, kept from the journal.
    #[error("BUG: the backups of {node} cannot follow their own decision: {why}")]
    Inconsistent {
        /// Whose backups.
        node: NodeName,
        /// What.
        why: String,
    },
}

/// What is to be done about the backups of a node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Nothing.
    Nothing,
    /// A backup is due since this time.
    Begin {
        /// Since when.
        due_ms: u64,
    },
    /// The book is full and at rest.
    Turn,
    /// An operation has taken final snapshots that are to be the book's.
    Inherit {
        /// Which.
        operation: OperationId,
    },
    /// The node was deleted with its backups.
    GiveUp,
    /// The lost root of the node comes back from this backup.
    Rescue {
        /// Its number.
        backup: u64,
    },
}

/// What is to be done about the backups of a node now. `last` is the newest operation of the node.
#[must_use]
pub fn errand(node: &Node, last: Option<&Operation>, name: &NodeName, book: &Book, now_ms: u64) -> Errand {
    if book.closed {
        return Errand::Nothing;
    }
    if book.begun >= BOOK_BACKUPS_MAX && book.steps.is_empty() && book.known.under_way().is_none() {
        return Errand::Turn;
    }
    if let Some(operation) = to_inherit(node, last, book) {
        return Errand::Inherit { operation };
    }
    if node.deleted {
        let kept = last.and_then(|last| last.order.keep).is_none_or(|keep| keep.backups);
        let none = book.known.backups.is_empty() || !book.known.holds.is_empty();
        return if kept || none { Errand::Nothing } else { Errand::GiveUp };
    }
    if let Some(backup) = loss::rescue(node, last, book) {
        return Errand::Rescue { backup: backup.order.number };
    }
    let Some(spec) = node.spec.as_ref().and_then(|spec| spec.backup) else { return Errand::Nothing };
    if book.known.paused().is_some() || cannot_begin(node, last, book).is_some() {
        return Errand::Nothing;
    }
    // A node is due at its first turn after it is in place, and at the first one after each backup.
    let since_ms = book.known.newest_began_at_ms.unwrap_or(0).max(match &node.open {
        Some(_) => 0,
        None if book.known.backups.is_empty() => node.changed_at_ms,
        None => 0,
    });
    let due_ms = turn_after(name, spec.every_ms(), since_ms);
    if due_ms <= now_ms { Errand::Begin { due_ms } } else { Errand::Nothing }
}

/// The first operation whose final snapshots are not the book's yet: one that is over, or the open one when it has them all.
fn to_inherit(node: &Node, last: Option<&Operation>, book: &Book) -> Option<OperationId> {
    let open = node.open.as_ref().map(|(open, _)| open);
    let has_all = |op: &&Operation| op.finals().is_some_and(|finals| finals.because.is_none());
    let open = last.filter(|last| open == Some(&last.id)).filter(has_all).map(|last| &last.id);
    node.finals.iter().chain(open).find(|operation| !book.known.has_inherited_from(operation)).cloned()
}

/// The first turn of a node after a time. The turns of a fleet are spread over the interval by the nodes' names, so that they
/// do not come as one herd.
#[must_use]
pub fn turn_after(name: &NodeName, every_ms: u64, after_ms: u64) -> u64 {
    let hash = blake3::hash(name.as_str().as_bytes());
    let spread = hash.as_bytes()[..8].iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let phase_ms = spread % every_ms.max(1);
    let turns = (after_ms + every_ms.max(1) - phase_ms) / every_ms.max(1);
    turns * every_ms + phase_ms
}

/// Why no backup can begin now; `None` when one can.
#[must_use]
pub fn cannot_begin(node: &Node, last: Option<&Operation>, book: &Book) -> Option<String> {
    if node.resources.carrier.is_none() || !node.exists() {
        return Some("the node has no instance".to_owned());
    }
    if volumes(node).is_empty() {
        return Some("the node has no volume that is kept".to_owned());
    }
    if let Some((open, kind)) = &node.open
        && !last.is_some_and(|operation| operation.id == *open && leaves_alone(operation))
    {
        return Some(format!(
            "workflow {open} ({kind}) moves the node's volumes; the next backup follows it"
        ));
    }
    book.known.under_way().map(|backup| format!("backup number {} is under way", backup.order.number))
}

/// Whether the instance that carried the node when the operation began still does, and is not about to be taken.
fn leaves_alone(operation: &Operation) -> bool {
    let touches = |intent: &Intent| matches!(intent, Intent::Fence { .. } | Intent::Detach { .. });
    let going = |old: &crate::operation::Holder| old.known_over || old.heard >= Certainty::Warned;
    !matches!(operation.status, Status::Finished { .. })
        && operation.order.kind != OperationKind::Delete
        && operation.order.before.carrier.is_some()
        && !operation.facts.holders.iter().any(going)
        && !operation.steps.values().any(|record| touches(&record.intent))
}

/// The volumes of a node that are its state.
fn volumes(node: &Node) -> BTreeMap<Slot, VolumeId> {
    let keeps_root = node.spec.as_ref().is_some_and(|spec| spec.persist.root != RootMode::None);
    let kept = node.resources.volumes.iter().filter(|(slot, _)| keeps_root || **slot != Slot::Root);
    kept.map(|(slot, held)| (slot.clone(), held.volume.clone())).collect()
}

impl Book {
    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &BackupEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        if self.closed {
            return illegal("the book is closed");
        }
        if self.opened == matches!(event, BackupEvent::Opened { .. }) {
            return illegal("a book is opened once, and first");
        }
        match event {
            BackupEvent::Opened { carried } => {
                self.opened = true;
                self.known = carried.clone();
            }
            BackupEvent::Began(order) => {
                if order.number != self.known.newest + 1 {
                    return illegal("the backup's number does not follow the last one");
                }
                if self.known.under_way().is_some() && !order.is_final() {
                    return illegal("another backup is under way");
                }
                self.begun += 1;
                self.known.newest = order.number;
                self.known.newest_began_at_ms = Some(stamp.at_ms);
                self.known.backups.push(Backup {
                    order: order.clone(),
                    began_at_ms: stamp.at_ms,
                    progress: Progress::Taking,
                    taken_at_ms: None,
                    complete_at_ms: None,
                    snapshots: BTreeMap::new(),
                });
            }
            BackupEvent::StepIntended { backup, step, intent, not_before_ms, deadline_ms } => {
                if self.has_open(*backup, step) {
                    return illegal("this step is open already");
                }
                let record = OpenRecord {
                    backup: *backup,
                    step: step.clone(),
                    intent: Arc::new(Intent::Backup(intent.clone())),
                    intended_at_ms: stamp.at_ms,
                    not_before_ms: *not_before_ms,
                    deadline_ms: *deadline_ms,
                };
                self.steps.insert(stamp.seq.into(), record);
            }
            BackupEvent::StepSettled { token, evidence, .. } => {
                let Some(record) = self.steps.remove(token) else { return illegal("this step is not open") };
                if let Intent::Backup(intent) = record.intent.as_ref() {
                    self.learn(record.backup, intent, evidence, stamp.at_ms);
                }
            }
            BackupEvent::Completed { backup } => {
                let Some(completed) = self.under_way_mut(*backup) else {
                    return illegal("this backup is not under way");
                };
                completed.progress = Progress::Complete;
                completed.complete_at_ms = Some(stamp.at_ms);
                self.known.failed_in_a_row = 0;
                self.forget_old();
            }
            BackupEvent::Failed { backup, because } => {
                if self.under_way_mut(*backup).is_none() {
                    return illegal("this backup is not under way");
                }
                let is_it = |known: &mut Backup| known.order.number == *backup;
                let failed: Vec<Backup> = self.known.backups.extract_if(.., is_it).collect();
                failed.iter().for_each(|backup| self.condemn(backup));
                self.known.failed_in_a_row = self.known.failed_in_a_row.saturating_add(1);
                let failure = Failure { backup: *backup, at_ms: stamp.at_ms, because: because.clone() };
                self.known.failures.push(failure);
                if self.known.failures.len() > FAILURES_MAX {
                    self.known.failures.remove(0);
                }
            }
            BackupEvent::Held { backup, by } => {
                if !self.known.complete().any(|known| known.order.number == *backup) {
                    return illegal("this backup is not complete");
                }
                if self.known.holds.get(by).is_none_or(|held| held == backup) {
                    self.known.holds.insert(by.clone(), *backup);
                } else {
                    self.known.further_holds.entry(by.clone()).or_default().insert(*backup);
                }
            }
            BackupEvent::LetGo { by } => {
                if self.known.holds.remove(by).is_none() {
                    return illegal("no backup is held by it");
                }
                self.known.further_holds.remove(by);
                self.forget_old();
            }
            BackupEvent::GivenUp { .. } => {
                if !self.known.holds.is_empty() {
                    return illegal("a backup is held");
                }
                if self.known.under_way().is_some() {
                    return illegal("a backup is under way");
                }
                let all = std::mem::take(&mut self.known.backups);
                all.iter().for_each(|backup| self.condemn(backup));
            }
            BackupEvent::Closed { .. } => {
                if !self.steps.is_empty() {
                    return illegal("steps are open");
                }
                self.closed = true;
            }
            BackupEvent::Inherited { backup, operation, snapshots, taken_at_ms } => {
                let Some(inherited) = self.under_way_mut(*backup) else {
                    return illegal("this backup is not under way");
                };
                inherited.progress = Progress::Copying;
                inherited.taken_at_ms = Some(*taken_at_ms);
                inherited.snapshots.clone_from(snapshots);
                self.known.last_take_at_ms = self.known.last_take_at_ms.max(Some(stamp.at_ms));
                self.known.inherited_from = Some(operation.clone());
            }
        }
        Ok(self)
    }

    /// The steps that may run now.
    #[must_use]
    pub fn open_steps(&self) -> Vec<OpenStep<Intent>> {
        let open = self.steps.iter().map(|(token, record)| OpenStep {
            token: *token,
            step: record.step.clone(),
            intent: Arc::clone(&record.intent),
            intended_at_ms: record.intended_at_ms,
            not_before_ms: record.not_before_ms,
            deadline_ms: record.deadline_ms,
            // After whatever an interruption needs.
            priority: 10,
        });
        open.collect()
    }

    fn has_open(&self, backup: u64, step: &str) -> bool {
        self.steps.values().any(|record| record.backup == backup && record.step == step)
    }

    fn under_way_mut(&mut self, number: u64) -> Option<&mut Backup> {
        let mut all = self.known.backups.iter_mut();
        all.find(|known| known.order.number == number && known.progress != Progress::Complete)
    }

    /// Complete backups that are more than is kept are to be deleted, but those that are held. The newest final one is kept
    /// beside the others.
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
                self.condemn(&backup);
            } else {
                self.known.backups.push(backup);
            }
        }
    }

    /// The snapshots of a backup are to be deleted.
    fn condemn(&mut self, backup: &Backup) {
        let own = own_tags(&backup.order);
        for taken in backup.snapshots.values() {
            self.condemn_one(taken.snapshot.clone(), backup.order.number, own.clone());
        }
    }

    fn condemn_one(&mut self, snapshot: SnapshotId, backup: u64, own: TagMap) {
        let condemned = Condemned { backup, own, because: None, tried_at: None };
        self.known.condemned.entry(snapshot).or_insert(condemned);
    }

    /// Turns evidence into what is known.
    fn learn(&mut self, number: u64, intent: &BackupIntent, evidence: &BackupEvidence, at_ms: u64) {
        let newest = self.known.newest;
        match (intent, evidence) {
            (BackupIntent::Take { tags, volumes, .. }, evidence) => {
                let tags = tags.clone();
                self.known.last_take_at_ms = Some(at_ms);
                match evidence {
                    BackupEvidence::Taken { snapshots, taken_at_ms, twins } => {
                        self.taken(number, snapshots, *taken_at_ms);
                        let own = own_of(&tags);
                        for twin in twins {
                            self.condemn_one(twin.clone(), number, own.clone());
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
                        let doubt = Doubt { count: volumes.len(), tags, tried_at: None };
                        self.known.doubts.insert(number, doubt);
                    }
                }
            }
            (BackupIntent::Await { .. }, _) => {}
            (BackupIntent::Find { tags, .. }, BackupEvidence::Found { snapshots }) => {
                let own = own_of(tags);
                self.known.doubts.remove(&number);
                for snapshot in snapshots {
                    self.condemn_one(snapshot.clone(), number, own.clone());
                }
            }
            (BackupIntent::Find { .. }, _) => {
                if let Some(doubt) = self.known.doubts.get_mut(&number) {
                    doubt.tried_at = Some(newest);
                }
            }
            (BackupIntent::Prune { snapshot, .. }, BackupEvidence::Pruned) => {
                self.known.condemned.remove(snapshot);
            }
            (BackupIntent::Prune { snapshot, .. }, evidence) => {
                if let Some(condemned) = self.known.condemned.get_mut(snapshot) {
                    condemned.because = Some(why(evidence));
                    condemned.tried_at = Some(newest);
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

    /// Every step that is to be open now, with its backup and the time before which it is not to run.
    fn rules(&self) -> Vec<(u64, BackupIntent, u64)> {
        let mut due = Vec::new();
        let known = &self.known;
        for backup in known.backups.iter().filter(|backup| backup.progress != Progress::Complete) {
            let order = &backup.order;
            match backup.progress {
                Progress::Taking => {
                    let take = BackupIntent::Take {
                        instance: order.instance.clone(),
                        volumes: order.volumes.values().cloned().collect(),
                        tags: tags(order),
                    };
                    let not_before_ms = known.last_take_at_ms.map_or(0, |last| last + VOLUME_PAUSE_MS);
                    due.push((order.number, take, not_before_ms));
                }
                Progress::Copying => {
                    let snapshots = backup.snapshots.values().map(|taken| taken.snapshot.clone()).collect();
                    due.push((order.number, BackupIntent::Await { snapshots }, 0));
                }
                Progress::Complete => {}
            }
        }
        let again = |tried_at: Option<u64>| tried_at.is_none_or(|tried| tried < known.newest);
        for (number, doubt) in known.doubts.iter().filter(|(_, doubt)| again(doubt.tried_at)) {
            due.push((*number, BackupIntent::Find { count: doubt.count, tags: doubt.tags.clone() }, 0));
        }
        let open = self
            .steps
            .values()
            .filter(|record| matches!(record.intent.as_ref(), Intent::Backup(BackupIntent::Prune { .. })));
        let room = PRUNES_MAX.saturating_sub(open.count());
        let prunes = known.condemned.iter().filter(|(_, condemned)| again(condemned.tried_at));
        let prunes = prunes.map(|(snapshot, condemned)| {
            let prune = BackupIntent::Prune { snapshot: snapshot.clone(), own: condemned.own.clone() };
            (condemned.backup, prune, 0)
        });
        due.extend(prunes.filter(|(backup, prune, _)| !self.has_open(*backup, &prune.step())).take(room));
        due
    }
}

/// Why something is not so, in words.
fn why(evidence: &BackupEvidence) -> String {
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

/// A decision about a book in the making: the events so far and the state after them.
#[derive(Debug, Clone)]
pub struct BookDraft {
    node: NodeName,
    /// The state after the events.
    pub state: Book,
    /// What is to be written.
    pub events: Vec<BackupEvent>,
    seq: Seq,
    now_ms: u64,
}

impl BookDraft {
    /// From the state and head of a book's stream.
    #[must_use]
    pub fn from(node: &NodeName, state: &Book, head: Seq, now_ms: u64) -> Self {
        Self { node: node.clone(), state: state.clone(), events: Vec::new(), seq: head, now_ms }
    }

    fn push(&mut self, event: BackupEvent) -> Result<(), Refusal> {
        self.seq = self.seq.next();
        let stamp = Stamp { seq: self.seq, at_ms: self.now_ms };
        let next = self.state.clone().evolve(stamp, &event);
        self.state = next
            .map_err(|illegal| Refusal::Inconsistent { node: self.node.clone(), why: illegal.to_string() })?;
        self.events.push(event);
        Ok(())
    }

    /// Writes an intent for every rule that holds and has no open step.
    fn intend(&mut self) -> Result<(), Refusal> {
        for (backup, intent, not_before_ms) in self.state.rules() {
            let step = intent.step();
            if self.state.has_open(backup, &step) {
                continue;
            }
            let not_before_ms = not_before_ms.max(self.now_ms);
            self.push(BackupEvent::StepIntended {
                backup,
                step,
                deadline_ms: not_before_ms + intent.budget_ms(),
                intent,
                not_before_ms,
            })?;
        }
        Ok(())
    }

    /// Begins a book with what the last one knew.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn open(&mut self, carried: Carried) -> Result<(), Refusal> {
        self.push(BackupEvent::Opened { carried })
    }

    /// Begins a backup of a node and returns its name.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has asked [`cannot_begin`].
    pub fn begin(&mut self, node: &Node, owner: &str, cause: BackupCause) -> Result<BackupId, Refusal> {
        let inconsistent = |why: &str| Refusal::Inconsistent { node: self.node.clone(), why: why.to_owned() };
        let carrier = node.resources.carrier.as_ref().ok_or_else(|| inconsistent("no instance"))?;
        let spec = node.spec.as_ref().ok_or_else(|| inconsistent("no node"))?;
        if !self.state.opened {
            self.open(Carried::default())?;
        }
        let number = self.state.known.newest + 1;
        self.push(BackupEvent::Began(BackupOrder {
            node: self.node.clone(),
            number,
            owner: owner.to_owned(),
            instance: carrier.instance.clone(),
            generation: node.generation,
            volumes: volumes(node),
            keep: spec.backup.map_or(KEEP_DEFAULT, |backup| backup.keep),
            tags: spec.tags.clone(),
            cause,
        }))?;
        self.intend()?;
        Ok(BackupId::new(self.node.clone(), number))
    }

    /// Takes over the final snapshots of an operation, as a backup that is being copied; one that is not whole has failed.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has asked [`errand`].
    pub fn inherit(&mut self, node: &Node, from: &Operation) -> Result<(), Refusal> {
        let inconsistent = |why: &str| Refusal::Inconsistent { node: self.node.clone(), why: why.to_owned() };
        let finals = from.finals().ok_or_else(|| inconsistent("no final snapshots"))?;
        let old = from.old().ok_or_else(|| inconsistent("no instance they were taken from"))?;
        if !self.state.opened {
            self.open(Carried::default())?;
        }
        let (number, operation) = (self.state.known.newest + 1, from.id.clone());
        let keep = node.spec.as_ref().and_then(|spec| spec.backup).or(from.order.spec.backup);
        self.push(BackupEvent::Began(BackupOrder {
            node: self.node.clone(),
            number,
            owner: from.order.owner.clone(),
            instance: old.instance.clone(),
            generation: from.order.generation,
            volumes: finals.volumes,
            keep: keep.map_or(KEEP_DEFAULT, |backup| backup.keep),
            tags: from.order.spec.tags.clone(),
            cause: BackupCause::Final { operation: operation.clone() },
        }))?;
        let taken_at_ms = finals.taken_at_ms.min(self.now_ms);
        self.push(BackupEvent::Inherited {
            backup: number,
            operation,
            snapshots: finals.taken,
            taken_at_ms,
        })?;
        if let Some(because) = finals.because {
            self.push(BackupEvent::Failed { backup: number, because })?;
        }
        self.intend()
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when the token is not open.
    pub fn report(&mut self, token: Token, evidence: &Evidence) -> Result<(), Refusal> {
        let Some(record) = self.state.steps.get(&token) else {
            return Err(Refusal::Fenced { node: self.node.clone(), token });
        };
        let (backup, step, intent) = (record.backup, record.step.clone(), Arc::clone(&record.intent));
        let evidence = of_a_backup(&intent, evidence);
        self.push(BackupEvent::StepSettled { token, step, evidence: evidence.clone() })?;
        match (intent.as_ref(), &evidence) {
            (Intent::Backup(BackupIntent::Take { .. }), BackupEvidence::Taken { snapshots, .. }) => {
                let all = &self.state.known.backups;
                let taken = all.iter().find(|known| known.order.number == backup);
                let wanted = taken.map_or(0, |backup| backup.order.volumes.len());
                let of = taken.map_or(0, |backup| backup.snapshots.len());
                if of < wanted {
                    let because =
                        format!("only {of} of {wanted} volumes are in {} snapshots", snapshots.len());
                    self.push(BackupEvent::Failed { backup, because })?;
                }
            }
            (Intent::Backup(BackupIntent::Await { .. }), BackupEvidence::Complete) => {
                self.push(BackupEvent::Completed { backup })?;
            }
            (Intent::Backup(BackupIntent::Take { .. } | BackupIntent::Await { .. }), evidence) => {
                self.push(BackupEvent::Failed { backup, because: why(evidence) })?;
            }
            _ => {}
        }
        self.intend()
    }

    /// Holds a complete backup that volumes are made from.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has seen it complete.
    pub fn hold(&mut self, backup: u64, by: OperationId) -> Result<(), Refusal> {
        self.push(BackupEvent::Held { backup, by })
    }

    /// Lets it go; what is more than is kept is pruned.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has seen it held.
    pub fn let_go(&mut self, by: OperationId) -> Result<(), Refusal> {
        self.push(BackupEvent::LetGo { by })?;
        self.intend()
    }

    /// Gives up all backups.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn give_up(&mut self, because: &str) -> Result<(), Refusal> {
        if self.state.known.under_way().is_some() {
            return Ok(());
        }
        self.push(BackupEvent::GivenUp { because: because.to_owned() })?;
        self.intend()
    }

    /// Ends the book; what it knew goes on in the next one.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn close(&mut self, next: u64) -> Result<Carried, Refusal> {
        self.push(BackupEvent::Closed { next })?;
        Ok(self.state.known.clone())
    }
}

/// A worker's evidence in a backup's words.
fn of_a_backup(intent: &Intent, evidence: &Evidence) -> BackupEvidence {
    let takes = matches!(intent, Intent::Backup(BackupIntent::Take { .. }));
    match evidence {
        Evidence::Backup(evidence) => evidence.clone(),
        Evidence::OutOfTime { because } => BackupEvidence::OutOfTime { because: because.clone() },
        Evidence::InstanceGone { instance, state, .. } if takes => {
            let state = state.map_or_else(|| "not known any more".to_owned(), |state| state.to_string());
            BackupEvidence::NotTaken { because: format!("{instance} is {state}"), in_doubt: true }
        }
        Evidence::Refused { code, message } if takes => {
            BackupEvidence::NotTaken { because: format!("{code}: {message}"), in_doubt: true }
        }
        Evidence::Refused { code, message } => BackupEvidence::Kept { because: format!("{code}: {message}") },
        other => BackupEvidence::Kept { because: format!("BUG: the worker answered {other:?}") },
    }
}
