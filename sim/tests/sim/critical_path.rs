//! What a replacement costs, and what it would cost without us: a run in the laboratory, the least time its mode allows,
//! and the stop-first sequence of the commercial product, all with the same latencies.
//!
//! # One draw a run
//! [`drawn`] draws every latency once from the seed; every object of that run takes just as long. So the region, the
//! bound and the stop-first sequence cannot disagree about what was drawn for whom.
//!
//! # The bound
//! The chain of calls and state changes that the mode's rules (`workflows/src/replace.rs`) make unavoidable, for a driver
//! that knows every change of state at once, never looks, and thinks in no time. A call has its effect after two thirds of
//! its latency (`sim/src/cloud.rs`); what it sets going begins then. Calls written in parallel wait for nobody.
//!
//! | | chain |
//! | --- | --- |
//! | secondary_ip, none; root adopt, none; notice | launch · start · *terminate* · shutdown · release · {attach, replace_root} ∥ (after shutdown) move_address |
//! | the same, handover detach | launch · start · *detach* · {attach, move_address} ∥ terminate · shutdown · release · replace_root |
//! | the same, instance lost | (launch · start ∥ shutdown · release) · {attach, replace_root} ∥ (after shutdown) move_address |
//! | root image | *terminate* · shutdown · release · snapshot · register · image · launch · start · {attach, move_address} |
//! | data by snapshot; root adopt, none | *terminate* · shutdown · release · snapshot · launch · start · {replace_root, move_address} |
//! | secondary_eni | as secondary_ip, but the interface follows the data (*detach*), or is free with it, and is attached in one call |
//! | primary_eni; root adopt, none | *terminate* · shutdown · release · launch · start · {attach, replace_root} |
//!
//! In another zone, after every pool at home was asked and refused (*asked*: one whole launch call each, one after the other; the pool of an
//! instance that was warned is passed over without a call):
//!
//! | | chain |
//! | --- | --- |
//! | root none; data reattach; secondary_ip, none | asked · launch · start · *terminate* · shutdown · release · snapshot · create · attach, ∥ (after shutdown) move_address |
//! | the same, handover detach | asked · launch · start · *detach* · (snapshot ∥ terminate · shutdown) · create · attach |
//! | root adopt; data reattach; secondary_ip, none | asked · *terminate* · shutdown · release · snapshot · register · image · launch · start · {create · attach, move_address} |
//! | root none; primary_eni | *terminate* · shutdown · release · asked · {launch · start, snapshot} · create · attach |
//! | root adopt; primary_eni | *terminate* · shutdown · release · asked · snapshot · register · image · launch · start · create · attach |
//! | root image; data reattach | *terminate* · shutdown · release · (snapshot · register · image · asked · launch · start ∥ snapshot of data) · create · attach |
//! | data by snapshot; root none | *terminate* · shutdown · release · snapshot · asked · launch · start |
//! | data by snapshot; root adopt | *terminate* · shutdown · release · (snapshot of data · asked ∥ snapshot of the root) · register · image · launch · start |
//!
//! secondary_eni goes as secondary_ip, but another interface is made while the instance starts, and attached in one call; it need not wait for the fence.
//! What only another zone needs is snapshotted after *asked*, or ahead of it where home waits for a snapshot of its own. `lost`: what is asked before
//! *terminate* is asked while the instance shuts down.
//!
//! From a backup (`node restore`), in the same zone; the backup's snapshots are complete, and nothing is detached live:
//!
//! | | chain |
//! | --- | --- |
//! | root adopt, image; data reattach | *terminate* ∥ (register · image · launch · start; primary_eni: after shutdown · release) · create · attach |
//! | root none; data reattach; secondary_ip | launch · start · *terminate* · shutdown · release · create · attach |
//! | data by snapshot | the launch waits for *terminate* · shutdown · release as well; the volumes come with it |
//!
//! An existing volume (`data_volumes[].volume`) goes the way of a volume that was made for the node.
//!
//! The outage begins at the call in italics, or with the loss, which also takes the place of that call. The total goes on
//! until the old instance is terminated and, with `adopt`, the temporary root is told to go.
//! What is *not* in the bound although we do it: every look, the second of two agreeing reads, and DeleteOnTermination of
//! the temporary root, which RunInstances could set as well.
//!
//! [`Reads::Agreeing`] adds the reads that DESIGN, decision 6, demands: after the termination two looks a second apart, before
//! anything that was on the instance is moved.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::ids::Position;
use perennial_engine::journal::Journal as _;
use perennial_sim::cloud::{CallVerdict, SimRegion};
use perennial_sim::world::settings::{Capacity, Latencies, Settings, Span};
use perennial_sim::world::{Notice, RunInstances, World};
use perennial_workers::port::{
    AttachmentState, ImageRequest, ImageState, InterfaceRequest, LaunchNetwork, LaunchRequest, RootTaskState,
    SnapshotState, Tags, VolumeRequest, VolumeState,
};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::aws::{
    ImageId, InstanceId, InstanceState, InterfaceId, Market, SnapshotId, VolumeId,
};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{DataMode, Handover, NetworkMode, RootMode, ZoneChange};
use perennial_workflows::step::intent::LaunchVolume;
use tokio::sync::Notify;

use crate::lab::{EPOCH_MS, Lab};

/// Between two agreeing reads (DESIGN, decision 6).
const SECOND_READ_MS: u64 = 1_000;

/// What is looked at before the old instance is terminated, one after the other: the instance, its replacement tasks, its volumes. A restore is
/// registering its image meanwhile, so these looks make its outage shorter.
const PRESERVE_LOOKS: u64 = 3;

/// The node of every run.
const NODE: &str = "db-1";

/// How the root comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Adopt,
    Image,
    New,
}

/// How the address comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    PrimaryEni,
    SecondaryEni,
    SecondaryIp,
    None,
}

/// How data comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    Reattach,
    Snapshot,
    /// As `Reattach`, with a volume that was there before the node.
    Existing,
}

/// Where the node comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Where it was.
    Same,
    /// In another zone, because no pool of its own serves.
    Other,
}

/// How the old instance goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Two minutes' notice.
    Notice,
    /// It shuts down, and EventBridge says so.
    Loss,
    /// A person asks for the content of a backup.
    Restore,
}

/// One way to carry a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    pub root: Root,
    pub network: Network,
    pub handover: Handover,
    pub data: Data,
    pub zone: Zone,
}

impl Mode {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for root in [Root::Adopt, Root::Image, Root::New] {
            for network in [Network::PrimaryEni, Network::SecondaryEni, Network::SecondaryIp, Network::None] {
                let mode = Self {
                    root,
                    network,
                    handover: Handover::Terminate,
                    data: Data::Reattach,
                    zone: Zone::Same,
                };
                let moved = Self { zone: Zone::Other, ..mode };
                all.push(mode);
                all.push(Self { handover: Handover::Detach, ..mode });
                all.push(Self { data: Data::Snapshot, ..mode });
                all.push(Self { data: Data::Existing, ..mode });
                all.push(moved);
                all.push(Self { data: Data::Snapshot, ..moved });
                // Elsewhere a kept root, and a kept interface, end the old instance first.
                if root == Root::New && network != Network::PrimaryEni {
                    all.push(Self { handover: Handover::Detach, ..moved });
                    all.push(Self { data: Data::Existing, ..moved });
                }
            }
        }
        all
    }

    /// The ones that are measured with a restore: where it goes and how the interface comes back decide nothing more.
    pub fn all_restored() -> Vec<Self> {
        let measured = |mode: &Self| {
            mode.zone == Zone::Same
                && mode.handover == Handover::Terminate
                && mode.data != Data::Existing
                && matches!(mode.network, Network::PrimaryEni | Network::SecondaryIp)
        };
        Self::all().into_iter().filter(measured).collect()
    }

    /// As in a node file: root, network, and handover or, where data goes on by snapshots, that.
    pub fn name(&self) -> String {
        let root = match self.root {
            Root::Adopt => "adopt",
            Root::Image => "image",
            Root::New => "none",
        };
        let network = match self.network {
            Network::PrimaryEni => "primary_eni",
            Network::SecondaryEni => "secondary_eni",
            Network::SecondaryIp => "secondary_ip",
            Network::None => "none",
        };
        let handover = match (self.data, self.handover) {
            (Data::Snapshot, _) => "snapshot",
            (Data::Existing, _) => "existing",
            (Data::Reattach, Handover::Terminate) => "terminate",
            (Data::Reattach, Handover::Detach) => "detach",
        };
        let zone = match self.zone {
            Zone::Same => "",
            Zone::Other => " elsewhere",
        };
        format!("{root} {network} {handover}{zone}")
    }

    /// Whether a launch at home waits for the end of the old instance.
    fn launches_late(&self) -> bool {
        self.network == Network::PrimaryEni || self.root == Root::Image || self.data == Data::Snapshot
    }

    /// Whether the launch that serves waits for it.
    fn breaks_before_it_makes(&self, trigger: Trigger) -> bool {
        let by_image = self.zone == Zone::Other || trigger == Trigger::Restore;
        self.launches_late() || (by_image && self.root != Root::New)
    }

    /// How many pools at home are asked in vain: two types on two markets. The one that a warned instance came from is passed over.
    pub fn asked_at_home(&self, trigger: Trigger) -> u64 {
        match (self.zone, trigger) {
            (Zone::Same, _) => 0,
            (Zone::Other, Trigger::Notice) => 3,
            (Zone::Other, Trigger::Loss | Trigger::Restore) => 4,
        }
    }

    /// Whether a data volume leaves an instance that still runs.
    pub fn detaches(&self, trigger: Trigger) -> bool {
        trigger == Trigger::Notice
            && self.handover == Handover::Detach
            && !self.breaks_before_it_makes(trigger)
    }
}

/// How long it took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the moment the node did not have all that is its own on a running instance until it had it again.
    pub outage_ms: u64,
    /// From the notice or the loss to the end.
    pub total_ms: u64,
}

/// Whether the second of two agreeing reads counts as unavoidable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    None,
    Agreeing,
}

/// The latencies of one run: each span drawn once.
pub fn drawn(seed: u64) -> Latencies {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut drawn = Latencies::default();
    for span in [
        &mut drawn.look,
        &mut drawn.act,
        &mut drawn.launch,
        &mut drawn.start,
        &mut drawn.shutdown,
        &mut drawn.release,
        &mut drawn.create_volume,
        &mut drawn.attach,
        &mut drawn.detach,
        &mut drawn.delete_volume,
        &mut drawn.snapshot,
        &mut drawn.image,
        &mut drawn.replace_root,
        &mut drawn.move_address,
    ] {
        *span = Span::exactly(Duration::from_millis(rng.u64(span.min_ms..=span.max_ms)));
    }
    drawn
}

fn settings(seed: u64, latencies: &Latencies) -> Settings {
    Settings { latencies: latencies.clone(), ..Settings::calm(seed) }
}

/// Until a call has its effect.
const fn effect(call: Span) -> u64 {
    call.min_ms * 2 / 3
}

/// The least time a mode allows.
pub fn bound(mode: Mode, trigger: Trigger, latencies: &Latencies, reads: Reads) -> Times {
    let l = latencies;
    let act = effect(l.act);
    let pair = match reads {
        Reads::None => 0,
        Reads::Agreeing => SECOND_READ_MS + l.look.min_ms,
    };
    let up_after = |launched_ms: u64| launched_ms + effect(l.launch) + l.start.min_ms;
    let copied_after = |free_ms: u64| free_ms + act + l.snapshot.min_ms;
    let imaged_after = |free_ms: u64| copied_after(free_ms) + act + l.image.min_ms;
    // The old instance: when it ends, when what it held is free.
    let terminated = |from_ms: u64| from_ms + l.shutdown.min_ms;
    let free_after = |terminated_ms: u64| (terminated_ms + l.release.min_ms).max(terminated_ms + pair);
    // A refusal is known with its answer.
    let refused_ms = mode.asked_at_home(trigger) * l.launch.min_ms;
    let asked_early_ms = if mode.launches_late() { 0 } else { refused_ms };

    let down_ms = match trigger {
        Trigger::Loss => 0,
        Trigger::Restore if mode.breaks_before_it_makes(trigger) => PRESERVE_LOOKS * l.look.min_ms + act,
        Trigger::Notice if mode.breaks_before_it_makes(trigger) => asked_early_ms + act,
        Trigger::Notice | Trigger::Restore => up_after(asked_early_ms) + act,
    };
    let detached_ms = down_ms + l.detach.min_ms;
    // An interface follows the data.
    let left_ms = match (mode.network, mode.zone) {
        (Network::SecondaryEni, Zone::Same) => detached_ms + act,
        _ => detached_ms,
    };
    let gone_ms = match trigger {
        Trigger::Loss => terminated(0),
        Trigger::Notice if mode.detaches(trigger) => terminated(left_ms + act),
        Trigger::Notice | Trigger::Restore => terminated(down_ms),
    };
    let free_ms = free_after(gone_ms);
    let data_free_ms = if mode.detaches(trigger) { detached_ms } else { free_ms };

    // What a launch at home waits for, and when its refusals are known.
    let interface_ms = if mode.network == Network::PrimaryEni { free_ms } else { 0 };
    let restores = trigger == Trigger::Restore;
    let image_ms = match mode.root {
        Root::Adopt | Root::Image if restores => act + l.image.min_ms,
        Root::Image => imaged_after(free_ms),
        Root::Adopt | Root::New => 0,
    };
    let copy_ms = match mode.data {
        Data::Snapshot if restores => free_ms,
        Data::Snapshot => copied_after(free_ms),
        Data::Reattach | Data::Existing => 0,
    };
    let asked_ms = interface_ms.max(image_ms).max(copy_ms) + refused_ms;
    let launch_ms = match (mode.zone, mode.root) {
        // The root's snapshot was taken with the data's.
        (Zone::Other, Root::Adopt) if mode.data == Data::Snapshot => asked_ms + act + l.image.min_ms,
        (Zone::Other, Root::Adopt) => imaged_after(free_ms.max(asked_ms)),
        (Zone::Other, Root::Image | Root::New) | (Zone::Same, _) => asked_ms,
    };
    let up_ms = up_after(launch_ms);

    let data_ms = match (mode.data, mode.zone) {
        // They came with the launch.
        (Data::Snapshot, _) => up_ms,
        (Data::Reattach | Data::Existing, Zone::Same) if restores => {
            up_ms.max(free_ms) + act + l.create_volume.min_ms + act + l.attach.min_ms
        }
        (Data::Reattach | Data::Existing, Zone::Same) => up_ms.max(data_free_ms) + act + l.attach.min_ms,
        (Data::Reattach | Data::Existing, Zone::Other) => {
            // With the root's snapshot, or after home's refusals.
            let may_copy_ms =
                if mode.root == Root::Image { data_free_ms } else { data_free_ms.max(asked_ms) };
            let copied_ms = copied_after(may_copy_ms);
            let made_ms = up_ms.max(copied_ms).max(gone_ms + pair) + act + l.create_volume.min_ms;
            made_ms + act + l.attach.min_ms
        }
    };
    let root_ms = match (mode.root, mode.zone) {
        (Root::Adopt, Zone::Same) if !restores => up_ms.max(free_ms) + act + l.replace_root.min_ms,
        (Root::Adopt | Root::Image | Root::New, _) => up_ms,
    };
    let address_ms = match mode.network {
        Network::SecondaryIp => {
            let may_leave_ms = if mode.detaches(trigger) { detached_ms } else { gone_ms + pair };
            up_ms.max(may_leave_ms) + act + l.move_address.min_ms
        }
        // Another one, made meanwhile.
        Network::SecondaryEni if mode.zone == Zone::Other => up_ms + act,
        Network::SecondaryEni => {
            let free_ms = if mode.detaches(trigger) { left_ms } else { free_ms };
            up_ms.max(free_ms) + act
        }
        Network::PrimaryEni | Network::None => up_ms,
    };
    let whole_ms = data_ms.max(root_ms).max(address_ms);
    let cleaned_ms = match (mode.root, mode.zone) {
        // The temporary root.
        (Root::Adopt, Zone::Same) if !restores => whole_ms + act,
        // The interface that is left behind.
        (_, Zone::Other) if matches!(mode.network, Network::PrimaryEni | Network::SecondaryEni) => {
            whole_ms + act
        }
        (Root::Adopt | Root::Image | Root::New, _) => whole_ms,
    };
    Times { outage_ms: whole_ms - down_ms, total_ms: cleaned_ms.max(gone_ms + pair) }
}

/// What belongs to the node, wherever it is.
struct Own {
    node: Node,
    mode: Mode,
    trigger: Trigger,
    first: InstanceId,
    image: ImageId,
}

impl Own {
    /// Whether some running instance has everything.
    fn serves(&self, world: &World) -> bool {
        world.instances_of(NODE).iter().any(|instance| {
            let resources = &self.node.resources;
            let attached = |volume: &VolumeId| {
                let attachment = world.volume(volume).and_then(|volume| volume.attachment.as_ref());
                attachment.is_some_and(|held| {
                    held.instance == instance.id
                        && matches!(held.state, AttachmentState::Attached | AttachmentState::Busy)
                })
            };
            let rebooting = world
                .all_root_tasks()
                .any(|task| task.instance == instance.id && task.state == RootTaskState::InProgress);
            let is_new = instance.id != self.first;
            let has_moved = is_new && self.mode.zone == Zone::Other;
            let has_copies = has_moved || (is_new && self.trigger == Trigger::Restore);
            let root = match self.mode.root {
                Root::Adopt if !has_copies => attached(&resources.volumes[&Slot::Root].volume),
                Root::Adopt | Root::Image => !is_new || instance.image != self.image,
                Root::New => true,
            };
            let mut data = resources.volumes.iter().filter(|(slot, _)| **slot != Slot::Root);
            let mut addresses = instance.interfaces.iter().filter_map(|id| world.interface(id));
            let address = match resources.address {
                // Another one.
                Some(_) if has_moved && self.mode.network == Network::SecondaryIp => {
                    addresses.any(|interface| !interface.secondary_ips.is_empty())
                }
                Some(_) if has_moved && self.mode.network == Network::SecondaryEni => {
                    instance.interfaces.len() > 1
                }
                Some(_) if has_moved => true,
                Some(address) => addresses.any(|interface| {
                    interface.primary_ip == address || interface.secondary_ips.contains(&address)
                }),
                None => true,
            };
            let copied = || instance.volumes.len() > 1 && instance.volumes.iter().all(attached);
            let data = match self.mode.data {
                Data::Snapshot if is_new => instance.volumes.len() > 1,
                Data::Reattach | Data::Existing if has_copies => copied(),
                Data::Snapshot | Data::Reattach | Data::Existing => {
                    data.all(|(_, held)| attached(&held.volume))
                }
            };
            instance.state == InstanceState::Running && !rebooting && root && address && data
        })
    }
}

/// Watches a region: every change of whether the node serves, with its time.
async fn watch(region: SimRegion, own: Own, seen: Arc<Mutex<Vec<(u64, bool)>>>) {
    let changed = Arc::new(Notify::new());
    let called = Arc::clone(&changed);
    region.on_call(Some(Arc::new(move |_| {
        called.notify_one();
        CallVerdict::Go
    })));
    loop {
        let (now_ms, serves, due_ms) =
            region.with(|world, now_ms| (now_ms, own.serves(world), world.next_due_ms()));
        {
            let mut seen = seen.lock().unwrap();
            if seen.last().is_none_or(|(_, before)| *before != serves) {
                seen.push((now_ms, serves));
            }
        }
        let clock: &Clock = region.clock();
        tokio::select! {
            () = clock.sleep_until_ms(due_ms.unwrap_or(u64::MAX)) => {}
            () = changed.notified() => {}
        }
    }
}

/// A volume that is there before the node, in its zone.
async fn existing(lab: &Lab) -> VolumeId {
    let volume = lab.region.with(|world, now_ms| {
        let request = empty_volume(world.zones()[0].clone(), Tags::new());
        world.create_volume(now_ms, &request).expect("a volume")
    });
    lab.clock.sleep(Duration::from_secs(60)).await;
    volume
}

fn empty_volume(zone: String, tags: Tags) -> VolumeRequest {
    VolumeRequest {
        client_token: String::new(),
        zone,
        size_gib: 10,
        volume_type: "gp3".to_owned(),
        iops: None,
        throughput: None,
        encrypted: false,
        kms_key: None,
        snapshot: None,
        tags,
    }
}

/// One replacement by Perennial in virtual time. To be called under a paused clock.
pub async fn replaced(mode: Mode, trigger: Trigger, latencies: &Latencies, seed: u64) -> Times {
    let mut lab = Lab::new(settings(seed, latencies));
    let root = match mode.root {
        Root::Adopt => RootMode::Adopt,
        Root::Image => RootMode::Image,
        Root::New => RootMode::None,
    };
    let network = match mode.network {
        Network::PrimaryEni => NetworkMode::PrimaryEni,
        Network::SecondaryEni => NetworkMode::SecondaryEni,
        Network::SecondaryIp => NetworkMode::SecondaryIp,
        Network::None => NetworkMode::None,
    };
    let mut spec = lab.spec(NODE, network, root);
    spec.persist.handover = mode.handover;
    match mode.data {
        Data::Snapshot => spec.persist.data = DataMode::Snapshot,
        Data::Existing => spec.data_volumes[0].volume = Some(existing(&lab).await),
        Data::Reattach => {}
    }
    if mode.zone == Zone::Other {
        let other = lab.region.with(|world, _| world.subnet_in(&world.zones()[1].clone()));
        spec.capacity.other_subnets = vec![other];
        spec.network.zone_change = ZoneChange::Allow;
    }
    if trigger == Trigger::Restore {
        spec.backup = Some(BackupSpec { every_min: 720, keep: 3, at_release: false });
    }
    lab.provision(&spec).await;
    if trigger == Trigger::Restore {
        lab.submit("node.backup", NODE, serde_json::json!({})).await;
        lab.clock.sleep(Duration::from_secs(300)).await;
    }
    if mode.zone == Zone::Other {
        lab.region.with(|world, _| {
            let home = world.zones()[0].clone();
            for name in &spec.capacity.instance_types {
                for market in [Market::Spot, Market::OnDemand] {
                    world.set_capacity(name, &home, market, Capacity::Unsupported);
                }
            }
        });
    }
    // Where in the sweep's minute it strikes is chance.
    lab.clock.sleep(Duration::from_millis(fastrand::Rng::with_seed(seed).u64(0..60_000))).await;

    let old = lab.instance(NODE).await;
    let own =
        Own { node: lab.node(NODE).await, mode, trigger, first: old.clone(), image: spec.image.clone() };
    let data = own.node.resources.volumes.iter().find(|(slot, _)| **slot != Slot::Root);
    let data = data.map(|(_, held)| held.volume.clone()).expect("the example has a data volume");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watching = tokio::spawn(watch(lab.region.clone(), own, Arc::clone(&seen)));
    lab.clock.sleep(Duration::from_millis(10)).await;

    if trigger == Trigger::Restore {
        lab.submit("node.restore", NODE, serde_json::json!({ "backup": format!("{NODE}.b1") })).await;
    }
    let begun_ms = lab.region.with(|world, now_ms| {
        match trigger {
            Trigger::Restore => {}
            Trigger::Notice => world.interrupt(now_ms, &old, Notice::default()).unwrap(),
            Trigger::Loss => world.reclaim_now(now_ms, &old).unwrap(),
        }
        if mode.detaches(trigger) {
            // The node heard the notice too.
            world.unmount(now_ms, &old, &data).unwrap();
        }
        now_ms
    });
    lab.rest(NODE, 2).await;
    watching.abort();
    // What goes with the old instance is gone a little later.
    lab.clock.sleep(Duration::from_secs(10)).await;
    lab.check(NODE, &[]).await;

    let stream = OperationId::new(NodeName::parse(NODE).unwrap(), 2).stream();
    let events = lab.journal.read_all(Position(0), 100_000).await.unwrap();
    let last = events.iter().rfind(|event| event.stream == stream).expect("the operation has events");
    let seen = seen.lock().unwrap().clone();
    let [(_, true), (down_ms, false), (up_ms, true)] = seen[..] else {
        panic!("{}: it served, stopped once and served again: {seen:?}", mode.name());
    };
    Times { outage_ms: up_ms - down_ms, total_ms: last.recorded_at_ms - begun_ms }
}

/// An ideal driver of a region: its calls take their time, what it waits for it sees at once.
struct Driver {
    world: World,
    now_ms: u64,
}

impl Driver {
    fn call<T>(&mut self, latency: Span, act: impl FnOnce(&mut World, u64) -> T) -> T {
        self.now_ms += effect(latency);
        act(&mut self.world, self.now_ms)
    }

    fn until(&mut self, done: impl Fn(&World) -> bool) {
        self.world.advance(self.now_ms);
        while !done(&self.world) {
            self.now_ms = self.world.next_due_ms().expect("something is on its way");
            self.world.advance(self.now_ms);
        }
    }

    fn launch(
        &mut self,
        image: &ImageId,
        kept: Option<&InterfaceId>,
        data: Option<&SnapshotId>,
        zone: &str,
        latency: Span,
    ) -> InstanceId {
        let zone = zone.to_owned();
        let subnet = self.world.subnet_in(&zone);
        let request = RunInstances::from(&LaunchRequest {
            client_token: String::new(),
            image: image.clone(),
            instance_type: "m6i.large".to_owned(),
            market: Market::Spot,
            price_max: None,
            zone,
            network: match kept {
                Some(interface) => LaunchNetwork::Existing(interface.clone()),
                None => LaunchNetwork::New { subnet, groups: Vec::new() },
            },
            root: None,
            suppress: Vec::new(),
            volumes: data
                .map(|snapshot| LaunchVolume {
                    slot: Slot::Data(NodeName::parse("data").expect("a name")),
                    device: "/dev/sdf".to_owned(),
                    snapshot: snapshot.clone(),
                    size_gib: None,
                    volume_type: None,
                    iops: None,
                    throughput: None,
                    encrypted: false,
                    kms_key: None,
                })
                .into_iter()
                .collect(),
            key_name: None,
            instance_profile: None,
            metadata: None,
            template: None,
            user_data: None,
            tags: Tags::new(),
        });
        let instance = self.call(latency, |world, at| world.run_instances(at, &request).unwrap()).id;
        self.until(|world| world.instance(&instance).is_some_and(|i| i.state == InstanceState::Running));
        instance
    }

    fn attach(&mut self, volume: &VolumeId, instance: &InstanceId, latency: Span) {
        self.call(latency, |world, at| world.attach_volume(at, volume, instance, "/dev/sdf").unwrap());
        self.until(|world| {
            let attachment = world.volume(volume).and_then(|volume| volume.attachment.as_ref());
            attachment.is_some_and(|held| held.state == AttachmentState::Attached)
        });
    }
}

/// The commercial product's stop-first sequence (`spot-stateful-node.md` §2) by an ideal driver: terminate, wait until
/// everything is free, image a persistent root, launch with the kept interface, attach. A root is only ever carried as
/// an image, and an address only with its interface. An address that is kept ties it to one zone: to another one it moves without, after the spot
/// pools at home were asked in vain, with new volumes from final snapshots (taken with the root's) that are attached.
pub fn stopped_first(mode: Mode, trigger: Trigger, latencies: &Latencies, seed: u64) -> Times {
    let l = latencies;
    let mut driver = Driver { world: World::new(settings(seed, latencies), EPOCH_MS), now_ms: EPOCH_MS };
    let zone = driver.world.zones()[0].clone();
    let subnet = driver.world.subnet_in(&zone);
    let image = driver.world.default_image();
    let keeps_address = mode.network != Network::None && mode.zone == Zone::Same;
    let kept = keeps_address.then(|| {
        let request = InterfaceRequest {
            client_token: String::new(),
            subnet,
            groups: Vec::new(),
            private_ip: None,
            tags: Tags::new(),
        };
        driver.call(l.act, |world, at| world.create_interface(at, &request).unwrap())
    });
    let old = driver.launch(&image, kept.as_ref(), None, &zone, l.launch);
    let root = driver.world.instance(&old).and_then(|i| i.volumes.first().cloned()).expect("it has a root");
    if mode.root != Root::New {
        let device = driver.world.instance(&old).map(|i| i.root_device.clone()).expect("it exists");
        driver.call(l.act, |world, at| {
            world.modify_delete_on_termination(at, &old, &[(device, false)]).unwrap();
        });
    }
    let request = empty_volume(zone.clone(), Tags::new());
    let data = driver.call(l.act, |world, at| world.create_volume(at, &request).unwrap());
    let free = |world: &World, volume: &VolumeId| {
        world.volume(volume).is_some_and(|v| v.state == VolumeState::Available && v.attachment.is_none())
    };
    driver.until(|world| free(world, &data));
    driver.attach(&data, &old, l.act);

    let begun_ms = driver.now_ms;
    let down_ms = match trigger {
        Trigger::Notice => {
            driver.world.interrupt(begun_ms, &old, Notice::default()).unwrap();
            driver.call(l.act, |world, at| world.terminate_instances(at, &old).unwrap());
            driver.now_ms
        }
        // The commercial product's restores are not modelled.
        Trigger::Loss | Trigger::Restore => {
            driver.world.reclaim_now(begun_ms, &old).unwrap();
            begun_ms
        }
    };
    driver.until(|world| free(world, &data));
    driver.until(|world| {
        kept.as_ref().is_none_or(|id| world.interface(id).is_some_and(|kept| kept.attachment.is_none()))
    });
    // Volumes are copied at the same time.
    let copies = mode.data == Data::Snapshot || mode.zone == Zone::Other;
    let copy = copies
        .then(|| driver.call(l.act, |world, at| world.create_snapshot(at, &data, &Tags::new()).unwrap()));
    let boots = if mode.root == Root::New {
        image
    } else {
        driver.until(|world| free(world, &root));
        let snapshot =
            driver.call(l.act, |world, at| world.create_snapshot(at, &root, &Tags::new()).unwrap());
        driver.until(|world| {
            world.snapshot(&snapshot).is_some_and(|snapshot| snapshot.state == SnapshotState::Completed)
        });
        let traits = driver.world.image(&image).expect("the default image").traits.clone();
        let request = ImageRequest {
            name: "stop-first".to_owned(),
            root_snapshot: snapshot,
            traits,
            uefi_data: None,
            tags: Tags::new(),
        };
        let made = driver.call(l.act, |world, at| world.register_image(at, &request).unwrap());
        driver.until(|world| world.image(&made).is_some_and(|image| image.state == ImageState::Available));
        made
    };
    if let Some(copy) = &copy {
        driver.until(|world| {
            world.snapshot(copy).is_some_and(|snapshot| snapshot.state == SnapshotState::Completed)
        });
    }
    let home = zone;
    let zone = match mode.zone {
        Zone::Same => home,
        Zone::Other => driver.world.zones()[1].clone(),
    };
    driver.now_ms += spot_pools_asked(mode, trigger) * l.launch.min_ms;
    let in_launch = copy.as_ref().filter(|_| mode.data == Data::Snapshot);
    let new = driver.launch(&boots, kept.as_ref(), in_launch, &zone, l.launch);
    match copy.filter(|_| mode.data != Data::Snapshot) {
        None if mode.data == Data::Snapshot => {}
        None => driver.attach(&data, &new, l.act),
        Some(copy) => {
            let request = VolumeRequest { snapshot: Some(copy), ..empty_volume(zone, Tags::new()) };
            let data = driver.call(l.act, |world, at| world.create_volume(at, &request).unwrap());
            driver.until(|world| free(world, &data));
            driver.attach(&data, &new, l.act);
        }
    }
    Times { outage_ms: driver.now_ms - down_ms, total_ms: driver.now_ms - begun_ms }
}

/// How many pools the commercial product asks at home in vain: spot ones. Like us it passes over the one of a warned instance.
pub fn spot_pools_asked(mode: Mode, trigger: Trigger) -> u64 {
    mode.asked_at_home(trigger).saturating_sub(2)
}
