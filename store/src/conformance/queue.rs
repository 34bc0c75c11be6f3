//! The conformance suite of the port `Queue`.
//!
//! SQS promises at least once, in any order, with counts that are about right and times in whole seconds. The
//! suite holds adapters to that and to nothing stricter: it waits in the queue until what must happen has
//! happened, and says that something must *not* happen only where no correct queue could do it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use perennial_engine::queue::{
    BATCH_MESSAGES_MAX, Delivery, MESSAGE_BYTES_MAX, Outgoing, Queue, QueueError, Receipt,
};
use tokio::task::JoinSet;

/// What the suite needs to know about an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// The shortest visibility timeout and delay the adapter keeps faithfully: 1 s for SQS.
    pub min_visibility: Duration,
    /// How long the suite waits for what must happen.
    pub patience: Duration,
}

/// What a fresh queue must be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Its visibility timeout.
    pub visibility: Duration,
    /// Its limit of receives.
    pub max_receives: u32,
}

/// Runs every case, each on an empty queue of its own.
///
/// # Panics
/// When the adapter breaks a promise of the port.
pub async fn all(traits: Traits, fresh: impl AsyncFn(Needs) -> Arc<dyn Queue>) {
    let long = Needs { visibility: Duration::from_secs(600), max_receives: 5 };
    let short = Needs { visibility: traits.min_visibility, max_receives: 1_000 };
    let twice = Needs { visibility: traits.min_visibility, max_receives: 2 };
    an_empty_queue_has_nothing(fresh(long).await).await;
    what_is_sent_is_received_and_deleted(traits, fresh(long).await).await;
    a_batch_arrives_whole(traits, fresh(long).await).await;
    a_received_message_is_invisible(traits, fresh(long).await).await;
    a_message_comes_again_after_its_visibility_timeout(traits, fresh(short).await).await;
    extending_keeps_a_message_and_zero_gives_it_back(traits, fresh(short).await).await;
    an_old_receipt_neither_extends_nor_deletes(traits, fresh(short).await).await;
    a_deleted_message_cannot_be_extended(traits, fresh(long).await).await;
    a_delayed_message_is_not_seen_before_its_time(traits, fresh(long).await).await;
    a_message_received_too_often_is_a_dead_letter(traits, fresh(twice).await).await;
    a_message_is_given_up_with_a_reason(traits, fresh(long).await).await;
    a_waiting_receiver_is_woken_by_a_send(traits, fresh(long).await).await;
    many_receivers_share_the_messages(traits, fresh(long).await).await;
    every_bound_is_refused_by_name(traits, fresh(long).await).await;
    texts_of_every_kind_round_trip(traits, fresh(long).await).await;
}

/// Receives until `count` messages are there or the patience ends.
async fn receive(traits: Traits, queue: &dyn Queue, count: usize) -> Vec<Delivery> {
    let mut found = Vec::new();
    // Each empty receive waits a tenth of the patience inside the queue.
    let mut empty = 0;
    while found.len() < count && empty < 10 {
        let more = queue.receive(BATCH_MESSAGES_MAX, traits.patience / 10).await.expect("a receive");
        empty += u32::from(more.is_empty());
        found.extend(more);
    }
    assert_eq!(found.len(), count, "the messages that must be there are there: {found:?}");
    found
}

async fn receive_one(traits: Traits, queue: &dyn Queue) -> Delivery {
    receive(traits, queue, 1).await.remove(0)
}

/// Receives a message and keeps it for ten minutes. On a machine so slow that the short visibility timeout
/// passes between the two calls, it tries again: no statement of the suite rests on how fast the machine is.
async fn receive_and_keep(traits: Traits, queue: &dyn Queue) -> Delivery {
    for _ in 0..100 {
        let delivery = receive_one(traits, queue).await;
        match queue.extend(&delivery.receipt, Duration::from_secs(600)).await {
            Ok(()) => return delivery,
            Err(QueueError::ReceiptExpired) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("a message that was just received can be extended");
}

async fn nothing_now(queue: &dyn Queue) {
    let found = queue.receive(BATCH_MESSAGES_MAX, Duration::ZERO).await.expect("a receive");
    assert!(found.is_empty(), "nothing may be received now: {found:?}");
}

/// Nothing is there, nothing is found, nothing fails.
///
/// # Panics
/// When the promise is broken.
pub async fn an_empty_queue_has_nothing(queue: Arc<dyn Queue>) {
    nothing_now(&*queue).await;
    assert!(queue.receive(1, Duration::from_millis(20)).await.unwrap().is_empty());
    assert!(queue.dead_letters(10).await.unwrap().is_empty());
}

/// Body, first count, and gone after deletion; deleting twice is no error.
///
/// # Panics
/// When the promise is broken.
pub async fn what_is_sent_is_received_and_deleted(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("hello")]).await.unwrap();
    let delivery = receive_one(traits, &*queue).await;
    assert_eq!((delivery.body.as_str(), delivery.receive_count), ("hello", 1));
    assert!(!delivery.id.is_empty() && delivery.sent_at_ms > 0);
    queue.delete(std::slice::from_ref(&delivery.receipt)).await.unwrap();
    queue.delete(std::slice::from_ref(&delivery.receipt)).await.unwrap();
    nothing_now(&*queue).await;
}

/// Ten at once, each with its own id, deleted at once.
///
/// # Panics
/// When the promise is broken.
pub async fn a_batch_arrives_whole(traits: Traits, queue: Arc<dyn Queue>) {
    let bodies: BTreeSet<String> = (0..BATCH_MESSAGES_MAX).map(|n| format!("m{n}")).collect();
    queue.send(bodies.iter().map(Outgoing::now).collect()).await.unwrap();
    let found = receive(traits, &*queue, BATCH_MESSAGES_MAX).await;
    assert_eq!(found.iter().map(|d| d.body.clone()).collect::<BTreeSet<_>>(), bodies);
    assert_eq!(found.iter().map(|d| d.id.clone()).collect::<BTreeSet<_>>().len(), bodies.len());
    let receipts: Vec<_> = found.into_iter().map(|d| d.receipt).collect();
    queue.delete(&receipts).await.unwrap();
    nothing_now(&*queue).await;
}

/// Others do not see it while it is worked on.
///
/// # Panics
/// When the promise is broken.
pub async fn a_received_message_is_invisible(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("mine")]).await.unwrap();
    let delivery = receive_one(traits, &*queue).await;
    nothing_now(&*queue).await;
    assert!(queue.receive(1, Duration::from_millis(50)).await.unwrap().is_empty());
    queue.delete(&[delivery.receipt]).await.unwrap();
}

/// The same id, a higher count, another receipt.
///
/// # Panics
/// When the promise is broken.
pub async fn a_message_comes_again_after_its_visibility_timeout(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("again")]).await.unwrap();
    let first = receive_one(traits, &*queue).await;
    let second = receive_one(traits, &*queue).await;
    assert_eq!((&second.id, &second.body), (&first.id, &first.body));
    assert_eq!((first.receive_count, second.receive_count), (1, 2));
    assert_ne!(first.receipt, second.receipt, "each receive has its own receipt");
    queue.delete(&[second.receipt]).await.unwrap();
    nothing_now(&*queue).await;
}

/// Extended far beyond the timeout it stays away; given back it comes at once.
///
/// # Panics
/// When the promise is broken.
pub async fn extending_keeps_a_message_and_zero_gives_it_back(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("long work")]).await.unwrap();
    let first = receive_and_keep(traits, &*queue).await;
    let meanwhile = queue.receive(1, traits.min_visibility * 2).await.unwrap();
    assert!(meanwhile.is_empty(), "an extended message stays invisible: {meanwhile:?}");
    queue.extend(&first.receipt, Duration::ZERO).await.unwrap();
    let second = receive_one(traits, &*queue).await;
    assert_eq!((second.id, second.receive_count), (first.id, first.receive_count + 1));
}

/// Who was too slow can do no harm to who has the message now.
///
/// # Panics
/// When the promise is broken.
pub async fn an_old_receipt_neither_extends_nor_deletes(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("contested")]).await.unwrap();
    let old = receive_one(traits, &*queue).await;
    let new = receive_and_keep(traits, &*queue).await;
    assert_eq!(queue.extend(&old.receipt, Duration::ZERO).await, Err(QueueError::ReceiptExpired));
    queue.delete(std::slice::from_ref(&old.receipt)).await.unwrap();
    nothing_now(&*queue).await;
    queue.extend(&new.receipt, Duration::ZERO).await.expect("the old receipt deleted nothing");
    let third = receive_one(traits, &*queue).await;
    assert_eq!(third.id, new.id);
}

/// Neither can a receipt that never was one.
///
/// # Panics
/// When the promise is broken.
pub async fn a_deleted_message_cannot_be_extended(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("done")]).await.unwrap();
    let delivery = receive_one(traits, &*queue).await;
    queue.delete(std::slice::from_ref(&delivery.receipt)).await.unwrap();
    let later = Duration::from_secs(60);
    assert_eq!(queue.extend(&delivery.receipt, later).await, Err(QueueError::ReceiptExpired));
    let made_up = Receipt("no receipt of anybody".into());
    assert_eq!(queue.extend(&made_up, later).await, Err(QueueError::ReceiptExpired));
}

/// What is not delayed comes first.
///
/// # Panics
/// When the promise is broken.
pub async fn a_delayed_message_is_not_seen_before_its_time(traits: Traits, queue: Arc<dyn Queue>) {
    let later = Outgoing { body: "later".into(), delay: traits.min_visibility };
    let much_later = Outgoing { body: "much later".into(), delay: Duration::from_secs(900) };
    queue.send(vec![much_later, later, Outgoing::now("now")]).await.unwrap();
    let first = receive_one(traits, &*queue).await;
    assert_eq!(first.body, "now");
    let second = receive_one(traits, &*queue).await;
    assert_eq!(second.body, "later");
    assert!(
        second.sent_at_ms + traits.min_visibility.as_millis() as u64 > first.sent_at_ms,
        "it was sent when it was sent, not when it became visible"
    );
    nothing_now(&*queue).await;
}

/// After the last allowed receive it is not received again but found among the dead letters.
///
/// # Panics
/// When the promise is broken.
pub async fn a_message_received_too_often_is_a_dead_letter(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("poison")]).await.unwrap();
    let first = receive_one(traits, &*queue).await;
    let second = receive_one(traits, &*queue).await;
    assert_eq!((first.receive_count, second.receive_count), (1, 2));
    let mut looks = 0;
    let letters = loop {
        let found = queue.receive(1, traits.patience / 10).await.unwrap();
        assert!(found.is_empty(), "a message is received no more often than its limit: {found:?}");
        let letters = queue.dead_letters(10).await.unwrap();
        looks += 1;
        if !letters.is_empty() || looks == 10 {
            break letters;
        }
    };
    assert_eq!(letters.len(), 1, "the message is among the dead letters");
    assert_eq!(letters[0].body, "poison");
    assert!(!letters[0].reason.is_empty(), "a dead letter says why");
}

/// At once, with the words of who gave it up; looking does not remove it.
///
/// # Panics
/// When the promise is broken.
pub async fn a_message_is_given_up_with_a_reason(traits: Traits, queue: Arc<dyn Queue>) {
    queue.send(vec![Outgoing::now("{bad json"), Outgoing::now("good")]).await.unwrap();
    let found = receive(traits, &*queue, 2).await;
    let bad = found.iter().find(|d| d.body == "{bad json").expect("the bad one");
    queue.dead_letter(bad, "line 1: expected a quote").await.unwrap();
    for _ in 0..2 {
        let letters = queue.dead_letters(10).await.unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!(
            (letters[0].body.as_str(), letters[0].reason.as_str()),
            ("{bad json", "line 1: expected a quote")
        );
    }
    nothing_now(&*queue).await;
}

/// Long polling ends with the message, not with the wait.
///
/// # Panics
/// When the promise is broken.
pub async fn a_waiting_receiver_is_woken_by_a_send(traits: Traits, queue: Arc<dyn Queue>) {
    let waiting = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { queue.receive(1, traits.patience).await.unwrap() })
    };
    tokio::task::yield_now().await;
    queue.send(vec![Outgoing::now("wake up")]).await.unwrap();
    let mut found = waiting.await.unwrap();
    if found.is_empty() {
        // At least once, and soon: a queue whose long poll had ended just before may need another one.
        found = vec![receive_one(traits, &*queue).await];
    }
    assert_eq!(found[0].body, "wake up");
}

/// Eight receivers and 64 messages: each message is received, and none by two at the same time.
///
/// # Panics
/// When the promise is broken.
pub async fn many_receivers_share_the_messages(traits: Traits, queue: Arc<dyn Queue>) {
    const MESSAGES: usize = 64;
    let seen = Arc::new(tokio::sync::Mutex::new(BTreeSet::new()));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (queue, seen) = (Arc::clone(&queue), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut empty = 0;
            while seen.lock().await.len() < MESSAGES && empty < 10 {
                let found = queue.receive(3, traits.patience / 10).await.unwrap();
                empty += u32::from(found.is_empty());
                for delivery in &found {
                    let new = seen.lock().await.insert(delivery.body.clone());
                    assert!(
                        new || delivery.receive_count > 1,
                        "{} was given to two receivers",
                        delivery.body
                    );
                }
                let receipts: Vec<_> = found.into_iter().map(|d| d.receipt).collect();
                if !receipts.is_empty() {
                    queue.delete(&receipts).await.unwrap();
                }
            }
        });
    }
    for n in 0..MESSAGES {
        queue.send(vec![Outgoing::now(n.to_string())]).await.unwrap();
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(seen.lock().await.len(), MESSAGES);
    nothing_now(&*queue).await;
}

/// The bounds of `check_outgoing`, and nothing sent by a call that breaks one.
///
/// # Panics
/// When the promise is broken.
pub async fn every_bound_is_refused_by_name(traits: Traits, queue: Arc<dyn Queue>) {
    let broken = [
        vec![],
        vec![Outgoing::now("x"); BATCH_MESSAGES_MAX + 1],
        vec![Outgoing::now("")],
        vec![Outgoing::now("x".repeat(MESSAGE_BYTES_MAX + 1))],
        vec![Outgoing { body: "x".into(), delay: Duration::from_secs(901) }],
    ];
    for messages in broken {
        let error = queue.send(messages).await.unwrap_err();
        assert!(matches!(error, QueueError::Refused { .. }), "{error}");
    }
    nothing_now(&*queue).await;
    queue.send(vec![Outgoing::now("x".repeat(MESSAGE_BYTES_MAX))]).await.unwrap();
    assert_eq!(receive_one(traits, &*queue).await.body.len(), MESSAGE_BYTES_MAX);
}

/// What JSON and people write. (SQS takes the characters of XML 1.0, so no NUL.)
///
/// # Panics
/// When the promise is broken.
pub async fn texts_of_every_kind_round_trip(traits: Traits, queue: Arc<dyn Queue>) {
    let body = "{\"пион\": \"牡丹 🌱\",\n\t\"quote\": \"' \\\" <&>\"}";
    queue.send(vec![Outgoing::now(body)]).await.unwrap();
    assert_eq!(receive_one(traits, &*queue).await.body, body);
}
