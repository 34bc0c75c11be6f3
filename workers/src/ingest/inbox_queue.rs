//! The two queues whose messages become inbox entries.

use perennial_engine::queue::MESSAGE_BYTES_MAX;

/// The largest submission. A node file with the largest user data is under 40 KiB. (An event may have
/// whatever fits a message: a page of AWS Health's has up to 256 KiB.)
pub const SUBMISSION_BYTES_MAX: usize = 128 * 1024;

/// Which of the two inbox queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxQueue {
    /// Asks for something.
    Submissions,
    /// AWS's events.
    Interruptions,
}

impl InboxQueue {
    /// Its name in streams and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submissions => "submissions",
            Self::Interruptions => "interruptions",
        }
    }

    pub(super) const fn bytes_max(self) -> usize {
        match self {
            Self::Submissions => SUBMISSION_BYTES_MAX,
            Self::Interruptions => MESSAGE_BYTES_MAX,
        }
    }
}
