//! Launch templates and fleets.

use std::collections::BTreeMap;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::Market;

use super::super::params::{Params, Scope};
use super::super::xml::Element;
use super::call::{Call, specified_tags};
use super::instances::launch;
use super::select::{self, Bounds, Filters, page};
use super::show;
use crate::world::state::Template;
use crate::world::{ApiError, Fleet, FleetPart, FleetRequest, RunInstances};

pub(super) fn create_template(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let name = call.params.required("LaunchTemplateName")?;
    let tags = call.tags_for("launch-template")?;
    let parameters = call.all.below("LaunchTemplateData.");
    if parameters.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter LaunchTemplateData",
        ));
    }
    let id = call.world.create_template(call.now_ms, name, parameters, &tags)?;
    call.world.describe_version(&id, 1, call.params.text("VersionDescription").unwrap_or_default());
    let template = call.world.template(Some(&id), None)?;
    Ok(Element::new().inside("launchTemplate", show::template(template)))
}

fn template_of<'a>(call: &'a Call<'_>) -> Result<&'a Template, ApiError> {
    call.world.template(call.params.text("LaunchTemplateId"), call.params.text("LaunchTemplateName"))
}

/// The parameters of the call are those of the new version, over those of `SourceVersion`.
pub(super) fn create_template_version(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let template = template_of(call)?;
    let id = template.id.clone();
    let mut parameters = call.all.below("LaunchTemplateData.");
    if parameters.is_empty() {
        let message = "The request must contain the parameter LaunchTemplateData";
        return Err(ApiError::new("MissingParameter", message));
    }
    if let Some(source) = call.params.text("SourceVersion") {
        let merged = Params::from(parameters).over(template.version(Some(source))?);
        parameters = merged.all().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    }
    let number = call.world.create_template_version(call.now_ms, &id, parameters)?;
    call.world.describe_version(&id, number, call.params.text("VersionDescription").unwrap_or_default());
    Ok(Element::new().inside("launchTemplateVersion", template_version(template_of(call)?, number)))
}

pub(super) fn modify_template(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = template_of(call)?.id.clone();
    // The name in the API model, and that on the wire.
    let version = call.params.text("SetDefaultVersion").or_else(|| call.params.text("DefaultVersion"));
    let version = version.ok_or_else(|| {
        ApiError::new("MissingParameter", "The request must contain the parameter DefaultVersion")
    })?;
    call.world.set_default_version(call.now_ms, &id, version)?;
    Ok(Element::new().inside("launchTemplate", show::template(template_of(call)?)))
}

fn template_version(template: &Template, number: usize) -> Element {
    let data = number.checked_sub(1).and_then(|index| template.versions.get(index));
    Element::new()
        .with("launchTemplateId", &template.id)
        .with("launchTemplateName", &template.name)
        .with("versionNumber", number)
        .maybe("versionDescription", template.descriptions.get(&number))
        .with("createTime", show::time(template.created_at_ms))
        .with("defaultVersion", number == template.default_version)
        .inside("launchTemplateData", data.map(|data| template_data(data, "")).unwrap_or_default())
}

/// The parameters of a template below a prefix, as a describe shows them: `BlockDeviceMapping.1.Ebs` is there
/// `blockDeviceMappingSet`, `item`, `ebs`.
fn template_data(data: &BTreeMap<String, String>, prefix: &str) -> Element {
    let rest: Vec<_> =
        data.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value))).collect();
    let mut names: Vec<&str> =
        rest.iter().map(|(key, _)| key.split_once('.').map_or(*key, |(name, _)| name)).collect();
    // The tenth of a list comes after the second.
    names.sort_by_key(|name| (name.len(), *name));
    names.dedup();
    let is_list = |name: &str| {
        let below = format!("{name}.");
        let mut keys = rest.iter().filter_map(|(key, _)| key.strip_prefix(&below));
        keys.next().is_some_and(|key| key.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.into_iter().fold(Element::new(), |element, name| {
        let shown = match name {
            _ if name.starts_with(|c: char| c.is_ascii_digit()) => "item".to_owned(),
            "SecurityGroupId" if prefix.starts_with("NetworkInterface.") => "groupSet".to_owned(),
            _ => {
                let (first, others) = name.split_at(1);
                let set = if is_list(name) { "Set" } else { "" };
                format!("{}{others}{set}", first.to_ascii_lowercase())
            }
        };
        match data.get(&format!("{prefix}{name}")) {
            Some(value) => element.text(shown, value),
            None => element.inside(shown, template_data(data, &format!("{prefix}{name}."))),
        }
    })
}

pub(super) fn delete_template(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = template_of(call)?.id.clone();
    let gone = call.world.delete_template(call.now_ms, &id)?;
    Ok(Element::new().inside("launchTemplate", show::template(&gone)))
}

pub(super) fn describe_templates(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeLaunchTemplates")?;
    let (ids, names) = (call.params.texts("LaunchTemplateId"), call.params.texts("LaunchTemplateName"));
    let filters = Filters::read(&call.params)?;
    for id in &ids {
        call.world.template(Some(id), None)?;
    }
    for name in &names {
        call.world.template(None, Some(name))?;
    }
    let mut found = Vec::new();
    for template in call.world.all_templates() {
        let fields = |name: &str| match name {
            "launch-template-name" => Some(vec![template.name.clone()]),
            "create-time" => Some(vec![show::time(template.created_at_ms)]),
            _ => None,
        };
        if (ids.is_empty() || ids.contains(&template.id.as_str()))
            && (names.is_empty() || names.contains(&template.name.as_str()))
            && filters.admit(&template.tags, fields)
        {
            found.push((template.id.clone(), show::template(template)));
        }
    }
    Ok(select::answer("launchTemplates", page(call, &Bounds::strict(1, 200), found)?))
}

/// The versions of one template; `$Latest` and `$Default` also of all templates.
pub(super) fn describe_template_versions(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeLaunchTemplateVersions")?;
    let filters = Filters::read(&call.params)?;
    let asked = call.params.texts("LaunchTemplateVersion");
    let least: Option<usize> = call.params.number("MinVersion")?;
    let most: Option<usize> = call.params.number("MaxVersion")?;
    let is_range = least.is_some() || most.is_some();
    if is_range && !asked.is_empty() {
        let message = "Versions cannot be used together with MinVersion and MaxVersion";
        return Err(ApiError::new("InvalidParameterCombination", message));
    }
    let is_of_one =
        ["LaunchTemplateId", "LaunchTemplateName"].iter().any(|name| call.params.text(name).is_some());
    let templates = match is_of_one {
        true => vec![template_of(call)?],
        false
            if !asked.is_empty()
                && asked.iter().all(|version| matches!(*version, "$Latest" | "$Default")) =>
        {
            call.world.all_templates().collect()
        }
        false => {
            let message = "LaunchTemplateId or LaunchTemplateName is needed, unless $Latest or $Default of all is meant";
            return Err(ApiError::new("MissingParameter", message));
        }
    };
    let range = least.unwrap_or(1)..=most.unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for template in templates {
        let mut wanted: Vec<usize> =
            asked.iter().map(|version| template.number(Some(version))).collect::<Result<_, _>>()?;
        wanted.sort_unstable();
        wanted.dedup();
        if asked.is_empty() {
            wanted = (1..=template.versions.len()).filter(|number| range.contains(number)).collect();
        }
        for number in wanted {
            if filters.admit(&Default::default(), |name| version_field(template, number, name)) {
                found.push((format!("{} {number:010}", template.id), template_version(template, number)));
            }
        }
    }
    Ok(select::answer("launchTemplateVersionSet", page(call, &Bounds::strict(1, 200), found)?))
}

fn version_field(template: &Template, number: usize, name: &str) -> Option<Vec<String>> {
    let data = &template.versions[number - 1];
    let of = |key: &str| Some(data.get(key).into_iter().cloned().collect());
    match name {
        "create-time" => Some(vec![show::time(template.created_at_ms)]),
        "is-default-version" => Some(vec![(number == template.default_version).to_string()]),
        "ebs-optimized" => of("EbsOptimized"),
        "http-endpoint" => of("MetadataOptions.HttpEndpoint"),
        "http-tokens" => of("MetadataOptions.HttpTokens"),
        "iam-instance-profile" => of("IamInstanceProfile.Arn"),
        "image-id" => of("ImageId"),
        "instance-type" => of("InstanceType"),
        "kernel-id" => of("KernelId"),
        "ram-disk-id" => of("RamDiskId"),
        _ => None,
    }
}

/// How many instances a fleet asks for: on demand, and on spot. What neither names is of the default kind.
fn targets(capacity: &Scope<'_>) -> Result<(u32, u32), ApiError> {
    let total: u32 = capacity
        .number("TotalTargetCapacity")?
        .ok_or_else(|| ApiError::new("MissingParameter", "TotalTargetCapacity is missing"))?;
    let on_demand: Option<u32> = capacity.number("OnDemandTargetCapacity")?;
    let spot: Option<u32> = capacity.number("SpotTargetCapacity")?;
    let (on_demand, spot) = (on_demand.unwrap_or(0), spot.unwrap_or(0));
    // That this is refused is plausible; the code is a guess.
    let rest = on_demand.checked_add(spot).and_then(|named| total.checked_sub(named)).ok_or_else(|| {
        let message =
            "The sum of OnDemandTargetCapacity and SpotTargetCapacity is larger than TotalTargetCapacity";
        ApiError::new("InvalidParameterCombination", message)
    })?;
    match capacity.text("DefaultTargetCapacityType") {
        None | Some("on-demand") => Ok((on_demand + rest, spot)),
        Some("spot") => Ok((on_demand, spot + rest)),
        Some(other) => {
            let message = format!("Invalid value '{other}' for DefaultTargetCapacityType.");
            Err(ApiError::new("InvalidParameterValue", message))
        }
    }
}

/// One way to launch: an override of a template, as the answer shows it.
struct Way<'a> {
    template: &'a BTreeMap<String, String>,
    one: Scope<'a>,
    shown: Element,
}

fn ways<'a>(call: &'a Call<'_>) -> Result<Vec<Way<'a>>, ApiError> {
    let mut ways = Vec::new();
    for config in call.params.each("LaunchTemplateConfigs") {
        let said = config.scope("LaunchTemplateSpecification");
        let template = call.world.template(said.text("LaunchTemplateId"), said.text("LaunchTemplateName"))?;
        // The answer names the version that was meant, whatever the call says (`$Latest`).
        let number = template.number(said.text("Version"))?;
        let mut each = config.each("Overrides");
        if each.is_empty() {
            each.push(config.scope("Overrides.0"));
        }
        for one in each {
            let specification = Element::new().with("launchTemplateId", &template.id).with("version", number);
            let data = &template.versions[number - 1];
            let kind = one.text("InstanceType").or(data.get("InstanceType").map(String::as_str));
            let overrides = Element::new()
                .with("instanceType", kind.unwrap_or("m1.small"))
                .maybe("subnetId", one.text("SubnetId"))
                .maybe("availabilityZone", one.text("AvailabilityZone"));
            let shown = Element::new()
                .inside("launchTemplateSpecification", specification)
                .inside("overrides", overrides);
            ways.push(Way { template: data, one, shown });
        }
    }
    Ok(ways)
}

pub(super) fn create_fleet(call: &mut Call<'_>) -> Result<Element, ApiError> {
    if call.params.text("Type") != Some("instant") {
        return Err(ApiError::new("Unsupported", "this region knows fleets of type instant only"));
    }
    // "If the fleet type is instant, specify a resource type of fleet to tag the fleet or instance to tag the
    // instances at launch" (EC2 API reference, CreateFleet).
    let [tags, instance_tags] = specified_tags(&call.params, ["fleet", "instance"])?;
    let (on_demand, spot) = targets(&call.params.scope("TargetCapacitySpecification"))?;
    let ways = ways(call)?;
    let mut parts = Vec::new();
    for (market, target, options) in
        [(Market::OnDemand, on_demand, "OnDemandOptions"), (Market::Spot, spot, "SpotOptions")]
    {
        if target > 0 {
            let overrides = ways
                .iter()
                .map(|way| fleet_launch(call, way, market, &instance_tags))
                .collect::<Result<_, _>>()?;
            let least = call.params.scope(options).number("MinTargetCapacity")?.unwrap_or(0);
            parts.push(FleetPart { market, target, least, overrides });
        }
    }
    let shown: Vec<_> = ways.into_iter().map(|way| way.shown).collect();
    let client_token = call.params.owned("ClientToken").unwrap_or_default();
    let request = FleetRequest { client_token, parts, tags };
    let fleet = call.world.create_fleet(call.now_ms, &request)?;
    let way = |index: usize| shown.get(index).cloned().unwrap_or_default();
    let errors = fleet.refused.iter().map(|(index, market, refusal)| {
        Element::new()
            .inside("launchTemplateAndOverrides", way(*index))
            .with("lifecycle", market)
            .with("errorCode", &refusal.code)
            .with("errorMessage", &refusal.message)
    });
    let instances = fleet.launched.iter().map(|(index, market, ids)| {
        let kind = ids.first().and_then(|id| call.world.instance(id)).map(|found| &found.instance_type);
        Element::new()
            .inside("launchTemplateAndOverrides", way(*index))
            .with("lifecycle", market)
            .texts("instanceIds", ids)
            .maybe("instanceType", kind)
    });
    Ok(Element::new().with("fleetId", &fleet.id).list("errorSet", errors).list("fleetInstanceSet", instances))
}

/// The launch of one override: the template's parameters with the override's over them.
fn fleet_launch(
    call: &Call<'_>,
    way: &Way<'_>,
    market: Market,
    tags: &Tags,
) -> Result<RunInstances, ApiError> {
    let mut said = BTreeMap::new();
    for (from, to) in [
        ("InstanceType", "InstanceType"),
        ("SubnetId", "SubnetId"),
        ("ImageId", "ImageId"),
        ("AvailabilityZone", "Placement.AvailabilityZone"),
    ] {
        if let Some(value) = way.one.text(from) {
            said.insert(to.to_owned(), value.to_owned());
        }
    }
    if market == Market::Spot {
        said.insert("InstanceMarketOptions.MarketType".to_owned(), "spot".to_owned());
        if let Some(price) = way.one.text("MaxPrice") {
            said.insert("InstanceMarketOptions.SpotOptions.MaxPrice".to_owned(), price.to_owned());
        }
    }
    let merged = Params::from(said).over(way.template);
    let mut launch = launch(call.world, &merged.root())?;
    launch.market = market;
    launch.tags.instance.extend(tags.clone());
    Ok(launch)
}

pub(super) fn delete_fleets(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let ids: Vec<_> = call.params.texts("FleetId").into_iter().map(str::to_owned).collect();
    if ids.is_empty() {
        return Err(ApiError::new("MissingParameter", "The request must contain the parameter FleetId"));
    }
    let terminates = call.params.flag("TerminateInstances")?;
    let terminates = terminates
        .ok_or_else(|| ApiError::new("MissingParameter", "The request must contain TerminateInstances"))?;
    call.world.begin_read(call.now_ms, "DeleteFleets")?;
    let (mut deleted, mut others) = (Vec::new(), Vec::new());
    for id in ids {
        match call.world.delete_fleet(&id, terminates) {
            Ok(_) => deleted.push(
                Element::new()
                    .with("currentFleetState", "deleted_terminating")
                    .with("previousFleetState", "active")
                    .with("fleetId", &id),
            ),
            Err(why) => others.push(
                Element::new()
                    .inside("error", Element::new().with("code", why.code()).with("message", why.code()))
                    .with("fleetId", &id),
            ),
        }
    }
    Ok(Element::new()
        .list("successfulFleetDeletionSet", deleted)
        .list("unsuccessfulFleetDeletionSet", others))
}

/// A fleet of type `instant` is described by its id only (EC2 API reference, DescribeFleets).
pub(super) fn describe_fleets(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeFleets")?;
    let ids = call.params.texts("FleetId");
    let filters = Filters::read(&call.params)?;
    if let Some(id) = ids.iter().find(|id| !call.world.all_fleets().any(|fleet| fleet.id == **id)) {
        let message = format!("The fleet ID '{id}' does not exist");
        return Err(ApiError::new("InvalidFleetId.NotFound", message));
    }
    let mut found = Vec::new();
    for fleet in call.world.all_fleets() {
        let (state, activity) = standing(call, fleet);
        let fields = |name: &str| match name {
            "type" => Some(vec!["instant".to_owned()]),
            "fleet-state" => Some(vec![state.to_owned()]),
            "activity-status" => Some(vec![activity.to_owned()]),
            "excess-capacity-termination-policy" => Some(vec!["termination".to_owned()]),
            "replace-unhealthy-instances" => Some(vec!["false".to_owned()]),
            _ => None,
        };
        if filters.admit(&fleet.tags, fields) && ids.contains(&fleet.id.as_str()) {
            found.push((fleet.id.clone(), shown_fleet(fleet, state, activity)));
        }
    }
    Ok(select::answer("fleetSet", page(call, &Bounds::strict(1, 1000), found)?))
}

/// The state of a fleet and of its activity.
fn standing(call: &Call<'_>, fleet: &Fleet) -> (&'static str, &'static str) {
    let is_alive = |id| call.world.instance(id).is_some_and(|found| !found.state.is_over());
    match (fleet.deleted, fleet.instances.iter().any(is_alive)) {
        (false, _) if fleet.instances.is_empty() => ("active", "error"),
        (false, _) => ("active", "fulfilled"),
        (true, true) => ("deleted_terminating", "pending_termination"),
        (true, false) => ("deleted", "fulfilled"),
    }
}

fn shown_fleet(fleet: &Fleet, state: &str, activity: &str) -> Element {
    let (on_demand, spot) = fleet.targets;
    let capacity = Element::new()
        .with("totalTargetCapacity", on_demand + spot)
        .with("onDemandTargetCapacity", on_demand)
        .with("spotTargetCapacity", spot);
    Element::new()
        .with("activityStatus", activity)
        .with("createTime", show::time(fleet.created_at_ms))
        .with("fleetId", &fleet.id)
        .with("fleetState", state)
        .with("clientToken", &fleet.client_token)
        .with("fulfilledCapacity", format!("{}.0", fleet.instances.len()))
        .inside("targetCapacitySpecification", capacity)
        .with("terminateInstancesWithExpiration", false)
        .with("type", "instant")
        .with("replaceUnhealthyInstances", false)
        .list_if_any("tagSet", show::tags(&fleet.tags))
}
