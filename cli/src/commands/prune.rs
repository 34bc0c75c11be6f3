//! `perennial node prune`: what a node retains, and its deletion.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use perennial_engine::clock::Clock;
use perennial_workflows::aws::VolumeId;
use perennial_workflows::node::{Node, Resources, Retained};
use perennial_workflows::prune::{self, Condemned, PRUNED_MAX, length};
use perennial_workflows::spec::NodeName;
use perennial_workflows::submission::PruneParams;
use serde::Serialize;

use crate::commands::args::{NameArgs, duration, reasoned};
use crate::commands::submit::SubmitArgs;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Output, table};
use crate::query;

/// Of `node prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    node: NameArgs,
    /// Only what was retained so long [default: 7d, with --volume 0d]
    #[arg(long, value_name = "TIME", value_parser = age)]
    older_than: Option<Duration>,
    /// The N newest of each volume of the node's stay
    #[arg(long, value_name = "N")]
    keep: Option<u32>,
    /// Only this one; may be given several times
    #[arg(long = "volume", value_name = "VOLUME", value_parser = VolumeId::parse)]
    volumes: Vec<VolumeId>,
    /// Show what would be deleted and what would stay, and delete nothing
    #[arg(long, conflicts_with_all = ["yes", "wait", "reason"])]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Why, for the history
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

/// What a prune would do, for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    node: &'a NodeName,
    delete: &'a [Condemned],
    stay: Vec<Stays<'a>>,
}

/// One that stays.
#[derive(Debug, Serialize)]
struct Stays<'a> {
    #[serde(flatten)]
    retained: &'a Retained,
    stays_because: String,
}

/// Runs it.
pub(crate) async fn run(
    args: &PruneArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let mut wish = PruneParams {
        volumes: args.volumes.clone(),
        older_than_s: args.older_than.map(|time| time.as_secs()),
        keep: args.keep,
        reason: None,
    };
    if !args.dry_run && !args.yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::user("a deletion is for good, and nobody is at the terminal to be asked")
                .hint("say --yes; --dry-run shows what would be deleted"));
        }
        let condemned = look(args, &wish, installation).await?.1;
        if condemned.is_empty() {
            return Err(Failure::failed("nothing that is retained is to be deleted by that")
                .hint(format!("perennial node prune {} --dry-run says why", args.node.name)));
        }
        output.say(&listed(&condemned, Clock::system().now_ms()));
        ask(condemned.len())?;
        if wish.volumes.is_empty() {
            wish.older_than_s.get_or_insert(prune::OLDER_THAN_S);
        }
        // What was shown, and nothing that has become old enough meanwhile.
        wish.volumes = condemned.into_iter().map(|condemned| condemned.volume).collect();
    }
    if args.dry_run {
        let (node, condemned) = look(args, &wish, installation).await?;
        let now_ms = Clock::system().now_ms();
        let shown = shown(&args.node.name, &node, &condemned, now_ms);
        return output.show(&shown, || told(&shown, now_ms));
    }
    let params = serde_json::to_value(&wish).map_err(Failure::internal)?;
    let params = reasoned(params, args.reason.as_deref());
    let message = args.submit.message("node.prune", Some(args.node.name.as_str()), params);
    args.submit.send(installation, output, &message).await
}

/// The node, and what the wish condemns now.
async fn look(
    args: &PruneArgs,
    wish: &PruneParams,
    installation: &Installation,
) -> Result<(Node, Vec<Condemned>), Failure> {
    let node = query::node(&installation.reader()?, &args.node.name).await?;
    let condemned = prune::select(&node, wish, Clock::system().now_ms()).map_err(|why| {
        let why = why.strip_prefix("params.volumes: ").map_or(why.clone(), |why| format!("--volume: {why}"));
        Failure::user(why).hint(format!("perennial node prune {} --dry-run lists what is", args.node.name))
    })?;
    Ok((node, condemned))
}

fn ask(count: usize) -> Result<(), Failure> {
    let volumes = if count == 1 { "this volume" } else { "these volumes" };
    Output { format: crate::output::Format::Table }.say(&format!("delete {volumes} for good? [y/N]"));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::environment(format!("the answer cannot be read: {error}")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::failed("nothing was deleted: the answer was no"))
    }
}

fn shown<'a>(name: &'a NodeName, node: &'a Node, condemned: &'a [Condemned], now_ms: u64) -> Shown<'a> {
    let goes = |old: &Retained| condemned.iter().any(|condemned| condemned.volume == old.volume);
    let stay = node.resources.retained.iter().filter(|old| !goes(old)).map(|old| Stays {
        retained: old,
        stays_because: match prune::successor(node, old) {
            Err(why) => why,
            Ok(_) if condemned.len() == PRUNED_MAX => {
                format!("{PRUNED_MAX} are deleted at a time, the oldest first")
            }
            Ok(_) => format!("not asked for; retained for {}", length(prune::age_ms(old, now_ms))),
        },
    });
    Shown { node: name, delete: condemned, stay: stay.collect() }
}

fn listed(condemned: &[Condemned], now_ms: u64) -> String {
    let rows = condemned.iter().map(|condemned| {
        vec![
            condemned.volume.to_string(),
            condemned.slot.to_string(),
            length(now_ms.saturating_sub(condemned.since_ms)),
            gib(condemned.size_gib),
            condemned.because.clone(),
        ]
    });
    table(&["DELETE", "WAS", "AGE", "GIB", "BECAUSE"], &[3], rows)
}

fn told(shown: &Shown<'_>, now_ms: u64) -> String {
    let mut parts = Vec::new();
    if !shown.delete.is_empty() {
        parts.push(listed(shown.delete, now_ms));
    }
    if !shown.stay.is_empty() {
        let rows = shown.stay.iter().map(|stays| {
            vec![
                stays.retained.volume.to_string(),
                stays.retained.slot.to_string(),
                length(prune::age_ms(stays.retained, now_ms)),
                gib(stays.retained.size_gib),
                stays.stays_because.clone(),
            ]
        });
        parts.push(table(&["STAYS", "WAS", "AGE", "GIB", "BECAUSE"], &[3], rows));
    }
    if parts.is_empty() {
        return format!("{} retains no volume", shown.node);
    }
    parts.join("\n\n")
}

fn gib(size_gib: Option<u32>) -> String {
    size_gib.map_or_else(|| "?".to_owned(), |size_gib| size_gib.to_string())
}

/// What `node show` says of it.
pub(crate) fn rows(resources: &Resources, now_ms: u64) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    for old in &resources.retained {
        let size = old.size_gib.map_or_else(String::new, |size_gib| format!(", {size_gib} GiB"));
        let age = length(prune::age_ms(old, now_ms));
        let undeleted = old.undeleted.as_ref().map_or_else(String::new, |undeleted| {
            let ago = length(now_ms.saturating_sub(undeleted.at_ms));
            format!("; it could not be deleted {ago} ago: {}", undeleted.because)
        });
        let told = format!("{} ({}{size}) for {age}: {}{undeleted}", old.volume, old.slot, old.because);
        rows.push(("retained", told));
    }
    let known: u64 = resources.retained.iter().filter_map(|old| old.size_gib).map(u64::from).sum();
    let unknown = resources.retained.iter().filter(|old| old.size_gib.is_none()).count();
    if known > 0 || unknown > 0 {
        let unknown = match unknown {
            0 => String::new(),
            unknown => format!(" and {unknown} of unknown size"),
        };
        rows.push(("", format!("{known} GiB{unknown} are paid for; `node prune --dry-run`")));
    }
    rows
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
