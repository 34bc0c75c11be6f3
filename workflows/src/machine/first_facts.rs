//! What an operation knows when it begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::aws::{InstanceId, SnapshotId, SpotRequestId};
use crate::model::operation_id;
use crate::model::operation_id::OperationKind;
use crate::model::resources::{Carrier, Orphan, Resource};
use crate::model::root::RootMethod;
use crate::model::signal::Certainty;
use crate::model::volume::Slot;
use crate::operation::cleanup::Cleanup;
use crate::operation::event::Order;
use crate::operation::facts::{
    Direction, Facts, Holder, InterfaceFact, Ladder, LaunchHistory, NetworkFacts, Place, RootPlan, VolumeFact,
};
use crate::rules::{device_names, recovery_point};
use crate::spec::node::{NetworkMode, RootMode};

impl Facts {
    /// What stands in the order.
    pub(super) fn at_start(order: &Order) -> Self {
        let before = &order.before;
        let holders = holders(order);
        let place = holders.first().map_or(Place::Free, |holder| Place::On(holder.instance.clone()));
        let volumes = volumes(order, &place);
        let restore = order.restore.clone().map(|restore| restore.snapshots).unwrap_or_default();
        let root_snapshot = restore.get(&Slot::Root).cloned();
        Self {
            subnet: before.subnet.clone().unwrap_or_else(|| order.spec.subnet.clone()),
            placement: before.placement.clone(),
            network: NetworkFacts {
                interface: interface(order, place),
                elsewhere: None,
                address: before.address.or(order.spec.private_ip),
                addresses_elsewhere: before.addresses_elsewhere.clone(),
                address_on: None,
                elastic: None,
                subnet_is_full: false,
            },
            uefi_data: before.uefi_data.clone(),
            holders,
            candidate: None,
            launches: LaunchHistory::default(),
            ladder: Ladder::default(),
            survey: before.survey.as_deref().cloned().map(Arc::new),
            surveyed: None,
            root: RootPlan {
                method: root_method(order, &volumes, root_snapshot.as_ref()),
                is_borrowed: root_snapshot.is_some(),
                snapshot: root_snapshot,
                image: None,
                cloned_from: None,
            },
            restored: order.restore.iter().flat_map(recovery_point::from_backup).collect(),
            volumes,
            restore,
            superseded: Vec::new(),
            outlived: Vec::new(),
            carried_over: None,
            direction: Direction::Forward,
            cleanup: Cleanup::of(orphans(order)),
            handover_dropped: false,
        }
    }
}

/// The instance that is to give the node up.
fn old(order: &Order) -> Option<&Carrier> {
    match order.kind {
        OperationKind::Provision
        | OperationKind::Grow
        | OperationKind::Resume
        | OperationKind::AdoptVolumes
        | OperationKind::Prune => None,
        OperationKind::Replace | OperationKind::Delete | OperationKind::Pause => {
            order.before.carrier.as_ref()
        }
    }
}

/// The instances to be fenced, the old one first. An instance that an abandoned operation had launched may
/// hold anything of the node's.
fn holders(order: &Order) -> Vec<Holder> {
    let signal = order.signal();
    let old = old(order).map(|carrier| Holder {
        instance: carrier.instance.clone(),
        spot_request: carrier.spot_request.clone(),
        is_old: true,
        preserved: false,
        ended: signal.is_some_and(|signal| signal.is_over()),
        certainty: signal.map_or(Certainty::Well, |signal| signal.certainty()),
        fenced: false,
        deadline_ms: signal.and_then(|signal| signal.deadline_ms()),
    });
    let inherited = order.before.orphans.iter().filter_map(|left| instance(left));
    let inherited = inherited.map(|(instance, request)| Holder::new(instance.clone(), request.cloned()));
    old.into_iter().chain(inherited).collect()
}

const fn instance(left: &Orphan) -> Option<(&InstanceId, Option<&SpotRequestId>)> {
    match &left.resource {
        Resource::Instance { instance, spot_request } => Some((instance, spot_request.as_ref())),
        _ => None,
    }
}

/// What earlier operations left over, but instances.
fn orphans(order: &Order) -> impl Iterator<Item = Orphan> {
    order.before.orphans.iter().filter(|left| instance(left).is_none()).cloned()
}

/// The node's volumes as they are, and those that are still to be made.
fn volumes(order: &Order, place: &Place) -> BTreeMap<Slot, VolumeFact> {
    let has_root = order.spec.persist.root != RootMode::None || order.kind == OperationKind::Delete;
    let held = order.before.volumes.iter().filter(|(slot, _)| has_root || **slot != Slot::Root);
    let known = held.map(|(slot, held)| {
        let fact = VolumeFact {
            id: Some(held.volume.clone()),
            place: place.clone(),
            size_gib: held.size_gib,
            zone: held.zone.clone(),
            made_from: held.made_from.clone(),
            found: held.found.clone(),
            ..VolumeFact::absent(held.device.clone())
        };
        (slot.clone(), fact)
    });
    let mut volumes: BTreeMap<Slot, VolumeFact> = known.collect();
    if !matches!(order.kind, OperationKind::Delete | OperationKind::Pause)
        && !operation_id::is_in_place(order.kind)
    {
        device_names::add_absent(&order.spec, &mut volumes);
    }
    volumes
}

/// The node's own interface, where it keeps one.
fn interface(order: &Order, place: Place) -> Option<InterfaceFact> {
    match order.spec.persist.network {
        NetworkMode::PrimaryEni | NetworkMode::SecondaryEni => Some(InterfaceFact {
            place: if order.before.interface.is_some() { place } else { Place::Absent },
            held: order.before.interface.clone(),
            detach_tried_on: None,
            groups: None,
        }),
        NetworkMode::SecondaryIp | NetworkMode::IpPool | NetworkMode::None => None,
    }
}

/// How the root goes on.
pub(super) fn root_method(
    order: &Order,
    volumes: &BTreeMap<Slot, VolumeFact>,
    restored: Option<&SnapshotId>,
) -> RootMethod {
    let launches =
        matches!(order.kind, OperationKind::Replace | OperationKind::Provision | OperationKind::Resume);
    let goes_on = launches && volumes.contains_key(&Slot::Root) && !order.reimage;
    match order.spec.persist.root {
        _ if restored.is_some() => RootMethod::Image,
        RootMode::Adopt if goes_on => RootMethod::Adopt,
        RootMode::Image if goes_on => RootMethod::Image,
        _ => RootMethod::Fresh,
    }
}
