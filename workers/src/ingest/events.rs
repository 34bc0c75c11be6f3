//! EventBridge events about our instances, volumes and snapshots, parsed at the rim.
//!
//! Shapes: EC2 User Guide, "Monitor Spot Instance interruption notices", "rebalance recommendations" and
//! "state change events". EventBridge puts the event itself into the SQS message; through SNS it is wrapped
//! once. One sample of AWS's lacks `version`, so it is not required. AWS Health User Guide, "EventBridge
//! events for AWS Health": entities are ids or ARNs, numbers and booleans are texts, and a published sample
//! has the wrong weekday in its dates. EBS User Guide, "EventBridge events for Amazon EBS": ARNs of snapshots
//! have neither account nor a region in its place, and there is no event for an attachment or a detachment
//! that succeeded; what there is, is a [`WakeHint`].

use std::collections::BTreeSet;
use std::time::Duration;

use perennial_workflows::model::aws::{InstanceId, InstanceState, SnapshotId, VolumeId};
use perennial_workflows::model::signal::{Effect, News, Signal, Source};
use perennial_workflows::step::wake_hint::WakeHint;
use serde::Deserialize;
use serde_json::Value;

/// From the warning to the interruption (EC2 User Guide: "two minutes").
pub const NOTICE: Duration = Duration::from_secs(120);

/// The longest event id taken as it is.
const EVENT_ID_MAX: usize = 128;

/// How many snapshots of a set are taken from its event. EC2 takes up to 128 at once (EC2 quotas, volumes of
/// an instance).
const SET_MAX: usize = 128;

/// What an event message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Something about an instance.
    Signal {
        /// What.
        signal: Signal,
        /// The event's id: the key of its inbox entry.
        id: String,
    },
    /// Something about one or many instances; each notice is an inbox entry of its own.
    Notices {
        /// One an instance, in the event's order; at least one.
        notices: Vec<Notice>,
    },
    /// A step may be waiting for this. It is no inbox entry: it leaves nothing in the journal.
    WakeHint(WakeHint),
    /// A well-formed event that we do nothing with.
    Unknown {
        /// Its source and detail-type.
        kind: String,
        /// The event's id.
        id: String,
    },
    /// Nothing that can be read.
    Malformed {
        /// What is wrong.
        because: String,
    },
}

/// What an event about many instances says of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// What.
    pub signal: Signal,
    /// The key of its inbox entry: the same for the copy that comes from the backup region.
    pub key: String,
    /// The event, with the other instances left out.
    pub body: String,
}

#[derive(Deserialize)]
struct Event {
    id: String,
    source: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: String,
    #[serde(default)]
    detail: serde_json::Value,
}

/// Parses a message of the interruptions queue.
#[must_use]
pub fn parse(body: &str) -> Parsed {
    parsed(body).unwrap_or_else(|because| Parsed::Malformed { because })
}

/// What a message is, or what is wrong with it.
fn parsed(body: &str) -> Result<Parsed, String> {
    let value = unwrapped(body)?;
    let event = Event::deserialize(&value).map_err(|error| format!("not an EventBridge event: {error}"))?;
    if event.id.is_empty() || event.id.len() > EVENT_ID_MAX {
        return Err(format!("its id has {} bytes; between 1 and {EVENT_ID_MAX} are taken", event.id.len()));
    }
    let kind = format!("{} / {}", event.source, event.detail_type).chars().take(200).collect::<String>();
    if event.source == "aws.health" && event.detail_type == "AWS Health Event" {
        return health(&event, &value, kind);
    }
    if event.source != "aws.ec2" {
        return Ok(Parsed::Unknown { kind, id: event.id });
    }
    if let Some(hint) = hint(&event, &value) {
        return Ok(Parsed::WakeHint(hint));
    }
    let Some(news) = InstanceNews::of(&event.detail_type) else {
        return Ok(Parsed::Unknown { kind, id: event.id });
    };
    let at_ms = event.at_ms()?;
    let Some(instance) = event.text("instance-id") else {
        return Err(format!("{kind} without detail.instance-id"));
    };
    let instance =
        InstanceId::parse(tail(instance)).map_err(|error| format!("detail.instance-id: {error}"))?;
    let news = news.read(&event, at_ms)?;
    let source = Source::Event { id: event.id.clone() };
    Ok(Parsed::Signal { signal: Signal { instance, news, source, at_ms }, id: event.id })
}

/// The event of a message; SNS wraps it as text.
fn unwrapped(body: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(body).map_err(|error| format!("not JSON: {error}"))?;
    let wrapped = (value.get("Type").and_then(Value::as_str) == Some("Notification"))
        .then(|| value.get("Message").and_then(Value::as_str))
        .flatten();
    match wrapped {
        Some(inner) => serde_json::from_str(inner)
            .map_err(|error| format!("an SNS notification whose message is not JSON: {error}")),
        None => Ok(value),
    }
}

/// The events of EC2 about one instance.
#[derive(Clone, Copy)]
enum InstanceNews {
    SpotInterruption,
    ReservationInterruption,
    Rebalance,
    StateChange,
}

impl InstanceNews {
    fn of(detail_type: &str) -> Option<Self> {
        match detail_type {
            "EC2 Spot Instance Interruption Warning" => Some(Self::SpotInterruption),
            "EC2 Capacity Reservation Instance Interruption Warning" => Some(Self::ReservationInterruption),
            "EC2 Instance Rebalance Recommendation" => Some(Self::Rebalance),
            "EC2 Instance State-change Notification" => Some(Self::StateChange),
            _ => None,
        }
    }

    fn read(self, event: &Event, at_ms: u64) -> Result<News, String> {
        let action = event.text("instance-action").unwrap_or("terminate");
        let after = |notice: Duration| at_ms + u64::try_from(notice.as_millis()).unwrap_or(0);
        Ok(match self {
            Self::SpotInterruption => {
                // Hibernation begins at once.
                let notice = if action == "hibernate" { Duration::ZERO } else { NOTICE };
                News::SpotInterruption { action: clip(action), deadline_ms: after(notice) }
            }
            Self::ReservationInterruption => {
                News::ReservationInterruption { action: clip(action), deadline_ms: after(NOTICE) }
            }
            Self::Rebalance => News::Rebalance,
            Self::StateChange => {
                let state = event.text("state").unwrap_or_default();
                match serde_json::from_value::<InstanceState>(Value::String(state.to_owned())) {
                    Ok(state) => News::StateChange { state },
                    Err(_) => return Err(format!("detail.state {:?} is no instance state", clip(state))),
                }
            }
        })
    }
}

impl Event {
    /// A text of its details.
    fn text(&self, field: &str) -> Option<&str> {
        self.detail.get(field).and_then(Value::as_str)
    }

    fn at_ms(&self) -> Result<u64, String> {
        let time = self.time.parse::<jiff::Timestamp>();
        time.map(milliseconds)
            .map_err(|error| format!("its time {:?} is not RFC 3339: {error}", clip(&self.time)))
    }
}

/// What an event of EBS is about; none when it is of another kind, or names nothing that can be read.
fn hint(event: &Event, whole: &Value) -> Option<WakeHint> {
    let resources = whole["resources"].as_array().into_iter().flatten().filter_map(Value::as_str);
    match event.detail_type.as_str() {
        "EBS Volume Notification" => {
            let volume = resources.map(tail).find_map(|name| VolumeId::parse(name).ok())?;
            Some(WakeHint::Volume { volume })
        }
        "EBS Snapshot Notification" | "EBS Multi-Volume Snapshots Completion Status" => {
            let members = event.detail["snapshots"].as_array().into_iter().flatten().take(SET_MAX);
            let details: Vec<&Value> = std::iter::once(&event.detail).chain(members).collect();
            let named = |field: &str| {
                details.iter().filter_map(|of| of[field].as_str()).map(tail).collect::<Vec<_>>()
            };
            let snapshots: BTreeSet<SnapshotId> = (named("snapshot_id").into_iter())
                .chain(resources.map(tail).take(SET_MAX))
                .filter_map(|name| SnapshotId::parse(name).ok())
                .collect();
            let volumes = named("source").into_iter().filter_map(|name| VolumeId::parse(name).ok()).collect();
            (!snapshots.is_empty()).then_some(WakeHint::Snapshots { snapshots, volumes })
        }
        _ => None,
    }
}

/// An event of AWS Health: one notice for each instance it names. A page is an event of its own, with
/// entities of its own; nothing waits for the others.
fn health(event: &Event, whole: &Value, kind: String) -> Result<Parsed, String> {
    let text = |field: &str| event.text(field).unwrap_or_default();
    let (service, category) = (text("service"), text("eventTypeCategory"));
    if service != "EC2" || category != "scheduledChange" {
        let kind = format!("{kind}: {} {}", clip(service), clip(category));
        return Ok(Parsed::Unknown { kind, id: event.id.clone() });
    }
    let at_ms = event.at_ms()?;
    let code = clip(text("eventTypeCode"));
    // A date that cannot be read is no reason to lose the event.
    let begins_ms = date(text("startTime"));
    let is_over = matches!(text("statusCode"), "closed" | "completed" | "canceled" | "cancelled");
    let mut seen = BTreeSet::new();
    let entities: Vec<(InstanceId, Effect)> = entities(whole)
        .into_iter()
        .filter_map(|(name, status)| Some((InstanceId::parse(tail(&name)).ok()?, status)))
        .filter(|(instance, _)| seen.insert(instance.clone()))
        .map(|(instance, status)| {
            (instance, if is_over || status == "RESOLVED" { Effect::Settled } else { effect(&code) })
        })
        .collect();
    if entities.is_empty() {
        let kind = format!("{kind}: {code}, about no instance");
        return Ok(Parsed::Unknown { kind, id: event.id.clone() });
    }
    let alone = entities.len() == 1;
    let notices = entities.into_iter().map(|(instance, effect)| Notice {
        key: health_key(event, &instance),
        body: if alone { whole.to_string() } else { only(whole, &instance) },
        signal: Signal {
            news: News::ScheduledChange { code: code.clone(), effect, begins_ms },
            source: Source::Event { id: event.id.clone() },
            instance,
            at_ms,
        },
    });
    Ok(Parsed::Notices { notices: notices.collect() })
}

/// The entities of a Health event, with their states; where it lists none, its resources.
fn entities(event: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let listed = event["detail"]["affectedEntities"].as_array().filter(|listed| !listed.is_empty());
    match listed {
        Some(listed) => {
            listed.iter().map(|entity| (text(&entity["entityValue"]), text(&entity["status"]))).collect()
        }
        None => {
            let resources = event["resources"].as_array();
            resources.into_iter().flatten().map(|resource| (text(resource), String::new())).collect()
        }
    }
}

/// What a scheduled change of EC2 means for an instance (EC2 User Guide, "Scheduled events for your
/// instances"). A code that is not known is noted like maintenance: it is visible, and moves nothing.
fn effect(code: &str) -> Effect {
    let ends = ["RETIREMENT", "INSTANCE_STOP", "TERMINATION"];
    if ends.iter().any(|word| code.contains(word)) { Effect::Retirement } else { Effect::Maintenance }
}

/// One inbox entry for a communication about an instance, from whichever region it comes and however often;
/// an update has a newer time. (AWS Health User Guide: the copy from the backup region has the same
/// `communicationId`, which ends in the page.)
fn health_key(event: &Event, instance: &InstanceId) -> String {
    let text = |field: &str| event.text(field).unwrap_or_default();
    match text("communicationId") {
        "" => format!("health {} {instance}", event.id),
        communication => format!(
            "health {} {communication} {} {instance}",
            text("affectedAccount"),
            text("lastUpdatedTime")
        ),
    }
}

/// A Health event with one of its instances only.
fn only(event: &Value, instance: &InstanceId) -> String {
    let mut event = event.clone();
    let is_it = |name: &Value| name.as_str().map(tail) == Some(instance.as_str());
    if let Some(listed) = event["detail"]["affectedEntities"].as_array_mut() {
        listed.retain(|entity| is_it(&entity["entityValue"]));
    }
    if let Some(resources) = event.get_mut("resources").and_then(Value::as_array_mut) {
        resources.retain(is_it);
    }
    event.to_string()
}

/// A date of Health's: RFC 1123, whatever it says of the weekday; or RFC 3339.
fn date(text: &str) -> Option<u64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let text = text.trim();
    let parsed = parser.parse_timestamp(text).ok().or_else(|| text.parse::<jiff::Timestamp>().ok());
    parsed.map(milliseconds)
}

fn milliseconds(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

/// The id in an ARN; an id is its own.
fn tail(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut value = serde_json::json!({
            "version": "0", "id": "a3c1", "detail-type": "EC2 Spot Instance Interruption Warning",
            "source": "aws.ec2", "account": "111122223333", "time": "2026-09-14T08:31:07Z", "region": "us-west-2",
            "resources": ["arn:aws:ec2:us-west-2c:instance/i-0aa11bb22cc33dd44"],
            "detail": {"instance-id": "i-0aa11bb22cc33dd44", "instance-action": "terminate"}
        });
        change(&mut value);
        value.to_string()
    }

    #[test]
    fn a_warning_has_an_absolute_deadline_two_minutes_after_its_time() {
        let Parsed::Signal { signal, id } = parse(&event(|_| {})) else { panic!() };
        assert_eq!(id, "a3c1");
        let News::SpotInterruption { deadline_ms, .. } = signal.news else { panic!() };
        assert_eq!(deadline_ms - signal.at_ms, 120_000);
    }

    #[test]
    fn a_capacity_reservation_that_is_taken_back_warns_like_spot() {
        let body = event(|e| {
            e["detail-type"] = "EC2 Capacity Reservation Instance Interruption Warning".into();
        });
        let Parsed::Signal { signal, .. } = parse(&body) else { panic!() };
        assert!(signal.is_notice() && signal.is_loss());
        assert!(matches!(&signal.news, News::ReservationInterruption { action, deadline_ms }
                if action == "terminate" && deadline_ms - signal.at_ms == 120_000));
    }

    #[test]
    fn hibernation_has_no_notice() {
        let Parsed::Signal { signal, .. } =
            parse(&event(|e| e["detail"]["instance-action"] = "hibernate".into()))
        else {
            panic!()
        };
        assert!(
            matches!(signal.news, News::SpotInterruption { deadline_ms, .. } if deadline_ms == signal.at_ms)
        );
    }

    #[test]
    fn a_missing_version_an_arn_and_an_sns_wrapping_are_read() {
        for body in [
            event(|e| {
                e.as_object_mut().unwrap().remove("version");
            }),
            event(|e| {
                e["detail"]["instance-id"] = "arn:aws:ec2:us-west-2:1:instance/i-0aa11bb22cc33dd44".into();
            }),
            serde_json::json!({"Type": "Notification", "Message": event(|_| {})}).to_string(),
        ] {
            assert!(matches!(parse(&body), Parsed::Signal { .. }), "{body}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let because = |body: &str| match parse(body) {
            Parsed::Malformed { because } => because,
            other => panic!("{other:?}"),
        };
        assert!(because("not json").starts_with("not JSON"));
        assert!(because("{}").contains("id"));
        assert!(because(&event(|e| e["time"] = "yesterday".into())).contains("RFC 3339"));
        assert!(
            because(&event(|e| {
                e["detail"].as_object_mut().unwrap().remove("instance-id");
            }))
            .contains("instance-id")
        );
        assert!(
            because(&event(|e| e["detail"]["instance-id"] = "i-0;rm -rf".into())).contains("instance id")
        );
        let state = |e: &mut serde_json::Value| {
            e["detail-type"] = "EC2 Instance State-change Notification".into();
            e["detail"]["state"] = "dreaming".into();
        };
        assert!(because(&event(state)).contains("dreaming"));
    }

    /// The published shape (`spot-recovery-peers` §4).
    fn health(change: impl FnOnce(&mut Value)) -> String {
        let mut value = serde_json::json!({
            "version": "0", "id": "d6f4", "detail-type": "AWS Health Event", "source": "aws.health",
            "account": "111122223333", "time": "2026-09-14T02:00:31Z", "region": "us-west-2",
            "resources": ["i-0ee55ff6677889900"],
            "detail": {
                "eventArn": "arn:aws:health:us-west-2::event/EC2/AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED/x_0f9e8d7c",
                "service": "EC2", "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
                "eventTypeCategory": "scheduledChange", "eventScopeCode": "ACCOUNT_SPECIFIC",
                "communicationId": "7a1b2c3d4e5f60718293-1", "startTime": "Mon, 28 Sep 2026 02:00:00 GMT",
                "lastUpdatedTime": "Mon, 14 Sep 2026 02:00:12 GMT", "statusCode": "upcoming",
                "eventRegion": "us-west-2",
                "eventDescription": [{"language": "en_US", "latestDescription": "Host is scheduled for retirement."}],
                "affectedEntities": [
                    {"entityValue": "i-0ee55ff6677889900", "status": "PENDING"},
                    {"entityValue": "arn:aws:ec2:us-west-2:111122223333:instance/i-0123abcd4567ef890", "status": "PENDING"}
                ],
                "affectedAccount": "111122223333", "page": "1", "totalPages": "1", "backupEvent": "false"
            }
        });
        change(&mut value);
        value.to_string()
    }

    fn notices(body: &str) -> Vec<Notice> {
        match parse(body) {
            Parsed::Notices { notices } => notices,
            other => panic!("{other:?}"),
        }
    }

    fn told(notice: &Notice) -> (Effect, Option<u64>) {
        match &notice.signal.news {
            News::ScheduledChange { effect, begins_ms, .. } => (*effect, *begins_ms),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_scheduled_change_is_a_notice_for_each_instance_in_either_form() {
        let notices = notices(&health(|_| {}));
        let instances: Vec<&str> = notices.iter().map(|notice| notice.signal.instance.as_str()).collect();
        assert_eq!(instances, ["i-0ee55ff6677889900", "i-0123abcd4567ef890"]);
        assert_ne!(notices[0].key, notices[1].key);
        for notice in &notices {
            assert_eq!(told(notice), (Effect::Retirement, Some(1_790_560_800_000)));
            let other = notices.iter().find(|other| other.signal.instance != notice.signal.instance).unwrap();
            assert!(notice.body.contains(notice.signal.instance.as_str()), "{}", notice.body);
            assert!(!notice.body.contains(other.signal.instance.as_str()), "{}", notice.body);
        }
    }

    #[test]
    fn an_instance_named_twice_is_one_notice() {
        let twice = health(|e| {
            let id = e["detail"]["affectedEntities"][1].clone();
            e["detail"]["affectedEntities"] = serde_json::json!([{"entityValue": "i-0123abcd4567ef890"}, id]);
        });
        assert_eq!(notices(&twice).len(), 1);
    }

    #[test]
    fn a_wrong_weekday_is_read_and_a_date_that_is_none_loses_nothing() {
        for (text, expected) in [
            ("Thu, 27 Jan 2026 02:00:00 GMT", Some(1_769_479_200_000)),
            ("Tue, 27 Jan 2026 02:00:00 GMT", Some(1_769_479_200_000)),
            ("Tue, 27 Jan 2026 02:00:00 +0000", Some(1_769_479_200_000)),
            ("2026-01-27T02:00:00Z", Some(1_769_479_200_000)),
            ("some day", None),
            ("", None),
        ] {
            let notices = notices(&health(|e| e["detail"]["startTime"] = text.into()));
            assert_eq!(told(&notices[0]), (Effect::Retirement, expected), "{text}");
        }
        let none = notices(&health(|e| {
            e["detail"].as_object_mut().unwrap().remove("startTime");
        }));
        assert_eq!(told(&none[0]), (Effect::Retirement, None));
    }

    #[test]
    fn a_retirement_is_told_from_maintenance_and_from_what_is_over() {
        let effect = |code: &str, status: &str, entity: &str| {
            let body = health(|e| {
                e["detail"]["eventTypeCode"] = code.into();
                e["detail"]["statusCode"] = status.into();
                e["detail"]["affectedEntities"][0]["status"] = entity.into();
            });
            told(&notices(&body)[0]).0
        };
        for (code, expected) in [
            ("AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED", Effect::Retirement),
            ("AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED", Effect::Retirement),
            ("AWS_EC2_INSTANCE_STOP_SCHEDULED", Effect::Retirement),
            ("AWS_EC2_INSTANCE_TERMINATION_SCHEDULED", Effect::Retirement),
            ("AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED", Effect::Maintenance),
            ("AWS_EC2_INSTANCE_REBOOT_FLEXIBLE_MAINTENANCE_SCHEDULED", Effect::Maintenance),
            ("AWS_EC2_SYSTEM_REBOOT_MAINTENANCE_SCHEDULED", Effect::Maintenance),
            ("AWS_EC2_INSTANCE_NETWORK_MAINTENANCE_SCHEDULED", Effect::Maintenance),
            ("AWS_EC2_INSTANCE_POWER_MAINTENANCE_SCHEDULED", Effect::Maintenance),
            ("AWS_EC2_SOMETHING_NEW", Effect::Maintenance),
        ] {
            assert_eq!(effect(code, "upcoming", "PENDING"), expected, "{code}");
            assert_eq!(effect(code, "open", "IMPAIRED"), expected, "{code}");
            assert_eq!(effect(code, "closed", "PENDING"), Effect::Settled, "{code}");
            assert_eq!(effect(code, "upcoming", "RESOLVED"), Effect::Settled, "{code}");
        }
    }

    #[test]
    fn the_copy_of_the_backup_region_is_the_same_letter_and_an_update_or_a_page_is_not() {
        let key = |change: &dyn Fn(&mut Value)| notices(&health(change))[0].key.clone();
        let first = key(&|_| {});
        let backup = key(&|e| {
            e["id"] = "another".into();
            e["region"] = "us-east-1".into();
            e["detail"]["backupEvent"] = "true".into();
        });
        assert_eq!(backup, first);
        let update = key(&|e| {
            e["id"] = "another".into();
            e["detail"]["lastUpdatedTime"] = "Tue, 15 Sep 2026 02:00:12 GMT".into();
        });
        assert_ne!(update, first);
        let page = key(&|e| {
            e["id"] = "another".into();
            e["detail"]["page"] = "2".into();
            e["detail"]["totalPages"] = "2".into();
            e["detail"]["communicationId"] = "7a1b2c3d4e5f60718293-2".into();
        });
        assert_ne!(page, first);
    }

    #[test]
    fn entities_that_are_no_instances_are_passed_over() {
        let mixed = health(|e| {
            e["detail"]["affectedEntities"][0]["entityValue"] = "h-0123".into();
        });
        assert_eq!(notices(&mixed).len(), 1);
        let resources = health(|e| {
            e["detail"].as_object_mut().unwrap().remove("affectedEntities");
        });
        assert_eq!(notices(&resources)[0].signal.instance.as_str(), "i-0ee55ff6677889900");
        let none = health(|e| {
            e["detail"]["affectedEntities"] =
                serde_json::json!([{"entityValue": "vol-1"}, {"status": "PENDING"}, 7]);
        });
        assert!(matches!(parse(&none), Parsed::Unknown { kind, .. } if kind.contains("about no instance")));
    }

    #[test]
    fn other_events_of_health_are_unknown() {
        for (field, value) in [("service", "RDS"), ("eventTypeCategory", "accountNotification")] {
            let body = health(|e| e["detail"][field] = value.into());
            assert!(matches!(parse(&body), Parsed::Unknown { kind, .. } if kind.contains(value)));
        }
    }

    #[test]
    fn an_event_of_another_kind_is_unknown_not_malformed() {
        assert!(matches!(parse(&event(|e| e["source"] = "aws.s3".into())), Parsed::Unknown { .. }));
        assert!(matches!(
            parse(&event(|e| e["detail-type"] = "EC2 AMI State Change".into())),
            Parsed::Unknown { .. }
        ));
    }

    /// The published shapes (`spot-recovery-peers` §4).
    fn of_ebs(kind: &str, resources: Value, detail: Value) -> Value {
        serde_json::json!({
            "version": "0", "id": "e705", "detail-type": kind, "source": "aws.ec2", "account": "111122223333",
            "time": "2026-09-14T08:41:55Z", "region": "us-west-2", "resources": resources, "detail": detail
        })
    }

    #[test]
    fn events_of_ebs_are_hints_whatever_form_their_names_have() {
        let arn = |id: &str| {
            format!("arn:aws:ec2::us-west-2:{}/{id}", if id.starts_with('v') { "volume" } else { "snapshot" })
        };
        let of = |snapshots: &[&str], volumes: &[&str]| {
            Parsed::WakeHint(WakeHint::Snapshots {
                snapshots: snapshots.iter().map(|id| SnapshotId::parse(id).unwrap()).collect(),
                volumes: volumes.iter().map(|id| VolumeId::parse(id).unwrap()).collect(),
            })
        };
        for name in [arn, |id: &str| id.to_owned()] {
            let single = of_ebs(
                "EBS Snapshot Notification",
                serde_json::json!([name("snap-0a1b")]),
                serde_json::json!({"event": "createSnapshot", "result": "succeeded", "snapshot_id": name("snap-0a1b"),
                    "source": name("vol-0f1e")}),
            );
            assert_eq!(parse(&single.to_string()), of(&["snap-0a1b"], &["vol-0f1e"]));
            let set = of_ebs(
                "EBS Multi-Volume Snapshots Completion Status",
                serde_json::json!([name("snap-0a1b"), name("snap-0b2c")]),
                serde_json::json!({"event": "createSnapshots", "result": "succeeded", "snapshots": [
                    {"snapshot_id": name("snap-0a1b"), "source": name("vol-0f1e"), "status": "completed"},
                    {"snapshot_id": name("snap-0b2c"), "source": name("vol-01a2"), "status": "completed"}]}),
            );
            assert_eq!(parse(&set.to_string()), of(&["snap-0a1b", "snap-0b2c"], &["vol-0f1e", "vol-01a2"]));
            let volume = of_ebs(
                "EBS Volume Notification",
                serde_json::json!([name("vol-0f1e"), "arn:aws:kms:us-west-2:111122223333:key/0d0d"]),
                serde_json::json!({"event": "attachVolume", "result": "failed", "cause": "the key is pending deletion"}),
            );
            let hint = WakeHint::Volume { volume: VolumeId::parse("vol-0f1e").unwrap() };
            assert_eq!(parse(&volume.to_string()), Parsed::WakeHint(hint));
        }
    }

    #[test]
    fn an_event_of_ebs_that_names_nothing_is_unknown() {
        for (kind, resources, detail) in [
            ("EBS Snapshot Notification", serde_json::json!([]), serde_json::json!({"snapshot_id": 7})),
            ("EBS Volume Notification", serde_json::json!(["vol-0;rm", {}]), serde_json::json!(null)),
            (
                "EBS Multi-Volume Snapshots Completion Status",
                serde_json::json!("x"),
                serde_json::json!({"snapshots": 1}),
            ),
        ] {
            let body = of_ebs(kind, resources, detail).to_string();
            assert!(matches!(parse(&body), Parsed::Unknown { .. }), "{body}");
        }
    }
}
