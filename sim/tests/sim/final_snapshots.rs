//! The last backup of an instance: taken of free volumes, in nobody's way, and a backup like any other.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::quick_snapshots;
use crate::sweep::Deaths;
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::settings::{Settings, Span};
use perennial_workers::port::error::Action;
use perennial_workflows::aggregate::backup_catalog::{Backup, BackupCause};
use perennial_workflows::model::aws::SnapshotId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{DataMode, Handover, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

/// What makes a node another kind of node.
type Change = &'static dyn Fn(&mut NodeSpec);

const MINUTE: Duration = Duration::from_secs(60);

/// Backups far apart, so that what is seen are the final ones.
const SELDOM: BackupSpec = BackupSpec { every_min: 7 * 24 * 60, keep: 1, at_release: true };

async fn provisioned(settings: Settings, change: impl FnOnce(&mut NodeSpec)) -> Lab {
    let change = |_: &Lab, spec: &mut NodeSpec| {
        spec.backup = Some(SELDOM);
        change(spec);
    };
    Lab::provisioned(settings, NetworkMode::SecondaryIp, RootMode::Adopt, change).await.0
}

async fn interrupt(lab: &mut Lab) {
    let operations = lab.node("db-1").await.operations;
    lab.warn("db-1").await;
    lab.rest("db-1", operations + 1).await;
}

/// The newest final backup, once it is complete and as many as these were begun.
async fn complete(lab: &mut Lab, begun: u64) -> Backup {
    lab.until("the final backup is complete", 90 * MINUTE, async |lab| {
        let catalog = lab.catalog("db-1").await;
        catalog.newest >= begun && catalog.under_way().is_none() && catalog.pending_deletions.is_empty()
    })
    .await;
    let catalog = lab.catalog("db-1").await;
    catalog.complete().rfind(|backup| backup.order.is_final()).expect("there is a final one").clone()
}

fn content(lab: &Lab, snapshot: &SnapshotId) -> Vec<String> {
    lab.region.with(|world, _| {
        let found = world.snapshot(snapshot).unwrap_or_else(|| panic!("{snapshot} is gone"));
        found.content.iter().map(|record| record.as_str().to_owned()).collect()
    })
}

/// The snapshots in the region that were made for backups.
fn snapshots(lab: &Lab) -> BTreeSet<String> {
    lab.region.with(|world, _| {
        let all = world.dump()["snapshots"].clone();
        let of_backups =
            all.as_object().unwrap().values().filter(|s| s["tags"]["perennial:role"] == "backup");
        of_backups.map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    })
}

fn listed<'a>(backups: impl IntoIterator<Item = &'a Backup>) -> BTreeSet<String> {
    let taken = backups.into_iter().flat_map(|backup| backup.snapshots.values());
    taken.map(|taken| taken.snapshot.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn every_way_of_carrying_ends_an_instance_with_a_backup_of_all_that_was_written() {
    let ways: [(&str, Change); 6] = [
        ("adopt", &|_| ()),
        ("image", &|spec| spec.persist.root = RootMode::Image),
        ("no root", &|spec| spec.persist.root = RootMode::None),
        ("copies", &|spec| spec.persist.data = DataMode::Snapshot),
        ("a live handover", &|spec| spec.persist.handover = Handover::Detach),
        ("break before make", &|spec| spec.persist.network = NetworkMode::PrimaryEni),
    ];
    for (way, change) in ways {
        let mut lab = provisioned(quick_snapshots(1), change).await;
        lab.write("db-1", "the last word").await;
        interrupt(&mut lab).await;
        let last = complete(&mut lab, 1).await;
        let node = lab.node("db-1").await;
        let slots: BTreeSet<&Slot> = last.snapshots.keys().collect();
        let keeps_root = node.spec.as_ref().unwrap().persist.root != RootMode::None;
        assert_eq!(slots.len(), if keeps_root { 2 } else { 1 }, "{way}: {slots:?}");
        for (slot, taken) in &last.snapshots {
            let content = content(&lab, &taken.snapshot);
            assert_eq!(content.last().map(String::as_str), Some("the last word"), "{way}: {slot}");
        }
        let operation = node.finals.last().expect("one has final snapshots").clone();
        assert_eq!(last.order.cause, BackupCause::Final { operation }, "{way}");
        assert_eq!(lab.catalog("db-1").await.failures, [], "{way}");
        assert_eq!(snapshots(&lab), listed([&last]), "{way}");
        lab.check("db-1", &["before", "the last word"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_it_but_the_end() {
    for at_release in [false, true] {
        let mut settings = quick_snapshots(2);
        settings.latencies.snapshot = Span::ms(3_600_000, 3_600_000);
        let mut lab =
            provisioned(settings, |spec| spec.backup = Some(BackupSpec { at_release, ..SELDOM })).await;
        interrupt(&mut lab).await;
        let operation = lab.operation("db-1.2").await;
        let of = |step: &str| {
            operation.steps.values().find(|record| record.step.to_string() == step).unwrap().clone()
        };
        for (freed, used) in [("release:data", "attach:data"), ("release:root", "adopt_root")] {
            let free_ms = of(freed).outcome.unwrap().1;
            assert_eq!(of(used).intended_at_ms, free_ms, "{used} is opened with the end of {freed}");
            let snapshot = operation.steps.values().find(|record| {
                record.step.to_string() == format!("final_{}", freed.replace("release", "snapshot"))
            });
            assert_eq!(snapshot.map(|record| record.intended_at_ms), at_release.then_some(free_ms));
        }
        lab.clock.sleep(MINUTE).await;
        let catalog = lab.catalog("db-1").await;
        assert_eq!(catalog.under_way().is_some(), at_release, "{}", lab.story().await);
        if at_release {
            let last = complete(&mut lab, 1).await;
            assert_eq!(last.snapshots.len(), 2);
        } else {
            assert_eq!(snapshots(&lab), BTreeSet::new(), "nothing new without it");
        }
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_section_there_is_none() {
    let mut lab = provisioned(quick_snapshots(3), |spec| spec.backup = None).await;
    interrupt(&mut lab).await;
    lab.clock.sleep(MINUTE).await;
    assert_eq!(lab.catalog("db-1").await.newest, 0);
    assert_eq!(snapshots(&lab), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn the_newest_is_kept_beside_the_others_and_prunes_the_one_before() {
    let mut lab = provisioned(quick_snapshots(4), |_| ()).await;
    lab.submit("node.backup", "db-1", json!({})).await;
    lab.until("one is complete", 10 * MINUTE, async |lab| lab.catalog("db-1").await.complete().count() == 1)
        .await;
    for round in 0..3 {
        lab.write("db-1", &format!("round {round}")).await;
        lab.clock.sleep(MINUTE).await;
        interrupt(&mut lab).await;
        complete(&mut lab, round + 2).await;
    }
    let catalog = lab.catalog("db-1").await;
    let numbers: Vec<u64> = catalog.complete().map(|backup| backup.order.number).collect();
    assert_eq!(numbers, [1, 4], "one of its own accord (keep: 1), and the newest final one");
    assert_eq!(snapshots(&lab), listed(catalog.complete()));
    let last = &catalog.last_complete().unwrap().snapshots[&Slot::Root].snapshot;
    assert_eq!(content(&lab, last).pop().as_deref(), Some("round 2"));
    lab.check("db-1", &["before", "round 2"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_with_one_and_a_restore_brings_it_back() {
    let mut lab = provisioned(quick_snapshots(5), |_| ()).await;
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let last = complete(&mut lab, 1).await;
    lab.submit("node.resume", "db-1", json!({})).await;
    lab.rest("db-1", 3).await;
    lab.write("db-1", "after").await;
    let backup = format!("db-1.b{}", last.order.number);
    lab.submit("node.restore", "db-1", json!({ "backup": backup })).await;
    lab.rest("db-1", 4).await;
    lab.until("it is let go", 30 * MINUTE, async |lab| {
        let catalog = lab.catalog("db-1").await;
        catalog.newest == 2 && catalog.under_way().is_none() && catalog.holds.is_empty()
    })
    .await;
    let node = lab.node("db-1").await;
    let instance = node.resources.carrier.as_ref().unwrap().instance.clone();
    for (slot, held) in &node.resources.volumes {
        let read = lab.region.with(|world, now_ms| world.read(now_ms, &instance, &held.device).unwrap());
        let read: Vec<&str> = read.iter().map(|record| record.as_str()).collect();
        assert!(read.contains(&"before") && !read.contains(&"after"), "{slot}: {read:?}");
    }
    // What was given up for it stands in the final backup of the operation that restored.
    let catalog = lab.catalog("db-1").await;
    let newest = catalog.last_complete().unwrap();
    for taken in newest.snapshots.values() {
        assert_eq!(content(&lab, &taken.snapshot).pop().as_deref(), Some("after"));
    }
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_keeps_the_backups_leaves_one_of_what_it_deletes() {
    for backups in [true, false] {
        let mut lab = provisioned(quick_snapshots(6), |_| ()).await;
        let root = lab.volume("db-1", "root").await;
        let keep = json!({"root": false, "data": false, "network": false, "backups": backups});
        lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
        lab.rest("db-1", 2).await;
        if backups {
            let last = complete(&mut lab, 1).await;
            for taken in last.snapshots.values() {
                assert_eq!(content(&lab, &taken.snapshot).pop().as_deref(), Some("before"));
            }
        }
        lab.clock.sleep(30 * MINUTE).await;
        let gone = lab.region.with(|world, _| world.dump()["volumes"].get(root.as_str()).is_none());
        assert!(gone, "the root was deleted");
        assert_eq!(snapshots(&lab).len(), if backups { 2 } else { 0 });
        assert_eq!(snapshots(&lab), listed(lab.catalog("db-1").await.complete()));
        lab.check_without_instance("db-1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_is_seen_and_holds_nothing_up() {
    let mut lab = provisioned(quick_snapshots(7), |_| ()).await;
    lab.region.inject(Rule {
        target: Target::Only(Action::CreateSnapshot),
        when: When::Always,
        fault: Fault::Before("UnauthorizedOperation".into()),
    });
    interrupt(&mut lab).await;
    lab.until("it has failed", 10 * MINUTE, async |lab| lab.catalog("db-1").await.failed_in_a_row == 1).await;
    let catalog = lab.catalog("db-1").await;
    assert!(catalog.failures[0].because.contains("UnauthorizedOperation"), "{catalog:?}");
    assert_eq!((catalog.complete().count(), snapshots(&lab).len()), (0, 0));
    lab.region.clear_faults();
    lab.clock.sleep(MINUTE).await;
    interrupt(&mut lab).await;
    complete(&mut lab, 2).await;
    assert_eq!(lab.catalog("db-1").await.failed_in_a_row, 0);
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_handover_leaves_no_snapshot_behind() {
    let mut settings = quick_snapshots(8);
    // Long enough to cancel between the detachment and the fence.
    settings.latencies.detach = Span::ms(2_000, 2_000);
    let mut lab = provisioned(settings, |spec| {
        spec.persist.handover = Handover::Detach;
        // It is mounted, and so the instance lives for a while without the other one.
        let mut logs = spec.data_volumes[0].clone();
        (logs.name, logs.device) = (NodeName::parse("logs").unwrap(), None);
        spec.data_volumes.push(logs);
    })
    .await;
    // The first one of all is taken as soon as somebody touches the node, and EC2 takes one of a volume every 15 s.
    lab.submit("node.backup", "db-1", json!({})).await;
    lab.until("one is complete", 10 * MINUTE, async |lab| lab.catalog("db-1").await.complete().count() == 1)
        .await;
    lab.clock.sleep(MINUTE).await;
    let (old, volume) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
    lab.region.with(|world, now_ms| world.unmount(now_ms, &old, &volume).unwrap());
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.until("its snapshot is taken", 10 * MINUTE, async |lab| {
        let operation = lab.node("db-1").await.open;
        let Some((id, _)) = operation else { return false };
        let operation = lab.operation(&id.to_string()).await;
        operation
            .steps
            .values()
            .any(|record| record.step.to_string().starts_with("final_snapshot:") && record.outcome.is_some())
            && operation.no_return().is_none()
    })
    .await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2" })).await;
    let logs = lab.volume("db-1", "logs").await;
    lab.region.with(|world, now_ms| world.unmount(now_ms, &old, &logs).unwrap());
    lab.rest("db-1", 2).await;
    assert!(!lab.node("db-1").await.finals.is_empty(), "{}", lab.story().await);
    lab.until("what was taken is pruned", 20 * MINUTE, async |lab| {
        let catalog = lab.catalog("db-1").await;
        catalog.newest == 2 && catalog.failures.len() == 1 && snapshots(lab) == listed(catalog.complete())
    })
    .await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point() {
    let run = async |k| {
        let mut settings = quick_snapshots(9);
        settings.latencies.shutdown = Span::ms(6_000, 8_000);
        settings.latencies.replace_root = Span::ms(4_000, 5_000);
        let mut lab = provisioned(settings, |_| ()).await;
        lab.die_at(k);
        interrupt(&mut lab).await;
        lab.until("the backups are at rest", 60 * MINUTE, async |lab| {
            let catalog = lab.catalog("db-1").await;
            catalog.newest >= 1 && catalog.under_way().is_none() && catalog.pending_deletions.is_empty()
        })
        .await;
        lab.disarm();
        let catalog = lab.catalog("db-1").await;
        assert_eq!(catalog.newest, 1, "at {k}: one\n{}", lab.story().await);
        // Who was dead when the volume was attached again has missed the moment, and says so.
        assert_eq!(catalog.complete().count() + catalog.failures.len(), 1, "at {k}\n{}", lab.story().await);
        assert_eq!(snapshots(&lab), listed(catalog.complete()), "at {k}\n{}", lab.story().await);
        lab.check("db-1", &["before"]).await;
        lab
    };
    // Every other point; the others at another seed would tell the same.
    Deaths::at_every_other_point(60).of(run).await;
}
