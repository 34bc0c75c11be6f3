//! Streams that outlive an operation: the node, its backup catalog, address pools, and the inbox.

pub mod address_pool;
pub mod backup_catalog;
pub mod inbox;
pub mod node;
