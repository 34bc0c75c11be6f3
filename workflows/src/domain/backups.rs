//! Commands about a node's backups: what is due, what is asked for, what a restore holds.

use std::collections::BTreeMap;

use perennial_engine::domain::Append;

use crate::aggregate::backup_catalog;
use crate::aggregate::backup_catalog::{BackupCatalog, BackupCause};
use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::NodeEvent;
use crate::domain::backup_draft::CatalogDraft;
use crate::domain::backup_schedule::BackupTask;
use crate::domain::command::Rejection;
use crate::domain::decider::{Answer, Appends, Decider, Held, Subject, Written};
use crate::domain::keys::UNDER_WAY_KEY;
use crate::domain::states::{Event, State};
use crate::domain::{backup_schedule, restore};
use crate::machine::decide::Draft;
use crate::model::aws::SnapshotId;
use crate::model::backup_id::{BackupId, CatalogId};
use crate::model::operation_id::OperationId;
use crate::model::restore::Restore;
use crate::model::signal::Cause;
use crate::model::volume::Slot;
use crate::operation::facts::Granted;
use crate::operation::state::Status;
use crate::rules::capacity;
use crate::spec::node::{NodeSpec, RootMode};

/// How many scheduled backups are under way in the whole installation: a quarter of the steps a dispatcher
/// has in hand, so that those of interruptions always find room. Those that begin at the same moment may
/// exceed it by a few.
const UNDER_WAY_MAX: usize = 1_000;

impl Decider<'_> {
    /// A backup catalog in its present state.
    fn catalog(&self, id: &CatalogId) -> Result<&BackupCatalog, Rejection> {
        match self.world.get(&id.stream()) {
            Some(State::BackupCatalog(catalog)) => Ok(catalog),
            _ => Err(Rejection::WrongStream { stream: id.stream() }),
        }
    }

    /// Its next events.
    pub(crate) fn catalog_draft(&self, id: &CatalogId) -> Result<CatalogDraft, Rejection> {
        Ok(CatalogDraft::from(id.node(), self.catalog(id)?, self.head(&id.stream()), self.now_ms))
    }

    /// What is due about the backups of a node.
    pub(crate) fn reconcile_backups(&self, subject: Subject<'_>) -> Result<Appends, Rejection> {
        let Subject { name, node } = subject;
        let id = self.present_catalog(name);
        let catalog = self.catalog(&id)?;
        if let Some(over) = catalog.known.holds.keys().find(|by| self.is_over(by)) {
            return self.release_hold(&id, over);
        }
        let (mut draft, last) = (self.catalog_draft(&id)?, self.newest_operation(subject));
        let mut told = None;
        match backup_schedule::due_task(node, last, name, catalog, self.now_ms) {
            // The node's deletion is not done: its backups go later.
            BackupTask::Nothing if backup_schedule::gives_up(node, last, catalog) => return Ok(Vec::new()),
            BackupTask::Nothing => told = self.tell(subject, catalog, &mut draft)?,
            BackupTask::Begin { .. } => {
                told = self.tell(subject, catalog, &mut draft)?;
                if self.world.lookup(UNDER_WAY_KEY).len() < UNDER_WAY_MAX {
                    draft.begin(node, self.owner, self.mark(), BackupCause::Schedule)?;
                } else if told.is_none() && draft.events().is_empty() {
                    let why = format!("{UNDER_WAY_MAX} backups are under way");
                    return Err(Rejection::NotNow { node: name.clone(), why });
                }
            }
            BackupTask::Inherit { operation } => {
                let unknown = || Rejection::NoSuchOperation { name: operation.to_string() };
                draft.inherit(node, self.operation(&operation).ok_or_else(unknown)?)?;
            }
            BackupTask::GiveUp => draft.give_up("the node was deleted, its backups with it")?,
            BackupTask::Rescue { backup } => {
                return self.rescue(subject, BackupId::new(name.clone(), backup));
            }
            BackupTask::RollOver => {
                let next = id.next();
                let mut opened = self.catalog_draft(&next)?;
                opened.open(draft.close(next.number())?)?;
                return Ok(written(&id, draft).into_iter().chain(written(&next, opened)).collect());
            }
        }
        Ok(written(&id, draft).into_iter().chain(told).collect())
    }

    /// Tells a catalog what it has to know of its node, and the node that it was told.
    fn tell(
        &self,
        subject: Subject<'_>,
        catalog: &BackupCatalog,
        draft: &mut CatalogDraft,
    ) -> Result<Option<Written>, Rejection> {
        if let Some(schedule) = backup_schedule::to_schedule(subject.node, catalog, self.owner) {
            draft.schedule(schedule)?;
        }
        let told = Event::Node(NodeEvent::BackupsReconciled {});
        Ok(subject.node.catalog_is_behind.then(|| Append::new(subject.stream(), vec![told])))
    }

    fn is_over(&self, id: &OperationId) -> bool {
        self.operation(id).is_some_and(|operation| matches!(operation.status, Status::Finished { .. }))
    }

    /// A backup is held no longer: what was made from it is made, or given up.
    fn release_hold(&self, id: &CatalogId, over: &OperationId) -> Result<Appends, Rejection> {
        let mut draft = self.catalog_draft(id)?;
        draft.release_hold(over.clone())?;
        Ok(written(id, draft).into_iter().collect())
    }

    /// What a new node is made from, and the append that holds it.
    pub(crate) fn hold(
        &self,
        subject: Subject<'_>,
        spec: &NodeSpec,
        from: &BackupId,
    ) -> Result<Result<Held, String>, Rejection> {
        let id = self.present_catalog(from.node());
        let (source, catalog) = (self.node(from.node())?, self.catalog(&id)?);
        let backup = catalog.known.backups.iter().find(|backup| backup.order.number == from.number());
        let restore = match restore::restore(spec, from, backup, source) {
            Ok(restore) => restore,
            Err(because) => return Ok(Err(because)),
        };
        let mut draft = self.catalog_draft(&id)?;
        draft.hold(from.number(), subject.next())?;
        Ok(written(&id, draft).map(|held| (restore, held)).ok_or_else(|| "BUG: nothing is held".to_owned()))
    }

    /// The root that is lost comes back from a backup; nothing else is given up.
    fn rescue(&self, subject: Subject<'_>, backup: BackupId) -> Result<Appends, Rejection> {
        let not_now = |why: String| Rejection::NotNow { node: subject.name.clone(), why };
        let operation =
            self.stuck(subject).ok_or_else(|| not_now("no workflow of it is stuck".to_owned()))?;
        let spec = subject.node.spec.clone().ok_or_else(|| subject.unknown())?;
        let restore = self.restorable(subject, &backup, &[Slot::Root]).map_err(not_now)?;
        let mut draft = Draft::from(operation, self.head(&operation.id.stream()), self.now_ms);
        let held = self.hold_own(subject, &restore, &operation.id)?;
        draft.resume_with(
            capacity::BY_ITSELF.to_owned(),
            vec![Slot::Root],
            spec,
            Granted::default(),
            Some(restore),
        )?;
        let mut appends = self.close(draft)?;
        appends.extend(held);
        Ok(appends)
    }

    /// The append that holds a backup from which volumes of its own node are made. Otherwise a backup that
    /// completes meanwhile would prune it.
    pub(crate) fn hold_own(
        &self,
        subject: Subject<'_>,
        restore: &Restore,
        by: &OperationId,
    ) -> Result<Option<Written>, Rejection> {
        let id = self.present_catalog(subject.name);
        let catalog = self.catalog(&id)?;
        if catalog.known.is_held_by(restore.backup.number(), by) {
            return Ok(None);
        }
        let mut draft = self.catalog_draft(&id)?;
        draft.hold(restore.backup.number(), by.clone())?;
        Ok(written(&id, draft))
    }

    /// A backup is asked for now.
    pub(crate) fn back_up(&self, subject: Subject<'_>, cause: Cause) -> Answer {
        let id = self.present_catalog(subject.name);
        let catalog = self.catalog(&id)?;
        if let Some(under_way) = catalog.known.under_way() {
            let backup = BackupId::new(subject.name.clone(), under_way.order.number);
            return Ok((Disposition::Noted { because: format!("backup {backup} is under way") }, Vec::new()));
        }
        let last = self.open(subject);
        let node = subject.node;
        if let Some(because) =
            catalog.known.paused().or_else(|| backup_schedule::cannot_begin(node, last, catalog))
        {
            return Ok((Disposition::Rejected { because }, Vec::new()));
        }
        let mut draft = self.catalog_draft(&id)?;
        let backup = draft.begin(node, self.owner, self.mark(), BackupCause::Asked { cause })?;
        Ok((Disposition::BackupBegan { backup }, written(&id, draft).into_iter().collect()))
    }

    /// What can be made from a backup, if it is complete and has what is wanted.
    pub(crate) fn restorable(
        &self,
        subject: Subject<'_>,
        wanted: &BackupId,
        only: &[Slot],
    ) -> Result<Restore, String> {
        let Subject { name, node } = subject;
        let catalog =
            self.catalog(&self.present_catalog(subject.name)).map_err(|rejection| rejection.to_string())?;
        let found = catalog.known.backups.iter().find(|backup| backup.order.number == wanted.number());
        let Some(backup) = found.filter(|_| wanted.node() == name) else {
            return Err(format!("there is no backup {wanted}; see `perennial node backups {name}`"));
        };
        let (backup_catalog::Progress::Complete, Some(taken_at_ms)) = (backup.progress, backup.taken_at_ms)
        else {
            return Err(format!("backup {wanted} is not complete; see `perennial node backups {name}`"));
        };
        // A newer backup that completes meanwhile could prune it.
        if let Some(under_way) = catalog.known.under_way() {
            let under_way = BackupId::new(name.clone(), under_way.order.number);
            return Err(format!("backup {under_way} is under way; ask again when it is complete"));
        }
        let keeps_root = node.spec.as_ref().is_some_and(|spec| spec.persist.root != RootMode::None);
        if let Some(missing) = only.iter().find(|slot| !backup.snapshots.contains_key(slot)) {
            return Err(format!("backup {wanted} has no snapshot of {missing}"));
        }
        let snapshots: BTreeMap<Slot, SnapshotId> = backup
            .snapshots
            .iter()
            .filter(|(slot, _)| only.is_empty() || only.contains(slot))
            .filter(|(slot, _)| match slot {
                Slot::Root => keeps_root,
                Slot::Data(_) => node.resources.volumes.contains_key(slot),
            })
            .map(|(slot, taken)| (slot.clone(), taken.snapshot.clone()))
            .collect();
        if snapshots.is_empty() {
            return Err(format!("backup {wanted} has nothing that the node keeps"));
        }
        Ok(Restore { backup: wanted.clone(), taken_at_ms, snapshots })
    }
}

/// What a draft writes; nothing when nothing has happened.
pub(crate) fn written(id: &CatalogId, draft: CatalogDraft) -> Option<Written> {
    draft.into_append(id.stream(), Event::Backup, State::BackupCatalog)
}
