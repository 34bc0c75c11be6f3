//! Volumes that come from elsewhere: taken as they are, carried like the others, left where they were.

mod lab;

use std::time::Duration;

use lab::Lab;
use perennial_sim::world::Notice;
use perennial_sim::world::settings::Settings;
use perennial_workers::cloud::{Tags, VolumeRequest};
use perennial_workflows::aws::VolumeId;
use perennial_workflows::spec::{NetworkMode, NodeSpec, RootMode};
use serde_json::json;

/// A volume of the account's, in the nth zone.
async fn volume(lab: &Lab, zone: usize, size_gib: u32, tags: Tags) -> VolumeId {
    let made = lab.region.with(|world, now_ms| {
        let request = VolumeRequest {
            client_token: format!("{zone} {size_gib} {tags:?}"),
            zone: world.zones()[zone].clone(),
            size_gib,
            volume_type: "gp3".into(),
            iops: None,
            throughput: None,
            encrypted: false,
            kms_key: None,
            snapshot: None,
            tags,
        };
        world.create_volume(now_ms, &request).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(60)).await;
    made
}

fn with(lab: &Lab, volume: &VolumeId) -> NodeSpec {
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    spec.data_volumes[0].volume = Some(volume.clone());
    spec
}

#[tokio::test(start_paused = true)]
async fn an_existing_volume_is_taken_carried_and_left_by_the_deletion() {
    let mut lab = Lab::new(Settings::calm(7));
    let taken = volume(&lab, 0, 20, Tags::new()).await;
    let spec = with(&lab, &taken);
    lab.provision(&spec).await;
    assert_eq!(lab.volume("db-1", "data").await, taken);
    lab.write("db-1", "before").await;
    lab.check("db-1", &["before"]).await;
    let old = lab.instance("db-1").await;
    lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(lab.volume("db-1", "data").await, taken);
    let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
    lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
    lab.rest("db-1", 3).await;
    lab.check_without_instance("db-1").await;
    lab.region.with(|world, _| {
        let left = world.volume(&taken).expect("it was there before the node");
        assert!(left.attachment.is_none(), "it is free again");
    });
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_provision_lets_an_existing_volume_go() {
    let mut lab = Lab::new(Settings::calm(7));
    let taken = volume(&lab, 0, 20, Tags::new()).await;
    let spec = with(&lab, &taken);
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.until("it is taken", Duration::from_secs(60), async |lab| {
        lab.node("db-1").await.open.is_some()
            && lab.operation("db-1.1").await.facts.volumes.values().any(|fact| fact.id.is_some())
    })
    .await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.1" })).await;
    lab.rest("db-1", 1).await;
    lab.check_without_instance("db-1").await;
    lab.region.with(|world, _| assert!(world.volume(&taken).is_some_and(|left| left.attachment.is_none())));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_is_refused_with_its_reason_and_taken_once_it_can_be() {
    let other = Tags::from([
        ("perennial:node".to_owned(), "db-9".to_owned()),
        ("perennial:owner".to_owned(), "another".to_owned()),
    ]);
    for (zone, size_gib, tags, expected) in [
        (1, 20, Tags::new(), "the node lives in"),
        (0, 5, Tags::new(), "say at most 5"),
        (0, 20, other, "node db-9 of the installation another"),
    ] {
        let mut lab = Lab::new(Settings::calm(7));
        let wrong = volume(&lab, zone, size_gib, tags).await;
        let right = volume(&lab, 0, 10, Tags::new()).await;
        let spec = with(&lab, &wrong);
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        let why = lab.stuck("db-1.1").await;
        assert!(why.contains(expected), "{why}");
        let spec = with(&lab, &right);
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.1" })).await;
        lab.rest("db-1", 1).await;
        assert_eq!(lab.volume("db-1", "data").await, right);
        lab.write("db-1", "first").await;
        lab.check("db-1", &["first"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_in_use_is_not_taken() {
    let mut lab = Lab::new(Settings::calm(7));
    let taken = volume(&lab, 0, 20, Tags::new()).await;
    let mut first = with(&lab, &taken);
    first.name = "db-9".to_owned().try_into().unwrap();
    lab.provision(&first).await;
    lab.submit("node.apply", "db-1", json!({ "spec": with(&lab, &taken) })).await;
    let why = lab.stuck("db-1.1").await;
    let holder = lab.instance("db-9").await;
    assert!(why.contains(&format!("{taken} is held by {holder}")), "{why}");
    assert_eq!(lab.volume("db-9", "data").await, taken, "and its node keeps it");
}

/// A name that somebody takes on the new instance gives way to another; the volume keeps that one from then on.
#[tokio::test(start_paused = true)]
async fn a_device_name_is_chosen_kept_and_given_up_when_it_stays_in_use() {
    let mut lab = Lab::new(Settings::calm(7));
    let stray = volume(&lab, 0, 5, Tags::new()).await;
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::None);
    spec.data_volumes[0].device = None;
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let device = async |lab: &Lab| {
        let volumes = lab.node("db-1").await.resources.volumes;
        volumes.into_values().next().unwrap().device
    };
    assert_eq!(device(&lab).await, "/dev/sdf");
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.until("the new instance runs", Duration::from_secs(120), async |lab| {
        lab.node("db-1").await.operations == 2
            && lab.operation("db-1.2").await.facts.candidate.is_some_and(|new| new.network.is_some())
    })
    .await;
    let new = lab.operation("db-1.2").await.facts.candidate.unwrap().instance;
    lab.region.with(|world, now_ms| world.attach_volume(now_ms, &stray, &new, "/dev/sdf").unwrap());
    lab.rest("db-1", 2).await;
    assert_eq!(device(&lab).await, "/dev/sdg", "{}", lab.story().await);
    lab.region.with(|world, now_ms| {
        world.unmount(now_ms, &new, &stray).unwrap();
        world.detach_volume(now_ms, &stray, None).unwrap();
    });
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.check("db-1", &["before"]).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 3).await;
    assert_eq!(device(&lab).await, "/dev/sdg", "it is stable");
    lab.check("db-1", &["before"]).await;
}
