//! Submissions: what an operator or a program asks for.

use std::collections::BTreeMap;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::NodeEvent;
use crate::domain::command::{Rejection, Sight};
use crate::domain::states::{Appends, Decider, Event, Wanted};
use crate::domain::submission::{Submission, Work};
use crate::machine::decide::{Draft, Refusal};
use crate::model::operation_id;
use crate::model::operation_id::OperationKind;
use crate::model::signal::Cause;
use crate::rules::address_pool;

impl Decider<'_> {
    /// Something is asked for.
    pub(crate) fn submit(
        &self,
        sight: &Sight,
        submission: &Submission,
    ) -> Result<(Disposition, Appends), Rejection> {
        let node = self.seen(sight)?;
        let name = &sight.node;
        let rejected = |because: String| Ok((Disposition::Rejected { because }, Vec::new()));
        let cause = |reason: Option<String>| Cause::Request {
            submission: submission.id.to_string(),
            requested_by: submission.requested_by.clone(),
            reason,
        };
        let busy = || {
            node.open.as_ref().map(|(id, kind)| {
                format!(
                    "workflow {id} ({kind}) holds the node; wait for it with `perennial workflow watch {id}`, or undo it with `perennial workflow cancel {id}`"
                )
            })
        };
        let Some(spec) = node.spec.as_ref().or(match &submission.work {
            Work::Apply(apply) => Some(&apply.spec),
            _ => None,
        }) else {
            return rejected(format!(
                "there is no node {name}; register it with `perennial node apply -f FILE`"
            ));
        };
        // A growth, or a look at volumes, holds nothing that could not be let go.
        let open = sight
            .open
            .as_ref()
            .and_then(|open| self.operation(open))
            .filter(|o| !operation_id::is_in_place(o.order.kind));
        match &submission.work {
            Work::Apply(apply) => {
                let cause = cause(apply.reason.clone());
                self.apply(
                    sight,
                    node,
                    &apply.spec,
                    apply.from_backup.as_ref(),
                    &submission.requested_by,
                    cause,
                )
            }
            Work::Replace(_)
            | Work::Backup(_)
            | Work::Recycle(_)
            | Work::Restore(_)
            | Work::Pause(_)
            | Work::ResumeNode(_)
            | Work::Prune(_)
            | Work::Delete(_)
                if !node.exists() =>
            {
                rejected(format!("there is no node {name}; register it with `perennial node apply -f FILE`"))
            }
            // It is not urgent, and takes nothing from anybody.
            Work::Prune(_) if node.open.is_some() => rejected(busy().unwrap_or_default()),
            Work::Prune(wish) => self.prune(sight, node, spec, (wish, cause(wish.reason.clone()))),
            Work::Backup(backup) => self.back_up(sight, node, cause(backup.reason.clone())),
            Work::Delete(delete) if self.stuck(sight).is_some() => {
                let Some(operation) = self.stuck(sight) else { return rejected(busy().unwrap_or_default()) };
                self.supersede(sight, node, operation, delete.keep, cause(delete.reason.clone()))
            }
            Work::Pause(_) if open.is_some_and(address_pool::lacks_address) => rejected(format!(
                "node {name} has no address of its pool yet; extend the pool and resume the workflow, or delete the node"
            )),
            // What is not made from the backup yet would be forgotten.
            Work::Pause(_)
                if open
                    .is_some_and(|open| open.order.restore.is_some() || !open.facts.restore.is_empty()) =>
            {
                rejected(format!(
                    "node {name} is being made from a backup; wait for it, or cancel it, or delete the node"
                ))
            }
            Work::Pause(pause) => match open {
                Some(operation) => self.divert(operation, cause(pause.reason.clone()), None),
                None if node.resources.carrier.is_none() && node.open.is_none() => {
                    Ok((Disposition::Noted { because: format!("node {name} is paused already") }, Vec::new()))
                }
                None => self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(pause.reason.clone());
                    Wanted::new(OperationKind::Pause, spec.clone(), before, node.generation, cause)
                }),
            },
            Work::Delete(delete) => match open {
                Some(operation) if operation.may_be_diverted() => {
                    self.divert(operation, cause(delete.reason.clone()), Some(delete.keep))
                }
                Some(_) => rejected(busy().unwrap_or_default()),
                None => self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(delete.reason.clone());
                    let wanted =
                        Wanted::new(OperationKind::Delete, spec.clone(), before, node.generation, cause);
                    Wanted { keep: Some(delete.keep), ..wanted }
                }),
            },
            Work::Replace(_) | Work::Recycle(_) | Work::Restore(_) | Work::ResumeNode(_)
                if open.is_some() =>
            {
                rejected(busy().unwrap_or_default())
            }
            Work::Restore(wanted) => {
                let restore = match self.restorable(sight, node, &wanted.backup, &wanted.only) {
                    Ok(restore) => restore,
                    Err(because) => return rejected(because),
                };
                // A paused node comes back with it.
                let kind = match node.resources.carrier {
                    Some(_) => OperationKind::Replace,
                    None => OperationKind::Resume,
                };
                let held = self.hold_own(sight, &restore, &sight.next())?;
                let (disposition, mut appends) =
                    self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                        let cause = cause(wanted.reason.clone());
                        let begun = Wanted::new(kind, spec.clone(), before, node.generation + 1, cause);
                        Wanted { restore: Some(restore), ..begun }
                    })?;
                appends.extend(held);
                Ok((disposition, appends))
            }
            Work::ResumeNode(_) if node.resources.carrier.is_some() => {
                Ok((Disposition::Noted { because: format!("node {name} is not paused") }, Vec::new()))
            }
            Work::ResumeNode(resume) => {
                self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(resume.reason.clone());
                    Wanted::new(OperationKind::Resume, spec.clone(), before, node.generation + 1, cause)
                })
            }
            Work::Replace(_) | Work::Recycle(_) if node.resources.carrier.is_none() => {
                rejected(format!("node {name} is paused; bring it back with `perennial node resume {name}`"))
            }
            Work::Replace(replace) => {
                self.begin(sight, node, &submission.requested_by, Vec::new(), |before| {
                    let cause = cause(replace.reason.clone());
                    Wanted::new(OperationKind::Replace, spec.clone(), before, node.generation + 1, cause)
                })
            }
            Work::Recycle(recycle) => {
                let mut first = Vec::new();
                let mut spec = spec.clone();
                if let Some(image) = recycle.reimage.as_ref().filter(|image| **image != spec.image) {
                    spec.image = image.clone();
                    let requested_by = submission.requested_by.clone();
                    first.push(Event::Node(NodeEvent::SpecChanged {
                        spec: spec.clone(),
                        requested_by,
                        addresses_elsewhere: BTreeMap::new(),
                    }));
                }
                let reimage = recycle.reimage.is_some();
                self.begin(sight, node, &submission.requested_by, first, |mut before| {
                    if reimage {
                        // The new image's traits are looked up.
                        before.placement = None;
                    }
                    let cause = cause(recycle.reason.clone());
                    let wanted =
                        Wanted::new(OperationKind::Replace, spec, before, node.generation + 1, cause);
                    Wanted { reimage, ..wanted }
                })
            }
            Work::Resume(resume) => {
                let operation = self
                    .operation(&resume.workflow)
                    .filter(|_| sight.open.as_ref() == Some(&resume.workflow));
                let Some(operation) = operation else {
                    return rejected(format!("workflow {} is not open", resume.workflow));
                };
                let mut draft = Draft::from(operation, self.head(&resume.workflow.stream()), self.now_ms);
                let Some(spec) = node.spec.clone() else {
                    return Err(Rejection::Moved { node: name.clone() });
                };
                let (granted, taken) = self.take_for_resume(operation, &spec);
                let mut held = None;
                let who = submission.requested_by.clone();
                let mut given_up = resume.accept_loss.clone();
                if given_up.is_empty() && resume.from_backup.is_some() {
                    given_up = operation.lost();
                }
                if given_up.is_empty() && resume.from_backup.is_some() {
                    return rejected(format!("no volume was seen to be lost in {}", resume.workflow));
                }
                let restore = match &resume.from_backup {
                    None => None,
                    Some(backup) => match self.restorable(sight, node, backup, &given_up) {
                        Ok(restore) => {
                            held = self.hold_own(sight, &restore, &operation.id)?;
                            Some(restore)
                        }
                        Err(because) => return rejected(because),
                    },
                };
                match draft.resume_with(who, given_up, spec, granted, restore) {
                    Ok(()) => {
                        let mut appends = self.close(draft)?;
                        appends.extend(taken);
                        appends.extend(held);
                        Ok((Disposition::Joined { operation: resume.workflow.clone() }, appends))
                    }
                    Err(refusal @ (Refusal::NotStuck { .. } | Refusal::NotLost { .. })) => {
                        rejected(refusal.to_string())
                    }
                    Err(refusal) => Err(refusal.into()),
                }
            }
            Work::Pool(_) => rejected("BUG: a pool came as a node".to_owned()),
            Work::Cancel(cancel) => {
                let operation = self
                    .operation(&cancel.workflow)
                    .filter(|_| sight.open.as_ref() == Some(&cancel.workflow));
                let Some(operation) = operation else {
                    return rejected(format!("workflow {} is not open", cancel.workflow));
                };
                let mut draft = Draft::from(operation, self.head(&cancel.workflow.stream()), self.now_ms);
                match draft.cancel(submission.requested_by.clone(), cancel.reason.clone()) {
                    Ok(()) => {
                        Ok((Disposition::Joined { operation: cancel.workflow.clone() }, self.close(draft)?))
                    }
                    Err(refusal @ (Refusal::OnlyForward { .. } | Refusal::AlreadyCancelled { .. })) => {
                        rejected(refusal.to_string())
                    }
                    Err(refusal) => Err(refusal.into()),
                }
            }
        }
    }
}
