//! ModifyVolume: a volume that grows, or becomes of another type, while it is used.
//!
//! `modifying`, then `optimizing`, in which the new size is there, then `completed`; the next modification
//! waits for the end and for six hours after the beginning of the last (EBS User Guide, volume modification
//! considerations).

use perennial_workers::port::VolumeState;
use perennial_workflows::model::aws::VolumeId;

use super::requests::ModifyVolume;
use super::state::{Dimensions, Modification, ModificationState, Volume};
use super::{ApiError, Transition, World, volume_types};

/// Between the beginnings of two modifications of a volume (EBS User Guide).
const PAUSE_MS: u64 = 6 * 3_600_000;
/// What a volume gets that changes to a type with provisioned IOPS without naming them (EC2 API reference,
/// ModifyVolume).
const IOPS_BY_DEFAULT: u32 = 3_000;

impl World {
    /// ModifyVolume.
    ///
    /// # Errors
    /// IncorrectState, InvalidParameterValue for a smaller size, InvalidParameterCombination for nothing,
    /// those of what the type does not permit,
    /// IncorrectModificationState while the last is under way, VolumeModificationRateExceeded within six
    /// hours of it.
    pub fn modify_volume(
        &mut self,
        now_ms: u64,
        id: &VolumeId,
        change: &ModifyVolume,
    ) -> Result<Modification, ApiError> {
        self.begin(now_ms, "ModifyVolume")?;
        let now_ms = self.now_ms;
        let volume = self.known_volume(id)?;
        if !matches!(volume.state, VolumeState::Available | VolumeState::InUse) {
            return Err(ApiError::new("IncorrectState", format!("The volume '{id}' is not usable")));
        }
        if *change == ModifyVolume::default() {
            let message = "You must specify a size, a volume type, IOPS or throughput";
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        let size_gib = change.size_gib.unwrap_or(volume.size_gib);
        if size_gib < volume.size_gib {
            let message = "New size cannot be smaller than existing size";
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        let target = target(volume, size_gib, change);
        volume_types::check(&target.1, target.0, target.2, target.3)?;
        if let Some(last) = &volume.modification {
            if last.stage != ModificationState::Completed {
                let message = format!("Volume '{id}' is in modification state: {}", last.stage.as_str());
                return Err(ApiError::new("IncorrectModificationState", message));
            }
            if now_ms < last.started_at_ms + PAUSE_MS {
                let message = "You've reached the maximum modification rate per volume limit. Wait at least 6 \
                               hours between modifications per EBS volume.";
                return Err(ApiError::new("VolumeModificationRateExceeded", message));
            }
        }
        // Storage counts once where the type stays the same.
        let more_gib = if target.1 == volume.volume_type { target.0 - volume.size_gib } else { target.0 };
        self.check_storage_quota(&target.1, u64::from(more_gib))?;
        let volume = self.known_volume(id)?;
        let original = (volume.size_gib, volume.volume_type.clone(), volume.iops, volume.throughput);
        let modification = Modification {
            stage: ModificationState::Modifying,
            original,
            target,
            started_at_ms: now_ms,
            ended_at_ms: None,
        };
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.modification = Some(modification.clone());
        }
        self.after(self.settings.latencies.modify_volume, Transition::VolumeModified(id.clone()));
        Ok(modification)
    }

    pub(super) fn volume_is_modified(&mut self, id: &VolumeId) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let Some(modification) = &mut volume.modification else { return };
        match modification.stage {
            ModificationState::Modifying => {
                modification.stage = ModificationState::Optimizing;
                let (size_gib, volume_type, iops, throughput) = modification.target.clone();
                (volume.size_gib, volume.volume_type) = (size_gib, volume_type);
                (volume.iops, volume.throughput) = (iops, throughput);
                self.after(self.settings.latencies.optimize_volume, Transition::VolumeModified(id.clone()));
            }
            ModificationState::Optimizing => {
                modification.stage = ModificationState::Completed;
                modification.ended_at_ms = Some(self.now_ms);
            }
            ModificationState::Completed => {}
        }
    }
}

/// IOPS and throughput are kept with the type, and those of another type are its defaults.
fn target(volume: &Volume, size_gib: u32, change: &ModifyVolume) -> Dimensions {
    let kind = change.volume_type.clone().unwrap_or_else(|| volume.volume_type.clone());
    let is_kept = kind == volume.volume_type;
    let usual = matches!(kind.as_str(), "io1" | "io2").then_some(IOPS_BY_DEFAULT);
    let iops = change.iops.or(if is_kept { volume.iops } else { usual });
    let throughput = change.throughput.or(volume.throughput.filter(|_| is_kept));
    (size_gib, kind, iops, throughput)
}
