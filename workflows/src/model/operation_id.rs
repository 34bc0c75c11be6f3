//! The ids of operations: `db-1.3` is the third operation of node `db-1`.

use std::fmt;

use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::name::NodeName;

/// Whether an operation of this kind leaves the node on its instance, and gives way to all others.
pub(crate) const fn is_in_place(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Grow | OperationKind::AdoptVolumes | OperationKind::Prune => true,
        OperationKind::Provision
        | OperationKind::Replace
        | OperationKind::Delete
        | OperationKind::Pause
        | OperationKind::Resume => false,
    }
}

/// The id of one operation of one node: `db-1.3` is the third operation of `db-1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct OperationId {
    node: NodeName,
    number: u64,
}

/// Why a text is no operation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no workflow: it should look like \"db-1.3\" (node, dot, number)")]
pub struct BadOperationId {
    text: String,
}

impl OperationId {
    /// The `number`th operation of a node, counted from 1.
    #[must_use]
    pub const fn new(node: NodeName, number: u64) -> Self {
        Self { node, number }
    }

    /// Parses `db-1.3`.
    ///
    /// # Errors
    /// [`BadOperationId`].
    pub fn parse(text: &str) -> Result<Self, BadOperationId> {
        let bad = || BadOperationId { text: text.chars().take(80).collect() };
        let (node, number) = text.rsplit_once('.').ok_or_else(bad)?;
        let node = NodeName::parse(node).map_err(|_| bad())?;
        // An operation has one spelling: `u64` alone would also accept `+3` and `03`.
        let canonical = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().map_err(|_| bad())?;
        if canonical { Ok(Self { node, number }) } else { Err(bad()) }
    }

    /// The node of the operation.
    #[must_use]
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// The operation's number, counted from 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The next operation.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { node: self.node.clone(), number: self.number + 1 }
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        StreamId::parse(&format!("workflow/{self}"))
            .unwrap_or_else(|error| unreachable!("BUG: an operation's name is a stream name: {error}"))
    }

    /// The operation of a stream, if it is one.
    #[must_use]
    pub fn of_stream(stream: &StreamId) -> Option<Self> {
        if stream.category() == "workflow" { Self::parse(stream.name()).ok() } else { None }
    }
}

impl TryFrom<String> for OperationId {
    type Error = BadOperationId;
    fn try_from(text: String) -> Result<Self, BadOperationId> {
        Self::parse(&text)
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.node, self.number))
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The stream of a node.
#[must_use]
pub fn node_stream(name: &NodeName) -> StreamId {
    StreamId::parse(&format!("node/{name}"))
        .unwrap_or_else(|error| unreachable!("BUG: a node's name is a stream name: {error}"))
}

/// The purpose of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Creates the node's resources and its first instance.
    Provision,
    /// Brings the node back on another instance.
    Replace,
    /// Ends the node.
    Delete,
    /// Enlarges data volumes to the size of the node file, while the node runs.
    Grow,
    /// Gives the instance back and keeps everything else.
    Pause,
    /// Brings a paused node onto an instance.
    Resume,
    /// Adopts volumes that were attached to its instance from outside Perennial.
    AdoptVolumes,
    /// Deletes retained volumes, while the node runs.
    Prune,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Provision => "provision",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Grow => "grow",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::AdoptVolumes => "adopt_volumes",
            Self::Prune => "prune",
        })
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It reached its purpose. Events omit this outcome.
    #[default]
    #[serde(skip)]
    Completed,
    /// It was undone, as the operator asked.
    Cancelled,
    /// It was stuck, and a deletion took over its resources.
    Abandoned,
    /// It gave up bringing the node onto an instance, as the operator asked: every resource is free.
    Paused,
}

impl Outcome {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "finished",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::Paused => "paused",
        }
    }

    /// Whether it reached its purpose.
    #[must_use]
    pub const fn is_completed(&self) -> bool {
        matches!(self, Self::Completed)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
