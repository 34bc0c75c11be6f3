//! Time as an argument.
//!
//! Everything that waits or stamps goes through a [`Clock`]. Under `tokio::time::pause` it is virtual; with a
//! speed it is scaled (the demo runs simulated minutes in seconds); otherwise it is the machine's clock.
//!
//! # Two times
//! - *Wall time* ([`Clock::now_ms`]) is a stamp: what the journal and people are told. It can be set, forward
//!   and back, while a process runs.
//! - *Monotonic time* ([`Clock::monotonic_ms`]) is for everything that waits, or asks how long ago something
//!   was seen by this process. It only goes forward and cannot be set. It means nothing in another process.
//!
//! A jump of the wall time against the monotonic one is noticed ([`Clock::notice_jump`]), told, and kept
//! ([`Clock::jumps`]).

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::warn;

/// A smaller difference is no jump: time services correct less than this all the time, and a process that
/// stands still between the two readings would look like one.
const JUMP_MIN_MS: u64 = 5_000;

/// A wait of a clock that is told how fast it runs takes at most this long of tokio's time before it looks
/// whether it was told.
const PACED_WAIT_MAX: Duration = Duration::from_millis(500);

/// Between two comparisons of the times. A few seconds late is early enough to tell people.
const COMPARED_EVERY: Duration = Duration::from_secs(5);

/// The source of time for one engine. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock {
    kind: Kind,
    /// Monotonic time counts from here.
    start: Instant,
    /// Wall time at the start.
    started_at_ms: u64,
    noticed: Arc<Mutex<Noticed>>,
}

#[derive(Debug, Clone)]
enum Kind {
    System,
    Scaled {
        epoch_ms: u64,
        speed: f64,
        /// By how much it was set, in milliseconds.
        set_ms: Arc<AtomicI64>,
    },
    Paced {
        epoch_ms: u64,
        pace: Arc<Mutex<Pace>>,
    },
}

/// How fast a clock runs that is told so.
#[derive(Debug, Clone, Copy)]
struct Pace {
    speed: f64,
    /// Since when.
    since: Instant,
    /// What had passed by then of this clock's time, in milliseconds.
    passed_ms: f64,
}

impl Pace {
    fn passed_ms(&self) -> f64 {
        self.passed_ms + self.since.elapsed().as_secs_f64() * self.speed * 1000.0
    }
}

#[derive(Debug, Default)]
struct Noticed {
    /// Wall time less monotonic time at the last comparison; `None` before the first.
    offset_ms: Option<i64>,
    jumps: Jumps,
}

/// A jump of the wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// By so many milliseconds; negative: back.
    pub by_ms: i64,
    /// The wall time after it.
    pub at_ms: u64,
}

/// The jumps of the wall time that a process has noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Jumps {
    /// How many.
    pub count: u64,
    /// The last one.
    pub last: Option<Jump>,
}

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub fn system() -> Self {
        Self::of(Kind::System)
    }

    /// A clock that starts at `epoch_ms` and runs `speed` times as fast as tokio's. With speed 1 under a
    /// paused runtime it is a virtual clock.
    ///
    /// # Panics
    /// When `speed` is not a positive finite number; that is a bug of the caller.
    #[must_use]
    pub fn scaled(epoch_ms: u64, speed: f64) -> Self {
        assert!(speed.is_finite() && speed > 0.0, "BUG: a clock needs a positive speed, not {speed}");
        Self::of(Kind::Scaled { epoch_ms, speed, set_ms: Arc::default() })
    }

    /// A clock like a scaled one, whose speed can be [changed](Self::run_at).
    ///
    /// # Panics
    /// When `speed` is not a positive finite number; that is a bug of the caller.
    #[must_use]
    pub fn paced(epoch_ms: u64, speed: f64) -> Self {
        assert!(speed.is_finite() && speed > 0.0, "BUG: a clock needs a positive speed, not {speed}");
        let pace = Pace { speed, since: Instant::now(), passed_ms: 0.0 };
        Self::of(Kind::Paced { epoch_ms, pace: Arc::new(Mutex::new(pace)) })
    }

    /// Lets a paced clock run so many times as fast as tokio's from now on. Others, and a speed that is not
    /// a positive finite number, are left as they are.
    pub fn run_at(&self, speed: f64) {
        let Kind::Paced { pace, .. } = &self.kind else { return };
        if speed.is_finite() && speed > 0.0 {
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            *pace = Pace { speed, since: Instant::now(), passed_ms: pace.passed_ms() };
        }
    }

    /// How many times as fast as tokio's it runs.
    #[must_use]
    pub fn speed(&self) -> f64 {
        match &self.kind {
            Kind::System => 1.0,
            Kind::Scaled { speed, .. } => *speed,
            Kind::Paced { pace, .. } => pace.lock().unwrap_or_else(PoisonError::into_inner).speed,
        }
    }

    fn of(kind: Kind) -> Self {
        let mut clock = Self { kind, start: Instant::now(), started_at_ms: 0, noticed: Arc::default() };
        clock.started_at_ms = clock.now_ms();
        clock
    }

    /// Another clock that shows the same now and runs as fast. Setting one does not set the other.
    #[must_use]
    pub fn twin(&self) -> Self {
        match &self.kind {
            Kind::System => Self::system(),
            Kind::Scaled { speed, .. } => Self::scaled(self.now_ms(), *speed),
            Kind::Paced { .. } => Self::paced(self.now_ms(), self.speed()),
        }
    }

    /// Wall time: milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        match &self.kind {
            Kind::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
                let now = SystemTime::now();
                now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
            }
            Kind::Paced { epoch_ms, .. } => epoch_ms + self.monotonic_ms(),
            Kind::Scaled { epoch_ms, set_ms, .. } => {
                (epoch_ms + self.monotonic_ms()).saturating_add_signed(set_ms.load(Ordering::SeqCst))
            }
        }
    }

    /// Monotonic time: milliseconds since this clock was made.
    #[must_use]
    pub fn monotonic_ms(&self) -> u64 {
        match &self.kind {
            Kind::Paced { pace, .. } => {
                pace.lock().unwrap_or_else(PoisonError::into_inner).passed_ms().round() as u64
            }
            Kind::System | Kind::Scaled { .. } => self.passed(self.start.elapsed()).as_millis() as u64,
        }
    }

    /// How much of this clock's time has passed since a moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Duration {
        self.passed(moment.elapsed())
    }

    /// The wall time as it would be without the jumps of this process.
    #[must_use]
    pub fn steady_ms(&self) -> u64 {
        self.started_at_ms + self.monotonic_ms()
    }

    /// Sets the wall time forward or back, as an operator or a time service does. Monotonic time goes on.
    ///
    /// # Panics
    /// For the machine's clock, which is not ours to set.
    pub fn set(&self, by_ms: i64) {
        match &self.kind {
            Kind::Scaled { set_ms, .. } => {
                set_ms.fetch_add(by_ms, Ordering::SeqCst);
            }
            Kind::System | Kind::Paced { .. } => unreachable!("BUG: the machine's clock is not ours to set"),
        }
    }

    /// Compares wall time with monotonic time, and says when the wall time has jumped since the last
    /// comparison.
    pub fn notice_jump(&self) -> Option<Jump> {
        let at_ms = self.now_ms();
        let offset_ms = at_ms.cast_signed() - self.monotonic_ms().cast_signed();
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        let before_ms = noticed.offset_ms.replace(offset_ms)?;
        let by_ms = offset_ms - before_ms;
        if by_ms.unsigned_abs() < JUMP_MIN_MS {
            return None;
        }
        let jump = Jump { by_ms, at_ms };
        noticed.jumps = Jumps { count: noticed.jumps.count + 1, last: Some(jump) };
        Some(jump)
    }

    /// The jumps that were noticed.
    #[must_use]
    pub fn jumps(&self) -> Jumps {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner).jumps
    }

    /// Compares the times for ever, and tells each jump once.
    pub async fn tell_jumps(&self) {
        loop {
            if let Some(Jump { by_ms, at_ms }) = self.notice_jump() {
                warn!(
                    by_s = by_ms / 1_000,
                    before_ms = at_ms.saturating_add_signed(-by_ms),
                    after_ms = at_ms,
                    "the machine's clock was set: steps under way wait as long as before; stamps follow the clock"
                );
            }
            self.sleep(COMPARED_EVERY).await;
        }
    }

    /// Waits for a length of this clock's time.
    pub async fn sleep(&self, duration: Duration) {
        let Kind::Paced { .. } = &self.kind else {
            return tokio::time::sleep(self.real(duration)).await;
        };
        let until_ms = self.monotonic_ms() + duration.as_millis() as u64;
        loop {
            let left_ms = until_ms.saturating_sub(self.monotonic_ms());
            if left_ms == 0 {
                return;
            }
            tokio::time::sleep(self.real(Duration::from_millis(left_ms)).min(PACED_WAIT_MAX)).await;
        }
    }

    /// Waits until this clock's wall time shows `at_ms`. For what is a matter of wall time only: a wait that
    /// is a length goes by monotonic time ([`sleep`](Self::sleep)), or a clock that is set back freezes it.
    pub async fn sleep_until_ms(&self, at_ms: u64) {
        loop {
            let now = self.now_ms();
            if now >= at_ms {
                return;
            }
            self.sleep(Duration::from_millis(at_ms - now)).await;
        }
    }

    /// How long a length of this clock's time takes in tokio's time.
    #[must_use]
    pub fn real(&self, duration: Duration) -> Duration {
        match &self.kind {
            Kind::System => duration,
            Kind::Scaled { .. } | Kind::Paced { .. } => duration.div_f64(self.speed()),
        }
    }

    /// How much of this clock's time passes in a length of tokio's time.
    #[must_use]
    pub fn passed(&self, real: Duration) -> Duration {
        match &self.kind {
            Kind::System => real,
            Kind::Scaled { .. } | Kind::Paced { .. } => {
                Duration::from_millis((real.as_secs_f64() * self.speed() * 1000.0).round() as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_scaled_clock_runs_as_many_times_as_fast() {
        let clock = Clock::scaled(1_000, 60.0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(clock.now_ms(), 61_000);
        clock.sleep(Duration::from_secs(120)).await;
        assert_eq!(clock.now_ms(), 181_000);
        clock.sleep_until_ms(200_000).await;
        assert!((200_000..200_070).contains(&clock.now_ms()), "{}", clock.now_ms());
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_clock_goes_on_at_another_speed_and_so_do_the_waits_under_way() {
        let clock = Clock::paced(1_000, 60.0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((clock.now_ms(), clock.monotonic_ms()), (61_000, 60_000));
        for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            clock.run_at(speed);
        }
        // Twice a wait of two hours, which begins at another speed than it ends with.
        for (first, then) in [(1.0, 3_600.0), (3_600.0, 1.0)] {
            clock.run_at(first);
            let began = (clock.monotonic_ms(), tokio::time::Instant::now());
            let waits = clock.clone();
            let wait = tokio::spawn(async move { waits.sleep(Duration::from_hours(2)).await });
            tokio::time::sleep(Duration::from_secs(1)).await;
            clock.run_at(then);
            wait.await.unwrap();
            let took_ms = clock.monotonic_ms() - began.0;
            assert!((7_200_000..9_000_000).contains(&took_ms), "{first} {then}: {took_ms}");
            let real = began.1.elapsed().as_secs();
            assert!(real <= 4 + u64::from(then < 2.0) * 3_600, "{first} {then}: {real} s");
        }
        assert_eq!(clock.twin().now_ms(), clock.now_ms());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_tells_the_jump_once_and_its_monotonic_time_goes_on() {
        let clock = Clock::scaled(10_000_000, 1.0);
        assert_eq!(clock.notice_jump(), None, "the first comparison");
        for (by_ms, noticed) in [(-3_600_000, true), (7_200_000, true), (4_000, false), (-4_000, false)] {
            let (now_ms, monotonic_ms) = (clock.now_ms(), clock.monotonic_ms());
            clock.set(by_ms);
            assert_eq!(clock.now_ms(), now_ms.saturating_add_signed(by_ms));
            assert_eq!(clock.monotonic_ms(), monotonic_ms);
            let told = clock.notice_jump();
            assert_eq!(told, noticed.then_some(Jump { by_ms, at_ms: clock.now_ms() }));
            assert_eq!(clock.notice_jump(), None);
            clock.sleep(Duration::from_secs(1)).await;
            assert_eq!(clock.monotonic_ms(), monotonic_ms + 1_000);
        }
        assert_eq!(clock.jumps().count, 2);
        assert_eq!(clock.jumps().last.unwrap().by_ms, 7_200_000);
        assert_eq!(clock.steady_ms(), 10_004_000, "as if it had never been set");
    }
}
