//! What an operation knows about resources that are to be deleted, or were: one list, by resource.

use std::collections::BTreeMap;

use crate::model::aws::{SnapshotId, VolumeId};
use crate::model::resources::{Origin, Orphan, Resource, ResourceId};

/// Why a resource is in the list. A resource that becomes an orphan stays one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The rules of the operation delete it: an old image, or what a deletion does not keep.
    Superfluous,
    /// A snapshot of a volume of the node that this operation took; it stays while it is needed.
    Copy,
    /// A root that was only booted once.
    Temporary,
    /// Nothing needs it: left by an earlier operation, or by a step of this one.
    Orphan(Orphan),
}

/// How far the deletion of a resource is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It exists, as far as known.
    Due,
    /// It is deleted, or was seen gone.
    Deleted,
    /// It could not be deleted in this operation.
    Failed {
        /// Why.
        because: String,
    },
}

/// The list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleanup {
    resources: BTreeMap<ResourceId, (Why, Progress)>,
}

impl Cleanup {
    /// A list of orphans.
    pub(crate) fn of(orphans: impl IntoIterator<Item = Orphan>) -> Self {
        let mut cleanup = Self::default();
        for orphan in orphans {
            cleanup.orphan(orphan.resource, orphan.because);
        }
        cleanup
    }

    /// Nothing needs the resource.
    pub(crate) fn orphan(&mut self, resource: Resource, because: String) {
        let (why, _) = self.entry((&resource).into());
        if !matches!(why, Why::Orphan(_)) {
            *why = Why::Orphan(Orphan { resource, because });
        }
    }

    /// The operation took a snapshot of a volume.
    pub(crate) fn copy(&mut self, snapshot: &SnapshotId) {
        let (why, _) = self.entry(snapshot.into());
        if *why == Why::Superfluous {
            *why = Why::Copy;
        }
    }

    /// A root was only booted once.
    pub(crate) fn temporary(&mut self, volume: &VolumeId) {
        let (why, _) = self.entry(volume.into());
        if *why == Why::Superfluous {
            *why = Why::Temporary;
        }
    }

    /// The resource is deleted, or was seen gone.
    pub(crate) fn deleted(&mut self, resource: impl Into<ResourceId>) {
        self.entry(resource.into()).1 = Progress::Deleted;
    }

    /// The resource could not be deleted.
    pub(crate) fn failed(&mut self, resource: ResourceId, because: String) {
        let (_, progress) = self.entry(resource);
        if *progress != Progress::Deleted {
            *progress = Progress::Failed { because };
        }
    }

    fn entry(&mut self, resource: ResourceId) -> &mut (Why, Progress) {
        self.resources.entry(resource).or_insert((Why::Superfluous, Progress::Due))
    }

    /// Whether the resource is deleted, or was seen gone.
    #[must_use]
    pub fn is_deleted(&self, resource: impl Into<ResourceId>) -> bool {
        self.resources.get(&resource.into()).is_some_and(|(_, progress)| *progress == Progress::Deleted)
    }

    /// Whether a deletion of the resource was not tried yet, or is under way.
    pub(crate) fn is_due(&self, resource: impl Into<ResourceId>) -> bool {
        self.resources.get(&resource.into()).is_none_or(|(_, progress)| *progress == Progress::Due)
    }

    /// Whether the resource is an orphan.
    pub(crate) fn is_orphan(&self, resource: &ResourceId) -> bool {
        self.resources.get(resource).is_some_and(|(why, _)| matches!(why, Why::Orphan(_)))
    }

    /// Why the resource could not be deleted.
    pub(crate) fn failure(&self, resource: &Resource) -> Option<&str> {
        match self.resources.get(&resource.into()) {
            Some((_, Progress::Failed { because })) => Some(because),
            _ => None,
        }
    }

    /// The orphans, deleted ones among them.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = &Orphan> {
        self.resources.values().filter_map(|(why, _)| match why {
            Why::Orphan(orphan) => Some(orphan),
            Why::Superfluous | Why::Copy | Why::Temporary => None,
        })
    }

    /// Where the orphans come from of which it is not known whether they exist.
    pub(crate) fn origins_mut(&mut self) -> impl Iterator<Item = &mut Origin> {
        self.resources.values_mut().filter_map(|(why, _)| match why {
            Why::Orphan(Orphan { resource: Resource::Unsettled { origin, .. }, .. }) => origin.as_mut(),
            _ => None,
        })
    }

    /// The snapshots that the operation took, and that are not orphans.
    pub(crate) fn copies(&self) -> impl Iterator<Item = &SnapshotId> {
        self.resources.iter().filter_map(|(resource, (why, _))| match (resource, why) {
            (ResourceId::Snapshot(snapshot), Why::Copy) => Some(snapshot),
            _ => None,
        })
    }

    /// Roots that were only booted once, and still exist.
    pub(crate) fn temporaries(&self) -> impl Iterator<Item = &VolumeId> {
        self.resources.iter().filter_map(|(resource, (why, progress))| match (resource, why) {
            (ResourceId::Volume(volume), Why::Temporary) if *progress != Progress::Deleted => Some(volume),
            _ => None,
        })
    }

    /// Every resource that is deleted, or was seen gone.
    pub fn all_deleted(&self) -> impl Iterator<Item = &ResourceId> {
        let deleted = self.resources.iter().filter(|(_, (_, progress))| *progress == Progress::Deleted);
        deleted.map(|(resource, _)| resource)
    }
}
