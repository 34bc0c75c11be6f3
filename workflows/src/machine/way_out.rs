//! What an operation does by itself where it would be stuck, and what becomes of requests that were written
//! for another file.
//!
//! - A request of another file was refused: that says nothing about the present one.
//! - The image of the file is gone: see `rules::launch_refused`.
//! - EC2 refuses what the file says, and the node has no instance or is about to lose it: the operation goes
//!   on with the file that the last instance was launched by. A new root that was asked for is given up then.
//! - The file cannot even be looked up (its image or subnet does not exist) while the node's instance is
//!   well: the operation is undone, and the node stays as it is.
//! - Otherwise it is stuck. It stays under care: a signal about one of its instances, and a file that is
//!   applied, make it go on.

use perennial_engine::ids::Token;
use perennial_engine::machine::{Machine, StepRecord};

use crate::machine::refusal::Refusal;
use crate::model::operation_id::OperationKind;
use crate::model::root::RootMethod;
use crate::operation::event::{OperationEvent, SpecChange};
use crate::operation::state::{Operation, Status};
use crate::rules::{capacity, launch_refused};
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, Launch};
use crate::step::name::{Only, StepName};
use crate::steps::consequences;
use crate::steps::settled::{Settled, stuck};

/// What follows from a step that has settled.
pub(super) fn follows(
    op: &Operation,
    record: &StepRecord<StepName, Intent>,
    evidence: &Evidence,
) -> Vec<OperationEvent> {
    let intent = record.intent.as_ref();
    let is_refused = matches!(
        evidence,
        Evidence::Refused { .. }
            | Evidence::NoCapacity { .. }
            | Evidence::HeldByAnother { .. }
            | Evidence::ImageGone { .. }
    );
    if record.outdated && is_refused {
        return Vec::new();
    }
    let events = match evidence {
        Evidence::ImageGone { .. } if op.gives_up() => Vec::new(),
        Evidence::ImageGone { image, message } => {
            return image_gone(op, intent, &format!("{image} cannot be launched any more: {message}"));
        }
        _ => consequences(&Settled { op, step: &record.step, intent, evidence }),
    };
    events.into_iter().map(|event| instead_of(op, intent, event)).collect()
}

/// The image of a launch is gone.
fn image_gone(op: &Operation, intent: &Intent, because: &str) -> Vec<OperationEvent> {
    let Intent::Launch(Launch { image, .. }) = intent else { return Vec::new() };
    // One that was made of the root is made again; a root that goes on otherwise by now needs no image.
    if *image != op.order.spec.image || op.root_method() == RootMethod::Image {
        return Vec::new();
    }
    if let Some(changed) = last_good(op, because) {
        return vec![changed];
    }
    if launch_refused::has_own_root(op) {
        return vec![if may_stay(op) { undone(because) } else { own_image(op, because) }];
    }
    let needs = format!(
        "name another image in the node file: `perennial node apply -f FILE` makes workflow {} go on with it",
        op.id
    );
    stuck(op, &Only::Launch.into(), because.to_owned(), needs).into_iter().collect()
}

fn own_image(op: &Operation, because: &str) -> OperationEvent {
    OperationEvent::RootMethodChosen {
        instance: None,
        from: op.facts.root.method,
        to: RootMethod::Image,
        because: because.to_owned(),
    }
}

/// What happens where an operation would be stuck; the event itself, if nothing better is known.
fn instead_of(op: &Operation, intent: &Intent, event: OperationEvent) -> OperationEvent {
    let OperationEvent::Stuck { step, because, .. } = &event else { return event };
    let refused = format!("{step}: {because}");
    if let Some(changed) = of_the_file(op, intent, &refused) {
        return changed;
    }
    if matches!(intent, Intent::Resolve(_)) && may_stay(op) { undone(&refused) } else { event }
}

/// The last good file, where a step that does what the file says is refused, or does not end in time.
pub(super) fn of_the_file(op: &Operation, intent: &Intent, refused: &str) -> Option<OperationEvent> {
    last_good(op, refused).filter(|_| intent.as_step().follows_the_file())
}

/// The last good file, where EC2 refuses the present one and the node needs an instance.
pub(super) fn last_good(op: &Operation, refused: &str) -> Option<OperationEvent> {
    let good = op.order.good.as_deref()?;
    let is_due = op.is_urgent()
        // An instance that was launched with a new root keeps it.
        && !(op.order.reimage && op.facts.candidate.is_some())
        && (*good != op.order.spec || op.order.reimage)
        && good.fixed_by_a_start(&op.order.spec).is_none();
    is_due.then(|| OperationEvent::SpecChanged {
        spec: good.clone(),
        because: SpecChange::LastGood { refused: refused.to_owned() },
        keeps_root: op.order.reimage,
    })
}

/// Whether the node can stay on an instance that is well.
fn may_stay(op: &Operation) -> bool {
    op.order.kind == OperationKind::Replace && !op.gives_up() && !op.is_urgent()
}

fn undone(because: &str) -> OperationEvent {
    OperationEvent::CancelRequested {
        requested_by: capacity::BY_ITSELF.to_owned(),
        reason: Some(format!("{because}; the node stays on its instance, which is well")),
    }
}

/// A signal has changed something about an operation that is stuck: it goes on, as the obstacle may be gone
/// with the instance, and the node needs another one.
pub(super) fn wake(machine: &mut Machine<Operation>) -> Result<(), Refusal> {
    let op = machine.state();
    let Status::Stuck { step, because, .. } = &op.status else { return Ok(()) };
    let resumed = || OperationEvent::Resumed {
        requested_by: capacity::BY_ITSELF.to_owned(),
        accept_loss: Vec::new(),
        spec: op.order.spec.clone(),
        address: None,
        addresses_elsewhere: std::collections::BTreeMap::new(),
        restore: None,
    };
    let event = last_good(op, &format!("{step}: {because}")).unwrap_or_else(resumed);
    Ok(machine.push(event)?)
}

/// Withdraws requests that were surely not made yet and that others take the place of.
pub(super) fn withdraw(machine: &mut Machine<Operation>) -> Result<(), Refusal> {
    let (op, now_ms) = (machine.state(), machine.now_ms());
    let is_withdrawn = |record: &crate::operation::state::StepRecord| match record.intent.as_ref() {
        // A look changes nothing.
        Intent::Survey(_) => record.outdated,
        launch @ Intent::Launch(_) => {
            !record.may_have_begun(now_ms) && (record.outdated || launch_refused::need_not_wait(op, launch))
        }
        _ => false,
    };
    let open = op.steps.iter().filter(|(_, record)| record.outcome.is_none() && is_withdrawn(record));
    let withdrawn: Vec<(Token, StepName)> =
        open.map(|(token, record)| (*token, record.step.clone())).collect();
    for (token, step) in withdrawn {
        machine.push(OperationEvent::StepSettled { token, step, evidence: Evidence::Outdated })?;
    }
    Ok(())
}
