//! `perennial node …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use perennial_engine::clock::Clock;
use perennial_engine::journal::Which;
use perennial_workflows::aws::ImageId;
use perennial_workflows::backup::BackupId;
use perennial_workflows::domain::NodeSummary;
use perennial_workflows::node::{Node, Noted, Resources};
use perennial_workflows::operation::{Keep, Operation, Status};
use perennial_workflows::plan::{Assumption, Presence};
use perennial_workflows::spec::{DataVolumeSpec, NodeName, NodeSpec};
use perennial_workflows::steps::Slot;
use serde::Serialize;

use crate::commands::args::{NameArgs, reasoned, slot};
use crate::commands::backups;
use crate::commands::files;
use crate::commands::history;
use crate::commands::plan;
use crate::commands::prune;
use crate::commands::submit::SubmitArgs;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::words;
use crate::output::{Output, pairs, table};
use crate::query;

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Say what a node is meant to be; a new one is provisioned
    #[command(after_help = "Example: perennial node apply -f db-1.yaml --wait")]
    Apply(ApplyArgs),
    /// List the nodes
    #[command(after_help = "Example: perennial node list --output json")]
    List,
    /// Show one node: what carries it, its volumes, its address
    #[command(after_help = "Example: perennial node show db-1")]
    Show(NameArgs),
    /// Show which steps a replacement would take, without touching anything
    #[command(after_help = "Example: perennial node plan db-1\n         perennial node plan -f db-1.yaml")]
    Plan(PlanArgs),
    /// Bring the node back on another instance
    #[command(after_help = "Example: perennial node replace db-1 --reason 'new kernel' --wait")]
    Replace(ReplaceArgs),
    /// Replace the instance; with --reimage the root starts anew
    #[command(
        after_help = "Example: perennial node recycle db-1 --wait\n         perennial node recycle db-1 --reimage ami-0123456789abcdef0\n\nWith --reimage the present root's content ends: its volume is retained, not\ncarried. Data volumes and the address stay."
    )]
    Recycle(RecycleArgs),
    /// Bring the node back with the content of a backup
    #[command(
        after_help = "Example: perennial node restore db-1 --backup db-1.b12 --wait\n\nWhat was written after the backup is lost to the node. The present volumes are\nretained, never deleted. `perennial node backups db-1` lists the backups.\n\n         perennial node restore db-1 --backup db-1.b12 --as-new db-2 --wait\n\nWith --as-new a new node is made from the backup, and db-1 goes on as it is.\nWhat db-1 has (address, Elastic IP address) cannot be in the new one's file."
    )]
    Restore(RestoreArgs),
    /// Give the instance back and keep everything else
    #[command(
        after_help = "Example: perennial node pause db-1 --wait\n\nA node that is being brought onto an instance is paused as well: what was\nlaunched for it is given up."
    )]
    Pause(ReplaceArgs),
    /// Bring a paused node back onto an instance
    #[command(after_help = "Example: perennial node resume db-1 --wait")]
    Resume(ReplaceArgs),
    /// Delete volumes that the node has outgrown
    #[command(
        after_help = "Example: perennial node prune db-1 --dry-run\n         perennial node prune db-1 --older-than 30d --keep 1 --yes --wait\n         perennial node prune db-1 --volume vol-0123456789abcdef0\n\nVolumes are retained where their content goes on in another one; `node show`\nlists them. What somebody else made, and what is the only volume with its\ncontent, stays. With persist.retain_days in its file a node is pruned by itself."
    )]
    Prune(prune::PruneArgs),
    /// End the node, keeping what --keep says
    #[command(after_help = "Example: perennial node delete db-1 --keep root,data --wait")]
    Delete(DeleteArgs),
    /// Take a backup of the node now
    #[command(after_help = "Example: perennial node backup db-1 --reason 'before the upgrade' --wait")]
    Backup(ReplaceArgs),
    /// Show the backups of the node: how old they are, and what fails
    #[command(after_help = "Example: perennial node backups db-1")]
    Backups(NameArgs),
    /// Show what happened to the node, step by step
    #[command(after_help = "Example: perennial node history db-1")]
    History(HistoryArgs),
}

/// Of `node apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The node file, YAML or JSON; - reads stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The node
    #[arg(value_parser = NodeName::parse, required_unless_present = "file", conflicts_with = "file")]
    name: Option<NodeName>,
    /// A node file instead: its provisioning, and a replacement after it
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// As if its subnet had no capacity: a move to another one
    #[arg(long, conflicts_with = "file")]
    without_capacity: bool,
    /// As if its instance were gone already
    #[arg(long, conflicts_with = "file")]
    lost: bool,
}

/// Of `node replace`, `node backup` and others.
#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    node: NameArgs,
    /// Why, for the history
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
    /// The node's image from now on, which its root starts anew from
    #[arg(long, value_name = "IMAGE", value_parser = ImageId::parse)]
    reimage: Option<ImageId>,
    /// Why, for the history
    #[arg(long)]
    reason: Option<String>,
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
    /// Only these volumes: root, or names of data volumes
    #[arg(long, value_name = "SLOT", num_args = 1.., value_parser = slot)]
    only: Vec<Slot>,
    /// As a new node of this name; the node itself goes on as it is
    #[arg(long = "as-new", value_name = "NEW", value_parser = NodeName::parse, conflicts_with = "only")]
    new: Option<NodeName>,
    /// The new node's file, YAML or JSON; else the node's own, renamed
    #[arg(long, short, value_name = "FILE", requires = "new")]
    file: Option<PathBuf>,
    /// Why, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    node: NameArgs,
    /// What is kept: a list of root, data, network, backups; or none; or all
    #[arg(long, value_name = "CLASSES", required = true, value_parser = keep)]
    keep: Keep,
    /// Why, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    node: NameArgs,
    /// Only the newest operations
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
        NodeCommand::Apply(args) => {
            let spec = files::node(&args.file)?;
            let params = serde_json::json!({ "spec": spec });
            let message = args.submit.message("node.apply", Some(spec.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Replace(args) => {
            let params = reasoned(serde_json::json!({}), args.reason.as_deref());
            let message = args.submit.message("node.replace", Some(args.node.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Recycle(args) => {
            let mut params = reasoned(serde_json::json!({}), args.reason.as_deref());
            if let Some(image) = &args.reimage {
                params["reimage"] = image.to_string().into();
            }
            let message = args.submit.message("node.recycle", Some(args.node.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Restore(RestoreArgs { new: Some(new), node, backup, file, reason, submit, .. }) => {
            let spec = match file {
                Some(file) => files::node(file)?,
                None => as_another(&query::node(&installation.reader()?, &node.name).await?, new)?,
            };
            if spec.name != *new {
                let why = format!("the file is of {}, and --as-new says {new}: name it {new}", spec.name);
                return Err(Failure::user(why));
            }
            if *backup.node() != node.name {
                let why = format!("{backup} is a backup of {}, not of {}", backup.node(), node.name);
                return Err(
                    Failure::user(why).hint(format!("`perennial node backups {}` lists them", node.name))
                );
            }
            let params = serde_json::json!({ "spec": spec, "from_backup": backup });
            let params = reasoned(params, reason.as_deref());
            let message = submit.message("node.apply", Some(new.as_str()), params);
            submit.send(installation, output, &message).await
        }
        NodeCommand::Restore(args) => {
            let params = serde_json::json!({ "backup": args.backup, "only": args.only });
            let params = reasoned(params, args.reason.as_deref());
            let message = args.submit.message("node.restore", Some(args.node.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Pause(args) => {
            let params = reasoned(serde_json::json!({}), args.reason.as_deref());
            let message = args.submit.message("node.pause", Some(args.node.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Resume(args) => {
            let params = reasoned(serde_json::json!({}), args.reason.as_deref());
            let message = args.submit.message("node.resume", Some(args.node.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Delete(args) => {
            let params = reasoned(serde_json::json!({ "keep": args.keep }), args.reason.as_deref());
            let message = args.submit.message("node.delete", Some(args.node.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Prune(args) => prune::run(args, installation, output).await,
        NodeCommand::Backup(args) => {
            let params = reasoned(serde_json::json!({}), args.reason.as_deref());
            let message = args.submit.message("node.backup", Some(args.node.name.as_str()), params);
            args.submit.send(installation, output, &message).await
        }
        NodeCommand::Backups(args) => backups::run(&installation.reader()?, &args.name, output).await,
        NodeCommand::List => list(installation, output).await,
        NodeCommand::Show(args) => show(&args.name, installation, output).await,
        NodeCommand::Plan(PlanArgs { file: Some(file), .. }) => plan::of_spec(&files::node(file)?, output),
        NodeCommand::Plan(PlanArgs { name: Some(name), without_capacity, lost, .. }) => {
            let missing = |is: bool| if is { Presence::Missing } else { Presence::Present };
            let assumption =
                Assumption { instance: missing(*lost), capacity_here: missing(*without_capacity) };
            plan::of_node(&query::node(&installation.reader()?, name).await?, assumption, output)
        }
        NodeCommand::Plan(PlanArgs { name: None, file: None, .. }) => {
            Err(Failure::internal("BUG: the arguments need a name or a file"))
        }
        NodeCommand::History(args) => {
            history::run(&installation.reader()?, &args.node.name, args.last, output).await
        }
    }
}

/// A node's file under another name. Its volumes come from the backup, whatever they were made from at first.
fn as_another(node: &Node, name: &NodeName) -> Result<NodeSpec, Failure> {
    let spec = node.spec.clone().ok_or_else(|| Failure::user("there is no such node"))?;
    let data_volumes = spec.data_volumes.iter().cloned();
    let data_volumes = data_volumes.map(|volume| DataVolumeSpec { snapshot: None, ..volume }).collect();
    Ok(NodeSpec { name: name.clone(), data_volumes, ..spec })
}

/// One line of the list.
#[derive(Serialize)]
struct Line {
    name: String,
    state: String,
    #[serde(flatten)]
    summary: NodeSummary,
}

async fn list(installation: &Installation, output: Output) -> Result<(), Failure> {
    let journal = installation.reader()?;
    let mut lines = Vec::new();
    for (row, summary) in query::summaries::<NodeSummary>(&journal, "node", Which::All).await? {
        let stuck = match &summary.operation {
            Some((id, _)) => query::find_operation(&journal, id)
                .await?
                .is_some_and(|o| matches!(o.status, Status::Stuck { .. })),
            None => false,
        };
        let state = match (&summary.operation, summary.deleted) {
            (Some((_, kind)), _) if stuck => format!("STUCK in {kind}"),
            (Some((_, kind)), _) => kind.to_string(),
            (None, true) => "deleted".to_owned(),
            (None, false) if summary.carrier.is_none() => "paused".to_owned(),
            (None, false) => "in place".to_owned(),
        };
        lines.push(Line { name: row.stream.name().to_owned(), state, summary });
    }
    output.show(&lines, || {
        if lines.is_empty() {
            return "no nodes yet: `perennial node apply -f FILE` makes one".to_owned();
        }
        table(
            &["NODE", "STATE", "GEN", "INSTANCE", "TYPE", "ADDRESS"],
            &[2],
            lines.iter().map(|line| {
                let carrier = line.summary.carrier.as_ref();
                let address = line.summary.address.or_else(|| carrier.map(|carrier| carrier.private_ip));
                vec![
                    line.name.clone(),
                    line.state.clone(),
                    line.summary.generation.to_string(),
                    carrier.map_or_else(|| "-".to_owned(), |carrier| carrier.instance.to_string()),
                    carrier.map_or_else(|| "-".to_owned(), |carrier| carrier.instance_type.clone()),
                    address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                ]
            }),
        )
    })
}

/// A node for programs.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a NodeName,
    deleted: bool,
    generation: u64,
    operations: u64,
    changed_at_ms: u64,
    open: Option<OpenOperation>,
    resources: &'a Resources,
    past_instances: Vec<String>,
    noted: &'a [Noted],
    backups: backups::Shown,
    spec: Option<&'a NodeSpec>,
}

#[derive(Serialize)]
struct OpenOperation {
    workflow: String,
    kind: String,
    stuck: Option<Stuck>,
    open_steps: Vec<String>,
}

#[derive(Serialize)]
struct Stuck {
    step: String,
    because: String,
    needs: String,
}

fn open_operation(operation: &Operation) -> OpenOperation {
    let stuck = match &operation.status {
        Status::Stuck { step, because, needs, .. } => {
            Some(Stuck { step: step.clone(), because: because.clone(), needs: needs.clone() })
        }
        Status::Running | Status::Finished { .. } => None,
    };
    OpenOperation {
        workflow: operation.id.to_string(),
        kind: operation.order.kind.to_string(),
        stuck,
        open_steps: operation.open_steps().into_iter().map(|step| step.step).collect(),
    }
}

async fn show(name: &NodeName, installation: &Installation, output: Output) -> Result<(), Failure> {
    let journal = installation.reader()?;
    let node = query::node(&journal, name).await?;
    let open = match &node.open {
        Some((id, _)) => Some(open_operation(&query::operation(&journal, id).await?)),
        None => None,
    };
    let book = query::book(&journal, name).await?;
    let backups = backups::Shown::new(name, &node, &book, Clock::system().now_ms());
    let shown = Shown {
        name,
        deleted: node.deleted,
        generation: node.generation,
        operations: node.operations,
        changed_at_ms: node.changed_at_ms,
        open,
        resources: &node.resources,
        past_instances: node.past.iter().map(ToString::to_string).collect(),
        noted: &node.noted,
        backups,
        spec: node.spec.as_ref(),
    };
    output.show(&shown, || described(&shown, &node))
}

fn described(shown: &Shown<'_>, node: &Node) -> String {
    let resources = &node.resources;
    let mut rows: Vec<(&str, String)> = vec![("node", shown.name.to_string())];
    let state = match (&shown.open, node.deleted) {
        (Some(open), _) => match &open.stuck {
            Some(stuck) => format!("STUCK in {} {}: {}", open.kind, open.workflow, stuck.because),
            None => format!("{} {}: {}", open.kind, open.workflow, open.open_steps.join(", ")),
        },
        (None, true) => "deleted".to_owned(),
        (None, false) if resources.carrier.is_none() => "paused".to_owned(),
        (None, false) => "in place".to_owned(),
    };
    rows.push(("state", state));
    if let Some(stuck) = shown.open.as_ref().and_then(|open| open.stuck.as_ref()) {
        rows.push(("needs", stuck.needs.clone()));
    }
    rows.push(("generation", node.generation.to_string()));
    rows.push(("changed", words::time(node.changed_at_ms)));
    if let Some(spec) = &node.spec {
        let word = |value: serde_json::Result<serde_json::Value>| {
            value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        };
        let persist = format!(
            "root {}, data {}, network {}",
            word(serde_json::to_value(spec.persist.root)),
            word(serde_json::to_value(spec.persist.data)),
            word(serde_json::to_value(spec.persist.network)),
        );
        rows.push(("persist", persist));
    }
    if let Some(carrier) = &resources.carrier {
        let zone = resources.placement.as_ref().map_or_else(String::new, |place| format!(", {}", place.zone));
        rows.push(("instance", carrier.instance.to_string()));
        rows.push(("", format!("{} {}{zone}", carrier.instance_type, carrier.market)));
        rows.push(("its address", format!("{} on {}", carrier.private_ip, carrier.interface)));
    }
    if let Some(address) = resources.address {
        let keeper = resources.address_interface.as_ref();
        let keeper = keeper.map_or_else(String::new, |interface| format!(", kept by {interface}"));
        rows.push(("kept address", format!("{address}{keeper}")));
    }
    for (subnet, address) in &resources.addresses_elsewhere {
        let pool = node.spec.as_ref().and_then(|spec| spec.pool_in(subnet));
        let pool = pool.map_or_else(String::new, |pool| format!(" (pool {pool})"));
        rows.push(("kept elsewhere", format!("{address} in {subnet}{pool}")));
    }
    if let Some(held) = &resources.elastic {
        rows.push(("public address", format!("{} ({})", held.public_ip, held.allocation)));
    }
    for (slot, held) in &resources.volumes {
        let size = held.size_gib.map_or_else(String::new, |size| format!(", {size} GiB"));
        let found = match &held.found {
            None => "",
            Some(found) if found.named && found.is_copy => ", a copy of the one that the file names",
            Some(found) if found.named => ", there before the node",
            Some(_) => ", found on the instance",
        };
        rows.push(("volume", format!("{} {} at {}{size}{found}", slot, held.volume, held.device)));
    }
    for other in &resources.strangers {
        rows.push(("left alone", format!("{} at {}: {}", other.volume, other.device, other.because)));
    }
    if resources.carrier.is_some() {
        rows.extend(history::losses(&resources.origins).into_iter().map(|loss| ("last loss", loss)));
    }
    if !node.deleted || !shown.backups.is_empty() {
        rows.extend(shown.backups.rows());
    }
    for image in &resources.root_images {
        rows.push(("root image", format!("{} of {}", image.image, image.snapshot)));
    }
    rows.extend(prune::rows(resources, Clock::system().now_ms()));
    for left in &resources.leftovers {
        rows.push(("left over", format!("{}: {}", left.thing.id(), left.because)));
    }
    for noted in shown.noted {
        let at = words::minute(noted.signal.at_ms);
        rows.push(("noted", format!("{at} {}; {}", noted.signal, noted.because)));
    }
    if !shown.past_instances.is_empty() {
        rows.push(("before", shown.past_instances.join(" ")));
    }
    pairs(rows)
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
