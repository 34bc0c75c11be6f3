//! Hints: what AWS's events say of volumes, snapshots and instances that a step may be waiting for.
//!
//! A hint decides nothing. It lets a step that sleeps between two looks look at once; what the look shows is the evidence. So
//! hints are not inbox entries: none is written to the journal, and one that is lost costs a pause.

use std::collections::BTreeSet;

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
use crate::step::backup::BackupIntent;
use crate::step::intent::Intent;

/// What something was heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeHint {
    /// A volume came to be, or did not, or could not be attached, or changed.
    Volume {
        /// Which.
        volume: VolumeId,
    },
    /// Snapshots are complete, or failed.
    Snapshots {
        /// Which.
        snapshots: BTreeSet<SnapshotId>,
        /// Of these volumes.
        volumes: BTreeSet<VolumeId>,
    },
    /// An instance has another state.
    Instance {
        /// Which.
        instance: InstanceId,
    },
}

impl WakeHint {
    /// Whether a step with this request may be waiting for it. Better one look too many than one too late.
    #[must_use]
    pub fn concerns(&self, intent: &Intent) -> bool {
        match self {
            Self::Instance { instance } => instance_of(intent) == Some(instance),
            Self::Volume { volume } => match intent {
                // The request of one that is being made does not know its name yet; there are few of them.
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
        // What is on an instance that ends becomes free a little later than it ends: a look then comes soon enough.
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
