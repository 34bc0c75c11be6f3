//! Snapshots that end in `error` instead of `completed`, as an operator orders them.
//!
//! When one snapshot of a set fails, all of the set are in `error` (EBS User Guide, multi-volume snapshots);
//! an image whose snapshot fails is `failed`. The causes are documented for a few cases only.

use perennial_workers::port::{ImageState, SnapshotState};
use perennial_workflows::model::aws::{ImageId, SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};

use super::{ApiError, World};

/// The snapshots that will fail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailingSnapshots {
    /// How many of the next ones, of whatever volume.
    next: u32,
    /// The volumes whose next one does, once for each entry.
    of: Vec<VolumeId>,
}

impl World {
    /// Makes the next snapshot fail, of this volume or of any.
    pub fn fail_next_snapshot(&mut self, volume: Option<&VolumeId>) {
        match volume {
            Some(volume) => self.failing_snapshots.of.push(volume.clone()),
            None => self.failing_snapshots.next += 1,
        }
    }

    /// Makes a snapshot fail that is pending.
    ///
    /// # Errors
    /// InvalidSnapshot.NotFound, IncorrectState when it is no longer pending.
    pub fn fail_snapshot(&mut self, now_ms: u64, id: &SnapshotId) -> Result<(), ApiError> {
        self.advance(now_ms);
        let state = self.known_snapshot(id)?.state;
        let snapshot = self.snapshots.get_mut(id).filter(|_| state == SnapshotState::Pending);
        let snapshot =
            snapshot.ok_or_else(|| ApiError::new("IncorrectState", format!("{id} is not pending")))?;
        snapshot.fails = true;
        Ok(())
    }

    /// Whether a snapshot of this volume, which begins now, was ordered to fail.
    pub(super) fn is_to_fail(&mut self, volume: &VolumeId) -> bool {
        let failing = &mut self.failing_snapshots;
        if let Some(index) = failing.of.iter().position(|of| of == volume) {
            failing.of.remove(index);
            return true;
        }
        let fails = failing.next > 0;
        failing.next = failing.next.saturating_sub(1);
        fails
    }

    /// Snapshots that were taken together end together: all are complete, or none is.
    pub(super) fn snapshots_end(&mut self, ids: &[SnapshotId]) {
        let fails = |id: &SnapshotId| self.snapshots.get(id).is_some_and(|snapshot| snapshot.fails);
        let state = match ids.iter().any(fails) {
            true => SnapshotState::Error,
            false => SnapshotState::Completed,
        };
        for id in ids {
            if let Some(snapshot) = self.snapshots.get_mut(id) {
                snapshot.state = state;
            }
        }
    }

    /// An image is available once its snapshots are, and `failed` when one of them failed.
    pub(super) fn image_is_made(&mut self, id: &ImageId) {
        let Some(image) = self.images.get(id) else { return };
        let failed = self
            .snapshots
            .values()
            .any(|snapshot| snapshot.state == SnapshotState::Error && image.uses(&snapshot.id));
        if let Some(image) = self.images.get_mut(id) {
            image.state = if failed { ImageState::Failed } else { ImageState::Available };
        }
    }
}
