//! Signals: any one alone is enough, and together they are one operation.
//!
//! A node that runs hears of its instance; each case says what came of it, in words.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_engine::domain::{Domain, Stamp, World};
use perennial_engine::ids::{Seq, StreamId};
use perennial_workflows::aws::{InstanceId, InstanceState};
use perennial_workflows::backup::{BackupCause, BackupSpec, BookId};
use perennial_workflows::capacity::MIN_LIFETIME_MIN;
use perennial_workflows::domain::{Command, Content, Envelope, Perennial, Sight, State};
use perennial_workflows::letter::{Fate, letter_stream};
use perennial_workflows::node::{Node, NodeEvent, OperationId, OperationKind, Outcome, node_stream};
use perennial_workflows::operation::{Operation, Status};
use perennial_workflows::plan::success;
use perennial_workflows::signal::{Cause, Effect, News, RebalancePolicy, Signal, SignalsSpec, Source};
use perennial_workflows::spec::{NetworkMode, NodeName, RootMode, example};

const LIFETIME_MS: u64 = MIN_LIFETIME_MIN as u64 * 60_000;
const DAY_MS: u64 = 86_400_000;

/// The streams of one node that is in place, and what was answered.
struct Desk {
    streams: BTreeMap<StreamId, (State, Seq)>,
    now_ms: u64,
    letters: u64,
}

impl Desk {
    fn new() -> Self {
        let mut desk = Self { streams: BTreeMap::new(), now_ms: 1_000, letters: 0 };
        let spec = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
        let resources = perennial_workflows::plan::imagined_resources(&spec).unwrap();
        let id = OperationId::new(Self::name(), 1);
        let cause = Cause::Request { submission: "s".into(), requested_by: "tests".into(), reason: None };
        let events = [
            NodeEvent::Registered { spec, requested_by: "tests".into() },
            NodeEvent::OperationStarted { operation: id.clone(), kind: OperationKind::Provision, cause },
            NodeEvent::OperationFinished {
                operation: id,
                kind: OperationKind::Provision,
                generation: 1,
                resources,
                outcome: Outcome::Completed,
                finals: false,
            },
        ];
        let mut node = Node::default();
        let mut seq = Seq::NONE;
        for event in &events {
            seq = seq.next();
            node = node.evolve(Stamp { seq, at_ms: 0 }, event).unwrap();
        }
        desk.streams.insert(node_stream(&Self::name()), (State::Node(node), seq));
        desk
    }

    fn name() -> NodeName {
        NodeName::parse("db-1").unwrap()
    }

    fn state(&self, stream: &StreamId) -> State {
        self.streams.get(stream).map_or_else(|| Perennial::empty(stream), |(state, _)| state.clone())
    }

    fn node(&self) -> Node {
        match self.state(&node_stream(&Self::name())) {
            State::Node(node) => node,
            other => panic!("{other:?}"),
        }
    }

    fn operation(&self, number: u64) -> Operation {
        match self.state(&OperationId::new(Self::name(), number).stream()) {
            State::Operation(Some(operation)) => operation,
            other => panic!("{other:?}"),
        }
    }

    fn carrier(&self) -> InstanceId {
        self.node().resources.carrier.unwrap().instance
    }

    fn candidate(&self, number: u64) -> InstanceId {
        self.operation(number).facts.candidate.expect("a new instance").instance
    }

    fn execute(&mut self, command: &Command) {
        self.now_ms += 1_000;
        let mut world = World::default();
        for stream in Perennial::reads(command) {
            let head = self.streams.get(&stream).map_or(Seq::NONE, |(_, head)| *head);
            world.insert(stream.clone(), Arc::new(self.state(&stream)), head);
        }
        let decision = Perennial::decide(&world, command, self.now_ms).unwrap();
        for (stream, events) in decision.appends {
            for event in events {
                let (state, head) = self
                    .streams
                    .entry(stream.clone())
                    .or_insert_with(|| (Perennial::empty(&stream), Seq::NONE));
                *head = head.next();
                *state = Perennial::evolve(state.clone(), Stamp { seq: *head, at_ms: self.now_ms }, &event)
                    .unwrap();
            }
        }
    }

    /// A signal comes as an event; what became of it.
    fn hear(&mut self, instance: &InstanceId, news: News) -> Fate {
        self.letters += 1;
        let id = format!("e-{}", self.letters);
        let stream = letter_stream("interruptions", &id);
        let command = Command::Letter {
            envelope: Envelope {
                stream: stream.clone(),
                queue: "interruptions".into(),
                message_id: id.clone(),
                sent_at_ms: self.now_ms,
                bytes: 2,
                body: "{}".into(),
            },
            content: Content::Signal(Signal {
                instance: instance.clone(),
                news,
                source: Source::Event { id },
                at_ms: self.now_ms,
            }),
            sight: Some(Sight::of(&Self::name(), &self.node())),
            owner: "tests".into(),
        };
        self.execute(&command);
        match self.state(&stream) {
            State::Letter(letter) => letter.fate.expect("every letter has a fate"),
            other => panic!("{other:?}"),
        }
    }

    fn settle_one(&mut self, number: u64) {
        let operation = self.operation(number);
        let step = operation.open_steps().into_iter().min_by_key(|step| step.token).expect("an open step");
        let evidence = success(&operation, &step.intent, step.token);
        self.execute(&Command::Report { workflow: operation.id.stream(), token: step.token, evidence });
    }

    /// Everything goes well, until the operation is over.
    fn finish(&mut self, number: u64) {
        for _ in 0..100 {
            if matches!(self.operation(number).status, Status::Finished { .. }) {
                return;
            }
            self.settle_one(number);
        }
        panic!("{number} does not end");
    }

    fn drive_to(&mut self, number: u64, name: &str) {
        for _ in 0..100 {
            if self.operation(number).open_steps().iter().any(|step| step.step.starts_with(name)) {
                return;
            }
            self.settle_one(number);
        }
        panic!("{number} does not come to {name}");
    }
}

fn scheduled(effect: Effect) -> News {
    let code = match effect {
        Effect::Retirement | Effect::Settled => "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
        Effect::Maintenance => "AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED",
    };
    News::ScheduledChange { code: code.into(), effect, begins_ms: Some(14 * DAY_MS) }
}

fn warning() -> News {
    News::SpotInterruption { action: "terminate".into(), deadline_ms: 120_000 }
}

/// Everything that is enough to start a replacement.
fn losses() -> Vec<(&'static str, News)> {
    vec![
        ("warning", warning()),
        ("retirement", scheduled(Effect::Retirement)),
        (
            "retirement without a date",
            News::ScheduledChange {
                code: "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED".into(),
                effect: Effect::Retirement,
                begins_ms: None,
            },
        ),
        ("stopping", News::StateChange { state: InstanceState::Stopping }),
        ("stopped", News::StateChange { state: InstanceState::Stopped }),
        ("shutting-down", News::StateChange { state: InstanceState::ShuttingDown }),
        ("terminated", News::StateChange { state: InstanceState::Terminated }),
        ("missing", News::Missing { because: "it was not shown".into() }),
    ]
}

/// Everything that moves nothing.
fn others() -> Vec<(&'static str, News)> {
    vec![
        ("rebalance", News::Rebalance),
        ("maintenance", scheduled(Effect::Maintenance)),
        ("settled", scheduled(Effect::Settled)),
        ("running", News::StateChange { state: InstanceState::Running }),
    ]
}

#[test]
fn every_loss_alone_starts_a_replacement_and_nothing_else_does() {
    for (name, news) in losses() {
        let mut desk = Desk::new();
        let old = desk.carrier();
        let fate = desk.hear(&old, news);
        assert!(matches!(fate, Fate::Started { .. }), "{name}: {fate}");
        assert_eq!(desk.operation(2).order.kind, OperationKind::Replace, "{name}");
        desk.finish(2);
        assert_ne!(desk.carrier(), old, "{name}");
    }
    for (name, news) in others() {
        let mut desk = Desk::new();
        let old = desk.carrier();
        let fate = desk.hear(&old, news);
        assert!(matches!(fate, Fate::Noted { .. }), "{name}: {fate}");
        assert_eq!(desk.node().operations, 1, "{name}");
    }
}

/// A node whose file says what to do about a recommendation, some time after it was made.
fn told(rebalance: RebalancePolicy, backup: Option<BackupSpec>) -> Desk {
    let mut desk = Desk::new();
    let mut spec = desk.node().spec.unwrap();
    spec.signals = Some(SignalsSpec { rebalance, ..SignalsSpec::default() });
    spec.backup = backup;
    let (state, head) = desk.streams.remove(&node_stream(&Desk::name())).unwrap();
    let State::Node(node) = state else { panic!() };
    let changed = NodeEvent::SpecChanged {
        spec,
        requested_by: "tests".into(),
        addresses_elsewhere: Default::default(),
    };
    let head = head.next();
    let node = node.evolve(Stamp { seq: head, at_ms: desk.now_ms }, &changed).unwrap();
    desk.streams.insert(node_stream(&Desk::name()), (State::Node(node), head));
    desk.now_ms += LIFETIME_MS;
    desk
}

#[test]
fn a_recommendation_is_ignored_prepared_for_or_followed_as_the_node_file_says() {
    let every = Some(BackupSpec::default());
    let first = |desk: &Desk| match desk.state(&BookId::new(Desk::name(), 1).stream()) {
        State::Book(book) => book.known.under_way().map(|backup| backup.order.cause.clone()),
        other => panic!("{other:?}"),
    };
    for (policy, backup) in [(RebalancePolicy::Ignore, every), (RebalancePolicy::Prepare, None)] {
        let mut desk = told(policy, backup);
        let old = desk.carrier();
        let fate = desk.hear(&old, News::Rebalance).to_string();
        assert!(fate.contains("noted, not followed"), "{policy:?}: {fate}");
        assert_eq!((first(&desk), desk.node().operations), (None, 1), "{policy:?}");
    }

    let mut desk = told(RebalancePolicy::Prepare, every);
    let old = desk.carrier();
    let fate = desk.hear(&old, News::Rebalance).to_string();
    assert_eq!(fate, "nothing to do: noted: backup db-1.b1 is taken at once");
    assert!(matches!(first(&desk), Some(BackupCause::Asked { cause: Cause::Signal { .. } })));
    assert!(desk.node().noted[0].because.contains("db-1.b1"), "it is in the history, with its name");
    let again = desk.hear(&old, News::Rebalance).to_string();
    assert_eq!(again, "nothing to do: noted: backup db-1.b1 is under way");
    assert_eq!(desk.node().operations, 1);
    // The loss that it predicted is one operation, and does not wait for the backup.
    assert!(matches!(desk.hear(&old, warning()), Fate::Started { .. }));

    let mut desk = told(RebalancePolicy::Move, None);
    let old = desk.carrier();
    assert!(matches!(desk.hear(&old, News::Rebalance), Fate::Started { .. }));
    assert!(
        matches!(&desk.operation(2).order.cause, Cause::Signal { signal } if signal.news == News::Rebalance)
    );
    desk.finish(2);
    // The new instance is recommended to be left as well: not at once.
    let new = desk.carrier();
    assert_ne!(new, old);
    let fate = desk.hear(&new, News::Rebalance).to_string();
    assert!(fate.contains("its instance has carried it for less than"), "{fate}");
    assert_eq!(desk.node().operations, 2);
    desk.now_ms += LIFETIME_MS;
    assert!(matches!(desk.hear(&new, News::Rebalance), Fate::Started { .. }));
}

#[test]
fn every_pair_of_signals_in_either_order_is_one_operation() {
    let all: Vec<_> = losses().into_iter().chain(others()).collect();
    for (first, one) in &all {
        for (second, other) in &all {
            for gap in [0, 1, 3] {
                let label = format!("{first}, {gap} steps, {second}");
                let mut desk = Desk::new();
                let old = desk.carrier();
                let is_loss = |name: &str| losses().iter().any(|(loss, _)| *loss == name);
                desk.hear(&old, one.clone());
                for _ in 0..gap {
                    if desk.node().open.is_some() {
                        desk.settle_one(2);
                    }
                }
                let fate = desk.hear(&old, other.clone());
                let expected = 1 + u64::from(is_loss(first) || is_loss(second));
                assert_eq!(desk.node().operations, expected, "{label}: {fate}");
                if is_loss(first) {
                    assert!(!matches!(fate, Fate::Started { .. }), "{label}: {fate}");
                }
                if expected == 2 {
                    desk.finish(2);
                    let late = desk.hear(&old, other.clone());
                    assert!(matches!(late, Fate::Past { .. }), "{label}, late: {late}");
                    assert_eq!(desk.node().operations, 2, "{label}, late");
                    assert!(desk.node().open.is_none(), "{label}, late");
                }
            }
        }
    }
}

#[test]
fn certainty_rises_and_what_is_no_surer_is_not_written_again() {
    let mut desk = Desk::new();
    let old = desk.carrier();
    desk.hear(&old, News::Rebalance);
    let told: Vec<String> = [
        scheduled(Effect::Retirement),
        scheduled(Effect::Retirement),
        warning(),
        warning(),
        scheduled(Effect::Retirement),
        News::StateChange { state: InstanceState::Stopping },
        News::StateChange { state: InstanceState::ShuttingDown },
        News::StateChange { state: InstanceState::Terminated },
    ]
    .into_iter()
    .map(|news| desk.hear(&old, news).to_string())
    .collect();
    let known = "nothing to do: workflow db-1.2 knows, or need not";
    let joined = "went on into workflow db-1.2";
    assert_eq!(told, ["started workflow db-1.2", known, joined, known, known, known, joined, known]);
    assert!(desk.operation(2).facts.holders[0].known_over);
}

#[test]
fn what_is_noted_is_known_of_the_node_until_another_instance_carries_it() {
    let mut desk = Desk::new();
    let old = desk.carrier();
    desk.hear(&old, News::Rebalance);
    desk.hear(&old, scheduled(Effect::Maintenance));
    desk.hear(&old, News::Rebalance);
    let noted: Vec<String> = desk.node().noted.iter().map(|noted| noted.signal.to_string()).collect();
    assert_eq!(
        noted,
        [
            format!(
                "scheduled change: {old} will be maintained in 13 days (AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED) (event)"
            ),
            format!("rebalance recommendation for {old} (event)"),
        ],
        "the newest of each kind"
    );
    desk.hear(&old, warning());
    desk.finish(2);
    assert!(desk.node().noted.is_empty());
}

#[test]
fn a_new_instance_that_is_to_be_retired_is_kept_and_the_next_operation_moves_on() {
    let mut desk = Desk::new();
    let old = desk.carrier();
    desk.hear(&old, warning());
    desk.drive_to(2, "start");
    let candidate = desk.candidate(2);
    let fate = desk.hear(&candidate, scheduled(Effect::Retirement));
    assert!(matches!(fate, Fate::Joined { .. }), "{fate}");
    assert_eq!(desk.candidate(2), candidate, "it has days left: the node comes back first");
    desk.finish(2);
    assert_eq!(desk.carrier(), candidate);
    assert!(
        matches!(&desk.operation(3).order.cause, Cause::Signal { signal } if signal.instance == candidate)
    );
    desk.finish(3);
    assert_ne!(desk.carrier(), candidate);
    assert!(desk.node().open.is_none());
}

#[test]
fn a_new_instance_that_is_to_be_retired_and_then_warned_is_lost_if_it_carries_nothing() {
    let mut desk = Desk::new();
    let old = desk.carrier();
    desk.hear(&old, warning());
    desk.drive_to(2, "start");
    let candidate = desk.candidate(2);
    desk.hear(&candidate, scheduled(Effect::Retirement));
    desk.hear(&candidate, warning());
    assert!(desk.operation(2).facts.candidate.is_none(), "a warning is surer than a retirement");
    desk.finish(2);
    assert_ne!(desk.carrier(), candidate);
    assert!(desk.node().open.is_none(), "what was heard of a lost instance is no cause");
}
