//! `perennial node apply` and `perennial node diff`: node files, what they would change, and applying them.

use std::path::PathBuf;

use clap::Args;
use perennial_views::model::diff::SpecDiff;
use perennial_workflows::spec::node::NodeSpec;

use crate::commands::submit::SubmitArgs;
use crate::commands::{confirm, files, preflight};
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::{Output, diff};

/// Files of nodes.
#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// A node file (YAML or JSON, of one or more documents), a directory of them, or - for stdin
    #[arg(long = "file", short = 'f', value_name = "FILE", required_unless_present = "more")]
    files: Vec<PathBuf>,
    /// The same
    #[arg(value_name = "FILE")]
    more: Vec<PathBuf>,
}

impl FilesArgs {
    fn specs(&self) -> Result<Vec<(String, NodeSpec)>, Failure> {
        let paths: Vec<PathBuf> = self.files.iter().chain(&self.more).cloned().collect();
        let specs = files::nodes(&paths)?;
        for (index, (file, spec)) in specs.iter().enumerate() {
            if let Some((other, _)) = specs[..index].iter().find(|(_, other)| other.name == spec.name) {
                return Err(Failure::user(format!("{file}: {} is also in {other}", spec.name)));
            }
        }
        Ok(specs)
    }
}

/// Of `node apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    files: FilesArgs,
    /// Do not ask EC2 first whether it would take what the files ask for
    #[arg(long)]
    no_preflight: bool,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Do not ask at the terminal before a node is changed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Of `node diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    files: FilesArgs,
}

/// What the files would change.
async fn diffs(specs: &[(String, NodeSpec)], installation: &Installation) -> Result<Vec<SpecDiff>, Failure> {
    let views = installation.views_if_ready()?;
    let mut diffs = Vec::new();
    for (_, spec) in specs {
        diffs.push(match &views {
            Some(views) => views.diff(spec).await?,
            None => SpecDiff::new(None, spec),
        });
    }
    Ok(diffs)
}

/// Shows what files would change.
pub(crate) async fn show(
    args: &DiffArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let diffs = diffs(&args.files.specs()?, installation).await?;
    output.show(&diffs, || diff::of_all(&diffs))
}

/// Applies files.
pub(crate) async fn run(
    args: &ApplyArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let specs = args.files.specs()?;
    if specs.len() > 1 && args.submit.submission.is_some() {
        return Err(Failure::user("--id names one submission, and there are several nodes"));
    }
    if !args.no_preflight {
        preflight::of_files(&specs, installation, output).await?;
    }
    let diffs = diffs(&specs, installation).await?;
    let refused = diffs.iter().filter(|diff| diff.refused.is_some()).count();
    if args.dry_run {
        output.show(&diffs, || diff::of_all(&diffs))?;
        return if refused == 0 { Ok(()) } else { Err(Failure::failed("it would be refused")) };
    }
    let changed: Vec<SpecDiff> =
        diffs.into_iter().filter(|diff| !diff.is_new && diff.changes_something()).collect();
    if !changed.is_empty() {
        output.say(&diff::of_all(&changed));
        if !args.yes {
            confirm::agrees("apply this?", output)?;
        }
    }
    let message = |spec: &NodeSpec| {
        let params = serde_json::json!({ "spec": spec });
        args.submit.message("node.apply", Some(spec.name.as_str()), params)
    };
    let messages: Vec<_> = specs.iter().map(|(_, spec)| message(spec)).collect();
    args.submit.send_all(installation, output, &messages).await
}
