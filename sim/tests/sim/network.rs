//! The network modes in whole operations: what the node's own interface goes through, and where it is at the end.

use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Deaths;
use perennial_sim::faults::{Fault, Rule};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::{Settings, Span};
use perennial_workers::port::error::Action;
use perennial_workers::port::{InterfaceRequest, Tags};
use perennial_workflows::model::aws::{GroupId, InterfaceId};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::spec::node::{Handover, NetworkMode, NodeSpec, RootMode};
use perennial_workflows::view::history::story;
use serde_json::json;

/// How a node is made to move.
#[derive(Debug, Clone, Copy)]
enum Way {
    Planned,
    Warned,
    Unannounced,
}

const WAYS: [Way; 3] = [Way::Planned, Way::Warned, Way::Unannounced];

async fn moved(lab: &mut Lab, way: Way) {
    let old = lab.instance("db-1").await;
    match way {
        Way::Planned => {
            lab.submit("node.replace", "db-1", json!({})).await;
        }
        Way::Warned => {
            lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
        }
        Way::Unannounced => lab.region.with(|world, now_ms| world.reclaim_now(now_ms, &old).unwrap()),
    }
    lab.rest("db-1", 2).await;
    assert_ne!(lab.instance("db-1").await, old, "{way:?}");
    lab.clock.sleep(Duration::from_secs(120)).await;
}

/// A security group of the account's.
fn group(lab: &Lab, name: &str) -> GroupId {
    lab.region.with(|world, now_ms| world.create_group(now_ms, name, "of a test", &Tags::new()).unwrap())
}

async fn interface(lab: &Lab) -> InterfaceId {
    lab.node("db-1").await.resources.interface.expect("it has its own interface").interface
}

#[tokio::test(start_paused = true)]
async fn a_second_interface_comes_back_whichever_way_its_instance_goes() {
    for way in WAYS {
        for handover in [Handover::Terminate, Handover::Detach] {
            let mut lab = Lab::new(Settings::calm(7));
            let mut spec = lab.spec("db-1", NetworkMode::SecondaryEni, RootMode::Adopt);
            spec.persist.handover = handover;
            spec.network.elastic_ip = Some(lab.elastic());
            lab.provision(&spec).await;
            lab.write("db-1", "before").await;
            lab.check("db-1", &["before"]).await;
            let before = lab.node("db-1").await.resources;
            moved(&mut lab, way).await;
            lab.check("db-1", &["before"]).await;
            let after = lab.node("db-1").await.resources;
            assert_eq!(after.interface, before.interface, "{way:?} {handover:?}: the same interface");
            assert!(after.interface.is_some());
            assert_eq!(after.address, before.address, "{way:?} {handover:?}");
            assert_eq!(after.elastic, before.elastic, "{way:?} {handover:?}");
            let (was, is) = (before.carrier.unwrap().interface, after.carrier.unwrap().interface);
            assert_ne!(was, is, "{way:?}: each instance has its own primary interface");
        }
    }
}

/// The interface is handed over alive: it leaves an instance that still runs.
#[tokio::test(start_paused = true)]
async fn a_second_interface_may_leave_an_instance_that_still_runs() {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryEni, RootMode::None);
    spec.persist.handover = Handover::Detach;
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let (instance, volume) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
    lab.region.with(|world, now_ms| world.unmount(now_ms, &instance, &volume).unwrap());
    moved(&mut lab, Way::Planned).await;
    lab.check("db-1", &["before"]).await;
    let calls = lab.region.calls();
    let first = |action: Action| calls.iter().find(|call| call.action == action).map(|call| call.at_ms);
    let (left, fenced) = (first(Action::DetachNetworkInterface), first(Action::TerminateInstances));
    assert!(left.is_some() && left < fenced, "{left:?}, {fenced:?}\n{}", lab.story().await);
    let operation = lab.operation("db-1.2").await;
    let name = |step: &str| operation.steps.values().any(|record| record.step.to_string() == step);
    assert!(name("detach_interface") && !name("release_interface"), "{}", lab.story().await);
}

#[tokio::test(start_paused = true)]
async fn an_attach_whose_answer_is_lost_is_not_made_twice() {
    for fault in [Fault::LostReply, Fault::LostRequest, Fault::After("InternalError".into())] {
        let mut lab = Lab::new(Settings::calm(7));
        lab.region.inject(Rule::next(Action::AttachNetworkInterface, fault.clone()));
        let spec = lab.spec("db-1", NetworkMode::SecondaryEni, RootMode::None);
        lab.provision(&spec).await;
        lab.write("db-1", "first").await;
        lab.check("db-1", &["first"]).await;
        let calls = lab.region.calls();
        let attaches = calls.iter().filter(|call| call.action == Action::AttachNetworkInterface);
        let wanted = if fault == Fault::LostRequest { 2 } else { 1 };
        assert_eq!(attaches.count(), wanted, "{fault:?}: the interface is looked at first");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_interface_that_was_deleted_by_hand_is_made_anew_with_its_address() {
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni] {
        let mut lab = Lab::new(Settings::calm(7));
        lab.provision(&lab.spec("db-1", network, RootMode::Adopt)).await;
        lab.write("db-1", "before").await;
        let before = lab.node("db-1").await.resources;
        lab.lose_unseen("db-1").await;
        let own = interface(&lab).await;
        lab.region.with(|world, now_ms| world.delete_interface(now_ms, &own).unwrap());
        lab.start();
        lab.rest("db-1", 2).await;
        lab.check("db-1", &["before"]).await;
        let after = lab.node("db-1").await.resources;
        assert_eq!(after.address, before.address, "{network:?}");
        assert_ne!(after.interface, before.interface, "{network:?}: it is another one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_keeps_the_second_interface_or_takes_it() {
    for network in [true, false] {
        let mut lab = Lab::new(Settings::calm(7));
        let spec = lab.spec("db-1", NetworkMode::SecondaryEni, RootMode::None);
        lab.provision(&spec).await;
        let (own, address) = (interface(&lab).await, lab.node("db-1").await.resources.address);
        let keep = json!({ "root": false, "data": false, "network": network, "backups": false });
        lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
        lab.rest("db-1", 2).await;
        lab.check_without_instance("db-1").await;
        let is_there = lab.region.with(|world, _| world.interface(&own).is_some());
        assert_eq!(is_there, network);
        let left = lab.node("db-1").await.resources;
        assert_eq!(left.interface.map(|held| held.interface), network.then_some(own.clone()));
        if network {
            lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
            lab.rest("db-1", 3).await;
            lab.write("db-1", "again").await;
            lab.check("db-1", &["again"]).await;
            assert_eq!(interface(&lab).await, own, "it comes back with the name");
            assert_eq!(lab.node("db-1").await.resources.address, address);
        }
    }
}

/// The outage of a planned replacement is shorter than with a primary interface: the launch does not wait.
#[tokio::test(start_paused = true)]
async fn a_second_interface_costs_less_than_a_primary_one() {
    // Every seed draws its own latencies; over a hundred of them a launch that is waited for shows.
    let mut outages = Vec::new();
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni] {
        let mut sum_ms = 0;
        for seed in 0..100 {
            let mut lab = Lab::new(Settings::calm(seed));
            lab.provision(&lab.spec("db-1", network, RootMode::None)).await;
            moved(&mut lab, Way::Planned).await;
            let events = lab.operation_events("db-1.2").await;
            let told = story(&"db-1.2".to_owned().try_into().unwrap(), &events).unwrap();
            let outage = told.outage.expect("it was out for a while");
            sum_ms += outage.length_ms(0);
        }
        outages.push(sum_ms / 100);
    }
    assert!(outages[1] + 5_000 < outages[0], "{outages:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kept_interface_gets_the_groups_of_the_changed_file() {
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni] {
        let mut lab = Lab::new(Settings::calm(7));
        let [first, second] = ["first", "second"].map(|name| group(&lab, name));
        let mut spec = lab.spec("db-1", network, RootMode::Adopt);
        spec.security_groups = vec![first.clone()];
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        let own = interface(&lab).await;
        let groups = |lab: &Lab| lab.region.with(|world, _| world.interface(&own).unwrap().groups.clone());
        assert_eq!(groups(&lab), std::slice::from_ref(&first));
        spec.security_groups = vec![first, second];
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        lab.until("the change is answered", Duration::from_secs(60), async |lab| {
            lab.dispositions().await.iter().any(|disposition| disposition.contains("changed"))
        })
        .await;
        // The change is seen although the answer to the call is lost.
        lab.region.inject(Rule::next(Action::ModifyNetworkInterfaceAttribute, Fault::LostReply));
        moved(&mut lab, Way::Warned).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(groups(&lab), spec.security_groups, "{network:?}");
        assert_eq!(interface(&lab).await, own);
        // Nothing to change: nothing is asked for.
        let asked = |lab: &Lab| {
            let calls = lab.region.calls();
            calls.iter().filter(|call| call.action == Action::ModifyNetworkInterfaceAttribute).count()
        };
        let before = asked(&lab);
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        assert_eq!(asked(&lab), before, "{network:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_exist_is_stuck_before_anything_is_taken_away() {
    let mut lab = Lab::new(Settings::calm(7));
    let real = group(&lab, "real");
    let mut spec = lab.spec("db-1", NetworkMode::PrimaryEni, RootMode::None);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let old = lab.instance("db-1").await;
    spec.security_groups = vec![GroupId::parse("sg-0badbadbadbadbad0").unwrap()];
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    let why = lab.stuck("db-1.2").await;
    assert!(why.contains("InvalidGroup"), "{why}");
    assert_eq!(lab.instance("db-1").await, old);
    spec.security_groups = vec![real];
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2" })).await;
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before"]).await;
}

/// A pool of so many addresses of the nodes' subnet.
async fn declared(lab: &mut Lab, addresses: u8) {
    let subnet = lab.spec("any", NetworkMode::None, RootMode::None).subnet;
    let range = format!("172.31.0.100-172.31.0.{}", 99 + addresses);
    let spec = json!({
        "schema": "perennial.pool/v1", "name": "brokers", "subnet": subnet, "addresses": [range]
    });
    lab.submit_to_none("pool.apply", json!({ "spec": spec })).await;
    lab.until("the pool is declared", Duration::from_secs(60), async |lab| {
        let spec = lab.pool("brokers").await.spec;
        spec.map(|spec| spec.all().count()) == Some(usize::from(addresses))
    })
    .await;
}

fn pooled(lab: &Lab, name: &str, root: RootMode) -> NodeSpec {
    let mut spec = lab.spec(name, NetworkMode::IpPool, root);
    spec.network.ip_pool = Some(NodeName::parse("brokers").unwrap());
    spec
}

#[tokio::test(start_paused = true)]
async fn an_address_of_a_pool_comes_back_whichever_way_its_instance_goes() {
    for way in WAYS {
        let mut lab = Lab::new(Settings::calm(7));
        declared(&mut lab, 2).await;
        let spec = pooled(&lab, "db-1", RootMode::Adopt);
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        lab.check("db-1", &["before"]).await;
        let address = lab.node("db-1").await.resources.address;
        assert_eq!(address, Some("172.31.0.100".parse().unwrap()));
        moved(&mut lab, way).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(lab.node("db-1").await.resources.address, address, "{way:?}");
        assert_eq!(lab.pool("brokers").await.held.len(), 1);
    }
}

/// Three nodes at the same moment, two addresses: each of two has its own, the third waits for a person.
#[tokio::test(start_paused = true)]
async fn nodes_that_begin_at_the_same_moment_take_different_addresses() {
    let mut lab = Lab::new(Settings::calm(7));
    declared(&mut lab, 2).await;
    let names = ["a", "b", "c"];
    for name in names {
        let spec = pooled(&lab, name, RootMode::None);
        lab.submit("node.apply", name, json!({ "spec": spec })).await;
    }
    lab.until("two are in place, one is stuck", Duration::from_secs(600), async |lab| {
        let (mut placed, mut stuck) = (0, 0);
        for name in names {
            let node = lab.node(name).await;
            placed += usize::from(node.operations == 1 && node.open.is_none());
            stuck += usize::from(node.open.is_some() && lab.is_stuck(&format!("{name}.1")).await);
        }
        (placed, stuck) == (2, 1)
    })
    .await;
    let held = lab.pool("brokers").await.held;
    assert_eq!(held.len(), 2, "{held:?}");
    let mut waiting = String::new();
    for name in names {
        let node = lab.node(name).await;
        if node.open.is_some() {
            waiting = name.to_owned();
        } else {
            let address = node.resources.address.expect("it has one");
            assert_eq!(held.get(&address), Some(&NodeName::parse(name).unwrap()));
        }
    }
    // Another node's end gives an address back, and the resume takes it.
    let other = names.into_iter().find(|name| *name != waiting).unwrap();
    let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
    lab.submit("node.delete", other, json!({ "keep": keep })).await;
    lab.rest(other, 2).await;
    assert_eq!(lab.pool("brokers").await.held.len(), 1, "a deletion gives it back");
    lab.submit("workflow.resume", &waiting, json!({ "workflow": format!("{waiting}.1") })).await;
    lab.rest(&waiting, 1).await;
    let address = lab.node(&waiting).await.resources.address.expect("it has one now");
    assert_eq!(lab.pool("brokers").await.held.get(&address), Some(&NodeName::parse(&waiting).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn an_address_of_a_pool_that_a_stranger_has_is_stuck_and_then_passed_over() {
    let mut lab = Lab::new(Settings::calm(7));
    declared(&mut lab, 2).await;
    let spec = pooled(&lab, "db-1", RootMode::None);
    let stranger = InterfaceRequest {
        client_token: "stranger".into(),
        subnet: spec.subnet.clone(),
        groups: Vec::new(),
        private_ip: Some("172.31.0.100".parse().unwrap()),
        tags: Tags::new(),
    };
    lab.region.with(|world, now_ms| world.create_interface(now_ms, &stranger).unwrap());
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    let why = lab.stuck("db-1.1").await;
    assert!(why.contains("172.31.0.100 is held by"), "{why}");
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.1" })).await;
    lab.rest("db-1", 1).await;
    lab.write("db-1", "first").await;
    lab.check("db-1", &["first"]).await;
    assert_eq!(lab.node("db-1").await.resources.address, Some("172.31.0.101".parse().unwrap()));
    let pool = lab.pool("brokers").await;
    assert_eq!((pool.held.len(), pool.passed_over.len()), (1, 1));
}

/// A process that dies at any point of a provision and a deletion: the address is the node's once, and given back once.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_neither_loses_nor_doubles_an_address() {
    let run = async |k| {
        let mut settings = Settings::calm(5);
        settings.latencies.shutdown = Span::ms(6_000, 8_000);
        let mut lab = Lab::new(settings);
        declared(&mut lab, 1).await;
        let spec = pooled(&lab, "db-1", RootMode::None);
        lab.die_at(k);
        lab.provision(&spec).await;
        assert_eq!(lab.pool("brokers").await.held.len(), 1);
        let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
        lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.check_without_instance("db-1").await;
        assert_eq!(lab.pool("brokers").await.held.len(), 0, "at {k}");
        lab
    };
    Deaths::at_every_other_point(60).of(run).await;
}

/// The first address of a node is EC2's choice, another one with each call.
#[tokio::test(start_paused = true)]
async fn the_first_secondary_address_is_taken_once_although_it_is_shown_late_or_its_answer_is_lost() {
    let mut late = 0;
    for seed in 0..24 {
        let settings = Settings { stale_for: Span::ms(0, 8_000), ..Settings::calm(seed) };
        let mut lab = Lab::new(settings);
        let fault = [
            None,
            Some(Fault::LostReply),
            Some(Fault::LostRequest),
            Some(Fault::After("InternalError".into())),
        ][seed as usize % 4]
            .clone();
        if let Some(fault) = fault {
            lab.region.inject(Rule::next(Action::AssignPrivateIpAddresses, fault));
        }
        let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::None);
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        lab.rest("db-1", 1).await;
        let node = lab.node("db-1").await;
        let interface = node.resources.carrier.unwrap().interface;
        let held = lab.region.with(|world, _| world.interface(&interface).unwrap().secondary_ips.clone());
        assert_eq!(held, [node.resources.address.unwrap()], "seed {seed}\n{}", lab.story().await);
        late += usize::from(
            lab.region.calls().iter().filter(|call| call.action == Action::AssignPrivateIpAddresses).count()
                > 1,
        );
    }
    assert!(late > 0, "no call was repeated");
}
