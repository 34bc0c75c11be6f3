//! `perennial pool …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use perennial_engine::engine::load_stream;
use perennial_engine::journal::Which;
use perennial_workflows::domain::{Perennial, State};
use perennial_workflows::pool::{AddressPool, PoolSummary, pool_stream};
use perennial_workflows::spec::NodeName;
use serde::Serialize;

use crate::commands::files;
use crate::commands::submit::SubmitArgs;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Output, pairs, table};
use crate::query;

/// What can be done with pools of addresses.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Say which addresses a pool has
    #[command(after_help = "Example: perennial pool apply -f brokers.yaml --wait")]
    Apply(ApplyArgs),
    /// List the pools
    #[command(after_help = "Example: perennial pool list --output json")]
    List,
    /// Show one pool: whose each address is, and which are free
    #[command(after_help = "Example: perennial pool show brokers")]
    Show(NameArgs),
}

/// Of `pool apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The pool file, YAML or JSON; - reads stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// A pool's name.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The pool
    #[arg(value_parser = NodeName::parse)]
    name: NodeName,
}

/// Runs one of them.
pub(crate) async fn run(
    command: &PoolCommand,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    match command {
        PoolCommand::Apply(args) => {
            let params = serde_json::json!({ "spec": files::pool(&args.file)? });
            let message = args.submit.message("pool.apply", None, params);
            args.submit.send(installation, output, &message).await
        }
        PoolCommand::List => list(installation, output).await,
        PoolCommand::Show(args) => show(&args.name, installation, output).await,
    }
}

/// One line of the list.
#[derive(Serialize)]
struct Line {
    name: String,
    #[serde(flatten)]
    summary: PoolSummary,
}

async fn list(installation: &Installation, output: Output) -> Result<(), Failure> {
    let rows = query::summaries::<PoolSummary>(&installation.reader()?, "pool", Which::All).await?;
    let lines: Vec<Line> =
        rows.into_iter().map(|(row, summary)| Line { name: row.stream.name().to_owned(), summary }).collect();
    output.show(&lines, || {
        if lines.is_empty() {
            return "no pools yet: `perennial pool apply -f FILE` declares one".to_owned();
        }
        table(
            &["POOL", "SUBNET", "ADDRESSES", "HELD", "FREE"],
            &[2, 3, 4],
            lines.iter().map(|line| {
                vec![
                    line.name.clone(),
                    line.summary.subnet.to_string(),
                    line.summary.addresses.to_string(),
                    line.summary.held.to_string(),
                    line.summary.free.to_string(),
                ]
            }),
        )
    })
}

/// A pool for programs.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a NodeName,
    subnet: String,
    addresses: Vec<String>,
    held: Vec<Held<'a>>,
    passed_over: Vec<PassedOver<'a>>,
    free: Vec<String>,
}

#[derive(Serialize)]
struct Held<'a> {
    address: String,
    node: &'a NodeName,
}

#[derive(Serialize)]
struct PassedOver<'a> {
    address: String,
    because: &'a str,
}

async fn show(name: &NodeName, installation: &Installation, output: Output) -> Result<(), Failure> {
    let journal = installation.reader()?;
    let pool = match load_stream::<Perennial>(&journal, &pool_stream(name)).await?.0 {
        State::Pool(pool) => pool,
        _ => AddressPool::default(),
    };
    let Some(spec) = &pool.spec else {
        return Err(Failure::user(format!("there is no pool {name}"))
            .hint("`perennial pool list` shows those there are"));
    };
    let shown = Shown {
        name,
        subnet: spec.subnet.to_string(),
        addresses: spec.addresses.iter().map(ToString::to_string).collect(),
        held: pool.held.iter().map(|(address, node)| Held { address: address.to_string(), node }).collect(),
        passed_over: pool
            .passed_over
            .iter()
            .map(|(address, because)| PassedOver { address: address.to_string(), because })
            .collect(),
        free: pool.free().map(|address| address.to_string()).collect(),
    };
    output.show(&shown, || {
        let mut rows: Vec<(&str, String)> = vec![
            ("pool", shown.name.to_string()),
            ("subnet", shown.subnet.clone()),
            ("addresses", shown.addresses.join(", ")),
        ];
        rows.extend(shown.held.iter().map(|held| ("held", format!("{} by {}", held.address, held.node))));
        let passed = shown.passed_over.iter();
        rows.extend(passed.map(|one| ("passed over", format!("{}: {}", one.address, one.because))));
        rows.push(("free", shown.free.len().to_string()));
        pairs(rows)
    })
}
