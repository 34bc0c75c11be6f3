//! Perennial's workers: the port [`cloud::Cloud`], its EC2 adapter, and what carries out the steps of the workflows.

pub mod backups;
pub mod budget;
pub mod catalogue;
pub mod classify;
pub mod cloud;
pub mod events;
pub mod ingest;
pub mod observer;
pub mod on_demand;
pub mod pools;
pub mod prunes;
pub mod returns;
pub mod runner;
pub mod service;
mod strays;
pub mod sweep;

#[cfg(feature = "aws")]
pub mod aws;
