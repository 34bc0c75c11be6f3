//! The status of a running server's periodic tasks, as the server writes it down for other processes, and
//! what
//! `doctor` makes of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::doctor::DoctorReport;

/// A server that runs writes its status more often than this, so an older one is that of a server that hangs.
pub const STALE_MS: u64 = 60_000;

/// A task that has not run for this many of its intervals is late: one run that takes long, and one that
/// fails, are not.
pub const LATE_INTERVALS: u64 = 3;

/// The status of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerStatus {
    /// The server's process id.
    pub process: u32,
    /// When this was written, by the machine's clock.
    pub written_at_ms: u64,
    /// The same moment by the server's clock, which is another one over a simulated region. The times of
    /// tasks are by that clock.
    pub now_ms: u64,
    /// Its periodic tasks.
    pub tasks: Vec<TaskLine>,
}

/// Whether a server works for a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerState {
    /// Whether one runs. Without one nothing that is open goes on.
    pub running: bool,
    /// Its process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// When the journal's last event was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_ms: Option<u64>,
}

/// One periodic task. Times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskLine {
    /// Its name.
    pub name: String,
    /// From the end of one run to the beginning of the next one, in milliseconds.
    pub every_ms: u64,
    /// How many runs have ended.
    pub runs: u64,
    /// How many of them failed.
    pub failures: u64,
    /// How many have failed since the last one that did not.
    pub failures_in_a_row: u64,
    /// When the run that is under way began.
    #[serde(default)]
    pub running_since_ms: Option<u64>,
    /// When the last run that has ended began.
    #[serde(default)]
    pub last_run_ms: Option<u64>,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub last_duration_ms: Option<u64>,
    /// When the last run that did not fail began.
    #[serde(default)]
    pub last_success_ms: Option<u64>,
    /// What the last run that failed said.
    #[serde(default)]
    pub last_error: Option<String>,
    /// When that run began.
    #[serde(default)]
    pub last_error_ms: Option<u64>,
    /// When the next run begins; none while one is under way.
    #[serde(default)]
    pub next_run_ms: Option<u64>,
}

/// What is known about a server and what it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// It runs.
    Running,
    /// None runs.
    Absent,
}

/// Checks the tasks of a server. `status` is what it last wrote, `now_ms` the time by the machine's clock.
pub fn check_tasks(server: Server, status: Option<&ServerStatus>, now_ms: u64, report: &mut DoctorReport) {
    match (server, status) {
        (Server::Absent, None) => {}
        (Server::Absent, Some(status)) => {
            let ago = length(now_ms.saturating_sub(status.written_at_ms));
            let found = format!("none runs, because the server is not running; it last wrote {ago} ago");
            report.warn("tasks", found, "start `perennial serve`");
        }
        (Server::Running, None) => {
            let found = "the server has not written their status";
            report.warn("tasks", found, "ask again in a moment; it writes to its data directory");
        }
        (Server::Running, Some(status)) => {
            let silent_ms = now_ms.saturating_sub(status.written_at_ms);
            if silent_ms > STALE_MS {
                let found = format!("the server has not written their status for {}", length(silent_ms));
                report.warn("tasks", found, "the server hangs, or cannot write: see its log, and restart it");
                return;
            }
            for task in &status.tasks {
                task.check(status.now_ms, report);
            }
        }
    }
}

impl TaskLine {
    /// Since when it is due, or under way, if that is too long.
    fn late(&self, now_ms: u64) -> Option<String> {
        let every = length(self.every_ms);
        if let Some(since_ms) = self.running_since_ms {
            let for_ms = now_ms.saturating_sub(since_ms);
            return (for_ms > LATE_INTERVALS * self.every_ms).then(|| {
                format!("a run has been under way for {}; it is to run every {every}", length(for_ms))
            });
        }
        // The next run was set one interval ahead, when the last one ended.
        let ended_ms = self.next_run_ms?.saturating_sub(self.every_ms);
        let for_ms = now_ms.saturating_sub(ended_ms);
        (for_ms > LATE_INTERVALS * self.every_ms)
            .then(|| format!("it has not run for {}; it is to run every {every}", length(for_ms)))
    }

    /// Its last run, its duration, and its next run.
    fn in_words(&self, now_ms: u64) -> String {
        let last = match (self.last_run_ms, self.last_duration_ms) {
            (Some(at_ms), Some(took_ms)) => {
                let ago = length(now_ms.saturating_sub(at_ms));
                format!("last run {ago} ago, took {}", length(took_ms))
            }
            _ => "no run yet".to_owned(),
        };
        let next = match (self.running_since_ms, self.next_run_ms) {
            (Some(since_ms), _) => format!("running for {}", length(now_ms.saturating_sub(since_ms))),
            (None, Some(next_ms)) => format!("next in {}", length(next_ms.saturating_sub(now_ms))),
            (None, None) => "no next run: the server stops".to_owned(),
        };
        format!("{last}; {next}")
    }

    fn check(&self, now_ms: u64, report: &mut DoctorReport) {
        let name = format!("task {}", self.name);
        let words = self.in_words(now_ms);
        let error = self.last_error.as_deref().unwrap_or("without a word");
        if let Some(late) = self.late(now_ms) {
            report.warn(&name, format!("{late}; {words}"), "see the server's log, and restart it");
        } else if self.failures_in_a_row > 0 {
            let found = format!("failed {} times in a row: {error}; {words}", self.failures_in_a_row);
            report.warn(&name, found, "it runs again by itself; if it goes on, mend what the error says");
        } else {
            let before = match self.last_error_ms {
                Some(at_ms) => {
                    let ago = length(now_ms.saturating_sub(at_ms));
                    format!("; {} of {} failed, last {ago} ago: {error}", self.failures, self.runs)
                }
                None => String::new(),
            };
            report.ok(&name, format!("{words}{before}"));
        }
    }
}

/// A length of time in words.
fn length(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::doctor::Verdict;

    const NOW_MS: u64 = 10_000_000;

    /// A sweep that ran ten seconds ago, and runs every twenty.
    fn sweep() -> TaskLine {
        TaskLine {
            name: "sweep".into(),
            every_ms: 20_000,
            runs: 5,
            failures: 0,
            failures_in_a_row: 0,
            running_since_ms: None,
            last_run_ms: Some(NOW_MS - 10_300),
            last_duration_ms: Some(300),
            last_success_ms: Some(NOW_MS - 10_300),
            last_error: None,
            last_error_ms: None,
            next_run_ms: Some(NOW_MS + 10_000),
        }
    }

    fn status(task: TaskLine) -> ServerStatus {
        ServerStatus { process: 7, written_at_ms: 500_000, now_ms: NOW_MS, tasks: vec![task] }
    }

    fn checked(server: Server, status: Option<&ServerStatus>, now_ms: u64) -> Vec<(String, Verdict, String)> {
        let mut report = DoctorReport::default();
        check_tasks(server, status, now_ms, &mut report);
        report.0.into_iter().map(|line| (line.check, line.verdict, line.found)).collect()
    }

    fn one(task: TaskLine) -> (Verdict, String) {
        let mut lines = checked(Server::Running, Some(&status(task)), 505_000);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (check, verdict, found) = lines.remove(0);
        assert_eq!(check, "task sweep");
        (verdict, found)
    }

    #[test]
    fn a_task_that_is_well_says_when_it_ran_how_long_it_took_and_when_it_runs_next() {
        let well = one(sweep());
        assert_eq!(well, (Verdict::Ok, "last run 10 s ago, took 0.3 s; next in 10 s".into()));
        let healed = TaskLine {
            failures: 2,
            last_error: Some("no network".into()),
            last_error_ms: Some(NOW_MS - 600_000),
            ..sweep()
        };
        let said = one(healed);
        assert_eq!(said.0, Verdict::Ok);
        assert!(said.1.ends_with("; 2 of 5 failed, last 10 min ago: no network"), "{}", said.1);
        let first = TaskLine { runs: 0, last_run_ms: None, last_duration_ms: None, ..sweep() };
        assert_eq!(one(first), (Verdict::Ok, "no run yet; next in 10 s".into()));
    }

    #[test]
    fn a_task_that_fails_says_how_often_and_why() {
        let failing =
            TaskLine { failures: 3, failures_in_a_row: 3, last_error: Some("no network".into()), ..sweep() };
        let (verdict, found) = one(failing);
        assert_eq!(verdict, Verdict::Warn);
        assert!(found.starts_with("failed 3 times in a row: no network; last run 10 s ago"), "{found}");
    }

    #[test]
    fn a_task_that_has_not_run_for_three_times_its_interval_is_late() {
        // Its last run ended this long ago.
        let since = |ms: u64| TaskLine { next_run_ms: Some(NOW_MS + 20_000 - ms), ..sweep() };
        assert_eq!(one(since(60_000)).0, Verdict::Ok);
        let (verdict, found) = one(since(60_001));
        assert_eq!(verdict, Verdict::Warn);
        assert!(found.starts_with("it has not run for 60 s; it is to run every 20 s"), "{found}");
        let under_way =
            |ms: u64| TaskLine { running_since_ms: Some(NOW_MS - ms), next_run_ms: None, ..sweep() };
        assert_eq!(one(under_way(60_000)).0, Verdict::Ok);
        let (verdict, found) = one(under_way(61_000));
        assert_eq!(verdict, Verdict::Warn);
        assert!(found.starts_with("a run has been under way for 61 s"), "{found}");
    }

    #[test]
    fn a_server_that_hangs_and_one_that_is_not_there_are_told_apart() {
        let status = status(sweep());
        let hangs = checked(Server::Running, Some(&status), 500_000 + STALE_MS + 1);
        assert!(hangs[0].2.contains("has not written their status for 60 s"), "{hangs:?}");
        let absent = checked(Server::Absent, Some(&status), 800_000);
        assert!(absent[0].2.contains("the server is not running; it last wrote 5 min ago"), "{absent:?}");
        assert!(
            hangs
                .iter()
                .chain(&absent)
                .all(|(check, verdict, _)| (check.as_str(), *verdict) == ("tasks", Verdict::Warn))
        );
        assert_eq!(checked(Server::Running, None, 0)[0].1, Verdict::Warn);
        assert_eq!(checked(Server::Absent, None, 0), []);
    }
}
