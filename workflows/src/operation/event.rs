//! The order that an operation starts with, and its events.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use perennial_engine::ids::Token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{InstanceId, SubnetId};
use crate::model::installation::Mark;
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
use crate::step::name::StepName;

/// The content that an operation's start fixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The operation's number among the node's, counted from 1.
    pub number: u64,
    /// The operation's purpose.
    pub kind: OperationKind,
    /// The node's generation once it is done.
    pub generation: u64,
    /// The installation's owner; it stands in every tag.
    pub owner: String,
    /// The installation's identity; it stands in every tag and client token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<Mark>,
    /// The node's spec when it started.
    pub spec: NodeSpec,
    /// The node's resources when it started.
    pub before: Resources,
    /// For `delete`: the classes that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// The backup that the volumes are restored from; the present ones are retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// The root is new, from the node's image: its present content ends, and the volume is retained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reimage: bool,
    /// For `prune`: the retained volumes that are to be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prune: Vec<resources::PruneItem>,
    /// Why.
    pub cause: Cause,
    /// The file that the node's last instance was launched by, if the present one differs from it. It takes
    /// the place of the present one when EC2 refuses that and the node has no instance, or is about to lose
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Box<NodeSpec>>,
}

impl Order {
    /// The signal about the node's instance that led to the order, if one did.
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

/// An event of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "events are few and short-lived; boxes would only blur the shapes"
)]
pub enum OperationEvent {
    /// It began.
    Started(Order),
    /// A step may run: the whole request, written before the first call. The position of this event is the
    /// step's token.
    StepIntended {
        /// Its name.
        step: StepName,
        /// How many times this step has been intended in this operation, including this one.
        attempt: u32,
        /// The request.
        intent: Intent,
        /// It does not run before this time.
        not_before_ms: u64,
        /// It must settle by this time.
        deadline_ms: u64,
    },
    /// A step has settled.
    StepSettled {
        /// The step's token.
        #[schemars(with = "u64")]
        token: Token,
        /// Its name, for readers.
        step: StepName,
        /// The observation.
        evidence: Evidence,
    },
    /// A step has waited for a while, and still does. Told after a minute, when the reason changes, and ever
    /// more rarely.
    StepWaits {
        /// The step's token.
        #[schemars(with = "u64")]
        token: Token,
        /// Its name, for readers.
        step: StepName,
        /// What the last look saw, clipped.
        because: String,
        /// Whether it passes by itself: it is waited for as long as it takes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        hindered: bool,
        /// How many looks there were since the engine began with the step.
        looks: u32,
    },
    /// Another root method will be used.
    RootMethodChosen {
        /// The instance on which the previous method was tried; none if it could not be tried on any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<InstanceId>,
        /// The previous method.
        from: RootMethod,
        /// The new method.
        to: RootMethod,
        /// Why.
        because: String,
    },
    /// The new instance cannot carry the node: it is fenced, and another is launched.
    CandidateLost {
        /// The instance.
        instance: InstanceId,
        /// Why.
        because: String,
    },
    /// The notice is too short for optional steps, which would only have shortened the outage.
    Dropped {
        /// The steps, in the order in which they are dropped.
        steps: Vec<StepName>,
        /// Why.
        because: String,
    },
    /// A signal about an instance of this operation arrived.
    SignalReceived {
        /// The signal.
        signal: Signal,
    },
    /// No further step can be tried; every resource is kept.
    Stuck {
        /// The step that could not be done.
        step: StepName,
        /// Why.
        because: String,
        /// What the operator must do before `perennial workflow resume`.
        needs: String,
    },
    /// The operator asks to try again.
    Resumed {
        /// The requester.
        requested_by: String,
        /// The volumes whose loss is accepted: the root is new, from the node's image; a data volume is
        /// created again.
        #[serde(default)]
        accept_loss: Vec<Slot>,
        /// The node's file from now on, if a corrected one removes the obstacle.
        spec: NodeSpec,
        /// The address that was taken from the node's pool at the same time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<Ipv4Addr>,
        /// The addresses that were taken from pools of other subnets at the same time.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        addresses_elsewhere: BTreeMap<SubnetId, Ipv4Addr>,
        /// Lost volumes are restored from this backup.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<Restore>,
    },
    /// From now on the operation follows another file. Requests that were not made yet follow it.
    SpecChanged {
        /// The node's file, as the operation follows it.
        spec: NodeSpec,
        /// Why.
        because: SpecChange,
        /// The new root that was asked for is given up: the present one stays.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keeps_root: bool,
    },
    /// The node is no longer brought onto an instance: every resource is freed.
    Diverted {
        /// Why.
        cause: Cause,
        /// The classes that a following deletion keeps; without it the node is paused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delete: Option<Keep>,
    },
    /// The operator asks to undo it. This is possible only before the point of no return.
    CancelRequested {
        /// The requester.
        requested_by: String,
        /// The requester's reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A volume that was attached to the node's instance from outside Perennial is the node's from now on.
    VolumeFound {
        /// The instance.
        instance: InstanceId,
        /// Its place in the node.
        slot: Slot,
        /// The volume.
        held: HeldVolume,
    },
    /// Every resource is in place; or everything is undone, after a cancellation; or a deletion takes over.
    Finished {
        /// The node's resources from now on.
        resources: Resources,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Outcome::is_completed")]
        outcome: Outcome,
    },
}

/// Why an operation follows another file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpecChange {
    /// It was applied.
    Applied {
        /// The requester.
        requested_by: String,
    },
    /// EC2 refuses what the file says, and the node has no instance, or is about to lose it: the operation
    /// goes on with the file that the last instance was launched by.
    LastGood {
        /// What was refused.
        refused: String,
    },
}

impl fmt::Display for SpecChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { requested_by } => {
                write!(f, "goes on with the file that {requested_by} has applied")
            }
            Self::LastGood { refused } => {
                write!(f, "goes on with the file that the last instance was launched by: {refused}")
            }
        }
    }
}

/// The end of an operation that gave up bringing the node onto an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diversion {
    /// The classes that a following deletion keeps; without it the node is paused.
    pub delete: Option<Keep>,
    /// Why.
    pub cause: Cause,
}
