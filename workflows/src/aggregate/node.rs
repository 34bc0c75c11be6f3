//! The node: a durable identity, carried by one instance after the other.
//!
//! Its stream is short and is the replacement history: registered, operation started, operation finished with
//! the generation and the resources. The start and the end of an operation are one atomic append to the
//! node's stream and to the operation's stream. This append is also the lock: a node has at most one open
//! operation.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_engine::domain::{Illegal, Stamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::backup_catalog::{Backup, BackupCause};
use crate::model::aws::{InstanceId, SubnetId, VolumeId};
use crate::model::backup_id::BackupId;
use crate::model::operation_id::{OperationId, OperationKind, Outcome};
use crate::model::resources::{RecoveryPoint, Resources, Retained};
use crate::model::signal::{Cause, Signal};
use crate::model::volume::{Slot, UNMANAGED_VOLUMES_MAX};
use crate::spec::checks::Present;
use crate::spec::node::NodeSpec;

/// How long the sweep does not adopt a volume after its adoption was cancelled. The time is long enough to
/// detach the volume or to apply another file. It is short enough that a forgotten volume is not lost with
/// the next instance.
pub const SNOOZE_MS: u64 = 3_600_000;

/// Volumes whose adoption was cancelled. Without this record the next sweep would adopt them again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snoozed {
    /// The volumes that the open `adopt_volumes` operation adopts.
    taking: Vec<VolumeId>,
    /// The time until which each volume is not adopted. There are no more of them than an instance holds.
    until_ms: BTreeMap<VolumeId, u64>,
}

impl Snoozed {
    /// An operation began.
    pub(crate) fn begins(&mut self, cause: &Cause) {
        self.taking = match cause {
            Cause::Found { volumes, .. } => volumes.clone(),
            Cause::Request { .. }
            | Cause::Signal { .. }
            | Cause::ReturnToSpot { .. }
            | Cause::FileChanged { .. }
            | Cause::RetainedLonger { .. } => Vec::new(),
        };
    }

    /// The operation ended.
    pub(crate) fn ends(&mut self, outcome: Outcome, at_ms: u64) {
        let taking = std::mem::take(&mut self.taking);
        self.until_ms.retain(|_, until_ms| *until_ms > at_ms);
        if outcome == Outcome::Cancelled {
            let new = taking.into_iter().take(UNMANAGED_VOLUMES_MAX.saturating_sub(self.until_ms.len()));
            self.until_ms.extend(new.map(|volume| (volume, at_ms + SNOOZE_MS)));
        }
    }

    /// The operator applied a file: the volumes may be adopted again.
    pub(crate) fn forget(&mut self) {
        self.until_ms.clear();
    }

    pub(crate) fn holds(&self, volume: &VolumeId, now_ms: u64) -> bool {
        self.until_ms.get(volume).is_some_and(|until_ms| now_ms < *until_ms)
    }
}

/// How many past instances a node remembers. A late event about one of them is recognised as late.
pub const PAST_INSTANCES_MAX: usize = 32;

/// How many operations with final snapshots a node remembers. The node's backup catalog lists their snapshots
/// seconds later, and no operation with final snapshots is shorter than that.
pub const FINALS_MAX: usize = 32;

/// How many notes about its present instance a node remembers. The journal keeps all of them.
pub const NOTED_MAX: usize = 8;

/// What happened to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeEvent {
    /// The node was registered.
    Registered {
        /// The desired state.
        spec: NodeSpec,
        /// Who asked.
        requested_by: String,
    },
    /// The desired state has changed. The next operation works with it.
    SpecChanged {
        /// The new desired state.
        spec: NodeSpec,
        /// Who asked.
        requested_by: String,
        /// The addresses taken from the pools that the new file adds, by subnet. The addresses of pools that
        /// it no longer names are given back.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
    },
    /// An operation holds the node.
    OperationStarted {
        /// Its id.
        operation: OperationId,
        /// Its kind.
        kind: OperationKind,
        /// The reason for it.
        cause: Cause,
    },
    /// The operation is over; the node is free.
    OperationFinished {
        /// Its id.
        operation: OperationId,
        /// Its kind.
        kind: OperationKind,
        /// The node's generation from now on: the number of instances that have carried it.
        generation: u64,
        /// The resources of the node from now on.
        resources: Resources,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Outcome::is_completed")]
        outcome: Outcome,
        /// Whether it has taken final snapshots, or tried to. The node's backup catalog takes them over.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        finals: bool,
        /// The file that its last instance was launched by, if that is not the node's file at its end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        launched_by: Option<Box<NodeSpec>>,
    },
    /// A signal was received that starts no operation.
    SignalNoted {
        /// The signal.
        signal: Signal,
        /// Why it starts no operation.
        because: String,
    },
    /// The account has resources of the node that the journal cannot know: the journal is behind the world.
    /// Nothing is launched, moved or deleted for the node until it is adopted, or those resources are gone.
    FellBehind {
        /// The resources, in words.
        newer: Vec<String>,
    },
    /// The journal knows everything of the node again.
    CaughtUp {},
    /// The operator brought the journal up to the world: the node is as it was seen in the account.
    Adopted {
        /// Its generation.
        generation: u64,
        /// The number of its newest operation in the world; the next one follows it.
        operations: u64,
        /// Its resources.
        resources: Resources,
        /// The operator.
        requested_by: String,
    },
    /// The node's backup catalog was told of what it has to know of the node: its schedule, its final
    /// snapshots, its deletion. Nothing of the node has changed by that.
    BackupsReconciled {},
    /// A volume that had been found on the instance was detached by hand: it is given back.
    VolumeLeft {
        /// The slot it had.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// The instance that it was attached to.
        instance: InstanceId,
    },
}

/// A signal about the instance that carries a node, which started no operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// The signal.
    pub signal: Signal,
    /// Why it started no operation.
    pub because: String,
}

/// The state of a node: the fold of its events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// `None` before it is registered.
    pub spec: Option<NodeSpec>,
    /// Resources of it in the account that the journal cannot know; empty while there are none.
    pub newer: Vec<String>,
    /// Since when the account has such resources.
    pub behind_since_ms: u64,
    /// Who last changed its desired state.
    pub described_by: String,
    /// Whether it has been deleted. A node may be registered again under the same name.
    pub deleted: bool,
    /// The number of instances that have carried it.
    pub generation: u64,
    /// How many operations it has had.
    pub operations: u64,
    /// The operation that holds it.
    pub open: Option<(OperationId, OperationKind)>,
    /// Its resources; during an operation, those from before the operation.
    pub resources: Resources,
    /// Instances that carried it, newest last, at most [`PAST_INSTANCES_MAX`].
    pub past: Vec<InstanceId>,
    /// The signals about its present instance that started no operation: the newest of each kind, newest
    /// last, at most [`NOTED_MAX`].
    pub noted: Vec<Noted>,
    /// When its spec, generation or operation last changed.
    pub changed_at_ms: u64,
    /// When its present instance began to carry it.
    pub carried_since_ms: u64,
    /// When it last began a return to spot.
    pub returned_at_ms: Option<u64>,
    /// Volumes on its instance that it does not adopt for a while.
    pub snoozed: Snoozed,
    /// The operations that have taken final snapshots, newest last, at most [`FINALS_MAX`].
    pub finals: Vec<OperationId>,
    /// Whether its backup catalog has to be told of a change.
    pub catalog_is_behind: bool,
    /// Where the content of its present root begins. Backups from before that have the content of another
    /// root.
    pub root_began: Option<Box<RootBegan>>,
    /// The file that its last instance was launched by.
    pub good: Option<Box<NodeSpec>>,
    /// When it was last adopted as the account showed it, and by whom.
    pub adopted: Option<(u64, String)>,
}

/// Where the content of a node's root begins: the root was new, or was restored from a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootBegan {
    /// The operation that made the root.
    pub with: OperationId,
    /// The generation of the node at that time.
    pub generation: u64,
    /// The backup it was restored from; none for a new root.
    pub from: Option<BackupId>,
}

impl RootBegan {
    /// Whether a backup contains the same root, or is the backup that this root was restored from.
    #[must_use]
    pub fn is_of(&self, backup: &Backup) -> bool {
        let order = &backup.order;
        let is_later = match &order.cause {
            // A final backup contains the root from before its operation.
            BackupCause::Final { operation } => operation.number() > self.with.number(),
            BackupCause::Schedule | BackupCause::Asked { .. } => order.generation >= self.generation,
        };
        is_later || self.from == Some(BackupId::new(order.node.clone(), order.number))
    }

    /// The beginning of the root after an operation that brought the node onto an instance.
    fn after(
        known: Option<Box<Self>>,
        with: &OperationId,
        generation: u64,
        before: &Resources,
        after: &Resources,
    ) -> Option<Box<Self>> {
        let began = |from| Some(Box::new(Self { with: with.clone(), generation, from }));
        match after.recovery_points.get(&Slot::Root) {
            Some(RecoveryPoint::Anew) => began(None),
            Some(RecoveryPoint::Backup { backup, .. }) => began(Some(backup.clone())),
            Some(
                RecoveryPoint::SameVolume | RecoveryPoint::Clone { .. } | RecoveryPoint::FinalSnapshot { .. },
            ) => known,
            None if before.volumes.contains_key(&Slot::Root) => known,
            None => began(None),
        }
    }
}

impl Node {
    /// Whether there is a node to work with.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.spec.is_some() && !self.deleted
    }

    /// What of its present file has taken effect.
    #[must_use]
    pub fn present(&self) -> Present<'_> {
        Present {
            good: self.good.as_deref(),
            volumes: Some(&self.resources.volumes).filter(|_| self.open.is_none()),
        }
    }

    /// Whether it has no instance and no open operation.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.exists() && self.open.is_none() && self.resources.carrier.is_none()
    }

    /// Between two backups, in milliseconds, while it has an instance and its file asks for backups.
    #[must_use]
    pub fn backed_up_every_ms(&self) -> Option<u64> {
        let spec = self.spec.as_ref().filter(|_| self.exists() && self.resources.carrier.is_some())?;
        spec.backup.map(|backup| backup.every_ms())
    }

    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &NodeEvent) -> Result<Self, Illegal> {
        let at_ms = stamp.at_ms;
        let (every_ms, deleted) = (self.backed_up_every_ms(), self.deleted);
        let remembered = match event {
            NodeEvent::Registered { spec, requested_by } => self.on_registered(spec, requested_by, at_ms),
            NodeEvent::SpecChanged { spec, requested_by, addresses_elsewhere } => {
                self.on_spec_changed(spec, requested_by, addresses_elsewhere, at_ms)
            }
            NodeEvent::OperationStarted { operation, kind, cause } => {
                self.on_started(operation, *kind, cause, at_ms)
            }
            NodeEvent::OperationFinished {
                operation,
                kind,
                generation,
                resources,
                outcome,
                finals,
                launched_by,
            } => {
                let end = End {
                    operation,
                    kind: *kind,
                    generation: *generation,
                    resources,
                    outcome: *outcome,
                    finals: *finals,
                    launched_by: launched_by.as_deref(),
                };
                self.on_finished(&end, at_ms)
            }
            NodeEvent::SignalNoted { signal, because } => {
                self.on_noted(signal, because);
                Ok(())
            }
            NodeEvent::FellBehind { newer } => {
                if self.newer.is_empty() {
                    self.behind_since_ms = at_ms;
                }
                self.newer.clone_from(newer);
                Ok(())
            }
            NodeEvent::CaughtUp {} => {
                self.newer.clear();
                Ok(())
            }
            NodeEvent::Adopted { generation, operations, resources, requested_by } => {
                self.adopted = Some((at_ms, requested_by.clone()));
                self.on_adopted(*generation, *operations, resources, at_ms)
            }
            NodeEvent::BackupsReconciled {} => {
                self.catalog_is_behind = false;
                Ok(())
            }
            NodeEvent::VolumeLeft { slot, volume, .. } => self.on_volume_left(slot, volume, at_ms),
        };
        self.catalog_is_behind |= self.backed_up_every_ms() != every_ms || self.deleted && !deleted;
        match remembered {
            Ok(()) => Ok(self),
            Err(why) => Err(Illegal { seq: stamp.seq, why: why.to_owned() }),
        }
    }

    fn on_registered(&mut self, spec: &NodeSpec, requested_by: &str, at_ms: u64) -> Result<(), &'static str> {
        if self.exists() {
            return Err("the node is registered already");
        }
        // The resources that a deletion kept return with the name. Zone and image are looked up again.
        self.resources.placement = None;
        self.spec = Some(spec.clone());
        self.good = None;
        requested_by.clone_into(&mut self.described_by);
        self.deleted = false;
        self.changed_at_ms = at_ms;
        Ok(())
    }

    fn on_spec_changed(
        &mut self,
        spec: &NodeSpec,
        requested_by: &str,
        addresses_elsewhere: &BTreeMap<SubnetId, Ipv4Addr>,
        at_ms: u64,
    ) -> Result<(), &'static str> {
        if !self.exists() {
            return Err("the node is not registered");
        }
        if self.spec.as_ref().is_some_and(|old| !old.lives_like(spec)) {
            self.resources.placement = None;
        }
        self.snoozed.forget();
        if let Some(old) = &self.spec {
            self.resources.repool(old, spec, addresses_elsewhere);
        }
        self.spec = Some(spec.clone());
        requested_by.clone_into(&mut self.described_by);
        self.changed_at_ms = at_ms;
        Ok(())
    }

    fn on_started(
        &mut self,
        operation: &OperationId,
        kind: OperationKind,
        cause: &Cause,
        at_ms: u64,
    ) -> Result<(), &'static str> {
        if self.open.is_some() {
            return Err("another operation is open");
        }
        if operation.number() != self.operations + 1 {
            return Err("the operation's number does not follow the last one");
        }
        if let Cause::ReturnToSpot { .. } = cause {
            self.returned_at_ms = Some(at_ms);
        }
        self.snoozed.begins(cause);
        self.operations = operation.number();
        self.open = Some((operation.clone(), kind));
        self.changed_at_ms = at_ms;
        Ok(())
    }

    fn on_finished(&mut self, end: &End<'_>, at_ms: u64) -> Result<(), &'static str> {
        if self.open.as_ref().map(|(open, _)| open) != Some(end.operation) {
            return Err("this operation is not open");
        }
        self.on_carrier(end.resources, at_ms);
        self.snoozed.ends(end.outcome, at_ms);
        self.open = None;
        if end.finals {
            self.catalog_is_behind = true;
            self.finals.push(end.operation.clone());
            if self.finals.len() > FINALS_MAX {
                self.finals.remove(0);
            }
        }
        if end.outcome.is_completed()
            && let OperationKind::Provision | OperationKind::Replace | OperationKind::Resume = end.kind
        {
            self.good = end.launched_by.or(self.spec.as_ref()).cloned().map(Box::new);
            let (known, before) = (self.root_began.take(), &self.resources);
            self.root_began = RootBegan::after(known, end.operation, end.generation, before, end.resources);
        }
        self.generation = end.generation;
        let mut resources = end.resources.clone();
        date(&self.resources, &mut resources, at_ms);
        self.resources = resources;
        self.deleted = is_deleted_after(end.kind, end.outcome, self.deleted);
        self.changed_at_ms = at_ms;
        Ok(())
    }

    fn on_adopted(
        &mut self,
        generation: u64,
        operations: u64,
        resources: &Resources,
        at_ms: u64,
    ) -> Result<(), &'static str> {
        if self.open.is_some() {
            return Err("an operation is open");
        }
        if generation < self.generation || operations < self.operations {
            return Err("the world is older than the journal");
        }
        self.on_carrier(resources, at_ms);
        self.generation = generation;
        self.operations = operations;
        let mut resources = resources.clone();
        date(&self.resources, &mut resources, at_ms);
        self.resources = resources;
        self.deleted = false;
        self.newer.clear();
        self.changed_at_ms = at_ms;
        Ok(())
    }

    /// Remembers the instance that no longer carries the node, and when the present one began to carry it.
    fn on_carrier(&mut self, after: &Resources, at_ms: u64) {
        let instance = |resources: &Resources| resources.carrier.as_ref().map(|c| c.instance.clone());
        let (old, new) = (instance(&self.resources), instance(after));
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.past.push(old);
            if self.past.len() > PAST_INSTANCES_MAX {
                self.past.remove(0);
            }
            self.noted.clear();
        }
        self.carried_since_ms = at_ms;
        self.snoozed = Snoozed::default();
    }

    fn on_noted(&mut self, signal: &Signal, because: &str) {
        self.noted.retain(|noted| !noted.signal.is_of_the_kind_of(signal));
        self.noted.push(Noted { signal: signal.clone(), because: because.to_owned() });
        if self.noted.len() > NOTED_MAX {
            self.noted.remove(0);
        }
    }

    fn on_volume_left(&mut self, slot: &Slot, volume: &VolumeId, at_ms: u64) -> Result<(), &'static str> {
        let held = self.resources.volumes.get(slot).filter(|held| held.volume == *volume);
        let (None, Some(found)) = (&self.open, held.and_then(|held| held.found.clone())) else {
            return Err("the node has no such volume that was found, or an operation holds it");
        };
        let left = self.resources.volumes.remove(slot);
        // A copy was made for the node: it stays listed.
        if found.is_copy {
            let because = "it was detached by hand".to_owned();
            self.resources.retained.push(Retained {
                since_ms: Some(at_ms),
                size_gib: left.and_then(|held| held.size_gib),
                ..Retained::new(volume.clone(), slot.clone(), because)
            });
        }
        Ok(())
    }
}

/// The content of [`NodeEvent::OperationFinished`].
struct End<'a> {
    operation: &'a OperationId,
    kind: OperationKind,
    generation: u64,
    resources: &'a Resources,
    outcome: Outcome,
    finals: bool,
    launched_by: Option<&'a NodeSpec>,
}

/// Whether the node is deleted when an operation has ended like this.
fn is_deleted_after(kind: OperationKind, outcome: Outcome, deleted: bool) -> bool {
    match (kind, outcome) {
        (OperationKind::Delete, Outcome::Completed) | (OperationKind::Provision, Outcome::Cancelled) => true,
        // A deletion follows at once.
        (_, Outcome::Abandoned) => deleted,
        (
            OperationKind::Provision
            | OperationKind::Replace
            | OperationKind::Grow
            | OperationKind::Pause
            | OperationKind::Resume
            | OperationKind::AdoptVolumes
            | OperationKind::Prune,
            Outcome::Completed,
        )
        | (
            OperationKind::Replace
            | OperationKind::Delete
            | OperationKind::Grow
            | OperationKind::Pause
            | OperationKind::Resume
            | OperationKind::AdoptVolumes
            | OperationKind::Prune,
            Outcome::Cancelled,
        )
        | (_, Outcome::Paused) => false,
    }
}

impl Resources {
    /// Follows a change of the pools in the file: adds the addresses of new pools and removes those of pools
    /// that the file no longer names.
    pub(crate) fn repool(&mut self, old: &NodeSpec, new: &NodeSpec, taken: &BTreeMap<SubnetId, Ipv4Addr>) {
        self.addresses_elsewhere.retain(|subnet, _| old.pool_in(subnet) == new.pool_in(subnet));
        self.addresses_elsewhere.extend(taken.clone());
    }
}

/// Dates the volumes that are retained since the end of an operation, and notes their sizes where known.
pub(crate) fn date(before: &Resources, after: &mut Resources, at_ms: u64) {
    for old in &mut after.retained {
        let known = before.retained.iter().find(|known| known.volume == old.volume);
        let held = before.volumes.values().find(|held| held.volume == old.volume);
        old.since_ms = old.since_ms.or(known.and_then(|known| known.since_ms)).or(Some(at_ms));
        old.size_gib =
            old.size_gib.or(known.and_then(|known| known.size_gib)).or(held.and_then(|held| held.size_gib));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_one_spelling() {
        assert_eq!(OperationId::parse("db-1.30").unwrap().to_string(), "db-1.30");
        for wrong in
            ["db-1.+3", "db-1.03", "db-1.0", "db-1.", "db-1", ".3", "db-1.3 ", "db-1.99999999999999999999"]
        {
            assert!(OperationId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
