//! The root method between the same volume and an image of it: a clone of the root volume (CopyVolumes) is
//! adopted in its place.
//!
//! A replacement task with the node's own root volume can end as `failed` (the instance keeps its root) or
//! `failed-detached` (it has none). The volume or the instance may be at fault, and EC2 does not say which. A
//! copy of the volume on another instance rules both out, without the minutes that a snapshot takes. If EC2
//! refuses the call itself (not supported, not allowed, a quota), or its outcome is unknown after its time,
//! it would refuse a copy in the same way: the image is next.
//!
//! ```text
//!  adopt_root ─ failed ─► fence ─ release:root ─ clone_root ─ launch ─ adopt_root (the clone) ─► the clone
//!                                                    │                     │                     is the root
//!                                                    └─ refused ───────────┴─ refused or failed ─► image
//! ```
//!
//! - If the clone is adopted, the old volume is retained.
//! - If the image is used, it is of the old volume, and the clone is deleted.
//! - `clone_root`
//!   - May start when: the root method is `clone`, the root is free, and the next instance is in its zone.
//!   - Does: CopyVolumes with a client token. Observed by: the volume, available.
//!   - On failure: refused, failed or unknown: method `image`. If the call may have created a volume, it is
//!     looked for.
//!
//! The clone is the node's root as soon as it exists: it is carried, released, preserved and adopted as the
//! same volume is. The old volume is *retained*: no step here deletes it. A clone whose adoption certainly
//! failed holds only what the old volume holds, and is deleted. A clone whose adoption has an unknown outcome
//! may have been booted, and is the root that continues.
//!
//! Not verified on a live account: a copy that is still being initialised as a root; its speed; the errors of
//! CopyVolumes.

use crate::model::aws::{InstanceId, VolumeId};
use crate::model::root::RootMethod;
use crate::model::volume::Slot;
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation};
use crate::step::evidence::Evidence;
use crate::step::intent::{AdoptRoot, CloneRoot, Intent};
use crate::step::name::Only;

/// The root method after an adoption that did not succeed.
pub(crate) fn after_adoption(op: &Operation, evidence: &Evidence) -> RootMethod {
    let failed = matches!(evidence, Evidence::AdoptRefused { code, .. } if code == "failed" || code == "failed-detached");
    if failed && op.facts.root.method == RootMethod::Adopt { RootMethod::Clone } else { RootMethod::Image }
}

/// The copy of the root volume, once that is free.
pub(crate) fn clone(op: &Operation) -> Option<Due> {
    let root = op.facts.volumes.get(&Slot::Root)?;
    let (Place::Free, Some(volume), None) = (&root.place, &root.id, &op.facts.root.cloned_from) else {
        return None;
    };
    let intent = Intent::CloneRoot(CloneRoot {
        volume: volume.clone(),
        client_token: op.client_token(&Only::CloneRoot.into()),
        tags: op.tags(&Only::CloneRoot.into(), "root"),
    });
    Some(intent.into())
}

/// Whether the root that this method adopts exists.
pub(crate) fn is_ready(op: &Operation, root_method: RootMethod) -> bool {
    match root_method {
        RootMethod::Adopt => true,
        RootMethod::Clone => op.facts.root.cloned_from.is_some(),
        RootMethod::Fresh | RootMethod::Image => false,
    }
}

/// The clone exists: it is the node's root from now on.
pub(crate) fn cloned(op: &mut Operation, of: &VolumeId, clone: &VolumeId) {
    let Some(root) = op.facts.volumes.get(&Slot::Root) else { return };
    if root.id.as_ref() != Some(of) {
        return;
    }
    let superseded = op.superseded(&Slot::Root, root, "the root went on as a clone of it");
    op.facts.superseded.extend(superseded);
    let Some(root) = op.facts.volumes.get_mut(&Slot::Root) else { return };
    root.id = Some(clone.clone());
    root.place = Place::Free;
    root.touched = false;
    op.facts.root.cloned_from = Some(of.clone());
}

/// The root continues as an image: of the old volume, unless the clone may have been booted.
pub(crate) fn give_back(op: &mut Operation) {
    let Some(root) = op.facts.volumes.get_mut(&Slot::Root) else { return };
    let Some(clone) = root.id.clone() else { return };
    let tried = op.steps.values().rev().find(
        |record| matches!(record.intent.as_ref(), Intent::AdoptRoot(AdoptRoot { volume, .. }) if *volume == clone),
    );
    let surely_failed = tried.is_none_or(|record| {
        matches!(record.outcome, Some((Evidence::AdoptRefused { .. } | Evidence::Refused { .. }, _)))
    });
    if !surely_failed {
        return;
    }
    let Some(old) = op.facts.root.cloned_from.take() else { return };
    op.facts.superseded.retain(|retained| retained.volume != old);
    root.id = Some(old);
    root.place = Place::Free;
    op.facts.add_temporary(&clone);
}

/// The instance of the last adoption that was tried.
pub(crate) fn tried_on(op: &Operation) -> Option<InstanceId> {
    op.steps.values().rev().find_map(|record| match record.intent.as_ref() {
        Intent::AdoptRoot(AdoptRoot { instance, .. }) => Some(instance.clone()),
        _ => None,
    })
}
