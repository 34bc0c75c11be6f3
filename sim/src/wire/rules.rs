//! Rules of the default event bus: patterns, SQS targets, and the calls that change or show them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::patterns;
use super::sqs::model::Refusal;
use super::transform::Input;
use crate::world::ACCOUNT;

/// Rules on the bus (EventBridge quotas: 300).
const RULES_MAX: usize = 300;
/// Targets of a rule (EventBridge quotas: 5).
const TARGETS_MAX: usize = 5;
/// How the ARNs of queues begin.
const SQS: &str = "arn:aws:sqs:";
/// Parameters of a target that are kept and shown, and have no effect.
const WITHOUT_EFFECT: [&str; 2] = ["DeadLetterConfig", "RetryPolicy"];
/// Parameters of a target that are read.
const READ: [&str; 6] = ["Id", "Arn", "Input", "InputPath", "InputTransformer", "SqsParameters"];

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
    #[serde(default)]
    input: Input,
    /// DeadLetterConfig and RetryPolicy, kept and shown: every delivery succeeds or has no queue.
    #[serde(default)]
    others: BTreeMap<String, Json>,
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
        let matching =
            self.all.iter().filter(|(_, rule)| rule.enabled && patterns::matches(&rule.pattern, event, 0));
        let region = event["region"].as_str().unwrap_or_default();
        let targets =
            matching.flat_map(|(name, rule)| rule.targets.values().map(move |target| (name, target)));
        targets
            .filter_map(|(name, target)| {
                Some(Delivery {
                    queue: target.arn.strip_prefix(SQS)?.rsplit(':').next()?.to_owned(),
                    body: target.input.of(event, name, &arn(region, name))?,
                    group: target.group.clone(),
                })
            })
            .collect()
    }
}

/// The calls that change or show the rules.
pub(crate) fn administer(
    rules: &mut Rules,
    action: &str,
    request: &Json,
    region: &str,
) -> Result<Json, Refusal> {
    let bus = text(request, "EventBusName");
    if !bus.is_empty() && bus.rsplit('/').next() != Some("default") {
        let message = format!("Event bus {bus} does not exist: this region has the default one");
        return Err(Refusal::new("ResourceNotFoundException", message));
    }
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
            let all: Vec<_> = rule.targets.iter().map(|(id, target)| shown_target(id, target)).collect();
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

fn no_pattern(reason: &str) -> Refusal {
    let message = format!("Event pattern is not valid. Reason: {reason}");
    Refusal::new("InvalidEventPatternException", message)
}

fn put_rule(rules: &mut Rules, request: &Json, region: &str) -> Result<Json, Refusal> {
    let name = text(request, "Name");
    let pattern = request["EventPattern"].as_str().map(serde_json::from_str::<Json>);
    let pattern = match pattern {
        Some(Ok(pattern)) => {
            patterns::check(&pattern).map_err(|reason| no_pattern(&reason))?;
            pattern
        }
        None => {
            let message = "this region knows rules with an EventPattern only";
            return Err(Refusal::new("ValidationException", message));
        }
        Some(Err(error)) => return Err(no_pattern(&error.to_string())),
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

/// All targets, or none when one is wrong.
fn put_targets(rule: &mut Rule, request: &Json) -> Result<Json, Refusal> {
    let mut targets = rule.targets.clone();
    for target in request["Targets"].as_array().into_iter().flatten() {
        let (Some(id), Some(arn)) = (target["Id"].as_str(), target["Arn"].as_str()) else {
            return Err(wrong("a target has an Id and an Arn".to_owned()));
        };
        let Some(queue) = arn.strip_prefix(SQS) else {
            return Err(wrong(format!("this region knows SQS queues as targets only, not {arn}")));
        };
        let group = target["SqsParameters"]["MessageGroupId"].as_str().map(str::to_owned);
        if queue.ends_with(".fifo") && group.is_none() {
            return Err(wrong(format!("Parameter(s) SqsParameters must be specified for target: {id}.")));
        }
        let input = Input::read(target).map_err(wrong)?;
        let others = WITHOUT_EFFECT.iter().filter(|name| !target[**name].is_null());
        let others = others.map(|name| ((*name).to_owned(), target[*name].clone())).collect();
        targets.insert(id.to_owned(), Target { arn: arn.to_owned(), group, input, others });
    }
    if targets.len() > TARGETS_MAX {
        return Err(Refusal::new("LimitExceededException", format!("at most {TARGETS_MAX} targets")));
    }
    rule.targets = targets;
    Ok(json!({ "FailedEntryCount": 0, "FailedEntries": [] }))
}

fn wrong(message: String) -> Refusal {
    Refusal::new("ValidationException", message)
}

/// What a call says and this region takes no notice of.
pub(crate) fn ignored(action: &str, request: &Json) -> Vec<String> {
    let said = |value: &Json| value.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
    match action {
        "PutRule" => {
            let read = ["Name", "EventPattern", "State", "Description", "EventBusName"];
            let said = said(request).unwrap_or_default();
            said.into_iter().filter(|name| !read.contains(&name.as_str())).collect()
        }
        "PutTargets" => {
            let targets = request["Targets"].as_array().into_iter().flatten().enumerate();
            let said = targets.flat_map(|(n, target)| {
                said(target).unwrap_or_default().into_iter().map(move |name| (n + 1, name))
            });
            let unread = said.filter(|(_, name)| !READ.contains(&name.as_str()));
            unread.map(|(n, name)| format!("Targets.{n}.{name}")).collect()
        }
        _ => Vec::new(),
    }
}

fn shown_target(id: &str, target: &Target) -> Json {
    let mut shown = json!({ "Id": id, "Arn": target.arn });
    target.input.show(&mut shown);
    if let Some(group) = &target.group {
        shown["SqsParameters"] = json!({ "MessageGroupId": group });
    }
    for (name, value) in &target.others {
        shown[name] = value.clone();
    }
    shown
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
}
