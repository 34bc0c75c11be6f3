//! Decisions: what a report, a signal or a command adds to the journal.

use crate::machine::fold;
use crate::machine::moves::{OperationCommand, Resume, proceed};
use crate::machine::refusal::Refusal;
use crate::model::operation_id::{OperationId, Outcome};
use crate::model::resources::Resources;
use crate::model::restore::{Keep, Restore};
use crate::model::signal::{Cause, Signal};
use crate::model::volume::Slot;
use crate::operation::event::{OperationEvent, Order};
use crate::operation::facts::Granted;
use crate::operation::state::Operation;
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use perennial_engine::domain::Append;
use perennial_engine::ids::{Seq, Token};
use perennial_engine::machine::{Machine, Workflow};
use std::fmt;

/// A decision in the making: each event is remembered at once, so that the rules see what it changed. After
/// a refusal that is a bug it is of no use any more.
pub struct Draft(Machine<Operation>);

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("id", self.0.id()).field("events", &self.0.events()).finish()
    }
}

impl Draft {
    /// A new operation, with its first steps.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn start(id: OperationId, order: Order, now_ms: u64) -> Result<Self, Refusal> {
        let state = fold::start(id.clone(), order.clone(), now_ms);
        let mut machine = Machine::started(id, OperationEvent::Started(order), state, now_ms);
        proceed(&mut machine)?;
        Ok(Self(machine))
    }

    /// Goes on from a state.
    #[must_use]
    pub fn from(state: &Operation, head: Seq, now_ms: u64) -> Self {
        Self(Machine::from(state.id.clone(), state.clone(), head, now_ms))
    }

    /// The state after the events so far.
    #[must_use]
    pub fn state(&self) -> &Operation {
        self.0.state()
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> &[OperationEvent] {
        self.0.events()
    }

    /// The events, and the state after them, for the operation's stream; `None` when nothing has happened.
    #[must_use]
    pub fn into_append<E, S>(
        self,
        event: impl FnMut(OperationEvent) -> E,
        state: impl FnOnce(Operation) -> S,
    ) -> Option<Append<E, S>> {
        let stream = self.0.id().stream();
        self.0.into_append(stream, event, state)
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when the token is not open.
    pub fn report(&mut self, token: Token, evidence: Evidence) -> Result<(), Refusal> {
        self.0.report(token, evidence)
    }

    /// Takes what was heard about an instance of this operation. Leaves no events when it is of no
    /// consequence.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn signal(&mut self, signal: &Signal) -> Result<(), Refusal> {
        self.decide(OperationCommand::Signal(signal.clone()))
    }

    /// Takes a person's word that what was missing is there.
    ///
    /// # Errors
    /// [`Refusal::NotStuck`], [`Refusal::NotLost`].
    pub fn resume(
        &mut self,
        requested_by: String,
        accept_loss: Vec<Slot>,
        spec: NodeSpec,
    ) -> Result<(), Refusal> {
        self.resume_with(requested_by, accept_loss, spec, Granted::default(), None)
    }

    /// As [`resume`](Self::resume), with addresses that were taken from the node's pools, and with a backup
    /// that what is lost comes back from.
    ///
    /// # Errors
    /// [`Refusal::NotStuck`], [`Refusal::NotLost`].
    pub fn resume_with(
        &mut self,
        requested_by: String,
        accept_loss: Vec<Slot>,
        spec: NodeSpec,
        granted: Granted,
        restore: Option<Restore>,
    ) -> Result<(), Refusal> {
        let resume = Resume { requested_by, accept_loss, spec, granted, restore };
        self.decide(OperationCommand::Resume(Box::new(resume)))
    }

    /// Takes a person's word that it is to be undone.
    ///
    /// # Errors
    /// [`Refusal::OnlyForward`], [`Refusal::AlreadyCancelled`].
    pub fn cancel(&mut self, requested_by: String, reason: Option<String>) -> Result<(), Refusal> {
        self.decide(OperationCommand::Cancel { requested_by, reason })
    }

    /// Follows another file from now on. Leaves no events when it is the same.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn change_spec(&mut self, spec: NodeSpec, requested_by: String) -> Result<(), Refusal> {
        self.decide(OperationCommand::ChangeSpec { spec: Box::new(spec), requested_by })
    }

    /// Frees what the node holds instead of bringing it onto an instance.
    ///
    /// # Errors
    /// [`Refusal::AlreadyCancelled`], [`Refusal::NotDiverted`].
    pub fn divert(&mut self, cause: Cause, delete: Option<Keep>) -> Result<(), Refusal> {
        self.decide(OperationCommand::Divert { cause, delete })
    }

    /// Ends a stuck operation, whose things a deletion takes over.
    ///
    /// # Errors
    /// [`Refusal::NotStuck`].
    pub fn abandon(&mut self) -> Result<Resources, Refusal> {
        self.ends_with(OperationCommand::Abandon)
    }

    /// Ends an operation, however far it is: the node is taken as it is in the account.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn give_up(&mut self) -> Result<Resources, Refusal> {
        self.ends_with(OperationCommand::GiveUp)
    }

    fn ends_with(&mut self, command: OperationCommand) -> Result<Resources, Refusal> {
        self.decide(command)?;
        let finished = self.finished_with().map(|(resources, _)| resources.clone());
        finished.ok_or_else(|| Refusal::Inconsistent {
            operation: self.0.id().clone(),
            why: "it was abandoned and has not finished".to_owned(),
        })
    }

    /// The resources it finished with, and how, if it did in this draft.
    #[must_use]
    pub fn finished_with(&self) -> Option<(&Resources, Outcome)> {
        self.events().iter().rev().find_map(|event| match event {
            OperationEvent::Finished { resources, outcome } => Some((resources, *outcome)),
            _ => None,
        })
    }

    fn decide(&mut self, command: OperationCommand) -> Result<(), Refusal> {
        Operation::decide(&mut self.0, command)
    }
}
