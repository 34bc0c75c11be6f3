//! Status checks, as EC2 shows them.

use std::collections::BTreeMap;

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{InstanceStatus, SummaryStatus};
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::signal::StatusCheck;

use super::ec2::{Ec2, all_pages, failed, filter};
use crate::port::ImpairedView;
use crate::port::error::{Action, CloudError};

/// The filter that asks for the instances that fail a check (EC2 API reference, DescribeInstanceStatus). One
/// call each: filters of one call are joined by "and".
const CHECKS: [(StatusCheck, &str); 3] = [
    (StatusCheck::System, "system-status.status"),
    (StatusCheck::Instance, "instance-status.status"),
    (StatusCheck::AttachedEbs, "attached-ebs-status.status"),
];

impl Ec2 {
    /// The running instances of the region whose status checks fail. Filtered by EC2: one bad id cannot hide
    /// the rest, and a region in order answers with nothing.
    pub(super) async fn failing_checks(&self) -> Result<Vec<ImpairedView>, CloudError> {
        let action = Action::DescribeInstanceStatus;
        let mut failing: BTreeMap<InstanceId, ImpairedView> = BTreeMap::new();
        for (check, name) in CHECKS {
            let found = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_instance_status()
                    .filters(filter(name, [SummaryStatus::Impaired.as_str().to_owned()]))
                    .max_results(self.page_size)
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                let found = page.instance_statuses().iter().filter_map(|status| {
                    let id = InstanceId::parse(status.instance_id()?).ok()?;
                    let (is_impaired, since_ms) = of_check(status, check);
                    is_impaired.then_some((id, since_ms))
                });
                Ok((found.collect::<Vec<_>>(), page.next_token))
            });
            for (id, since_ms) in found.await? {
                let view = failing.entry(id.clone()).or_insert_with(|| ImpairedView {
                    instance: id,
                    checks: Vec::new(),
                    since_ms: None,
                });
                view.checks.push(check);
                view.since_ms = [view.since_ms, since_ms].into_iter().flatten().min();
            }
        }
        Ok(failing.into_values().collect())
    }
}

/// Whether a check fails, and since when.
fn of_check(status: &InstanceStatus, check: StatusCheck) -> (bool, Option<u64>) {
    let since = |time: Option<&DateTime>| {
        time.and_then(|time| time.to_millis().ok()).and_then(|ms| u64::try_from(ms).ok())
    };
    let summary = match check {
        StatusCheck::System => status.system_status(),
        StatusCheck::Instance => status.instance_status(),
        StatusCheck::AttachedEbs => {
            let Some(summary) = status.attached_ebs_status() else { return (false, None) };
            let first = summary.details().iter().find_map(|detail| since(detail.impaired_since()));
            return (summary.status() == Some(&SummaryStatus::Impaired), first);
        }
    };
    let Some(summary) = summary else { return (false, None) };
    let first = summary.details().iter().find_map(|detail| since(detail.impaired_since()));
    (summary.status() == Some(&SummaryStatus::Impaired), first)
}
