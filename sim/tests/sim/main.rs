//! A whole Perennial over the simulated region: one binary, a module a subject.
//!
//! `cargo test -p perennial-sim --test sim storms` runs one module of it.

mod critical_path;
mod lab;
mod mass;
mod nodes;
mod outsiders;
mod sweep;

mod address_retention;
mod another_file;
mod attached_volumes;
mod backups;
mod bounds;
mod cancel;
mod capacity;
mod clocks;
mod crash_points;
mod examples;
mod existing_volumes;
mod final_snapshots;
mod grow;
mod identity;
mod idle;
mod interface_elsewhere;
mod lifecycle;
mod mass_recovery;
mod messages;
mod modes;
mod network;
mod policy;
mod prune;
mod refusals;
mod regressions;
mod replacement;
mod restore;
mod restore_as_new;
mod roots;
mod signals;
mod situations;
mod snapshot_ahead;
mod storms;
mod survey;
mod termination;
mod trouble;
mod volumes;
#[cfg(feature = "wire")]
mod wire;
