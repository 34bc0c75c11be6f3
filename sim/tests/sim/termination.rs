//! Instances that do not end: one that hangs, and one that may not be terminated.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::quick;
use perennial_sim::world::settings::Span;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::spec::node::{NetworkMode, RootMode};
use perennial_workflows::step::evidence::Evidence;
use serde_json::json;

/// Whether the old instance was terminated by force in an operation, and how long that took in all, in minutes.
async fn fenced(lab: &Lab, operation: &str) -> (bool, u64) {
    let events = lab.operation_events(operation).await;
    let began_ms = events[0].0.at_ms;
    let found = events.iter().find_map(|(stamp, event)| match event {
        OperationEvent::StepSettled { evidence: Evidence::Fenced { forced, .. }, .. } => {
            Some((*forced, (stamp.at_ms - began_ms) / 60_000))
        }
        _ => None,
    });
    found.expect("it is fenced")
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_in_shutting_down_is_terminated_by_force_and_not_before() {
    for hangs in [true, false] {
        let mut settings = quick(7);
        if !hangs {
            settings.latencies.shutdown = Span::ms(20 * 60_000, 20 * 60_000);
        }
        let (mut lab, _) =
            Lab::provisioned(settings, NetworkMode::PrimaryEni, RootMode::Adopt, |_, _| {}).await;
        let old = lab.instance("db-1").await;
        if hangs {
            lab.region.with(|world, _| world.hang_shutdown(&old));
        }
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        let (forced, minutes) = fenced(&lab, "db-1.2").await;
        assert_eq!(forced, hangs);
        let expected = if hangs { 25..30 } else { 20..22 };
        assert!(expected.contains(&minutes), "{hangs}: {minutes} min");
        lab.check("db-1", &["before"]).await;
    }
}

/// The process dies while it hangs: the time is counted anew, and the step's own time bounds it all the same.
#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_across_a_restart_is_terminated_by_force() {
    let (mut lab, _) = Lab::provisioned(quick(7), NetworkMode::PrimaryEni, RootMode::Adopt, |_, _| {}).await;
    let old = lab.instance("db-1").await;
    lab.region.with(|world, _| world.hang_shutdown(&old));
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(600)).await;
    lab.kill().await;
    lab.start();
    lab.rest("db-1", 2).await;
    assert!(fenced(&lab, "db-1.2").await.0);
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn termination_protection_is_told_with_the_way_out_and_can_be_cancelled_or_taken_off() {
    for cancels in [true, false] {
        let (mut lab, _) =
            Lab::provisioned(quick(7), NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await;
        let old = lab.instance("db-1").await;
        lab.region.with(|world, now_ms| world.modify_protection(now_ms, &old, true).unwrap());
        lab.submit("node.replace", "db-1", json!({})).await;
        let why = lab.stuck("db-1.2").await;
        for part in ["has termination protection", "--no-disable-api-termination", old.as_str()] {
            assert!(why.contains(part), "{why}");
        }
        if cancels {
            lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2" })).await;
        } else {
            lab.region.with(|world, now_ms| world.modify_protection(now_ms, &old, false).unwrap());
            lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2" })).await;
        }
        lab.rest("db-1", 2).await;
        assert_eq!(lab.instance("db-1").await == old, cancels);
        lab.clock.sleep(Duration::from_secs(400)).await;
        lab.check("db-1", &["before"]).await;
    }
}
