//! `perennial audit` and `perennial submission …`: who asked for what, and what became of it.

use clap::{Args, Subcommand, ValueEnum};
use perennial_views::model::audit::{AuditFilter, AuditKind, AuditLine};
use perennial_workflows::model::name::NodeName;

use crate::commands::list::{Since, since};
use crate::commands::present;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Format, Output, audit};

/// How many submissions are listed if nothing is said: the newest ones.
const SUBMISSIONS_SHOWN: usize = 50;

/// Of `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only what is about this node
    #[arg(value_parser = NodeName::parse)]
    node: Option<NodeName>,
    /// Not before: 30d ago, or a moment
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<Since>,
    /// Not from then on: a moment, or so long ago
    #[arg(long, value_parser = since, value_name = "TIME")]
    until: Option<Since>,
    /// Only what this person or source asked for
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Only these deeds, such as node.delete or replace
    #[arg(long, value_name = "DEED")]
    what: Option<String>,
    /// Only what was refused
    #[arg(long)]
    refused: bool,
    /// Another form than a table: comma-separated values, or one HTML page
    #[arg(long, value_enum)]
    format: Option<Form>,
}

/// The form of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// One page that needs nothing else.
    Html,
}

/// What can be asked of submissions.
#[derive(Debug, Subcommand)]
pub(crate) enum SubmissionCommand {
    /// List the submissions that a server has answered, the newest last
    #[command(after_help = "Example: perennial submission list --rejected --since 24h")]
    List(SubmissionListArgs),
    /// Show what became of one
    #[command(after_help = "Example: perennial submission show 2026-11-29-kernel")]
    Show(SubmissionShowArgs),
}

/// Of `submission list`.
#[derive(Debug, Args)]
pub(crate) struct SubmissionListArgs {
    /// Only those that were refused
    #[arg(long)]
    rejected: bool,
    /// Only those about this node
    #[arg(long, value_parser = NodeName::parse)]
    node: Option<NodeName>,
    /// Not before: 24h ago, or a moment
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<Since>,
    /// At most so many, the newest ones; 0 for all
    #[arg(short = 'n', long = "limit", value_name = "N", default_value_t = SUBMISSIONS_SHOWN)]
    limit: usize,
}

/// Of `submission show`.
#[derive(Debug, Args)]
pub(crate) struct SubmissionShowArgs {
    /// Its idempotency key
    id: String,
}

/// Shows the audit.
pub(crate) async fn run(
    args: &AuditArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let now_ms = present::now_ms(installation).await;
    let filter = AuditFilter {
        node: args.node.as_ref().map(ToString::to_string),
        who: args.by.clone(),
        what: args.what.clone(),
        refused: args.refused,
        from_ms: args.since.map(|since| since.at_ms(now_ms)),
        until_ms: args.until.map(|until| until.at_ms(now_ms)),
        kind: None,
    };
    let view = installation.views()?.audit(&filter).await?;
    match args.format {
        Some(Form::Csv) => output.text(audit::csv(&view).trim_end()),
        Some(Form::Html) => output.text(&audit::html(&view, args.node.as_ref(), now_ms)),
        None => output.show(&view, || audit::table_of(&view)),
    }
}

/// Runs one of them.
pub(crate) async fn submissions(
    command: &SubmissionCommand,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let now_ms = present::now_ms(installation).await;
    let views = installation.views()?;
    let kind = Some(AuditKind::Submission);
    match command {
        SubmissionCommand::List(args) => {
            let filter = AuditFilter {
                node: args.node.as_ref().map(ToString::to_string),
                refused: args.rejected,
                from_ms: args.since.map(|since| since.at_ms(now_ms)),
                kind,
                ..AuditFilter::default()
            };
            let mut lines = views.audit(&filter).await?.lines;
            if args.limit > 0 {
                lines.drain(..lines.len().saturating_sub(args.limit));
            }
            match output.format {
                Format::Name => {
                    lines.iter().try_for_each(|line| output.text(line.submission.as_deref().unwrap_or("-")))
                }
                _ => output.show(&lines, || audit::submissions(&lines)),
            }
        }
        SubmissionCommand::Show(args) => {
            let lines = views.audit(&AuditFilter { kind, ..AuditFilter::default() }).await?.lines;
            let is_it = |line: &&AuditLine| line.submission.as_deref() == Some(args.id.as_str());
            match lines.iter().find(is_it) {
                Some(line) => output.show(line, || audit::one(line)),
                None => Err(Failure::user(format!("no server has answered a submission {}", args.id)).hint(
                    "it is still in the queue, or was never sent: `perennial doctor` counts what waits",
                )),
            }
        }
    }
}
