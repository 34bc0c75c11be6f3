//! `perennial pool …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use perennial_workflows::model::name::NodeName;

use crate::commands::files;
use crate::commands::submit::SubmitArgs;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Output, address_pool};

/// What can be done with address pools.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create an address pool, or change its addresses
    #[command(after_help = "Example: perennial pool apply -f brokers.yaml --wait")]
    Apply(ApplyArgs),
    /// List the address pools
    #[command(after_help = "Example: perennial pool list --output json")]
    List,
    /// Show one address pool: which node has which address
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
            args.submit.submit(installation, output, ("pool.apply", None), params).await
        }
        PoolCommand::List => {
            let lines = installation.views()?.address_pools().await?;
            output.show(&lines, || address_pool::list(&lines))
        }
        PoolCommand::Show(args) => {
            let view = installation.views()?.address_pool(&args.name).await?;
            output.show(&view, || address_pool::show(&view))
        }
    }
}
