//! The status of a server, in a file of the data directory: the server writes it, `doctor` reads it.
//!
//! It is no truth: nothing is decided by it. It is replaced as a whole, so a reader sees an older or a newer
//! one and never a part; it is not synced, because a status from before a power cut is of no use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_views::model::server::{ServerStatus, TaskLine};
use perennial_workers::periodic::driver::{Driver, TaskStatus};
use tracing::debug;

/// How often it is written while nothing changes: several times within the time after which a server counts
/// as silent, and a thousand bytes each time.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);

/// How often it is written at most, when runs begin and end.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// A longer file is none of ours.
const BYTES_MAX: u64 = 1 << 20;

const FILE: &str = "status.json";

fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Writes the status of these tasks again and again. `clock` is the server's.
pub(crate) async fn write_repeatedly(data_dir: &Path, driver: &Driver, clock: &Clock) {
    let system = Clock::system();
    let mut written = (0, Vec::new());
    loop {
        let (now_ms, tasks) = (system.now_ms(), driver.status());
        let is_old = Duration::from_millis(now_ms.saturating_sub(written.0)) >= WRITTEN_EVERY;
        if is_old || tasks != written.1 {
            written = (now_ms, tasks.clone());
            let tasks = tasks.into_iter().map(line).collect();
            let (process, at_ms) = (std::process::id(), clock.now_ms());
            let status = ServerStatus { process, written_at_ms: now_ms, now_ms: at_ms, tasks };
            if let Err(error) = write(data_dir, &status) {
                // `doctor` says that it is old; a warning each time would say no more.
                debug!(%error, "the server's status could not be written");
            }
        }
        system.sleep(LOOKED_AT_EVERY).await;
    }
}

fn write(data_dir: &Path, status: &ServerStatus) -> std::io::Result<()> {
    let (path, new) = (path_in(data_dir), data_dir.join(format!("{FILE}.new")));
    std::fs::write(&new, serde_json::to_vec_pretty(status)?)?;
    std::fs::rename(new, path)
}

/// What a server last wrote; `None` when there is nothing that can be read.
pub(crate) fn read(data_dir: &Path) -> Option<ServerStatus> {
    let path = path_in(data_dir);
    let length = std::fs::metadata(&path).ok()?.len();
    if length > BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn line(status: TaskStatus) -> TaskLine {
    let TaskStatus {
        name,
        every_ms,
        runs,
        failures,
        failures_in_a_row,
        running_since_ms,
        last_run_ms,
        last_duration_ms,
        last_success_ms,
        last_error,
        last_error_ms,
        next_run_ms,
    } = status;
    TaskLine {
        name,
        every_ms,
        runs,
        failures,
        failures_in_a_row,
        running_since_ms,
        last_run_ms,
        last_duration_ms,
        last_success_ms,
        last_error,
        last_error_ms,
        next_run_ms,
    }
}
