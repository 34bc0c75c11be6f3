//! What this process remembers and counts of capacity.

pub mod on_demand;
pub mod refusals;
