//! Wake hints: AWS's events about volumes, snapshots and instances that a step may be waiting for.
//!
//! A hint decides nothing. It lets a step that sleeps between two looks look at once; the look gives the
//! evidence. So hints are not inbox entries: none is written to the journal, and a lost one costs only a
//! pause.

use std::collections::BTreeSet;

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
use crate::step::backup::BackupIntent;
use crate::step::intent::Intent;

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
    /// Whether a step with this request may be waiting for it. A superfluous look is better than a late one.
    #[must_use]
    pub fn concerns(&self, intent: &Intent) -> bool {
        match self {
            Self::Instance { instance } => instance_of(intent) == Some(instance),
            Self::Volume { volume } => match intent {
                // The request of a volume that is being created does not know its id yet; there are few of
                // them.
                Intent::CreateVolume { .. } | Intent::CloneRoot { .. } => true,
                Intent::ClaimVolume { volume: of, .. }
                | Intent::Attach { volume: of, .. }
                | Intent::Detach { volume: of, .. }
                | Intent::Release { volume: of, .. }
                | Intent::AdoptRoot { volume: of, .. }
                | Intent::Grow { volume: of, .. }
                | Intent::DeleteVolume { volume: of, .. } => of == volume,
                _ => false,
            },
            Self::Snapshots { snapshots, volumes } => match intent {
                Intent::SnapshotRoot { volume, .. } | Intent::SnapshotVolume { volume, .. } => {
                    volumes.contains(volume)
                }
                Intent::Backup(BackupIntent::Await { snapshots: awaited }) => {
                    awaited.iter().any(|awaited| snapshots.contains(awaited))
                }
                Intent::RegisterImage { snapshot, .. } => snapshots.contains(snapshot),
                _ => false,
            },
        }
    }
}

/// The instance whose state a step waits for.
fn instance_of(intent: &Intent) -> Option<&InstanceId> {
    match intent {
        Intent::Fence { instance, .. } | Intent::Start { instance, .. } => Some(instance),
        // Resources on an ending instance become free a little later than it ends: a look then comes soon
        // enough.
        Intent::Release { from, .. } | Intent::ReleaseInterface { from, .. } => Some(from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::volume::Slot;

    #[test]
    fn a_hint_concerns_the_steps_that_wait_for_what_it_is_about_and_no_others() {
        let volume = |text: &str| VolumeId::parse(text).unwrap();
        let snapshot = |text: &str| SnapshotId::parse(text).unwrap();
        let instance = |text: &str| InstanceId::parse(text).unwrap();
        let root = Intent::SnapshotRoot { volume: volume("vol-1"), tags: Default::default() };
        let set =
            Intent::Backup(BackupIntent::Await { snapshots: vec![snapshot("snap-1"), snapshot("snap-2")] });
        let start = Intent::Start { instance: instance("i-1"), devices: vec![] };
        let attach = Intent::Attach {
            slot: Slot::Root,
            volume: volume("vol-1"),
            instance: instance("i-1"),
            device: "/dev/sdf".into(),
        };
        let steps = [&root, &set, &start, &attach];
        let concerned = |hint: WakeHint| steps.map(|intent| hint.concerns(intent));
        let of = |snap: &str, vol: &str| WakeHint::Snapshots {
            snapshots: [snapshot(snap)].into(),
            volumes: [volume(vol)].into(),
        };
        assert_eq!(concerned(of("snap-2", "vol-1")), [true, true, false, false]);
        assert_eq!(concerned(of("snap-3", "vol-3")), [false; 4]);
        assert_eq!(concerned(WakeHint::Volume { volume: volume("vol-1") }), [false, false, false, true]);
        assert_eq!(concerned(WakeHint::Volume { volume: volume("vol-2") }), [false; 4]);
        assert_eq!(concerned(WakeHint::Instance { instance: instance("i-1") }), [false, false, true, false]);
        assert_eq!(concerned(WakeHint::Instance { instance: instance("i-2") }), [false; 4]);
    }
}
