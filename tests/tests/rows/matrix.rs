//! The rows of the modes that the other tests leave out: every root × network with data by snapshots where the node lives, and all
//! of it in another zone; each planned, warned and lost without a warning. `ip_pool` has tests of its own, with few nodes: a subnet
//! gives addresses out at random, also those of a pool, and with many nodes one would now and then be somebody else's.

use perennial_tests::rehearsal::Rehearsal;
use perennial_workflows::spec::node::{DataMode, NetworkMode, PersistSpec};
use serde_json::{Value, json};

use super::{ROOTS, asked, came_back, capacity, rehearsal};

const NETWORKS: [(&str, NetworkMode); 4] = [
    ("eni", NetworkMode::PrimaryEni),
    ("eni2", NetworkMode::SecondaryEni),
    ("ip", NetworkMode::SecondaryIp),
    ("none", NetworkMode::None),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Same,
    Other,
}

fn files(rehearsal: &Rehearsal, data: DataMode, zone: Zone) -> Vec<Value> {
    let mut files = Vec::new();
    for (root_name, root) in ROOTS {
        for (network_name, network) in NETWORKS {
            let persist = PersistSpec { root, data, network, ..PersistSpec::default() };
            let mut file = rehearsal.node_file(&format!("{root_name}-{network_name}"), persist);
            if zone == Zone::Other {
                file["capacity"]["other_subnets"] = json!([rehearsal.other_subnet]);
                file["network"] = json!({ "zone_change": "allow" });
            }
            files.push(file);
        }
    }
    files
}

/// In another zone each replacement goes to the one that the node is not in.
async fn run(seed: u64, data: DataMode, zone: Zone) {
    let mut rehearsal = rehearsal(seed).await;
    let files = files(&rehearsal, data, zone);
    let mut all = rehearsal.apply(&files).await;
    let zones = ["us-east-1a", "us-east-1b"];
    for (round, notice) in [None, Some(json!({})), Some(json!({ "notice": "none" }))].iter().enumerate() {
        if zone == Zone::Other {
            capacity(&rehearsal, zones[(round + 1) % 2], "unlimited").await;
            capacity(&rehearsal, zones[round % 2], "unsupported").await;
        }
        for kept in &all {
            match notice {
                None => asked(&rehearsal, &["node", "replace", &kept.name]).await,
                Some(notice) => rehearsal.interrupt(kept, notice.clone()).await,
            }
        }
        for kept in &mut all {
            let before = kept.before.subnet.clone();
            let node = came_back(&mut rehearsal, kept, round as u64 + 2).await;
            let has_moved = node.resources.subnet != before;
            assert_eq!(has_moved, zone == Zone::Other, "{}: {notice:?}", kept.name);
        }
    }
    rehearsal.check_books().await;
}

#[tokio::test]
async fn by_snapshots_where_they_live() {
    run(61, DataMode::Snapshot, Zone::Same).await;
}

#[tokio::test]
async fn by_copies_to_another_zone_and_back() {
    run(62, DataMode::Reattach, Zone::Other).await;
}

#[tokio::test]
async fn by_snapshots_to_another_zone_and_back() {
    run(63, DataMode::Snapshot, Zone::Other).await;
}
