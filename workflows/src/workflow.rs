//! The kinds of operations, one file each: the essay, the steps, the rules, and what the node has at the end.

pub mod adopt_volumes;
pub mod delete;
pub mod dispatch;
pub mod grow;
pub mod pause;
pub mod provision;
pub mod prune;
pub mod replace;
pub mod undo;
