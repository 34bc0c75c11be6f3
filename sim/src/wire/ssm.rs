//! The part of Systems Manager (JSON 1.1) that runs commands on instances, for the hooks of a rehearsal.

use std::collections::BTreeMap;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use serde_json::{Value as Json, json};

use super::public_parameters;
use crate::world::{ApiError, Command, Invocation, SendCommand, World, rfc3339};

/// The longest page of each list.
const PAGE_MAX: u64 = 50;
/// The smallest page of DescribeInstanceInformation (SSM API reference).
const INFORMATION_MIN: u64 = 5;

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// One call.
pub(crate) fn call(world: &mut World, now_ms: u64, action: &str, request: &Json) -> Result<Json, ApiError> {
    match action {
        "SendCommand" => send(world, now_ms, request),
        "GetCommandInvocation" => {
            let instance = instance(&request["InstanceId"])?;
            let id = request["CommandId"].as_str().unwrap_or_default();
            let (command, invocation) = world.command_on(now_ms, id, &instance)?;
            Ok(detailed(command, &instance, invocation))
        }
        "ListCommandInvocations" => {
            world.advance(now_ms);
            let only_command = request["CommandId"].as_str();
            let only_instance = request["InstanceId"].as_str();
            let details = request["Details"].as_bool() == Some(true);
            let of_commands = world.all_commands().filter(|c| only_command.is_none_or(|id| c.id == id));
            let all = of_commands.flat_map(|command| {
                let known = command.invocations.iter().filter(|(_, one)| one.visible_at_ms <= world.now_ms());
                known.map(move |(instance, one)| (command, instance, one))
            });
            let wanted = all.filter(|(_, id, _)| only_instance.is_none_or(|only| id.as_str() == only));
            let items = wanted.map(|(command, instance, one)| {
                (format!("{}/{instance}", command.id), listed(command, instance, one, details))
            });
            paged(request, "CommandInvocations", 1, items.collect())
        }
        "ListCommands" => {
            world.advance(now_ms);
            let only = request["CommandId"].as_str();
            let on = request["InstanceId"].as_str();
            let found = world.all_commands().filter(|command| {
                only.is_none_or(|id| command.id == id)
                    && on.is_none_or(|on| command.invocations.keys().any(|id| id.as_str() == on))
            });
            paged(request, "Commands", 1, found.map(|c| (c.id.clone(), summary(c))).collect())
        }
        "CancelCommand" => {
            let on = instances(&request["InstanceIds"])?;
            world.cancel_command(now_ms, request["CommandId"].as_str().unwrap_or_default(), &on)?;
            Ok(json!({}))
        }
        "DescribeInstanceInformation" => {
            world.advance(now_ms);
            information(world, request)
        }
        "GetParameter" => {
            world.advance(now_ms);
            public_parameters::one(world, request)
        }
        "GetParameters" => {
            world.advance(now_ms);
            Ok(public_parameters::some(world, request))
        }
        "GetParametersByPath" => {
            world.advance(now_ms);
            Ok(public_parameters::by_path(world, request))
        }
        other => Err(ApiError::new("UnknownOperationException", format!("{other} is not known here"))),
    }
}

fn instance(value: &Json) -> Result<InstanceId, ApiError> {
    let text = value.as_str().unwrap_or_default();
    InstanceId::parse(text)
        .map_err(|_| ApiError::new("InvalidInstanceId", format!("{text:?} is no instance id")))
}

fn texts(value: &Json) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
}

fn instances(value: &Json) -> Result<Vec<InstanceId>, ApiError> {
    value.as_array().into_iter().flatten().map(instance).collect()
}

fn send(world: &mut World, now_ms: u64, request: &Json) -> Result<Json, ApiError> {
    let mut wanted = SendCommand {
        document: request["DocumentName"].as_str().unwrap_or_default().to_owned(),
        instances: instances(&request["InstanceIds"])?,
        comment: request["Comment"].as_str().unwrap_or_default().to_owned(),
        ..SendCommand::default()
    };
    for (name, values) in request["Parameters"].as_object().into_iter().flatten() {
        if !values.is_array() {
            return Err(ApiError::new("InvalidParameters", format!("{name} is a list")));
        }
        wanted.parameters.insert(name.clone(), texts(values));
    }
    for target in request["Targets"].as_array().into_iter().flatten() {
        let key = target["Key"].as_str().unwrap_or_default();
        let values = texts(&target["Values"]);
        match (key.strip_prefix("tag:"), &values[..]) {
            (None, _) if key == "InstanceIds" => {
                for value in &values {
                    wanted.instances.push(instance(&json!(value))?);
                }
            }
            (Some(tag), [value]) => {
                wanted.tagged.insert(tag.to_owned(), value.clone());
            }
            _ => return Err(invalid("this region knows targets by InstanceIds and by one value of a tag")),
        }
    }
    wanted.timeout_s = match &request["TimeoutSeconds"] {
        Json::Null => None,
        value => Some(value.as_u64().ok_or_else(|| invalid("TimeoutSeconds is a number"))?),
    };
    Ok(json!({ "Command": summary(world.send_command(now_ms, &wanted)?) }))
}

/// Seconds since the epoch, as JSON 1.1 writes times.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn summary(command: &Command) -> Json {
    let stage = command.stage();
    let over = command.invocations.values().filter(|one| one.stage.is_over()).count();
    let failed = command.invocations.values().filter(|one| one.stage.status() == "Failed").count();
    let targets =
        command.by_tag.iter().map(|(key, value)| json!({ "Key": format!("tag:{key}"), "Values": [value] }));
    json!({
        "CommandId": command.id,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "Comment": command.comment,
        "Parameters": command.parameters,
        "InstanceIds": if command.by_tag.is_empty() { command.invocations.keys().collect() } else { Vec::new() },
        "Targets": targets.collect::<Vec<_>>(),
        "RequestedDateTime": seconds(command.requested_at_ms),
        "ExpiresAfter": seconds(command.expires_at_ms),
        "TimeoutSeconds": command.timeout_s,
        "Status": stage.status(),
        "StatusDetails": stage.details(),
        "TargetCount": command.invocations.len(),
        "CompletedCount": over,
        "ErrorCount": failed,
        "MaxConcurrency": "50",
        "MaxErrors": "0",
    })
}

fn detailed(command: &Command, instance: &InstanceId, one: &Invocation) -> Json {
    let (stdout, stderr) = one.output();
    let time = |ms: Option<u64>| ms.map_or_else(String::new, rfc3339);
    let elapsed = one.started_at_ms.zip(one.ended_at_ms).map(|(from, to)| to.saturating_sub(from));
    json!({
        "CommandId": command.id,
        "InstanceId": instance,
        "Comment": command.comment,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "PluginName": plugin(command),
        "ResponseCode": one.code(),
        "ExecutionStartDateTime": time(one.started_at_ms),
        "ExecutionElapsedTime": elapsed.map_or_else(String::new, |ms| format!("PT{}S", seconds(ms))),
        "ExecutionEndDateTime": time(one.started_at_ms.and(one.ended_at_ms)),
        "Status": one.stage.status(),
        "StatusDetails": one.stage.details(),
        "StandardOutputContent": stdout,
        "StandardOutputUrl": "",
        "StandardErrorContent": stderr,
        "StandardErrorUrl": "",
    })
}

fn plugin(command: &Command) -> String {
    command
        .document
        .strip_prefix("AWS-Run")
        .map_or_else(|| "aws:runDocument".to_owned(), |rest| format!("aws:run{rest}"))
}

fn listed(command: &Command, instance: &InstanceId, one: &Invocation, details: bool) -> Json {
    let mut answer = json!({
        "CommandId": command.id,
        "InstanceId": instance,
        "Comment": command.comment,
        "DocumentName": command.document,
        "RequestedDateTime": seconds(command.requested_at_ms),
        "Status": one.stage.status(),
        "StatusDetails": one.stage.details(),
        "CommandPlugins": [],
    });
    if details {
        answer["CommandPlugins"] = json!([{
            "Name": plugin(command),
            "Status": one.stage.status(),
            "StatusDetails": one.stage.details(),
            "ResponseCode": one.code(),
            "Output": one.output().0,
        }]);
    }
    answer
}

fn information(world: &World, request: &Json) -> Result<Json, ApiError> {
    let mut only: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (list, key, values) in
        [("Filters", "Key", "Values"), ("InstanceInformationFilterList", "key", "valueSet")]
    {
        for filter in request[list].as_array().into_iter().flatten() {
            only.insert(filter[key].as_str().unwrap_or_default().to_owned(), texts(&filter[values]));
        }
    }
    let admits = |id: &InstanceId, online: bool, tags: &Tags| {
        only.iter().try_fold(true, |so_far, (key, values)| {
            let has = match (key.as_str(), key.strip_prefix("tag:")) {
                ("InstanceIds", _) => Some(id.to_string()),
                ("PingStatus", _) => Some(ping(online).to_owned()),
                ("ResourceType", _) => Some("EC2Instance".to_owned()),
                ("PlatformTypes", _) => Some("Linux".to_owned()),
                (_, Some(tag)) => tags.get(tag).cloned(),
                _ => {
                    return Err(ApiError::new(
                        "InvalidFilterKey",
                        format!("the filter {key} is not known here"),
                    ));
                }
            };
            Ok(so_far && has.is_some_and(|has| values.contains(&has)))
        })
    };
    let mut items = Vec::new();
    for found in world.all_instances().filter(|instance| world.is_managed(&instance.id)) {
        let online = world.is_online(&found.id);
        if !admits(&found.id, online, &found.tags)? {
            continue;
        }
        let address = found
            .interfaces
            .iter()
            .filter_map(|id| world.interface(id))
            .find(|interface| interface.attachment.as_ref().is_some_and(|plug| plug.device_index == 0));
        let seen_ms = match found.state {
            InstanceState::Running => world.now_ms(),
            _ => found.launched_at_ms,
        };
        items.push((
            found.id.to_string(),
            json!({
                "InstanceId": found.id,
                "PingStatus": ping(online),
                "LastPingDateTime": seconds(seen_ms),
                "AgentVersion": "3.3.0.0",
                "IsLatestVersion": true,
                "PlatformType": "Linux",
                "PlatformName": "Amazon Linux",
                "PlatformVersion": "2023",
                "ResourceType": "EC2Instance",
                "IPAddress": address.map_or_else(String::new, |interface| interface.primary_ip.to_string()),
            }),
        ));
    }
    paged(request, "InstanceInformationList", INFORMATION_MIN, items)
}

const fn ping(online: bool) -> &'static str {
    if online { "Online" } else { "ConnectionLost" }
}

/// One page; the token is the last key that was given.
fn paged(request: &Json, list: &str, least: u64, mut items: Vec<(String, Json)>) -> Result<Json, ApiError> {
    let most = match &request["MaxResults"] {
        Json::Null => PAGE_MAX,
        value => value
            .as_u64()
            .filter(|n| (least..=PAGE_MAX).contains(n))
            .ok_or_else(|| invalid(format!("MaxResults is between {least} and {PAGE_MAX}")))?,
    };
    let after = request["NextToken"].as_str().unwrap_or_default();
    items.sort_by(|a, b| a.0.cmp(&b.0));
    items.retain(|(key, _)| key.as_str() > after);
    let more = items.len() > most as usize;
    items.truncate(most as usize);
    let next = items.last().filter(|_| more).map(|(key, _)| key.clone());
    let items: Vec<_> = items.into_iter().map(|(_, item)| item).collect();
    let mut answer = json!({ list: items });
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer)
}
