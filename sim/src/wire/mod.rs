//! The region on the wire: one process that real AWS clients take for a region.
//!
//! ```text
//!  boto3, AWS CLI, aws-sdk-*            a rehearsal                  software inside an instance
//!        │ EC2 query, SQS JSON,              │ JSON                        │ IMDS
//!        │ STS, EventBridge, SSM, ELBv2      │ /_region/…                  │ /imds/<instance>/latest/…
//!        ▼                                   ▼                             ▼
//!   ┌─ http ──────── faults, latency, lost requests and replies ───────────────────────┐
//!   │ ec2 (params, xml)   sqs    events  ssm  elb  control                   imds      │
//!   └───────────────────────────────┬──────────────────────────────────────────────────┘
//!                         region: World · queues · rules · time · journal
//! ```
//!
//! EC2's behaviour is the [`World`](crate::world::World)'s, the same that the in-process simulation has; this
//! module translates. Signatures are **not** checked, every caller is the same account, and every client that
//! reaches the port may do everything: bind it to loopback.
//!
//! # Time
//! The region's clock may run faster than the machine's, stand still, or jump. Queues keep the machine's
//! time.
//!
//! # State
//! With a state directory every call that changes something is appended to a log *before* it takes effect,
//! and is on disk before anything is answered that follows from it. A start reads the last snapshot and makes
//! the calls since again, at their times; the world is deterministic, so that it is the same afterwards.
//! Neither a `kill -9` nor a power failure loses an answered call. The region's time stands still while no
//! process serves it.
//!
//! World, queues, rules and the region's time survive a restart. The clock's speed, the faults and the list
//! of calls belong to the process and do not.

mod client;
pub mod config;
mod control;
mod deeds;
mod ec2;
mod elb;
mod events;
mod http;
mod imds;
mod options;
mod params;
mod patterns;
mod public_parameters;
mod queues;
mod region;
mod rules;
mod server;
mod sqs;
mod ssm;
mod transform;
mod xml;

pub use client::{ControlError, RegionClient};
pub use options::{Options, RECEIVES_MAX, StartError, wire_settings};
pub use rules::EventTrouble;
pub use server::{RegionServer, run};
pub use sqs::model::Trouble as QueueTrouble;
