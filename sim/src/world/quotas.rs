//! What an account may do in a region: calls for each second, and how much may exist.
//!
//! *Requests:* token buckets as published (EC2 Developer Guide, request throttling; `ec2-semantics` §2.1):
//! one for the calls of each action, and one for the instances that launches, starts, stops and terminations
//! name.
//! A call that fails either is refused with RequestLimitExceeded. Whether mutating actions share a bucket is
//! not known (the guide says no, the EBS CSI driver's source says yes), so it is a setting:
//! [`RequestQuotas`](super::settings::RequestQuotas).
//!
//! *Counts:* network interfaces, storage of volumes, vCPUs: [`CountQuotas`](super::settings::CountQuotas).

use std::collections::BTreeMap;

use perennial_workflows::model::aws::Market;
use serde::{Deserialize, Serialize};

use super::catalogue::Shape;
use super::requests::{Placement, RunInstances};
use super::settings::{Quotas, RequestQuotas};
use super::{ACCOUNT, ApiError, World};

/// A burst, then so many a second.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u64,
    per_second: u64,
}

const LAUNCH: Rate = Rate { burst: 5, per_second: 2 };
const LOOK: Rate = Rate { burst: 100, per_second: 20 };
const CHEAP: Rate = Rate { burst: 100, per_second: 5 };
const TAG: Rate = Rate { burst: 100, per_second: 10 };
const OTHER: Rate = Rate { burst: 50, per_second: 5 };
/// Instances, not calls.
const LAUNCHED: Rate = Rate { burst: 1000, per_second: 2 };
/// The same.
const ENDED: Rate = Rate { burst: 1000, per_second: 20 };
/// Where all mutating calls share a bucket: as EC2's class of those that are not listed one by one.
const SHARED: Rate = OTHER;

/// The key of the shared bucket; no action has it.
const ALL_ACTS: &str = "*";

fn rate_of(action: &str) -> Rate {
    match action {
        "RunInstances" | "StartInstances" => LAUNCH,
        "CreateTags" | "DeleteTags" => TAG,
        "CreateSnapshot"
        | "CreateSnapshots"
        | "DeleteSnapshot"
        | "CreateVolume"
        | "DeleteVolume"
        | "CreateNetworkInterface"
        | "DeleteNetworkInterface"
        | "ModifyNetworkInterfaceAttribute"
        | "AssignPrivateIpAddresses"
        | "UnassignPrivateIpAddresses"
        | "DeregisterImage"
        | "CreateLaunchTemplateVersion"
        | "ModifyInstanceMetadataOptions"
        | "TerminateInstances" => CHEAP,
        look if is_look(look) => LOOK,
        _ => OTHER,
    }
}

fn resources_of(action: &str) -> Option<Rate> {
    match action {
        "RunInstances" | "StartInstances" => Some(LAUNCHED),
        "TerminateInstances" | "StopInstances" => Some(ENDED),
        _ => None,
    }
}

fn is_look(action: &str) -> bool {
    action.starts_with("Describe") || action.starts_with("Get")
}

/// A bucket, in thousandths of a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bucket {
    milli: u64,
    at_ms: u64,
    /// What is left of a thousandth, in thousandths, so that it fills exactly.
    #[serde(default)]
    rest: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Meter {
    requests: BTreeMap<String, Bucket>,
    instances: BTreeMap<String, Bucket>,
}

/// What one call takes from one bucket.
struct Charge {
    key: String,
    /// Burst and refill of each second, in thousandths.
    burst: u64,
    refill: u64,
    tokens: u64,
}

impl Charge {
    fn new(key: &str, rate: Rate, quotas: &RequestQuotas, tokens: u64) -> Self {
        let custom = quotas.custom.iter().find(|custom| custom.action == key);
        let (burst, refill) = match custom {
            Some(custom) => (custom.burst * 1000, custom.per_minute * 1000 / 60),
            None => {
                let percent = u64::from(quotas.percent);
                (rate.burst * 10 * percent, rate.per_second * 10 * percent)
            }
        };
        Self { key: key.to_owned(), burst, refill, tokens }
    }

    fn fill<'b>(&self, buckets: &'b mut BTreeMap<String, Bucket>, now_ms: u64) -> &'b mut Bucket {
        let full = || Bucket { milli: self.burst, at_ms: now_ms, rest: 0 };
        let bucket = buckets.entry(self.key.clone()).or_insert_with(full);
        let passed_ms = now_ms.saturating_sub(bucket.at_ms);
        let grown = bucket.rest.saturating_add(passed_ms.saturating_mul(self.refill));
        bucket.milli = bucket.milli.saturating_add(grown / 1000).min(self.burst);
        bucket.rest = grown % 1000;
        bucket.at_ms = now_ms;
        bucket
    }
}

impl Meter {
    /// A call that names so many instances. What it takes it takes from all of its buckets, or from none.
    pub(super) fn admit(
        &mut self,
        quotas: Quotas,
        requests: &RequestQuotas,
        now_ms: u64,
        action: &str,
        count: u64,
    ) -> Result<(), ApiError> {
        if quotas == Quotas::Off {
            return Ok(());
        }
        let (of_calls, of_instances) = charges(requests, action, count);
        let has_calls = of_calls.iter().all(|c| c.fill(&mut self.requests, now_ms).milli >= c.tokens * 1000);
        let has_instances = of_instances
            .as_ref()
            .is_none_or(|charge| charge.fill(&mut self.instances, now_ms).milli >= charge.tokens * 1000);
        if !(has_calls && has_instances) {
            let text =
                format!("Request limit exceeded. Account {ACCOUNT} has been throttled on ec2:{action}.");
            return Err(ApiError::with_status(503, "RequestLimitExceeded", text));
        }
        for charge in of_calls {
            charge.fill(&mut self.requests, now_ms).milli -= charge.tokens * 1000;
        }
        if let Some(charge) = of_instances {
            charge.fill(&mut self.instances, now_ms).milli -= charge.tokens * 1000;
        }
        Ok(())
    }

    /// Another tool's calls: as many as there are tokens for. How many there were.
    pub(super) fn spend(&mut self, requests: &RequestQuotas, now_ms: u64, action: &str, calls: u64) -> u64 {
        let (of_calls, _) = charges(requests, action, 1);
        let there = of_calls.iter().map(|charge| charge.fill(&mut self.requests, now_ms).milli / 1000).min();
        let spent = there.unwrap_or(0).min(calls);
        for charge in of_calls {
            charge.fill(&mut self.requests, now_ms).milli -= spent * 1000;
        }
        spent
    }
}

/// What a call takes: of calls, and of instances.
fn charges(requests: &RequestQuotas, action: &str, count: u64) -> (Vec<Charge>, Option<Charge>) {
    let mut of_calls = vec![Charge::new(action, rate_of(action), requests, 1)];
    if requests.shared && !is_look(action) {
        of_calls.push(Charge::new(ALL_ACTS, SHARED, requests, 1));
    }
    let of_instances = resources_of(action).map(|rate| {
        let percent = RequestQuotas { custom: Vec::new(), ..requests.clone() };
        Charge::new(action, rate, &percent, count)
    });
    (of_calls, of_instances)
}

impl World {
    /// Another tool of the account makes so many calls of an action now, or as many as are admitted. Returns
    /// how many were.
    pub fn called_by_others(&mut self, now_ms: u64, action: &str, calls: u64) -> u64 {
        self.advance(now_ms);
        self.meter.spend(&self.settings.request_quotas, self.now_ms, action, calls)
    }

    /// Whether one more instance of a request may live, beside those that it has been granted.
    pub(super) fn check_quota(&self, request: &RunInstances, granted: usize) -> Result<(), ApiError> {
        let (instance_type, market) = (request.instance_type.as_str(), request.market);
        let counts = &self.settings.count_quotas;
        let (limit, vcpus, code) = match market {
            Market::Spot => (self.settings.spot_limit, counts.spot_vcpus, "MaxSpotInstanceCountExceeded"),
            Market::OnDemand => (self.settings.on_demand_limit, counts.on_demand_vcpus, "VcpuLimitExceeded"),
        };
        let live = || self.instances.values().filter(|i| i.market == market && !i.state.is_over());
        if let Some(limit) = limit {
            let live = live().count() + granted;
            if live >= limit as usize {
                return Err(ApiError::new(code, format!("You have {live} of {limit} {market} instances")));
            }
        }
        if let Some(limit) = vcpus {
            let of = |name: &str| Shape::of(name).map_or(1, |shape| u64::from(shape.vcpus));
            let used = live().map(|i| of(&i.instance_type)).sum::<u64>() + granted as u64 * of(instance_type);
            if used + of(instance_type) > u64::from(limit) {
                let message = format!(
                    "You have requested more vCPU capacity than your current {market} limit of {limit} allows"
                );
                return Err(ApiError::new(code, message));
            }
        }
        let more = request.more.interfaces.iter().map(|more| &more.placement);
        let made = std::iter::once(&request.placement).chain(more);
        let made = made.filter(|placement| matches!(placement, Placement::New { .. })).count();
        if made == 0 { Ok(()) } else { self.check_interface_quota(made * (granted + 1)) }
    }

    /// Whether so many more network interfaces may exist.
    pub(super) fn check_interface_quota(&self, more: usize) -> Result<(), ApiError> {
        let Some(limit) = self.settings.count_quotas.interfaces else { return Ok(()) };
        if self.interfaces.len() + more <= limit as usize {
            return Ok(());
        }
        let message = "The maximum number of network interfaces has been reached.".to_owned();
        Err(ApiError::new("NetworkInterfaceLimitExceeded", message))
    }

    /// Whether so much more storage of a volume type may exist.
    pub(super) fn check_storage_quota(&self, volume_type: &str, more_gib: u64) -> Result<(), ApiError> {
        let Some(limit) = self.settings.count_quotas.volumes_gib else { return Ok(()) };
        let same = self.volumes.values().filter(|volume| volume.volume_type == volume_type);
        let used: u64 = same.map(|volume| u64::from(volume.size_gib)).sum();
        if used + more_gib <= limit {
            return Ok(());
        }
        let message = format!("You have exceeded your maximum {volume_type} storage limit of {limit} GiB");
        Err(ApiError::new("VolumeLimitExceeded", message))
    }

    /// Whether there is more storage of a volume type than may be.
    pub(super) fn is_storage_exceeded(&self) -> bool {
        let mut types: Vec<_> = self.volumes.values().map(|volume| volume.volume_type.as_str()).collect();
        types.sort_unstable();
        types.dedup();
        self.settings.count_quotas.volumes_gib.is_some()
            && types.into_iter().any(|kind| self.check_storage_quota(kind, 0).is_err())
    }
}
