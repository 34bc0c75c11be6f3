//! Objects with their recent versions, for reads that a replica answers before it has the newest version.
//!
//! Each change of an object keeps the version before it, with a moment until which a read may still return
//! that version (drawn and seeded; [`Settings::stale_for`](super::settings::Settings::stale_for) bounds it).
//! Within that time reads go back and forth, as they do between replicas. Only describes read old versions;
//! calls that change something use the newest.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::settings::Span;

/// Versions kept of one object: more changes than this within seconds are one for a reader.
const VERSIONS_MAX: usize = 16;

/// A map of objects that remembers older versions of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize + Ord, V: Serialize",
    deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de>"
))]
pub(super) struct Versioned<K: Ord, V> {
    map: BTreeMap<K, V>,
    past: BTreeMap<K, VecDeque<Past<V>>>,
    stale_for: Span,
    now_ms: u64,
    #[serde(with = "super::persistence::seeded")]
    rng: fastrand::Rng,
}

/// A version that was replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Past<V> {
    replaced_at_ms: u64,
    seen_until_ms: u64,
    was: V,
}

impl<K: Ord, V> Deref for Versioned<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

impl<K: Ord + Clone + Display, V: Clone> Versioned<K, V> {
    pub(super) fn new(stale_for: Span, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed ^ 0x57a1_e000);
        Self { map: BTreeMap::new(), past: BTreeMap::new(), stale_for, now_ms: 0, rng }
    }

    /// Sets the time.
    pub(super) fn reach(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.map.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.past.remove(key);
        self.map.remove(key)
    }

    /// The object, to be changed: its present version becomes part of its past.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let found = self.map.get_mut(key)?;
        if self.stale_for.max_ms > 0 {
            let now_ms = self.now_ms;
            let past = self.past.entry(key.clone()).or_default();
            past.retain(|version| version.seen_until_ms > now_ms);
            // Several changes at one moment are one.
            if past.back().is_none_or(|newest| newest.replaced_at_ms < now_ms) && past.len() < VERSIONS_MAX {
                let seen_until_ms = now_ms + self.stale_for.draw(&mut self.rng);
                past.push_back(Past { replaced_at_ms: now_ms, seen_until_ms, was: found.clone() });
            }
        }
        Some(found)
    }

    /// Whether any read may return an old version now.
    pub(super) fn is_stale(&self) -> bool {
        self.past.values().flatten().any(|version| version.seen_until_ms > self.now_ms)
    }

    /// Puts older versions in place of some objects, by chance that depends on the object and the moment
    /// alone.
    pub(super) fn go_back(&mut self, seed: u64) {
        let now_ms = self.now_ms;
        for (key, versions) in std::mem::take(&mut self.past) {
            let mixed = format!("{key} {now_ms}").bytes().fold(seed, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5)
            });
            let found = versions.into_iter().find(|version| version.seen_until_ms > now_ms);
            if let Some(version) = found.filter(|_| fastrand::Rng::with_seed(mixed).bool()) {
                self.map.insert(key, version.was);
            }
        }
    }
}
