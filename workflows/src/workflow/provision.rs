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
//! | step | may start when | does | observed by | on failure |
//! | --- | --- | --- | --- | --- |
//! | `resolve` | at once | looks up zone and image traits | subnet, image | stuck |
//! | `survey` | zone known; the file asks for one: `requirements`, an `order`, a `price_max` | looks at types, offers, prices, scores | – | see `rules::survey` |
//! | `create_volume:x` | the zone is known | CreateVolume, tokenised | volume `available` | stuck |
//! | `take_volume:x` | the file names an existing volume; the zone is known | see `taken.rs` | volume free, twice | stuck |
//! | `snapshot:x`, `create_volume:x` | the file names an existing volume, and the pool is in another zone | as in `replace` | | stuck |
//! | `create_interface` | `primary_eni`, `secondary_eni`; zone known | CreateNetworkInterface, tokenised | interface `available` | stuck |
//! | `launch` | no candidate; own interface free; no survey awaited | RunInstances in the ladder's next pool, tokenised | the instance | no capacity: next pool; refused: stuck |
//! | `start` | launched | – | instance `running` | candidate lost: fenced, next pool |
//! | `preserve:i` | it runs; again when all is in place | DeleteOnTermination=false | instance | stuck |
//! | `attach:x` | volume free, candidate runs | AttachVolume | the volume | candidate gone: lost; else stuck |
//! | `attach_interface` | `secondary_eni`, interface free, candidate runs | AttachNetworkInterface | the interface | see `rules::interface` |
//! | `move_address` | `secondary_ip`, candidate runs | looks who has it, AssignPrivateIpAddresses | the interface | as above; held by a stranger: stuck |
//! | `verify` | all in place and preserved | – | instance, volumes, interface | as above |
//!
//! A stop in the middle leaves: tagged volumes, an interface, an instance; the next start goes on with the same tokens. A
//! lost candidate is fenced, its root deleted, what it held released, and the next pool is asked. Nothing has an undo. A
//! provision that is stuck over a wrong file goes on with the corrected one: `node apply`, then `workflow resume`.

use crate::model::operation_id::OperationKind;
use crate::operation::facts::Place;
use crate::operation::state::{Due, Operation};
use crate::rules::{acquire, device_names, release};
use crate::spec::node::NodeSpec;

/// Every rule that holds.
pub(crate) fn rules(op: &Operation) -> Vec<Due> {
    let mut due = release::rules(op);
    due.extend(acquire::rules(op));
    due
}

/// A corrected file: what it names and the one before did not is made, and an address that nobody has yet is the new one.
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
        && op.facts.address_on.is_none()
        && op.facts.interface.as_ref().is_none_or(|fact| fact.place == Place::Absent)
        && !op.has_open("move_address")
        && !op.has_open("create_interface");
    if op.order.kind == OperationKind::Provision
        && is_anybodys
        && op.order.spec.private_ip != before.private_ip
    {
        op.facts.address = op.order.spec.private_ip;
    }
}
