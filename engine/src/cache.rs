//! The states of the streams used last, so that a command on a stream in work folds nothing.
//!
//! The journal stays the truth: an append names the heads it was decided on, so a state that is too old costs
//! a conflict and another look, never a wrong event.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Domain, Projected};
use crate::ids::{Seq, StreamId};

/// How many streams' states are kept in memory. A folded node or workflow is a few KiB: tens of MiB in all.
const CACHED_STREAMS_MAX: usize = 10_000;

/// A stream as it is remembered: its state, and what that shows, so that neither is computed twice.
pub(crate) struct Loaded<D: Domain> {
    pub(crate) state: Arc<D::State>,
    pub(crate) head: Seq,
    pub(crate) shown: Arc<Projected<D::Intent>>,
}

impl<D: Domain> Clone for Loaded<D> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), head: self.head, shown: Arc::clone(&self.shown) }
    }
}

struct Cached<D: Domain> {
    loaded: Loaded<D>,
    used: u64,
}

/// The streams used last.
pub(crate) struct Cache<D: Domain> {
    streams: HashMap<StreamId, Cached<D>>,
    uses: u64,
}

impl<D: Domain> Default for Cache<D> {
    fn default() -> Self {
        Self { streams: HashMap::new(), uses: 0 }
    }
}

impl<D: Domain> Cache<D> {
    pub(crate) fn get(&mut self, stream: &StreamId) -> Option<Loaded<D>> {
        self.uses += 1;
        let uses = self.uses;
        self.streams.get_mut(stream).map(|cached| {
            cached.used = uses;
            cached.loaded.clone()
        })
    }

    pub(crate) fn put(&mut self, stream: StreamId, loaded: Loaded<D>) {
        self.uses += 1;
        // A read that began before an append and ends after it must not put the older state back.
        if self.streams.get(&stream).is_some_and(|cached| cached.loaded.head > loaded.head) {
            return;
        }
        if self.streams.len() >= CACHED_STREAMS_MAX && !self.streams.contains_key(&stream) {
            // Half of them at once: a scan now and then instead of a list on every use.
            let floor = self.uses.saturating_sub(CACHED_STREAMS_MAX as u64 / 2);
            self.streams.retain(|_, cached| cached.used >= floor);
            if self.streams.len() >= CACHED_STREAMS_MAX {
                self.streams.clear();
            }
        }
        self.streams.insert(stream, Cached { loaded, used: self.uses });
    }

    pub(crate) fn forget<'s>(&mut self, streams: impl IntoIterator<Item = &'s StreamId>) {
        for stream in streams {
            self.streams.remove(stream);
        }
    }
}
