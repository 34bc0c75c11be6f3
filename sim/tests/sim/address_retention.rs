//! The address that moves is never free: somebody asks for it five times a second, from before the loss until long after, and
//! never gets it.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Seen;
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::Settings;
use perennial_workers::port::error::Action;
use perennial_workers::port::{InterfaceRequest, Tags};
use perennial_workflows::model::aws::InterfaceId;
use perennial_workflows::spec::node::{Handover, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

/// How a node loses its instance.
#[derive(Debug, Clone, Copy)]
enum Way {
    Planned,
    Warned,
    WarnedLate,
    Unannounced,
    Unseen,
}

const WAYS: [Way; 5] = [Way::Planned, Way::Warned, Way::WarnedLate, Way::Unannounced, Way::Unseen];

const MODES: [NetworkMode; 2] = [NetworkMode::SecondaryIp, NetworkMode::IpPool];

async fn prepared(settings: Settings, network: NetworkMode, handover: Handover) -> (Lab, NodeSpec) {
    Lab::provisioned(settings, network, RootMode::Adopt, |lab, spec| {
        spec.persist.handover = handover;
        spec.network.elastic_ip = Some(lab.elastic());
    })
    .await
}

async fn address(lab: &Lab) -> Ipv4Addr {
    lab.node("db-1").await.resources.address.expect("it has an address")
}

/// Somebody asks for an address.
fn ask(lab: &Lab, spec: &NodeSpec, address: Ipv4Addr) -> Result<InterfaceId, String> {
    lab.region.with(|world, now_ms| {
        let request = InterfaceRequest {
            client_token: format!("somebody-{now_ms}"),
            subnet: spec.subnet.clone(),
            groups: Vec::new(),
            private_ip: Some(address),
            tags: Tags::new(),
        };
        world.create_interface(now_ms, &request).map_err(|error| error.code)
    })
}

/// Asks until so many operations are over, and two minutes longer; the answers that were not "in use".
async fn asked_until(
    lab: &mut Lab,
    spec: &NodeSpec,
    wanted: Ipv4Addr,
    operations: u64,
) -> Vec<Result<InterfaceId, String>> {
    let mut others = Vec::new();
    let mut after = 0;
    for _ in 0..6_000 {
        lab.clock.sleep(Duration::from_millis(200)).await;
        others.push(ask(lab, spec, wanted));
        others.retain(|answer| answer.as_ref().err().is_none_or(|code| code != "InvalidIPAddress.InUse"));
        let node = lab.node("db-1").await;
        after += u32::from(node.operations >= operations && node.open.is_none());
        if after > 600 || !others.is_empty() {
            return others;
        }
    }
    panic!("{operations} operations are not over\n{}", lab.story().await);
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_the_address_between_two_instances() {
    for network in MODES {
        for (handover, way) in
            WAYS.map(|way| (Handover::Terminate, way)).into_iter().chain([(Handover::Detach, Way::Warned)])
        {
            let (mut lab, spec) = prepared(Settings::calm(7), network, handover).await;
            let (old, before) = (lab.instance("db-1").await, lab.node("db-1").await.resources);
            let wanted = address(&lab).await;
            if handover == Handover::Detach {
                let volume = lab.volume("db-1", "data").await;
                lab.region.with(|world, now_ms| world.unmount(now_ms, &old, &volume).unwrap());
            }
            match way {
                Way::Planned => {
                    lab.submit("node.replace", "db-1", json!({})).await;
                }
                Way::Warned => {
                    lab.region
                        .with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
                }
                Way::WarnedLate => {
                    let notice = Notice { lead: Duration::from_secs(5), ..Notice::default() };
                    lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, notice).unwrap());
                }
                Way::Unannounced => lab.region.with(|world, now_ms| world.reclaim_now(now_ms, &old).unwrap()),
                Way::Unseen => {
                    lab.lose_unseen("db-1").await;
                    lab.clock.sleep(Duration::from_secs(300)).await;
                    assert_eq!(
                        ask(&lab, &spec, wanted),
                        Err("InvalidIPAddress.InUse".to_owned()),
                        "{network:?}"
                    );
                    lab.start();
                }
            }
            let others = asked_until(&mut lab, &spec, wanted, 2).await;
            assert_eq!(others, [], "{network:?} {handover:?} {way:?}\n{}", lab.story().await);
            lab.check("db-1", &["before"]).await;
            let after = lab.node("db-1").await.resources;
            assert_ne!(lab.instance("db-1").await, old, "{network:?} {way:?}");
            assert_eq!(
                (after.address, after.elastic),
                (before.address, before.elastic),
                "{network:?} {way:?}"
            );
            assert_eq!(after.orphans, [], "{network:?} {way:?}");
            let gone = before.carrier.unwrap().interface;
            lab.region.with(|world, _| {
                assert!(world.interface(&gone).is_none(), "{network:?} {way:?}: {gone} is left");
            });
        }
    }
}

/// The candidates that are lost with the address on them, too.
#[tokio::test(start_paused = true)]
async fn nobody_gets_the_address_while_new_instances_are_lost() {
    let mut lost = Seen::at_least(30, "new instances that were lost");
    for tenths in (0..320).step_by(8) {
        let (mut lab, spec) =
            prepared(Settings::calm(7), NetworkMode::SecondaryIp, Handover::Terminate).await;
        let (old, wanted) = (lab.instance("db-1").await, address(&lab).await);
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_millis(45_000 + tenths * 100)).await;
        let new = lab.region.with(|world, now_ms| {
            let live = world.instances_of("db-1").into_iter().map(|instance| instance.id.clone());
            let new: Vec<_> = live.filter(|instance| *instance != old).collect();
            for instance in &new {
                world.interrupt(now_ms, instance, Notice::default()).unwrap();
            }
            new.len()
        });
        lost.times(new);
        let others = asked_until(&mut lab, &spec, wanted, 2).await;
        assert_eq!(others, [], "after {tenths} tenths, {new} new\n{}", lab.story().await);
        lab.clock.sleep(Duration::from_secs(600)).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(address(&lab).await, wanted);
        assert_eq!(lab.node("db-1").await.resources.orphans, [], "after {tenths} tenths");
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_keeps_its_address() {
    for network in MODES {
        let (mut lab, spec) = prepared(Settings::calm(7), network, Handover::Terminate).await;
        let before = lab.node("db-1").await.resources;
        let wanted = address(&lab).await;
        lab.submit("node.pause", "db-1", json!({})).await;
        assert_eq!(asked_until(&mut lab, &spec, wanted, 2).await, [], "{network:?}: paused");
        lab.check_without_instance("db-1").await;
        let paused = lab.node("db-1").await.resources;
        assert_eq!(paused.address_interface, before.carrier.map(|carrier| carrier.interface));
        // A resume that is cancelled leaves the node as it was.
        lab.submit("node.resume", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_secs(4)).await;
        lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.3" })).await;
        assert_eq!(asked_until(&mut lab, &spec, wanted, 3).await, [], "{network:?}: cancelled");
        lab.check_without_instance("db-1").await;
        assert_eq!(lab.node("db-1").await.resources.address_interface, paused.address_interface);
        lab.submit("node.resume", "db-1", json!({})).await;
        assert_eq!(asked_until(&mut lab, &spec, wanted, 4).await, [], "{network:?}: resumed");
        lab.check("db-1", &["before"]).await;
        let after = lab.node("db-1").await.resources;
        assert_eq!((after.address, after.address_interface), (Some(wanted), None));
        let gone = paused.address_interface.unwrap();
        lab.region.with(|world, _| assert!(world.interface(&gone).is_none(), "{gone} is left"));
    }
}

/// A resume that is cancelled at any moment, even after the address has moved to its instance.
#[tokio::test(start_paused = true)]
async fn a_resume_that_is_cancelled_at_any_moment_loses_no_address() {
    let mut cancelled = Seen::at_least(4, "resumes that were undone");
    let mut resumed = Seen::at_least(4, "resumes past the point of no return");
    for tenths in (20..700).step_by(20) {
        let (mut lab, spec) =
            prepared(Settings::calm(7), NetworkMode::SecondaryIp, Handover::Terminate).await;
        let wanted = address(&lab).await;
        lab.submit("node.pause", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.submit("node.resume", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_millis(tenths * 100)).await;
        lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.3" })).await;
        assert_eq!(
            asked_until(&mut lab, &spec, wanted, 3).await,
            [],
            "after {tenths} tenths\n{}",
            lab.story().await
        );
        if lab.node("db-1").await.resources.carrier.is_some() {
            resumed.when(true);
            lab.check("db-1", &["before"]).await;
        } else {
            cancelled.when(true);
            lab.check_without_instance("db-1").await;
            lab.submit("node.resume", "db-1", json!({})).await;
            lab.rest("db-1", 4).await;
            lab.check("db-1", &["before"]).await;
        }
        assert_eq!(address(&lab).await, wanted, "after {tenths} tenths");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_leaves_no_interface_behind() {
    for network in MODES {
        for paused in [false, true] {
            let (mut lab, spec) = prepared(Settings::calm(7), network, Handover::Terminate).await;
            let wanted = address(&lab).await;
            if paused {
                lab.submit("node.pause", "db-1", json!({})).await;
                lab.rest("db-1", 2).await;
            }
            lab.submit(
                "node.delete",
                "db-1",
                json!({ "keep": { "root": false, "data": false, "network": false, "backups": false } }),
            )
            .await;
            lab.rest("db-1", if paused { 3 } else { 2 }).await;
            lab.check_without_instance("db-1").await;
            assert_eq!(lab.node("db-1").await.resources.address_interface, None);
            assert!(
                ask(&lab, &spec, wanted).is_ok(),
                "{network:?}, paused: {paused}: it belongs to the subnet again"
            );
        }
    }
}

/// A pause in the middle of a replacement, while capacity is awaited and the old instance is gone.
#[tokio::test(start_paused = true)]
async fn a_pause_in_the_middle_of_a_replacement_keeps_the_address() {
    let mut in_the_middle = Seen::at_least(3, "pauses in the middle of a replacement");
    for seconds in [5, 40, 50, 60, 70, 80] {
        let (mut lab, spec) =
            prepared(Settings::calm(7), NetworkMode::SecondaryIp, Handover::Terminate).await;
        let (old, wanted) = (lab.instance("db-1").await, address(&lab).await);
        lab.region.with(|world, now_ms| world.reclaim_now(now_ms, &old).unwrap());
        lab.clock.sleep(Duration::from_secs(seconds)).await;
        in_the_middle.when(lab.node("db-1").await.open.is_some());
        lab.submit("node.pause", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_secs(5)).await;
        let operations = lab.node("db-1").await.operations;
        assert_eq!(
            asked_until(&mut lab, &spec, wanted, operations).await,
            [],
            "after {seconds} s\n{}",
            lab.story().await
        );
        lab.check_without_instance("db-1").await;
        lab.submit("node.resume", "db-1", json!({})).await;
        assert_eq!(asked_until(&mut lab, &spec, wanted, operations + 1).await, [], "after {seconds} s");
        lab.check("db-1", &["before"]).await;
        assert_eq!(address(&lab).await, wanted);
    }
}

/// Where EC2 does not let the interface outlive its instance, the address is free for a while, and the node comes back all the same.
#[tokio::test(start_paused = true)]
async fn an_interface_that_may_not_stay_holds_nothing_up() {
    for network in MODES {
        let (mut lab, _) = prepared(Settings::calm(7), network, Handover::Terminate).await;
        let wanted = address(&lab).await;
        lab.region.inject(Rule {
            target: Target::Only(Action::ModifyNetworkInterfaceAttribute),
            when: When::Always,
            fault: Fault::Before("UnauthorizedOperation".into()),
        });
        // To an instance whose interface dies with it.
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        let second = lab.instance("db-1").await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.clock.sleep(Duration::from_secs(120)).await;
        lab.check("db-1", &["before"]).await;
        assert_ne!(lab.instance("db-1").await, second);
        assert_eq!(address(&lab).await, wanted);
        assert_eq!(lab.node("db-1").await.resources.orphans, []);
    }
}
