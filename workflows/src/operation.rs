//! One operation as data, and the questions that can be asked about it.

pub mod cleanup;
pub mod event;
pub mod facts;
pub mod state;
