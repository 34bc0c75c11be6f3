//! `perennial journal …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use perennial_engine::engine::Reprojection;
use perennial_engine::ids::{Position, StreamId};
use perennial_engine::journal::{Journal as _, RecordedEvent};
use perennial_store::backup::{BackupError, backup};
use perennial_store::export::{ExportError, Filter, export};
use perennial_store::rebuild::{RebuildError, rebuild};
use perennial_store::verify::{Severity, VerifyReport, verify};
use perennial_store::{Projections, Projector};
use perennial_workflows::domain::Perennial;

use crate::failure::{Failure, chain};
use crate::installation::{Installation, file_failure};
use crate::output::{Format, Output, pairs, stdout, table, written};

/// What can be done with the journal.
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Read everything again: hashes, streams, projections; exit 1 if wrong
    #[command(after_help = "Example: perennial journal verify")]
    Verify,
    /// Write events as JSON Lines, with all that the hashes are made of
    #[command(after_help = "Example: perennial journal export --stream node/db-1 | jq .kind")]
    Export(ExportArgs),
    /// Print position and hash of the last event: proof of a whole journal
    #[command(after_help = "Example: perennial journal head --output json")]
    Head,
    /// Copy the journal while the server runs
    #[command(after_help = "Example: perennial journal backup /backup/journal-$(date +%F).sqlite")]
    Backup(BackupArgs),
    /// Make the projections anew from the events; the server must be down
    #[command(after_help = "Example: perennial journal rebuild")]
    Rebuild,
}

/// Of `journal export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Into this new file, instead of stdout
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Only this stream, such as node/db-1 or workflow/db-1.3
    #[arg(long, value_parser = stream)]
    stream: Option<StreamId>,
    /// Only events after this position
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    after: u64,
}

/// Of `journal backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The new file
    path: PathBuf,
}

fn stream(text: &str) -> Result<StreamId, String> {
    StreamId::parse(text).map_err(|error| error.to_string())
}

/// The domain's meaning of events, lent to the store.
#[derive(Default)]
struct Meaning(Reprojection<Perennial>);

impl Projector for Meaning {
    fn project(&mut self, event: &RecordedEvent) -> Result<(), String> {
        self.0.apply(event).map_err(|error| chain(&error))
    }

    fn finish(self) -> Projections {
        let projections = self.0.finish();
        Projections {
            open_steps: projections.open_steps,
            lookup: projections.keys,
            summaries: projections.summaries,
        }
    }
}

/// Verifies a journal, with the meaning of its events.
pub(crate) fn check(path: &std::path::Path) -> Result<VerifyReport, Failure> {
    Ok(verify(path, Meaning::default())?)
}

/// Runs one of them.
pub(crate) async fn run(
    command: &JournalCommand,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let path = installation.config.journal_path();
    match command {
        JournalCommand::Verify => {
            let report = check(&path)?;
            output.show(&report, || verdict(&report))?;
            match report.worst() {
                None => Ok(()),
                Some(Severity::Damaged) => Err(Failure::failed("the journal is damaged")
                    .hint("stop the server and restore a backup; do not go on with this file")),
                Some(Severity::Unfoldable) => Err(Failure::failed("a stream cannot be folded by this build")
                    .hint("was the journal written by a newer build? Use that one")),
                Some(Severity::Stale) => {
                    Err(Failure::failed("the projections are stale; the events are whole")
                        .hint("stop the server and run `perennial journal rebuild`"))
                }
            }
        }
        JournalCommand::Export(args) => write_export(args, &path, output),
        JournalCommand::Head => {
            let head = installation.reader()?.head().await?;
            output.show(&head, || format!("{} {}", head.position, head.hash.to_hex()))
        }
        JournalCommand::Backup(args) => {
            let head = backup(&path, &args.path).map_err(backup_failure)?;
            let shown = serde_json::json!({ "path": args.path, "head": head });
            output.show(&shown, || {
                format!("{}: {} events, head {}", args.path.display(), head.position, head.hash.to_hex())
            })
        }
        JournalCommand::Rebuild => {
            let report = rebuild(&path, Meaning::default()).map_err(rebuild_failure)?;
            output.show(&report, || {
                format!(
                    "rebuilt from {} events: {} open steps, {} keys, {} summaries",
                    report.events, report.open_steps, report.keys, report.summaries
                )
            })?;
            match report.unfoldable.first() {
                None => Ok(()),
                Some(finding) => Err(Failure::failed(format!(
                    "{} streams have no projections now; the first: {}",
                    report.unfoldable.len(),
                    finding.what
                ))
                .hint("run `perennial journal verify`")),
            }
        }
    }
}

fn verdict(report: &VerifyReport) -> String {
    let head = pairs([
        ("events", report.events.to_string()),
        ("streams", report.streams.to_string()),
        ("head", format!("position {}", report.head.position)),
        ("", report.head.hash.to_hex()),
    ]);
    if report.is_sound() {
        return format!("OK: every hash, every stream and every projection is as it was written\n{head}");
    }
    let mut findings: Vec<_> = report.findings.iter().collect();
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.position));
    let rows = findings.iter().map(|finding| {
        vec![
            finding.severity.to_string(),
            finding.position.map_or_else(|| "-".to_owned(), |position| position.to_string()),
            finding.stream.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            finding.what.clone(),
        ]
    });
    let mut text = table(&["SEVERITY", "POSITION", "STREAM", "WHAT"], &[1], rows);
    if report.more_findings > 0 {
        text.push_str(&format!("\n… and {} more", report.more_findings));
    }
    format!("{text}\n\n{head}")
}

fn write_export(args: &ExportArgs, path: &std::path::Path, output: Output) -> Result<(), Failure> {
    let filter = Filter { stream: args.stream.clone(), after: Position(args.after) };
    match &args.to {
        None => match export(path, stdout(), &filter) {
            Ok(_) => Ok(()),
            Err(ExportError::Io(error)) => written(Err(error)),
            Err(error) => Err(export_failure(error)),
        },
        Some(to) => {
            let file = std::fs::File::create_new(to).map_err(|error| file_failure("making", to, &error))?;
            let report = export(path, std::io::BufWriter::new(&file), &filter).map_err(export_failure)?;
            file.sync_all().map_err(|error| file_failure("syncing", to, &error))?;
            if output.format == Format::Json {
                return output.json(&report);
            }
            output.text(&format!(
                "{}: {} events, the last at position {} with hash {}",
                to.display(),
                report.events,
                report.last.position,
                report.last.hash.to_hex()
            ))
        }
    }
}

fn export_failure(error: ExportError) -> Failure {
    match error {
        ExportError::Open(error) => error.into(),
        ExportError::Read(error) => error.into(),
        ExportError::Io(error) => Failure::environment(format!("the export cannot be written: {error}")),
    }
}

fn backup_failure(error: BackupError) -> Failure {
    match error {
        BackupError::Open(error) => error.into(),
        BackupError::Read(error) => error.into(),
        BackupError::Exists { .. } => Failure::user(error),
        BackupError::Copy(_) | BackupError::Locked | BackupError::Unsound { .. } | BackupError::Io { .. } => {
            Failure::environment(chain(&error))
        }
    }
}

fn rebuild_failure(error: RebuildError) -> Failure {
    match error {
        RebuildError::Open(error) => error.into(),
        RebuildError::Read(error) => error.into(),
        RebuildError::Write(_) => Failure::environment(chain(&error)),
    }
}
