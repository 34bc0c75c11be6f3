//! Counts the messages that nothing comes of, so that they are not kept one by one.
//!
//! A queue that gets the state changes of a whole account gets tens of thousands of them a day. None has an
//! entry in the journal; their number has one, every [`COUNT_EVERY`] and at the stop. What cannot be read has
//! an entry each, up to [`UNREAD_MAX`] an hour: a sender with a broken template writes no more than that
//! into a journal that never shrinks. (It is whole in the dead-letter queue, with the reason.)

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_workflows::aggregate::inbox::{Counts, Disposition, counts_stream};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Content, Envelope, Rejection};
use tracing::info;

/// Between two events of counted messages: at most some 150 a day, of a few hundred bytes each.
const COUNT_EVERY: Duration = Duration::from_secs(600);

/// How many messages that cannot be read have an entry each within an hour.
const UNREAD_MAX: u32 = 100;

const HOUR_MS: u64 = 3_600_000;

/// Of one queue.
#[derive(Debug, Default)]
pub(super) struct Counter {
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    counts: Counts,
    /// When the first of them came, by the monotonic clock.
    since_ms: u64,
    /// The hour, and how many that could not be read had an entry in it.
    unread: (u64, u32),
}

impl Counter {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message, if it is one that nothing comes of and that has no entry.
    pub(super) fn takes(&self, disposition: &Disposition, is_ours: bool, steady_ms: u64) -> bool {
        let mut counted = self.counted();
        match disposition {
            Disposition::Foreign { .. } | Disposition::Unknown { .. } if !is_ours => {}
            Disposition::Malformed { .. } | Disposition::Oversized { .. } => {
                let hour = steady_ms / HOUR_MS;
                if counted.unread.0 != hour {
                    counted.unread = (hour, 0);
                }
                if counted.unread.1 < UNREAD_MAX {
                    counted.unread.1 += 1;
                    return false;
                }
            }
            _ => return false,
        }
        if counted.counts.total() == 0 {
            counted.since_ms = steady_ms;
        }
        counted.counts.count(disposition)
    }

    /// Writes down how many there were, if it is time.
    pub(super) async fn write(
        &self,
        engine: &Engine<Perennial>,
        queue: &str,
        owner: &str,
        now: bool,
    ) -> Result<(), ExecuteError<Rejection>> {
        let steady_ms = engine.clock().steady_ms();
        let counts = {
            let mut counted = self.counted();
            let waited = steady_ms.saturating_sub(counted.since_ms);
            if counted.counts.total() == 0 || !(now || u128::from(waited) >= COUNT_EVERY.as_millis()) {
                return Ok(());
            }
            std::mem::take(&mut counted.counts)
        };
        let at_ms = engine.clock().now_ms();
        let envelope = Envelope {
            stream: counts_stream(queue, at_ms),
            queue: queue.to_owned(),
            message_id: String::new(),
            sent_at_ms: at_ms,
            bytes: 0,
            body: String::new(),
            content: None,
            sender: None,
        };
        let content = Content::Counted(counts.clone());
        let written = engine.execute(Command::Message { envelope, content, owner: owner.to_owned() }).await;
        match written {
            Ok(_) => {
                info!(queue, "messages that nothing comes of: {counts}");
                Ok(())
            }
            Err(error) => {
                let mut counted = self.counted();
                counted.counts.add(&counts);
                counted.since_ms = steady_ms;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_has_an_entry_until_there_are_too_many_in_an_hour() {
        let counter = Counter::default();
        let malformed = Disposition::Malformed { because: "not JSON".to_owned() };
        let entries = (0..1_000).filter(|_| !counter.takes(&malformed, false, 5)).count();
        assert_eq!(entries, UNREAD_MAX as usize);
        assert_eq!(counter.counted().counts.unread, 1_000 - u64::from(UNREAD_MAX));
        assert!(!counter.takes(&malformed, false, HOUR_MS + 5), "another hour");
    }

    #[test]
    fn what_is_ours_has_an_entry() {
        let counter = Counter::default();
        let unknown = Disposition::Unknown { kind: "aws.ec2 / x".to_owned() };
        assert!(!counter.takes(&unknown, true, 5));
        assert!(counter.takes(&unknown, false, 5));
        assert!(counter.takes(&Disposition::Foreign { instance: None }, false, 5));
        assert!(!counter.takes(&Disposition::Changed, false, 5));
        assert_eq!(counter.counted().counts.total(), 2);
    }
}
