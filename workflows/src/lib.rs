//! Perennial's domain: nodes, and the workflows that provision, replace and delete them. It is pure and
//! synchronous: no clock, no randomness, no AWS SDK.
//!
//! The folders are layers. Imports run downward only; `tests/tests/architecture.rs` fails on any other
//! import.
//!
//! - [`model`]: nouns, plain data
//! - [`spec`]: the node file and the address-pool file, with their checks
//! - [`step`]: the requests of steps, and what each step can observe
//! - [`aggregate`]: streams that outlive an operation
//! - [`operation`]: one operation as data
//! - [`rules`]: the steps that the facts of an operation call for, one file per subject
//! - [`steps`]: everything about a step but its request, one file per step
//! - [`workflow`]: the kinds of operations, one file each: its essay, its steps, its rules
//! - [`machine`]: how an operation moves
//! - [`domain`]: all of it as the engine's `Domain`
//! - [`view`]: plans, histories and schemas, for people

pub mod aggregate;
pub mod domain;
pub mod machine;
pub mod model;
pub mod operation;
pub mod rules;
pub mod spec;
pub mod step;
pub mod steps;
pub mod view;
pub mod workflow;
