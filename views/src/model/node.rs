//! Nodes: what they should be and what they are.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_workflows::aggregate::backup_catalog::Carried;
use perennial_workflows::aggregate::node::{Node, Noted};
use perennial_workflows::domain::projection::NodeSummary;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, OperationKind};
use perennial_workflows::model::resources::{Carrier, RecoveryPoint, Resources};
use perennial_workflows::model::signal::Signal;
use perennial_workflows::operation::state::Operation;
use perennial_workflows::spec::node::{DataVolumeSpec, NodeSpec};
use perennial_workflows::view::history::Story;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::backups::BackupsView;
use crate::model::progress::Progress;
use crate::model::server::ServerState;

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
    /// How it is, for programs.
    pub condition: Condition,
    /// What its open workflow does now, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// Since when it is so: down, stuck, in its open workflow, or on its instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// The tags in its file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How a node is, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The account has resources of it that the journal cannot know: nothing is done for it.
    Behind,
    /// Its workflow waits for a person. It may be down as well.
    Stuck,
    /// No instance has everything of it; a workflow brings it back.
    Down,
    /// A workflow holds it.
    Working,
    /// An instance carries it.
    InPlace,
    /// It has no instance, as somebody asked.
    Paused,
    /// It has been deleted.
    Deleted,
}

impl Condition {
    /// Each of them, worst first.
    pub const ALL: [Self; 7] =
        [Self::Behind, Self::Stuck, Self::Down, Self::Working, Self::InPlace, Self::Paused, Self::Deleted];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Behind => "behind",
            Self::Stuck => "stuck",
            Self::Down => "down",
            Self::Working => "working",
            Self::InPlace => "in place",
            Self::Paused => "paused",
            Self::Deleted => "deleted",
        }
    }

    /// As an argument.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InPlace => "in-place",
            _ => self.words(),
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Behind => "The account has what the journal cannot know",
            Self::Stuck => "Its workflow waits for a person",
            Self::Down => "No instance has everything of it",
            Self::Working => "A workflow holds it",
            Self::InPlace => "An instance carries it",
            Self::Paused => "It has no instance, as was asked",
            Self::Deleted => "It was deleted",
        }
    }

    fn of(behind: bool, progress: Option<&Progress>, is_down: bool, at_rest: Self) -> Self {
        match progress {
            _ if behind => Self::Behind,
            Some(progress) if progress.stuck.is_some() => Self::Stuck,
            Some(_) if is_down => Self::Down,
            Some(_) => Self::Working,
            None => at_rest,
        }
    }
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
    /// Makes the line of a node from its summary; `progress` is that of its open workflow, if there is one.
    #[must_use]
    pub fn new(name: &str, summary: NodeSummary, progress: Option<&Progress>, down: Option<Down>) -> Self {
        let NodeSummary { generation, deleted, operation, carrier, zone, address, behind, .. } = summary;
        let rest = at_rest(deleted, carrier.is_some());
        let condition = Condition::of(behind, progress, down.is_some(), rest);
        let state = match (&operation, condition) {
            (_, Condition::Behind) => BEHIND.to_owned(),
            (Some((_, kind)), Condition::Stuck) if down.is_some() => format!("STUCK, DOWN in {kind}"),
            (Some((_, kind)), Condition::Stuck) => format!("STUCK in {kind}"),
            (Some((_, kind)), Condition::Down) => format!("DOWN in {kind}"),
            (Some((_, kind)), _) => kind.to_string(),
            (None, _) => rest.words().to_owned(),
        };
        let since_ms = down.as_ref().map(|down| down.since_ms);
        let since_ms = since_ms
            .or_else(|| progress.map(|progress| progress.stuck_since_ms.unwrap_or(progress.started_at_ms)))
            .filter(|_| condition != Condition::Behind)
            .or(summary.since_ms);
        let labels = summary.labels;
        let doing = progress.map(|progress| progress.phase.clone());
        let name = name.to_owned();
        Self {
            name,
            state,
            generation,
            deleted,
            operation,
            carrier,
            zone,
            address,
            down,
            condition,
            doing,
            since_ms,
            labels,
        }
    }
}

/// How a node without an open workflow is.
const fn at_rest(deleted: bool, is_carried: bool) -> Condition {
    match (deleted, is_carried) {
        (true, _) => Condition::Deleted,
        (false, false) => Condition::Paused,
        (false, true) => Condition::InPlace,
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
    /// How it is.
    pub condition: Condition,
    /// Since when it is so, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// The open workflow.
    pub open: Option<Progress>,
    /// Whether a server works for the journal; none where that cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerState>,
    /// The last workflow that has brought it onto an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_move: Option<LastMove>,
    /// When it was last adopted as the account showed it, unless a workflow has moved it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// The workflow that has paused it, if it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_by: Option<PausedBy>,
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

/// The last workflow that has brought a node onto an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastMove {
    /// The workflow.
    pub workflow: OperationId,
    /// What it did.
    pub kind: OperationKind,
    /// Why.
    pub cause: String,
    /// When it had ended.
    pub ended_at_ms: u64,
    /// How long the node did not serve, if it did before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage_ms: Option<u64>,
    /// Whether something of its volumes was lost.
    pub lost: bool,
}

/// The adoption of a node as the account showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Adopted {
    /// When.
    pub at_ms: u64,
    /// By whom.
    pub requested_by: String,
}

/// The workflow that has paused a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PausedBy {
    /// The workflow.
    pub workflow: OperationId,
    /// Why.
    pub cause: String,
}

impl PausedBy {
    /// Makes it from the story of a workflow; `None` if that has not paused the node.
    #[must_use]
    pub fn new(story: &Story) -> Option<Self> {
        let is_pause = story.kind == OperationKind::Pause && story.finished_at_ms.is_some();
        is_pause.then(|| Self { workflow: story.operation.clone(), cause: story.cause.clone() })
    }
}

impl LastMove {
    /// Makes it from the story of a workflow; `None` if that has not brought the node onto an instance.
    #[must_use]
    pub fn new(story: &Story) -> Option<Self> {
        let is_move =
            matches!(story.kind, OperationKind::Provision | OperationKind::Replace | OperationKind::Resume);
        let ended_at_ms = story.finished_at_ms.filter(|_| is_move && story.status == "finished")?;
        Some(Self {
            workflow: story.operation.clone(),
            kind: story.kind,
            cause: story.cause.clone(),
            ended_at_ms,
            outage_ms: story.outage.as_ref().map(|outage| outage.length_ms(ended_at_ms)),
            lost: story.recovery_points.values().any(RecoveryPoint::is_loss)
                && story.kind != OperationKind::Provision,
        })
    }
}

impl NodeView {
    /// Makes the view of a node; `open` is its open workflow, if there is one.
    #[must_use]
    pub fn new(
        name: &NodeName,
        node: &Node,
        (open, down): (Option<&Operation>, Option<Down>),
        catalog: &Carried,
        now_ms: u64,
    ) -> Self {
        let open = open.and_then(|open| Progress::new(open, now_ms));
        let rest = at_rest(node.deleted, node.resources.carrier.is_some());
        let condition = Condition::of(!node.newer.is_empty(), open.as_ref(), down.is_some(), rest);
        let since_ms = match (&down, &open) {
            _ if condition == Condition::Behind => Some(node.behind_since_ms),
            (Some(down), _) => Some(down.since_ms),
            (None, Some(open)) => Some(open.stuck_since_ms.unwrap_or(open.started_at_ms)),
            (None, None) if rest == Condition::InPlace => Some(node.carried_since_ms),
            (None, None) => Some(node.changed_at_ms),
        };
        Self {
            name: name.clone(),
            deleted: node.deleted,
            generation: node.generation,
            operations: node.operations,
            changed_at_ms: node.changed_at_ms,
            condition,
            since_ms,
            open,
            server: None,
            last_move: None,
            adopted: node.adopted.as_ref().map(|(at_ms, by)| {
                let (at_ms, requested_by) = (*at_ms, by.clone());
                Adopted { at_ms, requested_by }
            }),
            paused_by: None,
            down,
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
        at_rest(self.deleted, self.resources.carrier.is_some()).words()
    }
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

/// The order of names for people: numbers in them count as numbers, so `db-2` comes before `db-10`.
#[must_use]
pub fn by_name(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (parts(one).into_iter(), parts(other).into_iter());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(one), Some(other)) => {
                let by_number = one.parse::<u64>().ok().zip(other.parse::<u64>().ok());
                let order = by_number.map_or(Ordering::Equal, |(one, other)| one.cmp(&other));
                let order = order.then_with(|| one.cmp(other));
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    }
}

/// The stretches of a name that are numbers, and those between them.
fn parts(name: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begins = 0;
    let bytes = name.as_bytes();
    for at in 1..=bytes.len() {
        if at == bytes.len() || bytes[at].is_ascii_digit() != bytes[at - 1].is_ascii_digit() {
            parts.push(&name[begins..at]);
            begins = at;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names =
            ["train-10", "train-2", "train-1", "train", "db-1", "train-2b", "train-1-10", "train-1-9"];
        names.sort_by(|one, other| by_name(one, other));
        let sorted =
            ["db-1", "train", "train-1", "train-1-9", "train-1-10", "train-2", "train-2b", "train-10"];
        assert_eq!(names, sorted);
    }
}
