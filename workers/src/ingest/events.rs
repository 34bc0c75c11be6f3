//! Events about our instances, volumes and snapshots, parsed at the rim.
//!
//! Shapes: EC2 User Guide, "Monitor Spot Instance interruption notices", "rebalance recommendations", "state
//! change events" and "Monitor interruptible Capacity Reservations", which names its warning in two ways. AWS
//! Health User Guide, "EventBridge events for AWS Health": entities are ids or ARNs, numbers and booleans are
//! texts, and a published sample has the wrong weekday in its dates. EBS User Guide, "EventBridge events for
//! Amazon EBS": ARNs of snapshots have neither account nor a region in its place, and there is no event for
//! an attachment or a detachment that succeeded; what there is, is a [`WakeHint`].
//!
//! What an event needs is what it is about: its source, its detail-type and an instance. Everything else may
//! be missing or have another form, because users send events of their own, through transformers of their
//! own: for a time that cannot be read the time of the message serves, for an id the hash of the event. What
//! events are wrapped in is taken off first (`envelope`).

use std::collections::BTreeSet;
use std::time::Duration;

use perennial_workflows::domain::strict;
use perennial_workflows::model::aws::{InstanceId, InstanceState, SnapshotId, VolumeId};
use perennial_workflows::model::signal::{Effect, News, Signal, Source};
use perennial_workflows::model::text;
use perennial_workflows::step::wake_hint::WakeHint;
use serde_json::Value;

use super::envelope::{self, Held};

/// From the warning to the interruption (EC2 User Guide: "two minutes").
pub const NOTICE: Duration = Duration::from_secs(120);

/// The longest event id taken as it is.
const EVENT_ID_MAX: usize = 128;

/// How many snapshots of a set are taken from its event. EC2 takes up to 128 at once (EC2 quotas, volumes of
/// an instance).
const SET_MAX: usize = 128;

/// How many instances are taken from an event that we do nothing with.
const NAMED_MAX: usize = 10;

/// How much of a text of an event is repeated, in characters.
const TEXT_MAX: usize = 80;

/// How far in the future the time of an event may be: beyond it, it is no time.
const FUTURE_MAX_MS: u64 = 60 * 60 * 1_000;

/// How far after its warning an instance may be taken: beyond it, the event's own time of it is not believed.
const ANNOUNCED_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// When a message was sent, and what time it is, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When it was sent, as the queue says.
    pub sent_at_ms: u64,
    /// The time of this process.
    pub now_ms: u64,
}

/// What an event of a message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Something about an instance.
    Notice(Notice),
    /// A step may be waiting for this. It is no inbox entry: it leaves nothing in the journal.
    WakeHint(WakeHint),
    /// A well-formed event that we do nothing with.
    Unknown {
        /// Its source and detail-type.
        kind: String,
        /// The instances that it names, some of them if there are many.
        instances: Vec<InstanceId>,
        /// The key of its inbox entry, if it gets one.
        key: Key,
        /// The event.
        body: String,
    },
    /// Nothing that can be read.
    Malformed {
        /// What is wrong.
        because: String,
        /// The instances that it names, some of them if there are many.
        instances: Vec<InstanceId>,
        /// What cannot be read.
        body: String,
    },
}

/// What an event says of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// What.
    pub signal: Signal,
    /// Where the event comes from.
    pub origin: Origin,
    /// The key of its inbox entry.
    pub key: Key,
    /// The event, with other instances left out.
    pub body: String,
}

/// Account and region of an event, as far as it names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The account of the instance.
    pub account: Option<String>,
    /// Its region.
    pub region: Option<String>,
}

/// What names an event in the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The event's id, or what serves for it.
    pub id: String,
    /// The hash of what it says, if another event can have the same id: a transformer may write a constant.
    pub content: Option<String>,
}

impl Key {
    /// The key of an event whose id stands for another one.
    #[must_use]
    pub fn other(&self) -> String {
        format!("{}~{}", self.id, self.content.as_deref().unwrap_or_default())
    }
}

/// Parses a message of the interruptions queue: what each of its events is, at least one.
#[must_use]
pub fn parse(body: &str, arrival: Arrival) -> Vec<Parsed> {
    let held = envelope::unwrap(body);
    let alone = held.len() == 1;
    let mut parsed = Vec::with_capacity(held.len());
    for held in held {
        match held {
            Held::Unreadable { body, because } => parsed.push(malformed(because, body)),
            Held::Object(value) => {
                let shown = if alone { body.to_owned() } else { value.to_string() };
                match Event::read(&value, arrival).and_then(|event| event.parse(&shown)) {
                    Ok(all) => parsed.extend(all),
                    Err(because) => parsed.push(malformed(because, shown)),
                }
            }
        }
    }
    parsed
}

fn malformed(because: String, body: String) -> Parsed {
    let mut instances = Vec::new();
    named_in(&body, &mut instances);
    Parsed::Malformed { because, instances, body }
}

/// An event, as far as it has the form of one.
struct Event<'a> {
    whole: &'a Value,
    source: &'a str,
    detail_type: &'a str,
    detail: Value,
    /// The id that it has, or what serves for one.
    key: Key,
    at_ms: u64,
}

impl<'a> Event<'a> {
    fn read(whole: &'a Value, arrival: Arrival) -> Result<Self, String> {
        let of = |name: &str| field_of(whole, name);
        let text = |name: &str| {
            let text = of(name).and_then(Value::as_str).map(str::trim);
            text.ok_or_else(|| not_an_event(whole, name))
        };
        let (source, detail_type) = (text("source")?, text("detail-type")?);
        let detail = match of("detail") {
            // A transformer may have made a text of it.
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or(Value::Null),
            Some(detail) => detail.clone(),
            None => Value::Null,
        };
        let time = of("time").and_then(time).filter(|time| *time <= arrival.now_ms + FUTURE_MAX_MS);
        let mut content = strict::hash(whole);
        if time.is_none() {
            // Without a time of its own the same words can be said again another day.
            content = strict::hash(&serde_json::json!([content, arrival.sent_at_ms]));
        }
        let id = of("id").and_then(Value::as_str);
        let id = id.filter(|id| !id.is_empty() && id.len() <= EVENT_ID_MAX);
        let id = id.map_or_else(|| format!("event {content}"), text::plain);
        let at_ms = time.unwrap_or(arrival.sent_at_ms);
        let key = Key { id, content: Some(content) };
        Ok(Self { whole, source, detail_type, detail, key, at_ms })
    }

    fn parse(&self, body: &str) -> Result<Vec<Parsed>, String> {
        let kind = clip(&format!("{} / {}", self.source, self.detail_type), 200);
        let is = |text: &str, name: &str| text.eq_ignore_ascii_case(name);
        if is(self.source, "aws.health") && is(self.detail_type, "AWS Health Event") {
            return Ok(self.health(kind, body));
        }
        if !is(self.source, "aws.ec2") {
            return Ok(vec![self.unknown(kind, body)]);
        }
        if let Some(hint) = self.hint() {
            return Ok(vec![Parsed::WakeHint(hint)]);
        }
        let Some(news) = InstanceNews::of(self.detail_type) else {
            return Ok(vec![self.unknown(kind, body)]);
        };
        let news = news.read(self)?;
        let instances = self.instances();
        if instances.is_empty() {
            return Err(match self.text("instance-id") {
                Some(id) => format!("detail.instance-id {:?} is no instance id", clip(id, TEXT_MAX)),
                None => format!("{kind} names no instance: neither detail.instance-id nor resources"),
            });
        }
        let alone = instances.len() == 1;
        let notice = |instance: InstanceId| {
            let id = self.key.id.clone();
            Parsed::Notice(Notice {
                origin: self.origin(),
                key: if alone {
                    self.key.clone()
                } else {
                    Key { id: format!("{id} {instance}"), ..self.key.clone() }
                },
                body: body.to_owned(),
                signal: Signal {
                    instance,
                    news: news.clone(),
                    source: Source::Event { id },
                    at_ms: self.at_ms,
                },
            })
        };
        Ok(instances.into_iter().map(notice).collect())
    }

    /// A text of its details.
    fn text(&self, name: &str) -> Option<&str> {
        field_of(&self.detail, name).and_then(Value::as_str).map(str::trim)
    }

    /// The instances that it is about: the one of its details; if they name none, those of its resources.
    fn instances(&self) -> BTreeSet<InstanceId> {
        match self.text("instance-id").and_then(|name| InstanceId::parse(tail(name)).ok()) {
            Some(instance) => BTreeSet::from([instance]),
            None => self
                .resources()
                .filter(|name| !name.contains(':') || name.contains("instance/"))
                .filter_map(|name| InstanceId::parse(tail(name)).ok())
                .take(SET_MAX)
                .collect(),
        }
    }

    /// Its resources; one page of AWS's shows them as a text.
    fn resources(&self) -> impl Iterator<Item = &str> {
        let resources = field_of(self.whole, "resources");
        let listed = resources.and_then(Value::as_array).into_iter().flatten();
        listed.chain(resources).filter_map(Value::as_str)
    }

    fn origin(&self) -> Origin {
        let field = |name: &str| {
            let text = field_of(self.whole, name).and_then(Value::as_str).map(str::trim);
            text.filter(|text| !text.is_empty()).map(|text| clip(text, TEXT_MAX))
        };
        Origin { account: field("account"), region: field("region") }
    }

    fn unknown(&self, kind: String, body: &str) -> Parsed {
        let mut instances = Vec::new();
        named(self.whole, &mut instances);
        Parsed::Unknown { kind, instances, key: self.key.clone(), body: body.to_owned() }
    }

    /// What an event of EBS is about; none when it is of another kind, or names nothing that can be read.
    fn hint(&self) -> Option<WakeHint> {
        match self.detail_type {
            "EBS Volume Notification" => {
                let volume = self.resources().map(tail).find_map(|name| VolumeId::parse(name).ok())?;
                Some(WakeHint::Volume { volume })
            }
            "EBS Snapshot Notification" | "EBS Multi-Volume Snapshots Completion Status" => {
                let members = self.detail["snapshots"].as_array().into_iter().flatten().take(SET_MAX);
                let details: Vec<&Value> = std::iter::once(&self.detail).chain(members).collect();
                let named = |field: &str| {
                    details.iter().filter_map(|of| of[field].as_str()).map(tail).collect::<Vec<_>>()
                };
                let snapshots: BTreeSet<SnapshotId> = (named("snapshot_id").into_iter())
                    .chain(self.resources().map(tail).take(SET_MAX))
                    .filter_map(|name| SnapshotId::parse(name).ok())
                    .collect();
                let volumes =
                    named("source").into_iter().filter_map(|name| VolumeId::parse(name).ok()).collect();
                (!snapshots.is_empty()).then_some(WakeHint::Snapshots { snapshots, volumes })
            }
            _ => None,
        }
    }

    /// An event of AWS Health: one notice for each instance it names. A page is an event of its own, with
    /// entities of its own; nothing waits for the others.
    fn health(&self, kind: String, body: &str) -> Vec<Parsed> {
        let text = |field: &str| self.text(field).unwrap_or_default();
        let (service, category) = (text("service"), text("eventTypeCategory"));
        if !service.eq_ignore_ascii_case("EC2") || category != "scheduledChange" {
            let (service, category) = (clip(service, TEXT_MAX), clip(category, TEXT_MAX));
            return vec![self.unknown(format!("{kind}: {service} {category}"), body)];
        }
        let code = clip(text("eventTypeCode"), TEXT_MAX);
        // A date that cannot be read is no reason to lose the event.
        let begins_ms = date(text("startTime"));
        let is_over = matches!(text("statusCode"), "closed" | "completed" | "canceled" | "cancelled");
        let mut seen = BTreeSet::new();
        let entities: Vec<(InstanceId, Effect)> = self
            .entities()
            .into_iter()
            .filter_map(|(name, status)| Some((InstanceId::parse(tail(name)).ok()?, status)))
            .filter(|(instance, _)| seen.insert(instance.clone()))
            .map(|(instance, status)| {
                (instance, if is_over || status == "RESOLVED" { Effect::Settled } else { effect(&code) })
            })
            .collect();
        if entities.is_empty() {
            return vec![self.unknown(format!("{kind}: {code}, about no instance"), body)];
        }
        // It may come from the backup region, or through the account of the organisation.
        let own = self.origin();
        let of = |field: &str| Some(clip(text(field), TEXT_MAX)).filter(|text| !text.is_empty());
        let origin = Origin {
            account: of("affectedAccount").or(own.account),
            region: of("eventRegion").or(own.region),
        };
        let alone = entities.len() == 1;
        let notice = |(instance, effect): (InstanceId, Effect)| {
            Parsed::Notice(Notice {
                key: Key { id: self.health_key(&instance), content: None },
                origin: origin.clone(),
                body: if alone { body.to_owned() } else { only(self.whole, &instance) },
                signal: Signal {
                    news: News::ScheduledChange { code: code.clone(), effect, begins_ms },
                    source: Source::Event { id: self.key.id.clone() },
                    instance,
                    at_ms: self.at_ms,
                },
            })
        };
        entities.into_iter().map(notice).collect()
    }

    /// The entities of a Health event, with their states; where it lists none, its resources.
    fn entities(&self) -> Vec<(&str, &str)> {
        let listed = self.detail["affectedEntities"].as_array().filter(|listed| !listed.is_empty());
        match listed {
            Some(listed) => listed
                .iter()
                .map(|entity| (text_of(entity, "entityValue"), text_of(entity, "status")))
                .collect(),
            None => self.resources().map(|resource| (resource, "")).collect(),
        }
    }

    /// One inbox entry for a communication about an instance, from whichever region it comes and however
    /// often; an update has a newer time. (AWS Health User Guide: the copy from the backup region has the
    /// same `communicationId`, which ends in the page.)
    fn health_key(&self, instance: &InstanceId) -> String {
        let text = |field: &str| self.text(field).unwrap_or_default();
        match text("communicationId") {
            "" => format!("health {} {instance}", self.key.id),
            communication => format!(
                "health {} {communication} {} {instance}",
                text("affectedAccount"),
                text("lastUpdatedTime")
            ),
        }
    }
}

/// A field of an object, however its name is spelled.
fn field_of<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.as_object().and_then(|fields| envelope::field(fields, name))
}

fn text_of<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What is wrong with an object that is no event.
fn not_an_event(value: &Value, field: &str) -> String {
    let mut instances = Vec::new();
    named(value, &mut instances);
    let names = match instances.first() {
        Some(instance) => format!("; it names {instance}, and does not say what of it"),
        None => String::new(),
    };
    if value.is_object() {
        format!("not an EventBridge event: it has no text `{field}`{names}")
    } else {
        "not an EventBridge event: no object".to_owned()
    }
}

/// The instances that a text names.
fn named_in(text: &str, instances: &mut Vec<InstanceId>) {
    // An id has eight hexadecimal digits, or seventeen.
    let is_id = |id: &str| matches!(id.len(), 10 | 19) && id[2..].bytes().all(|b| b.is_ascii_hexdigit());
    for (at, _) in text.match_indices("i-") {
        if instances.len() >= NAMED_MAX {
            return;
        }
        let is_inside = text[..at].ends_with(|before: char| before.is_ascii_alphanumeric());
        let end = text[at + 2..].find(|c: char| !c.is_ascii_alphanumeric());
        let id = end.map_or(&text[at..], |end| &text[at..at + 2 + end]);
        if !is_inside
            && is_id(id)
            && let Ok(instance) = InstanceId::parse(id)
            && !instances.contains(&instance)
        {
            instances.push(instance);
        }
    }
}

/// The instances that a value names anywhere, some of them if there are many.
fn named(value: &Value, instances: &mut Vec<InstanceId>) {
    match value {
        Value::String(text) => named_in(text, instances),
        Value::Array(values) => values.iter().for_each(|value| named(value, instances)),
        Value::Object(fields) => fields.values().for_each(|value| named(value, instances)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
        match detail_type.to_ascii_lowercase().as_str() {
            "ec2 spot instance interruption warning" => Some(Self::SpotInterruption),
            // EC2 User Guide, "Monitor interruptible Capacity Reservations", one name an edition.
            "ec2 capacity reservation instance interruption warning"
            | "ec2 interruptible capacity reservation instance interruption warning" => {
                Some(Self::ReservationInterruption)
            }
            "ec2 instance rebalance recommendation" => Some(Self::Rebalance),
            "ec2 instance state-change notification" => Some(Self::StateChange),
            _ => None,
        }
    }

    fn read(self, event: &Event<'_>) -> Result<News, String> {
        let action = event.text("instance-action").filter(|action| !action.is_empty()).unwrap_or("terminate");
        let after =
            |notice: Duration| event.at_ms.saturating_add(u64::try_from(notice.as_millis()).unwrap_or(0));
        Ok(match self {
            Self::SpotInterruption => {
                // Hibernation begins at once.
                let notice = if action == "hibernate" { Duration::ZERO } else { NOTICE };
                News::SpotInterruption { action: clip(action, TEXT_MAX), deadline_ms: after(notice) }
            }
            Self::ReservationInterruption => {
                let told = event.detail.get("instance-termination-time").and_then(time);
                let told = told.filter(|told| {
                    (event.at_ms..=event.at_ms.saturating_add(ANNOUNCED_MAX_MS)).contains(told)
                });
                News::ReservationInterruption {
                    action: clip(action, TEXT_MAX),
                    deadline_ms: told.unwrap_or_else(|| after(NOTICE)),
                }
            }
            Self::Rebalance => News::Rebalance,
            Self::StateChange => {
                let state = event.text("state").unwrap_or_default();
                match serde_json::from_value::<InstanceState>(Value::String(state.to_ascii_lowercase())) {
                    Ok(state) => News::StateChange { state },
                    Err(_) => {
                        return Err(format!("detail.state {:?} is no instance state", clip(state, TEXT_MAX)));
                    }
                }
            }
        })
    }
}

/// What a scheduled change of EC2 means for an instance (EC2 User Guide, "Scheduled events for your
/// instances"). A code that is not known is noted like maintenance: it is visible, and moves nothing.
fn effect(code: &str) -> Effect {
    let ends = ["RETIREMENT", "INSTANCE_STOP", "TERMINATION"];
    if ends.iter().any(|word| code.contains(word)) { Effect::Retirement } else { Effect::Maintenance }
}

/// A Health event with one of its instances only.
fn only(event: &Value, instance: &InstanceId) -> String {
    let mut event = event.clone();
    let is_it = |name: &Value| name.as_str().map(tail) == Some(instance.as_str());
    if let Some(listed) = event.pointer_mut("/detail/affectedEntities").and_then(Value::as_array_mut) {
        listed.retain(|entity| is_it(&entity["entityValue"]));
    }
    if let Some(resources) = event.get_mut("resources").and_then(Value::as_array_mut) {
        resources.retain(is_it);
    }
    event.to_string()
}

/// A time in any form in which it was seen: RFC 3339, the same with a space and without a zone (UTC), RFC
/// 1123, seconds or milliseconds since the Unix epoch.
fn time(value: &Value) -> Option<u64> {
    /// Milliseconds have more than this, seconds less, until the year 5138.
    const SECONDS_MAX: u64 = 99_999_999_999;
    let epoch = |number: u64| if number > SECONDS_MAX { number } else { number * 1_000 };
    match value {
        Value::Number(number) => number.as_u64().map(epoch).or_else(|| {
            let seconds = number.as_f64().filter(|seconds| *seconds > 0.0 && *seconds < 1e11)?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is within 0 and 1e14"
            )]
            Some((seconds * 1_000.0) as u64)
        }),
        Value::String(text) => {
            let text = text.trim();
            if !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit()) {
                return text.parse().ok().map(epoch);
            }
            let civil = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
            date(text).or_else(|| civil().map(|zoned| milliseconds(zoned.timestamp())))
        }
        _ => None,
    }
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

/// As much of a text as is repeated, on one line.
fn clip(text: &str, most: usize) -> String {
    // One more than is kept, so that what is left out is told.
    let beginning: String = text.chars().take(most + 1).collect();
    text::clip(&text::plain(&beginning), most)
}

/// The id in an ARN; an id is its own.
fn tail(name: &str) -> &str {
    name.trim().rsplit('/').next().unwrap_or(name)
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

    /// Sent a minute after the time of the events here.
    const SENT_MS: u64 = 1_789_374_727_000;
    const ARRIVAL: Arrival = Arrival { sent_at_ms: SENT_MS, now_ms: SENT_MS + 5_000 };

    fn parse(body: &str) -> Parsed {
        let mut parsed = super::parse(body, ARRIVAL);
        assert_eq!(parsed.len(), 1, "{parsed:?}");
        parsed.remove(0)
    }

    fn notice(body: &str) -> Notice {
        match parse(body) {
            Parsed::Notice(notice) => notice,
            other => panic!("{other:?}: {body}"),
        }
    }

    fn signal(body: &str) -> Signal {
        notice(body).signal
    }

    /// One of the bodies in `samples/bodies.json`: as AWS's pages and the tests of other handlers have them,
    /// and as what stands between EventBridge and a queue makes of them; with what a careful reader says of
    /// each.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        /// Where such a body comes from.
        #[expect(dead_code, reason = "for readers")]
        of: String,
        reads: Vec<String>,
        /// What the reason says, of one that cannot be read.
        because: Option<String>,
        /// An object or an array as JSON; a text as it stands.
        body: Value,
    }

    /// What is read, in a few words.
    fn in_words(parsed: &Parsed) -> String {
        let names = |instances: &[InstanceId]| {
            let names: Vec<&str> = instances.iter().map(InstanceId::as_str).collect();
            if names.is_empty() { String::new() } else { format!(", names {}", names.join(" ")) }
        };
        match parsed {
            Parsed::Notice(Notice { signal: Signal { instance, news, .. }, .. }) => match news {
                News::SpotInterruption { action, .. } => format!("{instance}: spot {action}"),
                News::ReservationInterruption { action, .. } => format!("{instance}: reservation {action}"),
                News::Rebalance => format!("{instance}: rebalance"),
                News::StateChange { state } => format!("{instance}: state {state}"),
                News::ScheduledChange { code, effect, .. } => {
                    format!("{instance}: {code} {}", format!("{effect:?}").to_lowercase())
                }
                other => panic!("no event says {other:?}"),
            },
            Parsed::WakeHint(WakeHint::Volume { volume }) => format!("wakes {volume}"),
            Parsed::WakeHint(WakeHint::Snapshots { snapshots, volumes }) => {
                let all = |ids: Vec<&str>| ids.join(" ");
                let snapshots = all(snapshots.iter().map(SnapshotId::as_str).collect());
                format!("wakes {snapshots} of {}", all(volumes.iter().map(VolumeId::as_str).collect()))
            }
            Parsed::WakeHint(WakeHint::Instance { instance }) => format!("wakes {instance}"),
            Parsed::Unknown { kind, instances, .. } => format!("unknown {kind}{}", names(instances)),
            Parsed::Malformed { instances, .. } => format!("unreadable{}", names(instances)),
        }
    }

    #[test]
    fn every_sample_is_read_as_a_careful_reader_would() {
        let samples: Vec<Sample> = serde_json::from_str(include_str!("samples/bodies.json")).unwrap();
        assert!(samples.len() > 60);
        let mut wrong = Vec::new();
        for Sample { name, reads, because, body, .. } in samples {
            let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
            let parsed = super::parse(&body, ARRIVAL);
            let said: Vec<String> = parsed.iter().map(in_words).collect();
            let why: Vec<&str> = parsed
                .iter()
                .filter_map(|one| match one {
                    Parsed::Malformed { because, .. } => Some(because.as_str()),
                    _ => None,
                })
                .collect();
            let is_explained = because.is_none_or(|because| why.iter().any(|why| why.contains(&because)));
            if said != reads || !is_explained {
                wrong.push(format!("{name}: {said:?} ({why:?}), not {reads:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_warning_has_an_absolute_deadline_two_minutes_after_its_time() {
        let Notice { signal, key, origin, .. } = notice(&event(|_| {}));
        assert_eq!(key.id, "a3c1");
        assert_eq!(signal.at_ms, SENT_MS - 60_000);
        assert_eq!(origin, Origin { account: Some("111122223333".into()), region: Some("us-west-2".into()) });
        let News::SpotInterruption { deadline_ms, .. } = signal.news else { panic!() };
        assert_eq!(deadline_ms - signal.at_ms, 120_000);
    }

    #[test]
    fn a_capacity_reservation_that_is_taken_back_warns_like_spot() {
        for kind in [
            "EC2 Capacity Reservation Instance Interruption Warning",
            "EC2 Interruptible Capacity Reservation Instance Interruption Warning",
        ] {
            for (told, after_ms) in [
                (Value::Null, 120_000),
                ("2026-09-14T08:34:37Z".into(), 210_000),
                ("2026-09-14T08:30:00Z".into(), 120_000),
                ("9999-09-14T08:30:00Z".into(), 120_000),
                (7.into(), 120_000),
            ] {
                let signal = signal(&event(|e| {
                    e["detail-type"] = kind.into();
                    e["detail"]["instance-termination-time"] = told.clone();
                }));
                assert!(signal.is_notice() && signal.is_loss());
                assert!(
                    matches!(&signal.news, News::ReservationInterruption { action, deadline_ms }
                        if action == "terminate" && deadline_ms - signal.at_ms == after_ms),
                    "{kind}, {told}"
                );
            }
        }
    }

    #[test]
    fn hibernation_has_no_notice() {
        let signal = signal(&event(|e| e["detail"]["instance-action"] = "hibernate".into()));
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
            assert!(matches!(parse(&body), Parsed::Notice { .. }), "{body}");
        }
    }

    /// What does not say what it is about may be missing, or of another form.
    #[test]
    fn a_warning_is_read_whatever_its_id_and_time_are() {
        let without = |field: &str| {
            event(|e| {
                e.as_object_mut().unwrap().remove(field);
            })
        };
        let with = |field: &str, value: Value| event(|e| e[field] = value);
        for body in [
            without("id"),
            with("id", Value::Null),
            with("id", 12_345.into()),
            with("id", "".into()),
            with("id", "x".repeat(129).into()),
            with("id", serde_json::json!({"a": 1})),
            without("account"),
            with("region", Value::Null),
            without("resources"),
            with("resources", "arn:aws:ec2:us-west-2c:instance/i-0aa11bb22cc33dd44".into()),
            with("version", 0.into()),
            with("detail", r#"{"instance-id":"i-0aa11bb22cc33dd44"}"#.into()),
            with("detail", serde_json::json!({"instanceId": "i-0aa11bb22cc33dd44"})),
            without("detail"),
            with("detail", serde_json::json!([])),
            with("detail", serde_json::json!({"instance-id": 7})),
            with("detail-type", "ec2 spot instance interruption warning ".into()),
            with("source", "AWS.EC2".into()),
        ] {
            let read = notice(&body);
            assert_eq!(read.signal.instance.as_str(), "i-0aa11bb22cc33dd44", "{body}");
            assert_eq!(read.signal.at_ms, SENT_MS - 60_000, "{body}");
            assert!(!read.key.id.is_empty() && read.key.id.len() <= EVENT_ID_MAX, "{}", read.key.id);
        }
        for (time, at_ms) in [
            (Value::Null, SENT_MS),
            ("".into(), SENT_MS),
            ("yesterday".into(), SENT_MS),
            (serde_json::json!({}), SENT_MS),
            ("9999-12-31T23:59:59Z".into(), SENT_MS),
            ("2027-09-14T08:31:07Z".into(), SENT_MS),
            ("2026-09-14 08:31:07.410000".into(), SENT_MS - 60_000 + 410),
            ("2026-09-14T08:31:07.123456789Z".into(), SENT_MS - 60_000 + 123),
            ("2026-09-14T10:31:07+02:00".into(), SENT_MS - 60_000),
            ("2026-09-14T08:31:07".into(), SENT_MS - 60_000),
            ("Mon, 14 Sep 2026 08:31:07 GMT".into(), SENT_MS - 60_000),
            ((SENT_MS - 60_000).into(), SENT_MS - 60_000),
            ((SENT_MS / 1_000 - 60).into(), SENT_MS - 60_000),
            (((SENT_MS / 1_000 - 60) as f64).into(), SENT_MS - 60_000),
            ((SENT_MS - 60_000).to_string().into(), SENT_MS - 60_000),
            ("1970-01-01T00:00:00Z".into(), 0),
        ] {
            let body = with("time", time);
            assert_eq!(signal(&body).at_ms, at_ms, "{body}");
        }
    }

    #[test]
    fn an_event_that_comes_again_has_its_key_and_another_one_has_not() {
        let key = |change: &dyn Fn(&mut Value), sent_at_ms: u64| {
            let body = event(change);
            match super::parse(&body, Arrival { sent_at_ms, ..ARRIVAL }).remove(0) {
                Parsed::Notice(notice) => notice.key,
                other => panic!("{other:?}"),
            }
        };
        let constant = |e: &mut Value| e["id"] = "spot".into();
        let other = |e: &mut Value| {
            constant(e);
            e["detail"]["instance-id"] = "i-0aa11bb22cc33dd45".into();
        };
        // EventBridge delivers at least once, and SNS wraps the copy.
        assert_eq!(key(&constant, SENT_MS), key(&constant, SENT_MS + 1));
        assert_eq!(key(&constant, SENT_MS).id, key(&other, SENT_MS).id);
        assert_ne!(key(&constant, SENT_MS).content, key(&other, SENT_MS).content);
        assert_ne!(key(&constant, SENT_MS).other(), key(&other, SENT_MS).other());
        // Without an id the content is the key; without a time the same content can be said again.
        let nameless = |e: &mut Value| e["id"] = Value::Null;
        assert_eq!(key(&nameless, SENT_MS), key(&nameless, SENT_MS + 1));
        let timeless = |e: &mut Value| {
            e["id"] = "spot".into();
            e["time"] = Value::Null;
        };
        assert_eq!(key(&timeless, SENT_MS), key(&timeless, SENT_MS));
        assert_ne!(key(&timeless, SENT_MS).content, key(&timeless, SENT_MS + 1).content);
    }

    #[test]
    fn each_event_of_a_message_is_read_by_itself() {
        let other = event(|e| e["detail"]["instance-id"] = "i-0bb11bb22cc33dd44".into());
        let unknown = event(|e| e["source"] = "aws.s3".into());
        let body = format!("[{}, {other}, {unknown}, 7]", event(|_| {}));
        let parsed = super::parse(&body, ARRIVAL);
        assert!(
            matches!(&parsed[..], [Parsed::Notice(one), Parsed::Notice(two), Parsed::Unknown { .. }, Parsed::Malformed { .. }]
                if one.signal.instance != two.signal.instance && !one.body.contains("i-0bb1")),
            "{parsed:#?}"
        );
    }

    #[test]
    fn an_unknown_event_and_what_is_none_say_which_instances_they_name() {
        let body = event(|e| {
            e["detail-type"] = "AWS Service Event via CloudTrail".into();
            e["detail"] = serde_json::json!({"eventName": "BidEvictedEvent",
                "serviceEventDetails": {"instanceIdSet": ["i-0123456789abcdef0", "i-0aa11bb22cc33dd44", "hi-0aa11bb2"]}});
        });
        let Parsed::Unknown { instances, kind, .. } = parse(&body) else { panic!() };
        let text = Value::String("spot interruption: i-0123456789abcdef0 will be terminated".to_owned());
        let Parsed::Malformed { instances: told, .. } = parse(&text.to_string()) else { panic!() };
        assert_eq!(told.first().map(InstanceId::as_str), Some("i-0123456789abcdef0"));
        assert_eq!(kind, "aws.ec2 / AWS Service Event via CloudTrail");
        let instances: BTreeSet<&str> = instances.iter().map(InstanceId::as_str).collect();
        assert_eq!(instances, BTreeSet::from(["i-0aa11bb22cc33dd44", "i-0123456789abcdef0"]));
        for body in [
            r#"{"instance-id": "i-0123456789abcdef0", "instance-action": "terminate"}"#,
            r#"{"detail": {"instance-id": "i-0123456789abcdef0", "instance-action": "terminate"}}"#,
        ] {
            assert!(
                matches!(parse(body), Parsed::Malformed { because, .. } if because.contains("i-0123456789abcdef0")),
                "{body}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let because = |body: &str| match parse(body) {
            Parsed::Malformed { because, .. } => because,
            other => panic!("{other:?}"),
        };
        assert!(because("not json").starts_with("not JSON"));
        assert!(because("{}").contains("source"));
        assert!(
            because(&event(|e| {
                e["detail"].as_object_mut().unwrap().remove("instance-id");
                e["resources"] = serde_json::json!([]);
            }))
            .contains("instance-id")
        );
        assert!(
            because(&event(|e| {
                e["detail"]["instance-id"] = "i-0;rm -rf".into();
                e["resources"] = serde_json::json!(["arn:aws:ec2:us-west-2:1:image/i-0aa11bb22cc33dd44"]);
            }))
            .contains("instance id")
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
        let notice = |parsed| match parsed {
            Parsed::Notice(notice) => notice,
            other => panic!("{other:?}"),
        };
        super::parse(body, ARRIVAL).into_iter().map(notice).collect()
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
        assert_ne!(notices[0].key.id, notices[1].key.id);
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
        let key = |change: &dyn Fn(&mut Value)| {
            let Notice { key, origin, .. } = notices(&health(change)).remove(0);
            assert_eq!(origin.region.as_deref(), Some("us-west-2"), "of the instance, not of the event");
            key
        };
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
