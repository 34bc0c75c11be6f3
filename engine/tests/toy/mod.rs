//! A tiny domain, a runner told what to do, and the world around one engine, for `tests/engine.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::{Dispatcher, StepResult, StepRunner, Turn};
use perennial_engine::domain::{
    Append, Decision, DecodeError, Domain, Illegal, OpenStep, Pace, Projected, Reads, Stamp, Summary, Timer,
    World,
};
use perennial_engine::engine::{Engine, ExecuteError, Executed};
use perennial_engine::ids::{Position, StreamId, Token};
use perennial_engine::intercept::{Intercept, Intercepted};
use perennial_engine::journal::{AppendError, Appended, Batch, EventData, Journal, ReadError, StreamAppend};
use perennial_engine::limits::Limits;
use perennial_engine::machine::{Due, Fault, Intended, Machine, StepRecord, Workflow, open_steps};
use perennial_engine::memory::{MemoryJournal, MemoryQueue, MemoryQueueSettings};
use perennial_engine::queue::{Depth, Outgoing, Queue as _};
use perennial_engine::shutdown::{Shutdown, ShutdownTrigger};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

/// When every test begins.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// A job: steps that are open at once, then steps one after the other; one whose name begins with `&` is open
/// together with the one before it. A job may belong to a fleet, which is a job too, and may carry labels,
/// which are keys.
#[derive(Debug)]
pub struct Toy;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub name: String,
    pub not_before_ms: u64,
    pub deadline_ms: u64,
    pub priority: i32,
}

/// A step that may run from now on, and has ten minutes.
pub fn step(name: &str) -> Intent {
    Intent { name: name.into(), not_before_ms: 0, deadline_ms: EPOCH_MS + 600_000, priority: 0 }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Started { at_once: Vec<Intent>, then: Vec<Intent> },
    Intended { intent: Intent },
    Settled { token: Token, evidence: String },
    Expired { token: Token, because: String },
    Withdrawn { token: Token },
    Noted { text: String },
    Joined { fleet: StreamId },
    Labelled { label: String },
    Unlabelled { label: String },
    AlarmSet { name: String, due_ms: u64 },
    Rang { name: String },
    Finished {},
}

#[derive(Debug, Clone)]
pub enum Command {
    Start {
        job: StreamId,
        at_once: Vec<Intent>,
        then: Vec<Intent>,
    },
    Report {
        job: StreamId,
        token: Token,
        evidence: String,
    },
    Expire {
        job: StreamId,
        token: Token,
        because: String,
    },
    /// Forgets an open step and intends it anew: a new attempt with a new token.
    Again {
        job: StreamId,
        token: Token,
    },
    Note {
        job: StreamId,
        text: String,
        key: Option<String>,
    },
    Join {
        job: StreamId,
        fleet: StreamId,
    },
    /// Adds a label, or takes it off.
    Label {
        job: StreamId,
        label: String,
        on: bool,
    },
    /// A note on a job, and on its fleet if it has one.
    Tell {
        job: StreamId,
        text: String,
    },
    /// A note on every job with a label.
    TellAll {
        label: String,
        text: String,
    },
    /// A note on a job, as long as another one is not finished.
    Follow {
        job: StreamId,
        leader: StreamId,
    },
    /// Sets a timer, or moves it.
    Alarm {
        job: StreamId,
        name: String,
        due_ms: u64,
    },
    /// A timer is due. `deaf` is refused, `idle` has nothing to do, `again` is noted and stays, `hourly` is
    /// due an hour later.
    Ring {
        job: StreamId,
        name: String,
    },
    /// A note, with a state after it that is not its own.
    Lie {
        job: StreamId,
    },
    /// Settles a step that is not open.
    Botch {
        job: StreamId,
    },
    /// Names one more stream each time it is asked what it reads.
    Wander {},
}

impl Command {
    pub fn start(job: &StreamId, at_once: &[&str], then: &[&str]) -> Self {
        let steps = |names: &[&str]| names.iter().map(|name| step(name)).collect();
        Self::Start { job: job.clone(), at_once: steps(at_once), then: steps(then) }
    }

    /// A timer that is due so long after the epoch.
    pub fn alarm(job: &StreamId, name: &str, due: Duration) -> Self {
        let due_ms = EPOCH_MS + due.as_millis() as u64;
        Self::Alarm { job: job.clone(), name: name.into(), due_ms }
    }

    /// A timer that is due at once.
    pub fn react(job: &StreamId, name: &str) -> Self {
        Self::Alarm { job: job.clone(), name: name.into(), due_ms: 0 }
    }

    pub fn note(job: &StreamId, text: &str) -> Self {
        Self::Note { job: job.clone(), text: text.into(), key: None }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub started: bool,
    pub open: BTreeMap<Token, StepRecord<String, Intent>>,
    /// The steps that are to be open.
    pub due: Vec<Intent>,
    pub then: Vec<Intent>,
    pub settled: Vec<String>,
    pub notes: u32,
    pub fleet: Option<StreamId>,
    pub labels: BTreeSet<String>,
    pub alarms: BTreeMap<String, u64>,
    pub finished: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("it was started before")]
    Started,
    #[error("the token is not open")]
    NotOpen,
    #[error("the job that is followed is finished")]
    LeaderFinished,
    #[error("it does not hear")]
    Deaf,
    #[error(transparent)]
    Fault(#[from] Fault<StreamId>),
}

impl Domain for Toy {
    type Event = Event;
    type State = State;
    type Command = Command;
    type Intent = Intent;
    type Evidence = String;
    type Rejection = Rejection;

    fn encode(event: &Event) -> EventData {
        EventData { kind: "toy".into(), version: 1, body: serde_json::to_string(event).unwrap() }
    }

    fn decode(data: &EventData) -> Result<Event, DecodeError> {
        let (kind, version) = (data.kind.clone(), data.version);
        if version > 1 {
            return Err(DecodeError::Newer { kind, version, known: 1 });
        }
        serde_json::from_str(&data.body).map_err(|error| DecodeError::Malformed {
            kind,
            version,
            why: error.to_string(),
        })
    }

    fn empty(_: &StreamId) -> State {
        State::default()
    }

    fn evolve(state: State, stamp: Stamp, event: &Event) -> Result<State, Illegal> {
        Job::evolve(state, stamp, event)
    }

    fn reads(world: &World<State>, command: &Command) -> Reads {
        match command {
            Command::Start { job, .. }
            | Command::Report { job, .. }
            | Command::Expire { job, .. }
            | Command::Again { job, .. }
            | Command::Note { job, .. }
            | Command::Join { job, .. }
            | Command::Lie { job }
            | Command::Botch { job }
            | Command::Alarm { job, .. }
            | Command::Ring { job, .. }
            | Command::Label { job, .. } => Reads::written([job.clone()]),
            Command::Tell { job, .. } => {
                let fleet = world.get(job).and_then(|state| state.fleet.clone());
                Reads::written([job.clone()].into_iter().chain(fleet))
            }
            Command::TellAll { label, .. } => {
                let key = label_key(label);
                Reads::written(world.lookup(&key).iter().cloned()).and_keys([key])
            }
            Command::Follow { job, leader } => Reads::written([job.clone()]).and_observed([leader.clone()]),
            Command::Wander {} => {
                let read = (0..).take_while(|n| world.head(&job(*n)).is_some()).count();
                Reads::default().and_observed((0..=read as u32).map(job))
            }
        }
    }

    fn decide(
        world: &World<State>,
        command: &Command,
        now_ms: u64,
    ) -> Result<Decision<Event, State>, Rejection> {
        let note = |text: &String| vec![Event::Noted { text: text.clone() }];
        let (job, events) = match command {
            Command::Start { job, .. }
            | Command::Report { job, .. }
            | Command::Expire { job, .. }
            | Command::Again { job, .. }
            | Command::Botch { job } => {
                let (state, head) = (world.get(job).unwrap().clone(), world.head(job).unwrap());
                let mut machine = Machine::<Job>::from(job.clone(), state, head, now_ms);
                match command.clone() {
                    Command::Report { token, evidence, .. } => machine.report(token, Seen::Done(evidence))?,
                    Command::Expire { token, because, .. } => {
                        machine.report(token, Seen::OutOfTime(because))?;
                    }
                    command => Job::decide(&mut machine, command)?,
                }
                return Ok(Decision::of(machine.into_append(job.clone(), |event| event, |state| state)));
            }
            Command::Note { job, text, key } => {
                let before = world.get(job).unwrap();
                let state = State { notes: before.notes + 1, ..before.clone() };
                let append = Append::folded(job.clone(), note(text), state);
                return Ok(Decision { key: key.clone(), ..Decision::of([append]) });
            }
            Command::Lie { job } => {
                let state = world.get(job).unwrap().clone();
                return Ok(Decision::of([Append::folded(job.clone(), note(&"lie".into()), state)]));
            }
            Command::Join { job, fleet } => (job, vec![Event::Joined { fleet: fleet.clone() }]),
            Command::Label { job, label, on: true } => (job, vec![Event::Labelled { label: label.clone() }]),
            Command::Label { job, label, on: false } => {
                (job, vec![Event::Unlabelled { label: label.clone() }])
            }
            Command::Alarm { job, name, due_ms } => {
                (job, vec![Event::AlarmSet { name: name.clone(), due_ms: *due_ms }])
            }
            Command::Ring { job, name } => {
                RINGS.with_borrow_mut(|rings| rings.push((name.clone(), job.to_string(), now_ms - EPOCH_MS)));
                match name.as_str() {
                    "deaf" | "paced_deaf" => return Err(Rejection::Deaf),
                    "idle" => (job, vec![]),
                    "again" => (job, note(name)),
                    "hourly" => {
                        (job, vec![Event::AlarmSet { name: name.clone(), due_ms: now_ms + 3_600_000 }])
                    }
                    _ => (job, vec![Event::Rang { name: name.clone() }]),
                }
            }
            Command::Tell { job, text } => {
                let fleet = world.get(job).unwrap().fleet.as_ref().filter(|fleet| *fleet != job);
                let told = [job].into_iter().chain(fleet);
                return Ok(Decision::of(told.map(|told| (told.clone(), note(text)))));
            }
            Command::TellAll { label, text } => {
                let found = world.lookup(&label_key(label)).iter();
                // Found is not enough: the state decides.
                let told = found.filter(|job| world.get(job).unwrap().labels.contains(label));
                return Ok(Decision::of(told.map(|told| (told.clone(), note(text)))));
            }
            Command::Follow { leader, .. } if world.get(leader).unwrap().finished => {
                return Err(Rejection::LeaderFinished);
            }
            Command::Follow { job, leader } => {
                let fences = vec![leader.clone()];
                return Ok(Decision { fences, ..Decision::one(job.clone(), note(&"follows".into())) });
            }
            Command::Wander {} => return Ok(Decision::nothing()),
        };
        Ok(Decision::one(job.clone(), events))
    }

    fn project(_: &StreamId, state: &State) -> Projected<Intent> {
        let mut keys: Vec<String> =
            state.open.values().map(|record| format!("step/{}", record.step)).collect();
        keys.extend(state.labels.iter().map(|label| label_key(label)));
        keys.sort();
        keys.dedup();
        let body = format!("{{\"settled\":{},\"open\":{}}}", state.settled.len(), state.open.len());
        let summary = state.started.then_some(Summary { open: !state.finished, body });
        let alarms = state.alarms.iter();
        let timers = alarms.map(|(name, due_ms)| Timer {
            name: name.clone(),
            due_ms: *due_ms,
            wait_max_ms: if name.starts_with("hourly") { 3_600_000 } else { u64::MAX },
        });
        Projected { steps: open_steps::<Job>(state), keys, summary, timers: timers.collect() }
    }

    fn report(job: &StreamId, token: Token, evidence: String) -> Command {
        Command::Report { job: job.clone(), token, evidence }
    }

    fn expired(job: &StreamId, token: Token, because: String) -> Command {
        Command::Expire { job: job.clone(), token, because }
    }

    fn timer_due(job: &StreamId, name: &str) -> Command {
        Command::Ring { job: job.clone(), name: name.to_owned() }
    }

    fn pace(timer: &str) -> Option<Pace> {
        timer.starts_with("paced").then_some(Pace { begun_max: 20, per: Duration::from_secs(5) })
    }
}

thread_local! {
    /// Every ring that was decided in this thread, which is one test: name, job, and when, in milliseconds
    /// after the epoch.
    static RINGS: RefCell<Vec<(String, String, u64)>> = const { RefCell::new(Vec::new()) };
}

/// When timers of a name rang, in milliseconds after the epoch.
pub fn rings(name: &str) -> Vec<u64> {
    RINGS.with_borrow(|rings| rings.iter().filter(|ring| ring.0 == name).map(|ring| ring.2).collect())
}

/// Which jobs rang, in order.
pub fn rung() -> Vec<String> {
    RINGS.with_borrow(|rings| rings.iter().map(|ring| ring.1.clone()).collect())
}

fn label_key(label: &str) -> String {
    format!("label/{label}")
}

/// The steps of one job.
pub struct Job;

/// What became of a step.
pub enum Seen {
    Done(String),
    OutOfTime(String),
}

impl Workflow for Job {
    const KIND: &'static str = "job";
    type Id = StreamId;
    type Command = Command;
    type Event = Event;
    type State = State;
    type Step = String;
    type Intent = Intent;
    type Evidence = Seen;
    type Rejection = Rejection;

    fn decide(machine: &mut Machine<Self>, command: Command) -> Result<(), Rejection> {
        match command {
            Command::Start { .. } if machine.state().started => return Err(Rejection::Started),
            Command::Start { at_once, then, .. } => machine.push(Event::Started { at_once, then })?,
            Command::Again { token, .. } => {
                if !machine.state().open.contains_key(&token) {
                    return Err(Rejection::NotOpen);
                }
                machine.push(Event::Withdrawn { token })?;
            }
            Command::Botch { .. } => {
                machine.push(Event::Settled { token: Token(999), evidence: "botched".into() })?;
            }
            other => unreachable!("{other:?} is not about the steps of a job"),
        }
        Ok(machine.intend()?)
    }

    fn settle(
        machine: &mut Machine<Self>,
        token: Token,
        _: &StepRecord<String, Intent>,
        seen: Seen,
    ) -> Result<(), Rejection> {
        match seen {
            Seen::Done(evidence) => machine.push(Event::Settled { token, evidence })?,
            Seen::OutOfTime(because) => return Ok(machine.push(Event::Expired { token, because })?),
        }
        machine.intend()?;
        if machine.state().open.is_empty() {
            machine.push(Event::Finished {})?;
        }
        Ok(())
    }

    fn evolve(mut state: State, stamp: Stamp, event: &Event) -> Result<State, Illegal> {
        let illegal = |why: String| Err(Illegal { seq: stamp.seq, why });
        match event {
            Event::Started { at_once, then } => {
                state.started = true;
                state.due.clone_from(at_once);
                state.then.clone_from(then);
            }
            Event::Intended { intent } => {
                let Intent { name, not_before_ms, deadline_ms, .. } = intent.clone();
                let step = Intended { step: name, intent: intent.clone(), not_before_ms, deadline_ms };
                state.open.insert(stamp.seq.into(), step.at(stamp));
            }
            Event::Settled { token, .. } | Event::Expired { token, .. } | Event::Withdrawn { token } => {
                let Some(record) = state.open.remove(token) else {
                    return illegal(format!("step {token} is not open"));
                };
                if !matches!(event, Event::Withdrawn { .. }) {
                    state.due.retain(|due| due.name != record.step);
                }
                if let Event::Settled { evidence, .. } = event {
                    state.settled.push(evidence.clone());
                    if state.due.is_empty() && !state.then.is_empty() {
                        let together =
                            state.then.iter().skip(1).take_while(|next| next.name.starts_with('&'));
                        let count = 1 + together.count();
                        state.due = state.then.drain(..count).collect();
                    }
                }
            }
            Event::Noted { .. } => state.notes += 1,
            Event::Joined { fleet } => state.fleet = Some(fleet.clone()),
            Event::Labelled { label } => {
                state.labels.insert(label.clone());
            }
            Event::Unlabelled { label } => {
                state.labels.remove(label);
            }
            Event::AlarmSet { name, due_ms } => {
                state.alarms.insert(name.clone(), *due_ms);
            }
            Event::Rang { name } => {
                state.alarms.remove(name);
            }
            Event::Finished {} => state.finished = true,
        }
        Ok(state)
    }

    fn due(state: &State) -> Vec<Due<String, Intent>> {
        let due = state.due.iter().map(|intent| Due {
            step: intent.name.clone(),
            intent: intent.clone(),
            not_before_ms: intent.not_before_ms,
            wait_max_ms: u64::MAX,
            // The toy's steps name their own deadline.
            budget_ms: 0,
        });
        due.collect()
    }

    fn intended(_: &State, step: Intended<String, Intent>) -> Event {
        Event::Intended { intent: step.intent }
    }

    fn priority(_: &State, record: &StepRecord<String, Intent>) -> i32 {
        record.intent.priority
    }

    fn is_only_in_time(record: &StepRecord<String, Intent>) -> bool {
        record.intent.name.starts_with("brief")
    }

    fn under_way(state: &State) -> impl Iterator<Item = (Token, &StepRecord<String, Intent>)> {
        state.open.iter().map(|(token, record)| (*token, record))
    }

    fn is_running(state: &State) -> bool {
        !state.finished
    }
}

/// What a run of a step shall do.
pub enum Act {
    Settle,
    SettleAfter(Duration),
    NotYet(Duration),
    /// Takes so long, then asks for another look after so long.
    NotYetAfter(Duration, Duration),
    /// Its turn comes after so long.
    Queued(Duration),
    Hang,
    Panic,
}

/// A turn that comes at its time. While there is one, `turns` counts it.
struct TimedTurn {
    clock: Clock,
    at_ms: u64,
    turns: Arc<AtomicUsize>,
}

impl Drop for TimedTurn {
    fn drop(&mut self) {
        self.turns.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Turn for TimedTurn {
    async fn come(&mut self) {
        self.clock.sleep(self.expected_in()).await;
    }

    fn because(&self) -> String {
        "its turn has not come".into()
    }

    fn expected_in(&self) -> Duration {
        Duration::from_millis(self.at_ms.saturating_sub(self.clock.monotonic_ms()))
    }

    fn was_refused(&self) -> bool {
        false
    }
}

type Script = dyn Fn(&str, u32) -> Act + Send + Sync;

/// Runs steps as its script says, and keeps count.
pub struct Runner {
    script: Box<Script>,
    clock: Clock,
    running: AtomicUsize,
    pub running_most: AtomicUsize,
    /// How many turns steps have now.
    pub turns: Arc<AtomicUsize>,
    /// Each run that began: the step's name, and when, in milliseconds after the epoch.
    pub runs: Mutex<Vec<(String, u64)>>,
}

struct Running<'r>(&'r AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl StepRunner<Toy> for Runner {
    async fn run(&self, _: &StreamId, step: &OpenStep<Intent>, tries: u32) -> StepResult<String> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _running = Running(&self.running);
        self.running_most.fetch_max(running, Ordering::SeqCst);
        self.runs.lock().unwrap().push((step.step.clone(), self.clock.now_ms() - EPOCH_MS));
        match (self.script)(&step.step, tries) {
            Act::Settle => {}
            Act::SettleAfter(time) => self.clock.sleep(time).await,
            Act::NotYet(again_in) => {
                return StepResult::NotYet { again_in, because: "the script says so".into() };
            }
            Act::NotYetAfter(time, again_in) => {
                self.clock.sleep(time).await;
                return StepResult::NotYet { again_in, because: "the script says so".into() };
            }
            Act::Queued(time) => {
                self.turns.fetch_add(1, Ordering::SeqCst);
                let at_ms = self.clock.monotonic_ms() + time.as_millis() as u64;
                let turns = Arc::clone(&self.turns);
                return StepResult::Queued(Box::new(TimedTurn { clock: self.clock.clone(), at_ms, turns }));
            }
            Act::Hang => std::future::pending().await,
            Act::Panic => panic!("the script says so"),
        }
        StepResult::Settled(step.step.clone())
    }
}

impl Runner {
    /// How often a step began to run.
    pub fn count(&self, name: &str) -> usize {
        self.runs.lock().unwrap().iter().filter(|(run, _)| run == name).count()
    }

    /// When a step began to run first.
    pub fn first(&self, name: &str) -> Option<u64> {
        self.runs.lock().unwrap().iter().find(|(run, _)| run == name).map(|(_, at)| *at)
    }
}

/// A journal that can get stuck for ever at an append, refuse with conflicts, and count.
pub type TestJournal = Intercepted<Meddler>;

#[derive(Default)]
pub struct Meddler {
    /// Counted before and after each append.
    pub points: AtomicUsize,
    /// Where it gets stuck, counted from 1; 0 for never.
    pub stuck_at: AtomicUsize,
    pub stuck: tokio::sync::Notify,
    pub conflicts: AtomicUsize,
    /// So many appends are answered with a conflict although there is none.
    pub conflicts_to_come: AtomicUsize,
    /// How long an append takes, in milliseconds.
    pub append_ms: AtomicU64,
    /// What every lookup answers, whatever the journal says.
    pub found: Mutex<Option<Vec<StreamId>>>,
    /// How many times a stream was read.
    pub streams_read: AtomicUsize,
}

impl Meddler {
    async fn point(&self) {
        if self.points.fetch_add(1, Ordering::SeqCst) + 1 == self.stuck_at.load(Ordering::SeqCst) {
            self.stuck.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Intercept for Meddler {
    async fn append(&self, to: &dyn Journal, batch: Batch) -> Result<Appended, AppendError> {
        self.point().await;
        let takes = self.append_ms.load(Ordering::SeqCst);
        if takes > 0 {
            tokio::time::sleep(Duration::from_millis(takes)).await;
        }
        let less = |left: usize| left.checked_sub(1);
        if self.conflicts_to_come.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            let StreamAppend { stream, expected, .. } = batch.appends[0].clone();
            return Err(AppendError::Conflict { stream, expected, actual: expected.next() });
        }
        let appended = to.append(batch).await;
        if matches!(appended, Err(AppendError::Conflict { .. })) {
            self.conflicts.fetch_add(1, Ordering::SeqCst);
        }
        self.point().await;
        appended
    }

    async fn lookup(&self, to: &dyn Journal, key: &str) -> Result<Vec<StreamId>, ReadError> {
        let found = self.found.lock().unwrap().clone();
        match found {
            Some(found) => Ok(found),
            None => to.lookup(key).await,
        }
    }

    fn reads(&self, _: &StreamId) {
        self.streams_read.fetch_add(1, Ordering::SeqCst);
    }
}

/// A journal and a queue that stay while processes come and go.
pub struct Place {
    pub clock: Clock,
    pub journal: Arc<MemoryJournal>,
    pub queue: Arc<MemoryQueue>,
}

/// One process: an engine and its pool.
pub struct Process {
    pub engine: Engine<Toy>,
    pub runner: Arc<Runner>,
    pub journal: Arc<TestJournal>,
    pub trigger: ShutdownTrigger,
    pub pool: JoinHandle<()>,
}

impl Place {
    pub fn new() -> Self {
        let clock = Clock::scaled(EPOCH_MS, 1.0);
        let settings = MemoryQueueSettings { visibility: Duration::from_secs(60), max_receives: 1 };
        let queue = Arc::new(MemoryQueue::new(settings, clock.clone()));
        Self { clock, journal: Arc::new(MemoryJournal::new()), queue }
    }

    pub fn test_journal(&self) -> Arc<TestJournal> {
        let journal = Arc::clone(&self.journal) as Arc<dyn Journal>;
        Arc::new(TestJournal { journal, intercept: Meddler::default() })
    }

    /// An engine without a pool.
    pub fn engine(&self) -> Engine<Toy> {
        Engine::new(Arc::clone(&self.journal) as Arc<dyn Journal>, self.clock.clone())
    }

    /// An engine over a journal that counts.
    pub fn engine_over(&self, journal: &Arc<TestJournal>) -> Engine<Toy> {
        Engine::new(Arc::clone(journal) as Arc<dyn Journal>, self.clock.clone())
    }

    /// A process whose runs do as the script says.
    pub fn start(
        &self,
        limits: Limits,
        script: impl Fn(&str, u32) -> Act + Send + Sync + 'static,
    ) -> Process {
        self.start_over(self.test_journal(), limits, script)
    }

    pub fn start_over(
        &self,
        journal: Arc<TestJournal>,
        limits: Limits,
        script: impl Fn(&str, u32) -> Act + Send + Sync + 'static,
    ) -> Process {
        let engine = self.engine_over(&journal);
        let runner = Arc::new(Runner {
            script: Box::new(script),
            clock: self.clock.clone(),
            running: AtomicUsize::new(0),
            running_most: AtomicUsize::new(0),
            turns: Arc::default(),
            runs: Mutex::default(),
        });
        let queue = Arc::clone(&self.queue);
        let workers = Dispatcher::new(engine.clone(), queue, Arc::clone(&runner), limits);
        let (trigger, shutdown) = Shutdown::new();
        let pool = tokio::spawn(workers.run(shutdown));
        Process { engine, runner, journal, trigger, pool }
    }

    /// Milliseconds since the epoch of the test.
    pub fn now(&self) -> u64 {
        self.clock.now_ms() - EPOCH_MS
    }

    pub async fn sleep(&self, seconds: f64) {
        self.clock.sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// The state a stream has in the journal, whatever an engine believes.
    pub async fn state(&self, job: &StreamId) -> State {
        (*self.engine().load(job).await.unwrap().0).clone()
    }

    pub async fn events(&self) -> usize {
        self.journal.read_all(Position(0), usize::MAX).await.unwrap().len()
    }

    pub async fn depth(&self) -> Depth {
        self.queue.depth().await.unwrap()
    }

    pub async fn send(&self, body: &str) {
        self.queue.send(vec![Outgoing::now(body)]).await.unwrap();
    }

    /// Waits until a job is finished; a test that waits for ever has failed.
    pub async fn finished(&self, job: &StreamId) {
        for _ in 0..10_000 {
            if self.state(job).await.finished {
                return;
            }
            self.sleep(0.1).await;
        }
        panic!("{job} is not finished: {:?}", self.state(job).await);
    }
}

impl Process {
    pub async fn execute(&self, command: Command) -> Result<Executed, ExecuteError<Rejection>> {
        self.engine.execute(command).await
    }

    /// Ends it as a power cut would.
    pub async fn kill(self) {
        self.pool.abort();
        let _ = self.pool.await;
    }
}

pub fn job(n: u32) -> StreamId {
    StreamId::parse(&format!("job/{n}")).unwrap()
}
