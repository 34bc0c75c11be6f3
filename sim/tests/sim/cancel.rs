//! Cancelled at any moment, abandoned at any step: the node is as it was, or there is only forward; nothing is leaked.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::quick;
use crate::sweep::{Deaths, Seen};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::Capacity;
use perennial_workers::port::error::Action;
use perennial_workflows::spec::node::{Handover, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

async fn prepared(network: NetworkMode, root: RootMode, handover: Handover) -> Lab {
    let change = |lab: &Lab, spec: &mut NodeSpec| {
        spec.persist.handover = handover;
        spec.network.elastic_ip = Some(lab.elastic());
    };
    let (lab, _) = Lab::provisioned(quick(3), network, root, change).await;
    if handover == Handover::Detach {
        unmount(&lab).await;
    }
    lab
}

/// The node lets go of its data volume, as one does that is asked to hand it over alive.
async fn unmount(lab: &Lab) {
    let (instance, volume) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
    lab.region.with(|world, now_ms| world.unmount(now_ms, &instance, &volume).unwrap());
}

/// A volume in use stays `busy` for ever; the cancellation waits for it, and a person.
#[tokio::test(start_paused = true)]
async fn a_volume_that_was_asked_to_leave_and_is_in_use_is_waited_for() {
    let mut lab = Lab::new(quick(3));
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::None);
    spec.persist.handover = Handover::Detach;
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let old = lab.instance("db-1").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.until("the detach", Duration::from_secs(60), async |lab| {
        lab.region.calls().iter().any(|call| call.action == Action::DetachVolume)
    })
    .await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2" })).await;
    let why = lab.stuck("db-1.2").await;
    assert!(why.contains("unmount it"), "{why}");
    unmount(&lab).await;
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2" })).await;
    lab.rest("db-1", 2).await;
    assert_eq!(lab.instance("db-1").await, old);
    lab.check("db-1", &["before"]).await;
}

/// A replacement that is cancelled after so long; whether it could be.
async fn cancelled_after(lab: &mut Lab, wait: Duration) -> bool {
    let before = lab.node("db-1").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(wait).await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2", "reason": "a test" })).await;
    lab.rest("db-1", 2).await;
    lab.disarm();
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.check("db-1", &["before"]).await;
    let after = lab.node("db-1").await;
    let back = after.resources.carrier == before.resources.carrier;
    assert_eq!(after.generation, if back { 1 } else { 2 });
    assert_eq!(after.resources.address, before.resources.address);
    assert_eq!(after.resources.elastic, before.resources.elastic);
    assert_eq!(after.operations, 2, "{}", lab.story().await);
    back
}

#[tokio::test(start_paused = true)]
async fn a_replacement_may_be_cancelled_at_any_moment() {
    for (network, root, handover) in [
        (NetworkMode::SecondaryIp, RootMode::Adopt, Handover::Terminate),
        (NetworkMode::SecondaryIp, RootMode::None, Handover::Detach),
        (NetworkMode::SecondaryEni, RootMode::None, Handover::Detach),
        (NetworkMode::PrimaryEni, RootMode::Adopt, Handover::Terminate),
        (NetworkMode::None, RootMode::Image, Handover::Terminate),
    ] {
        let mut backs = Vec::new();
        for moment in 0..45 {
            let mut lab = prepared(network, root, handover).await;
            backs.push(cancelled_after(&mut lab, Duration::from_millis(600 * moment)).await);
        }
        assert!(backs[0], "{network:?} {root:?}: at once, it can be cancelled");
        assert!(!backs[44], "{network:?} {root:?}: late, there is only forward");
        assert!(backs.is_sorted_by(|a, b| a >= b), "{network:?} {root:?}: there is one point of no return");
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_cancellation() {
    // In the middle of a live handover: something has left the old instance already.
    let wait = Duration::from_millis(6_500);
    let run = async |k| {
        let mut lab = prepared(NetworkMode::SecondaryIp, RootMode::None, Handover::Detach).await;
        lab.die_at(k);
        let could = cancelled_after(&mut lab, wait).await;
        assert!(could || k != u64::MAX, "the moment is before the point of no return");
        lab
    };
    Deaths::at_every_point(40).of(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_provision_may_be_cancelled_at_any_moment_and_applied_again() {
    let mut cancelled = Seen::at_least(40, "provisions that were cancelled");
    let mut provisioned = Seen::at_least(2, "provisions past the point of no return");
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryIp] {
        for tenths in 0..40 {
            let mut lab = Lab::new(quick(3));
            let spec = lab.spec("db-1", network, RootMode::Adopt);
            lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
            lab.clock.sleep(Duration::from_millis(300 * tenths)).await;
            lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.1" })).await;
            lab.rest("db-1", 1).await;
            lab.clock.sleep(Duration::from_secs(60)).await;
            let node = lab.node("db-1").await;
            cancelled.when(node.deleted);
            provisioned.when(!node.deleted);
            if !node.deleted {
                lab.check("db-1", &[]).await;
                continue;
            }
            lab.check_without_instance("db-1").await;
            lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
            lab.rest("db-1", 2).await;
            lab.write("db-1", "first").await;
            lab.clock.sleep(Duration::from_secs(60)).await;
            lab.check("db-1", &["first"]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_provision_that_waits_for_capacity_can_be_cancelled() {
    let mut lab = Lab::new(quick(3));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.set_capacity(&spec, 0, Capacity::Free(0));
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(1_000)).await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.1" })).await;
    lab.rest("db-1", 1).await;
    assert!(lab.node("db-1").await.deleted);
    lab.check_without_instance("db-1").await;
    let launches = lab.region.calls().iter().filter(|call| call.action == Action::RunInstances).count();
    lab.clock.sleep(Duration::from_secs(1_000)).await;
    let later = lab.region.calls().iter().filter(|call| call.action == Action::RunInstances).count();
    assert_eq!(launches, later, "nothing is launched any more");
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_whose_old_instance_is_lost_goes_forward() {
    let mut lab = prepared(NetworkMode::SecondaryIp, RootMode::Adopt, Handover::Terminate).await;
    let old = lab.instance("db-1").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(3)).await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2" })).await;
    lab.clock.sleep(Duration::from_secs(2)).await;
    lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
    lab.rest("db-1", 2).await;
    lab.clock.sleep(Duration::from_secs(300)).await;
    lab.check("db-1", &["before"]).await;
    assert_ne!(lab.instance("db-1").await, old);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_workflow_is_stuck_can_be_deleted() {
    for (network, root) in [
        (NetworkMode::PrimaryEni, RootMode::Adopt),
        (NetworkMode::SecondaryIp, RootMode::Image),
        (NetworkMode::SecondaryIp, RootMode::Adopt),
    ] {
        for action in [
            Action::RunInstances,
            Action::ModifyInstanceAttribute,
            Action::TerminateInstances,
            Action::CreateSnapshot,
            Action::RegisterImage,
            Action::AttachVolume,
            Action::AssignPrivateIpAddresses,
        ] {
            for fault in [Fault::Before("UnauthorizedOperation".into()), Fault::LostReply] {
                let mut lab = prepared(network, root, Handover::Terminate).await;
                let rule = Rule { target: Target::Only(action), when: When::Always, fault: fault.clone() };
                lab.region.inject(rule);
                lab.submit("node.replace", "db-1", json!({})).await;
                lab.clock.sleep(Duration::from_secs(1_800)).await;
                let open = lab.node("db-1").await.open;
                lab.region.clear_faults();
                let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
                lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
                lab.rest("db-1", 3).await;
                lab.clock.sleep(Duration::from_secs(60)).await;
                let node = lab.node("db-1").await;
                assert!(node.deleted, "{network:?} {root:?} {action} {fault:?} {open:?}");
                lab.check_without_instance("db-1").await;
                assert_eq!(node.resources.volumes.len(), 0, "{}", lab.story().await);
                assert_eq!(node.resources.orphans, [], "{}", lab.story().await);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_whose_answers_are_all_lost_is_found_by_the_deletion() {
    let mut lab = Lab::new(quick(3));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    // The looks do not show it either, until the deletion does not wait for the launch any more.
    for action in [Action::RunInstances, Action::DescribeInstances] {
        lab.region.inject(Rule { target: Target::Only(action), when: When::Always, fault: Fault::LostReply });
    }
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(3_600)).await;
    assert!(!lab.is_stuck("db-1.1").await, "an outage passes by itself");
    let keep = json!({ "root": true, "data": false, "network": false, "backups": false });
    lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
    lab.clock.sleep(Duration::from_secs(1_800)).await;
    lab.region.clear_faults();
    lab.rest("db-1", 2).await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    assert!(lab.node("db-1").await.deleted);
    lab.check_without_instance("db-1").await;
}
