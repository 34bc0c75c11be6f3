//! What durable workflows cost: ten no-op steps one after the other, through the real engine, worker pool,
//! journal and queue.
//!
//! `cargo bench -p perennial-store --bench workflow` prints three tables. Arguments after `--`:
//!
//! | argument | what | default |
//! | --- | --- | --- |
//! | `seconds=` | how long each run is, after half a second of warming up | 3 |
//! | `rounds=` | how often each is run; the median by rate is shown | 3 |
//! | `in_flight=` | only this many workflows in flight, and nothing else | all of 1, 8, 64, 256 |
//! | `only=growth` | nothing but the last table | |
//! | `only=execute` | nothing but the engine's own processor time, over a journal in memory | |
//! | `workflows=` | how many workflows that runs | 100 000 |
//! | `growth=` | how many workflows are finished before the last measurement; 0 for none | 100 000 |
//! | `runtime=` | `multi` (two threads, as the binary has on this machine) or `current` | `multi` |
//!
//! # The workflow
//! Shaped as the real ones: `started` and the first `step_intended` in one append; `step_settled` and the
//! next `step_intended` in one append; `step_settled` and `finished` in the last. So 11 appends and 22 JSON
//! events, each append fenced, chained, fsynced, with its open steps and summary. A workflow's time runs from
//! the command that starts it to the acknowledgement of `finished`.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::{Dispatcher, StepResult, StepRunner};
use perennial_engine::domain::{
    Append, Decision, DecodeError, Domain, Illegal, OpenStep, Projected, Reads, Stamp, Summary, World,
};
use perennial_engine::engine::Engine;
use perennial_engine::ids::{Seq, StreamId, Token};
use perennial_engine::intercept::{Intercept, Intercepted};
use perennial_engine::journal::{AppendError, Appended, Batch, EventData, Journal};
use perennial_engine::limits::Limits;
use perennial_engine::memory::MemoryJournal;
use perennial_engine::shutdown::Shutdown;
use perennial_store::{Durability, EmbeddedQueue, Options, QueueSettings, SqliteJournal};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use common::{Cpu, Numbers, argument, numbers, raw, syncs};

const STEPS: u32 = 10;

/// The in-flight number of the growth table, and of the target.
const MANY: usize = 64;

fn main() {
    let seconds = Duration::from_secs_f64(argument("seconds", 3.0));
    let rounds = argument("rounds", 3_usize).max(1);
    let only = argument("in_flight", 0_usize);
    let growth = argument("growth", 100_000_u64);
    let runtime = match argument("runtime", String::from("multi")).as_str() {
        "current" => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
    };
    runtime.unwrap().block_on(async {
        if argument("only", String::new()) == "growth" {
            return grow(growth).await;
        }
        if argument("only", String::new()) == "execute" {
            return execute(argument("workflows", 100_000)).await;
        }
        if only > 0 {
            println!("{HEADER}");
            for _ in 0..rounds {
                closed_loop(only, seconds).await.print(only, f64::NAN);
            }
            return;
        }
        let raw_rate = calibrate(seconds).await;
        println!("\nworkflows of {STEPS} no-op steps, median of {rounds} runs");
        println!("{HEADER}");
        for in_flight in [1, 8, MANY, 256] {
            let mut runs = Vec::new();
            for _ in 0..rounds {
                runs.push(closed_loop(in_flight, seconds).await);
            }
            runs.sort_by(|a, b| a.whole.rate.total_cmp(&b.whole.rate));
            runs[rounds / 2].print(in_flight, raw_rate);
        }
        calibrate(seconds).await;
        if growth > 0 {
            grow(growth).await;
        }
    });
}

const HEADER: &str = "\
| in flight | workflows/s | steps/s | events/s | p50 ms | p99 ms | steps/s ÷ raw loop | CPU µs per step | CPUs used by others |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |";

/// What the machine does by itself, now. Returns the raw loop's rate.
async fn calibrate(seconds: Duration) -> f64 {
    let sync = tokio::task::spawn_blocking(move || syncs(seconds.min(Duration::from_secs(1)))).await.unwrap();
    let raw = raw(MANY, seconds).await;
    println!("\n| calibration | /s | p50 ms | p99 ms |\n| --- | ---: | ---: | ---: |");
    println!("| fdatasync of 300 bytes | {:.0} | {:.2} | {:.2} |", sync.rate, sync.p50_ms, sync.p99_ms);
    println!(
        "| raw group-commit loop, {MANY} appenders | {:.0} | {:.2} | {:.2} |",
        raw.rate, raw.p50_ms, raw.p99_ms
    );
    raw.rate
}

struct Run {
    whole: Numbers,
    cpu_us: f64,
    others: f64,
    events: f64,
}

impl Run {
    fn print(&self, in_flight: usize, raw_rate: f64) {
        let steps = self.whole.rate * f64::from(STEPS);
        println!(
            "| {in_flight} | {:.0} | {steps:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.0} | {:.2} |",
            self.whole.rate,
            self.whole.rate * self.events,
            self.whole.p50_ms,
            self.whole.p99_ms,
            steps / raw_rate,
            self.cpu_us,
            self.others
        );
    }
}

async fn closed_loop(in_flight: usize, seconds: Duration) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path());
    let (begun, start) = (Cpu::now(), Instant::now());
    let warm = start + Duration::from_millis(500);
    let end = warm + seconds;
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let bench = Arc::clone(&bench);
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(1 << 12);
            loop {
                let start = Instant::now();
                if start >= end {
                    return latencies;
                }
                bench.workflow().await;
                // Those that end after the end are no part of the rate.
                if start >= warm && Instant::now() < end {
                    latencies.push(start.elapsed());
                }
            }
        });
    }
    let latencies = tasks.join_all().await.into_iter().flatten().collect();
    let (cpu, took) = (Cpu::since(begun), start.elapsed().as_secs_f64());
    let finished = bench.started.load(Ordering::Relaxed) as f64;
    let run = Run {
        whole: numbers(latencies, seconds),
        cpu_us: cpu.ours * 1e6 / (finished * f64::from(STEPS)),
        others: (cpu.all - cpu.ours) / took,
        events: bench.watched.intercept.events.load(Ordering::Relaxed) as f64 / finished,
    };
    Bench::stop(bench).await;
    run
}

/// The processor time of the engine alone: each command of each workflow, one after the other, over a journal
/// in memory, without dispatcher and queue.
async fn execute(workflows: u64) {
    let engine = Engine::<Noop>::new(Arc::new(MemoryJournal::default()), Clock::system());
    let begun = Cpu::now();
    for n in 0..workflows {
        let workflow = StreamId::parse(&format!("workflow/node-{}.{n}", n % 997)).unwrap();
        engine.execute(Command::Start { workflow: workflow.clone() }).await.unwrap();
        for step in 1..=u64::from(STEPS) {
            // Each append but the last ends with an intent, whose place is the token.
            let (token, evidence) =
                (Token(2 * step), Evidence { observed: "it is as it should be".to_owned() });
            engine.execute(Command::Report { workflow: workflow.clone(), token, evidence }).await.unwrap();
        }
    }
    let commands = workflows * (u64::from(STEPS) + 1);
    let each_us = Cpu::since(begun).ours * 1e6 / commands as f64;
    println!("{commands} commands, CPU µs each: {each_us:.2}");
}

/// One journal that grows: the rate of the same number of workflows after few and after many finished ones.
async fn grow(most: u64) {
    const WINDOW: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path());
    println!("\none journal, {MANY} in flight, {WINDOW} workflows each");
    println!(
        "| finished before | workflows/s | of the first | CPU µs per step | of the first | CPUs used by others | fdatasync/s |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut marks = vec![1_000];
    while marks.last().is_some_and(|&mark| mark < most) {
        marks.push((marks[marks.len() - 1] * 10).min(most));
    }
    let mut first = None;
    for mark in marks {
        let before = bench.started.load(Ordering::Relaxed);
        bench.workflows(mark.saturating_sub(before)).await;
        let before = bench.started.load(Ordering::Relaxed);
        let sync = tokio::task::spawn_blocking(|| syncs(Duration::from_millis(500))).await.unwrap();
        let (begun, start) = (Cpu::now(), Instant::now());
        bench.workflows(WINDOW).await;
        let (cpu, took) = (Cpu::since(begun), start.elapsed().as_secs_f64());
        let rate = WINDOW as f64 / took;
        let cpu_us = cpu.ours * 1e6 / (WINDOW * u64::from(STEPS)) as f64;
        let (first_rate, first_cpu_us) = *first.get_or_insert((rate, cpu_us));
        println!(
            "| {before} | {rate:.0} | {:.2} | {cpu_us:.1} | {:.2} | {:.2} | {:.0} |",
            rate / first_rate,
            cpu_us / first_cpu_us,
            (cpu.all - cpu.ours) / took,
            sync.rate
        );
    }
    Bench::stop(bench).await;
}

/// An engine with its workers over files in a directory.
struct Bench {
    engine: Engine<Noop>,
    watched: Arc<Intercepted<Watch>>,
    started: AtomicU64,
    stop: perennial_engine::shutdown::ShutdownTrigger,
    workers: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Bench {
    fn start(dir: &Path) -> Arc<Self> {
        let journal = SqliteJournal::open(&dir.join("journal.sqlite"), Options::default()).unwrap();
        let watched = Arc::new(Intercepted { journal: Arc::new(journal), intercept: Watch::default() });
        let settings = QueueSettings { durability: Durability::Hint, ..QueueSettings::default() };
        let queue = EmbeddedQueue::open(dir, "steps", settings, Clock::system()).unwrap();
        let engine = Engine::new(Arc::clone(&watched) as Arc<dyn Journal>, Clock::system());
        let workers =
            Dispatcher::new(engine.clone(), Arc::new(queue), Arc::new(NoopRunner), Limits::default());
        let (stop, shutdown) = Shutdown::new();
        let workers = Mutex::new(Some(tokio::spawn(workers.run(shutdown))));
        Arc::new(Self { engine, watched, started: AtomicU64::new(0), stop, workers })
    }

    async fn stop(bench: Arc<Self>) {
        bench.stop.ask();
        let workers = bench.workers.lock().unwrap().take().unwrap();
        workers.await.unwrap();
        tokio::task::spawn_blocking(move || drop(bench)).await.unwrap();
    }

    /// Starts one workflow and waits until it is finished.
    async fn workflow(&self) {
        let n = self.started.fetch_add(1, Ordering::Relaxed);
        let workflow = StreamId::parse(&format!("workflow/node-{}.{n}", n % 997)).unwrap();
        let (finished, told) = oneshot::channel();
        self.watched.intercept.waiting.lock().unwrap().insert(workflow.clone(), finished);
        self.engine.execute(Command::Start { workflow }).await.unwrap();
        told.await.unwrap();
    }

    /// Runs so many workflows, [`MANY`] at once.
    async fn workflows(self: &Arc<Self>, count: u64) {
        let left = Arc::new(AtomicU64::new(count));
        let mut tasks = JoinSet::new();
        for _ in 0..MANY {
            let (bench, left) = (Arc::clone(self), Arc::clone(&left));
            tasks.spawn(async move {
                let take = |left: u64| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    bench.workflow().await;
                }
            });
        }
        tasks.join_all().await;
    }
}

/// An eye on what is acknowledged.
#[derive(Default)]
struct Watch {
    waiting: Mutex<HashMap<StreamId, oneshot::Sender<()>>>,
    events: AtomicU64,
}

#[async_trait]
impl Intercept for Watch {
    async fn append(&self, to: &dyn Journal, batch: Batch) -> Result<Appended, AppendError> {
        let events: usize = batch.appends.iter().map(|append| append.events.len()).sum();
        let finished = batch
            .appends
            .first()
            .filter(|append| append.events.last().is_some_and(|event| event.kind == "operation.finished"))
            .map(|append| append.stream.clone());
        let appended = to.append(batch).await?;
        self.events.fetch_add(events as u64, Ordering::Relaxed);
        if let Some(workflow) = finished
            && let Some(waiting) = self.waiting.lock().unwrap().remove(&workflow)
        {
            let _ = waiting.send(());
        }
        Ok(appended)
    }
}

/// A step that does nothing.
struct NoopRunner;

#[async_trait]
impl StepRunner<Noop> for NoopRunner {
    async fn run(&self, _: &StreamId, step: &OpenStep<Intent>, _: u32) -> StepResult<Evidence> {
        StepResult::Settled(Evidence { observed: format!("{} is as it should be", step.intent.volume) })
    }
}

/// The domain: a line of steps, each with a request of a realistic size.
struct Noop;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Intent {
    volume: String,
    client_token: String,
    tags: Vec<(String, String)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Evidence {
    observed: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Started { steps: u32, cause: String },
    StepIntended { step: String, intent: Intent, not_before_ms: u64, deadline_ms: u64 },
    StepSettled { token: Token, step: String, evidence: Evidence },
    Finished {},
}

#[derive(Debug, Clone)]
enum Command {
    Start { workflow: StreamId },
    Report { workflow: StreamId, token: Token, evidence: Evidence },
}

#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    steps: u32,
    done: u32,
    open: Option<OpenStep<Intent>>,
    started_at_ms: u64,
    finished_at_ms: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("refused: {0}")]
struct Rejection(&'static str);

fn intended(workflow: &StreamId, n: u32, now_ms: u64) -> Event {
    let token = blake3::hash(format!("{workflow}:{n}").as_bytes()).to_hex();
    Event::StepIntended {
        step: format!("attach_data:{n}"),
        intent: Intent {
            volume: format!("vol-{}", &token[..17]),
            client_token: token.to_string(),
            tags: vec![
                ("perennial:owner".into(), "bench".into()),
                ("perennial:node".into(), workflow.name().into()),
            ],
        },
        not_before_ms: now_ms,
        deadline_ms: now_ms + 600_000,
    }
}

impl Domain for Noop {
    type Event = Event;
    type State = State;
    type Command = Command;
    type Intent = Intent;
    type Evidence = Evidence;
    type Rejection = Rejection;

    fn encode(event: &Event) -> EventData {
        let kind = match event {
            Event::Started { .. } => "operation.started",
            Event::StepIntended { .. } => "operation.step_intended",
            Event::StepSettled { .. } => "operation.step_settled",
            Event::Finished {} => "operation.finished",
        };
        EventData { kind: kind.to_owned(), version: 1, body: serde_json::to_string(event).unwrap() }
    }

    fn decode(data: &EventData) -> Result<Event, DecodeError> {
        serde_json::from_str(&data.body).map_err(|error| DecodeError::Malformed {
            kind: data.kind.clone(),
            version: data.version,
            why: error.to_string(),
        })
    }

    fn empty(_: &StreamId) -> State {
        State::default()
    }

    fn evolve(mut state: State, stamp: Stamp, event: &Event) -> Result<State, Illegal> {
        match event {
            Event::Started { steps, .. } => {
                state.steps = *steps;
                state.started_at_ms = stamp.at_ms;
            }
            Event::StepIntended { step, intent, not_before_ms, deadline_ms } => {
                state.open = Some(OpenStep {
                    token: stamp.seq.into(),
                    step: step.clone(),
                    intent: Arc::new(intent.clone()),
                    intended_at_ms: stamp.at_ms,
                    made_from_ms: stamp.at_ms,
                    not_before_ms: *not_before_ms,
                    deadline_ms: *deadline_ms,
                    outdated: false,
                    budget_ms: deadline_ms.saturating_sub(stamp.at_ms),
                    optional: false,
                    only_in_time: false,
                    priority: 0,
                    wanted_by_ms: None,
                });
            }
            Event::StepSettled { token, .. } => {
                if state.open.take().is_none_or(|open| open.token != *token) {
                    return Err(Illegal { seq: stamp.seq, why: "it settles what is not open".into() });
                }
                state.done += 1;
            }
            Event::Finished {} => state.finished_at_ms = Some(stamp.at_ms),
        }
        Ok(state)
    }

    fn reads(_: &World<State>, command: &Command) -> Reads {
        let (Command::Start { workflow } | Command::Report { workflow, .. }) = command;
        Reads::written([workflow.clone()])
    }

    fn decide(
        world: &World<State>,
        command: &Command,
        now_ms: u64,
    ) -> Result<Decision<Event, State>, Rejection> {
        let (workflow, events) = match command {
            Command::Start { workflow } => {
                let started = Event::Started { steps: STEPS, cause: "interruption".into() };
                (workflow, vec![started, intended(workflow, 0, now_ms)])
            }
            Command::Report { workflow, token, evidence } => {
                let state = world.get(workflow).ok_or(Rejection("it was not read"))?;
                let open = state.open.as_ref().filter(|open| open.token == *token);
                let open = open.ok_or(Rejection("the token is not open"))?;
                let settled =
                    Event::StepSettled { token: *token, step: open.step.clone(), evidence: evidence.clone() };
                let next = if state.done + 1 == state.steps {
                    Event::Finished {}
                } else {
                    intended(workflow, state.done + 1, now_ms)
                };
                (workflow, vec![settled, next])
            }
        };
        // As a real workflow does, it folds its events while it decides, and hands the state over.
        let mut state = world.get(workflow).cloned().unwrap_or_default();
        let mut seq = world.head(workflow).unwrap_or(Seq::NONE);
        for event in &events {
            seq = seq.next();
            let stamp = Stamp { seq, at_ms: now_ms };
            state = Self::evolve(state, stamp, event).map_err(|_| Rejection("it cannot follow"))?;
        }
        Ok(Decision::of([Append::folded(workflow.clone(), events, state)]))
    }

    fn project(_: &StreamId, state: &State) -> Projected<Intent> {
        if state.steps == 0 {
            return Projected::default();
        }
        let status = if state.finished_at_ms.is_some() { "finished" } else { "running" };
        let ended = state.finished_at_ms.map_or_else(|| "null".to_owned(), |at| at.to_string());
        let body = format!(
            "{{\"kind\":\"replace\",\"status\":\"{status}\",\"started_at_ms\":{},\"ended_at_ms\":{ended}}}",
            state.started_at_ms
        );
        let summary = Some(Summary { open: state.finished_at_ms.is_none(), body });
        Projected { steps: state.open.iter().cloned().collect(), summary, ..Projected::default() }
    }

    fn report(workflow: &StreamId, token: Token, evidence: Evidence) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence }
    }

    fn expired(workflow: &StreamId, token: Token, because: String) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence: Evidence { observed: because } }
    }

    fn timer_due(workflow: &StreamId, _: &str) -> Command {
        Command::Start { workflow: workflow.clone() }
    }
}
