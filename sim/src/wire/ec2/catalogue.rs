//! Types, zones, prices, scores, tags.

use super::super::params::Scope;
use super::super::xml::Element;
use super::call::{Call, read_tags};
use super::select::{self, Bounds, Filters, page};
use super::show;
use crate::world::{ApiError, Gpu, Shape, TYPES, is_current};

pub(super) fn describe_regions(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeRegions")?;
    let filters = Filters::read(&call.params)?;
    let region = &call.world.settings.region;
    if let Some(other) = call.params.texts("RegionName").into_iter().find(|name| name != region) {
        let message = format!("Invalid region provided: {other}");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    let endpoint = format!("ec2.{region}.amazonaws.com");
    let fields = |name: &str| match name {
        "endpoint" => Some(vec![endpoint.clone()]),
        "region-name" => Some(vec![region.clone()]),
        "opt-in-status" => Some(vec!["opt-in-not-required".to_owned()]),
        _ => None,
    };
    let shown = Element::new()
        .with("regionName", region)
        .with("regionEndpoint", &endpoint)
        .with("optInStatus", "opt-in-not-required");
    let found = filters.admit(&Default::default(), fields).then_some(shown);
    Ok(Element::new().list("regionInfo", found))
}

pub(super) fn describe_zones(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeAvailabilityZones")?;
    let (names, ids) = (call.params.texts("ZoneName"), call.params.texts("ZoneId"));
    let filters = Filters::read(&call.params)?;
    let zones = call.world.zones();
    if let Some(name) = names.iter().find(|name| !zones.iter().any(|zone| zone == *name)) {
        return Err(ApiError::new("InvalidParameterValue", format!("Invalid availability zone: [{name}]")));
    }
    if let Some(id) = ids.iter().find(|id| !zones.iter().any(|zone| show::zone_id(zone) == **id)) {
        return Err(ApiError::new("InvalidParameterValue", format!("Invalid availability zone-id: [{id}]")));
    }
    let region = &call.world.settings.region;
    let mut found = Vec::new();
    for zone in &zones {
        let fields = |name: &str| match name {
            "zone-name" => Some(vec![zone.clone()]),
            "zone-id" => Some(vec![show::zone_id(zone)]),
            "zone-type" => Some(vec!["availability-zone".to_owned()]),
            "state" => Some(vec!["available".to_owned()]),
            "region-name" | "group-name" => Some(vec![region.clone()]),
            "opt-in-status" => Some(vec!["opt-in-not-required".to_owned()]),
            _ => None,
        };
        if (names.is_empty() || names.contains(&zone.as_str()))
            && (ids.is_empty() || ids.contains(&show::zone_id(zone).as_str()))
            && filters.admit(&Default::default(), fields)
        {
            found.push(
                Element::new()
                    .with("zoneName", zone)
                    .with("zoneId", show::zone_id(zone))
                    .with("zoneState", "available")
                    .with("zoneType", "availability-zone")
                    .with("regionName", region)
                    .with("groupName", region)
                    .with("networkBorderGroup", region)
                    .with("optInStatus", "opt-in-not-required")
                    .inside("messageSet", Element::new()),
            );
        }
    }
    Ok(Element::new().list("availabilityZoneInfo", found))
}

fn unknown_type(name: &str) -> ApiError {
    let message = format!("The following supplied instance types do not exist: [{name}]");
    ApiError::new("InvalidInstanceType", message)
}

/// The types a call asks for: by the parameter, or by name in a filter; those of a list otherwise.
fn asked(call: &Call<'_>, parameter: &str, filters: &Filters) -> Result<Vec<String>, ApiError> {
    let asked = call.params.texts(parameter);
    if asked.is_empty()
        && let Some(named) = filters.named_types()
    {
        return Ok(named.into_iter().filter(|name| Shape::of(name).is_some()).collect());
    }
    if let Some(name) = asked.iter().find(|name| Shape::of(name).is_none()) {
        return Err(unknown_type(name));
    }
    let all = if asked.is_empty() { TYPES.to_vec() } else { asked };
    Ok(all.into_iter().map(str::to_owned).collect())
}

pub(super) fn describe_types(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeInstanceTypes")?;
    let filters = Filters::read(&call.params)?;
    let mut found = Vec::new();
    for name in asked(call, "InstanceType", &filters)? {
        let Some(shape) = Shape::of(&name) else { continue };
        let is_metal = name.contains(".metal");
        let fields = |filter: &str| {
            let one = |value: String| Some(vec![value]);
            match filter {
                "instance-type" => one(name.clone()),
                "current-generation" => one(is_current(&name).to_string()),
                "vcpu-info.default-vcpus" => one(shape.vcpus.to_string()),
                "memory-info.size-in-mib" => one(shape.memory_mib.to_string()),
                "processor-info.supported-architecture" => one(shape.architecture.to_owned()),
                "supported-usage-class" => Some(vec!["on-demand".to_owned(), "spot".to_owned()]),
                "bare-metal" => one(is_metal.to_string()),
                "burstable-performance-supported" => one(name.starts_with('t').to_string()),
                "vcpu-info.default-cores" => one(shape.vcpus.div_ceil(2).to_string()),
                "vcpu-info.default-threads-per-core" => one(shape.vcpus.min(2).to_string()),
                "hypervisor" => Some((!is_metal).then(|| "nitro".to_owned()).into_iter().collect()),
                "instance-storage-supported" | "free-tier-eligible" | "hibernation-supported" => {
                    one("false".to_owned())
                }
                "auto-recovery-supported" => one("true".to_owned()),
                "network-info.ena-support" => one("required".to_owned()),
                "network-info.maximum-network-interfaces" => one("4".to_owned()),
                "network-info.ipv4-addresses-per-interface" => one("15".to_owned()),
                "supported-root-device-type" => one("ebs".to_owned()),
                "supported-virtualization-type" => one("hvm".to_owned()),
                _ => None,
            }
        };
        if !filters.admit(&Default::default(), fields) {
            continue;
        }
        let shown = Element::new()
            .with("instanceType", &name)
            .with("currentGeneration", is_current(&name))
            .with("freeTierEligible", false)
            .texts("supportedUsageClasses", ["on-demand", "spot"])
            .texts("supportedRootDeviceTypes", ["ebs"])
            .texts("supportedVirtualizationTypes", ["hvm"])
            .with("bareMetal", is_metal)
            .maybe("hypervisor", (!is_metal).then_some("nitro"))
            .inside("processorInfo", Element::new().texts("supportedArchitectures", [shape.architecture]))
            .inside(
                "vCpuInfo",
                Element::new()
                    .with("defaultVCpus", shape.vcpus)
                    .with("defaultCores", shape.vcpus.div_ceil(2))
                    .with("defaultThreadsPerCore", shape.vcpus.min(2)),
            )
            .inside("memoryInfo", Element::new().with("sizeInMiB", shape.memory_mib))
            .maybe_inside("gpuInfo", shape.gpu.map(gpu_info))
            .with("instanceStorageSupported", false)
            .inside(
                "networkInfo",
                Element::new()
                    .with("maximumNetworkInterfaces", 4)
                    .with("ipv4AddressesPerInterface", 15)
                    .with("enaSupport", "required"),
            )
            .with("hibernationSupported", false)
            .with("burstablePerformanceSupported", name.starts_with('t'))
            .with("autoRecoverySupported", true);
        found.push((name, shown));
    }
    Ok(select::answer("instanceTypeSet", page(call, &Bounds::strict(5, 100), found)?))
}

fn gpu_info(gpu: Gpu) -> Element {
    let one = Element::new()
        .with("name", gpu.name)
        .with("manufacturer", "NVIDIA")
        .with("count", gpu.count)
        .inside("memoryInfo", Element::new().with("sizeInMiB", gpu.memory_mib));
    Element::new().list("gpus", [one]).with("totalGpuMemoryInMiB", gpu.count * gpu.memory_mib)
}

/// `Min` and `Max` of a requirement; one that is not given admits everything.
fn range(scope: &Scope<'_>, name: &str) -> Result<impl Fn(u32) -> bool + use<>, ApiError> {
    let scope = scope.scope(name);
    let (min, max): (Option<u32>, Option<u32>) = (scope.number("Min")?, scope.number("Max")?);
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        let message = format!("{name}: the minimum is larger than the maximum");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    Ok(move |n| min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max))
}

/// GetInstanceTypesFromInstanceRequirements: of the listed types those that fit. Burstable and bare metal
/// ones only when they are included, as documented.
pub(super) fn types_by_requirements(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "GetInstanceTypesFromInstanceRequirements")?;
    let architectures = call.params.texts("ArchitectureType");
    let virtualization = call.params.texts("VirtualizationType");
    if architectures.is_empty() || virtualization.is_empty() {
        let message = "The request must contain the parameters ArchitectureType and VirtualizationType";
        return Err(ApiError::new("MissingParameter", message));
    }
    let wanted = call.params.scope("InstanceRequirements");
    for needed in ["VCpuCount", "MemoryMiB"] {
        wanted.scope(needed).required("Min")?;
    }
    let (vcpus, memory) = (range(&wanted, "VCpuCount")?, range(&wanted, "MemoryMiB")?);
    let accelerators = range(&wanted, "AcceleratorCount")?;
    let (allowed, excluded) = (wanted.texts("AllowedInstanceType"), wanted.texts("ExcludedInstanceType"));
    let named = |list: &[&str], name: &str| list.iter().any(|pattern| select::like(pattern, name));
    let how = |kind: &str, is: bool| match wanted.text(kind) {
        Some("included") => true,
        Some("required") => is,
        _ => !is,
    };
    let mut found = Vec::new();
    for name in TYPES {
        let Some(shape) = Shape::of(name) else { continue };
        let fits = architectures.contains(&shape.architecture)
            && virtualization.contains(&"hvm")
            && vcpus(shape.vcpus)
            && memory(shape.memory_mib)
            && accelerators(shape.gpu.map_or(0, |gpu| gpu.count))
            && (allowed.is_empty() || named(&allowed, name))
            && !named(&excluded, name)
            && how("BurstablePerformance", name.starts_with('t'))
            && how("BareMetal", name.contains(".metal"))
            && call.world.zones().iter().any(|zone| call.world.offers(name, zone));
        if fits {
            found.push((name.to_owned(), Element::new().with("instanceType", name)));
        }
    }
    Ok(select::answer("instanceTypeSet", page(call, &Bounds::strict(1, 1000), found)?))
}

pub(super) fn describe_offerings(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeInstanceTypeOfferings")?;
    let filters = Filters::read(&call.params)?;
    let kind = call.params.text("LocationType").unwrap_or("region");
    let zones = call.world.zones();
    let locations = match kind {
        "region" => vec![call.world.settings.region.clone()],
        "availability-zone" => zones.clone(),
        "availability-zone-id" => zones.iter().map(|zone| show::zone_id(zone)).collect(),
        other => {
            let message = format!("Invalid value '{other}' for locationType");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
    };
    let mut found = Vec::new();
    for name in filters.named_types().unwrap_or_else(|| TYPES.map(str::to_owned).to_vec()) {
        for (n, location) in locations.iter().enumerate() {
            let offered = match kind {
                "region" => zones.iter().any(|zone| call.world.offers(&name, zone)),
                _ => call.world.offers(&name, &zones[n]),
            };
            let fields = |filter: &str| match filter {
                "instance-type" => Some(vec![name.clone()]),
                "location" => Some(vec![location.clone()]),
                _ => None,
            };
            if offered && filters.admit(&Default::default(), fields) {
                let shown = Element::new()
                    .with("instanceType", &name)
                    .with("locationType", kind)
                    .with("location", location);
                found.push((format!("{name} {location}"), shown));
            }
        }
    }
    Ok(select::answer("instanceTypeOfferingSet", page(call, &Bounds::USUAL, found)?))
}

pub(super) fn describe_prices(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeSpotPriceHistory")?;
    let filters = Filters::read(&call.params)?;
    let zone = call.params.text("AvailabilityZone");
    let products = call.params.texts("ProductDescription");
    let since_ms = match call.params.text("StartTime") {
        None => 0,
        Some(text) => {
            let bad =
                || ApiError::new("InvalidParameterValue", format!("Invalid value '{text}' for StartTime"));
            let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
            u64::try_from(time.as_millisecond()).map_err(|_| bad())?
        }
    };
    let linux = products.is_empty() || products.iter().any(|product| product.starts_with("Linux/UNIX"));
    let mut found = Vec::new();
    for name in asked(call, "InstanceType", &filters)?.into_iter().filter(|_| linux) {
        for known in call.world.zones() {
            if zone.is_some_and(|zone| zone != known) || !call.world.offers(&name, &known) {
                continue;
            }
            for price in call.world.spot_prices(&name, &known, since_ms) {
                let text =
                    format!("{}.{:06}", price.micro_dollars / 1_000_000, price.micro_dollars % 1_000_000);
                let fields = |filter: &str| match filter {
                    "instance-type" => Some(vec![name.clone()]),
                    "availability-zone" => Some(vec![known.clone()]),
                    "product-description" => Some(vec!["Linux/UNIX".to_owned()]),
                    "spot-price" => Some(vec![text.clone()]),
                    "timestamp" => Some(vec![show::time(price.at_ms)]),
                    _ => None,
                };
                if filters.admit(&Default::default(), fields) {
                    let shown = Element::new()
                        .with("instanceType", &name)
                        .with("productDescription", "Linux/UNIX")
                        .with("spotPrice", &text)
                        .with("timestamp", show::time(price.at_ms))
                        .with("availabilityZone", &known);
                    // Newest first, and within an hour by type and zone.
                    found.push((format!("{:020} {name} {known}", u64::MAX - price.at_ms), shown));
                }
            }
        }
    }
    Ok(select::answer("spotPriceHistorySet", page(call, &Bounds::strict(1, 1000), found)?))
}

pub(super) fn placement_scores(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "GetSpotPlacementScores")?;
    let types: Vec<_> = call.params.texts("InstanceType").into_iter().map(str::to_owned).collect();
    let target: u32 = call
        .params
        .number("TargetCapacity")?
        .ok_or_else(|| ApiError::new("MissingParameter", "TargetCapacity is missing"))?;
    let region = call.world.settings.region.clone();
    let regions = call.params.texts("RegionName");
    let here = regions.is_empty() || regions.contains(&region.as_str());
    let single = call.params.is_set("SingleAvailabilityZone")?;
    let mut scores = Vec::new();
    for zone in call.world.zones().iter().filter(|_| here) {
        let score = call.world.placement_score(&types, target, zone)?;
        scores.push((score, show::zone_id(zone)));
    }
    scores.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    let of = |score: u8| Element::new().with("region", &region).with("score", score);
    let shown: Vec<_> = match (single, scores.first()) {
        (true, _) => scores.iter().map(|(score, zone)| of(*score).with("availabilityZoneId", zone)).collect(),
        (false, best) => best.map(|(score, _)| of(*score)).into_iter().collect(),
    };
    let shown = shown.into_iter().enumerate().map(|(n, shown)| (format!("{n:03}"), shown)).collect();
    Ok(select::answer("spotPlacementScoreSet", page(call, &Bounds::strict(10, 1000), shown)?))
}

fn resources(call: &Call<'_>) -> Result<Vec<String>, ApiError> {
    let ids: Vec<_> = call.params.texts("ResourceId").into_iter().map(str::to_owned).collect();
    match ids.len() {
        0 => Err(ApiError::new("MissingParameter", "The request must contain the parameter resourceIdSet")),
        1..=1000 => Ok(ids),
        _ => Err(ApiError::new("InvalidParameterValue", "at most 1000 resources")),
    }
}

pub(super) fn create_tags(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let ids = resources(call)?;
    let tags = read_tags(&call.params, "Tag")?;
    call.world.create_tags(call.now_ms, &ids, &tags)?;
    Ok(Element::done())
}

pub(super) fn delete_tags(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let ids = resources(call)?;
    let mut tags = Vec::new();
    for tag in call.params.each("Tag") {
        tags.push((tag.required("Key")?.to_owned(), tag.owned("Value")));
    }
    if tags.is_empty() {
        let all = call.world.all_tagged().filter(|found| ids.contains(&found.id));
        tags = all.flat_map(|found| found.tags.keys().map(|key| (key.clone(), None))).collect();
    }
    call.world.delete_tags(call.now_ms, &ids, &tags)?;
    Ok(Element::done())
}

pub(super) fn describe_tags(call: &mut Call<'_>) -> Result<Element, ApiError> {
    call.world.begin_read(call.now_ms, "DescribeTags")?;
    let filters = Filters::read(&call.params)?;
    let mut found = Vec::new();
    for object in call.world.all_tagged() {
        for (key, value) in object.tags {
            let fields = |name: &str| match name {
                "resource-id" => Some(vec![object.id.clone()]),
                "resource-type" => Some(vec![object.kind.to_owned()]),
                "key" => Some(vec![key.clone()]),
                "value" => Some(vec![value.clone()]),
                _ => None,
            };
            if filters.admit(object.tags, fields) {
                let shown = Element::new()
                    .with("resourceId", &object.id)
                    .with("resourceType", object.kind)
                    .with("key", key)
                    .with("value", value);
                found.push((format!("{} {key}", object.id), shown));
            }
        }
    }
    Ok(select::answer("tagSet", page(call, &Bounds::USUAL, found)?))
}
