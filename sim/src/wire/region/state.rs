//! Everything that survives a restart: the world, the queues and the rules; and how the log makes them again.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::super::params::Params;
use super::super::rules::{self, Rules};
use super::super::sqs::{self, Endpoint, model::Queues};
use super::super::{deeds, ec2, elb, ssm};
use super::journal::{Entry, Operation};
use super::lock::lock;
use crate::world::World;
use crate::world::settings::Settings;

/// The parts of the state, each under its own lock. A call that needs several takes them in the order of the
/// fields.
pub(super) struct State {
    pub(super) world: Mutex<World>,
    pub(super) rules: Mutex<Rules>,
    pub(super) queues: Mutex<Queues>,
}

/// The state as it is written.
#[derive(Serialize)]
pub(super) struct Written<'a> {
    pub(super) world: &'a World,
    queues: &'a Queues,
    rules: &'a Rules,
}

/// The state as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    world: World,
    queues: Queues,
    rules: Rules,
}

impl State {
    pub(super) fn new(settings: Settings, now_ms: u64) -> Self {
        let queues = Queues::new(settings.seed);
        Self {
            world: Mutex::new(World::new(settings, now_ms)),
            rules: Mutex::default(),
            queues: Mutex::new(queues),
        }
    }

    /// Replaces everything by the state that was read.
    pub(super) fn restore(&self, kept: Kept) {
        *lock(&self.world) = kept.world;
        *lock(&self.queues) = kept.queues;
        *lock(&self.rules) = kept.rules;
    }

    /// Gives the whole state at one moment; nothing changes meanwhile.
    pub(super) fn at_once<T>(&self, f: impl FnOnce(&Written<'_>) -> T) -> T {
        let world = lock(&self.world);
        let rules = lock(&self.rules);
        let queues = lock(&self.queues);
        f(&Written { world: &world, queues: &queues, rules: &rules })
    }

    /// Repeats an operation of the log, at its time. A call that was refused then is refused now in the same
    /// way, so answers are of no interest.
    pub(super) fn replay(&self, entry: Entry, region: &str) {
        match entry.operation {
            Operation::Tick => lock(&self.world).advance(entry.at_ms),
            Operation::Told { id } => lock(&self.world).event_was_told(&id),
            Operation::Ec2 { action, form } => {
                if let Ok(params) = Params::parse(form.as_bytes()) {
                    _ = ec2::call(&mut lock(&self.world), entry.at_ms, &action, &params);
                }
            }
            Operation::Control { deed, request } => {
                _ = deeds::act(&mut lock(&self.world), entry.at_ms, &deed, &request);
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
                let endpoint = Endpoint { region, host: "replay" };
                _ = sqs::answer(&mut lock(&self.queues), endpoint, &action, &request, entry.real_ms);
            }
            Operation::Events { action, request } => {
                _ = rules::administer(&mut lock(&self.rules), &action, &request, region);
            }
        }
    }
}
