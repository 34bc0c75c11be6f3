//! A clone of the root volume.

use perennial_workflows::model::aws::VolumeId;
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;

use super::{LOOK_AGAIN, LOOK_SOON, Look, Pass, lost, not_yet, settled, step_tags};
use crate::classify::{Class, CloudError};
use crate::cloud::{Select, VolumeState};

/// How often CopyVolumes is repeated when its answer is neither yes nor no, or the volume is in the wrong state, before another
/// rung carries the root: some ten seconds, in an outage in which an image costs minutes.
const UNCLEAR_MAX: u32 = 5;

/// Copies a free volume and sees the copy available. Refused: another rung carries the root.
pub(super) async fn clone_root(
    look: &mut Look<'_>,
    volume: &VolumeId,
    client_token: &str,
    tags: &TagMap,
) -> Result<Pass, CloudError> {
    let cloud = look.runner.cloud.as_ref();
    let mine = cloud.volumes(&Select::Tagged(step_tags(tags))).await?;
    if let Some(view) = mine.first() {
        return match view.state {
            VolumeState::Creating => not_yet(LOOK_AGAIN, format!("{} is being made", view.id)),
            VolumeState::Available | VolumeState::InUse => {
                settled(Evidence::VolumeCreated { volume: view.id.clone() })
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
            look.memory.tried = true;
            not_yet(LOOK_SOON, format!("{id} is to be available"))
        }
        Err(error) if look.may_have_worked(&error) => {
            not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
        }
        Err(error) => match error.class {
            Class::NotFound if look.runner.observer.volume(volume).await?.is_none() => {
                if look.is_absent() {
                    lost(format!("volume {volume} does not exist any more"))
                } else {
                    not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
                }
            }
            Class::Unsupported | Class::Person | Class::NoCapacity | Class::Quota => {
                settled(Evidence::AdoptRefused { code: error.code, message: error.message })
            }
            Class::WrongState | Class::InUse => {
                look.memory.unclear += 1;
                if look.memory.unclear < UNCLEAR_MAX {
                    not_yet(LOOK_AGAIN, error.to_string())
                } else {
                    settled(Evidence::AdoptRefused { code: error.code, message: error.message })
                }
            }
            _ => Err(error),
        },
    }
}
