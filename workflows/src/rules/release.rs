//! The release half, shared by `replace` and `delete`, and by `provision` when a candidate is lost: the
//! resources on an instance are made safe, the instance is terminated ([`fence`] says when), and every
//! resource of the node is seen free.

use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation};
use crate::rules::{fence, handover, interface};
use crate::step::intent::{Detach, Intent, Release};
use crate::step::name::OfVolume;

/// Every rule of the release half that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due: Vec<Due> = op.facts.holders.iter().filter_map(|holder| fence::due(op, holder)).collect();
    for (slot, fact) in &op.facts.volumes {
        let (Place::On(on), Some(volume)) = (&fact.place, &fact.id) else { continue };
        let Some(holder) = op.facts.holders.iter().find(|holder| holder.instance == *on) else { continue };
        if holder.fenced && !op.has_open(&OfVolume::Detach.of(slot)) {
            due.push(
                Intent::Release(Release { slot: slot.clone(), volume: volume.clone(), from: on.clone() })
                    .into(),
            );
        } else if handover::may_detach(op, holder, slot) {
            due.push(
                Intent::Detach(Detach { slot: slot.clone(), volume: volume.clone(), instance: on.clone() })
                    .into(),
            );
        }
    }
    due.extend(interface::release(op));
    due
}
