//! The steps of backups.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_engine::dispatcher::StepResult;
use perennial_workflows::model::aws::{InstanceId, SnapshotId, VolumeId};
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::model::volume::TakenSnapshot;
use perennial_workflows::step::backup::{BackupEvidence, BackupIntent};
use perennial_workflows::step::evidence::Evidence;

use super::own::{Claim, made_by, made_of_instance};
use super::pass::{Answer, DOUBT, LOOK_AGAIN, LOOK_SOON, Pass, not_yet, settled};
use super::tags::carries;
use crate::port::error::{Class, Disposition, Effect};
use crate::port::{AttachmentState, SnapshotState, SnapshotView, SnapshotsRequest};

/// Between two looks at snapshots that are being copied, at first and at most: it takes minutes, nothing
/// waits for it, and an event may ring sooner. In between it is a fourth of the time that they are looked at
/// for.
const COPY_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// Between two looks for what a take may have made.
const FIND_AGAIN: Duration = Duration::from_secs(10);

fn seen(evidence: BackupEvidence) -> Answer {
    settled(Evidence::Backup(evidence))
}

/// A step of a backup.
pub(super) async fn backup(pass: &mut Pass<'_>, intent: &BackupIntent) -> Answer {
    match intent {
        BackupIntent::Take { instance, volumes, tags } => take(pass, instance, volumes, tags).await,
        BackupIntent::Await { snapshots } => wait(pass, snapshots).await,
        BackupIntent::Find { count, tags, intended_at_ms } => find(pass, *count, tags, *intended_at_ms).await,
        BackupIntent::Prune { snapshot, own } => prune(pass, snapshot, own).await,
    }
}

/// All the volumes at one moment. There is no client token: what carries the step's tag is looked for first.
async fn take(pass: &mut Pass<'_>, instance: &InstanceId, volumes: &[VolumeId], tags: &TagMap) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    let claim = Claim::of(pass, tags).of_volumes(volumes);
    let mine = made_of_instance(pass, instance, &claim).await?;
    if !mine.is_empty() {
        return taken(pass, instance, mine, volumes).await;
    }
    if !pass.memory.snapshots().made.is_empty() {
        return not_yet(LOOK_AGAIN, "the snapshots are to be seen");
    }
    if pass.in_doubt() {
        return not_yet(LOOK_AGAIN, "snapshots of an earlier try may still appear");
    }
    let not_taken = |because: String, in_doubt: bool| seen(BackupEvidence::NotTaken { because, in_doubt });
    let in_doubt = pass.may_have_been_asked();
    let view = match pass.alive(instance).await? {
        Ok(view) => view,
        Err(StepResult::Settled(_)) => return not_taken(format!("{instance} is gone"), in_doubt),
        Err(result) => return Ok(result),
    };
    let found = pass.tools.observer.volumes(volumes).await?;
    let elsewhere = volumes.iter().zip(&found).find(|(_, found)| {
        !found.as_ref().is_some_and(|view| {
            view.attachments.iter().any(|attachment| {
                attachment.instance == *instance && attachment.state == AttachmentState::Attached
            })
        })
    });
    if let Some((volume, _)) = elsewhere {
        return not_taken(format!("{volume} is not attached to {instance}"), in_doubt);
    }
    let is_root = |device: &str| view.root_device.as_deref() == Some(device);
    let others = view.block_devices.iter().filter(|device| !volumes.contains(&device.volume));
    let (roots, others): (Vec<_>, Vec<_>) = others.partition(|device| is_root(&device.device));
    let request = SnapshotsRequest {
        instance: instance.clone(),
        without_root: !roots.is_empty(),
        without: others.into_iter().map(|device| device.volume.clone()).collect(),
        description: format!("perennial {}", tags.get("perennial:backup").map_or("", String::as_str)),
        tags: tags.clone(),
    };
    match cloud.create_snapshots(&request).await {
        Ok(made) => {
            made.iter().for_each(|id| pass.memory.note_answer(id.as_str()));
            pass.memory.snapshots().made = made;
            not_yet(LOOK_SOON, "the snapshots are to be seen")
        }
        Err(error) => {
            if error.effect == Effect::Unknown {
                pass.note_unclear();
            }
            match error.disposition() {
                _ if pass.is_snapshot_denied(&error) => not_taken(error.to_string(), in_doubt),
                Disposition::Retry | Disposition::Done => Err(error),
                Disposition::Elsewhere | Disposition::Person => not_taken(error.to_string(), in_doubt),
            }
        }
    }
}

/// What of a set is shown. It may hold more than was asked for: of a volume that was attached after the look
/// before the call.
async fn taken(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    mut mine: Vec<SnapshotView>,
    volumes: &[VolumeId],
) -> Answer {
    mine.sort_by(|a, b| (a.started_at_ms, &a.id).cmp(&(b.started_at_ms, &b.id)));
    let mut first: BTreeMap<&VolumeId, &SnapshotView> = BTreeMap::new();
    let mut twins = Vec::new();
    for view in &mine {
        // A crash between the call and its answer can leave two sets; the first one stays.
        match view.volume.as_ref().filter(|volume| volumes.contains(volume)) {
            Some(volume) if !first.contains_key(volume) => {
                first.insert(volume, view);
            }
            _ => twins.push(view.id.clone()),
        }
    }
    if first.len() < volumes.len() {
        return not_yet(LOOK_AGAIN, format!("{} of {} are to be seen", first.len(), volumes.len()));
    }
    let made = pass.memory.snapshots().made.clone();
    if made.is_empty() && pass.looked_for() < DOUBT {
        let view = pass.tools.observer.instance(instance).await?;
        let devices = view.iter().flat_map(|view| &view.block_devices);
        if devices.map(|device| &device.volume).any(|volume| !volumes.contains(volume)) {
            return not_yet(LOOK_AGAIN, "a snapshot of another volume may still appear");
        }
    }
    let is_of_set = |id: &SnapshotId| first.values().any(|view| view.id == *id);
    let unseen: Vec<_> = made.into_iter().filter(|id| !is_of_set(id) && !twins.contains(id)).collect();
    twins.extend(unseen);
    let sizes = pass.tools.observer.volumes(first.keys().copied()).await?;
    let size =
        |volume: &VolumeId| sizes.iter().flatten().find(|view| view.id == *volume).map(|view| view.size_gib);
    let taken = first.values().map(|view| view.started_at_ms).min().unwrap_or_default();
    let snapshots = first.iter().map(|(volume, view)| TakenSnapshot {
        snapshot: view.id.clone(),
        volume: (*volume).clone(),
        size_gib: size(volume),
    });
    seen(BackupEvidence::Taken { snapshots: snapshots.collect(), taken_at_ms: taken, twins })
}

/// Sees the snapshots of a backup complete.
async fn wait(pass: &mut Pass<'_>, snapshots: &[SnapshotId]) -> Answer {
    let views = pass.tools.observer.snapshots(snapshots).await?;
    let (mut complete, mut progress) = (0, 100);
    let mut missing = None;
    for (id, view) in snapshots.iter().zip(&views) {
        match view.as_ref().map(|view| view.state) {
            Some(SnapshotState::Completed) => complete += 1,
            Some(SnapshotState::Pending) => {
                progress = progress.min(view.as_ref().map_or(0, |view| view.progress));
            }
            Some(SnapshotState::Error) => {
                return seen(BackupEvidence::Broken { because: format!("{id} has failed") });
            }
            None => missing = Some(id),
        }
    }
    match missing {
        Some(id) if pass.is_absent(id.as_str()).await? => {
            seen(BackupEvidence::Broken { because: format!("{id} does not exist any more") })
        }
        Some(id) => not_yet(COPY_AGAIN.0, format!("{id} is not shown")),
        None if complete == snapshots.len() => seen(BackupEvidence::Complete),
        None => {
            pass.memory.object.found();
            let again_in = (pass.looked_for() / 4).clamp(COPY_AGAIN.0, COPY_AGAIN.1);
            not_yet(again_in, format!("{complete} of {} are complete, {progress} %", snapshots.len()))
        }
    }
}

/// What a take has made, by its tags.
async fn find(pass: &mut Pass<'_>, count: usize, tags: &TagMap, intended_at_ms: Option<u64>) -> Answer {
    let claim = Claim::intended(pass, tags, intended_at_ms);
    let found = made_by::<SnapshotView>(pass, &claim).await?;
    let snapshots: Vec<SnapshotId> = found.into_iter().map(|view| view.id).collect();
    if snapshots.is_empty() && !pass.is_absent("what that step made").await? {
        return not_yet(FIND_AGAIN, "no snapshot of that step is shown, which proves nothing yet");
    }
    // A part of a set is shown first.
    if !snapshots.is_empty() && snapshots.len() < count && !pass.is_missing_for(DOUBT) {
        return not_yet(LOOK_AGAIN, format!("{} of {count} are shown", snapshots.len()));
    }
    seen(BackupEvidence::Found { snapshots })
}

/// Deletes a snapshot that carries our tags. One that an image uses stays.
async fn prune(pass: &mut Pass<'_>, snapshot: &SnapshotId, own: &TagMap) -> Answer {
    match pass.tools.observer.snapshot(snapshot).await? {
        None if pass.is_gone(snapshot.as_str()).await? => seen(BackupEvidence::Pruned),
        None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
        Some(view) if !carries(&view.tags, own) => seen(BackupEvidence::Kept {
            because: "it does not carry the tags of this backup; delete it by hand".to_owned(),
        }),
        Some(_) => match pass.tools.cloud.delete_snapshot(snapshot).await {
            Ok(()) => not_yet(LOOK_SOON, format!("{snapshot} is to be gone")),
            Err(error) if error.class == Class::InUse => {
                seen(BackupEvidence::Kept { because: error.to_string() })
            }
            Err(error) => Err(error),
        },
    }
}
