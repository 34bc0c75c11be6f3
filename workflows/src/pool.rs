//! Pools of private addresses, shared by the nodes with `persist.network: ip_pool`.
//!
//! A pool is an aggregate of its own, stream `pool/<name>`: declared, allocated, released. An address is taken in the same atomic
//! append that starts the node's first operation (or resumes it), and given back in the one that settles `return_address` of its
//! deletion. Appends are compare-and-set on the pool's stream, so two operations at the same moment cannot take one address: the
//! second one decides anew, on what is left.
//!
//! ```text
//!  node.apply ── allocated + started (one append) ── … move_address …          the node lives with it
//!  node.delete ── … fence ── return_address ── settled + released (one append)
//! ```
//!
//! A pool is of one subnet. A node that may live in other subnets names a pool for each (`network.ip_pools_elsewhere`) and has one
//! address of every pool from its registration to its deletion: a move in an emergency needs no free address, and
//! the address in each subnet is known beforehand. A changed file takes from the pools that it adds, and gives back to those that it
//! drops, in the append that changes it; nothing holds the node then, so an address it does not live with is on no interface.
//!
//! A pool without a free address starts the operation `stuck`: a larger pool, or another node's deletion, and a resume takes one. An
//! address that somebody else has in AWS is passed over at the resume, until the pool is declared again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::StreamId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::SubnetId;
use crate::node::{OperationId, OperationKind, Resources};
use crate::operation::{Due, Facts, Operation};
use crate::spec::{NetworkMode, NodeName, NodeSpec, SpecError};
use crate::steps::{Evidence, Intent};

/// The most addresses of one pool: more than a /20 subnet has.
pub const ADDRESSES_MAX: usize = 4_096;
/// The most entries of its list.
pub const RANGES_MAX: usize = 256;

/// The format of a pool file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolSchema {
    /// The first one.
    #[serde(rename = "perennial.pool/v1")]
    V1,
}

/// A pool of private addresses of one subnet: the content of a pool file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// The format of this file.
    pub schema: PoolSchema,
    /// The pool's name, for ever.
    pub name: NodeName,
    /// The subnet its addresses are of; the nodes that use it live there.
    pub subnet: SubnetId,
    /// Single addresses (`10.0.1.10`) and ranges (`10.0.1.20-10.0.1.29`, both ends included), taken in this order.
    #[schemars(length(min = 1, max = 256))]
    pub addresses: Vec<AddressRange>,
}

/// An address, or a range of them.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "AddressRangeText")]
pub struct AddressRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// How an [`AddressRange`] is written.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct AddressRangeText(
    #[schemars(regex(pattern = r"^[0-9]{1,3}([.][0-9]{1,3}){3}(-[0-9]{1,3}([.][0-9]{1,3}){3})?$"))] String,
);

/// Why a text is no address and no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither an address such as 10.0.1.10 nor a range such as 10.0.1.20-10.0.1.29")]
pub struct BadRange {
    text: String,
}

impl AddressRange {
    /// From the first address to the last one.
    ///
    /// # Errors
    /// [`BadRange`].
    pub fn parse(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange { text: text.chars().take(80).collect() };
        let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| bad());
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (address(first)?, address(last)?),
            None => (address(text)?, address(text)?),
        };
        if first <= last { Ok(Self { first, last }) } else { Err(bad()) }
    }

    fn len(self) -> usize {
        usize::try_from(u32::from(self.last) - u32::from(self.first)).unwrap_or(usize::MAX).saturating_add(1)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last
    }

    fn iter(self) -> impl Iterator<Item = Ipv4Addr> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }
}

impl TryFrom<String> for AddressRange {
    type Error = BadRange;
    fn try_from(text: String) -> Result<Self, BadRange> {
        Self::parse(&text)
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            f.pad(&self.first.to_string())
        } else {
            f.pad(&format!("{}-{}", self.first, self.last))
        }
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PoolSpec {
    /// Checks what the form alone cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        let wrong = |field: String, why: String| Err(SpecError { field, why });
        if self.addresses.is_empty() || self.addresses.len() > RANGES_MAX {
            return wrong("addresses".into(), format!("name between 1 and {RANGES_MAX} addresses or ranges"));
        }
        let all = self.addresses.iter().fold(0_usize, |sum, range| sum.saturating_add(range.len()));
        if all > ADDRESSES_MAX {
            return wrong("addresses".into(), format!("{all} addresses; at most {ADDRESSES_MAX}"));
        }
        for (i, range) in self.addresses.iter().enumerate() {
            let overlaps = |other: &&AddressRange| other.first <= range.last && range.first <= other.last;
            if let Some(other) = self.addresses[..i].iter().find(overlaps) {
                return wrong(format!("addresses[{i}]"), format!("{range} overlaps {other}; name each once"));
            }
        }
        Ok(())
    }

    /// Every address, in order.
    pub fn all(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().flat_map(|range| range.iter())
    }

    /// Whether an address is one of its.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|range| range.contains(address))
    }
}

/// The stream of a pool.
#[must_use]
pub fn pool_stream(name: &NodeName) -> StreamId {
    StreamId::parse(&format!("pool/{name}"))
        .unwrap_or_else(|error| unreachable!("BUG: a pool's name is a stream name: {error}"))
}

/// What happened to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolEvent {
    /// It is like this from now on. What was passed over is tried again.
    Declared {
        /// What it is.
        spec: PoolSpec,
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
    /// An address is given back because somebody else has it; it is passed over until the pool is declared again.
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
    pub spec: Option<PoolSpec>,
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
    pub fn evolve(mut self, stamp: Stamp, event: &PoolEvent) -> Result<Self, Illegal> {
        let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
        match event {
            PoolEvent::Declared { spec, .. } => {
                if self.held.keys().any(|address| !spec.contains(*address)) {
                    return illegal("an address that a node has is not in the pool any more");
                }
                self.passed_over.clear();
                self.spec = Some(spec.clone());
            }
            PoolEvent::Allocated { address, node, .. } => {
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
            PoolEvent::Released { address, node, .. } | PoolEvent::PassedOver { address, node, .. } => {
                if self.held.get(address) != Some(node) {
                    return illegal("the address does not belong to the node");
                }
                self.held.remove(address);
                if let PoolEvent::PassedOver { because, .. } = event {
                    self.passed_over.insert(*address, because.clone());
                }
            }
        }
        self.changed_at_ms = stamp.at_ms;
        Ok(self)
    }

    /// Addresses that can be taken, in order.
    pub fn free(&self) -> impl Iterator<Item = Ipv4Addr> {
        let all = self.spec.iter().flat_map(PoolSpec::all);
        all.filter(|address| !self.held.contains_key(address) && !self.passed_over.contains_key(address))
    }

    /// Why it cannot become this, if it cannot.
    ///
    /// # Errors
    /// What stands against it, and what to do.
    pub fn check_change(&self, spec: &PoolSpec) -> Result<(), SpecError> {
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
pub struct PoolSummary {
    /// Its subnet.
    pub subnet: SubnetId,
    /// How many addresses it has.
    pub addresses: usize,
    /// How many of them belong to nodes.
    pub held: usize,
    /// How many can be taken.
    pub free: usize,
}

/// Addresses that are taken from a node's pools together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Granted {
    /// Where the node lives.
    pub here: Option<Ipv4Addr>,
    /// In other subnets that it may live in.
    pub elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
}

/// Checks what a node file says of pools.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(spec: &NodeSpec) -> Result<(), SpecError> {
    let wrong = |field: &str, why: String| Err(SpecError { field: field.to_owned(), why });
    let (network, elsewhere) = (&spec.network, &spec.network.ip_pools_elsewhere);
    if spec.persist.network != NetworkMode::IpPool {
        let needs = "needs `persist.network: ip_pool`; remove it".to_owned();
        return match (&network.ip_pool, elsewhere.is_empty()) {
            (Some(_), _) => wrong("network.ip_pool", needs),
            (None, false) => wrong("network.ip_pools_elsewhere", needs),
            (None, true) => Ok(()),
        };
    }
    let Some(home) = &network.ip_pool else {
        return wrong("network.ip_pool", "name the pool that the address comes from".to_owned());
    };
    if spec.private_ip.is_some() {
        return wrong("private_ip", "the address comes from `network.ip_pool`; remove it".to_owned());
    }
    let others = &spec.capacity.other_subnets;
    if let Some(i) = others.iter().position(|other| !elsewhere.contains_key(other)) {
        let why = format!(
            "the node's address there comes from a pool as well; name one of {} in `network.ip_pools_elsewhere`, or remove the subnet",
            others[i]
        );
        return wrong(&format!("capacity.other_subnets[{i}]"), why);
    }
    let mut named = vec![home];
    for (subnet, pool) in elsewhere {
        let field = format!("network.ip_pools_elsewhere.{subnet}");
        if !others.contains(subnet) {
            let why = "is none of `capacity.other_subnets`; add it there, or remove the pool".to_owned();
            return wrong(&field, why);
        }
        if named.contains(&pool) {
            let why =
                format!("the pool {pool} is named already, and has addresses of one subnet; name another");
            return wrong(&field, why);
        }
        named.push(pool);
    }
    Ok(())
}

/// The pools of an operation's node, by subnet, with the address it has of each.
fn pools_of(op: &Operation) -> impl Iterator<Item = (&SubnetId, &NodeName, Option<Ipv4Addr>)> {
    op.order.spec.ip_pools().map(|(subnet, pool)| (subnet, pool, op.facts.address_in(subnet)))
}

impl Facts {
    /// The node's address in a subnet, as far as it has one there or one is kept for it.
    pub(crate) fn address_in(&self, subnet: &SubnetId) -> Option<Ipv4Addr> {
        if *subnet == self.subnet { self.address } else { self.addresses_elsewhere.get(subnet).copied() }
    }

    /// Addresses were taken from the node's pools.
    pub(crate) fn granted(&mut self, here: Option<Ipv4Addr>, elsewhere: &BTreeMap<SubnetId, Ipv4Addr>) {
        self.address = here.or(self.address);
        self.addresses_elsewhere.extend(elsewhere.clone());
    }

    /// An address is its pool's again.
    pub(crate) fn returned(&mut self, subnet: &SubnetId) {
        if *subnet == self.subnet {
            (self.address, self.address_on) = (None, None);
        } else {
            self.addresses_elsewhere.remove(subnet);
        }
    }

    /// The addresses it has in other subnets than that of an instance that carries it now.
    pub(crate) fn addresses_but_in(&self, subnet: &SubnetId) -> BTreeMap<SubnetId, Ipv4Addr> {
        let mut left = self.addresses_elsewhere.clone();
        if left.remove(subnet).is_some() {
            left.extend(self.address.map(|address| (self.subnet.clone(), address)));
        }
        left
    }
}

/// What is wrong while a node that is to have an address of each of its pools lacks one: the operation cannot go on.
pub(crate) fn missing(op: &Operation) -> Option<(String, String)> {
    if op.order.kind != OperationKind::Provision || op.facts.undoing {
        return None;
    }
    let (_, pool, _) = pools_of(op).find(|(_, _, address)| address.is_none())?;
    let because = format!("pool {pool} has no free address");
    let needs = format!(
        "a larger pool (`perennial pool apply -f FILE`) or the deletion of another node; then: perennial workflow resume {}",
        op.id
    );
    Some((because, needs))
}

/// Whether one of its pools has had no address for it so far.
pub(crate) fn lacks_address(op: &Operation) -> bool {
    pools_of(op).any(|(_, _, address)| address.is_none())
}

/// In which subnet somebody else has an address that the node has never lived with, and who: another one can be taken.
pub(crate) fn held_by_stranger(op: &Operation) -> Option<(SubnetId, String)> {
    if op.facts.undoing {
        return None;
    }
    let last = op.steps.values().rev().find(|record| matches!(*record.intent, Intent::MoveAddress { .. }))?;
    let Intent::MoveAddress { address: Some(asked), .. } = *last.intent else { return None };
    // An address it has now, not one that was given up already.
    let (subnet, _, _) = pools_of(op).find(|(subnet, _, address)| {
        let is_new = op.order.kind == OperationKind::Provision || **subnet != op.facts.subnet;
        is_new && *address == Some(asked)
    })?;
    match &last.outcome {
        Some((Evidence::HeldByAnother { by, .. }, _)) => Some((subnet.clone(), by.clone())),
        _ => None,
    }
}

/// The next address that is to go back to its pool: the node ends.
pub(crate) fn give_back(op: &Operation) -> Option<Due> {
    let ends = op.order.kind == OperationKind::Delete && !op.facts.undoing
        || op.order.kind == OperationKind::Provision && op.facts.undoing;
    // What was being asked for settles first: it may still put the address on an interface.
    let is_settled = op.facts.holders.iter().all(|holder| holder.fenced) && !op.has_open("move_address");
    if !ends || !is_settled {
        return None;
    }
    let (subnet, pool, address) =
        pools_of(op).find_map(|(subnet, pool, address)| Some((subnet, pool, address?)))?;
    Some(
        Intent::ReturnAddress { pool: pool.clone(), subnet: subnet.clone(), address, own: op.own_tags() }
            .into(),
    )
}

impl Resources {
    /// The file names other pools: addresses were taken from those it names now, those of others were given back.
    pub(crate) fn repool(&mut self, old: &NodeSpec, new: &NodeSpec, taken: &BTreeMap<SubnetId, Ipv4Addr>) {
        self.addresses_elsewhere.retain(|subnet, _| old.pool_in(subnet) == new.pool_in(subnet));
        self.addresses_elsewhere.extend(taken.clone());
    }
}

impl NetworkMode {
    /// Whether the node's address is a secondary one that moves from interface to interface.
    #[must_use]
    pub const fn moves_address(self) -> bool {
        match self {
            Self::SecondaryIp | Self::IpPool => true,
            Self::PrimaryEni | Self::SecondaryEni | Self::None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(addresses: &[&str]) -> PoolSpec {
        PoolSpec {
            schema: PoolSchema::V1,
            name: NodeName::parse("brokers").unwrap(),
            subnet: SubnetId::parse("subnet-1").unwrap(),
            addresses: addresses.iter().map(|text| AddressRange::parse(text).unwrap()).collect(),
        }
    }

    #[test]
    fn a_range_has_both_its_ends_and_one_spelling() {
        let all: Vec<String> =
            spec(&["10.0.1.9", "10.0.1.20-10.0.1.22"]).all().map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.0.1.9", "10.0.1.20", "10.0.1.21", "10.0.1.22"]);
        for wrong in ["", "10.0.1", "10.0.1.9-", "10.0.1.9-10.0.1.8", "10.0.1.9 - 10.0.1.10", "10.0.1.0/24"] {
            assert!(AddressRange::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_list_is_named_with_its_field() {
        let field = |addresses: &[&str]| spec(addresses).check().unwrap_err().field;
        assert_eq!(field(&[]), "addresses");
        assert_eq!(field(&["10.0.0.0-10.0.255.255"]), "addresses");
        assert_eq!(field(&["0.0.0.0-255.255.255.255"]), "addresses");
        assert_eq!(field(&["10.0.1.1-10.0.1.9", "10.0.1.20", "10.0.1.9"]), "addresses[2]");
        spec(&["10.0.1.1-10.0.1.9", "10.0.1.10"]).check().unwrap();
    }
}
