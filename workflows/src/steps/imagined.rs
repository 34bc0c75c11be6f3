//! The imaginary region of a plan: ids and addresses of what a step would make.

use std::net::Ipv4Addr;

use perennial_engine::ids::Token;

use crate::model::aws::{InterfaceId, SnapshotId, VolumeId};
use crate::operation::state::Operation;
use crate::step::intent::Intent;

/// A step of a plan.
pub(crate) struct Imagined<'a> {
    /// The operation.
    pub(crate) state: &'a Operation,
    /// The whole request.
    pub(crate) intent: &'a Intent,
    /// It makes ids distinct.
    pub(crate) token: Token,
}

impl Imagined<'_> {
    /// The end of every new id.
    pub(crate) fn suffix(&self) -> String {
        format!("new{}x{}", self.state.id.number(), self.token)
    }

    pub(crate) fn volume(&self) -> VolumeId {
        imaginary(VolumeId::parse(&format!("vol-{}", self.suffix())))
    }

    pub(crate) fn interface(&self) -> InterfaceId {
        imaginary(InterfaceId::parse(&format!("eni-{}", self.suffix())))
    }

    pub(crate) fn snapshot(&self) -> SnapshotId {
        imaginary(SnapshotId::parse(&format!("snap-{}", self.suffix())))
    }

    /// The node's address, or one that is not known yet.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.state.facts.network.address.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}

pub(crate) fn imaginary<T, E: std::fmt::Display>(parsed: Result<T, E>) -> T {
    parsed.unwrap_or_else(|error| unreachable!("BUG: an imaginary id is well formed: {error}"))
}
