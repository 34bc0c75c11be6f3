//! Messages and names as SQS's JSON writes them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::model::{Attribute, Delivery, Outgoing, Refusal, Sent, Value};
use crate::world::ACCOUNT;

/// The ARN of a queue.
pub(crate) fn queue_arn(region: &str, name: &str) -> String {
    format!("arn:aws:sqs:{region}:{ACCOUNT}:{name}")
}

/// A number within its bounds, if there is one.
pub(crate) fn number(
    request: &Json,
    name: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Refusal> {
    let value = &request[name];
    if value.is_null() {
        return Ok(None);
    }
    value.as_u64().filter(|number| range.contains(number)).map(Some).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        Refusal::bad(format!(
            "Value {value} for parameter {name} is invalid. Reason: Must be >= {least} and <= {most}, if provided."
        ))
    })
}

/// The message that a request sends.
pub(super) fn outgoing(request: &Json) -> Result<Outgoing, Refusal> {
    let text = |name: &str| request[name].as_str().map(str::to_owned);
    let mut attributes = BTreeMap::new();
    for (name, value) in request["MessageAttributes"].as_object().into_iter().flatten() {
        let kind = value["DataType"].as_str().unwrap_or_default().to_owned();
        let bad = || {
            Refusal::bad(format!(
                "The message attribute '{name}' must contain a non-empty value of its type."
            ))
        };
        let value =
            match (kind.split('.').next(), value["StringValue"].as_str(), value["BinaryValue"].as_str()) {
                (Some("String" | "Number"), Some(text), _) if !text.is_empty() => {
                    Value::Text(text.to_owned())
                }
                (Some("Binary"), _, Some(encoded)) => {
                    Value::Binary(STANDARD.decode(encoded).map_err(|_| bad())?)
                }
                _ => return Err(bad()),
            };
        attributes.insert(name.clone(), Attribute { kind, value });
    }
    Ok(Outgoing {
        body: text("MessageBody").unwrap_or_default(),
        attributes,
        delay_s: number(request, "DelaySeconds", 0..=900)?,
        group: text("MessageGroupId"),
        deduplication: text("MessageDeduplicationId"),
        trace: request["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"]
            .as_str()
            .map(str::to_owned),
    })
}

/// The checksums that the answer to a sent message has.
pub(super) fn sent_fields(message: &Outgoing) -> Json {
    let mut answer = json!({ "MD5OfMessageBody": format!("{:x}", md5::compute(&message.body)) });
    if !message.attributes.is_empty() {
        answer["MD5OfMessageAttributes"] = json!(attributes_md5(message.attributes.iter()));
    }
    answer
}

/// The answer with the message's names in it.
pub(super) fn named(mut answer: Json, sent: &Sent) -> Json {
    answer["MessageId"] = json!(sent.id);
    if let Some(sequence) = sent.sequence {
        answer["SequenceNumber"] = json!(sequence.to_string());
    }
    answer
}

/// As the SQS Developer Guide describes it: each name, type and value with its length, in the order of names.
fn attributes_md5<'a>(attributes: impl Iterator<Item = (&'a String, &'a Attribute)>) -> String {
    let mut context = md5::Context::new();
    for (name, attribute) in attributes {
        let (sign, value): (u8, &[u8]) = match &attribute.value {
            Value::Text(text) => (1, text.as_bytes()),
            Value::Binary(bytes) => (2, bytes),
        };
        for part in [name.as_bytes(), attribute.kind.as_bytes()] {
            context.consume((part.len() as u32).to_be_bytes());
            context.consume(part);
        }
        context.consume([sign]);
        context.consume((value.len() as u32).to_be_bytes());
        context.consume(value);
    }
    format!("{:x}", context.finalize())
}

/// A received message, with as much of it as the request asks for.
pub(crate) fn delivered(region: &str, request: &Json, delivery: &Delivery) -> Json {
    let message = &delivery.message;
    let mut answer = json!({
        "MessageId": message.id,
        "ReceiptHandle": delivery.receipt,
        "Body": message.sent.body,
        "MD5OfBody": format!("{:x}", md5::compute(&message.sent.body)),
    });
    let names = |key: &str| -> Vec<&str> {
        request[key].as_array().into_iter().flatten().filter_map(Json::as_str).collect()
    };
    let mut asked = names("AttributeNames");
    asked.extend(names("MessageSystemAttributeNames"));
    let mut system: BTreeMap<&str, String> = BTreeMap::new();
    system.insert("SenderId", ACCOUNT.to_owned());
    system.insert("SentTimestamp", message.sent_at_ms.to_string());
    system.insert("ApproximateReceiveCount", message.receives.to_string());
    system.insert(
        "ApproximateFirstReceiveTimestamp",
        message.first_received_ms.unwrap_or(message.sent_at_ms).to_string(),
    );
    system.extend(message.sequence.map(|sequence| ("SequenceNumber", sequence.to_string())));
    system.extend(message.sent.group.clone().map(|group| ("MessageGroupId", group)));
    system.extend(message.sent.deduplication.clone().map(|id| ("MessageDeduplicationId", id)));
    system.extend(message.sent.trace.clone().map(|trace| ("AWSTraceHeader", trace)));
    system
        .extend(message.died_in.as_ref().map(|queue| ("DeadLetterQueueSourceArn", queue_arn(region, queue))));
    if !asked.contains(&"All") {
        system.retain(|name, _| asked.contains(name));
    }
    if !system.is_empty() {
        answer["Attributes"] = json!(system);
    }
    let wanted = names("MessageAttributeNames");
    let wants = |name: &str| {
        wanted.iter().any(|wanted| match wanted.strip_suffix(".*").or(wanted.strip_suffix('*')) {
            Some(prefix) => name.starts_with(prefix),
            None => *wanted == "All" || *wanted == name,
        })
    };
    let shown: Vec<_> = message.sent.attributes.iter().filter(|(name, _)| wants(name)).collect();
    if !shown.is_empty() {
        answer["MD5OfMessageAttributes"] = json!(attributes_md5(shown.iter().copied()));
        let shown = shown.into_iter().map(|(name, attribute)| {
            let value = match &attribute.value {
                Value::Text(text) => json!({ "DataType": attribute.kind, "StringValue": text }),
                Value::Binary(bytes) => {
                    json!({ "DataType": attribute.kind, "BinaryValue": STANDARD.encode(bytes) })
                }
            };
            (name.clone(), value)
        });
        answer["MessageAttributes"] = Json::Object(shown.collect());
    }
    answer
}
