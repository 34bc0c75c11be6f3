//! A journal whose appends pass through something else: to count them, to refuse some, or to die at one. For
//! tests and benchmarks; reads go straight through.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ids::{Position, Seq, StreamId, Token};
use crate::journal::{
    AppendError, Appended, Batch, Head, Journal, OpenStepRow, ReadError, RecordedEvent, SummaryRow, TimerRow,
    Which,
};

/// What stands between an engine and its journal.
#[async_trait]
pub trait Intercept: Send + Sync + 'static {
    /// Appends to the journal, or does not.
    ///
    /// # Errors
    /// See [`AppendError`].
    async fn append(&self, to: &dyn Journal, batch: Batch) -> Result<Appended, AppendError>;

    /// Looks a key up.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn lookup(&self, to: &dyn Journal, key: &str) -> Result<Vec<StreamId>, ReadError> {
        to.lookup(key).await
    }

    /// Hears that a stream is read.
    fn reads(&self, _stream: &StreamId) {}
}

/// A journal behind an [`Intercept`].
pub struct Intercepted<I> {
    /// Where the events are.
    pub journal: Arc<dyn Journal>,
    /// What stands before it.
    pub intercept: I,
}

#[async_trait]
impl<I: Intercept> Journal for Intercepted<I> {
    async fn append(&self, batch: Batch) -> Result<Appended, AppendError> {
        self.intercept.append(self.journal.as_ref(), batch).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, ReadError> {
        self.intercept.reads(stream);
        self.journal.read_stream(stream, after, limit).await
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<RecordedEvent>, ReadError> {
        self.journal.read_all(after, limit).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        self.journal.head().await
    }

    async fn open_steps(
        &self,
        due_ms: u64,
        after: Option<(StreamId, Token)>,
        limit: usize,
    ) -> Result<Vec<OpenStepRow>, ReadError> {
        self.journal.open_steps(due_ms, after, limit).await
    }

    async fn timers(
        &self,
        due_ms: u64,
        after: Option<TimerRow>,
        limit: usize,
    ) -> Result<Vec<TimerRow>, ReadError> {
        self.journal.timers(due_ms, after, limit).await
    }

    async fn lookup(&self, key: &str) -> Result<Vec<StreamId>, ReadError> {
        self.intercept.lookup(self.journal.as_ref(), key).await
    }

    async fn summaries(
        &self,
        category: &str,
        which: Which,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<SummaryRow>, ReadError> {
        self.journal.summaries(category, which, after, limit).await
    }
}
