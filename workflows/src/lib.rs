//! Perennial's domain: nodes, and the workflows that provision, replace and delete them. Pure and synchronous.

pub mod aws;
