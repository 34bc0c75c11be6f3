//! SQS's JSON protocol (awsJson 1.0, with the codes of the query protocol in `x-amzn-query-error`) over [`Queues`].
//!
//! Queues keep the machine's time, whatever the speed of the region: the programs that poll them live in it.

pub(crate) mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};
use tokio::time::Instant;

use super::region::Region;
use crate::world::ACCOUNT;
use model::{Attribute, Delivery, Outgoing, Queues, Refusal, Value};

/// Messages of one batch, and of one receive (SQS API reference).
const BATCH_MAX: usize = 10;
/// Bytes of one batch (SQS Developer Guide, quotas, since 2025).
const BATCH_BYTES_MAX: usize = 1_048_576;
/// The longest wait of a receive (SQS API reference, ReceiveMessage).
const WAIT_MAX_S: u64 = 20;
/// The longest invisibility (SQS API reference, ChangeMessageVisibility).
const VISIBILITY_MAX_S: u64 = 43_200;

type Answer = Result<Json, Refusal>;

/// One call.
pub(crate) async fn call(region: &Region, action: &str, body: &[u8], host: &str) -> Answer {
    let request: Json = match body.is_empty() {
        true => json!({}),
        false => serde_json::from_slice(body)
            .map_err(|error| Refusal::new("SerializationException", format!("not JSON: {error}")))?,
    };
    if action == "ReceiveMessage" {
        return receive(region, &request).await;
    }
    let looks =
        ["GetQueueUrl", "ListQueues", "GetQueueAttributes", "ListQueueTags", "ListDeadLetterSourceQueues"];
    if looks.contains(&action) {
        return answer(region, action, &request, host, region.real_ms());
    }
    region.change_queues(action, &request, |queues, now_ms| {
        Calls { region, request: &request, host, now_ms }.answer(queues, action)
    })
}

/// A call that does not wait, at its time.
pub(crate) fn answer(region: &Region, action: &str, request: &Json, host: &str, now_ms: u64) -> Answer {
    let mut queues = region.queues();
    if action == "ReceiveMessage" {
        let most = request["MaxNumberOfMessages"].as_u64().unwrap_or(1) as usize;
        let found =
            queues.receive(&queue_name(request)?, most, request["VisibilityTimeout"].as_u64(), now_ms)?;
        return Ok(json!({ "Messages": found.len() }));
    }
    Calls { region, request, host, now_ms }.answer(&mut queues, action)
}

/// A queue's address here.
fn url_of(host: &str, name: &str) -> String {
    format!("http://{host}/{ACCOUNT}/{name}")
}

fn queue_name(request: &Json) -> Result<String, Refusal> {
    let url = request["QueueUrl"].as_str().filter(|url| !url.is_empty());
    let url = url.ok_or_else(|| {
        Refusal::new("MissingParameter", "The request must contain the parameter QueueUrl.")
    })?;
    Ok(url.rsplit('/').next().unwrap_or_default().to_owned())
}

fn texts(json: &Json) -> BTreeMap<String, String> {
    let entries = json.as_object().into_iter().flatten();
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    entries.map(|(key, value)| (key.clone(), text(value))).collect()
}

fn number(request: &Json, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
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

struct Calls<'a> {
    region: &'a Region,
    request: &'a Json,
    host: &'a str,
    now_ms: u64,
}

impl Calls<'_> {
    fn answer(&self, queues: &mut Queues, action: &str) -> Answer {
        let request = self.request;
        let now_ms = self.now_ms;
        match action {
            "CreateQueue" => {
                let name = request["QueueName"].as_str().unwrap_or_default();
                queues.create(name, &texts(&request["Attributes"]), texts(&request["tags"]), now_ms)?;
                Ok(json!({ "QueueUrl": url_of(self.host, name) }))
            }
            "GetQueueUrl" => {
                let name = request["QueueName"].as_str().unwrap_or_default();
                queues.queue(name)?;
                Ok(json!({ "QueueUrl": url_of(self.host, name) }))
            }
            "ListQueues" => {
                let prefix = request["QueueNamePrefix"].as_str().unwrap_or_default();
                let most = number(request, "MaxResults", 1..=1000)?.unwrap_or(1000) as usize;
                let after = request["NextToken"].as_str().unwrap_or_default();
                let mut found = queues.names().filter(|name| name.starts_with(prefix) && *name > after);
                let page: Vec<_> = found.by_ref().take(most).collect();
                let urls: Vec<_> = page.iter().map(|name| url_of(self.host, name)).collect();
                let mut answer = json!({ "QueueUrls": urls });
                if let (Some(last), Some(_)) = (page.last(), found.next()) {
                    answer["NextToken"] = json!(last);
                }
                Ok(answer)
            }
            "DeleteQueue" => queues.delete_queue(&queue_name(request)?).map(|()| json!({})),
            "PurgeQueue" => queues.purge(&queue_name(request)?, now_ms).map(|()| json!({})),
            "GetQueueAttributes" => {
                let name = queue_name(request)?;
                let counts = queues.counts(&name, now_ms)?;
                let queue = queues.queue(&name)?;
                let mut all = queue.attributes.named(|name| self.region.queue_arn(name));
                all.insert("QueueArn".into(), self.region.queue_arn(&name));
                all.insert("CreatedTimestamp".into(), (queue.created_ms / 1000).to_string());
                all.insert("LastModifiedTimestamp".into(), (queue.modified_ms / 1000).to_string());
                all.insert("ApproximateNumberOfMessages".into(), counts.visible.to_string());
                all.insert("ApproximateNumberOfMessagesNotVisible".into(), counts.in_flight.to_string());
                all.insert("ApproximateNumberOfMessagesDelayed".into(), counts.delayed.to_string());
                let asked: Vec<_> = request["AttributeNames"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Json::as_str)
                    .collect();
                if !asked.contains(&"All") {
                    all.retain(|key, _| asked.contains(&key.as_str()));
                }
                Ok(if all.is_empty() { json!({}) } else { json!({ "Attributes": all }) })
            }
            "SetQueueAttributes" => {
                queues.set(&queue_name(request)?, &texts(&request["Attributes"]), now_ms)?;
                Ok(json!({}))
            }
            "TagQueue" => {
                queues.queue_mut(&queue_name(request)?)?.tags.extend(texts(&request["Tags"]));
                Ok(json!({}))
            }
            "UntagQueue" => {
                let keys: Vec<_> =
                    request["TagKeys"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
                let queue = queues.queue_mut(&queue_name(request)?)?;
                queue.tags.retain(|key, _| !keys.contains(&key.as_str()));
                Ok(json!({}))
            }
            "ListQueueTags" => Ok(json!({ "Tags": queues.queue(&queue_name(request)?)?.tags })),
            "ListDeadLetterSourceQueues" => {
                let name = queue_name(request)?;
                queues.queue(&name)?;
                let urls: Vec<_> =
                    queues.sources_of(&name).iter().map(|source| url_of(self.host, source)).collect();
                Ok(json!({ "queueUrls": urls }))
            }
            "SendMessage" => {
                let name = queue_name(request)?;
                let message = outgoing(request)?;
                let answer = sent_fields(&message);
                let sent = queues.send(&name, message, now_ms)?;
                Ok(named(answer, &sent))
            }
            "SendMessageBatch" => {
                let name = queue_name(request)?;
                queues.queue(&name)?;
                let entries = entries(request)?;
                let read: Vec<_> = entries.iter().map(outgoing).collect();
                let bytes: usize = read.iter().flatten().map(model::bytes_of).sum();
                if bytes > BATCH_BYTES_MAX {
                    let message = format!(
                        "Batch requests cannot be longer than {BATCH_BYTES_MAX} bytes. You have sent {bytes} bytes."
                    );
                    return Err(Refusal::new("BatchRequestTooLong", message));
                }
                let mut read = read.into_iter();
                Ok(batch(&entries, |_| {
                    let message = read.next().unwrap_or_else(|| Err(Refusal::bad("no such entry")))?;
                    let answer = sent_fields(&message);
                    queues.send(&name, message, now_ms).map(|sent| named(answer, &sent))
                }))
            }
            "DeleteMessage" => {
                let receipt = request["ReceiptHandle"].as_str().unwrap_or_default();
                queues.delete(&queue_name(request)?, receipt).map(|()| json!({}))
            }
            "DeleteMessageBatch" => {
                let name = queue_name(request)?;
                queues.queue(&name)?;
                Ok(batch(&entries(request)?, |entry| {
                    queues
                        .delete(&name, entry["ReceiptHandle"].as_str().unwrap_or_default())
                        .map(|()| json!({}))
                }))
            }
            "ChangeMessageVisibility" => {
                let name = queue_name(request)?;
                let seconds = number(request, "VisibilityTimeout", 0..=VISIBILITY_MAX_S)?.unwrap_or(0);
                let receipt = request["ReceiptHandle"].as_str().unwrap_or_default();
                queues.change_visibility(&name, receipt, seconds, now_ms).map(|()| json!({}))
            }
            "ChangeMessageVisibilityBatch" => {
                let name = queue_name(request)?;
                queues.queue(&name)?;
                Ok(batch(&entries(request)?, |entry| {
                    let seconds = number(entry, "VisibilityTimeout", 0..=VISIBILITY_MAX_S)?.unwrap_or(0);
                    let receipt = entry["ReceiptHandle"].as_str().unwrap_or_default();
                    queues.change_visibility(&name, receipt, seconds, now_ms).map(|()| json!({}))
                }))
            }
            "StartMessageMoveTask" => {
                let name = |key: &str| {
                    request[key].as_str().and_then(|arn| arn.rsplit(':').next()).map(str::to_owned)
                };
                let from = name("SourceArn")
                    .ok_or_else(|| Refusal::new("MissingParameter", "SourceArn is missing"))?;
                let missing = || {
                    Refusal::new(
                        "ResourceNotFoundException",
                        "The resource that you specified does not exist.",
                    )
                };
                queues.queue(&from).map_err(|_| missing())?;
                if queues.sources_of(&from).is_empty() {
                    return Err(Refusal::bad("Source queue must be configured as a Dead Letter Queue."));
                }
                queues.move_back(&from, name("DestinationArn").as_deref(), now_ms).map_err(|_| missing())?;
                Ok(json!({ "TaskHandle": STANDARD.encode(format!("{from}/{now_ms}")) }))
            }
            "ListMessageMoveTasks" => Ok(json!({ "Results": [] })),
            other => Err(Refusal::new("UnknownOperationException", format!("{other} is not known here"))),
        }
    }
}

fn entries(request: &Json) -> Result<Vec<Json>, Refusal> {
    let entries = request["Entries"].as_array().cloned().unwrap_or_default();
    let ids: BTreeSet<_> = entries.iter().filter_map(|entry| entry["Id"].as_str()).collect();
    let valid = |id: &&str| {
        (1..=80).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match entries.len() {
        0 => Err(Refusal::new("EmptyBatchRequest", "There should be at least one entry in the request.")),
        n if n > BATCH_MAX => Err(Refusal::new(
            "TooManyEntriesInBatchRequest",
            format!("Maximum number of entries per request are {BATCH_MAX}. You have sent {n}."),
        )),
        n if ids.len() < n => {
            Err(Refusal::new("BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id."))
        }
        _ if !ids.iter().all(valid) => Err(Refusal::new(
            "InvalidBatchEntryId",
            "A batch entry id can only contain alphanumeric characters, hyphens and underscores, at most 80.",
        )),
        _ => Ok(entries),
    }
}

fn batch(entries: &[Json], mut one: impl FnMut(&Json) -> Answer) -> Json {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for entry in entries {
        match one(entry) {
            Ok(mut answer) => {
                answer["Id"] = entry["Id"].clone();
                successful.push(answer);
            }
            Err(refusal) => failed.push(json!({
                "Id": entry["Id"],
                "SenderFault": refusal.status < 500,
                "Code": refusal.code,
                "Message": refusal.message,
            })),
        }
    }
    let mut answer = Map::new();
    answer.insert("Successful".into(), Json::Array(successful));
    answer.insert("Failed".into(), Json::Array(failed));
    Json::Object(answer)
}

fn outgoing(request: &Json) -> Result<Outgoing, Refusal> {
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

fn sent_fields(message: &Outgoing) -> Json {
    let mut answer = json!({ "MD5OfMessageBody": format!("{:x}", md5::compute(&message.body)) });
    if !message.attributes.is_empty() {
        answer["MD5OfMessageAttributes"] = json!(attributes_md5(message.attributes.iter()));
    }
    answer
}

fn named(mut answer: Json, sent: &model::Sent) -> Json {
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

async fn receive(region: &Region, request: &Json) -> Answer {
    let name = queue_name(request)?;
    let most = number(request, "MaxNumberOfMessages", 1..=BATCH_MAX as u64)?.unwrap_or(1) as usize;
    let visibility_s = number(request, "VisibilityTimeout", 0..=VISIBILITY_MAX_S)?;
    let wait_s = number(request, "WaitTimeSeconds", 0..=WAIT_MAX_S)?;
    let wait_s = match wait_s {
        Some(wait_s) => wait_s,
        None => region.queues().queue(&name)?.attributes.wait_s,
    };
    let deadline = Instant::now() + Duration::from_secs(wait_s);
    loop {
        let changed = region.queue_bell().notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        let now_ms = region.real_ms();
        let due_ms = {
            let mut queues = region.queues();
            if queues.has_visible(&name, now_ms) {
                region.log_receive(&name, most, visibility_s, now_ms);
            }
            let found = queues.receive(&name, most, visibility_s, now_ms)?;
            if !found.is_empty() {
                let messages: Vec<_> = found.iter().map(|found| delivered(region, request, found)).collect();
                return Ok(json!({ "Messages": messages }));
            }
            queues.next_due_ms(&name, now_ms)
        };
        if Instant::now() >= deadline {
            return Ok(json!({}));
        }
        let due = due_ms.map_or(deadline, |at_ms| {
            deadline.min(Instant::now() + Duration::from_millis(at_ms.saturating_sub(now_ms).max(1)))
        });
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

fn delivered(region: &Region, request: &Json, delivery: &Delivery) -> Json {
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
        .extend(message.died_in.as_ref().map(|queue| ("DeadLetterQueueSourceArn", region.queue_arn(queue))));
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
