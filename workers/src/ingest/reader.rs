//! Ingest: messages from the queues into the inbox, which is in the journal.
//!
//! # Guarantees
//! - The raw message, its disposition and everything it leads to are in the journal, in one atomic append,
//!   before the message is deleted. A crash in between finds the inbox entry answered and only deletes.
//! - Every message has a disposition ([`Disposition`]); none stops the loop. What cannot be read goes to the
//!   dead-letter queue with its reason.
//! - A message whose inbox entry cannot be written (the journal is unavailable) stays in the queue.
//! - That an instance stops or has ended is believed only when EC2 shows it: an event is a reason to look.
//! - A wake hint ([`perennial_workflows::step::wake_hint`]) is no inbox entry: it wakes the steps of this
//!   process that wait for it, and is gone.

use std::sync::Arc;
use std::time::Duration;

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::ids::StreamId;
use perennial_engine::queue::{BATCH_MESSAGES_MAX, Delivery, MESSAGE_BYTES_MAX, Outgoing, Queue};
use perennial_engine::retry::Intervals;
use perennial_engine::shutdown::Shutdown;
use perennial_workflows::aggregate::inbox::{Disposition, inbox_stream};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Content, Envelope, Rejection};
use perennial_workflows::domain::states::State;
use perennial_workflows::domain::submission::{Reply, Submission, SubmissionId};
use perennial_workflows::step::wake_hint::WakeHint;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::confirm::{self, Look};
use super::events;
use super::events::{Notice, Parsed};
use super::lookup::node_of;
use crate::capacity::refusals::CapacityRefusals;
use crate::port::Cloud;

/// The largest submission. A node file with the largest user data is under 40 KiB. (An event may have
/// whatever fits a message: a page of AWS Health's has up to 256 KiB.)
pub const SUBMISSION_BYTES_MAX: usize = 128 * 1024;

/// How much of an oversized message is kept.
const OVERSIZED_KEPT: usize = 1_024;

/// How long an event about an unknown instance waits before it counts as foreign. The first state
/// change of an instance of ours can overtake the answer to its launch by a second or two; a foreign event
/// costs one more receive.
const YOUNG: Duration = Duration::from_secs(10);

/// How long an event waits that EC2's describes do not confirm yet. They were seen to be seconds late
/// (`ec2-semantics`, eventual consistency).
const CONFIRM_AGAIN: Duration = Duration::from_secs(3);

/// How often such an event is put off before it is noted as false. Each costs one receive of those that SQS
/// allows before its dead-letter queue. If EC2's answers are late for longer, the sweep finds what is so.
const CONFIRM_RECEIVES: u32 = 3;

/// How long one receive waits (SQS: at most 20 s).
const WAIT: Duration = Duration::from_secs(20);

/// After a failing call.
const TROUBLE: Intervals =
    Intervals { first: Duration::from_millis(200), longest: Duration::from_secs(10), jitter: 0.0 };

/// Which of the two inbox queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxQueue {
    /// Asks for something.
    Submissions,
    /// AWS's events.
    Interruptions,
}

impl InboxQueue {
    /// Its name in streams and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submissions => "submissions",
            Self::Interruptions => "interruptions",
        }
    }

    const fn bytes_max(self) -> usize {
        match self {
            Self::Submissions => SUBMISSION_BYTES_MAX,
            Self::Interruptions => MESSAGE_BYTES_MAX,
        }
    }
}

/// Finds the queue an answer is to be sent to.
pub trait ReplyTo: Send + Sync + 'static {
    /// The queue of this name or URL, or why there is none.
    ///
    /// # Errors
    /// A clause that says what is wrong with the name.
    fn queue(&self, name: &str) -> Result<Arc<dyn Queue>, String>;
}

/// No answers are sent.
#[derive(Debug, Clone, Copy)]
pub struct NoReplies;

impl ReplyTo for NoReplies {
    fn queue(&self, name: &str) -> Result<Arc<dyn Queue>, String> {
        Err(format!("no reply queues here; {name} gets no answer"))
    }
}

/// One inbox queue's reader.
pub struct Ingest {
    engine: Engine<Perennial>,
    queue: Arc<dyn Queue>,
    inbox_queue: InboxQueue,
    owner: String,
    replies: Arc<dyn ReplyTo>,
    refusals: Arc<CapacityRefusals>,
    cloud: Arc<dyn Cloud>,
}

/// What a message is.
enum Message {
    /// Inbox entries, to be written before it is deleted; at least one.
    Entries(Vec<Entry>),
    /// Something that only wakes steps.
    WakeHint(WakeHint),
}

/// An inbox entry, read. A message is one, or (an event about several instances) several.
struct Entry {
    content: Content,
    stream: StreamId,
    body: String,
    reply: Option<(Option<SubmissionId>, String)>,
}

impl Ingest {
    /// A reader of one queue.
    #[must_use]
    pub fn new(
        engine: Engine<Perennial>,
        queue: Arc<dyn Queue>,
        inbox_queue: InboxQueue,
        owner: String,
        replies: Arc<dyn ReplyTo>,
        refusals: Arc<CapacityRefusals>,
        cloud: Arc<dyn Cloud>,
    ) -> Self {
        Self { engine, queue, inbox_queue, owner, replies, refusals, cloud }
    }

    /// Reads until the shutdown is asked for.
    pub async fn run(self, shutdown: Shutdown) {
        let this = Arc::new(self);
        let mut trouble = 0;
        while !shutdown.is_asked() {
            let received = tokio::select! {
                biased;
                () = shutdown.asked() => return,
                received = this.queue.receive(BATCH_MESSAGES_MAX, WAIT) => received,
            };
            match received {
                Ok(deliveries) => {
                    trouble = 0;
                    let mut taken = JoinSet::new();
                    for delivery in deliveries {
                        let this = Arc::clone(&this);
                        taken.spawn(async move { this.take(&delivery).await });
                    }
                    // A message is short work; the next receive waits for it, so nothing is dropped by a
                    // shutdown.
                    while let Some(ended) = taken.join_next().await {
                        if let Err(error) = ended {
                            warn!(%error, "BUG: the reading of a message panicked; it will come again");
                        }
                    }
                }
                Err(error) => {
                    trouble += 1;
                    warn!(queue = this.inbox_queue.name(), %error, "messages could not be received; trying again");
                    tokio::select! {
                        biased;
                        () = shutdown.asked() => return,
                        () = this.engine.clock().sleep(TROUBLE.after(trouble, 0.5)) => {}
                    }
                }
            }
        }
    }

    /// Takes one message: journal, then answer, then delete. An error leaves it in the queue.
    async fn take(&self, delivery: &Delivery) {
        let mut entries = match self.read(delivery) {
            Message::Entries(entries) => entries,
            Message::WakeHint(hint) => return self.wake(delivery, &hint).await,
        };
        match self.put_off(delivery, &mut entries).await {
            Ok(None) => {}
            Ok(Some(longer)) => {
                if let Err(error) = self.queue.extend(&delivery.receipt, longer).await {
                    warn!(message = %delivery.id, %error, "an event could not be put off; it will come again");
                }
                return;
            }
            Err(error) => {
                warn!(message = %delivery.id, %error, "the journal cannot be read; the event will come again");
                return;
            }
        }
        let mut dead = None;
        for entry in entries {
            // A stop between two entries finds the first ones answered when the message comes again.
            let disposition = match self.write(delivery, &entry).await {
                Ok(disposition) => disposition,
                Err(error) => {
                    warn!(queue = self.inbox_queue.name(), message = %delivery.id, %error, "an inbox entry could not be written; it will come again");
                    return;
                }
            };
            info!(queue = self.inbox_queue.name(), message = %delivery.id, entry = %entry.stream, "{disposition}");
            if let Content::Signal(signal) = &entry.content {
                let hint = WakeHint::Instance { instance: signal.instance.clone() };
                self.engine.wake(|intent| hint.concerns(intent));
            }
            if let Some((id, reply_to)) = entry.reply {
                self.answer(id, &reply_to, &disposition).await;
            }
            if disposition.is_dead() {
                dead = Some(disposition);
            }
        }
        let ended = match dead {
            Some(disposition) => self.queue.dead_letter(delivery, &disposition.to_string()).await,
            None => self.queue.delete(std::slice::from_ref(&delivery.receipt)).await,
        };
        if let Err(error) = ended {
            warn!(message = %delivery.id, %error, "an answered message could not be taken off its queue; it will come again and be known");
        }
    }

    /// Lets the steps look that wait for it, and deletes the message: it is lost without loss.
    async fn wake(&self, delivery: &Delivery, hint: &WakeHint) {
        let woken = self.engine.wake(|intent| hint.concerns(intent));
        debug!(?hint, woken, "heard of something that steps may wait for");
        if let Err(error) = self.queue.delete(std::slice::from_ref(&delivery.receipt)).await {
            debug!(message = %delivery.id, %error, "a hint could not be taken off its queue; it will come again, harmless");
        }
    }

    /// Of an event about several instances only those that are ours make an entry; of one about none of ours,
    /// the first.
    async fn leave_out_foreign(&self, entries: &mut Vec<Entry>) -> Result<(), ExecuteError<Rejection>> {
        if entries.len() < 2 {
            return Ok(());
        }
        let mut ours = Vec::with_capacity(entries.len());
        for entry in entries.iter() {
            ours.push(match &entry.content {
                Content::Signal(signal) => node_of(&self.engine, &signal.instance).await?.is_some(),
                Content::Submission(_) | Content::Settled(_) => true,
            });
        }
        if !ours.contains(&true) {
            ours[0] = true;
        }
        let mut ours = ours.into_iter();
        entries.retain(|_| ours.next().unwrap_or(true));
        Ok(())
    }

    /// How long a message has to wait before it can be taken; `None`: it is taken now. What is taken of an
    /// event about instances is what concerns ours, as a look shows it.
    async fn put_off(
        &self,
        delivery: &Delivery,
        entries: &mut Vec<Entry>,
    ) -> Result<Option<Duration>, ExecuteError<Rejection>> {
        if self.overtakes(delivery, entries).await? {
            return Ok(Some(YOUNG));
        }
        self.leave_out_foreign(entries).await?;
        for entry in entries.iter_mut() {
            let Content::Signal(signal) = &entry.content else { continue };
            if !confirm::needs_a_look(signal) || node_of(&self.engine, &signal.instance).await?.is_none() {
                continue;
            }
            let last = delivery.receive_count >= CONFIRM_RECEIVES;
            match confirm::look(self.cloud.as_ref(), signal).await {
                Look::Agrees(seen) => entry.content = Content::Signal(seen),
                Look::Contradicts { .. } if !last => return Ok(Some(CONFIRM_AGAIN)),
                Look::Contradicts { state } => {
                    let because = format!("{signal}, but EC2 shows it {state}");
                    entry.content = Content::Settled(Disposition::Noted { because });
                }
                Look::Failed { because } if !last => {
                    debug!(message = %delivery.id, %because, "an event waits until its instance can be described");
                    return Ok(Some(CONFIRM_AGAIN));
                }
                // The sweep looks as soon as EC2 answers again.
                Look::Failed { because } => {
                    let because = format!("{signal}, which EC2 does not confirm: {because}");
                    entry.content = Content::Settled(Disposition::Noted { because });
                }
            }
        }
        Ok(None)
    }

    /// Whether an event may be about an instance whose launch is still to be settled. One about several is
    /// told days ahead.
    async fn overtakes(
        &self,
        delivery: &Delivery,
        entries: &[Entry],
    ) -> Result<bool, ExecuteError<Rejection>> {
        let [Entry { content: Content::Signal(signal), .. }] = entries else { return Ok(false) };
        let age_ms = self.engine.clock().now_ms().saturating_sub(delivery.sent_at_ms);
        let is_young = Duration::from_millis(age_ms) < YOUNG;
        Ok(is_young && node_of(&self.engine, &signal.instance).await?.is_none())
    }

    fn read(&self, delivery: &Delivery) -> Message {
        let bytes = delivery.body.len();
        let queue = self.inbox_queue.name();
        let by_hash = || inbox_stream(queue, &format!("content {}", delivery.body));
        if bytes > self.inbox_queue.bytes_max() {
            let body = delivery.body.chars().take(OVERSIZED_KEPT).collect();
            let content = Content::Settled(Disposition::Oversized { bytes: bytes as u64 });
            return Message::Entries(vec![Entry { content, stream: by_hash(), body, reply: None }]);
        }
        let body = delivery.body.clone();
        let read = match self.inbox_queue {
            InboxQueue::Submissions => match Submission::parse(&body) {
                Ok(submission) => {
                    let reply = submission.reply_to.clone().map(|to| (Some(submission.id.clone()), to));
                    let stream = inbox_stream(queue, &submission.id.to_string());
                    let content = match self.too_late(&submission) {
                        Some(disposition) => Content::Settled(disposition),
                        None => Content::Submission(submission),
                    };
                    Entry { content, stream, body, reply }
                }
                Err(bad) => {
                    let reply = bad.reply_to.clone().map(|to| (bad.id.clone(), to));
                    let content = Content::Settled(Disposition::Malformed { because: bad.why });
                    Entry { content, stream: by_hash(), body, reply }
                }
            },
            InboxQueue::Interruptions => match events::parse(&body) {
                Parsed::Signal { signal, id } => Entry {
                    content: Content::Signal(signal),
                    stream: inbox_stream(queue, &id),
                    body,
                    reply: None,
                },
                Parsed::Notices { notices } => {
                    let entry = |notice: Notice| Entry {
                        content: Content::Signal(notice.signal),
                        stream: inbox_stream(queue, &notice.key),
                        body: notice.body,
                        reply: None,
                    };
                    return Message::Entries(notices.into_iter().map(entry).collect());
                }
                Parsed::WakeHint(hint) => return Message::WakeHint(hint),
                Parsed::Unknown { kind, id } => {
                    let content = Content::Settled(Disposition::Unknown { kind });
                    Entry { content, stream: inbox_stream(queue, &id), body, reply: None }
                }
                Parsed::Malformed { because } => {
                    let content = Content::Settled(Disposition::Malformed { because });
                    Entry { content, stream: by_hash(), body, reply: None }
                }
            },
        };
        Message::Entries(vec![read])
    }

    fn too_late(&self, submission: &Submission) -> Option<Disposition> {
        let deadline = submission.deadline.as_ref()?;
        match deadline.parse::<jiff::Timestamp>() {
            Ok(time) => {
                let late = u64::try_from(time.as_millisecond()).unwrap_or(0) < self.engine.clock().now_ms();
                late.then(|| Disposition::Rejected { because: format!("its deadline {deadline} has passed") })
            }
            Err(error) => Some(Disposition::Malformed {
                because: format!(
                    "deadline {deadline:?} is not RFC 3339 such as 2026-09-14T08:31:07Z: {error}"
                ),
            }),
        }
    }

    async fn write(
        &self,
        delivery: &Delivery,
        entry: &Entry,
    ) -> Result<Disposition, ExecuteError<Rejection>> {
        let envelope = Envelope {
            stream: entry.stream.clone(),
            queue: self.inbox_queue.name().to_owned(),
            message_id: delivery.id.clone(),
            sent_at_ms: delivery.sent_at_ms,
            bytes: delivery.body.len() as u64,
            body: entry.body.clone(),
        };
        if let Content::Signal(signal) = &entry.content
            && let Some(node) = node_of(&self.engine, &signal.instance).await?
        {
            self.refusals.on_signal(&self.engine, &node, signal).await;
        }
        let because = match self.command(&envelope, entry.content.clone()).await {
            // The domain cannot make anything of it: said so, in the journal, rather than tried for ever.
            Err(ExecuteError::Rejected(rejection)) => rejection.to_string(),
            Err(error @ ExecuteError::Corrupt { .. }) => {
                format!("{error}; run `perennial journal verify`")
            }
            written => return written,
        };
        self.command(&envelope, Content::Settled(Disposition::Rejected { because })).await
    }

    /// Has an entry decided on, and says what became of it.
    async fn command(
        &self,
        envelope: &Envelope,
        content: Content,
    ) -> Result<Disposition, ExecuteError<Rejection>> {
        let (envelope, owner) = (envelope.clone(), self.owner.clone());
        let stream = envelope.stream.clone();
        self.engine.execute(Command::Message { envelope, content, owner }).await?;
        let (state, _) = self.engine.load(&stream).await?;
        let disposition = match state.as_ref() {
            State::Inbox(inbox) => inbox.disposition.clone(),
            _ => None,
        };
        let because = || "BUG: the inbox entry has no disposition".to_owned();
        Ok(disposition.unwrap_or_else(|| Disposition::Rejected { because: because() }))
    }

    async fn answer(&self, id: Option<SubmissionId>, reply_to: &str, disposition: &Disposition) {
        let reply = Reply {
            schema: "perennial.reply/v1".to_owned(),
            id,
            accepted: disposition.is_accepted(),
            disposition: disposition.clone(),
            message: disposition.to_string(),
        };
        let body = match serde_json::to_string(&reply) {
            Ok(body) => body,
            Err(error) => return warn!(%error, "BUG: a reply is plain data"),
        };
        // An answer is a courtesy: the truth is in the journal, so a queue that fails does not hold the
        // message back.
        match self.replies.queue(reply_to) {
            Ok(queue) => {
                if let Err(error) = queue.send(vec![Outgoing::now(body)]).await {
                    warn!(%reply_to, %error, "an answer could not be sent; it is in the journal");
                }
            }
            Err(why) => warn!(%reply_to, %why, "an answer could not be sent; it is in the journal"),
        }
    }
}
