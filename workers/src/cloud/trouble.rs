//! Trouble that is not one step's: calls that are refused for who asks, or throttled.
//!
//! A fleet meets it in hundreds of calls at a time. It is told once when it begins, by its code, and once
//! when it ends; in between each step says as its reason of waiting what it was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use perennial_engine::clock::Clock;
use tracing::{info, warn};

use crate::port::error::{Action, Class, CloudError};

/// A call that works so soon after its last refusal does not end the trouble: throttling refuses some calls
/// and lets others through.
const QUIET: Duration = Duration::from_secs(30);

/// How many codes are kept; there are some twenty.
const CODES_MAX: usize = 100;

/// What stands in the way of calls now.
#[derive(Debug)]
pub(super) struct Troubles {
    clock: Clock,
    by_code: Mutex<BTreeMap<String, Trouble>>,
}

/// One code.
#[derive(Debug)]
struct Trouble {
    /// The actions that were answered so and have not worked since.
    actions: BTreeSet<Action>,
    /// In monotonic milliseconds.
    since_ms: u64,
    last_ms: u64,
    refused: u64,
}

impl Troubles {
    pub(super) const fn new(clock: Clock) -> Self {
        Self { clock, by_code: Mutex::new(BTreeMap::new()) }
    }

    /// Notes how a call was answered.
    pub(super) fn note<T>(&self, action: Action, answer: &Result<T, CloudError>) {
        let now_ms = self.clock.monotonic_ms();
        let mut by_code = self.by_code.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Err(error) if matches!(error.class, Class::Access | Class::Throttled) => {
                if let Some(trouble) = by_code.get_mut(&error.code) {
                    trouble.actions.insert(action);
                    trouble.last_ms = now_ms;
                    trouble.refused += 1;
                } else if by_code.len() < CODES_MAX {
                    let CloudError { code, message, .. } = error;
                    warn!(%action, %code, said = ?message, "calls are refused; they are repeated until they work");
                    let actions = BTreeSet::from([action]);
                    let trouble = Trouble { actions, since_ms: now_ms, last_ms: now_ms, refused: 1 };
                    by_code.insert(code.clone(), trouble);
                }
            }
            Ok(_) => by_code.retain(|code, trouble| !trouble.ends(code, action, now_ms)),
            Err(_) => {}
        }
    }
}

impl Trouble {
    /// Whether it is over, now that a call of this action has worked.
    fn ends(&mut self, code: &str, action: Action, now_ms: u64) -> bool {
        if Duration::from_millis(now_ms.saturating_sub(self.last_ms)) < QUIET {
            return false;
        }
        self.actions.remove(&action);
        let over = self.actions.is_empty();
        if over {
            let lasted_s = self.last_ms.saturating_sub(self.since_ms) / 1_000;
            info!(%action, %code, refused = self.refused, lasted_s, "calls that were refused work again");
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_code_is_told_once_until_every_action_it_refused_has_worked() {
        let clock = Clock::scaled(0, 1.0);
        let troubles = Troubles::new(clock.clone());
        let is_known = |code: &str| troubles.by_code.lock().unwrap().contains_key(code);
        let refuse = |action| {
            let refused = CloudError::coded(action, "ExpiredToken", "");
            troubles.note::<()>(action, &Err(refused));
        };
        refuse(Action::DescribeInstances);
        refuse(Action::RunInstances);
        troubles.note(Action::DescribeInstances, &Ok(()));
        assert!(is_known("ExpiredToken"), "a moment after the last refusal");
        clock.sleep(QUIET).await;
        troubles.note(Action::DescribeInstances, &Ok(()));
        assert!(is_known("ExpiredToken"), "launches have not worked yet");
        troubles.note(Action::RunInstances, &Ok(()));
        assert!(!is_known("ExpiredToken"));
        let capacity = CloudError::coded(Action::RunInstances, "InsufficientInstanceCapacity", "");
        troubles.note::<()>(Action::RunInstances, &Err(capacity));
        assert!(!is_known("InsufficientInstanceCapacity"), "of one pool");
    }
}
