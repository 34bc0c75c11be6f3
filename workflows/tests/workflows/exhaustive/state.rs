//! A state of the walk: the operation, the world, and the reports that are under way; and the transitions out
//! of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial_engine::ids::{Seq, Token};
use perennial_workflows::machine::decide::Draft;
use perennial_workflows::machine::refusal::Refusal;
use perennial_workflows::model::aws::{InstanceState, VolumeId};
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::model::resources::Resources;
use perennial_workflows::model::restore::Keep;
use perennial_workflows::model::signal::{News, Signal, Source};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::event::Order;
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::spec::node::DataMode;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{
    AdoptRoot, Attach, CloneRoot, Detach, FinalSnapshot, Intent, Release, SnapshotAhead, SnapshotRoot,
    SnapshotVolume,
};

use super::looks::{Luck, looks};
use super::world::{Gone, Phase, TaskState, World};
use crate::run::asked;

/// When everything happens, until a launch waits for its time.
const BEGIN_MS: u64 = 1_000;

/// The notice that EC2 gives.
const NOTICE_MS: u64 = 120_000;

/// How often a person says that what is missing is there, and it is not.
const RESUMED_MAX: u8 = 2;

#[derive(Clone)]
pub struct State {
    pub op: Arc<Operation>,
    pub head: Seq,
    pub now_ms: u64,
    pub world: World,
    /// What a worker has seen and not reported yet.
    pub flight: BTreeMap<Token, Evidence>,
    /// How many things have gone otherwise than well.
    pub spent: u8,
    /// Whether something went wrong that only a person can mend.
    pub needs_person: bool,
    /// How often it was resumed, with nothing accepted.
    pub resumed: u8,
    /// The node's resources at the end.
    pub left: Option<Arc<Resources>>,
}

/// A way from one state to another.
pub struct Transition {
    pub label: String,
    /// A friendly world takes it.
    pub is_friendly: bool,
    /// The next state, or the law that was broken on the way.
    pub to: Result<State, String>,
}

impl State {
    pub fn begin(order: Order, world: World) -> Self {
        let draft = Draft::start(OperationId::parse("db-1.2").unwrap(), order, BEGIN_MS).unwrap();
        let op = Arc::new(draft.state().clone());
        Self {
            op,
            head: Seq(draft.events().len() as u64),
            now_ms: BEGIN_MS,
            world,
            flight: BTreeMap::new(),
            spent: 0,
            needs_person: false,
            resumed: 0,
            left: None,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.op.status, Status::Finished { .. })
    }

    pub fn is_stuck(&self) -> bool {
        matches!(self.op.status, Status::Stuck { .. })
    }

    /// Goes on with the operation; whether anything has happened to it. `None`: it was refused, as a command
    /// may be.
    fn decided(
        &self,
        now_ms: u64,
        decide: impl FnOnce(&mut Draft) -> Result<(), Refusal>,
    ) -> Result<Option<Self>, String> {
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let mut draft = Draft::from(&self.op, self.head, now_ms);
            decide(&mut draft).map(|()| draft)
        }));
        let draft = match decided {
            Err(_) => return Err("it panics".to_owned()),
            Ok(Err(why @ (Refusal::Inconsistent { .. } | Refusal::Fenced { .. }))) => {
                return Err(why.to_string());
            }
            Ok(Err(_)) => return Ok(None),
            Ok(Ok(draft)) if draft.events().is_empty() => return Ok(None),
            Ok(Ok(draft)) => draft,
        };
        let head = Seq(self.head.0 + draft.events().len() as u64);
        let left = draft.finished_with().map(|(resources, _)| Arc::new(resources.clone()));
        let mut next = Self { op: Arc::new(draft.state().clone()), head, now_ms, left, ..self.clone() };
        // What was withdrawn has nobody who reports it.
        let open: Vec<Token> = next.op.open_steps().iter().map(|step| step.token).collect();
        if next.op.status == Status::Running {
            next.flight.retain(|token, _| open.contains(token));
        }
        Ok(Some(next))
    }

    /// With one thing more that has gone otherwise than well.
    fn at_cost(mut self, cost: u8) -> Self {
        self.spent += cost;
        self
    }

    /// Every transition out of it that `budget` deviations allow.
    pub fn transitions(&self, budget: u8) -> Vec<Transition> {
        let mut all = Vec::new();
        let may_deviate = self.spent < budget;
        if !may_deviate && let Some(only) = self.only() {
            return vec![only];
        }
        self.reports(may_deviate, self.spent + 1 < budget, &mut all);
        self.by_itself(may_deviate, &mut all);
        self.heard(may_deviate, &mut all);
        self.resumed(&mut all);
        if may_deviate {
            self.asked(&mut all);
            self.by_hand(&mut all);
        }
        all
    }

    /// Where nothing more may go wrong, a report that is independent of all others comes first: the orders in
    /// which it comes later lead to the same.
    fn only(&self) -> Option<Transition> {
        let is_independent = |intent: &Intent| {
            matches!(
                intent,
                Intent::MoveAddress(_)
                    | Intent::DeleteVolume(_)
                    | Intent::DeleteSnapshot(_)
                    | Intent::DeregisterImage(_)
                    | Intent::DeleteInterface(_)
                    | Intent::ReleaseInterface(_)
                    | Intent::Find(_)
            )
        };
        let open = self.op.open_steps();
        let waits = |token: &Token| self.flight.contains_key(token);
        let step = open.iter().find(|step| is_independent(&step.intent) && !waits(&step.token))?;
        let outcomes = looks(&self.op, &self.world, step.token, &step.intent);
        let good = outcomes.into_iter().find(|outcome| outcome.luck == Luck::Good)?;
        let to = Self { world: good.world, ..self.clone() };
        to.reported(format!("{}: {}", step.step, good.label), true, step.token, good.evidence?)
    }

    /// Workers look, and report.
    fn reports(&self, may_deviate: bool, may_twice: bool, all: &mut Vec<Transition>) {
        for step in self.op.open_steps() {
            if let Some(evidence) = self.flight.get(&step.token) {
                let mut to = self.clone();
                to.flight.remove(&step.token);
                let label = format!("{}: the report arrives", step.step);
                all.extend(to.reported(label, true, step.token, evidence.clone()));
                continue;
            }
            for outcome in looks(&self.op, &self.world, step.token, &step.intent) {
                let is_friendly = outcome.luck == Luck::Good;
                let cost = u8::from(!is_friendly);
                if !is_friendly && !may_deviate {
                    continue;
                }
                let label = format!("{}: {}", step.step, outcome.label);
                let mut to = Self { world: outcome.world, ..self.clone() }.at_cost(cost);
                to.needs_person |= outcome.luck == Luck::Person;
                to.now_ms = to.now_ms.max(step.not_before_ms);
                let Some(evidence) = outcome.evidence else {
                    all.push(Transition { label, is_friendly, to: Ok(to) });
                    continue;
                };
                if if is_friendly { may_deviate } else { may_twice } {
                    let mut held = to.clone().at_cost(1);
                    held.flight.insert(step.token, evidence.clone());
                    all.push(Transition {
                        label: format!("{label}, not reported yet"),
                        is_friendly: false,
                        to: Ok(held),
                    });
                }
                all.extend(to.reported(label, is_friendly, step.token, evidence));
            }
        }
        if !self.flight.is_empty() {
            let to = Self { flight: BTreeMap::new(), ..self.clone() };
            all.push(Transition { label: "the process dies".to_owned(), is_friendly: false, to: Ok(to) });
        }
    }

    fn reported(
        &self,
        label: String,
        is_friendly: bool,
        token: Token,
        evidence: Evidence,
    ) -> Option<Transition> {
        let to = self.decided(self.now_ms, |draft| draft.report(token, evidence));
        let to = to.and_then(|to| match to {
            Some(to) => Ok(to),
            None if self.is_stuck() => Ok(self.clone()),
            None => Err("a report leaves no event".to_owned()),
        });
        Some(Transition { label, is_friendly, to })
    }

    /// EC2 goes on with what was begun, or takes an instance.
    fn by_itself(&self, may_deviate: bool, all: &mut Vec<Transition>) {
        let mut does = |label: String, cost: u8, deed: &dyn Fn(&mut World)| {
            let mut to = self.clone().at_cost(cost);
            deed(&mut to.world);
            all.push(Transition { label, is_friendly: cost == 0, to: Ok(to) });
        };
        for (instance, machine) in &self.world.instances {
            let task = machine.task.as_ref().is_some_and(|task| task.state == TaskState::InProgress);
            match machine.phase {
                Phase::ShuttingDown => {
                    does(format!("{instance} is terminated"), 0, &|world| world.is_over(instance));
                }
                Phase::Running => {
                    if task {
                        let ends =
                            |state: TaskState| move |world: &mut World| world.task_ends(instance, state);
                        does(format!("{instance}: the root is replaced"), 0, &ends(TaskState::Succeeded));
                        if may_deviate {
                            does(format!("{instance}: the task fails"), 1, &ends(TaskState::Failed));
                            let label = format!("{instance}: the task fails, and the root is off");
                            does(label, 1, &ends(TaskState::FailedDetached));
                        }
                    }
                    if may_deviate {
                        does(format!("EC2 takes {instance}"), 1, &|world| world.taken(instance));
                    }
                }
                Phase::Terminated => {}
            }
        }
        for (volume, disk) in &self.world.volumes {
            if disk.gone.is_none() && disk.on.as_ref().is_some_and(|on| on.is_leaving) {
                does(format!("{volume} leaves at last"), 0, &|world| {
                    if let Some(disk) = world.volumes.get_mut(volume) {
                        disk.on = None;
                    }
                });
            }
        }
    }

    /// What happened to an instance is heard, or that it will.
    fn heard(&self, may_deviate: bool, all: &mut Vec<Transition>) {
        if self.is_over() {
            return;
        }
        for instance in self.op.instances() {
            let Some(machine) = self.world.instances.get(&instance) else { continue };
            // Our own terminations echo: that is one more thing that need not happen.
            let cost = u8::from(!machine.was_taken);
            if cost == 1 && !may_deviate {
                continue;
            }
            let over = |state| (News::StateChange { state }, cost, "is heard to be over");
            let (news, cost, what) = match machine.phase {
                Phase::ShuttingDown => over(InstanceState::ShuttingDown),
                Phase::Terminated => over(InstanceState::Terminated),
                Phase::Running if may_deviate && !machine.is_warned => {
                    let deadline_ms = self.now_ms + NOTICE_MS;
                    (News::SpotInterruption { action: "terminate".into(), deadline_ms }, 1, "is warned")
                }
                Phase::Running => continue,
            };
            let (source, at_ms) = (Source::Event { id: "e".into() }, self.now_ms);
            let signal = Signal { instance: instance.clone(), news, source, at_ms };
            let mut from = self.clone().at_cost(cost);
            if machine.phase == Phase::Running
                && let Some(machine) = from.world.instances.get_mut(&instance)
            {
                machine.is_warned = true;
            }
            let to = from.decided(from.now_ms, |draft| draft.signal(&signal));
            if let Some(to) = to.transpose() {
                let label = format!("{instance} {what}");
                all.push(Transition { label, is_friendly: cost == 0, to });
            }
        }
    }

    /// A person lets a stuck operation go on.
    fn resumed(&self, all: &mut Vec<Transition>) {
        if !self.is_stuck() {
            return;
        }
        let resumes = |accept: Vec<Slot>| {
            let spec = self.op.order.spec.clone();
            let label = format!("resumed, accepting the loss of {accept:?}");
            let to = self.decided(self.now_ms, |draft| draft.resume("ops".into(), accept.clone(), spec));
            to.transpose().map(|to| Transition { label, is_friendly: true, to })
        };
        all.extend(self.missing().into_iter().filter_map(|slot| resumes(vec![slot])));
        let may_accept = all.iter().any(|transition| transition.label.starts_with("resumed"));
        if may_accept && self.resumed >= RESUMED_MAX {
            return;
        }
        let plain = resumes(Vec::new()).map(|mut plain| {
            plain.to = plain.to.map(|to| Self { resumed: to.resumed.saturating_add(1), ..to });
            plain
        });
        all.extend(plain);
    }

    /// The places whose volume is gone.
    fn missing(&self) -> Vec<Slot> {
        let is_gone = |volume: &VolumeId| self.world.disk(volume).is_none();
        let volumes = self.op.facts.volumes.iter();
        let gone = volumes.filter(|(_, fact)| fact.id.as_ref().is_some_and(is_gone));
        gone.map(|(slot, _)| slot.clone()).collect()
    }

    /// What an operator may ask for in the middle.
    fn asked(&self, all: &mut Vec<Transition>) {
        if self.is_over() {
            return;
        }
        let nothing = Keep { root: false, data: false, network: false, backups: false };
        let mut file = self.op.order.spec.clone();
        file.user_data = Some("another file".to_owned());
        type Asks<'a> = (&'a str, &'a dyn Fn(&mut Draft) -> Result<(), Refusal>);
        let asks: [Asks<'_>; 5] = [
            ("cancelled", &|draft| draft.cancel("ops".into(), None)),
            ("paused", &|draft| draft.divert(asked(), None)),
            ("to be deleted", &|draft| draft.divert(asked(), Some(nothing))),
            ("another file", &|draft| draft.change_spec(file.clone(), "ops".into())),
            ("abandoned", &|draft| draft.abandon().map(|_| ())),
        ];
        for (label, ask) in asks {
            let from = self.clone().at_cost(1);
            let to = from.decided(from.now_ms, ask);
            let label = label.to_owned();
            all.extend(to.transpose().map(|to| Transition { label, is_friendly: false, to }));
        }
    }

    /// What people do in the account.
    fn by_hand(&self, all: &mut Vec<Transition>) {
        let free = self.world.interfaces.iter().filter(|(_, plug)| plug.on.is_none() && !plug.is_gone);
        for (interface, _) in free {
            let mut to = self.clone().at_cost(1);
            if let Some(plug) = to.world.interfaces.get_mut(interface) {
                plug.is_gone = true;
            }
            let label = format!("{interface} is deleted by hand");
            all.push(Transition { label, is_friendly: false, to: Ok(to) });
        }
        let free = |volume: &VolumeId| self.world.is_free(volume);
        let volumes = self.world.volumes.iter().filter(|(volume, disk)| disk.is_kept && free(volume));
        for (volume, disk) in volumes {
            let mut to = self.clone().at_cost(1);
            to.world.delete(volume, Gone::ByHand);
            to.needs_person |= disk.slot != Some(Slot::Root);
            let label = format!("{volume} is deleted by hand");
            all.push(Transition { label, is_friendly: false, to: Ok(to) });
            let candidate = self.op.facts.candidate.as_ref().map(|candidate| candidate.instance.clone());
            let candidate = candidate.filter(|candidate| self.world.runs(candidate));
            // What the node does not use any more is not its data.
            let is_used = self.op.order.spec.persist.data == DataMode::Reattach
                && self.op.facts.volumes.values().any(|fact| fact.id.as_ref() == Some(volume));
            let candidate = candidate.filter(|_| is_used);
            if let (Some(instance), true) = (candidate, matches!(disk.slot, Some(Slot::Data(_)))) {
                let mut to = self.clone().at_cost(1);
                to.world.attach(volume, &instance);
                let label = format!("{volume} is attached to {instance} by hand");
                all.push(Transition { label, is_friendly: false, to: Ok(to) });
            }
        }
    }
}

/// The state as one number: two states with the same one go on in the same way. Times, tokens and the order
/// of steps that have nothing to do with each other do not count.
#[derive(Default)]
pub struct Fingerprints {
    text: String,
    intents: HashMap<usize, (Arc<Intent>, String)>,
}

/// How many intents are remembered by their place.
const INTENTS_MAX: usize = 20_000;

impl Fingerprints {
    pub fn of(&mut self, state: &State) -> u128 {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        facts(&mut text, &state.op);
        self.steps(&mut text, state);
        let _ = write!(text, "{:?}{}", state.world, state.needs_person);
        let hash = blake3::hash(text.as_bytes());
        self.text = text;
        let mut first = [0; 16];
        first.copy_from_slice(&hash.as_bytes()[..16]);
        u128::from_le_bytes(first)
    }

    fn intent(&mut self, intent: &Arc<Intent>) -> &str {
        if self.intents.len() > INTENTS_MAX {
            self.intents.clear();
        }
        let (_, text) = self.intents.entry(Arc::as_ptr(intent) as usize).or_insert_with(|| {
            let hash = blake3::hash(format!("{intent:?}").as_bytes()).to_hex();
            (Arc::clone(intent), hash[..16].to_owned())
        });
        text
    }

    fn steps(&mut self, text: &mut String, state: &State) {
        let mut records: Vec<_> = state.op.steps.iter().collect();
        // What the rules ask about a volume is what came last to it.
        let mut by_slot: BTreeMap<&Slot, String> = BTreeMap::new();
        for (_, record) in &records {
            if let Some(slot) = slot_of(&record.intent) {
                let _ = write!(by_slot.entry(slot).or_default(), "<{}{}", record.step, record.attempt);
            }
        }
        let _ = write!(text, "{by_slot:?}");
        records.sort_by(|(_, one), (_, other)| (&one.step, one.attempt).cmp(&(&other.step, other.attempt)));
        for (token, record) in records {
            text.push('\n');
            text.push_str(&record.step.to_string());
            text.push_str(self.intent(&record.intent));
            let _ = write!(text, "{}{}", record.outdated, record.not_before_ms);
            if let Some((evidence, _)) = &record.outcome {
                let _ = write!(text, "{evidence:?}");
            }
            if let Some(evidence) = state.flight.get(token) {
                let _ = write!(text, "…{evidence:?}");
            }
        }
    }
}

fn slot_of(intent: &Intent) -> Option<&Slot> {
    match intent {
        Intent::Release(Release { slot, .. })
        | Intent::Attach(Attach { slot, .. })
        | Intent::Detach(Detach { slot, .. })
        | Intent::SnapshotVolume(SnapshotVolume { slot, .. })
        | Intent::FinalSnapshot(FinalSnapshot { slot, .. })
        | Intent::SnapshotAhead(SnapshotAhead { slot, .. }) => Some(slot),
        Intent::SnapshotRoot(SnapshotRoot { .. })
        | Intent::CloneRoot(CloneRoot { .. })
        | Intent::AdoptRoot(AdoptRoot { .. }) => Some(&Slot::Root),
        _ => None,
    }
}

fn facts(text: &mut String, op: &Operation) {
    let facts = &op.facts;
    match &op.status {
        Status::Running => text.push('r'),
        Status::Stuck { step, because, .. } => {
            let _ = write!(text, "stuck{step}{because}");
        }
        Status::Finished { outcome, .. } => {
            let _ = write!(text, "{outcome:?}");
        }
    }
    let order = &op.order;
    let _ = write!(
        text,
        "{:?}{}{:?}{:?}{:?}{:?}{:?}{:?}{}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{}",
        order.spec.user_data,
        order.reimage,
        order.before.volumes,
        facts.placement.is_some(),
        facts.volumes,
        facts.network,
        facts.holders,
        facts.candidate,
        facts.launches.failed_in_a_row,
        facts.launches.last_failure,
        facts.launches.reason,
        facts.ladder,
        facts.root,
        facts.restore,
        facts.restored,
        facts.superseded,
        facts.outlived,
        facts.carried_over,
        facts.cleanup,
        facts.direction,
        facts.handover_dropped,
    );
}
