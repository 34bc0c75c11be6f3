//! The end of the journal.

use perennial_engine::ids::Position;
use perennial_engine::journal::{Hash, chain};

use crate::model::journal::{CheckedHead, JournalHead};
use crate::query::{QueryError, Views};

impl Views {
    /// The position and the hash of the last event.
    ///
    /// # Errors
    /// [`QueryError::Read`].
    pub async fn head(&self) -> Result<JournalHead, QueryError> {
        Ok(self.journal.head().await?.into())
    }

    /// When the last event was written; `None` of an empty journal.
    ///
    /// # Errors
    /// [`QueryError::Read`].
    pub async fn last_event_ms(&self) -> Result<Option<u64>, QueryError> {
        let head = self.journal.head().await?;
        let events = self.journal.read_all(Position(head.position.0.saturating_sub(1)), 1).await?;
        Ok(events.first().map(|event| event.recorded_at_ms))
    }

    /// The last event, after its hash was computed again; `None` of an empty journal.
    ///
    /// # Errors
    /// [`QueryError::Hash`] when the hash is another one, and [`QueryError::Read`].
    pub async fn checked_head(&self) -> Result<Option<CheckedHead>, QueryError> {
        let head = self.journal.head().await?;
        let events = self.journal.read_all(Position(head.position.0.saturating_sub(2)), 2).await?;
        let (previous, last) = match events.as_slice() {
            [] => return Ok(None),
            [last] => (Hash::GENESIS, last),
            [previous, last, ..] => (previous.hash, last),
        };
        if chain(&previous, last) != last.hash {
            return Err(QueryError::Hash { position: last.position.0 });
        }
        Ok(Some(CheckedHead { position: last.position.0, recorded_at_ms: last.recorded_at_ms }))
    }
}
