//! A node comes back with the content of a backup: asked for, or because a volume is lost.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::quick_snapshots;
use crate::sweep::Deaths;
use perennial_sim::world::settings::Span;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::RootLoss;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

async fn backed_up(network: NetworkMode, root: RootMode, data: DataMode) -> (Lab, NodeSpec) {
    let mut settings = quick_snapshots(7);
    settings.latencies.shutdown = Span::ms(6_000, 8_000);
    Lab::backed_up(settings, network, root, |spec| {
        spec.persist.data = data;
        spec.backup = Some(BackupSpec { every_min: 720, keep: 3, ..BackupSpec::default() });
    })
    .await
}

/// The newest backup's name, as the backup catalog of the node has it.
async fn newest(lab: &Lab) -> String {
    let dispositions = lab.dispositions().await.join(" ");
    let at = dispositions.rfind("\"backup\":\"").unwrap_or_else(|| panic!("{dispositions}"))
        + "\"backup\":\"".len();
    dispositions[at..].split('"').next().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_restored_in_place_and_what_it_had_is_retained() {
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni, NetworkMode::SecondaryIp] {
        for root in [RootMode::Adopt, RootMode::Image, RootMode::None] {
            for data in [DataMode::Reattach, DataMode::Snapshot] {
                let what = format!("{network:?} {root:?} {data:?}");
                let (mut lab, _) = backed_up(network, root, data).await;
                let before = lab.node("db-1").await;
                let backup = newest(&lab).await;
                lab.submit("node.restore", "db-1", json!({ "backup": backup, "reason": "a bad deploy" }))
                    .await;
                lab.rest("db-1", 2).await;
                lab.clock.sleep(Duration::from_secs(400)).await;
                let after = lab.node("db-1").await;
                let slots: Vec<&str> =
                    if root == RootMode::None { vec!["data"] } else { vec!["data", "root"] };
                for slot in slots {
                    let content = lab.content("db-1", slot).await;
                    assert!(content.iter().any(|record| record == "before"), "{what} {slot}: {content:?}");
                    assert!(
                        !content.iter().any(|record| record == "after the backup"),
                        "{what} {slot}: {content:?}"
                    );
                    let old = &before.resources.volumes[&Slot::try_from(slot.to_owned()).unwrap()].volume;
                    assert!(
                        after.resources.retained.iter().any(|kept| kept.volume == *old),
                        "{what}: {slot} was {old}\n{}",
                        lab.story().await
                    );
                    assert!(
                        lab.region.with(|world, _| world.volume(old).is_some()),
                        "{what}: {old} is there"
                    );
                }
                assert_eq!(after.resources.address, before.resources.address, "{what}");
                // From here on it is a node like any other, also when the root's image is superseded.
                lab.write("db-1", "new times").await;
                lab.submit("node.replace", "db-1", json!({})).await;
                lab.rest("db-1", 3).await;
                lab.clock.sleep(Duration::from_secs(400)).await;
                for slot in ["data"] {
                    assert!(
                        lab.content("db-1", slot).await.iter().any(|record| record == "new times"),
                        "{what}"
                    );
                }
                // The backup's snapshots are the backup's: it can be restored again.
                lab.submit("node.restore", "db-1", json!({ "backup": backup, "only": ["data"] })).await;
                lab.rest("db-1", 4).await;
                let content = lab.content("db-1", "data").await;
                assert!(!content.iter().any(|record| record == "new times"), "{what}: {content:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_lost_comes_back_from_a_backup() {
    for slot in ["data", "root"] {
        let (mut lab, mut spec) =
            backed_up(NetworkMode::SecondaryIp, RootMode::Adopt, DataMode::Reattach).await;
        spec.persist.root_loss = Some(RootLoss::Stuck);
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        lab.clock.sleep(Duration::from_secs(5)).await;
        let backup = newest(&lab).await;
        let (old, volume) = (lab.instance("db-1").await, lab.volume("db-1", slot).await);
        lab.kill().await;
        lab.region.with(|world, now_ms| world.reclaim_now(now_ms, &old).unwrap());
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.region.with(|world, now_ms| world.delete_volume(now_ms, &volume).unwrap());
        lab.start();
        let why = lab.stuck("db-1.2").await;
        assert!(why.contains("--from-backup"), "{why}");
        // What was not lost is not given up: nothing would come of it.
        let other = if slot == "data" { "root" } else { "data" };
        let nothing = json!({ "workflow": "db-1.2", "from_backup": backup, "accept_loss": [other] });
        lab.submit("workflow.resume", "db-1", nothing).await;
        lab.clock.sleep(Duration::from_secs(5)).await;
        assert!(lab.is_stuck("db-1.2").await, "{}", lab.story().await);
        lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2", "from_backup": backup })).await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(400)).await;
        let content = lab.content("db-1", slot).await;
        assert!(
            content.iter().any(|record| record == "before"),
            "{slot}: {content:?}\n{}",
            lab.story().await
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_restored_is_refused_with_the_reason() {
    let (mut lab, _) = backed_up(NetworkMode::SecondaryIp, RootMode::Adopt, DataMode::Reattach).await;
    lab.submit("node.restore", "db-1", json!({ "backup": "db-1.b99" })).await;
    lab.submit("node.restore", "db-1", json!({ "backup": newest(&lab).await, "only": ["logs"] })).await;
    lab.clock.sleep(Duration::from_secs(10)).await;
    let dispositions = lab.dispositions().await.join(" ");
    assert!(
        dispositions.contains("there is no backup db-1.b99; see `perennial node backups db-1`"),
        "{dispositions}"
    );
    assert!(dispositions.contains("has no snapshot of logs"), "{dispositions}");
    assert_eq!(lab.node("db-1").await.operations, 1);
}

/// Dies at every second point of a restore.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_restore() {
    let run = async |k| {
        let (mut lab, _) = backed_up(NetworkMode::SecondaryIp, RootMode::Adopt, DataMode::Reattach).await;
        let backup = newest(&lab).await;
        lab.die_at(k);
        lab.submit("node.restore", "db-1", json!({ "backup": backup })).await;
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(120)).await;
        for slot in ["data", "root"] {
            let content = lab.content("db-1", slot).await;
            assert!(!content.iter().any(|record| record == "after the backup"), "{slot} at {k}: {content:?}");
        }
        assert_eq!(lab.node("db-1").await.operations, 2);
        lab
    };
    Deaths::at_every_other_point(40).of(run).await;
}
