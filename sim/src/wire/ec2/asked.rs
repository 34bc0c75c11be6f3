//! What a call asks for, as policies look at it: the objects that its parameters name by id, and what it
//! makes.

use std::collections::{BTreeMap, BTreeSet};

use perennial_workers::port::Tags;

use super::super::params::Params;
use super::super::public_parameters;
use super::instances::with_template;
use super::is_look;
use crate::policy::Asked;
use crate::world::{ApiError, World};

/// What each creating call makes.
const MADE: &[(&str, &[&str])] = &[
    ("AllocateAddress", &["elastic-ip"]),
    ("CopyVolumes", &["volume"]),
    ("CreateFleet", &["fleet", "instance", "volume", "network-interface", "spot-instances-request"]),
    ("CreateImage", &["image", "snapshot"]),
    ("CreateLaunchTemplate", &["launch-template"]),
    ("CreateNetworkInterface", &["network-interface"]),
    ("CreateReplaceRootVolumeTask", &["replace-root-volume-task"]),
    ("CreateSecurityGroup", &["security-group"]),
    ("CreateSnapshot", &["snapshot"]),
    ("CreateSnapshots", &["snapshot"]),
    ("CreateVolume", &["volume"]),
    ("RegisterImage", &["image"]),
    ("RunInstances", &["instance", "volume"]),
];

/// Looks whose objects a policy can name.
const LOOKS_AT_OBJECTS: &[&str] = &["GetConsoleOutput", "GetInstanceUefiData"];

/// Parameters whose values are words of the caller's, whatever they look like.
const WORDS: &[&str] = &["Tag", "Description", "ClientToken", "Name", "UserData", "Filter"];

/// Reads a call.
pub(crate) fn asked(world: &World, action: &str, params: &Params) -> Result<Asked, ApiError> {
    let mut asked = Asked::to(action);
    if is_look(action) && !LOOKS_AT_OBJECTS.contains(&action) {
        return Ok(asked);
    }
    let merged = match action {
        "RunInstances" => with_template(world, params)?,
        _ => params.over(&BTreeMap::new()),
    };
    let root = merged.root();
    let left_out = root.scope("InstanceSpecification");
    asked.without = left_out.texts("ExcludeDataVolumeId").into_iter().map(str::to_owned).collect();
    asked.without_root = left_out.is_set("ExcludeBootVolume")?;
    let is_word = |key: &str| WORDS.iter().any(|word| key.starts_with(word));
    let named = merged.all().filter(|(key, _)| !is_word(key)).map(|(_, value)| value.to_owned());
    asked.named = named.filter(|value| !asked.without.contains(value) && is_id(value)).collect();
    asked.devices =
        root.each("BlockDeviceMapping").iter().filter_map(|each| each.owned("DeviceName")).collect();

    let tags = tags_by_kind(&merged);
    let mut made: BTreeSet<&'static str> = MADE
        .iter()
        .filter(|(name, _)| *name == action)
        .flat_map(|(_, kinds)| kinds.iter().copied())
        .collect();
    if action == "RunInstances" {
        let interfaces = root.each("NetworkInterface");
        if interfaces.is_empty() || interfaces.iter().any(|each| each.text("NetworkInterfaceId").is_none()) {
            made.insert("network-interface");
            add_defaults(world, &mut asked);
        }
        if root.scope("InstanceMarketOptions").text("MarketType") == Some("spot") {
            made.insert("spot-instances-request");
        }
        let parameter = root.text("ImageId").and_then(|image| image.strip_prefix("resolve:ssm:"));
        asked.named.extend(parameter.and_then(|name| public_parameters::image(world, name)));
        asked.key_pair = root.owned("KeyName");
        let profile = root.scope("IamInstanceProfile");
        let of_arn = |arn: String| arn.rsplit('/').next().unwrap_or_default().to_owned();
        asked.profile = profile.owned("Name").or_else(|| profile.owned("Arn").map(of_arn));
    }
    asked.made = made.into_iter().map(|kind| (kind, tags.get(kind).cloned().unwrap_or_default())).collect();
    if matches!(action, "CreateTags" | "DeleteTags") {
        asked.tags = pairs(&merged, "Tag.");
    }
    Ok(asked)
}

/// A launch that names no subnet or no groups is in the default ones.
fn add_defaults(world: &World, asked: &mut Asked) {
    let has = |prefix: &str, asked: &Asked| asked.named.iter().any(|id| id.starts_with(prefix));
    if !has("subnet-", asked) {
        asked.named.push(world.subnet_in(&world.zones()[0]).to_string());
    }
    if !has("sg-", asked) {
        asked.named.push(world.default_group().to_string());
    }
}

/// Whether it has the form of an id, such as `vol-0a1b`.
fn is_id(value: &str) -> bool {
    value.split_once('-').is_some_and(|(kind, rest)| {
        !kind.is_empty()
            && kind.bytes().all(|byte| byte.is_ascii_lowercase())
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// The tags of each `TagSpecification.N`, by its resource type.
fn tags_by_kind(params: &Params) -> BTreeMap<String, Tags> {
    let mut all = BTreeMap::<String, Tags>::new();
    let prefix = "TagSpecification.";
    for (key, kind) in params.all() {
        let number = key.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".ResourceType"));
        if let Some(number) = number {
            let tags = pairs(params, &format!("{prefix}{number}.Tag."));
            all.entry(kind.to_owned()).or_default().extend(tags);
        }
    }
    all
}

/// `PREFIX N.Key` with `PREFIX N.Value`.
fn pairs(params: &Params, prefix: &str) -> Tags {
    let all: BTreeMap<&str, &str> = params.all().collect();
    let of = |(key, tag): (&&str, &&str)| {
        let number = key.strip_prefix(prefix)?.strip_suffix(".Key")?;
        let value = all.get(format!("{prefix}{number}.Value").as_str()).copied().unwrap_or_default();
        Some(((*tag).to_owned(), value.to_owned()))
    };
    all.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::wire_settings;

    fn read(form: &str) -> Asked {
        let world = World::new(wire_settings(7), 0);
        let params = Params::parse(form.as_bytes()).unwrap();
        let action = params.root().text("Action").unwrap();
        let asked = asked(&world, action, &params).unwrap();
        assert!(
            params.ignored().iter().any(|name| name == "TagSpecification.1.ResourceType"),
            "nothing is read"
        );
        asked
    }

    #[test]
    fn a_launch_names_what_it_takes_and_makes_with_the_tags_of_each_kind() {
        let asked = read(
            "Action=RunInstances&ImageId=ami-1&SubnetId=subnet-1&KeyName=ops&IamInstanceProfile.Name=db\
             &ClientToken=vol-1&InstanceMarketOptions.MarketType=spot&TagSpecification.1.ResourceType=instance\
             &TagSpecification.1.Tag.1.Key=o&TagSpecification.1.Tag.1.Value=vol-2",
        );
        assert!(asked.named.contains(&"ami-1".to_owned()) && asked.named.contains(&"subnet-1".to_owned()));
        assert!(!asked.named.iter().any(|id| id.starts_with("vol-")), "{:?}", asked.named);
        assert!(asked.named.iter().any(|id| id.starts_with("sg-")), "the default group");
        assert_eq!((asked.key_pair.as_deref(), asked.profile.as_deref()), (Some("ops"), Some("db")));
        let kinds: Vec<_> = asked.made.iter().map(|(kind, tags)| (*kind, tags.len())).collect();
        let expected =
            [("instance", 1), ("network-interface", 0), ("spot-instances-request", 0), ("volume", 0)];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn a_kept_interface_is_named_and_none_is_made() {
        let asked = read(
            "Action=RunInstances&ImageId=ami-1&NetworkInterface.1.DeviceIndex=0\
             &NetworkInterface.1.NetworkInterfaceId=eni-1&TagSpecification.1.ResourceType=volume",
        );
        assert!(asked.named.contains(&"eni-1".to_owned()));
        assert!(asked.made.iter().all(|(kind, _)| *kind != "network-interface"));
    }

    #[test]
    fn every_creating_action_that_the_port_makes_is_in_the_table() {
        for action in
            super::super::actions().filter(|name| name.starts_with("Create") || name.starts_with("Copy"))
        {
            let known = MADE.iter().any(|(name, _)| *name == action);
            // Tags, and versions of a template, are no resources of their own.
            assert_ne!(known, matches!(action, "CreateTags" | "CreateLaunchTemplateVersion"), "{action}");
        }
    }
}
