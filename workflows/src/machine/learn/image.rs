//! The image that the root goes on as.

use crate::model::aws::SnapshotId;
use crate::operation::state::Operation;
use crate::rules::snapshot_ahead;
use crate::step::evidence::Evidence;

pub(super) fn registered(op: &mut Operation, snapshot: &SnapshotId, evidence: &Evidence) {
    let Evidence::ImageAvailable { image, .. } = evidence else { return };
    op.facts.root_image = Some(image.clone());
    if op.facts.root_snapshot.as_ref() != Some(snapshot) {
        snapshot_ahead::outdate_image(op);
    }
}
