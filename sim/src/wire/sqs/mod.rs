//! SQS's JSON protocol (awsJson 1.0, with the codes of the query protocol in `x-amzn-query-error`) over
//! [`Queues`]. Synchronous; `super::queues` adds the region: the log of changes, and the waiting of
//! ReceiveMessage.

mod message;
pub(crate) mod model;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};

use crate::world::ACCOUNT;
pub(crate) use message::{delivered, number, queue_arn};
use message::{named, outgoing, sent_fields};
use model::{Queues, Refusal, is_attribute, unknown_attribute};

/// Messages of one batch, and of one receive (SQS API reference).
pub(crate) const BATCH_MAX: usize = 10;
/// Bytes of one batch (SQS Developer Guide, quotas, since 2025).
const BATCH_BYTES_MAX: usize = 1_048_576;
/// The longest invisibility (SQS API reference, ChangeMessageVisibility).
pub(crate) const VISIBILITY_MAX_S: u64 = 43_200;

/// The answer to a call.
pub(crate) type Answer = Result<Json, Refusal>;

/// The endpoint of a call: URLs and ARNs of queues are made of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    /// The region's name.
    pub(crate) region: &'a str,
    /// The host and port that the client used.
    pub(crate) host: &'a str,
}

impl Endpoint<'_> {
    fn url_of(self, name: &str) -> String {
        format!("http://{}/{ACCOUNT}/{name}", self.host)
    }
}

/// Makes a call at its time. ReceiveMessage does not wait here, and answers only how many messages it found.
pub(crate) fn answer(
    queues: &mut Queues,
    endpoint: Endpoint<'_>,
    action: &str,
    request: &Json,
    now_ms: u64,
) -> Answer {
    let mut call = Call { queues, endpoint, request, now_ms };
    match action {
        "CreateQueue" => call.create(),
        "GetQueueUrl" => call.url(),
        "ListQueues" => call.list(),
        "DeleteQueue" => call.queues.delete_queue(&queue_name(request)?).map(|()| json!({})),
        "PurgeQueue" => call.queues.purge(&queue_name(request)?, now_ms).map(|()| json!({})),
        "GetQueueAttributes" => call.attributes(),
        "SetQueueAttributes" => {
            call.queues.set(&queue_name(request)?, &texts(&request["Attributes"]), now_ms)?;
            Ok(json!({}))
        }
        "TagQueue" => {
            call.queues.tag(&queue_name(request)?, texts(&request["Tags"]))?;
            Ok(json!({}))
        }
        "UntagQueue" => call.untag(),
        "ListQueueTags" => Ok(json!({ "Tags": call.queues.queue(&queue_name(request)?)?.tags })),
        "ListDeadLetterSourceQueues" => call.dead_letter_sources(),
        "SendMessage" => call.send(),
        "SendMessageBatch" => call.send_batch(),
        "ReceiveMessage" => call.receive(),
        "DeleteMessage" => call.delete(),
        "DeleteMessageBatch" => call.delete_batch(),
        "ChangeMessageVisibility" => call.change_visibility(),
        "ChangeMessageVisibilityBatch" => call.change_visibility_batch(),
        "StartMessageMoveTask" => call.move_back(),
        "ListMessageMoveTasks" => Ok(json!({ "Results": [] })),
        other => Err(Refusal::new("UnknownOperationException", format!("{other} is not known here"))),
    }
}

/// The name of the queue that a request is for.
pub(crate) fn queue_name(request: &Json) -> Result<String, Refusal> {
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

/// A call under way.
struct Call<'a> {
    queues: &'a mut Queues,
    endpoint: Endpoint<'a>,
    request: &'a Json,
    now_ms: u64,
}

/// Queues.
impl Call<'_> {
    fn create(&mut self) -> Answer {
        let request = self.request;
        let name = request["QueueName"].as_str().unwrap_or_default();
        self.queues.create(name, &texts(&request["Attributes"]), texts(&request["tags"]), self.now_ms)?;
        Ok(json!({ "QueueUrl": self.endpoint.url_of(name) }))
    }

    fn url(&self) -> Answer {
        let name = self.request["QueueName"].as_str().unwrap_or_default();
        self.queues.queue(name)?;
        Ok(json!({ "QueueUrl": self.endpoint.url_of(name) }))
    }

    fn list(&self) -> Answer {
        let request = self.request;
        let prefix = request["QueueNamePrefix"].as_str().unwrap_or_default();
        let most = number(request, "MaxResults", 1..=1000)?.unwrap_or(1000) as usize;
        let after = request["NextToken"].as_str().unwrap_or_default();
        let mut found = self.queues.names().filter(|name| name.starts_with(prefix) && *name > after);
        let page: Vec<_> = found.by_ref().take(most).collect();
        let urls: Vec<_> = page.iter().map(|name| self.endpoint.url_of(name)).collect();
        let mut answer = json!({ "QueueUrls": urls });
        if let (Some(last), Some(_)) = (page.last(), found.next()) {
            answer["NextToken"] = json!(last);
        }
        Ok(answer)
    }

    fn attributes(&mut self) -> Answer {
        let request = self.request;
        let arn = |name: &str| queue_arn(self.endpoint.region, name);
        let name = queue_name(request)?;
        let counts = self.queues.counts(&name, self.now_ms)?;
        let queue = self.queues.queue(&name)?;
        let mut all = queue.attributes.named(arn);
        all.insert("QueueArn".into(), arn(&name));
        all.insert("CreatedTimestamp".into(), (queue.created_ms / 1000).to_string());
        all.insert("LastModifiedTimestamp".into(), (queue.modified_ms / 1000).to_string());
        all.insert("ApproximateNumberOfMessages".into(), counts.visible.to_string());
        all.insert("ApproximateNumberOfMessagesNotVisible".into(), counts.in_flight.to_string());
        all.insert("ApproximateNumberOfMessagesDelayed".into(), counts.delayed.to_string());
        let asked: Vec<_> =
            request["AttributeNames"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        if let Some(name) = asked.iter().find(|name| **name != "All" && !is_attribute(name)) {
            return Err(unknown_attribute(name));
        }
        if !asked.contains(&"All") {
            all.retain(|key, _| asked.contains(&key.as_str()));
        }
        Ok(if all.is_empty() { json!({}) } else { json!({ "Attributes": all }) })
    }

    fn untag(&mut self) -> Answer {
        let request = self.request;
        let keys: Vec<_> =
            request["TagKeys"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        if keys.is_empty() {
            return Err(Refusal::new("MissingParameter", "The request must contain the parameter TagKeys."));
        }
        let queue = self.queues.queue_mut(&queue_name(request)?)?;
        queue.tags.retain(|key, _| !keys.contains(&key.as_str()));
        Ok(json!({}))
    }
}

/// Messages.
impl Call<'_> {
    fn send(&mut self) -> Answer {
        let name = queue_name(self.request)?;
        let message = outgoing(self.request)?;
        let answer = sent_fields(&message);
        let sent = self.queues.send(&name, message, self.now_ms)?;
        Ok(named(answer, &sent))
    }

    fn send_batch(&mut self) -> Answer {
        let name = queue_name(self.request)?;
        self.queues.queue(&name)?;
        let entries = entries(self.request, "SendMessageBatchRequestEntry")?;
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
            self.queues.send(&name, message, self.now_ms).map(|sent| named(answer, &sent))
        }))
    }

    fn receive(&mut self) -> Answer {
        let request = self.request;
        let most = request["MaxNumberOfMessages"].as_u64().unwrap_or(1) as usize;
        let visibility_s = request["VisibilityTimeout"].as_u64();
        let found = self.queues.receive(&queue_name(request)?, most, visibility_s, self.now_ms)?;
        Ok(json!({ "Messages": found.len() }))
    }

    fn delete(&mut self) -> Answer {
        let receipt = self.request["ReceiptHandle"].as_str().unwrap_or_default();
        self.queues.delete(&queue_name(self.request)?, receipt).map(|()| json!({}))
    }

    fn delete_batch(&mut self) -> Answer {
        let name = queue_name(self.request)?;
        self.queues.queue(&name)?;
        Ok(batch(&entries(self.request, "DeleteMessageBatchRequestEntry")?, |entry| {
            let receipt = entry["ReceiptHandle"].as_str().unwrap_or_default();
            self.queues.delete(&name, receipt).map(|()| json!({}))
        }))
    }

    fn change_visibility(&mut self) -> Answer {
        let name = queue_name(self.request)?;
        self.change_visibility_of(&name, self.request)
    }

    fn change_visibility_batch(&mut self) -> Answer {
        let name = queue_name(self.request)?;
        self.queues.queue(&name)?;
        let entries = entries(self.request, "ChangeMessageVisibilityBatchRequestEntry")?;
        Ok(batch(&entries, |entry| self.change_visibility_of(&name, entry)))
    }

    fn change_visibility_of(&mut self, name: &str, entry: &Json) -> Answer {
        let seconds = number(entry, "VisibilityTimeout", 0..=VISIBILITY_MAX_S)?.unwrap_or(0);
        let receipt = entry["ReceiptHandle"].as_str().unwrap_or_default();
        self.queues.change_visibility(name, receipt, seconds, self.now_ms).map(|()| json!({}))
    }
}

/// Dead-inbox entry queues.
impl Call<'_> {
    fn dead_letter_sources(&self) -> Answer {
        let name = queue_name(self.request)?;
        self.queues.queue(&name)?;
        let sources = self.queues.sources_of(&name);
        let urls: Vec<_> = sources.iter().map(|source| self.endpoint.url_of(source)).collect();
        Ok(json!({ "queueUrls": urls }))
    }

    fn move_back(&mut self) -> Answer {
        let name =
            |key: &str| self.request[key].as_str().and_then(|arn| arn.rsplit(':').next()).map(str::to_owned);
        let from =
            name("SourceArn").ok_or_else(|| Refusal::new("MissingParameter", "SourceArn is missing"))?;
        let missing = || {
            let message = "The resource that you specified does not exist.";
            Refusal::new("ResourceNotFoundException", message)
        };
        self.queues.queue(&from).map_err(|_| missing())?;
        if self.queues.sources_of(&from).is_empty() {
            return Err(Refusal::bad("Source queue must be configured as a Dead Letter Queue."));
        }
        let now_ms = self.now_ms;
        let to = name("DestinationArn");
        self.queues.move_back(&from, to.as_deref(), now_ms).map_err(|_| missing())?;
        Ok(json!({ "TaskHandle": STANDARD.encode(format!("{from}/{now_ms}")) }))
    }
}

/// The entries of a batch, of a kind that an empty one names.
fn entries(request: &Json, kind: &str) -> Result<Vec<Json>, Refusal> {
    let entries = request["Entries"].as_array().cloned().unwrap_or_default();
    let ids: BTreeSet<_> = entries.iter().filter_map(|entry| entry["Id"].as_str()).collect();
    let valid = |id: &&str| {
        (1..=80).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match entries.len() {
        0 => {
            let message = format!("There should be at least one {kind} in the request.");
            Err(Refusal::new("EmptyBatchRequest", message))
        }
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
