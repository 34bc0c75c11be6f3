//! How operations start, end, and follow one another, each in one append with the node's own event.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_engine::domain::Append;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::{Node, NodeEvent};
use crate::domain::command::Rejection;
use crate::domain::decider::{Answer, Appends, Begun, Decider, Subject, Wanted, Written};
use crate::domain::states::{Event, State};
use crate::domain::submit::Request;
use crate::machine::decide::Draft;
use crate::machine::refusal::Refusal;
use crate::model::operation_id;
use crate::model::operation_id::{OperationId, OperationKind, Outcome, node_stream};
use crate::model::resources::Resources;
use crate::model::restore::Keep;
use crate::model::signal::Cause;
use crate::operation::event::{Diversion, Order};
use crate::operation::state::Operation;
use crate::spec::node::NodeSpec;

impl Decider<'_> {
    /// Starts an operation: both streams, at once.
    pub(crate) fn start(&self, id: OperationId, wanted: Wanted) -> Result<Begun, Rejection> {
        let known = || self.node(id.node()).ok()?.good.clone();
        let good = match wanted.kind {
            OperationKind::Replace => wanted.good.or_else(known),
            _ => None,
        };
        let order = Order {
            number: id.number(),
            kind: wanted.kind,
            generation: wanted.generation,
            owner: self.owner.to_owned(),
            installation: self.mark(),
            good: good.filter(|good| **good != wanted.spec),
            spec: wanted.spec,
            before: wanted.before,
            keep: wanted.keep,
            reimage: wanted.reimage,
            prune: wanted.prune,
            restore: wanted.restore,
            cause: wanted.cause.clone(),
        };
        let draft = Draft::start(id.clone(), order, self.now_ms)?;
        let mut node_events = vec![Event::Node(NodeEvent::OperationStarted {
            operation: id.clone(),
            kind: wanted.kind,
            cause: wanted.cause,
        })];
        // The deletion of a node that has nothing is over at once.
        if let Some((resources, outcome)) = draft.finished_with() {
            node_events.push(Event::Node(NodeEvent::OperationFinished {
                operation: id.clone(),
                kind: wanted.kind,
                generation: wanted.generation,
                resources: resources.clone(),
                outcome,
                finals: false,
                launched_by: None,
            }));
        }
        let append = written(draft).unwrap_or_else(|| Append::new(id.stream(), Vec::new()));
        Ok(Begun { node_events, append, id })
    }

    /// The appends of a draft. When the operation has finished, they include the node's and, given a cause,
    /// those of the next operation.
    pub(crate) fn close(&self, draft: Draft) -> Result<Appends, Rejection> {
        let Some((resources, outcome)) = draft.finished_with() else {
            return Ok(written(draft).into_iter().collect());
        };
        let (ended, resources) = (draft.state(), resources.clone());
        let (id, order) = (ended.id.clone(), Arc::clone(&ended.order));
        let node = self.node(id.node())?;
        // An operation that did not complete leaves the node's generation unchanged.
        let generation = if outcome.is_completed() { order.generation } else { node.generation };
        let launched_by = ended.facts.launches.last_order.as_ref().filter(|_| outcome.is_completed());
        let launched_by = launched_by.map(|order| order.spec.clone());
        let launched_by = launched_by.filter(|spec| node.spec.as_ref() != Some(spec)).map(Box::new);
        let mut node_events = Vec::new();
        // The root is a new one, from an image that was asked for: from now on it is the node's.
        let renewed = node.spec.as_ref().filter(|_| order.reimage && outcome.is_completed());
        let renewed = renewed.map(|spec| NodeSpec { image: order.spec.image.clone(), ..spec.clone() });
        let renewed = renewed.filter(|renewed| node.spec.as_ref() != Some(renewed));
        node_events.extend(renewed.clone().map(|spec| {
            Event::Node(NodeEvent::SpecChanged {
                spec,
                requested_by: node.described_by.clone(),
                addresses_elsewhere: BTreeMap::new(),
            })
        }));
        node_events.push(Event::Node(NodeEvent::OperationFinished {
            operation: id.clone(),
            kind: order.kind,
            generation,
            resources: resources.clone(),
            outcome,
            finals: ended.finals().is_some(),
            launched_by: launched_by.clone(),
        }));
        let next = self.follows(ended, outcome, node, resources, generation);
        let next = next.map(|wanted| Wanted {
            spec: renewed.unwrap_or_else(|| wanted.spec.clone()),
            good: launched_by,
            ..wanted
        });
        let mut appends: Appends = written(draft).into_iter().collect();
        if let Some(wanted) = next {
            let view = Decider { owner: &order.owner, ..*self };
            let begun = view.start(id.next(), wanted)?;
            node_events.extend(begun.node_events);
            appends.push(begun.append);
        }
        appends.push(Append::new(node_stream(id.node()), node_events));
        Ok(appends)
    }

    /// The operation that begins with the end of another.
    fn follows(
        &self,
        ended: &Operation,
        outcome: Outcome,
        node: &Node,
        resources: Resources,
        generation: u64,
    ) -> Option<Wanted> {
        let order = &ended.order;
        let spec = node.spec.clone().unwrap_or_else(|| order.spec.clone());
        if let Some(Diversion { delete: Some(keep), cause }) = ended.facts.diversion() {
            let wanted = Wanted::new(OperationKind::Delete, spec, resources, generation, cause.clone());
            return Some(Wanted { keep: Some(*keep), ..wanted });
        }
        if !outcome.is_completed() || matches!(order.kind, OperationKind::Delete | OperationKind::Pause) {
            return None;
        }
        if let Some(signal) = &ended.facts.carried_over {
            let cause = Cause::Signal { signal: signal.clone() };
            return Some(Wanted::new(OperationKind::Replace, spec, resources, generation + 1, cause));
        }
        // A larger size was applied while the operation held the node.
        let grows = order.kind != OperationKind::Grow && resources.is_smaller_than(&spec);
        let cause = Cause::FileChanged { requested_by: node.described_by.clone() };
        grows.then(|| Wanted::new(OperationKind::Grow, spec, resources, generation, cause))
    }

    /// Starts an operation on a node whose growth or adoption of volumes gives way to it.
    pub(super) fn begin(&self, request: &Request<'_>, mut wanted: Wanted) -> Answer {
        let Request { subject, .. } = *request;
        let node = subject.node;
        let mut node_events = Vec::new();
        let mut appends = Vec::new();
        if let Some((open, kind)) = &node.open
            && operation_id::is_in_place(*kind)
            && let Some(growth) = self.operation(open)
        {
            let mut draft = Draft::from(growth, self.head(&open.stream()), self.now_ms);
            let because = "another workflow needs the node".to_owned();
            draft.cancel(request.requested_by().to_owned(), Some(because))?;
            let Some((resources, outcome)) = draft.finished_with() else {
                let why = "what gives way does not end at once".to_owned();
                return Err(Refusal::Inconsistent { operation: open.clone(), why }.into());
            };
            wanted.before = resources.clone();
            node_events.push(Event::Node(NodeEvent::OperationFinished {
                operation: open.clone(),
                kind: *kind,
                generation: node.generation,
                resources: wanted.before.clone(),
                outcome,
                // What gives way takes nothing from the instance.
                finals: false,
                launched_by: None,
            }));
            appends.extend(written(draft));
        }
        if wanted.reimage {
            // The new image's traits are looked up.
            wanted.before.placement = None;
        }
        let begun = self.start(subject.next(), wanted)?;
        node_events.extend(begun.node_events);
        appends.push(Append::new(subject.stream(), node_events));
        appends.push(begun.append);
        Ok((Disposition::Started { operation: begun.id }, appends))
    }

    /// Ends the open operation with everything free; a deletion may follow.
    pub(crate) fn divert(&self, operation: &Operation, cause: Cause, delete: Option<Keep>) -> Answer {
        let mut draft = Draft::from(operation, self.head(&operation.id.stream()), self.now_ms);
        match draft.divert(cause, delete) {
            Ok(()) => Ok((Disposition::Joined { operation: operation.id.clone() }, self.close(draft)?)),
            Err(refusal @ (Refusal::AlreadyCancelled { .. } | Refusal::NotDiverted { .. })) => {
                Ok((Disposition::Rejected { because: refusal.to_string() }, Vec::new()))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// A deletion takes over what a stuck operation has: one append ends the one and begins the other.
    pub(crate) fn supersede(
        &self,
        subject: Subject<'_>,
        stuck: &Operation,
        keep: Keep,
        cause: Cause,
    ) -> Answer {
        let (node, stream) = (subject.node, stuck.id.stream());
        let mut draft = Draft::from(stuck, self.head(&stream), self.now_ms);
        let before = draft.abandon()?;
        let ended = NodeEvent::OperationFinished {
            operation: stuck.id.clone(),
            kind: stuck.order.kind,
            generation: node.generation,
            resources: before.clone(),
            outcome: Outcome::Abandoned,
            finals: draft.state().finals().is_some(),
            launched_by: None,
        };
        let begun = self.start(
            subject.next(),
            Wanted {
                keep: Some(keep),
                ..Wanted::new(
                    OperationKind::Delete,
                    node.spec.clone().unwrap_or_else(|| stuck.order.spec.clone()),
                    before,
                    node.generation,
                    cause,
                )
            },
        )?;
        let mut node_events = vec![Event::Node(ended)];
        node_events.extend(begun.node_events);
        let mut appends: Appends = written(draft).into_iter().collect();
        appends.push(Append::new(subject.stream(), node_events));
        appends.push(begun.append);
        Ok((Disposition::Started { operation: begun.id }, appends))
    }
}

/// What a draft writes; nothing when nothing has happened.
fn written(draft: Draft) -> Option<Written> {
    draft.into_append(Event::Operation, |operation| State::Operation(Some(operation)))
}
