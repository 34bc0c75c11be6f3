//! The node's own interface.

use crate::model::aws::InstanceId;
use crate::operation::event::OperationEvent;
use crate::step::evidence::Evidence;

use super::Settled;

/// An interface that is gone is made anew.
pub(super) fn made_anew(settled: &Settled<'_>) -> Vec<OperationEvent> {
    match settled.evidence {
        Evidence::Lost { .. } => Vec::new(),
        _ => settled.blocked(),
    }
}

pub(super) fn attached(settled: &Settled<'_>, instance: &InstanceId) -> Vec<OperationEvent> {
    let Evidence::NoCapacity { code, message } = settled.evidence else { return made_anew(settled) };
    let candidate = settled.op.facts.candidate.as_ref();
    let needs = format!(
        "detach another interface from it; or name types that take more interfaces than {}, `perennial node apply`, and terminate it: then another is launched. Then: perennial workflow resume {}",
        candidate.map_or("its own", |candidate| candidate.pool.instance_type.as_str()),
        settled.op.id
    );
    settled.stuck(format!("{code}: {instance} takes no further interface: {message}"), needs)
}
