//! For people: what happened.
