//! The plan for people: the steps that an operation would take.
//!
//! The plan is not a second description of the workflows. It is the same machine, run against an imaginary
//! region in which every step succeeds and takes its typical time.

use perennial_engine::domain::{OpenStep, Stamp};
use perennial_engine::ids::{Seq, Token};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::node::Node;
use crate::machine::decide::Draft;
use crate::machine::refusal::Refusal;
use crate::model::aws::InstanceState;
use crate::model::capacity::CapacityPool;
use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::resources::Resources;
use crate::model::signal::{Cause, News, Signal, Source};
use crate::model::survey::Kept;
use crate::operation::event::{OperationEvent, Order};
use crate::operation::state::{Operation, Status};
use crate::rules::{capacity, existing_volumes, snapshot_ahead};
use crate::spec::checks::launches_late;
use crate::spec::node::{DataMode, Handover, NetworkMode, NodeSpec, RootMode};
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, Launch};
use crate::steps::imagined::Imagined;
use crate::view::history::{Story, story};

/// The most steps of a plan. With more steps the machine does not end.
const STEPS_MAX: usize = 1_000;

/// How long it takes to observe a result that exists already, in milliseconds: one describe call.
const LOOK_MS: u64 = 500;

/// The course that an operation would take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The kind of the operation.
    pub kind: OperationKind,
    /// `make before break` or `break before make`. None for a provision.
    pub order: Option<String>,
    /// The steps in order of time, from 0, and the expected outage.
    pub story: Story,
    /// The duration of the whole operation, in milliseconds.
    pub total_ms: u64,
    /// The pools that would be asked for capacity, in order.
    pub pools: Vec<CapacityPool>,
    /// Remarks that complete the numbers.
    pub notes: Vec<String>,
}

/// The typical duration of a successful step, in milliseconds.
#[must_use]
pub fn typical_ms(intent: &Intent) -> u64 {
    intent.as_step().typical_ms()
}

/// The assumption of a plan. By default every step succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Assumption {
    /// Whether the instance still exists when the operation begins.
    pub instance: Presence,
    /// Whether there is capacity in the node's present subnet.
    pub capacity_here: Presence,
}

/// Whether an instance or capacity is present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Presence {
    #[default]
    Present,
    Missing,
}

/// Plans the replacement of a registered node, or the provision of a new node from its spec, if every step
/// succeeds.
///
/// # Errors
/// As [`plan_assuming`].
pub fn plan(spec: &NodeSpec, node: Option<&Node>) -> Result<Plan, Refusal> {
    plan_assuming(spec, node, Assumption::default())
}

/// The same plan under an assumption.
///
/// # Errors
/// [`Refusal::Inconsistent`] when the machine does not end: without capacity anywhere, or a bug.
pub fn plan_assuming(spec: &NodeSpec, node: Option<&Node>, assumption: Assumption) -> Result<Plan, Refusal> {
    let registered = node.filter(|node| node.exists() && node.resources.carrier.is_some());
    let (kind, before, number) = match registered {
        Some(node) => (OperationKind::Replace, node.resources.clone(), node.operations + 1),
        None => (OperationKind::Provision, node.map(|node| node.resources.clone()).unwrap_or_default(), 1),
    };
    let id = OperationId::new(spec.name.clone(), number);
    let before = with_an_address(spec, before);
    let kept_elsewhere = addresses_elsewhere(spec, &before);
    let order = Order {
        number,
        kind,
        generation: node.map_or(0, |node| node.generation) + 1,
        owner: "plan".to_owned(),
        installation: None,
        spec: spec.clone(),
        before,
        keep: None,
        reimage: false,
        good: None,
        restore: None,
        prune: Vec::new(),
        cause: match (&registered, assumption.instance) {
            (Some(Node { resources: Resources { carrier: Some(carrier), .. }, .. }), Presence::Missing) => {
                let news = News::StateChange { state: InstanceState::Terminated };
                let (instance, source) = (carrier.instance.clone(), Source::Sweep);
                Cause::Signal { signal: Signal { instance, news, source, at_ms: 0 } }
            }
            _ => Cause::Request {
                submission: "plan".to_owned(),
                requested_by: "plan".to_owned(),
                reason: Some("nothing is touched".to_owned()),
                sender: None,
            },
        },
    };
    let present = order.before.subnet.as_ref().unwrap_or(&spec.subnet);
    let pools = spec.ladder(present, order.before.survey.as_deref());
    let last = order.before.survey.as_deref().filter(|kept| kept.answers(spec, present));
    let surveyed = survey_notes(spec, last.filter(|_| !pools.is_empty()));
    let taken = existing_volumes::notes(spec, &order.before);
    let events = imagine(&id, order, assumption)?;
    let inconsistent = |why: &str| Refusal::Inconsistent { operation: id.clone(), why: why.to_owned() };
    let story = story(&id, &events).ok_or_else(|| inconsistent("the plan has no start"))?;
    let total_ms = story.finished_at_ms.ok_or_else(|| inconsistent("the plan does not end"))?;
    let order = (kind == OperationKind::Replace).then(|| {
        let early = spec.makes_before_breaks() && !launches_late(spec);
        if early { "make before break" } else { "break before make" }.to_owned()
    });
    let notes = notes(spec, kind).into_iter().chain(kept_elsewhere).chain(taken).chain(surveyed).collect();
    Ok(Plan { kind, order, story, total_ms, pools, notes })
}

/// The remark about the survey, which completes the list of pools.
fn survey_notes(spec: &NodeSpec, last: Option<&Kept>) -> Option<String> {
    if !spec.capacity.is_surveyed() {
        return None;
    }
    let max = spec.capacity.price_max.as_ref();
    let max = max.map_or(String::new(), |max| {
        format!(" A spot pool that costs more than {max} an hour then is not asked; on-demand pools are not subject to it.")
    });
    let order = spec.capacity.order();
    let found = match last {
        Some(kept) => format!("The pools are those of the last survey: {}", kept.in_words()),
        None if spec.capacity.instance_types.is_empty() => "Which types fit is found at run time".to_owned(),
        None => "The pools are those of the file's list".to_owned(),
    };
    Some(format!(
        "{found}. Each operation begins with a survey and goes by its answer (order: {order}).{max}"
    ))
}

/// Runs the machine against a region in which every step succeeds.
fn imagine(
    id: &OperationId,
    order: Order,
    assumption: Assumption,
) -> Result<Vec<(Stamp, OperationEvent)>, Refusal> {
    let mut imagined: Vec<(Stamp, OperationEvent)> = Vec::new();
    let mut take = |events: &[OperationEvent], at_ms: u64| {
        for event in events {
            let seq = Seq(imagined.len() as u64 + 1);
            imagined.push((Stamp { seq, at_ms }, event.clone()));
        }
        Seq(imagined.len() as u64)
    };
    let draft = Draft::start(id.clone(), order, 0)?;
    let mut state = draft.state().clone();
    let mut head = take(draft.events(), 0);
    for _ in 0..STEPS_MAX {
        if matches!(state.status, Status::Finished { .. }) {
            return Ok(imagined);
        }
        let next = state
            .open_steps()
            .into_iter()
            .map(|step| (ends_ms(&state, &step), step))
            .min_by_key(|(ends_ms, step)| (*ends_ms, step.token));
        let Some((ends_ms, step)) = next else { break };
        let evidence = match step.intent.as_ref() {
            Intent::Launch(Launch { pool, .. })
                if pool.subnet.is_none() && assumption.capacity_here == Presence::Missing =>
            {
                let message = "assumed".to_owned();
                Evidence::NoCapacity { code: "InsufficientInstanceCapacity".to_owned(), message }
            }
            intent => success(&state, intent, step.token),
        };
        let mut draft = Draft::from(&state, head, ends_ms);
        draft.report(step.token, evidence)?;
        state = draft.state().clone();
        head = take(draft.events(), ends_ms);
    }
    Err(Refusal::Inconsistent { operation: id.clone(), why: "the plan does not end".to_owned() })
}

/// When a step ends that takes its typical time. A snapshot that was taken ahead has been in progress since
/// it was taken.
fn ends_ms(state: &Operation, step: &OpenStep<Intent>) -> u64 {
    let begins_ms = step.intended_at_ms.max(step.not_before_ms);
    match snapshot_ahead::awaited(state, &step.intent) {
        Some((_, taken_ms)) => (taken_ms + typical_ms(&step.intent)).max(begins_ms + LOOK_MS),
        None => begins_ms + typical_ms(&step.intent),
    }
}

/// The observation of a successful step. `token` makes ids distinct.
#[must_use]
pub fn success(state: &Operation, intent: &Intent, token: Token) -> Evidence {
    intent.as_step().imagined(&Imagined { state, intent, token })
}

/// What is left of an operation under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remaining {
    /// Until everything was seen in place, in milliseconds; none if the operation brings nothing there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_ms: Option<u64>,
    /// Until its end.
    pub total_ms: u64,
}

/// What is left of an operation if every further step succeeds and takes its typical time. A launch that
/// waits for its next try is taken to begin now: what it waits for is not known. `None` if it does not run.
#[must_use]
pub fn remaining(operation: &Operation, now_ms: u64) -> Option<Remaining> {
    let mut state = operation.clone();
    let launch = state.open_steps().into_iter().find(|step| matches!(*step.intent, Intent::Launch(_)));
    let begins_ms = launch.map_or(now_ms, |step| step.not_before_ms.max(now_ms));
    let mut at_ms = begins_ms;
    let mut whole_ms = None;
    // Only tokens come from it, and those of the imagined steps are to be new.
    let mut head = Seq(state.steps.keys().next_back().map_or(0, |token| token.0) + STEPS_MAX as u64);
    for _ in 0..STEPS_MAX {
        if matches!(state.status, Status::Finished { .. }) {
            return Some(Remaining { whole_ms, total_ms: at_ms - begins_ms });
        }
        let next = state
            .open_steps()
            .into_iter()
            .map(|step| (ends_ms(&state, &step).max(at_ms + LOOK_MS), step))
            .min_by_key(|(ends_ms, step)| (*ends_ms, step.token));
        let (ends_ms, step) = next?;
        at_ms = ends_ms;
        if matches!(*step.intent, Intent::Verify(_)) {
            whole_ms = Some(at_ms - begins_ms);
        }
        let mut draft = Draft::from(&state, head, at_ms);
        draft.report(step.token, success(&state, &step.intent, step.token)).ok()?;
        head = Seq(head.0 + draft.events().len() as u64);
        state = draft.state().clone();
    }
    None
}

/// The resources at the beginning, with an address if it comes from a pool.
fn with_an_address(spec: &NodeSpec, before: Resources) -> Resources {
    let imagined = spec.pool().map(|_| std::net::Ipv4Addr::UNSPECIFIED);
    let mut before = Resources { address: before.address.or(imagined), ..before };
    let present = before.subnet.clone().unwrap_or_else(|| spec.subnet.clone());
    for (subnet, _) in spec.ip_pools().filter(|(subnet, _)| **subnet != present) {
        before.addresses_elsewhere.entry(subnet.clone()).or_insert(std::net::Ipv4Addr::UNSPECIFIED);
    }
    before
}

/// The address of the node in each other subnet.
fn addresses_elsewhere(spec: &NodeSpec, before: &Resources) -> Vec<String> {
    let known = before.addresses_elsewhere.iter().filter(|(_, address)| !address.is_unspecified());
    known
        .map(|(subnet, address)| {
            let pool = spec.pool_in(subnet).map_or(String::new(), |pool| format!(" (pool {pool})"));
            format!("In {subnet} the node's address is {address}{pool}.")
        })
        .collect()
}

fn notes(spec: &NodeSpec, kind: OperationKind) -> Vec<String> {
    let mut notes = vec![
        "Times are typical ones, not promises; the application's own stop and start are not in them."
            .to_owned(),
    ];
    notes.extend(capacity::notes(spec));
    for (subnet, pool) in spec.ip_pools().filter(|_| kind == OperationKind::Provision) {
        let there = if *subnet == spec.subnet { String::new() } else { format!(" in {subnet}") };
        notes.push(format!("The address{there} is taken from the pool {pool}, if it has a free one."));
    }
    if kind != OperationKind::Replace {
        return notes;
    }
    match spec.persist.root {
        RootMode::Adopt => notes.push(
            "Root adoption (CreateReplaceRootVolumeTask with a volume id) is unverified on a live account; where it is \
             refused, the root goes on as an image, where it fails, as a clone of the volume first: a snapshot, its registration and another launch are added to the outage."
                .to_owned(),
        ),
        RootMode::Image => notes.push(
            "The root's snapshot must be complete before the launch: seconds to hours, with no promise from EC2.".to_owned(),
        ),
        RootMode::None => notes.push("The root is new each time; what is written to it is lost.".to_owned()),
    }
    if spec.persist.network == NetworkMode::None {
        notes.push("The address is a new one each time.".to_owned());
    }
    if spec.persist.data == DataMode::Snapshot && !spec.data_volumes.is_empty() {
        notes.push(
            "Data volumes go on as copies from final snapshots, which must be complete before the launch: seconds to hours. \
             Nothing is lost; the old volumes are retained. Blocks of a copy are read from the snapshot at first use."
                .to_owned(),
        );
    }
    if !spec.capacity.other_subnets.is_empty() {
        let address = match spec.persist.network {
            NetworkMode::None => "",
            NetworkMode::IpPool => ", where it has the address of the pool there",
            NetworkMode::PrimaryEni | NetworkMode::SecondaryEni | NetworkMode::SecondaryIp => {
                ", and the private address ends"
            }
        };
        notes.push(format!(
            "Without any capacity in its subnet the node moves to another one{address}; in another zone root and data go on as \
             copies from final snapshots, and the old volumes are retained: `perennial node plan NODE --without-capacity`."
        ));
    }
    if spec.persist.network == NetworkMode::SecondaryEni {
        notes.push(
            "The guest configures the second interface when it comes, and must not answer for its address on the primary one."
                .to_owned(),
        );
    }
    if spec.backup.is_some_and(|backup| backup.at_release) {
        notes.push(
            "A last backup is taken of each volume as soon as it is free; nothing waits for its copy."
                .to_owned(),
        );
    }
    if spec.network.elastic_ip.is_some() {
        notes.push(
            "The Elastic IP address leads to the old instance until the private address has moved, and to the new one then."
                .to_owned(),
        );
    }
    if spec.persist.handover == Handover::Detach
        && !spec.data_volumes.is_empty()
        && spec.makes_before_breaks()
    {
        notes.push(
            "Data volumes are detached from the running instance: it must unmount them at the notice; one that stays \
             in use follows after the termination."
                .to_owned(),
        );
    }
    notes
}

/// The node's resources after an imaginary provision, for tests and examples.
///
/// # Errors
/// As [`plan`].
pub fn imagined_resources(spec: &NodeSpec) -> Result<Resources, Refusal> {
    let id = OperationId::new(spec.name.clone(), 1);
    let order = Order {
        number: 1,
        kind: OperationKind::Provision,
        generation: 1,
        owner: "plan".to_owned(),
        installation: None,
        spec: spec.clone(),
        before: with_an_address(spec, Resources::default()),
        keep: None,
        reimage: false,
        good: None,
        restore: None,
        prune: Vec::new(),
        cause: Cause::Request {
            submission: "plan".to_owned(),
            requested_by: "plan".to_owned(),
            reason: None,
            sender: None,
        },
    };
    let events = imagine(&id, order, Assumption::default())?;
    match events.into_iter().next_back() {
        Some((_, OperationEvent::Finished { resources, .. })) => Ok(resources),
        _ => Err(Refusal::Inconsistent { operation: id, why: "the plan does not end".to_owned() }),
    }
}
