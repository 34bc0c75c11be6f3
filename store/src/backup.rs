//! A copy of the journal while the engine writes.
//!
//! SQLite's backup API copies the whole database within one read transaction: a snapshot of the moment it
//! began. The engine goes on writing; its WAL grows by what it writes meanwhile. For a copy that follows the
//! journal continuously, replicate the file with a tool that understands WAL (Litestream), or export the
//! events after the last copied position.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_engine::journal::{Head, ReadError};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::file::{self, JOURNAL, OpenError};
use crate::{private, read};

/// How often a copy that finds the database locked is tried again, a quarter of a second apart.
const TRIES: u32 = 40;

/// Why there is no backup. The destination is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is a file already.
    #[error("{} exists; a backup overwrites nothing", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The copy failed.
    #[error("copying the journal failed")]
    Copy(#[from] rusqlite::Error),
    /// The journal stayed locked.
    #[error("the journal was locked for too long")]
    Locked,
    /// The copy is not sound, and was removed.
    #[error("the copy is not sound: {why}")]
    Unsound {
        /// What SQLite says.
        why: String,
    },
    /// The copy cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The operating system refused.
    #[error("{}: {doing} failed", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// Copies the journal at `path` to the new file `to`, checks the copy and says where it ends.
///
/// The copy is made beside its destination and takes its name only when it is whole and fsynced.
///
/// # Errors
/// See [`BackupError`].
pub fn backup(path: &Path, to: &Path) -> Result<Head, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let source = file::open_readable(path, &JOURNAL)?;
    let partial = file::beside(to, ".partial");
    let io = |doing| {
        let path = partial.clone();
        move |source| BackupError::Io { path, doing, source }
    };
    private::create_new(&partial).map_err(io("making the copy (is another backup under way?)"))?;
    let copied = copy(&source, &partial).and_then(|head| {
        File::open(&partial).and_then(|file| file.sync_all()).map_err(io("syncing the copy"))?;
        // A link fails where a rename would overwrite.
        match std::fs::hard_link(&partial, to) {
            Ok(()) => Ok(head),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(BackupError::Exists { path: to.to_owned() })
            }
            Err(error) => Err(io("naming the copy")(error)),
        }
    });
    std::fs::remove_file(&partial).map_err(io("removing the temporary name"))?;
    let head = copied?;
    if let Some(directory) = to.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        File::open(directory).and_then(|d| d.sync_all()).map_err(io("syncing the directory"))?;
    }
    Ok(head)
}

fn copy(source: &Connection, partial: &Path) -> Result<Head, BackupError> {
    let mut destination = Connection::open(partial)?;
    {
        let backup = Backup::new(source, &mut destination)?;
        // All pages in one step, which is one read transaction: smaller steps would begin again whenever the
        // engine writes.
        let (_never, pause) = std::sync::mpsc::channel::<()>();
        for attempt in 0.. {
            match backup.step(-1)? {
                StepResult::Done => break,
                _ if attempt == TRIES => return Err(BackupError::Locked),
                _ => {
                    // No message is ever sent: this is the wait.
                    let _ = pause.recv_timeout(Duration::from_millis(250));
                }
            }
        }
    }
    let verdict: String = destination.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(BackupError::Unsound { why: verdict });
    }
    let head = read::head(&destination)?;
    // Closing it as the only connection folds its WAL into the file.
    destination.close().map_err(|(_, error)| error)?;
    Ok(head)
}
