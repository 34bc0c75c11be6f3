//! The guarantees that only the journal on SQLite gives: one engine, durability across `kill -9`, append-only
//! tables, refusal of foreign files, verification.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use perennial_engine::ids::{Position, Seq, StreamId, Token};
use perennial_engine::journal::{
    AppendError, Batch, EventData, Head, Journal, OpenStepRow, ProjectionDelta, ReadError, RecordedEvent,
    StreamAppend, SummaryRow, TimerRow,
};
use perennial_engine::projection::Projections;
use perennial_store::backup::{BackupError, backup};
use perennial_store::conformance::journal::{batch, event, read_checked, stream};
use perennial_store::export::{Filter, export, export_redacted, verify_export};
use perennial_store::rebuild::{RebuildError, rebuild};
use perennial_store::verify::{
    Severity, VerifyReport, is_cut_off, verify, verify_against, verify_events, verify_tail,
};
use perennial_store::{JournalReader, OpenError, Options, Projector, SqliteJournal};
use rusqlite::Connection;
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.sqlite");
    (dir, path)
}

fn open(path: &Path) -> SqliteJournal {
    SqliteJournal::open(path, Options::default()).unwrap()
}

// ---- opening ------------------------------------------------------------------------------------

/// The names and modes of the files in a directory.
#[cfg(unix)]
fn modes(dir: &Path) -> Vec<(String, u32)> {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mode = |entry: &std::fs::DirEntry| entry.metadata().unwrap().permissions().mode() & 0o777;
    entries.map(|entry| (entry.file_name().into_string().unwrap(), mode(&entry))).collect()
}

/// They hold user data and the output of hooks.
#[cfg(unix)]
#[tokio::test]
async fn the_journal_its_lock_and_its_copies_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, path) = place();
    let is_private = |files: &[(String, u32)]| files.iter().all(|(_, mode)| *mode == 0o600);
    {
        let journal = open(&path);
        journal.append(batch("a/1", 0, 3)).await.unwrap();
        backup(&path, &dir.path().join("copy.sqlite")).unwrap();
        let files = modes(dir.path());
        assert!(files.len() >= 5, "journal, its WAL, its index, its lock and the copy: {files:?}");
        assert!(is_private(&files), "{files:?}");
    }
    // One of an older build, which anybody could read, is closed.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let journal = open(&path);
    journal.append(batch("a/1", 3, 1)).await.unwrap();
    let files = modes(dir.path());
    assert!(is_private(&files), "{files:?}");
}

#[tokio::test]
async fn a_second_engine_is_refused_and_told_who_has_it() {
    let (_dir, path) = place();
    let first = open(&path);
    let error = SqliteJournal::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let text = error.to_string();
    for part in ["journal.sqlite.lock", &std::process::id().to_string(), "stop that one first"] {
        assert!(text.contains(part), "{text:?} names {part:?}");
    }
    assert!(matches!(rebuild(&path, Toy::default()), Err(RebuildError::Open(OpenError::InUse { .. }))));
    drop(first);
    open(&path);
}

#[tokio::test]
async fn a_reader_reads_beside_the_engine_and_after_it_and_cannot_write() {
    let (_dir, path) = place();
    assert!(matches!(JournalReader::open(&path), Err(OpenError::Missing { .. })));
    let engine = open(&path);
    let reader = JournalReader::open(&path).unwrap();
    engine.append(batch("a/1", 0, 3)).await.unwrap();
    assert_eq!(read_checked(&reader).await, read_checked(&engine).await);
    assert!(matches!(reader.append(batch("a/1", 3, 1)).await, Err(AppendError::Unavailable { .. })));
    drop(engine);
    assert_eq!(read_checked(&reader).await.len(), 3);
    assert_eq!(read_checked(&JournalReader::open(&path).unwrap()).await.len(), 3);
}

#[tokio::test]
async fn what_is_not_ours_or_too_new_is_refused_and_left_alone() {
    let (dir, path) = place();
    let refused = |path: &Path| {
        let before = std::fs::read(path).unwrap();
        let error = SqliteJournal::open(path, Options::default()).unwrap_err();
        assert!(JournalReader::open(path).is_err());
        assert_eq!(std::fs::read(path).unwrap(), before, "nothing in it was changed");
        error
    };
    std::fs::write(&path, "a text file, and a rather long one, to be no database: ".repeat(40)).unwrap();
    let error = refused(&path);
    assert!(
        matches!(&error, OpenError::Foreign { why, .. } if why.contains("no SQLite database")),
        "{error}"
    );

    let other = dir.path().join("other.sqlite");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let error = refused(&other);
    assert!(matches!(&error, OpenError::Foreign { why, .. } if why.contains("another program")), "{error}");

    let marked = dir.path().join("marked.sqlite");
    Connection::open(&marked)
        .unwrap()
        .execute_batch("PRAGMA application_id = 7; CREATE TABLE t (x)")
        .unwrap();
    let error = refused(&marked);
    assert!(matches!(&error, OpenError::Foreign { why, .. } if why.contains("application id 7")), "{error}");

    let newer = dir.path().join("newer.sqlite");
    drop(open(&newer));
    Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let error = refused(&newer);
    assert!(matches!(error, OpenError::TooNew { found: 99, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("use the newer build"), "{error}");
}

#[tokio::test]
async fn a_journal_of_the_first_format_is_taken_over_with_its_timers() {
    let dir = TempDir::new().unwrap();
    let [fresh, old] = ["fresh.sqlite", "old.sqlite"].map(|name| dir.path().join(name));
    drop(open(&fresh));
    let fresh = Connection::open(&fresh).unwrap();
    let application: i64 = fresh.query_row("PRAGMA application_id", [], |row| row.get(0)).unwrap();
    let first = include_str!("../../../schemas/sql/journal/0001_journal.sql");
    let made = Connection::open(&old).unwrap();
    made.execute_batch(first).unwrap();
    made.execute_batch("INSERT INTO timers VALUES ('toy/a', 'ring', 7)").unwrap();
    made.execute_batch(&format!("PRAGMA application_id = {application}; PRAGMA user_version = 1")).unwrap();
    drop(made);

    let timers = open(&old).timers(u64::MAX, None, 10).await.unwrap();
    let known = TimerRow { due_ms: 7, stream: stream("toy/a"), name: "ring".into(), wait_max_ms: u64::MAX };
    assert_eq!(timers, [known], "how long it is set for at most is not known");
    let shape = "SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_master ORDER BY name)";
    let shapes = [&fresh, &Connection::open(&old).unwrap()]
        .map(|file| file.query_row(shape, [], |row| row.get::<_, String>(0)).unwrap());
    assert_eq!(shapes[0], shapes[1], "as one that was made anew");
}

#[tokio::test]
async fn events_are_never_updated_or_deleted_not_even_by_hand() {
    let (_dir, path) = place();
    open(&path).append(batch("a/1", 0, 1)).await.unwrap();
    let by_hand = Connection::open(&path).unwrap();
    for sql in
        ["UPDATE events SET body = '{}'", "DELETE FROM events", "UPDATE events SET hash = zeroblob(32)"]
    {
        let error = by_hand.execute_batch(sql).unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    assert!(verify_events(&path).unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_journal_refuses_and_loses_nothing_and_goes_on_when_there_is_room() {
    let (_dir, path) = place();
    let journal = Arc::new(SqliteJournal::open(&path, Options { max_bytes: Some(400_000) }).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let journal = Arc::clone(&journal);
        tasks.spawn(async move {
            let name = format!("a/{writer}");
            for n in 0.. {
                match journal.append(batch(&name, n, 5)).await {
                    Ok(_) if n > 10_000 => panic!("the bound does not hold"),
                    Ok(_) => {}
                    // Numbered from `n` on, so the second append of a stream conflicts: `n` is not its head.
                    Err(AppendError::Conflict { actual, .. }) => assert_eq!(actual, Seq(5)),
                    Err(AppendError::Unavailable { why }) => return why,
                    Err(other) => panic!("{other}"),
                }
                if n == 0 {
                    let filler = format!("{{\"x\":\"{}\"}}", "x".repeat(100_000));
                    let data = EventData { body: filler, ..event(1) };
                    let append = StreamAppend { stream: stream(&name), expected: Seq(5), events: vec![data] };
                    if let Err(AppendError::Unavailable { why }) =
                        journal.append(Batch { appends: vec![append], ..Batch::default() }).await
                    {
                        return why;
                    }
                    return String::new();
                }
            }
            String::new()
        });
    }
    let refusals: Vec<_> = tasks.join_all().await.into_iter().filter(|why| !why.is_empty()).collect();
    assert!(refusals.len() >= 10, "some found no room: {refusals:?}");
    assert!(refusals.iter().all(|why| why.contains("full")), "{refusals:?}");
    let before = read_checked(&*journal).await;
    assert!(!before.is_empty());
    drop(journal);
    assert!(verify_events(&path).unwrap().is_sound());
    let journal = open(&path);
    journal.append(batch("b/1", 0, 1)).await.unwrap();
    assert_eq!(read_checked(&journal).await[..before.len()], before);
}

// ---- processes that die -------------------------------------------------------------------------

const CHILD_PATH: &str = "PERENNIAL_STORE_TEST_CHILD";

/// The tests below start it as a process of its own. It appends without end and prints every acknowledgement
/// or failure.
async fn append_until_killed(path: &Path) {
    let journal = Arc::new(open(path));
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let journal = Arc::clone(&journal);
        tasks.spawn(async move {
            let id = stream(&format!("child/{writer}"));
            let mut head = journal.read_stream(&id, Seq::NONE, usize::MAX).await.unwrap().len() as u64;
            for failures in 0.. {
                while let Ok(appended) = say(journal.append(batch(id.as_str(), head, 1 + head % 3)).await) {
                    let count = 1 + head % 3;
                    head += count;
                    tell(&format!("acked {} {id} {head}", appended.last));
                }
                if failures == 3 {
                    return;
                }
            }
        });
    }
    tasks.join_all().await;
}

/// In one write, so that a kill leaves whole lines or none.
fn tell(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn say<T>(outcome: Result<T, AppendError>) -> Result<T, AppendError> {
    if let Err(error) = &outcome {
        let kind = match error {
            AppendError::Unavailable { .. } => "unavailable",
            AppendError::Unknown { .. } => "unknown",
            _ => "other",
        };
        tell(&format!("failed {kind} {error}"));
    }
    outcome
}

/// The first test below as a process of its own, in which it is this.
fn child(path: &Path, shell_before: &str) -> Child {
    let test = "sqlite_journal::no_acknowledged_event_is_lost_when_the_process_is_killed";
    let script = format!("{shell_before} exec \"$0\" {test} --exact --nocapture");
    Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_PATH, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Position, stream and its head, as a child said.
fn acked(line: &str) -> Option<(u64, String, u64)> {
    let (_, rest) = line.split_once("acked ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [position, stream, head] = words[..] else { return None };
    Some((position.parse().ok()?, stream.to_owned(), head.parse().ok()?))
}

async fn nothing_acked_is_lost(path: &Path, acked: &[(u64, String, u64)]) {
    let report = verify_events(path).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    let events = read_checked(&JournalReader::open(path).unwrap()).await;
    for (position, stream, head) in acked {
        let found = events.get(*position as usize - 1).expect("an acknowledged event is there");
        assert_eq!((found.stream.as_str(), found.seq.0), (stream.as_str(), *head));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_event_is_lost_when_the_process_is_killed() {
    if let Ok(path) = std::env::var(CHILD_PATH) {
        return append_until_killed(Path::new(&path)).await;
    }
    let (_dir, path) = place();
    let mut all = Vec::new();
    for kill_after in [1, 40, 3, 700, 150, 2_000, 17] {
        let mut child = child(&path, "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < kill_after {
            let line = lines.next().expect("the child goes on until it is killed").unwrap();
            seen += usize::from(acked(&line).inspect(|ack| all.push(ack.clone())).is_some());
        }
        // SIGKILL, at an arbitrary point of its work.
        child.kill().unwrap();
        // What it had said before it died counts too, except for a line that was cut.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let whole = rest.len().saturating_sub(1);
        all.extend(rest[..whole].iter().filter_map(|line| acked(line)));
        child.wait().unwrap();
        nothing_acked_is_lost(&path, &all).await;
    }
    assert!(all.len() >= 2_911);
}

#[tokio::test]
async fn a_commit_that_the_disk_refuses_is_never_acknowledged() {
    let (_dir, path) = place();
    // The operating system refuses to let a file grow beyond 600 KiB; the WAL meets that at COMMIT.
    let mut child = child(&path, "trap '' XFSZ; ulimit -f 1200;");
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
    child.wait().unwrap();
    let all: Vec<_> = lines.iter().filter_map(|line| acked(line)).collect();
    let failed: Vec<_> = lines.iter().filter(|line| line.contains("failed ")).collect();
    assert!(!all.is_empty() && !failed.is_empty(), "{} acked, {} failed", all.len(), failed.len());
    let told = |line: &str| line.contains("failed unknown") || line.contains("failed unavailable");
    assert!(failed.iter().all(|line| told(line)), "{failed:?}");
    assert!(failed.iter().any(|line| line.contains("failed unknown")), "the seal fails as well: {failed:?}");
    nothing_acked_is_lost(&path, &all).await;
    open(&path).append(batch("after/1", 0, 1)).await.unwrap();
}

// ---- verification -------------------------------------------------------------------------------

async fn journal_with_a_row_in_the_middle(path: &Path) {
    let journal = open(path);
    journal.append(batch("before/1", 0, 3)).await.unwrap();
    journal.append(batch("middle/row", 0, 1)).await.unwrap();
    let middle = Batch {
        key: Some("the-key-of-the-row".into()),
        recorded_at_ms: 0x1234,
        appends: vec![StreamAppend {
            stream: stream("middle/row"),
            expected: Seq(1),
            events: vec![EventData {
                kind: "suite.kind_of_row".into(),
                version: 1,
                body: "{\"text\":\"the body of the row\"}".into(),
            }],
        }],
        ..Batch::default()
    };
    assert_eq!(journal.append(middle).await.unwrap().last, Position(5));
    journal.append(batch("after/1", 0, 3)).await.unwrap();
}

fn has(report: &VerifyReport, position: u64) -> bool {
    let at = Some(Position(position));
    report.findings.iter().any(|f| f.position == at && f.severity == Severity::Damaged)
}

#[tokio::test]
async fn one_flipped_bit_in_any_byte_of_a_row_is_found_at_its_position() {
    let (dir, path) = place();
    journal_with_a_row_in_the_middle(&path).await;
    assert!(verify_events(&path).unwrap().is_sound());
    let sound = std::fs::read(&path).unwrap();
    // The layout of the row in SQLite: stream, seq (one byte), kind, version (in the header), body, time (two
    // bytes), key, hash, origin (one byte).
    let body = "{\"text\":\"the body of the row\"}";
    let body_at = sound.windows(body.len()).position(|bytes| bytes == body.as_bytes()).unwrap();
    let start = body_at - "suite.kind_of_row".len() - 1 - "middle/row".len();
    let end = body_at + body.len() + 2 + "the-key-of-the-row".len() + 32 + 1;
    assert_eq!(&sound[start..start + 10], b"middle/row");
    let copy = dir.path().join("flipped.sqlite");
    let flipped = |at: usize, bit: u8| {
        let mut bytes = sound.clone();
        bytes[at] ^= bit;
        std::fs::write(&copy, bytes).unwrap();
        verify_events(&copy).unwrap()
    };
    for at in start..end {
        for bit in [0x01, 0x80] {
            let report = flipped(at, bit);
            assert!(has(&report, 5), "byte {at} of {start}..{end}, bit {bit:#x}: {:?}", report.findings);
        }
    }
    // The cell's own header: sizes, types and the position itself (the eight serial types, the header's size,
    // the position, the payload's size).
    for at in start - 12..start {
        let report = flipped(at, 0x01);
        assert_eq!(report.worst(), Some(Severity::Damaged), "byte {at} before {start}");
    }
}

/// Takes the triggers away, changes something, and puts them back: who is careful.
fn change_by_hand(path: &Path, sql: &str) {
    let by_hand = Connection::open(path).unwrap();
    let triggers: Vec<(String, String)> = by_hand
        .prepare("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for (name, _) in &triggers {
        by_hand.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    by_hand.execute_batch(sql).unwrap();
    for (_, sql) in &triggers {
        by_hand.execute_batch(sql).unwrap();
    }
    by_hand.close().unwrap();
}

#[tokio::test]
async fn a_schema_that_was_changed_is_found() {
    let (dir, path) = place();
    journal_with_a_row_in_the_middle(&path).await;
    let copy = dir.path().join("schema.sqlite");
    for (sql, what) in [
        ("DROP TRIGGER events_are_never_updated", "events_are_never_updated is missing"),
        (
            "DROP TRIGGER events_are_never_deleted;
             CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events BEGIN SELECT 1; END",
            "events_are_never_deleted is not as this build makes it",
        ),
        ("CREATE TRIGGER another AFTER INSERT ON events BEGIN DELETE FROM lookup; END", "is not Perennial's"),
        ("DROP INDEX summaries_open", "summaries_open is missing"),
        ("CREATE TABLE more (x)", "is not Perennial's"),
    ] {
        std::fs::copy(&path, &copy).unwrap();
        Connection::open(&copy).unwrap().execute_batch(sql).unwrap();
        for report in [verify_events(&copy).unwrap(), verify_tail(&copy, 100, &[]).unwrap()] {
            assert!(report.findings.iter().any(|finding| finding.what.contains(what)), "{sql}: {report:?}");
            assert_eq!(report.worst(), Some(Severity::Damaged));
        }
    }
}

#[tokio::test]
async fn a_head_that_was_noted_finds_a_cut_end_and_another_journal() {
    let (dir, path) = place();
    toys(&path).await;
    let heads: Vec<Head> = JournalReader::open(&path)
        .unwrap()
        .read_all(Position(0), 100)
        .await
        .unwrap()
        .iter()
        .map(|event| Head { position: event.position, hash: event.hash })
        .collect();
    let against = |path: &Path, heads: &[Head]| verify_against(path, Toy::default(), heads).unwrap();
    let report = against(&path, &heads);
    assert_eq!((report.is_sound(), report.heads), (true, 7), "{:?}", report.findings);
    assert!(verify_tail(&path, 3, &heads).unwrap().is_sound());
    let none = Head { position: Position(0), hash: perennial_engine::journal::Hash::GENESIS };
    assert!(against(&path, &[none]).is_sound(), "the head of an empty journal is that of every one");

    // The end is cut off, and every projection says what the events say: only a head tells.
    let copy = dir.path().join("cut.sqlite");
    std::fs::copy(&path, &copy).unwrap();
    change_by_hand(&copy, "DELETE FROM events WHERE position > 5");
    rebuild(&copy, Toy::default()).unwrap();
    assert!(verify(&copy, Toy::default()).unwrap().is_sound());
    assert!(verify_tail(&copy, 100, &[]).unwrap().is_sound());
    assert!(against(&copy, &heads[..5]).is_sound());
    for report in [against(&copy, &heads), verify_tail(&copy, 2, &heads[6..]).unwrap()] {
        assert_eq!(report.worst(), Some(Severity::Damaged));
        assert!(report.findings[0].what.contains("the journal ends at position 5"), "{:?}", report.findings);
    }

    // Another journal of the same length.
    let other = dir.path().join("other.sqlite");
    let journal = open(&other);
    for n in 0..7 {
        journal.append(batch(&format!("a/{n}"), 0, 1)).await.unwrap();
    }
    drop(journal);
    for report in
        [verify_tail(&other, 100, &heads[6..]).unwrap(), verify_tail(&other, 2, &heads[..1]).unwrap()]
    {
        assert!(report.findings[0].what.contains("another journal"), "{:?}", report.findings);
    }
}

#[tokio::test]
async fn a_cut_end_is_damage_where_a_projection_still_shows_it() {
    let (dir, path) = place();
    toys(&path).await;
    let copy = dir.path().join("cut.sqlite");
    for sql in [
        "DELETE FROM events WHERE position > 5",
        "INSERT INTO summaries VALUES ('toy/z', 0, '{}', 0)",
        "INSERT INTO timers VALUES ('toy/z', 'ring', 0, 60)",
        "INSERT INTO open_steps VALUES ('toy/a', 9, 'toy', 0, 0, 0)",
        "INSERT INTO open_steps VALUES ('no stream name', 1, 'toy', 0, 0, 0)",
        "UPDATE summaries SET updated_at_ms = 9000000000000000 WHERE stream = 'toy/b'",
    ] {
        std::fs::copy(&path, &copy).unwrap();
        change_by_hand(&copy, sql);
        let report = verify(&copy, Toy::default()).unwrap();
        assert_eq!(report.worst(), Some(Severity::Damaged), "{sql}: {:?}", report.findings);
        assert!(
            report.findings.iter().any(|finding| finding.what.contains("was cut off")),
            "{sql}: {:?}",
            report.findings
        );
        let is_a_time_only = sql.starts_with("UPDATE");
        assert_eq!(is_cut_off(&copy).unwrap().is_none(), is_a_time_only, "{sql}");
    }
    assert!(is_cut_off(&path).unwrap().is_none());
}

#[tokio::test]
async fn the_tail_is_checked_without_the_rest() {
    let (_dir, path) = place();
    toys(&path).await;
    let report = verify_tail(&path, 3, &[]).unwrap();
    assert_eq!((report.is_sound(), report.events), (true, 3), "{report:?}");
    change_by_hand(&path, "UPDATE events SET body = '{\"x\":1}' WHERE position = 2");
    assert!(verify_tail(&path, 3, &[]).unwrap().is_sound(), "that one is before it");
    assert!(!verify_tail(&path, 100, &[]).unwrap().is_sound());
    change_by_hand(&path, "UPDATE events SET body = '{\"x\":1}' WHERE position = 6");
    assert!(has(&verify_tail(&path, 3, &[]).unwrap(), 6));
}

#[cfg(unix)]
#[tokio::test]
async fn a_journal_where_nothing_can_be_written_is_read() {
    let (dir, path) = place();
    toys(&path).await;
    let fixed = dir.path().join("fixed?# ü");
    std::fs::create_dir(&fixed).unwrap();
    let copy = fixed.join("journal.sqlite");
    std::fs::copy(&path, &copy).unwrap();
    // What SQLite would make beside it cannot be made, as on a medium that is read-only.
    std::os::unix::fs::symlink("/nowhere/at/all", fixed.join("journal.sqlite-shm")).unwrap();
    let report = verify(&copy, Toy::default()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(JournalReader::open(&copy).unwrap().read_all(Position(0), 100).await.unwrap().len(), 7);
    // What waits in a WAL would be passed over: then it is refused.
    std::fs::write(fixed.join("journal.sqlite-wal"), b"something").unwrap();
    assert!(verify(&copy, Toy::default()).is_err());
}

#[tokio::test]
async fn a_redacted_line_is_told_from_a_whole_one() {
    let (_dir, path) = place();
    journal_with_a_row_in_the_middle(&path).await;
    let mut lines = Vec::new();
    let filter = Filter::default();
    let redact = |body: &str| body.contains('7').then(|| "{\"hidden\":true}".to_owned());
    export_redacted(&path, &mut lines, &filter, redact).unwrap();
    let text = String::from_utf8(lines).unwrap();
    let redacted = text.lines().filter(|line| line.contains("\"redacted\":true")).count() as u64;
    let report = verify_export(text.as_bytes()).unwrap();
    assert_eq!((report.is_sound(), report.redacted), (true, redacted), "{:?}", report.findings);
    assert!(!text.contains("\"redacted\":false"));
}

#[tokio::test]
async fn a_change_by_somebody_who_removed_the_triggers_is_found() {
    let (dir, path) = place();
    journal_with_a_row_in_the_middle(&path).await;
    let copy = dir.path().join("edited.sqlite");
    let after = |sql: &str| {
        std::fs::copy(&path, &copy).unwrap();
        change_by_hand(&copy, sql);
        verify_events(&copy).unwrap()
    };
    assert!(after("").is_sound());
    for (column, value) in [
        ("stream", "'middle/rox'"),
        ("seq", "3"),
        ("kind", "'suite.kind_of_rox'"),
        ("version", "2"),
        ("body", "'{}'"),
        ("recorded_at_ms", "4661"),
        ("idempotency_key", "NULL"),
        ("idempotency_key", "'another'"),
        ("hash", "zeroblob(32)"),
        ("origin", "2"),
        ("origin", "5"),
        ("origin", "1000"),
    ] {
        let report = after(&format!("UPDATE events SET {column} = {value} WHERE position = 5"));
        assert!(has(&report, 5), "{column}: {:?}", report.findings);
    }
    let report = after("UPDATE events SET hash = zeroblob(32) WHERE position = 5");
    assert_eq!(report.findings.len(), 1, "only the changed row is named: {:?}", report.findings);
    let report = after("DELETE FROM events WHERE position = 5");
    assert!(report.findings[0].what.contains("positions 5 to 5 are missing"), "{:?}", report.findings);
    let report = after("UPDATE events SET position = 100 WHERE position = 8");
    assert!(has(&report, 100), "{:?}", report.findings);
    let report = after("DELETE FROM events WHERE position = 1");
    assert_eq!(report.worst(), Some(Severity::Damaged));
    // A cut end leaves a shorter journal that is sound in itself: that is what a head noted elsewhere is for.
    let report = after("DELETE FROM events WHERE position = 8");
    assert_eq!((report.is_sound(), report.head.position), (true, Position(7)));
}

#[tokio::test]
async fn a_page_of_nonsense_is_a_finding_and_not_a_crash() {
    let (dir, path) = place();
    {
        let journal = open(&path);
        for n in 0..40 {
            journal.append(batch(&format!("a/{n}"), 0, 50)).await.unwrap();
        }
    }
    let sound = std::fs::read(&path).unwrap();
    let copy = dir.path().join("torn.sqlite");
    let pages = sound.len() / 4096;
    assert!(pages > 20);
    for page in 1..pages {
        let mut bytes = sound.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xA5);
        std::fs::write(&copy, bytes).unwrap();
        // Either the file cannot even be opened as a journal, or the damage is found.
        if let Ok(report) = verify_events(&copy) {
            assert_eq!(report.worst(), Some(Severity::Damaged), "page {page}");
        }
    }
    std::fs::write(&copy, &sound[..sound.len() / 2]).unwrap();
    if let Ok(report) = verify_events(&copy) {
        assert_eq!(report.worst(), Some(Severity::Damaged));
    }
    assert!(matches!(
        read_all_of(&path, &copy).await,
        Err(ReadError::Damaged { .. } | ReadError::Unavailable { .. })
    ));
}

async fn read_all_of(_sound: &Path, path: &Path) -> Result<Vec<RecordedEvent>, ReadError> {
    match JournalReader::open(path) {
        Ok(reader) => reader.read_all(Position(0), usize::MAX).await,
        Err(error) => Err(ReadError::Unavailable { why: error.to_string() }),
    }
}

// ---- projections --------------------------------------------------------------------------------

/// A domain of two kinds of events: `toy.opened` opens a step, `toy.closed` closes all.
#[derive(Default)]
struct Toy {
    open: BTreeMap<StreamId, Vec<OpenStepRow>>,
    summaries: BTreeMap<StreamId, SummaryRow>,
    timers: BTreeMap<StreamId, TimerRow>,
}

fn toy_step(stream: &StreamId, seq: Seq) -> OpenStepRow {
    OpenStepRow {
        stream: stream.clone(),
        token: Token::from(seq),
        step: "toy".into(),
        due_ms: seq.0,
        deadline_ms: u64::MAX,
        priority: 0,
    }
}

fn toy_summary(stream: &StreamId, seq: Seq, open: bool) -> SummaryRow {
    SummaryRow { stream: stream.clone(), open, body: format!("{{\"n\":{seq}}}"), updated_at_ms: 0 }
}

fn toy_timer(stream: &StreamId, seq: Seq) -> TimerRow {
    TimerRow { due_ms: 10 * seq.0, stream: stream.clone(), name: "ring".into(), wait_max_ms: u64::MAX }
}

impl Projector for Toy {
    fn project(&mut self, event: &RecordedEvent) -> Result<(), String> {
        let open = match event.data.kind.as_str() {
            "toy.opened" => true,
            "toy.closed" => false,
            other => return Err(format!("unknown kind {other}")),
        };
        let steps = self.open.entry(event.stream.clone()).or_default();
        if open {
            steps.push(toy_step(&event.stream, event.seq));
            self.timers.insert(event.stream.clone(), toy_timer(&event.stream, event.seq));
        } else {
            steps.clear();
            self.timers.remove(&event.stream);
        }
        self.summaries.insert(event.stream.clone(), toy_summary(&event.stream, event.seq, open));
        Ok(())
    }

    fn finish(self) -> Projections {
        Projections {
            open_steps: self.open.into_values().flatten().collect(),
            keys: self.summaries.keys().map(|id| (format!("key/{}", id.name()), id.clone())).collect(),
            summaries: self.summaries.into_values().collect(),
            timers: self.timers.into_values().collect(),
        }
    }
}

async fn toy(journal: &SqliteJournal, name: &str, seq: u64, kind: &str, closed: &[u64]) {
    let id = stream(name);
    let at = Seq(seq);
    let projection = ProjectionDelta {
        opened: if kind == "toy.opened" { vec![toy_step(&id, at)] } else { vec![] },
        closed: closed.iter().map(|token| (id.clone(), Token(*token))).collect(),
        keys_added: vec![(format!("key/{}", id.name()), id.clone())],
        keys_removed: vec![],
        summaries: vec![toy_summary(&id, at, kind == "toy.opened")],
        timers_set: if kind == "toy.opened" { vec![toy_timer(&id, at)] } else { vec![] },
        timers_removed: if kind == "toy.closed" { vec![(id.clone(), "ring".into())] } else { vec![] },
    };
    let data = EventData { kind: kind.into(), version: 1, body: "{}".into() };
    let appends = vec![StreamAppend { stream: id, expected: Seq(seq - 1), events: vec![data] }];
    journal.append(Batch { appends, projection, ..Batch::default() }).await.unwrap();
}

async fn toys(path: &Path) {
    let journal = open(path);
    for name in ["toy/a", "toy/b", "toy/c"] {
        toy(&journal, name, 1, "toy.opened", &[]).await;
        toy(&journal, name, 2, "toy.opened", &[]).await;
    }
    toy(&journal, "toy/b", 3, "toy.closed", &[1, 2]).await;
}

#[tokio::test]
async fn the_time_of_a_summary_is_not_compared_because_a_batch_shows_only_its_last_state() {
    let (_dir, path) = place();
    toys(&path).await;
    assert!(verify(&path, Toy::default()).unwrap().is_sound());
    let by_hand = Connection::open(&path).unwrap();
    by_hand.execute_batch("UPDATE summaries SET updated_at_ms = updated_at_ms + 5").unwrap();
    assert!(verify(&path, Toy::default()).unwrap().is_sound());
    by_hand.execute_batch("UPDATE summaries SET body = '{}'").unwrap();
    assert_eq!(verify(&path, Toy::default()).unwrap().worst(), Some(Severity::Stale));
}

#[tokio::test]
async fn stale_projections_are_found_and_rebuilt() {
    let (dir, path) = place();
    toys(&path).await;
    let report = verify(&path, Toy::default()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!((report.events, report.streams), (7, 3));
    let copy = dir.path().join("stale.sqlite");
    for sql in [
        "DELETE FROM open_steps WHERE stream = 'toy/a' AND token = 1",
        "UPDATE open_steps SET due_ms = 7 WHERE stream = 'toy/a' AND token = 1",
        "INSERT INTO open_steps VALUES ('toy/b', 1, 'toy', 0, 0, 0)",
        "DELETE FROM lookup WHERE key = 'key/a'",
        "INSERT INTO lookup VALUES ('key/x', 'toy/a')",
        "UPDATE summaries SET open = 0 WHERE stream = 'toy/a'",
        "UPDATE summaries SET body = '{}' WHERE stream = 'toy/a'",
        "DELETE FROM summaries WHERE stream = 'toy/a'",
        "DELETE FROM timers WHERE stream = 'toy/a'",
        "UPDATE timers SET due_ms = 7 WHERE stream = 'toy/a'",
        "INSERT INTO timers VALUES ('toy/b', 'ring', 0, 60)",
        "INSERT INTO timers VALUES ('toy/a', 'other', 0, 60)",
    ] {
        std::fs::copy(&path, &copy).unwrap();
        Connection::open(&copy).unwrap().execute_batch(sql).unwrap();
        let report = verify(&copy, Toy::default()).unwrap();
        assert_eq!(report.worst(), Some(Severity::Stale), "{sql}: {:?}", report.findings);
        assert!(verify_events(&copy).unwrap().is_sound(), "the events are whole");
        let rebuilt = rebuild(&copy, Toy::default()).unwrap();
        assert_eq!((rebuilt.events, rebuilt.open_steps, rebuilt.keys), (7, 4, 3));
        assert_eq!((rebuilt.summaries, rebuilt.timers), (3, 2));
        let report = verify(&copy, Toy::default()).unwrap();
        assert!(report.is_sound(), "{sql}: {:?}", report.findings);
    }
}

#[tokio::test]
async fn a_stream_that_cannot_be_folded_is_a_finding_and_the_others_are_still_compared() {
    let (_dir, path) = place();
    toys(&path).await;
    let journal = open(&path);
    journal.append(batch("toy/a", 2, 2)).await.unwrap();
    drop(journal);
    let report = verify(&path, Toy::default()).unwrap();
    let found: Vec<_> = report.findings.iter().map(|f| (f.severity, f.position, f.stream.clone())).collect();
    assert_eq!(found, [(Severity::Unfoldable, Some(Position(8)), Some(stream("toy/a")))]);
    Connection::open(&path).unwrap().execute_batch("DELETE FROM summaries WHERE stream = 'toy/c'").unwrap();
    assert_eq!(verify(&path, Toy::default()).unwrap().findings.len(), 2);
    let rebuilt = rebuild(&path, Toy::default()).unwrap();
    assert_eq!((rebuilt.unfoldable.len(), rebuilt.summaries), (1, 2));
    let reader = JournalReader::open(&path).unwrap();
    let open: Vec<_> = reader.open_steps(u64::MAX, None, 10).await.unwrap();
    assert!(
        open.iter().all(|row| row.stream == stream("toy/c")),
        "nothing runs for a broken stream: {open:?}"
    );
    let timers = reader.timers(u64::MAX, None, 10).await.unwrap();
    assert_eq!(timers, [toy_timer(&stream("toy/c"), Seq(2))]);
}

// ---- export and backup --------------------------------------------------------------------------

fn exported(path: &Path, filter: &Filter) -> String {
    let mut lines = Vec::new();
    export(path, &mut lines, filter).unwrap();
    String::from_utf8(lines).unwrap()
}

#[tokio::test]
async fn an_export_proves_itself_and_a_changed_line_is_found() {
    let (_dir, path) = place();
    let journal = open(&path);
    journal.append(Batch { key: Some("k \"1\"".into()), ..batch("a/1", 0, 2) }).await.unwrap();
    let bodies = ["{ \"spaced\" : 1.10 }", "{\"broken\":\n1}", " {}", "no json", "{\"пион\":\"\\u0000\"}"];
    let events = bodies.map(|body| EventData { kind: "odd.body".into(), version: 3, body: body.into() });
    let appends = vec![StreamAppend { stream: stream("a/2"), expected: Seq(0), events: events.into() }];
    journal.append(Batch { appends, ..Batch::default() }).await.unwrap();
    journal.append(batch("a/1", 2, 1)).await.unwrap();

    let text = exported(&path, &Filter::default());
    assert_eq!(text.lines().count(), 8);
    assert!(text.contains("\"body\":{ \"spaced\" : 1.10 },"), "a body stands as it was hashed: {text}");
    let report = verify_export(text.as_bytes()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!((report.events, report.head), (8, journal.head().await.unwrap()));

    for (from, to) in [
        ("\"position\":2", "\"position\":3"),
        ("\"seq\":2", "\"seq\":3"),
        ("a/2", "a/3"),
        ("odd.body", "odd.bodi"),
        ("\"version\":3", "\"version\":4"),
        ("1.10", "1.1"),
        ("{\\\"broken\\\":\\n1}", "{\\\"broken\\\":1}"),
        ("\"recorded_at_ms\":1000", "\"recorded_at_ms\":1001"),
        ("k \\\"1\\\"", "k"),
        ("\"key\":null", "\"key\":\"\""),
    ] {
        assert!(text.contains(from), "{from}");
        let report = verify_export(text.replacen(from, to, 1).as_bytes()).unwrap();
        assert_eq!(report.worst(), Some(Severity::Damaged), "{from} → {to}");
    }
    for missing in 0..7 {
        let kept =
            text.lines().enumerate().filter(|(n, _)| *n != missing).map(|(_, line)| format!("{line}\n"));
        let report = verify_export(kept.collect::<String>().as_bytes()).unwrap();
        assert!(!report.is_sound(), "line {missing} is missed");
    }
    assert!(!verify_export(&b"{}\n"[..]).unwrap().is_sound());
}

#[tokio::test]
async fn an_export_of_one_stream_or_from_the_middle_can_be_checked_too() {
    let (_dir, path) = place();
    let journal = open(&path);
    for n in 0..5 {
        journal.append(batch("a/1", n * 2, 2)).await.unwrap();
        journal.append(batch("a/2", n, 1)).await.unwrap();
    }
    let positions = |text: &str| {
        let report = verify_export(text.as_bytes()).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
        text.lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["position"].as_u64().unwrap()
            })
            .collect::<Vec<_>>()
    };
    let of = |stream_: Option<&str>, after| Filter { stream: stream_.map(stream), after: Position(after) };
    assert_eq!(positions(&exported(&path, &of(Some("a/2"), 0))), [3, 6, 9, 12, 15]);
    assert_eq!(positions(&exported(&path, &of(Some("a/2"), 6))), [9, 12, 15]);
    assert_eq!(positions(&exported(&path, &of(None, 12))), [13, 14, 15]);
    assert_eq!(positions(&exported(&path, &of(Some("a/none"), 0))), [0_u64; 0]);
    let tail = exported(&path, &of(None, 12)).replacen("a/1", "a/7", 1);
    assert!(!verify_export(tail.as_bytes()).unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_journal_in_use_is_whole_and_overwrites_nothing() {
    let (dir, path) = place();
    let journal = Arc::new(open(&path));
    journal.append(batch("a/1", 0, 100)).await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move {
            let mut head = 100;
            while stopped.try_recv().is_err() {
                journal.append(batch("a/1", head, 10)).await.unwrap();
                head += 10;
            }
            head
        })
    };
    let mut heads = Vec::new();
    for n in 0..5 {
        let (from, to) = (path.clone(), dir.path().join(format!("backup-{n}.sqlite")));
        let head = tokio::task::spawn_blocking(move || backup(&from, &to)).await.unwrap().unwrap();
        heads.push(head);
    }
    stop.send(()).unwrap();
    let last = writing.await.unwrap();
    assert!(heads.is_sorted_by_key(|head| head.position) && heads[0].position >= Position(100));
    assert!(heads[4].position <= Position(last));
    for (n, head) in heads.iter().enumerate() {
        let copy = dir.path().join(format!("backup-{n}.sqlite"));
        let report = verify_events(&copy).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
        assert_eq!(report.head, *head);
    }
    let copy = dir.path().join("backup-0.sqlite");
    let before = std::fs::read(&copy).unwrap();
    assert!(matches!(backup(&path, &copy), Err(BackupError::Exists { .. })));
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // A backup is a journal: an engine can start on it.
    open(&copy).append(batch("restored/1", 0, 1)).await.unwrap();
}
