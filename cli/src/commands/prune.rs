//! `perennial node prune`: what a node retains, and its deletion.

use std::time::Duration;

use clap::Args;
use perennial_views::QueryError;
use perennial_views::model::prune::PrunePreview;
use perennial_workflows::domain::retention::OLDER_THAN_S;
use perennial_workflows::domain::submission::PruneParams;
use perennial_workflows::model::aws::VolumeId;

use crate::commands::args::{NameArgs, duration, reasoned};
use crate::commands::submit::SubmitArgs;
use crate::commands::{confirm, present};
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Output, prune};

/// Of `node prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    node: NameArgs,
    /// Only volumes retained this long [default: 7d, with --volume 0d]
    #[arg(long, value_name = "TIME", value_parser = age)]
    older_than: Option<Duration>,
    /// Keep the N newest of each of the node's volumes
    #[arg(long, value_name = "N")]
    keep: Option<u32>,
    /// Only this volume; may be repeated
    #[arg(long = "volume", value_name = "VOLUME", value_parser = VolumeId::parse)]
    volumes: Vec<VolumeId>,
    /// Show what would be deleted and what would stay; delete nothing
    #[arg(long, conflicts_with_all = ["yes", "wait", "reason"])]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// The reason, for the history
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Reads `30d`, or a length of time.
fn age(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    match days {
        Some(days) => Ok(Duration::from_secs(u64::from(days) * 24 * 3_600)),
        None => duration(text).map_err(|_| format!("{text:?} is no length of time such as 30d, 12h or 90m")),
    }
}

/// Runs it.
pub(crate) async fn run(
    args: &PruneArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let mut params = PruneParams {
        volumes: args.volumes.clone(),
        older_than_s: args.older_than.map(|time| time.as_secs()),
        keep: args.keep,
        reason: None,
    };
    if args.dry_run {
        let now_ms = present::now_ms(installation).await;
        let view = preview(args, &params, now_ms, installation).await?;
        return output.show(&view, || prune::preview(&view, now_ms));
    }
    if !args.yes {
        confirmed(args, &mut params, installation, output).await?;
    }
    let params = serde_json::to_value(&params).map_err(Failure::internal)?;
    let params = reasoned(params, args.reason.as_deref());
    args.submit.submit(installation, output, ("node.prune", Some(&args.node.name)), params).await
}

/// Shows what would be deleted and asks; then the parameters name what was shown.
async fn confirmed(
    args: &PruneArgs,
    params: &mut PruneParams,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    confirm::needs_a_terminal("; --dry-run shows what would be deleted")?;
    let now_ms = present::now_ms(installation).await;
    let items = preview(args, params, now_ms, installation).await?.delete;
    if items.is_empty() {
        return Err(Failure::failed("nothing that is retained is to be deleted by that")
            .hint(format!("perennial node prune {} --dry-run says why", args.node.name)));
    }
    output.say(&prune::deletions(&items, now_ms));
    ask(items.len(), output)?;
    if params.volumes.is_empty() {
        params.older_than_s.get_or_insert(OLDER_THAN_S);
    }
    // What was shown, and nothing that has become old enough meanwhile.
    params.volumes = items.into_iter().map(|item| item.volume).collect();
    Ok(())
}

/// What a prune with these parameters would do now.
async fn preview(
    args: &PruneArgs,
    params: &PruneParams,
    now_ms: u64,
    installation: &Installation,
) -> Result<PrunePreview, Failure> {
    let name = &args.node.name;
    match installation.views()?.prune_preview(name, params, now_ms).await {
        Err(QueryError::NotPrunable { why }) => {
            let why =
                why.strip_prefix("params.volumes: ").map_or(why.clone(), |why| format!("--volume: {why}"));
            Err(Failure::user(why).hint(format!("perennial node prune {name} --dry-run lists what is")))
        }
        answer => Ok(answer?),
    }
}

fn ask(count: usize, output: Output) -> Result<(), Failure> {
    let volumes = if count == 1 { "this volume" } else { "these volumes" };
    let answer = confirm::ask(&format!("delete {volumes} permanently? [y/N]"), output)?;
    if matches!(&*answer, "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::failed("nothing was deleted: the answer was no"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_days_or_less() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("12h"), Ok(Duration::from_secs(12 * 3_600)));
        assert_eq!(age("0d"), Ok(Duration::ZERO));
        for wrong in ["", "d", "30", "-1d", "month"] {
            assert!(age(wrong).unwrap_err().contains("such as 30d"), "{wrong}");
        }
    }
}
