//! The journal of this machine: one SQLite file in the data directory. The only module that knows that.
//!
//! Reading commands get it as the engine's port [`Journal`], so they would read any other journal as well.
//! What stays here is about the file itself: its lock, its copies, its repair, and reading all of it without
//! the engine. `verify`, `rebuild`, `export` and `backup` work on a path because a damaged file must be
//! readable row by row, a copy must be one of a file, and a rebuild needs the lock that otherwise the server
//! has.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_engine::ids::{Position, StreamId};
use perennial_engine::journal::{Head, Journal};
use perennial_engine::projection::Reprojection;
use perennial_store::backup::BackupError;
use perennial_store::export::{Filter, Redact};
use perennial_store::rebuild::{RebuildError, RebuildReport};
use perennial_store::{JournalReader, OpenError, Options, SqliteJournal};
use perennial_views::redact::redacted_text;
use perennial_workflows::domain::Perennial;

use crate::failure::{Failure, chain};

pub(crate) use perennial_store::export::{ExportError, ExportReport};
pub(crate) use perennial_store::verify::{Severity, VerifyReport};

/// The file in a data directory.
pub(crate) fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("journal.sqlite")
}

/// Opens the journal for reading, beside a running server or without one.
pub(crate) fn open_for_reading(path: &Path) -> Result<Arc<dyn Journal>, Failure> {
    Ok(Arc::new(JournalReader::open(path)?))
}

/// The same, where there may be no journal; then `None`.
pub(crate) fn find(path: &Path) -> Result<Option<Arc<dyn Journal>>, Failure> {
    match JournalReader::open(path) {
        Ok(journal) => Ok(Some(Arc::new(journal))),
        Err(OpenError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same, where a server may be starting: the file is there before its tables are.
pub(crate) fn find_ready(path: &Path) -> Result<Option<Arc<dyn Journal>>, Failure> {
    match JournalReader::open(path) {
        Ok(journal) => Ok(Some(Arc::new(journal))),
        Err(OpenError::Missing { .. } | OpenError::TooOld { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens the journal for the engine, which has it alone; makes it if there is none.
pub(crate) fn open_for_the_engine(path: &Path) -> Result<Arc<dyn Journal>, Failure> {
    Ok(Arc::new(SqliteJournal::open(path, Options::default())?))
}

/// Who holds a journal.
#[derive(Debug)]
pub(crate) enum Holder {
    /// A server: its process id.
    Server(String),
    /// No server runs on it.
    Nobody,
    /// The file system does not say.
    Unknown(std::io::Error),
}

/// Finds out whether a server runs on the journal.
pub(crate) fn holder(path: &Path) -> Holder {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    match std::fs::File::open(&lock).map(|file| file.try_lock()) {
        Ok(Err(std::fs::TryLockError::WouldBlock)) => {
            Holder::Server(std::fs::read_to_string(&lock).unwrap_or_default().trim().to_owned())
        }
        // Given back at once, with the file.
        Ok(Ok(())) | Err(_) => Holder::Nobody,
        Ok(Err(std::fs::TryLockError::Error(error))) => Holder::Unknown(error),
    }
}

/// Reads everything again: hashes, streams, and projections by the meaning of the events; and compares them
/// with heads that were noted before.
pub(crate) fn verify(path: &Path, heads: &[Head]) -> Result<VerifyReport, Failure> {
    Ok(perennial_store::verify::verify_against(path, Reprojection::<Perennial>::default(), heads)?)
}

/// How many of the last events are read again at the start of a server: a fraction of a second.
const TAIL_EVENTS: u64 = 2_000;

/// What a server looks at before it starts: the end of the journal, its schema, and the newest head that was
/// noted. A journal that there is not yet is sound.
pub(crate) fn check_tail(path: &Path, heads: &[Head]) -> Result<(), Failure> {
    let report = match perennial_store::verify::verify_tail(path, TAIL_EVENTS, heads) {
        Ok(report) => report,
        // The engine says what is wrong with the file itself, or makes it.
        Err(_) => return Ok(()),
    };
    match report.findings.first() {
        None => Ok(()),
        Some(finding) => Err(Failure::failed(format!("the journal is not as it was written: {finding}"))
            .hint(KEEP_THE_EVIDENCE)),
    }
}

/// What to do with a journal that is not what it was.
pub(crate) const KEEP_THE_EVIDENCE: &str = "change nothing: copy the whole data directory first, then see \
    docs/recovery.md, \"A journal that is not as it was\"";

/// A journal whose end was cut off is not given new projections: the present ones show what is missing.
pub(crate) fn must_not_be_cut_off(path: &Path) -> Result<(), Failure> {
    match perennial_store::verify::is_cut_off(path)? {
        None => Ok(()),
        Some(finding) => {
            Err(Failure::failed(format!("the projections know more than the events: {finding}"))
                .hint(KEEP_THE_EVIDENCE))
        }
    }
}

/// Makes the projections anew from the events; the server must be down.
pub(crate) fn rebuild(path: &Path) -> Result<RebuildReport, Failure> {
    perennial_store::rebuild::rebuild(path, Reprojection::<Perennial>::default()).map_err(|error| match error
    {
        RebuildError::Open(error) => error.into(),
        RebuildError::Read(error) => error.into(),
        RebuildError::Write(_) => Failure::environment(chain(&error)),
    })
}

/// Writes events as JSON Lines: those after a position, of one stream or of all. What may be secret is left
/// out, unless it is asked for.
pub(crate) fn export(
    path: &Path,
    to: impl Write,
    (stream, after): (Option<StreamId>, u64),
    secrets: bool,
) -> Result<ExportReport, ExportError> {
    let redact: Redact = if secrets { |_| None } else { redacted_text };
    perennial_store::export::export_redacted(path, to, &Filter { stream, after: Position(after) }, redact)
}

/// Copies the journal while a server runs. Returns where the copy ends.
pub(crate) fn backup(path: &Path, to: &Path) -> Result<Head, Failure> {
    perennial_store::backup::backup(path, to).map_err(|error| match error {
        BackupError::Open(error) => error.into(),
        BackupError::Read(error) => error.into(),
        BackupError::Exists { .. } => Failure::user(error),
        BackupError::Copy(_) | BackupError::Locked | BackupError::Unsound { .. } | BackupError::Io { .. } => {
            Failure::environment(chain(&error))
        }
    })
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Open(error) => error.into(),
            ExportError::Read(error) => error.into(),
            ExportError::Io(error) => Self::environment(format!("the export cannot be written: {error}")),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let text = chain(&error);
        match error {
            OpenError::InUse { .. } | OpenError::TooNew { .. } | OpenError::TooOld { .. } => {
                Self::environment(text)
            }
            OpenError::Missing { .. } => Self::environment(text).hint(
                "nothing has run in this data directory yet: start `perennial serve`, or name another with --data DIR",
            ),
            OpenError::Foreign { .. } => Self::environment(text).hint("name another directory with --data DIR"),
            OpenError::BadSettings { .. } => Self::configuration(text),
            OpenError::Setting { .. } | OpenError::Io { .. } | OpenError::Sqlite { .. } => {
                Self::environment(text).hint("the data directory must be on a local file system that can be written")
            }
        }
    }
}
