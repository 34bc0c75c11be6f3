//! How an operation moves: events are folded into facts, evidence is learned, decisions are drafted, the
//! end is drawn up.

pub mod decide;
mod finish;
mod first_facts;
pub mod fold;
pub mod moves;
pub mod refusal;
mod short_notice;
mod way_out;
