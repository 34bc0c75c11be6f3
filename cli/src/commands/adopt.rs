//! `perennial journal adopt`: the present state of the account becomes the journal's, on purpose.

use std::fmt::Write as _;

use clap::Args;
use perennial_engine::engine::Engine;
use perennial_workers::adoption::{Compared, Comparison};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::domain::standing::Adoption;
use perennial_workflows::model::name::NodeName;
use serde_json::json;

use crate::commands::serve::{Reached, here, not_here, reach};
use crate::failure::{Failure, chain};
use crate::installation::{Installation, journal_file};
use crate::output::Output;
use crate::output::words::wrapped;

/// Of `journal adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// Only these nodes; without, every node that is behind
    #[arg(value_name = "NODE", value_parser = NodeName::parse)]
    nodes: Vec<NodeName>,
    /// Show what would be taken, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// The journal belongs to this account, region and owner from now on
    #[arg(long)]
    here: bool,
    /// Take over what another installation made, whose journal is lost
    #[arg(long, value_name = "INSTALLATION")]
    from: Option<String>,
    /// Who asks, for the record; default: $PERENNIAL_AS, then $USER
    #[arg(long = "as", value_name = "WHO", env = "PERENNIAL_AS", hide_env = true)]
    requested_by: Option<String>,
}

/// Compares, shows, and takes what can be told for certain.
pub(crate) async fn run(
    args: &AdoptArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let config = &installation.config;
    // It is there, and has events: an empty one has nothing to be brought up.
    journal_file::open_for_reading(&config.journal_path())?;
    let journal = journal_file::open_for_the_engine(&config.journal_path())?;
    let Reached { cloud, clock, region, .. } = reach(installation).await?;
    let place = here(config, cloud.as_ref(), region).await?;
    let engine: Engine<Perennial> = Engine::new(journal, clock);
    let who = args.requested_by.clone().or_else(|| std::env::var("USER").ok());
    let who = who.filter(|who| !who.is_empty()).unwrap_or_else(|| "cli".to_owned());
    let id = uuid::Uuid::now_v7().simple().to_string();
    match engine.execute(Command::Bind { id, place: place.clone() }).await {
        Ok(_) => {}
        Err(perennial_engine::engine::ExecuteError::Rejected(Rejection::AnotherPlace { .. }))
            if args.here && !args.dry_run =>
        {
            let moved = Command::Move { place, requested_by: who.clone() };
            engine.execute(moved).await.map_err(not_here)?;
        }
        Err(error) => return Err(not_here(error)),
    }
    let comparison = Comparison::new(engine.clone(), cloud, config.owner.clone(), args.from.clone());
    let all = comparison.all().await.map_err(|error| Failure::environment(chain(&error)))?;
    if let Some(unknown) = args.nodes.iter().find(|node| !all.iter().any(|one| one.node == **node)) {
        return Err(Failure::failed(format!("there is no node {unknown}")));
    }
    let is_meant = |one: &&Compared| {
        if args.nodes.is_empty() { !one.newer.is_empty() } else { args.nodes.contains(&one.node) }
    };
    let meant: Vec<Compared> = all.iter().filter(is_meant).cloned().collect();
    if !args.dry_run {
        for one in &meant {
            let Ok(found) = &one.found else { continue };
            let command = Command::Adopt {
                node: one.node.clone(),
                found: Box::new(found.clone()),
                requested_by: who.clone(),
                owner: config.owner.clone(),
            };
            engine.execute(command).await.map_err(not_here)?;
        }
    }
    let shown: Vec<_> = meant.iter().map(|one| as_json(one, args.dry_run)).collect();
    output.show(&shown, || in_words(&meant, all.len(), args.dry_run))?;
    let refused = meant.iter().filter(|one| one.found.is_err()).count();
    let told = format!("{refused} of {} nodes cannot be adopted as they are", meant.len());
    let failure = match refused {
        0 => return Ok(()),
        _ if args.dry_run || refused == meant.len() => Failure::failed(told),
        _ => Failure::partly(told),
    };
    Err(failure.hint("do what is said at each of them, then repeat the command"))
}

fn as_json(one: &Compared, dry_run: bool) -> serde_json::Value {
    match &one.found {
        Ok(Adoption { generation, operations, resources }) => json!({
            "node": one.node, "newer": one.newer, "adopted": !dry_run, "generation": generation,
            "operations": operations, "resources": resources,
        }),
        Err(because) => json!({ "node": one.node, "newer": one.newer, "adopted": false, "because": because }),
    }
}

fn in_words(meant: &[Compared], nodes: usize, dry_run: bool) -> String {
    if meant.is_empty() {
        return format!("the journal knows everything that the account shows of its {nodes} nodes");
    }
    let mut text = String::new();
    for Compared { node, newer, found } in meant {
        let _ = writeln!(text, "{node}");
        for newer in newer {
            let _ = writeln!(text, "{}", wrapped("  newer than the journal:", newer, 4));
        }
        match found {
            Ok(Adoption { generation, operations, resources }) => {
                let verb = if dry_run { "would be" } else { "is" };
                let on = resources.carrier.as_ref().map_or_else(
                    || "paused".to_owned(),
                    |carrier| {
                        format!("on {} ({} {})", carrier.instance, carrier.instance_type, carrier.market)
                    },
                );
                let what = format!("{on}, generation {generation}, after workflow {operations}");
                let _ = writeln!(text, "{}", wrapped(&format!("  {verb}"), &what, 4));
                for (slot, held) in &resources.volumes {
                    let _ = writeln!(text, "  {slot} {} at {}", held.volume, held.device);
                }
                if let Some(address) = resources.address {
                    let _ = writeln!(text, "  address {address}");
                }
                for old in &resources.retained {
                    let _ = writeln!(text, "  retained {}: {}", old.volume, old.because);
                }
            }
            Err(because) => {
                let _ = writeln!(text, "{}", wrapped("  CANNOT be adopted:", because, 4));
            }
        }
    }
    let then = if dry_run { "perennial journal adopt" } else { "perennial serve" };
    if meant.iter().any(|one| one.found.is_ok()) {
        let _ = writeln!(text, "then: {then}");
    }
    text.trim_end().to_owned()
}
