//! Volumes that appear on a node's instance, or leave it, while no operation is under way.

use perennial_engine::domain::Append;

use crate::aggregate::node::{Node, NodeEvent};
use crate::domain::command::Rejection;
use crate::domain::decider::{Appends, Decider, Subject, Wanted};
use crate::domain::states::Event;
use crate::model::aws::{InstanceId, VolumeId};
use crate::model::operation_id::OperationKind;
use crate::model::resources::{HeldVolume, Resources, Retained};
use crate::model::signal::Cause;
use crate::model::volume::Slot;
use crate::rules::attached_volumes::is_of_the_file;
use crate::spec::node::{AttachedVolumes, NodeSpec};

impl Decider<'_> {
    /// Volumes were attached to the node's instance by somebody, or detached.
    pub(crate) fn on_attachments(
        &self,
        subject: Subject<'_>,
        instance: &InstanceId,
        others: &[VolumeId],
        left: &[VolumeId],
    ) -> Result<Appends, Rejection> {
        let node = subject.node;
        let stream = subject.stream();
        match attachment_change(node, instance, others, left, self.now_ms) {
            AttachmentChange::Nothing => Ok(Vec::new()),
            AttachmentChange::Leave(events) => {
                Ok(vec![Append::new(stream, events.into_iter().map(Event::Node).collect())])
            }
            AttachmentChange::Adopt(volumes) => {
                let spec = node.spec.clone().ok_or(subject.unknown())?;
                let cause = Cause::Found { instance: instance.clone(), volumes };
                let before = node.resources.clone();
                let wanted = Wanted::new(OperationKind::AdoptVolumes, spec, before, node.generation, cause);
                let begun = self.start(subject.next(), wanted)?;
                Ok(vec![Append::new(stream, begun.node_events), begun.append])
            }
        }
    }
}

/// The consequence of the sweep's look at the carrier of a node at rest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AttachmentChange {
    /// No consequence.
    Nothing,
    /// These are to be adopted.
    Adopt(Vec<VolumeId>),
    /// These are given back.
    Leave(Vec<NodeEvent>),
}

/// Decides on the sweep's observations of a node's instance: unknown volumes on it, and found ones that have
/// left it.
pub(crate) fn attachment_change(
    node: &Node,
    instance: &InstanceId,
    others: &[VolumeId],
    left: &[VolumeId],
    now_ms: u64,
) -> AttachmentChange {
    let (Some(spec), Some(carrier)) = (&node.spec, &node.resources.carrier) else {
        return AttachmentChange::Nothing;
    };
    if !node.exists() || node.open.is_some() || carrier.instance != *instance {
        return AttachmentChange::Nothing;
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
        return AttachmentChange::Leave(given_back);
    }
    let known = |volume: &VolumeId| {
        node.resources.volumes.values().any(|held| held.volume == *volume)
            || node.resources.unmanaged.iter().any(|unmanaged| unmanaged.volume == *volume)
    };
    let is_new = |volume: &&VolumeId| !known(volume) && !node.snoozed.holds(volume, now_ms);
    let new: Vec<VolumeId> = others.iter().filter(is_new).cloned().collect();
    let keeps = spec.persist.attached_volumes == AttachedVolumes::Keep;
    if new.is_empty() || !keeps { AttachmentChange::Nothing } else { AttachmentChange::Adopt(new) }
}

/// The volumes that are given back once they are detached from outside: found ones that the file does not
/// name.
pub fn leaving<'a>(
    node: &'a Node,
    spec: &'a NodeSpec,
) -> impl Iterator<Item = (&'a Slot, &'a HeldVolume)> + 'a {
    node.resources.volumes.iter().filter(|(slot, held)| held.found.is_some() && !is_of_the_file(spec, slot))
}

/// Refuses a file that gives a data volume the name of a found one: either it means that volume, or it must
/// use another name.
///
/// # Errors
/// What to do.
pub(crate) fn check_names(spec: &NodeSpec, held: &Resources) -> Result<(), String> {
    for (i, wanted) in spec.data_volumes.iter().enumerate() {
        let slot = Slot::Data(wanted.name.clone());
        let is_found = |held: &&HeldVolume| held.found.as_ref().is_some_and(|found| !found.named);
        let Some(found) = held.volumes.get(&slot).filter(is_found) else { continue };
        // A copy of the file's volume continues in its place.
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
