//! The node file and the address-pool file, with every check of them.

pub mod address_pool;
pub mod backup;
pub mod checks;
pub mod error;
pub mod node;
pub mod requirements;
pub mod signals;
pub mod windows;
