//! Names and numbers that the journal is built of.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest stream name, in bytes. Chosen so that a name fits a queue message, a log line and an
/// index entry without thought; the longest the domain makes is under 100.
pub const STREAM_NAME_MAX: usize = 200;

/// The name of a stream: `<category>/<name>`, such as `node/db-1` or `workflow/db-1.3`.
///
/// Printable ASCII without spaces, at most [`STREAM_NAME_MAX`] bytes, exactly one category before
/// the first slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamId(Arc<str>);

/// Why a text is no stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a stream name: it must be `<category>/<name>` in printable ASCII, at most {STREAM_NAME_MAX} bytes"
)]
pub struct BadStreamId {
    name: String,
}

impl StreamId {
    /// Parses a stream name.
    ///
    /// # Errors
    /// [`BadStreamId`] when the text has no category, is too long or holds other characters.
    pub fn parse(name: &str) -> Result<Self, BadStreamId> {
        let shaped =
            name.split_once('/').is_some_and(|(category, rest)| !category.is_empty() && !rest.is_empty());
        if shaped && name.len() <= STREAM_NAME_MAX && name.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(name.into()))
        } else {
            Err(BadStreamId { name: name.chars().take(80).collect() })
        }
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first slash: `node`, `workflow`, `inbox entry`…
    #[must_use]
    pub fn category(&self) -> &str {
        self.0.split_once('/').map_or("", |(category, _)| category)
    }

    /// What stands after the first slash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl TryFrom<String> for StreamId {
    type Error = BadStreamId;
    fn try_from(name: String) -> Result<Self, BadStreamId> {
        Self::parse(&name)
    }
}

impl From<StreamId> for String {
    fn from(id: StreamId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place within one stream, counted from 1. `Seq(0)` is the head of a stream that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The head of a stream that does not exist.
    pub const NONE: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the whole journal, counted from 1, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing token of a step: the place of its `StepIntended` event in the workflow's stream.
///
/// A report quotes it; a report with any other token than the open one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u64);

impl From<Seq> for Token {
    fn from(seq: Seq) -> Self {
        Self(seq.0)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hint: look at this step of this workflow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Doorbell {
    /// The workflow's stream.
    pub workflow: StreamId,
    /// The step.
    pub token: Token,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_name_needs_a_category_and_a_name() {
        for bad in ["", "node", "/x", "node/", "node/a b", "node/ä"] {
            assert!(StreamId::parse(bad).is_err(), "{bad:?} was accepted");
        }
        let id = StreamId::parse("workflow/db-1.3").unwrap();
        assert_eq!((id.category(), id.name()), ("workflow", "db-1.3"));
        assert!(StreamId::parse(&format!("n/{}", "x".repeat(STREAM_NAME_MAX - 2))).is_ok());
        assert!(StreamId::parse(&format!("n/{}", "x".repeat(STREAM_NAME_MAX - 1))).is_err());
    }
}
