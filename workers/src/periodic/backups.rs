//! The scheduler of backups: asks the journal which nodes are due, and lets a bounded number begin.
//!
//! What is due is decided by the domain ([`due_task`]), from the states alone; this task only asks, orders and
//! counts. A death between two ticks loses nothing: what was due is due.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::ReadError;
use perennial_workflows::aggregate::backup_catalog::BackupCatalog;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::backup_schedule::{BackupTask, due_task};
use perennial_workflows::domain::command::{Command, Rejection, Sight};
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
    sight: Sight,
    is_backup: bool,
    /// An operation, of this node or another one, that is over and holds a backup.
    over: Option<OperationId>,
    /// An operation of the node with final snapshots.
    finals: Option<OperationId>,
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
        due.sort_by(|a, b| (a.due_ms, &a.sight.node).cmp(&(b.due_ms, &b.sight.node)));
        let mut room = UNDER_WAY_MAX.saturating_sub(under_way).min(BEGUN_MAX);
        for due in due {
            if due.is_backup {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
            self.reconcile(due).await?;
        }
        Ok(())
    }

    async fn reconcile(&self, due: Due) -> Result<(), BackupsError> {
        let Due { sight, over, finals, .. } = due;
        let node = sight.node.clone();
        match self
            .engine
            .execute(Command::ReconcileBackups { sight, over, finals, owner: self.owner.clone() })
            .await
        {
            // The node moved on meanwhile: the next tick looks again.
            Ok(_) | Err(ExecuteError::Rejected(Rejection::Moved { .. })) => Ok(()),
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
        let sight = Sight::of(name, node).with_catalog(segment.unwrap_or(1));
        let (catalog, _) = self.engine.load(&CatalogId::new(name.clone(), sight.catalog).stream()).await?;
        let State::BackupCatalog(catalog) = catalog.as_ref() else { return Ok(None) };
        *under_way += usize::from(catalog.known.under_way().is_some());
        if let Some(over) = self.over(catalog).await? {
            return Ok(Some(Due { due_ms: 0, sight, is_backup: false, over: Some(over), finals: None }));
        }
        let last = (sight.operations > 0).then(|| OperationId::new(name.clone(), sight.operations));
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
            BackupTask::Begin { due_ms } => {
                Some(Due { due_ms, sight, is_backup: true, over: None, finals: None })
            }
            BackupTask::RollOver | BackupTask::GiveUp | BackupTask::Rescue { .. } => {
                Some(Due { due_ms: 0, sight, is_backup: false, over: None, finals: None })
            }
            BackupTask::Inherit { operation } => {
                Some(Due { due_ms: 0, sight, is_backup: false, over: None, finals: Some(operation) })
            }
        })
    }
}

impl BackupScheduler {
    /// An operation that holds one of the backups and is over.
    async fn over(&self, catalog: &BackupCatalog) -> Result<Option<OperationId>, ExecuteError<Rejection>> {
        for by in catalog.known.holds.keys() {
            let (state, _) = self.engine.load(&by.stream()).await?;
            if let State::Operation(Some(operation)) = state.as_ref()
                && matches!(operation.status, Status::Finished { .. })
            {
                return Ok(Some(by.clone()));
            }
        }
        Ok(None)
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
