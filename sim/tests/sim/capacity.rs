//! Where capacity comes from: what is remembered of pools, what on-demand may cost, and which way a node goes back.

use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::{Deaths, Seen};
use perennial_engine::queue::{Outgoing, Queue as _};
use perennial_sim::world::settings::{Capacity, Settings};
use perennial_workflows::model::aws::Market;
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::operation_id::Outcome;
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, OnDemandSpec, ReturnToSpot, RootMode};
use serde_json::json;

fn set(lab: &Lab, instance_type: &str, market: Market, capacity: Capacity) {
    lab.region.with(|world, _| {
        let zone = world.zones()[0].clone();
        world.set_capacity(instance_type, &zone, market, capacity);
    });
}

fn no_spot(lab: &Lab, spec: &NodeSpec) {
    for instance_type in &spec.capacity.instance_types {
        set(lab, instance_type, Market::Spot, Capacity::Free(0));
    }
}

fn spec(lab: &Lab, name: &str) -> NodeSpec {
    lab.spec(name, NetworkMode::SecondaryIp, RootMode::Adopt)
}

async fn provisioned(change: impl FnOnce(&mut NodeSpec)) -> (Lab, NodeSpec) {
    let change = |_: &Lab, spec: &mut NodeSpec| change(spec);
    Lab::provisioned(Settings::calm(7), NetworkMode::SecondaryIp, RootMode::Adopt, change).await
}

/// The pools an operation was refused, with the reason of each: N stands for every number.
async fn rejected(lab: &Lab, id: &str) -> Vec<String> {
    let without_numbers = |text: &str| {
        let parts: Vec<&str> =
            text.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
        parts.join("N")
    };
    let ladder = lab.operation(id).await.facts.ladder;
    let told = ladder.rejected.iter();
    told.map(|rejected| format!("{}: {}", rejected.pool, without_numbers(&rejected.because))).collect()
}

#[tokio::test(start_paused = true)]
async fn what_one_node_was_refused_the_next_one_does_not_ask() {
    let mut lab = Lab::new(Settings::calm(7));
    set(&lab, "m6i.large", Market::Spot, Capacity::Free(0));
    for name in ["db-1", "db-2", "db-3"] {
        let spec = spec(&lab, name);
        if name == "db-3" {
            lab.clock.sleep(Duration::from_secs(180)).await;
        }
        lab.provision(&spec).await;
        assert_eq!(lab.carried_by(name).await, "m5.large spot");
    }
    assert_eq!(rejected(&lab, "db-1.1").await, ["m6i.large spot: InsufficientInstanceCapacity"]);
    assert_eq!(
        rejected(&lab, "db-2.1").await,
        ["m6i.large spot: skipped: InsufficientInstanceCapacity N s ago"]
    );
    assert_eq!(rejected(&lab, "db-3.1").await, ["m6i.large spot: InsufficientInstanceCapacity"]);
}

#[tokio::test(start_paused = true)]
async fn the_pool_that_is_taken_back_is_not_the_one_that_is_asked_first() {
    let (mut lab, _) = provisioned(|_| {}).await;
    lab.warn("db-1").await;
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m5.large spot");
    assert_eq!(rejected(&lab, "db-1.2").await, ["m6i.large spot: skipped: interrupted N s ago"]);
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn no_node_goes_on_demand_on_memory_alone() {
    let (mut lab, _) = provisioned(|spec| spec.capacity.instance_types.truncate(1)).await;
    lab.warn("db-1").await;
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large spot");
    assert_eq!(rejected(&lab, "db-1.2").await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_round_asks_at_least_one_pool_of_each_market_whatever_is_remembered() {
    let mut lab = Lab::new(Settings::calm(7));
    let first = spec(&lab, "db-1");
    no_spot(&lab, &first);
    lab.provision(&first).await;
    let second = spec(&lab, "db-2");
    lab.provision(&second).await;
    assert_eq!(
        rejected(&lab, "db-2.1").await,
        [
            "m6i.large spot: skipped: InsufficientInstanceCapacity N s ago",
            "m5.large spot: InsufficientInstanceCapacity"
        ]
    );
    assert_eq!(lab.carried_by("db-2").await, "m6i.large on-demand");
}

#[tokio::test(start_paused = true)]
async fn on_demand_is_asked_no_earlier_and_no_later_than_its_time() {
    let (mut lab, spec) = provisioned(|spec| spec.capacity.on_demand.after_s = 300).await;
    no_spot(&lab, &spec);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large on-demand");
    let operation = lab.operation("db-1.2").await;
    let launched = operation.facts.candidate.as_ref().unwrap().instance.clone();
    let launched_ms = lab.region.with(|world, _| world.instance(&launched).unwrap().launched_at_ms);
    let after_s = (launched_ms - operation.started_at_ms) / 1_000;
    assert!((300..310).contains(&after_s), "{after_s} s\n{}", lab.story().await);
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn spot_that_comes_back_in_time_is_cheaper_than_on_demand() {
    let (mut lab, spec) = provisioned(|spec| spec.capacity.on_demand.after_s = 300).await;
    no_spot(&lab, &spec);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(100)).await;
    set(&lab, "m5.large", Market::Spot, Capacity::Free(1));
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m5.large spot");
}

#[tokio::test(start_paused = true)]
async fn no_more_nodes_go_on_demand_than_may() {
    let mut launching = Seen::at_least(20, "deaths with a launch under way");
    for seed in 0..8 {
        let mut lab = Lab::new(Settings::calm(seed));
        let names = ["db-1", "db-2", "db-3"];
        for name in names {
            let mut spec = spec(&lab, name);
            spec.capacity.on_demand = OnDemandSpec { after_s: 0, max_nodes: Some(1) };
            no_spot(&lab, &spec);
            lab.submit("node.apply", name, json!({ "spec": spec })).await;
        }
        // The process may die with a launch under way: what it had allowed still counts.
        for _ in 0..seed {
            lab.clock.sleep(Duration::from_millis(700 + 130 * seed)).await;
            for name in names {
                let open = lab.operation(&format!("{name}.1")).await.open_steps();
                launching.when(open.iter().any(|step| step.step.starts_with("launch")));
            }
            lab.kill().await;
            lab.start();
        }
        lab.clock.sleep(Duration::from_secs(1_800)).await;
        let mut on_demand = Vec::new();
        let mut waiting = Vec::new();
        for name in names {
            match lab.node(name).await.resources.carrier {
                Some(carrier) => on_demand.push((name, carrier.market)),
                None => waiting.push(name),
            }
        }
        assert_eq!(on_demand.len(), 1, "seed {seed}: {on_demand:?}\n{}", lab.story().await);
        assert_eq!(on_demand[0].1, Market::OnDemand);
        let refused = rejected(&lab, &format!("{}.1", waiting[0])).await;
        let budget = "m6i.large on-demand: skipped: N other nodes are on demand, at most N may be (db-N)";
        assert!(refused.contains(&budget.to_owned()), "{refused:?}");
        // It waits visibly, and not hot: rounds of two spot pools and two refusals, five minutes apart in the end.
        assert!(refused.len() < 60, "{} refusals in half an hour", refused.len());
        set(&lab, "m5.large", Market::Spot, Capacity::Free(2));
        for name in waiting {
            lab.rest(name, 1).await;
            assert_eq!(lab.carried_by(name).await, "m5.large spot");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_for_others_and_does_not_hold_a_nodes_own_replacement_on_demand() {
    let (mut lab, _) = provisioned(|spec| {
        spec.capacity.market = MarketPolicy::OnDemandOnly;
        spec.capacity.on_demand.max_nodes = Some(1);
    })
    .await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large on-demand");
    assert_eq!(rejected(&lab, "db-1.2").await, Vec::<String>::new());
}

/// A node that had to go on demand, with spot as it was again.
async fn on_demand(settings: Settings, change: impl FnOnce(&mut NodeSpec)) -> (Lab, NodeSpec) {
    let mut lab = Lab::new(settings);
    let mut spec = spec(&lab, "db-1");
    spec.capacity.return_to_spot = ReturnToSpot::WhenAvailable;
    spec.capacity.min_lifetime_min = 2;
    change(&mut spec);
    spec.check().unwrap();
    no_spot(&lab, &spec);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large on-demand");
    (lab, spec)
}

fn spot_again(lab: &Lab, spec: &NodeSpec) {
    for instance_type in &spec.capacity.instance_types {
        set(lab, instance_type, Market::Spot, Capacity::Unlimited);
    }
}

fn three_types(spec: &mut NodeSpec) {
    spec.capacity.instance_types.push("r5.large".into());
}

fn by_window(spec: &mut NodeSpec) {
    spec.capacity.return_to_spot = ReturnToSpot::Window;
    // The laboratory's day begins at ten o'clock in Berlin.
    spec.maintenance_windows = serde_json::from_value(json!([
        { "days": ["mon"], "from": "10:30", "to": "11:00", "time_zone": "Europe/Berlin" },
        { "from": "12:00", "to": "13:00", "time_zone": "Europe/Berlin" }
    ]))
    .unwrap();
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn a_node_goes_back_to_spot_once_it_has_looked_available_for_a_while() {
    let (mut lab, spec) = on_demand(Settings::calm(7), three_types).await;
    lab.clock.sleep(HOUR).await;
    assert_eq!(lab.node("db-1").await.operations, 1, "spot has nothing, so nothing is tried");
    spot_again(&lab, &spec);
    let since_ms = lab.clock.now_ms();
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large spot");
    let operation = lab.operation("db-1.2").await;
    let waited_s = (operation.started_at_ms - since_ms) / 1_000;
    assert!((600..=780).contains(&waited_s), "{waited_s} s");
    assert_eq!(
        operation.order.cause.to_string(),
        "return to spot: for 10 min the placement score is 9 of 10"
    );
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_does_not_go_back_and_forth() {
    let (mut lab, spec) = on_demand(Settings::calm(7), |spec| {
        three_types(spec);
        spec.capacity.min_lifetime_min = 60;
    })
    .await;
    let began_ms = lab.clock.now_ms();
    spot_again(&lab, &spec);
    lab.rest("db-1", 2).await;
    let moved_after = Duration::from_millis(lab.operation("db-1.2").await.started_at_ms - began_ms);
    assert!(moved_after >= HOUR - Duration::from_secs(60), "{moved_after:?}");
    // It is dying: it moves at once, wherever to.
    no_spot(&lab, &spec);
    lab.warn("db-1").await;
    lab.rest("db-1", 3).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large on-demand");
    spot_again(&lab, &spec);
    lab.clock.sleep(HOUR - Duration::from_secs(300)).await;
    assert_eq!(lab.node("db-1").await.operations, 3, "not before its time");
    lab.rest("db-1", 4).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large spot");
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_return_that_finds_no_spot_is_undone_and_the_node_stays_where_it_is() {
    // Two types have no score: a try is all there is.
    let (mut lab, spec) = on_demand(Settings::calm(7), |_| {}).await;
    let before = lab.node("db-1").await.resources;
    lab.rest("db-1", 2).await;
    let node = lab.node("db-1").await;
    assert_eq!(node.resources, before, "nothing has changed");
    assert_eq!(node.generation, 1);
    let operation = lab.operation("db-1.2").await;
    assert!(
        matches!(operation.status, Status::Finished { outcome: Outcome::Cancelled, .. }),
        "{:?}",
        operation.status
    );
    let story = lab.story().await;
    assert!(story.contains("no spot pool could carry the node, it stays where it is"), "{story}");
    assert!(!story.contains("on_demand\"},\"pool"), "{story}");
    lab.check("db-1", &["before"]).await;
    // The next try comes hours later, and not before.
    lab.clock.sleep(5 * HOUR).await;
    assert_eq!(lab.node("db-1").await.operations, 2);
    spot_again(&lab, &spec);
    lab.rest("db-1", 3).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large spot");
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_return_keeps_to_its_window_on_the_wall_clock_and_tries_once_in_it() {
    let (mut lab, spec) = on_demand(Settings::calm(7), by_window).await;
    lab.until("the first try", HOUR, async |lab| lab.node("db-1").await.operations == 2).await;
    let tried = Duration::from_millis(lab.operation("db-1.2").await.started_at_ms - crate::lab::EPOCH_MS);
    assert!((HOUR / 2..HOUR / 2 + Duration::from_secs(90)).contains(&tried), "{tried:?}");
    lab.clock.sleep(HOUR).await;
    assert_eq!(lab.node("db-1").await.operations, 2, "one try a window");
    spot_again(&lab, &spec);
    lab.until("the second try", HOUR, async |lab| lab.node("db-1").await.operations == 3).await;
    let tried = Duration::from_millis(lab.operation("db-1.3").await.started_at_ms - crate::lab::EPOCH_MS);
    assert!((2 * HOUR..2 * HOUR + Duration::from_secs(90)).contains(&tried), "{tried:?}");
    lab.rest("db-1", 3).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large spot");
}

#[tokio::test(start_paused = true)]
async fn where_the_old_instance_goes_first_the_node_comes_back_even_if_on_demand_again() {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = lab.spec("db-1", NetworkMode::PrimaryEni, RootMode::Adopt);
    by_window(&mut spec);
    spec.capacity.min_lifetime_min = 2;
    spec.check().unwrap();
    no_spot(&lab, &spec);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    lab.until("the try", HOUR, async |lab| lab.node("db-1").await.operations == 2).await;
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large on-demand");
    assert_eq!(lab.node("db-1").await.generation, 2);
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn spot_that_dies_on_the_way_back_leaves_the_node_carried() {
    let mut killed = Seen::at_least(4, "spot instances that died on the way back");
    for seed in 0..6 {
        let (mut lab, spec) = on_demand(Settings::calm(seed), |_| {}).await;
        spot_again(&lab, &spec);
        lab.until("the return", 2 * HOUR, async |lab| lab.node("db-1").await.operations == 2).await;
        lab.clock.sleep(Duration::from_millis(1_500 * seed)).await;
        no_spot(&lab, &spec);
        let carrier = lab.instance("db-1").await;
        let live: Vec<_> =
            lab.region.with(|world, _| world.instances_of("db-1").iter().map(|i| i.id.clone()).collect());
        for instance in live.iter().filter(|instance| **instance != carrier) {
            lab.region.with(|world, now_ms| world.reclaim_now(now_ms, instance).unwrap());
            killed.when(true);
        }
        lab.rest("db-1", 2).await;
        // Undone, or forward to wherever there is capacity: the node is whole in either case.
        lab.clock.sleep(Duration::from_secs(300)).await;
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_return_that_is_undone() {
    let run = async |k| {
        let (mut lab, _) = on_demand(Settings::calm(7), |_| {}).await;
        let before = lab.node("db-1").await.resources;
        lab.die_at(k);
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(lab.node("db-1").await.resources, before, "point {k}");
        lab.check("db-1", &["before"]).await;
        lab
    };
    Deaths::at_every_point(10).of(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_capacity_reservation_that_is_taken_back_starts_a_replacement() {
    let (mut lab, _) = provisioned(|spec| spec.capacity.market = MarketPolicy::OnDemandOnly).await;
    let old = lab.instance("db-1").await;
    let event = json!({
        "id": "r-1", "source": "aws.ec2", "time": "2026-09-14T08:05:00Z",
        "detail-type": "EC2 Capacity Reservation Instance Interruption Warning",
        "detail": { "instance-id": old, "instance-action": "terminate" }
    });
    lab.interruptions.send(vec![Outgoing::now(event.to_string())]).await.unwrap();
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large on-demand");
    assert_ne!(lab.instance("db-1").await, old);
    let cause = lab.operation("db-1.2").await.order.cause.to_string();
    assert_eq!(cause, format!("capacity reservation interruption warning: {old} will get terminate (event)"));
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
}
