//! Addresses: private ones that move between interfaces, Elastic IPs, and those given back to a pool.

use std::net::Ipv4Addr;

use perennial_engine::dispatcher::StepResult;
use perennial_workflows::model::aws::{AllocationId, InstanceId, InterfaceId, SubnetId};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::volume::TagMap;
use perennial_workflows::step::evidence::Evidence;

use super::pass::{Answer, DOUBT, LOOK_AGAIN, LOOK_SOON, Pass, not_yet, refused, settled};
use super::tags::carries;
use crate::port::error::Class;
use crate::port::{InterfaceView, Taking};

/// Assigns a private address to an interface.
pub(super) async fn move_to(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    interface: &InterfaceId,
    address: Option<Ipv4Addr>,
    from: &[InstanceId],
    own: &TagMap,
) -> Answer {
    let tools = pass.tools;
    let (machine, view) = tokio::join!(pass.alive(instance), tools.observer.interface(interface));
    let (machine, view) = (machine?, view?);
    if let Err(result @ StepResult::Settled(_)) = machine {
        return Ok(result);
    }
    let Some(view) = view else {
        return not_yet(LOOK_AGAIN, format!("{interface} is not shown"));
    };
    let held = match address {
        None => view.secondary_ips.first().copied(),
        Some(address) => {
            (view.primary_ip == address || view.secondary_ips.contains(&address)).then_some(address)
        }
    };
    match held {
        Some(address) => settled(Evidence::Moved { address }),
        None if pass.is_on_its_way() => {
            not_yet(LOOK_AGAIN, format!("the address is to be seen on {interface}"))
        }
        None => {
            let mut taking = Taking::Unheld;
            let mut is_going = false;
            if let Some(address) = address
                && let Some(holder) = tools.cloud.interface_with(&view.subnet, address).await?
                && holder.id != *interface
            {
                let on = holder.attachment.as_ref().and_then(|attachment| attachment.instance.as_ref());
                let is_own = on.is_some_and(|on| from.contains(on)) || carries(&holder.tags, own);
                if !is_own {
                    return settled(held_by(address, &holder));
                }
                taking = Taking::FromOwn;
                is_going = holder.attachment.is_some();
            }
            // EC2 picks the first address of a node, another one each time it is asked.
            if address.is_none() && pass.is_in_doubt() {
                return not_yet(LOOK_AGAIN, format!("an address may have been assigned to {interface}"));
            }
            match tools.cloud.assign_private_ip(interface, address, taking).await {
                Ok(()) => {
                    pass.note_made();
                    pass.note_act();
                    not_yet(LOOK_SOON, format!("the address is to be seen on {interface}"))
                }
                Err(error) if address.is_none() && pass.may_have_worked(&error) => {
                    not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
                }
                // No interface was seen to have it, but one has: the next look shows which.
                Err(error)
                    if taking == Taking::Unheld && address.is_some() && !pass.is_missing_for(DOUBT) =>
                {
                    not_yet(LOOK_AGAIN, error.to_string())
                }
                // Not while it is on an instance that terminates, perhaps: then when it is free.
                Err(error)
                    if is_going && (error.class == Class::InUse || error.code == "InvalidParameterValue") =>
                {
                    not_yet(LOOK_AGAIN, error.to_string())
                }
                Err(error) => Err(error),
            }
        }
    }
}

/// Lets an Elastic IP lead to an interface.
pub(super) async fn associate(
    pass: &mut Pass<'_>,
    allocation: &AllocationId,
    instance: &InstanceId,
    (interface, private_ip): (&InterfaceId, Option<Ipv4Addr>),
    from: &[InstanceId],
    own: &TagMap,
) -> Answer {
    let tools = pass.tools;
    let (machine, view) = tokio::join!(pass.alive(instance), tools.cloud.elastic_address(allocation));
    let (machine, view) = (machine?, view?);
    if let Err(result @ StepResult::Settled(_)) = machine {
        return Ok(result);
    }
    let Some(view) = view else {
        return if pass.is_missing_for(DOUBT) {
            refused("InvalidAllocationID.NotFound", format!("there is no {allocation} in this region"))
        } else {
            not_yet(LOOK_AGAIN, format!("{allocation} is not shown"))
        };
    };
    pass.memory.object.found();
    let mut taking = Taking::Unheld;
    if let Some((on, at)) = &view.leads_to {
        // Without a private address it is the primary one, which need not be named.
        if on == interface && (private_ip.is_none() || private_ip == *at) {
            return settled(Evidence::Associated { public_ip: view.public_ip });
        }
        let is_own = on == interface
            || view.instance.as_ref().is_some_and(|instance| from.contains(instance))
            || tools.observer.interface(on).await?.is_some_and(|seen| carries(&seen.tags, own));
        if !is_own {
            let of = view.instance.as_ref().map_or_else(String::new, |of| format!(" of {of}"));
            return settled(Evidence::HeldByAnother {
                what: format!("{} ({allocation})", view.public_ip),
                by: format!("{on}{of}"),
            });
        }
        taking = Taking::FromOwn;
    }
    if pass.is_on_its_way() {
        return not_yet(LOOK_SOON, format!("{} is to lead to {interface}", view.public_ip));
    }
    match tools.cloud.associate_address(allocation, interface, private_ip, taking).await {
        Ok(()) => {
            pass.note_act();
            not_yet(LOOK_SOON, format!("{} is to lead to {interface}", view.public_ip))
        }
        // The private address has just come: the interface shows it before the rest of EC2 knows it.
        Err(error) if error.class == Class::Person && !pass.is_missing_for(DOUBT) => {
            not_yet(LOOK_AGAIN, error.to_string())
        }
        Err(error) => Err(error),
    }
}

/// Who has an address, in words.
pub(super) fn held_by(address: Ipv4Addr, holder: &InterfaceView) -> Evidence {
    let on = holder.attachment.as_ref().and_then(|attachment| attachment.instance.as_ref());
    let on = on.map_or_else(|| ", which is attached to nothing".to_owned(), |on| format!(" of {on}"));
    let whose = match (holder.tags.get("perennial:node"), holder.tags.get("perennial:owner")) {
        (Some(node), Some(owner)) => format!(" (node {node} of the installation {owner})"),
        _ => String::new(),
    };
    Evidence::HeldByAnother { what: address.to_string(), by: format!("{}{on}{whose}", holder.id) }
}

/// Sees that an address of a pool is on no interface any more.
pub(super) async fn give_back(
    pass: &mut Pass<'_>,
    pool: &NodeName,
    subnet: &SubnetId,
    address: Ipv4Addr,
    own: &TagMap,
) -> Answer {
    match pass.tools.cloud.interface_with(subnet, address).await? {
        None if pass.is_gone(&address.to_string()).await? => {
            settled(Evidence::AddressReturned { pool: pool.clone(), address })
        }
        None => not_yet(LOOK_AGAIN, "a second look, before it is taken as free"),
        Some(view) if carries(&view.tags, own) => {
            not_yet(LOOK_AGAIN, format!("{address} is still on {}", view.id))
        }
        // Another tenant's: the node has it no more, and whoever takes it next finds out.
        Some(_) => settled(Evidence::AddressReturned { pool: pool.clone(), address }),
    }
}
