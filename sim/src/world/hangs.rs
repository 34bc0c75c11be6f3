//! Volumes that do not come off: an operating system that holds on to them, or an EBS that has forgotten them.
//!
//! A hanging volume stays `detaching` where it is, also when its instance is terminated, until its time has come or a
//! forced detach takes it off. Both are seen on real instances; how long they last is not documented.

use perennial_workflows::model::aws::{InstanceId, VolumeId};
use serde::{Deserialize, Serialize};

use super::{Transition, World};

/// What a hanging volume withstands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hang {
    /// Only a forced detach takes it off.
    UntilForced,
    /// Not even that.
    ForEver,
}

impl World {
    /// From now on a volume does not come off, for so long; for ever without a length.
    pub fn hang_volume(&mut self, now_ms: u64, id: &VolumeId, hang: Hang, length_ms: Option<u64>) {
        self.advance(now_ms);
        self.hanging.insert(id.clone(), hang);
        if let Some(length_ms) = length_ms {
            self.at(self.now_ms + length_ms, Transition::LetsGo(id.clone()));
        }
    }

    /// A volume comes off again; one that was to leave, leaves.
    pub fn let_go(&mut self, now_ms: u64, id: &VolumeId) {
        self.advance(now_ms);
        self.lets_go(id);
    }

    pub(super) fn lets_go(&mut self, id: &VolumeId) {
        if self.hanging.remove(id).is_some() {
            self.goes_on_leaving(id);
        }
    }

    /// Whether a volume stays where it is, although it is to leave.
    pub(super) fn hangs(&self, id: &VolumeId) -> bool {
        self.hanging.contains_key(id)
    }

    /// A forced detach: what only that takes off, comes off.
    pub(super) fn is_forced(&mut self, id: &VolumeId, from: &InstanceId) {
        let state = self.instances.get(from).map_or("forgotten".to_owned(), |i| i.state.to_string());
        self.forced.push((id.clone(), from.clone(), state));
        if self.hanging.get(id) == Some(&Hang::UntilForced) {
            self.hanging.remove(id);
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
