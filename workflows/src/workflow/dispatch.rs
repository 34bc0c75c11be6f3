//! Which rules an operation follows, by its kind and direction.

use crate::model::operation_id::OperationKind;
use crate::operation::state::{Due, Operation};
use crate::rules::final_snapshot;
use crate::workflow::{adopt_volumes, delete, grow, pause, provision, prune, replace, undo};

/// Which intents hold under the facts.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    if op.facts.is_undoing() {
        return undo::rules(op);
    }
    if op.facts.diversion().is_some() {
        return final_snapshot::with(op, pause::rules(op));
    }
    let due = match op.order.kind {
        OperationKind::Provision => provision::rules(op),
        OperationKind::Replace => replace::rules(op),
        OperationKind::Delete => delete::rules(op),
        OperationKind::Grow => grow::rules(op),
        OperationKind::Pause => pause::rules(op),
        OperationKind::Resume => provision::rules(op),
        OperationKind::AdoptVolumes => adopt_volumes::rules(op),
        OperationKind::Prune => prune::rules(op),
    };
    final_snapshot::with(op, due)
}
