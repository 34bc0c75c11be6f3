//! What every adapter of the two ports must do, as functions that a test calls with a factory.
//!
//! They panic with the sentence that was broken. They read no clock and sleep for no one: where a queue needs
//! time to pass, the suite waits *in* the queue.

pub mod journal;
pub mod queue;
