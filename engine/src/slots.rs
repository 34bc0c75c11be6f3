//! Running slots: how many steps may call out at once, and who is next when one comes free.
//!
//! The smallest priority is next, and among equals the step that has waited longest. Endless urgent work must
//! not keep the rest out for ever. Therefore every [`FAIR_EVERY`]th slot goes to the step that has waited
//! longest, at any priority: with `n` steps before it, a step waits for at most `FAIR_EVERY * (n + 1)` slots.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Every so manieth slot that comes free goes to the longest waiting. Four leaves three quarters of a scarce
/// time to what is urgent, and a quarter is enough to finish what has begun.
const FAIR_EVERY: u64 = 4;

/// The slots of one dispatcher.
#[derive(Debug)]
pub(crate) struct Slots {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// How many have come free and were handed on.
    handed_on: u64,
    tickets: u64,
    /// By priority and ticket.
    waiting: BTreeMap<(i32, u64), oneshot::Sender<()>>,
    /// By ticket: the priority.
    longest: BTreeMap<u64, i32>,
}

/// A slot, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot<'s>(&'s Slots);

impl Slots {
    pub(crate) const fn new(free: usize) -> Self {
        let state =
            State { free, handed_on: 0, tickets: 0, waiting: BTreeMap::new(), longest: BTreeMap::new() };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot.
    pub(crate) async fn acquire(&self, priority: i32) -> Slot<'_> {
        let waiting = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Slot(self);
            }
            let (handed, handed_to) = oneshot::channel();
            state.tickets += 1;
            let ticket = state.tickets;
            state.waiting.insert((priority, ticket), handed);
            state.longest.insert(ticket, priority);
            (Waiting { slots: self, ticket, priority, served: false }, handed_to)
        };
        let (mut place, handed_to) = waiting;
        // The sender leaves the line only to send, so it is never dropped before that.
        let _ = handed_to.await;
        place.served = true;
        Slot(self)
    }

    /// Hands a slot on, or keeps it.
    fn give_back(&self) {
        let mut state = self.state();
        state.handed_on += 1;
        let next = if state.handed_on.is_multiple_of(FAIR_EVERY) {
            state.longest.first_key_value().map(|(ticket, priority)| (*priority, *ticket))
        } else {
            state.waiting.first_key_value().map(|(place, _)| *place)
        };
        match next.and_then(|place| state.leave(place)) {
            // A waiter that has gone away since gives the slot back: see `Waiting`.
            Some(handed) => drop(handed.send(())),
            None => state.free += 1,
        }
    }
}

impl State {
    fn leave(&mut self, place: (i32, u64)) -> Option<oneshot::Sender<()>> {
        self.longest.remove(&place.1);
        self.waiting.remove(&place)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A place in the line. The waiter leaves it when it is dropped.
struct Waiting<'s> {
    slots: &'s Slots,
    ticket: u64,
    priority: i32,
    served: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        let left = self.slots.state().leave((self.priority, self.ticket));
        // No longer in line: it was handed a slot that it will not use.
        if left.is_none() {
            self.slots.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Lets `names` wait for the one slot with their priorities, in this order, and returns in which order
    /// they got it.
    async fn order(names: &[(&'static str, i32)]) -> Vec<&'static str> {
        let slots = Arc::new(Slots::new(1));
        let got = Arc::new(Mutex::new(Vec::new()));
        let first = slots.acquire(0).await;
        let mut tasks = tokio::task::JoinSet::new();
        for (name, priority) in names.iter().copied() {
            let (slots, got) = (Arc::clone(&slots), Arc::clone(&got));
            tasks.spawn(async move {
                let _slot = slots.acquire(priority).await;
                got.lock().unwrap().push(name);
            });
            tokio::task::yield_now().await;
        }
        drop(first);
        while tasks.join_next().await.is_some() {}
        assert_eq!(slots.state().free, 1);
        got.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn the_smallest_priority_is_next_and_among_equals_who_came_first() {
        assert_eq!(order(&[("low", 9), ("a", 0), ("b", 0)]).await, ["a", "b", "low"]);
    }

    #[tokio::test]
    async fn every_fourth_slot_goes_to_who_has_waited_longest() {
        let names = [("low", 9), ("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0)];
        assert_eq!(order(&names).await, ["a", "b", "c", "low", "d", "e"]);
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_the_line_and_a_slot_handed_to_it_is_handed_on() {
        let slots = Slots::new(1);
        let first = slots.acquire(0).await;
        let mut gone = Box::pin(slots.acquire(0));
        let mut handed = Box::pin(slots.acquire(1));
        assert!(poll_once(&mut gone).is_none() && poll_once(&mut handed).is_none());
        drop(gone);
        drop(first);
        // The slot is `handed`'s now, who goes away without having looked.
        drop(handed);
        assert_eq!(slots.state().free, 1);
        assert!(slots.state().waiting.is_empty() && slots.state().longest.is_empty());
    }

    fn poll_once<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(out) => Some(out),
            std::task::Poll::Pending => None,
        }
    }
}
