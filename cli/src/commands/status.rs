//! `perennial status`: the state of everything in a few lines, and an exit code for a check that runs every
//! minute.

use clap::{Args, ValueEnum};
use perennial_views::model::node::Condition;
use perennial_views::model::status::StatusView;

use crate::commands::present;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Output, status};

/// Of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Exit with 1 if there is any of these
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT,…")]
    fail_on: Vec<FailOn>,
    /// Print nothing unless it exits with 1
    #[arg(long, short)]
    quiet: bool,
}

/// What a check can fail on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// A workflow waits for a person.
    Stuck,
    /// A node has no instance that has everything of it.
    Down,
    /// The account has what the journal cannot know.
    Behind,
    /// No server runs on the journal.
    Server,
}

impl FailOn {
    /// What was found of it.
    fn found(self, view: &StatusView) -> Option<String> {
        let count = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
        match self {
            Self::Stuck => count(view.count(Condition::Stuck), "stuck"),
            Self::Down => count(view.down, "down"),
            Self::Behind => count(view.count(Condition::Behind), "behind the account"),
            Self::Server => {
                let runs = view.server.as_ref().is_none_or(|server| server.running);
                (!runs).then(|| "no server runs".to_owned())
            }
        }
    }
}

/// Shows the state of everything.
pub(crate) async fn run(
    args: &StatusArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let views = installation.views()?;
    let now_ms = present::now_ms(installation).await;
    let view = StatusView::new(present::server(installation, &views).await, views.nodes(now_ms).await?);
    let found: Vec<String> = args.fail_on.iter().filter_map(|on| on.found(&view)).collect();
    if !args.quiet || !found.is_empty() {
        output.show(&view, || status::text(&view, now_ms))?;
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::failed(found.join(", "))) }
}
