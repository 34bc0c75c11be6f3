//! Objects as EC2 writes them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use base64::Engine as _;
use perennial_workers::port::{AttachmentState, ImageState, RootTaskState, SnapshotState, Tags, VolumeState};
use perennial_workflows::model::aws::{GroupId, InstanceState, Market, SnapshotId, VolumeId};

use super::super::xml::Element;
use crate::world::state::{
    Attachment, Elastic, Image, Instance, Interface, Plug, RootTask, Snapshot, SpotRequest, Subnet, Template,
    Volume,
};
use crate::world::{
    ACCOUNT, Behaviour, Check, DeviceMapping, Modification, ModificationState, SpotKind, World, iops_of,
};

/// The region's only VPC.
pub(crate) const VPC: &str = "vpc-00000000000000001";
/// Its addresses.
pub(crate) const VPC_CIDR: &str = "172.31.0.0/16";

/// As EC2 writes moments.
pub(super) fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string())
}

/// The tags of an object. Without any, EC2 leaves the set out, but for interfaces, spot requests and root
/// replacement tasks (AWS CLI command reference, examples).
pub(super) fn tags(tags: &Tags) -> impl Iterator<Item = Element> + '_ {
    tags.iter().map(|(key, value)| Element::new().with("key", key).with("value", value))
}

/// An object in the answer of the call that creates it: there the set of tags stands even if it is empty (AWS
/// CLI command reference, examples of RunInstances, CreateVolume and CreateSnapshot).
pub(super) fn created(element: Element) -> Element {
    if element.has("tagSet") { element } else { element.inside("tagSet", Element::new()) }
}

pub(super) fn state(state: InstanceState) -> Element {
    let code = match state {
        InstanceState::Pending => 0,
        InstanceState::Running => 16,
        InstanceState::ShuttingDown => 32,
        InstanceState::Terminated => 48,
        InstanceState::Stopping => 64,
        InstanceState::Stopped => 80,
    };
    Element::new().with("code", code).with("name", state)
}

pub(crate) fn private_name(address: Ipv4Addr) -> String {
    format!("ip-{}.ec2.internal", address.to_string().replace('.', "-"))
}

pub(crate) fn public_name(address: Ipv4Addr) -> String {
    format!("ec2-{}.compute-1.amazonaws.com", address.to_string().replace('.', "-"))
}

fn groups(world: &World, ids: &[GroupId]) -> Vec<Element> {
    let named = |id: &GroupId| {
        let found = world.all_groups().find(|group| group.id == *id);
        Element::new().with("groupId", id).maybe("groupName", found.map(|group| &group.name))
    };
    ids.iter().map(named).collect()
}

/// The interfaces of an instance that is not over, primary first.
fn interfaces<'a>(world: &'a World, instance: &Instance) -> Vec<(&'a Interface, &'a Plug)> {
    if instance.state == InstanceState::Terminated {
        return Vec::new();
    }
    let found = instance.interfaces.iter().filter_map(|id| world.interface(id));
    let mut plugged: Vec<_> = found.filter_map(|i| Some((i, i.attachment.as_ref()?))).collect();
    plugged.sort_by_key(|(_, plug)| plug.device_index);
    plugged
}

/// The public address of an instance.
pub(super) fn public_ip(world: &World, instance: &Instance) -> Option<Ipv4Addr> {
    let (primary, _) = interfaces(world, instance).into_iter().next()?;
    world.elastic_of(primary.primary_ip).map(|elastic| elastic.address)
}

/// One of `MetadataOptions`.
pub(super) fn metadata(instance: &Instance, name: &str, usual: &str) -> String {
    instance.metadata.get(name).cloned().unwrap_or(usual.to_owned())
}

pub(super) fn instance(world: &World, instance: &Instance) -> Element {
    let there = instance.state != InstanceState::Terminated;
    let plugged = interfaces(world, instance);
    let primary = plugged.first().map(|(interface, _)| *interface);
    let public = public_ip(world, instance);
    let image = world.image(&instance.image);
    let shape = crate::world::Shape::of(&instance.instance_type);
    Element::new()
        .with("instanceId", &instance.id)
        .with("imageId", &instance.image)
        .inside("instanceState", state(instance.state))
        .with("privateDnsName", primary.map(|i| private_name(i.primary_ip)).unwrap_or_default())
        .with("dnsName", public.map(public_name).unwrap_or_default())
        .with("reason", &instance.transition_reason)
        .maybe("keyName", instance.key_name.as_ref())
        .with("amiLaunchIndex", instance.launch_index)
        .inside("productCodes", Element::new())
        .with("instanceType", &instance.instance_type)
        .with("launchTime", time(instance.launched_at_ms))
        .inside(
            "placement",
            Element::new()
                .with("availabilityZone", &instance.zone)
                .with("groupName", "")
                .with("tenancy", "default"),
        )
        .inside("monitoring", Element::new().with("state", monitoring(instance)))
        .maybe("subnetId", there.then_some(&instance.subnet))
        .maybe("vpcId", there.then_some(VPC))
        .maybe("privateIpAddress", primary.map(|i| i.primary_ip))
        .maybe("ipAddress", public)
        .maybe("sourceDestCheck", there.then_some(true))
        .list("groupSet", primary.map(|i| groups(world, &i.groups)).unwrap_or_default())
        .maybe_inside(
            "stateReason",
            instance
                .state_reason
                .as_ref()
                .map(|code| Element::new().with("code", code).with("message", reason_message(code))),
        )
        .with("architecture", shape.map_or("x86_64", |shape| shape.architecture))
        .with("rootDeviceType", "ebs")
        .with("rootDeviceName", &instance.root_device)
        .list("blockDeviceMapping", block_devices(world, instance))
        .with("virtualizationType", "hvm")
        .with("platformDetails", "Linux/UNIX")
        .with("usageOperation", "RunInstances")
        .with("clientToken", &instance.client_token)
        .list_if_any("tagSet", tags(&instance.tags))
        .with("hypervisor", "xen")
        .list(
            "networkInterfaceSet",
            plugged.iter().map(|(i, plug)| plugged_interface(world, instance, i, plug)),
        )
        .maybe_inside("iamInstanceProfile", instance.instance_profile.as_deref().map(profile))
        .with("ebsOptimized", instance.ebs_optimized)
        .inside("hibernationOptions", Element::new().with("configured", false))
        .inside("enclaveOptions", Element::new().with("enabled", false))
        .inside(
            "capacityReservationSpecification",
            Element::new().with("capacityReservationPreference", "open"),
        )
        .maybe("enaSupport", image.map(|image| image.traits.ena_support))
        .maybe("instanceLifecycle", (instance.market == Market::Spot).then_some("spot"))
        .maybe("spotInstanceRequestId", instance.spot_request.as_ref())
        .inside("metadataOptions", metadata_options(instance, "applied"))
}

/// Whether CloudWatch has a value each minute.
pub(super) fn monitoring(instance: &Instance) -> &'static str {
    if instance.monitoring { "enabled" } else { "disabled" }
}

/// `Client.UserInitiatedShutdown: User initiated shutdown` (EC2 API reference, StateReason).
pub(super) fn reason_message(code: &str) -> String {
    let words = match code {
        "Client.UserInitiatedShutdown" => "User initiated shutdown",
        "Client.InstanceInitiatedShutdown" => "Instance initiated shutdown",
        "Client.InternalError" => "Client error on launch",
        "Client.InvalidSnapshot.NotFound" => "The specified snapshot was not found.",
        "Client.VolumeLimitExceeded" => "Volume limit exceeded",
        "Server.InternalError" => "Internal error on launch",
        "Server.InsufficientInstanceCapacity" => "Insufficient capacity to satisfy instance request",
        "Server.ScheduledStop" => "Stopped due to scheduled retirement",
        "Server.SpotInstanceShutdown" => "Spot instance shutdown",
        "Server.SpotInstanceTermination" => "Spot instance termination",
        other => other,
    };
    format!("{code}: {words}")
}

fn block_devices(world: &World, instance: &Instance) -> Vec<Element> {
    let there = instance.state != InstanceState::Terminated;
    let volumes = instance.volumes.iter().filter(|_| there).filter_map(|id| world.volume(id));
    let mut devices: Vec<_> = volumes.filter_map(|v| Some((v.attachment.as_ref()?, v))).collect();
    devices.sort_by_key(|(at, _)| (at.device != instance.root_device, at.device.clone()));
    let shown = devices.into_iter().map(|(at, volume)| {
        let ebs = Element::new()
            .with("volumeId", &volume.id)
            .with("status", attachment_state(at.state))
            .with("attachTime", time(instance.launched_at_ms))
            .with("deleteOnTermination", at.delete_on_termination);
        Element::new().with("deviceName", &at.device).inside("ebs", ebs)
    });
    shown.collect()
}

fn profile(name: &str) -> Element {
    let arn = match name.starts_with("arn:") {
        true => name.to_owned(),
        false => format!("arn:aws:iam::{ACCOUNT}:instance-profile/{name}"),
    };
    Element::new().with("arn", arn).with("id", "AIPASIMULATED0000000")
}

pub(super) fn metadata_options(instance: &Instance, state: &str) -> Element {
    let metadata = |name: &str, usual: &str| metadata(instance, name, usual);
    Element::new()
        .with("state", state)
        .with("httpTokens", metadata("HttpTokens", "optional"))
        .with("httpPutResponseHopLimit", metadata("HttpPutResponseHopLimit", "2"))
        .with("httpEndpoint", metadata("HttpEndpoint", "enabled"))
        .with("httpProtocolIpv6", metadata("HttpProtocolIpv6", "disabled"))
        .with("instanceMetadataTags", metadata("InstanceMetadataTags", "disabled"))
}

fn plugged_interface(world: &World, instance: &Instance, interface: &Interface, plug: &Plug) -> Element {
    Element::new()
        .with("networkInterfaceId", &interface.id)
        .with("subnetId", &interface.subnet)
        .with("vpcId", VPC)
        .with("description", &interface.description)
        .with("ownerId", ACCOUNT)
        .with("status", "in-use")
        .with("macAddress", mac(interface.primary_ip))
        .with("privateIpAddress", interface.primary_ip)
        .with("privateDnsName", private_name(interface.primary_ip))
        .with("sourceDestCheck", true)
        .list("groupSet", groups(world, &interface.groups))
        .inside(
            "attachment",
            Element::new()
                .with("attachmentId", &plug.id)
                .with("deviceIndex", plug.device_index)
                .with("status", "attached")
                // When it was attached is not kept; a moment that stays the same is better than now.
                .with("attachTime", time(instance.launched_at_ms))
                .with("deleteOnTermination", plug.delete_on_termination)
                .with("networkCardIndex", 0),
        )
        .maybe_inside("association", association(world, interface.primary_ip))
        .list("privateIpAddressesSet", private_ips(world, interface))
        .with("interfaceType", "interface")
}

pub(crate) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn association(world: &World, private_ip: Ipv4Addr) -> Option<Element> {
    let elastic = world.elastic_of(private_ip)?;
    let found = elastic.association.as_ref()?;
    Some(
        Element::new()
            .with("publicIp", elastic.address)
            .with("publicDnsName", public_name(elastic.address))
            .with("ipOwnerId", ACCOUNT)
            .with("allocationId", &elastic.id)
            .with("associationId", &found.id),
    )
}

fn private_ips(world: &World, interface: &Interface) -> Vec<Element> {
    let all = std::iter::once((true, interface.primary_ip))
        .chain(interface.secondary_ips.iter().map(|address| (false, *address)));
    all.map(|(primary, address)| {
        Element::new()
            .with("privateIpAddress", address)
            .with("privateDnsName", private_name(address))
            .with("primary", primary)
            .maybe_inside("association", association(world, address))
    })
    .collect()
}

pub(super) fn interface(world: &World, interface: &Interface) -> Element {
    Element::new()
        .with("networkInterfaceId", &interface.id)
        .with("subnetId", &interface.subnet)
        .with("vpcId", VPC)
        .with("availabilityZone", &interface.zone)
        .with("description", &interface.description)
        .with("ownerId", ACCOUNT)
        .with("requesterManaged", false)
        .with("status", if interface.attachment.is_some() { "in-use" } else { "available" })
        .with("macAddress", mac(interface.primary_ip))
        .with("privateIpAddress", interface.primary_ip)
        .with("privateDnsName", private_name(interface.primary_ip))
        .with("sourceDestCheck", true)
        .list("groupSet", groups(world, &interface.groups))
        .maybe_inside(
            "attachment",
            interface.attachment.as_ref().map(|plug| {
                Element::new()
                    .with("attachmentId", &plug.id)
                    .with("instanceId", &plug.instance)
                    .with("instanceOwnerId", ACCOUNT)
                    .with("deviceIndex", plug.device_index)
                    .with("networkCardIndex", 0)
                    .with("status", "attached")
                    .with("deleteOnTermination", plug.delete_on_termination)
            }),
        )
        .maybe_inside("association", association(world, interface.primary_ip))
        .list("tagSet", tags(&interface.tags))
        .list("privateIpAddressesSet", private_ips(world, interface))
        .with("interfaceType", "interface")
}

pub(super) fn attachment_state(state: AttachmentState) -> &'static str {
    match state {
        AttachmentState::Attaching => "attaching",
        AttachmentState::Attached => "attached",
        AttachmentState::Detaching => "detaching",
        AttachmentState::Busy => "busy",
    }
}

pub(super) fn attachment(volume: &Volume, at: &Attachment) -> Element {
    Element::new()
        .with("volumeId", &volume.id)
        .with("instanceId", &at.instance)
        .with("device", &at.device)
        .with("status", attachment_state(at.state))
        .with("attachTime", time(volume.created_at_ms))
        .with("deleteOnTermination", at.delete_on_termination)
}

pub(super) fn volume_state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Creating => "creating",
        VolumeState::Available => "available",
        VolumeState::InUse => "in-use",
        VolumeState::Deleting => "deleting",
        VolumeState::Deleted => "deleted",
        VolumeState::Error => "error",
    }
}

/// The status of a volume, and whether its I/O is enabled.
pub(super) fn volume_status(state: VolumeState) -> (&'static str, &'static str) {
    match state {
        VolumeState::Creating => ("insufficient-data", "insufficient-data"),
        VolumeState::Error => ("impaired", "failed"),
        _ => ("ok", "passed"),
    }
}

pub(super) fn volume(volume: &Volume) -> Element {
    let gp3 = volume.volume_type == "gp3";
    Element::new()
        .with("volumeId", &volume.id)
        .with("size", volume.size_gib)
        .with("snapshotId", volume.snapshot.as_ref().map(ToString::to_string).unwrap_or_default())
        .with("availabilityZone", &volume.zone)
        .with("status", volume_state(volume.state))
        .with("createTime", time(volume.created_at_ms))
        .list("attachmentSet", volume.attachment.as_ref().map(|at| attachment(volume, at)))
        .list_if_any("tagSet", tags(&volume.tags))
        .with("volumeType", &volume.volume_type)
        .maybe("iops", iops_of(&volume.volume_type, volume.size_gib, volume.iops))
        .maybe("throughput", volume.throughput.or(gp3.then_some(125)))
        .with("encrypted", volume.encrypted)
        .with("multiAttachEnabled", volume.multi_attach)
}

pub(super) fn modification(id: &VolumeId, modification: &Modification) -> Element {
    let (original, target) = (&modification.original, &modification.target);
    let progress = match modification.stage {
        ModificationState::Modifying => 0,
        ModificationState::Optimizing => 50,
        ModificationState::Completed => 100,
    };
    Element::new()
        .with("volumeId", id)
        .with("modificationState", modification.stage.as_str())
        .with("targetSize", target.0)
        .with("targetVolumeType", &target.1)
        .maybe("targetIops", target.2)
        .maybe("targetThroughput", target.3)
        .with("targetMultiAttachEnabled", false)
        .with("originalSize", original.0)
        .with("originalVolumeType", &original.1)
        .maybe("originalIops", original.2)
        .maybe("originalThroughput", original.3)
        .with("originalMultiAttachEnabled", false)
        .with("progress", progress)
        .with("startTime", time(modification.started_at_ms))
        .maybe("endTime", modification.ended_at_ms.map(time))
}

pub(super) fn snapshot_state(state: SnapshotState) -> &'static str {
    match state {
        SnapshotState::Pending => "pending",
        SnapshotState::Completed => "completed",
        SnapshotState::Error => "error",
    }
}

/// How far a snapshot is, such as `43%`.
pub(super) fn progress(snapshot: &Snapshot, now_ms: u64) -> String {
    let percent = match snapshot.state {
        SnapshotState::Completed => 100,
        SnapshotState::Error => 0,
        SnapshotState::Pending => {
            let all = snapshot.completes_at_ms.saturating_sub(snapshot.started_at_ms).max(1);
            (now_ms.saturating_sub(snapshot.started_at_ms) * 100 / all).min(99)
        }
    };
    format!("{percent}%")
}

/// `state_name` is `status` or, in the answer of CreateSnapshots, `state`.
pub(super) fn snapshot(snapshot: &Snapshot, now_ms: u64, state_name: &'static str) -> Element {
    // The image's own snapshot is another account's; EC2 shows an invented volume for such.
    let volume = snapshot.volume.as_ref().map_or("vol-ffffffff".to_owned(), ToString::to_string);
    Element::new()
        .with("snapshotId", &snapshot.id)
        .with("volumeId", volume)
        .with(state_name, snapshot_state(snapshot.state))
        .with("startTime", time(snapshot.started_at_ms))
        .with("progress", progress(snapshot, now_ms))
        .with("ownerId", snapshot_owner(snapshot))
        .with("volumeSize", snapshot.size_gib)
        .with("description", &snapshot.description)
        .list_if_any("tagSet", tags(&snapshot.tags))
        .with("encrypted", snapshot.encrypted)
        .with("storageTier", "standard")
}

/// As the answers about attributes have them.
pub(super) fn product_codes(codes: &BTreeSet<String>) -> impl Iterator<Item = Element> {
    codes.iter().map(|code| Element::new().with("productCode", code).with("type", "marketplace"))
}

/// The account that owns Amazon's images and snapshots.
pub(super) const AMAZON: &str = "137112412989";

pub(super) fn snapshot_owner(snapshot: &Snapshot) -> &'static str {
    if snapshot.volume.is_some() { ACCOUNT } else { AMAZON }
}

pub(super) fn image_state(state: ImageState) -> &'static str {
    match state {
        ImageState::Pending => "pending",
        ImageState::Available => "available",
        ImageState::Failed => "failed",
    }
}

pub(super) fn image(world: &World, image: &Image) -> Element {
    let ours = image.id != world.default_image();
    let (owner, alias) = if ours { (ACCOUNT, None) } else { (AMAZON, Some("amazon")) };
    let root = image.devices.iter().find(|device| device.device == image.traits.root_device);
    let others = image.devices.iter().filter(|device| device.device != image.traits.root_device);
    let encrypted = |snapshot: Option<&SnapshotId>| {
        snapshot.and_then(|id| world.snapshot(id)).is_some_and(|snapshot| snapshot.encrypted)
    };
    let size_of = |snapshot: &SnapshotId| world.snapshot(snapshot).map(|s| s.size_gib);
    let mapping = |name: &str, snapshot: Option<&SnapshotId>, device: Option<&DeviceMapping>| {
        let is_encrypted = device.is_some_and(|device| device.encrypted) || encrypted(snapshot);
        let kind = device.and_then(|device| device.volume_type.as_deref());
        let ebs = Element::new()
            .maybe("snapshotId", snapshot)
            .maybe("volumeSize", device.and_then(|device| device.size_gib).or(snapshot.and_then(size_of)))
            .maybe("iops", device.and_then(|device| device.iops))
            .maybe("throughput", device.and_then(|device| device.throughput))
            .with("deleteOnTermination", device.and_then(|d| d.delete_on_termination).unwrap_or(true))
            .with("volumeType", kind.unwrap_or("gp3"))
            .with("encrypted", is_encrypted);
        Element::new().with("deviceName", name).inside("ebs", ebs)
    };
    let root_mapping = mapping(&image.traits.root_device, Some(&image.root_snapshot), root);
    let other_mappings = others.map(|device| mapping(&device.device, device.snapshot.as_ref(), Some(device)));
    let traits = &image.traits;
    Element::new()
        .with("imageId", &image.id)
        .with("imageLocation", format!("{owner}/{}", image.name))
        .with("imageState", image_state(image.state))
        .with("imageOwnerId", owner)
        .maybe("imageOwnerAlias", alias)
        .with("isPublic", !ours)
        .with("architecture", &traits.architecture)
        .with("imageType", "machine")
        .with("name", &image.name)
        .with("description", &image.description)
        .maybe("platform", traits.platform.as_ref())
        .with("platformDetails", "Linux/UNIX")
        .with("rootDeviceType", "ebs")
        .with("rootDeviceName", &traits.root_device)
        .list("blockDeviceMapping", std::iter::once(root_mapping).chain(other_mappings))
        .with("virtualizationType", "hvm")
        .with("hypervisor", "xen")
        .with("enaSupport", traits.ena_support)
        // Kept by no image here; those of today have it, and registering clients say so.
        .with("sriovNetSupport", "simple")
        .maybe("bootMode", traits.boot_mode.as_ref())
        .maybe("tpmSupport", traits.tpm_support.as_ref())
        .maybe("imdsSupport", traits.imds_support.as_ref())
        .with("creationDate", time(image.created_at_ms))
        .list_if_any("tagSet", tags(&image.tags))
}

pub(super) fn subnet(world: &World, subnet: &Subnet) -> Element {
    Element::new()
        .with("subnetId", &subnet.id)
        .with("subnetArn", format!("arn:aws:ec2:{}:{ACCOUNT}:subnet/{}", world.settings.region, subnet.id))
        .with("state", "available")
        .with("ownerId", ACCOUNT)
        .with("vpcId", VPC)
        .with("cidrBlock", subnet.cidr())
        .with("availableIpAddressCount", world.free_addresses(subnet))
        .with("availabilityZone", &subnet.zone)
        .with("availabilityZoneId", zone_id(&subnet.zone))
        .with("defaultForAz", true)
        .with("mapPublicIpOnLaunch", false)
}

/// Such as `use1-az1`.
pub(crate) fn zone_id(zone: &str) -> String {
    let region = zone.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = zone.bytes().last().map_or(0, |letter| letter.saturating_sub(b'a') + 1);
    let mut words = region.split('-');
    let start = words.next().unwrap_or_default();
    let middle = words.next().and_then(|word| word.chars().next()).map(String::from).unwrap_or_default();
    format!("{start}{middle}{}-az{number}", words.next().unwrap_or_default())
}

pub(super) fn spot_request(world: &World, request: &SpotRequest) -> Element {
    let launch = &request.launch;
    let zone = request.instance.as_ref().and_then(|id| world.instance(id)).map(|i| i.zone.clone());
    Element::new()
        .with("spotInstanceRequestId", &request.id)
        .with("spotPrice", launch.price_max.as_deref().unwrap_or("1.000000"))
        .with("type", kind(request.kind))
        .with("state", &request.state)
        .inside(
            "status",
            Element::new()
                .with("code", &request.status)
                .with("updateTime", time(request.created_at_ms))
                .with("message", &request.status),
        )
        .inside(
            "launchSpecification",
            Element::new()
                .with("imageId", &launch.image)
                .with("instanceType", &launch.instance_type)
                .maybe("keyName", launch.key_name.as_ref()),
        )
        .maybe("instanceId", request.instance.as_ref())
        .with("createTime", time(request.created_at_ms))
        .with("productDescription", "Linux/UNIX")
        .list("tagSet", tags(&request.tags))
        .maybe("launchedAvailabilityZone", zone)
        .with("instanceInterruptionBehavior", behaviour(request.behaviour))
}

pub(super) fn kind(kind: SpotKind) -> &'static str {
    match kind {
        SpotKind::OneTime => "one-time",
        SpotKind::Persistent => "persistent",
    }
}

pub(super) fn behaviour(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Terminate => "terminate",
        Behaviour::Stop => "stop",
    }
}

pub(super) fn task_state(state: RootTaskState) -> &'static str {
    match state {
        RootTaskState::InProgress => "in-progress",
        RootTaskState::Succeeded => "succeeded",
        RootTaskState::Failed => "failed",
        RootTaskState::FailedDetached => "failed-detached",
    }
}

pub(super) fn root_task(task: &RootTask) -> Element {
    Element::new()
        .with("replaceRootVolumeTaskId", &task.id)
        .with("instanceId", &task.instance)
        .with("taskState", task_state(task.state))
        .with("startTime", time(task.started_at_ms))
        .list("tagSet", tags(&task.tags))
        .maybe("volumeId", task.adopts.then_some(&task.volume))
        .with("deleteReplacedRootVolume", task.deletes_replaced)
}

pub(super) fn elastic(world: &World, elastic: &Elastic) -> Element {
    let association = elastic.association.as_ref();
    let interface = association.and_then(|found| world.interface(&found.interface));
    let plug = interface.and_then(|interface| interface.attachment.as_ref());
    // An instance that is terminated holds nothing any more, though its interface is let go a little later.
    let holder = plug
        .filter(|plug| world.instance(&plug.instance).is_some_and(|i| i.state != InstanceState::Terminated));
    Element::new()
        .with("publicIp", elastic.address)
        .with("allocationId", &elastic.id)
        .with("domain", "vpc")
        .maybe("instanceId", holder.map(|plug| &plug.instance))
        .maybe("associationId", association.map(|found| &found.id))
        .maybe("networkInterfaceId", association.map(|found| &found.interface))
        .maybe("networkInterfaceOwnerId", association.map(|_| ACCOUNT))
        .maybe("privateIpAddress", association.map(|found| found.private_ip))
        .list_if_any("tagSet", tags(&elastic.tags))
        .with("publicIpv4Pool", "amazon")
        .with("networkBorderGroup", &world.settings.region)
}

pub(super) fn template(template: &Template) -> Element {
    Element::new()
        .with("launchTemplateId", &template.id)
        .with("launchTemplateName", &template.name)
        .with("createTime", time(template.created_at_ms))
        .with("createdBy", format!("arn:aws:iam::{ACCOUNT}:root"))
        .with("defaultVersionNumber", template.default_version)
        .with("latestVersionNumber", template.versions.len())
        .list_if_any("tagSet", tags(&template.tags))
}

/// The status of a check, and that of its detail.
pub(super) const fn check_status(check: Check) -> (&'static str, &'static str) {
    match check {
        Check::Initializing => ("initializing", "initializing"),
        Check::Ok => ("ok", "passed"),
        Check::Impaired => ("impaired", "failed"),
        Check::NotApplicable => ("not-applicable", "insufficient-data"),
    }
}

pub(super) fn check(check: Check, impaired_since_ms: Option<u64>) -> Element {
    let (status, detail) = check_status(check);
    let detail = Element::new()
        .with("name", "reachability")
        .with("status", detail)
        .maybe("impairedSince", impaired_since_ms.map(time));
    Element::new().with("status", status).list("details", [detail])
}

/// The prefix under which binary user data is kept, since the model keeps text.
const BINARY: &str = "data:application/octet-stream;base64,";

/// User data as the model keeps it.
pub(super) fn kept_user_data(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        format!("{BINARY}{}", base64::engine::general_purpose::STANDARD.encode(error.as_bytes()))
    })
}

/// User data as the guest gets it.
pub(crate) fn user_data_bytes(kept: &str) -> Vec<u8> {
    let decoded = kept.strip_prefix(BINARY);
    let decoded = decoded.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    decoded.unwrap_or_else(|| kept.as_bytes().to_vec())
}

/// User data as it was sent.
pub(crate) fn user_data(kept: &str) -> String {
    match kept.strip_prefix(BINARY) {
        Some(encoded) => encoded.to_owned(),
        None => base64::engine::general_purpose::STANDARD.encode(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_user_data_as_it_is_even_if_it_is_no_text() {
        for sent in [b"#!/bin/sh\n".as_slice(), &[0x1f, 0x8b, 8, 0, 0xff, 0xfe], b""] {
            let kept = kept_user_data(sent.to_vec());
            assert_eq!(user_data_bytes(&kept), sent);
            let told = base64::engine::general_purpose::STANDARD.decode(user_data(&kept)).unwrap();
            assert_eq!(told, sent);
        }
    }
}
