//! # Replace: the node comes back on another instance
//!
//! It is the same machine for a planned replacement, for a warning with two minutes left, and for an instance that is
//! already gone; only the facts differ. An interruption of the *new* instance while this runs adds a holder to fence and takes
//! the candidate away: the same rules go on from there.
//!
//! Make before break (`secondary_ip`, `secondary_eni`, `none`), root adopted:
//! ```text
//!  preserve:old ───────────────┐
//!  launch ─ start ─┬───────────┴─ fence:old ─┬─ release:root ─ adopt_root ─┐
//!                  └─ preserve:new ──────────├─ release:x ─ attach:x ──────┼─ preserve ─ verify ─ clean ─ done
//!                                            └─ move_address ──────────────┘
//! ```
//! Break before make (`primary_eni`): the launch waits for the interface.
//! ```text
//!  preserve:old ─ fence:old ─┬─ release_interface ─ launch ─ start ─┬─ adopt_root ─┐
//!                            ├─ release:root ───────────────────────┤              ├─ …
//!                            └─ release:x ──────────────────────────┴─ attach:x ───┘
//! ```
//! Root by image: the launch waits for `release:root ─ snapshot_root ─ register_image`. Data by snapshot: it waits for
//! `release:x ─ snapshot:x`, and the volumes come with it. In another zone: `release:x ─ snapshot:x ─ create_volume:x ─ attach:x`,
//! and what the launch waits for is the root's image only. Where home waits for a snapshot anyway, those that only the move needs are taken
//! at the same time (`ahead.rs`). Which way is taken follows from the pool: see `carriage.rs`.
//!
//! | step | may start when | does | observed by | on failure |
//! | --- | --- | --- | --- | --- |
//! | `preserve:old` | the old instance is not known to be over | DeleteOnTermination=false on all that is kept, and on what somebody attached: see `rules::attached_volumes`; reads the UEFI variables: see `rules::uefi` | instance | gone: go on; else stuck, nothing was harmed |
//! | `survey` | at once; the file asks for one | looks at types, offers, prices, scores | – | the last one serves; see `rules::survey` |
//! | `launch`, `start` | see above; no survey awaited; the ladder's next pool | RunInstances, tokenised | instance `running` | no capacity: next pool, after the last one a pause; refused: stuck |
//! | `detach:x` | `handover: detach`, new instance runs, old preserved | DetachVolume, never forced | volume free | 20 s: follows after the fence |
//! | `fence:old` | old preserved; a pool is known; and make before break: new instance runs; **the point of no return** | TerminateInstances (persistent request cancelled first) | `terminated`, twice | stuck |
//! | `release:x` | its holder is fenced | hangs for 10 min: DetachVolume by force, the holder being terminated | free | gone for ever: stuck with `--accept-loss`; the root goes on from the newest complete backup by itself (`rules::recovery_point`); hangs all the same: stuck, with the commands |
//! | `release_interface` | its holder is fenced | – | free | gone for ever: made anew by `create_interface`, with the node's address; that address held by another: stuck |
//! | `snapshot_root`, `register_image` | rung `image`, root free | CreateSnapshot, RegisterImage | complete, available | stuck |
//! | `snapshot_ahead:x` | home's launch waits for another snapshot, and a pool is in another zone: see `rules::snapshot_ahead` | CreateSnapshot | shown, at whatever progress | none: `snapshot:x` or `snapshot_root` takes its own |
//! | `snapshot:x` | data `snapshot`, or the pool is in another zone; volume free | CreateSnapshot | complete | stuck |
//! | `create_volume:x` | the new instance runs in another zone, all holders fenced, snapshot complete | CreateVolume from it, tokenised | available | stuck |
//! | `adopt_root` | rung `adopt` or `clone`, root free, new root protected | CreateReplaceRootVolumeTask(VolumeId), tokenised | the volume | failed: rung `clone`; refused, unknown, or failed with the clone: rung `image`; the reason recorded, the instance fenced first |
//! | `clone_root` | rung `clone`: see `cloning.rs` | CopyVolumes, tokenised | available | rung `image`, the reason recorded |
//! | `attach:x` | volume free, new instance runs | AttachVolume | the volume | instance gone: candidate lost |
//! | `set_groups` | the interface is kept, the file names groups; before `fence:old` and its use | ModifyNetworkInterfaceAttribute | the interface | refused: stuck, nothing was harmed |
//! | `detach_interface`, `attach_interface` | `secondary_eni`: see `rules::interface` | | | |
//! | `move_address` | new instance runs; old one fenced (or all data detached from it) | looks who has it, AssignPrivateIpAddresses | the interface | as above; held by a stranger: stuck |
//! | `associate_elastic_ip` | as `move_address`, after it | looks where it leads, AssociateAddress | the address | as above |
//! | `preserve:new`, `verify` | everything in place | as in `provision` | – | as above |
//! | `delete_volume:t` | verified | deletes temporary roots by id | not found | left over: listed, tried again by the next operation |
//! | `deregister_image`, `delete_snapshot` | verified, a newer root image exists; or nothing was made from it | – | not found | as above |
//!
//! Undone by: nothing is undone. Before `fence:old` the old instance still carries the node, and a launched candidate is fenced by
//! the operation's own end; after it there is only forward. What a stop in the middle leaves is what the journal says; the next
//! start goes on.
//!
//! The root's content is never at risk from a rung that fails: the old root volume is deleted by nobody here. When the root
//! went on as an image, the old volume is *retained* and listed by `perennial node show`.

use crate::operation::state::{Due, Operation};
use crate::rules::{acquire, release};

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    due.extend(acquire::rules(op));
    due
}
