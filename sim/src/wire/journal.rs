//! The log of calls, one JSON document a line, appended before each takes effect.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Error, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

const FORMAT: u32 = 1;
const FILE: &str = "calls.jsonl";

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// All settings as text: with others the same calls would give another world.
    settings: String,
    epoch_ms: u64,
}

/// One thing that was done.
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
    /// Time brought something about.
    Tick,
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
}

/// The open log.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// Opens the log in a directory, or begins it. Gives the region's beginning and what was done since. A last line
    /// that is not whole was never answered, and is cut off.
    pub(crate) fn open(
        directory: &Path,
        settings: &str,
        epoch_ms: u64,
    ) -> Result<(Self, u64, Vec<Entry>), Error> {
        let damaged = |why: String| Error::new(ErrorKind::InvalidData, why);
        std::fs::create_dir_all(directory)?;
        let path = directory.join(FILE);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        file.try_lock().map_err(|error| damaged(format!("another region uses it: {error}")))?;
        let mut entries = Vec::new();
        let mut header: Option<Header> = None;
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 || !line.ends_with(b"\n") {
                break;
            }
            match header {
                None => header = Some(serde_json::from_slice(&line).map_err(|e| damaged(e.to_string()))?),
                Some(_) => {
                    let number = entries.len() + 2;
                    let entry = serde_json::from_slice(&line);
                    entries.push(entry.map_err(|error| damaged(format!("line {number}: {error}")))?);
                }
            }
            whole += read as u64;
        }
        drop(reader);
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        if let Some(header) = header {
            if header.format != FORMAT || header.settings != settings {
                return Err(damaged("it was begun with another version, seed or settings".to_owned()));
            }
            return Ok((Self { file }, header.epoch_ms, entries));
        }
        let header =
            serde_json::to_string(&Header { format: FORMAT, settings: settings.to_owned(), epoch_ms })?;
        writeln!(file, "{header}")?;
        Ok((Self { file }, epoch_ms, entries))
    }

    /// Appends. A log that cannot be written must not be believed later: that ends the process.
    ///
    /// # Panics
    /// When the disk refuses.
    pub(crate) fn append(&mut self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("BUG: an entry is always JSON");
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            panic!("the state cannot be written: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_written_line_is_forgotten_and_other_settings_are_refused() {
        let directory = std::env::temp_dir().join(format!("perennial-journal-{}", std::process::id()));
        _ = std::fs::remove_dir_all(&directory);
        let (mut journal, ..) = Journal::open(&directory, "seven", 1_000).unwrap();
        journal.append(&Entry { at_ms: 1_001, real_ms: 5, operation: Operation::Tick });
        assert!(Journal::open(&directory, "seven", 1_000).is_err(), "it is in use");
        journal.file.write_all(b"{\"at_ms\":2").unwrap();
        drop(journal);
        let (journal, epoch_ms, entries) = Journal::open(&directory, "seven", 9_000).unwrap();
        assert_eq!((epoch_ms, entries.len(), entries[0].at_ms), (1_000, 1, 1_001));
        drop(journal);
        assert!(Journal::open(&directory, "eight", 1_000).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
