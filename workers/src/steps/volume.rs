//! Volumes: made, taken over, detached, attached, grown, deleted.

use std::time::Duration;

use perennial_engine::dispatcher::StepResult;
use perennial_workflows::model::aws::{InstanceId, InstanceState, VolumeId};
use perennial_workflows::model::volume::Found;
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::CreateVolume;

use super::own::{Claim, made_by};
use super::pass::{
    Answer, DOUBT, LOOK_AGAIN, LOOK_CLOSELY, LOOK_SOON, Pass, SECOND_READ, not_shown, not_yet, refused,
    settled,
};
use super::tags::carries;
use crate::port::error::{Class, CloudError};
use crate::port::{AttachmentState, InstanceView, VolumeRequest, VolumeState, VolumeView};

/// Between two tries to modify a volume that was modified within the last six hours.
const MODIFICATION_PAUSE: Duration = Duration::from_mins(15);

/// How often in a row, a second apart, a device name is found in use before another one is taken: a volume
/// leaves in seconds.
const DEVICE_BUSY_MAX: u32 = 5;

/// Makes a volume. The client token makes a repeat safe; what carries the step's tag is looked for first.
pub(super) async fn create(pass: &mut Pass<'_>, intent: &CreateVolume) -> Answer {
    let CreateVolume {
        client_token,
        zone,
        size_gib,
        volume_type,
        iops,
        throughput,
        encrypted,
        kms_key,
        snapshot,
        tags,
        ..
    } = intent;
    let cloud = pass.tools.cloud.as_ref();
    let claim = Claim::of(pass, tags);
    let mine = made_by::<VolumeView>(pass, &claim).await?;
    match mine.first().map(|view| (view.state, view)) {
        None => {
            let request = VolumeRequest {
                client_token: client_token.clone(),
                zone: zone.clone(),
                size_gib: *size_gib,
                volume_type: volume_type.clone(),
                iops: *iops,
                throughput: *throughput,
                encrypted: *encrypted,
                kms_key: kms_key.clone(),
                snapshot: snapshot.clone(),
                tags: tags.clone(),
            };
            match cloud.create_volume(&request).await {
                Ok(id) => {
                    pass.memory.creation().tried = true;
                    pass.memory.note_answer(id.as_str());
                    not_yet(LOOK_SOON, format!("{id} is to be available"))
                }
                // At a limit even the repeat of a call that succeeded is refused (EBS CSI driver): look
                // first.
                Err(error) if pass.may_have_worked(&error) => {
                    not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
                }
                Err(error) if pass.is_given_up_for(&error) => settled(Evidence::Outdated),
                Err(error) if error.class == Class::NoCapacity => {
                    settled(Evidence::NoCapacity { code: error.code, message: error.message })
                }
                Err(error) => Err(error),
            }
        }
        Some((VolumeState::Creating, view)) => not_yet(LOOK_AGAIN, format!("{} is being created", view.id)),
        Some((VolumeState::Available | VolumeState::InUse, view)) => {
            let found = pass.is_older_than_the_process(&view.id, view.created_at_ms);
            settled(Evidence::VolumeCreated { volume: view.id.clone(), found })
        }
        Some((VolumeState::Error | VolumeState::Deleting | VolumeState::Deleted, view)) => refused(
            "VolumeError",
            format!("{} failed after its creation (often: the key cannot be used)", view.id),
        ),
    }
}

/// Sees an existing volume free and fit for the node. Nothing is changed.
pub(super) async fn take(
    pass: &mut Pass<'_>,
    volume: &VolumeId,
    zone: &str,
    size_gib: u32,
    own: &TagMap,
) -> Answer {
    let Some(view) = pass.tools.observer.volume(volume).await? else {
        return if pass.is_missing_for(DOUBT) {
            refused("InvalidVolume.NotFound", format!("there is no volume {volume}"))
        } else {
            not_yet(LOOK_AGAIN, format!("{volume} is not shown"))
        };
    };
    pass.memory.object.found();
    if view.multi_attach {
        let message = format!(
            "{volume} can be attached to several instances at once, so no fence would hold: name a volume of one instance"
        );
        return refused("MultiAttach", message);
    }
    if view.zone != zone {
        let message =
            format!("{volume} is in {}, the node lives in {zone}: name one of that zone", view.zone);
        return refused("ZoneMismatch", message);
    }
    if view.size_gib < size_gib {
        let has = view.size_gib;
        let message = format!("{volume} has {has} GiB, the file says {size_gib}: say at most {has}");
        return refused("TooSmall", message);
    }
    // Free for a moment, because its node is being replaced, is not free.
    if let Some(node) = view.tags.get("perennial:node")
        && !carries(&view.tags, own)
    {
        let owner = view.tags.get("perennial:owner").map_or("", String::as_str);
        return settled(Evidence::HeldByAnother {
            what: volume.to_string(),
            by: format!(
                "node {node} of the installation {owner}, by its tags (if that node is gone, remove its tag perennial:node)"
            ),
        });
    }
    if let Some(attachment) = view.attachments.first() {
        let by = attachment.instance.to_string();
        return settled(Evidence::HeldByAnother { what: volume.to_string(), by });
    }
    match view.state {
        VolumeState::Creating => not_yet(LOOK_AGAIN, format!("{volume} is being created")),
        VolumeState::Available | VolumeState::InUse if view.is_free() => {
            match free_twice(pass, volume).await? {
                StepResult::Settled(_) => settled(Evidence::VolumeClaimed {
                    size_gib: view.size_gib,
                    traits: Some(Found { named: true, ..view.as_found() }),
                }),
                result
                @ (StepResult::NotYet { .. } | StepResult::Hindered { .. } | StepResult::Queued(_)) => {
                    Ok(result)
                }
            }
        }
        VolumeState::Available | VolumeState::InUse => not_yet(LOOK_AGAIN, format!("{volume} is not free")),
        VolumeState::Deleting | VolumeState::Deleted | VolumeState::Error => {
            refused("VolumeError", format!("{volume} is {:?}", view.state))
        }
    }
}

/// Detaches a volume from a live instance and sees it free.
pub(super) async fn detach(pass: &mut Pass<'_>, volume: &VolumeId, instance: &InstanceId) -> Answer {
    let Some(view) = pass.tools.observer.volume(volume).await? else {
        return not_yet(LOOK_AGAIN, format!("{volume} is not shown"));
    };
    if view.is_free() {
        // Seen attached before it was asked to leave, and free after: that it is gone needs no second
        // witness.
        return if pass.memory.change().asked {
            settled(Evidence::Released)
        } else {
            free_twice(pass, volume).await
        };
    }
    match view.attachments.iter().find(|attachment| attachment.instance == *instance) {
        None => refused("HeldByAnother", format!("{volume} is not on {instance}")),
        Some(attachment) => match attachment.state {
            AttachmentState::Attached => {
                pass.tools.cloud.detach_volume(volume, instance).await?;
                pass.memory.change().asked = true;
                not_yet(LOOK_SOON, format!("{volume} is to leave {instance}"))
            }
            AttachmentState::Attaching => not_yet(LOOK_AGAIN, format!("{volume} is attaching")),
            AttachmentState::Detaching => not_yet(LOOK_CLOSELY, format!("{volume} is detaching")),
            AttachmentState::Busy => {
                not_yet(LOOK_AGAIN, format!("{volume} is busy: the operating system still uses it"))
            }
        },
    }
}

/// The second of two reads, at least a second after the first.
async fn free_twice(pass: &Pass<'_>, volume: &VolumeId) -> Answer {
    pass.tools.clock.sleep(SECOND_READ).await;
    match pass.tools.observer.volume(volume).await? {
        Some(view) if view.is_free() => settled(Evidence::Released),
        _ => not_yet(LOOK_AGAIN, format!("two reads of {volume} did not agree")),
    }
}

/// Attaches a volume. Repeating the call is safe, because a volume attaches once.
pub(super) async fn attach(
    pass: &mut Pass<'_>,
    volume: &VolumeId,
    instance: &InstanceId,
    device: &str,
) -> Answer {
    let tools = pass.tools;
    if pass.tries == 0 && was_free_lately(pass, volume, instance) {
        return call_attach(pass, volume, instance, device).await;
    }
    let (machine, view) = tokio::join!(pass.alive(instance), tools.observer.volume(volume));
    let (machine, view) = (machine?, view?);
    if let Err(result @ StepResult::Settled(_)) = machine {
        return Ok(result);
    }
    let Some(view) = view else {
        return if pass.is_absent(volume.as_str()).await? {
            not_shown(format!("volume {volume} does not exist any more"))
        } else {
            not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
        };
    };
    pass.memory.object.found();
    if view.multi_attach {
        return refused("MultiAttach", format!("{volume} can be attached to several instances at once"));
    }
    match view.attachments.iter().find(|attachment| attachment.instance == *instance) {
        Some(attachment) if attachment.state == AttachmentState::Attached => settled(Evidence::Attached),
        Some(attachment) => match attachment.state {
            AttachmentState::Detaching | AttachmentState::Busy => not_yet(
                LOOK_AGAIN,
                format!(
                    "{volume} is to leave {instance} as it was asked to, before it can be attached again: \
                     unmount it there if it is in use"
                ),
            ),
            AttachmentState::Attaching | AttachmentState::Attached => {
                not_yet(LOOK_CLOSELY, format!("{volume} is attaching"))
            }
        },
        None if !view.is_free() => not_yet(LOOK_AGAIN, format!("{volume} is not free")),
        None => call_attach(pass, volume, instance, device).await,
    }
}

/// Whether the look that let the volume go, or one as young, may serve as the one before the act: EC2 itself
/// refuses to attach what is not free, and to an instance that does not run. So one that is out of date costs
/// a refused call.
fn was_free_lately(pass: &Pass<'_>, volume: &VolumeId, instance: &InstanceId) -> bool {
    let observer = &pass.tools.observer;
    let runs = |machine: InstanceView| machine.state == InstanceState::Running;
    let is_ready = |view: VolumeView| view.is_free() && !view.multi_attach;
    observer.volume_lately(volume).is_some_and(is_ready)
        && observer.instance_lately(instance).is_some_and(runs)
}

/// AttachVolume itself.
async fn call_attach(pass: &mut Pass<'_>, volume: &VolumeId, instance: &InstanceId, device: &str) -> Answer {
    match pass.tools.cloud.attach_volume(volume, instance, device).await {
        Ok(()) => not_yet(LOOK_SOON, format!("{volume} is to be attached")),
        // Another volume may be leaving it; one that stays belongs to the instance.
        Err(error) if names_device_in_use(&error) => {
            pass.memory.attachment().device_busy += 1;
            if pass.memory.attachment().device_busy < DEVICE_BUSY_MAX {
                not_yet(SECOND_READ, error.to_string())
            } else {
                settled(Evidence::DeviceInUse)
            }
        }
        Err(error) => Err(error),
    }
}

/// Makes a volume larger.
pub(super) async fn grow(pass: &mut Pass<'_>, volume: &VolumeId, size_gib: u32) -> Answer {
    let Some(view) = pass.tools.observer.volume(volume).await? else {
        return if pass.is_absent(volume.as_str()).await? {
            not_shown(format!("volume {volume} does not exist any more"))
        } else {
            not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
        };
    };
    pass.memory.object.found();
    if view.size_gib >= size_gib {
        return settled(Evidence::Grown { size_gib: view.size_gib });
    }
    // The new size is shown once the modification has passed its first state; until then the call says that
    // one goes on.
    if !pass.memory.change().asked {
        match pass.tools.cloud.grow_volume(volume, size_gib).await {
            Ok(()) => pass.memory.change().asked = true,
            // One modification in six hours, and one at a time: the next is asked for when its time has come.
            Err(error) if is_modified_too_often(&error.code) => {
                return not_yet(MODIFICATION_PAUSE, error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    not_yet(LOOK_AGAIN, format!("{volume} has {} GiB and is to have {size_gib}", view.size_gib))
}

/// Deletes a volume that carries our tags.
pub(super) async fn delete(pass: &mut Pass<'_>, volume: &VolumeId, role: &str) -> Answer {
    match pass.tools.observer.volume(volume).await? {
        None if pass.is_gone(volume.as_str()).await? => settled(Evidence::Deleted),
        None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
        Some(view) => match view.state {
            VolumeState::Deleted | VolumeState::Deleting => settled(Evidence::Deleted),
            _ if !view.tags.contains_key("perennial:owner") => {
                refused("NotOurs", format!("{volume} ({role}) does not carry our tags; delete it by hand"))
            }
            _ if !view.attachments.is_empty() => not_yet(LOOK_AGAIN, format!("{volume} is still attached")),
            _ => {
                pass.tools.cloud.delete_volume(volume).await?;
                not_yet(LOOK_SOON, format!("{volume} is to be gone"))
            }
        },
    }
}

/// Whether EC2 will modify the volume later (API reference, ModifyVolume).
fn is_modified_too_often(code: &str) -> bool {
    matches!(code, "VolumeModificationRateExceeded" | "IncorrectModificationState")
}

/// Whether AttachVolume was refused for the device's name. The volume's own attachment has other codes.
fn names_device_in_use(error: &CloudError) -> bool {
    error.code == "InvalidDevice.InUse"
        || (error.code == "InvalidParameterValue" && error.message.contains("already in use"))
}
