//! Volumes that somebody else made and attached to the instance while it carried the node: they become the node's.
//!
//! | step | may start when | does | observed by | on failure |
//! | --- | --- | --- | --- | --- |
//! | `preserve:i` of `take` | the sweep saw a volume on the carrier that is not the node's | DeleteOnTermination=false on it | the volume, the instance | instance lost: nothing is taken, the replacement looks again; else stuck |
//! | `preserve:old` of `replace`, `pause`, `delete` | as ever, before anything is taken away | the same | the same | as ever |
//!
//! Both are the same look: what is attached to the instance, is no root, is of one instance at a time and carries no tags of
//! Perennial's becomes the node's in the very append that settles the step (`volume_found`), under a name of its own: its tag `Name`
//! where that is a free name, else that of its device. From then on it is carried like any data volume: reattached, copied where the
//! node is copied, in backups and restores. What may not be taken is left alone and listed once, as a *stranger*: it is never detached, and
//! a stop of its instance is its owner's affair.
//!
//! It was made by somebody else, so no deletion deletes it; copies made of it on the way are the node's own. When somebody detaches it
//! while the node is well, it is given back (`volume_left`): a volume of the file is not.
//!
//! # What the image maps
//! An image can map EBS volumes beside its root, which every launch would make anew, and each termination would delete. With `keep` no launch
//! makes them: a provision makes volumes of the node's as they are mapped (`create_volume:x`, from the mapping's snapshot) and attaches
//! them at the mapped device, and from then on these come back. What the file has at such a device takes its place. They are the
//! node's own: a deletion treats them as data. Instance store is as the image says. Images that are registered of a root map the root alone.
//!
//! `take` holds the node for a moment and gives way to everything else, as a growth does. Who cancels one has none begun for
//! its volumes for an hour ([`HELD_OFF_MS`]), or until a changed file is applied or another instance carries the node. An operation that
//! looks at the instance for another reason takes them all the same.
//!
//! # What cannot be known
//! A volume does not say where it was attached. One that was attached since the last sweep's look, to an instance that is then lost without a
//! notice, is known to nobody: it survives as EC2's default has it (DeleteOnTermination of a volume that is attached later is false), free, and is not
//! the node's. Attached to the new instance, it is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{ImageId, InstanceId, SnapshotId, VolumeId};
use crate::devices;
use crate::node::{HeldVolume, Node, NodeEvent, OperationKind, Outcome, Resources, Retained};
use crate::operation::{Due, Operation, OperationEvent, Place, Restore, VolumeFact};
use crate::signal::Cause;
use crate::spec::{DATA_VOLUMES_MAX, DataVolumeSpec, NodeName, NodeSpec, canonical_device};
use crate::steps::{Evidence, Intent, LaunchVolume, Slot};
use crate::taken;

/// How many strangers are listed; an instance holds no more volumes than these and its own.
pub const STRANGERS_MAX: usize = 64;

/// What becomes of volumes that somebody attached to the node's instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundVolumes {
    /// They become the node's and are carried like its own; detached by hand, they are given back.
    #[default]
    Keep,
    /// They are left alone, and are no longer attached when the instance is gone.
    Ignore,
}

/// How long a volume whose taking was cancelled is left alone by the sweep: long enough to detach it or to apply another file, and
/// short enough that what was forgotten is not lost with the next instance.
pub const HELD_OFF_MS: u64 = 3_600_000;

/// Volumes whose taking was cancelled: the next sweep would take them again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldOff {
    /// What the open `take` is for.
    taking: Vec<VolumeId>,
    /// Until when each is left alone; no more than an instance holds.
    until_ms: BTreeMap<VolumeId, u64>,
}

impl HeldOff {
    /// An operation began.
    pub(crate) fn begins(&mut self, cause: &Cause) {
        self.taking = match cause {
            Cause::Found { volumes, .. } => volumes.clone(),
            Cause::Request { .. }
            | Cause::Signal { .. }
            | Cause::ReturnToSpot { .. }
            | Cause::FileChanged { .. }
            | Cause::RetainedLonger { .. } => Vec::new(),
        };
    }

    /// It ended.
    pub(crate) fn ends(&mut self, outcome: Outcome, at_ms: u64) {
        let taking = std::mem::take(&mut self.taking);
        self.until_ms.retain(|_, until_ms| *until_ms > at_ms);
        if outcome == Outcome::Cancelled {
            let new = taking.into_iter().take(STRANGERS_MAX.saturating_sub(self.until_ms.len()));
            self.until_ms.extend(new.map(|volume| (volume, at_ms + HELD_OFF_MS)));
        }
    }

    /// Somebody asks again.
    pub(crate) fn forget(&mut self) {
        self.until_ms.clear();
    }

    fn holds(&self, volume: &VolumeId, now_ms: u64) -> bool {
        self.until_ms.get(volume).is_some_and(|until_ms| now_ms < *until_ms)
    }
}

impl FoundVolumes {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
    pub(crate) const fn is_default(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

/// What is known of a volume that was found: what a copy of it is made as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Such as `gp3`.
    pub volume_type: String,
    /// Provisioned IOPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// In MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Whether it was made for the node, as a copy or as the image maps it: the node's own, which a deletion may delete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_copy: bool,
    /// What it was first made from, if the image maps it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// Whether the file named it (`data_volumes[].volume`), or the volume that it is a copy of; it was not found on the instance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
}

/// An EBS volume that an image maps beside its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MappedVolume {
    /// Under this device name.
    pub device: String,
    /// From this snapshot; none: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// Its size.
    pub size_gib: u32,
    /// Such as `gp3`.
    pub volume_type: String,
    /// Provisioned IOPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// In MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
}

impl Found {
    /// Of a copy of it.
    pub(crate) fn copied(&self) -> Self {
        Self { is_copy: true, ..self.clone() }
    }
}

/// A look at the other volumes of an instance, beside those that are to be preserved.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtherVolumes {}

/// A volume on an instance that can become the node's: DeleteOnTermination is false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoundVolume {
    /// Its id.
    pub volume: VolumeId,
    /// Its device name.
    pub device: String,
    /// Its tag `Name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its size.
    pub size_gib: u32,
    /// What a copy is made as.
    pub traits: Found,
}

/// A volume on the node's instance that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stranger {
    /// Its id.
    pub volume: VolumeId,
    /// Its device name.
    pub device: String,
    /// Why it is left alone.
    pub because: String,
}

/// What the step that preserves an instance looks at beside the node's volumes.
pub(crate) fn others(op: &Operation, instance: &InstanceId) -> Option<OtherVolumes> {
    let carries = op.order.before.carrier.as_ref().is_some_and(|carrier| carrier.instance == *instance);
    (carries && op.order.spec.persist.found_volumes == FoundVolumes::Keep).then(OtherVolumes::default)
}

/// What a look at an instance means: every volume that becomes the node's, with its name.
pub(crate) fn taken(op: &Operation, intent: &Intent, evidence: &Evidence) -> Vec<OperationEvent> {
    let (Intent::Preserve { instance, others: Some(_), .. }, Evidence::PreservedWith { found, .. }) =
        (intent, evidence)
    else {
        return Vec::new();
    };
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
            instance: instance.clone(),
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

/// A name that stays: the volume's own if it is one and free, else its device's.
fn name(spec: &NodeSpec, slots: &[Slot], device: &str, own: Option<&str>) -> NodeName {
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

/// What the node's image maps becomes volumes of the node's when it is provisioned: made as mapped, attached like the others. What
/// the file has at the same device takes its place.
pub(crate) fn map(op: &mut Operation) {
    if op.order.kind != OperationKind::Provision || op.order.spec.persist.found_volumes != FoundVolumes::Keep
    {
        return;
    }
    // Of an image that the file does not name any more.
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
            devices::free(taken).unwrap_or_else(|| volume.device.clone())
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

/// The devices of the image's mapping that a launch makes nothing at.
pub(crate) fn suppressed(op: &Operation, image: &ImageId, made: &[LaunchVolume]) -> Vec<String> {
    let keeps = op.order.spec.persist.found_volumes == FoundVolumes::Keep;
    let placement = op.facts.placement.as_ref().filter(|_| keeps && *image == op.order.spec.image);
    let mapped = placement.map(|placement| placement.image.mapped.as_slice()).unwrap_or_default();
    // What the launch makes itself at such a device overrides the image's.
    let is_made = |device: &str| made.iter().any(|volume| volume.device == device);
    mapped.iter().map(|volume| volume.device.clone()).filter(|device| !is_made(device)).collect()
}

/// A volume is the node's from now on, and was before the operation began.
pub(crate) fn remember(op: &mut Operation, instance: &InstanceId, slot: &Slot, held: &HeldVolume) {
    let fact = VolumeFact {
        id: Some(held.volume.clone()),
        place: Place::On(instance.clone()),
        touched: true,
        size_gib: held.size_gib,
        found: held.found.clone(),
        ..VolumeFact::absent(held.device.clone())
    };
    op.facts.volumes.insert(slot.clone(), fact);
    op.order_mut().before.volumes.insert(slot.clone(), held.clone());
}

/// What was left alone, with the reasons.
pub(crate) fn leave(op: &mut Operation, evidence: &Evidence) {
    let Evidence::PreservedWith { strangers, .. } = evidence else { return };
    op.order_mut().before.strangers = strangers.iter().take(STRANGERS_MAX).cloned().collect();
}

/// What a data volume is to be, by the file or as it was found.
pub(crate) fn wish(op: &Operation, slot: &Slot) -> Option<DataVolumeSpec> {
    let Slot::Data(name) = slot else { return None };
    if let Some(wanted) = op.order.spec.data_volumes.iter().find(|wanted| wanted.name == *name) {
        return Some(taken::as_it_is(op, slot, wanted));
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

/// Everything the node's data volumes are to be: those of the file, then those that were found.
pub(crate) fn wishes(op: &Operation) -> Vec<DataVolumeSpec> {
    let spec = &op.order.spec;
    let of_the_file = spec.data_volumes.iter().map(|wanted| Slot::Data(wanted.name.clone()));
    let found = op.facts.volumes.keys().filter(|slot| !is_of_the_file(spec, slot)).cloned();
    of_the_file.chain(found).filter_map(|slot| wish(op, &slot)).collect()
}

fn is_of_the_file(spec: &NodeSpec, slot: &Slot) -> bool {
    matches!(slot, Slot::Data(name) if spec.data_volumes.iter().any(|wanted| wanted.name == *name))
}

/// Whether a lost volume is made anew by nobody: the file does not name it, and no backup brings it back.
pub(crate) fn ends_with_its_loss(op: &Operation, slot: &Slot, restore: Option<&Restore>) -> bool {
    let comes_back = restore.is_some_and(|restore| restore.snapshots.contains_key(slot));
    !comes_back && !is_of_the_file(&op.order.spec, slot)
}

/// Whether a volume was made by somebody else, and is no copy of ours.
pub(crate) fn is_foreign(held: Option<&Found>) -> bool {
    held.is_some_and(|found| !found.is_copy)
}

/// Every rule of `take` that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let Some(carrier) = op.order.before.carrier.as_ref().filter(|_| op.facts.carried_over.is_none()) else {
        return Vec::new();
    };
    let is_over = op.steps.values().any(|record| {
        matches!(
            record.outcome,
            Some((Evidence::Preserved | Evidence::PreservedWith { .. } | Evidence::InstanceGone { .. }, _))
        )
    });
    if is_over {
        return Vec::new();
    }
    let volumes = op.order.before.volumes.values().map(|held| held.volume.clone()).collect();
    vec![
        Intent::Preserve {
            instance: carrier.instance.clone(),
            volumes,
            interface: None,
            keeping: None,
            others: Some(OtherVolumes::default()),
            uefi: false,
        }
        .into(),
    ]
}

/// What belongs to the node, once it was looked at or its instance is lost.
pub(crate) fn taken_up(op: &Operation) -> Option<Resources> {
    rules(op).is_empty().then(|| Resources { leftovers: op.leftovers(), ..op.order.before.clone() })
}

/// What the sweep's look at the carrier of a node at rest leads to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sighting {
    /// Nothing.
    Nothing,
    /// These are to be taken.
    Take(Vec<VolumeId>),
    /// These are given back.
    Leave(Vec<NodeEvent>),
}

/// Decides on what the sweep saw of a node's instance: volumes on it that were not known, and found ones that have left it.
pub(crate) fn sighting(
    node: &Node,
    instance: &InstanceId,
    others: &[VolumeId],
    left: &[VolumeId],
    now_ms: u64,
) -> Sighting {
    let (Some(spec), Some(carrier)) = (&node.spec, &node.resources.carrier) else { return Sighting::Nothing };
    if !node.exists() || node.open.is_some() || carrier.instance != *instance {
        return Sighting::Nothing;
    }
    let given_back: Vec<NodeEvent> = leaving(node, spec)
        .filter(|(_, held)| left.contains(&held.volume))
        .map(|(slot, held)| NodeEvent::VolumeLeft {
            slot: slot.clone(),
            volume: held.volume.clone(),
            instance: instance.clone(),
        })
        .collect();
    if !given_back.is_empty() {
        return Sighting::Leave(given_back);
    }
    let known = |volume: &VolumeId| {
        node.resources.volumes.values().any(|held| held.volume == *volume)
            || node.resources.strangers.iter().any(|stranger| stranger.volume == *volume)
    };
    let is_new = |volume: &&VolumeId| !known(volume) && !node.held_off.holds(volume, now_ms);
    let new: Vec<VolumeId> = others.iter().filter(is_new).cloned().collect();
    let keeps = spec.persist.found_volumes == FoundVolumes::Keep;
    if new.is_empty() || !keeps { Sighting::Nothing } else { Sighting::Take(new) }
}

/// The volumes that are given back when somebody detaches them: found ones that the file does not name.
pub fn leaving<'a>(
    node: &'a Node,
    spec: &'a NodeSpec,
) -> impl Iterator<Item = (&'a Slot, &'a HeldVolume)> + 'a {
    node.resources.volumes.iter().filter(|(slot, held)| held.found.is_some() && !is_of_the_file(spec, slot))
}

/// A name of the file that a found volume has: it is meant, or another name is.
///
/// # Errors
/// What to do.
pub(crate) fn check_names(spec: &NodeSpec, held: &Resources) -> Result<(), String> {
    for (i, wanted) in spec.data_volumes.iter().enumerate() {
        let slot = Slot::Data(wanted.name.clone());
        let is_found = |held: &&HeldVolume| held.found.as_ref().is_some_and(|found| !found.named);
        let Some(found) = held.volumes.get(&slot).filter(is_found) else { continue };
        // A copy of what the file names goes on in its place.
        let went_on = |old: &Retained| old.went_on && Some(&old.volume) == wanted.volume.as_ref();
        if held.retained.iter().any(went_on) {
            continue;
        }
        if wanted.volume.as_ref() != Some(&found.volume) {
            let (name, volume) = (&wanted.name, &found.volume);
            return Err(format!(
                "spec.data_volumes[{i}].name: {name} is what {volume}, found on the instance, goes by; say `volume: {volume}` if that is meant, or choose another name"
            ));
        }
    }
    Ok(())
}

/// Whether an operation of this kind leaves the node on its instance, and gives way to all others.
pub(crate) const fn is_in_place(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Grow | OperationKind::Take | OperationKind::Prune => true,
        OperationKind::Provision
        | OperationKind::Replace
        | OperationKind::Delete
        | OperationKind::Pause
        | OperationKind::Resume => false,
    }
}
