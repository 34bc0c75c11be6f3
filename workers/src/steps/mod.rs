//! Carries out the steps: look, act, look.
//!
//! Every pass begins with a look at the authoritative object (the volume for an attachment, the interface for
//! an address); if it shows what is wanted, the step is settled with that as evidence, whoever did it.
//! Otherwise one act, and the next pass looks again. So a first try, a retry and a recovery are the same
//! code, and a call whose answer was lost is repeated with the same token until a look shows what became of
//! it.

mod address;
mod adopt_root;
mod backup;
mod clone_root;
mod final_snapshot;
mod find;
mod image;
mod instance;
mod interface;
mod memory;
mod own;
mod pass;
mod preserve;
mod prune;
mod release;
mod resolve;
pub(crate) mod runner;
mod snapshot;
mod survey;
mod tags;
mod verify;
mod volume;

pub(crate) use image::of_traits as traits_of;
