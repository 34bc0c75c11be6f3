//! Which tags say whose an object is, and which step made it.

use perennial_workflows::model::volume::TagMap;

use crate::port::Tags;

/// Whether all the wanted tags are there. No tags are carried by nothing.
pub(super) fn carries(has: &Tags, wanted: &TagMap) -> bool {
    !wanted.is_empty() && wanted.iter().all(|(key, value)| has.get(key) == Some(value))
}

/// The tags that say whose a thing is, of those it is made with.
pub(super) fn own_tags(tags: &TagMap) -> TagMap {
    tags.iter()
        .filter(|(key, _)| matches!(key.as_str(), "perennial:owner" | "perennial:node"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The tags that find what one attempt at one step has made.
pub(super) fn step_tags(tags: &TagMap) -> Tags {
    tags.iter()
        .filter(|(key, _)| matches!(key.as_str(), "perennial:owner" | "perennial:step"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
