//! Reads the whole journal again and reports every difference from the state as it was written.
//!
//! The defects, and how each is found:
//!
//! - A changed event: by its hash and by the hash of the next event.
//! - A missing or inserted event: positions are dense, and each hash chains to the one before.
//! - A cut end: by a head that was noted elsewhere ([`verify_against`]). From the file alone only where a
//!   projection still names an event that is gone; whoever cuts carefully leaves no such row.
//! - A changed schema, such as a missing trigger that keeps events from being changed: by the schema that
//!   this build makes.
//! - A broken stream: sequence numbers are dense in each stream, read through the stream index, and each
//!   event names the place of the first event of its stream.
//! - A wrong index: its entries and the rows must give the same sum.
//! - A key used twice: by neighbours in the key index.
//! - A torn or overwritten page: by SQLite's own `quick_check`, and by every read that fails.
//! - A stale projection: everything is folded again and compared row by row.
//!
//! Verification needs no lock: it reads one snapshot, beside a running engine if there is one. Events are
//! read one at a time; only the state of the [`Projector`] grows with the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use perennial_engine::ids::{Position, Seq, StreamId};
use perennial_engine::journal::{
    Hash, Head, OpenStepRow, ReadError, RecordedEvent, SummaryRow, TimerRow, chain,
};
use perennial_engine::projection::Projections;
use rusqlite::{Connection, OptionalExtension as _};
use serde::Serialize;

use crate::file::{self, JOURNAL, OpenError};
use crate::projector::Projector;
use crate::{read, schema};

/// How many findings a report holds; the rest are counted. A journal with more is beyond reading them.
pub const FINDINGS_MAX: usize = 200;

/// How far the time of a summary may be behind the newest event's.
const TIMES_DIFFER_MS: u64 = 60_000;

/// How many rows of a projection are read at once.
const PAGE: usize = 1_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The truth is whole; what follows from it is not. `rebuild` repairs it.
    Stale,
    /// The record is whole, but a stream in it cannot be folded by this build.
    Unfoldable,
    /// What stands in the file is not what was written. Restore from a backup; never continue on it.
    Damaged,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stale => "stale",
            Self::Unfoldable => "unfoldable",
            Self::Damaged => "damaged",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The event it is about, if it is about one.
    pub position: Option<Position>,
    /// The stream it is about, if it is about one.
    pub stream: Option<StreamId>,
    /// What is wrong, as a clause.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.position, &self.stream) {
            (Some(position), _) => write!(f, "position {position}: {}", self.what),
            (None, Some(stream)) => write!(f, "{stream}: {}", self.what),
            (None, None) => f.write_str(&self.what),
        }
    }
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// How many events were read.
    pub events: u64,
    /// How many streams there are.
    pub streams: u64,
    /// The end of the journal as it was read.
    pub head: Head,
    /// What is wrong, in the order it was found, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many findings there are beyond those.
    pub more_findings: u64,
    /// How many heads that were noted before were compared.
    #[serde(skip_serializing_if = "is_zero")]
    pub heads: u64,
    /// Of an export: how many lines are redacted, and so not proven.
    #[serde(skip_serializing_if = "is_zero")]
    pub redacted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl VerifyReport {
    pub(crate) fn new() -> Self {
        Self {
            events: 0,
            streams: 0,
            head: Head { position: Position(0), hash: Hash::GENESIS },
            findings: Vec::new(),
            more_findings: 0,
            heads: 0,
            redacted: 0,
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// The worst finding's severity; none if nothing is wrong.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    pub(crate) fn add(
        &mut self,
        severity: Severity,
        position: Option<Position>,
        stream: Option<&StreamId>,
        what: impl Into<String>,
    ) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { severity, position, stream: stream.cloned(), what: what.into() });
        } else {
            self.more_findings += 1;
        }
    }
}

/// Verifies events and projections.
///
/// # Errors
/// [`OpenError`] when the file cannot be opened as a journal at all. A defect inside the file is a finding.
pub fn verify(path: &Path, projector: impl Projector) -> Result<VerifyReport, OpenError> {
    check(path, Some(projector), &[])
}

/// The same, and compares the journal with heads that were noted before, elsewhere.
///
/// # Errors
/// [`OpenError`] when the file cannot be opened as a journal at all. A defect inside the file is a finding.
pub fn verify_against(
    path: &Path,
    projector: impl Projector,
    heads: &[Head],
) -> Result<VerifyReport, OpenError> {
    check(path, Some(projector), heads)
}

/// Verifies the last events of a journal, its schema, and that it goes as far as these heads: what can be
/// looked at whenever an engine starts, however long the journal is.
///
/// # Errors
/// [`OpenError`] when the file cannot be opened as a journal at all. A defect inside the file is a finding.
pub fn verify_tail(path: &Path, events: u64, heads: &[Head]) -> Result<VerifyReport, OpenError> {
    let conn = snapshot(path)?;
    let mut report = VerifyReport::new();
    let outcome = check_schema(&conn, &mut report);
    unreadable(&mut report, "the schema", outcome);
    let outcome = check_tail(&conn, &mut report, events);
    unreadable(&mut report, "the last events", outcome);
    let outcome = check_rows_without_events(&conn, &mut report, None);
    unreadable(&mut report, "the projections", outcome);
    compare_heads(&conn, &mut report, heads);
    Ok(report)
}

/// Whether projections name events that are gone: then the end of the journal was cut off, and the
/// projections are what shows it.
///
/// # Errors
/// [`OpenError`] when the file cannot be opened as a journal at all.
pub fn is_cut_off(path: &Path) -> Result<Option<Finding>, OpenError> {
    let conn = snapshot(path)?;
    let mut report = VerifyReport::new();
    let outcome = check_rows_without_events(&conn, &mut report, None);
    unreadable(&mut report, "the projections", outcome);
    Ok(report.findings.into_iter().next())
}

/// Verifies the events only, without their meaning.
///
/// # Errors
/// [`OpenError`] when the file cannot be opened as a journal at all. A defect inside the file is a finding.
pub fn verify_events(path: &Path) -> Result<VerifyReport, OpenError> {
    check(path, None::<NoMeaning>, &[])
}

enum NoMeaning {}

impl Projector for NoMeaning {
    fn project(&mut self, _event: &RecordedEvent) -> Result<(), String> {
        match *self {}
    }
    fn finish(self) -> Projections {
        match self {}
    }
}

/// One snapshot for all of it, so that an engine that writes meanwhile is not taken for damage.
fn snapshot(path: &Path) -> Result<Connection, OpenError> {
    let conn = file::open_readable(path, &JOURNAL)?;
    conn.execute_batch("BEGIN").map_err(|source| OpenError::Sqlite {
        path: path.to_owned(),
        doing: "beginning to read",
        source,
    })?;
    Ok(conn)
}

/// Each check goes as far as it can: what stops one is a finding, and the next one still says what it sees.
fn unreadable(report: &mut VerifyReport, what: &str, outcome: rusqlite::Result<()>) {
    if let Err(error) = outcome {
        report.add(Severity::Damaged, None, None, format!("SQLite cannot read {what}: {error}"));
    }
}

fn check<P: Projector>(path: &Path, projector: Option<P>, heads: &[Head]) -> Result<VerifyReport, OpenError> {
    let conn = snapshot(path)?;
    let mut report = VerifyReport::new();
    let outcome = check_schema(&conn, &mut report);
    unreadable(&mut report, "the schema", outcome);
    let is_folded = projector.is_some();
    let outcome = quick_check(&conn, &mut report);
    unreadable(&mut report, "the file", outcome);
    let sums = check_events_and_fold(&conn, &mut report, projector);
    compare_heads(&conn, &mut report, heads);
    if is_folded && !sums.partial {
        let outcome = check_rows_without_events(&conn, &mut report, Some(sums.newest_ms));
        unreadable(&mut report, "the projections", outcome);
    }
    let outcome = check_stream_index(&conn, &mut report, sums);
    unreadable(&mut report, "the index of streams", outcome);
    let outcome = check_first_index(&conn, &mut report, sums);
    unreadable(&mut report, "the index of stream names", outcome);
    let outcome = check_origins(&conn, &mut report);
    unreadable(&mut report, "the streams' first events", outcome);
    let outcome = check_key_index(&conn, &mut report, sums);
    unreadable(&mut report, "the index of idempotency keys", outcome);
    Ok(report)
}

fn check_schema(conn: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    for what in schema::differences(conn)? {
        report.add(Severity::Damaged, None, None, what);
    }
    Ok(())
}

/// Compares the events with heads that were noted before. Each event's hash stands for all before it.
fn compare_heads(conn: &Connection, report: &mut VerifyReport, heads: &[Head]) {
    for head in heads {
        let at = Some(head.position);
        let found = match hash_at(conn, head.position) {
            Ok(found) => found,
            Err(error) => {
                report.add(Severity::Damaged, at, None, format!("SQLite cannot read the event: {error}"));
                continue;
            }
        };
        report.heads += 1;
        match found {
            Some(hash) if hash == head.hash => {}
            Some(hash) => {
                let what = format!(
                    "its hash is {}, and {} was noted: it is another journal, or it was changed",
                    hash.to_hex(),
                    head.hash.to_hex()
                );
                report.add(Severity::Damaged, at, None, what);
            }
            None => {
                let what = format!(
                    "it was noted, and the journal ends at position {}: the events behind that are missing",
                    last_position(conn).unwrap_or_default()
                );
                report.add(Severity::Damaged, at, None, what);
            }
        }
    }
}

fn hash_at(conn: &Connection, position: Position) -> rusqlite::Result<Option<Hash>> {
    let hash = conn
        .prepare_cached("SELECT hash FROM events WHERE position = ?1")?
        .query_row([i64::try_from(position.0).unwrap_or(i64::MAX)], |row| row.get::<_, [u8; 32]>(0))
        .optional()?;
    Ok(hash.map(Hash).or((position.0 == 0).then_some(Hash::GENESIS)))
}

fn last_position(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT coalesce(max(position), 0) FROM events", [], |row| row.get(0))
}

/// Checks the chain of the last events.
fn check_tail(conn: &Connection, report: &mut VerifyReport, events: u64) -> rusqlite::Result<()> {
    let last = last_position(conn)?;
    let first = last.saturating_sub(i64::try_from(events).unwrap_or(i64::MAX)).max(0);
    let before = hash_at(conn, Position(first.max(0) as u64))?;
    let Some(before) = before else {
        let at = Some(Position(first.max(0) as u64));
        report.add(Severity::Damaged, at, None, "the event is missing");
        return Ok(());
    };
    let (mut sums, mut last) = (Sums::default(), first);
    let mut links = Chain { stored: before, computed: before };
    walk(conn, report, &mut None::<Fold<NoMeaning>>, &mut sums, &mut links, &mut last)
}

/// Looks for rows of projections whose events are gone. `newest_ms` is the newest time of all events, where
/// all were read.
fn check_rows_without_events(
    conn: &Connection,
    report: &mut VerifyReport,
    newest_ms: Option<u64>,
) -> rusqlite::Result<()> {
    const CUT: &str = "the end of the journal was cut off";
    let mut statement = conn.prepare(
        "SELECT stream, token FROM open_steps AS step WHERE NOT EXISTS (
           SELECT 1 FROM events AS first JOIN events AS event ON event.origin = first.position
           WHERE first.stream = step.stream AND first.seq = 1 AND event.seq = step.token)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (stream, token): (String, i64) = (row.get(0)?, row.get(1)?);
        let what = format!("an open step began with event {token} of it, which is missing: {CUT}");
        report.add(Severity::Damaged, None, StreamId::parse(&stream).ok().as_ref(), what);
    }
    for table in ["timers", "summaries"] {
        let mut statement = conn.prepare(&format!(
            "SELECT DISTINCT stream FROM {table} AS row WHERE NOT EXISTS (
               SELECT 1 FROM events WHERE stream = row.stream AND seq = 1)"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let stream: String = row.get(0)?;
            let what = format!("{table} know it, and it has no events: {CUT}");
            report.add(Severity::Damaged, None, StreamId::parse(&stream).ok().as_ref(), what);
        }
    }
    if let Some(newest_ms) = newest_ms {
        let updated: Option<i64> =
            conn.query_row("SELECT max(updated_at_ms) FROM summaries", [], |row| row.get(0))?;
        // Both are the time of a decision, or nearly.
        let most = newest_ms.saturating_add(TIMES_DIFFER_MS);
        if updated.is_some_and(|updated| updated.max(0) as u64 > most) {
            let what = format!("a summary is newer than every event: {CUT}");
            report.add(Severity::Damaged, None, None, what);
        }
    }
    Ok(())
}

fn quick_check(conn: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("PRAGMA quick_check(20)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            report.add(Severity::Damaged, None, None, format!("SQLite's quick_check says: {line}"));
        }
    }
    Ok(())
}

/// Sums over the rows. The indexes must give the same sums, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sums {
    rows: u64,
    streams: u64,
    firsts: u64,
    names: u64,
    keyed: u64,
    keys: u64,
    /// The newest time of all rows.
    newest_ms: u64,
    /// Some rows could not be read: the sums say nothing.
    partial: bool,
}

fn mix(name: &str, a: u64, b: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&a.to_le_bytes()).update(&b.to_le_bytes()).update(name.as_bytes());
    let bytes = hasher.finalize();
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("BUG: a hash has 32 bytes"))
}

fn check_events_and_fold<P: Projector>(
    conn: &Connection,
    report: &mut VerifyReport,
    projector: Option<P>,
) -> Sums {
    let mut fold = projector.map(|projector| Fold { projector, broken: BTreeSet::new() });
    let sums = check_events(conn, report, &mut fold);
    if let Some(fold) = fold {
        let Fold { projector, broken } = fold;
        compare(conn, report, projector.finish(), &broken);
    }
    sums
}

struct Fold<P> {
    projector: P,
    broken: BTreeSet<StreamId>,
}

impl<P: Projector> Fold<P> {
    fn project(&mut self, event: &RecordedEvent, report: &mut VerifyReport) {
        if self.broken.contains(&event.stream) {
            return;
        }
        if let Err(why) = self.projector.project(event) {
            self.broken.insert(event.stream.clone());
            let what = format!("cannot be folded: {why}");
            report.add(Severity::Unfoldable, Some(event.position), Some(&event.stream), what);
        }
    }
}

/// Whether a hash is what the events before it say. A changed hash column breaks its own row and the next
/// one, although only one is wrong: so the next one may chain to what was stored or to what was computed.
struct Chain {
    stored: Hash,
    computed: Hash,
}

impl Chain {
    fn holds(&mut self, event: &RecordedEvent) -> bool {
        let by_stored = chain(&self.stored, event);
        let holds = by_stored == event.hash
            || (self.computed != self.stored && chain(&self.computed, event) == event.hash);
        self.computed = if holds { event.hash } else { by_stored };
        self.stored = event.hash;
        holds
    }
}

fn check_events<P: Projector>(
    conn: &Connection,
    report: &mut VerifyReport,
    fold: &mut Option<Fold<P>>,
) -> Sums {
    let mut sums = Sums::default();
    let mut links = Chain { stored: Hash::GENESIS, computed: Hash::GENESIS };
    let mut last = 0_i64;
    // Begun again behind every row that SQLite cannot read, as often as that happens.
    for _ in 0..=FINDINGS_MAX {
        match walk(conn, report, fold, &mut sums, &mut links, &mut last) {
            Ok(()) => return sums,
            Err(error) => {
                last += 1;
                sums.partial = true;
                let at = Some(Position(last.max(0) as u64));
                report.add(Severity::Damaged, at, None, format!("SQLite cannot read the event: {error}"));
            }
        }
    }
    let at = Some(Position(last.max(0) as u64));
    report.add(Severity::Damaged, at, None, "too many events cannot be read; the rest was not looked at");
    sums
}

fn walk<P: Projector>(
    conn: &Connection,
    report: &mut VerifyReport,
    fold: &mut Option<Fold<P>>,
    sums: &mut Sums,
    links: &mut Chain,
    last: &mut i64,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(&format!(
        "SELECT {}, origin FROM events NOT INDEXED WHERE position > ?1 ORDER BY position",
        read::COLUMNS
    ))?;
    let mut rows = statement.query([*last])?;
    while let Some(row) = rows.next()? {
        let position: i64 = row.get(0)?;
        let at = Some(Position(position.max(0) as u64));
        if position != *last + 1 {
            let what = format!("positions {} to {} are missing", *last + 1, position - 1);
            report.add(Severity::Damaged, at, None, what);
        }
        *last = position;
        report.events += 1;
        match read::event(row) {
            Ok(event) => {
                if !links.holds(&event) {
                    let what = "its hash does not follow from the hash before it and its fields";
                    report.add(Severity::Damaged, at, Some(&event.stream), what);
                }
                report.head = Head { position: event.position, hash: event.hash };
                sums.rows = sums.rows.wrapping_add(1);
                sums.newest_ms = sums.newest_ms.max(event.recorded_at_ms);
                let origin: i64 = row.get(9)?;
                sums.streams = sums.streams.wrapping_add(place(origin, event.seq.0, event.position.0));
                if event.seq == Seq(1) {
                    sums.firsts += 1;
                    sums.names = sums.names.wrapping_add(mix(event.stream.as_str(), 1, event.position.0));
                }
                if let Some(key) = &event.key {
                    sums.keyed += 1;
                    sums.keys = sums.keys.wrapping_add(mix(key, 0, event.position.0));
                }
                if let Some(fold) = fold {
                    fold.project(&event, report);
                }
            }
            Err(bad) => {
                sums.partial = true;
                report.add(Severity::Damaged, at, None, format!("a column cannot be read: {bad}"));
                // What can be told of its hash still anchors the next row.
                if let Ok(hash) = row.get::<_, [u8; 32]>(8) {
                    (links.stored, links.computed) = (Hash(hash), Hash(hash));
                }
            }
        }
    }
    Ok(())
}

/// An entry of the stream index, for a sum.
fn place(origin: i64, seq: u64, position: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&origin.to_le_bytes()).update(&seq.to_le_bytes()).update(&position.to_le_bytes());
    let bytes = hasher.finalize();
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("BUG: a hash has 32 bytes"))
}

fn check_stream_index(conn: &Connection, report: &mut VerifyReport, sums: Sums) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(
        "SELECT origin, seq, position FROM events INDEXED BY events_by_origin ORDER BY origin, seq",
    )?;
    let mut rows = statement.query([])?;
    let (mut current, mut last) = (None, 0_i64);
    let (mut count, mut sum) = (0_u64, 0_u64);
    while let Some(row) = rows.next()? {
        let (origin, seq, position): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if current != Some(origin) {
            report.streams += 1;
            (current, last) = (Some(origin), 0);
        }
        if seq != last + 1 {
            let name: Option<String> = conn
                .prepare_cached("SELECT stream FROM events NOT INDEXED WHERE position = ?1")?
                .query_row([position], |row| row.get(0))
                .optional()?;
            let id = name.as_deref().and_then(|name| StreamId::parse(name).ok());
            let what = format!("stream {:?} has event {seq} after event {last}", name.unwrap_or_default());
            report.add(Severity::Damaged, Some(Position(position.max(0) as u64)), id.as_ref(), what);
        }
        last = seq;
        count += 1;
        sum = sum.wrapping_add(place(origin, seq.max(0) as u64, position.max(0) as u64));
    }
    if !sums.partial && (count, sum) != (sums.rows, sums.streams) {
        report.add(Severity::Damaged, None, None, "the index of streams and the events do not say the same");
    }
    Ok(())
}

fn check_first_index(conn: &Connection, report: &mut VerifyReport, sums: Sums) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(
        "SELECT stream, position FROM events INDEXED BY events_first WHERE seq = 1 ORDER BY stream",
    )?;
    let mut rows = statement.query([])?;
    let mut before: Option<Vec<u8>> = None;
    let (mut count, mut sum) = (0_u64, 0_u64);
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec();
        let position: i64 = row.get(1)?;
        if before.as_ref() == Some(&name) {
            let what = format!("stream {:?} begins twice", String::from_utf8_lossy(&name));
            report.add(Severity::Damaged, Some(Position(position.max(0) as u64)), None, what);
        }
        count += 1;
        sum = sum.wrapping_add(mix(&String::from_utf8_lossy(&name), 1, position.max(0) as u64));
        before = Some(name);
    }
    if !sums.partial && (count, sum) != (sums.firsts, sums.names) {
        let what = "the index of stream names and the events do not say the same";
        report.add(Severity::Damaged, None, None, what);
    }
    Ok(())
}

/// Whether each event's origin is the first event of its own stream. The hash does not cover it, because it
/// follows from the rest.
fn check_origins(conn: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(
        "SELECT event.position FROM events AS event NOT INDEXED
         LEFT JOIN events AS first NOT INDEXED ON first.position = event.origin
         WHERE first.position IS NULL OR first.seq <> 1 OR first.stream <> event.stream
         ORDER BY event.position",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let position: i64 = row.get(0)?;
        let what = "its origin is not the first event of its stream";
        report.add(Severity::Damaged, Some(Position(position.max(0) as u64)), None, what);
    }
    Ok(())
}

fn check_key_index(conn: &Connection, report: &mut VerifyReport, sums: Sums) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(
        "SELECT idempotency_key, position FROM events INDEXED BY events_by_key
         WHERE idempotency_key IS NOT NULL ORDER BY idempotency_key",
    )?;
    let mut rows = statement.query([])?;
    let mut before: Option<Vec<u8>> = None;
    let (mut count, mut sum) = (0_u64, 0_u64);
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec();
        let position: i64 = row.get(1)?;
        if before.as_ref() == Some(&key) {
            let what = format!("the idempotency key {:?} is used twice", String::from_utf8_lossy(&key));
            report.add(Severity::Damaged, Some(Position(position.max(0) as u64)), None, what);
        }
        count += 1;
        sum = sum.wrapping_add(mix(&String::from_utf8_lossy(&key), 0, position.max(0) as u64));
        before = Some(key);
    }
    if !sums.partial && (count, sum) != (sums.keyed, sums.keys) {
        report.add(
            Severity::Damaged,
            None,
            None,
            "the index of idempotency keys and the events do not say the same",
        );
    }
    Ok(())
}

/// Compares what was folded with what is stored, except for streams that could not be folded.
fn compare(conn: &Connection, report: &mut VerifyReport, folded: Projections, broken: &BTreeSet<StreamId>) {
    let never = |mut row: OpenStepRow| {
        (row.due_ms, row.deadline_ms) = (read::time(row.due_ms), read::time(row.deadline_ms));
        ((row.stream.clone(), row.token), row)
    };
    let steps = folded.open_steps.into_iter().map(never).collect();
    let steps_page = |after: Option<&_>| {
        let rows = read::open_steps(conn, u64::MAX, after.cloned(), PAGE)?;
        Ok(rows.into_iter().map(|row| ((row.stream.clone(), row.token), row)).collect())
    };
    compare_rows(report, "open step", steps, steps_page, |(stream, _)| stream, broken);

    let keys = folded.keys.into_iter().map(|entry| (entry, ())).collect();
    let keys_page = |after: Option<&(String, StreamId)>| {
        Ok(read::lookup_all(conn, after, PAGE)?.into_iter().map(|entry| (entry, ())).collect())
    };
    // A key of a broken stream may stand under another stream's name, so its own name is what is looked at.
    compare_rows(report, "lookup key", keys, keys_page, |(_, stream)| stream, broken);

    let never = |row: TimerRow| {
        let (due_ms, wait_max_ms) = (read::time(row.due_ms), read::time(row.wait_max_ms));
        (TimerRow { due_ms, wait_max_ms, ..row }, ())
    };
    let timers = folded.timers.into_iter().map(never).collect();
    let timers_page = |after: Option<&TimerRow>| {
        Ok(read::timers(conn, u64::MAX, after, PAGE)?.into_iter().map(|row| (row, ())).collect())
    };
    compare_rows(report, "timer", timers, timers_page, |row| &row.stream, broken);

    // Not the time of the last change: the engine compares a summary once a batch, a fold once an event, and
    // a change that an event makes and the next one of the same batch takes back is seen by one of them only.
    let timeless = |row: SummaryRow| (row.stream.clone(), SummaryRow { updated_at_ms: 0, ..row });
    let summaries = folded.summaries.into_iter().map(timeless).collect();
    let summaries_page = |after: Option<&_>| {
        let rows = read::summaries_all(conn, after, PAGE)?;
        Ok(rows.into_iter().map(timeless).collect())
    };
    compare_rows(report, "summary", summaries, summaries_page, |stream| stream, broken);
}

fn compare_rows<K: Ord + Clone + fmt::Debug, V: PartialEq>(
    report: &mut VerifyReport,
    what: &str,
    mut folded: BTreeMap<K, V>,
    page: impl Fn(Option<&K>) -> Result<Vec<(K, V)>, ReadError>,
    stream_of: impl Fn(&K) -> &StreamId,
    broken: &BTreeSet<StreamId>,
) {
    let mut after: Option<K> = None;
    loop {
        let rows = match page(after.as_ref()) {
            Ok(rows) => rows,
            Err(error) => {
                report.add(Severity::Stale, None, None, format!("the {what} rows cannot be read: {error}"));
                return;
            }
        };
        let Some((last, _)) = rows.last() else { break };
        after = Some(last.clone());
        for (key, stored) in rows {
            let expected = folded.remove(&key);
            let stream = stream_of(&key);
            if broken.contains(stream) || expected.as_ref() == Some(&stored) {
                continue;
            }
            let verb = if expected.is_some() { "differs from" } else { "does not follow from" };
            report.add(Severity::Stale, None, Some(stream), format!("the {what} {key:?} {verb} the events"));
        }
    }
    for key in folded.into_keys() {
        let stream = stream_of(&key);
        if !broken.contains(stream) {
            report.add(Severity::Stale, None, Some(stream), format!("the {what} {key:?} is missing"));
        }
    }
}
