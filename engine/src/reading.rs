//! Reads to a fixed point: asks the domain what a command is about until it names nothing new.

use std::sync::Arc;

use crate::domain::{Domain, Reads, World};
use crate::ids::{Seq, StreamId};

/// How often the domain is asked at most. A round may name any number of streams, so this bounds a chain in
/// which each stream leads to the next one: a key, a node, its open workflow, the catalogue that holds its
/// backup, that one's node. Twice the longest such chain, rounded up.
pub const READ_ROUNDS_MAX: u32 = 16;

/// A domain that names something new each time it is asked: a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the streams of a command did not come to an end in {READ_ROUNDS_MAX} rounds; the last named {last:?}"
)]
pub struct Endless {
    /// What it named last.
    pub last: Missing,
}

/// What a command is about and is not read yet, each once and in order of name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// Streams that the decision may append to.
    pub written: Vec<StreamId>,
    /// Streams that it only looks at.
    pub observed: Vec<StreamId>,
    /// Keys to look up.
    pub keys: Vec<String>,
}

impl Missing {
    /// Whether everything is read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.written.is_empty() && self.observed.is_empty() && self.keys.is_empty()
    }
}

/// What has been read for one command. It reads nothing itself: the owner of the streams puts them into the
/// world.
#[derive(Debug)]
pub struct Reading<D: Domain> {
    /// What was read so far.
    pub world: World<D::State>,
    /// What the domain has named so far, in all rounds.
    pub reads: Reads,
    rounds: u32,
}

impl<D: Domain> Default for Reading<D> {
    fn default() -> Self {
        Self { world: World::default(), reads: Reads::default(), rounds: 0 }
    }
}

impl<D: Domain> Reading<D> {
    /// What is to be read next, and put into the world; empty when nothing is missing.
    ///
    /// # Errors
    /// [`Endless`].
    pub fn missing(&mut self, command: &D::Command) -> Result<Missing, Endless> {
        let named = D::reads(&self.world, command);
        let is_unread = |stream: &&StreamId| self.world.head(stream).is_none();
        let only_observed = named.observed.iter().filter(|stream| !named.written.contains(*stream));
        let missing = Missing {
            written: named.written.iter().filter(is_unread).cloned().collect(),
            observed: only_observed.filter(is_unread).cloned().collect(),
            keys: named.keys.iter().filter(|key| !self.world.was_looked_up(key)).cloned().collect(),
        };
        // Most commands name everything in the first round, and nothing else in the second one.
        if self.rounds == 0 {
            self.reads = named;
        } else if self.reads != named {
            self.reads.extend(named);
        }
        self.rounds += 1;
        if self.rounds > READ_ROUNDS_MAX && !missing.is_empty() {
            return Err(Endless { last: missing });
        }
        Ok(missing)
    }

    /// Reads to the fixed point from streams that are at hand: for tests of a domain.
    ///
    /// # Errors
    /// [`Endless`].
    pub fn at_hand(
        command: &D::Command,
        mut load: impl FnMut(&StreamId) -> (Arc<D::State>, Seq),
        mut lookup: impl FnMut(&str) -> Vec<StreamId>,
    ) -> Result<Self, Endless> {
        let mut reading = Self::default();
        loop {
            let missing = reading.missing(command)?;
            if missing.is_empty() {
                return Ok(reading);
            }
            for key in missing.keys {
                let streams = lookup(&key);
                reading.world.insert_lookup(key, streams);
            }
            for stream in missing.written.into_iter().chain(missing.observed) {
                let (state, head) = load(&stream);
                reading.world.insert(stream, state, head);
            }
        }
    }
}
