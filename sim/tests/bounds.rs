//! A bound that can be beaten is wrong: no replacement is faster than the least time its mode allows.

mod ideal;
mod lab;

use ideal::{Data, Mode, Network, Reads, Root, Trigger, bound, drawn, replaced, stopped_first};

#[tokio::test(start_paused = true)]
async fn no_replacement_is_faster_than_its_bound() {
    for seed in 0..4 {
        let latencies = drawn(seed);
        for mode in Mode::all() {
            for trigger in [Trigger::Notice, Trigger::Loss] {
                let took = replaced(mode, trigger, &latencies, seed).await;
                for reads in [Reads::None, Reads::Agreeing] {
                    let least = bound(mode, trigger, &latencies, reads);
                    let name = format!("{} {trigger:?} seed {seed} {reads:?}", mode.name());
                    assert!(least.outage_ms <= took.outage_ms, "{name}: outage {took:?}, bound {least:?}");
                    assert!(least.total_ms <= took.total_ms, "{name}: total {took:?}, bound {least:?}");
                }
            }
        }
    }
}

/// The formula against calls in the same region: where Perennial's rules and the stop-first sequence are the same chain, so
/// are their times.
#[test]
fn the_bound_is_what_an_ideal_driver_needs() {
    let mut compared = 0;
    for seed in 0..20 {
        let latencies = drawn(seed);
        for mode in Mode::all() {
            let kept = matches!(mode.network, Network::PrimaryEni | Network::None);
            let same_chain = match mode.root {
                Root::Adopt => false,
                // With data by snapshot as well, the ideal driver's two calls come one after the other.
                Root::Image => kept && mode.data == Data::Reattach,
                Root::New if mode.data == Data::Snapshot => kept,
                Root::New => mode.network == Network::PrimaryEni,
            };
            for trigger in [Trigger::Notice, Trigger::Loss] {
                let least = bound(mode, trigger, &latencies, Reads::None);
                let driven = stopped_first(mode, trigger, &latencies, seed);
                if same_chain {
                    assert_eq!(least, driven, "{} {trigger:?} {seed}", mode.name());
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 0);
}
