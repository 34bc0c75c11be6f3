//! Whether the world is the one that the journal knows: asked before the first step of a node in a process,
//! and before the absence of anything is believed.
//!
//! # Guarantees
//! - No step of a node runs in a process before the account was compared with the journal: see
//!   [`standing`](perennial_workflows::domain::standing). A node that is behind waits, visibly.
//! - Absence is believed only while something else that the journal knows is visible. A wrong endpoint,
//!   account or region shows nothing at all; that is trouble of the look, and no loss.
//!
//! # Assumptions
//! One look by tags answers for all nodes of an installation for [`LOOK_AGE_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::ids::StreamId;
use perennial_engine::journal::ReadError;
use perennial_workflows::aggregate::installation::installation_stream;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::domain::projection::NodeSummary;
use perennial_workflows::domain::standing::{Tagged, newer};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::installation::{INSTALLATION_TAG, Mark};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::node_stream;
use perennial_workflows::operation::state::Operation;
use perennial_workflows::step::evidence::Evidence;
use tracing::{error, info, warn};

use crate::pages::Pages;
use crate::port::error::{Class, CloudError};
use crate::port::{Cloud, InstanceView, Select, Tags, VolumeState, VolumeView};

/// How old a look by tags may be. It costs two paged describes for all nodes; a fleet asks within seconds.
pub(crate) const LOOK_AGE_MAX: Duration = Duration::from_secs(30);

/// What looks newer than the journal must be seen again after this long: describes were seen to be seconds
/// late (`ec2-semantics`, eventual consistency), and what is deleted is shown for a while.
const CONFIRM_AFTER: Duration = Duration::from_secs(20);

/// A node that is behind is compared again this often: an operator may have removed what is not the node's.
const BEHIND_AGAIN: Duration = Duration::from_secs(60);

/// What a wrong endpoint looks like.
pub(crate) const NOTHING_VISIBLE: &str = "nothing else that the journal knows is visible: is it another account, region or endpoint, or is a permission missing?";

/// Why a node's steps do not run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// When to ask again.
    pub(crate) again_in: Duration,
    /// Why, for a person.
    pub(crate) because: String,
}

/// Why the standing of a node is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StandingError {
    /// The cloud cannot be read.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] ExecuteError<Rejection>),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What the account shows with an owner's tag.
struct World {
    /// When it was asked, in monotonic milliseconds.
    at_ms: u64,
    /// By how much this machine's clock was ahead of AWS's then.
    ahead_ms: u64,
    instances: Vec<InstanceView>,
    volumes: Vec<VolumeView>,
}

/// Compares the account with the journal. Cheap to clone; clones share what was seen.
#[derive(Clone)]
pub(crate) struct Standing {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine<Perennial>,
    cloud: Arc<dyn Cloud>,
    clock: Clock,
    owner: String,
    world: tokio::sync::Mutex<Option<Arc<World>>>,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    /// Nodes whose journal knows the world, in this process.
    well: BTreeSet<NodeName>,
    /// Since when, in monotonic milliseconds, a node looks as if it were behind.
    suspected: BTreeMap<NodeName, u64>,
    /// Nodes of which nothing was visible at the last look: it is logged when it begins, and when it ends.
    unseen: BTreeSet<NodeName>,
    /// Whether the journal knows of anything, and when it was asked, in monotonic milliseconds.
    has_anything: Option<(u64, bool)>,
}

impl Standing {
    /// Nothing is known yet.
    #[must_use]
    pub(crate) fn new(engine: Engine<Perennial>, cloud: Arc<dyn Cloud>, owner: String) -> Self {
        let clock = engine.clock().clone();
        let (world, nodes) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { engine, cloud, clock, owner, world, nodes }) }
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no step of a node may run now; `None` when they may.
    ///
    /// # Errors
    /// When the cloud or the journal cannot be read.
    pub(crate) async fn holds(&self, name: &NodeName) -> Result<Option<Held>, StandingError> {
        if self.nodes().well.contains(name) {
            return Ok(None);
        }
        let (node, open) = self.known(name).await?;
        let mark = self.mark().await?;
        let Some(world) = self.world_of(name, &node, open.as_ref(), mark.as_ref()).await? else {
            let because = NOTHING_VISIBLE.to_owned();
            if self.nodes().unseen.insert(name.clone()) {
                warn!(node = %name, %because, "no step of the node runs");
            }
            return Ok(Some(Held { again_in: LOOK_AGE_MAX, because }));
        };
        let now_ms = self.inner.clock.now_ms();
        let newer = newer(&node, open.as_ref(), mark.as_ref(), &world.of(name), now_ms);
        if newer.is_empty() {
            return self.is_well(name, &node).await;
        }
        let now_ms = self.inner.clock.monotonic_ms();
        let since_ms = *self.nodes().suspected.entry(name.clone()).or_insert(world.at_ms);
        if Duration::from_millis(world.at_ms.saturating_sub(since_ms)) < CONFIRM_AFTER {
            let because = format!("the journal may be behind the world: {}", newer.join("; "));
            let looked = Duration::from_millis(now_ms.saturating_sub(world.at_ms));
            return Ok(Some(Held {
                again_in: LOOK_AGE_MAX.saturating_sub(looked) + CONFIRM_AFTER / 10,
                because,
            }));
        }
        if node.newer.is_empty() {
            error!(
                node = %name, newer = %newer.join("; "),
                "the journal is behind the world: nothing is launched, moved or deleted for the node; stop the server and run `perennial journal adopt`"
            );
        }
        let because = format!("the journal is behind the world: {}", newer.join("; "));
        self.tell(name, newer).await?;
        Ok(Some(Held { again_in: BEHIND_AGAIN, because }))
    }

    /// What the account shows that the journal knows; `None` where it may be another account. A look that
    /// shows nothing of the installation is believed where the node is seen by id before it and after it: the
    /// account may have been another one at any other moment.
    async fn world_of(
        &self,
        name: &NodeName,
        node: &Node,
        open: Option<&Operation>,
        mark: Option<&Mark>,
    ) -> Result<Option<Arc<World>>, StandingError> {
        let world = self.world(LOOK_AGE_MAX).await?;
        if world.shows(mark, "") {
            return Ok(Some(world));
        }
        let held = &node.resources;
        // A step that has settled saw the place: there the subnet is, if nothing else.
        let has_begun = open.iter().any(|open| open.steps.values().any(|step| step.outcome.is_some()));
        let has_something = held.carrier.is_some() || !held.volumes.is_empty() || has_begun;
        if !has_something && !self.has_anything().await? {
            return Ok(Some(world));
        }
        if !self.sees_the_node(name, "").await? {
            return Ok(None);
        }
        let world = self.world(Duration::ZERO).await?;
        Ok(self.sees_the_node(name, "").await?.then_some(world))
    }

    /// The journal knows everything that the account shows of a node.
    async fn is_well(&self, name: &NodeName, node: &Node) -> Result<Option<Held>, StandingError> {
        if !node.newer.is_empty() {
            info!(node = %name, "the journal knows everything of the node again");
            self.tell(name, Vec::new()).await?;
        }
        let mut nodes = self.nodes();
        nodes.suspected.remove(name);
        if nodes.unseen.remove(name) {
            info!(node = %name, "what the journal knows is visible again");
        }
        nodes.well.insert(name.clone());
        Ok(None)
    }

    async fn tell(&self, name: &NodeName, newer: Vec<String>) -> Result<(), StandingError> {
        let command = Command::Standing { node: name.clone(), newer, owner: self.inner.owner.clone() };
        self.inner.engine.execute(command).await?;
        Ok(())
    }

    /// Whether absence can be believed: something else that the journal knows of was visible within this
    /// time, or is now.
    ///
    /// # Errors
    /// When the cloud or the journal cannot be read.
    pub(crate) async fn vouches(
        &self,
        name: &NodeName,
        missing: &str,
        within: Duration,
    ) -> Result<bool, StandingError> {
        let mark = self.mark().await?;
        let world = self.world(LOOK_AGE_MAX.min(within)).await?;
        if world.shows(mark.as_ref(), missing) || self.sees_the_node(name, missing).await? {
            if self.nodes().unseen.remove(name) {
                info!(node = %name, "what the journal knows is visible again");
            }
            return Ok(true);
        }
        if self.nodes().unseen.insert(name.clone()) {
            warn!(node = %name, %missing, "absence is not believed: {NOTHING_VISIBLE}");
        }
        Ok(false)
    }

    /// Whether the account is the one that the journal knows, as far as a node's steps can tell: something of
    /// the installation was visible within this time, or is now; or the place that the node lives in is; or
    /// the journal knows of nothing that need be.
    ///
    /// # Errors
    /// When the cloud or the journal cannot be read.
    pub(crate) async fn is_here(&self, name: &NodeName, within: Duration) -> Result<bool, StandingError> {
        let mark = self.mark().await?;
        let world = self.world(LOOK_AGE_MAX.min(within)).await?;
        if world.shows(mark.as_ref(), "") || !self.has_anything().await? {
            return Ok(true);
        }
        match self.sees_the_node(name, "").await {
            // To another account it does not exist.
            Err(StandingError::Cloud(error)) if error.class == Class::NotFound || error.is_of_the_file() => {
                Ok(false)
            }
            seen => seen,
        }
    }

    /// Whether a workflow knows that it has launched an instance.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) async fn has_launched(
        &self,
        workflow: &StreamId,
        instance: &InstanceId,
    ) -> Result<bool, StandingError> {
        let (state, _) = self.inner.engine.load(workflow).await?;
        let State::Operation(Some(operation)) = state.as_ref() else { return Ok(false) };
        Ok(operation.steps.values().any(|record| match &record.outcome {
            Some((Evidence::Launched { instance: launched, .. }, _)) => launched == instance,
            _ => false,
        }))
    }

    /// Whether the journal knows of a node with an instance or a volume, as of [`LOOK_AGE_MAX`] ago: ten
    /// thousand new nodes ask at once, and each answer goes through all of them.
    async fn has_anything(&self) -> Result<bool, StandingError> {
        let now_ms = self.inner.clock.monotonic_ms();
        let known = self.nodes().has_anything;
        if let Some((at_ms, known)) = known
            && Duration::from_millis(now_ms.saturating_sub(at_ms)) < LOOK_AGE_MAX
        {
            return Ok(known);
        }
        let has_anything = self.look_for_anything().await?;
        self.nodes().has_anything = Some((now_ms, has_anything));
        Ok(has_anything)
    }

    async fn look_for_anything(&self) -> Result<bool, StandingError> {
        let mut pages = Pages::of_nodes(&self.inner.engine);
        while let Some(page) = pages.next().await? {
            for row in &page {
                let Ok(line) = serde_json::from_str::<NodeSummary>(&row.body) else { continue };
                if line.carrier.is_some() && !line.deleted {
                    return Ok(true);
                }
                let Ok(name) = NodeName::parse(row.stream.name()) else { continue };
                if !self.known(&name).await?.0.resources.volumes.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether anything of one node but this is visible, by id: what it holds, or else, if it holds nothing,
    /// the subnet it lives in.
    pub(crate) async fn sees_the_node(&self, name: &NodeName, missing: &str) -> Result<bool, StandingError> {
        let (node, _) = self.known(name).await?;
        let cloud = self.inner.cloud.as_ref();
        let held = &node.resources;
        let volumes = held.volumes.values().map(|held| &held.volume);
        let volumes = volumes.chain(held.retained.iter().map(|old| &old.volume));
        let volumes: Vec<_> = volumes.filter(|id| id.as_str() != missing).cloned().collect();
        let interfaces = held.interface.iter().map(|held| &held.interface).chain(&held.address_interface);
        let interfaces: Vec<_> = interfaces.filter(|id| id.as_str() != missing).cloned().collect();
        if !volumes.is_empty() || !interfaces.is_empty() {
            let there = |state: VolumeState| !matches!(state, VolumeState::Deleting | VolumeState::Deleted);
            let seen = !volumes.is_empty()
                && cloud.volumes(&Select::Ids(volumes)).await?.iter().any(|view| there(view.state));
            return Ok(seen
                || !interfaces.is_empty() && !cloud.interfaces(&Select::Ids(interfaces)).await?.is_empty());
        }
        let Some(spec) = &node.spec else { return Ok(false) };
        Ok(!cloud.subnets(std::slice::from_ref(&spec.subnet)).await?.is_empty())
    }

    /// What the journal knows of a node.
    async fn known(&self, name: &NodeName) -> Result<(Node, Option<Operation>), StandingError> {
        let (state, _) = self.inner.engine.load(&node_stream(name)).await?;
        let State::Node(node) = state.as_ref() else { return Ok((Node::default(), None)) };
        let Some((open, _)) = &node.open else { return Ok((node.clone(), None)) };
        let (state, _) = self.inner.engine.load(&open.stream()).await?;
        let open = match state.as_ref() {
            State::Operation(operation) => operation.clone(),
            _ => None,
        };
        Ok((node.clone(), open))
    }

    async fn mark(&self) -> Result<Option<Mark>, StandingError> {
        let (state, _) = self.inner.engine.load(&installation_stream()).await?;
        match state.as_ref() {
            State::Installation(installation) => Ok(installation.mark.clone()),
            _ => Ok(None),
        }
    }

    /// What the account shows with the owner's tag, not older than this. One look at a time.
    async fn world(&self, age_max: Duration) -> Result<Arc<World>, CloudError> {
        let Inner { cloud, clock, owner, world, .. } = self.inner.as_ref();
        let mut kept = world.lock().await;
        let is_young = |world: &Arc<World>| {
            Duration::from_millis(clock.monotonic_ms().saturating_sub(world.at_ms)) < age_max
        };
        if let Some(world) = kept.as_ref().filter(|world| is_young(world)) {
            return Ok(Arc::clone(world));
        }
        let at_ms = clock.monotonic_ms();
        let owned = Tags::from([("perennial:owner".to_owned(), owner.clone())]);
        let (instances, volumes) = (Select::tagged(owned.clone()), Select::tagged(owned));
        let (shown, free) = tokio::join!(cloud.instances(&instances), cloud.volumes(&volumes));
        let (mut shown, mut free) = (shown?, free?);
        // It may have become another account between the two: what shows nothing is asked again, and then
        // what shows something is.
        if shown.is_empty() && !free.is_empty() {
            shown = cloud.instances(&instances).await?;
            free = cloud.volumes(&volumes).await?;
        } else if free.is_empty() && !shown.is_empty() {
            free = cloud.volumes(&volumes).await?;
            shown = cloud.instances(&instances).await?;
        }
        // The journal has the times of this machine, the things have AWS's.
        let ahead_ms = cloud.told_time().map_or(0, |told| told.ahead_ms(clock));
        let ahead_ms = u64::try_from(ahead_ms).unwrap_or(0);
        let world = Arc::new(World { at_ms, ahead_ms, instances: shown, volumes: free });
        *kept = Some(Arc::clone(&world));
        Ok(world)
    }
}

impl World {
    /// Whether anything of the installation is visible, but for one thing.
    fn shows(&self, mark: Option<&Mark>, missing: &str) -> bool {
        let Some(mark) = mark else { return false };
        let ours = |id: &str, tags: &Tags| id != missing && tags.get(INSTALLATION_TAG) == Some(&mark.id);
        self.instances.iter().any(|view| ours(view.id.as_str(), &view.tags))
            || self.volumes.iter().any(|view| ours(view.id.as_str(), &view.tags))
    }

    /// What carries a node's tags and is not over.
    fn of(&self, name: &NodeName) -> Vec<Tagged> {
        let is_of = |tags: &Tags| tags.get("perennial:node").is_some_and(|node| node == name.as_str());
        let instances = self.instances.iter().filter(|view| is_of(&view.tags) && !view.state.is_over());
        let volumes = self.volumes.iter().filter(|view| {
            is_of(&view.tags) && !matches!(view.state, VolumeState::Deleting | VolumeState::Deleted)
        });
        let mut things: Vec<Tagged> =
            instances.map(tagged_instance).chain(volumes.map(tagged_volume)).collect();
        for created_at_ms in things.iter_mut().filter_map(|thing| thing.created_at_ms.as_mut()) {
            *created_at_ms = created_at_ms.saturating_add(self.ahead_ms);
        }
        things
    }
}

pub(crate) fn tagged_instance(view: &InstanceView) -> Tagged {
    Tagged {
        id: view.id.to_string(),
        is: format!("instance, {}", view.state),
        instance: Some(view.id.clone()),
        is_volume: false,
        created_at_ms: Some(view.launched_at_ms),
        tags: view.tags.clone(),
    }
}

pub(crate) fn tagged_volume(view: &VolumeView) -> Tagged {
    let on = view.attachments.first().map(|attachment| attachment.instance.clone());
    let is = on.as_ref().map_or_else(|| "volume, free".to_owned(), |on| format!("volume on {on}"));
    Tagged {
        id: view.id.to_string(),
        is,
        instance: on,
        is_volume: true,
        created_at_ms: view.created_at_ms,
        tags: view.tags.clone(),
    }
}
