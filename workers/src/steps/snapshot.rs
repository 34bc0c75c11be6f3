//! Snapshots of one volume, and their deletion.

use perennial_workflows::model::aws::{SnapshotId, VolumeId};
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;

use super::own::{Claim, made_by};
use super::pass::{Answer, LOOK_AGAIN, LOOK_ALONE, LOOK_SOON, Pass, not_shown, not_yet, refused, settled};
use crate::port::error::{Class, Effect};
use crate::port::{SnapshotState, SnapshotView};

/// Takes a snapshot of a volume and sees it complete. There is no client token: what carries the step's tag
/// is looked for first.
pub(super) async fn create(
    pass: &mut Pass<'_>,
    volume: &VolumeId,
    tags: &TagMap,
    ahead_ms: Option<u64>,
) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    let sources = [volume.clone()];
    let claim = Claim::of(pass, tags).begun(pass, ahead_ms).of_volumes(&sources);
    let mut mine = made_by::<SnapshotView>(pass, &claim).await?;
    mine.sort_by(|a, b| (a.started_at_ms, &a.id).cmp(&(b.started_at_ms, &b.id)));
    // A crash between the call and its answer can leave two of the same moment; the first one stays.
    for twin in mine.iter().skip(1) {
        cloud.delete_snapshot(&twin.id).await?;
    }
    match mine.first() {
        Some(view) => match view.state {
            SnapshotState::Completed => {
                // What the volume costs when it is retained; it is not needed for anything else.
                let of = pass.tools.observer.volume(volume).await.ok().flatten();
                settled(Evidence::SnapshotCompleted {
                    snapshot: view.id.clone(),
                    size_gib: of.map(|of| of.size_gib),
                })
            }
            SnapshotState::Pending => not_yet(LOOK_ALONE, format!("{} is at {} %", view.id, view.progress)),
            SnapshotState::Error => refused("SnapshotError", format!("{} failed", view.id)),
        },
        None if !pass.memory.snapshots().made.is_empty() => not_yet(LOOK_ALONE, "the snapshot is to be seen"),
        None if pass.in_doubt() => not_yet(LOOK_AGAIN, "a snapshot of an earlier try may still appear"),
        None => {
            let description = format!("perennial {}", tags.get("perennial:step").map_or("", String::as_str));
            match cloud.create_snapshot(volume, &description, tags).await {
                Ok(id) => {
                    pass.memory.note_answer(id.as_str());
                    pass.memory.snapshots().made.push(id.clone());
                    not_yet(LOOK_SOON, format!("{id} is to be complete"))
                }
                Err(error) if error.class == Class::NotFound => {
                    if pass.tools.observer.volume(volume).await?.is_none()
                        && pass.is_absent(volume.as_str()).await?
                    {
                        not_shown(format!("volume {volume} does not exist any more"))
                    } else {
                        not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
                    }
                }
                Err(error) => {
                    if error.effect == Effect::Unknown {
                        pass.note_unclear();
                    }
                    Err(error)
                }
            }
        }
    }
}

/// Deletes a snapshot.
pub(super) async fn delete(pass: &mut Pass<'_>, snapshot: &SnapshotId) -> Answer {
    match pass.tools.observer.snapshot(snapshot).await? {
        None if pass.is_gone(snapshot.as_str()).await? => settled(Evidence::Deleted),
        None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
        Some(_) => {
            pass.tools.cloud.delete_snapshot(snapshot).await?;
            not_yet(LOOK_SOON, format!("{snapshot} is to be gone"))
        }
    }
}
