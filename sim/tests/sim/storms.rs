//! Storms: a seed chooses faults, deaths and interruptions (safety phase); then the faults end and everything must come to
//! rest (liveness phase). A failure prints its seed and the journal's tail; one that hangs is found by halving the range.
//!
//! `STORM_SEEDS=1000-2000 cargo test -p perennial-sim --test sim storms` runs other seeds. In every other storm describes may show
//! what was a moment ago; `STORM_STALE=1` does that to all, `STORM_STALE=0` to none.

use std::time::Duration;

use crate::lab::Lab;
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::Notice;
use perennial_sim::world::hangs::Hang;
use perennial_sim::world::settings::{Capacity, RootAdoption, RootFlag, Settings, Span};
use perennial_workers::classify::Action;
use perennial_workers::cloud::{Tags, VolumeRequest};
use perennial_workflows::aws::{Market, VolumeId};
use perennial_workflows::backup::BackupSpec;
use perennial_workflows::node::OperationKind;
use perennial_workflows::spec::{DataMode, Handover, NetworkMode, NodeName, NodeSpec, RootMode, ZoneChange};
use perennial_workflows::steps::Slot;

/// How many seeds one run tries without being told.
const SEEDS: std::ops::Range<u64> = 0..60;

/// Storms that found something, each when it was first run. 95: an adoption that ended a moment before its instance was given up,
/// whose volume was not yet seen there and died with it. 108: a root that was deleted while its node was paused; its backup's snapshot
/// stays with the image that brought it back.
const FOUND: [u64; 2] = [95, 108];

/// Names the seed when a check inside the laboratory fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell(self.0);
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failing seed must be named")]
fn tell(seed: u64) {
    eprintln!("the storm of seed {seed}");
}

fn seeds() -> std::ops::Range<u64> {
    std::env::var("STORM_SEEDS")
        .ok()
        .and_then(|text| {
            let (from, to) = text.split_once('-')?;
            Some(from.parse().ok()?..to.parse().ok()?)
        })
        .unwrap_or(SEEDS)
}

/// Whether describes may show what was a moment ago.
fn stale_reads(seed: u64) -> bool {
    match std::env::var("STORM_STALE").as_deref() {
        Ok("1") => true,
        Ok("0") => false,
        _ => !seed.is_multiple_of(2),
    }
}

fn pick<T: Copy>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// What people and EBS do to a node while it storms.
struct Hands {
    rng: fastrand::Rng,
    /// A volume of somebody's, which comes and goes.
    foreign: Option<VolumeId>,
    /// Whether the data volume hangs now and then.
    hangs: bool,
    /// Whether the root volume may be deleted when it is free.
    deletes: bool,
    /// Since when backups have all that must not be lost.
    written_ms: u64,
}

impl Hands {
    /// Of its own, so that the older seeds still mean what they meant.
    fn of(seed: u64, lab: &Lab, spec: &NodeSpec) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x4a4d5);
        let foreign = (rng.u8(0..3) == 0).then(|| {
            lab.region.with(|world, now_ms| {
                let request = VolumeRequest {
                    client_token: "somebody's".to_owned(),
                    zone: world.zones()[0].clone(),
                    size_gib: 20,
                    volume_type: "gp3".to_owned(),
                    iops: None,
                    throughput: None,
                    encrypted: false,
                    kms_key: None,
                    snapshot: None,
                    tags: Tags::from([("Name".to_owned(), "logs".to_owned())]),
                };
                world.create_volume(now_ms, &request).unwrap()
            })
        });
        // What a survey would know is refused until the faults end.
        if spec.capacity.is_surveyed() && rng.bool() {
            let hints = [
                Action::DescribeSpotPriceHistory,
                Action::DescribeInstanceTypes,
                Action::DescribeInstanceTypeOfferings,
            ];
            let (target, fault) =
                (Target::Only(pick(&mut rng, &hints)), Fault::Before("UnauthorizedOperation".into()));
            lab.region.inject(Rule { target, when: When::Always, fault });
        }
        let hangs = rng.u8(0..4) == 0;
        let deletes = spec.backup.is_some() && spec.persist.root != RootMode::None && rng.bool();
        Self { rng, foreign, hangs, deletes, written_ms: lab.clock.now_ms() }
    }

    /// One thing of each kind, or nothing.
    async fn act(&mut self, lab: &Lab) {
        let node = lab.node("db-1").await;
        if let Some(foreign) = &self.foreign {
            let which = self.rng.usize(..);
            // Who detaches it in the middle of a workflow is told so by `verify`: that is a person's affair.
            let is_at_rest = node.open.is_none();
            lab.region.with(|world, now_ms| {
                let on = world.volume(foreign).and_then(|volume| volume.attachment.clone());
                // What cannot be done now is not done.
                let _ = match on {
                    Some(_) if !is_at_rest => Ok(()),
                    Some(on) => world
                        .unmount(now_ms, &on.instance, foreign)
                        .map_err(|error| error.to_string())
                        .and_then(|()| {
                            let detached = world.detach_volume(now_ms, foreign, Some(&on.instance));
                            detached.map(|_| ()).map_err(|error| error.to_string())
                        }),
                    None => {
                        let live: Vec<_> =
                            world.instances_of("db-1").iter().map(|instance| instance.id.clone()).collect();
                        let written = world.write_volume(now_ms, foreign, "written before");
                        match live.get(which % live.len().max(1)) {
                            Some(instance) if written.is_ok() => world
                                .attach_volume(now_ms, foreign, instance, "/dev/sdm")
                                .map(|_| ())
                                .map_err(|error| error.to_string()),
                            _ => Ok(()),
                        }
                    }
                };
            });
        }
        let data = node.resources.volumes.iter().find(|(slot, _)| **slot != Slot::Root);
        if let Some((_, held)) = data.filter(|_| self.hangs && self.rng.bool()) {
            let length_ms = self.rng.bool().then(|| self.rng.u64(5_000..400_000));
            lab.region.with(|world, now_ms| {
                world.hang_volume(now_ms, &held.volume, Hang::UntilForced, length_ms);
            });
        }
        if self.deletes
            && let Some(held) = node.resources.volumes.get(&Slot::Root)
            && lab.book("db-1").await.complete().any(|backup| {
                backup.taken_at_ms > Some(self.written_ms)
                    && node.root_began.as_ref().is_none_or(|began| began.is_of(backup))
            })
        {
            // In use it cannot be, and then nothing happens.
            self.deletes =
                lab.region.with(|world, now_ms| world.delete_volume(now_ms, &held.volume).is_err());
        }
    }

    /// What is somebody else's is there, whatever happened.
    fn check(&self, lab: &Lab) {
        if let Some(foreign) = &self.foreign {
            assert!(
                lab.region.with(|world, _| world.all_volumes().any(|volume| volume.id == *foreign)),
                "{foreign} is gone"
            );
        }
    }
}

/// Restores of the node, and a new one that is made from its backups and deleted again.
struct Copies {
    rng: fastrand::Rng,
    wanted: bool,
    /// Since when backups have all that must not be lost.
    written_ms: u64,
}

impl Copies {
    /// Of its own, so that the older seeds still mean what they meant.
    fn of(seed: u64, lab: &Lab, spec: &NodeSpec) -> Self {
        let rng = fastrand::Rng::with_seed(seed ^ 0xc0b1);
        let wanted = spec.backup.is_some() && !FOUND.contains(&seed);
        Self { rng, wanted, written_ms: lab.clock.now_ms() }
    }

    /// One thing, or nothing.
    async fn act(&mut self, lab: &mut Lab, spec: &NodeSpec) {
        let book = lab.book("db-1").await;
        let whole: Vec<u64> = book
            .complete()
            .filter(|backup| backup.taken_at_ms > Some(self.written_ms))
            .map(|backup| backup.order.number)
            .collect();
        if !self.wanted || whole.is_empty() {
            return;
        }
        let backup = format!("db-1.b{}", whole[self.rng.usize(..whole.len())]);
        match self.rng.u8(0..3) {
            0 => {
                lab.submit("node.restore", "db-1", serde_json::json!({ "backup": backup })).await;
            }
            1 => {
                let mut new = NodeSpec { name: NodeName::parse("db-2").unwrap(), ..spec.clone() };
                new.backup = None;
                new.network.elastic_ip = None;
                // An address of a pool that another instance was given by chance is a person's affair: `pools`.
                if new.persist.network == NetworkMode::IpPool {
                    new.persist.network = NetworkMode::SecondaryIp;
                    new.network.ip_pool = None;
                    new.network.ip_pools_elsewhere.clear();
                }
                // A provision has no survey of before to go by, where one is refused.
                let plain = lab.spec("db-2", spec.persist.network, spec.persist.root).capacity;
                new.capacity.instance_types = plain.instance_types;
                (new.capacity.requirements, new.capacity.price_max) = (None, None);
                let asked = serde_json::json!({ "spec": new, "from_backup": backup });
                lab.submit("node.apply", "db-2", asked).await;
            }
            _ => {}
        }
    }

    /// The new node has what the backup had, and nothing is left of it when it is deleted.
    async fn check(&self, lab: &mut Lab, seed: u64) {
        if lab.node("db-2").await.spec.is_none() {
            return;
        }
        lab.until(&format!("seed {seed}: the new node"), Duration::from_secs(3 * 3600), async |lab| {
            let node = lab.node("db-2").await;
            node.open.is_none() && node.resources.carrier.is_some()
        })
        .await;
        let node = lab.node("db-2").await;
        let instance = lab.instance("db-2").await;
        let kept = node.resources.volumes.values().map(|held| held.device.clone());
        for device in kept {
            let read = lab.region.with(|world, now_ms| world.read(now_ms, &instance, &device).unwrap());
            assert!(read.iter().any(|record| record.as_str() == "written before"), "seed {seed}: {device}");
        }
        let keep = serde_json::json!({ "root": false, "data": false, "network": false, "backups": false });
        lab.submit("node.delete", "db-2", serde_json::json!({ "keep": keep })).await;
        lab.until(&format!("seed {seed}: its end"), Duration::from_secs(3600), async |lab| {
            lab.node("db-2").await.deleted && lab.book("db-1").await.held().count() == 0
        })
        .await;
    }
}

async fn storm(seed: u64) {
    let _named = Named(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut settings = Settings::realistic(seed);
    if !stale_reads(seed) {
        settings.stale_for = Span::ZERO;
    }
    settings.latencies.snapshot = Span::ms(5_000, 30_000);
    settings.root_adoption = match rng.u8(0..6) {
        0 => RootAdoption::Unsupported("UnsupportedOperation".into()),
        1 => RootAdoption::FailsEachTime,
        2 => RootAdoption::FailedDetached,
        _ => RootAdoption::Supported,
    };
    settings.events_enabled = rng.u8(0..4) != 0;
    settings.root_flag =
        pick(&mut rng, &[RootFlag::Inherit, RootFlag::Inherit, RootFlag::Delete, RootFlag::Keep]);
    let mut lab = Lab::new(settings);
    let network = pick(&mut rng, &[NetworkMode::PrimaryEni, NetworkMode::SecondaryIp, NetworkMode::None]);
    let root = pick(&mut rng, &[RootMode::Adopt, RootMode::Adopt, RootMode::Image, RootMode::None]);
    let mut spec = lab.spec("db-1", network, root);
    let handover = pick(&mut rng, &[Handover::Terminate, Handover::Detach]);
    spec.persist.handover = handover;
    // Of its own, so that the older seeds still mean what they meant.
    let mut whims = fastrand::Rng::with_seed(seed ^ 0x5eed);
    if whims.u8(0..3) == 0 {
        spec.network.elastic_ip = Some(lab.elastic());
    }
    // Of its own again.
    let mut ways = fastrand::Rng::with_seed(seed ^ 0xda7a);
    if ways.u8(0..4) == 0 && handover == Handover::Terminate {
        spec.persist.data = DataMode::Snapshot;
    }
    let may_move = ways.u8(0..4) == 0;
    if may_move {
        spec.capacity.other_subnets =
            vec![lab.region.with(|world, _| world.subnet_in(&world.zones()[1].clone()))];
        spec.network.zone_change = ZoneChange::Allow;
    }
    // Of its own too.
    let mut modes = fastrand::Rng::with_seed(seed ^ 0xe41);
    if modes.u8(0..3) == 0 {
        spec.persist.network = NetworkMode::SecondaryEni;
    }
    // Likewise: its address, or those of both its subnets, from pools.
    let pools = fastrand::Rng::with_seed(seed ^ 0x9001).u8(0..3) == 0 && !FOUND.contains(&seed);
    if pools && spec.persist.network == NetworkMode::SecondaryIp {
        spec.persist.network = NetworkMode::IpPool;
        lab.pools_for(&mut spec).await;
    }
    // Likewise: how its pools are found.
    let mut finds = fastrand::Rng::with_seed(seed ^ 0x5e7);
    if finds.u8(0..3) == 0 {
        let wanted = r#"{"vcpus": {"min": 2, "max": 4}, "memory_gib": {"min": 8, "max": 16}}"#;
        spec.capacity.requirements = Some(serde_json::from_str(wanted).unwrap());
        if finds.bool() {
            spec.capacity.instance_types.clear();
        }
        spec.capacity.price_max = finds.bool().then(|| "0.06".to_owned());
    }
    // Likewise: what it retains is deleted as soon as it is.
    let prunes = fastrand::Rng::with_seed(seed ^ 0x9121e).bool() && !FOUND.contains(&seed);
    // Likewise: backups while it storms.
    let backs_up = fastrand::Rng::with_seed(seed ^ 0xbac).u8(0..3) == 0;
    let keeps_something = root != RootMode::None || !spec.data_volumes.is_empty();
    spec.backup = (backs_up && keeps_something).then_some(BackupSpec {
        every_min: 1,
        keep: 2,
        ..BackupSpec::default()
    });
    lab.provision(&spec).await;
    lab.write("db-1", "written before").await;
    let address = lab.node("db-1").await.resources.address;

    // Safety: anything may go wrong at any time.
    for (fault, most) in [
        (Fault::Before("RequestLimitExceeded".into()), 80),
        (Fault::Before("InternalError".into()), 40),
        (Fault::After("InternalError".into()), 40),
        (Fault::LostRequest, 40),
        (Fault::LostReply, 60),
        (Fault::Delay(Duration::from_secs(3)), 60),
    ] {
        let chance = rng.u16(0..=most);
        lab.region.inject(Rule { target: Target::All, when: When::PerMille(chance), fault });
    }
    if rng.bool() {
        lab.region.with(|world, _| {
            let zone = world.zones()[0].clone();
            world.set_capacity("m6i.large", &zone, Market::Spot, Capacity::Free(0));
        });
    }
    if may_move {
        for name in &spec.capacity.instance_types {
            for market in [Market::Spot, Market::OnDemand] {
                lab.region.with(|world, _| {
                    let zone = world.zones()[0].clone();
                    world.set_capacity(name, &zone, market, Capacity::Free(ways.u32(0..2)));
                });
            }
        }
    }
    let mut hands = Hands::of(seed, &lab, &spec);
    let mut copies = Copies::of(seed, &lab, &spec);
    let losses = rng.u8(1..=4);
    for _ in 0..losses {
        let live: Vec<_> =
            lab.region.with(|world, _| world.instances_of("db-1").iter().map(|i| i.id.clone()).collect());
        if !live.is_empty() {
            let target = live[rng.usize(..live.len())].clone();
            let choice = rng.u8(0..4);
            lab.region.with(|world, now_ms| {
                // An instance that is pending cannot be warned; then nothing happens.
                let _ = match choice {
                    0 => world.reclaim_now(now_ms, &target),
                    1 => world.vanish(now_ms, &target),
                    _ => world.interrupt(now_ms, &target, Notice::default()),
                };
            });
        }
        let quiet = Duration::from_millis(rng.u64(0..90_000));
        let deaths = rng.u8(0..3);
        for _ in 0..deaths {
            lab.clock.sleep(quiet / u32::from(deaths) / 2).await;
            lab.kill().await;
            lab.clock.sleep(Duration::from_millis(rng.u64(0..20_000))).await;
            lab.start();
        }
        lab.clock.sleep(quiet).await;
        hands.act(&lab).await;
        copies.act(&mut lab, &spec).await;
        // A volume that is to leave alive and is in use would hold a cancellation until somebody unmounts it.
        if handover == Handover::Terminate
            && whims.u8(0..3) == 0
            && let Some((open, _)) = lab.node("db-1").await.open
        {
            lab.submit("workflow.cancel", "db-1", serde_json::json!({ "workflow": open })).await;
        }
        if handover == Handover::Terminate && ways.u8(0..6) == 0 {
            lab.submit("node.pause", "db-1", serde_json::json!({})).await;
        }
        if ways.u8(0..6) == 0 {
            lab.submit("node.resume", "db-1", serde_json::json!({})).await;
        }
        if prunes {
            lab.submit("node.prune", "db-1", serde_json::json!({ "older_than_s": 0 })).await;
        }
        // A growth may hold the node for hours, and nobody looks for what was attached meanwhile.
        if whims.u8(0..4) == 0 && hands.foreign.is_none() {
            spec.data_volumes[0].size_gib += 1;
            lab.submit("node.apply", "db-1", serde_json::json!({ "spec": spec })).await;
        }
        let violations = lab.region.with(|world, _| world.check_invariants());
        assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    }

    // Liveness: the faults end, everything comes to rest by itself.
    lab.region.clear_faults();
    lab.clock.sleep(Duration::from_secs(180)).await;
    // Who paused it brings it back.
    for _ in 0..30 {
        lab.clock.sleep(Duration::from_secs(120)).await;
        if lab.node("db-1").await.is_paused() {
            lab.submit("node.resume", "db-1", serde_json::json!({})).await;
        }
    }
    let what = format!("seed {seed} ({:?}, {root:?}): rest", spec.persist.network);
    lab.until(&what, Duration::from_secs(3 * 3600), async |lab| {
        let node = lab.node("db-1").await;
        let carries = match &node.resources.carrier {
            Some(carrier) => lab
                .region
                .with(|world, _| world.instance(&carrier.instance).is_some_and(|i| !i.state.is_over())),
            None => false,
        };
        // A volume that was made larger a while ago may wait hours for its next modification.
        let rests = node.open.as_ref().is_none_or(|(_, kind)| *kind == OperationKind::Grow);
        rests && carries
    })
    .await;
    copies.check(&mut lab, seed).await;
    if spec.backup.take().is_some() {
        lab.submit("node.apply", "db-1", serde_json::json!({ "spec": spec })).await;
        lab.until("the backups are at rest", Duration::from_secs(3 * 3600), async |lab| {
            let book = lab.book("db-1").await;
            // A snapshot that the image of a restored root uses is listed, and goes with the image.
            let waits = book.condemned.values().any(|condemned| condemned.because.is_none());
            let at_rest = book.under_way().is_none() && book.doubts.is_empty() && !waits;
            at_rest && lab.node("db-1").await.spec.is_some_and(|spec| spec.backup.is_none())
        })
        .await;
        assert!(lab.book("db-1").await.complete().count() > 0, "seed {seed}\n{}", lab.story().await);
    }
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["written before"]).await;
    for (_, pool) in spec.ip_pools() {
        assert_eq!(lab.pool(pool.as_str()).await.held.len(), 1, "seed {seed}: {pool}");
    }
    hands.check(&lab);
    let resources = lab.node("db-1").await.resources;
    if resources.subnet.is_none() && !may_move {
        assert_eq!(resources.address, address, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_the_node_comes_back_whole() {
    for seed in seeds().chain(FOUND) {
        storm(seed).await;
    }
}
