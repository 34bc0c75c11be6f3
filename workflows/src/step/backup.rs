//! The intents and the evidence of a backup's steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
use crate::model::volume::{TagMap, TakenSnapshot};
use crate::step::name::{Only, StepName};

/// The whole request of a step of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupIntent {
    /// Takes the snapshots of an instance's volumes, and sees them.
    Take {
        /// The instance.
        instance: InstanceId,
        /// The node's volumes; other attached volumes are left out.
        volumes: Vec<VolumeId>,
        /// At creation; `perennial:step` makes them findable.
        tags: TagMap,
    },
    /// Sees them complete.
    Await {
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
    },
    /// Looks for snapshots that a take may have made.
    Find {
        /// How many there would be.
        count: usize,
        /// The tags they would have.
        tags: TagMap,
        /// When the take was intended, in milliseconds since the Unix epoch: what is older, it has not made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        intended_at_ms: Option<u64>,
    },
    /// Deletes a snapshot by id.
    Prune {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The tags it must have.
        own: TagMap,
    },
}

impl BackupIntent {
    /// How long the step may take, in milliseconds.
    #[must_use]
    pub const fn budget_ms(&self) -> u64 {
        const MINUTE: u64 = 60_000;
        match self {
            // A second in practice. If the call comes much later than planned, the moment of the backup is
            // another one.
            Self::Take { .. } => 10 * MINUTE,
            // A first full snapshot takes hours.
            Self::Await { .. } => 24 * 60 * MINUTE,
            // Absence is believed only after minutes.
            Self::Find { .. } => 30 * MINUTE,
            // Seconds in practice. A snapshot that cannot be deleted by then stays listed, and the deletion
            // is tried again.
            Self::Prune { .. } => 5 * MINUTE,
        }
    }

    /// The step's name, for people; in a backup catalog each step belongs to a backup.
    #[must_use]
    pub fn step(&self) -> StepName {
        match self {
            Self::Take { .. } => Only::TakeBackup.into(),
            Self::Await { .. } => Only::AwaitBackup.into(),
            Self::Find { .. } => Only::FindBackup.into(),
            Self::Prune { snapshot, .. } => StepName::Prune(snapshot.clone()),
        }
    }
}

/// What a step of a backup observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupEvidence {
    /// Each volume has a snapshot: seen.
    Taken {
        /// One snapshot of each volume.
        snapshots: Vec<TakenSnapshot>,
        /// The moment they are of, as EC2 reports it, in milliseconds since the Unix epoch.
        taken_at_ms: u64,
        /// Superfluous snapshots of a call whose answer was lost.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        twins: Vec<SnapshotId>,
    },
    /// No snapshot was taken.
    NotTaken {
        /// Why.
        because: String,
        /// Whether a call may have worked after all.
        in_doubt: bool,
    },
    /// Every snapshot is complete: seen.
    Complete,
    /// A snapshot has failed, or no longer exists.
    Broken {
        /// Which snapshot, and how.
        because: String,
    },
    /// The snapshots that a take had made; empty when it certainly made none.
    Found {
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
    },
    /// The snapshot is deleted: absent in two reads.
    Pruned,
    /// The snapshot is not deleted.
    Kept {
        /// Why.
        because: String,
    },
    /// The step's time is over.
    OutOfTime {
        /// What the step waited for.
        because: String,
    },
}

impl std::fmt::Display for BackupEvidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken { snapshots, .. } => write!(f, "{} snapshots of one moment", snapshots.len()),
            Self::NotTaken { because, in_doubt: false } => write!(f, "not taken: {because}"),
            Self::NotTaken { because, in_doubt: true } => write!(f, "perhaps not taken: {because}"),
            Self::Complete => f.write_str("complete"),
            Self::Broken { because } => write!(f, "of no use: {because}"),
            Self::Found { snapshots } if snapshots.is_empty() => f.write_str("it has made nothing"),
            Self::Found { snapshots } => write!(f, "it has made {} snapshots", snapshots.len()),
            Self::Pruned => f.write_str("gone"),
            Self::Kept { because } => write!(f, "not deleted: {because}"),
            Self::OutOfTime { because } => write!(f, "out of time: {because}"),
        }
    }
}
