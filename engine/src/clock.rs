//! Time as an argument.
//!
//! Everything that waits or stamps goes through a [`Clock`]. Under `tokio::time::pause` it is virtual; with a
//! speed it is scaled (the demo runs simulated minutes in seconds); otherwise it is the machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The source of time for one engine.
#[derive(Debug, Clone)]
pub struct Clock {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    System,
    Scaled { epoch_ms: u64, start: Instant, speed: f64 },
}

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub const fn system() -> Self {
        Self { kind: Kind::System }
    }

    /// A clock that starts at `epoch_ms` and runs `speed` times as fast as tokio's. With speed 1 under a
    /// paused runtime it is a virtual clock.
    ///
    /// # Panics
    /// When `speed` is not a positive finite number; that is a bug of the caller.
    #[must_use]
    pub fn scaled(epoch_ms: u64, speed: f64) -> Self {
        assert!(speed.is_finite() && speed > 0.0, "BUG: a clock needs a positive speed, not {speed}");
        Self { kind: Kind::Scaled { epoch_ms, start: Instant::now(), speed } }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        match &self.kind {
            Kind::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
                let now = SystemTime::now();
                now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
            }
            Kind::Scaled { epoch_ms, start, speed } => {
                epoch_ms + (start.elapsed().as_secs_f64() * speed * 1000.0).round() as u64
            }
        }
    }

    /// Waits for a length of this clock's time.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(self.real(duration)).await;
    }

    /// Waits until this clock shows `at_ms`.
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
            Kind::Scaled { speed, .. } => duration.div_f64(*speed),
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
}
