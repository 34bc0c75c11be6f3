//! How long a step has been watched, which is what its patience is measured by.
//!
//! A step's budget is time in which this process has looked and seen that the world is not there yet:
//!
//! - It is counted by monotonic time, so a clock that is set takes nothing from it.
//! - It begins anew with every start of the process: what was not looked at cannot have been seen.
//! - The time before a look that was hindered (throttled, refused, lost) does not count, nor the time after
//!   it. Neither does more than the pause that was asked for: a machine that stood still did not look.
//!
//! A step waits for its time (`not_before_ms`) by monotonic time as well, and never longer than it was told
//! to when it was intended.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::OpenStep;
use crate::ids::Doorbell;

/// How many steps are remembered: more than a process has in hand. One that is forgotten has its whole budget
/// again.
const REMEMBERED_MAX: usize = 100_000;

/// A step that was not touched for this long is over without a report: it was parked or withdrawn.
const IDLE_MAX_MS: u64 = 6 * 3_600_000;

/// How much longer than its pause the time between two looks may be and count: a look takes seconds.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// A step that has waited for this long is worth a word; most steps take less.
const TOLD_AFTER_MS: u64 = 60_000;

/// What a step waits for is told once an hour, even if it stays the same.
const TOLD_AGAIN_MS: u64 = 3_600_000;

/// The steps that this process has looked at.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    kept: Mutex<HashMap<Doorbell, Watch>>,
}

#[derive(Debug, Clone)]
struct Watch {
    /// As the step says. One with another deadline was resumed, and is watched anew.
    deadline_ms: u64,
    /// Not to be run before this monotonic time.
    due_ms: u64,
    /// Whether its time has come and the first look begun.
    begun: bool,
    /// The beginning of the first look, or the end of the last one, unless it was hindered: its monotonic
    /// time, and the longest time after it that counts.
    seen: Option<(u64, Duration)>,
    watched: Duration,
    touched_ms: u64,
    told: Option<Told>,
}

/// What was told of a step that waits.
#[derive(Debug, Clone)]
struct Told {
    /// Not to be told again before this monotonic time, which moves away: a reason that changes with each
    /// look is told some twenty times in a day.
    next_ms: u64,
    pause_ms: u64,
    /// Not to be told again before this one, if it is the same.
    same_until_ms: u64,
    because: String,
}

impl Watches {
    fn kept(&self) -> MutexGuard<'_, HashMap<Doorbell, Watch>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a step is to wait for its time.
    pub(crate) fn wait<I>(&self, bell: &Doorbell, step: &OpenStep<I>, clock: &Clock) -> Duration {
        let monotonic_ms = clock.monotonic_ms();
        let mut kept = self.kept();
        if kept.len() >= REMEMBERED_MAX && !kept.contains_key(bell) {
            kept.retain(|_, watch| monotonic_ms.saturating_sub(watch.touched_ms) < IDLE_MAX_MS);
            if kept.len() >= REMEMBERED_MAX {
                return length_left(step, clock);
            }
        }
        let anew = || Watch {
            deadline_ms: step.deadline_ms,
            due_ms: monotonic_ms.saturating_add(length_left(step, clock).as_millis() as u64),
            begun: false,
            seen: None,
            watched: Duration::ZERO,
            touched_ms: monotonic_ms,
            told: None,
        };
        let watch = kept.entry(bell.clone()).or_insert_with(anew);
        if watch.deadline_ms != step.deadline_ms {
            *watch = anew();
        }
        watch.touched_ms = monotonic_ms;
        if watch.due_ms <= monotonic_ms && !std::mem::replace(&mut watch.begun, true) {
            watch.seen = Some((monotonic_ms, LOOK_MAX));
        }
        Duration::from_millis(watch.due_ms.saturating_sub(monotonic_ms))
    }

    /// A look has seen that the world is not there yet. Returns how long the step has been watched. `pause`:
    /// how long until the next look.
    pub(crate) fn seen(&self, bell: &Doorbell, pause: Duration, clock: &Clock) -> Duration {
        let monotonic_ms = clock.monotonic_ms();
        let mut kept = self.kept();
        let Some(watch) = kept.get_mut(bell) else { return Duration::ZERO };
        if let Some((seen_ms, most)) = watch.seen {
            watch.watched += Duration::from_millis(monotonic_ms.saturating_sub(seen_ms)).min(most);
        }
        watch.seen = Some((monotonic_ms, pause.saturating_add(LOOK_MAX)));
        watch.touched_ms = monotonic_ms;
        watch.watched
    }

    /// A look could not see.
    pub(crate) fn hindered(&self, bell: &Doorbell, clock: &Clock) {
        if let Some(watch) = self.kept().get_mut(bell) {
            watch.seen = None;
            watch.touched_ms = clock.monotonic_ms();
        }
    }

    /// Whether it is time to tell what a step waits for, which is remembered as told then. `pause`: how long
    /// until the next look; a long one is told at once.
    pub(crate) fn is_to_be_told(
        &self,
        bell: &Doorbell,
        because: &str,
        pause: Duration,
        clock: &Clock,
    ) -> bool {
        let now_ms = clock.monotonic_ms();
        let mut kept = self.kept();
        let Some(watch) = kept.get_mut(bell) else { return false };
        let told = watch.told.get_or_insert_with(|| Told {
            next_ms: now_ms.saturating_add(TOLD_AFTER_MS.saturating_sub(pause.as_millis() as u64)),
            pause_ms: TOLD_AFTER_MS,
            same_until_ms: 0,
            because: String::new(),
        });
        if now_ms < told.next_ms || (told.because == because && now_ms < told.same_until_ms) {
            return false;
        }
        told.pause_ms = (told.pause_ms * 2).min(TOLD_AGAIN_MS);
        told.next_ms = now_ms.saturating_add(told.pause_ms);
        told.same_until_ms = now_ms.saturating_add(TOLD_AGAIN_MS);
        because.clone_into(&mut told.because);
        true
    }

    /// The step is settled, or not open any more.
    pub(crate) fn over(&self, bell: &Doorbell) {
        self.kept().remove(bell);
    }

    /// The steps that wait for a time within this length.
    pub(crate) fn due_within(&self, length: Duration, clock: &Clock) -> Vec<Doorbell> {
        let until_ms = clock.monotonic_ms().saturating_add(length.as_millis() as u64);
        let kept = self.kept();
        let due = kept.iter().filter(|(_, watch)| watch.due_ms <= until_ms);
        let mut due: Vec<_> = due.map(|(bell, watch)| (watch.due_ms, bell.clone())).collect();
        due.sort_by(|(at, one), (then, other)| {
            (at, &one.workflow, one.token).cmp(&(then, &other.workflow, other.token))
        });
        due.into_iter().map(|(_, bell)| bell).collect()
    }
}

/// How long until a step's time, and no longer than it was from its intention: whatever the wall time shows
/// now.
fn length_left<I>(step: &OpenStep<I>, clock: &Clock) -> Duration {
    let left_ms = step.not_before_ms.saturating_sub(clock.now_ms());
    Duration::from_millis(left_ms.min(step.not_before_ms.saturating_sub(step.intended_at_ms)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{StreamId, Token};

    const SECOND: Duration = Duration::from_secs(1);

    fn bell() -> Doorbell {
        Doorbell { workflow: StreamId::parse("job/1").unwrap(), token: Token(1) }
    }

    fn step(intended_at_ms: u64, not_before_ms: u64) -> OpenStep<()> {
        let (budget_ms, priority) = (60_000, 0);
        let deadline_ms = not_before_ms + budget_ms;
        OpenStep {
            outdated: false,
            token: Token(1),
            step: "a".into(),
            intent: Arc::new(()),
            intended_at_ms,
            made_from_ms: intended_at_ms,
            not_before_ms,
            deadline_ms,
            budget_ms,
            optional: false,
            only_in_time: false,
            priority,
            wanted_by_ms: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_between_two_looks_that_saw_is_watched() {
        let (clock, watches) = (Clock::scaled(10_000_000, 1.0), Watches::default());
        assert_eq!(watches.wait(&bell(), &step(10_000_000, 10_000_000), &clock), Duration::ZERO);
        clock.sleep(SECOND / 2).await;
        assert_eq!(watches.seen(&bell(), SECOND, &clock), SECOND / 2, "the first look itself");
        clock.sleep(SECOND / 2).await;
        assert_eq!(watches.seen(&bell(), SECOND, &clock), SECOND);
        clock.sleep(SECOND).await;
        watches.hindered(&bell(), &clock);
        clock.sleep(SECOND).await;
        assert_eq!(watches.seen(&bell(), SECOND, &clock), SECOND, "before and after a hindered look");
        clock.sleep(600 * SECOND).await;
        assert_eq!(watches.seen(&bell(), SECOND, &clock), 32 * SECOND, "the machine stood still");
        clock.set(7_200_000);
        clock.sleep(SECOND).await;
        assert_eq!(watches.seen(&bell(), SECOND, &clock), 33 * SECOND, "a clock that is set adds nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_waits_no_longer_than_it_was_told_wherever_the_clock_is_set() {
        for by_ms in [0, -3_600_000, -20_000, 20_000, 7_200_000] {
            let (clock, watches) = (Clock::scaled(10_000_000, 1.0), Watches::default());
            let step = step(10_000_000, 10_060_000);
            assert_eq!(watches.wait(&bell(), &step, &clock), 60 * SECOND);
            clock.sleep(20 * SECOND).await;
            clock.set(by_ms);
            assert_eq!(watches.wait(&bell(), &step, &clock), 40 * SECOND, "{by_ms}: it was seen before");
            // In a process that was started after the clock was set.
            let left = Watches::default().wait(&bell(), &step, &clock);
            assert!(left <= 60 * SECOND, "{by_ms}: {left:?}");
            assert_eq!(watches.due_within(39 * SECOND, &clock), []);
            assert_eq!(watches.due_within(40 * SECOND, &clock), [bell()]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_step_waits_for_is_told_after_a_minute_when_it_changes_and_ever_more_rarely() {
        let (clock, watches) = (Clock::scaled(10_000_000, 1.0), Watches::default());
        watches.wait(&bell(), &step(10_000_000, 10_000_000), &clock);
        let mut told = Vec::new();
        for second in 0..7_300_u64 {
            let because = if second < 1_000 { "no capacity" } else { "throttled" };
            if watches.is_to_be_told(&bell(), because, SECOND, &clock) {
                told.push((second, because));
            }
            clock.sleep(SECOND).await;
        }
        let expected = [(59, "no capacity"), (1_000, "throttled"), (4_600, "throttled")];
        assert_eq!(told, expected);
        let mut times = 0;
        for look in 0..8_640_u64 {
            let because = format!("it is at {look}");
            times += u32::from(watches.is_to_be_told(&bell(), &because, 10 * SECOND, &clock));
            clock.sleep(10 * SECOND).await;
        }
        assert!((20..30).contains(&times), "{times} in a day");
        // Nothing is seen again for ten minutes: a minute is over before.
        let watches = Watches::default();
        watches.wait(&bell(), &step(10_000_000, 10_000_000), &clock);
        assert!(watches.is_to_be_told(&bell(), "too early", 600 * SECOND, &clock));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_was_resumed_is_watched_anew() {
        let (clock, watches) = (Clock::scaled(10_000_000, 1.0), Watches::default());
        let mut step = step(10_000_000, 10_000_000);
        watches.wait(&bell(), &step, &clock);
        watches.seen(&bell(), SECOND, &clock);
        clock.sleep(SECOND).await;
        assert_eq!(watches.seen(&bell(), SECOND, &clock), SECOND);
        step.deadline_ms += 1;
        watches.wait(&bell(), &step, &clock);
        assert_eq!(watches.seen(&bell(), SECOND, &clock), Duration::ZERO);
    }
}
