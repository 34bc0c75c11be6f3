//! The journal in one SQLite file.
//!
//! # Guarantees
//! Those of the port (`perennial_engine::journal`). An acknowledged batch is fsynced (WAL, `synchronous =
//! FULL`, read back at every open). One engine at a time: [`SqliteJournal::open`] takes a lock that the
//! operating system gives back when the process ends, however it ends. Other processes may read meanwhile:
//! [`JournalReader`].
//!
//! # Assumptions
//! A local file system whose fsync means it, and on which locks and shared memory work: not NFS.
//!
//! # Under paused time
//! An append is answered by a thread that tokio does not know. A test with `tokio::time::pause` may see its
//! clock jump to the next timer while an append is under way; the in-memory journal is the one for
//! simulations.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use perennial_engine::ids::{Position, Seq, StreamId, Token};
use perennial_engine::journal::{
    AppendError, Appended, Batch, Head, Journal, OpenStepRow, ReadError, RecordedEvent, SummaryRow, TimerRow,
    Which,
};
use tokio::sync::{mpsc, oneshot};

use crate::checkpoint::{self, Meter};
use crate::file::{self, JOURNAL, Lock, OpenError, Synchronous};
use crate::read::{self, Pool};
use crate::writer::{self, Request};

/// How a journal is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The database file does not grow beyond this many bytes; appends then fail as `Unavailable` and nothing
    /// is lost. None leaves the disk as the limit.
    pub max_bytes: Option<u64>,
}

/// The engine's journal: the only one that writes.
#[derive(Debug)]
pub struct SqliteJournal {
    path: PathBuf,
    reader: JournalReader,
    /// None while it is being dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<Meter>>,
    checkpoints: Option<JoinHandle<()>>,
    /// Last, so that it is given back after the threads have ended.
    _lock: Lock,
}

impl SqliteJournal {
    /// Opens the journal at `path` for the only engine on it; makes it when there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let sqlite = |doing| move |source| OpenError::Sqlite { path: path.to_owned(), doing, source };
        let io = |doing| move |source| OpenError::Io { path: path.to_owned(), doing, source };
        let lock = Lock::take(path)?;
        let conn = file::open_writable(path, &JOURNAL, Synchronous::Full, 0)?;
        writer::configure(&conn, options.max_bytes).map_err(sqlite("preparing to write"))?;
        let reader = JournalReader::open(path)?;
        let checkpoints = file::open_writable(path, &JOURNAL, Synchronous::Full, 0)?;
        checkpoints.busy_timeout(std::time::Duration::ZERO).map_err(sqlite("preparing checkpoints"))?;
        let (meter, checkpoint_thread) =
            checkpoint::start(checkpoints).map_err(io("starting the checkpoint thread"))?;
        let (sender, receiver) = mpsc::channel(writer::WAITING_MAX);
        let (ready, begun) = std::sync::mpsc::channel();
        let writer_thread = std::thread::Builder::new()
            .name("journal-writer".into())
            .spawn(move || {
                let meter = writer::run(&conn, receiver, meter, &ready);
                drop(conn);
                meter
            })
            .map_err(io("starting the writer thread"))?;
        let journal = Self {
            path: path.to_owned(),
            reader,
            requests: Some(sender),
            writer: Some(writer_thread),
            checkpoints: Some(checkpoint_thread),
            _lock: lock,
        };
        begun.recv().expect("BUG: the writer says whether it began").map_err(sqlite("reading the head"))?;
        Ok(journal)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SqliteJournal {
    /// Waits until everything that was asked for is written; the lock is given back after that.
    fn drop(&mut self) {
        // The readers first: SQLite folds the WAL into the file only when the last connection to close may
        // write.
        self.reader.pool.close_idle();
        self.requests = None;
        // One after the other: the writer's connection is closed when it has ended, and the checkpoints'
        // after that.
        let wrote = self.writer.take().is_none_or(|thread| thread.join().map(drop).is_ok());
        let copied = self.checkpoints.take().is_none_or(|thread| thread.join().is_ok());
        if !(wrote && copied) {
            tracing::error!("BUG: a thread of the journal panicked");
        }
    }
}

/// Reads a journal beside a running engine, or without one.
#[derive(Debug, Clone)]
pub struct JournalReader {
    pool: Arc<Pool>,
}

impl JournalReader {
    /// Opens the journal at `path` for reading.
    ///
    /// # Errors
    /// See [`OpenError`]; it is `Missing` when there is none.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { pool: Pool::open(path)? })
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn append(&self, batch: Batch) -> Result<Appended, AppendError> {
        // Cheap and pure: a batch that can never be written does not wait in line.
        batch.check()?;
        let requests = self.requests.as_ref().expect("BUG: nobody calls a journal that is being dropped");
        let (ack, outcome) = oneshot::channel();
        let gone = || AppendError::Unavailable { why: "the writer has stopped".into() };
        requests.send(Request { batch, ack }).await.map_err(|_| gone())?;
        // The batch is with the writer: if that dies now, it may have committed.
        outcome.await.unwrap_or_else(|_| {
            Err(AppendError::Unknown { why: "the writer stopped before it answered".into() })
        })
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, ReadError> {
        self.reader.read_stream(stream, after, limit).await
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<RecordedEvent>, ReadError> {
        self.reader.read_all(after, limit).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        self.reader.head().await
    }

    async fn open_steps(
        &self,
        due_ms: u64,
        after: Option<(StreamId, Token)>,
        limit: usize,
    ) -> Result<Vec<OpenStepRow>, ReadError> {
        self.reader.open_steps(due_ms, after, limit).await
    }

    async fn timers(
        &self,
        due_ms: u64,
        after: Option<TimerRow>,
        limit: usize,
    ) -> Result<Vec<TimerRow>, ReadError> {
        self.reader.timers(due_ms, after, limit).await
    }

    async fn lookup(&self, key: &str) -> Result<Vec<StreamId>, ReadError> {
        self.reader.lookup(key).await
    }

    async fn summaries(
        &self,
        category: &str,
        which: Which,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<SummaryRow>, ReadError> {
        self.reader.summaries(category, which, after, limit).await
    }
}

#[async_trait]
impl Journal for JournalReader {
    /// Refuses: this one only reads.
    async fn append(&self, _batch: Batch) -> Result<Appended, AppendError> {
        Err(AppendError::Unavailable { why: "it was opened for reading only".into() })
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, ReadError> {
        let stream = stream.clone();
        self.pool.run(move |conn| read::stream(conn, &stream, after, limit)).await
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<RecordedEvent>, ReadError> {
        self.pool.run(move |conn| read::all(conn, after, limit)).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        self.pool.run(read::head).await
    }

    async fn open_steps(
        &self,
        due_ms: u64,
        after: Option<(StreamId, Token)>,
        limit: usize,
    ) -> Result<Vec<OpenStepRow>, ReadError> {
        self.pool.run(move |conn| read::open_steps(conn, due_ms, after, limit)).await
    }

    async fn timers(
        &self,
        due_ms: u64,
        after: Option<TimerRow>,
        limit: usize,
    ) -> Result<Vec<TimerRow>, ReadError> {
        self.pool.run(move |conn| read::timers(conn, due_ms, after.as_ref(), limit)).await
    }

    async fn lookup(&self, key: &str) -> Result<Vec<StreamId>, ReadError> {
        let key = key.to_owned();
        self.pool.run(move |conn| read::lookup(conn, &key)).await
    }

    async fn summaries(
        &self,
        category: &str,
        which: Which,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<SummaryRow>, ReadError> {
        let category = category.to_owned();
        self.pool.run(move |conn| read::summaries(conn, &category, which, after.as_ref(), limit)).await
    }
}
