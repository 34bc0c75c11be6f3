//! The difference between the present file of a node and another one, and what a change does when.

use std::collections::BTreeMap;

use perennial_workflows::model::name::NodeName;
use perennial_workflows::spec::checks::Present;
use perennial_workflows::spec::node::NodeSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer of `node diff`, for each file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpecDiff {
    /// The node.
    pub node: NodeName,
    /// Whether there is no such node yet.
    pub is_new: bool,
    /// What differs.
    pub changes: Vec<Change>,
    /// Why the change would be refused, if it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What the change does not do by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// The field, such as `capacity.instance_types`; a volume is named by its name.
    pub field: String,
    /// Its present value, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its new value, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// When it has an effect.
    pub effect: Effect,
}

/// When a change has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// When the file is applied.
    AtOnce,
    /// With the next workflow that brings the node onto an instance.
    NextMove,
}

/// What is read from the node's file whenever it is needed.
const AT_ONCE: [&str; 8] = [
    "backup",
    "signals",
    "maintenance_windows",
    "protect",
    "capacity.return_to_spot",
    "capacity.min_lifetime_min",
    "persist.retain_days",
    "persist.attached_volumes",
];

/// The field whose content nobody needs to see on a screen.
const SECRET: &str = "user_data";

impl SpecDiff {
    /// Compares a file with the present one, of which some may not have taken effect; without a present one
    /// everything is new.
    #[must_use]
    pub fn new(old: Option<(&NodeSpec, Present<'_>)>, new: &NodeSpec) -> Self {
        let node = new.name.clone();
        let Some((old, present)) = old else {
            return Self { node, is_new: true, changes: Vec::new(), refused: None, remark: None };
        };
        let (before, after) = (fields(old), fields(new));
        let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
        names.sort();
        names.dedup();
        let differs = |name: &&&String| before.get(**name) != after.get(**name);
        let changes = names.iter().filter(differs).map(|name| Change {
            field: (*name).clone(),
            from: before.get(*name).map(|value| shown(name, value)),
            to: after.get(*name).map(|value| shown(name, value)),
            effect: effect(name),
        });
        let mut changes: Vec<Change> = changes.collect();
        changes.sort_by(|one, other| (one.effect, &one.field).cmp(&(other.effect, &other.field)));
        Self {
            node,
            is_new: false,
            refused: new.check_change_from(old, &present).err().map(|error| error.to_string()),
            remark: new.remark_on_change_from(old),
            changes,
        }
    }

    /// Whether an application would change something.
    #[must_use]
    pub const fn changes_something(&self) -> bool {
        self.is_new || !self.changes.is_empty()
    }
}

fn effect(field: &str) -> Effect {
    let is_of =
        |name: &&str| field == *name || field.strip_prefix(*name).is_some_and(|rest| rest.starts_with('.'));
    let grows = field.starts_with("data_volumes.") && field.ends_with(".size_gib");
    if grows || AT_ONCE.iter().any(is_of) { Effect::AtOnce } else { Effect::NextMove }
}

/// The fields of a file, each by its whole name.
fn fields(spec: &NodeSpec) -> BTreeMap<String, Value> {
    let value =
        serde_json::to_value(spec).unwrap_or_else(|error| unreachable!("BUG: a file is plain data: {error}"));
    let mut fields = BTreeMap::new();
    collect("", value, &mut fields);
    fields
}

fn collect(path: &str, value: Value, fields: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                collect(&below(&name), value, fields);
            }
        }
        Value::Array(elements)
            if elements.iter().all(|element| element["name"].is_string()) && !elements.is_empty() =>
        {
            for element in elements {
                let name = element["name"].as_str().unwrap_or_default().to_owned();
                collect(&below(&name), element, fields);
            }
        }
        value => {
            fields.insert(path.to_owned(), value);
        }
    }
}

/// A value in one line.
fn shown(field: &str, value: &Value) -> String {
    match value {
        Value::String(text) if field == SECRET => format!("{} bytes", text.len()),
        Value::String(text) => text.clone(),
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(|element| shown("", element)).collect();
            format!("[{}]", elements.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use perennial_workflows::spec::node::{NetworkMode, RootMode, example};

    use super::*;

    #[test]
    fn a_difference_names_each_field_and_says_when_it_has_an_effect() {
        let old = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
        let mut new = old.clone();
        new.capacity.instance_types = vec!["m6g.large".into()];
        new.data_volumes[0].size_gib = 20;
        new.user_data = Some("secret".into());
        let diff = SpecDiff::new(Some((&old, Present::default())), &new);
        let line = |change: &Change| {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            format!("{:?} {}: {} -> {}", change.effect, change.field, text(&change.from), text(&change.to))
        };
        let lines: Vec<String> = diff.changes.iter().map(line).collect();
        let types = old.capacity.instance_types.join(", ");
        assert_eq!(
            lines,
            [
                "AtOnce data_volumes.data.size_gib: 10 -> 20".to_owned(),
                format!("NextMove capacity.instance_types: [{types}] -> [m6g.large]"),
                "NextMove user_data: - -> 6 bytes".to_owned(),
            ]
        );
        assert_eq!(diff.refused, None);
        new.data_volumes[0].size_gib = 5;
        assert!(
            SpecDiff::new(Some((&old, Present::default())), &new)
                .refused
                .is_some_and(|why| why.contains("can only grow"))
        );
        assert!(!SpecDiff::new(Some((&old, Present::default())), &old).changes_something());
        assert!(SpecDiff::new(None, &old).is_new);
    }
}
