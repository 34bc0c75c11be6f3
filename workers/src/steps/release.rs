//! A volume comes free after its instance is terminated; or its detachment is stuck.
//!
//! A live instance's operating system may hold on to a volume for as long as it likes: nothing is forced
//! there, the fence settles it. A volume that stays on an instance that is *terminated* has no holder left:
//! there is no guest left that could write to it. After [`FORCE_AFTER`] it is detached by force, and again
//! every so often. What does not come off even so is for a person: the step runs out of time, and the
//! workflow says which volume is stuck where, since when, and how to go on.

use std::time::Duration;

use perennial_workflows::model::aws::{InstanceId, InstanceState, VolumeId};
use perennial_workflows::step::evidence::Evidence;

use super::pass::{
    Answer, LOOK_AGAIN, Launched, Pass, force_again_ms, lost, not_shown, not_yet, refused, settled,
};
use crate::port::{AttachmentState, VolumeState, VolumeView};

/// How long a volume may stay on a terminated instance before it is detached by force. EC2 frees it within a
/// minute or two; where EBS was in trouble operators reported tens of minutes, and a node that is down should
/// not wait for those.
const FORCE_AFTER: Duration = Duration::from_mins(10);

/// Sees a volume free.
pub(super) async fn release(pass: &mut Pass<'_>, volume: &VolumeId, from: &InstanceId) -> Answer {
    let Some(view) = pass.tools.observer.volume(volume).await? else {
        return if pass.is_absent(volume.as_str()).await? {
            not_shown(format!("volume {volume} does not exist any more"))
        } else {
            not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
        };
    };
    pass.memory.object.found();
    if view.multi_attach {
        return refused(
            "MultiAttach",
            format!(
                "{volume} can be attached to several instances at once; such a volume cannot be moved safely"
            ),
        );
    }
    match view.state {
        VolumeState::Deleting | VolumeState::Deleted => lost(format!("volume {volume} is being deleted")),
        VolumeState::Error => lost(format!("volume {volume} is in the state error")),
        VolumeState::Creating => not_yet(LOOK_AGAIN, format!("{volume} is being created")),
        // Its holder was seen terminated, twice, before this step: no guest writes to it, and EC2 itself
        // refuses to attach what is not free. So one look is enough.
        VolumeState::Available | VolumeState::InUse if view.is_free() => settled(Evidence::Released),
        VolumeState::Available | VolumeState::InUse => wait(pass, &view, from).await,
    }
}

/// It is not free yet.
async fn wait(pass: &mut Pass<'_>, view: &VolumeView, from: &InstanceId) -> Answer {
    let volume = &view.id;
    let mut from = from;
    if let Some(attachment) = view.attachments.iter().find(|attachment| attachment.instance != *from) {
        let other = &attachment.instance;
        match pass.launched(other).await? {
            // It is let go as by the one that it was to leave.
            Launched::Over => from = other,
            Launched::Noted if attachment.state == AttachmentState::Attached => {
                return settled(Evidence::HeldByAnother { what: volume.to_string(), by: other.to_string() });
            }
            launched => return not_yet(LOOK_AGAIN, format!("{volume} is on {other}, {launched}")),
        }
    }
    let Some(attachment) = view.attachments.first() else {
        return not_yet(LOOK_AGAIN, format!("{volume} has nothing attached, and is not available yet"));
    };
    let now_ms = pass.now_ms();
    let waited = pass.memory.late_by + pass.looked_for();
    let hangs = format!(
        "{volume} hangs: it has been {} on {from}, which is terminated, for {} min",
        stage(attachment.state),
        waited.as_secs() / 60
    );
    if waited < FORCE_AFTER {
        return not_yet(LOOK_AGAIN, hangs);
    }
    if pass.memory.release().force_again_ms.is_none_or(|again_ms| now_ms >= again_ms) {
        // The fence has seen it terminated. It is looked at once more: by force, one is enough to be wrong.
        let holder = pass.tools.observer.instance(from).await?;
        if let Some(holder) = holder.filter(|holder| holder.state != InstanceState::Terminated) {
            return not_yet(LOOK_AGAIN, format!("{volume} is on {from}, which is {}", holder.state));
        }
        let asked = pass.tools.cloud.force_detach_volume(volume, from).await;
        if let Some(again_ms) = force_again_ms(&asked, now_ms) {
            pass.memory.release().force_again_ms = Some(again_ms);
        }
        asked?;
    }
    not_yet(LOOK_AGAIN, format!("{hangs}; a forced detach was asked for and has not freed it"))
}

const fn stage(state: AttachmentState) -> &'static str {
    match state {
        AttachmentState::Attaching => "attaching",
        AttachmentState::Attached => "attached",
        AttachmentState::Detaching => "detaching",
        AttachmentState::Busy => "busy",
    }
}
