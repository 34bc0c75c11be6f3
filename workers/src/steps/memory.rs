//! What a step remembers between its passes.

use perennial_workflows::aws::SnapshotId;

/// What a step remembers between the passes of one process. Losing it costs looks, never a wrong act.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// The state an instance to be fenced was first found in.
    pub(super) found: Option<String>,
    /// Whether we asked for its termination.
    pub(super) terminated: bool,
    /// How many answers were unclear.
    pub(super) unclear: u32,
    /// The snapshot we made.
    pub(super) snapshot: Option<SnapshotId>,
    /// Failed calls in a row.
    pub(super) failures: u32,
    /// When this process first looked, in milliseconds.
    pub(super) first_look_ms: u64,
    /// A call of this step succeeded or was unclear.
    pub(super) tried: bool,
    /// When the last unclear answer came, in milliseconds.
    pub(super) doubt_since_ms: u64,
    /// Since when every look has missed the object, in milliseconds, and how many did.
    pub(super) missing: Option<(u64, u32)>,
    /// The same for the instance the step works on.
    pub(super) missing_instance: Option<(u64, u32)>,
    /// The same for another volume that an instance lists.
    pub(super) missing_other: Option<(u64, u32)>,
    /// The same for an answer about root replacements.
    pub(super) unanswered: Option<(u64, u32)>,
    /// The same for the UEFI variables of an instance.
    pub(super) unread: Option<(u64, u32)>,
    /// EC2 refused to let an interface outlive its instance.
    pub(super) unkept: bool,
    /// When a volume was last detached by force, in milliseconds.
    pub(super) forced_at_ms: Option<u64>,
}
