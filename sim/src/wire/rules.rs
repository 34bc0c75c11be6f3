//! Rules of the default event bus: patterns, SQS targets, and the calls that change or show them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::sqs::model::Refusal;
use crate::world::ACCOUNT;

/// Rules on the bus (EventBridge quotas: 300).
const RULES_MAX: usize = 300;
/// Targets of a rule (EventBridge quotas: 5).
const TARGETS_MAX: usize = 5;
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
pub(crate) struct Rules {
    all: BTreeMap<String, Rule>,
    pub(crate) trouble: EventTrouble,
}

/// Loss, duplicates and delay of events: EventBridge is best effort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTrouble {
    /// Of a thousand events, so many never come.
    #[serde(default)]
    pub lost_per_mille: u16,
    /// So many come twice.
    #[serde(default)]
    pub doubled_per_mille: u16,
    /// So many come late, and are overtaken.
    #[serde(default)]
    pub late_per_mille: u16,
    /// How late at most, in the machine's time, as queues keep it.
    #[serde(default = "late_s")]
    pub late_s: u16,
}

const fn late_s() -> u16 {
    10
}

impl EventTrouble {
    /// Refuses impossible chances.
    pub(crate) fn checked(self) -> Result<Self, String> {
        if self.lost_per_mille.max(self.doubled_per_mille).max(self.late_per_mille) > 1000 {
            return Err("at most 1000 per mille".to_owned());
        }
        // SQS API reference, DelaySeconds.
        if self.late_s > 900 { Err("late_s is at most 900".to_owned()) } else { Ok(self) }
    }

    /// How late each delivery of one event comes, in seconds; none when it is lost.
    pub(crate) fn deliveries(self, rng: &mut fastrand::Rng) -> Vec<u64> {
        if self == Self::default() {
            return vec![0];
        }
        let mut strikes = |per_mille: u16| per_mille > 0 && rng.u16(0..1000) < per_mille;
        if strikes(self.lost_per_mille) {
            return Vec::new();
        }
        let times = if strikes(self.doubled_per_mille) { 2 } else { 1 };
        let late: Vec<_> = (0..times).map(|_| strikes(self.late_per_mille)).collect();
        late.into_iter().map(|late| if late { rng.u64(0..=u64::from(self.late_s)) } else { 0 }).collect()
    }
}

/// A message for a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) queue: String,
    pub(crate) body: String,
    /// Of a FIFO queue.
    pub(crate) group: Option<String>,
}

impl Rules {
    fn named(&self, name: &str) -> Result<&Rule, Refusal> {
        self.all.get(name).ok_or_else(|| no_rule(name))
    }

    fn named_mut(&mut self, name: &str) -> Result<&mut Rule, Refusal> {
        self.all.get_mut(name).ok_or_else(|| no_rule(name))
    }

    /// Where an event goes.
    pub(crate) fn targets_of(&self, event: &Json) -> Vec<Delivery> {
        let matching = self.all.values().filter(|rule| rule.enabled && matches(&rule.pattern, event, 0));
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

/// The calls that change or show the rules.
pub(crate) fn administer(
    rules: &mut Rules,
    action: &str,
    request: &Json,
    region: &str,
) -> Result<Json, Refusal> {
    match action {
        "PutRule" => put_rule(rules, request, region),
        "DeleteRule" => {
            rules.all.remove(text(request, "Name"));
            Ok(json!({}))
        }
        "EnableRule" | "DisableRule" => {
            rules.named_mut(text(request, "Name"))?.enabled = action == "EnableRule";
            Ok(json!({}))
        }
        "DescribeRule" => {
            let name = text(request, "Name");
            Ok(shown(name, rules.named(name)?, &arn(region, name)))
        }
        "ListRules" => {
            let prefix = text(request, "NamePrefix");
            let found = rules.all.iter().filter(|(name, _)| name.starts_with(prefix));
            let all: Vec<_> = found.map(|(name, rule)| shown(name, rule, &arn(region, name))).collect();
            Ok(json!({ "Rules": all }))
        }
        "PutTargets" => put_targets(rules.named_mut(text(request, "Rule"))?, request),
        "RemoveTargets" => {
            let rule = rules.named_mut(text(request, "Rule"))?;
            for id in request["Ids"].as_array().into_iter().flatten().filter_map(Json::as_str) {
                rule.targets.remove(id);
            }
            Ok(json!({ "FailedEntryCount": 0, "FailedEntries": [] }))
        }
        "ListTargetsByRule" => {
            let rule = rules.named(text(request, "Rule"))?;
            let all: Vec<_> =
                rule.targets.iter().map(|(id, target)| json!({ "Id": id, "Arn": target.arn })).collect();
            Ok(json!({ "Targets": all }))
        }
        other => Err(Refusal::new("UnknownOperationException", format!("{other} is not known here"))),
    }
}

fn text<'a>(request: &'a Json, name: &str) -> &'a str {
    request[name].as_str().unwrap_or_default()
}

fn arn(region: &str, rule: &str) -> String {
    format!("arn:aws:events:{region}:{ACCOUNT}:rule/{rule}")
}

fn no_rule(name: &str) -> Refusal {
    Refusal::new("ResourceNotFoundException", format!("Rule {name} does not exist on EventBus default."))
}

fn put_rule(rules: &mut Rules, request: &Json, region: &str) -> Result<Json, Refusal> {
    let name = text(request, "Name");
    let pattern = request["EventPattern"].as_str().map(serde_json::from_str::<Json>);
    let pattern = match pattern {
        Some(Ok(pattern)) if pattern.is_object() => pattern,
        None => {
            let message = "this region knows rules with an EventPattern only";
            return Err(Refusal::new("ValidationException", message));
        }
        Some(_) => {
            return Err(Refusal::new("InvalidEventPatternException", "Event pattern is not valid."));
        }
    };
    if name.is_empty() || (rules.all.len() >= RULES_MAX && !rules.all.contains_key(name)) {
        let message = format!("a name, and at most {RULES_MAX} rules");
        return Err(Refusal::new("LimitExceededException", message));
    }
    let targets = rules.all.remove(name).map(|old| old.targets).unwrap_or_default();
    let enabled = request["State"].as_str() != Some("DISABLED");
    let description = text(request, "Description").to_owned();
    rules.all.insert(name.to_owned(), Rule { pattern, enabled, description, targets });
    Ok(json!({ "RuleArn": arn(region, name) }))
}

fn put_targets(rule: &mut Rule, request: &Json) -> Result<Json, Refusal> {
    for target in request["Targets"].as_array().into_iter().flatten() {
        let (Some(id), Some(arn)) = (target["Id"].as_str(), target["Arn"].as_str()) else { continue };
        if rule.targets.len() >= TARGETS_MAX && !rule.targets.contains_key(id) {
            return Err(Refusal::new("LimitExceededException", format!("at most {TARGETS_MAX} targets")));
        }
        let group = target["SqsParameters"]["MessageGroupId"].as_str().map(str::to_owned);
        rule.targets.insert(id.to_owned(), Target { arn: arn.to_owned(), group });
    }
    Ok(json!({ "FailedEntryCount": 0, "FailedEntries": [] }))
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
    fn events_are_lost_doubled_and_late_as_often_as_is_said() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut run =
            |trouble: EventTrouble| (0..1000).map(|_| trouble.deliveries(&mut rng)).collect::<Vec<_>>();
        assert!(run(EventTrouble::default()).iter().all(|one| *one == [0]));
        let rough =
            EventTrouble { lost_per_mille: 200, doubled_per_mille: 300, late_per_mille: 500, late_s: 60 };
        let all = run(rough);
        let count = |fits: &dyn Fn(&Vec<u64>) -> bool| all.iter().filter(|one| fits(one)).count();
        assert!((150..250).contains(&count(&Vec::is_empty)));
        assert!((200..300).contains(&count(&|one| one.len() == 2)));
        assert!((400..600).contains(&count(&|one| one.iter().any(|late| *late > 0))));
        assert!((EventTrouble { lost_per_mille: 1001, ..rough }).checked().is_err());
        assert!((EventTrouble { late_s: 901, ..rough }).checked().is_err());
    }

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
