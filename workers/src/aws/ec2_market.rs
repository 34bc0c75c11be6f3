//! What EC2 says of capacity before it is asked for: prices, scores, types and where they are offered.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{InstanceType, LocationType, UsageClassType};

use super::ec2::{Ec2, all_pages, failed, filter};
use crate::classify::{Action, CloudError};
use crate::cloud::TypeView;

/// DescribeInstanceTypes gives at most 100 a page.
const TYPE_PAGE_SIZE: i32 = 100;

/// The products whose prices are those of an instance with Linux; accounts of EC2-Classic's time have the second one.
const LINUX: [&str; 2] = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"];

impl Ec2 {
    /// The prices in force now: EC2 adds the one at the beginning of the time asked for, so that a moment is enough.
    pub(super) async fn priced(
        &self,
        types: &[String],
        zone: &str,
        now_ms: u64,
    ) -> Result<BTreeMap<String, String>, CloudError> {
        let action = Action::DescribeSpotPriceHistory;
        let now = DateTime::from_millis(i64::try_from(now_ms).unwrap_or(i64::MAX));
        let (now, kinds) =
            (&now, &types.iter().map(|name| InstanceType::from(name.as_str())).collect::<Vec<_>>());
        let prices = all_pages(action, move |token| async move {
            let page = self
                .client
                .describe_spot_price_history()
                .set_instance_types(Some(kinds.clone()))
                .availability_zone(zone)
                .set_product_descriptions(Some(LINUX.map(str::to_owned).to_vec()))
                .start_time(*now)
                .end_time(*now)
                .max_results(self.page_size)
                .set_next_token(token)
                .send()
                .await
                .map_err(failed(action))?;
            let prices = page.spot_price_history().iter().filter_map(|price| {
                let at_s = price.timestamp().map_or(0, DateTime::secs);
                let in_zone = price.availability_zone().is_none_or(|other| other == zone);
                let name = price.instance_type().filter(|_| in_zone)?.as_str().to_owned();
                Some((name, at_s, price.spot_price()?.to_owned()))
            });
            Ok((prices.collect::<Vec<_>>(), page.next_token))
        });
        // An endpoint may answer with more of the history: the newest counts.
        let mut newest: BTreeMap<String, (i64, String)> = BTreeMap::new();
        for (name, at_s, price) in prices.await? {
            let known = newest.get(&name).is_some_and(|(other, _)| *other >= at_s);
            if !known && types.contains(&name) {
                newest.insert(name, (at_s, price));
            }
        }
        Ok(newest.into_iter().map(|(name, (_, price))| (name, price)).collect())
    }

    /// Scores name zones by their ids, which are looked up first.
    pub(super) async fn scored(&self, types: &[String], zone: &str) -> Result<Option<u8>, CloudError> {
        let action = Action::GetSpotPlacementScores;
        let zones = self
            .client
            .describe_availability_zones()
            .zone_names(zone)
            .send()
            .await
            .map_err(failed(action))?;
        let known = zones.availability_zones().iter().find(|known| known.zone_name() == Some(zone));
        let Some((id, region)) = known.and_then(|known| Some((known.zone_id()?, known.region_name()?)))
        else {
            return Ok(None);
        };
        let scores = all_pages(action, move |token| async move {
            let page = self
                .client
                .get_spot_placement_scores()
                .set_instance_types(Some(types.to_vec()))
                .target_capacity(1)
                .single_availability_zone(true)
                .region_names(region)
                .set_next_token(token)
                .send()
                .await
                .map_err(failed(action))?;
            let here =
                page.spot_placement_scores().iter().filter(|score| score.availability_zone_id() == Some(id));
            let scores: Vec<i32> = here.filter_map(|score| score.score()).collect();
            Ok((scores, page.next_token))
        });
        Ok(scores.await?.into_iter().max().and_then(|score| u8::try_from(score).ok()))
    }

    pub(super) async fn listed(&self, architecture: &str) -> Result<Vec<TypeView>, CloudError> {
        let action = Action::DescribeInstanceTypes;
        let wanted = filter("processor-info.supported-architecture", [architecture.to_owned()]);
        let wanted = &wanted;
        all_pages(action, move |token| async move {
            let page = self
                .client
                .describe_instance_types()
                .filters(wanted.clone())
                .max_results(self.page_size.min(TYPE_PAGE_SIZE))
                .set_next_token(token)
                .send()
                .await
                .map_err(failed(action))?;
            let types = page.instance_types().iter().filter_map(|info| {
                let is_it = info.processor_info()?.supported_architectures().iter();
                is_it.map(|known| known.as_str()).find(|known| *known == architecture)?;
                let gpus =
                    info.gpu_info().map_or(0, |gpus| gpus.gpus().iter().filter_map(|gpu| gpu.count()).sum());
                Some(TypeView {
                    name: info.instance_type()?.as_str().to_owned(),
                    vcpus: u32::try_from(info.v_cpu_info()?.default_v_cpus()?).ok()?,
                    memory_mib: u64::try_from(info.memory_info()?.size_in_mib()?).ok()?,
                    gpus: u32::try_from(gpus).ok()?,
                    spot: info.supported_usage_classes().contains(&UsageClassType::Spot),
                    bare_metal: info.bare_metal().unwrap_or(false),
                    current_generation: info.current_generation().unwrap_or(true),
                })
            });
            Ok((types.collect(), page.next_token))
        })
        .await
    }

    pub(super) async fn offered(&self, zone: &str) -> Result<BTreeSet<String>, CloudError> {
        let action = Action::DescribeInstanceTypeOfferings;
        let here = filter("location", [zone.to_owned()]);
        let here = &here;
        let offers = all_pages(action, move |token| async move {
            let page = self
                .client
                .describe_instance_type_offerings()
                .location_type(LocationType::AvailabilityZone)
                .filters(here.clone())
                .max_results(self.page_size)
                .set_next_token(token)
                .send()
                .await
                .map_err(failed(action))?;
            let offers = page.instance_type_offerings().iter().filter(|offer| offer.location() == Some(zone));
            let names = offers.filter_map(|offer| Some(offer.instance_type()?.as_str().to_owned()));
            Ok((names.collect(), page.next_token))
        });
        Ok(offers.await?.into_iter().collect())
    }
}
