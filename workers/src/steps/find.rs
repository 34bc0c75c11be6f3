//! What an abandoned step has made, found by its tags.

use perennial_workflows::model::resources::{Resource, ResourceKind};
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;

use super::pass::{Answer, LOOK_AGAIN, Pass, not_yet, settled};
use super::tags::step_tags;
use crate::port::Select;

/// What a step has made, by its tags. Nothing is believed only after every look has missed it for long.
pub(super) async fn find(pass: &mut Pass<'_>, made: ResourceKind, tags: &TagMap) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    let tags = step_tags(tags);
    let resources: Vec<Resource> = match made {
        ResourceKind::Instance => {
            let found = cloud.instances(&Select::Tagged(tags)).await?;
            if !found.is_empty() && found.iter().all(|view| view.state.is_over()) {
                return settled(Evidence::Found { resources: Vec::new() });
            }
            let live = found.into_iter().filter(|view| !view.state.is_over());
            live.map(|view| Resource::Instance { instance: view.id, spot_request: view.spot_request })
                .collect()
        }
        ResourceKind::Volume => {
            let found = cloud.volumes(&Select::Tagged(tags)).await?;
            found.into_iter().map(|view| Resource::Volume { volume: view.id }).collect()
        }
        ResourceKind::Interface => {
            let found = cloud.interfaces(&Select::Tagged(tags)).await?;
            found.into_iter().map(|view| Resource::Interface { interface: view.id }).collect()
        }
        ResourceKind::Snapshot => {
            let found = cloud.snapshots(&Select::Tagged(tags)).await?;
            found.into_iter().map(|view| Resource::Snapshot { snapshot: view.id }).collect()
        }
        ResourceKind::Image => {
            let found = cloud.images(&Select::Tagged(tags)).await?;
            found.into_iter().map(|view| Resource::Image { image: view.id }).collect()
        }
    };
    if resources.is_empty() && !pass.is_absent() {
        return not_yet(LOOK_AGAIN, "nothing of that step is shown, which proves nothing yet");
    }
    settled(Evidence::Found { resources })
}
