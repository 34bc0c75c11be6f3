//! Ingest: messages from the queues into the inbox, which is in the journal.
//!
//! # Guarantees
//! - The raw message, its disposition and everything it leads to are in the journal, in one atomic append,
//!   before the message is deleted. A crash in between finds the inbox entry answered and only deletes.
//! - Every message has a disposition ([`Disposition`]); none stops the loop. What cannot be read goes to the
//!   dead-letter queue with its reason.
//! - While the journal cannot be written nothing more is received, and what was received (at most a hundred
//!   messages) is held until it can: a full disk must not bring messages into the dead-letter queue.
//! - A key names one content: the same id with another content is answered with a refusal, and an event whose
//!   id stands for another event has an entry of its own.
//! - What nothing comes of (events about instances that are none of ours, of kinds that are not known) is
//!   counted, not kept (`counter`).
//! - An event of another account or region than ours, or from before the launch of its instance, is noted.
//! - That an instance stops or has ended is believed only when EC2 shows it: an event is a reason to look.
//! - A wake hint ([`perennial_workflows::step::wake_hint`]) is no inbox entry: it wakes the steps of this
//!   process that wait for it, and is gone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::AppendError;
use perennial_engine::queue::{BATCH_MESSAGES_MAX, Delivery, Outgoing, Queue, QueueError};
use perennial_engine::retry::Intervals;
use perennial_engine::shutdown::Shutdown;
use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Content, Envelope, Rejection};
use perennial_workflows::domain::states::State;
use perennial_workflows::domain::submission::{Reply, SubmissionId};
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::installation::Place;
use perennial_workflows::model::signal::{News, Signal, Source};
use perennial_workflows::model::text::clip;
use perennial_workflows::step::wake_hint::WakeHint;
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, info, warn};

use super::confirm::{self, Look};
use super::counter::Counter;
use super::events::Origin;
use super::inbox_queue::InboxQueue;
use super::lookup::node_of;
use super::message::{self, Entry};
use crate::capacity::refusals::CapacityRefusals;
use crate::cloud::observer::Observer;
use crate::port::Cloud;

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

/// How old an event is whose instance is looked at first: it may be about an earlier life of it, or made up.
/// EventBridge delivers within seconds, and gives up after a day.
const OLD_MS: u64 = 10 * 60 * 1_000;

/// How long before its launch an event about an instance may be: clocks differ.
const LAUNCH_SLACK_MS: u64 = 60 * 1_000;

/// For how long a message is held, again and again, while the journal cannot be written. It is more than the
/// longest pause between two tries ([`TROUBLE`]).
const HELD: Duration = Duration::from_secs(60);

/// How often a dead letter is tried, beyond which it is only deleted: the inbox has its reason, and what it
/// keeps of it. Otherwise a message that no dead-letter queue takes would come again for days.
const DEAD_RECEIVES: u32 = 5;

/// How often the same body is given to the dead letters by one process; then it is only deleted. A person
/// moves a dead letter back once or twice; a queue whose dead letters are received again does it for ever.
const GIVEN_UP_AGAIN_MAX: u32 = 5;

/// How many bodies that were given to the dead letters are remembered: less than half a megabyte.
const GIVEN_UP_MAX: usize = 10_000;

/// How much of the name of a reply queue is repeated, in characters.
const NAME_SHOWN: usize = 100;

/// At this failure in a row the log says so: one lost connection is an ordinary day.
const TROUBLE_TOLD: u32 = 2;

/// After a failing call.
const TROUBLE: Intervals =
    Intervals { first: Duration::from_millis(200), longest: Duration::from_secs(10), jitter: 0.0 };

/// How many messages are in hand at once. A zone that is lost sends hundreds of events, each of which waits
/// for a look that they share; and a warning must not wait behind all of them. So many are held while the
/// journal cannot be written.
const IN_HAND_MAX: usize = 100;

fn look_at_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "BUG: the reading of a message panicked; it will come again");
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
    place: Place,
    replies: Arc<dyn ReplyTo>,
    refusals: Arc<CapacityRefusals>,
    cloud: Arc<dyn Cloud>,
    observer: Observer,
    counter: Counter,
    /// The journal cannot be written: said once.
    is_held: AtomicBool,
    given_up: GivenUp,
    /// An answered message could not be deleted: said once.
    is_left: AtomicBool,
}

/// Whether the log has a better line of what became of an entry, or needs none: a workflow's beginning is its
/// own line, and EC2 tells each change of the state of each instance.
fn is_routine(queue: InboxQueue, content: &Content, disposition: &Disposition) -> bool {
    let is_of_an_event = matches!(queue, InboxQueue::Interruptions);
    let is_a_state = matches!(content, Content::Signal(Signal { news: News::StateChange { .. }, .. }));
    match disposition {
        Disposition::Started { .. } => true,
        Disposition::Joined { .. } | Disposition::Past { .. } => is_of_an_event,
        Disposition::Foreign { .. } | Disposition::Unknown { .. } => is_of_an_event,
        Disposition::Noted { .. } => is_a_state,
        _ => false,
    }
}

/// How often each body was given to the dead letters by this process, by its hash.
#[derive(Debug, Default)]
struct GivenUp(Mutex<BTreeMap<[u8; 32], u32>>);

impl GivenUp {
    /// Counts once more.
    fn times(&self, body: &str) -> u32 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = *blake3::hash(body.as_bytes()).as_bytes();
        if known.len() >= GIVEN_UP_MAX && !known.contains_key(&hash) {
            known.clear();
        }
        let times = known.entry(hash).or_default();
        *times = times.saturating_add(1);
        *times
    }
}

/// What becomes of an entry at a try.
enum Tried {
    /// It has to wait: what it says may be overtaking the launch, or is not confirmed yet.
    Later(Duration),
    /// It is in the journal, or counted.
    Done(Disposition),
}

impl Ingest {
    /// A reader of one queue.
    #[must_use]
    pub fn new(
        engine: Engine<Perennial>,
        queue: Arc<dyn Queue>,
        inbox_queue: InboxQueue,
        place: Place,
        replies: Arc<dyn ReplyTo>,
        refusals: Arc<CapacityRefusals>,
        cloud: Arc<dyn Cloud>,
    ) -> Self {
        let (counter, is_held) = (Counter::default(), AtomicBool::new(false));
        let (given_up, is_left) = (GivenUp::default(), AtomicBool::new(false));
        let observer = Observer::new(Arc::clone(&cloud), engine.clock().clone());
        Self {
            engine,
            queue,
            inbox_queue,
            place,
            replies,
            refusals,
            cloud,
            observer,
            counter,
            is_held,
            given_up,
            is_left,
        }
    }

    /// Reads until the shutdown is asked for.
    pub async fn run(self, shutdown: Shutdown) {
        let this = Arc::new(self);
        let mut trouble = 0;
        let mut taken = JoinSet::new();
        while !shutdown.is_asked() {
            this.make_room(&mut taken, &shutdown).await;
            let received = tokio::select! {
                biased;
                () = shutdown.asked() => break,
                received = this.queue.receive(BATCH_MESSAGES_MAX, WAIT) => received,
            };
            match received {
                Ok(deliveries) => {
                    if trouble >= TROUBLE_TOLD {
                        info!(
                            queue = this.inbox_queue.name(),
                            failed = trouble,
                            "messages are received again"
                        );
                    }
                    trouble = 0;
                    for delivery in deliveries {
                        let (this, shutdown) = (Arc::clone(&this), shutdown.clone());
                        taken.spawn(async move { this.take(&delivery, &shutdown).await });
                    }
                    this.count(false).await;
                }
                Err(error) => {
                    trouble += 1;
                    if trouble == TROUBLE_TOLD {
                        warn!(queue = this.inbox_queue.name(), %error, "messages cannot be received; it is tried again until they can");
                    } else {
                        debug!(queue = this.inbox_queue.name(), %error, "messages could not be received");
                    }
                    tokio::select! {
                        biased;
                        () = shutdown.asked() => break,
                        () = this.engine.clock().sleep(TROUBLE.after(trouble, 0.5)) => {}
                    }
                }
            }
        }
        // Nothing is dropped by a shutdown.
        while let Some(ended) = taken.join_next().await {
            look_at_panic(ended);
        }
        this.count(true).await;
    }

    /// Waits until there is room for the messages of another receive. While the journal cannot be written
    /// there is none: what was received is written first.
    async fn make_room(&self, taken: &mut JoinSet<()>, shutdown: &Shutdown) {
        while let Some(ended) = taken.try_join_next() {
            look_at_panic(ended);
        }
        while taken.len() > IN_HAND_MAX - BATCH_MESSAGES_MAX || self.is_held.load(Ordering::Relaxed) {
            if let Some(ended) = taken.join_next().await {
                look_at_panic(ended);
            } else if self.is_held.swap(false, Ordering::Relaxed) && !shutdown.is_asked() {
                info!(
                    queue = self.inbox_queue.name(),
                    "the journal can be written again; messages are received"
                );
            }
        }
    }

    /// Writes down how many messages came that nothing comes of.
    async fn count(&self, now: bool) {
        let (queue, owner) = (self.inbox_queue.name(), &self.place.owner);
        if let Err(error) = self.counter.write(&self.engine, queue, owner, now).await {
            warn!(queue, %error, "the number of messages that nothing comes of could not be written; it is kept");
        }
    }

    /// Takes one message: journal, then answer, then delete. An error leaves it in the queue.
    async fn take(&self, delivery: &Delivery, shutdown: &Shutdown) {
        let read = message::read(delivery, self.inbox_queue, self.engine.clock().now_ms());
        for hint in &read.hints {
            let woken = self.engine.wake(|intent| hint.concerns(intent));
            debug!(?hint, woken, "heard of something that steps may wait for");
        }
        let (mut dead, mut later) = (None, None::<Duration>);
        for entry in read.entries {
            // A stop between two entries finds the first ones answered when the message comes again.
            let disposition = match self.hold(delivery, &entry, shutdown).await {
                Some(Tried::Done(disposition)) => disposition,
                Some(Tried::Later(wait)) => {
                    later = Some(later.map_or(wait, |other| other.min(wait)));
                    continue;
                }
                None => return,
            };
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
        match (later, dead) {
            (Some(wait), _) => {
                if let Err(error) = self.queue.extend(&delivery.receipt, wait).await {
                    warn!(id = %delivery.id, %error, "an event could not be put off; it will come again");
                }
            }
            (None, Some(disposition)) => self.bury(delivery, &disposition).await,
            (None, None) => self.delete(delivery).await,
        }
    }

    async fn delete(&self, delivery: &Delivery) {
        let queue = self.inbox_queue.name();
        match self.queue.delete(std::slice::from_ref(&delivery.receipt)).await {
            Ok(()) => {
                if self.is_left.swap(false, Ordering::Relaxed) {
                    info!(queue, "answered messages are taken off their queue again");
                }
            }
            Err(error) if !self.is_left.swap(true, Ordering::Relaxed) => {
                warn!(queue, id = %delivery.id, %error, "an answered message could not be taken off its queue; it will come again and be known");
            }
            Err(error) => {
                debug!(queue, id = %delivery.id, %error, "nor could this one be taken off its queue");
            }
        }
    }

    /// Gives a message to the dead letters. One that no dead-letter queue takes is deleted in the end: it
    /// must not go round until its retention is over.
    async fn bury(&self, delivery: &Delivery, disposition: &Disposition) {
        if self.given_up.times(&delivery.body) > GIVEN_UP_AGAIN_MAX {
            warn!(queue = self.inbox_queue.name(), id = %delivery.id, %disposition, "a message that was given to the dead letters comes again and again, and is deleted: is its dead-letter queue one that is read? the journal has its beginning, size and hash");
            return self.delete(delivery).await;
        }
        let Err(error) = self.queue.dead_letter(delivery, &disposition.to_string()).await else { return };
        let never = matches!(error, QueueError::Refused { .. } | QueueError::Misconfigured { .. });
        if never && delivery.receive_count >= DEAD_RECEIVES {
            warn!(id = %delivery.id, %error, %disposition, "a message that could not be read is deleted: no dead-letter queue takes it; the journal has its beginning, size and hash");
            return self.delete(delivery).await;
        }
        warn!(id = %delivery.id, %error, "a message that could not be read could not be given to the dead letters; it will come again");
    }

    /// Tries an entry until the journal takes it; `None` when the shutdown came first.
    async fn hold(&self, delivery: &Delivery, entry: &Entry, shutdown: &Shutdown) -> Option<Tried> {
        let queue = self.inbox_queue.name();
        for tries in 1.. {
            let error = match self.settle(delivery, entry).await {
                Ok(tried) => return Some(tried),
                Err(error) => error,
            };
            if !self.is_held.swap(true, Ordering::Relaxed) {
                warn!(queue, id = %delivery.id, %error, "the journal cannot be written: what was received is held, and nothing more is received until it can");
            }
            // A receipt that is void means that the message comes again; its entry is tried all the same.
            let held = self.queue.extend(&delivery.receipt, HELD).await;
            debug!(queue, id = %delivery.id, ?held, %error, "held");
            tokio::select! {
                biased;
                () = shutdown.asked() => break,
                () = self.engine.clock().sleep(TROUBLE.after(tries, 0.5)) => {}
            }
        }
        if let Err(error) = self.queue.extend(&delivery.receipt, Duration::ZERO).await {
            debug!(queue, id = %delivery.id, %error, "a held message could not be given back");
        }
        None
    }

    /// Judges an entry and writes it down.
    async fn settle(&self, delivery: &Delivery, entry: &Entry) -> Result<Tried, ExecuteError<Rejection>> {
        let content = match &entry.content {
            Content::Signal(signal) => match self.judge(delivery, signal, &entry.origin).await? {
                Ok(Content::Settled(noted)) => {
                    self.ring(entry, &signal.instance).await?.unwrap_or(Content::Settled(noted))
                }
                Ok(content) => content,
                Err(wait) => return Ok(Tried::Later(wait)),
            },
            content => content.clone(),
        };
        let queue = self.inbox_queue.name();
        let ours = self.ours(&entry.names).await?;
        let content = match ours {
            Some(instance) => self.ring(entry, instance).await?.unwrap_or(content),
            None => content,
        };
        if let Content::Settled(disposition) = &content {
            let is_ours = ours.is_some();
            if self.counter.takes(disposition, is_ours, self.engine.clock().steady_ms()) {
                debug!(queue, id = %delivery.id, "counted: {disposition}");
                return Ok(Tried::Done(disposition.clone().bounded()));
            }
        }
        let disposition = match self.write(delivery, entry, content).await {
            Err(ExecuteError::Append(AppendError::Refused { why })) => {
                let because = format!("it cannot be kept: {why}");
                let content = Content::Settled(Disposition::Rejected { because });
                let cut = Entry { body: clip(&entry.body, NAME_SHOWN), ..entry.clone() };
                self.write(delivery, &cut, content).await?
            }
            written => written?,
        };
        match &disposition {
            Disposition::Malformed { .. } | Disposition::Oversized { .. } | Disposition::Mismatch { .. } => {
                warn!(queue, id = %delivery.id, entry = %entry.stream, "{disposition}");
            }
            _ if is_routine(self.inbox_queue, &entry.content, &disposition) => {
                debug!(queue, id = %delivery.id, entry = %entry.stream, "{disposition}");
            }
            _ => info!(queue, id = %delivery.id, entry = %entry.stream, "{disposition}"),
        }
        Ok(Tried::Done(disposition))
    }

    /// The first of some instances that is ours.
    async fn ours<'a>(
        &self,
        names: &'a [InstanceId],
    ) -> Result<Option<&'a InstanceId>, ExecuteError<Rejection>> {
        for instance in names {
            if node_of(&self.engine, instance).await?.is_some() {
                return Ok(Some(instance));
            }
        }
        Ok(None)
    }

    /// A message that names an instance of ours is a doorbell, whatever else it is: if EC2 shows that the
    /// instance is being taken, that is what is known.
    async fn ring(
        &self,
        entry: &Entry,
        instance: &InstanceId,
    ) -> Result<Option<Content>, ExecuteError<Rejection>> {
        if node_of(&self.engine, instance).await?.is_none() {
            return Ok(None);
        }
        let at_ms = self.engine.clock().now_ms();
        let Some(news) = confirm::seen(self.cloud.as_ref(), instance, at_ms).await else { return Ok(None) };
        let source = Source::Event { id: entry.stream.name().to_owned() };
        Ok(Some(Content::Signal(Signal { instance: instance.clone(), news, source, at_ms })))
    }

    /// What is made of an event about an instance: what concerns ours, as a look shows it; or how long it has
    /// to wait before it can be taken.
    async fn judge(
        &self,
        delivery: &Delivery,
        signal: &Signal,
        origin: &Origin,
    ) -> Result<Result<Content, Duration>, ExecuteError<Rejection>> {
        let noted = |because| Ok(Ok(Content::Settled(Disposition::Noted { because })));
        if node_of(&self.engine, &signal.instance).await?.is_none() {
            // It may be about an instance whose launch is still to be settled. A change is told days ahead.
            let age_ms = self.engine.clock().now_ms().saturating_sub(delivery.sent_at_ms);
            let is_young = Duration::from_millis(age_ms) < YOUNG;
            if is_young && !matches!(signal.news, News::ScheduledChange { .. }) {
                return Ok(Err(YOUNG));
            }
            let instance = Some(signal.instance.clone());
            return Ok(Ok(Content::Settled(Disposition::Foreign { instance })));
        }
        if let Some(because) = self.is_from_elsewhere(origin) {
            return noted(format!("{signal}, but {because}"));
        }
        if !confirm::needs_a_look(signal) {
            let is_old = signal.at_ms.saturating_add(OLD_MS) < self.engine.clock().now_ms();
            if is_old
                && let Some(launched_at_ms) = confirm::launched(self.cloud.as_ref(), signal).await
                && signal.at_ms.saturating_add(LAUNCH_SLACK_MS) < launched_at_ms
            {
                return noted(format!("{signal}, but the event is older than its instance"));
            }
            return Ok(Ok(Content::Signal(signal.clone())));
        }
        let last = delivery.receive_count >= CONFIRM_RECEIVES;
        match confirm::look(&self.observer, signal).await {
            Look::Agrees(seen) => Ok(Ok(Content::Signal(seen))),
            Look::Contradicts { .. } if !last => Ok(Err(CONFIRM_AGAIN)),
            Look::Contradicts { state } => noted(format!("{signal}, but EC2 shows it {state}")),
            Look::Failed { because } if !last => {
                debug!(id = %delivery.id, %because, "an event waits until its instance can be described");
                Ok(Err(CONFIRM_AGAIN))
            }
            // The sweep looks as soon as EC2 answers again.
            Look::Failed { because } => noted(format!("{signal}, which EC2 does not confirm: {because}")),
        }
    }

    /// Why an event cannot be about an instance of this account and region. What one of them does not name is
    /// no difference.
    fn is_from_elsewhere(&self, origin: &Origin) -> Option<String> {
        let differ = |event: &Option<String>, ours: &Option<String>| match (event, ours) {
            (Some(event), Some(ours)) => event != ours,
            _ => false,
        };
        let Place { account, region, .. } = &self.place;
        // A simulated region goes by another name than its events.
        let region = region.as_ref().filter(|region| region.split('-').count() >= 3).cloned();
        if differ(&origin.account, account) {
            let of = origin.account.as_deref().unwrap_or_default();
            return Some(format!("the event is of account {of}, not of ours"));
        }
        if differ(&origin.region, &region) {
            let of = origin.region.as_deref().unwrap_or_default();
            return Some(format!("the event is of region {of}, not of ours"));
        }
        None
    }

    async fn write(
        &self,
        delivery: &Delivery,
        entry: &Entry,
        content: Content,
    ) -> Result<Disposition, ExecuteError<Rejection>> {
        let mut envelope = Envelope {
            stream: entry.stream.clone(),
            queue: self.inbox_queue.name().to_owned(),
            message_id: delivery.id.clone(),
            sent_at_ms: delivery.sent_at_ms,
            bytes: delivery.body.len() as u64,
            body: entry.body.clone(),
            content: entry.hash.clone(),
            sender: delivery.sender.clone(),
        };
        if let Content::Signal(signal) = &content
            && let Some(node) = node_of(&self.engine, &signal.instance).await?
        {
            self.refusals.on_signal(&self.engine, &node, signal).await;
        }
        let mut disposition = self.decided(&envelope, content.clone()).await?;
        if let (Disposition::Mismatch { .. }, Some(other)) = (&disposition, &entry.other_stream) {
            // Another event with the same id, such as a transformer writes.
            envelope.stream.clone_from(other);
            disposition = self.decided(&envelope, content).await?;
        }
        Ok(disposition)
    }

    /// Has an entry decided on. What the domain cannot make anything of is said so, in the journal, rather
    /// than tried for ever.
    async fn decided(
        &self,
        envelope: &Envelope,
        content: Content,
    ) -> Result<Disposition, ExecuteError<Rejection>> {
        let because = match self.command(envelope, content).await {
            Err(ExecuteError::Rejected(rejection)) => rejection.to_string(),
            Err(error @ ExecuteError::Corrupt { .. }) => {
                format!("{error}; run `perennial journal verify`")
            }
            written => return written,
        };
        self.command(envelope, Content::Settled(Disposition::Rejected { because })).await
    }

    /// Has an entry decided on, and says what became of it.
    async fn command(
        &self,
        envelope: &Envelope,
        content: Content,
    ) -> Result<Disposition, ExecuteError<Rejection>> {
        let (envelope, owner) = (envelope.clone(), self.place.owner.clone());
        let (stream, hash) = (envelope.stream.clone(), envelope.content.clone());
        self.engine.execute(Command::Message { envelope, content, owner }).await?;
        let (state, _) = self.engine.load(&stream).await?;
        Ok(match state.as_ref() {
            State::Inbox(inbox) => inbox.answer(hash.as_deref()),
            _ => None,
        }
        .unwrap_or_else(|| Disposition::Rejected {
            because: "BUG: the inbox entry has no disposition".to_owned(),
        }))
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
                    let reply_to = clip(reply_to, NAME_SHOWN);
                    warn!(?reply_to, %error, "an answer could not be sent; it is in the journal");
                }
            }
            Err(why) => {
                let reply_to = clip(reply_to, NAME_SHOWN);
                warn!(?reply_to, %why, "an answer could not be sent; it is in the journal");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use perennial_workflows::model::aws::InstanceState;
    use perennial_workflows::model::name::NodeName;
    use perennial_workflows::model::operation_id::OperationId;

    use super::*;

    #[test]
    fn the_log_has_one_line_of_a_workflows_beginning_and_none_of_each_state() {
        let operation = OperationId::new(NodeName::parse("db-1").unwrap(), 2);
        let signal = |news: News| {
            let instance = InstanceId::parse("i-0aa11bb22cc33dd44").unwrap();
            Content::Signal(Signal { instance, news, source: Source::Event { id: "e".into() }, at_ms: 0 })
        };
        let state = || signal(News::StateChange { state: InstanceState::Running });
        let noted = || Disposition::Noted { because: "known".into() };
        let started = Disposition::Started { operation: operation.clone() };
        let joined = Disposition::Joined { operation };
        let rejected = Disposition::Rejected { because: "held".into() };
        let (events, asked) = (InboxQueue::Interruptions, InboxQueue::Submissions);
        assert!(is_routine(events, &state(), &noted()));
        assert!(
            !is_routine(events, &signal(News::Rebalance), &noted()),
            "a recommendation that is not followed"
        );
        assert!(is_routine(asked, &state(), &started) && is_routine(events, &state(), &started));
        assert!(is_routine(events, &state(), &joined) && !is_routine(asked, &state(), &joined));
        assert!(!is_routine(events, &state(), &rejected) && !is_routine(asked, &state(), &rejected));
    }
}
