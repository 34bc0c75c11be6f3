//! Existing volumes that the node file names (`data_volumes[].volume`): the node takes them, and never deletes them.
//!
//! | step | may start when | does | observed by | on failure |
//! | --- | --- | --- | --- | --- |
//! | `take_volume:x` | the file names a volume, the node has none in its place | – | in the zone, large enough, of one instance at a time, free twice | otherwise: stuck, with what to do |
//!
//! From then on it is carried like the others. It was there before the node: a cancellation lets it go, a deletion leaves it where it is,
//! whatever is kept. Accepting its loss makes a new one in its place, which is the node's own.

use crate::operation::{Due, Operation};
use crate::spec::{DataMode, DataVolumeSpec, NodeSpec, SpecError};
use crate::steps::{Evidence, Intent, Slot};

/// The volume that the file names is looked at; `None` when one is to be made.
pub(crate) fn take(op: &Operation, wanted: &DataVolumeSpec, zone: &str) -> Option<Due> {
    let volume = wanted.volume.clone()?;
    let slot = Slot::Data(wanted.name.clone());
    let was_lost = op.steps.values().any(|record| {
        let of_it = matches!(&*record.intent, Intent::Release { slot: of, .. } | Intent::Attach { slot: of, .. } if *of == slot);
        of_it && matches!(record.outcome, Some((Evidence::Lost { .. }, _)))
    });
    (!was_lost).then(|| {
        Intent::TakeVolume {
            slot,
            volume,
            zone: zone.to_owned(),
            size_gib: wanted.size_gib,
            own: op.own_tags(),
        }
        .into()
    })
}

/// Whether a volume was there before the node.
pub(crate) fn is_taken(op: &Operation, volume: &crate::aws::VolumeId) -> bool {
    op.order.spec.data_volumes.iter().any(|wanted| wanted.volume.as_ref() == Some(volume))
}

/// Checks what a file says of existing volumes.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(spec: &NodeSpec) -> Result<(), SpecError> {
    for (i, wanted) in spec.data_volumes.iter().enumerate() {
        let Some(volume) = &wanted.volume else { continue };
        let wrong = |field: String, why: &str| Err(SpecError { field, why: format!("{volume} {why}") });
        let of = |field: &str| format!("data_volumes[{i}].{field}");
        if spec.data_volumes[..i].iter().any(|other| other.volume.as_ref() == Some(volume)) {
            return wrong(of("volume"), "stands there twice; name each volume once");
        }
        let fixed = [
            ("snapshot", wanted.snapshot.is_some()),
            ("iops", wanted.iops.is_some()),
            ("throughput", wanted.throughput.is_some()),
            ("encrypted", wanted.encrypted),
        ];
        if let Some((field, _)) = fixed.iter().find(|(_, is_there)| *is_there) {
            return wrong(of(field), "exists and is taken as it is; remove the field");
        }
        if spec.persist.data != DataMode::Reattach {
            return wrong("persist.data".into(), "is kept itself, not its copies; say `reattach`");
        }
        if !spec.capacity.other_subnets.is_empty() {
            return wrong("capacity.other_subnets".into(), "stays in its zone; remove the subnets");
        }
    }
    Ok(())
}
