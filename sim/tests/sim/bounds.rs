//! A bound that can be beaten is wrong: no replacement is faster than the least time its mode allows; and none is much slower.

use crate::critical_path::{
    Data, Mode, Network, Reads, Root, Trigger, Zone, bound, drawn, replaced, spot_pools_asked, stopped_first,
};
use crate::sweep::Seen;

/// How far above the bound with agreeing reads an outage may be, in per cent: the looks that follow a wait are up to a fiftieth of it late.
const LATE_PERCENT: u64 = 4;

/// And beyond that, in milliseconds: some looks and calls, however short the wait.
const LATE_MS: u64 = 1_000;

/// How far above it the live handover of a node without a kept root may be, in milliseconds: one look that finds the volume free.
const LIVE_LATE_MS: u64 = 400;

#[tokio::test(start_paused = true)]
async fn no_replacement_is_faster_than_its_bound_nor_much_slower() {
    for seed in 0..2 {
        let latencies = drawn(seed);
        let replaced_by = |trigger| Mode::all().into_iter().map(move |mode| (mode, trigger));
        let restored = Mode::all_restored().into_iter().map(|mode| (mode, Trigger::Restore));
        let runs = replaced_by(Trigger::Notice).chain(replaced_by(Trigger::Loss)).chain(restored);
        for (mode, trigger) in runs {
            let took = replaced(mode, trigger, &latencies, seed).await;
            for reads in [Reads::None, Reads::Agreeing] {
                let least = bound(mode, trigger, &latencies, reads);
                let name = format!("{} {trigger:?} seed {seed} {reads:?}", mode.name());
                assert!(least.outage_ms <= took.outage_ms, "{name}: outage {took:?}, bound {least:?}");
                assert!(least.total_ms <= took.total_ms, "{name}: total {took:?}, bound {least:?}");
            }
            let least = bound(mode, trigger, &latencies, Reads::Agreeing).outage_ms;
            let is_live = mode.detaches(trigger) && mode.root == Root::New && mode.zone == Zone::Same;
            let late_ms = if is_live { LIVE_LATE_MS } else { least * LATE_PERCENT / 100 + LATE_MS };
            let most = least + late_ms;
            let name = format!("{} {trigger:?} seed {seed}", mode.name());
            assert!(took.outage_ms <= most, "{name}: outage {took:?}, bound {least}");
        }
    }
}

/// The formula against calls in the same region: where Perennial's rules and the stop-first sequence are the same chain, so
/// are their times.
#[test]
fn the_bound_is_what_an_ideal_driver_needs() {
    let mut compared = Seen::at_least(400, "bounds that are an ideal driver's own times");
    for seed in 0..20 {
        let latencies = drawn(seed);
        for mode in Mode::all() {
            let kept = matches!(mode.network, Network::PrimaryEni | Network::None);
            let same_chain = match (mode.root, mode.zone) {
                (Root::Adopt, _) => false,
                // With data by snapshot as well, the ideal driver's two calls come one after the other.
                (Root::Image, Zone::Same) => kept && mode.data != Data::Snapshot,
                (Root::New, Zone::Same) if mode.data == Data::Snapshot => kept,
                (Root::New, Zone::Same) => mode.network == Network::PrimaryEni,
                // Likewise.
                (Root::Image, Zone::Other) => false,
                (Root::New, Zone::Other) => mode.data == Data::Snapshot && mode.network == Network::None,
            };
            for trigger in [Trigger::Notice, Trigger::Loss] {
                let least = bound(mode, trigger, &latencies, Reads::None);
                let driven = stopped_first(mode, trigger, &latencies, seed);
                if same_chain {
                    // On-demand pools at home are asked first by Perennial alone.
                    let more = mode.asked_at_home(trigger) - spot_pools_asked(mode, trigger);
                    let asked_ms = more * latencies.launch.min_ms;
                    let outage_ms = driven.outage_ms + asked_ms;
                    let total_ms = driven.total_ms + asked_ms;
                    let name = format!("{} {trigger:?} {seed}", mode.name());
                    assert_eq!((least.outage_ms, least.total_ms), (outage_ms, total_ms), "{name}");
                    compared.when(true);
                }
            }
        }
    }
}
