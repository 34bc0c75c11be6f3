//! The steps, one file each: everything that is particular to a step stands in its file.
//!
//! - The essay: its call, why a repeat is safe, the resource it is observed on, and what ends with it.
//! - `impl Step`: its name and patience; what its evidence teaches (`learn`) and leads to (`consequence`);
//!   its part in an undo; its typical course, for a plan; its words, for people.
//!
//! The request is stored data and stands with [`Intent`]; what opens a step is a rule; what carries it out
//! is a file of `workers/src/steps`. `Intent::as_step` is the only match over all intents here.
//!
//! ```text
//!  evidence ─► learn ─► facts ─► consequence ─► events ─► rules
//! ```

pub(crate) mod adopt_root;
pub(crate) mod associate;
pub(crate) mod attach;
pub(crate) mod attach_interface;
pub(crate) mod backup;
pub(crate) mod claim_volume;
pub(crate) mod clone_root;
pub(crate) mod create_interface;
pub(crate) mod create_volume;
pub(crate) mod deletion;
pub(crate) mod detach;
pub(crate) mod detach_interface;
pub(crate) mod fence;
pub(crate) mod find;
pub(crate) mod grow;
pub(crate) mod imagined;
pub(crate) mod launch;
pub(crate) mod move_address;
pub(crate) mod optional_snapshot;
pub(crate) mod preserve;
pub(crate) mod register_image;
pub(crate) mod release;
pub(crate) mod release_interface;
pub(crate) mod resolve;
pub(crate) mod return_address;
pub(crate) mod set_groups;
pub(crate) mod settled;
pub(crate) mod snapshot;
pub(crate) mod start;
pub(crate) mod survey;
pub(crate) mod verify;
pub(crate) mod words;

use crate::model::aws::{InstanceId, InstanceState};
use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::resources::Resource;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;
use crate::step::name::StepName;
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::{Settled, is_candidate, lost};

/// One kind of step.
pub(crate) trait Step {
    /// Its name: the same for every attempt at the same thing.
    fn name(&self) -> StepName;

    /// How long it may take, and what happens then.
    fn patience(&self) -> Patience;

    /// The instance it works on, whose loss ends it.
    fn instance(&self) -> Option<&InstanceId> {
        None
    }

    /// Whether it may be waiting for what a hint is about. A superfluous look is better than a late one.
    fn waits_for(&self, _hint: &WakeHint) -> bool {
        false
    }

    /// Whether it is of no use later: a snapshot beside the way, a detach that only shortens the outage, a
    /// look at prices. Other steps wait for as long as something hinders them.
    fn is_only_good_in_time(&self) -> bool {
        false
    }

    /// Whether it does what the node file says: another file may ask for another step in its place.
    fn follows_the_file(&self) -> bool {
        false
    }

    /// What its intention alone changes.
    fn begin(&self, _op: &mut Operation) {}

    /// Turns its evidence into facts.
    fn learn(&self, op: &mut Operation, seen: &Seen<'_>);

    /// What else ends or begins with it.
    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        settled.blocked()
    }

    /// The same in an operation that is undone or diverted; `None` where it is
    /// [`consequence`](Self::consequence).
    fn consequence_when_given_up(&self, settled: &Settled<'_>) -> Option<Vec<OperationEvent>> {
        (!self.is_needed_by_undo(settled.op)).then(Vec::new)
    }

    /// What it means when the instance that it works on is gone.
    fn when_instance_gone(&self) -> WhenGone {
        WhenGone::CandidateLost
    }

    /// Whether an undo depends on it. Otherwise the undo may end without it.
    fn is_needed_by_undo(&self, _op: &Operation) -> bool {
        false
    }

    /// What becomes of it, while it is open, when its operation is cancelled or diverted. `is_asked`: its
    /// time has come, so a worker may have called.
    fn withdrawal(&self, _kind: OperationKind, _is_asked: bool) -> Withdrawal {
        Withdrawal::Settles
    }

    /// Whether it only shortens the outage, and is left out when there is no time for it.
    fn is_dropped_on_short_notice(&self) -> bool {
        false
    }

    /// What a person does when its time is over and the operation waits for it.
    fn remedy(&self, operation: &OperationId) -> String {
        format!("look at what it waits for, then `perennial workflow resume {operation}`")
    }

    /// The typical duration when it succeeds, in milliseconds (`ec2-semantics` §6). Where nothing is
    /// published, the number is an estimate.
    fn typical_ms(&self) -> u64;

    /// What it observes in an imaginary region in which every step succeeds.
    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence;

    /// Its observation, for people. What several steps can observe is told by [`words::common`].
    fn words(&self, seen: &Evidence) -> String;

    /// What the old instance loses by its intention: an outage begins.
    fn takes_away(&self, _old: Option<&InstanceId>) -> Option<String> {
        None
    }

    /// What the new instance has got by its end: an outage may end.
    fn brings(&self, _seen: &Evidence) -> Option<String> {
        None
    }

    /// Why an attempt was rejected, for people.
    fn rejection(&self, _seen: &Evidence) -> Option<String> {
        None
    }
}

impl Intent {
    /// The step of a request.
    pub(crate) fn as_step(&self) -> &dyn Step {
        match self {
            Self::Resolve(step) => step,
            Self::Survey(step) => step,
            Self::CreateVolume(step) => step,
            Self::ClaimVolume(step) => step,
            Self::CreateInterface(step) => step,
            Self::Preserve(step) => step,
            Self::Detach(step) => step,
            Self::Fence(step) => step,
            Self::Release(step) => step,
            Self::ReleaseInterface(step) => step,
            Self::SnapshotRoot(step) => step,
            Self::SnapshotVolume(step) => step,
            Self::CloneRoot(step) => step,
            Self::RegisterImage(step) => step,
            Self::Launch(step) => step,
            Self::Start(step) => step,
            Self::AdoptRoot(step) => step,
            Self::Attach(step) => step,
            Self::AttachInterface(step) => step,
            Self::DetachInterface(step) => step,
            Self::SetGroups(step) => step,
            Self::MoveAddress(step) => step,
            Self::ReturnAddress(step) => step,
            Self::Associate(step) => step,
            Self::Grow(step) => step,
            Self::Verify(step) => step,
            Self::DeleteVolume(step) => step,
            Self::DeleteInterface(step) => step,
            Self::DeregisterImage(step) => step,
            Self::DeleteSnapshot(step) => step,
            Self::Find(step) => step,
            Self::Backup(step) => step,
            Self::FinalSnapshot(step) => step,
            Self::SnapshotAhead(step) => step,
        }
    }

    /// The step's name: the same for every attempt at the same thing.
    #[must_use]
    pub fn step(&self) -> StepName {
        self.as_step().name()
    }

    /// How long a step may take before the workflow does something else, in milliseconds.
    #[must_use]
    pub fn budget_ms(&self) -> u64 {
        self.as_step().patience().budget_ms
    }

    /// The instance a step works on, whose loss ends the step.
    #[must_use]
    pub fn instance(&self) -> Option<&InstanceId> {
        self.as_step().instance()
    }
}

impl WakeHint {
    /// Whether a step with this request may be waiting for it.
    #[must_use]
    pub fn concerns(&self, intent: &Intent) -> bool {
        intent.as_step().waits_for(self)
    }
}

/// How long a step may take. Chosen well above the measured or documented times (`ec2-semantics` §6): a bound
/// catches stuck steps, and does not cut slow ones short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    pub(crate) budget_ms: u64,
    pub(crate) on_timeout: OnTimeout,
}

/// What happens when a step's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnTimeout {
    /// Its outcome is not known, so the operation waits: a person is needed, and the step is looked at on.
    PersonNeeded,
    /// The workflow has another way, and goes on with that.
    AnotherWay,
}

impl Patience {
    /// After this time a person is needed.
    pub(crate) const fn until_a_person_is_needed(budget_ms: u64) -> Self {
        Self { budget_ms, on_timeout: OnTimeout::PersonNeeded }
    }

    /// After this time the workflow goes on in another way.
    pub(crate) const fn then_another_way(budget_ms: u64) -> Self {
        Self { budget_ms, on_timeout: OnTimeout::AnotherWay }
    }
}

/// A second, in milliseconds.
pub(crate) const SECOND_MS: u64 = 1_000;

/// A minute, in milliseconds.
pub(crate) const MINUTE_MS: u64 = 60 * SECOND_MS;

/// What it means when the instance that a step works on is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenGone {
    /// If it is the candidate, the candidate is lost.
    CandidateLost,
    /// The launch has failed: EC2's reason may be one that no other pool would mend.
    LaunchFailed,
    /// The node can do without the step.
    Ignored,
}

/// What becomes of an open step of an operation that gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Withdrawal {
    /// It settles as usual.
    Settles,
    /// It ends at once.
    Ends,
    /// It ends at once; what it may have made is looked for.
    EndsInDoubt,
}

/// What a step has observed.
pub(crate) struct Seen<'a> {
    pub(crate) intent: &'a Intent,
    pub(crate) evidence: &'a Evidence,
    pub(crate) at_ms: u64,
}

/// Turns the evidence of a step into facts.
pub(crate) fn learn(op: &mut Operation, seen: &Seen<'_>) {
    leave(op, seen);
    if op.gives_up() && matches!(seen.evidence, Evidence::OutOfTime { .. }) {
        suspect(op, seen.intent);
    }
    seen.intent.as_step().learn(op, seen);
    instance_gone(op, seen.evidence);
}

/// The events that follow from a settled step, in the state after it.
pub(crate) fn consequences(settled: &Settled<'_>) -> Vec<OperationEvent> {
    let step = settled.intent.as_step();
    let given_up = settled.op.gives_up().then(|| step.consequence_when_given_up(settled)).flatten();
    let first = given_up.or_else(|| gone(step, settled));
    first.unwrap_or_else(|| step.consequence(settled))
}

/// Remembers that a step may have made something, to be looked for.
pub(crate) fn suspect(op: &mut Operation, intent: &Intent) {
    let origin = op.origin(intent);
    for (made, tags) in intent.makes() {
        let resource = Resource::Unsettled { kind: made, tags: tags.clone(), origin: origin.clone() };
        let because = format!("{}: {} did not settle", op.id, intent.step());
        op.facts.cleanup.orphan(resource, because);
    }
}

/// Whether the operation deletes what the node has: all of it, or what a cancelled provision has made.
pub(crate) fn is_ending(op: &Operation) -> bool {
    let kind = op.order.kind;
    kind == OperationKind::Delete || (op.facts.is_undoing() && kind == OperationKind::Provision)
}

/// Remembers what could not be cleaned up.
fn leave(op: &mut Operation, seen: &Seen<'_>) {
    let because = match seen.evidence {
        Evidence::Refused { code, message } => format!("{code}: {message}"),
        Evidence::OutOfTime { because } => format!("not in time: {because}"),
        _ => return,
    };
    if op.may_be_left(seen.intent)
        && let Some(resource) = seen.intent.cleans()
    {
        op.facts.cleanup.failed(resource, because);
    }
}

/// An instance was seen gone, or on its way: there is no going back to the old one then.
fn instance_gone(op: &mut Operation, evidence: &Evidence) {
    let Evidence::InstanceGone { instance, state, .. } = evidence else { return };
    if op.old().is_some_and(|old| old.instance == *instance) {
        op.facts.cannot_go_back();
    }
    if state.is_none_or(InstanceState::is_over) {
        for holder in op.facts.holders.iter_mut().filter(|holder| holder.instance == *instance) {
            holder.ended = true;
        }
    }
}

/// The instance of a step is gone; `None` when that says nothing about the candidate or the launch.
fn gone(step: &dyn Step, settled: &Settled<'_>) -> Option<Vec<OperationEvent>> {
    let Evidence::InstanceGone { instance, state, reason } = settled.evidence else { return None };
    let concerns_candidate = is_candidate(settled.op, instance);
    let when_gone = step.when_instance_gone();
    let launches = when_gone == WhenGone::LaunchFailed;
    if let Some(reason) = reason.as_ref().filter(|reason| launches && is_ours_to_mend(reason)) {
        let mut events = Vec::new();
        if concerns_candidate {
            events.extend(lost(instance, format!("it ended with {reason}")));
        }
        let id = &settled.op.id;
        let needs = format!("remove the cause (often a key), then `perennial workflow resume {id}`");
        events.extend(settled.stuck(format!("{instance} ended with {reason}"), needs));
        return Some(events);
    }
    if when_gone == WhenGone::Ignored || !concerns_candidate {
        return None;
    }
    let state = state.map_or("not known any more".to_owned(), |state| state.to_string());
    let reason = reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    Some(lost(instance, format!("it is {state}{reason}")))
}

/// Reasons of a failed launch that no other pool would mend (EC2 User Guide, "Instance terminates
/// immediately").
fn is_ours_to_mend(reason: &str) -> bool {
    matches!(
        reason,
        "Client.InternalError" | "Client.VolumeLimitExceeded" | "Client.InvalidSnapshot.NotFound"
    )
}

#[cfg(test)]
mod tests {
    use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
    use crate::model::volume::Slot;
    use crate::step::backup::BackupIntent;
    use crate::step::intent::{Attach, Intent, SnapshotRoot, Start};
    use crate::step::wake_hint::WakeHint;

    #[test]
    fn a_hint_concerns_the_steps_that_wait_for_what_it_is_about_and_no_others() {
        let volume = |text: &str| VolumeId::parse(text).unwrap();
        let snapshot = |text: &str| SnapshotId::parse(text).unwrap();
        let instance = |text: &str| InstanceId::parse(text).unwrap();
        let root = Intent::SnapshotRoot(SnapshotRoot {
            volume: volume("vol-1"),
            tags: Default::default(),
            ahead_ms: None,
        });
        let set =
            Intent::Backup(BackupIntent::Await { snapshots: vec![snapshot("snap-1"), snapshot("snap-2")] });
        let start = Intent::Start(Start { instance: instance("i-1"), devices: vec![] });
        let attach = Intent::Attach(Attach {
            slot: Slot::Root,
            volume: volume("vol-1"),
            instance: instance("i-1"),
            device: "/dev/sdf".into(),
        });
        let steps = [&root, &set, &start, &attach];
        let concerned = |hint: WakeHint| steps.map(|intent| hint.concerns(intent));
        let of = |snap: &str, vol: &str| WakeHint::Snapshots {
            snapshots: [snapshot(snap)].into(),
            volumes: [volume(vol)].into(),
        };
        assert_eq!(concerned(of("snap-2", "vol-1")), [true, true, false, false]);
        assert_eq!(concerned(of("snap-3", "vol-3")), [false; 4]);
        assert_eq!(concerned(WakeHint::Volume { volume: volume("vol-1") }), [false, false, false, true]);
        assert_eq!(concerned(WakeHint::Volume { volume: volume("vol-2") }), [false; 4]);
        assert_eq!(concerned(WakeHint::Instance { instance: instance("i-1") }), [false, false, true, false]);
        assert_eq!(concerned(WakeHint::Instance { instance: instance("i-2") }), [false; 4]);
    }
}
