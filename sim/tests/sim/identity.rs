//! Whose thing is this? A journal from a backup, another installation, another account, copied tags. Judged from the
//! region, never from the journal: no volume is deleted, no address moves, no instance is doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use perennial_engine::journal::Batch;
use perennial_sim::world::settings::Settings;
use perennial_sim::world::{LaunchExtras, LaunchTags, Placement, RunInstances, World};
use perennial_workers::port::Tags;
use perennial_workflows::model::aws::Market;
use perennial_workflows::spec::node::{DataMode, NetworkMode, RootMode};
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

/// A node that was replaced twice, and has settled: the appends of its journal, and the region.
async fn replaced_twice((network, root, data): Mode) -> (Lab, Vec<Batch>, World) {
    let mut lab = Lab::new(quick(31));
    let mut spec = lab.spec("db-1", network, root);
    spec.persist.data = data;
    lab.provision(&spec).await;
    lab.write("db-1", "v1").await;
    for (operation, record) in [(2, "v2"), (3, "v3")] {
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", operation).await;
        lab.write("db-1", record).await;
    }
    lab.clock.sleep(Duration::from_secs(600)).await;
    lab.kill().await;
    let appends = lab.written.lock().unwrap().clone();
    let world = lab.region.with(|world, _| world.clone());
    (lab, appends, world)
}

/// Every so many positions of a journal: 1 for each of them.
fn stride() -> usize {
    std::env::var("IDENTITY_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Serves the journal from each earlier position for two hours, each time in the region as it was.
async fn from_every_position(mode: Mode, before: impl Fn(&mut World, u64)) {
    let (mut lab, appends, world) = replaced_twice(mode).await;
    let mut seen = Seen::at_least(2, "positions at which a node is behind");
    for position in (0..appends.len()).step_by(stride()) {
        lab.region.with(|now, now_ms| {
            *now = world.clone();
            now.advance(now_ms);
            before(now, now_ms);
        });
        lab.clock.sleep(Duration::from_secs(120)).await;
        let kept = lab.region.with(|world, _| Kept::of(world));
        lab.put_back(&appends[..position]).await;
        lab.start();
        lab.clock.sleep(TWO_HOURS).await;
        lab.kill().await;
        let broken = lab.region.with(|world, _| kept.broken(world));
        let story = lab.story().await;
        assert!(broken.is_empty(), "{mode:?} from {position} of {}: {broken:#?}\n{story}", appends.len());
        seen.when(!lab.node("db-1").await.newer.is_empty());
    }
}

macro_rules! from_every_position {
    ($($name:ident: $mode:literal;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            from_every_position(MODES[$mode], |_, _| {}).await;
        }
    )*};
}

from_every_position! {
    a_journal_from_any_earlier_position_harms_nothing_adopt_reattach: 0;
    a_journal_from_any_earlier_position_harms_nothing_image_reattach: 1;
    a_journal_from_any_earlier_position_harms_nothing_image_snapshot: 2;
    a_journal_from_any_earlier_position_harms_nothing_none_snapshot: 3;
    a_journal_from_any_earlier_position_harms_nothing_none_reattach: 4;
}

/// The host of the engine and the node's instance end together.
#[tokio::test(start_paused = true)]
async fn a_journal_from_any_earlier_position_deletes_nothing_when_the_instance_is_gone_too() {
    for mode in [MODES[1], MODES[2], MODES[3]] {
        let (mut lab, appends, world) = replaced_twice(mode).await;
        for position in (0..appends.len()).step_by(stride() * 2) {
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
            let (mut lab, appends, right) = replaced_twice(mode).await;
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
            assert_eq!((node.operations, node.open), (3, None), "{mode:?}, restarted {restarted}\n{story}");
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
