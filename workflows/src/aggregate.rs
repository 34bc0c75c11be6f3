//! Streams that outlive an operation: the node, its backup catalog, address pools, the inbox, the
//! installation, and the engine.

pub mod address_pool;
pub mod backup_catalog;
pub mod engine;
pub mod inbox;
pub mod installation;
pub mod node;
