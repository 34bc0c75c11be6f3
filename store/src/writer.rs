//! The one thread that writes the journal, with group commit.
//!
//! ```text
//! append ──► channel ──► drain ──► BEGIN IMMEDIATE ──► check, write ──► COMMIT (fsync) ──► acks
//!                          ▲        each batch in turn                     │
//!                          └───────── batches that arrived meanwhile ◄─────┘
//! ```
//!
//! # Why no savepoints
//! A conflict must fail only itself. The design names savepoints for that; here each batch is **checked
//! completely before its first write** instead. Only this thread writes, so what was checked (bounds, key,
//! heads) is still true when the rows go in, and no row of a refused batch is ever written: there is nothing
//! to roll back to. A savepoint costs two more statements a batch and keeps a copy of every page it touches.
//! What is left are failures that no check foresees (disk full, I/O error, a foreign writer). They roll the
//! whole group back, and then every batch is tried again **alone**, so that one which cannot be written fails
//! only itself there too.
//!
//! # When COMMIT fails
//! Nothing is acknowledged. SQLite has rolled back, but frames may stand in the WAL, complete with their
//! commit mark, and a crash before they are overwritten would bring them to life at the next start. So the
//! writer *seals*: it commits a counter in `meta`, which overwrites those frames. If the seal holds and the
//! head is where it was, the batches are certainly not there (`Unavailable`); otherwise the outcome is
//! unknown (`Unknown`).

use std::collections::HashMap;

use perennial_engine::ids::{Position, Seq, StreamId};
use perennial_engine::journal::{
    AppendError, Appended, Batch, EventData, Hash, Head, ProjectionDelta, RecordedEvent, chain,
};
use perennial_engine::projection::Projections;
use rusqlite::{Connection, OptionalExtension as _, Statement, params};
use tokio::sync::{mpsc, oneshot};

use crate::checkpoint::Meter;
use crate::read::{self, signed};

/// How many batches wait for the writer at most; then `append` waits. Four full groups: more would only be
/// latency.
pub(crate) const WAITING_MAX: usize = 1_024;

/// The most batches of one commit. At 256 a commit takes about a millisecond, and more gains little (measured
/// in `reference/workflow-engines.md` §2).
pub(crate) const GROUP_MAX: usize = 256;

/// How many heads of streams are kept: about 100 bytes each, so 7 MB at most. Those in work are far fewer.
const HEADS_MAX: usize = 65_536;

/// The writer's page cache in KiB. It holds the ends of the table and of its index, where streams in work
/// are, and the leaves of the indexes by name that come round again; what it lacks is in the operating
/// system's cache. More costs: a commit that has balanced an index walks SQLite's whole cache
/// (`pcache1TruncateUnsafe`), which at 32 MiB was an eighth of the writer's time.
const CACHE_KIB: i64 = 8 * 1024;

type Outcome = Result<Appended, AppendError>;

/// A batch and who waits for it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) ack: oneshot::Sender<Outcome>,
}

/// Prepares a connection for writing.
pub(crate) fn configure(conn: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    if let Some(max_bytes) = max_bytes {
        let page_size: i64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = (signed(max_bytes) / page_size).max(1);
        conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
    }
    Ok(())
}

/// Writes until every sender is gone. Says through `ready` whether it could begin. Gives the meter back,
/// which keeps the checkpoint thread alive: two connections that close at the same moment both think that the
/// other one is left, and neither folds the WAL into the file.
pub(crate) fn run(
    conn: &Connection,
    mut requests: mpsc::Receiver<Request>,
    mut meter: Meter,
    ready: &std::sync::mpsc::Sender<rusqlite::Result<()>>,
) -> Meter {
    let mut writer = match Writer::new(conn) {
        Ok(writer) => writer,
        Err(error) => {
            let _ = ready.send(Err(error));
            return meter;
        }
    };
    let _ = ready.send(Ok(()));
    let mut group = Vec::with_capacity(GROUP_MAX);
    let mut outcomes = Vec::with_capacity(GROUP_MAX);
    while requests.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        outcomes.clear();
        writer.commit(&mut group, &mut outcomes);
        debug_assert_eq!(group.len(), outcomes.len(), "BUG: a batch without an outcome");
        for (request, outcome) in group.drain(..).zip(outcomes.drain(..)) {
            // A caller that has gone away does not need to know.
            let _ = request.ack.send(outcome);
        }
        meter.committed(std::mem::take(&mut writer.written_bytes));
        meter.restart_if_asked(conn);
    }
    meter
}

struct Writer<'c> {
    conn: &'c Connection,
    statements: Statements<'c>,
    head: Head,
    heads: Heads,
    /// Whether head and heads are what the file says.
    loaded: bool,
    written_bytes: u64,
    scratch: RecordedEvent,
}

struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    by_key: Statement<'c>,
    head_of: Statement<'c>,
    insert: Statement<'c>,
    close_step: Statement<'c>,
    open_step: Statement<'c>,
    remove_key: Statement<'c>,
    add_key: Statement<'c>,
    summary: Statement<'c>,
    remove_timer: Statement<'c>,
    set_timer: Statement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            by_key: conn.prepare("SELECT position FROM events WHERE idempotency_key = ?1")?,
            head_of: conn.prepare(
                "SELECT max(seq), origin FROM events INDEXED BY events_by_origin
                 WHERE origin = (SELECT position FROM events INDEXED BY events_first WHERE stream = ?1 AND seq = 1)",
            )?,
            insert: conn.prepare(&format!(
                "INSERT INTO events ({}, origin) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                read::COLUMNS
            ))?,
            close_step: conn.prepare("DELETE FROM open_steps WHERE stream = ?1 AND token = ?2")?,
            open_step: conn.prepare(
                "INSERT OR REPLACE INTO open_steps (stream, token, step, due_ms, deadline_ms, priority)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            remove_key: conn.prepare("DELETE FROM lookup WHERE key = ?1 AND stream = ?2")?,
            add_key: conn.prepare("INSERT OR IGNORE INTO lookup (key, stream) VALUES (?1, ?2)")?,
            summary: conn.prepare(
                "INSERT INTO summaries (stream, open, body, updated_at_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (stream) DO UPDATE SET
                 open = excluded.open, body = excluded.body, updated_at_ms = excluded.updated_at_ms",
            )?,
            remove_timer: conn.prepare("DELETE FROM timers WHERE stream = ?1 AND name = ?2")?,
            set_timer: conn
                .prepare("INSERT OR REPLACE INTO timers (stream, name, due_ms, wait_max_ms) VALUES (?1, ?2, ?3, ?4)")?,
        })
    }

    /// Removals first, so that a batch may close a step and open it again.
    fn project(&mut self, delta: &ProjectionDelta) -> rusqlite::Result<()> {
        for (stream, token) in &delta.closed {
            self.close_step.execute(params![stream.as_str(), signed(token.0)])?;
        }
        for row in &delta.opened {
            self.open_step.execute(params![
                row.stream.as_str(),
                signed(row.token.0),
                row.step,
                signed(row.due_ms),
                signed(row.deadline_ms),
                row.priority
            ])?;
        }
        for (key, stream) in &delta.keys_removed {
            self.remove_key.execute(params![key, stream.as_str()])?;
        }
        for (key, stream) in &delta.keys_added {
            self.add_key.execute(params![key, stream.as_str()])?;
        }
        for row in &delta.summaries {
            self.summary.execute(params![
                row.stream.as_str(),
                row.open,
                row.body,
                signed(row.updated_at_ms)
            ])?;
        }
        for (stream, name) in &delta.timers_removed {
            self.remove_timer.execute(params![stream.as_str(), name])?;
        }
        for row in &delta.timers_set {
            let times = (signed(row.due_ms), signed(row.wait_max_ms));
            self.set_timer.execute(params![row.stream.as_str(), row.name, times.0, times.1])?;
        }
        Ok(())
    }
}

/// Writes whole projections into empty tables, within the caller's transaction.
pub(crate) fn write_projections(conn: &Connection, projections: Projections) -> rusqlite::Result<()> {
    Statements::prepare(conn)?.project(&ProjectionDelta {
        opened: projections.open_steps,
        keys_added: projections.keys,
        summaries: projections.summaries,
        timers_set: projections.timers,
        ..ProjectionDelta::default()
    })
}

impl<'c> Writer<'c> {
    fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        let nothing = StreamId::parse("none/none").expect("BUG: a constant stream name");
        let mut writer = Self {
            conn,
            statements: Statements::prepare(conn)?,
            head: Head { position: Position(0), hash: Hash::GENESIS },
            heads: Heads::default(),
            loaded: false,
            written_bytes: 0,
            scratch: RecordedEvent {
                position: Position(0),
                stream: nothing,
                seq: Seq::NONE,
                data: EventData { kind: String::new(), version: 0, body: String::new() },
                recorded_at_ms: 0,
                key: None,
                hash: Hash::GENESIS,
            },
        };
        writer.load()?;
        Ok(writer)
    }

    /// Writes a group and says of each batch what became of it.
    fn commit(&mut self, group: &mut [Request], outcomes: &mut Vec<Outcome>) {
        if let Err(failure) = self.try_group(group, outcomes) {
            outcomes.clear();
            match failure {
                Failure::Before(_) if group.len() > 1 => self.commit_one_by_one(group, outcomes),
                Failure::Before(why) => outcomes.push(Err(AppendError::Unavailable { why })),
                Failure::Commit(error) => outcomes.extend(group.iter().map(|_| Err(error.clone()))),
            }
        }
    }

    fn commit_one_by_one(&mut self, group: &mut [Request], outcomes: &mut Vec<Outcome>) {
        for request in group {
            let mut outcome = Vec::with_capacity(1);
            self.commit(std::slice::from_mut(request), &mut outcome);
            outcomes.append(&mut outcome);
        }
    }

    fn try_group(&mut self, group: &mut [Request], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        let before = |error: rusqlite::Error| Failure::Before(error.to_string());
        if !self.loaded {
            self.load().map_err(before)?;
        }
        self.statements.begin.execute([]).map_err(before)?;
        let head = self.head;
        for request in group.iter_mut() {
            match self.apply(&mut request.batch) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    self.roll_back();
                    return Err(before(error));
                }
            }
        }
        match self.statements.commit.execute([]) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Commit(self.commit_failed(head, &error.to_string()))),
        }
    }

    /// Checks a batch, then writes it. The outer error is SQLite's and dooms the group.
    fn apply(&mut self, batch: &mut Batch) -> rusqlite::Result<Outcome> {
        if let Some(refusal) = self.refusal(batch)? {
            return Ok(Err(refusal));
        }
        let mut key = batch.key.take();
        for append in &mut batch.appends {
            self.scratch.stream = append.stream.clone();
            self.scratch.seq = append.expected;
            let origin = match self.head_of(&append.stream)?.origin {
                Position(0) => Position(self.head.position.0 + 1),
                origin => origin,
            };
            for data in &mut append.events {
                self.scratch.position.0 = self.head.position.0 + 1;
                self.scratch.seq = self.scratch.seq.next();
                self.scratch.recorded_at_ms = batch.recorded_at_ms;
                // The event is lent to the row and given back: no copy, and a batch that has to be tried
                // again is whole.
                std::mem::swap(&mut self.scratch.data, data);
                let first_key = key.take();
                self.scratch.key.clone_from(&first_key);
                self.scratch.hash = chain(&self.head.hash, &self.scratch);
                let inserted = self.insert(origin);
                std::mem::swap(&mut self.scratch.data, data);
                if first_key.is_some() {
                    batch.key = first_key;
                }
                inserted?;
                self.head = Head { position: self.scratch.position, hash: self.scratch.hash };
            }
            self.heads.set(append.stream.clone(), StreamHead { seq: self.scratch.seq, origin });
        }
        self.project(&batch.projection)?;
        Ok(Ok(Appended { last: self.head.position }))
    }

    /// Everything that can be wrong with a batch. The key first: who repeats an append whose answer was lost
    /// must hear that it was written, not that the stream has moved on.
    fn refusal(&mut self, batch: &Batch) -> rusqlite::Result<Option<AppendError>> {
        if let Err(refused) = batch.check() {
            return Ok(Some(refused));
        }
        if let Some(key) = &batch.key {
            let at: Option<i64> = self.statements.by_key.query_row([key], |row| row.get(0)).optional()?;
            if let Some(at) = at {
                return Ok(Some(AppendError::Duplicate { key: key.clone(), at: Position(at.max(0) as u64) }));
            }
        }
        for (stream, expected) in batch.expected() {
            let actual = self.head_of(stream)?.seq;
            if actual != expected {
                return Ok(Some(AppendError::Conflict { stream: stream.clone(), expected, actual }));
            }
        }
        Ok(None)
    }

    fn head_of(&mut self, stream: &StreamId) -> rusqlite::Result<StreamHead> {
        if let Some(head) = self.heads.get(stream) {
            return Ok(head);
        }
        let (seq, origin): (Option<i64>, Option<i64>) =
            self.statements.head_of.query_row([stream.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let unsigned = |number: Option<i64>| number.unwrap_or(0).max(0) as u64;
        let head = StreamHead { seq: Seq(unsigned(seq)), origin: Position(unsigned(origin)) };
        self.heads.set(stream.clone(), head);
        Ok(head)
    }

    fn insert(&mut self, origin: Position) -> rusqlite::Result<()> {
        let row = &self.scratch;
        // A page of the index and the row itself: about what the WAL grows by.
        self.written_bytes += 4_096 + row.data.body.len() as u64;
        self.statements
            .insert
            .execute(params![
                signed(row.position.0),
                row.stream.as_str(),
                signed(row.seq.0),
                row.data.kind,
                row.data.version,
                row.data.body,
                signed(row.recorded_at_ms),
                row.key,
                row.hash.0.as_slice(),
                signed(origin.0),
            ])
            .map(|_| ())
    }

    fn project(&mut self, delta: &ProjectionDelta) -> rusqlite::Result<()> {
        self.statements.project(delta)
    }

    fn load(&mut self) -> rusqlite::Result<()> {
        self.loaded = false;
        self.heads = Heads::default();
        self.head = read::head_row(self.conn)?;
        self.loaded = true;
        Ok(())
    }

    /// Undoes the transaction; what was remembered of it is forgotten and read again.
    fn roll_back(&mut self) {
        self.loaded = false;
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a rollback of the journal failed");
        }
    }

    /// See the module's essay.
    fn commit_failed(&mut self, before: Head, why: &str) -> AppendError {
        self.roll_back();
        let sealed = self
            .conn
            .execute("UPDATE meta SET value = value + 1 WHERE name = 'failed_commits'", [])
            .and_then(|_| self.load());
        match sealed {
            Ok(()) if self.head == before => AppendError::Unavailable { why: why.to_owned() },
            Ok(()) => {
                AppendError::Unknown { why: format!("{why}; the journal's head has moved all the same") }
            }
            Err(error) => AppendError::Unknown { why: format!("{why}; and then: {error}") },
        }
    }
}

enum Failure {
    /// Nothing was committed.
    Before(String),
    /// COMMIT itself failed; this is what everybody hears.
    Commit(AppendError),
}

/// Where a stream ends and where it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamHead {
    /// [`Seq::NONE`] for a stream that does not exist.
    seq: Seq,
    /// The position of its first event; 0 for a stream that does not exist.
    origin: Position,
}

/// The heads of the streams used last: two generations, each half of [`HEADS_MAX`]. When the young one is
/// full, the old one is dropped and the young one becomes old. Each head that is used moves to the young one.
#[derive(Default)]
struct Heads {
    young: HashMap<StreamId, StreamHead>,
    old: HashMap<StreamId, StreamHead>,
}

impl Heads {
    fn get(&mut self, stream: &StreamId) -> Option<StreamHead> {
        if let Some(&head) = self.young.get(stream) {
            return Some(head);
        }
        let (stream, head) = self.old.remove_entry(stream)?;
        self.set(stream, head);
        Some(head)
    }

    fn set(&mut self, stream: StreamId, head: StreamHead) {
        if self.young.len() >= HEADS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        // The old generation's entry, if there is one, is shadowed by the young one's.
        self.young.insert(stream, head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_of_heads_is_bounded_and_never_answers_with_an_old_head() {
        let stream = |n: usize| StreamId::parse(&format!("s/{n}")).unwrap();
        let at = |seq: u64| StreamHead { seq: Seq(seq), origin: Position(7) };
        let mut heads = Heads::default();
        heads.set(stream(0), at(1));
        for n in 1..HEADS_MAX * 2 {
            heads.set(stream(n), at(1));
            if n == HEADS_MAX / 4 {
                heads.set(stream(0), at(2));
            }
            assert!(heads.get(&stream(0)).is_none_or(|head| n < HEADS_MAX / 4 || head == at(2)));
        }
        assert!(heads.young.len() + heads.old.len() <= HEADS_MAX);
        assert_eq!(heads.get(&stream(1)), None, "what was not used for long is forgotten");
    }
}
