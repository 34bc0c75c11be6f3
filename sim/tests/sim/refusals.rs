//! What EC2 refuses, and what follows. What passes by itself is waited for, however long it takes, and goes on by itself; what
//! is of one pool or market is asked elsewhere; only what a person must mend makes a node stuck, and names the code.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Seen;
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::settings::{Settings, Span};
use perennial_workers::port::error::Action;
use perennial_workflows::model::aws::Market;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_hours(1);

/// Codes of credentials and permissions (`errors-overview` of the EC2 API reference).
pub const ACCESS: [&str; 9] = [
    "UnauthorizedOperation",
    "AuthFailure",
    "ExpiredToken",
    "RequestExpired",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "OptInRequired",
    "Blocked",
    "PendingVerification",
];

/// Codes of throttling and of EC2's own trouble.
pub const TROUBLE: [&str; 4] = ["RequestLimitExceeded", "InternalError", "ServiceUnavailable", "Unavailable"];

/// Codes that do not, or that no table knows.
const OTHERS: [&str; 3] = ["OperationNotPermitted", "InvalidParameterValue", "SomethingNew"];

/// What a replacement ends with that is refused for an hour at an act with one of [`OTHERS`], where it is not back by itself:
/// stuck, until a person has removed the cause. At every other act there is another way, or it is done without.
const STUCK: [Action; 9] = [
    Action::RunInstances,
    Action::TerminateInstances,
    Action::ModifyInstanceAttribute,
    Action::AttachVolume,
    Action::CreateSnapshot,
    Action::RegisterImage,
    Action::AttachNetworkInterface,
    Action::AssignPrivateIpAddresses,
    Action::AssociateAddress,
];

fn refuse(lab: &Lab, target: Target, code: &str) {
    lab.region.inject(Rule { target, when: When::Always, fault: Fault::Before(code.to_owned()) });
}

/// How often calls of an action were answered with a code.
fn given(lab: &Lab, action: Action, code: &str) -> usize {
    let calls = lab.region.calls();
    calls.iter().filter(|call| call.action == action && call.answer == Err(code.to_owned())).count()
}

/// A node of one way, with its own Elastic IP, replaced once: so the next replacement cleans up after an earlier one.
#[derive(Debug, Clone, Copy)]
struct Way {
    network: NetworkMode,
    root: RootMode,
    data: DataMode,
}

const WAYS: [Way; 4] = [
    Way { network: NetworkMode::SecondaryIp, root: RootMode::Adopt, data: DataMode::Reattach },
    Way { network: NetworkMode::PrimaryEni, root: RootMode::Image, data: DataMode::Reattach },
    Way { network: NetworkMode::SecondaryEni, root: RootMode::None, data: DataMode::Snapshot },
    Way { network: NetworkMode::None, root: RootMode::Image, data: DataMode::Snapshot },
];

async fn replaced_once(way: Way) -> Lab {
    let mut settings = Settings::calm(5);
    settings.latencies.snapshot = Span::ms(3_000, 4_000);
    settings.latencies.image = Span::ms(2_000, 3_000);
    let mut lab = Lab::new(settings);
    let mut spec = lab.spec("db-1", way.network, way.root);
    spec.persist.data = way.data;
    spec.network.elastic_ip = Some(lab.elastic());
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    lab.clock.sleep(MINUTE).await;
    lab
}

/// The actions of the second replacement, each with the first way that calls it.
async fn actions() -> BTreeMap<Action, Way> {
    let mut actions = BTreeMap::new();
    for way in WAYS {
        let mut lab = replaced_once(way).await;
        let before = lab.region.calls().len();
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        for call in &lab.region.calls()[before..] {
            actions.entry(call.action).or_insert(way);
        }
    }
    actions
}

/// One cell of the matrix: a replacement in which an action is refused with a code for an hour. Whether it became stuck.
async fn refused_for_an_hour(way: Way, action: Action, code: &str) -> bool {
    let mut lab = replaced_once(way).await;
    refuse(&lab, Target::Only(action), code);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(HOUR).await;
    let what = format!("{action} {code} {way:?}");
    assert!(given(&lab, action, code) > 0, "{what}: the refusal was not given\n{}", lab.story().await);
    let stuck = lab.node("db-1").await.open.is_some() && lab.is_stuck("db-1.3").await;
    if stuck {
        let why = lab.stuck("db-1.3").await;
        assert!(why.contains(code), "{what}: the code is not named: {why}");
    }
    lab.region.clear_faults();
    if stuck {
        lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.3" })).await;
    }
    let began_ms = lab.clock.now_ms();
    lab.rest("db-1", 3).await;
    let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
    assert!(took < 20 * MINUTE, "{what}: {took:?} after it was over\n{}", lab.story().await);
    lab.check("db-1", &["before"]).await;
    stuck
}

/// A part of the matrix.
async fn matrix(codes: &[&str], ends_stuck: impl Fn(Action) -> bool) {
    let mut cells = Seen::at_least(20 * codes.len() as u64, "cells of the matrix");
    let mut wrong = Vec::new();
    for (action, way) in actions().await {
        for code in codes {
            let stuck = refused_for_an_hour(way, action, code).await;
            cells.when(true);
            if stuck != ends_stuck(action) {
                wrong.push(format!("{action} {code}: {}", if stuck { "stuck" } else { "back by itself" }));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_waited_for_at_every_call_of_a_replacement() {
    matrix(&TROUBLE, |_| false).await;
}

#[tokio::test(start_paused = true)]
async fn credentials_and_permissions_are_waited_for_at_every_call_of_a_replacement() {
    matrix(&ACCESS, |_| false).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_person_must_mend_makes_a_replacement_stuck_only_where_there_is_no_other_way() {
    matrix(&OTHERS, |action| STUCK.contains(&action)).await;
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_refused_for_an_hour_bring_every_node_back_by_themselves() {
    for (seed, code) in ACCESS.into_iter().enumerate() {
        for (target, warned) in [(Target::All, true), (Target::All, false), (Target::Looks, true)] {
            let (mut lab, _) = Lab::provisioned(
                Settings::calm(seed as u64),
                NetworkMode::SecondaryIp,
                RootMode::Adopt,
                |_, _| {},
            )
            .await;
            refuse(&lab, target.clone(), code);
            if warned {
                lab.warn("db-1").await;
            } else {
                lab.reclaim("db-1").await;
            }
            lab.clock.sleep(HOUR).await;
            let open = lab.node("db-1").await.open.is_some();
            assert!(!open || !lab.is_stuck("db-1.2").await, "{code}\n{}", lab.story().await);
            assert!(given(&lab, Action::DescribeInstances, code) > 0, "{code}");
            lab.region.clear_faults();
            let began_ms = lab.clock.now_ms();
            lab.rest("db-1", 2).await;
            let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
            assert!(took < 20 * MINUTE, "{code} {target:?}: {took:?}\n{}", lab.story().await);
            lab.check("db-1", &["before"]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_refused_looks_cost_seconds() {
    for code in ACCESS {
        let (mut lab, _) =
            Lab::provisioned(Settings::calm(4), NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await;
        let fault = Fault::Before(code.to_owned());
        lab.region.inject(Rule { target: Target::Looks, when: When::Next(2), fault });
        let began_ms = lab.clock.now_ms();
        lab.warn("db-1").await;
        lab.rest("db-1", 2).await;
        assert!(lab.clock.now_ms() - began_ms < 300_000, "{code}\n{}", lab.story().await);
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_throttling_makes_none_of_six_nodes_stuck() {
    for (target, seed) in [(Target::Acts, 1), (Target::Looks, 2), (Target::All, 3)] {
        let mut lab = Lab::new(Settings::calm(seed));
        let names: Vec<String> = (0..6).map(|n| format!("db-{n}")).collect();
        for name in &names {
            let spec = lab.spec(name, NetworkMode::SecondaryIp, RootMode::Adopt);
            lab.provision(&spec).await;
            lab.write(name, "before").await;
        }
        refuse(&lab, target.clone(), "RequestLimitExceeded");
        for name in &names {
            lab.warn(name).await;
        }
        lab.clock.sleep(HOUR).await;
        for name in &names {
            let open = lab.node(name).await.open.is_some();
            assert!(!open || !lab.is_stuck(&format!("{name}.2")).await, "{name}\n{}", lab.story().await);
        }
        lab.region.clear_faults();
        let began_ms = lab.clock.now_ms();
        for name in &names {
            lab.rest(name, 2).await;
            assert!(lab.holds(name, "before").await, "{name} {target:?}");
        }
        let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
        assert!(took < 40 * MINUTE, "{target:?}: {took:?}\n{}", lab.story().await);
    }
}

/// Launches of these are refused with a code.
async fn elsewhere(code: &str, is_refused: impl Fn(&NodeSpec) -> u64, market: Market) {
    let (mut lab, spec) =
        Lab::provisioned(Settings::calm(6), NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await;
    let fault = Fault::Before(code.to_owned());
    let when = When::Next(is_refused(&spec));
    lab.region.inject(Rule { target: Target::Only(Action::RunInstances), when, fault });
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before"]).await;
    let carrier = lab.node("db-1").await.resources.carrier.unwrap();
    assert_eq!(carrier.market, market, "{code}\n{}", lab.story().await);
    assert!(given(&lab, Action::RunInstances, code) > 0, "{code}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_one_pool_asks_the_next_and_one_of_the_spot_market_goes_on_demand() {
    for code in ["Unsupported", "UnsupportedOperation", "InsufficientInstanceCapacity"] {
        elsewhere(code, |_| 1, Market::Spot).await;
    }
    for code in ["AuthFailure.ServiceLinkedRoleCreationNotPermitted", "MaxSpotInstanceCountExceeded"] {
        elsewhere(code, |spec| spec.capacity.instance_types.len() as u64, Market::OnDemand).await;
    }
}
