//! Workflows, and watching one.

use perennial_engine::domain::{Domain as _, FoldError, Stamp};
use perennial_engine::ids::Seq;
use perennial_engine::journal::Which;
use perennial_workflows::aggregate::engine::engine_stream;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::projection::OperationSummary;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::Operation;
use perennial_workflows::view::history::{Absence, Story, story};

use crate::model::journal::EventLine;
use crate::model::progress::Progress;
use crate::model::workflow::{WatchedEvent, WorkflowLine, WorkflowProgress, WorkflowView};
use crate::query::{QueryError, Subject, Views, decoded};

impl Views {
    /// The workflows, in the order in which they were started.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Summary`].
    pub async fn workflows(&self, which: Which) -> Result<Vec<WorkflowLine>, QueryError> {
        let rows = self.summaries::<OperationSummary>("workflow", which).await?;
        let mut lines: Vec<_> =
            rows.into_iter().map(|(id, summary)| WorkflowLine::new(&id, summary)).collect();
        lines.sort_by_key(|line| line.started_at_ms);
        Ok(lines)
    }

    /// One workflow with its steps, for programs.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`], [`QueryError::Corrupt`] and [`QueryError::Event`].
    pub async fn workflow(&self, id: &OperationId, now_ms: u64) -> Result<WorkflowView, QueryError> {
        let operation = self.operation(id).await?;
        Ok(WorkflowView::new(&operation, self.find_story(id).await?.as_ref(), now_ms))
    }

    /// One workflow, told for people.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`] and [`QueryError::Event`].
    pub async fn story(&self, id: &OperationId) -> Result<Story, QueryError> {
        let mut story = self.find_story(id).await?.ok_or_else(|| missing(id))?;
        attended(&mut story, &self.absences().await?);
        Ok(story)
    }

    /// The times in which no engine ran, as far as the journal knows.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Event`].
    pub async fn absences(&self) -> Result<Vec<Absence>, QueryError> {
        let stream = engine_stream();
        let events = self.events(&stream, |event| match event {
            Event::Engine(event) => Some(event),
            Event::Node(_)
            | Event::Operation(_)
            | Event::Inbox(_)
            | Event::Backup(_)
            | Event::AddressPool(_)
            | Event::Installation(_) => None,
        });
        Ok(Absence::all(&events.await?))
    }

    /// What a workflow does now; `None` when it is over.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn progress(&self, id: &OperationId, now_ms: u64) -> Result<Option<Progress>, QueryError> {
        Ok(Progress::new(&self.operation(id).await?, now_ms))
    }

    /// Watches a workflow from its beginning.
    #[must_use]
    pub fn watch(&self, id: &OperationId) -> Watch {
        let (views, id, progress) = (self.clone(), id.clone(), WorkflowProgress::Running);
        Watch { views, state: Perennial::empty(&id.stream()), id, after: Seq::NONE, progress }
    }

    pub(super) async fn find_story(&self, id: &OperationId) -> Result<Option<Story>, QueryError> {
        Ok(story(id, &self.operation_events(id).await?))
    }

    pub(super) async fn operation(&self, id: &OperationId) -> Result<Operation, QueryError> {
        self.find_operation(id).await?.ok_or_else(|| missing(id))
    }

    pub(super) async fn find_operation(&self, id: &OperationId) -> Result<Option<Operation>, QueryError> {
        match self.state(&id.stream()).await? {
            State::Operation(operation) => Ok(operation),
            _ => Ok(None),
        }
    }

    pub(super) async fn operation_events(
        &self,
        id: &OperationId,
    ) -> Result<Vec<(Stamp, OperationEvent)>, QueryError> {
        let stream = id.stream();
        let events = self.events(&stream, |event| match event {
            Event::Operation(event) => Some(event),
            Event::Node(_)
            | Event::Inbox(_)
            | Event::Backup(_)
            | Event::AddressPool(_)
            | Event::Installation(_)
            | Event::Engine(_) => None,
        });
        events.await
    }
}

/// Adds to a story when no engine ran meanwhile.
pub(super) fn attended(story: &mut Story, absences: &[Absence]) {
    let (from_ms, until_ms) = (story.started_at_ms, story.finished_at_ms);
    let within = absences.iter().filter(|absence| absence.is_within(from_ms, until_ms));
    story.unattended = within.copied().collect();
}

fn missing(id: &OperationId) -> QueryError {
    QueryError::Missing { subject: Subject::Workflow, name: id.to_string() }
}

/// A workflow that is watched. It does not wait: the caller decides when it looks again.
#[derive(Debug)]
pub struct Watch {
    views: Views,
    id: OperationId,
    after: Seq,
    /// The workflow as its events so far make it: one of several kinds of events ends that it is stuck.
    state: State,
    progress: WorkflowProgress,
}

impl Watch {
    /// The events since the last call, in order.
    ///
    /// # Errors
    /// [`QueryError::Read`], [`QueryError::Event`], [`QueryError::Corrupt`] and [`QueryError::Body`].
    pub async fn next_events(&mut self) -> Result<Vec<WatchedEvent>, QueryError> {
        let mut all = Vec::new();
        for event in self.views.recorded(&self.id.stream(), self.after).await? {
            self.after = event.seq;
            let decoded = decoded(&event)?;
            let stamp = Stamp { seq: event.seq, at_ms: event.recorded_at_ms };
            let state = std::mem::replace(&mut self.state, State::Unknown);
            self.state = Perennial::evolve(state, stamp, &decoded).map_err(|illegal| {
                QueryError::Corrupt { stream: event.stream.clone(), source: FoldError::from(illegal) }
            })?;
            let Event::Operation(decoded) = decoded else { continue };
            let line = EventLine::new(&event).map_err(|source| QueryError::Body {
                stream: event.stream.clone(),
                seq: event.seq,
                source,
            })?;
            if let State::Operation(Some(operation)) = &self.state {
                self.progress = WorkflowProgress::of(operation);
            }
            all.push(WatchedEvent { line, event: decoded });
        }
        Ok(all)
    }

    /// How far the workflow has come, by the events seen so far.
    #[must_use]
    pub const fn progress(&self) -> &WorkflowProgress {
        &self.progress
    }
}
