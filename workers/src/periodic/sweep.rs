//! The sweep: finds a lost instance when no event ever came.
//!
//! Every so often it describes the instances of all nodes (and their spot requests) and hands what it sees to
//! the same decision that events go to. An event and a sweep about the same loss are one operation. What it
//! sees of the volumes on instances of nodes at rest goes the same way: see `attachment_drift`.
//!
//! An instance is 4 kB or more of XML. So of each one EC2 is only asked whether it runs, which a fleet in
//! order answers with nothing; whole instances are shown in turn, `SHOWN_MIN` or a `TURN`th of them a
//! sweep. A small fleet is shown whole in each sweep, and so is what looked odd in the sweep before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::ReadError;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::domain::projection::{AtRest, NodeSummary};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::aws::{InstanceId, SpotRequestId};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::signal::{News, Signal, Source};
use tracing::{info, warn};

use super::attachment_drift::{AttachmentDrift, Seen};
use super::driver::{Failure, Task};
use crate::capacity::refusals::CapacityRefusals;
use crate::ingest::confirm::seen_news;
use crate::pages::Pages;
use crate::port::error::CloudError;
use crate::port::{Cloud, ImpairedView, InstanceView, Select};
use crate::standing::{LOOK_AGE_MAX, Standing};

/// Between two sweeps. With the describe itself and a second look at what is missing a loss is found within a
/// minute.
pub const EVERY: Duration = Duration::from_secs(20);

/// An instance must be missing from this many sweeps in a row: NotFound alone proves nothing.
const MISSING_SWEEPS: u32 = 2;

/// Between two looks at the status checks: EC2 makes them once a minute (EC2 User Guide, "Status checks").
const CHECKED_EVERY: Duration = Duration::from_mins(1);

/// How many ids one describe asks for.
const CHUNK: usize = 200;

/// How many instances each sweep shows whole at least: a processor needs about 0.2 s to read these.
const SHOWN_MIN: usize = 100;

/// In how many sweeps each instance is shown whole: with [`EVERY`], in three minutes.
pub const TURN: usize = 9;

/// The sweep over all nodes.
pub struct Sweep {
    engine: Engine<Perennial>,
    owner: String,
    looks: Looks,
    missing: HashMap<InstanceId, u32>,
    /// The last instance whose turn it was to be shown whole; `None` before the first sweep, which shows all.
    shown: Option<InstanceId>,
    /// Sweeps in which an instance was missing together with all else that is known.
    doubted: HashMap<InstanceId, u32>,
    drift: AttachmentDrift,
    /// Since when, in milliseconds, status checks fail of which EC2 does not say so.
    impaired: HashMap<InstanceId, u64>,
    checked_at_ms: u64,
}

/// What the sweep looks with.
pub struct Looks {
    /// The region.
    pub(crate) cloud: Arc<dyn Cloud>,
    /// Whether it is the region that the journal knows.
    pub(crate) standing: Standing,
    /// Pools without capacity, which it hears of.
    pub(crate) refusals: Arc<CapacityRefusals>,
    /// Between two sweeps.
    pub(crate) every: Duration,
}

/// What one sweep saw.
struct Looked {
    /// The instances that were asked for whole: one of these that is not seen is missing.
    shown: BTreeSet<InstanceId>,
    /// Those, and others that do not run.
    seen: BTreeMap<InstanceId, InstanceView>,
    /// The status of each spot request that is being taken.
    doomed: BTreeMap<SpotRequestId, String>,
}

/// One instance to look at.
#[derive(Debug, Clone)]
struct Watched {
    node: NodeName,
    spot_request: Option<SpotRequestId>,
    /// Its volumes, if it carries a node at rest.
    at_rest: Option<AtRest>,
}

#[async_trait]
impl Task for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn every(&self) -> Duration {
        self.looks.every
    }

    async fn once(&mut self) -> Result<(), Failure> {
        Ok(self.sweep().await?)
    }
}

impl Sweep {
    /// A sweep.
    #[must_use]
    pub fn new(engine: Engine<Perennial>, owner: String, looks: Looks) -> Self {
        Self {
            engine,
            owner,
            looks,
            missing: HashMap::new(),
            shown: None,
            doubted: HashMap::new(),
            drift: AttachmentDrift::default(),
            impaired: HashMap::new(),
            checked_at_ms: 0,
        }
    }

    /// One sweep.
    ///
    /// # Errors
    /// When the journal or the cloud cannot be read; nothing is lost by it.
    async fn sweep(&mut self) -> Result<(), SweepError> {
        let watched = self.watched().await?;
        let Looked { shown, seen, doomed } = self.look(&watched).await?;
        let is_known = |id: &InstanceId| watched.contains_key(id) && !seen.contains_key(id);
        self.missing.retain(|id, _| is_known(id));
        self.doubted.retain(|id, _| is_known(id));
        // A loss takes one node, or some. What takes most of them at once is likelier another account, region
        // or endpoint: then each must show something of its own.
        let missing = shown.iter().filter(|id| !seen.contains_key(id)).count();
        let most = missing * 2 > shown.len();
        for (id, watched) in &watched {
            if !self.stands(&watched.node).await {
                continue;
            }
            let now_ms = self.engine.clock().now_ms();
            let request = watched.spot_request.as_ref().and_then(|request| doomed.get(request));
            let news = match seen.get(id) {
                Some(view) => seen_news(view.state, request, now_ms).inspect(|news| told(id, news)),
                None if shown.contains(id) => self.missing_news(id, &watched.node, most).await,
                None => None,
            };
            if let Some(news) = news {
                let signal = Signal { instance: id.clone(), news, source: Source::Sweep, at_ms: now_ms };
                self.on_signal(&watched.node, signal).await?;
            }
        }
        self.look_at_volumes(&watched, &seen).await?;
        self.check(&watched).await
    }

    /// Asks for everything that is watched.
    async fn look(&mut self, watched: &BTreeMap<InstanceId, Watched>) -> Result<Looked, CloudError> {
        let cloud = Arc::clone(&self.looks.cloud);
        let (mut shown, last) = self.turn(watched);
        let mut seen = BTreeMap::new();
        let ids: Vec<InstanceId> = shown.iter().cloned().collect();
        for chunk in ids.chunks(CHUNK) {
            let views = cloud.instances(&Select::Ids(chunk.to_vec())).await?;
            seen.extend(views.into_iter().map(|view| (view.id.clone(), view)));
        }
        let others: Vec<InstanceId> = watched.keys().filter(|id| !shown.contains(id)).cloned().collect();
        for chunk in others.chunks(CHUNK) {
            let views = cloud.instances_not_running(chunk).await?;
            seen.extend(views.into_iter().map(|view| (view.id.clone(), view)));
        }
        let requests: Vec<SpotRequestId> =
            watched.values().filter_map(|watched| watched.spot_request.clone()).collect();
        let mut doomed = BTreeMap::new();
        for chunk in requests.chunks(CHUNK) {
            let requests = cloud.doomed_spot_requests(chunk).await?;
            doomed.extend(requests.into_iter().map(|request| (request.id, request.status)));
        }
        // Whether it is there at all decides what the end of its request says.
        let is_doomed =
            |watched: &Watched| watched.spot_request.as_ref().is_some_and(|id| doomed.contains_key(id));
        let unseen = others.into_iter().filter(|id| !seen.contains_key(id) && is_doomed(&watched[id]));
        let unseen: Vec<InstanceId> = unseen.collect();
        for chunk in unseen.chunks(CHUNK) {
            let views = cloud.instances(&Select::Ids(chunk.to_vec())).await?;
            seen.extend(views.into_iter().map(|view| (view.id.clone(), view)));
        }
        shown.extend(unseen);
        self.shown = last;
        Ok(Looked { shown, seen, doomed })
    }

    /// The instances that this sweep shows whole: all of a small fleet, and all in the first sweep; else
    /// those whose turn it is, and those that looked odd in the sweep before. The turn ends with the second
    /// answer.
    fn turn(&self, watched: &BTreeMap<InstanceId, Watched>) -> (BTreeSet<InstanceId>, Option<InstanceId>) {
        let count = SHOWN_MIN.max(watched.len().div_ceil(TURN));
        let Some(last) = self.shown.clone().filter(|_| count < watched.len()) else {
            let last = watched.last_key_value().map(|(id, _)| id.clone());
            return (watched.keys().cloned().collect(), last);
        };
        let after = watched.range((Bound::Excluded(&last), Bound::Unbounded));
        let turn: Vec<&InstanceId> = after.chain(watched).map(|(id, _)| id).take(count).collect();
        let last = turn.last().copied().cloned();
        let odd = self.missing.keys().chain(self.drift.suspects()).filter(|id| watched.contains_key(id));
        (turn.into_iter().chain(odd).cloned().collect(), last)
    }

    /// Whether the journal knows the world of a node. One that is behind is told where it is compared.
    async fn stands(&self, node: &NodeName) -> bool {
        match self.looks.standing.holds(node).await {
            Ok(held) => held.is_none(),
            Err(error) => {
                warn!(%node, %error, "a node was not compared with the account; the next sweep does it");
                false
            }
        }
    }

    /// What the absence of an instance says: nothing, until it was missed often enough while something else
    /// that the journal knows is visible.
    async fn missing_news(&mut self, id: &InstanceId, node: &NodeName, most: bool) -> Option<News> {
        let standing = &self.looks.standing;
        let believed = if most {
            standing.sees_the_node(node, id.as_str()).await
        } else {
            standing.vouches(node, id.as_str(), LOOK_AGE_MAX).await
        };
        // Only what is missing beside something else counts: the endpoint may be right again by the time of
        // the second look, and was not at the first one.
        let Ok(true) = believed else {
            self.missing.remove(id);
            let doubted = self.doubted.entry(id.clone()).or_insert(0);
            *doubted = doubted.saturating_add(1);
            if doubted.is_power_of_two() {
                let error = believed.err().map(|error| error.to_string()).unwrap_or_default();
                warn!(
                    %node, instance = %id, sweeps = *doubted, %error,
                    "an instance is not shown, and nothing else of its node is: is it another account, region or endpoint? Nothing is begun"
                );
            }
            return None;
        };
        self.doubted.remove(id);
        let sweeps = self.missing.entry(id.clone()).or_insert(0);
        *sweeps = sweeps.saturating_add(1);
        (*sweeps >= MISSING_SWEEPS)
            .then(|| News::Missing { because: format!("it was not shown in {sweeps} sweeps in a row") })
    }

    /// Volumes that an operator attached to the instances of nodes at rest, or detached from them.
    async fn look_at_volumes(
        &mut self,
        watched: &BTreeMap<InstanceId, Watched>,
        seen: &BTreeMap<InstanceId, InstanceView>,
    ) -> Result<(), SweepError> {
        let at_rest =
            watched.iter().filter_map(|(id, watched)| Some((id, (watched.at_rest.as_ref()?, seen.get(id)?))));
        for (instance, Seen { others, left }) in
            self.drift.look(self.looks.cloud.as_ref(), &at_rest.collect()).await?
        {
            let Some(Watched { node, .. }) = watched.get(&instance) else { continue };
            let owner = self.owner.clone();
            let command = Command::Attachments { node: node.clone(), instance, others, left, owner };
            self.command(node, command).await?;
        }
        Ok(())
    }

    /// What the status checks say, as often as EC2 makes them.
    async fn check(&mut self, watched: &BTreeMap<InstanceId, Watched>) -> Result<(), SweepError> {
        let now_ms = self.engine.clock().now_ms();
        if Duration::from_millis(now_ms.saturating_sub(self.checked_at_ms)) < CHECKED_EVERY {
            return Ok(());
        }
        self.checked_at_ms = now_ms;
        let failing: BTreeMap<InstanceId, ImpairedView> = match self.looks.cloud.impaired().await {
            Ok(found) => found.into_iter().map(|view| (view.instance.clone(), view)).collect(),
            Err(error) => {
                // Events and the sweep itself find what is lost; this only adds to it.
                warn!(%error, "status checks could not be read (ec2:DescribeInstanceStatus); trying again");
                return Ok(());
            }
        };
        self.impaired.retain(|id, _| failing.contains_key(id));
        for (id, view) in failing {
            let Some(Watched { node, .. }) = watched.get(&id) else { continue };
            let first_ms = *self.impaired.entry(id.clone()).or_insert(now_ms);
            let since_ms = view.since_ms.unwrap_or(first_ms);
            let news = News::Impaired { checks: view.checks, since_ms };
            self.on_signal(node, Signal { instance: id, news, source: Source::Sweep, at_ms: now_ms }).await?;
        }
        Ok(())
    }

    async fn on_signal(&self, node: &NodeName, signal: Signal) -> Result<(), SweepError> {
        self.looks.refusals.on_signal(&self.engine, node, &signal).await;
        self.command(node, Command::Signal { signal, owner: self.owner.clone() }).await
    }

    async fn command(&self, node: &NodeName, command: Command) -> Result<(), SweepError> {
        match self.engine.execute(command).await {
            Ok(_) => Ok(()),
            Err(ExecuteError::Rejected(rejection)) => {
                warn!(%node, %rejection, "what the sweep saw was refused; the other nodes are swept");
                Ok(())
            }
            Err(ExecuteError::Corrupt { stream, source }) => {
                warn!(%stream, error = %source, "a node cannot be swept; the others are: run `perennial journal verify`");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Every instance that carries a node or belongs to an open operation. The lines of lists are enough for
    /// nodes at rest; only open operations are loaded.
    async fn watched(&self) -> Result<BTreeMap<InstanceId, Watched>, SweepError> {
        let mut watched = BTreeMap::new();
        let mut pages = Pages::of_nodes(&self.engine);
        while let Some(page) = pages.next().await? {
            for row in &page {
                let Ok(name) = NodeName::parse(row.stream.name()) else { continue };
                let Ok(line) = serde_json::from_str::<NodeSummary>(&row.body) else { continue };
                if let Err(error) = self.watch(&name, line, &mut watched).await {
                    warn!(node = %name, %error, "a node cannot be swept; the others are");
                }
            }
        }
        Ok(watched)
    }

    async fn watch(
        &self,
        name: &NodeName,
        line: NodeSummary,
        watched: &mut BTreeMap<InstanceId, Watched>,
    ) -> Result<(), ExecuteError<Rejection>> {
        let NodeSummary { carrier, deleted, operation, at_rest, .. } = line;
        if let Some(carrier) = carrier.filter(|_| !deleted) {
            let entry = Watched { node: name.clone(), spot_request: carrier.spot_request, at_rest };
            watched.insert(carrier.instance, entry);
        }
        if let Some((open, _)) = &operation {
            let (state, _) = self.engine.load(&open.stream()).await?;
            if let State::Operation(Some(operation)) = state.as_ref() {
                for holder in operation.facts.holders.iter().filter(|holder| !holder.fenced) {
                    let spot_request = holder.spot_request.clone();
                    let entry = Watched { node: name.clone(), spot_request, at_rest: None };
                    watched.insert(holder.instance.clone(), entry);
                }
                // A fenced holder has been seen terminated; there is nothing left to hear of it.
                for holder in operation.facts.holders.iter().filter(|holder| holder.fenced) {
                    watched.remove(&holder.instance);
                }
                if let Some(candidate) = &operation.facts.candidate {
                    let spot_request = candidate.spot_request.clone();
                    let entry = Watched { node: name.clone(), spot_request, at_rest: None };
                    watched.insert(candidate.instance.clone(), entry);
                }
            }
        }
        Ok(())
    }
}

/// A spot request that is being taken is told when it is found.
fn told(id: &InstanceId, news: &News) {
    if let News::SpotInterruption { action, .. } = news {
        info!(instance = %id, %action, "the sweep found a spot request that is being taken");
    }
}

/// Why a sweep could not be finished.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Execute(#[from] ExecuteError<Rejection>),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The cloud cannot be read.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}
