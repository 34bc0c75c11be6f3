//! Follows a workflow: its events as they come, until it is over or stuck.

use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::domain::Domain as _;
use perennial_engine::ids::Seq;
use perennial_engine::journal::{Journal as _, RecordedEvent};
use perennial_store::JournalReader;
use perennial_workflows::domain::{Event, Perennial};
use perennial_workflows::node::{OperationId, Outcome};
use perennial_workflows::operation::OperationEvent;

use crate::failure::Failure;
use crate::output::words;
use crate::output::{Format, Output};

/// Between two looks at the journal. A person does not feel it, and a look costs under a millisecond.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many events one read takes.
const PAGE: usize = 500;

/// Where the progress of an operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is what was asked for: stdout.
    Data,
    /// It only passes the time: stderr.
    Aside,
}

/// Prints an operation's events as they come, until it is over (good) or stuck (a failure).
pub(crate) async fn watch(
    journal: &JournalReader,
    output: Output,
    progress: Progress,
    id: &OperationId,
) -> Result<Outcome, Failure> {
    let mut after = Seq::NONE;
    let clock = Clock::system();
    let mut began_ms = None;
    let mut teller = words::Teller::default();
    loop {
        let events = read_from(journal, id, after).await?;
        let mut stuck = None;
        for event in &events {
            after = event.seq;
            let began_ms = *began_ms.get_or_insert(event.recorded_at_ms);
            let decoded = Perennial::decode(&event.data).map_err(|error| {
                Failure::environment(format!("{} of {id}: {error}", event.seq))
                    .hint("run `perennial journal verify`")
            })?;
            let Event::Operation(decoded) = decoded else { continue };
            let at_ms = event.recorded_at_ms.saturating_sub(began_ms);
            let told = teller.tell(id, event.seq, &decoded).map(|(name, what)| {
                let head = format!(" {:>9}  {name:<16} ", format!("+{}", words::length(at_ms)));
                words::wrapped(&head, &what, 12)
            });
            match (progress, output.format, told) {
                (Progress::Data, Format::Json, _) => output.json_line(&line(event)?)?,
                (Progress::Data, Format::Table, Some(told)) => output.text(&told)?,
                (Progress::Aside, _, Some(told)) => output.say(&told),
                (_, _, None) => {}
            }
            match decoded {
                OperationEvent::Finished { outcome, .. } => return Ok(outcome),
                OperationEvent::Stuck { step, because, needs } => stuck = Some((step, because, needs)),
                OperationEvent::Resumed { .. } | OperationEvent::CancelRequested { .. } => stuck = None,
                _ => {}
            }
        }
        if let Some((step, because, needs)) = stuck {
            return Err(Failure::failed(format!("workflow {id} is stuck at {step}: {because}"))
                .hint(format!("{needs}; then `perennial workflow resume {id}`")));
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

async fn read_from(
    journal: &JournalReader,
    id: &OperationId,
    mut after: Seq,
) -> Result<Vec<RecordedEvent>, Failure> {
    let mut all = Vec::new();
    loop {
        let page = journal.read_stream(&id.stream(), after, PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().map_or(after, |event| event.seq);
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// One event for programs.
fn line(event: &RecordedEvent) -> Result<serde_json::Value, Failure> {
    let body: serde_json::Value = serde_json::from_str(&event.data.body).map_err(Failure::internal)?;
    Ok(serde_json::json!({
        "position": event.position, "stream": event.stream, "seq": event.seq, "kind": event.data.kind,
        "recorded_at_ms": event.recorded_at_ms, "body": body,
    }))
}
