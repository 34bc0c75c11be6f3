//! Takes events out of what they are wrapped in.
//!
//! Between EventBridge and a queue stands whatever a user has built: SNS (once, or twice), a Pipe that sends
//! batches, a Lambda function or its destination, a queue in front of a queue, an editor that writes a byte
//! order mark. Each of them wraps the event in a known form, and an event that names one of our instances is
//! too dear to be lost for it. The forms:
//!
//! | form | from |
//! | --- | --- |
//! | `[…, …]` | a batch of EventBridge Pipes |
//! | `"…"` | JSON in a JSON text |
//! | `{"Records": […]}`, `{"Messages": […]}` | what Lambda is given, what ReceiveMessage answers |
//! | `{"Sns": {"Message": …}}`, `{"Message": …}` | SNS, its message as a text or as an object |
//! | `{"body": …}`, `{"Body": …}` | SQS, through Pipes or Lambda |
//! | `{"requestPayload": …}` | a Lambda destination |
//! | `{"anything": EVENT}`, EVENT an object or a text | functions, enrichments, CloudEvents |
//! | one event a line | Firehose, files |
//!
//! Depth and number are bounded.

use perennial_workflows::model::text;
use serde_json::Value;

/// How many wrappings are taken off: SNS in SNS in a record of a batch, each a text, takes eight; twice that
/// is generous.
const DEPTH_MAX: usize = 16;

/// How many events are taken out of one message: a batch of Lambda or Pipes has up to 10,000 messages, and
/// 256 KiB hold some 600 events of EC2.
pub(super) const EVENTS_MAX: usize = 1_000;

/// How much of the name of a topic is repeated, in characters.
const TOPIC_SHOWN: usize = 120;

/// Fields that hold what is wrapped, in the order in which they are looked for.
const WRAPPERS: [&str; 7] = ["records", "messages", "sns", "message", "body", "requestpayload", "event"];

/// Something that a message holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Held {
    /// An object that is no known wrapping: an event, or nothing that is known.
    Object(Value),
    /// What cannot be unwrapped, and why.
    Unreadable {
        /// As much as there is of it.
        body: String,
        /// What is wrong.
        because: String,
    },
}

/// What a message holds; at least one thing.
pub(super) fn unwrap(body: &str) -> Vec<Held> {
    let mut held = Vec::new();
    from_text(body, 0, &mut held);
    if held.is_empty() {
        let because = "it holds no event".to_owned();
        held.push(Held::Unreadable { body: body.to_owned(), because });
    }
    held
}

/// Takes apart a text that is to be JSON.
fn from_text(body: &str, depth: usize, held: &mut Vec<Held>) {
    match serde_json::from_str(body.trim_start_matches('\u{feff}')) {
        Ok(value) => unwrapped(value, depth, held),
        Err(error) => {
            if let Some(values) = one_a_line(body) {
                return unwrapped(values, depth, held);
            }
            let because = match depth {
                0 => format!("not JSON: {error}"),
                _ => format!("a text in it is not JSON: {error}"),
            };
            held.push(Held::Unreadable { body: body.to_owned(), because });
        }
    }
}

/// Objects that follow each other.
fn one_a_line(body: &str) -> Option<Value> {
    let values = serde_json::Deserializer::from_str(body.trim_start_matches('\u{feff}')).into_iter();
    let values: Vec<Value> = values.take(EVENTS_MAX + 1).collect::<Result<_, _>>().ok()?;
    values.iter().all(Value::is_object).then_some(Value::Array(values))
}

/// What SNS says of a subscription instead of an event.
fn about_a_subscription(fields: &serde_json::Map<String, Value>) -> Option<String> {
    let topic = fields.get("TopicArn").and_then(Value::as_str).unwrap_or("a topic");
    let topic = text::clip(&text::plain(topic), TOPIC_SHOWN);
    match fields.get("Type").and_then(Value::as_str)? {
        "SubscriptionConfirmation" => Some(format!(
            "SNS asks to confirm the subscription to {topic}: open the SubscribeURL in it, or no event comes by it"
        )),
        "UnsubscribeConfirmation" => Some(format!("SNS says that the subscription to {topic} has ended")),
        _ => None,
    }
}

/// Takes apart a value.
fn unwrapped(value: Value, depth: usize, held: &mut Vec<Held>) {
    if held.len() >= EVENTS_MAX {
        return;
    }
    let unreadable = |value: &Value, because: &str| Held::Unreadable {
        body: value.to_string(),
        because: because.to_owned(),
    };
    if depth >= DEPTH_MAX {
        return held.push(unreadable(&value, "it is wrapped too often"));
    }
    match value {
        Value::Array(values) => {
            for value in values {
                unwrapped(value, depth + 1, held);
            }
            if held.len() >= EVENTS_MAX {
                let because = format!("it holds more than {EVENTS_MAX} events; the others are not read");
                held.push(Held::Unreadable { body: String::new(), because });
            }
        }
        Value::String(inner) => from_text(&inner, depth + 1, held),
        Value::Object(fields) if is_event(&fields) => held.push(Held::Object(fields.into())),
        Value::Object(fields) => {
            if let Some(because) = about_a_subscription(&fields) {
                return held.push(unreadable(&fields.into(), &because));
            }
            let mut wrapped: Vec<&Value> = fields.values().filter(|inner| holds_event(inner)).collect();
            if wrapped.is_empty() {
                wrapped.extend(wrapper(&fields));
            }
            if wrapped.is_empty() {
                return held.push(Held::Object(fields.into()));
            }
            for inner in wrapped {
                unwrapped(inner.clone(), depth + 1, held);
            }
        }
        other => held.push(unreadable(&other, "it is no JSON object")),
    }
}

/// Whether an object is an event itself, whatever else it has.
fn is_event(fields: &serde_json::Map<String, Value>) -> bool {
    ["source", "detail-type"].iter().all(|key| field(fields, key).is_some_and(Value::is_string))
}

/// Whether a value is an event, or a text or an array that has one.
fn holds_event(value: &Value) -> bool {
    match value {
        Value::Object(fields) => is_event(fields),
        Value::Array(values) => values.iter().any(|value| value.as_object().is_some_and(is_event)),
        Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
            serde_json::from_str(text).is_ok_and(|value: Value| !value.is_string() && holds_event(&value))
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What is in the field of an object that wraps things by its name.
fn wrapper(fields: &serde_json::Map<String, Value>) -> Option<&Value> {
    WRAPPERS.iter().find_map(|wrapper| {
        let (_, inner) = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(wrapper))?;
        let is_a_name = *wrapper == "event" && inner.is_string();
        let holds_something = matches!(inner, Value::String(_) | Value::Array(_) | Value::Object(_));
        (holds_something && !is_a_name).then_some(inner)
    })
}

/// A field of an event by its name in EventBridge, `detail-type`; or by the same name as programs spell it:
/// `DetailType` (PutEvents), `detailType`, `detail_type`.
pub(super) fn field<'v>(fields: &'v serde_json::Map<String, Value>, name: &str) -> Option<&'v Value> {
    let letters = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|sign| sign.to_ascii_lowercase()).collect()
    };
    fields.get(name).or_else(|| {
        let name = letters(name);
        fields.iter().find(|(key, _)| letters(key) == name).map(|(_, value)| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects(body: &str) -> Vec<Value> {
        let object = |held| match held {
            Held::Object(value) => value,
            Held::Unreadable { because, .. } => panic!("{because}: {body}"),
        };
        unwrap(body).into_iter().map(object).collect()
    }

    /// Every wrapping, around a text and around an object.
    fn wrapped(event: &Value) -> Vec<Value> {
        let text = Value::String(event.to_string());
        [event, &text]
            .into_iter()
            .flat_map(|inner| {
                [
                    json!([inner]),
                    json!({"Type": "Notification", "MessageId": "m", "Message": inner}),
                    json!({"Message": inner}),
                    json!({"Records": [{"Sns": {"Type": "Notification", "Message": inner}}]}),
                    json!({"Records": [{"messageId": "m", "body": inner, "eventSource": "aws:sqs"}]}),
                    json!({"Messages": [{"MessageId": "m", "Body": inner}]}),
                    json!({"body": inner, "messageId": "m"}),
                    json!({"version": "1.0", "requestPayload": inner, "responsePayload": null}),
                ]
            })
            .chain([text.clone()])
            .collect()
    }

    #[test]
    fn an_event_is_taken_out_of_whatever_it_is_wrapped_in_even_twice() {
        let event = json!({"source": "aws.ec2", "detail-type": "x", "detail": {"message": "m", "body": "b"}});
        let alone = std::slice::from_ref(&event);
        assert_eq!(objects(&event.to_string()), alone);
        for once in wrapped(&event) {
            assert_eq!(objects(&once.to_string()), alone, "{once}");
            assert_eq!(objects(&format!("\u{feff}{once}")), alone, "{once}");
            for twice in wrapped(&once) {
                assert_eq!(objects(&twice.to_string()), alone, "{twice}");
            }
        }
        assert_eq!(objects(&json!([event, [event, {"body": event}]]).to_string()).len(), 3);
    }

    #[test]
    fn depth_and_number_are_bounded_and_nothing_is_passed_over_in_silence() {
        let mut deep = json!({"source": "aws.ec2", "detail-type": "x"});
        for _ in 0..20 {
            deep = json!({ "Message": deep });
        }
        assert!(
            matches!(&unwrap(&deep.to_string())[..], [Held::Unreadable { because, .. }] if because.contains("too often"))
        );
        let many = json!(vec![json!({"source": "a", "detail-type": "b"}); EVENTS_MAX + 5]).to_string();
        let held = unwrap(&many);
        assert_eq!(held.len(), EVENTS_MAX + 1);
        assert!(
            matches!(held.last(), Some(Held::Unreadable { because, .. }) if because.contains("more than"))
        );
        for body in
            ["", "[]", "[[],[]]", "7", "null", "\"\"", "\"text\"", "[null]", "{\"Message\":\"plain\"}"]
        {
            assert!(matches!(&unwrap(body)[..], [Held::Unreadable { .. }]), "{body}");
        }
        assert!(matches!(&unwrap("{\"body\":null}")[..], [Held::Object(_)]));
    }
}
