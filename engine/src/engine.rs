//! Commands in, atomic appends out.
//!
//! [`Engine::execute`] is the only way anything is written. It is a loop of four lines: read, decide, append,
//! and on a conflict again. There is no other path for recovery: [`Engine::ring_open_steps`] reads the open
//! steps and rings.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::cache::{Cache, Loaded};
use crate::clock::Clock;
use crate::domain::{Append, Decision, Domain, FoldError, Illegal, OpenStep, Stamp, Timer, fold};
use crate::ids::{Doorbell, Position, Seq, StreamId};
use crate::journal::{AppendError, Batch, Journal, ReadError, StreamAppend, TimerRow};
use crate::projection::note_changes;
use crate::reading::{Endless, READ_ROUNDS_MAX, Reading};
use crate::turns::{Turn, Turns};
use crate::wake::Sleepers;

/// How often a command is decided anew after a conflict. Within one process commands on a stream take turns,
/// so a conflict needs another writer; five in a row need a livelock.
const CONFLICTS_MAX: u32 = 5;

/// How many doorbells wait for the ringer. More than that are dropped: the safety scan rings them.
const DOORBELLS_MAX: usize = 65_536;

/// How many timers that were set wait for their loop. More than that are dropped: its next scan reads them.
const TIMERS_MAX: usize = 65_536;

/// How many events one read takes.
const READ_PAGE: usize = 1_000;

/// What a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Where its last event is; `None` when there was nothing to write.
    pub position: Option<Position>,
    /// How many events were written.
    pub events: usize,
}

/// Why a command led to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R: std::error::Error + 'static> {
    /// The domain refused.
    #[error(transparent)]
    Rejected(R),
    /// A batch with this key was written before.
    #[error("this was done before, at position {at}")]
    AlreadyDone {
        /// Where.
        at: Position,
    },
    /// The stream cannot be folded; a person must look (`perennial journal verify`).
    #[error("stream {stream} cannot be folded")]
    Corrupt {
        /// Which.
        stream: StreamId,
        /// Why.
        source: FoldError,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The journal cannot be written.
    #[error(transparent)]
    Append(AppendError),
    /// Another writer was faster, again and again.
    #[error("stream {stream} moved on {CONFLICTS_MAX} times while a command on it was decided")]
    Contended {
        /// Which.
        stream: StreamId,
    },
    /// The domain broke its contract; nothing was written.
    #[error("BUG: {why}")]
    Inconsistent {
        /// How.
        why: String,
    },
}

/// The engine of one domain over one journal. Cheap to clone.
pub struct Engine<D: Domain> {
    inner: Arc<Inner<D>>,
}

impl<D: Domain> Clone for Engine<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<D: Domain> {
    journal: Arc<dyn Journal>,
    clock: Clock,
    cache: Mutex<Cache<D>>,
    turns: Turns,
    bells: mpsc::Sender<Doorbell>,
    bells_taken: Mutex<Option<mpsc::Receiver<Doorbell>>>,
    timers: mpsc::Sender<TimerRow>,
    timers_taken: Mutex<Option<mpsc::Receiver<TimerRow>>>,
    written: watch::Sender<Position>,
    sleepers: Sleepers<D::Intent>,
}

impl<D: Domain> Engine<D> {
    /// An engine over a journal.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, clock: Clock) -> Self {
        let (bells, taken) = mpsc::channel(DOORBELLS_MAX);
        let (timers, timers_taken) = mpsc::channel(TIMERS_MAX);
        Self {
            inner: Arc::new(Inner {
                journal,
                clock,
                cache: Mutex::default(),
                turns: Turns::default(),
                bells,
                bells_taken: Mutex::new(Some(taken)),
                timers,
                timers_taken: Mutex::new(Some(timers_taken)),
                written: watch::Sender::new(Position(0)),
                sleepers: Sleepers::default(),
            }),
        }
    }

    /// The journal it writes to.
    #[must_use]
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.inner.journal
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Wakes whenever this engine has written; shows the last position.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<Position> {
        self.inner.written.subscribe()
    }

    /// The doorbells of steps that this engine has opened. There is one receiver: the ringer's.
    pub(crate) fn take_bells(&self) -> Option<mpsc::Receiver<Doorbell>> {
        self.inner.bells_taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The timers that this engine has set. There is one receiver: their loop.
    pub(crate) fn take_timers(&self) -> Option<mpsc::Receiver<TimerRow>> {
        self.inner.timers_taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Lets the steps whose request is concerned look at once, if they wait between two looks in this
    /// process: something was heard of what they wait for. Returns how many there are. A hint: a step that
    /// misses it looks when it would have.
    pub fn wake(&self, is_concerned: impl Fn(&D::Intent) -> bool) -> usize {
        self.inner.sleepers.wake(is_concerned)
    }

    /// The steps that wait between two looks.
    pub(crate) fn sleepers(&self) -> &Sleepers<D::Intent> {
        &self.inner.sleepers
    }

    /// Executes a command: load, decide, append atomically.
    ///
    /// # Errors
    /// See [`ExecuteError`]. After `Append(Unknown)` the streams are read again before the next decision.
    pub async fn execute(&self, command: D::Command) -> Result<Executed, ExecuteError<D::Rejection>> {
        let (executed, opened) = self.execute_quietly(&command).await?;
        self.ring(opened);
        Ok(executed)
    }

    /// Rings doorbells.
    pub(crate) fn ring(&self, bells: impl IntoIterator<Item = Doorbell>) {
        for bell in bells {
            // A full channel loses a hint, not a step: the safety scan rings it.
            let _ = self.inner.bells.try_send(bell);
        }
    }

    /// As [`execute`](Self::execute), and leaves it to the caller to ring the doorbells of the steps it has
    /// opened.
    pub(crate) async fn execute_quietly(
        &self,
        command: &D::Command,
    ) -> Result<(Executed, Vec<Doorbell>), ExecuteError<D::Rejection>> {
        let mut turn = self.inner.turns.none();
        let mut last = None;
        for _ in 0..CONFLICTS_MAX {
            let read = self.read(command, &mut turn).await?;
            let now_ms = self.inner.clock.now_ms();
            let decision = D::decide(&read.reading.world, command, now_ms).map_err(ExecuteError::Rejected)?;
            if decision.appends.is_empty() {
                return Ok((Executed { position: None, events: 0 }, Vec::new()));
            }
            let prepared = Self::prepare(&read, decision, now_ms)?;
            let events = prepared.batch.appends.iter().map(|append| append.events.len()).sum();
            let timers = prepared.batch.projection.timers_set.clone();
            match self.inner.journal.append(prepared.batch).await {
                Ok(appended) => {
                    {
                        let mut cache = self.cache();
                        for (stream, after) in prepared.after {
                            cache.put(stream, after);
                        }
                    }
                    for timer in timers {
                        // A full channel loses a hint, not a timer: the next scan reads it.
                        let _ = self.inner.timers.try_send(timer);
                    }
                    self.inner.written.send_if_modified(|last| {
                        let moved = *last < appended.last;
                        *last = (*last).max(appended.last);
                        moved
                    });
                    return Ok((Executed { position: Some(appended.last), events }, prepared.bells));
                }
                Err(AppendError::Conflict { stream, expected, actual }) => {
                    debug!(%stream, %expected, %actual, "another writer was faster");
                    self.cache().forget(read.loaded.iter().map(|(stream, _)| stream));
                    last = Some(stream);
                }
                Err(AppendError::Duplicate { at, .. }) => return Err(ExecuteError::AlreadyDone { at }),
                Err(error) => {
                    self.cache().forget(read.loaded.iter().map(|(stream, _)| stream));
                    return Err(ExecuteError::Append(error));
                }
            }
        }
        Err(ExecuteError::Contended { stream: last.unwrap_or_else(no_stream) })
    }

    /// Reads what a command is about, to the fixed point, holding a turn on every stream that it may write.
    async fn read(
        &self,
        command: &D::Command,
        turn: &mut Turn<'_>,
    ) -> Result<Read<D>, ExecuteError<D::Rejection>> {
        let inconsistent = |endless: Endless| ExecuteError::Inconsistent { why: endless.to_string() };
        let mut read = Read { reading: Reading::default(), loaded: Vec::new() };
        let mut restarts = 0;
        loop {
            let missing = read.reading.missing(command).map_err(inconsistent)?;
            if missing.is_empty() {
                return Ok(read);
            }
            if !turn.take_further(&missing.written).await {
                restarts += 1;
                // Each time there is a stream more; that many in a chain are a bug of their own.
                if restarts > READ_ROUNDS_MAX {
                    let stream = missing.written.into_iter().next().unwrap_or_else(no_stream);
                    return Err(ExecuteError::Contended { stream });
                }
                read = Read { reading: Reading::default(), loaded: Vec::new() };
                continue;
            }
            // Keys before streams: what was found is loaded later than it was found.
            for key in missing.keys {
                let streams = self.inner.journal.lookup(&key).await?;
                read.reading.world.insert_lookup(key, streams);
            }
            for stream in missing.written.into_iter().chain(missing.observed) {
                let found = self.load_shown(&stream).await?;
                read.reading.world.insert(stream.clone(), Arc::clone(&found.state), found.head);
                read.loaded.push((stream, found));
            }
        }
    }

    /// The state and head of a stream.
    ///
    /// # Errors
    /// [`ExecuteError::Read`] or [`ExecuteError::Corrupt`].
    pub async fn load(&self, stream: &StreamId) -> Result<(Arc<D::State>, Seq), ExecuteError<D::Rejection>> {
        self.load_shown(stream).await.map(|loaded| (loaded.state, loaded.head))
    }

    async fn load_shown(&self, stream: &StreamId) -> Result<Loaded<D>, ExecuteError<D::Rejection>> {
        if let Some(found) = self.cache().get(stream) {
            return Ok(found);
        }
        let (state, head) = load_stream::<D>(self.inner.journal.as_ref(), stream).await?;
        let shown = Arc::new(D::project(stream, &state));
        let loaded = Loaded { state: Arc::new(state), head, shown };
        self.cache().put(stream.clone(), loaded.clone());
        Ok(loaded)
    }

    /// One open step, or `None` when the token is not open (any more).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn open_step(
        &self,
        bell: &Doorbell,
    ) -> Result<Option<OpenStep<D::Intent>>, ExecuteError<D::Rejection>> {
        let loaded = self.load_shown(&bell.workflow).await?;
        Ok(loaded.shown.steps.iter().find(|step| step.token == bell.token).cloned())
    }

    /// A timer of a stream; `None` when the stream does not show it (any more).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn timer(
        &self,
        stream: &StreamId,
        name: &str,
    ) -> Result<Option<Timer>, ExecuteError<D::Rejection>> {
        let loaded = self.load_shown(stream).await?;
        Ok(loaded.shown.timers.iter().find(|timer| timer.name == name).cloned())
    }

    /// Rings the open steps that are due at `due_ms` or before, the most urgent first: after a start, and as
    /// the slow safety scan behind every doorbell. Returns how many.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn ring_open_steps(&self, due_ms: u64) -> Result<usize, ReadError> {
        let (mut after, mut due) = (None, Vec::new());
        loop {
            let page = self.inner.journal.open_steps(due_ms, after.take(), READ_PAGE).await?;
            let full = page.len() == READ_PAGE;
            for row in page {
                after = Some((row.stream.clone(), row.token));
                due.push((row.priority, Doorbell { workflow: row.stream, token: row.token }));
            }
            if !full || due.len() >= DOORBELLS_MAX {
                break;
            }
        }
        due.sort_by_key(|(priority, _)| *priority);
        let mut rung = 0;
        for (_, bell) in due {
            if self.inner.bells.try_send(bell).is_err() {
                warn!("more open steps than doorbells fit; the next scan goes on");
                break;
            }
            rung += 1;
        }
        Ok(rung)
    }

    fn prepare(
        read: &Read<D>,
        decision: Decision<D::Event, D::State>,
        now_ms: u64,
    ) -> Result<Prepared<D>, ExecuteError<D::Rejection>> {
        let inconsistent = |why: String| Err(ExecuteError::Inconsistent { why });
        let batch = Batch { key: decision.key, recorded_at_ms: now_ms, ..Batch::default() };
        let mut prepared = Prepared { batch, after: Vec::new(), bells: Vec::new() };
        for stream in decision.fences {
            let Some(head) = read.reading.world.head(&stream) else {
                return inconsistent(format!("a decision fences {stream}, which its reads do not name"));
            };
            if !decision.appends.iter().any(|append| append.stream == stream) {
                prepared.batch.fences.push((stream, head));
            }
        }
        for Append { stream, events, state } in decision.appends {
            let before = read.loaded.iter().find(|(read, _)| *read == stream).map(|(_, loaded)| loaded);
            let before = before.filter(|_| read.reading.reads.written.contains(&stream));
            let Some(before) = before else {
                return inconsistent(format!(
                    "a decision wrote to {stream}, which its reads do not name as written"
                ));
            };
            let folds = || {
                evolve_all::<D>(&before.state, before.head, now_ms, &events)
                    .map_err(|source| ExecuteError::Corrupt { stream: stream.clone(), source: source.into() })
            };
            let state = match state {
                None => folds()?,
                Some(state) if cfg!(debug_assertions) && folds()? != state => {
                    return inconsistent(format!(
                        "a decision handed over another state of {stream} than its events make"
                    ));
                }
                Some(state) => state,
            };
            let shown = D::project(&stream, &state);
            let delta = &mut prepared.batch.projection;
            prepared.bells.extend(note_changes(delta, &stream, &before.shown, &shown, now_ms));
            let head = Seq(before.head.0 + events.len() as u64);
            prepared.batch.appends.push(StreamAppend {
                stream: stream.clone(),
                expected: before.head,
                events: events.iter().map(D::encode).collect(),
            });
            prepared.after.push((stream, Loaded { state: Arc::new(state), head, shown: Arc::new(shown) }));
        }
        Ok(prepared)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache<D>> {
        self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a command is decided on.
struct Read<D: Domain> {
    reading: Reading<D>,
    /// Every stream that was read, once: there are few.
    loaded: Vec<(StreamId, Loaded<D>)>,
}

/// What is to be written, and what is so after it.
struct Prepared<D: Domain> {
    batch: Batch,
    after: Vec<(StreamId, Loaded<D>)>,
    bells: Vec<Doorbell>,
}

/// A stream's state after further events: one copy of it, however many events there are.
fn evolve_all<D: Domain>(
    before: &D::State,
    head: Seq,
    at_ms: u64,
    events: &[D::Event],
) -> Result<D::State, Illegal> {
    let seqs = (1..).map(|n| Seq(head.0 + n));
    events
        .iter()
        .zip(seqs)
        .try_fold(before.clone(), |state, (event, seq)| D::evolve(state, Stamp { seq, at_ms }, event))
}

fn no_stream() -> StreamId {
    StreamId::parse("none/none").unwrap_or_else(|_| unreachable!("BUG: a literal is a stream name"))
}

/// Reads and folds a whole stream.
///
/// # Errors
/// [`ExecuteError::Read`] or [`ExecuteError::Corrupt`].
pub async fn load_stream<D: Domain>(
    journal: &dyn Journal,
    stream: &StreamId,
) -> Result<(D::State, Seq), ExecuteError<D::Rejection>> {
    let mut state = D::empty(stream);
    let mut head = Seq::NONE;
    loop {
        let page = journal.read_stream(stream, head, READ_PAGE).await?;
        let full = page.len() == READ_PAGE;
        if let Some(last) = page.last() {
            head = last.seq;
        }
        state = fold::<D>(state, &page)
            .map_err(|source| ExecuteError::Corrupt { stream: stream.clone(), source })?;
        if !full {
            return Ok((state, head));
        }
    }
}
