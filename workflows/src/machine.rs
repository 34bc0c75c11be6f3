//! How an operation moves: events are folded into facts, evidence is learned, decisions are drafted, the
//! end is drawn up.

pub mod decide;
pub(crate) mod finish;
pub mod fold;
pub(crate) mod learn;
pub(crate) mod remedy;
pub(crate) mod short_notice;
