//! The events and the states of all streams of the domain.

use crate::aggregate::address_pool::{AddressPool, AddressPoolEvent};
use crate::aggregate::backup_catalog::{BackupCatalog, BackupEvent};
use crate::aggregate::engine::{EngineEvent, EngineRuns};
use crate::aggregate::inbox::{InboxEntry, InboxEvent};
use crate::aggregate::installation::{Installation, InstallationEvent};
use crate::aggregate::node::{Node, NodeEvent};
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Of an inbox entry's stream.
    Inbox(InboxEvent),
    /// Of a backup catalog of a node's backups.
    Backup(BackupEvent),
    /// Of a pool's stream.
    AddressPool(AddressPoolEvent),
    /// Of the installation's stream.
    Installation(InstallationEvent),
    /// Of the engine's stream.
    Engine(EngineEvent),
}

/// The state of any stream.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// `node/…`
    Node(Node),
    /// `workflow/…`; `None` before it has started.
    Operation(Option<Operation>),
    /// `inbox entry/…`
    Inbox(InboxEntry),
    /// `backup/…`
    BackupCatalog(BackupCatalog),
    /// `address_pool/…`
    AddressPool(AddressPool),
    /// `installation/this`
    Installation(Installation),
    /// `engine/this`
    Engine(EngineRuns),
    /// A category this build does not know; nothing may be written there.
    Unknown,
}
