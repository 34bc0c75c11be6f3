//! The projection of a stream: open steps, look-up keys, and a line for lists.

use perennial_engine::domain::{Projected, Summary};
use perennial_engine::ids::StreamId;
use serde::{Deserialize, Serialize};

use crate::aggregate::address_pool::{AddressPool, AddressPoolSummary};
use crate::aggregate::backup_catalog::BackupCatalog;
use crate::aggregate::node::Node;
use crate::model::aws::InstanceId;
use crate::model::backup_id::{CatalogId, catalog_key};
use crate::model::operation_id::{OperationId, OperationKind};
use crate::operation::state::{Operation, Status};
use crate::step::intent::Intent;

/// One line about a node, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// How many instances have carried it.
    pub generation: u64,
    /// Whether it has been deleted.
    pub deleted: bool,
    /// The operation that holds it, and the operation's kind.
    pub operation: Option<(OperationId, OperationKind)>,
    /// The instance that carries it.
    pub carrier: Option<crate::model::resources::Carrier>,
    /// The zone.
    pub zone: Option<String>,
    /// Its own address.
    pub address: Option<std::net::Ipv4Addr>,
    /// Whether the account has resources of it that the journal cannot know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind: bool,
}

/// One line about an operation, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// Its kind.
    pub kind: OperationKind,
    /// `running`, `stuck`, `finished`, `cancelled` or `abandoned`.
    pub status: String,
    /// Why it was started.
    pub cause: String,
    /// The time of its start.
    pub started_at_ms: u64,
    /// The time of its end, or since when it is stuck.
    pub ended_at_ms: Option<u64>,
    /// If it is stuck: why.
    pub because: Option<String>,
}

/// The key that leads from an instance to its node, and to the operations that had to do with it.
#[must_use]
pub fn instance_key(instance: &InstanceId) -> String {
    format!("instance/{instance}")
}

fn summary<T: Serialize>(open: bool, line: &T) -> Option<Summary> {
    let body = serde_json::to_string(line)
        .unwrap_or_else(|error| unreachable!("BUG: a summary is plain data: {error}"));
    Some(Summary { open, body })
}

pub(crate) fn node_projection(_stream: &StreamId, node: &Node) -> Projected<Intent> {
    if node.spec.is_none() {
        return Projected::default();
    }
    let mut keys: Vec<String> = node
        .past
        .iter()
        .chain(node.resources.carrier.iter().map(|carrier| &carrier.instance))
        .map(instance_key)
        .collect();
    keys.sort();
    keys.dedup();
    let line = NodeSummary {
        generation: node.generation,
        deleted: node.deleted,
        operation: node.open.clone(),
        carrier: node.resources.carrier.clone(),
        zone: node.resources.placement.as_ref().map(|placement| placement.zone.clone()),
        address: node.resources.address,
        behind: !node.newer.is_empty(),
    };
    Projected { keys, summary: summary(node.open.is_some(), &line), ..Projected::default() }
}

/// One line about a node's backups, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogSummary {
    /// The newest one that can be restored, and its moment.
    pub last_complete: Option<(u64, u64)>,
    /// The one under way.
    pub under_way: Option<u64>,
    /// How many backups in a row have failed, up to now.
    pub failed_in_a_row: u32,
    /// Why no more are taken.
    pub paused: Option<String>,
}

/// The present backup catalog is the open one.
pub(crate) fn catalog_projection(stream: &StreamId, catalog: &BackupCatalog) -> Projected<Intent> {
    let Some(id) = CatalogId::of_stream(stream).filter(|_| catalog.opened) else {
        return Projected::default();
    };
    let line = CatalogSummary {
        last_complete: catalog
            .known
            .last_complete()
            .map(|backup| (backup.order.number, backup.taken_at_ms.unwrap_or(backup.began_at_ms))),
        under_way: catalog.known.under_way().map(|backup| backup.order.number),
        failed_in_a_row: catalog.known.failed_in_a_row,
        paused: catalog.known.paused(),
    };
    let keys = if catalog.closed { Vec::new() } else { vec![catalog_key(id.node())] };
    let summary = summary(!catalog.closed, &line);
    Projected { steps: catalog.open_steps(), keys, summary, ..Projected::default() }
}

pub(crate) fn pool_projection(pool: &AddressPool) -> Projected<Intent> {
    let Some(spec) = &pool.spec else { return Projected::default() };
    let line = AddressPoolSummary {
        subnet: spec.subnet.clone(),
        addresses: spec.all().count(),
        held: pool.held.len(),
        free: pool.free().count(),
    };
    Projected { summary: summary(false, &line), ..Projected::default() }
}

pub(crate) fn operation_projection(operation: &Operation) -> Projected<Intent> {
    let mut keys: Vec<String> = operation.instances().iter().map(instance_key).collect();
    keys.sort();
    keys.dedup();
    let (status, ended_at_ms, because) = match &operation.status {
        Status::Running => ("running", None, None),
        Status::Stuck { because, since_ms, .. } => ("stuck", Some(*since_ms), Some(because.clone())),
        Status::Finished { at_ms, outcome } => (outcome.name(), Some(*at_ms), None),
    };
    let line = OperationSummary {
        kind: operation.order.kind,
        status: status.to_owned(),
        cause: operation.order.cause.to_string(),
        started_at_ms: operation.started_at_ms,
        ended_at_ms,
        because,
    };
    let open = !matches!(operation.status, Status::Finished { .. });
    Projected { steps: operation.open_steps(), keys, summary: summary(open, &line), ..Projected::default() }
}
