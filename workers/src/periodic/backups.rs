//! The scheduler of backups: asks the journal which nodes are due, and lets a bounded number begin.
//!
//! What is due is decided by the domain ([`due_task`]), from the states alone; this task only asks, orders
//! and counts. A death between two ticks loses nothing: what was due is due.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::ReadError;
use perennial_workflows::aggregate::backup_catalog::BackupCatalog;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::backup_schedule::{BackupTask, due_task};
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::backup_id::CatalogId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};
use perennial_workflows::operation::state::Status;
use tracing::warn;

use super::driver::{Failure, Task};
use super::pages::Pages;

/// Between two ticks. A backup begins this much late at most, which is little against a minute.
pub const EVERY: Duration = Duration::from_secs(5);

/// How many backups begin in one tick: four a second of EC2's five CreateSnapshots; the rest is for what
/// replacements need and for other users of the account. A thousand nodes take four minutes.
const BEGUN_MAX: usize = 20;

/// How many backups are under way in the whole installation: a quarter of the steps a pool has in hand, so
/// that those of interruptions always find room.
const UNDER_WAY_MAX: usize = 1_000;

/// The scheduler over all nodes.
pub struct BackupScheduler {
    engine: Engine<Perennial>,
    owner: String,
}

/// Something to do.
struct Due {
    due_ms: u64,
    node: NodeName,
    is_backup: bool,
}

#[async_trait]
impl Task for BackupScheduler {
    fn name(&self) -> &'static str {
        "backups"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn once(&mut self) -> Result<(), Failure> {
        Ok(self.tick().await?)
    }
}

impl BackupScheduler {
    /// A scheduler.
    #[must_use]
    pub const fn new(engine: Engine<Perennial>, owner: String) -> Self {
        Self { engine, owner }
    }

    /// One tick.
    ///
    /// # Errors
    /// When the journal cannot be read or written; nothing is lost by it.
    async fn tick(&self) -> Result<(), BackupsError> {
        let (mut due, under_way) = self.look().await?;
        // The oldest first: when there are more than may begin, no node is always the last.
        due.sort_by(|a, b| (a.due_ms, &a.node).cmp(&(b.due_ms, &b.node)));
        let mut room = UNDER_WAY_MAX.saturating_sub(under_way).min(BEGUN_MAX);
        for due in due {
            if due.is_backup {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
            self.reconcile(due.node).await?;
        }
        Ok(())
    }

    async fn reconcile(&self, node: NodeName) -> Result<(), BackupsError> {
        let owner = self.owner.clone();
        match self.engine.execute(Command::ReconcileBackups { node: node.clone(), owner }).await {
            Ok(_) => Ok(()),
            Err(ExecuteError::Rejected(rejection)) => {
                warn!(%node, %rejection, "a backup could not begin; the other nodes' do");
                Ok(())
            }
            Err(ExecuteError::Corrupt { stream, source }) => {
                warn!(%stream, error = %source, "a backup could not begin; the others do: run `perennial journal verify`");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is due, and how many backups are under way.
    async fn look(&self) -> Result<(Vec<Due>, usize), BackupsError> {
        let (mut due, mut under_way) = (Vec::new(), 0);
        let catalogs = self.catalogs().await?;
        let mut pages = Pages::of_nodes(&self.engine);
        while let Some(page) = pages.next().await? {
            for row in &page {
                let Ok(name) = NodeName::parse(row.stream.name()) else { continue };
                match self.look_at(&name, catalogs.get(&name).copied(), &mut under_way).await {
                    Ok(found) => due.extend(found),
                    Err(error) => warn!(node = %name, %error, "a node's backups cannot be looked after"),
                }
            }
        }
        Ok((due, under_way))
    }

    /// The present segment of the backup catalogue of each node that has one.
    async fn catalogs(&self) -> Result<BTreeMap<NodeName, u64>, ReadError> {
        let mut catalogs = BTreeMap::new();
        let mut pages = Pages::of_open_catalogs(&self.engine);
        while let Some(page) = pages.next().await? {
            let ids = page.iter().filter_map(|row| CatalogId::of_stream(&row.stream));
            catalogs.extend(ids.map(|id| (id.node().clone(), id.number())));
        }
        Ok(catalogs)
    }

    async fn look_at(
        &self,
        name: &NodeName,
        segment: Option<u64>,
        under_way: &mut usize,
    ) -> Result<Option<Due>, ExecuteError<Rejection>> {
        let (state, _) = self.engine.load(&node_stream(name)).await?;
        let State::Node(node) = state.as_ref() else { return Ok(None) };
        let has_section = node.spec.as_ref().is_some_and(|spec| spec.backup.is_some());
        if segment.is_none() && !has_section && node.finals.is_empty() {
            return Ok(None);
        }
        let id = CatalogId::new(name.clone(), segment.unwrap_or(1));
        let (catalog, _) = self.engine.load(&id.stream()).await?;
        let State::BackupCatalog(catalog) = catalog.as_ref() else { return Ok(None) };
        *under_way += usize::from(catalog.known.under_way().is_some());
        let due = |due_ms, is_backup| Some(Due { due_ms, node: name.clone(), is_backup });
        if self.is_held_for_nothing(catalog).await? {
            return Ok(due(0, false));
        }
        let last = (node.operations > 0).then(|| OperationId::new(name.clone(), node.operations));
        let last = match last.filter(|_| needs_operation(node, catalog)) {
            Some(id) => Some(self.engine.load(&id.stream()).await?.0),
            None => None,
        };
        let last = match last.as_deref() {
            Some(State::Operation(operation)) => operation.as_ref(),
            _ => None,
        };
        let now_ms = self.engine.clock().now_ms();
        Ok(match due_task(node, last, name, catalog, now_ms) {
            BackupTask::Nothing => None,
            BackupTask::Begin { due_ms } => due(due_ms, true),
            BackupTask::RollOver
            | BackupTask::GiveUp
            | BackupTask::Rescue { .. }
            | BackupTask::Inherit { .. } => due(0, false),
        })
    }
}

impl BackupScheduler {
    /// Whether an operation that holds one of the backups is over.
    async fn is_held_for_nothing(&self, catalog: &BackupCatalog) -> Result<bool, ExecuteError<Rejection>> {
        for by in catalog.known.holds.keys() {
            let (state, _) = self.engine.load(&by.stream()).await?;
            if let State::Operation(Some(operation)) = state.as_ref()
                && matches!(operation.status, Status::Finished { .. })
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether what is due depends on the node's newest operation.
fn needs_operation(node: &perennial_workflows::aggregate::node::Node, catalog: &BackupCatalog) -> bool {
    node.open.is_some() || node.deleted && !catalog.known.backups.is_empty()
}

/// Why a tick could not be finished.
#[derive(Debug, thiserror::Error)]
enum BackupsError {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Execute(#[from] ExecuteError<Rejection>),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}
