//! What a domain is: pure functions over the states of streams.
//!
//! # Expected flow
//! 1. [`Domain::reads`] names the streams a command is about, and keys to look up.
//! 2. The engine loads and folds them with [`Domain::evolve`] into a [`World`], and asks 1 again until
//!    nothing new is named.
//! 3. [`Domain::decide`] chooses the events, or refuses.
//! 4. The engine appends all of them at once, with the heads it loaded as expectation; on a conflict it goes
//!    back to 1.
//! 5. [`Domain::project`] says which steps are open now and which timers are set; the engine rings the steps'
//!    doorbells, and executes [`Domain::timer_due`] when a timer is due.
//!
//! # Guarantees the domain gives
//! - `decide` never panics for any states and command; `evolve` accepts every event that `decide` returned.
//! - Nothing here reads a clock, draws a random number or waits.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::few::Few;
use crate::ids::{Seq, StreamId, Token};
use crate::journal::{EventData, is_due};

/// When and where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Its place in its stream; the token of a step it opens.
    pub seq: Seq,
    /// The engine's clock when it was written.
    pub at_ms: u64,
}

/// A stored event that this build cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer build.
    #[error(
        "{kind} version {version} was written by a newer build; this one reads up to version {known}: upgrade perennial"
    )]
    Newer {
        /// The event's kind.
        kind: String,
        /// Its version.
        version: u32,
        /// The newest we know.
        known: u32,
    },
    /// Not an event of this domain, or damaged.
    #[error("{kind} version {version} cannot be read: {why}")]
    Malformed {
        /// The event's kind.
        kind: String,
        /// Its version.
        version: u32,
        /// What is wrong.
        why: String,
    },
}

/// An event that cannot follow the state it was applied to: the stream is corrupt. That stream stops, the
/// process goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {seq} cannot follow: {why}")]
pub struct Illegal {
    /// The event's place in its stream.
    pub seq: Seq,
    /// What is wrong.
    pub why: String,
}

/// One step that may run now, or from `not_before_ms` on.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenStep<I> {
    /// Its fencing token.
    pub token: Token,
    /// Its name, for people: `attach_data:db`.
    pub step: String,
    /// The whole request.
    pub intent: Arc<I>,
    /// When it was intended.
    pub intended_at_ms: u64,
    /// What it makes is not older than this: earlier than its intention where the clock has gone back since.
    pub made_from_ms: u64,
    /// Not to be run before this time.
    pub not_before_ms: u64,
    /// As it was written: to be settled by this time. The engine does not go by it: another one says that the
    /// step was resumed.
    pub deadline_ms: u64,
    /// Whether another request would be written in its place by now: a runner learns what became of it, and
    /// begins nothing new for it.
    pub outdated: bool,
    /// When it has not settled after being watched for this long, the engine reports it as
    /// [`Domain::expired`]. See `watched.rs` for what counts.
    pub budget_ms: u64,
    /// Whether the workflow goes on without it: then its budget is all the time there is, whatever stands in
    /// the way. Others wait for as long as they are hindered.
    pub optional: bool,
    /// Whether it is only good in time: its budget runs while it waits for its turn as well.
    pub only_in_time: bool,
    /// Smaller runs first, when there are more steps than may run at once, or more calls than the account may
    /// make.
    pub priority: i32,
    /// The time before which its workflow is to be through as far as possible, in milliseconds since the Unix
    /// epoch: of steps of one priority the one with the earliest goes first.
    pub wanted_by_ms: Option<u64>,
}

/// A command to come: at a time, or at once.
///
/// A timer is a function of its stream's state, so it is there for as long as the state shows it, and
/// survives a crash. One with `due_ms` 0 is a *reaction*: its command is executed right after the append that
/// has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Its name, one of few; a stream shows at most one timer of a name.
    pub name: String,
    /// When it is due; 0 for at once.
    pub due_ms: u64,
    /// The longest time for which it is ever set; `u64::MAX` where that is not known. One that is due later
    /// than that was set by a clock that has been set back since, and is due at once.
    pub wait_max_ms: u64,
}

impl Timer {
    /// Whether its command is to be executed now.
    #[must_use]
    pub const fn is_due(&self, now_ms: u64) -> bool {
        is_due(self.due_ms, self.wait_max_ms, now_ms)
    }
}

/// How many commands of timers of one name may begin in how long. Those that write nothing do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// So many,
    pub begun_max: usize,
    /// in any span of this length.
    pub per: Duration,
}

/// A line about a stream, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Whether work on it is under way.
    pub open: bool,
    /// A JSON object as text.
    pub body: String,
}

/// What a stream's state shows to the outside; derived, never stored as truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Projected<I> {
    /// The to-do list. Empty when the stream is finished or parked.
    pub steps: Vec<OpenStep<I>>,
    /// Keys that lead to this stream, sorted.
    pub keys: Vec<String>,
    /// For lists; `None` for streams that are not listed.
    pub summary: Option<Summary>,
    /// Commands to come, one a name.
    pub timers: Vec<Timer>,
}

impl<I> Default for Projected<I> {
    fn default() -> Self {
        Self { steps: Vec::new(), keys: Vec::new(), summary: None, timers: Vec::new() }
    }
}

/// What a command is about, as far as the world so far tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reads {
    /// Streams that the decision may append to. Commands that name the same one here take turns within this
    /// process.
    pub written: Few<StreamId>,
    /// Streams that the decision only looks at. They may move on before it is written, unless it fences them.
    pub observed: Few<StreamId>,
    /// Keys to look up; see [`World::lookup`].
    pub keys: Few<String>,
}

impl Reads {
    /// Streams that may be written.
    #[must_use]
    pub fn written(streams: impl IntoIterator<Item = StreamId>) -> Self {
        let mut reads = Self::default();
        reads.written.extend(streams);
        reads
    }

    /// And streams that are only looked at.
    #[must_use]
    pub fn and_observed(mut self, streams: impl IntoIterator<Item = StreamId>) -> Self {
        self.observed.extend(streams);
        self
    }

    /// And keys to look up.
    #[must_use]
    pub fn and_keys(mut self, keys: impl IntoIterator<Item = String>) -> Self {
        self.keys.extend(keys);
        self
    }

    /// Adds what another one names.
    pub fn extend(&mut self, other: Self) {
        self.written.extend(other.written);
        self.observed.extend(other.observed);
        self.keys.extend(other.keys);
    }

    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.observed.is_empty() && self.keys.is_empty()
    }

    /// Every stream that is named.
    pub fn streams(&self) -> impl Iterator<Item = &StreamId> {
        self.written.iter().chain(self.observed.iter().filter(|stream| !self.written.contains(*stream)))
    }
}

/// The states a command is decided on.
#[derive(Debug, Clone)]
pub struct World<S> {
    /// In order of name: there are few.
    states: Vec<(StreamId, Arc<S>, Seq)>,
    found: BTreeMap<String, Vec<StreamId>>,
}

impl<S> Default for World<S> {
    fn default() -> Self {
        Self { states: Vec::new(), found: BTreeMap::new() }
    }
}

impl<S> World<S> {
    /// Adds a stream's state and head.
    pub fn insert(&mut self, stream: StreamId, state: Arc<S>, head: Seq) {
        match self.place(&stream) {
            Ok(place) => self.states[place] = (stream, state, head),
            Err(place) => self.states.insert(place, (stream, state, head)),
        }
    }

    /// Adds what a key leads to.
    pub fn insert_lookup(&mut self, key: String, streams: Vec<StreamId>) {
        self.found.insert(key, streams);
    }

    /// The state of a stream that [`Domain::reads`] named; `None` before it is read.
    #[must_use]
    pub fn get(&self, stream: &StreamId) -> Option<&S> {
        self.place(stream).ok().map(|place| self.states[place].1.as_ref())
    }

    /// The head of a stream that [`Domain::reads`] named; `None` before it is read.
    #[must_use]
    pub fn head(&self, stream: &StreamId) -> Option<Seq> {
        self.place(stream).ok().map(|place| self.states[place].2)
    }

    fn place(&self, stream: &StreamId) -> Result<usize, usize> {
        self.states.binary_search_by(|(known, ..)| known.cmp(stream))
    }

    /// The streams that a key of [`Domain::reads`] leads to, in order of name; none before it is looked up.
    ///
    /// # Guarantees
    /// A lookup finds everything that was acknowledged before the command was executed. Later writes may be
    /// missing, and a stream in the result may have dropped the key since. The result is **a hint where to
    /// look**: the domain names the streams in its next [`Reads`], and their states decide, not the lookup.
    ///
    /// That a key leads nowhere proves nothing about the moment of the append. A decision that rests on
    /// "there is none" needs a stream that says so, which it writes or fences.
    #[must_use]
    pub fn lookup(&self, key: &str) -> &[StreamId] {
        self.found.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a key was looked up.
    pub(crate) fn was_looked_up(&self, key: &str) -> bool {
        self.found.contains_key(key)
    }
}

/// Events for one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Append<E, S> {
    /// Which, among those that [`Domain::reads`] named as written.
    pub stream: StreamId,
    /// What happened, in order.
    pub events: Vec<E>,
    /// The stream's state after them, where the decision has folded it already. It must be what
    /// [`Domain::evolve`] makes of the events at the decision's time; a debug build checks that.
    pub state: Option<S>,
}

impl<E, S> Append<E, S> {
    /// Events that the engine folds.
    #[must_use]
    pub const fn new(stream: StreamId, events: Vec<E>) -> Self {
        Self { stream, events, state: None }
    }

    /// Events with the state after them.
    #[must_use]
    pub const fn folded(stream: StreamId, events: Vec<E>, state: S) -> Self {
        Self { stream, events, state: Some(state) }
    }
}

impl<E, S> From<(StreamId, Vec<E>)> for Append<E, S> {
    fn from((stream, events): (StreamId, Vec<E>)) -> Self {
        Self::new(stream, events)
    }
}

/// What is to be appended at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<E, S> {
    /// One a stream. May be empty: there is nothing to do.
    pub appends: Vec<Append<E, S>>,
    /// Streams of [`Domain::reads`] that must not have moved on when this is written; otherwise it is decided
    /// anew. Those that are appended to need none.
    pub fences: Vec<StreamId>,
    /// Written at most once per key.
    pub key: Option<String>,
}

impl<E, S> Default for Decision<E, S> {
    fn default() -> Self {
        Self { appends: Vec::new(), fences: Vec::new(), key: None }
    }
}

impl<E, S> Decision<E, S> {
    /// Nothing to do.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Events for one stream.
    #[must_use]
    pub fn one(stream: StreamId, events: Vec<E>) -> Self {
        if events.is_empty() { Self::nothing() } else { Self::of([Append::new(stream, events)]) }
    }

    /// Events for several streams.
    #[must_use]
    pub fn of(appends: impl IntoIterator<Item = impl Into<Append<E, S>>>) -> Self {
        Self { appends: appends.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// What an open step waits for, told rarely: see [`Domain::waits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Why the last look did not settle the step.
    pub because: String,
    /// Whether that passes by itself, so that it does not count against the step's budget.
    pub hindered: bool,
    /// How many looks this task has taken so far.
    pub looks: u32,
}

/// A domain. See the module's flow and guarantees.
pub trait Domain: Send + Sync + 'static {
    /// What happened.
    type Event: Clone + Debug + Send + Sync;
    /// The fold of one stream, of any category.
    type State: Clone + Debug + PartialEq + Send + Sync;
    /// What may be asked.
    type Command: Clone + Debug + Send + Sync;
    /// The whole request of a step.
    type Intent: Clone + Debug + PartialEq + Send + Sync;
    /// What a step observed.
    type Evidence: Clone + Debug + Send + Sync;
    /// Why a command is refused.
    type Rejection: std::error::Error + Send + Sync + 'static;

    /// Writes an event in its newest format.
    fn encode(event: &Self::Event) -> EventData;

    /// Reads an event of any format ever released.
    ///
    /// # Errors
    /// See [`DecodeError`].
    fn decode(data: &EventData) -> Result<Self::Event, DecodeError>;

    /// The state of a stream without events.
    fn empty(stream: &StreamId) -> Self::State;

    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    fn evolve(state: Self::State, stamp: Stamp, event: &Self::Event) -> Result<Self::State, Illegal>;

    /// What a command is about, as far as the world so far tells. Asked again with what it named in the
    /// world, until it names nothing new: so a stream may be named because of what stands in another one.
    /// Pure: the same world, the same answer.
    fn reads(world: &World<Self::State>, command: &Self::Command) -> Reads;

    /// Chooses.
    ///
    /// # Errors
    /// The domain's own refusal; nothing is written.
    fn decide(
        world: &World<Self::State>,
        command: &Self::Command,
        now_ms: u64,
    ) -> Result<Decision<Self::Event, Self::State>, Self::Rejection>;

    /// What a stream shows to the outside.
    fn project(stream: &StreamId, state: &Self::State) -> Projected<Self::Intent>;

    /// The command that carries a worker's report.
    fn report(workflow: &StreamId, token: Token, evidence: Self::Evidence) -> Self::Command;

    /// The command that keeps what an open step waits for; `None` where that is not kept.
    fn waits(_workflow: &StreamId, _token: Token, _waiting: Waiting) -> Option<Self::Command> {
        None
    }

    /// The command that says a step has not settled within its budget.
    fn expired(workflow: &StreamId, token: Token, because: String) -> Self::Command;

    /// The command of a timer that is due. What it writes takes the timer off, or moves it to a later time;
    /// for as long as neither is so, it is executed again and again, with growing pauses. A timer that it
    /// moves within the past is due again at once: that must come to an end.
    fn timer_due(stream: &StreamId, name: &str) -> Self::Command;

    /// How many commands of timers of this name may begin in how long; `None` for as many as are due.
    fn pace(_timer: &str) -> Option<Pace> {
        None
    }
}

/// Folds a stream's events onto a state.
///
/// # Errors
/// [`FoldError`] at the first event that cannot be read or cannot follow.
pub fn fold<'a, D: Domain>(
    mut state: D::State,
    events: impl IntoIterator<Item = &'a crate::journal::RecordedEvent>,
) -> Result<D::State, FoldError> {
    for event in events {
        let decoded = D::decode(&event.data)?;
        state = D::evolve(state, Stamp { seq: event.seq, at_ms: event.recorded_at_ms }, &decoded)?;
    }
    Ok(state)
}

/// Why a stream cannot be folded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// An event cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An event cannot follow.
    #[error(transparent)]
    Illegal(#[from] Illegal),
}
