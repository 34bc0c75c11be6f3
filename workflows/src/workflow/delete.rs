//! # Delete: ends a node and keeps what the request names
//!
//! ```text
//!  preserve:i ─ fence:i ─┬─ release:x ─── delete_volume:x      (unless kept)
//!                        └─ release_interface ─ delete_interface
//!                           deregister_image ─ delete_snapshot ─ done
//! ```
//!
//! - `preserve:i`, `fence:i`, `release:*`: as in [`replace`](super::replace).
//!   - On failure: a resource that no longer exists counts as released and deleted.
//! - `delete_volume:v`
//!   - May start when: the volume's class is not kept, and the volume was seen free.
//!   - Does: DeleteVolume by id. Observed by: not found.
//!   - On failure: stuck.
//! - `delete_interface`
//!   - May start when: the interface is not kept, and is free.
//!   - Does: DeleteNetworkInterface. Observed by: not found.
//!   - On failure: stuck.
//! - `return_address`
//!   - May start when: the mode is `ip_pool` and everything is fenced. A node with several addresses returns
//!     one after the other.
//!   - Does: only describes. Observed by: no interface of the node has the address.
//!   - On failure: stuck.
//! - `deregister_image:a`, `delete_snapshot:s`
//!   - May start when: they are not kept.
//!   - Observed by: not found.
//!   - On failure: stuck.
//!
//! The termination deletes nothing as a side effect: every resource is first made to survive it, and is then
//! deleted by id. Kept resources stay listed in the node's last event. Nothing is undone.

use crate::model::resources::{ResourceId, Resources};
use crate::model::restore::Keep;
use crate::model::volume::Slot;
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation};
use crate::rules::{
    address_pool, address_retention, attached_volumes, cleanup, existing_volumes, interface, release,
};
use crate::step::intent::{DeleteInterface, DeleteSnapshot, DeleteVolume, DeregisterImage, Intent};

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    let (unsettled, others): (Vec<Due>, Vec<Due>) =
        cleanup::orphans(op).into_iter().partition(|due| matches!(due.intent, Intent::Find(_)));
    let all_known = unsettled.is_empty();
    due.extend(unsettled);
    if all_known {
        due.extend(address_pool::give_back(op));
    }
    if all_known && op.facts.holders.iter().all(|holder| holder.fenced) {
        due.extend(others);
        due.extend(disposals(op).into_iter().filter_map(|(resource, intent)| {
            let free = match &intent {
                Intent::DeleteVolume(DeleteVolume { volume, .. }) => op
                    .facts
                    .volumes
                    .values()
                    .find(|fact| fact.id.as_ref() == Some(volume))
                    .is_none_or(|fact| fact.place == Place::Free),
                Intent::DeleteInterface(DeleteInterface { interface }) => interface::is_free(op, interface),
                // EC2 refuses to delete a snapshot while its image is registered.
                Intent::DeleteSnapshot(DeleteSnapshot { snapshot }) => op
                    .order
                    .before
                    .root_images
                    .iter()
                    .filter(|root| root.snapshot == *snapshot)
                    .all(|root| op.facts.cleanup.is_deleted(&root.image)),
                _ => true,
            };
            (free && !op.facts.cleanup.is_deleted(resource)).then(|| intent.into())
        }));
    }
    due
}

fn keep(op: &Operation) -> Keep {
    op.order.keep.unwrap_or(Keep { root: true, data: true, network: true, backups: true })
}

/// Everything that is to be deleted.
fn disposals(op: &Operation) -> Vec<(ResourceId, Intent)> {
    let keep = keep(op);
    let before = &op.order.before;
    let mut list = Vec::new();
    for (slot, held) in &before.volumes {
        let kept = match slot {
            Slot::Root => keep.root,
            Slot::Data(_) => keep.data,
        };
        // Volumes that existed before the node stay.
        if !kept
            && !existing_volumes::is_taken(op, &held.volume)
            && !attached_volumes::is_foreign(held.found.as_ref())
        {
            let (volume, role) = (held.volume.clone(), slot.to_string());
            let intent = Intent::DeleteVolume(DeleteVolume { volume, role, retained: None });
            list.push(((&held.volume).into(), intent));
        }
    }
    for old in &before.retained {
        let kept = match old.slot {
            Slot::Root => keep.root,
            Slot::Data(_) => keep.data,
        };
        if !kept && !existing_volumes::is_taken(op, &old.volume) && !old.foreign {
            let (volume, role) = (old.volume.clone(), format!("retained {}", old.slot));
            let intent = Intent::DeleteVolume(DeleteVolume { volume, role, retained: None });
            list.push(((&old.volume).into(), intent));
        }
    }
    if !keep.network
        && let Some(held) = &before.interface
    {
        list.push((
            (&held.interface).into(),
            Intent::DeleteInterface(DeleteInterface { interface: held.interface.clone() }),
        ));
    }
    // An address that moves does not outlive the node, nor does the interface that has it.
    if let Some(interface) = address_retention::doomed(before) {
        list.push(((&interface).into(), Intent::DeleteInterface(DeleteInterface { interface })));
    }
    if !keep.backups {
        for snapshot in before.volumes.values().filter_map(|held| held.made_from.as_ref()) {
            list.push((
                snapshot.into(),
                Intent::DeleteSnapshot(DeleteSnapshot { snapshot: snapshot.clone() }),
            ));
        }
        for root in &before.root_images {
            list.push((
                (&root.image).into(),
                Intent::DeregisterImage(DeregisterImage { image: root.image.clone() }),
            ));
            if !root.borrowed {
                list.push((
                    (&root.snapshot).into(),
                    Intent::DeleteSnapshot(DeleteSnapshot { snapshot: root.snapshot.clone() }),
                ));
            }
        }
    }
    list
}

/// The node's remaining resources, once every deletion is done and everything else is free.
pub(crate) fn remaining(op: &Operation) -> Option<Resources> {
    let facts = &op.facts;
    let fenced = facts.holders.iter().all(|holder| holder.fenced);
    let free = facts.volumes.values().all(|fact| !matches!(fact.place, Place::On(_)))
        && facts.network.interface.as_ref().is_none_or(|fact| !matches!(fact.place, Place::On(_)));
    let cleaned = op.facts.cleanup.orphans().all(|orphan| !op.is_to_clean(&orphan.resource));
    let disposed = disposals(op).into_iter().all(|(resource, _)| facts.cleanup.is_deleted(resource));
    let returned = address_pool::give_back(op).is_none();
    if !(fenced && free && disposed && cleaned && returned) {
        return None;
    }
    let mut left = op.order.before.clone();
    let cleanup = &facts.cleanup;
    left.carrier = None;
    left.unmanaged = Vec::new();
    // The address stays allocated to the account, which had it before the node.
    left.elastic = None;
    left.volumes.retain(|_, held| !cleanup.is_deleted(&held.volume));
    // What may have been attached is not deleted because of its tags.
    left.retained.extend(facts.superseded.iter().cloned());
    left.retained.retain(|old| !cleanup.is_deleted(&old.volume));
    // The copy with its content is deleted, so a new node may claim the volume.
    for old in &mut left.retained {
        old.went_on &= left.volumes.contains_key(&old.slot);
    }
    left.root_images.retain(|root| !cleanup.is_deleted(&root.image));
    if left.interface.as_ref().is_some_and(|held| cleanup.is_deleted(&held.interface)) {
        left.interface = None;
    }
    if left.interface.is_none() {
        left.address = None;
    }
    left.address_interface = None;
    left.addresses_elsewhere.clone_from(&facts.network.addresses_elsewhere);
    // If no resource is left, a node of the same name starts where its file says.
    if left.interface.is_none() && left.volumes.is_empty() {
        left.subnet = None;
    }
    // The variables are read before the instance ends, and are deleted with the root.
    left.uefi_data = facts.uefi_data.clone().filter(|_| left.volumes.contains_key(&Slot::Root));
    left.orphans = op.orphans();
    Some(left)
}
