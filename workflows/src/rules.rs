//! The steps that the facts of an operation call for: pure functions, one file per subject. No file here
//! knows which kind of operation asks.

pub(crate) mod acquire;
pub(crate) mod address_pool;
pub(crate) mod address_retention;
pub mod attached_volumes;
pub(crate) mod candidate;
pub mod capacity;
pub(crate) mod cleanup;
pub(crate) mod device_names;
pub(crate) mod existing_volumes;
pub(crate) mod fence;
pub(crate) mod final_snapshot;
pub(crate) mod handover;
pub(crate) mod interface;
pub(crate) mod launch_refused;
pub mod ranking;
pub(crate) mod recovery_point;
pub(crate) mod release;
pub(crate) mod remains;
pub(crate) mod root_clone;
pub(crate) mod short_notice;
pub(crate) mod snapshot_ahead;
pub(crate) mod superseded;
pub(crate) mod survey;
pub(crate) mod transfer;
pub(crate) mod uefi;
pub(crate) mod urgency;
