//! A live handover (`persist.handover: detach`): data volumes leave the old instance while it still runs.
//! The second interface follows them (`interface::may_detach`).

use crate::model::operation_id::OperationKind;
use crate::model::volume::Slot;
use crate::operation::facts::{Holder, Place};
use crate::operation::state::Operation;
use crate::rules::short_notice;
use crate::spec::node::Handover;

/// When a data volume may leave an instance that still runs.
pub(crate) fn may_detach(op: &Operation, holder: &Holder, slot: &Slot) -> bool {
    let Some(fact) = op.facts.volumes.get(slot) else { return false };
    let secured = op.facts.candidate.as_ref().is_some_and(|candidate| candidate.runs());
    op.order.spec.persist.handover == Handover::Detach
        && op.order.kind == OperationKind::Replace
        && !op.facts.is_undoing()
        && op.order.spec.makes_before_breaks()
        && *slot != Slot::Root
        && secured
        && holder.is_old
        && holder.preserved
        && !holder.ended
        && !short_notice::is_short(op, holder)
        && matches!(&fact.place, Place::On(on) if *on == holder.instance)
        && fact.detach_tried_on.as_ref() != Some(&holder.instance)
}
