//! Tells the log what a person must know: workflows that are stuck, steps that wait, and their end.
//!
//! # Guarantees
//! - Follows the journal from its end at the start; what happened before is shown by `perennial doctor`.
//! - Each event leads to at most one line; what was sent from outside is escaped.
//! - A journal that cannot be read delays the lines and loses none.

use std::collections::BTreeMap;

use perennial_engine::domain::Domain as _;
use perennial_engine::engine::Engine;
use perennial_engine::ids::Position;
use perennial_engine::journal::RecordedEvent;
use perennial_engine::shutdown::Shutdown;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::Event;
use perennial_workflows::model::operation_id::{OperationId, Outcome};
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::step::evidence::Evidence;
use tracing::{info, warn};

/// Events in one read.
const PAGE: usize = 256;

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
    events.iter().for_each(|event| tell(event, refused));
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
                let message = message.escape_debug().to_string();
                warn!(%node, workflow, refused = *times, code, message, "no capacity: it is asked again and again");
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

fn tell(recorded: &RecordedEvent, refused: &mut Refused) {
    let Some(id) = OperationId::of_stream(&recorded.stream) else { return };
    let (workflow, node) = (id.to_string(), id.node());
    let Ok(Event::Operation(event)) = Perennial::decode(&recorded.data) else { return };
    match event {
        OperationEvent::Started(order) => {
            let cause = order.cause.to_string().escape_debug().to_string();
            info!(%node, workflow, kind = %order.kind, cause, "a workflow began");
        }
        OperationEvent::Stuck { step, because, needs } => {
            let (because, needs) = (because.escape_debug().to_string(), needs.escape_debug().to_string());
            warn!(%node, workflow, %step, because, needs, "a workflow is stuck: a person must help");
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
        OperationEvent::StepSettled { evidence, .. } => tell_capacity(&id, &evidence, refused),
        OperationEvent::Finished { outcome: Outcome::Abandoned, .. } => {
            refused.remove(&id);
            warn!(%node, workflow, "a workflow is abandoned");
        }
        OperationEvent::Finished { outcome, .. } => {
            refused.remove(&id);
            info!(%node, workflow, %outcome, "a workflow ended");
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
}
