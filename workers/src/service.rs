//! One running Perennial: the worker pool, the two letter readers, the backups' scheduler, the prunes, the sweep and the way back
//! to spot, over whatever journal, queues and cloud it is given. `perennial serve`, the demo and the simulations all run exactly
//! this.

use std::sync::Arc;
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::{Dispatcher, Limits, Shutdown};
use perennial_engine::engine::Engine;
use perennial_engine::journal::Journal;
use perennial_engine::queue::Queue;
use perennial_workflows::domain::Perennial;
use tokio::task::JoinSet;
use tracing::error;

use crate::backups::Backups;
use crate::budget::Budgeted;
use crate::cloud::Cloud;
use crate::ingest::{Ingest, LetterBox, ReplyTo};
use crate::on_demand::OnDemand;
use crate::pools::Pools;
use crate::prunes::Prunes;
use crate::returns::Returns;
use crate::runner::Runner;
use crate::sweep::Sweep;

/// What a service runs over.
pub struct Parts {
    /// The truth.
    pub journal: Arc<dyn Journal>,
    /// Doorbells.
    pub steps: Arc<dyn Queue>,
    /// Submissions.
    pub submissions: Arc<dyn Queue>,
    /// Interruption events, where there is a queue of them; the sweep works without.
    pub interruptions: Option<Arc<dyn Queue>>,
    /// The region.
    pub cloud: Arc<dyn Cloud>,
    /// The time.
    pub clock: Clock,
    /// Whose installation this is; in every tag.
    pub owner: String,
    /// Where answers go.
    pub replies: Arc<dyn ReplyTo>,
    /// The worker pool's bounds.
    pub limits: Limits,
    /// Between two sweeps.
    pub sweep_every: Duration,
}

/// A service before it runs: its engine can be handed to others.
pub struct Service {
    engine: Engine<Perennial>,
    parts: Parts,
}

impl Service {
    /// A service over its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let engine = Engine::new(Arc::clone(&parts.journal), parts.clock.clone());
        Self { engine, parts }
    }

    /// Its engine.
    #[must_use]
    pub fn engine(&self) -> Engine<Perennial> {
        self.engine.clone()
    }

    /// Runs until the shutdown is asked for and what is under way has ended or had its time.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { engine, parts } = self;
        let cloud: Arc<dyn Cloud> = Arc::new(Budgeted::new(parts.cloud, parts.clock.clone()));
        let pools = Arc::new(Pools::new(parts.clock.clone()));
        let on_demand = OnDemand::new(engine.clone());
        let runner =
            Arc::new(Runner::new(Arc::clone(&cloud), parts.clock.clone(), Arc::clone(&pools), on_demand));
        let mut loops = JoinSet::new();
        loops.spawn(Dispatcher::new(engine.clone(), parts.steps, runner, parts.limits).run(shutdown.clone()));
        let boxes = [
            (LetterBox::Submissions, Some(parts.submissions)),
            (LetterBox::Interruptions, parts.interruptions),
        ];
        for (letter_box, queue) in boxes {
            if let Some(queue) = queue {
                let replies = Arc::clone(&parts.replies);
                let owner = parts.owner.clone();
                let ingest =
                    Ingest::new(engine.clone(), queue, letter_box, owner, replies, Arc::clone(&pools));
                loops.spawn(ingest.run(shutdown.clone()));
            }
        }
        loops.spawn(Prunes::new(engine.clone(), parts.owner.clone()).run(shutdown.clone()));
        loops.spawn(Backups::new(engine.clone(), parts.owner.clone()).run(shutdown.clone()));
        let returns =
            Returns::new(engine.clone(), Arc::clone(&cloud), parts.owner.clone(), Arc::clone(&pools));
        loops.spawn(returns.run(shutdown.clone()));
        loops.spawn(Sweep::new(engine, cloud, parts.owner, parts.sweep_every, pools).run(shutdown));
        while let Some(ended) = loops.join_next().await {
            if let Err(failure) = ended
                && failure.is_panic()
            {
                error!(%failure, "BUG: a part of the service panicked; the others go on until the restart");
            }
        }
    }
}
