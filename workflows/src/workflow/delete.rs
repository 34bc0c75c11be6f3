//! # Delete: the end of a node, keeping what the request says
//!
//! ```text
//!  preserve:i ─ fence:i ─┬─ release:x ─── delete_volume:x      (unless kept)
//!                        └─ release_interface ─ delete_interface
//!                           deregister_image ─ delete_snapshot ─ done
//! ```
//!
//! | step | may start when | does | observed by | on failure |
//! | --- | --- | --- | --- | --- |
//! | `preserve:i`, `fence:i`, `release:*` | as in `replace` | | | gone for ever: counts as released and deleted |
//! | `delete_volume:v` | its class is not kept, it was seen free | DeleteVolume by id | not found | stuck |
//! | `delete_interface` | not kept, free | DeleteNetworkInterface | not found | stuck |
//! | `return_address` | `ip_pool`, everything fenced; one after the other, where it has several | – | no interface of the node's has the address | stuck |
//! | `deregister_image:a`, `delete_snapshot:s` | not kept | – | not found | stuck |
//!
//! Nothing is ever deleted as a side effect of the termination: everything is made to survive it first, and what goes,
//! goes by id. What is kept stays listed in the node's last event. There is no undo.

use crate::model::resources::Resources;
use crate::model::restore::Keep;
use crate::model::volume::Slot;
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation};
use crate::rules::{
    address_pool, address_retention, attached_volumes, cleanup, existing_volumes, interface, release,
};
use crate::step::intent::Intent;

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    let (unsettled, others): (Vec<Due>, Vec<Due>) =
        cleanup::orphans(op).into_iter().partition(|due| matches!(due.intent, Intent::Find { .. }));
    let all_known = unsettled.is_empty();
    due.extend(unsettled);
    if all_known {
        due.extend(address_pool::give_back(op));
    }
    if all_known && op.facts.holders.iter().all(|holder| holder.fenced) {
        due.extend(others);
        due.extend(disposals(op).into_iter().filter_map(|(id, intent)| {
            let free = match &intent {
                Intent::DeleteVolume { volume, .. } => op
                    .facts
                    .volumes
                    .values()
                    .find(|fact| fact.id.as_ref() == Some(volume))
                    .is_none_or(|fact| fact.place == Place::Free),
                Intent::DeleteInterface { interface } => interface::is_free(op, interface),
                // A snapshot cannot go while its image is registered.
                Intent::DeleteSnapshot { snapshot } => op
                    .order
                    .before
                    .root_images
                    .iter()
                    .filter(|root| root.snapshot == *snapshot)
                    .all(|root| op.facts.deleted.contains(&root.image.to_string())),
                _ => true,
            };
            (free && !op.facts.deleted.contains(&id)).then(|| intent.into())
        }));
    }
    due
}

fn keep(op: &Operation) -> Keep {
    op.order.keep.unwrap_or(Keep { root: true, data: true, network: true, backups: true })
}

/// Everything that is to go, by id.
fn disposals(op: &Operation) -> Vec<(String, Intent)> {
    let keep = keep(op);
    let before = &op.order.before;
    let mut list = Vec::new();
    for (slot, held) in &before.volumes {
        let kept = match slot {
            Slot::Root => keep.root,
            Slot::Data(_) => keep.data,
        };
        // What was there before the node stays.
        if !kept
            && !existing_volumes::is_taken(op, &held.volume)
            && !attached_volumes::is_foreign(held.found.as_ref())
        {
            let (volume, role) = (held.volume.clone(), slot.to_string());
            let intent = Intent::DeleteVolume { volume, role, retained: None };
            list.push((held.volume.to_string(), intent));
        }
    }
    for old in &before.retained {
        let kept = match old.slot {
            Slot::Root => keep.root,
            Slot::Data(_) => keep.data,
        };
        if !kept && !existing_volumes::is_taken(op, &old.volume) && !old.foreign {
            let (volume, role) = (old.volume.clone(), format!("retained {}", old.slot));
            let intent = Intent::DeleteVolume { volume, role, retained: None };
            list.push((old.volume.to_string(), intent));
        }
    }
    if !keep.network
        && let Some(held) = &before.interface
    {
        list.push((
            held.interface.to_string(),
            Intent::DeleteInterface { interface: held.interface.clone() },
        ));
    }
    // An address that moves does not outlive the node, nor does what has it.
    if let Some(interface) = address_retention::doomed(before) {
        list.push((interface.to_string(), Intent::DeleteInterface { interface }));
    }
    if !keep.backups {
        for snapshot in before.volumes.values().filter_map(|held| held.made_from.as_ref()) {
            list.push((snapshot.to_string(), Intent::DeleteSnapshot { snapshot: snapshot.clone() }));
        }
        for root in &before.root_images {
            list.push((root.image.to_string(), Intent::DeregisterImage { image: root.image.clone() }));
            if !root.borrowed {
                list.push((
                    root.snapshot.to_string(),
                    Intent::DeleteSnapshot { snapshot: root.snapshot.clone() },
                ));
            }
        }
    }
    list
}

/// What remains, if everything that is to go is gone and everything else is free.
pub(crate) fn remaining(op: &Operation) -> Option<Resources> {
    let facts = &op.facts;
    let fenced = facts.holders.iter().all(|holder| holder.fenced);
    let free = facts.volumes.values().all(|fact| !matches!(fact.place, Place::On(_)))
        && facts.interface.as_ref().is_none_or(|fact| !matches!(fact.place, Place::On(_)));
    let cleaned = op.facts.orphans.iter().all(|left| !op.is_to_clean(&left.resource.id()));
    let disposed = disposals(op).iter().all(|(id, _)| facts.deleted.contains(id));
    let returned = address_pool::give_back(op).is_none();
    if !(fenced && free && disposed && cleaned && returned) {
        return None;
    }
    let mut left = op.order.before.clone();
    let deleted = |id: String| facts.deleted.contains(&id);
    left.carrier = None;
    left.unmanaged = Vec::new();
    // It stays allocated to the account, which had it before the node.
    left.elastic = None;
    left.volumes.retain(|_, held| !deleted(held.volume.to_string()));
    left.retained.retain(|old| !deleted(old.volume.to_string()));
    // What its content went on in is gone: it may be taken again.
    for old in &mut left.retained {
        old.went_on &= left.volumes.contains_key(&old.slot);
    }
    left.root_images.retain(|root| !deleted(root.image.to_string()));
    if left.interface.as_ref().is_some_and(|held| deleted(held.interface.to_string())) {
        left.interface = None;
    }
    if left.interface.is_none() {
        left.address = None;
    }
    left.address_interface = None;
    left.addresses_elsewhere.clone_from(&facts.addresses_elsewhere);
    // With nothing that is there, a node of the same name begins where its file says.
    if left.interface.is_none() && left.volumes.is_empty() {
        left.subnet = None;
    }
    // They are read before the instance ends, and go with the root.
    left.uefi_data = facts.uefi_data.clone().filter(|_| left.volumes.contains_key(&Slot::Root));
    left.orphans = op.orphans();
    Some(left)
}
