//! # Grow: enlarges data volumes to the size of the node file, while the node runs
//!
//! - `grow:x`
//!   - May start when: the file's size is larger than the volume.
//!   - Does: ModifyVolume. Observed by: the volume's size.
//!   - On failure: stuck. EC2 allows a few modifications a day.
//!
//! It starts when a larger size is applied, or at the end of the operation that held the node at that time.
//! The node keeps everything. The operator can cancel it at any time; a volume that has grown stays so. It
//! ends at once when the instance is lost: the replacement does not wait, and volumes that are still smaller
//! grow after it. The operator enlarges the file system inside the volume.

use crate::model::resources::Resources;
use crate::model::volume::Slot;
use crate::operation::state::{Due, Operation};
use crate::step::intent::{Grow, Intent};

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    if op.facts.carried_over.is_some() {
        return Vec::new();
    }
    let wanted = op.order.spec.data_volumes.iter().filter_map(|wanted| {
        let slot = Slot::Data(wanted.name.clone());
        let fact = op.facts.volumes.get(&slot)?;
        let volume = fact.id.clone()?;
        let is_smaller = fact.size_gib.is_none_or(|size_gib| size_gib < wanted.size_gib);
        is_smaller.then(|| Intent::Grow(Grow { slot, volume, size_gib: wanted.size_gib }).into())
    });
    wanted.collect()
}

/// The node's resources, once every volume has grown or the instance is lost.
pub(crate) fn grown(op: &Operation) -> Option<Resources> {
    if !rules(op).is_empty() {
        return None;
    }
    let mut resources = op.order.before.clone();
    for (slot, held) in &mut resources.volumes {
        if let Some(fact) = op.facts.volumes.get(slot) {
            held.size_gib = fact.size_gib.or(held.size_gib);
        }
    }
    resources.orphans = op.orphans();
    Some(resources)
}
