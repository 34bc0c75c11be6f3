//! What this process remembers and counts of capacity.

pub mod on_demand;
pub mod pool;
pub mod refusals;
