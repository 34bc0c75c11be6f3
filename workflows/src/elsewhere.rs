//! The node's own interface in another subnet (`secondary_eni`). An interface is of one subnet for ever, so a node that goes to
//! another one gets another interface there, with another address. The one it had stays as it is until everything is verified.
//!
//! ```text
//!  launch (another subnet) ─┬─ start ────────────┬─ attach_interface ─ … ─ verify ─ delete_interface:(the one before)
//!                           └─ create_interface ─┘
//! ```
//!
//! | step | may start when | does | on failure |
//! | --- | --- | --- | --- |
//! | `create_interface` | a new instance was launched in another subnet, the node has none there | CreateNetworkInterface, tokenised, with the file's groups; the subnet chooses the address | no address free, refused: stuck |
//! | `attach_interface` | it is free, the new instance runs | AttachNetworkInterface at index 1 | as in [`network`] |
//! | `release_interface` | it came onto an instance that was lost, which is fenced | – | gone for ever: made anew |
//! | `delete_interface:i` | verified, all fenced: the one before; undone, paused, or gone on in a third subnet: the one that was made | DeleteNetworkInterface | left over |
//!
//! It is made only when an instance was launched there: a pool without capacity costs no interface. When that instance is lost, the
//! next one in the same subnet gets it; when the next one is in a third subnet, it is left over and deleted at the end.

use crate::aws::{InstanceId, InterfaceId, SubnetId};
use crate::network;
use crate::node::{Leftover, OperationId, Thing};
use crate::operation::{Due, Facts, InterfaceFact, Operation, Place};
use crate::spec::NetworkMode;
use crate::steps::Intent;

/// An interface of the node's in another subnet than it was in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Which subnet.
    pub subnet: SubnetId,
    /// What is known of it; it exists.
    pub fact: InterfaceFact,
}

impl Elsewhere {
    /// Its id.
    pub(crate) fn id(&self) -> Option<&InterfaceId> {
        self.fact.held.as_ref().map(|held| &held.interface)
    }
}

impl Facts {
    /// What is known of the interface for an instance in a subnet; none: where the node was.
    pub(crate) fn interface_in(&self, subnet: Option<&SubnetId>) -> Option<&InterfaceFact> {
        match subnet {
            None => self.interface.as_ref(),
            Some(subnet) => {
                self.elsewhere.as_ref().filter(|there| there.subnet == *subnet).map(|there| &there.fact)
            }
        }
    }

    /// Every interface of the node's own.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &InterfaceFact> {
        self.interface.iter().chain(self.elsewhere.iter().map(|there| &there.fact))
    }

    /// An interface of the node's own by its id.
    pub(crate) fn interface_mut(&mut self, id: &InterfaceId) -> Option<&mut InterfaceFact> {
        let there = self.elsewhere.iter_mut().map(|there| &mut there.fact);
        self.interface
            .iter_mut()
            .chain(there)
            .find(|fact| fact.held.as_ref().is_some_and(|held| held.interface == *id))
    }

    /// An interface does not exist any more: where it is needed, another one is made.
    pub(crate) fn forget_interface(&mut self, id: &InterfaceId) {
        if self.elsewhere.as_ref().is_some_and(|there| there.id() == Some(id)) {
            self.elsewhere = None;
        } else if let Some(fact) = self.interface_mut(id) {
            *fact = InterfaceFact::new(None, None);
        }
    }

    /// An interface was made in another subnet than the node was in.
    pub(crate) fn made_elsewhere(&mut self, subnet: &SubnetId, fact: InterfaceFact, by: &OperationId) {
        let there = Elsewhere { subnet: subnet.clone(), fact };
        // The node went on in a third subnet.
        let before = self.elsewhere.replace(there);
        self.things.extend(before.as_ref().and_then(Elsewhere::id).map(|interface| Leftover {
            thing: Thing::Interface { interface: interface.clone() },
            because: format!("{by}: made for an instance that was lost"),
        }));
    }
}

/// The node's own interface in the subnet of the new instance, while it does not exist there.
pub(crate) fn create(op: &Operation) -> Option<Due> {
    let subnet = op.facts.candidate.as_ref()?.pool.subnet.as_ref()?;
    let is_missing = op.order.spec.persist.network == NetworkMode::SecondaryEni
        && op.facts.interface_in(Some(subnet)).is_none();
    is_missing.then(|| network::creation(op, subnet, None))
}

/// The interface that was made in another subnet, while no new instance is there that needs it.
pub(crate) fn spare(op: &Operation) -> Option<Thing> {
    let there = op.facts.elsewhere.as_ref()?;
    let needed = op
        .facts
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.pool.subnet.as_ref() == Some(&there.subnet));
    let interface = there.id().filter(|_| !needed)?.clone();
    Some(Thing::Interface { interface })
}

/// Whether an interface is on no instance, or none of the node's own.
pub(crate) fn is_free(op: &Operation, id: &InterfaceId) -> bool {
    op.facts
        .interfaces()
        .filter(|fact| fact.held.as_ref().is_some_and(|held| held.interface == *id))
        .all(|fact| fact.place == Place::Free)
}

/// Every interface of the node's own that may be seen free now, and the instance it was on.
pub(crate) fn on_fenced(op: &Operation) -> impl Iterator<Item = (InterfaceId, InstanceId)> {
    op.facts.interfaces().filter_map(|fact| match (&fact.place, &fact.held) {
        (Place::On(on), Some(held)) if op.facts.is_fenced(on) => Some((held.interface.clone(), on.clone())),
        _ => None,
    })
}

/// What deletes the interface that was made in another subnet, once it is free and nothing needs it.
pub(crate) fn dispose(op: &Operation) -> Option<Due> {
    let Thing::Interface { interface } = spare(op)? else { return None };
    let is_due = op.is_to_clean(interface.as_str()) && is_free(op, &interface);
    is_due.then(|| Intent::DeleteInterface { interface }.into())
}
