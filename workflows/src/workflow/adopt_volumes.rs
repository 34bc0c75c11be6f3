//! `adopt_volumes`: volumes that an operator attached to the node's instance become volumes of the node.

use crate::model::resources::Resources;
use crate::model::volume::OtherVolumes;
use crate::operation::state::{Due, Operation};
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, Preserve};

/// Every rule of `adopt_volumes` that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let Some(carrier) = op.order.before.carrier.as_ref().filter(|_| op.facts.carried_over.is_none()) else {
        return Vec::new();
    };
    let is_over = op.steps.values().any(|record| {
        matches!(
            record.outcome,
            Some((Evidence::Preserved | Evidence::PreservedWith { .. } | Evidence::InstanceGone { .. }, _))
        )
    });
    if is_over {
        return Vec::new();
    }
    let volumes = op.order.before.volumes.values().map(|held| held.volume.clone()).collect();
    vec![
        Intent::Preserve(Preserve {
            instance: carrier.instance.clone(),
            volumes,
            interface: None,
            address_interface: None,
            others: Some(OtherVolumes::default()),
            uefi: false,
        })
        .into(),
    ]
}

/// The node's resources, once the instance was looked at or is lost.
pub(crate) fn adopted(op: &Operation) -> Option<Resources> {
    rules(op).is_empty().then(|| Resources { orphans: op.orphans(), ..op.order.before.clone() })
}
