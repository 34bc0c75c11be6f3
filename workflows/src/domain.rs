//! All of it as the engine's `Domain`.

pub mod addresses;
pub mod apply;
pub mod backup_draft;
pub mod backup_schedule;
pub mod backups;
pub mod codec;
pub mod command;
pub mod inbox;
pub mod lifecycle;
pub mod movement;
pub mod projection;
pub mod restore;
pub mod retention;
pub mod signals;
pub mod states;
pub mod submission;
pub mod submit;
pub mod volumes;

use perennial_engine::domain::{Decision, DecodeError, Domain, Illegal, Projected, Reads, Stamp, World};
use perennial_engine::ids::{StreamId, Token};
use perennial_engine::journal::EventData;

use crate::aggregate::address_pool::{AddressPool, pool_stream};
use crate::aggregate::backup_catalog::Book;
use crate::aggregate::inbox::Letter;
use crate::aggregate::node::Node;
use crate::domain::backups::backup_events;
use crate::domain::command::{Command, Rejection, Sight};
use crate::domain::inbox::decide_letter;
use crate::domain::projection::{book_shown, node_shown, operation_shown, pool_shown};
use crate::domain::states::{Decider, Event, State};
use crate::machine::decide::Draft;
use crate::machine::fold;
use crate::model::backup_id::BookId;
use crate::model::operation_id::{OperationId, node_stream};
use crate::operation::event::OperationEvent;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// Perennial's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perennial;

impl Domain for Perennial {
    type Event = Event;
    type State = State;
    type Command = Command;
    type Intent = Intent;
    type Evidence = Evidence;
    type Rejection = Rejection;

    fn encode(event: &Event) -> EventData {
        codec::encode(event)
    }

    fn decode(data: &EventData) -> Result<Event, DecodeError> {
        codec::decode(data)
    }

    fn empty(stream: &StreamId) -> State {
        match stream.category() {
            "node" => State::Node(Node::default()),
            "workflow" => State::Operation(None),
            "letter" => State::Letter(Letter::default()),
            "backup" => State::Book(Book::default()),
            "pool" => State::Pool(AddressPool::default()),
            _ => State::Unknown,
        }
    }

    fn evolve(state: State, stamp: Stamp, event: &Event) -> Result<State, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match (state, event) {
            (State::Node(node), Event::Node(event)) => node.evolve(stamp, event).map(State::Node),
            (State::Operation(None), Event::Operation(OperationEvent::Started(order))) => {
                let id = OperationId::new(order.spec.name.clone(), order.number);
                Ok(State::Operation(Some(fold::start(id, order.clone(), stamp.at_ms))))
            }
            (State::Operation(None), Event::Operation(_)) => illegal("the operation has not started"),
            (State::Operation(Some(operation)), Event::Operation(event)) => {
                fold::evolve(operation, stamp, event).map(|operation| State::Operation(Some(operation)))
            }
            (State::Letter(letter), Event::Letter(event)) => letter.evolve(stamp, event).map(State::Letter),
            (State::Book(book), Event::Backup(event)) => book.evolve(stamp, event).map(State::Book),
            (State::Pool(pool), Event::Pool(event)) => pool.evolve(stamp, event).map(State::Pool),
            _ => illegal("the event does not belong to this stream"),
        }
    }

    fn reads(_: &World<State>, command: &Command) -> Reads {
        Reads::written(match command {
            Command::Letter { envelope, content, sight, .. } => {
                let mut streams = sight.as_ref().map(Sight::streams).unwrap_or_default();
                for pool in content.pools().into_iter().map(pool_stream) {
                    if !streams.contains(&pool) {
                        streams.push(pool);
                    }
                }
                streams.push(envelope.stream.clone());
                streams
            }
            Command::Heard { sight, .. }
            | Command::Return { sight, .. }
            | Command::Prune { sight, .. }
            | Command::Sighted { sight, .. } => sight.streams(),
            Command::Tend { sight, over, finals, .. } => {
                let mut streams = sight.streams();
                streams.push(sight.book().next().stream());
                streams.extend(over.iter().map(OperationId::stream));
                // What a deletion kept stands in its order.
                for own in sight.last().iter().chain(finals) {
                    let own = own.stream();
                    if !streams.contains(&own) {
                        streams.push(own);
                    }
                }
                streams
            }
            Command::Report { workflow, evidence, .. } => match OperationId::of_stream(workflow) {
                Some(id) => {
                    let mut streams = vec![node_stream(id.node()), workflow.clone(), id.next().stream()];
                    if let Evidence::AddressReturned { pool, .. } = evidence {
                        streams.push(pool_stream(pool));
                    }
                    streams
                }
                None => vec![workflow.clone()],
            },
        })
    }

    fn decide(
        world: &World<State>,
        command: &Command,
        now_ms: u64,
    ) -> Result<Decision<Event, State>, Rejection> {
        match command {
            Command::Letter { envelope, content, sight, owner } => {
                decide_letter(&Decider { world, now_ms, owner }, envelope, content, sight.as_ref())
            }
            Command::Heard { signal, sight, owner } => {
                let view = Decider { world, now_ms, owner };
                let (_, appends) = view.hear(sight, signal)?;
                Ok(Decision::of(appends))
            }
            Command::Tend { sight, over, owner, .. } => {
                let view = Decider { world, now_ms, owner };
                let appends = match over {
                    Some(over) => view.let_go(sight, over)?,
                    None => view.tend(sight)?,
                };
                Ok(Decision::of(appends))
            }
            Command::Return { sight, seen, owner } => {
                let view = Decider { world, now_ms, owner };
                Ok(Decision::of(view.bring_back(sight, seen)?))
            }
            Command::Prune { sight, owner } => {
                let view = Decider { world, now_ms, owner };
                Ok(Decision::of(view.prune_what_is_due(sight)?))
            }
            Command::Sighted { sight, instance, others, left, owner } => {
                let view = Decider { world, now_ms, owner };
                Ok(Decision::of(view.sighted(sight, instance, others, left)?))
            }
            Command::Report { workflow, token, evidence } => {
                let view = Decider { world, now_ms, owner: "" };
                if let Some(id) = BookId::of_stream(workflow) {
                    let mut draft = view.book_draft(&id)?;
                    draft.report(*token, evidence)?;
                    return Ok(Decision::one(workflow.clone(), backup_events(draft)));
                }
                let name = || Rejection::NoSuchOperation { name: workflow.name().to_owned() };
                let id = OperationId::of_stream(workflow).ok_or_else(name)?;
                let operation = view.operation(&id).ok_or_else(name)?;
                let mut draft = Draft::from(operation, view.head(workflow), now_ms);
                draft.report(*token, evidence.clone())?;
                let mut appends = view.close(draft)?;
                appends.extend(view.given_back(&id, evidence));
                Ok(Decision::of(appends))
            }
        }
    }

    fn project(stream: &StreamId, state: &State) -> Projected<Intent> {
        match state {
            State::Node(node) => node_shown(stream, node),
            State::Operation(Some(operation)) => operation_shown(operation),
            State::Book(book) => book_shown(stream, book),
            State::Pool(pool) => pool_shown(pool),
            State::Operation(None) | State::Letter(_) | State::Unknown => Projected::default(),
        }
    }

    fn report(workflow: &StreamId, token: Token, evidence: Evidence) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence }
    }

    fn expired(workflow: &StreamId, token: Token, because: String) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence: Evidence::OutOfTime { because } }
    }

    fn timer_due(stream: &StreamId, name: &str) -> Command {
        unreachable!("BUG: no stream shows timers, but {name} of {stream} is due")
    }
}
