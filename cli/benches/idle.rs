//! What an installation costs in which nothing happens: processor time and memory, by the number of nodes,
//! without and with a backup of each node every hour.
//!
//! `cargo bench -p perennial --no-default-features --bench idle` prints a row for each; `-- nodes=1000` or
//! `backups=off` chooses rows, `minutes=20` measures for another length of the clock's time.
//!
//! A row is a process of its own: the whole service over a journal and queues in SQLite on disk, and a
//! simulated region in the same process, whose work and memory are in the numbers (*region*: its work for the
//! sweeps; *shown*: how many objects it shows to each of them). The nodes are provisioned first. Time is
//! tokio's paused time: it jumps to the next moment at which anything is to be done, so an hour passes in
//! seconds and holds everything that an hour holds. *Per cent of a core* is the process's time over the
//! clock's time.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::ids::StreamId;
use perennial_engine::intercept::{Intercept, Intercepted};
use perennial_engine::journal::{AppendError, Appended, Batch, Journal, Which};
use perennial_engine::limits::Limits;
use perennial_engine::queue::{DeadLetter, Delivery, Depth, Outgoing, Queue, QueueError, Receipt};
use perennial_engine::shutdown::Shutdown;
use perennial_sim::cloud::SimRegion;
use perennial_sim::world::settings::Settings;
use perennial_store::{Durability, EmbeddedQueue, Options, QueueSettings, SqliteJournal};
use perennial_workers::cloud::planner::Reserve;
use perennial_workers::ingest::NoReplies;
use perennial_workers::port::{Cloud as _, Select};
use perennial_workers::service::{Parts, Service};
use perennial_workflows::domain::projection::NodeSummary;
use perennial_workflows::model::installation::Place;
use perennial_workflows::model::resources::Carrier;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};
use tokio::sync::{Notify, mpsc};

/// 2026-09-14T08:00:00Z.
const EPOCH_MS: u64 = 1_789_372_800_000;

const NODES: [usize; 3] = [100, 1_000, 10_000];

/// How long is measured: a third of the nodes back up in it.
const MINUTES: u64 = 20;

/// Before that everything that provisioning leaves behind has had its time.
const SETTLE: Duration = Duration::from_mins(20);

/// Backups of each node begin once an hour.
const EVERY_MIN: u32 = 60;

/// How many nodes are provisioned at a time: an hour of the clock's time for ten thousand at two launches a
/// second is long enough without all of them looking at what they wait for.
const PROVISIONED_AT_ONCE: usize = 1_000;

/// How often the region answers a sweep to find out what that takes.
const DESCRIBES: usize = 20;

/// How many messages are sent at once: as many as SQS takes.
const SENT_AT_ONCE: usize = 10;

/// A hundredth of a second: the unit of `/proc/self/stat` on every Linux that we know.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    let argument = |name: &str| {
        std::env::args().find_map(|a| a.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let minutes = argument("minutes").and_then(|minutes| minutes.parse().ok()).unwrap_or(MINUTES);
    if let Some(row) = argument("row") {
        let (nodes, backups) = row.split_once('+').map_or((row.as_str(), false), |(nodes, _)| (nodes, true));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let run = measure(nodes.parse().expect("row=NODES or row=NODES+backups"), backups, minutes);
        return runtime.block_on(run);
    }
    println!(
        "{:>7} {:>8} {:>8} {:>9} {:>9} {:>7} {:>9} {:>9} {:>10} {:>9} {:>11}",
        "nodes",
        "backups",
        "begun",
        "% core",
        "region",
        "shown",
        "MiB",
        "appends",
        "streams",
        "lookups",
        "(measured)"
    );
    let asked = argument("nodes").and_then(|nodes| nodes.parse::<usize>().ok());
    for nodes in NODES.into_iter().filter(|nodes| asked.is_none_or(|asked| asked == *nodes)) {
        for backups in ["off", "on"] {
            if argument("backups").is_some_and(|asked| asked != backups) {
                continue;
            }
            let row = format!("row={nodes}{}", if backups == "on" { "+backups" } else { "" });
            let this = std::env::current_exe().expect("a benchmark knows where it is");
            let status = Command::new(this).args([row, format!("minutes={minutes}")]).status();
            assert!(status.is_ok_and(|status| status.success()), "a row failed");
        }
    }
}

/// Counts what goes to the journal.
#[derive(Default)]
struct Counts {
    appends: AtomicU64,
    streams: AtomicU64,
    lookups: AtomicU64,
}

#[derive(Clone, Default)]
struct Counting(Arc<Counts>);

#[async_trait]
impl Intercept for Counting {
    async fn append(&self, to: &dyn Journal, batch: Batch) -> Result<Appended, AppendError> {
        self.0.appends.fetch_add(1, Ordering::Relaxed);
        let _still = StandStill::new();
        to.append(batch).await
    }

    async fn lookup(
        &self,
        to: &dyn Journal,
        key: &str,
    ) -> Result<Vec<StreamId>, perennial_engine::journal::ReadError> {
        self.0.lookups.fetch_add(1, Ordering::Relaxed);
        to.lookup(key).await
    }

    fn reads(&self, _: &StreamId) {
        self.0.streams.fetch_add(1, Ordering::Relaxed);
    }
}

/// Time stands still as long as this lives: paused time does not jump while a blocking task runs. What other
/// threads do, those of the journal and of the queues, takes none of the clock's time then; otherwise each of
/// their milliseconds would be as long as it is to the next timer, and the patience of steps would pass in it.
struct StandStill {
    _ends: std::sync::mpsc::Sender<()>,
}

impl StandStill {
    fn new() -> Self {
        let (ends, waits) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || waits.recv());
        Self { _ends: ends }
    }
}

/// An embedded queue whose calls take no time.
struct Still {
    queue: EmbeddedQueue,
    clock: Clock,
    /// It was sent to, or given a message back.
    rung: Notify,
}

#[async_trait]
impl Queue for Still {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        let _still = StandStill::new();
        self.queue.send(messages).await?;
        self.rung.notify_one();
        Ok(())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let until_ms = self.clock.monotonic_ms() + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        loop {
            let found = {
                let _still = StandStill::new();
                self.queue.receive(max, Duration::ZERO).await?
            };
            if !found.is_empty() || self.clock.monotonic_ms() >= until_ms {
                if !found.is_empty() {
                    // There may be more, and this receiver may have used their bell.
                    self.rung.notify_one();
                }
                return Ok(found);
            }
            tokio::select! {
                () = self.rung.notified() => {}
                () = self.clock.sleep(perennial_store::queue::POLL) => {}
            }
        }
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<(), QueueError> {
        let _still = StandStill::new();
        self.queue.extend(receipt, visibility).await
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let _still = StandStill::new();
        self.queue.delete(receipts).await
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        self.queue.dead_letter(delivery, reason).await
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue.dead_letters(max).await
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        self.queue.depth().await
    }
}

async fn measure(nodes: usize, backups: bool, minutes: u64) {
    let directory = tempfile::tempdir().expect("a directory for the journal");
    let clock = Clock::scaled(EPOCH_MS, 1.0);
    let region = SimRegion::new(Settings::calm(1), clock.clone());
    let queue = |name: &str, durability| {
        let settings = QueueSettings { durability, ..QueueSettings::default() };
        let queue = EmbeddedQueue::open(directory.path(), name, settings, clock.clone());
        let queue = queue.expect("a queue can be made");
        Arc::new(Still { queue, clock: clock.clone(), rung: Notify::new() }) as Arc<dyn Queue>
    };
    let submissions = queue("submissions", Durability::Durable);
    let interruptions = queue("interruptions", Durability::Durable);
    forward_events(&region, Arc::clone(&interruptions));
    let journal = SqliteJournal::open(&directory.path().join("journal.sqlite"), Options::default())
        .expect("a journal can be made");
    let counting = Counting::default();
    let counted = Intercepted { journal: Arc::new(journal) as Arc<dyn Journal>, intercept: counting.clone() };
    let journal: Arc<dyn Journal> = Arc::new(counted);
    let service = Service::new(Parts {
        journal: Arc::clone(&journal),
        steps: queue("steps", Durability::Hint),
        submissions: Arc::clone(&submissions),
        interruptions: Some(interruptions),
        cloud: Arc::new(region.connect()),
        clock: clock.clone(),
        place: Place { owner: "idle".to_owned(), account: None, region: None },
        installation: "idle".to_owned(),
        replies: Arc::new(NoReplies),
        limits: Limits::default(),
        sweep_every: perennial_workers::periodic::sweep::EVERY,
        reserve: Reserve::default(),
    });
    let (_trigger, shutdown) = Shutdown::new();
    tokio::spawn(Box::pin(service.run(shutdown)));
    let (numbers, mut in_place): (Vec<usize>, usize) = ((0..nodes).collect(), 0);
    for numbers in numbers.chunks(PROVISIONED_AT_ONCE) {
        submit(&region, submissions.as_ref(), numbers, backups).await;
        while numbers.last().is_some_and(|last| *last >= in_place) {
            clock.sleep(Duration::from_mins(1)).await;
            in_place = carriers(journal.as_ref()).await.len();
        }
    }
    clock.sleep(SETTLE).await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let before = [&counting.0.appends, &counting.0.streams, &counting.0.lookups].map(count);
    let snapshots = snapshots(&region);
    let (from_ms, cpu) = (clock.now_ms(), cpu_seconds());
    clock.sleep(Duration::from_mins(minutes)).await;
    let seconds = (clock.now_ms() - from_ms) as f64 / 1_000.0;
    let cpu = cpu_seconds() - cpu;
    let after = [&counting.0.appends, &counting.0.streams, &counting.0.lookups].map(count);
    let (snapshots, resident) = (self::snapshots(&region) - snapshots, resident_mib());
    let (described, shown) = describes(&region, journal.as_ref()).await;
    println!(
        "{nodes:>7} {:>8} {:>8} {:>9.2} {:>9.2} {shown:>7} {:>9.0} {:>9} {:>10} {:>9} {:>9.0} s",
        if backups { "hourly" } else { "none" },
        snapshots,
        100.0 * cpu / seconds,
        100.0 * described / perennial_workers::periodic::sweep::EVERY.as_secs_f64(),
        resident,
        after[0] - before[0],
        after[1] - before[1],
        after[2] - before[2],
        seconds
    );
}

/// A node as the cheapest fleet has it: a data volume, nothing else that is kept.
fn spec(region: &SimRegion, number: usize, backups: bool) -> NodeSpec {
    let mut spec = example(&format!("n-{number}"), NetworkMode::None, RootMode::None);
    region.with(|world, _| {
        let zones = world.zones().to_vec();
        spec.subnet = world.subnet_in(&zones[number % zones.len()]);
        spec.image = world.default_image();
    });
    spec.backup =
        backups.then(|| BackupSpec { every_min: EVERY_MIN, at_release: false, ..BackupSpec::default() });
    spec
}

async fn submit(region: &SimRegion, to: &dyn Queue, numbers: &[usize], backups: bool) {
    for numbers in numbers.chunks(SENT_AT_ONCE) {
        let message = |number: &usize| {
            let spec = spec(region, *number, backups);
            let body = serde_json::json!({
                "schema": "perennial.submission/v1", "id": format!("s-{number}"), "workflow": "node.apply",
                "node": spec.name, "params": { "spec": spec }, "requested_by": "idle"
            });
            Outgoing::now(body.to_string())
        };
        to.send(numbers.iter().map(message).collect()).await.expect("the queue takes submissions");
    }
}

/// What carries each node in place and at rest.
async fn carriers(journal: &dyn Journal) -> Vec<Carrier> {
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = journal.summaries("node", Which::All, after.take(), 1_000).await.expect("it can be read");
        let lines = page.iter().filter_map(|row| serde_json::from_str::<NodeSummary>(&row.body).ok());
        found.extend(lines.filter(|line| line.operation.is_none()).filter_map(|line| line.carrier));
        match page.last() {
            Some(last) if page.len() == 1_000 => after = Some(last.stream.clone()),
            _ => return found,
        }
    }
}

/// The processor seconds that the region itself needs to answer one sweep, and how many objects it shows: over
/// the wire that many have to be read from XML.
async fn describes(region: &SimRegion, journal: &dyn Journal) -> (f64, usize) {
    let carriers = carriers(journal).await;
    let (from, mut shown) = (cpu_seconds(), 0);
    for _ in 0..DESCRIBES {
        for chunk in carriers.chunks(200) {
            let instances = chunk.iter().map(|carrier| carrier.instance.clone()).collect();
            let instances = region.instances(&Select::Ids(instances)).await.expect("the region answers");
            let requests: Vec<_> = chunk.iter().filter_map(|carrier| carrier.spot_request.clone()).collect();
            let doomed = region.doomed_spot_requests(&requests).await.expect("the region answers");
            shown += instances.len() + doomed.len();
        }
    }
    ((cpu_seconds() - from) / DESCRIBES as f64, shown / DESCRIBES)
}

fn forward_events(region: &SimRegion, to: Arc<dyn Queue>) {
    let (events, mut forwarded) = mpsc::channel::<String>(1_000);
    let region = region.clone();
    tokio::spawn(async move { region.run(events).await });
    tokio::spawn(async move {
        while let Some(event) = forwarded.recv().await {
            to.send(vec![Outgoing::now(event)]).await.expect("the queue takes events");
        }
    });
}

/// How many snapshots have been taken: CreateSnapshots calls.
fn snapshots(region: &SimRegion) -> usize {
    let took = |call: &perennial_sim::cloud::CallRecord| {
        call.action == perennial_workers::port::error::Action::CreateSnapshots
    };
    region.calls().iter().filter(|call| took(call)).count()
}

/// Processor time of all threads of this process so far.
fn cpu_seconds() -> f64 {
    let stat = proc_file("stat");
    // The second field is a name in parentheses, with whatever is in it.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

fn resident_mib() -> f64 {
    let status = proc_file("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1_024.0
}

fn proc_file(name: &str) -> String {
    let path = Path::new("/proc/self").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
