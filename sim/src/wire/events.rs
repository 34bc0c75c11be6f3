//! As much of EventBridge as carries the region's events to queues: rules with patterns, SQS targets, PutEvents.
//!
//! Unlike AWS, PutEvents takes events whose source starts with `aws.`: a rehearsal may need those of services that
//! this region does not have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::region::Region;
use super::sqs::model::Refusal;
use crate::world::{ACCOUNT, rfc3339};

/// Rules on the bus (EventBridge quotas: 300).
const RULES_MAX: usize = 300;
/// Targets of a rule (EventBridge quotas: 5).
const TARGETS_MAX: usize = 5;
/// Entries of PutEvents (EventBridge API reference).
const ENTRIES_MAX: usize = 10;
/// How deep a pattern is followed.
const DEPTH_MAX: usize = 32;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Rule {
    pattern: Json,
    enabled: bool,
    description: String,
    targets: BTreeMap<String, Target>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Target {
    arn: String,
    group: Option<String>,
}

/// The rules of the default bus.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Rules(BTreeMap<String, Rule>);

/// A message for a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) queue: String,
    pub(crate) body: String,
    /// Of a FIFO queue.
    pub(crate) group: Option<String>,
}

impl Rules {
    /// Where an event goes.
    pub(crate) fn targets_of(&self, event: &Json) -> Vec<Delivery> {
        let matching = self.0.values().filter(|rule| rule.enabled && matches(&rule.pattern, event, 0));
        let targets = matching.flat_map(|rule| rule.targets.values());
        targets
            .filter_map(|target| {
                let queue = target.arn.strip_prefix("arn:aws:sqs:")?.rsplit(':').next()?;
                Some(Delivery {
                    queue: queue.to_owned(),
                    body: event.to_string(),
                    group: target.group.clone(),
                })
            })
            .collect()
    }
}

/// Whether an event matches a pattern: each field of the pattern must be there with one of the values.
fn matches(pattern: &Json, event: &Json, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    match pattern {
        Json::Object(fields) => fields.iter().all(|(name, wanted)| {
            if name == "$or" {
                return wanted
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| matches(one, event, depth + 1)));
            }
            match wanted {
                Json::Array(values) => values.iter().any(|value| admits(value, event.get(name))),
                nested => event.get(name).is_some_and(|found| matches(nested, found, depth + 1)),
            }
        }),
        _ => false,
    }
}

/// Whether a field has a value, or one of its values is it.
fn admits(wanted: &Json, found: Option<&Json>) -> bool {
    if let Some(exists) = wanted.get("exists").and_then(Json::as_bool) {
        return found.is_some() == exists;
    }
    match found {
        None => false,
        Some(Json::Array(all)) => all.iter().any(|one| admits_one(wanted, one)),
        Some(one) => admits_one(wanted, one),
    }
}

fn admits_one(wanted: &Json, found: &Json) -> bool {
    let Some((kind, value)) = wanted.as_object().and_then(|object| object.iter().next()) else {
        return wanted == found;
    };
    let text = found.as_str();
    match kind.as_str() {
        "prefix" => text.zip(value.as_str()).is_some_and(|(text, prefix)| text.starts_with(prefix)),
        "suffix" => text.zip(value.as_str()).is_some_and(|(text, suffix)| text.ends_with(suffix)),
        "equals-ignore-case" => text.zip(value.as_str()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b)),
        "wildcard" => text.zip(value.as_str()).is_some_and(|(text, glob)| super::ec2::like(glob, text)),
        "anything-but" => match value {
            Json::Array(all) => !all.contains(found),
            Json::Object(_) => !admits_one(value, found),
            one => one != found,
        },
        "numeric" => {
            let (Some(number), Some(tests)) = (found.as_f64(), value.as_array()) else { return false };
            tests.chunks(2).all(|test| match (test[0].as_str(), test.get(1).and_then(Json::as_f64)) {
                (Some("="), Some(bound)) => number == bound,
                (Some("<"), Some(bound)) => number < bound,
                (Some("<="), Some(bound)) => number <= bound,
                (Some(">"), Some(bound)) => number > bound,
                (Some(">="), Some(bound)) => number >= bound,
                _ => false,
            })
        }
        _ => false,
    }
}

/// One call.
pub(crate) fn call(region: &Region, action: &str, body: &[u8]) -> Result<Json, Refusal> {
    let request: Json = serde_json::from_slice(body)
        .map_err(|error| Refusal::new("SerializationException", format!("not JSON: {error}")))?;
    match action {
        "PutEvents" => put_events(region, &request),
        _ => region.events(action, &request),
    }
}

fn put_events(region: &Region, request: &Json) -> Result<Json, Refusal> {
    let entries = request["Entries"].as_array().filter(|entries| (1..=ENTRIES_MAX).contains(&entries.len()));
    let entries = entries.ok_or_else(|| {
        Refusal::new("ValidationException", format!("1 to {ENTRIES_MAX} entries are needed"))
    })?;
    let (mut answers, mut failed) = (Vec::new(), 0);
    for entry in entries {
        let detail = entry["Detail"].as_str().and_then(|text| serde_json::from_str::<Json>(text).ok());
        let (Some(source), Some(kind)) = (entry["Source"].as_str(), entry["DetailType"].as_str()) else {
            failed += 1;
            answers.push(
                json!({ "ErrorCode": "InvalidArgument", "ErrorMessage": "Source and DetailType are needed" }),
            );
            continue;
        };
        let Some(detail) = detail.filter(Json::is_object) else {
            failed += 1;
            answers.push(json!({ "ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed." }));
            continue;
        };
        let id = region.fresh_id();
        let resources = if entry["Resources"].is_array() { entry["Resources"].clone() } else { json!([]) };
        region.tell(&json!({
            "version": "0",
            "id": id,
            "detail-type": kind,
            "source": source,
            "account": ACCOUNT,
            "time": rfc3339(region.now_ms()),
            "region": region.region_name(),
            "resources": resources,
            "detail": detail,
        }));
        answers.push(json!({ "EventId": id }));
    }
    Ok(json!({ "FailedEntryCount": failed, "Entries": answers }))
}

/// The calls that change or show the rules.
pub(crate) fn administer(
    rules: &mut Rules,
    action: &str,
    request: &Json,
    region: &str,
) -> Result<Json, Refusal> {
    let name = |key: &str| request[key].as_str().unwrap_or_default().to_owned();
    let arn = |name: &str| format!("arn:aws:events:{region}:{ACCOUNT}:rule/{name}");
    let missing = |name: &str| {
        Refusal::new("ResourceNotFoundException", format!("Rule {name} does not exist on EventBus default."))
    };
    match action {
        "PutRule" => {
            let rule = name("Name");
            let pattern = request["EventPattern"].as_str().map(serde_json::from_str::<Json>);
            let pattern = match pattern {
                Some(Ok(pattern)) if pattern.is_object() => pattern,
                None => {
                    return Err(Refusal::new(
                        "ValidationException",
                        "this region knows rules with an EventPattern only",
                    ));
                }
                Some(_) => {
                    return Err(Refusal::new("InvalidEventPatternException", "Event pattern is not valid."));
                }
            };
            if rule.is_empty() || (rules.0.len() >= RULES_MAX && !rules.0.contains_key(&rule)) {
                return Err(Refusal::new(
                    "LimitExceededException",
                    format!("a name, and at most {RULES_MAX} rules"),
                ));
            }
            let targets = rules.0.remove(&rule).map(|old| old.targets).unwrap_or_default();
            let enabled = request["State"].as_str() != Some("DISABLED");
            let answer = json!({ "RuleArn": arn(&rule) });
            rules.0.insert(rule, Rule { pattern, enabled, description: name("Description"), targets });
            Ok(answer)
        }
        "DeleteRule" => {
            rules.0.remove(&name("Name"));
            Ok(json!({}))
        }
        "EnableRule" | "DisableRule" => {
            let rule = name("Name");
            rules.0.get_mut(&rule).ok_or_else(|| missing(&rule))?.enabled = action == "EnableRule";
            Ok(json!({}))
        }
        "DescribeRule" => {
            let rule = name("Name");
            let found = rules.0.get(&rule).ok_or_else(|| missing(&rule))?;
            Ok(shown(&rule, found, &arn(&rule)))
        }
        "ListRules" => {
            let prefix = name("NamePrefix");
            let found = rules.0.iter().filter(|(name, _)| name.starts_with(&prefix));
            let all: Vec<_> = found.map(|(name, rule)| shown(name, rule, &arn(name))).collect();
            Ok(json!({ "Rules": all }))
        }
        "PutTargets" => {
            let rule = name("Rule");
            let found = rules.0.get_mut(&rule).ok_or_else(|| missing(&rule))?;
            for target in request["Targets"].as_array().into_iter().flatten() {
                let (Some(id), Some(arn)) = (target["Id"].as_str(), target["Arn"].as_str()) else { continue };
                if found.targets.len() >= TARGETS_MAX && !found.targets.contains_key(id) {
                    return Err(Refusal::new(
                        "LimitExceededException",
                        format!("at most {TARGETS_MAX} targets"),
                    ));
                }
                let group = target["SqsParameters"]["MessageGroupId"].as_str().map(str::to_owned);
                found.targets.insert(id.to_owned(), Target { arn: arn.to_owned(), group });
            }
            Ok(json!({ "FailedEntryCount": 0, "FailedEntries": [] }))
        }
        "RemoveTargets" => {
            let rule = name("Rule");
            let found = rules.0.get_mut(&rule).ok_or_else(|| missing(&rule))?;
            for id in request["Ids"].as_array().into_iter().flatten().filter_map(Json::as_str) {
                found.targets.remove(id);
            }
            Ok(json!({ "FailedEntryCount": 0, "FailedEntries": [] }))
        }
        "ListTargetsByRule" => {
            let rule = name("Rule");
            let found = rules.0.get(&rule).ok_or_else(|| missing(&rule))?;
            let all: Vec<_> =
                found.targets.iter().map(|(id, target)| json!({ "Id": id, "Arn": target.arn })).collect();
            Ok(json!({ "Targets": all }))
        }
        other => Err(Refusal::new("UnknownOperationException", format!("{other} is not known here"))),
    }
}

fn shown(name: &str, rule: &Rule, arn: &str) -> Json {
    json!({
        "Name": name,
        "Arn": arn,
        "EventPattern": rule.pattern.to_string(),
        "State": if rule.enabled { "ENABLED" } else { "DISABLED" },
        "Description": rule.description,
        "EventBusName": "default",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        let event =
            json!({ "source": "aws.ec2", "detail": { "n": 7, "z": "us-east-1a", "tags": ["x", "y"] } });
        for (pattern, expected) in [
            (json!({ "source": ["aws.ec2", "other"] }), true),
            (json!({ "source": ["other"] }), false),
            (json!({ "source": [{ "prefix": "aws." }] }), true),
            (json!({ "detail": { "n": [{ "numeric": [">", 5, "<", 8] }] } }), true),
            (json!({ "detail": { "n": [{ "numeric": [">", 7] }] } }), false),
            (json!({ "detail": { "z": [{ "anything-but": ["us-east-1b"] }] } }), true),
            (json!({ "detail": { "z": [{ "anything-but": { "prefix": "us-" } }] } }), false),
            (json!({ "detail": { "tags": ["y"] } }), true),
            (json!({ "detail": { "absent": [{ "exists": false }] } }), true),
            (json!({ "detail": { "absent": ["x"] } }), false),
            (json!({ "$or": [{ "source": ["no"] }, { "detail": { "n": [7] } }] }), true),
            (json!([]), false),
        ] {
            assert_eq!(matches(&pattern, &event, 0), expected, "{pattern}");
        }
    }
}
