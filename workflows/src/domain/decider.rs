//! The world a decision is made on, with its types, and what a decision puts together.

use crate::aggregate::inbox::Disposition;
use crate::aggregate::installation::installation_stream;
use crate::aggregate::node::Node;
use crate::domain::command::Rejection;
use crate::domain::reads::{newest_operation, node_of, present_catalog};
use crate::domain::standing;
use crate::domain::states::{Event, State};
use crate::model::aws::InstanceId;
use crate::model::backup_id::CatalogId;
use crate::model::installation::Mark;
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, OperationKind, node_stream};
use crate::model::resources::{PruneItem, Resources};
use crate::model::restore::{Keep, Restore};
use crate::model::signal::Cause;
use crate::operation::event::OperationEvent;
use crate::operation::state::{Operation, Status};
use crate::spec::node::NodeSpec;
use perennial_engine::domain::{Append, Decision, Waiting, World};
use perennial_engine::ids::{Seq, StreamId, Token};
use std::collections::BTreeSet;

/// How much is kept of why a step waits, in characters: a sentence of EC2's with an id or two.
const BECAUSE_MAX: usize = 400;

/// The states a decision is made on, with their types.
pub(crate) struct Decider<'a> {
    pub(crate) world: &'a World<State>,
    pub(crate) now_ms: u64,
    pub(crate) owner: &'a str,
}

/// The node that a command is about.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a NodeName,
    pub(crate) node: &'a Node,
}

impl Subject<'_> {
    /// The node's stream.
    pub(crate) fn stream(&self) -> StreamId {
        node_stream(self.name)
    }

    /// The operation that begins next.
    pub(crate) fn next(&self) -> OperationId {
        OperationId::new(self.name.clone(), self.node.operations + 1)
    }

    /// The operation that holds the node.
    pub(crate) fn open(&self) -> Option<&OperationId> {
        self.node.open.as_ref().map(|(open, _)| open)
    }

    /// A refusal: it does not exist.
    pub(crate) fn unknown(&self) -> Rejection {
        Rejection::NoSuchNode { node: self.name.clone() }
    }
}

/// The events of one stream; with the state after them where a draft has made them.
pub(crate) type Written = Append<Event, State>;

pub(crate) type Appends = Vec<Written>;

/// What becomes of a message, and what is written because of it.
pub(crate) type Answer = Result<(Disposition, Appends), Rejection>;

/// What a new node is made from, and the append that holds it.
pub(crate) type Held = (Restore, Written);

/// An operation to start.
pub(crate) struct Wanted {
    pub(crate) kind: OperationKind,
    pub(crate) spec: NodeSpec,
    pub(crate) before: Resources,
    pub(crate) generation: u64,
    pub(crate) keep: Option<Keep>,
    pub(crate) reimage: bool,
    pub(crate) prune: Vec<PruneItem>,
    pub(crate) restore: Option<Restore>,
    pub(crate) cause: Cause,
    /// The file of its last instance, where the node does not know it yet.
    pub(crate) good: Option<Box<NodeSpec>>,
}

impl Wanted {
    pub(crate) const fn new(
        kind: OperationKind,
        spec: NodeSpec,
        before: Resources,
        generation: u64,
        cause: Cause,
    ) -> Self {
        Self {
            kind,
            spec,
            before,
            generation,
            keep: None,
            reimage: false,
            prune: Vec::new(),
            restore: None,
            cause,
            good: None,
        }
    }
}

/// An operation that starts.
pub(crate) struct Begun {
    pub(crate) id: OperationId,
    pub(crate) node_events: Vec<Event>,
    pub(crate) append: Written,
}

impl<'a> Decider<'a> {
    /// For a command that a timer gives: whose installation this is stands where the journal is bound; in one
    /// that is not, in the catalog's schedule, and in the order of the node's newest operation. One of them
    /// is loaded whenever anything may begin.
    pub(crate) fn of_a_timer(world: &'a World<State>, now_ms: u64, name: &NodeName) -> Self {
        let node = match world.get(&node_stream(name)) {
            Some(State::Node(node)) => Some(node),
            _ => None,
        };
        let newest = node.and_then(|node| newest_operation(world, name, node));
        let scheduled = match world.get(&present_catalog(world, name).stream()) {
            Some(State::BackupCatalog(catalog)) => catalog.known.schedule.as_ref(),
            _ => None,
        };
        let bound = match world.get(&installation_stream()) {
            Some(State::Installation(installation)) => Some(installation.place.owner.as_str()),
            _ => None,
        };
        let bound = bound.filter(|owner| !owner.is_empty());
        let owner = bound.or(newest.map(|operation| operation.order.owner.as_str()));
        Self {
            world,
            now_ms,
            owner: owner.or(scheduled.map(|known| known.owner.as_str())).unwrap_or_default(),
        }
    }
}

impl Decider<'_> {
    pub(crate) fn node(&self, name: &NodeName) -> Result<&Node, Rejection> {
        match self.world.get(&node_stream(name)) {
            Some(State::Node(node)) => Ok(node),
            _ => Err(Rejection::WrongStream { stream: node_stream(name) }),
        }
    }

    pub(crate) fn operation(&self, id: &OperationId) -> Option<&Operation> {
        match self.world.get(&id.stream()) {
            Some(State::Operation(operation)) => operation.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn head(&self, stream: &StreamId) -> Seq {
        self.world.head(stream).unwrap_or(Seq::NONE)
    }

    /// The identity that tags and client tokens take; none before the journal is bound.
    pub(crate) fn mark(&self) -> Option<Mark> {
        match self.world.get(&installation_stream()) {
            Some(State::Installation(installation)) => installation.mark.clone(),
            _ => None,
        }
    }

    /// The node that a command is about.
    pub(crate) fn subject<'s>(&'s self, name: &'s NodeName) -> Result<Subject<'s>, Rejection> {
        Ok(Subject { name, node: self.node(name)? })
    }

    /// The node that an instance belongs or belonged to.
    pub(crate) fn node_of(&self, instance: &InstanceId) -> Option<NodeName> {
        node_of(self.world, instance)
    }

    /// The present backup catalog of a node.
    pub(crate) fn present_catalog(&self, name: &NodeName) -> CatalogId {
        present_catalog(self.world, name)
    }

    /// The newest operation of a node, where what is decided depends on it.
    pub(crate) fn newest_operation(&self, subject: Subject<'_>) -> Option<&Operation> {
        newest_operation(self.world, subject.name, subject.node)
    }

    /// The operation that holds a node.
    pub(crate) fn open(&self, subject: Subject<'_>) -> Option<&Operation> {
        self.operation(subject.open()?)
    }

    /// The open operation of a node, if it is stuck.
    pub(crate) fn stuck(&self, subject: Subject<'_>) -> Option<&Operation> {
        self.open(subject).filter(|open| matches!(open.status, Status::Stuck { .. }))
    }

    /// What a decision about a node rests on, wherever it is written: the node, and what holds it.
    pub(crate) fn rests_on(&self, subject: Subject<'_>) -> BTreeSet<StreamId> {
        let open = subject.open().map(OperationId::stream);
        open.into_iter().chain([subject.stream()]).collect()
    }

    /// A decision about a node.
    pub(crate) fn decision(&self, subject: Subject<'_>, appends: Appends) -> Decision<Event, State> {
        Decision { fences: self.rests_on(subject).into_iter().collect(), ..Decision::of(appends) }
    }

    /// An open step waits; nothing is kept of one that is over.
    pub(crate) fn waits(&self, workflow: &StreamId, token: Token, waiting: &Waiting) -> Option<Written> {
        let operation = self.operation(&OperationId::of_stream(workflow)?)?;
        let record = operation.steps.get(&token).filter(|record| record.outcome.is_none())?;
        let event = OperationEvent::StepWaits {
            token,
            step: record.step.clone(),
            because: waiting.because.chars().take(BECAUSE_MAX).collect(),
            hindered: waiting.hindered,
            looks: waiting.looks,
        };
        Some(Append::new(workflow.clone(), vec![Event::Operation(event)]))
    }

    /// What the engine does about a node of its own accord: nothing while the journal is behind the world.
    pub(crate) fn unless_behind<'b>(
        &'b self,
        node: &'b NodeName,
        decide: impl FnOnce(Subject<'b>) -> Result<Appends, Rejection>,
    ) -> Result<Decision<Event, State>, Rejection> {
        let subject = self.subject(node)?;
        if standing::behind(subject.node).is_some() {
            return Ok(Decision::nothing());
        }
        Ok(self.decision(subject, decide(subject)?))
    }
}
