//! Existing volumes that the node file names (`data_volumes[].volume`): the node claims them, and never
//! deletes them.
//!
//! - `claim_volume:x`
//!   - May start when: the file names a volume, and the node has none in its place.
//!   - Does: only describes.
//!   - Observed by: the volume is in the zone, large enough, attachable to one instance at a time, and free
//!     in two reads.
//!   - On failure: stuck, with the commands to run.
//!
//! From then on it is carried like the others. The volume existed before the node, so a cancellation releases
//! it, and a deletion leaves it where it is, whatever is kept. Accepting its loss creates a new one in its
//! place, which is the node's own.
//!
//! # In another zone
//! A volume stays in its zone. If the node moves to another zone (`capacity.other_subnets`), or lands there
//! at first, a copy continues with the content of the volume's final snapshot. The copy has the volume's
//! type, IOPS and throughput, and is encrypted if the volume is:
//! ```text
//!  claim_volume:x ─ (release:x) ─ snapshot:x ─ create_volume:x ─ attach:x
//! ```
//! The copy is the node's own: later moves carry it, a deletion treats it as data. The volume itself is
//! *retained* and *foreign*: no operation deletes it, and it is never claimed again, because it lacks later
//! writes ([`Retained::went_on`]). A deletion that deletes the copy ends that.

use crate::model::aws::VolumeId;
use crate::model::resources::{Resources, Retained};
use crate::model::volume::Slot;
use crate::operation::state::{Due, Operation};
use crate::spec::node::{DataVolumeSpec, NodeSpec};
use crate::step::evidence::Evidence;
use crate::step::intent::{Attach, ClaimVolume, Intent, Release};

/// Checks the volume that the file names; `None` when a new volume is to be created.
pub(crate) fn take(op: &Operation, wanted: &DataVolumeSpec, zone: &str) -> Option<Due> {
    let volume = wanted.volume.clone()?;
    let slot = Slot::Data(wanted.name.clone());
    let was_lost = op.steps.values().any(|record| {
        let of_it = matches!(
            &*record.intent,
            Intent::Release(Release { volume: of, .. }) | Intent::Attach(Attach { volume: of, .. }) if *of == volume
        );
        of_it && matches!(record.outcome, Some((Evidence::Lost { .. }, _)))
    });
    let has_gone_on =
        has_gone_on(&op.facts.superseded, &volume) || has_gone_on(&op.order.before.retained, &volume);
    (!was_lost && !has_gone_on).then(|| {
        Intent::ClaimVolume(ClaimVolume {
            slot,
            volume,
            zone: zone.to_owned(),
            size_gib: wanted.size_gib,
            own: op.own_tags(),
        })
        .into()
    })
}

/// Whether the content of a volume continues in another volume of the node.
fn has_gone_on(retained: &[Retained], volume: &VolumeId) -> bool {
    retained.iter().any(|old| old.volume == *volume && old.went_on)
}

/// Whether a volume existed before the node: the file names it, or did when it was claimed.
pub(crate) fn is_taken(op: &Operation, volume: &VolumeId) -> bool {
    let was_taken = |intent: &Intent| matches!(intent, Intent::ClaimVolume(ClaimVolume { volume: of, .. }) if of == volume);
    op.order.spec.data_volumes.iter().any(|wanted| wanted.volume.as_ref() == Some(volume))
        || op.steps.values().any(|record| was_taken(&record.intent))
}

/// The wanted properties of a volume that replaces an existing one: those of the existing one.
pub(crate) fn as_it_is(op: &Operation, slot: &Slot, wanted: &DataVolumeSpec) -> DataVolumeSpec {
    let was = op.facts.volumes.get(slot).and_then(|fact| fact.found.as_ref());
    match was.filter(|_| wanted.volume.is_some()) {
        Some(was) => DataVolumeSpec {
            volume_type: was.volume_type.clone(),
            iops: was.iops,
            throughput: was.throughput,
            ..wanted.clone()
        },
        None => wanted.clone(),
    }
}

/// A plan's notes on existing volumes that a node has, or is to have.
pub(crate) fn notes(spec: &NodeSpec, before: &Resources) -> Vec<String> {
    let named = spec.data_volumes.iter().filter_map(|wanted| Some((&wanted.name, wanted.volume.as_ref()?)));
    let named = named.filter(|(_, volume)| {
        !spec.capacity.other_subnets.is_empty() && !has_gone_on(&before.retained, volume)
    });
    named
        .map(|(name, volume)| {
            format!(
                "{name} is {volume}, which was there before the node and stays in its zone: in another one a copy with the content of its final \
                 snapshot goes on as the node's own, and {volume} is retained, deleted by nothing and not taken again."
            )
        })
        .collect()
}
