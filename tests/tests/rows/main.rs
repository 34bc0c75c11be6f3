//! The rows of the table of modes (docs/modes.md) that `region.rs` does not have, and what is done to a node in peace, over the real
//! binary, the real SDK and `perennial region`; boto3 judges. What a row is and what its plan says of it is checked for all of
//! them in `sim/tests/sim/modes.rs`.

mod choice;
mod matrix;
mod peace;
mod volumes;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::Credentials;
use perennial_tests::rehearsal::{EngineClock, EngineQueues, Kept, Rehearsal};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::node::{NetworkMode, PersistSpec, RootMode};
use serde_json::{Value, json};

/// As in `region.rs`.
const SPEED: f64 = 20.0;

const ROOTS: [(&str, RootMode); 3] =
    [("adopt", RootMode::Adopt), ("image", RootMode::Image), ("none", RootMode::None)];

async fn rehearsal(seed: u64) -> Rehearsal {
    Rehearsal::start(seed, SPEED, EngineClock::Region, EngineQueues::Embedded, &[]).await
}

async fn asked(rehearsal: &Rehearsal, arguments: &[&str]) {
    let output = rehearsal.perennial.cli(arguments).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}\n{}", rehearsal.perennial.log_tail());
}

fn slot(name: &str) -> Slot {
    Slot::try_from(name.to_owned()).expect("a good name")
}

/// Somebody with the AWS command line.
async fn operator(rehearsal: &Rehearsal) -> aws_sdk_ec2::Client {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(rehearsal.region.endpoint())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"));
    aws_sdk_ec2::Client::new(&config.load().await)
}

async fn dump(rehearsal: &Rehearsal) -> Value {
    rehearsal.region.client().get("dump").await.expect("the region tells what it is")
}

/// What was written onto a volume by these tests.
async fn written(rehearsal: &Rehearsal, volume: &str) -> Vec<String> {
    let shown = rehearsal.region.client().get(&format!("volumes/{volume}")).await.expect("it is there");
    let content = shown["content"].as_array().into_iter().flatten().filter_map(Value::as_str);
    content.filter(|record| record.starts_with("written")).map(str::to_owned).collect()
}

/// How often an action was called.
async fn calls(rehearsal: &Rehearsal, action: &str) -> usize {
    let calls = rehearsal.region.client().get("calls").await.expect("the region counts");
    let calls = calls["calls"].as_array().cloned().unwrap_or_default();
    calls.iter().filter(|call| call["action"] == action).count()
}

/// Waits for an operation, judges what came of it, and takes it as the present.
async fn came_back(rehearsal: &mut Rehearsal, kept: &mut Kept, operations: u64) -> Node {
    let node = rehearsal.at_rest(&kept.name, operations).await;
    assert_eq!(node.operations, operations, "{}: one operation for each thing that happened", kept.name);
    rehearsal.check(kept, &node).await;
    kept.before = node.resources.clone();
    node
}

/// A planned move, one with a warning and one without, of a node of each kind of root.
async fn all_triggers(rehearsal: &mut Rehearsal, files: &[Value]) {
    let mut all = rehearsal.apply(files).await;
    for kept in &all {
        asked(rehearsal, &["node", "replace", &kept.name]).await;
    }
    for kept in &mut all {
        came_back(rehearsal, kept, 2).await;
    }
    for (operations, notice) in [(3, json!({})), (4, json!({ "notice": "none" }))] {
        for kept in &all {
            rehearsal.interrupt(kept, notice.clone()).await;
        }
        for kept in &mut all {
            came_back(rehearsal, kept, operations).await;
        }
    }
    rehearsal.check_books().await;
}

#[tokio::test]
async fn a_second_interface_moves_with_the_node_planned_warned_and_lost() {
    let mut rehearsal = rehearsal(31).await;
    let files = ROOTS.map(|(name, root)| {
        let persist = PersistSpec { root, network: NetworkMode::SecondaryEni, ..PersistSpec::default() };
        rehearsal.node_file(name, persist)
    });
    all_triggers(&mut rehearsal, &files).await;
}

#[tokio::test]
async fn an_address_of_a_pool_moves_with_the_node_planned_warned_and_lost() {
    let mut rehearsal = rehearsal(32).await;
    let pool = json!({
        "schema": "perennial.pool/v1", "name": "brokers", "subnet": rehearsal.subnet,
        "addresses": rehearsal.addresses(40, 43).await,
    });
    rehearsal.perennial.write("pool.yaml", &pool.to_string());
    asked(&rehearsal, &["pool", "apply", "-f", "pool.yaml", "--wait"]).await;
    let files = ROOTS.map(|(name, root)| {
        let persist = PersistSpec { root, network: NetworkMode::IpPool, ..PersistSpec::default() };
        let mut file = rehearsal.node_file(name, persist);
        file["network"] = json!({ "ip_pool": "brokers" });
        file
    });
    all_triggers(&mut rehearsal, &files).await;
    let shown = rehearsal.perennial.json(&["pool", "show", "brokers"]).await;
    for (name, _) in ROOTS {
        assert!(shown.to_string().contains(name), "each has its own: {shown}");
    }
}

/// No capacity of any kind in the zone where the nodes live at first.
async fn exhaust(rehearsal: &Rehearsal) {
    capacity(rehearsal, "us-east-1a", "unsupported").await;
}

/// What each pool of the nodes' types has in a zone.
async fn capacity(rehearsal: &Rehearsal, zone: &str, capacity: &str) {
    for instance_type in ["m6i.large", "m5.large"] {
        for market in ["spot", "on-demand"] {
            let pool = json!({ "type": instance_type, "zone": zone, "market": market, "capacity": capacity });
            rehearsal.region.post("capacity", pool).await;
        }
    }
}

/// Pools of addresses in both subnets, `here` and `there`.
async fn pools(rehearsal: &Rehearsal) {
    for (name, subnet) in [("here", &rehearsal.subnet), ("there", &rehearsal.other_subnet)] {
        let pool = json!({
            "schema": "perennial.pool/v1", "name": name, "subnet": subnet,
            "addresses": rehearsal.addresses_in(subnet, 40, 43).await,
        });
        rehearsal.perennial.write("pool.yaml", &pool.to_string());
        asked(rehearsal, &["pool", "apply", "-f", "pool.yaml", "--wait"]).await;
    }
}

#[tokio::test]
async fn a_node_of_pools_has_the_address_in_another_zone_that_it_was_promised() {
    let mut rehearsal = rehearsal(38).await;
    let other = rehearsal.other_subnet.clone();
    pools(&rehearsal).await;
    let files = ROOTS.map(|(name, root)| {
        let persist = PersistSpec { root, network: NetworkMode::IpPool, ..PersistSpec::default() };
        let mut file = rehearsal.node_file(name, persist);
        file["network"] = json!({
            "ip_pool": "here", "ip_pools_elsewhere": { other.clone(): "there" }, "zone_change": "allow",
        });
        file["capacity"]["other_subnets"] = json!([other]);
        file
    });
    let mut all = rehearsal.apply(&files).await;
    exhaust(&rehearsal).await;
    for kept in &all {
        rehearsal.interrupt(kept, json!({})).await;
    }
    for kept in &mut all {
        let promised = kept.before.addresses_elsewhere.values().next().copied();
        let node = came_back(&mut rehearsal, kept, 2).await;
        assert!(promised.is_some() && node.resources.address == promised, "{}: {promised:?}", kept.name);
        assert_eq!(node.resources.subnet.map(|subnet| subnet.to_string()).as_ref(), Some(&other));
    }
    rehearsal.check_books().await;
}

#[tokio::test]
async fn a_primary_interface_and_an_address_move_when_they_are_asked_to() {
    let mut rehearsal = rehearsal(33).await;
    let mut files = Vec::new();
    for (network_name, network) in
        [("eni", NetworkMode::PrimaryEni), ("ip", NetworkMode::SecondaryIp), ("no", NetworkMode::None)]
    {
        for (root_name, root) in ROOTS {
            let persist = PersistSpec { root, network, ..PersistSpec::default() };
            files.push(rehearsal.node_file(&format!("{root_name}-{network_name}"), persist));
        }
    }
    let mut all = rehearsal.apply(&files).await;
    for kept in &all {
        asked(&rehearsal, &["node", "replace", &kept.name]).await;
    }
    for kept in &mut all {
        came_back(&mut rehearsal, kept, 2).await;
    }
    rehearsal.check_books().await;
}
