//! The summaries of all nodes, a page at a time.

use perennial_engine::engine::Engine;
use perennial_engine::ids::StreamId;
use perennial_engine::journal::{ReadError, SummaryRow, Which};
use perennial_workflows::domain::Perennial;

/// How many rows one page holds.
const PAGE: usize = 500;

/// The summaries of all nodes. What is appended meanwhile may be in it or not: the next run finds it.
pub(crate) struct Pages<'e> {
    engine: &'e Engine<Perennial>,
    next: Next,
}

enum Next {
    First,
    After(StreamId),
    None,
}

impl<'e> Pages<'e> {
    /// Of all nodes.
    pub(crate) const fn of_nodes(engine: &'e Engine<Perennial>) -> Self {
        Self { engine, next: Next::First }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<SummaryRow>>, ReadError> {
        let after = match std::mem::replace(&mut self.next, Next::None) {
            Next::First => None,
            Next::After(stream) => Some(stream),
            Next::None => return Ok(None),
        };
        let page = self.engine.journal().summaries("node", Which::All, after, PAGE).await?;
        if page.len() == PAGE
            && let Some(last) = page.last()
        {
            self.next = Next::After(last.stream.clone());
        }
        Ok(Some(page))
    }
}
