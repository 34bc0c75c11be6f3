//! One operation alone, step by step, told as one line per event: `+` a step is opened, `=` it settles, `!` something else
//! happens.

use std::fmt::Write as _;

use perennial_engine::domain::OpenStep;
use perennial_engine::ids::Seq;
use perennial_workflows::machine::decide::Draft;
use perennial_workflows::machine::refusal::Refusal;
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::operation_id::{OperationId, OperationKind};
use perennial_workflows::model::resources::Resources;
use perennial_workflows::model::restore::Keep;
use perennial_workflows::model::signal::{Cause, News, Signal, Source};
use perennial_workflows::operation::event::{OperationEvent, Order};
use perennial_workflows::operation::state::Operation;
use perennial_workflows::spec::node::NodeSpec;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::Intent;
use perennial_workflows::view::plan::{imagined_resources, success};

/// What a case says of one step: given its intent and attempt, another evidence than success.
pub type Otherwise<'a> = &'a dyn Fn(&Intent, u32) -> Option<Evidence>;

/// From one report to the next.
const TICK_MS: u64 = 1_000;

pub fn well(_: &Intent, _: u32) -> Option<Evidence> {
    None
}

pub fn asked() -> Cause {
    Cause::Request { submission: "s-1".into(), requested_by: "ops".into(), reason: None, sender: None }
}

/// The second operation of `db-1`, on what the first one has made.
pub fn order(kind: OperationKind, spec: &NodeSpec, cause: Cause) -> Order {
    let before = match kind {
        OperationKind::Provision => Resources::default(),
        OperationKind::Replace
        | OperationKind::Delete
        | OperationKind::Grow
        | OperationKind::AdoptVolumes
        | OperationKind::Prune
        | OperationKind::Pause => imagined_resources(spec).unwrap(),
        OperationKind::Resume => Resources { carrier: None, ..imagined_resources(spec).unwrap() },
    };
    Order {
        number: 2,
        kind,
        generation: 2,
        owner: "tables".into(),
        installation: None,
        spec: spec.clone(),
        before,
        keep: None,
        reimage: false,
        restore: None,
        prune: Vec::new(),
        cause,
        good: None,
    }
}

/// One operation whose steps are settled by hand.
pub struct Run {
    pub state: Operation,
    pub head: Seq,
    pub now_ms: u64,
    pub told: String,
    last: Option<OperationEvent>,
}

impl Run {
    pub fn start(kind: OperationKind, spec: &NodeSpec, cause: Cause, keep: Option<Keep>) -> Self {
        Self::of(Order { keep, ..order(kind, spec, cause) })
    }

    pub fn of(order: Order) -> Self {
        Self::begun(Draft::start(OperationId::parse("db-1.2").unwrap(), order, 0).unwrap())
    }

    pub fn begun(draft: Draft) -> Self {
        let (state, head) = (draft.state().clone(), Seq::NONE);
        let mut run = Self { state, head, now_ms: 0, told: String::new(), last: None };
        run.take(draft);
        run
    }

    /// What can be done to it now.
    pub fn draft(&self) -> Draft {
        Draft::from(&self.state, self.head, self.now_ms)
    }

    /// Writes what was done.
    pub fn take(&mut self, draft: Draft) {
        for event in draft.events() {
            self.head = self.head.next();
            let told = &mut self.told;
            let _ = match event {
                OperationEvent::Started(_) | OperationEvent::SignalReceived { .. } => Ok(()),
                OperationEvent::StepIntended { step, attempt: 1, .. } => writeln!(told, "+ {step}"),
                OperationEvent::StepIntended { step, attempt, .. } => writeln!(told, "+ {step} ({attempt})"),
                OperationEvent::StepSettled { step, evidence, .. } => {
                    let value = serde_json::to_value(evidence).unwrap();
                    let name = value
                        .as_str()
                        .map(str::to_owned)
                        .unwrap_or_else(|| value.as_object().unwrap().keys().next().unwrap().clone());
                    writeln!(told, "= {step}: {name}")
                }
                OperationEvent::RootMethodChosen { from, to, .. } => writeln!(told, "! root: {from} → {to}"),
                OperationEvent::StepWaits { step, .. } => writeln!(told, "~ {step}"),
                OperationEvent::Dropped { steps, .. } => {
                    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
                    writeln!(told, "! left out {}", steps.join(", "))
                }
                OperationEvent::CandidateLost { instance, .. } => writeln!(told, "! {instance} is lost"),
                OperationEvent::Stuck { step, because, .. } => writeln!(told, "! stuck at {step}: {because}"),
                OperationEvent::Resumed { .. } => writeln!(told, "! resumed"),
                OperationEvent::SpecChanged { keeps_root: true, .. } => {
                    writeln!(told, "! another file; the root stays")
                }
                OperationEvent::SpecChanged { .. } => writeln!(told, "! another file"),
                OperationEvent::CancelRequested { .. } => writeln!(told, "! cancelled"),
                OperationEvent::Diverted { .. } => writeln!(told, "! diverted"),
                OperationEvent::VolumeFound { slot, held, .. } => {
                    writeln!(told, "! {} is the node's: {slot}", held.volume)
                }
                OperationEvent::Finished { outcome, .. } => writeln!(told, "! {outcome}"),
            };
        }
        self.last = draft.events().last().cloned().or(self.last.take());
        self.state = draft.state().clone();
    }

    /// Settles an open step whose name begins so, with success or with this; what it led to.
    pub fn settle(&mut self, step: &str, evidence: Option<Evidence>) -> Vec<OperationEvent> {
        let open = self.state.open_steps();
        let step = open.iter().find(|open| open.step.starts_with(step));
        self.report(step.unwrap_or_else(|| panic!("{open:?}")), evidence)
    }

    pub fn report(&mut self, step: &OpenStep<Intent>, evidence: Option<Evidence>) -> Vec<OperationEvent> {
        let evidence = evidence.unwrap_or_else(|| success(&self.state, &step.intent, step.token));
        self.now_ms = self.now_ms.max(step.not_before_ms) + TICK_MS;
        let mut draft = self.draft();
        draft.report(step.token, evidence).unwrap();
        let events = draft.events().to_vec();
        self.take(draft);
        events
    }

    /// Settles the step opened first; whether there was one.
    pub fn step(&mut self, otherwise: Otherwise<'_>) -> bool {
        let first = self.state.open_steps().into_iter().min_by_key(|step| step.token);
        let Some(step) = first else { return false };
        let attempt = self.state.steps[&step.token].attempt;
        self.report(&step, otherwise(&step.intent, attempt));
        true
    }

    /// Settles the step opened first, until nothing is open.
    pub fn drive(&mut self, otherwise: Otherwise<'_>) {
        for _ in 0..200 {
            if !self.step(otherwise) {
                return;
            }
        }
        panic!("the operation does not end:\n{}", self.told);
    }

    /// Settles steps until one of this name is open.
    pub fn drive_to(&mut self, name: &str) {
        self.drive_to_with(name, &well);
    }

    pub fn drive_to_with(&mut self, name: &str, otherwise: Otherwise<'_>) {
        while !self.state.open_steps().iter().any(|step| step.step.starts_with(name)) {
            assert!(self.step(otherwise), "it does not come to {name}:\n{}", self.told);
        }
    }

    /// The last event, with its place.
    pub fn last(&self) -> Option<(Seq, OperationEvent)> {
        self.last.clone().map(|event| (self.head, event))
    }

    pub fn cancel(&mut self) -> Result<(), Refusal> {
        let mut draft = self.draft();
        draft.cancel("a person".into(), None)?;
        self.told.clear();
        self.take(draft);
        Ok(())
    }

    pub fn on_signal(&mut self, instance: &InstanceId, news: News) {
        let (instance, source) = (instance.clone(), Source::Event { id: "e".into() });
        let mut draft = self.draft();
        draft.signal(&Signal { instance, news, source, at_ms: self.now_ms }).unwrap();
        self.take(draft);
    }
}
