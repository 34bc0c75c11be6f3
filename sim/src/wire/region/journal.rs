//! The state directory: a snapshot of everything, and the log of the calls since.
//!
//! ```text
//! lock              held while a region uses the directory
//! snapshot.json     format, settings, generation n, the whole state
//! calls-<n>.jsonl   operations since, one JSON document a line, each written before it took effect
//! ```
//!
//! A compaction writes the next snapshot beside the old one, renames it into place and begins log `n + 1`;
//! the name of the log ties it to its snapshot, so that after a crash at any moment there is one state with
//! its own log. It happens at each start and whenever the log has grown past [`LOG_BYTES`] and past the
//! snapshot, so a start reads at most twice the size of the state.
//!
//! Nothing is answered before the log is on disk ([`Journal::to_sync`]): a call that waits for the disk takes
//! along every other that has been logged meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Error, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::super::rules::EventTrouble;
use super::super::sqs::model::Trouble;
use crate::world::settings::Settings;

/// Of the directory as a whole: its files, and everything in them.
const FORMAT: u32 = 3;
const SNAPSHOT: &str = "snapshot.json";
const LOCK: &str = "lock";
/// A log smaller than this is not worth a snapshot; it is made again in well under a second.
const LOG_BYTES: u64 = 16 * 1024 * 1024;
/// How long a predecessor that is just ending may hold the lock.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// How many differing settings an error names.
const DIFFERENCES_SHOWN: usize = 5;

/// A state at a moment, as it is written.
#[derive(Serialize)]
struct Written<'a, S> {
    format: u32,
    generation: u64,
    settings: &'a Settings,
    at_ms: u64,
    sequence: u64,
    state: &'a S,
}

/// The same, as it is read.
#[derive(Deserialize)]
struct Kept<S> {
    generation: u64,
    at_ms: u64,
    sequence: u64,
    state: S,
}

/// The part of a snapshot that any version can read.
#[derive(Deserialize)]
struct Head {
    format: u32,
    #[serde(default)]
    settings: Json,
}

/// One operation that was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// In the region's time.
    pub(crate) at_ms: u64,
    /// In the machine's.
    pub(crate) real_ms: u64,
    pub(crate) operation: Operation,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// Time passed, and may have brought something about.
    Tick,
    /// The oldest event was delivered.
    Told {
        id: String,
    },
    Ec2 {
        action: String,
        form: String,
    },
    Control {
        deed: String,
        request: Json,
    },
    Sqs {
        action: String,
        request: Json,
    },
    Events {
        action: String,
        request: Json,
    },
    Elb {
        action: String,
        form: String,
    },
    QueueTrouble(Trouble),
    EventTrouble(EventTrouble),
    Ssm {
        action: String,
        request: Json,
    },
}

/// The contents of a directory.
#[derive(Debug)]
pub(crate) struct Found<S> {
    /// When the snapshot was taken, in the region's time.
    pub(crate) at_ms: u64,
    pub(crate) state: S,
    pub(crate) entries: Vec<Entry>,
}

/// The open directory.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    /// Released when the region is gone.
    _lock: File,
    file: Arc<File>,
    generation: u64,
    /// Entries ever written.
    sequence: u64,
    log_bytes: u64,
    snapshot_bytes: u64,
    /// Why nothing may be answered any more.
    broken: Option<String>,
}

impl Journal {
    /// Opens a directory, or begins one; then its contents are `None`. The caller takes a snapshot before it
    /// logs anything ([`compact`](Self::compact)). A last line that is not whole was never answered, and is
    /// left out.
    pub(crate) fn open<S: DeserializeOwned>(
        directory: &Path,
        settings: &Settings,
    ) -> Result<(Self, Option<Found<S>>), Error> {
        std::fs::create_dir_all(directory)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(LOCK))?;
        take(&lock)?;
        let snapshot = match std::fs::read(directory.join(SNAPSHOT)) {
            Ok(bytes) => Some(read_snapshot::<S>(&bytes, settings)?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if snapshot.is_none() && directory.join("calls.jsonl").exists() {
            return Err(other_format(1));
        }
        let generation = snapshot.as_ref().map_or(0, |snapshot| snapshot.generation);
        let file =
            OpenOptions::new().create(true).read(true).append(true).open(log_path(directory, generation))?;
        let (entries, whole) = read_log(&file)?;
        file.set_len(whole)?;
        let journal = Self {
            directory: directory.to_owned(),
            _lock: lock,
            file: Arc::new(file),
            generation,
            sequence: snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence) + entries.len() as u64,
            log_bytes: whole,
            snapshot_bytes: 0,
            broken: None,
        };
        let found = snapshot.map(|Kept { at_ms, state, .. }| Found { at_ms, state, entries });
        Ok((journal, found))
    }

    /// Appends. When the disk refuses, nothing is answered any more.
    pub(crate) fn append(&mut self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("BUG: an entry is always JSON");
        line.push(b'\n');
        self.sequence += 1;
        self.log_bytes += line.len() as u64;
        if let Err(error) = (&*self.file).write_all(&line) {
            self.fail(format!("the log cannot be written: {error}"));
        }
    }

    /// From now on this region answers nothing.
    pub(crate) fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// How many entries were ever written.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The file to sync so that everything written until now is on disk, and the number of its last entry.
    pub(crate) fn to_sync(&self) -> (Arc<File>, u64) {
        (Arc::clone(&self.file), self.sequence)
    }

    pub(crate) fn is_large(&self) -> bool {
        self.log_bytes > LOG_BYTES.max(self.snapshot_bytes)
    }

    /// Takes a snapshot of the state as it is after everything that was logged, and begins a new log.
    pub(crate) fn compact<S: Serialize>(
        &mut self,
        settings: &Settings,
        at_ms: u64,
        state: &S,
    ) -> Result<(), Error> {
        let generation = self.generation + 1;
        let written = Written { format: FORMAT, generation, settings, at_ms, sequence: self.sequence, state };
        let bytes = serde_json::to_vec(&written)?;
        let fresh = self.directory.join("snapshot.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        // The log first: a snapshot in place always has its log.
        let log = log_path(&self.directory, generation);
        let log = OpenOptions::new().create(true).truncate(true).write(true).open(log)?;
        std::fs::rename(&fresh, self.directory.join(SNAPSHOT))?;
        File::open(&self.directory)?.sync_all()?;
        // The rename made the old log worthless. A crash before this line leaves a file that is never read.
        _ = std::fs::remove_file(log_path(&self.directory, self.generation));
        self.file = Arc::new(log);
        self.generation = generation;
        self.log_bytes = 0;
        self.snapshot_bytes = bytes.len() as u64;
        Ok(())
    }
}

fn log_path(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("calls-{generation}.jsonl"))
}

fn damaged(why: String) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

fn other_format(format: u32) -> Error {
    damaged(format!(
        "it has format {format}, this program reads {FORMAT}: use the program that began it, or another directory"
    ))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file lock cannot be waited for with a limit, and this thread may block"
)]
fn take(lock: &File) -> Result<(), Error> {
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::ResourceBusy, "another region uses it"))
}

fn read_snapshot<S: DeserializeOwned>(bytes: &[u8], settings: &Settings) -> Result<Kept<S>, Error> {
    let unreadable = |error: serde_json::Error| damaged(format!("{SNAPSHOT}: {error}"));
    let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
    if head.format != FORMAT {
        return Err(other_format(head.format));
    }
    let differences = differences(&head.settings, &serde_json::to_value(settings).map_err(unreadable)?);
    if !differences.is_empty() {
        let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = differences.into_iter().take(DIFFERENCES_SHOWN).collect::<Vec<_>>().join(", ");
        return Err(damaged(format!(
            "it was begun with other settings ({shown}{more}): give the same, or another directory"
        )));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Where two settings differ, such as `seed: 7 there, 8 here`.
fn differences(there: &Json, here: &Json) -> Vec<String> {
    fn walk(path: &str, there: &Json, here: &Json, found: &mut Vec<String>) {
        match (there, here) {
            (Json::Object(a), Json::Object(b)) => {
                let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
                for key in keys {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, &there[key], &here[key], found);
                }
            }
            _ if there == here => {}
            _ => found.push(format!("{path}: {there} there, {here} here")),
        }
    }
    let mut found = Vec::new();
    walk("", there, here, &mut found);
    found
}

/// The entries, and how many bytes of the file they take.
fn read_log(mut file: &File) -> Result<(Vec<Entry>, u64), Error> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let (mut entries, mut whole, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || !line.ends_with(b"\n") {
            return Ok((entries, whole));
        }
        let number = entries.len() + 1;
        let entry = serde_json::from_slice(&line);
        entries.push(entry.map_err(|error| damaged(format!("line {number} of the log: {error}")))?);
        whole += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("perennial-{name}-{}", std::process::id()));
            _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn tick(at_ms: u64) -> Entry {
        Entry { at_ms, real_ms: 5, operation: Operation::Tick }
    }

    fn open(directory: &Directory, seed: u64) -> Result<(Journal, Option<Found<u32>>), Error> {
        Journal::open(&directory.0, &Settings::calm(seed))
    }

    #[test]
    fn a_start_finds_the_last_snapshot_and_the_whole_lines_since() {
        let directory = Directory::new("journal");
        let settings = Settings::calm(7);
        let (mut journal, found) = open(&directory, 7).unwrap();
        assert!(found.is_none());
        journal.compact(&settings, 1_000, &41).unwrap();
        journal.append(&tick(1_001));
        journal.compact(&settings, 1_002, &42).unwrap();
        journal.append(&tick(1_003));
        (&*journal.file).write_all(b"{\"at_ms\":2").unwrap();
        drop(journal);
        for _ in 0..2 {
            let (journal, found) = open(&directory, 7).unwrap();
            let found = found.unwrap();
            assert_eq!((found.at_ms, found.state, found.entries.len()), (1_002, 42, 1));
            assert_eq!((found.entries[0].at_ms, journal.sequence()), (1_003, 2));
        }
    }

    #[test]
    fn a_crash_at_any_step_of_a_compaction_leaves_one_state_with_its_own_log() {
        let directory = Directory::new("compaction");
        let settings = Settings::calm(7);
        let (mut journal, _) = open(&directory, 7).unwrap();
        journal.compact(&settings, 1_000, &41).unwrap();
        journal.append(&tick(1_001));
        // Before the rename: a half-written snapshot and an empty log of the next generation.
        std::fs::write(directory.0.join("snapshot.new"), "{\"for").unwrap();
        std::fs::write(log_path(&directory.0, 2), "").unwrap();
        drop(journal);
        let (mut journal, found) = open(&directory, 7).unwrap();
        let found = found.unwrap();
        assert_eq!((found.state, found.entries.len()), (41, 1));
        // After the rename: the old log is still there.
        journal.compact(&settings, 1_001, &42).unwrap();
        std::fs::write(log_path(&directory.0, 1), "{\"at_ms\":1}\n").unwrap();
        drop(journal);
        let found = open(&directory, 7).unwrap().1.unwrap();
        assert_eq!((found.state, found.entries.len()), (42, 0));
    }

    #[test]
    fn a_directory_in_use_of_another_format_or_with_other_settings_is_refused_with_what_to_do() {
        let directory = Directory::new("refused");
        let (mut journal, _) = open(&directory, 7).unwrap();
        journal.compact(&Settings::calm(7), 0, &1).unwrap();
        assert!(open(&directory, 7).unwrap_err().to_string().contains("another region uses it"));
        drop(journal);
        let other = Settings { spot_limit: Some(3), ..Settings::calm(8) };
        let error = Journal::open::<u32>(&directory.0, &other).unwrap_err().to_string();
        assert!(error.contains("seed: 7 there, 8 here, spot_limit: null there, 3 here"), "{error}");
        assert!(error.contains("give the same, or another directory"), "{error}");
        let snapshot = directory.0.join(SNAPSHOT);
        std::fs::write(&snapshot, "{\"format\":4,\"state\":{}}").unwrap();
        let error = open(&directory, 7).unwrap_err().to_string();
        assert!(error.contains("it has format 4, this program reads 3"), "{error}");
        std::fs::write(&snapshot, "{\"format\":3").unwrap();
        assert!(open(&directory, 7).unwrap_err().to_string().contains(SNAPSHOT));
        std::fs::remove_file(snapshot).unwrap();
        std::fs::write(directory.0.join("calls.jsonl"), "").unwrap();
        assert!(open(&directory, 7).unwrap_err().to_string().contains("it has format 1"));
    }
}
