//! The intents and the evidence of a backup's steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
use crate::model::volume::{TagMap, TakenSnapshot};

/// The whole request of a step of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupIntent {
    /// Takes the snapshots of an instance's volumes, and sees them.
    Take {
        /// Whose volumes.
        instance: InstanceId,
        /// Those that are the node's; whatever else is attached is left out.
        volumes: Vec<VolumeId>,
        /// At creation; `perennial:step` makes them findable.
        tags: TagMap,
    },
    /// Sees them complete.
    Await {
        /// Which.
        snapshots: Vec<SnapshotId>,
    },
    /// Looks for what a take may have made.
    Find {
        /// How many there would be.
        count: usize,
        /// The tags they would have.
        tags: TagMap,
    },
    /// Deletes a snapshot by id.
    Prune {
        /// Which.
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
            // A second in practice. A moment that comes much later than it was to is another one.
            Self::Take { .. } => 10 * MINUTE,
            // A first full snapshot takes hours.
            Self::Await { .. } => 24 * 60 * MINUTE,
            // Absence is believed after minutes only.
            Self::Find { .. } => 30 * MINUTE,
            // Seconds in practice. What cannot be deleted by then is left, listed, and tried again.
            Self::Prune { .. } => 5 * MINUTE,
        }
    }

    /// The step's name, for people; in a backup catalog each belongs to a backup.
    #[must_use]
    pub fn step(&self) -> String {
        match self {
            Self::Take { .. } => "take_backup".to_owned(),
            Self::Await { .. } => "await_backup".to_owned(),
            Self::Find { .. } => "find_backup".to_owned(),
            Self::Prune { snapshot, .. } => format!("prune:{snapshot}"),
        }
    }
}

/// What a step of a backup observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupEvidence {
    /// There is a snapshot of each volume: seen.
    Taken {
        /// One of each volume.
        snapshots: Vec<TakenSnapshot>,
        /// Of which moment, as EC2 says it, in milliseconds since the Unix epoch.
        taken_at_ms: u64,
        /// More of the same, of a call whose answer was lost; they are of no use.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        twins: Vec<SnapshotId>,
    },
    /// There is none.
    NotTaken {
        /// Why.
        because: String,
        /// Whether a call may have worked after all.
        in_doubt: bool,
    },
    /// Every snapshot is complete: seen.
    Complete,
    /// A snapshot has failed, or is gone.
    Broken {
        /// Which and how.
        because: String,
    },
    /// What a take had made; nothing, when it has surely made nothing.
    Found {
        /// Which.
        snapshots: Vec<SnapshotId>,
    },
    /// It is gone: seen twice.
    Pruned,
    /// It is not deleted.
    Kept {
        /// Why.
        because: String,
    },
    /// The step's time is over.
    OutOfTime {
        /// What was waited for.
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
