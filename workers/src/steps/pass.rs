//! One pass of a step: what it works with, how long it waits, and what its looks have shown so far.

use std::sync::Arc;
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::StepResult;
use perennial_engine::ids::{StreamId, Token};
use perennial_engine::retry::Intervals;
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use perennial_workflows::step::evidence::Evidence;

use super::memory::{Creation, Memory};
use crate::capacity::on_demand::OnDemandBudget;
use crate::capacity::refusals::CapacityRefusals;
use crate::cloud::catalogue::Catalogue;
use crate::cloud::observer::Observer;
use crate::port::error::{Class, CloudError, Disposition, Effect};
use crate::port::{Cloud, InstanceView};

/// Between two looks at something that is on its way, at first. The looks of all steps share one describe of
/// a kind and quarter of a second (the observer), so looking this often costs no calls that another step does
/// not make.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Between two looks of a live handover: the node is away meanwhile. The observer keeps describes a quarter
/// of a second apart whatever a step asks; with this pause the way of the answer falls into that quarter.
pub(super) const LOOK_CLOSELY: Duration = Duration::from_millis(100);

/// Between two looks that no other step shares: each is a call of its own, and a fleet has many at a time.
pub(super) const LOOK_ALONE: Duration = Duration::from_secs(1);

/// Later a look follows after this part of the time waited: what is seen late adds at most 2 % to any wait,
/// and a long one costs few calls.
pub(super) const LOOK_SHARE: u32 = 50;

/// The longest pause for that reason. What takes minutes (snapshots) is told by events as well.
pub(super) const LOOK_LONGEST: Duration = Duration::from_secs(5);

/// After a call that should show its effect at once.
pub(super) const LOOK_SOON: Duration = Duration::from_millis(250);

/// Between the two reads before a destructive or fencing decision (DESIGN, decision 6).
pub(super) const SECOND_READ: Duration = Duration::from_secs(1);

/// An image that a launch was refused for, and that looks have missed for this long, is gone. It was seen
/// before the launch was written, so it is not too young to be shown; half a minute is past a stale answer,
/// and leaves a minute and a half of a notice.
pub(super) const IMAGE_ABSENCE: Duration = Duration::from_secs(30);

/// An object that every look has missed for this long does not exist. EC2's own advice speaks of "a few
/// minutes"; Terraform waits five.
pub(super) const ABSENCE: Duration = Duration::from_secs(300);

/// A volume that an instance is to have and that no look has shown on it for this long, is not on it.
/// Describes were seen to be seconds late (`ec2-semantics`, eventual consistency).
pub(super) const ARRIVAL: Duration = Duration::from_secs(5);

/// A step that is not fresh may follow a crash between a create and its answer. A create without client token
/// looks this long before it creates again.
pub(super) const DOUBT: Duration = Duration::from_secs(15);

/// A step intended less than this long ago, and not tried by this process, has not been tried at all.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// After a call that failed in a way that repeating may change.
const TROUBLE: Intervals =
    Intervals { first: Duration::from_millis(500), longest: Duration::from_secs(15), jitter: 0.0 };

/// After a call that was refused for who asks: what mends it takes minutes to hours, and asking costs calls.
const REFUSED: Intervals =
    Intervals { first: Duration::from_millis(500), longest: Duration::from_secs(60), jitter: 0.0 };

/// How long permission may be refused before another way is taken, where there is one: IAM's changes spread
/// within a minute.
pub(super) const SPREADS: Duration = Duration::from_secs(60);

/// What a pass ends with. An error is one that the step has no use for.
pub(super) type Answer = Result<StepResult<Evidence>, CloudError>;

/// What every pass works with.
pub(super) struct Tools {
    pub(super) cloud: Arc<dyn Cloud>,
    pub(super) observer: Observer,
    pub(super) clock: Clock,
    pub(super) refusals: Arc<CapacityRefusals>,
    pub(super) on_demand: OnDemandBudget,
    pub(super) catalogue: Catalogue,
}

/// One pass.
pub(super) struct Pass<'a> {
    pub(super) tools: &'a Tools,
    pub(super) step: (&'a StreamId, Token),
    pub(super) memory: Memory,
    /// When it was intended, by the wall time.
    pub(super) intended_at_ms: u64,
    pub(super) tries: u32,
    /// Whether another request would be written in its place by now.
    pub(super) outdated: bool,
}

pub(super) fn settled(evidence: Evidence) -> Answer {
    Ok(StepResult::Settled(evidence))
}

pub(super) fn not_yet(again_in: Duration, because: impl Into<String>) -> Answer {
    Ok(StepResult::NotYet { again_in, because: because.into() })
}

pub(super) fn refused(code: &str, message: impl Into<String>) -> Answer {
    settled(Evidence::Refused { code: code.to_owned(), message: message.into() })
}

pub(super) fn lost(what: impl Into<String>) -> Answer {
    settled(Evidence::Lost { what: what.into() })
}

impl Pass<'_> {
    /// The time for everything that is counted within this process.
    pub(super) fn now_ms(&self) -> u64 {
        self.tools.clock.monotonic_ms()
    }

    /// How long this process has looked.
    pub(super) fn looked_for(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.memory.first_look_ms))
    }

    /// What an error that the step has no use for leads to.
    pub(super) fn trouble(&mut self, error: &CloudError) -> StepResult<Evidence> {
        self.memory.failures += 1;
        match error.disposition() {
            Disposition::Retry if error.hinders() => {
                let pauses = if error.class == Class::Access { REFUSED } else { TROUBLE };
                let again_in = pauses.after(self.memory.failures, 0.5);
                StepResult::Hindered { again_in, because: error.to_string() }
            }
            Disposition::Retry => StepResult::NotYet {
                again_in: TROUBLE.after(self.memory.failures, 0.5),
                because: error.to_string(),
            },
            Disposition::Done => StepResult::NotYet { again_in: LOOK_SOON, because: error.to_string() },
            Disposition::Elsewhere | Disposition::Person => StepResult::Settled(Evidence::Refused {
                code: error.code.clone(),
                message: error.message.clone(),
            }),
        }
    }

    /// Notes that a look missed the object; whether it can be taken as absent: missed for long, and more than
    /// once.
    pub(super) fn is_absent(&mut self) -> bool {
        self.is_missing_for(ABSENCE)
    }

    pub(super) fn is_missing_for(&mut self, length: Duration) -> bool {
        let now_ms = self.now_ms();
        self.memory.object.for_at_least(length, now_ms)
    }

    /// Notes that a look found the object.
    pub(super) fn found<'v, V>(&mut self, view: &'v V) -> &'v V {
        self.memory.object.found();
        view
    }

    /// Notes that a look found the instance.
    pub(super) fn seen(&mut self, state: InstanceState) -> InstanceState {
        self.memory.instance.found();
        state
    }

    /// The same for the instance the step works on.
    pub(super) fn is_instance_absent(&mut self) -> bool {
        let now_ms = self.now_ms();
        self.memory.instance.for_at_least(ABSENCE, now_ms)
    }

    /// Whether a create without client token may have been tried before, and must be looked for a while
    /// longer.
    pub(super) fn in_doubt(&mut self) -> bool {
        self.may_have_been_asked() && self.looked_for() < DOUBT
    }

    /// Whether permission to take a snapshot was refused for so long that it does not come in time.
    pub(super) fn is_snapshot_denied(&mut self, error: &CloudError) -> bool {
        let now_ms = self.now_ms();
        error.class == Class::Access && self.memory.snapshots().refused.for_at_least(SPREADS, now_ms)
    }

    /// Notes an unclear answer to a create without client token: what it may have made is looked for from now
    /// on.
    pub(super) fn note_unclear(&mut self) {
        self.memory.snapshots().unclear += 1;
        self.memory.first_look_ms = self.now_ms();
    }

    /// Whether a definite refusal follows a try that may have taken effect without being seen yet: then it
    /// says nothing of that try, and the object is looked for a while longer. Notes unclear answers.
    pub(super) fn may_have_worked(&mut self, error: &CloudError) -> bool {
        if error.effect == Effect::Unknown {
            self.memory.creation().tried = true;
            self.memory.creation().doubt_since_ms = self.now_ms();
            return false;
        }
        let another_process = self.may_be_anothers();
        let Creation { tried, doubt_since_ms, .. } = *self.memory.creation();
        let since_ms = doubt_since_ms.max(self.memory.first_look_ms);
        let looked = Duration::from_millis(self.now_ms().saturating_sub(since_ms));
        error.disposition() != Disposition::Retry && (tried || another_process) && looked < DOUBT
    }

    /// Whether a call of this step may have taken effect without being seen yet.
    pub(super) fn is_in_doubt(&mut self) -> bool {
        let another_process = self.may_be_anothers();
        let Creation { tried, doubt_since_ms, .. } = *self.memory.creation();
        let since_ms = doubt_since_ms.max(self.memory.first_look_ms);
        let looked = Duration::from_millis(self.now_ms().saturating_sub(since_ms));
        (tried || another_process) && looked < DOUBT
    }

    /// Whether no call of this step can have been made: neither by this process nor by another one.
    pub(super) fn was_surely_not_asked(&mut self) -> bool {
        !self.memory.creation().tried && !self.may_be_anothers()
    }

    /// Whether another process may have tried the step before this one.
    pub(super) fn may_be_anothers(&self) -> bool {
        self.memory.late_by > FRESH
    }

    /// Whether a call of this step may have been made, by this process or another one.
    pub(super) fn may_have_been_asked(&mut self) -> bool {
        self.memory.snapshots().unclear > 0 || self.may_be_anothers()
    }

    /// The instance, if it may still do what is asked; otherwise what ends the step.
    pub(super) async fn alive(
        &mut self,
        id: &InstanceId,
    ) -> Result<Result<InstanceView, StepResult<Evidence>>, CloudError> {
        Ok(match self.tools.observer.instance(id).await? {
            None if self.is_instance_absent() => Err(StepResult::Settled(Evidence::InstanceGone {
                instance: id.clone(),
                state: None,
                reason: None,
            })),
            None => Err(StepResult::NotYet { again_in: LOOK_AGAIN, because: format!("{id} is not shown") }),
            Some(view) => match self.seen(view.state) {
                InstanceState::Pending | InstanceState::Running => Ok(view),
                InstanceState::ShuttingDown
                | InstanceState::Terminated
                | InstanceState::Stopping
                | InstanceState::Stopped => Err(StepResult::Settled(Evidence::InstanceGone {
                    instance: id.clone(),
                    state: Some(view.state),
                    reason: view.state_reason,
                })),
            },
        })
    }
}
