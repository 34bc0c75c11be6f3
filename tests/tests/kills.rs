//! `kill -9` at seeded moments: the real process over the real SDK on `perennial region`, which is killed too.
//!
//! A seed is one node in one of the modes, one interruption of one kind, trouble on the wire, and strikes: the server (or the
//! region) is killed at a moment, is down for a while, and is started again. When the strikes are over, the trouble is, and the
//! node must come back whole; boto3 judges (`tests/outsider/verdict.py`).
//!
//! ```text
//! KILL_SEEDS=0-239 cargo test -p perennial-tests --test kills -- --nocapture     # 240 replacements, 10 in each mode
//! ```
//!
//! `KILL_JOBS` says how many run at once. Moments are the machine's, so that a seed that failed may pass the next time; what it did is
//! printed with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_tests::rehearsal::{EngineClock, EngineQueues, Rehearsal, modes};
use perennial_workflows::spec::node::PersistSpec;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

/// Without `KILL_SEEDS`: each mode once.
const SEEDS: std::ops::RangeInclusive<u64> = 0..=23;

/// At once: two cores are busy with four replacements that wait most of the time.
const JOBS: usize = 4;

/// Of the region's clock, which is the engine's too.
const SPEED: f64 = 20.0;

/// A replacement takes some five seconds at [`SPEED`]: strikes come while it is under way.
const PAUSE_MS: std::ops::Range<u64> = 30..1_500;

/// Down for so long: an instance may be lost meanwhile.
const DOWN_MS: std::ops::Range<u64> = 0..1_000;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Server,
    Region,
    Both,
}

#[derive(Debug, Clone, Copy)]
struct Strike {
    after: Duration,
    victim: Victim,
    down: Duration,
}

/// What a seed means.
#[derive(Debug, Clone)]
struct Plan {
    mode: String,
    persist: PersistSpec,
    queues: EngineQueues,
    clock: EngineClock,
    notice: Value,
    trouble: Vec<Value>,
    strikes: Vec<Strike>,
    /// The carrier of this moment is taken too, without notice, before this strike.
    again_before: Option<usize>,
}

impl Plan {
    fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let modes = modes();
        let (mode, persist) = modes[usize::try_from(seed % modes.len() as u64).expect("few modes")].clone();
        let notice = match rng.u8(0..6) {
            0 | 1 => json!({}),
            2 => json!({ "lead_s": rng.u64(1..60) }),
            3 => json!({ "notice": "silent" }),
            4 => json!({ "notice": "none" }),
            _ => json!({ "notice": "vanish" }),
        };
        let mut trouble = Vec::new();
        if rng.bool() {
            trouble.push(json!({ "action": "acts", "fault": "lost_reply", "per_mille": rng.u64(50..300) }));
        }
        if rng.bool() {
            let code = ["RequestLimitExceeded", "InternalError", "Unavailable"][rng.usize(0..3)];
            let fault = ["before", "after"][rng.usize(0..2)];
            trouble
                .push(json!({ "action": "*", "fault": fault, "code": code, "per_mille": rng.u64(50..200) }));
        }
        let strikes = (0..rng.usize(1..6)).map(|_| Strike {
            after: Duration::from_millis(rng.u64(PAUSE_MS)),
            victim: match rng.u8(0..8) {
                0 => Victim::Region,
                1 => Victim::Both,
                _ => Victim::Server,
            },
            down: Duration::from_millis(rng.u64(DOWN_MS)),
        });
        let strikes: Vec<_> = strikes.collect();
        Self {
            mode,
            persist,
            queues: if rng.u8(0..3) == 0 { EngineQueues::Sqs } else { EngineQueues::Embedded },
            clock: if rng.u8(0..6) == 0 { EngineClock::Machine } else { EngineClock::Region },
            notice,
            trouble,
            again_before: (rng.u8(0..4) == 0).then(|| rng.usize(0..strikes.len())),
            strikes,
        }
    }
}

/// What a seed did.
#[derive(Debug, Default, Clone, Copy)]
struct Done {
    server_kills: usize,
    region_kills: usize,
    /// Kills while the replacement was open.
    in_the_middle: usize,
    operations: u64,
}

async fn live(seed: u64, plan: Plan) -> Done {
    let mut done = Done::default();
    let mut rehearsal = Rehearsal::start(seed, SPEED, plan.clock, plan.queues, &[]).await;
    let file = rehearsal.node_file("db-1", plan.persist);
    let mut kept = rehearsal.apply(&[file]).await.remove(0);
    for rule in &plan.trouble {
        rehearsal.region.post("faults", rule.clone()).await;
    }
    rehearsal.interrupt(&kept, plan.notice.clone()).await;
    rehearsal.write(&mut kept, "last words").await;
    for (index, strike) in plan.strikes.iter().enumerate() {
        tokio::time::sleep(strike.after).await;
        if plan.again_before == Some(index)
            && let Some(carrier) = rehearsal.perennial.node("db-1").await.resources.carrier
        {
            // It may be gone by now: then there is nothing to take.
            let body = json!({ "instance": carrier.instance, "notice": "none" });
            _ = rehearsal.region.client().post("interrupt", &body).await;
        }
        done.in_the_middle += usize::from(rehearsal.perennial.node("db-1").await.open.is_some());
        if strike.victim != Victim::Server {
            rehearsal.region.kill();
            done.region_kills += 1;
        }
        if strike.victim != Victim::Region {
            rehearsal.perennial.kill();
            done.server_kills += 1;
        }
        tokio::time::sleep(strike.down).await;
        if strike.victim != Victim::Server {
            rehearsal.region.restart().await;
            // A region's trouble ends with its process; this goes on.
            for rule in &plan.trouble {
                rehearsal.region.post("faults", rule.clone()).await;
            }
        }
        if strike.victim != Victim::Region {
            // A start asks the region for its queues and its time, and a refusal ends it: that is for whoever starts it to repeat.
            rehearsal.region.client().delete("faults").await.expect("the region is there");
            rehearsal.perennial.start().await;
            for rule in &plan.trouble {
                rehearsal.region.post("faults", rule.clone()).await;
            }
        }
    }
    rehearsal.region.client().delete("faults").await.expect("the region is there");
    let node = rehearsal.at_rest("db-1", 2).await;
    rehearsal.check(&kept, &node).await;
    rehearsal.check_books().await;
    done.operations = node.operations - 1;
    done
}

/// `0-23` or `4`.
fn seeds() -> std::ops::RangeInclusive<u64> {
    let Ok(text) = std::env::var("KILL_SEEDS") else { return SEEDS };
    let number =
        |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("KILL_SEEDS={text}: such as 0-239"));
    match text.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(&text)..=number(&text),
    }
}

/// On one thread: a server dies with the thread that started it.
#[tokio::test]
async fn a_replacement_survives_kills_at_seeded_moments_in_every_mode() {
    LocalSet::new().run_until(all_seeds()).await;
}

#[expect(clippy::print_stdout, reason = "whoever asks for many seeds wants to see what they did")]
async fn all_seeds() {
    let jobs = std::env::var("KILL_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(JOBS);
    let slots = Arc::new(Semaphore::new(jobs));
    let started = Instant::now();
    let running: Vec<_> = seeds()
        .map(|seed| {
            let slots = Arc::clone(&slots);
            let plan = Plan::of(seed);
            let life = tokio::task::spawn_local({
                let plan = plan.clone();
                async move {
                    let _slot = slots.acquire_owned().await.expect("nobody closes it");
                    live(seed, plan).await
                }
            });
            (seed, plan, life)
        })
        .collect();
    let mut failed = Vec::new();
    let mut by_mode: BTreeMap<String, Done> = BTreeMap::new();
    let mut count = 0;
    for (seed, plan, life) in running {
        match life.await {
            Ok(done) => {
                count += 1;
                let sum = by_mode.entry(plan.mode).or_default();
                sum.server_kills += done.server_kills;
                sum.region_kills += done.region_kills;
                sum.in_the_middle += done.in_the_middle;
                sum.operations += done.operations;
            }
            Err(_) => failed.push((seed, plan)),
        }
    }
    println!("mode         replacements  kills of the server  kills of the region");
    let mut total = Done::default();
    for (mode, done) in &by_mode {
        println!("{mode:<12} {:>12} {:>20} {:>20}", done.operations, done.server_kills, done.region_kills);
        total.operations += done.operations;
        total.server_kills += done.server_kills;
        total.region_kills += done.region_kills;
        total.in_the_middle += done.in_the_middle;
    }
    println!("{:<12} {:>12} {:>20} {:>20}", "all", total.operations, total.server_kills, total.region_kills);
    println!("{count} seeds clean, {} not, in {:.0} s", failed.len(), started.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "not clean: {failed:#?}");
    let Done { in_the_middle, .. } = total;
    assert!(in_the_middle >= count / 2, "only {in_the_middle} kills in the middle of {count} replacements");
}
