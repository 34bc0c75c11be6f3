//! From the SDK's types to the port's views: pure, one function a view.
//!
//! What the SDK makes optional and we cannot do without (ids, a volume's zone) is [`Missing`] when absent;
//! the adapter reports it as a lost answer. A value of an enum that we do not know becomes the state in which
//! nobody acts on the object: an instance that is *pending*, a volume that is *creating*, an attachment that
//! is *busy*, a snapshot or image that is *pending*, a root task *in progress*. An absent DeleteOnTermination
//! of an instance's mapping counts as true, so that the workflow sets it.

use std::net::Ipv4Addr;

use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat as Format};
use aws_sdk_ec2::types as sdk;
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, BadId, GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market,
    RootTaskId, SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use perennial_workflows::model::volume::MappedVolume;

use crate::port::{
    AttachmentState, BlockDevice, ElasticView, ImageState, ImageTraits, ImageView, InstanceInterface,
    InstanceView, InterfaceAttachment, InterfaceView, RootTaskState, RootTaskView, SnapshotState,
    SnapshotView, SpotRequestView, SubnetView, Tags, VolumeAttachment, VolumeState, VolumeView,
};

/// An answer without something that every such answer has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Missing {
    #[error("the answer has {0}")]
    Absent(&'static str),
    #[error("the answer has a foreign id: {0}")]
    BadId(#[from] BadId),
}

pub(super) fn instance(instance: &sdk::Instance) -> Result<InstanceView, Missing> {
    Ok(InstanceView {
        id: required(instance.instance_id(), "an instance without id", InstanceId::parse)?,
        state: instance_state(instance.state().and_then(sdk::InstanceState::name)),
        state_reason: text(instance.state_reason().and_then(sdk::StateReason::code)),
        instance_type: instance.instance_type().map(|t| t.as_str().to_owned()).unwrap_or_default(),
        zone: text(instance.placement().and_then(sdk::Placement::availability_zone)).unwrap_or_default(),
        subnet: optional(instance.subnet_id(), SubnetId::parse)?,
        market: match instance.instance_lifecycle() {
            Some(sdk::InstanceLifecycleType::Spot) => Market::Spot,
            _ => Market::OnDemand,
        },
        image: optional(instance.image_id(), ImageId::parse)?,
        private_ip: address(instance.private_ip_address()),
        root_device: text(instance.root_device_name()),
        block_devices: instance
            .block_device_mappings()
            .iter()
            .filter_map(block_device)
            .collect::<Result<_, _>>()?,
        interfaces: instance
            .network_interfaces()
            .iter()
            .filter_map(instance_interface)
            .collect::<Result<_, _>>()?,
        spot_request: optional(instance.spot_instance_request_id(), SpotRequestId::parse)?,
        launched_at_ms: instance.launch_time().map(millis).unwrap_or_default(),
        client_token: text(instance.client_token()),
        tags: tags(instance.tags()),
    })
}

pub(super) fn volume(volume: &sdk::Volume) -> Result<VolumeView, Missing> {
    Ok(VolumeView {
        id: required(volume.volume_id(), "a volume without id", VolumeId::parse)?,
        state: match volume.state() {
            Some(sdk::VolumeState::Available) => VolumeState::Available,
            Some(sdk::VolumeState::InUse) => VolumeState::InUse,
            Some(sdk::VolumeState::Deleting) => VolumeState::Deleting,
            Some(sdk::VolumeState::Deleted) => VolumeState::Deleted,
            Some(sdk::VolumeState::Error) => VolumeState::Error,
            // Creating, absent, or a state we do not know: not to be used yet.
            _ => VolumeState::Creating,
        },
        zone: text(volume.availability_zone()).ok_or(Missing::Absent("a volume without zone"))?,
        size_gib: volume.size().and_then(|size| u32::try_from(size).ok()).unwrap_or_default(),
        volume_type: volume.volume_type().map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        iops: volume.iops().and_then(|iops| u32::try_from(iops).ok()),
        throughput: volume.throughput().and_then(|throughput| u32::try_from(throughput).ok()),
        snapshot: optional(volume.snapshot_id(), SnapshotId::parse)?,
        multi_attach: volume.multi_attach_enabled().unwrap_or(false),
        attachments: volume.attachments().iter().filter_map(volume_attachment).collect::<Result<_, _>>()?,
        created_at_ms: volume.create_time().map(millis),
        tags: tags(volume.tags()),
    })
}

pub(super) fn interface(interface: &sdk::NetworkInterface) -> Result<InterfaceView, Missing> {
    let primary_ip =
        address(interface.private_ip_address()).ok_or(Missing::Absent("an interface without address"))?;
    Ok(InterfaceView {
        id: required(interface.network_interface_id(), "an interface without id", InterfaceId::parse)?,
        available: interface.status() == Some(&sdk::NetworkInterfaceStatus::Available),
        subnet: required(interface.subnet_id(), "an interface without subnet", SubnetId::parse)?,
        zone: text(interface.availability_zone()).ok_or(Missing::Absent("an interface without zone"))?,
        primary_ip,
        secondary_ips: interface
            .private_ip_addresses()
            .iter()
            .filter_map(|entry| address(entry.private_ip_address()))
            .filter(|ip| *ip != primary_ip)
            .collect(),
        groups: interface
            .groups()
            .iter()
            .filter_map(|group| GroupId::parse(group.group_id()?).ok())
            .collect(),
        attachment: match interface.attachment() {
            Some(attachment) if attachment.status() != Some(&sdk::AttachmentStatus::Detached) => {
                interface_attachment(attachment)?
            }
            _ => None,
        },
        tags: tags(interface.tag_set()),
    })
}

pub(super) fn elastic(elastic: &sdk::Address) -> Result<ElasticView, Missing> {
    let interface = match elastic.network_interface_id().filter(|id| !id.is_empty()) {
        Some(id) => Some(required(Some(id), "an interface without id", InterfaceId::parse)?),
        None => None,
    };
    Ok(ElasticView {
        allocation: required(elastic.allocation_id(), "an address without allocation", AllocationId::parse)?,
        public_ip: address(elastic.public_ip()).ok_or(Missing::Absent("an allocation without address"))?,
        leads_to: interface.map(|interface| (interface, address(elastic.private_ip_address()))),
        instance: match elastic.instance_id().filter(|id| !id.is_empty()) {
            Some(id) => Some(required(Some(id), "an instance without id", InstanceId::parse)?),
            None => None,
        },
    })
}

pub(super) fn snapshot(snapshot: &sdk::Snapshot) -> Result<SnapshotView, Missing> {
    Ok(SnapshotView {
        id: required(snapshot.snapshot_id(), "a snapshot without id", SnapshotId::parse)?,
        state: match snapshot.state() {
            Some(sdk::SnapshotState::Completed) => SnapshotState::Completed,
            // Recoverable: deleted, in the recycle bin.
            Some(sdk::SnapshotState::Error | sdk::SnapshotState::Recoverable) => SnapshotState::Error,
            // Pending, recovering, absent, or a state we do not know: not to be used yet.
            _ => SnapshotState::Pending,
        },
        volume: optional(snapshot.volume_id(), VolumeId::parse)?,
        progress: snapshot
            .progress()
            .and_then(|progress| progress.trim_end_matches('%').parse().ok())
            .unwrap_or_default(),
        started_at_ms: snapshot.start_time().map(millis).unwrap_or_default(),
        tags: tags(snapshot.tags()),
    })
}

pub(super) fn image(image: &sdk::Image) -> Result<ImageView, Missing> {
    let root_device = text(image.root_device_name());
    // Only a root on EBS has a snapshot. (moto calls the roots of all its images "standard" and shows
    // snapshots of its own.)
    let on_ebs = image.root_device_type() == Some(&sdk::DeviceType::Ebs);
    let root = image
        .block_device_mappings()
        .iter()
        .find(|mapping| mapping.device_name().is_some() && mapping.device_name() == root_device.as_deref())
        .and_then(sdk::BlockDeviceMapping::ebs)
        .filter(|_| on_ebs);
    Ok(ImageView {
        id: required(image.image_id(), "an image without id", ImageId::parse)?,
        name: text(image.name()).unwrap_or_default(),
        state: match image.state() {
            Some(sdk::ImageState::Available) => ImageState::Available,
            Some(
                sdk::ImageState::Failed
                | sdk::ImageState::Error
                | sdk::ImageState::Invalid
                | sdk::ImageState::Deregistered
                | sdk::ImageState::Disabled,
            ) => ImageState::Failed,
            // Pending, transient, absent, or a state we do not know: not to be launched yet.
            _ => ImageState::Pending,
        },
        traits: ImageTraits {
            architecture: image.architecture().map(|a| a.as_str().to_owned()).unwrap_or_default(),
            root_device: root_device.unwrap_or_default(),
            boot_mode: image.boot_mode().map(|mode| mode.as_str().to_owned()),
            ena_support: image.ena_support().unwrap_or(false),
            tpm_support: image.tpm_support().map(|support| support.as_str().to_owned()),
            imds_support: image.imds_support().map(|support| support.as_str().to_owned()),
            platform: image.platform().map(|platform| platform.as_str().to_owned()),
        },
        root_snapshot: optional(root.and_then(sdk::EbsBlockDevice::snapshot_id), SnapshotId::parse)?,
        mapped: image
            .block_device_mappings()
            .iter()
            .filter(|mapping| mapping.device_name() != image.root_device_name())
            .filter_map(mapped_volume)
            .collect::<Result<_, _>>()?,
        created_at_ms: image.creation_date().and_then(moment),
        tags: tags(image.tags()),
    })
}

/// `None` for instance store.
fn mapped_volume(mapping: &sdk::BlockDeviceMapping) -> Option<Result<MappedVolume, Missing>> {
    let (device, ebs) = (text(mapping.device_name())?, mapping.ebs()?);
    let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok());
    let volume_type = ebs.volume_type().map_or("gp2", |kind| kind.as_str()).to_owned();
    let snapshot = match optional(ebs.snapshot_id(), SnapshotId::parse) {
        Ok(snapshot) => snapshot,
        Err(missing) => return Some(Err(missing)),
    };
    Some(Ok(MappedVolume {
        device,
        snapshot,
        // Always shown of an EBS volume.
        size_gib: number(ebs.volume_size()).unwrap_or(1),
        iops: number(ebs.iops()).filter(|_| matches!(volume_type.as_str(), "gp3" | "io1" | "io2")),
        throughput: number(ebs.throughput()).filter(|_| volume_type == "gp3"),
        volume_type,
    }))
}

pub(super) fn subnet(subnet: &sdk::Subnet) -> Result<SubnetView, Missing> {
    Ok(SubnetView {
        id: required(subnet.subnet_id(), "a subnet without id", SubnetId::parse)?,
        zone: text(subnet.availability_zone()).ok_or(Missing::Absent("a subnet without zone"))?,
        cidr: text(subnet.cidr_block()).unwrap_or_default(),
    })
}

pub(super) fn spot_request(request: &sdk::SpotInstanceRequest) -> Result<SpotRequestView, Missing> {
    Ok(SpotRequestView {
        id: required(request.spot_instance_request_id(), "a spot request without id", SpotRequestId::parse)?,
        status: text(request.status().and_then(sdk::SpotInstanceStatus::code)).unwrap_or_default(),
        // A type we do not know counts as persistent: cancelling a one-time request in vain harms nobody, a
        // persistent one that is not cancelled launches again.
        persistent: request.r#type() != Some(&sdk::SpotInstanceType::OneTime),
        instance: optional(request.instance_id(), InstanceId::parse)?,
    })
}

pub(super) fn root_task(task: &sdk::ReplaceRootVolumeTask) -> Result<RootTaskView, Missing> {
    Ok(RootTaskView {
        id: required(task.replace_root_volume_task_id(), "a root task without id", RootTaskId::parse)?,
        instance: required(task.instance_id(), "a root task without instance", InstanceId::parse)?,
        state: match task.task_state() {
            Some(sdk::ReplaceRootVolumeTaskState::Succeeded) => RootTaskState::Succeeded,
            Some(sdk::ReplaceRootVolumeTaskState::Failed) => RootTaskState::Failed,
            Some(sdk::ReplaceRootVolumeTaskState::FailedDetached) => RootTaskState::FailedDetached,
            // Pending, in progress, failing, absent, or a state we do not know (`failing-detached`).
            _ => RootTaskState::InProgress,
        },
    })
}

/// The tags of any object, sorted.
pub(super) fn tags(tags: &[sdk::Tag]) -> Tags {
    tags.iter()
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())))
        .collect()
}

/// A required id, through the id type's own parser.
pub(super) fn required<Id>(
    text: Option<&str>,
    what: &'static str,
    parse: fn(&str) -> Result<Id, BadId>,
) -> Result<Id, Missing> {
    match text {
        Some(text) if !text.is_empty() => Ok(parse(text)?),
        _ => Err(Missing::Absent(what)),
    }
}

fn optional<Id>(text: Option<&str>, parse: fn(&str) -> Result<Id, BadId>) -> Result<Option<Id>, Missing> {
    match text {
        Some(text) if !text.is_empty() => Ok(Some(parse(text)?)),
        _ => Ok(None),
    }
}

fn instance_state(name: Option<&sdk::InstanceStateName>) -> InstanceState {
    match name {
        Some(sdk::InstanceStateName::Running) => InstanceState::Running,
        Some(sdk::InstanceStateName::ShuttingDown) => InstanceState::ShuttingDown,
        Some(sdk::InstanceStateName::Terminated) => InstanceState::Terminated,
        Some(sdk::InstanceStateName::Stopping) => InstanceState::Stopping,
        Some(sdk::InstanceStateName::Stopped) => InstanceState::Stopped,
        // Pending, absent, or a state we do not know: neither usable nor a fence.
        _ => InstanceState::Pending,
    }
}

/// `None` for a mapping without a volume (instance store).
fn block_device(mapping: &sdk::InstanceBlockDeviceMapping) -> Option<Result<BlockDevice, Missing>> {
    let ebs = mapping.ebs()?;
    let volume = ebs.volume_id().filter(|id| !id.is_empty())?;
    Some(VolumeId::parse(volume).map_err(Missing::from).map(|volume| BlockDevice {
        device: text(mapping.device_name()).unwrap_or_default(),
        volume,
        delete_on_termination: ebs.delete_on_termination().unwrap_or(true),
    }))
}

/// `None` for an interface that the instance lists without its id (seen while it goes away).
fn instance_interface(
    interface: &sdk::InstanceNetworkInterface,
) -> Option<Result<InstanceInterface, Missing>> {
    let id = interface.network_interface_id().filter(|id| !id.is_empty())?;
    let attachment = interface.attachment();
    let view = || {
        Ok(InstanceInterface {
            id: InterfaceId::parse(id)?,
            device_index: index(attachment.and_then(sdk::InstanceNetworkInterfaceAttachment::device_index)),
            attachment: optional(
                attachment.and_then(sdk::InstanceNetworkInterfaceAttachment::attachment_id),
                AttachmentId::parse,
            )?,
            delete_on_termination: attachment
                .and_then(sdk::InstanceNetworkInterfaceAttachment::delete_on_termination)
                .unwrap_or(true),
        })
    };
    Some(view())
}

/// `None` for a finished detachment, and for an attachment to one of AWS's services instead of an instance:
/// the volume's state still says that it is in use.
fn volume_attachment(attachment: &sdk::VolumeAttachment) -> Option<Result<VolumeAttachment, Missing>> {
    let instance = attachment.instance_id().filter(|id| !id.is_empty())?;
    let state = match attachment.state() {
        Some(sdk::VolumeAttachmentState::Detached) => return None,
        Some(sdk::VolumeAttachmentState::Attaching) => AttachmentState::Attaching,
        Some(sdk::VolumeAttachmentState::Attached) => AttachmentState::Attached,
        Some(sdk::VolumeAttachmentState::Detaching) => AttachmentState::Detaching,
        // Busy, absent, or a state we do not know: the volume is held.
        _ => AttachmentState::Busy,
    };
    Some(InstanceId::parse(instance).map_err(Missing::from).map(|instance| VolumeAttachment {
        instance,
        device: text(attachment.device()).unwrap_or_default(),
        state,
        // EC2 always says; where an emulator does not, the instance's own mapping is asked, which it changes.
        delete_on_termination: attachment.delete_on_termination().unwrap_or(false),
    }))
}

/// `None` for an attachment without id: one that is over (emulators leave an empty element behind).
fn interface_attachment(
    attachment: &sdk::NetworkInterfaceAttachment,
) -> Result<Option<InterfaceAttachment>, Missing> {
    let Some(id) = optional(attachment.attachment_id(), AttachmentId::parse)? else { return Ok(None) };
    Ok(Some(InterfaceAttachment {
        id,
        instance: optional(attachment.instance_id(), InstanceId::parse)?,
        device_index: index(attachment.device_index()),
        delete_on_termination: attachment.delete_on_termination().unwrap_or(true),
    }))
}

fn text(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn address(text: Option<&str>) -> Option<Ipv4Addr> {
    text.and_then(|text| text.parse().ok())
}

fn index(index: Option<i32>) -> u32 {
    index.and_then(|index| u32::try_from(index).ok()).unwrap_or_default()
}

/// A moment as images have it, such as `2026-09-14T08:00:00.000Z`.
fn moment(text: &str) -> Option<u64> {
    DateTime::from_str(text, Format::DateTime).ok().map(|time| millis(&time))
}

fn millis(time: &DateTime) -> u64 {
    time.to_millis().ok().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_keeps_its_devices_interfaces_market_and_tags() {
        let view = instance(
            &sdk::Instance::builder()
                .instance_id("i-0a")
                .state(sdk::InstanceState::builder().name(sdk::InstanceStateName::Running).build())
                .state_reason(sdk::StateReason::builder().code("Server.SpotInstanceTermination").build())
                .instance_type(sdk::InstanceType::M5Large)
                .placement(sdk::Placement::builder().availability_zone("us-east-1a").build())
                .subnet_id("subnet-0a")
                .instance_lifecycle(sdk::InstanceLifecycleType::Spot)
                .spot_instance_request_id("sir-0a")
                .image_id("ami-0a")
                .private_ip_address("10.0.0.7")
                .root_device_name("/dev/xvda")
                .launch_time(DateTime::from_millis(1_700_000_000_123))
                .block_device_mappings(
                    sdk::InstanceBlockDeviceMapping::builder()
                        .device_name("/dev/xvda")
                        .ebs(
                            sdk::EbsInstanceBlockDevice::builder()
                                .volume_id("vol-0a")
                                .delete_on_termination(false)
                                .build(),
                        )
                        .build(),
                )
                .block_device_mappings(
                    sdk::InstanceBlockDeviceMapping::builder().device_name("/dev/sdb").build(),
                )
                .network_interfaces(
                    sdk::InstanceNetworkInterface::builder()
                        .network_interface_id("eni-0a")
                        .attachment(
                            sdk::InstanceNetworkInterfaceAttachment::builder()
                                .attachment_id("eni-attach-0a")
                                .device_index(1)
                                .delete_on_termination(false)
                                .build(),
                        )
                        .build(),
                )
                .tags(sdk::Tag::builder().key("b").value("2").build())
                .tags(sdk::Tag::builder().key("a").build())
                .build(),
        )
        .unwrap();
        assert_eq!(
            view,
            InstanceView {
                id: InstanceId::parse("i-0a").unwrap(),
                state: InstanceState::Running,
                state_reason: Some("Server.SpotInstanceTermination".into()),
                instance_type: "m5.large".into(),
                zone: "us-east-1a".into(),
                subnet: Some(SubnetId::parse("subnet-0a").unwrap()),
                market: Market::Spot,
                image: Some(ImageId::parse("ami-0a").unwrap()),
                private_ip: Some(Ipv4Addr::new(10, 0, 0, 7)),
                root_device: Some("/dev/xvda".into()),
                block_devices: vec![BlockDevice {
                    device: "/dev/xvda".into(),
                    volume: VolumeId::parse("vol-0a").unwrap(),
                    delete_on_termination: false,
                }],
                interfaces: vec![InstanceInterface {
                    id: InterfaceId::parse("eni-0a").unwrap(),
                    device_index: 1,
                    attachment: Some(AttachmentId::parse("eni-attach-0a").unwrap()),
                    delete_on_termination: false,
                }],
                spot_request: Some(SpotRequestId::parse("sir-0a").unwrap()),
                launched_at_ms: 1_700_000_000_123,
                client_token: None,
                tags: Tags::from([("a".into(), String::new()), ("b".into(), "2".into())]),
            }
        );
    }

    #[test]
    fn a_state_that_we_do_not_know_is_one_in_which_nobody_acts() {
        let view = instance(
            &sdk::Instance::builder()
                .instance_id("i-0a")
                .state(sdk::InstanceState::builder().name("dreaming".into()).build())
                .build(),
        );
        assert_eq!(view.unwrap().state, InstanceState::Pending);

        let view = volume(
            &sdk::Volume::builder()
                .volume_id("vol-0a")
                .availability_zone("z")
                .state("dreaming".into())
                .attachments(sdk::VolumeAttachment::builder().instance_id("i-0a").state("odd".into()).build())
                .build(),
        )
        .unwrap();
        assert_eq!(view.state, VolumeState::Creating);
        assert_eq!(view.attachments[0].state, AttachmentState::Busy);

        for (state, expected) in [
            ("pending", RootTaskState::InProgress),
            ("in-progress", RootTaskState::InProgress),
            ("failing", RootTaskState::InProgress),
            ("failing-detached", RootTaskState::InProgress),
            ("succeeded", RootTaskState::Succeeded),
            ("failed", RootTaskState::Failed),
            ("failed-detached", RootTaskState::FailedDetached),
        ] {
            let task = sdk::ReplaceRootVolumeTask::builder()
                .replace_root_volume_task_id("replacevol-0a")
                .instance_id("i-0a")
                .task_state(state.into())
                .build();
            assert_eq!(root_task(&task).unwrap().state, expected, "{state}");
        }
    }

    #[test]
    fn a_finished_detachment_is_not_listed_and_a_flag_left_out_is_the_instances_to_say() {
        let attachment = |id: &str, state| {
            sdk::VolumeAttachment::builder().instance_id(id).device("/dev/sdf").state(state).build()
        };
        let view = volume(
            &sdk::Volume::builder()
                .volume_id("vol-0a")
                .availability_zone("z")
                .size(8)
                .snapshot_id("")
                .state(sdk::VolumeState::InUse)
                .attachments(attachment("i-0a", sdk::VolumeAttachmentState::Detached))
                .attachments(attachment("i-0b", sdk::VolumeAttachmentState::Attached))
                .attachments(sdk::VolumeAttachment::builder().associated_resource("arn:aws:ecs:…").build())
                .build(),
        )
        .unwrap();
        assert_eq!(view.snapshot, None);
        assert_eq!(
            view.attachments,
            [VolumeAttachment {
                instance: InstanceId::parse("i-0b").unwrap(),
                device: "/dev/sdf".into(),
                state: AttachmentState::Attached,
                delete_on_termination: false,
            }]
        );
    }

    #[test]
    fn an_interface_shows_its_other_addresses_in_order_and_only_a_living_attachment() {
        let address =
            |ip: &str| sdk::NetworkInterfacePrivateIpAddress::builder().private_ip_address(ip).build();
        let builder = || {
            sdk::NetworkInterface::builder()
                .network_interface_id("eni-0a")
                .subnet_id("subnet-0a")
                .availability_zone("z")
                .private_ip_address("10.0.0.5")
                .private_ip_addresses(address("10.0.0.9"))
                .private_ip_addresses(address("10.0.0.5"))
                .private_ip_addresses(address("10.0.0.6"))
        };
        let attachment = |status| {
            sdk::NetworkInterfaceAttachment::builder()
                .attachment_id("eni-attach-0a")
                .instance_id("i-0a")
                .device_index(0)
                .delete_on_termination(false)
                .status(status)
                .build()
        };
        let free = interface(
            &builder()
                .status(sdk::NetworkInterfaceStatus::Available)
                .attachment(attachment(sdk::AttachmentStatus::Detached))
                .build(),
        )
        .unwrap();
        assert!(free.available);
        assert_eq!(free.attachment, None);
        assert_eq!(free.secondary_ips, [Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 6)]);

        let held = interface(
            &builder()
                .status(sdk::NetworkInterfaceStatus::InUse)
                .attachment(attachment(sdk::AttachmentStatus::Detaching))
                .build(),
        )
        .unwrap();
        assert!(!held.available);
        assert_eq!(held.attachment.unwrap().instance, Some(InstanceId::parse("i-0a").unwrap()));
    }

    #[test]
    fn an_image_shows_the_snapshot_of_its_root_and_what_a_machine_must_be_like() {
        let mapping = |device: &str, snapshot: &str| {
            sdk::BlockDeviceMapping::builder()
                .device_name(device)
                .ebs(sdk::EbsBlockDevice::builder().snapshot_id(snapshot).build())
                .build()
        };
        let view = image(
            &sdk::Image::builder()
                .image_id("ami-0a")
                .name("base")
                .state(sdk::ImageState::Disabled)
                .architecture(sdk::ArchitectureValues::X8664)
                .root_device_type(sdk::DeviceType::Ebs)
                .root_device_name("/dev/xvda")
                .boot_mode(sdk::BootModeValues::UefiPreferred)
                .ena_support(true)
                .imds_support(sdk::ImdsSupportValues::V20)
                .block_device_mappings(mapping("/dev/sdf", "snap-0b"))
                .block_device_mappings(mapping("/dev/xvda", "snap-0a"))
                .build(),
        )
        .unwrap();
        assert_eq!(view.root_snapshot, Some(SnapshotId::parse("snap-0a").unwrap()));
        assert_eq!(view.state, ImageState::Failed);
        assert_eq!(
            view.traits,
            ImageTraits {
                architecture: "x86_64".into(),
                root_device: "/dev/xvda".into(),
                boot_mode: Some("uefi-preferred".into()),
                ena_support: true,
                tpm_support: None,
                imds_support: Some("v2.0".into()),
                platform: None,
            }
        );
    }

    #[test]
    fn a_snapshot_in_the_recycle_bin_cannot_be_used() {
        let view = |state| {
            snapshot(&sdk::Snapshot::builder().snapshot_id("snap-0a").progress("57%").state(state).build())
                .unwrap()
        };
        assert_eq!(view(sdk::SnapshotState::Pending).progress, 57);
        assert_eq!(view(sdk::SnapshotState::Recoverable).state, SnapshotState::Error);
        assert_eq!(view(sdk::SnapshotState::Recovering).state, SnapshotState::Pending);
        assert_eq!(view(sdk::SnapshotState::Completed).state, SnapshotState::Completed);
    }

    #[test]
    fn a_spot_request_is_persistent_unless_it_says_that_it_is_not() {
        let request = |kind: Option<sdk::SpotInstanceType>| {
            spot_request(
                &sdk::SpotInstanceRequest::builder()
                    .spot_instance_request_id("sir-0a")
                    .set_type(kind)
                    .status(sdk::SpotInstanceStatus::builder().code("fulfilled").build())
                    .build(),
            )
            .unwrap()
        };
        assert!(!request(Some(sdk::SpotInstanceType::OneTime)).persistent);
        assert!(request(Some(sdk::SpotInstanceType::Persistent)).persistent);
        assert!(request(None).persistent);
        assert_eq!(request(None).status, "fulfilled");
    }

    #[test]
    fn an_answer_without_an_id_says_what_is_missing() {
        assert_eq!(
            volume(&sdk::Volume::builder().build()).unwrap_err().to_string(),
            "the answer has a volume without id"
        );
        assert!(matches!(volume(&sdk::Volume::builder().volume_id("i-0a").build()), Err(Missing::BadId(_))));
    }
}
