//! Wake hints: AWS's events about volumes, snapshots and instances that a step may be waiting for.
//!
//! A hint decides nothing. It lets a step that sleeps between two looks look at once; the look gives the
//! evidence. So hints are not inbox entries: none is written to the journal, and a lost one costs only a
//! pause.

use std::collections::BTreeSet;

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};

/// The resources that an event was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeHint {
    /// A volume was created, failed to be created, could not be attached, or changed.
    Volume {
        /// The volume.
        volume: VolumeId,
    },
    /// Snapshots are complete, or failed.
    Snapshots {
        /// The snapshots.
        snapshots: BTreeSet<SnapshotId>,
        /// Their volumes.
        volumes: BTreeSet<VolumeId>,
    },
    /// An instance has another state.
    Instance {
        /// The instance.
        instance: InstanceId,
    },
}

impl WakeHint {
    /// Whether it is about this volume.
    #[must_use]
    pub fn is_about_volume(&self, volume: &VolumeId) -> bool {
        matches!(self, Self::Volume { volume: of } if of == volume)
    }

    /// Whether it is about the state of this instance.
    #[must_use]
    pub fn is_about_instance(&self, instance: &InstanceId) -> bool {
        matches!(self, Self::Instance { instance: of } if of == instance)
    }
}
