//! # Replace: the node comes back on another instance
//!
//! One machine serves a planned replacement, a warning with two minutes left, and an instance that is already
//! gone; only the facts differ. An interruption of the *new* instance meanwhile adds a holder to fence and
//! removes the candidate; the same rules continue from there.
//!
//! Make before break (`secondary_ip`, `secondary_eni`, `none`), root adopted:
//! ```text
//!  preserve:old ───────────────┐
//!  launch ─ start ─┬───────────┴─ fence:old ─┬─ release:root ─ adopt_root ─┐
//!                  └─ preserve:new ──────────├─ release:x ─ attach:x ──────┼─ preserve ─ verify ─ clean ─ …
//!                                            └─ move_address ──────────────┘
//! ```
//! Break before make (`primary_eni`): the launch waits for the interface.
//! ```text
//!  preserve:old ─ fence:old ─┬─ release_interface ─ launch ─ start ─┬─ adopt_root ─┐
//!                            ├─ release:root ───────────────────────┤              ├─ …
//!                            └─ release:x ──────────────────────────┴─ attach:x ───┘
//! ```
//! - Root by image: the launch waits for `release:root ─ snapshot_root ─ register_image`.
//! - Data by snapshot: the launch waits for `release:x ─ snapshot:x`, and creates the volumes itself.
//! - In another zone: `release:x ─ snapshot:x ─ create_volume:x ─ attach:x`; the launch waits for the root's
//!   image only.
//! - When the launch in the home zone waits for a snapshot anyway, the snapshots that only a move needs are
//!   taken at the same time (`rules::snapshot_ahead`).
//!
//! The pool decides the transfer method: see `rules::transfer`.
//!
//! # Before the fence
//! - `preserve:old`
//!   - May start when: the old instance is not known to be over.
//!   - Does: DeleteOnTermination=false on every kept volume, and on unmanaged volumes that were attached to
//!     the instance (`rules::attached_volumes`). Reads the UEFI variables (`rules::uefi`).
//!   - Observed by: the instance.
//!   - On failure: if the instance is gone, the workflow continues; otherwise stuck, with nothing harmed.
//! - `survey`
//!   - May start when: at once, if the file asks for a survey.
//!   - Does: looks at types, offers, prices, scores.
//!   - On failure: the last survey is used; see `rules::survey`.
//! - `launch`, `start`
//!   - May start when: as shown above, and no survey is awaited; in the ladder's next pool. An instance with
//!     an image of the root, or with copies of data, is a copy of the node: it waits until each candidate
//!     that was given up is fenced.
//!   - Does: RunInstances with a client token. Observed by: instance `running`.
//!   - On failure: no capacity: the next pool, and a pause after the last one; refused: stuck.
//! - `detach:x`
//!   - May start when: the file says `handover: detach`, the new instance runs, and the old one is preserved.
//!   - Does: DetachVolume, never forced. Observed by: the volume is free.
//!   - On failure: after 20 s the volume follows after the fence.
//! - `set_groups`
//!   - May start when: the interface is kept, and the file names groups. It precedes `fence:old` and every
//!     use of the interface.
//!   - Does: ModifyNetworkInterfaceAttribute. Observed by: the interface.
//!   - On failure: refused: stuck, with nothing harmed.
//! - `fence:old`: **the point of no return**
//!   - May start when: the old instance is preserved, and a pool is known. Make before break: the new
//!     instance runs.
//!   - An instance that may still adopt the root is not terminated: `fence:new` waits for `adopt_root`, and
//!     what that has brought is preserved.
//!   - Does: TerminateInstances; a persistent spot request is cancelled first. Observed by: `terminated`,
//!     twice. If it is still `shutting-down` after 25 minutes: TerminateInstances with Force and
//!     SkipOsShutdown, and the history says so.
//!   - On failure: stuck. Termination protection is told as what it is; the workflow can then be cancelled.
//!
//! # After the fence
//! - `release:x`
//!   - May start when: its holder is fenced.
//!   - Does: only describes. If the volume is still attached after ten minutes, DetachVolume by force: the
//!     holder is terminated. Observed by: the volume is free.
//!   - On failure, if the volume no longer exists: stuck, with `--accept-loss` offered. The root is restored
//!     automatically from the newest complete backup (`rules::recovery_point`).
//!   - On failure, if the volume stays attached even so: stuck, with the commands to run.
//!   - If it was attached by hand to an instance that this workflow has launched, it has arrived.
//! - `release_interface`
//!   - May start when: its holder is fenced.
//!   - Does: only describes. Observed by: the interface is free.
//!   - On failure: if the interface no longer exists, `create_interface` creates it again with the node's
//!     address. If another interface holds that address: stuck.
//! - `snapshot_root`, `register_image`
//!   - May start when: the root method is `image`, and the root is free.
//!   - Does: CreateSnapshot, RegisterImage. Observed by: complete, available.
//!   - On failure: stuck.
//! - `snapshot_ahead:x`
//!   - May start when: the launch at home waits for another snapshot, and a pool is in another zone: see
//!     `rules::snapshot_ahead`.
//!   - Does: CreateSnapshot. Observed by: it is listed, whatever its progress.
//!   - On failure: nothing; `snapshot:x` or `snapshot_root` takes its own.
//! - `snapshot:x`
//!   - May start when: data moves by `snapshot`, or the pool is in another zone; the volume is free.
//!   - Does: CreateSnapshot. Observed by: complete.
//!   - On failure: stuck.
//! - `create_volume:x`
//!   - May start when: the new instance runs in another zone, all holders are fenced, and the snapshot is
//!     complete.
//!   - Does: CreateVolume from it, with a client token. Observed by: available.
//!   - On failure: stuck.
//! - `adopt_root`
//!   - May start when: the root method is `adopt` or `clone`, the root is free, and the new root is
//!     protected.
//!   - Does: CreateReplaceRootVolumeTask(VolumeId) with a client token. Observed by: the volume.
//!   - On failure: failed: method `clone`. Refused, unknown, or failed with the clone: method `image`. The
//!     reason is recorded, and the instance is fenced first.
//! - `clone_root`
//!   - May start when: the root method is `clone`: see `rules::root_clone`.
//!   - Does: CopyVolumes with a client token. Observed by: available.
//!   - On failure: method `image`; the reason is recorded.
//! - `attach:x`
//!   - May start when: the volume is free, and the new instance runs.
//!   - Does: AttachVolume. Observed by: the volume.
//!   - On failure: if the instance is gone, the candidate is lost.
//! - `detach_interface`, `attach_interface` (`secondary_eni`): see `rules::interface`.
//! - `move_address`
//!   - May start when: the new instance runs, and the old one is fenced (or all data is detached from it).
//!   - Does: looks which interface has the address, then AssignPrivateIpAddresses. Observed by: the
//!     interface.
//!   - On failure: as `attach:x`; if an interface that is not the node's holds the address: stuck.
//! - `associate_elastic_ip`
//!   - May start when: as `move_address`, and after it.
//!   - Does: looks where the address leads, then AssociateAddress. Observed by: the address.
//!   - On failure: as `attach:x`.
//! - `preserve:new`, `verify`
//!   - May start when: everything is in place.
//!   - Does: as in [`provision`](super::provision).
//!   - On failure: as `attach:x`.
//!
//! # Clean-up
//! - `delete_volume:t`
//!   - May start when: the new instance is verified.
//!   - Does: deletes temporary roots by id. Observed by: not found.
//!   - On failure: the volume stays listed as an orphan; the next operation tries again.
//! - `deregister_image`, `delete_snapshot`
//!   - May start when: the new instance is verified, and a newer root image exists, or nothing was created
//!     from it.
//!   - Observed by: not found.
//!   - On failure: as `delete_volume:t`.
//!
//! Nothing is undone here. Before `fence:old` the old instance still carries the node, and the end of the
//! operation fences a launched candidate. After it the workflow only moves forward. When the process stops
//! midway, the journal holds everything that the next start needs to continue.
//!
//! A root method that fails never puts the root's content at risk: no step here deletes the old root volume.
//! When the root continues as an image, the old volume is *retained*, and `perennial node show` lists it.

use crate::operation::state::{Due, Operation};
use crate::rules::{acquire, release};

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    due.extend(acquire::rules(op));
    due
}
