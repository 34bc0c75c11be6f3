//! How an operation moves: events are folded into facts, evidence is learned, decisions are drafted, the
//! end is drawn up.

mod consequence;
pub mod decide;
mod finish;
pub mod fold;
mod learn;
pub mod moves;
pub mod refusal;
mod remedy;
mod short_notice;
mod start;
mod way_out;
