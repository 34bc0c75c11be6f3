//! Decisions about a backup catalog, written down as events.

use std::fmt;

use perennial_engine::domain::{Append, Illegal, Stamp};
use perennial_engine::ids::{Seq, StreamId, Token};
use perennial_engine::machine::{Due, Intended, Machine, StepRecord, Workflow};

use crate::aggregate::backup_catalog::{
    BackupCatalog, BackupCause, BackupEvent, BackupOrder, BackupSchedule, BackupStep, Carried, Refusal, why,
};
use crate::aggregate::node::Node;
use crate::domain::backup_schedule::volumes;
use crate::model::backup_id::BackupId;
use crate::model::installation::Mark;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::operation::state::Operation;
use crate::rules::final_snapshot::Finals;
use crate::rules::urgency;
use crate::spec::backup::KEEP_DEFAULT;
use crate::step::backup::{BackupEvidence, BackupIntent};
use crate::step::evidence::Evidence;

/// What may be asked of a backup catalog.
#[derive(Debug, Clone)]
pub enum BackupCommand {
    /// Begin with what the last catalog knew.
    Open(Carried),
    /// Say when backups are due.
    Schedule(Option<BackupSchedule>),
    /// Begin a backup.
    Begin(BackupOrder),
    /// Take over the final snapshots of an operation, as a backup that is being copied.
    Inherit(Box<Inheritance>),
    /// Hold a complete backup that volumes are made from.
    Hold {
        /// Which.
        backup: u64,
        /// For which operation.
        by: OperationId,
    },
    /// Let go what an operation holds.
    ReleaseHold {
        /// Which.
        by: OperationId,
    },
    /// Give up all backups.
    GiveUp {
        /// Why.
        because: String,
    },
    /// End the catalog.
    Close {
        /// The number of the next one.
        next: u64,
    },
}

/// The final snapshots of an operation, and the backup they become.
#[derive(Debug, Clone)]
pub struct Inheritance {
    /// The backup.
    pub order: BackupOrder,
    /// The operation.
    pub operation: OperationId,
    /// Its snapshots.
    pub finals: Finals,
}

impl Workflow for BackupCatalog {
    const KIND: &'static str = "the backups of";
    type Id = NodeName;
    type Command = BackupCommand;
    type Event = BackupEvent;
    type State = Self;
    type Step = BackupStep;
    type Intent = BackupIntent;
    type Evidence = Evidence;
    type Rejection = Refusal;

    fn decide(machine: &mut Machine<Self>, command: BackupCommand) -> Result<(), Refusal> {
        match command {
            BackupCommand::Open(carried) => machine.push(BackupEvent::Opened { carried })?,
            BackupCommand::Schedule(schedule) => {
                open(machine)?;
                machine.push(BackupEvent::Scheduled { schedule })?;
            }
            BackupCommand::Begin(order) => {
                begin(machine, order)?;
                machine.intend()?;
            }
            BackupCommand::Inherit(inheritance) => inherit(machine, *inheritance)?,
            BackupCommand::Hold { backup, by } => machine.push(BackupEvent::Held { backup, by })?,
            BackupCommand::ReleaseHold { by } => {
                machine.push(BackupEvent::HoldReleased { by })?;
                machine.intend()?;
            }
            BackupCommand::GiveUp { .. } if machine.state().known.under_way().is_some() => {}
            BackupCommand::GiveUp { because } => {
                machine.push(BackupEvent::GivenUp { because })?;
                machine.intend()?;
            }
            BackupCommand::Close { next } => machine.push(BackupEvent::Closed { next })?,
        }
        Ok(())
    }

    fn settle(
        machine: &mut Machine<Self>,
        token: Token,
        record: &StepRecord<BackupStep, BackupIntent>,
        evidence: Evidence,
    ) -> Result<(), Refusal> {
        let BackupStep { backup, name: step } = record.step.clone();
        let evidence = of_a_backup(&record.intent, &evidence);
        machine.push(BackupEvent::StepSettled { token, step, evidence: evidence.clone() })?;
        let follows = match (record.intent.as_ref(), &evidence) {
            (BackupIntent::Take { .. }, BackupEvidence::Taken { snapshots, .. }) => {
                missing(machine.state(), backup, snapshots.len())
                    .map(|because| BackupEvent::Failed { backup, because })
            }
            (BackupIntent::Await { .. }, BackupEvidence::Complete) => Some(BackupEvent::Completed { backup }),
            (BackupIntent::Take { .. } | BackupIntent::Await { .. }, evidence) => {
                Some(BackupEvent::Failed { backup, because: why(evidence) })
            }
            (BackupIntent::Find { .. } | BackupIntent::Prune { .. }, _) => None,
        };
        if let Some(event) = follows {
            machine.push(event)?;
        }
        Ok(machine.intend()?)
    }

    fn evolve(state: Self, stamp: Stamp, event: &BackupEvent) -> Result<Self, Illegal> {
        state.evolve(stamp, event)
    }

    fn due(state: &Self) -> Vec<Due<BackupStep, BackupIntent>> {
        state.due()
    }

    fn intended(_: &Self, intended: Intended<BackupStep, BackupIntent>) -> BackupEvent {
        BackupEvent::StepIntended {
            backup: intended.step.backup,
            step: intended.step.name,
            intent: intended.intent,
            not_before_ms: intended.not_before_ms,
            deadline_ms: intended.deadline_ms,
        }
    }

    /// Another backup follows, and what is left over is listed.
    fn is_optional(_: &Self, _: &StepRecord<BackupStep, BackupIntent>) -> bool {
        true
    }

    fn priority(_: &Self, _: &StepRecord<BackupStep, BackupIntent>) -> i32 {
        urgency::BACKS_UP
    }

    fn under_way(state: &Self) -> impl Iterator<Item = (Token, &StepRecord<BackupStep, BackupIntent>)> {
        state.steps.iter().map(|(token, record)| (*token, record))
    }

    fn is_running(_: &Self) -> bool {
        true
    }
}

fn open(machine: &mut Machine<BackupCatalog>) -> Result<(), Refusal> {
    if !machine.state().opened {
        machine.push(BackupEvent::Opened { carried: Carried::default() })?;
    }
    Ok(())
}

fn begin(machine: &mut Machine<BackupCatalog>, order: BackupOrder) -> Result<(), Refusal> {
    open(machine)?;
    Ok(machine.push(BackupEvent::Began(order))?)
}

fn inherit(machine: &mut Machine<BackupCatalog>, inheritance: Inheritance) -> Result<(), Refusal> {
    let Inheritance { order, operation, finals } = inheritance;
    let backup = order.number;
    begin(machine, order)?;
    machine.push(BackupEvent::Inherited {
        backup,
        operation,
        snapshots: finals.taken,
        taken_at_ms: finals.taken_at_ms.min(machine.now_ms()),
    })?;
    if let Some(because) = finals.because {
        machine.push(BackupEvent::Failed { backup, because })?;
    }
    Ok(machine.intend()?)
}

/// Which volumes of a backup have no snapshot, in words.
fn missing(catalog: &BackupCatalog, backup: u64, snapshots: usize) -> Option<String> {
    let taken = catalog.known.backups.iter().find(|known| known.order.number == backup);
    let wanted = taken.map_or(0, |backup| backup.order.volumes.len());
    let of = taken.map_or(0, |backup| backup.snapshots.len());
    (of < wanted).then(|| format!("only {of} of {wanted} volumes are in {snapshots} snapshots"))
}

/// A decision about a backup catalog in the making. After a refusal it is of no use any more.
pub struct CatalogDraft(Machine<BackupCatalog>);

impl fmt::Debug for CatalogDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogDraft").field("node", self.0.id()).field("events", &self.0.events()).finish()
    }
}

impl CatalogDraft {
    /// From the state and head of a catalog's stream.
    #[must_use]
    pub fn from(node: &NodeName, state: &BackupCatalog, head: Seq, now_ms: u64) -> Self {
        Self(Machine::from(node.clone(), state.clone(), head, now_ms))
    }

    /// The state after the events so far.
    #[must_use]
    pub fn state(&self) -> &BackupCatalog {
        self.0.state()
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> &[BackupEvent] {
        self.0.events()
    }

    /// The events, and the state after them, for the catalog's stream; `None` when nothing has happened.
    #[must_use]
    pub fn into_append<E, S>(
        self,
        stream: StreamId,
        event: impl FnMut(BackupEvent) -> E,
        state: impl FnOnce(BackupCatalog) -> S,
    ) -> Option<Append<E, S>> {
        self.0.into_append(stream, event, state)
    }

    fn decide(&mut self, command: BackupCommand) -> Result<(), Refusal> {
        BackupCatalog::decide(&mut self.0, command)
    }

    fn inconsistent(&self, why: &str) -> Refusal {
        Refusal::Inconsistent { node: self.0.id().clone(), why: why.to_owned() }
    }

    /// Begins a backup catalog with the previous catalog's knowledge.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn open(&mut self, carried: Carried) -> Result<(), Refusal> {
        self.decide(BackupCommand::Open(carried))
    }

    /// Says when backups are due from now on.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn schedule(&mut self, schedule: Option<BackupSchedule>) -> Result<(), Refusal> {
        self.decide(BackupCommand::Schedule(schedule))
    }

    /// Begins a backup of a node and returns its id.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has asked `cannot_begin`.
    pub fn begin(
        &mut self,
        node: &Node,
        owner: &str,
        installation: Option<Mark>,
        cause: BackupCause,
    ) -> Result<BackupId, Refusal> {
        let carrier = node.resources.carrier.as_ref().ok_or_else(|| self.inconsistent("no instance"))?;
        let spec = node.spec.as_ref().ok_or_else(|| self.inconsistent("no node"))?;
        let (name, number) = (self.0.id().clone(), self.state().known.newest + 1);
        self.decide(BackupCommand::Begin(BackupOrder {
            node: name.clone(),
            number,
            owner: owner.to_owned(),
            installation,
            instance: carrier.instance.clone(),
            generation: node.generation,
            volumes: volumes(node),
            keep: spec.backup.map_or(KEEP_DEFAULT, |backup| backup.keep),
            tags: spec.tags.clone(),
            cause,
        }))?;
        Ok(BackupId::new(name, number))
    }

    /// Takes over the final snapshots of an operation, as a backup whose snapshots are not complete yet. An
    /// incomplete set is a failed backup.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has asked `due_task`.
    pub fn inherit(&mut self, node: &Node, from: &Operation) -> Result<(), Refusal> {
        let finals = from.finals().ok_or_else(|| self.inconsistent("no final snapshots"))?;
        let old = from.old().ok_or_else(|| self.inconsistent("no instance they were taken from"))?;
        let keep = node.spec.as_ref().and_then(|spec| spec.backup).or(from.order.spec.backup);
        let order = BackupOrder {
            node: self.0.id().clone(),
            number: self.state().known.newest + 1,
            owner: from.order.owner.clone(),
            installation: from.order.installation.clone(),
            instance: old.instance.clone(),
            generation: from.order.generation,
            volumes: finals.volumes.clone(),
            keep: keep.map_or(KEEP_DEFAULT, |backup| backup.keep),
            tags: from.order.spec.tags.clone(),
            cause: BackupCause::Final { operation: from.id.clone() },
        };
        self.decide(BackupCommand::Inherit(Box::new(Inheritance {
            order,
            operation: from.id.clone(),
            finals,
        })))
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when the token is not open.
    pub fn report(&mut self, token: Token, evidence: &Evidence) -> Result<(), Refusal> {
        self.0.report(token, evidence.clone())
    }

    /// Holds a complete backup that volumes are made from.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has seen it complete.
    pub fn hold(&mut self, backup: u64, by: OperationId) -> Result<(), Refusal> {
        self.decide(BackupCommand::Hold { backup, by })
    }

    /// Releases the hold; backups beyond the number to keep are pruned.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has seen it held.
    pub fn release_hold(&mut self, by: OperationId) -> Result<(), Refusal> {
        self.decide(BackupCommand::ReleaseHold { by })
    }

    /// Gives up all backups.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn give_up(&mut self, because: &str) -> Result<(), Refusal> {
        self.decide(BackupCommand::GiveUp { because: because.to_owned() })
    }

    /// Ends the backup catalog; the next one continues with its knowledge.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn close(&mut self, next: u64) -> Result<Carried, Refusal> {
        self.decide(BackupCommand::Close { next })?;
        Ok(self.state().known.clone())
    }
}

/// A worker's evidence in a backup's words.
fn of_a_backup(intent: &BackupIntent, evidence: &Evidence) -> BackupEvidence {
    let takes = matches!(intent, BackupIntent::Take { .. });
    match evidence {
        Evidence::Backup(evidence) => evidence.clone(),
        Evidence::OutOfTime { because } => BackupEvidence::OutOfTime { because: because.clone() },
        Evidence::InstanceGone { instance, state, .. } if takes => {
            let state = state.map_or_else(|| "not known any more".to_owned(), |state| state.to_string());
            BackupEvidence::NotTaken { because: format!("{instance} is {state}"), in_doubt: true }
        }
        Evidence::Refused { code, message } if takes => {
            BackupEvidence::NotTaken { because: format!("{code}: {message}"), in_doubt: true }
        }
        Evidence::Refused { code, message } => BackupEvidence::Kept { because: format!("{code}: {message}") },
        other => BackupEvidence::Kept { because: format!("BUG: the worker answered {other:?}") },
    }
}
