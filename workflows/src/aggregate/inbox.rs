//! Entries: messages that came through a queue, and what became of each.
//!
//! An inbox entry has a stream of its own, named by its idempotency key. The raw message, its disposition
//! and everything it leads to are written in one atomic append, before the message is deleted: a crash in
//! between finds the inbox entry answered.
//!
//! A key names one content: the entry keeps the hash of what was asked, and the same key with another content
//! is a mismatch, which is written down and refused. Events that are none of ours are not kept one by one;
//! they are counted ([`InboxEvent::Counted`]), in one stream a day.

use std::collections::BTreeMap;
use std::fmt;

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::InstanceId;
use crate::model::backup_id::BackupId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::model::text::clip;

/// How often a repetition of an inbox entry is written down; further ones are only counted by the queue.
pub const REPETITIONS_MAX: u32 = 10;

/// How many messages with the same key and another content are written down in an entry.
pub const MISMATCHES_MAX: u32 = 10;

/// How much of a message is kept that nothing comes of, in bytes as they are stored. EC2's events are under
/// 1 KiB. A message that cannot be read is whole in the dead-letter queue.
pub const UNREAD_BODY_MAX: usize = 1_024;

/// How much of a message is kept that something comes of, in bytes as they are stored. A submission of the
/// largest size fits, whatever is escaped in it.
pub const BODY_MAX: usize = 384 * 1024;

/// The longest text of a disposition, in characters: a sentence with an id or two.
pub const BECAUSE_MAX: usize = 600;

/// How many kinds of unknown events are counted each by itself; the others are counted together.
pub const KINDS_MAX: usize = 20;

/// The name under which the events of further kinds are counted.
pub const OTHER_KINDS: &str = "others";

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
    /// Its id was used before, for something else. Nothing was done.
    Mismatch {
        /// What the id was used for, and what to do.
        because: String,
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

    /// The same with every text cut to what is kept of it.
    #[must_use]
    pub fn bounded(self) -> Self {
        let cut = |because: String| clip(&because, BECAUSE_MAX);
        match self {
            Self::ChangedWith { remark } => Self::ChangedWith { remark: cut(remark) },
            Self::Amended { operation, how } => Self::Amended { operation, how: cut(how) },
            Self::Noted { because } => Self::Noted { because: cut(because) },
            Self::Rejected { because } => Self::Rejected { because: cut(because) },
            Self::Mismatch { because } => Self::Mismatch { because: cut(because) },
            Self::Malformed { because } => Self::Malformed { because: cut(because) },
            Self::Unknown { kind } => Self::Unknown { kind: cut(kind) },
            Self::Started { .. }
            | Self::Joined { .. }
            | Self::BackupBegan { .. }
            | Self::Changed
            | Self::PoolDeclared { .. }
            | Self::Foreign { .. }
            | Self::Past { .. }
            | Self::Oversized { .. } => self,
        }
    }
}

/// As much of a message as is kept. Its bytes are counted as the journal stores them: a control character
/// takes six, a quotation mark two. What is cut names its size and its hash, so that the whole message can be
/// told where it is found elsewhere.
#[must_use]
pub fn kept(body: &str, most: usize) -> String {
    let mut stored = 0;
    for (at, character) in body.char_indices() {
        stored += match character {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            control if u32::from(control) < 0x20 => 6,
            other => other.len_utf8(),
        };
        if stored > most {
            let hash = blake3::hash(body.as_bytes()).to_hex();
            return format!("{} … (cut; {} bytes, BLAKE3 {hash})", &body[..at], body.len());
        }
    }
    body.to_owned()
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
            Self::Mismatch { because } => write!(f, "mismatch: {because}"),
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
        /// The raw message; of one that nothing comes of the beginning, with size and hash.
        body: String,
        /// The hash of what it says: the key stands for this and nothing else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// Who sent it, as the queue has authenticated them (SQS: `SenderId`). None where the queue knows no
        /// senders.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sender: Option<String>,
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
    /// Its key came again with another content, which was refused.
    Mismatched {
        /// The queue's id of the message.
        message_id: String,
        /// The hash of what the message says.
        content: String,
        /// What the message asks for, in a few words.
        asks: String,
        /// Who sent it, as the queue has authenticated them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sender: Option<String>,
    },
    /// Messages came that nothing comes of. They are counted, not kept.
    Counted(Counts),
}

/// How many messages came that nothing comes of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Events about instances that are none of ours.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub foreign: u64,
    /// Events of kinds that we do nothing with, by source and detail-type; those of further kinds together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown: BTreeMap<String, u64>,
    /// Messages that could not be read, beyond those that have an entry each. They are in the dead-letter
    /// queue.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unread: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    /// Counts a message by what became of it. Returns whether it is one that is counted.
    pub fn count(&mut self, disposition: &Disposition) -> bool {
        match disposition {
            Disposition::Foreign { .. } => self.foreign += 1,
            Disposition::Unknown { kind } => self.count_unknown(kind, 1),
            Disposition::Malformed { .. } | Disposition::Oversized { .. } => self.unread += 1,
            _ => return false,
        }
        true
    }

    fn count_unknown(&mut self, kind: &str, times: u64) {
        let is_new = !self.unknown.contains_key(kind);
        let kind = if is_new && self.unknown.len() >= KINDS_MAX { OTHER_KINDS } else { kind };
        *self.unknown.entry(kind.to_owned()).or_default() += times;
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        self.foreign += others.foreign;
        self.unread += others.unread;
        for (kind, times) in &others.unknown {
            self.count_unknown(kind, *times);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.foreign + self.unread + self.unknown.values().sum::<u64>()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.foreign > 0 {
            parts.push(format!("{} about instances that are none of ours", self.foreign));
        }
        parts.extend(self.unknown.iter().map(|(kind, times)| format!("{times} × {kind}")));
        if self.unread > 0 {
            parts.push(format!("{} that could not be read", self.unread));
        }
        f.write_str(&parts.join(", "))
    }
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
    /// The hash of what it says; none of an entry of an older build.
    pub content: Option<String>,
    /// How often its key came with another content.
    pub mismatches: u32,
    /// Of a stream of counted messages: how many.
    pub counts: Counts,
}

impl InboxEntry {
    /// What a message with its key and this content is answered.
    #[must_use]
    pub fn answer(&self, content: Option<&str>) -> Option<Disposition> {
        let first = self.disposition.as_ref()?;
        if !content.is_some_and(|content| self.differs_from(content)) {
            return Some(first.clone());
        }
        let because = format!(
            "its id was used before, for another request ({first}); nothing was done: use a new id for a new request"
        );
        Some(Disposition::Mismatch { because }.bounded())
    }

    /// Whether a message with its key says something else.
    #[must_use]
    pub fn differs_from(&self, content: &str) -> bool {
        self.content.as_deref().is_some_and(|first| first != content)
    }
}

impl InboxEntry {
    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &InboxEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match event {
            InboxEvent::Received { message_id, content, .. } => {
                if self.message_id.is_some() {
                    return illegal("the inbox entry has been received already");
                }
                self.message_id = Some(message_id.clone());
                self.content.clone_from(content);
            }
            InboxEvent::Answered { disposition } => {
                if self.disposition.is_some() || self.message_id.is_none() {
                    return illegal("the inbox entry has been answered already, or never came");
                }
                self.disposition = Some(disposition.clone());
            }
            InboxEvent::Repeated { .. } => self.repetitions += 1,
            InboxEvent::Mismatched { .. } => self.mismatches += 1,
            InboxEvent::Counted(counts) => self.counts.add(counts),
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

/// The stream that counts the messages of a queue of one day.
#[must_use]
pub fn counts_stream(queue: &str, at_ms: u64) -> StreamId {
    let day = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let day = day.map(|time| time.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
    StreamId::parse(&format!("inbox/counted/{queue}-{day}"))
        .unwrap_or_else(|error| unreachable!("BUG: a queue and a day are a stream name: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_message_fits_however_it_is_escaped() {
        for body in ["\u{1}".repeat(200_000), "\"".repeat(262_144), "\\".repeat(262_144), "é".repeat(131_072)]
        {
            for most in [10, UNREAD_BODY_MAX, BODY_MAX] {
                let stored = serde_json::to_string(&kept(&body, most)).unwrap();
                assert!(stored.len() <= most + 200, "{} of {most}", stored.len());
            }
        }
        assert_eq!(kept("short \u{1}\"", UNREAD_BODY_MAX), "short \u{1}\"");
        let cut = kept(&"x".repeat(2_000), UNREAD_BODY_MAX);
        let hash = blake3::hash("x".repeat(2_000).as_bytes()).to_hex().to_string();
        assert!(cut.contains("2000 bytes") && cut.contains(&hash), "{cut}");
    }

    #[test]
    fn counts_stay_small_however_many_kinds_there_are() {
        let mut counts = Counts::default();
        for number in 0..1_000 {
            assert!(counts.count(&Disposition::Unknown { kind: format!("aws.ec2 / {number}") }));
        }
        assert!(!counts.count(&Disposition::Changed));
        assert_eq!(counts.total(), 1_000);
        assert_eq!(counts.unknown.len(), KINDS_MAX + 1);
        assert_eq!(counts.unknown[OTHER_KINDS], 1_000 - KINDS_MAX as u64);
        let mut twice = counts.clone();
        twice.add(&counts);
        assert_eq!((twice.total(), twice.unknown.len()), (2_000, KINDS_MAX + 1));
    }
}
