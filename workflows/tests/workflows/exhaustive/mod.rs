//! Every order of evidence and every outcome that the world allows, for the smallest node of each mode.
//!
//! `laws` draws what happens at random, and `sim` runs whole engines in storms. This walk misses nothing
//! within its bounds. `decide` and `evolve` are pure, so the machine and an abstract world are walked breadth
//! first, state by state:
//!
//! ```text
//!  State = operation × world × reports under way
//!     │ a worker looks: every outcome that the world allows (`looks`), reported now or later
//!     │ the process dies: what was seen and not reported is lost, what was done is done
//!     │ EC2 goes on, or takes an instance; a person asks, or acts in the account (`state`)
//!     ▼
//!  State: known already, or new: the laws hold in it (`laws`)
//! ```
//!
//! - *Deviations.* A friendly world costs nothing. Everything else is a deviation: an outcome that is not
//!   good, a report that comes later, a warning, a loss, a hand, a person. A walk takes every way with at most
//!   so many of them, the ways with fewer first. So a story that breaks a law is a short one.
//! - *Dead ends.* From every state a friendly world must lead to an end: the graph is searched backwards from
//!   its ends.
//! - *States are equal* when they go on in the same way: times and tokens do not count, nor the order of steps
//!   about different volumes.
//! - *Left out:* several pools and zones, surveys, the backup catalog, commands on the node's own stream. When
//!   no deviation is left, reports that are independent of all others come first.
//!
//! `cargo test -p perennial-workflows --test workflows exhaustive -- --nocapture` prints the counts.
//! `WALK_DEVIATIONS=2` (for every mode), `WALK_STATES=1000000` (the most states of a mode) and
//! `WALK_MODE=adopt` (modes whose name has it) go further.

mod laws;
mod looks;
mod state;
mod walk;
mod world;

use std::collections::BTreeMap;

use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{DataMode, Handover, NetworkMode, NodeSpec, RootMode, example};

use crate::run::{asked, order};
use state::State;
use walk::{Bounds, Seen, walk};
use world::{RootFlag, World};

/// A beginning, and how far a walk from it goes in an ordinary run.
struct Mode {
    name: &'static str,
    kind: OperationKind,
    root: RootMode,
    network: NetworkMode,
    data: Data,
    root_flag: RootFlag,
    /// With a last snapshot of each volume that is free.
    backs_up: bool,
    deviations: u8,
    /// How many states there are at least, within the deviations.
    at_least: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    None,
    Reattach,
    Snapshot,
    /// Reattached, by a live handover.
    Detach,
}

const REPLACE: Mode = Mode {
    name: "",
    kind: OperationKind::Replace,
    root: RootMode::Adopt,
    network: NetworkMode::None,
    data: Data::None,
    root_flag: RootFlag::Delete,
    backs_up: false,
    deviations: 1,
    at_least: 0,
};

/// One mode at least for every way of the root, of the data, of the network, and every kind of operation that
/// moves a node.
const MODES: [Mode; 15] = [
    Mode { name: "replace: adopt", at_least: 12_000, ..REPLACE },
    Mode { name: "replace: adopt, flag inherited", root_flag: RootFlag::Inherit, at_least: 8_900, ..REPLACE },
    Mode {
        name: "replace: adopt, primary_eni, backups",
        network: NetworkMode::PrimaryEni,
        backs_up: true,
        at_least: 16_000,
        ..REPLACE
    },
    Mode {
        name: "replace: adopt, primary_eni",
        network: NetworkMode::PrimaryEni,
        at_least: 5_300,
        ..REPLACE
    },
    Mode {
        name: "replace: adopt, data by snapshot, secondary_ip",
        network: NetworkMode::SecondaryIp,
        data: Data::Snapshot,
        at_least: 12_000,
        ..REPLACE
    },
    Mode { name: "replace: image", root: RootMode::Image, at_least: 800, ..REPLACE },
    Mode {
        name: "replace: image, data, secondary_ip",
        root: RootMode::Image,
        network: NetworkMode::SecondaryIp,
        data: Data::Reattach,
        at_least: 5_000,
        ..REPLACE
    },
    Mode {
        name: "replace: no root, data, ip_pool",
        root: RootMode::None,
        network: NetworkMode::IpPool,
        data: Data::Reattach,
        at_least: 3_000,
        ..REPLACE
    },
    Mode {
        name: "replace: no root, secondary_eni",
        root: RootMode::None,
        network: NetworkMode::SecondaryEni,
        at_least: 2_200,
        ..REPLACE
    },
    Mode {
        name: "replace: no root, data detached, secondary_ip",
        root: RootMode::None,
        network: NetworkMode::SecondaryIp,
        data: Data::Detach,
        at_least: 17_000,
        ..REPLACE
    },
    Mode {
        name: "provision: adopt, data",
        kind: OperationKind::Provision,
        data: Data::Reattach,
        at_least: 5_000,
        ..REPLACE
    },
    Mode { name: "resume: adopt", kind: OperationKind::Resume, at_least: 8_800, ..REPLACE },
    Mode {
        name: "pause: adopt, data",
        kind: OperationKind::Pause,
        data: Data::Reattach,
        deviations: 2,
        at_least: 1_300,
        ..REPLACE
    },
    Mode {
        name: "delete: adopt, data",
        kind: OperationKind::Delete,
        data: Data::Reattach,
        deviations: 2,
        at_least: 800,
        ..REPLACE
    },
    // Too many for an ordinary run: the most common mode as far as its bound goes.
    Mode { name: "replace: adopt, data", network: NetworkMode::SecondaryIp, data: Data::Reattach, ..REPLACE },
];

/// How many states of a mode an ordinary run looks at.
const STATES_MAX: usize = 20_000;

/// The smallest node of a mode: one pool, and at most one data volume.
fn smallest(mode: &Mode) -> NodeSpec {
    let mut spec = example("db-1", mode.network, mode.root);
    spec.capacity.instance_types.truncate(1);
    spec.capacity.market = MarketPolicy::SpotOnly;
    match mode.data {
        Data::None => spec.data_volumes.clear(),
        Data::Reattach => {}
        Data::Snapshot => spec.persist.data = DataMode::Snapshot,
        Data::Detach => spec.persist.handover = Handover::Detach,
    }
    spec.backup = mode.backs_up.then(BackupSpec::default);
    if mode.network == NetworkMode::IpPool {
        spec.network.ip_pool = Some(NodeName::parse("pool").unwrap());
    }
    spec
}

fn begin(mode: &Mode) -> State {
    let order = order(mode.kind, &smallest(mode), asked());
    let world = World::of(&order.before, mode.root_flag);
    State::begin(order, world)
}

fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is no number")))
}

#[expect(clippy::print_stdout, reason = "the counts are what a deep run is for")]
fn tell(mode: &Mode, bounds: Bounds, seen: &Seen) {
    let Seen { states, transitions, depth, ends, stuck, lost, copied, is_complete, .. } = seen;
    let whole = if *is_complete { "all" } else { "the first" };
    let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
    println!(
        "{}: {whole} {states} states within {} deviations, {transitions} transitions, at most {depth} in a row; \
         {stuck} stuck, {lost} ends after EC2 deleted an adopted root, {copied} of them with a last snapshot; ends: {}",
        mode.name,
        bounds.deviations,
        ends.join(", ")
    );
}

#[test]
fn every_order_of_evidence_keeps_the_laws() {
    let wanted = std::env::var("WALK_MODE").unwrap_or_default();
    let (deviations, states) = (number("WALK_DEVIATIONS"), number("WALK_STATES"));
    let is_ordinary = wanted.is_empty() && deviations.is_none() && states.is_none();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut broken = Vec::new();
    for mode in MODES.iter().filter(|mode| mode.name.contains(&wanted)) {
        let bounds = Bounds {
            deviations: deviations.map_or(mode.deviations, |wanted| u8::try_from(wanted).unwrap()),
            states: states.unwrap_or(STATES_MAX),
        };
        match walk(begin(mode), bounds) {
            Ok(seen) => {
                tell(mode, bounds, &seen);
                let is_whole = seen.is_complete == (mode.at_least > 0) && seen.states >= mode.at_least;
                assert!(
                    is_whole || !is_ordinary,
                    "{}: {} states, all: {}",
                    mode.name,
                    seen.states,
                    seen.is_complete
                );
                for (kind, count) in seen.kinds {
                    *kinds.entry(kind).or_default() += count;
                }
            }
            Err(why) => broken.push(format!("{}: {why}", mode.name)),
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    for kind in KINDS.iter().filter(|_| is_ordinary) {
        assert!(kinds.contains_key(*kind), "no walk has met {kind:?}: {kinds:#?}");
    }
}

/// What the walks must have met.
const KINDS: [&str; 38] = [
    "EC2 takes …",
    "abandoned",
    "adopt_root: adopted",
    "adopt_root: failed",
    "adopt_root: failed, detached",
    "adopt_root: instance gone",
    "adopt_root: late",
    "adopt_root: missed",
    "adopt_root: refused",
    "another file",
    "attach:data: attached, not seen in time",
    "attach:data: device in use",
    "attach:data: refused",
    "attach_interface: attached",
    "cancelled",
    "clone_root: cloned",
    "detach:data: busy",
    "fence: protected",
    "launch: interface gone",
    "launch: launched before",
    "launch: no capacity",
    "launch: refused",
    "paused",
    "preserve: preserved, not reported yet",
    "preserve: the report arrives",
    "register_image: available",
    "release:data: on another",
    "release:root: missed",
    "resumed, accepting the loss of [Root]",
    "resumed, accepting the loss of []",
    "snapshot:data: refused",
    "snapshot_root: late",
    "the process dies",
    "to be deleted",
    "… is attached to … by hand",
    "… is deleted by hand",
    "… is heard to be over",
    "… is warned",
];
