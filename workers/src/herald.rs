//! Tells the log what a person must know: workflows that are stuck, steps that wait, and their end.
//!
//! # Guarantees
//! - Follows the journal from its end at the start; what happened before is shown by `perennial doctor`.
//! - Each event leads to at most one line; what was sent from outside is escaped.
//! - A journal that cannot be read delays the lines and loses none.

use perennial_engine::domain::Domain as _;
use perennial_engine::engine::Engine;
use perennial_engine::ids::Position;
use perennial_engine::journal::RecordedEvent;
use perennial_engine::shutdown::Shutdown;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::Event;
use perennial_workflows::model::operation_id::{OperationId, Outcome};
use perennial_workflows::operation::event::OperationEvent;
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
    loop {
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            changed = written.changed() => if changed.is_err() { return },
        }
        while let Some(last) = page(&engine, after).await {
            after = last;
        }
    }
}

/// Tells one page of events; the position of the last one, if there was any.
async fn page(engine: &Engine<Perennial>, after: Position) -> Option<Position> {
    let events = match engine.journal().read_all(after, PAGE).await {
        Ok(events) => events,
        Err(error) => {
            warn!(%error, "the journal cannot be read");
            engine.clock().sleep(AGAIN).await;
            return None;
        }
    };
    events.iter().for_each(tell);
    events.last().map(|event| event.position)
}

fn tell(recorded: &RecordedEvent) {
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
        OperationEvent::Finished { outcome: Outcome::Abandoned, .. } => {
            warn!(%node, workflow, "a workflow is abandoned");
        }
        OperationEvent::Finished { outcome, .. } => info!(%node, workflow, %outcome, "a workflow ended"),
        OperationEvent::StepIntended { .. }
        | OperationEvent::StepSettled { .. }
        | OperationEvent::Dropped { .. }
        | OperationEvent::SignalReceived { .. }
        | OperationEvent::VolumeFound { .. }
        | OperationEvent::Resumed { .. }
        | OperationEvent::SpecChanged { .. }
        | OperationEvent::CancelRequested { .. }
        | OperationEvent::Diverted { .. } => {}
    }
}
