//! What EC2 says of capacity before it is asked for: prices and scores.

use std::collections::BTreeMap;

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::InstanceType;

use super::ec2::{Ec2, all_pages, failed};
use crate::port::error::{Action, CloudError};

/// The products whose prices are those of an instance with Linux; accounts of EC2-Classic's time have the
/// second one.
const LINUX: [&str; 2] = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"];

impl Ec2 {
    /// The prices in force now: EC2 adds the one at the beginning of the time asked for, so that a moment is
    /// enough.
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
}
