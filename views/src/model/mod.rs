//! The answers: plain data, made from the state of a stream by pure functions.
//!
//! The field names are what `--output json` prints; they are stable. Times are milliseconds since the Unix
//! epoch (`…_at_ms`), lengths of time are milliseconds (`…_ms`).

pub mod address_pool;
pub mod audit;
pub mod backups;
pub mod diff;
pub mod doctor;
pub mod history;
pub mod journal;
pub mod node;
pub mod plan;
pub mod progress;
pub mod prune;
pub mod server;
pub mod status;
pub mod submission;
pub mod waits;
pub mod workflow;
