//! The instance metadata service, one path per instance: `/imds/<instance-id>/latest/…`. Software inside an
//! instance is pointed there with `AWS_EC2_METADATA_SERVICE_ENDPOINT`.

use perennial_workflows::model::aws::{InstanceId, InstanceState, Market};
use serde_json::json;

use super::ec2;
use super::region::Region;
use crate::world::state::{Instance, Interface};
use crate::world::{ACCOUNT, Shape, World, rfc3339};

/// The token of every session; a client that needs one must have asked for it.
const TOKEN: &str = "AQAEAsimulatedtokenofthisregion==";

/// How long credentials of an instance profile say they are good for.
const CREDENTIALS_MS: u64 = 6 * 60 * 60 * 1000;
/// The versions that EC2 serves; all are alike here.
const VERSIONS: [&str; 29] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
    "latest",
];
/// The longest life of a token, in seconds.
const TTL_MAX_S: u32 = 21_600;

/// Whether a path is one of the service where an instance meets it, at the root.
pub(super) fn is_versioned(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    parts.next().is_some_and(|version| VERSIONS.contains(&version))
        && matches!(parts.next(), None | Some("" | "meta-data" | "user-data" | "dynamic" | "api"))
}

/// The only instance with a guest, or how many there are: programs that know one address of the service and
/// no path.
pub(super) fn alone(region: &Region) -> Result<InstanceId, usize> {
    region.look(|world, _| {
        let mut all = world.all_instances().filter(|instance| instance.has_guest());
        match (all.next(), all.count()) {
            (Some(instance), 0) => Ok(instance.id.clone()),
            (None, _) => Err(0),
            (Some(_), others) => Err(others + 1),
        }
    })
}

/// Who reads metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// The only instance, by the path that guests know: it shows a token where its instance requires one.
    Guest,
    /// Whoever names an instance in the path stands outside, as no guest does, and needs no token.
    Outside,
}

/// The content of a path, or an HTTP status.
pub(super) fn get(region: &Region, reader: Reader, path: &str, token: Option<&str>) -> Result<String, u16> {
    let (id, rest) = path.split_once('/').ok_or(404_u16)?;
    let id = InstanceId::parse(id).map_err(|_| 404_u16)?;
    let rest = rest.trim_end_matches('/');
    let (version, rest) = rest.split_once('/').unwrap_or((rest, ""));
    region.look(|world, _| {
        let instance = world.instance(&id).filter(|instance| instance.has_guest()).ok_or(404_u16)?;
        if token.is_some_and(|token| token != TOKEN)
            || (token.is_none()
                && reader == Reader::Guest
                && instance.metadata.get("HttpTokens").is_some_and(|tokens| tokens == "required"))
        {
            return Err(401);
        }
        if version.is_empty() {
            return Ok(VERSIONS.join("\n"));
        }
        if !VERSIONS.contains(&version) {
            return Err(404);
        }
        content(world, instance, rest).ok_or(404)
    })
}

/// A session token (IMDSv2) for as many seconds as `ttl` says, which must be there.
pub(super) fn token(path: &str, ttl: Option<&str>) -> Result<String, u16> {
    let (_, rest) = path.split_once('/').ok_or(404_u16)?;
    let (version, rest) = rest.split_once('/').ok_or(404_u16)?;
    if rest != "api/token" || !VERSIONS.contains(&version) {
        return Err(404);
    }
    let ttl: u32 = ttl.and_then(|ttl| ttl.trim().parse().ok()).ok_or(400_u16)?;
    if (1..=TTL_MAX_S).contains(&ttl) { Ok(TOKEN.to_owned()) } else { Err(400) }
}

fn content(world: &World, instance: &Instance, path: &str) -> Option<String> {
    match path {
        "" => return Some("dynamic\nmeta-data\nuser-data".to_owned()),
        "user-data" => return instance.user_data.clone(),
        _ => {}
    }
    let tree = tree(world, instance);
    if let Some((_, value)) = tree.iter().find(|(leaf, _)| leaf == path) {
        return Some(value.clone());
    }
    // A directory: its leaves, and its directories with a slash.
    let mut listed: Vec<String> = Vec::new();
    for (leaf, _) in &tree {
        if let Some(rest) = leaf.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')) {
            let name = match rest.split_once('/') {
                Some((directory, _)) => format!("{directory}/"),
                None => rest.to_owned(),
            };
            if !listed.contains(&name) {
                listed.push(name);
            }
        }
    }
    listed.sort();
    (!listed.is_empty()).then(|| listed.join("\n"))
}

/// The paths that hold something, below the version, with their contents.
#[derive(Default)]
struct Leaves(Vec<(String, String)>);

impl Leaves {
    /// A path below `meta-data`.
    fn is(&mut self, path: &str, value: impl Into<String>) {
        self.0.push((format!("meta-data/{path}"), value.into()));
    }
}

/// Every path that holds something.
fn tree(world: &World, instance: &Instance) -> Vec<(String, String)> {
    let mut interfaces: Vec<_> = instance
        .interfaces
        .iter()
        .filter_map(|id| world.interface(id))
        .filter_map(|interface| Some((interface, interface.attachment.as_ref()?.device_index)))
        .collect();
    interfaces.sort_by_key(|(_, index)| *index);
    let primary = interfaces.first().filter(|(_, index)| *index == 0).map(|(interface, _)| *interface);
    let mut leaves = Leaves::default();
    machine(&mut leaves, world, instance);
    if let Some(primary) = primary {
        primary_interface(&mut leaves, world, primary);
    }
    if let Some(name) = &instance.instance_profile {
        profile(&mut leaves, world, name);
    }
    for (interface, index) in &interfaces {
        one_interface(&mut leaves, world, interface, *index);
    }
    placement(&mut leaves, world, instance);
    if let Some(public) = primary.and_then(|interface| world.elastic_of(interface.primary_ip)) {
        leaves.is("public-hostname", ec2::public_name(public.address));
        leaves.is("public-ipv4", public.address.to_string());
    }
    leaves.is("reservation-id", instance.reservation.as_str());
    leaves.is("services/domain", "amazonaws.com");
    leaves.is("services/partition", "aws");
    interruption(&mut leaves, world, instance);
    leaves.is("system", "nitro");
    if instance.metadata.get("InstanceMetadataTags").is_some_and(|tags| tags == "enabled") {
        for (key, value) in &instance.tags {
            leaves.is(&format!("tags/instance/{key}"), value.as_str());
        }
    }
    let document = identity_document(world, instance, primary);
    leaves.0.push(("dynamic/instance-identity/document".to_owned(), document));
    leaves.0
}

/// The machine itself: its image, its devices, its events.
fn machine(leaves: &mut Leaves, world: &World, instance: &Instance) {
    leaves.is("ami-id", instance.image.to_string());
    leaves.is("ami-launch-index", instance.launch_index.to_string());
    leaves.is("ami-manifest-path", "(unknown)");
    leaves.is("block-device-mapping/ami", instance.root_device.as_str());
    leaves.is("block-device-mapping/root", instance.root_device.as_str());
    let others = instance.volumes.iter().filter_map(|id| world.volume(id)?.attachment.as_ref());
    for (n, at) in others.filter(|at| at.device != instance.root_device).enumerate() {
        leaves.is(&format!("block-device-mapping/ebs{}", n + 1), at.device.as_str());
    }
    leaves.is("events/maintenance/history", "[]");
    leaves.is("events/maintenance/scheduled", "[]");
    if let Some(at_ms) = instance.rebalance_at_ms {
        let notice = json!({ "noticeTime": rfc3339(at_ms) }).to_string();
        leaves.is("events/recommendations/rebalance", notice);
    }
    leaves.is("hibernation/configured", "false");
    leaves.is("instance-action", "none");
    leaves.is("instance-id", instance.id.to_string());
    let market = if instance.market == Market::Spot { "spot" } else { "on-demand" };
    leaves.is("instance-life-cycle", market);
    leaves.is("instance-type", instance.instance_type.as_str());
}

fn primary_interface(leaves: &mut Leaves, world: &World, primary: &Interface) {
    leaves.is("hostname", ec2::private_name(primary.primary_ip));
    leaves.is("local-hostname", ec2::private_name(primary.primary_ip));
    leaves.is("local-ipv4", primary.primary_ip.to_string());
    leaves.is("mac", ec2::mac(primary.primary_ip));
    leaves.is("security-groups", group_names(world, primary));
}

fn group_names(world: &World, interface: &Interface) -> String {
    let all = interface.groups.iter().filter_map(|id| world.all_groups().find(|group| group.id == *id));
    all.map(|group| group.name.clone()).collect::<Vec<_>>().join("\n")
}

/// The instance profile; its role is taken to have its name.
fn profile(leaves: &mut Leaves, world: &World, name: &str) {
    let arn = match name.starts_with("arn:") {
        true => name.to_owned(),
        false => format!("arn:aws:iam::{ACCOUNT}:instance-profile/{name}"),
    };
    let role = name.rsplit('/').next().unwrap_or(name).to_owned();
    let updated = rfc3339(world.now_ms());
    let info = json!({ "Code": "Success", "LastUpdated": updated, "InstanceProfileArn": arn,
        "InstanceProfileId": "AIPASIMULATED0000000" });
    leaves.is("iam/info", info.to_string());
    let credentials = json!({ "Code": "Success", "LastUpdated": updated, "Type": "AWS-HMAC",
        "AccessKeyId": "ASIASIMULATED0000000", "SecretAccessKey": "simulated", "Token": "simulated",
        "Expiration": rfc3339(world.now_ms() + CREDENTIALS_MS) });
    leaves.is(&format!("iam/security-credentials/{role}"), credentials.to_string());
}

fn one_interface(leaves: &mut Leaves, world: &World, interface: &Interface, index: u32) {
    let mac = ec2::mac(interface.primary_ip);
    let mut has =
        |name: &str, value: String| leaves.is(&format!("network/interfaces/macs/{mac}/{name}"), value);
    has("device-number", index.to_string());
    has("interface-id", interface.id.to_string());
    has("local-hostname", ec2::private_name(interface.primary_ip));
    let all = || std::iter::once(&interface.primary_ip).chain(&interface.secondary_ips);
    let lines = |values: Vec<String>| values.join("\n");
    has("local-ipv4s", lines(all().map(ToString::to_string).collect()));
    has("mac", mac.clone());
    has("owner-id", ACCOUNT.to_owned());
    let elastic: Vec<_> = all().filter_map(|ip| Some((ip, world.elastic_of(*ip)?.address))).collect();
    for (private, public) in &elastic {
        has(&format!("ipv4-associations/{public}"), private.to_string());
    }
    if let Some((_, public)) = elastic.first() {
        has("public-hostname", ec2::public_name(*public));
        has("public-ipv4s", lines(elastic.iter().map(|(_, public)| public.to_string()).collect()));
    }
    has("security-group-ids", lines(interface.groups.iter().map(ToString::to_string).collect()));
    has("security-groups", group_names(world, interface));
    has("subnet-id", interface.subnet.to_string());
    if let Some(subnet) = world.subnet(&interface.subnet) {
        has("subnet-ipv4-cidr-block", subnet.cidr());
    }
    has("vpc-id", ec2::VPC.to_owned());
    has("vpc-ipv4-cidr-block", ec2::VPC_CIDR.to_owned());
    has("vpc-ipv4-cidr-blocks", ec2::VPC_CIDR.to_owned());
}

fn placement(leaves: &mut Leaves, world: &World, instance: &Instance) {
    leaves.is("placement/availability-zone", instance.zone.as_str());
    leaves.is("placement/availability-zone-id", ec2::zone_id(&instance.zone));
    leaves.is("placement/region", world.settings.region.as_str());
    leaves.is("profile", "default-hvm");
}

/// The notice of an interruption, while the instance still runs.
fn interruption(leaves: &mut Leaves, world: &World, instance: &Instance) {
    let deadline = instance.reclaim_at_ms.filter(|_| instance.state == InstanceState::Running);
    let Some(at_ms) = deadline else { return };
    let (action, time) = (world.interruption_action(&instance.id), rfc3339(at_ms));
    leaves.is("spot/instance-action", json!({ "action": action, "time": time }).to_string());
    // Older, and only for terminations.
    if action == "terminate" {
        leaves.is("spot/termination-time", time);
    }
}

fn identity_document(world: &World, instance: &Instance, primary: Option<&Interface>) -> String {
    let document = json!({
        "accountId": ACCOUNT,
        "architecture": Shape::of(&instance.instance_type).map_or("x86_64", |shape| shape.architecture),
        "availabilityZone": instance.zone,
        "imageId": instance.image,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "pendingTime": rfc3339(instance.launched_at_ms),
        "privateIp": primary.map(|interface| interface.primary_ip),
        "region": world.settings.region,
        "version": "2017-09-30",
    });
    document.to_string()
}
