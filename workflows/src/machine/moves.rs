//! An operation as the engine's machine moves it: what a command, a signal and a report lead to.

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::Token;
use perennial_engine::machine::{Due, Fault, Intended, Machine, StepRecord, Workflow};

use crate::machine::refusal::Refusal;
use crate::machine::{finish, fold, short_notice, way_out};
use crate::model::operation_id;
use crate::model::operation_id::{OperationId, Outcome};
use crate::model::restore::{Keep, Restore};
use crate::model::signal::{Cause, Certainty, News, Signal};
use crate::model::volume::Slot;
use crate::operation::event::{OperationEvent, SpecChange};
use crate::operation::facts::Granted;
use crate::operation::state::{Operation, Status};
use crate::rules::{address_pool, capacity, urgency};
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;
use crate::step::name::{Only, StepName};
use crate::steps::OnTimeout;
use crate::steps::settled;
use crate::workflow::dispatch;

/// How many launches in a row may end before their instance runs, for another reason than capacity (which is
/// waited for without end). Three rounds of a ladder of four pools: with the pauses between rounds that is
/// past what passes by itself.
const LAUNCH_FAILURES_MAX: u32 = 12;

/// What may be asked of an operation.
#[derive(Debug, Clone)]
pub enum OperationCommand {
    /// Something was heard about an instance of it.
    Signal(Signal),
    /// A person says that what was missing is there.
    Resume(Box<Resume>),
    /// A person says: undo it.
    Cancel {
        /// Who.
        requested_by: String,
        /// In their words.
        reason: Option<String>,
    },
    /// Follow another file from now on.
    ChangeSpec {
        /// The file, as this operation follows it.
        spec: Box<NodeSpec>,
        /// Who has applied it.
        requested_by: String,
    },
    /// Free what the node holds instead of bringing it onto an instance.
    Divert {
        /// Why.
        cause: Cause,
        /// A deletion follows, which keeps this; otherwise the node is paused.
        delete: Option<Keep>,
    },
    /// A deletion takes over what a stuck operation has.
    Abandon,
    /// The node is taken as it is in the account; the operation ends without it, however far it is.
    GiveUp,
}

/// How a stuck operation goes on.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Who says so.
    pub requested_by: String,
    /// What is given up.
    pub accept_loss: Vec<Slot>,
    /// What the node is meant to be now.
    pub spec: NodeSpec,
    /// Addresses that were taken from the node's pools with it.
    pub granted: Granted,
    /// The backup that what is lost comes back from.
    pub restore: Option<Restore>,
}

impl Workflow for Operation {
    const KIND: &'static str = "workflow";
    type Id = OperationId;
    type Command = OperationCommand;
    type Event = OperationEvent;
    type State = Self;
    type Step = StepName;
    type Intent = Intent;
    type Evidence = Evidence;
    type Rejection = Refusal;

    fn decide(machine: &mut Machine<Self>, command: OperationCommand) -> Result<(), Refusal> {
        match command {
            OperationCommand::Signal(signal) => on_signal(machine, signal),
            OperationCommand::Resume(resume) => on_resume(machine, *resume),
            OperationCommand::Cancel { requested_by, reason } => on_cancel(machine, requested_by, reason),
            OperationCommand::ChangeSpec { spec, requested_by } => {
                on_changed_spec(machine, *spec, requested_by)
            }
            OperationCommand::Divert { cause, delete } => on_divert(machine, cause, delete),
            OperationCommand::Abandon => on_abandon(machine),
            OperationCommand::GiveUp => give_up(machine),
        }
    }

    fn settle(
        machine: &mut Machine<Self>,
        token: Token,
        record: &StepRecord<StepName, Intent>,
        evidence: Evidence,
    ) -> Result<(), Refusal> {
        let (step, intent, op) = (&record.step, record.intent.as_ref(), machine.state());
        let kind = intent.as_step();
        if let Evidence::OutOfTime { because } = &evidence
            && kind.patience().on_timeout == OnTimeout::PersonNeeded
            && !op.may_be_left(intent)
            && (!op.gives_up() || kind.is_needed_by_undo(op))
        {
            // What became of it is not known, so it is not settled: after a resume the same request looks on.
            let because = format!("its time is over: {because}");
            if let Some(changed) = way_out::of_the_file(op, intent, &format!("{step}: {because}")) {
                machine.push(changed)?;
                return proceed(machine);
            }
            let needs = kind.remedy(&op.id);
            return Ok(stuck(machine, step, because, needs)?);
        }
        machine.push(OperationEvent::StepSettled {
            token,
            step: step.clone(),
            evidence: evidence.clone(),
        })?;
        for event in way_out::follows(machine.state(), record, &evidence) {
            machine.push(event)?;
        }
        proceed(machine)
    }

    fn evolve(state: Self, stamp: Stamp, event: &OperationEvent) -> Result<Self, Illegal> {
        fold::evolve(state, stamp, event)
    }

    fn due(state: &Self) -> Vec<Due<StepName, Intent>> {
        let due = dispatch::rules(state).into_iter().map(|due| Due {
            step: due.intent.step(),
            budget_ms: due.intent.budget_ms(),
            not_before_ms: due.not_before_ms,
            wait_max_ms: capacity::ROUND_PAUSE_MAX_MS,
            intent: due.intent,
        });
        due.collect()
    }

    fn intended(state: &Self, intended: Intended<StepName, Intent>) -> OperationEvent {
        OperationEvent::StepIntended {
            attempt: state.next_attempt(&intended.step),
            step: intended.step,
            intent: intended.intent,
            not_before_ms: intended.not_before_ms,
            deadline_ms: intended.deadline_ms,
        }
    }

    fn priority(state: &Self, record: &StepRecord<StepName, Intent>) -> i32 {
        urgency::of(state, &record.intent)
    }

    fn wanted_by_ms(state: &Self) -> Option<u64> {
        urgency::wanted_by_ms(state)
    }

    fn is_only_in_time(record: &StepRecord<StepName, Intent>) -> bool {
        record.intent.as_step().is_only_good_in_time()
    }

    fn is_optional(state: &Self, record: &StepRecord<StepName, Intent>) -> bool {
        let (intent, step) = (record.intent.as_ref(), record.intent.as_step());
        step.is_only_good_in_time()
            || state.may_be_left(intent)
            || (state.gives_up() && !step.is_needed_by_undo(state))
    }

    fn under_way(state: &Self) -> impl Iterator<Item = (Token, &StepRecord<StepName, Intent>)> {
        let is_over = matches!(state.status, Status::Finished { .. });
        let open = state.steps.iter().filter(move |(_, record)| record.outcome.is_none() && !is_over);
        open.map(|(token, record)| (*token, &record.asked))
    }

    fn is_running(state: &Self) -> bool {
        state.status == Status::Running
    }
}

/// Opens the step of every rule that holds; finishes when everything is in place.
pub(super) fn proceed(machine: &mut Machine<Operation>) -> Result<(), Refusal> {
    if machine.state().status != Status::Running {
        return Ok(());
    }
    if let Some((step, because, needs)) = needs_a_person(machine.state()) {
        // Launches that end before their instance runs may do so because of the file.
        let good = way_out::last_good(machine.state(), &because).filter(|_| step == Only::Launch);
        match good {
            Some(changed) => machine.push(changed)?,
            None => return Ok(stuck(machine, &step, because, needs)?),
        }
    }
    if let Some(reason) = capacity::gives_up(machine.state()) {
        let requested_by = capacity::BY_ITSELF.to_owned();
        machine.push(OperationEvent::CancelRequested { requested_by, reason: Some(reason) })?;
    }
    if let Some((steps, because)) = short_notice::dropped(machine.state(), machine.now_ms()) {
        machine.push(OperationEvent::Dropped { steps, because })?;
    }
    way_out::withdraw(machine)?;
    machine.intend()?;
    if let Some((resources, outcome)) = finish::finished(machine.state()) {
        machine.push(OperationEvent::Finished { resources, outcome })?;
    } else if Operation::under_way(machine.state()).next().is_none() {
        // The rules leave nothing to do and nothing is finished: a bug, but one that keeps every resource.
        machine.push(OperationEvent::Stuck {
            step: Only::Rules.into(),
            because: "BUG: no rule holds and the operation is not finished".into(),
            needs: "a report to the developers with `perennial journal export`".into(),
        })?;
    }
    Ok(())
}

/// Whether so many launches in a row have failed that another one would as well.
fn is_hopeless(op: &Operation) -> bool {
    op.facts.launches.failed_in_a_row >= LAUNCH_FAILURES_MAX && !op.gives_up()
}

/// The step, the reason and what is needed, when the operation cannot go on by itself.
fn needs_a_person(op: &Operation) -> Option<(StepName, String, String)> {
    let launches = &op.facts.launches;
    if let Some(last) = launches.last_failure.as_ref().filter(|_| is_hopeless(op)) {
        let said = launches.reason.as_ref().map(|said| format!("; EC2 said: {said}"));
        let because = format!(
            "{LAUNCH_FAILURES_MAX} launches in a row ended before their instance ran; the last: {last}{}",
            said.unwrap_or_default()
        );
        let needs = format!("find out why, then `perennial workflow resume {}`", op.id);
        return Some((Only::Launch.into(), because, needs));
    }
    let (because, needs) = address_pool::missing(op)?;
    Some((Only::TakeAddress.into(), because, needs))
}

fn stuck(
    machine: &mut Machine<Operation>,
    step: &StepName,
    because: String,
    needs: String,
) -> Result<(), Fault<OperationId>> {
    match settled::stuck(machine.state(), step, because, needs) {
        Some(stuck) => machine.push(stuck),
        None => Ok(()),
    }
}

/// Whether a signal about an instance of the operation changes anything: our own terminations echo back as
/// events, and the sweep repeats itself.
fn changes(op: &Operation, signal: &Signal) -> bool {
    let is_candidate = is_candidate(op, signal);
    let holder = op.facts.holders.iter().find(|holder| holder.instance == signal.instance);
    let is_carrier = operation_id::is_in_place(op.order.kind)
        && op.order.before.carrier.as_ref().is_some_and(|carrier| carrier.instance == signal.instance);
    if !(is_candidate || holder.is_some() || is_carrier) || !signal.is_loss() {
        return false;
    }
    // A young instance that a describe does not show proves nothing; the steps that work on it decide.
    if is_candidate && matches!(signal.news, News::Missing { .. }) {
        return false;
    }
    let certainty = signal.certainty();
    let known_of_holder = holder.is_some_and(|holder| holder.ended || certainty <= holder.certainty);
    let known_of_candidate = is_candidate
        && signal.is_notice()
        && op.facts.carried_over.as_ref().is_some_and(|known| certainty <= known.certainty());
    !known_of_holder && !known_of_candidate
}

fn is_candidate(op: &Operation, signal: &Signal) -> bool {
    op.facts.candidate.as_ref().is_some_and(|candidate| candidate.instance == signal.instance)
}

fn on_signal(machine: &mut Machine<Operation>, signal: Signal) -> Result<(), Refusal> {
    if matches!(machine.state().status, Status::Finished { .. }) || !changes(machine.state(), &signal) {
        return Ok(());
    }
    let is_candidate = is_candidate(machine.state(), &signal);
    machine.push(OperationEvent::SignalReceived { signal: signal.clone() })?;
    if is_candidate {
        let carries = machine.state().facts.volumes.values().any(|fact| fact.place.is_on(&signal.instance));
        // A candidate with days left, or one that carries already, is finished first; the notice is the next
        // operation's cause.
        let finished_first = signal.is_notice() && (carries || signal.certainty() == Certainty::Announced);
        if !finished_first {
            let because = signal.to_string();
            machine.push(OperationEvent::CandidateLost { instance: signal.instance, because })?;
        }
    }
    way_out::wake(machine)?;
    proceed(machine)
}

fn on_resume(machine: &mut Machine<Operation>, resume: Resume) -> Result<(), Refusal> {
    let op = machine.state();
    if !matches!(op.status, Status::Stuck { .. }) {
        return Err(Refusal::NotStuck { operation: op.id.clone() });
    }
    let lost = op.lost();
    if let Some(slot) = resume.accept_loss.iter().find(|slot| !lost.contains(slot)) {
        return Err(Refusal::NotLost { operation: op.id.clone(), slot: slot.clone() });
    }
    machine.push(OperationEvent::Resumed {
        requested_by: resume.requested_by,
        accept_loss: resume.accept_loss,
        spec: resume.spec,
        address: resume.granted.here,
        addresses_elsewhere: resume.granted.elsewhere,
        restore: resume.restore,
    })?;
    proceed(machine)
}

fn on_changed_spec(
    machine: &mut Machine<Operation>,
    spec: NodeSpec,
    requested_by: String,
) -> Result<(), Refusal> {
    let op = machine.state();
    if op.order.spec == spec || matches!(op.status, Status::Finished { .. }) {
        return Ok(());
    }
    let because = SpecChange::Applied { requested_by };
    machine.push(OperationEvent::SpecChanged { spec, because, keeps_root: false })?;
    proceed(machine)
}

fn on_cancel(
    machine: &mut Machine<Operation>,
    requested_by: String,
    reason: Option<String>,
) -> Result<(), Refusal> {
    let op = machine.state();
    if op.facts.is_undoing() {
        return Err(Refusal::AlreadyCancelled { operation: op.id.clone() });
    }
    if let Some(because) = op.no_return() {
        return Err(Refusal::OnlyForward { operation: op.id.clone(), because });
    }
    machine.push(OperationEvent::CancelRequested { requested_by, reason })?;
    proceed(machine)
}

fn on_divert(machine: &mut Machine<Operation>, cause: Cause, delete: Option<Keep>) -> Result<(), Refusal> {
    let op = machine.state();
    if op.facts.is_undoing() {
        return Err(Refusal::AlreadyCancelled { operation: op.id.clone() });
    }
    if !op.may_be_diverted() {
        return Err(Refusal::NotDiverted { operation: op.id.clone() });
    }
    machine.push(OperationEvent::Diverted { cause, delete })?;
    proceed(machine)
}

fn on_abandon(machine: &mut Machine<Operation>) -> Result<(), Refusal> {
    let op = machine.state();
    if !matches!(op.status, Status::Stuck { .. }) {
        return Err(Refusal::NotStuck { operation: op.id.clone() });
    }
    give_up(machine)
}

fn give_up(machine: &mut Machine<Operation>) -> Result<(), Refusal> {
    let resources = machine.state().handed_over(machine.now_ms());
    machine.push(OperationEvent::Finished { resources, outcome: Outcome::Abandoned })?;
    Ok(())
}
