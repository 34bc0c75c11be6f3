//! What the storms from a seed on meet besides faults and losses: adversaries that come from outside of the model. A seed chooses
//! which; in each round one of them is there. They reuse what the tests of their own subjects use (`identity`, `clocks`,
//! `refusals`, `another_file`, `termination`, `signals`).
//!
//! And the laws that hold in every storm, whatever it meets ([`Laws`]).

use std::collections::BTreeSet;
use std::time::Duration;

use perennial_engine::domain::Domain;
use perennial_engine::ids::Position;
use perennial_engine::journal::{Batch, Journal as _, StreamAppend};
use perennial_engine::queue::{Outgoing, Queue as _};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::World;
use perennial_sim::world::settings::Settings;
use perennial_workers::port::VolumeState;
use perennial_workers::port::error::Action;
use perennial_workflows::aggregate::node::NodeEvent;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::Event;
use perennial_workflows::model::aws::{GroupId, ImageId, InstanceId, VolumeId};
use perennial_workflows::model::operation_id::Outcome;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::spec::node::NodeSpec;
use perennial_workflows::step::intent::Intent;
use serde_json::json;

use crate::another_file::{deregister, own_image};
use crate::lab::Lab;
use crate::refusals::{ACCESS, TROUBLE};
use crate::signals::{state_change, tell};
use crate::sweep::Seen;

/// The first seed with adversaries; those before it mean what they meant.
pub const FROM: u64 = 800_000;

/// Of the generator of their own.
const DICE: u64 = 0x0a75_1de5;

const MINUTE_MS: u64 = 60_000;

/// Acts that are refused alone.
const ACTS: [Action; 8] = [
    Action::RunInstances,
    Action::TerminateInstances,
    Action::AttachVolume,
    Action::CreateSnapshot,
    Action::CreateReplaceRootVolumeTask,
    Action::ModifyInstanceAttribute,
    Action::AssignPrivateIpAddresses,
    Action::DescribeInstances,
];

/// By how much a clock is set, in milliseconds.
const STEPS: [i64; 8] = [
    -8 * 24 * 3_600_000,
    -3_600_000,
    -20 * 60_000,
    -20_000,
    20_000,
    20 * 60_000,
    7_200_000,
    8 * 24 * 3_600_000,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adversary {
    EarlierJournal,
    SecondInstallation,
    ClockSteps,
    WrongAccount,
    Unauthorized,
    Throttled,
    FullSubnet,
    ImageGone,
    Protected,
    AnotherFile,
    ForgedEvents,
}

use Adversary::{
    AnotherFile, ClockSteps, EarlierJournal, ForgedEvents, FullSubnet, ImageGone, Protected,
    SecondInstallation, Throttled, Unauthorized, WrongAccount,
};

const ALL: [Adversary; 11] = [
    EarlierJournal,
    SecondInstallation,
    ClockSteps,
    WrongAccount,
    Unauthorized,
    Throttled,
    FullSubnet,
    ImageGone,
    Protected,
    AnotherFile,
    ForgedEvents,
];

/// Whether the times that a seed's backups tell, or what the journal knows of them, are not the region's.
pub fn spoils_backups(seed: u64) -> bool {
    of(seed).iter().any(|kind| matches!(kind, EarlierJournal | ClockSteps))
}

/// Whether the journal of a seed is put back: then it does not tell what goes on in the world.
pub fn puts_back(seed: u64) -> bool {
    of(seed).contains(&EarlierJournal)
}

/// The adversaries that a seed chooses: one to three.
pub fn of(seed: u64) -> Vec<Adversary> {
    if seed < FROM {
        return Vec::new();
    }
    let mut rng = fastrand::Rng::with_seed(seed ^ DICE);
    let mut all = ALL.to_vec();
    rng.shuffle(&mut all);
    all.truncate(rng.usize(1..=3));
    all
}

/// What the adversaries of one run must have done, each as it was felt.
pub struct Felt {
    journals: Seen,
    adopted: Seen,
    second: Seen,
    clocks: Seen,
    accounts: Seen,
    unauthorized: Seen,
    throttled: Seen,
    full: Seen,
    images: Seen,
    protected: Seen,
    files: Seen,
    forged: Seen,
}

impl Felt {
    pub fn by(all: bool) -> Self {
        let at_least = |least, what| Seen::at_least(if all { least } else { 0 }, what);
        Self {
            journals: at_least(3, "journals put back from a backup"),
            adopted: at_least(1, "nodes adopted after it"),
            second: at_least(3, "second installations that found the node to be another's"),
            clocks: at_least(4, "steps of the clock"),
            accounts: at_least(3, "calls into a wrong account"),
            unauthorized: at_least(10, "calls refused for want of authorization"),
            throttled: at_least(10, "calls throttled in an hour of it"),
            full: at_least(3, "subnets without a free address"),
            images: at_least(2, "images that went away"),
            protected: at_least(1, "terminations refused for protection"),
            files: at_least(3, "files that were wrong for a while"),
            forged: at_least(20, "forged events that were answered"),
        }
    }
}

/// The adversaries of one storm.
pub struct Outsiders {
    rng: fastrand::Rng,
    kinds: Vec<Adversary>,
    /// The one that is there, and what it has begun.
    now: Option<Adversary>,
    rule: Option<Rule>,
    second: Option<Lab>,
    image: Option<ImageId>,
    protected: Vec<InstanceId>,
    forged: u64,
    /// Where the journal was when the node was there.
    born: usize,
    calls_before: usize,
    pub laws: Laws,
}

impl Outsiders {
    /// Before the node is provisioned.
    pub fn of(seed: u64, lab: &Lab, spec: &mut NodeSpec) -> Self {
        let kinds = of(seed);
        let image = kinds.contains(&ImageGone).then(|| own_image(lab));
        if let Some(image) = &image {
            spec.image = image.clone();
        }
        Self {
            rng: fastrand::Rng::with_seed(!seed ^ DICE),
            kinds,
            now: None,
            rule: None,
            second: None,
            image,
            protected: Vec::new(),
            forged: 0,
            born: 0,
            calls_before: 0,
            laws: Laws::default(),
        }
    }

    pub fn has(&self, kind: Adversary) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether a person has something to do in the end.
    pub fn needs_a_person(&self) -> bool {
        self.has(Protected) || self.has(ImageGone) || self.has(AnotherFile)
    }

    /// The node is there.
    pub fn born(&mut self, lab: &Lab) {
        self.born = lab.written.lock().unwrap().len();
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(..choices.len())].clone()
    }

    /// One of them comes.
    pub async fn begin(&mut self, lab: &mut Lab, spec: &NodeSpec, felt: &mut Felt) {
        if self.kinds.is_empty() {
            return;
        }
        let kinds = self.kinds.clone();
        let kind = self.pick(&kinds);
        self.now = Some(kind);
        self.calls_before = lab.region.calls().len();
        match kind {
            EarlierJournal | WrongAccount => {}
            SecondInstallation => {
                let mut second = lab.neighbour("lab");
                second.submit("node.apply", "db-1", json!({ "spec": spec })).await;
                self.second = Some(second);
            }
            ClockSteps => {
                lab.machine.set(self.pick(&STEPS));
                felt.clocks.when(true);
            }
            Unauthorized => {
                let targets = [Target::All, Target::Acts, Target::Looks, Target::Only(self.pick(&ACTS))];
                let (target, code) = (self.pick(&targets), self.pick(&ACCESS));
                self.inject(lab, target, code);
            }
            Throttled => {
                let target = self.pick(&[Target::All, Target::Acts, Target::Looks]);
                let code = self.pick(&["RequestLimitExceeded", "ServiceUnavailable"]);
                self.inject(lab, target, code);
            }
            FullSubnet => {
                let free = lab.region.with(|world, _| {
                    world.leave_free_addresses(&spec.subnet, 0);
                    world.subnet(&spec.subnet).map(|subnet| world.free_addresses(subnet))
                });
                felt.full.when(free == Some(0));
            }
            ImageGone => {
                if let Some(image) = self.image.take() {
                    deregister(lab, &image);
                    felt.images.when(true);
                }
            }
            Protected => {
                let live: Vec<InstanceId> = lab
                    .region
                    .with(|world, _| world.instances_of("db-1").iter().map(|i| i.id.clone()).collect());
                for id in live {
                    if lab.region.with(|world, now_ms| world.modify_protection(now_ms, &id, true).is_ok()) {
                        self.protected.push(id);
                    }
                }
            }
            AnotherFile => {
                let mut wrong = spec.clone();
                match self.rng.u8(0..3) {
                    0 => wrong.security_groups = vec![GroupId::parse("sg-0123456789abcdef9").unwrap()],
                    1 => wrong.image = ImageId::parse("ami-0123456789abcdef9").unwrap(),
                    _ => wrong.instance_profile = Some("another".to_owned()),
                }
                lab.clock.sleep(Duration::from_millis(self.rng.u64(0..20_000))).await;
                lab.submit("node.apply", "db-1", json!({ "spec": wrong })).await;
                felt.files.when(true);
            }
            ForgedEvents => self.forge(lab).await,
        }
    }

    fn inject(&mut self, lab: &Lab, target: Target, code: &str) {
        let rule = Rule { target, when: When::Always, fault: Fault::Before(code.to_owned()) };
        lab.region.inject(rule.clone());
        self.rule = Some(rule);
    }

    /// It goes.
    pub async fn end(&mut self, lab: &mut Lab, spec: &mut NodeSpec, felt: &mut Felt) {
        let Some(kind) = self.now.take() else { return };
        match kind {
            EarlierJournal => self.put_back(lab, spec, felt).await,
            SecondInstallation => {
                let Some(mut second) = self.second.take() else { return };
                second.submit("node.delete", "db-1", json!({ "keep": [] })).await;
                second.clock.sleep(Duration::from_millis(self.rng.u64(2..30) * MINUTE_MS)).await;
                second.kill().await;
                let node = second.node("db-1").await;
                assert_eq!(node.resources.carrier, None, "{}", second.story().await);
                felt.second.when(!node.newer.is_empty());
            }
            ClockSteps => {
                if self.rng.bool() {
                    lab.machine.set(self.pick(&STEPS));
                    felt.clocks.when(true);
                }
            }
            WrongAccount => self.elsewhere(lab, felt).await,
            Unauthorized | Throttled => {
                let hours = if kind == Throttled { 60..61 } else { 1..120 };
                lab.clock.sleep(Duration::from_millis(self.rng.u64(hours) * MINUTE_MS)).await;
                let Some(rule) = self.rule.take() else { return };
                lab.region.withdraw(&rule);
                let Fault::Before(code) = &rule.fault else { return };
                let refused = self.calls(lab).filter(|answer| answer == code).count();
                if kind == Throttled { &mut felt.throttled } else { &mut felt.unauthorized }.times(refused);
            }
            FullSubnet => {
                lab.clock.sleep(Duration::from_millis(self.rng.u64(1..40) * MINUTE_MS)).await;
                lab.region.with(|world, _| world.leave_free_addresses(&spec.subnet, 1_000));
            }
            ImageGone => {
                lab.clock.sleep(Duration::from_millis(self.rng.u64(1..30) * MINUTE_MS)).await;
                if self.image.is_none() {
                    spec.image = lab.region.with(|world, _| world.default_image());
                    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
                }
            }
            Protected => {
                lab.clock.sleep(Duration::from_millis(self.rng.u64(1..30) * MINUTE_MS)).await;
                let refused = self.calls(lab).filter(|answer| answer == "OperationNotPermitted").count();
                felt.protected.times(refused);
                for id in self.protected.drain(..) {
                    let _ = lab.region.with(|world, now_ms| world.modify_protection(now_ms, &id, false));
                }
            }
            AnotherFile => {
                lab.clock.sleep(Duration::from_millis(self.rng.u64(1_000..30 * MINUTE_MS))).await;
                lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
            }
            ForgedEvents => {
                lab.clock.sleep(Duration::from_secs(60)).await;
                let events = lab.journal.read_all(Position(0), 100_000).await.unwrap();
                let answered = events.iter().filter(|event| {
                    event.data.kind == "inbox.answered" && event.stream.as_str().contains("forged-")
                });
                felt.forged.times(answered.count());
            }
        }
    }

    /// The codes that calls were answered with since it came.
    fn calls(&self, lab: &Lab) -> impl Iterator<Item = String> + use<> {
        let calls = lab.region.calls().split_off(self.calls_before);
        calls.into_iter().filter_map(|call| call.answer.err())
    }

    /// The journal is put back from a backup while the node is at rest, and served for a while. A person adopts what is behind; where
    /// that is refused, the newest journal is found after all.
    async fn put_back(&mut self, lab: &mut Lab, spec: &NodeSpec, felt: &mut Felt) {
        let mut rests = false;
        for _ in 0..60 {
            lab.clock.sleep(Duration::from_secs(60)).await;
            let node = lab.node("db-1").await;
            let carrier = node.resources.carrier.as_ref().map(|carrier| carrier.instance.clone());
            let lives = |id: &InstanceId| {
                lab.region.with(|world, _| world.instance(id).is_some_and(|i| !i.state.is_over()))
            };
            rests = node.open.is_none() && carrier.as_ref().is_some_and(lives);
            if rests {
                break;
            }
        }
        if !rests {
            return;
        }
        lab.kill().await;
        let newest = lab.written.lock().unwrap().clone();
        self.laws.absorb(&newest);
        let position = self.rng.usize(self.born..=newest.len());
        lab.put_back(&newest[..position]).await;
        felt.journals.when(true);
        lab.start();
        lab.clock.sleep(Duration::from_millis(self.rng.u64(5..120) * MINUTE_MS)).await;
        lab.kill().await;
        let compared = loop {
            if let Ok(compared) = lab.adopt(None).await {
                break compared;
            }
            lab.clock.sleep(Duration::from_secs(5)).await;
        };
        if compared.iter().any(|one| one.found.is_err()) {
            self.laws.absorb(&lab.written.lock().unwrap());
            lab.put_back(&newest).await;
        } else {
            felt.adopted.times(compared.len());
            let lost = lab.region.with(|world, _| {
                let snapshots = world.all_snapshots().map(|snapshot| snapshot.id.to_string());
                let images = world.all_images().map(|image| image.id.to_string());
                let interfaces = world.all_interfaces().map(|interface| interface.id.to_string());
                snapshots.chain(images).chain(interfaces).collect::<Vec<_>>()
            });
            lab.forgotten.extend(lost);
        }
        lab.start();
        // The present file is applied again.
        lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
        lab.clock.sleep(Duration::from_secs(30)).await;
    }

    /// The account is another one for a while, from a start of the process or in the middle of it.
    async fn elsewhere(&mut self, lab: &mut Lab, felt: &mut Felt) {
        let length = Duration::from_millis(self.rng.u64(1..90) * MINUTE_MS);
        let restarted = self.rng.bool();
        if restarted {
            lab.kill().await;
        }
        // Nothing is found there, and nothing may be made.
        let fault = Fault::Before("UnauthorizedOperation".to_owned());
        let forbidden = Rule { target: Target::Acts, when: When::Always, fault };
        lab.region.inject(forbidden.clone());
        let elsewhere = |now_ms: u64| World::new(Settings::calm(77), now_ms);
        let right = lab.region.with(|world, now_ms| std::mem::replace(world, elsewhere(now_ms)));
        if restarted {
            lab.start();
        }
        let before = lab.region.calls().len();
        lab.clock.sleep(length).await;
        felt.accounts.times(lab.region.calls().len() - before);
        if restarted {
            lab.kill().await;
        }
        let made = lab.region.with(|world, now_ms| {
            let made = (world.all_instances().count(), world.all_volumes().count());
            *world = right;
            world.advance(now_ms);
            made
        });
        lab.region.withdraw(&forbidden);
        if restarted {
            lab.start();
        }
        assert_eq!(made, (0, 0), "made in the wrong account\n{}", lab.story().await);
    }

    /// Events that are not so, not ours, not in their form, or not the first with their id.
    async fn forge(&mut self, lab: &Lab) {
        let stranger = InstanceId::parse("i-0feedfacefeedface").unwrap();
        let live: Vec<InstanceId> =
            lab.region.with(|world, _| world.instances_of("db-1").iter().map(|i| i.id.clone()).collect());
        let ours = live.first().cloned().unwrap_or_else(|| stranger.clone());
        for _ in 0..self.rng.u8(3..12) {
            self.forged += 1;
            let id = format!("forged-{}", self.forged);
            let state = self.pick(&["terminated", "shutting-down", "stopped", "running"]);
            let about = if self.rng.bool() { &ours } else { &stranger };
            let event = state_change(&id, about, state);
            match self.rng.u8(0..7) {
                0 => tell(lab, &event).await,
                1 => tell(lab, &json!([event])).await,
                2 => tell(lab, &json!({ "Type": "Notification", "Message": event.to_string() })).await,
                3 => {
                    // The same id with another content.
                    tell(lab, &event).await;
                    tell(lab, &state_change(&id, &stranger, "pending")).await;
                }
                4 => {
                    let mut event = event;
                    event.as_object_mut().unwrap().remove("id");
                    event.as_object_mut().unwrap().remove("time");
                    tell(lab, &event).await;
                }
                5 => {
                    let mut event = event;
                    event["detail-type"] = json!("EC2 Spot Instance Interruption Warning");
                    event["detail"] = json!({ "instance-id": stranger, "instance-action": "terminate" });
                    tell(lab, &event).await;
                }
                _ => {
                    let text = event.to_string();
                    let cut: String = text.chars().take(text.len() / 2).collect();
                    lab.interruptions.send(vec![Outgoing::now(cut)]).await.unwrap();
                }
            }
        }
    }

    /// What a person had to mend is mended: a workflow that is stuck is told so.
    pub async fn person(&mut self, lab: &mut Lab) {
        if !self.needs_a_person() {
            return;
        }
        let Some((open, _)) = lab.node("db-1").await.open else { return };
        if lab.is_stuck(&open.to_string()).await {
            lab.submit("workflow.resume", "db-1", json!({ "workflow": open })).await;
        }
    }
}

/// What holds in every storm.
#[derive(Default)]
pub struct Laws {
    /// The volumes that carried the node, by what any journal of it says.
    carried: BTreeSet<VolumeId>,
    /// Those of them that were its root.
    roots: BTreeSet<VolumeId>,
    /// The volumes that a deletion or a pruning was to delete.
    condemned: BTreeSet<VolumeId>,
    /// Why workflows were stuck.
    stuck: Vec<String>,
}

impl Laws {
    /// Learns from a journal.
    pub fn absorb(&mut self, written: &[Batch]) {
        for append in written.iter().flat_map(|batch| &batch.appends) {
            self.learn(append);
        }
    }

    fn learn(&mut self, append: &StreamAppend) {
        for event in &append.events {
            let event = Perennial::decode(event).unwrap();
            // What an operation was about when it was abandoned has carried nothing yet: a journal that is put
            // back can name a clone that was given up since (800357).
            if let Event::Node(NodeEvent::OperationFinished { outcome: Outcome::Abandoned, .. }) = &event {
                continue;
            }
            match event {
                Event::Node(
                    NodeEvent::OperationFinished { resources, .. } | NodeEvent::Adopted { resources, .. },
                ) => {
                    let root = resources.volumes.get(&Slot::Root);
                    self.roots.extend(root.map(|held| held.volume.clone()));
                    self.carried.extend(resources.volumes.values().map(|held| held.volume.clone()));
                }
                Event::Operation(OperationEvent::StepIntended {
                    intent: Intent::DeleteVolume(delete),
                    ..
                }) if delete.retained.is_some() || append.stream.name().starts_with("db-2.") => {
                    self.condemned.insert(delete.volume.clone());
                }
                Event::Operation(OperationEvent::Stuck { because, .. }) => self.stuck.push(because),
                _ => {}
            }
        }
    }

    /// Checks all of them. `deleted` is what a person has deleted; a root may die with its instance where EC2 says so
    /// ([`Loss`](crate::storms)).
    pub async fn hold(&mut self, lab: &Lab, deleted: &BTreeSet<VolumeId>, roots_die: bool, seed: u64) {
        let written = lab.written.lock().unwrap().clone();
        self.absorb(&written);
        let mut broken = lab.region.deeds().trespasses;
        lab.region.with(|world, _| {
            let is_there = |id: &VolumeId| {
                world.all_volumes().any(|volume| {
                    volume.id == *id && !matches!(volume.state, VolumeState::Deleting | VolumeState::Deleted)
                })
            };
            let gone = self.carried.iter().filter(|id| {
                let excused = deleted.contains(*id) || roots_die && self.roots.contains(*id);
                !is_there(id) && !self.condemned.contains(*id) && !excused
            });
            broken.extend(gone.map(|id| format!("{id} carried the node and is gone")));
        });
        let passes = ACCESS.iter().chain(&TROUBLE).copied().chain(["nothing else that the journal knows"]);
        for code in passes {
            let stuck = self.stuck.iter().filter(|because| because.contains(code));
            broken.extend(stuck.map(|because| format!("stuck for what passes by itself: {because}")));
        }
        let node = lab.node("db-1").await;
        if let (Some(address), None) = (node.resources.address, &node.open) {
            let answering: Vec<InstanceId> = lab.region.with(|world, _| {
                let answers = |instance: &&perennial_sim::world::state::Instance| {
                    instance.interfaces.iter().filter_map(|id| world.interface(id)).any(|interface| {
                        interface.primary_ip == address || interface.secondary_ips.contains(&address)
                    })
                };
                world.instances_of("db-1").into_iter().filter(answers).map(|i| i.id.clone()).collect()
            });
            if answering.len() > 1 {
                broken.push(format!("{answering:?} answer to {address}"));
            }
        }
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}\n{}", lab.story().await);
    }
}
