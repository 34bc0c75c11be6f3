//! What the node file says is retained for too long (`persist.retain_days`): finds it, and asks the workflow
//! to delete it.
//!
//! What is due is decided by the domain ([`due`]), from the node's state alone; this loop only asks, and
//! bounds how many begin at once. A death between two looks loses nothing: what was due is due.
//!
//! Age is a matter of the machine's clock, which may be wrong. While it disagrees with the region's by more
//! than [`DISAGREES`], or the region's is not known, nothing is deleted, and the task says so as its failure.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
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
use crate::port::{Cloud, ToldTime};

/// Between two looks. Nothing waits for a deletion that is a matter of days; a few minutes more are nothing.
pub const EVERY: Duration = Duration::from_mins(5);

/// A clock that differs more from AWS's is wrong: machines keep time to milliseconds, and an answer takes
/// seconds.
pub const DISAGREES: Duration = Duration::from_mins(1);

/// How much real time an answer may take; with a clock that runs faster it is more of the clock's time.
const ANSWERS_IN: Duration = Duration::from_secs(1);

/// How many prunes begin in one look, of up to a hundred volumes each: what the whole installation retains
/// too long is gone within hours, and EC2's calls are left to others.
const BEGUN_MAX: usize = 10;

/// The task.
pub struct Retention {
    engine: Engine<Perennial>,
    cloud: Arc<dyn Cloud>,
    owner: String,
}

/// Why a look ended early.
#[derive(Debug, thiserror::Error)]
enum RetentionError {
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// How old something is cannot be said.
    #[error(transparent)]
    Time(#[from] TimeInDoubt),
}

/// Why this process does not know the time well enough to delete what is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeInDoubt {
    /// No answer has told the region's time.
    #[error("what is retained for too long is not deleted yet: no answer of AWS has told its time")]
    NotTold,
    /// The two differ.
    #[error(
        "what is retained for too long is not deleted: the machine's clock is {} s {} AWS's; set it (NTP)",
        .ahead_ms.unsigned_abs() / 1_000,
        if *.ahead_ms > 0 { "ahead of" } else { "behind" }
    )]
    Disagrees {
        /// By how much the machine's clock is ahead.
        ahead_ms: i64,
    },
}

/// Whether the clock agrees with the region's.
///
/// # Errors
/// [`TimeInDoubt`].
pub fn time_is_known(clock: &Clock, told: Option<ToldTime>) -> Result<(), TimeInDoubt> {
    let ahead_ms = told.ok_or(TimeInDoubt::NotTold)?.ahead_ms(clock);
    let most = DISAGREES.max(clock.passed(ANSWERS_IN));
    if Duration::from_millis(ahead_ms.unsigned_abs()) > most {
        return Err(TimeInDoubt::Disagrees { ahead_ms });
    }
    Ok(())
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
    pub const fn new(engine: Engine<Perennial>, cloud: Arc<dyn Cloud>, owner: String) -> Self {
        Self { engine, cloud, owner }
    }

    /// One look at every node at rest.
    ///
    /// # Errors
    /// When the journal cannot be read, or something is due and the time is in doubt.
    async fn look_through(&self) -> Result<(), RetentionError> {
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
                    Ok(Ok(begun)) => room -= usize::from(begun),
                    // It is so for all.
                    Ok(Err(doubt)) => return Err(doubt.into()),
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
    async fn consider(&self, name: &NodeName) -> Result<Result<bool, TimeInDoubt>, ExecuteError<Rejection>> {
        let (state, _) = self.engine.load(&node_stream(name)).await?;
        let State::Node(node) = state.as_ref() else { return Ok(Ok(false)) };
        let clock = self.engine.clock();
        let due = due(node, name, clock.now_ms());
        if due.is_empty() {
            return Ok(Ok(false));
        }
        if let Err(doubt) = time_is_known(clock, self.cloud.told_time()) {
            return Ok(Err(doubt));
        }
        let (node, owner) = (name.clone(), self.owner.clone());
        match self.engine.execute(Command::Prune { node, owner }).await {
            Ok(_) => {
                info!(node = %name, volumes = due.len(), "prunes what is retained for too long");
                Ok(Ok(true))
            }
            Err(ExecuteError::Rejected(Rejection::NotNow { .. })) => Ok(Ok(false)),
            Err(error) => Err(error),
        }
    }
}
