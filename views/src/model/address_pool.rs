//! Address pools: private addresses that nodes share.

use perennial_workflows::aggregate::address_pool::{AddressPool, AddressPoolSummary};
use perennial_workflows::model::aws::SubnetId;
use perennial_workflows::model::name::NodeName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One line of `pool list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressPoolLine {
    /// The pool.
    pub name: String,
    /// Its subnet.
    pub subnet: SubnetId,
    /// How many addresses it has.
    pub addresses: usize,
    /// How many of them belong to nodes.
    pub held: usize,
    /// How many can be taken.
    pub free: usize,
}

impl AddressPoolLine {
    /// Makes the line of a pool from its summary.
    #[must_use]
    pub fn new(name: &str, summary: AddressPoolSummary) -> Self {
        let AddressPoolSummary { subnet, addresses, held, free } = summary;
        Self { name: name.to_owned(), subnet, addresses, held, free }
    }
}

/// The answer of `pool show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressPoolView {
    /// The pool.
    pub name: NodeName,
    /// Its subnet.
    pub subnet: String,
    /// Its addresses and ranges, as its file lists them.
    pub addresses: Vec<String>,
    /// The addresses that belong to nodes.
    pub held: Vec<HeldAddress>,
    /// The addresses that are not given out, and why.
    pub passed_over: Vec<PassedOver>,
    /// The addresses that can be taken.
    pub free: Vec<String>,
}

/// An address that belongs to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldAddress {
    /// The address.
    pub address: String,
    /// The node.
    pub node: NodeName,
}

/// An address that is not given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassedOver {
    /// The address.
    pub address: String,
    /// Why.
    pub because: String,
}

impl AddressPoolView {
    /// Makes the view of a pool; `None` if it was never declared.
    #[must_use]
    pub fn new(name: &NodeName, pool: &AddressPool) -> Option<Self> {
        let spec = pool.spec.as_ref()?;
        let held = pool.held.iter();
        let passed_over = pool.passed_over.iter();
        Some(Self {
            name: name.clone(),
            subnet: spec.subnet.to_string(),
            addresses: spec.addresses.iter().map(ToString::to_string).collect(),
            held: held
                .map(|(address, node)| HeldAddress { address: address.to_string(), node: node.clone() })
                .collect(),
            passed_over: passed_over
                .map(|(address, because)| PassedOver {
                    address: address.to_string(),
                    because: because.clone(),
                })
                .collect(),
            free: pool.free().map(|address| address.to_string()).collect(),
        })
    }
}
