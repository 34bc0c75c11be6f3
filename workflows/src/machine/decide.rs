//! Decisions: what a report, a signal or a command adds to the journal.

use std::sync::Arc;

use perennial_engine::domain::Stamp;
use perennial_engine::ids::{Seq, Token};

use crate::machine::{finish, fold, remedy, short_notice};
use crate::model::aws::InstanceId;
use crate::model::operation_id;
use crate::model::operation_id::{OperationId, OperationKind, Outcome};
use crate::model::resources::Resources;
use crate::model::restore::{Keep, Restore};
use crate::model::root::RootMethod;
use crate::model::signal::{Cause, Certainty, News, Signal};
use crate::model::volume::Slot;
use crate::operation::event::{OperationEvent, Order};
use crate::operation::facts::Granted;
use crate::operation::state::{Operation, Status};
use crate::rules::{address_pool, attached_volumes, capacity, recovery_point, root_clone, survey};
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;
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
        self.consequences(&step, &intent, &evidence)?;
        self.intend()
    }

    /// What an unwelcome observation leads to.
    pub(super) fn consequences(
        &mut self,
        step: &str,
        intent: &Intent,
        evidence: &Evidence,
    ) -> Result<(), Refusal> {
        let candidate = self.state.facts.candidate.as_ref().map(|candidate| candidate.instance.clone());
        let concerns_candidate = |instance: &InstanceId| candidate.as_ref() == Some(instance);
        if self.state.gives_up() {
            match (intent, evidence) {
                (Intent::Launch { .. }, Evidence::Launched { instance, .. }) => {
                    return self.push(OperationEvent::CandidateLost {
                        instance: instance.clone(),
                        because: "the workflow is cancelled".to_owned(),
                    });
                }
                (Intent::Release { .. }, Evidence::Lost { .. })
                    if self.state.facts.undoing && self.state.order.kind == OperationKind::Provision =>
                {
                    return Ok(());
                }
                (intent, _) if undo::goes_on_without(&self.state, intent) => return Ok(()),
                _ => {}
            }
        }
        match (intent, evidence) {
            // The node is well without it; its backup catalog of backups says what is missing.
            (Intent::FinalSnapshot { .. }, _) => Ok(()),
            // What needs one takes it then.
            (Intent::SnapshotAhead { .. }, _) => Ok(()),
            (
                Intent::Launch { .. } | Intent::Start { .. },
                Evidence::InstanceGone { instance, reason: Some(reason), .. },
            ) if is_ours_to_mend(reason) => {
                if concerns_candidate(instance) {
                    let because = format!("it ended with {reason}");
                    self.push(OperationEvent::CandidateLost { instance: instance.clone(), because })?;
                }
                let needs = format!(
                    "remove the cause (often a key), then: perennial workflow resume {}",
                    self.state.id
                );
                self.stuck(step, format!("{instance} ended with {reason}"), needs)
            }
            (_, Evidence::InstanceGone { instance, state, reason }) if concerns_candidate(instance) => {
                let state = state.map_or("not known any more".to_owned(), |state| state.to_string());
                let reason = reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
                self.push(OperationEvent::CandidateLost {
                    instance: instance.clone(),
                    because: format!("it is {state}{reason}"),
                })
            }
            (Intent::Start { instance, .. }, Evidence::OutOfTime { because })
                if concerns_candidate(instance) =>
            {
                self.push(OperationEvent::CandidateLost {
                    instance: instance.clone(),
                    because: format!("it did not start in time: {because}"),
                })
            }
            // Refused on an instance that is lost anyway: the loss may be the reason; the next one is asked again.
            (Intent::AdoptRoot { instance, .. }, _) if !concerns_candidate(instance) => Ok(()),
            (
                Intent::AdoptRoot { instance, .. },
                Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message },
            ) => self.fall(instance, evidence, format!("CreateReplaceRootVolumeTask: {code}: {message}")),
            (Intent::AdoptRoot { instance, .. }, Evidence::OutOfTime { because }) => {
                self.fall(instance, evidence, format!("the adoption did not end in time: {because}"))
            }
            (
                Intent::CloneRoot { .. },
                Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message },
            ) => self.fall_from_clone(evidence, format!("CopyVolumes: {code}: {message}")),
            (Intent::CloneRoot { .. }, Evidence::OutOfTime { because }) => {
                self.fall_from_clone(evidence, format!("the copy was not there in time: {because}"))
            }
            (Intent::Launch { image, .. }, Evidence::Launched { instance, .. })
                if self.state.root_method() == RootMethod::Image
                    && self.state.facts.root_image.as_ref() != Some(image) =>
            {
                self.push(OperationEvent::CandidateLost {
                    instance: instance.clone(),
                    because: "it was launched before the root went on as an image".to_owned(),
                })
            }
            (Intent::Survey(_), evidence) => match survey::missing(&self.state, evidence) {
                Some((because, needs)) => self.stuck(step, because, needs),
                None => Ok(()),
            },
            // A live detach is only tried; the volume follows after the fence.
            (Intent::Detach { .. } | Intent::DetachInterface { .. }, _) => Ok(()),
            // Gone for ever, and needed no more; or made anew.
            (Intent::Release { .. }, Evidence::Lost { .. })
                if self.state.order.kind == OperationKind::Delete =>
            {
                Ok(())
            }
            (
                Intent::ReleaseInterface { .. }
                | Intent::AttachInterface { .. }
                | Intent::SetGroups { .. }
                | Intent::Launch { .. },
                Evidence::Lost { .. },
            ) => Ok(()),
            (Intent::AttachInterface { instance, .. }, Evidence::NoCapacity { code, message }) => {
                let because = format!("{code}: {instance} takes no further interface: {message}");
                let needs = format!(
                    "detach another interface from it; or name types that take more interfaces than {}, `perennial node apply`, and terminate it: then another is launched. Then: perennial workflow resume {}",
                    self.state.facts.candidate.as_ref().map_or("its own", |c| c.pool.instance_type.as_str()),
                    self.state.id
                );
                self.stuck(step, because, needs)
            }
            // The node is well without it; what is left is listed.
            (intent, _) if self.state.may_be_left(intent) => Ok(()),
            (Intent::Attach { slot, device, .. }, Evidence::DeviceInUse) => {
                let fact = self.state.facts.volumes.get(slot);
                if fact.is_some_and(|fact| fact.device != *device) {
                    return Ok(());
                }
                let because = format!("no device name is free on the instance; {device} was the last");
                let needs = format!("detach a volume, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            (_, Evidence::HeldByAnother { what, by }) => {
                let because = format!("{what} is held by {by}");
                let needs = format!("free {what}, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            (_, Evidence::Lost { what }) => self.stuck(
                step,
                what.clone(),
                format!(
                    "{}bring it back, or take it from a backup (`perennial node backups {}`): perennial workflow resume {} \
                     --from-backup <backup>, or accept the loss: --accept-loss <volume>",
                    recovery_point::goes_on_by_itself(&self.state, intent),
                    self.state.id.node(),
                    self.state.id
                ),
            ),
            (_, Evidence::Refused { code, message }) => {
                let because = format!("{code}: {message}");
                let needs = format!("remove the cause, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            (
                Intent::CreateVolume { .. } | Intent::CreateInterface { .. },
                Evidence::NoCapacity { code, message },
            ) => {
                let because = format!("{code}: {message}");
                let needs = format!("capacity or a quota, then: perennial workflow resume {}", self.state.id);
                self.stuck(step, because, needs)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn fall(
        &mut self,
        instance: &InstanceId,
        evidence: &Evidence,
        because: String,
    ) -> Result<(), Refusal> {
        let (from, to) = (self.state.facts.root_method, root_clone::after_adoption(&self.state, evidence));
        self.push(OperationEvent::RootMethodChosen { instance: instance.clone(), from, to, because })
    }

    pub(super) fn fall_from_clone(&mut self, evidence: &Evidence, because: String) -> Result<(), Refusal> {
        match root_clone::tried_on(&self.state) {
            Some(instance) if self.state.facts.root_method == RootMethod::Clone => {
                self.fall(&instance, evidence, because)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn stuck(&mut self, step: &str, because: String, needs: String) -> Result<(), Refusal> {
        if self.state.status == Status::Running {
            self.push(OperationEvent::Stuck { step: step.to_owned(), because, needs })?;
        }
        Ok(())
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

/// Reasons of a failed launch that no other pool would mend (EC2 User Guide, "Instance terminates immediately").
fn is_ours_to_mend(reason: &str) -> bool {
    matches!(
        reason,
        "Client.InternalError" | "Client.VolumeLimitExceeded" | "Client.InvalidSnapshot.NotFound"
    )
}
