//! The bounds of one running engine: what its dispatcher and its timers may hold and do at once.

use std::time::Duration;

/// The bounds of one dispatcher.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many steps may call out at once.
    pub running_max: usize,
    /// How many steps may be running or waiting for a running slot. Beyond it no message is received.
    pub in_hand_max: usize,
    /// How many steps may wait for their time, or between two looks, in this process. Those beyond it are put
    /// down, and the safety scan rings them.
    pub asleep_max: usize,
    /// Visibility of a doorbell message; extended at a third of it.
    pub visibility: Duration,
    /// How long one receive waits.
    pub wait: Duration,
    /// How often the safety scan rings every open step that is due soon and not in hand, and reads the
    /// timers.
    pub scan_every: Duration,
    /// How long a shutdown waits for runs under way.
    pub drain: Duration,
    /// The longest one look of one step may take. A worker that hangs is given up and looks again.
    pub run_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A node in flight has up to a dozen steps open; EC2's own budgets are the tighter bound.
            running_max: 256,
            in_hand_max: 4_096,
            // A task of a few KiB each: 200 MiB at worst, with five thousand nodes in flight.
            asleep_max: 65_536,
            visibility: Duration::from_secs(60),
            wait: Duration::from_secs(5),
            scan_every: Duration::from_secs(15),
            drain: Duration::from_secs(10),
            run_max: Duration::from_secs(120),
        }
    }
}
