//! Whole replacements in virtual time: every mode, every way to lose an instance.

mod lab;

use std::time::Duration;

use lab::Lab;
use perennial_sim::faults::{Fault, Rule};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::Settings;
use perennial_workers::classify::Action;
use perennial_workflows::spec::{NetworkMode, RootMode};

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
            let old = lab.instance("db-1").await;
            lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
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
        let old = lab.instance("db-1").await;
        lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
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
    let letters = lab.fates().await;
    let about_it: Vec<_> = letters.iter().filter(|body| body.contains("foreign")).collect();
    assert!(about_it.is_empty(), "{instance}: {about_it:?}");
    assert!(letters.len() > 1, "its events were heard: {letters:?}");
}
