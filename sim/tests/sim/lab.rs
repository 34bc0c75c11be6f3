//! The laboratory: a whole Perennial over a simulated region, in virtual time, that can be killed at any point.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::domain::{Domain, Stamp};
use perennial_engine::engine::{Engine, load_stream};
use perennial_engine::ids::{Position, Seq, StreamId};
use perennial_engine::intercept::{Intercept, Intercepted};
use perennial_engine::journal::{AppendError, Appended, Batch, Journal};
use perennial_engine::limits::Limits;
use perennial_engine::memory::{MemoryJournal, MemoryQueue, MemoryQueueSettings};
use perennial_engine::queue::{DeadLetter, Delivery, Depth, Outgoing, Queue, QueueError, Receipt};
use perennial_engine::shutdown::Shutdown;
use perennial_sim::cloud::{CallVerdict, SimRegion};
use perennial_sim::policy::Policy;
use perennial_sim::world::World;
use perennial_sim::world::settings::Settings;
use perennial_workers::adoption::{AdoptError, Compared, Comparison};
use perennial_workers::cloud::planner::{Planner, Reserve};
use perennial_workers::ingest::ReplyTo;
use perennial_workers::port::Tags;
use perennial_workers::port::permissions::{Fillings, Need, policy};
use perennial_workers::service::{Parts, Service};
use perennial_workflows::aggregate::address_pool::{AddressPool, address_pool_stream};
use perennial_workflows::aggregate::backup_catalog::Carried;
use perennial_workflows::aggregate::inbox::{Counts, InboxEvent};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::Command;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::model::aws::{AllocationId, InstanceId, SubnetId, VolumeId};
use perennial_workflows::model::backup_id::catalog_key;
use perennial_workflows::model::installation::Place;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};
use perennial_workflows::model::resources::Carrier;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// 2026-09-14T08:00:00Z.
pub const EPOCH_MS: u64 = 1_789_372_800_000;

/// Counts the points at which a process may die, and says when.
struct Points {
    count: AtomicU64,
    die_at: AtomicU64,
    armed: AtomicBool,
    died: Notify,
}

impl Points {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            count: AtomicU64::new(0),
            die_at: AtomicU64::new(u64::MAX),
            armed: AtomicBool::new(false),
            died: Notify::new(),
        })
    }

    /// One more point; whether it is the one to die at.
    fn pass(&self) -> bool {
        if !self.armed.load(Ordering::SeqCst) {
            return false;
        }
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        let die = n == self.die_at.load(Ordering::SeqCst);
        if die {
            self.died.notify_one();
        }
        die
    }
}

/// A process dies before or after an append.
struct Mortal {
    points: Arc<Points>,
    region: SimRegion,
    dead: AtomicBool,
    written: Arc<Mutex<Vec<Batch>>>,
    worlds: Arc<Mutex<Option<Vec<World>>>>,
    reads: Arc<AtomicU64>,
    is_full: Arc<AtomicBool>,
}

impl Mortal {
    async fn point(&self) {
        if self.points.pass() {
            self.dead.store(true, Ordering::SeqCst);
            self.region.kill();
        }
        if self.dead.load(Ordering::SeqCst) || self.region.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Intercept for Mortal {
    async fn append(&self, to: &dyn Journal, batch: Batch) -> Result<Appended, AppendError> {
        self.point().await;
        if self.is_full.load(Ordering::SeqCst) {
            return Err(AppendError::Unavailable { why: "no space left on device".to_owned() });
        }
        let appended = to.append(batch.clone()).await;
        if appended.is_ok() {
            self.written.lock().unwrap().push(batch);
            if let Some(worlds) = self.worlds.lock().unwrap().as_mut() {
                worlds.push(self.region.with(|world, _| world.clone()));
            }
        }
        self.point().await;
        appended
    }

    fn reads(&self, _: &StreamId) {
        self.reads.fetch_add(1, Ordering::SeqCst);
    }
}

/// A queue whose dead letters go to a queue that is read, as at SQS they can.
struct Circle {
    queue: Arc<MemoryQueue>,
    to: Arc<MemoryQueue>,
    given_up: Arc<AtomicU64>,
}

/// So many dead letters are more than any test has; a circle without an end would leave time standing still.
const DEAD_LETTERS_MAX: u64 = 1_000;

#[async_trait]
impl Queue for Circle {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        self.queue.send(messages).await
    }
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        self.queue.receive(max, wait).await
    }
    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<(), QueueError> {
        self.queue.extend(receipt, visibility).await
    }
    async fn delete(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.queue.delete(receipts).await
    }
    async fn dead_letter(&self, delivery: &Delivery, _: &str) -> Result<(), QueueError> {
        if self.given_up.fetch_add(1, Ordering::SeqCst) > DEAD_LETTERS_MAX {
            return Err(QueueError::Unavailable { why: "dead letters go round".to_owned() });
        }
        self.to.send(vec![Outgoing::now(delivery.body.clone())]).await?;
        self.queue.delete(std::slice::from_ref(&delivery.receipt)).await
    }
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue.dead_letters(max).await
    }
    async fn depth(&self) -> Result<Depth, QueueError> {
        self.queue.depth().await
    }
}

/// The world of one test; the process in it comes and goes.
pub struct Lab {
    /// The region's time, which nobody sets.
    pub clock: Clock,
    /// The clock of the machine that the process runs on. Its wall time can be set.
    pub machine: Clock,
    pub region: SimRegion,
    pub journal: Arc<MemoryJournal>,
    pub steps: Arc<MemoryQueue>,
    pub submissions: Arc<MemoryQueue>,
    pub interruptions: Arc<MemoryQueue>,
    /// The queues that the dead letters of submissions and of interruptions are sent to, by a mistake of the
    /// next process's configuration.
    pub dead_letters_to: Option<[Arc<MemoryQueue>; 2]>,
    /// How many were sent there.
    pub given_up: Arc<AtomicU64>,
    points: Arc<Points>,
    process: Option<JoinHandle<()>>,
    pumps: Vec<JoinHandle<()>>,
    submitted: u64,
    owner: String,
    /// The id that its journal is bound with.
    pub installation: String,
    /// Every append of its journal, in order.
    pub written: Arc<Mutex<Vec<Batch>>>,
    /// The region after each append of its journal, from the moment this is set.
    pub worlds: Arc<Mutex<Option<Vec<World>>>>,
    /// What an older journal does not know and cannot be told of: snapshots, images and interfaces of lost operations.
    pub forgotten: BTreeSet<String>,
    /// How many processes died.
    pub deaths: u64,
    /// How often a process read a stream.
    pub reads: Arc<AtomicU64>,
    /// The disk of the journal is full.
    pub is_full: Arc<AtomicBool>,
    /// Where the account and the region are known, they stand here before a process starts.
    pub home: (Option<String>, Option<String>),
    /// Answers to submissions, whatever queue they name.
    pub answers: Arc<MemoryQueue>,
    /// What its processes may do.
    policy: Arc<Policy>,
    /// Of the process that was started last.
    pub planner: Option<Arc<Planner>>,
}

/// The published policy of an installation of this owner, for these needs.
pub fn published(owner: &str, needs: &[Need]) -> Policy {
    let some = |text: &str| Some(text.to_owned());
    let fillings =
        Fillings { owner: some(owner), account: some("*"), role: some("*"), ..Fillings::default() };
    Policy::parse(&policy(needs, &fillings).expect("it is filled").to_string()).expect("it is evaluated")
}

/// The needs of all tests; queues and keys are in memory, and the region makes the spot role.
pub const NEEDS: [Need; 4] = [Need::Base, Need::Restore, Need::AttachedVolumes, Need::NodeRole];

/// Answers of a lab.
struct Answers(Arc<MemoryQueue>);

impl ReplyTo for Answers {
    fn queue(&self, _: &str) -> Result<Arc<dyn Queue>, String> {
        Ok(Arc::clone(&self.0) as Arc<dyn Queue>)
    }
}

impl Lab {
    /// A region and an empty journal, with a process running under the published policy.
    pub fn new(settings: Settings) -> Self {
        Self::under(settings, published("lab", &NEEDS))
    }

    /// The same under another policy.
    pub fn under(settings: Settings, policy: Policy) -> Self {
        let clock = Clock::scaled(EPOCH_MS, 1.0);
        let region = SimRegion::new(settings, clock.clone());
        let queue = || Arc::new(MemoryQueue::new(MemoryQueueSettings::default(), clock.clone()));
        let (steps, submissions, interruptions, answers) = (queue(), queue(), queue(), queue());
        let (events, mut told) = mpsc::channel::<String>(1_000);
        let runs = region.clone();
        let to = Arc::clone(&interruptions);
        let pumps = vec![
            tokio::spawn(async move { runs.run(events).await }),
            tokio::spawn(async move {
                while let Some(event) = told.recv().await {
                    to.send(vec![Outgoing::now(event)]).await.expect("the memory queue takes events");
                }
            }),
        ];
        let mut lab = Self {
            machine: clock.twin(),
            clock,
            region,
            journal: Arc::new(MemoryJournal::new()),
            steps,
            submissions,
            interruptions,
            dead_letters_to: None,
            given_up: Arc::default(),
            points: Points::new(),
            process: None,
            pumps,
            submitted: 0,
            owner: "lab".to_owned(),
            installation: "lab".to_owned(),
            written: Arc::default(),
            worlds: Arc::default(),
            forgotten: BTreeSet::new(),
            deaths: 0,
            reads: Arc::default(),
            is_full: Arc::default(),
            home: (None, None),
            answers,
            policy: Arc::new(policy),
            planner: None,
        };
        lab.start();
        lab
    }

    /// Another installation in the same account and region, with its own journal and queues. The region's events go to the
    /// first one only; this one has its sweep.
    pub fn neighbour(&self, owner: &str) -> Self {
        let queue = || Arc::new(MemoryQueue::new(MemoryQueueSettings::default(), self.clock.clone()));
        let mut lab = Self {
            clock: self.clock.clone(),
            machine: self.machine.clone(),
            region: self.region.clone(),
            journal: Arc::new(MemoryJournal::new()),
            steps: queue(),
            submissions: queue(),
            interruptions: queue(),
            dead_letters_to: None,
            given_up: Arc::default(),
            points: Points::new(),
            process: None,
            pumps: Vec::new(),
            submitted: 0,
            owner: owner.to_owned(),
            installation: format!("beside-{}", self.installation),
            written: Arc::default(),
            worlds: Arc::default(),
            forgotten: BTreeSet::new(),
            deaths: 0,
            reads: Arc::default(),
            is_full: Arc::default(),
            home: (None, None),
            answers: queue(),
            policy: Arc::new(published(owner, &NEEDS)),
            planner: None,
        };
        lab.start();
        lab
    }

    /// Puts a backup of the journal in its place, with its first appends only, and empty queues. No process runs meanwhile.
    pub async fn put_back(&mut self, appends: &[Batch]) {
        assert!(self.process.is_none(), "a process runs");
        self.journal = Arc::new(MemoryJournal::new());
        for batch in appends {
            self.journal.append(batch.clone()).await.expect("it was appended before");
        }
        self.written = Arc::new(Mutex::new(appends.to_vec()));
        let queue = || Arc::new(MemoryQueue::new(MemoryQueueSettings::default(), self.clock.clone()));
        (self.steps, self.submissions) = (queue(), queue());
    }

    /// Its journal, as a process with this connection writes it.
    fn journal_by(&self, connection: &SimRegion) -> Arc<dyn Journal> {
        let intercept = Mortal {
            points: Arc::clone(&self.points),
            region: connection.clone(),
            dead: AtomicBool::new(false),
            written: Arc::clone(&self.written),
            worlds: Arc::clone(&self.worlds),
            reads: Arc::clone(&self.reads),
            is_full: Arc::clone(&self.is_full),
        };
        Arc::new(Intercepted { journal: Arc::clone(&self.journal) as Arc<dyn Journal>, intercept })
    }

    fn place(&self) -> Place {
        let (account, region) = self.home.clone();
        Place { owner: self.owner.clone(), account, region }
    }

    /// `perennial journal adopt`: takes each node that is behind as the account shows it, and hands over what was compared
    /// of those. No process runs meanwhile. `from` is another installation, whose journal is lost.
    pub async fn adopt(&mut self, from: Option<&str>) -> Result<Vec<Compared>, AdoptError> {
        assert!(self.process.is_none(), "a process runs");
        let connection = self.region.connect().under(Arc::clone(&self.policy));
        let engine: Engine<Perennial> = Engine::new(self.journal_by(&connection), self.machine.clone());
        let bind = Command::Bind { id: self.installation.clone(), place: self.place() };
        engine.execute(bind).await.expect("it is served here");
        let from = from.map(str::to_owned);
        let comparison = Comparison::new(engine.clone(), Arc::new(connection), self.owner.clone(), from);
        let mut compared = comparison.all().await?;
        compared.retain(|one| !one.newer.is_empty());
        for Compared { node, found, .. } in &compared {
            let Ok(found) = found else { continue };
            let command = Command::Adopt {
                node: node.clone(),
                found: Box::new(found.clone()),
                requested_by: "lab".to_owned(),
                owner: self.owner.clone(),
            };
            engine.execute(command).await.expect("it can be adopted");
        }
        Ok(compared)
    }

    /// Starts a process.
    pub fn start(&mut self) {
        let connection = self.region.connect_as(&self.installation).under(Arc::clone(&self.policy));
        let journal = self.journal_by(&connection);
        let service = Service::new(Parts {
            journal,
            steps: Arc::clone(&self.steps) as Arc<dyn Queue>,
            submissions: self.inbox(&self.submissions, 0),
            interruptions: Some(self.inbox(&self.interruptions, 1)),
            cloud: Arc::new(connection),
            clock: self.machine.clone(),
            place: self.place(),
            installation: self.installation.clone(),
            replies: Arc::new(Answers(Arc::clone(&self.answers))),
            limits: Limits::default(),
            sweep_every: perennial_workers::periodic::sweep::EVERY,
            reserve: Reserve::default(),
        });
        self.planner = Some(service.planner());
        let (trigger, shutdown) = Shutdown::new();
        self.process = Some(tokio::spawn(async move {
            let _alive = trigger;
            service.run(shutdown).await.expect("no part of the service panics");
        }));
    }

    /// An inbox queue as the process gets it.
    fn inbox(&self, queue: &Arc<MemoryQueue>, index: usize) -> Arc<dyn Queue> {
        match &self.dead_letters_to {
            None => Arc::clone(queue) as Arc<dyn Queue>,
            Some(to) => Arc::new(Circle {
                queue: Arc::clone(queue),
                to: Arc::clone(&to[index]),
                given_up: Arc::clone(&self.given_up),
            }),
        }
    }

    /// Kills the process where it is.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.abort();
            let _ = process.await;
        }
    }

    /// From now on, dies at the `k`th point.
    pub fn die_at(&self, k: u64) {
        self.points.die_at.store(k, Ordering::SeqCst);
        self.points.count.store(0, Ordering::SeqCst);
        self.points.armed.store(true, Ordering::SeqCst);
        let points = Arc::clone(&self.points);
        self.region.on_call(Some(Arc::new(
            move |_| {
                if points.pass() { CallVerdict::Kill } else { CallVerdict::Go }
            },
        )));
    }

    /// How many points were passed since [`die_at`](Self::die_at).
    pub fn points_passed(&self) -> u64 {
        self.points.count.load(Ordering::SeqCst)
    }

    /// No more points.
    pub fn disarm(&self) {
        self.points.armed.store(false, Ordering::SeqCst);
        self.region.on_call(None);
    }

    /// Waits for a condition on the world, restarting the process whenever it dies. Panics when `limit` of virtual time has
    /// passed, with the journal's tail.
    pub async fn until(&mut self, what: &str, limit: Duration, mut done: impl AsyncFnMut(&Self) -> bool) {
        let end = self.clock.now_ms() + u64::try_from(limit.as_millis()).unwrap();
        loop {
            if done(self).await {
                return;
            }
            assert!(self.clock.now_ms() < end, "{what}: not within {limit:?}\n{}", self.story().await);
            let died = {
                let points = Arc::clone(&self.points);
                let clock = self.clock.clone();
                tokio::select! {
                    biased;
                    () = points.died.notified() => true,
                    () = clock.sleep(Duration::from_millis(500)) => false,
                }
            };
            if died {
                self.deaths += 1;
                self.kill().await;
                self.start();
            }
        }
    }

    /// Submits a message.
    pub async fn submit(&mut self, workflow: &str, node: &str, params: serde_json::Value) -> String {
        self.submitted += 1;
        let id = format!("s-{}", self.submitted);
        let body = serde_json::json!({
            "schema": "perennial.submission/v1", "id": id, "workflow": workflow, "node": node,
            "params": params, "requested_by": "lab"
        });
        self.submissions.send(vec![Outgoing::now(body.to_string())]).await.unwrap();
        id
    }

    /// Submits a message that is about no node.
    pub async fn submit_to_none(&mut self, workflow: &str, params: serde_json::Value) {
        self.submitted += 1;
        let body = serde_json::json!({
            "schema": "perennial.submission/v1", "id": format!("s-{}", self.submitted), "workflow": workflow,
            "params": params, "requested_by": "lab"
        });
        self.submissions.send(vec![Outgoing::now(body.to_string())]).await.unwrap();
    }

    /// A pool now.
    pub async fn pool(&self, name: &str) -> AddressPool {
        let stream = address_pool_stream(&NodeName::parse(name).unwrap());
        match load_stream::<Perennial>(self.journal.as_ref(), &stream).await.unwrap().0 {
            State::AddressPool(pool) => pool,
            other => panic!("{other:?}"),
        }
    }

    /// Declares a pool of addresses.
    pub async fn declare_pool(&mut self, name: &str, subnet: &SubnetId, range: &str) {
        let spec = serde_json::json!({
            "schema": "perennial.pool/v1", "name": name, "subnet": subnet, "addresses": [range]
        });
        self.submit_to_none("pool.apply", serde_json::json!({ "spec": spec })).await;
        self.until("the pool is declared", Duration::from_secs(60), async |lab| {
            let spec = lab.pool(name).await.spec;
            spec.is_some_and(|spec| spec.addresses.iter().map(ToString::to_string).eq([range]))
        })
        .await;
    }

    /// Declares a pool for each subnet a node may live in, of four addresses each, and names them in its file: `pool-0` at home.
    pub async fn pools_for(&mut self, spec: &mut NodeSpec) {
        for (i, subnet) in spec.subnets().cloned().collect::<Vec<_>>().iter().enumerate() {
            // Subnets are /20, one a zone.
            let (name, third) = (format!("pool-{i}"), 16 * i);
            self.declare_pool(&name, subnet, &format!("172.31.{third}.100-172.31.{third}.103")).await;
            let name = NodeName::parse(&name).unwrap();
            if *subnet == spec.subnet {
                spec.network.ip_pool = Some(name);
            } else {
                spec.network.ip_pools_elsewhere.insert(subnet.clone(), name);
            }
        }
    }

    /// A valid spec for this region.
    pub fn spec(&self, name: &str, network: NetworkMode, root: RootMode) -> NodeSpec {
        let mut spec = example(name, network, root);
        self.region.with(|world, _| {
            let zone = world.zones()[0].clone();
            spec.subnet = world.subnet_in(&zone);
            spec.image = world.default_image();
        });
        spec
    }

    /// An Elastic IP address of the account's, with the tag that the policy asks for.
    pub fn elastic(&self) -> AllocationId {
        let tags = Tags::from([("perennial:owner".to_owned(), self.owner.clone())]);
        let id = self.region.with(|world, now_ms| world.allocate_address(now_ms, &tags).unwrap());
        AllocationId::parse(&id).unwrap()
    }

    /// Applies a spec and waits until the node is provisioned.
    pub async fn provision(&mut self, spec: &NodeSpec) {
        self.submit("node.apply", spec.name.as_str(), serde_json::json!({ "spec": spec })).await;
        self.rest(spec.name.as_str(), 1).await;
    }

    /// Waits until the node has had `operations` operations and none is open.
    pub async fn rest(&mut self, name: &str, operations: u64) {
        let what = format!("{name} at rest after operation {operations}");
        self.until(&what, Duration::from_secs(4 * 3600), async |lab| {
            let node = lab.node(name).await;
            node.operations >= operations && node.open.is_none()
        })
        .await;
    }

    /// Where the journal ends.
    pub async fn head(&self) -> Position {
        self.journal.head().await.unwrap().position
    }

    /// The node now.
    pub async fn node(&self, name: &str) -> Node {
        let name = NodeName::parse(name).unwrap();
        match load_stream::<Perennial>(self.journal.as_ref(), &node_stream(&name)).await.unwrap().0 {
            State::Node(node) => node,
            other => panic!("{other:?}"),
        }
    }

    /// An operation now.
    pub async fn operation(&self, id: &str) -> Operation {
        let id = OperationId::parse(id).unwrap();
        match load_stream::<Perennial>(self.journal.as_ref(), &id.stream()).await.unwrap().0 {
            State::Operation(Some(operation)) => operation,
            other => panic!("{other:?}"),
        }
    }

    /// The events of an operation, with their stamps.
    pub async fn operation_events(&self, id: &str) -> Vec<(Stamp, OperationEvent)> {
        let stream = OperationId::parse(id).unwrap().stream();
        let events = self.journal.read_stream(&stream, Seq::NONE, 10_000).await.unwrap();
        let told = events.into_iter().map(|event| match Perennial::decode(&event.data).unwrap() {
            Event::Operation(told) => (Stamp { seq: event.seq, at_ms: event.recorded_at_ms }, told),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// What is known of a node's backups now.
    pub async fn catalog(&self, name: &str) -> Carried {
        let name = NodeName::parse(name).unwrap();
        let streams = self.journal.lookup(&catalog_key(&name)).await.unwrap();
        let Some(stream) = streams.first() else { return Carried::default() };
        match load_stream::<Perennial>(self.journal.as_ref(), stream).await.unwrap().0 {
            State::BackupCatalog(catalog) => catalog.known,
            other => panic!("{other:?}"),
        }
    }

    /// The snapshots that a node's backups list, and those of operations that they will list in a moment.
    pub async fn snapshots_of_backups(&self, name: &str) -> BTreeSet<String> {
        let catalog = self.catalog(name).await;
        let kept = catalog.backups.iter().flat_map(|backup| backup.snapshots.values());
        let kept = kept.map(|taken| taken.snapshot.to_string());
        let mut all: BTreeSet<String> =
            kept.chain(catalog.pending_deletions.keys().map(ToString::to_string)).collect();
        for id in self.node(name).await.finals.iter().filter(|id| !catalog.has_inherited_from(id)) {
            let finals = self.operation(&id.to_string()).await.finals().expect("it has final snapshots");
            all.extend(finals.taken.values().map(|taken| taken.snapshot.to_string()));
        }
        all
    }

    /// The dispositions of all inbox entries so far, as they stand in the journal.
    pub async fn dispositions(&self) -> Vec<String> {
        let events = self.journal.read_all(Position(0), 100_000).await.unwrap();
        let answered = events.into_iter().filter(|event| event.data.kind == "inbox.answered");
        answered.map(|event| event.data.body).collect()
    }

    /// How many messages of a queue came that nothing comes of.
    pub async fn counted(&self, queue: &str) -> Counts {
        let prefix = format!("inbox/counted/{queue}-");
        let mut counts = Counts::default();
        for event in self.journal.read_all(Position(0), 100_000).await.unwrap() {
            if event.stream.as_str().starts_with(&prefix)
                && let Event::Inbox(InboxEvent::Counted(more)) = Perennial::decode(&event.data).unwrap()
            {
                counts.add(&more);
            }
        }
        counts
    }

    /// The instance that carries a node.
    pub async fn instance(&self, name: &str) -> InstanceId {
        self.node(name).await.resources.carrier.expect("the node has an instance").instance
    }

    /// A volume of a node.
    pub async fn volume(&self, name: &str, slot: &str) -> VolumeId {
        let slot = Slot::try_from(slot.to_owned()).unwrap();
        self.node(name).await.resources.volumes[&slot].volume.clone()
    }

    /// Lets the guest write a record to the root and to each data volume, if it is up.
    pub async fn write(&self, name: &str, record: &str) {
        let node = self.node(name).await;
        let instance = node.resources.carrier.as_ref().unwrap().instance.clone();
        self.region.with(|world, now_ms| {
            for (slot, held) in &node.resources.volumes {
                world
                    .write(now_ms, &instance, &held.device, record)
                    .unwrap_or_else(|error| panic!("{slot} at {}: {error}", held.device));
            }
        });
    }

    /// Checks everything that must hold when the node is at rest: one live instance, all volumes on it with what was
    /// written, the address, nothing that would die with the instance, nothing leaked, the world consistent.
    pub async fn check(&self, name: &str, written: &[&str]) {
        self.check_beside(name, &[], written).await;
    }

    /// The same for a node that is not the only one: nothing leaked beside what the others have.
    pub async fn check_beside(&self, name: &str, others: &[&str], written: &[&str]) {
        let node = self.node(name).await;
        let story = self.story().await;
        assert_eq!(self.region.checks().refused, BTreeSet::new(), "the published policy refuses\n{story}");
        let mut expected = self.forgotten.clone();
        for name in others.iter().chain([&name]) {
            expected.extend(self.resources_of(name).await);
        }
        let carrier = node.resources.carrier.clone().expect("the node has an instance");
        let spec = node.spec.clone().unwrap();
        self.region.with(|world, now_ms| {
            assert_eq!(world.check_invariants(), Vec::<String>::new(), "{story}");
            let live: Vec<_> = world.instances_of(name).iter().map(|i| i.id.clone()).collect();
            assert_eq!(live, std::slice::from_ref(&carrier.instance), "exactly one live instance\n{story}");
            for (slot, held) in &node.resources.volumes {
                let content = world
                    .read(now_ms, &carrier.instance, &held.device)
                    .unwrap_or_else(|error| panic!("{slot}: {error}\n{story}"));
                let content: Vec<&str> = content.iter().map(|record| record.as_str()).collect();
                for record in written {
                    assert!(content.contains(record), "{slot} lost {record:?}, it has {content:?}\n{story}");
                }
            }
            check_survives(world, &node, &carrier, &story);
            check_addresses(world, &node, &carrier, &story);
            let leaked = leaked(world, &expected);
            assert!(leaked.is_empty(), "leaked: {}\n{story}", leaked.join("\n"));
            let instance = world.instance(&carrier.instance).expect("it is live");
            assert_eq!(
                instance.volumes.len(),
                node.resources.volumes.len()
                    + node.resources.unmanaged.len()
                    + usize::from(spec.persist.root == RootMode::None),
                "no volume too many on the instance\n{story}"
            );
        });
    }

    /// What a node with an instance may have in the account.
    async fn resources_of(&self, name: &str) -> BTreeSet<String> {
        let node = self.node(name).await;
        let carrier = node.resources.carrier.clone().expect("the node has an instance");
        let mut expected = self.snapshots_of_backups(name).await;
        expected.insert(carrier.instance.to_string());
        expected.insert(carrier.interface.to_string());
        expected.extend(node.resources.interface.iter().map(|held| held.interface.to_string()));
        self.region.with(|world, _| {
            let instance = world.instance(&carrier.instance).expect("it is live");
            expected.extend(instance.volumes.iter().map(ToString::to_string));
        });
        expected.extend(node.resources.retained.iter().map(|old| old.volume.to_string()));
        expected.extend(node.resources.orphans.iter().map(|left| left.resource.id()));
        expected.extend(made_from(&node));
        for root in &node.resources.root_images {
            expected.insert(root.image.to_string());
            expected.insert(root.snapshot.to_string());
        }
        expected
    }

    /// Checks what must hold when a node has no instance: nothing of its lives, and what is left is listed.
    pub async fn check_without_instance(&self, name: &str) {
        // The root of an instance that never carried the node goes a little after it.
        self.clock.sleep(Duration::from_secs(10)).await;
        let node = self.node(name).await;
        let story = self.story().await;
        assert_eq!(node.resources.carrier, None, "{story}");
        let resources = &node.resources;
        let mut listed: BTreeSet<String> = self.snapshots_of_backups(name).await;
        listed.extend(resources.volumes.values().map(|held| held.volume.to_string()));
        listed.extend(resources.retained.iter().map(|old| old.volume.to_string()));
        listed.extend(resources.interface.iter().map(|held| held.interface.to_string()));
        listed.extend(resources.address_interface.iter().map(ToString::to_string));
        listed.extend(resources.orphans.iter().map(|left| left.resource.id()));
        listed.extend(made_from(&node));
        for root in &resources.root_images {
            listed.insert(root.image.to_string());
            listed.insert(root.snapshot.to_string());
        }
        self.region.with(|world, _| {
            assert_eq!(world.check_invariants(), Vec::<String>::new(), "{story}");
            assert!(world.instances_of(name).is_empty(), "a live instance\n{story}");
            let leaked = leaked(world, &listed);
            assert!(leaked.is_empty(), "leaked: {}\n{story}", leaked.join("\n"));
            for volume in resources.volumes.values().map(|held| &held.volume) {
                assert!(
                    world.all_volumes().any(|there| there.id == *volume),
                    "{volume} is listed and not there\n{story}"
                );
            }
        });
    }

    /// Waits until an operation is stuck, and says why.
    pub async fn stuck(&mut self, id: &str) -> String {
        self.until(&format!("{id} is stuck"), Duration::from_secs(4 * 3600), async |lab| {
            let node = OperationId::parse(id).unwrap().node().clone();
            let open = lab.node(node.as_str()).await.open;
            open.is_some_and(|(open, _)| open.to_string() == id) && lab.is_stuck(id).await
        })
        .await;
        match self.operation(id).await.status {
            Status::Stuck { because, needs, .. } => format!("{because}; {needs}"),
            other => panic!("{other:?}"),
        }
    }

    /// Loses the instance of a node while nobody watches, and waits until it is terminated.
    pub async fn lose_unseen(&mut self, name: &str) {
        self.kill().await;
        let old = self.instance(name).await;
        self.region.with(|world, now_ms| world.reclaim_now(now_ms, &old).unwrap());
        self.clock.sleep(Duration::from_secs(300)).await;
    }

    /// No event of the region reaches a queue any more.
    pub fn deafen(&mut self) {
        self.pumps.pop().expect("it hears").abort();
    }

    /// Whether an operation is stuck.
    pub async fn is_stuck(&self, id: &str) -> bool {
        matches!(self.operation(id).await.status, Status::Stuck { .. })
    }

    /// The journal's tail, for a failing test.
    pub async fn story(&self) -> String {
        let events = self.journal.read_all(Position(0), 100_000).await.unwrap();
        let most = std::env::var("STORY_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
        let chars = std::env::var("STORY_CHARS").ok().and_then(|text| text.parse().ok()).unwrap_or(220);
        let tail = events.iter().rev().take(most).rev();
        tail.map(|event| {
            let body: String = event.data.body.chars().take(chars).collect();
            let at = (event.recorded_at_ms.saturating_sub(EPOCH_MS)) as f64 / 1000.0;
            format!("{at:9.2} {:24} {:28} {body}\n", event.stream.as_str(), event.data.kind)
        })
        .collect()
    }
}

/// Nothing that is kept would die with the instance.
fn check_survives(world: &World, node: &Node, carrier: &Carrier, story: &str) {
    if node.spec.as_ref().unwrap().persist.root == RootMode::None {
        return;
    }
    let doomed = world.would_be_deleted_with(&carrier.instance);
    let kept: Vec<String> = node
        .resources
        .volumes
        .values()
        .map(|held| held.volume.to_string())
        .chain(node.resources.interface.iter().map(|held| held.interface.to_string()))
        .filter(|id| doomed.contains(id))
        .collect();
    assert_eq!(kept, Vec::<String>::new(), "these would die with the instance\n{story}");
}

/// The node's addresses lead to its instance.
fn check_addresses(world: &World, node: &Node, carrier: &Carrier, story: &str) {
    let spec = node.spec.as_ref().unwrap();
    // The interface that has the node's address: a second one, or the instance's primary one.
    let addressed = match (&node.resources.interface, spec.persist.network) {
        (Some(held), NetworkMode::SecondaryEni) => held.interface.clone(),
        _ => carrier.interface.clone(),
    };
    if let Some(address) = node.resources.address {
        let view = world.interface_view(&addressed).expect("the interface exists");
        assert!(
            view.primary_ip == address || view.secondary_ips.contains(&address),
            "{address} is not on {addressed}\n{story}"
        );
        let on = view.attachment.expect("it is attached");
        assert_eq!(on.instance.as_ref(), Some(&carrier.instance), "{addressed} is elsewhere\n{story}");
        let second = spec.persist.network == NetworkMode::SecondaryEni;
        assert_eq!(on.device_index, u32::from(second), "{story}");
    }
    if let Some(held) = &node.resources.elastic {
        let leads_to = world.known_elastic(held.allocation.as_str()).unwrap().association.clone();
        let leads_to = leads_to.unwrap_or_else(|| panic!("{} leads nowhere\n{story}", held.public_ip));
        assert_eq!(leads_to.interface, addressed, "{} leads elsewhere\n{story}", held.public_ip);
        if spec.persist.network.moves_address() {
            assert_eq!(Some(leads_to.private_ip), node.resources.address, "{story}");
        }
    }
}

/// The snapshots that a node's volumes were made from, as copies.
fn made_from(node: &Node) -> impl Iterator<Item = String> {
    node.resources.volumes.values().filter_map(|held| held.made_from.as_ref()).map(ToString::to_string)
}

impl Drop for Lab {
    fn drop(&mut self) {
        for pump in &self.pumps {
            pump.abort();
        }
        if let Some(process) = &self.process {
            process.abort();
        }
    }
}

/// What the journal does not list. What a step may have made is listed by the step, until it is found.
fn leaked(world: &World, listed: &BTreeSet<String>) -> Vec<String> {
    let found = world.leaks("lab", listed).into_iter().map(|id| world.describe(&id));
    let is_listed = |thing: &serde_json::Value| {
        thing["tags"]["perennial:step"].as_str().is_some_and(|step| listed.contains(step))
    };
    found.filter(|thing| !is_listed(thing)).map(|thing| thing.to_string()).collect()
}
