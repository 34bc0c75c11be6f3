//! Token buckets per action, as published (EC2 Developer Guide, request throttling; `ec2-semantics` §2.1).
//! Per action and not shared: the guide says so, the EBS CSI driver's source says otherwise; no measurement
//! is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ApiError, settings::Quotas};

/// A burst, then so many a second.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u64,
    per_second: u64,
}

const LAUNCH: Rate = Rate { burst: 5, per_second: 2 };
const LOOK: Rate = Rate { burst: 100, per_second: 20 };
const CHEAP: Rate = Rate { burst: 100, per_second: 5 };
const OTHER: Rate = Rate { burst: 50, per_second: 5 };
/// Instances launched, not calls.
const LAUNCHED: Rate = Rate { burst: 1000, per_second: 2 };
/// Instances terminated, not calls.
const TERMINATED: Rate = Rate { burst: 1000, per_second: 20 };

fn rate_of(action: &str) -> Rate {
    match action {
        "RunInstances" | "StartInstances" => LAUNCH,
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
        | "TerminateInstances" => CHEAP,
        look if look.starts_with("Describe") => LOOK,
        _ => OTHER,
    }
}

/// A bucket, in thousandths of a token so that it fills exactly.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bucket {
    milli: u64,
    at_ms: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Meter {
    requests: BTreeMap<String, Bucket>,
    instances: BTreeMap<String, Bucket>,
}

impl Meter {
    pub(super) fn admit(
        &mut self,
        quotas: Quotas,
        now_ms: u64,
        action: &'static str,
    ) -> Result<(), ApiError> {
        if quotas == Quotas::Off {
            return Ok(());
        }
        let resource = match action {
            "RunInstances" => Some(LAUNCHED),
            "TerminateInstances" => Some(TERMINATED),
            _ => None,
        };
        let admitted = take(&mut self.requests, action, rate_of(action), now_ms)
            && resource.is_none_or(|rate| take(&mut self.instances, action, rate, now_ms));
        if admitted {
            Ok(())
        } else {
            Err(ApiError::with_status(
                503,
                "RequestLimitExceeded",
                format!("Request limit exceeded. Account 111122223333 has been throttled on ec2:{action}."),
            ))
        }
    }
}

fn take(buckets: &mut BTreeMap<String, Bucket>, action: &str, rate: Rate, now_ms: u64) -> bool {
    let full = rate.burst * 1000;
    let bucket = buckets.entry(action.to_owned()).or_insert(Bucket { milli: full, at_ms: now_ms });
    let passed_ms = now_ms.saturating_sub(bucket.at_ms);
    bucket.milli = bucket.milli.saturating_add(passed_ms.saturating_mul(rate.per_second)).min(full);
    bucket.at_ms = now_ms;
    if bucket.milli < 1000 {
        return false;
    }
    bucket.milli -= 1000;
    true
}
