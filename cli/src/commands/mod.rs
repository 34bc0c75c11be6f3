//! The commands: each reads its arguments, asks or submits, and hands the answer to [`crate::output`].

pub(crate) mod address_pool;
pub(crate) mod adopt;
pub(crate) mod apply;
pub(crate) mod args;
pub(crate) mod audit;
pub(crate) mod confirm;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod files;
pub(crate) mod journal;
pub(crate) mod list;
pub(crate) mod node;
pub(crate) mod pages;
pub(crate) mod policy;
pub(crate) mod preflight;
pub(crate) mod present;
pub(crate) mod prune;
#[cfg(feature = "region")]
pub(crate) mod region;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod signals;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod watch;
pub(crate) mod workflow;
