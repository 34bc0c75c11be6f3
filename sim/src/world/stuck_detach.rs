//! Volumes that do not come off: an operating system that holds on to them, or an EBS that has forgotten them.
//!
//! A hanging volume stays `detaching` where it is, also when its instance is terminated, until its time has come or a
//! forced detach takes it off. Both are seen on real instances; how long they last is not documented.

use perennial_workflows::aws::{InstanceId, VolumeId};
use serde::{Deserialize, Serialize};

use super::{Transition, World};

/// What a hanging volume withstands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StuckDetach {
    /// Only a forced detach takes it off.
    UntilForced,
    /// Not even that.
    ForEver,
}

impl World {
    /// From now on a volume does not come off, for so long; for ever without a length.
    pub fn stick_detach(&mut self, now_ms: u64, id: &VolumeId, hang: StuckDetach, length_ms: Option<u64>) {
        self.advance(now_ms);
        self.stuck_detaching.insert(id.clone(), hang);
        if let Some(length_ms) = length_ms {
            self.at(self.now_ms + length_ms, Transition::StuckDetachReleased(id.clone()));
        }
    }

    /// A volume comes off again; one that was to leave, leaves.
    pub fn release_stuck_detach(&mut self, now_ms: u64, id: &VolumeId) {
        self.advance(now_ms);
        self.detach_is_released(id);
    }

    pub(super) fn detach_is_released(&mut self, id: &VolumeId) {
        if self.stuck_detaching.remove(id).is_some() {
            self.resume_detach(id);
        }
    }

    /// Whether a volume stays where it is, although it is to leave.
    pub(super) fn is_detach_stuck(&self, id: &VolumeId) -> bool {
        self.stuck_detaching.contains_key(id)
    }

    /// A forced detach: what only that takes off, comes off.
    pub(super) fn record_forced_detach(&mut self, id: &VolumeId, from: &InstanceId) {
        let state = self.instances.get(from).map_or("forgotten".to_owned(), |i| i.state.to_string());
        self.forced.push((id.clone(), from.clone(), state));
        if self.stuck_detaching.get(id) == Some(&StuckDetach::UntilForced) {
            self.stuck_detaching.remove(id);
        }
    }

    /// Every forced detach so far: of which volume, from which instance, and that instance's state then.
    #[must_use]
    pub fn forced_detaches(&self) -> &[(VolumeId, InstanceId, String)] {
        &self.forced
    }

    /// Lets a volume be attached to several instances, as far as it says so of itself.
    pub fn enable_multi_attach(&mut self, id: &VolumeId) {
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.multi_attach = true;
        }
    }
}
