//! One SQLite file of Perennial: its identity, its format and its settings.
//!
//! A file is written only after its `application_id` has shown that it belongs to Perennial. It is migrated
//! in one exclusive transaction. The settings that durability depends on are read back, because SQLite
//! silently ignores a setting that it does not know or cannot provide.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::private;

/// How long a connection waits for another one's write before it gives up. A commit takes milliseconds and a
/// migration of a big file seconds.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What distinguishes one kind of file.
pub(crate) struct Format {
    /// For messages.
    pub(crate) name: &'static str,
    /// In the header of the file; `file(1)` shows it.
    pub(crate) application_id: i32,
    /// Ordered; the number of those applied is the file's `user_version`.
    pub(crate) migrations: &'static [&'static str],
}

/// The journal's file.
pub(crate) const JOURNAL: Format = Format {
    name: "journal",
    application_id: i32::from_be_bytes(*b"Prnj"),
    migrations: &[
        include_str!("../../schemas/sql/journal/0001_journal.sql"),
        include_str!("../../schemas/sql/journal/0002_timer_waits.sql"),
    ],
};

/// The queue's file.
pub(crate) const QUEUE: Format = Format {
    name: "queue",
    application_id: i32::from_be_bytes(*b"Prnq"),
    migrations: &[include_str!("../../schemas/sql/queue/0001_queue.sql")],
};

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another engine works on it.
    #[error(
        "{} is in use by another engine (process {holder}), which holds {}; \
         stop that one first, or give this one a data directory of its own", journal.display(), lock.display()
    )]
    InUse {
        /// The journal.
        journal: PathBuf,
        /// The file that is locked.
        lock: PathBuf,
        /// The process id the holder wrote into the lock file, as far as known.
        holder: String,
    },
    /// There is no such file, and this call does not make one.
    #[error("there is no {format} at {}", path.display())]
    Missing {
        /// Where.
        path: PathBuf,
        /// `journal` or `queue`.
        format: &'static str,
    },
    /// It is something else.
    #[error("{} is no {format} of Perennial: {why}; nothing in it was changed", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// `journal` or `queue`.
        format: &'static str,
        /// What it is.
        why: String,
    },
    /// A newer build has written it.
    #[error(
        "{} has format {found}, and this build knows formats up to {known}; use the newer build, or restore a backup \
         made before the upgrade", path.display()
    )]
    TooNew {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known here.
        known: usize,
    },
    /// An older build has written it, and this call must not change it.
    #[error("{} has the old format {found}; start the engine once to bring it to format {known}", path.display())]
    TooOld {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known here.
        known: usize,
    },
    /// SQLite did not take a setting that durability rests on.
    #[error("{} would not be durable: the setting {setting} is {found:?} and must be {wanted:?}", path.display())]
    Setting {
        /// Where.
        path: PathBuf,
        /// The pragma.
        setting: &'static str,
        /// What it must be.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// A setting of the caller cannot be used.
    #[error("the settings cannot be used: {why}")]
    BadSettings {
        /// Which and why.
        why: String,
    },
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
    /// SQLite refused.
    #[error("{}: {doing} failed", path.display())]
    Sqlite {
        /// Where.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
}

/// The lock that makes an engine the only one on its journal. Held until dropped; a killed process leaves
/// none.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `<path>.lock` or says who has it.
    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let lock = beside(path, ".lock");
        let io = |doing| {
            let path = lock.clone();
            move |source| OpenError::Io { path, doing, source }
        };
        private::ensure(&lock).map_err(io("making the lock file"))?;
        let mut file =
            OpenOptions::new().read(true).write(true).open(&lock).map_err(io("opening the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: an unreadable id is no reason for another error.
                let _ = (&file).take(20).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() }.to_owned();
                return Err(OpenError::InUse { journal: path.to_owned(), lock, holder });
            }
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Io { path: lock, doing: "locking the lock file", source });
            }
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(io("writing the lock file"))?;
        Ok(Self { _file: file })
    }
}

/// `<path><suffix>`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// How durable a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synchronous {
    /// Survives a crash of the process, not always one of the machine.
    Normal,
    /// Fsynced before it is acknowledged.
    Full,
}

impl Synchronous {
    const fn number(self) -> i64 {
        match self {
            Self::Normal => 1,
            Self::Full => 2,
        }
    }

    /// Sets it on a connection, outside a transaction.
    pub(crate) fn set(self, conn: &Connection) -> rusqlite::Result<()> {
        conn.pragma_update(None, "synchronous", self.number())
    }
}

/// Opens for writing: creates the file when there is none, migrates it, makes it durable and checks that it
/// is.
pub(crate) fn open_writable(
    path: &Path,
    format: &Format,
    synchronous: Synchronous,
    auto_checkpoint_pages: i64,
) -> Result<Connection, OpenError> {
    let sqlite = |doing| move |source| OpenError::Sqlite { path: path.to_owned(), doing, source };
    keep_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let mut conn = Connection::open_with_flags(path, flags).map_err(sqlite("opening the file"))?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("setting the busy timeout"))?;
    keep_plans(&conn).map_err(sqlite("keeping plans stable"))?;
    check_identity(&conn, path, format)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(sqlite("switching to WAL"))?;
    synchronous.set(&conn).map_err(sqlite("setting synchronous"))?;
    conn.query_row(&format!("PRAGMA wal_autocheckpoint = {auto_checkpoint_pages}"), [], |_| Ok(()))
        .map_err(sqlite("setting wal_autocheckpoint"))?;
    migrate(&mut conn, path, format)?;
    read_back(&conn, path, synchronous, auto_checkpoint_pages)?;
    Ok(conn)
}

/// Creates the file for its owner alone, or closes an existing one and what SQLite keeps beside it to others.
/// SQLite gives the files that it makes beside it the same mode.
fn keep_private(path: &Path) -> Result<(), OpenError> {
    let doing = "keeping the file private";
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, doing, source }
    };
    private::ensure(path).map_err(io(path))?;
    for beside in ["-wal", "-shm"].map(|suffix| beside(path, suffix)) {
        match private::narrow(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&beside)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Opens for reading only. The file must exist and be of this build's format.
///
/// SQLite makes files of its own beside one in WAL mode. On a medium that cannot be written, it is opened as
/// one that never changes, if nothing waits in its WAL.
pub(crate) fn open_readable(path: &Path, format: &Format) -> Result<Connection, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing { path: path.to_owned(), format: format.name });
    }
    match open_read_only(path, format, false) {
        Err(OpenError::Sqlite { source, .. }) if cannot_write_beside(&source) && has_no_wal(path) => {
            open_read_only(path, format, true)
        }
        opened => opened,
    }
}

fn cannot_write_beside(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn has_no_wal(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-wal")).map_or(true, |wal| wal.len() == 0)
}

fn open_read_only(path: &Path, format: &Format, is_fixed: bool) -> Result<Connection, OpenError> {
    let sqlite = |doing| move |source| OpenError::Sqlite { path: path.to_owned(), doing, source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let conn = if is_fixed {
        Connection::open_with_flags(fixed_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)
    } else {
        Connection::open_with_flags(path, flags)
    };
    let conn = conn.map_err(sqlite("opening the file"))?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("setting the busy timeout"))?;
    keep_plans(&conn).map_err(sqlite("keeping plans stable"))?;
    let version = check_identity(&conn, path, format)?;
    if version < format.migrations.len() as i64 {
        return Err(OpenError::TooOld {
            path: path.to_owned(),
            found: version,
            known: format.migrations.len(),
        });
    }
    Ok(conn)
}

/// The URI of a file that never changes (SQLite, "Uniform Resource Identifiers").
fn fixed_uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// Lets a prepared statement keep its plan. Otherwise SQLite prepares it again whenever another value is
/// bound, because a partial index might fit that value. The statements here never depend on a partial index,
/// and preparing costs more than a short read.
fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Refuses a file that does not belong to Perennial or is newer than this program; returns the file's format.
/// Only reads.
fn check_identity(conn: &Connection, path: &Path, format: &Format) -> Result<i64, OpenError> {
    let sqlite = |doing| move |source| OpenError::Sqlite { path: path.to_owned(), doing, source };
    let foreign = |why: String| OpenError::Foreign { path: path.to_owned(), format: format.name, why };
    let application_id: i64 =
        conn.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(|error| {
            if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
                foreign("it is no SQLite database".into())
            } else {
                sqlite("reading its application id")(error)
            }
        })?;
    if application_id == 0 {
        let tables: i64 = conn
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(sqlite("reading its schema"))?;
        if tables > 0 {
            return Err(foreign("it is the SQLite database of another program".into()));
        }
    } else if application_id != i64::from(format.application_id) {
        return Err(foreign(format!("it is a SQLite database with the application id {application_id}")));
    }
    let version: i64 = conn
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite("reading its format version"))?;
    if version > format.migrations.len() as i64 {
        return Err(OpenError::TooNew {
            path: path.to_owned(),
            found: version,
            known: format.migrations.len(),
        });
    }
    Ok(version)
}

/// Applies the migrations that are missing, all of them or none.
fn migrate(conn: &mut Connection, path: &Path, format: &Format) -> Result<(), OpenError> {
    let sqlite = |doing| move |source| OpenError::Sqlite { path: path.to_owned(), doing, source };
    if check_identity(conn, path, format)? == format.migrations.len() as i64 {
        return Ok(());
    }
    let tx = conn
        .transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)
        .map_err(sqlite("starting the migration"))?;
    // Read again under the lock: another process may have migrated meanwhile.
    let version = check_identity(&tx, path, format)?;
    for migration in &format.migrations[version as usize..] {
        tx.execute_batch(migration).map_err(sqlite("migrating"))?;
    }
    tx.pragma_update(None, "application_id", format.application_id).map_err(sqlite("marking the file"))?;
    tx.pragma_update(None, "user_version", format.migrations.len() as i64)
        .map_err(sqlite("marking the file"))?;
    tx.commit().map_err(sqlite("committing the migration"))
}

/// Compares the settings durability rests on with what SQLite really uses.
fn read_back(
    conn: &Connection,
    path: &Path,
    synchronous: Synchronous,
    auto_checkpoint_pages: i64,
) -> Result<(), OpenError> {
    let wanted = [
        ("journal_mode", "wal".to_owned()),
        ("synchronous", synchronous.number().to_string()),
        ("wal_autocheckpoint", auto_checkpoint_pages.to_string()),
        ("locking_mode", "normal".to_owned()),
        ("encoding", "UTF-8".to_owned()),
    ];
    for (setting, wanted) in wanted {
        let found = conn
            .query_row(&format!("PRAGMA {setting}"), [], |row| {
                Ok(match row.get_ref(0)? {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str().unwrap_or("unreadable").to_owned(),
                })
            })
            .map_err(|source| OpenError::Sqlite {
                path: path.to_owned(),
                doing: "reading a setting back",
                source,
            })?;
        if found != wanted {
            return Err(OpenError::Setting { path: path.to_owned(), setting, wanted, found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_sqlite_did_not_take_refuses_the_start() {
        // A database in memory cannot do WAL, and says nothing when asked for it: the very case of three
        // peers.
        let conn = Connection::open_in_memory().unwrap();
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        let error = read_back(&conn, Path::new("x"), Synchronous::Full, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "x would not be durable: the setting journal_mode is \"memory\" and must be \"wal\""
        );
    }

    #[test]
    fn every_setting_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.sqlite");
        let conn = open_writable(&path, &JOURNAL, Synchronous::Full, 0).unwrap();
        for (pragma, name) in [
            ("synchronous = NORMAL", "synchronous"),
            ("wal_autocheckpoint = 1000", "wal_autocheckpoint"),
            ("locking_mode = EXCLUSIVE", "locking_mode"),
        ] {
            let conn_of_its_own = open_writable(&path, &JOURNAL, Synchronous::Full, 0).unwrap();
            conn_of_its_own.execute_batch(&format!("PRAGMA {pragma}")).unwrap();
            let error = read_back(&conn_of_its_own, &path, Synchronous::Full, 0).unwrap_err();
            assert!(matches!(error, OpenError::Setting { setting, .. } if setting == name), "{error}");
        }
        read_back(&conn, &path, Synchronous::Full, 0).unwrap();
    }
}
