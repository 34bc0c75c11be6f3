//! The audit: one pass over the whole journal.

use std::collections::BTreeMap;

use perennial_engine::ids::Position;
use perennial_engine::journal::RecordedEvent;
use perennial_workflows::aggregate::engine::EngineEvent;
use perennial_workflows::aggregate::inbox::InboxEvent;
use perennial_workflows::domain::states::Event;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::model::signal::Cause;
use perennial_workflows::operation::event::OperationEvent;

use crate::model::audit::{Asked, Audit, AuditFilter, AuditKind, AuditLine, led_to, source};
use crate::query::{PAGE, QueryError, Views, decoded};

/// Messages that were received and not answered yet: the answer is the next event of the same append.
type Received = BTreeMap<String, Asked>;

impl Views {
    /// Who or what asked for something, and what became of it. It reads the whole journal.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Event`].
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Audit, QueryError> {
        let head = self.head().await?;
        let mut lines = Vec::new();
        let mut received = Received::new();
        let mut after = Position(0);
        loop {
            let page = self.journal.read_all(after, PAGE).await?;
            for event in &page {
                after = event.position;
                lines.extend(line(event, &mut received)?.filter(|line| filter.takes(line)));
            }
            if page.len() < PAGE {
                return Ok(Audit { lines, head });
            }
        }
    }
}

/// A line with what every event tells.
fn begun(recorded: &RecordedEvent, kind: AuditKind, who: &str, what: &str) -> AuditLine {
    AuditLine {
        position: recorded.position.0,
        at_ms: recorded.recorded_at_ms,
        kind,
        who: who.to_owned(),
        what: what.to_owned(),
        node: None,
        why: None,
        fate: None,
        refused: false,
        workflow: None,
        submission: None,
        hash: recorded.hash.to_hex(),
    }
}

/// The line that an event is, if it is one.
fn line(recorded: &RecordedEvent, received: &mut Received) -> Result<Option<AuditLine>, QueryError> {
    let is_told = matches!(recorded.stream.category(), "workflow" | "engine")
        || recorded.stream.to_string().starts_with("inbox/submissions/");
    if !is_told {
        return Ok(None);
    }
    let line = |kind, who: &str, what: &str| begun(recorded, kind, who, what);
    let about = |kind, who: &str, what: &str| {
        let id = OperationId::of_stream(&recorded.stream);
        AuditLine {
            node: id.as_ref().map(|id| id.node().to_string()),
            workflow: id.map(|id| id.to_string()),
            ..line(kind, who, what)
        }
    };
    Ok(match decoded(recorded)? {
        Event::Inbox(InboxEvent::Received { body, .. }) => {
            received.insert(recorded.stream.to_string(), Asked::new(&body));
            None
        }
        Event::Inbox(InboxEvent::Answered { disposition }) => {
            let Asked { who, what, node, why, submission } =
                received.remove(&recorded.stream.to_string()).unwrap_or_default();
            Some(AuditLine {
                node,
                why,
                submission,
                refused: !disposition.is_accepted(),
                workflow: led_to(&disposition),
                fate: Some(disposition.to_string()),
                ..line(AuditKind::Submission, &who, &what)
            })
        }
        Event::Inbox(InboxEvent::Mismatched { asks, sender, .. }) => Some(AuditLine {
            submission: Some(recorded.stream.name().to_owned()),
            refused: true,
            fate: Some("its key had another content before".to_owned()),
            ..line(AuditKind::Submission, sender.as_deref().unwrap_or("not known"), &asks)
        }),
        Event::Operation(OperationEvent::Started(order)) => match &order.cause {
            // The request has its own line.
            Cause::Request { .. } => None,
            cause => Some(AuditLine {
                why: Some(cause.to_string()),
                fate: Some("began".to_owned()),
                ..about(AuditKind::Begun, source(cause), &order.kind.to_string())
            }),
        },
        Event::Operation(OperationEvent::Stuck { step, because, .. }) => Some(AuditLine {
            why: Some(format!("{step}: {because}")),
            ..about(AuditKind::Stuck, "perennial", "stuck")
        }),
        Event::Operation(OperationEvent::Finished { outcome, .. }) => Some(AuditLine {
            fate: Some(outcome.to_string()),
            ..about(AuditKind::Ended, "perennial", "ended")
        }),
        Event::Engine(EngineEvent::Started { version, process, silent_since_ms }) => Some(AuditLine {
            why: Some(format!("version {version}, process {process}")),
            fate: silent_since_ms.map(|_| "the one before it was killed".to_owned()),
            ..line(AuditKind::Engine, "perennial", "engine started")
        }),
        Event::Engine(EngineEvent::Stopped {}) => {
            Some(line(AuditKind::Engine, "perennial", "engine stopped"))
        }
        Event::Node(_)
        | Event::Operation(_)
        | Event::Inbox(InboxEvent::Repeated { .. } | InboxEvent::Counted(_))
        | Event::Backup(_)
        | Event::AddressPool(_)
        | Event::Installation(_) => None,
    })
}
