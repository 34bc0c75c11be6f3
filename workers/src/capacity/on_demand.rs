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
use perennial_workflows::domain::keys::ON_DEMAND_KEY;
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
        let on_demand = self.engine.journal().lookup(ON_DEMAND_KEY).await?;
        let mut on_demand: BTreeSet<String> =
            on_demand.iter().map(|stream| stream.name().to_owned()).collect();
        let mut after = None;
        loop {
            let page = self.engine.journal().summaries("node", Which::Open, after.take(), PAGE).await?;
            for row in &page {
                // A line that cannot be read is passed over.
                let Ok(node) = serde_json::from_str::<NodeSummary>(&row.body) else { continue };
                let Some((id, _)) = &node.operation else { continue };
                let stream = id.stream();
                if stream == *workflow {
                    on_demand.remove(row.stream.name());
                    continue;
                }
                if let State::Operation(Some(operation)) = self.engine.load(&stream).await?.0.as_ref()
                    && self.launching(&stream, operation, &allowed, &mut open)
                {
                    on_demand.insert(row.stream.name().to_owned());
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
            return Ok(Some(NotAsked::on_demand_budget(on_demand.into_iter().collect(), max)));
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
