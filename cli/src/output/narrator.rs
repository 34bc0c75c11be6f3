//! Events of workflows in words.

use std::collections::BTreeMap;

use perennial_engine::ids::{Seq, Token};
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::step::intent::Intent;
use perennial_workflows::view::history::{discovered_in_words, in_words};

/// Puts the events of workflows into words as they come, one line each.
#[derive(Debug, Default)]
pub(crate) struct Narrator {
    /// What was intended, by operation and token: the words for what was seen need it.
    intents: BTreeMap<(OperationId, Token), Intent>,
}

impl Narrator {
    /// What a person who watches wants to see of an event: a name and what about it; `None` for the rest.
    pub(crate) fn narrate(
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
                (step.to_string(), in_words(&intent, evidence))
            }
            OperationEvent::StepWaits { step, because, .. } => {
                (step.to_string(), format!("waits: {because}"))
            }
            OperationEvent::RootMethodChosen { from, to, because, .. } => {
                (format!("root: {to}"), format!("instead of {from}: {because}"))
            }
            OperationEvent::Dropped { steps, because } => {
                let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
                ("left out".to_owned(), format!("{}: {because}", steps.join(", ")))
            }
            OperationEvent::CandidateLost { instance, because } => {
                ("candidate lost".to_owned(), format!("{instance}: {because}"))
            }
            OperationEvent::SignalReceived { signal } => ("signal".to_owned(), signal.to_string()),
            OperationEvent::Stuck { step, because, needs } => {
                ("STUCK".to_owned(), format!("{step}: {because}. Needs: {needs}"))
            }
            OperationEvent::Resumed { requested_by, .. } => {
                ("resumed".to_owned(), format!("by {requested_by}"))
            }
            OperationEvent::SpecChanged { because, keeps_root, .. } => {
                let root = if *keeps_root { "; the present root stays" } else { "" };
                ("another file".to_owned(), format!("{because}{root}"))
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
                ("volume found".to_owned(), discovered_in_words(instance, slot, held))
            }
            OperationEvent::Finished { outcome, .. } => (outcome.to_string(), String::new()),
        })
    }
}
