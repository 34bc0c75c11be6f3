//! The log of operations: written before the effect, on disk before the answer. Without a state directory
//! nothing is written and nothing is waited for.

use std::io::Error;
use std::sync::Mutex;

use serde::Serialize;
use tokio::sync::Notify;

use super::journal::{Entry, Journal};
use super::lock::lock;
use crate::world::settings::Settings;

/// A change could not be kept; no answer may report it as done.
#[derive(Debug)]
pub(crate) struct Broken;

/// The log, if there is one.
#[derive(Default)]
pub(super) struct Log {
    journal: Option<Mutex<Journal>>,
    /// How many entries are on disk. Its holder writes for every call that waits for it.
    synced: tokio::sync::Mutex<u64>,
    broken: Notify,
}

impl Log {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal: Some(Mutex::new(journal)), ..Self::default() }
    }

    /// Whether anything is logged.
    pub(super) fn is_kept(&self) -> bool {
        self.journal.is_some()
    }

    pub(super) fn append(&self, entry: &Entry) {
        if let Some(journal) = &self.journal {
            lock(journal).append(entry);
        }
    }

    /// From now on this region answers nothing.
    pub(super) fn fail(&self, why: String) {
        if let Some(journal) = &self.journal {
            lock(journal).fail(why);
        }
    }

    /// Takes a snapshot of the state as it is after everything that was logged, and begins a new log.
    pub(super) fn compact<S: Serialize>(
        &self,
        settings: &Settings,
        at_ms: u64,
        state: &S,
    ) -> Result<(), Error> {
        match &self.journal {
            Some(journal) => lock(journal).compact(settings, at_ms, state),
            None => Ok(()),
        }
    }

    /// Waits until everything that was logged is on disk. One write serves all calls that wait for it.
    /// `compact` is called when the log has become large.
    pub(super) async fn settled(&self, compact: impl FnOnce() -> Result<(), Error>) -> Result<(), Broken> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let wanted = lock(journal).sequence();
        let mut synced = self.synced.lock().await;
        if *synced < wanted {
            let (file, sequence) = lock(journal).to_sync();
            let done = tokio::task::spawn_blocking(move || file.sync_data()).await;
            match done {
                Ok(Ok(())) => *synced = sequence,
                Ok(Err(error)) => self.fail(format!("the log cannot be synced: {error}")),
                Err(error) => self.fail(error.to_string()),
            }
            let large = lock(journal).is_large();
            if large && let Err(error) = compact() {
                self.fail(format!("the snapshot cannot be written: {error}"));
            }
        }
        if lock(journal).broken().is_some() {
            self.broken.notify_one();
            return Err(Broken);
        }
        Ok(())
    }

    /// Waits until this region must not go on, and says why. Never ends without a state directory.
    pub(super) async fn breaks(&self) -> String {
        loop {
            let broken = self.journal.as_ref().and_then(|journal| lock(journal).broken().map(str::to_owned));
            if let Some(why) = broken {
                return why;
            }
            self.broken.notified().await;
        }
    }
}
