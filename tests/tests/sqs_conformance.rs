//! The port `Queue` over SQS, against two emulators of SQS that we did not write.
//!
//! MiniStack runs the whole conformance suite, and so does `perennial region`, which others test their software against. moto scans its whole queue at each receive, so it only sees what fits
//! into a few messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::Credentials;
use perennial_engine::queue::{BATCH_MESSAGES_MAX, Outgoing, Queue, QueueError};
use perennial_store::conformance::queue as suite;
use perennial_tests::emulators::{Emulator, Kind};
use perennial_tests::rehearsal::RegionProcess;
use perennial_workers::aws::{EnsureQueue, SqsQueue, ensure_queue, sqs_client};

async fn config(endpoint: String) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .endpoint_url(endpoint)
        .load()
        .await
}

/// Fresh queues on one emulator.
struct Queues {
    client: aws_sdk_sqs::Client,
    made: AtomicUsize,
    _server: Server,
}

/// Who answers; ends when dropped.
#[expect(dead_code, reason = "they are kept, and nothing else")]
enum Server {
    Emulator(Emulator),
    Region(RegionProcess),
}

impl Queues {
    async fn on(kind: Kind) -> Self {
        let emulator = Emulator::start(kind).unwrap_or_else(|error| panic!("{error}"));
        let client = sqs_client(&config(emulator.endpoint()).await);
        Self { client, made: AtomicUsize::new(0), _server: Server::Emulator(emulator) }
    }

    async fn on_a_region() -> Self {
        let region = RegionProcess::start(1, 1.0, &[]).await;
        let client = sqs_client(&config(region.endpoint()).await);
        Self { client, made: AtomicUsize::new(0), _server: Server::Region(region) }
    }

    async fn fresh(&self, visibility: Duration, receives_max: u32) -> SqsQueue {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let wanted = EnsureQueue {
            name: &format!("steps-{number}"),
            visibility,
            dead_letters: &format!("steps-{number}-dead"),
            receives_max,
        };
        let url = ensure_queue(&self.client, &wanted).await.expect("the queue is made");
        assert_eq!(ensure_queue(&self.client, &wanted).await.expect("it is there"), url, "once is enough");
        SqsQueue::open(self.client.clone(), wanted.name).await.expect("the queue can be opened by its name")
    }

    async fn shared(&self, visibility: Duration, receives_max: u32) -> Arc<dyn Queue> {
        Arc::new(self.fresh(visibility, receives_max).await)
    }
}

const SQS: suite::Traits =
    suite::Traits { min_visibility: Duration::from_secs(1), patience: Duration::from_secs(20) };

const MINUTES: Duration = Duration::from_secs(600);

#[tokio::test]
async fn sqs_on_ministack_keeps_every_promise_of_the_port() {
    let queues = Queues::on(Kind::MiniStack).await;
    suite::all(SQS, async |needs: suite::Needs| queues.shared(needs.visibility, needs.max_receives).await)
        .await;
}

#[tokio::test]
async fn sqs_on_a_region_keeps_every_promise_of_the_port() {
    let queues = Queues::on_a_region().await;
    suite::all(SQS, async |needs: suite::Needs| queues.shared(needs.visibility, needs.max_receives).await)
        .await;
}

#[tokio::test]
async fn sqs_on_moto_keeps_the_promises_that_need_few_messages() {
    let queues = Queues::on(Kind::Moto).await;
    let fresh = async |receives_max| queues.shared(MINUTES, receives_max).await;
    suite::an_empty_queue_has_nothing(fresh(5).await).await;
    suite::what_is_sent_is_received_and_deleted(SQS, fresh(5).await).await;
    suite::a_batch_arrives_whole(SQS, fresh(5).await).await;
    suite::a_deleted_message_cannot_be_extended(SQS, fresh(5).await).await;
    suite::a_message_is_given_up_with_a_reason(SQS, fresh(5).await).await;
    suite::every_bound_is_refused_by_name(SQS, fresh(5).await).await;
    suite::texts_of_every_kind_round_trip(SQS, fresh(5).await).await;
}

#[tokio::test]
async fn the_depth_counts_what_waits_what_is_worked_on_what_is_delayed_and_what_is_dead() {
    let queues = Queues::on(Kind::MiniStack).await;
    let queue = queues.fresh(MINUTES, 5).await;
    let delayed = Outgoing { body: "later".into(), delay: MINUTES };
    let now = |body: &str| Outgoing::now(body);
    queue.send(vec![now("a"), now("b"), now("c"), delayed]).await.unwrap();
    let held = queue.receive(2, Duration::from_secs(5)).await.unwrap();
    queue.dead_letter(&held[0], "no good").await.unwrap();
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight, depth.delayed, depth.dead), (1, 1, 1, 1));
}

#[tokio::test]
async fn ten_of_the_largest_messages_go_through_one_send() {
    let queues = Queues::on(Kind::MiniStack).await;
    let queue = queues.fresh(MINUTES, 5).await;
    let large = |n: usize| Outgoing::now(n.to_string().repeat(perennial_engine::queue::MESSAGE_BYTES_MAX));
    queue.send((0..BATCH_MESSAGES_MAX).map(large).collect()).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().visible, BATCH_MESSAGES_MAX as u64);
}

#[tokio::test]
async fn more_dead_letters_than_one_call_gives_are_seen_and_stay() {
    let queues = Queues::on(Kind::MiniStack).await;
    let queue = queues.fresh(MINUTES, 5).await;
    for start in [0, 10] {
        queue.send((start..start + 10).map(|n| Outgoing::now(n.to_string())).collect()).await.unwrap();
        for delivery in queue.receive(10, Duration::from_secs(5)).await.unwrap() {
            queue.dead_letter(&delivery, &format!("reason {}", delivery.body)).await.unwrap();
        }
    }
    for _ in 0..2 {
        let letters = queue.dead_letters(25).await.unwrap();
        assert_eq!(letters.len(), 20);
        assert!(letters.iter().all(|letter| letter.reason == format!("reason {}", letter.body)));
    }
    assert_eq!(queue.dead_letters(3).await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_longest_poll_is_not_cut_by_the_bound_of_other_calls() {
    let queues = Queues::on(Kind::MiniStack).await;
    let queue = queues.fresh(MINUTES, 5).await;
    // As long as the bound of other calls is: with that bound the poll would end in an error.
    assert_eq!(queue.receive(1, perennial_workers::aws::CALL_MAX).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_for_a_person_and_one_that_cannot_be_reached_is_not() {
    let queues = Queues::on(Kind::MiniStack).await;
    let missing = SqsQueue::open(queues.client.clone(), "nowhere").await.unwrap_err();
    let QueueError::Misconfigured { why } = &missing else { panic!("{missing}") };
    assert!(why.contains("\"nowhere\"") && why.contains("create the queue"), "{why}");

    let queue = queues.fresh(MINUTES, 5).await;
    queues.client.delete_queue().queue_url(queue.url()).send().await.unwrap();
    let gone = queue.send(vec![Outgoing::now("x")]).await.unwrap_err();
    assert!(matches!(gone, QueueError::Misconfigured { .. }), "{gone}");

    drop(queues);
    let lost = queue.receive(1, Duration::ZERO).await.unwrap_err();
    assert!(matches!(lost, QueueError::Unavailable { .. }), "{lost}");
}

#[tokio::test]
async fn a_queue_without_a_dead_letter_queue_says_so_when_it_needs_one() {
    let queues = Queues::on(Kind::MiniStack).await;
    queues.client.create_queue().queue_name("alone").send().await.unwrap();
    let queue = SqsQueue::open(queues.client.clone(), "alone").await.unwrap();
    queue.send(vec![Outgoing::now("x")]).await.unwrap();
    let delivery = queue.receive(1, Duration::from_secs(5)).await.unwrap().remove(0);
    let error = queue.dead_letter(&delivery, "no good").await.unwrap_err();
    assert!(matches!(error, QueueError::Misconfigured { .. }), "{error}");
    assert_eq!(queue.depth().await.unwrap().in_flight, 1, "it is still there");

    queues.client.create_queue().queue_name("given").send().await.unwrap();
    let queue = queue.with_dead_letters("given").await.unwrap();
    queue.dead_letter(&delivery, "no good").await.unwrap();
    assert_eq!(queue.dead_letters(10).await.unwrap()[0].id, delivery.id);
}

#[tokio::test]
async fn a_queue_of_the_same_name_with_other_attributes_is_not_changed() {
    let queues = Queues::on(Kind::MiniStack).await;
    let wanted = |seconds| EnsureQueue {
        name: "steps",
        visibility: Duration::from_secs(seconds),
        dead_letters: "steps-dead",
        receives_max: 5,
    };
    ensure_queue(&queues.client, &wanted(30)).await.unwrap();
    let error = ensure_queue(&queues.client, &wanted(31)).await.unwrap_err();
    assert!(matches!(error, QueueError::Misconfigured { .. }), "{error}");
}
