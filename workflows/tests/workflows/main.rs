//! The domain alone, without a world: one binary, a module a subject.
//!
//! `cargo test -p perennial-workflows --test workflows tables` runs one module of it.

mod desk;
mod run;

mod address_pools;
mod another_file;
mod backups;
mod exhaustive;
mod laws;
mod prune;
mod regressions;
mod signals;
mod survey;
mod tables;
mod timers;
