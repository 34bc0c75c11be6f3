//! The backups of a node: what could be restored, how old it is, and what fails.

use perennial_workflows::aggregate::backup_catalog::{Backup, Carried, Progress};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::backup_id::BackupId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::spec::backup::BackupSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer of `node backups`, and a part of `node show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupsView {
    /// The node.
    pub node: NodeName,
    /// The schedule; no backups are taken without one.
    pub schedule: Option<BackupSpec>,
    /// How old the newest complete backup is: what a loss of the volumes would cost now. None: everything.
    pub loss_window_ms: Option<u64>,
    /// The backups that are kept and the one under way, newest first.
    pub backups: Vec<BackupLine>,
    /// How many backups have failed in a row, up to now.
    pub failed_in_a_row: u32,
    /// The newest failures, oldest first.
    pub failures: Vec<FailedBackup>,
    /// Snapshots that could not be deleted yet.
    pub pending_deletions: Vec<PendingSnapshot>,
    /// Backups that volumes are being made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldBackup>,
    /// Why no more backups are taken, if they are paused.
    pub paused: Option<String>,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupLine {
    /// Its id.
    pub id: BackupId,
    /// `timed`, `asked`, or `final`: of free volumes, at the end of an instance.
    pub kind: String,
    /// How far it is.
    pub state: Progress,
    /// The moment whose content it has.
    pub taken_at_ms: Option<u64>,
    /// When it was complete.
    pub complete_at_ms: Option<u64>,
    /// How old its content is.
    pub age_ms: u64,
    /// Why it was taken.
    pub cause: String,
    /// The sum of the volumes' sizes, as far as known; the snapshots are incremental and cost less.
    pub size_gib: Option<u64>,
    /// Its volumes.
    pub volumes: Vec<BackedUpVolume>,
}

/// One volume of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackedUpVolume {
    /// `root`, or the name of a data volume.
    pub slot: String,
    /// The volume.
    pub volume: String,
    /// Its snapshot, once it was taken.
    pub snapshot: Option<String>,
    /// Its size, once it is known.
    pub size_gib: Option<u32>,
}

/// A backup that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedBackup {
    /// Its id.
    pub id: BackupId,
    /// When it failed.
    pub at_ms: u64,
    /// Why.
    pub because: String,
}

/// A backup that an open workflow makes volumes from; it is not pruned meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldBackup {
    /// The backup.
    pub backup: BackupId,
    /// The workflow.
    pub by: OperationId,
}

/// A snapshot that could not be deleted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PendingSnapshot {
    /// The snapshot.
    pub snapshot: String,
    /// The backup it was a part of.
    pub of: BackupId,
    /// Why it could not be deleted.
    pub because: String,
}

impl BackupsView {
    /// Makes the view of a node and its backup catalogue.
    #[must_use]
    pub fn new(name: &NodeName, node: &Node, catalog: &Carried, now_ms: u64) -> Self {
        let id = |number| BackupId::new(name.clone(), number);
        let pending = catalog.pending_deletions.iter().filter_map(|(snapshot, pending)| {
            let because = pending.because.clone()?;
            Some(PendingSnapshot { snapshot: snapshot.to_string(), of: id(pending.backup), because })
        });
        let failures = catalog.failures.iter().map(|failure| FailedBackup {
            id: id(failure.backup),
            at_ms: failure.at_ms,
            because: failure.because.clone(),
        });
        Self {
            node: name.clone(),
            schedule: node.spec.as_ref().and_then(|spec| spec.backup).filter(|_| node.exists()),
            loss_window_ms: catalog.last_complete().map(|last| now_ms.saturating_sub(moment(last))),
            backups: catalog
                .backups
                .iter()
                .rev()
                .map(|backup| BackupLine::new(name, backup, now_ms))
                .collect(),
            failed_in_a_row: catalog.failed_in_a_row,
            failures: failures.collect(),
            pending_deletions: pending.collect(),
            held: catalog.holders().map(|(by, of)| HeldBackup { backup: id(of), by: by.clone() }).collect(),
            paused: catalog.paused(),
        }
    }

    /// The newest backup that can be restored.
    #[must_use]
    pub fn last_complete(&self) -> Option<&BackupLine> {
        self.backups.iter().find(|line| line.state == Progress::Complete)
    }
}

impl BackupLine {
    fn new(name: &NodeName, backup: &Backup, now_ms: u64) -> Self {
        let volumes = backup.order.volumes.iter().map(|(slot, volume)| {
            let taken = backup.snapshots.get(slot);
            BackedUpVolume {
                slot: slot.to_string(),
                volume: volume.to_string(),
                snapshot: taken.map(|taken| taken.snapshot.to_string()),
                size_gib: taken.and_then(|taken| taken.size_gib),
            }
        });
        let sizes = backup.snapshots.values().map(|taken| taken.size_gib.map(u64::from));
        Self {
            id: BackupId::new(name.clone(), backup.order.number),
            kind: backup.order.cause.kind().to_owned(),
            state: backup.progress,
            taken_at_ms: backup.taken_at_ms,
            complete_at_ms: backup.complete_at_ms,
            age_ms: now_ms.saturating_sub(moment(backup)),
            cause: backup.order.cause.to_string(),
            size_gib: sizes.sum::<Option<u64>>().filter(|_| !backup.snapshots.is_empty()),
            volumes: volumes.collect(),
        }
    }
}

/// The moment whose content a backup has, as far as it is known.
fn moment(backup: &Backup) -> u64 {
    backup.taken_at_ms.unwrap_or(backup.began_at_ms)
}

/// How a backup ended, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupProgress {
    /// It is under way.
    Running,
    /// It is complete. A backup that was pruned already was complete as well.
    Complete,
    /// It has failed.
    Failed {
        /// Why.
        because: String,
    },
}

impl BackupProgress {
    /// Reads the progress of a backup from its node's catalogue.
    #[must_use]
    pub fn new(id: &BackupId, catalog: &Carried) -> Self {
        if let Some(failure) = catalog.failures.iter().find(|failure| failure.backup == id.number()) {
            return Self::Failed { because: failure.because.clone() };
        }
        match catalog.under_way() {
            Some(backup) if backup.order.number == id.number() => Self::Running,
            _ => Self::Complete,
        }
    }
}
