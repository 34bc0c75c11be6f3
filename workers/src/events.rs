//! EventBridge events about our instances, parsed at the rim.
//!
//! Shapes: EC2 User Guide, "Monitor Spot Instance interruption notices", "rebalance recommendations" and "state change
//! events". EventBridge puts the event itself into the SQS message; through SNS it is wrapped once. One sample of AWS's lacks
//! `version`, so it is not required.

use std::time::Duration;

use perennial_workflows::aws::{InstanceId, InstanceState};
use perennial_workflows::signal::{News, Signal, Source};
use serde::Deserialize;

/// From the warning to the interruption (EC2 User Guide: "two minutes").
pub const NOTICE: Duration = Duration::from_secs(120);

/// The longest event id taken as it is.
const EVENT_ID_MAX: usize = 128;

/// What an event message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Something about an instance.
    Signal {
        /// What.
        signal: Signal,
        /// The event's id: the key of its letter.
        id: String,
    },
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
    let malformed = |because: String| Parsed::Malformed { because };
    let value: serde_json::Value = match serde_json::from_str(body) {
        Ok(value) => value,
        Err(error) => return malformed(format!("not JSON: {error}")),
    };
    // SNS wraps the event as text.
    let wrapped = (value.get("Type").and_then(|t| t.as_str()) == Some("Notification"))
        .then(|| value.get("Message").and_then(|m| m.as_str()))
        .flatten();
    let value = match wrapped.map(serde_json::from_str) {
        Some(Ok(inner)) => inner,
        Some(Err(error)) => {
            return malformed(format!("an SNS notification whose message is not JSON: {error}"));
        }
        None => value,
    };
    let event: Event = match serde_json::from_value(value) {
        Ok(event) => event,
        Err(error) => return malformed(format!("not an EventBridge event: {error}")),
    };
    if event.id.is_empty() || event.id.len() > EVENT_ID_MAX {
        return malformed(format!(
            "its id has {} bytes; between 1 and {EVENT_ID_MAX} are taken",
            event.id.len()
        ));
    }
    let kind = format!("{} / {}", event.source, event.detail_type).chars().take(200).collect::<String>();
    if event.source != "aws.ec2" {
        return Parsed::Unknown { kind, id: event.id };
    }
    let text = |field: &str| event.detail.get(field).and_then(|value| value.as_str()).map(str::to_owned);
    let known = matches!(
        event.detail_type.as_str(),
        "EC2 Spot Instance Interruption Warning"
            | "EC2 Instance Rebalance Recommendation"
            | "EC2 Instance State-change Notification"
    );
    if !known {
        return Parsed::Unknown { kind, id: event.id };
    }
    let at_ms = match event.time.parse::<jiff::Timestamp>() {
        Ok(time) => u64::try_from(time.as_millisecond()).unwrap_or(0),
        Err(error) => return malformed(format!("its time {:?} is not RFC 3339: {error}", clip(&event.time))),
    };
    let Some(instance) = text("instance-id") else {
        return malformed(format!("{kind} without detail.instance-id"));
    };
    // Health and some state-change samples give an ARN where others give the id.
    let instance = match InstanceId::parse(instance.rsplit('/').next().unwrap_or(&instance)) {
        Ok(instance) => instance,
        Err(error) => return malformed(format!("detail.instance-id: {error}")),
    };
    let news = match event.detail_type.as_str() {
        "EC2 Spot Instance Interruption Warning" => {
            let action = text("instance-action").unwrap_or_else(|| "terminate".to_owned());
            // Hibernation begins at once.
            let notice = if action == "hibernate" { Duration::ZERO } else { NOTICE };
            News::SpotInterruption {
                action: clip(&action),
                deadline_ms: at_ms + u64::try_from(notice.as_millis()).unwrap_or(0),
            }
        }
        "EC2 Instance Rebalance Recommendation" => News::Rebalance,
        _ => {
            let state = text("state").unwrap_or_default();
            match serde_json::from_value::<InstanceState>(serde_json::Value::String(state.clone())) {
                Ok(state) => News::StateChange { state },
                Err(_) => return malformed(format!("detail.state {:?} is no instance state", clip(&state))),
            }
        }
    };
    let source = Source::Event { id: event.id.clone() };
    Parsed::Signal { signal: Signal { instance, news, source, at_ms }, id: event.id }
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

    #[test]
    fn an_event_of_another_kind_is_unknown_not_malformed() {
        assert!(matches!(parse(&event(|e| e["source"] = "aws.s3".into())), Parsed::Unknown { .. }));
        assert!(matches!(
            parse(&event(|e| e["detail-type"] = "EC2 AMI State Change".into())),
            Parsed::Unknown { .. }
        ));
    }
}
