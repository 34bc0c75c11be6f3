//! The answers of the journal for any client: a command line, an HTTP API, a dashboard.
//!
//! | module | what |
//! | --- | --- |
//! | [`model`] | the answers: plain data, each with a JSON Schema |
//! | [`query`] | [`Views`]: the questions, over any adapter of the engine's port [`Journal`] |
//! | [`redact`] | what may be secret is left out of every answer |
//! | [`schemas`] | the JSON Schemas of the answers |
//!
//! Nothing here prints, sleeps, opens a file or knows a database or a cloud. The time is an argument. A
//! program that renders an answer needs nothing but its model.
//!
//! [`Journal`]: perennial_engine::journal::Journal

pub mod model;
pub mod query;
pub mod redact;
pub mod schemas;

pub use query::{QueryError, Views};
