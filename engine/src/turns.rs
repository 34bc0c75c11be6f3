//! Turns: commands that may write the same stream are decided one after the other within this process.
//!
//! A conflict is always safe, because the journal refuses the later append; turns only keep one process from
//! making conflicts for itself. A command takes turns on **every** stream that it may write, so two commands
//! that meet on their second stream do not conflict either.
//!
//! # Why nothing waits in a circle
//! A command waits only for stripes that stand behind all those it holds. It may learn late that it writes a
//! further stream; then it tries without waiting, and if that stripe is taken, it gives all of its turns back
//! and waits for them in order.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher};

use tokio::sync::{Mutex, MutexGuard};

use crate::ids::StreamId;

/// Two streams may share a stripe and then wait for each other's append, so there are many times more than
/// streams in work: with 256 in work one in sixty waits, and all of them take under a MiB.
const STRIPES: usize = 16_384;

/// The locks of one engine.
pub(crate) struct Turns {
    stripes: Vec<Mutex<()>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
    }
}

/// The turns that a command holds, given back when it is dropped.
pub(crate) struct Turn<'t> {
    turns: &'t Turns,
    /// By stripe, in no order: there are few.
    held: Vec<(usize, MutexGuard<'t, ()>)>,
}

impl Turns {
    /// No turns yet.
    pub(crate) const fn none(&self) -> Turn<'_> {
        Turn { turns: self, held: Vec::new() }
    }
}

impl Turn<'_> {
    /// Adds the turns on further streams. `false`: other commands had a turn in between, so everything read
    /// under this turn has to be read again.
    #[must_use]
    pub(crate) async fn take_further(&mut self, streams: &[StreamId]) -> bool {
        for stripe in streams.iter().map(stripe) {
            if self.holds(stripe) {
                continue;
            }
            let Ok(turn) = self.turns.stripes[stripe].try_lock() else {
                self.wait_for(streams).await;
                return false;
            };
            self.held.push((stripe, turn));
        }
        true
    }

    /// Gives all turns back and takes them again with those that are wanted, in order.
    async fn wait_for(&mut self, streams: &[StreamId]) {
        let mut wanted: BTreeSet<usize> = streams.iter().map(stripe).collect();
        wanted.extend(std::mem::take(&mut self.held).into_iter().map(|(stripe, _)| stripe));
        for stripe in wanted {
            self.held.push((stripe, self.turns.stripes[stripe].lock().await));
        }
    }

    fn holds(&self, stripe: usize) -> bool {
        self.held.iter().any(|(held, _)| *held == stripe)
    }
}

fn stripe(stream: &StreamId) -> usize {
    let mut hasher = DefaultHasher::new();
    stream.hash(&mut hasher);
    (hasher.finish() % STRIPES as u64) as usize
}
