//! A message from a queue: recorded once, with its disposition.

use std::collections::BTreeSet;

use perennial_engine::domain::{Append, Decision};

use crate::aggregate::inbox::{
    BODY_MAX, Disposition, InboxEntry, InboxEvent, MISMATCHES_MAX, REPETITIONS_MAX, UNREAD_BODY_MAX, kept,
};
use crate::domain::command::{Content, Envelope, Rejection};
use crate::domain::decider::Decider;
use crate::domain::states::{Event, State};
use crate::domain::submission::{ApplyParams, Submission, Work};
use crate::model::operation_id::node_stream;

pub(crate) fn decide_entry(
    view: &Decider<'_>,
    envelope: &Envelope,
    content: &Content,
) -> Result<Decision<Event, State>, Rejection> {
    let Some(State::Inbox(entry)) = view.world.get(&envelope.stream) else {
        return Err(Rejection::WrongStream { stream: envelope.stream.clone() });
    };
    if let Content::Counted(counts) = content {
        let counted = Event::Inbox(InboxEvent::Counted(counts.clone()));
        return Ok(Decision::one(envelope.stream.clone(), vec![counted]));
    }
    if let Some(mismatch) = mismatch(entry, envelope, content) {
        return Ok(mismatch);
    }
    if let Some(first) = &entry.message_id {
        let again = *first != envelope.message_id && entry.repetitions < REPETITIONS_MAX;
        let repeated = InboxEvent::Repeated { message_id: envelope.message_id.clone() };
        return Ok(if again {
            Decision::one(envelope.stream.clone(), vec![Event::Inbox(repeated)])
        } else {
            Decision::nothing()
        });
    }
    let mut fences = BTreeSet::new();
    let (disposition, mut appends) = match content {
        Content::Settled(disposition) => (disposition.clone(), Vec::new()),
        Content::Counted(_) => return Ok(Decision::nothing()),
        Content::Signal(signal) => match view.node_of(&signal.instance) {
            None => (Disposition::Foreign { instance: Some(signal.instance.clone()) }, Vec::new()),
            Some(name) => {
                let subject = view.subject(&name)?;
                fences.extend(view.rests_on(subject));
                view.on_signal(subject, signal)?
            }
        },
        Content::Submission(Submission { work: Work::Pool(pool), requested_by, .. }) => {
            view.apply_pool(&pool.spec, requested_by)
        }
        Content::Submission(submission) => {
            let subject = view.subject(&submission.node)?;
            fences.extend(view.rests_on(subject));
            // What another node still has cannot be the new one's as well.
            if let Work::Apply(ApplyParams { from_backup: Some(from), .. }) = &submission.work {
                fences.insert(node_stream(from.node()));
            }
            view.submit(subject, submission)?
        }
    };
    let disposition = disposition.bounded();
    let body_max = match &disposition {
        Disposition::Foreign { .. }
        | Disposition::Unknown { .. }
        | Disposition::Malformed { .. }
        | Disposition::Oversized { .. } => UNREAD_BODY_MAX,
        _ => BODY_MAX,
    };
    let received = InboxEvent::Received {
        queue: envelope.queue.clone(),
        message_id: envelope.message_id.clone(),
        sent_at_ms: envelope.sent_at_ms,
        bytes: envelope.bytes,
        body: kept(&envelope.body, body_max),
        content: envelope.content.clone(),
        sender: envelope.sender.clone(),
    };
    let events = vec![Event::Inbox(received), Event::Inbox(InboxEvent::Answered { disposition })];
    appends.push(Append::new(envelope.stream.clone(), events));
    Ok(Decision { fences: fences.into_iter().collect(), ..Decision::of(appends) })
}

/// What is decided of a message whose key stands for something else. A submission is refused, and that is
/// written down; an event is left to its reader, which gives it another key.
fn mismatch(entry: &InboxEntry, envelope: &Envelope, content: &Content) -> Option<Decision<Event, State>> {
    let hash = envelope.content.as_ref().filter(|hash| entry.differs_from(hash))?;
    let Content::Submission(submission) = content else { return Some(Decision::nothing()) };
    if entry.mismatches >= MISMATCHES_MAX {
        return Some(Decision::nothing());
    }
    let mismatched = InboxEvent::Mismatched {
        message_id: envelope.message_id.clone(),
        content: hash.clone(),
        asks: submission.in_words(),
        sender: envelope.sender.clone(),
    };
    Some(Decision::one(envelope.stream.clone(), vec![Event::Inbox(mismatched)]))
}
