//! One driver for everything that is looked at every so often.
//!
//! # Guarantees
//! - The first run of a task begins one interval after the start, and each further one an interval after the
//!   end of the run before it: a task that is late does not pile up, and none runs twice at once.
//! - An error or a panic ends one run of one task. It is counted, and the task runs again after its interval.
//! - A shutdown ends waits and runs at their next await point; what a task does not finish, its next run
//!   finds again.
//! - The status of every task can be read at any time ([`Driver::status`]). Nothing of it is in the journal.
//!
//! # Assumptions A run keeps nothing half-done in memory that a later run relies on: it may be dropped at any
//! await point, and may have panicked anywhere.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::port::error::in_words;

/// The longest error that a status keeps, in characters: several causes, and no page of HTML.
const ERROR_MAX: usize = 1_000;

/// Why a run failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Something that is looked at every so often.
#[async_trait]
pub trait Task: Send + 'static {
    /// Its name in the status and in logs, unique among the tasks of a driver.
    fn name(&self) -> &'static str;

    /// From the end of one run to the beginning of the next one.
    fn every(&self) -> Duration;

    /// One run. It may be dropped at any await point.
    ///
    /// # Errors
    /// What kept it from finishing; the next run tries again.
    async fn once(&mut self) -> Result<(), Failure>;
}

/// What is known of one task. Times are in milliseconds since the Unix epoch, by the driver's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
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
    pub running_since_ms: Option<u64>,
    /// When the last run that has ended began.
    pub last_run_ms: Option<u64>,
    /// How long it took, in milliseconds.
    pub last_duration_ms: Option<u64>,
    /// When the last run that did not fail began.
    pub last_success_ms: Option<u64>,
    /// What the last run that failed said, with its causes.
    pub last_error: Option<String>,
    /// When that run began.
    pub last_error_ms: Option<u64>,
    /// When the next run begins. `None` while one is under way, before the start and after the shutdown.
    pub next_run_ms: Option<u64>,
}

/// Runs tasks, each at its interval. Cheap to clone; all clones share the tasks and their status.
#[derive(Clone)]
pub struct Driver {
    clock: Clock,
    tasks: Arc<[Arc<Entry>]>,
}

/// One task and what is known of it.
struct Entry {
    every: Duration,
    task: tokio::sync::Mutex<Box<dyn Task>>,
    status: Mutex<TaskStatus>,
}

impl Driver {
    /// A driver of these tasks.
    #[must_use]
    pub fn new(clock: Clock, tasks: Vec<Box<dyn Task>>) -> Self {
        Self { clock, tasks: tasks.into_iter().map(|task| Arc::new(Entry::new(task))).collect() }
    }

    /// What is known of each task, in the order in which they were given.
    #[must_use]
    pub fn status(&self) -> Vec<TaskStatus> {
        self.tasks.iter().map(|entry| entry.status().clone()).collect()
    }

    /// Starts all tasks, side by side. Each ends when the shutdown is asked for, or with the set.
    pub fn start(&self, running: &mut JoinSet<()>, shutdown: &Shutdown) {
        for entry in self.tasks.iter() {
            running.spawn(Arc::clone(entry).repeat(self.clock.clone(), shutdown.clone()));
        }
    }
}

impl Entry {
    fn new(task: Box<dyn Task>) -> Self {
        let every = task.every();
        let status = TaskStatus {
            name: task.name().to_owned(),
            every_ms: millis(every),
            runs: 0,
            failures: 0,
            failures_in_a_row: 0,
            running_since_ms: None,
            last_run_ms: None,
            last_duration_ms: None,
            last_success_ms: None,
            last_error: None,
            last_error_ms: None,
            next_run_ms: None,
        };
        Self { every, task: tokio::sync::Mutex::new(task), status: Mutex::new(status) }
    }

    fn status(&self) -> MutexGuard<'_, TaskStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one task at its interval.
    async fn repeat(self: Arc<Self>, clock: Clock, shutdown: Shutdown) {
        let mut task = self.task.lock().await;
        loop {
            self.waits(clock.now_ms());
            tokio::select! {
                biased;
                () = shutdown.asked() => break,
                () = clock.sleep(self.every) => {}
            }
            let began_ms = clock.now_ms();
            self.begins(began_ms);
            let ended = tokio::select! {
                biased;
                () = shutdown.asked() => break,
                ended = caught(task.once()) => ended,
            };
            self.ends(began_ms, clock.now_ms(), &ended);
        }
        self.stops();
    }

    fn waits(&self, now_ms: u64) {
        self.status().next_run_ms = Some(now_ms.saturating_add(millis(self.every)));
    }

    fn begins(&self, now_ms: u64) {
        let mut status = self.status();
        status.next_run_ms = None;
        status.running_since_ms = Some(now_ms);
    }

    fn ends(&self, began_ms: u64, now_ms: u64, ended: &Result<(), Trouble>) {
        let mut status = self.status();
        let failed_before = status.failures_in_a_row;
        status.running_since_ms = None;
        status.runs += 1;
        status.last_run_ms = Some(began_ms);
        status.last_duration_ms = Some(now_ms.saturating_sub(began_ms));
        match ended {
            Ok(()) => {
                status.failures_in_a_row = 0;
                status.last_success_ms = Some(began_ms);
            }
            Err(trouble) => {
                status.failures += 1;
                status.failures_in_a_row += 1;
                status.last_error = Some(trouble.to_string().chars().take(ERROR_MAX).collect());
                status.last_error_ms = Some(began_ms);
            }
        }
        report(&status, failed_before, ended);
    }

    fn stops(&self) {
        let mut status = self.status();
        status.next_run_ms = None;
        status.running_since_ms = None;
    }
}

/// How a run failed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// With an error.
    #[error("{}", in_words(.0.as_ref()))]
    Failed(Failure),
    /// With a panic, which is a bug.
    #[error("it panicked: {0}")]
    Panicked(String),
}

/// Tells the log what an operator should know: not of one failure, which the next run may heal; of the second
/// one in a row, and now and then of those that go on; and of the first run that works again.
fn report(status: &TaskStatus, failed_before: u64, ended: &Result<(), Trouble>) {
    let TaskStatus { name, every_ms, runs, failures, failures_in_a_row, last_success_ms, .. } = status;
    match ended {
        Ok(()) if failed_before > 1 => {
            info!(task = %name, failed = failed_before, "a periodic task works again");
        }
        Ok(()) => {}
        Err(trouble @ Trouble::Panicked(_)) => {
            error!(task = %name, %trouble, failures_in_a_row, runs, failures, "BUG: a periodic task panicked; it runs again");
        }
        Err(trouble) if is_worth_a_warning(*failures_in_a_row) => {
            warn!(
                task = %name, error = %trouble, failures_in_a_row, runs, failures, every_ms, last_success_ms,
                "a periodic task fails; it runs again after its interval until it works"
            );
        }
        Err(trouble) => {
            debug!(task = %name, error = %trouble, failures_in_a_row, "a periodic task failed; its next run tries again");
        }
    }
}

/// Two failures in a row begin it; then 64, 128, …: a sweep that fails for a day has seven lines.
const fn is_worth_a_warning(failures_in_a_row: u64) -> bool {
    failures_in_a_row == 2 || failures_in_a_row >= 64 && failures_in_a_row.is_power_of_two()
}

/// A run whose panic is an answer.
async fn caught(run: impl Future<Output = Result<(), Failure>>) -> Result<(), Trouble> {
    let mut run = pin!(run);
    poll_fn(|context| poll_caught(run.as_mut(), context)).await
}

fn poll_caught(
    run: Pin<&mut impl Future<Output = Result<(), Failure>>>,
    context: &mut Context<'_>,
) -> Poll<Result<(), Trouble>> {
    // A run that has panicked is never polled again.
    match catch_unwind(AssertUnwindSafe(|| run.poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(ended)) => Poll::Ready(ended.map_err(Trouble::Failed)),
        Err(panic) => Poll::Ready(Err(Trouble::Panicked(words_of(panic.as_ref())))),
    }
}

/// What a panic said, where it said anything.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use perennial_engine::shutdown::ShutdownTrigger;

    use super::*;

    /// What a run of a task in these tests does.
    #[derive(Clone, Copy)]
    enum Deed {
        Work(Duration),
        Fail,
        Panic,
    }

    /// Does one deed after the other, and the last one again and again.
    struct Scripted {
        name: &'static str,
        every: Duration,
        deeds: Vec<Deed>,
        clock: Clock,
        /// When each run began, in seconds.
        began: Arc<Mutex<Vec<u64>>>,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the journal cannot be read")]
    struct Unreadable {
        source: std::io::Error,
    }

    #[async_trait]
    impl Task for Scripted {
        fn name(&self) -> &'static str {
            self.name
        }

        fn every(&self) -> Duration {
            self.every
        }

        async fn once(&mut self) -> Result<(), Failure> {
            let run = {
                let mut began = self.began.lock().unwrap();
                began.push(self.clock.now_ms() / 1_000);
                began.len()
            };
            match self.deeds.get(run - 1).or(self.deeds.last()).copied() {
                Some(Deed::Fail) => {
                    Err(Unreadable { source: std::io::Error::other("the disk is gone") }.into())
                }
                Some(Deed::Panic) => panic!("BUG: said in a test"),
                Some(Deed::Work(takes)) => {
                    self.clock.sleep(takes).await;
                    Ok(())
                }
                None => Ok(()),
            }
        }
    }

    struct Bench {
        clock: Clock,
        tasks: Vec<Box<dyn Task>>,
    }

    impl Bench {
        fn new() -> Self {
            Self { clock: Clock::scaled(0, 1.0), tasks: Vec::new() }
        }

        /// A task; what is returned holds when its runs began.
        fn task(&mut self, name: &'static str, every_s: u64, deeds: &[Deed]) -> Arc<Mutex<Vec<u64>>> {
            let began = Arc::default();
            self.tasks.push(Box::new(Scripted {
                name,
                every: Duration::from_secs(every_s),
                deeds: deeds.to_vec(),
                clock: self.clock.clone(),
                began: Arc::clone(&began),
            }));
            began
        }

        fn start(self) -> (Driver, ShutdownTrigger, JoinSet<()>) {
            let driver = Driver::new(self.clock, self.tasks);
            let (trigger, shutdown) = Shutdown::new();
            let mut running = JoinSet::new();
            driver.start(&mut running, &shutdown);
            (driver, trigger, running)
        }
    }

    async fn until_s(driver: &Driver, at_s: u64) {
        driver.clock.sleep_until_ms(at_s * 1_000 + 500).await;
    }

    const QUICK: Deed = Deed::Work(Duration::ZERO);

    #[tokio::test(start_paused = true)]
    async fn every_task_runs_at_its_own_interval() {
        let mut bench = Bench::new();
        let often = bench.task("often", 5, &[QUICK]);
        let seldom = bench.task("seldom", 60, &[QUICK]);
        let (driver, _trigger, _running) = bench.start();
        until_s(&driver, 61).await;
        assert_eq!(*often.lock().unwrap(), [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]);
        assert_eq!(*seldom.lock().unwrap(), [60]);
        let status = driver.status();
        assert_eq!(status.iter().map(|task| task.runs).collect::<Vec<_>>(), [12, 1]);
        assert_eq!(
            status.iter().map(|task| task.next_run_ms).collect::<Vec<_>>(),
            [Some(65_000), Some(120_000)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_late_does_not_pile_up() {
        let mut bench = Bench::new();
        let late = bench.task("late", 10, &[Deed::Work(Duration::from_secs(95)), QUICK]);
        let (driver, _trigger, _running) = bench.start();
        until_s(&driver, 50).await;
        let status = driver.status().remove(0);
        assert_eq!((status.running_since_ms, status.next_run_ms, status.runs), (Some(10_000), None, 0));
        until_s(&driver, 120).await;
        assert_eq!(
            *late.lock().unwrap(),
            [10, 115],
            "one run after the long one, not the nine that it missed"
        );
        assert_eq!(driver.status()[0].last_run_ms, Some(115_000));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_or_a_panic_of_one_task_harms_no_other_and_ends_no_task() {
        let mut bench = Bench::new();
        let failing = bench.task("failing", 10, &[Deed::Fail]);
        let panicking = bench.task("panicking", 10, &[Deed::Panic, QUICK]);
        let well = bench.task("well", 10, &[QUICK]);
        let (driver, _trigger, _running) = bench.start();
        until_s(&driver, 30).await;
        for began in [failing, panicking, well] {
            assert_eq!(*began.lock().unwrap(), [10, 20, 30]);
        }
        let counted: Vec<_> = driver
            .status()
            .into_iter()
            .map(|task| (task.runs, task.failures, task.failures_in_a_row))
            .collect();
        assert_eq!(counted, [(3, 3, 3), (3, 1, 0), (3, 0, 0)]);
        let errors: Vec<_> = driver.status().into_iter().map(|task| task.last_error).collect();
        assert_eq!(
            errors,
            [
                Some("the journal cannot be read: the disk is gone".to_owned()),
                Some("it panicked: BUG: said in a test".to_owned()),
                None,
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_ends_a_wait_and_a_run() {
        let mut bench = Bench::new();
        let waiting = bench.task("waiting", 3_600, &[QUICK]);
        let working = bench.task("working", 10, &[Deed::Work(Duration::from_secs(3_600))]);
        let (driver, trigger, mut running) = bench.start();
        until_s(&driver, 20).await;
        trigger.ask();
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
        assert_eq!(driver.clock.now_ms() / 1_000, 20, "at once");
        assert_eq!((waiting.lock().unwrap().len(), working.lock().unwrap().len()), (0, 1));
        for status in driver.status() {
            assert_eq!((status.runs, status.running_since_ms, status.next_run_ms), (0, None, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_says_what_became_of_the_last_run_and_keeps_the_last_error() {
        let mut bench = Bench::new();
        bench.task("sweep", 20, &[QUICK, Deed::Fail, Deed::Work(Duration::from_secs(3))]);
        let (driver, _trigger, _running) = bench.start();
        until_s(&driver, 0).await;
        let written = serde_json::to_string_pretty(&driver.status()[0]).unwrap();
        expect![[r#"
            {
              "name": "sweep",
              "every_ms": 20000,
              "runs": 0,
              "failures": 0,
              "failures_in_a_row": 0,
              "running_since_ms": null,
              "last_run_ms": null,
              "last_duration_ms": null,
              "last_success_ms": null,
              "last_error": null,
              "last_error_ms": null,
              "next_run_ms": 20000
            }"#]]
        .assert_eq(&written);
        until_s(&driver, 64).await;
        let written = serde_json::to_string_pretty(&driver.status()[0]).unwrap();
        expect![[r#"
            {
              "name": "sweep",
              "every_ms": 20000,
              "runs": 3,
              "failures": 1,
              "failures_in_a_row": 0,
              "running_since_ms": null,
              "last_run_ms": 60000,
              "last_duration_ms": 3000,
              "last_success_ms": 60000,
              "last_error": "the journal cannot be read: the disk is gone",
              "last_error_ms": 40000,
              "next_run_ms": 83000
            }"#]]
        .assert_eq(&written);
        assert_eq!(serde_json::from_str::<TaskStatus>(&written).unwrap(), driver.status()[0]);
    }

    #[test]
    fn a_warning_is_due_when_failures_repeat_and_not_each_time() {
        let due: Vec<u64> = (0..=300).filter(|failures| is_worth_a_warning(*failures)).collect();
        assert_eq!(due, [2, 64, 128, 256]);
    }
}
