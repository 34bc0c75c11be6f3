//! How long a node is away and how long its replacement takes, for every way to carry it, beside the least time that way allows
//! and beside the stop-first sequence of the commercial product.
//!
//! `cargo bench -p perennial-sim --bench replacement` prints two tables for each trigger; `-- seeds=5` is quicker,
//! `only=adopt` runs the modes whose name holds that word, `trigger=notice`, `loss` or `restore` that table alone. Time is virtual: the same seeds give the same numbers on every
//! machine, and the engine's own computing takes none of it. What the bound is stands in `sim/tests/sim/critical_path.rs`.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]

#[path = "../tests/sim/critical_path.rs"]
mod critical_path;
#[expect(dead_code, reason = "a measurement uses a part of it")]
#[path = "../tests/sim/lab.rs"]
mod lab;

use critical_path::{Mode, Reads, Times, Trigger, bound, drawn, replaced, stopped_first};

/// How far from the bound is near enough (DESIGN §6).
const NEAR_PERCENT: f64 = 5.0;

/// Runs of each mode; the p99 of fifty is their worst but one.
const SEEDS: u64 = 50;

/// One replacement and its comparisons.
struct Run {
    took: Times,
    bound: Times,
    /// With the agreeing reads that the rules demand.
    demanded: Times,
    stop_first: Times,
}

fn main() {
    let argument = |name: &str| {
        std::env::args().find_map(|a| a.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let seeds = argument("seeds").and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let only = argument("only").unwrap_or_default();
    let modes: Vec<Mode> = Mode::all().into_iter().filter(|mode| mode.name().contains(&only)).collect();
    println!("{seeds} runs of each mode; seconds of virtual time; over: above the bound, in per cent");
    let asked = argument("trigger").unwrap_or_default().to_lowercase();
    let triggers = [Trigger::Notice, Trigger::Loss, Trigger::Restore];
    for trigger in triggers.into_iter().filter(|one| format!("{one:?}").to_lowercase().contains(&asked)) {
        let measured = |mode: &&Mode| trigger != Trigger::Restore || Mode::all_restored().contains(mode);
        let rows: Vec<(Mode, Vec<Run>)> = modes
            .iter()
            .filter(measured)
            .map(|mode| (*mode, (0..seeds).map(|seed| run(*mode, trigger, seed)).collect()))
            .collect();
        let what = match trigger {
            Trigger::Notice => "two minutes' notice",
            Trigger::Loss => "lost without notice",
            Trigger::Restore => "restored from a backup (stop1: of a loss without a restore)",
        };
        table(&format!("outage, {what}"), &rows, |times| times.outage_ms);
        table(&format!("total, {what}"), &rows, |times| times.total_ms);
    }
}

fn run(mode: Mode, trigger: Trigger, seed: u64) -> Run {
    let latencies = drawn(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    Run {
        took: runtime.block_on(replaced(mode, trigger, &latencies, seed)),
        bound: bound(mode, trigger, &latencies, Reads::None),
        demanded: bound(mode, trigger, &latencies, Reads::Agreeing),
        stop_first: stopped_first(mode, trigger, &latencies, seed),
    }
}

fn table(title: &str, rows: &[(Mode, Vec<Run>)], of: impl Fn(&Times) -> u64) {
    println!();
    println!("{title}");
    println!(
        "{:<38}{:>6}{:>6}{:>6}{:>6}{:>6}{:>6}{:>6}{:>6}",
        "root network data (zone)", "median", "worst", "bound", "reads", "stop1", "share", "over", ""
    );
    for (mode, runs) in rows {
        let sorted = |value: &dyn Fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let at = |value: &dyn Fn(&Run) -> f64, share: f64| {
            let values = sorted(value);
            let index = (values.len() as f64 * share) as usize;
            values[index.min(values.len() - 1)]
        };
        let seconds = |times: &Times| of(times) as f64 / 1000.0;
        let took = |run: &Run| seconds(&run.took);
        let share = |run: &Run| seconds(&run.took) - seconds(&run.bound);
        let over = |run: &Run| 100.0 * share(run) / seconds(&run.bound);
        let worst_over = at(&over, 1.0);
        println!(
            "{:<38}{:>6.1}{:>6.1}{:>6.1}{:>6.1}{:>6.1}{:>6.2}{:>6.1} {}",
            mode.name(),
            at(&took, 0.5),
            at(&took, 1.0),
            at(&|run: &Run| seconds(&run.bound), 0.5),
            at(&|run: &Run| seconds(&run.demanded), 0.5),
            at(&|run: &Run| seconds(&run.stop_first), 0.5),
            at(&share, 0.99),
            at(&over, 0.5),
            if worst_over <= NEAR_PERCENT { "PASS" } else { "over" }
        );
    }
}
