//! A new node from another node's backup: what it reads, what stays the other's, and that retention waits for it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::{quick_snapshots, slot};
use crate::sweep::{Deaths, Seen};
use perennial_workflows::model::aws::SnapshotId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::resources::RecoveryPoint;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

/// `db-1` with one backup, `db-1.b1`, and something written after it.
async fn backed_up(root: RootMode, data: DataMode) -> (Lab, NodeSpec) {
    let change = |spec: &mut NodeSpec| spec.persist.data = data;
    Lab::backed_up(quick_snapshots(11), NetworkMode::SecondaryIp, root, change).await
}

fn named(spec: &NodeSpec, name: &str) -> NodeSpec {
    NodeSpec { name: NodeName::parse(name).unwrap(), ..spec.clone() }
}

async fn is_of_the_backup(lab: &Lab, node: &str, name: &str) -> bool {
    let content = lab.content(node, name).await;
    let has = |record: &str| content.iter().any(|read| read == record);
    has("before") && !has("after the backup")
}

async fn snapshots_of(lab: &Lab, backup: u64) -> Vec<SnapshotId> {
    let catalog = lab.catalog("db-1").await;
    let found = catalog.backups.iter().find(|known| known.order.number == backup);
    found
        .map(|known| known.snapshots.values().map(|taken| taken.snapshot.clone()).collect())
        .unwrap_or_default()
}

/// Nothing is there of which neither a node nor the backup catalog knows, and both run.
async fn nothing_is_leaked(lab: &Lab) {
    let story = lab.story().await;
    let mut known: BTreeSet<String> = BTreeSet::new();
    for name in ["db-1", "db-2"] {
        let node = lab.node(name).await;
        let (Some(carrier), resources) = (&node.resources.carrier, &node.resources) else { continue };
        known.insert(carrier.instance.to_string());
        known.insert(carrier.interface.to_string());
        let on_it = lab.region.with(|world, _| world.instance(&carrier.instance).unwrap().volumes.clone());
        known.extend(on_it.iter().map(ToString::to_string));
        known.extend(resources.retained.iter().map(|old| old.volume.to_string()));
        known.extend(resources.orphans.iter().map(|left| left.resource.id()));
        let made_from = resources.volumes.values().filter_map(|held| held.made_from.as_ref());
        known.extend(made_from.map(ToString::to_string));
        let images = resources.root_images.iter();
        known.extend(images.flat_map(|root| [root.image.to_string(), root.snapshot.to_string()]));
    }
    for name in ["db-1", "db-2"] {
        known.extend(lab.snapshots_of_backups(name).await);
    }
    lab.region.with(|world, _| {
        assert_eq!(world.check_invariants(), Vec::<String>::new(), "{story}");
        assert_eq!(world.leaks("lab", &known), Vec::<String>::new(), "leaked\n{story}");
    });
}

#[tokio::test(start_paused = true)]
async fn a_new_node_has_the_content_of_the_backup_and_the_other_one_goes_on() {
    for root in [RootMode::Adopt, RootMode::Image, RootMode::None] {
        for data in [DataMode::Reattach, DataMode::Snapshot] {
            let what = format!("{root:?} {data:?}");
            let (mut lab, spec) = backed_up(root, data).await;
            let before = lab.node("db-1").await;
            let asked = json!({ "spec": named(&spec, "db-2"), "from_backup": "db-1.b1", "reason": "a look" });
            lab.submit("node.apply", "db-2", asked).await;
            lab.rest("db-2", 1).await;
            let new = lab.node("db-2").await;
            let slots: &[&str] = if root == RootMode::None { &["data"] } else { &["root", "data"] };
            for name in slots {
                assert!(is_of_the_backup(&lab, "db-2", name).await, "{what} {name}\n{}", lab.story().await);
                let origin = &new.resources.recovery_points[&slot(name)];
                assert!(
                    matches!(origin, RecoveryPoint::Backup { backup, .. } if backup.to_string() == "db-1.b1")
                );
                assert_ne!(
                    new.resources.volumes[&slot(name)].volume,
                    before.resources.volumes[&slot(name)].volume
                );
            }
            let node = lab.node("db-1").await;
            assert_eq!(
                (&node.resources, node.operations),
                (&before.resources, 1),
                "{what}: it goes on as it was"
            );
            assert!(lab.reads("db-1", "data", "after the backup").await, "{what}");
            nothing_is_leaked(&lab).await;
            // From here on it is a node like any other.
            lab.write("db-2", "new times").await;
            lab.submit("node.replace", "db-2", json!({})).await;
            lab.rest("db-2", 2).await;
            assert!(lab.reads("db-2", "data", "new times").await, "{what}");
            nothing_is_leaked(&lab).await;
            // Its end leaves the backup where it is.
            let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
            lab.submit("node.delete", "db-2", json!({ "keep": keep })).await;
            lab.rest("db-2", 3).await;
            lab.clock.sleep(Duration::from_secs(60)).await;
            for snapshot in snapshots_of(&lab, 1).await {
                assert!(
                    lab.region.with(|world, _| world.snapshot(&snapshot).is_some()),
                    "{what}: {snapshot}"
                );
            }
            assert!(lab.catalog("db-1").await.holds.is_empty(), "{what}");
        }
    }
}

/// The backup is held from the first append to the end of the provision, and pruned after it.
#[tokio::test(start_paused = true)]
async fn retention_waits_for_the_new_node() {
    let (mut lab, mut spec) = backed_up(RootMode::Adopt, DataMode::Reattach).await;
    let first = snapshots_of(&lab, 1).await;
    assert_eq!(first.len(), 2);
    // There is no capacity for the new node, so that it takes long.
    spec.capacity.instance_types = vec!["c7i.large".into()];
    lab.region.with(|world, _| {
        let zone = world.zones()[0].clone();
        for market in
            [perennial_workflows::model::aws::Market::Spot, perennial_workflows::model::aws::Market::OnDemand]
        {
            world.set_capacity("c7i.large", &zone, market, perennial_sim::world::settings::Capacity::Free(0));
        }
    });
    lab.submit("node.apply", "db-2", json!({ "spec": named(&spec, "db-2"), "from_backup": "db-1.b1" })).await;
    lab.clock.sleep(Duration::from_secs(120)).await;
    assert_eq!(lab.catalog("db-1").await.holds.len(), 1, "{}", lab.story().await);
    // A newer one is complete; only one is kept, and the held one with it.
    lab.submit("node.backup", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(120)).await;
    assert_eq!(lab.catalog("db-1").await.complete().count(), 2, "{}", lab.story().await);
    // A pause would forget the rest of the backup.
    lab.submit("node.pause", "db-2", json!({})).await;
    // The other node's end does not take it away either.
    let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
    lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
    lab.rest("db-1", 2).await;
    lab.clock.sleep(Duration::from_secs(120)).await;
    assert!(
        lab.dispositions().await.join(" ").contains("is being made from a backup; wait for it, or cancel it")
    );
    for snapshot in &first {
        assert!(lab.region.with(|world, _| world.snapshot(snapshot).is_some()), "{snapshot} is held");
    }
    lab.region.with(|world, _| {
        let zone = world.zones()[0].clone();
        let spot = perennial_workflows::model::aws::Market::Spot;
        world.set_capacity("c7i.large", &zone, spot, perennial_sim::world::settings::Capacity::Unlimited);
    });
    lab.rest("db-2", 1).await;
    for name in ["root", "data"] {
        assert!(is_of_the_backup(&lab, "db-2", name).await, "{name}\n{}", lab.story().await);
    }
    lab.until("the backups of the deleted node are gone", Duration::from_secs(3_600), async |lab| {
        let catalog = lab.catalog("db-1").await;
        catalog.holds.is_empty() && catalog.backups.is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_the_new_nodes_is_refused_by_the_field() {
    let (mut lab, spec) = backed_up(RootMode::Adopt, DataMode::Reattach).await;
    let volume = lab.volume("db-1", "data").await;
    let address = lab.node("db-1").await.resources.address;
    let elastic = lab.elastic();
    let mut with = spec.clone();
    with.network.elastic_ip = Some(elastic.clone());
    lab.submit("node.apply", "db-1", json!({ "spec": with })).await;
    let ask = async |lab: &mut Lab, name: &str, backup: &str, change: &dyn Fn(&mut NodeSpec)| {
        let mut spec = named(&spec, name);
        change(&mut spec);
        lab.submit("node.apply", name, json!({ "spec": spec, "from_backup": backup })).await;
        lab.clock.sleep(Duration::from_secs(10)).await;
        // What EC2 tells meanwhile is answered as well.
        let of_a_submission = |disposition: &String| !disposition.contains("\"noted\"");
        lab.dispositions().await.into_iter().rfind(of_a_submission).unwrap()
    };
    let lab = &mut lab;
    for (name, backup, change, because) in [
        ("db-2", "db-1.b9", &(|_: &mut NodeSpec| ()) as &dyn Fn(&mut NodeSpec), "there is no backup db-1.b9"),
        ("db-2", "db-7.b1", &|_| (), "there is no backup db-7.b1; see `perennial node backups db-7`"),
        ("db-1", "db-1.b1", &|_| (), "a new node has another name than db-1"),
        ("db-2", "db-1.b1", &|s| s.private_ip = address, "spec.private_ip: "),
        ("db-2", "db-1.b1", &|s| s.network.elastic_ip = Some(elastic.clone()), "spec.network.elastic_ip: "),
        (
            "db-2",
            "db-1.b1",
            &|s| s.data_volumes[0].volume = Some(volume.clone()),
            "spec.data_volumes[0].volume: ",
        ),
        ("db-2", "db-1.b1", &|s| s.data_volumes[0].size_gib = 1, "say 10 or more"),
        (
            "db-2",
            "db-1.b1",
            &|s| s.image = perennial_workflows::model::aws::ImageId::parse("ami-0fedcba9876543210").unwrap(),
            "spec.image: the root of db-1.b1 was made from",
        ),
        (
            "db-2",
            "db-1.b1",
            &|s| {
                s.persist.root = RootMode::None;
                s.backup = None;
                s.data_volumes[0].name = NodeName::parse("logs").unwrap();
            },
            "from_backup: db-1.b1 has root and data, and the new node keeps none of them",
        ),
    ] {
        let disposition = ask(lab, name, backup, change).await;
        assert!(disposition.contains(because), "{because}: {disposition}");
        assert!(!lab.node("db-2").await.exists());
    }
    assert!(lab.catalog("db-1").await.holds.is_empty());
    // A name that is taken, after one that was not.
    lab.submit("node.apply", "db-2", json!({ "spec": named(&spec, "db-2"), "from_backup": "db-1.b1" })).await;
    lab.rest("db-2", 1).await;
    let disposition = ask(lab, "db-2", "db-1.b1", &|_| ()).await;
    assert!(disposition.contains("spec.name: there is a node db-2 already"), "{disposition}");
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_lets_go_and_leaves_nothing() {
    let (mut lab, spec) = backed_up(RootMode::Image, DataMode::Reattach).await;
    let count =
        |lab: &Lab| lab.region.with(|world, _| (world.all_volumes().count(), world.all_images().count()));
    let before = count(&lab);
    let mut early = Seen::at_least(2, "cancellations before there was anything to keep");
    for wait_ms in [500, 3_000, 8_000, 15_000] {
        let node = lab.node("db-2").await;
        lab.submit("node.apply", "db-2", json!({ "spec": named(&spec, "db-2"), "from_backup": "db-1.b1" }))
            .await;
        lab.clock.sleep(Duration::from_millis(wait_ms)).await;
        let workflow = format!("db-2.{}", node.operations + 1);
        lab.submit("workflow.cancel", "db-2", json!({ "workflow": workflow })).await;
        lab.rest("db-2", node.operations + 1).await;
        lab.clock.sleep(Duration::from_secs(120)).await;
        let after = lab.node("db-2").await;
        assert!(lab.catalog("db-1").await.holds.is_empty(), "{wait_ms}");
        if after.exists() {
            panic!("{wait_ms}: it was cancelled\n{}", lab.story().await);
        }
        if after.resources.volumes.is_empty() && after.resources.retained.is_empty() {
            early.when(true);
            assert_eq!(count(&lab), before, "{wait_ms}: nothing is left\n{}", lab.story().await);
        } else {
            break;
        }
    }
    for snapshot in snapshots_of(&lab, 1).await {
        assert!(lab.region.with(|world, _| world.snapshot(&snapshot).is_some()), "{snapshot}");
    }
}

/// Dies at every second point of the making of a new node.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_the_making() {
    let run = async |k| {
        let (mut lab, spec) = backed_up(RootMode::Adopt, DataMode::Reattach).await;
        lab.die_at(k);
        lab.submit("node.apply", "db-2", json!({ "spec": named(&spec, "db-2"), "from_backup": "db-1.b1" }))
            .await;
        lab.rest("db-2", 1).await;
        lab.until("the backup is let go", Duration::from_secs(600), async |lab| {
            lab.catalog("db-1").await.holds.is_empty()
        })
        .await;
        lab.disarm();
        for name in ["root", "data"] {
            assert!(is_of_the_backup(&lab, "db-2", name).await, "{name} at {k}\n{}", lab.story().await);
        }
        assert!(lab.reads("db-1", "data", "after the backup").await, "at {k}");
        nothing_is_leaked(&lab).await;
        lab
    };
    Deaths::at_every_other_point(20).of(run).await;
}
