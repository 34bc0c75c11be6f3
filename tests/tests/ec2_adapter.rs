//! The port `Cloud` over EC2, against an emulator of EC2 that we did not write (moto).
//!
//! What moto cannot show (client tokens, spot requests, refusals by state, time, roots from snapshots) is the
//! simulated region's to show; what is checked here is that another reading of the protocol understands our requests
//! and that we understand its answers. moto's departures from EC2 that a test meets are named where it meets them.

use std::net::Ipv4Addr;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::Credentials;
use aws_sdk_ec2::types::{InstanceAttributeName, InstanceLifecycleType};
use perennial_tests::emulators::{Emulator, Kind};
use perennial_workers::aws::Ec2;
use perennial_workers::port::error::{Class, CloudError, Disposition, Effect};
use perennial_workers::port::{
    AttachmentState, Cloud, ImageRequest, ImageState, InstanceView, InterfaceRequest, InterfaceView,
    LaunchNetwork, LaunchRequest, Select, SnapshotState, SubnetView, Tags, Taking, VolumeRequest,
    VolumeState, VolumeView,
};
use perennial_workflows::model::aws::{
    AllocationId, ImageId, InstanceId, InstanceState, InterfaceId, Market, SnapshotId, SubnetId, VolumeId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How often a state is looked at before the test gives up, and how long it waits in between: 10 s in all, where
/// moto needs one look.
const LOOKS_MAX: usize = 100;
const LOOK_EVERY: Duration = Duration::from_millis(100);

const USER_DATA: &str = "#!/bin/sh\necho ü\n";

async fn config(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .endpoint_url(endpoint)
        .load()
        .await
}

/// An empty region of the emulator's, seen through the adapter and, for what the port does not show, through the SDK.
struct World {
    ec2: Ec2,
    sdk: aws_sdk_ec2::Client,
    image: ImageId,
    subnet: SubnetView,
    emulator: Emulator,
}

impl World {
    async fn on_moto() -> Self {
        let emulator = Emulator::start(Kind::Moto).unwrap_or_else(|error| panic!("{error}"));
        let config = config(&emulator.endpoint()).await;
        let sdk = aws_sdk_ec2::Client::new(&config);
        let images = sdk.describe_images().owners("amazon").send().await.unwrap();
        // moto puts every root volume at /dev/sda1, whatever the image says.
        let image = images.images().iter().find(|image| image.root_device_name() == Some("/dev/sda1"));
        let image = ImageId::parse(image.unwrap().image_id().unwrap()).unwrap();
        let subnets = sdk.describe_subnets().send().await.unwrap();
        let id = SubnetId::parse(subnets.subnets()[0].subnet_id().unwrap()).unwrap();
        let ec2 = Ec2::new(&config);
        let subnet = ec2.subnets(&[id]).await.unwrap().remove(0);
        Self { ec2, sdk, image, subnet, emulator }
    }

    /// A spot launch on a new interface, of the node of this name.
    fn launch(&self, node: &str) -> LaunchRequest {
        LaunchRequest {
            volumes: Vec::new(),
            suppress: Vec::new(),
            client_token: format!("launch-{node}"),
            image: self.image.clone(),
            instance_type: "m5.large".into(),
            market: Market::Spot,
            price_max: Some("0.05".into()),
            zone: self.subnet.zone.clone(),
            network: LaunchNetwork::New { subnet: self.subnet.id.clone(), groups: Vec::new() },
            root: None,
            key_name: None,
            instance_profile: None,
            metadata: None,
            template: None,
            user_data: Some(USER_DATA.into()),
            tags: node_tags(node),
        }
    }

    fn volume(&self, node: &str) -> VolumeRequest {
        VolumeRequest {
            client_token: format!("volume-{node}"),
            zone: self.subnet.zone.clone(),
            size_gib: 8,
            volume_type: "gp3".into(),
            iops: Some(4000),
            throughput: Some(250),
            encrypted: true,
            kms_key: None,
            snapshot: None,
            tags: node_tags(node),
        }
    }

    fn interface(&self, node: &str, private_ip: Option<Ipv4Addr>) -> InterfaceRequest {
        InterfaceRequest {
            client_token: format!("interface-{node}"),
            subnet: self.subnet.id.clone(),
            groups: Vec::new(),
            private_ip,
            tags: node_tags(node),
        }
    }

    /// The address of the subnet with this last number; moto's default subnets are /20.
    fn address(&self, last: u8) -> Ipv4Addr {
        let (base, _) = self.subnet.cidr.split_once('/').unwrap();
        let [a, b, c, _] = base.parse::<Ipv4Addr>().unwrap().octets();
        Ipv4Addr::new(a, b, c, last)
    }

    async fn instance(&self, id: &InstanceId) -> InstanceView {
        self.ec2.instances(&Select::Ids(vec![id.clone()])).await.unwrap().remove(0)
    }

    async fn volume_view(&self, id: &VolumeId) -> VolumeView {
        self.ec2.volumes(&Select::Ids(vec![id.clone()])).await.unwrap().remove(0)
    }

    async fn interface_view(&self, id: &InterfaceId) -> InterfaceView {
        self.ec2.interfaces(&Select::Ids(vec![id.clone()])).await.unwrap().remove(0)
    }

    /// Launches and waits until the instance runs.
    async fn running(&self, request: &LaunchRequest) -> InstanceView {
        let launched = self.ec2.run_instance(request).await.unwrap();
        self.in_state(&launched.id, InstanceState::Running).await
    }

    async fn in_state(&self, id: &InstanceId, state: InstanceState) -> InstanceView {
        for _ in 0..LOOKS_MAX {
            let view = self.instance(id).await;
            if view.state == state {
                return view;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("{id} never was {state}: {}", self.emulator.log_tail());
    }
}

fn node_tags(node: &str) -> Tags {
    Tags::from([("perennial:node".into(), node.into()), ("perennial:cluster".into(), "tests".into())])
}

fn tag(key: &str, value: &str) -> Tags {
    Tags::from([(key.into(), value.into())])
}

#[tokio::test]
async fn a_spot_launch_with_a_new_interface_is_seen_as_it_was_asked_for() {
    let world = World::on_moto().await;
    let view = world.running(&world.launch("db-1")).await;
    assert_eq!(view.market, Market::Spot);
    assert_eq!((view.instance_type.as_str(), &view.zone), ("m5.large", &world.subnet.zone));
    assert_eq!((view.image.as_ref(), view.subnet.as_ref()), (Some(&world.image), Some(&world.subnet.id)));
    assert_eq!(view.tags, node_tags("db-1"));
    assert!(view.launched_at_ms > 0 && view.private_ip.is_some());
    let [primary] = &view.interfaces[..] else { panic!("one interface: {view:?}") };
    assert_eq!((primary.device_index, primary.delete_on_termination), (0, true));
    let interface = world.interface_view(&primary.id).await;
    assert_eq!(Some(interface.primary_ip), view.private_ip);
    let attachment = interface.attachment.expect("it is attached");
    assert_eq!((attachment.instance.as_ref(), attachment.device_index), (Some(&view.id), 0));
    let [root] = &view.block_devices[..] else { panic!("one root: {view:?}") };
    assert_eq!(view.root_device.as_ref(), Some(&root.device));
    assert_eq!(world.volume_view(&root.volume).await.tags, node_tags("db-1"), "its volumes carry the tags");

    // What the port does not show.
    let answer = world.sdk.describe_instances().instance_ids(view.id.as_str()).send().await.unwrap();
    let instance = &answer.reservations()[0].instances()[0];
    assert_eq!(instance.instance_lifecycle(), Some(&InstanceLifecycleType::Spot));
    assert_eq!(instance.client_token(), Some("launch-db-1"));
    let answer = world
        .sdk
        .describe_instance_attribute()
        .instance_id(view.id.as_str())
        .attribute(InstanceAttributeName::UserData)
        .send()
        .await
        .unwrap();
    // The text of USER_DATA in base64.
    assert_eq!(answer.user_data().unwrap().value(), Some("IyEvYmluL3NoCmVjaG8gw7wK"));
}

#[tokio::test]
async fn a_launch_on_an_existing_interface_has_its_address_and_leaves_it_behind() {
    let world = World::on_moto().await;
    let made = world.ec2.create_interface(&world.interface("db-1", Some(world.address(77)))).await.unwrap();
    let free = world.interface_view(&made.id).await;
    assert_eq!((free.primary_ip, free.available, &free.attachment), (world.address(77), true, &None));
    assert_eq!((&free.subnet, &free.zone), (&world.subnet.id, &world.subnet.zone));
    assert_eq!(free.tags, node_tags("db-1"));

    let market = Market::OnDemand;
    let network = LaunchNetwork::Existing(made.id.clone());
    let view = world.running(&LaunchRequest { market, network, ..world.launch("db-1") }).await;
    assert_eq!((view.market, view.private_ip), (Market::OnDemand, Some(world.address(77))));
    assert_eq!(view.interfaces.iter().map(|interface| &interface.id).collect::<Vec<_>>(), [&made.id]);
    let held = world.interface_view(&made.id).await;
    assert!(!held.available);
    let attachment = held.attachment.expect("it is attached");
    assert_eq!((attachment.instance.as_ref(), attachment.device_index), (Some(&view.id), 0));

    assert!(!attachment.delete_on_termination, "a supplied interface outlives the instance");
    // moto accepts the call and ignores what it says.
    world.ec2.preserve_interface(&made.id, &attachment.id).await.unwrap();

    world.ec2.terminate_instance(&view.id).await.unwrap();
    world.in_state(&view.id, InstanceState::Terminated).await;
    // moto leaves it "in-use" by the dead instance, where EC2 frees it; that it exists is what counts here.
    assert_eq!(world.interface_view(&made.id).await.primary_ip, world.address(77));
}

#[tokio::test]
async fn a_look_reads_every_page_and_only_what_it_asked_for() {
    let world = World::on_moto().await;
    let mut launched = Vec::new();
    for n in 0..12 {
        launched.push(world.ec2.run_instance(&world.launch(&format!("node-{n}"))).await.unwrap().id);
    }
    launched.sort();
    let ids = |views: Vec<InstanceView>| {
        let mut ids: Vec<_> = views.into_iter().map(|view| view.id).collect();
        ids.sort();
        ids
    };
    // moto pages instances at MaxResults as EC2 does.
    let paged = world.ec2.clone().with_page_size(5);
    let cluster = Select::tagged(tag("perennial:cluster", "tests"));
    assert_eq!(ids(paged.instances(&cluster).await.unwrap()), launched);
    assert_eq!(ids(world.ec2.instances(&cluster).await.unwrap()), launched);
    let mut with_a_stranger = launched.clone();
    with_a_stranger.push(InstanceId::parse("i-0123456789abcdef0").unwrap());
    let by_id = Select::Ids(with_a_stranger);
    assert_eq!(ids(paged.instances(&by_id).await.unwrap()), launched, "an unknown id is missing, no error");
    assert_eq!(paged.instances(&Select::Ids(Vec::new())).await.unwrap(), []);

    let one = Select::tagged(node_tags("node-7"));
    assert_eq!(paged.instances(&one).await.unwrap().len(), 1, "all tags must match");
    let star = Select::tagged(tag("perennial:node", "node-*"));
    assert_eq!(paged.instances(&star).await.unwrap(), [], "a star is no wildcard");
}

#[tokio::test]
async fn a_tag_with_wildcards_in_it_is_found_by_itself() {
    let world = World::on_moto().await;
    for (node, value) in [("a", "x*y?"), ("b", "xzyz")] {
        let tags = tag("note", value);
        world.ec2.run_instance(&LaunchRequest { tags, ..world.launch(node) }).await.unwrap();
    }
    // Instances only: moto takes wildcards and escapes in filters of instances, and neither elsewhere.
    let found = world.ec2.instances(&Select::tagged(tag("note", "x*y?"))).await.unwrap();
    assert_eq!(found.iter().map(|view| view.tags["note"].as_str()).collect::<Vec<_>>(), ["x*y?"]);
}

#[tokio::test]
async fn a_volume_is_created_attached_detached_and_deleted() {
    let world = World::on_moto().await;
    let instance = world.running(&world.launch("db-1")).await.id;
    let id = world.ec2.create_volume(&world.volume("db-1")).await.unwrap();
    let free = world.volume_view(&id).await;
    assert_eq!((free.state, free.size_gib, &free.zone), (VolumeState::Available, 8, &world.subnet.zone));
    assert_eq!((free.multi_attach, &free.snapshot, &free.tags), (false, &None, &node_tags("db-1")));
    let answer = world.sdk.describe_volumes().volume_ids(id.as_str()).send().await.unwrap();
    let volume = &answer.volumes()[0];
    assert_eq!((volume.iops(), volume.throughput(), volume.encrypted()), (Some(4000), Some(250), Some(true)));

    world.ec2.attach_volume(&id, &instance, "/dev/sdf").await.unwrap();
    let held = world.volume_view(&id).await;
    assert_eq!(held.state, VolumeState::InUse);
    let [attachment] = &held.attachments[..] else { panic!("one attachment: {held:?}") };
    assert_eq!((&attachment.instance, attachment.device.as_str()), (&instance, "/dev/sdf"));
    assert_eq!(attachment.state, AttachmentState::Attached);

    world.ec2.detach_volume(&id, &instance).await.unwrap();
    let free = world.volume_view(&id).await;
    assert_eq!((free.state, free.attachments), (VolumeState::Available, Vec::new()));
    let again = world.ec2.detach_volume(&id, &instance).await.unwrap_err();
    assert_eq!((again.class, again.disposition()), (Class::AlreadyDone, Disposition::Done), "{again}");

    world.ec2.delete_volume(&id).await.unwrap();
    assert_eq!(world.ec2.volumes(&Select::Ids(vec![id.clone()])).await.unwrap(), []);
    let again = world.ec2.delete_volume(&id).await.unwrap_err();
    assert_eq!((again.code.as_str(), again.class), ("InvalidVolume.NotFound", Class::AlreadyDone));
}

#[tokio::test]
async fn volumes_that_are_preserved_survive_the_termination() {
    let world = World::on_moto().await;
    let instance = world.running(&world.launch("db-1")).await;
    let data = world.ec2.create_volume(&world.volume("db-1")).await.unwrap();
    world.ec2.attach_volume(&data, &instance.id, "/dev/sdf").await.unwrap();
    let root_device = instance.root_device.clone().unwrap();
    let root = instance.block_devices.iter().find(|device| device.device == root_device).unwrap();
    assert!(root.delete_on_termination, "EC2's default for a root");

    world.ec2.preserve_volumes(&instance.id, &[root_device, "/dev/sdf".into()]).await.unwrap();
    let view = world.instance(&instance.id).await;
    assert_eq!(view.block_devices.len(), 2);
    assert!(view.block_devices.iter().all(|device| !device.delete_on_termination), "{view:?}");
    world.ec2.preserve_volumes(&instance.id, &[]).await.expect("nothing to preserve is no error");

    world.ec2.terminate_instance(&instance.id).await.unwrap();
    world.in_state(&instance.id, InstanceState::Terminated).await;
    let kept = world.ec2.volumes(&Select::Ids(vec![root.volume.clone(), data])).await.unwrap();
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|view| view.state == VolumeState::Available), "{kept:?}");
}

#[tokio::test]
async fn a_snapshot_becomes_an_image_that_can_be_launched() {
    let world = World::on_moto().await;
    let instance = world.running(&world.launch("db-1")).await;
    let root = instance.block_devices[0].volume.clone();
    let snapshot = world.ec2.create_snapshot(&root, "of db-1", &node_tags("db-1")).await.unwrap();
    let [view] = &world.ec2.snapshots(&Select::tagged(node_tags("db-1"))).await.unwrap()[..] else {
        panic!("one snapshot")
    };
    assert_eq!((&view.id, view.volume.as_ref(), view.progress), (&snapshot, Some(&root), 100));
    assert_eq!((view.state, &view.tags), (SnapshotState::Completed, &node_tags("db-1")));
    assert!(view.started_at_ms > 0);

    let base = world.ec2.images(&Select::Ids(vec![world.image.clone()])).await.unwrap().remove(0);
    assert_eq!(
        (base.traits.architecture.as_str(), base.traits.root_device.as_str()),
        ("x86_64", "/dev/sda1")
    );
    let request = ImageRequest {
        name: "perennial-db-1-7".into(),
        root_snapshot: snapshot.clone(),
        traits: base.traits,
        uefi_data: None,
        tags: node_tags("db-1"),
    };
    let image = world.ec2.register_image(&request).await.unwrap();
    let found = world.ec2.image_named(&request.name).await.unwrap().expect("it is found by its name");
    assert_eq!((&found.id, found.state), (&image, ImageState::Available));
    assert_eq!(world.ec2.image_named("perennial-db-1-*").await.unwrap(), None, "a star is no wildcard");
    // moto keeps neither the tags, the mapping nor the traits of a registered image: its root is blank.
    let view = world.running(&LaunchRequest { image: image.clone(), ..world.launch("db-1-again") }).await;
    assert_eq!(view.image, Some(image.clone()));

    world.ec2.deregister_image(&image).await.unwrap();
    let again = world.ec2.deregister_image(&image).await.unwrap_err();
    assert_eq!(again.class, Class::AlreadyDone, "{again}");
    world.ec2.delete_snapshot(&snapshot).await.unwrap();
    let again = world.ec2.delete_snapshot(&snapshot).await.unwrap_err();
    assert_eq!(again.class, Class::AlreadyDone, "{again}");
}

#[tokio::test]
async fn an_image_is_found_by_its_tags() {
    let world = World::on_moto().await;
    let instance = world.running(&world.launch("db-1")).await.id;
    let made = world.sdk.create_image().instance_id(instance.as_str()).name("tagged").send().await.unwrap();
    let tag = aws_sdk_ec2::types::Tag::builder().key("perennial:node").value("db-1").build();
    world.sdk.create_tags().resources(made.image_id().unwrap()).tags(tag).send().await.unwrap();
    let found = world.ec2.images(&Select::tagged(self::tag("perennial:node", "db-1"))).await.unwrap();
    assert_eq!(found.iter().map(|view| view.id.as_str()).collect::<Vec<_>>(), [made.image_id().unwrap()]);
    // moto says that the root of an image is not on EBS and shows a snapshot of its own.
    assert_eq!(found[0].root_snapshot, None);
}

#[tokio::test]
async fn a_secondary_address_is_assigned_moved_and_taken_back() {
    let world = World::on_moto().await;
    let old = world.ec2.create_interface(&world.interface("old", Some(world.address(10)))).await.unwrap().id;
    let new = world.ec2.create_interface(&world.interface("new", Some(world.address(11)))).await.unwrap().id;
    let floating = world.address(99);
    let subnet = world.interface_view(&old).await.subnet;
    assert_eq!(world.ec2.interface_with(&subnet, floating).await.unwrap(), None, "nobody has it");
    world.ec2.assign_private_ip(&old, Some(floating), Taking::Unheld).await.unwrap();
    // moto's filter knows only the addresses that an interface was made with.
    let holder = world.ec2.interface_with(&subnet, world.address(10)).await.unwrap().map(|view| view.id);
    assert_eq!(holder.as_ref(), Some(&old));
    assert_eq!(world.interface_view(&old).await.secondary_ips, [floating]);

    world.ec2.assign_private_ip(&new, Some(floating), Taking::FromOwn).await.unwrap();
    let view = world.interface_view(&new).await;
    assert_eq!((view.primary_ip, &view.secondary_ips[..]), (world.address(11), &[floating][..]));
    // moto copies where EC2 moves: it would still be on the old one.

    world.ec2.unassign_private_ip(&new, floating).await.unwrap();
    assert!(world.interface_view(&new).await.secondary_ips.is_empty());
    world.ec2.assign_private_ip(&new, None, Taking::Unheld).await.unwrap();
    assert_eq!(world.interface_view(&new).await.secondary_ips.len(), 1, "one that the subnet chose");

    world.ec2.delete_interface(&new).await.unwrap();
    assert_eq!(world.ec2.interfaces(&Select::Ids(vec![new.clone()])).await.unwrap(), []);
    let again = world.ec2.delete_interface(&new).await.unwrap_err();
    assert_eq!(again.class, Class::AlreadyDone, "{again}");
}

#[tokio::test]
async fn an_elastic_ip_is_associated_and_its_holder_seen() {
    let world = World::on_moto().await;
    let made = world.sdk.allocate_address().domain(aws_sdk_ec2::types::DomainType::Vpc).send().await.unwrap();
    let elastic = AllocationId::parse(made.allocation_id().unwrap()).unwrap();
    let free = world.ec2.elastic_address(&elastic).await.unwrap().expect("it is shown");
    assert_eq!((free.leads_to, free.instance), (None, None));
    assert_eq!(Some(free.public_ip.to_string().as_str()), made.public_ip());
    let one = world.ec2.create_interface(&world.interface("one", Some(world.address(10)))).await.unwrap().id;
    world.ec2.associate_address(&elastic, &one, Some(world.address(10)), Taking::Unheld).await.unwrap();
    let held = world.ec2.elastic_address(&elastic).await.unwrap().expect("it is shown");
    assert_eq!(held.leads_to.map(|(interface, _)| interface), Some(one));
    let unknown = AllocationId::parse("eipalloc-0123456789abcdef0").unwrap();
    assert_eq!(world.ec2.elastic_address(&unknown).await.unwrap(), None);
}

#[tokio::test]
async fn an_unknown_object_is_answered_with_its_own_code() {
    let world = World::on_moto().await;
    let subnet = SubnetId::parse("subnet-0123456789abcdef0").unwrap();
    let volume = VolumeId::parse("vol-0123456789abcdef0").unwrap();
    let instance = InstanceId::parse("i-0123456789abcdef0").unwrap();
    let interface = InterfaceId::parse("eni-0123456789abcdef0").unwrap();
    let snapshot = SnapshotId::parse("snap-0123456789abcdef0").unwrap();
    let launch =
        LaunchRequest { network: LaunchNetwork::New { subnet, groups: Vec::new() }, ..world.launch("db-1") };
    let from_snapshot = VolumeRequest { snapshot: Some(snapshot.clone()), ..world.volume("db-1") };
    let code = |outcome: Result<(), CloudError>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.effect, Effect::None, "{error}");
        (error.code, error.class)
    };
    let not_found = |code: &str| (code.to_owned(), Class::NotFound);
    let gone = |code: &str| (code.to_owned(), Class::AlreadyDone);
    let ec2 = &world.ec2;
    assert_eq!(code(ec2.run_instance(&launch).await.map(drop)), not_found("InvalidSubnetID.NotFound"));
    assert_eq!(code(ec2.terminate_instance(&instance).await), not_found("InvalidInstanceID.NotFound"));
    assert_eq!(
        code(ec2.attach_volume(&volume, &instance, "/dev/sdf").await),
        not_found("InvalidVolume.NotFound")
    );
    assert_eq!(code(ec2.detach_volume(&volume, &instance).await), gone("InvalidVolume.NotFound"));
    assert_eq!(code(ec2.delete_volume(&volume).await), gone("InvalidVolume.NotFound"));
    assert_eq!(code(ec2.delete_snapshot(&snapshot).await), gone("InvalidSnapshot.NotFound"));
    assert_eq!(code(ec2.delete_interface(&interface).await), gone("InvalidNetworkInterfaceID.NotFound"));
    assert_eq!(
        code(ec2.create_volume(&from_snapshot).await.map(drop)),
        not_found("InvalidSnapshot.NotFound")
    );
    assert_eq!(
        code(ec2.create_snapshot(&volume, "", &Tags::new()).await.map(drop)),
        not_found("InvalidVolume.NotFound")
    );
}

#[tokio::test]
async fn a_call_that_the_endpoint_does_not_have_is_no_failure_of_the_request() {
    let world = World::on_moto().await;
    let instance = world.running(&world.launch("db-1")).await.id;
    let volume = world.ec2.create_volume(&world.volume("db-1")).await.unwrap();
    // moto answers an action that it does not know with its crash page: HTTP 500, HTML, no code. Nothing tells it
    // from a lost answer, so it may have taken effect; a look (which crashes the same way) never confirms that.
    let error = world.ec2.replace_root(&instance, &volume, "token", &node_tags("db-1")).await.unwrap_err();
    assert_eq!((error.class, error.effect), (Class::Transient, Effect::Unknown), "{error}");
    assert!(error.code.is_empty() && error.message.contains("500"), "{error}");
    let error = world.ec2.root_tasks(&instance).await.unwrap_err();
    assert_eq!((error.class, error.effect), (Class::Transient, Effect::None), "{error}");
}

#[tokio::test]
async fn an_action_that_the_endpoint_refuses_by_name_is_unsupported() {
    let emulator = Emulator::start(Kind::MiniStack).unwrap_or_else(|error| panic!("{error}"));
    let ec2 = Ec2::new(&config(&emulator.endpoint()).await);
    let instance = InstanceId::parse("i-0123456789abcdef0").unwrap();
    let volume = VolumeId::parse("vol-0123456789abcdef0").unwrap();
    let error = ec2.replace_root(&instance, &volume, "token", &Tags::new()).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.class), ("InvalidAction", Class::Unsupported), "{error}");
    assert_eq!((error.disposition(), error.effect), (Disposition::Elsewhere, Effect::None));
}

#[tokio::test]
async fn asking_for_permission_launches_nothing() {
    let world = World::on_moto().await;
    world.ec2.may_run_instances(&world.launch("db-1")).await.unwrap();
    assert_eq!(world.ec2.instances(&Select::tagged(node_tags("db-1"))).await.unwrap(), []);
}

#[tokio::test]
async fn an_endpoint_that_launches_on_a_dry_run_is_reported_with_the_instance() {
    let emulator = Emulator::start(Kind::MiniStack).unwrap_or_else(|error| panic!("{error}"));
    let config = config(&emulator.endpoint()).await;
    let ec2 = Ec2::new(&config);
    let subnets = aws_sdk_ec2::Client::new(&config).describe_subnets().send().await.unwrap();
    let subnet = &subnets.subnets()[0];
    let request = LaunchRequest {
        volumes: Vec::new(),
        suppress: Vec::new(),
        client_token: "token".into(),
        image: ImageId::parse("ami-0123456789abcdef0").unwrap(),
        instance_type: "m5.large".into(),
        market: Market::OnDemand,
        price_max: None,
        zone: subnet.availability_zone().unwrap().into(),
        network: LaunchNetwork::New {
            subnet: SubnetId::parse(subnet.subnet_id().unwrap()).unwrap(),
            groups: Vec::new(),
        },
        root: None,
        key_name: None,
        instance_profile: None,
        metadata: None,
        template: None,
        user_data: None,
        tags: Tags::new(),
    };
    let error = ec2.may_run_instances(&request).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (Class::Person, "DryRunIgnored"));
    assert!(error.message.contains("launched i-"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_leaves_an_act_in_doubt() {
    let world = World::on_moto().await;
    let request = world.launch("db-1");
    let World { ec2, emulator, .. } = world;
    drop(emulator);
    let error = ec2.run_instance(&request).await.unwrap_err();
    assert_eq!((error.class, error.effect), (Class::Transient, Effect::Unknown), "{error}");
    let error = ec2.instances(&Select::tagged(Tags::new())).await.unwrap_err();
    assert_eq!((error.class, error.effect), (Class::Transient, Effect::None), "{error}");
}

#[tokio::test]
async fn a_failed_call_is_sent_once_whatever_the_configuration_says_of_retries() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let mut requests = 0;
        // Answers as EC2 does when a pool is empty: the SDK's default is to send that again.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|bytes| bytes == 4) {
                return requests; // the end of the test
            }
            requests += 1;
            let body = "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>none left</Message>\
                        </Error></Errors><RequestID>1</RequestID></Response>";
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 500 Internal Server Error\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    let eager = aws_config::retry::RetryConfig::standard().with_max_attempts(5);
    let ec2 = Ec2::new(&config(&endpoint).await.into_builder().retry_config(eager).build());
    let error = ec2.terminate_instance(&InstanceId::parse("i-0a").unwrap()).await.unwrap_err();
    assert_eq!((error.class, error.effect), (Class::NoCapacity, Effect::None), "{error}");
    assert_eq!(error.message, "none left");
    let mut end = tokio::net::TcpStream::connect(endpoint.trim_start_matches("http://")).await.unwrap();
    end.write_all(b"stop").await.unwrap();
    assert_eq!(served.await.unwrap(), 1);
}

#[tokio::test]
async fn who_we_are_is_the_owner_of_an_instance_when_the_credentials_do_not_say() {
    let world = World::on_moto().await;
    assert_eq!(world.ec2.identity().await.unwrap(), "", "no instance in sight");
    world.running(&world.launch("db-1")).await;
    assert_eq!(world.ec2.identity().await.unwrap(), "123456789012");
    let role = Credentials::builder()
        .access_key_id("test")
        .secret_access_key("test")
        .account_id("210987654321")
        .provider_name("tests")
        .build();
    let config = config(&world.emulator.endpoint()).await.into_builder();
    let provider = aws_sdk_ec2::config::SharedCredentialsProvider::new(role);
    let ec2 = Ec2::new(&config.credentials_provider(provider).build());
    assert_eq!(ec2.identity().await.unwrap(), "210987654321");
}
