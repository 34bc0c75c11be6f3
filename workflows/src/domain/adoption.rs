//! What is decided about the installation itself: where its journal belongs, whether a node is behind the
//! world, and that a node is taken as it is in the account.

use perennial_engine::domain::Append;

use crate::aggregate::installation::{Installation, InstallationEvent, installation_stream};
use crate::aggregate::node::NodeEvent;
use crate::domain::command::Rejection;
use crate::domain::decider::{Appends, Decider, Subject};
use crate::domain::standing::Adoption;
use crate::domain::states::{Event, State};
use crate::machine::decide::Draft;
use crate::model::installation::Place;
use crate::model::operation_id::Outcome;

impl Decider<'_> {
    fn installation(&self) -> Result<&Installation, Rejection> {
        match self.world.get(&installation_stream()) {
            Some(State::Installation(installation)) => Ok(installation),
            _ => Err(Rejection::WrongStream { stream: installation_stream() }),
        }
    }

    /// The journal is served here.
    pub(crate) fn bind(&self, id: &str, here: &Place) -> Result<Appends, Rejection> {
        let installation = self.installation()?;
        let event = if installation.mark.is_none() {
            InstallationEvent::Bound { id: id.to_owned(), place: here.clone() }
        } else if installation.place.agrees_with(here) {
            let place = installation.place.completed_by(here);
            if place == installation.place {
                return Ok(Vec::new());
            }
            InstallationEvent::Placed { place, accepted_by: None }
        } else {
            let (bound, here) = (Box::new(installation.place.clone()), Box::new(here.clone()));
            return Err(Rejection::AnotherPlace { bound, here });
        };
        Ok(vec![Append::new(installation_stream(), vec![Event::Installation(event)])])
    }

    /// The operator says that it belongs here.
    pub(crate) fn move_to(&self, here: &Place, requested_by: &str) -> Result<Appends, Rejection> {
        let installation = self.installation()?;
        let place = here.completed_by(&installation.place);
        if installation.mark.is_none() || place == installation.place {
            return Ok(Vec::new());
        }
        let event = InstallationEvent::Placed { place, accepted_by: Some(requested_by.to_owned()) };
        Ok(vec![Append::new(installation_stream(), vec![Event::Installation(event)])])
    }

    /// The account was compared with what the journal knows of a node.
    pub(crate) fn stands(&self, subject: Subject<'_>, newer: &[String]) -> Appends {
        if newer == subject.node.newer || subject.node.spec.is_none() {
            return Vec::new();
        }
        let event = if newer.is_empty() {
            NodeEvent::CaughtUp {}
        } else {
            NodeEvent::FellBehind { newer: newer.to_vec() }
        };
        vec![Append::new(subject.stream(), vec![Event::Node(event)])]
    }

    /// The node is as it was seen in the account. An operation that is open ends without it.
    pub(crate) fn adopt(
        &self,
        subject: Subject<'_>,
        found: &Adoption,
        requested_by: &str,
    ) -> Result<Appends, Rejection> {
        let node = subject.node;
        if node.spec.is_none() {
            return Err(subject.unknown());
        }
        let mut appends = Vec::new();
        let mut events = Vec::new();
        let mut operations = found.operations.max(node.operations);
        if let Some(open) = self.open(subject) {
            let mut draft = Draft::from(open, self.head(&open.id.stream()), self.now_ms);
            let before = draft.give_up()?;
            events.push(Event::Node(NodeEvent::OperationFinished {
                operation: open.id.clone(),
                kind: open.order.kind,
                generation: node.generation,
                resources: before,
                outcome: Outcome::Abandoned,
                finals: false,
                launched_by: None,
            }));
            operations = operations.max(open.id.number());
            let ended = draft.into_append(Event::Operation, |operation| State::Operation(Some(operation)));
            appends.extend(ended);
        }
        events.push(Event::Node(NodeEvent::Adopted {
            generation: found.generation.max(node.generation),
            operations,
            resources: found.resources.clone(),
            requested_by: requested_by.to_owned(),
        }));
        appends.push(Append::new(subject.stream(), events));
        if let Some(mark) = self.mark() {
            let renewed = InstallationEvent::Renewed {
                incarnation: mark.incarnation + 1,
                requested_by: requested_by.to_owned(),
            };
            appends.push(Append::new(installation_stream(), vec![Event::Installation(renewed)]));
        }
        Ok(appends)
    }
}
