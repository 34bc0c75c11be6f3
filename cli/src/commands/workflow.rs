//! `perennial workflow …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use perennial_views::Views;
use perennial_workflows::model::backup_id::BackupId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::model::volume::Slot;

use crate::commands::args::slot;
use crate::commands::submit::SubmitArgs;
use crate::commands::watch::{Progress, watch};
use crate::commands::{files, list, present};
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Format, Output, workflow};

/// What can be done with workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
    /// Submit a message from a file, as a program would send it
    #[command(after_help = "Example: perennial workflow submit -f replace-db-1.json --wait")]
    Submit(FileArgs),
    /// List the workflows, the newest last
    #[command(
        after_help = "Example: perennial workflow list --open\n         perennial workflow list --node db-1 --kind replace --since 24h -n 20"
    )]
    List(list::WorkflowListArgs),
    /// Show one workflow with all its steps
    #[command(after_help = "Example: perennial workflow show db-1.3\n         perennial workflow show db-1")]
    Show(NewestArgs),
    /// Watch a workflow until it is over (exit 0) or stuck (exit 1)
    #[command(
        after_help = "Example: perennial workflow watch db-1.3\n         perennial workflow watch db-1"
    )]
    Watch(NewestArgs),
    /// Retry a stuck workflow
    #[command(
        after_help = "Example: perennial workflow resume db-1.3 --wait\n         perennial workflow resume db-1.3 --accept-loss root"
    )]
    Resume(ResumeArgs),
    /// Undo a workflow before its point of no return
    #[command(
        after_help = "Example: perennial workflow cancel db-1.3 --reason 'wrong node' --wait\n\nAfter its point of no return a workflow cannot be cancelled (exit 1)."
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

/// A workflow, or a node's newest one.
#[derive(Debug, Args)]
pub(crate) struct NewestArgs {
    /// The workflow, such as db-1.3; of a node its newest one
    #[arg(value_parser = workflow_or_node, value_name = "ID|NODE")]
    id: WorkflowOrNode,
}

/// A workflow, or a node.
#[derive(Debug, Clone)]
enum WorkflowOrNode {
    Workflow(OperationId),
    Node(NodeName),
}

fn workflow_or_node(text: &str) -> Result<WorkflowOrNode, String> {
    if let Ok(id) = OperationId::parse(text) {
        return Ok(WorkflowOrNode::Workflow(id));
    }
    let named = NodeName::parse(text).map(WorkflowOrNode::Node);
    named.map_err(|_| format!("{text:?} names neither a workflow, such as db-1.3, nor a node"))
}

impl WorkflowOrNode {
    /// The workflow that is meant.
    async fn id(&self, views: &Views) -> Result<OperationId, Failure> {
        match self {
            Self::Workflow(id) => Ok(id.clone()),
            Self::Node(name) => match views.node(name, 0).await {
                Ok(node) => Ok(OperationId::new(name.clone(), node.operations)),
                Err(error) => Err(present::failure(views, error).await),
            },
        }
    }
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
    /// Accept the loss: root starts from the image, a data volume is EMPTY
    #[arg(long, value_name = "SLOT", num_args = 1.., value_parser = slot)]
    accept_loss: Vec<Slot>,
    /// Restore what was lost from this backup instead
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
    /// The reason, for the history
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
            let mut message = files::submission(&args.file, &text)?;
            complete(&mut message, &args.submit);
            args.submit.send(installation, output, &message).await
        }
        WorkflowCommand::List(args) => list::workflows(args, installation, output).await,
        WorkflowCommand::Show(args) => show(&args.id, installation, output).await,
        WorkflowCommand::Watch(args) => {
            let views = present::views(installation, output).await?;
            let id = args.id.id(&views).await?;
            views.story(&id).await?;
            watch((&views, installation), output, Progress::Data, &id).await.map(drop)
        }
        WorkflowCommand::Resume(args) => {
            let mut params =
                serde_json::json!({ "workflow": args.workflow.id, "accept_loss": args.accept_loss });
            if let Some(backup) = &args.from_backup {
                params["from_backup"] = backup.to_string().into();
            }
            args.submit.submit(installation, output, ("workflow.resume", None), params).await
        }
        WorkflowCommand::Cancel(args) => {
            let mut params = serde_json::json!({ "workflow": args.workflow.id });
            if let Some(reason) = &args.reason {
                params["reason"] = reason.as_str().into();
            }
            args.submit.submit(installation, output, ("workflow.cancel", None), params).await
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

async fn show(id: &WorkflowOrNode, installation: &Installation, output: Output) -> Result<(), Failure> {
    let views = present::views(installation, output).await?;
    let now_ms = present::now_ms(installation).await;
    let id = &id.id(&views).await?;
    let view = views.workflow(id, now_ms).await?;
    if output.format == Format::Json {
        return output.json(&view);
    }
    let story = views.story(id).await?;
    output.show(&view, || workflow::show(&view, &story, now_ms))
}
