//! One running Perennial: the dispatcher (with the timers of backups and retention), the readers of the two
//! inbox queues and the driver of the periodic tasks (sweep, return to spot), over whatever journal, queues
//! and cloud it is given. `perennial serve`, the demo and the simulations all run exactly this.

use std::sync::Arc;
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::Dispatcher;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::Journal;
use perennial_engine::limits::Limits;
use perennial_engine::queue::Queue;
use perennial_engine::shutdown::Shutdown;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::model::installation::Place;
use tokio::task::JoinSet;

use crate::capacity::on_demand::OnDemandBudget;
use crate::capacity::refusals::CapacityRefusals;
use crate::cloud::planner::{Planner, Reserve};
use crate::herald;
use crate::ingest::{InboxQueue, Ingest, ReplyTo};
use crate::periodic::driver::{Driver, Task};
use crate::periodic::return_to_spot::ReturnToSpot;
use crate::periodic::sweep::{Looks, Sweep};
use crate::port::Cloud;
use crate::standing::Standing;
use crate::steps::runner::Runner;

/// Why a service ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The journal is not served here, or cannot be written.
    #[error("the journal cannot be served")]
    Bind(#[from] ExecuteError<Rejection>),
    /// A part of it panicked. What was under way is in the journal, and goes on at the next start.
    #[error("BUG: a part of the service panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

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
    /// Where it is: the account, the region, and whose installation it is; the owner stands in every tag.
    pub place: Place,
    /// The id of the installation, if the journal has none yet: random.
    pub installation: String,
    /// Where answers go.
    pub replies: Arc<dyn ReplyTo>,
    /// The worker pool's bounds.
    pub limits: Limits,
    /// Between two sweeps.
    pub sweep_every: Duration,
    /// What is left of the account's request quotas to its other users.
    pub reserve: Reserve,
}

/// A service before it runs: its engine and the status of its periodic tasks can be handed to others.
pub struct Service {
    engine: Engine<Perennial>,
    cloud: Arc<dyn Cloud>,
    planner: Arc<Planner>,
    refusals: Arc<CapacityRefusals>,
    standing: Standing,
    periodic: Driver,
    parts: Parts,
}

impl Service {
    /// A service over its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let engine = Engine::new(Arc::clone(&parts.journal), parts.clock.clone());
        let planner = Planner::new(Arc::clone(&parts.cloud), parts.clock.clone(), parts.reserve);
        let planner = Arc::new(planner);
        let cloud: Arc<dyn Cloud> = Arc::clone(&planner) as Arc<dyn Cloud>;
        let refusals = Arc::new(CapacityRefusals::new(parts.clock.clone()));
        let standing = Standing::new(engine.clone(), Arc::clone(&cloud), parts.place.owner.clone());
        let periodic = Driver::new(parts.clock.clone(), tasks(&engine, &cloud, &refusals, &standing, &parts));
        Self { engine, cloud, planner, refusals, standing, periodic, parts }
    }

    /// Binds the journal to its place, if it is not bound yet.
    ///
    /// # Errors
    /// [`Rejection::AnotherPlace`] when it belongs somewhere else.
    pub async fn bind(&self) -> Result<(), ExecuteError<Rejection>> {
        let Parts { installation, place, .. } = &self.parts;
        let bind = Command::Bind { id: installation.clone(), place: place.clone() };
        self.engine.execute(bind).await.map(|_| ())
    }

    /// Its engine.
    #[must_use]
    pub fn engine(&self) -> Engine<Perennial> {
        self.engine.clone()
    }

    /// The planner of its calls.
    #[must_use]
    pub fn planner(&self) -> Arc<Planner> {
        Arc::clone(&self.planner)
    }

    /// The driver of its periodic tasks, which knows their status. The service itself runs it.
    #[must_use]
    pub fn periodic(&self) -> Driver {
        self.periodic.clone()
    }

    /// Runs until the shutdown is asked for and what is under way has ended or had its time.
    ///
    /// # Errors
    /// See [`ServiceError`]. The process is to end with it: a service without one of its parts looks alive
    /// and is not.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ServiceError> {
        self.bind().await?;
        let Self { engine, cloud, planner, refusals, standing, periodic, parts } = self;
        let on_demand = OnDemandBudget::new(engine.clone());
        let runner = Runner::new(planner, parts.clock, Arc::clone(&refusals), on_demand, standing);
        let runner = Arc::new(runner);
        let mut loops = JoinSet::new();
        loops.spawn(Dispatcher::new(engine.clone(), parts.steps, runner, parts.limits).run(shutdown.clone()));
        let queues = [
            (InboxQueue::Submissions, Some(parts.submissions)),
            (InboxQueue::Interruptions, parts.interruptions),
        ];
        for (inbox_queue, queue) in queues {
            if let Some(queue) = queue {
                let replies = Arc::clone(&parts.replies);
                let place = parts.place.clone();
                let refusals = Arc::clone(&refusals);
                let cloud = Arc::clone(&cloud);
                let ingest = Ingest::new(engine.clone(), queue, inbox_queue, place, replies, refusals, cloud);
                loops.spawn(ingest.run(shutdown.clone()));
            }
        }
        periodic.start(&mut loops, &shutdown);
        loops.spawn(herald::run(engine, shutdown));
        while let Some(ended) = loops.join_next().await {
            if let Err(failure) = ended
                && failure.is_panic()
            {
                loops.shutdown().await;
                return Err(ServiceError::Panicked(failure));
            }
        }
        Ok(())
    }
}

/// What a service looks at every so often, because only AWS knows it. What the journal alone decides is due
/// by timers (`domain::timers` of the workflows).
fn tasks(
    engine: &Engine<Perennial>,
    cloud: &Arc<dyn Cloud>,
    refusals: &Arc<CapacityRefusals>,
    standing: &Standing,
    parts: &Parts,
) -> Vec<Box<dyn Task>> {
    let owner = &parts.place.owner;
    let return_to_spot =
        ReturnToSpot::new(engine.clone(), Arc::clone(cloud), owner.clone(), Arc::clone(refusals));
    let looks = Looks {
        cloud: Arc::clone(cloud),
        standing: standing.clone(),
        refusals: Arc::clone(refusals),
        every: parts.sweep_every,
    };
    let sweep = Sweep::new(engine.clone(), owner.clone(), looks);
    vec![Box::new(return_to_spot), Box::new(sweep)]
}
