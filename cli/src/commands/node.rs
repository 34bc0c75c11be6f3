//! `perennial node …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use perennial_views::model::node::renamed;
use perennial_views::model::plan::SpecPlans;
use perennial_workflows::model::aws::ImageId;
use perennial_workflows::model::backup_id::BackupId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::restore::Keep;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::view::plan::{Assumption, Presence};

use crate::commands::args::{NameArgs, reasoned, slot};
use crate::commands::submit::SubmitArgs;
use crate::commands::{apply, confirm, files, list, preflight, present, prune};
use crate::failure::{Failure, chain};
use crate::installation::Installation;
use crate::output::{Output, backups, history, node, plan, words};

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Create nodes, or change their specification
    #[command(
        after_help = "Example: perennial node apply -f db-1.yaml --wait\n         perennial node apply -f nodes/ --dry-run\n\nBefore a node is changed it shows the difference, and asks at a terminal."
    )]
    Apply(apply::ApplyArgs),
    /// Show what node files would change
    #[command(after_help = "Example: perennial node diff -f db-1.yaml")]
    Diff(apply::DiffArgs),
    /// List the nodes, those in trouble first
    #[command(
        after_help = "Example: perennial node list\n         perennial node list --state stuck,down -o name\n         perennial node list -l team=db --sort age -n 20 -o wide"
    )]
    List(list::NodeListArgs),
    /// Show one node: its instance, volumes and addresses
    #[command(after_help = "Example: perennial node show db-1")]
    Show(NameArgs),
    /// Show the steps of a replacement without running it
    #[command(after_help = "Example: perennial node plan db-1\n         perennial node plan -f db-1.yaml")]
    Plan(PlanArgs),
    /// Move the node to a new instance
    #[command(after_help = "Example: perennial node replace db-1 --reason 'new kernel' --wait")]
    Replace(MoveArgs),
    /// Replace the instance; with --reimage the root volume too
    #[command(
        after_help = "Example: perennial node recycle db-1 --wait\n         perennial node recycle db-1 --reimage ami-0123456789abcdef0\n\nWith --reimage the node gets a new root volume from the image. The old one is\nretained but no longer used. Data volumes and the address stay."
    )]
    Recycle(RecycleArgs),
    /// Restore the node's volumes from a backup
    #[command(
        after_help = "Example: perennial node restore db-1 --backup db-1.b12 --wait\n\nThe node loses everything written after the backup. The present volumes are\nretained, never deleted. `perennial node backups db-1` lists the backups.\n\n         perennial node restore db-1 --backup db-1.b12 --as-new db-2 --wait\n\nWith --as-new a new node is created from the backup, and db-1 stays as it is.\nThe new node's file cannot name the address or Elastic IP address of db-1."
    )]
    Restore(RestoreArgs),
    /// Terminate the instance and keep everything else
    #[command(
        after_help = "Example: perennial node pause db-1 --wait\n\nA node that is being provisioned or replaced can be paused too: an instance\nthat was launched for it is terminated."
    )]
    Pause(MoveArgs),
    /// Launch an instance for a paused node
    #[command(after_help = "Example: perennial node resume db-1 --wait")]
    Resume(ReplaceArgs),
    /// Delete retained volumes that the node no longer uses
    #[command(
        after_help = "Example: perennial node prune db-1 --dry-run\n         perennial node prune db-1 --older-than 30d --keep 1 --yes --wait\n         perennial node prune db-1 --volume vol-0123456789abcdef0\n\nA volume is retained when another one has taken its place; `node show` lists\nthem. A volume that Perennial did not create, and the only volume with its\ncontent, is never deleted. With persist.retain_days in the node file, retained\nvolumes are deleted automatically after that time."
    )]
    Prune(prune::PruneArgs),
    /// Delete the node, keeping what --keep lists
    #[command(
        after_help = "Example: perennial node delete db-1 --keep root,data --wait\n         perennial node delete db-1 --keep none --yes\n\nAt a terminal it shows what is deleted and asks for the node's name. Elsewhere\nit needs --yes."
    )]
    Delete(DeleteArgs),
    /// Take a backup of the node now
    #[command(after_help = "Example: perennial node backup db-1 --reason 'before the upgrade' --wait")]
    Backup(ReplaceArgs),
    /// List the node's backups, their age and their failures
    #[command(after_help = "Example: perennial node backups db-1")]
    Backups(NameArgs),
    /// Show what happened to the node, step by step
    #[command(after_help = "Example: perennial node history db-1")]
    History(HistoryArgs),
}

/// Of `node plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The node
    #[arg(value_parser = NodeName::parse, required_unless_present = "file", conflicts_with = "file")]
    name: Option<NodeName>,
    /// Plan this node file instead: its provisioning, then a replacement
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Assume that its subnet has no capacity: it moves to another one
    #[arg(long, conflicts_with = "file")]
    without_capacity: bool,
    /// Assume that its instance is gone already
    #[arg(long, conflicts_with = "file")]
    lost: bool,
}

/// Of what takes the node down for a while, or takes something from it.
#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    /// Only show what would happen
    #[arg(long)]
    dry_run: bool,
    /// Do not ask at the terminal
    #[arg(long)]
    yes: bool,
}

/// Of `node replace` and `node pause`.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    #[command(flatten)]
    node: NameArgs,
    /// The reason, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    act: ActArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node backup` and `node resume`.
#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    node: NameArgs,
    /// The reason, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node recycle`.
#[derive(Debug, Args)]
pub(crate) struct RecycleArgs {
    #[command(flatten)]
    node: NameArgs,
    /// The node's new image; its root volume is created from it
    #[arg(long, value_name = "IMAGE", value_parser = ImageId::parse)]
    reimage: Option<ImageId>,
    /// The reason, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    act: ActArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    node: NameArgs,
    /// The backup, such as db-1.b12
    #[arg(long, value_name = "BACKUP", value_parser = BackupId::parse)]
    backup: BackupId,
    /// Restore only these volumes: root, or names of data volumes
    #[arg(long, value_name = "SLOT", num_args = 1.., value_parser = slot)]
    only: Vec<Slot>,
    /// Create a new node of this name; the node itself stays as it is
    #[arg(long = "as-new", value_name = "NEW", value_parser = NodeName::parse, conflicts_with = "only")]
    new: Option<NodeName>,
    /// The new node's file [default: the node's own file, renamed]
    #[arg(long, short, value_name = "FILE", requires = "new")]
    file: Option<PathBuf>,
    /// The reason, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    act: ActArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    node: NameArgs,
    /// What to keep: a list of root, data, network, backups; or none; or all
    #[arg(long, value_name = "CLASSES", required = true, value_parser = keep)]
    keep: Keep,
    /// The reason, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    act: ActArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    node: NameArgs,
    /// Only the newest N workflows
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

/// Reads `root,data`, `none` or `all`.
fn keep(text: &str) -> Result<Keep, String> {
    let mut keep = Keep { root: false, data: false, network: false, backups: false };
    let all = Keep { root: true, data: true, network: true, backups: true };
    match text {
        "none" => return Ok(keep),
        "all" => return Ok(all),
        _ => {}
    }
    for class in text.split(',') {
        match class.trim() {
            "root" => keep.root = true,
            "data" => keep.data = true,
            "network" => keep.network = true,
            "backups" => keep.backups = true,
            other => {
                return Err(format!(
                    "{other:?} is no class; use root, data, network, backups, or none, or all"
                ));
            }
        }
    }
    Ok(keep)
}

/// Runs one of them.
pub(crate) async fn run(
    command: &NodeCommand,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    match command {
        NodeCommand::Apply(args) => apply::run(args, installation, output).await,
        NodeCommand::Diff(args) => apply::show(args, installation, output).await,
        NodeCommand::Replace(args) => moved("node.replace", args, installation, output).await,
        NodeCommand::Recycle(args) => {
            let mut params = reasoned(serde_json::json!({}), args.reason.as_deref());
            if let Some(image) = &args.reimage {
                preflight::of_image(image, installation).await?;
                params["reimage"] = image.to_string().into();
            }
            let takes = match &args.reimage {
                Some(image) => {
                    format!("gets a NEW ROOT from {image}; the present one is retained, and used no more")
                }
                None => "moves to another instance".to_owned(),
            };
            if !consent(&args.node.name, &args.act, &takes, installation, output).await? {
                return Ok(());
            }
            let about = ("node.recycle", Some(&args.node.name));
            args.submit.submit(installation, output, about, params).await
        }
        NodeCommand::Restore(args) => match &args.new {
            Some(new) => restore_as_new(args, new, installation, output).await,
            None => restore(args, installation, output).await,
        },
        NodeCommand::Pause(args) => moved("node.pause", args, installation, output).await,
        NodeCommand::Resume(args) => plain("node.resume", args, installation, output).await,
        NodeCommand::Delete(args) => {
            if args.act.dry_run {
                let view =
                    installation.views()?.node(&args.node.name, present::now_ms(installation).await).await?;
                return output.show(&view, || node::deletion(&view, args.keep));
            }
            if !args.act.yes {
                confirm_deletion(args, installation, output).await?;
            }
            let params = reasoned(serde_json::json!({ "keep": args.keep }), args.reason.as_deref());
            let about = ("node.delete", Some(&args.node.name));
            args.submit.submit(installation, output, about, params).await
        }
        NodeCommand::Prune(args) => prune::run(args, installation, output).await,
        NodeCommand::Backup(args) => plain("node.backup", args, installation, output).await,
        NodeCommand::Backups(args) => {
            let views = present::views(installation, output).await?;
            let view = views.backups(&args.name, present::now_ms(installation).await).await?;
            output.show(&view, || backups::text(&view))
        }
        NodeCommand::List(args) => list::nodes(args, installation, output).await,
        NodeCommand::Show(args) => {
            let now_ms = present::now_ms(installation).await;
            let views = installation.views()?;
            let mut view = match views.node(&args.name, now_ms).await {
                Ok(view) => view,
                Err(error) => return Err(present::failure(&views, error).await),
            };
            view.server = present::server(installation, &views).await;
            output.show(&view, || node::show(&view, now_ms))
        }
        NodeCommand::Plan(args) => show_plan(args, installation, output).await,
        NodeCommand::History(args) => {
            let views = present::views(installation, output).await?;
            let view = match views.history(&args.node.name, args.last).await {
                Ok(view) => view,
                Err(error) => return Err(present::failure(&views, error).await),
            };
            let now_ms = present::now_ms(installation).await;
            output.show(&view, || history::node(&view, now_ms))
        }
    }
}

/// Shows what a deletion takes away, and asks for the node's name.
async fn confirm_deletion(
    args: &DeleteArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    confirm::needs_a_terminal("")?;
    let name = &args.node.name;
    let view = installation.views()?.node(name, present::now_ms(installation).await).await?;
    output.say(&node::deletion(&view, args.keep));
    let answer = confirm::ask(&format!("type {name} to delete it:"), output)?;
    if answer == name.to_string() {
        return Ok(());
    }
    Err(Failure::failed(format!("nothing was deleted: the answer was not {name}")))
}

/// Shows what an act would do, or asks at the terminal whether it is meant. Whether it is to be done.
async fn consent(
    name: &NodeName,
    act: &ActArgs,
    takes: &str,
    installation: &Installation,
    output: Output,
) -> Result<bool, Failure> {
    if !act.dry_run && (act.yes || !confirm::can_ask()) {
        return Ok(true);
    }
    let views = installation.views()?;
    let outage = views
        .plan(name, Assumption::default())
        .await
        .ok()
        .and_then(|plan| plan.story.outage.map(|outage| words::lasting(outage.length_ms(plan.total_ms))));
    let outage =
        outage.map_or_else(String::new, |outage| format!(" (a replacement's outage is about {outage})"));
    let what = format!("{name} {takes}{outage}");
    if act.dry_run {
        output.text(&what)?;
        return Ok(false);
    }
    confirm::agrees(&format!("{what}. Go on?"), output)?;
    Ok(true)
}

/// Submits a workflow that takes the node down for a while.
async fn moved(
    workflow: &str,
    args: &MoveArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let takes = if workflow == "node.pause" {
        "is DOWN from then on, until it is resumed: its instance is terminated, the rest is kept"
    } else {
        "moves to another instance"
    };
    if !consent(&args.node.name, &args.act, takes, installation, output).await? {
        return Ok(());
    }
    let params = reasoned(serde_json::json!({}), args.reason.as_deref());
    args.submit.submit(installation, output, (workflow, Some(&args.node.name)), params).await
}

/// Submits a workflow that has no parameter but a reason.
async fn plain(
    workflow: &str,
    args: &ReplaceArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let params = reasoned(serde_json::json!({}), args.reason.as_deref());
    args.submit.submit(installation, output, (workflow, Some(&args.node.name)), params).await
}

async fn restore(args: &RestoreArgs, installation: &Installation, output: Output) -> Result<(), Failure> {
    let takes = format!("LOSES what was written after {}; the present volumes are retained", args.backup);
    if !consent(&args.node.name, &args.act, &takes, installation, output).await? {
        return Ok(());
    }
    let params = serde_json::json!({ "backup": args.backup, "only": args.only });
    let params = reasoned(params, args.reason.as_deref());
    args.submit.submit(installation, output, ("node.restore", Some(&args.node.name)), params).await
}

async fn restore_as_new(
    args: &RestoreArgs,
    new: &NodeName,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let RestoreArgs { node, backup, file, reason, submit, .. } = args;
    let spec = match file {
        Some(file) => files::node(file)?,
        None => renamed(&installation.views()?.node_spec(&node.name).await?, new),
    };
    if spec.name != *new {
        let why = format!("the file is of {}, and --as-new says {new}: name it {new}", spec.name);
        return Err(Failure::user(why));
    }
    if *backup.node() != node.name {
        let why = format!("{backup} is a backup of {}, not of {}", backup.node(), node.name);
        return Err(Failure::user(why).hint(format!("`perennial node backups {}` lists them", node.name)));
    }
    let params = serde_json::json!({ "spec": spec, "from_backup": backup });
    let params = reasoned(params, reason.as_deref());
    submit.submit(installation, output, ("node.apply", Some(new)), params).await
}

async fn show_plan(args: &PlanArgs, installation: &Installation, output: Output) -> Result<(), Failure> {
    if let Some(file) = &args.file {
        let plans = SpecPlans::new(&files::node(file)?).map_err(|bug| Failure::internal(chain(&bug)))?;
        return output.show(&plans, || plan::of_spec(&plans));
    }
    let Some(name) = &args.name else {
        return Err(Failure::internal("BUG: the arguments need a name or a file"));
    };
    let missing = |is: bool| if is { Presence::Missing } else { Presence::Present };
    let assumption =
        Assumption { instance: missing(args.lost), capacity_here: missing(args.without_capacity) };
    let view = installation.views()?.plan(name, assumption).await?;
    output.show(&view, || plan::of_node(&view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_a_list_of_classes() {
        let kept = keep("root, data").unwrap();
        assert_eq!((kept.root, kept.data, kept.network, kept.backups), (true, true, false, false));
        assert!(keep("all").unwrap().backups);
        assert!(!keep("none").unwrap().root);
        assert!(keep("roots").unwrap_err().contains("roots"));
        assert!(keep("").is_err());
    }
}
