//! Views for people: the plan of an operation, the history of a node, the JSON Schemas of what comes in and
//! goes out.

pub mod history;
pub mod plan;
pub mod schemas;
