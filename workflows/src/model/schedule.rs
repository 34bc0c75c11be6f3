//! When a backup is due: every node has a minute of its own, so that the backups of a fleet do not all begin
//! at once.

use crate::model::name::NodeName;

/// A node's first turn after a time. The nodes' names spread the turns of a fleet over the interval.
#[must_use]
pub fn slot_after(name: &NodeName, every_ms: u64, after_ms: u64) -> u64 {
    let hash = blake3::hash(name.as_str().as_bytes());
    let spread = hash.as_bytes()[..8].iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let phase_ms = spread % every_ms.max(1);
    let turns = (after_ms + every_ms.max(1) - phase_ms) / every_ms.max(1);
    turns * every_ms + phase_ms
}
