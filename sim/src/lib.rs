//! A simulated EC2 region, close enough to the real one that the workflows' safety can be tested on it.
//!
//! Two layers; all of EC2's behaviour is in the first:
//!
//! - [`world`]: the region itself, a synchronous, seeded, deterministic state machine. Time is an argument
//!   of every call; the same seed and the same calls give the same world.
//! - [`cloud`]: [`cloud::SimRegion`] puts a clock, call latencies, faults and crash points around it and
//!   implements the port [`perennial_workers::port::Cloud`].
//!
//! [`policy`] evaluates IAM policies at the calls.
//!
//! A third layer puts the same region on the wire, for real clients: `wire` (a cargo feature, default on)
//! speaks EC2's query protocol, SQS's JSON protocol and parts of STS, EventBridge, Systems Manager, ELBv2 and
//! IMDS.
//!
//! Unlike the public emulators of EC2, it models client tokens, states that take time, DeleteOnTermination,
//! refusals by state with EC2's codes, spot requests and interruptions with their events, capacity, request
//! quotas, eventual consistency, volume contents (so that a test can prove that no write was lost), and
//! faults before or after the effect of a call.

pub mod cloud;
pub mod faults;
pub mod policy;
#[cfg(feature = "wire")]
pub mod wire;
pub mod world;
