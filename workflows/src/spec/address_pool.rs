//! Pools of private addresses, shared by the nodes with `persist.network: ip_pool`.
//!
//! A pool is an aggregate of its own. Its stream is `address_pool/<name>`. Its events are declared, allocated
//! and released. The append that starts the node's first operation (or resumes it) also allocates the
//! address. The append that settles `return_address` of the node's deletion also releases it. Appends are
//! compare-and-set on the pool's stream, so two simultaneous operations cannot take the same address: the
//! second one decides again, on the addresses that are left.
//!
//! ```text
//!  node.apply ── allocated + started (one append) ── … move_address …     the node uses the address
//!  node.delete ── … fence ── return_address ── settled + released (one append)
//! ```
//!
//! A pool belongs to one subnet. A node that may live in other subnets names a pool for each of them
//! (`network.ip_pools_elsewhere`). It has one address of every pool from its registration to its deletion.
//! Therefore an emergency move needs no free address, and the address in each subnet is known beforehand.
//!
//! The append that changes a node file also takes addresses from the pools that the file adds, and returns
//! addresses to the pools that it drops. No operation holds the node at that time, so an address that the
//! node does not use is on no interface.
//!
//! If a pool has no free address, the operation starts `stuck`. Once the pool is larger, or another node is
//! deleted, a resume takes an address. A resume skips an address that another tenant uses in AWS, until the
//! pool is declared again.

use std::fmt;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::SubnetId;
use crate::model::name::NodeName;
use crate::spec::error::SpecError;
use crate::spec::node::NetworkMode;

/// The most addresses of one pool. A /20 subnet has fewer.
pub const ADDRESSES_MAX: usize = 4_096;

/// The most entries in the list of a pool.
pub const RANGES_MAX: usize = 256;

/// The format of a pool file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressPoolSchema {
    /// The first one.
    #[serde(rename = "perennial.pool/v1")]
    V1,
}

/// A pool of private addresses of one subnet: the content of a pool file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressPoolSpec {
    /// The format of this file.
    pub schema: AddressPoolSchema,
    /// The pool's name, for ever.
    pub name: NodeName,
    /// The subnet of its addresses. The nodes that use the pool live in this subnet.
    pub subnet: SubnetId,
    /// Single addresses (`10.0.1.10`) and ranges (`10.0.1.20-10.0.1.29`, both ends included). They are taken
    /// in this order.
    #[schemars(length(min = 1, max = 256))]
    pub addresses: Vec<AddressRange>,
}

/// An address, or a range of addresses.
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

/// Why a text is neither an address nor a range.
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

impl AddressPoolSpec {
    /// Checks the rules that the types do not express.
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

    /// Whether an address belongs to the pool.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|range| range.contains(address))
    }
}

impl NetworkMode {
    /// Whether the node's address is a secondary address that moves from interface to interface.
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

    fn spec(addresses: &[&str]) -> AddressPoolSpec {
        AddressPoolSpec {
            schema: AddressPoolSchema::V1,
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
