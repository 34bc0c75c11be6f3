//! What a prune of a node would delete, and what would stay.

use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::retention::{age_ms, length, select, successor};
use perennial_workflows::domain::submission::PruneParams;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::resources::Retained;
use perennial_workflows::model::resources::{PRUNED_MAX, PruneItem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer of `node prune --dry-run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunePreview {
    /// The node.
    pub node: NodeName,
    /// What would be deleted.
    pub delete: Vec<PruneItem>,
    /// What would stay.
    pub stay: Vec<StayingVolume>,
}

/// A retained volume that would stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StayingVolume {
    /// The volume.
    #[serde(flatten)]
    pub retained: Retained,
    /// Why it would stay.
    pub stays_because: String,
}

impl PrunePreview {
    /// Selects what a prune with these parameters deletes.
    ///
    /// # Errors
    /// Why a volume that the parameters name is not deleted.
    pub fn new(name: &NodeName, node: &Node, params: &PruneParams, now_ms: u64) -> Result<Self, String> {
        let delete = select(node, params, now_ms)?;
        let goes = |old: &Retained| delete.iter().any(|item| item.volume == old.volume);
        let stay = node.resources.retained.iter().filter(|old| !goes(old)).map(|old| StayingVolume {
            retained: old.clone(),
            stays_because: match successor(node, old) {
                Err(why) => why,
                Ok(_) if delete.len() == PRUNED_MAX => {
                    format!("{PRUNED_MAX} are deleted at a time, the oldest first")
                }
                Ok(_) => format!("not asked for; retained for {}", length(age_ms(old, now_ms))),
            },
        });
        let stay = stay.collect();
        Ok(Self { node: name.clone(), delete, stay })
    }
}

/// A volume that a prune could not delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDeleted {
    /// The volume.
    pub volume: String,
    /// Why; none if it was not tried.
    pub because: Option<String>,
}

impl NotDeleted {
    /// Lists what of `items` a node still retains.
    #[must_use]
    pub fn of(node: &Node, items: &[PruneItem]) -> Vec<Self> {
        let is_item = |old: &&Retained| items.iter().any(|item| item.volume == old.volume);
        let left = node.resources.retained.iter().filter(is_item);
        left.map(|old| Self {
            volume: old.volume.to_string(),
            because: old.failed_deletion.as_ref().map(|failed_deletion| failed_deletion.because.clone()),
        })
        .collect()
    }
}
