//! Instances and spot requests.

use std::collections::BTreeMap;

use base64::Engine as _;
use perennial_workflows::model::aws::{
    GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, SnapshotId, SpotRequestId, SubnetId,
};

use super::super::params::{Params, Scope};
use super::super::public_parameters;
use super::super::xml::Element;
use super::call::{Call, specified_tags};
use super::instance_fields::field;
use super::select::{self, Bounds, Filters, page};
use super::show;
use crate::world::state::Instance;
use crate::world::{
    ACCOUNT, ApiError, Behaviour, DeviceMapping, LaunchExtras, LaunchTags, MoreInterface, Placement,
    RunInstances, SpotKind, Termination, World,
};

/// Bytes of user data before its encoding (EC2 User Guide).
const USER_DATA_MAX: usize = 16 * 1024;

/// Those that a call changes.
fn instance_ids(call: &Call<'_>) -> Result<Vec<InstanceId>, ApiError> {
    let texts = call.params.texts("InstanceId");
    if texts.is_empty() {
        return Err(ApiError::new("InvalidParameterCombination", "No instances specified"));
    }
    let ids = select::ids(&texts, "InvalidInstanceID", InstanceId::parse)?;
    let unknown: Vec<_> = ids.iter().filter(|id| call.world.instance(id).is_none()).collect();
    // The world names the first only.
    if unknown.len() > 1 { Err(no_instances(&unknown)) } else { Ok(ids) }
}

pub(super) fn run_instances(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let merged = with_template(call.world, call.all)?;
    let request = launch(call.world, &merged.root())?;
    let ids = call.world.launch_instances(call.now_ms, &request)?;
    let first = call.world.instance(&ids[0]).expect("BUG: just launched");
    let reservation = first.reservation.clone();
    let made = ids.iter().filter_map(|id| call.world.instance(id));
    let made = made.map(|found| show::created(show::instance(call.world, found)));
    Ok(reservation_of(&reservation, made))
}

fn reservation_of(id: &str, instances: impl Iterator<Item = Element>) -> Element {
    Element::new()
        .with("reservationId", id)
        .with("ownerId", ACCOUNT)
        .inside("groupSet", Element::new())
        .list("instancesSet", instances)
}

/// The call's parameters over those of its launch template.
pub(super) fn with_template(world: &World, all: &Params) -> Result<Params, ApiError> {
    let params = all.root();
    let template = params.scope("LaunchTemplate");
    if template.is_empty() {
        return Ok(all.over(&BTreeMap::new()));
    }
    let found = world.template(template.text("LaunchTemplateId"), template.text("LaunchTemplateName"))?;
    Ok(all.over(found.version(template.text("Version"))?))
}

/// The parameters of one launch.
pub(super) fn launch(world: &World, params: &Scope<'_>) -> Result<RunInstances, ApiError> {
    let image = match params.required("ImageId")?.strip_prefix("resolve:ssm:") {
        None => params.required("ImageId")?.to_owned(),
        Some(name) => public_parameters::image(world, name).ok_or_else(|| {
            let message = format!("Invalid value '{name}' for the parameter resolve:ssm");
            ApiError::new("InvalidParameterValue", message)
        })?,
    };
    let image = select::id(&image, "InvalidAMIID", ImageId::parse)?;
    let zone = params.scope("Placement").owned("AvailabilityZone");
    let (placement, keeps_interface, interfaces) = placement(world, params, zone.as_deref())?;
    let options = params.scope("InstanceMarketOptions");
    let market = match options.text("MarketType") {
        None => Market::OnDemand,
        Some("spot") => Market::Spot,
        Some(other) => return Err(bad("MarketType", other)),
    };
    let spot = options.scope("SpotOptions");
    let kind = match spot.text("SpotInstanceType") {
        None | Some("one-time") => SpotKind::OneTime,
        Some("persistent") => SpotKind::Persistent,
        Some(other) => return Err(bad("SpotInstanceType", other)),
    };
    let behaviour = match spot.text("InstanceInterruptionBehavior") {
        None | Some("terminate") => Behaviour::Terminate,
        Some("stop") if kind == SpotKind::Persistent => Behaviour::Stop,
        Some("stop") => {
            let message = "The 'stop' interruption behavior needs a persistent Spot Instance request";
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        Some(other) => return Err(bad("InstanceInterruptionBehavior", other)),
    };
    let metadata = metadata_options(&params.scope("MetadataOptions"))?;
    let profile = params.scope("IamInstanceProfile");
    let count_min = params.number("MinCount")?.unwrap_or(1);
    let count_max = params.number("MaxCount")?.unwrap_or(count_min);
    if count_min == 0 || count_max < count_min {
        return Err(ApiError::new("InvalidParameterValue", "MaxCount must be at least MinCount, and that 1"));
    }
    Ok(RunInstances {
        client_token: params.owned("ClientToken").unwrap_or_default(),
        image,
        instance_type: params.owned("InstanceType").unwrap_or_else(|| "m1.small".to_owned()),
        market,
        price_max: spot.owned("MaxPrice"),
        zone,
        placement,
        devices: params
            .each("BlockDeviceMapping")
            .iter()
            .filter_map(|d| device(d).transpose())
            .collect::<Result<_, _>>()?,
        key_name: params.owned("KeyName"),
        instance_profile: profile.owned("Name").or(profile.owned("Arn")),
        user_data: params.text("UserData").map(user_data).transpose()?,
        tags: launch_tags(params)?,
        more: LaunchExtras {
            count_min,
            count_max,
            spot: kind,
            behaviour,
            protected: params.is_set("DisableApiTermination")?,
            stop_protected: params.is_set("DisableApiStop")?,
            monitoring: params.is_set("Monitoring.Enabled")?,
            ebs_optimized: params.is_set("EbsOptimized")?,
            metadata,
            template: None,
            keeps_interface,
            interfaces,
        },
    })
}

/// The options of the metadata service, by their names.
fn metadata_options(options: &Scope<'_>) -> Result<BTreeMap<String, String>, ApiError> {
    let switch = ["enabled", "disabled"];
    let mut said = BTreeMap::new();
    for (name, words) in [
        ("HttpTokens", ["optional", "required"]),
        ("HttpEndpoint", switch),
        ("InstanceMetadataTags", switch),
        ("HttpProtocolIpv6", switch),
    ] {
        if let Some(word) = options.owned(name) {
            if !words.contains(&word.as_str()) {
                return Err(bad(name, &word));
            }
            said.insert(name.to_owned(), word);
        }
    }
    let hops = "HttpPutResponseHopLimit";
    if let Some(limit) = options.number::<u32>(hops)? {
        // EC2 API reference: 1 to 64.
        if !(1..=64).contains(&limit) {
            return Err(bad(hops, &limit.to_string()));
        }
        said.insert(hops.to_owned(), limit.to_string());
    }
    Ok(said)
}

pub(super) fn modify_metadata_options(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)?;
    let options = metadata_options(&call.params)?;
    call.world.modify_metadata(call.now_ms, &id, options)?;
    let instance = call.world.instance(&id).ok_or_else(|| no_instance(&id))?;
    // A describe shows it as `applied` at once.
    let shown = show::metadata_options(instance, "pending");
    Ok(Element::new().with("instanceId", &id).inside("instanceMetadataOptions", shown))
}

/// The guest of this model writes one line when it starts.
pub(super) fn console_output(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)?;
    call.params.text("Latest");
    call.world.begin_read(call.now_ms, "GetConsoleOutput")?;
    let now_ms = call.world.now_ms();
    let instance = call.world.instance(&id).filter(|found| found.visible_at_ms <= now_ms);
    let instance = instance.ok_or_else(|| no_instance(&id))?;
    let line =
        instance.ever_ran.then(|| format!("[    0.000000] {id} of a simulated region has started\r\n"));
    let line = line.map(|line| base64::engine::general_purpose::STANDARD.encode(line));
    let at_ms = instance.running_since_ms.unwrap_or(instance.launched_at_ms);
    Ok(Element::new().with("instanceId", &id).with("timestamp", show::time(at_ms)).maybe("output", line))
}

/// There are none: a launch takes any name.
pub(super) fn describe_key_pairs(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeKeyPairs")?;
    Filters::read(&call.params)?;
    call.params.text("IncludePublicKey");
    for (parameter, what) in [("KeyName", "key pair"), ("KeyPairId", "key pair ID")] {
        if let Some(named) = call.params.texts(parameter).first() {
            let message = format!("The {what} '{named}' does not exist");
            return Err(ApiError::new("InvalidKeyPair.NotFound", message));
        }
    }
    Ok(Element::new().list("keySet", []))
}

pub(super) fn bad(name: &str, value: &str) -> ApiError {
    ApiError::new("InvalidParameterValue", format!("Invalid value '{value}' for {name}."))
}

fn user_data(text: &str) -> Result<String, ApiError> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map_err(|_| ApiError::new("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data."))?;
    if bytes.len() > USER_DATA_MAX {
        let message = format!("User data is limited to {USER_DATA_MAX} bytes");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    Ok(show::kept_user_data(bytes))
}

fn launch_tags(params: &Scope<'_>) -> Result<LaunchTags, ApiError> {
    let kinds = ["instance", "volume", "network-interface", "spot-instances-request"];
    let [instance, volume, interface, spot_request] = specified_tags(params, kinds)?;
    Ok(LaunchTags { instance, volume, interface, spot_request })
}

/// One block device; nothing for those that are not volumes.
pub(super) fn device(scope: &Scope<'_>) -> Result<Option<DeviceMapping>, ApiError> {
    let name = scope.required("DeviceName")?;
    let ebs = scope.scope("Ebs");
    // An empty text is the documented way to say it.
    if scope.is_there("NoDevice") {
        let device = name.to_owned();
        return Ok(Some(DeviceMapping { device, suppressed: true, ..DeviceMapping::default() }));
    }
    if ebs.is_empty() && scope.text("VirtualName").is_some() {
        return Ok(None);
    }
    let snapshot = ebs.text("SnapshotId");
    Ok(Some(DeviceMapping {
        device: name.to_owned(),
        snapshot: snapshot.map(|id| select::id(id, "InvalidSnapshotID", SnapshotId::parse)).transpose()?,
        size_gib: ebs.number("VolumeSize")?,
        volume_type: ebs.owned("VolumeType"),
        iops: ebs.number("Iops")?,
        throughput: ebs.number("Throughput")?,
        encrypted: ebs.is_set("Encrypted")?,
        delete_on_termination: ebs.flag("DeleteOnTermination")?,
        suppressed: false,
    }))
}

/// Where a launch goes, whether its new interface outlives it, and its other interfaces.
fn placement(
    world: &World,
    params: &Scope<'_>,
    zone: Option<&str>,
) -> Result<(Placement, bool, Vec<MoreInterface>), ApiError> {
    let interfaces = params.each("NetworkInterface");
    let usual = || match zone {
        None => Ok(world.zones()[0].clone()),
        Some(zone) if world.zones().iter().any(|known| known == zone) => Ok(zone.to_owned()),
        Some(zone) => Err(bad("availabilityZone", zone)),
    };
    let subnet = |text: Option<&str>| match text {
        Some(text) => select::id(text, "InvalidSubnetID", SubnetId::parse),
        None => usual().map(|zone| world.subnet_in(&zone)),
    };
    let address =
        |text: Option<&str>| text.map(|text| text.parse().map_err(|_| bad("address", text))).transpose();
    if interfaces.is_empty() {
        let mut groups = group_ids(&params.texts("SecurityGroupId"))?;
        for name in params.texts("SecurityGroup") {
            let found = world.all_groups().find(|group| group.name == name).ok_or_else(|| {
                ApiError::new("InvalidGroup.NotFound", format!("The security group '{name}' does not exist"))
            })?;
            groups.push(found.id.clone());
        }
        let private_ip = address(params.text("PrivateIpAddress"))?;
        return Ok((
            Placement::New { subnet: subnet(params.text("SubnetId"))?, groups, private_ip },
            false,
            Vec::new(),
        ));
    }
    for (name, what) in [
        ("SubnetId", "an instance-level subnet ID"),
        ("PrivateIpAddress", "an instance-level private IP address"),
        ("SecurityGroupId.1", "instance-level security groups"),
    ] {
        if params.text(name).is_some() {
            let message = format!("Network interfaces and {what} may not be specified on the same request");
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
    }
    let (mut primary, mut more) = (None, Vec::new());
    for interface in &interfaces {
        let device_index: u32 = interface.number("DeviceIndex")?.unwrap_or(0);
        let deletes = interface.flag("DeleteOnTermination")?;
        let one = match interface.text("NetworkInterfaceId") {
            Some(_) if deletes == Some(true) => {
                let message = "DeleteOnTermination can be true only for an interface that the launch creates";
                return Err(ApiError::new("InvalidParameterCombination", message));
            }
            Some(id) => Placement::Existing(select::id(id, "InvalidNetworkInterfaceID", InterfaceId::parse)?),
            None => Placement::New {
                subnet: subnet(interface.text("SubnetId"))?,
                groups: group_ids(&interface.texts("SecurityGroupId"))?,
                private_ip: address(interface.text("PrivateIpAddress"))?,
            },
        };
        let is_new = matches!(one, Placement::New { .. });
        if device_index == 0 && primary.is_none() {
            primary = Some((one, is_new && deletes == Some(false)));
        } else {
            // Those that a launch creates go with the instance unless it is said otherwise.
            let delete_on_termination = is_new && deletes != Some(false);
            more.push(MoreInterface { device_index, placement: one, delete_on_termination });
        }
    }
    let (placement, keeps_interface) = primary.ok_or_else(|| {
        ApiError::new("InvalidParameterValue", "a launch needs an interface at device index 0")
    })?;
    Ok((placement, keeps_interface, more))
}

pub(super) fn group_ids(texts: &[&str]) -> Result<Vec<GroupId>, ApiError> {
    select::ids(texts, "InvalidGroupId", GroupId::parse)
}

pub(super) fn describe_instances(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("InstanceId");
    select::not_with_ids(call, &texts, "instancesSet")?;
    let ids = select::ids(&texts, "InvalidInstanceID", InstanceId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeInstances")?;
    let now_ms = call.world.now_ms();
    let filters = Filters::read(&call.params)?;
    let is_unknown = |id: &&InstanceId| call.world.instance(id).is_none_or(|i| i.visible_at_ms > now_ms);
    let unknown: Vec<_> = ids.iter().filter(is_unknown).collect();
    if !unknown.is_empty() {
        return Err(no_instances(&unknown));
    }
    let mut found = Vec::new();
    for instance in call.world.all_instances() {
        if instance.visible_at_ms <= now_ms
            && (ids.is_empty() || ids.contains(&instance.id))
            && filters.admit(&instance.tags, |name| field(call.world, instance, name))
        {
            found.push((instance.id.to_string(), instance));
        }
    }
    let (found, next) = page(call, &Bounds::USUAL, found)?;
    // Instances of one launch stand together, as on EC2.
    let mut reservations: Vec<(&str, Vec<&Instance>)> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in found {
        let id = instance.reservation.as_str();
        let index = *at.entry(id).or_insert(reservations.len());
        if index == reservations.len() {
            reservations.push((id, Vec::new()));
        }
        reservations[index].1.push(instance);
    }
    let world = &*call.world;
    let items = reservations
        .into_iter()
        .map(|(id, all)| reservation_of(id, all.into_iter().map(|found| show::instance(world, found))));
    Ok(select::answer("reservationSet", (items.collect(), next)))
}

fn no_instance(id: &InstanceId) -> ApiError {
    no_instances(&[id])
}

/// All that are unknown, in one error.
fn no_instances(ids: &[&InstanceId]) -> ApiError {
    let names: Vec<_> = ids.iter().map(|id| id.as_str()).collect();
    let message = match names[..] {
        [one] => format!("The instance ID '{one}' does not exist"),
        _ => format!("The instance IDs '{}' do not exist", names.join(", ")),
    };
    ApiError::new("InvalidInstanceID.NotFound", message)
}

fn changes(call: &Call<'_>, ids: &[InstanceId], before: &[InstanceState]) -> Element {
    let items = ids.iter().zip(before).filter_map(|(id, before)| {
        let now = call.world.instance(id)?.state;
        Some(
            Element::new()
                .with("instanceId", id)
                .inside("currentState", show::state(now))
                .inside("previousState", show::state(*before)),
        )
    });
    Element::new().list("instancesSet", items)
}

pub(super) fn terminate_instances(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let ids = instance_ids(call)?;
    let is_forced = call.params.is_set("Force")? || call.params.is_set("SkipOsShutdown")?;
    let how = if is_forced { Termination::Forced } else { Termination::Orderly };
    let before = call.world.terminate_all(call.now_ms, &ids, how)?;
    Ok(changes(call, &ids, &before))
}

pub(super) fn stop_instances(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let ids = instance_ids(call)?;
    let before = call.world.stop_instances(call.now_ms, &ids)?;
    Ok(changes(call, &ids, &before))
}

pub(super) fn start_instances(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let ids = instance_ids(call)?;
    let before = call.world.start_instances(call.now_ms, &ids)?;
    Ok(changes(call, &ids, &before))
}

/// Reboots are accepted; the guest of this model does not notice.
pub(super) fn reboot_instances(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let ids = instance_ids(call)?;
    call.world.begin_read(call.now_ms, "RebootInstances")?;
    match ids.iter().find(|id| call.world.instance(id).is_none()) {
        Some(id) => Err(no_instance(id)),
        None => Ok(Element::done()),
    }
}

pub(super) fn uefi_data(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)?;
    let data = call.world.uefi_data(call.now_ms, &id)?;
    Ok(Element::new().with("instanceId", &id).maybe("uefiData", data.as_ref()))
}

pub(super) fn describe_status(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("InstanceId");
    select::not_with_ids(call, &texts, "instancesSet")?;
    let ids = select::ids(&texts, "InvalidInstanceID", InstanceId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeInstanceStatus")?;
    let now_ms = call.world.now_ms();
    let all = call.params.is_set("IncludeAllInstances")?;
    let filters = Filters::read(&call.params)?;
    let is_unknown = |id: &&InstanceId| call.world.instance(id).is_none_or(|i| i.visible_at_ms > now_ms);
    let unknown: Vec<_> = ids.iter().filter(is_unknown).collect();
    if !unknown.is_empty() {
        return Err(no_instances(&unknown));
    }
    let mut found = Vec::new();
    for instance in call.world.all_instances() {
        if instance.visible_at_ms > now_ms
            || !(ids.is_empty() || ids.contains(&instance.id))
            || !(all || instance.state == InstanceState::Running)
        {
            continue;
        }
        let check = || show::check(call.world.check_of(&instance.id), instance.impaired_since_ms);
        if !filters.admit(&instance.tags, |name| field(call.world, instance, name)) {
            continue;
        }
        found.push((
            instance.id.to_string(),
            Element::new()
                .with("instanceId", &instance.id)
                .with("availabilityZone", &instance.zone)
                .inside("eventsSet", Element::new())
                .inside("instanceState", show::state(instance.state))
                .inside("systemStatus", check())
                .inside("instanceStatus", check())
                .inside("attachedEbsStatus", check()),
        ));
    }
    Ok(select::answer("instanceStatusSet", page(call, &Bounds::USUAL, found)?))
}

pub(super) fn modify_attribute(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)?;
    let mut devices = Vec::new();
    for mapping in call.params.each("BlockDeviceMapping") {
        // Left out means true (EC2 API reference): the trap that lost many volumes.
        let goes = mapping.scope("Ebs").flag("DeleteOnTermination")?.unwrap_or(true);
        devices.push((mapping.required("DeviceName")?.to_owned(), goes));
    }
    if !devices.is_empty() {
        call.world.modify_delete_on_termination(call.now_ms, &id, &devices)?;
        return Ok(Element::done());
    }
    let protected = call.params.flag("DisableApiTermination.Value")?;
    let protected = match (protected, call.params.text("Attribute"), call.params.flag("Value")) {
        (Some(value), ..) => Some(value),
        (None, Some("disableApiTermination"), Ok(value)) => value,
        _ => None,
    };
    if let Some(value) = protected {
        call.world.modify_protection(call.now_ms, &id, value)?;
        return Ok(Element::done());
    }
    let stop = match (call.params.flag("DisableApiStop.Value")?, call.params.text("Attribute")) {
        (None, Some("disableApiStop")) => call.params.flag("Value")?,
        (value, _) => value,
    };
    if let Some(value) = stop {
        call.world.modify_stop_protection(call.now_ms, &id, value)?;
        return Ok(Element::done());
    }
    Err(ApiError::new(
        "Unsupported",
        "this region modifies block device mappings, disableApiTermination and disableApiStop only",
    ))
}

pub(super) fn describe_attribute(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeInstanceAttribute")?;
    let instance = call.world.instance(&id).ok_or_else(|| no_instance(&id))?;
    let answer = Element::new().with("instanceId", &id);
    let value = |value: String| Element::new().with("value", value);
    Ok(match call.params.required("Attribute")? {
        "userData" => {
            let data = instance.user_data.as_deref().map(|kept| value(show::user_data(kept)));
            answer.inside("userData", data.unwrap_or_default())
        }
        "disableApiTermination" => {
            answer.inside("disableApiTermination", value(instance.protected.to_string()))
        }
        "instanceType" => answer.inside("instanceType", value(instance.instance_type.clone())),
        "rootDeviceName" => answer.inside("rootDeviceName", value(instance.root_device.clone())),
        "instanceInitiatedShutdownBehavior" => {
            answer.inside("instanceInitiatedShutdownBehavior", value("stop".to_owned()))
        }
        "sourceDestCheck" => answer.inside("sourceDestCheck", value("true".to_owned())),
        "ebsOptimized" => answer.inside("ebsOptimized", value(instance.ebs_optimized.to_string())),
        "disableApiStop" => answer.inside("disableApiStop", value(instance.stop_protected.to_string())),
        "kernel" => answer.inside("kernel", Element::new()),
        "ramdisk" => answer.inside("ramdisk", Element::new()),
        "sriovNetSupport" => answer.inside("sriovNetSupport", Element::new()),
        "productCodes" => answer.inside("productCodes", Element::new()),
        "enclaveOptions" => answer.inside("enclaveOptions", Element::new().with("enabled", false)),
        "enaSupport" => {
            let image = call.world.image(&instance.image);
            answer.inside("enaSupport", value(image.is_none_or(|image| image.traits.ena_support).to_string()))
        }
        // As the description of the instance has them.
        name @ ("groupSet" | "blockDeviceMapping") => {
            let part = show::instance(call.world, instance).part(name);
            answer.inside(name.to_owned(), part.unwrap_or_default())
        }
        other => return Err(bad("attribute", other)),
    })
}

pub(super) fn describe_spot_requests(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("SpotInstanceRequestId");
    let ids = select::ids(&texts, "InvalidSpotInstanceRequestID", SpotRequestId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeSpotInstanceRequests")?;
    let now_ms = call.world.now_ms();
    let filters = Filters::read(&call.params)?;
    for id in &ids {
        if call.world.spot_request(id).is_none_or(|request| request.visible_at_ms > now_ms) {
            let message = format!("The spot instance request ID '{id}' does not exist");
            return Err(ApiError::new("InvalidSpotInstanceRequestID.NotFound", message));
        }
    }
    let mut found = Vec::new();
    for request in call.world.all_spot_requests() {
        let fields = |name: &str| {
            let one = |value: &str| Some(vec![value.to_owned()]);
            match name {
                "spot-instance-request-id" => one(request.id.as_str()),
                "instance-id" => Some(request.instance.iter().map(ToString::to_string).collect()),
                "state" => one(&request.state),
                "status-code" => one(&request.status),
                "type" => one(show::kind(request.kind)),
                "launch.instance-type" => one(&request.launch.instance_type),
                "launch.image-id" => one(request.launch.image.as_str()),
                "launched-availability-zone" => {
                    let instance = request.instance.as_ref().and_then(|id| call.world.instance(id));
                    Some(instance.into_iter().map(|i| i.zone.clone()).collect())
                }
                "product-description" => one("Linux/UNIX"),
                _ => None,
            }
        };
        if request.visible_at_ms <= now_ms
            && (ids.is_empty() || ids.contains(&request.id))
            && filters.admit(&request.tags, fields)
        {
            found.push((request.id.to_string(), show::spot_request(call.world, request)));
        }
    }
    Ok(select::answer("spotInstanceRequestSet", page(call, &Bounds::USUAL, found)?))
}

pub(super) fn cancel_spot_requests(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("SpotInstanceRequestId");
    let ids = select::ids(&texts, "InvalidSpotInstanceRequestID", SpotRequestId::parse)?;
    if ids.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter SpotInstanceRequestId",
        ));
    }
    for id in &ids {
        call.world.cancel_spot_request(call.now_ms, id)?;
    }
    let items = ids.iter().filter_map(|id| {
        let request = call.world.spot_request(id)?;
        Some(Element::new().with("spotInstanceRequestId", id).with("state", &request.state))
    });
    Ok(Element::new().list("spotInstanceRequestSet", items))
}
