//! The domain as an engine would drive it: streams, commands that are decided on them, and what is written. Every event is
//! encoded and decoded, and must be accepted by the state it is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_engine::domain::{Append, Decision, Domain, Stamp};
use perennial_engine::ids::{Seq, StreamId, Token};
use perennial_engine::reading::Reading;
use perennial_workflows::aggregate::backup_catalog::BackupCatalog;
use perennial_workflows::aggregate::inbox::{Disposition, inbox_stream};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Content, Envelope, Rejection};
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::domain::submission::{Submission, SubmissionId, Work};
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::backup_id::CatalogId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};
use perennial_workflows::model::signal::{News, Signal, Source};
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::step::evidence::Evidence;

/// The node of whom no other is named.
pub const NODE: &str = "db-1";

/// Who asks, and whose everything is.
pub const OWNER: &str = "tests";

/// From one command to the next.
pub const TICK_MS: u64 = 1_000;

/// State, head and all events of a stream.
pub type Kept = (State, Seq, Vec<(Stamp, Event)>);

/// A decision, and the heads of what it was made on.
pub type Decided = (Result<Decision<Event, State>, Rejection>, BTreeMap<StreamId, Seq>);

pub fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

/// The streams, as an engine would keep them.
#[derive(Default)]
pub struct Desk {
    pub streams: BTreeMap<StreamId, Kept>,
    pub now_ms: u64,
    /// What keys lead to, where look-ups are behind.
    pub stale: BTreeMap<String, Vec<StreamId>>,
    entries: u64,
}

impl Desk {
    pub fn at(now_ms: u64) -> Self {
        Self { now_ms, ..Self::default() }
    }

    pub fn state(&self, stream: &StreamId) -> State {
        self.streams.get(stream).map_or_else(|| Perennial::empty(stream), |(state, _, _)| state.clone())
    }

    pub fn head(&self, stream: &StreamId) -> Seq {
        self.streams.get(stream).map_or(Seq::NONE, |(_, head, _)| *head)
    }

    /// Everything that was ever written, stream by stream.
    pub fn written(&self) -> impl Iterator<Item = &Event> {
        self.streams.values().flat_map(|(_, _, events)| events).map(|(_, event)| event)
    }

    pub fn node(&self) -> Node {
        self.node_of(NODE)
    }

    pub fn node_of(&self, node: &str) -> Node {
        match self.state(&node_stream(&name(node))) {
            State::Node(node) => node,
            other => panic!("{other:?}"),
        }
    }

    pub fn operation(&self, id: &OperationId) -> Operation {
        match self.state(&id.stream()) {
            State::Operation(Some(operation)) => operation,
            other => panic!("{other:?}"),
        }
    }

    pub fn open(&self) -> Option<Operation> {
        self.open_of(NODE)
    }

    pub fn open_of(&self, node: &str) -> Option<Operation> {
        Some(self.operation(&self.node_of(node).open?.0))
    }

    /// The node of whom no other is named.
    pub fn name(&self) -> NodeName {
        name(NODE)
    }

    /// The events of an operation.
    pub fn events_of(&self, id: &OperationId) -> Vec<OperationEvent> {
        let Some((_, _, events)) = self.streams.get(&id.stream()) else { return Vec::new() };
        let events = events.iter().filter_map(|(_, event)| match event {
            Event::Operation(event) => Some(event.clone()),
            _ => None,
        });
        events.collect()
    }

    pub fn is_stuck(&self) -> bool {
        self.open().is_some_and(|open| matches!(open.status, Status::Stuck { .. }))
    }

    /// The present backup catalog of the node's backups, and its number.
    pub fn catalog(&self) -> (CatalogId, BackupCatalog) {
        let ids = self.streams.keys().filter_map(CatalogId::of_stream);
        let id = ids.max_by_key(CatalogId::number).unwrap_or_else(|| CatalogId::new(name(NODE), 1));
        match self.state(&id.stream()) {
            State::BackupCatalog(catalog) => (id, catalog),
            other => panic!("{other:?}"),
        }
    }

    /// What a key leads to.
    fn lookup(&self, key: &str) -> Vec<StreamId> {
        if let Some(stale) = self.stale.get(key) {
            return stale.clone();
        }
        let shows = |stream: &StreamId, state| {
            Perennial::project(stream, state).keys.iter().any(|shown| shown == key)
        };
        let found = self.streams.iter().filter(|(stream, (state, ..))| shows(stream, state));
        found.map(|(stream, _)| stream.clone()).collect()
    }

    pub fn append(&mut self, stream: &StreamId, event: Event) {
        assert_eq!(
            Perennial::decode(&Perennial::encode(&event)).unwrap(),
            event,
            "encode/decode is identity"
        );
        let stamp = Stamp { seq: self.head(stream).next(), at_ms: self.now_ms };
        let next = Perennial::evolve(self.state(stream), stamp, &event);
        let next = next.unwrap_or_else(|why| panic!("evolve accepts what decide returned: {why} {event:?}"));
        let (state, head, events) =
            self.streams.entry(stream.clone()).or_insert_with(|| (next.clone(), Seq::NONE, Vec::new()));
        (*state, *head) = (next, stamp.seq);
        events.push((stamp, event));
    }

    /// Decides on what is there now; nothing is written.
    pub fn decide(&self, command: &Command) -> Decided {
        let load = |stream: &StreamId| (Arc::new(self.state(stream)), self.head(stream));
        let Reading { world, reads, .. } =
            Reading::<Perennial>::at_hand(command, load, |key| self.lookup(key)).unwrap();
        let heads = reads.written.iter().map(|stream| (stream.clone(), self.head(stream))).collect();
        (Perennial::decide(&world, command, self.now_ms), heads)
    }

    /// Writes a decision, unless a stream that it appends to has moved since; whether it did.
    pub fn commit(&mut self, (decision, heads): Decided) -> Result<bool, Rejection> {
        let decision = decision?;
        for Append { stream, .. } in &decision.appends {
            assert!(heads.contains_key(stream), "{stream} is appended to and was not read");
            if heads[stream] != self.head(stream) {
                return Ok(false);
            }
        }
        for Append { stream, events, .. } in decision.appends {
            for event in events {
                self.append(&stream, event);
            }
        }
        Ok(true)
    }

    pub fn execute(&mut self, command: &Command) -> Result<(), Rejection> {
        self.now_ms += TICK_MS;
        let decided = self.decide(command);
        let written = self.commit(decided)?;
        assert!(written, "nothing came in between");
        Ok(())
    }

    /// A message with a content, and its stream.
    pub fn entry(&mut self, queue: &str, content: impl FnOnce(&str) -> Content) -> Command {
        self.entries += 1;
        let id = format!("s-{}", self.entries);
        Command::Message {
            envelope: Envelope {
                stream: inbox_stream(queue, &id),
                queue: queue.into(),
                message_id: id.clone(),
                sent_at_ms: self.now_ms,
                bytes: 2,
                body: "{}".into(),
                content: None,
                sender: None,
            },
            content: content(&id),
            owner: OWNER.into(),
        }
    }

    /// A submission about a node.
    pub fn submission(&mut self, node: &str, work: Work) -> Command {
        let node = name(node);
        self.entry("submissions", |id| {
            Content::Submission(Submission {
                id: SubmissionId::try_from(id.to_owned()).unwrap(),
                node,
                work,
                requested_by: OWNER.into(),
                reply_to: None,
                deadline: None,
                sender: None,
                content: String::new(),
            })
        })
    }

    pub fn submit(&mut self, work: Work) -> Result<Disposition, Rejection> {
        self.submit_of(NODE, work)
    }

    pub fn submit_of(&mut self, node: &str, work: Work) -> Result<Disposition, Rejection> {
        let command = self.submission(node, work);
        self.answered(&command)
    }

    /// What the last submission was answered.
    pub fn disposition(&self) -> Disposition {
        self.answer(&inbox_stream("submissions", &format!("s-{}", self.entries)))
    }

    /// A signal comes as an event; what became of it.
    pub fn event(&mut self, instance: &InstanceId, news: News) -> Disposition {
        let (at_ms, instance) = (self.now_ms, instance.clone());
        let command = self.entry("interruptions", |id| {
            Content::Signal(Signal { instance, news, source: Source::Event { id: id.to_owned() }, at_ms })
        });
        self.answered(&command).unwrap()
    }

    fn answered(&mut self, command: &Command) -> Result<Disposition, Rejection> {
        self.execute(command)?;
        let Command::Message { envelope, .. } = command else { panic!("{command:?}") };
        Ok(self.answer(&envelope.stream))
    }

    fn answer(&self, entry: &StreamId) -> Disposition {
        match self.state(entry) {
            State::Inbox(entry) => entry.disposition.expect("every entry has a disposition"),
            other => panic!("{other:?}"),
        }
    }

    /// A sweep sees it.
    pub fn on_signal(&mut self, instance: InstanceId, news: News) -> Result<(), Rejection> {
        let signal = Signal { instance, news, source: Source::Sweep, at_ms: self.now_ms };
        self.execute(&Command::Signal { signal, owner: OWNER.into() })
    }

    pub fn report(&mut self, workflow: StreamId, token: Token, evidence: Evidence) -> Result<(), Rejection> {
        self.execute(&Command::Report { workflow, token, evidence })
    }

    /// What is due about the backups is done; whether the domain took it.
    pub fn reconcile_backups(&mut self) -> Result<(), Rejection> {
        self.execute(&Command::ReconcileBackups { node: name(NODE) })
    }
}
