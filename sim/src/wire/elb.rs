//! The part of Elastic Load Balancing v2's query protocol that registers targets.

use std::collections::BTreeMap;

use super::ec2::{VPC, read_tags};
use super::params::{Params, Scope};
use super::xml::Element;
use crate::world::{ApiError, TargetGroup, TargetGroupSettings, World};

/// The namespace of every answer, which names the protocol's version.
pub(crate) const NAMESPACE: &str = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/";
/// That version.
pub(crate) const VERSION: &str = "2015-12-01";
/// The longest page (ELB API reference).
const PAGE_MAX: usize = 400;

/// Makes a call; the answer is the content of `<…Result>`.
pub(crate) fn call(world: &mut World, now_ms: u64, action: &str, all: &Params) -> Result<Element, ApiError> {
    let params = all.root();
    params.text("Action");
    params.text("Version");
    let arn = || required(&params, "TargetGroupArn");
    match action {
        "CreateTargetGroup" => {
            let settings = settings(&params)?;
            let tags = read_tags(&params.scope("Tags"), "member")?;
            let group = world.create_target_group(now_ms, &settings, &tags)?.clone();
            Ok(Element::new().members("TargetGroups", [shown(&group)]))
        }
        "DescribeTargetGroups" => describe(world, now_ms, &params),
        "DeleteTargetGroup" => {
            world.delete_target_group(now_ms, arn()?);
            Ok(Element::new())
        }
        "ModifyTargetGroupAttributes" => {
            let mut changes = BTreeMap::new();
            for attribute in params.scope("Attributes").each("member") {
                let key = required(&attribute, "Key")?.to_owned();
                changes.insert(key, attribute.owned("Value").unwrap_or_default());
            }
            world.modify_target_group(now_ms, arn()?, &changes)?;
            attributes(world, arn()?)
        }
        "DescribeTargetGroupAttributes" => {
            world.advance(now_ms);
            attributes(world, arn()?)
        }
        "RegisterTargets" => {
            world.register_targets(now_ms, arn()?, &needed(targets(&params)?)?)?;
            Ok(Element::new())
        }
        "DeregisterTargets" => {
            world.deregister_targets(now_ms, arn()?, &needed(targets(&params)?)?)?;
            Ok(Element::new())
        }
        "DescribeTargetHealth" => {
            let found = world.target_health(now_ms, arn()?, &targets(&params)?)?;
            let members = found.into_iter().map(|((id, port), health)| {
                let words = |text: &'static str| Some(text).filter(|text| !text.is_empty());
                let state = Element::new()
                    .with("State", health.state)
                    .maybe("Reason", words(health.reason))
                    .maybe("Description", words(health.description));
                Element::new()
                    .inside("Target", Element::new().with("Id", id).with("Port", port))
                    .with("HealthCheckPort", port)
                    .inside("TargetHealth", state)
            });
            Ok(Element::new().members("TargetHealthDescriptions", members))
        }
        other => {
            let message = format!("{other} is not known here: this region has target groups only");
            Err(ApiError::new("InvalidAction", message))
        }
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationError", message)
}

fn required<'a>(params: &Scope<'a>, name: &str) -> Result<&'a str, ApiError> {
    params.text(name).ok_or_else(|| invalid(format!("{name} is required")))
}

fn port(params: &Scope<'_>, name: &str) -> Result<Option<u16>, ApiError> {
    let port: Option<u16> = params.number(name).map_err(|error| invalid(error.message))?;
    if port == Some(0) { Err(invalid("a port is between 1 and 65535")) } else { Ok(port) }
}

fn settings(params: &Scope<'_>) -> Result<TargetGroupSettings, ApiError> {
    let kept = [
        "HealthCheckEnabled",
        "HealthCheckIntervalSeconds",
        "HealthCheckPath",
        "HealthCheckPort",
        "HealthCheckProtocol",
        "HealthCheckTimeoutSeconds",
        "HealthyThresholdCount",
        "UnhealthyThresholdCount",
        "VpcId",
    ];
    let others = kept.iter().filter_map(|name| Some(((*name).to_owned(), params.owned(name)?)));
    Ok(TargetGroupSettings {
        name: required(params, "Name")?.to_owned(),
        protocol: required(params, "Protocol")?.to_owned(),
        port: port(params, "Port")?.ok_or_else(|| invalid("Port is required"))?,
        target_type: params.owned("TargetType").unwrap_or_else(|| "instance".to_owned()),
        others: others.collect(),
    })
}

fn targets(params: &Scope<'_>) -> Result<Vec<(String, Option<u16>)>, ApiError> {
    let members = params.scope("Targets").each("member");
    members.iter().map(|one| Ok((required(one, "Id")?.to_owned(), port(one, "Port")?))).collect()
}

fn needed<T>(targets: Vec<T>) -> Result<Vec<T>, ApiError> {
    if targets.is_empty() { Err(invalid("Targets is required")) } else { Ok(targets) }
}

fn describe(world: &mut World, now_ms: u64, params: &Scope<'_>) -> Result<Element, ApiError> {
    world.advance(now_ms);
    let arns = params.scope("TargetGroupArns").texts("member");
    let names = params.scope("Names").texts("member");
    for arn in &arns {
        world.target_group(arn)?;
    }
    for name in &names {
        if !world.all_target_groups().any(|group| group.settings.name == *name) {
            return Err(ApiError::new("TargetGroupNotFound", format!("Target groups '{name}' not found")));
        }
    }
    if params.text("LoadBalancerArn").is_some() {
        return Err(ApiError::new("LoadBalancerNotFound", "this region has no load balancers"));
    }
    let most: usize = params.number("PageSize").map_err(|error| invalid(error.message))?.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&most) {
        return Err(invalid(format!("PageSize is between 1 and {PAGE_MAX}")));
    }
    let after = params.text("Marker").unwrap_or_default();
    let meant = |group: &&TargetGroup| {
        (arns.is_empty() || arns.contains(&group.arn.as_str()))
            && (names.is_empty() || names.contains(&group.settings.name.as_str()))
            && group.arn.as_str() > after
    };
    let mut found = world.all_target_groups().filter(meant);
    let page: Vec<_> = found.by_ref().take(most).collect();
    let next = page.last().filter(|_| found.next().is_some()).map(|group| group.arn.clone());
    let members = page.into_iter().map(shown);
    Ok(Element::new().members("TargetGroups", members).maybe("NextMarker", next))
}

fn shown(group: &TargetGroup) -> Element {
    let settings = &group.settings;
    let said =
        |name: &str, usual: &str| settings.others.get(name).cloned().unwrap_or_else(|| usual.to_owned());
    Element::new()
        .with("TargetGroupArn", &group.arn)
        .with("TargetGroupName", &settings.name)
        .with("Protocol", &settings.protocol)
        .with("Port", settings.port)
        .with("VpcId", said("VpcId", VPC))
        .with("TargetType", &settings.target_type)
        .with("HealthCheckEnabled", said("HealthCheckEnabled", "true"))
        .with("HealthCheckProtocol", said("HealthCheckProtocol", &settings.protocol))
        .with("HealthCheckPort", said("HealthCheckPort", "traffic-port"))
        .maybe("HealthCheckPath", settings.others.get("HealthCheckPath"))
        .with("HealthCheckIntervalSeconds", said("HealthCheckIntervalSeconds", "30"))
        .with("HealthCheckTimeoutSeconds", said("HealthCheckTimeoutSeconds", "5"))
        .with("HealthyThresholdCount", said("HealthyThresholdCount", "5"))
        .with("UnhealthyThresholdCount", said("UnhealthyThresholdCount", "2"))
}

fn attributes(world: &World, arn: &str) -> Result<Element, ApiError> {
    let all = world.target_group_attributes(arn)?;
    let members = all.into_iter().map(|(key, value)| Element::new().with("Key", key).with("Value", value));
    Ok(Element::new().members("Attributes", members))
}
