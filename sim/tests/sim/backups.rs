//! Backups: of one moment, at their time, as many as are kept, and never in anybody's way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::quick_snapshots;
use crate::sweep::Deaths;
use perennial_engine::ids::Position;
use perennial_engine::journal::{Journal as _, Which};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::{Quotas, Settings, Span};
use perennial_workers::port::error::Action;
use perennial_workers::port::{ImageRequest, ImageTraits, Tags};
use perennial_workflows::aggregate::backup_catalog::{CATALOG_BACKUPS_MAX, Carried};
use perennial_workflows::model::aws::{SnapshotId, VolumeId};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

fn spec(lab: &Lab, name: &str, every_min: u32, keep: u32) -> NodeSpec {
    let mut spec = lab.spec(name, NetworkMode::SecondaryIp, RootMode::Adopt);
    // The last ones of an instance are in `final_snapshots.rs`.
    spec.backup = Some(BackupSpec { every_min, keep, at_release: false });
    spec
}

async fn provisioned(settings: Settings, every_min: u32, keep: u32) -> Lab {
    let backup = BackupSpec { every_min, keep, at_release: false };
    let change = |_: &Lab, spec: &mut NodeSpec| spec.backup = Some(backup);
    Lab::provisioned(settings, NetworkMode::SecondaryIp, RootMode::Adopt, change).await.0
}

/// Waits until this many backups were complete at some time.
async fn backed_up(lab: &mut Lab, number: u64) -> Carried {
    lab.until(&format!("backup {number} is complete"), 100 * MINUTE, async |lab| {
        let catalog = lab.catalog("db-1").await;
        catalog.last_complete().is_some_and(|last| last.order.number >= number)
            && catalog.pending_deletions.is_empty()
    })
    .await;
    lab.catalog("db-1").await
}

/// The snapshots in the region that carry the owner's tag and the role of a backup, with their volumes.
fn snapshots(lab: &Lab) -> BTreeMap<SnapshotId, VolumeId> {
    lab.region.with(|world, _| {
        let all = world.dump()["snapshots"].clone();
        let of = |value: &serde_json::Value| {
            let tags = &value["tags"];
            (tags["perennial:role"] == "backup").then(|| {
                let id = SnapshotId::parse(value["id"].as_str().unwrap()).unwrap();
                (id, VolumeId::parse(value["volume"].as_str().unwrap()).unwrap())
            })
        };
        all.as_object().unwrap().values().filter_map(of).collect()
    })
}

fn listed(catalog: &Carried) -> BTreeSet<SnapshotId> {
    let kept = catalog.backups.iter().flat_map(|backup| backup.snapshots.values());
    kept.map(|taken| taken.snapshot.clone()).chain(catalog.pending_deletions.keys().cloned()).collect()
}

fn content(lab: &Lab, snapshot: &SnapshotId) -> Vec<String> {
    lab.region.with(|world, _| {
        let found = world.snapshot(snapshot).unwrap_or_else(|| panic!("{snapshot} is gone"));
        found.content.iter().map(|record| record.as_str().to_owned()).collect()
    })
}

#[tokio::test(start_paused = true)]
async fn as_many_as_are_kept_of_all_volumes_and_of_one_moment() {
    let lab = provisioned(quick_snapshots(1), 5, 3).await;
    for minute in 0..40 {
        lab.write("db-1", &format!("minute {minute}")).await;
        lab.clock.sleep(MINUTE).await;
    }
    let catalog = lab.catalog("db-1").await;
    assert!((7..=8).contains(&catalog.newest), "{} in forty minutes\n{}", catalog.newest, lab.story().await);
    assert_eq!((catalog.complete().count(), catalog.failed_in_a_row), (3, 0));
    assert_eq!(snapshots(&lab).into_keys().collect::<BTreeSet<_>>(), listed(&catalog));
    let mut moments = Vec::new();
    for backup in catalog.complete() {
        let of: Vec<_> = backup.snapshots.keys().cloned().collect();
        assert_eq!(of, [Slot::Root, Slot::try_from("data".to_owned()).unwrap()]);
        let records: BTreeSet<_> =
            backup.snapshots.values().map(|t| content(&lab, &t.snapshot).pop()).collect();
        assert_eq!(records.len(), 1, "all volumes are of one moment: {records:?}");
        moments.push(backup.taken_at_ms.unwrap());
    }
    for pair in moments.windows(2) {
        let apart = pair[1] - pair[0];
        assert!((290_000..310_000).contains(&apart), "five minutes apart, not {apart} ms");
    }
    let data = &catalog.last_complete().unwrap().snapshots[&Slot::try_from("data".to_owned()).unwrap()];
    assert_eq!(data.size_gib, Some(10));
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_fleet_is_spread_over_the_interval() {
    let mut lab = Lab::new(quick_snapshots(2));
    let nodes: Vec<String> = (0..24).map(|n| format!("node-{n}")).collect();
    for name in &nodes {
        let spec = spec(&lab, name, 5, 1);
        lab.submit("node.apply", name, json!({ "spec": spec })).await;
    }
    for name in &nodes {
        lab.rest(name, 1).await;
    }
    lab.clock.sleep(30 * MINUTE).await;
    let events = lab.journal.read_all(Position(0), 1_000_000).await.unwrap();
    let began = events.iter().filter(|event| event.data.kind == "backup.began");
    let mut of: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut times = Vec::new();
    for event in began {
        times.push(event.recorded_at_ms);
        of.entry(event.stream.name().to_owned()).or_default().push(event.recorded_at_ms);
    }
    assert_eq!(of.len(), nodes.len());
    assert!(of.values().all(|times| (5..=7).contains(&times.len())), "{of:?}");
    times.sort_unstable();
    let most = times.iter().map(|from| times.iter().filter(|t| (*from..*from + 15_000).contains(*t)).count());
    // Evenly spread it were one or two; by chance of the names a few more. A herd were all twenty-four.
    assert!(most.clone().max().unwrap() <= 7, "{:?}", most.max());
}

#[tokio::test(start_paused = true)]
async fn a_replacement_waits_for_no_backup_and_the_next_backup_is_of_the_same_volumes() {
    let mut settings = quick_snapshots(3);
    settings.latencies.snapshot = Span::ms(3_600_000, 3_600_000);
    let mut lab = provisioned(settings, 5, 3).await;
    lab.until("a backup is under way", 10 * MINUTE, async |lab| {
        lab.catalog("db-1").await.under_way().is_some_and(|backup| backup.taken_at_ms.is_some())
    })
    .await;
    let old = lab.instance("db-1").await;
    let from_ms = lab.clock.now_ms();
    lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
    lab.rest("db-1", 2).await;
    let took_ms = lab.clock.now_ms() - from_ms;
    assert!(took_ms < 180_000, "{took_ms} ms: as long as without a backup");
    assert!(lab.catalog("db-1").await.under_way().is_some(), "it is still being copied");
    let catalog = backed_up(&mut lab, 1).await;
    assert_eq!(catalog.failed_in_a_row, 0, "a set is complete although its instance is gone");
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_recommendation_takes_a_fresh_backup_at_once() {
    let mut lab = provisioned(quick_snapshots(11), 60, 3).await;
    let catalog = backed_up(&mut lab, 1).await;
    lab.write("db-1", "just now").await;
    lab.clock.sleep(MINUTE).await;
    let instance = lab.instance("db-1").await;
    lab.region.with(|world, now_ms| world.recommend_rebalance(now_ms, &instance).unwrap());
    let from_ms = lab.clock.now_ms();
    let catalog = backed_up(&mut lab, catalog.newest + 1).await;
    let last = catalog.last_complete().unwrap();
    assert!(last.taken_at_ms.unwrap() - from_ms < 15_000);
    assert_eq!(content(&lab, &last.snapshots[&Slot::Root].snapshot).pop().as_deref(), Some("just now"));
    let noted = lab.node("db-1").await.noted;
    assert!(noted[0].because.contains("db-1.b2"), "{noted:?}");
    assert_eq!(lab.node("db-1").await.operations, 1);
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_fails_is_seen_and_the_next_one_mends_it() {
    let mut lab = provisioned(quick_snapshots(4), 5, 3).await;
    let refused = Rule {
        target: Target::Only(Action::CreateSnapshots),
        when: When::Always,
        fault: Fault::Before("UnauthorizedOperation".into()),
    };
    lab.region.inject(refused);
    lab.until("three have failed", 30 * MINUTE, async |lab| lab.catalog("db-1").await.failed_in_a_row == 3)
        .await;
    let catalog = lab.catalog("db-1").await;
    assert!(
        catalog.failures.iter().all(|failure| failure.because.contains("UnauthorizedOperation")),
        "{catalog:?}"
    );
    assert_eq!(catalog.complete().count(), 0);
    lab.region.clear_faults();
    let catalog = backed_up(&mut lab, 4).await;
    assert_eq!((catalog.failed_in_a_row, catalog.failures.len()), (0, 3));
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_no_second_set() {
    for fault in [Fault::LostReply, Fault::LostRequest, Fault::After("InternalError".into())] {
        let mut settings = quick_snapshots(5);
        // The region shows a new snapshot late, and would take another one at once.
        settings.unknown_for = Span::ms(4_000, 6_000);
        settings.snapshot_quotas = Quotas::Off;
        let mut lab = provisioned(settings, 5, 3).await;
        lab.region.inject(Rule {
            target: Target::Only(Action::CreateSnapshots),
            when: When::Next(1),
            fault: fault.clone(),
        });
        let catalog = backed_up(&mut lab, 1).await;
        assert_eq!(catalog.failures, [], "{fault:?}");
        assert_eq!(snapshots(&lab).into_keys().collect::<BTreeSet<_>>(), listed(&catalog), "{fault:?}");
        assert_eq!(snapshots(&lab).len(), 2, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_an_image_uses_is_left_over_listed_and_goes_with_the_image() {
    let mut lab = provisioned(quick_snapshots(6), 5, 1).await;
    let catalog = backed_up(&mut lab, 1).await;
    let used = catalog.last_complete().unwrap().snapshots[&Slot::Root].snapshot.clone();
    let image = lab.region.with(|world, now_ms| {
        let traits: ImageTraits = world.image(&world.default_image()).unwrap().traits.clone();
        let request = ImageRequest {
            name: "mine".into(),
            root_snapshot: used.clone(),
            traits,
            uefi_data: None,
            tags: Tags::new(),
        };
        world.register_image(now_ms, &request).unwrap()
    });
    lab.until("three more", 30 * MINUTE, async |lab| lab.catalog("db-1").await.newest == 4).await;
    let catalog = lab.catalog("db-1").await;
    assert_eq!(catalog.pending_deletions.keys().collect::<Vec<_>>(), [&used]);
    assert!(
        catalog.pending_deletions[&used].because.as_ref().unwrap().contains("InvalidSnapshot.InUse"),
        "{catalog:?}"
    );
    assert!(lab.region.with(|world, _| world.snapshot(&used).is_some()));
    lab.region.with(|world, now_ms| world.deregister_image(now_ms, &image).unwrap());
    let catalog = backed_up(&mut lab, 6).await;
    assert_eq!(catalog.pending_deletions, BTreeMap::new());
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_others_are_not_touched() {
    let mut lab = provisioned(quick_snapshots(7), 5, 1).await;
    let catalog = backed_up(&mut lab, 1).await;
    // Somebody takes over one of them, by taking off our tags; and has one of their own, of the same volume.
    let taken = catalog.last_complete().unwrap().snapshots[&Slot::Root].clone();
    let theirs = lab.region.with(|world, now_ms| {
        let owner = [("perennial:owner".to_owned(), None)];
        world.delete_tags(now_ms, &[taken.snapshot.to_string()], &owner).unwrap();
        world
            .create_snapshot(now_ms + 60_000, &taken.volume, &Tags::from([("a".into(), "b".into())]))
            .unwrap()
    });
    lab.clock.sleep(MINUTE).await;
    lab.until("two more", 30 * MINUTE, async |lab| lab.catalog("db-1").await.newest == 3).await;
    lab.clock.sleep(MINUTE).await;
    for id in [&taken.snapshot, &theirs] {
        assert!(lab.region.with(|world, _| world.snapshot(id).is_some()), "{id} is not ours");
    }
    let because = lab.catalog("db-1").await.pending_deletions[&taken.snapshot].because.clone().unwrap();
    assert!(because.contains("delete it by hand"), "{because}");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_keeps_the_backups_or_takes_them_along() {
    for kept in [true, false] {
        let mut lab = provisioned(quick_snapshots(8), 5, 2).await;
        backed_up(&mut lab, 2).await;
        let keep = json!({"root": false, "data": false, "network": false, "backups": kept});
        lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(30 * MINUTE).await;
        let catalog = lab.catalog("db-1").await;
        assert_eq!(snapshots(&lab).len(), if kept { 4 } else { 0 }, "{}", lab.story().await);
        assert_eq!(catalog.complete().count(), if kept { 2 } else { 0 });
        assert_eq!(catalog.newest, 2, "a node that is gone is not backed up");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_book_is_followed_by_the_next_which_knows_what_it_knew() {
    let mut settings = quick_snapshots(9);
    settings.latencies.snapshot = Span::ms(1_000, 1_000);
    let mut lab = provisioned(settings, 1, 2).await;
    let full = u64::from(CATALOG_BACKUPS_MAX);
    lab.clock.sleep(100 * MINUTE).await;
    lab.until("the second catalog", 10 * MINUTE, async |lab| lab.catalog("db-1").await.newest > full + 1)
        .await;
    let catalog = backed_up(&mut lab, full + 2).await;
    let numbers: Vec<u64> = catalog.complete().map(|backup| backup.order.number).collect();
    assert_eq!(numbers, [full + 1, full + 2]);
    assert_eq!(snapshots(&lab).len(), 4);
    let open = lab.journal.summaries("backup", Which::Open, None, 10).await.unwrap();
    assert_eq!(open.iter().map(|row| row.stream.as_str()).collect::<Vec<_>>(), ["backup/db-1.2"]);
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_backup() {
    let run = async |k| {
        let mut lab = provisioned(quick_snapshots(10), 1, 1).await;
        backed_up(&mut lab, 1).await;
        lab.die_at(k);
        // The second backup, and the pruning of the first one.
        backed_up(&mut lab, 2).await;
        lab.disarm();
        let catalog = lab.catalog("db-1").await;
        assert_eq!((catalog.newest, catalog.failures.len()), (2, 0), "at {k}: {}", lab.story().await);
        assert_eq!(snapshots(&lab).into_keys().collect::<BTreeSet<_>>(), listed(&catalog), "at {k}");
        assert_eq!(snapshots(&lab).len(), 2, "at {k}");
        lab.check("db-1", &["before"]).await;
        lab
    };
    Deaths::at_every_point(20).of(run).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_asked_for_is_taken_at_once_and_never_while_the_volumes_move() {
    let mut lab = Lab::new(quick_snapshots(12));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    lab.submit("node.backup", "db-1", json!({"reason": "before the upgrade"})).await;
    lab.submit("node.backup", "db-1", json!({})).await;
    let catalog = backed_up(&mut lab, 1).await;
    assert_eq!(catalog.newest, 1, "the second request finds the first one under way");
    assert!(catalog.last_complete().unwrap().order.cause.to_string().contains("before the upgrade"));
    let dispositions = lab.dispositions().await.join(" ");
    assert!(dispositions.contains("\"backup_began\":{\"backup\":\"db-1.b1\"}"), "{dispositions}");
    assert!(dispositions.contains("backup db-1.b1 is under way"), "{dispositions}");
    lab.clock.sleep(30 * MINUTE).await;
    assert_eq!(lab.catalog("db-1").await.newest, 1, "without the section there is no schedule");
    lab.warn("db-1").await;
    lab.clock.sleep(Duration::from_secs(10)).await;
    lab.submit("node.backup", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let dispositions = lab.dispositions().await.join(" ");
    assert!(dispositions.contains("moves the node's volumes; the next backup follows it"), "{dispositions}");
    lab.check("db-1", &["before"]).await;
}

/// A hundred steps that look for what they have made share a look, and each gets its own.
#[tokio::test(start_paused = true)]
async fn a_hundred_backups_at_once_share_their_looks() {
    const NODES: usize = 100;
    let mut lab = Lab::new(quick_snapshots(13));
    for n in 0..NODES {
        let spec = lab.spec(&format!("db-{n}"), NetworkMode::None, RootMode::None);
        lab.submit("node.apply", &spec.name.to_string(), json!({ "spec": spec })).await;
    }
    for n in 0..NODES {
        lab.rest(&format!("db-{n}"), 1).await;
    }
    lab.clock.sleep(10 * MINUTE).await;
    let before = lab.region.calls().len();
    for n in 0..NODES {
        lab.submit("node.backup", &format!("db-{n}"), json!({})).await;
    }
    lab.clock.sleep(10 * MINUTE).await;
    for n in 0..NODES {
        let name = format!("db-{n}");
        let (node, catalog) = (lab.node(&name).await, lab.catalog(&name).await);
        let taken = &catalog.last_complete().expect("it was taken").snapshots;
        let of: Vec<_> = taken.values().map(|taken| &taken.volume).collect();
        let held: Vec<_> = node.resources.volumes.values().map(|held| &held.volume).collect();
        assert_eq!((of.len(), of), (1, held), "{name}");
    }
    let calls = lab.region.calls().split_off(before);
    let of = |action: Action| calls.iter().filter(|call| call.action == action).count();
    assert_eq!(of(Action::CreateSnapshots), NODES);
    // CreateSnapshots passes five a second: it takes twenty seconds, and four looks of either form a second.
    let looks = of(Action::DescribeSnapshots);
    assert!(looks <= 300, "{looks} looks at snapshots");
}
