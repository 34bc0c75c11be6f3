//! End-to-end tests.

pub mod emulators;
