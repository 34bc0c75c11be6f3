//! The resources that are deleted at the end of an operation, and those that stay listed when a deletion
//! fails.

use crate::model::aws::VolumeId;
use crate::model::operation_id::OperationKind;
use crate::model::resources::{Orphan, Resource};
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
        let images = self.facts.orphans.iter().filter(|left| matches!(left.resource, Resource::Image { .. }));
        images.into_iter().any(|left| self.is_to_clean(&left.resource.id()))
    }
}

impl Operation {
    /// Whether an intent only cleans up: if it fails, the operation ends without it and lists the resource as
    /// an orphan.
    pub(crate) fn may_be_left(&self, intent: &Intent) -> bool {
        intent.cleans().is_some_and(|id| {
            self.order.kind != OperationKind::Delete
                || self.facts.orphans.iter().any(|left| left.resource.id() == id)
        })
    }

    /// Whether a resource is still to be cleaned up in this operation.
    pub(crate) fn is_to_clean(&self, id: &str) -> bool {
        !self.facts.uncleaned.contains_key(id) && !self.facts.deleted.iter().any(|deleted| deleted == id)
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
    let is_open = |left: &&Orphan| op.is_to_clean(&left.resource.id());
    let images_left = op.has_images_to_clean();
    let left = op.facts.orphans.iter().filter(is_open);
    left.filter(|left| !(images_left && matches!(left.resource, Resource::Snapshot { .. })))
        .filter_map(|left| clean(&left.resource).map(Due::from))
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
