//! Situations in which storms found a node stuck or its root gone, each as small as it can be told. The seeds themselves are
//! repeated by `storms`.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::{quick, slot};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::settings::RootFlag;
use perennial_workers::port::error::Action;
use perennial_workflows::model::aws::{InstanceId, InstanceState, VolumeId};
use perennial_workflows::spec::node::{NetworkMode, RootMode};
use perennial_workflows::step::intent::{AdoptRoot, Intent};
use serde_json::json;

/// Long enough for anything that is not stuck.
const SOON: Duration = Duration::from_secs(900);

/// A node with a backup that no last snapshot follows.
async fn backed_up() -> Lab {
    let change = |spec: &mut perennial_workflows::spec::node::NodeSpec| {
        spec.backup.as_mut().unwrap().at_release = false;
    };
    Lab::backed_up(quick(7), NetworkMode::SecondaryIp, RootMode::Adopt, change).await.0
}

/// The instance by which an operation is adopting the root.
async fn adopting(lab: &mut Lab, operation: &str) -> InstanceId {
    let by = async |lab: &Lab| {
        let op = lab.operation(operation).await;
        op.open_steps().iter().find_map(|step| match step.intent.as_ref() {
            Intent::AdoptRoot(AdoptRoot { instance, .. }) => Some(instance.clone()),
            _ => None,
        })
    };
    let what = format!("{operation} adopts the root");
    lab.until(&what, SOON, async |lab| {
        lab.node("db-1").await.open.is_some_and(|(open, _)| open.to_string() == operation)
            && by(lab).await.is_some()
    })
    .await;
    by(lab).await.unwrap()
}

async fn ends(lab: &mut Lab, instance: &InstanceId) {
    lab.until(&format!("{instance} is fenced"), SOON, async |lab| {
        lab.region.with(|world, _| {
            world.instance(instance).is_none_or(|instance| instance.state != InstanceState::Running)
        })
    })
    .await;
}

/// Somebody deletes the root as soon as it is free, while the process is dead.
async fn root_is_deleted(lab: &mut Lab, root: &VolumeId, with: &InstanceId) {
    ends(lab, with).await;
    lab.kill().await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.region.with(|world, now_ms| world.delete_volume(now_ms, root).unwrap());
    lab.clock.sleep(Duration::from_secs(10)).await;
    lab.start();
}

async fn is_over(lab: &mut Lab, operations: u64) {
    lab.until(&format!("operation {operations} is over"), SOON, async |lab| {
        let node = lab.node("db-1").await;
        node.operations >= operations && node.open.is_none()
    })
    .await;
}

/// What brings the node nowhere does not need the root. Storms found it stuck: 700078 (an adoption that failed while a pause was
/// asked for), 701968 (a resume that was cancelled).
#[tokio::test(start_paused = true)]
async fn a_pause_ends_without_a_root_that_was_deleted_and_the_resume_brings_it_back() {
    for case in ["a pause", "a replacement that became a pause", "a resume that was cancelled"] {
        let mut lab = backed_up().await;
        let root = lab.volume("db-1", "root").await;
        let (ended, with) = match case {
            "a pause" => {
                let old = lab.instance("db-1").await;
                lab.submit("node.pause", "db-1", json!({})).await;
                (2, old)
            }
            "a replacement that became a pause" => {
                lab.submit("node.replace", "db-1", json!({})).await;
                let new = adopting(&mut lab, "db-1.2").await;
                lab.submit("node.pause", "db-1", json!({})).await;
                (2, new)
            }
            _ => {
                lab.submit("node.pause", "db-1", json!({})).await;
                lab.rest("db-1", 2).await;
                lab.submit("node.resume", "db-1", json!({})).await;
                let new = adopting(&mut lab, "db-1.3").await;
                lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.3" })).await;
                (3, new)
            }
        };
        root_is_deleted(&mut lab, &root, &with).await;
        is_over(&mut lab, ended).await;
        assert!(lab.node("db-1").await.is_paused(), "{case}");
        lab.submit("node.resume", "db-1", json!({})).await;
        is_over(&mut lab, ended + 1).await;
        assert!(lab.reads("db-1", "root", "before").await, "{case}");
        assert!(lab.reads("db-1", "data", "after the backup").await, "{case}");
        let points = lab.node("db-1").await.resources.recovery_points;
        assert!(points[&slot("root")].loss_ms().is_some_and(|lost_ms| lost_ms > 0), "{case}: {points:?}");
        lab.clock.sleep(Duration::from_secs(400)).await;
        lab.check("db-1", &["before"]).await;
    }
}

/// A replacement that became a deletion has no use for any volume.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_follows_a_replacement_ends_without_a_root_that_was_deleted() {
    let mut lab = backed_up().await;
    let root = lab.volume("db-1", "root").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    let new = adopting(&mut lab, "db-1.2").await;
    let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
    lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
    root_is_deleted(&mut lab, &root, &new).await;
    lab.until("it is deleted", SOON, async |lab| lab.node("db-1").await.deleted).await;
}

/// The adoption itself sees that the root is gone, minutes before its time is over.
#[tokio::test(start_paused = true)]
async fn an_adoption_misses_a_root_that_is_gone() {
    let mut lab = backed_up().await;
    let root = lab.volume("db-1", "root").await;
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    lab.region.with(|world, now_ms| world.delete_volume(now_ms, &root).unwrap());
    lab.submit("node.resume", "db-1", json!({})).await;
    lab.until("it is back", Duration::from_secs(500), async |lab| {
        let node = lab.node("db-1").await;
        node.operations >= 3 && node.open.is_none()
    })
    .await;
    assert!(lab.reads("db-1", "root", "before").await);
    assert!(lab.node("db-1").await.resources.recovery_points[&slot("root")].is_loss());
}

/// Storms found it stuck for an hour and then for a person: 700092.
#[tokio::test(start_paused = true)]
async fn a_volume_that_is_attached_to_the_new_instance_by_hand_has_arrived() {
    let (mut lab, _) = Lab::provisioned(quick(7), NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await;
    let (old, data) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
    lab.submit("node.replace", "db-1", json!({})).await;
    ends(&mut lab, &old).await;
    lab.kill().await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.region.with(|world, now_ms| {
        let live: Vec<InstanceId> =
            world.instances_of("db-1").iter().map(|instance| instance.id.clone()).collect();
        assert_eq!(live.len(), 1, "the new one runs, and the old one is over");
        world.attach_volume(now_ms, &data, &live[0], "/dev/sdf").unwrap();
    });
    lab.clock.sleep(Duration::from_secs(10)).await;
    lab.start();
    is_over(&mut lab, 2).await;
    assert_eq!(lab.volume("db-1", "data").await, data);
    lab.check("db-1", &["before"]).await;
}

/// Where the root of an adoption dies with its instance unless it is preserved: the call of an adoption that was refused for a
/// while comes through after everything on the instance was preserved, and before it is terminated.
#[tokio::test(start_paused = true)]
async fn an_instance_is_not_terminated_while_it_may_still_adopt_the_root() {
    let mut settings = quick(7);
    settings.root_flag = RootFlag::Delete;
    let (mut lab, _) = Lab::provisioned(settings, NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await;
    let root = lab.volume("db-1", "root").await;
    let throttle = |lab: &Lab, action: Action| {
        let fault = Fault::Before("RequestLimitExceeded".into());
        lab.region.inject(Rule { target: Target::Only(action), when: When::Always, fault });
    };
    throttle(&lab, Action::CreateReplaceRootVolumeTask);
    lab.submit("node.replace", "db-1", json!({})).await;
    let new = adopting(&mut lab, "db-1.2").await;
    throttle(&lab, Action::TerminateInstances);
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.until("what is on it is preserved", SOON, async |lab| {
        let op = lab.operation("db-1.2").await;
        op.facts.holders.iter().any(|holder| holder.instance == new && holder.preserved)
    })
    .await;
    lab.region.clear_faults();
    throttle(&lab, Action::TerminateInstances);
    lab.until("the adoption comes through", SOON, async |lab| {
        lab.region.with(|world, _| {
            let on = world.volume(&root).and_then(|volume| volume.attachment.as_ref());
            on.is_some_and(|on| on.instance == new)
        })
    })
    .await;
    lab.region.clear_faults();
    is_over(&mut lab, 2).await;
    lab.region.with(|world, _| {
        assert!(world.all_volumes().any(|volume| volume.id == root), "the root is gone");
    });
    lab.check_without_instance("db-1").await;
    lab.submit("node.resume", "db-1", json!({})).await;
    is_over(&mut lab, 3).await;
    assert_eq!(lab.volume("db-1", "root").await, root);
    lab.check("db-1", &["before"]).await;
}

/// Where EC2 sets DeleteOnTermination of an adopted root, the look that sees the root clears it: storms lost roots in
/// the second until the next step did (700207, 703441, 703836).
#[tokio::test(start_paused = true)]
async fn an_adopted_root_is_safe_as_soon_as_it_is_seen() {
    let mut settings = quick(7);
    settings.root_flag = RootFlag::Delete;
    let (mut lab, _) = Lab::provisioned(settings, NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await;
    let root = lab.volume("db-1", "root").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    let new = adopting(&mut lab, "db-1.2").await;
    let is_adopted = async |lab: &Lab| {
        let op = lab.operation("db-1.2").await;
        op.facts.candidate.is_some_and(|candidate| candidate.adopted)
    };
    while !is_adopted(&lab).await {
        lab.clock.sleep(Duration::from_millis(20)).await;
    }
    let dying = lab.region.with(|world, _| world.would_be_deleted_with(&new));
    assert!(!dying.contains(&root.to_string()), "{root} would die with {new}: {dying:?}");
    is_over(&mut lab, 2).await;
    lab.check("db-1", &["before"]).await;
}
