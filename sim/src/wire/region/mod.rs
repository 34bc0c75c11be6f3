//! The state that all connections share: the world and its time, queues, rules, faults, and the log of
//! operations.
//!
//! | module | contents |
//! | --- | --- |
//! | `state` | everything that survives a restart, and the replay of the log |
//! | `time` | the region's clock and the machine's |
//! | `log` | entries before effects, on disk before answers |
//! | `journal` | the state directory: snapshot and log files |
//! | `pump` | the loop that lets time pass and delivers events |

mod journal;
mod lock;
mod log;
mod pump;
mod state;
mod time;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::Notify;

use super::options::{Options, RECEIVES_MAX, StartError};
use super::params::Params;
use super::rules::{EventTrouble, Rules};
use super::sqs::model::{Queues, Refusal, Trouble, uuid};
use super::xml::Element;
use super::{deeds, ec2, elb, rules, sqs, ssm};
use crate::faults::{Fault, Faults};
use crate::policy::{Context, Policy, Question, Verdict};
use crate::world::settings::Quotas;
use crate::world::{ACCOUNT, ApiError, World};
use journal::{Entry, Found, Journal, Operation};
use lock::lock;
pub(crate) use log::Broken;
use log::Log;
use state::{Kept, State};
use time::Time;

/// How many calls the list of calls keeps.
const CALLS_MAX: usize = 10_000;

/// One finished call.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct CallRecord {
    pub(crate) at_ms: u64,
    pub(crate) action: String,
    pub(crate) status: u16,
    /// Empty when all went well.
    pub(crate) code: String,
    /// Parameters that this region ignores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignored: Vec<String>,
}

pub(crate) struct Region {
    state: State,
    time: Time,
    log: Log,
    faults: Mutex<Faults>,
    calls: Mutex<VecDeque<CallRecord>>,
    rng: Mutex<fastrand::Rng>,
    name: String,
    events_queue: Option<String>,
    /// What every caller of EC2 and SQS may do.
    policy: Option<Policy>,
    /// Something may be due earlier than the pump thought.
    changed: Notify,
    /// Something may be visible in a queue.
    bell: Notify,
}

impl Region {
    pub(crate) fn open(options: &Options) -> Result<Self, StartError> {
        let seed = options.settings.seed;
        let mut faults = Faults::none(seed);
        options.faults.iter().cloned().for_each(|rule| faults.add(rule));
        let mut region = Self {
            state: State::new(options.settings.clone(), options.epoch_ms),
            time: Time::new(options.epoch_ms, options.speed),
            log: Log::default(),
            faults: Mutex::new(faults),
            calls: Mutex::default(),
            rng: Mutex::new(fastrand::Rng::with_seed(seed ^ 0x5eed)),
            name: options.settings.region.clone(),
            events_queue: options.events_queue.clone(),
            policy: options.policy.clone(),
            changed: Notify::new(),
            bell: Notify::new(),
        };
        if let Some(directory) = &options.state {
            let unusable = |why: String| StartError::State { directory: directory.clone(), why };
            let (journal, found) = Journal::open::<Kept>(directory, &options.settings)
                .map_err(|error| unusable(error.to_string()))?;
            if let Some(found) = found {
                region.resume(found, options.speed);
            }
            // Ids that were given out before are not given out again.
            *lock(&region.rng) = fastrand::Rng::with_seed(seed ^ 0x5eed ^ (journal.sequence() << 16));
            region.log = Log::new(journal);
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

    /// Goes on from a snapshot and the log since.
    fn resume(&self, found: Found<Kept>, speed: f64) {
        let Found { mut at_ms, state, entries } = found;
        self.state.restore(state);
        for entry in entries {
            at_ms = at_ms.max(entry.at_ms);
            self.state.replay(entry, &self.name);
        }
        self.time.set(at_ms, speed);
    }

    /// Makes a queue and its dead-letter queue, unless there is one of this name.
    fn make_queue(&self, name: &str) -> Result<(), Refusal> {
        if lock(&self.state.queues).queue(name).is_ok() {
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

    /// Logs an operation before its effect, so that an answer is never lost.
    fn log(&self, at_ms: u64, operation: Operation) {
        self.log.append(&Entry { at_ms, real_ms: self.real_ms(), operation });
    }

    /// Puts everything into a new snapshot and begins a new log.
    fn compact(&self) -> Result<(), std::io::Error> {
        if !self.log.is_kept() {
            return Ok(());
        }
        self.state.at_once(|state| {
            let at_ms = self.now_ms().max(state.world.now_ms());
            self.log.compact(&state.world.settings, at_ms, state)
        })
    }

    /// Waits until everything that was done is on disk.
    pub(crate) async fn settled(&self) -> Result<(), Broken> {
        self.log.settled(|| self.compact()).await
    }

    /// Waits until this region must not go on, and says why. Never ends without a state directory.
    pub(crate) async fn breaks(&self) -> String {
        self.log.breaks().await
    }

    /// The region's time.
    pub(crate) fn now_ms(&self) -> u64 {
        self.time.now_ms()
    }

    pub(crate) fn speed(&self) -> f64 {
        self.time.speed()
    }

    /// Moves the clock ahead, and sets its speed.
    pub(crate) fn move_clock(&self, ahead_ms: u64, speed: Option<f64>) {
        self.time.move_ahead(ahead_ms, speed);
        self.look(|world, now_ms| self.log(now_ms.max(world.now_ms()), Operation::Tick));
    }

    /// The machine's time.
    pub(crate) fn real_ms(&self) -> u64 {
        self.time.real_ms()
    }

    /// Reads the world as it is now.
    pub(crate) fn look<T>(&self, f: impl FnOnce(&mut World, u64) -> T) -> T {
        let mut world = lock(&self.state.world);
        let now_ms = self.now_ms().max(world.now_ms());
        self.catch_up(&mut world, now_ms);
        let result = f(&mut world, now_ms);
        drop(world);
        self.changed.notify_one();
        result
    }

    /// Advances the world; transitions are logged before any caller can see them.
    fn catch_up(&self, world: &mut World, now_ms: u64) {
        if world.next_due_ms().is_some_and(|due| due <= now_ms) {
            self.log(now_ms, Operation::Tick);
        }
        world.advance(now_ms);
    }

    /// Does something to the world, and logs it first unless it only reads.
    fn act<T>(
        &self,
        operation: impl FnOnce(&World) -> Option<Operation>,
        f: impl FnOnce(&mut World, u64) -> T,
    ) -> T {
        let mut world = lock(&self.state.world);
        let now_ms = self.now_ms().max(world.now_ms());
        self.catch_up(&mut world, now_ms);
        if self.log.is_kept()
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
        if let Some(policy) = &self.policy {
            // Before it is logged: what is refused is not done again by a replay.
            self.look(|world, _| policy.check(world, &ec2::asked(world, action, params)?).map(drop))?;
        }
        let operation = |world: &World| {
            // A dry call changes only the remaining quota of requests.
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

    /// Whether the policy, if there is one, lets a caller of SQS do this with a queue.
    pub(crate) fn authorize_queue(&self, action: &str, queue: &str) -> Result<(), Refusal> {
        let Some(policy) = &self.policy else { return Ok(()) };
        // A batch needs the permission of the single call (Service Authorization Reference).
        let action = format!("sqs:{}", action.strip_suffix("Batch").unwrap_or(action));
        let resource = if action == "sqs:ListQueues" { "*".to_owned() } else { self.queue_arn(queue) };
        let region = ("aws:RequestedRegion".to_owned(), vec![self.name.clone()]);
        let question = Question { action: &action, resource: &resource, context: &Context::from([region]) };
        let verdict = policy.judge(&question);
        if matches!(verdict, Verdict::Allowed(_)) {
            return Ok(());
        }
        let user = format!("arn:aws:iam::{ACCOUNT}:user/rehearsal");
        let why = verdict.why(&action);
        let message =
            format!("User: {user} is not authorized to perform: {action} on resource: {resource} {why}");
        Err(Refusal { status: 403, ..Refusal::new("AccessDenied", message) })
    }

    /// A deed of the control surface.
    pub(crate) fn control(&self, deed: &str, request: &Json) -> Result<Json, ApiError> {
        let operation =
            |_: &World| Some(Operation::Control { deed: deed.to_owned(), request: request.clone() });
        self.act(operation, |world, now_ms| deeds::act(world, now_ms, deed, request))
    }

    pub(crate) fn queues(&self) -> MutexGuard<'_, Queues> {
        lock(&self.state.queues)
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
        if self.log.is_kept() {
            let operation = Operation::Sqs { action: action.to_owned(), request: request.clone() };
            self.log.append(&Entry { at_ms: self.now_ms(), real_ms, operation });
        }
        let result = f(&mut queues, real_ms);
        drop(queues);
        self.bell.notify_waiters();
        result
    }

    /// A receive that gave something: it hid messages and counted. Under the lock of the queues.
    pub(crate) fn log_receive(&self, name: &str, most: usize, visibility_s: Option<u64>, real_ms: u64) {
        if self.log.is_kept() {
            let request =
                json!({ "QueueUrl": name, "MaxNumberOfMessages": most, "VisibilityTimeout": visibility_s });
            let operation = Operation::Sqs { action: "ReceiveMessage".to_owned(), request };
            self.log.append(&Entry { at_ms: self.now_ms(), real_ms, operation });
        }
    }

    pub(crate) fn queue_bell(&self) -> &Notify {
        &self.bell
    }

    pub(crate) fn queue_arn(&self, name: &str) -> String {
        sqs::queue_arn(&self.name, name)
    }

    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.state.rules)
    }

    /// An administrative call of EventBridge.
    pub(crate) fn events(&self, action: &str, request: &Json) -> Result<Json, Refusal> {
        let mut rules = self.rules();
        self.log(self.now_ms(), Operation::Events { action: action.to_owned(), request: request.clone() });
        rules::administer(&mut rules, action, request, &self.name)
    }

    /// Sets the duplicates and disorder of queues from now on.
    pub(crate) fn trouble_queues(&self, trouble: Trouble) {
        let mut queues = self.queues();
        self.log(self.now_ms(), Operation::QueueTrouble(trouble));
        queues.trouble = trouble;
    }

    /// Sets the loss, duplicates and delay of events from now on.
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
            let world = lock(&self.state.world);
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
        region.log.fail("no space is left".to_owned());
        assert!(region.settled().await.is_err());
        assert_eq!(region.breaks().await, "no space is left");
    }
}
