//! What an operation cost the node's state: where the content of each volume comes from, and what is missing in it.
//!
//! | way | what is lost |
//! | --- | --- |
//! | the very same volume | nothing |
//! | a clone of it, made after its instance was gone | nothing that reached the volume |
//! | a final snapshot, taken of the volume after its instance was gone | nothing that reached the volume |
//! | a backup | what was written after its moment |
//! | anew | everything; the old volume, where there is one, is retained |
//!
//! It is recorded with the operation's end ([`Resources::origins`](crate::node::Resources::origins)), from what was observed: which
//! volume is there, and which snapshot it was made from.
//!
//! # When the root volume is lost
//! A volume that was seen to be lost leaves the operation stuck. For the root `persist.root_loss` says what follows:
//!
//! | `root_loss` | what follows |
//! | --- | --- |
//! | `newest_backup` | the root comes back from the newest complete backup of itself, as soon as none is under way; without one a person decides |
//! | `stuck` | a person decides |
//!
//! The decision is made where the backups are looked after ([`errand`](crate::backup::errand)): book and operation are read and written in one
//! append, so the backup that was chosen is there. What was left behind does not come back so: after a reimage, a restore or a deletion the
//! backups from before are a person's to choose ([`RootBegan`](crate::node::RootBegan)). Only the root is taken from it; data volumes stay as they are. A data volume
//! that is lost is left to a person: whether it may be older than the others is a question of what is in it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{SnapshotId, VolumeId};
use crate::backup::{Backup, BackupId, Book};
use crate::node::{Node, OperationKind};
use crate::operation::{Candidate, Operation, Restore, RootRung, Status, VolumeFact};
use crate::spec::{NodeSpec, RootMode};
use crate::steps::{Evidence, Intent, Slot};

/// What follows when the root volume does not exist any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootLoss {
    /// The root comes back from the newest complete backup, if there is one; what was written after it is lost.
    #[default]
    NewestBackup,
    /// The workflow is stuck until a person decides.
    Stuck,
}

/// Where the content of a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It is the very same volume: nothing is lost.
    SameVolume,
    /// A clone, made after the volume's instance was gone: nothing that reached the volume is lost.
    Clone {
        /// Of which volume.
        of: VolumeId,
    },
    /// A snapshot that was taken after the volume's instance was gone: nothing that reached the volume is lost.
    FinalSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// A backup: what was written after its moment is lost.
    Backup {
        /// Which.
        backup: BackupId,
        /// Of which moment, in milliseconds since the Unix epoch.
        taken_at_ms: u64,
        /// Nothing was written after this, because the instance was seen to be over, or there was none.
        until_ms: u64,
    },
    /// It began anew: all earlier content is lost to the node.
    Anew,
}

impl Origin {
    /// How much time's writes are lost at most, in milliseconds; `None` for all of them.
    #[must_use]
    pub const fn loss_ms(&self) -> Option<u64> {
        match self {
            Self::SameVolume | Self::Clone { .. } | Self::FinalSnapshot { .. } => Some(0),
            Self::Backup { taken_at_ms, until_ms, .. } => Some(until_ms.saturating_sub(*taken_at_ms)),
            Self::Anew => None,
        }
    }

    /// Whether something is lost.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.loss_ms() != Some(0)
    }
}

/// Where the content of the volumes on a new instance comes from. A volume that is new to the node has no origin.
pub(crate) fn origins(op: &Operation, candidate: &Candidate) -> BTreeMap<Slot, Origin> {
    let data = op.facts.volumes.iter().filter(|(slot, _)| **slot != Slot::Root);
    let data = data.filter_map(|(slot, fact)| Some((slot.clone(), of_data(op, slot, fact)?)));
    let root = of_root(op, candidate).map(|origin| (Slot::Root, origin));
    data.chain(root).collect()
}

/// Of the data volumes that are others than before, where an operation ended without an instance.
pub(crate) fn changed(op: &Operation) -> BTreeMap<Slot, Origin> {
    let data = op.facts.volumes.iter().filter(|(slot, fact)| **slot != Slot::Root && fact.id.is_some());
    let origins = data.filter_map(|(slot, fact)| Some((slot.clone(), of_data(op, slot, fact)?)));
    origins.filter(|(_, origin)| *origin != Origin::SameVolume).collect()
}

fn of_root(op: &Operation, candidate: &Candidate) -> Option<Origin> {
    if !op.keeps_root() {
        return None;
    }
    let was_there = op.order.before.volumes.contains_key(&Slot::Root);
    match op.rung_of(&candidate.pool) {
        RootRung::Adopt => Some(Origin::SameVolume),
        RootRung::Clone => op.facts.cloned_from.clone().map(|of| Origin::Clone { of }),
        RootRung::Image => of_backup(op, &Slot::Root).or_else(|| {
            let snapshot = op.facts.root_snapshot.clone()?;
            Some(Origin::FinalSnapshot { snapshot })
        }),
        RootRung::Fresh => was_there.then_some(Origin::Anew),
    }
}

fn of_data(op: &Operation, slot: &Slot, fact: &VolumeFact) -> Option<Origin> {
    let before = op.order.before.volumes.get(slot);
    if before.is_some_and(|held| Some(&held.volume) == fact.id.as_ref()) {
        return Some(Origin::SameVolume);
    }
    let copied = || fact.made_from.clone().map(|snapshot| Origin::FinalSnapshot { snapshot });
    of_backup(op, slot).or_else(copied).or_else(|| before.map(|_| Origin::Anew))
}

fn of_backup(op: &Operation, slot: &Slot) -> Option<Origin> {
    let (backup, taken_at_ms) = op.facts.restored.get(slot)?.clone();
    Some(Origin::Backup { backup, taken_at_ms, until_ms: written_until_ms(op) })
}

/// Since when the instance that carried the node has surely written nothing more: when it was seen to be over.
fn written_until_ms(op: &Operation) -> u64 {
    let old = op.old().map(|old| &old.instance);
    let fenced = op.steps.values().filter_map(|record| match (record.intent.as_ref(), &record.outcome) {
        (Intent::Fence { instance, .. }, Some((Evidence::Fenced { .. }, at_ms))) if Some(instance) == old => {
            Some(*at_ms)
        }
        _ => None,
    });
    fenced.min().unwrap_or(op.started_at_ms)
}

/// Which backup each of these volumes comes back from.
pub(crate) fn from_backup(restore: &Restore) -> impl Iterator<Item = (Slot, (BackupId, u64))> + '_ {
    let of = (restore.backup.clone(), restore.taken_at_ms);
    restore.snapshots.keys().map(move |slot| (slot.clone(), of.clone()))
}

/// The volume whose loss a step can find out.
pub(crate) const fn looks_at(intent: &Intent) -> Option<&Slot> {
    match intent {
        Intent::Release { slot, .. } | Intent::Attach { slot, .. } | Intent::SnapshotVolume { slot, .. } => {
            Some(slot)
        }
        Intent::SnapshotRoot { .. } | Intent::CloneRoot { .. } => Some(&Slot::Root),
        _ => None,
    }
}

/// What is said to a person whose volume is lost, before what they can do.
pub(crate) fn goes_on_by_itself(op: &Operation, intent: &Intent) -> &'static str {
    if looks_at(intent) == Some(&Slot::Root) && may_come_back(op, &op.order.spec) {
        "a complete backup, which it goes on from by itself; without one: "
    } else {
        ""
    }
}

/// Whether an operation takes the root from a backup without being asked.
fn may_come_back(op: &Operation, spec: &NodeSpec) -> bool {
    let brings =
        matches!(op.order.kind, OperationKind::Provision | OperationKind::Replace | OperationKind::Resume);
    brings && !op.gives_up() && spec.persist.root_loss() == RootLoss::NewestBackup
}

/// The backup that the lost root of a stuck operation comes back from by itself.
pub(crate) fn rescue<'a>(node: &Node, last: Option<&Operation>, book: &'a Book) -> Option<&'a Backup> {
    let op = last.filter(|op| node.open.as_ref().is_some_and(|(open, _)| *open == op.id))?;
    let is_stuck = matches!(op.status, Status::Stuck { .. });
    // What was given up already is not given up again.
    let is_held = op.facts.volumes.get(&Slot::Root).is_some_and(|fact| fact.id.is_some());
    let spec = node.spec.as_ref()?;
    if !is_stuck || !is_held || !may_come_back(op, spec) || !op.lost().contains(&Slot::Root) {
        return None;
    }
    // The one under way is the newest, and prunes another when it is complete.
    if book.known.under_way().is_some() {
        return None;
    }
    let mut with_root =
        book.known.complete().rev().filter(|backup| backup.snapshots.contains_key(&Slot::Root));
    // Who asked for a backup gets that one.
    if let Some(asked) = op.order.restore.as_ref().filter(|asked| asked.snapshots.contains_key(&Slot::Root)) {
        return with_root.find(|backup| backup.order.number == asked.backup.number());
    }
    with_root.find(|backup| node.root_began.as_ref().is_none_or(|began| began.is_of(backup)))
}

/// Checks what a file says of it.
///
/// # Errors
/// The field, and what to do.
pub(crate) fn check(spec: &NodeSpec) -> Result<(), (&'static str, String)> {
    if spec.persist.root == RootMode::None && spec.persist.root_loss.is_some() {
        let why = "the root is not kept (`persist.root: none`), so none is lost; remove the field";
        return Err(("persist.root_loss", why.to_owned()));
    }
    Ok(())
}
