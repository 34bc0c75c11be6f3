//! Device names: given by the file, or chosen by Perennial; stable per volume, and given up when a name stays
//! busy.
//!
//! A name is only a label on Nitro instances: the guest finds a volume by its id (`/dev/disk/by-id`). The
//! name must be free on the instance, and should stay the same from instance to instance.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::volume::Slot;
use crate::operation::facts::VolumeFact;
use crate::operation::state::Operation;
use crate::spec::checks::canonical_device;
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use crate::step::intent::{Attach, Intent};

/// The names to choose from, in order: those the EC2 User Guide recommends for data volumes (`/dev/sd[f-p]`),
/// then those it allows beyond them.
fn names() -> impl Iterator<Item = String> {
    let recommended = ('f'..='p').map(|letter| format!("/dev/sd{letter}"));
    let further =
        ('b'..='d').flat_map(|first| ('a'..='z').map(move |second| format!("/dev/xvd{first}{second}")));
    recommended.chain(further)
}

/// The first name that is none of these. The same input gives the same name.
pub(crate) fn free<'a>(taken: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let taken: BTreeSet<&str> = taken.into_iter().map(canonical_device).collect();
    names().find(|name| !taken.contains(canonical_device(name)))
}

/// A name for a volume without one in the file, different from those of other volumes.
pub(crate) fn choose<'a>(spec: &'a NodeSpec, held: impl IntoIterator<Item = &'a str>) -> String {
    let given = spec.data_volumes.iter().filter_map(|wanted| wanted.device.as_deref());
    free(given.chain(held)).unwrap_or_else(|| unreachable!("BUG: there are more names than data volumes"))
}

/// Adds volumes that the file names and the operation does not know yet, as absent.
pub(crate) fn add_absent(spec: &NodeSpec, volumes: &mut BTreeMap<Slot, VolumeFact>) {
    for wanted in &spec.data_volumes {
        let chosen = choose(spec, volumes.values().map(|fact| fact.device.as_str()));
        volumes
            .entry(Slot::Data(wanted.name.clone()))
            .or_insert_with(|| VolumeFact::absent(wanted.device.clone().unwrap_or(chosen)));
    }
}

/// Another name for a volume whose name is in use on the instance; none that was refused in this operation.
pub(crate) fn another(op: &Operation) -> Option<String> {
    let refused = op.steps.values().filter_map(|record| match (&*record.intent, &record.outcome) {
        (Intent::Attach(Attach { device, .. }), Some((Evidence::DeviceInUse, _))) => Some(device.as_str()),
        _ => None,
    });
    let held = op.facts.volumes.values().map(|fact| fact.device.as_str());
    let given = op.order.spec.data_volumes.iter().filter_map(|wanted| wanted.device.as_deref());
    free(refused.chain(held).chain(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_name_is_chosen_whichever_way_a_taken_one_is_written() {
        assert_eq!(free([]).unwrap(), "/dev/sdf");
        assert_eq!(free(["/dev/xvdf", "/dev/sdg"]).unwrap(), "/dev/sdh");
        let all: Vec<String> = names().collect();
        assert_eq!(all.len(), 11 + 78);
        assert_eq!(free(all.iter().take(11).map(String::as_str)).unwrap(), "/dev/xvdba");
        assert_eq!(free(all.iter().map(String::as_str)), None);
    }
}
