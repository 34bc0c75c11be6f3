//! Heads of the journal, noted outside of it.
//!
//! The hash of an event stands for every event before it. So a head that is kept where whoever changes the
//! journal cannot change it shows every later change of what was there: events that were cut off, replaced or
//! written anew, and another journal in the place of this one. A server ships its head every hour: it appends
//! a line to a file (by default in the data directory, which shows slips; better on another machine), and
//! sends the same line to a queue, if one is named. (There is no AWS SDK for S3 in this program: what reads
//! the queue can put each line into a bucket with Object Lock.)
//!
//! A line: `{"position":5121,"hash":"9f2c…","at":"2026-09-14T08:31:07Z","journal":"018f…"}`. Lines such as
//! `5121:9f2c…`, as `--head` takes them, and `5121 9f2c…`, as `journal head` prints them, are read as well.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::ids::Position;
use perennial_engine::journal::{Hash, Head, Journal};
use perennial_engine::queue::{Outgoing, Queue};
use perennial_engine::shutdown::Shutdown;
use perennial_store::private;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::failure::Failure;

/// The longest line: a head has under 300 bytes.
const LINE_MAX: usize = 4_096;

/// How many lines are read: an hour each, a century.
const LINES_MAX: usize = 1_000_000;

/// A head as it is shipped.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    position: u64,
    hash: String,
    #[serde(default)]
    at: String,
}

/// Reads a head as an operator types it.
pub(crate) fn head(text: &str) -> Result<Head, String> {
    let wrong = || format!("{text:?} is no head: use POSITION:HASH, as `perennial journal head` prints them");
    let (position, hash) = text.trim().split_once([':', ' ']).ok_or_else(wrong)?;
    let position = position.trim().parse().map(Position).map_err(|_| wrong())?;
    let hash = Hash::from_hex(hash.trim()).ok_or_else(wrong)?;
    Ok(Head { position, hash })
}

/// Reads a file of heads. A last line without an end is none: the machine went down while it was written.
pub(crate) fn read(path: &Path) -> Result<Vec<Head>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::environment(format!("reading {}: {error}", path.display())))?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let (whole, rest) = text.split_at(whole);
    let mut heads = Vec::new();
    for (number, line) in whole.lines().chain(Some(rest).filter(|rest| head(rest).is_ok())).enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = if line.len() > LINE_MAX || number >= LINES_MAX {
            Err("it is too long".to_owned())
        } else if line.starts_with('{') {
            let parsed: Result<Line, _> = serde_json::from_str(line);
            parsed.map_err(|error| error.to_string()).and_then(|line| {
                let hash = Hash::from_hex(&line.hash).ok_or("its hash is none")?;
                Ok(Head { position: Position(line.position), hash })
            })
        } else {
            head(line)
        };
        heads.push(parsed.map_err(|why| Failure::user(format!("{}:{}: {why}", path.display(), number + 1)))?);
    }
    Ok(heads)
}

/// The same, where there may be no file.
pub(crate) fn read_if_there(path: &Path) -> Result<Vec<Head>, Failure> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => read(path),
    }
}

/// Where heads go, and how often.
pub(crate) struct Shipping {
    /// The file.
    pub(crate) file: std::path::PathBuf,
    /// The queue.
    pub(crate) queue: Option<Arc<dyn Queue>>,
    /// Between two of them.
    pub(crate) every: Duration,
}

impl Shipping {
    /// Ships the head again and again, and once more at the stop.
    pub(crate) async fn run(self, journal: Arc<dyn Journal>, shutdown: Shutdown) {
        let (clock, mut shipped) = (Clock::system(), Position(0));
        loop {
            match self.ship(journal.as_ref(), &clock, shipped).await {
                Ok(position) => shipped = position,
                Err(why) => warn!(%why, "the journal's head could not be shipped; it is tried again"),
            }
            if shutdown.is_asked() {
                return;
            }
            tokio::select! {
                biased;
                () = shutdown.asked() => {}
                () = clock.sleep(self.every) => {}
            }
        }
    }

    async fn ship(
        &self,
        journal: &dyn Journal,
        clock: &Clock,
        shipped: Position,
    ) -> Result<Position, String> {
        let head = journal.head().await.map_err(|error| error.to_string())?;
        if head.position <= shipped {
            return Ok(shipped);
        }
        let at = i64::try_from(clock.now_ms()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let line = Line {
            position: head.position.0,
            hash: head.hash.to_hex(),
            at: at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default(),
        };
        let line = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        append(&self.file, &line).map_err(|error| format!("{}: {error}", self.file.display()))?;
        if let Some(queue) = &self.queue {
            queue.send(vec![Outgoing::now(line)]).await.map_err(|error| error.to_string())?;
        }
        info!(position = head.position.0, hash = head.hash.to_hex(), "the journal's head was shipped");
        Ok(head.position)
    }
}

/// Appends a line, whole and synced: a line that a crash has cut is ended first.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    private::ensure(path)?;
    let mut text = format!("{line}\n");
    let old = std::fs::read(path)?;
    if old.last().is_some_and(|last| *last != b'\n') {
        let whole = old.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        std::fs::OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    file.write_all(std::mem::take(&mut text).as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_heads_is_read_in_every_form() {
        let hash = "ab".repeat(32);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("heads");
        std::fs::write(
            &path,
            format!("# noted\n7:{hash}\n8 {hash}\n\n{{\"position\":9,\"hash\":\"{hash}\",\"at\":\"\",\"more\":1}}\n"),
        )
        .unwrap();
        let positions: Vec<u64> = read(&path).unwrap().iter().map(|head| head.position.0).collect();
        assert_eq!(positions, [7, 8, 9]);
        append(&path, &format!("10:{hash}")).unwrap();
        // A line that was cut is no line.
        let cut = std::fs::read_to_string(&path).unwrap() + "11:abab";
        std::fs::write(&path, cut).unwrap();
        assert_eq!(read(&path).unwrap().len(), 4);
        append(&path, &format!("12:{hash}")).unwrap();
        let positions: Vec<u64> = read(&path).unwrap().iter().map(|head| head.position.0).collect();
        assert_eq!(positions, [7, 8, 9, 10, 12]);
        for wrong in ["", "7", "7:", "x:ab", "7:xy", &format!("-1:{hash}")] {
            assert!(head(wrong).is_err(), "{wrong}");
        }
        assert!(read_if_there(&directory.path().join("none")).unwrap().is_empty());
    }
}
