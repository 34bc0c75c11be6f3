//! What EC2 says of its instance types, and which of them each zone offers.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{EnaSupport, InstanceTypeInfo, LocationType, NetworkInfo, NitroTpmSupport};
use perennial_workflows::model::boot::Boots;
use perennial_workflows::model::survey::TypeFacts;

use super::ec2::{Ec2, FILTER_VALUES_MAX, all_pages, failed, filter};
use crate::port::TypeQuery;
use crate::port::error::{Action, CloudError};

/// The largest page of DescribeInstanceTypes (EC2 API reference, `MaxResults`).
const TYPE_PAGE_SIZE: i32 = 100;

impl Ec2 {
    /// Filters, not names: one name that does not exist would fail the whole call.
    pub(super) async fn described_types(&self, query: &TypeQuery) -> Result<Vec<TypeFacts>, CloudError> {
        let action = Action::DescribeInstanceTypes;
        let filters = match query {
            TypeQuery::Named(names) => {
                let call = |names: &[String]| vec![filter("instance-type", names.iter().cloned())];
                names.chunks(FILTER_VALUES_MAX).map(call).collect::<Vec<_>>()
            }
            TypeQuery::Of(architecture) => {
                vec![vec![filter("processor-info.supported-architecture", [architecture.clone()])]]
            }
        };
        let mut found = Vec::new();
        for filters in &filters {
            let page = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_instance_types()
                    .set_filters(Some(filters.clone()))
                    .max_results(self.page_size.min(TYPE_PAGE_SIZE))
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                let types: Vec<TypeFacts> = page.instance_types().iter().filter_map(facts).collect();
                Ok((types, page.next_token))
            });
            found.extend(page.await?);
        }
        // Some endpoints ignore filters they do not know.
        found.retain(|facts| match query {
            TypeQuery::Named(names) => names.contains(&facts.name),
            TypeQuery::Of(architecture) => facts.architectures.contains(architecture),
        });
        Ok(found)
    }

    pub(super) async fn offerings(&self, zone: &str) -> Result<BTreeSet<String>, CloudError> {
        let action = Action::DescribeInstanceTypeOfferings;
        let filters = &vec![filter("location", [zone.to_owned()])];
        let offered = all_pages(action, move |token| async move {
            let page = self
                .client
                .describe_instance_type_offerings()
                .location_type(LocationType::AvailabilityZone)
                .set_filters(Some(filters.clone()))
                .max_results(self.page_size)
                .set_next_token(token)
                .send()
                .await
                .map_err(failed(action))?;
            let here = page
                .instance_type_offerings()
                .iter()
                .filter(|offering| offering.location().is_none_or(|other| other == zone))
                .filter_map(|offering| offering.instance_type().map(|name| name.as_str().to_owned()));
            Ok((here.collect::<Vec<_>>(), page.next_token))
        });
        Ok(offered.await?.into_iter().collect())
    }
}

/// `None` for a type of which EC2 does not say how large it is.
fn facts(info: &InstanceTypeInfo) -> Option<TypeFacts> {
    let number = |n: i64| u32::try_from(n).unwrap_or(0);
    let gpus = info.gpu_info().map_or(0, |gpus| {
        gpus.gpus().iter().filter_map(|gpu| gpu.count()).map(|count| number(i64::from(count))).sum::<u32>()
    });
    let sold = |class: &str| info.supported_usage_classes().iter().any(|known| known.as_str() == class);
    let architectures = info.processor_info().map(|processor| {
        processor.supported_architectures().iter().map(|known| known.as_str().to_owned()).collect()
    });
    Some(TypeFacts {
        name: info.instance_type()?.as_str().to_owned(),
        vcpus: number(i64::from(info.v_cpu_info()?.default_v_cpus()?)),
        memory_mib: number(info.memory_info()?.size_in_mib()?),
        gpus,
        architectures: architectures.unwrap_or_default(),
        burstable: info.burstable_performance_supported().unwrap_or(false),
        bare_metal: info.bare_metal().unwrap_or(false),
        current: info.current_generation().unwrap_or(true),
        on_spot: sold("spot"),
        on_demand: sold("on-demand"),
        boots: Boots {
            modes: info.supported_boot_modes().iter().map(|mode| mode.as_str().to_owned()).collect(),
            requires_ena: info.network_info().and_then(NetworkInfo::ena_support)
                == Some(&EnaSupport::Required),
            lacks_tpm: info.nitro_tpm_support() == Some(&NitroTpmSupport::Unsupported),
        },
    })
}
