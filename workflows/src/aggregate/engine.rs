//! The engine's own stream: when one took the journal, and when it let go of it. Between an end and the next
//! start nothing went on, and the histories say so.
//!
//! An engine that was killed has written no end. The next one writes when the journal's last event before it
//! was: nothing was done after that.

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The stream of the engine. A journal has one.
#[must_use]
pub fn engine_stream() -> StreamId {
    StreamId::parse("engine/this").unwrap_or_else(|error| unreachable!("BUG: a fixed name: {error}"))
}

/// What happened to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineEvent {
    /// An engine has taken the journal.
    Started {
        /// Its version.
        version: String,
        /// Its process id.
        process: u32,
        /// Nothing was done since then: the one before it did not say that it ended, and this is when the
        /// journal's last event before the start was written, in milliseconds since the Unix epoch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        silent_since_ms: Option<u64>,
    },
    /// It has let go of the journal, as it was asked to.
    Stopped {},
}

/// Whether an engine runs, as far as the journal knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineRuns {
    /// Whether the last thing that happened was a start.
    pub is_running: bool,
}

impl EngineRuns {
    /// Remembers.
    ///
    /// # Errors
    /// Never so far: a start follows a start where an engine was killed, and a stop is written once more
    /// after a doubtful answer.
    pub const fn evolve(self, _: Stamp, event: &EngineEvent) -> Result<Self, Illegal> {
        Ok(match event {
            EngineEvent::Started { .. } => Self { is_running: true },
            EngineEvent::Stopped {} => Self { is_running: false },
        })
    }
}
