//! One machine for every kind of workflow: events folded as they are chosen, steps intended and reported,
//! reports fenced.
//!
//! A [`Workflow`] says what is particular to it: which steps are due in a state, what a command and a piece
//! of evidence lead to, how an event is remembered. The machine does what is the same everywhere.
//!
//! # Expected flow
//! 1. [`Machine::from`] the stream's state and head, or [`Machine::started`] with its first event.
//! 2. [`Workflow::decide`] on a command, or [`Machine::report`] of a worker: [`Machine::push`] for what
//!    happened, then [`Machine::intend`] for what is due after it.
//! 3. [`Machine::into_append`] hands events and state to the engine.
//!
//! # Guarantees
//! - Each event is folded once, by value, before the next one is chosen: the rules see what it changed.
//! - At most one step of a name is open. A step that is due and open is not intended again.
//! - A report is taken only with the token of an open step; every other one is [`Fault::Fenced`] and leaves
//!   no event.
//! - An event that cannot follow never reaches the journal: [`Fault::Inconsistent`].

use std::fmt::{Debug, Display};
use std::sync::Arc;

use crate::domain::{Append, Illegal, OpenStep, Stamp};
use crate::ids::{Seq, StreamId, Token};

/// A kind of workflow. See the module's flow.
pub trait Workflow: Sized {
    /// What it is called before its id, for people: `workflow`, `the backups of`.
    const KIND: &'static str;
    /// Which one, for people.
    type Id: Clone + Debug + Display;
    /// What may be asked of it.
    type Command;
    /// What happened.
    type Event;
    /// The fold of its events.
    type State;
    /// What a step is called; shown to people.
    type Step: Clone + PartialEq + Display + 'static;
    /// The whole request of a step.
    type Intent: Clone + 'static;
    /// What a step observed.
    type Evidence;
    /// Why a command or a report is refused.
    type Rejection: std::error::Error + From<Fault<Self::Id>>;

    /// Chooses the events that a command leads to. Never panics, for any state and command.
    ///
    /// # Errors
    /// The workflow's own refusal; the machine is of no use after it.
    fn decide(machine: &mut Machine<Self>, command: Self::Command) -> Result<(), Self::Rejection>;

    /// Takes the evidence of a step that is open: says that it has settled, and what else follows.
    ///
    /// # Errors
    /// The workflow's own refusal; the machine is of no use after it.
    fn settle(
        machine: &mut Machine<Self>,
        token: Token,
        record: &StepRecord<Self::Step, Self::Intent>,
        evidence: Self::Evidence,
    ) -> Result<(), Self::Rejection>;

    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    fn evolve(state: Self::State, stamp: Stamp, event: &Self::Event) -> Result<Self::State, Illegal>;

    /// Every step that is to be open in this state. Those that are open already stay as they are.
    fn due(state: &Self::State) -> Vec<Due<Self::Step, Self::Intent>>;

    /// The event that opens a step.
    fn intended(state: &Self::State, step: Intended<Self::Step, Self::Intent>) -> Self::Event;

    /// How urgent a step is; smaller runs first.
    fn priority(state: &Self::State, record: &StepRecord<Self::Step, Self::Intent>) -> i32;

    /// The time before which the workflow is to be through as far as possible, if there is one.
    fn wanted_by_ms(_state: &Self::State) -> Option<u64> {
        None
    }

    /// Whether a step is only good in time: its budget runs while it waits for its turn as well.
    fn is_only_in_time(_record: &StepRecord<Self::Step, Self::Intent>) -> bool {
        false
    }

    /// Whether the workflow goes on without a step whose time is over: then the step does not wait for as
    /// long as something hinders it.
    fn is_optional(_state: &Self::State, _record: &StepRecord<Self::Step, Self::Intent>) -> bool {
        false
    }

    /// The steps that were intended and have not settled.
    fn under_way(state: &Self::State)
    -> impl Iterator<Item = (Token, &StepRecord<Self::Step, Self::Intent>)>;

    /// Whether its steps may run: not before a person has helped, and not after its end.
    fn is_running(state: &Self::State) -> bool;
}

/// A step that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Due<S, I> {
    /// What it is called.
    pub step: S,
    /// The whole request.
    pub intent: I,
    /// Not to be run before this time; 0 for at once.
    pub not_before_ms: u64,
    /// The longest that it ever waits for its time. That time follows from earlier stamps: a clock that was
    /// set back since makes nothing wait for longer.
    pub wait_max_ms: u64,
    /// How long it may take from then on.
    pub budget_ms: u64,
}

/// A step that is to be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Intended<S, I> {
    /// What it is called.
    pub step: S,
    /// The whole request.
    pub intent: I,
    /// Not to be run before this time.
    pub not_before_ms: u64,
    /// To be settled by this time.
    pub deadline_ms: u64,
}

/// A step as a state remembers it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRecord<S, I> {
    /// What it is called.
    pub step: S,
    /// The whole request.
    pub intent: Arc<I>,
    /// When it was intended.
    pub intended_at_ms: u64,
    /// What it makes is not older than this.
    pub made_from_ms: u64,
    /// Not to be run before this time.
    pub not_before_ms: u64,
    /// To be settled by this time.
    pub deadline_ms: u64,
    /// Whether another request would be written in its place by now: what became of it is still learned, and
    /// nothing new is begun for it.
    pub outdated: bool,
    /// How long it may take from its time on, as it was when it was intended.
    pub budget_ms: u64,
}

/// Events of one stream follow each other. One that is dated this much earlier than the one before was dated
/// by a clock that has gone back; less than this is two threads, or a clock that is kept right.
const GONE_BACK_MIN_MS: u64 = 1_000;

/// By how much the clock has gone back between two events of one stream that follow each other.
#[must_use]
pub fn gone_back_ms(last_ms: u64, at_ms: u64) -> Option<u64> {
    Some(last_ms.saturating_sub(at_ms)).filter(|back| *back >= GONE_BACK_MIN_MS)
}

/// From when on what a settled step has made is its own, after the clock has gone back by this much more than
/// the time that has passed, which is at most as long as an open step may take.
#[must_use]
pub const fn made_from(made_from_ms: u64, back_ms: u64, unseen_ms: u64) -> u64 {
    made_from_ms.saturating_sub(back_ms).saturating_sub(unseen_ms)
}

impl<S, I> StepRecord<S, I> {
    /// The clock has gone back while the step was open, by this much more than the time that has passed since
    /// the event before. Its times are as they would be by the clock since; how long it waits, and may take,
    /// stays. That time is not known: what the step has made may be older than its intention is now, by as
    /// much as it may take.
    pub fn clock_went_back(&mut self, by_ms: u64) {
        self.intended_at_ms = self.intended_at_ms.saturating_sub(by_ms);
        self.made_from_ms =
            self.made_from_ms.saturating_sub(by_ms).min(self.intended_at_ms.saturating_sub(self.budget_ms));
        self.not_before_ms = self.not_before_ms.saturating_sub(by_ms);
        self.deadline_ms = self.deadline_ms.saturating_sub(by_ms);
    }

    /// Whether it may have begun by this time. It has not only while it waits for its time, and the time
    /// shown is one of that wait: an earlier one is of a clock that has gone back since.
    #[must_use]
    pub const fn may_have_begun(&self, now_ms: u64) -> bool {
        self.not_before_ms <= now_ms || now_ms < self.intended_at_ms
    }
}

impl<S, I> Intended<S, I> {
    /// As it is remembered.
    #[must_use]
    pub fn at(self, stamp: Stamp) -> StepRecord<S, I> {
        StepRecord {
            step: self.step,
            intent: Arc::new(self.intent),
            intended_at_ms: stamp.at_ms,
            made_from_ms: stamp.at_ms,
            not_before_ms: self.not_before_ms,
            deadline_ms: self.deadline_ms,
            outdated: false,
            budget_ms: self.deadline_ms.saturating_sub(self.not_before_ms.max(stamp.at_ms)),
        }
    }
}

/// Why the machine itself refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault<I: Debug + Display> {
    /// The token is not that of an open step: the report is late or doubled.
    #[error("step {token} of {kind} {id} is not open; this report is late or doubled")]
    Fenced {
        /// [`Workflow::KIND`].
        kind: &'static str,
        /// Which workflow.
        id: I,
        /// The token it quoted.
        token: Token,
    },
    /// A decision made an event that cannot follow: a bug, kept from the journal.
    #[error("BUG: {kind} {id} cannot follow its own decision: {why}")]
    Inconsistent {
        /// [`Workflow::KIND`].
        kind: &'static str,
        /// Which workflow.
        id: I,
        /// What.
        why: String,
    },
}

/// A decision about one workflow in the making.
pub struct Machine<W: Workflow> {
    id: W::Id,
    /// Taken while an event is folded; gone for good after one that cannot follow.
    state: Option<W::State>,
    events: Vec<W::Event>,
    head: Seq,
    now_ms: u64,
}

impl<W: Workflow> Machine<W> {
    /// Goes on from a state.
    #[must_use]
    pub const fn from(id: W::Id, state: W::State, head: Seq, now_ms: u64) -> Self {
        Self { id, state: Some(state), events: Vec::new(), head, now_ms }
    }

    /// A new workflow: its first event, and the state that this event makes.
    #[must_use]
    pub fn started(id: W::Id, event: W::Event, state: W::State, now_ms: u64) -> Self {
        Self { id, state: Some(state), events: vec![event], head: Seq::NONE.next(), now_ms }
    }

    /// Which workflow.
    #[must_use]
    pub const fn id(&self) -> &W::Id {
        &self.id
    }

    /// The state after the events so far.
    ///
    /// # Panics
    /// After a [`push`](Self::push) that failed.
    #[must_use]
    pub fn state(&self) -> &W::State {
        self.state
            .as_ref()
            .unwrap_or_else(|| unreachable!("BUG: {} {} went on after a fault", W::KIND, self.id))
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> &[W::Event] {
        &self.events
    }

    /// The time of the decision.
    #[must_use]
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Something has happened.
    ///
    /// # Errors
    /// [`Fault::Inconsistent`] when it cannot follow; the machine is of no use after that.
    pub fn push(&mut self, event: W::Event) -> Result<(), Fault<W::Id>> {
        let inconsistent =
            |id: &W::Id, why: String| Fault::Inconsistent { kind: W::KIND, id: id.clone(), why };
        let Some(state) = self.state.take() else {
            return Err(inconsistent(&self.id, "it went on after a fault".to_owned()));
        };
        self.head = self.head.next();
        let stamp = Stamp { seq: self.head, at_ms: self.now_ms };
        let next = W::evolve(state, stamp, &event);
        self.state = Some(next.map_err(|illegal| inconsistent(&self.id, illegal.to_string()))?);
        self.events.push(event);
        Ok(())
    }

    /// Opens every step that is due and not open.
    ///
    /// # Errors
    /// [`Fault::Inconsistent`].
    pub fn intend(&mut self) -> Result<(), Fault<W::Id>> {
        for due in W::due(self.state()) {
            if W::under_way(self.state()).any(|(_, record)| record.step == due.step) {
                continue;
            }
            let latest_ms = self.now_ms.saturating_add(due.wait_max_ms);
            let not_before_ms = due.not_before_ms.clamp(self.now_ms, latest_ms);
            let deadline_ms = not_before_ms.saturating_add(due.budget_ms);
            let step = Intended { step: due.step, intent: due.intent, not_before_ms, deadline_ms };
            self.push(W::intended(self.state(), step))?;
        }
        Ok(())
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    /// [`Fault::Fenced`] when the token is not that of an open step; else what the workflow refuses.
    pub fn report(&mut self, token: Token, evidence: W::Evidence) -> Result<(), W::Rejection> {
        let open = W::under_way(self.state()).find(|(open, _)| *open == token);
        match open.map(|(_, record)| record.clone()) {
            Some(record) => W::settle(self, token, &record, evidence),
            None => Err(Fault::Fenced { kind: W::KIND, id: self.id.clone(), token }.into()),
        }
    }

    /// The events and the state after them, as the domain's; `None` when nothing has happened.
    #[must_use]
    pub fn into_append<E, S>(
        self,
        stream: StreamId,
        event: impl FnMut(W::Event) -> E,
        state: impl FnOnce(W::State) -> S,
    ) -> Option<Append<E, S>> {
        let folded = self.state.filter(|_| !self.events.is_empty())?;
        Some(Append::folded(stream, self.events.into_iter().map(event).collect(), state(folded)))
    }
}

/// The steps of a workflow that may run now, for [`Projected`](crate::domain::Projected).
#[must_use]
pub fn open_steps<W: Workflow>(state: &W::State) -> Vec<OpenStep<W::Intent>> {
    if !W::is_running(state) {
        return Vec::new();
    }
    let open = W::under_way(state).map(|(token, record)| OpenStep {
        token,
        step: record.step.to_string(),
        intent: Arc::clone(&record.intent),
        intended_at_ms: record.intended_at_ms,
        made_from_ms: record.made_from_ms,
        not_before_ms: record.not_before_ms,
        deadline_ms: record.deadline_ms,
        outdated: record.outdated,
        budget_ms: record.budget_ms,
        optional: W::is_optional(state, record),
        only_in_time: W::is_only_in_time(record),
        priority: W::priority(state, record),
        wanted_by_ms: W::wanted_by_ms(state),
    });
    open.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_made_before_the_clock_went_back_is_not_older_than_it_may_be() {
        let (minute, hour) = (60_000, 3_600_000);
        let asked =
            Intended { step: "take", intent: (), not_before_ms: 0, deadline_ms: 5 * hour + 10 * minute };
        let mut record = asked.at(Stamp { seq: Seq(1), at_ms: 5 * hour });
        assert_eq!((record.made_from_ms, record.budget_ms), (5 * hour, 10 * minute));
        // Ten minutes pass unseen, the clock goes back by an hour: the next event is fifty minutes earlier.
        let back_ms = gone_back_ms(5 * hour, 4 * hour + 10 * minute).unwrap();
        record.clock_went_back(back_ms);
        assert_eq!(record.intended_at_ms, 4 * hour + 10 * minute, "never after the event");
        assert_eq!(record.made_from_ms, 4 * hour, "what was made at once is its own");
        // What it waits for is as far away as before.
        assert_eq!(record.deadline_ms, record.intended_at_ms + record.budget_ms);
        // A second step back adds what the step may have taken once, no more.
        record.clock_went_back(hour);
        assert_eq!(record.made_from_ms, 3 * hour);
    }
}
