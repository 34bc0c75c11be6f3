//! Doorbells in, reports out.
//!
//! ```text
//!  append ─► bells ─► ringer ─► queue ─► receiver ─► step task: look at the journal, run, report ─► append
//!                       ▲                                 │
//!        safety scan ───┘                                 └─ not yet: wait, run again (same task, same token)
//! ```
//!
//! A doorbell is a hint: the step task reads the intent from the journal and drops a bell whose token is not open. A
//! bell lost costs one safety scan; a bell doubled costs one look; a bell late finds the step settled.
//!
//! # Guarantees
//! - At most one task per step runs in this process; a report of any other is refused by its token.
//! - A message is deleted when every bell in it is answered, and extended as long as one is not.
//! - On shutdown no new bell is taken, runs under way may finish for a bounded time, the rest is left open and its
//!   messages are given back.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::domain::{Domain, OpenStep};
use crate::engine::{Doorbell, Engine, ExecuteError};
use crate::ids::{StreamId, Token};
use crate::queue::{BATCH_MESSAGES_MAX, Delivery, Outgoing, Queue, QueueError, Receipt};
use crate::retry::Intervals;

/// The most doorbells in one message. A message of 64 is under 16 KiB; more would let one slow step hold back the
/// deletion of many.
pub const BELLS_PER_MESSAGE_MAX: usize = 64;

/// After a failing queue or journal call.
const TROUBLE: Intervals =
    Intervals { first: Duration::from_millis(200), longest: Duration::from_secs(10), jitter: 0.0 };

/// The bounds of one worker pool.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many steps may call out at once.
    pub running_max: usize,
    /// How many steps may be in hand (running or waiting to look again). Beyond it no message is received.
    pub in_hand_max: usize,
    /// Visibility of a doorbell message; extended at a third of it.
    pub visibility: Duration,
    /// How long one receive waits.
    pub wait: Duration,
    /// How often the safety scan rings every open step that is not in hand.
    pub scan_every: Duration,
    /// How long a shutdown waits for runs under way.
    pub drain: Duration,
    /// The longest one look of one step may take. A worker that hangs is given up and looks again.
    pub run_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A node in flight has up to a dozen steps open; EC2's own budgets are the tighter bound.
            running_max: 256,
            in_hand_max: 4_096,
            visibility: Duration::from_secs(60),
            wait: Duration::from_secs(5),
            scan_every: Duration::from_secs(15),
            drain: Duration::from_secs(10),
            run_max: Duration::from_secs(120),
        }
    }
}

/// What one look of a worker ends with.
#[derive(Debug, Clone, PartialEq)]
pub enum StepResult<E> {
    /// The step is over: this is what was observed.
    Settled(E),
    /// The world is not there yet; look again.
    NotYet {
        /// After this long.
        again_in: Duration,
        /// What is waited for, for people and for the record if time runs out.
        because: String,
    },
}

/// Carries out one step: look, act if needed, look.
///
/// # Guarantees an implementation gives
/// - Running a step any number of times, from any number of processes, has the effect of running it once.
/// - It may be dropped at any await point.
#[async_trait]
pub trait StepRunner<D: Domain>: Send + Sync + 'static {
    /// One pass. `tries` counts the passes of this task before it.
    async fn run(
        &self,
        workflow: &StreamId,
        step: &OpenStep<D::Intent>,
        tries: u32,
    ) -> StepResult<D::Evidence>;
}

/// The body of a doorbell message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BellMessage {
    v: u32,
    bells: Vec<(StreamId, Token)>,
}

/// Tells tasks to stop.
#[derive(Debug, Clone)]
pub struct Shutdown {
    receiver: watch::Receiver<bool>,
}

/// The other end of [`Shutdown`].
#[derive(Debug)]
pub struct ShutdownTrigger {
    sender: watch::Sender<bool>,
}

impl Shutdown {
    /// A pair.
    #[must_use]
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger { sender }, Self { receiver })
    }

    /// Whether the stop has been asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Returns when the stop is asked for, or the trigger is gone.
    pub async fn asked(&self) {
        let mut receiver = self.receiver.clone();
        let _ = receiver.wait_for(|asked| *asked).await;
    }
}

impl ShutdownTrigger {
    /// Asks for the stop.
    pub fn ask(&self) {
        self.sender.send_replace(true);
    }
}

/// A worker pool: one per process.
pub struct Workers<D: Domain, R> {
    engine: Engine<D>,
    queue: Arc<dyn Queue>,
    runner: Arc<R>,
    limits: Limits,
}

struct Shared<D: Domain, R> {
    engine: Engine<D>,
    queue: Arc<dyn Queue>,
    runner: Arc<R>,
    limits: Limits,
    running: Semaphore,
    in_hand: Mutex<HashSet<Doorbell>>,
    shutdown: Shutdown,
}

impl<D: Domain, R: StepRunner<D>> Workers<D, R> {
    /// A pool over an engine, its doorbell queue and a runner.
    #[must_use]
    pub fn new(engine: Engine<D>, queue: Arc<dyn Queue>, runner: Arc<R>, limits: Limits) -> Self {
        Self { engine, queue, runner, limits }
    }

    /// Runs until the shutdown is asked for and what is under way has ended or had its time.
    pub async fn run(self, shutdown: Shutdown) {
        let shared = Arc::new(Shared {
            running: Semaphore::new(self.limits.running_max),
            engine: self.engine,
            queue: self.queue,
            runner: self.runner,
            limits: self.limits,
            in_hand: Mutex::new(HashSet::new()),
            shutdown,
        });
        let mut loops = JoinSet::new();
        loops.spawn(ring(Arc::clone(&shared)));
        loops.spawn(scan(Arc::clone(&shared)));
        receive(&shared).await;
        loops.shutdown().await;
    }
}

impl<D: Domain, R> Shared<D, R> {
    fn in_hand(&self) -> std::sync::MutexGuard<'_, HashSet<Doorbell>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self, trouble: &mut u32) {
        *trouble += 1;
        let pause = TROUBLE.after(*trouble, 0.5);
        tokio::select! {
            biased;
            () = self.shutdown.asked() => {}
            () = self.engine.clock().sleep(pause) => {}
        }
    }
}

/// Takes what has been opened and sends it, several bells a message.
async fn ring<D: Domain, R: StepRunner<D>>(shared: Arc<Shared<D, R>>) {
    let Some(mut bells) = shared.engine.take_bells() else {
        error!("BUG: two worker pools over one engine; this one only answers what others ring");
        return;
    };
    let mut pending = Vec::new();
    let mut trouble = 0;
    loop {
        if bells.recv_many(&mut pending, BELLS_PER_MESSAGE_MAX * BATCH_MESSAGES_MAX).await == 0 {
            return;
        }
        // A bell that is in hand is answered already.
        {
            let in_hand = shared.in_hand();
            pending.retain(|bell| !in_hand.contains(bell));
        }
        while !pending.is_empty() {
            let messages = pending
                .chunks(BELLS_PER_MESSAGE_MAX)
                .take(BATCH_MESSAGES_MAX)
                .map(|bells| Outgoing::now(bell_message(bells)))
                .collect();
            match shared.queue.send(messages).await {
                Ok(()) => {
                    trouble = 0;
                    pending.drain(..pending.len().min(BELLS_PER_MESSAGE_MAX * BATCH_MESSAGES_MAX));
                }
                Err(error) => {
                    warn!(%error, "doorbells could not be sent; trying again");
                    shared.pause(&mut trouble).await;
                    if shared.shutdown.is_asked() {
                        return;
                    }
                }
            }
        }
    }
}

fn bell_message(bells: &[Doorbell]) -> String {
    let message =
        BellMessage { v: 1, bells: bells.iter().map(|bell| (bell.workflow.clone(), bell.token)).collect() };
    serde_json::to_string(&message).unwrap_or_else(|error| unreachable!("BUG: names are strings: {error}"))
}

/// At the start and ever so often: rings every open step. The one path for a start after a crash.
async fn scan<D: Domain, R: StepRunner<D>>(shared: Arc<Shared<D, R>>) {
    let mut first = true;
    loop {
        match shared.engine.ring_open_steps().await {
            Ok(0) => {}
            Ok(rung) if first => info!(steps = rung, "open steps found in the journal; going on with them"),
            Ok(rung) => debug!(steps = rung, "safety scan"),
            Err(error) => warn!(%error, "the open steps could not be read; trying again"),
        }
        first = false;
        shared.engine.clock().sleep(shared.limits.scan_every).await;
    }
}

async fn receive<D: Domain, R: StepRunner<D>>(shared: &Arc<Shared<D, R>>) {
    let mut tasks = JoinSet::new();
    let mut trouble = 0;
    while !shared.shutdown.is_asked() {
        while tasks.try_join_next().is_some() {}
        if shared.in_hand().len() >= shared.limits.in_hand_max {
            tokio::select! {
                biased;
                () = shared.shutdown.asked() => break,
                _ = tasks.join_next() => continue,
            }
        }
        let received = tokio::select! {
            biased;
            () = shared.shutdown.asked() => break,
            received = shared.queue.receive(BATCH_MESSAGES_MAX, shared.limits.wait) => received,
        };
        match received {
            Ok(deliveries) => {
                trouble = 0;
                for delivery in deliveries {
                    tasks.spawn(answer(Arc::clone(shared), delivery));
                }
            }
            Err(error) => {
                warn!(%error, "doorbells could not be received; trying again");
                shared.pause(&mut trouble).await;
            }
        }
    }
    let drained = tokio::time::timeout(shared.engine.clock().real(shared.limits.drain), async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        warn!(messages = tasks.len(), "steps under way were left open; the next start goes on with them");
        tasks.shutdown().await;
    }
}

/// Answers every bell of one message, keeping it invisible meanwhile, and deletes it.
async fn answer<D: Domain, R: StepRunner<D>>(shared: Arc<Shared<D, R>>, delivery: Delivery) {
    let message: BellMessage = match serde_json::from_str(&delivery.body) {
        Ok(message) => message,
        Err(error) => {
            // A doorbell of another build or another's message: never fatal, kept for a look.
            let reason = format!("not a doorbell message: {error}");
            if let Err(error) = shared.queue.dead_letter(&delivery, &reason).await {
                warn!(%error, %reason, "a message could not be put aside; it will come again");
            }
            return;
        }
    };
    let mut steps = JoinSet::new();
    for (workflow, token) in message.bells {
        let bell = Doorbell { workflow, token };
        if shared.in_hand().insert(bell.clone()) {
            let hand = InHand { shared: Arc::clone(&shared), bell };
            steps.spawn(async move {
                let finished = carry_out(&hand.shared, &hand.bell).await;
                drop(hand);
                finished
            });
        }
    }
    let work = async {
        let mut finished = true;
        while let Some(step) = steps.join_next().await {
            finished &= match step {
                Ok(finished) => finished,
                Err(error) => {
                    error!(%error, "BUG: a step task panicked; the step stays open and is looked at again");
                    false
                }
            };
        }
        finished
    };
    let finished = keep_invisible(&shared, &delivery.receipt, work).await;
    let ended = if finished {
        shared.queue.delete(std::slice::from_ref(&delivery.receipt)).await
    } else {
        shared.queue.extend(&delivery.receipt, Duration::ZERO).await
    };
    match ended {
        Ok(()) | Err(QueueError::ReceiptExpired) => {}
        Err(error) => {
            debug!(%error, "a doorbell message could not be ended; it will come again and find its steps settled")
        }
    }
}

/// The mark that a step is in hand, taken off however its task ends.
struct InHand<D: Domain, R> {
    shared: Arc<Shared<D, R>>,
    bell: Doorbell,
}

impl<D: Domain, R> Drop for InHand<D, R> {
    fn drop(&mut self) {
        self.shared.in_hand().remove(&self.bell);
    }
}

/// Extends a message while `work` goes on.
async fn keep_invisible<D: Domain, R: StepRunner<D>, T>(
    shared: &Shared<D, R>,
    receipt: &Receipt,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = shared.engine.clock().sleep(shared.limits.visibility / 3) => {
                if let Err(error) = shared.queue.extend(receipt, shared.limits.visibility).await {
                    debug!(%error, "a doorbell message could not be extended; a doubled bell is harmless");
                }
            }
        }
    }
}

/// Runs one step until it has settled. Returns whether the bell is answered (`false`: give the message back).
async fn carry_out<D: Domain, R: StepRunner<D>>(shared: &Shared<D, R>, bell: &Doorbell) -> bool {
    let clock = shared.engine.clock();
    let mut tries = 0;
    let mut trouble = 0;
    loop {
        let step = match shared.engine.open_step(bell).await {
            Ok(Some(step)) => step,
            Ok(None) => return true,
            Err(ExecuteError::Corrupt { stream, source }) => {
                error!(%stream, error = %source, "a stream cannot be folded; its steps stop: run `perennial journal verify`");
                return true;
            }
            Err(error) => {
                warn!(%error, "a step could not be read; trying again");
                shared.pause(&mut trouble).await;
                if shared.shutdown.is_asked() {
                    return false;
                }
                continue;
            }
        };
        if clock.now_ms() < step.not_before_ms {
            tokio::select! {
                biased;
                () = shared.shutdown.asked() => return false,
                () = clock.sleep_until_ms(step.not_before_ms) => {}
            }
        }
        let Ok(permit) = shared.running.acquire().await else { return false };
        let run = tokio::time::timeout(
            clock.real(shared.limits.run_max),
            shared.runner.run(&bell.workflow, &step, tries),
        )
        .await;
        drop(permit);
        tries += 1;
        let command = match run {
            Ok(StepResult::Settled(evidence)) => D::report(&bell.workflow, bell.token, evidence),
            Ok(StepResult::NotYet { because, .. }) if clock.now_ms() >= step.deadline_ms => {
                D::expired(&bell.workflow, bell.token, because)
            }
            Ok(StepResult::NotYet { again_in, because }) => {
                debug!(workflow = %bell.workflow, step = %step.step, %because, "not yet");
                tokio::select! {
                    biased;
                    () = shared.shutdown.asked() => return false,
                    () = clock.sleep(again_in) => {}
                }
                continue;
            }
            Err(_) => {
                warn!(workflow = %bell.workflow, step = %step.step, "a run took too long and was dropped; looking again");
                continue;
            }
        };
        if let Some(answered) = report(shared, bell, command, &mut trouble).await {
            return answered;
        }
    }
}

/// Hands a report in. `None`: look again.
async fn report<D: Domain, R: StepRunner<D>>(
    shared: &Shared<D, R>,
    bell: &Doorbell,
    command: D::Command,
    trouble: &mut u32,
) -> Option<bool> {
    loop {
        match shared.engine.execute(command.clone()).await {
            Ok(_) | Err(ExecuteError::AlreadyDone { .. }) => return Some(true),
            Err(ExecuteError::Rejected(rejection)) => {
                // Late or doubled: somebody else's report of this step was taken.
                debug!(workflow = %bell.workflow, token = %bell.token, %rejection, "a report was refused");
                return Some(true);
            }
            Err(ExecuteError::Corrupt { stream, source }) => {
                error!(%stream, error = %source, "a stream cannot be folded; its steps stop: run `perennial journal verify`");
                return Some(true);
            }
            Err(error) => {
                // Nothing stands between the observation and its record but this loop: the same report again.
                warn!(%error, "a report could not be written; trying again");
                shared.pause(trouble).await;
                if shared.shutdown.is_asked() {
                    return Some(false);
                }
            }
        }
    }
}
