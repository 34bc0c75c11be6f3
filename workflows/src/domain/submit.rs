//! Submissions: what an operator or a program asks for.

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::Node;
use crate::domain::decider::{Answer, Decider, Subject, Wanted};
use crate::domain::standing;
use crate::domain::submission::{
    CancelParams, DeleteParams, PauseParams, RecycleParams, ReplaceParams, RestoreParams, ResumeNodeParams,
    ResumeParams, Submission, Work,
};
use crate::machine::decide::Draft;
use crate::machine::refusal::Refusal;
use crate::model::operation_id;
use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::signal::Cause;
use crate::operation::state::{Operation, Status};
use crate::rules::address_pool;
use crate::spec::node::NodeSpec;

/// A submission about a node, and what it is decided on.
pub(super) struct Request<'a> {
    pub(super) subject: Subject<'a>,
    /// The node's file; the one that comes with the submission, if the node has none yet.
    pub(super) spec: &'a NodeSpec,
    /// The open operation, unless it is one that gives way.
    pub(super) open: Option<&'a Operation>,
    submission: &'a Submission,
}

impl Request<'_> {
    /// The cause of what it starts.
    pub(super) fn cause(&self, reason: Option<&String>) -> Cause {
        Cause::Request {
            submission: self.submission.id.to_string(),
            requested_by: self.submission.requested_by.clone(),
            reason: reason.cloned(),
            sender: self.submission.sender.clone(),
        }
    }

    /// Who asks.
    pub(super) fn requested_by(&self) -> &str {
        &self.submission.requested_by
    }

    fn wanted(&self, kind: OperationKind, generation: u64, reason: Option<&String>) -> Wanted {
        let before = self.subject.node.resources.clone();
        Wanted::new(kind, self.spec.clone(), before, generation, self.cause(reason))
    }

    fn has_no_instance(&self) -> bool {
        self.subject.node.resources.carrier.is_none()
    }

    /// The answer when an operation holds the node: with the ways out that there are.
    fn is_busy(&self) -> Answer {
        let busy = self.subject.node.open.as_ref().map(|(id, kind)| {
            let ways = self.open.map_or_else(
                || ways_out(id, None, true),
                |open| {
                    let stuck = matches!(open.status, Status::Stuck { .. });
                    ways_out(id, Some(stuck), open.no_return().is_none())
                },
            );
            format!("workflow {id} ({kind}) holds the node; {ways}")
        });
        rejected(busy.unwrap_or_default())
    }
}

/// What can be done about a workflow that holds a node.
fn ways_out(id: &OperationId, stuck: Option<bool>, may_be_undone: bool) -> String {
    let node = id.node();
    let mut ways = match stuck {
        Some(true) => format!(
            "it is stuck: correct the file (`perennial node apply -f FILE` makes it go on), or remove the cause and `perennial workflow resume {id}`"
        ),
        Some(false) | None => format!("wait for it with `perennial workflow watch {id}`"),
    };
    if may_be_undone {
        ways.push_str(&format!(", or undo it with `perennial workflow cancel {id}`"));
    } else {
        ways.push_str(&format!(
            ", or end it with `perennial node pause {node}`, and begin anew with `perennial node resume {node}`"
        ));
    }
    ways
}

fn rejected(because: String) -> Answer {
    Ok((Disposition::Rejected { because }, Vec::new()))
}

fn noted(because: String) -> Answer {
    Ok((Disposition::Noted { because }, Vec::new()))
}

impl Decider<'_> {
    /// Something is asked for.
    pub(crate) fn submit(&self, subject: Subject<'_>, submission: &Submission) -> Answer {
        let node = subject.node;
        let applied = match &submission.work {
            Work::Apply(apply) => Some(&apply.spec),
            _ => None,
        };
        let name = subject.name;
        let unknown =
            || rejected(format!("there is no node {name}; register it with `perennial node apply -f FILE`"));
        let Some(spec) = node.spec.as_ref().or(applied) else { return unknown() };
        let needs_node = match &submission.work {
            Work::Apply(_) | Work::Resume(_) | Work::Cancel(_) | Work::Pool(_) => false,
            Work::Replace(_)
            | Work::Backup(_)
            | Work::Recycle(_)
            | Work::Restore(_)
            | Work::Pause(_)
            | Work::ResumeNode(_)
            | Work::Prune(_)
            | Work::Delete(_) => true,
        };
        if needs_node && !node.exists() {
            return unknown();
        }
        if let Some(because) = standing::behind(node) {
            return rejected(because);
        }
        if let Some(deed) = against_protection(node, &submission.work) {
            return rejected(format!(
                "{name} is protected, and {deed} takes something away for good; apply its file with `protect: false` first"
            ));
        }
        // A growth, or a look at volumes, holds nothing that could not be let go.
        let open = self.open(subject);
        let open = open.filter(|open| !operation_id::is_in_place(open.order.kind));
        let request = Request { subject, spec, open, submission };
        match &submission.work {
            Work::Apply(apply) => self.apply(&request, apply),
            Work::Replace(replace) => self.replace(&request, replace),
            Work::Backup(backup) => self.back_up(subject, request.cause(backup.reason.as_ref())),
            Work::Recycle(recycle) => self.recycle(&request, recycle),
            Work::Restore(restore) => self.restore(&request, restore),
            Work::Pause(pause) => self.pause(&request, pause),
            Work::ResumeNode(resume) => self.resume_node(&request, resume),
            // It is not urgent, and takes nothing from any other.
            Work::Prune(_) if node.open.is_some() => request.is_busy(),
            Work::Prune(wish) => self.prune(&request, wish),
            Work::Delete(delete) => self.delete(&request, delete),
            Work::Pool(_) => rejected("BUG: a pool came as a node".to_owned()),
            Work::Resume(resume) => self.resume(&request, resume),
            Work::Cancel(cancel) => self.cancel(&request, cancel),
        }
    }

    /// The node goes on on another instance.
    fn replace(&self, request: &Request<'_>, replace: &ReplaceParams) -> Answer {
        if request.open.is_some() {
            return request.is_busy();
        }
        if request.has_no_instance() {
            return is_paused(request);
        }
        let kind = OperationKind::Replace;
        self.begin(
            request,
            request.wanted(kind, request.subject.node.generation + 1, replace.reason.as_ref()),
        )
    }

    /// The node goes on on another instance whose root is new.
    fn recycle(&self, request: &Request<'_>, recycle: &RecycleParams) -> Answer {
        if request.open.is_some() {
            return request.is_busy();
        }
        if request.has_no_instance() {
            return is_paused(request);
        }
        let generation = request.subject.node.generation + 1;
        let mut wanted = request.wanted(OperationKind::Replace, generation, recycle.reason.as_ref());
        // The node's file names the image once the new root is there.
        if let Some(image) = &recycle.reimage {
            wanted.spec.image = image.clone();
            wanted.reimage = true;
        }
        self.begin(request, wanted)
    }

    /// Volumes of the node are made from a backup of it; a paused node comes back with it.
    fn restore(&self, request: &Request<'_>, wanted: &RestoreParams) -> Answer {
        if request.open.is_some() {
            return request.is_busy();
        }
        let Request { subject, .. } = *request;
        let node = subject.node;
        let restore = match self.restorable(subject, &wanted.backup, &wanted.only) {
            Ok(restore) => restore,
            Err(because) => return rejected(because),
        };
        let kind = match request.has_no_instance() {
            false => OperationKind::Replace,
            true => OperationKind::Resume,
        };
        let held = self.hold_own(subject, &restore, &subject.next())?;
        let begun = request.wanted(kind, node.generation + 1, wanted.reason.as_ref());
        let (disposition, mut appends) = self.begin(request, Wanted { restore: Some(restore), ..begun })?;
        appends.extend(held);
        Ok((disposition, appends))
    }

    /// The node gives its instance back and keeps everything else.
    fn pause(&self, request: &Request<'_>, pause: &PauseParams) -> Answer {
        let name = &request.subject.name;
        match request.open {
            Some(open) if address_pool::lacks_address(open) => rejected(format!(
                "node {name} has no address of its pool yet; extend the pool and resume the workflow, or delete the node"
            )),
            // What is not made from the backup yet would be forgotten.
            Some(open) if open.order.restore.is_some() || !open.facts.restore.is_empty() => {
                rejected(format!(
                    "node {name} is being made from a backup; wait for it, or cancel it, or delete the node"
                ))
            }
            Some(open) => self.divert(open, request.cause(pause.reason.as_ref()), None),
            None if request.has_no_instance() && request.subject.node.open.is_none() => {
                noted(format!("node {name} is paused already"))
            }
            None => {
                let generation = request.subject.node.generation;
                let wanted = request.wanted(OperationKind::Pause, generation, pause.reason.as_ref());
                self.begin(request, wanted)
            }
        }
    }

    /// A paused node comes back onto an instance.
    fn resume_node(&self, request: &Request<'_>, resume: &ResumeNodeParams) -> Answer {
        if request.open.is_some() {
            return request.is_busy();
        }
        if !request.has_no_instance() {
            return noted(format!("node {} is not paused", request.subject.name));
        }
        let generation = request.subject.node.generation + 1;
        let wanted = request.wanted(OperationKind::Resume, generation, resume.reason.as_ref());
        self.begin(request, wanted)
    }

    /// The node ends.
    fn delete(&self, request: &Request<'_>, delete: &DeleteParams) -> Answer {
        let Request { subject, .. } = *request;
        let node = subject.node;
        let cause = request.cause(delete.reason.as_ref());
        if let Some(stuck) = self.stuck(subject) {
            return self.supersede(subject, stuck, delete.keep, cause);
        }
        match request.open {
            Some(open) if open.may_be_diverted() => self.divert(open, cause, Some(delete.keep)),
            Some(_) => request.is_busy(),
            None => {
                let wanted = request.wanted(OperationKind::Delete, node.generation, delete.reason.as_ref());
                self.begin(request, Wanted { keep: Some(delete.keep), ..wanted })
            }
        }
    }

    /// An operation that is stuck goes on.
    fn resume(&self, request: &Request<'_>, resume: &ResumeParams) -> Answer {
        let Request { subject, .. } = *request;
        let node = subject.node;
        let Some(operation) = self.open_as_named(subject, &resume.workflow) else {
            return rejected(format!("workflow {} is not open", resume.workflow));
        };
        let mut draft = Draft::from(operation, self.head(&resume.workflow.stream()), self.now_ms);
        let Some(spec) = node.spec.clone() else {
            return Err(subject.unknown());
        };
        let (granted, taken) = self.take_for_resume(operation, &spec);
        let mut given_up = resume.accept_loss.clone();
        if given_up.is_empty() && resume.from_backup.is_some() {
            given_up = operation.lost();
        }
        if given_up.is_empty() && resume.from_backup.is_some() {
            return rejected(format!("no volume was seen to be lost in {}", resume.workflow));
        }
        let (mut restore, mut held) = (None, None);
        if let Some(backup) = &resume.from_backup {
            match self.restorable(subject, backup, &given_up) {
                Ok(wanted) => {
                    held = self.hold_own(subject, &wanted, &operation.id)?;
                    restore = Some(wanted);
                }
                Err(because) => return rejected(because),
            }
        }
        match draft.resume_with(request.requested_by().to_owned(), given_up, spec, granted, restore) {
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

    /// An operation is undone.
    fn cancel(&self, request: &Request<'_>, cancel: &CancelParams) -> Answer {
        let Some(operation) = self.open_as_named(request.subject, &cancel.workflow) else {
            return rejected(format!("workflow {} is not open", cancel.workflow));
        };
        let mut draft = Draft::from(operation, self.head(&cancel.workflow.stream()), self.now_ms);
        match draft.cancel(request.requested_by().to_owned(), cancel.reason.clone()) {
            Ok(()) => Ok((Disposition::Joined { operation: cancel.workflow.clone() }, self.close(draft)?)),
            Err(refusal @ (Refusal::OnlyForward { .. } | Refusal::AlreadyCancelled { .. })) => {
                rejected(refusal.to_string())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The open operation, if it is the one that the submission names.
    fn open_as_named(&self, subject: Subject<'_>, named: &OperationId) -> Option<&Operation> {
        self.operation(named).filter(|_| subject.open() == Some(named))
    }
}

fn is_paused(request: &Request<'_>) -> Answer {
    let name = &request.subject.name;
    rejected(format!("node {name} is paused; bring it back with `perennial node resume {name}`"))
}

/// What a protected node does not allow, if it is that.
fn against_protection(node: &Node, work: &Work) -> Option<&'static str> {
    node.spec.as_ref().filter(|spec| spec.protect)?;
    match work {
        Work::Delete(_) => Some("a deletion"),
        Work::Recycle(recycle) if recycle.reimage.is_some() => Some("a new root"),
        Work::Restore(_) => Some("a restore"),
        Work::Recycle(_)
        | Work::Apply(_)
        | Work::Replace(_)
        | Work::Backup(_)
        | Work::Pause(_)
        | Work::ResumeNode(_)
        | Work::Prune(_)
        | Work::Pool(_)
        | Work::Resume(_)
        | Work::Cancel(_) => None,
    }
}
