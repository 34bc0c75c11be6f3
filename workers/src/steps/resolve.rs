//! Where a subnet is, and what an image is like.

use std::collections::BTreeMap;

use perennial_workflows::model::aws::{ImageId, SubnetId};
use perennial_workflows::model::image::{ImageFacts, Placement};
use perennial_workflows::step::evidence::Evidence;

use super::image::of_traits;
use super::pass::{Answer, Pass, refused, settled};
use crate::port::Select;

/// Looks up the zones of subnets and the traits of an image. Nothing is changed.
pub(super) async fn resolve(
    pass: &Pass<'_>,
    subnet: &SubnetId,
    image: &ImageId,
    others: &[SubnetId],
) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    let asked: Vec<_> = std::iter::once(subnet).chain(others).cloned().collect();
    let mut zones: BTreeMap<_, _> =
        cloud.subnets(&asked).await?.into_iter().map(|view| (view.id, view.zone)).collect();
    if let Some(missing) = asked.iter().find(|asked| !zones.contains_key(asked)) {
        return refused("InvalidSubnetID.NotFound", format!("there is no subnet {missing}"));
    }
    let zone = zones.remove(subnet).unwrap_or_default();
    let images = cloud.images(&Select::Ids(vec![image.clone()])).await?;
    let Some(view) = images.first() else {
        return refused("InvalidAMIID.NotFound", format!("there is no image {image}"));
    };
    settled(Evidence::Resolved(Placement {
        zone,
        other_zones: zones,
        image: ImageFacts { mapped: view.mapped.clone(), ..of_traits(&view.traits) },
    }))
}
