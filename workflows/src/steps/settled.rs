//! A step that has settled, and the events that several steps have in common.

use crate::model::aws::InstanceId;
use crate::model::operation_id::OperationKind;
use crate::operation::event::OperationEvent;
use crate::operation::state::{Operation, Status};
use crate::rules::{recovery_point, root_clone};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;
use crate::step::name::StepName;

/// A step that has settled, in the state after that.
pub(crate) struct Settled<'a> {
    pub(crate) op: &'a Operation,
    pub(crate) step: &'a StepName,
    pub(crate) intent: &'a Intent,
    pub(crate) evidence: &'a Evidence,
}

impl Settled<'_> {
    /// Something stands in the way that only a person can remove.
    pub(crate) fn blocked(&self) -> Vec<OperationEvent> {
        let id = &self.op.id;
        match self.evidence {
            Evidence::HeldByAnother { what, by } => self.stuck(
                format!("{what} is held by {by}"),
                format!("free {what}, then `perennial workflow resume {id}`"),
            ),
            Evidence::Lost { what, .. } => self.stuck(
                what.clone(),
                format!(
                    "{}bring it back, then `perennial workflow resume {id}`; or take it from a backup \
                     (`perennial node backups {}` lists them), then `perennial workflow resume {id} --from-backup <backup>`; \
                     or accept the loss: `perennial workflow resume {id} --accept-loss <volume>`",
                    recovery_point::goes_on_by_itself(self.op, self.intent),
                    id.node(),
                ),
            ),
            Evidence::Refused { code, message } => self.stuck(
                format!("{code}: {message}"),
                format!("{} `perennial workflow resume {id}`", self.remedy_of_a_refusal()),
            ),
            _ => Vec::new(),
        }
    }

    /// What a person does about a refusal, up to the command that makes the operation try again.
    fn remedy_of_a_refusal(&self) -> String {
        let op = self.op;
        let by_the_file = if self.intent.as_step().follows_the_file() {
            "correct the node file, `perennial node apply -f FILE` makes it go on; or "
        } else {
            ""
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

    /// A resource without data that is lost is created again.
    pub(crate) fn unless_lost(&self) -> Vec<OperationEvent> {
        match self.evidence {
            Evidence::Lost { .. } => Vec::new(),
            _ => self.blocked(),
        }
    }

    /// A resource could not be created.
    pub(crate) fn not_created(&self) -> Vec<OperationEvent> {
        match self.evidence {
            Evidence::NoCapacity { code, message } => self.stuck(
                format!("{code}: {message}"),
                format!("capacity or a quota, then `perennial workflow resume {}`", self.op.id),
            ),
            _ => self.blocked(),
        }
    }

    /// The node is well without the deletion; what is left is listed.
    pub(crate) fn not_cleaned(&self) -> Vec<OperationEvent> {
        if self.op.may_be_left(self.intent) { Vec::new() } else { self.blocked() }
    }

    /// The root goes on in the next way.
    pub(crate) fn next_root_method(&self, instance: &InstanceId, because: String) -> Vec<OperationEvent> {
        let from = self.op.facts.root.method;
        let to = root_clone::after_adoption(self.op, self.evidence);
        vec![OperationEvent::RootMethodChosen { instance: Some(instance.clone()), from, to, because }]
    }

    pub(crate) fn stuck(&self, because: String, needs: String) -> Vec<OperationEvent> {
        stuck(self.op, self.step, because, needs).into_iter().collect()
    }
}

/// A person is needed, unless one is already.
pub(crate) fn stuck(
    op: &Operation,
    step: &StepName,
    because: String,
    needs: String,
) -> Option<OperationEvent> {
    (op.status == Status::Running).then(|| OperationEvent::Stuck { step: step.clone(), because, needs })
}

/// The candidate is lost.
pub(crate) fn lost(instance: &InstanceId, because: String) -> Vec<OperationEvent> {
    vec![OperationEvent::CandidateLost { instance: instance.clone(), because }]
}

pub(crate) fn is_candidate(op: &Operation, instance: &InstanceId) -> bool {
    op.facts.candidate.as_ref().is_some_and(|candidate| candidate.instance == *instance)
}
