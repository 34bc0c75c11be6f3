//! [`SqsQueue`]: the port `Queue` over `aws-sdk-sqs`.
//!
//! SQS standard queues are what the port's semantics were taken from, so the calls map one to one. Four
//! points are decided here:
//! - **Batches** are split so that one call carries at most [`BATCH_BYTES_MAX`]; entries that SQS refuses for
//!   reasons of its own are sent once more, then the call fails. Some messages may have been sent by then, as
//!   the port says.
//! - **Giving up a message** sends it to the dead-letter queue *first* and deletes it second: a crash between
//!   the two leaves it in both, which redelivery heals; the other order could lose it. Its id and the reason
//!   travel as message attributes, because the copy gets an id of its own.
//! - **Looking at dead letters** receives them for [`LOOK_VISIBILITY`] and gives them back at once; a look
//!   that dies half-way hides them no longer than that.
//! - **A wait** is in whole seconds, rounded up: a wait of zero is a short poll, which SQS answers from a
//!   sample of its servers and which may miss messages.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use perennial_engine::queue::{
    BATCH_MESSAGES_MAX, DeadLetter, Delivery, Depth, MESSAGE_BYTES_MAX, Outgoing, Places, Queue, QueueError,
    Receipt, check_outgoing,
};

use super::settings::{CALL_MAX, POLL_MARGIN, bounded_by, no_retries, no_stall_guard};
use crate::port::error::in_words;

/// The longest wait of a receive (SQS API reference, ReceiveMessage).
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The longest invisibility (SQS API reference, ChangeMessageVisibility).
const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// The most bytes of one batch. SQS takes 1 MiB since 2025; the older limit is still that of many emulators.
const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// For how long a look at the dead letters hides them if it cannot give them back.
const LOOK_VISIBILITY: Duration = Duration::from_secs(10);

/// The wait of each receive of a look: not zero, see the module's documentation.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// How long dead letters are kept: the most SQS allows.
const DEAD_LETTER_RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The longest reason that is kept with a dead letter; it shares the message's bytes with the body.
const REASON_BYTES_MAX: usize = 1024;

/// The largest message that SQS takes, attributes included (SQS Developer Guide, message quotas, since 2025).
const LARGEST_BYTES: usize = 1024 * 1024;

/// The most bytes of the attributes of a dead letter: names, types, the id and the reason.
const ATTRIBUTE_BYTES_MAX: usize = REASON_BYTES_MAX + 512;

/// The message attribute with the reason of a dead letter.
const REASON: &str = "perennial.reason";
/// The message attribute with the id that the message had in its own queue.
const ORIGINAL_ID: &str = "perennial.id";

/// What is known of a message that SQS itself gave up.
const RECEIVED_TOO_OFTEN: &str = "received more often than the queue allows without being deleted";

/// A client with region, credentials and endpoint from `config`; retries and time-outs are our own (see the
/// parent module), whatever `config` says. Makes no call.
#[must_use]
pub fn sqs_client(config: &SdkConfig) -> Client {
    let settings = aws_sdk_sqs::config::Builder::from(config)
        .retry_config(no_retries())
        .timeout_config(bounded_by(CALL_MAX))
        .stalled_stream_protection(no_stall_guard())
        .build();
    Client::from_conf(settings)
}

/// The port `Queue` over one SQS standard queue and its dead-letter queue.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
    dead_letter_url: Option<String>,
}

impl SqsQueue {
    /// Opens the queue with this URL or name. Its dead-letter queue is the one of its redrive policy; without
    /// a policy giving up a message is [`QueueError::Misconfigured`], everything else works.
    ///
    /// # Errors
    /// [`QueueError::Misconfigured`] when there is no such queue or we may not read its attributes.
    pub async fn open(client: Client, queue: &str) -> Result<Self, QueueError> {
        let url = queue_url(&client, queue, None).await?;
        let answer = client
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::RedrivePolicy)
            .send()
            .await
            .map_err(failed)?;
        let policy = answer.attributes().and_then(|all| all.get(&QueueAttributeName::RedrivePolicy));
        let dead_letter_url = match policy.filter(|policy| !policy.is_empty()) {
            None => None,
            Some(policy) => {
                let target = RedriveTarget::parse(policy)?;
                Some(queue_url(&client, &target.queue, Some(target.account)).await?)
            }
        };
        Ok(Self { client, url, dead_letter_url })
    }

    /// The same queue giving up messages to this URL or name, whatever its redrive policy says.
    ///
    /// # Errors
    /// [`QueueError::Misconfigured`] when there is no such queue.
    pub async fn with_dead_letters(self, queue: &str) -> Result<Self, QueueError> {
        let dead_letter_url = Some(queue_url(&self.client, queue, None).await?);
        Ok(Self { dead_letter_url, ..self })
    }

    /// The queue's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn dead_letter_url(&self) -> Result<&str, QueueError> {
        self.dead_letter_url.as_deref().ok_or_else(|| QueueError::Misconfigured {
            why: format!("{} has no dead-letter queue: set its RedrivePolicy", self.url),
        })
    }

    async fn send_some(
        &self,
        messages: &[(usize, &Outgoing)],
    ) -> Result<Vec<BatchResultErrorEntry>, QueueError> {
        let entry = |(index, message): &(usize, &Outgoing)| {
            SendMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .message_body(&message.body)
                .delay_seconds(seconds(message.delay))
                .build()
        };
        let entries = messages.iter().map(entry).collect::<Result<_, _>>().map_err(unwritable)?;
        let call = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        Ok(call.send().await.map_err(failed)?.failed)
    }

    async fn delete_some(
        &self,
        receipts: &[(usize, &Receipt)],
    ) -> Result<Vec<BatchResultErrorEntry>, QueueError> {
        let entry = |(index, receipt): &(usize, &Receipt)| {
            DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(&receipt.0).build()
        };
        let entries = receipts.iter().map(entry).collect::<Result<_, _>>().map_err(unwritable)?;
        let call = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let mut refused = call.send().await.map_err(failed)?.failed;
        // Already deleted, or received by somebody else since: SQS says success to both, emulators say this.
        refused.retain(|entry| classify(entry.code(), entry.message()) != Trouble::Receipt);
        Ok(refused)
    }

    async fn receive_from(
        &self,
        url: &str,
        max: usize,
        wait: Duration,
        visibility: Option<Duration>,
    ) -> Result<Vec<Message>, QueueError> {
        let wait = wait.min(WAIT_MAX);
        // The poll is the wait: the client's own bound would cut it.
        let patient = aws_sdk_sqs::config::Builder::new().timeout_config(bounded_by(wait + POLL_MARGIN));
        let call = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(max.clamp(1, BATCH_MESSAGES_MAX)).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .set_visibility_timeout(visibility.map(seconds))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::SenderId)
            .message_attribute_names("All")
            .customize()
            .config_override(patient);
        Ok(call.send().await.map_err(failed)?.messages.unwrap_or_default())
    }

    /// Makes received dead letters visible again. Best effort: they come back by themselves after
    /// [`LOOK_VISIBILITY`].
    async fn give_back(&self, url: &str, held: &[Message]) {
        for chunk in held.chunks(BATCH_MESSAGES_MAX) {
            let entry = |(index, message): (usize, &Message)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(message.receipt_handle().unwrap_or_default())
                    .visibility_timeout(0)
                    .build()
                    .ok()
            };
            let entries = chunk.iter().enumerate().filter_map(entry).collect();
            let call =
                self.client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries));
            if let Err(error) = call.send().await {
                tracing::debug!(error = %in_words(&error), "dead letters come back a little later");
            }
        }
    }

    async fn counts(&self, url: &str) -> Result<Depth, QueueError> {
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
            .send()
            .await
            .map_err(failed)?;
        let count = |name| {
            answer
                .attributes()
                .and_then(|all| all.get(&name))
                .and_then(|n| n.parse().ok())
                .unwrap_or_default()
        };
        Ok(Depth {
            visible: count(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: count(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
            dead: 0,
        })
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        check_outgoing(&messages)?;
        check_characters(&messages)?;
        for batch in batches(&messages) {
            let refused = self.send_some(&batch).await?;
            if refused.is_empty() {
                continue;
            }
            final_refusal(&refused)?;
            let again = still_refused(&batch, &refused);
            let refused = self.send_some(&again).await?;
            final_refusal(&refused)?;
            unavailable(&refused)?;
        }
        Ok(())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let messages = self.receive_from(&self.url, max, wait, None).await?;
        messages.into_iter().map(delivery).collect()
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<(), QueueError> {
        let call = self
            .client
            .change_message_visibility()
            .queue_url(&self.url)
            .receipt_handle(&receipt.0)
            .visibility_timeout(seconds(visibility.min(VISIBILITY_MAX)));
        call.send().await.map(drop).map_err(failed)
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let receipts: Vec<_> = receipts.iter().enumerate().collect();
        for batch in receipts.chunks(BATCH_MESSAGES_MAX) {
            let refused = self.delete_some(batch).await?;
            if refused.is_empty() {
                continue;
            }
            unavailable(&self.delete_some(&still_refused(batch, &refused)).await?)?;
        }
        Ok(())
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        let reason = kept_reason(reason, delivery.body.len());
        let mut attributes = HashMap::new();
        // A body of the largest size leaves no room for them, and must not come again for that.
        if delivery.body.len() + ATTRIBUTE_BYTES_MAX <= LARGEST_BYTES {
            attributes.insert(ORIGINAL_ID.to_owned(), attribute(&delivery.id)?);
            if !reason.is_empty() {
                attributes.insert(REASON.to_owned(), attribute(&reason)?);
            }
        }
        self.client
            .send_message()
            .queue_url(self.dead_letter_url()?)
            .message_body(&delivery.body)
            .set_message_attributes(Some(attributes).filter(|attributes| !attributes.is_empty()))
            .send()
            .await
            .map_err(failed)?;
        self.delete(std::slice::from_ref(&delivery.receipt)).await
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let url = self.dead_letter_url()?;
        let mut held: Vec<Message> = Vec::new();
        let mut outcome = Ok(());
        while held.len() < max {
            match self.receive_from(url, max - held.len(), LOOK_WAIT, Some(LOOK_VISIBILITY)).await {
                Ok(messages) if messages.is_empty() => break,
                Ok(messages) => held.extend(messages),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.give_back(url, &held).await;
        outcome?;
        // A look longer than its own invisibility meets the first ones again.
        let mut met = BTreeSet::new();
        Ok(held.into_iter().map(dead_letter).filter(|entry| met.insert(entry.id.clone())).collect())
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let own = self.counts(&self.url).await?;
        let dead = match &self.dead_letter_url {
            None => Depth::default(),
            Some(url) => self.counts(url).await?,
        };
        Ok(Depth { dead: dead.visible + dead.in_flight + dead.delayed, ..own })
    }

    fn places(&self) -> Option<Places> {
        Some(Places {
            own: account_and_name(&self.url),
            dead_letters: self.dead_letter_url.as_deref().map(account_and_name),
        })
    }
}

/// What tells queues apart: `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME` and an endpoint's own form end
/// with it.
fn account_and_name(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let name_at = url.rfind('/').unwrap_or(0);
    let account_at = url[..name_at].rfind('/').map_or(0, |at| at + 1);
    url[account_at..].to_owned()
}

/// What a queue and its dead-letter queue should be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnsureQueue<'a> {
    /// The queue's name.
    pub name: &'a str,
    /// For how long a received message is invisible unless it is extended.
    pub visibility: Duration,
    /// The dead-letter queue's name.
    pub dead_letters: &'a str,
    /// After how many receives without a deletion a message is given up; 1 to 1000.
    pub receives_max: u32,
}

/// Creates the queue and its dead-letter queue unless they exist, and answers with the queue's URL. For
/// `doctor` and tests.
///
/// # Errors
/// [`QueueError::Misconfigured`] when one of them exists with other attributes: it is not changed.
pub async fn ensure_queue(client: &Client, wanted: &EnsureQueue<'_>) -> Result<String, QueueError> {
    let dead_letter_url = client
        .create_queue()
        .queue_name(wanted.dead_letters)
        .attributes(QueueAttributeName::MessageRetentionPeriod, DEAD_LETTER_RETENTION.as_secs().to_string())
        .send()
        .await
        .map_err(failed)?
        .queue_url
        .ok_or_else(|| unreadable("the answer has a queue without URL"))?;
    let arn = client
        .get_queue_attributes()
        .queue_url(&dead_letter_url)
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .map_err(failed)?
        .attributes
        .and_then(|mut all| all.remove(&QueueAttributeName::QueueArn))
        .ok_or_else(|| unreadable("the answer has a queue without ARN"))?;
    let redrive = serde_json::json!({
        "deadLetterTargetArn": arn,
        "maxReceiveCount": wanted.receives_max.to_string(),
    });
    client
        .create_queue()
        .queue_name(wanted.name)
        .attributes(QueueAttributeName::VisibilityTimeout, seconds(wanted.visibility).to_string())
        .attributes(QueueAttributeName::RedrivePolicy, redrive.to_string())
        .send()
        .await
        .map_err(failed)?
        .queue_url
        .ok_or_else(|| unreadable("the answer has a queue without URL"))
}

async fn queue_url(client: &Client, queue: &str, owner: Option<String>) -> Result<String, QueueError> {
    if queue.starts_with("https://") || queue.starts_with("http://") {
        return Ok(queue.to_owned());
    }
    let call = client.get_queue_url().queue_name(queue).set_queue_owner_aws_account_id(owner);
    let answer = call.send().await.map_err(|error| match failed(error) {
        QueueError::Misconfigured { why } => {
            QueueError::Misconfigured { why: format!("queue {queue:?}: {why}") }
        }
        other => other,
    })?;
    answer.queue_url.ok_or_else(|| unreadable("the answer has a queue without URL"))
}

/// The dead-letter queue that a redrive policy names.
#[derive(Debug, PartialEq, Eq)]
struct RedriveTarget {
    queue: String,
    account: String,
}

impl RedriveTarget {
    /// From `{"deadLetterTargetArn":"arn:aws:sqs:REGION:ACCOUNT:NAME",…}` (SQS API reference,
    /// SetQueueAttributes).
    fn parse(policy: &str) -> Result<Self, QueueError> {
        let bad =
            || QueueError::Misconfigured { why: format!("the redrive policy cannot be read: {policy}") };
        let policy: serde_json::Value = serde_json::from_str(policy).map_err(|_| bad())?;
        let arn = policy.get("deadLetterTargetArn").and_then(serde_json::Value::as_str).ok_or_else(bad)?;
        match arn.split(':').collect::<Vec<_>>()[..] {
            ["arn", _, "sqs", _, account, queue] if !queue.is_empty() => {
                Ok(Self { queue: queue.to_owned(), account: account.to_owned() })
            }
            _ => Err(bad()),
        }
    }
}

/// The messages with their places, in calls of at most [`BATCH_BYTES_MAX`].
fn batches(messages: &[Outgoing]) -> Vec<Vec<(usize, &Outgoing)>> {
    let mut batches: Vec<Vec<(usize, &Outgoing)>> = Vec::new();
    let mut bytes = 0;
    for entry in messages.iter().enumerate() {
        let len = entry.1.body.len();
        match batches.last_mut() {
            Some(batch) if bytes + len <= BATCH_BYTES_MAX => {
                bytes += len;
                batch.push(entry);
            }
            _ => {
                bytes = len;
                batches.push(vec![entry]);
            }
        }
    }
    batches
}

/// Refuses what SQS cannot carry (SQS API reference, SendMessage: tab, line feed, carriage return and the
/// characters from U+0020 without U+FFFE and U+FFFF).
fn check_characters(messages: &[Outgoing]) -> Result<(), QueueError> {
    let foreign = |c: &char| !carried(*c);
    match messages.iter().find_map(|message| message.body.chars().find(foreign)) {
        None => Ok(()),
        Some(c) => Err(QueueError::Refused {
            why: format!("the body has the character {c:?}, which SQS does not carry"),
        }),
    }
}

fn carried(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// The reason as far as it fits beside the body, in characters that SQS carries. May be empty.
fn kept_reason(reason: &str, body_bytes: usize) -> String {
    // Names, types and the original id take part of the message's bytes too.
    let room = MESSAGE_BYTES_MAX.saturating_sub(body_bytes + 256).min(REASON_BYTES_MAX);
    let mut kept = String::new();
    for c in reason.chars() {
        let c = if carried(c) { c } else { ' ' };
        if kept.len() + c.len_utf8() > room {
            break;
        }
        kept.push(c);
    }
    kept
}

fn attribute(text: &str) -> Result<MessageAttributeValue, QueueError> {
    MessageAttributeValue::builder().data_type("String").string_value(text).build().map_err(unwritable)
}

fn delivery(message: Message) -> Result<Delivery, QueueError> {
    let number = |name: &MessageSystemAttributeName| -> Option<u64> {
        message.attributes().and_then(|all| all.get(name)).and_then(|value| value.parse().ok())
    };
    let receive_count = number(&MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    let sent_at_ms = number(&MessageSystemAttributeName::SentTimestamp).unwrap_or_default();
    // An IAM user or role with its session, as SQS has authenticated it; an anonymous sender is an address.
    let sender = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::SenderId));
    let sender = sender.filter(|sender| !sender.is_empty()).map(|sender| sender.chars().take(256).collect());
    match (message.message_id, message.receipt_handle, message.body) {
        (Some(id), Some(receipt), Some(body)) => Ok(Delivery {
            id,
            receipt: Receipt(receipt),
            body,
            receive_count: u32::try_from(receive_count).unwrap_or(u32::MAX),
            sent_at_ms,
            sender,
        }),
        _ => Err(unreadable("the answer has a message without id, receipt or body")),
    }
}

fn dead_letter(message: Message) -> DeadLetter {
    let text = |name: &str| {
        message
            .message_attributes()
            .and_then(|all| all.get(name))
            .and_then(MessageAttributeValue::string_value)
            .map(str::to_owned)
    };
    let given_up_by_us = text(ORIGINAL_ID);
    let reason = match (text(REASON), &given_up_by_us) {
        (Some(reason), _) => reason,
        (None, Some(_)) => String::new(),
        (None, None) => RECEIVED_TOO_OFTEN.to_owned(),
    };
    DeadLetter {
        id: given_up_by_us.or(message.message_id).unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        reason,
    }
}

/// Whole seconds, rounded up, as SQS takes them.
fn seconds(duration: Duration) -> i32 {
    let up = u64::from(duration.subsec_nanos() > 0);
    i32::try_from(duration.as_secs() + up).unwrap_or(i32::MAX)
}

/// The entries of a batch that the answer names as refused.
fn still_refused<'a, T>(batch: &[(usize, &'a T)], refused: &[BatchResultErrorEntry]) -> Vec<(usize, &'a T)> {
    batch
        .iter()
        .filter(|(index, _)| refused.iter().any(|entry| entry.id() == index.to_string()))
        .copied()
        .collect()
}

/// An entry that can never be accepted ends the call at once.
fn final_refusal(refused: &[BatchResultErrorEntry]) -> Result<(), QueueError> {
    match refused.iter().find(|entry| entry.sender_fault()) {
        None => Ok(()),
        Some(entry) => Err(error(entry.code(), entry.message())),
    }
}

fn unavailable(refused: &[BatchResultErrorEntry]) -> Result<(), QueueError> {
    match refused.first() {
        None => Ok(()),
        Some(entry) => Err(QueueError::Unavailable {
            why: format!(
                "{} entries of a batch were refused twice, the first with {}: {}",
                refused.len(),
                entry.code(),
                entry.message().unwrap_or_default()
            ),
        }),
    }
}

/// What an SQS error code is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Receipt,
    Message,
    Setup,
    Passing,
}

/// SQS API reference, common errors and those of each action. The prefixes `AWS.SimpleQueueService.` and
/// `KMS.` come and go with the protocol, so they do not count.
fn classify(code: &str, message: Option<&str>) -> Trouble {
    let about_receipt = message.is_some_and(|m| m.contains("expired") || m.contains("ReceiptHandle"));
    match code.rsplit('.').next().unwrap_or(code) {
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => Trouble::Receipt,
        "InvalidParameterValue" if about_receipt => Trouble::Receipt,
        "InvalidParameterValue"
        | "InvalidMessageContents"
        | "BatchRequestTooLong"
        | "UnsupportedOperation" => Trouble::Message,
        "NonExistentQueue"
        | "QueueDoesNotExist"
        | "QueueNameExists"
        | "QueueAlreadyExists"
        | "InvalidAttributeName"
        | "InvalidAttributeValue"
        | "InvalidAddress"
        | "InvalidSecurity"
        | "AccessDenied"
        | "AccessDeniedException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "DisabledException"
        | "InvalidKeyUsageException"
        | "InvalidStateException"
        | "NotFoundException" => Trouble::Setup,
        _ => Trouble::Passing,
    }
}

fn error(code: &str, message: Option<&str>) -> QueueError {
    let why = format!("{code}: {}", message.unwrap_or("no message"));
    match classify(code, message) {
        Trouble::Receipt => QueueError::ReceiptExpired,
        Trouble::Message => QueueError::Refused { why },
        Trouble::Setup => QueueError::Misconfigured { why: format!("{why}; {}", hint(code)) },
        Trouble::Passing => QueueError::Unavailable { why },
    }
}

fn hint(code: &str) -> &'static str {
    match code.rsplit('.').next().unwrap_or(code) {
        "NonExistentQueue" | "QueueDoesNotExist" | "InvalidAddress" => {
            "create the queue, or correct its name, account and region"
        }
        "QueueNameExists" | "QueueAlreadyExists" => {
            "a queue of this name has other attributes: change them or choose another name"
        }
        "InvalidAttributeName" | "InvalidAttributeValue" => "correct the queue's attributes",
        _ => "check the credentials, the IAM and queue policies, and the queue's KMS key",
    }
}

fn failed<E>(sdk_error: SdkError<E>) -> QueueError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if let SdkError::ServiceError(answer) = &sdk_error
        && let Some(code) = answer.err().code().filter(|code| !code.is_empty())
    {
        return error(code, answer.err().message());
    }
    let status = sdk_error.raw_response().map(|response| format!("HTTP {}: ", response.status().as_u16()));
    let why = format!("{}{}", status.unwrap_or_default(), in_words(&sdk_error));
    match sdk_error {
        // Never sent: there is no region or endpoint.
        SdkError::ConstructionFailure(_) => QueueError::Misconfigured { why },
        _ => QueueError::Unavailable { why },
    }
}

fn unwritable(error: BuildError) -> QueueError {
    QueueError::Refused { why: error.to_string() }
}

fn unreadable(what: &str) -> QueueError {
    QueueError::Unavailable { why: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_about_the_receipt_the_message_the_setup_or_passing() {
        for (code, message, trouble) in [
            ("ReceiptHandleIsInvalid", None, Trouble::Receipt),
            ("AWS.SimpleQueueService.MessageNotInflight", None, Trouble::Receipt),
            ("InvalidParameterValue", Some("Reason: The receipt handle has expired."), Trouble::Receipt),
            ("InvalidParameterValue", Some("Value for parameter DelaySeconds is invalid"), Trouble::Message),
            ("InvalidMessageContents", None, Trouble::Message),
            ("AWS.SimpleQueueService.NonExistentQueue", None, Trouble::Setup),
            ("QueueDoesNotExist", None, Trouble::Setup),
            ("AccessDenied", None, Trouble::Setup),
            ("KMS.AccessDeniedException", None, Trouble::Setup),
            ("KMS.ThrottlingException", None, Trouble::Passing),
            ("RequestThrottled", None, Trouble::Passing),
            ("InternalError", None, Trouble::Passing),
            ("SomethingNew", None, Trouble::Passing),
        ] {
            assert_eq!(classify(code, message), trouble, "{code}");
        }
    }

    #[test]
    fn a_misconfigured_queue_says_what_to_do() {
        assert_eq!(
            error("AWS.SimpleQueueService.NonExistentQueue", Some("no such queue")).to_string(),
            "the queue cannot be used until a person acts: AWS.SimpleQueueService.NonExistentQueue: no such queue; \
             create the queue, or correct its name, account and region"
        );
    }

    #[test]
    fn a_batch_is_split_where_its_bytes_do_not_fit_and_keeps_its_order() {
        let of = |bytes: usize| Outgoing::now("x".repeat(bytes));
        let messages = [of(100), of(MESSAGE_BYTES_MAX - 100), of(1), of(MESSAGE_BYTES_MAX), of(2)];
        let places: Vec<Vec<usize>> =
            batches(&messages).iter().map(|batch| batch.iter().map(|(place, _)| *place).collect()).collect();
        assert_eq!(places, [vec![0, 1], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn a_character_that_sqs_does_not_carry_is_refused_before_the_call() {
        assert!(check_characters(&[Outgoing::now("tab\tline\nü🌱")]).is_ok());
        for body in ["nul\0", "bell\u{7}", "\u{FFFF}"] {
            assert!(
                matches!(check_characters(&[Outgoing::now(body)]), Err(QueueError::Refused { .. })),
                "{body:?}"
            );
        }
    }

    #[test]
    fn a_reason_is_cut_to_what_fits_and_cleaned() {
        assert_eq!(kept_reason("bad\0json", 10), "bad json");
        assert_eq!(kept_reason(&"ü".repeat(REASON_BYTES_MAX), 10).len(), REASON_BYTES_MAX);
        assert_eq!(kept_reason("too large a body", MESSAGE_BYTES_MAX), "");
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        assert_eq!([0, 1, 999, 1000, 1001].map(|ms| seconds(Duration::from_millis(ms))), [0, 1, 1, 1, 2]);
    }

    #[test]
    fn a_redrive_policy_names_its_queue_and_account() {
        let policy =
            r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:123456789012:dead","maxReceiveCount":"3"}"#;
        assert_eq!(
            RedriveTarget::parse(policy).unwrap(),
            RedriveTarget { queue: "dead".into(), account: "123456789012".into() }
        );
        assert!(matches!(RedriveTarget::parse("{}"), Err(QueueError::Misconfigured { .. })));
    }

    #[test]
    fn queues_are_told_apart_by_account_and_name() {
        for url in
            ["https://sqs.us-east-1.amazonaws.com/111122223333/q", "http://127.0.0.1:4566/111122223333/q/"]
        {
            assert_eq!(account_and_name(url), "111122223333/q");
        }
        assert_eq!(account_and_name("q"), "q");
    }

    #[test]
    fn a_dead_letter_keeps_the_id_it_had_in_its_queue_and_its_reason() {
        let text = |text: &str| {
            MessageAttributeValue::builder().data_type("String").string_value(text).build().unwrap()
        };
        let message =
            Message::builder().message_id("copy").body("{").message_attributes(ORIGINAL_ID, text("first"));
        assert_eq!(
            dead_letter(message.message_attributes(REASON, text("not JSON")).build()),
            DeadLetter { id: "first".into(), body: "{".into(), reason: "not JSON".into() }
        );
        let moved_by_sqs = Message::builder().message_id("own").body("{").build();
        assert_eq!(
            dead_letter(moved_by_sqs),
            DeadLetter { id: "own".into(), body: "{".into(), reason: RECEIVED_TOO_OFTEN.into() }
        );
    }
}
