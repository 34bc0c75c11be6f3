//! The operating system inside an instance: it writes records to its volumes and mounts them.
//!
//! A write is on the volume at once, as after an `fsync`; unflushed writes are not modelled, because an
//! operating system flushes when it is shut down. A guest lives from `running` until `terminated`: it may
//! still write while it shuts down, which is why `shutting-down` is no fence. While its root is being
//! replaced it is down.

use perennial_workers::port::AttachmentState;
use perennial_workflows::model::aws::{InstanceId, VolumeId};

use super::World;
use super::state::{Record, Volume};

/// Why a guest cannot do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// No operating system is up.
    #[error("the instance is not up")]
    NotUp,
    /// No volume is attached there.
    #[error("no volume is attached there")]
    NoVolume,
}

impl World {
    /// Appends a record to the volume attached at a device.
    ///
    /// # Errors
    /// When the guest is not up or nothing is attached there.
    pub fn write(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        device: &str,
        record: &str,
    ) -> Result<(), GuestError> {
        self.advance(now_ms);
        let volume = self.guest_volume(instance, device)?.id.clone();
        self.volumes.get_mut(&volume).expect("BUG: just found").content.push(record.to_owned());
        Ok(())
    }

    /// The contents of the volume attached at a device, oldest first.
    ///
    /// # Errors
    /// When the guest is not up or nothing is attached there.
    pub fn read(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        device: &str,
    ) -> Result<Vec<Record>, GuestError> {
        self.advance(now_ms);
        Ok(self.guest_volume(instance, device)?.content.clone())
    }

    fn guest_volume(&self, instance: &InstanceId, device: &str) -> Result<&Volume, GuestError> {
        let holder = self.instances.get(instance).filter(|i| i.has_guest()).ok_or(GuestError::NotUp)?;
        if self.is_rebooting(instance) || self.volume_at(holder, &holder.root_device).is_none() {
            return Err(GuestError::NotUp);
        }
        let volume = self.volume_at(holder, device).ok_or(GuestError::NoVolume)?;
        match volume.attachment.as_ref().map(|attachment| attachment.state) {
            Some(AttachmentState::Attached | AttachmentState::Busy) => Ok(volume),
            Some(AttachmentState::Attaching | AttachmentState::Detaching) | None => Err(GuestError::NoVolume),
        }
    }

    /// Lets go of a volume; a detach that was `busy` goes on.
    ///
    /// # Errors
    /// When the guest is not up or the volume is not attached to it.
    pub fn unmount(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        volume: &VolumeId,
    ) -> Result<(), GuestError> {
        self.set_mounted(now_ms, instance, volume, false)?;
        self.no_longer_busy(volume);
        Ok(())
    }

    /// Takes a volume into use again.
    ///
    /// # Errors
    /// When the guest is not up or the volume is not attached to it.
    pub fn mount(&mut self, now_ms: u64, instance: &InstanceId, volume: &VolumeId) -> Result<(), GuestError> {
        self.set_mounted(now_ms, instance, volume, true)
    }

    fn set_mounted(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        volume: &VolumeId,
        mounted: bool,
    ) -> Result<(), GuestError> {
        self.advance(now_ms);
        if !self.instances.get(instance).is_some_and(|holder| holder.has_guest()) {
            return Err(GuestError::NotUp);
        }
        let attachment = self.volumes.get_mut(volume).and_then(|volume| volume.attachment.as_mut());
        match attachment {
            Some(attachment) if attachment.instance == *instance => {
                attachment.mounted = mounted;
                Ok(())
            }
            _ => Err(GuestError::NoVolume),
        }
    }
}
