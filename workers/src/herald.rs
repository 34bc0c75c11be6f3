//! Tells the log what a person must know: workflows that are stuck, steps that wait, and their end.
//!
//! # Guarantees
//! - Follows the journal from its end at the start; what happened before is shown by `perennial doctor`.
//! - Each event leads to at most one line; what was sent from outside is escaped.
//! - A journal that cannot be read delays the lines and loses none.

use std::collections::BTreeMap;

use perennial_engine::domain::{Domain as _, Stamp};
use perennial_engine::engine::Engine;
use perennial_engine::ids::{Position, Seq};
use perennial_engine::journal::RecordedEvent;
use perennial_engine::shutdown::Shutdown;
use perennial_workflows::aggregate::node::NodeEvent;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::Event;
use perennial_workflows::model::operation_id::{OperationId, Outcome};
use perennial_workflows::operation::event::{OperationEvent, SpecChange};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::view::history::story;
use tracing::{error, info, warn};

/// Events in one read.
const PAGE: usize = 256;

/// Of how many of a workflow's events its end is told: one that has waited for capacity for days has more.
const STORY_MAX: usize = 5_000;

/// A journal that cannot be read is asked again after this long.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Follows the journal until the shutdown.
pub(crate) async fn run(engine: Engine<Perennial>, shutdown: Shutdown) {
    let mut written = engine.written();
    let mut after = loop {
        match engine.journal().head().await {
            Ok(head) => break head.position,
            Err(error) => {
                warn!(%error, "the journal's end cannot be read");
                tokio::select! {
                    biased;
                    () = shutdown.asked() => return,
                    () = engine.clock().sleep(AGAIN) => {}
                }
            }
        }
    };
    let mut refused = Refused::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            changed = written.changed() => if changed.is_err() { return },
        }
        while let Some(last) = page(&engine, after, &mut refused).await {
            after = last;
        }
    }
}

/// Tells one page of events; the position of the last one, if there was any.
async fn page(engine: &Engine<Perennial>, after: Position, refused: &mut Refused) -> Option<Position> {
    let events = match engine.journal().read_all(after, PAGE).await {
        Ok(events) => events,
        Err(error) => {
            warn!(%error, "the journal cannot be read");
            engine.clock().sleep(AGAIN).await;
            return None;
        }
    };
    for event in &events {
        match OperationId::of_stream(&event.stream) {
            Some(id) => {
                let ended = tell(&id, event, refused);
                if let Some(outcome) = ended {
                    tell_end(engine, &id, outcome).await;
                }
            }
            None => tell_of_a_node(event),
        }
    }
    events.last().map(|event| event.position)
}

/// How many launches EC2 has refused in a row for want of capacity, of each open workflow.
type Refused = BTreeMap<OperationId, u32>;

/// From this refusal on a workflow counts as waiting for capacity; two pools without any are an ordinary day.
const REFUSALS_TOLD: u32 = 3;

/// Tells when a workflow begins to wait for capacity, and when it has some.
fn tell_capacity(id: &OperationId, evidence: &Evidence, refused: &mut Refused) {
    let (workflow, node) = (id.to_string(), id.node());
    match evidence {
        Evidence::NoCapacity { code, message } => {
            let times = refused.entry(id.clone()).or_default();
            *times += 1;
            if *times == REFUSALS_TOLD {
                let because = message.escape_debug().to_string();
                warn!(%node, workflow, refused = *times, code, because, "no capacity: it is asked again and again");
            }
        }
        Evidence::Launched { instance, .. } => {
            if let Some(times) = refused.remove(id).filter(|times| *times >= REFUSALS_TOLD) {
                info!(%node, workflow, refused = times, %instance, "there is capacity again");
            }
        }
        _ => {}
    }
}

/// Tells of what happens to a node beside its workflows, and needs a person's eye.
fn tell_of_a_node(recorded: &RecordedEvent) {
    if recorded.stream.category() != "node" {
        return;
    }
    let node = recorded.stream.name();
    let Ok(Event::Node(event)) = Perennial::decode(&recorded.data) else { return };
    match event {
        NodeEvent::FellBehind { newer } => {
            let newer = newer.join("; ").escape_debug().to_string();
            error!(node, newer, "the journal is behind the account: nothing is done for the node");
        }
        NodeEvent::CaughtUp {} => info!(node, "the journal knows everything of the node again"),
        NodeEvent::Adopted { requested_by, generation, .. } => {
            let requested_by = requested_by.escape_debug().to_string();
            warn!(node, generation, requested_by, "the node was adopted as it is in the account");
        }
        NodeEvent::VolumeLeft { slot, volume, instance } => {
            warn!(node, %slot, %volume, %instance, "a volume was detached by hand: it is the node's no more");
        }
        NodeEvent::Registered { .. }
        | NodeEvent::SpecChanged { .. }
        | NodeEvent::OperationStarted { .. }
        | NodeEvent::OperationFinished { .. }
        | NodeEvent::SignalNoted { .. }
        | NodeEvent::BackupsReconciled {} => {}
    }
}

/// Tells that a workflow has ended, and how long the node did not serve.
async fn tell_end(engine: &Engine<Perennial>, id: &OperationId, outcome: Outcome) {
    let (workflow, node) = (id.to_string(), id.node());
    if outcome == Outcome::Abandoned {
        warn!(%node, workflow, "a workflow is abandoned");
        return;
    }
    match outage_ms(engine, id).await {
        Some(outage_ms) => {
            let outage_s = outage_ms as f64 / 1_000.0;
            info!(%node, workflow, %outcome, outage_s, "a workflow ended");
        }
        None => info!(%node, workflow, %outcome, "a workflow ended"),
    }
}

/// How long a node did not serve in a workflow that has ended, as far as its first events tell.
async fn outage_ms(engine: &Engine<Perennial>, id: &OperationId) -> Option<u64> {
    let recorded = engine.journal().read_stream(&id.stream(), Seq::NONE, STORY_MAX).await.ok()?;
    let mut events = Vec::new();
    for event in &recorded {
        if let Ok(Event::Operation(told)) = Perennial::decode(&event.data) {
            events.push((Stamp { seq: event.seq, at_ms: event.recorded_at_ms }, told));
        }
    }
    let outage = story(id, &events)?.outage?;
    Some(outage.to_ms?.saturating_sub(outage.from_ms))
}

/// Tells an event of a workflow; how that ended, if it did.
fn tell(id: &OperationId, recorded: &RecordedEvent, refused: &mut Refused) -> Option<Outcome> {
    let (workflow, node) = (id.to_string(), id.node());
    let Ok(Event::Operation(event)) = Perennial::decode(&recorded.data) else { return None };
    match event {
        OperationEvent::Started(order) => {
            let cause = order.cause.to_string().escape_debug().to_string();
            info!(%node, workflow, kind = %order.kind, cause, "a workflow began");
        }
        OperationEvent::Stuck { step, because, needs } => {
            let (because, needs) = (because.escape_debug().to_string(), needs.escape_debug().to_string());
            error!(%node, workflow, %step, because, needs, "a workflow is stuck: a person must help");
        }
        OperationEvent::StepWaits { step, because, hindered: true, looks, .. } => {
            let because = because.escape_debug().to_string();
            warn!(%node, workflow, %step, because, looks, "a step is hindered; it goes on by itself");
        }
        OperationEvent::StepWaits { step, because, looks, .. } => {
            let because = because.escape_debug().to_string();
            info!(%node, workflow, %step, because, looks, "a step waits");
        }
        OperationEvent::RootMethodChosen { from, to, because, .. } => {
            let because = because.escape_debug().to_string();
            warn!(%node, workflow, %from, %to, because, "the root goes on by another method");
        }
        OperationEvent::CandidateLost { instance, because } => {
            let because = because.escape_debug().to_string();
            warn!(%node, workflow, %instance, because, "a new instance is lost; another one is launched");
        }
        OperationEvent::StepSettled { evidence, .. } => tell_capacity(id, &evidence, refused),
        OperationEvent::SpecChanged { because: SpecChange::LastGood { refused }, .. } => {
            let refused = refused.escape_debug().to_string();
            warn!(%node, workflow, refused, "the node goes on with the file of its last instance");
        }
        OperationEvent::Finished { outcome, .. } => {
            refused.remove(id);
            return Some(outcome);
        }
        OperationEvent::StepIntended { .. }
        | OperationEvent::Dropped { .. }
        | OperationEvent::SignalReceived { .. }
        | OperationEvent::VolumeFound { .. }
        | OperationEvent::Resumed { .. }
        | OperationEvent::SpecChanged { .. }
        | OperationEvent::CancelRequested { .. }
        | OperationEvent::Diverted { .. } => {}
    }
    None
}
