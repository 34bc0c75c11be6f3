//! How long it takes until every one of N nodes is back that were lost at once, under EC2's published request quotas, beside the least
//! time that the quotas and the critical path allow; what was called, and what was refused.
//!
//! `cargo bench -p perennial-sim --bench recovery` measures 16, 64, 256 and 1,000 nodes; `-- nodes=400` one number, `percent=50` with half
//! of the quotas, `calls` also prints the calls by action. Time is virtual: the same seed gives the same numbers on every machine. Each
//! node has one data volume that is reattached, a secondary address, and no root to carry (`root: none`). *Whole* is a node with its volume
//! and its address; *done* is its operation, which also verifies the node and deletes the old interface.
//!
//! The bound (`Q(n, burst, rate)` is how long n calls take): the longest of the critical path (the last of N shutdowns, a second read, the
//! release, the attach), the launches, the attaches after the first shutdown, and the addresses likewise. Its latencies are the shortest
//! that the region draws, so it is below what any driver reaches.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]

#[expect(dead_code, reason = "a measurement uses a part of it")]
#[path = "../tests/sim/lab.rs"]
mod lab;
#[expect(dead_code, reason = "a measurement uses a part of it")]
#[path = "../tests/sim/mass.rs"]
mod mass;

use mass::{Mass, Outcome, settings};
use perennial_sim::world::settings::{Latencies, RequestQuotas};

/// Numbers of nodes that are measured if none is named.
const NODES: [usize; 4] = [16, 64, 256, 1_000];

/// The seed of the region.
const SEED: u64 = 1;

fn main() {
    let argument = |name: &str| {
        std::env::args().find_map(|a| a.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let number = |name: &str| argument(name).and_then(|text| text.parse::<u32>().ok());
    let nodes = number("nodes").map_or_else(|| NODES.to_vec(), |nodes| vec![nodes as usize]);
    let percent = number("percent").unwrap_or(100);
    let says_calls = std::env::args().any(|argument| argument == "calls");
    println!(
        "quotas: {percent} % of the published ones; seconds of virtual time; s of one processor for engine and region"
    );
    println!(
        "| nodes | bound | first whole | median | last whole | ratio | last done | calls | refused | given up | CPU s | MiB |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for nodes in nodes {
        let before_s = processor_s();
        let outcome = recover(nodes, percent);
        row(nodes, percent, &outcome, processor_s() - before_s);
        if says_calls {
            for (action, (calls, refused)) in &outcome.calls {
                println!("  {action}: {calls}, {refused} refused");
            }
        }
    }
}

fn recover(nodes: usize, percent: u32) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(async {
        let mut mass = Mass::new(settings(SEED, Latencies::default()), nodes).await;
        mass.limit(RequestQuotas { percent, ..RequestQuotas::default() });
        mass.lose(&[]).await;
        mass.recovered().await
    })
}

fn row(nodes: usize, percent: u32, outcome: &Outcome, cpu_s: f64) {
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let mut whole_ms = outcome.whole_ms.clone();
    whole_ms.sort_unstable();
    let (first, median, last) = (whole_ms[0], whole_ms[whole_ms.len() / 2], whole_ms[whole_ms.len() - 1]);
    let bound = bound_s(nodes as f64, f64::from(percent) / 100.0);
    let (calls, refused) = outcome.rejected();
    println!(
        "| {nodes} | {bound:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.1} | {calls} | {refused} | {} | {cpu_s:.1} | {} |",
        seconds(first),
        seconds(median),
        seconds(last),
        seconds(last) / bound,
        seconds(outcome.last_ms()),
        outcome.given_up,
        resident_mib(),
    );
}

/// The least time, in seconds, with such a part of the published quotas.
fn bound_s(nodes: f64, part: f64) -> f64 {
    let calls = |burst: f64, rate: f64| ((nodes - burst * part) / (rate * part)).max(0.0);
    // 20 to 60 s of shutdown: the mean of the longest of N.
    let path = 20.0 + 40.0 * nodes / (nodes + 1.0) + 1.0 + 1.0 + 2.5 + 0.3;
    // The shortest shutdown, the second read, a look.
    let first_free = 22.0;
    let launches = calls(5.0, 2.0) + 1.5 + 4.0 + 1.0 + 0.1;
    let attaches = first_free + calls(50.0, 5.0) + 1.1;
    let addresses = first_free + calls(100.0, 5.0) + 0.6;
    [path, launches, attaches, addresses].into_iter().fold(0.0, f64::max)
}

/// How long this thread has run, in seconds; 0 where that is not told.
fn processor_s() -> f64 {
    let told = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    told.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).map_or(0.0, |ns| ns / 1e9)
}

/// The memory of this process; 0 where that is not told.
fn resident_mib() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}
