//! What a restore brings back, and what a deletion keeps.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::SnapshotId;
use crate::model::backup_id::BackupId;
use crate::model::volume::Slot;

/// A backup that volumes are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Which.
    pub backup: BackupId,
    /// Of which moment it is, in milliseconds since the Unix epoch: what was written later is lost.
    pub taken_at_ms: u64,
    /// Its snapshots of the volumes that come back from it. They stay the backup's.
    pub snapshots: BTreeMap<Slot, SnapshotId>,
}

/// What a deletion keeps, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The root volume, and volumes the node has outgrown.
    pub root: bool,
    /// The data volumes.
    pub data: bool,
    /// The node's own interface and so its address (`primary_eni` and `secondary_eni` only).
    pub network: bool,
    /// Images and snapshots of the root.
    pub backups: bool,
}
