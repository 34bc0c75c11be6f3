//! How an operation moves: events are folded into facts, evidence is learned, decisions are drafted, the end
//! is drawn up.
//!
//! An operation is a machine of *facts and rules*:
//!
//! - Evidence becomes facts. The rules of the operation's kind ([`workflow`](crate::workflow)) say which
//!   intents hold under the facts.
//! - An intent without an open step is written as `step_intended`, in the append of the event that made it
//!   possible.
//! - Parallelism is not programmed: every step that the facts allow runs.
//! - There is no separate recovery code: a crash, a retry and a first try fold the same events to the same
//!   facts.
//!
//! ```text
//!              report(token, evidence)                    signal(instance)
//!                        │                                       │
//!                        ▼                                       ▼
//!   step_settled ──► facts ──► rules ──► step_intended …   signal_received / candidate_lost
//!                        │
//!                        ├─ nothing more can be tried ──► stuck ──(resume)──► rules
//!                        └─ everything is in place ─────► finished  (+ the node's operation_finished, atomically)
//! ```
//!
//! # Rules that are never broken
//! - Perennial moves a resource of the node only after it was seen free. A resource is seen free only after
//!   its holder was fenced, or after it was detached without force.
//! - A second instance is launched only when the first launch has settled. An instance that may hold a
//!   resource of the node is fenced before the operation finishes.
//! - A volume that holds the node's data is deleted only by `delete` and `prune`, by id, where the request
//!   says so.

pub mod decide;
pub(crate) mod finish;
pub mod fold;
pub(crate) mod learn;
pub(crate) mod remedy;
pub(crate) mod short_notice;
