//! Why a question has no answer.

use std::fmt;

use perennial_engine::domain::{DecodeError, FoldError};
use perennial_engine::ids::{Seq, StreamId};
use perennial_engine::journal::ReadError;
use perennial_workflows::machine::refusal::Refusal;
use perennial_workflows::model::name::NodeName;

/// What was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A node.
    Node,
    /// A workflow.
    Workflow,
    /// An address pool.
    AddressPool,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Workflow => "workflow",
            Self::AddressPool => "pool",
        })
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is none of this name.
    #[error("there is no {subject} {name}")]
    Missing {
        /// What was asked about.
        subject: Subject,
        /// The name.
        name: String,
    },
    /// A prune cannot delete a volume that was named.
    #[error("{why}")]
    NotPrunable {
        /// Which, and why not.
        why: String,
    },
    /// A move was to be planned of a node that may not move.
    #[error("{node} waits for capacity where it is")]
    NoOtherSubnet {
        /// The node.
        node: NodeName,
    },
    /// The machine refused a plan: a bug.
    #[error(transparent)]
    Plan(#[from] Refusal),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A stream cannot be folded.
    #[error("stream {stream} cannot be folded")]
    Corrupt {
        /// The stream.
        stream: StreamId,
        /// Why.
        source: FoldError,
    },
    /// An event cannot be decoded.
    #[error("event {seq} of {stream}")]
    Event {
        /// The stream.
        stream: StreamId,
        /// Its place in the stream.
        seq: Seq,
        /// Why.
        source: DecodeError,
    },
    /// The body of an event is no JSON.
    #[error("event {seq} of {stream} is no JSON")]
    Body {
        /// The stream.
        stream: StreamId,
        /// Its place in the stream.
        seq: Seq,
        /// Why.
        source: serde_json::Error,
    },
    /// A summary cannot be read; the projections must be rebuilt.
    #[error("the summary of {stream} cannot be read")]
    Summary {
        /// The stream.
        stream: StreamId,
        /// Why.
        source: serde_json::Error,
    },
    /// The last event's hash is not that of its content.
    #[error("the hash of event {position} is not right")]
    Hash {
        /// The event.
        position: u64,
    },
}
