//! Volumes beyond the file's, roots whose adoption fails, and volumes that do not come off.

use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice};
use perennial_tests::installation::PATIENCE;
use perennial_tests::rehearsal::{EngineClock, EngineQueues, ROOT_DEVICE, Rehearsal};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::resources::RecoveryPoint;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::node::{DataMode, NetworkMode, PersistSpec, RootMode};
use serde_json::{Value, json};

use super::{SPEED, asked, calls, came_back, dump, operator, rehearsal, slot, written};

fn volume_of(node: &Node, name: &str) -> String {
    node.resources.volumes[&slot(name)].volume.to_string()
}

/// A free volume of the account's in the first zone, with something on it.
async fn volume(rehearsal: &mut Rehearsal, record: &str) -> String {
    let made = operator(rehearsal).await.create_volume().availability_zone("us-east-1a").size(8).send().await;
    let volume = made.expect("a volume can be made").volume_id.expect("it has an id");
    is_in_state(rehearsal, "volumes", &volume, "Available").await;
    rehearsal.region.post("write", json!({ "volume": volume, "record": record })).await;
    volume
}

async fn is_in_state(rehearsal: &mut Rehearsal, kind: &str, id: &str, state: &str) {
    let client = rehearsal.region.client();
    let what = format!("{id} is {state}");
    let seen = rehearsal.perennial.within(PATIENCE, &what, async |_| {
        let dump = client.get("dump").await.ok()?;
        (dump[kind][id]["state"] == state).then_some(())
    });
    seen.await;
}

/// Where a volume is, by its own word: on which instance, under which name, and whether it would die with it.
async fn attachment(rehearsal: &Rehearsal, volume: &str) -> Option<(String, String, bool)> {
    let shown = operator(rehearsal).await.describe_volumes().volume_ids(volume).send().await;
    let shown = shown.expect("it is there").volumes()[0].clone();
    let at = shown.attachments().first()?;
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Some((text(at.instance_id()), text(at.device()), at.delete_on_termination().unwrap_or(true)))
}

/// A volume is on the node's present instance, and would survive it.
async fn is_the_nodes(rehearsal: &Rehearsal, node: &Node, volume: &str, device: &str) {
    let instance = node.resources.carrier.as_ref().expect("it is on an instance").instance.to_string();
    let expected = Some((instance, device.to_owned(), false));
    assert_eq!(attachment(rehearsal, volume).await, expected, "{volume}");
}

#[tokio::test]
async fn a_volume_that_somebody_attaches_goes_with_the_node_until_somebody_detaches_it() {
    let mut rehearsal = rehearsal(51).await;
    let files =
        [("adopt", RootMode::Adopt, DataMode::Reattach), ("image", RootMode::Image, DataMode::Snapshot)].map(
            |(name, root, data)| {
                let persist =
                    PersistSpec { root, data, network: NetworkMode::SecondaryIp, ..PersistSpec::default() };
                rehearsal.node_file(name, persist)
            },
        );
    let mut all = rehearsal.apply(&files).await;
    for kept in &mut all {
        let logs = volume(&mut rehearsal, "written by hand").await;
        let instance = kept.before.carrier.as_ref().expect("it is on an instance").instance.to_string();
        let attached = operator(&rehearsal).await.attach_volume().volume_id(&logs).instance_id(&instance);
        attached.device("/dev/sdh").send().await.expect("it is free");
        // The sweep takes it, as an operation of its own.
        let node = rehearsal.at_rest(&kept.name, 2).await;
        assert_eq!(volume_of(&node, "sdh"), logs);
        is_the_nodes(&rehearsal, &node, &logs, "/dev/sdh").await;
        kept.before = node.resources.clone();
        rehearsal.interrupt(kept, json!({})).await;
        let node = came_back(&mut rehearsal, kept, 3).await;
        let now = volume_of(&node, "sdh");
        is_the_nodes(&rehearsal, &node, &now, "/dev/sdh").await;
        assert_eq!(now == logs, kept.name == "adopt", "itself, or a copy");
        assert_eq!(written(&rehearsal, &now).await, ["written by hand"]);
        assert_eq!(written(&rehearsal, &logs).await, ["written by hand"], "nobody deletes it");
        // Given back: what is mounted would not come off.
        let instance = node.resources.carrier.as_ref().expect("it is on an instance").instance.to_string();
        rehearsal.region.post("unmount", json!({ "instance": instance, "volume": now })).await;
        operator(&rehearsal).await.detach_volume().volume_id(&now).send().await.expect("it is attached");
        let name = kept.name.clone();
        let left = rehearsal.perennial.within(PATIENCE, "it is given back", async |perennial| {
            let node = perennial.node(&name).await;
            (!node.resources.volumes.contains_key(&slot("sdh"))).then_some(())
        });
        left.await;
        assert_eq!(dump(&rehearsal).await["volumes"][&now]["state"], "Available");
    }
    rehearsal.check_books().await;
}

/// An image with a volume beside its root that holds something, and that would die with the instance; and an empty one.
async fn mapping_image(rehearsal: &mut Rehearsal) -> String {
    let golden = volume(rehearsal, "written into the image").await;
    let ec2 = operator(rehearsal).await;
    let snapshot = ec2.create_snapshot().volume_id(&golden).send().await.expect("it is there");
    let snapshot = snapshot.snapshot_id.expect("it has an id");
    is_in_state(rehearsal, "snapshots", &snapshot, "Completed").await;
    let plain = ec2.describe_images().image_ids("ami-00000000000000000").send().await;
    let plain = plain.expect("every region has it").images()[0].clone();
    let root =
        plain.block_device_mappings()[0].ebs().and_then(|ebs| ebs.snapshot_id()).expect("it has a root");
    let mapped = |device: &str, ebs: EbsBlockDevice| {
        BlockDeviceMapping::builder().device_name(device).ebs(ebs).build()
    };
    let registered = ec2
        .register_image()
        .name("maps-volumes")
        .architecture("x86_64".into())
        .root_device_name(ROOT_DEVICE)
        .ena_support(true)
        .virtualization_type("hvm")
        .block_device_mappings(mapped(ROOT_DEVICE, EbsBlockDevice::builder().snapshot_id(root).build()))
        .block_device_mappings(mapped(
            "/dev/sdm",
            EbsBlockDevice::builder().snapshot_id(snapshot).delete_on_termination(true).build(),
        ))
        .block_device_mappings(mapped(
            "/dev/sdn",
            EbsBlockDevice::builder().volume_size(9).delete_on_termination(false).build(),
        ));
    let image = registered.send().await.expect("it can be registered").image_id.expect("it has an id");
    is_in_state(rehearsal, "images", &image, "Available").await;
    image
}

#[tokio::test]
async fn what_the_image_maps_is_made_once_and_comes_back() {
    let mut rehearsal = rehearsal(52).await;
    let image = mapping_image(&mut rehearsal).await;
    let files = [
        ("adopt", RootMode::Adopt, NetworkMode::SecondaryIp),
        ("image", RootMode::Image, NetworkMode::PrimaryEni),
        ("none", RootMode::None, NetworkMode::None),
    ]
    .map(|(name, root, network)| {
        let persist = PersistSpec { root, network, ..PersistSpec::default() };
        let mut file = rehearsal.node_file(name, persist);
        file["image"] = json!(image);
        file
    });
    let mut all = rehearsal.apply(&files).await;
    for kept in &mut all {
        let first = rehearsal.perennial.node(&kept.name).await;
        let mapped = volume_of(&first, "sdm");
        assert_eq!(written(&rehearsal, &mapped).await, ["written into the image"]);
        let instance = first.resources.carrier.as_ref().expect("it is on an instance").instance.to_string();
        for device in ["/dev/sdm", "/dev/sdn"] {
            let write = json!({ "instance": instance, "device": device, "record": "written since" });
            rehearsal.region.post("write", write).await;
        }
        for (operations, notice) in [(2, json!({})), (3, json!({ "notice": "none" }))] {
            rehearsal.interrupt(kept, notice).await;
            let node = came_back(&mut rehearsal, kept, operations).await;
            assert_eq!(volume_of(&node, "sdm"), mapped, "the very same");
            is_the_nodes(&rehearsal, &node, &mapped, "/dev/sdm").await;
            assert_eq!(written(&rehearsal, &mapped).await, ["written into the image", "written since"]);
            assert_eq!(written(&rehearsal, &volume_of(&node, "sdn")).await, ["written since"]);
        }
    }
    rehearsal.check_books().await;
}

#[tokio::test]
async fn a_clone_carries_the_root_whose_adoption_fails() {
    let mut rehearsal = rehearsal(53).await;
    let files = [("ip", NetworkMode::SecondaryIp), ("eni", NetworkMode::PrimaryEni)]
        .map(|(name, network)| rehearsal.node_file(name, PersistSpec { network, ..PersistSpec::default() }));
    let mut all = rehearsal.apply(&files).await;
    for kept in &mut all {
        let old = kept.before.volumes[&Slot::Root].volume.clone();
        rehearsal.region.post("adoption", json!({ "what": "fails", "volume": old })).await;
        rehearsal.interrupt(kept, json!({})).await;
        let node = came_back(&mut rehearsal, kept, 2).await;
        assert_eq!(node.resources.recovery_points[&Slot::Root], RecoveryPoint::Clone { of: old.clone() });
        assert!(node.resources.retained.iter().any(|left| left.volume == old), "the old one is retained");
        assert!(node.resources.root_images.is_empty(), "no image was needed");
    }
    assert_eq!(calls(&rehearsal, "CopyVolumes").await, 2);
    // Where no volume can be adopted at all, an image carries the root.
    rehearsal.region.post("adoption", json!({ "what": "unsupported" })).await;
    for kept in &mut all {
        rehearsal.interrupt(kept, json!({})).await;
        let node = came_back(&mut rehearsal, kept, 3).await;
        assert!(matches!(node.resources.recovery_points[&Slot::Root], RecoveryPoint::FinalSnapshot { .. }));
    }
    rehearsal.check_books().await;
}

/// Ten minutes after the termination it is detached by force, and where not even that helps a person is told how.
#[tokio::test]
async fn a_volume_that_hangs_is_detached_by_force_from_a_terminated_instance_only() {
    let mut rehearsal =
        Rehearsal::start(54, 4.0 * SPEED, EngineClock::Region, EngineQueues::Embedded, &[]).await;
    let files = ["a", "b"].map(|name| {
        rehearsal.node_file(name, PersistSpec { network: NetworkMode::SecondaryIp, ..PersistSpec::default() })
    });
    let mut all = rehearsal.apply(&files).await;
    let data = all[1].before.volumes[&slot("data")].volume.to_string();
    for (kept, withstands) in all.iter().zip(["detach", "force"]) {
        let volume = kept.before.volumes[&slot("data")].volume.to_string();
        rehearsal.region.post("hang", json!({ "volume": volume, "withstands": withstands })).await;
        asked(&rehearsal, &["node", "replace", &kept.name]).await;
    }
    came_back(&mut rehearsal, &mut all[0], 2).await;
    let needs = rehearsal.perennial.within(PATIENCE, "the other one is stuck", async |perennial| {
        let shown: Value = perennial.json(&["workflow", "show", "b.2"]).await;
        let text = shown.to_string();
        text.contains("detach-volume").then_some(text)
    });
    let needs = needs.await;
    let old = all[1].before.carrier.as_ref().expect("it was on an instance").instance.clone();
    let command = format!("aws ec2 detach-volume --volume-id {data} --instance-id {old} --force");
    assert!(needs.contains(&command), "{needs}");
    rehearsal.region.post("let-go", json!({ "volume": data })).await;
    asked(&rehearsal, &["workflow", "resume", "b.2"]).await;
    came_back(&mut rehearsal, &mut all[1], 2).await;
    rehearsal.check_books().await;
}
