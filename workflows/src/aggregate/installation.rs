//! The installation: the journal's own identity, bound to an account, a region and an owner.
//!
//! The id is chosen at random when a journal is first served, and stands in the tags and client tokens of
//! everything that is made. A journal that is served for another account, region or owner is refused: it
//! would look for its resources where they cannot be, and take their absence for their loss.

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::installation::{Mark, Place};

/// The stream of the installation. A journal has one.
#[must_use]
pub fn installation_stream() -> StreamId {
    StreamId::parse("installation/this").unwrap_or_else(|error| unreachable!("BUG: a fixed name: {error}"))
}

/// What happened to the installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstallationEvent {
    /// The journal belongs to this installation, here.
    Bound {
        /// The installation id.
        id: String,
        /// Where.
        place: Place,
    },
    /// It belongs here from now on: what was unknown was seen, or the operator accepted another place.
    Placed {
        /// Where.
        place: Place,
        /// The operator who accepted it; none where only what was unknown was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted_by: Option<String>,
    },
    /// The journal was brought up to the world. Client tokens and step tags of before do not come back.
    Renewed {
        /// Which incarnation it is in from now on.
        incarnation: u32,
        /// The operator.
        requested_by: String,
    },
}

/// The state of the installation: the fold of its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installation {
    /// `None` before it is bound.
    pub mark: Option<Mark>,
    /// Where it belongs.
    pub place: Place,
}

impl Installation {
    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &InstallationEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match (event, &mut self.mark) {
            (InstallationEvent::Bound { id, place }, mark @ None) => {
                *mark = Some(Mark { id: id.clone(), incarnation: 0 });
                self.place = place.clone();
            }
            (InstallationEvent::Placed { place, .. }, Some(_)) => self.place = place.clone(),
            (InstallationEvent::Renewed { incarnation, .. }, Some(mark)) => {
                if *incarnation <= mark.incarnation {
                    return illegal("an incarnation follows an older one");
                }
                mark.incarnation = *incarnation;
            }
            (InstallationEvent::Bound { .. }, Some(_)) => return illegal("it is bound already"),
            (InstallationEvent::Placed { .. } | InstallationEvent::Renewed { .. }, None) => {
                return illegal("it is not bound");
            }
        }
        Ok(self)
    }
}
