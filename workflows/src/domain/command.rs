//! The commands of the domain, and why one is refused. A command says what is asked or was seen; what it is
//! decided on is read by the domain (see `reads`).

use perennial_engine::domain::Waiting;
use perennial_engine::ids::{StreamId, Token};

use crate::aggregate::backup_catalog;
use crate::aggregate::inbox::{Counts, Disposition};
use crate::domain::movement::SpotSeen;
use crate::domain::standing::Adoption;
use crate::domain::submission::Submission;
use crate::machine::refusal::Refusal;
use crate::model::aws::{InstanceId, VolumeId};
use crate::model::installation::Place;
use crate::model::name::NodeName;
use crate::model::signal::Signal;
use crate::step::evidence::Evidence;

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its stream; see [`inbox_stream`](crate::aggregate::inbox::inbox_stream).
    pub stream: StreamId,
    /// Through which queue.
    pub queue: String,
    /// The queue's id of it.
    pub message_id: String,
    /// When it was sent.
    pub sent_at_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// As much of it as is to be kept.
    pub body: String,
    /// The hash of what it says.
    pub content: Option<String>,
    /// Who sent it, as the queue has authenticated them.
    pub sender: Option<String>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one of it exists at a time")]
pub enum Content {
    /// It asks for something.
    Submission(Submission),
    /// It tells something.
    Signal(Signal),
    /// Its disposition is clear from its form: malformed, oversized, unknown, foreign, too late.
    Settled(Disposition),
    /// It is no message, but the number of those that nothing comes of.
    Counted(Counts),
}

/// What may be asked of the domain.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one of it exists at a time")]
pub enum Command {
    /// A message came.
    Message {
        /// As it came.
        envelope: Envelope,
        /// What it says.
        content: Content,
        /// Whose installation this is.
        owner: String,
    },
    /// The sweep saw something.
    Signal {
        /// What.
        signal: Signal,
        /// Whose installation this is.
        owner: String,
    },
    /// The backups of a node are to be looked after. A timer says so, as for [`Prune`](Self::Prune): whose
    /// installation this is stands in the journal.
    ReconcileBackups {
        /// Of which node.
        node: NodeName,
    },
    /// A node on demand may go back to spot.
    ReturnToSpot {
        /// Which node.
        node: NodeName,
        /// What is known of spot where it lives.
        seen: SpotSeen,
        /// Whose installation this is.
        owner: String,
    },
    /// The node file says that what is retained is to be deleted.
    Prune {
        /// Of which node.
        node: NodeName,
    },
    /// The sweep saw the volumes of the instance that carries a node at rest.
    Attachments {
        /// Which node.
        node: NodeName,
        /// Its instance.
        instance: InstanceId,
        /// Attached volumes that were not known to be the node's.
        others: Vec<VolumeId>,
        /// The node's volumes that were seen to have left it, twice.
        left: Vec<VolumeId>,
        /// Whose installation this is.
        owner: String,
    },
    /// The journal is served here: it belongs here from now on, or it does already.
    Bind {
        /// The installation id, if it has none yet.
        id: String,
        /// Where.
        place: Place,
    },
    /// An engine has taken the journal.
    EngineStarted {
        /// Its version.
        version: String,
        /// Its process id.
        process: u32,
        /// When the journal's last event before it was written, if there is one.
        silent_since_ms: Option<u64>,
    },
    /// The engine lets go of the journal.
    EngineStopped {},
    /// The operator says that the journal belongs here from now on.
    Move {
        /// Where.
        place: Place,
        /// The operator.
        requested_by: String,
    },
    /// The account was compared with what the journal knows of a node.
    Standing {
        /// Which node.
        node: NodeName,
        /// Resources of the node that the journal cannot know, in words; empty when it knows all.
        newer: Vec<String>,
        /// Whose installation this is.
        owner: String,
    },
    /// The operator brings the journal up to the world.
    Adopt {
        /// Which node.
        node: NodeName,
        /// The node as it is in the account.
        found: Box<Adoption>,
        /// The operator.
        requested_by: String,
        /// Whose installation this is.
        owner: String,
    },
    /// A worker waits with a step.
    Waits {
        /// The workflow of an open step.
        workflow: StreamId,
        /// The step.
        token: Token,
        /// What it waits for.
        waiting: Waiting,
    },
    /// A worker reports.
    Report {
        /// Of which operation, or which backup catalog of backups.
        workflow: StreamId,
        /// Of which step.
        token: Token,
        /// What it observed.
        evidence: Evidence,
    },
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The operation refuses.
    #[error(transparent)]
    Operation(#[from] Refusal),
    /// The backups refuse.
    #[error(transparent)]
    Backup(#[from] backup_catalog::Refusal),
    /// There is no such node.
    #[error("there is no node {node}")]
    NoSuchNode {
        /// Its name.
        node: NodeName,
    },
    /// The node is not to be moved now.
    #[error("node {node} is not moved now: {why}")]
    NotNow {
        /// Which.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// The journal belongs somewhere else.
    #[error("the journal belongs to {bound}; this is {here}")]
    AnotherPlace {
        /// Where it belongs.
        bound: Box<Place>,
        /// Where it is served.
        here: Box<Place>,
    },
    /// There is no such operation.
    #[error("there is no workflow {name}")]
    NoSuchOperation {
        /// Its name.
        name: String,
    },
    /// Nothing may be written to a stream of this category by this build.
    #[error("BUG: nothing may be written to {stream}")]
    WrongStream {
        /// Which.
        stream: StreamId,
    },
}
