//! Perennial's engine: event-sourced workflows over two ports, the journal and the queue.
//!
//! The engine knows no cloud, no database and no node. It loads streams, lets a pure
//! [`Domain`](domain::Domain) decide, appends what was decided atomically, and rings doorbells for the steps
//! that are open after it. First try, retry and recovery are the same path: load, fold, see which steps are
//! open, ring.
//!
//! - [`ids`], [`journal`], [`queue`], [`clock`], [`retry`]: the shapes and ports
//! - [`domain`]: what a domain is (decide, evolve, project)
//! - [`machine`]: what every workflow of a domain does with its steps
//! - [`reading`]: what a command reads, to a fixed point
//! - [`engine`]: commands in, atomic appends out
//! - [`projection`]: what streams show, folded anew from all events
//! - [`dispatcher`]: doorbells in, reports out; and the timers (`timers.rs`)
//! - [`limits`], [`shutdown`]: how much of it runs at once, and how it is told to stop
//! - [`memory`]: both ports in memory, for tests and as the reference of the conformance suites
//! - [`intercept`]: a journal whose appends pass through something else, for tests

mod cache;
pub mod clock;
pub mod dispatcher;
pub mod domain;
pub mod engine;
pub mod few;
pub mod ids;
pub mod intercept;
pub mod journal;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod projection;
pub mod queue;
pub mod reading;
pub mod retry;
pub mod shutdown;
mod slots;
mod timers;
mod turns;
mod wake;
mod watched;
