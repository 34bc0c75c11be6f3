//! Snapshots ahead of a move: as fast as a move can be, gone where none comes, and never older than the last write.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::{may_move, quick};
use crate::sweep::Seen;
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_workers::port::error::Action;
use perennial_workflows::model::resources::RecoveryPoint;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode, ZoneChange};
use serde_json::json;

/// Where home waits for one snapshot, and another zone needs two.
const LATE: [(RootMode, DataMode); 2] =
    [(RootMode::Image, DataMode::Reattach), (RootMode::Adopt, DataMode::Snapshot)];

/// A node that may live in two zones, in the first one.
async fn provisioned(
    settings: Settings,
    (root, data): (RootMode, DataMode),
    change: impl FnOnce(&mut NodeSpec),
) -> (Lab, NodeSpec) {
    Lab::provisioned(settings, NetworkMode::SecondaryIp, root, |lab, spec| {
        spec.persist.data = data;
        may_move(lab, spec);
        change(spec);
    })
    .await
}

fn made(lab: &Lab, action: Action) -> usize {
    lab.region.calls().iter().filter(|call| call.action == action).count()
}

/// How often a step of this name was intended.
async fn intended(lab: &Lab, name: &str) -> usize {
    let operation = lab.operation("db-1.2").await;
    operation.steps.values().filter(|record| record.step.to_string().starts_with(name)).count()
}

#[tokio::test(start_paused = true)]
async fn a_move_waits_for_one_snapshot_after_the_other_no_longer() {
    for way in LATE {
        let mut settings = Settings::calm(1);
        // Ten minutes: two of them would be seen.
        settings.latencies.snapshot = Span::ms(600_000, 600_000);
        let (mut lab, spec) = provisioned(settings, way, |_| ()).await;
        lab.set_capacity(&spec, 0, Capacity::Unsupported);
        let begun_ms = lab.clock.now_ms();
        lab.warn("db-1").await;
        lab.rest("db-1", 2).await;
        let took_s = (lab.clock.now_ms() - begun_ms) / 1_000;
        assert!((600..850).contains(&took_s), "{way:?}: {took_s} s\n{}", lab.story().await);
        assert_eq!(made(&lab, Action::CreateSnapshot), 2, "{way:?}: one of each volume");
        assert_eq!(
            made(&lab, Action::DeleteSnapshot),
            0,
            "{way:?}: each is what a volume or an image is made from"
        );
        let after = lab.node("db-1").await.resources;
        assert!(after.subnet.is_some() && after.orphans.is_empty(), "{way:?}: {after:?}");
        for origin in after.recovery_points.values() {
            assert!(matches!(origin, RecoveryPoint::FinalSnapshot { .. }), "{way:?}: {origin:?}");
        }
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_home_serves_what_was_taken_ahead_is_gone_and_no_image_was_made_for_nothing() {
    for way in LATE {
        let (mut lab, _) = provisioned(quick(2), way, |_| ()).await;
        let before = lab.node("db-1").await.resources;
        lab.warn("db-1").await;
        lab.rest("db-1", 2).await;
        assert_eq!(intended(&lab, "snapshot_ahead:").await, 1, "{way:?}\n{}", lab.story().await);
        assert_eq!(intended(&lab, "delete_snapshot:").await, 1, "{way:?}\n{}", lab.story().await);
        let after = lab.node("db-1").await.resources;
        let stays =
            if way.0 == RootMode::Adopt { Slot::Root } else { Slot::try_from("data".to_owned()).unwrap() };
        assert_eq!(after.volumes[&stays].volume, before.volumes[&stays].volume, "{way:?}");
        assert_eq!(after.root_images.len(), usize::from(way.0 == RootMode::Image), "{way:?}");
        assert_eq!((after.subnet, after.orphans), (None, vec![]), "{way:?}");
        lab.clock.sleep(Duration::from_secs(120)).await;
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_ahead_where_nothing_waits_or_nothing_can_move() {
    let ways = [
        (RootMode::Adopt, DataMode::Reattach, true),
        (RootMode::None, DataMode::Reattach, true),
        (RootMode::Image, DataMode::Snapshot, true),
        (RootMode::Image, DataMode::Reattach, false),
    ];
    for (root, data, may_move) in ways {
        let (mut lab, _) = provisioned(quick(3), (root, data), |spec| {
            if !may_move {
                spec.capacity.other_subnets.clear();
                spec.network.zone_change = ZoneChange::default();
            }
        })
        .await;
        lab.warn("db-1").await;
        lab.rest("db-1", 2).await;
        assert_eq!(intended(&lab, "snapshot_ahead:").await, 0, "{root:?} {data:?}");
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_last_backup_of_the_volume_follows_in_time() {
    for way in LATE {
        // EC2 takes snapshots of a volume 15 s apart; home waits for longer.
        let mut settings = quick(4);
        settings.latencies.snapshot = Span::ms(60_000, 60_000);
        let (mut lab, _) = provisioned(settings, way, |spec| {
            spec.backup = Some(BackupSpec { every_min: 7 * 24 * 60, keep: 1, at_release: true });
        })
        .await;
        lab.warn("db-1").await;
        lab.rest("db-1", 2).await;
        assert_eq!(intended(&lab, "snapshot_ahead:").await, 1, "{way:?}");
        lab.until("the final backup is complete", Duration::from_secs(7_200), async |lab| {
            let catalog = lab.catalog("db-1").await;
            catalog.newest >= 1 && catalog.under_way().is_none() && catalog.pending_deletions.is_empty()
        })
        .await;
        let catalog = lab.catalog("db-1").await;
        let last = catalog.complete().rfind(|backup| backup.order.is_final()).expect("there is a final one");
        assert_eq!(last.snapshots.len(), 2, "{way:?}: {last:?}");
        lab.check("db-1", &["before"]).await;
    }
}

/// The new instance has had the root, and is lost before the end: what was taken before is not the root any more.
#[tokio::test(start_paused = true)]
async fn a_root_that_an_instance_has_had_since_is_not_what_was_taken_before() {
    for data in [DataMode::Snapshot, DataMode::Reattach] {
        let (mut lab, spec) = provisioned(quick(5), (RootMode::Adopt, data), |_| ()).await;
        if data == DataMode::Reattach {
            // It is imaged for a zone that has nothing either.
            lab.set_capacity(&spec, 0, Capacity::Unsupported);
            lab.set_capacity(&spec, 1, Capacity::Unsupported);
        }
        lab.warn("db-1").await;
        lab.clock.sleep(Duration::from_secs(2)).await;
        if data == DataMode::Reattach {
            lab.until("the other zone is asked in vain", Duration::from_secs(600), async |lab| {
                let operation = lab.operation("db-1.2").await;
                operation.facts.root.image.is_some() && operation.facts.ladder.rounds > 0
            })
            .await;
            lab.set_capacity(&spec, 0, Capacity::Unlimited);
        }
        lab.until("the root is being adopted", Duration::from_secs(1_200), async |lab| {
            lab.operation("db-1.2").await.open_steps().iter().any(|step| step.step == "adopt_root")
        })
        .await;
        lab.until("the root is adopted", Duration::from_secs(600), async |lab| {
            lab.operation("db-1.2").await.facts.candidate.is_some_and(|candidate| candidate.adopted)
        })
        .await;
        let candidate = lab.operation("db-1.2").await.facts.candidate.expect("it is there").instance;
        lab.region.with(|world, now_ms| {
            let device = world.instance(&candidate).unwrap().root_device.clone();
            world.write(now_ms, &candidate, &device, "since").unwrap();
        });
        lab.set_capacity(&spec, 0, Capacity::Unsupported);
        lab.set_capacity(&spec, 1, Capacity::Unlimited);
        lab.region.with(|world, now_ms| world.reclaim_now(now_ms, &candidate).unwrap());
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(600)).await;
        let node = lab.node("db-1").await;
        let carrier = node.resources.carrier.as_ref().unwrap();
        let root = &node.resources.volumes[&Slot::Root];
        let content =
            lab.region.with(|world, now_ms| world.read(now_ms, &carrier.instance, &root.device).unwrap());
        let content: Vec<&str> = content.iter().map(|record| record.as_str()).collect();
        assert_eq!(node.operations, 2, "{data:?}: it was lost before the end\n{}", lab.story().await);
        assert_eq!(content, ["image", "before", "since"], "{data:?}\n{}", lab.story().await);
        assert!(node.resources.subnet.is_some(), "{data:?}: it moved");
        assert_eq!(node.resources.root_images.len(), 1, "{data:?}: the image of before is gone");
        assert_eq!(node.resources.orphans, [], "{data:?}");
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_or_a_deletion_at_any_moment_leaves_nothing_that_is_not_listed() {
    let mut ahead = Seen::at_least(30, "snapshots that were asked for ahead");
    for way in LATE {
        for (workflow, params) in [
            ("node.pause", json!({})),
            (
                "node.delete",
                json!({ "keep": { "root": false, "data": false, "network": false, "backups": false } }),
            ),
        ] {
            for tenths in (0..400).step_by(23) {
                let (mut lab, _) = provisioned(quick(6), way, |_| ()).await;
                lab.submit("node.replace", "db-1", json!({})).await;
                lab.clock.sleep(Duration::from_millis(tenths * 100)).await;
                lab.submit(workflow, "db-1", params.clone()).await;
                lab.until("it is done", Duration::from_secs(7_200), async |lab| {
                    let node = lab.node("db-1").await;
                    node.open.is_none() && node.resources.carrier.is_none()
                })
                .await;
                ahead.times(intended(&lab, "snapshot_ahead:").await);
                lab.clock.sleep(Duration::from_secs(60)).await;
                lab.check_without_instance("db-1").await;
                if workflow == "node.pause" {
                    let operations = lab.node("db-1").await.operations;
                    lab.submit("node.resume", "db-1", json!({})).await;
                    lab.rest("db-1", operations + 1).await;
                    lab.clock.sleep(Duration::from_secs(120)).await;
                    lab.check("db-1", &["before"]).await;
                }
                let left = lab.node("db-1").await.resources.orphans;
                assert_eq!(left, [], "{way:?} {workflow} after {tenths} tenths\n{}", lab.story().await);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_at_any_moment_ends_whole() {
    let mut went_back = Seen::at_least(1, "moves that were undone");
    let mut went_on = Seen::at_least(20, "moves past the point of no return");
    for way in LATE {
        for tenths in (0..300).step_by(17) {
            let (mut lab, spec) = provisioned(quick(7), way, |_| ()).await;
            let old = lab.instance("db-1").await;
            lab.set_capacity(&spec, 0, Capacity::Unsupported);
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.clock.sleep(Duration::from_millis(tenths * 100)).await;
            lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2" })).await;
            lab.rest("db-1", 2).await;
            lab.clock.sleep(Duration::from_secs(120)).await;
            lab.check("db-1", &["before"]).await;
            assert_eq!(lab.node("db-1").await.resources.orphans, [], "{way:?} after {tenths} tenths");
            let is_back = lab.instance("db-1").await == old;
            went_back.when(is_back);
            went_on.when(!is_back);
        }
    }
}
