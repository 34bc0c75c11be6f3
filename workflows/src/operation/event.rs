//! What an operation writes: the order it starts with, and its events.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_engine::ids::Token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{InstanceId, SubnetId};
use crate::model::operation_id::{OperationKind, Outcome};
use crate::model::resources;
use crate::model::resources::{HeldVolume, Resources};
use crate::model::restore::{Keep, Restore};
use crate::model::root::RootMethod;
use crate::model::signal::{Cause, Signal};
use crate::model::volume::Slot;
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// What the order of an operation fixes at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which of the node's operations it is, counted from 1.
    pub number: u64,
    /// What it does.
    pub kind: OperationKind,
    /// The node's generation once it is done.
    pub generation: u64,
    /// Whose installation this is; in every tag.
    pub owner: String,
    /// The node's spec when it started.
    pub spec: NodeSpec,
    /// What belonged to the node when it started.
    pub before: Resources,
    /// For `delete`: what is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// The backup whose content the volumes come back with; the present ones are retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// The root starts anew from the node's image: its present content ends, the volume is retained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reimage: bool,
    /// For `prune`: the retained volumes that are to be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prune: Vec<resources::PruneItem>,
    /// Why.
    pub cause: Cause,
}

impl Order {
    /// What was heard of the node's instance, if that is why it was ordered.
    pub(crate) const fn signal(&self) -> Option<&Signal> {
        match &self.cause {
            Cause::Signal { signal } => Some(signal),
            Cause::Request { .. }
            | Cause::ReturnToSpot { .. }
            | Cause::Found { .. }
            | Cause::FileChanged { .. }
            | Cause::RetainedLonger { .. } => None,
        }
    }
}

/// What happened in an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "events are few and short-lived; boxes would only blur the shapes"
)]
pub enum OperationEvent {
    /// It began.
    Started(Order),
    /// A step may run: the whole request, written before the first call. This event's place is the step's token.
    StepIntended {
        /// Its name.
        step: String,
        /// How many times this step has been intended in this operation, with this.
        attempt: u32,
        /// The request.
        intent: Intent,
        /// Not to be run before this time.
        not_before_ms: u64,
        /// To be settled by this time.
        deadline_ms: u64,
    },
    /// A step is over.
    StepSettled {
        /// Which.
        #[schemars(with = "u64")]
        token: Token,
        /// Its name, for readers.
        step: String,
        /// What was observed.
        evidence: Evidence,
    },
    /// The root will be carried in another way.
    RootMethodChosen {
        /// On which instance the first way was tried.
        instance: InstanceId,
        /// What was tried.
        from: RootMethod,
        /// What is tried now.
        to: RootMethod,
        /// Why.
        because: String,
    },
    /// The new instance is not the one: another will be launched, this one fenced.
    CandidateLost {
        /// Which.
        instance: InstanceId,
        /// Why.
        because: String,
    },
    /// The notice is too short for what would only have made the outage shorter.
    Dropped {
        /// The steps, in the order in which they are dropped.
        steps: Vec<String>,
        /// Why.
        because: String,
    },
    /// Something was heard about an instance of this operation.
    SignalReceived {
        /// What.
        signal: Signal,
    },
    /// Nothing more can be tried; every resource is kept.
    Stuck {
        /// The step that could not be done.
        step: String,
        /// Why.
        because: String,
        /// What a person must do before `perennial workflow resume`.
        needs: String,
    },
    /// A person says: try again.
    Resumed {
        /// Who.
        requested_by: String,
        /// What is given up: the root starts anew from the node's image, a data volume is made anew.
        #[serde(default)]
        accept_loss: Vec<Slot>,
        /// What the node is meant to be now: a corrected file mends what stuck.
        spec: NodeSpec,
        /// The address that was taken from the node's pool with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<Ipv4Addr>,
        /// The addresses that were taken with it from pools of other subnets.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
        /// Lost volumes come back from this backup.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<Restore>,
    },
    /// The node is not to be brought onto an instance any more: everything is freed.
    Diverted {
        /// Why.
        cause: Cause,
        /// A deletion follows, which keeps this; otherwise the node is paused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delete: Option<Keep>,
    },
    /// A person says: undo it. Only before the point of no return.
    CancelRequested {
        /// Who.
        requested_by: String,
        /// In their words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A volume that somebody attached to the node's instance is the node's from now on.
    VolumeFound {
        /// On which instance.
        instance: InstanceId,
        /// As what.
        slot: Slot,
        /// The volume.
        held: HeldVolume,
    },
    /// Everything is in place; or everything is back, when it was cancelled; or a deletion takes over.
    Finished {
        /// What belongs to the node now.
        resources: Resources,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Outcome::is_completed")]
        outcome: Outcome,
    },
}

/// What follows an operation that gave up bringing the node onto an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diversion {
    /// A deletion, which keeps this; otherwise the node is paused.
    pub delete: Option<Keep>,
    /// Why.
    pub cause: Cause,
}
