//! Which pool is asked, and when an instance is left: surveys and status checks.

use perennial_tests::installation::PATIENCE;
use perennial_tests::rehearsal::Rehearsal;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::survey::{Kept as KeptSurvey, Ranked};
use perennial_workflows::spec::node::{NetworkMode, PersistSpec, RootMode};
use serde_json::json;

use super::{asked, calls, came_back, operator, rehearsal};

fn survey(node: &Node) -> &KeptSurvey {
    node.resources.survey.as_deref().expect("the node's file says what its types must be like")
}

fn pool_of(node: &Node) -> String {
    node.resources.carrier.as_ref().expect("it is on an instance").instance_type.clone()
}

/// The types of a survey are those that EC2 says fit, the cheapest first, at prices that EC2 said.
async fn is_as_ec2_says(rehearsal: &Rehearsal, pools: &[Ranked]) {
    let ec2 = operator(rehearsal).await;
    let prices: Vec<f64> = pools
        .iter()
        .map(|pool| pool.price.as_ref().expect("it is known").parse().expect("a price is a number"))
        .collect();
    assert!(prices.is_sorted(), "the cheapest first: {pools:?}");
    for pool in pools {
        let types = [aws_sdk_ec2::types::InstanceType::from(pool.instance_type.as_str())];
        let described = ec2.describe_instance_types().set_instance_types(Some(types.to_vec())).send().await;
        let described = described.expect("the type exists").instance_types()[0].clone();
        assert_eq!(described.v_cpu_info().and_then(|info| info.default_v_cpus()), Some(2), "{pool:?}");
        let memory_mib = described.memory_info().and_then(|info| info.size_in_mib());
        assert!(memory_mib.is_some_and(|mib| (8192..=16_384).contains(&mib)), "{pool:?}");
        let history = ec2.describe_spot_price_history().set_instance_types(Some(types.to_vec())).send();
        let history = history.await.expect("its prices are public");
        let price = pool.price.as_deref();
        assert!(history.spot_price_history().iter().any(|known| known.spot_price() == price), "{pool:?}");
    }
}

#[tokio::test]
async fn types_are_found_by_what_they_must_be_like_and_what_is_refused_holds_nothing_up() {
    let mut rehearsal = rehearsal(41).await;
    let persist =
        PersistSpec { root: RootMode::Adopt, network: NetworkMode::SecondaryIp, ..PersistSpec::default() };
    let mut file = rehearsal.node_file("a", persist);
    file["capacity"] = json!({
        "market": "spot_only", "requirements": { "vcpus": {"min": 2, "max": 2}, "memory_gib": {"min": 8, "max": 16}, "families": ["m*", "r*"] },
    });
    let mut all = rehearsal.apply(&[file]).await;
    let kept = &mut all[0];
    let first = rehearsal.perennial.node("a").await;
    let found = survey(&first).pools.clone();
    assert!(found.len() > 3, "several types fit: {found:?}");
    is_as_ec2_says(&rehearsal, &found).await;
    assert_eq!(pool_of(&first), found[0].instance_type, "the first is asked first");
    // It has none left, and the next one is asked.
    rehearsal
        .region
        .post("capacity", json!({"type": found[0].instance_type, "capacity": "unsupported"}))
        .await;
    rehearsal.interrupt(kept, json!({})).await;
    let second = came_back(&mut rehearsal, kept, 2).await;
    assert_ne!(pool_of(&second), pool_of(&first));
    is_as_ec2_says(&rehearsal, &survey(&second).pools).await;
    // A server that has just started knows no types, and nobody tells it: the last survey serves.
    rehearsal.perennial.kill();
    for action in ["DescribeInstanceTypes", "DescribeInstanceTypeOfferings"] {
        let refusal = json!({
            "fault": "before", "action": action, "code": "UnauthorizedOperation", "always": true,
        });
        rehearsal.region.post("faults", refusal).await;
    }
    rehearsal.perennial.start().await;
    rehearsal.interrupt(kept, json!({})).await;
    let third = came_back(&mut rehearsal, kept, 3).await;
    assert_eq!(survey(&third).at_ms, survey(&second).at_ms, "it is the survey of before");
    assert!(survey(&second).pools.iter().any(|pool| pool.instance_type == pool_of(&third)));
    let events = rehearsal.perennial.events().await;
    let of_the_survey: Vec<String> = events
        .iter()
        .filter(|event| event.stream.as_str() == "workflow/a.3")
        .map(|event| format!("{} {:?}", event.recorded_at_ms, event.data))
        .filter(|event| event.contains("survey") || event.contains("Survey"))
        .collect();
    let told = of_the_survey.iter().any(|event| event.contains("UnauthorizedOperation"));
    assert!(told, "the journal says why: {of_the_survey:#?}");
    rehearsal.check_books().await;
}

#[tokio::test]
async fn zones_are_asked_by_their_placement_scores() {
    let mut rehearsal = rehearsal(42).await;
    let persist = PersistSpec { root: RootMode::Image, network: NetworkMode::None, ..PersistSpec::default() };
    let dump = super::dump(&rehearsal).await;
    let others: Vec<&str> = dump["subnets"]
        .as_object()
        .expect("there are subnets")
        .keys()
        .map(String::as_str)
        .filter(|subnet| *subnet != rehearsal.subnet)
        .collect();
    let mut file = rehearsal.node_file("a", persist);
    file["capacity"] = json!({
        "market": "spot_only", "instance_types": ["m6i.large", "m5.large", "r6i.large"], "order": "score", "other_subnets": others,
    });
    let mut all = rehearsal.apply(&[file]).await;
    let kept = &mut all[0];
    assert!(calls(&rehearsal, "GetSpotPlacementScores").await > 0);
    for name in ["m6i.large", "m5.large", "r6i.large"] {
        let gone = json!({"type": name, "zone": "us-east-1a", "capacity": "unsupported"});
        rehearsal.region.post("capacity", gone).await;
    }
    let moved = rehearsal.perennial.node("a").await;
    let scores: Vec<u8> = survey(&moved).pools.iter().filter_map(|pool| pool.score).collect();
    assert!(!scores.is_empty(), "they are known: {:?}", survey(&moved).pools);
    rehearsal.interrupt(kept, json!({})).await;
    let node = came_back(&mut rehearsal, kept, 2).await;
    let pools = &survey(&node).pools;
    let elsewhere: Vec<u8> = pools
        .iter()
        .filter(|pool| pool.subnet.as_str() != rehearsal.subnet)
        .map(|pool| pool.score.expect("it is known"))
        .collect();
    assert!(elsewhere.is_sorted_by(|better, worse| better >= worse), "{pools:?}");
    let best = pools.iter().find(|pool| pool.subnet.as_str() != rehearsal.subnet).expect("there are others");
    assert_eq!(node.resources.subnet.as_ref(), Some(&best.subnet), "the best of the others");
    rehearsal.check_books().await;
}

#[tokio::test]
async fn an_instance_whose_status_checks_fail_for_long_is_left() {
    let mut rehearsal = rehearsal(43).await;
    let persist = PersistSpec { network: NetworkMode::SecondaryIp, ..PersistSpec::default() };
    let mut file = rehearsal.node_file("a", persist);
    file["signals"] = json!({ "impaired_after_s": 120 });
    file["capacity"]["min_lifetime_min"] = json!(1);
    let mut all = rehearsal.apply(&[file]).await;
    let kept = &mut all[0];
    let instance = kept.before.carrier.as_ref().expect("it is on an instance").instance.clone();
    rehearsal.region.post("impair", json!({ "instance": instance })).await;
    let node = came_back(&mut rehearsal, kept, 2).await;
    assert!(calls(&rehearsal, "DescribeInstanceStatus").await > 0);
    assert_ne!(node.resources.carrier.as_ref().map(|carrier| &carrier.instance), Some(&instance));
    // Those of the next one pass, and it stays.
    asked(&rehearsal, &["node", "show", "a"]).await;
    let seen = calls(&rehearsal, "DescribeInstanceStatus").await;
    while calls(&rehearsal, "DescribeInstanceStatus").await < seen + 4 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(rehearsal.at_rest("a", 2).await.operations, 2, "within {PATIENCE:?}");
    rehearsal.check_books().await;
}
