//! What an abandoned step has made, found by its tags.

use perennial_workflows::model::resources::{Origin, Resource, ResourceKind};
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;

use super::own::{Claim, made_by};
use super::pass::{Answer, LOOK_AGAIN, Pass, not_yet, settled};
use crate::port::{ImageView, InstanceView, InterfaceView, SnapshotView, VolumeView};

/// What a step has made, by its tags. Nothing is believed only after every look has missed it for long.
///
/// What is found is deleted next, but for volumes that may ever have been attached. EC2 does not say whether
/// one was. A volume that is younger than this process was not: a step of this process would have attached
/// it, and known it. Another one is kept, and listed.
pub(super) async fn find(
    pass: &mut Pass<'_>,
    made: ResourceKind,
    tags: &TagMap,
    origin: Option<&Origin>,
) -> Answer {
    let claim = Claim {
        client_token: origin.and_then(|origin| origin.client_token.as_deref()),
        ..Claim::intended(pass, tags, origin.map(|origin| origin.intended_at_ms))
    };
    let mut kept = Vec::new();
    let resources: Vec<Resource> = match made {
        ResourceKind::Instance => {
            let found = made_by::<InstanceView>(pass, &claim).await?;
            if !found.is_empty() && found.iter().all(|view| view.state.is_over()) {
                return settled(Evidence::Found { resources: Vec::new(), kept: Vec::new() });
            }
            let live = found.into_iter().filter(|view| !view.state.is_over());
            live.map(|view| Resource::Instance { instance: view.id, spot_request: view.spot_request })
                .collect()
        }
        ResourceKind::Volume => {
            let found = made_by::<VolumeView>(pass, &claim).await?;
            let (old, young): (Vec<_>, Vec<_>) = found.into_iter().partition(|view| {
                !view.attachments.is_empty() || pass.is_older_than_the_process(&view.id, view.created_at_ms)
            });
            kept = old.into_iter().map(|view| view.id).collect();
            young.into_iter().map(|view| Resource::Volume { volume: view.id }).collect()
        }
        ResourceKind::Interface => {
            let found = made_by::<InterfaceView>(pass, &claim).await?;
            found.into_iter().map(|view| Resource::Interface { interface: view.id }).collect()
        }
        ResourceKind::Snapshot => {
            let found = made_by::<SnapshotView>(pass, &claim).await?;
            found.into_iter().map(|view| Resource::Snapshot { snapshot: view.id }).collect()
        }
        ResourceKind::Image => {
            let found = made_by::<ImageView>(pass, &claim).await?;
            found.into_iter().map(|view| Resource::Image { image: view.id }).collect()
        }
    };
    if resources.is_empty() && kept.is_empty() && !pass.is_absent(&Resource::suspected(made, tags)).await? {
        return not_yet(LOOK_AGAIN, "nothing of that step is shown, which proves nothing yet");
    }
    settled(Evidence::Found { resources, kept })
}
