//! The projection of a stream: open steps, look-up keys, and a line for lists.

use std::collections::BTreeMap;

use perennial_engine::domain::{Projected, Summary};
use perennial_engine::ids::StreamId;
use serde::{Deserialize, Serialize};

use crate::aggregate::address_pool::{AddressPool, AddressPoolSummary};
use crate::aggregate::backup_catalog::BackupCatalog;
use crate::aggregate::node::Node;
use crate::domain::keys::{ON_DEMAND_KEY, UNDER_WAY_KEY, instance_key};
use crate::domain::timers;
use crate::domain::volumes::leaving;
use crate::model::aws::{Market, VolumeId};
use crate::model::backup_id::{CatalogId, catalog_key};
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::resources::Carrier;
use crate::operation::state::{Operation, Status};
use crate::spec::node::AttachedVolumes;
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
    pub carrier: Option<Carrier>,
    /// The zone.
    pub zone: Option<String>,
    /// Its own address.
    pub address: Option<std::net::Ipv4Addr>,
    /// Whether the account has resources of it that the journal cannot know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind: bool,
    /// The volumes of its instance, while no operation holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_rest: Option<AtRest>,
    /// Since when its instance carries it; without one, since when it is as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// The tags in its file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What is known of the volumes on the instance of a node at rest: what the sweep compares with the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtRest {
    /// The node's own, and those that are left alone.
    pub known: Vec<VolumeId>,
    /// Those that are given back when they leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<VolumeId>,
    /// Whether others become the node's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopts: bool,
}

impl AtRest {
    fn of(node: &Node) -> Option<Self> {
        let spec = node.spec.as_ref().filter(|_| node.exists() && node.open.is_none())?;
        node.resources.carrier.as_ref()?;
        let own = node.resources.volumes.values().map(|held| held.volume.clone());
        let unmanaged = node.resources.unmanaged.iter().map(|unmanaged| unmanaged.volume.clone());
        Some(Self {
            known: own.chain(unmanaged).collect(),
            leaving: leaving(node, spec).map(|(_, held)| held.volume.clone()).collect(),
            adopts: spec.persist.attached_volumes == AttachedVolumes::Keep,
        })
    }
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

fn summary<T: Serialize>(open: bool, line: &T) -> Option<Summary> {
    let body = serde_json::to_string(line)
        .unwrap_or_else(|error| unreachable!("BUG: a summary is plain data: {error}"));
    Some(Summary { open, body })
}

pub(crate) fn node_projection(stream: &StreamId, node: &Node) -> Projected<Intent> {
    let Some(name) = NodeName::parse(stream.name()).ok().filter(|_| node.spec.is_some()) else {
        return Projected::default();
    };
    let mut keys: Vec<String> = node
        .past
        .iter()
        .chain(node.resources.carrier.iter().map(|carrier| &carrier.instance))
        .map(instance_key)
        .collect();
    let on_demand = |carrier: &&Carrier| carrier.market == Market::OnDemand;
    let carrier = node.resources.carrier.as_ref().filter(|_| node.exists());
    keys.extend(carrier.filter(on_demand).map(|_| ON_DEMAND_KEY.to_owned()));
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
        at_rest: AtRest::of(node),
        since_ms: Some(match carrier {
            _ if !node.newer.is_empty() => node.behind_since_ms,
            Some(_) => node.carried_since_ms,
            None => node.changed_at_ms,
        }),
        labels: node.spec.as_ref().map(|spec| spec.tags.clone()).unwrap_or_default(),
    };
    let timers = timers::of_node(&name, node);
    Projected { keys, summary: summary(node.open.is_some(), &line), timers, ..Projected::default() }
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
    let mut keys = if catalog.closed { Vec::new() } else { vec![catalog_key(id.node())] };
    keys.extend(line.under_way.map(|_| UNDER_WAY_KEY.to_owned()));
    keys.sort();
    let summary = summary(!catalog.closed, &line);
    let timers = timers::of_catalog(id.node(), catalog);
    Projected { steps: catalog.open_steps(), keys, summary, timers }
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
    let timers = timers::of_operation(operation);
    Projected { steps: operation.open_steps(), keys, summary: summary(open, &line), timers }
}
