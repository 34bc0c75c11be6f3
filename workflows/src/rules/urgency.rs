//! What goes first when steps wait for the same thing: a running slot, or a call that the account may make.
//!
//! 1. Whatever an operation does that has a time: its instance is taken then. The earliest time goes first.
//! 2. What brings a node back that has its new instance: it is nearest to its end.
//! 3. Launches.
//! 4. What is cleaned up: no node waits for it.
//! 5. Backups.
//!
//! Within a row the step that was intended first goes first. Then the nodes of a large loss come back one
//! after the other, and not all of them at its end.

use crate::operation::state::Operation;
use crate::step::intent::Intent;

/// Of an operation that has a time.
const HAS_A_TIME: i32 = -10;

/// Finishes what has an instance, and all else that a node waits for.
const FINISHES: i32 = 0;

const LAUNCHES: i32 = 2;

const CLEANS: i32 = 5;

/// Takes backups, and deletes superseded ones.
pub(crate) const BACKS_UP: i32 = 10;

/// The priority of a step: smaller goes first.
pub(crate) fn of(op: &Operation, intent: &Intent) -> i32 {
    match intent {
        intent if op.may_be_left(intent) => CLEANS,
        _ if wanted_by_ms(op).is_some() => HAS_A_TIME,
        Intent::Launch(_) => LAUNCHES,
        _ => FINISHES,
    }
}

/// When the first of the operation's instances is taken, as far as that was told.
pub(crate) fn wanted_by_ms(op: &Operation) -> Option<u64> {
    op.facts.holders.iter().filter_map(|holder| holder.deadline_ms).min()
}
