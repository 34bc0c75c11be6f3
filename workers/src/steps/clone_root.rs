//! A clone of the root volume.

use perennial_workflows::model::aws::VolumeId;
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;

use super::own::{Claim, made_by};
use super::pass::{Answer, LOOK_AGAIN, LOOK_SOON, Pass, not_shown, not_yet, settled};
use crate::port::error::Class;
use crate::port::{VolumeState, VolumeView};

/// How often CopyVolumes is repeated when its answer is neither yes nor no, or the volume is in the wrong
/// state, before another method carries the root: some ten seconds, in an outage in which an image costs
/// minutes.
const UNCLEAR_MAX: u32 = 5;

/// Copies a free volume and sees the copy available. Refused: another method carries the root.
pub(super) async fn clone_root(
    pass: &mut Pass<'_>,
    volume: &VolumeId,
    client_token: &str,
    tags: &TagMap,
) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    let claim = Claim::of(pass, tags);
    let mine = made_by::<VolumeView>(pass, &claim).await?;
    if let Some(view) = mine.first() {
        return match view.state {
            VolumeState::Creating => not_yet(LOOK_AGAIN, format!("{} is being made", view.id)),
            VolumeState::Available | VolumeState::InUse => {
                let found = pass.is_older_than_the_process(&view.id, view.created_at_ms);
                settled(Evidence::VolumeCreated { volume: view.id.clone(), found })
            }
            VolumeState::Error | VolumeState::Deleting | VolumeState::Deleted => {
                settled(Evidence::AdoptRefused {
                    code: "VolumeError".to_owned(),
                    message: format!("{} failed after its creation", view.id),
                })
            }
        };
    }
    match cloud.copy_volume(volume, client_token, tags).await {
        Ok(id) => {
            pass.memory.creation().tried = true;
            pass.memory.note_answer(id.as_str());
            not_yet(LOOK_SOON, format!("{id} is to be available"))
        }
        Err(error) if pass.may_have_worked(&error) => {
            not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
        }
        // A policy may lack this call: then another method carries the root.
        Err(error) if error.class == Class::Access => {
            let is_denied = pass.is_denied(|memory| &mut memory.creation().refused).await;
            if is_denied && !pass.is_in_doubt() {
                settled(Evidence::AdoptRefused { code: error.code, message: error.message })
            } else {
                Err(error)
            }
        }
        Err(error) => match error.class {
            Class::NotFound if pass.tools.observer.volume(volume).await?.is_none() => {
                if pass.is_absent(volume.as_str()).await? {
                    not_shown(format!("volume {volume} does not exist any more"))
                } else {
                    not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
                }
            }
            Class::Unsupported | Class::Person | Class::NoCapacity | Class::Quota => {
                settled(Evidence::AdoptRefused { code: error.code, message: error.message })
            }
            Class::WrongState | Class::InUse => {
                pass.memory.creation().unfit += 1;
                if pass.memory.creation().unfit < UNCLEAR_MAX {
                    not_yet(LOOK_AGAIN, error.to_string())
                } else {
                    settled(Evidence::AdoptRefused { code: error.code, message: error.message })
                }
            }
            _ => Err(error),
        },
    }
}
