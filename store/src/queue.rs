//! The embedded queue: SQS's semantics in a SQLite file that several processes may use at once.
//!
//! ```text
//! send, receive, … ──► channel ──► one thread per file and process ──► queue.sqlite ◄── other processes
//!                                  drains, one transaction, answers
//! ```
//!
//! # Expected flow
//! Every call is handed to the thread that owns the file's connection in this process. It takes all pending
//! calls, of all queues of the file, into one transaction, so that 64 small calls share a commit. A receiver
//! with nothing to receive waits until a caller in this process sends, a message becomes visible, or [`POLL`]
//! passes. After [`POLL`] it sees the messages of other processes.
//!
//! # Guarantees
//! Those of the port. A receipt names one receive of one message: after another receive it neither extends
//! nor deletes. A receive whose caller has gone away before the answer gives its messages back at once.
//!
//! # Assumptions
//! A local file system. The clocks of the processes agree, as they do on one machine.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::queue::{
    BATCH_MESSAGES_MAX, DeadLetter, Delivery, Depth, Outgoing, Queue, QueueError, Receipt, check_outgoing,
};
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::file::{self, OpenError, QUEUE, Synchronous};
use crate::read::signed;

/// How often a waiting receiver looks for messages of other processes. A person at the CLI does not feel it,
/// and ten empty looks a second cost about a millisecond.
pub const POLL: Duration = Duration::from_millis(100);

/// The longest visibility timeout (SQS API reference, `ChangeMessageVisibility`).
pub const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// The longest name of a queue (SQS allows 80 characters).
pub const NAME_MAX: usize = 80;

/// How many dead letters are kept for each queue; beyond it the oldest are dropped, with a warning in the
/// log. Far more than a person looks at.
pub const DEAD_LETTERS_MAX: u64 = 10_000;

/// How many dead letters are kept of all queues together, when abandoned queues are cleared: the names of
/// those are chosen by others, so a bound for each is none.
const DEAD_LETTERS_OF_ALL_MAX: u64 = 4 * DEAD_LETTERS_MAX;

/// How many queues this process remembers something of; what is forgotten is found out again. More than one
/// process uses at a time.
const NAMES_MAX: usize = 1_000;

/// How many calls wait for the thread at most; then callers wait.
const WAITING_MAX: usize = 256;

/// The most calls of one transaction.
const GROUP_MAX: usize = 64;

/// How often messages beyond their retention are looked for.
const SWEEP_MS: u64 = 60_000;

/// After so many pages the thread's commit copies the WAL into the file. SQLite's default; the file is small.
const AUTO_CHECKPOINT_PAGES: i64 = 1_000;

/// What an acknowledged send is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It is fsynced first: for inbox entries (submissions, interruptions), which exist nowhere else yet.
    /// Receives, extends and deletes are not fsynced: if a power cut undoes them, the message comes once
    /// more, which every receiver must expect.
    #[default]
    Durable,
    /// It survives the end of the process, but perhaps not a power cut: for doorbells. The journal has every
    /// step that a doorbell announces, and the scan behind the queue rings it again. An fsync would only
    /// delay the step.
    Hint,
}

/// How a queue behaves. Every process that opens it should say the same; the file does not keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a received message is invisible to others, at most [`VISIBILITY_MAX`].
    pub visibility: Duration,
    /// After this many receives the next one moves the message to the dead letters. At least 1.
    pub max_receives: u32,
    /// What an acknowledged send is worth.
    pub durability: Durability,
    /// A message older than this goes to the dead letters, within a minute.
    pub retention: Duration,
    /// Beyond this many messages a send fails.
    pub max_messages: u64,
    /// A send into a queue that holds no message fails while this many others of the file hold some; none
    /// where the names are our own.
    pub max_queues: Option<u64>,
}

impl Default for QueueSettings {
    /// SQS's 30 seconds and 4 days; 5 receives; durable; a hundred thousand messages, which is far beyond
    /// what the largest fleet has open.
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            max_receives: 5,
            durability: Durability::Durable,
            retention: Duration::from_secs(4 * 24 * 60 * 60),
            max_messages: 100_000,
            max_queues: None,
        }
    }
}

impl QueueSettings {
    fn check(&self, name: &str) -> Result<(), OpenError> {
        let bad = |why: &str| Err(OpenError::BadSettings { why: format!("queue {name:?}: {why}") });
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return bad("a name is 1 to 80 printable ASCII characters");
        }
        if self.visibility.as_millis() == 0 || self.visibility > VISIBILITY_MAX {
            return bad("the visibility timeout must be between 1 ms and 12 hours");
        }
        if self.max_receives == 0 || self.max_messages == 0 || self.retention.as_millis() == 0 {
            return bad("max_receives, max_messages and retention must not be zero");
        }
        Ok(())
    }
}

/// One logical queue in a file.
#[derive(Debug, Clone)]
pub struct EmbeddedQueue {
    file: Arc<QueueFile>,
    bell: Arc<Notify>,
    spec: Arc<Spec>,
    clock: Clock,
}

#[derive(Debug)]
struct Spec {
    name: String,
    settings: QueueSettings,
}

impl EmbeddedQueue {
    /// Opens the queue `name` in the file at `path`, or in `queue.sqlite` if `path` is a directory; makes the
    /// file when there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, name: &str, settings: QueueSettings, clock: Clock) -> Result<Self, OpenError> {
        settings.check(name)?;
        let path = if path.is_dir() { path.join("queue.sqlite") } else { path.to_owned() };
        let file = QueueFile::open(&path)?;
        let bell = file.bell(name);
        Ok(Self { file, bell, spec: Arc::new(Spec { name: name.to_owned(), settings }), clock })
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, QueueError> {
        let (ack, answer) = oneshot::channel();
        let job = Job { spec: Arc::clone(&self.spec), now_ms: self.clock.now_ms(), ask, ack };
        let gone = || QueueError::Unavailable { why: "the queue's thread has stopped".into() };
        let jobs = self.file.jobs.as_ref().expect("BUG: nobody calls a queue that is being dropped");
        let mut pending = Pending { queue: self, answer };
        jobs.send(job).await.map_err(|_| gone())?;
        (&mut pending.answer).await.map_err(|_| gone())?
    }

    fn ring(&self, times: usize) {
        for _ in 0..times {
            self.bell.notify_one();
        }
    }
}

/// An answer that is awaited. A caller that stops waiting must not take messages along: if they are on their
/// way already, they are sent back.
struct Pending<'q> {
    queue: &'q EmbeddedQueue,
    answer: oneshot::Receiver<Result<Answer, QueueError>>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // From here on the thread notices that the caller is gone; an answer that it sent before is taken out
        // here.
        self.answer.close();
        let Ok(Ok(Answer::Found(deliveries))) = self.answer.try_recv() else { return };
        let receipts = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
        let (spec, now_ms) = (Arc::clone(&self.queue.spec), self.queue.clock.now_ms());
        let job = Job { spec, now_ms, ask: Ask::GiveBack(receipts), ack: oneshot::channel().0 };
        // If the thread has no room for it, the visibility timeout gives them back.
        let _ = self.queue.file.jobs.as_ref().map(|jobs| jobs.try_send(job));
    }
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        check_outgoing(&messages)?;
        let count = messages.len();
        self.ask(Ask::Send(messages)).await?;
        self.ring(count);
        Ok(())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let until = self.clock.now_ms().saturating_add(millis(wait));
        let max = max.clamp(1, BATCH_MESSAGES_MAX);
        loop {
            // Listening begins before the look, so that nothing sent in between is missed.
            let rung = self.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let next = match self.ask(Ask::Receive(max)).await? {
                Answer::Found(deliveries) => {
                    if deliveries.len() == max {
                        // There may be more messages, and this receiver may have used their bell.
                        self.ring(1);
                    }
                    return Ok(deliveries);
                }
                Answer::NothingBefore(next) => next.unwrap_or(until).min(until),
                other => unreachable!("BUG: a receive was answered with {other:?}"),
            };
            let now = self.clock.now_ms();
            if now >= until {
                return Ok(Vec::new());
            }
            let pause = self.clock.real(Duration::from_millis(next.saturating_sub(now))).min(POLL);
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<(), QueueError> {
        self.ask(Ask::Extend(receipt.clone(), visibility.min(VISIBILITY_MAX))).await?;
        if visibility.is_zero() {
            self.ring(1);
        }
        Ok(())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        if receipts.is_empty() {
            return Ok(());
        }
        self.ask(Ask::Delete(receipts.to_vec())).await.map(|_| ())
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        self.ask(Ask::DeadLetter(delivery.receipt.clone(), reason.to_owned())).await.map(|_| ())
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        match self.ask(Ask::DeadLetters(max)).await? {
            Answer::DeadLetters(letters) => Ok(letters),
            other => unreachable!("BUG: dead letters were answered with {other:?}"),
        }
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        match self.ask(Ask::Depth).await? {
            Answer::Depth(depth) => Ok(depth),
            other => unreachable!("BUG: a depth was answered with {other:?}"),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One file in this process: its thread, and a bell for each queue. Shared by all that open the same file, so
/// that they share commits and do not wait for each other's locks.
#[derive(Debug)]
struct QueueFile {
    /// None while it is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    bells: Mutex<BTreeMap<String, Arc<Notify>>>,
}

/// The files this process has open: the one piece of shared state, needed because two opens of one file must
/// ring each other's bells without knowing of each other.
static FILES: Mutex<BTreeMap<PathBuf, Weak<QueueFile>>> = Mutex::new(BTreeMap::new());

fn files() -> MutexGuard<'static, BTreeMap<PathBuf, Weak<QueueFile>>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QueueFile {
    fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let io = |doing| move |source| OpenError::Io { path: path.to_owned(), doing, source };
        let mut files = files();
        let conn = file::open_writable(path, &QUEUE, Synchronous::Full, AUTO_CHECKPOINT_PAGES)?;
        // Now that it exists it has one true name.
        let true_path = path.canonicalize().map_err(io("resolving the path"))?;
        files.retain(|_, file| file.strong_count() > 0);
        if let Some(file) = files.get(&true_path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("queue".into())
            .spawn(move || run(&conn, receiver))
            .map_err(io("starting the queue's thread"))?;
        let file = Arc::new(Self { jobs: Some(sender), thread: Some(thread), bells: Mutex::default() });
        files.insert(true_path, Arc::downgrade(&file));
        Ok(file)
    }

    fn bell(&self, name: &str) -> Arc<Notify> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if bells.len() >= NAMES_MAX {
            // A bell that is in no queue's hand is rung by nobody.
            bells.retain(|_, bell| Arc::strong_count(bell) > 1);
        }
        Arc::clone(bells.entry(name.to_owned()).or_default())
    }
}

impl Drop for QueueFile {
    /// Waits until everything that was asked for is done.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("BUG: the queue's thread panicked");
        }
    }
}

/// One call.
struct Job {
    spec: Arc<Spec>,
    now_ms: u64,
    ask: Ask,
    ack: oneshot::Sender<Result<Answer, QueueError>>,
}

enum Ask {
    Send(Vec<Outgoing>),
    Receive(usize),
    Extend(Receipt, Duration),
    GiveBack(Vec<Receipt>),
    Delete(Vec<Receipt>),
    DeadLetter(Receipt, String),
    DeadLetters(usize),
    Depth,
}

#[derive(Debug)]
enum Answer {
    Done,
    Found(Vec<Delivery>),
    /// Nothing to receive before this time; none if there is nothing at all.
    NothingBefore(Option<u64>),
    DeadLetters(Vec<DeadLetter>),
    Depth(Depth),
}

fn run(conn: &Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut thread = Thread {
        conn,
        synchronous: Synchronous::Full,
        data_version: 0,
        counts: HashMap::new(),
        next_sweep_ms: HashMap::new(),
    };
    let mut group = Vec::with_capacity(GROUP_MAX);
    while jobs.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        let answers = thread.transaction(&group);
        let mut unwanted = Vec::new();
        for (job, answer) in group.drain(..).zip(answers) {
            if let Err(Ok(Answer::Found(deliveries))) = job.ack.send(answer) {
                unwanted
                    .extend(deliveries.into_iter().map(|d| (Arc::clone(&job.spec), job.now_ms, d.receipt)));
            }
        }
        if !unwanted.is_empty() {
            thread.give_back(&unwanted);
        }
    }
}

struct Thread<'c> {
    conn: &'c Connection,
    synchronous: Synchronous,
    /// Changes when another process has written.
    data_version: i64,
    /// How many messages each queue holds, as long as no other process writes.
    counts: HashMap<String, u64>,
    next_sweep_ms: HashMap<String, u64>,
}

impl Thread<'_> {
    /// Runs a group in one transaction. If that fails, all of it failed.
    fn transaction(&mut self, group: &[Job]) -> Vec<Result<Answer, QueueError>> {
        self.try_transaction(group).unwrap_or_else(|error| {
            self.counts.clear();
            self.next_sweep_ms.clear();
            if !self.conn.is_autocommit()
                && let Err(error) = self.conn.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "a rollback of the queue failed");
            }
            group.iter().map(|_| Err(QueueError::Unavailable { why: error.to_string() })).collect()
        })
    }

    fn try_transaction(&mut self, group: &[Job]) -> rusqlite::Result<Vec<Result<Answer, QueueError>>> {
        self.be_as_durable_as(group)?;
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let version = self.conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if version != self.data_version {
            self.data_version = version;
            self.counts.clear();
        }
        let answers = group.iter().map(|job| self.answer(job)).collect::<rusqlite::Result<_>>()?;
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(answers)
    }

    /// Only a send into a durable queue needs an fsync; see [`Durability`].
    fn be_as_durable_as(&mut self, group: &[Job]) -> rusqlite::Result<()> {
        let durable_send = |job: &Job| {
            matches!(job.ask, Ask::Send(_)) && job.spec.settings.durability == Durability::Durable
        };
        let wanted = if group.iter().any(durable_send) { Synchronous::Full } else { Synchronous::Normal };
        if wanted != self.synchronous {
            wanted.set(self.conn)?;
            self.synchronous = wanted;
        }
        Ok(())
    }

    fn answer(&mut self, job: &Job) -> rusqlite::Result<Result<Answer, QueueError>> {
        let (spec, now) = (&*job.spec, job.now_ms);
        match &job.ask {
            Ask::Send(messages) => {
                self.sweep(spec, now)?;
                self.send(spec, now, messages)
            }
            Ask::Receive(max) => {
                self.sweep(spec, now)?;
                self.receive(spec, now, *max).map(Ok)
            }
            Ask::Extend(receipt, visibility) => self.extend(spec, now, receipt, *visibility),
            Ask::GiveBack(receipts) => {
                for receipt in receipts {
                    let _expired_is_well = self.extend(spec, now, receipt, Duration::ZERO)?;
                }
                Ok(Ok(Answer::Done))
            }
            Ask::Delete(receipts) => {
                for receipt in receipts {
                    self.delete(spec, receipt)?;
                }
                Ok(Ok(Answer::Done))
            }
            Ask::DeadLetter(receipt, reason) => {
                let Some((id, nonce)) = parse(receipt) else { return Ok(Err(QueueError::ReceiptExpired)) };
                let held = self
                    .conn
                    .prepare_cached(
                        "SELECT 1 FROM messages WHERE id = ?1 AND receive_count = ?2 AND queue = ?3",
                    )?
                    .exists(params![id, nonce, spec.name])?;
                if held {
                    self.bury(spec, now, id, reason)?;
                }
                Ok(if held { Ok(Answer::Done) } else { Err(QueueError::ReceiptExpired) })
            }
            Ask::DeadLetters(max) => self.dead_letters(spec, *max).map(Ok),
            Ask::Depth => self.depth(spec, now).map(Ok),
        }
    }

    fn send(
        &mut self,
        spec: &Spec,
        now: u64,
        messages: &[Outgoing],
    ) -> rusqlite::Result<Result<Answer, QueueError>> {
        let held = self.count(spec)?;
        if held == 0
            && let Some(most) = spec.settings.max_queues
            && !self.has_room_for_a_queue(spec, now, most)?
        {
            let why = format!(
                "queue {:?} holds nothing yet, and {most} others hold messages that are not received, which is \
                 the most; receive those, or use one of those queues",
                spec.name
            );
            return Ok(Err(QueueError::Refused { why }));
        }
        let most = spec.settings.max_messages;
        if held + messages.len() as u64 > most {
            let why = format!(
                "queue {:?} holds {held} messages and takes {most}; is anybody receiving?",
                spec.name
            );
            return Ok(Err(QueueError::Unavailable { why }));
        }
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO messages (queue, body, sent_at_ms, visible_at_ms) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for message in messages {
            let visible_at_ms = now.saturating_add(millis(message.delay));
            insert.execute(params![spec.name, message.body, signed(now), signed(visible_at_ms)])?;
        }
        self.add_to_count(spec, messages.len() as i64);
        Ok(Ok(Answer::Done))
    }

    fn receive(&mut self, spec: &Spec, now: u64, max: usize) -> rusqlite::Result<Answer> {
        let mut found = Vec::new();
        while found.len() < max {
            let candidates = self.visible(spec, now, max - found.len())?;
            if candidates.is_empty() {
                break;
            }
            for (id, mut delivery) in candidates {
                if delivery.receive_count >= spec.settings.max_receives {
                    let reason = format!("received {} times and never deleted", delivery.receive_count);
                    self.bury(spec, now, id, &reason)?;
                    continue;
                }
                delivery.receive_count += 1;
                delivery.receipt = Receipt(format!("{id}.{}", delivery.receive_count));
                self.conn
                    .prepare_cached(
                        "UPDATE messages SET receive_count = ?2, visible_at_ms = ?3 WHERE id = ?1",
                    )?
                    .execute(params![
                        id,
                        delivery.receive_count,
                        signed(now.saturating_add(millis(spec.settings.visibility)))
                    ])?;
                found.push(delivery);
            }
        }
        if !found.is_empty() {
            return Ok(Answer::Found(found));
        }
        let next: Option<i64> = self
            .conn
            .prepare_cached("SELECT min(visible_at_ms) FROM messages WHERE queue = ?1")?
            .query_row([&spec.name], |row| row.get(0))?;
        Ok(Answer::NothingBefore(next.map(|ms| ms.max(0) as u64)))
    }

    /// Messages to be received now, the longest visible first; receive counts as stored, receipts still
    /// empty.
    fn visible(&self, spec: &Spec, now: u64, max: usize) -> rusqlite::Result<Vec<(i64, Delivery)>> {
        self.conn
            .prepare_cached(
                "SELECT id, body, receive_count, sent_at_ms FROM messages
                 WHERE queue = ?1 AND visible_at_ms <= ?2 ORDER BY visible_at_ms, id LIMIT ?3",
            )?
            .query_map(params![spec.name, signed(now), max as i64], |row| {
                let id: i64 = row.get(0)?;
                let delivery = Delivery {
                    id: id.to_string(),
                    receipt: Receipt(String::new()),
                    body: row.get(1)?,
                    receive_count: row.get(2)?,
                    sent_at_ms: row.get::<_, i64>(3)?.max(0) as u64,
                    sender: None,
                };
                Ok((id, delivery))
            })?
            .collect()
    }

    /// As in SQS, a receipt is void when its time has run out, even if no other receiver has taken the
    /// message yet.
    fn extend(
        &self,
        spec: &Spec,
        now: u64,
        receipt: &Receipt,
        visibility: Duration,
    ) -> rusqlite::Result<Result<Answer, QueueError>> {
        let Some((id, nonce)) = parse(receipt) else { return Ok(Err(QueueError::ReceiptExpired)) };
        let extended = self
            .conn
            .prepare_cached(
                "UPDATE messages SET visible_at_ms = ?3
                 WHERE id = ?1 AND receive_count = ?2 AND visible_at_ms > ?4 AND queue = ?5",
            )?
            .execute(params![
                id,
                nonce,
                signed(now.saturating_add(millis(visibility))),
                signed(now),
                spec.name
            ])?;
        Ok(if extended == 1 { Ok(Answer::Done) } else { Err(QueueError::ReceiptExpired) })
    }

    fn delete(&mut self, spec: &Spec, receipt: &Receipt) -> rusqlite::Result<()> {
        let Some((id, nonce)) = parse(receipt) else { return Ok(()) };
        let deleted = self
            .conn
            .prepare_cached("DELETE FROM messages WHERE id = ?1 AND receive_count = ?2 AND queue = ?3")?
            .execute(params![id, nonce, spec.name])?;
        self.add_to_count(spec, -(deleted as i64));
        Ok(())
    }

    fn bury(&mut self, spec: &Spec, now: u64, id: i64, reason: &str) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT INTO dead_letters (id, queue, body, sent_at_ms, died_at_ms, reason)
                 SELECT id, queue, body, sent_at_ms, ?2, ?3 FROM messages WHERE id = ?1",
            )?
            .execute(params![id, signed(now), reason])?;
        self.conn.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
        self.add_to_count(spec, -1);
        let dropped = self
            .conn
            .prepare_cached(
                "DELETE FROM dead_letters WHERE queue = ?1 AND id <= (
                   SELECT id FROM dead_letters WHERE queue = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            )?
            .execute(params![spec.name, signed(DEAD_LETTERS_MAX)])?;
        if dropped > 0 {
            tracing::warn!(
                queue = spec.name,
                dropped,
                "the oldest dead letters were dropped: there are too many"
            );
        }
        Ok(())
    }

    fn dead_letters(&self, spec: &Spec, max: usize) -> rusqlite::Result<Answer> {
        let letters = self
            .conn
            .prepare_cached(
                "SELECT id, body, reason FROM dead_letters WHERE queue = ?1 ORDER BY id LIMIT ?2",
            )?
            .query_map(params![spec.name, i64::try_from(max).unwrap_or(i64::MAX)], |row| {
                Ok(DeadLetter {
                    id: row.get::<_, i64>(0)?.to_string(),
                    body: row.get(1)?,
                    reason: row.get(2)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Answer::DeadLetters(letters))
    }

    fn depth(&self, spec: &Spec, now: u64) -> rusqlite::Result<Answer> {
        let mut depth = self
            .conn
            .prepare_cached(
                "SELECT count(*) FILTER (WHERE visible_at_ms <= ?2),
                        count(*) FILTER (WHERE visible_at_ms > ?2 AND receive_count > 0),
                        count(*) FILTER (WHERE visible_at_ms > ?2 AND receive_count = 0)
                 FROM messages WHERE queue = ?1",
            )?
            .query_row(params![spec.name, signed(now)], |row| {
                let count = |index| row.get::<_, i64>(index).map(|n| n.max(0) as u64);
                Ok(Depth { visible: count(0)?, in_flight: count(1)?, delayed: count(2)?, dead: 0 })
            })?;
        depth.dead = self
            .conn
            .prepare_cached("SELECT count(*) FROM dead_letters WHERE queue = ?1")?
            .query_row([&spec.name], |row| row.get::<_, i64>(0))?
            .max(0) as u64;
        Ok(Answer::Depth(depth))
    }

    /// Moves messages beyond their retention to the dead letters. Seldom, because it reads the whole queue.
    fn sweep(&mut self, spec: &Spec, now: u64) -> rusqlite::Result<()> {
        if self.next_sweep_ms.get(&spec.name).is_some_and(|&next| now < next) {
            return Ok(());
        }
        if self.next_sweep_ms.len() >= NAMES_MAX {
            self.next_sweep_ms.clear();
        }
        self.next_sweep_ms.insert(spec.name.clone(), now.saturating_add(SWEEP_MS));
        let oldest = now.saturating_sub(millis(spec.settings.retention));
        let expired: Vec<i64> = self
            .conn
            .prepare_cached("SELECT id FROM messages WHERE queue = ?1 AND sent_at_ms < ?2")?
            .query_map(params![spec.name, signed(oldest)], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in expired {
            let reason = format!("older than {} s", spec.settings.retention.as_secs());
            self.bury(spec, now, id, &reason)?;
        }
        Ok(())
    }

    /// How many other queues of the file hold a message. Reads one entry of each, by the index.
    fn others_in_use(&self, spec: &Spec) -> rusqlite::Result<u64> {
        let in_use: i64 = self
            .conn
            .prepare_cached(
                "WITH RECURSIVE held(queue) AS (
                   SELECT min(queue) FROM messages
                   UNION ALL
                   SELECT (SELECT min(queue) FROM messages WHERE queue > held.queue) FROM held
                   WHERE held.queue IS NOT NULL)
                 SELECT count(queue) FROM held WHERE queue <> ?1",
            )?
            .query_row([&spec.name], |row| row.get(0))?;
        Ok(in_use.max(0) as u64)
    }

    /// Whether one more queue may hold something. An abandoned queue is in nobody's sweep, so what is beyond
    /// the retention in any of them becomes a dead letter first.
    fn has_room_for_a_queue(&mut self, spec: &Spec, now: u64, most: u64) -> rusqlite::Result<bool> {
        if self.others_in_use(spec)? < most {
            return Ok(true);
        }
        let oldest = signed(now.saturating_sub(millis(spec.settings.retention)));
        self.conn
            .prepare_cached(
                "INSERT INTO dead_letters (id, queue, body, sent_at_ms, died_at_ms, reason)
                 SELECT id, queue, body, sent_at_ms, ?2, 'never received' FROM messages WHERE sent_at_ms < ?1",
            )?
            .execute(params![oldest, signed(now)])?;
        let buried =
            self.conn.prepare_cached("DELETE FROM messages WHERE sent_at_ms < ?1")?.execute([oldest])?;
        if buried == 0 {
            return Ok(false);
        }
        self.counts.clear();
        self.conn
            .prepare_cached(
                "DELETE FROM dead_letters WHERE id <= (
                   SELECT id FROM dead_letters ORDER BY id DESC LIMIT 1 OFFSET ?1)",
            )?
            .execute([signed(DEAD_LETTERS_OF_ALL_MAX)])?;
        Ok(self.others_in_use(spec)? < most)
    }

    fn count(&mut self, spec: &Spec) -> rusqlite::Result<u64> {
        if let Some(&count) = self.counts.get(&spec.name) {
            return Ok(count);
        }
        let count: Option<i64> = self
            .conn
            .prepare_cached("SELECT count(*) FROM messages WHERE queue = ?1")?
            .query_row([&spec.name], |row| row.get(0))
            .optional()?;
        let count = count.unwrap_or(0).max(0) as u64;
        if self.counts.len() >= NAMES_MAX {
            self.counts.clear();
        }
        self.counts.insert(spec.name.clone(), count);
        Ok(count)
    }

    fn add_to_count(&mut self, spec: &Spec, change: i64) {
        if let Some(count) = self.counts.get_mut(&spec.name) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// Makes messages visible again whose receiver has gone away. If it fails, the visibility timeout does
    /// it.
    fn give_back(&self, receipts: &[(Arc<Spec>, u64, Receipt)]) {
        for (spec, now, receipt) in receipts {
            if let Err(error) = self.extend(spec, *now, receipt, Duration::ZERO) {
                tracing::warn!(%error, "an unwanted message could not be given back; its visibility timeout will");
            }
        }
    }
}

/// The id and the receive count, which is the nonce: it differs at each receive, and ids are never used
/// again.
fn parse(receipt: &Receipt) -> Option<(i64, u32)> {
    let (id, nonce) = receipt.0.split_once('.')?;
    Some((id.parse().ok()?, nonce.parse().ok()?))
}
