//! What only the embedded queue promises: several instances and processes on one file, bounds, retention.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::queue::{Outgoing, Queue, QueueError};
use perennial_store::queue::DEAD_LETTERS_MAX;
use perennial_store::{EmbeddedQueue, OpenError, QueueSettings};

const PATIENCE: Duration = Duration::from_secs(20);

fn settings() -> QueueSettings {
    QueueSettings { visibility: Duration::from_secs(600), ..QueueSettings::default() }
}

fn open(path: &Path, name: &str) -> EmbeddedQueue {
    EmbeddedQueue::open(path, name, settings(), Clock::system()).unwrap()
}

#[tokio::test]
async fn messages_survive_reopening_and_queues_of_one_file_are_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (steps, letters) = (open(dir.path(), "steps"), open(dir.path(), "letters"));
    steps.send(vec![Outgoing::now("step")]).await.unwrap();
    letters.send(vec![Outgoing::now("letter")]).await.unwrap();
    drop((steps, letters));
    assert!(dir.path().join("queue.sqlite").exists());
    let (steps, letters) = (open(dir.path(), "steps"), open(&dir.path().join("queue.sqlite"), "letters"));
    assert_eq!(letters.receive(10, PATIENCE).await.unwrap()[0].body, "letter");
    let found = steps.receive(10, PATIENCE).await.unwrap();
    assert_eq!(found.len(), 1);
    letters.delete(&[found[0].receipt.clone()]).await.unwrap();
    assert_eq!(letters.extend(&found[0].receipt, PATIENCE).await, Err(QueueError::ReceiptExpired));
    steps.extend(&found[0].receipt, PATIENCE).await.expect("another queue's receipt is its own affair");
}

#[tokio::test]
async fn two_instances_of_one_queue_share_its_messages_and_its_bell() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, receiver) = (open(dir.path(), "q"), open(dir.path(), "q"));
    let waiting = tokio::spawn(async move { receiver.receive(1, PATIENCE).await.unwrap() });
    tokio::task::yield_now().await;
    sender.send(vec![Outgoing::now("x")]).await.unwrap();
    assert_eq!(waiting.await.unwrap()[0].body, "x");
    assert!(sender.receive(1, Duration::ZERO).await.unwrap().is_empty());
}

const CHILD_PATH: &str = "PERENNIAL_STORE_TEST_QUEUE_CHILD";

/// What the next test starts as a process of its own. Answers 50 messages.
async fn answer_every_message(path: &Path) {
    let (requests, answers) = (open(path, "requests"), open(path, "answers"));
    for _ in 0..50 {
        let found = requests.receive(1, PATIENCE).await.unwrap();
        answers.send(vec![Outgoing::now(format!("re: {}", found[0].body))]).await.unwrap();
        requests.delete(&[found[0].receipt.clone()]).await.unwrap();
    }
}

#[tokio::test]
async fn two_processes_use_one_file_at_once() {
    if let Ok(path) = std::env::var(CHILD_PATH) {
        return answer_every_message(Path::new(&path)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let (requests, answers) = (open(dir.path(), "requests"), open(dir.path(), "answers"));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["embedded_queue::two_processes_use_one_file_at_once", "--exact"])
        .env(CHILD_PATH, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for n in 0..50 {
        requests.send(vec![Outgoing::now(n.to_string())]).await.unwrap();
    }
    let mut bodies = Vec::new();
    while bodies.len() < 50 {
        // Nothing in this process rings the bell: only looking again finds what the other one sent.
        let hour = Duration::from_secs(3_600);
        let found = tokio::time::timeout(PATIENCE, answers.receive(10, hour)).await;
        let found = found.unwrap_or_else(|_| panic!("the other process answers; so far {bodies:?}")).unwrap();
        bodies.extend(found.into_iter().map(|delivery| delivery.body));
    }
    bodies.sort();
    let mut wanted: Vec<_> = (0..50).map(|n| format!("re: {n}")).collect();
    wanted.sort();
    assert_eq!(bodies, wanted);
    assert!(child.wait().unwrap().success());
    assert_eq!(requests.depth().await.unwrap().in_flight, 0);
}

#[tokio::test]
async fn a_full_queue_says_so_and_takes_more_after_a_delete_even_by_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let small = QueueSettings { max_messages: 12, ..settings() };
    let queue = EmbeddedQueue::open(dir.path(), "q", small, Clock::system()).unwrap();
    queue.send(vec![Outgoing::now("x"); 10]).await.unwrap();
    let error = queue.send(vec![Outgoing::now("x"); 3]).await.unwrap_err();
    assert!(error.to_string().contains("holds 10 messages and takes 12"), "{error}");
    queue.send(vec![Outgoing::now("x"); 2]).await.unwrap();
    assert!(queue.send(vec![Outgoing::now("x")]).await.is_err());
    let found = queue.receive(1, PATIENCE).await.unwrap();
    queue.delete(&[found[0].receipt.clone()]).await.unwrap();
    queue.delete(&[found[0].receipt.clone()]).await.unwrap();
    queue.send(vec![Outgoing::now("x")]).await.unwrap();
    assert!(queue.send(vec![Outgoing::now("x")]).await.is_err(), "deleting twice makes room once");
    // A connection this process's thread knows nothing of, as another process would be.
    let other = rusqlite::Connection::open(dir.path().join("queue.sqlite")).unwrap();
    other.execute_batch("DELETE FROM messages").unwrap();
    queue.send(vec![Outgoing::now("x"); 10]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_beyond_its_retention_is_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::scaled(1_000_000, 1.0);
    let short = QueueSettings { retention: Duration::from_secs(3_600), ..settings() };
    let queue = EmbeddedQueue::open(dir.path(), "q", short, clock.clone()).unwrap();
    queue.send(vec![Outgoing::now("old")]).await.unwrap();
    clock.sleep(Duration::from_secs(3_601)).await;
    assert!(queue.receive(1, Duration::ZERO).await.unwrap().is_empty());
    let dead = queue.dead_letters(10).await.unwrap();
    assert_eq!((dead[0].body.as_str(), dead[0].reason.as_str()), ("old", "older than 3600 s"));
}

#[tokio::test(start_paused = true)]
async fn names_that_others_choose_are_bounded_and_what_was_abandoned_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::scaled(1_000_000, 1.0);
    let retention = Duration::from_secs(3_600);
    let named = QueueSettings { retention, max_queues: Some(5), ..settings() };
    let open = |name: &str| EmbeddedQueue::open(dir.path(), name, named, clock.clone()).unwrap();
    let one = || vec![Outgoing::now("x")];
    for number in 0..5 {
        open(&format!("answers-{number}")).send(one()).await.unwrap();
    }
    let error = open("answers-5").send(one()).await.unwrap_err();
    assert!(matches!(error, QueueError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("\"answers-5\" holds nothing yet, and 5 others"), "{error}");
    // Those that are in use go on, and so does a queue whose name is our own.
    open("answers-4").send(one()).await.unwrap();
    let own = EmbeddedQueue::open(dir.path(), "steps", settings(), clock.clone()).unwrap();
    own.send(one()).await.unwrap();
    let step = own.receive(1, Duration::ZERO).await.unwrap();
    own.delete(&[step[0].receipt.clone()]).await.unwrap();
    // One that is emptied makes room for one.
    let emptied = open("answers-0");
    let answer = emptied.receive(1, Duration::ZERO).await.unwrap();
    emptied.delete(&[answer[0].receipt.clone()]).await.unwrap();
    open("answers-5").send(one()).await.unwrap();
    open("answers-6").send(one()).await.unwrap_err();
    // Nobody receives, and nobody sweeps: in the end what is too old is a dead letter.
    clock.sleep(retention + Duration::from_secs(1)).await;
    open("answers-6").send(one()).await.unwrap();
    let dead = open("answers-1").dead_letters(10).await.unwrap();
    assert_eq!(dead[0].reason, "never received");
    // However many names there are, few are remembered.
    for number in 0..2_000 {
        let queue = open(&format!("more-{number}"));
        let sent = queue.send(one()).await;
        assert_eq!(sent.is_ok(), number < 4, "{number}: {sent:?}");
    }
}

#[tokio::test]
async fn a_receive_that_nobody_waits_for_any_more_gives_its_messages_back() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path(), "q");
    queue.send(vec![Outgoing::now("x")]).await.unwrap();
    for _ in 0..3 {
        tokio::select! {
            biased;
            // If the machine stops this task at this point, the answer may have arrived already. Then this
            // task must give the messages back.
            found = queue.receive(1, PATIENCE) => {
                for delivery in found.unwrap() {
                    queue.extend(&delivery.receipt, Duration::ZERO).await.unwrap();
                }
            }
            // Taken as soon as the receive has been handed to the queue's thread.
            () = std::future::ready(()) => {}
        }
    }
    // Invisible for ten minutes if it had been lost.
    assert_eq!(queue.receive(1, PATIENCE).await.unwrap()[0].body, "x");
}

#[tokio::test]
async fn the_oldest_dead_letters_are_dropped_beyond_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path(), "q");
    queue.send(vec![Outgoing::now("the last straw")]).await.unwrap();
    let by_hand = rusqlite::Connection::open(dir.path().join("queue.sqlite")).unwrap();
    by_hand
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {DEAD_LETTERS_MAX})
             INSERT INTO dead_letters SELECT -i, 'q', 'old', 0, 0, 'why' FROM n;"
        ))
        .unwrap();
    let delivery = queue.receive(1, PATIENCE).await.unwrap().remove(0);
    queue.dead_letter(&delivery, "enough").await.unwrap();
    assert_eq!(queue.depth().await.unwrap().dead, DEAD_LETTERS_MAX);
    let letters = queue.dead_letters(usize::MAX).await.unwrap();
    assert_eq!(letters.last().unwrap().body, "the last straw");
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = settings();
    for (name, bad) in [
        ("", good),
        ("a b", good),
        ("q", QueueSettings { visibility: Duration::ZERO, ..good }),
        ("q", QueueSettings { visibility: Duration::from_secs(43_201), ..good }),
        ("q", QueueSettings { max_receives: 0, ..good }),
        ("q", QueueSettings { max_messages: 0, ..good }),
        ("q", QueueSettings { retention: Duration::ZERO, ..good }),
    ] {
        let error = EmbeddedQueue::open(dir.path(), name, bad, Clock::system()).unwrap_err();
        assert!(matches!(error, OpenError::BadSettings { .. }), "{error}");
    }
    let journal = dir.path().join("journal.sqlite");
    drop(perennial_store::SqliteJournal::open(&journal, perennial_store::Options::default()).unwrap());
    let error = EmbeddedQueue::open(&journal, "q", good, Clock::system()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}
