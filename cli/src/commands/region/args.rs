//! What can be done to a simulated region, as arguments.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::commands::region::client::At;

/// Reads how many times as fast as real time a region runs.
pub(crate) fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.0..=100_000.0).contains(&speed) => Ok(speed),
        _ => Err("use a number from 0 to 100000".to_owned()),
    }
}

fn field(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("use FIELD=VALUE, such as exit_code=1")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    Ok((name.to_owned(), value))
}

/// How a spot instance is warned of its interruption.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum NoticeKind {
    /// By an event, instance metadata and the spot request
    Full,
    /// By instance metadata and the spot request, without an event
    Silent,
    /// No warning: it is terminated at once
    None,
    /// No warning, and no event about the termination
    Vanish,
}

/// A market of capacity.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum MarketKind {
    /// Spot capacity
    Spot,
    /// On-demand capacity
    OnDemand,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FaultKind {
    /// An error is answered; the call has no effect
    Before,
    /// An error is answered; the call took effect
    After,
    /// The connection is closed; the call has no effect
    LostRequest,
    /// The connection is closed; the call took effect
    LostReply,
    /// The answer is late
    Delay,
}

/// What can be done to a region.
#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Interrupt a spot instance, with two minutes' notice
    #[command(after_help = "Example: perennial region interrupt db-1 --lead 30")]
    Interrupt {
        /// The instance: its id, or its Name or perennial:node tag
        instance: String,
        /// Seconds of the region between notice and end [default: 120]
        #[arg(long, value_name = "SECONDS")]
        lead: Option<f64>,
        /// How the instance is warned
        #[arg(long, value_enum, default_value_t = NoticeKind::Full)]
        notice: NoticeKind,
        /// Recommend a rebalance so many seconds before the notice
        #[arg(long, value_name = "SECONDS")]
        rebalance_first: Option<f64>,
        #[command(flatten)]
        at: At,
    },
    /// Send a rebalance recommendation only
    #[command(after_help = "Example: perennial region rebalance db-1")]
    Rebalance {
        /// The instance
        instance: String,
        #[command(flatten)]
        at: At,
    },
    /// Withdraw a notice: the instance was warned, not interrupted
    #[command(after_help = "Example: perennial region spare db-1")]
    Spare {
        /// The instance
        instance: String,
        #[command(flatten)]
        at: At,
    },
    /// Terminate an instance, as an operator would by hand
    #[command(after_help = "Example: perennial region terminate db-1")]
    Terminate {
        /// The instance
        instance: String,
        #[command(flatten)]
        at: At,
    },
    /// Make an instance's status checks fail, or pass again
    #[command(after_help = "Example: perennial region impair db-1")]
    Impair {
        /// The instance
        instance: String,
        /// Make them pass again
        #[arg(long)]
        heal: bool,
        #[command(flatten)]
        at: At,
    },
    /// Detach an interface, as an operator would by hand
    #[command(after_help = "Example: perennial region detach-interface eni-0123456789abcdef0")]
    DetachInterface {
        /// The interface
        interface: String,
        #[command(flatten)]
        at: At,
    },
    /// Set the capacity for an instance type
    #[command(after_help = "Example: perennial region capacity m6i.large 0 --zone us-east-1a")]
    Capacity {
        /// The instance type
        r#type: String,
        /// A number of launches, `unlimited` or `unsupported`
        capacity: String,
        /// Only in this zone
        #[arg(long)]
        zone: Option<String>,
        /// The market
        #[arg(long, value_enum, default_value_t = MarketKind::Spot)]
        market: MarketKind,
        #[command(flatten)]
        at: At,
    },
    /// Make calls fail; without a command, list the rules
    #[command(after_help = "Example: perennial region faults add RunInstances lost-reply --next 2")]
    Faults {
        #[command(subcommand)]
        command: Option<FaultsCommand>,
        #[command(flatten)]
        at: At,
    },
    /// Make the next launch end terminated, with a reason
    #[command(after_help = "Example: perennial region fail-launch Client.InternalError")]
    FailLaunch {
        /// The code of the reason
        #[arg(default_value = "Server.InternalError")]
        reason: String,
        #[command(flatten)]
        at: At,
    },
    /// Make the next attachment or detachment of a volume hang
    #[command(after_help = "Example: perennial region stick detach")]
    Stick {
        /// attach or detach
        what: String,
        #[command(flatten)]
        at: At,
    },
    /// Show the region's time; move it, or change its speed
    #[command(after_help = "Example: perennial region clock --advance 3600")]
    Clock {
        /// Seconds to advance at once
        #[arg(long, value_name = "SECONDS")]
        advance: Option<f64>,
        /// How many times as fast as real time from now on
        #[arg(long, value_parser = speed)]
        speed: Option<f64>,
        #[command(flatten)]
        at: At,
    },
    /// Write a record to a volume, as the node's software would
    #[command(after_help = "Example: perennial region write db-1 /dev/sdf 'order 4711'")]
    Write {
        /// The instance with the volume; or a volume's id, and then no device
        target: String,
        /// The device, and the record; of a volume the record alone
        #[arg(required = true, num_args = 1..=2, value_names = ["DEVICE", "RECORD"])]
        what: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Show the content of a volume, even of a deleted one
    #[command(after_help = "Example: perennial region read db-1 /dev/sdf")]
    Read {
        /// The volume's id; or the instance with it, and then its device
        target: String,
        /// The device
        device: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Show all resources in tables; as JSON the whole state
    #[command(after_help = "Example: perennial region dump --output json | jq .volumes")]
    Dump {
        #[command(flatten)]
        at: At,
    },
    /// List the leaked resources of an owner; exit 1 if any
    #[command(after_help = "Example: perennial region leaks --owner default --expected i-0123456789abcdef0")]
    Leaks {
        /// The value of the tag perennial:owner
        #[arg(long, default_value = "default")]
        owner: String,
        /// The id of an expected resource; may be repeated
        #[arg(long = "expected", value_name = "ID")]
        expected: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Send any action to the control surface (docs/region.md)
    #[command(after_help = "Example: perennial region post command contains=backup exit_code=1")]
    Post {
        /// The action, such as `mount` or `command`
        #[arg(value_name = "ACTION")]
        action: String,
        /// With these fields; a value is JSON, or else a text
        #[arg(value_name = "FIELD=VALUE", value_parser = field)]
        fields: Vec<(String, Value)>,
        #[command(flatten)]
        at: At,
    },
    /// Check the invariants of the model; exit 1 if one is broken
    #[command(after_help = "Example: perennial region check")]
    Check {
        #[command(flatten)]
        at: At,
    },
    /// Show the newest calls, and the parameters that were ignored
    #[command(after_help = "Example: perennial region calls | tail")]
    Calls {
        #[command(flatten)]
        at: At,
    },
}

/// What can be done about failing calls.
#[derive(Debug, Subcommand)]
pub(crate) enum FaultsCommand {
    /// Make calls fail
    #[command(after_help = "Example: perennial region faults add RunInstances after --code InternalError")]
    Add {
        /// A call of any service by its name, `acts`, `looks` or `*`
        action: String,
        /// How they fail
        #[arg(value_enum)]
        fault: FaultKind,
        /// The error code, with before and after [default: InternalError]
        #[arg(long)]
        code: Option<String>,
        /// The delay in milliseconds
        #[arg(long, required_if_eq("fault", "delay"))]
        delay_ms: Option<u64>,
        /// The next N calls [default: 1]
        #[arg(long, value_name = "N", group = "when")]
        next: Option<u64>,
        /// The N-th call from now
        #[arg(long, value_name = "N", group = "when")]
        nth: Option<u64>,
        /// So many of a thousand calls
        #[arg(long, value_name = "N", group = "when")]
        per_mille: Option<u64>,
        /// Every call
        #[arg(long, group = "when")]
        always: bool,
    },
    /// Remove all rules
    Clear,
}
