//! Where the node may live.

use crate::operation::state::Operation;
use crate::rules::attached_volumes;
use crate::step::evidence::Evidence;

pub(super) fn resolved(op: &mut Operation, evidence: &Evidence) {
    if let Evidence::Resolved(placement) = evidence {
        op.facts.placement = Some(placement.clone());
        attached_volumes::map(op);
    }
}
