//! Asking for something: a message to the submissions queue, and following what becomes of it.

use std::time::Duration;

use clap::Args;
use perennial_engine::clock::Clock;
use perennial_engine::domain::Domain as _;
use perennial_engine::engine::load_stream;
use perennial_engine::ids::Seq;
use perennial_engine::journal::{Journal as _, RecordedEvent};
use perennial_engine::queue::Outgoing;
use perennial_store::{JournalReader, OpenError};
use perennial_workflows::aggregate::inbox::{Fate, letter_stream};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::domain::submission::{Submission, SubmissionId, Work};
use perennial_workflows::model::backup_id::BackupId;
use perennial_workflows::model::operation_id::{OperationId, Outcome};
use perennial_workflows::operation::event::OperationEvent;
use serde::Serialize;

use crate::config::QueueKind;
use crate::describe;
use crate::failure::Failure;
use crate::installation::{Installation, Role};
use crate::output::{Format, Output};
use crate::{prune, read};

/// Between two looks at the journal. A person does not feel it, and a look costs under a millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A running server answers a submission within milliseconds; after this long there is none, or it is in trouble.
const ANSWER_EXPECTED: Duration = Duration::from_secs(5);

/// How many events one read takes.
const PAGE: usize = 500;

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

/// Reads `90s`, `30m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is no length of time such as 90s, 30m or 2h"))?;
    Duration::try_from(parsed).map_err(|_| "a length of time is not negative".to_owned())
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
                    describe::length(u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX))
                ))
                .hint("it is kept: start `perennial serve` if none runs, and look with `perennial workflow list`"));
            }
        };
        if let (Work::Prune(_), Some(workflow)) = (&submission.work, &workflow) {
            let journal = installation.reader()?;
            let condemned = read::operation(&journal, workflow).await?.order.prune.clone();
            prune::check_ended(&read::node(&journal, workflow.node()).await?, workflow, &condemned)?;
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
        let book = read::book(journal, id.node()).await?;
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

async fn read_from(
    journal: &JournalReader,
    id: &OperationId,
    mut after: Seq,
) -> Result<Vec<RecordedEvent>, Failure> {
    let mut all = Vec::new();
    loop {
        let page = journal.read_stream(&id.stream(), after, PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().map_or(after, |event| event.seq);
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// Where the progress of an operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is what was asked for: stdout.
    Data,
    /// It only passes the time: stderr.
    Aside,
}

/// Prints an operation's events as they come, until it is over (good) or stuck (a failure).
pub(crate) async fn watch(
    journal: &JournalReader,
    output: Output,
    progress: Progress,
    id: &OperationId,
) -> Result<Outcome, Failure> {
    let mut after = Seq::NONE;
    let clock = Clock::system();
    let mut began_ms = None;
    let mut teller = describe::Teller::default();
    loop {
        let events = read_from(journal, id, after).await?;
        let mut stuck = None;
        for event in &events {
            after = event.seq;
            let began_ms = *began_ms.get_or_insert(event.recorded_at_ms);
            let decoded = Perennial::decode(&event.data).map_err(|error| {
                Failure::environment(format!("{} of {id}: {error}", event.seq))
                    .hint("run `perennial journal verify`")
            })?;
            let Event::Operation(decoded) = decoded else { continue };
            let at_ms = event.recorded_at_ms.saturating_sub(began_ms);
            let told = teller.tell(id, event.seq, &decoded).map(|(name, what)| {
                let head = format!(" {:>9}  {name:<16} ", format!("+{}", describe::length(at_ms)));
                describe::wrapped(&head, &what, 12)
            });
            match (progress, output.format, told) {
                (Progress::Data, Format::Json, _) => output.json_line(&line(event)?)?,
                (Progress::Data, Format::Table, Some(told)) => output.text(&told)?,
                (Progress::Aside, _, Some(told)) => output.say(&told),
                (_, _, None) => {}
            }
            match decoded {
                OperationEvent::Finished { outcome, .. } => return Ok(outcome),
                OperationEvent::Stuck { step, because, needs } => stuck = Some((step, because, needs)),
                OperationEvent::Resumed { .. } | OperationEvent::CancelRequested { .. } => stuck = None,
                _ => {}
            }
        }
        if let Some((step, because, needs)) = stuck {
            return Err(Failure::failed(format!("workflow {id} is stuck at {step}: {because}"))
                .hint(format!("{needs}; then `perennial workflow resume {id}`")));
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

/// One event for programs.
fn line(event: &RecordedEvent) -> Result<serde_json::Value, Failure> {
    let body: serde_json::Value = serde_json::from_str(&event.data.body).map_err(Failure::internal)?;
    Ok(serde_json::json!({
        "position": event.position, "stream": event.stream, "seq": event.seq, "kind": event.data.kind,
        "recorded_at_ms": event.recorded_at_ms, "body": body,
    }))
}
