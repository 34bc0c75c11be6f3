//! The scheduler of backups: asks the journal which nodes are due, and lets a bounded number begin.
//!
//! What is due is decided by the domain ([`errand`]), from the states alone; this loop only asks, orders and counts. A death
//! between two ticks loses nothing: what was due is due.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::{ReadError, Which};
use perennial_engine::workers::Shutdown;
use perennial_workflows::aggregate::backup_catalog::Book;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::backup_schedule::{Errand, errand};
use perennial_workflows::domain::command::{Command, Rejection, Sight};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::backup_id::BookId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};
use perennial_workflows::operation::state::Status;
use tracing::warn;

/// Between two ticks. A backup begins this much late at most, which is little against a minute.
pub const EVERY: Duration = Duration::from_secs(5);

/// How many backups begin in one tick: four a second of EC2's five CreateSnapshots; the rest is for what replacements need
/// and for other users of the account. A thousand nodes take four minutes.
const BEGUN_MAX: usize = 20;

/// How many backups are under way in the whole installation: a quarter of the steps a pool has in hand, so that those of
/// interruptions always find room.
const UNDER_WAY_MAX: usize = 1_000;

/// How many nodes one page of the list holds.
const PAGE: usize = 500;

/// The scheduler over all nodes.
pub struct Backups {
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

impl Backups {
    /// A scheduler.
    #[must_use]
    pub const fn new(engine: Engine<Perennial>, owner: String) -> Self {
        Self { engine, owner }
    }

    /// Ticks until the shutdown is asked for.
    pub async fn run(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.asked() => return,
                () = self.engine.clock().sleep(EVERY) => {}
            }
            let ticked = tokio::select! {
                biased;
                () = shutdown.asked() => return,
                ticked = self.once() => ticked,
            };
            if let Err(error) = ticked {
                warn!(%error, "the backups could not be looked after; the next tick tries again");
            }
        }
    }

    /// One tick.
    ///
    /// # Errors
    /// When the journal cannot be read or written; nothing is lost by it.
    pub async fn once(&self) -> Result<(), BackupsError> {
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
            self.tend(due).await?;
        }
        Ok(())
    }

    async fn tend(&self, due: Due) -> Result<(), BackupsError> {
        let Due { sight, over, finals, .. } = due;
        let node = sight.node.clone();
        match self.engine.execute(Command::Tend { sight, over, finals, owner: self.owner.clone() }).await {
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
        let books = self.books().await?;
        let mut after = None;
        loop {
            let page = self.engine.journal().summaries("node", Which::All, after.take(), PAGE).await?;
            let full = page.len() == PAGE;
            for row in &page {
                let Ok(name) = NodeName::parse(row.stream.name()) else { continue };
                match self.look_at(&name, books.get(&name).copied(), &mut under_way).await {
                    Ok(found) => due.extend(found),
                    Err(error) => warn!(node = %name, %error, "a node's backups cannot be looked after"),
                }
            }
            match page.last() {
                Some(last) if full => after = Some(last.stream.clone()),
                _ => return Ok((due, under_way)),
            }
        }
    }

    /// The present book of each node that has one.
    async fn books(&self) -> Result<BTreeMap<NodeName, u64>, ReadError> {
        let mut books = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.engine.journal().summaries("backup", Which::Open, after.take(), PAGE).await?;
            let ids = page.iter().filter_map(|row| BookId::of_stream(&row.stream));
            books.extend(ids.map(|id| (id.node().clone(), id.number())));
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.stream.clone()),
                _ => return Ok(books),
            }
        }
    }

    async fn look_at(
        &self,
        name: &NodeName,
        book: Option<u64>,
        under_way: &mut usize,
    ) -> Result<Option<Due>, ExecuteError<Rejection>> {
        let (state, _) = self.engine.load(&node_stream(name)).await?;
        let State::Node(node) = state.as_ref() else { return Ok(None) };
        let has_section = node.spec.as_ref().is_some_and(|spec| spec.backup.is_some());
        if book.is_none() && !has_section && node.finals.is_empty() {
            return Ok(None);
        }
        let sight = Sight::of(name, node).with_book(book.unwrap_or(1));
        let (book, _) = self.engine.load(&BookId::new(name.clone(), sight.book).stream()).await?;
        let State::Book(book) = book.as_ref() else { return Ok(None) };
        *under_way += usize::from(book.known.under_way().is_some());
        if let Some(over) = self.over(book).await? {
            return Ok(Some(Due { due_ms: 0, sight, is_backup: false, over: Some(over), finals: None }));
        }
        let last = (sight.operations > 0).then(|| OperationId::new(name.clone(), sight.operations));
        let last = match last.filter(|_| needs_operation(node, book)) {
            Some(id) => Some(self.engine.load(&id.stream()).await?.0),
            None => None,
        };
        let last = match last.as_deref() {
            Some(State::Operation(operation)) => operation.as_ref(),
            _ => None,
        };
        let now_ms = self.engine.clock().now_ms();
        Ok(match errand(node, last, name, book, now_ms) {
            Errand::Nothing => None,
            Errand::Begin { due_ms } => {
                Some(Due { due_ms, sight, is_backup: true, over: None, finals: None })
            }
            Errand::Turn | Errand::GiveUp | Errand::Rescue { .. } => {
                Some(Due { due_ms: 0, sight, is_backup: false, over: None, finals: None })
            }
            Errand::Inherit { operation } => {
                Some(Due { due_ms: 0, sight, is_backup: false, over: None, finals: Some(operation) })
            }
        })
    }
}

impl Backups {
    /// An operation that holds one of the backups and is over.
    async fn over(&self, book: &Book) -> Result<Option<OperationId>, ExecuteError<Rejection>> {
        for by in book.known.holds.keys() {
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
fn needs_operation(node: &perennial_workflows::aggregate::node::Node, book: &Book) -> bool {
    node.open.is_some() || node.deleted && !book.known.backups.is_empty()
}

/// The present book of a node's backups.
///
/// # Errors
/// When the journal cannot be read.
pub async fn present_book(engine: &Engine<Perennial>, name: &NodeName) -> Result<u64, ReadError> {
    let streams = engine.journal().lookup(&perennial_workflows::model::backup_id::book_key(name)).await?;
    Ok(streams.iter().filter_map(BookId::of_stream).map(|book| book.number()).max().unwrap_or(1))
}

/// Why a tick could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum BackupsError {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Execute(#[from] ExecuteError<Rejection>),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}
