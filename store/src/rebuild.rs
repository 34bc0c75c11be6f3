//! Makes the projections anew from the events.

use std::collections::BTreeSet;
use std::path::Path;

use perennial_engine::ids::{Position, StreamId};
use perennial_engine::journal::ReadError;
use serde::Serialize;

use crate::file::{self, JOURNAL, Lock, OpenError, Synchronous};
use crate::projector::Projector;
use crate::verify::{Finding, Severity};
use crate::{read, writer};

/// How many events are read at once.
const PAGE: usize = 1_000;

/// Why nothing was rebuilt. The projections are as they were.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The journal cannot be opened, or an engine is running on it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The events cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new projections cannot be written.
    #[error("the new projections cannot be written")]
    Write(#[from] rusqlite::Error),
}

/// What was rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    /// How many events were folded.
    pub events: u64,
    /// How many open steps there are.
    pub open_steps: u64,
    /// How many keys lead to a stream.
    pub keys: u64,
    /// How many summaries there are.
    pub summaries: u64,
    /// How many timers are set.
    pub timers: u64,
    /// The streams that could not be folded; they have no rows now, so nothing is run for them.
    pub unfoldable: Vec<Finding>,
}

/// Folds every event and replaces all projections, in one transaction. Needs the journal for itself.
///
/// # Errors
/// See [`RebuildError`].
pub fn rebuild(path: &Path, mut projector: impl Projector) -> Result<RebuildReport, RebuildError> {
    if !path.exists() {
        return Err(OpenError::Missing { path: path.to_owned(), format: JOURNAL.name }.into());
    }
    let _lock = Lock::take(path)?;
    let mut conn = file::open_writable(path, &JOURNAL, Synchronous::Full, 0)?;
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let (mut last, mut unfoldable, mut broken) = (Position(0), Vec::new(), BTreeSet::<StreamId>::new());
    loop {
        let page = read::all(&tx, last, PAGE)?;
        let Some(event) = page.last() else { break };
        last = event.position;
        for event in page {
            if broken.contains(&event.stream) {
                continue;
            }
            if let Err(why) = projector.project(&event) {
                broken.insert(event.stream.clone());
                unfoldable.push(Finding {
                    severity: Severity::Unfoldable,
                    position: Some(event.position),
                    stream: Some(event.stream),
                    what: format!("cannot be folded: {why}"),
                });
            }
        }
    }
    let mut projections = projector.finish();
    projections.open_steps.retain(|row| !broken.contains(&row.stream));
    projections.keys.retain(|(_, stream)| !broken.contains(stream));
    projections.summaries.retain(|row| !broken.contains(&row.stream));
    projections.timers.retain(|row| !broken.contains(&row.stream));
    let report = RebuildReport {
        events: last.0,
        open_steps: projections.open_steps.len() as u64,
        keys: projections.keys.len() as u64,
        summaries: projections.summaries.len() as u64,
        timers: projections.timers.len() as u64,
        unfoldable,
    };
    tx.execute_batch(
        "DELETE FROM open_steps; DELETE FROM lookup; DELETE FROM summaries; DELETE FROM timers;",
    )?;
    writer::write_projections(&tx, projections)?;
    tx.commit()?;
    Ok(report)
}
