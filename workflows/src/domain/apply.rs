//! A node file or an address-pool file is applied.

use perennial_engine::domain::Append;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::NodeEvent;
use crate::domain::command::Rejection;
use crate::domain::decider::{Answer, Appends, Decider, Subject, Wanted};
use crate::domain::states::Event;
use crate::domain::submission::ApplyParams;
use crate::domain::submit::Request;
use crate::domain::volumes;
use crate::machine::decide::Draft;
use crate::model::operation_id;
use crate::model::operation_id::OperationKind;
use crate::model::resources::Resources;
use crate::model::signal::Cause;
use crate::operation::state::{Operation, Status};
use crate::spec::node::NodeSpec;
use crate::step::name::Only;

/// Whether an operation launches instances by the node's file, and is to reach its end.
fn takes_files(open: &Operation) -> bool {
    let launches =
        matches!(open.order.kind, OperationKind::Provision | OperationKind::Replace | OperationKind::Resume);
    launches && open.facts.diversion().is_none() && !open.facts.is_undoing()
}

/// Whether the open operation is stuck, and follows another file than this one.
fn is_stuck_on_another(request: &Request<'_>, spec: &NodeSpec) -> bool {
    request.open.filter(|open| takes_files(open)).is_some_and(|open| {
        matches!(open.status, Status::Stuck { .. }) && open.order.spec != *spec && !open.order.reimage
    })
}

/// Why a file that is known changes nothing.
fn already(request: &Request<'_>) -> String {
    let because = "the node is meant to be so already";
    match request.open {
        Some(open) if matches!(open.status, Status::Stuck { .. }) => format!(
            "{because}; workflow {id} is stuck, `perennial workflow resume {id}` makes it try again",
            id = open.id
        ),
        _ => because.to_owned(),
    }
}

impl Decider<'_> {
    /// A node file comes: of a new node, or of one that is to be otherwise.
    pub(super) fn apply(&self, request: &Request<'_>, apply: &ApplyParams) -> Answer {
        let Request { subject, .. } = *request;
        let node = subject.node;
        if let Some(because) = self.not_applicable(subject, apply) {
            return Ok((Disposition::Rejected { because }, Vec::new()));
        }
        let cause = request.cause(apply.reason.as_ref());
        if node.exists() {
            self.change(request, &apply.spec, cause)
        } else {
            self.register(request, apply, cause)
        }
    }

    /// Why a file cannot be applied to the node as it is.
    fn not_applicable(&self, subject: Subject<'_>, apply: &ApplyParams) -> Option<String> {
        let (node, ApplyParams { spec, from_backup, .. }) = (subject.node, apply);
        let keeps_something = !node.resources.volumes.is_empty() || node.resources.interface.is_some();
        if from_backup.is_some() && (node.exists() || keeps_something) {
            return Some(format!(
                "spec.name: there is a node {} already, or what its deletion kept; a new node needs another name",
                subject.name
            ));
        }
        // A node that has never been carried has no state to lose; only its zone may be taken already.
        let never_carried =
            node.generation == 0 && node.spec.as_ref().is_some_and(|old| old.subnet == spec.subnet);
        if let Some(old) = node.spec.as_ref().filter(|_| node.exists())
            && old.pool() != spec.pool()
        {
            let because = "spec.network.ip_pool: the node has, or waits for, an address of its pool; delete the node first";
            return Some(because.to_owned());
        }
        if let (Some(old), Some((open, kind))) = (&node.spec, &node.open)
            && !operation_id::is_in_place(*kind)
            && let Some(field) = spec.fixed_by_a_start(old)
        {
            return Some(format!(
                "spec.{field}: workflow {open} ({kind}) has begun with another; wait for it with `perennial workflow watch {open}`, or undo it with `perennial workflow cancel {open}`"
            ));
        }
        if let Some(old) = &node.spec
            && (node.exists() || keeps_something)
            && !never_carried
            && let Err(error) = spec.check_change_from(old, &node.present())
        {
            return Some(format!("spec.{error}"));
        }
        if let Err(because) = volumes::check_names(spec, &node.resources) {
            return Some(because);
        }
        self.names_pruned(subject, spec)
    }

    /// Changes a node that exists. Volumes that the file makes larger grow at once, if no operation holds it;
    /// an operation that launches instances goes on with the file at once.
    fn change(&self, request: &Request<'_>, spec: &NodeSpec, cause: Cause) -> Answer {
        let Request { subject, .. } = *request;
        let node = subject.node;
        let is_grown = node.open.is_some() || !node.resources.is_smaller_than(spec);
        let is_known = node.spec.as_ref() == Some(spec) && is_grown;
        if is_known && !is_stuck_on_another(request, spec) {
            return Ok((Disposition::Noted { because: already(request) }, Vec::new()));
        }
        let (taken, repooled) = match self.repool(subject, spec) {
            Ok(repooled) => repooled,
            Err(because) => return Ok((Disposition::Rejected { because }, Vec::new())),
        };
        let changed = NodeEvent::SpecChanged {
            spec: spec.clone(),
            requested_by: request.requested_by().to_owned(),
            addresses_elsewhere: taken.clone(),
        };
        let mut node_events = vec![Event::Node(changed)];
        let mut appends = repooled;
        // A node of an older journal does not say how large its volumes are; the old file does.
        let larger = node.resources.carrier.is_some()
            && node.spec.as_ref().is_some_and(|old| spec.is_larger_than(old));
        let mut disposition = match node.spec.as_ref().and_then(|old| spec.remark_on_change_from(old)) {
            Some(remark) => Disposition::ChangedWith { remark },
            None => Disposition::Changed,
        };
        if node.open.is_none() && (larger || node.resources.is_smaller_than(spec)) {
            let mut before = node.resources.clone();
            if let Some(old) = &node.spec {
                before.repool(old, spec, &taken);
            }
            let wanted = Wanted::new(OperationKind::Grow, spec.clone(), before, node.generation, cause);
            let begun = self.start(subject.next(), wanted)?;
            node_events.extend(begun.node_events);
            appends.push(begun.append);
            disposition = Disposition::Started { operation: begun.id };
        } else if let Some((how, amended)) = self.amend(request, spec)? {
            for append in amended {
                // What it led to in the node's stream follows the change.
                if append.stream == subject.stream() {
                    node_events.extend(append.events);
                } else {
                    appends.push(append);
                }
            }
            disposition = how;
        }
        appends.insert(0, Append::new(subject.stream(), node_events));
        Ok((disposition, appends))
    }

    /// The open operation goes on with a file that is applied; `None` when it has no use for it.
    fn amend(
        &self,
        request: &Request<'_>,
        spec: &NodeSpec,
    ) -> Result<Option<(Disposition, Appends)>, Rejection> {
        let Some(open) = request.open.filter(|open| takes_files(open)) else { return Ok(None) };
        // What is lost is a person's decision, which the next `workflow resume` brings, with the file.
        if matches!(open.status, Status::Stuck { .. }) && !open.lost().is_empty() {
            return Ok(None);
        }
        let mut draft = Draft::from(open, self.head(&open.id.stream()), self.now_ms);
        // A new root that was asked for is from the image that was asked for.
        let names_image = request.subject.node.spec.as_ref().is_none_or(|old| old.image != spec.image);
        let image = if open.order.reimage && !names_image { &open.order.spec.image } else { &spec.image };
        let spec = NodeSpec { image: image.clone(), ..spec.clone() };
        let mut appends = Vec::new();
        let how = match &open.status {
            Status::Stuck { step, .. } => {
                let (granted, taken) = self.take_for_resume(open, &spec);
                appends.extend(taken);
                draft.resume_with(request.requested_by().to_owned(), Vec::new(), spec, granted, None)?;
                format!("it was stuck at {step}, and tries again")
            }
            Status::Running | Status::Finished { .. } => {
                let merged = open.order.spec.with_launches_of(&spec);
                draft.change_spec(merged, request.requested_by().to_owned())?;
                match &open.facts.candidate {
                    Some(candidate) => {
                        format!("should {} be lost, the next launch follows it", candidate.instance)
                    }
                    None if open.has_open(&Only::Launch.into()) || open.facts.ladder.rounds > 0 => {
                        "its next launch follows the file, and does not wait".to_owned()
                    }
                    None => "its launch follows the file".to_owned(),
                }
            }
        };
        if draft.events().is_empty() {
            return Ok(None);
        }
        appends.extend(self.close(draft)?);
        Ok(Some((Disposition::Amended { operation: open.id.clone(), how }, appends)))
    }

    /// A node begins, on its own or from another node's backup.
    fn register(&self, request: &Request<'_>, apply: &ApplyParams, cause: Cause) -> Answer {
        let Request { subject, .. } = *request;
        let node = subject.node;
        let spec = &apply.spec;
        let registered =
            NodeEvent::Registered { spec: spec.clone(), requested_by: request.requested_by().to_owned() };
        let (granted, taken) = match self.take_for_start(&subject.next(), spec, &node.resources) {
            Ok(taken) => taken,
            Err(because) => return Ok((Disposition::Rejected { because }, Vec::new())),
        };
        let held = apply.from_backup.as_ref().map(|from| self.hold(subject, spec, from)).transpose()?;
        let (restore, held) = match held {
            None => (None, None),
            Some(Ok((restore, held))) => (Some(restore), Some(held)),
            Some(Err(because)) => return Ok((Disposition::Rejected { because }, Vec::new())),
        };
        let before = Resources {
            address: granted.here.or(node.resources.address),
            addresses_elsewhere: granted.elsewhere,
            ..node.resources.clone()
        };
        let kind = OperationKind::Provision;
        let wanted = Wanted::new(kind, spec.clone(), before, node.generation + 1, cause);
        let begun = self.start(subject.next(), Wanted { restore, ..wanted })?;
        let mut node_events = vec![Event::Node(registered)];
        node_events.extend(begun.node_events);
        let mut appends = vec![Append::new(subject.stream(), node_events), begun.append];
        appends.extend(taken);
        appends.extend(held);
        Ok((Disposition::Started { operation: begun.id }, appends))
    }
}
