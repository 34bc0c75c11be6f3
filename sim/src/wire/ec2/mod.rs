//! EC2's query protocol over a [`World`]: text in, text out, and nothing of EC2's behaviour.
//!
//! | module | contents |
//! | --- | --- |
//! | `asked` | what a call asks for, as policies look at it |
//! | `call` | a call under way, and its tags |
//! | `select` | filters, pages, ids |
//! | `filters` | the names of filters |
//! | `instances` | instances, spot requests |
//! | `fleets` | fleets, launch templates |
//! | `instance_fields` | fields that filters of DescribeInstances compare |
//! | `storage` | volumes, snapshots, images, root replacement |
//! | `network` | interfaces, addresses, groups, subnets |
//! | `catalogue` | types, zones, prices, tags |
//! | `show` | objects as XML |

mod asked;
mod call;
mod catalogue;
mod filters;
mod fleets;
mod instance_fields;
mod instances;
mod network;
mod select;
mod show;
mod storage;

use call::Call;

use super::params::Params;
use super::xml::Element;
use crate::world::{ApiError, World};
pub(crate) use asked::asked;
pub(crate) use call::read_tags;
pub(crate) use select::like;
pub(crate) use show::{VPC, VPC_CIDR, mac, private_name, public_name, user_data_bytes, zone_id};

/// The namespace of every answer.
pub(crate) const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

type Handler = fn(&mut Call<'_>) -> Result<Element, ApiError>;

/// Every action this region knows, with its handler.
const ACTIONS: &[(&str, Handler)] = &[
    ("AllocateAddress", network::allocate_address),
    ("AssignPrivateIpAddresses", network::assign_private_ips),
    ("AssociateAddress", network::associate_address),
    ("AttachNetworkInterface", network::attach_interface),
    ("AttachVolume", storage::attach_volume),
    ("CancelSpotInstanceRequests", instances::cancel_spot_requests),
    ("CopyVolumes", storage::copy_volumes),
    ("CreateFleet", fleets::create_fleet),
    ("CreateImage", storage::create_image),
    ("CreateLaunchTemplate", fleets::create_template),
    ("CreateLaunchTemplateVersion", fleets::create_template_version),
    ("CreateNetworkInterface", network::create_interface),
    ("CreateReplaceRootVolumeTask", storage::replace_root),
    ("CreateSecurityGroup", network::create_group),
    ("CreateSnapshot", storage::create_snapshot),
    ("CreateSnapshots", storage::create_snapshots),
    ("CreateTags", catalogue::create_tags),
    ("CreateVolume", storage::create_volume),
    ("DeleteFleets", fleets::delete_fleets),
    ("DeleteLaunchTemplate", fleets::delete_template),
    ("DeleteNetworkInterface", network::delete_interface),
    ("DeleteSecurityGroup", network::delete_group),
    ("DeleteSnapshot", storage::delete_snapshot),
    ("DeleteTags", catalogue::delete_tags),
    ("DeleteVolume", storage::delete_volume),
    ("DeregisterImage", storage::deregister_image),
    ("DescribeAddresses", network::describe_addresses),
    ("DescribeAvailabilityZones", catalogue::describe_zones),
    ("DescribeFleets", fleets::describe_fleets),
    ("DescribeImageAttribute", storage::describe_image_attribute),
    ("DescribeImages", storage::describe_images),
    ("DescribeInstanceAttribute", instances::describe_attribute),
    ("DescribeInstanceStatus", instances::describe_status),
    ("DescribeInstanceTypeOfferings", catalogue::describe_offerings),
    ("DescribeInstanceTypes", catalogue::describe_types),
    ("DescribeInstances", instances::describe_instances),
    ("DescribeKeyPairs", instances::describe_key_pairs),
    ("DescribeLaunchTemplateVersions", fleets::describe_template_versions),
    ("DescribeLaunchTemplates", fleets::describe_templates),
    ("DescribeNetworkInterfaceAttribute", network::describe_interface_attribute),
    ("DescribeNetworkInterfaces", network::describe_interfaces),
    ("DescribeRegions", catalogue::describe_regions),
    ("DescribeReplaceRootVolumeTasks", storage::describe_root_tasks),
    ("DescribeSecurityGroups", network::describe_groups),
    ("DescribeSnapshotAttribute", storage::describe_snapshot_attribute),
    ("DescribeSnapshots", storage::describe_snapshots),
    ("DescribeSpotInstanceRequests", instances::describe_spot_requests),
    ("DescribeSpotPriceHistory", catalogue::describe_prices),
    ("DescribeSubnets", network::describe_subnets),
    ("DescribeTags", catalogue::describe_tags),
    ("DescribeVolumeAttribute", storage::describe_volume_attribute),
    ("DescribeVolumeStatus", storage::describe_volume_status),
    ("DescribeVolumes", storage::describe_volumes),
    ("DescribeVolumesModifications", storage::describe_modifications),
    ("DescribeVpcAttribute", network::describe_vpc_attribute),
    ("DescribeVpcs", network::describe_vpcs),
    ("DetachNetworkInterface", network::detach_interface),
    ("DetachVolume", storage::detach_volume),
    ("DisassociateAddress", network::disassociate_address),
    ("GetConsoleOutput", instances::console_output),
    ("GetInstanceTypesFromInstanceRequirements", catalogue::types_by_requirements),
    ("GetInstanceUefiData", instances::uefi_data),
    ("GetSpotPlacementScores", catalogue::placement_scores),
    ("ModifyInstanceAttribute", instances::modify_attribute),
    ("ModifyInstanceMetadataOptions", instances::modify_metadata_options),
    ("ModifyLaunchTemplate", fleets::modify_template),
    ("ModifyNetworkInterfaceAttribute", network::modify_interface),
    ("ModifyVolume", storage::modify_volume),
    ("RebootInstances", instances::reboot_instances),
    ("RegisterImage", storage::register_image),
    ("ReleaseAddress", network::release_address),
    ("RunInstances", instances::run_instances),
    ("StartInstances", instances::start_instances),
    ("StopInstances", instances::stop_instances),
    ("TerminateInstances", instances::terminate_instances),
    ("UnassignPrivateIpAddresses", network::unassign_private_ips),
];

/// The names of all actions, in order.
pub(crate) fn actions() -> impl Iterator<Item = &'static str> {
    ACTIONS.iter().map(|(name, _)| *name)
}

/// Whether an action only reads.
pub(crate) fn is_look(action: &str) -> bool {
    action.starts_with("Describe") || action.starts_with("Get") || action.starts_with("List")
}

/// Makes a call. With `DryRun` it is tried on a copy: the answer is then always an error, `DryRunOperation`
/// when the call would have been allowed (EC2 API reference, common parameters).
pub(crate) fn call(world: &mut World, now_ms: u64, action: &str, all: &Params) -> Result<Element, ApiError> {
    let found = ACTIONS.binary_search_by_key(&action, |(name, _)| *name);
    let Ok(index) = found else {
        let message = format!(
            "The action {action} is not valid for this web service: this region does not model it; GET /_region/ lists what it does"
        );
        return Err(ApiError::new("InvalidAction", message));
    };
    let (name, handler) = ACTIONS[index];
    let params = all.root();
    params.text("Action");
    params.text("Version");
    if params.is_set("DryRun")? {
        world.begin_read(now_ms, name)?;
        let mut rehearsal = world.rehearsal();
        handler(&mut Call { world: &mut rehearsal, now_ms, all, params })?;
        let message = "Request would have succeeded, but DryRun flag is set.";
        return Err(ApiError::with_status(412, "DryRunOperation", message));
    }
    if is_look(name) {
        world.advance(now_ms);
        if let Some(mut seen) = world.as_seen() {
            world.begin_read(now_ms, name)?;
            return handler(&mut Call { world: &mut seen, now_ms, all, params });
        }
    }
    handler(&mut Call { world, now_ms, all, params })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_sorted_so_that_they_are_found() {
        assert!(ACTIONS.is_sorted_by_key(|(name, _)| *name));
    }
}
