//! `prune`: deletes retained volumes whose successor is in place.

use crate::model::resources::{FailedDeletion, Resources, Succession};
use crate::operation::state::{Due, Operation};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let Some(carrier) = op.order.before.carrier.as_ref().filter(|_| op.facts.carried_over.is_none()) else {
        return Vec::new();
    };
    let left = op.order.prune.iter().filter(|pruned| op.is_to_clean(pruned.volume.as_str()));
    let due = left.map(|pruned| {
        Intent::DeleteVolume {
            volume: pruned.volume.clone(),
            role: format!("retained {}", pruned.slot),
            retained: Some(Succession {
                successor: pruned.successor.clone(),
                carrier: carrier.instance.clone(),
                own: op.own_tags(),
            }),
        }
        .into()
    });
    due.collect()
}

/// What belongs to the node, once everything was tried or its instance is lost.
pub(crate) fn pruned(op: &Operation) -> Option<Resources> {
    rules(op).is_empty().then(|| remaining(op))
}

/// What belonged to the node when the operation began, without what it has pruned.
pub(crate) fn remaining(op: &Operation) -> Resources {
    let mut left = op.order.before.clone();
    for pruned in &op.order.prune {
        let volume = &pruned.volume;
        if op.facts.deleted.iter().any(|deleted| deleted == volume.as_str()) {
            left.retained.retain(|old| old.volume != *volume);
            continue;
        }
        let about = op.steps.values().rfind(
            |record| matches!(record.intent.as_ref(), Intent::DeleteVolume { volume: of, .. } if of == volume),
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
