//! The questions: [`Views`], over any adapter of the engine's port `Journal`.
//!
//! A query reads summaries where a line is enough, and folds single streams where the whole state is needed.
//! It keeps nothing: every answer is as new as the journal was when it was read.

mod address_pool;
mod audit;
mod error;
mod inbox;
mod journal;
mod node;
mod workflow;

use std::fmt;
use std::sync::Arc;

use perennial_engine::domain::{Domain as _, Stamp};
use perennial_engine::engine::{ExecuteError, load_stream};
use perennial_engine::ids::{Seq, StreamId};
use perennial_engine::journal::{Journal, RecordedEvent, Which};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::{Event, State};
use serde::de::DeserializeOwned;

pub use error::{QueryError, Subject};
pub use workflow::Watch;

/// How many lines of a list, or events of a stream, one read takes.
const PAGE: usize = 1_000;

/// Every question that can be asked of a journal. Cheap to clone.
///
/// # Guarantees
/// It never writes: of the port it uses the reading methods only.
///
/// # Errors
/// All methods fail with [`QueryError`].
#[derive(Clone)]
pub struct Views {
    journal: Arc<dyn Journal>,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

impl Views {
    /// Asks this journal.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self { journal }
    }

    /// Folds a whole stream.
    async fn state(&self, stream: &StreamId) -> Result<State, QueryError> {
        match load_stream::<Perennial>(self.journal.as_ref(), stream).await {
            Ok((state, _)) => Ok(state),
            Err(ExecuteError::Read(error)) => Err(QueryError::Read(error)),
            Err(ExecuteError::Corrupt { stream, source }) => Err(QueryError::Corrupt { stream, source }),
            Err(error) => unreachable!("BUG: reading a stream decides and writes nothing: {error}"),
        }
    }

    /// The events of a stream after `after`, all of them.
    async fn recorded(&self, stream: &StreamId, mut after: Seq) -> Result<Vec<RecordedEvent>, QueryError> {
        let mut all = Vec::new();
        loop {
            let page = self.journal.read_stream(stream, after, PAGE).await?;
            let full = page.len() == PAGE;
            after = page.last().map_or(after, |event| event.seq);
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }

    /// Every event of a stream that `of` takes, with its place and time.
    async fn events<T>(
        &self,
        stream: &StreamId,
        of: impl Fn(Event) -> Option<T>,
    ) -> Result<Vec<(Stamp, T)>, QueryError> {
        let mut all = Vec::new();
        for event in self.recorded(stream, Seq::NONE).await? {
            let stamp = Stamp { seq: event.seq, at_ms: event.recorded_at_ms };
            all.extend(of(decoded(&event)?).map(|event| (stamp, event)));
        }
        Ok(all)
    }

    /// Every summary of a category, with the name of its stream.
    async fn summaries<T: DeserializeOwned>(
        &self,
        category: &str,
        which: Which,
    ) -> Result<Vec<(String, T)>, QueryError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.journal.summaries(category, which, after.take(), PAGE).await?;
            let full = page.len() == PAGE;
            after = page.last().map(|row| row.stream.clone());
            for row in page {
                let summary = serde_json::from_str(&row.body)
                    .map_err(|source| QueryError::Summary { stream: row.stream.clone(), source })?;
                all.push((row.stream.name().to_owned(), summary));
            }
            if !full {
                return Ok(all);
            }
        }
    }
}

/// What an event says.
fn decoded(event: &RecordedEvent) -> Result<Event, QueryError> {
    Perennial::decode(&event.data).map_err(|source| QueryError::Event {
        stream: event.stream.clone(),
        seq: event.seq,
        source,
    })
}
