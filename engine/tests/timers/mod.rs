//! Timers and reactions over the ports in memory, in virtual time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_engine::ids::Position;
use perennial_engine::journal::Journal as _;
use perennial_engine::limits::Limits;

use crate::toy::{Act, Command, Place, Process, job, rings, rung};

const SECOND: Duration = Duration::from_secs(1);

/// A process whose steps settle at once.
fn start(place: &Place) -> Process {
    place.start(Limits::default(), |_, _| Act::Settle)
}

async fn timers(place: &Place) -> usize {
    place.journal.timers(u64::MAX, None, usize::MAX).await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_timer_leads_to_its_command_at_its_time() {
    let place = Place::new();
    let process = start(&place);
    // Due before the next scan, after it, and long after it.
    for seconds in [3, 20, 4_000] {
        let name = format!("after-{seconds}");
        process.execute(Command::alarm(&job(seconds), &name, seconds * SECOND)).await.unwrap();
    }
    place.sleep(5_000.0).await;
    assert_eq!(
        (rings("after-3"), rings("after-20"), rings("after-4000")),
        (vec![3_000], vec![20_000], vec![4_000_000])
    );
    assert_eq!(timers(&place).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_timer_wakes_the_loop_and_one_that_moved_does_not_ring_at_its_old_time() {
    let place = Place::new();
    let process = start(&place);
    process.execute(Command::alarm(&job(1), "a", 10 * SECOND)).await.unwrap();
    place.sleep(1.0).await;
    process.execute(Command::alarm(&job(2), "b", 2 * SECOND)).await.unwrap();
    process.execute(Command::alarm(&job(3), "moved", 4 * SECOND)).await.unwrap();
    place.sleep(0.5).await;
    process.execute(Command::alarm(&job(3), "moved", 7 * SECOND)).await.unwrap();
    place.sleep(100.0).await;
    assert_eq!((rings("a"), rings("b"), rings("moved")), (vec![10_000], vec![2_000], vec![7_000]));
}

#[tokio::test(start_paused = true)]
async fn what_was_due_while_nobody_ran_is_executed_in_order_of_its_time() {
    let place = Place::new();
    let engine = place.engine();
    for (n, name, seconds) in [(1, "a", 30), (2, "c", 10), (3, "b", 20), (4, "a", 90)] {
        engine.execute(Command::alarm(&job(n), name, seconds * SECOND)).await.unwrap();
    }
    engine.execute(Command::react(&job(5), "d")).await.unwrap();
    place.sleep(60.0).await;
    let _process = start(&place);
    place.sleep(60.0).await;
    assert_eq!(rung(), ["job/5", "job/2", "job/3", "job/1", "job/4"]);
    assert_eq!((rings("a"), rings("d")), (vec![60_000, 90_000], vec![60_000]));
}

#[tokio::test(start_paused = true)]
async fn a_reaction_follows_its_append_at_once_and_once() {
    let place = Place::new();
    let process = start(&place);
    place.sleep(7.0).await;
    process.execute(Command::react(&job(1), "react")).await.unwrap();
    place.sleep(100.0).await;
    assert_eq!(rings("react"), [7_000]);
}

#[tokio::test(start_paused = true)]
async fn a_reaction_survives_a_death_at_any_append() {
    for k in 1.. {
        let place = Place::new();
        let journal = place.test_journal();
        journal.intercept.stuck_at.store(k, Ordering::SeqCst);
        let first = place.start_over(journal, Limits::default(), |_, _| Act::Settle);
        let begun = {
            let engine = first.engine.clone();
            tokio::spawn(async move { engine.execute(Command::react(&job(1), "react")).await })
        };
        let reached = tokio::select! {
            () = first.journal.intercept.stuck.notified() => true,
            () = place.sleep(10.0) => false,
        };
        begun.abort();
        first.kill().await;
        if !reached {
            assert_eq!(k, 5, "two appends, a point before and one after each");
            break;
        }
        let _second = start(&place);
        place.sleep(10.0).await;
        let events = place.events().await;
        assert_eq!(events, if k == 1 { 0 } else { 2 }, "dead at {k}: never acknowledged, or done");
        assert_eq!(timers(&place).await, 0, "dead at {k}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_stands_after_its_command_rests_longer_each_time() {
    let place = Place::new();
    let process = start(&place);
    for (n, name) in [(1, "deaf"), (2, "idle"), (3, "again")] {
        process.execute(Command::react(&job(n), name)).await.unwrap();
    }
    place.sleep(3_600.0).await;
    for name in ["deaf", "idle", "again"] {
        let at: Vec<_> = rings(name).iter().map(|ms| ms / 1_000).collect();
        assert_eq!(at[..8], [0, 1, 3, 7, 15, 31, 63, 123], "{name}");
        assert_eq!(at.len(), 65, "{name}: about once a minute");
    }
    // The rest ends when the timer moves.
    process.execute(Command::alarm(&job(1), "deaf", 3_601 * SECOND)).await.unwrap();
    place.sleep(1.5).await;
    assert_eq!(rings("deaf").last(), Some(&3_601_000));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_moves_its_timer_is_due_again_then() {
    let place = Place::new();
    let process = start(&place);
    process.execute(Command::react(&job(1), "hourly")).await.unwrap();
    place.sleep(3.0 * 3_600.0 + 60.0).await;
    assert_eq!(rings("hourly"), [0, 3_600_000, 7_200_000, 10_800_000]);
}

#[tokio::test(start_paused = true)]
async fn no_more_begin_than_their_pace_allows_and_the_others_do_not_wait_for_them() {
    let place = Place::new();
    let engine = place.engine();
    for n in 0..100 {
        engine.execute(Command::alarm(&job(n), "paced", SECOND)).await.unwrap();
    }
    engine.execute(Command::alarm(&job(100), "free", 2 * SECOND)).await.unwrap();
    let process = start(&place);
    place.sleep(3.0).await;
    process.execute(Command::react(&job(101), "react")).await.unwrap();
    place.sleep(60.0).await;
    let paced = rings("paced");
    assert_eq!(paced.len(), 100);
    for window in paced.windows(21) {
        assert!(window[20] - window[0] >= 5_000, "21 within {window:?}");
    }
    assert_eq!(paced.last(), Some(&21_000), "and no fewer");
    assert_eq!((rings("free"), rings("react")), (vec![2_000], vec![3_000]));
    let order: Vec<_> = (0..100).map(|n| format!("job/{n}")).collect();
    let mut rung: Vec<_> = rung().into_iter().filter(|job| order.contains(job)).collect();
    rung.sort();
    rung.dedup();
    assert_eq!(rung.len(), 100, "each of them rang");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_has_begun_nothing_and_leaves_the_pace_to_the_others() {
    let place = Place::new();
    let engine = place.engine();
    for n in 0..50 {
        engine.execute(Command::react(&job(n), "paced_deaf")).await.unwrap();
    }
    let _process = start(&place);
    place.sleep(0.5).await;
    assert_eq!(rings("paced_deaf"), [0; 50]);
}

#[tokio::test(start_paused = true)]
async fn only_the_streams_of_due_timers_are_loaded() {
    let place = Place::new();
    let engine = place.engine();
    for n in 0..500 {
        engine.execute(Command::alarm(&job(n), "later", 1_000_000 * SECOND)).await.unwrap();
    }
    for n in 0..7 {
        engine.execute(Command::alarm(&job(n), "due", 100 * SECOND)).await.unwrap();
    }
    let process = start(&place);
    place.sleep(1_000.0).await;
    assert_eq!(rings("due").len(), 7);
    assert_eq!(process.journal.intercept.streams_read.load(Ordering::SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_another_engine_set_costs_one_scan() {
    let place = Place::new();
    let _process = start(&place);
    place.sleep(1.0).await;
    place.engine().execute(Command::react(&job(1), "react")).await.unwrap();
    place.sleep(20.0).await;
    assert_eq!(rings("react"), [15_000]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_leaves_timers_to_the_next_start() {
    let place = Place::new();
    let process = start(&place);
    place.sleep(1.0).await;
    process.trigger.ask();
    process.execute(Command::react(&job(1), "react")).await.unwrap();
    process.pool.await.unwrap();
    assert_eq!((rings("react").len(), timers(&place).await), (0, 1));
    let next = start(&place);
    place.sleep(1.0).await;
    assert_eq!((rings("react").len(), timers(&place).await), (1, 0));
    assert_eq!(next.engine.journal().head().await.unwrap().position, Position(2));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_puts_no_timer_off() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let at = |days: u32, minutes: u32| days * 24 * HOUR + minutes * Duration::from_secs(60);
    let back_ms = -i64::try_from(at(9, 0).as_millis()).unwrap();
    let place = Place::new();
    place.sleep(at(10, 0).as_secs_f64()).await;
    let process = start(&place);
    process.execute(Command::alarm(&job(1), "hourly", at(10, 30))).await.unwrap();
    process.execute(Command::alarm(&job(2), "once", at(10, 30))).await.unwrap();
    place.sleep(60.0).await;
    // While the process runs: what was set before, and what is set after it for a time that was chosen before.
    place.clock.set(back_ms);
    place.sleep(30.0).await;
    let (first, later) = (at(1, 1).as_millis() as u64, at(1, 2).as_millis() as u64);
    assert!((first..later).contains(rings("hourly").first().unwrap()), "{:?}", rings("hourly"));
    process.execute(Command::alarm(&job(3), "hourly-after", at(10, 30))).await.unwrap();
    place.sleep(30.0).await;
    assert!((first..later).contains(rings("hourly-after").first().unwrap()));
    // One that is due within its time is not put forward.
    process.execute(Command::alarm(&job(4), "hourly-soon", at(1, 50))).await.unwrap();
    process.execute(Command::alarm(&job(5), "hourly-stopped", at(1, 55))).await.unwrap();
    process.kill().await;
    // And while no process ran.
    place.clock.set(-i64::try_from(at(0, 90).as_millis()).unwrap());
    let _process = start(&place);
    place.sleep(60.0).await;
    let stopped = rings("hourly-stopped");
    assert_eq!(stopped.len(), 1, "{stopped:?}");
    assert_eq!((rings("hourly-soon").len(), rings("once").len()), (1, 0), "due by the clock only");
}
