//! The port `Queue`: the semantics of an SQS standard queue.
//!
//! # Guarantees an adapter gives
//! - A sent message is received at least once unless it is deleted first; it may be received more than once
//!   and in any order.
//! - A received message is invisible to others for the queue's visibility timeout, or as long as it is
//!   extended.
//! - A message received more than the queue's limit goes to its dead letters, with its reason if one was
//!   given.
//!
//! One conformance suite (`perennial-store`, `tests/queue_conformance.rs`) runs on every adapter.

use std::time::Duration;

use async_trait::async_trait;

/// The largest message, in bytes: the limit SQS had for years, and still the safe one (SQS takes 1 MiB since
/// 2025).
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The most messages of one call (SQS API reference, batch actions).
pub const BATCH_MESSAGES_MAX: usize = 10;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Text, at most [`MESSAGE_BYTES_MAX`] bytes, not empty.
    pub body: String,
    /// Invisible for this long first; at most 15 minutes (SQS).
    pub delay: Duration,
}

impl Outgoing {
    /// A message to be seen at once.
    #[must_use]
    pub fn now(body: impl Into<String>) -> Self {
        Self { body: body.into(), delay: Duration::ZERO }
    }
}

/// The handle of one receive of one message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The queue's id of the message, the same at each receive.
    pub id: String,
    /// For extend, delete and dead-letter.
    pub receipt: Receipt,
    /// What was sent.
    pub body: String,
    /// 1 at the first receive.
    pub receive_count: u32,
    /// When it was sent, in milliseconds since the Unix epoch.
    pub sent_at_ms: u64,
    /// Who sent it, as the queue has authenticated them; none where the queue knows no senders.
    pub sender: Option<String>,
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The queue's id of the message.
    pub id: String,
    /// What was sent.
    pub body: String,
    /// Why, as far as known.
    pub reason: String,
}

/// About how many messages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// To be received now.
    pub visible: u64,
    /// Received and not yet deleted.
    pub in_flight: u64,
    /// Sent with a delay that has not passed.
    pub delayed: u64,
    /// Given up.
    pub dead: u64,
}

/// Why a queue call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The message breaks a bound; it can never be sent.
    #[error("the message cannot be sent: {why}")]
    Refused {
        /// Which bound.
        why: String,
    },
    /// The receipt is too old: the message has been received again, or deleted.
    #[error("the receipt is not valid any more")]
    ReceiptExpired,
    /// The queue cannot be reached or answers with an error; try again.
    #[error("the queue cannot be used: {why}")]
    Unavailable {
        /// The cause.
        why: String,
    },
    /// The queue does not exist, or we may not use it; a person must act.
    #[error("the queue cannot be used until a person acts: {why}")]
    Misconfigured {
        /// What to do.
        why: String,
    },
}

/// The names of a queue and of the queue of its dead letters; two names are equal if they are of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Of the queue.
    pub own: String,
    /// Of its dead letters, if it has such a queue.
    pub dead_letters: Option<String>,
}

/// Why a dead letter of one of some queues would be received again: its place is one of these queues.
#[must_use]
pub fn circle(queues: &[(&str, Option<Places>)]) -> Option<String> {
    let placed: Vec<(&str, &Places)> =
        queues.iter().filter_map(|(name, places)| Some((*name, places.as_ref()?))).collect();
    placed.iter().find_map(|(name, places)| {
        let dead_letters = places.dead_letters.as_ref()?;
        let (of, _) = placed.iter().find(|(_, places)| places.own == *dead_letters)?;
        let which = if of == name { "the same queue".to_owned() } else { format!("the queue {of}") };
        Some(format!(
            "the dead letters of the queue {name} go to {dead_letters}, which is {which}: what is given up \
             would be received again"
        ))
    })
}

/// Checks the bounds every adapter keeps.
///
/// # Errors
/// [`QueueError::Refused`] naming the bound.
pub fn check_outgoing(messages: &[Outgoing]) -> Result<(), QueueError> {
    let refused = |why: String| Err(QueueError::Refused { why });
    if messages.is_empty() || messages.len() > BATCH_MESSAGES_MAX {
        return refused(format!(
            "{} messages in one call; between 1 and {BATCH_MESSAGES_MAX} fit",
            messages.len()
        ));
    }
    for message in messages {
        if message.body.is_empty() || message.body.len() > MESSAGE_BYTES_MAX {
            return refused(format!(
                "a body of {} bytes; between 1 and {MESSAGE_BYTES_MAX} fit",
                message.body.len()
            ));
        }
        if message.delay > Duration::from_secs(900) {
            return refused(format!("a delay of {} s; the most is 900", message.delay.as_secs()));
        }
    }
    Ok(())
}

/// One logical queue with its dead letters.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Sends between 1 and [`BATCH_MESSAGES_MAX`] messages; all are accepted or an error is returned, after
    /// which some may have been sent.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError>;

    /// Receives up to `max` (at most [`BATCH_MESSAGES_MAX`]) messages, waiting up to `wait` (at most 20 s)
    /// for the first.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError>;

    /// Keeps a message invisible for `visibility` from now; zero gives it back.
    ///
    /// # Errors
    /// [`QueueError::ReceiptExpired`] when the caller no longer holds the message.
    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<(), QueueError>;

    /// Deletes received messages (at most [`BATCH_MESSAGES_MAX`]). Deleting twice is no error.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn delete(&self, receipts: &[Receipt]) -> Result<(), QueueError>;

    /// Moves a received message to the dead letters at once, with a reason.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError>;

    /// Looks at up to `max` dead letters without removing them.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// About how many messages there are.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn depth(&self) -> Result<Depth, QueueError>;

    /// Where its messages and its dead letters are; `None` where dead letters are kept beside the queue, so
    /// that none can be received.
    fn places(&self) -> Option<Places> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_that_would_be_received_again_is_found() {
        let at = |own: &str, dead: &str| {
            let dead_letters = Some(dead.to_owned()).filter(|dead| !dead.is_empty());
            Some(Places { own: own.to_owned(), dead_letters })
        };
        let said = |one: Option<Places>, two: Option<Places>| {
            circle(&[("submissions", one), ("interruptions", two), ("steps", None)])
        };
        assert_eq!(said(at("1/a", "1/a-dead"), at("1/b", "1/a-dead")), None);
        assert_eq!(said(at("1/a", ""), None), None);
        assert_eq!(said(at("1/a", "2/b"), at("1/b", "2/a")), None, "queues of another account");
        let itself = said(None, at("1/b", "1/b")).unwrap();
        assert!(itself.contains("of the queue interruptions go to 1/b, which is the same queue"), "{itself}");
        let other = said(at("1/a", "1/a-dead"), at("1/b", "1/a")).unwrap();
        assert!(
            other.contains("of the queue interruptions go to 1/a, which is the queue submissions"),
            "{other}"
        );
    }
}
