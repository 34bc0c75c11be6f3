//! Workflows: one operation on one node each.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_engine::ids::Token;
use perennial_workflows::domain::projection::OperationSummary;
use perennial_workflows::model::operation_id::{OperationId, OperationKind, Outcome};
use perennial_workflows::model::resources::RecoveryPoint;
use perennial_workflows::model::signal::Cause;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::{Operation, Status, StepRecord};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::Intent;
use perennial_workflows::view::history::{Outage, Story};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::journal::EventLine;
use crate::model::progress::{Progress, StuckStep};
use crate::model::waits::WaitsView;

/// One line of `workflow list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowLine {
    /// Its id.
    pub workflow: String,
    /// What it does.
    pub kind: OperationKind,
    /// `running`, `stuck`, `finished`, `cancelled` or `abandoned`.
    pub status: String,
    /// Why it was started.
    pub cause: String,
    /// When it was started.
    pub started_at_ms: u64,
    /// Since when it is over or stuck.
    pub ended_at_ms: Option<u64>,
    /// Why it is stuck, if it is.
    pub because: Option<String>,
}

impl WorkflowLine {
    /// Makes the line of a workflow from its summary.
    #[must_use]
    pub fn new(id: &str, summary: OperationSummary) -> Self {
        let OperationSummary { kind, status, cause, started_at_ms, ended_at_ms, because } = summary;
        Self { workflow: id.to_owned(), kind, status, cause, started_at_ms, ended_at_ms, because }
    }
}

/// The answer of `workflow show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowView {
    /// Its id.
    pub workflow: OperationId,
    /// What it does.
    pub kind: String,
    /// `running`, `stuck`, or how it ended.
    pub status: String,
    /// Why it is stuck, if it is.
    pub because: Option<String>,
    /// What the operator must do, if it is stuck.
    pub needs: Option<String>,
    /// Why it was started.
    pub cause: Cause,
    /// When it was started.
    pub started_at_ms: u64,
    /// Since when it is over or stuck.
    pub ended_at_ms: Option<u64>,
    /// The recovery point of each volume: where its content comes from, and so what is lost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recovery_points: BTreeMap<Slot, RecoveryPoint>,
    /// Its steps, in the order in which they were intended.
    pub steps: Vec<StepView>,
    /// What it does now, if it is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The time during which the node did not serve; without an end while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
}

impl WorkflowView {
    /// Makes the view of a workflow.
    #[must_use]
    pub fn new(operation: &Operation, story: Option<&Story>, now_ms: u64) -> Self {
        let (status, because, needs, ended_at_ms) = match &operation.status {
            Status::Running => ("running", None, None, None),
            Status::Stuck { because, needs, since_ms, .. } => {
                ("stuck", Some(because.clone()), Some(needs.clone()), Some(*since_ms))
            }
            Status::Finished { at_ms, outcome } => (outcome.name(), None, None, Some(*at_ms)),
        };
        Self {
            workflow: operation.id.clone(),
            kind: operation.order.kind.to_string(),
            status: status.to_owned(),
            because,
            needs,
            cause: operation.order.cause.clone(),
            started_at_ms: operation.started_at_ms,
            ended_at_ms,
            recovery_points: story.map(|story| story.recovery_points.clone()).unwrap_or_default(),
            steps: operation.steps.iter().map(|(token, record)| StepView::new(*token, record)).collect(),
            progress: Progress::new(operation, now_ms),
            outage: story.and_then(|story| story.outage.clone()),
        }
    }
}

/// One step of a workflow: what was asked, and what was observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// Its fencing token.
    pub token: u64,
    /// Its name.
    pub step: String,
    /// Which attempt at it.
    pub attempt: u32,
    /// When it was intended.
    pub intended_at_ms: u64,
    /// It is not run before this time.
    pub not_before_ms: u64,
    /// It is given up after this time.
    pub deadline_ms: u64,
    /// When it was settled; none while it is open.
    pub settled_at_ms: Option<u64>,
    /// The whole request.
    pub intent: Arc<Intent>,
    /// What it was last told to wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitsView>,
    /// What was observed; none while it is open.
    pub evidence: Option<Evidence>,
}

impl StepView {
    fn new(token: Token, record: &StepRecord) -> Self {
        let (evidence, settled_at_ms) = record.outcome.clone().unzip();
        Self {
            token: token.0,
            step: record.step.to_string(),
            attempt: record.attempt,
            intended_at_ms: record.intended_at_ms,
            not_before_ms: record.not_before_ms,
            deadline_ms: record.deadline_ms,
            settled_at_ms,
            intent: Arc::clone(&record.intent),
            waits: record.waits.as_ref().map(WaitsView::new),
            evidence,
        }
    }
}

/// An event of a workflow that is watched.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchedEvent {
    /// The event for programs.
    pub line: EventLine,
    /// The same, decoded.
    pub event: OperationEvent,
}

/// How far a workflow that is watched has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkflowProgress {
    /// More is to come.
    Running,
    /// It waits for the operator.
    Stuck(StuckStep),
    /// It is over.
    Finished(Outcome),
}

impl WorkflowProgress {
    /// The progress after the next event.
    #[must_use]
    pub fn after(self, event: &OperationEvent) -> Self {
        match event {
            OperationEvent::Finished { outcome, .. } => Self::Finished(*outcome),
            OperationEvent::Stuck { step, because, needs } => Self::Stuck(StuckStep {
                step: step.to_string(),
                because: because.clone(),
                needs: needs.clone(),
            }),
            OperationEvent::Resumed { .. }
            | OperationEvent::CancelRequested { .. }
            | OperationEvent::Diverted { .. }
            | OperationEvent::SpecChanged { .. } => Self::Running,
            _ => self,
        }
    }
}
