//! The abstract world: instances, volumes with DeleteOnTermination, snapshots, images, one interface. It has
//! no time. What EC2 does by itself, and what hands do, are transitions; every call of a worker is one.

use std::collections::BTreeMap;
use std::fmt;

use perennial_workflows::model::aws::{ImageId, InstanceId, InterfaceId, SnapshotId, VolumeId};
use perennial_workflows::model::resources::Resources;
use perennial_workflows::model::volume::Slot;

/// Which value DeleteOnTermination has for a root that a replacement task has put in place. EC2 documents it
/// only for a root made from a snapshot or an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootFlag {
    /// That of the root before it.
    Inherit,
    /// True.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Running,
    ShuttingDown,
    Terminated,
}

/// A root-replacement task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub volume: VolumeId,
    pub state: TaskState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    InProgress,
    Succeeded,
    Failed,
    FailedDetached,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub phase: Phase,
    /// The client token of its launch; none for the first carrier.
    pub launched_by: Option<String>,
    pub task: Option<Task>,
    pub is_warned: bool,
    /// Whether it ends by another call than ours.
    pub was_taken: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub instance: InstanceId,
    pub dies: bool,
    pub is_root: bool,
    /// A detach was asked for, and the operating system still holds on.
    pub is_leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its place in the node, if it has the content of one.
    pub slot: Option<Slot>,
    pub on: Option<Attachment>,
    /// What was last written to it, of all writes to the slot.
    pub content: u32,
    /// Whether it has what must not be lost.
    pub is_kept: bool,
    /// Whether it was ever attached.
    pub was_used: bool,
    /// How it was deleted.
    pub gone: Option<Gone>,
    /// The step that made it.
    pub made_by: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// DeleteVolume, by a step.
    Deleted,
    /// Outside Perennial.
    ByHand,
    /// With its instance.
    Terminated,
}

/// Why a volume could not be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excuse {
    /// It was deleted by hand.
    Hand,
    /// EC2 took its instance between the end of the adoption and the moment in which a worker sees that, where
    /// the adoption sets DeleteOnTermination.
    Window,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    pub volume: VolumeId,
    pub content: u32,
    pub made_by: String,
    pub is_gone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub snapshot: SnapshotId,
    pub made_by: String,
    pub is_gone: bool,
}

/// The node's own interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    pub on: Option<InstanceId>,
    pub is_gone: bool,
    pub made_by: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct World {
    pub root_flag: RootFlag,
    pub instances: BTreeMap<InstanceId, Machine>,
    pub volumes: BTreeMap<VolumeId, Disk>,
    pub snapshots: BTreeMap<SnapshotId, Shot>,
    pub images: BTreeMap<ImageId, Picture>,
    pub interfaces: BTreeMap<InterfaceId, Plug>,
    /// The instance whose primary interface has the node's moving address.
    pub address_on: Option<InstanceId>,
    /// The newest write to each slot.
    pub newest: BTreeMap<Slot, u32>,
    /// Volumes that no operation could have saved.
    pub excused: BTreeMap<VolumeId, Excuse>,
    /// What no law allows.
    pub broken: Option<String>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}",
            self.instances,
            self.volumes,
            self.snapshots,
            self.images,
            self.interfaces,
            self.address_on,
            self.newest,
            self.excused,
            self.broken
        )
    }
}

impl World {
    /// As an operation finds it that begins with these resources.
    pub fn of(before: &Resources, root_flag: RootFlag) -> Self {
        let carrier = before.carrier.as_ref().map(|carrier| carrier.instance.clone());
        let machine = Machine {
            phase: Phase::Running,
            launched_by: None,
            task: None,
            is_warned: false,
            was_taken: false,
        };
        let disk = |slot: &Slot| Disk {
            slot: Some(slot.clone()),
            on: carrier.clone().map(|instance| Attachment {
                instance,
                dies: false,
                is_root: *slot == Slot::Root,
                is_leaving: false,
            }),
            content: 1,
            is_kept: true,
            was_used: true,
            gone: None,
            made_by: None,
        };
        let volumes = before.volumes.iter().map(|(slot, held)| (held.volume.clone(), disk(slot)));
        let plug = || Plug { on: carrier.clone(), is_gone: false, made_by: None };
        let interfaces = before.interface.iter().map(|held| (held.interface.clone(), plug()));
        Self {
            root_flag,
            volumes: volumes.collect(),
            interfaces: interfaces.collect(),
            snapshots: BTreeMap::new(),
            images: BTreeMap::new(),
            address_on: carrier.clone().filter(|_| before.interface.is_none() && before.address.is_some()),
            newest: before.volumes.keys().map(|slot| (slot.clone(), 1)).collect(),
            instances: carrier.into_iter().map(|instance| (instance, machine.clone())).collect(),
            excused: BTreeMap::new(),
            broken: None,
        }
    }

    pub fn runs(&self, instance: &InstanceId) -> bool {
        self.instances.get(instance).is_some_and(|machine| machine.phase == Phase::Running)
    }

    /// A volume that exists.
    pub fn disk(&self, volume: &VolumeId) -> Option<&Disk> {
        self.volumes.get(volume).filter(|disk| disk.gone.is_none())
    }

    pub fn is_free(&self, volume: &VolumeId) -> bool {
        self.disk(volume).is_some_and(|disk| disk.on.is_none()) && !self.is_being_adopted(volume)
    }

    fn is_being_adopted(&self, volume: &VolumeId) -> bool {
        let tasks = self.instances.values().filter_map(|machine| machine.task.as_ref());
        tasks.into_iter().any(|task| task.volume == *volume && task.state == TaskState::InProgress)
    }

    pub fn holds(&self, instance: &InstanceId, volume: &VolumeId) -> bool {
        self.disk(volume)
            .is_some_and(|disk| disk.on.as_ref().is_some_and(|on| on.instance == *instance && !on.is_leaving))
    }

    pub fn on<'a>(&'a self, instance: &'a InstanceId) -> impl Iterator<Item = (&'a VolumeId, &'a Disk)> {
        self.volumes.iter().filter(move |(_, disk)| {
            disk.gone.is_none() && disk.on.as_ref().is_some_and(|on| on.instance == *instance)
        })
    }

    /// A violated law, at most one is remembered: the first.
    pub fn breaks(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    /// An instance with this volume may write to it.
    fn writes(&mut self, volume: &VolumeId) {
        let Some(disk) = self.volumes.get_mut(volume) else { return };
        disk.was_used = true;
        let Some(slot) = disk.slot.clone() else { return };
        let newest = self.newest.entry(slot).or_insert(0);
        *newest += 1;
        disk.content = *newest;
        disk.is_kept = true;
    }

    pub fn attach(&mut self, volume: &VolumeId, instance: &InstanceId) {
        if let Some(disk) = self.volumes.get_mut(volume) {
            disk.on = Some(Attachment {
                instance: instance.clone(),
                dies: false,
                is_root: false,
                is_leaving: false,
            });
        }
        self.writes(volume);
    }

    /// Deletes a volume.
    pub fn delete(&mut self, volume: &VolumeId, how: Gone) {
        if let Some(disk) = self.volumes.get_mut(volume) {
            disk.gone = Some(how);
            disk.on = None;
        }
        if how == Gone::ByHand {
            self.excused.insert(volume.clone(), Excuse::Hand);
        }
    }

    /// The instance begins to end; what dies with it is decided now.
    pub fn shuts_down(&mut self, instance: &InstanceId) {
        if let Some(machine) = self.instances.get_mut(instance) {
            machine.phase = Phase::ShuttingDown;
        }
    }

    /// TerminateInstances, by a step.
    pub fn terminate(&mut self, instance: &InstanceId) {
        let dies = |disk: &Disk| disk.is_kept && disk.on.as_ref().is_some_and(|on| on.dies);
        let lost = self.on(instance).find(|(_, disk)| dies(disk)).map(|(volume, _)| volume.clone());
        if let Some(volume) = lost {
            self.breaks(format!("{instance} is terminated by us, and {volume} dies with it"));
        }
        self.shuts_down(instance);
    }

    /// EC2, or a hand, takes a running instance.
    pub fn taken(&mut self, instance: &InstanceId) {
        let dies = |disk: &Disk| disk.is_kept && disk.on.as_ref().is_some_and(|on| on.dies);
        let dying: Vec<VolumeId> =
            self.on(instance).filter(|(_, disk)| dies(disk)).map(|(volume, _)| volume.clone()).collect();
        for volume in dying {
            let adopted = self.instances[instance]
                .task
                .as_ref()
                .is_some_and(|task| task.volume == volume && task.state == TaskState::Succeeded);
            if adopted && self.root_flag == RootFlag::Delete {
                self.excused.insert(volume, Excuse::Window);
            } else {
                self.breaks(format!("EC2 takes {instance}, and {volume} dies with it, which was avoidable"));
            }
        }
        self.shuts_down(instance);
        if let Some(machine) = self.instances.get_mut(instance) {
            machine.was_taken = true;
        }
    }

    /// It is over: what it had is deleted or free.
    pub fn is_over(&mut self, instance: &InstanceId) {
        let on: Vec<(VolumeId, bool)> = self
            .on(instance)
            .map(|(volume, disk)| (volume.clone(), disk.on.as_ref().is_some_and(|on| on.dies)))
            .collect();
        for (volume, dies) in on {
            if dies {
                self.delete(&volume, Gone::Terminated);
            } else if let Some(disk) = self.volumes.get_mut(&volume) {
                disk.on = None;
            }
        }
        for plug in self.interfaces.values_mut().filter(|plug| plug.on.as_ref() == Some(instance)) {
            plug.on = None;
        }
        if self.address_on.as_ref() == Some(instance) {
            self.address_on = None;
        }
        if let Some(machine) = self.instances.get_mut(instance) {
            machine.phase = Phase::Terminated;
            if let Some(task) = machine.task.as_mut().filter(|task| task.state == TaskState::InProgress) {
                task.state = TaskState::Failed;
            }
        }
    }

    /// The replacement task of an instance ends.
    pub fn task_ends(&mut self, instance: &InstanceId, state: TaskState) {
        let Some(task) = self.instances.get_mut(instance).and_then(|machine| machine.task.as_mut()) else {
            return;
        };
        task.state = state;
        let volume = task.volume.clone();
        if state == TaskState::Failed {
            return;
        }
        let is_root = |disk: &Disk| disk.on.as_ref().is_some_and(|on| on.is_root);
        let replaced = self.on(instance).find(|(_, disk)| is_root(disk)).map(|(root, _)| root.clone());
        let mut dies = true;
        if let Some(root) = replaced.and_then(|root| self.volumes.get_mut(&root)) {
            dies = root.on.take().is_some_and(|on| on.dies);
        }
        if state != TaskState::Succeeded {
            return;
        }
        let dies = dies || self.root_flag == RootFlag::Delete;
        if let Some(disk) = self.volumes.get_mut(&volume) {
            disk.on = Some(Attachment { instance: instance.clone(), dies, is_root: true, is_leaving: false });
        }
        self.writes(&volume);
    }

    /// Two running instances that have a volume of the same place each.
    pub fn twice_in_service(&self) -> Option<String> {
        let mut holders: BTreeMap<&Slot, &InstanceId> = BTreeMap::new();
        for disk in self.volumes.values().filter(|disk| disk.gone.is_none() && disk.content > 0) {
            let (Some(slot), Some(on)) = (&disk.slot, &disk.on) else { continue };
            if !self.runs(&on.instance) {
                continue;
            }
            if let Some(other) = holders.insert(slot, &on.instance)
                && *other != on.instance
            {
                return Some(format!("{other} and {} both run with {slot}", on.instance));
            }
        }
        None
    }
}
