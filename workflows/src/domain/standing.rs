//! Whether the journal knows the world: the journal's own place, and the resources that only a newer journal,
//! or another one, can have made.
//!
//! A journal that is put back from a backup knows less than the account. It would repeat operations that have
//! happened: launch a second instance, move the address to it, delete what it takes for its own leavings. So
//! the tags of a node's resources are compared with the journal before the first step of the node in a
//! process. What the journal cannot know makes the node *behind*: no operation begins, and no step of an open
//! one runs, until `perennial journal adopt` takes the present state, or the resources are gone.
//!
//! A resource is one that the journal cannot know if
//!
//! - it is of another installation; or
//! - it is an instance that is not over and has an id that stands nowhere in the node or its open operation,
//!   and no step of the open operation can have launched it; or
//! - it is a volume, likewise unknown, whose tags name a generation or an operation that is not yet begun.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::aggregate::node::Node;
use crate::model::aws::InstanceId;
use crate::model::installation::{INSTALLATION_TAG, Mark};
use crate::model::operation_id::OperationId;
use crate::model::resources::Resources;
use crate::model::volume::TagMap;
use crate::operation::state::Operation;

/// How far the clocks of AWS and of this machine may disagree, in milliseconds.
pub const CLOCKS_DISAGREE_MAX_MS: u64 = 60_000;

/// How many resources are told of; a person reads them.
const NEWER_MAX: usize = 8;

/// An instance or a volume that carries a node's tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Its id.
    pub id: String,
    /// What it is and how it is, such as `instance, running`.
    pub is: String,
    /// The instance, if it is one that is not over; for a volume, the one it is attached to.
    pub instance: Option<InstanceId>,
    /// Whether it is a volume.
    pub is_volume: bool,
    /// When it was made, in milliseconds since the Unix epoch, where that is known.
    pub created_at_ms: Option<u64>,
    /// Its tags.
    pub tags: TagMap,
}

impl Tagged {
    /// The installation that its tags name.
    #[must_use]
    pub fn installation(&self) -> Option<&str> {
        self.tags.get(INSTALLATION_TAG).map(String::as_str)
    }

    /// The generation that its tags name.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.tags.get("perennial:generation").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The number of the operation that its tags name.
    #[must_use]
    pub fn operation(&self) -> u64 {
        let id = self.tags.get("perennial:operation").and_then(|text| OperationId::parse(text).ok());
        id.map_or(0, |id| id.number())
    }
}

/// A node as it was seen in the account.
#[derive(Debug, Clone, PartialEq)]
pub struct Adoption {
    /// The highest generation that a tag names.
    pub generation: u64,
    /// The highest number of an operation that a tag names.
    pub operations: u64,
    /// Its resources.
    pub resources: Resources,
}

/// The resources of a node that the journal cannot know, in words. `now_ms` is by the journal's clock.
#[must_use]
pub fn newer(
    node: &Node,
    open: Option<&Operation>,
    mark: Option<&Mark>,
    seen: &[Tagged],
    now_ms: u64,
) -> Vec<String> {
    let known = ids(node, open);
    let mut newer: Vec<String> = seen
        .iter()
        .filter_map(|thing| {
            let open = open.map(|open| (open, now_ms));
            let because = cannot_know(node, open, mark, &known, thing)?;
            Some(format!("{} ({}): {because}", thing.id, thing.is))
        })
        .collect();
    newer.sort();
    newer.truncate(NEWER_MAX);
    newer
}

/// Why the journal cannot know a resource; `None` when it does, or may.
fn cannot_know(
    node: &Node,
    open: Option<(&Operation, u64)>,
    mark: Option<&Mark>,
    known: &BTreeSet<String>,
    thing: &Tagged,
) -> Option<String> {
    let has = |id: &str| known.contains(id);
    let on_known = thing.instance.as_ref().is_some_and(|instance| has(instance.as_str()));
    if has(&thing.id) || on_known {
        return None;
    }
    if let (Some(theirs), Some(ours)) = (thing.installation(), mark)
        && theirs != ours.id
    {
        return Some(format!("it is of the installation {theirs}"));
    }
    let may_be_made = open.is_some_and(|(open, now_ms)| may_have_made(open, thing, now_ms));
    if may_be_made || is_looked_for(node, open.map(|(open, _)| open), thing) {
        return None;
    }
    let (generation, operation) = (thing.generation(), thing.operation());
    // An operation that is over has left nothing that its node does not list.
    let is_later = operation > node.operations || (operation == 0 && generation > node.generation);
    if is_later || (open.is_some() && operation == node.operations) {
        return Some(format!(
            "its tags say generation {generation}, workflow number {operation}; the journal is at {} and {}",
            node.generation, node.operations
        ));
    }
    (!thing.is_volume).then(|| "the journal knows no such instance".to_owned())
}

/// Whether a step of the open operation can have made it. A step that was intended at a time to come was
/// dated by a clock that has gone back since: how old it is cannot be said.
fn may_have_made(open: &Operation, thing: &Tagged, now_ms: u64) -> bool {
    let step = thing.tags.get("perennial:step");
    open.steps.values().any(|record| {
        let makes = record.intent.makes();
        let made = makes.iter().any(|(_, tags)| step.is_some() && tags.get("perennial:step") == step);
        let earliest_ms = record.made_from_ms.saturating_sub(CLOCKS_DISAGREE_MAX_MS);
        let is_dated = earliest_ms <= now_ms;
        made && thing.created_at_ms.is_none_or(|created_at_ms| !is_dated || created_at_ms >= earliest_ms)
    })
}

/// Whether what an abandoned step made is still to be looked for, and this is of that step.
fn is_looked_for(node: &Node, open: Option<&Operation>, thing: &Tagged) -> bool {
    use crate::model::resources::Resource;
    let Some(step) = thing.tags.get("perennial:step") else { return false };
    let facts = open.into_iter().flat_map(|open| open.facts.cleanup.orphans());
    node.resources.orphans.iter().chain(facts).any(|left| match &left.resource {
        Resource::Unsettled { tags, .. } => tags.get("perennial:step") == Some(step),
        _ => false,
    })
}

/// Every text that may be an id in what the journal knows of a node: its resources, its past instances, and
/// all that its open operation was told or saw.
fn ids(node: &Node, open: Option<&Operation>) -> BTreeSet<String> {
    let mut ids: BTreeSet<String> = node.past.iter().map(ToString::to_string).collect();
    collect(&plain(&node.resources), &mut ids);
    if let Some(open) = open {
        collect(&plain(&open.order.before), &mut ids);
        ids.extend(open.instances().iter().map(ToString::to_string));
        ids.extend(open.facts.outlived.iter().map(ToString::to_string));
        let cleanup = &open.facts.cleanup;
        ids.extend(cleanup.temporaries().map(ToString::to_string));
        cleanup.orphans().for_each(|orphan| collect(&plain(&orphan.resource), &mut ids));
        for record in open.steps.values() {
            collect(&plain(record.intent.as_ref()), &mut ids);
            if let Some((evidence, _)) = &record.outcome {
                collect(&plain(evidence), &mut ids);
            }
        }
    }
    ids
}

fn plain<T: serde::Serialize>(of: &T) -> Value {
    serde_json::to_value(of).unwrap_or_else(|error| unreachable!("BUG: it is plain data: {error}"))
}

fn collect(value: &Value, ids: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            ids.insert(text.clone());
        }
        Value::Array(all) => all.iter().for_each(|value| collect(value, ids)),
        Value::Object(fields) => {
            for (name, value) in fields {
                ids.insert(name.clone());
                collect(value, ids);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Why nothing is begun for a node that is behind, and the way out.
#[must_use]
pub fn behind(node: &Node) -> Option<String> {
    (!node.newer.is_empty()).then(|| {
        format!(
            "the journal is behind the world: {}; stop the server and run `perennial journal adopt`, or remove what is not the node's",
            node.newer.join("; ")
        )
    })
}
