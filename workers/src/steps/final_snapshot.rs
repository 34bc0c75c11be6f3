//! The snapshot of a volume between two instances.

use perennial_workflows::model::aws::VolumeId;
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::model::volume::TakenSnapshot;
use perennial_workflows::step::backup::BackupEvidence;
use perennial_workflows::step::evidence::Evidence;

use super::own::{Claim, made_by};
use super::pass::{Answer, LOOK_AGAIN, LOOK_SOON, Pass, not_yet, settled};
use crate::port::error::{Disposition, Effect};
use crate::port::{AttachmentState, SnapshotView};

/// Takes a snapshot of a free volume and sees it, at whatever progress. None of one that is attached again: a
/// volume that is just being attached has no writer yet.
pub(super) async fn take(pass: &mut Pass<'_>, volume: &VolumeId, tags: &TagMap) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    // At once: the volume is attached again in a moment.
    let sources = [volume.clone()];
    let claim = Claim::of(pass, tags).of_volumes(&sources);
    let observer = &pass.tools.observer;
    let (mine, view) = tokio::join!(made_by::<SnapshotView>(pass, &claim), observer.volume(volume));
    let (mut mine, view) = (mine?, view?);
    mine.sort_by(|a, b| (a.started_at_ms, &a.id).cmp(&(b.started_at_ms, &b.id)));
    // A crash between the call and its answer can leave two; the first one stays.
    for twin in mine.iter().skip(1) {
        cloud.delete_snapshot(&twin.id).await?;
    }
    if let Some(first) = mine.first() {
        let taken = TakenSnapshot {
            snapshot: first.id.clone(),
            volume: volume.clone(),
            size_gib: view.map(|view| view.size_gib),
        };
        return seen(BackupEvidence::Taken {
            snapshots: vec![taken],
            taken_at_ms: first.started_at_ms,
            twins: Vec::new(),
        });
    }
    if !pass.memory.snapshots().made.is_empty() {
        return not_yet(LOOK_AGAIN, "the snapshot is to be seen");
    }
    if pass.in_doubt() {
        return not_yet(LOOK_AGAIN, "a snapshot of an earlier try may still appear");
    }
    let in_doubt = pass.may_have_been_asked();
    let not_taken = |because: String| seen(BackupEvidence::NotTaken { because, in_doubt });
    let Some(view) = view else {
        return if pass.is_absent(volume.as_str()).await? {
            not_taken("the volume does not exist any more".to_owned())
        } else {
            not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
        };
    };
    let holder = view.attachments.iter().find(|attachment| match attachment.state {
        AttachmentState::Attached | AttachmentState::Busy => true,
        AttachmentState::Attaching | AttachmentState::Detaching => false,
    });
    if let Some(holder) = holder {
        let refusal = pass.memory.snapshots().refusal.take();
        let refusal = refusal.map_or(String::new(), |refusal| format!("; {refusal}"));
        return not_taken(format!(
            "it was attached to {} before it could be taken{refusal}",
            holder.instance
        ));
    }
    let description = format!("perennial {}", tags.get("perennial:step").map_or("", String::as_str));
    match cloud.create_snapshot(volume, &description, tags).await {
        Ok(id) => {
            pass.memory.note_answer(id.as_str());
            pass.memory.snapshots().made.push(id);
            not_yet(LOOK_SOON, "the snapshot is to be seen")
        }
        Err(error) => {
            if error.effect == Effect::Unknown {
                pass.note_unclear();
            } else {
                pass.memory.snapshots().refusal = Some(error.to_string());
            }
            match error.disposition() {
                _ if pass.is_snapshot_denied(&error) => not_taken(error.to_string()),
                Disposition::Retry | Disposition::Done => Err(error),
                Disposition::Elsewhere | Disposition::Person => not_taken(error.to_string()),
            }
        }
    }
}

fn seen(evidence: BackupEvidence) -> Answer {
    settled(Evidence::Backup(evidence))
}
