//! Lists of nodes and of workflows: what is shown of them, and in which order.

use std::cmp::Reverse;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use perennial_engine::clock::Clock;
use perennial_engine::journal::Which;
use perennial_views::model::node::{Condition, NodeLine, by_name};
use perennial_views::model::workflow::WorkflowLine;
use perennial_workflows::model::aws::Market;
use perennial_workflows::model::name::NodeName;

use crate::commands::args::duration;
use crate::commands::present;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::node::{self, Columns};
use crate::output::{Format, Output, workflow};

/// How many workflows are shown if nothing is said: the newest ones.
const WORKFLOWS_SHOWN: usize = 50;

/// Between two pictures of a list that is watched.
const PICTURE_EVERY: Duration = Duration::from_secs(2);

/// Of `node list`.
#[derive(Debug, Args)]
pub(crate) struct NodeListArgs {
    /// Only nodes with this tag in their file, KEY=VALUE or KEY
    #[arg(long = "label", short = 'l', value_name = "TAG")]
    labels: Vec<String>,
    /// Only nodes in these states
    #[arg(long, value_parser = state(), value_delimiter = ',', value_name = "STATE,…")]
    state: Vec<Condition>,
    /// Only nodes on this market
    #[arg(long, value_enum)]
    market: Option<OfMarket>,
    /// Only nodes in this availability zone
    #[arg(long)]
    zone: Option<String>,
    /// At most so many
    #[arg(short = 'n', long = "limit", value_name = "N")]
    limit: Option<usize>,
    /// The order
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Deleted nodes too (JSON always has them)
    #[arg(long)]
    all: bool,
    /// Show it again every two seconds
    #[arg(long, short = 'w')]
    watch: bool,
}

/// The state of a node, as an argument.
fn state() -> impl TypedValueParser<Value = Condition> {
    let values = Condition::ALL.map(|state| PossibleValue::new(state.name()).help(state.about()));
    PossibleValuesParser::new(values).map(|name| {
        let is_it = |state: &Condition| state.name() == name;
        Condition::ALL.into_iter().find(is_it).unwrap_or_else(|| unreachable!("BUG: {name} is one of these"))
    })
}

/// Whether a node is in a state. A node can be stuck and down.
fn is_in(line: &NodeLine, state: Condition) -> bool {
    line.condition == state || state == Condition::Down && line.down.is_some()
}

/// A market.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OfMarket {
    /// Spot.
    Spot,
    /// On demand.
    OnDemand,
}

/// The order of a list of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Sort {
    /// Those in trouble first, then by name.
    #[default]
    Trouble,
    /// By name: `db-2` before `db-10`.
    Name,
    /// The longest in their state first.
    Age,
    /// By instance type, then by name.
    Type,
}

/// Of `workflow list`.
#[derive(Debug, Args)]
pub(crate) struct WorkflowListArgs {
    /// Only workflows that are running or stuck
    #[arg(long)]
    open: bool,
    /// Only those of this node
    #[arg(long, value_name = "NODE", value_parser = NodeName::parse)]
    node: Option<NodeName>,
    /// Only those of this kind, such as replace
    #[arg(long)]
    kind: Option<String>,
    /// Only those of this status, such as stuck, finished or cancelled
    #[arg(long)]
    status: Option<String>,
    /// Only those that were open after it: 24h ago, or a moment
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<Since>,
    /// At most so many, the newest ones; 0 for all [default: 50]
    #[arg(short = 'n', long = "limit", value_name = "N")]
    limit: Option<usize>,
    /// Show it again every two seconds
    #[arg(long, short = 'w')]
    watch: bool,
}

/// A moment that a list begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// Then, in milliseconds since the Unix epoch.
    At(u64),
}

impl Since {
    /// The moment, in milliseconds since the Unix epoch.
    pub(crate) fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(ago) => now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            Self::At(at_ms) => at_ms,
        }
    }
}

/// Reads `24h`, `2026-11-29` or `2026-11-29T18:00:00Z`.
pub(crate) fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = duration(text) {
        return Ok(Since::Ago(ago));
    }
    let day = format!("{text}T00:00:00Z");
    let moment = text.parse::<jiff::Timestamp>().or_else(|_| day.parse::<jiff::Timestamp>());
    let moment = moment.map_err(|_| {
        format!("{text:?} is neither a length of time such as 24h nor a moment such as 2026-11-29T18:00:00Z")
    })?;
    u64::try_from(moment.as_millisecond()).map(Since::At).map_err(|_| "it lies before 1970".to_owned())
}

/// Shows a list once, or again and again.
async fn pictures<F, P>(watch: bool, output: Output, picture: F) -> Result<(), Failure>
where
    F: Fn() -> P,
    P: Future<Output = Result<(), Failure>>,
{
    loop {
        if watch {
            output.clear()?;
        }
        picture().await?;
        if !watch {
            return Ok(());
        }
        Clock::system().sleep(PICTURE_EVERY).await;
    }
}

/// Lists the nodes.
pub(crate) async fn nodes(
    args: &NodeListArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    pictures(args.watch, output, || async {
        let views = present::views(installation, output).await?;
        let now_ms = present::now_ms(installation).await;
        let lines = views.nodes(now_ms).await?;
        let shown = chosen(args, &lines, output.format);
        match output.format {
            Format::Json => output.json(&shown),
            Format::Name => shown.iter().try_for_each(|line| output.text(&line.name)),
            Format::Table | Format::Wide => {
                let columns = if output.format == Format::Wide { Columns::Wide } else { Columns::Fitting };
                output.words(&node::list(&lines, &shown, columns, now_ms))
            }
        }
    })
    .await
}

/// The nodes that are asked for, in order.
fn chosen<'a>(args: &NodeListArgs, lines: &'a [NodeLine], format: Format) -> Vec<&'a NodeLine> {
    let wants_deleted = args.all || format == Format::Json || args.state.contains(&Condition::Deleted);
    let market = args.market.map(|market| match market {
        OfMarket::Spot => Market::Spot,
        OfMarket::OnDemand => Market::OnDemand,
    });
    let is_wanted = |line: &&NodeLine| {
        let carrier = line.carrier.as_ref();
        (wants_deleted || !line.deleted)
            && (args.state.is_empty() || args.state.iter().any(|state| is_in(line, *state)))
            && market.is_none_or(|market| carrier.is_some_and(|carrier| carrier.market == market))
            && args.zone.as_ref().is_none_or(|zone| line.zone.as_ref() == Some(zone))
            && has_labels(&args.labels, line)
    };
    let mut shown: Vec<&NodeLine> = lines.iter().filter(is_wanted).collect();
    shown.sort_by(|one, other| by_name(&one.name, &other.name));
    let kind = |line: &NodeLine| line.carrier.as_ref().map(|carrier| carrier.instance_type.clone());
    match args.sort {
        Sort::Name => {}
        Sort::Trouble => shown.sort_by_key(|line| line.condition),
        Sort::Age => shown.sort_by_key(|line| (line.since_ms.is_none(), line.since_ms)),
        Sort::Type => shown.sort_by_key(|line| (kind(line).is_none(), kind(line))),
    }
    shown.truncate(args.limit.unwrap_or(usize::MAX));
    shown
}

/// Whether the tags in a node's file are those that are asked for.
fn has_labels(labels: &[String], line: &NodeLine) -> bool {
    labels.iter().all(|label| match label.split_once('=') {
        Some((key, value)) => line.labels.get(key).is_some_and(|tag| tag == value),
        None => line.labels.contains_key(label),
    })
}

/// Lists the workflows.
pub(crate) async fn workflows(
    args: &WorkflowListArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    pictures(args.watch, output, || async {
        let views = present::views(installation, output).await?;
        let now_ms = present::now_ms(installation).await;
        let which = if args.open { Which::Open } else { Which::All };
        let lines = views.workflows(which).await?;
        let since_ms = args.since.map(|since| since.at_ms(now_ms));
        let is_wanted = |line: &&WorkflowLine| {
            let of_node =
                |node: &NodeName| line.workflow.rsplit_once('.').is_some_and(|(of, _)| of == node.as_str());
            args.node.as_ref().is_none_or(of_node)
                && args.kind.as_ref().is_none_or(|kind| line.kind.to_string() == *kind)
                && args.status.as_ref().is_none_or(|status| line.status == *status)
                && since_ms
                    .is_none_or(|since_ms| line.ended_at_ms.is_none_or(|ended_ms| ended_ms >= since_ms))
        };
        let mut shown: Vec<&WorkflowLine> = lines.iter().filter(is_wanted).collect();
        // The newest ones; they come last, where a terminal shows them.
        shown.sort_by_key(|line| Reverse(line.started_at_ms));
        let is_bound = output.format != Format::Json || args.limit.is_some();
        match args.limit.unwrap_or(WORKFLOWS_SHOWN) {
            0 => {}
            limit if is_bound => shown.truncate(limit),
            _ => {}
        }
        shown.reverse();
        match output.format {
            Format::Json => output.json(&shown),
            Format::Name => shown.iter().try_for_each(|line| output.text(&line.workflow)),
            Format::Table | Format::Wide => output.words(&workflow::list(&shown, lines.len(), now_ms)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_begins_some_time_ago_or_at_a_moment() {
        assert_eq!(since("24h").unwrap().at_ms(100_000_000), 13_600_000);
        assert_eq!(since("1970-01-02").unwrap(), Since::At(86_400_000));
        assert_eq!(since("1970-01-02T00:00:01Z").unwrap(), Since::At(86_401_000));
        assert!(since("yesterday").unwrap_err().contains("such as 24h"));
    }
}
