//! Retained volumes are deleted: because the operator asks for it, or because the file says how long they are
//! kept.

use std::collections::BTreeMap;

use perennial_engine::domain::Append;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::Node;
use crate::domain::command::Rejection;
use crate::domain::decider::{Answer, Appends, Decider, Subject, Wanted};
use crate::domain::submission::PruneParams;
use crate::domain::submit::Request;
use crate::model::aws::VolumeId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationKind;
use crate::model::resources::{PRUNED_MAX, PruneItem, Retained};
use crate::model::schedule::slot_after;
use crate::model::signal::Cause;
use crate::model::volume::Slot;
use crate::spec::node::NodeSpec;

impl Decider<'_> {
    /// The operator asks for it, while nothing holds the node.
    pub(super) fn prune(&self, request: &Request<'_>, wish: &PruneParams) -> Answer {
        let Request { subject, spec, .. } = *request;
        let node = subject.node;
        let pruned = match select(node, wish, self.now_ms) {
            Ok(pruned) => pruned,
            Err(because) => return Ok((Disposition::Rejected { because }, Vec::new())),
        };
        if pruned.is_empty() {
            let because = "nothing that is retained is to be deleted by that; `perennial node prune --dry-run` says why";
            return Ok((Disposition::Noted { because: because.to_owned() }, Vec::new()));
        }
        let (before, cause) = (node.resources.clone(), request.cause(wish.reason.as_ref()));
        let wanted = Wanted::new(OperationKind::Prune, spec.clone(), before, node.generation, cause);
        let begun = self.start(subject.next(), Wanted { prune: pruned, ..wanted })?;
        let appends = vec![Append::new(subject.stream(), begun.node_events), begun.append];
        Ok((Disposition::Started { operation: begun.id }, appends))
    }

    /// The file says so.
    pub(super) fn prune_what_is_due(&self, subject: Subject<'_>) -> Result<Appends, Rejection> {
        let node = subject.node;
        let pruned = due(node, subject.name, self.now_ms);
        let days = node.spec.as_ref().and_then(|spec| spec.persist.retain_days);
        let (Some(spec), Some(retain_days), false) = (&node.spec, days, pruned.is_empty()) else {
            let why = "nothing has been retained for too long".to_owned();
            return Err(Rejection::NotNow { node: subject.name.clone(), why });
        };
        let (before, cause) = (node.resources.clone(), Cause::RetainedLonger { retain_days });
        let wanted = Wanted::new(OperationKind::Prune, spec.clone(), before, node.generation, cause);
        let begun = self.start(subject.next(), Wanted { prune: pruned, ..wanted })?;
        Ok(vec![Append::new(subject.stream(), begun.node_events), begun.append])
    }

    /// Why a file cannot be applied now: it names a volume that is being deleted.
    pub(super) fn names_pruned(&self, subject: Subject<'_>, spec: &NodeSpec) -> Option<String> {
        let open = self.open(subject)?;
        let named = spec.data_volumes.iter().enumerate();
        let mut named = named.filter_map(|(i, wanted)| Some((i, wanted.volume.as_ref()?)));
        let (i, volume) =
            named.find(|(_, volume)| open.order.prune.iter().any(|pruned| pruned.volume == **volume))?;
        let open = &open.id;
        Some(format!(
            "spec.data_volumes[{i}].volume: workflow {open} deletes {volume}; cancel it with `perennial workflow cancel {open}`, and see \
             whether the volume is still there"
        ))
    }
}

/// How long a volume is retained at least when the request names neither volumes nor a time. It covers a
/// weekend and a holiday, so that faults of the new volume have been noticed.
pub const OLDER_THAN_S: u64 = 7 * 24 * 3_600;

/// The pause before a failed deletion is tried again. A volume that is attached, or has another owner,
/// stays so until the operator acts.
pub const TRY_AGAIN_MS: u64 = 24 * 3_600_000;

/// The time over which the prunes of a fleet are spread; short against a day.
pub const SPREAD_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * 3_600_000;

/// The successor of a retained volume.
///
/// # Errors
/// Why the volume is not deleted, whatever its age, as a clause for people.
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

/// The volumes that a request selects, the oldest first and at most [`PRUNED_MAX`]; empty if none matches.
///
/// # Errors
/// Why a volume that was named is not deleted.
pub fn select(node: &Node, wish: &PruneParams, now_ms: u64) -> Result<Vec<PruneItem>, String> {
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
    let mut pruned = Vec::new();
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
                pruned.push(prune_item(old, successor, &why, now_ms));
            }
            Err(why) if by_name => return Err(format!("params.volumes: {}: {why}", old.volume)),
            Err(_) => {}
        }
    }
    Ok(oldest(pruned))
}

/// How many days the file retains volumes, while they may be deleted.
fn retain_days(node: &Node) -> Option<u32> {
    let days = node.spec.as_ref().and_then(|spec| spec.persist.retain_days);
    days.filter(|_| node.exists() && node.open.is_none())
}

/// When a retained volume is to be deleted, or tried again. One that is retained since an unknown time is
/// not.
fn due_ms(old: &Retained, name: &NodeName, days: u32) -> Option<u64> {
    let over_ms = old.since_ms?.saturating_add(u64::from(days) * DAY_MS);
    let again_ms = old.failed_deletion.as_ref().map_or(0, |failed| failed.at_ms + TRY_AGAIN_MS);
    Some(slot_after(name, SPREAD_MS, over_ms.max(again_ms)))
}

/// When the first of a node's retained volumes is to be deleted.
#[must_use]
pub fn next_ms(node: &Node, name: &NodeName) -> Option<u64> {
    let days = retain_days(node)?;
    let deleted = node.resources.retained.iter().filter(|old| successor(node, old).is_ok());
    deleted.filter_map(|old| due_ms(old, name, days)).min()
}

/// The volumes that have been retained for longer than the file says, and are to be tried now.
#[must_use]
pub fn due(node: &Node, name: &NodeName, now_ms: u64) -> Vec<PruneItem> {
    let Some(days) = retain_days(node) else { return Vec::new() };
    let is_due = |old: &&Retained| due_ms(old, name, days).is_some_and(|due_ms| due_ms <= now_ms);
    let pruned = node.resources.retained.iter().filter(is_due).filter_map(|old| {
        let successor = successor(node, old).ok()?;
        Some(prune_item(old, successor, &format!("persist.retain_days is {days}"), now_ms))
    });
    oldest(pruned.collect())
}

fn prune_item(old: &Retained, successor: &VolumeId, why: &str, now_ms: u64) -> PruneItem {
    PruneItem {
        volume: old.volume.clone(),
        slot: old.slot.clone(),
        since_ms: old.since_ms.unwrap_or(now_ms),
        size_gib: old.size_gib,
        successor: successor.clone(),
        because: format!("{why}; {} goes on as {successor}", old.slot),
    }
}

fn oldest(mut pruned: Vec<PruneItem>) -> Vec<PruneItem> {
    pruned.sort_by(|a, b| (a.since_ms, &a.volume).cmp(&(b.since_ms, &b.volume)));
    pruned.dedup_by(|a, b| a.volume == b.volume);
    pruned.truncate(PRUNED_MAX);
    pruned
}

/// The newest volumes of each slot that could be deleted.
fn newest(node: &Node, keep: u32) -> Vec<&VolumeId> {
    let mut by_slot: BTreeMap<&Slot, Vec<&Retained>> = BTreeMap::new();
    for old in node.resources.retained.iter().filter(|old| successor(node, old).is_ok()) {
        by_slot.entry(&old.slot).or_default().push(old);
    }
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let kept = by_slot.into_values().flat_map(|mut of_slot| {
        // Among volumes of the same moment, the one listed last.
        of_slot.reverse();
        of_slot.sort_by_key(|old| std::cmp::Reverse(old.since_ms));
        of_slot.into_iter().take(keep)
    });
    kept.map(|old| &old.volume).collect()
}

/// A length of time in everyday words, never longer than it is.
#[must_use]
pub fn length(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
