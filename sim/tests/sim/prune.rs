//! What is retained is deleted, by somebody's wish or as the file says: that, and nothing else.

use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Deaths;
use perennial_sim::world::Notice;
use perennial_sim::world::settings::{Settings, Span};
use perennial_workers::port::Tags;
use perennial_workflows::model::aws::VolumeId;
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::model::resources::Retained;
use perennial_workflows::model::signal::Cause;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

const DAY: Duration = Duration::from_hours(24);

/// A node that leaves its root and its data volume behind with each replacement, and has been replaced so often.
async fn replaced(times: u64, change: impl FnOnce(&mut NodeSpec)) -> Lab {
    let mut settings = Settings::calm(11);
    settings.latencies.snapshot = Span::ms(3_000, 4_000);
    settings.latencies.image = Span::ms(2_000, 3_000);
    let mut lab = Lab::new(settings);
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Image);
    spec.persist.data = DataMode::Snapshot;
    change(&mut spec);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    for time in 0..times {
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2 + time).await;
    }
    // The old ones are seen free by whoever looks.
    lab.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.node("db-1").await.resources.retained.len() as u64, 2 * times);
    lab
}

async fn retained(lab: &Lab) -> Vec<Retained> {
    lab.node("db-1").await.resources.retained
}

fn exists(lab: &Lab, volume: &VolumeId) -> bool {
    lab.region.with(|world, _| world.all_volumes().any(|known| known.id == *volume))
}

async fn prune(lab: &mut Lab, params: serde_json::Value) {
    let operations = lab.node("db-1").await.operations;
    lab.submit("node.prune", "db-1", params).await;
    lab.rest("db-1", operations + 1).await;
    // What is being deleted goes.
    lab.clock.sleep(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_is_deleted_and_the_node_has_all_it_had() {
    let mut lab = replaced(2, |_| {}).await;
    let old = retained(&lab).await;
    assert!(old.iter().all(|old| old.size_gib.is_some()), "what each costs is known: {old:?}");
    let instance = lab.instance("db-1").await;
    // One by its name.
    prune(&mut lab, json!({ "volumes": [old[0].volume], "reason": "the new one is good" })).await;
    let left: Vec<_> = old.iter().map(|old| exists(&lab, &old.volume)).collect();
    assert_eq!(left, [false, true, true, true]);
    let operation = lab.operation("db-1.4").await;
    assert_eq!(operation.order.kind, OperationKind::Prune);
    assert_eq!(operation.order.cause.to_string(), "asked for by lab: the new one is good");
    assert_eq!(operation.order.prune[0].volume, old[0].volume);
    // The newest of each stays.
    prune(&mut lab, json!({ "older_than_s": 0, "keep": 1 })).await;
    assert_eq!(retained(&lab).await.len(), 2);
    // Then the others, whose age is not told twice.
    let since: Vec<_> = retained(&lab).await.iter().map(|old| old.since_ms).collect();
    let told: Vec<_> = old[2..].iter().map(|old| old.since_ms).collect();
    assert_eq!(since, told);
    prune(&mut lab, json!({ "older_than_s": 0 })).await;
    assert!(retained(&lab).await.is_empty());
    assert!(old.iter().all(|old| !exists(&lab, &old.volume)));
    assert_eq!(lab.instance("db-1").await, instance, "nothing is taken from the node");
    lab.check("db-1", &["before"]).await;
    // And it goes on as ever.
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 7).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_cannot_be_followed_is_refused_with_why() {
    let mut lab = replaced(1, |_| {}).await;
    let own = lab.volume("db-1", "data").await;
    let old = retained(&lab).await;
    lab.submit("node.prune", "db-1", json!({})).await;
    lab.submit("node.prune", "db-1", json!({ "volumes": [own] })).await;
    lab.submit("node.prune", "db-2", json!({})).await;
    lab.clock.sleep(Duration::from_secs(10)).await;
    let dispositions = lab.dispositions().await.join("\n");
    assert!(
        dispositions.contains("nothing that is retained is to be deleted by that"),
        "a week: {dispositions}"
    );
    assert!(
        dispositions.contains(&format!("{own} is not retained by the node; it is the node's data")),
        "{dispositions}"
    );
    assert!(dispositions.contains("there is no node db-2"), "{dispositions}");
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(5)).await;
    lab.submit("node.prune", "db-1", json!({ "older_than_s": 0 })).await;
    lab.clock.sleep(Duration::from_secs(5)).await;
    let dispositions = lab.dispositions().await.join("\n");
    assert!(dispositions.contains("workflow db-1.3 (replace) holds the node; wait for it"), "{dispositions}");
    lab.rest("db-1", 3).await;
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.rest("db-1", 4).await;
    lab.submit("node.prune", "db-1", json!({ "volumes": [old[0].volume] })).await;
    lab.clock.sleep(Duration::from_secs(10)).await;
    let dispositions = lab.dispositions().await.join("\n");
    assert!(dispositions.contains("no instance carries the node"), "{dispositions}");
    assert_eq!(lab.node("db-1").await.operations, 4);
    assert!(old.iter().all(|old| exists(&lab, &old.volume)));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_uses_or_is_anothers_by_its_tags_stays_and_is_told() {
    let mut lab = replaced(2, |_| {}).await;
    let mut other = lab.spec("db-2", NetworkMode::None, RootMode::None);
    other.data_volumes.clear();
    lab.provision(&other).await;
    let elsewhere = lab.instance("db-2").await;
    let old = retained(&lab).await;
    let (used, anothers, nobodys) = (&old[0].volume, &old[1].volume, &old[2].volume);
    lab.region.with(|world, now_ms| {
        world.attach_volume(now_ms, used, &elsewhere, "/dev/sdm").unwrap();
        let tags = |key: &str, value: &str| Tags::from([(key.to_owned(), value.to_owned())]);
        world.create_tags(now_ms, &[anothers.to_string()], &tags("perennial:owner", "somebody")).unwrap();
        let key = [("perennial:node".to_owned(), None)];
        world.delete_tags(now_ms, &[nobodys.to_string()], &key).unwrap();
    });
    lab.clock.sleep(Duration::from_secs(60)).await;
    prune(&mut lab, json!({ "older_than_s": 0 })).await;
    let left = retained(&lab).await;
    let told: Vec<_> =
        left.iter().map(|old| (&old.volume, old.failed_deletion.clone().unwrap().because)).collect();
    assert_eq!(left.len(), 3, "{told:?}");
    assert_eq!(told[0].1, format!("InUse: {used} is attached to {elsewhere}: somebody uses it"));
    let whose = "it is node db-1's of the installation somebody, by its tags";
    assert_eq!(told[1].1, format!("NotOurs: {anothers}: {whose}; delete it by hand if nobody needs it"));
    assert!(told[2].1.contains("it does not carry the node's tags"), "{told:?}");
    assert!([used, anothers, nobodys].iter().all(|volume| exists(&lab, volume)));
    assert!(!exists(&lab, &old[3].volume), "the others go");
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_while_the_volume_in_its_place_is_not_seen_on_the_instance() {
    let mut lab = replaced(1, |_| {}).await;
    let (instance, data) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
    let old = retained(&lab).await;
    let of_data = old.iter().find(|old| old.slot.to_string() == "data").unwrap().volume.clone();
    lab.region.with(|world, now_ms| {
        world.unmount(now_ms, &instance, &data).unwrap();
        world.detach_volume(now_ms, &data, Some(&instance)).unwrap();
    });
    lab.clock.sleep(Duration::from_secs(60)).await;
    prune(&mut lab, json!({ "older_than_s": 0 })).await;
    let left = retained(&lab).await;
    assert_eq!(left.len(), 1, "the old root goes: {left:?}");
    assert_eq!(left[0].volume, of_data);
    let because = &left[0].failed_deletion.as_ref().unwrap().because;
    assert!(
        because.contains(&format!("{data}, which has its place, is not seen on {instance}")),
        "{because}"
    );
    assert!(exists(&lab, &of_data));
}

#[tokio::test(start_paused = true)]
async fn a_loss_and_a_replacement_do_not_wait_for_a_prune() {
    for lost in [true, false] {
        let mut lab = replaced(2, |_| {}).await;
        let instance = lab.instance("db-1").await;
        lab.submit("node.prune", "db-1", json!({ "older_than_s": 0 })).await;
        lab.until("the prune is open", Duration::from_secs(30), async |lab| {
            lab.node("db-1").await.open.is_some()
        })
        .await;
        if lost {
            lab.region.with(|world, now_ms| world.interrupt(now_ms, &instance, Notice::default()).unwrap());
        } else {
            lab.submit("node.replace", "db-1", json!({})).await;
        }
        lab.until("the replacement", Duration::from_secs(5), async |lab| {
            lab.node("db-1").await.operations == 5
        })
        .await;
        lab.rest("db-1", 5).await;
        lab.check("db-1", &["before"]).await;
        assert_ne!(lab.instance("db-1").await, instance);
        // What was gone when it gave way is found so.
        prune(&mut lab, json!({ "older_than_s": 0 })).await;
        assert!(retained(&lab).await.is_empty(), "lost: {lost}");
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_prune() {
    let run = async |k| {
        let mut lab = replaced(1, |_| {}).await;
        let old = retained(&lab).await;
        lab.die_at(k);
        lab.submit("node.prune", "db-1", json!({ "older_than_s": 0 })).await;
        lab.rest("db-1", 3).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(60)).await;
        assert!(retained(&lab).await.is_empty(), "at {k}\n{}", lab.story().await);
        assert!(old.iter().all(|old| !exists(&lab, &old.volume)), "at {k}");
        lab.check("db-1", &["before"]).await;
        lab
    };
    Deaths::at_every_point(10).of(run).await;
}

#[tokio::test(start_paused = true)]
async fn with_retain_days_the_node_is_pruned_by_itself_when_the_time_has_come() {
    let lab = replaced(1, |spec| spec.persist.retain_days = Some(1)).await;
    lab.clock.sleep(DAY - Duration::from_secs(600)).await;
    assert_eq!((lab.node("db-1").await.operations, retained(&lab).await.len()), (2, 2), "not before");
    lab.clock.sleep(Duration::from_secs(90 * 60)).await;
    let operations = lab.node("db-1").await.operations;
    assert!(retained(&lab).await.is_empty(), "{}", lab.story().await);
    let operation = lab.operation("db-1.3").await;
    assert_eq!(operation.order.cause, Cause::RetainedLonger { retain_days: 1 });
    lab.clock.sleep(DAY).await;
    assert_eq!(lab.node("db-1").await.operations, operations, "nothing is left to do");
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_for_its_age_by_a_clock_that_disagrees_with_the_regions() {
    // Set while it runs, and while it is away.
    for away in [false, true] {
        let mut lab = replaced(1, |spec| spec.persist.retain_days = Some(7)).await;
        let set = 8 * i64::try_from(DAY.as_millis()).unwrap();
        if away {
            lab.kill().await;
        }
        lab.machine.set(set);
        if away {
            lab.start();
        }
        lab.clock.sleep(Duration::from_hours(2)).await;
        assert_eq!(retained(&lab).await.len(), 2, "{away}: {}", lab.story().await);
        let story = lab.story().await;
        assert!(story.contains("the machine's clock is 691200 s ahead of AWS's"), "{away}: {story}");
        lab.machine.set(-set);
        lab.clock.sleep(Duration::from_hours(2)).await;
        assert_eq!(retained(&lab).await.len(), 2, "{away}: it is not old");
        // It is tried again a day after the failed try, which is stamped by the wrong clock: on the ninth day.
        lab.clock.sleep(10 * DAY).await;
        assert!(retained(&lab).await.is_empty(), "{away}: {}", lab.story().await);
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_deleted_is_tried_again_a_day_later_and_not_before() {
    let mut lab = replaced(1, |spec| spec.persist.retain_days = Some(1)).await;
    let old = retained(&lab).await;
    let mut other = lab.spec("db-2", NetworkMode::None, RootMode::None);
    other.data_volumes.clear();
    lab.provision(&other).await;
    let elsewhere = lab.instance("db-2").await;
    lab.region.with(|world, now_ms| {
        for (old, device) in old.iter().zip(["/dev/sdm", "/dev/sdn"]) {
            world.attach_volume(now_ms, &old.volume, &elsewhere, device).unwrap();
        }
    });
    lab.clock.sleep(DAY + Duration::from_secs(2 * 3_600)).await;
    let tried = lab.node("db-1").await.operations;
    assert!((3..=4).contains(&tried), "once for each moment: {tried}\n{}", lab.story().await);
    assert!(retained(&lab).await.iter().all(|old| old.failed_deletion.is_some()));
    lab.clock.sleep(Duration::from_secs(20 * 3_600)).await;
    assert_eq!(lab.node("db-1").await.operations, tried, "it is not repeated hot");
    lab.region.with(|world, now_ms| {
        for old in &old {
            world.unmount(now_ms, &elsewhere, &old.volume).unwrap();
            world.detach_volume(now_ms, &old.volume, Some(&elsewhere)).unwrap();
        }
    });
    lab.clock.sleep(Duration::from_secs(6 * 3_600)).await;
    assert!(retained(&lab).await.is_empty(), "{}", lab.story().await);
}
