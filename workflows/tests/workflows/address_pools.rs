//! Pools of addresses: whatever is asked in whatever order, by however many at the same moment, no address has two nodes, no node
//! lives with an address that is not its own, and what ended keeps none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use perennial_workflows::aggregate::address_pool::{AddressPool, address_pool_stream};
use perennial_workflows::domain::states::State;
use perennial_workflows::domain::submission::{
    ApplyParams, CancelParams, DeleteParams, PoolParams, ReplaceParams, ResumeParams, Work,
};
use perennial_workflows::model::aws::SubnetId;
use perennial_workflows::model::restore::Keep;
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::address_pool::{AddressPoolSchema, AddressPoolSpec, AddressRange};
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, ZoneChange, example};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{Intent, Launch};
use perennial_workflows::view::plan::{plan, success};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;

use crate::desk::{Desk, name};

const NODES: [&str; 3] = ["a", "b", "c"];

fn pool_spec(ranges: &[&str]) -> AddressPoolSpec {
    AddressPoolSpec {
        schema: AddressPoolSchema::V1,
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

fn other_subnet() -> SubnetId {
    SubnetId::parse("subnet-0123456789abcdef1").unwrap()
}

fn pool_elsewhere(ranges: &[&str]) -> AddressPoolSpec {
    AddressPoolSpec { name: name("brokers-b"), subnet: other_subnet(), ..pool_spec(ranges) }
}

/// A node that may live in another subnet, with an address there.
fn wide_spec(node: &str) -> NodeSpec {
    let mut spec = node_spec(node);
    spec.capacity.other_subnets = vec![other_subnet()];
    spec.network.zone_change = ZoneChange::Allow;
    spec.network.ip_pools_elsewhere.insert(other_subnet(), name("brokers-b"));
    spec
}

impl Desk {
    fn pool(&self) -> AddressPool {
        self.pool_named("brokers")
    }

    fn pool_named(&self, pool: &str) -> AddressPool {
        match self.state(&address_pool_stream(&name(pool))) {
            State::AddressPool(pool) => pool,
            other => panic!("{other:?}"),
        }
    }

    /// Reports on the nth open step of a node.
    fn report_nth(&mut self, node: &str, n: usize, how: Option<u8>) {
        let Some(operation) = self.open_of(node) else { return };
        let steps = operation.open_steps();
        if steps.is_empty() {
            return;
        }
        let step = &steps[n % steps.len()];
        let evidence = match (how, step.intent.as_ref()) {
            (None, intent) => success(&operation, intent, step.token),
            (Some(_), Intent::MoveAddress(_)) => {
                Evidence::HeldByAnother { what: "the address".into(), by: "a stranger".into() }
            }
            (Some(0), _) => Evidence::OutOfTime { because: "waited".into() },
            (Some(1), Intent::Launch(_)) => {
                Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: "none".into() }
            }
            (Some(_), intent) => intent.instance().map_or_else(
                || Evidence::Refused { code: "UnauthorizedOperation".into(), message: "no".into() },
                |instance| Evidence::InstanceGone { instance: instance.clone(), state: None, reason: None },
            ),
        };
        let taken = self.report(operation.id.stream(), step.token, evidence);
        assert!(taken.is_ok(), "an open step's report is taken");
    }

    /// Reports success until nothing of the node's is open.
    fn drive_all(&mut self, node: &str) {
        for _ in 0..200 {
            if self.open_of(node).is_none_or(|operation| operation.open_steps().is_empty()) {
                return;
            }
            self.report_nth(node, 0, None);
        }
        panic!("{node} does not come to rest");
    }

    /// Every address a node has, by subnet.
    fn addresses(&self, node: &str) -> BTreeMap<SubnetId, Ipv4Addr> {
        let (here, mut all, subnet) = match self.open_of(node) {
            Some(operation) => {
                let facts = operation.facts;
                (facts.network.address, facts.network.addresses_elsewhere, facts.subnet)
            }
            None => {
                let (node, home) = (self.node_of(node), node_spec(node).subnet);
                let resources = node.resources;
                (resources.address, resources.addresses_elsewhere, resources.subnet.unwrap_or(home))
            }
        };
        all.extend(here.map(|address| (subnet, address)));
        all
    }

    fn pool_laws(&self) -> Result<(), TestCaseError> {
        for (pool, subnet) in [("brokers", node_spec("a").subnet), ("brokers-b", other_subnet())] {
            let pool = self.pool_named(pool);
            let mut seen = BTreeSet::new();
            for node in NODES {
                let address = self.addresses(node).get(&subnet).copied();
                if let Some(address) = address {
                    prop_assert!(seen.insert(address), "{address} has two nodes");
                    prop_assert_eq!(
                        pool.held.get(&address),
                        Some(&name(node)),
                        "{} is not {}'s",
                        address,
                        node
                    );
                }
                let holds = pool.held.values().filter(|holder| holder.as_str() == node).count();
                prop_assert_eq!(holds, usize::from(address.is_some()), "{} keeps what it does not use", node);
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Move {
    Apply(usize),
    /// A file that names another subnet and a pool of it.
    ApplyWide(usize),
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
        3 => node().prop_map(Move::ApplyWide),
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

fn apply_wide(node: &str) -> Work {
    Work::Apply(ApplyParams { spec: wide_spec(node), from_backup: None, reason: None })
}

fn declare_elsewhere(ranges: &[&str]) -> Work {
    Work::Pool(PoolParams { spec: pool_elsewhere(ranges) })
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
        let _ = desk.submit_of("brokers", declare(&["10.0.0.10-10.0.0.11"]));
        let _ = desk.submit_of("brokers-b", declare_elsewhere(&["10.0.1.10-10.0.1.11"]));
        for action in &moves {
            match *action {
                Move::Apply(n) => {
                    let _ = desk.submit_of(NODES[n], apply(NODES[n]));
                }
                Move::ApplyWide(n) => {
                    let _ = desk.submit_of(NODES[n], apply_wide(NODES[n]));
                }
                Move::ApplyBoth(a, b) => {
                    let first = desk.submission(NODES[a], apply_wide(NODES[a]));
                    let second = desk.submission(NODES[b], apply_wide(NODES[b]));
                    let (first, second) = (desk.decide(&first), desk.decide(&second));
                    let _ = desk.commit(first);
                    let _ = desk.commit(second);
                }
                Move::Replace(n) => {
                    let _ = desk.submit_of(NODES[n], Work::Replace(ReplaceParams { reason: None }));
                }
                Move::Delete(n) => {
                    let _ = desk.submit_of(NODES[n], delete());
                }
                Move::Cancel(n) => {
                    if let Some(operation) = desk.open_of(NODES[n]) {
                        let cancel = CancelParams { workflow: operation.id, reason: None };
                        let _ = desk.submit_of(NODES[n], Work::Cancel(cancel));
                    }
                }
                Move::Resume(n) => {
                    if let Some(operation) = desk.open_of(NODES[n]) {
                        let resume = ResumeParams { workflow: operation.id, accept_loss: Vec::new(), from_backup: None };
                        let _ = desk.submit_of(NODES[n], Work::Resume(resume));
                    }
                }
                Move::Succeed(node, n) => desk.report_nth(NODES[node], n, None),
                Move::Fail(node, n, how) => desk.report_nth(NODES[node], n, Some(how)),
                Move::Declare(n) => {
                    let _ = desk.submit_of("brokers", declare(&[&format!("10.0.0.10-10.0.0.{}", 9 + n)]));
                    let _ = desk.submit_of("brokers-b", declare_elsewhere(&[&format!("10.0.1.10-10.0.1.{}", 9 + n)]));
                }
            }
            desk.pool_laws()?;
        }
    }
}

#[test]
fn an_exhausted_pool_is_stuck_and_goes_on_with_a_larger_one_or_after_a_deletion() {
    for larger in [true, false] {
        let mut desk = Desk::default();
        desk.submit_of("brokers", declare(&["10.0.0.10"])).unwrap();
        desk.submit_of("a", apply("a")).unwrap();
        desk.drive_all("a");
        desk.submit_of("b", apply("b")).unwrap();
        let stuck = desk.open_of("b").unwrap();
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
        desk.submit_of("b", resume()).unwrap();
        assert!(matches!(desk.open_of("b").unwrap().status, Status::Stuck { .. }), "still none");
        if larger {
            desk.submit_of("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
        } else {
            desk.submit_of("a", delete()).unwrap();
            desk.drive_all("a");
            assert_eq!(desk.pool().held.len(), 0, "a deletion gives the address back");
        }
        desk.submit_of("b", resume()).unwrap();
        desk.drive_all("b");
        assert!(desk.node_of("b").open.is_none());
        let address: Ipv4Addr = if larger { "10.0.0.11" } else { "10.0.0.10" }.parse().unwrap();
        assert_eq!(desk.node_of("b").resources.address, Some(address));
        desk.pool_laws().unwrap();
    }
}

#[test]
fn an_address_that_a_stranger_has_is_passed_over_at_the_resume_and_tried_again_when_the_pool_is_declared() {
    let mut desk = Desk::default();
    desk.submit_of("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
    desk.submit_of("a", apply("a")).unwrap();
    while !desk.open_of("a").unwrap().open_steps().iter().any(|step| step.step == "move_address") {
        desk.report_nth("a", 0, None);
    }
    let steps = desk.open_of("a").unwrap().open_steps();
    let at = steps.iter().position(|step| step.step == "move_address").unwrap();
    desk.report_nth("a", at, Some(1));
    let workflow = desk.open_of("a").unwrap().id;
    desk.submit_of("a", Work::Resume(ResumeParams { workflow, accept_loss: Vec::new(), from_backup: None }))
        .unwrap();
    desk.drive_all("a");
    assert_eq!(desk.node_of("a").resources.address, Some(Ipv4Addr::new(10, 0, 0, 11)));
    let passed = desk.pool().passed_over;
    assert_eq!(passed.get(&Ipv4Addr::new(10, 0, 0, 10)).map(String::as_str), Some("a stranger"));
    assert_eq!(desk.pool().free().count(), 0);
    desk.submit_of("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
    assert_eq!(desk.pool().free().count(), 1, "a new declaration tries it again");
    desk.pool_laws().unwrap();
}

#[test]
fn what_a_pool_cannot_give_is_refused_with_what_to_do() {
    let mut desk = Desk::default();
    desk.submit_of("a", apply("a")).unwrap();
    assert!(desk.disposition().to_string().contains("there is no pool brokers"), "{}", desk.disposition());
    desk.submit_of("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
    assert_eq!(desk.disposition().to_string(), "declared pool brokers: 2 addresses are free");
    let mut elsewhere = node_spec("a");
    elsewhere.subnet = SubnetId::parse("subnet-2").unwrap();
    desk.submit_of("a", Work::Apply(ApplyParams { spec: elsewhere, from_backup: None, reason: None }))
        .unwrap();
    assert!(desk.disposition().to_string().contains("name a pool of its subnet"), "{}", desk.disposition());
    desk.submit_of("a", apply("a")).unwrap();
    desk.submit_of("brokers", declare(&["10.0.0.11"])).unwrap();
    assert!(desk.disposition().to_string().contains("10.0.0.10 belongs to node a"), "{}", desk.disposition());
    let other =
        NodeSpec { network: Default::default(), ..example("a", NetworkMode::SecondaryIp, RootMode::None) };
    desk.submit_of("a", Work::Apply(ApplyParams { spec: other, from_backup: None, reason: None })).unwrap();
    assert!(desk.disposition().to_string().contains("delete the node first"), "{}", desk.disposition());
    let entries = desk.streams.keys().filter(|stream| stream.category() == "inbox").count();
    assert_eq!(entries, 6, "every one was answered");
}

/// What happens to every launch where the node lives.
fn no_capacity_here(desk: &mut Desk, node: &str) {
    for _ in 0..200 {
        let Some(operation) = desk.open_of(node) else { return };
        let steps = operation.open_steps();
        let Some(at) = (0..steps.len()).find(
            |at| !matches!(steps[*at].intent.as_ref(), Intent::Launch(Launch { pool, .. }) if pool.subnet.is_none()),
        ) else {
            desk.report_nth(node, 0, Some(1));
            continue;
        };
        desk.report_nth(node, at, None);
    }
    panic!("{node} does not come to rest");
}

#[test]
fn a_node_has_an_address_of_each_of_its_pools_and_lives_with_that_of_its_subnet() {
    let mut desk = Desk::default();
    desk.submit_of("brokers", declare(&["10.0.0.10"])).unwrap();
    desk.submit_of("brokers-b", declare_elsewhere(&["10.0.1.10"])).unwrap();
    desk.submit_of("a", apply_wide("a")).unwrap();
    desk.drive_all("a");
    let (here, there) = (Ipv4Addr::new(10, 0, 0, 10), Ipv4Addr::new(10, 0, 1, 10));
    let home = node_spec("a").subnet;
    let before = desk.node_of("a").resources;
    assert_eq!(before.address, Some(here));
    assert_eq!(before.addresses_elsewhere, BTreeMap::from([(other_subnet(), there)]));
    let plan = plan(&wide_spec("a"), Some(&desk.node_of("a"))).unwrap();
    let said = "In subnet-0123456789abcdef1 the node's address is 10.0.1.10 (pool brokers-b).";
    assert!(plan.notes.iter().any(|note| note == said), "{:?}", plan.notes);
    // There and back: nothing is allocated or released on the way.
    let taken = desk.head(&address_pool_stream(&name("brokers-b")));
    desk.submit_of("a", Work::Replace(ReplaceParams { reason: None })).unwrap();
    no_capacity_here(&mut desk, "a");
    let moved = desk.node_of("a").resources;
    assert_eq!((moved.subnet, moved.address), (Some(other_subnet()), Some(there)));
    assert_eq!(moved.addresses_elsewhere, BTreeMap::from([(home, here)]));
    desk.submit_of("a", Work::Replace(ReplaceParams { reason: None })).unwrap();
    no_capacity_here(&mut desk, "a");
    let back = desk.node_of("a").resources;
    assert_eq!((back.subnet, back.address), (None, Some(here)));
    assert_eq!(back.addresses_elsewhere, before.addresses_elsewhere);
    assert_eq!(desk.head(&address_pool_stream(&name("brokers-b"))), taken);
    desk.pool_laws().unwrap();
    // While it lives there, the file keeps that pool; the deletion gives both back.
    desk.submit_of("a", Work::Replace(ReplaceParams { reason: None })).unwrap();
    no_capacity_here(&mut desk, "a");
    desk.submit_of("a", apply("a")).unwrap();
    assert!(
        desk.disposition().to_string().contains("the node lives in subnet-0123456789abcdef1"),
        "{}",
        desk.disposition()
    );
    desk.submit_of("a", delete()).unwrap();
    desk.drive_all("a");
    assert_eq!((desk.pool().held.len(), desk.pool_named("brokers-b").held.len()), (0, 0));
    // The name begins anew where its file says.
    desk.submit_of("a", apply_wide("a")).unwrap();
    desk.drive_all("a");
    assert_eq!(desk.node_of("a").resources.address, Some(here));
    assert_eq!(desk.node_of("a").resources.subnet, None);
    desk.pool_laws().unwrap();
}

#[test]
fn a_changed_file_takes_from_the_pools_it_adds_and_gives_back_to_those_it_drops() {
    let mut desk = Desk::default();
    desk.submit_of("brokers", declare(&["10.0.0.10-10.0.0.11"])).unwrap();
    desk.submit_of("a", apply("a")).unwrap();
    desk.drive_all("a");
    let told = |desk: &Desk, wanted: &str| {
        assert!(desk.disposition().to_string().contains(wanted), "{wanted}: {}", desk.disposition());
    };
    desk.submit_of("a", apply_wide("a")).unwrap();
    told(&desk, "ip_pools_elsewhere.subnet-0123456789abcdef1: there is no pool brokers-b; declare it");
    let wrong = AddressPoolSpec { name: name("brokers-b"), ..pool_spec(&["10.0.0.20"]) };
    desk.submit_of("brokers-b", Work::Pool(PoolParams { spec: wrong })).unwrap();
    desk.submit_of("a", apply_wide("a")).unwrap();
    told(&desk, "name a pool of subnet-0123456789abcdef1");
    desk.submit_of("brokers-b", declare_elsewhere(&["10.0.1.10"])).unwrap();
    desk.submit_of("a", apply_wide("a")).unwrap();
    told(&desk, "changed");
    assert_eq!(desk.addresses("a").len(), 2);
    desk.pool_laws().unwrap();
    // Another node finds it exhausted: refused while it runs, stuck when it begins.
    desk.submit_of("b", apply("b")).unwrap();
    desk.submit_of("b", apply_wide("b")).unwrap();
    told(&desk, "holds the node and its addresses; wait for it");
    desk.drive_all("b");
    desk.submit_of("b", apply_wide("b")).unwrap();
    told(&desk, "the pool brokers-b has no free address; apply a larger one");
    desk.submit_of("b", delete()).unwrap();
    desk.drive_all("b");
    desk.submit_of("b", apply_wide("b")).unwrap();
    let stuck = desk.open_of("b").unwrap();
    let Status::Stuck { because, .. } = &stuck.status else { panic!("{:?}", stuck.status) };
    assert_eq!(because, "pool brokers-b has no free address");
    desk.pool_laws().unwrap();
    // What the first one drops, the second one takes.
    let mut larger = node_spec("a");
    larger.data_volumes[0].size_gib += 1;
    desk.submit_of("a", Work::Apply(ApplyParams { spec: larger, from_backup: None, reason: None })).unwrap();
    desk.drive_all("a");
    assert_eq!(desk.addresses("a").len(), 1, "also when a volume grows with it");
    let resume = ResumeParams { workflow: stuck.id.clone(), accept_loss: Vec::new(), from_backup: None };
    desk.submit_of("b", Work::Resume(resume)).unwrap();
    desk.drive_all("b");
    assert_eq!(desk.addresses("b").len(), 2);
    desk.pool_laws().unwrap();
}

#[test]
fn an_address_elsewhere_that_a_stranger_has_is_passed_over_at_the_resume_of_a_move() {
    let mut desk = Desk::default();
    desk.submit_of("brokers", declare(&["10.0.0.10"])).unwrap();
    desk.submit_of("brokers-b", declare_elsewhere(&["10.0.1.10-10.0.1.11"])).unwrap();
    desk.submit_of("a", apply_wide("a")).unwrap();
    desk.drive_all("a");
    desk.submit_of("a", Work::Replace(ReplaceParams { reason: None })).unwrap();
    while !desk.open_of("a").unwrap().open_steps().iter().any(|step| step.step == "move_address") {
        let steps = desk.open_of("a").unwrap().open_steps();
        let refused =
            matches!(steps[0].intent.as_ref(), Intent::Launch(Launch { pool, .. }) if pool.subnet.is_none());
        desk.report_nth("a", 0, refused.then_some(1));
    }
    let steps = desk.open_of("a").unwrap().open_steps();
    let at = steps.iter().position(|step| step.step == "move_address").unwrap();
    desk.report_nth("a", at, Some(1));
    let workflow = desk.open_of("a").unwrap().id;
    desk.submit_of("a", Work::Resume(ResumeParams { workflow, accept_loss: Vec::new(), from_backup: None }))
        .unwrap();
    desk.drive_all("a");
    assert_eq!(desk.node_of("a").resources.address, Some(Ipv4Addr::new(10, 0, 1, 11)));
    assert_eq!(desk.pool_named("brokers-b").passed_over.len(), 1);
    desk.pool_laws().unwrap();
}

#[test]
fn what_a_file_says_of_pools_is_checked_with_its_field() {
    let wrong = |change: fn(&mut NodeSpec)| {
        let mut spec = wide_spec("a");
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    };
    wide_spec("a").check().unwrap();
    let missing = wrong(|spec| spec.network.ip_pools_elsewhere.clear());
    assert!(missing.starts_with("capacity.other_subnets[0]: "), "{missing}");
    let unused = wrong(|spec| spec.capacity.other_subnets.clear());
    assert!(
        unused.starts_with("network.ip_pools_elsewhere.subnet-0123456789abcdef1: is none of"),
        "{unused}"
    );
    let twice = wrong(|spec| {
        spec.network.ip_pools_elsewhere.insert(other_subnet(), name("brokers"));
    });
    assert!(twice.contains("the pool brokers is named already"), "{twice}");
    let other_mode = wrong(|spec| {
        spec.persist.network = NetworkMode::SecondaryIp;
        spec.network.ip_pool = None;
    });
    assert_eq!(other_mode, "network.ip_pools_elsewhere: needs `persist.network: ip_pool`; remove it");
}
