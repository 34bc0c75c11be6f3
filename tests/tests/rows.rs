//! The rows of the README's table of modes that `region.rs` does not have, and what is done to a node in peace, over the real
//! binary, the real SDK and `perennial region`; boto3 judges. What a row is and what its plan says of it is checked for all of
//! them in `sim/tests/modes.rs`.

use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::Credentials;
use perennial_tests::installation::PATIENCE;
use perennial_tests::rehearsal::{DATA_DEVICE, EngineClock, EngineQueues, Kept, Rehearsal};
use perennial_workflows::node::Node;
use perennial_workflows::spec::{NetworkMode, NodeName, PersistSpec, RootMode};
use perennial_workflows::steps::Slot;
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

#[tokio::test]
async fn a_node_that_was_paused_comes_back_with_what_it_had() {
    let mut rehearsal = rehearsal(34).await;
    let files: Vec<Value> = [
        ("a", RootMode::Adopt, NetworkMode::PrimaryEni),
        ("b", RootMode::Image, NetworkMode::SecondaryEni),
        ("c", RootMode::None, NetworkMode::None),
    ]
    .into_iter()
    .map(|(name, root, network)| {
        rehearsal.node_file(name, PersistSpec { root, network, ..PersistSpec::default() })
    })
    .collect();
    let mut all = rehearsal.apply(&files).await;
    for kept in &all {
        asked(&rehearsal, &["node", "pause", &kept.name]).await;
    }
    for kept in &all {
        let name = kept.name.clone();
        let paused = rehearsal.perennial.within(PATIENCE, "it is paused", async |perennial| {
            let node = perennial.node(&name).await;
            node.is_paused().then_some(node)
        });
        let paused = paused.await;
        assert_eq!(paused.resources.carrier, None);
        let dump = rehearsal.region.client().get("dump").await.expect("the region tells what it is");
        let old = kept.before.carrier.as_ref().expect("it was provisioned").instance.to_string();
        assert_eq!(dump["instances"][&old]["state"], "terminated", "no instance is paid for");
        asked(&rehearsal, &["node", "resume", &kept.name]).await;
    }
    for kept in &mut all {
        came_back(&mut rehearsal, kept, 3).await;
    }
    rehearsal.check_books().await;
}

#[tokio::test]
async fn a_backup_brings_back_what_was_on_the_volumes_then() {
    let mut rehearsal = rehearsal(35).await;
    let persist = PersistSpec { network: NetworkMode::SecondaryIp, ..PersistSpec::default() };
    let file = rehearsal.node_file("a", persist);
    let mut all = rehearsal.apply(&[file]).await;
    let kept = &mut all[0];
    asked(&rehearsal, &["node", "backup", "a"]).await;
    let backup = rehearsal
        .perennial
        .within(PATIENCE, "its backup is complete", async |perennial| {
            let shown = perennial.json(&["node", "backups", "a"]).await;
            let first = shown["backups"].get(0)?.clone();
            (first["state"] == "complete").then(|| first["id"].as_str().expect("it has a name").to_owned())
        })
        .await;
    // What comes later is lost, and only that.
    let until = (kept.root.clone(), kept.data.clone());
    assert!(rehearsal.write(kept, "written too late").await);
    (kept.root, kept.data) = until;
    asked(&rehearsal, &["node", "restore", "a", "--backup", &backup]).await;
    let node = rehearsal.at_rest("a", 2).await;
    let dump = rehearsal.region.client().get("dump").await.expect("the region tells what it is");
    for (slot, records) in [(Slot::Root, &kept.root), (data_slot(&node), &kept.data)] {
        let volume = node.resources.volumes[&slot].volume.to_string();
        let shown = rehearsal.region.client().get(&format!("volumes/{volume}")).await.expect("it is there");
        let content: Vec<&str> =
            shown["content"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let written: Vec<&str> = content.into_iter().filter(|record| record.starts_with("written")).collect();
        assert_eq!(written, *records, "{slot}");
        let old = kept.before.volumes[&slot].volume.to_string();
        assert_eq!(dump["volumes"][&old]["state"], "Available", "{slot}: what it had is retained");
        assert!(node.resources.retained.iter().any(|held| held.volume.to_string() == old), "and listed");
    }
    rehearsal.check_books().await;
}

fn data_slot(node: &Node) -> Slot {
    let spec = node.spec.as_ref().expect("it is registered");
    Slot::Data(spec.data_volumes[0].name.clone())
}

#[tokio::test]
async fn a_volume_that_exists_becomes_the_nodes_and_grows() {
    let mut rehearsal = rehearsal(36).await;
    let persist = PersistSpec { network: NetworkMode::None, ..PersistSpec::default() };
    // The volume of a node that was deleted without its data.
    let file = rehearsal.node_file("first", persist);
    let first = rehearsal.apply(&[file]).await.remove(0);
    asked(&rehearsal, &["node", "delete", "first", "--keep", "data", "--wait", "--timeout", "10m"]).await;
    let node = rehearsal.perennial.node("first").await;
    let volume =
        first.before.volumes[&Slot::Data(NodeName::parse("data").expect("a name"))].volume.to_string();
    assert!(!node.exists());
    // It still carries the first node's tag, as whoever takes it must say that it is nobody's.
    let config = aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(rehearsal.region.endpoint())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"))
        .load()
        .await;
    let tag = aws_sdk_ec2::types::Tag::builder().key("perennial:node").build();
    let untag = aws_sdk_ec2::Client::new(&config).delete_tags().resources(&volume).tags(tag);
    untag.send().await.expect("a tag can be taken off");
    let mut file = rehearsal.node_file("second", persist);
    file["data_volumes"] = json!([{"name": "data", "device": DATA_DEVICE, "size_gib": 8, "volume": volume}]);
    let mut second = rehearsal.apply(std::slice::from_ref(&file)).await.remove(0);
    second.data = [first.data, second.data].concat();
    file["data_volumes"][0]["size_gib"] = json!(12);
    rehearsal.perennial.write("second.yaml", &file.to_string());
    asked(&rehearsal, &["node", "apply", "-f", "second.yaml"]).await;
    rehearsal.at_rest("second", 2).await;
    let dump = rehearsal.region.client().get("dump").await.expect("the region tells what it is");
    assert_eq!(dump["volumes"][&volume]["size_gib"], 12, "{dump}");
    rehearsal.interrupt(&second, json!({})).await;
    came_back(&mut rehearsal, &mut second, 3).await;
    rehearsal.check_books().await;
}
