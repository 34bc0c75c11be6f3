//! What a worker does for a step: the looks of `workers/src/steps`, on the abstract world. Each outcome is one
//! that the world allows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_engine::ids::Token;
use perennial_workflows::model::aws::{
    ImageId, InstanceId, InstanceState, InterfaceId, SnapshotId, VolumeId,
};
use perennial_workflows::model::resources::{Resource, ResourceKind};
use perennial_workflows::model::volume::{Slot, TagMap, TakenSnapshot};
use perennial_workflows::operation::state::Operation;
use perennial_workflows::spec::node::RootMode;
use perennial_workflows::step::backup::BackupEvidence;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{
    AdoptRoot, Attach, AttachInterface, CloneRoot, CreateInterface, CreateVolume, DeleteVolume, Detach,
    DetachInterface, Fence, FinalSnapshot, Find, Intent, Launch, LaunchInterface, MoveAddress, Preserve,
    RegisterImage, Release, ReleaseInterface, SnapshotAhead, SnapshotRoot, SnapshotVolume, Start, Verify,
};
use perennial_workflows::view::plan::success;

use super::world::{Attachment, Disk, Gone, Machine, Phase, Picture, Plug, Shot, Task, TaskState, World};

/// How good an outcome is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// The world is friendly.
    Good,
    /// It goes wrong in a way that passes, or that another way leads past.
    Bad,
    /// It goes wrong in a way that only a person can mend.
    Person,
}

/// What becomes of one look.
pub struct Outcome {
    pub label: &'static str,
    pub luck: Luck,
    pub world: World,
    /// None: the step looks again later.
    pub evidence: Option<Evidence>,
}

/// All outcomes of a look.
struct Outcomes<'a> {
    world: &'a World,
    all: Vec<Outcome>,
}

impl Outcomes<'_> {
    /// Nothing is changed by it.
    fn sees(&mut self, label: &'static str, luck: Luck, evidence: Evidence) {
        self.all.push(Outcome { label, luck, world: self.world.clone(), evidence: Some(evidence) });
    }

    fn does(
        &mut self,
        label: &'static str,
        luck: Luck,
        evidence: Option<Evidence>,
        deed: impl FnOnce(&mut World),
    ) {
        let mut world = self.world.clone();
        deed(&mut world);
        self.all.push(Outcome { label, luck, world, evidence });
    }
}

/// Every outcome of a look at a step.
pub fn looks(op: &Operation, world: &World, token: Token, intent: &Intent) -> Vec<Outcome> {
    let mut out = Outcomes { world, all: Vec::new() };
    match intent {
        Intent::Launch(step) => launch(&mut out, op, step),
        Intent::Start(step) => start(&mut out, step),
        Intent::Preserve(step) => preserve(&mut out, step),
        Intent::Fence(step) => fence(&mut out, step),
        Intent::Release(step) => release(&mut out, op, step),
        Intent::Detach(step) => detach(&mut out, step),
        Intent::Attach(step) => attach(&mut out, step),
        Intent::AdoptRoot(step) => adopt(&mut out, step),
        Intent::CloneRoot(step) => clone_root(&mut out, step),
        Intent::CreateVolume(step) => create_volume(&mut out, step),
        Intent::SnapshotRoot(SnapshotRoot { volume, tags, .. })
        | Intent::SnapshotVolume(SnapshotVolume { volume, tags, .. }) => snapshot(&mut out, volume, tags),
        Intent::FinalSnapshot(FinalSnapshot { volume, tags, .. })
        | Intent::SnapshotAhead(SnapshotAhead { volume, tags, .. }) => {
            optional_snapshot(&mut out, volume, tags);
        }
        Intent::RegisterImage(step) => register_image(&mut out, step),
        Intent::CreateInterface(step) => create_interface(&mut out, step),
        Intent::AttachInterface(step) => attach_interface(&mut out, step),
        Intent::DetachInterface(step) => detach_interface(&mut out, step),
        Intent::ReleaseInterface(step) => release_interface(&mut out, step),
        Intent::MoveAddress(step) => move_address(&mut out, op, step),
        Intent::Verify(step) => verify(&mut out, step),
        Intent::DeleteVolume(step) => delete_volume(&mut out, step),
        Intent::DeleteSnapshot(step) => {
            let snapshot = step.snapshot.clone();
            deletes(&mut out, move |world| {
                if let Some(shot) = world.snapshots.get_mut(&snapshot) {
                    shot.is_gone = true;
                }
            });
        }
        Intent::DeregisterImage(step) => {
            let image = step.image.clone();
            deletes(&mut out, move |world| {
                if let Some(picture) = world.images.get_mut(&image) {
                    picture.is_gone = true;
                }
            });
        }
        Intent::DeleteInterface(step) => {
            let interface = step.interface.clone();
            let is_free = world.interfaces.get(&interface).is_none_or(|plug| plug.on.is_none());
            if is_free {
                deletes(&mut out, move |world| {
                    if let Some(plug) = world.interfaces.get_mut(&interface) {
                        plug.is_gone = true;
                    }
                });
            }
        }
        Intent::Find(step) => find(&mut out, step),
        Intent::Resolve(_) => {
            out.sees("seen", Luck::Good, success(op, intent, token));
            out.sees("refused", Luck::Person, refused());
        }
        Intent::ReturnAddress(_) | Intent::SetGroups(_) | Intent::Associate(_) => {
            out.sees("done", Luck::Good, success(op, intent, token));
        }
        Intent::Survey(_) | Intent::ClaimVolume(_) | Intent::Grow(_) | Intent::Backup(_) => {
            panic!("not in these modes: {intent:?}")
        }
    }
    out.all
}

fn refused() -> Evidence {
    Evidence::Refused { code: "UnauthorizedOperation".into(), message: "no".into() }
}

fn late() -> Evidence {
    Evidence::OutOfTime { because: "waited".into() }
}

fn missing(what: &impl ToString) -> Evidence {
    Evidence::Lost { what: what.to_string(), not_shown: true }
}

/// The end of the ids of what a step makes: the same however its operation came to it.
fn suffix(tags: &TagMap) -> String {
    let step = tags.get("perennial:step").map_or("", String::as_str);
    let attempt = step.split_once('/').map_or(step, |(_, rest)| rest);
    attempt.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn made_by(tags: &TagMap) -> String {
    tags.get("perennial:step").cloned().unwrap_or_default()
}

/// The instance is not there to work on.
fn gone(world: &World, instance: &InstanceId) -> Option<Evidence> {
    let phase = world.instances.get(instance).map(|machine| machine.phase);
    let state = match phase {
        Some(Phase::Running) => return None,
        Some(Phase::ShuttingDown) => Some(InstanceState::ShuttingDown),
        Some(Phase::Terminated) => Some(InstanceState::Terminated),
        None => None,
    };
    Some(Evidence::InstanceGone { instance: instance.clone(), state, reason: None })
}

/// The instance is gone: whether it is, and then nothing else is to be seen.
fn is_gone(out: &mut Outcomes<'_>, instance: &InstanceId) -> bool {
    let gone = gone(out.world, instance);
    let is_gone = gone.is_some();
    out.all.extend(gone.map(|evidence| Outcome {
        label: "instance gone",
        luck: Luck::Good,
        world: out.world.clone(),
        evidence: Some(evidence),
    }));
    is_gone
}

fn launch(out: &mut Outcomes<'_>, op: &Operation, step: &Launch) {
    let id = InstanceId::parse(&format!("i-{}", suffix(&step.tags))).unwrap();
    let launched = Evidence::Launched { instance: id.clone(), spot_request: None };
    if out.world.instances.contains_key(&id) {
        if !is_gone(out, &id) {
            out.sees("launched before", Luck::Good, launched);
        }
        return;
    }
    let kept = match &step.interface {
        LaunchInterface::Kept(kept) => Some(kept.clone()),
        LaunchInterface::New { .. } => None,
    };
    let plug = kept.as_ref().and_then(|kept| out.world.interfaces.get(kept));
    if let (Some(kept), true) = (&kept, plug.is_some_and(|plug| plug.is_gone)) {
        out.sees("interface gone", Luck::Good, missing(kept));
        return;
    }
    if plug.is_none_or(|plug| plug.on.is_none()) {
        out.does("launched", Luck::Good, Some(launched), |world| run(world, op, step, &id));
    }
    let (code, message) = ("InsufficientInstanceCapacity".into(), "none".into());
    out.sees("no capacity", Luck::Bad, Evidence::NoCapacity { code, message });
    out.sees("refused", Luck::Person, refused());
}

/// The instance is there, with its root and the volumes of the request.
fn run(world: &mut World, op: &Operation, step: &Launch, id: &InstanceId) {
    let suffix = suffix(&step.tags);
    let machine = Machine {
        phase: Phase::Running,
        launched_by: Some(step.client_token.clone()),
        task: None,
        is_warned: false,
        was_taken: false,
    };
    world.instances.insert(id.clone(), machine);
    let of = world.images.get(&step.image).map(|picture| picture.snapshot.clone());
    let shot = |snapshot: &SnapshotId| world.snapshots.get(snapshot).map_or(0, |shot| shot.content);
    let content = of.as_ref().map_or(0, shot);
    let disk = |slot: Option<Slot>, content: u32, dies: bool, is_root: bool| Disk {
        slot,
        on: Some(Attachment { instance: id.clone(), dies, is_root, is_leaving: false }),
        content,
        is_kept: false,
        was_used: true,
        gone: None,
        made_by: Some(made_by(&step.tags)),
    };
    // The root of an image of the node's root is the node's; any other one is its own when it is new.
    let is_fresh =
        op.order.spec.persist.root != RootMode::None && !op.facts.volumes.contains_key(&Slot::Root);
    let slot = (of.is_some() || is_fresh).then_some(Slot::Root);
    let mut made = vec![(format!("vol-root-{suffix}"), disk(slot, content, true, true))];
    for volume in &step.volumes {
        let content = shot(&volume.snapshot);
        made.push((
            format!("vol-{suffix}-{}", volume.device.replace('/', "-")),
            disk(Some(volume.slot.clone()), content, false, false),
        ));
    }
    for (volume, disk) in made {
        world.volumes.insert(VolumeId::parse(&volume).unwrap(), disk);
    }
    if let LaunchInterface::Kept(kept) = &step.interface
        && let Some(plug) = world.interfaces.get_mut(kept)
    {
        plug.on = Some(id.clone());
    }
}

fn start(out: &mut Outcomes<'_>, step: &Start) {
    if is_gone(out, &step.instance) {
        return;
    }
    let suffix = step.instance.as_str().trim_start_matches("i-");
    let volumes: BTreeMap<String, VolumeId> = step
        .devices
        .iter()
        .map(|device| {
            let volume = format!("vol-{suffix}-{}", device.replace('/', "-"));
            (device.clone(), VolumeId::parse(&volume).unwrap())
        })
        .collect();
    let kept = out.world.interfaces.iter().find(|(_, plug)| plug.on.as_ref() == Some(&step.instance));
    let interface = kept.map_or_else(
        || InterfaceId::parse(&format!("eni-of-{suffix}")).unwrap(),
        |(interface, _)| interface.clone(),
    );
    let started = Evidence::Started {
        interface,
        private_ip: Ipv4Addr::new(10, 0, 0, 9),
        root_device: "/dev/xvda".into(),
        root_volume: Some(VolumeId::parse(&format!("vol-root-{suffix}")).unwrap()),
        volumes,
    };
    out.sees("running", Luck::Good, started);
    out.sees("late", Luck::Bad, late());
}

fn preserve(out: &mut Outcomes<'_>, step: &Preserve) {
    if is_gone(out, &step.instance) {
        return;
    }
    let task = out.world.instances[&step.instance].task.as_ref();
    if task.is_some_and(|task| task.state == TaskState::InProgress) {
        return;
    }
    out.does("preserved", Luck::Good, Some(Evidence::Preserved), |world| {
        for volume in &step.volumes {
            if let Some(on) = world.volumes.get_mut(volume).and_then(|disk| disk.on.as_mut())
                && on.instance == step.instance
            {
                on.dies = false;
            }
        }
    });
    out.sees("refused", Luck::Person, refused());
    out.sees("late", Luck::Person, late());
}

fn fence(out: &mut Outcomes<'_>, step: &Fence) {
    let instance = &step.instance;
    match out.world.instances.get(instance).map(|machine| machine.phase) {
        Some(Phase::Running) => {
            out.does("terminated", Luck::Good, None, |world| world.terminate(instance));
            let (code, message) = ("OperationNotPermitted".into(), "protected".into());
            out.sees("protected", Luck::Person, Evidence::Refused { code, message });
        }
        Some(Phase::ShuttingDown) => {}
        phase => {
            let fenced = Evidence::Fenced {
                found: "terminated".into(),
                terminated_by_us: false,
                reason: None,
                forced: false,
                not_shown: phase.is_none(),
            };
            out.sees("fenced", Luck::Good, fenced);
        }
    }
}

fn release(out: &mut Outcomes<'_>, op: &Operation, step: &Release) {
    let Some(disk) = out.world.disk(&step.volume) else {
        out.sees("missed", Luck::Good, missing(&step.volume));
        return;
    };
    match &disk.on {
        None if out.world.is_free(&step.volume) => out.sees("free", Luck::Good, Evidence::Released),
        Some(on) if on.instance != step.from && is_launched_by(op, &on.instance) => {
            let (what, by) = (step.volume.to_string(), on.instance.to_string());
            out.sees("on another", Luck::Good, Evidence::HeldByAnother { what, by });
        }
        _ => {}
    }
    out.sees("late", Luck::Person, late());
}

/// Whether an instance was launched by this operation, as its tags would say.
fn is_launched_by(op: &Operation, instance: &InstanceId) -> bool {
    op.order.before.carrier.as_ref().is_none_or(|carrier| carrier.instance != *instance)
}

fn detach(out: &mut Outcomes<'_>, step: &Detach) {
    if out.world.is_free(&step.volume) {
        out.sees("free", Luck::Good, Evidence::Released);
        return;
    }
    if out.world.disk(&step.volume).is_none() {
        out.sees("late", Luck::Good, late());
        return;
    }
    let on_it = out.world.disk(&step.volume).and_then(|disk| disk.on.as_ref());
    match on_it {
        Some(on) if on.instance != step.instance => out.sees("on another", Luck::Good, refused()),
        Some(_) if out.world.runs(&step.instance) => {
            out.does("detached", Luck::Good, Some(Evidence::Released), |world| {
                if let Some(disk) = world.volumes.get_mut(&step.volume) {
                    disk.on = None;
                }
            });
            // It is asked for, and the operating system holds on.
            out.does("busy", Luck::Bad, Some(late()), |world| {
                if let Some(on) = world.volumes.get_mut(&step.volume).and_then(|disk| disk.on.as_mut()) {
                    on.is_leaving = true;
                }
            });
        }
        _ => out.sees("late", Luck::Good, late()),
    }
}

fn attach(out: &mut Outcomes<'_>, step: &Attach) {
    if is_gone(out, &step.instance) {
        return;
    }
    if out.world.disk(&step.volume).is_none() {
        out.sees("missed", Luck::Good, missing(&step.volume));
    } else if out.world.holds(&step.instance, &step.volume) {
        out.sees("attached", Luck::Good, Evidence::Attached);
    } else if out.world.is_free(&step.volume) {
        out.does("attached", Luck::Good, Some(Evidence::Attached), |world| {
            world.attach(&step.volume, &step.instance);
        });
        out.does("attached, not seen in time", Luck::Person, Some(late()), |world| {
            world.attach(&step.volume, &step.instance);
        });
        out.sees("device in use", Luck::Bad, Evidence::DeviceInUse);
        out.sees("refused", Luck::Person, refused());
    }
    out.sees("late", Luck::Person, late());
}

fn adopt(out: &mut Outcomes<'_>, step: &AdoptRoot) {
    let AdoptRoot { instance, volume, .. } = step;
    if is_gone(out, instance) {
        return;
    }
    if out.world.disk(volume).is_none() {
        out.sees("missed", Luck::Good, missing(volume));
        return;
    }
    let refuses = |code: &str| Evidence::AdoptRefused { code: code.into(), message: "ended so".into() };
    match out.world.instances[instance].task.as_ref().map(|task| task.state) {
        Some(TaskState::InProgress) => {}
        Some(TaskState::Succeeded) => out.sees("adopted", Luck::Good, Evidence::Adopted { task: None }),
        Some(TaskState::Failed) => out.sees("failed", Luck::Good, refuses("failed")),
        Some(TaskState::FailedDetached) => {
            out.sees("failed, detached", Luck::Good, refuses("failed-detached"));
        }
        None => {
            if out.world.is_free(volume) {
                out.does("task begins", Luck::Good, None, |world| {
                    if let Some(machine) = world.instances.get_mut(instance) {
                        machine.task = Some(Task { volume: volume.clone(), state: TaskState::InProgress });
                    }
                });
            }
            out.sees("refused", Luck::Bad, refuses("UnsupportedOperation"));
        }
    }
    out.sees("late", Luck::Bad, late());
}

/// What a step makes is made once.
fn makes<I: Ord + Clone>(known: &BTreeMap<I, impl Sized>, id: &I) -> bool {
    !known.contains_key(id)
}

fn clone_root(out: &mut Outcomes<'_>, step: &CloneRoot) {
    let id = VolumeId::parse(&format!("vol-{}", suffix(&step.tags))).unwrap();
    let made = Evidence::VolumeCreated { volume: id.clone(), found: false };
    if !makes(&out.world.volumes, &id) {
        out.sees("made before", Luck::Good, made);
        return;
    }
    let Some(of) = out.world.disk(&step.volume).cloned() else {
        out.sees("missed", Luck::Good, missing(&step.volume));
        return;
    };
    let copy = Disk { on: None, is_kept: false, was_used: false, made_by: Some(made_by(&step.tags)), ..of };
    out.does("cloned", Luck::Good, Some(made), |world| {
        world.volumes.insert(id.clone(), copy.clone());
    });
    out.does("cloned, not seen in time", Luck::Bad, Some(late()), |world| {
        world.volumes.insert(id.clone(), copy.clone());
    });
    let (code, message) = ("UnsupportedOperation".into(), "no".into());
    out.sees("refused", Luck::Bad, Evidence::AdoptRefused { code, message });
}

fn create_volume(out: &mut Outcomes<'_>, step: &CreateVolume) {
    let id = VolumeId::parse(&format!("vol-{}", suffix(&step.tags))).unwrap();
    let made = Evidence::VolumeCreated { volume: id.clone(), found: false };
    if !makes(&out.world.volumes, &id) {
        out.sees("made before", Luck::Good, made);
        return;
    }
    let of = step.snapshot.as_ref().and_then(|snapshot| out.world.snapshots.get(snapshot));
    let disk = Disk {
        slot: Some(step.slot.clone()),
        on: None,
        content: of.map_or(0, |shot| shot.content),
        is_kept: false,
        was_used: false,
        gone: None,
        made_by: Some(made_by(&step.tags)),
    };
    out.does("made", Luck::Good, Some(made), |world| {
        world.volumes.insert(id.clone(), disk.clone());
    });
    out.does("made, not seen in time", Luck::Person, Some(late()), |world| {
        world.volumes.insert(id.clone(), disk.clone());
    });
    out.sees("refused", Luck::Person, refused());
}

/// The id of a step's snapshot, and the snapshot that is to be made.
fn shot(world: &World, volume: &VolumeId, tags: &TagMap) -> (SnapshotId, Option<Shot>) {
    let id = SnapshotId::parse(&format!("snap-{}", suffix(tags))).unwrap();
    let shot = world.disk(volume).map(|disk| Shot {
        volume: volume.clone(),
        content: disk.content,
        made_by: made_by(tags),
        is_gone: false,
    });
    (id, shot)
}

fn snapshot(out: &mut Outcomes<'_>, volume: &VolumeId, tags: &TagMap) {
    let (id, shot) = shot(out.world, volume, tags);
    let seen = Evidence::SnapshotCompleted { snapshot: id.clone(), size_gib: None };
    if !makes(&out.world.snapshots, &id) {
        out.sees("complete", Luck::Good, seen);
        out.sees("late", Luck::Person, late());
        return;
    }
    let Some(shot) = shot else {
        out.sees("missed", Luck::Good, missing(volume));
        return;
    };
    out.does("complete", Luck::Good, Some(seen), |world| {
        world.snapshots.insert(id.clone(), shot.clone());
    });
    out.does("late", Luck::Person, Some(late()), |world| {
        world.snapshots.insert(id.clone(), shot.clone());
    });
    out.sees("refused", Luck::Person, refused());
}

fn optional_snapshot(out: &mut Outcomes<'_>, volume: &VolumeId, tags: &TagMap) {
    let (id, shot) = shot(out.world, volume, tags);
    let taken = TakenSnapshot { snapshot: id.clone(), volume: volume.clone(), size_gib: None };
    let (snapshots, twins) = (vec![taken], Vec::new());
    let taken = Evidence::Backup(BackupEvidence::Taken { snapshots, taken_at_ms: 1, twins });
    let not_taken = |in_doubt| Evidence::Backup(BackupEvidence::NotTaken { because: "no".into(), in_doubt });
    if !makes(&out.world.snapshots, &id) {
        out.sees("taken before", Luck::Good, taken);
        return;
    }
    let is_free = out.world.disk(volume).is_some_and(|disk| disk.on.is_none());
    let Some(shot) = shot.filter(|_| is_free) else {
        out.sees("not taken", Luck::Good, not_taken(false));
        return;
    };
    out.does("taken", Luck::Good, Some(taken), |world| {
        world.snapshots.insert(id.clone(), shot.clone());
    });
    out.does("taken, in doubt", Luck::Bad, Some(not_taken(true)), |world| {
        world.snapshots.insert(id.clone(), shot.clone());
    });
    out.sees("not taken", Luck::Bad, not_taken(false));
}

fn register_image(out: &mut Outcomes<'_>, step: &RegisterImage) {
    let id = ImageId::parse(&format!("ami-{}", suffix(&step.tags))).unwrap();
    let seen = Evidence::ImageAvailable { image: id.clone(), differs: Vec::new() };
    let picture = Picture { snapshot: step.snapshot.clone(), made_by: made_by(&step.tags), is_gone: false };
    if !makes(&out.world.images, &id) {
        out.sees("made before", Luck::Good, seen);
        return;
    }
    out.does("available", Luck::Good, Some(seen), |world| {
        world.images.insert(id, picture);
    });
    out.sees("refused", Luck::Person, refused());
}

fn create_interface(out: &mut Outcomes<'_>, step: &CreateInterface) {
    let id = InterfaceId::parse(&format!("eni-{}", suffix(&step.tags))).unwrap();
    let private_ip = step.private_ip.unwrap_or(Ipv4Addr::new(10, 0, 0, 7));
    let seen = Evidence::InterfaceCreated { interface: id.clone(), private_ip };
    let plug = Plug { on: None, is_gone: false, made_by: Some(made_by(&step.tags)) };
    if !makes(&out.world.interfaces, &id) {
        out.sees("made before", Luck::Good, seen);
        return;
    }
    out.does("made", Luck::Good, Some(seen), |world| {
        world.interfaces.insert(id, plug);
    });
    out.sees("refused", Luck::Person, refused());
}

fn attach_interface(out: &mut Outcomes<'_>, step: &AttachInterface) {
    let AttachInterface { interface, instance, .. } = step;
    if is_gone(out, instance) {
        return;
    }
    let plug = out.world.interfaces.get(interface).filter(|plug| !plug.is_gone);
    match plug.map(|plug| plug.on.as_ref()) {
        None => out.sees("missed", Luck::Good, missing(interface)),
        Some(Some(on)) if on == instance => out.sees("attached", Luck::Good, Evidence::Attached),
        Some(Some(_)) => {}
        Some(None) => out.does("attached", Luck::Good, Some(Evidence::Attached), |world| {
            if let Some(plug) = world.interfaces.get_mut(interface) {
                plug.on = Some(instance.clone());
            }
        }),
    }
    out.sees("late", Luck::Person, late());
}

fn detach_interface(out: &mut Outcomes<'_>, step: &DetachInterface) {
    let DetachInterface { interface, instance } = step;
    let on = out.world.interfaces.get(interface).and_then(|plug| plug.on.clone());
    match on {
        None => out.sees("free", Luck::Good, Evidence::Released),
        Some(on) if on == *instance => {
            out.does("detached", Luck::Good, Some(Evidence::Released), |world| {
                if let Some(plug) = world.interfaces.get_mut(interface) {
                    plug.on = None;
                }
            });
            out.sees("busy", Luck::Bad, late());
        }
        Some(_) => out.sees("on another", Luck::Good, refused()),
    }
}

fn release_interface(out: &mut Outcomes<'_>, step: &ReleaseInterface) {
    match out.world.interfaces.get(&step.interface).filter(|plug| !plug.is_gone) {
        None => out.sees("missed", Luck::Good, missing(&step.interface)),
        Some(plug) if plug.on.is_none() => out.sees("free", Luck::Good, Evidence::Released),
        Some(_) => out.sees("late", Luck::Person, late()),
    }
}

fn move_address(out: &mut Outcomes<'_>, op: &Operation, step: &MoveAddress) {
    if is_gone(out, &step.instance) {
        return;
    }
    let address = step.address.or(op.facts.network.address).unwrap_or(Ipv4Addr::new(10, 0, 0, 8));
    out.does("moved", Luck::Good, Some(Evidence::Moved { address }), |world| {
        world.address_on = Some(step.instance.clone());
    });
    out.sees("late", Luck::Person, late());
}

fn verify(out: &mut Outcomes<'_>, step: &Verify) {
    if is_gone(out, &step.instance) {
        return;
    }
    let here = step.volumes.values().all(|volume| out.world.holds(&step.instance, volume));
    if here {
        out.sees("verified", Luck::Good, Evidence::Verified);
    }
    out.sees("late", Luck::Person, late());
}

fn delete_volume(out: &mut Outcomes<'_>, step: &DeleteVolume) {
    match out.world.disk(&step.volume) {
        None => out.sees("gone", Luck::Good, Evidence::Deleted),
        Some(disk) if disk.on.is_none() => {
            out.does("deleted", Luck::Good, Some(Evidence::Deleted), |world| {
                world.delete(&step.volume, Gone::Deleted);
            });
        }
        Some(_) => {}
    }
    out.sees("late", Luck::Bad, late());
}

fn deletes(out: &mut Outcomes<'_>, deed: impl FnOnce(&mut World)) {
    out.does("deleted", Luck::Good, Some(Evidence::Deleted), deed);
    out.sees("late", Luck::Bad, late());
}

/// What carries the tags of the step is found.
fn find(out: &mut Outcomes<'_>, step: &Find) {
    let of = made_by(&step.tags);
    let world = out.world;
    let mut kept = Vec::new();
    let resources: Vec<Resource> = match step.kind {
        ResourceKind::Instance => {
            let id = InstanceId::parse(&format!("i-{}", suffix(&step.tags))).unwrap();
            let lives = world.instances.get(&id).is_some_and(|machine| machine.phase == Phase::Running);
            lives.then_some(Resource::Instance { instance: id, spot_request: None }).into_iter().collect()
        }
        ResourceKind::Volume => {
            let made = world
                .volumes
                .iter()
                .filter(|(_, disk)| disk.made_by.as_ref() == Some(&of) && disk.gone.is_none());
            let (old, young): (Vec<_>, Vec<_>) = made.partition(|(_, disk)| disk.was_used);
            kept = old.into_iter().map(|(volume, _)| volume.clone()).collect();
            young.into_iter().map(|(volume, _)| Resource::from(volume)).collect()
        }
        ResourceKind::Interface => {
            let made = world
                .interfaces
                .iter()
                .filter(|(_, plug)| plug.made_by.as_ref() == Some(&of) && !plug.is_gone);
            made.map(|(interface, _)| Resource::Interface { interface: interface.clone() }).collect()
        }
        ResourceKind::Snapshot => {
            let made = world.snapshots.iter().filter(|(_, shot)| shot.made_by == of && !shot.is_gone);
            made.map(|(snapshot, _)| Resource::from(snapshot)).collect()
        }
        ResourceKind::Image => {
            let made = world.images.iter().filter(|(_, picture)| picture.made_by == of && !picture.is_gone);
            made.map(|(image, _)| Resource::from(image)).collect()
        }
    };
    out.sees("found", Luck::Good, Evidence::Found { resources, kept });
}
