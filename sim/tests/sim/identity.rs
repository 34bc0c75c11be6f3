//! Whose thing is this? A journal from a backup, another installation, another account, copied tags. Judged from the
//! region, never from the journal: no volume is deleted, no address moves, no instance is doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use perennial_engine::journal::Batch;
use perennial_sim::world::settings::Settings;
use perennial_sim::world::{LaunchExtras, LaunchTags, Placement, RunInstances, World};
use perennial_workers::port::Tags;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::aws::{InstanceId, Market};
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

use crate::lab::Lab;
use crate::nodes::quick;
use crate::sweep::Seen;

const TWO_HOURS: Duration = Duration::from_secs(2 * 3_600);

/// What must stay of a region.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// The instances of nodes that are not over.
    instances: BTreeSet<String>,
    /// The volumes that are there, with what is on them.
    volumes: BTreeMap<String, usize>,
    /// Those of them that are no instance's root.
    data: BTreeSet<String>,
    /// The interface of each private address.
    addresses: BTreeMap<String, String>,
}

impl Kept {
    fn of(world: &World) -> Self {
        let dump = world.dump();
        let there =
            |state: &serde_json::Value| matches!(state.as_str(), Some("Available" | "InUse" | "Creating"));
        let volumes = dump["volumes"].as_object().unwrap().iter();
        let volumes = volumes.filter(|(_, volume)| there(&volume["state"]));
        Self {
            instances: world.instances_of("db-1").iter().map(|instance| instance.id.to_string()).collect(),
            data: world
                .all_volumes()
                .filter(|volume| {
                    let on = volume.attachment.as_ref();
                    on.is_none_or(|on| {
                        world.instance(&on.instance).is_none_or(|instance| instance.root_device != on.device)
                    })
                })
                .map(|volume| volume.id.to_string())
                .collect(),
            volumes: volumes
                .map(|(id, volume)| (id.clone(), volume["content"].as_array().map_or(0, Vec::len)))
                .collect(),
            addresses: dump["addresses"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(address, holder)| (address.clone(), holder.as_str().unwrap_or_default().to_owned()))
                .collect(),
        }
    }

    /// What of it is not so any more.
    fn broken(&self, world: &World) -> Vec<String> {
        let now = Self::of(world);
        let mut broken = Vec::new();
        if now.instances != self.instances {
            broken.push(format!("instances {:?} -> {:?}", self.instances, now.instances));
        }
        let gone = self.volumes.keys().filter(|id| !now.volumes.contains_key(*id));
        broken.extend(gone.map(|id| format!("{id} was deleted, with {} records", self.volumes[id])));
        for (address, holder) in &self.addresses {
            if now.addresses.get(address) != Some(holder) {
                broken.push(format!("{address}: {holder} -> {:?}", now.addresses.get(address)));
            }
        }
        broken
    }

    /// The volumes with records that are gone now. The temporary root of an instance goes with it, where no root is kept; one that
    /// is kept, or is data, stays.
    fn gone(&self, now: &Self, (_, root, _): Mode) -> Vec<&String> {
        let data = |id: &&String| root != RootMode::None || self.data.contains(*id);
        self.volumes.keys().filter(|id| !now.volumes.contains_key(*id)).filter(data).collect()
    }
}

/// How a node keeps its state.
type Mode = (NetworkMode, RootMode, DataMode);

const MODES: [Mode; 5] = [
    (NetworkMode::SecondaryIp, RootMode::Adopt, DataMode::Reattach),
    (NetworkMode::PrimaryEni, RootMode::Image, DataMode::Reattach),
    (NetworkMode::SecondaryEni, RootMode::Image, DataMode::Snapshot),
    (NetworkMode::None, RootMode::None, DataMode::Snapshot),
    (NetworkMode::SecondaryIp, RootMode::None, DataMode::Reattach),
];

/// How often a node is replaced in a run.
fn replacements() -> u64 {
    std::env::var("IDENTITY_REPLACEMENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Every so many positions of a journal: 1 for each of them.
fn stride() -> usize {
    std::env::var("IDENTITY_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

/// A node that was replaced a few times, and has settled.
struct Run {
    mode: Mode,
    lab: Lab,
    spec: NodeSpec,
    /// The appends of its journal.
    appends: Vec<Batch>,
    /// The region after each of them.
    worlds: Vec<World>,
    /// The region in the end.
    world: World,
    /// The node's address.
    address: Option<Ipv4Addr>,
    /// What was written to it, and after how many appends.
    records: Vec<(String, usize)>,
}

impl Run {
    async fn of(mode: Mode) -> Self {
        let (network, root, data) = mode;
        let mut lab = Lab::new(quick(31));
        *lab.worlds.lock().unwrap() = Some(vec![lab.region.with(|world, _| world.clone())]);
        let mut spec = lab.spec("db-1", network, root);
        spec.persist.data = data;
        lab.provision(&spec).await;
        let mut records = Vec::new();
        for operation in 1..=replacements() + 1 {
            if operation > 1 {
                lab.submit("node.replace", "db-1", json!({})).await;
                lab.rest("db-1", operation).await;
            }
            let record = format!("v{operation}");
            lab.write("db-1", &record).await;
            records.push((record, lab.written.lock().unwrap().len()));
        }
        lab.clock.sleep(Duration::from_secs(600)).await;
        lab.kill().await;
        let node = lab.node("db-1").await;
        assert_eq!((node.operations, node.generation), (replacements() + 1, replacements() + 1));
        let appends = lab.written.lock().unwrap().clone();
        let worlds = lab.worlds.lock().unwrap().take().expect("it was begun");
        assert_eq!(worlds.len(), appends.len() + 1, "the region before and after each append");
        let world = lab.region.with(|world, _| world.clone());
        Self { mode, lab, spec, appends, worlds, world, address: node.resources.address, records }
    }

    /// The earlier positions of its journal, or every so many of them: a sweep of all of them with `IDENTITY_STRIDE=1`.
    fn positions(&self) -> impl Iterator<Item = usize> + use<> {
        let end = self.appends.len();
        (0..end).step_by(stride()).chain([end])
    }

    /// What stands on the volumes at a position.
    fn written_by(&self, position: usize) -> Vec<String> {
        self.records.iter().filter(|(_, from)| *from < position).map(|(record, _)| record.clone()).collect()
    }

    fn what(&self, position: usize) -> String {
        format!("{:?} from {position} of {}", self.mode, self.appends.len())
    }
}

/// Lets the region go on from a state of it.
fn region_is(lab: &Lab, world: &World) {
    lab.region.with(|now, now_ms| {
        *now = world.clone();
        now.advance(now_ms);
    });
}

/// The node is served: it is carried by what carries it, with its address, and an interruption brings it onto another instance
/// with all that was written. Judged from the region.
async fn survives_an_interruption(lab: &mut Lab, address: Option<Ipv4Addr>, records: &[String], what: &str) {
    lab.until(&format!("{what}: it is at rest"), TWO_HOURS, async |lab| {
        let node = lab.node("db-1").await;
        node.open.is_none() && node.newer.is_empty() && node.resources.carrier.is_some()
    })
    .await;
    let old = lab.instance("db-1").await;
    let before = lab.node("db-1").await;
    let is_alone = |lab: &Lab, instance: &InstanceId| {
        lab.region.with(|world, _| {
            world.instances_of("db-1").iter().map(|live| live.id.clone()).collect::<Vec<_>>()
                == std::slice::from_ref(instance)
        })
    };
    assert!(is_alone(lab, &old), "{what}: {old} is not the one\n{}", lab.story().await);
    lab.warn("db-1").await;
    lab.until(&format!("{what}: it is back"), TWO_HOURS, async |lab| {
        let node = lab.node("db-1").await;
        node.open.is_none() && node.resources.carrier.is_some_and(|carrier| carrier.instance != old)
    })
    .await;
    lab.clock.sleep(Duration::from_secs(400)).await;
    let (new, node) = (lab.instance("db-1").await, lab.node("db-1").await);
    let story = lab.story().await;
    assert!(is_alone(lab, &new), "{what}: {new} is not the one\n{story}");
    // Before its first operation is over, a node has no address and perhaps not all its volumes.
    let address = address.filter(|_| !records.is_empty());
    if !records.is_empty() {
        assert_eq!(node.resources.address, address, "{what}\n{story}");
        let slots = |node: &Node| node.resources.volumes.keys().cloned().collect::<Vec<_>>();
        assert_eq!(slots(&node), slots(&before), "{what}\n{story}");
    }
    lab.region.with(|world, now_ms| {
        for (slot, held) in &node.resources.volumes {
            let content = world.read(now_ms, &new, &held.device).unwrap();
            for record in records {
                assert!(content.iter().any(|read| read == record), "{what}: {slot} lost {record}\n{story}");
            }
        }
        if let Some(address) = address {
            let on = world
                .all_interfaces()
                .find(|on| on.primary_ip == address || on.secondary_ips.contains(&address));
            let on = on.and_then(|on| on.attachment.as_ref()).map(|plug| plug.instance.clone());
            assert_eq!(on.as_ref(), Some(&new), "{what}: {address}\n{story}");
        }
        assert_eq!(world.check_invariants(), Vec::<String>::new(), "{what}\n{story}");
    });
}

/// `docs/recovery.md`: a node that the journal does not know is applied again; what is behind is adopted. Whether it was.
async fn is_brought_up(
    lab: &mut Lab,
    spec: &NodeSpec,
    from: Option<&str>,
    what: &str,
) -> Result<bool, String> {
    if lab.node("db-1").await.spec.is_none() {
        lab.start();
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        lab.clock.sleep(Duration::from_secs(180)).await;
        lab.kill().await;
        assert!(!lab.node("db-1").await.newer.is_empty(), "{what}: applied anew\n{}", lab.story().await);
    }
    let compared = lab.adopt(from).await.expect("the region answers");
    for one in &compared {
        one.found.clone()?;
    }
    Ok(!compared.is_empty())
}

/// Serves the journal from each earlier position for two hours, each time in the region as it is in the end; then a person
/// adopts what is behind.
async fn from_every_position(mode: Mode) {
    let mut run = Run::of(mode).await;
    let mut behind = Seen::at_least(2, "positions at which a node is behind");
    let mut adopted = Seen::at_least(2, "nodes that were adopted");
    for position in run.positions() {
        let what = run.what(position);
        let records = run.written_by(usize::MAX);
        let lab = &mut run.lab;
        region_is(lab, &run.world);
        lab.clock.sleep(Duration::from_secs(120)).await;
        let kept = lab.region.with(|world, _| Kept::of(world));
        lab.put_back(&run.appends[..position]).await;
        // An empty journal is another installation's.
        lab.installation = if position == 0 { "another".to_owned() } else { "lab".to_owned() };
        lab.start();
        lab.clock.sleep(TWO_HOURS).await;
        lab.kill().await;
        let broken = lab.region.with(|world, _| kept.broken(world));
        assert!(broken.is_empty(), "{what}: {broken:#?}\n{}", lab.story().await);
        behind.when(!lab.node("db-1").await.newer.is_empty());
        let from = (position == 0).then_some("lab");
        let brought_up = is_brought_up(lab, &run.spec, from, &what).await;
        let brought_up = brought_up.unwrap_or_else(|because| panic!("{what}: {because}"));
        adopted.when(brought_up);
        lab.start();
        survives_an_interruption(lab, run.address, &records, &what).await;
        lab.kill().await;
        let now = lab.region.with(|world, _| Kept::of(world));
        let gone = kept.gone(&now, mode);
        assert!(gone.is_empty(), "{what}: {gone:?} after the adoption\n{}", lab.story().await);
    }
}

/// Serves the journal from earlier positions, first in a wrong account, which becomes the right one at another moment each time:
/// between any two looks. Nothing is deleted, moved or made, and the node is behind there too.
async fn a_wrong_account_becomes_the_right_one(mode: Mode) {
    let mut run = Run::of(mode).await;
    let mut behind = Seen::at_least(10, "nodes that are behind");
    for position in run.positions().filter(|position| *position > 0) {
        for moment_ms in [0, 7, 19, 33, 61].map(|n| n * 1_000 + position as u64 * 131 % 1_000) {
            let what = format!("{} after {moment_ms} ms", run.what(position));
            let lab = &mut run.lab;
            region_is(lab, &run.world);
            lab.clock.sleep(Duration::from_secs(120)).await;
            let kept = lab.region.with(|world, _| Kept::of(world));
            lab.put_back(&run.appends[..position]).await;
            lab.region.with(|world, now_ms| *world = World::new(Settings::calm(77), now_ms));
            lab.start();
            lab.clock.sleep(Duration::from_millis(moment_ms)).await;
            region_is(lab, &run.world);
            lab.clock.sleep(TWO_HOURS).await;
            lab.kill().await;
            let broken = lab.region.with(|world, _| kept.broken(world));
            assert!(broken.is_empty(), "{what}: {broken:#?}\n{}", lab.story().await);
            behind.when(!lab.node("db-1").await.newer.is_empty());
        }
    }
}

/// At each moment of a run the first installation stops, and a second one with the same owner and file begins. After two hours
/// nothing of the first has changed, and either the first goes on, or the second adopts the node.
async fn a_second_installation(mode: Mode) {
    let mut run = Run::of(mode).await;
    let mut went_on = Seen::at_least(2, "moments after which the first installation went on");
    let mut adopted = Seen::at_least(1, "nodes that the second installation adopted");
    let mut refused = Seen::at_least(0, "adoptions that were refused");
    for (nth, position) in run.positions().enumerate() {
        let what = run.what(position);
        let records = run.written_by(position);
        let lab = &mut run.lab;
        region_is(lab, &run.worlds[position]);
        lab.clock.sleep(Duration::from_secs(400)).await;
        let kept = lab.region.with(|world, _| Kept::of(world));
        if !lab.region.with(|world, _| shows_the_node(world)) {
            continue;
        }
        lab.put_back(&run.appends[..position]).await;
        let mut second = lab.neighbour("lab");
        second.submit("node.apply", "db-1", json!({ "spec": run.spec })).await;
        second.clock.sleep(Duration::from_secs(600)).await;
        second.submit("node.replace", "db-1", json!({})).await;
        second.submit("node.delete", "db-1", json!({ "keep": [] })).await;
        second.clock.sleep(TWO_HOURS).await;
        second.kill().await;
        let broken = lab.region.with(|world, _| kept.broken(world));
        assert!(broken.is_empty(), "{what}: {broken:#?}\n{}", second.story().await);
        let newer = second.node("db-1").await.newer;
        assert!(newer.iter().any(|newer| newer.contains("of the installation lab")), "{what}: {newer:?}");
        if nth % 2 == 0 || position == run.appends.len() {
            match is_brought_up(&mut second, &run.spec, Some("lab"), &what).await {
                Ok(brought_up) => {
                    assert!(brought_up, "{what}");
                    adopted.when(true);
                    second.start();
                    survives_an_interruption(&mut second, run.address, &records, &what).await;
                    second.kill().await;
                    continue;
                }
                // In the middle of an operation a person decides; nothing was done.
                Err(because) => {
                    refused.when(true);
                    let broken = lab.region.with(|world, _| kept.broken(world));
                    assert!(broken.is_empty(), "{what}, {because}: {broken:#?}");
                }
            }
        }
        went_on.when(true);
        lab.start();
        survives_an_interruption(lab, run.address, &records, &what).await;
        lab.kill().await;
    }
}

/// Whether a volume or an instance that is not over carries the node's tags.
fn shows_the_node(world: &World) -> bool {
    let of_node = |tags: &Tags| tags.get("perennial:node").is_some_and(|node| node == "db-1");
    !world.instances_of("db-1").is_empty() || world.all_volumes().any(|volume| of_node(&volume.tags))
}

/// At each moment of a run the engine is started in a wrong account, which answers and shows nothing, for two hours: it begins and
/// makes nothing there, and goes on in the right one.
async fn a_wrong_account(mode: Mode) {
    let mut run = Run::of(mode).await;
    let mut waited = Seen::at_least(2, "moments after which the right account went on");
    for position in run.positions().filter(|position| *position > 0) {
        let what = run.what(position);
        let records = run.written_by(position);
        let lab = &mut run.lab;
        region_is(lab, &run.worlds[position]);
        lab.clock.sleep(Duration::from_secs(400)).await;
        let (right, kept) = lab.region.with(|world, _| (world.clone(), Kept::of(world)));
        if !shows_the_node(&right) {
            continue;
        }
        lab.put_back(&run.appends[..position]).await;
        let before = lab.node("db-1").await;
        lab.region.with(|world, now_ms| *world = World::new(Settings::calm(77), now_ms));
        lab.start();
        lab.clock.sleep(TWO_HOURS).await;
        lab.kill().await;
        let made = lab.region.with(|world, _| {
            (world.all_instances().count(), world.all_volumes().count(), world.all_interfaces().count())
        });
        assert_eq!(made, (0, 0, 0), "{what}: made in the wrong account\n{}", lab.story().await);
        // Nothing begins. What only cleans up may end, and lists what it has not deleted.
        let now = lab.node("db-1").await;
        assert_eq!(now.operations, before.operations, "{what}\n{}", lab.story().await);
        if now.open == before.open {
            assert_eq!(now.resources, before.resources, "{what}\n{}", lab.story().await);
        }
        region_is(lab, &right);
        let broken = lab.region.with(|world, _| kept.broken(world));
        assert!(broken.is_empty(), "{what}: {broken:#?}");
        waited.when(true);
        lab.start();
        survives_an_interruption(lab, run.address, &records, &what).await;
        lab.kill().await;
    }
}

macro_rules! in_every_mode {
    ($($name:ident: $of:ident($mode:literal);)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            $of(MODES[$mode]).await;
        }
    )*};
}

in_every_mode! {
    a_journal_from_any_earlier_position_harms_nothing_adopt_reattach: from_every_position(0);
    a_journal_from_any_earlier_position_harms_nothing_image_reattach: from_every_position(1);
    a_journal_from_any_earlier_position_harms_nothing_image_snapshot: from_every_position(2);
    a_journal_from_any_earlier_position_harms_nothing_none_snapshot: from_every_position(3);
    a_journal_from_any_earlier_position_harms_nothing_none_reattach: from_every_position(4);
    a_second_installation_at_any_moment_harms_nothing_adopt_reattach: a_second_installation(0);
    a_second_installation_at_any_moment_harms_nothing_image_reattach: a_second_installation(1);
    a_second_installation_at_any_moment_harms_nothing_image_snapshot: a_second_installation(2);
    a_second_installation_at_any_moment_harms_nothing_none_snapshot: a_second_installation(3);
    a_second_installation_at_any_moment_harms_nothing_none_reattach: a_second_installation(4);
    a_wrong_account_that_becomes_the_right_one_harms_nothing_adopt_reattach: a_wrong_account_becomes_the_right_one(0);
    a_wrong_account_that_becomes_the_right_one_harms_nothing_none_snapshot: a_wrong_account_becomes_the_right_one(3);
    a_wrong_account_at_any_moment_begins_nothing_adopt_reattach: a_wrong_account(0);
    a_wrong_account_at_any_moment_begins_nothing_image_reattach: a_wrong_account(1);
    a_wrong_account_at_any_moment_begins_nothing_image_snapshot: a_wrong_account(2);
    a_wrong_account_at_any_moment_begins_nothing_none_snapshot: a_wrong_account(3);
    a_wrong_account_at_any_moment_begins_nothing_none_reattach: a_wrong_account(4);
}

/// The host of the engine and the node's instance end together.
#[tokio::test(start_paused = true)]
async fn a_journal_from_any_earlier_position_deletes_nothing_when_the_instance_is_gone_too() {
    for mode in [MODES[1], MODES[2], MODES[3]] {
        let Run { mut lab, appends, world, .. } = Run::of(mode).await;
        for position in (0..appends.len()).step_by(stride()) {
            lab.region.with(|now, now_ms| {
                *now = world.clone();
                now.advance(now_ms);
                let live: Vec<_> = now.instances_of("db-1").iter().map(|live| live.id.clone()).collect();
                live.iter().for_each(|live| now.reclaim_now(now_ms, live).unwrap());
            });
            lab.clock.sleep(Duration::from_secs(300)).await;
            let kept = lab.region.with(|world, _| Kept::of(world));
            lab.put_back(&appends[..position]).await;
            lab.start();
            lab.clock.sleep(TWO_HOURS).await;
            lab.kill().await;
            let now = lab.region.with(|world, _| Kept::of(world));
            let gone: Vec<_> = kept.volumes.keys().filter(|id| !now.volumes.contains_key(*id)).collect();
            let story = lab.story().await;
            assert!(gone.is_empty(), "{mode:?} from {position} of {}: {gone:?}\n{story}", appends.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_installation_with_the_same_owner_and_node_harms_nothing_of_the_first() {
    for first_is_down in [false, true] {
        let mut first = Lab::new(quick(32));
        let spec = first.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
        first.provision(&spec).await;
        first.write("db-1", "precious").await;
        if first_is_down {
            first.kill().await;
        }
        let kept = first.region.with(|world, _| Kept::of(world));
        let mut second = first.neighbour("lab");
        second.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        second.clock.sleep(Duration::from_secs(600)).await;
        second.submit("node.delete", "db-1", json!({ "keep": [] })).await;
        second.clock.sleep(TWO_HOURS).await;
        second.kill().await;
        let broken = first.region.with(|world, _| kept.broken(world));
        assert!(broken.is_empty(), "first down: {first_is_down}: {broken:#?}\n{}", second.story().await);
        let newer = second.node("db-1").await.newer;
        assert!(newer.iter().all(|newer| newer.contains("of the installation lab")), "{newer:?}");
        assert!(!newer.is_empty(), "{}", second.story().await);
    }
}

/// Applied anew with an empty journal, while the old one's node is paused, and cancelled.
#[tokio::test(start_paused = true)]
async fn a_lost_journal_and_the_cancelled_apply_of_a_paused_node_delete_nothing() {
    let mut lab = Lab::new(quick(33));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    lab.write("db-1", "precious").await;
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    lab.kill().await;
    let kept = lab.region.with(|world, _| Kept::of(world));
    assert!(kept.volumes.len() >= 2, "{kept:?}");
    lab.put_back(&[]).await;
    lab.installation = "another".to_owned();
    lab.start();
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(600)).await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.1" })).await;
    lab.clock.sleep(TWO_HOURS).await;
    let broken = lab.region.with(|world, _| kept.broken(world));
    assert!(broken.is_empty(), "{broken:#?}\n{}", lab.story().await);
    assert!(!lab.node("db-1").await.newer.is_empty(), "{}", lab.story().await);
}

/// The account or region is another one for forty minutes, from a start of the process or in the middle of one.
#[tokio::test(start_paused = true)]
async fn forty_minutes_in_a_wrong_account_or_region_begin_nothing() {
    for restarted in [true, false] {
        for mode in MODES {
            let Run { mut lab, appends, world: right, .. } = Run::of(mode).await;
            let kept = Kept::of(&right);
            if !restarted {
                lab.start();
                lab.clock.sleep(Duration::from_secs(120)).await;
            }
            lab.region.with(|world, now_ms| *world = World::new(Settings::calm(77), now_ms));
            if restarted {
                lab.start();
            }
            lab.clock.sleep(Duration::from_secs(2_400)).await;
            if restarted {
                lab.kill().await;
            }
            lab.region.with(|world, now_ms| {
                *world = right.clone();
                world.advance(now_ms);
            });
            if restarted {
                lab.start();
            }
            lab.clock.sleep(TWO_HOURS).await;
            let broken = lab.region.with(|world, _| kept.broken(world));
            let story = lab.story().await;
            assert!(broken.is_empty(), "{mode:?}, restarted {restarted}: {broken:#?}\n{story}");
            let node = lab.node("db-1").await;
            let operations = replacements() + 1;
            assert_eq!(
                (node.operations, node.open),
                (operations, None),
                "{mode:?}, restarted {restarted}\n{story}"
            );
            assert_eq!(lab.written.lock().unwrap().len(), appends.len(), "nothing was written\n{story}");
        }
    }
}

/// Whoever may launch and tag gives an instance the tags of the next launch.
#[tokio::test(start_paused = true)]
async fn an_instance_with_copied_tags_gets_nothing() {
    let mut lab = Lab::new(quick(34));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    lab.write("db-1", "precious").await;
    let old = lab.instance("db-1").await;
    let stranger = lab.region.with(|world, now_ms| {
        let mut tags: Tags = world.instance(&old).unwrap().tags.clone();
        tags.insert("perennial:step".to_owned(), "db-1.2/launch/1".to_owned());
        tags.insert("perennial:operation".to_owned(), "db-1.2".to_owned());
        let zone = world.zones()[0].clone();
        let request = RunInstances {
            client_token: "a stranger's".to_owned(),
            image: world.default_image(),
            instance_type: "m6i.large".to_owned(),
            market: Market::OnDemand,
            price_max: None,
            zone: None,
            placement: Placement::New { subnet: world.subnet_in(&zone), groups: vec![], private_ip: None },
            devices: vec![],
            key_name: None,
            instance_profile: None,
            user_data: None,
            tags: LaunchTags { instance: tags, ..LaunchTags::default() },
            more: LaunchExtras::default(),
        };
        world.run_instances(now_ms, &request).unwrap().id
    });
    lab.clock.sleep(Duration::from_secs(30)).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let carrier = lab.instance("db-1").await;
    assert_ne!(carrier, stranger, "{}", lab.story().await);
    lab.region.with(|world, _| {
        let has = &world.instance(&stranger).unwrap();
        assert_eq!(has.volumes.len(), 1, "its own root and no more");
        assert!(!has.state.is_over(), "it is not ours to end");
    });
}
