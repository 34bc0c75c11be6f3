//! What is looked at every so often, whatever the queues say.

mod attachment_drift;
pub mod driver;
pub mod return_to_spot;
pub mod sweep;
