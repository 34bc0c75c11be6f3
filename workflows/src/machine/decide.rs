//! Decisions: what a report, a signal or a command adds to the journal.

use std::sync::Arc;

use perennial_engine::domain::Stamp;
use perennial_engine::ids::{Seq, Token};

use crate::machine::{consequence, finish, fold, remedy, short_notice};
use crate::model::operation_id;
use crate::model::operation_id::{OperationId, Outcome};
use crate::model::resources::Resources;
use crate::model::restore::{Keep, Restore};
use crate::model::signal::{Cause, Certainty, News, Signal};
use crate::model::volume::Slot;
use crate::operation::event::{OperationEvent, Order};
use crate::operation::facts::Granted;
use crate::operation::state::{Operation, Status};
use crate::rules::{address_pool, attached_volumes, capacity};
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use crate::workflow::{dispatch, undo};

/// Why an operation refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is not that of an open step: the report is late or doubled.
    #[error("step {token} of {operation} is not open; this report is late or doubled")]
    Fenced {
        /// The operation.
        operation: OperationId,
        /// The token it quoted.
        token: Token,
    },
    /// Only a stuck operation can be resumed.
    #[error("workflow {operation} is not stuck; there is nothing to resume")]
    NotStuck {
        /// The operation.
        operation: OperationId,
    },
    /// After the point of no return there is only forward.
    #[error(
        "workflow {operation} cannot be cancelled any more, it goes only forward: {because}. If it is stuck, `perennial workflow resume {operation}` goes on, and `perennial node delete` gives the node up"
    )]
    OnlyForward {
        /// The operation.
        operation: OperationId,
        /// Why.
        because: String,
    },
    /// It is being undone already.
    #[error("workflow {operation} is being cancelled already")]
    AlreadyCancelled {
        /// The operation.
        operation: OperationId,
    },
    /// Only an operation that brings the node onto an instance can end without one.
    #[error("workflow {operation} does not bring the node onto an instance; wait for it")]
    NotDiverted {
        /// The operation.
        operation: OperationId,
    },
    /// A loss can be accepted only of what was seen to be lost.
    #[error("volume {slot} was not seen to be lost in {operation}; only what is lost can be given up")]
    NotLost {
        /// The operation.
        operation: OperationId,
        /// The volume.
        slot: Slot,
    },
    /// The operation's own rules refuse what they made: a bug, kept from the journal.
    #[error("BUG: workflow {operation} cannot follow its own decision: {why}")]
    Inconsistent {
        /// The operation.
        operation: OperationId,
        /// What.
        why: String,
    },
}

/// How many launches in a row may end before their instance runs, for another reason than capacity (which is waited for
/// without end). Three rounds of a ladder of four pools: with the pauses between rounds that is past what passes by itself.
const LAUNCH_FAILURES_MAX: u32 = 12;

/// A decision in the making: each event is remembered at once, so that the rules see what it changed.
#[derive(Debug)]
pub struct Draft {
    /// The state after the events so far.
    pub state: Operation,
    /// The events so far.
    pub events: Vec<OperationEvent>,
    seq: Seq,
    now_ms: u64,
}

impl Draft {
    /// A new operation, with its first steps.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn start(id: OperationId, order: Order, now_ms: u64) -> Result<Self, Refusal> {
        let state = fold::start(id, order.clone(), now_ms);
        let mut draft = Self { state, events: vec![OperationEvent::Started(order)], seq: Seq(1), now_ms };
        draft.intend()?;
        Ok(draft)
    }

    /// Goes on from a state.
    #[must_use]
    pub fn from(state: &Operation, head: Seq, now_ms: u64) -> Self {
        Self { state: state.clone(), events: Vec::new(), seq: head, now_ms }
    }

    pub(super) fn push(&mut self, event: OperationEvent) -> Result<(), Refusal> {
        self.seq = self.seq.next();
        let stamp = Stamp { seq: self.seq, at_ms: self.now_ms };
        self.state = fold::evolve(self.state.clone(), stamp, &event).map_err(|illegal| {
            Refusal::Inconsistent { operation: self.state.id.clone(), why: illegal.to_string() }
        })?;
        self.events.push(event);
        Ok(())
    }

    /// Writes an intent for every rule that holds and has no open step; finishes when everything is in place.
    pub(super) fn intend(&mut self) -> Result<(), Refusal> {
        if self.state.status != Status::Running {
            return Ok(());
        }
        let launches_on = !self.state.facts.undoing && self.state.facts.diverted.is_none();
        if self.state.facts.failed_launches >= LAUNCH_FAILURES_MAX && launches_on {
            let facts = &self.state.facts;
            let said = facts.failure_reason.as_ref().map(|said| format!("; EC2 said: {said}"));
            let because = format!(
                "{LAUNCH_FAILURES_MAX} launches in a row ended before their instance ran; the last: {}{}",
                facts.last_failure,
                said.unwrap_or_default()
            );
            let needs = format!("find out why, then: perennial workflow resume {}", self.state.id);
            return self.stuck("launch", because, needs);
        }
        if let Some((because, needs)) = address_pool::missing(&self.state) {
            return self.stuck("take_address", because, needs);
        }
        if let Some(reason) = capacity::gives_up(&self.state) {
            let requested_by = capacity::BY_ITSELF.to_owned();
            self.push(OperationEvent::CancelRequested { requested_by, reason: Some(reason) })?;
        }
        if let Some((steps, because)) = short_notice::dropped(&self.state, self.now_ms) {
            self.push(OperationEvent::Dropped { steps, because })?;
        }
        for due in dispatch::rules(&self.state) {
            let step = due.intent.step();
            if self.state.has_open(&step) {
                continue;
            }
            let not_before_ms = due.not_before_ms.max(self.now_ms);
            self.push(OperationEvent::StepIntended {
                attempt: self.state.next_attempt(&step),
                step,
                deadline_ms: not_before_ms + due.intent.budget_ms(),
                intent: due.intent,
                not_before_ms,
            })?;
        }
        if let Some((resources, outcome)) = finish::finished(&self.state) {
            self.push(OperationEvent::Finished { resources, outcome })?;
        } else if self.state.open_steps().is_empty() {
            // The rules leave nothing to do and nothing is finished: a bug, but one that keeps every resource.
            self.push(OperationEvent::Stuck {
                step: "rules".into(),
                because: "BUG: no rule holds and the operation is not finished".into(),
                needs: "a report to the developers with `perennial journal export`".into(),
            })?;
        }
        Ok(())
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when the token is not open.
    pub fn report(&mut self, token: Token, evidence: Evidence) -> Result<(), Refusal> {
        let open = self.state.steps.get(&token).filter(|record| record.outcome.is_none());
        let Some(record) = open.filter(|_| !matches!(self.state.status, Status::Finished { .. })) else {
            return Err(Refusal::Fenced { operation: self.state.id.clone(), token });
        };
        let (step, intent) = (record.step.clone(), Arc::clone(&record.intent));
        if let Evidence::OutOfTime { because } = &evidence
            && !intent.has_another_way()
            && !self.state.may_be_left(&intent)
            && !(self.state.gives_up() && undo::goes_on_without(&self.state, &intent))
        {
            // What became of it is not known, so it is not settled: after a resume the same request looks on.
            let because = format!("its time is over: {because}");
            let needs = remedy::needs(&self.state.id, &intent);
            return self.stuck(&step, because, needs);
        }
        self.push(OperationEvent::StepSettled { token, step: step.clone(), evidence: evidence.clone() })?;
        for event in attached_volumes::taken(&self.state, &intent, &evidence) {
            self.push(event)?;
        }
        for event in consequence::consequences(&self.state, &step, &intent, &evidence) {
            self.push(event)?;
        }
        self.intend()
    }

    fn stuck(&mut self, step: &str, because: String, needs: String) -> Result<(), Refusal> {
        match consequence::stuck(&self.state, step, because, needs) {
            Some(stuck) => self.push(stuck),
            None => Ok(()),
        }
    }

    /// Takes what was heard about an instance of this operation. Leaves no events when it is of no consequence.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn signal(&mut self, signal: &Signal) -> Result<(), Refusal> {
        if matches!(self.state.status, Status::Finished { .. }) {
            return Ok(());
        }
        let candidate =
            self.state.facts.candidate.as_ref().filter(|candidate| candidate.instance == signal.instance);
        let holder = self.state.facts.holders.iter().find(|holder| holder.instance == signal.instance);
        let (is_candidate, is_holder) = (candidate.is_some(), holder.is_some());
        let is_carrier = operation_id::is_in_place(self.state.order.kind)
            && self.state.order.before.carrier.as_ref().is_some_and(|c| c.instance == signal.instance);
        if !(is_candidate || is_holder || is_carrier) || !signal.is_loss() {
            return Ok(());
        }
        // A young instance that a describe does not show proves nothing; the steps that work on it decide.
        if is_candidate && matches!(signal.news, News::Missing { .. }) {
            return Ok(());
        }
        // What changes nothing is not written: our own terminations echo back as events, and the sweep repeats itself.
        let certainty = signal.certainty();
        let known_of_holder = holder.is_some_and(|holder| holder.ended || certainty <= holder.certainty);
        let known_of_candidate = is_candidate
            && signal.is_notice()
            && self.state.facts.carried_over.as_ref().is_some_and(|known| certainty <= known.certainty());
        if known_of_holder || known_of_candidate {
            return Ok(());
        }
        self.push(OperationEvent::SignalReceived { signal: signal.clone() })?;
        if is_candidate {
            let carries = self.state.facts.volumes.values().any(|fact| fact.place.is_on(&signal.instance));
            // What has days left, or carries already, is finished first; the notice is the next operation's cause.
            let finished_first = signal.is_notice() && (carries || certainty == Certainty::Announced);
            if !finished_first {
                self.push(OperationEvent::CandidateLost {
                    instance: signal.instance.clone(),
                    because: signal.to_string(),
                })?;
            }
        }
        self.intend()
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

    /// As [`resume`](Self::resume), with addresses that were taken from the node's pools, and with a backup that what is lost
    /// comes back from.
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
        if !matches!(self.state.status, Status::Stuck { .. }) {
            return Err(Refusal::NotStuck { operation: self.state.id.clone() });
        }
        for slot in &accept_loss {
            if !self.state.lost().contains(slot) {
                return Err(Refusal::NotLost { operation: self.state.id.clone(), slot: slot.clone() });
            }
        }
        let (address, addresses_elsewhere) = (granted.here, granted.elsewhere);
        self.push(OperationEvent::Resumed {
            requested_by,
            accept_loss,
            spec,
            address,
            addresses_elsewhere,
            restore,
        })?;
        self.intend()
    }

    /// Takes a person's word that it is to be undone.
    ///
    /// # Errors
    /// [`Refusal::OnlyForward`], [`Refusal::AlreadyCancelled`].
    pub fn cancel(&mut self, requested_by: String, reason: Option<String>) -> Result<(), Refusal> {
        let operation = self.state.id.clone();
        if self.state.facts.undoing {
            return Err(Refusal::AlreadyCancelled { operation });
        }
        if let Some(because) = self.state.no_return() {
            return Err(Refusal::OnlyForward { operation, because });
        }
        self.push(OperationEvent::CancelRequested { requested_by, reason })?;
        self.intend()
    }

    /// Frees what the node holds instead of bringing it onto an instance.
    ///
    /// # Errors
    /// [`Refusal::AlreadyCancelled`], [`Refusal::NotDiverted`].
    pub fn divert(&mut self, cause: Cause, delete: Option<Keep>) -> Result<(), Refusal> {
        let operation = self.state.id.clone();
        if self.state.facts.undoing {
            return Err(Refusal::AlreadyCancelled { operation });
        }
        if !self.state.may_be_diverted() {
            return Err(Refusal::NotDiverted { operation });
        }
        self.push(OperationEvent::Diverted { cause, delete })?;
        self.intend()
    }

    /// Ends a stuck operation, whose things a deletion takes over.
    ///
    /// # Errors
    /// [`Refusal::NotStuck`].
    pub fn abandon(&mut self) -> Result<Resources, Refusal> {
        if !matches!(self.state.status, Status::Stuck { .. }) {
            return Err(Refusal::NotStuck { operation: self.state.id.clone() });
        }
        let resources = self.state.handed_over(self.now_ms);
        let outcome = Outcome::Abandoned;
        self.push(OperationEvent::Finished { resources: resources.clone(), outcome })?;
        Ok(resources)
    }

    /// The resources it finished with, and how, if it did in this draft.
    #[must_use]
    pub fn finished_with(&self) -> Option<(&Resources, Outcome)> {
        self.events.iter().rev().find_map(|event| match event {
            OperationEvent::Finished { resources, outcome } => Some((resources, *outcome)),
            _ => None,
        })
    }
}
