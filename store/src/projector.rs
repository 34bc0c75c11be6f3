//! The meaning of events, as far as the store needs it: lent by who knows.

use perennial_engine::ids::StreamId;
use perennial_engine::journal::{OpenStepRow, RecordedEvent, SummaryRow};

/// What the projections of a journal must hold. The order of the rows does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Projections {
    /// Every open step.
    pub open_steps: Vec<OpenStepRow>,
    /// Every key and a stream it leads to.
    pub lookup: Vec<(String, StreamId)>,
    /// Every summary.
    pub summaries: Vec<SummaryRow>,
}

/// Folds a whole journal into its projections.
///
/// # Expected flow
/// [`Projector::project`] for each event in order of position, then [`Projector::finish`].
///
/// # Guarantees
/// Deterministic: the same events give the same projections as the engine wrote beside them.
pub trait Projector {
    /// Takes the next event.
    ///
    /// # Errors
    /// Why this event does not fit the stream's state. The stream is broken then: its later events do not come, and
    /// its rows in [`Projector::finish`] are not looked at. The other streams go on.
    fn project(&mut self, event: &RecordedEvent) -> Result<(), String>;

    /// Gives what was folded.
    fn finish(self) -> Projections;
}
