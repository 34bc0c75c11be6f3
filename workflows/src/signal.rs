//! What is heard from the world, and why an operation was started.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{InstanceId, InstanceState};

/// Something heard about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// About which instance.
    pub instance: InstanceId,
    /// What.
    pub news: News,
    /// From whom.
    pub source: Source,
    /// When the source says it happened, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// EC2 will take the instance.
    SpotInterruption {
        /// `terminate`, `stop` or `hibernate`.
        action: String,
        /// When, in milliseconds since the Unix epoch.
        deadline_ms: u64,
    },
    /// EC2 sees an elevated risk of interruption.
    Rebalance,
    /// The instance has another state.
    StateChange {
        /// Which.
        state: InstanceState,
    },
    /// The instance is not known any more, or its spot request says it is being taken.
    Missing {
        /// What was seen.
        because: String,
    },
}

/// From whom something was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An EventBridge event, by its id.
    Event {
        /// The event's id.
        id: String,
    },
    /// The sweep: describes of all nodes' instances and spot requests.
    Sweep,
}

impl Signal {
    /// Whether the instance is or will be taken from the node.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        match &self.news {
            News::SpotInterruption { .. } | News::Missing { .. } => true,
            News::Rebalance => false,
            News::StateChange { state } => match state {
                InstanceState::ShuttingDown
                | InstanceState::Terminated
                | InstanceState::Stopping
                | InstanceState::Stopped => true,
                InstanceState::Pending | InstanceState::Running => false,
            },
        }
    }

    /// Whether the instance will never run again.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(&self.news, News::StateChange { state } if state.is_over())
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = &self.instance;
        match &self.news {
            News::SpotInterruption { action, .. } => {
                write!(f, "spot interruption warning: {instance} will get {action}")?;
            }
            News::Rebalance => write!(f, "rebalance recommendation for {instance}")?,
            News::StateChange { state } => write!(f, "{instance} is {state}")?,
            News::Missing { because } => write!(f, "{instance}: {because}")?,
        }
        match &self.source {
            Source::Event { .. } => f.write_str(" (event)"),
            Source::Sweep => f.write_str(" (found by the sweep)"),
        }
    }
}

/// Why an operation was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it.
    Request {
        /// The submission's id.
        submission: String,
        /// Who.
        requested_by: String,
        /// In their words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Something was heard.
    Signal {
        /// What.
        signal: Signal,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { requested_by, reason: None, .. } => write!(f, "asked for by {requested_by}"),
            Self::Request { requested_by, reason: Some(reason), .. } => {
                write!(f, "asked for by {requested_by}: {reason}")
            }
            Self::Signal { signal } => signal.fmt(f),
        }
    }
}
