//! Nodes: what they should be and what they are.

use std::net::Ipv4Addr;

use perennial_workflows::aggregate::backup_catalog::Carried;
use perennial_workflows::aggregate::node::{Node, Noted};
use perennial_workflows::domain::projection::NodeSummary;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, OperationKind};
use perennial_workflows::model::resources::{Carrier, Resources};
use perennial_workflows::model::signal::Signal;
use perennial_workflows::operation::state::{Operation, Status, StepRecord};
use perennial_workflows::spec::node::{DataVolumeSpec, NodeSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::backups::BackupsView;
use crate::model::waits::WaitsView;

/// The state of a node whose journal is behind the world.
pub const BEHIND: &str = "BEHIND";

/// One line of `node list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeLine {
    /// The node.
    pub name: String,
    /// `in place`, `paused` or `deleted`; of an open workflow its kind, with `STUCK in` before it, and
    /// `DOWN in` while the node is without an instance that has everything of it; `BEHIND` if
    /// the account has resources of it that the journal cannot know.
    pub state: String,
    /// How many instances have carried it.
    pub generation: u64,
    /// Whether it has been deleted.
    pub deleted: bool,
    /// The open workflow, and its kind.
    pub operation: Option<(OperationId, OperationKind)>,
    /// The instance that carries it.
    pub carrier: Option<Carrier>,
    /// The availability zone.
    pub zone: Option<String>,
    /// Its own address.
    pub address: Option<Ipv4Addr>,
    /// Since when it is down, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Down>,
}

/// A node without an instance that has everything of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Down {
    /// Since when.
    pub since_ms: u64,
    /// What happened then.
    pub because: String,
}

impl NodeLine {
    /// Makes the line of a node from its summary; `operation` is its open workflow, if there is one.
    #[must_use]
    pub fn new(name: &str, summary: NodeSummary, operation: Option<&Operation>, down: Option<Down>) -> Self {
        let stuck = operation.is_some_and(|operation| matches!(operation.status, Status::Stuck { .. }));
        let NodeSummary { generation, deleted, operation, carrier, zone, address, behind, at_rest: _ } =
            summary;
        let state = match &operation {
            _ if behind => BEHIND.to_owned(),
            Some((_, kind)) if stuck && down.is_some() => format!("STUCK, DOWN in {kind}"),
            Some((_, kind)) if stuck => format!("STUCK in {kind}"),
            Some((_, kind)) if down.is_some() => format!("DOWN in {kind}"),
            Some((_, kind)) => kind.to_string(),
            None => at_rest(deleted, carrier.as_ref()).to_owned(),
        };
        Self { name: name.to_owned(), state, generation, deleted, operation, carrier, zone, address, down }
    }
}

/// The state of a node without an open workflow.
const fn at_rest(deleted: bool, carrier: Option<&Carrier>) -> &'static str {
    match (deleted, carrier) {
        (true, _) => "deleted",
        (false, None) => "paused",
        (false, Some(_)) => "in place",
    }
}

/// The answer of `node show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeView {
    /// The node.
    pub name: NodeName,
    /// Whether it has been deleted.
    pub deleted: bool,
    /// How many instances have carried it.
    pub generation: u64,
    /// How many workflows it has had.
    pub operations: u64,
    /// When its spec, generation or workflow last changed.
    pub changed_at_ms: u64,
    /// The open workflow.
    pub open: Option<OpenWorkflow>,
    /// Since when it is down, if it is: without an instance that has everything of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Down>,
    /// Resources of it in the account that the journal cannot know: it is behind the world.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newer: Vec<String>,
    /// What belongs to it; during a workflow, what belonged to it before.
    pub resources: Resources,
    /// Instances that carried it, newest last.
    pub past_instances: Vec<String>,
    /// The newest signal of each kind about its instance that led to nothing.
    pub noted: Vec<NotedSignal>,
    /// Its backups.
    pub backups: BackupsView,
    /// Its node file.
    pub spec: Option<NodeSpec>,
}

impl NodeView {
    /// Makes the view of a node; `open` is its open workflow, if there is one.
    #[must_use]
    pub fn new(
        name: &NodeName,
        node: &Node,
        open: Option<&Operation>,
        catalog: &Carried,
        now_ms: u64,
    ) -> Self {
        Self {
            name: name.clone(),
            deleted: node.deleted,
            generation: node.generation,
            operations: node.operations,
            changed_at_ms: node.changed_at_ms,
            open: open.map(OpenWorkflow::new),
            down: None,
            newer: node.newer.clone(),
            resources: node.resources.clone(),
            past_instances: node.past.iter().map(ToString::to_string).collect(),
            noted: node.noted.iter().map(NotedSignal::new).collect(),
            backups: BackupsView::new(name, node, catalog, now_ms),
            spec: node.spec.clone(),
        }
    }

    /// The state of the node while no workflow is open: `in place`, `paused` or `deleted`.
    #[must_use]
    pub const fn at_rest(&self) -> &'static str {
        at_rest(self.deleted, self.resources.carrier.as_ref())
    }
}

/// The open workflow of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenWorkflow {
    /// Its id.
    pub workflow: String,
    /// What it does.
    pub kind: String,
    /// Where it is stuck, if it is.
    pub stuck: Option<StuckStep>,
    /// The steps that may run now.
    pub open_steps: Vec<String>,
    /// What those wait for that have been waiting for a minute and more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<WaitingStep>,
}

/// An open step that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingStep {
    /// The step.
    pub step: String,
    /// Since when it is open.
    pub since_ms: u64,
    /// What it waits for.
    pub waits: WaitsView,
}

/// A step that needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StuckStep {
    /// The step.
    pub step: String,
    /// Why it cannot be done.
    pub because: String,
    /// What the operator must do.
    pub needs: String,
}

impl OpenWorkflow {
    fn new(operation: &Operation) -> Self {
        let stuck = match &operation.status {
            Status::Stuck { step, because, needs, .. } => {
                Some(StuckStep { step: step.to_string(), because: because.clone(), needs: needs.clone() })
            }
            Status::Running | Status::Finished { .. } => None,
        };
        Self {
            workflow: operation.id.to_string(),
            kind: operation.order.kind.to_string(),
            stuck,
            open_steps: operation.open_steps().into_iter().map(|step| step.step).collect(),
            waits: operation.steps.values().filter_map(waiting).collect(),
        }
    }
}

fn waiting(record: &StepRecord) -> Option<WaitingStep> {
    let waits = record.waits.as_ref().filter(|_| record.outcome.is_none())?;
    let step = record.step.clone();
    Some(WaitingStep {
        step: step.to_string(),
        since_ms: record.intended_at_ms,
        waits: WaitsView::new(waits),
    })
}

/// A signal about the instance of a node that led to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotedSignal {
    /// The signal.
    pub signal: Signal,
    /// Why it led to nothing.
    pub because: String,
}

impl NotedSignal {
    fn new(noted: &Noted) -> Self {
        Self { signal: noted.signal.clone(), because: noted.because.clone() }
    }
}

/// Makes the node file of another node from a node's own. The volumes of the new node come from a backup and
/// not from their original source.
#[must_use]
pub fn renamed(spec: &NodeSpec, name: &NodeName) -> NodeSpec {
    let data_volumes = spec.data_volumes.iter().cloned();
    let data_volumes = data_volumes.map(|volume| DataVolumeSpec { snapshot: None, ..volume }).collect();
    NodeSpec { name: name.clone(), data_volumes, ..spec.clone() }
}
