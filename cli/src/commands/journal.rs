//! `perennial journal …`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use perennial_engine::ids::StreamId;
use perennial_engine::journal::Head;
use perennial_store::private;

use crate::commands::adopt::{self, AdoptArgs};
use crate::failure::Failure;
use crate::installation::journal_file::{self, ExportError, KEEP_THE_EVIDENCE, Severity};
use crate::installation::{Installation, file_failure, heads};
use crate::output::safe::JsonWriter;
use crate::output::{Output, journal, stdout, written};

/// What can be done with the journal.
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Check every hash, stream and projection; exit 1 if one is wrong
    #[command(after_help = "Example: perennial journal verify --head 5121:9f2c…")]
    Verify(VerifyArgs),
    /// Write events as JSON Lines, with everything that the hashes cover
    #[command(after_help = "Example: perennial journal export --stream node/db-1 | jq .kind")]
    Export(ExportArgs),
    /// Print the position and hash of the last event
    #[command(after_help = "Example: perennial journal head --output json")]
    Head,
    /// Copy the journal while the server runs
    #[command(after_help = "Example: perennial journal backup /backup/journal-$(date +%F).sqlite")]
    Backup(BackupArgs),
    /// Rebuild the projections from the events; the server must be down
    #[command(after_help = "Example: perennial journal rebuild")]
    Rebuild,
    /// Take nodes as they are in the account, where the journal is behind it
    #[command(after_help = "Example: perennial journal adopt --dry-run")]
    Adopt(AdoptArgs),
}

/// Of `journal verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A head noted before, as `journal head` prints it; may be repeated
    #[arg(long, value_name = "POSITION:HASH", value_parser = heads::head)]
    head: Vec<Head>,
    /// A file of heads, one a line, such as a server ships
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
}

/// Of `journal export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Write to this new file instead of stdout
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

/// Runs one of them.
pub(crate) async fn run(
    command: &JournalCommand,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let path = installation.config.journal_path();
    match command {
        JournalCommand::Verify(args) => verify(args, installation, output),
        JournalCommand::Export(args) => export(args, &path, output),
        JournalCommand::Head => {
            let head = installation.views()?.head().await?;
            output.show(&head, || format!("{} {}", head.position, head.hash))
        }
        JournalCommand::Backup(args) => {
            let head = journal_file::backup(&path, &args.path)?;
            let shown = serde_json::json!({ "path": args.path, "head": head });
            output.show(&shown, || {
                format!("{}: {} events, head {}", args.path.display(), head.position, head.hash.to_hex())
            })
        }
        JournalCommand::Rebuild => rebuild(&path, output),
        JournalCommand::Adopt(args) => adopt::run(args, installation, output).await,
    }
}

fn verify(args: &VerifyArgs, installation: &Installation, output: Output) -> Result<(), Failure> {
    let mut noted = args.head.clone();
    if let Some(file) = &args.heads {
        noted.extend(heads::read(file)?);
    }
    let is_anchored = !noted.is_empty();
    // What lies beside the journal proves less, and shows a slip all the same.
    noted.extend(heads::read_if_there(&installation.config.heads.file)?);
    let report = journal_file::verify(&installation.config.journal_path(), &noted)?;
    output.show(&report, || journal::verdict(&report, is_anchored))?;
    match report.worst() {
        None => Ok(()),
        Some(Severity::Damaged) => {
            Err(Failure::failed("the journal is not as it was written").hint(KEEP_THE_EVIDENCE))
        }
        Some(Severity::Unfoldable) => Err(Failure::failed("a stream cannot be folded by this build")
            .hint("was the journal written by a newer build? Use that one")),
        Some(Severity::Stale) if is_anchored => {
            Err(Failure::failed("the projections are stale; up to the head that was noted the events are whole")
                .hint("stop the server and run `perennial journal rebuild`"))
        }
        Some(Severity::Stale) => {
            Err(Failure::failed("the projections do not follow from the events: either they are stale, or events are missing at the end")
                .hint("compare with a head that was noted elsewhere: `perennial journal verify --head POSITION:HASH`; until then change nothing"))
        }
    }
}

fn rebuild(path: &Path, output: Output) -> Result<(), Failure> {
    journal_file::must_not_be_cut_off(path)?;
    let report = journal_file::rebuild(path)?;
    output.show(&report, || {
        format!(
            "rebuilt from {} events: {} open steps, {} keys, {} summaries, {} timers",
            report.events, report.open_steps, report.keys, report.summaries, report.timers
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

fn export(args: &ExportArgs, path: &Path, output: Output) -> Result<(), Failure> {
    let which = (args.stream.clone(), args.after);
    match &args.to {
        None => match journal_file::export(path, JsonWriter::new(stdout()), which, output.secrets) {
            Ok(_) => Ok(()),
            Err(ExportError::Io(error)) => written(Err(error)),
            Err(error) => Err(error.into()),
        },
        Some(to) => {
            let file = private::create_new(to).map_err(|error| file_failure("making", to, &error))?;
            let writer = std::io::BufWriter::new(&file);
            let report = journal_file::export(path, writer, which, output.secrets)?;
            file.sync_all().map_err(|error| file_failure("syncing", to, &error))?;
            output.show(&report, || {
                format!(
                    "{}: {} events, the last at position {} with hash {}",
                    to.display(),
                    report.events,
                    report.last.position,
                    report.last.hash.to_hex()
                )
            })
        }
    }
}
