//! Waking: a step that waits between two looks looks at once when something is heard of what it waits for.
//!
//! A wake-up is a hint, like a doorbell: it lives in this process only, may be lost or be wrong, and costs
//! one look. A step is listed from its first "not yet" until it has settled; one whose run is under way when
//! the hint comes looks once more after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::ids::Doorbell;

/// The steps in hand that wait for the world. At most as many as a pool has in hand.
#[derive(Debug)]
pub(crate) struct Sleepers<I> {
    listed: Arc<Mutex<HashMap<Doorbell, Sleeper<I>>>>,
}

#[derive(Debug)]
struct Sleeper<I> {
    intent: Arc<I>,
    woken: Arc<Notify>,
}

impl<I> Default for Sleepers<I> {
    fn default() -> Self {
        Self { listed: Arc::default() }
    }
}

impl<I> Sleepers<I> {
    /// Lists a step for as long as the answer lives.
    pub(crate) fn list(&self, bell: &Doorbell, intent: &Arc<I>) -> Listed<I> {
        let woken = Arc::new(Notify::new());
        let sleeper = Sleeper { intent: Arc::clone(intent), woken: Arc::clone(&woken) };
        lock(&self.listed).insert(bell.clone(), sleeper);
        Listed { listed: Arc::clone(&self.listed), bell: bell.clone(), woken }
    }

    /// Wakes the steps whose request is concerned. Returns how many.
    pub(crate) fn wake(&self, is_concerned: impl Fn(&I) -> bool) -> usize {
        let listed = lock(&self.listed);
        let concerned = listed.values().filter(|sleeper| is_concerned(&sleeper.intent));
        concerned.map(|sleeper| sleeper.woken.notify_one()).count()
    }
}

/// A listed step.
#[derive(Debug)]
pub(crate) struct Listed<I> {
    listed: Arc<Mutex<HashMap<Doorbell, Sleeper<I>>>>,
    bell: Doorbell,
    woken: Arc<Notify>,
}

impl<I> Listed<I> {
    /// Returns after this long, or when it is woken; at once when it was woken since the last time. Whether
    /// it was.
    pub(crate) async fn sleep(&self, clock: &Clock, length: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.woken.notified() => true,
            () = clock.sleep(length) => false,
        }
    }
}

impl<I> Drop for Listed<I> {
    fn drop(&mut self) {
        lock(&self.listed).remove(&self.bell);
    }
}

fn lock<I>(listed: &Mutex<HashMap<Doorbell, Sleeper<I>>>) -> MutexGuard<'_, HashMap<Doorbell, Sleeper<I>>> {
    listed.lock().unwrap_or_else(PoisonError::into_inner)
}
