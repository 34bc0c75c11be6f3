//! What the node file says is retained for too long (`persist.retain_days`): finds it, and asks the workflow
//! to delete it.
//!
//! What is due is decided by the domain ([`due`]), from the node's state alone; this loop only asks, and
//! bounds how many begin at once. A death between two looks loses nothing: what was due is due.

use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::ReadError;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::domain::projection::NodeSummary;
use perennial_workflows::domain::retention::due;
use perennial_workflows::domain::states::State;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::node_stream;
use tracing::{info, warn};

use super::driver::{Failure, Task};
use super::pages::Pages;

/// Between two looks. Nothing waits for a deletion that is a matter of days; a few minutes more are nothing.
pub const EVERY: Duration = Duration::from_mins(5);

/// How many prunes begin in one look, of up to a hundred volumes each: what the whole installation retains
/// too long is gone within hours, and EC2's calls are left to others.
const BEGUN_MAX: usize = 10;

/// The task.
pub struct Retention {
    engine: Engine<Perennial>,
    owner: String,
}

#[async_trait]
impl Task for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn once(&mut self) -> Result<(), Failure> {
        Ok(self.look_through().await?)
    }
}

impl Retention {
    /// A task over all nodes.
    #[must_use]
    pub const fn new(engine: Engine<Perennial>, owner: String) -> Self {
        Self { engine, owner }
    }

    /// One look at every node at rest.
    ///
    /// # Errors
    /// When the journal cannot be read.
    async fn look_through(&self) -> Result<(), ReadError> {
        let mut room = BEGUN_MAX;
        let mut pages = Pages::of_nodes(&self.engine);
        while let Some(page) = pages.next().await? {
            for row in &page {
                let Ok(line) = serde_json::from_str::<NodeSummary>(&row.body) else { continue };
                let Ok(name) = NodeName::parse(row.stream.name()) else { continue };
                if line.carrier.is_none() || line.deleted || line.operation.is_some() {
                    continue;
                }
                match self.consider(&name).await {
                    Ok(begun) => room -= usize::from(begun),
                    Err(error) => warn!(node = %name, %error, "what it retains is not known"),
                }
                // What is due stays due.
                if room == 0 {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Begins the prune of one node, if one is due.
    async fn consider(&self, name: &NodeName) -> Result<bool, ExecuteError<Rejection>> {
        let (state, _) = self.engine.load(&node_stream(name)).await?;
        let State::Node(node) = state.as_ref() else { return Ok(false) };
        let due = due(node, name, self.engine.clock().now_ms());
        if due.is_empty() {
            return Ok(false);
        }
        let (node, owner) = (name.clone(), self.owner.clone());
        match self.engine.execute(Command::Prune { node, owner }).await {
            Ok(_) => {
                info!(node = %name, volumes = due.len(), "prunes what is retained for too long");
                Ok(true)
            }
            Err(ExecuteError::Rejected(Rejection::NotNow { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
