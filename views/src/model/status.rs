//! The state of everything in one answer, for a person who passes by and for a check that runs every minute.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::node::{Condition, NodeLine};
use crate::model::server::ServerState;

/// The answer of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// Whether a server works for the journal; none where that cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerState>,
    /// How many nodes there are of each condition; deleted ones are not counted.
    pub nodes: BTreeMap<Condition, usize>,
    /// How many nodes are down; those that are stuck as well are among them.
    pub down: usize,
    /// The nodes that are not as they should be, worst first.
    pub trouble: Vec<NodeLine>,
}

impl StatusView {
    /// Makes it from all nodes.
    #[must_use]
    pub fn new(server: Option<ServerState>, lines: Vec<NodeLine>) -> Self {
        let mut nodes = BTreeMap::new();
        for line in lines.iter().filter(|line| !line.deleted) {
            *nodes.entry(line.condition).or_default() += 1;
        }
        let down = lines.iter().filter(|line| line.down.is_some()).count();
        let is_trouble = |line: &NodeLine| {
            matches!(line.condition, Condition::Behind | Condition::Stuck | Condition::Down)
        };
        let mut trouble: Vec<NodeLine> = lines.into_iter().filter(is_trouble).collect();
        trouble.sort_by_key(|line| line.condition);
        Self { server, nodes, down, trouble }
    }

    /// How many nodes are of a condition.
    #[must_use]
    pub fn count(&self, condition: Condition) -> usize {
        self.nodes.get(&condition).copied().unwrap_or_default()
    }
}
