//! The fields of an instance that filters of DescribeInstances and DescribeInstanceStatus compare.

use perennial_workflows::model::aws::{InstanceState, Market};

use super::show;
use crate::world::state::{Attachment, Instance, Interface, Volume};
use crate::world::{ACCOUNT, Shape, World};

/// The values of a field; none where there is no such field.
pub(super) fn field(world: &World, instance: &Instance, name: &str) -> Option<Vec<String>> {
    machine(world, instance, name)
        .or_else(|| launch(instance, name))
        .or_else(|| network(world, instance, name))
        .or_else(|| devices(world, instance, name))
}

fn one(value: impl Into<String>) -> Option<Vec<String>> {
    Some(vec![value.into()])
}

fn maybe(value: Option<String>) -> Option<Vec<String>> {
    Some(value.into_iter().collect())
}

/// Whether an instance is shown with its volumes, interfaces and subnet.
fn is_there(instance: &Instance) -> bool {
    instance.state != InstanceState::Terminated
}

/// The machine: its state, type, zone and platform.
fn machine(world: &World, instance: &Instance, name: &str) -> Option<Vec<String>> {
    match name {
        "instance-id" => one(instance.id.to_string()),
        "instance-state-name" => one(instance.state.to_string()),
        "instance-state-code" => one(match instance.state {
            InstanceState::Pending => "0",
            InstanceState::Running => "16",
            InstanceState::ShuttingDown => "32",
            InstanceState::Terminated => "48",
            InstanceState::Stopping => "64",
            InstanceState::Stopped => "80",
        }
        .to_owned()),
        "instance-lifecycle" => maybe((instance.market == Market::Spot).then(|| "spot".to_owned())),
        "instance-type" => one(instance.instance_type.clone()),
        "instance-status.reachability" | "system-status.reachability" => {
            one(show::check_status(world.check_of(&instance.id)).1.to_owned())
        }
        "instance-status.status" | "system-status.status" | "attached-ebs-status.status" => {
            one(show::check_status(world.check_of(&instance.id)).0.to_owned())
        }
        "availability-zone" => one(instance.zone.clone()),
        "availability-zone-id" => one(show::zone_id(&instance.zone)),
        "architecture" => {
            one(Shape::of(&instance.instance_type).map_or("x86_64", |shape| shape.architecture).to_owned())
        }
        "hypervisor" => one("xen".to_owned()),
        "virtualization-type" => one("hvm".to_owned()),
        "root-device-type" => one("ebs".to_owned()),
        "tenancy" => one("default".to_owned()),
        "monitoring-state" => one(show::monitoring(instance).to_owned()),
        "ebs-optimized" => one(instance.ebs_optimized.to_string()),
        "hibernation-options.configured" | "enclave-options.enabled" => one("false".to_owned()),
        "capacity-reservation-specification.capacity-reservation-preference" => one("open".to_owned()),
        "ena-support" => {
            maybe(world.image(&instance.image).map(|image| image.traits.ena_support.to_string()))
        }
        "platform-details" => one("Linux/UNIX".to_owned()),
        "usage-operation" => one("RunInstances".to_owned()),
        // Nothing here has one.
        "affinity"
        | "host-id"
        | "kernel-id"
        | "ramdisk-id"
        | "outpost-arn"
        | "platform"
        | "placement-group-name"
        | "product-code"
        | "product-code.type"
        | "capacity-reservation-id" => Some(Vec::new()),
        _ => None,
    }
}

/// The launch: its parameters, and why the state changed.
fn launch(instance: &Instance, name: &str) -> Option<Vec<String>> {
    match name {
        "launch-index" => one(instance.launch_index.to_string()),
        "reason" => one(instance.transition_reason.clone()),
        "metadata-options.http-tokens" => one(show::metadata(instance, "HttpTokens", "optional")),
        "metadata-options.http-endpoint" => one(show::metadata(instance, "HttpEndpoint", "enabled")),
        "metadata-options.http-put-response-hop-limit" => {
            one(show::metadata(instance, "HttpPutResponseHopLimit", "2"))
        }
        "metadata-options.instance-metadata-tags" => {
            one(show::metadata(instance, "InstanceMetadataTags", "disabled"))
        }
        "image-id" => one(instance.image.to_string()),
        "key-name" => maybe(instance.key_name.clone()),
        "owner-id" => one(ACCOUNT.to_owned()),
        "reservation-id" => one(instance.reservation.clone()),
        "root-device-name" => one(instance.root_device.clone()),
        "client-token" => one(instance.client_token.clone()),
        "launch-time" => one(show::time(instance.launched_at_ms)),
        "state-reason-code" => maybe(instance.state_reason.clone()),
        "state-reason-message" => maybe(instance.state_reason.as_deref().map(show::reason_message)),
        "spot-instance-request-id" => maybe(instance.spot_request.as_ref().map(ToString::to_string)),
        "iam-instance-profile.arn" => maybe(
            instance
                .instance_profile
                .as_ref()
                .map(|name| format!("arn:aws:iam::{ACCOUNT}:instance-profile/{name}")),
        ),
        _ => None,
    }
}

/// Interfaces, addresses and security groups.
fn network(world: &World, instance: &Instance, name: &str) -> Option<Vec<String>> {
    let interfaces = || interfaces(world, instance);
    let primary = || interfaces().find(|i| i.attachment.as_ref().is_some_and(|plug| plug.device_index == 0));
    match name {
        "source-dest-check" => maybe(is_there(instance).then(|| "true".to_owned())),
        "private-dns-name" => maybe(primary().map(|i| show::private_name(i.primary_ip))),
        "dns-name" => maybe(show::public_ip(world, instance).map(show::public_name)),
        "instance.group-name" | "group-name" | "network-interface.group-name" => Some(
            world
                .all_groups()
                .filter(|group| interfaces().any(|i| i.groups.contains(&group.id)))
                .map(|group| group.name.clone())
                .collect(),
        ),
        "subnet-id" => maybe(is_there(instance).then(|| instance.subnet.to_string())),
        "vpc-id" => maybe(is_there(instance).then(|| show::VPC.to_owned())),
        "private-ip-address" => maybe(primary().map(|i| i.primary_ip.to_string())),
        "ip-address" => maybe(show::public_ip(world, instance).map(|address| address.to_string())),
        "instance.group-id" | "group-id" | "network-interface.group-id" => {
            Some(interfaces().flat_map(|i| i.groups.iter().map(ToString::to_string)).collect())
        }
        "network-interface.network-interface-id" => Some(interfaces().map(|i| i.id.to_string()).collect()),
        "network-interface.attachment.instance-owner-id" | "network-interface.owner-id" => {
            Some(interfaces().map(|_| ACCOUNT.to_owned()).collect())
        }
        "network-interface.attachment.attachment-id" => {
            Some(interfaces().filter_map(|i| i.attachment.as_ref()).map(|plug| plug.id.to_string()).collect())
        }
        "network-interface.attachment.device-index" => Some(
            interfaces()
                .filter_map(|i| i.attachment.as_ref())
                .map(|plug| plug.device_index.to_string())
                .collect(),
        ),
        "network-interface.availability-zone" => Some(interfaces().map(|i| i.zone.clone()).collect()),
        "network-interface.description" => Some(interfaces().map(|i| i.description.clone()).collect()),
        "network-interface.status" => Some(interfaces().map(|_| "in-use".to_owned()).collect()),
        "network-interface.association.public-ip" | "network-interface.addresses.association.public-ip" => {
            let public = interfaces().filter_map(|i| world.elastic_of(i.primary_ip));
            Some(public.map(|elastic| elastic.address.to_string()).collect())
        }
        "network-interface.mac-address" => Some(interfaces().map(|i| show::mac(i.primary_ip)).collect()),
        "network-interface.vpc-id" => Some(interfaces().map(|_| show::VPC.to_owned()).collect()),
        "network-interface.subnet-id" => Some(interfaces().map(|i| i.subnet.to_string()).collect()),
        "network-interface.private-ip-address" | "network-interface.addresses.private-ip-address" => Some(
            interfaces()
                .flat_map(|i| std::iter::once(i.primary_ip).chain(i.secondary_ips.iter().copied()))
                .map(|address| address.to_string())
                .collect(),
        ),
        _ => None,
    }
}

fn interfaces<'a>(world: &'a World, instance: &'a Instance) -> impl Iterator<Item = &'a Interface> {
    instance.interfaces.iter().filter(|_| is_there(instance)).filter_map(|id| world.interface(id))
}

/// Block devices.
fn devices(world: &World, instance: &Instance, name: &str) -> Option<Vec<String>> {
    let volumes = || volumes(world, instance);
    match name {
        "block-device-mapping.volume-id" => {
            Some(volumes().map(|(volume, _)| volume.id.to_string()).collect())
        }
        "block-device-mapping.device-name" => Some(volumes().map(|(_, at)| at.device.clone()).collect()),
        "block-device-mapping.delete-on-termination" => {
            Some(volumes().map(|(_, at)| at.delete_on_termination.to_string()).collect())
        }
        "block-device-mapping.status" => {
            Some(volumes().map(|(_, at)| show::attachment_state(at.state).to_owned()).collect())
        }
        _ => None,
    }
}

fn volumes<'a>(
    world: &'a World,
    instance: &'a Instance,
) -> impl Iterator<Item = (&'a Volume, &'a Attachment)> {
    let found = instance.volumes.iter().filter(|_| is_there(instance)).filter_map(|id| world.volume(id));
    found.filter_map(|volume| Some((volume, volume.attachment.as_ref()?)))
}
