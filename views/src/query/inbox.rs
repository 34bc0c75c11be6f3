//! What became of a message.

use perennial_workflows::aggregate::inbox::{Disposition, inbox_stream};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::backup_id::BackupId;

use crate::model::backups::BackupProgress;
use crate::query::{QueryError, Views};

impl Views {
    /// What became of the message with this idempotency key; `None` while it is not processed.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn disposition(&self, queue: &str, key: &str) -> Result<Option<Disposition>, QueryError> {
        match self.state(&inbox_stream(queue, key)).await? {
            State::Inbox(entry) => Ok(entry.disposition),
            _ => Ok(None),
        }
    }

    /// The same of a message with this content: another one with its key is a mismatch.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn answer(
        &self,
        queue: &str,
        key: &str,
        content: &str,
    ) -> Result<Option<Disposition>, QueryError> {
        match self.state(&inbox_stream(queue, key)).await? {
            State::Inbox(entry) => Ok(entry.answer(Some(content))),
            _ => Ok(None),
        }
    }

    /// How far a backup is.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn backup_progress(&self, id: &BackupId) -> Result<BackupProgress, QueryError> {
        Ok(BackupProgress::new(id, &self.backup_catalog(id.node()).await?))
    }
}
