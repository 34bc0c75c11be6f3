//! The meaning of events, as far as the store needs it: lent by who knows.

use perennial_engine::domain::Domain;
use perennial_engine::journal::RecordedEvent;
use perennial_engine::projection::{Projections, Reprojection};

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
    /// Why this event does not fit the stream's state. The stream is broken then: its later events do not
    /// come, and its rows in [`Projector::finish`] are not looked at. The other streams go on.
    fn project(&mut self, event: &RecordedEvent) -> Result<(), String>;

    /// Gives what was folded.
    fn finish(self) -> Projections;
}

impl<D: Domain> Projector for Reprojection<D> {
    fn project(&mut self, event: &RecordedEvent) -> Result<(), String> {
        self.apply(event).map_err(|error| error.to_string())
    }

    fn finish(self) -> Projections {
        Self::finish(self)
    }
}
