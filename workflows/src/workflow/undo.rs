//! # Undo: a cancelled operation ends as if it had not begun
//!
//! Before the point of no return a replacement (or deletion) is undone: launched instances are fenced,
//! resources taken from the old instance go back to it, created resources are deleted. The point of no return
//! is the *intention* to fence the old instance; from then on the workflow only moves forward. A provision
//! can be undone at any time: volumes that one of its instances may have written to stay, listed with the
//! node, and are used again when the node is applied again.
//!
//! ```text
//!  (open requests settle) ─ fence:new ─┬─ release:x ─ attach:x (old) ─┐
//!                                      ├─ delete_volume:… ────────────┼─ cancelled
//!              move_address (old) ─────┴─ delete_interface … ─────────┘
//! ```
//!
//! - Open steps
//!   - A create that is under way settles as usual. A launch that waits for its time is withdrawn.
//!   - On failure: if a step does not settle in time, `find`.
//! - `preserve:i`, `fence:i`
//!   - May start when: for every instance but the old one.
//!   - Does: as in [`replace`](super::replace).
//!   - On failure: stuck.
//! - `release:x`, `release_interface`
//!   - May start when: its holder is fenced.
//!   - On failure: if the resource no longer exists: stuck. A provision counts it as deleted, and a resume
//!     leaves the root to the next one where that restores it.
//! - `attach:x`
//!   - May start when: the volume has left the old instance, or a detach was tried.
//!   - Does: AttachVolume to the old instance.
//!   - On failure: if the old instance is lost, the operation goes forward after all.
//! - `attach_interface`
//!   - May start when: the second interface has left the old instance. If it no longer exists, it is created
//!     again.
//!   - Does: AttachNetworkInterface to the old instance.
//!   - On failure: as `attach:x`.
//! - `move_address`, `associate_elastic_ip`
//!   - May start when: the address may have moved.
//!   - Does: moves it back to the old instance's interface.
//!   - On failure: as `attach:x`.
//! - `delete_volume:x`, `delete_interface`, `deregister_image`, `delete_snapshot`
//!   - May start when: this operation created the resource, no instance ever used it, and everything else is
//!     fenced.
//!   - On failure: the resource stays listed as an orphan.
//! - `find:s`
//!   - May start when: a step may have created a resource.
//!   - Does: looks by tags for five minutes.
//!   - On failure: the resource stays listed as an orphan.
//!
//! A requested detach of a running instance's volume cannot be called back. While the old instance's
//! operating system still uses the volume, the workflow waits for it, and is stuck after a while. Once it is
//! unmounted there, the volume leaves and is attached again.
//!
//! If the old instance is lost meanwhile, there is nothing to return to: the operation goes forward after
//! all. DeleteOnTermination stays false on the volumes that the old instance holds.

use crate::model::operation_id;
use crate::model::operation_id::OperationKind;
use crate::model::resources::{Resource, Resources, Retained};
use crate::operation::facts::{Holder, Place};
use crate::operation::state::{Due, Operation};
use crate::rules::superseded::made;
use crate::rules::{
    acquire, address_pool, address_retention, attached_volumes, cleanup, existing_volumes, interface, release,
};
use crate::step::intent::{Associate, Attach, Intent, MoveAddress};
use crate::workflow::prune;

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    if let Some(old) = op.old() {
        put_back(op, old, &mut due);
    }
    if op.facts.holders.iter().any(|holder| !holder.is_old && !holder.fenced) {
        return due;
    }
    for resource in made(op) {
        if op.is_to_clean(&resource) && is_free(op, &resource) {
            due.extend(cleanup::clean(&resource).map(Due::from));
        }
    }
    // An operation that gives way to all others ends at once.
    if !operation_id::is_in_place(op.order.kind) {
        due.extend(cleanup::orphans(op));
    }
    due.extend(address_pool::give_back(op));
    due
}

/// Returns to the old instance the resources that were taken from it.
fn put_back(op: &Operation, old: &Holder, due: &mut Vec<Due>) {
    for (slot, held) in &op.order.before.volumes {
        let Some(fact) = op.facts.volumes.get(slot) else { continue };
        if fact.place == Place::Free && fact.id.as_ref() == Some(&held.volume) {
            due.push(
                Intent::Attach(Attach {
                    slot: slot.clone(),
                    volume: held.volume.clone(),
                    instance: old.instance.clone(),
                    device: fact.device.clone(),
                })
                .into(),
            );
        }
    }
    due.extend(interface::put_back(op, &old.instance));
    let elastic_may_have_moved =
        op.steps.values().any(|record| matches!(record.intent.as_ref(), Intent::Associate(_)));
    if !is_address_back(op, old)
        && let (Some(carrier), Some(address)) = (&op.order.before.carrier, op.order.before.address)
    {
        due.push(
            Intent::MoveAddress(MoveAddress {
                instance: old.instance.clone(),
                interface: carrier.interface.clone(),
                address: Some(address),
                from: op.own_instances(&old.instance),
                own: op.own_tags(),
            })
            .into(),
        );
        // The Elastic IP address follows it.
        return;
    }
    if elastic_may_have_moved
        && let (Some(carrier), Some(held)) = (&op.order.before.carrier, &op.order.before.elastic)
        && !acquire::leads_to(op, &held.allocation, &old.instance)
    {
        due.push(
            Intent::Associate(Associate {
                allocation: held.allocation.clone(),
                instance: old.instance.clone(),
                interface: interface::addressed(op, None, &carrier.interface),
                private_ip: op.order.before.address.filter(|_| op.order.spec.persist.network.moves_address()),
                from: op.own_instances(&old.instance),
                own: op.own_tags(),
            })
            .into(),
        );
    }
}

/// Whether the address that moves is known to be on the old instance.
fn is_address_back(op: &Operation, old: &Holder) -> bool {
    let may_have_moved =
        op.steps.values().any(|record| matches!(record.intent.as_ref(), Intent::MoveAddress(_)));
    !op.order.spec.persist.network.moves_address()
        || !may_have_moved
        || op.facts.network.address_on.as_ref() == Some(&old.instance)
}

/// Whether no instance of the operation holds it any more.
fn is_free(op: &Operation, resource: &Resource) -> bool {
    let facts = &op.facts;
    match resource {
        Resource::Volume { volume } => facts
            .volumes
            .values()
            .find(|fact| fact.id.as_ref() == Some(volume))
            .is_none_or(|fact| fact.place == Place::Free),
        // An interface that has the address keeps it until the old instance has it again.
        Resource::Interface { interface } => {
            interface::is_free(op, interface) && op.old().is_none_or(|old| is_address_back(op, old))
        }
        // EC2 refuses to delete a snapshot while its image is registered.
        Resource::Snapshot { .. } => {
            facts.root.image.as_ref().is_none_or(|image| facts.cleanup.is_deleted(image))
                && !op.has_images_to_clean()
        }
        Resource::Image { .. } | Resource::Instance { .. } | Resource::Unsettled { .. } => true,
    }
}

/// The node's resources, once everything is back.
pub(crate) fn restored(op: &Operation) -> Option<Resources> {
    let facts = &op.facts;
    if facts.holders.iter().any(|holder| !holder.is_old && !holder.fenced) || !rules(op).is_empty() {
        return None;
    }
    let mut left = prune::remaining(op);
    for (slot, fact) in &facts.volumes {
        let Some(volume) = fact.id.as_ref().filter(|_| fact.may_have_content()) else { continue };
        if left.volumes.values().any(|held| held.volume == *volume) {
            continue;
        }
        if op.order.kind == OperationKind::Provision {
            left.volumes.insert(slot.clone(), fact.held(volume));
        } else {
            let because = format!("{}: cancelled; an instance of its may have written to it", op.id);
            left.retained.push(Retained {
                foreign: attached_volumes::is_foreign(fact.found.as_ref())
                    || existing_volumes::is_taken(op, volume),
                ..Retained::new(volume.clone(), slot.clone(), because)
            });
        }
    }
    for (slot, held) in &mut left.volumes {
        if let Some(fact) = op.facts.volumes.get(slot) {
            held.size_gib = fact.size_gib.or(held.size_gib);
            held.device.clone_from(&fact.device);
        }
    }
    left.volumes.retain(|_, held| !facts.cleanup.is_deleted(&held.volume));
    // Volumes whose content continues in a copy that stays.
    let is_held = |old: &&Retained| left.volumes.values().any(|held| held.volume == old.volume);
    let superseded: Vec<Retained> = facts.superseded.iter().filter(|old| !is_held(old)).cloned().collect();
    left.retained.extend(superseded);
    if op.order.kind == OperationKind::Provision && op.order.spec.pool().is_some() {
        (left.address, left.addresses_elsewhere) = (None, Default::default());
    }
    if interface::goes_back(op) {
        left.interface = facts.network.interface.as_ref().and_then(|fact| fact.held.clone());
    }
    if op.order.kind == OperationKind::Resume {
        left.address_interface = address_retention::keeper(op);
    }
    left.retained.extend(op.outlived("cancelled; the root of its instance"));
    left.orphans = op.orphans();
    Some(left)
}
