//! Perennial's domain: nodes, and the workflows that provision, replace and delete them. Pure and
//! synchronous: no clock,
//! no randomness, no AWS SDK.
//!
//! The folders are layers; imports run downward only, and `tests/tests/architecture.rs` fails on any other:
//!
//! - [`model`]: nouns, plain data
//! - [`spec`]: the node file and the address-pool file, with their checks
//! - [`step`]: what a step asks for, and what it can observe
//! - [`aggregate`]: streams that outlive an operation
//! - [`operation`]: one operation as data
//! - [`rules`]: what holds under the facts of an operation, a file a subject
//! - [`workflow`]: one kind of operation a file: its essay, its table of steps, its rules
//! - [`machine`]: how an operation moves
//! - [`domain`]: everything as the engine's `Domain`
//! - [`view`]: for people

pub mod aggregate;
pub mod domain;
pub mod machine;
pub mod model;
pub mod operation;
pub mod rules;
pub mod spec;
pub mod step;
pub mod view;
pub mod workflow;
