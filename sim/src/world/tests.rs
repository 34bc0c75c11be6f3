//! One test a semantic, against an instant region where only the refusal matters, against a calm one where
//! time does.

use std::collections::BTreeSet;
use std::time::Duration;

use expect_test::{Expect, expect};
use perennial_workers::port::{
    AttachmentState, ImageRequest, ImageState, InstanceView, InterfaceRequest, RootTaskState, Select,
    SnapshotState, Tags, VolumeRequest, VolumeState,
};
use perennial_workflows::model::aws::{
    ImageId, InstanceId, InstanceState, InterfaceId, Market, SnapshotId, SubnetId, VolumeId,
};

use super::instances::Termination;
use super::settings::{
    Capacity, CountQuotas, Latencies, Quotas, RequestQuota, RequestQuotas, RootAdoption, RootFlag, Settings,
    Span,
};
use super::{
    ApiError, Behaviour, DeviceMapping, GuestError, IMAGE_RECORD, LaunchExtras, LaunchTags,
    ModificationState, ModifyVolume, MoreInterface, NODE_TAG, Notice, OWNER_TAG, Placement, Reassignment,
    RunInstances, SnapshotSet, SpotKind, World,
};

const T0: u64 = 1_789_374_667_000; // 2026-09-14T08:31:07Z
const ROOT: &str = "/dev/xvda";
const DATA: &str = "/dev/sdf";
const LONG: u64 = 300_000;

/// A world and its time.
struct Lab {
    world: World,
    now: u64,
}

impl Lab {
    fn new(settings: Settings) -> Self {
        Self { world: World::new(settings, T0), now: T0 }
    }

    fn instant() -> Self {
        Self::new(Settings::instant(7))
    }

    fn calm() -> Self {
        Self::new(Settings::calm(7))
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.world.advance(self.now);
    }

    fn zone(&self, n: usize) -> String {
        self.world.zones()[n].clone()
    }

    fn request(&self, token: &str) -> RunInstances {
        RunInstances {
            client_token: token.to_owned(),
            image: self.world.default_image(),
            instance_type: "m6i.large".to_owned(),
            market: Market::Spot,
            price_max: None,
            zone: Some(self.zone(0)),
            placement: Placement::New {
                subnet: self.world.subnet_in(&self.zone(0)),
                groups: vec![],
                private_ip: None,
            },
            devices: vec![],
            key_name: None,
            instance_profile: None,
            user_data: None,
            tags: LaunchTags::default(),
            more: LaunchExtras::default(),
        }
    }

    fn launch(&mut self, request: &RunInstances) -> Result<InstanceView, ApiError> {
        self.world.run_instances(self.now, request)
    }

    /// A running spot instance.
    fn instance(&mut self, token: &str) -> InstanceId {
        let request = self.request(token);
        let id = self.launch(&request).unwrap().id;
        self.wait(10_000);
        assert_eq!(self.state(&id), InstanceState::Running);
        id
    }

    /// An available volume in the first zone.
    fn volume(&mut self, token: &str) -> VolumeId {
        let request = self.volume_request(token);
        let id = self.world.create_volume(self.now, &request).unwrap();
        self.wait(5_000);
        id
    }

    fn volume_request(&self, token: &str) -> VolumeRequest {
        VolumeRequest {
            client_token: token.to_owned(),
            zone: self.zone(0),
            size_gib: 20,
            volume_type: "gp3".to_owned(),
            iops: None,
            throughput: None,
            encrypted: true,
            kms_key: None,
            snapshot: None,
            tags: Tags::new(),
        }
    }

    fn interface_request(&self, token: &str) -> InterfaceRequest {
        InterfaceRequest {
            client_token: token.to_owned(),
            subnet: self.world.subnet_in(&self.zone(0)),
            groups: vec![],
            private_ip: None,
            tags: Tags::new(),
        }
    }

    fn interface(&mut self, token: &str) -> InterfaceId {
        let request = self.interface_request(token);
        self.world.create_interface(self.now, &request).unwrap()
    }

    fn attached(&mut self, volume: &VolumeId, instance: &InstanceId) {
        self.world.attach_volume(self.now, volume, instance, DATA).unwrap();
        self.wait(5_000);
    }

    fn snapshot(&mut self, volume: &VolumeId) -> SnapshotId {
        let id = self.world.create_snapshot(self.now, volume, &Tags::new()).unwrap();
        self.wait(LONG);
        id
    }

    fn image_request(&self, name: &str, root_snapshot: &SnapshotId) -> ImageRequest {
        let traits = self.world.image(&self.world.default_image()).unwrap().traits.clone();
        ImageRequest {
            name: name.to_owned(),
            root_snapshot: root_snapshot.clone(),
            traits,
            uefi_data: None,
            tags: Tags::new(),
        }
    }

    fn state(&self, id: &InstanceId) -> InstanceState {
        self.world.instance(id).unwrap().state
    }

    fn view(&mut self, id: &InstanceId) -> InstanceView {
        let found = self.world.describe_instances(self.now, &Select::Ids(vec![id.clone()])).unwrap();
        found.into_iter().next().unwrap()
    }

    fn root_of(&mut self, id: &InstanceId) -> VolumeId {
        self.view(id).block_devices.iter().find(|device| device.device == ROOT).unwrap().volume.clone()
    }

    fn spot_status(&self, id: &InstanceId) -> (&str, &str) {
        let request = self.world.instance(id).unwrap().spot_request.clone().unwrap();
        let request = self.world.spot_request(&request).unwrap();
        (&request.state, &request.status)
    }

    fn event_kinds(&mut self) -> Vec<String> {
        let told = self.world.take_events();
        told.iter()
            .map(|event| {
                let state = event["detail"]["state"].as_str().unwrap_or("");
                format!("{} {state}", event["detail-type"].as_str().unwrap()).trim_end().to_owned()
            })
            .collect()
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
    result.expect_err("should be refused").code
}

fn elsewhere() -> (InstanceId, VolumeId, InterfaceId, SnapshotId, ImageId, SubnetId) {
    (
        InstanceId::parse("i-0ff").unwrap(),
        VolumeId::parse("vol-0ff").unwrap(),
        InterfaceId::parse("eni-0ff").unwrap(),
        SnapshotId::parse("snap-0ff").unwrap(),
        ImageId::parse("ami-0ff").unwrap(),
        SubnetId::parse("subnet-0ff").unwrap(),
    )
}

// Client tokens

#[test]
fn the_same_token_and_parameters_give_the_same_instance() {
    let mut lab = Lab::calm();
    let request = lab.request("a");
    let first = lab.launch(&request).unwrap();
    lab.wait(10_000);
    let again = lab.launch(&request).unwrap();
    assert_eq!((first.id, again.state), (again.id, InstanceState::Running));
    assert_eq!(lab.world.all_instances().count(), 1);
}

#[test]
fn a_token_with_other_parameters_is_refused_by_every_call_that_takes_one() {
    let mut lab = Lab::instant();
    let id = lab.instance("a");
    let changed = RunInstances { instance_type: "m6i.xlarge".to_owned(), ..lab.request("a") };
    assert_eq!(code(lab.launch(&changed)), "IdempotentParameterMismatch");

    let (one, two) = (lab.volume("v"), lab.volume("w"));
    let changed = VolumeRequest { size_gib: 21, ..lab.volume_request("v") };
    assert_eq!(code(lab.world.create_volume(lab.now, &changed)), "IdempotentParameterMismatch");
    let same = lab.volume_request("v");
    assert_eq!(lab.world.create_volume(lab.now, &same).unwrap(), one);

    let interface = lab.interface("n");
    let changed =
        InterfaceRequest { private_ip: Some("172.31.0.77".parse().unwrap()), ..lab.interface_request("n") };
    assert_eq!(code(lab.world.create_interface(lab.now, &changed)), "IdempotentParameterMismatch");
    assert_eq!(lab.interface("n"), interface);

    let tags = Tags::new();
    let task = lab.world.replace_root(lab.now, &id, &one, "r", &tags).unwrap();
    assert_eq!(lab.world.replace_root(lab.now, &id, &one, "r", &tags).unwrap(), task);
    let other = lab.world.replace_root(lab.now, &id, &two, "r", &tags);
    assert_eq!(code(other), "IdempotentParameterMismatch");
}

#[test]
fn a_token_whose_instance_is_terminated_is_spent_even_after_the_instance_is_forgotten() {
    let mut lab = Lab::calm();
    let id = lab.instance("a");
    lab.world.terminate_instances(lab.now, &id).unwrap();
    let request = lab.request("a");
    assert_eq!(lab.launch(&request).unwrap().state, InstanceState::ShuttingDown);
    for wait in [LONG, 2 * 3_600_000] {
        lab.wait(wait);
        assert_eq!(code(lab.launch(&request)), "IdempotentInstanceTerminated");
    }
    lab.wait(12 * 3_600_000);
    assert_ne!(lab.launch(&request).unwrap().id, id, "the token is forgotten");
}

#[test]
fn a_run_instances_token_is_scoped_by_its_zone() {
    let mut lab = Lab::instant();
    let first = lab.instance("a");
    let zone = lab.zone(1);
    let placement = Placement::New { subnet: lab.world.subnet_in(&zone), groups: vec![], private_ip: None };
    let request = RunInstances { zone: Some(zone), placement, ..lab.request("a") };
    assert_ne!(lab.launch(&request).unwrap().id, first);
}

// Refusals

#[test]
fn a_launch_is_refused_with_the_code_of_its_reason() {
    let (_, _, interface, snapshot, image, subnet) = elsewhere();
    let device = |device: &str, snapshot: Option<SnapshotId>, size_gib| {
        vec![DeviceMapping { device: device.to_owned(), snapshot, size_gib, ..DeviceMapping::default() }]
    };
    type Change = Box<dyn Fn(&mut Lab, &mut RunInstances)>;
    let rows: Vec<(&str, Change)> = vec![
        ("InvalidAMIID.NotFound", Box::new(move |_, r| r.image = image.clone())),
        (
            "InvalidNetworkInterfaceID.NotFound",
            Box::new(move |_, r| r.placement = Placement::Existing(interface.clone())),
        ),
        (
            "InvalidSubnetID.NotFound",
            Box::new(move |_, r| {
                r.placement = Placement::New { subnet: subnet.clone(), groups: vec![], private_ip: None };
            }),
        ),
        (
            "InvalidNetworkInterface.InUse",
            Box::new(|lab, r| {
                let id = lab.instance("holder");
                r.placement = Placement::Existing(lab.view(&id).interfaces[0].id.clone());
            }),
        ),
        ("InvalidParameterCombination", Box::new(|lab, r| r.zone = Some(lab.zone(1)))),
        ("InvalidParameterValue", Box::new(|_, r| r.instance_type = "big".to_owned())),
        ("InvalidParameterValue", Box::new(|_, r| r.client_token = "x".repeat(65))),
        (
            "InvalidBlockDeviceMapping",
            Box::new(move |_, r| r.devices = device(ROOT, Some(snapshot.clone()), None)),
        ),
        ("InvalidBlockDeviceMapping", Box::new(move |_, r| r.devices = device(ROOT, None, Some(7)))),
        ("MissingParameter", Box::new(move |_, r| r.devices = device(DATA, None, None))),
        (
            "InvalidIPAddress.InUse",
            Box::new(|lab, r| {
                let id = lab.instance("holder");
                let private_ip = lab.view(&id).private_ip;
                let subnet = lab.world.subnet_in(&lab.zone(0));
                r.placement = Placement::New { subnet, groups: vec![], private_ip };
            }),
        ),
        (
            "InsufficientInstanceCapacity",
            Box::new(|lab, r| {
                let zone = lab.zone(0);
                lab.world.set_capacity(&r.instance_type, &zone, Market::Spot, Capacity::Free(0));
            }),
        ),
        (
            "Unsupported",
            Box::new(|lab, r| {
                let zone = lab.zone(0);
                lab.world.set_capacity(&r.instance_type, &zone, Market::Spot, Capacity::Unsupported);
            }),
        ),
        ("MaxSpotInstanceCountExceeded", Box::new(|lab, _| lab.world.settings.spot_limit = Some(0))),
        (
            "VcpuLimitExceeded",
            Box::new(|lab, r| {
                r.market = Market::OnDemand;
                lab.world.settings.on_demand_limit = Some(0);
            }),
        ),
    ];
    for (expected, change) in rows {
        let mut lab = Lab::instant();
        let mut request = lab.request("a");
        change(&mut lab, &mut request);
        let before = lab.world.all_instances().count();
        assert_eq!(code(lab.launch(&request)), expected);
        assert_eq!(lab.world.all_instances().count(), before, "{expected}");
        assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
    }
}

#[test]
fn capacity_is_a_server_error_and_comes_back_only_when_its_user_returns_it() {
    let mut lab = Lab::instant();
    let zone = lab.zone(0);
    lab.world.set_capacity("m6i.large", &zone, Market::Spot, Capacity::Free(1));
    let first = lab.instance("a");
    let second = lab.request("b");
    assert_eq!(lab.launch(&second).unwrap_err().http_status, 500);
    lab.world.terminate_instances(lab.now, &first).unwrap();
    lab.wait(1);
    let second = lab.launch(&second).unwrap().id;
    lab.wait(1);
    lab.world.reclaim_now(lab.now, &second).unwrap();
    lab.wait(1);
    let third = lab.request("c");
    assert_eq!(code(lab.launch(&third)), "InsufficientInstanceCapacity");
}

#[test]
fn a_failed_launch_does_not_burn_its_token() {
    let mut lab = Lab::instant();
    let zone = lab.zone(0);
    lab.world.set_capacity("m6i.large", &zone, Market::Spot, Capacity::Free(0));
    let request = lab.request("a");
    assert_eq!(code(lab.launch(&request)), "InsufficientInstanceCapacity");
    lab.world.set_capacity("m6i.large", &zone, Market::Spot, Capacity::Unlimited);
    assert!(lab.launch(&request).is_ok());
}

#[test]
fn an_attach_is_refused_with_the_code_of_its_reason() {
    let mut lab = Lab::calm();
    let (no_instance, no_volume, ..) = elsewhere();
    let (first, second) = (lab.instance("a"), lab.instance("b"));
    let (held, free) = (lab.volume("v"), lab.volume("w"));
    lab.attached(&held, &first);
    let far = VolumeRequest { zone: lab.zone(1), ..lab.volume_request("x") };
    let far = lab.world.create_volume(lab.now, &far).unwrap();
    lab.wait(5_000);
    let request = lab.volume_request("y");
    let fresh = lab.world.create_volume(lab.now, &request).unwrap();
    let request = lab.request("c");
    let pending = lab.launch(&request).unwrap().id;
    lab.world.terminate_instances(lab.now, &second).unwrap();
    let rows = [
        (&no_volume, &first, DATA, "InvalidVolume.NotFound"),
        (&free, &no_instance, DATA, "InvalidInstanceID.NotFound"),
        (&held, &first, DATA, "VolumeInUse"),
        (&held, &pending, DATA, "VolumeInUse"),
        (&fresh, &first, "/dev/sdg", "IncorrectState"),
        (&free, &pending, DATA, "IncorrectState"),
        (&free, &second, DATA, "IncorrectState"),
        (&far, &first, "/dev/sdg", "InvalidVolume.ZoneMismatch"),
        (&free, &first, DATA, "InvalidParameterValue"),
        (&free, &first, ROOT, "InvalidParameterValue"),
    ];
    for (volume, instance, device, expected) in rows {
        let answer = lab.world.attach_volume(lab.now, volume, instance, device);
        assert_eq!(code(answer), expected, "{volume} {instance} {device}");
    }
}

#[test]
fn a_detach_or_delete_is_refused_with_the_code_of_its_reason() {
    let mut lab = Lab::calm();
    let (first, second) = (lab.instance("a"), lab.instance("b"));
    let (held, free) = (lab.volume("v"), lab.volume("w"));
    lab.attached(&held, &first);
    let root = lab.root_of(&first);
    let (_, no_volume, ..) = elsewhere();
    for (volume, instance, expected) in [
        (&no_volume, &first, "InvalidVolume.NotFound"),
        (&free, &first, "IncorrectState"),
        (&held, &second, "InvalidAttachment.NotFound"),
        (&root, &first, "OperationNotPermitted"),
    ] {
        assert_eq!(code(lab.world.detach_volume(lab.now, volume, Some(instance))), expected);
    }
    assert_eq!(code(lab.world.delete_volume(lab.now, &held)), "VolumeInUse");
    assert_eq!(code(lab.world.delete_volume(lab.now, &no_volume)), "InvalidVolume.NotFound");
    lab.world.delete_volume(lab.now, &free).unwrap();
    assert_eq!(lab.world.volume(&free).unwrap().state, VolumeState::Deleting);
    lab.wait(5_000);
    assert_eq!(code(lab.world.delete_volume(lab.now, &free)), "InvalidVolume.NotFound");
}

// Volumes in time

#[test]
fn a_mounted_volume_stays_busy_until_the_guest_lets_go() {
    let mut lab = Lab::calm();
    let (instance, volume) = (lab.instance("a"), lab.volume("v"));
    lab.attached(&volume, &instance);
    lab.world.detach_volume(lab.now, &volume, Some(&instance)).unwrap();
    lab.wait(24 * 3_600_000);
    let attachment = lab.world.volume(&volume).unwrap().attachment.clone().unwrap();
    assert_eq!(attachment.state, AttachmentState::Busy);
    lab.world.detach_volume(lab.now, &volume, Some(&instance)).unwrap();
    lab.world.unmount(lab.now, &instance, &volume).unwrap();
    assert!(lab.world.volume(&volume).unwrap().attachment.is_some(), "detaching takes time");
    lab.wait(4_000);
    assert_eq!(lab.world.volume(&volume).unwrap().state, VolumeState::Available);
}

#[test]
fn volumes_are_released_only_after_the_instance_is_terminated() {
    let mut lab = Lab::calm();
    let (instance, volume) = (lab.instance("a"), lab.volume("v"));
    lab.attached(&volume, &instance);
    lab.world.terminate_instances(lab.now, &instance).unwrap();
    while lab.state(&instance) != InstanceState::Terminated {
        assert_eq!(lab.world.volume(&volume).unwrap().state, VolumeState::InUse);
        lab.wait(500);
    }
    lab.wait(2_000);
    assert_eq!(lab.world.volume(&volume).unwrap().state, VolumeState::Available);
}

#[test]
fn delete_on_termination_has_ec2s_defaults_and_can_be_changed() {
    let mut lab = Lab::instant();
    let mapped =
        DeviceMapping { device: "/dev/sdb".to_owned(), size_gib: Some(1), ..DeviceMapping::default() };
    let request = RunInstances { devices: vec![mapped], ..lab.request("a") };
    let instance = lab.launch(&request).unwrap().id;
    lab.wait(1);
    let volume = lab.volume("v");
    lab.attached(&volume, &instance);
    let flags = |lab: &mut Lab| -> Vec<(String, bool)> {
        let mut flags: Vec<_> = lab
            .view(&instance)
            .block_devices
            .into_iter()
            .map(|device| (device.device, device.delete_on_termination))
            .collect();
        flags.sort();
        flags
    };
    let expected = [("/dev/sdb", true), (DATA, false), (ROOT, true)].map(|(d, flag)| (d.to_owned(), flag));
    assert_eq!(flags(&mut lab), expected);

    let root = lab.root_of(&instance);
    lab.world.modify_delete_on_termination(lab.now, &instance, &[(ROOT.to_owned(), false)]).unwrap();
    let unmapped =
        lab.world.modify_delete_on_termination(lab.now, &instance, &[("/dev/sdz".to_owned(), false)]);
    assert_eq!(code(unmapped), "InvalidInstanceAttributeValue");
    let doomed = lab.world.would_be_deleted_with(&instance);
    assert_eq!(doomed.len(), 2, "the mapped volume and the launch's interface: {doomed:?}");
    lab.world.terminate_instances(lab.now, &instance).unwrap();
    lab.wait(1);
    assert_eq!(lab.world.volume(&root).unwrap().state, VolumeState::Available);
    assert_eq!(lab.world.volume(&volume).unwrap().state, VolumeState::Available);
    assert_eq!((lab.world.all_volumes().count(), lab.world.all_interfaces().count()), (2, 0));
    let over = lab.world.modify_delete_on_termination(lab.now, &instance, &[(ROOT.to_owned(), false)]);
    assert_eq!(code(over), "IncorrectInstanceState");
}

#[test]
fn an_attach_can_stick_and_be_detached_again() {
    let mut lab = Lab::calm();
    let (instance, volume) = (lab.instance("a"), lab.volume("v"));
    lab.world.stick_next_attach();
    lab.attached(&volume, &instance);
    lab.wait(LONG);
    let state = lab.world.volume(&volume).unwrap().attachment.as_ref().unwrap().state;
    assert_eq!(state, AttachmentState::Attaching);
    lab.world.detach_volume(lab.now, &volume, Some(&instance)).unwrap();
    lab.wait(5_000);
    lab.attached(&volume, &instance);
    assert_eq!(lab.world.write(lab.now, &instance, DATA, "x"), Ok(()));
    lab.world.unmount(lab.now, &instance, &volume).unwrap();
    lab.world.stick_next_detach();
    lab.world.detach_volume(lab.now, &volume, Some(&instance)).unwrap();
    lab.wait(LONG);
    let state = lab.world.volume(&volume).unwrap().attachment.as_ref().unwrap().state;
    assert_eq!(state, AttachmentState::Detaching);
    lab.world.terminate_instances(lab.now, &instance).unwrap();
    lab.wait(LONG);
    assert_eq!(lab.world.volume(&volume).unwrap().state, VolumeState::Available);
}

// Contents

#[test]
fn a_write_reaches_the_volume_only_while_it_is_attached_to_a_live_guest() {
    let mut lab = Lab::calm();
    let request = lab.request("a");
    let instance = lab.launch(&request).unwrap().id;
    assert_eq!(lab.world.write(lab.now, &instance, ROOT, "early"), Err(GuestError::NotUp));
    lab.wait(10_000);
    assert_eq!(lab.world.write(lab.now, &instance, DATA, "nowhere"), Err(GuestError::NoVolume));
    let volume = lab.volume("v");
    lab.world.attach_volume(lab.now, &volume, &instance, DATA).unwrap();
    assert_eq!(lab.world.write(lab.now, &instance, DATA, "attaching"), Err(GuestError::NoVolume));
    lab.wait(5_000);
    assert_eq!(lab.world.write(lab.now, &instance, DATA, "one"), Ok(()));
    lab.world.terminate_instances(lab.now, &instance).unwrap();
    assert_eq!(lab.world.write(lab.now, &instance, DATA, "last"), Ok(()), "shutting-down is no fence");
    lab.wait(LONG);
    assert_eq!(lab.world.write(lab.now, &instance, DATA, "late"), Err(GuestError::NotUp));
    assert_eq!(lab.world.volume(&volume).unwrap().content, ["one", "last"]);
}

#[test]
fn a_snapshot_holds_what_was_there_at_the_call() {
    let mut lab = Lab::calm();
    let instance = lab.instance("a");
    let root = lab.root_of(&instance);
    lab.world.write(lab.now, &instance, ROOT, "before").unwrap();
    let snapshot = lab.world.create_snapshot(lab.now, &root, &Tags::new()).unwrap();
    lab.world.write(lab.now, &instance, ROOT, "after").unwrap();
    let early = VolumeRequest { snapshot: Some(snapshot.clone()), ..lab.volume_request("early") };
    assert_eq!(code(lab.world.create_volume(lab.now, &early)), "IncorrectState");
    let image = lab.image_request("too-early", &snapshot);
    assert_eq!(code(lab.world.register_image(lab.now, &image)), "IncorrectState");

    let look = |lab: &mut Lab| {
        let found = lab.world.describe_snapshots(lab.now, &Select::Ids(vec![snapshot.clone()])).unwrap();
        (found[0].state, found[0].progress)
    };
    assert_eq!(look(&mut lab), (SnapshotState::Pending, 0));
    lab.wait(15_000);
    let (state, progress) = look(&mut lab);
    assert!(state == SnapshotState::Pending && (1..100).contains(&progress), "{progress}");
    lab.wait(LONG);
    assert_eq!(look(&mut lab), (SnapshotState::Completed, 100));
    let late = VolumeRequest { snapshot: Some(snapshot.clone()), ..lab.volume_request("late") };
    let volume = lab.world.create_volume(lab.now, &late).unwrap();
    assert_eq!(lab.world.volume(&volume).unwrap().content, [IMAGE_RECORD, "before"]);
}

#[test]
fn an_image_boots_what_its_snapshot_holds_once_it_is_available() {
    let mut lab = Lab::calm();
    let instance = lab.instance("a");
    lab.world.write(lab.now, &instance, ROOT, "mine").unwrap();
    let root = lab.root_of(&instance);
    let snapshot = lab.snapshot(&root);
    let wanted = lab.image_request("node-1", &snapshot);
    let image = lab.world.register_image(lab.now, &wanted).unwrap();
    assert_eq!(code(lab.world.register_image(lab.now, &wanted)), "InvalidAMIName.Duplicate");
    assert_eq!(code(lab.world.delete_snapshot(lab.now, &snapshot)), "InvalidSnapshot.InUse");
    let request = RunInstances { image: image.clone(), ..lab.request("b") };
    assert_eq!(code(lab.launch(&request)), "InvalidAMIID.Unavailable");
    lab.wait(60_000);
    let named = lab.world.describe_image_named(lab.now, "node-1").unwrap().unwrap();
    assert_eq!((named.id, named.state), (image.clone(), ImageState::Available));
    let copy = lab.launch(&request).unwrap().id;
    lab.wait(10_000);
    assert_eq!(lab.world.read(lab.now, &copy, ROOT).unwrap(), [IMAGE_RECORD, "mine"]);
    lab.world.deregister_image(lab.now, &image).unwrap();
    assert_eq!(code(lab.world.deregister_image(lab.now, &image)), "InvalidAMIID.NotFound");
    lab.world.delete_snapshot(lab.now, &snapshot).unwrap();
    let replay = RunInstances { client_token: "c".to_owned(), ..request };
    assert_eq!(code(lab.launch(&replay)), "InvalidAMIID.NotFound");
}

#[test]
fn snapshots_of_one_volume_are_fifteen_seconds_apart() {
    let mut lab = Lab::calm();
    let volume = lab.volume("v");
    let take = |lab: &mut Lab| lab.world.create_snapshot(lab.now, &volume, &Tags::new());
    take(&mut lab).unwrap();
    lab.wait(14_999);
    assert_eq!(code(take(&mut lab)), "SnapshotCreationPerVolumeRateExceeded");
    lab.wait(1);
    take(&mut lab).unwrap();
    lab.world.settings.latencies.snapshot = Span::ms(3_600_000, 3_600_000);
    lab.wait(LONG);
    for _ in 0..5 {
        lab.wait(15_000);
        take(&mut lab).unwrap();
    }
    lab.wait(15_000);
    assert_eq!(code(take(&mut lab)), "ConcurrentSnapshotLimitExceeded");
}

#[test]
fn the_snapshots_of_an_instance_are_of_one_moment_complete_together_and_are_all_or_none() {
    let mut lab = Lab::calm();
    let (instance, volume) = (lab.instance("a"), lab.volume("v"));
    lab.attached(&volume, &instance);
    let root = lab.root_of(&instance);
    let set = SnapshotSet { tags: Tags::from([("set".into(), "1".into())]), ..SnapshotSet::default() };
    lab.world.write(lab.now, &instance, ROOT, "before").unwrap();
    lab.world.write(lab.now, &instance, DATA, "before").unwrap();
    let ids = lab.world.create_snapshots(lab.now, &instance, &set).unwrap();
    lab.world.write(lab.now, &instance, DATA, "after").unwrap();
    let made: Vec<_> = ids.iter().map(|id| lab.world.snapshot(id).unwrap().clone()).collect();
    let of: BTreeSet<_> = made.iter().filter_map(|snapshot| snapshot.volume.clone()).collect();
    assert_eq!(of, BTreeSet::from([root, volume.clone()]));
    for snapshot in &made {
        assert_eq!(snapshot.completes_at_ms, made[0].completes_at_ms);
        assert_eq!(snapshot.content.last().map(|record| record.as_str()), Some("before"));
        assert_eq!(snapshot.tags, set.tags);
    }
    // One of the volumes is too young a source: none is taken.
    lab.wait(10_000);
    lab.world.create_snapshot(lab.now, &volume, &Tags::new()).unwrap_err();
    lab.wait(5_000);
    lab.world.create_snapshot(lab.now, &volume, &Tags::new()).unwrap();
    let before = lab.world.snapshots.len();
    let refused = code(lab.world.create_snapshots(lab.now, &instance, &set));
    assert_eq!(refused, "SnapshotCreationPerVolumeRateExceeded");
    assert_eq!(lab.world.snapshots.len(), before);
    lab.wait(15_000);
    let others = SnapshotSet { without_root: true, ..set };
    let ids = lab.world.create_snapshots(lab.now, &instance, &others).unwrap();
    assert_eq!(ids.len(), 1);
    assert_eq!(lab.world.snapshot(&ids[0]).unwrap().volume, Some(volume.clone()));
    lab.wait(15_000);
    let nothing = SnapshotSet { without_root: true, without: vec![volume], ..SnapshotSet::default() };
    assert_eq!(code(lab.world.create_snapshots(lab.now, &instance, &nothing)), "InvalidParameterValue");
}

// Root replacement

#[test]
fn a_root_replacement_swaps_the_volumes_and_keeps_the_old_one() {
    for (flag, expected) in [(RootFlag::Inherit, true), (RootFlag::Delete, true), (RootFlag::Keep, false)] {
        let mut lab = Lab::calm();
        lab.world.settings.root_flag = flag;
        let (instance, wanted) = (lab.instance("a"), lab.volume("v"));
        let old = lab.root_of(&instance);
        let task = lab.world.replace_root(lab.now, &instance, &wanted, "r", &Tags::new()).unwrap();
        assert_eq!(lab.world.write(lab.now, &instance, ROOT, "x"), Err(GuestError::NotUp), "it reboots");
        assert_eq!(code(lab.world.delete_volume(lab.now, &wanted)), "VolumeInUse");
        let second = lab.world.replace_root(lab.now, &instance, &wanted, "s", &Tags::new());
        assert_eq!(code(second), "IncorrectInstanceState");
        lab.wait(17_000);
        let tasks = lab.world.describe_root_tasks(lab.now, &instance).unwrap();
        assert_eq!((&tasks[0].id, tasks[0].state), (&task, RootTaskState::InProgress));
        lab.wait(8_000);
        let tasks = lab.world.describe_root_tasks(lab.now, &instance).unwrap();
        assert_eq!(tasks[0].state, RootTaskState::Succeeded);
        let root = lab.view(&instance).block_devices[0].clone();
        assert_eq!((root.volume, root.delete_on_termination), (wanted, expected));
        assert_eq!(lab.world.volume(&old).unwrap().state, VolumeState::Available);
        assert_eq!(lab.world.write(lab.now, &instance, ROOT, "x"), Ok(()));
        assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
    }
}

#[test]
fn a_root_replacement_ends_as_the_region_is_told() {
    for (adoption, state, has_root) in [
        (RootAdoption::FailsEachTime, RootTaskState::Failed, true),
        (RootAdoption::FailedDetached, RootTaskState::FailedDetached, false),
    ] {
        let mut lab = Lab::calm();
        lab.world.settings.root_adoption = adoption;
        let (instance, wanted) = (lab.instance("a"), lab.volume("v"));
        let old = lab.root_of(&instance);
        lab.world.replace_root(lab.now, &instance, &wanted, "r", &Tags::new()).unwrap();
        lab.wait(30_000);
        assert_eq!(lab.world.describe_root_tasks(lab.now, &instance).unwrap()[0].state, state);
        assert_eq!(lab.world.volume(&wanted).unwrap().state, VolumeState::Available);
        let roots: Vec<_> =
            lab.view(&instance).block_devices.into_iter().map(|device| device.volume).collect();
        assert_eq!(roots, if has_root { vec![old] } else { vec![] });
        assert_eq!(lab.world.write(lab.now, &instance, ROOT, "x").is_ok(), has_root);
    }
}

#[test]
fn a_root_replacement_is_refused_with_the_code_of_its_reason() {
    let mut lab = Lab::calm();
    let (instance, held) = (lab.instance("a"), lab.volume("v"));
    lab.attached(&held, &instance);
    let far = VolumeRequest { zone: lab.zone(1), ..lab.volume_request("x") };
    let far = lab.world.create_volume(lab.now, &far).unwrap();
    let early = lab.world.replace_root(lab.now, &instance, &far, "", &Tags::new());
    assert_eq!(code(early), "IncorrectState", "creating");
    lab.wait(5_000);
    let request = lab.request("b");
    let pending = lab.launch(&request).unwrap().id;
    let free = lab.volume_request("y");
    let free = lab.world.create_volume(lab.now, &free).unwrap();
    for (instance, volume, expected) in [
        (&pending, &free, "IncorrectInstanceState"),
        (&instance, &held, "VolumeInUse"),
        (&instance, &far, "InvalidVolume.ZoneMismatch"),
    ] {
        let answer = lab.world.replace_root(lab.now, instance, volume, "", &Tags::new());
        assert_eq!(code(answer), expected);
    }
    lab.wait(5_000);
    lab.world.settings.root_adoption = RootAdoption::Unsupported("InvalidParameterCombination".to_owned());
    let answer = lab.world.replace_root(lab.now, &instance, &free, "", &Tags::new());
    assert_eq!(code(answer), "InvalidParameterCombination");
}

#[test]
fn an_instance_that_dies_during_a_root_replacement_leaves_the_wanted_root_free() {
    let mut lab = Lab::calm();
    let (instance, wanted) = (lab.instance("a"), lab.volume("v"));
    lab.world.replace_root(lab.now, &instance, &wanted, "", &Tags::new()).unwrap();
    lab.world.reclaim_now(lab.now, &instance).unwrap();
    lab.wait(LONG);
    let volume = lab.world.volume(&wanted).unwrap();
    assert_eq!((volume.state, &volume.held_by), (VolumeState::Available, &None));
    assert_eq!(lab.world.describe_root_tasks(lab.now, &instance).unwrap()[0].state, RootTaskState::Failed);
}

// Network

#[test]
fn a_given_interface_outlives_its_instance_and_one_of_the_launch_does_not() {
    let mut lab = Lab::instant();
    let given = lab.interface("n");
    let request = RunInstances { placement: Placement::Existing(given.clone()), ..lab.request("a") };
    let (with_given, with_own) = (lab.launch(&request).unwrap(), lab.instance("b"));
    let own = lab.view(&with_own).interfaces[0].clone();
    assert_eq!((with_given.interfaces[0].delete_on_termination, own.delete_on_termination), (false, true));
    assert_eq!(with_given.private_ip, Some(lab.world.interface(&given).unwrap().primary_ip));
    for id in [&with_given.id, &with_own] {
        lab.world.terminate_instances(lab.now, id).unwrap();
    }
    lab.wait(1);
    assert!(lab.world.interface(&given).is_some_and(|interface| interface.attachment.is_none()));
    assert!(lab.world.interface(&own.id).is_none());
    assert_eq!(lab.view(&with_given.id).private_ip, None);
    let again = RunInstances { client_token: "c".to_owned(), ..request };
    assert!(lab.launch(&again).is_ok(), "the interface can be used again");
}

#[test]
fn an_interface_is_kept_when_its_attachment_says_so() {
    let mut lab = Lab::instant();
    let instance = lab.instance("a");
    let interface = lab.view(&instance).interfaces[0].clone();
    let attachment = interface.attachment.unwrap();
    let other = lab.interface("n");
    let wrong = lab.world.modify_interface_delete_on_termination(lab.now, &other, &attachment, false);
    assert_eq!(code(wrong), "InvalidAttachmentID.NotFound");
    lab.world.modify_interface_delete_on_termination(lab.now, &interface.id, &attachment, false).unwrap();
    lab.world.terminate_instances(lab.now, &instance).unwrap();
    lab.wait(1);
    assert!(lab.world.interface(&interface.id).is_some());
}

#[test]
fn a_primary_interface_cannot_be_detached_and_a_secondary_one_can() {
    let mut lab = Lab::instant();
    let (instance, secondary) = (lab.instance("a"), lab.interface("n"));
    let primary = lab.view(&instance).interfaces[0].clone();
    assert_eq!(
        code(lab.world.detach_interface(lab.now, &primary.attachment.unwrap())),
        "OperationNotPermitted"
    );
    assert_eq!(code(lab.world.delete_interface(lab.now, &primary.id)), "InvalidParameterValue");
    let taken = lab.world.attach_interface(lab.now, &secondary, &instance, 0);
    assert_eq!(code(taken), "InvalidParameterValue");
    let attachment = lab.world.attach_interface(lab.now, &secondary, &instance, 1).unwrap();
    let again = lab.world.attach_interface(lab.now, &secondary, &instance, 2);
    assert_eq!(code(again), "InvalidNetworkInterface.InUse");
    lab.world.detach_interface(lab.now, &attachment).unwrap();
    assert_eq!(code(lab.world.detach_interface(lab.now, &attachment)), "InvalidAttachmentID.NotFound");
    lab.world.delete_interface(lab.now, &secondary).unwrap();
}

#[test]
fn an_address_must_be_free_and_in_the_subnet() {
    let mut lab = Lab::instant();
    let interface = lab.interface("n");
    let held = lab.world.interface(&interface).unwrap().primary_ip;
    for (address, expected) in [
        (held.to_string().as_str(), "InvalidIPAddress.InUse"),
        ("172.31.16.9", "InvalidParameterValue"),
        ("172.31.0.3", "InvalidParameterValue"),
        ("172.31.15.255", "InvalidParameterValue"),
        ("10.1.2.3", "InvalidParameterValue"),
    ] {
        let private_ip = Some(address.parse().unwrap());
        let request = InterfaceRequest { private_ip, ..lab.interface_request("m") };
        assert_eq!(code(lab.world.create_interface(lab.now, &request)), expected, "{address}");
    }
    let (_, _, _, _, _, subnet) = elsewhere();
    let request = InterfaceRequest { subnet, ..lab.interface_request("m") };
    assert_eq!(code(lab.world.create_interface(lab.now, &request)), "InvalidSubnetID.NotFound");
}

#[test]
fn a_full_subnet_refuses() {
    let mut lab = Lab::new(Settings { subnet_prefix: 28, ..Settings::instant(7) });
    for n in 0..11 {
        lab.interface(&format!("n{n}"));
    }
    let request = lab.interface_request("n11");
    assert_eq!(code(lab.world.create_interface(lab.now, &request)), "InsufficientFreeAddressesInSubnet");
    assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
}

#[test]
fn a_reassigned_address_moves_and_shows_later() {
    let mut lab = Lab::calm();
    let (old, new) = (lab.interface("n"), lab.interface("m"));
    let address = "172.31.0.77".parse().unwrap();
    lab.world.assign_private_ip(lab.now, &old, Some(address), Reassignment::Refused).unwrap();
    lab.wait(3_000);
    assert_eq!(lab.world.interface(&old).unwrap().secondary_ips, [address]);
    let refused = lab.world.assign_private_ip(lab.now, &new, Some(address), Reassignment::Refused);
    assert_eq!(code(refused), "InvalidParameterValue");
    lab.world.assign_private_ip(lab.now, &new, Some(address), Reassignment::Allowed).unwrap();
    assert!(lab.world.interface(&old).unwrap().secondary_ips.is_empty());
    assert!(lab.world.interface(&new).unwrap().secondary_ips.is_empty(), "not yet");
    lab.wait(3_000);
    assert_eq!(lab.world.interface(&new).unwrap().secondary_ips, [address]);
    lab.world.assign_private_ip(lab.now, &new, Some(address), Reassignment::Allowed).unwrap();
    assert_eq!(code(lab.world.unassign_private_ip(lab.now, &old, address)), "InvalidParameterValue");
    lab.world.unassign_private_ip(lab.now, &new, address).unwrap();
    assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
}

#[test]
fn a_primary_address_does_not_move() {
    let mut lab = Lab::calm();
    let (old, new) = (lab.interface("n"), lab.interface("m"));
    let primary = lab.world.interface(&old).unwrap().primary_ip;
    let stolen = lab.world.assign_private_ip(lab.now, &new, Some(primary), Reassignment::Allowed);
    assert_eq!(code(stolen), "InvalidParameterValue");
    let outside =
        lab.world.assign_private_ip(lab.now, &new, Some("10.9.9.9".parse().unwrap()), Reassignment::Allowed);
    assert_eq!(code(outside), "InvalidParameterValue");
}

// Instances in time

#[test]
fn a_terminated_instance_stays_visible_for_an_hour_with_its_tags_alone() {
    let mut lab = Lab::calm();
    let tags: Tags = [(NODE_TAG.to_owned(), "db-1".to_owned())].into();
    let request = RunInstances { tags: tags.clone().into(), ..lab.request("a") };
    let id = lab.launch(&request).unwrap().id;
    lab.wait(10_000);
    assert_eq!(lab.world.instances_of("db-1").len(), 1);
    lab.world.terminate_instances(lab.now, &id).unwrap();
    assert_eq!(lab.world.instances_of("db-1").len(), 0);
    lab.wait(120_000);
    let view = lab.view(&id);
    assert_eq!((view.state, &view.tags), (InstanceState::Terminated, &tags));
    assert!(view.private_ip.is_none() && view.block_devices.is_empty() && view.interfaces.is_empty());
    lab.world.terminate_instances(lab.now, &id).unwrap();
    lab.wait(3_600_000);
    assert!(lab.world.describe_instances(lab.now, &Select::tagged(tags)).unwrap().is_empty());
    assert_eq!(code(lab.world.terminate_instances(lab.now, &id)), "InvalidInstanceID.NotFound");
}

#[test]
fn a_launch_can_end_before_it_runs() {
    let mut lab = Lab::calm();
    lab.world.fail_next_launch("Server.InternalError");
    let request = lab.request("a");
    let id = lab.launch(&request).unwrap().id;
    lab.wait(10_000);
    let view = lab.view(&id);
    assert_eq!(view.state, InstanceState::Terminated);
    assert_eq!(view.state_reason.as_deref(), Some("Server.InternalError"));
    assert_eq!(lab.world.all_volumes().count(), 0);
}

#[test]
fn a_fresh_object_is_unknown_for_a_while_and_its_token_is_not() {
    let settings = Settings { unknown_for: Span::ms(2_000, 2_000), ..Settings::instant(7) };
    let mut lab = Lab::new(settings);
    let request = lab.request("a");
    let id = lab.launch(&request).unwrap().id;
    let look =
        |lab: &mut Lab| lab.world.describe_instances(lab.now, &Select::Ids(vec![id.clone()])).unwrap().len();
    assert_eq!(look(&mut lab), 0);
    assert_eq!(code(lab.world.terminate_instances(lab.now, &id)), "InvalidInstanceID.NotFound");
    assert_eq!(lab.launch(&request).unwrap().id, id);
    lab.wait(2_000);
    assert_eq!(look(&mut lab), 1);
    lab.world.terminate_instances(lab.now, &id).unwrap();
}

#[test]
fn published_quotas_admit_a_burst_and_then_a_rate() {
    let mut lab = Lab::new(Settings { quotas: Quotas::Published, ..Settings::instant(7) });
    let admitted = |lab: &mut Lab, tries: usize| {
        (0..tries)
            .filter(|_| {
                let mut request = lab.request("");
                request.client_token.clear();
                lab.launch(&request).is_ok()
            })
            .count()
    };
    assert_eq!(admitted(&mut lab, 20), 5);
    let request = lab.request("");
    let refused = lab.launch(&request).unwrap_err();
    assert_eq!((refused.code.as_str(), refused.http_status), ("RequestLimitExceeded", 503));
    lab.wait(1_500);
    assert_eq!(admitted(&mut lab, 20), 3);
    lab.wait(120_000);
    assert_eq!(admitted(&mut lab, 20), 5);
}

#[test]
fn launches_and_terminations_are_counted_by_instance_beside_their_calls() {
    let mut lab = Lab::new(Settings { quotas: Quotas::Published, ..Settings::instant(7) });
    let launch = |lab: &mut Lab, count: u32| {
        let mut request = lab.request("");
        request.client_token.clear();
        (request.more.count_min, request.more.count_max) = (count, count);
        lab.world.launch_instances(lab.now, &request)
    };
    let mut ids = launch(&mut lab, 600).unwrap();
    assert_eq!(launch(&mut lab, 600).unwrap_err().code, "RequestLimitExceeded", "400 are left");
    ids.extend(launch(&mut lab, 400).unwrap());
    assert_eq!(launch(&mut lab, 1).unwrap_err().code, "RequestLimitExceeded", "the calls are not spent");
    lab.wait(2_000);
    assert_eq!(launch(&mut lab, 5).unwrap_err().code, "RequestLimitExceeded", "two a second");
    ids.extend(launch(&mut lab, 4).unwrap());
    let (now, first) = (lab.now, &ids[..900]);
    lab.world.terminate_all(now, first, Termination::Orderly).unwrap();
    let rest = lab.world.terminate_all(now, &ids[900..], Termination::Orderly);
    assert_eq!(rest.unwrap_err().code, "RequestLimitExceeded", "100 are left");
    lab.wait(200);
    lab.world.terminate_all(lab.now, &ids[900..], Termination::Orderly).unwrap();
}

#[test]
fn quotas_can_be_halved_and_raised_set_by_action_and_shared_by_all_acts() {
    let looks =
        |lab: &mut Lab| (0..300).filter(|_| lab.world.begin_read(lab.now, "DescribeVolumes").is_ok()).count();
    let acts = |lab: &mut Lab, action: &'static str| {
        (0..300).filter(|_| lab.world.called_by_others(lab.now, action, 1) == 1).count()
    };
    let lab = |request_quotas| {
        Lab::new(Settings { quotas: Quotas::Published, request_quotas, ..Settings::instant(7) })
    };
    let mut halved = lab(RequestQuotas { percent: 50, ..RequestQuotas::default() });
    assert_eq!((looks(&mut halved), acts(&mut halved, "AttachVolume")), (50, 25));
    halved.wait(1_200);
    assert_eq!((looks(&mut halved), acts(&mut halved, "AttachVolume")), (12, 3));
    let mut raised = lab(RequestQuotas { percent: 200, ..RequestQuotas::default() });
    assert_eq!(acts(&mut raised, "AttachVolume"), 100);
    let custom = RequestQuota { action: "AttachVolume".into(), burst: 3, per_minute: 60 };
    let mut custom = lab(RequestQuotas { custom: vec![custom], ..RequestQuotas::default() });
    assert_eq!((acts(&mut custom, "AttachVolume"), acts(&mut custom, "DetachVolume")), (3, 50));
    let mut shared = lab(RequestQuotas { shared: true, ..RequestQuotas::default() });
    assert_eq!((acts(&mut shared, "AttachVolume"), acts(&mut shared, "DeleteVolume")), (50, 0));
    assert_eq!(looks(&mut shared), 100);
    shared.wait(2_000);
    assert_eq!((acts(&mut shared, "DeleteVolume"), acts(&mut shared, "AttachVolume")), (10, 0));
}

#[test]
fn how_much_may_exist_is_refused_with_ec2s_codes() {
    let lab = |count_quotas| Lab::new(Settings { count_quotas, ..Settings::instant(7) });
    let launch = |lab: &mut Lab, token: &str| {
        let request = lab.request(token);
        lab.launch(&request)
    };
    let none = CountQuotas::default;
    let mut few = lab(CountQuotas { spot_vcpus: Some(5), ..none() });
    for token in ["a", "b"] {
        launch(&mut few, token).unwrap();
    }
    assert_eq!(code(launch(&mut few, "c")), "MaxSpotInstanceCountExceeded", "two vCPUs each");
    let mut few = lab(CountQuotas { interfaces: Some(1), ..none() });
    launch(&mut few, "a").unwrap();
    assert_eq!(code(launch(&mut few, "b")), "NetworkInterfaceLimitExceeded");
    let interface = few.interface_request("c");
    assert_eq!(code(few.world.create_interface(few.now, &interface)), "NetworkInterfaceLimitExceeded");
    let mut few = lab(CountQuotas { volumes_gib: Some(25), ..none() });
    let volume = few.volume("a");
    let request = few.volume_request("b");
    assert_eq!(code(few.world.create_volume(few.now, &request)), "VolumeLimitExceeded");
    let grow = ModifyVolume { size_gib: Some(26), ..ModifyVolume::default() };
    assert_eq!(code(few.world.modify_volume(few.now, &volume, &grow)), "VolumeLimitExceeded");
    let launched = launch(&mut few, "a").unwrap().id;
    few.wait(1);
    assert_eq!(few.view(&launched).state_reason.as_deref(), Some("Client.VolumeLimitExceeded"));
}

// Interruptions

#[test]
fn a_notice_marks_the_request_at_once_and_takes_the_instance_at_its_deadline() {
    let mut lab = Lab::calm();
    let id = lab.instance("a");
    assert_eq!(lab.spot_status(&id), ("active", "fulfilled"));
    lab.event_kinds();
    lab.world.interrupt(lab.now, &id, Notice::default()).unwrap();
    assert_eq!(lab.spot_status(&id).1, "instance-terminated-no-capacity");
    lab.wait(119_999);
    assert_eq!(lab.state(&id), InstanceState::Running);
    lab.wait(1);
    assert_eq!(lab.state(&id), InstanceState::ShuttingDown);
    lab.wait(60_000);
    let view = lab.view(&id);
    assert_eq!(view.state_reason.as_deref(), Some("Server.SpotInstanceTermination"));
    assert_eq!(lab.spot_status(&id), ("closed", "instance-terminated-no-capacity"));
    assert_eq!(
        lab.event_kinds(),
        [
            "EC2 Spot Instance Interruption Warning",
            "EC2 Instance State-change Notification shutting-down",
            "EC2 Instance State-change Notification terminated",
        ]
    );
}

#[test]
fn what_is_told_of_an_interruption_can_be_chosen() {
    type Interruption = fn(&mut World, u64, &InstanceId);
    let rows: [(&str, Interruption, &[&str]); 6] = [
        (
            "with a recommendation first",
            |w, now, id| {
                let rebalance_first = Some(Duration::from_secs(60));
                w.interrupt(now, id, Notice { rebalance_first, ..Notice::default() }).unwrap();
            },
            &["Rebalance", "Warning", "shutting-down", "terminated"],
        ),
        (
            "without the event",
            |w, now, id| {
                w.interrupt(now, id, Notice { with_event: false, ..Notice::default() }).unwrap();
            },
            &["shutting-down", "terminated"],
        ),
        ("without a notice", |w, now, id| w.reclaim_now(now, id).unwrap(), &["shutting-down", "terminated"]),
        ("silently", |w, now, id| w.vanish(now, id).unwrap(), &[]),
        (
            "warned and spared",
            |w, now, id| {
                w.interrupt(now, id, Notice::default()).unwrap();
                w.spare(now + 1, id);
            },
            &["Warning"],
        ),
        ("only recommended", |w, now, id| w.recommend_rebalance(now, id).unwrap(), &["Rebalance"]),
    ];
    for (what, interruption, expected) in rows {
        let mut lab = Lab::calm();
        let id = lab.instance("a");
        lab.event_kinds();
        interruption(&mut lab.world, lab.now, &id);
        lab.wait(LONG);
        let told = lab.event_kinds();
        assert_eq!(told.len(), expected.len(), "{what}: {told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{what}: {told} instead of {expected}");
        }
    }
}

#[test]
fn only_a_live_spot_instance_is_interrupted() {
    let mut lab = Lab::calm();
    let request = RunInstances { market: Market::OnDemand, ..lab.request("a") };
    let on_demand = lab.launch(&request).unwrap().id;
    let over = lab.instance("b");
    lab.world.terminate_instances(lab.now, &over).unwrap();
    let (unknown, ..) = elsewhere();
    for (id, expected) in [
        (&on_demand, "UnsupportedOperation"),
        (&over, "IncorrectInstanceState"),
        (&unknown, "InvalidInstanceID.NotFound"),
    ] {
        assert_eq!(code(lab.world.interrupt(lab.now, id, Notice::default())), expected);
    }
}

#[test]
fn a_spot_request_tells_who_ended_its_instance() {
    let mut lab = Lab::calm();
    let by_user = lab.instance("a");
    lab.world.terminate_instances(lab.now, &by_user).unwrap();
    assert_eq!(lab.spot_status(&by_user), ("closed", "instance-terminated-by-user"));

    let under_notice = lab.instance("b");
    lab.world.interrupt(lab.now, &under_notice, Notice::default()).unwrap();
    lab.world.terminate_instances(lab.now, &under_notice).unwrap();
    assert_eq!(lab.spot_status(&under_notice), ("closed", "instance-terminated-no-capacity"));

    let cancelled = lab.instance("c");
    let request = lab.view(&cancelled).spot_request.unwrap();
    lab.world.cancel_spot_request(lab.now, &request).unwrap();
    lab.world.cancel_spot_request(lab.now, &request).unwrap();
    assert_eq!(lab.spot_status(&cancelled), ("cancelled", "request-canceled-and-instance-running"));
    assert_eq!(lab.state(&cancelled), InstanceState::Running);
}

#[test]
fn events_have_awss_shapes_and_ids_of_their_own() {
    let mut lab = Lab::new(Settings { latencies: Latencies::default(), ..Settings::instant(7) });
    let id = lab.instance("a");
    lab.world
        .interrupt(lab.now, &id, Notice { rebalance_first: Some(Duration::ZERO), ..Notice::default() })
        .unwrap();
    lab.wait(1);
    let events = lab.world.take_events();
    let ids: BTreeSet<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), events.len());
    let check = |n: usize, expected: Expect| {
        let mut event = events[n].clone();
        event["id"] = "…".into();
        let text = serde_json::to_string_pretty(&event).unwrap().replace(id.as_str(), "i-1");
        expected.assert_eq(&text);
    };
    check(
        0,
        expect![[r#"
        {
          "account": "111122223333",
          "detail": {
            "instance-id": "i-1",
            "state": "pending"
          },
          "detail-type": "EC2 Instance State-change Notification",
          "id": "…",
          "region": "us-east-1",
          "resources": [
            "arn:aws:ec2:us-east-1:111122223333:instance/i-1"
          ],
          "source": "aws.ec2",
          "time": "2026-09-14T08:31:07Z",
          "version": "0"
        }"#]],
    );
    check(
        2,
        expect![[r#"
        {
          "account": "111122223333",
          "detail": {
            "instance-id": "i-1"
          },
          "detail-type": "EC2 Instance Rebalance Recommendation",
          "id": "…",
          "region": "us-east-1",
          "resources": [
            "arn:aws:ec2:us-east-1a:instance/i-1"
          ],
          "source": "aws.ec2",
          "time": "2026-09-14T08:31:17Z",
          "version": "0"
        }"#]],
    );
    check(
        3,
        expect![[r#"
        {
          "account": "111122223333",
          "detail": {
            "instance-action": "terminate",
            "instance-id": "i-1"
          },
          "detail-type": "EC2 Spot Instance Interruption Warning",
          "id": "…",
          "region": "us-east-1",
          "resources": [
            "arn:aws:ec2:us-east-1a:instance/i-1"
          ],
          "source": "aws.ec2",
          "time": "2026-09-14T08:31:17Z",
          "version": "0"
        }"#]],
    );
}

#[test]
fn a_region_without_events_tells_nothing() {
    let mut lab = Lab::new(Settings { events_enabled: false, ..Settings::calm(7) });
    let id = lab.instance("a");
    lab.world.interrupt(lab.now, &id, Notice::default()).unwrap();
    lab.wait(LONG);
    assert!(lab.world.take_events().is_empty());
}

// Checkers

#[test]
fn what_an_owner_left_behind_is_found_by_its_tag() {
    let mut lab = Lab::instant();
    let tags: Tags = [(OWNER_TAG.to_owned(), "us".to_owned())].into();
    let request = RunInstances { tags: tags.clone().into(), ..lab.request("a") };
    let instance = lab.launch(&request).unwrap();
    lab.instance("somebody else's");
    let volume = VolumeRequest { tags: tags.clone(), ..lab.volume_request("v") };
    let volume = lab.world.create_volume(lab.now, &volume).unwrap();
    lab.wait(1);
    let snapshot = lab.world.create_snapshot(lab.now, &volume, &tags).unwrap();
    let mut expected: BTreeSet<String> = [instance.id.to_string(), volume.to_string()].into();
    let mut leaked = lab.world.leaks("us", &expected);
    leaked.sort();
    let mut root_and_more = vec![
        instance.block_devices[0].volume.to_string(),
        instance.interfaces[0].id.to_string(),
        snapshot.to_string(),
    ];
    root_and_more.sort();
    assert_eq!(leaked, root_and_more);
    lab.world.terminate_instances(lab.now, &instance.id).unwrap();
    lab.wait(1);
    expected.remove(instance.id.as_str());
    assert_eq!(lab.world.leaks("us", &expected), [snapshot.to_string()]);
}

#[test]
fn the_checker_sees_what_it_is_for() {
    let mut lab = Lab::instant();
    let (first, second) = (lab.instance("a"), lab.instance("b"));
    let volume = lab.volume("v");
    lab.attached(&volume, &first);
    let (one, two) = (lab.interface("n"), lab.interface("m"));
    assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
    let check = |break_it: &dyn Fn(&mut World), expected: &str| {
        let mut world = lab.world.clone();
        break_it(&mut world);
        let violations = world.check_invariants();
        assert!(
            violations.iter().any(|violation| violation.contains(expected)),
            "{expected}: {violations:?}"
        );
    };
    check(
        &|w| {
            w.instances.get_mut(&second).unwrap().volumes.insert(volume.clone());
        },
        "is attached to",
    );
    check(&|w| w.volumes.get_mut(&volume).unwrap().state = VolumeState::Available, "is Available");
    check(&|w| w.volumes.get_mut(&volume).unwrap().zone = "us-east-1c".to_owned(), "across zones");
    check(&|w| w.instances.get_mut(&first).unwrap().interfaces.clear(), "without a primary");
    check(
        &|w| {
            let stolen = w.interfaces[&one].primary_ip;
            w.interfaces.get_mut(&two).unwrap().secondary_ips.push(stolen);
        },
        "is held by",
    );
    check(&|w| w.instances.get_mut(&first).unwrap().state = InstanceState::Terminated, "request is active");
}

#[test]
fn the_seed_decides_ids_and_times() {
    let run = |seed| {
        let mut lab = Lab::new(Settings::calm(seed));
        let request = lab.request("a");
        lab.launch(&request).unwrap();
        lab.world.dump().to_string()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_volume_grows_while_it_is_used_and_not_again_for_six_hours() {
    let mut lab = Lab::calm();
    let (volume, instance) = (lab.volume("v"), lab.instance("i"));
    lab.attached(&volume, &instance);
    let grow = |lab: &mut Lab, gib| {
        let change = ModifyVolume { size_gib: Some(gib), ..ModifyVolume::default() };
        lab.world.modify_volume(lab.now, &volume, &change).map(|m| m.stage).map_err(|error| error.code)
    };
    let size = |lab: &Lab| lab.world.volume(&volume).unwrap().size_gib;
    assert_eq!(grow(&mut lab, 10), Err("InvalidParameterValue".to_owned()), "a volume never shrinks");
    assert_eq!(grow(&mut lab, 70_000), Err("InvalidParameterValue".to_owned()));
    assert_eq!(grow(&mut lab, 30), Ok(ModificationState::Modifying));
    assert_eq!(size(&lab), 20);
    assert_eq!(grow(&mut lab, 40), Err("IncorrectModificationState".to_owned()));
    lab.wait(10_000);
    assert_eq!(size(&lab), 30, "the size is there in `optimizing`");
    assert_eq!(grow(&mut lab, 40), Err("IncorrectModificationState".to_owned()));
    lab.wait(600_000);
    assert_eq!(
        lab.world.volume(&volume).unwrap().modification.as_ref().unwrap().stage,
        ModificationState::Completed
    );
    assert_eq!(grow(&mut lab, 40), Err("VolumeModificationRateExceeded".to_owned()));
    lab.wait(6 * 3_600_000 - 610_000);
    assert_eq!(grow(&mut lab, 40), Ok(ModificationState::Modifying));
}

#[test]
fn a_launch_takes_several_interfaces_and_what_is_named_goes_to_one_instance() {
    let mut lab = Lab::instant();
    let kept = lab.interface("kept");
    let subnet = lab.world.subnet_in(&lab.zone(0));
    let new = |subnet: &SubnetId| Placement::New { subnet: subnet.clone(), groups: vec![], private_ip: None };
    let mut request = lab.request("one");
    request.more.interfaces = vec![
        MoreInterface {
            device_index: 1,
            placement: Placement::Existing(kept.clone()),
            delete_on_termination: false,
        },
        MoreInterface { device_index: 2, placement: new(&subnet), delete_on_termination: true },
    ];
    let launched = lab.launch(&request).unwrap();
    let indexes: Vec<_> = launched.interfaces.iter().map(|interface| interface.device_index).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_eq!(launched.interfaces[1].id, kept);
    assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
    lab.wait(1);
    lab.world.terminate_instances(lab.now, &launched.id).unwrap();
    lab.wait(1);
    assert_eq!(
        lab.world.all_interfaces().map(|i| i.id.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&kept)
    );

    let refused = |lab: &mut Lab, change: &dyn Fn(&mut RunInstances)| {
        let mut request = lab.request("");
        change(&mut request);
        let code = lab.launch(&request).unwrap_err().code;
        assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
        assert_eq!(lab.world.all_instances().filter(|i| !i.state.is_over()).count(), 0, "{code}");
        code
    };
    let other = lab.world.subnet_in(&lab.zone(1));
    let more =
        |device_index, placement| MoreInterface { device_index, placement, delete_on_termination: false };
    let existing = || Placement::Existing(kept.clone());
    assert_eq!(
        refused(&mut lab, &|r| (r.placement, r.more.count_max) = (existing(), 2)),
        "InvalidParameterCombination"
    );
    assert_eq!(
        refused(&mut lab, &|r| {
            r.more.count_max = 2;
            r.placement = Placement::New {
                subnet: subnet.clone(),
                groups: vec![],
                private_ip: "172.31.0.9".parse().ok(),
            };
        }),
        "InvalidParameterCombination"
    );
    assert_eq!(
        refused(&mut lab, &|r| r.more.interfaces = vec![more(0, existing())]),
        "InvalidParameterValue"
    );
    assert_eq!(
        refused(&mut lab, &|r| r.more.interfaces = vec![more(1, existing()), more(2, existing())]),
        "InvalidParameterValue"
    );
    assert_eq!(
        refused(&mut lab, &|r| r.more.interfaces = vec![more(1, new(&other))]),
        "InvalidParameterValue"
    );
    assert_eq!(
        refused(&mut lab, &|r| r.more.interfaces = (1..5).map(|n| more(n, new(&subnet))).collect()),
        "AttachmentLimitExceeded"
    );
}

#[test]
fn a_launch_of_many_gives_no_more_than_there_are_addresses() {
    let mut lab = Lab::new(Settings { subnet_prefix: 28, ..Settings::instant(7) });
    let mut request = lab.request("many");
    request.more.count_max = 100;
    let ids = lab.world.launch_instances(lab.now, &request).unwrap();
    assert_eq!(ids.len(), 11, "16 less the 5 that AWS keeps");
    assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
    let request = lab.request("more");
    assert_eq!(lab.launch(&request).unwrap_err().code, "InsufficientFreeAddressesInSubnet");
}

#[test]
fn an_instance_that_an_interruption_stopped_starts_again_when_there_is_capacity() {
    let mut lab = Lab::calm();
    let mut request = lab.request("p");
    request.more.spot = SpotKind::Persistent;
    request.more.behaviour = Behaviour::Stop;
    let id = lab.launch(&request).unwrap().id;
    lab.wait(10_000);
    lab.world.set_capacity("m6i.large", &lab.zone(0), Market::Spot, Capacity::Free(0));
    lab.world.interrupt(lab.now, &id, Notice::default()).unwrap();
    lab.wait(200_000);
    assert_eq!(lab.state(&id), InstanceState::Stopped);
    assert_eq!(lab.spot_status(&id), ("disabled", "instance-stopped-no-capacity"));
    lab.wait(3_600_000);
    assert_eq!(lab.state(&id), InstanceState::Stopped, "there is no capacity");
    lab.world.set_capacity("m6i.large", &lab.zone(0), Market::Spot, Capacity::Free(1));
    lab.wait(30_000);
    assert_eq!(lab.state(&id), InstanceState::Running);
    assert_eq!(lab.spot_status(&id), ("active", "fulfilled"));

    // Whose root was taken meanwhile is terminated instead.
    lab.world.set_capacity("m6i.large", &lab.zone(0), Market::Spot, Capacity::Free(0));
    lab.world.interrupt(lab.now, &id, Notice::default()).unwrap();
    lab.wait(200_000);
    let root = lab.root_of(&id);
    lab.world.detach_volume(lab.now, &root, Some(&id)).unwrap();
    lab.wait(10_000);
    lab.world.set_capacity("m6i.large", &lab.zone(0), Market::Spot, Capacity::Unlimited);
    lab.wait(100_000);
    assert_eq!(lab.state(&id), InstanceState::Terminated);
    assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
}

#[test]
fn a_describe_may_show_what_was_for_a_while_and_a_call_that_acts_knows_better() {
    let mut lab = Lab::new(Settings { stale_for: Span::ms(3_000, 3_000), ..Settings::instant(7) });
    let (volume, instance) = (lab.volume("v"), lab.instance("i"));
    lab.world.attach_volume(lab.now, &volume, &instance, DATA).unwrap();
    assert_eq!(lab.world.attach_volume(lab.now, &volume, &instance, DATA).unwrap_err().code, "VolumeInUse");
    let state = |lab: &mut Lab| {
        let found = lab.world.describe_volumes(lab.now, &Select::Ids(vec![volume.clone()])).unwrap();
        found[0].state
    };
    let mut seen = Vec::new();
    for _ in 0..29 {
        lab.wait(100);
        let one = state(&mut lab);
        assert_eq!(one, state(&mut lab), "the same moment, the same answer");
        seen.push(one);
    }
    let old = seen.iter().filter(|state| **state == VolumeState::Available).count();
    assert!((5..25).contains(&old), "both versions are met: {seen:?}");
    lab.wait(200);
    for _ in 0..20 {
        lab.wait(100);
        assert_eq!(state(&mut lab), VolumeState::InUse, "the past ends");
    }
    let other = lab.world.describe_instances(lab.now, &Select::Ids(vec![instance])).unwrap();
    assert_eq!(other[0].block_devices.len(), 2);
    assert_eq!(lab.world.check_invariants(), Vec::<String>::new());
}

#[test]
fn snapshots_carry_encryption_and_product_codes_to_the_volumes_made_of_them() {
    let mut lab = Lab::calm();
    let instance = lab.instance("i");
    let request = VolumeRequest { encrypted: true, ..lab.volume_request("v") };
    let volume = lab.world.create_volume(lab.now, &request).unwrap();
    lab.wait(5_000);
    lab.world.set_product_code(&volume, "aw0evgkw8e5c1q413zgy5pjce");
    let snapshot = lab.world.create_snapshot(lab.now, &volume, &Tags::new()).unwrap();
    lab.wait(LONG);
    let request = VolumeRequest { snapshot: Some(snapshot), encrypted: false, ..lab.volume_request("w") };
    let made = lab.world.create_volume(lab.now, &request).unwrap();
    lab.wait(5_000);
    let view = lab.world.volume(&made).unwrap();
    assert!(view.encrypted, "no volume of an encrypted snapshot is in the clear");
    assert_eq!(view.product_codes.len(), 1);
    // Such a volume is attached to a stopped instance only, which a one-time spot instance never is.
    let refused = lab.world.attach_volume(lab.now, &made, &instance, DATA);
    assert_eq!(refused.unwrap_err().code, "IncorrectInstanceState");
}
