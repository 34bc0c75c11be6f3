//! Doorbells in, reports out.
//!
//! ```text
//!  append ─► bells ─► starter ─► step task: look at the journal, run, report ─► append
//!               ▲       │            │  ▲
//!  safety scan ─┘       │            │  └─ not yet: wait, run again (same task, same token)
//!                       ▼            │
//!                   announcer        └─ the step this report opened, if there is one: go on with it
//!                       │
//!                       ▼
//!                     queue ─► receiver ─► step task, or wait for the one that has the step in hand
//! ```
//!
//! A doorbell is a hint: the step task reads the intent from the journal and drops a bell whose token is not
//! open. A bell lost costs one safety scan; a bell doubled costs one look; a bell late finds the step
//! settled.
//!
//! # Two ways a bell is heard
//! A step that this process has opened is started here at once, without a round trip through the queue, as
//! long as there is room. [`GATHER`] later those that are still under way are *announced*: their bells are
//! sent, many in a message, and the message is held for as long as the step is in hand. So the queue carries
//! every step that takes longer than a moment, and gives it to another process when this process dies. A step
//! that settles sooner needs no message. When there is no room here, the queue is the only way.
//!
//! # Who runs
//! A step calls out only while it holds a running slot; the slots go by priority ([`Limits::running_max`],
//! `slots.rs`). One that waits, for its time or between two looks, holds no slot and takes no room from those
//! that may run: it sleeps in hand, and beyond [`Limits::asleep_max`] it is put down. So is one whose time is
//! far off. The safety scan rings what was put down, when its time is near.
//!
//! One journal file has one engine, so the pool that started a step is the one that receives its message.
//! Several engines over one journal, should there be an adapter for that, may run a step twice at once, which
//! is harmless by the runner's contract but costs calls: such an adapter wants this pool to start only what
//! it receives.
//!
//! # What waits for its turn
//! What is given out in turn, such as the calls that an account may make in a second, is waited for in a line
//! of its own ([`Turn`]). A step in such a line sleeps: it holds no slot, and none of its patience is spent
//! (but of one that is only good in time, and of one that is optional and was refused before).
//! When its turn comes it looks anew, and finds what it waited for held for it. It leaves the line when it is
//! over, withdrawn or put down, and when a hint wakes it.
//!
//! # Guarantees
//! - At most one task per step runs in this process; a report of any other is refused by its token.
//! - A message is deleted when every bell in it is answered, and extended as long as one is not.
//! - On shutdown no new bell is taken, runs under way may finish for a bounded time, the rest is left open
//!   and its messages are given back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::error::Elapsed;
use tracing::{debug, error, info, warn};

use crate::domain::{Domain, OpenStep, Waiting};
use crate::engine::{Engine, ExecuteError};
use crate::ids::{Doorbell, StreamId, Token};
use crate::journal::ReadError;
use crate::limits::Limits;
use crate::queue::{BATCH_MESSAGES_MAX, Delivery, Outgoing, Queue, QueueError, Receipt};
use crate::retry::Intervals;
use crate::shutdown::Shutdown;
use crate::slots::Slots;
use crate::timers;
use crate::wake::Listed;
use crate::watched::Watches;

/// The most doorbells in one message. A message of 64 is under 16 KiB; more would let one slow step hold back
/// the deletion of many.
pub const BELLS_PER_MESSAGE_MAX: usize = 64;

/// How many bells are taken from the engine at once.
const BELLS_AT_ONCE: usize = 256;

/// How long a bell waits for others before they are sent. The time is long compared with a step that makes no
/// call, so that such a step costs no message. It is short compared with a call to the cloud. No step waits
/// for it, because the step has been started already.
pub const GATHER: Duration = Duration::from_millis(25);

/// How long a shutdown waits for messages to be given back, after runs under way have had their time.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// How many bells wait to be announced. More than that are not: the safety scan rings them.
const ANNOUNCED_MAX: usize = 65_536;

/// After a failing queue or journal call.
const TROUBLE: Intervals =
    Intervals { first: Duration::from_millis(200), longest: Duration::from_secs(10), jitter: 0.0 };

/// Between two words about a step that waits for its turn.
const TURN_TOLD_EVERY: Duration = Duration::from_secs(15);

/// Between two looks at the budget of one whose time counts.
const TURN_WATCHED_EVERY: Duration = Duration::from_secs(1);

/// A step's place in the line for something that is given out in turn.
///
/// When the turn has come, what was waited for is held for the step until this is dropped. A step that needs
/// several such things one after the other keeps what it holds until it has them all: the next turn of the
/// same step is made before this one is dropped.
#[async_trait]
pub trait Turn: Send + Sync {
    /// Returns when the turn has come.
    async fn come(&mut self);
    /// What is waited for and from which place, for people.
    fn because(&self) -> String;
    /// How long until the turn comes, as far as is known.
    fn expected_in(&self) -> Duration;
    /// Whether what was given out in turn was refused before: then it may never be of use, and a step that
    /// the workflow goes on without waits no longer than its budget.
    fn was_refused(&self) -> bool;
}

/// What one look of a worker ends with.
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
    /// The world could not be seen or asked: calls are throttled, refused for a time, or lost. Like `NotYet`,
    /// but the time does not count: it passes by itself, and is waited for as long as it takes.
    Hindered {
        /// Look again after this long.
        again_in: Duration,
        /// What stands in the way.
        because: String,
    },
    /// The step's turn has not come: look again when it does.
    Queued(Box<dyn Turn>),
}

impl<E: fmt::Debug> fmt::Debug for StepResult<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled(evidence) => f.debug_tuple("Settled").field(evidence).finish(),
            Self::NotYet { again_in, because } => {
                f.debug_struct("NotYet").field("again_in", again_in).field("because", because).finish()
            }
            Self::Hindered { again_in, because } => {
                f.debug_struct("Hindered").field("again_in", again_in).field("because", because).finish()
            }
            Self::Queued(turn) => f.debug_tuple("Queued").field(&turn.because()).finish(),
        }
    }
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

/// Runs the open steps of one engine: one per process.
pub struct Dispatcher<D: Domain, R> {
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
    running: Slots,
    watches: Watches,
    hands: Mutex<Hands>,
    /// Rung when a hand is free again after all were full.
    room: Notify,
    announce: mpsc::Sender<Announce>,
    shutdown: Shutdown,
}

/// The steps in hand.
#[derive(Default)]
struct Hands {
    held: HashMap<Doorbell, Held>,
    /// How many of them wait for their time or between two looks.
    asleep: usize,
}

impl Hands {
    /// How many run, or may.
    fn awake(&self) -> usize {
        self.held.len() - self.asleep
    }
}

/// A step in hand.
#[derive(Default)]
struct Held {
    /// Whether a message with its bell has been sent or received.
    announced: bool,
    /// Holders of messages with its bell. They are told whether it was answered.
    waiting: Vec<oneshot::Sender<bool>>,
}

/// A bell for the queue.
enum Announce {
    /// Started here: to be sent if it is still in hand.
    IfInHand(Doorbell),
    /// Not started here.
    Surely(Doorbell),
}

impl<D: Domain, R: StepRunner<D>> Dispatcher<D, R> {
    /// A dispatcher over an engine, its doorbell queue and a runner.
    #[must_use]
    pub fn new(engine: Engine<D>, queue: Arc<dyn Queue>, runner: Arc<R>, limits: Limits) -> Self {
        Self { engine, queue, runner, limits }
    }

    /// Runs until the shutdown is asked for and what is under way has ended or had its time.
    pub async fn run(self, shutdown: Shutdown) {
        let (announce, to_announce) = mpsc::channel(ANNOUNCED_MAX);
        let shared = Arc::new(Shared {
            running: Slots::new(self.limits.running_max),
            watches: Watches::default(),
            engine: self.engine,
            queue: self.queue,
            runner: self.runner,
            limits: self.limits,
            hands: Mutex::default(),
            room: Notify::new(),
            announce,
            shutdown,
        });
        let mut loops = JoinSet::new();
        loops.spawn(announce_bells(Arc::clone(&shared), to_announce));
        loops.spawn(scan(Arc::clone(&shared)));
        let clock = shared.engine.clock().clone();
        loops.spawn(async move { clock.tell_jumps().await });
        let timers = timers::run(&shared.engine, &shared.limits, &shared.shutdown);
        tokio::join!(start(&shared), receive(&shared), timers);
        loops.shutdown().await;
    }
}

/// What came of reaching for a step.
enum Taken<D: Domain, R> {
    /// This task has the step.
    Ours(InHand<D, R>),
    /// Another task of this process has it.
    InHand,
    /// There is no room.
    Full,
}

impl<D: Domain, R> Shared<D, R> {
    fn hands(&self) -> std::sync::MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step that is not in hand.
    fn take(self: &Arc<Self>, bell: Doorbell) -> Taken<D, R> {
        let mut hands = self.hands();
        if hands.awake() >= self.limits.in_hand_max && !hands.held.contains_key(&bell) {
            return Taken::Full;
        }
        match hands.held.entry(bell) {
            Entry::Occupied(_) => Taken::InHand,
            Entry::Vacant(free) => {
                let bell = free.key().clone();
                free.insert(Held::default());
                Taken::Ours(InHand { shared: Arc::clone(self), bell, answered: false })
            }
        }
    }

    /// Takes a step whose message was received, or waits for the task that has it.
    fn take_or_wait(self: &Arc<Self>, bell: Doorbell) -> Result<InHand<D, R>, oneshot::Receiver<bool>> {
        match self.hands().held.entry(bell) {
            Entry::Occupied(mut held) => {
                let (told, waiting) = oneshot::channel();
                held.get_mut().announced = true;
                held.get_mut().waiting.push(told);
                Err(waiting)
            }
            Entry::Vacant(free) => {
                let bell = free.key().clone();
                free.insert(Held { announced: true, waiting: Vec::new() });
                Ok(InHand { shared: Arc::clone(self), bell, answered: false })
            }
        }
    }

    /// A step that is due later than this is put down: the scan before its time rings it.
    fn horizon(&self) -> Duration {
        2 * self.limits.scan_every
    }

    /// Rings every step that is due before the horizon: by what stands in the journal, and by the time that
    /// this process has waited. The two differ when the clock was set.
    async fn ring_due(&self) -> Result<usize, ReadError> {
        let clock = self.engine.clock();
        let horizon_ms = self.horizon().as_millis() as u64;
        let until_ms = clock.now_ms().max(clock.steady_ms()).saturating_add(horizon_ms);
        let rung = self.engine.ring_open_steps(until_ms).await?;
        let due = self.watches.due_within(self.horizon(), clock);
        let put_down: Vec<_> = {
            let hands = self.hands();
            due.into_iter().filter(|bell| !hands.held.contains_key(bell)).collect()
        };
        self.engine.ring(put_down);
        Ok(rung)
    }

    /// Returns when a shutdown was asked for and runs under way have had their time.
    async fn time_is_up(&self) {
        self.shutdown.asked().await;
        self.engine.clock().sleep(self.limits.drain).await;
    }

    /// One less is awake now: so many.
    fn tell_room(&self, awake: usize) {
        if awake + 1 == self.limits.in_hand_max {
            self.room.notify_one();
        }
    }

    fn announce(&self, announce: Announce) {
        // A full channel loses a hint, not a step: the safety scan rings it.
        let _ = self.announce.try_send(announce);
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

/// Starts what has been opened, here if there is room.
async fn start<D: Domain, R: StepRunner<D>>(shared: &Arc<Shared<D, R>>) {
    let Some(mut bells) = shared.engine.take_bells() else {
        error!("BUG: two dispatchers over one engine; this one only answers what others ring");
        return;
    };
    let mut rung = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shared.shutdown.asked() => break,
            Some(ended) = tasks.join_next() => {
                look_at_panic(ended);
                while let Some(ended) = tasks.try_join_next() {
                    look_at_panic(ended);
                }
            }
            count = bells.recv_many(&mut rung, BELLS_AT_ONCE) => {
                if count == 0 {
                    break;
                }
                for bell in rung.drain(..) {
                    match shared.take(bell.clone()) {
                        Taken::Ours(hand) => {
                            shared.announce(Announce::IfInHand(bell));
                            tasks.spawn(follow(hand));
                        }
                        Taken::InHand => {}
                        Taken::Full => shared.announce(Announce::Surely(bell)),
                    }
                }
            }
        }
    }
    drain(shared, tasks, shared.limits.drain).await;
}

fn look_at_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "BUG: a step task panicked; the step stays open and is looked at again");
    }
}

/// Lets what is under way finish, for a bounded time.
async fn drain<D: Domain, R: StepRunner<D>>(
    shared: &Arc<Shared<D, R>>,
    mut tasks: JoinSet<()>,
    time: Duration,
) {
    let drained = tokio::time::timeout(shared.engine.clock().real(time), async {
        while let Some(ended) = tasks.join_next().await {
            look_at_panic(ended);
        }
    })
    .await;
    if drained.is_err() {
        warn!(tasks = tasks.len(), "steps under way were left open; the next start goes on with them");
        tasks.shutdown().await;
    }
}

/// Carries out a step, then the one that its report has opened, and so on down the line.
async fn follow<D: Domain, R: StepRunner<D>>(mut hand: InHand<D, R>) {
    loop {
        let Answer { answered, opened } = carry_out(&hand).await;
        let shared = Arc::clone(&hand.shared);
        hand.end(answered);
        let mut opened = opened.into_iter();
        let Some(next) = opened.next() else { return };
        shared.engine.ring(opened);
        if shared.shutdown.is_asked() {
            // It stands in the journal; the next start finds it.
            return;
        }
        match shared.take(next.clone()) {
            Taken::Ours(taken) => {
                shared.announce(Announce::IfInHand(next));
                hand = taken;
            }
            Taken::InHand => return,
            Taken::Full => return shared.announce(Announce::Surely(next)),
        }
    }
}

/// Sends the bells of steps that are still under way, and of those for which there was no room.
async fn announce_bells<D: Domain, R: StepRunner<D>>(
    shared: Arc<Shared<D, R>>,
    mut announced: mpsc::Receiver<Announce>,
) {
    let mut pending = Vec::new();
    let mut trouble = 0;
    while let Some(first) = announced.recv().await {
        shared.engine.clock().sleep(GATHER).await;
        let rest = std::iter::from_fn(|| announced.try_recv().ok());
        {
            let mut hands = shared.hands();
            pending.extend(std::iter::once(first).chain(rest).filter_map(|announce| match announce {
                Announce::Surely(bell) => Some(bell),
                Announce::IfInHand(bell) => {
                    let held = hands.held.get_mut(&bell).filter(|held| !held.announced)?;
                    held.announced = true;
                    Some(bell)
                }
            }));
        }
        while !pending.is_empty() {
            let count = pending.len().min(BELLS_PER_MESSAGE_MAX * BATCH_MESSAGES_MAX);
            let messages = pending[..count].chunks(BELLS_PER_MESSAGE_MAX);
            let messages = messages.map(|bells| Outgoing::now(bell_message(bells))).collect();
            match shared.queue.send(messages).await {
                Ok(()) => {
                    trouble = 0;
                    pending.drain(..count);
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

/// At the start and ever so often: rings every open step that is due before the scan after the next one. The
/// one path for a start after a crash. At the start and after a jump of the clock it rings all of them, so
/// that each step's wait is known by monotonic time.
async fn scan<D: Domain, R: StepRunner<D>>(shared: Arc<Shared<D, R>>) {
    let mut first = true;
    let mut jumps = 0;
    loop {
        let noticed = shared.engine.clock().jumps().count;
        let all = first || std::mem::replace(&mut jumps, noticed) != noticed;
        let ringing = async {
            if all { shared.engine.ring_open_steps(u64::MAX).await } else { shared.ring_due().await }
        };
        match ringing.await {
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
        let room = shared.limits.in_hand_max.saturating_sub(shared.hands().awake());
        if room == 0 {
            tokio::select! {
                biased;
                () = shared.shutdown.asked() => break,
                () = shared.room.notified() => continue,
            }
        }
        let received = tokio::select! {
            biased;
            () = shared.shutdown.asked() => break,
            received = shared.queue.receive(room.min(BATCH_MESSAGES_MAX), shared.limits.wait) => received,
        };
        match received {
            Ok(deliveries) => {
                trouble = 0;
                for delivery in deliveries {
                    match serde_json::from_str::<BellMessage>(&delivery.body) {
                        Ok(message) => {
                            // Taken here and not in the task, so that the next receive knows how much room is
                            // left.
                            let bells = message.bells.into_iter();
                            let bells = bells.map(|(workflow, token)| Doorbell { workflow, token });
                            let taken = bells.map(|bell| shared.take_or_wait(bell)).collect();
                            tasks.spawn(answer(Arc::clone(shared), delivery.receipt, taken));
                        }
                        Err(error) => {
                            let reason = format!("not a doorbell message: {error}");
                            tasks.spawn(put_aside(Arc::clone(shared), delivery, reason));
                        }
                    }
                }
            }
            Err(error) => {
                warn!(%error, "doorbells could not be received; trying again");
                shared.pause(&mut trouble).await;
            }
        }
    }
    drain(shared, tasks, shared.limits.drain + GIVE_BACK).await;
}

/// Moves a doorbell of another build, or another's message, to the dead letters: never fatal, kept for a
/// look.
async fn put_aside<D: Domain, R: StepRunner<D>>(
    shared: Arc<Shared<D, R>>,
    delivery: Delivery,
    reason: String,
) {
    if let Err(error) = shared.queue.dead_letter(&delivery, &reason).await {
        warn!(%error, %reason, "a message could not be put aside; it will come again");
    }
}

/// Answers every bell of one message, keeping it invisible meanwhile, and deletes it.
async fn answer<D: Domain, R: StepRunner<D>>(
    shared: Arc<Shared<D, R>>,
    receipt: Receipt,
    bells: Vec<Result<InHand<D, R>, oneshot::Receiver<bool>>>,
) {
    let mut steps = JoinSet::new();
    let mut others = Vec::new();
    for bell in bells {
        match bell {
            Ok(hand) => {
                steps.spawn(async move {
                    let Answer { answered, opened } = carry_out(&hand).await;
                    hand.shared.engine.ring(opened);
                    hand.end(answered);
                    answered
                });
            }
            Err(other) => others.push(other),
        }
    }
    let all = async {
        let mut finished = true;
        while let Some(step) = steps.join_next().await {
            finished &= match step {
                Ok(answered) => answered,
                Err(error) => {
                    error!(%error, "BUG: a step task panicked; the step stays open and is looked at again");
                    false
                }
            };
        }
        for other in others {
            finished &= other.await.unwrap_or(false);
        }
        finished
    };
    let work = async {
        tokio::select! {
            biased;
            finished = all => finished,
            () = shared.time_is_up() => false,
        }
    };
    let finished = keep_invisible(&shared, &receipt, work).await;
    let ended = if finished {
        shared.queue.delete(std::slice::from_ref(&receipt)).await
    } else {
        shared.queue.extend(&receipt, Duration::ZERO).await
    };
    match ended {
        Ok(()) | Err(QueueError::ReceiptExpired) => {}
        Err(error) => {
            debug!(%error, "a doorbell message could not be ended; it will come again and find its steps settled");
        }
    }
}

/// The mark that a step is in hand, taken off however its task ends.
struct InHand<D: Domain, R> {
    shared: Arc<Shared<D, R>>,
    bell: Doorbell,
    answered: bool,
}

impl<D: Domain, R> InHand<D, R> {
    /// Puts the step down and says whether its bell was answered.
    fn end(mut self, answered: bool) {
        self.answered = answered;
    }

    /// Lets the step wait without taking room from those that may run. `None`: too many wait already.
    fn fall_asleep(&self) -> Option<Asleep<'_, D, R>> {
        let mut hands = self.shared.hands();
        if hands.asleep >= self.shared.limits.asleep_max {
            return None;
        }
        hands.asleep += 1;
        let awake = hands.awake();
        drop(hands);
        self.shared.tell_room(awake);
        Some(Asleep(&self.shared))
    }
}

/// The mark that a step in hand waits.
struct Asleep<'s, D: Domain, R>(&'s Shared<D, R>);

impl<D: Domain, R> Drop for Asleep<'_, D, R> {
    fn drop(&mut self) {
        self.0.hands().asleep -= 1;
    }
}

impl<D: Domain, R> Drop for InHand<D, R> {
    fn drop(&mut self) {
        let (held, awake) = {
            let mut hands = self.shared.hands();
            (hands.held.remove(&self.bell), hands.awake())
        };
        for message in held.into_iter().flat_map(|held| held.waiting) {
            let _ = message.send(self.answered);
        }
        self.shared.tell_room(awake);
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

/// How a bell was answered.
struct Answer {
    /// `false`: give the message back.
    answered: bool,
    /// The steps that the report has opened.
    opened: Vec<Doorbell>,
}

impl Answer {
    const OVER: Self = Self { answered: true, opened: Vec::new() };
    /// Nothing to be done here now; the safety scan rings it.
    const PUT_DOWN: Self = Self { answered: true, opened: Vec::new() };
    const NOT: Self = Self { answered: false, opened: Vec::new() };
}

/// Runs one step until it has settled.
async fn carry_out<D: Domain, R: StepRunner<D>>(hand: &InHand<D, R>) -> Answer {
    let (shared, bell) = (hand.shared.as_ref(), &hand.bell);
    let clock = shared.engine.clock();
    let mut tries = 0;
    let mut trouble = 0;
    let mut listed = None;
    // What the step has waited for in turn, and not used yet.
    let mut held: Option<Box<dyn Turn>> = None;
    loop {
        let step = match open_step(shared, bell, &mut trouble).await {
            Ok(step) => step,
            Err(answer) => return answer,
        };
        let wait = shared.watches.wait(bell, &step, clock);
        if !wait.is_zero() {
            let near = wait <= shared.horizon();
            let Some(_asleep) = near.then(|| hand.fall_asleep()).flatten() else { return Answer::PUT_DOWN };
            tokio::select! {
                biased;
                () = shared.shutdown.asked() => return Answer::NOT,
                () = clock.sleep(wait) => {}
            }
            // It may have been withdrawn meanwhile.
            continue;
        }
        let slot = shared.running.acquire(step.priority).await;
        let run = tokio::time::timeout(
            clock.real(shared.limits.run_max),
            shared.runner.run(&bell.workflow, &step, tries),
        )
        .await;
        drop(slot);
        tries += 1;
        let over = match follow_up(shared, bell, &step, run, tries).await {
            Next::Look(again_in) => {
                held.take();
                let listed = listed.get_or_insert_with(|| shared.engine.sleepers().list(bell, &step.intent));
                let Some(_asleep) = hand.fall_asleep() else { return Answer::PUT_DOWN };
                tokio::select! {
                    biased;
                    () = shared.shutdown.asked() => return Answer::NOT,
                    _ = listed.sleep(clock, again_in) => {}
                }
                continue;
            }
            Next::Turn(mut turn) => {
                let listed = listed.get_or_insert_with(|| shared.engine.sleepers().list(bell, &step.intent));
                let waited = await_turn(hand, &step, turn.as_mut(), listed, tries).await;
                held.replace(turn);
                match waited {
                    Waited::Look => continue,
                    Waited::Ended(answer) => return answer,
                    Waited::Expired(command) => command,
                }
            }
            Next::Report(command) => command,
        };
        if let Some(answer) = report(shared, bell, &over, &mut trouble).await {
            shared.watches.over(bell);
            return answer;
        }
    }
}

/// What follows a look.
enum Next<C> {
    /// Another one, after this long.
    Look(Duration),
    /// Another one, when the step's turn has come.
    Turn(Box<dyn Turn>),
    /// The step is over.
    Report(C),
}

/// What follows from what a look ended with; says what is waited for, if it is time to.
async fn follow_up<D: Domain, R: StepRunner<D>>(
    shared: &Shared<D, R>,
    bell: &Doorbell,
    step: &OpenStep<D::Intent>,
    run: Result<StepResult<D::Evidence>, Elapsed>,
    tries: u32,
) -> Next<D::Command> {
    let clock = shared.engine.clock();
    if let Ok(StepResult::NotYet { again_in, because } | StepResult::Hindered { again_in, because }) = &run
        && shared.watches.is_to_be_told(bell, because, *again_in, clock)
    {
        let hindered = matches!(run, Ok(StepResult::Hindered { .. }));
        tell(shared, bell, Waiting { because: because.clone(), hindered, looks: tries }).await;
    }
    match run {
        Ok(StepResult::Settled(evidence)) => Next::Report(D::report(&bell.workflow, bell.token, evidence)),
        Ok(StepResult::NotYet { again_in, because }) => {
            is_over(shared, bell, step, again_in, &because).map_or(Next::Look(again_in), Next::Report)
        }
        Ok(StepResult::Hindered { again_in, because }) if step.optional => {
            is_over(shared, bell, step, again_in, &because).map_or(Next::Look(again_in), Next::Report)
        }
        Ok(StepResult::Hindered { again_in, because }) => {
            shared.watches.hindered(bell, clock);
            debug!(workflow = %bell.workflow, step = %step.step, %because, "hindered");
            Next::Look(again_in)
        }
        Ok(StepResult::Queued(turn)) => Next::Turn(turn),
        Err(_) => {
            warn!(workflow = %bell.workflow, step = %step.step, "a run took too long and was dropped; looking again");
            let because = "every run took too long and was dropped";
            is_over(shared, bell, step, shared.limits.run_max, because)
                .map_or(Next::Look(Duration::ZERO), Next::Report)
        }
    }
}

/// What the wait for a turn ended with.
enum Waited<C> {
    /// The turn has come, or something was heard of what the step waits for.
    Look,
    /// There is nothing more to do here.
    Ended(Answer),
    /// It was only good in time, which is over.
    Expired(C),
}

/// Waits for a step's turn, without a slot.
async fn await_turn<D: Domain, R: StepRunner<D>>(
    hand: &InHand<D, R>,
    step: &OpenStep<D::Intent>,
    turn: &mut dyn Turn,
    listed: &Listed<D::Intent>,
    looks: u32,
) -> Waited<D::Command> {
    let (shared, bell) = (hand.shared.as_ref(), &hand.bell);
    let clock = shared.engine.clock();
    let Some(_asleep) = hand.fall_asleep() else { return Waited::Ended(Answer::PUT_DOWN) };
    let counts = step.only_in_time || (step.optional && turn.was_refused());
    let again_in = if counts { TURN_WATCHED_EVERY } else { TURN_TOLD_EVERY };
    let mut trouble = 0;
    loop {
        let because = turn.because();
        if counts {
            if let Some(command) = is_over(shared, bell, step, again_in, &because) {
                return Waited::Expired(command);
            }
        } else {
            shared.watches.hindered(bell, clock);
        }
        if shared.watches.is_to_be_told(bell, &because, turn.expected_in(), clock) {
            tell(shared, bell, Waiting { because, hindered: true, looks }).await;
        }
        tokio::select! {
            biased;
            () = shared.shutdown.asked() => return Waited::Ended(Answer::NOT),
            () = turn.come() => return Waited::Look,
            woken = listed.sleep(clock, again_in) => if woken {
                return Waited::Look;
            }
        }
        // It may have been withdrawn meanwhile.
        if let Err(answer) = open_step(shared, bell, &mut trouble).await {
            return Waited::Ended(answer);
        }
    }
}

/// Keeps what a step waits for. A step that is over by now, or a journal in trouble, needs no word.
async fn tell<D: Domain, R: StepRunner<D>>(shared: &Shared<D, R>, bell: &Doorbell, waiting: Waiting) {
    let Some(command) = D::waits(&bell.workflow, bell.token, waiting) else { return };
    if let Err(error) = shared.engine.execute(command).await {
        debug!(workflow = %bell.workflow, %error, "what a step waits for could not be kept");
    }
}

/// The report of a step that looked in vain and has used up its budget.
fn is_over<D: Domain, R: StepRunner<D>>(
    shared: &Shared<D, R>,
    bell: &Doorbell,
    step: &OpenStep<D::Intent>,
    again_in: Duration,
    because: &str,
) -> Option<D::Command> {
    let watched = shared.watches.seen(bell, again_in, shared.engine.clock());
    debug!(workflow = %bell.workflow, step = %step.step, %because, ?watched, "not yet");
    let over = watched >= Duration::from_millis(step.budget_ms);
    over.then(|| D::expired(&bell.workflow, bell.token, because.to_owned()))
}

/// The step of a bell, from the journal; an answer if there is nothing to do.
async fn open_step<D: Domain, R: StepRunner<D>>(
    shared: &Shared<D, R>,
    bell: &Doorbell,
    trouble: &mut u32,
) -> Result<OpenStep<D::Intent>, Answer> {
    loop {
        match shared.engine.open_step(bell).await {
            Ok(Some(step)) => return Ok(step),
            Ok(None) => {
                shared.watches.over(bell);
                return Err(Answer::OVER);
            }
            Err(ExecuteError::Corrupt { stream, source }) => {
                error!(%stream, error = %source, "a stream cannot be folded; its steps stop: run `perennial journal verify`");
                return Err(Answer::OVER);
            }
            Err(error) => {
                warn!(%error, "a step could not be read; trying again");
                shared.pause(trouble).await;
                if shared.shutdown.is_asked() {
                    return Err(Answer::NOT);
                }
            }
        }
    }
}

/// Hands a report in. `None`: look again.
async fn report<D: Domain, R: StepRunner<D>>(
    shared: &Shared<D, R>,
    bell: &Doorbell,
    command: &D::Command,
    trouble: &mut u32,
) -> Option<Answer> {
    loop {
        match shared.engine.execute_quietly(command).await {
            Ok((_, opened)) => return Some(Answer { answered: true, opened }),
            Err(ExecuteError::AlreadyDone { .. }) => return Some(Answer::OVER),
            Err(ExecuteError::Rejected(rejection)) => {
                // Late or doubled: another report of this step was accepted.
                debug!(workflow = %bell.workflow, token = %bell.token, %rejection, "a report was refused");
                return Some(Answer::OVER);
            }
            Err(ExecuteError::Corrupt { stream, source }) => {
                error!(%stream, error = %source, "a stream cannot be folded; its steps stop: run `perennial journal verify`");
                return Some(Answer::OVER);
            }
            Err(error @ ExecuteError::Inconsistent { .. }) => {
                error!(workflow = %bell.workflow, token = %bell.token, %error, "a report was not taken");
                return Some(Answer::OVER);
            }
            Err(error) => {
                // Nothing stands between the observation and its record but this loop: the same report again.
                warn!(%error, "a report could not be written; trying again");
                shared.pause(trouble).await;
                if shared.shutdown.is_asked() {
                    return Some(Answer::NOT);
                }
            }
        }
    }
}
