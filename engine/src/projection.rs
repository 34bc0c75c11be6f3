//! What streams show to the outside, as rows: kept batch by batch beside the events, or folded anew from all
//! of them.

use std::collections::BTreeMap;

use crate::domain::{Domain, FoldError, OpenStep, Projected, Summary, Timer, fold};
use crate::ids::{Doorbell, StreamId};
use crate::journal::{OpenStepRow, ProjectionDelta, RecordedEvent, SummaryRow, TimerRow};

fn step_row<I>(stream: &StreamId, step: &OpenStep<I>) -> OpenStepRow {
    OpenStepRow {
        stream: stream.clone(),
        token: step.token,
        step: step.step.clone(),
        due_ms: step.not_before_ms,
        deadline_ms: step.deadline_ms,
        priority: step.priority,
    }
}

/// Whether two steps of a stream have one row.
fn has_same_row<I>(one: &OpenStep<I>, other: &OpenStep<I>) -> bool {
    one.token == other.token
        && one.step == other.step
        && one.not_before_ms == other.not_before_ms
        && one.deadline_ms == other.deadline_ms
        && one.priority == other.priority
}

fn timer_row(stream: &StreamId, timer: &Timer) -> TimerRow {
    TimerRow {
        due_ms: timer.due_ms,
        stream: stream.clone(),
        name: timer.name.clone(),
        wait_max_ms: timer.wait_max_ms,
    }
}

/// Notes what `after` shows that `before` did not, and returns the doorbells of the steps that are new.
pub(crate) fn note_changes<I>(
    delta: &mut ProjectionDelta,
    stream: &StreamId,
    before: &Projected<I>,
    after: &Projected<I>,
    now_ms: u64,
) -> Vec<Doorbell> {
    let mut bells = Vec::new();
    for step in &before.steps {
        if !after.steps.iter().any(|other| other.token == step.token) {
            delta.closed.push((stream.clone(), step.token));
        }
    }
    for step in &after.steps {
        match before.steps.iter().find(|other| other.token == step.token) {
            None => {
                bells.push(Doorbell { workflow: stream.clone(), token: step.token });
                delta.opened.push(step_row(stream, step));
            }
            // A deadline can move (resume); the row is replaced.
            Some(other) if !has_same_row(other, step) => {
                bells.push(Doorbell { workflow: stream.clone(), token: step.token });
                delta.closed.push((stream.clone(), step.token));
                delta.opened.push(step_row(stream, step));
            }
            Some(_) => {}
        }
    }
    for key in &before.keys {
        if !after.keys.contains(key) {
            delta.keys_removed.push((key.clone(), stream.clone()));
        }
    }
    for key in &after.keys {
        if !before.keys.contains(key) {
            delta.keys_added.push((key.clone(), stream.clone()));
        }
    }
    for timer in &before.timers {
        if !after.timers.iter().any(|other| other.name == timer.name) {
            delta.timers_removed.push((stream.clone(), timer.name.clone()));
        }
    }
    let set = after.timers.iter().filter(|timer| !before.timers.contains(timer));
    delta.timers_set.extend(set.map(|timer| timer_row(stream, timer)));
    if before.summary != after.summary
        && let Some(summary) = &after.summary
    {
        delta.summaries.push(SummaryRow {
            stream: stream.clone(),
            open: summary.open,
            body: summary.body.clone(),
            updated_at_ms: now_ms,
        });
    }
    bells
}

/// Rebuilds what the projections should hold, event by event in order of position: the other half of `verify`
/// and `rebuild`.
#[derive(Debug)]
pub struct Reprojection<D: Domain> {
    states: BTreeMap<StreamId, D::State>,
    updated: BTreeMap<StreamId, (Option<Summary>, u64)>,
}

impl<D: Domain> Default for Reprojection<D> {
    fn default() -> Self {
        Self { states: BTreeMap::new(), updated: BTreeMap::new() }
    }
}

/// The projections, in full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Projections {
    /// In the order (stream, token).
    pub open_steps: Vec<OpenStepRow>,
    /// In the order (key, stream).
    pub keys: Vec<(String, StreamId)>,
    /// In order of stream.
    pub summaries: Vec<SummaryRow>,
    /// In the order in which they are due.
    pub timers: Vec<TimerRow>,
}

impl<D: Domain> Reprojection<D> {
    /// Takes the next event.
    ///
    /// # Errors
    /// [`FoldError`]; the stream is forgotten, and none of its later events may follow.
    pub fn apply(&mut self, event: &RecordedEvent) -> Result<(), FoldError> {
        let state = self.states.remove(&event.stream).unwrap_or_else(|| D::empty(&event.stream));
        let state = fold::<D>(state, [event])?;
        let summary = D::project(&event.stream, &state).summary;
        let entry = self.updated.entry(event.stream.clone()).or_insert((None, event.recorded_at_ms));
        if entry.0 != summary {
            *entry = (summary, event.recorded_at_ms);
        }
        self.states.insert(event.stream.clone(), state);
        Ok(())
    }

    /// What the projections should hold.
    #[must_use]
    pub fn finish(self) -> Projections {
        let mut projections = Projections::default();
        for (stream, state) in &self.states {
            let shown = D::project(stream, state);
            let mut steps: Vec<_> = shown.steps.iter().map(|step| step_row(stream, step)).collect();
            steps.sort_by_key(|row| row.token);
            projections.open_steps.extend(steps);
            projections.keys.extend(shown.keys.into_iter().map(|key| (key, stream.clone())));
            projections.timers.extend(shown.timers.iter().map(|timer| timer_row(stream, timer)));
            if let Some(summary) = shown.summary {
                projections.summaries.push(SummaryRow {
                    stream: stream.clone(),
                    open: summary.open,
                    body: summary.body,
                    updated_at_ms: self.updated.get(stream).map_or(0, |(_, at)| *at),
                });
            }
        }
        projections.keys.sort();
        projections.timers.sort();
        projections
    }
}
