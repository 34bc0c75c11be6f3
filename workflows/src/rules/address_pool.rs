//! When an operation takes an address from an address pool, and when it gives one back.

use std::net::Ipv4Addr;

use crate::model::aws::SubnetId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationKind;
use crate::operation::state::{Due, Operation};
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, MoveAddress, ReturnAddress};
use crate::step::name::Only;

/// The pools of an operation's node, by subnet, with the address it has of each.
fn pools_of(op: &Operation) -> impl Iterator<Item = (&SubnetId, &NodeName, Option<Ipv4Addr>)> {
    op.order.spec.ip_pools().map(|(subnet, pool)| (subnet, pool, op.facts.address_in(subnet)))
}

/// The problem of a node that should have an address of each of its pools and lacks one: the operation cannot
/// continue.
pub(crate) fn missing(op: &Operation) -> Option<(String, String)> {
    if op.order.kind != OperationKind::Provision || op.facts.is_undoing() {
        return None;
    }
    let (_, pool, _) = pools_of(op).find(|(_, _, address)| address.is_none())?;
    let because = format!("pool {pool} has no free address");
    let needs = format!(
        "a larger pool (`perennial pool apply -f FILE`) or the deletion of another node; then `perennial workflow resume {}`",
        op.id
    );
    Some((because, needs))
}

/// Whether one of its pools has had no address for it so far.
pub(crate) fn lacks_address(op: &Operation) -> bool {
    pools_of(op).any(|(_, _, address)| address.is_none())
}

/// The subnet in which an interface that is not the node's has an address the node has never lived with, and
/// the holder: another address can be taken.
pub(crate) fn held_by_another(op: &Operation) -> Option<(SubnetId, String)> {
    if op.facts.is_undoing() {
        return None;
    }
    let last = op.steps.values().rev().find(|record| matches!(*record.intent, Intent::MoveAddress(_)))?;
    let Intent::MoveAddress(MoveAddress { address: Some(asked), .. }) = *last.intent else { return None };
    // An address the node has now, not one that was given up already.
    let (subnet, _, _) = pools_of(op).find(|(subnet, _, address)| {
        let is_new = op.order.kind == OperationKind::Provision || **subnet != op.facts.subnet;
        is_new && *address == Some(asked)
    })?;
    match &last.outcome {
        Some((Evidence::HeldByAnother { by, .. }, _)) => Some((subnet.clone(), by.clone())),
        _ => None,
    }
}

/// The next address that goes back to its pool, because the node ends.
pub(crate) fn give_back(op: &Operation) -> Option<Due> {
    let ends = op.order.kind == OperationKind::Delete && !op.facts.is_undoing()
        || op.order.kind == OperationKind::Provision && op.facts.is_undoing();
    // Open requests settle first: they may still put the address on an interface.
    let is_settled =
        op.facts.holders.iter().all(|holder| holder.fenced) && !op.has_open(&Only::MoveAddress.into());
    if !ends || !is_settled {
        return None;
    }
    let (subnet, pool, address) =
        pools_of(op).find_map(|(subnet, pool, address)| Some((subnet, pool, address?)))?;
    Some(
        Intent::ReturnAddress(ReturnAddress {
            pool: pool.clone(),
            subnet: subnet.clone(),
            address,
            own: op.own_tags(),
        })
        .into(),
    )
}
