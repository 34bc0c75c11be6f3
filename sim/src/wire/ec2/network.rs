//! Interfaces, private and Elastic addresses, security groups, subnets.

use std::net::Ipv4Addr;

use perennial_workers::port::InterfaceRequest;
use perennial_workflows::model::aws::{AttachmentId, GroupId, InstanceId, InterfaceId, SubnetId};

use super::super::xml::Element;
use super::call::Call;
use super::instances::group_ids;
use super::select::{Bounds, Filters, page};
use super::{select, show};
use crate::world::state::Interface;
use crate::world::{ACCOUNT, ApiError, Destination, Reassignment, World};

fn interface_id(call: &Call<'_>) -> Result<InterfaceId, ApiError> {
    select::id(call.params.required("NetworkInterfaceId")?, "InvalidNetworkInterfaceID", InterfaceId::parse)
}

fn address(text: &str) -> Result<Ipv4Addr, ApiError> {
    text.parse().map_err(|_| {
        ApiError::new("InvalidParameterValue", format!("invalid value for parameter address: {text}"))
    })
}

pub(super) fn create_interface(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let params = &call.params;
    let token = params.owned("ClientToken").unwrap_or_default();
    // Either the one address or all of them, of which one may be the primary.
    let (mut primary, mut secondary) =
        (params.text("PrivateIpAddress").map(address).transpose()?, Vec::new());
    for one in params.each("PrivateIpAddresses") {
        let named = address(one.required("PrivateIpAddress")?)?;
        match one.flag("Primary")? {
            Some(true) => primary = Some(named),
            Some(false) | None => secondary.push(Some(named)),
        }
    }
    let count: usize = params.number("SecondaryPrivateIpAddressCount")?.unwrap_or(0);
    if count > 0 && !secondary.is_empty() {
        let message = "SecondaryPrivateIpAddressCount and PrivateIpAddresses exclude each other";
        return Err(ApiError::new("InvalidParameterCombination", message));
    }
    secondary.extend(std::iter::repeat_n(None, count.min(256)));
    let request = InterfaceRequest {
        client_token: token.clone(),
        subnet: select::id(params.required("SubnetId")?, "InvalidSubnetID", SubnetId::parse)?,
        groups: group_ids(&params.texts("SecurityGroupId"))?,
        private_ip: primary,
        tags: call.tags_for("network-interface")?,
    };
    let make = |world: &mut World, now_ms: u64| {
        let id = world.create_interface(now_ms, &request)?;
        // A call that is repeated with its token finds them there.
        let has_them =
            world.interface(&id).is_some_and(|i| !i.secondary_ips.is_empty() || !i.arriving.is_empty());
        for address in secondary.iter().filter(|_| !has_them) {
            world.assign_private_ip(now_ms, &id, *address, Reassignment::Refused)?;
        }
        Ok::<_, ApiError>(id)
    };
    // All or nothing.
    if !secondary.is_empty() {
        make(&mut call.world.rehearsal(), call.now_ms)?;
    }
    let id = make(call.world, call.now_ms)?;
    call.world.advance(call.now_ms);
    call.world.name_interface(&id, params.text("Description").unwrap_or_default());
    let made = call.world.interface(&id).expect("BUG: just created");
    Ok(Element::new()
        .inside("networkInterface", show::interface(call.world, made))
        .with("clientToken", token))
}

pub(super) fn delete_interface(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = interface_id(call)?;
    call.world.delete_interface(call.now_ms, &id)?;
    Ok(Element::done())
}

pub(super) fn attach_interface(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = interface_id(call)?;
    let instance = select::id(call.params.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)?;
    let index = call.params.number("DeviceIndex")?;
    let index = index.ok_or_else(|| ApiError::new("MissingParameter", "DeviceIndex is missing"))?;
    let attachment = call.world.attach_interface(call.now_ms, &id, &instance, index)?;
    Ok(Element::new().with("attachmentId", attachment).with("networkCardIndex", 0))
}

/// `Force` is accepted; an interface always comes off at once here.
pub(super) fn detach_interface(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let text = call.params.required("AttachmentId")?;
    let attachment = select::id(text, "InvalidAttachmentID", AttachmentId::parse)?;
    call.params.text("Force");
    call.world.detach_interface(call.now_ms, &attachment)?;
    Ok(Element::done())
}

pub(super) fn modify_interface(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = interface_id(call)?;
    let attachment = call.params.scope("Attachment");
    let groups = call.params.texts("SecurityGroupId");
    if let Some(text) = attachment.text("AttachmentId") {
        let attachment_id = select::id(text, "InvalidAttachmentID", AttachmentId::parse)?;
        let value = attachment.flag("DeleteOnTermination")?.unwrap_or(true);
        call.world.modify_interface_delete_on_termination(call.now_ms, &id, &attachment_id, value)?;
    } else if !groups.is_empty() {
        call.world.modify_interface_groups(call.now_ms, &id, &group_ids(&groups)?)?;
    } else if let Some(description) = call.params.text("Description.Value") {
        call.world.modify_interface_description(call.now_ms, &id, description)?;
    } else if call.params.flag("SourceDestCheck.Value")?.is_none() {
        return Err(ApiError::new("MissingParameter", "nothing is to be modified"));
    }
    Ok(Element::done())
}

pub(super) fn describe_interfaces(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("NetworkInterfaceId");
    select::not_with_ids(call, &texts, "networkInterfaceIdSet")?;
    let ids = select::ids(&texts, "InvalidNetworkInterfaceID", InterfaceId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeNetworkInterfaces")?;
    let now_ms = call.world.now_ms();
    let filters = Filters::read(&call.params)?;
    for id in &ids {
        if call.world.interface(id).is_none_or(|interface| interface.visible_at_ms > now_ms) {
            let message = format!("The networkInterface ID '{id}' does not exist");
            return Err(ApiError::new("InvalidNetworkInterfaceID.NotFound", message));
        }
    }
    let mut found = Vec::new();
    for interface in call.world.all_interfaces() {
        if interface.visible_at_ms <= now_ms
            && (ids.is_empty() || ids.contains(&interface.id))
            && filters.admit(&interface.tags, |name| field(call.world, interface, name))
        {
            found.push((interface.id.to_string(), show::interface(call.world, interface)));
        }
    }
    Ok(select::answer("networkInterfaceSet", page(call, &Bounds::USUAL, found)?))
}

pub(super) fn describe_interface_attribute(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = interface_id(call)?;
    call.world.begin_read(call.now_ms, "DescribeNetworkInterfaceAttribute")?;
    let now_ms = call.world.now_ms();
    let interface = call.world.interface(&id).filter(|interface| interface.visible_at_ms <= now_ms);
    let interface = interface.ok_or_else(|| {
        let message = format!("The networkInterface ID '{id}' does not exist");
        ApiError::new("InvalidNetworkInterfaceID.NotFound", message)
    })?;
    let answer = Element::new().with("networkInterfaceId", &id);
    Ok(match call.params.required("Attribute")? {
        "description" => answer.inside("description", Element::new().with("value", &interface.description)),
        "sourceDestCheck" => answer.inside("sourceDestCheck", Element::new().with("value", true)),
        // As the description of the interface has them.
        name @ ("groupSet" | "attachment") => {
            let part = show::interface(call.world, interface).part(name);
            part.into_iter().fold(answer, |answer, part| answer.inside(name.to_owned(), part))
        }
        other => {
            let message = format!("Invalid value '{other}' for attribute.");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
    })
}

fn field(world: &World, interface: &Interface, name: &str) -> Option<Vec<String>> {
    let one = |value: String| Some(vec![value]);
    let maybe = |value: Option<String>| Some(value.into_iter().collect());
    let plug = interface.attachment.as_ref();
    let all = || std::iter::once(interface.primary_ip).chain(interface.secondary_ips.iter().copied());
    match name {
        "network-interface-id" => one(interface.id.to_string()),
        "status" => one(if plug.is_some() { "in-use" } else { "available" }.to_owned()),
        "subnet-id" => one(interface.subnet.to_string()),
        "vpc-id" => one(show::VPC.to_owned()),
        "availability-zone" => one(interface.zone.clone()),
        "description" => one(interface.description.clone()),
        "owner-id" => one(ACCOUNT.to_owned()),
        "group-id" => Some(interface.groups.iter().map(ToString::to_string).collect()),
        "private-ip-address" => one(interface.primary_ip.to_string()),
        "addresses.private-ip-address" => Some(all().map(|address| address.to_string()).collect()),
        "addresses.primary" => Some(vec!["true".to_owned()]),
        "association.public-ip" | "addresses.association.public-ip" => Some(
            all().filter_map(|address| world.elastic_of(address)).map(|e| e.address.to_string()).collect(),
        ),
        "association.allocation-id" => {
            Some(all().filter_map(|address| world.elastic_of(address)).map(|e| e.id.clone()).collect())
        }
        "attachment.instance-owner-id" => maybe(plug.map(|_| ACCOUNT.to_owned())),
        "attachment.attach-time" => {
            maybe(plug.and_then(|plug| world.instance(&plug.instance)).map(|i| show::time(i.launched_at_ms)))
        }
        "availability-zone-id" => one(show::zone_id(&interface.zone)),
        "mac-address" => one(show::mac(interface.primary_ip)),
        "private-dns-name" | "private-ip-dns-name" => one(show::private_name(interface.primary_ip)),
        "attachment.attachment-id" => maybe(plug.map(|plug| plug.id.to_string())),
        "attachment.instance-id" => maybe(plug.map(|plug| plug.instance.to_string())),
        "attachment.device-index" => maybe(plug.map(|plug| plug.device_index.to_string())),
        "attachment.delete-on-termination" => maybe(plug.map(|plug| plug.delete_on_termination.to_string())),
        "attachment.status" => maybe(plug.map(|_| "attached".to_owned())),
        "interface-type" => one("interface".to_owned()),
        "requester-managed" => one("false".to_owned()),
        "source-dest-check" => one("true".to_owned()),
        _ => None,
    }
}

pub(super) fn assign_private_ips(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = interface_id(call)?;
    let how = match call.params.is_set("AllowReassignment")? {
        true => Reassignment::Allowed,
        false => Reassignment::Refused,
    };
    let asked = call.params.texts("PrivateIpAddress");
    let asked: Vec<_> = asked.into_iter().map(address).collect::<Result<_, _>>()?;
    let count: usize = call.params.number("SecondaryPrivateIpAddressCount")?.unwrap_or(0);
    if asked.is_empty() && count == 0 {
        return Err(ApiError::new("MissingParameter", "PrivateIpAddress or its count is missing"));
    }
    let wanted = asked.into_iter().map(Some).chain(std::iter::repeat_n(None, count.min(256)));
    // All or none: tried on a copy first, where several are asked for.
    let wanted: Vec<_> = wanted.collect();
    if wanted.len() > 1 {
        let mut rehearsal = call.world.rehearsal();
        for address in &wanted {
            rehearsal.assign_private_ip(call.now_ms, &id, *address, how)?;
        }
    }
    for address in wanted {
        call.world.assign_private_ip(call.now_ms, &id, address, how)?;
    }
    call.world.advance(call.now_ms);
    let interface = call.world.interface(&id);
    let assigned = interface.into_iter().flat_map(|i| i.secondary_ips.iter().chain(i.arriving.keys()));
    Ok(Element::done()
        .with("networkInterfaceId", &id)
        .list("assignedPrivateIpAddressesSet", assigned.map(|a| Element::new().with("privateIpAddress", a))))
}

pub(super) fn unassign_private_ips(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = interface_id(call)?;
    for text in call.params.texts("PrivateIpAddress") {
        call.world.unassign_private_ip(call.now_ms, &id, address(text)?)?;
    }
    Ok(Element::done())
}

pub(super) fn allocate_address(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.params.text("Domain");
    let tags = call.tags_for("elastic-ip")?;
    let id = call.world.allocate_address(call.now_ms, &tags)?;
    let elastic = call.world.known_elastic(&id)?;
    Ok(Element::new()
        .with("publicIp", elastic.address)
        .with("domain", "vpc")
        .with("allocationId", &id)
        .with("publicIpv4Pool", "amazon")
        .with("networkBorderGroup", &call.world.settings.region))
}

/// By allocation id, or by the address itself.
fn allocation(call: &Call<'_>) -> Result<String, ApiError> {
    match (call.params.owned("AllocationId"), call.params.text("PublicIp")) {
        (Some(id), _) => Ok(id),
        (None, Some(public)) => {
            let found = call.world.all_elastic().find(|elastic| elastic.address.to_string() == public);
            found.map(|elastic| elastic.id.clone()).ok_or_else(|| {
                ApiError::new("InvalidAddress.NotFound", format!("Address '{public}' not found."))
            })
        }
        (None, None) => Err(ApiError::new("MissingParameter", "AllocationId is missing")),
    }
}

pub(super) fn associate_address(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = allocation(call)?;
    let destination = match (call.params.text("NetworkInterfaceId"), call.params.text("InstanceId")) {
        (Some(_), _) => Destination::Interface(interface_id(call)?),
        (None, Some(text)) => {
            let instance = select::id(text, "InvalidInstanceID", InstanceId::parse)?;
            if call.world.instance(&instance).is_some_and(|instance| instance.interfaces.len() > 1) {
                let message = format!(
                    "There are multiple interfaces attached to instance '{instance}'. Please specify an interface ID \
                     for the operation instead."
                );
                return Err(ApiError::new("InvalidInstanceID", message));
            }
            Destination::Instance(instance)
        }
        (None, None) => {
            return Err(ApiError::new("MissingParameter", "InstanceId or NetworkInterfaceId is missing"));
        }
    };
    let private_ip = call.params.text("PrivateIpAddress").map(address).transpose()?;
    // Documented: in a VPC reassociation is automatic unless it is said otherwise.
    let how = match call.params.flag("AllowReassociation")? {
        Some(false) => Reassignment::Refused,
        Some(true) | None => Reassignment::Allowed,
    };
    let association = call.world.associate_address(call.now_ms, &id, &destination, private_ip, how)?;
    Ok(Element::done().with("associationId", association))
}

pub(super) fn disassociate_address(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let association = match call.params.owned("AssociationId") {
        Some(id) => id,
        None => {
            let id = allocation(call)?;
            let association = call.world.known_elastic(&id)?.association.as_ref();
            association.map(|found| found.id.clone()).unwrap_or_default()
        }
    };
    call.world.disassociate_address(call.now_ms, &association)?;
    Ok(Element::done())
}

pub(super) fn release_address(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = allocation(call)?;
    call.world.release_address(call.now_ms, &id)?;
    Ok(Element::done())
}

pub(super) fn describe_addresses(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeAddresses")?;
    let (ids, publics) = (call.params.texts("AllocationId"), call.params.texts("PublicIp"));
    let filters = Filters::read(&call.params)?;
    for id in &ids {
        call.world.known_elastic(id)?;
    }
    if let Some(public) =
        publics.iter().find(|public| !call.world.all_elastic().any(|e| e.address.to_string() == **public))
    {
        return Err(ApiError::new("InvalidAddress.NotFound", format!("Address '{public}' not found.")));
    }
    let mut found = Vec::new();
    for elastic in call.world.all_elastic() {
        let association = elastic.association.as_ref();
        let fields = |name: &str| {
            let maybe = |value: Option<String>| Some(value.into_iter().collect());
            match name {
                "allocation-id" => Some(vec![elastic.id.clone()]),
                "public-ip" => Some(vec![elastic.address.to_string()]),
                "domain" => Some(vec!["vpc".to_owned()]),
                "network-border-group" => Some(vec![call.world.settings.region.clone()]),
                "network-interface-owner-id" => maybe(association.map(|_| ACCOUNT.to_owned())),
                "association-id" => maybe(association.map(|found| found.id.clone())),
                "network-interface-id" => maybe(association.map(|found| found.interface.to_string())),
                "private-ip-address" => maybe(association.map(|found| found.private_ip.to_string())),
                "instance-id" => {
                    let interface = association.and_then(|found| call.world.interface(&found.interface));
                    maybe(interface.and_then(|i| i.attachment.as_ref()).map(|plug| plug.instance.to_string()))
                }
                _ => None,
            }
        };
        let public = elastic.address.to_string();
        if (ids.is_empty() || ids.contains(&elastic.id.as_str()))
            && (publics.is_empty() || publics.contains(&public.as_str()))
            && filters.admit(&elastic.tags, fields)
        {
            found.push(show::elastic(call.world, elastic));
        }
    }
    Ok(Element::new().list("addressesSet", found))
}

pub(super) fn create_group(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let name = call.params.required("GroupName")?;
    let description = call.params.required("GroupDescription")?;
    let tags = call.tags_for("security-group")?;
    call.params.text("VpcId");
    let id = call.world.create_group(call.now_ms, name, description, &tags)?;
    Ok(Element::done().with("groupId", id))
}

pub(super) fn delete_group(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("GroupId")?, "InvalidGroupId", GroupId::parse)?;
    call.world.delete_group(call.now_ms, &id)?;
    Ok(Element::done())
}

pub(super) fn describe_groups(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("GroupId");
    let names = call.params.texts("GroupName");
    let ids = group_ids(&texts)?;
    call.world.begin_read(call.now_ms, "DescribeSecurityGroups")?;
    let filters = Filters::read(&call.params)?;
    if let Some(id) = ids.iter().find(|id| !call.world.all_groups().any(|group| group.id == **id)) {
        let message = format!("The security group '{id}' does not exist");
        return Err(ApiError::new("InvalidGroup.NotFound", message));
    }
    if let Some(name) = names.iter().find(|name| !call.world.all_groups().any(|group| group.name == **name)) {
        let message = format!("The security group '{name}' does not exist in default VPC");
        return Err(ApiError::new("InvalidGroup.NotFound", message));
    }
    let mut found = Vec::new();
    for group in call.world.all_groups() {
        let fields = |name: &str| match name {
            "group-id" => Some(vec![group.id.to_string()]),
            "group-name" => Some(vec![group.name.clone()]),
            "description" => Some(vec![group.description.clone()]),
            "vpc-id" => Some(vec![show::VPC.to_owned()]),
            "owner-id" => Some(vec![ACCOUNT.to_owned()]),
            // The one rule that every group has.
            "egress.ip-permission.cidr" => Some(vec!["0.0.0.0/0".to_owned()]),
            "egress.ip-permission.protocol" => Some(vec!["-1".to_owned()]),
            _ => None,
        };
        if (ids.is_empty() || ids.contains(&group.id))
            && (names.is_empty() || names.contains(&group.name.as_str()))
            && filters.admit(&group.tags, fields)
        {
            let shown = Element::new()
                .with("ownerId", ACCOUNT)
                .with("groupId", &group.id)
                .with("groupName", &group.name)
                .with("groupDescription", &group.description)
                .with("vpcId", show::VPC)
                .inside("ipPermissions", Element::new())
                // The rule that every new group has: everything may leave.
                .list(
                    "ipPermissionsEgress",
                    [Element::new()
                        .with("ipProtocol", "-1")
                        .inside("groups", Element::new())
                        .list("ipRanges", [Element::new().with("cidrIp", "0.0.0.0/0")])
                        .inside("ipv6Ranges", Element::new())
                        .inside("prefixListIds", Element::new())],
                )
                .list_if_any("tagSet", show::tags(&group.tags));
            found.push((group.id.to_string(), shown));
        }
    }
    Ok(select::answer("securityGroupInfo", page(call, &Bounds::USUAL, found)?))
}

pub(super) fn describe_subnets(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("SubnetId");
    let ids = select::ids(&texts, "InvalidSubnetID", SubnetId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeSubnets")?;
    let filters = Filters::read(&call.params)?;
    if let Some(id) = ids.iter().find(|id| call.world.subnet(id).is_none()) {
        let message = format!("The subnet ID '{id}' does not exist");
        return Err(ApiError::new("InvalidSubnetID.NotFound", message));
    }
    let mut found = Vec::new();
    for subnet in call.world.all_subnets() {
        let fields = |name: &str| match name {
            "subnet-id" => Some(vec![subnet.id.to_string()]),
            "availability-zone" | "availabilityZone" => Some(vec![subnet.zone.clone()]),
            "availability-zone-id" => Some(vec![show::zone_id(&subnet.zone)]),
            "vpc-id" => Some(vec![show::VPC.to_owned()]),
            "cidr-block" | "cidr" => Some(vec![subnet.cidr()]),
            "default-for-az" | "defaultForAz" => Some(vec!["true".to_owned()]),
            "state" => Some(vec!["available".to_owned()]),
            "owner-id" => Some(vec![ACCOUNT.to_owned()]),
            "available-ip-address-count" => Some(vec![call.world.free_addresses(subnet).to_string()]),
            "map-public-ip-on-launch" | "ipv6-native" | "enable-dns64" => Some(vec!["false".to_owned()]),
            "subnet-arn" => Some(vec![format!(
                "arn:aws:ec2:{}:{ACCOUNT}:subnet/{}",
                call.world.settings.region, subnet.id
            )]),
            _ => None,
        };
        if (ids.is_empty() || ids.contains(&subnet.id)) && filters.admit(&Default::default(), fields) {
            found.push((subnet.id.to_string(), show::subnet(call.world, subnet)));
        }
    }
    Ok(select::answer("subnetSet", page(call, &Bounds::USUAL, found)?))
}

pub(super) fn describe_vpc_attribute(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeVpcAttribute")?;
    let id = call.params.required("VpcId")?;
    if id != show::VPC {
        return Err(ApiError::new("InvalidVpcID.NotFound", format!("The vpc ID '{id}' does not exist")));
    }
    // As the default VPC of an account has them.
    let (name, value) = match call.params.required("Attribute")? {
        "enableDnsSupport" => ("enableDnsSupport", true),
        "enableDnsHostnames" => ("enableDnsHostnames", true),
        "enableNetworkAddressUsageMetrics" => ("enableNetworkAddressUsageMetrics", false),
        other => {
            let message = format!("Invalid value '{other}' for attribute.");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
    };
    Ok(Element::new().with("vpcId", id).inside(name, Element::new().with("value", value)))
}

pub(super) fn describe_vpcs(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeVpcs")?;
    let ids = call.params.texts("VpcId");
    let filters = Filters::read(&call.params)?;
    if let Some(id) = ids.iter().find(|id| **id != show::VPC) {
        return Err(ApiError::new("InvalidVpcID.NotFound", format!("The vpc ID '{id}' does not exist")));
    }
    let fields = |name: &str| match name {
        "vpc-id" => Some(vec![show::VPC.to_owned()]),
        "is-default" | "isDefault" => Some(vec!["true".to_owned()]),
        "state" => Some(vec!["available".to_owned()]),
        "cidr" | "cidr-block-association.cidr-block" => Some(vec![show::VPC_CIDR.to_owned()]),
        "owner-id" => Some(vec![ACCOUNT.to_owned()]),
        _ => None,
    };
    let shown = Element::new()
        .with("vpcId", show::VPC)
        .with("ownerId", ACCOUNT)
        .with("state", "available")
        .with("cidrBlock", show::VPC_CIDR)
        .with("dhcpOptionsId", "default")
        .with("instanceTenancy", "default")
        .with("isDefault", true);
    let found = filters.admit(&Default::default(), fields).then(|| (show::VPC.to_owned(), shown));
    Ok(select::answer("vpcSet", page(call, &Bounds::USUAL, found.into_iter().collect())?))
}
