//! Volumes stuck in `detaching`: because the operating system keeps them, or because EBS has lost track of
//! them.
//!
//! A stuck volume stays `detaching` on its instance, even after the instance is terminated, until the set
//! time is over or a forced detach releases it. Both have been seen on real instances; the length is not
//! documented.

use perennial_workflows::model::aws::{InstanceId, VolumeId};
use serde::{Deserialize, Serialize};

use super::{Transition, World};

/// How strongly a detach is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StuckDetach {
    /// A forced detach releases the volume.
    UntilForced,
    /// Not even a forced detach does.
    ForEver,
}

impl World {
    /// Makes the detach of a volume stick from now on, for the given length or without end.
    pub fn stick_detach(&mut self, now_ms: u64, id: &VolumeId, hang: StuckDetach, length_ms: Option<u64>) {
        self.advance(now_ms);
        self.stuck_detaching.insert(id.clone(), hang);
        if let Some(length_ms) = length_ms {
            self.at(self.now_ms + length_ms, Transition::StuckDetachReleased(id.clone()));
        }
    }

    /// Ends the sticking; a detach that waits goes on.
    pub fn release_stuck_detach(&mut self, now_ms: u64, id: &VolumeId) {
        self.advance(now_ms);
        self.detach_is_released(id);
    }

    pub(super) fn detach_is_released(&mut self, id: &VolumeId) {
        if self.stuck_detaching.remove(id).is_some() {
            self.resume_detach(id);
        }
    }

    /// Whether a detach of this volume does not end.
    pub(super) fn is_detach_stuck(&self, id: &VolumeId) -> bool {
        self.stuck_detaching.contains_key(id)
    }

    /// Records a forced detach, which releases the volume unless it is stuck without end.
    pub(super) fn record_forced_detach(&mut self, id: &VolumeId, from: &InstanceId) {
        let state = self.instances.get(from).map_or("forgotten".to_owned(), |i| i.state.to_string());
        self.forced.push((id.clone(), from.clone(), state));
        if self.stuck_detaching.get(id) == Some(&StuckDetach::UntilForced) {
            self.stuck_detaching.remove(id);
        }
    }

    /// Every forced detach so far: the volume, the instance, and the instance's state at that time.
    #[must_use]
    pub fn forced_detaches(&self) -> &[(VolumeId, InstanceId, String)] {
        &self.forced
    }

    /// Marks a volume as multi-attach; the model still attaches it to one instance at a time.
    pub fn enable_multi_attach(&mut self, id: &VolumeId) {
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.multi_attach = true;
        }
    }
}
