//! Pools of addresses: whatever is asked in whatever order, by however many at the same moment, no address has two nodes, no node
//! lives with an address that is not its own, and what ended keeps none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use perennial_engine::domain::{Decision, Domain, Stamp, World};
use perennial_engine::ids::{Seq, StreamId};
use perennial_workflows::domain::{Command, Content, Envelope, Event, Perennial, Rejection, Sight, State};
use perennial_workflows::letter::{Fate, letter_stream};
use perennial_workflows::node::{Node, node_stream};
use perennial_workflows::operation::{Keep, Operation, Status};
use perennial_workflows::plan::success;
use perennial_workflows::pool::{AddressPool, AddressRange, PoolSchema, PoolSpec, pool_stream};
use perennial_workflows::spec::{NetworkMode, NodeName, NodeSpec, RootMode, example};
use perennial_workflows::steps::{Evidence, Intent};
use perennial_workflows::submission::{
    ApplyParams, CancelParams, DeleteParams, PoolParams, ReplaceParams, ResumeParams, Submission,
    SubmissionId, Work,
};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;

const NODES: [&str; 3] = ["a", "b", "c"];

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn pool_spec(ranges: &[&str]) -> PoolSpec {
    PoolSpec {
        schema: PoolSchema::V1,
        name: name("brokers"),
        subnet: example("a", NetworkMode::None, RootMode::None).subnet,
        addresses: ranges.iter().map(|range| AddressRange::parse(range).unwrap()).collect(),
    }
}

fn node_spec(node: &str) -> NodeSpec {
    let mut spec = example(node, NetworkMode::IpPool, RootMode::None);
    spec.network.ip_pool = Some(name("brokers"));
    spec
}

/// The streams, as an engine would keep them.
#[derive(Default)]
struct Desk {
    streams: BTreeMap<StreamId, (State, Seq)>,
    now_ms: u64,
    letters: u64,
}

type Decided = (Result<Decision<Event>, Rejection>, Vec<(StreamId, Seq)>);

impl Desk {
    fn state(&self, stream: &StreamId) -> State {
        self.streams.get(stream).map_or_else(|| Perennial::empty(stream), |(state, _)| state.clone())
    }

    fn head(&self, stream: &StreamId) -> Seq {
        self.streams.get(stream).map_or(Seq::NONE, |(_, head)| *head)
    }

    fn pool(&self) -> AddressPool {
        match self.state(&pool_stream(&name("brokers"))) {
            State::Pool(pool) => pool,
            other => panic!("{other:?}"),
        }
    }

    fn node(&self, node: &str) -> Node {
        match self.state(&node_stream(&name(node))) {
            State::Node(node) => node,
            other => panic!("{other:?}"),
        }
    }

    fn open(&self, node: &str) -> Option<Operation> {
        match self.state(&self.node(node).open?.0.stream()) {
            State::Operation(operation) => operation,
            other => panic!("{other:?}"),
        }
    }

    /// Decides on what is there now; nothing is written.
    fn decide(&self, command: &Command) -> Decided {
        let mut world = World::default();
        let reads = Perennial::reads(command);
        for stream in &reads {
            world.insert(stream.clone(), Arc::new(self.state(stream)), self.head(stream));
        }
        let heads = reads.iter().map(|stream| (stream.clone(), self.head(stream))).collect();
        (Perennial::decide(&world, command, self.now_ms), heads)
    }

    /// Writes a decision, unless a stream that it appends to has moved since. Whether it did.
    fn commit(&mut self, (decision, heads): Decided) -> Result<bool, TestCaseError> {
        let Ok(decision) = decision else { return Ok(false) };
        let heads: BTreeMap<StreamId, Seq> = heads.into_iter().collect();
        for (stream, _) in &decision.appends {
            prop_assert!(heads.contains_key(stream), "{stream} is appended to and was not read");
            if heads[stream] != self.head(stream) {
                return Ok(false);
            }
        }
        for (stream, events) in decision.appends {
            for event in events {
                let data = Perennial::encode(&event);
                prop_assert_eq!(&Perennial::decode(&data).unwrap(), &event);
                let head = self.head(&stream).next();
                let stamp = Stamp { seq: head, at_ms: self.now_ms };
                let next = Perennial::evolve(self.state(&stream), stamp, &event);
                prop_assert!(next.is_ok(), "evolve accepts what decide returned: {:?} {event:?}", next.err());
                self.streams.insert(stream.clone(), (next.unwrap(), head));
            }
        }
        Ok(true)
    }

    fn execute(&mut self, command: &Command) -> Result<bool, TestCaseError> {
        self.now_ms += 700;
        let decided = self.decide(command);
        self.commit(decided)
    }

    fn letter(&mut self, node: &str, work: Work) -> Command {
        self.letters += 1;
        let id = SubmissionId::try_from(format!("s-{}", self.letters)).unwrap();
        let sight = match work {
            Work::Pool(_) => None,
            _ => Some(Sight::of(&name(node), &self.node(node))),
        };
        Command::Letter {
            envelope: Envelope {
                stream: letter_stream("submissions", &id.to_string()),
                queue: "submissions".into(),
                message_id: format!("m-{}", self.letters),
                sent_at_ms: self.now_ms,
                bytes: 1,
                body: "{}".into(),
            },
            content: Content::Submission(Submission {
                id,
                node: name(node),
                work,
                requested_by: "pools".into(),
                reply_to: None,
                deadline: None,
            }),
            sight,
            owner: "pools".into(),
        }
    }

    fn submit(&mut self, node: &str, work: Work) -> Result<bool, TestCaseError> {
        let command = self.letter(node, work);
        self.execute(&command)
    }

    /// What the last letter was answered.
    fn fate(&self) -> Fate {
        match self.state(&letter_stream("submissions", &format!("s-{}", self.letters))) {
            State::Letter(letter) => letter.fate.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Reports on the nth open step of a node.
    fn report(&mut self, node: &str, n: usize, how: Option<u8>) -> Result<(), TestCaseError> {
        let Some(operation) = self.open(node) else { return Ok(()) };
        let steps = operation.open_steps();
        if steps.is_empty() {
            return Ok(());
        }
        let step = &steps[n % steps.len()];
        let evidence = match (how, step.intent.as_ref()) {
            (None, intent) => success(&operation, intent, step.token),
            (Some(_), Intent::MoveAddress { .. }) => {
                Evidence::HeldByAnother { what: "the address".into(), by: "a stranger".into() }
            }
            (Some(0), _) => Evidence::OutOfTime { because: "waited".into() },
            (Some(_), intent) => intent.instance().map_or_else(
                || Evidence::Refused { code: "UnauthorizedOperation".into(), message: "no".into() },
                |instance| Evidence::InstanceGone { instance: instance.clone(), state: None, reason: None },
            ),
        };
        let taken =
            self.execute(&Command::Report { workflow: operation.id.stream(), token: step.token, evidence })?;
        prop_assert!(taken, "an open step's report is taken");
        Ok(())
    }

    /// Reports success until nothing of the node's is open.
    fn drive(&mut self, node: &str) {
        for _ in 0..200 {
            if self.open(node).is_none_or(|operation| operation.open_steps().is_empty()) {
                return;
            }
            self.report(node, 0, None).unwrap();
        }
        panic!("{node} does not come to rest");
    }

    fn address(&self, node: &str) -> Option<Ipv4Addr> {
        match self.open(node) {
            Some(operation) => operation.facts.address,
            None => self.node(node).resources.address,
        }
    }

    fn laws(&self) -> Result<(), TestCaseError> {
        let pool = self.pool();
        let mut seen = BTreeSet::new();
        for node in NODES {
            let address = self.address(node);
            if let Some(address) = address {
                prop_assert!(seen.insert(address), "{address} has two nodes");
                prop_assert_eq!(pool.held.get(&address), Some(&name(node)), "{} is not {}'s", address, node);
            }
            let holds = pool.held.values().filter(|holder| holder.as_str() == node).count();
            prop_assert_eq!(holds, usize::from(address.is_some()), "{} keeps what it does not use", node);
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Move {
    Apply(usize),
    /// Two nodes at the same moment: both decide before either is written.
    ApplyBoth(usize, usize),
    Replace(usize),
    Delete(usize),
    Cancel(usize),
    Resume(usize),
    Succeed(usize, usize),
    Fail(usize, usize, u8),
    /// The pool is declared with so many addresses.
    Declare(u8),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let node = || 0..NODES.len();
    let one = prop_oneof![
        3 => node().prop_map(Move::Apply),
        2 => (node(), node()).prop_map(|(a, b)| Move::ApplyBoth(a, b)),
        1 => node().prop_map(Move::Replace),
        2 => node().prop_map(Move::Delete),
        1 => node().prop_map(Move::Cancel),
        2 => node().prop_map(Move::Resume),
        16 => (node(), any::<usize>()).prop_map(|(node, n)| Move::Succeed(node, n)),
        3 => (node(), any::<usize>(), 0..3_u8).prop_map(|(node, n, how)| Move::Fail(node, n, how)),
        1 => (1..4_u8).prop_map(Move::Declare),
        1 => Just(Move::Declare(2)),
    ];
    prop::collection::vec(one, 1..200)
}

fn apply(node: &str) -> Work {
    Work::Apply(ApplyParams { spec: node_spec(node), from_backup: None, reason: None })
}

fn delete() -> Work {
    let keep = Keep { root: false, data: false, network: false, backups: false };
    Work::Delete(DeleteParams { keep, reason: None })
}

fn declare(ranges: &[&str]) -> Work {
    Work::Pool(PoolParams { spec: pool_spec(ranges) })
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 300, ..Default::default() })]

    #[test]
    fn no_address_has_two_nodes_and_what_ended_keeps_none(moves in moves()) {
        let mut desk = Desk::default();
        desk.submit("brokers", declare(&["10.0.0.10-10.0.0.11"]))?;
        for action in &moves {
            match *action {
                Move::Apply(n) => {
                    desk.submit(NODES[n], apply(NODES[n]))?;
                }
                Move::ApplyBoth(a, b) => {
                    let first = desk.letter(NODES[a], apply(NODES[a]));
                    let second = desk.letter(NODES[b], apply(NODES[b]));
                    let (first, second) = (desk.decide(&first), desk.decide(&second));
                    desk.commit(first)?;
                    desk.commit(second)?;
                }
                Move::Replace(n) => {
                    desk.submit(NODES[n], Work::Replace(ReplaceParams { reason: None }))?;
                }
                Move::Delete(n) => {
                    desk.submit(NODES[n], delete())?;
                }
                Move::Cancel(n) => {
                    if let Some(operation) = desk.open(NODES[n]) {
                        let cancel = CancelParams { workflow: operation.id, reason: None };
                        desk.submit(NODES[n], Work::Cancel(cancel))?;
                    }
                }
                Move::Resume(n) => {
                    if let Some(operation) = desk.open(NODES[n]) {
                        let resume = ResumeParams { workflow: operation.id, accept_loss: Vec::new(), from_backup: None };
                        desk.submit(NODES[n], Work::Resume(resume))?;
                    }
                }
                Move::Succeed(node, n) => desk.report(NODES[node], n, None)?,
                Move::Fail(node, n, how) => desk.report(NODES[node], n, Some(how))?,
                Move::Declare(n) => {
                    desk.submit("brokers", declare(&[&format!("10.0.0.10-10.0.0.{}", 9 + n)]))?;
                }
            }
            desk.laws()?;
        }
    }
}

#[test]
fn an_exhausted_pool_is_stuck_and_goes_on_with_a_larger_one_or_after_a_deletion() {
    for larger in [true, false] {
        let mut desk = Desk::default();
        desk.submit("brokers", declare(&["10.0.0.10"])).unwrap();
        desk.submit("a", apply("a")).unwrap();
        desk.drive("a");
        desk.submit("b", apply("b")).unwrap();
        let stuck = desk.open("b").unwrap();
        let Status::Stuck { because, needs, .. } = &stuck.status else { panic!("{:?}", stuck.status) };
        assert_eq!(because, "pool brokers has no free address");
        assert!(needs.contains("pool apply") && needs.contains("resume b.1"), "{needs}");
        assert_eq!(stuck.steps.len(), 0, "nothing is launched for a node without an address");
        let resume = || {
            Work::Resume(ResumeParams {
                workflow: stuck.id.clone(),
                accept_loss: Vec::new(),
                from_backup: None,
            })
        };
        desk.submit("b", resume()).unwrap();
        assert!(matches!(desk.open("b").unwrap().status, Status::Stuck { .. }), "still none");
        if larger {
            desk.submit("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
        } else {
            desk.submit("a", delete()).unwrap();
            desk.drive("a");
            assert_eq!(desk.pool().held.len(), 0, "a deletion gives the address back");
        }
        desk.submit("b", resume()).unwrap();
        desk.drive("b");
        assert!(desk.node("b").open.is_none());
        let address: Ipv4Addr = if larger { "10.0.0.11" } else { "10.0.0.10" }.parse().unwrap();
        assert_eq!(desk.node("b").resources.address, Some(address));
        desk.laws().unwrap();
    }
}

#[test]
fn an_address_that_a_stranger_has_is_passed_over_at_the_resume_and_tried_again_when_the_pool_is_declared() {
    let mut desk = Desk::default();
    desk.submit("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
    desk.submit("a", apply("a")).unwrap();
    while !desk.open("a").unwrap().open_steps().iter().any(|step| step.step == "move_address") {
        desk.report("a", 0, None).unwrap();
    }
    let steps = desk.open("a").unwrap().open_steps();
    let at = steps.iter().position(|step| step.step == "move_address").unwrap();
    desk.report("a", at, Some(1)).unwrap();
    let workflow = desk.open("a").unwrap().id;
    desk.submit("a", Work::Resume(ResumeParams { workflow, accept_loss: Vec::new(), from_backup: None }))
        .unwrap();
    desk.drive("a");
    assert_eq!(desk.node("a").resources.address, Some(Ipv4Addr::new(10, 0, 0, 11)));
    let passed = desk.pool().passed_over;
    assert_eq!(passed.get(&Ipv4Addr::new(10, 0, 0, 10)).map(String::as_str), Some("a stranger"));
    assert_eq!(desk.pool().free().count(), 0);
    desk.submit("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
    assert_eq!(desk.pool().free().count(), 1, "a new declaration tries it again");
    desk.laws().unwrap();
}

#[test]
fn what_a_pool_cannot_give_is_refused_with_what_to_do() {
    let mut desk = Desk::default();
    desk.submit("a", apply("a")).unwrap();
    assert!(desk.fate().to_string().contains("there is no pool brokers"), "{}", desk.fate());
    desk.submit("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
    assert_eq!(desk.fate().to_string(), "declared pool brokers: 2 addresses are free");
    let mut elsewhere = node_spec("a");
    elsewhere.subnet = perennial_workflows::aws::SubnetId::parse("subnet-2").unwrap();
    desk.submit("a", Work::Apply(ApplyParams { spec: elsewhere, from_backup: None, reason: None })).unwrap();
    assert!(desk.fate().to_string().contains("name a pool of its subnet"), "{}", desk.fate());
    desk.submit("a", apply("a")).unwrap();
    desk.submit("brokers", declare(&["10.0.0.11"])).unwrap();
    assert!(desk.fate().to_string().contains("10.0.0.10 belongs to node a"), "{}", desk.fate());
    let other =
        NodeSpec { network: Default::default(), ..example("a", NetworkMode::SecondaryIp, RootMode::None) };
    desk.submit("a", Work::Apply(ApplyParams { spec: other, from_backup: None, reason: None })).unwrap();
    assert!(desk.fate().to_string().contains("delete the node first"), "{}", desk.fate());
    let letters = desk.streams.keys().filter(|stream| stream.category() == "letter").count();
    assert_eq!(letters, 6, "every one was answered");
}
