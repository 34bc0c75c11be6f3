//! The kinds of operations, one file each: the essay, the table of steps, the rules, and what the end
//! leaves.

pub mod delete;
pub mod dispatch;
pub mod grow;
pub mod pause;
pub mod provision;
pub mod prune;
pub mod replace;
pub mod take_volumes;
pub mod undo;
