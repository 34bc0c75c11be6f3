//! Volumes that come from elsewhere: taken as they are, carried like the others, left where they were.

use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Deaths;
use perennial_sim::world::settings::Settings;
use perennial_sim::world::stuck_detach::StuckDetach;
use perennial_workers::port::{Tags, VolumeRequest};
use perennial_workflows::model::aws::VolumeId;
use perennial_workflows::spec::node::{Handover, NetworkMode, NodeSpec, RootMode};
use perennial_workflows::step::evidence::Evidence;
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
    lab.warn("db-1").await;
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(lab.volume("db-1", "data").await, taken);
    let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
    lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
    lab.rest("db-1", 3).await;
    lab.check_without_instance("db-1").await;
    lab.region.with(|world, _| {
        let left = world.all_volumes().find(|left| left.id == taken).expect("it was there before the node");
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
            && lab.operation("db-1.2").await.facts.candidate.is_some_and(|new| new.runs())
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

#[tokio::test(start_paused = true)]
async fn a_volume_of_several_instances_is_refused_and_another_one_taken() {
    let mut lab = Lab::new(Settings::calm(7));
    let wrong = volume(&lab, 0, 20, Tags::new()).await;
    let right = volume(&lab, 0, 10, Tags::new()).await;
    lab.region.with(|world, _| world.enable_multi_attach(&wrong));
    lab.submit("node.apply", "db-1", json!({ "spec": with(&lab, &wrong) })).await;
    let why = lab.stuck("db-1.1").await;
    assert!(why.contains("name a volume of one instance") && why.contains("resume db-1.1"), "{why}");
    lab.submit("node.apply", "db-1", json!({ "spec": with(&lab, &right) })).await;
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.1" })).await;
    lab.rest("db-1", 1).await;
    assert_eq!(lab.volume("db-1", "data").await, right);
    lab.region.with(|world, _| assert!(world.volume(&wrong).unwrap().attachment.is_none()));
}

/// A node whose data volume will hang on the instance that carries it.
async fn hanging(hang: StuckDetach, minutes: Option<u64>) -> (Lab, VolumeId) {
    let mut lab = Lab::new(Settings::calm(7));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let volume = lab.volume("db-1", "data").await;
    let length_ms = minutes.map(|minutes| minutes * 60_000);
    lab.region.with(|world, now_ms| world.stick_detach(now_ms, &volume, hang, length_ms));
    (lab, volume)
}

/// By force only from a terminated instance, and only what did not leave it by itself.
fn forced(lab: &Lab) -> usize {
    lab.region.with(|world, _| {
        let forced = world.forced_detaches();
        assert!(forced.iter().all(|(_, _, state)| state == "terminated"), "{forced:?}");
        forced.len()
    })
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_hangs_after_the_termination_is_waited_for_and_then_detached_by_force() {
    for (workflow, minutes, expected) in [
        ("node.replace", Some(5), 0),
        ("node.replace", None, 1),
        ("node.pause", Some(5), 0),
        ("node.pause", None, 1),
    ] {
        let (mut lab, _) = hanging(StuckDetach::UntilForced, minutes).await;
        lab.submit(workflow, "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        assert_eq!(forced(&lab), expected, "{workflow} {minutes:?}");
        if workflow == "node.pause" {
            lab.check_without_instance("db-1").await;
            lab.submit("node.resume", "db-1", json!({})).await;
            lab.rest("db-1", 3).await;
        }
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_hangs_for_ever_is_a_persons_and_the_workflow_goes_on_when_it_is_free() {
    for workflow in ["node.replace", "node.pause"] {
        let (mut lab, volume) = hanging(StuckDetach::ForEver, None).await;
        let old = lab.instance("db-1").await;
        lab.submit(workflow, "db-1", json!({})).await;
        let why = lab.stuck("db-1.2").await;
        for part in [
            format!("{volume} hangs: it has been detaching on {old}, which is terminated, for 60 min"),
            "a forced detach was asked for".to_owned(),
            format!("aws ec2 detach-volume --volume-id {volume} --instance-id {old} --force"),
            "perennial workflow resume db-1.2".to_owned(),
        ] {
            assert!(why.contains(&part), "{part:?} is not in {why:?}");
        }
        assert!(forced(&lab) > 1, "it is tried again");
        lab.region.with(|world, now_ms| world.release_stuck_detach(now_ms, &volume));
        lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2" })).await;
        lab.rest("db-1", 2).await;
        match workflow {
            "node.pause" => lab.check_without_instance("db-1").await,
            _ => lab.check("db-1", &["before"]).await,
        }
    }
}

/// A live detach that hangs holds nothing up: the volume follows after the fence.
#[tokio::test(start_paused = true)]
async fn a_live_detach_that_hangs_gives_way_to_the_fence() {
    for minutes in [Some(2), None] {
        let mut lab = Lab::new(Settings::calm(7));
        let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::None);
        spec.persist.handover = Handover::Detach;
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        let (old, volume) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
        lab.region.with(|world, now_ms| {
            world.unmount(now_ms, &old, &volume).unwrap();
            let length_ms = minutes.map(|minutes: u64| minutes * 60_000);
            world.stick_detach(now_ms, &volume, StuckDetach::UntilForced, length_ms);
        });
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        assert_eq!(forced(&lab), usize::from(minutes.is_none()));
        lab.check("db-1", &["before"]).await;
        let steps = lab.operation("db-1.2").await;
        let settled = |name: &str| {
            steps
                .steps
                .values()
                .find(|record| record.step.to_string() == name)
                .and_then(|record| record.outcome.clone())
        };
        let (detach, fenced) = (settled("detach:data").unwrap(), settled(&format!("fence:{old}")).unwrap());
        assert!(detach.1 <= fenced.1, "{detach:?} {fenced:?}");
        assert_eq!(settled("release:data").unwrap().0, Evidence::Released);
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_around_a_forced_detach() {
    let run = async |k| {
        let (mut lab, _) = hanging(StuckDetach::UntilForced, None).await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.until("it hangs", Duration::from_secs(600), async |lab| {
            lab.node("db-1").await.operations == 2
                && lab.operation("db-1.2").await.open_steps().iter().any(|step| step.step == "release:data")
        })
        .await;
        lab.clock.sleep(Duration::from_secs(597)).await;
        lab.die_at(k);
        lab.rest("db-1", 2).await;
        lab.disarm();
        assert!(forced(&lab) >= 1, "it was needed");
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.check("db-1", &["before"]).await;
        lab
    };
    Deaths::at_every_point(20).of(run).await;
}
