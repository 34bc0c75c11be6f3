//! What stands between the port and its callers.

mod bucket;
pub mod catalogue;
pub(crate) mod line;
pub mod observer;
pub mod planner;
mod published;
pub mod region_time;
mod trouble;
