//! Volumes that were attached to the instance from outside Perennial while it carried the node: the node
//! adopts them.
//!
//! - `preserve:i` of `adopt_volumes`
//!   - May start when: the sweep saw a volume on the carrier that is not the node's.
//!   - Does: DeleteOnTermination=false on it. Observed by: the volume, the instance.
//!   - On failure: if the instance is lost, no volume is adopted, and the replacement looks again; otherwise
//!     stuck.
//! - `preserve:old` of `replace`, `pause`, `delete`
//!   - May start when: as usual, before any resource leaves the instance.
//!   - Does the same, observed by the same. On failure: as usual.
//!
//! Both steps make the same check. A volume that is attached to the instance, is not a root, belongs to one
//! instance at a time and carries no tag of Perennial is adopted in the append that settles the step
//! (`volume_found`). Its name is its tag `Name` where that is a free name, else that of its device. From then
//! on it is carried like any data volume: reattached, copied where the node is copied, part of backups and
//! restores. A volume that may not be adopted is left alone and listed once, as an *unmanaged volume*:
//! Perennial never detaches it, and stopping its instance is up to its owner.
//!
//! Perennial did not create an adopted volume, so no deletion deletes it; copies of it are the node's own.
//! When it is detached from outside while the node is well, it is given back (`volume_left`). A volume of the
//! file is not given back.
//!
//! # Volumes that the image maps
//! An image can map EBS volumes beside its root. Every launch would create them again, and each termination
//! would delete them. With `keep` no launch creates them:
//!
//! - A provision creates volumes of the node as they are mapped (`create_volume:x`, from the mapping's
//!   snapshot) and attaches them at the mapped device. From then on they return with the node.
//! - A volume of the file at such a device replaces the mapped one.
//! - They are the node's own: a deletion treats them as data.
//! - Instance store is as the image says. Images that are registered from a root map the root alone.
//!
//! `adopt_volumes` holds the node for a moment and gives way to every other operation, as a growth does.
//! After the operator cancels one, none begins for its volumes for an hour (`SNOOZE_MS`), or until a
//! changed file is applied or another instance carries the node. An operation that looks at the instance for
//! another reason adopts them even so.
//!
//! # Limits
//! A volume does not record where it was attached. So Perennial does not know of a volume that was attached
//! after the last sweep to an instance that is then lost without a notice. It survives by EC2's default
//! (DeleteOnTermination of a volume attached later is false), free, and is not the node's. Once it is
//! attached to the new instance, the node adopts it.

use crate::model::aws::{ImageId, InstanceId};
use crate::model::name::NodeName;
use crate::model::operation_id::OperationKind;
use crate::model::resources::HeldVolume;
use crate::model::restore::Restore;
use crate::model::volume::{Found, OtherVolumes, Slot, UNMANAGED_VOLUMES_MAX};
use crate::operation::event::OperationEvent;
use crate::operation::facts::{Place, VolumeFact};
use crate::operation::state::Operation;
use crate::rules::{device_names, existing_volumes};
use crate::spec::checks::canonical_device;
use crate::spec::node::{AttachedVolumes, DATA_VOLUMES_MAX, DataVolumeSpec, NodeSpec};
use crate::step::evidence::Evidence;
use crate::step::intent::{LaunchVolume, Preserve};

/// The check of other volumes that the step `preserve` makes beside the node's own.
pub(crate) fn others(op: &Operation, instance: &InstanceId) -> Option<OtherVolumes> {
    let carries = op.order.before.carrier.as_ref().is_some_and(|carrier| carrier.instance == *instance);
    (carries && op.order.spec.persist.attached_volumes == AttachedVolumes::Keep).then(OtherVolumes::default)
}

/// The result of a look at an instance: every volume that the node adopts, with its name.
pub(crate) fn taken(op: &Operation, asked: &Preserve, evidence: &Evidence) -> Vec<OperationEvent> {
    let Evidence::PreservedWith { found, .. } = evidence else { return Vec::new() };
    if asked.others.is_none() {
        return Vec::new();
    }
    let mut slots: Vec<Slot> = op.facts.volumes.keys().cloned().collect();
    let mut events = Vec::new();
    for seen in found {
        let known = op.facts.volumes.values().any(|fact| fact.id.as_ref() == Some(&seen.volume));
        if known || slots.len() > DATA_VOLUMES_MAX {
            continue;
        }
        let slot = Slot::Data(name(&op.order.spec, &slots, &seen.device, seen.name.as_deref()));
        slots.push(slot.clone());
        events.push(OperationEvent::VolumeFound {
            instance: asked.instance.clone(),
            slot,
            held: HeldVolume {
                volume: seen.volume.clone(),
                device: seen.device.clone(),
                size_gib: Some(seen.size_gib),
                zone: None,
                made_from: None,
                found: Some(seen.traits.clone()),
            },
        });
    }
    events
}

/// A lasting name: the volume's own if it is a free name, else that of its device.
#[must_use]
pub fn name(spec: &NodeSpec, slots: &[Slot], device: &str, own: Option<&str>) -> NodeName {
    let free = |name: &NodeName| {
        name.as_str() != "root"
            && spec.data_volumes.iter().all(|wanted| wanted.name != *name)
            && !slots.contains(&Slot::Data(name.clone()))
    };
    let own = own.and_then(|name| NodeName::parse(name).ok());
    if let Some(own) = own.filter(free) {
        return own;
    }
    let device: String = device.rsplit('/').next().unwrap_or_default().to_lowercase();
    let device: String = device.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    let device =
        if device.starts_with(|c: char| c.is_ascii_lowercase()) { device } else { "found".to_owned() };
    let names = std::iter::once(device.clone()).chain((2..).map(|n: u32| format!("{device}-{n}")));
    let mut names = names.filter_map(|name| NodeName::parse(&name).ok());
    names.find(free).unwrap_or_else(|| unreachable!("BUG: one of endlessly many names is free"))
}

/// At a provision, volumes that the node's image maps become the node's: created as mapped, attached like the
/// others. A volume of the file at the same device replaces a mapped one.
pub(crate) fn map(op: &mut Operation) {
    if op.order.kind != OperationKind::Provision
        || op.order.spec.persist.attached_volumes != AttachedVolumes::Keep
    {
        return;
    }
    // From an image that the file no longer names.
    op.facts.volumes.retain(|slot, fact| {
        *slot == Slot::Root
            || fact.id.is_some()
            || is_of_the_file(&op.order.spec, slot)
            || fact.found.is_none()
    });
    let mapped =
        op.facts.placement.as_ref().map(|placement| placement.image.mapped.clone()).unwrap_or_default();
    let same = |a: &str, b: &str| canonical_device(a) == canonical_device(b);
    for volume in mapped {
        let spec = &op.order.spec;
        let by_the_file = spec.data_volumes.iter().filter_map(|wanted| wanted.device.as_deref());
        let mut kept = op.order.before.volumes.values().map(|held| held.device.as_str());
        if by_the_file.into_iter().any(|device| same(device, &volume.device))
            || kept.any(|device| same(device, &volume.device))
            || op.facts.volumes.len() > DATA_VOLUMES_MAX
        {
            continue;
        }
        let taken: Vec<&str> = op.facts.volumes.values().map(|fact| fact.device.as_str()).collect();
        let device = if taken.iter().any(|device| same(device, &volume.device)) {
            device_names::free(taken).unwrap_or_else(|| volume.device.clone())
        } else {
            volume.device.clone()
        };
        let slots: Vec<Slot> = op.facts.volumes.keys().cloned().collect();
        let slot = Slot::Data(name(spec, &slots, &volume.device, None));
        let found = Found {
            volume_type: volume.volume_type,
            iops: volume.iops,
            throughput: volume.throughput,
            is_copy: true,
            snapshot: volume.snapshot,
            named: false,
        };
        let size_gib = Some(volume.size_gib);
        let fact = VolumeFact { size_gib, found: Some(found), ..VolumeFact::absent(device) };
        op.facts.volumes.insert(slot, fact);
    }
}

/// The devices of the image's mapping at which a launch creates no volume.
pub(crate) fn suppressed(op: &Operation, image: &ImageId, made: &[LaunchVolume]) -> Vec<String> {
    let keeps = op.order.spec.persist.attached_volumes == AttachedVolumes::Keep;
    let placement = op.facts.placement.as_ref().filter(|_| keeps && *image == op.order.spec.image);
    let mapped = placement.map(|placement| placement.image.mapped.as_slice()).unwrap_or_default();
    // A volume of the launch at such a device overrides the image's.
    let is_made = |device: &str| made.iter().any(|volume| volume.device == device);
    mapped.iter().map(|volume| volume.device.clone()).filter(|device| !is_made(device)).collect()
}

/// A volume is the node's from now on; it existed before the operation began.
pub(crate) fn remember(op: &mut Operation, instance: &InstanceId, slot: &Slot, held: &HeldVolume) {
    let fact = VolumeFact {
        id: Some(held.volume.clone()),
        place: Place::On(instance.clone()),
        touched: true,
        unproven: false,
        size_gib: held.size_gib,
        found: held.found.clone(),
        ..VolumeFact::absent(held.device.clone())
    };
    op.facts.volumes.insert(slot.clone(), fact);
    op.order_mut().before.volumes.insert(slot.clone(), held.clone());
}

/// Records the volumes that were left alone, with the reasons.
pub(crate) fn leave(op: &mut Operation, evidence: &Evidence) {
    let Evidence::PreservedWith { unmanaged, .. } = evidence else { return };
    op.order_mut().before.unmanaged = unmanaged.iter().take(UNMANAGED_VOLUMES_MAX).cloned().collect();
}

/// The wanted properties of a data volume, by the file or as it was found.
pub(crate) fn wish(op: &Operation, slot: &Slot) -> Option<DataVolumeSpec> {
    let Slot::Data(name) = slot else { return None };
    if let Some(wanted) = op.order.spec.data_volumes.iter().find(|wanted| wanted.name == *name) {
        return Some(existing_volumes::as_it_is(op, slot, wanted));
    }
    let fact = op.facts.volumes.get(slot)?;
    let found = fact.found.as_ref()?;
    Some(DataVolumeSpec {
        name: name.clone(),
        device: Some(fact.device.clone()),
        size_gib: fact.size_gib.unwrap_or(1),
        volume_type: found.volume_type.clone(),
        iops: found.iops,
        throughput: found.throughput,
        encrypted: false,
        kms_key: None,
        snapshot: found.snapshot.clone(),
        volume: None,
    })
}

/// The wanted properties of all data volumes: those of the file, then those that were found.
pub(crate) fn wishes(op: &Operation) -> Vec<DataVolumeSpec> {
    let spec = &op.order.spec;
    let of_the_file = spec.data_volumes.iter().map(|wanted| Slot::Data(wanted.name.clone()));
    let found = op.facts.volumes.keys().filter(|slot| !is_of_the_file(spec, slot)).cloned();
    of_the_file.chain(found).filter_map(|slot| wish(op, &slot)).collect()
}

pub(crate) fn is_of_the_file(spec: &NodeSpec, slot: &Slot) -> bool {
    matches!(slot, Slot::Data(name) if spec.data_volumes.iter().any(|wanted| wanted.name == *name))
}

/// Whether a lost volume is never created again: the file does not name it, and no backup restores it.
pub(crate) fn ends_with_its_loss(op: &Operation, slot: &Slot, restore: Option<&Restore>) -> bool {
    let comes_back = restore.is_some_and(|restore| restore.snapshots.contains_key(slot));
    !comes_back && !is_of_the_file(&op.order.spec, slot)
}

/// Whether a volume was created outside Perennial, and is no copy made by it.
pub(crate) fn is_foreign(held: Option<&Found>) -> bool {
    held.is_some_and(|found| !found.is_copy)
}
