//! Many nodes lost at once, under the account's request quotas: every one comes back, in order, and no call is tried
//! blindly.

use std::time::Duration;

use perennial_sim::world::World;
use perennial_sim::world::settings::{Latencies, RequestQuota, RequestQuotas};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::step::intent::Intent;

use crate::lab::Lab;
use crate::mass::{Mass, Outcome, settings, steady};

/// Everything back: nothing refused in vain, and hardly anything refused at all.
fn check(outcome: &Outcome, rejected_max_percent: usize) {
    assert_eq!(outcome.given_up, 0, "no look was handed back");
    let (calls, rejected) = outcome.rejected();
    assert!(rejected * 100 <= calls * rejected_max_percent, "{rejected} of {calls}: {:?}", outcome.calls);
}

/// When a node's launch was intended, and when it was seen, in milliseconds since the Unix epoch.
async fn launched(lab: &Lab, name: &str) -> (u64, u64) {
    let id = OperationId::new(NodeName::parse(name).unwrap(), 2);
    let operation = lab.operation(&id.to_string()).await;
    let launches = operation.steps.values().filter(|record| matches!(*record.intent, Intent::Launch(_)));
    let [launch] = launches.collect::<Vec<_>>()[..] else { panic!("{id} was launched once") };
    (launch.intended_at_ms, launch.outcome.as_ref().expect("it is over").1)
}

#[tokio::test(start_paused = true)]
async fn four_hundred_nodes_lost_at_once_are_launched_in_turn_and_none_is_stuck() {
    let mut mass = Mass::new(settings(1, Latencies::default()), 400).await;
    mass.limit(RequestQuotas::default());
    mass.lose(&[]).await;
    mass.lab.clock.sleep(Duration::from_secs(120)).await;
    let mut told = 0;
    for name in &mass.names {
        let id = OperationId::new(NodeName::parse(name).unwrap(), 2);
        let operation = mass.lab.operation(&id.to_string()).await;
        let waits = operation.steps.values().filter_map(|record| record.waits.as_ref());
        told += waits.filter(|w| w.hindered && w.because.contains("RunInstances waits for its turn")).count();
    }
    assert!(told > 100, "what waits says so: {told}");
    let outcome = mass.recovered().await;
    check(&outcome, 1);
    // The launches alone take (400 - 5) / 2 s, and the last one 6.6 s until its volume and its address are there.
    assert!(outcome.last_whole_ms() < 204_100 * 105 / 100, "{} ms", outcome.last_whole_ms());
    let mut launches = Vec::new();
    for name in &mass.names {
        launches.push(launched(&mass.lab, name).await);
    }
    launches.sort_unstable();
    let mut latest_ms = 0;
    for (intended_ms, seen_ms) in launches {
        // Every fourth token goes to the oldest, which is the next one here anyway; a launch takes its
        // seconds, and twice as many when EC2 throttles it.
        assert!(
            seen_ms + 6_000 > latest_ms,
            "intended at {intended_ms}, seen at {seen_ms}, after {latest_ms}"
        );
        latest_ms = latest_ms.max(seen_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn a_warned_node_among_four_hundred_that_are_lost_is_not_later_than_alone() {
    let alone_ms = {
        let mut alone = Mass::new(settings(1, steady()), 1).await;
        alone.limit(RequestQuotas::default());
        alone.lose(&["n-0"]).await;
        alone.recovered().await.last_ms()
    };
    let mut mass = Mass::new(settings(1, steady()), 400).await;
    mass.limit(RequestQuotas::default());
    mass.lose(&["n-399"]).await;
    let outcome = mass.recovered().await;
    let among_ms = outcome.back_ms["n-399"];
    assert!(among_ms <= alone_ms + 5_000, "{among_ms} ms, and {alone_ms} ms alone");
    check(&outcome, 1);
}

#[tokio::test(start_paused = true)]
async fn with_half_of_the_published_quotas_every_node_comes_back() {
    let mut mass = Mass::new(settings(2, Latencies::default()), 150).await;
    mass.limit(RequestQuotas { percent: 50, ..RequestQuotas::default() });
    mass.lose(&[]).await;
    let outcome = mass.recovered().await;
    check(&outcome, 5);
    // (150 - 2.5) / 1 s of launches.
    assert!(outcome.last_ms() < 230_000, "{} ms: {:?}", outcome.last_ms(), outcome.calls);
}

#[tokio::test(start_paused = true)]
async fn while_another_tool_takes_half_of_every_bucket_every_node_comes_back() {
    let mut mass = Mass::new(settings(3, Latencies::default()), 150).await;
    mass.limit(RequestQuotas::default());
    let (region, clock) = (mass.lab.region.clone(), mass.lab.clock.clone());
    let other = tokio::spawn(async move {
        let half = |world: &mut World, now_ms, seconds| {
            for (action, burst, refill) in OTHERS_CALLS {
                let calls = if seconds == 0 { burst / 2 } else { seconds * refill / 2 };
                world.called_by_others(now_ms, action, calls);
            }
        };
        region.with(|world, now_ms| half(world, now_ms, 0));
        loop {
            clock.sleep(Duration::from_secs(2)).await;
            region.with(|world, now_ms| half(world, now_ms, 2));
        }
    });
    mass.lose(&[]).await;
    let outcome = mass.recovered().await;
    other.abort();
    check(&outcome, 10);
    assert!(outcome.last_ms() < 300_000, "{} ms: {:?}", outcome.last_ms(), outcome.calls);
}

/// What the other tool calls: each action with its burst and refill.
const OTHERS_CALLS: [(&str, u64, u64); 8] = [
    ("RunInstances", 5, 2),
    ("AttachVolume", 50, 5),
    ("AssignPrivateIpAddresses", 100, 5),
    ("DeleteNetworkInterface", 100, 5),
    ("ModifyNetworkInterfaceAttribute", 100, 5),
    ("DescribeInstances", 100, 20),
    ("DescribeVolumes", 100, 20),
    ("DescribeNetworkInterfaces", 100, 20),
];

#[tokio::test(start_paused = true)]
async fn in_an_account_whose_acts_share_one_bucket_every_node_comes_back() {
    let mut mass = Mass::new(settings(4, Latencies::default()), 100).await;
    mass.limit(RequestQuotas { shared: true, ..RequestQuotas::default() });
    mass.lose(&[]).await;
    let outcome = mass.recovered().await;
    check(&outcome, 5);
    // Five acts a node in a bucket of 50 and five a second.
    assert!(outcome.last_ms() < 200_000, "{} ms: {:?}", outcome.last_ms(), outcome.calls);
}

#[tokio::test(start_paused = true)]
async fn after_an_hour_without_any_act_every_node_comes_back_by_itself() {
    let mut mass = Mass::new(settings(5, Latencies::default()), 40).await;
    let none =
        |(action, ..): &(&str, u64, u64)| RequestQuota { action: (*action).into(), burst: 0, per_minute: 0 };
    let acts = OTHERS_CALLS.iter().filter(|(action, ..)| !action.starts_with("Describe"));
    mass.limit(RequestQuotas { custom: acts.map(none).collect(), ..RequestQuotas::default() });
    mass.lose(&[]).await;
    mass.lab.clock.sleep(Duration::from_hours(1)).await;
    mass.limit(RequestQuotas::default());
    let outcome = mass.recovered().await;
    assert_eq!(outcome.given_up, 0);
    let after_ms = outcome.last_ms() - 3_600_000;
    assert!(after_ms < 300_000, "{after_ms} ms after the hour: {:?}", outcome.calls);
}
