//! All of it as the engine's `Domain`.

mod addresses;
mod pruning;

use std::collections::BTreeMap;

use perennial_engine::domain::{
    Decision, DecodeError, Domain, Illegal, Projected, Reads, Stamp, Summary, World,
};
use perennial_engine::ids::{Seq, StreamId, Token};
use perennial_engine::journal::EventData;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{InstanceId, SnapshotId, VolumeId};
use crate::backup::{self, BackupCause, BackupEvent, BackupId, Book, BookDraft, BookId, Errand, book_key};
use crate::capacity::{self, SpotSeen};
use crate::found::{self, Sighting};
use crate::from_backup;
use crate::letter::{FOREIGN_BODY_MAX, Fate, Letter, LetterEvent, REPETITIONS_MAX};
use crate::node::{Node, NodeEvent, OperationId, OperationKind, Outcome, Resources, node_stream};
use crate::operation::{Diversion, Draft, Keep, Operation, OperationEvent, Order, Refusal, Restore, Status};
use crate::pool::{self, AddressPool, Granted, PoolEvent, PoolSummary, pool_stream};
use crate::prune::Condemned;
use crate::signal::{Cause, Effect, ImpairedPolicy, News, RebalancePolicy, Signal, StatusCheck};
use crate::spec::{NodeName, NodeSpec, RootMode};
use crate::steps::{Evidence, Intent, Slot};
use crate::submission::{Submission, Work};

/// The version of every event format in this build. An older one is upcast on reading, one version at a time.
pub const EVENT_VERSION: u32 = 1;

/// Any event of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "events are few and short-lived; boxes would only blur the shapes"
)]
pub enum Event {
    /// Of a node's stream.
    Node(NodeEvent),
    /// Of an operation's stream.
    Operation(OperationEvent),
    /// Of a letter's stream.
    Letter(LetterEvent),
    /// Of a book of a node's backups.
    Backup(BackupEvent),
    /// Of a pool's stream.
    Pool(PoolEvent),
}

/// The state of any stream.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a state is held behind one pointer, in the engine's cache")]
pub enum State {
    /// `node/…`
    Node(Node),
    /// `workflow/…`; `None` before it has started.
    Operation(Option<Operation>),
    /// `letter/…`
    Letter(Letter),
    /// `backup/…`
    Book(Book),
    /// `pool/…`
    Pool(AddressPool),
    /// A category this build does not know; nothing may be written there.
    Unknown,
}

/// What is known of a node when a command about it is made; the decision is refused when it has moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which node.
    pub node: NodeName,
    /// How many operations it had.
    pub operations: u64,
    /// The open one.
    pub open: Option<OperationId>,
    /// The present book of its backups, counted from 1.
    pub book: u64,
    /// The pools that its addresses come from.
    pub pools: Vec<NodeName>,
    /// The present book of another node, whose backup it is to be made from.
    pub source: Option<BookId>,
}

impl Sight {
    /// What can be seen of a node.
    #[must_use]
    pub fn of(name: &NodeName, node: &Node) -> Self {
        Self {
            node: name.clone(),
            operations: node.operations,
            open: node.open.as_ref().map(|(id, _)| id.clone()),
            book: 1,
            pools: node.spec.iter().flat_map(NodeSpec::ip_pools).map(|(_, pool)| pool.clone()).collect(),
            source: None,
        }
    }

    /// With the present book of another node, whose backup it is to be made from.
    #[must_use]
    pub fn with_source(mut self, source: Option<BookId>) -> Self {
        self.source = source;
        self
    }

    /// With the present book of the node's backups, if it is not the first.
    #[must_use]
    pub const fn with_book(mut self, book: u64) -> Self {
        self.book = book;
        self
    }

    fn book(&self) -> BookId {
        BookId::new(self.node.clone(), self.book)
    }

    fn next(&self) -> OperationId {
        OperationId::new(self.node.clone(), self.operations + 1)
    }

    fn last(&self) -> Option<OperationId> {
        (self.operations > 0).then(|| OperationId::new(self.node.clone(), self.operations))
    }

    fn streams(&self) -> Vec<StreamId> {
        let mut streams = vec![node_stream(&self.node), self.next().stream(), self.book().stream()];
        if let Some(open) = &self.open {
            streams.push(open.stream());
            streams.push(open.next().stream());
        }
        streams.extend(self.pools.iter().map(pool_stream));
        streams.extend(self.source.iter().flat_map(|source| [node_stream(source.node()), source.stream()]));
        streams.sort();
        streams.dedup();
        // The node's stream is the command's lock.
        streams.sort_by_key(|stream| *stream != node_stream(&self.node));
        streams
    }
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its stream; see [`letter_stream`](crate::letter::letter_stream).
    pub stream: StreamId,
    /// Through which queue.
    pub queue: String,
    /// The queue's id of it.
    pub message_id: String,
    /// When it was sent.
    pub sent_at_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// As much of it as is to be kept.
    pub body: String,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one of it exists at a time")]
pub enum Content {
    /// It asks for something.
    Submission(Submission),
    /// It tells something.
    Signal(Signal),
    /// Its fate is clear from its form: malformed, oversized, unknown, foreign, too late.
    Settled(Fate),
}

impl Content {
    /// The pool it is about, or those that the node it describes takes its addresses from.
    fn pools(&self) -> Vec<&NodeName> {
        match self {
            Self::Submission(Submission { work: Work::Pool(pool), .. }) => vec![&pool.spec.name],
            Self::Submission(Submission { work: Work::Apply(apply), .. }) => {
                apply.spec.ip_pools().map(|(_, pool)| pool).collect()
            }
            Self::Submission(_) | Self::Signal(_) | Self::Settled(_) => Vec::new(),
        }
    }
}

/// What may be asked of the domain.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one of it exists at a time")]
pub enum Command {
    /// A message came.
    Letter {
        /// As it came.
        envelope: Envelope,
        /// What it says.
        content: Content,
        /// The node it is about, if it is about one.
        sight: Option<Sight>,
        /// Whose installation this is.
        owner: String,
    },
    /// The sweep saw something.
    Heard {
        /// What.
        signal: Signal,
        /// About which node.
        sight: Sight,
        /// Whose installation this is.
        owner: String,
    },
    /// The backups of a node are to be looked after.
    Tend {
        /// Of which node.
        sight: Sight,
        /// An operation, of this node or another one, that is over and holds one of them.
        over: Option<OperationId>,
        /// An operation of this node whose final snapshots are to be taken over.
        finals: Option<OperationId>,
        /// Whose installation this is.
        owner: String,
    },
    /// A node on demand may go back to spot.
    Return {
        /// Which node.
        sight: Sight,
        /// What is known of spot where it lives.
        seen: SpotSeen,
        /// Whose installation this is.
        owner: String,
    },
    /// The node file says that what is retained is to be deleted.
    Prune {
        /// Of which node.
        sight: Sight,
        /// Whose installation this is.
        owner: String,
    },
    /// The sweep saw the volumes of the instance that carries a node at rest.
    Sighted {
        /// Which node.
        sight: Sight,
        /// Its instance.
        instance: InstanceId,
        /// Attached volumes that were not known to be the node's.
        others: Vec<VolumeId>,
        /// The node's volumes that were seen to have left it, twice.
        left: Vec<VolumeId>,
        /// Whose installation this is.
        owner: String,
    },
    /// A worker reports.
    Report {
        /// Of which operation, or which book of backups.
        workflow: StreamId,
        /// Of which step.
        token: Token,
        /// What it observed.
        evidence: Evidence,
    },
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The operation refuses.
    #[error(transparent)]
    Operation(#[from] Refusal),
    /// The backups refuse.
    #[error(transparent)]
    Backup(#[from] backup::Refusal),
    /// The node has moved on since the command was made: look again and make it anew.
    #[error("node {node} has moved on; look again")]
    Moved {
        /// Which.
        node: NodeName,
    },
    /// The node is not to be moved now.
    #[error("node {node} is not moved now: {why}")]
    NotNow {
        /// Which.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// There is no such operation.
    #[error("there is no workflow {name}")]
    NoSuchOperation {
        /// Its name.
        name: String,
    },
    /// Nothing may be written to a stream of this category by this build.
    #[error("BUG: nothing may be written to {stream}")]
    WrongStream {
        /// Which.
        stream: StreamId,
    },
}

/// Perennial's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perennial;

impl Domain for Perennial {
    type Event = Event;
    type State = State;
    type Command = Command;
    type Intent = Intent;
    type Evidence = Evidence;
    type Rejection = Rejection;

    fn encode(event: &Event) -> EventData {
        // `{"operation": {"step_settled": {…}}}` becomes kind `operation.step_settled` and the inner object.
        let value = serde_json::to_value(event)
            .unwrap_or_else(|error| unreachable!("BUG: every event is plain data: {error}"));
        let (area, inner) = single(value);
        let (name, body) = match inner {
            serde_json::Value::String(name) => (name, serde_json::json!({})),
            inner => single(inner),
        };
        EventData { kind: format!("{area}.{name}"), version: EVENT_VERSION, body: body.to_string() }
    }

    fn decode(data: &EventData) -> Result<Event, DecodeError> {
        let malformed =
            |why: String| DecodeError::Malformed { kind: data.kind.clone(), version: data.version, why };
        if data.version > EVENT_VERSION {
            return Err(DecodeError::Newer {
                kind: data.kind.clone(),
                version: data.version,
                known: EVENT_VERSION,
            });
        }
        let (area, name) =
            data.kind.split_once('.').ok_or_else(|| malformed("its kind has no area".into()))?;
        let body: serde_json::Value =
            serde_json::from_str(&data.body).map_err(|error| malformed(error.to_string()))?;
        let body = upcast(&data.kind, data.version, body);
        serde_json::from_value(serde_json::json!({ area: { name: body } }))
            .map_err(|error| malformed(error.to_string()))
    }

    fn empty(stream: &StreamId) -> State {
        match stream.category() {
            "node" => State::Node(Node::default()),
            "workflow" => State::Operation(None),
            "letter" => State::Letter(Letter::default()),
            "backup" => State::Book(Book::default()),
            "pool" => State::Pool(AddressPool::default()),
            _ => State::Unknown,
        }
    }

    fn evolve(state: State, stamp: Stamp, event: &Event) -> Result<State, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match (state, event) {
            (State::Node(node), Event::Node(event)) => node.evolve(stamp, event).map(State::Node),
            (State::Operation(None), Event::Operation(OperationEvent::Started(order))) => {
                let id = OperationId::new(order.spec.name.clone(), order.number);
                Ok(State::Operation(Some(Operation::start(id, order.clone(), stamp.at_ms))))
            }
            (State::Operation(None), Event::Operation(_)) => illegal("the operation has not started"),
            (State::Operation(Some(operation)), Event::Operation(event)) => {
                operation.evolve(stamp, event).map(|operation| State::Operation(Some(operation)))
            }
            (State::Letter(letter), Event::Letter(event)) => letter.evolve(stamp, event).map(State::Letter),
            (State::Book(book), Event::Backup(event)) => book.evolve(stamp, event).map(State::Book),
            (State::Pool(pool), Event::Pool(event)) => pool.evolve(stamp, event).map(State::Pool),
            _ => illegal("the event does not belong to this stream"),
        }
    }

    fn reads(_: &World<State>, command: &Command) -> Reads {
        Reads::written(match command {
            Command::Letter { envelope, content, sight, .. } => {
                let mut streams = sight.as_ref().map(Sight::streams).unwrap_or_default();
                for pool in content.pools().into_iter().map(pool_stream) {
                    if !streams.contains(&pool) {
                        streams.push(pool);
                    }
                }
                streams.push(envelope.stream.clone());
                streams
            }
            Command::Heard { sight, .. }
            | Command::Return { sight, .. }
            | Command::Prune { sight, .. }
            | Command::Sighted { sight, .. } => sight.streams(),
            Command::Tend { sight, over, finals, .. } => {
                let mut streams = sight.streams();
                streams.push(sight.book().next().stream());
                streams.extend(over.iter().map(OperationId::stream));
                // What a deletion kept stands in its order.
                for own in sight.last().iter().chain(finals) {
                    let own = own.stream();
                    if !streams.contains(&own) {
                        streams.push(own);
                    }
                }
                streams
            }
            Command::Report { workflow, evidence, .. } => match OperationId::of_stream(workflow) {
                Some(id) => {
                    let mut streams = vec![node_stream(id.node()), workflow.clone(), id.next().stream()];
                    if let Evidence::AddressReturned { pool, .. } = evidence {
                        streams.push(pool_stream(pool));
                    }
                    streams
                }
                None => vec![workflow.clone()],
            },
        })
    }

    fn decide(
        world: &World<State>,
        command: &Command,
        now_ms: u64,
    ) -> Result<Decision<Event, State>, Rejection> {
        match command {
            Command::Letter { envelope, content, sight, owner } => {
                decide_letter(&View { world, now_ms, owner }, envelope, content, sight.as_ref())
            }
            Command::Heard { signal, sight, owner } => {
                let view = View { world, now_ms, owner };
                let (_, appends) = view.hear(sight, signal)?;
                Ok(Decision::of(appends))
            }
            Command::Tend { sight, over, owner, .. } => {
                let view = View { world, now_ms, owner };
                let appends = match over {
                    Some(over) => view.let_go(sight, over)?,
                    None => view.tend(sight)?,
                };
                Ok(Decision::of(appends))
            }
            Command::Return { sight, seen, owner } => {
                let view = View { world, now_ms, owner };
                Ok(Decision::of(view.bring_back(sight, seen)?))
            }
            Command::Prune { sight, owner } => {
                let view = View { world, now_ms, owner };
                Ok(Decision::of(view.prune_what_is_due(sight)?))
            }
            Command::Sighted { sight, instance, others, left, owner } => {
                let view = View { world, now_ms, owner };
                Ok(Decision::of(view.sighted(sight, instance, others, left)?))
            }
            Command::Report { workflow, token, evidence } => {
                let view = View { world, now_ms, owner: "" };
                if let Some(id) = BookId::of_stream(workflow) {
                    let mut draft = view.book_draft(&id)?;
                    draft.report(*token, evidence)?;
                    return Ok(Decision::one(workflow.clone(), backup_events(draft)));
                }
                let name = || Rejection::NoSuchOperation { name: workflow.name().to_owned() };
                let id = OperationId::of_stream(workflow).ok_or_else(name)?;
                let operation = view.operation(&id).ok_or_else(name)?;
                let mut draft = Draft::from(operation, view.head(workflow), now_ms);
                draft.report(*token, evidence.clone())?;
                let mut appends = view.close(draft)?;
                appends.extend(view.given_back(&id, evidence));
                Ok(Decision::of(appends))
            }
        }
    }

    fn project(stream: &StreamId, state: &State) -> Projected<Intent> {
        match state {
            State::Node(node) => node_shown(stream, node),
            State::Operation(Some(operation)) => operation_shown(operation),
            State::Book(book) => book_shown(stream, book),
            State::Pool(pool) => pool_shown(pool),
            State::Operation(None) | State::Letter(_) | State::Unknown => Projected::default(),
        }
    }

    fn report(workflow: &StreamId, token: Token, evidence: Evidence) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence }
    }

    fn expired(workflow: &StreamId, token: Token, because: String) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence: Evidence::OutOfTime { because } }
    }

    fn timer_due(stream: &StreamId, name: &str) -> Command {
        unreachable!("BUG: no stream shows timers, but {name} of {stream} is due")
    }
}

/// The one field of an object with one field.
fn single(value: serde_json::Value) -> (String, serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.into_iter().next().unwrap_or_else(|| unreachable!("BUG: an enum's object has one field"))
        }
        _ => unreachable!("BUG: an event is an object"),
    }
}

/// Brings an older body to the newest form, one version at a time. There is only one version so far.
const fn upcast(_kind: &str, _version: u32, body: serde_json::Value) -> serde_json::Value {
    body
}

/// The states a decision is made on, with their types.
struct View<'a> {
    world: &'a World<State>,
    now_ms: u64,
    owner: &'a str,
}

type Appends = Vec<(StreamId, Vec<Event>)>;

/// What a new node is made from, and the append that holds it.
type Held = (Restore, (StreamId, Vec<Event>));

/// An operation to start.
struct Wanted {
    kind: OperationKind,
    spec: NodeSpec,
    before: Resources,
    generation: u64,
    keep: Option<Keep>,
    reimage: bool,
    prune: Vec<Condemned>,
    restore: Option<Restore>,
    cause: Cause,
}

impl Wanted {
    const fn new(
        kind: OperationKind,
        spec: NodeSpec,
        before: Resources,
        generation: u64,
        cause: Cause,
    ) -> Self {
        Self {
            kind,
            spec,
            before,
            generation,
            keep: None,
            reimage: false,
            prune: Vec::new(),
            restore: None,
            cause,
        }
    }
}

/// An operation that starts.
struct Begun {
    id: OperationId,
    told_to_node: Vec<Event>,
    append: (StreamId, Vec<Event>),
}

impl View<'_> {
    fn node(&self, name: &NodeName) -> Result<&Node, Rejection> {
        match self.world.get(&node_stream(name)) {
            Some(State::Node(node)) => Ok(node),
            _ => Err(Rejection::WrongStream { stream: node_stream(name) }),
        }
    }

    fn operation(&self, id: &OperationId) -> Option<&Operation> {
        match self.world.get(&id.stream()) {
            Some(State::Operation(operation)) => operation.as_ref(),
            _ => None,
        }
    }

    fn head(&self, stream: &StreamId) -> Seq {
        self.world.head(stream).unwrap_or(Seq::NONE)
    }

    /// The node of a sight, if it has not moved on.
    fn seen(&self, sight: &Sight) -> Result<&Node, Rejection> {
        let node = self.node(&sight.node)?;
        if Sight::of(&sight.node, node).with_book(sight.book).with_source(sight.source.clone()) == *sight {
            Ok(node)
        } else {
            Err(Rejection::Moved { node: sight.node.clone() })
        }
    }

    /// A book of backups as it is.
    fn book(&self, id: &BookId) -> Result<&Book, Rejection> {
        match self.world.get(&id.stream()) {
            Some(State::Book(book)) => Ok(book),
            _ => Err(Rejection::WrongStream { stream: id.stream() }),
        }
    }

    /// Its next events.
    fn book_draft(&self, id: &BookId) -> Result<BookDraft, Rejection> {
        Ok(BookDraft::from(id.node(), self.book(id)?, self.head(&id.stream()), self.now_ms))
    }

    /// What is due about the backups of a node.
    fn tend(&self, sight: &Sight) -> Result<Appends, Rejection> {
        let node = self.seen(sight)?;
        let (id, name) = (sight.book(), &sight.node);
        let book = self.book(&id)?;
        if book.closed {
            return Err(Rejection::Moved { node: name.clone() });
        }
        let last = sight.last();
        let last = last.as_ref().and_then(|last| self.operation(last));
        let mut draft = self.book_draft(&id)?;
        match backup::errand(node, last, name, book, self.now_ms) {
            Errand::Nothing => return Ok(Vec::new()),
            Errand::Begin { .. } => {
                draft.begin(node, self.owner, BackupCause::Schedule)?;
            }
            // The command did not know of it: the next look does.
            Errand::Inherit { operation } => match self.operation(&operation) {
                Some(from) => draft.inherit(node, from)?,
                None => return Err(Rejection::Moved { node: name.clone() }),
            },
            Errand::GiveUp => draft.give_up("the node was deleted, its backups with it")?,
            Errand::Rescue { backup } => {
                return self.rescue(sight, node, BackupId::new(name.clone(), backup));
            }
            Errand::Turn => {
                let next = id.next();
                let mut opened = self.book_draft(&next)?;
                opened.open(draft.close(next.number())?)?;
                return Ok(vec![(id.stream(), backup_events(draft)), (next.stream(), backup_events(opened))]);
            }
        }
        let events = backup_events(draft);
        Ok(if events.is_empty() { Vec::new() } else { vec![(id.stream(), events)] })
    }

    /// A backup is held no longer: what was made from it is made, or given up.
    fn let_go(&self, sight: &Sight, over: &OperationId) -> Result<Appends, Rejection> {
        let id = sight.book();
        let book = self.book(&id)?;
        let is_over =
            self.operation(over).is_some_and(|operation| matches!(operation.status, Status::Finished { .. }));
        if book.closed || !is_over || !book.known.holds.contains_key(over) {
            return Err(Rejection::Moved { node: sight.node.clone() });
        }
        let mut draft = self.book_draft(&id)?;
        draft.let_go(over.clone())?;
        Ok(vec![(id.stream(), backup_events(draft))])
    }

    /// What a new node is made from, and the append that holds it.
    fn hold(
        &self,
        sight: &Sight,
        spec: &NodeSpec,
        from: &BackupId,
    ) -> Result<Result<Held, String>, Rejection> {
        let moved = || Rejection::Moved { node: sight.node.clone() };
        let id = sight.source.as_ref().filter(|source| source.node() == from.node()).ok_or_else(moved)?;
        let (source, book) = (self.node(from.node())?, self.book(id)?);
        if book.closed {
            return Err(moved());
        }
        let backup = book.known.backups.iter().find(|backup| backup.order.number == from.number());
        let restore = match from_backup::restore(spec, from, backup, source) {
            Ok(restore) => restore,
            Err(because) => return Ok(Err(because)),
        };
        let mut draft = self.book_draft(id)?;
        draft.hold(from.number(), sight.next())?;
        Ok(Ok((restore, (id.stream(), backup_events(draft)))))
    }

    /// The root that is lost comes back from a backup; nothing else is given up.
    fn rescue(&self, sight: &Sight, node: &Node, backup: BackupId) -> Result<Appends, Rejection> {
        let not_now = |why: String| Rejection::NotNow { node: sight.node.clone(), why };
        let moved = || Rejection::Moved { node: sight.node.clone() };
        let operation = self.stuck(sight).ok_or_else(moved)?;
        let spec = node.spec.clone().ok_or_else(moved)?;
        let restore = self.restorable(sight, node, &backup, &[Slot::Root]).map_err(not_now)?;
        let mut draft = Draft::from(operation, self.head(&operation.id.stream()), self.now_ms);
        let held = self.hold_own(sight, &restore, &operation.id)?;
        draft.resume_with(
            capacity::BY_ITSELF.to_owned(),
            vec![Slot::Root],
            spec,
            Granted::default(),
            Some(restore),
        )?;
        let mut appends = self.close(draft)?;
        appends.extend(held);
        Ok(appends)
    }

    /// The append that holds a backup which volumes of its own node are made from: one that is completed meanwhile would prune
    /// it otherwise.
    fn hold_own(
        &self,
        sight: &Sight,
        restore: &Restore,
        by: &OperationId,
    ) -> Result<Option<(StreamId, Vec<Event>)>, Rejection> {
        let id = sight.book();
        let book = self.book(&id)?;
        if book.closed {
            return Err(Rejection::Moved { node: sight.node.clone() });
        }
        if book.known.is_held_by(restore.backup.number(), by) {
            return Ok(None);
        }
        let mut draft = self.book_draft(&id)?;
        draft.hold(restore.backup.number(), by.clone())?;
        Ok(Some((id.stream(), backup_events(draft))))
    }

    /// A backup is asked for now.
    fn back_up(&self, sight: &Sight, node: &Node, cause: Cause) -> Result<(Fate, Appends), Rejection> {
        let id = sight.book();
        let book = self.book(&id)?;
        if book.closed {
            return Err(Rejection::Moved { node: sight.node.clone() });
        }
        if let Some(under_way) = book.known.under_way() {
            let backup = BackupId::new(sight.node.clone(), under_way.order.number);
            return Ok((Fate::Noted { because: format!("backup {backup} is under way") }, Vec::new()));
        }
        let last = sight.open.as_ref().and_then(|open| self.operation(open));
        if let Some(because) = book.known.paused().or_else(|| backup::cannot_begin(node, last, book)) {
            return Ok((Fate::Rejected { because }, Vec::new()));
        }
        let mut draft = self.book_draft(&id)?;
        let backup = draft.begin(node, self.owner, BackupCause::Asked { cause })?;
        Ok((Fate::BackupBegan { backup }, vec![(id.stream(), backup_events(draft))]))
    }

    /// What can be made from a backup, if it is complete and has what is wanted.
    fn restorable(
        &self,
        sight: &Sight,
        node: &Node,
        wanted: &BackupId,
        only: &[Slot],
    ) -> Result<Restore, String> {
        let name = &sight.node;
        let book = self.book(&sight.book()).map_err(|rejection| rejection.to_string())?;
        let found = book.known.backups.iter().find(|backup| backup.order.number == wanted.number());
        let Some(backup) = found.filter(|_| wanted.node() == name) else {
            return Err(format!("there is no backup {wanted}; see `perennial node backups {name}`"));
        };
        let (backup::Progress::Complete, Some(taken_at_ms)) = (backup.progress, backup.taken_at_ms) else {
            return Err(format!("backup {wanted} is not complete; see `perennial node backups {name}`"));
        };
        // A newer one that completes meanwhile could prune it.
        if let Some(under_way) = book.known.under_way() {
            let under_way = BackupId::new(name.clone(), under_way.order.number);
            return Err(format!("backup {under_way} is under way; ask again when it is complete"));
        }
        let keeps_root = node.spec.as_ref().is_some_and(|spec| spec.persist.root != RootMode::None);
        if let Some(missing) = only.iter().find(|slot| !backup.snapshots.contains_key(slot)) {
            return Err(format!("backup {wanted} has no snapshot of {missing}"));
        }
        let snapshots: BTreeMap<Slot, SnapshotId> = backup
            .snapshots
            .iter()
            .filter(|(slot, _)| only.is_empty() || only.contains(slot))
            .filter(|(slot, _)| match slot {
                Slot::Root => keeps_root,
                Slot::Data(_) => node.resources.volumes.contains_key(slot),
            })
            .map(|(slot, taken)| (slot.clone(), taken.snapshot.clone()))
            .collect();
        if snapshots.is_empty() {
            return Err(format!("backup {wanted} has nothing that the node keeps"));
        }
        Ok(Restore { backup: wanted.clone(), taken_at_ms, snapshots })
    }

    /// Starts an operation: both streams, at once.
    fn start(&self, sight: &Sight, wanted: Wanted) -> Result<Begun, Rejection> {
        let id = sight.next();
        let order = Order {
            number: id.number(),
            kind: wanted.kind,
            generation: wanted.generation,
            owner: self.owner.to_owned(),
            spec: wanted.spec,
            before: wanted.before,
            keep: wanted.keep,
            reimage: wanted.reimage,
            prune: wanted.prune,
            restore: wanted.restore,
            cause: wanted.cause.clone(),
        };
        let draft = Draft::start(id.clone(), order, self.now_ms)?;
        let mut told_to_node = vec![Event::Node(NodeEvent::OperationStarted {
            operation: id.clone(),
            kind: wanted.kind,
            cause: wanted.cause,
        })];
        // The deletion of a node that has nothing is over at once.
        if let Some((resources, outcome)) = draft.finished_with() {
            told_to_node.push(Event::Node(NodeEvent::OperationFinished {
                operation: id.clone(),
                kind: wanted.kind,
                generation: wanted.generation,
                resources: resources.clone(),
                outcome,
                finals: false,
            }));
        }
        let events = draft.events.into_iter().map(Event::Operation).collect();
        Ok(Begun { told_to_node, append: (id.stream(), events), id })
    }

    /// The appends of a draft; when the operation has finished, the node's too, and the next operation's if there is cause.
    fn close(&self, draft: Draft) -> Result<Appends, Rejection> {
        if draft.events.is_empty() {
            return Ok(Vec::new());
        }
        let id = draft.state.id.clone();
        let order = draft.state.order.clone();
        let draft_end = draft.state.clone();
        let finished = draft.finished_with().map(|(resources, outcome)| (resources.clone(), outcome));
        let mut appends = vec![(id.stream(), draft.events.into_iter().map(Event::Operation).collect())];
        let Some((resources, outcome)) = finished else { return Ok(appends) };
        let node = self.node(id.node())?;
        // What did not come to its end has not made the node another generation.
        let generation = if outcome.is_completed() { order.generation } else { node.generation };
        let mut node_events = vec![Event::Node(NodeEvent::OperationFinished {
            operation: id.clone(),
            kind: order.kind,
            generation,
            resources: resources.clone(),
            outcome,
            finals: draft_end.finals().is_some(),
        })];
        let next = self.follows(&draft_end, outcome, node, resources, generation);
        if let Some(wanted) = next {
            let sight = Sight {
                node: id.node().clone(),
                operations: id.number(),
                open: None,
                pools: Vec::new(),
                book: 1,
                source: None,
            };
            let view = View { owner: &order.owner, ..*self };
            let begun = view.start(&sight, wanted)?;
            node_events.extend(begun.told_to_node);
            appends.push(begun.append);
        }
        appends.push((node_stream(id.node()), node_events));
        Ok(appends)
    }

    /// The operation that begins with the end of another.
    fn follows(
        &self,
        ended: &Operation,
        outcome: Outcome,
        node: &Node,
        resources: Resources,
        generation: u64,
    ) -> Option<Wanted> {
        let order = &ended.order;
        let spec = node.spec.clone().unwrap_or_else(|| order.spec.clone());
        if let Some(Diversion { delete: Some(keep), cause }) = &ended.facts.diverted {
            let wanted = Wanted::new(OperationKind::Delete, spec, resources, generation, cause.clone());
            return Some(Wanted { keep: Some(*keep), ..wanted });
        }
        if !outcome.is_completed() || matches!(order.kind, OperationKind::Delete | OperationKind::Pause) {
            return None;
        }
        if let Some(signal) = &ended.facts.carried_over {
            let cause = Cause::Signal { signal: signal.clone() };
            return Some(Wanted::new(OperationKind::Replace, spec, resources, generation + 1, cause));
        }
        // A larger size was applied while the operation held the node.
        let grows = order.kind != OperationKind::Grow && resources.is_smaller_than(&spec);
        let cause = Cause::FileChanged { requested_by: node.described_by.clone() };
        grows.then(|| Wanted::new(OperationKind::Grow, spec, resources, generation, cause))
    }

    /// Starts an operation on a node whose growth or taking of volumes, if there is one, gives way.
    fn begin(
        &self,
        sight: &Sight,
        node: &Node,
        requested_by: &str,
        first: Vec<Event>,
        wanted: impl FnOnce(Resources) -> Wanted,
    ) -> Result<(Fate, Appends), Rejection> {
        let mut told_to_node = first;
        let mut appends = Vec::new();
        let mut before = node.resources.clone();
        if let Some((open, kind)) = &node.open
            && found::is_in_place(*kind)
            && let Some(growth) = self.operation(open)
        {
            let mut draft = Draft::from(growth, self.head(&open.stream()), self.now_ms);
            draft.cancel(requested_by.to_owned(), Some("another workflow needs the node".to_owned()))?;
            let Some((resources, outcome)) = draft.finished_with() else {
                return Err(Rejection::Moved { node: sight.node.clone() });
            };
            before = resources.clone();
            told_to_node.push(Event::Node(NodeEvent::OperationFinished {
                operation: open.clone(),
                kind: *kind,
                generation: node.generation,
                resources: before.clone(),
                outcome,
                // What gives way takes nothing from the instance.
                finals: false,
            }));
            appends.push((open.stream(), draft.events.into_iter().map(Event::Operation).collect()));
        }
        let begun = self.start(sight, wanted(before))?;
        told_to_node.extend(begun.told_to_node);
        appends.push((node_stream(&sight.node), told_to_node));
        appends.push(begun.append);
        Ok((Fate::Started { operation: begun.id }, appends))
    }

    /// Ends the open operation with everything free; a deletion may follow.
    fn divert(
        &self,
        operation: &Operation,
        cause: Cause,
        delete: Option<Keep>,
    ) -> Result<(Fate, Appends), Rejection> {
        let mut draft = Draft::from(operation, self.head(&operation.id.stream()), self.now_ms);
        match draft.divert(cause, delete) {
            Ok(()) => Ok((Fate::Joined { operation: operation.id.clone() }, self.close(draft)?)),
            Err(refusal @ (Refusal::AlreadyCancelled { .. } | Refusal::NotDiverted { .. })) => {
                Ok((Fate::Rejected { because: refusal.to_string() }, Vec::new()))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Something was heard about an instance of a node.
    fn hear(&self, sight: &Sight, signal: &Signal) -> Result<(Fate, Appends), Rejection> {
        let node = self.seen(sight)?;
        if let Some(open) = &sight.open
            && let Some(operation) = self.operation(open)
            && operation.instances().contains(&signal.instance)
        {
            let mut draft = Draft::from(operation, self.head(&open.stream()), self.now_ms);
            draft.signal(signal)?;
            if draft.events.is_empty() {
                let because = format!("workflow {open} knows, or need not");
                return Ok((Fate::Noted { because }, Vec::new()));
            }
            return Ok((Fate::Joined { operation: open.clone() }, self.close(draft)?));
        }
        let carries =
            node.resources.carrier.as_ref().is_some_and(|carrier| carrier.instance == signal.instance);
        if !carries || !node.exists() {
            let fate = Fate::Past { node: sight.node.clone(), instance: signal.instance.clone() };
            return Ok((fate, Vec::new()));
        }
        if let (News::Rebalance, Some(spec)) = (&signal.news, &node.spec) {
            match spec.signals.unwrap_or_default().rebalance {
                RebalancePolicy::Ignore => {}
                RebalancePolicy::Prepare if spec.backup.is_some() => {
                    return self.prepare(sight, node, signal, None);
                }
                RebalancePolicy::Prepare => {}
                RebalancePolicy::Move => match capacity::may_move(node, self.now_ms) {
                    Ok(()) => return self.replace(sight, node, signal),
                    Err(because) => {
                        let because = format!("it is not moved now: {because}");
                        return self.prepare(sight, node, signal, Some(because));
                    }
                },
            }
        }
        if let News::Impaired { checks, since_ms } = &signal.news {
            return self.heed_impaired(sight, node, signal, checks, *since_ms);
        }
        if !signal.is_loss() {
            let Some(because) = noted_because(signal) else {
                return Ok((Fate::Noted { because: "the instance is well".to_owned() }, Vec::new()));
            };
            let because = because.to_owned();
            let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
            let appends = vec![(node_stream(&sight.node), vec![Event::Node(noted)])];
            return Ok((Fate::Noted { because }, appends));
        }
        self.replace(sight, node, signal)
    }

    /// Status checks fail: the node is moved, or it is noted once.
    fn heed_impaired(
        &self,
        sight: &Sight,
        node: &Node,
        signal: &Signal,
        checks: &[StatusCheck],
        since_ms: u64,
    ) -> Result<(Fate, Appends), Rejection> {
        let spec = node.spec.as_ref().and_then(|spec| spec.signals).unwrap_or_default();
        if self.now_ms < since_ms + u64::from(spec.impaired_after_s) * 1_000 {
            let because = format!("for less than {} s", spec.impaired_after_s);
            return Ok((Fate::Noted { because }, Vec::new()));
        }
        let because = match spec.impaired {
            ImpairedPolicy::Note => "noted: its file says `signals.impaired: note`".to_owned(),
            ImpairedPolicy::Move if checks == [StatusCheck::AttachedEbs] => {
                "noted: another instance does not mend its volumes".to_owned()
            }
            ImpairedPolicy::Move => match capacity::has_settled(node, self.now_ms) {
                Ok(()) => return self.replace(sight, node, signal),
                Err(because) => format!("noted, it is not moved now: {because}"),
            },
        };
        let known = node.noted.iter().any(|noted| {
            matches!(&noted.signal.news, News::Impaired { checks: known, .. } if known == checks)
                && noted.signal.instance == signal.instance
                && noted.because == because
        });
        if known {
            return Ok((Fate::Noted { because }, Vec::new()));
        }
        let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
        let appends = vec![(node_stream(&sight.node), vec![Event::Node(noted)])];
        Ok((Fate::Noted { because }, appends))
    }

    /// A fresh backup, if the node has backups, and a note.
    fn prepare(
        &self,
        sight: &Sight,
        node: &Node,
        signal: &Signal,
        because: Option<String>,
    ) -> Result<(Fate, Appends), Rejection> {
        let mut appends = Vec::new();
        let mut said: Vec<String> = because.into_iter().collect();
        if node.spec.as_ref().is_some_and(|spec| spec.backup.is_some()) {
            let cause = Cause::Signal { signal: signal.clone() };
            let (fate, begun) = self.back_up(sight, node, cause)?;
            appends.extend(begun);
            said.push(match fate {
                Fate::BackupBegan { backup } => format!("backup {backup} is taken at once"),
                Fate::Noted { because } => because,
                other => format!("no backup at once: {other}"),
            });
        }
        let because = format!("noted: {}", said.join("; "));
        let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
        appends.push((node_stream(&sight.node), vec![Event::Node(noted)]));
        Ok((Fate::Noted { because }, appends))
    }

    /// The node goes on on another instance, because of what was heard.
    fn replace(&self, sight: &Sight, node: &Node, signal: &Signal) -> Result<(Fate, Appends), Rejection> {
        let spec = node.spec.clone().ok_or(Rejection::Moved { node: sight.node.clone() })?;
        let cause = Cause::Signal { signal: signal.clone() };
        let begun = self.start(
            sight,
            Wanted::new(OperationKind::Replace, spec, node.resources.clone(), node.generation + 1, cause),
        )?;
        let appends = vec![(node_stream(&sight.node), begun.told_to_node), begun.append];
        Ok((Fate::Started { operation: begun.id }, appends))
    }

    /// Volumes were attached to the node's instance by somebody, or detached.
    fn sighted(
        &self,
        sight: &Sight,
        instance: &InstanceId,
        others: &[VolumeId],
        left: &[VolumeId],
    ) -> Result<Appends, Rejection> {
        let node = self.seen(sight)?;
        let stream = node_stream(&sight.node);
        match found::sighting(node, instance, others, left, self.now_ms) {
            Sighting::Nothing => Ok(Vec::new()),
            Sighting::Leave(events) => Ok(vec![(stream, events.into_iter().map(Event::Node).collect())]),
            Sighting::Take(volumes) => {
                let spec = node.spec.clone().ok_or(Rejection::Moved { node: sight.node.clone() })?;
                let cause = Cause::Found { instance: instance.clone(), volumes };
                let before = node.resources.clone();
                let wanted = Wanted::new(OperationKind::Take, spec, before, node.generation, cause);
                let begun = self.start(sight, wanted)?;
                Ok(vec![(stream, begun.told_to_node), begun.append])
            }
        }
    }

    /// A node on demand goes back to spot, if it may now.
    fn bring_back(&self, sight: &Sight, seen: &SpotSeen) -> Result<Appends, Rejection> {
        let node = self.seen(sight)?;
        let not_now = |why: String| Rejection::NotNow { node: sight.node.clone(), why };
        let because = capacity::may_return(node, seen, self.now_ms).map_err(not_now)?;
        let spec = node.spec.clone().ok_or(Rejection::Moved { node: sight.node.clone() })?;
        let wanted = Wanted {
            reimage: false,
            prune: Vec::new(),
            restore: None,
            kind: OperationKind::Replace,
            spec,
            before: node.resources.clone(),
            generation: node.generation + 1,
            keep: None,
            cause: Cause::ReturnToSpot { because },
        };
        let begun = self.start(sight, wanted)?;
        Ok(vec![(node_stream(&sight.node), begun.told_to_node), begun.append])
    }

    /// Something is asked for.
    fn submit(&self, sight: &Sight, submission: &Submission) -> Result<(Fate, Appends), Rejection> {
        let node = self.seen(sight)?;
        let name = &sight.node;
        let rejected = |because: String| Ok((Fate::Rejected { because }, Vec::new()));
        let cause = |reason: Option<String>| Cause::Request {
            submission: submission.id.to_string(),
            requested_by: submission.requested_by.clone(),
            reason,
        };
        let busy = || {
            node.open.as_ref().map(|(id, kind)| {
                format!(
                    "workflow {id} ({kind}) holds the node; wait for it with `perennial workflow watch {id}`, or undo it with `perennial workflow cancel {id}`"
                )
            })
        };
        let Some(spec) = node.spec.as_ref().or(match &submission.work {
            Work::Apply(apply) => Some(&apply.spec),
            _ => None,
        }) else {
            return rejected(format!(
                "there is no node {name}; register it with `perennial node apply -f FILE`"
            ));
        };
        // A growth, or a look at volumes, holds nothing that could not be let go.
        let open = sight
            .open
            .as_ref()
            .and_then(|open| self.operation(open))
            .filter(|o| !found::is_in_place(o.order.kind));
        match &submission.work {
            Work::Apply(apply) => {
                let cause = cause(apply.reason.clone());
                self.apply(
                    sight,
                    node,
                    &apply.spec,
                    apply.from_backup.as_ref(),
                    &submission.requested_by,
                    cause,
                )
            }
            Work::Replace(_)
            | Work::Backup(_)
            | Work::Recycle(_)
            | Work::Restore(_)
            | Work::Pause(_)
            | Work::ResumeNode(_)
            | Work::Prune(_)
            | Work::Delete(_)
                if !node.exists() =>
            {
                rejected(format!("there is no node {name}; register it with `perennial node apply -f FILE`"))
            }
            // It is not urgent, and takes nothing from anybody.
            Work::Prune(_) if node.open.is_some() => rejected(busy().unwrap_or_default()),
            Work::Prune(wish) => self.prune(sight, node, spec, (wish, cause(wish.reason.clone()))),
            Work::Backup(backup) => self.back_up(sight, node, cause(backup.reason.clone())),
            Work::Delete(delete) if self.stuck(sight).is_some() => {
                let Some(operation) = self.stuck(sight) else { return rejected(busy().unwrap_or_default()) };
                self.supersede(sight, node, operation, delete.keep, cause(delete.reason.clone()))
            }
            Work::Pause(_) if open.is_some_and(pool::lacks_address) => rejected(format!(
                "node {name} has no address of its pool yet; extend the pool and resume the workflow, or delete the node"
            )),
            // What is not made from the backup yet would be forgotten.
            Work::Pause(_)
                if open
                    .is_some_and(|open| open.order.restore.is_some() || !open.facts.restore.is_empty()) =>
            {
                rejected(format!(
                    "node {name} is being made from a backup; wait for it, or cancel it, or delete the node"
                ))
            }
            Work::Pause(pause) => match open {
                Some(operation) => self.divert(operation, cause(pause.reason.clone()), None),
                None if node.resources.carrier.is_none() && node.open.is_none() => {
                    Ok((Fate::Noted { because: format!("node {name} is paused already") }, Vec::new()))
                }
                None => self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(pause.reason.clone());
                    Wanted::new(OperationKind::Pause, spec.clone(), before, node.generation, cause)
                }),
            },
            Work::Delete(delete) => match open {
                Some(operation) if operation.may_be_diverted() => {
                    self.divert(operation, cause(delete.reason.clone()), Some(delete.keep))
                }
                Some(_) => rejected(busy().unwrap_or_default()),
                None => self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(delete.reason.clone());
                    let wanted =
                        Wanted::new(OperationKind::Delete, spec.clone(), before, node.generation, cause);
                    Wanted { keep: Some(delete.keep), ..wanted }
                }),
            },
            Work::Replace(_) | Work::Recycle(_) | Work::Restore(_) | Work::ResumeNode(_)
                if open.is_some() =>
            {
                rejected(busy().unwrap_or_default())
            }
            Work::Restore(wanted) => {
                let restore = match self.restorable(sight, node, &wanted.backup, &wanted.only) {
                    Ok(restore) => restore,
                    Err(because) => return rejected(because),
                };
                // A paused node comes back with it.
                let kind = match node.resources.carrier {
                    Some(_) => OperationKind::Replace,
                    None => OperationKind::Resume,
                };
                let held = self.hold_own(sight, &restore, &sight.next())?;
                let (fate, mut appends) =
                    self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                        let cause = cause(wanted.reason.clone());
                        let begun = Wanted::new(kind, spec.clone(), before, node.generation + 1, cause);
                        Wanted { restore: Some(restore), ..begun }
                    })?;
                appends.extend(held);
                Ok((fate, appends))
            }
            Work::ResumeNode(_) if node.resources.carrier.is_some() => {
                Ok((Fate::Noted { because: format!("node {name} is not paused") }, Vec::new()))
            }
            Work::ResumeNode(resume) => {
                self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(resume.reason.clone());
                    Wanted::new(OperationKind::Resume, spec.clone(), before, node.generation + 1, cause)
                })
            }
            Work::Replace(_) | Work::Recycle(_) if node.resources.carrier.is_none() => {
                rejected(format!("node {name} is paused; bring it back with `perennial node resume {name}`"))
            }
            Work::Replace(replace) => {
                self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(replace.reason.clone());
                    Wanted::new(OperationKind::Replace, spec.clone(), before, node.generation + 1, cause)
                })
            }
            Work::Recycle(recycle) => {
                let mut first = Vec::new();
                let mut spec = spec.clone();
                if let Some(image) = recycle.reimage.as_ref().filter(|image| **image != spec.image) {
                    spec.image = image.clone();
                    let requested_by = submission.requested_by.clone();
                    first.push(Event::Node(NodeEvent::SpecChanged {
                        spec: spec.clone(),
                        requested_by,
                        addresses_elsewhere: BTreeMap::new(),
                    }));
                }
                let reimage = recycle.reimage.is_some();
                self.begin(sight, node, &submission.requested_by, first, |mut before| {
                    if reimage {
                        // The new image's traits are looked up.
                        before.placement = None;
                    }
                    let cause = cause(recycle.reason.clone());
                    let wanted =
                        Wanted::new(OperationKind::Replace, spec, before, node.generation + 1, cause);
                    Wanted { reimage, ..wanted }
                })
            }
            Work::Resume(resume) => {
                let operation = self
                    .operation(&resume.workflow)
                    .filter(|_| sight.open.as_ref() == Some(&resume.workflow));
                let Some(operation) = operation else {
                    return rejected(format!("workflow {} is not open", resume.workflow));
                };
                let mut draft = Draft::from(operation, self.head(&resume.workflow.stream()), self.now_ms);
                let Some(spec) = node.spec.clone() else {
                    return Err(Rejection::Moved { node: name.clone() });
                };
                let (granted, taken) = self.take_for_resume(operation, &spec);
                let mut held = None;
                let who = submission.requested_by.clone();
                let mut given_up = resume.accept_loss.clone();
                if given_up.is_empty() && resume.from_backup.is_some() {
                    given_up = operation.lost();
                }
                if given_up.is_empty() && resume.from_backup.is_some() {
                    return rejected(format!("no volume was seen to be lost in {}", resume.workflow));
                }
                let restore = match &resume.from_backup {
                    None => None,
                    Some(backup) => match self.restorable(sight, node, backup, &given_up) {
                        Ok(restore) => {
                            held = self.hold_own(sight, &restore, &operation.id)?;
                            Some(restore)
                        }
                        Err(because) => return rejected(because),
                    },
                };
                match draft.resume_with(who, given_up, spec, granted, restore) {
                    Ok(()) => {
                        let mut appends = self.close(draft)?;
                        appends.extend(taken);
                        appends.extend(held);
                        Ok((Fate::Joined { operation: resume.workflow.clone() }, appends))
                    }
                    Err(refusal @ (Refusal::NotStuck { .. } | Refusal::NotLost { .. })) => {
                        rejected(refusal.to_string())
                    }
                    Err(refusal) => Err(refusal.into()),
                }
            }
            Work::Pool(_) => rejected("BUG: a pool came as a node".to_owned()),
            Work::Cancel(cancel) => {
                let operation = self
                    .operation(&cancel.workflow)
                    .filter(|_| sight.open.as_ref() == Some(&cancel.workflow));
                let Some(operation) = operation else {
                    return rejected(format!("workflow {} is not open", cancel.workflow));
                };
                let mut draft = Draft::from(operation, self.head(&cancel.workflow.stream()), self.now_ms);
                match draft.cancel(submission.requested_by.clone(), cancel.reason.clone()) {
                    Ok(()) => Ok((Fate::Joined { operation: cancel.workflow.clone() }, self.close(draft)?)),
                    Err(refusal @ (Refusal::OnlyForward { .. } | Refusal::AlreadyCancelled { .. })) => {
                        rejected(refusal.to_string())
                    }
                    Err(refusal) => Err(refusal.into()),
                }
            }
        }
    }

    /// The open operation of a node, if it is stuck.
    fn stuck(&self, sight: &Sight) -> Option<&Operation> {
        let operation = self.operation(sight.open.as_ref()?)?;
        matches!(operation.status, Status::Stuck { .. }).then_some(operation)
    }

    /// A deletion takes over what a stuck operation has: one append ends the one and begins the other.
    fn supersede(
        &self,
        sight: &Sight,
        node: &Node,
        stuck: &Operation,
        keep: Keep,
        cause: Cause,
    ) -> Result<(Fate, Appends), Rejection> {
        let stream = stuck.id.stream();
        let mut draft = Draft::from(stuck, self.head(&stream), self.now_ms);
        let before = draft.abandon()?;
        let ended = NodeEvent::OperationFinished {
            operation: stuck.id.clone(),
            kind: stuck.order.kind,
            generation: node.generation,
            resources: before.clone(),
            outcome: Outcome::Abandoned,
            finals: draft.state.finals().is_some(),
        };
        let begun = self.start(
            sight,
            Wanted {
                keep: Some(keep),
                ..Wanted::new(
                    OperationKind::Delete,
                    node.spec.clone().unwrap_or_else(|| stuck.order.spec.clone()),
                    before,
                    node.generation,
                    cause,
                )
            },
        )?;
        let mut told_to_node = vec![Event::Node(ended)];
        told_to_node.extend(begun.told_to_node);
        let appends = vec![
            (stream, draft.events.into_iter().map(Event::Operation).collect()),
            (node_stream(&sight.node), told_to_node),
            begun.append,
        ];
        Ok((Fate::Started { operation: begun.id }, appends))
    }

    fn apply(
        &self,
        sight: &Sight,
        node: &Node,
        spec: &NodeSpec,
        from: Option<&BackupId>,
        requested_by: &str,
        cause: Cause,
    ) -> Result<(Fate, Appends), Rejection> {
        let stream = node_stream(&sight.node);
        let keeps_something = !node.resources.volumes.is_empty() || node.resources.interface.is_some();
        if from.is_some() && (node.exists() || keeps_something) {
            let because = format!(
                "spec.name: there is a node {} already, or what its deletion kept; a new node needs another name",
                sight.node
            );
            return Ok((Fate::Rejected { because }, Vec::new()));
        }
        // A node that has never been carried has no state to lose; only its zone may be taken already.
        let never_carried =
            node.generation == 0 && node.spec.as_ref().is_some_and(|old| old.subnet == spec.subnet);
        if let Some(old) = node.spec.as_ref().filter(|_| node.exists())
            && old.pool() != spec.pool()
        {
            let because = "spec.network.ip_pool: the node has, or waits for, an address of its pool; delete the node first";
            return Ok((Fate::Rejected { because: because.to_owned() }, Vec::new()));
        }
        if let (Some(old), Some((open, kind))) = (&node.spec, &node.open)
            && !found::is_in_place(*kind)
            && let Some(field) = spec.fixed_by_a_start(old)
        {
            let because = format!(
                "spec.{field}: workflow {open} ({kind}) has begun with another; wait for it with `perennial workflow watch {open}`, or undo it with `perennial workflow cancel {open}`"
            );
            return Ok((Fate::Rejected { because }, Vec::new()));
        }
        if let Some(old) = &node.spec
            && (node.exists() || keeps_something)
            && !never_carried
            && let Err(error) = spec.check_change_from(old)
        {
            return Ok((Fate::Rejected { because: format!("spec.{error}") }, Vec::new()));
        }
        if let Err(because) = found::check_names(spec, &node.resources) {
            return Ok((Fate::Rejected { because }, Vec::new()));
        }
        if let Some(because) = self.names_condemned(sight, spec) {
            return Ok((Fate::Rejected { because }, Vec::new()));
        }
        if node.exists() {
            let is_grown = node.open.is_some() || !node.resources.is_smaller_than(spec);
            if node.spec.as_ref() == Some(spec) && is_grown {
                return Ok((
                    Fate::Noted { because: "the node is meant to be so already".to_owned() },
                    Vec::new(),
                ));
            }
            let (taken, repooled) = match self.repool(sight, node, spec) {
                Ok(repooled) => repooled,
                Err(because) => return Ok((Fate::Rejected { because }, Vec::new())),
            };
            let changed = NodeEvent::SpecChanged {
                spec: spec.clone(),
                requested_by: requested_by.to_owned(),
                addresses_elsewhere: taken.clone(),
            };
            let mut told_to_node = vec![Event::Node(changed)];
            // A node of an older journal does not say how large its volumes are; the old file does.
            let larger = node.resources.carrier.is_some()
                && node.spec.as_ref().is_some_and(|old| spec.is_larger_than(old));
            if node.open.is_none() && (larger || node.resources.is_smaller_than(spec)) {
                let mut before = node.resources.clone();
                if let Some(old) = &node.spec {
                    before.repool(old, spec, &taken);
                }
                let wanted = Wanted::new(OperationKind::Grow, spec.clone(), before, node.generation, cause);
                let begun = self.start(sight, wanted)?;
                told_to_node.extend(begun.told_to_node);
                let mut appends = vec![(stream, told_to_node), begun.append];
                appends.extend(repooled);
                return Ok((Fate::Started { operation: begun.id }, appends));
            }
            let mut appends = vec![(stream, told_to_node)];
            appends.extend(repooled);
            return Ok((Fate::Changed, appends));
        }
        let registered = NodeEvent::Registered { spec: spec.clone(), requested_by: requested_by.to_owned() };
        let (granted, taken) = match self.take_for_start(&sight.next(), spec, &node.resources) {
            Ok(taken) => taken,
            Err(because) => return Ok((Fate::Rejected { because }, Vec::new())),
        };
        let (restore, held) = match from.map(|from| self.hold(sight, spec, from)).transpose()? {
            None => (None, None),
            Some(Ok((restore, held))) => (Some(restore), Some(held)),
            Some(Err(because)) => return Ok((Fate::Rejected { because }, Vec::new())),
        };
        let begun = self.start(
            sight,
            Wanted {
                restore,
                ..Wanted::new(
                    OperationKind::Provision,
                    spec.clone(),
                    Resources {
                        address: granted.here.or(node.resources.address),
                        addresses_elsewhere: granted.elsewhere,
                        ..node.resources.clone()
                    },
                    node.generation + 1,
                    cause,
                )
            },
        )?;
        let mut told_to_node = vec![Event::Node(registered)];
        told_to_node.extend(begun.told_to_node);
        let mut appends = vec![(stream, told_to_node), begun.append];
        appends.extend(taken);
        appends.extend(held);
        Ok((Fate::Started { operation: begun.id }, appends))
    }
}

fn backup_events(draft: BookDraft) -> Vec<Event> {
    draft.events.into_iter().map(Event::Backup).collect()
}

/// Why what is no loss is written down all the same; `None` when it is not.
const fn noted_because(signal: &Signal) -> Option<&'static str> {
    match &signal.news {
        News::Rebalance => {
            Some("a recommendation is noted, not followed: it predicts poorly, and a move is an outage")
        }
        News::ScheduledChange { effect, .. } => Some(match effect {
            Effect::Maintenance | Effect::Retirement => {
                "noted: the instance and its volumes stay, and a move would be an outage as well"
            }
            Effect::Settled => "noted: nothing will come of it any more",
        }),
        News::SpotInterruption { .. }
        | News::ReservationInterruption { .. }
        | News::StateChange { .. }
        | News::Impaired { .. }
        | News::Missing { .. } => None,
    }
}

fn decide_letter(
    view: &View<'_>,
    envelope: &Envelope,
    content: &Content,
    sight: Option<&Sight>,
) -> Result<Decision<Event, State>, Rejection> {
    let Some(State::Letter(letter)) = view.world.get(&envelope.stream) else {
        return Err(Rejection::WrongStream { stream: envelope.stream.clone() });
    };
    if let Some(first) = &letter.message_id {
        let again = *first != envelope.message_id && letter.repetitions < REPETITIONS_MAX;
        let repeated = LetterEvent::Repeated { message_id: envelope.message_id.clone() };
        return Ok(if again {
            Decision::one(envelope.stream.clone(), vec![Event::Letter(repeated)])
        } else {
            Decision::nothing()
        });
    }
    let (fate, mut appends) = match (content, sight) {
        (Content::Settled(fate), _) => (fate.clone(), Vec::new()),
        (Content::Signal(signal), None) => {
            (Fate::Foreign { instance: Some(signal.instance.clone()) }, Vec::new())
        }
        (Content::Signal(signal), Some(sight)) => view.hear(sight, signal)?,
        (Content::Submission(Submission { work: Work::Pool(pool), requested_by, .. }), _) => {
            view.apply_pool(&pool.spec, requested_by)
        }
        (Content::Submission(submission), Some(sight)) => view.submit(sight, submission)?,
        (Content::Submission(submission), None) => {
            let because = format!("BUG: a submission about {} came without a sight of it", submission.node);
            (Fate::Rejected { because }, Vec::new())
        }
    };
    // A region's worth of foreign events: the raw event is kept, a padded one is cut.
    let body = match &fate {
        Fate::Foreign { .. } | Fate::Unknown { .. } => envelope.body.chars().take(FOREIGN_BODY_MAX).collect(),
        _ => envelope.body.clone(),
    };
    let received = LetterEvent::Received {
        queue: envelope.queue.clone(),
        message_id: envelope.message_id.clone(),
        sent_at_ms: envelope.sent_at_ms,
        bytes: envelope.bytes,
        body,
    };
    let events = vec![Event::Letter(received), Event::Letter(LetterEvent::Answered { fate })];
    appends.push((envelope.stream.clone(), events));
    Ok(Decision::of(appends))
}

/// One line about a node, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// How many instances have carried it.
    pub generation: u64,
    /// Whether it has been deleted.
    pub deleted: bool,
    /// The operation that holds it, and what that does.
    pub operation: Option<(OperationId, OperationKind)>,
    /// What carries it.
    pub carrier: Option<crate::node::Carrier>,
    /// The zone.
    pub zone: Option<String>,
    /// Its own address.
    pub address: Option<std::net::Ipv4Addr>,
}

/// One line about an operation, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// What it does.
    pub kind: OperationKind,
    /// `running`, `stuck`, `finished`, `cancelled` or `abandoned`.
    pub status: String,
    /// Why it was started.
    pub cause: String,
    /// When.
    pub started_at_ms: u64,
    /// Since when it is finished or stuck.
    pub ended_at_ms: Option<u64>,
    /// If it is stuck: why.
    pub because: Option<String>,
}

fn summary<T: Serialize>(open: bool, line: &T) -> Option<Summary> {
    let body = serde_json::to_string(line)
        .unwrap_or_else(|error| unreachable!("BUG: a summary is plain data: {error}"));
    Some(Summary { open, body })
}

fn node_shown(_stream: &StreamId, node: &Node) -> Projected<Intent> {
    if node.spec.is_none() {
        return Projected::default();
    }
    let mut keys: Vec<String> = node
        .past
        .iter()
        .chain(node.resources.carrier.iter().map(|carrier| &carrier.instance))
        .map(|instance| format!("instance/{instance}"))
        .collect();
    keys.sort();
    keys.dedup();
    let line = NodeSummary {
        generation: node.generation,
        deleted: node.deleted,
        operation: node.open.clone(),
        carrier: node.resources.carrier.clone(),
        zone: node.resources.placement.as_ref().map(|placement| placement.zone.clone()),
        address: node.resources.address,
    };
    Projected { keys, summary: summary(node.open.is_some(), &line), ..Projected::default() }
}

/// One line about a node's backups, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookSummary {
    /// The newest one that can be restored, and of which moment it is.
    pub last_complete: Option<(u64, u64)>,
    /// The one under way.
    pub under_way: Option<u64>,
    /// How many in a row have failed, up to now.
    pub failed_in_a_row: u32,
    /// Why no more are taken.
    pub paused: Option<String>,
}

/// The present book is the open one.
fn book_shown(stream: &StreamId, book: &Book) -> Projected<Intent> {
    let Some(id) = BookId::of_stream(stream).filter(|_| book.opened) else { return Projected::default() };
    let line = BookSummary {
        last_complete: book
            .known
            .last_complete()
            .map(|backup| (backup.order.number, backup.taken_at_ms.unwrap_or(backup.began_at_ms))),
        under_way: book.known.under_way().map(|backup| backup.order.number),
        failed_in_a_row: book.known.failed_in_a_row,
        paused: book.known.paused(),
    };
    let keys = if book.closed { Vec::new() } else { vec![book_key(id.node())] };
    let summary = summary(!book.closed, &line);
    Projected { steps: book.open_steps(), keys, summary, ..Projected::default() }
}

fn pool_shown(pool: &AddressPool) -> Projected<Intent> {
    let Some(spec) = &pool.spec else { return Projected::default() };
    let line = PoolSummary {
        subnet: spec.subnet.clone(),
        addresses: spec.all().count(),
        held: pool.held.len(),
        free: pool.free().count(),
    };
    Projected { summary: summary(false, &line), ..Projected::default() }
}

fn operation_shown(operation: &Operation) -> Projected<Intent> {
    let mut keys: Vec<String> =
        operation.instances().iter().map(|instance| format!("instance/{instance}")).collect();
    keys.sort();
    keys.dedup();
    let (status, ended_at_ms, because) = match &operation.status {
        Status::Running => ("running", None, None),
        Status::Stuck { because, since_ms, .. } => ("stuck", Some(*since_ms), Some(because.clone())),
        Status::Finished { at_ms, outcome } => (outcome.name(), Some(*at_ms), None),
    };
    let line = OperationSummary {
        kind: operation.order.kind,
        status: status.to_owned(),
        cause: operation.order.cause.to_string(),
        started_at_ms: operation.started_at_ms,
        ended_at_ms,
        because,
    };
    let open = !matches!(operation.status, Status::Finished { .. });
    Projected { steps: operation.open_steps(), keys, summary: summary(open, &line), ..Projected::default() }
}
