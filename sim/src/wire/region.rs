//! What all connections share: the world and its time, queues, rules, trouble, and the log of what was done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_engine::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::events::{EventTrouble, Rules};
use super::journal::{Entry, Found, Journal, Operation};
use super::params::Params;
use super::sqs::model::{Outgoing, Queues, Refusal, Trouble, uuid};
use super::xml::Element;
use super::{Options, RECEIVES_MAX, StartError, control, ec2, elb, ssm};
use crate::faults::{Fault, Faults};
use crate::world::settings::Quotas;
use crate::world::{ACCOUNT, ApiError, World};

/// How many calls the log that is shown keeps.
const CALLS_MAX: usize = 10_000;
/// The longest sleep of the pump: a machine that was suspended is noticed after it.
const NAP_MAX: Duration = Duration::from_secs(3600);
/// With a state, how much of the machine's time may pass unlogged: what the region's clock may go back at a crash.
const UNLOGGED_MAX: Duration = Duration::from_secs(5);

/// The region's time.
#[derive(Debug, Clone, Copy)]
struct Time {
    base_ms: u64,
    since: Instant,
    speed: f64,
}

impl Time {
    fn now_ms(&self) -> u64 {
        self.base_ms + (self.since.elapsed().as_secs_f64() * self.speed * 1000.0) as u64
    }

    /// Goes on from here and now with another speed.
    fn rebase(&mut self, ahead_ms: u64, speed: f64) {
        *self = Self { base_ms: self.now_ms() + ahead_ms, since: Instant::now(), speed };
    }
}

/// One call that was made.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct CallRecord {
    pub(crate) at_ms: u64,
    pub(crate) action: String,
    pub(crate) status: u16,
    /// Empty when all went well.
    pub(crate) code: String,
    /// Parameters that mean nothing here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignored: Vec<String>,
}

/// Everything that survives.
#[derive(Serialize)]
struct State<'a> {
    world: &'a World,
    queues: &'a Queues,
    rules: &'a Rules,
}

/// The same, as it is read.
#[derive(Debug, Deserialize)]
struct Kept {
    world: World,
    queues: Queues,
    rules: Rules,
}

/// Something was done that cannot be kept; no answer may say otherwise.
#[derive(Debug)]
pub(crate) struct Broken;

pub(crate) struct Region {
    world: Mutex<World>,
    time: Mutex<Time>,
    queues: Mutex<Queues>,
    rules: Mutex<Rules>,
    faults: Mutex<Faults>,
    calls: Mutex<VecDeque<CallRecord>>,
    rng: Mutex<fastrand::Rng>,
    journal: Option<Mutex<Journal>>,
    /// How many entries of the log are on disk. Who holds it writes for all who wait for it.
    synced: tokio::sync::Mutex<u64>,
    broken: Notify,
    real: Clock,
    name: String,
    events_queue: Option<String>,
    /// Something may be due earlier than the pump thought.
    changed: Notify,
    /// Something may be visible in a queue.
    bell: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Region {
    pub(crate) fn open(options: &Options) -> Result<Self, StartError> {
        let real = Clock::system();
        let seed = options.settings.seed;
        let mut faults = Faults::none(seed);
        options.faults.iter().cloned().for_each(|rule| faults.add(rule));
        let mut region = Self {
            world: Mutex::new(World::new(options.settings.clone(), options.epoch_ms)),
            time: Mutex::new(Time { base_ms: options.epoch_ms, since: Instant::now(), speed: options.speed }),
            queues: Mutex::new(Queues::new(seed)),
            rules: Mutex::default(),
            faults: Mutex::new(faults),
            calls: Mutex::default(),
            rng: Mutex::new(fastrand::Rng::with_seed(seed ^ 0x5eed)),
            journal: None,
            synced: tokio::sync::Mutex::default(),
            broken: Notify::new(),
            real,
            name: options.settings.region.clone(),
            events_queue: options.events_queue.clone(),
            changed: Notify::new(),
            bell: Notify::new(),
        };
        if let Some(directory) = &options.state {
            let unusable = |why: String| StartError::State { directory: directory.clone(), why };
            let (journal, found) = Journal::open::<Kept>(directory, &options.settings)
                .map_err(|error| unusable(error.to_string()))?;
            if let Some(Found { mut at_ms, state, entries }) = found {
                *lock(&region.world) = state.world;
                *lock(&region.queues) = state.queues;
                *lock(&region.rules) = state.rules;
                for entry in entries {
                    at_ms = at_ms.max(entry.at_ms);
                    region.replay(entry);
                }
                *lock(&region.time) = Time { base_ms: at_ms, since: Instant::now(), speed: options.speed };
            }
            // Ids that were given out before are not given out again.
            *lock(&region.rng) = fastrand::Rng::with_seed(seed ^ 0x5eed ^ (journal.sequence() << 16));
            region.journal = Some(Mutex::new(journal));
            region.compact().map_err(|error| unusable(error.to_string()))?;
        }
        if let Some(trouble) = options.queue_trouble {
            region.trouble_queues(trouble);
        }
        if let Some(trouble) = options.event_trouble {
            region.trouble_events(trouble);
        }
        for name in options.queues.iter().chain(&options.events_queue) {
            let made = region.make_queue(name);
            made.map_err(|refusal| StartError::Queue { name: name.clone(), why: refusal.message })?;
        }
        Ok(region)
    }

    /// Makes a queue and its dead-letter queue, unless there is one of this name.
    fn make_queue(&self, name: &str) -> Result<(), Refusal> {
        if lock(&self.queues).queue(name).is_ok() {
            return Ok(());
        }
        let stem = name.strip_suffix(".fifo");
        let dead = stem.map_or_else(|| format!("{name}-dead"), |stem| format!("{stem}-dead.fifo"));
        let policy = json!({ "deadLetterTargetArn": self.queue_arn(&dead), "maxReceiveCount": RECEIVES_MAX });
        for (name, policy) in [(dead.as_str(), None), (name, Some(policy.to_string()))] {
            let mut attributes = BTreeMap::new();
            attributes.extend(stem.map(|_| ("FifoQueue".to_owned(), "true".to_owned())));
            attributes.extend(policy.map(|policy| ("RedrivePolicy".to_owned(), policy)));
            let body = json!({ "QueueName": name, "Attributes": attributes });
            self.change_queues("CreateQueue", &body, |queues, now_ms| {
                queues.create(name, &attributes, BTreeMap::new(), now_ms)
            })?;
        }
        Ok(())
    }

    fn replay(&self, entry: Entry) {
        match entry.operation {
            Operation::Tick => lock(&self.world).advance(entry.at_ms),
            Operation::Told { id } => lock(&self.world).event_was_told(&id),
            Operation::Ec2 { action, form } => {
                if let Ok(params) = Params::parse(form.as_bytes()) {
                    // A refusal then is the same refusal now.
                    _ = ec2::call(&mut lock(&self.world), entry.at_ms, &action, &params);
                }
            }
            Operation::Control { deed, request } => {
                _ = control::act(&mut lock(&self.world), entry.at_ms, &deed, &request);
            }
            Operation::Elb { action, form } => {
                if let Ok(params) = Params::parse(form.as_bytes()) {
                    _ = elb::call(&mut lock(&self.world), entry.at_ms, &action, &params);
                }
            }
            Operation::QueueTrouble(trouble) => lock(&self.queues).trouble = trouble,
            Operation::EventTrouble(trouble) => lock(&self.rules).trouble = trouble,
            Operation::Ssm { action, request } => {
                _ = ssm::call(&mut lock(&self.world), entry.at_ms, &action, &request);
            }
            Operation::Sqs { action, request } => {
                _ = super::sqs::answer(self, &action, &request, "replay", entry.real_ms);
            }
            Operation::Events { action, request } => {
                _ = super::events::administer(&mut lock(&self.rules), &action, &request, &self.name);
            }
        }
    }

    /// Before an effect, so that what is answered is never lost.
    fn log(&self, at_ms: u64, operation: Operation) {
        self.append(Entry { at_ms, real_ms: self.real_ms(), operation });
    }

    fn append(&self, entry: Entry) {
        if let Some(journal) = &self.journal {
            lock(journal).append(&entry);
        }
    }

    /// Puts everything into a new snapshot and begins a new log. Nothing else happens meanwhile.
    fn compact(&self) -> Result<(), std::io::Error> {
        let Some(journal) = &self.journal else { return Ok(()) };
        // In the order in which all who hold several of these take them.
        let world = lock(&self.world);
        let rules = lock(&self.rules);
        let queues = lock(&self.queues);
        let at_ms = self.now_ms().max(world.now_ms());
        lock(journal).compact(
            &world.settings,
            at_ms,
            &State { world: &world, queues: &queues, rules: &rules },
        )
    }

    /// Waits until everything that was done is on disk. One write takes all calls along that wait for it.
    pub(crate) async fn settled(&self) -> Result<(), Broken> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let wanted = lock(journal).sequence();
        let mut synced = self.synced.lock().await;
        if *synced < wanted {
            let (file, sequence) = lock(journal).to_sync();
            let done = tokio::task::spawn_blocking(move || file.sync_data()).await;
            match done {
                Ok(Ok(())) => *synced = sequence,
                Ok(Err(error)) => lock(journal).fail(format!("the log cannot be synced: {error}")),
                Err(error) => lock(journal).fail(error.to_string()),
            }
            let large = lock(journal).is_large();
            if large && let Err(error) = self.compact() {
                lock(journal).fail(format!("the snapshot cannot be written: {error}"));
            }
        }
        if lock(journal).broken().is_some() {
            self.broken.notify_one();
            return Err(Broken);
        }
        Ok(())
    }

    /// Waits until this region must not go on, and says why. Never ends without a state.
    pub(crate) async fn breaks(&self) -> String {
        loop {
            let broken = self.journal.as_ref().and_then(|journal| lock(journal).broken().map(str::to_owned));
            if let Some(why) = broken {
                return why;
            }
            self.broken.notified().await;
        }
    }

    pub(crate) fn logs(&self) -> bool {
        self.journal.is_some()
    }

    /// The region's time.
    pub(crate) fn now_ms(&self) -> u64 {
        lock(&self.time).now_ms()
    }

    pub(crate) fn speed(&self) -> f64 {
        lock(&self.time).speed
    }

    /// Moves the clock ahead, and sets its speed.
    pub(crate) fn move_clock(&self, ahead_ms: u64, speed: Option<f64>) {
        {
            let mut time = lock(&self.time);
            let speed = speed.unwrap_or(time.speed);
            time.rebase(ahead_ms, speed);
        }
        self.look(|world, now_ms| self.log(now_ms.max(world.now_ms()), Operation::Tick));
    }

    /// The machine's time.
    pub(crate) fn real_ms(&self) -> u64 {
        self.real.now_ms()
    }

    /// Looks at the world as it is now.
    pub(crate) fn look<T>(&self, f: impl FnOnce(&mut World, u64) -> T) -> T {
        let mut world = lock(&self.world);
        let now_ms = self.now_ms().max(world.now_ms());
        self.catch_up(&mut world, now_ms);
        let result = f(&mut world, now_ms);
        drop(world);
        self.changed.notify_one();
        result
    }

    /// What time brought is logged before anybody can see it.
    fn catch_up(&self, world: &mut World, now_ms: u64) {
        if world.next_due_ms().is_some_and(|due| due <= now_ms) {
            self.log(now_ms, Operation::Tick);
        }
        world.advance(now_ms);
    }

    /// Does something to the world, and logs it first unless it only looks.
    fn act<T>(
        &self,
        operation: impl FnOnce(&World) -> Option<Operation>,
        f: impl FnOnce(&mut World, u64) -> T,
    ) -> T {
        let mut world = lock(&self.world);
        let now_ms = self.now_ms().max(world.now_ms());
        self.catch_up(&mut world, now_ms);
        if self.logs()
            && let Some(operation) = operation(&world)
        {
            self.log(now_ms, operation);
        }
        let answer = f(&mut world, now_ms);
        drop(world);
        self.changed.notify_one();
        answer
    }

    /// An EC2 call.
    pub(crate) fn ec2(&self, action: &str, form: &[u8], params: &Params) -> Result<Element, ApiError> {
        let dry = params.root().is_set("DryRun")?;
        let operation = |world: &World| {
            // A dry call changes nothing but what is left of the quota of requests.
            let spends = world.settings.quotas == Quotas::Published;
            let changes = !ec2::is_look(action) && (!dry || spends);
            let form = || String::from_utf8_lossy(form).into_owned();
            changes.then(|| Operation::Ec2 { action: action.to_owned(), form: form() })
        };
        self.act(operation, |world, now_ms| ec2::call(world, now_ms, action, params))
    }

    /// A call of Elastic Load Balancing.
    pub(crate) fn elb(&self, action: &str, form: &[u8], params: &Params) -> Result<Element, ApiError> {
        let operation = |_: &World| {
            let form = || String::from_utf8_lossy(form).into_owned();
            (!ec2::is_look(action)).then(|| Operation::Elb { action: action.to_owned(), form: form() })
        };
        self.act(operation, |world, now_ms| elb::call(world, now_ms, action, params))
    }

    /// A call of Systems Manager.
    pub(crate) fn ssm(&self, action: &str, request: &Json) -> Result<Json, ApiError> {
        let operation = |_: &World| {
            let changes = !ec2::is_look(action);
            changes.then(|| Operation::Ssm { action: action.to_owned(), request: request.clone() })
        };
        self.act(operation, |world, now_ms| ssm::call(world, now_ms, action, request))
    }

    /// Something that the control surface does to the world.
    pub(crate) fn control(&self, deed: &str, request: &Json) -> Result<Json, ApiError> {
        let operation =
            |_: &World| Some(Operation::Control { deed: deed.to_owned(), request: request.clone() });
        self.act(operation, |world, now_ms| control::act(world, now_ms, deed, request))
    }

    pub(crate) fn queues(&self) -> MutexGuard<'_, Queues> {
        lock(&self.queues)
    }

    /// Changes the queues; the request is logged first, under the same lock.
    pub(crate) fn change_queues<T>(
        &self,
        action: &str,
        request: &Json,
        f: impl FnOnce(&mut Queues, u64) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut queues = self.queues();
        let real_ms = self.real_ms();
        if self.logs() {
            let operation = Operation::Sqs { action: action.to_owned(), request: request.clone() };
            self.append(Entry { at_ms: self.now_ms(), real_ms, operation });
        }
        let result = f(&mut queues, real_ms);
        drop(queues);
        self.bell.notify_waiters();
        result
    }

    /// A receive that gave something: it hid messages and counted. Under the lock of the queues.
    pub(crate) fn log_receive(&self, name: &str, most: usize, visibility_s: Option<u64>, real_ms: u64) {
        if self.logs() {
            let request =
                json!({ "QueueUrl": name, "MaxNumberOfMessages": most, "VisibilityTimeout": visibility_s });
            let operation = Operation::Sqs { action: "ReceiveMessage".to_owned(), request };
            self.append(Entry { at_ms: self.now_ms(), real_ms, operation });
        }
    }

    pub(crate) fn queue_bell(&self) -> &Notify {
        &self.bell
    }

    pub(crate) fn queue_arn(&self, name: &str) -> String {
        format!("arn:aws:sqs:{}:{ACCOUNT}:{name}", self.name)
    }

    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.rules)
    }

    /// An administrative call of EventBridge.
    pub(crate) fn events(&self, action: &str, request: &Json) -> Result<Json, Refusal> {
        let mut rules = self.rules();
        self.log(self.now_ms(), Operation::Events { action: action.to_owned(), request: request.clone() });
        super::events::administer(&mut rules, action, request, &self.name)
    }

    /// What queues do to messages from now on.
    pub(crate) fn trouble_queues(&self, trouble: Trouble) {
        let mut queues = self.queues();
        self.log(self.now_ms(), Operation::QueueTrouble(trouble));
        queues.trouble = trouble;
    }

    /// What happens to events from now on.
    pub(crate) fn trouble_events(&self, trouble: EventTrouble) {
        let mut rules = self.rules();
        self.log(self.now_ms(), Operation::EventTrouble(trouble));
        rules.trouble = trouble;
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub(crate) fn strike(&self, action: &str, is_look: bool) -> Option<Fault> {
        self.faults().strike_named(action, is_look)
    }

    /// How long a call takes on its way, in the machine's time.
    pub(crate) fn latency(&self, action: &str, is_look: bool) -> Duration {
        let speed = self.speed();
        let span = {
            let world = lock(&self.world);
            let latencies = &world.settings.latencies;
            match action {
                "RunInstances" => latencies.launch,
                _ if is_look => latencies.look,
                _ => latencies.act,
            }
        };
        let ms = span.draw(&mut lock(&self.rng));
        if speed > 0.0 { Duration::from_millis(ms).div_f64(speed) } else { Duration::ZERO }
    }

    pub(crate) fn fresh_id(&self) -> String {
        uuid(&mut lock(&self.rng))
    }

    pub(crate) fn record(&self, record: CallRecord) {
        tracing::debug!(action = record.action, status = record.status, code = record.code, ignored = ?record.ignored, "call");
        let mut calls = lock(&self.calls);
        if calls.len() == CALLS_MAX {
            calls.pop_front();
        }
        calls.push_back(record);
    }

    pub(crate) fn calls(&self) -> Vec<CallRecord> {
        lock(&self.calls).iter().cloned().collect()
    }

    pub(crate) fn region_name(&self) -> &str {
        &self.name
    }

    /// Lets time work on the region and tells its events. Never ends.
    pub(crate) async fn run(&self) {
        let mut logged = Instant::now();
        loop {
            if self.logs() && self.speed() > 0.0 && logged.elapsed() >= UNLOGGED_MAX {
                logged = Instant::now();
                self.look(|_, now_ms| self.log(now_ms, Operation::Tick));
                _ = self.settled().await;
            }
            let (event, due_ms, now_ms) = {
                let mut world = lock(&self.world);
                let now_ms = self.now_ms().max(world.now_ms());
                self.catch_up(&mut world, now_ms);
                (world.next_event().cloned(), world.next_due_ms(), now_ms)
            };
            if let Some(event) = event {
                self.tell(&event);
                // After the delivery: what a crash hits between the two is delivered again, as EventBridge may.
                let id = event["id"].as_str().unwrap_or_default().to_owned();
                let mut world = lock(&self.world);
                world.event_was_told(&id);
                self.log(now_ms, Operation::Told { id });
                continue;
            }
            let speed = self.speed();
            let longest = if self.logs() { UNLOGGED_MAX } else { NAP_MAX };
            let nap = match due_ms {
                Some(due_ms) if speed > 0.0 => {
                    Duration::from_millis(due_ms.saturating_sub(now_ms) + 1).div_f64(speed).min(longest)
                }
                _ => longest,
            };
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Delivers an event to the targets of every rule that matches it, and to the queue of all events.
    pub(crate) fn tell(&self, event: &Json) {
        let mut targets = self.rules().targets_of(event);
        if let (Some(name), Some("aws.ec2")) = (&self.events_queue, event["source"].as_str()) {
            targets.push(super::events::Delivery {
                queue: name.clone(),
                body: event.to_string(),
                group: None,
            });
        }
        let trouble = self.rules().trouble;
        let late = |_: &_| trouble.deliveries(&mut lock(&self.rng));
        let deliveries = targets.iter().map(late).collect::<Vec<_>>();
        let each = targets.into_iter().zip(deliveries);
        for (target, late_s) in
            each.flat_map(|(target, all)| all.into_iter().map(move |s| (target.clone(), s)))
        {
            let fifo = target.group.as_ref().map(|_| self.fresh_id());
            let message = Outgoing {
                body: target.body.clone(),
                group: target.group.clone(),
                deduplication: fifo.clone(),
                delay_s: Some(late_s).filter(|late_s| *late_s > 0 && fifo.is_none()),
                ..Outgoing::default()
            };
            let mut request = json!({ "QueueUrl": target.queue, "MessageBody": target.body });
            if late_s > 0 && fifo.is_none() {
                request["DelaySeconds"] = json!(late_s);
            }
            if let (Some(group), Some(fifo)) = (&target.group, &fifo) {
                request["MessageGroupId"] = json!(group);
                request["MessageDeduplicationId"] = json!(fifo);
            }
            let sent = self.change_queues("SendMessage", &request, |queues, now_ms| {
                queues.send(&target.queue, message, now_ms)
            });
            if let Err(refusal) = sent {
                tracing::warn!(queue = target.queue, code = refusal.code, "an event could not be delivered");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::wire_settings;

    const RUN: &[u8] =
        b"Action=RunInstances&ImageId=ami-00000000000000000&InstanceType=m6i.large&MinCount=1&MaxCount=1";

    struct Directory(std::path::PathBuf);

    impl Drop for Directory {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn directory(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("perennial-region-{name}-{}", std::process::id()));
        _ = std::fs::remove_dir_all(&path);
        Directory(path)
    }

    fn open(directory: &Directory) -> Region {
        let state = Some(directory.0.clone());
        Region::open(&Options { speed: 0.0, state, ..Options::new(wire_settings(7), 1_000_000) }).unwrap()
    }

    #[tokio::test]
    async fn an_event_that_was_not_delivered_when_the_process_died_is_delivered_afterwards_and_only_once() {
        let directory = directory("events");
        let region = open(&directory);
        let params = Params::parse(RUN).unwrap();
        region.ec2("RunInstances", RUN, &params).unwrap();
        let untold = |region: &Region| region.look(|world, _| world.next_event().cloned());
        let event = untold(&region).expect("it is pending");
        drop(region);
        let region = open(&directory);
        assert_eq!(untold(&region).as_ref(), Some(&event));
        _ = tokio::time::timeout(Duration::from_millis(50), region.run()).await;
        assert_eq!(untold(&region), None);
        drop(region);
        assert_eq!(untold(&open(&directory)), None, "it was told");
    }

    #[tokio::test]
    async fn ids_of_answers_are_not_given_out_again_after_a_restart() {
        let directory = directory("ids");
        let region = open(&directory);
        let before: Vec<_> = (0..100).map(|_| region.fresh_id()).collect();
        region.move_clock(1_000, None);
        drop(region);
        let region = open(&directory);
        assert!((0..100).all(|_| !before.contains(&region.fresh_id())));
        assert_eq!(region.now_ms(), 1_001_000, "an advance is kept");
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_not_answered_and_ends_the_region() {
        let directory = directory("broken");
        let region = open(&directory);
        assert!(region.settled().await.is_ok());
        lock(region.journal.as_ref().unwrap()).fail("no space is left".to_owned());
        assert!(region.settled().await.is_err());
        assert_eq!(region.breaks().await, "no space is left");
    }
}
