//! `perennial policy`: the IAM policy of the engine, filled in.

use clap::{Args, ValueEnum};
use perennial_workers::port::permissions::{Fillings, Need, Unfilled, policy};

use crate::failure::Failure;
use crate::output::Output;

/// What a policy is needed for, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NeedKind {
    /// Nodes that stay in their zone, with the same volumes
    Base,
    /// Backups, restores, moves to another zone, roots that cannot be adopted
    Restore,
    /// Volumes that were attached by hand, without the owner's tag
    AttachedVolumes,
    /// Volumes encrypted with your own key (--key)
    CustomerKeys,
    /// The first spot instance of an account
    SpotRole,
    /// Nodes with an instance profile (--role)
    NodeRole,
    /// The queues in SQS
    Queues,
    /// The policy of the queue of events itself; stands alone
    QueueOfEvents,
}

impl NeedKind {
    const fn need(self) -> Need {
        match self {
            Self::Base => Need::Base,
            Self::Restore => Need::Restore,
            Self::AttachedVolumes => Need::AttachedVolumes,
            Self::CustomerKeys => Need::CustomerKeys,
            Self::SpotRole => Need::SpotRole,
            Self::NodeRole => Need::NodeRole,
            Self::Queues => Need::Queues,
            Self::QueueOfEvents => Need::QueueOfEvents,
        }
    }
}

/// Of `policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// What it is needed for [default: base, restore, spot-role, queues; with --role node-role, with --key
    /// customer-keys]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NEED")]
    need: Vec<NeedKind>,
    /// The owner of the installation
    #[arg(long)]
    owner: Option<String>,
    /// The account, of twelve digits
    #[arg(long, value_parser = account)]
    account: Option<String>,
    /// The role in the nodes' instance profiles; may end in *
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// The key that volumes are encrypted with
    #[arg(long, value_name = "ARN")]
    key: Option<String>,
    /// The queues, as a name or a pattern [default: perennial-*; of the queue of events
    /// perennial-interruptions]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// The region; only the policy of the queue of events needs it
    #[arg(long)]
    region: Option<String>,
}

fn account(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("an account has twelve digits".to_owned())
    }
}

impl PolicyArgs {
    fn needs(&self) -> Result<Vec<Need>, Failure> {
        if self.need.is_empty() {
            let mut needs = vec![Need::Base, Need::Restore, Need::SpotRole, Need::Queues];
            needs.extend(self.role.as_ref().map(|_| Need::NodeRole));
            needs.extend(self.key.as_ref().map(|_| Need::CustomerKeys));
            return Ok(needs);
        }
        let needs: Vec<Need> = self.need.iter().map(|need| need.need()).collect();
        if needs.len() > 1 && needs.iter().any(|need| need.is_of_a_queue()) {
            return Err(Failure::user("the policy of a queue stands alone: the others are a role's")
                .hint("ask for it by itself: --need queue-of-events"));
        }
        Ok(needs)
    }
}

/// Prints the policy.
pub(crate) fn run(args: &PolicyArgs, output: Output) -> Result<(), Failure> {
    let needs = args.needs()?;
    let queue = match needs.as_slice() {
        [Need::QueueOfEvents] => "perennial-interruptions",
        _ => "perennial-*",
    };
    let fillings = Fillings {
        owner: args.owner.clone(),
        account: args.account.clone(),
        region: args.region.clone(),
        role: args.role.clone(),
        key: args.key.clone(),
        queue: Some(args.queue.clone().unwrap_or_else(|| queue.to_owned())),
    };
    let document = policy(&needs, &fillings).map_err(|error @ Unfilled { .. }| {
        let hint = format!("add --{}", error.placeholder);
        Failure::user(error).hint(&hint)
    })?;
    output.json(&document)
}
