//! # Pause: the node gives its instance back and keeps everything else
//!
//! A pause is the release half alone: what is on the instance is made to survive, the instance is fenced,
//! volumes and interface are seen free. `node resume` is the acquire half: a provision that finds every
//! resource already there.
//!
//! ```text
//!  preserve:i ─ fence:i ─┬─ release:x ─── done
//!                        └─ release_interface
//! ```
//!
//! - `preserve:i`, `fence:i`, `release:*`: as in [`replace`](super::replace), also on failure.
//!   - A root that no longer exists and that the resume restores from a backup does not hold the pause up
//!     (`rules::recovery_point`).
//! - Clean-up
//!   - May start when: everything is fenced and free.
//!   - Does: deletes temporary roots and orphans. Observed by: not found.
//!   - On failure: the resource stays listed as an orphan.
//!
//! An operation that is bringing the node onto an instance can be *diverted* into a pause at any time, even
//! while it waits for capacity or is stuck: it gives up its candidate and ends with everything free. So a
//! pause or a deletion need not wait for a replacement that may never end.
//!
//! A secondary private address stays on the interface that had it: see `rules::address_retention`.

use crate::model::resources::Resources;
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation};
use crate::rules::{address_retention, cleanup, interface, release};
use crate::step::intent::{DeleteVolume, Intent};

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    if !is_released(op) {
        return due;
    }
    due.extend(cleanup::orphans(op));
    due.extend(interface::dispose(op));
    due.extend(address_retention::dispose(op));
    for temporary in op.facts.cleanup.temporaries() {
        let ours = op.facts.volumes.values().any(|fact| fact.id.as_ref() == Some(temporary));
        if !ours && op.is_to_clean(temporary) {
            due.push(
                Intent::DeleteVolume(DeleteVolume {
                    volume: temporary.clone(),
                    role: "temporary root".to_owned(),
                    retained: None,
                })
                .into(),
            );
        }
    }
    due
}

/// Whether no resource of the node is on an instance any more.
fn is_released(op: &Operation) -> bool {
    let free = |place: &Place| !matches!(place, Place::On(_));
    op.facts.holders.iter().all(|holder| holder.fenced)
        && op.facts.volumes.values().all(|fact| free(&fact.place))
        && op.facts.interfaces().all(|fact| free(&fact.place))
}

/// The node's resources, once everything is free.
pub(crate) fn paused(op: &Operation, at_ms: u64) -> Option<Resources> {
    (is_released(op) && rules(op).is_empty()).then(|| op.handed_over(at_ms))
}
