//! For people: what would happen.
