//! Signals about instances, and the causes of operations.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{InstanceId, InstanceState, VolumeId};

/// A report about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// The instance.
    pub instance: InstanceId,
    /// The content of the report.
    pub news: News,
    /// The source of the report.
    pub source: Source,
    /// When the source says it happened, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The content of a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// EC2 will take the instance.
    SpotInterruption {
        /// `terminate`, `stop` or `hibernate`.
        action: String,
        /// The time, in milliseconds since the Unix epoch.
        deadline_ms: u64,
    },
    /// EC2 will take the instance, because the owner of its interruptible capacity reservation takes it back.
    ReservationInterruption {
        /// `terminate`.
        action: String,
        /// The time, in milliseconds since the Unix epoch.
        deadline_ms: u64,
    },
    /// EC2 sees an elevated risk of interruption.
    Rebalance,
    /// The instance has another state.
    StateChange {
        /// The new state.
        state: InstanceState,
    },
    /// AWS Health announces a change of the instance (`scheduledChange` of EC2).
    ScheduledChange {
        /// AWS's name for it, such as `AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED`.
        code: String,
        /// Its effect on the instance.
        effect: Effect,
        /// When it begins, in milliseconds since the Unix epoch; none when the event's date could not be
        /// read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        begins_ms: Option<u64>,
    },
    /// EC2 no longer knows the instance, or its spot request says it is being taken.
    Missing {
        /// What was seen.
        because: String,
    },
    /// EC2's status checks of the instance fail (DescribeInstanceStatus).
    Impaired {
        /// The failing checks.
        checks: Vec<StatusCheck>,
        /// The beginning of the failure, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
}

/// One of EC2's status checks (EC2 User Guide, "Status checks for Amazon EC2 instances").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusCheck {
    /// The host: power, network, hardware. Moving to another host helps.
    System,
    /// The machine itself: its system does not answer. Moving to another host may help, or not: the root
    /// moves along.
    Instance,
    /// Its volumes cannot be reached. Moving to another host does not help with a problem of EBS.
    AttachedEbs,
}

impl fmt::Display for StatusCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::System => "system",
            Self::Instance => "instance",
            Self::AttachedEbs => "attached EBS",
        })
    }
}

/// The effect of a scheduled change on an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// AWS will stop or terminate it: its host is to be retired.
    Retirement,
    /// It is restarted, or loses network or power for a while, and stays.
    Maintenance,
    /// The change is over, or was called off.
    Settled,
}

/// How certain it is that an instance is being taken from its node. All signals about an instance feed one
/// incident with rising certainty; a signal no more certain than the last is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// It is well, as far as reported.
    Well,
    /// It may be taken: a rebalance recommendation.
    Possible,
    /// It will be taken some day: a retirement.
    Announced,
    /// It is about to be taken, or stops.
    Warned,
    /// It will never run again.
    Over,
}

/// The source of a signal.
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
    pub fn is_loss(&self) -> bool {
        self.certainty() >= Certainty::Announced
    }

    /// How certain it is that the instance is being taken.
    #[must_use]
    pub const fn certainty(&self) -> Certainty {
        match &self.news {
            News::SpotInterruption { .. } | News::ReservationInterruption { .. } | News::Missing { .. } => {
                Certainty::Warned
            }
            News::Rebalance | News::Impaired { .. } => Certainty::Possible,
            News::ScheduledChange { effect, .. } => match effect {
                Effect::Retirement => Certainty::Announced,
                Effect::Maintenance | Effect::Settled => Certainty::Well,
            },
            News::StateChange { state } => match state {
                InstanceState::ShuttingDown | InstanceState::Terminated => Certainty::Over,
                InstanceState::Stopping | InstanceState::Stopped => Certainty::Warned,
                InstanceState::Pending | InstanceState::Running => Certainty::Well,
            },
        }
    }

    /// Whether it announces that the instance will be taken, and leaves time until then.
    #[must_use]
    pub fn is_notice(&self) -> bool {
        match &self.news {
            News::SpotInterruption { .. } | News::ReservationInterruption { .. } => true,
            News::ScheduledChange { effect, .. } => *effect == Effect::Retirement,
            News::Rebalance | News::StateChange { .. } | News::Missing { .. } | News::Impaired { .. } => {
                false
            }
        }
    }

    /// When the instance is taken, in milliseconds since the Unix epoch, if the signal says so.
    #[must_use]
    pub const fn deadline_ms(&self) -> Option<u64> {
        match &self.news {
            News::SpotInterruption { deadline_ms, .. }
            | News::ReservationInterruption { deadline_ms, .. } => Some(*deadline_ms),
            News::ScheduledChange { begins_ms, effect: Effect::Retirement, .. } => *begins_ms,
            News::ScheduledChange { .. }
            | News::Rebalance
            | News::StateChange { .. }
            | News::Missing { .. }
            | News::Impaired { .. } => None,
        }
    }

    /// Whether it reports a newer state of the other signal's subject.
    #[must_use]
    pub fn is_of_the_kind_of(&self, other: &Self) -> bool {
        match (&self.news, &other.news) {
            (News::ScheduledChange { code, .. }, News::ScheduledChange { code: other, .. }) => code == other,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
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
            News::ReservationInterruption { action, .. } => {
                write!(f, "capacity reservation interruption warning: {instance} will get {action}")?;
            }
            News::SpotInterruption { action, .. } => {
                write!(f, "spot interruption warning: {instance} will get {action}")?;
            }
            News::Rebalance => write!(f, "rebalance recommendation for {instance}")?,
            News::StateChange { state } => write!(f, "{instance} is {state}")?,
            News::ScheduledChange { code, effect, begins_ms } => {
                match effect {
                    Effect::Retirement => write!(f, "scheduled change: {instance} will be retired")?,
                    Effect::Maintenance => write!(f, "scheduled change: {instance} will be maintained")?,
                    Effect::Settled => write!(f, "scheduled change of {instance} is over")?,
                }
                match begins_ms {
                    _ if *effect == Effect::Settled => {}
                    Some(begins_ms) => write!(f, " in {}", Ahead(begins_ms.saturating_sub(self.at_ms)))?,
                    None => f.write_str(" at a time that could not be read")?,
                }
                write!(f, " ({code})")?;
            }
            News::Missing { because } => write!(f, "{instance}: {because}")?,
            News::Impaired { checks, since_ms } => {
                let checks: Vec<String> = checks.iter().map(ToString::to_string).collect();
                let (checks, since) = (checks.join(" and "), Ahead(self.at_ms.saturating_sub(*since_ms)));
                write!(f, "status check of {instance} impaired for {since}: {checks}")?;
            }
        }
        match &self.source {
            Source::Event { .. } => f.write_str(" (event)"),
            Source::Sweep => f.write_str(" (found by the sweep)"),
        }
    }
}

/// A length of time in everyday words.
struct Ahead(u64);

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0 / 60_000;
        match minutes {
            0..120 => write!(f, "{minutes} min"),
            120..2_880 => write!(f, "{} h", minutes / 60),
            _ => write!(f, "{} days", minutes / 1_440),
        }
    }
}

/// Why an operation was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An operator asked for it.
    Request {
        /// The submission's id.
        submission: String,
        /// The requester.
        requested_by: String,
        /// The requester's reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Who sent it, as the queue has authenticated them (SQS: `SenderId`); `requested_by` is only what
        /// the sender says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sender: Option<String>,
    },
    /// A signal arrived.
    Signal {
        /// The signal.
        signal: Signal,
    },
    /// The node runs on demand, and spot may carry it again.
    ReturnToSpot {
        /// The reasons for the return.
        because: String,
    },
    /// The sweep saw volumes on the instance that are not the node's.
    Found {
        /// The instance.
        instance: InstanceId,
        /// The volumes.
        volumes: Vec<VolumeId>,
    },
    /// The node file was changed while another operation held the node.
    FileChanged {
        /// The last requester of a change.
        requested_by: String,
    },
    /// Volumes have been retained for longer than the node file says.
    RetainedLonger {
        /// The file's limit (`persist.retain_days`).
        retain_days: u32,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { requested_by, reason, sender, .. } => {
                write!(f, "asked for by {requested_by}")?;
                if let Some(sender) = sender {
                    write!(f, " (sender {sender})")?;
                }
                match reason {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
            Self::Signal { signal } => signal.fmt(f),
            Self::ReturnToSpot { because } => write!(f, "return to spot: {because}"),
            Self::Found { instance, volumes } => {
                let volumes: Vec<&str> = volumes.iter().map(VolumeId::as_str).collect();
                write!(f, "found on {instance}: {} (by the sweep)", volumes.join(", "))
            }
            Self::FileChanged { requested_by } => write!(f, "the node file was changed by {requested_by}"),
            Self::RetainedLonger { retain_days } => {
                write!(f, "retained for longer than persist.retain_days: {retain_days} (by the node file)")
            }
        }
    }
}
