//! Events to facts: how an operation starts, and how each event changes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_engine::domain::{Illegal, Stamp};
use perennial_engine::ids::Token;
use perennial_engine::machine::{Intended, gone_back_ms, made_from};

use crate::machine::first_facts;
use crate::model::aws::{InstanceId, SnapshotId};
use crate::model::operation_id;
use crate::model::operation_id::OperationId;
use crate::model::restore::Restore;
use crate::model::root::RootMethod;
use crate::model::signal::Signal;
use crate::model::volume::Slot;
use crate::operation::event::{Diversion, OperationEvent, Order};
use crate::operation::facts::{Direction, Facts, LaunchFailure, Place};
use crate::operation::state::{Operation, Status, StepRecord, Waits};
use crate::rules::candidate::GivenUp;
use crate::rules::{attached_volumes, capacity, recovery_point, root_clone, snapshot_ahead};
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;
use crate::steps::{Seen, Withdrawal, learn, suspect};
use crate::workflow::provision;

/// Begins.
#[must_use]
pub fn start(id: OperationId, order: Order, at_ms: u64) -> Operation {
    let facts = Facts::at_start(&order);
    Operation {
        id,
        order: Arc::new(order),
        started_at_ms: at_ms,
        last_at_ms: at_ms,
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
    match remember(&mut op, stamp, event) {
        Ok(()) => Ok(op),
        Err(why) => Err(Illegal { seq: stamp.seq, why: why.to_owned() }),
    }
}

/// Why an event cannot follow.
type Why = &'static str;

fn remember(op: &mut Operation, stamp: Stamp, event: &OperationEvent) -> Result<(), Why> {
    if let Status::Finished { .. } = op.status {
        return Err("the operation is finished");
    }
    let at_ms = stamp.at_ms;
    follow_the_clock(op, at_ms);
    match event {
        OperationEvent::Started(_) => return Err("the operation has started already"),
        OperationEvent::StepIntended { step, attempt, intent, not_before_ms, deadline_ms } => {
            let intended = Intended {
                step: step.clone(),
                intent: intent.clone(),
                not_before_ms: *not_before_ms,
                deadline_ms: *deadline_ms,
            };
            let record =
                StepRecord { asked: intended.at(stamp), attempt: *attempt, waits: None, outcome: None };
            step_intended(op, stamp, record)?;
        }
        OperationEvent::StepSettled { token, evidence, .. } => step_settled(op, *token, evidence, at_ms)?,
        OperationEvent::StepWaits { token, because, hindered, looks, .. } => {
            let record = op.steps.get_mut(token).filter(|record| record.outcome.is_none());
            let record = record.ok_or("this step is not open")?;
            let (because, hindered, looks) = (because.clone(), *hindered, *looks);
            record.waits = Some(Waits { because, hindered, looks, at_ms });
        }
        OperationEvent::RootMethodChosen { to, .. } => root_method_chosen(op, *to, at_ms),
        OperationEvent::CandidateLost { instance, because } => {
            candidate_lost(op, instance, because, at_ms)?;
        }
        OperationEvent::Dropped { .. } => op.facts.handover_dropped = true,
        OperationEvent::SignalReceived { signal } => signal_received(op, signal, at_ms),
        OperationEvent::VolumeFound { instance, slot, held } => {
            if op.facts.volumes.contains_key(slot) {
                return Err("another volume has this name");
            }
            attached_volumes::remember(op, instance, slot, held);
        }
        OperationEvent::Stuck { step, because, needs } => {
            op.status = Status::Stuck {
                step: step.clone(),
                because: because.clone(),
                needs: needs.clone(),
                since_ms: at_ms,
            };
        }
        OperationEvent::Resumed { accept_loss, spec, address, addresses_elsewhere, restore, .. } => {
            if !matches!(op.status, Status::Stuck { .. }) {
                return Err("the operation is not stuck");
            }
            op.facts.granted(*address, addresses_elsewhere);
            resumed(op, spec, at_ms);
            losses_accepted(op, accept_loss, restore.as_ref(), at_ms);
        }
        OperationEvent::SpecChanged { spec, keeps_root, .. } => {
            if *keeps_root {
                root_stays(op, at_ms);
            }
            spec_changed(op, spec, at_ms);
        }
        OperationEvent::CancelRequested { .. } => {
            if op.facts.is_undoing() || op.no_return().is_some() {
                return Err("the operation cannot be undone");
            }
            begin_undoing(op, at_ms);
        }
        OperationEvent::Diverted { cause, delete } => {
            if !op.may_be_diverted() {
                return Err("the operation does not bring the node onto an instance");
            }
            if op.facts.diversion().is_none() {
                withdraw(op, at_ms);
            }
            op.facts.direction = Direction::Divert(Diversion { delete: *delete, cause: cause.clone() });
        }
        OperationEvent::Finished { outcome, .. } => op.status = Status::Finished { at_ms, outcome: *outcome },
    }
    Ok(())
}

fn step_intended(op: &mut Operation, stamp: Stamp, record: StepRecord) -> Result<(), Why> {
    if op.has_open(&record.step) {
        return Err("this step is open already");
    }
    record.intent.as_step().begin(op);
    op.steps.insert(stamp.seq.into(), record);
    Ok(())
}

fn step_settled(op: &mut Operation, token: Token, evidence: &Evidence, at_ms: u64) -> Result<(), Why> {
    let record = op.steps.get_mut(&token).filter(|record| record.outcome.is_none());
    let record = record.ok_or("this step is not open")?;
    record.outcome = Some((evidence.clone(), at_ms));
    let (intent, record_is_outdated) = (Arc::clone(&record.intent), record.outdated);
    // What was looked up for another file does not hold for this one.
    if record_is_outdated && matches!(intent.as_ref(), Intent::Resolve(_)) {
        return Ok(());
    }
    learn(op, &Seen { intent: &intent, evidence, at_ms });
    Ok(())
}

fn root_method_chosen(op: &mut Operation, to: RootMethod, at_ms: u64) {
    op.facts.root.method = to;
    // An instance that was launched for the old method is of no use to the new one.
    op.give_up_candidate(at_ms, GivenUp::RungChanged);
    if to == RootMethod::Image {
        root_clone::give_back(op);
    }
}

fn candidate_lost(op: &mut Operation, instance: &InstanceId, because: &str, at_ms: u64) -> Result<(), Why> {
    let candidate = op.facts.candidate.as_ref().filter(|candidate| candidate.instance == *instance);
    let candidate = candidate.ok_or("this instance is not the candidate")?;
    if !candidate.runs() {
        op.facts.launches.failed(LaunchFailure {
            pool: candidate.pool.clone(),
            instance: Some(instance.clone()),
            because: because.to_owned(),
        });
    }
    let why = if op.gives_up() { GivenUp::Cancelled } else { GivenUp::Lost };
    op.give_up_candidate(at_ms, why);
    Ok(())
}

fn signal_received(op: &mut Operation, signal: &Signal, at_ms: u64) {
    let mut is_old = false;
    for holder in op.facts.holders.iter_mut().filter(|h| h.instance == signal.instance) {
        holder.ended |= signal.is_over();
        holder.certainty = holder.certainty.max(signal.certainty());
        holder.deadline_ms = [signal.deadline_ms(), holder.deadline_ms].into_iter().flatten().min();
        is_old |= holder.is_old;
    }
    if is_old {
        op.facts.cannot_go_back();
    }
    let about_candidate =
        op.facts.candidate.as_ref().is_some_and(|candidate| candidate.instance == signal.instance);
    // The carrier is lost: its replacement does not wait for a volume to grow.
    if operation_id::is_in_place(op.order.kind) && signal.is_loss() {
        op.facts.carried_over = Some(signal.clone());
        op.status = Status::Running;
        for record in op.steps.values_mut().filter(|record| record.outcome.is_none()) {
            let because = "the instance is lost".to_owned();
            record.outcome = Some((Evidence::OutOfTime { because }, at_ms));
        }
    }
    if about_candidate && signal.is_notice() {
        op.facts.carried_over = Some(signal.clone());
    }
}

fn resumed(op: &mut Operation, spec: &NodeSpec, at_ms: u64) {
    op.status = Status::Running;
    op.facts.launches.failed_in_a_row = 0;
    op.facts.surveyed = None;
    look_for_root_again(op);
    follow(op, spec);
    for record in op.steps.values_mut().filter(|record| record.outcome.is_none()) {
        record.asked.deadline_ms = at_ms + record.intent.budget_ms();
    }
}

/// A root that an adoption has missed counts as on its instance, in case it is there after all. It is looked
/// for again: the adoption is tried once more.
fn look_for_root_again(op: &mut Operation) {
    let Some(candidate) = op.facts.candidate.as_ref().filter(|candidate| !candidate.adopted) else { return };
    let instance = candidate.instance.clone();
    if op.is_adopting(&instance) {
        return;
    }
    if let Some(root) = op.facts.volumes.get_mut(&Slot::Root).filter(|root| root.place.is_on(&instance)) {
        root.place = Place::Free;
    }
}

/// From now on the operation follows another file; one that was stuck goes on with it.
fn spec_changed(op: &mut Operation, spec: &NodeSpec, at_ms: u64) {
    if let Status::Stuck { .. } = op.status {
        resumed(op, spec, at_ms);
    } else {
        follow(op, spec);
    }
}

/// Where the clock has gone back since the last event, the times of open steps go with it, and from when on
/// what the others have made is theirs: what they have left is still to be looked for.
fn follow_the_clock(op: &mut Operation, at_ms: u64) {
    let Some(back_ms) = gone_back_ms(std::mem::replace(&mut op.last_at_ms, at_ms), at_ms) else { return };
    let open = op.steps.values().filter(|record| record.outcome.is_none());
    let unseen_ms = open.map(|record| record.budget_ms).max().unwrap_or_default();
    for record in op.steps.values_mut() {
        match record.outcome {
            None => record.asked.clock_went_back(back_ms),
            Some(_) => record.asked.made_from_ms = made_from(record.made_from_ms, back_ms, unseen_ms),
        }
    }
    for origin in op.facts.cleanup.origins_mut() {
        origin.intended_at_ms = made_from(origin.intended_at_ms, back_ms, unseen_ms);
    }
}

/// What another file changes.
fn follow(op: &mut Operation, spec: &NodeSpec) {
    if !spec.lives_like(&op.order.spec) {
        op.facts.placement = None;
    }
    let before = std::mem::replace(&mut op.order_mut().spec, spec.clone());
    provision::mend(op, &before);
    if spec.launches_like(&before) {
        return;
    }
    capacity::begin_anew(op);
    op.facts.launches.failed_in_a_row = 0;
    for record in op.steps.values_mut().filter(|record| record.outcome.is_none()) {
        record.asked.outdated |= record.intent.as_step().follows_the_file();
    }
}

/// A new root was asked for, and cannot be had: the present one stays.
fn root_stays(op: &mut Operation, at_ms: u64) {
    op.order_mut().reimage = false;
    op.facts.root.method = first_facts::root_method(&op.order, &op.facts.volumes, None);
    op.give_up_candidate(at_ms, GivenUp::RungChanged);
}

/// What is lost comes back from a backup, or is given up.
fn losses_accepted(op: &mut Operation, accept_loss: &[Slot], restore: Option<&Restore>, at_ms: u64) {
    op.facts.restored.retain(|slot, _| !accept_loss.contains(slot));
    op.facts.restored.extend(restore.into_iter().flat_map(recovery_point::from_backup));
    for slot in accept_loss {
        let snapshot = restore.and_then(|from| from.snapshots.get(slot));
        match slot {
            Slot::Root => root_loss_accepted(op, snapshot, at_ms),
            Slot::Data(_) if attached_volumes::ends_with_its_loss(op, slot, restore) => {
                op.facts.volumes.remove(slot);
                op.order_mut().before.volumes.remove(slot);
            }
            Slot::Data(_) => {
                if let Some(fact) = op.facts.volumes.get_mut(slot) {
                    fact.id = None;
                    fact.place = Place::Absent;
                }
                if let Some(snapshot) = snapshot {
                    op.facts.restore.insert(slot.clone(), snapshot.clone());
                }
            }
        }
    }
}

fn root_loss_accepted(op: &mut Operation, snapshot: Option<&SnapshotId>, at_ms: u64) {
    op.facts.volumes.remove(&Slot::Root);
    op.facts.root.method = if snapshot.is_some() { RootMethod::Image } else { RootMethod::Fresh };
    if let Some(snapshot) = snapshot {
        op.facts.root.snapshot = Some(snapshot.clone());
        op.facts.root.is_borrowed = true;
        snapshot_ahead::outdate_image(op);
        // An instance that was launched to adopt the root is of no use to its image.
        op.give_up_candidate(at_ms, GivenUp::RungChanged);
    }
}

/// Gives up the new instance and what is not asked for yet.
fn withdraw(op: &mut Operation, at_ms: u64) {
    op.status = Status::Running;
    op.give_up_candidate(at_ms, GivenUp::Cancelled);
    let mut suspected = Vec::new();
    for record in op.steps.values_mut().filter(|record| record.outcome.is_none()) {
        let is_asked = record.may_have_begun(at_ms);
        let withdrawal = record.intent.as_step().withdrawal(op.order.kind, is_asked);
        if withdrawal == Withdrawal::EndsInDoubt {
            suspected.push(Arc::clone(&record.intent));
        }
        if withdrawal != Withdrawal::Settles {
            record.outcome = Some((Evidence::OutOfTime { because: "cancelled".to_owned() }, at_ms));
        }
        record.asked.deadline_ms = at_ms.max(record.not_before_ms) + record.intent.budget_ms();
    }
    for intent in suspected {
        suspect(op, &intent);
    }
}

fn begin_undoing(op: &mut Operation, at_ms: u64) {
    op.facts.direction = Direction::Undo;
    withdraw(op, at_ms);
    // A live detach may still come true: the volume is looked at, and attached again if it has left.
    if let Some(old) = op.old().map(|old| old.instance.clone()) {
        for fact in op.facts.volumes.values_mut() {
            if fact.detach_tried_on.as_ref() == Some(&old) {
                fact.place = Place::Free;
            }
        }
        if let Some(fact) = &mut op.facts.network.interface
            && fact.place.is_on(&old)
            && fact.detach_tried_on.as_ref() == Some(&old)
        {
            fact.place = Place::Free;
        }
    }
}
