//! Whether the machine's clock agrees with AWS's: nothing is deleted for its age by a clock that is wrong.

use std::time::Duration;

use perennial_engine::clock::Clock;

use crate::port::ToldTime;

/// A clock that differs more from AWS's is wrong: machines keep time to milliseconds, and answers take
/// seconds.
pub const DISAGREES: Duration = Duration::from_mins(1);

/// How much real time an answer may take; with a clock that runs faster it is more of the clock's time.
const ANSWERS_IN: Duration = Duration::from_secs(1);

/// Why this process does not know the time well enough to delete what is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeInDoubt {
    /// No answer has told the region's time.
    #[error("nothing is deleted for its age yet: no answer of AWS has told its time")]
    NotTold,
    /// The two differ.
    #[error(
        "nothing is deleted for its age: the machine's clock is {} s {} AWS's; set it (NTP)",
        .ahead_ms.unsigned_abs() / 1_000,
        if *.ahead_ms > 0 { "ahead of" } else { "behind" }
    )]
    Disagrees {
        /// By how much the machine's clock is ahead.
        ahead_ms: i64,
    },
}

/// Whether the clock agrees with the region's.
///
/// # Errors
/// [`TimeInDoubt`].
pub fn time_is_known(clock: &Clock, told: Option<ToldTime>) -> Result<(), TimeInDoubt> {
    let ahead_ms = told.ok_or(TimeInDoubt::NotTold)?.ahead_ms(clock);
    let most = DISAGREES.max(clock.passed(ANSWERS_IN));
    if Duration::from_millis(ahead_ms.unsigned_abs()) > most {
        return Err(TimeInDoubt::Disagrees { ahead_ms });
    }
    Ok(())
}
