//! `perennial policy`: the IAM policy of the engine, filled in.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use perennial_workers::port::permissions::{Fillings, Need, Unfilled, policy};

use crate::failure::Failure;
use crate::output::Output;

/// What a policy is needed for, as an argument.
fn need() -> impl TypedValueParser<Value = Need> {
    let values = Need::ALL.map(|need| PossibleValue::new(need.name()).help(need.about()));
    PossibleValuesParser::new(values).map(|name| {
        let is_it = |need: &Need| need.name() == name;
        Need::ALL.into_iter().find(is_it).unwrap_or_else(|| unreachable!("BUG: {name} is one of these"))
    })
}

/// Of `policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// What it is needed for [default: base, restore, spot-role, queues; with --role node-role, with --key
    /// customer-keys]
    #[arg(long, value_parser = need(), value_delimiter = ',', value_name = "NEED")]
    need: Vec<Need>,
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
        let needs = self.need.clone();
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
