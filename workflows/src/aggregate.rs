//! Streams that outlive an operation: the node, its backup catalog, address pools, the inbox, and the
//! installation.

pub mod address_pool;
pub mod backup_catalog;
pub mod inbox;
pub mod installation;
pub mod node;
