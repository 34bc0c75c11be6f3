//! The timers of the domain: what is due by the journal alone.
//!
//! - `backup`
//!   - stands in: the backup catalog, while no backup is under way
//!   - due: at the node's next turn, and at once where that is more than an interval away: the clock was set
//!     back then
//! - `backups`
//!   - stands in: whatever may call for a look at the backups of a node, due at once
//!     - the node: its catalog has to be told of a change
//!     - the catalog: it is full and at rest, or a backup is held
//!     - an operation: it has all its final snapshots, or is stuck without its root
//! - `retention`
//!   - stands in: the node, while no operation holds it
//!   - due: when the first of its retained volumes has been retained for longer than its file says
//!
//! The first two lead to [`Command::ReconcileBackups`], the last one to [`Command::Prune`]. A command looks
//! at all that bears on its decision. So a timer only has to be early enough: one that is due before there is
//! anything to do rests (see the engine's timers), and is asked again within a minute.

use std::time::Duration;

use perennial_engine::domain::{Pace, Timer};
use perennial_engine::ids::StreamId;

use crate::aggregate::backup_catalog::BackupCatalog;
use crate::aggregate::node::Node;
use crate::domain::backup_schedule::{is_full, next_backup};
use crate::domain::command::Command;
use crate::domain::retention;
use crate::model::backup_id::CatalogId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::model::volume::Slot;
use crate::operation::state::{Operation, Status};

/// The next backup of a node.
pub const BACKUP: &str = "backup";

/// Something about the backups of a node is to be looked at.
pub const BACKUPS: &str = "backups";

/// Volumes of a node have been retained for too long.
pub const RETENTION: &str = "retention";

/// How many backups begin in five seconds: four a second of EC2's five CreateSnapshots; the rest is for what
/// replacements need and for other users of the account. A thousand nodes take four minutes.
const BACKUPS_BEGUN: Pace = Pace { begun_max: 20, per: Duration::from_secs(5) };

/// How many prunes begin in five minutes, of up to a hundred volumes each: what the whole installation
/// retains too long is gone within hours, and EC2's calls are left to others.
const PRUNES_BEGUN: Pace = Pace { begun_max: 10, per: Duration::from_mins(5) };

/// The command of a timer.
pub(super) fn timer_due(stream: &StreamId, name: &str) -> Command {
    let node = match stream.category() {
        "node" => NodeName::parse(stream.name()).ok(),
        "backup" => CatalogId::of_stream(stream).map(|id| id.node().clone()),
        _ => OperationId::of_stream(stream).map(|id| id.node().clone()),
    };
    let node = node.unwrap_or_else(|| unreachable!("BUG: {stream} shows no timer, but {name} of it is due"));
    if name == RETENTION { Command::Prune { node } } else { Command::ReconcileBackups { node } }
}

/// How many of its commands may begin in how long.
pub(super) fn pace(name: &str) -> Option<Pace> {
    match name {
        BACKUP => Some(BACKUPS_BEGUN),
        RETENTION => Some(PRUNES_BEGUN),
        _ => None,
    }
}

fn timer(name: &str, due_ms: u64) -> Timer {
    Timer { name: name.to_owned(), due_ms, wait_max_ms: u64::MAX }
}

/// The timers of a node.
pub(super) fn of_node(name: &NodeName, node: &Node) -> Vec<Timer> {
    let backups = node.catalog_is_behind.then(|| timer(BACKUPS, 0));
    let retention = retention::next_ms(node, name).map(|due_ms| timer(RETENTION, due_ms));
    backups.into_iter().chain(retention).collect()
}

/// The timers of a backup catalog.
pub(super) fn of_catalog(name: &NodeName, catalog: &BackupCatalog) -> Vec<Timer> {
    if catalog.closed {
        return Vec::new();
    }
    // When an operation that holds a backup is over stands in the operation.
    let backups = (is_full(catalog) || !catalog.known.holds.is_empty()).then(|| timer(BACKUPS, 0));
    let next = next_backup(name, catalog)
        .map(|(due_ms, every_ms)| Timer { wait_max_ms: every_ms, ..timer(BACKUP, due_ms) });
    next.into_iter().chain(backups).collect()
}

/// The timers of an operation.
pub(super) fn of_operation(operation: &Operation) -> Vec<Timer> {
    let has_all = || operation.finals().is_some_and(|finals| finals.because.is_none());
    let concerns_backups = match operation.status {
        Status::Finished { .. } => false,
        Status::Running => has_all(),
        Status::Stuck { .. } => has_all() || operation.lost().contains(&Slot::Root),
    };
    concerns_backups.then(|| timer(BACKUPS, 0)).into_iter().collect()
}
