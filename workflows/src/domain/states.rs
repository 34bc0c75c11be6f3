//! The states a decision is made on, with their types.

use perennial_engine::domain::{Append, World};
use perennial_engine::ids::{Seq, StreamId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::address_pool::{AddressPool, AddressPoolEvent};
use crate::aggregate::backup_catalog::{BackupCatalog, BackupEvent};
use crate::aggregate::inbox::{InboxEntry, InboxEvent};
use crate::aggregate::node::{Node, NodeEvent};
use crate::domain::command::{Rejection, Sight};
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, OperationKind, node_stream};
use crate::model::resources::{PruneItem, Resources};
use crate::model::restore::{Keep, Restore};
use crate::model::signal::Cause;
use crate::operation::event::OperationEvent;
use crate::operation::state::{Operation, Status};
use crate::spec::node::NodeSpec;

/// Any event of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "events are few and short-lived; boxes would only blur the shapes"
)]
pub enum Event {
    /// Of a node's stream.
    Node(NodeEvent),
    /// Of an operation's stream.
    Operation(OperationEvent),
    /// Of a inbox entry's stream.
    Inbox(InboxEvent),
    /// Of a backup catalog of a node's backups.
    Backup(BackupEvent),
    /// Of a pool's stream.
    AddressPool(AddressPoolEvent),
}

/// The state of any stream.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a state is held behind one pointer, in the engine's cache")]
pub enum State {
    /// `node/…`
    Node(Node),
    /// `workflow/…`; `None` before it has started.
    Operation(Option<Operation>),
    /// `inbox entry/…`
    Inbox(InboxEntry),
    /// `backup/…`
    BackupCatalog(BackupCatalog),
    /// `pool/…`
    AddressPool(AddressPool),
    /// A category this build does not know; nothing may be written there.
    Unknown,
}

/// The states a decision is made on, with their types.
pub(crate) struct Decider<'a> {
    pub(crate) world: &'a World<State>,
    pub(crate) now_ms: u64,
    pub(crate) owner: &'a str,
}

/// The events of one stream; with the state after them where a draft has made them.
pub(crate) type Written = Append<Event, State>;

pub(crate) type Appends = Vec<Written>;

/// What a new node is made from, and the append that holds it.
pub(crate) type Held = (Restore, Written);

/// An operation to start.
pub(crate) struct Wanted {
    pub(crate) kind: OperationKind,
    pub(crate) spec: NodeSpec,
    pub(crate) before: Resources,
    pub(crate) generation: u64,
    pub(crate) keep: Option<Keep>,
    pub(crate) reimage: bool,
    pub(crate) prune: Vec<PruneItem>,
    pub(crate) restore: Option<Restore>,
    pub(crate) cause: Cause,
}

impl Wanted {
    pub(crate) const fn new(
        kind: OperationKind,
        spec: NodeSpec,
        before: Resources,
        generation: u64,
        cause: Cause,
    ) -> Self {
        Self {
            kind,
            spec,
            before,
            generation,
            keep: None,
            reimage: false,
            prune: Vec::new(),
            restore: None,
            cause,
        }
    }
}

/// An operation that starts.
pub(crate) struct Begun {
    pub(crate) id: OperationId,
    pub(crate) node_events: Vec<Event>,
    pub(crate) append: Written,
}

impl Decider<'_> {
    pub(crate) fn node(&self, name: &NodeName) -> Result<&Node, Rejection> {
        match self.world.get(&node_stream(name)) {
            Some(State::Node(node)) => Ok(node),
            _ => Err(Rejection::WrongStream { stream: node_stream(name) }),
        }
    }

    pub(crate) fn operation(&self, id: &OperationId) -> Option<&Operation> {
        match self.world.get(&id.stream()) {
            Some(State::Operation(operation)) => operation.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn head(&self, stream: &StreamId) -> Seq {
        self.world.head(stream).unwrap_or(Seq::NONE)
    }

    /// The node of a sight, if it has not moved on.
    pub(crate) fn seen(&self, sight: &Sight) -> Result<&Node, Rejection> {
        let node = self.node(&sight.node)?;
        if Sight::of(&sight.node, node).with_catalog(sight.catalog).with_source(sight.source.clone())
            == *sight
        {
            Ok(node)
        } else {
            Err(Rejection::Moved { node: sight.node.clone() })
        }
    }

    /// The open operation of a node, if it is stuck.
    pub(crate) fn stuck(&self, sight: &Sight) -> Option<&Operation> {
        let operation = self.operation(sight.open.as_ref()?)?;
        matches!(operation.status, Status::Stuck { .. }).then_some(operation)
    }
}
