//! Perennial's domain: nodes, and the workflows that provision, replace and delete them. Pure and synchronous: no clock, no
//! randomness, no AWS SDK.
//!
//! - [`spec`]: the node file · [`submission`]: the queue message · [`signal`]: what is heard
//! - [`node`]: the aggregate · [`operation`]: the machine of facts and rules
//! - [`provision`], [`replace`], [`delete`]: each opened by its essay and table
//! - [`backup`]: snapshots of a node's volumes while it runs, in books of their own
//! - [`final_backup`]: the last ones of an instance, when its volumes are free
//! - [`ahead`]: snapshots that only another zone would need, and which snapshot is still of its volume
//! - [`found`]: volumes that somebody attached by hand · [`prune`]: what is retained is deleted
//! - [`capacity`]: which pool is asked next, and when · [`survey`]: which pools there are, [`requirements`]: what the file says
//!   of them · [`windows`]: when a node may be moved
//! - [`steps`]: intents and evidence · [`letter`]: what came through a queue and what became of it
//! - [`domain`]: all of it as the engine's `Domain` · [`plan`], [`history`]: for people

pub mod ahead;
pub mod aws;
pub mod backup;
pub mod bootable;
pub mod capacity;
pub mod delete;
pub mod domain;
pub mod elsewhere;
pub mod final_backup;
pub mod found;
mod from_backup;
pub mod grow;
pub mod hint;
pub mod history;
pub mod keeping;
pub mod letter;
pub mod loss;
pub mod network;
pub mod node;
mod notice;
pub mod operation;
pub mod pause;
pub mod plan;
pub mod pool;
pub mod provision;
pub mod prune;
pub mod replace;
pub mod requirements;
pub mod schemas;
pub mod signal;
pub mod spec;
pub mod steps;
pub mod submission;
pub mod survey;
pub mod uefi;
pub mod windows;

mod acquire;
mod carriage;
mod cloning;
mod devices;
mod hanging;
mod release;
mod taken;
mod undo;
