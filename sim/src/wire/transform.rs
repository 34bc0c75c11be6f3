//! The input of an EventBridge target: the whole event, a part of it, a constant, or a text made of its parts
//! (EventBridge User Guide, input transformation).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// What a target gets of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Input {
    #[default]
    Event,
    Constant(String),
    Part(String),
    Made {
        paths: BTreeMap<String, String>,
        template: String,
    },
}

/// What a template may name beside its own paths.
const RESERVED: [&str; 5] = [
    "aws.events.rule-arn",
    "aws.events.rule-name",
    "aws.events.event.ingestion-time",
    "aws.events.event",
    "aws.events.event.json",
];

impl Input {
    /// Reads that of one target; the reason if it is wrong.
    pub(super) fn read(target: &Json) -> Result<Self, String> {
        let id = target["Id"].as_str().unwrap_or_default();
        let said = ["Input", "InputPath", "InputTransformer"].iter().filter(|name| !target[**name].is_null());
        if said.count() > 1 {
            return Err(format!(
                "Only one of Input, InputPath, or InputTransformer must be provided for target {id}."
            ));
        }
        if let Some(text) = target["Input"].as_str() {
            let is_json = serde_json::from_str::<Json>(text).is_ok();
            return is_json
                .then(|| Self::Constant(text.to_owned()))
                .ok_or_else(|| format!("Input for target {id} is not valid JSON."));
        }
        if let Some(path) = target["InputPath"].as_str() {
            return match path {
                "$" | "" => Ok(Self::Event),
                _ => is_path(path)
                    .then(|| Self::Part(path.to_owned()))
                    .ok_or_else(|| format!("Reason: Invalid InputPath for target {id}.")),
            };
        }
        let Some(template) = target["InputTransformer"]["InputTemplate"].as_str() else {
            return match target["InputTransformer"].is_null() {
                true => Ok(Self::Event),
                false => Err(format!("InputTemplate is missing for target {id}.")),
            };
        };
        let mut paths = BTreeMap::new();
        for (name, path) in target["InputTransformer"]["InputPathsMap"].as_object().into_iter().flatten() {
            let path = path.as_str().filter(|path| is_path(path));
            let path = path.ok_or_else(|| format!("Invalid path for {name} of target {id}."))?;
            if name.to_ascii_lowercase().starts_with("aws") {
                return Err(format!("InputPathsMap of target {id}: {name} starts with AWS."));
            }
            paths.insert(name.clone(), path.to_owned());
        }
        if let Some(name) =
            placeholders(template).find(|name| !paths.contains_key(*name) && !RESERVED.contains(name))
        {
            return Err(format!("InputTemplate for target {id} contains invalid placeholder {name}."));
        }
        Ok(Self::Made { paths, template: template.to_owned() })
    }

    /// The body for a queue; nothing where the event has no such part (a guess: it is not delivered).
    pub(super) fn of(&self, event: &Json, rule: &str, rule_arn: &str) -> Option<String> {
        match self {
            Self::Event => Some(event.to_string()),
            Self::Constant(text) => Some(text.clone()),
            Self::Part(path) => part(event, path).map(Json::to_string),
            Self::Made { paths, template } => {
                let value = |name: &str| match name {
                    "aws.events.rule-arn" => Some(Json::from(rule_arn)),
                    "aws.events.rule-name" => Some(Json::from(rule)),
                    "aws.events.event.ingestion-time" => Some(event["time"].clone()),
                    "aws.events.event" | "aws.events.event.json" => Some(event.clone()),
                    name => part(event, paths.get(name)?).cloned(),
                };
                Some(made(template, value)).filter(|text| !text.is_empty())
            }
        }
    }

    /// As ListTargetsByRule shows it.
    pub(super) fn show(&self, target: &mut Json) {
        match self {
            Self::Event => {}
            Self::Constant(text) => target["Input"] = Json::from(text.as_str()),
            Self::Part(path) => target["InputPath"] = Json::from(path.as_str()),
            Self::Made { paths, template } => {
                target["InputTransformer"] =
                    serde_json::json!({ "InputPathsMap": paths, "InputTemplate": template });
            }
        }
    }
}

/// Whether it has the form of a path, such as `$.detail.instance-id` or `$.resources[0]`.
fn is_path(path: &str) -> bool {
    path == "$"
        || path.strip_prefix("$.").is_some_and(|rest| rest.split('.').all(|step| step_of(step).is_some()))
}

/// A field's name, and the indexes behind it.
fn step_of(step: &str) -> Option<(&str, Vec<usize>)> {
    let (name, mut rest) = step.split_at(step.find('[').unwrap_or(step.len()));
    let mut indexes = Vec::new();
    while !rest.is_empty() {
        let (index, more) = rest.strip_prefix('[')?.split_once(']')?;
        indexes.push(index.parse().ok()?);
        rest = more;
    }
    (!name.is_empty()).then_some((name, indexes))
}

fn part<'a>(event: &'a Json, path: &str) -> Option<&'a Json> {
    let Some(steps) = path.strip_prefix("$.") else { return Some(event) };
    steps.split('.').try_fold(event, |at, step| {
        let (name, indexes) = step_of(step)?;
        indexes.into_iter().try_fold(at.get(name)?, |at, index| at.get(index))
    })
}

fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(name, _)| name).filter(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    })
}

/// Within quotes a text stands without its own, and anything else as JSON without quotes; elsewhere
/// everything stands as JSON. What an event does not have leaves nothing.
fn made(template: &str, value: impl Fn(&str) -> Option<Json>) -> String {
    let mut text = String::new();
    let (mut rest, mut is_quoted) = (template, false);
    while let Some(at) = rest.find(['<', '"', '\\']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let named = placeholders(rest).next().filter(|name| rest.starts_with(&format!("<{name}>")));
        match (rest.as_bytes()[0], named) {
            (b'<', Some(name)) => {
                rest = &rest[name.len() + 2..];
                let found = value(name);
                match found {
                    Some(Json::String(inner)) if is_quoted => {
                        let quoted = Json::from(inner).to_string();
                        text.push_str(&quoted[1..quoted.len() - 1]);
                    }
                    Some(found) if is_quoted => text.push_str(&found.to_string().replace('"', "")),
                    Some(found) => text.push_str(&found.to_string()),
                    None => {}
                }
            }
            (b'\\', _) => {
                let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                text.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            (first, _) => {
                is_quoted ^= first == b'"';
                text.push(char::from(first));
                rest = &rest[1..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(target: Json) -> Option<String> {
        let event = json!({ "time": "2026-01-01T00:00:00Z", "resources": ["arn:1"],
            "detail": { "instance-id": "i-1", "n": 7, "say": "a \"b\"" } });
        Input::read(&target).unwrap().of(&event, "rule", "arn:rule")
    }

    #[test]
    fn a_target_gets_what_it_asks_for() {
        let made = |paths: Json, template: &str| {
            body(
                json!({ "Id": "1", "InputTransformer": { "InputPathsMap": paths, "InputTemplate": template } }),
            )
        };
        let paths = json!({ "i": "$.detail.instance-id", "n": "$.detail.n", "s": "$.detail.say", "d": "$.detail",
            "r": "$.resources[0]", "none": "$.detail.absent" });
        for (found, expected) in [
            (body(json!({ "Id": "1", "Input": "{\"a\":1}" })), Some("{\"a\":1}")),
            (body(json!({ "Id": "1", "InputPath": "$.detail.n" })), Some("7")),
            (body(json!({ "Id": "1", "InputPath": "$.resources[0]" })), Some("\"arn:1\"")),
            (body(json!({ "Id": "1", "InputPath": "$.absent" })), None),
            (
                made(paths.clone(), "{\"id\": <i>, \"n\": <n>, \"r\": <r>}"),
                Some("{\"id\": \"i-1\", \"n\": 7, \"r\": \"arn:1\"}"),
            ),
            (
                made(paths.clone(), "\"instance <i> is <n> <none>of <aws.events.rule-name>\""),
                Some("\"instance i-1 is 7 of rule\""),
            ),
            (
                made(paths, "{\"say\": \"<s>\", \"a\": \"1 < 2\"}"),
                Some("{\"say\": \"a \\\"b\\\"\", \"a\": \"1 < 2\"}"),
            ),
            (made(json!({ "t": "$.time" }), "\"\\\"<t>\""), Some("\"\\\"2026-01-01T00:00:00Z\"")),
        ] {
            assert_eq!(found.as_deref(), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            json!({ "Id": "1", "Input": "{" }),
            json!({ "Id": "1", "Input": "1", "InputPath": "$.a" }),
            json!({ "Id": "1", "InputPath": "detail" }),
            json!({ "Id": "1", "InputPath": "$.a[x]" }),
            json!({ "Id": "1", "InputTransformer": {} }),
            json!({ "Id": "1", "InputTransformer": { "InputTemplate": "<nothing>" } }),
            json!({ "Id": "1", "InputTransformer": { "InputTemplate": "<a>", "InputPathsMap": { "a": "b" } } }),
        ] {
            assert!(Input::read(&wrong).is_err(), "{wrong}");
        }
    }
}
