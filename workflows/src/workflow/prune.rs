//! # Prune: deletes retained volumes by id, while the node runs
//!
//! A workflow with another purpose never deletes a volume that holds, or held, the node's data. When the
//! content continues in another volume, the old one is *retained*
//! ([`Retained`](crate::model::resources::Retained)). With `persist.root: image` or `persist.data: snapshot`
//! every replacement leaves one more. A prune deletes them: the operator asks for it (`node prune`), or the
//! file says how long they are kept (`persist.retain_days`).
//!
//! - `delete_volume:v`
//!   - May start when: the order names the volume. One step per volume.
//!   - Does: DeleteVolume, after two looks, a second apart, at it and at its successor.
//!   - Observed by: not found.
//!   - On failure: the volume stays retained, with the reason and the time (`failed_deletion`). The others
//!     continue.
//!   - Safe to repeat because: of the id; "not found" means done.
//!
//! # What may be deleted
//! The order names each volume, with its age and why it may be deleted
//! ([`PruneItem`](crate::model::resources::PruneItem)). The journal decides the choice:
//!
//! - This node *retains* the volume, and its age or its id matches the request.
//! - The volume is not *foreign* (not created for the node), no current volume of the node, and not named by
//!   the node file.
//! - A successor volume has its place, and an instance carries the node with the successor. So the only
//!   volume with the content of a place stays. While the node is paused, or before the workflow that created
//!   the successor has ended, everything stays.
//!
//! The worker looks at the volume twice before it deletes it: it must be free, with the tags of this node of
//! this installation, and its successor must be attached to the instance. A volume that fails this check is
//! refused; the others are not affected.
//!
//! # What it gives way to
//! A prune gives way to every other operation. It takes nothing from the node and begins only while no
//! operation holds the node. It ends at once when the instance is lost or another workflow needs the node. A
//! volume whose deletion was under way then stays listed, though it may be gone: the next prune finds that
//! out. The operator can cancel it at any time; deleted volumes stay deleted.
//!
//! # Scheduled prunes
//! With `persist.retain_days` a timer of the node asks for the volumes that have been retained for longer
//! (`domain::retention`), at the node's turn within an hour. It tries a failed deletion again a day later.

use crate::model::resources::{FailedDeletion, Resources, Succession};
use crate::operation::state::{Due, Operation};
use crate::step::evidence::Evidence;
use crate::step::intent::{DeleteVolume, Intent};

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let Some(carrier) = op.order.before.carrier.as_ref().filter(|_| op.facts.carried_over.is_none()) else {
        return Vec::new();
    };
    let left = op.order.prune.iter().filter(|pruned| op.is_to_clean(&pruned.volume));
    let due = left.map(|pruned| {
        Intent::DeleteVolume(DeleteVolume {
            volume: pruned.volume.clone(),
            role: format!("retained {}", pruned.slot),
            retained: Some(Succession {
                successor: pruned.successor.clone(),
                carrier: carrier.instance.clone(),
                own: op.own_tags(),
            }),
        })
        .into()
    });
    due.collect()
}

/// The node's resources, once every deletion was tried or the instance is lost.
pub(crate) fn pruned(op: &Operation) -> Option<Resources> {
    rules(op).is_empty().then(|| remaining(op))
}

/// The resources that the node had at the beginning, without the volumes that are pruned.
pub(crate) fn remaining(op: &Operation) -> Resources {
    let mut left = op.order.before.clone();
    for pruned in &op.order.prune {
        let volume = &pruned.volume;
        if op.facts.cleanup.is_deleted(volume) {
            left.retained.retain(|old| old.volume != *volume);
            continue;
        }
        let about = op.steps.values().rfind(
            |record| matches!(record.intent.as_ref(), Intent::DeleteVolume(DeleteVolume { volume: of, .. }) if of == volume),
        );
        let Some((evidence, at_ms)) = about.and_then(|record| record.outcome.clone()) else { continue };
        let because = match evidence {
            Evidence::Refused { code, message } => format!("{code}: {message}"),
            Evidence::OutOfTime { because } => format!("not in time: {because}"),
            other => format!("BUG: the worker answered {other:?}"),
        };
        for old in left.retained.iter_mut().filter(|old| old.volume == *volume) {
            old.failed_deletion = Some(FailedDeletion { at_ms, because: because.clone() });
        }
    }
    left
}
