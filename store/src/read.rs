//! Reading the journal: the queries, in one place, and the connections they run on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use perennial_engine::ids::{Position, Seq, StreamId, Token};
use perennial_engine::journal::{
    EventData, Hash, Head, OpenStepRow, ReadError, RecordedEvent, SummaryRow, TimerRow, Which,
};
use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, params};
use tokio::sync::Semaphore;

use crate::file::{self, JOURNAL, OpenError};

/// How many reads run at once. Each holds a connection with a page cache; the machine this is made for has
/// two cores.
pub(crate) const READERS_MAX: usize = 4;

/// The columns [`event`] expects, in its order.
pub(crate) const COLUMNS: &str =
    "position, stream, seq, kind, version, body, recorded_at_ms, idempotency_key, hash";

/// Connections for reading, made when first needed and kept.
#[derive(Debug)]
pub(crate) struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Pool {
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let first = file::open_readable(path, &JOURNAL)?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            idle: Mutex::new(vec![first]),
            permits: Semaphore::new(READERS_MAX),
        }))
    }

    /// Closes the connections that no read is using.
    pub(crate) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs a read on a thread where it may block.
    pub(crate) async fn run<T, F>(self: &Arc<Self>, read: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    {
        let _permit = self.permits.acquire().await.expect("BUG: the semaphore is never closed");
        let pool = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let conn = match idle {
                Some(conn) => conn,
                None => file::open_readable(&pool.path, &JOURNAL)
                    .map_err(|error| ReadError::Unavailable { why: error.to_string() })?,
            };
            let answer = read(&conn);
            // A connection that failed is not kept: the next read opens a fresh one.
            if answer.is_ok() {
                pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            }
            answer
        });
        task.await.map_err(|error| ReadError::Unavailable { why: error.to_string() })?
    }
}

/// SQLite's words for a read that failed; `near` is the place reading had come to.
pub(crate) fn failed(error: &rusqlite::Error, near: Position) -> ReadError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ReadError::Damaged { position: near, why: error.to_string() }
        }
        _ => ReadError::Unavailable { why: error.to_string() },
    }
}

fn unavailable(error: rusqlite::Error) -> ReadError {
    failed(&error, Position(0))
}

/// What is wrong with a row, and with which column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadRow {
    pub(crate) column: &'static str,
    pub(crate) why: String,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.column, self.why)
    }
}

/// Parses one row of [`COLUMNS`]: nothing in the file is believed, everything can be damaged.
pub(crate) fn event(row: &Row<'_>) -> Result<RecordedEvent, BadRow> {
    Ok(RecordedEvent {
        position: Position(unsigned(row, 0, "position")?),
        stream: stream_id(text(row, 1, "stream")?, "stream")?,
        seq: Seq(unsigned(row, 2, "seq")?),
        data: EventData {
            kind: text(row, 3, "kind")?.to_owned(),
            version: unsigned(row, 4, "version")?
                .try_into()
                .map_err(|_| BadRow { column: "version", why: "beyond 32 bits".into() })?,
            body: text(row, 5, "body")?.to_owned(),
        },
        recorded_at_ms: unsigned(row, 6, "recorded_at_ms")?,
        key: match value(row, 7, "idempotency_key")? {
            ValueRef::Null => None,
            _ => Some(text(row, 7, "idempotency_key")?.to_owned()),
        },
        hash: match value(row, 8, "hash")? {
            ValueRef::Blob(bytes) => {
                Hash(bytes.try_into().map_err(|_| BadRow {
                    column: "hash",
                    why: format!("{} bytes and not 32", bytes.len()),
                })?)
            }
            other => {
                return Err(BadRow { column: "hash", why: format!("{} and not a blob", other.data_type()) });
            }
        },
    })
}

fn value<'r>(row: &'r Row<'_>, index: usize, column: &'static str) -> Result<ValueRef<'r>, BadRow> {
    row.get_ref(index).map_err(|error| BadRow { column, why: error.to_string() })
}

fn unsigned(row: &Row<'_>, index: usize, column: &'static str) -> Result<u64, BadRow> {
    let number = value(row, index, column)?.as_i64().map_err(|error| bad(column, &error))?;
    number.try_into().map_err(|_| BadRow { column, why: format!("{number} is negative") })
}

fn text<'r>(row: &'r Row<'_>, index: usize, column: &'static str) -> Result<&'r str, BadRow> {
    value(row, index, column)?.as_str().map_err(|error| bad(column, &error))
}

fn bad(column: &'static str, error: &FromSqlError) -> BadRow {
    BadRow { column, why: error.to_string() }
}

fn stream_id(name: &str, column: &'static str) -> Result<StreamId, BadRow> {
    StreamId::parse(name).map_err(|error| BadRow { column, why: error.to_string() })
}

/// A number as SQLite can compare it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A projection's time as it was meant: the largest number SQLite holds stands for never.
pub(crate) fn time(number: u64) -> u64 {
    if number >= i64::MAX as u64 { u64::MAX } else { number }
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn stream(
    conn: &Connection,
    stream: &StreamId,
    after: Seq,
    limit_: usize,
) -> Result<Vec<RecordedEvent>, ReadError> {
    let sql = select_events(
        "INDEXED BY events_by_origin
         WHERE origin = (SELECT position FROM events INDEXED BY events_first WHERE stream = ?1 AND seq = 1)
         AND seq > ?2 ORDER BY seq LIMIT ?3",
    );
    events(conn, &sql, params![stream.as_str(), signed(after.0), limit(limit_)], Position(0))
}

pub(crate) fn all(
    conn: &Connection,
    after: Position,
    limit_: usize,
) -> Result<Vec<RecordedEvent>, ReadError> {
    let sql = select_events("NOT INDEXED WHERE position > ?1 ORDER BY position LIMIT ?2");
    events(conn, &sql, params![signed(after.0), limit(limit_)], after)
}

fn select_events(rest: &str) -> String {
    format!("SELECT {COLUMNS} FROM events {rest}")
}

fn events(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    after: Position,
) -> Result<Vec<RecordedEvent>, ReadError> {
    let mut statement = conn.prepare_cached(sql).map_err(unavailable)?;
    let mut rows = statement.query(params).map_err(unavailable)?;
    let mut found: Vec<RecordedEvent> = Vec::new();
    loop {
        let near = Position(found.last().map_or(after, |event| event.position).0 + 1);
        let Some(row) = rows.next().map_err(|error| failed(&error, near))? else { return Ok(found) };
        found.push(event(row).map_err(|bad| damaged(row, &bad))?);
    }
}

fn damaged(row: &Row<'_>, bad: &BadRow) -> ReadError {
    let position = Position(row.get_ref(0).ok().and_then(|v| v.as_i64().ok()).map_or(0, |n| n.max(0) as u64));
    ReadError::Damaged { position, why: bad.to_string() }
}

pub(crate) fn head(conn: &Connection) -> Result<Head, ReadError> {
    head_row(conn).map_err(unavailable)
}

pub(crate) fn head_row(conn: &Connection) -> rusqlite::Result<Head> {
    let mut statement =
        conn.prepare_cached("SELECT position, hash FROM events NOT INDEXED ORDER BY position DESC LIMIT 1")?;
    let row =
        statement.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?))).optional()?;
    Ok(row.map_or(Head { position: Position(0), hash: Hash::GENESIS }, |(position, hash)| Head {
        position: Position(position.max(0) as u64),
        hash: Hash(hash),
    }))
}

/// Rows of a projection. A bad one is reported as damage at position 0: rebuilding repairs it.
fn rows<T>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    parse: impl Fn(&Row<'_>) -> Result<T, BadRow>,
) -> Result<Vec<T>, ReadError> {
    let mut statement = conn.prepare_cached(sql).map_err(unavailable)?;
    let mut rows = statement.query(params).map_err(unavailable)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(unavailable)? {
        found.push(parse(row).map_err(|bad| ReadError::Damaged {
            position: Position(0),
            why: format!("a projection is damaged ({bad}); rebuild the projections"),
        })?);
    }
    Ok(found)
}

pub(crate) fn open_steps(
    conn: &Connection,
    due_ms: u64,
    after: Option<(StreamId, Token)>,
    limit_: usize,
) -> Result<Vec<OpenStepRow>, ReadError> {
    let (stream, token) = after.as_ref().map_or(("", 0), |(stream, token)| (stream.as_str(), token.0));
    rows(
        conn,
        "SELECT stream, token, step, due_ms, deadline_ms, priority FROM open_steps
         WHERE (stream, token) > (?1, ?2) AND due_ms <= ?3 ORDER BY stream, token LIMIT ?4",
        params![stream, signed(token), signed(due_ms), limit(limit_)],
        |row| {
            Ok(OpenStepRow {
                stream: stream_id(text(row, 0, "stream")?, "stream")?,
                token: Token(unsigned(row, 1, "token")?),
                step: text(row, 2, "step")?.to_owned(),
                due_ms: time(unsigned(row, 3, "due_ms")?),
                deadline_ms: time(unsigned(row, 4, "deadline_ms")?),
                priority: value(row, 5, "priority")?
                    .as_i64()
                    .ok()
                    .and_then(|number| number.try_into().ok())
                    .ok_or_else(|| BadRow { column: "priority", why: "no 32-bit number".into() })?,
            })
        },
    )
}

pub(crate) fn timers(
    conn: &Connection,
    due_ms: u64,
    after: Option<&TimerRow>,
    limit_: usize,
) -> Result<Vec<TimerRow>, ReadError> {
    let (from_ms, stream, name) =
        after.map_or((0, "", ""), |row| (row.due_ms, row.stream.as_str(), row.name.as_str()));
    rows(
        conn,
        "SELECT due_ms, stream, name, wait_max_ms FROM timers
         WHERE (due_ms, stream, name) > (?1, ?2, ?3) AND due_ms <= ?4 ORDER BY due_ms, stream, name LIMIT ?5",
        params![signed(from_ms), stream, name, signed(due_ms), limit(limit_)],
        |row| {
            Ok(TimerRow {
                due_ms: time(unsigned(row, 0, "due_ms")?),
                stream: stream_id(text(row, 1, "stream")?, "stream")?,
                name: text(row, 2, "name")?.to_owned(),
                wait_max_ms: time(unsigned(row, 3, "wait_max_ms")?),
            })
        },
    )
}

pub(crate) fn lookup(conn: &Connection, key: &str) -> Result<Vec<StreamId>, ReadError> {
    rows(conn, "SELECT stream FROM lookup WHERE key = ?1 ORDER BY stream", params![key], |row| {
        stream_id(text(row, 0, "stream")?, "stream")
    })
}

/// A page of the whole lookup table, in order.
pub(crate) fn lookup_all(
    conn: &Connection,
    after: Option<&(String, StreamId)>,
    limit_: usize,
) -> Result<Vec<(String, StreamId)>, ReadError> {
    let (key, stream) = after.map_or(("", ""), |(key, stream)| (key.as_str(), stream.as_str()));
    rows(
        conn,
        "SELECT key, stream FROM lookup WHERE (key, stream) > (?1, ?2) ORDER BY key, stream LIMIT ?3",
        params![key, stream, limit(limit_)],
        |row| Ok((text(row, 0, "key")?.to_owned(), stream_id(text(row, 1, "stream")?, "stream")?)),
    )
}

pub(crate) fn summaries(
    conn: &Connection,
    category: &str,
    which: Which,
    after: Option<&StreamId>,
    limit_: usize,
) -> Result<Vec<SummaryRow>, ReadError> {
    // '0' follows '/' in ASCII: the range holds exactly the names that begin with `<category>/`.
    let from = format!("{category}/");
    let (low, high) = (after.map_or(from.as_str(), StreamId::as_str).max(&from), format!("{category}0"));
    let only = match which {
        Which::All => "",
        Which::Open => "AND open = 1",
    };
    let sql = format!(
        "SELECT stream, open, body, updated_at_ms FROM summaries
         WHERE stream > ?1 AND stream < ?2 {only} ORDER BY stream LIMIT ?3"
    );
    rows(conn, &sql, params![low, high, limit(limit_)], summary)
}

/// A page of the whole summaries table, in order of stream.
pub(crate) fn summaries_all(
    conn: &Connection,
    after: Option<&StreamId>,
    limit_: usize,
) -> Result<Vec<SummaryRow>, ReadError> {
    rows(
        conn,
        "SELECT stream, open, body, updated_at_ms FROM summaries WHERE stream > ?1 ORDER BY stream LIMIT ?2",
        params![after.map_or("", StreamId::as_str), limit(limit_)],
        summary,
    )
}

fn summary(row: &Row<'_>) -> Result<SummaryRow, BadRow> {
    Ok(SummaryRow {
        stream: stream_id(text(row, 0, "stream")?, "stream")?,
        open: unsigned(row, 1, "open")? != 0,
        body: text(row, 2, "body")?.to_owned(),
        updated_at_ms: time(unsigned(row, 3, "updated_at_ms")?),
    })
}
