//! The engine and its worker pool over the ports in memory, in virtual time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_engine::domain::{Domain as _, FoldError, Reads, Stamp};
use perennial_engine::engine::ExecuteError;
use perennial_engine::ids::{Position, Seq, StreamId, Token};
use perennial_engine::journal::{
    Batch, EventData, Journal as _, OpenStepRow, ProjectionDelta, StreamAppend, SummaryRow, Which,
};
use perennial_engine::limits::Limits;
use perennial_engine::machine::{Fault, Machine, Workflow as _};
use perennial_engine::projection::Reprojection;
use perennial_engine::queue::{Depth, Queue as _};
use perennial_engine::reading::{Missing, Reading};
use proptest::prelude::*;

use toy::{Act, Command, EPOCH_MS, Event, Intent, Job, Place, Rejection, State, Toy, job, step};

mod timers;
mod toy;

const SECOND: Duration = Duration::from_secs(1);

// ---- commands
// ---------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_report_that_is_late_or_doubled_is_refused_and_leaves_no_event() {
    let place = Place::new();
    let engine = place.engine();
    let job = job(1);
    engine.execute(Command::start(&job, &["a", "b"], &[])).await.unwrap();
    let report = |token| Command::Report { job: job.clone(), token, evidence: "seen".into() };
    let late = |error: &ExecuteError<Rejection>| {
        matches!(error, ExecuteError::Rejected(Rejection::Fault(Fault::Fenced { .. })))
    };

    engine.execute(report(Token(2))).await.unwrap();
    let events = place.events().await;
    assert!(late(&engine.execute(report(Token(2))).await.unwrap_err()), "doubled");

    // A new attempt has a new token; who reports the old one is fenced off.
    engine.execute(Command::Again { job: job.clone(), token: Token(3) }).await.unwrap();
    assert!(late(&engine.execute(report(Token(3))).await.unwrap_err()), "late");
    assert_eq!(place.events().await, events + 2);
    assert_eq!(place.state(&job).await.open.keys().collect::<Vec<_>>(), [&Token(6)]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_names_the_workflow_and_the_step_that_a_report_was_fenced_off_from() {
    let place = Place::new();
    let engine = place.engine();
    engine.execute(Command::start(&job(1), &["a", "a", "b"], &[])).await.unwrap();
    let open = place.state(&job(1)).await.open;
    assert_eq!(
        open.values().map(|record| record.step.as_str()).collect::<Vec<_>>(),
        ["a", "b"],
        "one of a name"
    );
    let report = Command::Report { job: job(1), token: Token(1), evidence: "e".into() };
    let error = engine.execute(report).await.unwrap_err();
    assert_eq!(error.to_string(), "step 1 of job job/1 is not open; this report is late or doubled");
}

#[test]
fn a_machine_that_starts_counts_from_its_first_event_and_hands_over_what_the_events_make() {
    let started = Event::Started { at_once: vec![step("a"), step("b")], then: vec![] };
    let stamp = |seq| Stamp { seq: Seq(seq), at_ms: EPOCH_MS };
    let state = Job::evolve(Toy::empty(&job(1)), stamp(1), &started).unwrap();
    let mut machine = Machine::<Job>::started(job(1), started, state, EPOCH_MS);
    machine.intend().unwrap();
    machine.intend().unwrap();
    assert_eq!(machine.state().open.keys().collect::<Vec<_>>(), [&Token(2), &Token(3)], "each once");
    let append = machine.into_append(job(1), |event| event, |state| state).unwrap();
    let seqs = 1..;
    let fold = append
        .events
        .iter()
        .zip(seqs)
        .try_fold(Toy::empty(&job(1)), |state, (event, seq)| Job::evolve(state, stamp(seq), event));
    assert_eq!(append.state, fold.ok());
    let idle = Machine::<Job>::from(job(1), Toy::empty(&job(1)), Seq::NONE, EPOCH_MS);
    assert!(idle.into_append(job(1), |event| event, |state| state).is_none(), "nothing has happened");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_follow_never_reaches_the_journal() {
    let place = Place::new();
    let engine = place.engine();
    engine.execute(Command::start(&job(1), &["a"], &[])).await.unwrap();
    let error = engine.execute(Command::Botch { job: job(1) }).await.unwrap_err();
    let inconsistent = matches!(error, ExecuteError::Rejected(Rejection::Fault(Fault::Inconsistent { .. })));
    assert!(inconsistent, "{error:?}");
    let said = "BUG: job job/1 cannot follow its own decision: event 3 cannot follow: step 999 is not open";
    assert_eq!(error.to_string(), said);
    assert_eq!(place.events().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_another_engine_is_decided_anew_and_both_commands_land() {
    let place = Place::new();
    let (ours, journal) = (place.engine(), place.test_journal());
    let theirs = place.engine_over(&journal);
    let job = job(1);
    ours.execute(Command::start(&job, &["a"], &[])).await.unwrap();
    theirs.load(&job).await.unwrap();
    ours.execute(Command::note(&job, "ours")).await.unwrap();
    // Theirs still believes in the old head.
    theirs.execute(Command::note(&job, "theirs")).await.unwrap();
    assert_eq!(journal.intercept.conflicts.load(Ordering::SeqCst), 1);
    assert_eq!(place.state(&job).await.notes, 2);
    // A report decided on an old state is refused by the new one.
    ours.execute(Command::Report { job: job.clone(), token: Token(2), evidence: "ours".into() })
        .await
        .unwrap();
    let refused = theirs
        .execute(Command::Report { job: job.clone(), token: Token(2), evidence: "theirs".into() })
        .await;
    assert!(
        matches!(refused, Err(ExecuteError::Rejected(Rejection::Fault(Fault::Fenced { .. })))),
        "{refused:?}"
    );
    assert_eq!(place.state(&job).await.settled, ["ours"]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_meets_nothing_but_conflicts_gives_up() {
    let place = Place::new();
    let journal = place.test_journal();
    let engine = place.engine_over(&journal);
    journal.intercept.conflicts_to_come.store(4, Ordering::SeqCst);
    engine.execute(Command::note(&job(1), "in the fifth try")).await.unwrap();
    journal.intercept.conflicts_to_come.store(5, Ordering::SeqCst);
    let error = engine.execute(Command::note(&job(1), "never")).await.unwrap_err();
    assert!(matches!(&error, ExecuteError::Contended { stream } if *stream == job(1)), "{error}");
    assert_eq!(place.state(&job(1)).await.notes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_written_once_whoever_writes_and_whatever_the_stream() {
    let place = Place::new();
    let keyed =
        |n, text: &str| Command::Note { job: job(n), text: text.into(), key: Some("letter-1".into()) };
    let first = place.engine().execute(keyed(1, "first")).await.unwrap();
    for again in [keyed(1, "again"), keyed(2, "elsewhere")] {
        let error = place.engine().execute(again).await.unwrap_err();
        assert!(matches!(error, ExecuteError::AlreadyDone { at } if Some(at) == first.position), "{error}");
    }
    assert_eq!(place.events().await, 1);
}

#[tokio::test(start_paused = true)]
async fn commands_on_one_stream_take_turns_and_never_conflict() {
    let place = Place::new();
    let journal = place.test_journal();
    let engine = place.engine_over(&journal);
    journal.intercept.append_ms.store(1, Ordering::SeqCst);
    let notes = (0..100).map(|n| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.execute(Command::note(&job(n % 3), "x")).await })
    });
    for note in notes.collect::<Vec<_>>() {
        note.await.unwrap().unwrap();
    }
    assert_eq!((place.events().await, journal.intercept.conflicts.load(Ordering::SeqCst)), (100, 0));
    assert_eq!(place.now(), 34, "and those on different streams do not wait for each other");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_read_because_of_what_stands_in_another_one() {
    let place = Place::new();
    let (journal, fleet) = (place.test_journal(), job(9));
    let engine = place.engine_over(&journal);
    let tell = Command::Tell { job: job(1), text: "x".into() };
    engine.execute(tell.clone()).await.unwrap();
    engine.execute(Command::Join { job: job(1), fleet: fleet.clone() }).await.unwrap();
    let both = engine.execute(tell.clone()).await.unwrap();
    assert_eq!(both.events, 2);
    assert_eq!((place.state(&job(1)).await.notes, place.state(&fleet).await.notes), (2, 1));
    // Another engine moves the member to another fleet: the conflict is decided anew, on what stands there
    // now.
    place.engine().execute(Command::Join { job: job(1), fleet: job(8) }).await.unwrap();
    engine.execute(tell).await.unwrap();
    assert_eq!(journal.intercept.conflicts.load(Ordering::SeqCst), 1);
    assert_eq!((place.state(&fleet).await.notes, place.state(&job(8)).await.notes), (1, 1));
}

#[test]
fn a_test_of_a_domain_reads_as_the_engine_does_without_one() {
    let tell = Command::Tell { job: job(1), text: "x".into() };
    let all = Command::TellAll { label: "db".into(), text: "x".into() };
    let load = |stream: &StreamId| {
        let fleet = (*stream == job(1)).then(|| job(9));
        (Arc::new(State { fleet, ..Toy::empty(stream) }), Seq(7))
    };
    let found = |_: &str| vec![job(3)];
    let reading = Reading::<Toy>::at_hand(&tell, load, found).unwrap();
    assert_eq!(reading.reads, Reads::written([job(1), job(9)]));
    assert_eq!((reading.world.head(&job(9)), reading.world.head(&job(3))), (Some(Seq(7)), None));
    let reading = Reading::<Toy>::at_hand(&all, load, found).unwrap();
    assert_eq!(reading.reads, Reads::written([job(3)]).and_keys(["label/db".into()]));
    let endless = Reading::<Toy>::at_hand(&Command::Wander {}, load, found).unwrap_err();
    assert_eq!(endless.last, Missing { observed: vec![job(16)], ..Missing::default() });
}

#[tokio::test(start_paused = true)]
async fn a_key_leads_to_streams_and_their_states_decide() {
    let place = Place::new();
    let journal = place.test_journal();
    let engine = place.engine_over(&journal);
    let all = Command::TellAll { label: "db".into(), text: "x".into() };
    assert_eq!(engine.execute(all.clone()).await.unwrap().events, 0, "a key that leads nowhere");
    for n in 1..=3 {
        engine.execute(Command::Label { job: job(n), label: "db".into(), on: n != 2 }).await.unwrap();
    }
    assert_eq!(engine.execute(all.clone()).await.unwrap().events, 2);
    // A lookup that is behind and names a stream too many.
    *journal.intercept.found.lock().unwrap() = Some(vec![job(1), job(2), job(7)]);
    assert_eq!(engine.execute(all).await.unwrap().events, 1);
    let notes = async |n| place.state(&job(n)).await.notes;
    assert_eq!((notes(1).await, notes(2).await, notes(3).await, notes(7).await), (2, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_never_stops_naming_streams_is_a_bug_and_not_a_hang() {
    let place = Place::new();
    let error = place.engine().execute(Command::Wander {}).await.unwrap_err();
    let ExecuteError::Inconsistent { why } = &error else { panic!("{error:?}") };
    assert!(why.contains("in 16 rounds") && why.contains("job/16"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn commands_that_meet_on_their_second_stream_take_turns_too() {
    let place = Place::new();
    let journal = place.test_journal();
    let engine = place.engine_over(&journal);
    for n in 0..50 {
        engine.execute(Command::Join { job: job(n), fleet: job(99) }).await.unwrap();
    }
    journal.intercept.append_ms.store(1, Ordering::SeqCst);
    let told = (0..50).map(|n| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.execute(Command::Tell { job: job(n), text: "x".into() }).await })
    });
    for told in told.collect::<Vec<_>>() {
        told.await.unwrap().unwrap();
    }
    assert_eq!(
        (place.state(&job(99)).await.notes, journal.intercept.conflicts.load(Ordering::SeqCst)),
        (50, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn commands_on_the_same_streams_in_any_order_do_not_wait_for_each_other_for_ever() {
    let place = Place::new();
    let journal = place.test_journal();
    let engine = place.engine_over(&journal);
    // A ring: each job's fleet is the next job.
    for n in 0..5 {
        engine.execute(Command::Join { job: job(n), fleet: job((n + 1) % 5) }).await.unwrap();
    }
    journal.intercept.append_ms.store(1, Ordering::SeqCst);
    let told = (0..100).map(|n| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.execute(Command::Tell { job: job(n % 5), text: "x".into() }).await })
    });
    for told in told.collect::<Vec<_>>() {
        let told = tokio::time::timeout(100 * SECOND, told).await;
        told.expect("it waits in a circle").unwrap().unwrap();
    }
    assert_eq!(journal.intercept.conflicts.load(Ordering::SeqCst), 0);
    let mut notes = 0;
    for n in 0..5 {
        notes += place.state(&job(n)).await.notes;
    }
    assert_eq!(notes, 200);
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_made_anew_when_a_stream_that_it_fences_has_moved() {
    let place = Place::new();
    let journal = place.test_journal();
    let engine = place.engine_over(&journal);
    let follow = Command::Follow { job: job(1), leader: job(2) };
    engine.execute(follow.clone()).await.unwrap();
    // Another engine finishes the leader; this one still believes that it runs.
    let other = place.engine();
    other.execute(Command::start(&job(2), &["a"], &[])).await.unwrap();
    other.execute(Command::Report { job: job(2), token: Token(2), evidence: "e".into() }).await.unwrap();
    let refused = engine.execute(follow).await;
    assert!(matches!(refused, Err(ExecuteError::Rejected(Rejection::LeaderFinished))), "{refused:?}");
    assert_eq!(journal.intercept.conflicts.load(Ordering::SeqCst), 1);
    assert_eq!(place.state(&job(1)).await.notes, 1);
    assert_eq!(place.state(&job(2)).await.notes, 0, "a fence writes nothing");
    // One that appends to what it fences needs no fence.
    engine.execute(Command::Follow { job: job(3), leader: job(3) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_state_that_a_decision_hands_over_is_the_streams_state_and_a_wrong_one_is_found_out() {
    let place = Place::new();
    let engine = place.engine();
    engine.execute(Command::note(&job(1), "x")).await.unwrap();
    engine.execute(Command::note(&job(1), "y")).await.unwrap();
    assert_eq!(engine.load(&job(1)).await.unwrap().0.notes, 2);
    // Only a debug build looks, and tests are one.
    let error = engine.execute(Command::Lie { job: job(1) }).await.unwrap_err();
    let ExecuteError::Inconsistent { why } = &error else { panic!("{error:?}") };
    assert!(why.contains("another state of job/1"), "{why}");
    assert_eq!(place.events().await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_newer_build_stops_its_stream_and_says_what_to_do() {
    let place = Place::new();
    let newer = EventData { version: 2, ..Toy::encode(&Event::Finished {}) };
    let append = StreamAppend { stream: job(1), expected: Seq::NONE, events: vec![newer] };
    place.journal.append(Batch { appends: vec![append], ..Batch::default() }).await.unwrap();
    let error = place.engine().execute(Command::note(&job(1), "x")).await.unwrap_err();
    let ExecuteError::Corrupt { source: FoldError::Decode(why), .. } = &error else { panic!("{error:?}") };
    assert!(why.to_string().ends_with("upgrade perennial"), "{why}");
    place.engine().execute(Command::note(&job(2), "x")).await.unwrap();
}

// ---- the pool
// ---------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_open_steps_of_one_workflow_run_at_the_same_time() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::SettleAfter(10 * SECOND));
    process.execute(Command::start(&job(1), &["a", "b", "c", "d", "e"], &["f"])).await.unwrap();
    place.finished(&job(1)).await;
    assert_eq!(process.runner.running_most.load(Ordering::SeqCst), 5);
    assert_eq!(process.runner.first("f"), Some(10_000), "the sixth is opened by the last of the five");
    assert!((20_000..20_200).contains(&place.now()), "{}", place.now());
    let settled: BTreeSet<_> = place.state(&job(1)).await.settled.into_iter().collect();
    assert_eq!(settled.into_iter().collect::<String>(), "abcdef");
}

#[tokio::test(start_paused = true)]
async fn the_steps_that_one_report_opens_start_together() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::SettleAfter(10 * SECOND));
    process.execute(Command::start(&job(1), &["a"], &["b", "&c", "&d", "e"])).await.unwrap();
    place.finished(&job(1)).await;
    let runs = process.runner.runs.lock().unwrap().clone();
    let runs: Vec<_> = runs.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    assert_eq!(runs, [("a", 0), ("b", 10_000), ("&c", 10_000), ("&d", 10_000), ("e", 20_000)]);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_settles_at_once_costs_no_message() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::Settle);
    process.execute(Command::start(&job(1), &["a"], &["b", "c", "d"])).await.unwrap();
    place.finished(&job(1)).await;
    // The first id the queue gives out is 1.
    place.send("a look at the queue's count").await;
    place.sleep(1.0).await;
    assert_eq!(place.queue.dead_letters(9).await.unwrap()[0].id, "1");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_takes_longer_is_announced_and_its_message_is_held_until_it_has_settled() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::SettleAfter(119 * SECOND));
    process.execute(Command::start(&job(1), &["a", "b"], &[])).await.unwrap();
    // Were it not extended, it would be given up after a minute.
    for _ in 0..11 {
        place.sleep(10.0).await;
        assert_eq!(place.depth().await, Depth { in_flight: 1, ..Depth::default() }, "at {}", place.now());
    }
    place.finished(&job(1)).await;
    place.sleep(1.0).await;
    assert_eq!(
        place.depth().await,
        Depth::default(),
        "both steps are settled, so their one message is deleted"
    );
    assert_eq!((process.runner.count("a"), process.runner.count("b")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bell_nobody_heard_costs_one_safety_scan() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::Settle);
    place.sleep(1.0).await;
    // Opened by an engine without a pool: its bells are lost.
    place.engine().execute(Command::start(&job(1), &["a"], &["b"])).await.unwrap();
    place.finished(&job(1)).await;
    assert_eq!(process.runner.first("a"), Some(15_000));
    assert_eq!(process.runner.first("b"), Some(15_000), "the next step does not wait for another scan");
}

#[tokio::test(start_paused = true)]
async fn a_bell_from_elsewhere_is_answered_at_once_and_its_message_deleted() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::Settle);
    place.sleep(1.0).await;
    place.engine().execute(Command::start(&job(1), &["a"], &["b"])).await.unwrap();
    place.send("{\"v\":1,\"bells\":[[\"job/1\",2]]}").await;
    place.finished(&job(1)).await;
    assert_eq!((process.runner.first("a"), process.runner.first("b")), (Some(1_000), Some(1_000)));
    assert_eq!(place.depth().await, Depth::default());
}

#[tokio::test(start_paused = true)]
async fn doubled_late_and_unknown_bells_run_nothing_twice() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::SettleAfter(5 * SECOND));
    process.execute(Command::start(&job(1), &["a"], &[])).await.unwrap();
    let bell = "{\"v\":1,\"bells\":[[\"job/1\",2],[\"job/1\",2],[\"job/1\",77],[\"job/9\",2]]}";
    for _ in 0..4 {
        place.send(bell).await;
        place.sleep(1.0).await;
    }
    place.finished(&job(1)).await;
    place.send(bell).await;
    place.sleep(1.0).await;
    assert_eq!(process.runner.runs.lock().unwrap().len(), 1);
    assert_eq!(place.depth().await, Depth::default());
    assert_eq!(place.events().await, 4, "started, intended, settled, finished");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_no_doorbell_is_put_aside_with_a_reason_and_the_loop_goes_on() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::Settle);
    let garbage = [
        "garbage",
        "{}",
        "[]",
        "{\"v\":1,\"bells\":[[\"no stream\",2]]}",
        "{\"v\":1,\"bells\":[],\"more\":0}",
        "\u{0}\u{fffd}",
    ];
    for body in garbage {
        place.send(body).await;
    }
    place.sleep(1.0).await;
    let dead = place.queue.dead_letters(100).await.unwrap();
    assert_eq!(dead.iter().map(|letter| letter.body.as_str()).collect::<Vec<_>>(), garbage);
    assert!(dead.iter().all(|letter| letter.reason.starts_with("not a doorbell message: ")), "{dead:?}");
    place.engine().execute(Command::start(&job(1), &["a"], &[])).await.unwrap();
    place.send("{\"v\":1,\"bells\":[[\"job/1\",2]]}").await;
    place.finished(&job(1)).await;
    assert_eq!(process.runner.first("a"), Some(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_step_is_not_run_before_its_time_and_is_given_up_after_its_deadline() {
    let place = Place::new();
    let process = place.start(Limits::default(), |name, _| match name {
        "later" => Act::Settle,
        _ => Act::NotYet(7 * SECOND),
    });
    let later = Intent { not_before_ms: EPOCH_MS + 42_000, ..step("later") };
    let never = Intent { deadline_ms: EPOCH_MS + 20_000, ..step("never") };
    process.execute(Command::Start { job: job(1), at_once: vec![later, never], then: vec![] }).await.unwrap();
    place.finished(&job(1)).await;
    assert_eq!(process.runner.first("later"), Some(42_000));
    // Looked at when it was opened, and every seven seconds; the first look at or after the deadline is the
    // last.
    let looks = process.runner.runs.lock().unwrap().clone();
    let looks: Vec<_> = looks.iter().filter(|(name, _)| name == "never").map(|(_, at)| *at).collect();
    assert_eq!(looks, [0, 7_000, 14_000, 21_000]);
    let events = place.journal.read_stream(&job(1), Seq(3), 9).await.unwrap();
    let expired = Event::Expired { token: Token(3), because: "the script says so".into() };
    assert_eq!((Toy::decode(&events[0].data), events[0].recorded_at_ms), (Ok(expired), EPOCH_MS + 21_000));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_woken_looks_at_once_and_the_others_sleep_on() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, tries| match tries {
        0 => Act::NotYet(60 * SECOND),
        _ => Act::Settle,
    });
    process.execute(Command::start(&job(1), &["snapshot", "other"], &[])).await.unwrap();
    place.sleep(5.0).await;
    assert_eq!(process.engine.wake(|intent| intent.name == "snapshot"), 1);
    assert_eq!(process.engine.wake(|intent| intent.name == "nobody's"), 0);
    place.sleep(5.0).await;
    let looks = process.runner.runs.lock().unwrap().clone();
    let looks_of =
        |name: &str| looks.iter().filter(|look| look.0 == name).map(|look| look.1).collect::<Vec<_>>();
    assert_eq!((looks_of("snapshot"), looks_of("other")), (vec![0, 5_000], vec![0]));
    assert_eq!(process.engine.wake(|intent| intent.name == "snapshot"), 0, "it has settled");
    place.finished(&job(1)).await;
    assert_eq!(process.runner.count("other"), 2, "its second look was the one it asked for");
    assert!(place.now() >= 60_000);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_during_a_run_leads_to_one_more_look() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, tries| match tries {
        0 => Act::NotYet(SECOND),
        1 => Act::NotYetAfter(10 * SECOND, 60 * SECOND),
        _ => Act::Settle,
    });
    process.execute(Command::start(&job(1), &["a"], &[])).await.unwrap();
    place.sleep(5.0).await;
    assert_eq!(process.engine.wake(|_| true), 1);
    place.finished(&job(1)).await;
    let ended = place.now();
    assert!((11_000..12_000).contains(&ended), "not a minute after the run that was under way: {ended}");
}

#[tokio::test(start_paused = true)]
async fn no_more_steps_run_at_once_than_the_limit() {
    let place = Place::new();
    let limits = Limits { running_max: 3, ..Limits::default() };
    let process = place.start(limits, |_, _| Act::SettleAfter(SECOND));
    let names: Vec<_> = (0..20).map(|n| format!("step-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    process.execute(Command::start(&job(1), &names, &[])).await.unwrap();
    place.finished(&job(1)).await;
    assert_eq!(process.runner.running_most.load(Ordering::SeqCst), 3);
    assert!((7_000..7_200).contains(&place.now()), "20 steps, 3 at once, a second each: {}", place.now());
}

#[tokio::test(start_paused = true)]
async fn steps_without_room_wait_in_the_queue_and_are_taken_when_there_is() {
    let place = Place::new();
    let limits = Limits { in_hand_max: 4, ..Limits::default() };
    let process = place.start(limits, |_, _| Act::SettleAfter(SECOND));
    for n in 0..20 {
        process.execute(Command::start(&job(n), &["a"], &[])).await.unwrap();
        place.sleep(0.03).await;
    }
    for n in 0..20 {
        place.finished(&job(n)).await;
    }
    assert_eq!(process.runner.runs.lock().unwrap().len(), 20);
    assert!(place.now() < 10_000, "none of them had to wait for the safety scan: {}", place.now());
    // There is one bell in each of these messages, and no more messages are received than there is room.
    let most = process.runner.running_most.load(Ordering::SeqCst);
    assert!(most <= 8, "{most} at once");
    assert_eq!(place.depth().await, Depth::default());
}

/// One step of this priority.
fn of_priority(name: &str, priority: i32) -> Vec<Intent> {
    vec![Intent { priority, ..step(name) }]
}

#[tokio::test(start_paused = true)]
async fn the_most_urgent_steps_run_first_when_slots_are_scarce() {
    let place = Place::new();
    let limits = Limits { running_max: 1, ..Limits::default() };
    let process = place.start(limits, |_, _| Act::SettleAfter(SECOND));
    for (n, name, priority) in [(1, "first", 9), (2, "low", 9), (3, "urgent", 0), (4, "middle", 5)] {
        let at_once = of_priority(name, priority);
        process.execute(Command::Start { job: job(n), at_once, then: vec![] }).await.unwrap();
        place.sleep(0.01).await;
    }
    for n in 1..=4 {
        place.finished(&job(n)).await;
    }
    let runs = process.runner.runs.lock().unwrap().clone();
    assert_eq!(
        runs.iter().map(|run| run.0.as_str()).collect::<Vec<_>>(),
        ["first", "urgent", "middle", "low"]
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_start_the_most_urgent_steps_are_rung_first() {
    let place = Place::new();
    let engine = place.engine();
    for (n, priority) in [(1, 9), (2, 5), (3, 0)] {
        let at_once = of_priority(&format!("of-{priority}"), priority);
        engine.execute(Command::Start { job: job(n), at_once, then: vec![] }).await.unwrap();
    }
    let limits = Limits { running_max: 1, ..Limits::default() };
    let process = place.start(limits, |_, _| Act::SettleAfter(SECOND));
    place.finished(&job(1)).await;
    let runs = process.runner.runs.lock().unwrap().clone();
    assert_eq!(runs.iter().map(|run| run.0.as_str()).collect::<Vec<_>>(), ["of-0", "of-5", "of-9"]);
}

#[tokio::test(start_paused = true)]
async fn urgent_work_without_end_does_not_keep_the_rest_out() {
    let place = Place::new();
    let limits = Limits { running_max: 1, ..Limits::default() };
    let process = place.start(limits, |name, _| match name {
        "low" => Act::Settle,
        _ => Act::SettleAfter(SECOND),
    });
    // Ten lines of urgent steps: whenever one has settled, its next one waits already.
    for n in 0..10 {
        let steps = (0..30).map(|step_| step(&format!("{n}-{step_}"))).collect::<Vec<_>>();
        let (first, then) = (vec![steps[0].clone()], steps[1..].to_vec());
        process.execute(Command::Start { job: job(n), at_once: first, then }).await.unwrap();
    }
    place.sleep(0.5).await;
    let at_once = of_priority("low", 10);
    process.execute(Command::Start { job: job(99), at_once, then: vec![] }).await.unwrap();
    place.finished(&job(99)).await;
    assert!(place.now() <= 50_000, "one of four slots goes to who has waited longest: {}", place.now());
    assert!(place.now() >= 2_000, "and the others are before it: {}", place.now());
}

#[tokio::test(start_paused = true)]
async fn steps_that_wait_take_no_room_from_those_that_may_run() {
    let place = Place::new();
    let limits = Limits { in_hand_max: 4, running_max: 2, ..Limits::default() };
    let process = place.start(limits, |name, tries| match (name, tries) {
        ("slow", 0..20) => Act::NotYet(20 * SECOND),
        _ => Act::Settle,
    });
    for n in 0..10 {
        process.execute(Command::start(&job(n), &["slow"], &[])).await.unwrap();
        let soon = Intent { not_before_ms: EPOCH_MS + 20_000, ..step("soon") };
        process
            .execute(Command::Start { job: job(10 + n), at_once: vec![soon], then: vec![] })
            .await
            .unwrap();
        place.sleep(0.1).await;
    }
    process.execute(Command::start(&job(99), &["a"], &["b", "c"])).await.unwrap();
    place.finished(&job(99)).await;
    assert!(place.now() < 1_200, "at once: {}", place.now());
    assert_eq!(process.runner.count("slow"), 10, "every one of them has been looked at");
    for n in 0..20 {
        place.finished(&job(n)).await;
    }
    assert_eq!(process.runner.runs.lock().unwrap().iter().find(|run| run.0 == "soon").unwrap().1, 20_000);
    assert_eq!(place.depth().await, Depth::default());
}

#[tokio::test(start_paused = true)]
async fn a_step_that_waits_for_its_turn_holds_no_slot_and_spends_no_patience() {
    let place = Place::new();
    let limits = Limits { running_max: 1, in_hand_max: 1, ..Limits::default() };
    let process = place.start(limits, |name, tries| match (name, tries) {
        // Longer than its ten minutes, twice.
        ("queued", 0 | 1) => Act::Queued(1_200 * SECOND),
        // A look that sees counts again from there.
        ("queued", 2) => Act::NotYet(SECOND),
        _ => Act::Settle,
    });
    process.execute(Command::start(&job(1), &["queued"], &[])).await.unwrap();
    place.sleep(1.0).await;
    process.execute(Command::start(&job(2), &["other"], &[])).await.unwrap();
    place.sleep(1.0).await;
    assert!(place.state(&job(2)).await.finished, "the only slot is free");
    place.sleep(1_200.0).await;
    assert_eq!(process.runner.count("queued"), 2, "its turn leads to another look, and nothing else does");
    place.sleep(1_203.0).await;
    assert!(place.state(&job(1)).await.finished);
    assert_eq!(process.runner.count("queued"), 4);
    assert_eq!(process.runner.turns.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_good_in_time_waits_for_its_turn_no_longer_than_its_budget() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::Queued(3_600 * SECOND));
    process.execute(Command::start(&job(1), &["brief"], &[])).await.unwrap();
    place.sleep(599.0).await;
    assert!(!place.state(&job(1)).await.open.is_empty());
    place.sleep(3.0).await;
    assert!(place.state(&job(1)).await.open.is_empty(), "its time is over");
    assert_eq!(process.runner.turns.load(Ordering::SeqCst), 0, "it has left the line");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_withdrawn_leaves_its_line_and_one_that_is_woken_looks_at_once() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, tries| match tries {
        0 => Act::Queued(3_600 * SECOND),
        _ => Act::Settle,
    });
    process.execute(Command::start(&job(1), &["woken"], &[])).await.unwrap();
    process.execute(Command::start(&job(2), &["gone"], &[])).await.unwrap();
    place.sleep(1.0).await;
    assert_eq!(process.runner.turns.load(Ordering::SeqCst), 2);
    assert_eq!(process.engine.wake(|intent| intent.name == "woken"), 1);
    place.sleep(1.0).await;
    assert!(place.state(&job(1)).await.finished);
    let (token, _) = place.state(&job(2)).await.open.first_key_value().map(|(t, r)| (*t, r.clone())).unwrap();
    let elsewhere = Command::Report { job: job(2), token, evidence: "seen elsewhere".into() };
    process.execute(elsewhere).await.unwrap();
    place.sleep(16.0).await;
    assert_eq!(process.runner.turns.load(Ordering::SeqCst), 0);
    assert_eq!(process.runner.count("gone"), 1, "it never ran again");
}

#[tokio::test(start_paused = true)]
async fn steps_beyond_those_that_may_wait_here_are_put_down_and_the_scan_rings_them() {
    let place = Place::new();
    let limits = Limits { asleep_max: 3, ..Limits::default() };
    let process =
        place.start(limits, |_, tries| if tries < 2 { Act::NotYet(4 * SECOND) } else { Act::Settle });
    place.sleep(1.0).await;
    for n in 0..8 {
        process.execute(Command::start(&job(n), &["a"], &[])).await.unwrap();
    }
    place.sleep(1.0).await;
    assert_eq!(process.runner.count("a"), 8);
    assert!(place.depth().await.in_flight <= 1, "what is put down holds no message");
    for n in 0..8 {
        place.finished(&job(n)).await;
    }
    assert!(place.now() < 60_000, "three a scan: {}", place.now());
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_time_is_far_off_is_not_in_hand_and_runs_on_time() {
    let place = Place::new();
    let limits = Limits { in_hand_max: 1, asleep_max: 1, ..Limits::default() };
    let process = place.start(limits, |_, _| Act::Settle);
    for n in 1..=3 {
        let not_before_ms = EPOCH_MS + u64::from(n) * 100_000;
        let later = Intent { not_before_ms, ..step(&format!("later-{n}")) };
        process.execute(Command::Start { job: job(n), at_once: vec![later], then: vec![] }).await.unwrap();
    }
    place.sleep(1.0).await;
    assert_eq!(place.depth().await, Depth::default(), "no message is held for it");
    place.sleep(400.0).await;
    let first = |n: u32| process.runner.first(&format!("later-{n}"));
    assert_eq!((first(1), first(2), first(3)), (Some(100_000), Some(200_000), Some(300_000)));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_is_dropped_and_looked_at_again() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, tries| if tries == 0 { Act::Hang } else { Act::Settle });
    process.execute(Command::start(&job(1), &["a"], &[])).await.unwrap();
    place.finished(&job(1)).await;
    assert_eq!(process.runner.runs.lock().unwrap().as_slice(), [("a".into(), 0), ("a".into(), 120_000)]);
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_panics_stops_neither_the_pool_nor_its_step_for_good() {
    let place = Place::new();
    let panics = std::sync::atomic::AtomicU32::new(3);
    let process = place.start(Limits::default(), move |name, _| {
        let left = panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if name == "bad" && left.is_ok() { Act::Panic } else { Act::SettleAfter(SECOND) }
    });
    process.execute(Command::start(&job(1), &["bad"], &[])).await.unwrap();
    place.sleep(0.1).await;
    process.execute(Command::start(&job(2), &["good"], &["better"])).await.unwrap();
    place.finished(&job(2)).await;
    assert!(place.now() < 3_000, "{}", place.now());
    place.finished(&job(1)).await;
    assert!(process.runner.count("bad") > 1);
    assert!(!process.pool.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_folded_stops_only_itself() {
    let place = Place::new();
    // A report of a step that was never opened, and a projection that says there is one.
    let events = vec![
        Toy::encode(&Event::Started { at_once: vec![], then: vec![] }),
        Toy::encode(&Event::Settled { token: Token(9), evidence: String::new() }),
    ];
    let row = OpenStepRow {
        stream: job(1),
        token: Token(2),
        step: "a".into(),
        due_ms: 0,
        deadline_ms: 0,
        priority: 0,
    };
    let append = StreamAppend { stream: job(1), expected: Seq::NONE, events };
    let projection = ProjectionDelta { opened: vec![row], ..ProjectionDelta::default() };
    place.journal.append(Batch { appends: vec![append], projection, ..Batch::default() }).await.unwrap();
    let process = place.start(Limits::default(), |_, _| Act::SettleAfter(SECOND));
    process.execute(Command::start(&job(2), &["a"], &["b"])).await.unwrap();
    place.send("{\"v\":1,\"bells\":[[\"job/1\",2]]}").await;
    place.finished(&job(2)).await;
    place.sleep(60.0).await;
    let error = process.execute(Command::note(&job(1), "x")).await.unwrap_err();
    assert!(matches!(&error, ExecuteError::Corrupt { stream, .. } if *stream == job(1)), "{error}");
    assert_eq!(process.runner.runs.lock().unwrap().len(), 2, "nothing is run for it");
    assert_eq!(place.depth().await, Depth::default(), "its bell does not come again and again");
    assert!(!process.pool.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_runs_finish_leaves_the_rest_open_and_gives_messages_back() {
    let place = Place::new();
    let process = place.start(Limits::default(), |name, _| match name {
        "short" => Act::SettleAfter(5 * SECOND),
        "long" => Act::SettleAfter(100 * SECOND),
        "waiting" => Act::NotYet(30 * SECOND),
        _ => Act::Settle,
    });
    process.execute(Command::start(&job(1), &["short"], &["next"])).await.unwrap();
    process.execute(Command::start(&job(2), &["long"], &[])).await.unwrap();
    process.execute(Command::start(&job(3), &["waiting"], &[])).await.unwrap();
    let timed = Intent { not_before_ms: EPOCH_MS + 50_000, ..step("timed") };
    process.execute(Command::Start { job: job(4), at_once: vec![timed], then: vec![] }).await.unwrap();
    place.sleep(1.0).await;
    let held = place.depth().await;
    assert_eq!((held.visible, held.in_flight), (0, 1), "one message holds all four bells");

    process.trigger.ask();
    // Nothing new is taken from now on, by neither way.
    process.execute(Command::start(&job(5), &["new"], &[])).await.unwrap();
    process.pool.await.unwrap();
    assert!((11_000..11_100).contains(&place.now()), "ten seconds to drain: {}", place.now());
    assert_eq!(
        place.depth().await,
        Depth { visible: 1, ..Depth::default() },
        "and the message is given back"
    );
    assert_eq!(place.state(&job(1)).await.settled, ["short"]);
    let open = place.journal.open_steps(u64::MAX, None, 99).await.unwrap();
    let open: Vec<_> = open.iter().map(|row| row.step.as_str()).collect();
    assert_eq!(open, ["next", "long", "waiting", "timed", "new"]);
    let ran: BTreeSet<_> = process.runner.runs.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(ran.into_iter().collect::<Vec<_>>(), ["long", "short", "waiting"]);

    // The next process goes on with all of it.
    let next = place.start(Limits::default(), |_, _| Act::Settle);
    for n in 1..=5 {
        place.finished(&job(n)).await;
    }
    assert_eq!(next.runner.count("short"), 0, "what had settled is not run again");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_in_time_gives_every_message_back() {
    let place = Place::new();
    let process = place.start(Limits::default(), |_, _| Act::NotYet(30 * SECOND));
    process.execute(Command::start(&job(1), &["a", "b"], &[])).await.unwrap();
    place.sleep(1.0).await;
    assert_eq!(place.depth().await, Depth { in_flight: 1, ..Depth::default() });
    process.trigger.ask();
    process.pool.await.unwrap();
    assert_eq!(place.now(), 1_000, "steps that only wait end at once");
    assert_eq!(
        place.depth().await,
        Depth { visible: 1, ..Depth::default() },
        "somebody else may take it now"
    );
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_at_any_append_is_followed_by_one_that_finishes() {
    // Three steps at once, then two in line, looked at twice each.
    let script = |_: &str, tries: u32| if tries == 0 { Act::NotYet(SECOND) } else { Act::Settle };
    let mut deaths = 0;
    for k in 1.. {
        let place = Place::new();
        let journal = place.test_journal();
        journal.intercept.stuck_at.store(k, Ordering::SeqCst);
        let first = place.start_over(journal, Limits::default(), script);
        let begun = {
            let (engine, start) =
                (first.engine.clone(), Command::start(&job(1), &["a", "b", "c"], &["d", "e"]));
            tokio::spawn(async move { engine.execute(start).await })
        };
        let only = job(1);
        let reached = tokio::select! {
            () = first.journal.intercept.stuck.notified() => true,
            () = place.finished(&only) => false,
        };
        begun.abort();
        first.kill().await;
        if !reached {
            assert_eq!(k, 13, "six appends, a point before and one after each");
            break;
        }
        deaths += 1;
        let second = place.start(Limits::default(), script);
        if place.events().await == 0 {
            // It was never acknowledged, so its sender sends it again.
            second.execute(Command::start(&job(1), &["a", "b", "c"], &["d", "e"])).await.unwrap();
        }
        place.finished(&job(1)).await;
        let mut settled = place.state(&job(1)).await.settled;
        assert_eq!(settled[3..], ["d", "e"], "dead at {k}");
        settled.sort();
        assert_eq!(settled, ["a", "b", "c", "d", "e"], "dead at {k}");
        assert!(place.journal.open_steps(u64::MAX, None, 9).await.unwrap().is_empty(), "dead at {k}");
    }
    assert_eq!(deaths, 12);
}

// ---- laws
// -------------------------------------------------------------------------------------------------------

fn any_intent() -> impl Strategy<Value = Intent> {
    ("[a-d]", 0..3_u64, 0..3_u64).prop_map(|(name, not_before_ms, deadline_ms)| Intent {
        name,
        not_before_ms,
        deadline_ms,
        priority: 0,
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    let token = || (0..9_u64).prop_map(Token);
    prop_oneof![
        (prop::collection::vec(any_intent(), 0..3), prop::collection::vec(any_intent(), 0..3))
            .prop_map(|(at_once, then)| Event::Started { at_once, then }),
        any_intent().prop_map(|intent| Event::Intended { intent }),
        (token(), any::<String>()).prop_map(|(token, evidence)| Event::Settled { token, evidence }),
        (token(), any::<String>()).prop_map(|(token, because)| Event::Expired { token, because }),
        token().prop_map(|token| Event::Withdrawn { token }),
        any::<String>().prop_map(|text| Event::Noted { text }),
        (0..3_u32).prop_map(|n| Event::Joined { fleet: job(n) }),
        any::<String>().prop_map(|label| Event::Labelled { label }),
        any::<String>().prop_map(|label| Event::Unlabelled { label }),
        (any::<String>(), any::<u64>()).prop_map(|(name, due_ms)| Event::AlarmSet { name, due_ms }),
        any::<String>().prop_map(|name| Event::Rang { name }),
        Just(Event::Finished {}),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let token = || (2..12_u64).prop_map(Token);
    let stream = || (0..3_u32).prop_map(job);
    let intents = || prop::collection::vec(any_intent(), 0..4);
    prop_oneof![
        3 => (stream(), intents(), intents())
            .prop_map(|(job, at_once, then)| Command::Start { job, at_once, then }),
        6 => (stream(), token())
            .prop_map(|(job, token)| Command::Report { job, token, evidence: "e".into() }),
        2 => (stream(), token())
            .prop_map(|(job, token)| Command::Expire { job, token, because: "b".into() }),
        3 => (stream(), token()).prop_map(|(job, token)| Command::Again { job, token }),
        1 => stream().prop_map(|job| Command::Botch { job }),
        1 => (stream(), prop::option::of("k[0-3]"))
            .prop_map(|(job, key)| Command::Note { job, text: "n".into(), key }),
        1 => (stream(), stream()).prop_map(|(job, fleet)| Command::Join { job, fleet }),
        2 => (stream(), "[a-d]", any::<bool>()).prop_map(|(job, label, on)| Command::Label { job, label, on }),
        1 => stream().prop_map(|job| Command::Tell { job, text: "t".into() }),
        1 => (stream(), stream()).prop_map(|(job, leader)| Command::Follow { job, leader }),
        3 => (stream(), "[a-d]", 0..4_u64).prop_map(|(job, name, due_ms)| Command::Alarm { job, name, due_ms }),
        1 => (stream(), "[a-d]").prop_map(|(job, name)| Command::Ring { job, name }),
        1 => "[a-d]".prop_map(|label| Command::TellAll { label, text: "t".into() }),
    ]
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded_to_the_same(event in any_event()) {
        prop_assert_eq!(Toy::decode(&Toy::encode(&event)), Ok(event));
    }

    /// `verify` and `rebuild` rest on this: the projections kept batch by batch are those folded event by
    /// event.
    #[test]
    fn the_projections_kept_are_the_projections_folded(commands in prop::collection::vec(any_command(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let place = Place::new();
            // Two engines in turn, so that caches are stale and appends conflict.
            let engines = [place.engine(), place.engine()];
            for (n, command) in commands.into_iter().enumerate() {
                match engines[n % 2].execute(command).await {
                    Ok(_) | Err(ExecuteError::Rejected(_) | ExecuteError::AlreadyDone { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                place.sleep(0.001).await;
            }
            let mut folded = Reprojection::<Toy>::default();
            for event in place.journal.read_all(Position(0), usize::MAX).await.unwrap() {
                folded.apply(&event).unwrap();
            }
            let folded = folded.finish();
            let kept = place.journal.open_steps(u64::MAX, None, usize::MAX).await.unwrap();
            prop_assert_eq!(kept, folded.open_steps);
            prop_assert_eq!(place.journal.timers(u64::MAX, None, usize::MAX).await.unwrap(), folded.timers);
            let timeless = |rows: Vec<SummaryRow>| -> Vec<_> {
                rows.into_iter().map(|row| SummaryRow { updated_at_ms: 0, ..row }).collect()
            };
            let kept = place.journal.summaries("job", Which::All, None, usize::MAX).await.unwrap();
            prop_assert_eq!(timeless(kept), timeless(folded.summaries));
            let names = ["a", "b", "c", "d"];
            let keys = names.iter().flat_map(|name| [format!("step/{name}"), format!("label/{name}")]);
            for key in keys {
                let kept = place.journal.lookup(&key).await.unwrap();
                let of_key = folded.keys.iter().filter(|(folded, _)| *folded == key);
                prop_assert_eq!(kept, of_key.map(|(_, stream)| stream.clone()).collect::<Vec<_>>());
            }
            Ok(())
        })?;
    }
}
