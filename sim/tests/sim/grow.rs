//! Data volumes grow from the node file, while the node runs.

use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Deaths;
use perennial_sim::world::Notice;
use perennial_sim::world::settings::Settings;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode};
use serde_json::json;

async fn provisioned() -> (Lab, NodeSpec) {
    Lab::provisioned(Settings::calm(7), NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await
}

async fn apply(lab: &mut Lab, spec: &NodeSpec, size_gib: u32) {
    let mut spec = spec.clone();
    spec.data_volumes[0].size_gib = size_gib;
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
}

async fn size(lab: &Lab) -> u32 {
    let volume = lab.volume("db-1", "data").await;
    lab.region.with(|world, _| world.volume(&volume).unwrap().size_gib)
}

#[tokio::test(start_paused = true)]
async fn a_larger_size_is_applied_to_the_running_node() {
    let (mut lab, spec) = provisioned().await;
    let instance = lab.instance("db-1").await;
    apply(&mut lab, &spec, 20).await;
    lab.rest("db-1", 2).await;
    assert_eq!((size(&lab).await, lab.instance("db-1").await), (20, instance));
    assert_eq!(lab.node("db-1").await.generation, 1, "the same instance carries it");
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_smaller_size_is_refused_with_what_to_do() {
    let (mut lab, spec) = provisioned().await;
    apply(&mut lab, &spec, 9).await;
    lab.clock.sleep(Duration::from_secs(30)).await;
    let dispositions = lab.dispositions().await.join(" ");
    assert!(dispositions.contains("a volume can only grow; it has 10 GiB"), "{dispositions}");
    assert_eq!((size(&lab).await, lab.node("db-1").await.operations), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_does_not_wait_for_a_volume_that_grows() {
    let (mut lab, spec) = provisioned().await;
    let old = lab.instance("db-1").await;
    apply(&mut lab, &spec, 20).await;
    lab.clock.sleep(Duration::from_millis(700)).await;
    lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
    lab.rest("db-1", 3).await;
    lab.clock.sleep(Duration::from_secs(300)).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(size(&lab).await, 20);
    assert_ne!(lab.instance("db-1").await, old);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_is_applied_during_a_replacement_is_reached_after_it() {
    let (mut lab, spec) = provisioned().await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(5)).await;
    apply(&mut lab, &spec, 20).await;
    lab.rest("db-1", 3).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(size(&lab).await, 20);
    let cause = lab.operation("db-1.3").await.order.cause.to_string();
    assert_eq!(cause, "the node file was changed by lab", "it is not the replacement's");
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_growth() {
    let run = async |k| {
        let (mut lab, spec) = provisioned().await;
        lab.die_at(k);
        apply(&mut lab, &spec, 20).await;
        lab.rest("db-1", 2).await;
        lab.disarm();
        assert_eq!(size(&lab).await, 20);
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.check("db-1", &["before"]).await;
        lab
    };
    Deaths::at_every_point(6).of(run).await;
}
