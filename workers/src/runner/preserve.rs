//! What is on an instance is made to survive it; and what else is on it is looked at.

use std::time::Duration;

use perennial_workflows::model::aws::{InstanceId, InterfaceId, VolumeId};
use perennial_workflows::model::uefi::UefiVariables;
use perennial_workflows::model::volume::{Found, FoundVolume, OtherVolumes, Stranger};
use perennial_workflows::step::evidence::Evidence;
use tracing::warn;

use super::{ARRIVAL, LOOK_AGAIN, LOOK_ALONE, LOOK_SOON, Look, Pass, missed, not_yet, settled};
use crate::classify::{Class, CloudError, Disposition};
use crate::cloud::{AttachmentState, InstanceView, RootTaskState, Tags, VolumeView};

/// How long a question about root replacements may stay unanswered: long enough for a lost connection, and short beside a
/// replacement where an endpoint knows no such question.
const UNANSWERED: Duration = Duration::from_secs(2);

/// DeleteOnTermination=false for these, and for what is found beside them; settled when a look shows it for all.
pub(super) async fn preserve(
    look: &mut Look<'_>,
    instance: &InstanceId,
    volumes: &[VolumeId],
    interfaces: Interfaces<'_>,
    others: Option<&OtherVolumes>,
    asked: Uefi,
) -> Result<Pass, CloudError> {
    let view = match look.runner.observer.instance(instance).await? {
        // A stopped instance can be preserved as well as a running one.
        Some(view) if !view.state.is_over() => view,
        _ => match look.alive(instance).await? {
            Ok(view) => view,
            Err(pass) => return Ok(pass),
        },
    };
    // An adoption under way could still put a root in place whose flag nobody has looked at. An endpoint that gives no
    // answer may know no such tasks at all; what has come is looked for below all the same.
    match look.runner.cloud.root_tasks(instance).await {
        Ok(tasks) => {
            if let Some(task) = tasks.iter().find(|task| task.state == RootTaskState::InProgress) {
                return not_yet(LOOK_ALONE, format!("{} is in progress", task.id));
            }
        }
        Err(error) if error.class == Class::Transient => {
            let now_ms = look.runner.clock.now_ms();
            if !missed(&mut look.memory.unanswered, now_ms, UNANSWERED) {
                return not_yet(
                    LOOK_ALONE,
                    format!("whether a root is being replaced is not known: {error}"),
                );
            }
        }
        Err(error) if error.disposition() == Disposition::Retry => return Err(error),
        Err(_) => {}
    }
    let Some((found, strangers)) = beside(look, &view, volumes, others).await? else {
        return not_yet(LOOK_AGAIN, format!("a volume of {instance} is not shown"));
    };
    let kept: Vec<VolumeId> =
        volumes.iter().cloned().chain(found.iter().map(|found| found.volume.clone())).collect();
    // The volume is authoritative for its attachment; the instance's mapping is asked as well, and either may say that it
    // would die.
    let mut devices: Vec<String> = view
        .block_devices
        .iter()
        .filter(|device| device.delete_on_termination && kept.contains(&device.volume))
        .map(|device| device.device.clone())
        .collect();
    let seen = look.runner.observer.volumes(&kept).await?;
    for seen in seen.iter().flatten() {
        for attachment in &seen.attachments {
            if attachment.instance == *instance
                && attachment.delete_on_termination
                && !devices.contains(&attachment.device)
            {
                devices.push(attachment.device.clone());
            }
        }
    }
    let dies = |id: &InterfaceId| {
        let own = view.interfaces.iter().find(|own| own.id == *id && own.delete_on_termination);
        own.and_then(|own| own.attachment.clone()).map(|attachment| (id.clone(), attachment))
    };
    let own = interfaces.own.and_then(dies);
    let keeping = keeping(look, interfaces.keeping).await?.and_then(dies);
    if devices.is_empty() && own.is_none() && keeping.is_none() {
        // What belongs here and is not seen here may have come a moment ago, by an adoption that has just ended: its flag
        // is what decides whether it survives.
        let is_here = |view: &Option<VolumeView>| {
            view.as_ref().is_some_and(|view| view.attachments.iter().any(|at| at.instance == *instance))
        };
        if let Some((volume, _)) = kept.iter().zip(&seen).find(|(_, view)| !is_here(view))
            && !look.is_missing_for(ARRIVAL)
        {
            return not_yet(
                LOOK_AGAIN,
                format!("{volume} is not seen on {instance}, which proves nothing yet"),
            );
        }
        let uefi = match asked {
            Uefi::NotAsked => None,
            Uefi::Asked => match variables(look, instance).await {
                Some(variables) => Some(variables),
                None => {
                    return not_yet(LOOK_ALONE, format!("the UEFI variables of {instance} are to be read"));
                }
            },
        };
        return settled(if found.is_empty() && strangers.is_empty() && uefi.is_none() {
            Evidence::Preserved
        } else {
            Evidence::PreservedWith { found, strangers, uefi }
        });
    }
    look.memory.missing = None;
    if !devices.is_empty() {
        look.runner.cloud.preserve_volumes(instance, &devices).await?;
    }
    if let Some((interface, attachment)) = own {
        look.runner.cloud.preserve_interface(&interface, &attachment).await?;
    }
    if let Some((interface, attachment)) = keeping {
        match look.runner.cloud.preserve_interface(&interface, &attachment).await {
            Err(error) if error.disposition() == Disposition::Person => {
                warn!(%error, "{interface} dies with {instance}: its address is free then until it has moved");
                look.memory.unkept = true;
            }
            answer => answer?,
        }
    }
    not_yet(LOOK_SOON, format!("DeleteOnTermination of {instance} is to be seen as false"))
}

/// Which interfaces of an instance are to survive it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interfaces<'i> {
    /// The node's own.
    pub(super) own: Option<&'i InterfaceId>,
    /// The instance's, which has the node's address: gone without where it cannot be.
    pub(super) keeping: Option<&'i InterfaceId>,
}

/// The interface that is to keep the address, if it may: what does not carry our tags could not be deleted later.
async fn keeping<'i>(
    look: &mut Look<'_>,
    interface: Option<&'i InterfaceId>,
) -> Result<Option<&'i InterfaceId>, CloudError> {
    let Some(interface) = interface.filter(|_| !look.memory.unkept) else { return Ok(None) };
    let view = look.runner.observer.interface(interface).await?;
    let is_ours = view.is_some_and(|view| view.tags.contains_key("perennial:owner"));
    Ok(is_ours.then_some(interface))
}

/// Whether the UEFI variables of the instance are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uefi {
    Asked,
    NotAsked,
}

/// The UEFI variables of an instance, or why they cannot be read. `None` while an answer may still come: they hold nothing up.
async fn variables(look: &mut Look<'_>, instance: &InstanceId) -> Option<UefiVariables> {
    match look.runner.cloud.uefi_data(instance).await {
        Ok(data) => Some(UefiVariables::read(data)),
        Err(error) => {
            let now_ms = look.runner.clock.now_ms();
            let may_come = matches!(error.class, Class::Transient | Class::Throttled);
            let waits = may_come && !missed(&mut look.memory.unread, now_ms, UNANSWERED);
            (!waits).then(|| UefiVariables::Unread { because: error.to_string() })
        }
    }
}

/// The volumes on an instance beside the known ones: those that can become the node's, and those that are left alone. `None`
/// while one of them is not shown.
async fn beside(
    look: &mut Look<'_>,
    view: &InstanceView,
    known: &[VolumeId],
    others: Option<&OtherVolumes>,
) -> Result<Option<(Vec<FoundVolume>, Vec<Stranger>)>, CloudError> {
    let (mut found, mut strangers) = (Vec::new(), Vec::new());
    let ids = match others {
        Some(_) => unknown(view, known),
        None => Vec::new(),
    };
    if ids.is_empty() {
        return Ok(Some((found, strangers)));
    }
    for seen in look.runner.observer.volumes(&ids).await? {
        // An old mapping may name what is gone; one more look tells.
        let Some(seen) = seen else {
            let now_ms = look.runner.clock.now_ms();
            if missed(&mut look.memory.missing_other, now_ms, ARRIVAL) {
                continue;
            }
            return Ok(None);
        };
        // What is coming is seen by the sweep when it is there; what is leaving is nobody's to hold.
        let Some(device) = attached(&seen, &view.id) else { continue };
        let (volume, device) = (seen.id.clone(), device.to_owned());
        match why_not(&seen) {
            Some(because) => strangers.push(Stranger { volume, device, because }),
            None => found.push(FoundVolume {
                volume,
                device,
                name: seen.tags.get("Name").cloned(),
                size_gib: seen.size_gib,
                traits: traits(&seen),
            }),
        }
    }
    Ok(Some((found, strangers)))
}

/// The volumes of an instance's mapping that are not among these, and not its root. None where no root can be told.
pub(crate) fn unknown(view: &InstanceView, known: &[VolumeId]) -> Vec<VolumeId> {
    let is_root = |device: &str| view.root_device.as_deref() == Some(device);
    if !view.block_devices.iter().any(|device| is_root(&device.device)) {
        return Vec::new();
    }
    let others = view.block_devices.iter().filter(|device| !is_root(&device.device));
    others.filter(|device| !known.contains(&device.volume)).map(|device| device.volume.clone()).collect()
}

/// The device name under which a volume is attached to an instance, for good.
pub(crate) fn attached<'v>(volume: &'v VolumeView, instance: &InstanceId) -> Option<&'v str> {
    let on = volume.attachments.iter().find(|attachment| attachment.instance == *instance)?;
    (on.state == AttachmentState::Attached).then_some(on.device.as_str())
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

/// What a copy of a volume is made as.
pub(super) fn traits(volume: &VolumeView) -> Found {
    let kind = volume.volume_type.as_str();
    Found {
        volume_type: volume.volume_type.clone(),
        // Shown for other types as well, and settable for these only (EC2 API reference, CreateVolume).
        iops: volume.iops.filter(|_| matches!(kind, "gp3" | "io1" | "io2")),
        throughput: volume.throughput.filter(|_| kind == "gp3"),
        is_copy: false,
        snapshot: None,
        named: false,
    }
}
