//! The audit: who or what asked for something, when, what became of it, and where it stands in the journal.

use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::model::signal::Cause;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::journal::JournalHead;

/// The answer of `audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Audit {
    /// The lines, in the order of the journal.
    pub lines: Vec<AuditLine>,
    /// The end of the journal when it was read: the hashes of the lines lead to it.
    pub head: JournalHead,
}

/// What a line of the audit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    /// A request.
    Submission,
    /// A workflow that nothing but a signal or the engine itself began.
    Begun,
    /// A workflow that waits for a person.
    Stuck,
    /// A workflow that has ended.
    Ended,
    /// An engine that has started or stopped.
    Engine,
}

/// One line of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLine {
    /// Its place in the journal.
    pub position: u64,
    /// When it was written, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What it is about.
    pub kind: AuditKind,
    /// Who: of a request its requester, else `EC2`, `perennial` or the node file.
    pub who: String,
    /// What was asked for or done, such as `node.replace`, `replace` or `stuck`.
    pub what: String,
    /// The node, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<String>,
    /// Whether it was refused, or could not be read.
    pub refused: bool,
    /// The workflow that it led to, or is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The idempotency key of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<String>,
    /// The hash of the event: 64 hexadecimal characters.
    pub hash: String,
}

/// Which lines of the audit are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only those about this node.
    pub node: Option<String>,
    /// Only those of this person or source.
    pub who: Option<String>,
    /// Only those of this kind.
    pub kind: Option<AuditKind>,
    /// Only those of this deed, such as `node.delete` or `delete`.
    pub what: Option<String>,
    /// Only those that were refused.
    pub refused: bool,
    /// Not before.
    pub from_ms: Option<u64>,
    /// Not from then on.
    pub until_ms: Option<u64>,
}

impl AuditFilter {
    /// Whether a line is wanted.
    #[must_use]
    pub fn takes(&self, line: &AuditLine) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted.as_str()))
        };
        let deed = |wanted: &String| line.what == *wanted || line.what.ends_with(&format!(".{wanted}"));
        is(&self.node, line.node.as_deref())
            && is(&self.who, Some(&line.who))
            && self.kind.is_none_or(|kind| line.kind == kind)
            && self.what.as_ref().is_none_or(deed)
            && (!self.refused || line.refused)
            && self.from_ms.is_none_or(|from_ms| line.at_ms >= from_ms)
            && self.until_ms.is_none_or(|until_ms| line.at_ms < until_ms)
    }
}

/// What a request says of itself, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The requester.
    pub who: String,
    /// The kind of request.
    pub what: String,
    /// The node.
    pub node: Option<String>,
    /// The reason.
    pub why: Option<String>,
    /// The idempotency key.
    pub submission: Option<String>,
}

impl Asked {
    /// Reads the body of a message.
    #[must_use]
    pub fn new(body: &str) -> Self {
        let message: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let of_workflow = text("/params/workflow").and_then(|id| OperationId::parse(&id).ok());
        let node = text("/node").or_else(|| text("/params/spec/name"));
        Self {
            who: text("/requested_by").unwrap_or_else(|| "unknown".to_owned()),
            what: text("/workflow").unwrap_or_else(|| "unreadable".to_owned()),
            node: node.or_else(|| of_workflow.map(|id| id.node().to_string())),
            why: text("/params/reason"),
            submission: text("/id"),
        }
    }
}

/// Who is behind a workflow that no request began.
#[must_use]
pub fn source(cause: &Cause) -> &'static str {
    match cause {
        Cause::Request { .. } => "request",
        Cause::Signal { .. } => "EC2",
        Cause::FileChanged { .. } | Cause::RetainedLonger { .. } => "node file",
        Cause::ReturnToSpot { .. } | Cause::Found { .. } => "perennial",
    }
}

/// The workflow that a message led to.
#[must_use]
pub fn led_to(disposition: &Disposition) -> Option<String> {
    match disposition {
        Disposition::Started { operation }
        | Disposition::Joined { operation }
        | Disposition::Amended { operation, .. } => Some(operation.to_string()),
        _ => None,
    }
}
