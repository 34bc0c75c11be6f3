//! Time that is not as it should be: the machine's clock is set, or no process looks for an hour. A step waits as long as it should,
//! no workflow is stuck for it, and nothing is deleted for an age that only a wrong clock sees.

use std::time::Duration;

use crate::lab::Lab;
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_workflows::spec::node::{NetworkMode, RootMode};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_hours(1);

/// By how much the clock is set, in milliseconds.
const SET: [i64; 5] = [-3_600_000, -20_000, 20_000, 7_200_000, 8 * 24 * 3_600_000];

const MODES: [(NetworkMode, RootMode); 3] = [
    (NetworkMode::SecondaryIp, RootMode::Adopt),
    (NetworkMode::PrimaryEni, RootMode::Image),
    (NetworkMode::SecondaryEni, RootMode::None),
];

async fn provisioned(seed: u64) -> Lab {
    let (network, root) = MODES[seed as usize % MODES.len()];
    let mut settings = Settings::calm(seed);
    // Minutes that are drawn anew would hide a minute that is lost.
    settings.latencies.snapshot = Span::ms(90_000, 90_000);
    settings.latencies.image = Span::ms(30_000, 30_000);
    Lab::provisioned(settings, network, root, |_, _| {}).await.0
}

/// How long a node of this seed takes to be back when the clock is left alone.
async fn undisturbed(seed: u64) -> Duration {
    let mut lab = provisioned(seed).await;
    let began_ms = lab.clock.now_ms();
    lab.warn("db-1").await;
    lab.rest("db-1", 2).await;
    Duration::from_millis(lab.clock.now_ms() - began_ms)
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_in_the_middle_of_a_replacement_delays_nothing_and_makes_no_workflow_stuck() {
    for seed in 0..6 {
        let usual = undisturbed(seed).await;
        for (place, by_ms) in SET.into_iter().enumerate() {
            // Another moment for each seed and setting, from the first second to the last.
            let moment = usual.mul_f64(((seed * 5 + place as u64) as f64 * 0.618_034).fract());
            let mut lab = provisioned(seed).await;
            let began_ms = lab.clock.now_ms();
            lab.warn("db-1").await;
            lab.clock.sleep(moment).await;
            lab.machine.set(by_ms);
            lab.rest("db-1", 2).await;
            let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
            let what = format!("seed {seed}, {by_ms} ms after {moment:?}");
            assert!(took < usual + MINUTE, "{what}: {took:?} instead of {usual:?}\n{}", lab.story().await);
            lab.check("db-1", &["before"]).await;
            // Noticed, when it was more than a few seconds, and once.
            lab.clock.sleep(MINUTE).await;
            assert_eq!(lab.machine.jumps().count, 1, "{what}");
            assert_eq!(lab.machine.jumps().last.unwrap().by_ms, by_ms, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_while_the_process_is_away_makes_no_workflow_stuck() {
    for seed in 0..6 {
        let usual = undisturbed(seed).await;
        for (place, by_ms) in SET.into_iter().enumerate() {
            let moment = usual.mul_f64(((seed * 5 + place as u64) as f64 * 0.618_034).fract());
            let mut lab = provisioned(seed).await;
            lab.warn("db-1").await;
            lab.clock.sleep(moment).await;
            lab.kill().await;
            lab.machine.set(by_ms);
            let began_ms = lab.clock.now_ms();
            lab.start();
            lab.rest("db-1", 2).await;
            let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
            let what = format!("seed {seed}, {by_ms} ms after {moment:?}");
            assert!(took < usual + 5 * MINUTE, "{what}: {took:?}\n{}", lab.story().await);
            lab.check("db-1", &["before"]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_waits_for_capacity_asks_again_as_often_as_before_when_the_clock_is_set() {
    for by_ms in SET {
        let (mut lab, spec) =
            Lab::provisioned(Settings::calm(3), NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| {}).await;
        lab.set_capacity(&spec, 0, Capacity::Free(0));
        lab.reclaim("db-1").await;
        lab.clock.sleep(20 * MINUTE).await;
        lab.machine.set(by_ms);
        lab.clock.sleep(20 * MINUTE).await;
        lab.set_capacity(&spec, 0, Capacity::Unlimited);
        let began_ms = lab.clock.now_ms();
        lab.rest("db-1", 2).await;
        let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
        assert!(took < 10 * MINUTE, "{by_ms}: {took:?}\n{}", lab.story().await);
        lab.check("db-1", &["before"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_for_an_hour_in_the_middle_of_six_replacements_leaves_no_workflow_stuck() {
    for moment_s in [1, 5, 20, 60, 119, 125, 150, 200] {
        let mut lab = Lab::new(Settings::calm(moment_s));
        let names: Vec<String> = (0..6).map(|n| format!("db-{n}")).collect();
        for (name, (network, root)) in names.iter().zip(MODES.into_iter().cycle()) {
            let spec = lab.spec(name, network, root);
            lab.provision(&spec).await;
            lab.write(name, "before").await;
        }
        for name in &names {
            lab.warn(name).await;
        }
        lab.clock.sleep(Duration::from_secs(moment_s)).await;
        lab.kill().await;
        lab.clock.sleep(HOUR + 10 * MINUTE).await;
        let began_ms = lab.clock.now_ms();
        lab.start();
        for name in &names {
            lab.rest(name, 2).await;
        }
        let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
        assert!(took < 30 * MINUTE, "away after {moment_s} s: {took:?}\n{}", lab.story().await);
        for name in &names {
            assert!(lab.holds(name, "before").await, "{name}, away after {moment_s} s");
        }
    }
}
