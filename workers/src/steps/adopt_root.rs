//! The old root becomes the root of the new instance.

use perennial_workflows::model::aws::{InstanceId, VolumeId};
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;

use super::pass::{Answer, LOOK_AGAIN, LOOK_ALONE, Pass, not_shown, not_yet, settled};
use crate::port::error::{Class, CloudError, Disposition};
use crate::port::{AttachmentState, RootTaskState, VolumeAttachment};

/// How often CreateReplaceRootVolumeTask is repeated when no clear answer comes, before another method
/// carries the root. The doubt left is settled by fencing the instance.
const ADOPT_UNCLEAR_MAX: u32 = 3;

/// Replaces the root of an instance by an existing volume. The client token makes a repeat safe.
pub(super) async fn adopt(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    volume: &VolumeId,
    client_token: &str,
    tags: &TagMap,
) -> Answer {
    let tools = pass.tools;
    let (machine, view) = tokio::join!(pass.alive(instance), tools.observer.volume(volume));
    let machine = match machine? {
        Ok(view) => view,
        Err(result) => return Ok(result),
    };
    let Some(view) = view? else {
        return if pass.is_absent(volume.as_str()).await? {
            not_shown(format!("volume {volume} does not exist any more"))
        } else {
            not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
        };
    };
    pass.memory.object.found();
    let is_here = |attachment: &&VolumeAttachment| {
        attachment.instance == *instance
            && attachment.state == AttachmentState::Attached
            && machine.root_device.as_deref().is_none_or(|root| root == attachment.device)
    };
    let here = view.attachments.iter().find(is_here);
    let is_root = here.is_some();
    if let Some(root) = here.filter(|root| root.delete_on_termination) {
        // The root would die with the instance: each moment counts
        // (docs/decisions/0026-an-adopted-root-is-made-safe-by-the-look-that-sees-it.md). The step `preserve`
        // follows, and sees it done; so a refusal changes nothing here.
        let _ = tools.cloud.preserve_volumes(instance, std::slice::from_ref(&root.device)).await;
    }
    let tasks = match pass.tools.cloud.root_tasks(instance).await {
        Ok(tasks) => tasks,
        Err(error)
            if error.disposition() == Disposition::Retry
                && !matches!(error.class, Class::Transient | Class::Access) =>
        {
            return Err(error);
        }
        // An endpoint that cannot list tasks, or a policy that does not let us, may know none; the tokenised
        // call below repeats itself safely.
        Err(_) => Vec::new(),
    };
    if let Some(running) = tasks.iter().find(|task| task.state == RootTaskState::InProgress) {
        return not_yet(LOOK_ALONE, format!("{} is in progress", running.id));
    }
    if is_root {
        return settled(Evidence::Adopted { task: tasks.last().map(|task| task.id.clone()) });
    }
    match tasks.last() {
        Some(task) if task.state == RootTaskState::Succeeded => {
            not_yet(LOOK_AGAIN, format!("{} succeeded; the volume is to show it", task.id))
        }
        Some(task) => settled(Evidence::AdoptRefused {
            code: if task.state == RootTaskState::FailedDetached { "failed-detached" } else { "failed" }
                .to_owned(),
            message: format!("{} ended so", task.id),
        }),
        None if !view.is_free() => not_yet(LOOK_AGAIN, format!("{volume} is not free")),
        None => ask(pass, instance, volume, client_token, tags).await,
    }
}

/// Asks for the replacement.
async fn ask(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    volume: &VolumeId,
    client_token: &str,
    tags: &TagMap,
) -> Answer {
    match pass.tools.cloud.replace_root(instance, volume, client_token, tags).await {
        Ok(task) => {
            pass.memory.adoption().unclear = 0;
            not_yet(LOOK_ALONE, format!("{task} is in progress"))
        }
        // A policy may lack this call: then another method carries the root.
        Err(error) if error.class == Class::Access => {
            if pass.is_denied(|memory| &mut memory.adoption().refused).await {
                settled(Evidence::AdoptRefused { code: error.code, message: error.message })
            } else {
                Err(error)
            }
        }
        Err(error) => match error.class {
            Class::Transient => unclear(pass, &error),
            Class::Unsupported | Class::Person | Class::NoCapacity | Class::Quota => {
                settled(Evidence::AdoptRefused { code: error.code, message: error.message })
            }
            _ => Err(error),
        },
    }
}

/// An answer that says neither yes nor no. After a few of them another method carries the root, and fencing
/// the instance settles the doubt.
fn unclear(pass: &mut Pass<'_>, error: &CloudError) -> Answer {
    pass.memory.adoption().unclear += 1;
    if error.class == Class::Transient && pass.memory.adoption().unclear < ADOPT_UNCLEAR_MAX {
        return not_yet(LOOK_AGAIN, error.to_string());
    }
    let code = if error.code.is_empty() { "no clear answer".to_owned() } else { error.code.clone() };
    settled(Evidence::AdoptRefused { code, message: error.message.clone() })
}
