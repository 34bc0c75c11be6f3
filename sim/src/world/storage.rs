//! Volumes, snapshots, images and root replacement.

use std::collections::BTreeSet;

use perennial_workers::port::{
    AttachmentState, ImageRequest, ImageState, ImageTraits, RootTaskState, SnapshotState, Tags,
    VolumeRequest, VolumeState,
};
use perennial_workflows::model::aws::{ImageId, InstanceId, InstanceState, RootTaskId, SnapshotId, VolumeId};
use perennial_workflows::model::volume::MappedVolume;

use super::requests::{DeviceMapping, ModifyVolume};
use super::settings::{Guest, Quotas, RootAdoption, RootFlag};
use super::state::{Attachment, Image, RootTask, Snapshot, Volume};
use super::{ApiError, GRAVEYARD_MAX, Transition, World, mismatch, volume_types};

/// Between two snapshots of a volume (documented).
const SNAPSHOT_PAUSE_MS: u64 = 15_000;
/// Pending snapshots of a volume (documented for gp2, gp3, io1, io2).
const PENDING_SNAPSHOTS_MAX: usize = 5;
/// Volumes of an instance: 28 attachments of a common Nitro type, less one interface.
const VOLUMES_MAX: usize = 27;

/// How a volume is taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detach {
    /// The guest must let go first.
    Orderly,
    /// `Force=true`.
    Forced,
}

/// The source of the new root in a root replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// An existing volume.
    Volume(VolumeId),
    /// A new volume from this snapshot.
    Snapshot(SnapshotId),
    /// A new volume from this image's root.
    Image(ImageId),
    /// A new volume as at launch.
    LaunchState,
}

/// The selection of an instance's volumes for CreateSnapshots.
#[derive(Debug, Clone, Default)]
pub struct SnapshotSet {
    /// `ExcludeBootVolume`.
    pub without_root: bool,
    /// `ExcludeDataVolumeIds`.
    pub without: Vec<VolumeId>,
    /// Of each snapshot.
    pub description: String,
    /// Of each snapshot.
    pub tags: Tags,
}

impl Image {
    /// The volumes it maps beside its root, as DescribeImages shows them.
    pub(super) fn mapped(&self) -> Vec<MappedVolume> {
        let others = self.devices.iter().filter(|device| device.device != self.traits.root_device);
        let shown = others.map(|device| MappedVolume {
            device: device.device.clone(),
            snapshot: device.snapshot.clone(),
            size_gib: device.size_gib.unwrap_or(1),
            volume_type: device.volume_type.clone().unwrap_or_else(|| "gp3".to_owned()),
            iops: device.iops,
            throughput: device.throughput,
        });
        shown.collect()
    }

    /// Whether a snapshot is one of its devices'.
    #[must_use]
    pub fn uses(&self, snapshot: &SnapshotId) -> bool {
        self.root_snapshot == *snapshot || self.devices.iter().any(|d| d.snapshot.as_ref() == Some(snapshot))
    }
}

impl World {
    /// CreateVolume.
    ///
    /// # Errors
    /// EC2's: idempotency, zone, snapshot unknown or pending, size, and what the type does not permit.
    pub fn create_volume(&mut self, now_ms: u64, request: &VolumeRequest) -> Result<VolumeId, ApiError> {
        const ACTION: &str = "CreateVolume";
        self.begin(now_ms, ACTION)?;
        let parameters = format!("{request:?}");
        if let Some(id) = self.replayed(ACTION, "", &request.client_token, &parameters)? {
            let id = VolumeId::parse(&id).map_err(|_| mismatch(&request.client_token))?;
            // Reported by an independent implementation: a token is burnt with its volume.
            return if self.volumes.contains_key(&id) {
                Ok(id)
            } else {
                Err(mismatch(&request.client_token))
            };
        }
        self.check_zone(&request.zone)?;
        let mut content = Vec::new();
        let mut least_gib = 1;
        let (mut encrypted, mut product_codes) = (request.encrypted, BTreeSet::new());
        if let Some(snapshot) = &request.snapshot {
            let snapshot = self.completed_snapshot(snapshot)?;
            content.clone_from(&snapshot.content);
            least_gib = snapshot.size_gib;
            encrypted |= snapshot.encrypted;
            product_codes.clone_from(&snapshot.product_codes);
        }
        let size_gib = match request.size_gib {
            0 if request.snapshot.is_some() => least_gib,
            size if size < least_gib => {
                let message = format!("The size of a volume must be at least {least_gib} GiB");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            size => size,
        };
        volume_types::check(&request.volume_type, size_gib, request.iops, request.throughput)?;
        self.check_storage_quota(&request.volume_type, u64::from(size_gib))?;
        let id = VolumeId::parse(&self.fresh("vol-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        self.volumes.insert(
            id.clone(),
            Volume {
                id: id.clone(),
                state: VolumeState::Creating,
                zone: request.zone.clone(),
                size_gib,
                volume_type: request.volume_type.clone(),
                iops: request.iops,
                throughput: request.throughput,
                encrypted,
                product_codes,
                snapshot: request.snapshot.clone(),
                multi_attach: false,
                attachment: None,
                held_by: None,
                snapshot_taken_at_ms: None,
                modification: None,
                created_at_ms: self.now_ms,
                visible_at_ms,
                content,
                tags: request.tags.clone(),
            },
        );
        self.after(self.settings.latencies.create_volume, Transition::VolumeAvailable(id.clone()));
        self.remember(ACTION, "", &request.client_token, parameters, id.as_str());
        Ok(id)
    }

    /// DeleteVolume.
    ///
    /// # Errors
    /// VolumeInUse, IncorrectState while it is being created.
    pub fn delete_volume(&mut self, now_ms: u64, id: &VolumeId) -> Result<(), ApiError> {
        self.begin(now_ms, "DeleteVolume")?;
        let volume = self.known_volume(id)?;
        if let Some(attachment) = &volume.attachment {
            let message = format!("Volume {id} is currently attached to {}", attachment.instance);
            return Err(ApiError::new("VolumeInUse", message));
        }
        if let Some(task) = &volume.held_by {
            return Err(ApiError::new("VolumeInUse", format!("Volume {id} is used by {task}")));
        }
        match volume.state {
            VolumeState::Deleting | VolumeState::Deleted => Ok(()),
            VolumeState::Creating => {
                Err(ApiError::new("IncorrectState", format!("The volume '{id}' is 'creating'")))
            }
            VolumeState::Available | VolumeState::InUse | VolumeState::Error => {
                self.start_deleting(id);
                Ok(())
            }
        }
    }

    /// AttachVolume.
    ///
    /// # Errors
    /// VolumeInUse, IncorrectState, InvalidVolume.ZoneMismatch, InvalidParameterValue (device),
    /// AttachmentLimitExceeded.
    pub fn attach_volume(
        &mut self,
        now_ms: u64,
        id: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "AttachVolume")?;
        self.check_attach(id, instance, device)?;
        self.scheduled += 1;
        let serial = self.scheduled;
        let volume = self.volumes.get_mut(id).expect("BUG: just checked");
        volume.state = VolumeState::InUse;
        volume.attachment = Some(Attachment {
            instance: instance.clone(),
            device: device.to_owned(),
            state: AttachmentState::Attaching,
            delete_on_termination: false,
            mounted: false,
            serial,
        });
        self.instances.get_mut(instance).expect("BUG: just checked").volumes.insert(id.clone());
        if self.stuck_attaches > 0 {
            self.stuck_attaches -= 1;
        } else {
            self.after(self.settings.latencies.attach, Transition::Attached(id.clone(), serial));
        }
        Ok(())
    }

    fn check_attach(&self, id: &VolumeId, instance: &InstanceId, device: &str) -> Result<(), ApiError> {
        let volume = self.known_volume(id)?;
        let instance = self.known_instance(instance)?;
        let refuse = |code: &str, message: String| Err(ApiError::new(code, message));
        if let Some(attachment) = &volume.attachment {
            return refuse("VolumeInUse", format!("{id} is already attached to {}", attachment.instance));
        }
        if volume.state != VolumeState::Available || volume.held_by.is_some() {
            return refuse("IncorrectState", format!("{id} is not 'available'."));
        }
        if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped) {
            return refuse("IncorrectState", format!("Instance '{}' is not 'running'.", instance.id));
        }
        // "If a volume has an AWS Marketplace product code: the volume can be attached only to a stopped
        // instance" (API reference, AttachVolume). The code of the refusal is not documented.
        if !volume.product_codes.is_empty() && instance.state != InstanceState::Stopped {
            let message = format!("{id} has product codes: instance '{}' is not 'stopped'.", instance.id);
            return refuse("IncorrectInstanceState", message);
        }
        if volume.zone != instance.zone {
            let message = format!(
                "The volume '{id}' is not in the same availability zone as instance '{}'",
                instance.id
            );
            return refuse("InvalidVolume.ZoneMismatch", message);
        }
        if self.volume_at(instance, device).is_some() {
            let message = format!(
                "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
            );
            return refuse("InvalidParameterValue", message);
        }
        if instance.volumes.len() >= VOLUMES_MAX {
            return refuse("AttachmentLimitExceeded", format!("{VOLUMES_MAX} volumes are attached"));
        }
        Ok(())
    }

    /// DetachVolume without force. As long as the guest has the volume mounted it stays `busy`. It is a guess
    /// that data volumes may be detached while the instance shuts down.
    ///
    /// # Errors
    /// IncorrectState when it is free, InvalidAttachment.NotFound for another instance, OperationNotPermitted
    /// for the root of an instance that is not stopped (that code is a guess).
    pub fn detach_volume(
        &mut self,
        now_ms: u64,
        id: &VolumeId,
        instance: Option<&InstanceId>,
    ) -> Result<(), ApiError> {
        self.detach_volume_with(now_ms, id, instance, Detach::Orderly)
    }

    /// DetachVolume, with or without force: a forced detach also releases a volume that is mounted, busy or
    /// stuck. Everything the guest had written stays.
    ///
    /// # Errors
    /// As [`detach_volume`](Self::detach_volume).
    pub fn detach_volume_with(
        &mut self,
        now_ms: u64,
        id: &VolumeId,
        instance: Option<&InstanceId>,
        how: Detach,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "DetachVolume")?;
        let volume = self.known_volume(id)?;
        let Some(attachment) = &volume.attachment else {
            let message = format!("Volume '{id}' is in the 'available' state.");
            return Err(ApiError::new("IncorrectState", message));
        };
        if instance.is_some_and(|asked| *asked != attachment.instance) {
            let message = format!("Volume '{id}' is not attached to that instance");
            return Err(ApiError::new("InvalidAttachment.NotFound", message));
        }
        let holder = self.instances.get(&attachment.instance);
        let is_root =
            holder.is_some_and(|i| i.root_device == attachment.device && i.state != InstanceState::Stopped);
        if is_root {
            let message =
                format!("Unable to detach root volume '{id}' from instance '{}'", attachment.instance);
            return Err(ApiError::new("OperationNotPermitted", message));
        }
        if how == Detach::Forced {
            let from = attachment.instance.clone();
            self.record_forced_detach(id, &from);
            self.start_detaching(id, false);
        } else if matches!(attachment.state, AttachmentState::Attaching | AttachmentState::Attached) {
            // A stopped machine holds on to nothing.
            let mounted = attachment.mounted && holder.is_none_or(super::state::Instance::has_guest);
            self.start_detaching(id, mounted);
        }
        Ok(())
    }

    fn start_detaching(&mut self, id: &VolumeId, mounted: bool) {
        let Some(attachment) = self.volumes.get_mut(id).and_then(|v| v.attachment.as_mut()) else { return };
        if mounted {
            attachment.state = AttachmentState::Busy;
            return;
        }
        attachment.state = AttachmentState::Detaching;
        let serial = attachment.serial;
        if self.is_detach_stuck(id) {
            // It stays so.
        } else if self.stuck_detaches > 0 {
            self.stuck_detaches -= 1;
        } else {
            self.after(self.settings.latencies.detach, Transition::Detached(id.clone(), serial));
        }
    }

    /// A volume that hung and was to leave, leaves.
    pub(super) fn resume_detach(&mut self, id: &VolumeId) {
        let Some(attachment) = self.volumes.get(id).and_then(|volume| volume.attachment.as_ref()) else {
            return;
        };
        if attachment.state != AttachmentState::Detaching {
            return;
        }
        let over =
            self.instances.get(&attachment.instance).is_none_or(|i| i.state == InstanceState::Terminated);
        if over {
            self.release_volume(id);
        } else {
            self.start_detaching(id, false);
        }
    }

    /// The guest let go of a busy volume.
    pub(super) fn no_longer_busy(&mut self, id: &VolumeId) {
        let attachment = self.volumes.get(id).and_then(|volume| volume.attachment.as_ref());
        if attachment.is_some_and(|attachment| attachment.state == AttachmentState::Busy) {
            self.start_detaching(id, false);
        }
    }

    /// Makes the next attach stay `attaching` without end (seen on real instances; the CSI driver gives up
    /// after 90 s).
    pub fn stick_next_attach(&mut self) {
        self.stuck_attaches += 1;
    }

    /// Makes the next detach stay `detaching` until the instance is terminated.
    pub fn stick_next_detach(&mut self) {
        self.stuck_detaches += 1;
    }

    /// CreateReplaceRootVolumeTask with an existing volume; the replaced root becomes a free volume.
    ///
    /// # Errors
    /// IncorrectInstanceState unless it runs and has no other task; IncorrectState unless the volume is free;
    /// InvalidVolume.ZoneMismatch; the code in [`RootAdoption`]. All codes are guesses: none is documented.
    pub fn replace_root(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        volume: &VolumeId,
        client_token: &str,
        tags: &Tags,
    ) -> Result<RootTaskId, ApiError> {
        let source = RootSource::Volume(volume.clone());
        self.replace_root_with(now_ms, instance, &source, false, client_token, tags)
    }

    /// CreateReplaceRootVolumeTask in all its forms. From a snapshot or an image a new volume is made at
    /// once, with the snapshot's content; that always works; [`RootAdoption`] concerns existing volumes only.
    ///
    /// # Errors
    /// As [`replace_root`](Self::replace_root), and those of a snapshot or an image that cannot be used.
    pub fn replace_root_with(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        source: &RootSource,
        deletes_replaced: bool,
        client_token: &str,
        tags: &Tags,
    ) -> Result<RootTaskId, ApiError> {
        const ACTION: &str = "CreateReplaceRootVolumeTask";
        self.begin(now_ms, ACTION)?;
        let parameters = format!("{instance} {source:?} {deletes_replaced} {tags:?}");
        if let Some(id) = self.replayed(ACTION, "", client_token, &parameters)? {
            return RootTaskId::parse(&id).map_err(|_| mismatch(client_token));
        }
        let volume = match source {
            RootSource::Volume(volume) => {
                if let RootAdoption::Unsupported(code) = &self.settings.root_adoption {
                    return Err(ApiError::new(
                        code,
                        "This region does not replace roots with existing volumes",
                    ));
                }
                self.check_replace_root(instance)?;
                self.check_new_root(instance, volume)?;
                volume.clone()
            }
            RootSource::Snapshot(snapshot) => self.root_from(instance, &snapshot.clone())?,
            RootSource::Image(image) => {
                let snapshot = self.known_image(image)?.root_snapshot.clone();
                self.root_from(instance, &snapshot)?
            }
            RootSource::LaunchState => {
                let image = self.known_instance(instance)?.image.clone();
                let snapshot = self.known_image(&image)?.root_snapshot.clone();
                self.root_from(instance, &snapshot)?
            }
        };
        let id = RootTaskId::parse(&self.fresh("replacevol-")).expect("BUG: made to fit");
        self.volumes.get_mut(&volume).expect("BUG: just checked").held_by = Some(id.clone());
        self.root_tasks.insert(
            id.clone(),
            RootTask {
                id: id.clone(),
                instance: instance.clone(),
                volume,
                adopts: matches!(source, RootSource::Volume(_)),
                deletes_replaced,
                state: RootTaskState::InProgress,
                started_at_ms: self.now_ms,
                tags: tags.clone(),
            },
        );
        self.after(self.settings.latencies.replace_root, Transition::RootTaskEnds(id.clone()));
        self.remember(ACTION, "", client_token, parameters, id.as_str());
        Ok(id)
    }

    /// A new volume that will be a root.
    fn root_from(&mut self, instance: &InstanceId, snapshot: &SnapshotId) -> Result<VolumeId, ApiError> {
        self.check_replace_root(instance)?;
        let source = self.completed_snapshot(snapshot)?;
        let (content, size_gib) = (source.content.clone(), source.size_gib);
        let (encrypted, product_codes) = (source.encrypted, source.product_codes.clone());
        let zone = self.known_instance(instance)?.zone.clone();
        let id = VolumeId::parse(&self.fresh("vol-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        self.volumes.insert(
            id.clone(),
            Volume {
                id: id.clone(),
                state: VolumeState::Creating,
                zone,
                size_gib,
                volume_type: "gp3".to_owned(),
                iops: None,
                throughput: None,
                encrypted,
                product_codes,
                snapshot: Some(snapshot.clone()),
                multi_attach: false,
                attachment: None,
                held_by: None,
                snapshot_taken_at_ms: None,
                modification: None,
                created_at_ms: self.now_ms,
                visible_at_ms,
                content,
                tags: Tags::new(),
            },
        );
        self.after(self.settings.latencies.create_volume, Transition::VolumeAvailable(id.clone()));
        Ok(id)
    }

    /// A volume is of a product of the AWS Marketplace.
    pub fn set_product_code(&mut self, volume: &VolumeId, code: &str) {
        if let Some(volume) = self.volumes.get_mut(volume) {
            volume.product_codes.insert(code.to_owned());
        }
    }

    /// From now on a replacement of a root by an existing volume ends so.
    pub fn set_root_adoption(&mut self, adoption: RootAdoption) {
        self.settings.root_adoption = adoption;
    }

    fn check_replace_root(&self, instance: &InstanceId) -> Result<(), ApiError> {
        let instance = self.known_instance(instance)?;
        if instance.state != InstanceState::Running || self.is_rebooting(&instance.id) {
            let message = format!("The instance '{}' must be running, with no other task", instance.id);
            return Err(ApiError::new("IncorrectInstanceState", message));
        }
        Ok(())
    }

    fn check_new_root(&self, instance: &InstanceId, volume: &VolumeId) -> Result<(), ApiError> {
        let instance = self.known_instance(instance)?;
        let volume = self.known_volume(volume)?;
        if let Some(attachment) = &volume.attachment {
            let message = format!("{} is already attached to {}", volume.id, attachment.instance);
            return Err(ApiError::new("VolumeInUse", message));
        }
        if volume.state != VolumeState::Available || volume.held_by.is_some() {
            return Err(ApiError::new("IncorrectState", format!("{} is not 'available'.", volume.id)));
        }
        if volume.zone != instance.zone {
            return Err(ApiError::new("InvalidVolume.ZoneMismatch", "The volume is in another zone"));
        }
        Ok(())
    }

    /// Whether a root replacement is under way, during which the guest is down.
    pub(super) fn is_rebooting(&self, instance: &InstanceId) -> bool {
        self.root_tasks
            .values()
            .any(|task| task.instance == *instance && task.state == RootTaskState::InProgress)
    }

    pub(super) fn root_task_ends(&mut self, id: &RootTaskId) {
        let Some(task) = self.root_tasks.get(id) else { return };
        if task.state != RootTaskState::InProgress {
            return;
        }
        let (instance, volume) = (task.instance.clone(), task.volume.clone());
        let (adopts, deletes_replaced) = (task.adopts, task.deletes_replaced);
        let running = self.instances.get(&instance).is_some_and(|i| i.state == InstanceState::Running);
        let works = match &self.settings.root_adoption {
            RootAdoption::Supported => true,
            RootAdoption::FailsFor(one) => volume.as_str() != one,
            RootAdoption::Unsupported(_) | RootAdoption::FailsEachTime | RootAdoption::FailedDetached => {
                false
            }
        };
        let state = match self.settings.root_adoption {
            _ if running && (!adopts || works) => {
                self.swap_root(&instance, &volume, deletes_replaced);
                RootTaskState::Succeeded
            }
            RootAdoption::FailedDetached if running => {
                self.take_root_off(&instance);
                RootTaskState::FailedDetached
            }
            _ => RootTaskState::Failed,
        };
        self.end_root_task(id, state);
        self.agent_fetches(&instance);
    }

    /// Tasks of an instance that is gone.
    pub(super) fn abandon_root_tasks(&mut self, instance: &InstanceId) {
        let open: Vec<_> = self
            .root_tasks
            .values()
            .filter(|task| task.instance == *instance && task.state == RootTaskState::InProgress)
            .map(|task| task.id.clone())
            .collect();
        for id in open {
            self.end_root_task(&id, RootTaskState::Failed);
        }
    }

    fn end_root_task(&mut self, id: &RootTaskId, state: RootTaskState) {
        let Some(task) = self.root_tasks.get_mut(id) else { return };
        task.state = state;
        if let Some(volume) = self.volumes.get_mut(&task.volume) {
            volume.held_by = None;
        }
        if let (false, RootTaskState::Failed, volume) = (task.adopts, state, task.volume.clone()) {
            self.start_deleting(&volume);
        }
    }

    fn swap_root(&mut self, instance: &InstanceId, volume: &VolumeId, deletes_replaced: bool) {
        let old = self.root_of(instance);
        let replaced = self.take_root_off(instance);
        if let (true, Some(old)) = (deletes_replaced, old) {
            self.start_deleting(&old);
        }
        self.scheduled += 1;
        let delete_on_termination = match self.settings.root_flag {
            RootFlag::Inherit => replaced.is_none_or(|attachment| attachment.delete_on_termination),
            RootFlag::Delete => true,
            RootFlag::Keep => false,
        };
        let Some(holder) = self.instances.get_mut(instance) else { return };
        holder.volumes.insert(volume.clone());
        let attachment = Attachment {
            instance: instance.clone(),
            device: holder.root_device.clone(),
            state: AttachmentState::Attached,
            delete_on_termination,
            mounted: true,
            serial: self.scheduled,
        };
        if let Some(volume) = self.volumes.get_mut(volume) {
            volume.state = VolumeState::InUse;
            volume.attachment = Some(attachment);
        }
    }

    fn root_of(&self, instance: &InstanceId) -> Option<VolumeId> {
        let holder = self.instances.get(instance)?;
        Some(self.volume_at(holder, &holder.root_device)?.id.clone())
    }

    fn take_root_off(&mut self, instance: &InstanceId) -> Option<Attachment> {
        let root = self.root_of(instance)?;
        self.free_volume(&root)
    }

    fn free_volume(&mut self, id: &VolumeId) -> Option<Attachment> {
        let volume = self.volumes.get_mut(id)?;
        let attachment = volume.attachment.take()?;
        volume.state = VolumeState::Available;
        if let Some(instance) = self.instances.get_mut(&attachment.instance) {
            instance.volumes.remove(id);
        }
        Some(attachment)
    }

    /// The instance is gone: the volume goes with it, or is free.
    pub(super) fn release_volume(&mut self, id: &VolumeId) {
        if self.is_detach_stuck(id) {
            if let Some(attachment) = self.volumes.get_mut(id).and_then(|v| v.attachment.as_mut()) {
                attachment.state = AttachmentState::Detaching;
                attachment.mounted = false;
            }
            return;
        }
        if self.free_volume(id).is_some_and(|attachment| attachment.delete_on_termination) {
            self.start_deleting(id);
        }
    }

    fn start_deleting(&mut self, id: &VolumeId) {
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.state = VolumeState::Deleting;
            self.after(self.settings.latencies.delete_volume, Transition::VolumeGone(id.clone()));
        }
    }

    pub(super) fn volume_is_gone(&mut self, id: &VolumeId) {
        if let Some(mut volume) = self.volumes.remove(id) {
            volume.state = VolumeState::Deleted;
            if self.graveyard.len() == GRAVEYARD_MAX {
                self.graveyard.pop_front();
            }
            self.graveyard.push_back(volume);
        }
    }

    pub(super) fn volume_is_available(&mut self, id: &VolumeId) {
        if let Some(volume) = self.volumes.get_mut(id)
            && volume.state == VolumeState::Creating
        {
            volume.state = VolumeState::Available;
            self.tell_volume(id);
        }
    }

    pub(super) fn volume_is_attached(&mut self, id: &VolumeId, serial: u64) {
        let mounts = self.settings.guest == Guest::Mounts;
        if let Some(attachment) = self.volumes.get_mut(id).and_then(|volume| volume.attachment.as_mut())
            && attachment.serial == serial
            && attachment.state == AttachmentState::Attaching
        {
            attachment.state = AttachmentState::Attached;
            attachment.mounted = mounts;
        }
    }

    pub(super) fn volume_is_detached(&mut self, id: &VolumeId, serial: u64) {
        let attachment = self.volumes.get(id).and_then(|volume| volume.attachment.as_ref());
        if attachment.is_some_and(|found| found.serial == serial && found.state == AttachmentState::Detaching)
            && !self.is_detach_stuck(id)
        {
            self.free_volume(id);
        }
    }

    /// CreateSnapshot. The copy is that of this moment; there is no client token.
    ///
    /// # Errors
    /// SnapshotCreationPerVolumeRateExceeded, ConcurrentSnapshotLimitExceeded, IncorrectState.
    pub fn create_snapshot(
        &mut self,
        now_ms: u64,
        volume: &VolumeId,
        tags: &Tags,
    ) -> Result<SnapshotId, ApiError> {
        self.begin(now_ms, "CreateSnapshot")?;
        self.check_snapshot(volume)?;
        Ok(self.take_snapshot(volume, None, "", tags))
    }

    /// CreateSnapshots: all volumes of an instance at one moment, as they are then. They complete together
    /// (EBS User Guide, multi-volume snapshots).
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot), for any of the volumes; then none is taken.
    /// InvalidParameterValue when no volume is left (that code is a guess).
    pub fn create_snapshots(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        set: &SnapshotSet,
    ) -> Result<Vec<SnapshotId>, ApiError> {
        self.begin(now_ms, "CreateSnapshots")?;
        let holder = self.known_instance(instance)?;
        let root = self.root_of(instance);
        let volumes: Vec<_> = holder
            .volumes
            .iter()
            .filter(|id| !(set.without_root && root.as_ref() == Some(*id) || set.without.contains(*id)))
            .cloned()
            .collect();
        if volumes.is_empty() {
            let message = format!("'{instance}' has no volume that is not excluded");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        for volume in &volumes {
            self.check_snapshot(volume)?;
        }
        let together_at_ms = self.now_ms + self.settings.latencies.snapshot.draw(&mut self.rng);
        let take = |id| self.take_snapshot(id, Some(together_at_ms), &set.description, &set.tags);
        let taken: Vec<SnapshotId> = volumes.iter().map(take).collect();
        self.at(together_at_ms, Transition::SetCompleted(taken.clone()));
        Ok(taken)
    }

    /// CreateImage without reboot: a snapshot of every volume, and an image that maps them when all are
    /// complete.
    ///
    /// # Errors
    /// InvalidAMIName.Duplicate or .Malformed, IncorrectInstanceState, those of the snapshots.
    pub fn create_image(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
        name: &str,
        tags: &Tags,
        snapshot_tags: &Tags,
    ) -> Result<ImageId, ApiError> {
        self.begin(now_ms, "CreateImage")?;
        self.check_image_name(name)?;
        let holder = self.known_instance(instance)?;
        if !matches!(holder.state, InstanceState::Running | InstanceState::Stopped) {
            let message = format!("The instance '{instance}' is {}", holder.state);
            return Err(ApiError::new("IncorrectInstanceState", message));
        }
        let (root_device, volumes) = (holder.root_device.clone(), holder.volumes.clone());
        let traits =
            self.images.get(&holder.image).unwrap_or(&self.images[&self.default_image]).traits.clone();
        let traits = ImageTraits { root_device: root_device.clone(), ..traits };
        let uefi_data = holder.uefi_data.clone();
        for volume in &volumes {
            self.check_snapshot(volume)?;
        }
        let mut complete_ms = self.now_ms;
        let (mut root_snapshot, mut devices) = (None, Vec::new());
        for volume in &volumes {
            let id = self.take_snapshot(
                volume,
                None,
                &format!("Created by CreateImage({instance})"),
                snapshot_tags,
            );
            complete_ms = complete_ms.max(self.snapshots[&id].completes_at_ms);
            let volume = &self.volumes[volume];
            let Some(attachment) = &volume.attachment else { continue };
            let is_root = attachment.device == root_device;
            devices.push(DeviceMapping {
                device: attachment.device.clone(),
                snapshot: (!is_root).then(|| id.clone()),
                size_gib: Some(volume.size_gib),
                volume_type: Some(volume.volume_type.clone()),
                iops: volume.iops,
                throughput: volume.throughput,
                delete_on_termination: Some(attachment.delete_on_termination),
                ..DeviceMapping::default()
            });
            if is_root {
                root_snapshot = Some(id);
            }
        }
        let root_snapshot = root_snapshot.ok_or_else(|| {
            ApiError::new("IncorrectInstanceState", format!("'{instance}' has no root volume"))
        })?;
        let request =
            ImageRequest { name: name.to_owned(), root_snapshot, traits, uefi_data, tags: tags.clone() };
        let id = self.add_image(&request, devices);
        self.at(complete_ms, Transition::ImageAvailable(id.clone()));
        Ok(id)
    }

    /// CopyVolumes: a new volume in the same zone with the present contents of the source.
    ///
    /// # Errors
    /// IncorrectState, InvalidParameterValue for a smaller size, what the type does not permit, idempotency.
    pub fn copy_volume(
        &mut self,
        now_ms: u64,
        source: &VolumeId,
        change: &ModifyVolume,
        client_token: &str,
        tags: &Tags,
    ) -> Result<VolumeId, ApiError> {
        const ACTION: &str = "CopyVolumes";
        self.begin(now_ms, ACTION)?;
        let parameters = format!("{source} {change:?} {tags:?}");
        if let Some(id) = self.replayed(ACTION, "", client_token, &parameters)? {
            return VolumeId::parse(&id).map_err(|_| mismatch(client_token));
        }
        let found = self.known_volume(source)?;
        if !matches!(found.state, VolumeState::Available | VolumeState::InUse) {
            return Err(ApiError::new("IncorrectState", format!("The volume '{source}' is not usable")));
        }
        if change.size_gib.is_some_and(|size| size < found.size_gib) {
            let message = format!("The size of a volume must be at least {} GiB", found.size_gib);
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        let mut copy = found.clone();
        copy.size_gib = change.size_gib.unwrap_or(copy.size_gib);
        if let Some(volume_type) = change.volume_type.as_ref().filter(|kind| **kind != copy.volume_type) {
            copy.volume_type.clone_from(volume_type);
            (copy.iops, copy.throughput) = (None, None);
        }
        copy.iops = change.iops.or(copy.iops);
        copy.throughput = change.throughput.or(copy.throughput);
        volume_types::check(&copy.volume_type, copy.size_gib, copy.iops, copy.throughput)?;
        let id = VolumeId::parse(&self.fresh("vol-")).expect("BUG: made to fit");
        copy.id = id.clone();
        copy.state = VolumeState::Creating;
        copy.attachment = None;
        copy.held_by = None;
        copy.snapshot = None;
        copy.snapshot_taken_at_ms = None;
        copy.modification = None;
        copy.created_at_ms = self.now_ms;
        copy.visible_at_ms = self.known_at();
        copy.tags = tags.clone();
        self.volumes.insert(id.clone(), copy);
        self.after(self.settings.latencies.create_volume, Transition::VolumeAvailable(id.clone()));
        self.remember(ACTION, "", client_token, parameters, id.as_str());
        Ok(id)
    }

    /// Gives an image a platform, as Windows and some licensed systems have one.
    pub fn set_platform(&mut self, id: &ImageId, platform: &str) {
        if let Some(image) = self.images.get_mut(id) {
            image.traits.platform = Some(platform.to_owned());
        }
    }

    /// Lets instances of an image boot so.
    pub fn set_boot_mode(&mut self, id: &ImageId, mode: &str) {
        if let Some(image) = self.images.get_mut(id) {
            image.traits.boot_mode = Some(mode.to_owned());
        }
    }

    /// A snapshot's description, which the port does not carry.
    pub fn describe_snapshot_as(&mut self, id: &SnapshotId, description: &str) {
        if let Some(snapshot) = self.snapshots.get_mut(id) {
            description.clone_into(&mut snapshot.description);
        }
    }

    /// Writes a record onto a volume from outside, mounted or not; for rehearsals.
    ///
    /// # Errors
    /// InvalidVolume.NotFound.
    pub fn write_volume(&mut self, now_ms: u64, id: &VolumeId, record: &str) -> Result<(), ApiError> {
        self.advance(now_ms);
        self.known_volume(id)?;
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.content.push(record.to_owned());
        }
        Ok(())
    }

    fn check_snapshot(&self, volume: &VolumeId) -> Result<(), ApiError> {
        let now_ms = self.now_ms;
        let source = self.known_volume(volume)?;
        if !matches!(source.state, VolumeState::Available | VolumeState::InUse) {
            return Err(ApiError::new("IncorrectState", format!("The volume '{volume}' is not usable")));
        }
        if self.settings.snapshot_quotas == Quotas::Off {
            return Ok(());
        }
        if source.snapshot_taken_at_ms.is_some_and(|last| now_ms < last + SNAPSHOT_PAUSE_MS) {
            return Err(ApiError::new(
                "SnapshotCreationPerVolumeRateExceeded",
                "The maximum per volume CreateSnapshot request rate has been exceeded.",
            ));
        }
        let pending = self
            .snapshots
            .values()
            .filter(|s| s.volume.as_ref() == Some(volume) && s.state == SnapshotState::Pending)
            .count();
        if pending >= PENDING_SNAPSHOTS_MAX {
            let message = format!("{pending} snapshots of '{volume}' are pending");
            return Err(ApiError::new("ConcurrentSnapshotLimitExceeded", message));
        }
        Ok(())
    }

    /// Of a volume that was checked. A set completes `together_at_ms`.
    fn take_snapshot(
        &mut self,
        volume: &VolumeId,
        together_at_ms: Option<u64>,
        description: &str,
        tags: &Tags,
    ) -> SnapshotId {
        let now_ms = self.now_ms;
        let fails = self.is_to_fail(volume);
        let source = &self.volumes[volume];
        let (content, size_gib) = (source.content.clone(), source.size_gib);
        let (encrypted, product_codes) = (source.encrypted, source.product_codes.clone());
        let id = SnapshotId::parse(&self.fresh("snap-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        let completed = Transition::SnapshotCompleted(id.clone());
        let completes_at_ms = match together_at_ms {
            Some(at_ms) => at_ms,
            None => self.after(self.settings.latencies.snapshot, completed),
        };
        self.snapshots.insert(
            id.clone(),
            Snapshot {
                id: id.clone(),
                state: SnapshotState::Pending,
                volume: Some(volume.clone()),
                size_gib,
                encrypted,
                product_codes,
                description: description.to_owned(),
                started_at_ms: now_ms,
                completes_at_ms,
                fails,
                visible_at_ms,
                content,
                tags: tags.clone(),
            },
        );
        if let Some(source) = self.volumes.get_mut(volume) {
            source.snapshot_taken_at_ms = Some(now_ms);
        }
        id
    }

    /// A snapshot from which something can be made.
    pub(super) fn completed_snapshot(&self, id: &SnapshotId) -> Result<&Snapshot, ApiError> {
        let snapshot = self.known_snapshot(id)?;
        let state = match snapshot.state {
            SnapshotState::Completed => return Ok(snapshot),
            SnapshotState::Pending => "pending",
            SnapshotState::Error => "error",
        };
        Err(ApiError::new("IncorrectState", format!("Snapshot is in invalid state - {state}")))
    }

    /// DeleteSnapshot.
    ///
    /// # Errors
    /// InvalidSnapshot.InUse while an image is registered from it.
    pub fn delete_snapshot(&mut self, now_ms: u64, id: &SnapshotId) -> Result<(), ApiError> {
        self.begin(now_ms, "DeleteSnapshot")?;
        self.known_snapshot(id)?;
        if let Some(image) = self.images.values().find(|image| image.uses(id)) {
            let message = format!("The snapshot {id} is currently in use by {}", image.id);
            return Err(ApiError::new("InvalidSnapshot.InUse", message));
        }
        self.snapshots.remove(id);
        Ok(())
    }

    /// RegisterImage. The name is unique; there is no client token.
    ///
    /// # Errors
    /// InvalidAMIName.Duplicate, IncorrectState while the snapshot is pending, InvalidAMIName.Malformed.
    pub fn register_image(&mut self, now_ms: u64, request: &ImageRequest) -> Result<ImageId, ApiError> {
        self.register_image_with(now_ms, request, &[])
    }

    /// RegisterImage with more devices than the root; an entry for the root device may change its type, its
    /// size and its DeleteOnTermination.
    ///
    /// # Errors
    /// As [`register_image`](Self::register_image), for each snapshot.
    pub fn register_image_with(
        &mut self,
        now_ms: u64,
        request: &ImageRequest,
        devices: &[DeviceMapping],
    ) -> Result<ImageId, ApiError> {
        self.begin(now_ms, "RegisterImage")?;
        self.check_image_name(&request.name)?;
        self.completed_snapshot(&request.root_snapshot)?;
        for snapshot in devices.iter().filter_map(|device| device.snapshot.as_ref()) {
            self.completed_snapshot(snapshot)?;
        }
        let id = self.add_image(request, devices.to_vec());
        self.after(self.settings.latencies.image, Transition::ImageAvailable(id.clone()));
        self.advance(self.now_ms);
        Ok(id)
    }

    fn check_image_name(&self, name: &str) -> Result<(), ApiError> {
        if !(3..=128).contains(&name.len()) {
            return Err(ApiError::new("InvalidAMIName.Malformed", "AMI names have 3 to 128 characters"));
        }
        if let Some(image) = self.images.values().find(|image| image.name == name) {
            let message = format!("AMI name {} is already in use by AMI {}", image.name, image.id);
            return Err(ApiError::new("InvalidAMIName.Duplicate", message));
        }
        Ok(())
    }

    fn add_image(&mut self, request: &ImageRequest, devices: Vec<DeviceMapping>) -> ImageId {
        let id = ImageId::parse(&self.fresh("ami-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        self.images.insert(
            id.clone(),
            Image {
                id: id.clone(),
                name: request.name.clone(),
                state: ImageState::Pending,
                traits: request.traits.clone(),
                root_snapshot: request.root_snapshot.clone(),
                devices,
                description: String::new(),
                uefi_data: request.uefi_data.clone(),
                created_at_ms: self.now_ms,
                visible_at_ms,
                tags: request.tags.clone(),
            },
        );
        id
    }

    /// DeregisterImage. Running instances go on; the snapshot stays.
    ///
    /// # Errors
    /// InvalidAMIID.NotFound; AuthFailure for the image that is not ours.
    pub fn deregister_image(&mut self, now_ms: u64, id: &ImageId) -> Result<(), ApiError> {
        self.begin(now_ms, "DeregisterImage")?;
        self.known_image(id)?;
        if *id == self.default_image {
            return Err(ApiError::new("AuthFailure", format!("Not authorized for image:{id}")));
        }
        self.images.remove(id);
        Ok(())
    }
}
