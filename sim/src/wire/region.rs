//! What all connections share: the world and its time, queues, rules, trouble, and the log of what was done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_engine::clock::Clock;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::events::Rules;
use super::journal::{Entry, Journal, Operation};
use super::params::Params;
use super::sqs::model::{Outgoing, Queues, Refusal, uuid};
use super::xml::Element;
use super::{Options, RECEIVES_MAX, StartError, control, ec2};
use crate::faults::{Fault, Faults};
use crate::world::{ACCOUNT, ApiError, World};

/// How many calls the log that is shown keeps.
const CALLS_MAX: usize = 10_000;
/// The longest sleep of the pump: a machine that was suspended is noticed after it.
const NAP_MAX: Duration = Duration::from_secs(3600);

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

pub(crate) struct Region {
    world: Mutex<World>,
    time: Mutex<Time>,
    queues: Mutex<Queues>,
    rules: Mutex<Rules>,
    faults: Mutex<Faults>,
    calls: Mutex<VecDeque<CallRecord>>,
    rng: Mutex<fastrand::Rng>,
    journal: Option<Mutex<Journal>>,
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
            real,
            name: options.settings.region.clone(),
            events_queue: options.events_queue.clone(),
            changed: Notify::new(),
            bell: Notify::new(),
        };
        if let Some(directory) = &options.state {
            let unusable = |why: String| StartError::State { directory: directory.clone(), why };
            let (journal, beginning, entries) =
                Journal::open(directory, &format!("{:?}", options.settings), options.epoch_ms)
                    .map_err(|error| unusable(error.to_string()))?;
            *lock(&region.world) = World::new(options.settings.clone(), beginning);
            let mut at_ms = beginning;
            for entry in entries {
                at_ms = at_ms.max(entry.at_ms);
                region.replay(entry);
            }
            // What was told before was delivered before.
            lock(&region.world).take_events();
            *lock(&region.time) = Time { base_ms: at_ms, since: Instant::now(), speed: options.speed };
            region.journal = Some(Mutex::new(journal));
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
            Operation::Ec2 { action, form } => {
                if let Ok(params) = Params::parse(form.as_bytes()) {
                    // A refusal then is the same refusal now.
                    _ = ec2::call(&mut lock(&self.world), entry.at_ms, &action, &params);
                }
            }
            Operation::Control { deed, request } => {
                _ = control::act(&mut lock(&self.world), entry.at_ms, &deed, &request);
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
        if let Some(journal) = &self.journal {
            lock(journal).append(&Entry { at_ms, real_ms: self.real_ms(), operation });
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
        self.look(|_, _| ());
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

    /// An EC2 call.
    pub(crate) fn ec2(&self, action: &str, form: &[u8], params: &Params) -> Result<Element, ApiError> {
        let dry = params.root().is_set("DryRun")?;
        let mut world = lock(&self.world);
        let now_ms = self.now_ms().max(world.now_ms());
        self.catch_up(&mut world, now_ms);
        if !dry && !ec2::is_look(action) && self.logs() {
            let form = String::from_utf8_lossy(form).into_owned();
            self.log(now_ms, Operation::Ec2 { action: action.to_owned(), form });
        }
        let answer = ec2::call(&mut world, now_ms, action, params);
        drop(world);
        self.changed.notify_one();
        answer
    }

    /// Something that the control surface does to the world.
    pub(crate) fn control(&self, deed: &str, request: &Json) -> Result<Json, ApiError> {
        let mut world = lock(&self.world);
        let now_ms = self.now_ms().max(world.now_ms());
        self.catch_up(&mut world, now_ms);
        if self.logs() {
            self.log(now_ms, Operation::Control { deed: deed.to_owned(), request: request.clone() });
        }
        let answer = control::act(&mut world, now_ms, deed, request);
        drop(world);
        self.changed.notify_one();
        answer
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
            if let Some(journal) = &self.journal {
                lock(journal).append(&Entry { at_ms: self.now_ms(), real_ms, operation });
            }
        }
        let result = f(&mut queues, real_ms);
        drop(queues);
        self.bell.notify_waiters();
        result
    }

    /// A receive that gave something: it hid messages and counted. Under the lock of the queues.
    pub(crate) fn log_receive(&self, name: &str, most: usize, visibility_s: Option<u64>, real_ms: u64) {
        if let Some(journal) = &self.journal {
            let request =
                json!({ "QueueUrl": name, "MaxNumberOfMessages": most, "VisibilityTimeout": visibility_s });
            let operation = Operation::Sqs { action: "ReceiveMessage".to_owned(), request };
            lock(journal).append(&Entry { at_ms: self.now_ms(), real_ms, operation });
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
        loop {
            let (told, due_ms, now_ms) = {
                let mut world = lock(&self.world);
                let now_ms = self.now_ms().max(world.now_ms());
                self.catch_up(&mut world, now_ms);
                (world.take_events(), world.next_due_ms(), now_ms)
            };
            for event in told {
                self.tell(&event);
            }
            let speed = self.speed();
            let nap = match due_ms {
                Some(due_ms) if speed > 0.0 => {
                    Duration::from_millis(due_ms.saturating_sub(now_ms) + 1).div_f64(speed).min(NAP_MAX)
                }
                _ => NAP_MAX,
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
        for target in targets {
            let fifo = target.group.as_ref().map(|_| self.fresh_id());
            let message = Outgoing {
                body: target.body.clone(),
                group: target.group.clone(),
                deduplication: fifo.clone(),
                ..Outgoing::default()
            };
            let mut request = json!({ "QueueUrl": target.queue, "MessageBody": target.body });
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
