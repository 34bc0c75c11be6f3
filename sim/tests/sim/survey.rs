//! Pools that are found: by requirements, by price, by score; and that what EC2 will not say holds nobody up.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Deaths;
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_sim::world::{Notice, TYPES};
use perennial_workers::port::error::Action;
use perennial_workers::port::{ImageRequest, Tags};
use perennial_workflows::model::aws::Market;
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::requirements::CapacityOrder;
use perennial_workflows::model::survey::Survey;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, ZoneChange};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{Intent, Launch};
use perennial_workflows::view::plan::plan;
use serde_json::json;

/// Two processors and eight gibibytes or more: of the laboratory's types m5, m6a, m6i and m7i.large, r5, r6i and i4i.large.
fn by_requirements(lab: &Lab, network: NetworkMode) -> NodeSpec {
    let mut spec = lab.spec("db-1", network, RootMode::Adopt);
    spec.capacity.instance_types.clear();
    spec.capacity.requirements = Some(
        serde_json::from_value(json!({
            "vcpus": { "min": 2, "max": 2 }, "memory_gib": { "min": 8, "max": 16 }, "exclude": ["i*"]
        }))
        .unwrap(),
    );
    spec.check().unwrap();
    spec
}

fn zone(lab: &Lab, n: usize) -> String {
    lab.region.with(|world, _| world.zones()[n].clone())
}

/// What types cost in the first zone, in thousandths of a dollar.
fn prices(lab: &Lab, prices: &[(&str, u64)]) {
    let zone = zone(lab, 0);
    lab.region.with(|world, _| {
        for (name, price) in prices {
            world.set_spot_price(name, &zone, price * 1_000);
        }
    });
}

const PRICES: [(&str, u64); 6] = [
    ("m6a.large", 30),
    ("m7i.large", 31),
    ("m5.large", 35),
    ("m6i.large", 36),
    ("r5.large", 50),
    ("r6i.large", 55),
];

/// The last survey of an operation.
async fn surveyed(lab: &Lab, id: &str) -> Survey {
    let operation = lab.operation(id).await;
    let found = operation.steps.values().rev().find_map(|record| match &record.outcome {
        Some((Evidence::Surveyed(survey), _)) => Some(survey.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{id} has no survey: {:?}", operation.steps))
}

/// The pools that launches asked, in order, with what became of each.
async fn asked(lab: &Lab, id: &str) -> Vec<String> {
    let operation = lab.operation(id).await;
    let launches =
        operation.steps.values().filter_map(|record| match (record.intent.as_ref(), &record.outcome) {
            (Intent::Launch(Launch { pool, .. }), Some((Evidence::NoCapacity { code, .. }, _))) => {
                Some(format!("{pool}: {code}"))
            }
            (Intent::Launch(Launch { pool, .. }), Some((Evidence::NotAsked { .. }, _))) => {
                Some(format!("{pool}: skipped"))
            }
            (Intent::Launch(Launch { pool, .. }), Some((Evidence::Launched { .. }, _))) => {
                Some(pool.to_string())
            }
            _ => None,
        });
    launches.collect()
}

fn set(lab: &Lab, instance_type: &str, market: Market, capacity: Capacity) {
    let zone = zone(lab, 0);
    lab.region.with(|world, _| world.set_capacity(instance_type, &zone, market, capacity));
}

fn refuse(lab: &Lab, action: Action, code: &str) {
    let fault = Fault::Before(code.to_owned());
    lab.region.inject(Rule { target: Target::Only(action), when: When::Always, fault });
}

async fn provisioned(network: NetworkMode, change: impl FnOnce(&Lab, &mut NodeSpec)) -> (Lab, NodeSpec) {
    let mut lab = Lab::new(Settings::calm(7));
    prices(&lab, &PRICES);
    let mut spec = by_requirements(&lab, network);
    change(&lab, &mut spec);
    spec.check().unwrap();
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    (lab, spec)
}

async fn whole(lab: &Lab) {
    lab.clock.sleep(Duration::from_secs(200)).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn types_that_fit_are_found_and_the_cheapest_is_asked_first() {
    let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |_, _| {}).await;
    assert_eq!(lab.carried_by("db-1").await, "m6a.large spot");
    let survey = surveyed(&lab, "db-1.1").await;
    let spot: Vec<&str> = survey
        .pools
        .iter()
        .filter(|pool| pool.market == Market::Spot)
        .map(|pool| pool.instance_type.as_str())
        .collect();
    assert_eq!(spot, ["m6a.large", "m7i.large", "m5.large", "m6i.large", "r5.large", "r6i.large"]);
    assert_eq!(survey.pools[0].price.as_deref(), Some("0.030000"));
    // What is not as required is counted with its reason.
    for why in ["burstable", "bare metal", "of a previous generation", "excluded by i*", "not 2 vCPUs"] {
        assert!(survey.unfit.contains_key(why), "{why} is not among {:?}", survey.unfit);
    }
    assert!(!survey.pools.iter().any(|pool| pool.instance_type.starts_with("m7g")), "{:?}", survey.pools);
    // The launch says where in the ranking its pool stood.
    let operation = lab.operation("db-1.1").await;
    let rank = operation.steps.values().find_map(|record| match record.intent.as_ref() {
        Intent::Launch(Launch { rank, .. }) => rank.clone(),
        _ => None,
    });
    assert_eq!(rank.unwrap().to_string(), "1 of 12 surveyed, 0.030000 an hour");

    lab.warn("db-1").await;
    lab.rest("db-1", 2).await;
    let passed = "m6a.large spot: skipped";
    assert_eq!(
        asked(&lab, "db-1.2").await,
        [passed, "m7i.large spot"],
        "the memory of pools holds for surveyed ones"
    );
    whole(&lab).await;
}

#[tokio::test(start_paused = true)]
async fn the_catalogue_is_looked_at_once_a_day() {
    let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |_, _| {}).await;
    let count = |lab: &Lab, action| lab.region.calls().iter().filter(|call| call.action == action).count();
    for operation in 2..4 {
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", operation).await;
    }
    assert_eq!(count(&lab, Action::DescribeInstanceTypes), 1);
    assert_eq!(count(&lab, Action::DescribeInstanceTypeOfferings), 1);
    assert_eq!(count(&lab, Action::DescribeSpotPriceHistory), 3);
    lab.clock.sleep(Duration::from_secs(24 * 3600)).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 4).await;
    assert_eq!(count(&lab, Action::DescribeInstanceTypes), 2);
    whole(&lab).await;
}

#[tokio::test(start_paused = true)]
async fn a_plain_list_looks_at_nothing() {
    let mut lab = Lab::new(Settings::calm(7));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let looked = [
        Action::DescribeInstanceTypes,
        Action::DescribeInstanceTypeOfferings,
        Action::DescribeSpotPriceHistory,
        Action::GetSpotPlacementScores,
    ];
    assert!(!lab.region.calls().iter().any(|call| looked.contains(&call.action)));
    assert_eq!(lab.node("db-1").await.resources.survey, None);
}

#[tokio::test(start_paused = true)]
async fn listed_types_come_first_and_found_ones_after() {
    let (lab, _) = provisioned(NetworkMode::SecondaryIp, |_, spec| {
        spec.capacity.instance_types = vec!["r5.large".into(), "c5.large".into()];
    })
    .await;
    assert_eq!(lab.carried_by("db-1").await, "r5.large spot");
    let pools = surveyed(&lab, "db-1.1").await.pools;
    let first: Vec<&str> = pools.iter().take(4).map(|pool| pool.instance_type.as_str()).collect();
    assert_eq!(first, ["r5.large", "c5.large", "m6a.large", "m7i.large"]);
    whole(&lab).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_can_be_ordered_by_price_and_knows_its_architecture() {
    let mut lab = Lab::new(Settings::calm(7));
    prices(&lab, &PRICES);
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    spec.capacity.instance_types =
        ["r5.large", "m7g.large", "m5.large", "zz1.large"].map(str::to_owned).into();
    spec.capacity.order = Some(CapacityOrder::Price);
    lab.provision(&spec).await;
    assert_eq!(lab.carried_by("db-1").await, "m5.large spot");
    let rejected: Vec<String> =
        surveyed(&lab, "db-1.1").await.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        rejected,
        ["m7g.large: it is arm64, the image is x86_64", "zz1.large: there is no such type in this region"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_costs_too_much_is_not_asked_and_on_demand_is_not_subject_to_it() {
    let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |_, spec| {
        spec.capacity.requirements = None;
        spec.capacity.instance_types = vec!["r5.large".into(), "m5.large".into()];
        spec.capacity.price_max = Some("0.04".into());
    })
    .await;
    assert_eq!(asked(&lab, "db-1.1").await, ["m5.large spot"]);
    let rejected: Vec<String> =
        surveyed(&lab, "db-1.1").await.rejected.iter().map(ToString::to_string).collect();
    let where_ = zone(&lab, 0);
    assert_eq!(
        rejected,
        [format!("r5.large spot in {where_}: costs 0.050000 an hour, at most 0.04 is paid")]
    );
    prices(&lab, &[("m5.large", 41)]);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    assert_eq!(asked(&lab, "db-1.2").await, ["r5.large on-demand"]);
    whole(&lab).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_may_not_go_on_demand_waits_until_spot_costs_less() {
    for network in [NetworkMode::SecondaryIp, NetworkMode::PrimaryEni] {
        let (mut lab, _) = provisioned(network, |_, spec| {
            spec.capacity.market = MarketPolicy::SpotOnly;
            spec.capacity.price_max = Some("0.06".into());
        })
        .await;
        let old = lab.instance("db-1").await;
        let dear = PRICES.map(|(name, _)| (name, 90));
        prices(&lab, &dear);
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_secs(1_200)).await;
        assert_eq!(asked(&lab, "db-1.2").await, Vec::<String>::new(), "{network:?}");
        let state = lab.region.with(|world, _| world.instance(&old).unwrap().state);
        assert_eq!(state.to_string(), "running", "{network:?}: the old instance carries it meanwhile");
        let surveys = lab
            .operation("db-1.2")
            .await
            .steps
            .values()
            .filter(|record| record.step.to_string() == "survey")
            .count();
        assert!((4..12).contains(&surveys), "{network:?}: {surveys} surveys in twenty minutes");
        prices(&lab, &[("r6i.large", 59)]);
        lab.rest("db-1", 2).await;
        assert_eq!(lab.carried_by("db-1").await, "r6i.large spot", "{network:?}");
        whole(&lab).await;
    }
}

#[tokio::test(start_paused = true)]
async fn hints_that_are_refused_are_recorded_and_hold_nothing_up() {
    for code in ["UnauthorizedOperation", "RequestLimitExceeded", "MaxConfigLimitExceeded"] {
        let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |lab, _| {
            refuse(lab, Action::DescribeSpotPriceHistory, code);
            refuse(lab, Action::GetSpotPlacementScores, code);
        })
        .await;
        let survey = surveyed(&lab, "db-1.1").await;
        assert!(
            survey.notes.iter().any(|note| note.contains("prices in") && note.contains(code)),
            "{survey:?}"
        );
        // Without prices the smallest comes first.
        assert_eq!(lab.carried_by("db-1").await, "m5.large spot");
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        whole(&lab).await;
    }
}

/// How long an operation took from its start to its first launch, in seconds.
async fn until_launch(lab: &Lab, id: &str) -> f64 {
    let operation = lab.operation(id).await;
    let launch = operation.steps.values().find(|record| record.step.to_string() == "launch").unwrap();
    (launch.intended_at_ms - operation.started_at_ms) as f64 / 1_000.0
}

#[tokio::test(start_paused = true)]
async fn a_survey_that_is_late_or_refused_gives_way_to_the_last_one() {
    let troubles = [
        Fault::Before("UnauthorizedOperation".into()),
        Fault::Before("RequestLimitExceeded".into()),
        Fault::LostReply,
        Fault::Delay(Duration::from_secs(60)),
    ];
    for trouble in troubles {
        let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |_, _| {}).await;
        // Another process knows no catalogue.
        lab.kill().await;
        lab.start();
        for action in [Action::DescribeInstanceTypes, Action::DescribeInstanceTypeOfferings] {
            let fault = trouble.clone();
            lab.region.inject(Rule { target: Target::Only(action), when: When::Always, fault });
        }
        // No capacity would send it round: the last survey's pools are what it goes by.
        set(&lab, "m6a.large", Market::Spot, Capacity::Free(0));
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        let waited = until_launch(&lab, "db-1.2").await;
        assert!(waited < 7.5, "{trouble:?}: {waited} s");
        let refusal = "m6a.large spot: InsufficientInstanceCapacity";
        assert_eq!(asked(&lab, "db-1.2").await, [refusal, "m7i.large spot"], "{trouble:?}");
        assert!(lab.node("db-1").await.resources.survey.is_some(), "it is kept");
        lab.region.clear_faults();
        whole(&lab).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_provision_waits_for_its_survey_and_says_what_is_missing() {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = by_requirements(&lab, NetworkMode::SecondaryIp);
    // Nothing is like that, and for an hour nobody may ask.
    spec.capacity.requirements.as_mut().unwrap().memory_gib.min = 4_000;
    spec.capacity.requirements.as_mut().unwrap().memory_gib.max = None;
    refuse(&lab, Action::DescribeInstanceTypes, "UnauthorizedOperation");
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(3_600)).await;
    assert!(!lab.is_stuck("db-1.1").await, "a permission can come: {}", lab.story().await);
    lab.region.clear_faults();
    lab.until("stuck", Duration::from_secs(600), async |lab| lab.is_stuck("db-1.1").await).await;
    let why = lab.stuck("db-1.1").await;
    assert!(
        why.contains("no instance type fits") && why.contains("types: not 4000 or more GiB of memory"),
        "{why}"
    );
    assert!(why.contains("capacity.requirements"), "{why}");
    spec.capacity.requirements.as_mut().unwrap().memory_gib.min = 8;
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.1" })).await;
    lab.rest("db-1", 1).await;
    lab.check("db-1", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_of_another_architecture_than_required_is_said() {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = by_requirements(&lab, NetworkMode::SecondaryIp);
    spec.capacity.requirements.as_mut().unwrap().architecture =
        Some(perennial_workflows::model::requirements::Architecture::Arm64);
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    let why = lab.stuck("db-1.1").await;
    assert!(why.contains("the image is x86_64, the file requires arm64"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn gpus_are_found_only_when_they_are_asked_for() {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = by_requirements(&lab, NetworkMode::None);
    spec.capacity.requirements = Some(
        serde_json::from_value(json!({
            "vcpus": { "min": 4 }, "memory_gib": { "min": 16 }, "gpus": { "min": 1, "max": 1 }, "families": ["g5*", "g6*"]
        }))
        .unwrap(),
    );
    lab.provision(&spec).await;
    let pools = surveyed(&lab, "db-1.1").await.pools;
    let mut types: Vec<&str> = pools.iter().map(|pool| pool.instance_type.as_str()).collect();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types, ["g5.xlarge", "g6.xlarge"]);
}

/// Other subnets, in the second and third zone.
fn zones(lab: &Lab, spec: &mut NodeSpec) {
    for n in [1, 2] {
        let zone = zone(lab, n);
        spec.capacity.other_subnets.push(lab.region.with(|world, _| world.subnet_in(&zone)));
    }
    spec.network.zone_change = ZoneChange::Allow;
}

/// Nothing in the zone the node lives in.
fn exhaust(lab: &Lab) {
    for (name, _) in PRICES {
        for market in [Market::Spot, Market::OnDemand] {
            set(lab, name, market, Capacity::Free(0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_zones_are_asked_in_the_order_of_their_prices_or_scores() {
    for (order, expected) in
        [(CapacityOrder::Price, 2), (CapacityOrder::Score, 2), (CapacityOrder::Listed, 1)]
    {
        let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |lab, spec| {
            zones(lab, spec);
            spec.capacity.instance_types = vec!["m6i.large".into()];
            spec.capacity.order = Some(order);
            let (second, third) = (zone(lab, 1), zone(lab, 2));
            lab.region.with(|world, _| {
                for (name, _) in PRICES {
                    world.set_spot_price(name, &second, 40_000);
                }
                world.set_spot_price("m6i.large", &third, 20_000);
                world.set_placement_score(&second, 3);
                world.set_placement_score(&third, 8);
            });
        })
        .await;
        exhaust(&lab);
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        let carrier = lab.instance("db-1").await;
        let landed = lab.region.with(|world, _| world.instance(&carrier).unwrap().zone.clone());
        assert_eq!(landed, zone(&lab, expected), "{order}\n{}", lab.story().await);
        whole(&lab).await;
        // From there it goes on: the survey it kept is read from where it lives now.
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        let carrier = lab.instance("db-1").await;
        let stayed = lab.region.with(|world, _| world.instance(&carrier).unwrap().zone.clone());
        assert_eq!(stayed, landed, "{order}");
        whole(&lab).await;
    }
}

#[tokio::test(start_paused = true)]
async fn on_demand_keeps_its_time_and_the_way_back_to_spot_asks_surveyed_pools() {
    let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |_, spec| {
        spec.capacity.on_demand.after_s = 300;
        spec.capacity.return_to_spot = perennial_workflows::spec::node::ReturnToSpot::WhenAvailable;
        spec.capacity.min_lifetime_min = 2;
    })
    .await;
    for (name, _) in PRICES {
        set(&lab, name, Market::Spot, Capacity::Free(0));
    }
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let operation = lab.operation("db-1.2").await;
    let launched = operation.facts.candidate.as_ref().unwrap().instance.clone();
    let launched_ms = lab.region.with(|world, _| world.instance(&launched).unwrap().launched_at_ms);
    let after_s = (launched_ms - operation.started_at_ms) / 1_000;
    assert!((300..312).contains(&after_s), "{after_s} s\n{}", lab.story().await);
    assert!(lab.carried_by("db-1").await.ends_with("on-demand"));
    // What the old instance gave back is somebody else's by now.
    for (name, _) in PRICES {
        set(&lab, name, Market::Spot, Capacity::Free(0));
    }
    lab.clock.sleep(Duration::from_secs(1_800)).await;
    assert_eq!(lab.node("db-1").await.operations, 2, "spot has nothing, so nothing is tried");
    for (name, _) in PRICES {
        set(&lab, name, Market::Spot, Capacity::Unlimited);
    }
    lab.rest("db-1", 3).await;
    assert_eq!(lab.carried_by("db-1").await, "m6a.large spot");
    whole(&lab).await;
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_finds_spot_too_expensive_is_undone() {
    let (mut lab, _) = provisioned(NetworkMode::SecondaryIp, |lab, spec| {
        spec.capacity.return_to_spot = perennial_workflows::spec::node::ReturnToSpot::WhenAvailable;
        spec.capacity.min_lifetime_min = 2;
        spec.capacity.price_max = Some("0.04".into());
        prices(lab, &PRICES.map(|(name, _)| (name, 90)));
    })
    .await;
    assert_eq!(lab.carried_by("db-1").await, "m5.large on-demand");
    lab.clock.sleep(Duration::from_secs(3_600)).await;
    assert_eq!(lab.node("db-1").await.operations, 1, "it costs too much, so nothing is tried");
    prices(&lab, &[("m6i.large", 39)]);
    // It is cheap until the moment it goes: the survey's own look comes a little later.
    let fault = Fault::Delay(Duration::from_secs(3));
    let target = Target::Only(Action::DescribeSpotPriceHistory);
    lab.region.inject(Rule { target, when: When::Always, fault });
    lab.until("the return", Duration::from_secs(3_600), async |lab| lab.node("db-1").await.operations == 2)
        .await;
    prices(&lab, &[("m6i.large", 90)]);
    lab.region.clear_faults();
    lab.rest("db-1", 2).await;
    assert_eq!(lab.carried_by("db-1").await, "m5.large on-demand");
    assert_eq!(lab.node("db-1").await.generation, 1);
    prices(&lab, &[("m6i.large", 39)]);
    lab.rest("db-1", 3).await;
    assert_eq!(lab.carried_by("db-1").await, "m6i.large spot");
    whole(&lab).await;
}

/// The names of steps without the ids in them, and how often each is intended.
fn counted(steps: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counted = BTreeMap::new();
    for step in steps {
        let name =
            step.split_once(':').filter(|(_, of)| of.contains('-')).map_or(step.as_str(), |(kind, _)| kind);
        *counted.entry(name.to_owned()).or_default() += 1;
    }
    counted
}

#[tokio::test(start_paused = true)]
async fn a_plan_predicts_a_surveyed_replacement_and_says_where_its_pools_come_from() {
    for network in [NetworkMode::SecondaryIp, NetworkMode::PrimaryEni, NetworkMode::None] {
        let (mut lab, spec) = provisioned(network, |_, _| {}).await;
        let node = lab.node("db-1").await;
        let first = plan(&spec, None).unwrap();
        assert_eq!(first.pools, [], "which types fit is not known yet");
        assert!(first.notes.iter().any(|note| note.starts_with("Which types fit is found at run time")));
        let planned = plan(&spec, Some(&node)).unwrap();
        assert_eq!(planned.pools.len(), 12);
        assert_eq!(planned.pools[0].to_string(), "m6a.large spot");
        assert!(planned.notes.iter().any(|note| note.starts_with("The pools are those of the last survey")));
        let predicted = counted(planned.story.steps.iter().map(|step| step.step.clone()));
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        let operation = lab.operation("db-1.2").await;
        let taken = counted(operation.steps.values().map(|record| record.step.to_string()));
        assert_eq!(taken, predicted, "{network:?}");
        whole(&lab).await;
    }
}

/// A replacement of a surveyed node that dies at `k`.
async fn dies_at(network: NetworkMode, sudden: bool, k: u64) -> Lab {
    let mut settings = Settings::calm(11);
    settings.latencies.shutdown = Span::ms(6_000, 8_000);
    settings.latencies.replace_root = Span::ms(4_000, 5_000);
    let mut lab = Lab::new(settings);
    prices(&lab, &PRICES);
    let mut spec = by_requirements(&lab, network);
    spec.capacity.price_max = Some("0.033".into());
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let old = lab.instance("db-1").await;
    lab.die_at(k);
    lab.region.with(|world, now_ms| match sudden {
        true => world.reclaim_now(now_ms, &old).unwrap(),
        false => world.interrupt(now_ms, &old, Notice::default()).unwrap(),
    });
    lab.rest("db-1", 2).await;
    lab.disarm();
    whole(&lab).await;
    let node = lab.node("db-1").await;
    assert_eq!(node.operations, 2, "{network:?} at {k}: one operation\n{}", lab.story().await);
    assert!(lab.carried_by("db-1").await.ends_with("spot"), "{network:?} at {k}");
    assert_eq!(node.resources.survey.map(|kept| kept.pools.is_empty()), Some(false));
    lab
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_surveyed_replacement() {
    for (network, sudden) in [
        (NetworkMode::SecondaryIp, false),
        (NetworkMode::SecondaryIp, true),
        (NetworkMode::PrimaryEni, false),
    ] {
        let points = Deaths { first: u64::from(sudden), ..Deaths::at_every_other_point(40) };
        points.of(async |k| dies_at(network, sudden, k).await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_surveyed_provision() {
    let run = async |k| {
        let mut lab = Lab::new(Settings::calm(5));
        let spec = by_requirements(&lab, NetworkMode::SecondaryIp);
        lab.die_at(k);
        lab.provision(&spec).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.check("db-1", &[]).await;
        lab
    };
    Deaths::at_every_point(30).of(run).await;
}

/// An image that needs UEFI and a TPM: a type that has neither is passed over before it is asked, listed or found.
#[tokio::test(start_paused = true)]
async fn a_type_that_cannot_boot_the_image_is_not_asked() {
    let mut lab = Lab::new(Settings::calm(7));
    prices(&lab, &[("t2.large", 1), ("m4.large", 2), ("m6i.large", 36)]);
    set(&lab, "t2.large", Market::Spot, Capacity::Unlimited);
    set(&lab, "m4.large", Market::Spot, Capacity::Unlimited);
    let image = lab.region.with(|world, now_ms| {
        let plain = world.image(&world.default_image()).unwrap().clone();
        let mut traits = plain.traits;
        traits.boot_mode = Some("uefi".to_owned());
        traits.tpm_support = Some("v2.0".to_owned());
        let (name, tags) = ("secured".to_owned(), Tags::new());
        let request =
            ImageRequest { name, root_snapshot: plain.root_snapshot, traits, uefi_data: None, tags };
        world.register_image(now_ms, &request).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(100)).await;
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    spec.image = image;
    spec.capacity.instance_types = ["t2.large", "m6i.large", "m4.large"].map(str::to_owned).to_vec();
    spec.capacity.order = Some(CapacityOrder::Price);
    lab.provision(&spec).await;
    assert_eq!(asked(&lab, "db-1.1").await, ["m6i.large spot"]);
    let reasons = surveyed(&lab, "db-1.1").await.reasons().join("; ");
    for name in ["t2.large", "m4.large"] {
        let why = format!("{name}: the image boots in uefi only, it in legacy-bios");
        assert!(reasons.contains(&why), "{reasons}");
    }
}

/// The budget of nodes on demand counts whatever way the pools were found.
#[tokio::test(start_paused = true)]
async fn no_more_nodes_with_surveyed_pools_go_on_demand_than_may() {
    let mut lab = Lab::new(Settings::calm(7));
    prices(&lab, &PRICES);
    let mut spec = by_requirements(&lab, NetworkMode::SecondaryIp);
    spec.capacity.on_demand.max_nodes = Some(1);
    for (name, _) in PRICES {
        set(&lab, name, Market::Spot, Capacity::Free(0));
    }
    lab.region.with(|world, _| {
        let zone = world.zones()[0].clone();
        for name in TYPES {
            world.set_capacity(name, &zone, Market::Spot, Capacity::Free(0));
        }
    });
    lab.provision(&spec).await;
    assert!(lab.carried_by("db-1").await.ends_with(" on-demand"));
    spec.name = NodeName::parse("db-2").unwrap();
    lab.submit("node.apply", "db-2", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(1_800)).await;
    let story = lab.story().await;
    let refusals = asked(&lab, "db-2.1").await;
    assert!(refusals.iter().any(|refusal| refusal.contains("on-demand")), "{refusals:?}\n{story}");
    let rejected = &lab.operation("db-2.1").await.facts.ladder.rejected;
    assert!(rejected.iter().any(|rejected| rejected.pool.market == Market::OnDemand), "{rejected:?}");
    assert!(lab.node("db-2").await.resources.carrier.is_none(), "it waits, visibly");
    assert_eq!(lab.region.with(|world, _| world.instances_of("db-2").len()), 0);
    set(&lab, "m6a.large", Market::Spot, Capacity::Unlimited);
    lab.rest("db-2", 1).await;
    assert_eq!(lab.carried_by("db-2").await, "m6a.large spot");
}
