//! The real binary, the real SDK, and `perennial region` instead of AWS: every way of keeping a node's state, every kind of
//! interruption, trouble on the wire. boto3 judges from outside what came of it (`tests/outsider/verdict.py`).
//!
//! The region runs twenty times as fast as the world; the engine goes by the region's clock, so that it has as much time as on
//! AWS, except where a test says otherwise. `kills.rs` does the same with `kill -9` at seeded moments.

use perennial_engine::journal::RecordedEvent;
use perennial_tests::rehearsal::{EngineClock, EngineQueues, Kept, Rehearsal, modes, verdict};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::spec::node::{DataMode, Handover, NetworkMode, PersistSpec, RootMode};
use serde_json::{Value, json};

/// Simulated minutes take seconds; faster, and the machine's own latencies would be seen as minutes.
const SPEED: f64 = 20.0;

/// By the names of nodes with them.
const NETWORKS: [(&str, NetworkMode); 4] = [
    ("eni", NetworkMode::PrimaryEni),
    ("eni2", NetworkMode::SecondaryEni),
    ("ip", NetworkMode::SecondaryIp),
    ("none", NetworkMode::None),
];

async fn rehearsal(seed: u64) -> Rehearsal {
    Rehearsal::start(seed, SPEED, EngineClock::Region, EngineQueues::Embedded, &[]).await
}

/// A node of each mode.
async fn one_of_each(rehearsal: &mut Rehearsal) -> Vec<Kept> {
    let files: Vec<_> =
        modes().into_iter().map(|(name, persist)| rehearsal.node_file(&name, persist)).collect();
    rehearsal.apply(&files).await
}

async fn everything_came_back(rehearsal: &mut Rehearsal, all: &[Kept], operations: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for kept in all {
        let node = rehearsal.at_rest(&kept.name, operations).await;
        assert_eq!(node.operations, operations, "{}: one operation for each interruption", kept.name);
        rehearsal.check(kept, &node).await;
        nodes.push(node);
    }
    rehearsal.check_books().await;
    nodes
}

async fn survives(seed: u64, notice: Value) {
    let mut rehearsal = rehearsal(seed).await;
    let mut all = one_of_each(&mut rehearsal).await;
    for kept in &all {
        rehearsal.interrupt(kept, notice.clone()).await;
    }
    // What is still written after the notice must not be lost either.
    for kept in &mut all {
        rehearsal.write(kept, "last words").await;
    }
    everything_came_back(&mut rehearsal, &all, 2).await;
}

#[tokio::test]
async fn every_mode_survives_an_interruption_with_two_minutes_notice() {
    survives(1, json!({})).await;
}

#[tokio::test]
async fn every_mode_survives_a_notice_of_ten_seconds() {
    survives(2, json!({ "lead_s": 10 })).await;
}

#[tokio::test]
async fn every_mode_survives_the_loss_of_its_instance_without_notice() {
    survives(3, json!({ "notice": "none" })).await;
}

#[tokio::test]
async fn every_mode_survives_a_loss_of_which_no_event_tells() {
    survives(4, json!({ "notice": "vanish" })).await;
}

/// Every call that changes something in EC2, by its name.
const ACTS: [&str; 18] = [
    "RunInstances",
    "TerminateInstances",
    "CancelSpotInstanceRequests",
    "CreateVolume",
    "AttachVolume",
    "DetachVolume",
    "DeleteVolume",
    "CreateSnapshot",
    "DeleteSnapshot",
    "RegisterImage",
    "DeregisterImage",
    "CreateReplaceRootVolumeTask",
    "CreateNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "ModifyInstanceAttribute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DeleteNetworkInterface",
];

/// Each act of EC2's goes wrong in this way at first, in every mode, while nodes are made and while they are replaced.
async fn survives_trouble(seed: u64, fault: Value) {
    let mut rehearsal = rehearsal(seed).await;
    let trouble = async |rehearsal: &Rehearsal| {
        for action in ACTS {
            let mut rule = fault.clone();
            rule["action"] = json!(action);
            rule["next"] = json!(3);
            rehearsal.region.post("faults", rule).await;
        }
    };
    trouble(&rehearsal).await;
    let all = one_of_each(&mut rehearsal).await;
    trouble(&rehearsal).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    everything_came_back(&mut rehearsal, &all, 2).await;
    let calls = rehearsal.region.client().get("faults").await.expect("the region tells its faults");
    let struck =
        calls["faults"].as_array().into_iter().flatten().filter(|rule| rule["seen"].as_u64() > Some(0));
    assert!(struck.count() >= 20, "the trouble was met: {calls}");
}

#[tokio::test]
async fn a_reply_that_is_lost_after_the_call_took_effect_is_survived_at_every_act() {
    survives_trouble(5, json!({ "fault": "lost_reply" })).await;
}

#[tokio::test]
async fn a_request_that_is_lost_is_survived_at_every_act() {
    survives_trouble(6, json!({ "fault": "lost_request" })).await;
}

#[tokio::test]
async fn an_error_after_the_effect_is_survived_at_every_act() {
    survives_trouble(7, json!({ "fault": "after", "code": "InternalError" })).await;
}

#[tokio::test]
async fn throttling_is_survived() {
    let mut rehearsal = rehearsal(8).await;
    let all = one_of_each(&mut rehearsal).await;
    for target in ["acts", "looks"] {
        let rule =
            json!({ "action": target, "fault": "before", "code": "RequestLimitExceeded", "per_mille": 300 });
        rehearsal.region.post("faults", rule).await;
    }
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    for kept in &all {
        rehearsal.at_rest(&kept.name, 2).await;
    }
    let calls = rehearsal.region.client().get("calls").await.expect("the region tells its calls");
    let throttled = |call: &&Value| call["code"] == "RequestLimitExceeded";
    let count = calls["calls"].as_array().into_iter().flatten().filter(throttled).count();
    assert!(count >= 20, "only {count} calls were throttled");
    // The judge is not to be throttled.
    rehearsal.region.client().delete("faults").await.expect("the region is there");
    everything_came_back(&mut rehearsal, &all, 2).await;
}

fn persist(root: RootMode, network: NetworkMode) -> PersistSpec {
    PersistSpec { root, network, handover: Handover::Terminate, ..PersistSpec::default() }
}

#[tokio::test]
async fn a_replacement_whose_new_instance_is_taken_too_ends_on_a_third() {
    let mut rehearsal = rehearsal(9).await;
    let nodes = [("a", NetworkMode::PrimaryEni), ("b", NetworkMode::SecondaryIp), ("c", NetworkMode::None)];
    let files = nodes.map(|(name, network)| rehearsal.node_file(name, persist(RootMode::Adopt, network)));
    let all = rehearsal.apply(&files).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    // As soon as each has its second instance, that goes without notice.
    for kept in &all {
        let first = kept.before.carrier.as_ref().expect("it was provisioned").instance.to_string();
        let client = rehearsal.region.client();
        let name = kept.name.clone();
        let second = rehearsal
            .perennial
            .until("there is a second instance", async |_| {
                let dump = client.get("dump").await.ok()?;
                let instances = dump["instances"].as_object()?.iter();
                let mut second = instances.filter(|(id, instance)| {
                    instance["tags"]["perennial:node"] == *name
                        && **id != first
                        && instance["state"] == "running"
                });
                second.next().map(|(id, _)| id.clone())
            })
            .await;
        rehearsal.region.post("interrupt", json!({ "instance": second, "notice": "none" })).await;
    }
    for kept in &all {
        let node = rehearsal.at_rest(&kept.name, 2).await;
        rehearsal.check(kept, &node).await;
    }
    rehearsal.check_books().await;
}

#[tokio::test]
async fn a_node_waits_for_hours_until_there_is_capacity_and_loses_nothing() {
    let mut rehearsal = rehearsal(10).await;
    let mut file = rehearsal.node_file("db-1", persist(RootMode::Adopt, NetworkMode::PrimaryEni));
    file["capacity"]["market"] = json!("spot_only");
    let kept = rehearsal.apply(&[file]).await.remove(0);
    for instance_type in ["m6i.large", "m5.large"] {
        rehearsal.region.post("capacity", json!({ "type": instance_type, "capacity": 0 })).await;
    }
    rehearsal.interrupt(&kept, json!({ "notice": "none" })).await;
    rehearsal
        .perennial
        .until("a launch found no capacity", async |perennial| {
            let events = perennial.events().await;
            let mut replacement = events.iter().filter(|event| event.stream.as_str() == "workflow/db-1.2");
            replacement.any(|event| event.data.body.contains("no_capacity")).then_some(())
        })
        .await;
    // Three hours at once; the engine's clock goes on as before, as if it had slept.
    rehearsal.region.post("clock", json!({ "advance_s": 10_800 })).await;
    rehearsal.region.post("capacity", json!({ "type": "m5.large", "capacity": 1 })).await;
    let node = rehearsal.at_rest("db-1", 2).await;
    assert_eq!(
        node.resources.carrier.as_ref().map(|carrier| carrier.instance_type.as_str()),
        Some("m5.large")
    );
    rehearsal.check(&kept, &node).await;
}

#[tokio::test]
async fn data_goes_on_by_snapshots_in_the_launch_request() {
    let mut rehearsal = rehearsal(13).await;
    let mut files = Vec::new();
    for (root_name, root) in
        [("adopt", RootMode::Adopt), ("image", RootMode::Image), ("none", RootMode::None)]
    {
        for (network_name, network) in NETWORKS {
            let persist = PersistSpec { data: DataMode::Snapshot, ..persist(root, network) };
            files.push(rehearsal.node_file(&format!("{root_name}-{network_name}"), persist));
        }
    }
    let all = rehearsal.apply(&files).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    for node in everything_came_back(&mut rehearsal, &all, 2).await {
        assert!(
            node.resources.retained.iter().any(|old| old.slot.to_string() == "data"),
            "the old one is kept"
        );
    }
}

#[tokio::test]
async fn without_capacity_in_its_zone_a_node_moves_to_another_one() {
    let mut rehearsal = rehearsal(14).await;
    let mut files = Vec::new();
    for (root_name, root) in
        [("adopt", RootMode::Adopt), ("image", RootMode::Image), ("none", RootMode::None)]
    {
        for (network_name, network) in NETWORKS {
            let name = format!("{root_name}-{network_name}");
            let mut file = rehearsal.node_file(&name, persist(root, network));
            file["capacity"]["other_subnets"] = json!([rehearsal.other_subnet]);
            file["network"] = json!({ "zone_change": "allow" });
            files.push(file);
        }
    }
    let all = rehearsal.apply(&files).await;
    for instance_type in ["m6i.large", "m5.large"] {
        for market in ["spot", "on-demand"] {
            let nothing = json!({
                "type": instance_type, "zone": "us-east-1a", "market": market, "capacity": "unsupported"
            });
            rehearsal.region.post("capacity", nothing).await;
        }
    }
    for kept in &all {
        rehearsal.interrupt(kept, json!({ "notice": "none" })).await;
    }
    for node in everything_came_back(&mut rehearsal, &all, 2).await {
        let subnet = node.resources.subnet.map(|subnet| subnet.to_string());
        assert_eq!(subnet.as_ref(), Some(&rehearsal.other_subnet));
    }
}

#[tokio::test]
async fn on_the_machines_clock_a_fast_region_leaves_no_time_and_nothing_is_lost() {
    let mut rehearsal = Rehearsal::start(11, 60.0, EngineClock::Machine, EngineQueues::Sqs, &[]).await;
    let nodes = [("a", RootMode::Adopt), ("b", RootMode::Image), ("c", RootMode::None)];
    let files = nodes.map(|(name, root)| rehearsal.node_file(name, persist(root, NetworkMode::SecondaryIp)));
    let all = rehearsal.apply(&files).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    everything_came_back(&mut rehearsal, &all, 2).await;
    // Two minutes of the region are two seconds of the engine's.
    let events = rehearsal.perennial.events().await;
    for kept in &all {
        let stream = format!("workflow/{}.2", kept.name);
        let of = |event: &&RecordedEvent| event.stream.as_str() == stream;
        let (first, last) = (events.iter().find(of), events.iter().rfind(of));
        let took_ms = last.and_then(|last| Some(last.recorded_at_ms - first?.recorded_at_ms));
        assert!(took_ms > Some(2_000), "{stream} took {took_ms:?} ms, and had as much time as on AWS");
    }
}

#[tokio::test]
async fn a_region_with_aws_quotas_and_consistency_is_lived_with() {
    let mut rehearsal =
        Rehearsal::start(12, SPEED, EngineClock::Region, EngineQueues::Embedded, &["--realistic"]).await;
    let all = one_of_each(&mut rehearsal).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    everything_came_back(&mut rehearsal, &all, 2).await;
}

#[tokio::test]
async fn a_node_that_is_deleted_leaves_nothing_behind() {
    let mut rehearsal = rehearsal(13).await;
    let all = one_of_each(&mut rehearsal).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({ "notice": "none" })).await;
    }
    everything_came_back(&mut rehearsal, &all, 2).await;
    for kept in &all {
        let answer = rehearsal
            .perennial
            .json(&["node", "delete", &kept.name, "--keep", "none", "--yes", "--wait"])
            .await;
        assert_eq!(answer["state"], "finished", "{answer}");
    }
    let leaks = rehearsal.region.client().leaks("default", &[]).await.expect("the region looks for leaks");
    assert_eq!(leaks["leaks"], json!([]));
}

#[tokio::test]
async fn a_region_that_is_killed_in_mid_replacement_comes_back_with_everything() {
    let mut rehearsal = rehearsal(14).await;
    let all = one_of_each(&mut rehearsal).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    for settled in [40, 80, 120] {
        rehearsal
            .perennial
            .until("steps are settled", async |perennial| {
                let events = perennial.events().await;
                let replaced = events.iter().filter(|event| event.stream.as_str().ends_with(".2"));
                (replaced.count() >= settled).then_some(())
            })
            .await;
        rehearsal.region.kill();
        rehearsal.region.restart().await;
    }
    everything_came_back(&mut rehearsal, &all, 2).await;
}

/// The judge of all these tests is judged: each thing that is not so is found.
#[tokio::test]
async fn the_outsider_finds_what_is_not_so() {
    let mut rehearsal = rehearsal(15).await;
    let file = rehearsal.node_file("db-1", persist(RootMode::Adopt, NetworkMode::PrimaryEni));
    let kept = rehearsal.apply(&[file]).await.remove(0);
    rehearsal.interrupt(&kept, json!({})).await;
    let node = rehearsal.at_rest("db-1", 2).await;
    let right = rehearsal.expectation(&kept, &node, false);
    assert_eq!(verdict(&right).await, Vec::<String>::new());

    let wrong = [
        ("instance", json!("i-00000000000000000"), "live instances are"),
        ("not_instance", right["instance"].clone(), "it is on the instance that was taken"),
        ("data_volume", right["root_volume"].clone(), "the data volume is"),
        ("data_records", json!(["never written"]), "the data volume holds"),
        ("root_records", json!(["written in peace", "never written"]), "the root holds"),
        ("root_same_as", right["data_volume"].clone(), "the root is"),
        ("address", json!("10.9.8.7"), "and had 10.9.8.7"),
        ("interface", json!("eni-00000000000000000"), "the interface is"),
        ("known", json!([]), "left over"),
    ];
    for (field, value, finding) in wrong {
        let mut expected = right.clone();
        expected[field] = value;
        let found = verdict(&expected).await;
        assert!(found.iter().any(|found| found.contains(finding)), "{field}: {found:?}");
    }
    // And what is left in the region itself.
    let more = json!({ "instance": right["instance"], "device": "/dev/sdf", "record": "later" });
    rehearsal.region.post("write", more).await;
    assert_eq!(verdict(&right).await, Vec::<String>::new(), "what was written later is no loss");
    rehearsal.region.post("terminate", json!({ "instance": right["instance"] })).await;
    assert!(!verdict(&right).await.is_empty(), "an instance that goes is seen");
}
