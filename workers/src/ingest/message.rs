//! What a message of one of the inbox queues is, before anything is asked of the journal or of EC2.

use perennial_engine::ids::StreamId;
use perennial_engine::queue::Delivery;
use perennial_workflows::aggregate::inbox::{Disposition, inbox_stream};
use perennial_workflows::domain::command::Content;
use perennial_workflows::domain::submission::{Submission, SubmissionId};
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::step::wake_hint::WakeHint;

use super::events::{self, Arrival, Key, Origin, Parsed};
use super::inbox_queue::InboxQueue;

/// A message, read.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Inbox entries, to be written before the message is deleted.
    pub(super) entries: Vec<Entry>,
    /// What only wakes steps.
    pub(super) hints: Vec<WakeHint>,
}

/// An inbox entry, read. A message is one, or (several events, or one about several instances) several.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// What it says.
    pub(super) content: Content,
    /// Its stream.
    pub(super) stream: StreamId,
    /// The stream that it gets if its own stands for another content; none of a submission.
    pub(super) other_stream: Option<StreamId>,
    /// The hash of what it says.
    pub(super) hash: Option<String>,
    /// The raw text.
    pub(super) body: String,
    /// Who is to be answered, and where.
    pub(super) reply: Option<(Option<SubmissionId>, String)>,
    /// Where an event comes from.
    pub(super) origin: Origin,
    /// The instances that a message names that nothing comes of by itself.
    pub(super) names: Vec<InstanceId>,
}

impl Entry {
    fn settled(queue: &str, disposition: Disposition, body: String) -> Self {
        Self {
            content: Content::Settled(disposition),
            stream: inbox_stream(queue, &format!("content {body}")),
            other_stream: None,
            hash: None,
            body,
            reply: None,
            origin: Origin::default(),
            names: Vec::new(),
        }
    }

    fn event(queue: &str, content: Content, key: Key, body: String) -> Self {
        Self {
            content,
            stream: inbox_stream(queue, &key.id),
            other_stream: key.content.as_ref().map(|_| inbox_stream(queue, &key.other())),
            hash: key.content,
            body,
            reply: None,
            origin: Origin::default(),
            names: Vec::new(),
        }
    }
}

/// Reads a message.
pub(super) fn read(delivery: &Delivery, inbox_queue: InboxQueue, now_ms: u64) -> Message {
    let queue = inbox_queue.name();
    let bytes = delivery.body.len();
    if bytes > inbox_queue.bytes_max() {
        let oversized = Disposition::Oversized { bytes: bytes as u64 };
        let entries = vec![Entry::settled(queue, oversized, delivery.body.clone())];
        return Message { entries, hints: Vec::new() };
    }
    match inbox_queue {
        InboxQueue::Submissions => {
            Message { entries: vec![submission(delivery, queue, now_ms)], hints: Vec::new() }
        }
        InboxQueue::Interruptions => {
            let arrival = Arrival { sent_at_ms: delivery.sent_at_ms, now_ms };
            let mut message = Message::default();
            for parsed in events::parse(&delivery.body, arrival) {
                message.add(parsed, queue);
            }
            message
        }
    }
}

impl Message {
    fn add(&mut self, parsed: Parsed, queue: &str) {
        self.entries.push(match parsed {
            Parsed::WakeHint(hint) => return self.hints.push(hint),
            Parsed::Notice(notice) => {
                let content = Content::Signal(notice.signal);
                Entry { origin: notice.origin, ..Entry::event(queue, content, notice.key, notice.body) }
            }
            Parsed::Unknown { kind, instances, key, body } => {
                let content = Content::Settled(Disposition::Unknown { kind });
                Entry { names: instances, ..Entry::event(queue, content, key, body) }
            }
            Parsed::Malformed { because, instances, body } => {
                let malformed = Disposition::Malformed { because };
                Entry { names: instances, ..Entry::settled(queue, malformed, body) }
            }
        });
    }
}

fn submission(delivery: &Delivery, queue: &str, now_ms: u64) -> Entry {
    let body = delivery.body.clone();
    match Submission::parse(&body) {
        Ok(submission) => {
            let submission = Submission { sender: delivery.sender.clone(), ..submission };
            let late = submission.deadline_ms().is_some_and(|deadline_ms| deadline_ms < now_ms);
            Entry {
                stream: inbox_stream(queue, &submission.id.to_string()),
                other_stream: None,
                hash: Some(submission.content.clone()),
                reply: submission.reply_to.clone().map(|to| (Some(submission.id.clone()), to)),
                body,
                origin: Origin::default(),
                names: Vec::new(),
                content: match &submission.deadline {
                    Some(deadline) if late => Content::Settled(Disposition::Rejected {
                        because: format!("its deadline {deadline} has passed"),
                    }),
                    _ => Content::Submission(submission),
                },
            }
        }
        Err(bad) => {
            let malformed = Disposition::Malformed { because: bad.why };
            let reply = bad.reply_to.map(|to| (bad.id, to));
            Entry { reply, ..Entry::settled(queue, malformed, body) }
        }
    }
}
