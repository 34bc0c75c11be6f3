//! What else happens when a step has settled: the candidate is lost, the root goes on in another way, a
//! person is needed.

mod instance;
mod interface;
mod root;
mod volume;

use crate::model::operation_id::OperationKind;
use crate::operation::event::OperationEvent;
use crate::operation::state::{Operation, Status};
use crate::rules::{recovery_point, survey};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;
use crate::workflow::undo;

/// A step that has settled, in the state after that.
struct Settled<'a> {
    op: &'a Operation,
    step: &'a str,
    intent: &'a Intent,
    evidence: &'a Evidence,
}

/// The events that follow.
pub(super) fn consequences(
    op: &Operation,
    step: &str,
    intent: &Intent,
    evidence: &Evidence,
) -> Vec<OperationEvent> {
    let settled = Settled { op, step, intent, evidence };
    let first = settled.when_given_up().or_else(|| instance::gone(&settled));
    first.unwrap_or_else(|| settled.by_subject())
}

impl Settled<'_> {
    /// What follows in an operation that is undone or diverted; `None` where it is the same as ever.
    fn when_given_up(&self) -> Option<Vec<OperationEvent>> {
        let op = self.op;
        if !op.gives_up() {
            return None;
        }
        if let (Intent::Launch { .. }, Evidence::Launched { instance, .. }) = (self.intent, self.evidence) {
            return Some(instance::lost(instance, "the workflow is cancelled".to_owned()));
        }
        let ends_with_it = op.facts.is_undoing()
            && op.order.kind == OperationKind::Provision
            && matches!((self.intent, self.evidence), (Intent::Release { .. }, Evidence::Lost { .. }));
        (ends_with_it || undo::goes_on_without(op, self.intent)).then(Vec::new)
    }

    fn by_subject(&self) -> Vec<OperationEvent> {
        match self.intent {
            // The node is well without them. Its backup catalog says what is missing, and what needs a
            // snapshot that is not there takes it then.
            Intent::FinalSnapshot { .. } | Intent::SnapshotAhead { .. } => Vec::new(),
            Intent::Launch { image, .. } => instance::launched(self, image),
            Intent::Start { instance, .. } => instance::started(self, instance),
            Intent::AdoptRoot { instance, .. } => root::adopted(self, instance),
            Intent::CloneRoot { .. } => root::cloned(self),
            Intent::Survey(_) => {
                let missing = survey::missing(self.op, self.evidence);
                missing.map_or_else(Vec::new, |(because, needs)| self.stuck(because, needs))
            }
            // A live detach is only tried; the volume follows after the fence.
            Intent::Detach { .. } | Intent::DetachInterface { .. } => Vec::new(),
            Intent::Release { .. } => volume::released(self),
            Intent::Attach { slot, device, .. } => volume::attached(self, slot, device),
            Intent::AttachInterface { instance, .. } => interface::attached(self, instance),
            Intent::ReleaseInterface { .. } | Intent::SetGroups { .. } => interface::made_anew(self),
            Intent::CreateVolume { .. } | Intent::CreateInterface { .. } => self.not_created(),
            Intent::DeleteVolume { .. }
            | Intent::DeleteInterface { .. }
            | Intent::DeregisterImage { .. }
            | Intent::DeleteSnapshot { .. }
            | Intent::Find { .. } => self.not_cleaned(),
            Intent::Resolve { .. }
            | Intent::ClaimVolume { .. }
            | Intent::Grow { .. }
            | Intent::Preserve { .. }
            | Intent::Fence { .. }
            | Intent::SnapshotRoot { .. }
            | Intent::SnapshotVolume { .. }
            | Intent::RegisterImage { .. }
            | Intent::MoveAddress { .. }
            | Intent::ReturnAddress { .. }
            | Intent::Associate { .. }
            | Intent::Verify { .. }
            | Intent::Backup(_) => self.blocked(),
        }
    }

    /// Something stands in the way that only a person can remove.
    fn blocked(&self) -> Vec<OperationEvent> {
        let id = &self.op.id;
        match self.evidence {
            Evidence::HeldByAnother { what, by } => self.stuck(
                format!("{what} is held by {by}"),
                format!("free {what}, then: perennial workflow resume {id}"),
            ),
            Evidence::Lost { what, not_shown } => self.stuck(
                what.clone(),
                format!(
                    "{}bring it back, or take it from a backup (`perennial node backups {}`): perennial workflow resume {id} \
                     --from-backup <backup>, or accept the loss: --accept-loss <volume>",
                    if *not_shown { "" } else { recovery_point::goes_on_by_itself(self.op, self.intent) },
                    id.node(),
                ),
            ),
            Evidence::Refused { code, message } => self.stuck(
                format!("{code}: {message}"),
                format!("remove the cause, then: perennial workflow resume {id}"),
            ),
            _ => Vec::new(),
        }
    }

    fn not_created(&self) -> Vec<OperationEvent> {
        match self.evidence {
            Evidence::NoCapacity { code, message } => self.stuck(
                format!("{code}: {message}"),
                format!("capacity or a quota, then: perennial workflow resume {}", self.op.id),
            ),
            _ => self.blocked(),
        }
    }

    /// The node is well without it; what is left is listed.
    fn not_cleaned(&self) -> Vec<OperationEvent> {
        if self.op.may_be_left(self.intent) { Vec::new() } else { self.blocked() }
    }

    fn stuck(&self, because: String, needs: String) -> Vec<OperationEvent> {
        stuck(self.op, self.step, because, needs).into_iter().collect()
    }
}

/// A person is needed, unless one is already.
pub(super) fn stuck(op: &Operation, step: &str, because: String, needs: String) -> Option<OperationEvent> {
    (op.status == Status::Running).then(|| OperationEvent::Stuck { step: step.to_owned(), because, needs })
}
