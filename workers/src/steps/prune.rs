//! A retained volume is deleted: once it, and the volume that has its place, were seen to be as they should
//! be, twice. Nothing is deleted while the machine's clock differs from AWS's: how long a volume has been
//! retained is then not known.

use perennial_workflows::model::aws::VolumeId;
use perennial_workflows::model::resources::Succession;
use perennial_workflows::step::evidence::Evidence;

use super::pass::{Answer, LOOK_AGAIN, LOOK_SOON, Pass, SECOND_READ, not_yet, refused, settled};
use super::tags::carries;
use crate::cloud::region_time::time_is_known;
use crate::port::error::CloudError;
use crate::port::{AttachmentState, VolumeState};

/// What one look says.
enum Seen {
    /// It is gone, or going.
    Gone,
    /// It is not shown.
    Missing,
    /// It may go.
    Free,
    /// It is attached to something.
    Attached(String),
    /// It is not ours.
    NotOurs(String),
    /// That cannot be said yet.
    NotYet(String),
}

/// Deletes a retained volume.
pub(super) async fn delete(pass: &mut Pass<'_>, volume: &VolumeId, wanted: &Succession) -> Answer {
    match see(pass, volume, wanted).await? {
        Seen::Gone => settled(Evidence::Deleted),
        Seen::Missing if pass.is_gone(volume.as_str()).await? => settled(Evidence::Deleted),
        Seen::Missing => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
        Seen::NotYet(because) => not_yet(LOOK_AGAIN, because),
        Seen::NotOurs(why) => refused("NotOurs", why),
        // A describe may show what was a moment ago.
        Seen::Attached(why) => {
            let now_ms = pass.now_ms();
            if pass.memory.deletion().attached.for_at_least(SECOND_READ, now_ms) {
                refused("InUse", why)
            } else {
                not_yet(SECOND_READ, why)
            }
        }
        Seen::Free => {
            pass.memory.object.found();
            pass.memory.deletion().attached.found();
            pass.tools.clock.sleep(SECOND_READ).await;
            match see(pass, volume, wanted).await? {
                Seen::Free => {
                    if let Err(doubt) = time_is_known(&pass.tools.clock, pass.tools.cloud.told_time()) {
                        return not_yet(LOOK_AGAIN, doubt.to_string());
                    }
                    pass.tools.cloud.delete_volume(volume).await?;
                    not_yet(LOOK_SOON, format!("{volume} is to be gone"))
                }
                Seen::Gone | Seen::Missing | Seen::Attached(_) | Seen::NotOurs(_) | Seen::NotYet(_) => {
                    not_yet(LOOK_AGAIN, format!("two reads of {volume} did not agree"))
                }
            }
        }
    }
}

async fn see(pass: &Pass<'_>, volume: &VolumeId, wanted: &Succession) -> Result<Seen, CloudError> {
    let Succession { successor, carrier, own } = wanted;
    let observer = &pass.tools.observer;
    let (view, next) = tokio::join!(observer.volume(volume), observer.volume(successor));
    let Some(view) = view? else { return Ok(Seen::Missing) };
    if matches!(view.state, VolumeState::Deleting | VolumeState::Deleted) {
        return Ok(Seen::Gone);
    }
    if !carries(&view.tags, own) {
        let whose = match (view.tags.get("perennial:node"), view.tags.get("perennial:owner")) {
            (Some(node), Some(owner)) => {
                format!("it is node {node}'s of the installation {owner}, by its tags")
            }
            _ => "it does not carry the node's tags".to_owned(),
        };
        return Ok(Seen::NotOurs(format!("{volume}: {whose}; delete it by hand if nobody needs it")));
    }
    if let Some(attachment) = view.attachments.first() {
        let on = &attachment.instance;
        return Ok(Seen::Attached(format!("{volume} is attached to {on}: somebody uses it")));
    }
    if !view.is_free() && view.state != VolumeState::Error {
        return Ok(Seen::NotYet(format!("{volume} is not free yet")));
    }
    let is_in_place = next?.is_some_and(|next| {
        let here = |on: &crate::port::VolumeAttachment| {
            on.instance == *carrier && on.state == AttachmentState::Attached
        };
        next.attachments.iter().any(here)
    });
    Ok(if is_in_place {
        Seen::Free
    } else {
        Seen::NotYet(format!("{successor}, which has its place, is not seen on {carrier}"))
    })
}
