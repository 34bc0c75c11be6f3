//! An installation in which nothing happens: what is due comes at its time, and no stream is read for it that it is
//! not about.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::attached_volumes::{attach, detach, volume};
use crate::lab::Lab;
use crate::nodes::quick_snapshots;
use perennial_workers::periodic::sweep;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode};
use serde_json::json;

const NODES: u64 = 24;
/// More than a sweep shows whole.
const MANY: u64 = 240;
const HOUR: Duration = Duration::from_hours(1);

/// A fleet at rest, with a process that has just started: it remembers no stream.
async fn fleet(nodes: u64, change: impl Fn(&mut NodeSpec)) -> Lab {
    let mut lab = Lab::new(quick_snapshots(1));
    for n in 0..nodes {
        let name = format!("node-{n}");
        let mut spec = lab.spec(&name, NetworkMode::None, RootMode::None);
        change(&mut spec);
        lab.submit("node.apply", &name, json!({ "spec": spec })).await;
    }
    for n in 0..nodes {
        lab.rest(&format!("node-{n}"), 1).await;
    }
    // What follows a provisioning is over, and no message is on its way.
    lab.clock.sleep(Duration::from_mins(10)).await;
    lab.kill().await;
    lab.start();
    // Each node is compared with the account once in a process.
    lab.clock.sleep(Duration::from_mins(2)).await;
    lab
}

/// How many times a stream is read in an hour.
async fn reads_in_an_hour(lab: &Lab) -> u64 {
    let before = lab.reads.load(Ordering::SeqCst);
    lab.clock.sleep(HOUR).await;
    lab.reads.load(Ordering::SeqCst) - before
}

#[tokio::test(start_paused = true)]
async fn an_idle_hour_reads_no_stream() {
    let lab = fleet(NODES, |_| ()).await;
    let head = lab.head().await;
    assert_eq!(reads_in_an_hour(&lab).await, 0, "the lists are enough");
    assert_eq!(lab.head().await, head, "and nothing is written");
}

#[tokio::test(start_paused = true)]
async fn hourly_backups_come_each_hour_and_read_the_streams_of_one_node_each() {
    let backup = BackupSpec { every_min: 60, keep: 1, at_release: false };
    let lab = fleet(NODES, |spec| spec.backup = Some(backup)).await;
    let newest = async |lab: &Lab| {
        let mut newest = Vec::new();
        for n in 0..NODES {
            newest.push(lab.catalog(&format!("node-{n}")).await.newest);
        }
        newest
    };
    let mut before = newest(&lab).await;
    for hour in 0..3 {
        let reads = reads_in_an_hour(&lab).await;
        // The first backup since the start reads node, catalog, and the place of the next workflow.
        let most = if hour == 0 { 4 * NODES } else { 0 };
        assert!(reads <= most, "{reads} streams read in hour {hour}");
        let after = newest(&lab).await;
        for (node, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(after - before, 1, "node-{node} in hour {hour}\n{}", lab.story().await);
        }
        before = after;
    }
}

/// Each node retains a volume for too long at a time of its own, and nobody asks.
#[tokio::test(start_paused = true)]
async fn what_is_retained_is_deleted_at_its_time_and_no_earlier() {
    let mut lab = Lab::new(quick_snapshots(2));
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Image);
    spec.persist.retain_days = Some(1);
    lab.provision(&spec).await;
    lab.reclaim("db-1").await;
    lab.rest("db-1", 2).await;
    let retained = lab.node("db-1").await.resources.retained;
    let since_ms = retained.iter().filter_map(|old| old.since_ms).min().expect("the old root is retained");
    lab.kill().await;
    lab.start();
    let day_ms = 24 * 3_600_000;
    lab.clock.sleep_until_ms(since_ms + day_ms).await;
    assert_eq!(lab.node("db-1").await.operations, 2, "not before its day is over");
    lab.clock.sleep(HOUR + Duration::from_mins(1)).await;
    let pruned = lab.operation("db-1.3").await;
    assert_eq!(pruned.order.kind, OperationKind::Prune);
    assert_eq!(pruned.order.owner, "lab");
}

/// Nodes of each part of a turn.
const SOME: [&str; 5] = ["node-0", "node-60", "node-119", "node-180", "node-239"];

/// Waits until each of these nodes has had a second operation, and says how long the slowest one took to begin it.
async fn begun(lab: &mut Lab, limit: Duration) -> Duration {
    let from = lab.clock.now_ms();
    for name in SOME {
        let limit = limit.saturating_sub(Duration::from_millis(lab.clock.now_ms() - from));
        lab.until(&format!("{name} has begun"), limit, async |lab| lab.node(name).await.operations >= 2)
            .await;
    }
    Duration::from_millis(lab.clock.now_ms() - from)
}

#[tokio::test(start_paused = true)]
async fn in_a_large_fleet_each_loss_without_an_event_is_found_by_the_next_sweep() {
    // On demand: no spot request tells of it either.
    let mut lab = fleet(MANY, |spec| spec.capacity.market = MarketPolicy::OnDemandOnly).await;
    lab.deafen();
    for name in SOME {
        let instance = lab.instance(name).await;
        lab.region.with(|world, now_ms| world.terminate_instances(now_ms, &instance).unwrap());
    }
    begun(&mut lab, sweep::EVERY + Duration::from_secs(10)).await;
    for name in SOME {
        lab.rest(name, 2).await;
        assert_eq!(lab.node(name).await.generation, 2, "{name}");
    }
    assert_eq!(lab.node("node-1").await.operations, 1, "the others are left alone");
}

#[tokio::test(start_paused = true)]
async fn in_a_large_fleet_what_ec2_has_forgotten_is_missed_by_the_first_two_sweeps() {
    let mut lab = fleet(MANY, |_| ()).await;
    lab.kill().await;
    for name in SOME {
        let instance = lab.instance(name).await;
        lab.region.with(|world, now_ms| world.vanish(now_ms, &instance).unwrap());
    }
    lab.clock.sleep(HOUR * 2).await;
    lab.start();
    begun(&mut lab, sweep::EVERY * 3).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_large_fleet_each_volume_attached_or_detached_by_hand_is_found_within_a_turn() {
    let mut lab = fleet(MANY, |_| ()).await;
    let turn = sweep::EVERY * (sweep::TURN as u32 + 2);
    let mut volumes = Vec::new();
    for name in SOME {
        let (volume, instance) = (volume(&lab, &[("Name", name)]).await, lab.instance(name).await);
        attach(&lab, &instance, &volume, "/dev/sdh").await;
        volumes.push((name, instance, volume));
    }
    begun(&mut lab, turn).await;
    for (name, instance, volume) in &volumes {
        lab.rest(name, 2).await;
        let held = |node: Node| node.resources.volumes.values().any(|held| held.volume == *volume);
        assert!(held(lab.node(name).await), "{name} has {volume}");
        detach(&lab, instance, volume).await;
    }
    for (name, _, volume) in &volumes {
        lab.until(&format!("{name} has given {volume} back"), turn, async |lab| {
            lab.node(name).await.resources.volumes.values().all(|held| held.volume != *volume)
        })
        .await;
    }
}
