//! Asking for something: a message to the submissions queue, and following what becomes of it.

use std::time::Duration;

use clap::Args;
use perennial_engine::clock::Clock;
use perennial_engine::engine::load_stream;
use perennial_engine::queue::Outgoing;
use perennial_store::{JournalReader, OpenError};
use perennial_workflows::backup::BackupId;
use perennial_workflows::domain::{Perennial, State};
use perennial_workflows::letter::{Fate, letter_stream};
use perennial_workflows::node::{Node, OperationId, Outcome, Retained};
use perennial_workflows::prune::Condemned;
use perennial_workflows::submission::{Submission, SubmissionId, Work};
use serde::Serialize;

use crate::commands::args::duration;
use crate::commands::watch::{LOOK_EVERY, Progress, watch};
use crate::failure::Failure;
use crate::installation::config::QueueKind;
use crate::installation::{Installation, Role};
use crate::output::Output;
use crate::output::words;
use crate::query;

/// A running server answers a submission within milliseconds; after this long there is none, or it is in trouble.
const ANSWER_EXPECTED: Duration = Duration::from_secs(5);

/// Of every command that asks for something.
#[derive(Debug, Clone, Args)]
pub(crate) struct SubmitArgs {
    /// Follow what becomes of it, until it is done or stuck
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long --wait waits, such as 90s, 30m or 2h
    #[arg(long, default_value = "30m", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
    /// The idempotency key: what it names is done once [default: a new UUID]
    #[arg(long = "id", value_name = "KEY", value_parser = submission_id)]
    pub(crate) submission: Option<SubmissionId>,
    /// Who asks, for the record
    #[arg(long = "as", value_name = "WHO", env = "PERENNIAL_AS", hide_env = true)]
    pub(crate) requested_by: Option<String>,
}

fn submission_id(text: &str) -> Result<SubmissionId, String> {
    SubmissionId::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// What `--output json` prints of a submission.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    submission: &'a str,
    /// None without `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    fate: Option<&'a Fate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow: Option<&'a OperationId>,
    /// `sent`, `done`, `finished` or `cancelled`.
    state: &'a str,
}

impl SubmitArgs {
    /// Makes the message: a submission of `workflow` about `node`.
    pub(crate) fn message(
        &self,
        workflow: &str,
        node: Option<&str>,
        params: serde_json::Value,
    ) -> serde_json::Value {
        let id =
            self.submission.as_ref().map_or_else(|| uuid::Uuid::now_v7().to_string(), ToString::to_string);
        let who =
            self.requested_by.clone().or_else(|| std::env::var("USER").ok()).filter(|who| !who.is_empty());
        let mut message = serde_json::json!({
            "schema": "perennial.submission/v1",
            "id": id,
            "workflow": workflow,
            "params": params,
            "requested_by": who.unwrap_or_else(|| "cli".to_owned()),
        });
        if let Some(node) = node {
            message["node"] = node.into();
        }
        message
    }

    /// Sends a message and, if asked, follows it.
    pub(crate) async fn send(
        &self,
        installation: &Installation,
        output: Output,
        message: &serde_json::Value,
    ) -> Result<(), Failure> {
        let body = message.to_string();
        // What the server would refuse by its form is refused here, where somebody reads it.
        let submission = Submission::parse(&body).map_err(Failure::user)?;
        let id = submission.id.to_string();
        let queue = installation.queue(Role::Submissions).await?;
        queue.send(vec![Outgoing::now(body)]).await?;
        if !self.wait {
            let answer = Answer { submission: &id, fate: None, workflow: None, state: "sent" };
            return output.show(&answer, || id.clone());
        }
        output.say(&format!("submitted {id}"));
        let expected = match submission.work {
            Work::Cancel(_) => Expected::Cancelled,
            Work::Pause(_) => Expected::Paused,
            Work::Delete(_) => Expected::Deleted,
            Work::Apply(_)
            | Work::Replace(_)
            | Work::Backup(_)
            | Work::Recycle(_)
            | Work::Restore(_)
            | Work::Pool(_)
            | Work::ResumeNode(_)
            | Work::Prune(_)
            | Work::Resume(_) => Expected::Completed,
        };
        let followed = tokio::time::timeout(self.timeout, follow(installation, output, &id, expected)).await;
        let (fate, workflow, outcome) = match followed {
            Ok(followed) => followed?,
            Err(_) => {
                return Err(Failure::unknown(format!(
                    "the outcome of submission {id} is not known after {}",
                    words::length(u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX))
                ))
                .hint("it is kept: start `perennial serve` if none runs, and look with `perennial workflow list`"));
            }
        };
        if let (Work::Prune(_), Some(workflow)) = (&submission.work, &workflow) {
            let journal = installation.reader()?;
            let condemned = query::operation(&journal, workflow).await?.order.prune.clone();
            check_ended(&query::node(&journal, workflow.node()).await?, workflow, &condemned)?;
        }
        let state = if workflow.is_some() { outcome.name() } else { "done" };
        let answer = Answer { submission: &id, fate: Some(&fate), workflow: workflow.as_ref(), state };
        output.show(&answer, || match &workflow {
            Some(workflow) => format!("{id}: workflow {workflow} {outcome}"),
            None => format!("{id}: {fate}"),
        })
    }
}

/// How a workflow should end, by what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Completed,
    /// A cancellation follows the workflow to its end as well; there being cancelled is what was asked for.
    Cancelled,
    /// Also of a workflow that was under way.
    Paused,
    Deleted,
}

impl Expected {
    const fn is_met_by(self, outcome: Outcome) -> bool {
        match self {
            Self::Completed | Self::Deleted => matches!(outcome, Outcome::Completed),
            Self::Cancelled => matches!(outcome, Outcome::Cancelled),
            Self::Paused => matches!(outcome, Outcome::Completed | Outcome::Paused),
        }
    }
}

/// Follows a submission: its letter, then the operation it led to.
async fn follow(
    installation: &Installation,
    output: Output,
    id: &str,
    expected: Expected,
) -> Result<(Fate, Option<OperationId>, Outcome), Failure> {
    let clock = Clock::system();
    let sent_ms = clock.now_ms();
    let stream = letter_stream("submissions", id);
    let mut told = false;
    let (journal, fate) = loop {
        if let Some(journal) = try_reader(installation)?
            && let (State::Letter(letter), _) = load_stream::<Perennial>(&journal, &stream).await?
            && let Some(fate) = letter.fate
        {
            break (journal, fate);
        }
        let waited = clock.now_ms().saturating_sub(sent_ms);
        if !told && u128::from(waited) >= ANSWER_EXPECTED.as_millis() {
            told = true;
            let elsewhere = match installation.config.queues.submissions.kind {
                QueueKind::Embedded => "",
                QueueKind::Sqs => " (or it runs elsewhere and keeps its journal there)",
            };
            output.say(&format!(
                "no server has answered yet{elsewhere}; the submission is kept in the queue, still waiting …"
            ));
        }
        clock.sleep(LOOK_EVERY).await;
    };
    output.say(&fate.to_string());
    match &fate {
        Fate::Started { operation } | Fate::Joined { operation } => {
            let mut operation = operation.clone();
            let mut outcome = watch(&journal, output, Progress::Aside, &operation).await?;
            // A deletion that had to end another workflow first begins with that one's end.
            if expected == Expected::Deleted && outcome == Outcome::Paused {
                operation = operation.next();
                outcome = watch(&journal, output, Progress::Aside, &operation).await?;
            }
            if !expected.is_met_by(outcome) {
                return Err(Failure::failed(format!("workflow {operation} ended {outcome}")));
            }
            Ok((fate, Some(operation), outcome))
        }
        Fate::BackupBegan { backup } => {
            backup_ends(&journal, backup).await?;
            output.say(&format!("{backup} is complete"));
            Ok((fate, None, Outcome::Completed))
        }
        Fate::Changed | Fate::PoolDeclared { .. } | Fate::Noted { .. } => {
            Ok((fate, None, Outcome::Completed))
        }
        Fate::Rejected { .. }
        | Fate::Foreign { .. }
        | Fate::Past { .. }
        | Fate::Unknown { .. }
        | Fate::Malformed { .. }
        | Fate::Oversized { .. } => Err(Failure::failed(format!("submission {id} was {fate}"))),
    }
}

/// Waits until a backup is complete (good) or has failed.
async fn backup_ends(journal: &JournalReader, id: &BackupId) -> Result<(), Failure> {
    loop {
        let book = query::book(journal, id.node()).await?;
        if let Some(failure) = book.failures.iter().find(|failure| failure.backup == id.number()) {
            return Err(Failure::failed(format!("backup {id} has failed: {}", failure.because)));
        }
        // One that is pruned already was complete as well.
        if book.under_way().is_none_or(|backup| backup.order.number != id.number()) {
            return Ok(());
        }
        Clock::system().sleep(LOOK_EVERY).await;
    }
}

fn try_reader(installation: &Installation) -> Result<Option<JournalReader>, Failure> {
    match JournalReader::open(&installation.config.journal_path()) {
        Ok(journal) => Ok(Some(journal)),
        // A server that is just starting makes it: the file is there before its tables are.
        Err(OpenError::Missing { .. } | OpenError::TooOld { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a prune that has ended could not delete.
///
/// # Errors
/// Which, and why.
fn check_ended(node: &Node, operation: &OperationId, condemned: &[Condemned]) -> Result<(), Failure> {
    let is_condemned = |old: &&Retained| condemned.iter().any(|condemned| condemned.volume == old.volume);
    let left = node.resources.retained.iter().filter(is_condemned);
    let left: Vec<String> = left
        .map(|old| {
            let why = old.undeleted.as_ref().map_or("not tried", |undeleted| &undeleted.because);
            format!("{}: {why}", old.volume)
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!("workflow {operation} has not deleted {}", left.join("; ")))
        .hint("remove the cause, and prune again"))
}
