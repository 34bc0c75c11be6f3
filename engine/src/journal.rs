//! The port `Journal`: the append-only log that is the truth.
//!
//! # Guarantees an adapter gives
//! - An append is atomic over all its streams and durable before it is acknowledged.
//! - A stream grows only from the head the caller expected; otherwise nothing of the batch is written.
//! - A stream that a batch fences is where the caller believes at the moment the batch is written; otherwise
//!   nothing of it is.
//! - A batch with an idempotency key is written at most once.
//! - Positions are dense from 1; every row's hash chains to the one before it ([`chain`]).
//! - The projections of a batch are written in the same transaction as its events.
//!
//! One conformance suite (`perennial-store`, `tests/journal_conformance.rs`) runs on every adapter.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::ids::{Position, Seq, StreamId, Token};

/// The largest body of one event, in bytes. A node file with the largest user data EC2 takes (16 KiB, base64)
/// and a full queue message (256 KiB) both fit.
pub const EVENT_BODY_MAX: usize = 512 * 1024;

/// The most events of one batch. The largest the domain makes is a few dozen.
pub const BATCH_EVENTS_MAX: usize = 1_000;

/// The most fences of one batch. A decision looks at a few streams beside those it writes.
pub const BATCH_FENCES_MAX: usize = 1_000;

/// The longest kind of an event, in bytes. The domain's are under 40.
pub const EVENT_KIND_MAX: usize = 100;

/// The longest idempotency key, in bytes: a queue message's id of any kind with a prefix.
pub const KEY_MAX: usize = 512;

/// The latest time an adapter can store, in milliseconds: SQLite's and PostgreSQL's integers are signed.
pub const RECORDED_AT_MS_MAX: u64 = i64::MAX as u64;

/// An event before it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventData {
    /// What happened, in the past tense with its area: `operation.step_intended`.
    pub kind: String,
    /// The version of the body's format, from 1.
    pub version: u32,
    /// A JSON object as text, exactly as it is hashed and stored.
    pub body: String,
}

/// 32 bytes of BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash before the first event.
    pub const GENESIS: Self = Self([0; 32]);

    /// 64 hexadecimal characters.
    #[must_use]
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Reads 64 hexadecimal characters.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// An event as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its place in the whole journal.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in the stream.
    pub seq: Seq,
    /// Kind, version and body.
    pub data: EventData,
    /// When the engine's clock said it was written, in milliseconds since the Unix epoch.
    pub recorded_at_ms: u64,
    /// The idempotency key of its batch, on the batch's first event only.
    pub key: Option<String>,
    /// [`chain`] of the previous hash and this row.
    pub hash: Hash,
}

/// Computes the hash of a row from the hash of the row before it.
///
/// Every field is length-prefixed (little endian, 64 bits), so no two rows hash alike by shifting a border.
#[must_use]
pub fn chain(previous: &Hash, row: &RecordedEvent) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&previous.0);
    let mut head = [0u8; 28];
    head[..8].copy_from_slice(&row.position.0.to_le_bytes());
    head[8..16].copy_from_slice(&row.seq.0.to_le_bytes());
    head[16..20].copy_from_slice(&row.data.version.to_le_bytes());
    head[20..].copy_from_slice(&row.recorded_at_ms.to_le_bytes());
    hasher.update(&head);
    for text in [row.stream.as_str(), &row.data.kind, &row.data.body] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    match &row.key {
        None => hasher.update(&[0]),
        Some(key) => hasher.update(&[1]).update(key.as_bytes()),
    };
    Hash(*hasher.finalize().as_bytes())
}

/// Events for one stream, and where the writer believes it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAppend {
    /// The stream.
    pub stream: StreamId,
    /// Its head now; [`Seq::NONE`] for a stream that must not exist yet.
    pub expected: Seq,
    /// What to add, at least one.
    pub events: Vec<EventData>,
}

/// An open step, as the projection keeps it: enough to ring its doorbell and to list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStepRow {
    /// The workflow's stream.
    pub stream: StreamId,
    /// The step's fencing token.
    pub token: Token,
    /// The step's name, such as `attach_data:db`.
    pub step: String,
    /// Not to be run before this time.
    pub due_ms: u64,
    /// To be given up after this time.
    pub deadline_ms: u64,
    /// Smaller runs first.
    pub priority: i32,
}

/// A timer of a stream, as the projection keeps it. The order is that in which timers are due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TimerRow {
    /// When it is due; 0 for at once.
    pub due_ms: u64,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its name; a stream has at most one of each name.
    pub name: String,
    /// The longest time for which it is ever set (see [`Timer`](crate::domain::Timer)).
    pub wait_max_ms: u64,
}

impl TimerRow {
    /// Whether its command is to be executed now.
    #[must_use]
    pub const fn is_due(&self, now_ms: u64) -> bool {
        is_due(self.due_ms, self.wait_max_ms, now_ms)
    }
}

/// Whether a timer is due: its time has come, or is further away than it was ever set for.
pub(crate) const fn is_due(due_ms: u64, wait_max_ms: u64, now_ms: u64) -> bool {
    due_ms <= now_ms || due_ms > now_ms.saturating_add(wait_max_ms)
}

/// One line about a stream, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryRow {
    /// The stream.
    pub stream: StreamId,
    /// Whether work on it is under way.
    pub open: bool,
    /// A JSON object as text.
    pub body: String,
    /// When the last event that changed it was written.
    pub updated_at_ms: u64,
}

/// What a batch changes in the projections. All of it can be rebuilt from the events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProjectionDelta {
    /// Steps that are open after the batch and were not before.
    pub opened: Vec<OpenStepRow>,
    /// Steps that were open before the batch and are not after.
    pub closed: Vec<(StreamId, Token)>,
    /// Keys that lead to a stream from now on, such as `instance/i-0abc` to `node/db-1`.
    pub keys_added: Vec<(String, StreamId)>,
    /// Keys that do not any more.
    pub keys_removed: Vec<(String, StreamId)>,
    /// Summaries to insert or replace.
    pub summaries: Vec<SummaryRow>,
    /// Timers to insert, or to move to another time.
    pub timers_set: Vec<TimerRow>,
    /// Timers that are due no more.
    pub timers_removed: Vec<(StreamId, String)>,
}

/// What is appended at once, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Per stream; a stream appears at most once.
    pub appends: Vec<StreamAppend>,
    /// Streams that must not have moved on from these heads; nothing is written to them. [`Seq::NONE`] for
    /// one that must not exist. A stream appears at most once, and not among those that are appended to.
    pub fences: Vec<(StreamId, Seq)>,
    /// Written at most once per key.
    pub key: Option<String>,
    /// The time the engine's clock shows.
    pub recorded_at_ms: u64,
    /// The change of the projections.
    pub projection: ProjectionDelta,
}

impl Batch {
    /// Every stream whose head the writer names, and that head: those appended to, then the fenced ones.
    pub fn expected(&self) -> impl Iterator<Item = (&StreamId, Seq)> {
        let appends = self.appends.iter().map(|append| (&append.stream, append.expected));
        appends.chain(self.fences.iter().map(|(stream, head)| (stream, *head)))
    }

    /// Checks the bounds every adapter keeps.
    ///
    /// # Errors
    /// [`AppendError::Refused`] naming the bound.
    pub fn check(&self) -> Result<(), AppendError> {
        let refused = |why: String| Err(AppendError::Refused { why });
        let events: usize = self.appends.iter().map(|append| append.events.len()).sum();
        if events == 0 || self.appends.iter().any(|append| append.events.is_empty()) {
            return refused("a batch needs at least one event in each stream it names".into());
        }
        if events > BATCH_EVENTS_MAX {
            return refused(format!("{events} events in one batch; the most is {BATCH_EVENTS_MAX}"));
        }
        if self.recorded_at_ms > RECORDED_AT_MS_MAX {
            return refused(format!("the time {} ms is beyond {RECORDED_AT_MS_MAX}", self.recorded_at_ms));
        }
        if let Some(key) = &self.key
            && !(1..=KEY_MAX).contains(&key.len())
        {
            return refused(format!("a key of {} bytes; between 1 and {KEY_MAX} fit", key.len()));
        }
        if self.fences.len() > BATCH_FENCES_MAX {
            return refused(format!(
                "{} fences in one batch; the most is {BATCH_FENCES_MAX}",
                self.fences.len()
            ));
        }
        for (i, (fenced, _)) in self.fences.iter().enumerate() {
            if self.appends.iter().any(|append| append.stream == *fenced)
                || self.fences[..i].iter().any(|(other, _)| other == fenced)
            {
                return refused(format!("stream {fenced} is fenced and appears twice in one batch"));
            }
        }
        for (i, append) in self.appends.iter().enumerate() {
            if self.appends[..i].iter().any(|other| other.stream == append.stream) {
                return refused(format!("stream {} appears twice in one batch", append.stream));
            }
            for event in &append.events {
                if !(1..=EVENT_KIND_MAX).contains(&event.kind.len()) {
                    return refused(format!(
                        "an event kind of {} bytes; between 1 and {EVENT_KIND_MAX} fit",
                        event.kind.len()
                    ));
                }
                if event.body.len() > EVENT_BODY_MAX {
                    return refused(format!(
                        "an event body of {} bytes; the most is {EVENT_BODY_MAX}",
                        event.body.len()
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Where a batch was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Of the batch's last event.
    pub last: Position,
}

/// Why a batch was not written. Nothing of it was, except where `Unknown` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A stream has moved on.
    #[error("stream {stream} is at {actual}, not at {expected}")]
    Conflict {
        /// The first stream that did not match.
        stream: StreamId,
        /// The head the writer named.
        expected: Seq,
        /// The head there is.
        actual: Seq,
    },
    /// A batch with this idempotency key has been written before.
    #[error("a batch with the key {key:?} was written before, at position {at}")]
    Duplicate {
        /// The key.
        key: String,
        /// Where its first event is.
        at: Position,
    },
    /// The batch breaks a bound; it can never be written.
    #[error("the batch cannot be written: {why}")]
    Refused {
        /// Which bound.
        why: String,
    },
    /// The journal cannot write now (disk full, closed); nothing was written.
    #[error("the journal cannot write: {why}")]
    Unavailable {
        /// The cause.
        why: String,
    },
    /// The commit's outcome is not known. Read before doing anything else.
    #[error("it is not known whether the batch was written: {why}")]
    Unknown {
        /// The cause.
        why: String,
    },
}

/// Why the journal could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file or connection fails.
    #[error("the journal cannot be read: {why}")]
    Unavailable {
        /// The cause.
        why: String,
    },
    /// What is stored is not what was written.
    #[error("the journal is damaged at position {position}: {why}")]
    Damaged {
        /// The row.
        position: Position,
        /// What is wrong.
        why: String,
    },
}

/// The end of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the last event; 0 when there is none.
    pub position: Position,
    /// Of the last event; [`Hash::GENESIS`] when there is none.
    #[serde(with = "hash_hex")]
    pub hash: Hash,
}

mod hash_hex {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Hash;

    pub(super) fn serialize<S: Serializer>(hash: &Hash, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hash.to_hex())
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(d)?;
        Hash::from_hex(&text).ok_or_else(|| serde::de::Error::custom("not 64 hexadecimal characters"))
    }
}

/// The append-only log. See the module's guarantees.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Appends a batch, atomically and durably.
    ///
    /// # Errors
    /// See [`AppendError`]; after `Conflict` the caller reloads and decides again.
    async fn append(&self, batch: Batch) -> Result<Appended, AppendError>;

    /// Reads a stream in order, from after `after`, at most `limit` events. An unknown stream is empty.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, ReadError>;

    /// Reads everything in order of position, from after `after`, at most `limit` events.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<RecordedEvent>, ReadError>;

    /// The end of the journal.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn head(&self) -> Result<Head, ReadError>;

    /// Open steps that are due at `due_ms` or before, in the order (stream, token), from after `after`, at
    /// most `limit`.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn open_steps(
        &self,
        due_ms: u64,
        after: Option<(StreamId, Token)>,
        limit: usize,
    ) -> Result<Vec<OpenStepRow>, ReadError>;

    /// Timers that are due at `due_ms` or before, in the order (due, stream, name), from after `after`, at
    /// most `limit`.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn timers(
        &self,
        due_ms: u64,
        after: Option<TimerRow>,
        limit: usize,
    ) -> Result<Vec<TimerRow>, ReadError>;

    /// The streams a key leads to, in order of name.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn lookup(&self, key: &str) -> Result<Vec<StreamId>, ReadError>;

    /// Summaries of one category (`node`, `workflow`) in order of name, from after `after`, at most `limit`;
    /// only the open ones if `only_open`.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn summaries(
        &self,
        category: &str,
        which: Which,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<SummaryRow>, ReadError>;
}

/// Which summaries to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// Those with work under way.
    Open,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(kind: &str, key: Option<String>, recorded_at_ms: u64) -> Result<(), AppendError> {
        let event = EventData { kind: kind.into(), version: 1, body: "{}".into() };
        let stream = StreamId::parse("s/1").unwrap();
        let appends = vec![StreamAppend { stream, expected: Seq::NONE, events: vec![event] }];
        Batch { appends, key, recorded_at_ms, ..Batch::default() }.check()
    }

    #[test]
    fn a_batch_at_its_bounds_is_taken_and_one_beyond_any_of_them_is_refused() {
        let longest = "k".repeat(EVENT_KIND_MAX);
        batch(&longest, Some("i".repeat(KEY_MAX)), RECORDED_AT_MS_MAX).unwrap();
        for beyond in [
            batch("", None, 0),
            batch(&format!("{longest}k"), None, 0),
            batch("k", Some(String::new()), 0),
            batch("k", Some("i".repeat(KEY_MAX + 1)), 0),
            batch("k", None, RECORDED_AT_MS_MAX + 1),
        ] {
            assert!(matches!(beyond, Err(AppendError::Refused { .. })), "{beyond:?}");
        }
    }
}
