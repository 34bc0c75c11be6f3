//! The region's time, which may run faster than the machine's, stand still, or jump; and the machine's time.

use std::sync::Mutex;

use perennial_engine::clock::Clock;
use tokio::time::Instant;

use super::lock::lock;

/// Both times.
pub(super) struct Time {
    pace: Mutex<Pace>,
    machine: Clock,
}

/// A moment of the region, when it was, and how fast the region's time goes on from there.
#[derive(Debug, Clone, Copy)]
struct Pace {
    base_ms: u64,
    since: Instant,
    speed: f64,
}

impl Pace {
    fn from_now(base_ms: u64, speed: f64) -> Self {
        Self { base_ms, since: Instant::now(), speed }
    }

    fn now_ms(&self) -> u64 {
        self.base_ms + (self.since.elapsed().as_secs_f64() * self.speed * 1000.0) as u64
    }
}

impl Time {
    pub(super) fn new(base_ms: u64, speed: f64) -> Self {
        Self { pace: Mutex::new(Pace::from_now(base_ms, speed)), machine: Clock::system() }
    }

    /// Sets the region's time as it is now.
    pub(super) fn set(&self, base_ms: u64, speed: f64) {
        *lock(&self.pace) = Pace::from_now(base_ms, speed);
    }

    /// Moves the region's time ahead, and changes its speed if one is given.
    pub(super) fn move_ahead(&self, ahead_ms: u64, speed: Option<f64>) {
        let mut pace = lock(&self.pace);
        *pace = Pace::from_now(pace.now_ms() + ahead_ms, speed.unwrap_or(pace.speed));
    }

    /// The region's time.
    pub(super) fn now_ms(&self) -> u64 {
        lock(&self.pace).now_ms()
    }

    /// How many times as fast as the machine's time the region's runs.
    pub(super) fn speed(&self) -> f64 {
        lock(&self.pace).speed
    }

    /// The machine's time.
    pub(super) fn real_ms(&self) -> u64 {
        self.machine.now_ms()
    }
}
