//! Both ports in memory: for tests, and as the reference of the conformance suites.
//!
//! They keep every promise of the ports except durability, and they are deterministic: ordered maps, ids that
//! count from 1, time only from the caller or the [`Clock`]. Under `tokio::time::pause` the queue waits in
//! virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::ids::{Position, Seq, StreamId, Token};
use crate::journal::{
    AppendError, Appended, Batch, Hash, Head, Journal, OpenStepRow, ProjectionDelta, ReadError,
    RecordedEvent, SummaryRow, TimerRow, Which, chain,
};
use crate::queue::{
    BATCH_MESSAGES_MAX, DeadLetter, Delivery, Depth, Outgoing, Queue, QueueError, Receipt, check_outgoing,
};

/// The latest time an adapter can store, in milliseconds: SQLite's and PostgreSQL's integers are signed.
pub const TIME_MS_MAX: u64 = crate::journal::RECORDED_AT_MS_MAX;

/// A journal in memory.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    state: Mutex<JournalState>,
}

#[derive(Debug, Default)]
struct JournalState {
    events: Vec<RecordedEvent>,
    streams: BTreeMap<StreamId, Vec<Position>>,
    keys: BTreeMap<String, Position>,
    open_steps: BTreeMap<(StreamId, Token), OpenStepRow>,
    lookup: BTreeSet<(String, StreamId)>,
    summaries: BTreeMap<StreamId, SummaryRow>,
    /// By stream and name: when it is due.
    timers: BTreeMap<(StreamId, String), (u64, u64)>,
}

impl MemoryJournal {
    /// Makes an empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, JournalState> {
        // A panic while the lock was held can only come from running out of memory: every change below is
        // checked first.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalState {
    fn head(&self) -> Head {
        self.events.last().map_or(Head { position: Position(0), hash: Hash::GENESIS }, |event| Head {
            position: event.position,
            hash: event.hash,
        })
    }

    fn head_of(&self, stream: &StreamId) -> Seq {
        Seq(self.streams.get(stream).map_or(0, |positions| positions.len() as u64))
    }

    fn append(&mut self, batch: Batch) -> Result<Appended, AppendError> {
        batch.check()?;
        // The key first: who repeats an append whose answer was lost must hear that it was written, not that
        // the stream has moved on.
        if let Some(key) = &batch.key
            && let Some(&at) = self.keys.get(key)
        {
            return Err(AppendError::Duplicate { key: key.clone(), at });
        }
        for (stream, expected) in batch.expected() {
            let actual = self.head_of(stream);
            if actual != expected {
                return Err(AppendError::Conflict { stream: stream.clone(), expected, actual });
            }
        }
        let mut key = batch.key;
        if let Some(key) = &key {
            self.keys.insert(key.clone(), Position(self.head().position.0 + 1));
        }
        for append in batch.appends {
            let mut seq = append.expected;
            for data in append.events {
                seq = seq.next();
                let head = self.head();
                let mut event = RecordedEvent {
                    position: Position(head.position.0 + 1),
                    stream: append.stream.clone(),
                    seq,
                    data,
                    recorded_at_ms: batch.recorded_at_ms,
                    key: key.take(),
                    hash: Hash::GENESIS,
                };
                event.hash = chain(&head.hash, &event);
                self.streams.entry(append.stream.clone()).or_default().push(event.position);
                self.events.push(event);
            }
        }
        self.project(batch.projection);
        Ok(Appended { last: self.head().position })
    }

    /// Removals first, so that a batch may close a step and open it again.
    fn project(&mut self, delta: ProjectionDelta) {
        for step in delta.closed {
            self.open_steps.remove(&step);
        }
        for mut row in delta.opened {
            (row.due_ms, row.deadline_ms) = (never_or(row.due_ms), never_or(row.deadline_ms));
            self.open_steps.insert((row.stream.clone(), row.token), row);
        }
        for entry in delta.keys_removed {
            self.lookup.remove(&entry);
        }
        self.lookup.extend(delta.keys_added);
        for mut row in delta.summaries {
            row.updated_at_ms = never_or(row.updated_at_ms);
            self.summaries.insert(row.stream.clone(), row);
        }
        for timer in delta.timers_removed {
            self.timers.remove(&timer);
        }
        for row in delta.timers_set {
            let times = (never_or(row.due_ms), never_or(row.wait_max_ms));
            self.timers.insert((row.stream, row.name), times);
        }
    }
}

/// Times at or beyond [`TIME_MS_MAX`] are all the same in a projection: never.
const fn never_or(ms: u64) -> u64 {
    if ms >= TIME_MS_MAX { u64::MAX } else { ms }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, batch: Batch) -> Result<Appended, AppendError> {
        self.state().append(batch)
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, ReadError> {
        let state = self.state();
        let positions = state.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        Ok(positions
            .iter()
            .skip(skip)
            .take(limit)
            .map(|position| state.events[position.0 as usize - 1].clone())
            .collect())
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<RecordedEvent>, ReadError> {
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        Ok(self.state().events.iter().skip(skip).take(limit).cloned().collect())
    }

    async fn head(&self) -> Result<Head, ReadError> {
        Ok(self.state().head())
    }

    async fn open_steps(
        &self,
        due_ms: u64,
        after: Option<(StreamId, Token)>,
        limit: usize,
    ) -> Result<Vec<OpenStepRow>, ReadError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let rows = state.open_steps.range((from, Bound::Unbounded)).map(|(_, row)| row);
        Ok(rows.filter(|row| row.due_ms <= due_ms).take(limit).cloned().collect())
    }

    async fn timers(
        &self,
        due_ms: u64,
        after: Option<TimerRow>,
        limit: usize,
    ) -> Result<Vec<TimerRow>, ReadError> {
        let state = self.state();
        let due = state.timers.iter().filter(|(_, (at_ms, _))| *at_ms <= due_ms);
        let rows = due.map(|((stream, name), (at_ms, wait_max_ms))| TimerRow {
            due_ms: *at_ms,
            stream: stream.clone(),
            name: name.clone(),
            wait_max_ms: *wait_max_ms,
        });
        let mut rows: Vec<_> = rows.filter(|row| after.as_ref().is_none_or(|after| row > after)).collect();
        rows.sort();
        rows.truncate(limit);
        Ok(rows)
    }

    async fn lookup(&self, key: &str) -> Result<Vec<StreamId>, ReadError> {
        let state = self.state();
        Ok(state.lookup.iter().filter(|(k, _)| k == key).map(|(_, stream)| stream.clone()).collect())
    }

    async fn summaries(
        &self,
        category: &str,
        which: Which,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<SummaryRow>, ReadError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let rows = state.summaries.range((from, Bound::Unbounded)).map(|(_, row)| row);
        let wanted = |row: &&SummaryRow| {
            row.stream.category() == category
                && match which {
                    Which::All => true,
                    Which::Open => row.open,
                }
        };
        Ok(rows.filter(wanted).take(limit).cloned().collect())
    }
}

/// How a [`MemoryQueue`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryQueueSettings {
    /// How long a received message is invisible.
    pub visibility: Duration,
    /// After this many receives the next one moves the message to the dead letters.
    pub max_receives: u32,
}

impl Default for MemoryQueueSettings {
    /// 30 seconds (the default of SQS) and 5 receives.
    fn default() -> Self {
        Self { visibility: Duration::from_secs(30), max_receives: 5 }
    }
}

/// A queue in memory.
#[derive(Debug)]
pub struct MemoryQueue {
    settings: MemoryQueueSettings,
    clock: Clock,
    state: Mutex<QueueState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    next_id: u64,
    messages: BTreeMap<u64, Message>,
    dead: Vec<DeadLetter>,
}

#[derive(Debug)]
struct Message {
    body: String,
    sent_at_ms: u64,
    visible_at_ms: u64,
    receive_count: u32,
}

/// What one look at the queue found.
enum Look {
    Found(Vec<Delivery>),
    NothingBefore(Option<u64>),
}

impl MemoryQueue {
    /// Makes an empty queue.
    #[must_use]
    pub fn new(settings: MemoryQueueSettings, clock: Clock) -> Self {
        Self { settings, clock, state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, max: usize) -> Look {
        let now = self.clock.now_ms();
        let mut state = self.state();
        let mut due: Vec<(u64, u64)> = state
            .messages
            .iter()
            .filter(|(_, message)| message.visible_at_ms <= now)
            .map(|(&id, message)| (message.visible_at_ms, id))
            .collect();
        due.sort_unstable();
        let mut found = Vec::new();
        for (_, id) in due {
            if found.len() == max {
                break;
            }
            let message = state.messages.get_mut(&id).expect("BUG: it was there under the same lock");
            if message.receive_count >= self.settings.max_receives {
                let reason = format!("received {} times and never deleted", message.receive_count);
                state.bury(id, reason);
                continue;
            }
            message.receive_count += 1;
            message.visible_at_ms = now.saturating_add(self.settings.visibility.as_millis() as u64);
            found.push(Delivery {
                id: id.to_string(),
                receipt: receipt(id, message.receive_count),
                body: message.body.clone(),
                receive_count: message.receive_count,
                sent_at_ms: message.sent_at_ms,
                sender: None,
            });
        }
        if found.is_empty() {
            Look::NothingBefore(state.messages.values().map(|message| message.visible_at_ms).min())
        } else {
            Look::Found(found)
        }
    }
}

impl QueueState {
    fn bury(&mut self, id: u64, reason: String) {
        if let Some(message) = self.messages.remove(&id) {
            self.dead.push(DeadLetter { id: id.to_string(), body: message.body, reason });
        }
    }

    /// The message of a receipt, if no later receive has replaced the receipt.
    fn held(&mut self, receipt: &Receipt) -> Option<(u64, &mut Message)> {
        let (id, nonce) = receipt.0.split_once('.')?;
        let (id, nonce): (u64, u32) = (id.parse().ok()?, nonce.parse().ok()?);
        self.messages
            .get_mut(&id)
            .filter(|message| message.receive_count == nonce)
            .map(|message| (id, message))
    }
}

/// The receive count is the nonce: it differs at each receive of one message, and ids are never used again.
fn receipt(id: u64, receive_count: u32) -> Receipt {
    Receipt(format!("{id}.{receive_count}"))
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        check_outgoing(&messages)?;
        let now = self.clock.now_ms();
        {
            let mut state = self.state();
            for message in messages {
                state.next_id += 1;
                let id = state.next_id;
                let visible_at_ms = now.saturating_add(message.delay.as_millis() as u64);
                let message =
                    Message { body: message.body, sent_at_ms: now, visible_at_ms, receive_count: 0 };
                state.messages.insert(id, message);
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let until = self.clock.now_ms().saturating_add(wait.as_millis() as u64);
        let max = max.clamp(1, BATCH_MESSAGES_MAX);
        loop {
            // Listening begins before the look, so that nothing sent in between is missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = match self.look(max) {
                Look::Found(deliveries) => return Ok(deliveries),
                Look::NothingBefore(next) => next,
            };
            if self.clock.now_ms() >= until {
                return Ok(Vec::new());
            }
            tokio::select! {
                () = changed => {}
                () = self.clock.sleep_until_ms(next.unwrap_or(until).min(until)) => {}
            }
        }
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<(), QueueError> {
        let now = self.clock.now_ms();
        {
            let mut state = self.state();
            // As in SQS, the receipt is void when its time has run out, even if no other receiver has taken
            // the message yet.
            let (_, message) = state
                .held(receipt)
                .filter(|(_, message)| message.visible_at_ms > now)
                .ok_or(QueueError::ReceiptExpired)?;
            message.visible_at_ms = now.saturating_add(visibility.as_millis() as u64);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let mut state = self.state();
        for receipt in receipts {
            let held = state.held(receipt).map(|(id, _)| id);
            if let Some(id) = held {
                state.messages.remove(&id);
            }
        }
        Ok(())
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        let mut state = self.state();
        let id = state.held(&delivery.receipt).map(|(id, _)| id).ok_or(QueueError::ReceiptExpired)?;
        state.bury(id, reason.to_owned());
        Ok(())
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        Ok(self.state().dead.iter().take(max).cloned().collect())
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let now = self.clock.now_ms();
        let state = self.state();
        let mut depth = Depth { dead: state.dead.len() as u64, ..Depth::default() };
        for message in state.messages.values() {
            if message.visible_at_ms <= now {
                depth.visible += 1;
            } else if message.receive_count > 0 {
                depth.in_flight += 1;
            } else {
                depth.delayed += 1;
            }
        }
        Ok(depth)
    }
}
