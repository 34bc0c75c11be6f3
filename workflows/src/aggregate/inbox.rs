//! Entries: messages that came through a queue, and what became of each.
//!
//! An inbox entry has a stream of its own, named by its idempotency key. The raw message, its disposition
//! and everything it leads to are written in one atomic append, before the message is deleted: a crash in
//! between finds the inbox entry answered.

use std::fmt;

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::InstanceId;
use crate::model::backup_id::BackupId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;

/// How often a repetition of an inbox entry is written down; further ones are only counted by the queue.
pub const REPETITIONS_MAX: u32 = 10;

/// How much is kept of an inbox entry that is none of ours, in characters: EC2's events are under 1 KiB.
pub const FOREIGN_BODY_MAX: usize = 4_096;

/// What became of an inbox entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// It started an operation.
    Started {
        /// Which.
        operation: OperationId,
    },
    /// It went on into an open operation.
    Joined {
        /// Which.
        operation: OperationId,
    },
    /// It began a backup.
    BackupBegan {
        /// Which.
        backup: BackupId,
    },
    /// It changed what the node is meant to be; the next operation works with it.
    Changed,
    /// It changed what the node is meant to be, and not everything of it has an effect by itself.
    ChangedWith {
        /// What has none, and what to do.
        remark: String,
    },
    /// It changed what the node is meant to be, and the open operation goes on with it at once.
    Amended {
        /// Which.
        operation: OperationId,
        /// What it was at, and what it does now.
        how: String,
    },
    /// It changed a pool of addresses.
    PoolDeclared {
        /// Which.
        pool: NodeName,
        /// How many of its addresses can be taken.
        free: u64,
    },
    /// There was nothing to do.
    Noted {
        /// Why.
        because: String,
    },
    /// It was refused.
    Rejected {
        /// Why, and what to do.
        because: String,
    },
    /// It is about an instance that is none of ours.
    Foreign {
        /// Which, if it says so.
        instance: Option<InstanceId>,
    },
    /// It is about an instance that carries its node no more.
    Past {
        /// Which node.
        node: NodeName,
        /// Which instance.
        instance: InstanceId,
    },
    /// It is an event of a kind we do nothing with.
    Unknown {
        /// Which kind.
        kind: String,
    },
    /// It could not be read; it is in the dead-letter queue.
    Malformed {
        /// Why.
        because: String,
    },
    /// It is larger than we take; it is in the dead-letter queue.
    Oversized {
        /// How large.
        bytes: u64,
    },
}

impl Disposition {
    /// Whether it is put into the dead-letter queue rather than deleted.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::Oversized { .. })
    }

    /// Whether what was asked for is or will be done.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        matches!(
            self,
            Self::Started { .. }
                | Self::Joined { .. }
                | Self::BackupBegan { .. }
                | Self::Changed
                | Self::ChangedWith { .. }
                | Self::Amended { .. }
                | Self::PoolDeclared { .. }
                | Self::Noted { .. }
        )
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { operation } => write!(f, "started workflow {operation}"),
            Self::Joined { operation } => write!(f, "went on into workflow {operation}"),
            Self::BackupBegan { backup } => write!(f, "began backup {backup}"),
            Self::Changed => f.write_str("changed the node's spec; the next operation works with it"),
            Self::ChangedWith { remark } => {
                write!(f, "changed the node's spec; the next operation works with it: {remark}")
            }
            Self::Amended { operation, how } => {
                write!(f, "changed the node's spec, and workflow {operation} goes on with it at once: {how}")
            }
            Self::PoolDeclared { pool, free } => write!(f, "declared pool {pool}: {free} addresses are free"),
            Self::Noted { because } => write!(f, "nothing to do: {because}"),
            Self::Rejected { because } => write!(f, "rejected: {because}"),
            Self::Foreign { instance: Some(instance) } => write!(f, "foreign: {instance} is none of ours"),
            Self::Foreign { instance: None } => f.write_str("foreign"),
            Self::Past { node, instance } => write!(f, "past: {instance} carries {node} no more"),
            Self::Unknown { kind } => write!(f, "unknown kind of event: {kind}"),
            Self::Malformed { because } => write!(f, "malformed: {because}"),
            Self::Oversized { bytes } => write!(f, "oversized: {bytes} bytes"),
        }
    }
}

/// What happened to an inbox entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InboxEvent {
    /// It came.
    Received {
        /// Through which queue: `submissions` or `interruptions`.
        queue: String,
        /// The queue's id of the message.
        message_id: String,
        /// When it was sent, in milliseconds since the Unix epoch.
        sent_at_ms: u64,
        /// Its size.
        bytes: u64,
        /// The raw message; of an oversized, foreign or unknown one the beginning.
        body: String,
    },
    /// It was answered.
    Answered {
        /// How.
        disposition: Disposition,
    },
    /// It came again, in another message.
    Repeated {
        /// The queue's id of the message.
        message_id: String,
    },
}

/// What is known of an inbox entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboxEntry {
    /// The queue's id of the first message.
    pub message_id: Option<String>,
    /// What became of it.
    pub disposition: Option<Disposition>,
    /// How often it came again.
    pub repetitions: u32,
}

impl InboxEntry {
    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &InboxEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match event {
            InboxEvent::Received { message_id, .. } => {
                if self.message_id.is_some() {
                    return illegal("the inbox entry has been received already");
                }
                self.message_id = Some(message_id.clone());
            }
            InboxEvent::Answered { disposition } => {
                if self.disposition.is_some() || self.message_id.is_none() {
                    return illegal("the inbox entry has been answered already, or never came");
                }
                self.disposition = Some(disposition.clone());
            }
            InboxEvent::Repeated { .. } => self.repetitions += 1,
        }
        Ok(self)
    }
}

/// The stream of an inbox entry: by its own id where it has one that fits a name, else by the hash of what
/// it is.
#[must_use]
pub fn inbox_stream(queue: &str, key: &str) -> StreamId {
    let plain = key.len() <= 128 && !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    let name = if plain { key.to_owned() } else { blake3::hash(key.as_bytes()).to_hex().to_string() };
    StreamId::parse(&format!("inbox/{queue}/{name}"))
        .unwrap_or_else(|error| unreachable!("BUG: an inbox entry's name is a stream name: {error}"))
}
