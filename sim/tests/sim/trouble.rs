//! What others do to a node's things, and what AWS refuses: each ends in a right state, or stuck with what to do.

use std::time::Duration;

use crate::lab::Lab;
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::settings::Settings;
use perennial_workers::port::error::Action;
use perennial_workers::port::{Cloud as _, InterfaceRequest, Tags, Taking};
use perennial_workflows::model::aws::{InstanceState, InterfaceId};
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode};
use serde_json::json;

async fn provisioned(network: NetworkMode) -> (Lab, NodeSpec) {
    Lab::provisioned(Settings::calm(7), network, RootMode::Adopt, |_, _| {}).await
}

/// An interface of somebody else's in the node's subnet.
fn stranger(lab: &Lab, spec: &NodeSpec, private_ip: Option<std::net::Ipv4Addr>) -> InterfaceId {
    lab.region.with(|world, now_ms| {
        let request = InterfaceRequest {
            client_token: "stranger".into(),
            subnet: spec.subnet.clone(),
            groups: Vec::new(),
            private_ip,
            tags: Tags::new(),
        };
        world.create_interface(now_ms, &request).unwrap()
    })
}

async fn resume(lab: &mut Lab, workflow: &str) {
    lab.submit("workflow.resume", "db-1", json!({ "workflow": workflow })).await;
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_was_deleted_by_hand_is_made_anew_with_its_address() {
    let (mut lab, _) = provisioned(NetworkMode::PrimaryEni).await;
    let before = lab.node("db-1").await.resources;
    lab.lose_unseen("db-1").await;
    let interface = before.interface.clone().unwrap().interface;
    lab.region.with(|world, now_ms| world.delete_interface(now_ms, &interface).unwrap());
    lab.start();
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before"]).await;
    let after = lab.node("db-1").await.resources;
    assert_eq!(after.address, before.address);
    assert_ne!(after.interface.unwrap().interface, interface);
}

#[tokio::test(start_paused = true)]
async fn an_interface_whose_address_went_to_a_stranger_is_stuck_until_it_is_free() {
    let (mut lab, spec) = provisioned(NetworkMode::PrimaryEni).await;
    let before = lab.node("db-1").await.resources;
    lab.lose_unseen("db-1").await;
    let interface = before.interface.clone().unwrap().interface;
    lab.region.with(|world, now_ms| world.delete_interface(now_ms, &interface).unwrap());
    let stranger = stranger(&lab, &spec, before.address);
    lab.start();
    let why = lab.stuck("db-1.2").await;
    assert!(why.contains(&format!("is held by {stranger}")), "{why}");
    assert!(why.contains("perennial workflow resume db-1.2"), "{why}");
    lab.region.with(|world, now_ms| world.delete_interface(now_ms, &stranger).unwrap());
    resume(&mut lab, "db-1.2").await;
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(lab.node("db-1").await.resources.address, before.address);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_takes_what_is_gone_already_as_gone() {
    let (mut lab, _) = provisioned(NetworkMode::PrimaryEni).await;
    let before = lab.node("db-1").await.resources;
    lab.lose_unseen("db-1").await;
    lab.region.with(|world, now_ms| {
        world.delete_interface(now_ms, &before.interface.clone().unwrap().interface).unwrap();
        for held in before.volumes.values() {
            world.delete_volume(now_ms, &held.volume).unwrap();
        }
    });
    let keep = json!({ "root": true, "data": true, "network": true, "backups": true });
    lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
    lab.start();
    lab.rest("db-1", 2).await;
    let after = lab.node("db-1").await;
    assert!(after.deleted);
    assert_eq!((after.resources.interface, after.resources.volumes.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_a_stranger_has_is_not_taken_from_them() {
    let (mut lab, spec) = provisioned(NetworkMode::SecondaryIp).await;
    let before = lab.node("db-1").await.resources;
    let address = before.address;
    lab.lose_unseen("db-1").await;
    let stranger = stranger(&lab, &spec, None);
    let refused = lab.region.assign_private_ip(&stranger, address, Taking::Unheld).await.unwrap_err();
    assert!(refused.message.contains("move is not allowed"), "the old interface keeps it: {refused}");
    // Somebody deletes that by hand.
    let keeper = before.carrier.unwrap().interface;
    lab.region.with(|world, now_ms| world.delete_interface(now_ms, &keeper).unwrap());
    lab.region.assign_private_ip(&stranger, address, Taking::Unheld).await.unwrap();
    lab.clock.sleep(Duration::from_secs(10)).await;
    lab.start();
    let why = lab.stuck("db-1.2").await;
    assert!(why.contains(&format!("is held by {stranger}")), "{why}");
    let held = lab.region.with(|world, _| world.interface_view(&stranger).unwrap().secondary_ips);
    assert_eq!(held, [address.unwrap()], "it is still theirs");
    lab.region.with(|world, now_ms| world.unassign_private_ip(now_ms, &stranger, address.unwrap()).unwrap());
    resume(&mut lab, "db-1.2").await;
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(lab.node("db-1").await.resources.address, address);
}

#[tokio::test(start_paused = true)]
async fn an_elastic_ip_that_leads_to_a_stranger_is_not_taken_from_them() {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    let elastic = lab.elastic();
    spec.network.elastic_ip = Some(elastic.clone());
    let stranger = stranger(&lab, &spec, None);
    lab.region.associate_address(&elastic, &stranger, None, Taking::Unheld).await.unwrap();
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    let why = lab.stuck("db-1.1").await;
    assert!(why.contains(&format!("is held by {stranger}")), "{why}");
    lab.region.with(|world, now_ms| {
        let association = world.known_elastic(elastic.as_str()).unwrap().association.clone().unwrap();
        world.disassociate_address(now_ms, &association.id).unwrap();
    });
    resume(&mut lab, "db-1.1").await;
    lab.rest("db-1", 1).await;
    lab.check("db-1", &[]).await;
    assert!(lab.node("db-1").await.resources.elastic.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_clean_up_that_is_refused_is_left_over_and_done_by_the_next_operation() {
    let (mut lab, _) = provisioned(NetworkMode::SecondaryIp).await;
    lab.region.inject(Rule {
        target: Target::Only(Action::DeleteVolume),
        when: When::Always,
        fault: Fault::Before("UnauthorizedOperation".into()),
    });
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let left = lab.node("db-1").await.resources.orphans;
    assert_eq!(left.len(), 1, "the temporary root: {left:?}");
    assert!(left[0].because.contains("UnauthorizedOperation"), "{left:?}");
    lab.check("db-1", &["before"]).await;

    lab.region.clear_faults();
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 3).await;
    assert_eq!(lab.node("db-1").await.resources.orphans, []);
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_clean_up_that_hangs_does_not_hold_the_node_for_long() {
    let mut lab = Lab::new(Settings::calm(7));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Image);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    for operations in 2..=3 {
        if operations == 3 {
            for action in [Action::DeregisterImage, Action::DeleteSnapshot] {
                let fault = Fault::Before("RequestLimitExceeded".into());
                lab.region.inject(Rule { target: Target::Only(action), when: When::Always, fault });
            }
        }
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", operations).await;
    }
    let images = lab.node("db-1").await.resources.root_images.len();
    assert_eq!(images, 2, "the superseded image is still listed");
    lab.region.clear_faults();
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 4).await;
    assert_eq!(lab.node("db-1").await.resources.root_images.len(), 1);
    lab.check("db-1", &["before"]).await;
}

/// Whether a root is being replaced: throttled, it is asked until it is answered; an endpoint without an answer is gone without.
#[tokio::test(start_paused = true)]
async fn nothing_is_terminated_while_the_question_about_root_replacements_is_only_throttled() {
    let throttled = Fault::Before("RequestLimitExceeded".into());
    let without =
        [Fault::LostReply, Fault::Before("InvalidAction".into()), Fault::Before("InternalError".into())];
    for fault in std::iter::once(throttled.clone()).chain(without) {
        let (mut lab, _) = provisioned(NetworkMode::SecondaryIp).await;
        let old = lab.instance("db-1").await;
        lab.region.inject(Rule {
            target: Target::Only(Action::DescribeReplaceRootVolumeTasks),
            when: When::Always,
            fault: fault.clone(),
        });
        lab.submit("node.replace", "db-1", json!({})).await;
        if fault == throttled {
            lab.clock.sleep(Duration::from_secs(120)).await;
            let state = lab.region.with(|world, _| world.instance(&old).unwrap().state);
            assert_eq!(state, InstanceState::Running, "{fault:?}");
            lab.region.clear_faults();
        }
        lab.rest("db-1", 2).await;
        lab.check("db-1", &["before"]).await;
    }
}
