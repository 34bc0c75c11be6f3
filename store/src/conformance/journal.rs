//! The conformance suite of the port `Journal`.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_engine::ids::{Position, Seq, StreamId, Token};
use perennial_engine::journal::{
    AppendError, BATCH_EVENTS_MAX, BATCH_FENCES_MAX, Batch, EVENT_BODY_MAX, EventData, Hash, Head, Journal,
    OpenStepRow, ProjectionDelta, RecordedEvent, StreamAppend, SummaryRow, TimerRow, Which, chain,
};
use tokio::task::JoinSet;

/// How many tasks append at once where the suite tests concurrency.
pub const WRITERS: usize = 64;

/// Runs every case, each on an empty journal of its own.
///
/// # Panics
/// When the adapter breaks a promise of the port.
pub async fn all(fresh: impl AsyncFn() -> Arc<dyn Journal>) {
    an_empty_journal_answers_everything_with_nothing(fresh().await).await;
    what_is_appended_is_read_back_as_it_was(fresh().await).await;
    a_batch_over_several_streams_is_all_or_nothing(fresh().await).await;
    a_stream_grows_only_from_its_head(fresh().await).await;
    a_fence_holds_a_stream_where_it_is_and_writes_nothing_to_it(fresh().await).await;
    one_of_two_batches_that_fence_each_other_is_written(fresh().await).await;
    a_conflict_among_many_appends_fails_only_itself(fresh().await).await;
    a_batch_with_a_key_is_written_once(fresh().await).await;
    one_of_many_batches_with_the_same_key_is_written(fresh().await).await;
    many_writers_leave_dense_positions_and_whole_streams(fresh().await).await;
    projections_follow_in_the_same_append(fresh().await).await;
    a_refused_batch_leaves_the_projections_alone(fresh().await).await;
    open_steps_are_listed_by_due_time_and_page_by_page(fresh().await).await;
    timers_are_listed_in_the_order_in_which_they_are_due(fresh().await).await;
    summaries_are_listed_by_category_and_page_by_page(fresh().await).await;
    every_bound_is_refused_by_name(fresh().await).await;
    texts_of_every_kind_round_trip(fresh().await).await;
}

/// Parses a stream's name.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn stream(name: &str) -> StreamId {
    StreamId::parse(name).expect("a stream's name")
}

/// An event of the suite.
#[must_use]
pub fn event(n: u64) -> EventData {
    EventData { kind: "suite.counted".into(), version: 1, body: format!("{{\"n\":{n}}}") }
}

/// A batch of one stream with events numbered from `expected` on.
#[must_use]
pub fn batch(name: &str, expected: u64, events: u64) -> Batch {
    Batch {
        appends: vec![append(name, expected, events)],
        recorded_at_ms: 1_000 + expected,
        ..Batch::default()
    }
}

fn append(name: &str, expected: u64, events: u64) -> StreamAppend {
    StreamAppend {
        stream: stream(name),
        expected: Seq(expected),
        events: (expected + 1..=expected + events).map(event).collect(),
    }
}

/// Reads the whole journal, checks that positions are dense and hashes chained, and returns the events.
///
/// # Panics
/// When they are not.
pub async fn read_checked(journal: &dyn Journal) -> Vec<RecordedEvent> {
    let mut events: Vec<RecordedEvent> = Vec::new();
    let mut head = Head { position: Position(0), hash: Hash::GENESIS };
    loop {
        let page = journal.read_all(head.position, 97).await.expect("a page of the journal");
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 97, "a page holds no more than asked for");
        for event in page {
            assert_eq!(event.position.0, head.position.0 + 1, "positions are dense");
            assert_eq!(event.hash, chain(&head.hash, &event), "the hash at {} chains", event.position);
            head = Head { position: event.position, hash: event.hash };
            events.push(event);
        }
    }
    assert_eq!(journal.head().await.expect("the head"), head, "the head is the last event");
    let mut seqs: BTreeMap<StreamId, u64> = BTreeMap::new();
    for event in &events {
        let seq = seqs.entry(event.stream.clone()).or_default();
        *seq += 1;
        assert_eq!(event.seq.0, *seq, "{} is dense in order of position", event.stream);
    }
    events
}

/// Nothing is there, nothing is found, nothing fails.
///
/// # Panics
/// When the promise is broken.
pub async fn an_empty_journal_answers_everything_with_nothing(journal: Arc<dyn Journal>) {
    assert_eq!(journal.head().await.unwrap(), Head { position: Position(0), hash: Hash::GENESIS });
    assert!(journal.read_stream(&stream("a/1"), Seq::NONE, 10).await.unwrap().is_empty());
    assert!(journal.read_all(Position(0), 10).await.unwrap().is_empty());
    assert!(journal.read_all(Position(7), 10).await.unwrap().is_empty());
    assert!(journal.open_steps(u64::MAX, None, 10).await.unwrap().is_empty());
    assert!(journal.timers(u64::MAX, None, 10).await.unwrap().is_empty());
    assert!(journal.lookup("nothing").await.unwrap().is_empty());
    assert!(journal.summaries("a", Which::All, None, 10).await.unwrap().is_empty());
}

/// Every field comes back, by stream and by position, whole and in pages.
///
/// # Panics
/// When the promise is broken.
pub async fn what_is_appended_is_read_back_as_it_was(journal: Arc<dyn Journal>) {
    let first = Batch { key: Some("k-1".into()), ..batch("a/1", 0, 3) };
    assert_eq!(journal.append(first).await.unwrap().last, Position(3));
    assert_eq!(journal.append(batch("a/2", 0, 2)).await.unwrap().last, Position(5));
    assert_eq!(journal.append(batch("a/1", 3, 2)).await.unwrap().last, Position(7));

    let all = read_checked(&*journal).await;
    let shape: Vec<_> =
        all.iter().map(|e| (e.position.0, e.stream.to_string(), e.seq.0, e.key.clone())).collect();
    let key = Some("k-1".to_owned());
    assert_eq!(
        shape,
        [
            (1, "a/1".into(), 1, key),
            (2, "a/1".into(), 2, None),
            (3, "a/1".into(), 3, None),
            (4, "a/2".into(), 1, None),
            (5, "a/2".into(), 2, None),
            (6, "a/1".into(), 4, None),
            (7, "a/1".into(), 5, None),
        ],
        "the key stands on the batch's first event only"
    );
    assert!(all.iter().all(|e| e.data == event(e.seq.0)), "kind, version and body are as written");
    assert_eq!((all[0].recorded_at_ms, all[6].recorded_at_ms), (1_000, 1_003));

    let own: Vec<_> = all.iter().filter(|e| e.stream == stream("a/1")).cloned().collect();
    assert_eq!(journal.read_stream(&stream("a/1"), Seq::NONE, 100).await.unwrap(), own);
    assert_eq!(journal.read_stream(&stream("a/1"), Seq(2), 2).await.unwrap(), own[2..4]);
    assert!(journal.read_stream(&stream("a/1"), Seq(5), 2).await.unwrap().is_empty());
    assert!(journal.read_stream(&stream("a/1"), Seq(u64::MAX), 2).await.unwrap().is_empty());
    assert_eq!(journal.read_all(Position(2), 3).await.unwrap(), all[2..5]);
}

/// One stream of a batch that does not match keeps the others from being written.
///
/// # Panics
/// When the promise is broken.
pub async fn a_batch_over_several_streams_is_all_or_nothing(journal: Arc<dyn Journal>) {
    let both = |of_a, of_b| Batch {
        appends: vec![append("a/1", of_a, 2), append("b/1", of_b, 1)],
        ..batch("a/1", 0, 1)
    };
    journal.append(both(0, 0)).await.unwrap();
    let before = read_checked(&*journal).await;
    for (of_a, of_b) in [(2, 0), (0, 1), (2, 2), (3, 1)] {
        let error = journal.append(both(of_a, of_b)).await.unwrap_err();
        assert!(matches!(error, AppendError::Conflict { .. }), "{error}");
        assert_eq!(read_checked(&*journal).await, before, "nothing of a refused batch is written");
    }
    journal.append(both(2, 1)).await.unwrap();
    assert_eq!(read_checked(&*journal).await.len(), 6);
}

/// Behind and ahead are both conflicts, and the answer names both heads.
///
/// # Panics
/// When the promise is broken.
pub async fn a_stream_grows_only_from_its_head(journal: Arc<dyn Journal>) {
    journal.append(batch("a/1", 0, 2)).await.unwrap();
    for expected in [0, 1, 3, u64::MAX - 1] {
        let one = Batch {
            appends: vec![StreamAppend {
                stream: stream("a/1"),
                expected: Seq(expected),
                events: vec![event(1)],
            }],
            ..batch("a/1", 0, 1)
        };
        let error = journal.append(one).await.unwrap_err();
        let wanted = AppendError::Conflict { stream: stream("a/1"), expected: Seq(expected), actual: Seq(2) };
        assert_eq!(error, wanted);
    }
    journal.append(batch("a/1", 2, 1)).await.unwrap();
}

/// A fence is checked like the head of an append, and leaves no event.
///
/// # Panics
/// When the promise is broken.
pub async fn a_fence_holds_a_stream_where_it_is_and_writes_nothing_to_it(journal: Arc<dyn Journal>) {
    journal.append(batch("seen/1", 0, 2)).await.unwrap();
    let fenced = |expected, fences: &[(&str, u64)]| Batch {
        fences: fences.iter().map(|(name, head)| (stream(name), Seq(*head))).collect(),
        ..batch("a/1", expected, 1)
    };
    // Where it is, and where none is.
    journal.append(fenced(0, &[("seen/1", 2), ("none/1", 0)])).await.unwrap();
    let before = read_checked(&*journal).await;
    for (name, head, actual) in [("seen/1", 1, 2), ("seen/1", 3, 2), ("seen/1", 0, 2), ("none/1", 1, 0)] {
        let error = journal.append(fenced(1, &[(name, head)])).await.unwrap_err();
        let conflict =
            AppendError::Conflict { stream: stream(name), expected: Seq(head), actual: Seq(actual) };
        assert_eq!(error, conflict);
        assert_eq!(read_checked(&*journal).await, before, "nothing of a fenced off batch is written");
    }
    // A fence does not move a stream: two batches may name the same one.
    journal.append(fenced(1, &[("seen/1", 2)])).await.unwrap();
    journal.append(batch("seen/1", 2, 1)).await.unwrap();
    assert!(matches!(journal.append(fenced(2, &[("seen/1", 2)])).await, Err(AppendError::Conflict { .. })));
    assert_eq!(read_checked(&*journal).await.len(), 5);
}

/// Batches that are committed together see each other: of two that each write what the other fences, one is
/// refused.
///
/// # Panics
/// When the promise is broken.
pub async fn one_of_two_batches_that_fence_each_other_is_written(journal: Arc<dyn Journal>) {
    for round in 0..WRITERS {
        let (a, b) = (format!("a/{round}"), format!("b/{round}"));
        let one =
            |own: &str, other: &str| Batch { fences: vec![(stream(other), Seq::NONE)], ..batch(own, 0, 1) };
        let (first, second) = (one(&a, &b), one(&b, &a));
        let (first, second) = tokio::join!(journal.append(first), journal.append(second));
        let written = [&first, &second].iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(written, 1, "{first:?}, {second:?}");
    }
    assert_eq!(read_checked(&*journal).await.len(), WRITERS);
}

/// Appends that are committed together do not share a conflict.
///
/// # Panics
/// When the promise is broken.
pub async fn a_conflict_among_many_appends_fails_only_itself(journal: Arc<dyn Journal>) {
    journal.append(batch("taken/1", 0, 1)).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..WRITERS {
        let journal = Arc::clone(&journal);
        let (name, doomed) = if n % 3 == 0 { ("taken/1".into(), true) } else { (format!("own/{n}"), false) };
        tasks.spawn(async move { (doomed, journal.append(batch(&name, 0, 2)).await) });
    }
    while let Some(done) = tasks.join_next().await {
        let (doomed, outcome) = done.unwrap();
        assert_eq!(matches!(outcome, Err(AppendError::Conflict { .. })), doomed, "{outcome:?}");
        assert_eq!(outcome.is_ok(), !doomed, "{outcome:?}");
    }
    let written = (0..WRITERS).filter(|n| n % 3 != 0).count();
    assert_eq!(read_checked(&*journal).await.len(), 1 + 2 * written);
}

/// A repeat is told where the first one stands, even when its streams have moved on.
///
/// # Panics
/// When the promise is broken.
pub async fn a_batch_with_a_key_is_written_once(journal: Arc<dyn Journal>) {
    journal.append(batch("a/0", 0, 4)).await.unwrap();
    let keyed = Batch { key: Some("submission:1".into()), ..batch("a/1", 0, 2) };
    assert_eq!(journal.append(keyed.clone()).await.unwrap().last, Position(6));
    journal.append(batch("a/1", 2, 1)).await.unwrap();
    let duplicate = AppendError::Duplicate { key: "submission:1".into(), at: Position(5) };
    assert_eq!(journal.append(keyed).await.unwrap_err(), duplicate);
    let elsewhere = Batch { key: Some("submission:1".into()), ..batch("b/1", 0, 1) };
    assert_eq!(journal.append(elsewhere).await.unwrap_err(), duplicate);
    // A refused batch does not use up its key.
    let refused = Batch { key: Some("submission:2".into()), ..batch("a/1", 0, 1) };
    assert!(matches!(journal.append(refused).await, Err(AppendError::Conflict { .. })));
    journal.append(Batch { key: Some("submission:2".into()), ..batch("a/1", 3, 1) }).await.unwrap();
    assert_eq!(read_checked(&*journal).await.len(), 8);
}

/// The race for a key has one winner, and everybody else is told where it stands.
///
/// # Panics
/// When the promise is broken.
pub async fn one_of_many_batches_with_the_same_key_is_written(journal: Arc<dyn Journal>) {
    let mut tasks = JoinSet::new();
    for n in 0..WRITERS {
        let journal = Arc::clone(&journal);
        tasks.spawn(async move {
            journal.append(Batch { key: Some("the one".into()), ..batch(&format!("a/{n}"), 0, 1) }).await
        });
    }
    let outcomes: Vec<_> = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in outcomes {
        match outcome {
            Ok(appended) => assert_eq!(appended.last, Position(1)),
            Err(error) => {
                assert_eq!(error, AppendError::Duplicate { key: "the one".into(), at: Position(1) });
            }
        }
    }
    assert_eq!(read_checked(&*journal).await.len(), 1);
}

/// 64 tasks append to eight streams, each reading and trying again after a conflict, as the engine does.
///
/// # Panics
/// When the promise is broken.
pub async fn many_writers_leave_dense_positions_and_whole_streams(journal: Arc<dyn Journal>) {
    const STREAMS: usize = 8;
    const APPENDS: usize = 10;
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let journal = Arc::clone(&journal);
        tasks.spawn(async move {
            let mut last = Vec::new();
            for round in 0..APPENDS {
                let first = stream(&format!("shared/{}", writer % STREAMS));
                let second = stream(&format!("shared/{}", (writer + round + 1) % STREAMS));
                loop {
                    let mut appends = Vec::new();
                    for id in [&first, &second] {
                        let expected =
                            Seq(journal.read_stream(id, Seq::NONE, usize::MAX).await.unwrap().len() as u64);
                        if appends.iter().all(|append: &StreamAppend| append.stream != *id) {
                            let body = format!("{{\"writer\":{writer},\"round\":{round}}}");
                            let data = EventData { kind: "suite.raced".into(), version: 2, body };
                            appends.push(StreamAppend { stream: id.clone(), expected, events: vec![data] });
                        }
                    }
                    match journal.append(Batch { appends, ..Batch::default() }).await {
                        Ok(appended) => {
                            last.push(appended.last);
                            break;
                        }
                        Err(AppendError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            (writer, last)
        });
    }
    let mut acked = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (writer, last) = done.unwrap();
        assert!(last.is_sorted(), "what a writer appended later stands later");
        acked.extend(last.into_iter().map(|position| (writer, position)));
    }
    let events = read_checked(&*journal).await;
    assert_eq!(acked.len(), WRITERS * APPENDS);
    for (writer, position) in acked {
        let found = &events[position.0 as usize - 1].data.body;
        assert!(
            found.starts_with(&format!("{{\"writer\":{writer},")),
            "{position} holds what was acked there"
        );
    }
}

/// The smallest step of the suite.
#[must_use]
pub fn step(name: &str, token: u64, due_ms: u64) -> OpenStepRow {
    OpenStepRow {
        stream: stream(name),
        token: Token(token),
        step: format!("attach_data:{token}"),
        due_ms,
        deadline_ms: u64::MAX,
        priority: -3,
    }
}

/// A summary of the suite.
#[must_use]
pub fn summary(name: &str, open: bool, updated_at_ms: u64) -> SummaryRow {
    SummaryRow { stream: stream(name), open, body: format!("{{\"at\":{updated_at_ms}}}"), updated_at_ms }
}

/// A timer of the suite.
#[must_use]
pub fn timer(name: &str, due_ms: u64) -> TimerRow {
    TimerRow { due_ms, stream: stream(name), name: "ring".into(), wait_max_ms: u64::MAX }
}

/// Everything a delta can do, seen as soon as the append is acknowledged.
///
/// # Panics
/// When the promise is broken.
pub async fn projections_follow_in_the_same_append(journal: Arc<dyn Journal>) {
    let opening = ProjectionDelta {
        opened: vec![step("w/1", 1, 10), step("w/1", 2, 20)],
        keys_added: vec![
            ("instance/i-1".into(), stream("node/b")),
            ("instance/i-1".into(), stream("node/a")),
            ("instance/i-2".into(), stream("node/a")),
        ],
        summaries: vec![summary("w/1", true, 5), summary("node/a", false, 5)],
        timers_set: vec![timer("w/1", 10), timer("w/2", 20), timer("w/3", 30)],
        ..ProjectionDelta::default()
    };
    journal.append(Batch { projection: opening.clone(), ..batch("w/1", 0, 1) }).await.unwrap();
    assert_eq!(journal.open_steps(100, None, 10).await.unwrap(), opening.opened);
    assert_eq!(journal.lookup("instance/i-1").await.unwrap(), [stream("node/a"), stream("node/b")]);
    assert_eq!(journal.summaries("w", Which::All, None, 10).await.unwrap(), [summary("w/1", true, 5)]);
    assert_eq!(journal.timers(100, None, 10).await.unwrap(), opening.timers_set);

    let changing = ProjectionDelta {
        // Closed and opened again in one batch: it is open. Opened while open: it is replaced.
        closed: vec![(stream("w/1"), Token(1)), (stream("w/1"), Token(9))],
        opened: vec![step("w/1", 1, 11), step("w/1", 2, 22)],
        // Removed and added in one batch: it is there. Removed while absent: nothing.
        keys_removed: vec![
            ("instance/i-1".into(), stream("node/a")),
            ("instance/i-2".into(), stream("node/a")),
            ("instance/i-3".into(), stream("node/a")),
        ],
        keys_added: vec![("instance/i-2".into(), stream("node/a"))],
        summaries: vec![summary("w/1", false, 6)],
        // Set while set: it is moved. Removed and set in one batch: it is there. Removed while absent:
        // nothing.
        timers_removed: ["w/2", "w/3", "w/9"].map(|name| (stream(name), "ring".into())).into(),
        timers_set: vec![timer("w/1", 15), timer("w/3", 5)],
    };
    journal.append(Batch { projection: changing, ..batch("w/1", 1, 1) }).await.unwrap();
    assert_eq!(journal.open_steps(100, None, 10).await.unwrap(), [step("w/1", 1, 11), step("w/1", 2, 22)]);
    assert_eq!(journal.lookup("instance/i-1").await.unwrap(), [stream("node/b")]);
    assert_eq!(journal.lookup("instance/i-2").await.unwrap(), [stream("node/a")]);
    assert_eq!(journal.summaries("w", Which::All, None, 10).await.unwrap(), [summary("w/1", false, 6)]);
    assert!(journal.summaries("w", Which::Open, None, 10).await.unwrap().is_empty());
    assert_eq!(journal.timers(100, None, 10).await.unwrap(), [timer("w/3", 5), timer("w/1", 15)]);

    let closing = ProjectionDelta {
        closed: vec![(stream("w/1"), Token(1)), (stream("w/1"), Token(2))],
        ..Default::default()
    };
    journal.append(Batch { projection: closing, ..batch("w/1", 2, 1) }).await.unwrap();
    assert!(journal.open_steps(u64::MAX, None, 10).await.unwrap().is_empty());
}

/// Conflict, duplicate or refusal: the projections stay as they were.
///
/// # Panics
/// When the promise is broken.
pub async fn a_refused_batch_leaves_the_projections_alone(journal: Arc<dyn Journal>) {
    journal.append(Batch { key: Some("k".into()), ..batch("w/1", 0, 1) }).await.unwrap();
    let projection = ProjectionDelta {
        opened: vec![step("w/1", 1, 10)],
        keys_added: vec![("k".into(), stream("w/1"))],
        summaries: vec![summary("w/1", true, 1)],
        timers_set: vec![timer("w/1", 1)],
        ..ProjectionDelta::default()
    };
    let refused = [
        Batch { projection: projection.clone(), ..batch("w/1", 0, 1) },
        Batch { projection: projection.clone(), key: Some("k".into()), ..batch("w/1", 1, 1) },
        Batch { projection, recorded_at_ms: u64::MAX, ..batch("w/1", 1, 1) },
    ];
    for batch in refused {
        assert!(journal.append(batch).await.is_err());
        assert!(journal.open_steps(u64::MAX, None, 10).await.unwrap().is_empty());
        assert!(journal.lookup("k").await.unwrap().is_empty());
        assert!(journal.summaries("w", Which::All, None, 10).await.unwrap().is_empty());
        assert!(journal.timers(u64::MAX, None, 10).await.unwrap().is_empty());
    }
}

/// The order is (due, stream, name); due means due at that time or before; pages join without a gap, also
/// among timers that are due at the same time; `u64::MAX` means never.
///
/// # Panics
/// When the promise is broken.
pub async fn timers_are_listed_in_the_order_in_which_they_are_due(journal: Arc<dyn Journal>) {
    let named = |stream_: &str, name: &str, due_ms: u64| TimerRow {
        due_ms,
        stream: stream(stream_),
        name: name.into(),
        wait_max_ms: due_ms.saturating_mul(7),
    };
    let rows = vec![
        named("z/1", "react", 0),
        named("a/1", "backup", 10),
        named("a/1", "prune", 10),
        named("a/2", "backup", 10),
        named("b/1", "backup", 10),
        named("a/3", "backup", 11),
        named("a/0", "backup", u64::MAX),
    ];
    let timers_set = rows.iter().rev().cloned().collect();
    let projection = ProjectionDelta { timers_set, ..ProjectionDelta::default() };
    journal.append(Batch { projection, ..batch("a/1", 0, 1) }).await.unwrap();
    assert_eq!(journal.timers(u64::MAX, None, 10).await.unwrap(), rows, "every field round trips");
    for (due_ms, count) in [(0, 1), (9, 1), (10, 5), (11, 6), (u64::MAX >> 2, 6)] {
        assert_eq!(journal.timers(due_ms, None, 10).await.unwrap(), rows[..count], "due at {due_ms}");
    }
    for limit in 1..4 {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = journal.timers(u64::MAX, after, limit).await.unwrap();
            assert!(page.len() <= limit);
            after = page.last().cloned();
            if after.is_none() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, rows, "pages of {limit}");
    }
}

/// Due means due at that time or before; pages join without a gap; `u64::MAX` means never.
///
/// # Panics
/// When the promise is broken.
pub async fn open_steps_are_listed_by_due_time_and_page_by_page(journal: Arc<dyn Journal>) {
    let rows = vec![
        step("w/a", 1, 10),
        step("w/a", 2, 20),
        step("w/a", 10, 30),
        step("w/b", 1, 10),
        step("w/b-1", 1, 20),
        step("w/never", 1, u64::MAX),
    ];
    // Written in another order than listed.
    let opened = rows.iter().rev().cloned().collect();
    let projection = ProjectionDelta { opened, ..ProjectionDelta::default() };
    journal.append(Batch { projection, ..batch("w/a", 0, 1) }).await.unwrap();
    let tokens =
        |rows: &[OpenStepRow]| rows.iter().map(|r| format!("{}:{}", r.stream, r.token)).collect::<Vec<_>>();
    let due = async |due_ms| tokens(&journal.open_steps(due_ms, None, 10).await.unwrap());
    assert_eq!(due(9).await, Vec::<String>::new());
    assert_eq!(due(10).await, ["w/a:1", "w/b:1"]);
    assert_eq!(due(20).await, ["w/a:1", "w/a:2", "w/b:1", "w/b-1:1"]);
    assert_eq!(journal.open_steps(u64::MAX, None, 10).await.unwrap(), rows, "every field round trips");
    assert_eq!(due(u64::MAX >> 2).await.len(), 5, "never is not due");

    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = journal.open_steps(u64::MAX, after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some((last.stream.clone(), last.token));
        paged.extend(page);
    }
    assert_eq!(paged, rows);
}

/// A category is what stands before the first slash, and nothing that only begins like it.
///
/// # Panics
/// When the promise is broken.
pub async fn summaries_are_listed_by_category_and_page_by_page(journal: Arc<dyn Journal>) {
    let names =
        ["node/a", "node/b", "node/c/d", "node/~", "node-x/a", "node0/a", "nod/e", "fleet/a", "workflow/a.1"];
    let summaries = names.iter().map(|name| summary(name, !name.ends_with("/b"), 7)).collect();
    let projection = ProjectionDelta { summaries, ..ProjectionDelta::default() };
    journal.append(Batch { projection, ..batch("node/a", 0, 1) }).await.unwrap();
    let listed = async |which, after: Option<&str>, limit| {
        let rows = journal.summaries("node", which, after.map(stream), limit).await.unwrap();
        rows.into_iter().map(|row| row.stream.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(Which::All, None, 10).await, ["node/a", "node/b", "node/c/d", "node/~"]);
    assert_eq!(listed(Which::Open, None, 10).await, ["node/a", "node/c/d", "node/~"]);
    assert_eq!(listed(Which::All, None, 2).await, ["node/a", "node/b"]);
    assert_eq!(listed(Which::All, Some("node/b"), 2).await, ["node/c/d", "node/~"]);
    assert_eq!(listed(Which::Open, Some("node/a"), 1).await, ["node/c/d"]);
    assert!(listed(Which::All, Some("node/~"), 2).await.is_empty());
}

/// The bounds of `Batch::check`, and nothing written by a batch that breaks one.
///
/// # Panics
/// When the promise is broken.
pub async fn every_bound_is_refused_by_name(journal: Arc<dyn Journal>) {
    let big = EventData { body: format!("{{\"x\":\"{}\"}}", "x".repeat(EVENT_BODY_MAX)), ..event(1) };
    let broken = [
        Batch::default(),
        Batch { appends: vec![append("a/1", 0, 1), append("a/2", 0, 0)], ..Batch::default() },
        Batch { appends: vec![append("a/1", 0, 1), append("a/1", 1, 1)], ..Batch::default() },
        batch("a/1", 0, BATCH_EVENTS_MAX as u64 + 1),
        Batch {
            appends: vec![StreamAppend { stream: stream("a/1"), expected: Seq::NONE, events: vec![big] }],
            ..Batch::default()
        },
        Batch { recorded_at_ms: i64::MAX as u64 + 1, ..batch("a/1", 0, 1) },
        Batch { fences: vec![(stream("a/1"), Seq::NONE)], ..batch("a/1", 0, 1) },
        Batch { fences: vec![(stream("a/2"), Seq::NONE), (stream("a/2"), Seq::NONE)], ..batch("a/1", 0, 1) },
        Batch { fences: vec![(stream("a/2"), Seq::NONE)], ..Batch::default() },
        Batch {
            fences: (0..=BATCH_FENCES_MAX).map(|n| (stream(&format!("b/{n}")), Seq::NONE)).collect(),
            ..batch("a/1", 0, 1)
        },
    ];
    for batch in broken {
        let error = journal.append(batch).await.unwrap_err();
        assert!(matches!(error, AppendError::Refused { .. }), "{error}");
    }
    assert!(read_checked(&*journal).await.is_empty());
    journal.append(batch("a/1", 0, BATCH_EVENTS_MAX as u64)).await.unwrap();
    let largest = EventData { body: format!("{{\"x\":\"{}\"}}", "x".repeat(EVENT_BODY_MAX - 8)), ..event(1) };
    assert_eq!(largest.body.len(), EVENT_BODY_MAX);
    let appends = vec![StreamAppend { stream: stream("a/2"), expected: Seq::NONE, events: vec![largest] }];
    journal.append(Batch { appends, ..Batch::default() }).await.unwrap();
    assert_eq!(read_checked(&*journal).await.len(), BATCH_EVENTS_MAX + 1);
}

/// Spaces, newlines, quotes, NUL escapes, other alphabets, numbers that a parser would round.
///
/// # Panics
/// When the promise is broken.
pub async fn texts_of_every_kind_round_trip(journal: Arc<dyn Journal>) {
    let bodies = [
        "{}",
        "{ \"a\" :\n 1 }",
        "{\"a\":1.10,\"b\":123456789012345678901234567890}",
        "{\"quote\":\"'\\\"\",\"nul\":\"\\u0000\",\"raw nul\":\"\0\"}",
        "{\"пион\":\"牡丹 🌱\"}",
    ];
    let events =
        bodies.map(|body| EventData { kind: "suite.ünïcode".into(), version: u32::MAX, body: body.into() });
    let appends =
        vec![StreamAppend { stream: stream("a/~!'\"%"), expected: Seq::NONE, events: events.into() }];
    let key = Some("key with 'quotes', 🌱 and \0".to_owned());
    journal.append(Batch { appends, key: key.clone(), ..Batch::default() }).await.unwrap();
    let read = read_checked(&*journal).await;
    assert_eq!(read.iter().map(|e| e.data.body.as_str()).collect::<Vec<_>>(), bodies);
    assert_eq!((read[0].data.version, &read[0].key), (u32::MAX, &key));
}

/// Appends, closes, opens again: everything is as it was, and the stream goes on. For adapters that keep.
///
/// # Panics
/// When the promise is broken.
pub async fn reopening_keeps_everything(open: impl AsyncFn() -> Arc<dyn Journal>) {
    let projection = ProjectionDelta {
        opened: vec![step("w/1", 1, 10)],
        keys_added: vec![("k".into(), stream("w/1"))],
        summaries: vec![summary("w/1", true, 1)],
        timers_set: vec![timer("w/1", 7)],
        ..ProjectionDelta::default()
    };
    let journal = open().await;
    let keyed = Batch { key: Some("once".into()), projection, ..batch("w/1", 0, 3) };
    journal.append(keyed.clone()).await.unwrap();
    let before = read_checked(&*journal).await;
    drop(journal);
    let journal = open().await;
    assert_eq!(read_checked(&*journal).await, before);
    assert_eq!(journal.open_steps(10, None, 10).await.unwrap(), [step("w/1", 1, 10)]);
    assert_eq!(journal.lookup("k").await.unwrap(), [stream("w/1")]);
    assert_eq!(journal.timers(u64::MAX, None, 10).await.unwrap(), [timer("w/1", 7)]);
    assert_eq!(journal.summaries("w", Which::Open, None, 10).await.unwrap(), [summary("w/1", true, 1)]);
    assert!(matches!(journal.append(keyed).await, Err(AppendError::Duplicate { at: Position(1), .. })));
    assert!(matches!(journal.append(batch("w/1", 0, 1)).await, Err(AppendError::Conflict { .. })));
    journal.append(batch("w/1", 3, 1)).await.unwrap();
    assert_eq!(read_checked(&*journal).await.len(), 4);
}
