//! The last look before a new instance is taken: everything is where it was left.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_workflows::model::aws::{InstanceId, InstanceState, InterfaceId, VolumeId};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::step::evidence::Evidence;

use super::pass::{Answer, LOOK_AGAIN, Pass, not_yet, settled};
use crate::port::AttachmentState;

/// Sees the instance running, with its volumes and its address.
pub(super) async fn verify(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    volumes: &BTreeMap<Slot, VolumeId>,
    interface: Option<&InterfaceId>,
    address: Option<Ipv4Addr>,
) -> Answer {
    let tools = pass.tools;
    let look_at_interface = async {
        match interface {
            Some(interface) => tools.observer.interface(interface).await,
            None => Ok(None),
        }
    };
    let (machine, views, on_interface) =
        tokio::join!(pass.alive(instance), tools.observer.volumes(volumes.values()), look_at_interface);
    let machine = match machine? {
        Ok(view) => view,
        Err(result) => return Ok(result),
    };
    if machine.state != InstanceState::Running {
        return not_yet(LOOK_AGAIN, format!("{instance} is {}", machine.state));
    }
    for ((slot, volume), view) in volumes.iter().zip(views?) {
        let Some(view) = view else {
            return not_yet(LOOK_AGAIN, format!("{volume} ({slot}) is not shown"));
        };
        let here = view.attachments.iter().any(|attachment| {
            attachment.instance == *instance && attachment.state == AttachmentState::Attached
        });
        if !here || view.attachments.len() != 1 {
            return not_yet(LOOK_AGAIN, format!("{volume} ({slot}) is not where it was left: on {instance}"));
        }
    }
    if let (Some(interface), Some(address)) = (interface, address) {
        let listed = machine.interfaces.iter().any(|own| own.id == *interface);
        let held = on_interface?.is_some_and(|view| {
            let on = view.attachment.and_then(|attachment| attachment.instance);
            on.map_or(listed, |on| on == *instance)
                && (view.primary_ip == address || view.secondary_ips.contains(&address))
        });
        if !held {
            return not_yet(LOOK_AGAIN, format!("{address} is not on {interface} of {instance}"));
        }
    }
    settled(Evidence::Verified)
}
