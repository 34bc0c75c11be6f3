//! What stands between the port and its callers.

pub mod budget;
pub mod catalogue;
pub mod observer;
pub mod region_time;
mod trouble;
