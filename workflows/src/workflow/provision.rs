//! # Provision: a node's resources and its first instance
//!
//! ```text
//!  resolve ─┬─ create_volume:* ───────────────┐
//!           ├─ create_interface ─┐            ▼
//!           └────────────────────┴─ launch ─ start ─┬─ attach:* ────┐
//!                                                   ├─ preserve ────┼─ preserve ─ verify ─ done
//!                                                   └─ move_address ┘
//! ```
//!
//! - `resolve`
//!   - May start when: at once.
//!   - Does: looks up the zone and the image's traits. Observed by: subnet, image.
//!   - On failure: stuck.
//! - `survey`
//!   - May start when: the zone is known, and the file asks for a survey (`requirements`, an `order`, a
//!     `price_max`).
//!   - Does: looks at types, offers, prices, scores.
//!   - On failure: see `rules::survey`.
//! - `create_volume:x`
//!   - May start when: the zone is known.
//!   - Does: CreateVolume with a client token. Observed by: volume `available`.
//!   - On failure: stuck.
//! - `claim_volume:x`
//!   - May start when: the file names an existing volume, and the zone is known.
//!   - Does: see `rules::existing_volumes`. Observed by: the volume is seen free twice.
//!   - On failure: stuck.
//! - `snapshot:x`, `create_volume:x`
//!   - May start when: the file names an existing volume, and the pool is in another zone.
//!   - Does: as in [`replace`](super::replace).
//!   - On failure: stuck.
//! - `create_interface`
//!   - May start when: the mode is `primary_eni` or `secondary_eni`, and the zone is known.
//!   - Does: CreateNetworkInterface with a client token. Observed by: interface `available`.
//!   - On failure: stuck.
//! - `launch`
//!   - May start when: there is no candidate, the node's own interface is free, and no survey is awaited.
//!   - Does: RunInstances in the ladder's next pool, with a client token. Observed by: the instance.
//!   - On failure: no capacity: the next pool; refused: stuck.
//! - `start`
//!   - May start when: the instance is launched.
//!   - Observed by: instance `running`.
//!   - On failure: the candidate is lost: it is fenced, and the next pool is asked.
//! - `preserve:i`
//!   - May start when: the instance runs; once more when everything is in place.
//!   - Does: DeleteOnTermination=false. Observed by: the instance.
//!   - On failure: stuck.
//! - `attach:x`
//!   - May start when: the volume is free, and the candidate runs.
//!   - Does: AttachVolume. Observed by: the volume.
//!   - On failure: if the instance is gone, the candidate is lost; otherwise stuck.
//! - `attach_interface`
//!   - May start when: the mode is `secondary_eni`, the interface is free, and the candidate runs.
//!   - Does: AttachNetworkInterface. Observed by: the interface.
//!   - On failure: see `rules::interface`.
//! - `move_address`
//!   - May start when: the mode is `secondary_ip`, and the candidate runs.
//!   - Does: looks which interface has the address, then AssignPrivateIpAddresses. Observed by: the
//!     interface.
//!   - On failure: as `attach:x`; if an interface that is not the node's holds the address: stuck.
//! - `verify`
//!   - May start when: everything is in place and preserved.
//!   - Observed by: instance, volumes, interface.
//!   - On failure: as `attach:x`.
//!
//! A process that stops midway leaves tagged volumes, an interface, an instance; the next start continues
//! with the same client tokens. A lost candidate is fenced, its root is deleted, its volumes and interface
//! are released, and the next pool is asked. No step has an undo. A provision that is stuck over a wrong file
//! continues with the corrected one: `node apply`, then `workflow resume`.

use crate::model::operation_id::OperationKind;
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation};
use crate::rules::{acquire, device_names, release};
use crate::spec::node::NodeSpec;
use crate::step::name::Only;

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    due.extend(acquire::rules(op));
    due
}

/// A corrected file: volumes that it adds are created, and an address that no resource has yet is the file's.
pub(crate) fn mend(op: &mut Operation, before: &NodeSpec) {
    match op.order.kind {
        OperationKind::Provision | OperationKind::Replace | OperationKind::Resume => {
            device_names::add_absent(&op.order.spec, &mut op.facts.volumes);
        }
        OperationKind::Delete
        | OperationKind::Pause
        | OperationKind::Grow
        | OperationKind::AdoptVolumes
        | OperationKind::Prune => {}
    }
    let is_anybodys = op.order.before.address.is_none()
        && op.facts.network.address_on.is_none()
        && op.facts.network.interface.as_ref().is_none_or(|fact| fact.place == Place::Absent)
        && !op.has_open(&Only::MoveAddress.into())
        && !op.has_open(&Only::CreateInterface.into());
    if op.order.kind == OperationKind::Provision
        && is_anybodys
        && op.order.spec.private_ip != before.private_ip
    {
        op.facts.network.address = op.order.spec.private_ip;
    }
}
