//! The resources that are deleted at the end of an operation, and those that stay listed when a deletion
//! fails.

use crate::model::aws::VolumeId;
use crate::model::operation_id::OperationKind;
use crate::model::resources::{Resource, ResourceId};
use crate::operation::state::{Due, Operation};
use crate::step::backup::BackupEvidence;
use crate::step::evidence::Evidence;
use crate::step::intent::{
    DeleteInterface, DeleteSnapshot, DeleteVolume, DeregisterImage, Find, Intent, SnapshotRoot,
    SnapshotVolume,
};

impl Operation {
    /// Whether an image is still to be deregistered: EC2 refuses to delete its snapshot before.
    pub(crate) fn has_images_to_clean(&self) -> bool {
        let mut orphans = self.facts.cleanup.orphans().map(|orphan| &orphan.resource);
        orphans.any(|resource| matches!(resource, Resource::Image { .. }) && self.is_to_clean(resource))
    }

    /// Whether an intent only cleans up: if it fails, the operation ends without it and lists the resource as
    /// an orphan.
    pub(crate) fn may_be_left(&self, intent: &Intent) -> bool {
        intent.cleans().is_some_and(|resource| {
            self.order.kind != OperationKind::Delete || self.facts.cleanup.is_orphan(&resource)
        })
    }

    /// Whether a resource is still to be cleaned up in this operation.
    pub(crate) fn is_to_clean(&self, resource: impl Into<ResourceId>) -> bool {
        self.facts.cleanup.is_due(resource)
    }
}

/// The size of a volume that an operation took a snapshot of.
pub(crate) fn size_seen(op: &Operation, volume: &VolumeId) -> Option<u32> {
    op.steps.values().find_map(|record| match (record.intent.as_ref(), record.outcome.as_ref()?) {
        (
            Intent::SnapshotRoot(SnapshotRoot { volume: of, .. })
            | Intent::SnapshotVolume(SnapshotVolume { volume: of, .. }),
            (Evidence::SnapshotCompleted { size_gib, .. }, _),
        ) if of == volume => *size_gib,
        (_, (Evidence::Backup(BackupEvidence::Taken { snapshots, .. }), _)) => {
            snapshots.iter().find(|taken| taken.volume == *volume)?.size_gib
        }
        _ => None,
    })
}

/// Resources that earlier operations could not clean up.
pub(crate) fn orphans(op: &Operation) -> Vec<Due> {
    let images_left = op.has_images_to_clean();
    let left = op.facts.cleanup.orphans().map(|orphan| &orphan.resource);
    left.filter(|resource| op.is_to_clean(*resource))
        .filter(|resource| !(images_left && matches!(resource, Resource::Snapshot { .. })))
        .filter_map(|resource| clean(resource).map(Due::from))
        .collect()
}

/// The intent that cleans a resource up; `None` for an instance, which is fenced.
pub(crate) fn clean(resource: &Resource) -> Option<Intent> {
    Some(match resource {
        Resource::Volume { volume } => Intent::DeleteVolume(DeleteVolume {
            volume: volume.clone(),
            role: "left over".to_owned(),
            retained: None,
        }),
        Resource::Snapshot { snapshot } => {
            Intent::DeleteSnapshot(DeleteSnapshot { snapshot: snapshot.clone() })
        }
        Resource::Interface { interface } => {
            Intent::DeleteInterface(DeleteInterface { interface: interface.clone() })
        }
        Resource::Image { image } => Intent::DeregisterImage(DeregisterImage { image: image.clone() }),
        Resource::Unsettled { kind: made, tags, origin } => {
            Intent::Find(Find { kind: *made, tags: tags.clone(), origin: origin.clone() })
        }
        Resource::Instance { .. } => return None,
    })
}
