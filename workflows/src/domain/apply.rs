//! A node file or an address-pool file is applied.

use perennial_engine::domain::Append;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::NodeEvent;
use crate::domain::decider::{Answer, Decider, Subject, Wanted};
use crate::domain::states::Event;
use crate::domain::submission::ApplyParams;
use crate::domain::submit::Request;
use crate::domain::volumes;
use crate::model::operation_id;
use crate::model::operation_id::OperationKind;
use crate::model::resources::Resources;
use crate::model::signal::Cause;
use crate::spec::node::NodeSpec;

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
            && let Err(error) = spec.check_change_from(old)
        {
            return Some(format!("spec.{error}"));
        }
        if let Err(because) = volumes::check_names(spec, &node.resources) {
            return Some(because);
        }
        self.names_pruned(subject, spec)
    }

    /// Changes a node that exists. Volumes that the file makes larger grow at once, if no operation holds it.
    fn change(&self, request: &Request<'_>, spec: &NodeSpec, cause: Cause) -> Answer {
        let Request { subject, .. } = *request;
        let node = subject.node;
        let stream = subject.stream();
        let is_grown = node.open.is_some() || !node.resources.is_smaller_than(spec);
        if node.spec.as_ref() == Some(spec) && is_grown {
            let because = "the node is meant to be so already".to_owned();
            return Ok((Disposition::Noted { because }, Vec::new()));
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
        // A node of an older journal does not say how large its volumes are; the old file does.
        let larger = node.resources.carrier.is_some()
            && node.spec.as_ref().is_some_and(|old| spec.is_larger_than(old));
        if node.open.is_none() && (larger || node.resources.is_smaller_than(spec)) {
            let mut before = node.resources.clone();
            if let Some(old) = &node.spec {
                before.repool(old, spec, &taken);
            }
            let wanted = Wanted::new(OperationKind::Grow, spec.clone(), before, node.generation, cause);
            let begun = self.start(subject.next(), wanted)?;
            node_events.extend(begun.node_events);
            let mut appends = vec![Append::new(stream, node_events), begun.append];
            appends.extend(repooled);
            return Ok((Disposition::Started { operation: begun.id }, appends));
        }
        let mut appends = vec![Append::new(stream, node_events)];
        appends.extend(repooled);
        Ok((Disposition::Changed, appends))
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
