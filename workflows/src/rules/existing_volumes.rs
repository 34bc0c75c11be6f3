//! Existing volumes that the node file names (`data_volumes[].volume`): the node takes them, and never deletes them.
//!
//! | step | may start when | does | observed by | on failure |
//! | --- | --- | --- | --- | --- |
//! | `take_volume:x` | the file names a volume, the node has none in its place | – | in the zone, large enough, of one instance at a time, free twice | otherwise: stuck, with what to do |
//!
//! From then on it is carried like the others. It was there before the node: a cancellation lets it go, a deletion leaves it where it is,
//! whatever is kept. Accepting its loss makes a new one in its place, which is the node's own.
//!
//! # In another zone
//! A volume stays in its zone. Where the node moves (`capacity.other_subnets`), or lands elsewhere in the first place, a copy with the content of the volume's final snapshot goes on,
//! made as the volume is (type, IOPS, throughput; encrypted if it is):
//! ```text
//!  take_volume:x ─ (release:x) ─ snapshot:x ─ create_volume:x ─ attach:x
//! ```
//! The copy is the node's own from then on: later moves carry it, a deletion treats it as data. The volume itself is *retained* and *foreign*: it is deleted by nothing, and
//! it is never taken again, because what was written since is not on it ([`Retained::went_on`]). A deletion that deletes the copy ends that.

use crate::model::aws::VolumeId;
use crate::model::resources::{Resources, Retained};
use crate::model::volume::Slot;
use crate::operation::state::{Due, Operation};
use crate::spec::node::{DataVolumeSpec, NodeSpec};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// The volume that the file names is looked at; `None` when one is to be made.
pub(crate) fn take(op: &Operation, wanted: &DataVolumeSpec, zone: &str) -> Option<Due> {
    let volume = wanted.volume.clone()?;
    let slot = Slot::Data(wanted.name.clone());
    let was_lost = op.steps.values().any(|record| {
        let of_it = matches!(
            &*record.intent,
            Intent::Release { volume: of, .. } | Intent::Attach { volume: of, .. } if *of == volume
        );
        of_it && matches!(record.outcome, Some((Evidence::Lost { .. }, _)))
    });
    let has_gone_on =
        has_gone_on(&op.facts.superseded, &volume) || has_gone_on(&op.order.before.retained, &volume);
    (!was_lost && !has_gone_on).then(|| {
        Intent::ClaimVolume {
            slot,
            volume,
            zone: zone.to_owned(),
            size_gib: wanted.size_gib,
            own: op.own_tags(),
        }
        .into()
    })
}

/// Whether the content of a volume goes on in another one of the node's.
fn has_gone_on(retained: &[Retained], volume: &VolumeId) -> bool {
    retained.iter().any(|old| old.volume == *volume && old.went_on)
}

/// Whether a volume was there before the node: the file names it, or did when it was taken.
pub(crate) fn is_taken(op: &Operation, volume: &VolumeId) -> bool {
    let was_taken =
        |intent: &Intent| matches!(intent, Intent::ClaimVolume { volume: of, .. } if of == volume);
    op.order.spec.data_volumes.iter().any(|wanted| wanted.volume.as_ref() == Some(volume))
        || op.steps.values().any(|record| was_taken(&record.intent))
}

/// What the file wants of a volume that is to be made in the place of an existing one: as that one is.
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

/// What a plan says of existing volumes that a node has, or is to have.
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
