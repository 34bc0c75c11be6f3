//! What is on an instance is made to survive it; and what else is on it is looked at.

use std::time::Duration;

use perennial_workflows::model::aws::{AttachmentId, InstanceId, InterfaceId, VolumeId};
use perennial_workflows::model::uefi::UefiVariables;
use perennial_workflows::model::volume::{DiscoveredVolume, OtherVolumes, UnmanagedVolume};
use perennial_workflows::step::evidence::Evidence;
use tracing::warn;

use super::pass::{ARRIVAL, Answer, LOOK_AGAIN, LOOK_ALONE, LOOK_SOON, Pass, not_yet, settled};
use crate::port::error::{Class, CloudError, Disposition};
use crate::port::{InstanceView, RootTaskState, Tags, VolumeView};

/// How long a question about root replacements may stay unanswered: long enough for a lost connection, and
/// short beside a replacement where an endpoint knows no such question.
const UNANSWERED: Duration = Duration::from_secs(2);

/// DeleteOnTermination=false for these, and for what is found beside them; settled when a look shows it for
/// all.
pub(super) async fn preserve(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    volumes: &[VolumeId],
    interfaces: Interfaces<'_>,
    others: Option<&OtherVolumes>,
    asked: Uefi,
) -> Answer {
    let view = match pass.tools.observer.instance(instance).await? {
        // A stopped instance can be preserved as well as a running one.
        Some(view) if !view.state.is_over() => view,
        _ => match pass.alive(instance).await? {
            Ok(view) => view,
            Err(result) => return Ok(result),
        },
    };
    if let Some(because) = root_may_change(pass, instance).await? {
        return not_yet(LOOK_ALONE, because);
    }
    let Some(beside) = beside(pass, &view, volumes, others).await? else {
        return not_yet(LOOK_AGAIN, format!("a volume of {instance} is not shown"));
    };
    let kept: Vec<VolumeId> =
        volumes.iter().cloned().chain(beside.found.iter().map(|found| found.volume.clone())).collect();
    let seen = pass.tools.observer.volumes(&kept).await?;
    let address_interface = address_interface(pass, interfaces.address_interface).await?;
    let dying = Dying {
        devices: dying_devices(&view, &kept, &seen),
        own: interfaces.own.and_then(|own| dying_interface(&view, own)),
        address_interface: address_interface
            .and_then(|address_interface| dying_interface(&view, address_interface)),
    };
    if dying.is_nothing() {
        return survives(pass, instance, (&kept, &seen), beside, asked).await;
    }
    pass.memory.object.found();
    let_survive(pass, instance, dying).await?;
    not_yet(LOOK_SOON, format!("DeleteOnTermination of {instance} is to be seen as false"))
}

/// Why the root may not be the last one: an adoption under way could still put a root in place whose flag
/// was not looked at. An endpoint that gives no answer may know no such tasks at all; what has come is
/// looked for all the same.
async fn root_may_change(pass: &mut Pass<'_>, instance: &InstanceId) -> Result<Option<String>, CloudError> {
    match pass.tools.cloud.root_tasks(instance).await {
        Ok(tasks) => {
            let running = tasks.iter().find(|task| task.state == RootTaskState::InProgress);
            Ok(running.map(|task| format!("{} is in progress", task.id)))
        }
        Err(error) if matches!(error.class, Class::Transient | Class::Access) => {
            let now_ms = pass.now_ms();
            let gave_up = pass.memory.preservation().root_tasks.for_at_least(UNANSWERED, now_ms);
            Ok((!gave_up).then(|| format!("whether a root is being replaced is not known: {error}")))
        }
        Err(error) if error.disposition() == Disposition::Retry => Err(error),
        Err(_) => Ok(None),
    }
}

/// What would die with the instance.
struct Dying {
    devices: Vec<String>,
    own: Option<(InterfaceId, AttachmentId)>,
    address_interface: Option<(InterfaceId, AttachmentId)>,
}

impl Dying {
    const fn is_nothing(&self) -> bool {
        self.devices.is_empty() && self.own.is_none() && self.address_interface.is_none()
    }
}

/// The device names of these volumes that die with the instance. The volume is authoritative for its
/// attachment; the instance's mapping is asked as well, and either may say that it would die.
fn dying_devices(view: &InstanceView, kept: &[VolumeId], seen: &[Option<VolumeView>]) -> Vec<String> {
    let mapped = view
        .block_devices
        .iter()
        .filter(|device| device.delete_on_termination && kept.contains(&device.volume));
    let mut devices: Vec<String> = mapped.map(|device| device.device.clone()).collect();
    for attachment in seen.iter().flatten().flat_map(|volume| &volume.attachments) {
        if attachment.instance == view.id
            && attachment.delete_on_termination
            && !devices.contains(&attachment.device)
        {
            devices.push(attachment.device.clone());
        }
    }
    devices
}

/// An interface that dies with the instance, and its attachment.
fn dying_interface(view: &InstanceView, id: &InterfaceId) -> Option<(InterfaceId, AttachmentId)> {
    let own = view.interfaces.iter().find(|own| own.id == *id && own.delete_on_termination)?;
    own.attachment.clone().map(|attachment| (id.clone(), attachment))
}

/// No flag is left to set: settled, once everything is seen on the instance.
async fn survives(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    (kept, seen): (&[VolumeId], &[Option<VolumeView>]),
    Beside { found, unmanaged }: Beside,
    asked: Uefi,
) -> Answer {
    // What belongs here and is not seen here may have come a moment ago, by an adoption that has just ended:
    // its flag is what decides whether it survives.
    let is_here = |view: &Option<VolumeView>| {
        view.as_ref().is_some_and(|view| view.attachments.iter().any(|at| at.instance == *instance))
    };
    if let Some((volume, _)) = kept.iter().zip(seen).find(|(_, view)| !is_here(view))
        && !pass.is_missing_for(ARRIVAL)
    {
        return not_yet(LOOK_AGAIN, format!("{volume} is not seen on {instance}, which proves nothing yet"));
    }
    let uefi = match asked {
        Uefi::NotAsked => None,
        Uefi::Asked => match variables(pass, instance).await {
            Some(variables) => Some(variables),
            None => {
                return not_yet(LOOK_ALONE, format!("the UEFI variables of {instance} are to be read"));
            }
        },
    };
    settled(if found.is_empty() && unmanaged.is_empty() && uefi.is_none() {
        Evidence::Preserved
    } else {
        Evidence::PreservedWith { found, unmanaged, uefi }
    })
}

/// Sets the flags.
async fn let_survive(pass: &mut Pass<'_>, instance: &InstanceId, dying: Dying) -> Result<(), CloudError> {
    let cloud = pass.tools.cloud.as_ref();
    if !dying.devices.is_empty() {
        cloud.preserve_volumes(instance, &dying.devices).await?;
    }
    if let Some((interface, attachment)) = dying.own {
        cloud.preserve_interface(&interface, &attachment).await?;
    }
    if let Some((interface, attachment)) = dying.address_interface {
        match cloud.preserve_interface(&interface, &attachment).await {
            Err(error) if error.disposition() == Disposition::Person || is_denied(pass, &error) => {
                warn!(%error, "{interface} dies with {instance}: its address is free then until it has moved");
                pass.memory.preservation().interface_dies = true;
            }
            answer => answer?,
        }
    }
    Ok(())
}

/// Whether permission was refused for so long that it will not come in time.
fn is_denied(pass: &mut Pass<'_>, error: &CloudError) -> bool {
    let now_ms = pass.now_ms();
    error.class == Class::Access && pass.memory.preservation().refused.for_at_least(UNANSWERED, now_ms)
}

/// Which interfaces of an instance are to survive it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interfaces<'i> {
    /// The node's own.
    pub(super) own: Option<&'i InterfaceId>,
    /// The instance's, which has the node's address: gone without where it cannot be.
    pub(super) address_interface: Option<&'i InterfaceId>,
}

/// The interface that is to keep the address, if it may: what does not carry our tags could not be deleted
/// later.
async fn address_interface<'i>(
    pass: &mut Pass<'_>,
    interface: Option<&'i InterfaceId>,
) -> Result<Option<&'i InterfaceId>, CloudError> {
    let Some(interface) = interface.filter(|_| !pass.memory.preservation().interface_dies) else {
        return Ok(None);
    };
    let view = pass.tools.observer.interface(interface).await?;
    let is_ours = view.is_some_and(|view| view.tags.contains_key("perennial:owner"));
    Ok(is_ours.then_some(interface))
}

/// Whether the UEFI variables of the instance are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uefi {
    Asked,
    NotAsked,
}

/// The UEFI variables of an instance, or why they cannot be read. `None` while an answer may still come: they
/// hold nothing up.
async fn variables(pass: &mut Pass<'_>, instance: &InstanceId) -> Option<UefiVariables> {
    match pass.tools.cloud.uefi_data(instance).await {
        Ok(data) => Some(UefiVariables::read(data)),
        Err(error) => {
            let now_ms = pass.now_ms();
            let may_come = error.hinders();
            let waits = may_come && !pass.memory.preservation().uefi.for_at_least(UNANSWERED, now_ms);
            (!waits).then(|| UefiVariables::Unread { because: error.to_string() })
        }
    }
}

/// The volumes on an instance beside the known ones.
#[derive(Default)]
struct Beside {
    /// Those that can become the node's.
    found: Vec<DiscoveredVolume>,
    /// Those that are left alone.
    unmanaged: Vec<UnmanagedVolume>,
}

/// The volumes on an instance beside the known ones; `None` while one of them is not shown.
async fn beside(
    pass: &mut Pass<'_>,
    view: &InstanceView,
    known: &[VolumeId],
    others: Option<&OtherVolumes>,
) -> Result<Option<Beside>, CloudError> {
    let mut beside = Beside::default();
    let ids = match others {
        Some(_) => view.volumes_beside(known),
        None => Vec::new(),
    };
    if ids.is_empty() {
        return Ok(Some(beside));
    }
    for seen in pass.tools.observer.volumes(&ids).await? {
        // An old mapping may name what is gone; one more look tells.
        let Some(seen) = seen else {
            let now_ms = pass.now_ms();
            if pass.memory.preservation().other_volume.for_at_least(ARRIVAL, now_ms) {
                continue;
            }
            return Ok(None);
        };
        // What is coming is seen by the sweep when it is there; what is leaving is not held.
        let Some(device) = seen.device_on(&view.id) else { continue };
        let (volume, device) = (seen.id.clone(), device.to_owned());
        match why_not(&seen) {
            Some(because) => beside.unmanaged.push(UnmanagedVolume { volume, device, because }),
            None => beside.found.push(DiscoveredVolume {
                volume,
                device,
                name: seen.tags.get("Name").cloned(),
                size_gib: seen.size_gib,
                traits: seen.as_found(),
            }),
        }
    }
    Ok(Some(beside))
}

/// Why a volume does not become the node's.
fn why_not(volume: &VolumeView) -> Option<String> {
    if volume.multi_attach {
        return Some("it can be attached to several instances at once, so no fence would hold".to_owned());
    }
    let of = |tags: &Tags, key: &str| tags.get(key).cloned();
    let owner = of(&volume.tags, "perennial:owner")?;
    let node = of(&volume.tags, "perennial:node").unwrap_or_default();
    Some(format!("by its tags it is what the installation {owner} made for node {node}"))
}
