//! Events for EventBridge: the kinds that the product listens to, in AWS's shapes (`spot-recovery-peers` §4).
//!
//! EventBridge is best effort and unordered; here the order is true and nothing is lost unless told so.
//! Duplicates, loss and delay belong to the queue between the region and the product.

use perennial_workers::port::SnapshotState;
use perennial_workflows::model::aws::{InstanceId, InstanceState, SnapshotId, VolumeId};
use serde_json::{Value, json};

use super::{OUTBOX_MAX, World};

/// The account every simulated object belongs to (the one of AWS's documentation).
pub const ACCOUNT: &str = "111122223333";

/// A change of an instance that EventBridge reports.
#[derive(Debug, Clone, Copy)]
pub(super) enum Happening {
    Changed(InstanceState),
    Warning,
    Rebalance,
}

impl World {
    /// Takes the events since the last time, oldest first.
    pub fn take_events(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.outbox).into()
    }

    /// The oldest event that was not delivered yet.
    #[must_use]
    pub fn next_event(&self) -> Option<&Value> {
        self.outbox.front()
    }

    /// Removes the event of this id, which was delivered.
    pub fn event_was_told(&mut self, id: &str) {
        if self.outbox.front().is_some_and(|event| event["id"] == id) {
            self.outbox.pop_front();
        }
    }

    pub(super) fn tell(&mut self, id: &InstanceId, happening: Happening) {
        let Some(instance) = self.instances.get(id) else { return };
        if !self.settings.events_enabled || instance.silenced {
            return;
        }
        let region = &self.settings.region;
        let (kind, resource, detail) = match happening {
            Happening::Changed(state) => (
                "EC2 Instance State-change Notification",
                format!("arn:aws:ec2:{region}:{ACCOUNT}:instance/{id}"),
                json!({ "instance-id": id, "state": state }),
            ),
            Happening::Warning => (
                "EC2 Spot Instance Interruption Warning",
                spot_arn(&instance.zone, id),
                json!({ "instance-id": id, "instance-action": self.interruption_action(id) }),
            ),
            Happening::Rebalance => (
                "EC2 Instance Rebalance Recommendation",
                spot_arn(&instance.zone, id),
                json!({ "instance-id": id }),
            ),
        };
        self.put(kind, &json!([resource]), &detail);
    }

    /// EBS tells that a volume is there (EBS User Guide, EventBridge events, createVolume).
    pub(super) fn tell_volume(&mut self, id: &VolumeId) {
        let resource = format!("arn:aws:ec2:{}:{ACCOUNT}:volume/{id}", self.settings.region);
        let detail = json!({ "event": "createVolume", "result": "available", "cause": "", "request-id": "" });
        self.put("EBS Volume Notification", &json!([resource]), &detail);
    }

    /// EBS tells that a snapshot is complete (createSnapshot), or a set of them (createSnapshots). Their ARNs
    /// have the region in another place than those of volumes, and no account.
    pub(super) fn tell_snapshots(&mut self, ids: &[SnapshotId], is_set: bool) {
        let region = &self.settings.region;
        let arn = |kind: &str, id: &str| format!("arn:aws:ec2::{region}:{kind}/{id}");
        let one = |id: &SnapshotId| {
            let source = self.snapshots.get(id).and_then(|snapshot| snapshot.volume.as_ref());
            let source = source.map_or_else(String::new, |volume| arn("volume", volume.as_str()));
            (arn("snapshot", id.as_str()), source)
        };
        let all: Vec<(String, String)> = ids.iter().map(one).collect();
        let Some(first) = ids.first().and_then(|id| self.snapshots.get(id)) else { return };
        let has_failed = first.state == SnapshotState::Error;
        let mut detail = json!({
            "event": if is_set { "createSnapshots" } else { "createSnapshot" },
            "result": if has_failed { "failed" } else { "succeeded" },
            "cause": "",
            "request-id": "",
            "startTime": rfc3339(first.started_at_ms),
            "endTime": rfc3339(self.now_ms),
        });
        let kind = if is_set {
            let members = all.iter().map(|(snapshot, source)| {
                let status = if has_failed { "error" } else { "completed" };
                json!({ "snapshot_id": snapshot, "source": source, "status": status })
            });
            detail["snapshots"] = members.collect();
            "EBS Multi-Volume Snapshots Completion Status"
        } else {
            detail["snapshot_id"] = all[0].0.clone().into();
            detail["source"] = all[0].1.clone().into();
            "EBS Snapshot Notification"
        };
        let resources: Vec<&String> = all.iter().map(|(snapshot, _)| snapshot).collect();
        self.put(kind, &json!(resources), &detail);
    }

    fn put(&mut self, kind: &str, resources: &Value, detail: &Value) {
        if !self.settings.events_enabled {
            return;
        }
        let event = json!({
            "version": "0",
            "id": self.event_id(),
            "detail-type": kind,
            "source": "aws.ec2",
            "account": ACCOUNT,
            "time": rfc3339(self.now_ms),
            "region": self.settings.region,
            "resources": resources,
            "detail": detail,
        });
        if self.outbox.len() == OUTBOX_MAX {
            self.outbox.pop_front();
        }
        self.outbox.push_back(event);
    }

    fn event_id(&mut self) -> String {
        let hex = format!("{:032x}", self.rng.u128(..));
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }
}

/// Published with the zone in the region's place and without an account: readers must not parse it.
fn spot_arn(zone: &str, id: &InstanceId) -> String {
    format!("arn:aws:ec2:{zone}:instance/{id}")
}

/// Seconds, as AWS writes them.
pub(crate) fn rfc3339(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
