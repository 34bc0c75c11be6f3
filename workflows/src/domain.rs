//! The engine's `Domain`: commands, decisions, and the streams they write.

pub mod addresses;
pub(crate) mod adoption;
pub mod apply;
pub mod backup_draft;
pub mod backup_schedule;
pub mod backups;
pub mod codec;
pub mod command;
pub(crate) mod decider;
pub mod inbox;
pub mod keys;
pub mod lifecycle;
pub mod movement;
pub mod projection;
pub mod reads;
pub mod restore;
pub mod retention;
pub mod signals;
pub mod standing;
pub mod states;
pub mod strict;
pub mod submission;
pub mod submit;
pub mod timers;
pub mod volumes;

use perennial_engine::domain::{
    Append, Decision, DecodeError, Domain, Illegal, Pace, Projected, Reads, Stamp, Waiting, World,
};
use perennial_engine::ids::{StreamId, Token};
use perennial_engine::journal::EventData;

use crate::aggregate::address_pool::AddressPool;
use crate::aggregate::backup_catalog::BackupCatalog;
use crate::aggregate::engine::{EngineEvent, EngineRuns, engine_stream};
use crate::aggregate::inbox::InboxEntry;
use crate::aggregate::installation::Installation;
use crate::aggregate::node::Node;
use crate::domain::backups::written;
use crate::domain::command::{Command, Rejection};
use crate::domain::decider::Decider;
use crate::domain::inbox::decide_entry;
use crate::domain::projection::{catalog_projection, node_projection, operation_projection, pool_projection};
use crate::domain::states::{Event, State};
use crate::machine::decide::Draft;
use crate::machine::fold;
use crate::model::backup_id::CatalogId;
use crate::model::operation_id::OperationId;
use crate::operation::event::OperationEvent;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// Whether an engine has started and not said that it ended.
fn engine_runs(world: &World<State>) -> bool {
    matches!(world.get(&engine_stream()), Some(State::Engine(EngineRuns { is_running: true })))
}

/// Something happened to the engine.
fn of_the_engine(event: EngineEvent) -> Decision<Event, State> {
    Decision::of(vec![Append::new(engine_stream(), vec![Event::Engine(event)])])
}

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
            "inbox" => State::Inbox(InboxEntry::default()),
            "backup" => State::BackupCatalog(BackupCatalog::default()),
            "address_pool" => State::AddressPool(AddressPool::default()),
            "installation" => State::Installation(Installation::default()),
            "engine" => State::Engine(EngineRuns::default()),
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
            (State::Inbox(entry), Event::Inbox(event)) => entry.evolve(stamp, event).map(State::Inbox),
            (State::BackupCatalog(catalog), Event::Backup(event)) => {
                catalog.evolve(stamp, event).map(State::BackupCatalog)
            }
            (State::AddressPool(pool), Event::AddressPool(event)) => {
                pool.evolve(stamp, event).map(State::AddressPool)
            }
            (State::Installation(installation), Event::Installation(event)) => {
                installation.evolve(stamp, event).map(State::Installation)
            }
            (State::Engine(runs), Event::Engine(event)) => runs.evolve(stamp, event).map(State::Engine),
            _ => illegal("the event does not belong to this stream"),
        }
    }

    fn reads(world: &World<State>, command: &Command) -> Reads {
        reads::reads(world, command)
    }

    fn decide(
        world: &World<State>,
        command: &Command,
        now_ms: u64,
    ) -> Result<Decision<Event, State>, Rejection> {
        match command {
            Command::Message { envelope, content, owner } => {
                decide_entry(&Decider { world, now_ms, owner }, envelope, content)
            }
            Command::Signal { signal, owner } => {
                let view = Decider { world, now_ms, owner };
                let Some(name) = view.node_of(&signal.instance) else { return Ok(Decision::nothing()) };
                let subject = view.subject(&name)?;
                let (_, appends) = view.on_signal(subject, signal)?;
                Ok(view.decision(subject, appends))
            }
            Command::ReconcileBackups { node } => {
                let view = Decider::of_a_timer(world, now_ms, node);
                view.unless_behind(node, |subject| view.reconcile_backups(subject))
            }
            Command::ReturnToSpot { node, seen, owner } => {
                let view = Decider { world, now_ms, owner };
                view.unless_behind(node, |subject| view.return_to_spot(subject, seen))
            }
            Command::Prune { node } => {
                let view = Decider::of_a_timer(world, now_ms, node);
                view.unless_behind(node, |subject| view.prune_what_is_due(subject))
            }
            Command::Attachments { node, instance, others, left, owner } => {
                let view = Decider { world, now_ms, owner };
                view.unless_behind(node, |subject| view.on_attachments(subject, instance, others, left))
            }
            Command::Bind { id, place } => {
                Ok(Decision::of(Decider { world, now_ms, owner: &place.owner }.bind(id, place)?))
            }
            Command::Move { place, requested_by } => {
                Ok(Decision::of(Decider { world, now_ms, owner: &place.owner }.move_to(place, requested_by)?))
            }
            Command::EngineStarted { version, process, silent_since_ms } => {
                let silent_since_ms = silent_since_ms.filter(|_| engine_runs(world));
                let (version, process) = (version.clone(), *process);
                Ok(of_the_engine(EngineEvent::Started { version, process, silent_since_ms }))
            }
            Command::EngineStopped {} if !engine_runs(world) => Ok(Decision::nothing()),
            Command::EngineStopped {} => Ok(of_the_engine(EngineEvent::Stopped {})),
            Command::Standing { node, newer, owner } => {
                let view = Decider { world, now_ms, owner };
                let subject = view.subject(node)?;
                Ok(view.decision(subject, view.stands(subject, newer)))
            }
            Command::Adopt { node, found, requested_by, owner } => {
                let view = Decider { world, now_ms, owner };
                let subject = view.subject(node)?;
                Ok(view.decision(subject, view.adopt(subject, found, requested_by)?))
            }
            Command::Waits { workflow, token, waiting } => {
                let view = Decider { world, now_ms, owner: "" };
                Ok(Decision::of(view.waits(workflow, *token, waiting)))
            }
            Command::Report { workflow, token, evidence } => {
                let view = Decider { world, now_ms, owner: "" };
                if let Some(id) = CatalogId::of_stream(workflow) {
                    let mut draft = view.catalog_draft(&id)?;
                    draft.report(*token, evidence)?;
                    return Ok(Decision::of(written(&id, draft)));
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
            State::Node(node) => node_projection(stream, node),
            State::Operation(Some(operation)) => operation_projection(operation),
            State::BackupCatalog(catalog) => catalog_projection(stream, catalog),
            State::AddressPool(pool) => pool_projection(pool),
            State::Operation(None)
            | State::Inbox(_)
            | State::Installation(_)
            | State::Engine(_)
            | State::Unknown => Projected::default(),
        }
    }

    fn report(workflow: &StreamId, token: Token, evidence: Evidence) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence }
    }

    fn waits(workflow: &StreamId, token: Token, waiting: Waiting) -> Option<Command> {
        // Backups are few, and repeated by their schedule.
        CatalogId::of_stream(workflow).is_none().then(|| Command::Waits {
            workflow: workflow.clone(),
            token,
            waiting,
        })
    }

    fn expired(workflow: &StreamId, token: Token, because: String) -> Command {
        Command::Report { workflow: workflow.clone(), token, evidence: Evidence::OutOfTime { because } }
    }

    fn timer_due(stream: &StreamId, name: &str) -> Command {
        timers::timer_due(stream, name)
    }

    fn pace(timer: &str) -> Option<Pace> {
        timers::pace(timer)
    }
}
