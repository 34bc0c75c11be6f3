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

use perennial_engine::domain::Append;
use serde_json::Value;

use crate::aggregate::installation::{Installation, InstallationEvent, installation_stream};
use crate::aggregate::node::{Node, NodeEvent};
use crate::domain::command::Rejection;
use crate::domain::decider::{Appends, Decider, Subject};
use crate::domain::states::{Event, State};
use crate::machine::decide::Draft;
use crate::model::aws::InstanceId;
use crate::model::installation::{INSTALLATION_TAG, Mark, Place};
use crate::model::operation_id::{OperationId, Outcome};
use crate::model::resources::Resources;
use crate::model::volume::TagMap;
use crate::operation::state::Operation;

/// How far the clocks of AWS and of this machine may disagree, in milliseconds.
const CLOCKS_DISAGREE_MAX_MS: u64 = 60_000;

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

/// The resources of a node that the journal cannot know, in words.
#[must_use]
pub fn newer(node: &Node, open: Option<&Operation>, mark: Option<&Mark>, seen: &[Tagged]) -> Vec<String> {
    let known = ids(node, open);
    let mut newer: Vec<String> = seen
        .iter()
        .filter_map(|thing| {
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
    open: Option<&Operation>,
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
    if open.is_some_and(|open| may_have_made(open, thing)) || is_looked_for(node, open, thing) {
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

/// Whether a step of the open operation can have made it.
fn may_have_made(open: &Operation, thing: &Tagged) -> bool {
    let step = thing.tags.get("perennial:step");
    open.steps.values().any(|record| {
        let makes = record.intent.makes();
        let made = makes.iter().any(|(_, tags)| step.is_some() && tags.get("perennial:step") == step);
        let earliest_ms = record.intended_at_ms.saturating_sub(CLOCKS_DISAGREE_MAX_MS);
        made && thing.created_at_ms.is_none_or(|created_at_ms| created_at_ms >= earliest_ms)
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

impl Decider<'_> {
    fn installation(&self) -> Result<&Installation, Rejection> {
        match self.world.get(&installation_stream()) {
            Some(State::Installation(installation)) => Ok(installation),
            _ => Err(Rejection::WrongStream { stream: installation_stream() }),
        }
    }

    /// The journal is served here.
    pub(crate) fn bind(&self, id: &str, here: &Place) -> Result<Appends, Rejection> {
        let installation = self.installation()?;
        let event = if installation.mark.is_none() {
            InstallationEvent::Bound { id: id.to_owned(), place: here.clone() }
        } else if installation.place.agrees_with(here) {
            let place = installation.place.completed_by(here);
            if place == installation.place {
                return Ok(Vec::new());
            }
            InstallationEvent::Placed { place, accepted_by: None }
        } else {
            let (bound, here) = (Box::new(installation.place.clone()), Box::new(here.clone()));
            return Err(Rejection::AnotherPlace { bound, here });
        };
        Ok(vec![Append::new(installation_stream(), vec![Event::Installation(event)])])
    }

    /// The operator says that it belongs here.
    pub(crate) fn move_to(&self, here: &Place, requested_by: &str) -> Result<Appends, Rejection> {
        let installation = self.installation()?;
        let place = here.completed_by(&installation.place);
        if installation.mark.is_none() || place == installation.place {
            return Ok(Vec::new());
        }
        let event = InstallationEvent::Placed { place, accepted_by: Some(requested_by.to_owned()) };
        Ok(vec![Append::new(installation_stream(), vec![Event::Installation(event)])])
    }

    /// The account was compared with what the journal knows of a node.
    pub(crate) fn stands(&self, subject: Subject<'_>, newer: &[String]) -> Appends {
        if newer == subject.node.newer || subject.node.spec.is_none() {
            return Vec::new();
        }
        let event = if newer.is_empty() {
            NodeEvent::CaughtUp {}
        } else {
            NodeEvent::FellBehind { newer: newer.to_vec() }
        };
        vec![Append::new(subject.stream(), vec![Event::Node(event)])]
    }

    /// The node is as it was seen in the account. An operation that is open ends without it.
    pub(crate) fn adopt(
        &self,
        subject: Subject<'_>,
        found: &Adoption,
        requested_by: &str,
    ) -> Result<Appends, Rejection> {
        let node = subject.node;
        if node.spec.is_none() {
            return Err(subject.unknown());
        }
        let mut appends = Vec::new();
        let mut events = Vec::new();
        let mut operations = found.operations.max(node.operations);
        if let Some(open) = self.open(subject) {
            let mut draft = Draft::from(open, self.head(&open.id.stream()), self.now_ms);
            let before = draft.give_up()?;
            events.push(Event::Node(NodeEvent::OperationFinished {
                operation: open.id.clone(),
                kind: open.order.kind,
                generation: node.generation,
                resources: before,
                outcome: Outcome::Abandoned,
                finals: false,
                launched_by: None,
            }));
            operations = operations.max(open.id.number());
            let ended = draft.into_append(Event::Operation, |operation| State::Operation(Some(operation)));
            appends.extend(ended);
        }
        events.push(Event::Node(NodeEvent::Adopted {
            generation: found.generation.max(node.generation),
            operations,
            resources: found.resources.clone(),
            requested_by: requested_by.to_owned(),
        }));
        appends.push(Append::new(subject.stream(), events));
        if let Some(mark) = self.mark() {
            let renewed = InstallationEvent::Renewed {
                incarnation: mark.incarnation + 1,
                requested_by: requested_by.to_owned(),
            };
            appends.push(Append::new(installation_stream(), vec![Event::Installation(renewed)]));
        }
        Ok(appends)
    }
}
