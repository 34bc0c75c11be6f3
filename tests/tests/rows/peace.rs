//! What is asked of a node in peace: a pause, a backup and what comes of it, a volume that was there before it.

use aws_sdk_ec2::types::Tag;
use perennial_tests::installation::PATIENCE;
use perennial_tests::rehearsal::{DATA_DEVICE, Kept, Rehearsal};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::node::{NetworkMode, PersistSpec, RootMode};
use serde_json::{Value, json};

use super::{ROOTS, asked, came_back, dump, exhaust, operator, rehearsal, slot, written};

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
        let dump = dump(&rehearsal).await;
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
    let backup = backed_up(&mut rehearsal, "a").await;
    // What comes later is lost, and only that.
    let until = (kept.root.clone(), kept.data.clone());
    assert!(rehearsal.write(kept, "written too late").await);
    (kept.root, kept.data) = until;
    asked(&rehearsal, &["node", "restore", "a", "--backup", &backup]).await;
    let node = rehearsal.at_rest("a", 2).await;
    let dump = dump(&rehearsal).await;
    for (slot, records) in [(Slot::Root, &kept.root), (data_slot(&node), &kept.data)] {
        let volume = node.resources.volumes[&slot].volume.to_string();
        assert_eq!(written(&rehearsal, &volume).await, *records, "{slot}");
        let old = kept.before.volumes[&slot].volume.to_string();
        assert_eq!(dump["volumes"][&old]["state"], "Available", "{slot}: what it had is retained");
        assert!(node.resources.retained.iter().any(|held| held.volume.to_string() == old), "and listed");
    }
    rehearsal.check_books().await;
}

/// Takes a backup, and waits until it is complete.
async fn backed_up(rehearsal: &mut Rehearsal, name: &str) -> String {
    asked(rehearsal, &["node", "backup", name]).await;
    let complete = rehearsal.perennial.within(PATIENCE, "its backup is complete", async |perennial| {
        let shown = perennial.json(&["node", "backups", name]).await;
        let first = shown["backups"].get(0)?.clone();
        (first["state"] == "complete").then(|| first["id"].as_str().expect("it has a name").to_owned())
    });
    complete.await
}

#[tokio::test]
async fn a_new_node_is_made_from_the_backup_of_another_which_goes_on() {
    let mut rehearsal = rehearsal(37).await;
    let files = ROOTS.map(|(name, root)| {
        let persist = PersistSpec { root, network: NetworkMode::SecondaryIp, ..PersistSpec::default() };
        rehearsal.node_file(name, persist)
    });
    let mut all = rehearsal.apply(&files).await;
    for kept in &mut all {
        let backup = backed_up(&mut rehearsal, &kept.name).await;
        let of_then = kept.clone();
        assert!(rehearsal.write(kept, "written too late").await);
        let name = format!("{}-2", kept.name);
        asked(&rehearsal, &["node", "restore", &kept.name, "--backup", &backup, "--as-new", &name]).await;
        let node = rehearsal.at_rest(&name, 1).await;
        let mut new = Kept { name, before: node.resources.clone(), ..of_then };
        let volume_of = |slot: &Slot| node.resources.volumes[slot].volume.to_string();
        assert_eq!(written(&rehearsal, &volume_of(&data_slot(&node))).await, new.data, "{}", new.name);
        if node.resources.volumes.contains_key(&Slot::Root) {
            assert_eq!(written(&rehearsal, &volume_of(&Slot::Root)).await, new.root, "{}", new.name);
        }
        // From here on they are two nodes like any other.
        assert!(rehearsal.write(&mut new, "written in new times").await);
        for (kept, operations) in [(&mut *kept, 2), (&mut new, 2)] {
            rehearsal.interrupt(kept, json!({})).await;
            came_back(&mut rehearsal, kept, operations).await;
        }
    }
    rehearsal.check_books().await;
}

fn data_slot(node: &Node) -> Slot {
    let spec = node.spec.as_ref().expect("it is registered");
    Slot::Data(spec.data_volumes[0].name.clone())
}

#[tokio::test]
async fn a_volume_that_exists_goes_on_as_a_copy_in_another_zone() {
    let mut rehearsal = rehearsal(39).await;
    let ec2 = operator(&rehearsal).await;
    let made = ec2.create_volume().availability_zone("us-east-1a").size(8).send().await;
    let volume = made.expect("a volume can be made").volume_id.expect("it has an id");
    let persist = PersistSpec { network: NetworkMode::None, ..PersistSpec::default() };
    let mut file = rehearsal.node_file("a", persist);
    file["data_volumes"] = json!([{"name": "data", "device": DATA_DEVICE, "size_gib": 8, "volume": volume}]);
    file["capacity"]["other_subnets"] = json!([rehearsal.other_subnet]);
    let mut all = rehearsal.apply(&[file]).await;
    let kept = &mut all[0];
    assert_eq!(kept.before.volumes[&slot("data")].volume.to_string(), volume);
    exhaust(&rehearsal).await;
    rehearsal.interrupt(kept, json!({})).await;
    let node = came_back(&mut rehearsal, kept, 2).await;
    assert_ne!(node.resources.volumes[&slot("data")].volume.to_string(), volume);
    let retained = node.resources.retained.iter().find(|old| old.volume.to_string() == volume);
    assert!(
        retained.is_some_and(|old| old.foreign),
        "it is nobody's to delete: {:?}",
        node.resources.retained
    );
    assert_eq!(dump(&rehearsal).await["volumes"][&volume]["state"], "Available");
    // The copy is the node's from here on.
    rehearsal.interrupt(kept, json!({ "notice": "none" })).await;
    came_back(&mut rehearsal, kept, 3).await;
    rehearsal.check_books().await;
}

#[tokio::test]
async fn a_volume_that_exists_becomes_the_nodes_and_grows() {
    let mut rehearsal = rehearsal(36).await;
    let persist = PersistSpec { network: NetworkMode::None, ..PersistSpec::default() };
    // The volume of a node that was deleted without its data.
    let file = rehearsal.node_file("first", persist);
    let first = rehearsal.apply(&[file]).await.remove(0);
    asked(&rehearsal, &["node", "delete", "first", "--keep", "data", "--yes", "--wait", "--timeout", "10m"])
        .await;
    let node = rehearsal.perennial.node("first").await;
    let volume =
        first.before.volumes[&Slot::Data(NodeName::parse("data").expect("a name"))].volume.to_string();
    assert!(!node.exists());
    // It still carries the first node's tag, as whoever takes it must say that it is nobody's.
    let tag = Tag::builder().key("perennial:node").build();
    let untag = operator(&rehearsal).await.delete_tags().resources(&volume).tags(tag);
    untag.send().await.expect("a tag can be taken off");
    let mut file = rehearsal.node_file("second", persist);
    file["data_volumes"] = json!([{"name": "data", "device": DATA_DEVICE, "size_gib": 8, "volume": volume}]);
    let mut second = rehearsal.apply(std::slice::from_ref(&file)).await.remove(0);
    second.data = [first.data, second.data].concat();
    file["data_volumes"][0]["size_gib"] = json!(12);
    rehearsal.perennial.write("second.yaml", &file.to_string());
    asked(&rehearsal, &["node", "apply", "-f", "second.yaml"]).await;
    rehearsal.at_rest("second", 2).await;
    let dump = dump(&rehearsal).await;
    assert_eq!(dump["volumes"][&volume]["size_gib"], 12, "{dump}");
    rehearsal.interrupt(&second, json!({})).await;
    came_back(&mut rehearsal, &mut second, 3).await;
    rehearsal.check_books().await;
}
