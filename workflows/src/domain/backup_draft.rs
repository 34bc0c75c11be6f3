//! Decisions about a backup catalog, written down as events.

use std::sync::Arc;

use perennial_engine::domain::Stamp;
use perennial_engine::ids::{Seq, Token};

use crate::aggregate::backup_catalog::{
    BackupCatalog, BackupCause, BackupEvent, BackupOrder, Carried, Refusal, why,
};
use crate::aggregate::node::Node;
use crate::domain::backup_schedule::volumes;
use crate::model::backup_id::BackupId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::operation::state::Operation;
use crate::spec::backup::KEEP_DEFAULT;
use crate::step::backup::{BackupEvidence, BackupIntent};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// A decision about a backup catalog: the events so far and the state after them.
#[derive(Debug, Clone)]
pub struct CatalogDraft {
    node: NodeName,
    /// The state after the events.
    pub state: BackupCatalog,
    /// The events to write.
    pub events: Vec<BackupEvent>,
    seq: Seq,
    now_ms: u64,
}

impl CatalogDraft {
    /// From the state and head of a catalog's stream.
    #[must_use]
    pub fn from(node: &NodeName, state: &BackupCatalog, head: Seq, now_ms: u64) -> Self {
        Self { node: node.clone(), state: state.clone(), events: Vec::new(), seq: head, now_ms }
    }

    fn push(&mut self, event: BackupEvent) -> Result<(), Refusal> {
        self.seq = self.seq.next();
        let stamp = Stamp { seq: self.seq, at_ms: self.now_ms };
        let next = self.state.clone().evolve(stamp, &event);
        self.state = next
            .map_err(|illegal| Refusal::Inconsistent { node: self.node.clone(), why: illegal.to_string() })?;
        self.events.push(event);
        Ok(())
    }

    /// Writes an intent for every rule that holds and has no open step.
    fn intend(&mut self) -> Result<(), Refusal> {
        for (backup, intent, not_before_ms) in self.state.rules() {
            let step = intent.step();
            if self.state.has_open(backup, &step) {
                continue;
            }
            let not_before_ms = not_before_ms.max(self.now_ms);
            self.push(BackupEvent::StepIntended {
                backup,
                step,
                deadline_ms: not_before_ms + intent.budget_ms(),
                intent,
                not_before_ms,
            })?;
        }
        Ok(())
    }

    /// Begins a backup catalog with the previous catalog's knowledge.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn open(&mut self, carried: Carried) -> Result<(), Refusal> {
        self.push(BackupEvent::Opened { carried })
    }

    /// Begins a backup of a node and returns its id.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has asked `cannot_begin`.
    pub fn begin(&mut self, node: &Node, owner: &str, cause: BackupCause) -> Result<BackupId, Refusal> {
        let inconsistent = |why: &str| Refusal::Inconsistent { node: self.node.clone(), why: why.to_owned() };
        let carrier = node.resources.carrier.as_ref().ok_or_else(|| inconsistent("no instance"))?;
        let spec = node.spec.as_ref().ok_or_else(|| inconsistent("no node"))?;
        if !self.state.opened {
            self.open(Carried::default())?;
        }
        let number = self.state.known.newest + 1;
        self.push(BackupEvent::Began(BackupOrder {
            node: self.node.clone(),
            number,
            owner: owner.to_owned(),
            instance: carrier.instance.clone(),
            generation: node.generation,
            volumes: volumes(node),
            keep: spec.backup.map_or(KEEP_DEFAULT, |backup| backup.keep),
            tags: spec.tags.clone(),
            cause,
        }))?;
        self.intend()?;
        Ok(BackupId::new(self.node.clone(), number))
    }

    /// Takes over the final snapshots of an operation, as a backup whose snapshots are not complete yet. An
    /// incomplete set is a failed backup.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has asked `due_task`.
    pub fn inherit(&mut self, node: &Node, from: &Operation) -> Result<(), Refusal> {
        let inconsistent = |why: &str| Refusal::Inconsistent { node: self.node.clone(), why: why.to_owned() };
        let finals = from.finals().ok_or_else(|| inconsistent("no final snapshots"))?;
        let old = from.old().ok_or_else(|| inconsistent("no instance they were taken from"))?;
        if !self.state.opened {
            self.open(Carried::default())?;
        }
        let (number, operation) = (self.state.known.newest + 1, from.id.clone());
        let keep = node.spec.as_ref().and_then(|spec| spec.backup).or(from.order.spec.backup);
        self.push(BackupEvent::Began(BackupOrder {
            node: self.node.clone(),
            number,
            owner: from.order.owner.clone(),
            instance: old.instance.clone(),
            generation: from.order.generation,
            volumes: finals.volumes,
            keep: keep.map_or(KEEP_DEFAULT, |backup| backup.keep),
            tags: from.order.spec.tags.clone(),
            cause: BackupCause::Final { operation: operation.clone() },
        }))?;
        let taken_at_ms = finals.taken_at_ms.min(self.now_ms);
        self.push(BackupEvent::Inherited {
            backup: number,
            operation,
            snapshots: finals.taken,
            taken_at_ms,
        })?;
        if let Some(because) = finals.because {
            self.push(BackupEvent::Failed { backup: number, because })?;
        }
        self.intend()
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when the token is not open.
    pub fn report(&mut self, token: Token, evidence: &Evidence) -> Result<(), Refusal> {
        let Some(record) = self.state.steps.get(&token) else {
            return Err(Refusal::Fenced { node: self.node.clone(), token });
        };
        let (backup, step, intent) = (record.backup, record.step.clone(), Arc::clone(&record.intent));
        let evidence = of_a_backup(&intent, evidence);
        self.push(BackupEvent::StepSettled { token, step, evidence: evidence.clone() })?;
        match (intent.as_ref(), &evidence) {
            (Intent::Backup(BackupIntent::Take { .. }), BackupEvidence::Taken { snapshots, .. }) => {
                let all = &self.state.known.backups;
                let taken = all.iter().find(|known| known.order.number == backup);
                let wanted = taken.map_or(0, |backup| backup.order.volumes.len());
                let of = taken.map_or(0, |backup| backup.snapshots.len());
                if of < wanted {
                    let because =
                        format!("only {of} of {wanted} volumes are in {} snapshots", snapshots.len());
                    self.push(BackupEvent::Failed { backup, because })?;
                }
            }
            (Intent::Backup(BackupIntent::Await { .. }), BackupEvidence::Complete) => {
                self.push(BackupEvent::Completed { backup })?;
            }
            (Intent::Backup(BackupIntent::Take { .. } | BackupIntent::Await { .. }), evidence) => {
                self.push(BackupEvent::Failed { backup, because: why(evidence) })?;
            }
            _ => {}
        }
        self.intend()
    }

    /// Holds a complete backup that volumes are made from.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has seen it complete.
    pub fn hold(&mut self, backup: u64, by: OperationId) -> Result<(), Refusal> {
        self.push(BackupEvent::Held { backup, by })
    }

    /// Releases the hold; backups beyond the number to keep are pruned.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug: the caller has seen it held.
    pub fn release_hold(&mut self, by: OperationId) -> Result<(), Refusal> {
        self.push(BackupEvent::HoldReleased { by })?;
        self.intend()
    }

    /// Gives up all backups.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn give_up(&mut self, because: &str) -> Result<(), Refusal> {
        if self.state.known.under_way().is_some() {
            return Ok(());
        }
        self.push(BackupEvent::GivenUp { because: because.to_owned() })?;
        self.intend()
    }

    /// Ends the backup catalog; the next one continues with its knowledge.
    ///
    /// # Errors
    /// [`Refusal::Inconsistent`], a bug.
    pub fn close(&mut self, next: u64) -> Result<Carried, Refusal> {
        self.push(BackupEvent::Closed { next })?;
        Ok(self.state.known.clone())
    }
}

/// Translates a worker's evidence into evidence of a backup.
fn of_a_backup(intent: &Intent, evidence: &Evidence) -> BackupEvidence {
    let takes = matches!(intent, Intent::Backup(BackupIntent::Take { .. }));
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
