//! Network interfaces: made, released, attached, detached, deleted, and their security groups.

use std::collections::BTreeSet;

use perennial_engine::dispatcher::StepResult;
use perennial_workflows::model::aws::{GroupId, InstanceId, InterfaceId};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::CreateInterface;

use super::address::held_by;
use super::own::{Claim, made_by};
use super::pass::{
    Answer, LOOK_AGAIN, LOOK_SOON, Launched, Pass, SECOND_READ, not_shown, not_yet, refused, settled,
};
use super::tags::{carries, own_tags};
use crate::port::error::Class;
use crate::port::{InterfaceRequest, InterfaceView};

/// Makes an interface, with a client token.
pub(super) async fn create(pass: &mut Pass<'_>, intent: &CreateInterface) -> Answer {
    let CreateInterface { client_token, subnet, groups, private_ip, tags } = intent;
    let cloud = pass.tools.cloud.as_ref();
    let claim = Claim::of(pass, tags);
    let mine = made_by::<InterfaceView>(pass, &claim).await?;
    if let Some(view) = mine.first() {
        return settled(Evidence::InterfaceCreated {
            interface: view.id.clone(),
            private_ip: view.primary_ip,
        });
    }
    let request = InterfaceRequest {
        client_token: client_token.clone(),
        subnet: subnet.clone(),
        groups: groups.clone(),
        private_ip: *private_ip,
        tags: tags.clone(),
    };
    match (cloud.create_interface(&request).await, private_ip) {
        (Ok(view), _) => {
            pass.note_made();
            pass.memory.note_answer(view.id.as_str());
            not_yet(LOOK_SOON, format!("interface {} is to be seen", view.id))
        }
        (Err(error), Some(address)) if error.class == Class::InUse => {
            match cloud.interface_with(subnet, *address).await? {
                Some(holder) if !carries(&holder.tags, &own_tags(tags)) => {
                    settled(held_by(*address, &holder))
                }
                // Of an earlier instance of the node, and on its way out.
                _ => Err(error),
            }
        }
        (Err(error), _) if pass.may_have_worked(&error) => {
            not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
        }
        (Err(error), _) if pass.is_given_up_for(&error) => settled(Evidence::Outdated),
        (Err(error), _) => Err(error),
    }
}

/// Sees an interface free after its instance has terminated.
pub(super) async fn release(pass: &mut Pass<'_>, id: &InterfaceId, from: &InstanceId) -> Answer {
    match pass.tools.observer.interface(id).await? {
        None if pass.is_absent(id.as_str()).await? => {
            not_shown(format!("interface {id} does not exist any more"))
        }
        None => not_yet(LOOK_AGAIN, format!("{id} is not shown, which proves nothing yet")),
        // As for a volume: its holder was seen terminated, twice, and EC2 refuses to attach one that is not
        // free.
        Some(view) if pass.found(&view).is_free() => settled(Evidence::Released),
        Some(view) => match view.attachment.and_then(|attachment| attachment.instance) {
            Some(other) if other != *from => match pass.launched(&other).await? {
                Launched::Noted => {
                    settled(Evidence::HeldByAnother { what: id.to_string(), by: other.to_string() })
                }
                launched => not_yet(LOOK_AGAIN, format!("{id} is on {other}, {launched}")),
            },
            _ => not_yet(LOOK_AGAIN, format!("{id} is still on {from}")),
        },
    }
}

/// The second of two reads, at least a second after the first.
async fn free_twice(pass: &Pass<'_>, id: &InterfaceId) -> Answer {
    pass.tools.clock.sleep(SECOND_READ).await;
    match pass.tools.observer.interface(id).await? {
        Some(again) if again.is_free() => settled(Evidence::Released),
        _ => not_yet(LOOK_AGAIN, format!("two reads of {id} did not agree")),
    }
}

/// Attaches an interface as a further one.
pub(super) async fn attach(
    pass: &mut Pass<'_>,
    id: &InterfaceId,
    instance: &InstanceId,
    device_index: u32,
) -> Answer {
    let tools = pass.tools;
    let (machine, view) = tokio::join!(pass.alive(instance), tools.observer.interface(id));
    let (machine, view) = (machine?, view?);
    if let Err(result @ StepResult::Settled(_)) = machine {
        return Ok(result);
    }
    let Some(view) = view else {
        return if pass.is_absent(id.as_str()).await? {
            not_shown(format!("interface {id} does not exist any more"))
        } else {
            not_yet(LOOK_AGAIN, format!("{id} is not shown, which proves nothing yet"))
        };
    };
    pass.memory.object.found();
    match view.attachment.as_ref().map(|attachment| attachment.instance.as_ref()) {
        Some(Some(on)) if on == instance => settled(Evidence::Attached),
        Some(Some(on)) => not_yet(LOOK_AGAIN, format!("{id} is on {on}: detach it")),
        Some(None) => not_yet(LOOK_AGAIN, format!("{id} is attached to something else: detach it")),
        None if !view.available => not_yet(LOOK_AGAIN, format!("{id} is not free")),
        None => match tools.cloud.attach_interface(id, instance, device_index).await {
            Ok(()) => not_yet(LOOK_SOON, format!("{id} is to be attached")),
            Err(error) if error.class == Class::NoCapacity => {
                settled(Evidence::NoCapacity { code: error.code, message: error.message })
            }
            Err(error) => Err(error),
        },
    }
}

/// Gives an interface its security groups.
pub(super) async fn set_groups(pass: &mut Pass<'_>, id: &InterfaceId, groups: &[GroupId]) -> Answer {
    let Some(view) = pass.tools.observer.interface(id).await? else {
        return if pass.is_absent(id.as_str()).await? {
            not_shown(format!("interface {id} does not exist any more"))
        } else {
            not_yet(LOOK_AGAIN, format!("{id} is not shown, which proves nothing yet"))
        };
    };
    pass.memory.object.found();
    let sorted = |groups: &[GroupId]| groups.iter().cloned().collect::<BTreeSet<_>>();
    if sorted(&view.groups) == sorted(groups) {
        return settled(Evidence::GroupsSet);
    }
    pass.tools.cloud.set_interface_groups(id, groups).await?;
    not_yet(LOOK_SOON, format!("{id} is to have its groups"))
}

/// Detaches an interface from a live instance and sees it free.
pub(super) async fn detach(pass: &mut Pass<'_>, id: &InterfaceId, instance: &InstanceId) -> Answer {
    let Some(view) = pass.tools.observer.interface(id).await? else {
        return not_yet(LOOK_AGAIN, format!("{id} is not shown"));
    };
    match &view.attachment {
        // As of a volume: seen attached before it was asked to leave, and free after.
        None if view.available && pass.memory.change().asked => settled(Evidence::Released),
        None if view.available => free_twice(pass, id).await,
        Some(attachment) if attachment.instance.as_ref() == Some(instance) => {
            pass.tools.cloud.detach_interface(&attachment.id).await?;
            pass.memory.change().asked = true;
            not_yet(LOOK_SOON, format!("{id} is to leave {instance}"))
        }
        Some(_) => refused("HeldByAnother", format!("{id} is not on {instance}")),
        None => not_yet(LOOK_AGAIN, format!("{id} is leaving {instance}")),
    }
}

/// Deletes an interface that carries our tags.
pub(super) async fn delete(pass: &mut Pass<'_>, interface: &InterfaceId) -> Answer {
    match pass.tools.observer.interface(interface).await? {
        None if pass.is_gone(interface.as_str()).await? => settled(Evidence::Deleted),
        None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
        Some(view) if !view.tags.contains_key("perennial:owner") => {
            refused("NotOurs", format!("{interface} does not carry our tags; delete it by hand"))
        }
        Some(view) if view.attachment.is_some() => {
            not_yet(LOOK_AGAIN, format!("{interface} is still attached"))
        }
        Some(_) => {
            pass.tools.cloud.delete_interface(interface).await?;
            not_yet(LOOK_SOON, format!("{interface} is to be gone"))
        }
    }
}
