//! Nodes as tests find them: provisioned and written to, backed up; what befalls them, and what is on them.

use std::time::Duration;

use perennial_sim::world::Notice;
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_workflows::model::aws::{InstanceId, Market};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, ZoneChange};
use serde_json::json;

use crate::lab::Lab;

/// Waiting is points and moments without news: the slow things are shortened, not left out.
pub fn quick(seed: u64) -> Settings {
    let mut settings = Settings::calm(seed);
    settings.latencies.shutdown = Span::ms(6_000, 8_000);
    settings.latencies.snapshot = Span::ms(3_000, 4_000);
    settings.latencies.image = Span::ms(2_000, 3_000);
    settings.latencies.replace_root = Span::ms(4_000, 5_000);
    settings
}

/// Snapshots alone are shortened.
pub fn quick_snapshots(seed: u64) -> Settings {
    let mut settings = Settings::calm(seed);
    settings.latencies.snapshot = Span::ms(3_000, 4_000);
    settings
}

/// Lets a node move to the second zone.
pub fn may_move(lab: &Lab, spec: &mut NodeSpec) {
    spec.capacity.other_subnets =
        vec![lab.region.with(|world, _| world.subnet_in(&world.zones()[1].clone()))];
    spec.network.zone_change = ZoneChange::Allow;
}

/// A name of a volume.
pub fn slot(name: &str) -> Slot {
    Slot::try_from(name.to_owned()).unwrap()
}

impl Lab {
    /// A region with a node `db-1` that is provisioned, and `before` on each of its volumes.
    pub async fn provisioned(
        settings: Settings,
        network: NetworkMode,
        root: RootMode,
        change: impl FnOnce(&Self, &mut NodeSpec),
    ) -> (Self, NodeSpec) {
        let mut lab = Self::new(settings);
        let mut spec = lab.spec("db-1", network, root);
        change(&lab, &mut spec);
        if network == NetworkMode::IpPool {
            lab.pools_for(&mut spec).await;
        }
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        (lab, spec)
    }

    /// The same with a complete backup, and `after the backup` on each volume since. No other backup comes by itself: each
    /// is asked for.
    pub async fn backed_up(
        settings: Settings,
        network: NetworkMode,
        root: RootMode,
        change: impl FnOnce(&mut NodeSpec),
    ) -> (Self, NodeSpec) {
        let (mut lab, spec) = Self::provisioned(settings, network, root, |_, spec| {
            spec.backup = Some(BackupSpec { every_min: 720, keep: 1, ..BackupSpec::default() });
            change(spec);
        })
        .await;
        lab.submit("node.backup", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(lab.catalog("db-1").await.complete().count(), 1, "{}", lab.story().await);
        lab.write("db-1", "after the backup").await;
        (lab, spec)
    }

    /// Warns the instance of a node: it is taken in two minutes.
    pub async fn warn(&self, name: &str) -> InstanceId {
        let old = self.instance(name).await;
        self.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
        old
    }

    /// Whether each volume of a node on its instance holds a record.
    pub async fn holds(&self, name: &str, record: &str) -> bool {
        let node = self.node(name).await;
        let instance = node.resources.carrier.as_ref().unwrap().instance.clone();
        self.region.with(|world, now_ms| {
            node.resources.volumes.values().all(|held| {
                let content = world.read(now_ms, &instance, &held.device).unwrap();
                content.iter().any(|found| found.as_str() == record)
            })
        })
    }

    /// Takes the instance of a node without notice.
    pub async fn reclaim(&self, name: &str) -> InstanceId {
        let old = self.instance(name).await;
        self.region.with(|world, now_ms| world.reclaim_now(now_ms, &old).unwrap());
        old
    }

    /// What a zone has of every pool that a node may use.
    pub fn set_capacity(&self, spec: &NodeSpec, zone: usize, capacity: Capacity) {
        self.region.with(|world, _| {
            let zone = world.zones()[zone].clone();
            for name in &spec.capacity.instance_types {
                for market in [Market::Spot, Market::OnDemand] {
                    world.set_capacity(name, &zone, market, capacity);
                }
            }
        });
    }

    /// What carries a node, as `m6i.large spot`.
    pub async fn carried_by(&self, name: &str) -> String {
        let carrier = self.node(name).await.resources.carrier.expect("the node has an instance");
        format!("{} {}", carrier.instance_type, carrier.market)
    }

    /// What the guest reads on a volume of a node.
    pub async fn content(&self, name: &str, volume: &str) -> Vec<String> {
        let node = self.node(name).await;
        let held = &node.resources.volumes[&slot(volume)];
        let instance = node.resources.carrier.as_ref().unwrap().instance.clone();
        let read = self.region.with(|world, now_ms| world.read(now_ms, &instance, &held.device).unwrap());
        read.iter().map(|record| record.as_str().to_owned()).collect()
    }

    /// Whether a record is among it.
    pub async fn reads(&self, name: &str, volume: &str, record: &str) -> bool {
        self.content(name, volume).await.iter().any(|read| read == record)
    }
}
