//! Many nodes that are lost at once, under the account's request quotas: what recovering them takes and costs.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_sim::world::Notice;
use perennial_sim::world::settings::{Latencies, Quotas, RequestQuotas, Settings, Span};
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::node::{NetworkMode, RootMode};
use perennial_workflows::step::intent::Intent;
use serde_json::json;

use crate::lab::Lab;

/// A region whose quotas are set when the nodes are provisioned.
pub fn settings(seed: u64, latencies: Latencies) -> Settings {
    Settings { latencies, ..Settings::calm(seed) }
}

/// Every latency as long as it is in the middle, so that runs can be compared with each other.
pub fn steady() -> Latencies {
    let Latencies { look, act, launch, start, shutdown, release, attach, detach, move_address, .. } =
        Latencies::default();
    let middle = |span: Span| {
        let ms = span.min_ms.midpoint(span.max_ms);
        Span::ms(ms, ms)
    };
    Latencies {
        look: middle(look),
        act: middle(act),
        launch: middle(launch),
        start: middle(start),
        shutdown: middle(shutdown),
        release: middle(release),
        attach: middle(attach),
        detach: middle(detach),
        move_address: middle(move_address),
        ..Latencies::default()
    }
}

/// Nodes in a region.
pub struct Mass {
    pub lab: Lab,
    pub names: Vec<String>,
    /// When what befell them befell them, in milliseconds since the Unix epoch.
    lost_ms: u64,
    /// How many calls there were before.
    calls_before: usize,
}

/// What a recovery came to.
pub struct Outcome {
    /// From the loss until each node was back, in milliseconds, by name.
    pub back_ms: BTreeMap<String, u64>,
    /// From the loss until each node had its volume and its address again.
    pub whole_ms: Vec<u64>,
    /// Calls by action, and how many of them were refused for their number.
    pub calls: BTreeMap<String, (usize, usize)>,
    /// How many looks our own planner gave up.
    pub given_up: u64,
}

impl Outcome {
    pub fn last_ms(&self) -> u64 {
        self.back_ms.values().copied().max().expect("there are nodes")
    }

    pub fn last_whole_ms(&self) -> u64 {
        self.whole_ms.iter().copied().max().expect("there are nodes")
    }

    pub fn rejected(&self) -> (usize, usize) {
        self.calls
            .values()
            .fold((0, 0), |(all, rejected), (calls, refused)| (all + calls, rejected + refused))
    }
}

impl Mass {
    /// So many nodes with two volumes each but for the root, in place.
    pub async fn new(settings: Settings, nodes: usize) -> Self {
        let mut lab = Lab::new(settings);
        let subnets = lab
            .region
            .with(|world, _| world.zones().iter().map(|zone| world.subnet_in(zone)).collect::<Vec<_>>());
        let names: Vec<String> = (0..nodes).map(|n| format!("n-{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            let mut spec = lab.spec(name, NetworkMode::SecondaryIp, RootMode::None);
            spec.subnet = subnets[n % subnets.len()].clone();
            spec.backup = None;
            lab.submit("node.apply", name, json!({ "spec": spec })).await;
        }
        for name in &names {
            lab.rest(name, 1).await;
        }
        lab.clock.sleep(Duration::from_mins(3)).await;
        Self { lab, names, lost_ms: 0, calls_before: 0 }
    }

    /// From now on the account has quotas.
    pub fn limit(&self, quotas: RequestQuotas) {
        self.lab.region.with(|world, _| {
            world.settings.quotas = Quotas::Published;
            world.settings.request_quotas = quotas;
        });
    }

    async fn instances(&self) -> Vec<InstanceId> {
        let mut instances = Vec::new();
        for name in &self.names {
            instances.push(self.lab.instance(name).await);
        }
        instances
    }

    /// All nodes but these are lost without a word; these are warned.
    pub async fn lose(&mut self, warned: &[&str]) {
        let instances = self.instances().await;
        self.calls_before = self.lab.region.calls().len();
        self.lost_ms = self.lab.region.with(|world, now_ms| {
            for (name, instance) in self.names.iter().zip(&instances) {
                if warned.contains(&name.as_str()) {
                    world.interrupt(now_ms, instance, Notice::default()).unwrap();
                } else {
                    world.reclaim_now(now_ms, instance).unwrap();
                }
            }
            now_ms
        });
    }

    /// Waits until every node has had its second operation.
    pub async fn recovered(&mut self) -> Outcome {
        let names = self.names.clone();
        for name in &names {
            self.lab.rest(name, 2).await;
        }
        let (mut back_ms, mut whole_ms) = (BTreeMap::new(), Vec::new());
        for name in &names {
            let id = OperationId::new(NodeName::parse(name).unwrap(), 2);
            let operation = self.lab.operation(&id.to_string()).await;
            let Status::Finished { at_ms, .. } = operation.status else {
                panic!("{id}: {:?}", operation.status)
            };
            back_ms.insert(name.clone(), at_ms - self.lost_ms);
            let steps = operation.steps.values();
            let moves = steps.filter(|s| matches!(*s.intent, Intent::Attach(_) | Intent::MoveAddress(_)));
            let whole = moves.filter_map(|record| record.outcome.as_ref()).map(|(_, at_ms)| *at_ms).max();
            whole_ms.push(whole.expect("it has a volume and an address") - self.lost_ms);
        }
        let mut calls = BTreeMap::<String, (usize, usize)>::new();
        for call in self.lab.region.calls().split_off(self.calls_before) {
            let (all, refused) = calls.entry(call.action.name()).or_default();
            *all += 1;
            *refused += usize::from(call.answer.is_err_and(|code| code == "RequestLimitExceeded"));
        }
        let given_up = self.lab.planner.as_ref().map_or(0, |planner| planner.given_up());
        Outcome { back_ms, whole_ms, calls, given_up }
    }
}
