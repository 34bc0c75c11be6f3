//! Whole replacements in virtual time: every mode, every way to lose an instance.

use std::time::Duration;

use crate::lab::Lab;
use perennial_engine::queue::{Outgoing, Queue as _};
use perennial_sim::faults::{Fault, Rule};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::Settings;
use perennial_workers::port::error::Action;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::spec::node::{Handover, NetworkMode, RootMode};
use perennial_workflows::step::intent::Intent;

const NETWORKS: [NetworkMode; 4] =
    [NetworkMode::PrimaryEni, NetworkMode::SecondaryIp, NetworkMode::SecondaryEni, NetworkMode::None];
const ROOTS: [RootMode; 3] = [RootMode::Adopt, RootMode::Image, RootMode::None];

#[tokio::test(start_paused = true)]
async fn every_mode_survives_an_announced_interruption() {
    for network in NETWORKS {
        for root in ROOTS {
            let mut lab = Lab::new(Settings::calm(7));
            lab.provision(&lab.spec("db-1", network, root)).await;
            lab.write("db-1", "before").await;
            lab.check("db-1", &["before"]).await;
            let before = lab.node("db-1").await;
            let old = lab.warn("db-1").await;
            lab.rest("db-1", 2).await;
            let after = lab.node("db-1").await;
            assert_ne!(lab.instance("db-1").await, old);
            assert_eq!(after.resources.address, before.resources.address, "{network:?} {root:?}");
            assert_eq!(after.generation, 2);
            if root == RootMode::Image {
                assert_eq!(after.resources.retained.len(), 1);
            } else {
                assert_eq!(after.resources.volumes, before.resources.volumes, "{network:?} {root:?}");
            }
            lab.clock.sleep(Duration::from_secs(300)).await;
            lab.check("db-1", &["before"]).await;
            assert_eq!(lab.node("db-1").await.operations, 2, "one operation for one interruption");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_elastic_ip_leads_to_whatever_instance_carries_the_node() {
    for network in NETWORKS {
        let mut lab = Lab::new(Settings::calm(7));
        let mut spec = lab.spec("db-1", network, RootMode::Adopt);
        spec.network.elastic_ip = Some(lab.elastic());
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        lab.check("db-1", &["before"]).await;
        let before = lab.node("db-1").await.resources.elastic.expect("it leads to the node");
        lab.warn("db-1").await;
        lab.rest("db-1", 2).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(lab.node("db-1").await.resources.elastic, Some(before), "{network:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_installations_may_name_a_node_alike() {
    let mut one = Lab::new(Settings::calm(7));
    let mut other = one.neighbour("other");
    for lab in [&mut one, &mut other] {
        let spec = lab.spec("db-1", NetworkMode::None, RootMode::Image);
        lab.provision(&spec).await;
        lab.submit("node.replace", "db-1", serde_json::json!({})).await;
    }
    one.rest("db-1", 2).await;
    other.rest("db-1", 2).await;
    let images =
        [one.node("db-1").await.resources.root_images, other.node("db-1").await.resources.root_images];
    assert_eq!((images[0].len(), images[1].len()), (1, 1));
    assert_ne!(images[0], images[1], "each has its own image of its own root");
}

#[tokio::test(start_paused = true)]
async fn the_first_events_of_an_own_instance_are_not_foreign() {
    let mut lab = Lab::new(Settings::calm(7));
    // The answer to the launch is lost: the event is there first.
    lab.region.inject(Rule::next(Action::RunInstances, Fault::LostReply));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    let instance = lab.instance("db-1").await;
    let letters = lab.dispositions().await;
    let about_it: Vec<_> = letters.iter().filter(|body| body.contains("foreign")).collect();
    assert!(about_it.is_empty(), "{instance}: {about_it:?}");
    assert!(letters.len() > 1, "its events were heard: {letters:?}");
}

/// The steps that a replacement has left out whose notice came so many seconds before the end, and whether it detached anything live.
async fn left_out(lead_s: u64, network: NetworkMode) -> (Vec<String>, bool) {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = lab.spec("db-1", network, RootMode::Adopt);
    spec.persist.handover = Handover::Detach;
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let old = lab.instance("db-1").await;
    // Its warning is two minutes before the end by its own time, and was long on its way.
    let notice = Notice { lead: Duration::from_secs(lead_s), with_event: false, ..Notice::default() };
    let sent_ms = lab.clock.now_ms() - (120 - lead_s) * 1_000;
    let sent = jiff::Timestamp::from_millisecond(sent_ms.try_into().unwrap()).unwrap();
    let warning = serde_json::json!({
        "version": "0", "id": "late", "detail-type": "EC2 Spot Instance Interruption Warning", "source": "aws.ec2",
        "account": "111122223333", "time": sent.to_string(), "region": "us-east-1", "resources": [],
        "detail": { "instance-id": old, "instance-action": "terminate" }
    });
    lab.interruptions.send(vec![Outgoing::now(warning.to_string())]).await.unwrap();
    lab.region.with(|world, now_ms| {
        world.interrupt(now_ms, &old, notice).unwrap();
        let data = world.instance(&old).unwrap().volumes.iter().last().cloned().unwrap();
        world.unmount(now_ms, &old, &data).unwrap();
    });
    lab.rest("db-1", 2).await;
    lab.clock.sleep(Duration::from_secs(300)).await;
    lab.check("db-1", &["before"]).await;
    let events = lab.operation_events("db-1.2").await;
    let mut dropped = Vec::new();
    for (_, event) in &events {
        if let OperationEvent::Dropped { steps, because } = event {
            assert!(because.contains(old.as_str()), "{because}");
            dropped.extend(steps.iter().map(ToString::to_string));
        }
    }
    let detached = events.iter().any(|(_, event)| {
        matches!(event, OperationEvent::StepIntended { intent, .. }
            if matches!(intent, Intent::Detach(_) | Intent::DetachInterface(_)))
    });
    (dropped, detached)
}

/// A notice that came late leaves out what only makes the outage shorter, and the journal says so.
#[tokio::test(start_paused = true)]
async fn a_short_notice_leaves_out_the_live_handover_and_says_so() {
    for network in [NetworkMode::SecondaryIp, NetworkMode::SecondaryEni, NetworkMode::None] {
        assert_eq!(left_out(120, network).await, (vec![], true), "{network:?}");
        let (dropped, detached) = left_out(22, network).await;
        assert_eq!(dropped[0], "detach:data", "{network:?}");
        assert!(!detached, "{network:?}");
    }
}
