//! The lines in which calls wait for their tokens: one for each action, in order of urgency.
//!
//! Pure but for the channel by which a waiter is told: time is an argument.
//!
//! # Order
//! The smallest [`Urgency`] is served first. Every [`FAIR_EVERY`]th token of an action goes to the step
//! that was intended first, so endless urgent work keeps nothing out: with `n` calls of older steps before
//! it, a call is served within `FAIR_EVERY * (n + 1)` tokens.
//!
//! # Guarantees
//! - Nothing waits while tokens are there, once [`Lines::serve`] has run.
//! - A waiter is served, or has left the line.
//! - What is granted to a step is held for it until it is used, or until the last of its turns has ended:
//!   then it is given back.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_engine::ids::{StreamId, Token};
use tokio::sync::oneshot;

use super::bucket::Bucket;
use super::published;
use crate::port::error::Action;

/// Every so manieth token goes to the oldest: as with the running slots of the engine.
const FAIR_EVERY: u64 = 4;

/// For how long mutating calls are also charged to one shared bucket after a sign that they share one.
const SHARES_FOR: Duration = Duration::from_mins(10);

/// A step, by its workflow and token.
pub(super) type Step = (StreamId, Token);

/// How urgent a call is: less is more so.
///
/// A node that stands for itself lacks one instance of one. Of a fleet's the ratio of what is missing to what
/// it has would stand between the time and the age (Smith's rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Urgency {
    /// Of the step: see `rules/urgency.rs` of the workflows.
    priority: i32,
    /// When it is to be through, in milliseconds since the Unix epoch.
    wanted_by_ms: u64,
    /// When the step was intended.
    since_ms: u64,
}

impl Urgency {
    /// Of a step.
    pub(crate) fn of_step(priority: i32, wanted_by_ms: Option<u64>, since_ms: u64) -> Self {
        Self { priority, wanted_by_ms: wanted_by_ms.unwrap_or(u64::MAX), since_ms }
    }

    /// Of a call that no step makes for itself: many wait for it.
    pub(super) const fn of_many(since_ms: u64) -> Self {
        Self { priority: i32::MIN, wanted_by_ms: u64::MAX, since_ms }
    }
}

/// A place in a line.
pub(super) type Place = (Urgency, u64);

/// Who waits.
#[derive(Debug)]
struct Waiter {
    count: u32,
    step: Option<Step>,
    told: oneshot::Sender<()>,
}

/// What was learnt of a call when it was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    /// When it was granted its tokens, in monotonic milliseconds.
    pub(super) at_ms: u64,
    /// Whether it waited for its turn.
    pub(super) waited: bool,
    /// Whether half of the action's tokens were left after it.
    pub(super) had_half: bool,
}

/// One action.
#[derive(Debug)]
struct Class {
    requests: Bucket,
    resources: Option<Bucket>,
    waiting: BTreeMap<Place, Waiter>,
    /// By age.
    oldest: BTreeMap<(u64, u64), Place>,
    served: u64,
}

impl Class {
    fn new(action: Action, left: f64, now_ms: u64) -> Self {
        Self {
            requests: Bucket::new(published::requests(action), left, now_ms),
            resources: published::resources(action).map(|rate| Bucket::new(rate, left, now_ms)),
            waiting: BTreeMap::new(),
            oldest: BTreeMap::new(),
            served: 0,
        }
    }

    fn fill(&mut self, now_ms: u64) {
        self.requests.fill(now_ms);
        if let Some(resources) = &mut self.resources {
            resources.fill(now_ms);
        }
    }

    fn has(&self, count: u32) -> bool {
        self.requests.has(1) && self.resources.as_ref().is_none_or(|resources| resources.has(count))
    }

    /// How long until a call that names so many has its tokens, after so many other calls for so many.
    fn wait(&self, count: u32, (calls, counted): (u32, u32)) -> Duration {
        let resources = self.resources.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(count, counted));
        self.requests.wait(1, calls).max(resources)
    }

    fn take(&mut self, count: u32) {
        self.requests.take(1);
        if let Some(resources) = &mut self.resources {
            resources.take(count);
        }
    }

    fn give_back(&mut self, count: u32) {
        self.requests.give_back(1);
        if let Some(resources) = &mut self.resources {
            resources.give_back(count);
        }
    }

    /// Of those that were taken for a call that is to begin soon.
    fn hold(&mut self, count: u32) {
        self.requests.hold(1);
        if let Some(resources) = &mut self.resources {
            resources.hold(count);
        }
    }

    fn used(&mut self, count: u32) {
        self.requests.used(1);
        if let Some(resources) = &mut self.resources {
            resources.used(count);
        }
    }

    /// The bucket that a refusal is about: the emptier one.
    fn scarce(&mut self) -> &mut Bucket {
        match &mut self.resources {
            Some(resources) if resources.fullness() < self.requests.fullness() => resources,
            _ => &mut self.requests,
        }
    }

    /// Who is served next.
    fn next(&self) -> Option<&Place> {
        if (self.served + 1).is_multiple_of(FAIR_EVERY) {
            self.oldest.values().next()
        } else {
            self.waiting.keys().next()
        }
    }

    fn remove(&mut self, place: &Place) -> Option<Waiter> {
        self.oldest.remove(&(place.0.since_ms, place.1));
        self.waiting.remove(place)
    }
}

/// The tokens of a call.
#[derive(Debug)]
struct Granted {
    action: Action,
    count: u32,
    at_ms: u64,
}

/// What a step holds.
#[derive(Debug, Default)]
struct Holding {
    /// How many turns of it there are.
    turns: usize,
    /// What was granted and is not used yet.
    granted: Vec<Granted>,
}

/// One bucket for all mutating calls.
#[derive(Debug)]
struct Shared {
    until_ms: u64,
    bucket: Bucket,
}

/// All lines of an account and region.
#[derive(Debug)]
pub(super) struct Lines {
    /// The part of each bucket that is left to other users of the account.
    left: f64,
    classes: BTreeMap<Action, Class>,
    shared: Option<Shared>,
    held: BTreeMap<Step, Holding>,
    tickets: u64,
}

impl Lines {
    pub(super) const fn new(left: f64) -> Self {
        Self { left, classes: BTreeMap::new(), shared: None, held: BTreeMap::new(), tickets: 0 }
    }

    fn class(&mut self, action: Action, now_ms: u64) -> &mut Class {
        let left = self.left;
        self.classes.entry(action).or_insert_with(|| Class::new(action, left, now_ms))
    }

    /// Lets time pass.
    fn fill(&mut self, now_ms: u64) {
        if self.shared.as_ref().is_some_and(|shared| now_ms >= shared.until_ms) {
            self.shared = None;
        }
        if let Some(shared) = &mut self.shared {
            shared.bucket.fill(now_ms);
        }
        for class in self.classes.values_mut() {
            class.fill(now_ms);
        }
    }

    /// The shared bucket, where the call is charged to it.
    fn shared(&mut self, action: Action) -> Option<&mut Bucket> {
        self.shared.as_mut().filter(|_| !action.is_look()).map(|shared| &mut shared.bucket)
    }

    fn has_shared(&self, action: Action) -> bool {
        action.is_look() || self.shared.as_ref().is_none_or(|shared| shared.bucket.has(1))
    }

    /// What was granted to the step for such a call, which is used up.
    pub(super) fn use_granted(&mut self, step: &Step, action: Action) -> Option<Admitted> {
        let granted = &mut self.held.get_mut(step)?.granted;
        let place = granted.iter().position(|granted| granted.action == action)?;
        let Granted { count, at_ms, .. } = granted.swap_remove(place);
        if let Some(class) = self.classes.get_mut(&action) {
            class.used(count);
        }
        if let Some(shared) = self.shared(action) {
            shared.used(1);
        }
        Some(Admitted { at_ms, waited: true, had_half: false })
    }

    /// Whether the tokens of such a call are held for the step.
    pub(super) fn holds(&self, step: &Step, action: Action) -> bool {
        self.held.get(step).is_some_and(|held| held.granted.iter().any(|granted| granted.action == action))
    }

    /// Holds the tokens of a call for a step that is to make it soon, if they are there and no call waits for
    /// them, until the turn has ended that begins now.
    pub(super) fn hold(&mut self, step: &Step, action: Action, now_ms: u64) -> bool {
        if self.take(action, 1, now_ms).is_none() {
            return false;
        }
        self.give_back(action, 1);
        self.charge_held(action, 1, now_ms);
        let holding = self.held.entry(step.clone()).or_default();
        holding.turns += 1;
        holding.granted.push(Granted { action, count: 1, at_ms: now_ms });
        true
    }

    /// Takes the tokens of a call at once, if they are there and no call waits for them.
    pub(super) fn take(&mut self, action: Action, count: u32, now_ms: u64) -> Option<Admitted> {
        self.class(action, now_ms);
        self.fill(now_ms);
        let shares = self.shared.is_some() && !action.is_look();
        let is_waited_for = self.classes.iter().any(|(other, class)| {
            !class.waiting.is_empty() && (*other == action || (shares && !other.is_look()))
        });
        if is_waited_for || !self.has_shared(action) || !self.class(action, now_ms).has(count) {
            return None;
        }
        self.charge(action, count, now_ms);
        let had_half = self.class(action, now_ms).requests.is_half_full();
        Some(Admitted { at_ms: now_ms, waited: false, had_half })
    }

    fn charge_held(&mut self, action: Action, count: u32, now_ms: u64) {
        self.class(action, now_ms).hold(count);
        if let Some(shared) = self.shared(action) {
            shared.hold(1);
        }
    }

    fn charge(&mut self, action: Action, count: u32, now_ms: u64) {
        self.class(action, now_ms).take(count);
        if let Some(shared) = self.shared(action) {
            shared.take(1);
        }
    }

    fn give_back(&mut self, action: Action, count: u32) {
        if let Some(class) = self.classes.get_mut(&action) {
            class.give_back(count);
        }
        if let Some(shared) = self.shared(action) {
            shared.give_back(1);
        }
    }

    /// Joins the line of an action.
    pub(super) fn join(
        &mut self,
        action: Action,
        count: u32,
        urgency: Urgency,
        step: Option<Step>,
        now_ms: u64,
    ) -> (Place, oneshot::Receiver<()>) {
        self.tickets += 1;
        let place = (urgency, self.tickets);
        let (told, come) = oneshot::channel();
        if let Some(step) = &step {
            self.held.entry(step.clone()).or_default().turns += 1;
        }
        let class = self.class(action, now_ms);
        class.oldest.insert((urgency.since_ms, place.1), place);
        class.waiting.insert(place, Waiter { count, step, told });
        (place, come)
    }

    /// Leaves the line. `false`: it was served before.
    pub(super) fn leave(&mut self, action: Action, place: &Place) -> bool {
        self.classes.get_mut(&action).is_some_and(|class| class.remove(place).is_some())
    }

    /// Gives back what was granted to a caller that is no step and has not called.
    pub(super) fn not_used(&mut self, action: Action, count: u32) {
        self.give_back(action, count);
    }

    /// A turn of a step has ended. After the last one nothing is held for the step.
    pub(super) fn turn_ends(&mut self, step: &Step) {
        let Some(holding) = self.held.get_mut(step) else { return };
        holding.turns = holding.turns.saturating_sub(1);
        if holding.turns == 0 {
            let granted = self.held.remove(step).map(|holding| holding.granted);
            for Granted { action, count, .. } in granted.into_iter().flatten() {
                if let Some(class) = self.classes.get_mut(&action) {
                    class.used(count);
                }
                if let Some(shared) = self.shared(action) {
                    shared.used(1);
                }
                self.give_back(action, count);
            }
        }
    }

    /// Serves whoever can be served now. Returns how long until the next one can; `None` when no call waits.
    pub(super) fn serve(&mut self, now_ms: u64) -> Option<Duration> {
        self.fill(now_ms);
        while let Some((place, action)) = self.next() {
            self.grant(action, &place, now_ms);
        }
        let shared = self.shared.as_ref().map_or(Duration::ZERO, |shared| shared.bucket.wait(1, 0));
        let heads = self.classes.iter().filter_map(|(action, class)| {
            let count = class.waiting.get(class.next()?)?.count;
            let shared = if action.is_look() { Duration::ZERO } else { shared };
            Some(class.wait(count, (0, 0)).max(shared))
        });
        heads.min()
    }

    /// The most urgent call of those that can be served now, over all actions.
    fn next(&self) -> Option<(Place, Action)> {
        let heads = self.classes.iter().filter_map(|(action, class)| {
            let place = class.next()?;
            let count = class.waiting.get(place)?.count;
            (class.has(count) && self.has_shared(*action)).then_some((*place, *action))
        });
        heads.min()
    }

    fn grant(&mut self, action: Action, place: &Place, now_ms: u64) {
        let Some(waiter) = self.class(action, now_ms).remove(place) else { return };
        if waiter.told.send(()).is_err() {
            // It has gone away, and leaves the line in a moment.
            return;
        }
        self.class(action, now_ms).served += 1;
        let Some(step) = waiter.step else { return self.charge(action, waiter.count, now_ms) };
        self.charge_held(action, waiter.count, now_ms);
        if let Some(holding) = self.held.get_mut(&step) {
            holding.granted.push(Granted { action, count: waiter.count, at_ms: now_ms });
        }
    }

    /// What the answer to a call teaches.
    pub(super) fn learn(&mut self, action: Action, admitted: Admitted, throttled: bool, now_ms: u64) {
        let left = self.left;
        let class = self.class(action, now_ms);
        if !throttled {
            class.requests.served(admitted.waited, now_ms);
            if let Some(resources) = &mut class.resources {
                resources.served(admitted.waited, now_ms);
            }
            return;
        }
        class.scarce().refused(admitted.at_ms, now_ms);
        if admitted.had_half && !action.is_look() {
            let until_ms = now_ms.saturating_add(SHARES_FOR.as_millis() as u64);
            let shared = self.shared.get_or_insert_with(|| {
                let mut bucket = Bucket::new(published::SHARED, left, now_ms);
                bucket.empty();
                Shared { until_ms, bucket }
            });
            shared.until_ms = until_ms;
        }
    }

    /// Whether mutating calls are charged to one shared bucket now.
    pub(super) const fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The place in the line, from 1, its length, and the time until the turn comes, as far as is known.
    pub(super) fn outlook(&mut self, action: Action, place: &Place, now_ms: u64) -> Outlook {
        self.fill(now_ms);
        let shared = self.shared.as_ref().filter(|_| !action.is_look());
        let Some(class) = self.classes.get(&action) else { return Outlook::default() };
        let before = class.waiting.range(..place);
        let ahead = before.fold((0, 0), |(calls, counted), (_, waiter)| (calls + 1, counted + waiter.count));
        let count = class.waiting.get(place).map_or(1, |waiter| waiter.count);
        let shared_wait = shared.map_or(Duration::ZERO, |shared| shared.bucket.wait(1, ahead.0));
        let refill = class.requests.refill();
        Outlook {
            place: ahead.0 + 1,
            of: u32::try_from(class.waiting.len()).unwrap_or(u32::MAX),
            expected_in: class.wait(count, ahead).max(shared_wait),
            refill: shared.map_or(refill, |shared| refill.min(shared.bucket.refill())),
        }
    }
}

/// What a waiter can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Outlook {
    pub(super) place: u32,
    pub(super) of: u32,
    pub(super) expected_in: Duration,
    /// Calls for each second.
    pub(super) refill: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(n: u64) -> Step {
        (StreamId::parse(&format!("workflow/n-{n}.1")).unwrap(), Token(n))
    }

    /// Lets these wait for launches of an account that has none left, in this order, and returns in which
    /// order they are served.
    fn order(waiting: &[(&'static str, Urgency)]) -> Vec<&'static str> {
        let mut lines = Lines::new(0.0);
        while lines.take(Action::RunInstances, 1, 0).is_some() {}
        let mut told: Vec<_> = waiting
            .iter()
            .map(|(name, urgency)| (*name, lines.join(Action::RunInstances, 1, *urgency, None, 0).1))
            .collect();
        let (mut now_ms, mut served) = (0, Vec::new());
        while let Some(next) = lines.serve(now_ms) {
            now_ms += next.as_millis() as u64;
            lines.serve(now_ms);
            told.retain_mut(|(name, come)| {
                let is_served = come.try_recv().is_ok();
                served.extend(is_served.then_some(*name));
                !is_served
            });
        }
        served
    }

    #[test]
    fn the_smallest_priority_is_served_first_then_the_earliest_deadline_then_the_oldest() {
        let urgency = Urgency::of_step;
        let waiting = [
            ("young", urgency(0, None, 30)),
            ("backup", urgency(10, None, 40)),
            ("old", urgency(0, None, 20)),
            ("later", urgency(-10, Some(9_000), 51)),
            ("soon", urgency(-10, Some(8_000), 52)),
        ];
        assert_eq!(order(&waiting), ["soon", "later", "old", "young", "backup"]);
    }

    #[test]
    fn every_fourth_token_goes_to_the_oldest() {
        let mut waiting: Vec<_> =
            ["a", "b", "c", "d", "e"].map(|n| (n, Urgency::of_step(0, None, 50))).into();
        waiting.push(("backup", Urgency::of_step(10, None, 1)));
        assert_eq!(order(&waiting), ["a", "b", "c", "backup", "d", "e"]);
    }

    #[test]
    fn instances_are_counted_beside_calls() {
        let mut lines = Lines::new(0.0);
        assert!(lines.take(Action::RunInstances, 990, 0).is_some());
        assert!(lines.take(Action::RunInstances, 20, 0).is_none(), "8 instances are left");
        assert!(lines.take(Action::RunInstances, 8, 0).is_some());
        let admitted = lines.take(Action::TerminateInstances, 1_000, 0).unwrap();
        lines.learn(Action::TerminateInstances, admitted, false, 0);
        assert!(lines.take(Action::TerminateInstances, 10, 1_000).is_some(), "20 instances a second");
        assert!(lines.take(Action::TerminateInstances, 20, 1_000).is_none());
    }

    #[test]
    fn a_throttled_call_of_a_full_bucket_lets_all_acts_share_one_for_ten_minutes() {
        let mut lines = Lines::new(0.0);
        let admitted = lines.take(Action::AttachVolume, 1, 0).unwrap();
        assert!(admitted.had_half);
        lines.learn(Action::AttachVolume, admitted, true, 100);
        assert!(lines.is_shared());
        assert!(lines.take(Action::DetachVolume, 1, 100).is_none(), "the shared one is empty");
        assert!(lines.take(Action::DescribeVolumes, 1, 100).is_some(), "a look is no act");
        let acts = [Action::DetachVolume, Action::CreateSnapshot, Action::RunInstances];
        let taken = (0..30).filter(|n| lines.take(acts[n % 3], 1, 3_100).is_some()).count();
        assert_eq!(taken, 13, "five a second for three seconds, less its slack");
        assert!(lines.take(Action::DetachVolume, 1, 600_101).is_some() && !lines.is_shared());
    }

    #[test]
    fn a_throttled_call_of_a_spent_bucket_teaches_nothing_of_others() {
        let mut lines = Lines::new(0.0);
        let mut admitted = None;
        while let Some(next) = lines.take(Action::AttachVolume, 1, 0) {
            admitted = Some(next);
        }
        lines.learn(Action::AttachVolume, admitted.unwrap(), true, 100);
        assert!(!lines.is_shared());
    }

    #[test]
    fn what_a_step_does_not_use_is_given_back_with_its_last_turn() {
        let mut lines = Lines::new(0.0);
        while let Some(admitted) = lines.take(Action::RunInstances, 1, 0) {
            lines.learn(Action::RunInstances, admitted, false, 0);
        }
        let urgency = Urgency::of_step(0, None, 0);
        lines.join(Action::RunInstances, 1, urgency, Some(step(1)), 0);
        // The receiver is gone: nothing is granted to it.
        lines.serve(500);
        let (_, come) = lines.join(Action::RunInstances, 1, urgency, Some(step(1)), 500);
        assert!(lines.take(Action::RunInstances, 1, 500).is_none(), "it is waited for");
        lines.serve(500);
        drop(come);
        assert!(lines.take(Action::RunInstances, 1, 500).is_none(), "it is held");
        lines.turn_ends(&step(1));
        assert!(lines.take(Action::RunInstances, 1, 500).is_none(), "for another turn of the step");
        lines.turn_ends(&step(1));
        assert!(lines.take(Action::RunInstances, 1, 500).is_some());
        assert!(lines.held.is_empty());
    }

    /// What befalls the lines.
    #[derive(Debug, Clone)]
    enum Deed {
        Joins(usize, i32, u64),
        Leaves(usize),
        Passes(u64),
        Answered(usize, bool),
    }

    const ACTIONS: [Action; 4] =
        [Action::RunInstances, Action::AttachVolume, Action::TerminateInstances, Action::DescribeVolumes];

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            4 => (0..4_usize, -1..2_i32, 0..50_u64).prop_map(|(a, p, s)| Deed::Joins(a, p, s)),
            1 => any::<usize>().prop_map(Deed::Leaves),
            2 => (0..5_000_u64).prop_map(Deed::Passes),
            1 => (0..4_usize, any::<bool>()).prop_map(|(a, throttled)| Deed::Answered(a, throttled)),
        ]
    }

    proptest! {
        #[test]
        fn each_waiter_is_served_once_or_leaves_and_none_waits_while_tokens_are_there(
            deeds in prop::collection::vec(deed(), 1..200)
        ) {
            let mut lines = Lines::new(0.0);
            let (mut now_ms, mut waiting) = (0, Vec::new());
            for (n, deed) in deeds.into_iter().enumerate() {
                match deed {
                    Deed::Joins(action, priority, since_ms) => {
                        let step = step(n as u64);
                        let urgency = Urgency::of_step(priority, None, since_ms);
                        let (place, come) = lines.join(ACTIONS[action], 1, urgency, Some(step.clone()), now_ms);
                        waiting.push((ACTIONS[action], place, step, come));
                    }
                    Deed::Leaves(which) if !waiting.is_empty() => {
                        let (action, place, step, _come) = waiting.swap_remove(which % waiting.len());
                        lines.leave(action, &place);
                        lines.turn_ends(&step);
                    }
                    Deed::Leaves(_) => {}
                    Deed::Passes(ms) => now_ms += ms,
                    Deed::Answered(action, throttled) => {
                        let admitted = Admitted { at_ms: now_ms, waited: true, had_half: throttled };
                        lines.learn(ACTIONS[action], admitted, throttled, now_ms);
                    }
                }
                if lines.serve(now_ms).is_some_and(|next| next.is_zero()) {
                    prop_assert!(false, "a call waits whose tokens are there");
                }
                waiting.retain_mut(|(_, _, step, come)| {
                    let is_served = come.try_recv().is_ok();
                    if is_served {
                        lines.turn_ends(step);
                    }
                    !is_served
                });
            }
            for rounds in 0.. {
                prop_assert!(rounds < 100_000, "they are not served: {lines:?}");
                let next = lines.serve(now_ms);
                waiting.retain_mut(|(_, _, step, come)| {
                    let is_served = come.try_recv().is_ok();
                    if is_served {
                        lines.turn_ends(step);
                    }
                    !is_served
                });
                let Some(next) = next else { break };
                now_ms += u64::try_from(next.as_millis()).unwrap().max(1);
            }
            prop_assert!(waiting.is_empty() && lines.held.is_empty(), "{lines:?}");
        }
    }
}
