//! One pass of a step: what it works with, how long it waits, and what its looks have shown so far.

use std::sync::Arc;
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::StepResult;
use perennial_engine::ids::{StreamId, Token};
use perennial_engine::retry::Intervals;
use perennial_workflows::domain::standing::CLOCKS_DISAGREE_MAX_MS;
use perennial_workflows::model::aws::{InstanceId, InstanceState, VolumeId};
use perennial_workflows::model::backup_id::CatalogId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::step::evidence::Evidence;

use super::memory::{Creation, Memory, Missed};
use crate::capacity::on_demand::OnDemandBudget;
use crate::capacity::refusals::CapacityRefusals;
use crate::cloud::catalogue::Catalogue;
use crate::cloud::observer::Observer;
use crate::cloud::planner::{Held, Planner};
use crate::port::error::{Action, Class, CloudError, Disposition, Effect};
use crate::port::{Cloud, InstanceView};
use crate::standing::{NOTHING_VISIBLE, Standing, StandingError};

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

/// An act whose effect is seen only after a while is not repeated before this long: each repeat costs a
/// token of the account. Addresses were seen to take three seconds.
const SHOWS_WITHIN: Duration = Duration::from_secs(5);

/// Between the two reads before a destructive or fencing decision (DESIGN, decision 6).
pub(super) const SECOND_READ: Duration = Duration::from_secs(1);

/// An image that a launch was refused for, and that looks have missed for this long, is gone. It was seen
/// before the launch was written, so it is not too young to be shown; half a minute is past a stale answer,
/// and leaves a minute and a half of a notice.
const IMAGE_ABSENCE: Duration = Duration::from_secs(30);

/// An object that every look has missed for this long does not exist. EC2's own advice speaks of "a few
/// minutes"; Terraform waits five.
pub(super) const ABSENCE: Duration = Duration::from_secs(300);

/// While another object was seen within this time, the endpoint is the right one: what a look misses is
/// missing. Credentials that change the account under a process are rare, and last longer.
const VOUCHED: Duration = Duration::from_secs(60);

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

/// How far two clocks may disagree. AWS keeps its own to milliseconds, and NTP ours to less than a second.
pub(super) const CLOCKS_DISAGREE_MAX: Duration = Duration::from_millis(CLOCKS_DISAGREE_MAX_MS);

/// What a pass ends with. An error is one that the step has no use for.
pub(super) type Answer = Result<StepResult<Evidence>, CloudError>;

/// What every pass works with.
pub(super) struct Tools {
    pub(super) cloud: Arc<dyn Cloud>,
    pub(super) planner: Arc<Planner>,
    pub(super) observer: Observer,
    pub(super) clock: Clock,
    pub(super) refusals: Arc<CapacityRefusals>,
    pub(super) on_demand: OnDemandBudget,
    pub(super) catalogue: Catalogue,
    pub(super) standing: Standing,
    /// When this process began, in monotonic milliseconds.
    pub(super) began_ms: u64,
}

impl Tools {
    /// When this process began, in milliseconds since the Unix epoch, by AWS's clock where that is told: the
    /// times of things are AWS's, and this machine's clock may have been set since.
    fn started_ms(&self) -> u64 {
        let age_ms = self.clock.monotonic_ms().saturating_sub(self.began_ms);
        self.clock.now_ms().saturating_sub(age_ms).saturating_add_signed(-self.ahead_ms())
    }

    /// By how many milliseconds this machine's clock is ahead of AWS's, where that is told; negative: behind.
    fn ahead_ms(&self) -> i64 {
        self.cloud.told_time().map_or(0, |told| told.ahead_ms(&self.clock))
    }

    /// A time of the journal by AWS's clock, not later than it was. The journal has this machine's times, the
    /// things of the account have AWS's; a clock that is known to be ahead dates an event too late. `None`
    /// for a time that has not come yet: the clock was ahead then, and has been set since.
    pub(super) fn at_aws_ms(&self, at_ms: u64) -> Option<u64> {
        let ahead_ms = u64::try_from(self.ahead_ms()).unwrap_or(0);
        let now_ms = self.clock.now_ms().saturating_sub(ahead_ms);
        let at_ms = at_ms.saturating_sub(ahead_ms);
        (at_ms <= now_ms.saturating_add(CLOCKS_DISAGREE_MAX.as_millis() as u64)).then_some(at_ms)
    }
}

/// One pass.
pub(super) struct Pass<'a> {
    pub(super) tools: &'a Tools,
    pub(super) step: (&'a StreamId, Token),
    pub(super) memory: Memory,
    /// When the pass began, in monotonic milliseconds.
    pub(super) began_ms: u64,
    /// What it makes is not older than this, by the wall time.
    pub(super) made_from_ms: u64,
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

/// Whether a call was carried out, or may have been: one that was refused has not been asked for.
pub(super) fn may_work(answer: &Result<(), CloudError>) -> bool {
    answer.as_ref().map_or_else(|error| error.effect != Effect::None, |()| true)
}

/// What a workflow has to do with an instance, by its tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Launched {
    /// It is not of this workflow.
    Elsewhere,
    /// The workflow has launched it and knows that.
    Noted,
    /// The workflow has launched it, and its launch has not settled: the journal was put back from a backup.
    Unnoted,
    /// The workflow has launched it, and it is terminated.
    Over,
}

impl std::fmt::Display for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Elsewhere => "which this workflow knows nothing of: detach it",
            Self::Noted => "which this workflow has launched",
            Self::Unnoted => "whose launch is still to be noted",
            Self::Over => "which this workflow has launched, and which is terminated",
        })
    }
}

/// Between two acts by force, a detach or a termination. One that helps does so within minutes.
const FORCE_AGAIN: Duration = Duration::from_mins(10);

/// The same where it is not known whether the first one was carried out: it may never have arrived.
const FORCE_AGAIN_UNCLEAR: Duration = Duration::from_mins(1);

/// When an act by force is repeated if it has not helped; `None` for one that was refused: it has not been
/// asked for.
pub(super) fn force_again_ms(asked: &Result<(), CloudError>, now_ms: u64) -> Option<u64> {
    let pause = if asked.is_ok() { FORCE_AGAIN } else { FORCE_AGAIN_UNCLEAR };
    may_work(asked).then(|| now_ms.saturating_add(pause.as_millis() as u64))
}

pub(super) fn lost(what: impl Into<String>) -> Answer {
    settled(Evidence::Lost { what: what.into(), not_shown: false })
}

/// Lost, by its absence alone.
pub(super) fn not_shown(what: impl Into<String>) -> Answer {
    settled(Evidence::Lost { what: what.into(), not_shown: true })
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
        self.memory.trouble = Some(error.to_string());
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
            Disposition::Elsewhere if error.passes_by_itself() => StepResult::Hindered {
                again_in: REFUSED.after(self.memory.failures, 0.5),
                because: error.to_string(),
            },
            Disposition::Elsewhere | Disposition::Person => StepResult::Settled(Evidence::Refused {
                code: error.code.clone(),
                message: error.message.clone(),
            }),
        }
    }

    /// A refusal because something that the request names is not there is believed by its second look, and
    /// while something of the installation is visible: to another account nothing of ours exists, and a
    /// correct file needs no person.
    pub(super) async fn doubted(&mut self, result: StepResult<Evidence>) -> StepResult<Evidence> {
        let (code, message) = match &result {
            StepResult::Settled(Evidence::Refused { code, message }) if code.ends_with("NotFound") => {
                (code, message)
            }
            _ => {
                self.memory.unknown.found();
                return result;
            }
        };
        let (now_ms, because) = (self.now_ms(), format!("{code}: {message}"));
        let since_ms = self.memory.unknown.since_ms().unwrap_or(now_ms);
        let is_again = self.memory.unknown.for_at_least(SECOND_READ, now_ms);
        if is_again && self.memory.unknown.is_vouched() {
            return result;
        }
        let within = Duration::from_millis(now_ms.saturating_sub(since_ms));
        let Some(node) = self.node() else { return result };
        let because = match self.tools.standing.is_here(&node, within).await {
            Ok(true) => {
                self.memory.unknown.vouch();
                return StepResult::NotYet { again_in: SECOND_READ, because };
            }
            Ok(false) => format!("{because}; {NOTHING_VISIBLE}"),
            Err(error) => format!("{because}; {error}"),
        };
        self.memory.unknown.found();
        StepResult::Hindered { again_in: LOOK_LONGEST, because }
    }

    /// The node that the step is about.
    pub(super) fn node(&self) -> Option<NodeName> {
        let (workflow, _) = self.step;
        let operation = OperationId::of_stream(workflow).map(|id| id.node().clone());
        operation.or_else(|| CatalogId::of_stream(workflow).map(|id| id.node().clone()))
    }

    /// What this workflow has to do with an instance that holds something of its node.
    pub(super) async fn launched(&self, instance: &InstanceId) -> Result<Launched, CloudError> {
        let (workflow, _) = self.step;
        let Some(view) = self.tools.observer.instance(instance).await? else {
            return Ok(Launched::Elsewhere);
        };
        let by = view.tags.get("perennial:operation").map(String::as_str);
        if by.is_none() || workflow.as_str().strip_prefix("workflow/") != by {
            return Ok(Launched::Elsewhere);
        }
        if view.state == InstanceState::Terminated {
            return Ok(Launched::Over);
        }
        // A look that fails leaves it open.
        let is_noted = self.tools.standing.has_launched(workflow, instance).await.unwrap_or(false);
        Ok(if is_noted { Launched::Noted } else { Launched::Unnoted })
    }

    /// Notes that a look missed the object; whether it can be taken as absent: missed for long, and more than
    /// once, while something else that the journal knows is visible.
    pub(super) async fn is_absent(&mut self, object: &str) -> Result<bool, CloudError> {
        self.is_missed(ABSENCE, object).await
    }

    /// The same for one that is deleted: a second look is enough.
    pub(super) async fn is_gone(&mut self, object: &str) -> Result<bool, CloudError> {
        self.is_missed(SECOND_READ, object).await
    }

    /// The same for an image that a launch was refused for.
    pub(super) async fn is_image_gone(&mut self, image: &str) -> Result<bool, CloudError> {
        self.is_missed(IMAGE_ABSENCE, image).await
    }

    async fn is_missed(&mut self, length: Duration, object: &str) -> Result<bool, CloudError> {
        let mut missed = self.memory.object;
        let answer = self.is_missed_and_vouched(&mut missed, length, object).await;
        self.memory.object = missed;
        answer
    }

    /// Absence is believed by the first look that misses the object after another one was seen, and after the
    /// object was first missed: what was seen before says nothing of the credentials and the endpoint of now.
    /// What is not to be deleted needs another one that is seen after that look too: the account may be
    /// another one again by then. Where nothing else is seen, it is trouble for as long as that lasts, which
    /// costs the step no time, and then the time begins anew.
    async fn is_missed_and_vouched(
        &self,
        missed: &mut Missed,
        length: Duration,
        object: &str,
    ) -> Result<bool, CloudError> {
        let now_ms = self.now_ms();
        let since_ms = missed.since_ms().unwrap_or(now_ms);
        if !missed.for_at_least(length, now_ms) {
            return Ok(false);
        }
        if missed.is_vouched() {
            return self.is_seen_beside(missed, length, object).await;
        }
        let within = VOUCHED.min(Duration::from_millis(now_ms.saturating_sub(since_ms)));
        let seen_ms = self.tools.observer.last_seen_ms();
        let is_seen = seen_ms > now_ms.saturating_sub(within.as_millis() as u64);
        if is_seen && seen_ms <= self.began_ms && !missed.is_doubted() {
            return self.is_seen_beside(missed, length, object).await;
        }
        // A look that fails says nothing either way.
        if !is_seen && !self.is_vouched(object, within).await? {
            return Err(doubted(missed, object));
        }
        if missed.is_doubted() {
            missed.found();
        } else {
            missed.vouch();
        }
        Ok(false)
    }

    /// Whether another object is seen now, after the look that missed this one. A deletion looks twice and no
    /// more: there are thousands of them.
    async fn is_seen_beside(
        &self,
        missed: &mut Missed,
        length: Duration,
        object: &str,
    ) -> Result<bool, CloudError> {
        if length <= SECOND_READ || self.is_vouched(object, Duration::ZERO).await? {
            return Ok(true);
        }
        Err(doubted(missed, object))
    }

    /// Whether the endpoint is the one that the journal knows: another object was seen within this time, or
    /// is now.
    async fn is_vouched(&self, object: &str, within: Duration) -> Result<bool, CloudError> {
        let Some(node) = self.node() else { return Ok(true) };
        match self.tools.standing.vouches(&node, object, within).await {
            Ok(is_vouched) => Ok(is_vouched),
            Err(StandingError::Cloud(error)) => Err(error),
            Err(error) => Err(CloudError::lost(Action::DescribeInstances, error.to_string())),
        }
    }

    pub(super) fn is_missing_for(&mut self, length: Duration) -> bool {
        let now_ms = self.now_ms();
        self.memory.object.for_at_least(length, now_ms)
    }

    /// Whether a volume that carries the step's tags is older than this process: an earlier one, or one with
    /// a newer journal, may have attached it, and an instance written to it.
    pub(super) fn is_older_than_the_process(&self, volume: &VolumeId, created_at_ms: Option<u64>) -> bool {
        let started_ms = self.tools.started_ms();
        !self.memory.is_answer(volume.as_str())
            && created_at_ms.is_none_or(|created_at_ms| created_at_ms < started_ms)
    }

    /// Holds the tokens of a call for this pass before it looks, so that it looks when it may act; or lets
    /// the step wait for its turn. For a scarce call after looks that no other step shares.
    ///
    /// # Errors
    /// What it waits for: the pass is to end [`StepResult::Hindered`].
    pub(super) fn ahead(&self, action: Action) -> Result<Option<Held>, String> {
        self.tools.planner.ahead(action)
    }

    /// Whether the step's act was carried out a moment ago, and its effect is on its way.
    pub(super) fn is_on_its_way(&self) -> bool {
        let past = |acted_ms| Duration::from_millis(self.now_ms().saturating_sub(acted_ms));
        self.memory.acted_ms.is_some_and(|acted_ms| past(acted_ms) < SHOWS_WITHIN)
    }

    /// Notes that the step's act was carried out.
    pub(super) fn note_act(&mut self) {
        self.memory.acted_ms = Some(self.now_ms());
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
    pub(super) async fn is_instance_absent(&mut self, id: &InstanceId) -> Result<bool, CloudError> {
        let mut missed = self.memory.instance;
        let absent = self.is_missed_and_vouched(&mut missed, ABSENCE, id.as_str()).await;
        self.memory.instance = missed;
        absent
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

    /// Whether another method is taken because a call is not permitted: it was refused for [`SPREADS`], the
    /// account is the one that the journal knows, and no call of this step was permitted before.
    pub(super) async fn is_denied(&mut self, refused: impl FnOnce(&mut Memory) -> &mut Missed) -> bool {
        let now_ms = self.now_ms();
        if !refused(&mut self.memory).for_at_least(SPREADS, now_ms) || self.memory.has_answers() {
            return false;
        }
        let Some(node) = self.node() else { return true };
        // A look that fails says nothing either way.
        self.tools.standing.is_here(&node, SPREADS).await.unwrap_or(false)
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

    /// Notes that a call of this step was carried out: what it made is looked for from now on.
    pub(super) fn note_made(&mut self) {
        self.memory.creation().tried = true;
        self.memory.creation().doubt_since_ms = self.now_ms();
    }

    /// Whether a call of this step may have taken effect without being seen yet.
    pub(super) fn is_in_doubt(&mut self) -> bool {
        let another_process = self.may_be_anothers();
        let Creation { tried, doubt_since_ms, .. } = *self.memory.creation();
        let since_ms = doubt_since_ms.max(self.memory.first_look_ms);
        let looked = Duration::from_millis(self.now_ms().saturating_sub(since_ms));
        (tried || another_process) && looked < DOUBT
    }

    /// Whether the file wants something else by now, and this refusal shows that the step has made nothing.
    pub(super) fn is_given_up_for(&mut self, error: &CloudError) -> bool {
        self.outdated && error.effect == Effect::None && !self.is_in_doubt()
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
            None if self.is_instance_absent(id).await? => Err(StepResult::Settled(Evidence::InstanceGone {
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

/// Nothing but the object's absence is seen.
fn doubted(missed: &mut Missed, object: &str) -> CloudError {
    missed.doubt();
    CloudError::lost(Action::DescribeInstances, format!("{object} is not shown; {NOTHING_VISIBLE}"))
}
