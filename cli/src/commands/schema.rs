//! `perennial schema`: the JSON Schemas of what is read, sent and printed.

use std::path::PathBuf;

use clap::Args;
use perennial_workflows::view::schemas;
use schemars::Schema;

use crate::failure::Failure;
use crate::installation::file_failure;
use crate::output::Output;

/// Of `schema`.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Its name, such as node, event or views/node-list [default: all]
    name: Option<String>,
    /// Write NAME.schema.json files into this directory instead
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

/// Every schema with its name: of what is read and sent, and of what the reading commands print.
fn all() -> Vec<(&'static str, Schema)> {
    let mut all = schemas::all();
    all.extend(perennial_views::schemas::all());
    all
}

/// Prints or writes schemas.
pub(crate) fn run(args: &SchemaArgs, output: Output) -> Result<(), Failure> {
    let all = all();
    let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let wanted: Vec<_> =
        all.iter().filter(|(name, _)| args.name.as_deref().is_none_or(|wanted| wanted == *name)).collect();
    if wanted.is_empty() {
        return Err(Failure::user(format!(
            "there is no schema {:?}; there are {}",
            args.name.as_deref().unwrap_or_default(),
            names()
        )));
    }
    if let Some(directory) = &args.write {
        for (name, schema) in wanted {
            let path = directory.join(format!("{name}.schema.json"));
            let text = serde_json::to_string_pretty(schema).map_err(Failure::internal)? + "\n";
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .map_err(|error| file_failure("making", directory, &error))?;
            }
            std::fs::write(&path, text).map_err(|error| file_failure("writing", &path, &error))?;
            output.text(&path.display().to_string())?;
        }
        return Ok(());
    }
    match (&args.name, wanted.as_slice()) {
        (Some(_), [(_, schema)]) => output.json(schema),
        _ => output.json(
            &wanted
                .iter()
                .map(|(name, schema)| (*name, schema))
                .collect::<std::collections::BTreeMap<_, _>>(),
        ),
    }
}
