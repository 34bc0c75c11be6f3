//! The backup that a restore uses, and the classes that a deletion keeps.

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
    /// The backup.
    pub backup: BackupId,
    /// Its moment, in milliseconds since the Unix epoch: later writes are lost.
    pub taken_at_ms: u64,
    /// Its snapshots of the restored volumes. They stay the backup's.
    pub snapshots: BTreeMap<Slot, SnapshotId>,
}

/// The classes of resources that a deletion keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The root volume, and retained volumes.
    pub root: bool,
    /// The data volumes.
    pub data: bool,
    /// The node's own interface and so its address (`primary_eni` and `secondary_eni` only).
    pub network: bool,
    /// Images and snapshots of the root.
    pub backups: bool,
}
