//! Images: registered from a snapshot of the root, and deregistered.

use perennial_workflows::model::aws::{ImageId, SnapshotId};
use perennial_workflows::model::image::ImageFacts;
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;
use tracing::warn;

use super::pass::{Answer, LOOK_AGAIN, LOOK_ALONE, LOOK_SOON, Pass, not_yet, refused, settled};
use crate::port::error::Disposition;
use crate::port::{ImageRequest, ImageState, ImageTraits};

/// Registers an image. Its name is unique, which makes a repeat safe; whose it is, its snapshot says: that is
/// what the instance will boot.
pub(super) async fn register(
    pass: &mut Pass<'_>,
    name: &str,
    snapshot: &SnapshotId,
    facts: &ImageFacts,
    uefi_data: Option<&str>,
    tags: &TagMap,
) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    match cloud.image_named(name).await? {
        Some(view) if view.root_snapshot.as_ref().is_some_and(|root| root != snapshot) => refused(
            "InvalidAMIName.Duplicate",
            format!(
                "the image named {name} ({}) is of another snapshot than {snapshot}; deregister it",
                view.id
            ),
        ),
        Some(view) => match view.state {
            ImageState::Available => settled(Evidence::ImageAvailable {
                differs: facts.differences(&of_traits(&view.traits)),
                image: view.id,
            }),
            ImageState::Pending => not_yet(LOOK_ALONE, format!("{} is pending", view.id)),
            ImageState::Failed => refused("ImageFailed", format!("{} failed", view.id)),
        },
        None => {
            let mut request = ImageRequest {
                name: name.to_owned(),
                root_snapshot: snapshot.clone(),
                traits: of_facts(facts),
                uefi_data: uefi_data.map(str::to_owned),
                tags: tags.clone(),
            };
            let id = match cloud.register_image(&request).await {
                // The root is worth more than they are: whether EC2 takes them was not seen on a live
                // account.
                Err(error) if uefi_data.is_some() && error.disposition() == Disposition::Person => {
                    warn!(%error, "an image is registered without the UEFI variables of its instance");
                    request.uefi_data = None;
                    cloud.register_image(&request).await?
                }
                answer => answer?,
            };
            not_yet(LOOK_SOON, format!("{id} is to be available"))
        }
    }
}

/// What the workflow keeps of an image.
pub(crate) fn of_traits(traits: &ImageTraits) -> ImageFacts {
    ImageFacts {
        architecture: traits.architecture.clone(),
        root_device: traits.root_device.clone(),
        boot_mode: traits.boot_mode.clone(),
        ena_support: traits.ena_support,
        tpm_support: traits.tpm_support.clone(),
        imds_support: traits.imds_support.clone(),
        platform: traits.platform.clone(),
        mapped: Vec::new(),
    }
}

/// What EC2 is told of it.
fn of_facts(facts: &ImageFacts) -> ImageTraits {
    ImageTraits {
        architecture: facts.architecture.clone(),
        root_device: facts.root_device.clone(),
        boot_mode: facts.boot_mode.clone(),
        ena_support: facts.ena_support,
        tpm_support: facts.tpm_support.clone(),
        imds_support: facts.imds_support.clone(),
        platform: facts.platform.clone(),
    }
}

/// Deregisters an image.
pub(super) async fn deregister(pass: &mut Pass<'_>, image: &ImageId) -> Answer {
    match pass.tools.observer.image(image).await? {
        None if pass.is_gone(image.as_str()).await? => settled(Evidence::Deleted),
        None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
        Some(_) => {
            pass.tools.cloud.deregister_image(image).await?;
            not_yet(LOOK_SOON, format!("{image} is to be gone"))
        }
    }
}
