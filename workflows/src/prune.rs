//! # Prune: what a node retains is deleted, by id, while the node runs
//!
//! A volume that holds, or held, the node's data is deleted by no workflow that is for something else: where the content goes on in
//! another volume, the old one is *retained* ([`Retained`]). With `persist.root: image` or `persist.data: snapshot` every replacement
//! leaves one more. This is how they end: somebody asks (`node prune`), or the file says for how long they are kept
//! (`persist.retain_days`).
//!
//! | step | may start when | does | observed by | on failure | its repeat is safe because of |
//! | --- | --- | --- | --- | --- | --- |
//! | `delete_volume:v` | the order has it; one step each | DeleteVolume, after two looks a second apart at it and at the volume in its place | not found | it stays retained, with why and when (`undeleted`); the others go on | the id: "not found" is "done" |
//!
//! # What may be deleted
//! The order names each volume, with its age and why it may go ([`Condemned`]). It is chosen by what the journal knows:
//! - it is *retained* by this node, and by its age or its id it was asked for;
//! - it is not *foreign* (somebody else made it), no volume of the node's, and not named by the node file;
//! - another volume has its place, and an instance carries the node with it: what is the only one with the content of a place stays,
//!   as does everything while the node is paused or the workflow that made the new volume has not come to its end.
//!
//! And it is looked at before it goes, twice: free, with the tags of this node of this installation, and the volume in its place
//! attached to the instance. What is otherwise is refused for that volume, not for the others.
//!
//! # What it gives way to
//! Everything: it takes nothing from the node, begins only while nothing holds it, and ends at once when the instance is lost or another
//! workflow needs the node. What was being deleted then stays listed, though it may be gone: the next prune finds it so. It is
//! cancelled at any time; what is deleted stays deleted.
//!
//! # By itself
//! With `persist.retain_days` a loop (`workers/src/prunes.rs`) asks for what has been retained for longer ([`due`]), at the node's turn
//! within an hour. What could not be deleted is tried again a day later.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{InstanceId, VolumeId};
use crate::backup::{BackupEvidence, turn_after};
use crate::node::{Node, Resources, Retained};
use crate::operation::{Due, Operation};
use crate::spec::{NodeName, NodeSpec, RootMode, SpecError};
use crate::steps::{Evidence, Intent, Slot, TagMap};
use crate::submission::PruneParams;

/// For how long a volume is retained at least when nobody says which or for how long: past a weekend and a holiday, so that what is wrong
/// with the new one has been noticed.
pub const OLDER_THAN_S: u64 = 7 * 24 * 3_600;

/// How many volumes one prune deletes: the oldest first, the next prune takes more. A node that leaves two with each replacement has had
/// fifty of them, and all of their steps fit one append.
pub const PRUNED_MAX: usize = 100;

/// The most `persist.retain_days` says. Ten years are as good as none.
pub const RETAIN_DAYS_MAX: u32 = 3_650;

/// After how long the loop tries again what could not be deleted: what is attached or of another owner stays so until somebody comes.
pub const TRY_AGAIN_MS: u64 = 24 * 3_600_000;

/// Over how much time the prunes of a fleet are spread. It is little against a day.
pub const SPREAD_MS: u64 = 3_600_000;

const DAY_MS: u64 = 24 * 3_600_000;

/// A retained volume that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condemned {
    /// Which.
    pub volume: VolumeId,
    /// What it was.
    pub slot: Slot,
    /// Since when it is retained, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Its size, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// The volume that has its place.
    pub successor: VolumeId,
    /// Why it may be deleted.
    pub because: String,
}

/// What must be seen before a retained volume is deleted, beside that it is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Succession {
    /// The volume that has its place: attached to the instance.
    pub successor: VolumeId,
    /// The instance that carries the node.
    pub carrier: InstanceId,
    /// The tags it carries: those of this node of this owner.
    pub own: TagMap,
}

/// That a retained volume could not be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Undeleted {
    /// When that was known, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Why.
    pub because: String,
}

/// Dates what is retained since the end of an operation, and notes its size where it is known.
pub(crate) fn date(before: &Resources, after: &mut Resources, at_ms: u64) {
    for old in &mut after.retained {
        let known = before.retained.iter().find(|known| known.volume == old.volume);
        let held = before.volumes.values().find(|held| held.volume == old.volume);
        old.since_ms = old.since_ms.or(known.and_then(|known| known.since_ms)).or(Some(at_ms));
        old.size_gib =
            old.size_gib.or(known.and_then(|known| known.size_gib)).or(held.and_then(|held| held.size_gib));
    }
}

/// The size of a volume that an operation took a snapshot of.
pub(crate) fn size_seen(op: &Operation, volume: &VolumeId) -> Option<u32> {
    op.steps.values().find_map(|record| match (record.intent.as_ref(), record.outcome.as_ref()?) {
        (
            Intent::SnapshotRoot { volume: of, .. } | Intent::SnapshotVolume { volume: of, .. },
            (Evidence::SnapshotCompleted { size_gib, .. }, _),
        ) if of == volume => *size_gib,
        (_, (Evidence::Backup(BackupEvidence::Taken { snapshots, .. }), _)) => {
            snapshots.iter().find(|taken| taken.volume == *volume)?.size_gib
        }
        _ => None,
    })
}

/// Why a retained volume is not deleted, whatever its age; otherwise the volume that has its place.
///
/// # Errors
/// Why not, as a clause for people.
pub fn successor<'a>(node: &'a Node, old: &Retained) -> Result<&'a VolumeId, String> {
    let resources = &node.resources;
    if old.foreign {
        return Err("somebody else made it; if nobody needs it, delete it by hand".to_owned());
    }
    if let Some((slot, _)) = resources.volumes.iter().find(|(_, held)| held.volume == old.volume) {
        return Err(format!("it is the node's {slot} now"));
    }
    let named = node.spec.iter().flat_map(|spec| &spec.data_volumes);
    if let Some(wanted) = named.into_iter().find(|wanted| wanted.volume.as_ref() == Some(&old.volume)) {
        return Err(format!("the node file names it, as {}", wanted.name));
    }
    if resources.carrier.is_none() {
        return Err(
            "no instance carries the node, and only on one is seen whether what it has now is good; \
                    resume it first"
                .to_owned(),
        );
    }
    match resources.volumes.get(&old.slot) {
        Some(held) => Ok(&held.volume),
        None => Err(format!(
            "it is the only volume with what {} held; if nobody needs that, delete it by hand",
            old.slot
        )),
    }
}

/// How long a volume has been retained, in milliseconds.
#[must_use]
pub fn age_ms(old: &Retained, now_ms: u64) -> u64 {
    old.since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
}

/// What somebody's wish condemns, the oldest first and at most [`PRUNED_MAX`]; nothing, when nothing fits.
///
/// # Errors
/// Why a volume that was named is not deleted.
pub fn select(node: &Node, wish: &PruneParams, now_ms: u64) -> Result<Vec<Condemned>, String> {
    let retained = &node.resources.retained;
    if let Some(unknown) = wish.volumes.iter().find(|named| !retained.iter().any(|old| old.volume == **named))
    {
        let whose = match node.resources.volumes.iter().find(|(_, held)| held.volume == *unknown) {
            Some((slot, _)) => format!("it is the node's {slot}"),
            None => "see `perennial node show` for what is".to_owned(),
        };
        return Err(format!("params.volumes: {unknown} is not retained by the node; {whose}"));
    }
    let by_name = !wish.volumes.is_empty();
    let older_than_s = wish.older_than_s.unwrap_or(if by_name { 0 } else { OLDER_THAN_S });
    let kept = newest(node, wish.keep.unwrap_or(0));
    let mut condemned = Vec::new();
    for old in retained.iter().filter(|old| !by_name || wish.volumes.contains(&old.volume)) {
        let age_ms = age_ms(old, now_ms);
        let checked = successor(node, old).and_then(|successor| {
            if kept.contains(&&old.volume) {
                let keep = wish.keep.unwrap_or(0);
                return Err(format!("it is one of the {keep} newest of {} that are to be kept", old.slot));
            }
            if age_ms < older_than_s.saturating_mul(1_000) {
                let (has, least) = (length(age_ms), length(older_than_s.saturating_mul(1_000)));
                return Err(format!("it has been retained for {has}, less than {least}"));
            }
            Ok(successor)
        });
        match checked {
            Ok(successor) => {
                let why = match wish.older_than_s {
                    None if by_name => "named".to_owned(),
                    _ => format!("older than {}", length(older_than_s.saturating_mul(1_000))),
                };
                condemned.push(condemn(old, successor, &why, now_ms));
            }
            Err(why) if by_name => return Err(format!("params.volumes: {}: {why}", old.volume)),
            Err(_) => {}
        }
    }
    Ok(oldest(condemned))
}

/// What the file says is retained for too long, and is to be tried now.
#[must_use]
pub fn due(node: &Node, name: &NodeName, now_ms: u64) -> Vec<Condemned> {
    let days = node.spec.as_ref().and_then(|spec| spec.persist.retain_days);
    let Some(days) = days.filter(|_| node.exists() && node.open.is_none()) else { return Vec::new() };
    let is_due = |old: &&Retained| {
        let over_ms = old.since_ms.unwrap_or(now_ms).saturating_add(u64::from(days) * DAY_MS);
        let again_ms = old.undeleted.as_ref().map_or(0, |undeleted| undeleted.at_ms + TRY_AGAIN_MS);
        turn_after(name, SPREAD_MS, over_ms.max(again_ms)) <= now_ms
    };
    let condemned = node.resources.retained.iter().filter(is_due).filter_map(|old| {
        let successor = successor(node, old).ok()?;
        Some(condemn(old, successor, &format!("persist.retain_days is {days}"), now_ms))
    });
    oldest(condemned.collect())
}

fn condemn(old: &Retained, successor: &VolumeId, why: &str, now_ms: u64) -> Condemned {
    Condemned {
        volume: old.volume.clone(),
        slot: old.slot.clone(),
        since_ms: old.since_ms.unwrap_or(now_ms),
        size_gib: old.size_gib,
        successor: successor.clone(),
        because: format!("{why}; {} goes on as {successor}", old.slot),
    }
}

fn oldest(mut condemned: Vec<Condemned>) -> Vec<Condemned> {
    condemned.sort_by(|a, b| (a.since_ms, &a.volume).cmp(&(b.since_ms, &b.volume)));
    condemned.dedup_by(|a, b| a.volume == b.volume);
    condemned.truncate(PRUNED_MAX);
    condemned
}

/// The newest volumes of each slot that could be deleted.
fn newest(node: &Node, keep: u32) -> Vec<&VolumeId> {
    let mut by_slot: BTreeMap<&Slot, Vec<&Retained>> = BTreeMap::new();
    for old in node.resources.retained.iter().filter(|old| successor(node, old).is_ok()) {
        by_slot.entry(&old.slot).or_default().push(old);
    }
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let kept = by_slot.into_values().flat_map(|mut of_slot| {
        // Of those of one moment, the one that was listed last.
        of_slot.reverse();
        of_slot.sort_by_key(|old| std::cmp::Reverse(old.since_ms));
        of_slot.into_iter().take(keep)
    });
    kept.map(|old| &old.volume).collect()
}

/// A length of time as people say it, never longer than it is.
#[must_use]
pub fn length(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// What the history says of what is to be deleted.
pub(crate) fn in_words(condemned: &Condemned, at_ms: u64) -> String {
    let Condemned { volume, slot, since_ms, size_gib, because, .. } = condemned;
    let size = size_gib.map_or_else(String::new, |size_gib| format!(", {size_gib} GiB"));
    let age = length(at_ms.saturating_sub(*since_ms));
    format!("{volume} ({slot}{size}), retained for {age}, is to be deleted: {because}")
}

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let Some(carrier) = op.order.before.carrier.as_ref().filter(|_| op.facts.carried_over.is_none()) else {
        return Vec::new();
    };
    let left = op.order.prune.iter().filter(|condemned| op.is_to_clean(condemned.volume.as_str()));
    let due = left.map(|condemned| {
        Intent::DeleteVolume {
            volume: condemned.volume.clone(),
            role: format!("retained {}", condemned.slot),
            retained: Some(Succession {
                successor: condemned.successor.clone(),
                carrier: carrier.instance.clone(),
                own: op.own_tags(),
            }),
        }
        .into()
    });
    due.collect()
}

/// What belongs to the node, once everything was tried or its instance is lost.
pub(crate) fn pruned(op: &Operation) -> Option<Resources> {
    rules(op).is_empty().then(|| remaining(op))
}

/// What belonged to the node when the operation began, without what it has pruned.
pub(crate) fn remaining(op: &Operation) -> Resources {
    let mut left = op.order.before.clone();
    for condemned in &op.order.prune {
        let volume = &condemned.volume;
        if op.facts.gone.iter().any(|gone| gone == volume.as_str()) {
            left.retained.retain(|old| old.volume != *volume);
            continue;
        }
        let about = op.steps.values().rfind(
            |record| matches!(record.intent.as_ref(), Intent::DeleteVolume { volume: of, .. } if of == volume),
        );
        let Some((evidence, at_ms)) = about.and_then(|record| record.outcome.clone()) else { continue };
        let because = match evidence {
            Evidence::Refused { code, message } => format!("{code}: {message}"),
            Evidence::OutOfTime { because } => format!("not in time: {because}"),
            other => format!("BUG: the worker answered {other:?}"),
        };
        for old in left.retained.iter_mut().filter(|old| old.volume == *volume) {
            old.undeleted = Some(Undeleted { at_ms, because: because.clone() });
        }
    }
    left
}

/// Checks what a file says of it.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(spec: &NodeSpec) -> Result<(), SpecError> {
    let Some(days) = spec.persist.retain_days else { return Ok(()) };
    let wrong = |why: String| Err(SpecError { field: "persist.retain_days".to_owned(), why });
    if days == 0 || days > RETAIN_DAYS_MAX {
        return wrong(format!(
            "must be between 1 and {RETAIN_DAYS_MAX}; without it volumes are retained for ever"
        ));
    }
    if spec.persist.root == RootMode::None && spec.data_volumes.is_empty() {
        return wrong(
            "the node keeps no volume, so none is ever retained; remove it, or keep a volume".to_owned(),
        );
    }
    Ok(())
}
