//! Ingest: letters from the queues into the journal.
//!
//! # Guarantees
//! - The raw message, its fate and everything it leads to are in the journal, in one atomic append, before the message is
//!   deleted. A crash in between finds the letter answered and only deletes.
//! - Every message has a fate ([`Fate`]); none stops the loop. What cannot be read goes to the dead letters with its reason.
//! - A message whose letter cannot be written (the journal is unavailable) stays in the queue.
//! - A hint ([`perennial_workflows::step::wake_hint`]) is no letter: it wakes the steps of this process that wait for it, and is gone.

use std::sync::Arc;
use std::time::Duration;

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::ids::StreamId;
use perennial_engine::queue::{BATCH_MESSAGES_MAX, Delivery, MESSAGE_BYTES_MAX, Outgoing, Queue};
use perennial_engine::retry::Intervals;
use perennial_engine::workers::Shutdown;
use perennial_workflows::aggregate::inbox::{Fate, letter_stream};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Content, Envelope, Rejection, Sight};
use perennial_workflows::domain::states::State;
use perennial_workflows::domain::submission::{Reply, Submission, SubmissionId, Work};
use perennial_workflows::model::backup_id::{BackupId, BookId};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};
use perennial_workflows::step::wake_hint::Hint;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::backups::present_book;
use crate::events::{self, Notice, Parsed};
use crate::pools::Pools;

/// The largest submission. A node file with the largest user data is under 40 KiB. (An event may have whatever fits a
/// message: a page of AWS Health's has up to 256 KiB.)
pub const SUBMISSION_BYTES_MAX: usize = 128 * 1024;

/// How much of an oversized letter is kept.
const OVERSIZED_KEPT: usize = 1_024;

/// How often a letter is decided anew because its node moved on meanwhile.
const MOVED_MAX: u32 = 20;

/// How long an event about an instance that nobody knows waits before it counts as foreign. The first state change of an
/// instance of ours can overtake the answer to its launch by a second or two; a foreign event costs one more receive.
const YOUNG: Duration = Duration::from_secs(10);

/// How long one receive waits (SQS: at most 20 s).
const WAIT: Duration = Duration::from_secs(20);

/// After a failing call.
const TROUBLE: Intervals =
    Intervals { first: Duration::from_millis(200), longest: Duration::from_secs(10), jitter: 0.0 };

/// Which of the two letter queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterBox {
    /// Asks for something.
    Submissions,
    /// AWS's events.
    Interruptions,
}

impl LetterBox {
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

/// One letter queue's reader.
pub struct Ingest {
    engine: Engine<Perennial>,
    queue: Arc<dyn Queue>,
    letter_box: LetterBox,
    owner: String,
    replies: Arc<dyn ReplyTo>,
    pools: Arc<Pools>,
}

/// What a message is.
enum Message {
    /// Letters, to be written before it is deleted; at least one.
    Letters(Vec<Read>),
    /// Something that only wakes steps.
    Hint(Hint),
}

/// A letter, read. A message is one, or (an event about several instances) several.
struct Read {
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
        letter_box: LetterBox,
        owner: String,
        replies: Arc<dyn ReplyTo>,
        pools: Arc<Pools>,
    ) -> Self {
        Self { engine, queue, letter_box, owner, replies, pools }
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
                    let mut letters = JoinSet::new();
                    for delivery in deliveries {
                        let this = Arc::clone(&this);
                        letters.spawn(async move { this.take(&delivery).await });
                    }
                    // A letter is short work; the next receive waits for it, so nothing is dropped by a shutdown.
                    while let Some(ended) = letters.join_next().await {
                        if let Err(error) = ended {
                            warn!(%error, "BUG: the reading of a letter panicked; it will come again");
                        }
                    }
                }
                Err(error) => {
                    trouble += 1;
                    warn!(queue = this.letter_box.name(), %error, "letters could not be received; trying again");
                    tokio::select! {
                        biased;
                        () = shutdown.asked() => return,
                        () = this.engine.clock().sleep(TROUBLE.after(trouble, 0.5)) => {}
                    }
                }
            }
        }
    }

    /// Takes one letter: journal, then answer, then delete. An error leaves it in the queue.
    async fn take(&self, delivery: &Delivery) {
        let mut letters = match self.read(delivery) {
            Message::Letters(letters) => letters,
            Message::Hint(hint) => return self.heed(delivery, &hint).await,
        };
        match self.overtakes(delivery, &letters).await {
            Ok(false) => {}
            Ok(true) => {
                if let Err(error) = self.queue.extend(&delivery.receipt, YOUNG).await {
                    warn!(message = %delivery.id, %error, "a young event could not be put off; it will come again");
                }
                return;
            }
            Err(error) => {
                warn!(message = %delivery.id, %error, "the journal cannot be read; the event will come again");
                return;
            }
        }
        if let Err(error) = self.leave_out_foreign(&mut letters).await {
            warn!(message = %delivery.id, %error, "the journal cannot be read; the event will come again");
            return;
        }
        let mut dead = None;
        for read in letters {
            // A stop between two letters finds the first ones answered when the message comes again.
            let fate = match self.write(delivery, &read).await {
                Ok(fate) => fate,
                Err(error) => {
                    warn!(queue = self.letter_box.name(), message = %delivery.id, %error, "a letter could not be written; it will come again");
                    return;
                }
            };
            info!(queue = self.letter_box.name(), message = %delivery.id, letter = %read.stream, "{fate}");
            if let Content::Signal(signal) = &read.content {
                let hint = Hint::Instance { instance: signal.instance.clone() };
                self.engine.wake(|intent| hint.concerns(intent));
            }
            if let Some((id, reply_to)) = read.reply {
                self.answer(id, &reply_to, &fate).await;
            }
            if fate.is_dead() {
                dead = Some(fate);
            }
        }
        let ended = match dead {
            Some(fate) => self.queue.dead_letter(delivery, &fate.to_string()).await,
            None => self.queue.delete(std::slice::from_ref(&delivery.receipt)).await,
        };
        if let Err(error) = ended {
            warn!(message = %delivery.id, %error, "an answered letter could not be taken off its queue; it will come again and be known");
        }
    }

    /// Lets the steps look that wait for it, and deletes the message: it is lost without loss.
    async fn heed(&self, delivery: &Delivery, hint: &Hint) {
        let woken = self.engine.wake(|intent| hint.concerns(intent));
        debug!(?hint, woken, "heard of something that steps may wait for");
        if let Err(error) = self.queue.delete(std::slice::from_ref(&delivery.receipt)).await {
            debug!(message = %delivery.id, %error, "a hint could not be taken off its queue; it will come again, harmless");
        }
    }

    /// Of an event about several instances only those that are ours make a letter; of one about none of ours, the first.
    async fn leave_out_foreign(&self, letters: &mut Vec<Read>) -> Result<(), ExecuteError<Rejection>> {
        if letters.len() < 2 {
            return Ok(());
        }
        let mut ours = Vec::with_capacity(letters.len());
        for read in letters.iter() {
            ours.push(match &read.content {
                Content::Signal(signal) => node_of(&self.engine, &signal.instance).await?.is_some(),
                Content::Submission(_) | Content::Settled(_) => true,
            });
        }
        if !ours.contains(&true) {
            ours[0] = true;
        }
        let mut ours = ours.into_iter();
        letters.retain(|_| ours.next().unwrap_or(true));
        Ok(())
    }

    /// Whether an event may be about an instance whose launch is still to be settled. One about several is told days ahead.
    async fn overtakes(
        &self,
        delivery: &Delivery,
        letters: &[Read],
    ) -> Result<bool, ExecuteError<Rejection>> {
        let [Read { content: Content::Signal(signal), .. }] = letters else { return Ok(false) };
        let age_ms = self.engine.clock().now_ms().saturating_sub(delivery.sent_at_ms);
        let is_young = Duration::from_millis(age_ms) < YOUNG;
        Ok(is_young && node_of(&self.engine, &signal.instance).await?.is_none())
    }

    fn read(&self, delivery: &Delivery) -> Message {
        let bytes = delivery.body.len();
        let queue = self.letter_box.name();
        let by_hash = || letter_stream(queue, &format!("content {}", delivery.body));
        if bytes > self.letter_box.bytes_max() {
            let body = delivery.body.chars().take(OVERSIZED_KEPT).collect();
            let content = Content::Settled(Fate::Oversized { bytes: bytes as u64 });
            return Message::Letters(vec![Read { content, stream: by_hash(), body, reply: None }]);
        }
        let body = delivery.body.clone();
        let read = match self.letter_box {
            LetterBox::Submissions => match Submission::parse(&body) {
                Ok(submission) => {
                    let reply = submission.reply_to.clone().map(|to| (Some(submission.id.clone()), to));
                    let stream = letter_stream(queue, &submission.id.to_string());
                    let content = match self.too_late(&submission) {
                        Some(fate) => Content::Settled(fate),
                        None => Content::Submission(submission),
                    };
                    Read { content, stream, body, reply }
                }
                Err(bad) => {
                    let reply = bad.reply_to.clone().map(|to| (bad.id.clone(), to));
                    let content = Content::Settled(Fate::Malformed { because: bad.why });
                    Read { content, stream: by_hash(), body, reply }
                }
            },
            LetterBox::Interruptions => match events::parse(&body) {
                Parsed::Signal { signal, id } => Read {
                    content: Content::Signal(signal),
                    stream: letter_stream(queue, &id),
                    body,
                    reply: None,
                },
                Parsed::Notices { notices } => {
                    let letter = |notice: Notice| Read {
                        content: Content::Signal(notice.signal),
                        stream: letter_stream(queue, &notice.key),
                        body: notice.body,
                        reply: None,
                    };
                    return Message::Letters(notices.into_iter().map(letter).collect());
                }
                Parsed::Hint(hint) => return Message::Hint(hint),
                Parsed::Unknown { kind, id } => {
                    let content = Content::Settled(Fate::Unknown { kind });
                    Read { content, stream: letter_stream(queue, &id), body, reply: None }
                }
                Parsed::Malformed { because } => {
                    let content = Content::Settled(Fate::Malformed { because });
                    Read { content, stream: by_hash(), body, reply: None }
                }
            },
        };
        Message::Letters(vec![read])
    }

    fn too_late(&self, submission: &Submission) -> Option<Fate> {
        let deadline = submission.deadline.as_ref()?;
        match deadline.parse::<jiff::Timestamp>() {
            Ok(time) => {
                let late = u64::try_from(time.as_millisecond()).unwrap_or(0) < self.engine.clock().now_ms();
                late.then(|| Fate::Rejected { because: format!("its deadline {deadline} has passed") })
            }
            Err(error) => Some(Fate::Malformed {
                because: format!(
                    "deadline {deadline:?} is not RFC 3339 such as 2026-09-14T08:31:07Z: {error}"
                ),
            }),
        }
    }

    async fn write(&self, delivery: &Delivery, read: &Read) -> Result<Fate, ExecuteError<Rejection>> {
        let envelope = Envelope {
            stream: read.stream.clone(),
            queue: self.letter_box.name().to_owned(),
            message_id: delivery.id.clone(),
            sent_at_ms: delivery.sent_at_ms,
            bytes: delivery.body.len() as u64,
            body: read.body.clone(),
        };
        let mut content = read.content.clone();
        for _ in 0..MOVED_MAX {
            let sight = match &content {
                Content::Submission(Submission { work: Work::Pool(_), .. }) => None,
                Content::Submission(submission) => {
                    let source = match &submission.work {
                        Work::Apply(apply) => apply.from_backup.as_ref(),
                        _ => None,
                    };
                    let source = match source.map(BackupId::node) {
                        Some(node) => {
                            Some(BookId::new(node.clone(), present_book(&self.engine, node).await?))
                        }
                        None => None,
                    };
                    Some(sight(&self.engine, &submission.node).await?.with_source(source))
                }
                Content::Signal(signal) => match node_of(&self.engine, &signal.instance).await? {
                    Some(node) => {
                        self.pools.heed(&self.engine, &node, signal).await;
                        Some(sight(&self.engine, &node).await?)
                    }
                    None => None,
                },
                Content::Settled(_) => None,
            };
            let command = Command::Letter {
                envelope: envelope.clone(),
                content: content.clone(),
                sight,
                owner: self.owner.clone(),
            };
            match self.engine.execute(command).await {
                Ok(_) => {
                    let (state, _) = self.engine.load(&read.stream).await?;
                    if let State::Letter(letter) = state.as_ref()
                        && let Some(fate) = &letter.fate
                    {
                        return Ok(fate.clone());
                    }
                    return Ok(Fate::Rejected { because: "BUG: the letter has no fate".to_owned() });
                }
                Err(ExecuteError::Rejected(Rejection::Moved { .. })) => {}
                Err(ExecuteError::Rejected(rejection)) => {
                    // The domain cannot make anything of it: said so, in the journal, rather than tried for ever.
                    content = Content::Settled(Fate::Rejected { because: rejection.to_string() });
                }
                Err(error @ ExecuteError::Corrupt { .. }) => {
                    let because = format!("{error}; run `perennial journal verify`");
                    content = Content::Settled(Fate::Rejected { because });
                }
                Err(error) => return Err(error),
            }
        }
        Err(ExecuteError::Contended { stream: read.stream.clone() })
    }

    async fn answer(&self, id: Option<SubmissionId>, reply_to: &str, fate: &Fate) {
        let reply = Reply {
            schema: "perennial.reply/v1".to_owned(),
            id,
            accepted: fate.is_accepted(),
            fate: fate.clone(),
            message: fate.to_string(),
        };
        let body = match serde_json::to_string(&reply) {
            Ok(body) => body,
            Err(error) => return warn!(%error, "BUG: a reply is plain data"),
        };
        // An answer is a courtesy: the truth is in the journal, so a queue that fails does not hold the letter back.
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

/// What can be seen of a node now.
///
/// # Errors
/// When the journal cannot be read.
pub async fn sight(engine: &Engine<Perennial>, name: &NodeName) -> Result<Sight, ExecuteError<Rejection>> {
    let (state, _) = engine.load(&node_stream(name)).await?;
    let book = present_book(engine, name).await?;
    Ok(match state.as_ref() {
        State::Node(node) => Sight::of(name, node).with_book(book),
        _ => Sight { node: name.clone(), operations: 0, open: None, pools: Vec::new(), book, source: None },
    })
}

/// The node an instance belongs or belonged to.
///
/// # Errors
/// When the journal cannot be read.
pub async fn node_of(
    engine: &Engine<Perennial>,
    instance: &perennial_workflows::model::aws::InstanceId,
) -> Result<Option<NodeName>, ExecuteError<Rejection>> {
    let streams = engine.journal().lookup(&format!("instance/{instance}")).await?;
    Ok(streams.iter().find_map(|stream| match stream.category() {
        "node" => NodeName::parse(stream.name()).ok(),
        _ => OperationId::of_stream(stream).map(|id| id.node().clone()),
    }))
}
