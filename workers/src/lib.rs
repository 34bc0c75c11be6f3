//! Perennial's workers: the port [`Cloud`](port::Cloud), its EC2 adapter, and what carries out the steps of
//! the workflows.
//!
//! Imports run only downward, in this order (lowest first):
//!
//! - [`port`]: the calls we make to EC2, in our words
//! - `aws`: the adapters over the AWS SDK
//! - [`cloud`]: what stands between the port and its callers: budgets, joined describes, the catalogue of
//!   types
//! - [`capacity`]: what this process remembers and counts of capacity
//! - `herald`: what a person must know, in the log
//! - `standing`: whether the world is the one that the journal knows
//! - `steps`: carries out the steps of the workflows
//! - [`preflight`]: what can be known about a node file before anything is made
//! - [`ingest`]: messages of the queues into the journal
//! - [`periodic`]: what is looked at every so often
//! - [`service`]: all of it, running; [`adoption`]: what the account shows of a node

pub mod adoption;
#[cfg(feature = "aws")]
pub mod aws;
pub mod capacity;
pub mod cloud;
mod herald;
pub mod ingest;
mod pages;
pub mod periodic;
pub mod port;
pub mod preflight;
pub mod service;
mod standing;
mod steps;
