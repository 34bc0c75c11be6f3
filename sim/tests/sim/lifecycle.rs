//! A node that is paused, resumed, recycled onto another image, or deleted, at rest and in the middle of something else.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::{quick, slot};
use crate::sweep::{Deaths, Seen};
use perennial_sim::world::settings::Capacity;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

const ROOTS: [RootMode; 3] = [RootMode::Adopt, RootMode::Image, RootMode::None];
const NETWORKS: [NetworkMode; 4] =
    [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni, NetworkMode::SecondaryIp, NetworkMode::None];

async fn provisioned(network: NetworkMode, root: RootMode) -> (Lab, NodeSpec) {
    Lab::provisioned(quick(7), network, root, |_, _| {}).await
}

fn data(node: &Node) -> String {
    node.resources.volumes[&slot("data")].volume.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_comes_back_whole_in_every_mode() {
    for root in ROOTS {
        for network in NETWORKS {
            let (mut lab, _) = provisioned(network, root).await;
            let before = lab.node("db-1").await;
            lab.submit("node.pause", "db-1", json!({ "reason": "the weekend" })).await;
            lab.rest("db-1", 2).await;
            assert!(lab.node("db-1").await.is_paused(), "{root:?} {network:?}");
            lab.clock.sleep(Duration::from_secs(4_000)).await;
            lab.check_without_instance("db-1").await;
            assert_eq!(lab.node("db-1").await.operations, 2, "nobody brings it back unasked");
            lab.submit("node.pause", "db-1", json!({})).await;
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.clock.sleep(Duration::from_secs(10)).await;
            let dispositions = lab.dispositions().await.join(" ");
            assert!(dispositions.contains("node db-1 is paused already"), "{dispositions}");
            assert!(dispositions.contains("perennial node resume db-1"), "{dispositions}");
            lab.submit("node.resume", "db-1", json!({})).await;
            lab.rest("db-1", 3).await;
            lab.clock.sleep(Duration::from_secs(200)).await;
            lab.check("db-1", &["before"]).await;
            let after = lab.node("db-1").await;
            assert_eq!(after.generation, 2);
            assert_eq!(after.resources.address, before.resources.address, "{root:?} {network:?}");
            assert_eq!(data(&after), data(&before));
            // Again: images of the root do not pile up.
            lab.submit("node.pause", "db-1", json!({})).await;
            lab.rest("db-1", 4).await;
            lab.submit("node.resume", "db-1", json!({})).await;
            lab.rest("db-1", 5).await;
            lab.clock.sleep(Duration::from_secs(200)).await;
            lab.check("db-1", &["before"]).await;
            let images = lab.node("db-1").await.resources.root_images.len();
            assert_eq!(images, usize::from(root == RootMode::Image), "{root:?} {network:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_does_not_wait_for_capacity_that_never_comes() {
    for network in NETWORKS {
        let (mut lab, spec) = provisioned(network, RootMode::Adopt).await;
        lab.set_capacity(&spec, 0, Capacity::Unsupported);
        lab.reclaim("db-1").await;
        lab.clock.sleep(Duration::from_secs(3_600)).await;
        assert!(lab.node("db-1").await.open.is_some(), "it waits for capacity");
        lab.submit("node.pause", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.check_without_instance("db-1").await;
        assert!(lab.node("db-1").await.is_paused(), "{network:?}\n{}", lab.story().await);
        lab.set_capacity(&spec, 0, Capacity::Unlimited);
        lab.submit("node.resume", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.clock.sleep(Duration::from_secs(200)).await;
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_in_the_middle_of_a_replacement_follows_at_once() {
    let mut in_the_middle = Seen::at_least(12, "deletions in the middle of a replacement");
    for network in NETWORKS {
        for seconds in [1, 6, 14, 30] {
            let (mut lab, _) = provisioned(network, RootMode::Adopt).await;
            lab.reclaim("db-1").await;
            lab.clock.sleep(Duration::from_secs(seconds)).await;
            in_the_middle.when(lab.node("db-1").await.open.is_some());
            let keep = json!({ "root": false, "data": true, "network": false, "backups": false });
            lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
            lab.until("it is deleted", Duration::from_secs(3_600), async |lab| {
                let node = lab.node("db-1").await;
                node.deleted && node.open.is_none()
            })
            .await;
            let node = lab.node("db-1").await;
            lab.check_without_instance("db-1").await;
            let deletion = lab.operation(&format!("db-1.{}", node.operations)).await;
            assert!(
                deletion.order.cause.to_string().starts_with("asked for by lab"),
                "{}",
                deletion.order.cause
            );
            let left: Vec<String> = node.resources.volumes.keys().map(ToString::to_string).collect();
            assert_eq!(left, ["data"], "{network:?} after {seconds} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_at_any_second_of_a_replacement_loses_nothing() {
    let mut in_the_middle = Seen::at_least(40, "pauses in the middle of a replacement");
    let mut afterwards = Seen::at_least(40, "pauses after it");
    for (network, data) in [
        (NetworkMode::PrimaryEni, DataMode::Reattach),
        (NetworkMode::SecondaryEni, DataMode::Reattach),
        (NetworkMode::SecondaryIp, DataMode::Snapshot),
    ] {
        for root in ROOTS {
            for tenths in (0..600).step_by(35) {
                let (mut lab, mut spec) = provisioned(network, root).await;
                spec.persist.data = data;
                lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
                lab.clock.sleep(Duration::from_secs(1)).await;
                lab.submit("node.replace", "db-1", json!({})).await;
                lab.clock.sleep(Duration::from_millis(tenths * 100)).await;
                let is_open = lab.node("db-1").await.open.is_some();
                in_the_middle.when(is_open);
                afterwards.when(!is_open && tenths > 0);
                lab.submit("node.pause", "db-1", json!({})).await;
                lab.until("it is paused", Duration::from_secs(3_600), async |lab| {
                    lab.node("db-1").await.is_paused()
                })
                .await;
                lab.check_without_instance("db-1").await;
                let operations = lab.node("db-1").await.operations;
                lab.submit("node.resume", "db-1", json!({})).await;
                lab.rest("db-1", operations + 1).await;
                lab.clock.sleep(Duration::from_secs(400)).await;
                lab.check("db-1", &["before"]).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_image_is_a_declared_operation() {
    for network in NETWORKS {
        let (mut lab, mut spec) = provisioned(network, RootMode::Adopt).await;
        let before = lab.node("db-1").await;
        let image = lab.region.with(|world, _| world.default_image());
        // In the file it changes no content of a root that is kept, and the answer says so.
        spec.image = perennial_workflows::model::aws::ImageId::parse("ami-0fedcba9876543210").unwrap();
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        lab.clock.sleep(Duration::from_secs(10)).await;
        let dispositions = lab.dispositions().await.join(" ");
        assert!(dispositions.contains("node recycle db-1 --reimage"), "never a silent no-op: {dispositions}");
        lab.submit("node.recycle", "db-1", json!({ "reimage": image, "reason": "new system" })).await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(200)).await;
        let after = lab.node("db-1").await;
        let retained: Vec<_> = after.resources.retained.iter().map(|old| old.volume.clone()).collect();
        assert_eq!(retained, [before.resources.volumes[&Slot::Root].volume.clone()], "the old root is kept");
        assert_ne!(after.resources.volumes[&Slot::Root].volume, before.resources.volumes[&Slot::Root].volume);
        assert_eq!(data(&after), data(&before));
        assert_eq!(after.resources.address, before.resources.address);
        let carrier = after.resources.carrier.as_ref().unwrap().instance.clone();
        lab.region.with(|world, now_ms| {
            let held = |slot: &Slot| after.resources.volumes[slot].device.clone();
            let mut read = |slot: &Slot| world.read(now_ms, &carrier, &held(slot)).unwrap();
            assert!(read(&slot("data")).iter().any(|record| record.as_str() == "before"));
            assert!(!read(&Slot::Root).iter().any(|record| record.as_str() == "before"));
        });
        // From now on the new root is the one that is kept.
        lab.write("db-1", "after").await;
        lab.submit("node.recycle", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.clock.sleep(Duration::from_secs(200)).await;
        lab.check("db-1", &["after"]).await;
    }
}

/// Dies at every second point of a pause and the resume after it.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_pause_and_a_resume() {
    let run = async |k| {
        let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, RootMode::Adopt).await;
        lab.die_at(k);
        lab.submit("node.pause", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.submit("node.resume", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(120)).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(lab.node("db-1").await.operations, 3);
        lab
    };
    Deaths::at_every_other_point(40).of(run).await;
}
