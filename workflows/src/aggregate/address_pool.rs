//! An address pool: the private addresses it declares, and which node holds which.
//!
//! An address is taken in the append that starts the node's operation, so two nodes never get the same one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::SubnetId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::spec::address_pool::AddressPoolSpec;
use crate::spec::error::SpecError;

/// The stream of a pool.
#[must_use]
pub fn address_pool_stream(name: &NodeName) -> StreamId {
    StreamId::parse(&format!("address_pool/{name}"))
        .unwrap_or_else(|error| unreachable!("BUG: a pool's name is a stream name: {error}"))
}

/// What happened to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressPoolEvent {
    /// It is like this from now on. What was passed over is tried again.
    Declared {
        /// What it is.
        spec: AddressPoolSpec,
        /// Who asked.
        requested_by: String,
    },
    /// An address belongs to a node.
    Allocated {
        /// Which address.
        address: Ipv4Addr,
        /// Whose it is.
        node: NodeName,
        /// The operation that took it; the last one before, when the file was changed.
        operation: OperationId,
    },
    /// An address belongs to nobody again.
    Released {
        /// Which address.
        address: Ipv4Addr,
        /// Whose it was.
        node: NodeName,
        /// The operation that gave it back; the last one before, when the file was changed.
        operation: OperationId,
    },
    /// An address is given back because somebody else has it; it is passed over until the pool is declared
    /// again.
    PassedOver {
        /// Which address.
        address: Ipv4Addr,
        /// Whose it was to be.
        node: NodeName,
        /// The operation that found it so.
        operation: OperationId,
        /// Who has it.
        because: String,
    },
}

/// What is known of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressPool {
    /// `None` before it is declared.
    pub spec: Option<AddressPoolSpec>,
    /// Whose each address is.
    pub held: BTreeMap<Ipv4Addr, NodeName>,
    /// Addresses that somebody else has in AWS, and who.
    pub passed_over: BTreeMap<Ipv4Addr, String>,
    /// When it last changed.
    pub changed_at_ms: u64,
}

impl AddressPool {
    /// Remembers.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot follow.
    pub fn evolve(mut self, stamp: Stamp, event: &AddressPoolEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match event {
            AddressPoolEvent::Declared { spec, .. } => {
                if self.held.keys().any(|address| !spec.contains(*address)) {
                    return illegal("an address that a node has is not in the pool any more");
                }
                self.passed_over.clear();
                self.spec = Some(spec.clone());
            }
            AddressPoolEvent::Allocated { address, node, .. } => {
                if self.held.contains_key(address) {
                    return illegal("the address belongs to a node already");
                }
                if self.held.values().any(|holder| holder == node) {
                    return illegal("the node has an address of the pool already");
                }
                if !self.spec.as_ref().is_some_and(|spec| spec.contains(*address)) {
                    return illegal("the address is none of the pool's");
                }
                self.held.insert(*address, node.clone());
            }
            AddressPoolEvent::Released { address, node, .. }
            | AddressPoolEvent::PassedOver { address, node, .. } => {
                if self.held.get(address) != Some(node) {
                    return illegal("the address does not belong to the node");
                }
                self.held.remove(address);
                if let AddressPoolEvent::PassedOver { because, .. } = event {
                    self.passed_over.insert(*address, because.clone());
                }
            }
        }
        self.changed_at_ms = stamp.at_ms;
        Ok(self)
    }

    /// Addresses that can be taken, in order.
    pub fn free(&self) -> impl Iterator<Item = Ipv4Addr> {
        let all = self.spec.iter().flat_map(AddressPoolSpec::all);
        all.filter(|address| !self.held.contains_key(address) && !self.passed_over.contains_key(address))
    }

    /// Why it cannot become this, if it cannot.
    ///
    /// # Errors
    /// What stands against it, and what to do.
    pub fn check_change(&self, spec: &AddressPoolSpec) -> Result<(), SpecError> {
        let wrong = |field: &str, why: String| Err(SpecError { field: field.to_owned(), why });
        if let Some((address, node)) = self.held.iter().find(|(address, _)| !spec.contains(**address)) {
            return wrong(
                "addresses",
                format!("{address} belongs to node {node}; leave it in the pool, or delete the node first"),
            );
        }
        match &self.spec {
            Some(old) if old.subnet != spec.subnet && !self.held.is_empty() => wrong(
                "subnet",
                format!("{} nodes have addresses of {}; declare another pool", self.held.len(), old.subnet),
            ),
            _ => Ok(()),
        }
    }
}

/// One line about a pool, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPoolSummary {
    /// Its subnet.
    pub subnet: SubnetId,
    /// How many addresses it has.
    pub addresses: usize,
    /// How many of them belong to nodes.
    pub held: usize,
    /// How many can be taken.
    pub free: usize,
}
