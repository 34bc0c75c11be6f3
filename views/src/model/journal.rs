//! The journal itself: its end, and single events.

use perennial_engine::journal::{Head, RecordedEvent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer of `journal head`: the last event's place and hash, which prove a whole journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalHead {
    /// The position of the last event; 0 when there is none.
    pub position: u64,
    /// The hash of the last event: 64 hexadecimal characters.
    pub hash: String,
}

impl From<Head> for JournalHead {
    fn from(head: Head) -> Self {
        Self { position: head.position.0, hash: head.hash.to_hex() }
    }
}

/// The last event, after its hash was computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedHead {
    /// Its position.
    pub position: u64,
    /// When it was written.
    pub recorded_at_ms: u64,
}

/// One event, as `workflow watch` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventLine {
    /// Its place in the whole journal, from 1.
    pub position: u64,
    /// The stream it belongs to, such as `workflow/db-1.3`.
    pub stream: String,
    /// Its place in the stream, from 1.
    pub seq: u64,
    /// What happened, such as `operation.step_settled`.
    pub kind: String,
    /// When it was written.
    pub recorded_at_ms: u64,
    /// What it says; its form depends on the kind (schema `event`).
    pub body: Value,
}

impl EventLine {
    /// Makes the line of an event.
    ///
    /// # Errors
    /// When its body is no JSON.
    pub fn new(event: &RecordedEvent) -> Result<Self, serde_json::Error> {
        Ok(Self {
            position: event.position.0,
            stream: event.stream.to_string(),
            seq: event.seq.0,
            kind: event.data.kind.clone(),
            recorded_at_ms: event.recorded_at_ms,
            body: serde_json::from_str(&event.data.body)?,
        })
    }
}
