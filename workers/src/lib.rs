//! Perennial's workers: the port [`cloud::Cloud`], its EC2 adapter, and what carries out the steps of the workflows.

pub mod classify;
pub mod cloud;

#[cfg(feature = "aws")]
pub mod aws;
