//! Events in words, one line each.

use std::collections::BTreeMap;

use jiff::Timestamp;
use perennial_engine::ids::{Seq, Token};
use perennial_workflows::history::{found_in_words, in_words};
use perennial_workflows::node::OperationId;
use perennial_workflows::operation::OperationEvent;
use perennial_workflows::steps::Intent;

/// A moment, to the second.
pub(crate) fn time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{at_ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A moment, to the minute.
pub(crate) fn minute(at_ms: u64) -> String {
    let time = time(at_ms);
    time.rsplit_once(':').map_or_else(|| time.clone(), |(minute, _)| format!("{minute}Z"))
}

/// A length of time.
pub(crate) fn length(ms: u64) -> String {
    let seconds = ms as f64 / 1_000.0;
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7_200.0 {
        format!("{:.1} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3_600.0)
    }
}

/// Tells the events of operations as they come, one line each.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    /// What was intended, by operation and token: the words for what was seen need it.
    intents: BTreeMap<(OperationId, Token), Intent>,
}

impl Teller {
    /// What a person who watches wants to see of an event: a name and what about it.
    pub(crate) fn tell(
        &mut self,
        id: &OperationId,
        seq: Seq,
        event: &OperationEvent,
    ) -> Option<(String, String)> {
        Some(match event {
            OperationEvent::Started(order) => (format!("{} began", order.kind), order.cause.to_string()),
            OperationEvent::StepIntended { intent, .. } => {
                self.intents.insert((id.clone(), seq.into()), intent.clone());
                return None;
            }
            OperationEvent::StepSettled { step, token, evidence } => {
                let intent = self.intents.remove(&(id.clone(), *token))?;
                (step.clone(), in_words(&intent, evidence))
            }
            OperationEvent::RungChosen { from, to, because, .. } => {
                (format!("root: {to}"), format!("instead of {from}: {because}"))
            }
            OperationEvent::Dropped { steps, because } => {
                ("left out".to_owned(), format!("{}: {because}", steps.join(", ")))
            }
            OperationEvent::CandidateLost { instance, because } => {
                ("candidate lost".to_owned(), format!("{instance}: {because}"))
            }
            OperationEvent::SignalReceived { signal } => ("heard".to_owned(), signal.to_string()),
            OperationEvent::Stuck { step, because, needs } => {
                ("STUCK".to_owned(), format!("{step}: {because}. Needs: {needs}"))
            }
            OperationEvent::Resumed { requested_by, .. } => {
                ("resumed".to_owned(), format!("by {requested_by}"))
            }
            OperationEvent::CancelRequested { requested_by, reason } => {
                let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
                ("cancelled".to_owned(), format!("by {requested_by}{reason}; it is being undone"))
            }
            OperationEvent::Diverted { cause, delete } => {
                let what = if delete.is_some() { "deletion" } else { "pause" };
                (what.to_owned(), format!("{cause}; it only frees what the node holds"))
            }
            OperationEvent::VolumeFound { instance, slot, held } => {
                ("volume found".to_owned(), found_in_words(instance, slot, held))
            }
            OperationEvent::Finished { outcome, .. } => (outcome.to_string(), String::new()),
        })
    }
}

/// Columns and a text behind them, broken at spaces so that no line is wider than a terminal where ids allow it; further
/// lines begin at `indent`.
pub(crate) fn wrapped(head: &str, text: &str, indent: usize) -> String {
    const WIDTH: usize = crate::output::WIDTH as usize;
    let mut lines = vec![head.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap_or_else(|| unreachable!("BUG: there is always a line"));
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{:indent$}{word}", ""));
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}
