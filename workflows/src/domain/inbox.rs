//! A message from a queue: recorded once, with its disposition.

use perennial_engine::domain::{Append, Decision};

use crate::aggregate::inbox::{Disposition, FOREIGN_BODY_MAX, InboxEvent, REPETITIONS_MAX};
use crate::domain::command::{Content, Envelope, Rejection, Sight};
use crate::domain::states::{Decider, Event, State};
use crate::domain::submission::{Submission, Work};

pub(crate) fn decide_entry(
    view: &Decider<'_>,
    envelope: &Envelope,
    content: &Content,
    sight: Option<&Sight>,
) -> Result<Decision<Event, State>, Rejection> {
    let Some(State::Inbox(entry)) = view.world.get(&envelope.stream) else {
        return Err(Rejection::WrongStream { stream: envelope.stream.clone() });
    };
    if let Some(first) = &entry.message_id {
        let again = *first != envelope.message_id && entry.repetitions < REPETITIONS_MAX;
        let repeated = InboxEvent::Repeated { message_id: envelope.message_id.clone() };
        return Ok(if again {
            Decision::one(envelope.stream.clone(), vec![Event::Inbox(repeated)])
        } else {
            Decision::nothing()
        });
    }
    let (disposition, mut appends) = match (content, sight) {
        (Content::Settled(disposition), _) => (disposition.clone(), Vec::new()),
        (Content::Signal(signal), None) => {
            (Disposition::Foreign { instance: Some(signal.instance.clone()) }, Vec::new())
        }
        (Content::Signal(signal), Some(sight)) => view.on_signal(sight, signal)?,
        (Content::Submission(Submission { work: Work::Pool(pool), requested_by, .. }), _) => {
            view.apply_pool(&pool.spec, requested_by)
        }
        (Content::Submission(submission), Some(sight)) => view.submit(sight, submission)?,
        (Content::Submission(submission), None) => {
            let because = format!("BUG: a submission about {} came without a sight of it", submission.node);
            (Disposition::Rejected { because }, Vec::new())
        }
    };
    // A region's worth of foreign events: the raw event is kept, a padded one is cut.
    let body = match &disposition {
        Disposition::Foreign { .. } | Disposition::Unknown { .. } => {
            envelope.body.chars().take(FOREIGN_BODY_MAX).collect()
        }
        _ => envelope.body.clone(),
    };
    let received = InboxEvent::Received {
        queue: envelope.queue.clone(),
        message_id: envelope.message_id.clone(),
        sent_at_ms: envelope.sent_at_ms,
        bytes: envelope.bytes,
        body,
    };
    let events = vec![Event::Inbox(received), Event::Inbox(InboxEvent::Answered { disposition })];
    appends.push(Append::new(envelope.stream.clone(), events));
    Ok(Decision::of(appends))
}
