//! What a person does about a step whose time is over.

use crate::model::operation_id::{OperationId, OperationKind};
use crate::operation::state::Operation;
use crate::step::intent::Intent;

/// What a person does about a refusal, up to the command that makes the operation try again.
pub(crate) fn of_a_refusal(op: &Operation, intent: &Intent) -> String {
    let by_the_file = match intent {
        Intent::Resolve { .. }
        | Intent::Launch { .. }
        | Intent::SetGroups { .. }
        | Intent::CreateInterface { .. }
        | Intent::CreateVolume { .. } => {
            "correct the node file, `perennial node apply -f FILE` makes it go on; or "
        }
        _ => "",
    };
    let anew = if op.may_be_diverted() && op.order.kind != OperationKind::Provision {
        format!(
            " (or begin anew: `perennial node pause {node}`, then `perennial node resume {node}`)",
            node = op.id.node()
        )
    } else {
        String::new()
    };
    format!("{by_the_file}remove the cause{anew}, then")
}

/// What is needed before an operation can go on.
pub(crate) fn needs(operation: &OperationId, intent: &Intent) -> String {
    match intent {
        Intent::Release { volume, from, .. } => format!(
            "see that {volume} leaves {from}: `aws ec2 describe-volumes --volume-ids {volume}` shows it, \
             `aws ec2 detach-volume --volume-id {volume} --instance-id {from} --force` takes it off a terminated instance. \
             Then: perennial workflow resume {operation}"
        ),
        _ => format!("look at what it waits for, then: perennial workflow resume {operation}"),
    }
}
