//! Events to facts: how an operation starts, and how each event changes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_engine::domain::{Illegal, Stamp};

use crate::machine::learn::{learn, suspect};
use crate::model::aws::{InstanceId, SpotRequestId};
use crate::model::operation_id;
use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::resources::Resource;
use crate::model::root::RootMethod;
use crate::model::signal::{Cause, Certainty};
use crate::model::volume::Slot;
use crate::operation::event::{Diversion, OperationEvent, Order};
use crate::operation::facts::{Facts, Holder, InterfaceFact, Ladder, Place, VolumeFact};
use crate::operation::state::{Operation, Status, StepRecord};
use crate::rules::candidate::GivenUp;
use crate::rules::{attached_volumes, device_names, recovery_point, root_clone, snapshot_ahead};
use crate::spec::node::{NetworkMode, RootMode};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;
use crate::workflow::provision;

/// Begins.
#[must_use]
pub fn start(id: OperationId, order: Order, at_ms: u64) -> Operation {
    let tracked = order.spec.persist.root != RootMode::None;
    let old = match order.kind {
        OperationKind::Provision
        | OperationKind::Grow
        | OperationKind::Resume
        | OperationKind::AdoptVolumes
        | OperationKind::Prune => None,
        OperationKind::Replace | OperationKind::Delete | OperationKind::Pause => {
            order.before.carrier.as_ref()
        }
    };
    // What an abandoned operation had launched may hold anything of the node's.
    let inherited = order.before.orphans.iter().filter_map(|left| match &left.resource {
        Resource::Instance { instance, spot_request } => Some((instance.clone(), spot_request.clone())),
        _ => None,
    });
    let inherited: Vec<(InstanceId, Option<SpotRequestId>)> = inherited.collect();
    let on = old.map(|carrier| &carrier.instance).or(inherited.first().map(|(instance, _)| instance));
    let place = || on.map_or(Place::Free, |instance| Place::On(instance.clone()));
    let mut orphans = order.before.orphans.clone();
    orphans.retain(|left| !matches!(left.resource, Resource::Instance { .. }));
    let mut volumes: BTreeMap<Slot, VolumeFact> = order
        .before
        .volumes
        .iter()
        .filter(|(slot, _)| tracked || **slot != Slot::Root || order.kind == OperationKind::Delete)
        .map(|(slot, held)| {
            let fact = VolumeFact {
                id: Some(held.volume.clone()),
                place: place(),
                size_gib: held.size_gib,
                zone: held.zone.clone(),
                made_from: held.made_from.clone(),
                found: held.found.clone(),
                ..VolumeFact::absent(held.device.clone())
            };
            (slot.clone(), fact)
        })
        .collect();
    if !matches!(order.kind, OperationKind::Delete | OperationKind::Pause)
        && !operation_id::is_in_place(order.kind)
    {
        device_names::add_absent(&order.spec, &mut volumes);
    }
    let interface = match order.spec.persist.network {
        NetworkMode::PrimaryEni | NetworkMode::SecondaryEni => Some(InterfaceFact {
            place: if order.before.interface.is_some() { place() } else { Place::Absent },
            held: order.before.interface.clone(),
            detach_tried_on: None,
            groups: None,
        }),
        NetworkMode::SecondaryIp | NetworkMode::IpPool | NetworkMode::None => None,
    };
    let goes_on = volumes.contains_key(&Slot::Root) && !order.reimage;
    let restore = order.restore.clone().map(|restore| restore.snapshots).unwrap_or_default();
    let root_snapshot = restore.get(&Slot::Root).cloned();
    let root_method = match (order.kind, order.spec.persist.root) {
        _ if root_snapshot.is_some() => RootMethod::Image,
        (OperationKind::Replace | OperationKind::Provision | OperationKind::Resume, RootMode::Adopt)
            if goes_on =>
        {
            RootMethod::Adopt
        }
        (OperationKind::Replace | OperationKind::Provision | OperationKind::Resume, RootMode::Image)
            if goes_on =>
        {
            RootMethod::Image
        }
        _ => RootMethod::Fresh,
    };
    let ended = match &order.cause {
        Cause::Signal { signal } => signal.is_over(),
        Cause::Request { .. }
        | Cause::ReturnToSpot { .. }
        | Cause::Found { .. }
        | Cause::FileChanged { .. }
        | Cause::RetainedLonger { .. } => false,
    };
    let inherited = inherited.into_iter().map(|(instance, spot_request)| Holder::new(instance, spot_request));
    let holders = old
        .map(|carrier| Holder {
            instance: carrier.instance.clone(),
            spot_request: carrier.spot_request.clone(),
            is_old: true,
            preserved: false,
            ended,
            certainty: match &order.cause {
                Cause::Signal { signal } => signal.certainty(),
                Cause::Request { .. }
                | Cause::ReturnToSpot { .. }
                | Cause::Found { .. }
                | Cause::FileChanged { .. }
                | Cause::RetainedLonger { .. } => Certainty::Well,
            },
            fenced: false,
            deadline_ms: match &order.cause {
                Cause::Signal { signal } => signal.deadline_ms(),
                Cause::Request { .. }
                | Cause::ReturnToSpot { .. }
                | Cause::Found { .. }
                | Cause::FileChanged { .. }
                | Cause::RetainedLonger { .. } => None,
            },
        })
        .into_iter()
        .chain(inherited)
        .collect();
    let facts = Facts {
        subnet: order.before.subnet.clone().unwrap_or_else(|| order.spec.subnet.clone()),
        placement: order.before.placement.clone(),
        volumes,
        interface,
        elsewhere: None,
        uefi_data: order.before.uefi_data.clone(),
        address: order.before.address.or(order.spec.private_ip),
        addresses_elsewhere: order.before.addresses_elsewhere.clone(),
        address_on: None,
        elastic: None,
        holders,
        candidate: None,
        launches: 0,
        losses: 0,
        failed_launches: 0,
        last_failure: String::new(),
        failure_reason: None,
        ladder: Ladder::default(),
        survey: order.before.survey.as_deref().cloned().map(Arc::new),
        surveyed: None,
        root_method,
        root_is_borrowed: root_snapshot.is_some(),
        cloned_from: None,
        restored: order.restore.iter().flat_map(recovery_point::from_backup).collect(),
        root_snapshot,
        root_image: None,
        restore,
        copies: Vec::new(),
        superseded: Vec::new(),
        temporary: Vec::new(),
        outlived: Vec::new(),
        final_preserved: false,
        verified: false,
        carried_over: None,
        deleted: Vec::new(),
        undoing: false,
        diverted: None,
        orphans,
        handover_dropped: false,
        uncleaned: BTreeMap::new(),
    };
    Operation {
        id,
        order: Arc::new(order),
        started_at_ms: at_ms,
        status: Status::Running,
        steps: BTreeMap::new(),
        facts,
    }
}

/// Remembers.
///
/// # Errors
/// [`Illegal`] when the event cannot follow.
pub fn evolve(mut op: Operation, stamp: Stamp, event: &OperationEvent) -> Result<Operation, Illegal> {
    let illegal = |why: &str| Err(Illegal { seq: stamp.seq, why: why.to_owned() });
    if let Status::Finished { .. } = op.status {
        return illegal("the operation is finished");
    }
    match event {
        OperationEvent::Started(_) => return illegal("the operation has started already"),
        OperationEvent::StepIntended { step, attempt, intent, not_before_ms, deadline_ms } => {
            if op.has_open(step) {
                return illegal("this step is open already");
            }
            if let Intent::Launch { .. } = intent {
                op.facts.launches += 1;
            }
            if let Intent::AdoptRoot { .. } = intent {
                snapshot_ahead::outdate_root(&mut op);
            }
            op.steps.insert(
                stamp.seq.into(),
                StepRecord {
                    step: step.clone(),
                    attempt: *attempt,
                    intent: Arc::new(intent.clone()),
                    intended_at_ms: stamp.at_ms,
                    not_before_ms: *not_before_ms,
                    deadline_ms: *deadline_ms,
                    outcome: None,
                },
            );
        }
        OperationEvent::StepSettled { token, evidence, .. } => {
            let Some(record) = op.steps.get_mut(token).filter(|record| record.outcome.is_none()) else {
                return illegal("this step is not open");
            };
            record.outcome = Some((evidence.clone(), stamp.at_ms));
            let intent = Arc::clone(&record.intent);
            learn(&mut op, &intent, evidence, stamp.at_ms);
        }
        OperationEvent::RootMethodChosen { to, .. } => {
            op.facts.root_method = *to;
            // An instance that was launched for the old rung is of no use to the new one.
            op.give_up_candidate(stamp.at_ms, GivenUp::RungChanged);
            if *to == RootMethod::Image {
                root_clone::give_back(&mut op);
            }
        }
        OperationEvent::CandidateLost { instance, because } => {
            let Some(candidate) = op.facts.candidate.as_ref().filter(|c| c.instance == *instance) else {
                return illegal("this instance is not the candidate");
            };
            if candidate.network.is_none() {
                op.facts.failed_launches += 1;
                op.facts.last_failure = format!("{}: {instance}: {because}", candidate.pool);
            }
            op.facts.losses += 1;
            let given_up = op.facts.undoing || op.facts.diverted.is_some();
            let why = if given_up { GivenUp::Cancelled } else { GivenUp::Lost };
            op.give_up_candidate(stamp.at_ms, why);
        }
        OperationEvent::Dropped { .. } => op.facts.handover_dropped = true,
        OperationEvent::SignalReceived { signal } => {
            for holder in op.facts.holders.iter_mut().filter(|h| h.instance == signal.instance) {
                holder.ended |= signal.is_over();
                holder.certainty = holder.certainty.max(signal.certainty());
                holder.deadline_ms = [signal.deadline_ms(), holder.deadline_ms].into_iter().flatten().min();
                // There is nothing to go back to: it goes forward after all.
                op.facts.undoing &= !holder.is_old;
            }
            let about_candidate =
                op.facts.candidate.as_ref().is_some_and(|candidate| candidate.instance == signal.instance);
            // The carrier is lost: its replacement does not wait for a volume to grow.
            if operation_id::is_in_place(op.order.kind) && signal.is_loss() {
                op.facts.carried_over = Some(signal.clone());
                op.status = Status::Running;
                for record in op.steps.values_mut().filter(|record| record.outcome.is_none()) {
                    let because = "the instance is lost".to_owned();
                    record.outcome = Some((Evidence::OutOfTime { because }, stamp.at_ms));
                }
            }
            if about_candidate && signal.is_notice() {
                op.facts.carried_over = Some(signal.clone());
            }
        }
        OperationEvent::VolumeFound { instance, slot, held } => {
            if op.facts.volumes.contains_key(slot) {
                return illegal("another volume has this name");
            }
            attached_volumes::remember(&mut op, instance, slot, held);
        }
        OperationEvent::Stuck { step, because, needs } => {
            op.status = Status::Stuck {
                step: step.clone(),
                because: because.clone(),
                needs: needs.clone(),
                since_ms: stamp.at_ms,
            };
        }
        OperationEvent::Resumed { accept_loss, spec, address, addresses_elsewhere, restore, .. } => {
            if !matches!(op.status, Status::Stuck { .. }) {
                return illegal("the operation is not stuck");
            }
            op.facts.granted(*address, addresses_elsewhere);
            op.status = Status::Running;
            op.facts.failed_launches = 0;
            op.facts.surveyed = None;
            if !spec.lives_like(&op.order.spec) {
                op.facts.placement = None;
            }
            let before = std::mem::replace(&mut op.order_mut().spec, spec.clone());
            provision::mend(&mut op, &before);
            for record in op.steps.values_mut().filter(|record| record.outcome.is_none()) {
                record.deadline_ms = stamp.at_ms + record.intent.budget_ms();
            }
            op.facts.restored.retain(|slot, _| !accept_loss.contains(slot));
            op.facts.restored.extend(restore.iter().flat_map(recovery_point::from_backup));
            for slot in accept_loss {
                match slot {
                    Slot::Root => {
                        let snapshot = restore.as_ref().and_then(|from| from.snapshots.get(slot));
                        op.facts.volumes.remove(slot);
                        op.facts.root_method =
                            if snapshot.is_some() { RootMethod::Image } else { RootMethod::Fresh };
                        if let Some(snapshot) = snapshot {
                            op.facts.root_snapshot = Some(snapshot.clone());
                            op.facts.root_is_borrowed = true;
                            op.facts.root_image = None;
                            // An instance that was launched to adopt the root is of no use to its image.
                            op.give_up_candidate(stamp.at_ms, GivenUp::RungChanged);
                        }
                    }
                    Slot::Data(_) if attached_volumes::ends_with_its_loss(&op, slot, restore.as_ref()) => {
                        op.facts.volumes.remove(slot);
                        op.order_mut().before.volumes.remove(slot);
                    }
                    Slot::Data(_) => {
                        if let Some(fact) = op.facts.volumes.get_mut(slot) {
                            fact.id = None;
                            fact.place = Place::Absent;
                        }
                        if let Some(snapshot) = restore.as_ref().and_then(|from| from.snapshots.get(slot)) {
                            op.facts.restore.insert(slot.clone(), snapshot.clone());
                        }
                    }
                }
            }
        }
        OperationEvent::CancelRequested { .. } => {
            if op.facts.undoing || op.no_return().is_some() {
                return illegal("the operation cannot be undone");
            }
            begin_undoing(&mut op, stamp.at_ms);
        }
        OperationEvent::Diverted { cause, delete } => {
            if !op.may_be_diverted() {
                return illegal("the operation does not bring the node onto an instance");
            }
            if op.facts.diverted.is_none() {
                withdraw(&mut op, stamp.at_ms);
            }
            op.facts.diverted = Some(Diversion { delete: *delete, cause: cause.clone() });
        }
        OperationEvent::Finished { outcome, .. } => {
            op.status = Status::Finished { at_ms: stamp.at_ms, outcome: *outcome };
        }
    }
    Ok(op)
}

/// Gives up the new instance and what is not asked for yet.
fn withdraw(op: &mut Operation, at_ms: u64) {
    op.status = Status::Running;
    op.give_up_candidate(at_ms, GivenUp::Cancelled);
    let mut suspected = Vec::new();
    for record in op.steps.values_mut().filter(|record| record.outcome.is_none()) {
        let withdrawn = match record.intent.as_ref() {
            // Not asked for yet, so surely not made.
            Intent::Launch { .. } => record.not_before_ms > at_ms,
            // Its completion may take hours; it can be deleted before.
            Intent::SnapshotRoot { .. } | Intent::SnapshotVolume { .. } => {
                suspected.push(Arc::clone(&record.intent));
                true
            }
            // The growth of a volume is looked at again when it is asked for again; nothing is launched any more.
            Intent::Grow { .. } | Intent::Survey(_) => true,
            // As are the volumes on the instance.
            Intent::Preserve { .. } => op.order.kind == OperationKind::AdoptVolumes,
            // It gives way at once; what is gone all the same is found so by the next one.
            Intent::DeleteVolume { .. } => op.order.kind == OperationKind::Prune,
            _ => false,
        };
        if withdrawn {
            record.outcome = Some((Evidence::OutOfTime { because: "cancelled".to_owned() }, at_ms));
        }
        record.deadline_ms = at_ms.max(record.not_before_ms) + record.intent.budget_ms();
    }
    for intent in suspected {
        suspect(op, &intent);
    }
}

fn begin_undoing(op: &mut Operation, at_ms: u64) {
    op.facts.undoing = true;
    withdraw(op, at_ms);
    // A live detach may still come true: the volume is looked at, and attached again if it has left.
    if let Some(old) = op.old().map(|old| old.instance.clone()) {
        for fact in op.facts.volumes.values_mut() {
            if fact.detach_tried_on.as_ref() == Some(&old) {
                fact.place = Place::Free;
            }
        }
        if let Some(fact) = &mut op.facts.interface
            && fact.place.is_on(&old)
            && fact.detach_tried_on.as_ref() == Some(&old)
        {
            fact.place = Place::Free;
        }
    }
}
