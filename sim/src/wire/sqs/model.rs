//! Queues: the messages that SQS keeps, and the times at which they are visible. Synchronous; time is an
//! argument.
//!
//! Standard queues deliver in the order in which messages become visible, each once; SQS promises less, and
//! [`Trouble`] makes the duplicates and the disorder that it allows. FIFO queues hold a group back while any
//! of its messages is in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

/// Messages in one queue (a bound of this model; SQS has none).
const MESSAGES_MAX: usize = 200_000;
/// Messages in flight in one queue (SQS Developer Guide, quotas).
const IN_FLIGHT_MAX: usize = 120_000;
/// Queues (a bound of this model).
const QUEUES_MAX: usize = 10_000;
/// How long a deduplication id is remembered (SQS Developer Guide).
const DEDUPLICATION_MS: u64 = 300_000;
/// How much later a duplicate comes, or a message that is overtaken (guess; SQS names no bound).
const OVERTAKEN_MAX_MS: u64 = 3_000;
/// Between two purges of a queue (SQS API reference, PurgeQueue).
const PURGE_PAUSE_MS: u64 = 60_000;

/// A refusal, by SQS's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The shape's name, such as `QueueDoesNotExist`.
    pub(crate) shape: &'static str,
    /// The older code that clients of the query protocol knew.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) status: u16,
}

impl Refusal {
    pub(crate) fn new(shape: &'static str, message: impl Into<String>) -> Self {
        let code = match shape {
            "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue",
            "QueueNameExists" => "QueueAlreadyExists",
            "PurgeQueueInProgress" => "AWS.SimpleQueueService.PurgeQueueInProgress",
            "TooManyEntriesInBatchRequest" => "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            "EmptyBatchRequest" => "AWS.SimpleQueueService.EmptyBatchRequest",
            "BatchEntryIdsNotDistinct" => "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "BatchRequestTooLong" => "AWS.SimpleQueueService.BatchRequestTooLong",
            "InvalidBatchEntryId" => "AWS.SimpleQueueService.InvalidBatchEntryId",
            "MessageNotInflight" => "AWS.SimpleQueueService.MessageNotInflight",
            "UnsupportedOperation" => "AWS.SimpleQueueService.UnsupportedOperation",
            "OverLimit" => "OverLimit",
            other => other,
        };
        Self { shape, code, message: message.into(), status: 400 }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    pub(crate) fn no_queue() -> Self {
        Self::new("QueueDoesNotExist", "The specified queue does not exist.")
    }
}

/// A message attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attribute {
    pub(crate) kind: String,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    Text(String),
    Binary(Vec<u8>),
}

/// A message to send.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, Attribute>,
    pub(crate) delay_s: Option<u64>,
    pub(crate) group: Option<String>,
    pub(crate) deduplication: Option<String>,
    pub(crate) trace: Option<String>,
}

/// The answer to a send.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) sequence: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) sent: Outgoing,
    pub(crate) sent_at_ms: u64,
    pub(crate) first_received_ms: Option<u64>,
    pub(crate) receives: u32,
    pub(crate) sequence: Option<u64>,
    /// The queue it died in, when it came from one.
    pub(crate) died_in: Option<String>,
    visible_at_ms: u64,
    in_flight: bool,
}

/// One delivery.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) receipt: String,
}

/// The attributes of a queue that this model acts on, with SQS's defaults and bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub(crate) visibility_s: u64,
    pub(crate) retention_s: u64,
    pub(crate) delay_s: u64,
    pub(crate) wait_s: u64,
    pub(crate) message_bytes_max: usize,
    pub(crate) content_based: bool,
    pub(crate) fifo: bool,
    /// The dead-letter queue's name, and after how many receives.
    pub(crate) redrive: Option<(String, u32)>,
    /// Kept and shown, nothing more: policies and the like.
    pub(crate) others: BTreeMap<String, String>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            visibility_s: 30,
            retention_s: 345_600,
            delay_s: 0,
            wait_s: 0,
            message_bytes_max: 1_048_576,
            content_based: false,
            fifo: false,
            redrive: None,
            others: BTreeMap::new(),
        }
    }
}

impl Attributes {
    /// Sets one by its name.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let invalid =
            || Refusal::new("InvalidAttributeValue", format!("Invalid value for the parameter {name}."));
        let number = |range: std::ops::RangeInclusive<u64>| {
            value.parse().ok().filter(|number| range.contains(number)).ok_or_else(invalid)
        };
        let flag = || value.parse::<bool>().map_err(|_| invalid());
        match name {
            "VisibilityTimeout" => self.visibility_s = number(0..=43_200)?,
            "MessageRetentionPeriod" => self.retention_s = number(60..=1_209_600)?,
            "DelaySeconds" => self.delay_s = number(0..=900)?,
            "ReceiveMessageWaitTimeSeconds" => self.wait_s = number(0..=20)?,
            "MaximumMessageSize" => {
                self.message_bytes_max =
                    usize::try_from(number(1_024..=1_048_576)?).map_err(|_| invalid())?;
            }
            "ContentBasedDeduplication" => self.content_based = flag()?,
            "FifoQueue" => self.fifo = flag()?,
            "RedrivePolicy" if value.is_empty() => self.redrive = None,
            "RedrivePolicy" => {
                let policy: serde_json::Value = serde_json::from_str(value).map_err(|_| invalid())?;
                let target = policy["deadLetterTargetArn"].as_str().ok_or_else(invalid)?;
                let queue = target.rsplit(':').next().unwrap_or_default().to_owned();
                // Clients write the number as a text, too.
                let most = &policy["maxReceiveCount"];
                let most = most.as_u64().or_else(|| most.as_str()?.parse().ok());
                let most = most.filter(|most| (1..=1000).contains(most)).ok_or_else(invalid)?;
                self.redrive = Some((queue, most as u32));
            }
            "DeduplicationScope" if !matches!(value, "queue" | "messageGroup") => return Err(invalid()),
            "FifoThroughputLimit" if !matches!(value, "perQueue" | "perMessageGroupId") => {
                return Err(invalid());
            }
            "Policy" | "RedriveAllowPolicy"
                if !value.is_empty()
                    && !serde_json::from_str::<serde_json::Value>(value)
                        .is_ok_and(|policy| policy.is_object()) =>
            {
                return Err(invalid());
            }
            "Policy"
            | "RedriveAllowPolicy"
            | "KmsMasterKeyId"
            | "KmsDataKeyReusePeriodSeconds"
            | "SqsManagedSseEnabled"
            | "DeduplicationScope"
            | "FifoThroughputLimit" => {
                // An empty one goes away.
                match value.is_empty() {
                    true => self.others.remove(name),
                    false => self.others.insert(name.to_owned(), value.to_owned()),
                };
            }
            _ => return Err(unknown_attribute(name)),
        }
        Ok(())
    }

    /// Sets several, which must fit together.
    fn set_all(&mut self, wanted: &BTreeMap<String, String>) -> Result<(), Refusal> {
        for (name, value) in wanted {
            self.set(name, value)?;
        }
        // Those of FIFO queues are none of standard queues.
        if let Some(name) = wanted.keys().find(|name| OF_FIFO.contains(&name.as_str()))
            && !self.fifo
        {
            return Err(unknown_attribute(name));
        }
        let is = |name: &str, value: &str| self.others.get(name).is_some_and(|found| found == value);
        if is("FifoThroughputLimit", "perMessageGroupId") && !is("DeduplicationScope", "messageGroup") {
            return Err(Refusal::new(
                "InvalidAttributeValue",
                "The perMessageGroupId value is allowed only when the value for DeduplicationScope is messageGroup.",
            ));
        }
        Ok(())
    }

    /// What a message must share with an earlier one to be its duplicate, beside the id.
    fn scope_of(&self, message: &Outgoing) -> String {
        let is_by_group = self.others.get("DeduplicationScope").is_some_and(|scope| scope == "messageGroup");
        message.group.clone().filter(|_| is_by_group).unwrap_or_default()
    }

    /// All by their names, as texts.
    pub(crate) fn named(&self, arn_of: impl Fn(&str) -> String) -> BTreeMap<String, String> {
        let mut named = self.others.clone();
        named.insert("VisibilityTimeout".into(), self.visibility_s.to_string());
        named.insert("MessageRetentionPeriod".into(), self.retention_s.to_string());
        named.insert("DelaySeconds".into(), self.delay_s.to_string());
        named.insert("ReceiveMessageWaitTimeSeconds".into(), self.wait_s.to_string());
        named.insert("MaximumMessageSize".into(), self.message_bytes_max.to_string());
        if self.fifo {
            named.insert("FifoQueue".into(), "true".into());
            named.insert("ContentBasedDeduplication".into(), self.content_based.to_string());
            named.entry("DeduplicationScope".into()).or_insert_with(|| "queue".into());
            named.entry("FifoThroughputLimit".into()).or_insert_with(|| "perQueue".into());
        }
        if let Some((queue, most)) = &self.redrive {
            let policy = serde_json::json!({ "deadLetterTargetArn": arn_of(queue), "maxReceiveCount": most });
            named.insert("RedrivePolicy".into(), policy.to_string());
        }
        named.entry("SqsManagedSseEnabled".into()).or_insert_with(|| "true".into());
        named
    }
}

/// The attributes that only FIFO queues have.
const OF_FIFO: [&str; 4] =
    ["FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"];

/// Attributes that queues have and that nothing sets.
const OF_ALL: [&str; 6] = [
    "QueueArn",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
];

pub(crate) fn unknown_attribute(name: &str) -> Refusal {
    Refusal::new("InvalidAttributeName", format!("Unknown Attribute {name}."))
}

/// Whether a queue may have an attribute of this name.
pub(crate) fn is_attribute(name: &str) -> bool {
    OF_ALL.contains(&name)
        || !matches!(Attributes::default().set(name, ""), Err(refusal) if refusal.shape == "InvalidAttributeName")
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Group {
    /// By sequence.
    messages: BTreeSet<u64>,
    /// By the end of their invisibility.
    in_flight: BTreeSet<(u64, u64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) attributes: Attributes,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) created_ms: u64,
    pub(crate) modified_ms: u64,
    messages: BTreeMap<u64, Message>,
    /// Standard queues: when each message is visible next.
    order: BTreeSet<(u64, u64)>,
    groups: BTreeMap<String, Group>,
    /// The answers to deduplication ids, and the order in which they came.
    seen: BTreeMap<String, (u64, Sent)>,
    seen_order: VecDeque<(u64, String)>,
    serial: u64,
    purged_ms: Option<u64>,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) visible: usize,
    pub(crate) in_flight: usize,
    pub(crate) delayed: usize,
}

impl Queue {
    fn new(name: &str, attributes: Attributes, now_ms: u64) -> Self {
        Self {
            name: name.to_owned(),
            attributes,
            tags: BTreeMap::new(),
            created_ms: now_ms,
            modified_ms: now_ms,
            messages: BTreeMap::new(),
            order: BTreeSet::new(),
            groups: BTreeMap::new(),
            seen: BTreeMap::new(),
            seen_order: VecDeque::new(),
            serial: 0,
            purged_ms: None,
        }
    }

    /// Removes messages older than the retention. Messages are kept in the order of sending.
    fn expire(&mut self, now_ms: u64) {
        let oldest = now_ms.saturating_sub(self.attributes.retention_s * 1000);
        while let Some((serial, message)) = self.messages.first_key_value() {
            if message.sent_at_ms > oldest {
                break;
            }
            let serial = *serial;
            self.remove(serial);
        }
    }

    fn remove(&mut self, serial: u64) -> Option<Message> {
        let message = self.messages.remove(&serial)?;
        self.order.remove(&(message.visible_at_ms, serial));
        if let Some(name) = message.sent.group.as_ref().filter(|_| self.attributes.fifo)
            && let Some(group) = self.groups.get_mut(name)
        {
            group.messages.remove(&serial);
            group.in_flight.remove(&(message.visible_at_ms, serial));
            if group.messages.is_empty() {
                self.groups.remove(name);
            }
        }
        Some(message)
    }

    fn insert(&mut self, message: Message) {
        self.serial += 1;
        let serial = self.serial;
        if self.attributes.fifo {
            let group = message.sent.group.clone().unwrap_or_default();
            self.groups.entry(group).or_default().messages.insert(serial);
        }
        self.order.insert((message.visible_at_ms, serial));
        self.messages.insert(serial, message);
    }

    /// Changes when a message is visible next.
    fn hide(&mut self, serial: u64, until_ms: u64, in_flight: bool) {
        let Some(message) = self.messages.get_mut(&serial) else { return };
        let before = (message.visible_at_ms, serial);
        message.visible_at_ms = until_ms;
        message.in_flight = in_flight;
        self.order.remove(&before);
        self.order.insert((until_ms, serial));
        if let Some(name) = message.sent.group.as_ref().filter(|_| self.attributes.fifo)
            && let Some(group) = self.groups.get_mut(name)
        {
            group.in_flight.remove(&before);
            if in_flight {
                group.in_flight.insert((until_ms, serial));
            }
        }
    }

    fn counts(&self, now_ms: u64) -> Counts {
        let mut counts = Counts { visible: self.order.range(..(now_ms + 1, 0)).count(), ..Counts::default() };
        for (_, serial) in self.order.range((now_ms + 1, 0)..) {
            if self.messages.get(serial).is_some_and(|message| message.in_flight) {
                counts.in_flight += 1;
            } else {
                counts.delayed += 1;
            }
        }
        counts
    }

    /// The next messages to deliver.
    fn candidates(&self, now_ms: u64, most: usize) -> Vec<u64> {
        if !self.attributes.fifo {
            return self.order.range(..(now_ms + 1, 0)).take(most).map(|(_, serial)| *serial).collect();
        }
        let mut heads: Vec<_> = self
            .groups
            .values()
            .filter(|group| group.in_flight.last().is_none_or(|(until, _)| *until <= now_ms))
            .filter_map(|group| Some((*group.messages.first()?, group)))
            .collect();
        heads.sort_by_key(|(head, _)| *head);
        let mut found = Vec::new();
        for (_, group) in heads {
            for serial in &group.messages {
                let visible =
                    self.messages.get(serial).is_some_and(|message| message.visible_at_ms <= now_ms);
                if found.len() == most || !visible {
                    break;
                }
                found.push(*serial);
            }
        }
        found
    }

    fn in_flight_count(&self, now_ms: u64) -> usize {
        let hidden = self.order.range((now_ms + 1, 0)..);
        hidden.filter(|(_, serial)| self.messages.get(serial).is_some_and(|m| m.in_flight)).count()
    }
}

/// Duplicates and disorder, which SQS allows in standard queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// Of a thousand messages sent, so many are there twice: the other one a little later, and deleted on its
    /// own.
    #[serde(default)]
    pub duplicate_per_mille: u16,
    /// Of a thousand, so many are overtaken by later ones.
    #[serde(default)]
    pub disorder_per_mille: u16,
}

impl Trouble {
    /// Refuses impossible chances.
    pub(crate) fn checked(self) -> Result<Self, String> {
        match self.duplicate_per_mille.max(self.disorder_per_mille) {
            ..=1000 => Ok(self),
            _ => Err("at most 1000 per mille".to_owned()),
        }
    }
}

/// All queues of a region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Queues {
    pub(crate) trouble: Trouble,
    queues: BTreeMap<String, Queue>,
    #[serde(with = "crate::world::seeded")]
    rng: fastrand::Rng,
    sequence: u64,
}

impl Queues {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            trouble: Trouble::default(),
            queues: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed ^ 0x5153),
            sequence: 18_000_000_000_000_000_000,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.queues.keys().map(String::as_str)
    }

    pub(crate) fn queue(&self, name: &str) -> Result<&Queue, Refusal> {
        self.queues.get(name).ok_or_else(Refusal::no_queue)
    }

    pub(crate) fn queue_mut(&mut self, name: &str) -> Result<&mut Queue, Refusal> {
        self.queues.get_mut(name).ok_or_else(Refusal::no_queue)
    }

    /// Makes a queue; again with the attributes it has is a success.
    pub(crate) fn create(
        &mut self,
        name: &str,
        wanted: &BTreeMap<String, String>,
        tags: BTreeMap<String, String>,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let mut attributes = Attributes::default();
        attributes.set_all(wanted)?;
        check_tags(name, &tags)?;
        let fine = (1..=80).contains(&name.len())
            && name
                .trim_end_matches(".fifo")
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !fine || attributes.fifo != name.ends_with(".fifo") {
            return Err(Refusal::bad(match attributes.fifo {
                true => {
                    "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo suffix and be 1 to 80 in length."
                }
                false => {
                    "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
                }
            }));
        }
        self.check_redrive(&attributes, wanted)?;
        if let Some(known) = self.queues.get(name) {
            let arn = |queue: &str| format!("arn:aws:sqs::{queue}");
            let has = known.attributes.named(arn);
            let asked = attributes.named(arn);
            let differs = wanted.keys().any(|key| has.get(key) != asked.get(key));
            if differs {
                let message =
                    "A queue already exists with the same name and a different value for attribute(s)";
                return Err(Refusal::new("QueueNameExists", message));
            }
            return Ok(());
        }
        if self.queues.len() >= QUEUES_MAX {
            return Err(Refusal::new("OverLimit", format!("this region has {QUEUES_MAX} queues at most")));
        }
        let mut queue = Queue::new(name, attributes, now_ms);
        queue.tags = tags;
        self.queues.insert(name.to_owned(), queue);
        Ok(())
    }

    pub(crate) fn set(
        &mut self,
        name: &str,
        wanted: &BTreeMap<String, String>,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let mut attributes = self.queue(name)?.attributes.clone();
        // It is what it was made as.
        if wanted.contains_key("FifoQueue") {
            return Err(unknown_attribute("FifoQueue"));
        }
        attributes.set_all(wanted)?;
        self.check_redrive(&attributes, wanted)?;
        let queue = self.queue_mut(name)?;
        queue.attributes = attributes;
        queue.modified_ms = now_ms;
        Ok(())
    }

    /// A dead-letter queue is there before its source, and of the same type (SQS Developer Guide).
    fn check_redrive(
        &self,
        attributes: &Attributes,
        wanted: &BTreeMap<String, String>,
    ) -> Result<(), Refusal> {
        let (Some(policy), Some((target, _))) = (wanted.get("RedrivePolicy"), &attributes.redrive) else {
            return Ok(());
        };
        let refuse = |reason: &str| {
            let message = format!("Value {policy} for parameter RedrivePolicy is invalid. Reason: {reason}");
            Err(Refusal::bad(message))
        };
        match self.queues.get(target) {
            None => refuse("Dead letter target does not exist."),
            Some(target) if target.attributes.fifo != attributes.fifo => {
                refuse("Dead-letter queue must be same type of queue as the source.")
            }
            Some(_) => Ok(()),
        }
    }

    /// Adds tags to a queue.
    pub(crate) fn tag(&mut self, name: &str, tags: BTreeMap<String, String>) -> Result<(), Refusal> {
        let queue = self.queue_mut(name)?;
        if tags.is_empty() {
            return Err(Refusal::new("MissingParameter", "The request must contain the parameter Tags."));
        }
        let mut all = queue.tags.clone();
        all.extend(tags);
        check_tags(name, &all)?;
        queue.tags = all;
        Ok(())
    }

    pub(crate) fn delete_queue(&mut self, name: &str) -> Result<(), Refusal> {
        self.queues.remove(name).map(drop).ok_or_else(Refusal::no_queue)
    }

    pub(crate) fn purge(&mut self, name: &str, now_ms: u64) -> Result<(), Refusal> {
        let queue = self.queue_mut(name)?;
        if queue.purged_ms.is_some_and(|last| now_ms < last + PURGE_PAUSE_MS) {
            let message = format!("Only one PurgeQueue operation on {name} is allowed every 60 seconds.");
            return Err(Refusal::new("PurgeQueueInProgress", message));
        }
        queue.purged_ms = Some(now_ms);
        queue.messages.clear();
        queue.order.clear();
        queue.groups.clear();
        Ok(())
    }

    pub(crate) fn counts(&mut self, name: &str, now_ms: u64) -> Result<Counts, Refusal> {
        let queue = self.queue_mut(name)?;
        queue.expire(now_ms);
        Ok(queue.counts(now_ms))
    }

    pub(crate) fn sources_of(&self, dead_letters: &str) -> Vec<String> {
        let sources = self.queues.values().filter(|queue| {
            queue.attributes.redrive.as_ref().is_some_and(|(target, _)| target == dead_letters)
        });
        sources.map(|queue| queue.name.clone()).collect()
    }

    /// How much later a message is there, and how much after that once more.
    fn disturbed(&mut self) -> (u64, Option<u64>) {
        let Trouble { duplicate_per_mille, disorder_per_mille } = self.trouble;
        let mut strikes = |per_mille: u16| per_mille > 0 && self.rng.u16(0..1000) < per_mille;
        let (later, twice) = (strikes(disorder_per_mille), strikes(duplicate_per_mille));
        let mut span = |from: u64| self.rng.u64(from..=OVERTAKEN_MAX_MS);
        (if later { span(1) } else { 0 }, twice.then(|| span(0)))
    }

    pub(crate) fn send(&mut self, name: &str, mut message: Outgoing, now_ms: u64) -> Result<Sent, Refusal> {
        let id = uuid(&mut self.rng);
        let next = self.sequence + 1;
        let (overtaken_ms, twice_ms) = self.disturbed();
        let queue = self.queue_mut(name)?;
        queue.expire(now_ms);
        check(&message, &queue.attributes)?;
        if queue.messages.len() >= MESSAGES_MAX {
            let mut refusal =
                Refusal::new("OverLimit", format!("this region keeps {MESSAGES_MAX} messages a queue"));
            refusal.status = 503;
            return Err(refusal);
        }
        let mut sequence = None;
        if queue.attributes.fifo {
            if message.deduplication.is_none() {
                if !queue.attributes.content_based {
                    return Err(Refusal::bad(
                        "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly",
                    ));
                }
                message.deduplication = Some(digest(&message.body));
            }
            let mut key = message.deduplication.clone().unwrap_or_default();
            let scope = queue.attributes.scope_of(&message);
            if !scope.is_empty() {
                key = format!("{scope}\n{key}");
            }
            while let Some((at, _)) = queue.seen_order.front()
                && at + DEDUPLICATION_MS <= now_ms
            {
                let (at, old) = queue.seen_order.pop_front().unwrap_or_default();
                if queue.seen.get(&old).is_some_and(|(seen_at, _)| *seen_at == at) {
                    queue.seen.remove(&old);
                }
            }
            if let Some((_, first)) = queue.seen.get(&key) {
                return Ok(first.clone());
            }
            let sent = Sent { id: id.clone(), sequence: Some(next) };
            queue.seen.insert(key.clone(), (now_ms, sent));
            queue.seen_order.push_back((now_ms, key));
            sequence = Some(next);
        }
        let delay_s = message.delay_s.unwrap_or(queue.attributes.delay_s);
        let mut message = Message {
            id: id.clone(),
            sent: message,
            sent_at_ms: now_ms,
            first_received_ms: None,
            receives: 0,
            sequence,
            died_in: None,
            visible_at_ms: now_ms + delay_s * 1000,
            in_flight: false,
        };
        if !queue.attributes.fifo {
            message.visible_at_ms += overtaken_ms;
            if let Some(later_ms) = twice_ms {
                let visible_at_ms = message.visible_at_ms + later_ms;
                queue.insert(Message { visible_at_ms, ..message.clone() });
            }
        }
        queue.insert(message);
        self.sequence = next;
        Ok(Sent { id, sequence })
    }

    /// Receives visible messages. Those received too often go to the dead-letter queue instead.
    pub(crate) fn receive(
        &mut self,
        name: &str,
        most: usize,
        visibility_s: Option<u64>,
        now_ms: u64,
    ) -> Result<Vec<Delivery>, Refusal> {
        let queue = self.queue_mut(name)?;
        queue.expire(now_ms);
        let visibility_ms = visibility_s.unwrap_or(queue.attributes.visibility_s) * 1000;
        let (mut delivered, mut dead) = (Vec::new(), Vec::new());
        while delivered.len() < most {
            let found = queue.candidates(now_ms, most - delivered.len());
            let mut gave_up = false;
            for serial in found {
                let too_often = queue.attributes.redrive.as_ref().is_some_and(|(_, limit)| {
                    queue.messages.get(&serial).is_some_and(|m| m.receives >= *limit)
                });
                if too_often {
                    dead.extend(queue.remove(serial));
                    gave_up = true;
                    continue;
                }
                queue.hide(serial, now_ms + visibility_ms, visibility_ms > 0);
                let Some(message) = queue.messages.get_mut(&serial) else { continue };
                message.receives += 1;
                message.first_received_ms.get_or_insert(now_ms);
                let receipt = receipt(name, &message.id, serial, message.receives);
                delivered.push(Delivery { message: message.clone(), receipt });
            }
            // A message that is visible at once again must not be met twice in one receive.
            if !gave_up || visibility_ms == 0 {
                break;
            }
        }
        if !delivered.is_empty() && queue.in_flight_count(now_ms) > IN_FLIGHT_MAX {
            for delivery in &delivered {
                if let Some((_, serial, _)) = opened(&delivery.receipt) {
                    queue.hide(serial, now_ms, false);
                }
            }
            return Err(Refusal::new("OverLimit", "Too many messages are in flight"));
        }
        if !dead.is_empty() {
            let target =
                queue.attributes.redrive.as_ref().map(|(target, _)| target.clone()).unwrap_or_default();
            for mut message in dead {
                message.died_in = Some(name.to_owned());
                message.visible_at_ms = now_ms;
                message.in_flight = false;
                // When the dead-letter queue is missing, SQS keeps trying; here the message goes back into
                // its queue.
                match self.queues.get_mut(&target) {
                    Some(target) => target.insert(message),
                    None => {
                        if let Some(queue) = self.queues.get_mut(name) {
                            queue.insert(message);
                        }
                    }
                }
            }
        }
        Ok(delivered)
    }

    /// Whether a receive now would change anything.
    pub(crate) fn has_visible(&self, name: &str, now_ms: u64) -> bool {
        self.queues.get(name).is_some_and(|queue| !queue.candidates(now_ms, 1).is_empty())
    }

    /// When something becomes visible by itself, if nothing is visible now.
    pub(crate) fn next_due_ms(&self, name: &str, now_ms: u64) -> Option<u64> {
        self.queues.get(name)?.order.range((now_ms + 1, 0)..).next().map(|(at, _)| *at)
    }

    /// Deletes by receipt. One that is older than the newest delivery succeeds without effect, as documented.
    pub(crate) fn delete(&mut self, name: &str, receipt: &str) -> Result<(), Refusal> {
        let queue = self.queue_mut(name)?;
        let (id, serial, receives) = read_receipt(name, receipt)?;
        if queue.messages.get(&serial).is_some_and(|m| m.id == id && m.receives == receives) {
            queue.remove(serial);
        }
        Ok(())
    }

    pub(crate) fn change_visibility(
        &mut self,
        name: &str,
        receipt: &str,
        seconds: u64,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let queue = self.queue_mut(name)?;
        let (id, serial, receives) = read_receipt(name, receipt)?;
        // Only the newest delivery's receipt is good (SQS Developer Guide, "Queue and message identifiers").
        let newest = |message: &&Message| message.id == id && message.receives == receives;
        let Some(message) = queue.messages.get(&serial).filter(newest) else {
            return Err(Refusal::bad(format!(
                "Value {receipt} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change."
            )));
        };
        if !message.in_flight || message.visible_at_ms <= now_ms {
            return Err(Refusal::new("MessageNotInflight", "The specified message isn't in flight."));
        }
        queue.hide(serial, now_ms + seconds * 1000, seconds > 0);
        Ok(())
    }

    /// Moves everything visible from a dead-letter queue back to where it came from, or to one queue. At
    /// once, where SQS takes its time. Gives the number moved.
    pub(crate) fn move_back(&mut self, from: &str, to: Option<&str>, now_ms: u64) -> Result<usize, Refusal> {
        let serials: Vec<_> =
            self.queue(from)?.order.range(..(now_ms + 1, 0)).map(|(_, serial)| *serial).collect();
        if let Some(to) = to {
            self.queue(to)?;
        }
        let mut moved = 0;
        for serial in serials {
            let Some(message) = self.queues.get(from).and_then(|queue| queue.messages.get(&serial)) else {
                continue;
            };
            let target = to.map(str::to_owned).or_else(|| message.died_in.clone());
            let Some(target) = target.filter(|target| self.queues.contains_key(target)) else { continue };
            let Some(mut message) = self.queues.get_mut(from).and_then(|queue| queue.remove(serial)) else {
                continue;
            };
            message.receives = 0;
            message.first_received_ms = None;
            message.died_in = None;
            message.visible_at_ms = now_ms;
            if let Some(queue) = self.queues.get_mut(&target) {
                queue.insert(message);
                moved += 1;
            }
        }
        Ok(moved)
    }
}

fn check(message: &Outgoing, queue: &Attributes) -> Result<(), Refusal> {
    if message.body.is_empty() {
        return Err(Refusal::new("MissingParameter", "The request must contain the parameter MessageBody."));
    }
    let bytes = bytes_of(message);
    if bytes > queue.message_bytes_max {
        return Err(Refusal::bad(format!(
            "One or more parameters are invalid. Reason: Message must be shorter than {} bytes.",
            queue.message_bytes_max
        )));
    }
    // Characters that XML 1.0 cannot carry (SQS API reference, SendMessage).
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if !message.body.chars().all(allowed) {
        return Err(Refusal::new(
            "InvalidMessageContents",
            "The message contains characters outside the allowed set.",
        ));
    }
    if let Some(name) = message.attributes.keys().find(|name| !is_attribute_name(name)) {
        return Err(Refusal::bad(format!(
            "Message attribute name '{name}' is invalid: it can contain letters, digits, hyphens, underscores and periods, at most 256, does not start or end with a period or have two in succession, and does not start with AWS. or Amazon."
        )));
    }
    if message.attributes.len() > 10 {
        return Err(Refusal::bad("Number of message attributes exceeds the allowed maximum [10]."));
    }
    if message.delay_s.is_some_and(|delay| delay > 900) {
        return Err(Refusal::bad("DelaySeconds must be >= 0 and <= 900."));
    }
    if queue.fifo {
        if message.group.is_none() {
            return Err(Refusal::new(
                "MissingParameter",
                "The request must contain the parameter MessageGroupId.",
            ));
        }
        if message.delay_s.is_some_and(|delay| delay > 0) {
            let delay_s = message.delay_s.unwrap_or_default();
            return Err(Refusal::bad(format!(
                "Value {delay_s} for parameter DelaySeconds is invalid. Reason: The request include parameter that is not valid for this queue type."
            )));
        }
    } else if message.deduplication.is_some() {
        return Err(Refusal::bad("MessageDeduplicationId is only valid for FIFO queues"));
    }
    Ok(())
}

/// The bytes that count against the limits: body, and the names, types and values of attributes.
pub(crate) fn bytes_of(message: &Outgoing) -> usize {
    let attributes = message.attributes.iter().map(|(name, attribute)| {
        let value = match &attribute.value {
            Value::Text(text) => text.len(),
            Value::Binary(bytes) => bytes.len(),
        };
        name.len() + attribute.kind.len() + value
    });
    message.body.len() + attributes.sum::<usize>()
}

fn receipt(queue: &str, id: &str, serial: u64, receives: u32) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{queue}/{id}/{serial}/{receives}"))
}

fn opened(receipt: &str) -> Option<((String, String), u64, u32)> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(receipt).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let mut parts = text.split('/');
    let (queue, id) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(((queue, id), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn read_receipt(name: &str, receipt: &str) -> Result<(String, u64, u32), Refusal> {
    match opened(receipt) {
        Some(((queue, id), serial, receives)) if queue == name => Ok((id, serial, receives)),
        _ => Err(Refusal::new(
            "ReceiptHandleIsInvalid",
            format!(
                "The input receipt handle \"{}\" is not a valid receipt handle.",
                receipt.chars().take(80).collect::<String>()
            ),
        )),
    }
}

pub(crate) fn uuid(rng: &mut fastrand::Rng) -> String {
    let hex = format!("{:032x}", rng.u128(..));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The deduplication id of a message that has none (SQS Developer Guide, ContentBasedDeduplication).
fn digest(text: &str) -> String {
    use std::fmt::Write as _;

    use sha2::Digest as _;
    sha2::Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A message attribute's name (SQS Developer Guide, message attribute components).
fn is_attribute_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    (1..=256).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
}

/// The most tags of a queue, and the lengths of their keys and values (SQS Developer Guide).
fn check_tags(name: &str, tags: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if tags.len() > 50 {
        return Err(Refusal::bad(format!("Too many tags added for queue {name}.")));
    }
    let is_fine = |key: &str, value: &str| {
        (1..=128).contains(&key.chars().count())
            && value.chars().count() <= 256
            && !key.to_ascii_lowercase().starts_with("aws:")
    };
    match tags.iter().find(|(key, value)| !is_fine(key, value)) {
        None => Ok(()),
        Some((key, _)) => Err(Refusal::bad(format!(
            "Tag key '{key}' or its value is invalid: keys have 1 to 128 characters and do not start with aws:, values have up to 256."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_000_000;

    fn queues(name: &str, attributes: &[(&str, &str)]) -> Queues {
        let mut queues = Queues::new(1);
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        queues.create(name, &attributes, BTreeMap::new(), T0).unwrap();
        queues
    }

    fn text(body: &str) -> Outgoing {
        Outgoing { body: body.to_owned(), ..Outgoing::default() }
    }

    fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
        deliveries.iter().map(|delivery| delivery.message.sent.body.as_str()).collect()
    }

    #[test]
    fn a_message_is_hidden_while_it_is_in_flight_and_an_old_receipt_deletes_nothing() {
        let mut queues = queues("q", &[("VisibilityTimeout", "5")]);
        queues.send("q", text("a"), T0).unwrap();
        let first = queues.receive("q", 10, None, T0).unwrap();
        assert!(queues.receive("q", 10, None, T0 + 4_999).unwrap().is_empty());
        let second = queues.receive("q", 10, None, T0 + 5_000).unwrap();
        assert_eq!((second.len(), second[0].message.receives), (1, 2));
        queues.delete("q", &first[0].receipt).unwrap();
        assert_eq!(queues.counts("q", T0 + 5_001).unwrap().in_flight, 1);
        queues.delete("q", &second[0].receipt).unwrap();
        assert_eq!(queues.counts("q", T0 + 5_001).unwrap(), Counts::default());
        queues.delete("q", &second[0].receipt).unwrap();
        assert_eq!(queues.delete("q", "nonsense").unwrap_err().shape, "ReceiptHandleIsInvalid");
    }

    #[test]
    fn a_group_is_held_while_any_of_its_messages_is_in_flight() {
        let mut queues = queues("q.fifo", &[("FifoQueue", "true"), ("VisibilityTimeout", "5")]);
        for (body, group) in [("a0", "a"), ("a1", "a"), ("b0", "b")] {
            let message =
                Outgoing { group: Some(group.into()), deduplication: Some(body.into()), ..text(body) };
            queues.send("q.fifo", message, T0).unwrap();
        }
        let first = queues.receive("q.fifo", 1, None, T0).unwrap();
        assert_eq!(bodies(&first), ["a0"]);
        assert_eq!(bodies(&queues.receive("q.fifo", 10, None, T0).unwrap()), ["b0"]);
        assert_eq!(bodies(&queues.receive("q.fifo", 10, None, T0 + 5_000).unwrap()), ["a0", "a1", "b0"]);
    }

    #[test]
    fn what_is_received_too_often_dies_and_can_be_brought_back() {
        let mut queues = queues("dead", &[]);
        let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:r:1:dead","maxReceiveCount":"2"}"#;
        let attributes = [("RedrivePolicy".to_owned(), policy.to_owned())].into();
        queues.create("q", &attributes, BTreeMap::new(), T0).unwrap();
        queues.send("q", text("poison"), T0).unwrap();
        for n in 0..2 {
            assert_eq!(queues.receive("q", 1, Some(1), T0 + n * 1_000).unwrap().len(), 1);
        }
        assert!(queues.receive("q", 1, Some(1), T0 + 9_000).unwrap().is_empty());
        let dead = queues.receive("dead", 1, Some(0), T0 + 9_000).unwrap();
        assert_eq!(dead[0].message.died_in.as_deref(), Some("q"));
        assert_eq!(queues.move_back("dead", None, T0 + 9_001).unwrap(), 1);
        assert_eq!(queues.receive("q", 1, None, T0 + 9_002).unwrap().len(), 1);
    }

    #[test]
    fn what_sqs_allows_itself_happens_when_it_is_asked_for_and_never_to_fifo_queues() {
        let mut queues = queues("q", &[]);
        let run = |queues: &mut Queues| {
            for n in 0..100 {
                queues.send("q", text(&format!("{n:03}")), T0 + n).unwrap();
            }
            let mut got = Vec::new();
            for ms in (0..10_000).step_by(50) {
                for found in queues.receive("q", 10, None, T0 + ms).unwrap() {
                    queues.delete("q", &found.receipt).unwrap();
                    got.push(found.message.sent.body);
                }
            }
            got
        };
        let calm = run(&mut queues);
        assert!(calm.len() == 100 && calm.is_sorted());
        queues.trouble = Trouble { duplicate_per_mille: 300, disorder_per_mille: 300 };
        let again = run(&mut queues.clone());
        let rough = run(&mut queues);
        assert_eq!(rough, again, "it is seeded");
        assert!((110..160).contains(&rough.len()) && !rough.is_sorted(), "{}", rough.len());
        let all: BTreeSet<_> = rough.iter().cloned().collect();
        assert_eq!(all.len(), 100, "nothing is lost");

        let fifo = [("FifoQueue".to_owned(), "true".to_owned())].into();
        queues.create("q.fifo", &fifo, BTreeMap::new(), T0).unwrap();
        queues.trouble = Trouble { duplicate_per_mille: 1000, disorder_per_mille: 1000 };
        for n in 0..5 {
            let (group, deduplication) = (Some("g".to_owned()), Some(n.to_string()));
            queues.send("q.fifo", Outgoing { group, deduplication, ..text(&n.to_string()) }, T0).unwrap();
        }
        assert_eq!(bodies(&queues.receive("q.fifo", 10, None, T0).unwrap()), ["0", "1", "2", "3", "4"]);
        assert!((Trouble { duplicate_per_mille: 1001, ..Trouble::default() }).checked().is_err());
    }

    #[test]
    fn a_message_expires_and_a_delayed_one_waits() {
        let mut queues = queues("q", &[("MessageRetentionPeriod", "60")]);
        queues.send("q", Outgoing { delay_s: Some(2), ..text("late") }, T0).unwrap();
        assert_eq!(queues.counts("q", T0).unwrap(), Counts { delayed: 1, ..Counts::default() });
        assert_eq!(queues.next_due_ms("q", T0), Some(T0 + 2_000));
        assert_eq!(queues.receive("q", 1, Some(0), T0 + 2_000).unwrap().len(), 1);
        assert_eq!(queues.counts("q", T0 + 60_000).unwrap(), Counts::default());
    }
}
