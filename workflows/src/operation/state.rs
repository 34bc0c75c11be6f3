//! The state of one operation on one node: its order, its steps, its facts.
//!
//! An operation is a machine of *facts and rules*:
//!
//! - Evidence becomes facts ([`Facts`]). The rules of the operation's kind (`workflow::provision`, `replace`,
//!   `delete` …) say which intents hold under the facts.
//! - An intent without an open step is written as `step_intended`, in the append of the event that made it
//!   possible.
//! - Parallelism is not programmed: every step that the facts allow runs.
//! - There is no separate recovery code: a crash, a retry and a first try fold the same events to the same
//!   facts.
//!
//! ```text
//!              report(token, evidence)                    signal(instance)
//!                        │                                       │
//!                        ▼                                       ▼
//!   step_settled ──► facts ──► rules ──► step_intended …   signal_received / candidate_lost
//!                        │
//!                        ├─ no further step can be tried ──► stuck ──(resume)──► rules
//!                        └─ every resource is in place ────► finished (and operation_finished, atomically)
//! ```
//!
//! # Rules that are never broken
//! - A resource of the node is moved only after it was seen free. It is seen free only after its holder was
//!   fenced, or after it was detached without force.
//! - A second instance is launched only when the first launch has settled. An instance that may hold a
//!   resource of the node is fenced before the operation finishes.
//! - A volume that holds the node's data is deleted only by `delete` and `prune`, by id, where the request
//!   says so.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use perennial_engine::domain::OpenStep;
use perennial_engine::ids::Token;
use perennial_engine::machine;

use crate::model::aws::{InstanceId, Market, VolumeId};
use crate::model::installation::{INSTALLATION_TAG, Mark};
use crate::model::operation_id;
use crate::model::operation_id::{OperationId, OperationKind, Outcome};
use crate::model::resources::Origin;
use crate::model::signal::Certainty;
use crate::model::volume::{Slot, TagMap};
use crate::operation::event::Order;
use crate::operation::facts::{Candidate, Direction, Facts, Holder};
use crate::spec::node::RootMode;
use crate::step::evidence::Evidence;
use crate::step::intent::{Fence, Intent};
use crate::step::name::{OfVolume, StepName};

/// One step, from its intention to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRecord {
    /// What was asked, and when.
    pub asked: machine::StepRecord<StepName, Intent>,
    /// Which attempt at it.
    pub attempt: u32,
    /// What it was last told to wait for.
    pub waits: Option<Waits>,
    /// What was observed, and when.
    pub outcome: Option<(Evidence, u64)>,
}

/// What a step waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// Why.
    pub because: String,
    /// Whether it passes by itself.
    pub hindered: bool,
    /// How many looks there were.
    pub looks: u32,
    /// When this was seen.
    pub at_ms: u64,
}

impl Deref for StepRecord {
    type Target = machine::StepRecord<StepName, Intent>;

    fn deref(&self) -> &Self::Target {
        &self.asked
    }
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Steps are open.
    Running,
    /// The operator is needed.
    Stuck {
        /// The step that could not be done.
        step: StepName,
        /// Why.
        because: String,
        /// What the operator must do.
        needs: String,
        /// Since when.
        since_ms: u64,
    },
    /// It is over.
    Finished {
        /// Since when.
        at_ms: u64,
        /// How it ended.
        outcome: Outcome,
    },
}

/// The state of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// The content that its start fixed.
    pub order: Arc<Order>,
    /// The time of its start.
    pub started_at_ms: u64,
    /// The time of its last event.
    pub last_at_ms: u64,
    /// Its progress.
    pub status: Status,
    /// Every step, by token.
    pub steps: BTreeMap<Token, StepRecord>,
    /// Its facts.
    pub facts: Facts,
}

/// A rule that holds: what to do, and from when on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Due {
    pub(crate) intent: Intent,
    pub(crate) not_before_ms: u64,
}

impl From<Intent> for Due {
    fn from(intent: Intent) -> Self {
        Self { intent, not_before_ms: 0 }
    }
}

impl Operation {
    /// The steps that may run now.
    #[must_use]
    pub fn open_steps(&self) -> Vec<OpenStep<Intent>> {
        machine::open_steps::<Self>(self)
    }

    /// Where what a step makes comes from, as a later look tells it from what only carries its tags.
    pub(crate) fn origin(&self, intent: &Intent) -> Option<Origin> {
        let record = self.steps.values().find(|record| record.intent.as_ref() == intent)?;
        let client_token = intent.client_token().map(str::to_owned);
        Some(Origin { intended_at_ms: record.made_from_ms, client_token })
    }

    /// Whether a step of this name is open.
    pub(crate) fn has_open(&self, step: &StepName) -> bool {
        self.steps.values().any(|record| record.outcome.is_none() && record.step == *step)
    }

    /// Whether the node has no instance to go back to, or is about to lose it.
    pub(crate) fn is_urgent(&self) -> bool {
        let threatened = |old: &Holder| old.ended || old.certainty >= Certainty::Warned;
        self.order.kind == OperationKind::Replace
            && !self.gives_up()
            && (self.no_return().is_some() || self.old().is_none_or(threatened))
    }

    /// Whether an attachment of a volume is open: its instance may be writing to it.
    pub(crate) fn is_being_attached(&self, slot: &Slot) -> bool {
        self.has_open(&OfVolume::Attach.of(slot))
    }

    /// Instances that concern this operation.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceId> {
        let holders = self.facts.holders.iter().map(|holder| holder.instance.clone());
        let carrier = self.order.before.carrier.iter().filter(|_| operation_id::is_in_place(self.order.kind));
        let holders = holders.chain(carrier.map(|carrier| carrier.instance.clone()));
        holders.chain(self.facts.candidate.iter().map(|candidate| candidate.instance.clone())).collect()
    }

    /// Whether it is undone, or only frees the node's resources.
    #[must_use]
    pub const fn gives_up(&self) -> bool {
        !matches!(self.facts.direction, Direction::Forward)
    }

    /// Whether the node's root volume is kept at all.
    #[must_use]
    pub fn keeps_root(&self) -> bool {
        self.order.spec.persist.root != RootMode::None
    }

    /// Whether an adoption of the root by this instance is open: its call may come at any time.
    pub(crate) fn is_adopting(&self, by: &InstanceId) -> bool {
        self.steps.values().any(|record| {
            record.outcome.is_none()
                && matches!(record.intent.as_ref(), Intent::AdoptRoot(step) if step.instance == *by)
        })
    }

    /// Why the operation cannot be undone any more; `None` while it can.
    #[must_use]
    pub fn no_return(&self) -> Option<String> {
        if self.facts.diversion().is_some() {
            return Some("it frees what the node holds, as somebody asked".to_owned());
        }
        if matches!(self.order.kind, OperationKind::Provision | OperationKind::Resume)
            || operation_id::is_in_place(self.order.kind)
        {
            return None;
        }
        let Some(old) = self.facts.holders.iter().find(|holder| holder.is_old) else {
            return Some("there is no instance to go back to".to_owned());
        };
        // A termination that EC2 has refused has not happened.
        let is_refused = |record: &StepRecord| matches!(record.outcome, Some((Evidence::Refused { .. }, _)));
        let fencing = self.steps.values().any(|record| {
            matches!(record.intent.as_ref(), Intent::Fence(Fence { instance, .. }) if *instance == old.instance)
                && !is_refused(record)
        });
        if old.ended {
            Some(format!("{} is gone", old.instance))
        } else if fencing {
            Some(format!("{} is terminated, or is being so", old.instance))
        } else if self.order.kind == OperationKind::Delete && self.facts.holders.len() > 1 {
            Some("it has taken over from an abandoned workflow".to_owned())
        } else {
            None
        }
    }

    pub(crate) fn order_mut(&mut self) -> &mut Order {
        Arc::make_mut(&mut self.order)
    }

    /// The instance that carried the node when the operation began.
    pub(crate) fn old(&self) -> Option<&Holder> {
        self.facts.holders.iter().find(|holder| holder.is_old)
    }

    /// Whether an instance carried the node when the operation began.
    pub(crate) fn is_old(&self, instance: &InstanceId) -> bool {
        self.old().is_some_and(|old| old.instance == *instance)
    }

    /// Whether the node can be paused, or its deletion begun, in the middle of this operation.
    #[must_use]
    pub fn may_be_diverted(&self) -> bool {
        !self.facts.is_undoing()
            && matches!(
                self.order.kind,
                OperationKind::Provision
                    | OperationKind::Replace
                    | OperationKind::Resume
                    | OperationKind::Pause
            )
    }

    /// The tags that name a resource's owner.
    pub(crate) fn own_tags(&self) -> TagMap {
        TagMap::from([
            ("perennial:owner".to_owned(), self.order.owner.clone()),
            ("perennial:node".to_owned(), self.id.node().to_string()),
        ])
    }

    /// The node's instances except this one: those of this operation, and the previous carrier.
    pub(crate) fn own_instances(&self, but: &InstanceId) -> Vec<InstanceId> {
        let before = self.order.before.carrier.iter().map(|carrier| carrier.instance.clone());
        let mut own: Vec<InstanceId> = self.instances().into_iter().chain(before).collect();
        own.retain(|instance| instance != but);
        own.sort();
        own.dedup();
        own
    }

    /// The tags of a resource made by a step. Nothing in them changes when the step is repeated.
    pub(crate) fn tags(&self, step: &StepName, role: &str) -> TagMap {
        let mut tags = self.order.spec.tags.clone();
        let node = self.id.node();
        tags.entry("Name".to_owned()).or_insert_with(|| node.to_string());
        for (key, value) in [
            ("perennial:owner", self.order.owner.clone()),
            ("perennial:node", node.to_string()),
            ("perennial:generation", self.order.generation.to_string()),
            ("perennial:operation", self.id.to_string()),
            ("perennial:step", format!("{}/{step}/{}", self.id, self.next_attempt(step))),
            ("perennial:role", role.to_owned()),
        ] {
            tags.insert(key.to_owned(), value);
        }
        if let Some(mark) = &self.order.installation {
            tags.insert(INSTALLATION_TAG.to_owned(), mark.id.clone());
        }
        tags
    }

    /// The client token of a step: 64 hexadecimal characters, the same whenever this attempt is repeated.
    pub(crate) fn client_token(&self, step: &StepName) -> String {
        let attempt = self.next_attempt(step);
        let mut named = format!("{}\n{}\n{step}\n{attempt}", self.order.owner, self.id);
        if let Some(Mark { id, incarnation }) = &self.order.installation {
            named.push_str(&format!("\n{id}\n{incarnation}"));
        }
        blake3::hash(named.as_bytes()).to_hex().to_string()
    }

    /// The number of the next attempt at a step, from 1.
    pub(crate) fn next_attempt(&self, step: &StepName) -> u32 {
        let before = self.steps.values().filter(|record| record.step == *step).count();
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The node's volumes on the candidate, once every resource is in place.
    pub(crate) fn volumes_on_candidate(&self) -> BTreeMap<Slot, VolumeId> {
        let mut volumes: BTreeMap<Slot, VolumeId> = self
            .facts
            .volumes
            .iter()
            .filter_map(|(slot, fact)| Some((slot.clone(), fact.id.clone()?)))
            .collect();
        if self.keeps_root()
            && let Some(root) =
                self.facts.candidate.as_ref().and_then(|candidate| candidate.root_volume().cloned())
        {
            volumes.insert(Slot::Root, root);
        }
        volumes
    }

    /// Whether the market of the candidate can be interrupted.
    #[must_use]
    pub fn candidate_market(&self) -> Option<Market> {
        self.facts.candidate.as_ref().map(|candidate| candidate.pool.market)
    }
}

impl Operation {
    /// Whether an instance is in another subnet than the node was.
    pub(crate) const fn has_moved(candidate: &Candidate) -> bool {
        candidate.pool.subnet.is_some()
    }
}
