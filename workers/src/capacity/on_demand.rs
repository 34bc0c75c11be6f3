//! The budget of nodes on demand, counted from the journal.
//!
//! # Guarantees
//! - Of launches that this process allows, no two exceed a budget together: they are counted one after the
//!   other, and what was allowed counts until its step is settled.
//! - A launch that an earlier process may have made counts until it is looked at.
//!
//! # Assumptions One engine per journal. A launch is looked for by its tags before the budget is asked, so
//! that one that has happened is not refused afterwards.

use std::collections::BTreeSet;

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::ids::{StreamId, Token};
use perennial_engine::journal::Which;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::Rejection;
use perennial_workflows::domain::projection::NodeSummary;
use perennial_workflows::domain::states::State;
use perennial_workflows::model::aws::Market;
use perennial_workflows::model::capacity::NotAsked;
use perennial_workflows::operation::state::Operation;
use perennial_workflows::step::intent::{Intent, Launch};
use tokio::sync::Mutex;

/// How many nodes one page of the list holds.
const PAGE: usize = 500;

/// The budget.
pub struct OnDemandBudget {
    engine: Engine<Perennial>,
    /// Launches before this time may have been asked for by an earlier process.
    since_ms: u64,
    /// Launches that may be under way, by their step.
    allowed: Mutex<BTreeSet<(StreamId, Token)>>,
}

impl OnDemandBudget {
    /// A budget over a journal.
    #[must_use]
    pub fn new(engine: Engine<Perennial>) -> Self {
        let since_ms = engine.clock().now_ms();
        Self { engine, since_ms, allowed: Mutex::default() }
    }

    /// Whether a launch may go on demand: `None`, or why not.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn refuses(
        &self,
        workflow: &StreamId,
        token: Token,
        max: u32,
    ) -> Result<Option<NotAsked>, ExecuteError<Rejection>> {
        let mut allowed = self.allowed.lock().await;
        let mut open = BTreeSet::new();
        let mut on_demand = Vec::new();
        let mut after = None;
        loop {
            let page = self.engine.journal().summaries("node", Which::All, after.take(), PAGE).await?;
            for row in &page {
                // The list's line is enough for a node at rest; a line that cannot be read is passed over.
                let Ok(node) = serde_json::from_str::<NodeSummary>(&row.body) else { continue };
                let stream = node.operation.as_ref().map(|(id, _)| id.stream());
                if stream.as_ref() == Some(workflow) {
                    continue;
                }
                let launching = match &stream {
                    Some(stream) => match self.engine.load(stream).await?.0.as_ref() {
                        State::Operation(Some(operation)) => {
                            self.launching(stream, operation, &allowed, &mut open)
                        }
                        _ => false,
                    },
                    None => false,
                };
                if launching || is_on_demand(&node) {
                    on_demand.push(row.stream.name().to_owned());
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.stream.clone()),
                _ => break,
            }
        }
        // What is settled by now shows in the nodes themselves.
        allowed.retain(|launch| open.contains(launch));
        if u32::try_from(on_demand.len()).unwrap_or(u32::MAX) >= max {
            return Ok(Some(NotAsked::on_demand_budget(on_demand, max)));
        }
        allowed.insert((workflow.clone(), token));
        Ok(None)
    }

    /// Whether an operation has an instance on demand, or may be getting one; notes its open launches.
    fn launching(
        &self,
        stream: &StreamId,
        operation: &Operation,
        allowed: &BTreeSet<(StreamId, Token)>,
        open: &mut BTreeSet<(StreamId, Token)>,
    ) -> bool {
        let mut may_be_asked_for = false;
        for step in operation.steps.iter().filter(|(_, record)| record.outcome.is_none()) {
            let (token, record) = step;
            if let Intent::Launch(Launch { pool, .. }) = record.intent.as_ref()
                && pool.market == Market::OnDemand
            {
                let launch = (stream.clone(), *token);
                let begins_ms = record.intended_at_ms.max(record.not_before_ms);
                may_be_asked_for |= allowed.contains(&launch) || begins_ms < self.since_ms;
                open.insert(launch);
            }
        }
        may_be_asked_for || operation.candidate_market() == Some(Market::OnDemand)
    }
}

fn is_on_demand(node: &NodeSummary) -> bool {
    !node.deleted && node.carrier.as_ref().is_some_and(|carrier| carrier.market == Market::OnDemand)
}
