//! Refusals of a launch that no other pool would answer otherwise: its image is gone, or its subnet has no
//! free address.
//!
//! Both are clean: nothing was launched, so another request may take the place of the refused one.
//!
//! - The image of the file is gone. The image boots the temporary root of an adoption, and nothing else: the
//!   node's root is whole, and goes on as an image of its own snapshot, as where adoption is refused.
//!   - A node whose old instance is well stays on it: the operation is undone by itself.
//!   - A root that is not kept, or that is to be new, has no other source: a person names another image.
//! - The image that this operation has made of the root is gone: another one is made from the same snapshot.
//! - No address is free in the subnet where the node was.
//!   - The node's secondary address lives on the primary interface of its last instance, which outlives it.
//!     That interface has a primary address of its own. Once every instance of the node is over, the new one
//!     is launched onto that interface, and no free address is needed.
//!   - While the old instance runs, the launch waits: it may be spared, and its end frees the interface.
//!   - Other modes wait for an address. The primary address of the old instance becomes free with its end.
//!
//! ```text
//!  launch ─ no free address ─► pause ·· fence:old ─► launch (kept interface) ─ start ─ move_address ─ …
//! ```
//!
//! Not verified on a live account: a launch onto an interface that has secondary addresses.

use crate::model::aws::InterfaceId;
use crate::model::capacity::CapacityPool;
use crate::model::root::RootMethod;
use crate::model::volume::Slot;
use crate::operation::state::Operation;
use crate::rules::{address_retention, capacity};
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, Launch, LaunchInterface};

/// Learns from a refused launch, and from the end of an instance.
pub(crate) fn learn(op: &mut Operation, launch: &Launch, evidence: &Evidence, at_ms: u64) {
    let Launch { pool, interface, .. } = launch;
    match evidence {
        Evidence::NoAddress { code, .. } => {
            op.facts.network.subnet_is_full |= pool.subnet.is_none();
            // Where an interface is kept, the same pool is asked again, with it.
            if kept_interface(op, pool).is_none() {
                capacity::climb(op, pool.clone(), code.clone(), at_ms);
            }
        }
        Evidence::ImageGone { image, .. } if op.facts.root.image.as_ref() == Some(image) => {
            op.facts.root.image = None;
        }
        // It is gone, and its addresses are free with it.
        Evidence::Lost { .. } if matches!(interface, LaunchInterface::Kept(_)) => {
            op.facts.network.subnet_is_full = false;
        }
        _ => {}
    }
}

/// The interface that has the node's address, for an instance in a subnet without a free address.
pub(crate) fn kept_interface(op: &Operation, pool: &CapacityPool) -> Option<InterfaceId> {
    let all_over = op.facts.holders.iter().all(|holder| holder.fenced);
    let is_due = op.facts.network.subnet_is_full && pool.subnet.is_none() && all_over;
    address_retention::keeper(op).filter(|_| is_due)
}

/// Whether a launch waits for its time although the interface that it can go onto is there.
pub(crate) fn need_not_wait(op: &Operation, launch: &Intent) -> bool {
    let Intent::Launch(Launch { pool, interface: LaunchInterface::New { .. }, .. }) = launch else {
        return false;
    };
    kept_interface(op, pool).is_some()
}

/// Whether the root can go on as an image of itself, in the place of the image that is gone.
pub(crate) fn has_own_root(op: &Operation) -> bool {
    matches!(op.facts.root.method, RootMethod::Adopt | RootMethod::Clone)
        && op.facts.volumes.get(&Slot::Root).is_some_and(|root| root.id.is_some())
}
