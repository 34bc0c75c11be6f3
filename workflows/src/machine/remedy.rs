//! What a person does about a step whose time is over.

use crate::model::operation_id::OperationId;
use crate::step::intent::Intent;

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
