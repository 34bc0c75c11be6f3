//! `perennial region`: the simulated region on the wire, for any AWS client, and what can be done to it.
//!
//! Without a command it serves; every command asks the control surface of a region that runs
//! (`docs/region.md`).

mod act;
mod args;
pub(crate) mod client;
mod serve;

use std::path::PathBuf;

use clap::Args;

use crate::commands::region::act::act;
use crate::commands::region::args::RegionCommand;
use crate::commands::region::serve::{ServeArgs, serve};
use crate::failure::Failure;
use crate::output::Output;

/// Of `region`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct RegionArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<RegionCommand>,
}

impl RegionArgs {
    /// Whether it is the server that is meant, which logs.
    pub(crate) fn serves(&self) -> bool {
        self.command.is_none()
    }
}

/// Runs it. `config` is the file of the region.
pub(crate) async fn run(args: &RegionArgs, config: Option<&PathBuf>, output: Output) -> Result<(), Failure> {
    match &args.command {
        None => serve(&args.serve, config, output).await,
        Some(command) => act(command, output).await,
    }
}
