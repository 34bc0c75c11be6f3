//! `perennial workflow …`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use perennial_engine::ids::Token;
use perennial_engine::journal::Which;
use perennial_workflows::backup::BackupId;
use perennial_workflows::domain::OperationSummary;
use perennial_workflows::history::story;
use perennial_workflows::loss::Origin;
use perennial_workflows::node::OperationId;
use perennial_workflows::operation::{Status, StepRecord};
use perennial_workflows::steps::Slot;
use serde::Serialize;

use crate::commands::args::slot;
use crate::commands::files;
use crate::commands::history;
use crate::commands::submit::SubmitArgs;
use crate::commands::watch::{Progress, watch};
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::words;
use crate::output::{Output, table};
use crate::query;

/// What can be done with workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
    /// Submit a message as it would be sent to the queue
    #[command(after_help = "Example: perennial workflow submit -f replace-db-1.json --wait")]
    Submit(FileArgs),
    /// List the workflows
    #[command(after_help = "Example: perennial workflow list --open")]
    List(ListArgs),
    /// Show one workflow with all its steps
    #[command(after_help = "Example: perennial workflow show db-1.3")]
    Show(IdArgs),
    /// Follow a workflow until it is over (exit 0) or stuck (exit 1)
    #[command(after_help = "Example: perennial workflow watch db-1.3")]
    Watch(IdArgs),
    /// Let a stuck workflow try again
    #[command(
        after_help = "Example: perennial workflow resume db-1.3 --wait\n         perennial workflow resume db-1.3 --accept-loss root"
    )]
    Resume(ResumeArgs),
    /// Undo a workflow before its point of no return
    #[command(
        after_help = "Example: perennial workflow cancel db-1.3 --reason 'wrong node' --wait\n\nAfter the point of no return there is only forward: the answer says so (exit 1)."
    )]
    Cancel(CancelArgs),
}

/// Of `workflow submit`.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The submission, JSON or YAML; - reads stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `workflow list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those that run or are stuck
    #[arg(long)]
    open: bool,
}

/// A workflow's id.
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The workflow, such as db-1.3
    #[arg(value_parser = OperationId::parse)]
    id: OperationId,
}

/// Of `workflow resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    workflow: IdArgs,
    /// Give this up: root starts from the image, a data volume is made EMPTY
    #[arg(long, value_name = "SLOT", num_args = 1.., value_parser = slot)]
    accept_loss: Vec<Slot>,
    /// Bring what was lost back from this backup instead
    #[arg(long, value_name = "BACKUP", value_parser = BackupId::parse)]
    from_backup: Option<BackupId>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `workflow cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    workflow: IdArgs,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Runs one of them.
pub(crate) async fn run(
    command: &WorkflowCommand,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    match command {
        WorkflowCommand::Submit(args) => {
            let text = files::read(&args.file)?;
            let mut message: serde_json::Value = files::parse(&args.file, &text, "submission")?;
            complete(&mut message, &args.submit);
            args.submit.send(installation, output, &message).await
        }
        WorkflowCommand::List(args) => list(args, installation, output).await,
        WorkflowCommand::Show(args) => show(&args.id, installation, output).await,
        WorkflowCommand::Watch(args) => {
            let journal = installation.reader()?;
            query::operation(&journal, &args.id).await?;
            watch(&journal, output, Progress::Data, &args.id).await.map(drop)
        }
        WorkflowCommand::Resume(args) => {
            let mut params =
                serde_json::json!({ "workflow": args.workflow.id, "accept_loss": args.accept_loss });
            if let Some(backup) = &args.from_backup {
                params["from_backup"] = backup.to_string().into();
            }
            let message = args.submit.message("workflow.resume", None, params);
            args.submit.send(installation, output, &message).await
        }
        WorkflowCommand::Cancel(args) => {
            let mut params = serde_json::json!({ "workflow": args.workflow.id });
            if let Some(reason) = &args.reason {
                params["reason"] = reason.as_str().into();
            }
            let message = args.submit.message("workflow.cancel", None, params);
            args.submit.send(installation, output, &message).await
        }
    }
}

/// Flags go before the file; what the file leaves out that the CLI knows is added.
fn complete(message: &mut serde_json::Value, submit: &SubmitArgs) {
    let known = submit.message("", None, serde_json::Value::Null);
    let Some(fields) = message.as_object_mut() else { return };
    if submit.submission.is_some() || !fields.contains_key("id") {
        fields.insert("id".into(), known["id"].clone());
    }
    if submit.requested_by.is_some() || !fields.contains_key("requested_by") {
        fields.insert("requested_by".into(), known["requested_by"].clone());
    }
    fields.entry("schema").or_insert_with(|| known["schema"].clone());
}

#[derive(Serialize)]
struct Line {
    workflow: String,
    #[serde(flatten)]
    summary: OperationSummary,
}

async fn list(args: &ListArgs, installation: &Installation, output: Output) -> Result<(), Failure> {
    let which = if args.open { Which::Open } else { Which::All };
    let rows = query::summaries::<OperationSummary>(&installation.reader()?, "workflow", which).await?;
    let mut lines: Vec<Line> = rows
        .into_iter()
        .map(|(row, summary)| Line { workflow: row.stream.name().to_owned(), summary })
        .collect();
    lines.sort_by_key(|line| line.summary.started_at_ms);
    output.show(&lines, || {
        if lines.is_empty() {
            return "no workflows".to_owned();
        }
        table(
            &["WORKFLOW", "KIND", "STATUS", "STARTED", "TOOK", "CAUSE"],
            &[4],
            lines.iter().map(|line| {
                let summary = &line.summary;
                let took = summary.ended_at_ms.map(|end| end.saturating_sub(summary.started_at_ms));
                vec![
                    line.workflow.clone(),
                    summary.kind.to_string(),
                    summary.status.clone(),
                    words::minute(summary.started_at_ms),
                    took.map_or_else(|| "-".to_owned(), words::length),
                    summary.because.clone().unwrap_or_else(|| summary.cause.clone()),
                ]
            }),
        )
    })
}

/// One step for programs.
#[derive(Serialize)]
struct Step<'a> {
    token: u64,
    step: &'a str,
    attempt: u32,
    intended_at_ms: u64,
    not_before_ms: u64,
    deadline_ms: u64,
    settled_at_ms: Option<u64>,
    intent: &'a perennial_workflows::steps::Intent,
    evidence: Option<&'a perennial_workflows::steps::Evidence>,
}

#[derive(Serialize)]
struct Shown<'a> {
    workflow: &'a OperationId,
    kind: String,
    status: &'static str,
    because: Option<&'a str>,
    needs: Option<&'a str>,
    cause: &'a perennial_workflows::signal::Cause,
    started_at_ms: u64,
    ended_at_ms: Option<u64>,
    /// Where the content of the volumes comes from, and so what is lost.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    origins: BTreeMap<Slot, Origin>,
    steps: Vec<Step<'a>>,
}

async fn show(id: &OperationId, installation: &Installation, output: Output) -> Result<(), Failure> {
    let journal = installation.reader()?;
    let operation = query::operation(&journal, id).await?;
    let (status, because, needs, ended_at_ms) = match &operation.status {
        Status::Running => ("running", None, None, None),
        Status::Stuck { because, needs, since_ms, .. } => {
            ("stuck", Some(because.as_str()), Some(needs.as_str()), Some(*since_ms))
        }
        Status::Finished { at_ms, outcome } => (outcome.name(), None, None, Some(*at_ms)),
    };
    let told = story(id, &query::operation_events(&journal, id).await?);
    let shown = Shown {
        workflow: id,
        kind: operation.order.kind.to_string(),
        status,
        because,
        needs,
        cause: &operation.order.cause,
        started_at_ms: operation.started_at_ms,
        ended_at_ms,
        origins: told.as_ref().map(|story| story.origins.clone()).unwrap_or_default(),
        steps: operation.steps.iter().map(|(token, record)| step(*token, record)).collect(),
    };
    output.show(&shown, || told.as_ref().map(history::told).unwrap_or_default())
}

fn step(token: Token, record: &StepRecord) -> Step<'_> {
    Step {
        token: token.0,
        step: &record.step,
        attempt: record.attempt,
        intended_at_ms: record.intended_at_ms,
        not_before_ms: record.not_before_ms,
        deadline_ms: record.deadline_ms,
        settled_at_ms: record.outcome.as_ref().map(|(_, at_ms)| *at_ms),
        intent: &record.intent,
        evidence: record.outcome.as_ref().map(|(evidence, _)| evidence),
    }
}
