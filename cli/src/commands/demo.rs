//! `perennial demo`: three nodes, each keeping its state in another way, survive an interruption.
//!
//! Everything is real but the cloud: the SQLite journal with its fsyncs, the embedded queues, the engine and
//! the workers are those of `perennial serve`; EC2 is the simulated region, on a clock that runs faster.
//!
//! Two witnesses stand outside of Perennial and only look at the simulated machines: a *probe* that asks each
//! node a few times a (simulated) second whether it runs with everything it keeps, and a record that is
//! written to each volume before the interruption and read back after it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use perennial_engine::clock::Clock;
use perennial_engine::domain::Domain as _;
use perennial_engine::engine::Engine;
use perennial_engine::ids::Position;
use perennial_engine::limits::Limits;
use perennial_engine::queue::{Outgoing, Queue};
use perennial_engine::shutdown::{Shutdown, ShutdownTrigger};
use perennial_sim::cloud::SimRegion;
use perennial_sim::world::settings::Settings;
use perennial_sim::world::{Notice, World};
use perennial_views::Views;
use perennial_workers::cloud::planner::Reserve;
use perennial_workers::ingest::NoReplies;
use perennial_workers::service::{Parts, Service, ServiceError};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::model::aws::InstanceState;
use perennial_workflows::model::installation::Place;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};
use perennial_workflows::view::history::compare;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::commands::serve;
use crate::failure::Failure;
use crate::installation::{Role, embedded_queue, file_failure, journal_file};
use crate::output::narrator::Narrator;
use crate::output::{Format, Output, history, table, words};

/// The simulated time at the beginning: 2026-09-14T08:00:00Z, the same for every demo.
const EPOCH_MS: u64 = 1_789_372_800_000;

/// Faster, and the machine's own latencies (an fsync, a hop through the queue) would be seen as simulated
/// seconds.
const SPEED_MAX: f64 = 60.0;

/// Between two looks of the probe, in simulated time.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// The most simulated time one phase may take: a replacement takes about two minutes.
const PHASE_MAX: Duration = Duration::from_secs(1_800);

/// How many events one read takes.
const PAGE: usize = 500;

/// Of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many times as fast as real time, at most 60
    #[arg(long, default_value_t = 20.0, value_parser = speed)]
    speed: f64,
    /// Keep the journal in this new directory, to read afterwards
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The seed of all random choices in the region
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed > 0.0 && speed <= SPEED_MAX => Ok(speed),
        _ => Err(format!("use a number above 0 and up to {SPEED_MAX}")),
    }
}

/// One of the three nodes.
struct Mode {
    node: &'static str,
    network: NetworkMode,
    root: RootMode,
    modes: &'static str,
    returns_with: &'static str,
}

const MODES: [Mode; 3] = [
    Mode {
        node: "db-eni",
        network: NetworkMode::PrimaryEni,
        root: RootMode::Adopt,
        modes: "network primary_eni, root adopt",
        returns_with: "its network interface, root volume and data volume",
    },
    Mode {
        node: "db-ip",
        network: NetworkMode::SecondaryIp,
        root: RootMode::Adopt,
        modes: "network secondary_ip, root adopt",
        returns_with: "its private address, root volume and data volume",
    },
    Mode {
        node: "batch",
        network: NetworkMode::None,
        root: RootMode::None,
        modes: "network none, root none",
        returns_with: "its data volume; root and address are new",
    },
];

impl Mode {
    fn name(&self) -> NodeName {
        NodeName::parse(self.node).unwrap_or_else(|error| unreachable!("BUG: {error}"))
    }

    fn spec(&self, region: &SimRegion) -> NodeSpec {
        let mut spec = example(self.node, self.network, self.root);
        region.with(|world, _| {
            spec.subnet = world.subnet_in(&world.zones()[0]);
            spec.image = world.default_image();
        });
        spec
    }
}

/// What the demo found of one node.
#[derive(Debug, Serialize)]
struct Outcome {
    node: &'static str,
    modes: &'static str,
    /// Name, before, after, remark.
    rows: Vec<(String, String, String, String)>,
    /// Simulated: from the last moment the node ran with everything it keeps to the first one it did so
    /// again.
    outage_ms: u64,
    /// Simulated: from the interruption notice to the end of the replacement.
    total_ms: u64,
    kept: bool,
    /// What is not as it should be.
    broken: Vec<String>,
}

/// Runs the demo.
pub(crate) async fn run(args: &DemoArgs, output: Output) -> Result<(), Failure> {
    let directory = DataDir::make(args.keep.as_deref())?;
    let told = tokio::select! {
        told = Box::pin(tell(args, &directory, output)) => told,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("the demo was interrupted")),
    };
    drop(directory);
    told
}

async fn tell(args: &DemoArgs, directory: &DataDir, output: Output) -> Result<(), Failure> {
    let real = Clock::system();
    let began_ms = real.now_ms();
    let mut stage = Stage::set(args, directory, output)?;
    stage.introduce(args)?;

    stage.say("\n1. The nodes are provisioned (times are simulated)")?;
    for mode in &MODES {
        stage.apply(mode).await?;
    }
    stage.play(1).await?;

    let mut before = BTreeMap::new();
    for mode in &MODES {
        let node = stage.node(&mode.name()).await?;
        stage.write_records(mode, &node)?;
        before.insert(mode.node, node);
    }
    stage.say("\n2. Each node writes a record to each of its volumes; then EC2 gives all three")?;
    stage.say("   instances two minutes' notice (an event on the interruptions queue)")?;
    let probes = stage.start_probes(&before);
    let notice_ms = stage.interrupt(&before)?;
    stage.play(2).await?;
    stage.settle_probes(&probes).await?;

    let mut outcomes = Vec::new();
    for mode in &MODES {
        outcomes.push(stage.compare(mode, &before[mode.node], &probes[mode.node], notice_ms).await?);
    }
    let simulated_ms = stage.clock.now_ms() - EPOCH_MS;
    stage.close().await?;

    let views = Views::new(journal_file::open_for_reading(&directory.journal())?);
    show_history(output, &views).await?;
    let report = journal_file::verify(&directory.journal(), &[])?;
    let kept = outcomes.iter().all(|outcome| outcome.kept) && report.is_sound();
    let took_ms = real.now_ms().saturating_sub(began_ms);
    if output.format == Format::Json {
        output.json(&serde_json::json!({
            "kept": kept, "nodes": outcomes, "journal": report, "real_ms": took_ms, "simulated_ms": simulated_ms,
            "data": args.keep,
        }))?;
    } else {
        output.text(&summary(&outcomes))?;
        let sound = if report.is_sound() { "every hash verified" } else { "NOT SOUND" };
        output.text(&format!(
            "The journal holds all of it: {} events, {sound}.\n{} simulated in {} of real time.\n",
            report.events,
            words::length(simulated_ms),
            words::length(took_ms)
        ))?;
        output.text(&next(args.keep.as_deref()))?;
    }
    if kept { Ok(()) } else { Err(Failure::failed("something was not kept; see above")) }
}

/// The stage of the play: a whole Perennial over a simulated region.
struct Stage {
    clock: Clock,
    region: SimRegion,
    engine: Engine<Perennial>,
    submissions: Arc<dyn Queue>,
    service: JoinHandle<Result<(), ServiceError>>,
    trigger: ShutdownTrigger,
    output: Output,
    /// How far the journal was told.
    told: Position,
    narrator: Narrator,
    /// The moment that `+0.0 s` stands for.
    since_ms: u64,
}

impl Stage {
    fn set(args: &DemoArgs, directory: &DataDir, output: Output) -> Result<Self, Failure> {
        let clock = Clock::scaled(EPOCH_MS, args.speed);
        let region = SimRegion::new(Settings::realistic(args.seed), clock.clone());
        let journal = journal_file::open_for_the_engine(&directory.journal())?;
        let queue = |name: &str, role: Role| embedded_queue(&directory.path, name, role, clock.clone());
        let submissions = queue("submissions", Role::Submissions)?;
        let interruptions = queue("interruptions", Role::Interruptions)?;
        serve::forward_events(&region, Arc::clone(&interruptions));
        let service = Service::new(Parts {
            journal,
            steps: queue("steps", Role::Steps)?,
            submissions: Arc::clone(&submissions),
            interruptions: Some(interruptions),
            cloud: Arc::new(region.clone()),
            clock: clock.clone(),
            place: Place { owner: "demo".to_owned(), account: None, region: Some("simulated".to_owned()) },
            installation: "demo".to_owned(),
            replies: Arc::new(NoReplies),
            limits: Limits::default(),
            sweep_every: perennial_workers::periodic::sweep::EVERY,
            reserve: Reserve::default(),
        });
        let engine = service.engine();
        let (trigger, shutdown) = Shutdown::new();
        let service = tokio::spawn(Box::pin(service.run(shutdown)));
        Ok(Self {
            clock,
            region,
            engine,
            submissions,
            service,
            trigger,
            output,
            told: Position(0),
            narrator: Narrator::default(),
            since_ms: EPOCH_MS,
        })
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        match self.output.format {
            Format::Table | Format::Wide | Format::Name => self.output.text(text),
            Format::Json => {
                self.output.say(text);
                Ok(())
            }
        }
    }

    fn introduce(&self, args: &DemoArgs) -> Result<(), Failure> {
        self.say(&format!(
            "Perennial keeps stateful nodes alive on spot capacity. This is the real engine,\n\
             journal and queue over a simulated EC2 region, {} times as fast as real time.\n",
            args.speed
        ))?;
        let rows = MODES.iter().map(|mode| vec![mode.node.to_owned(), mode.returns_with.to_owned()]);
        self.say(&table(&["NODE", "COMES BACK WITH"], &[], rows))
    }

    async fn apply(&self, mode: &Mode) -> Result<(), Failure> {
        let body = serde_json::json!({
            "schema": "perennial.submission/v1", "id": format!("demo-{}", mode.node), "workflow": "node.apply",
            "params": { "spec": mode.spec(&self.region) }, "requested_by": "demo",
        });
        Ok(self.submissions.send(vec![Outgoing::now(body.to_string())]).await?)
    }

    async fn node(&self, name: &NodeName) -> Result<Node, Failure> {
        let (state, _) = self.engine.load(&node_stream(name)).await?;
        match state.as_ref() {
            State::Node(node) => Ok(node.clone()),
            _ => Err(Failure::internal(format!("BUG: {name} is no node"))),
        }
    }

    /// Tells what happens until every node has finished its operation number `number`.
    async fn play(&mut self, number: u64) -> Result<(), Failure> {
        let mut written = self.engine.written();
        let end_ms = self.clock.now_ms() + PHASE_MAX.as_millis() as u64;
        loop {
            written.mark_unchanged();
            self.narrate().await?;
            let mut finished = 0;
            for mode in &MODES {
                let id = OperationId::new(mode.name(), number);
                let (state, _) = self.engine.load(&id.stream()).await?;
                if let State::Operation(Some(operation)) = state.as_ref() {
                    match &operation.status {
                        Status::Running => {}
                        Status::Finished { .. } => finished += 1,
                        Status::Stuck { because, .. } => {
                            return Err(Failure::failed(format!("{id} is stuck: {because}")));
                        }
                    }
                }
            }
            if finished == MODES.len() {
                return self.narrate().await;
            }
            let left = Duration::from_millis(end_ms.saturating_sub(self.clock.now_ms()));
            if tokio::time::timeout(self.clock.real(left), written.changed()).await.is_err() {
                return Err(Failure::failed("the nodes took longer than half a simulated hour"));
            }
        }
    }

    /// Tells what the journal has and was not told yet.
    async fn narrate(&mut self) -> Result<(), Failure> {
        loop {
            let page = self.engine.journal().read_all(self.told, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            self.told = last.position;
            for event in &page {
                let Some(id) = OperationId::of_stream(&event.stream) else { continue };
                let decoded = Perennial::decode(&event.data).map_err(Failure::internal)?;
                let Event::Operation(decoded) = decoded else { continue };
                if let Some((name, what)) = self.narrator.narrate(&id, event.seq, &decoded) {
                    let at = words::length(event.recorded_at_ms.saturating_sub(self.since_ms));
                    let head = format!(" {:>8}  {:<6}  {name:<16} ", format!("+{at}"), id.node());
                    self.say(&words::wrapped(&head, &what, 19))?;
                }
            }
        }
    }

    /// The guests write to each volume that their node keeps.
    fn write_records(&self, mode: &Mode, node: &Node) -> Result<(), Failure> {
        let Some(carrier) = &node.resources.carrier else {
            return Err(Failure::failed(format!("{} has no instance", mode.node)));
        };
        self.region.with(|world, now_ms| {
            node.resources.volumes.values().try_for_each(|held| {
                world
                    .write(now_ms, &carrier.instance, &held.device, &record(mode.node))
                    .map_err(|error| Failure::failed(format!("{} at {}: {error}", mode.node, held.device)))
            })
        })
    }

    /// EC2 announces that it takes all three instances.
    fn interrupt(&mut self, before: &BTreeMap<&'static str, Node>) -> Result<u64, Failure> {
        self.since_ms = self.clock.now_ms();
        self.region.with(|world, now_ms| {
            for carrier in before.values().filter_map(|node| node.resources.carrier.as_ref()) {
                world
                    .interrupt(now_ms, &carrier.instance, Notice::default())
                    .map_err(|error| Failure::internal(format!("{}: {}", error.code, error.message)))?;
            }
            Ok(now_ms)
        })
    }

    fn start_probes(&self, before: &BTreeMap<&'static str, Node>) -> BTreeMap<&'static str, Probe> {
        before.iter().map(|(name, node)| (*name, Probe::start(name, node, &self.region))).collect()
    }

    /// Waits until every probe has found its node again.
    async fn settle_probes(&self, probes: &BTreeMap<&'static str, Probe>) -> Result<(), Failure> {
        let end_ms = self.clock.now_ms() + 60_000;
        while self.clock.now_ms() < end_ms && !probes.values().all(Probe::is_up) {
            self.clock.sleep(PROBE_EVERY).await;
        }
        Ok(())
    }

    async fn compare(
        &self,
        mode: &Mode,
        before: &Node,
        probe: &Probe,
        notice_ms: u64,
    ) -> Result<Outcome, Failure> {
        let after = self.node(&mode.name()).await?;
        let id = OperationId::new(mode.name(), 2);
        let (state, _) = self.engine.load(&id.stream()).await?;
        let end_ms = match state.as_ref() {
            State::Operation(Some(operation)) => match operation.status {
                Status::Finished { at_ms, .. } => at_ms,
                Status::Running | Status::Stuck { .. } => self.clock.now_ms(),
            },
            _ => self.clock.now_ms(),
        };
        let (outage_ms, up) = probe.outage();
        let mut outcome = Outcome {
            node: mode.node,
            modes: mode.modes,
            rows: Vec::new(),
            outage_ms,
            total_ms: end_ms.saturating_sub(notice_ms),
            kept: false,
            broken: Vec::new(),
        };
        if !up {
            outcome.broken.push("the node does not run with everything it keeps".to_owned());
        }
        self.region.with(|world, now_ms| outcome.judge(mode, before, &after, world, now_ms));
        outcome.kept = outcome.broken.is_empty();
        Ok(outcome)
    }

    /// Stops the service and closes the journal.
    async fn close(self) -> Result<(), Failure> {
        self.trigger.ask();
        crate::commands::serve::ended_by_itself(self.service.await)
    }
}

fn record(node: &str) -> String {
    format!("written by {node} before the interruption")
}

impl Outcome {
    fn row(&mut self, name: &str, before: String, after: String, remark: &str) {
        self.rows.push((name.to_owned(), before, after, remark.to_owned()));
    }

    /// Compares what was with what is, by the node's own backup catalogs and by the simulated world.
    fn judge(&mut self, mode: &Mode, before: &Node, after: &Node, world: &mut World, now_ms: u64) {
        let (Some(old), Some(new)) = (&before.resources.carrier, &after.resources.carrier) else {
            self.broken.push("the node has no instance".to_owned());
            return;
        };
        if old.instance == new.instance {
            self.broken.push("the instance was not replaced".to_owned());
        }
        for line in compare(&before.resources, &after.resources) {
            let remark = if line.same { "same" } else { "" };
            self.row(&line.what, line.before, line.after, remark);
        }
        if before.resources.address.is_none() {
            self.row("address", old.private_ip.to_string(), new.private_ip.to_string(), "not kept");
        }
        for (slot, held) in &before.resources.volumes {
            if after.resources.volumes.get(slot) != Some(held) {
                self.broken.push(format!("volume {slot} is another one"));
            }
            let content = world.read(now_ms, &new.instance, &held.device);
            if content.is_ok_and(|records| records.contains(&record(mode.node))) {
                let what = format!("volume {slot}");
                let row = self.rows.iter_mut().find(|row| row.0 == what);
                row.into_iter().for_each(|row| row.3.push_str(", record kept"));
            } else {
                self.broken.push(format!("volume {slot} LOST the record"));
            }
        }
        if after.resources.interface != before.resources.interface {
            self.broken.push("the interface is another one".to_owned());
        }
        if let Some(address) = before.resources.address {
            let shown = world.interface_view(&new.interface);
            let here = shown.is_some_and(|view| holds(&view.primary_ip, &view.secondary_ips, address));
            if after.resources.address != Some(address) || !here {
                self.broken.push("the address is another one".to_owned());
            }
        }
        let live = world.instances_of(mode.node).len();
        if live != 1 {
            self.broken.push(format!("{live} live instances"));
        }
        self.broken.extend(world.check_invariants());
    }
}

fn holds(primary: &Ipv4Addr, secondary: &[Ipv4Addr], address: Ipv4Addr) -> bool {
    *primary == address || secondary.contains(&address)
}

/// Asks a node from outside, ever again, whether it runs with everything it keeps.
struct Probe {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<Result<(), ServiceError>>,
}

#[derive(Default)]
struct Seen {
    last_up_ms: u64,
    /// The first and the last stretch without the node, as one: from the last good look before to the first
    /// after.
    down_ms: Option<(u64, u64)>,
    up: bool,
}

impl Probe {
    fn start(name: &'static str, node: &Node, region: &SimRegion) -> Self {
        let seen =
            Arc::new(Mutex::new(Seen { last_up_ms: region.clock().now_ms(), down_ms: None, up: true }));
        let (to, region, clock) = (Arc::clone(&seen), region.clone(), region.clock().clone());
        let devices: Vec<String> = node.resources.volumes.values().map(|held| held.device.clone()).collect();
        let address = node.resources.address;
        let task = tokio::spawn(async move {
            loop {
                let (up, now_ms) =
                    region.with(|world, now_ms| (serves(world, now_ms, name, &devices, address), now_ms));
                {
                    let mut seen = to.lock().unwrap_or_else(PoisonError::into_inner);
                    if up && !seen.up {
                        let from = seen.down_ms.map_or(seen.last_up_ms, |(from, _)| from);
                        seen.down_ms = Some((from, now_ms));
                    }
                    if up {
                        seen.last_up_ms = now_ms;
                    }
                    seen.up = up;
                }
                clock.sleep(PROBE_EVERY).await;
            }
        });
        Self { seen, task }
    }

    fn is_up(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).up
    }

    /// How long the node was away, and whether it is here.
    fn outage(&self) -> (u64, bool) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.down_ms.map_or(0, |(from, to)| to.saturating_sub(from)), seen.up)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a running instance of the node can read its records and has its address.
fn serves(world: &mut World, now_ms: u64, node: &str, devices: &[String], address: Option<Ipv4Addr>) -> bool {
    let running: Vec<_> = world
        .instances_of(node)
        .into_iter()
        .filter(|instance| instance.state == InstanceState::Running)
        .map(|instance| (instance.id.clone(), instance.interfaces.clone()))
        .collect();
    running.into_iter().any(|(id, interfaces)| {
        let reads = devices.iter().all(|device| {
            world.read(now_ms, &id, device).is_ok_and(|records| records.contains(&record(node)))
        });
        let reached = address.is_none_or(|address| {
            interfaces.iter().any(|interface| {
                world
                    .interface_view(interface)
                    .is_some_and(|view| holds(&view.primary_ip, &view.secondary_ips, address))
            })
        });
        reads && reached
    })
}

/// The journal's own account of one of the replacements.
async fn show_history(output: Output, views: &Views) -> Result<(), Failure> {
    if output.format == Format::Json {
        return Ok(());
    }
    let node = MODES[1].name();
    let text = history::node(&views.history(&node, Some(1)).await?, 0);
    output.text(&format!(
        "\n3. What the journal says of one of them (perennial node history {node})\n\n{text}\n"
    ))
}

fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::from("4. Before and after\n");
    for outcome in outcomes {
        text.push_str(&format!("\n{} ({})\n", outcome.node, outcome.modes));
        let rows = outcome.rows.iter().map(|(name, before, after, remark)| {
            vec![format!("  {name}"), before.clone(), after.clone(), remark.clone()]
        });
        text.push_str(&table(&["", "BEFORE", "AFTER", ""], &[], rows));
        text.push_str(&format!(
            "\n  outage {} (by the probe), {} from notice to end; {}\n",
            words::length(outcome.outage_ms),
            words::length(outcome.total_ms),
            if outcome.kept { "everything kept".to_owned() } else { outcome.broken.join("; ") }
        ));
    }
    text
}

fn next(kept: Option<&Path>) -> String {
    match kept {
        Some(directory) => {
            let directory = directory.display();
            format!(
                "Try next:\n  perennial --data {directory} node history db-eni\n  perennial --data {directory} workflow \
                 show db-ip.2\n  perennial --data {directory} journal verify"
            )
        }
        None => "Try next:\n  perennial demo --keep /tmp/perennial-demo     and look at what it leaves\n  perennial --help"
            .to_owned(),
    }
}

/// The data directory; a temporary one is removed at the end.
struct DataDir {
    path: PathBuf,
    temporary: bool,
}

impl DataDir {
    fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let (path, temporary) = match keep {
            Some(path) => (path.to_owned(), false),
            None => (std::env::temp_dir().join(format!("perennial-demo-{}", uuid::Uuid::now_v7())), true),
        };
        let directory = Self { path, temporary };
        if directory.journal().exists() {
            return Err(Failure::user(format!("{} holds a journal already", directory.path.display()))
                .hint("name a new directory with --keep DIR"));
        }
        std::fs::create_dir_all(&directory.path)
            .map_err(|error| file_failure("making", &directory.path, &error))?;
        Ok(directory)
    }

    fn journal(&self) -> PathBuf {
        journal_file::path_in(&self.path)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.temporary {
            // What is left in the temporary directory after a failure does no harm.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
