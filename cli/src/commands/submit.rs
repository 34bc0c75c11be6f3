//! Submits something: a message to the submissions queue, and following what becomes of it.

use std::time::Duration;

use clap::Args;
use perennial_engine::clock::Clock;
use perennial_engine::queue::Outgoing;
use perennial_store::OpenError;
use perennial_views::Views;
use perennial_views::model::backups::BackupProgress;
use perennial_views::model::prune::NotDeleted;
use perennial_views::model::submission::SubmissionView;
use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::domain::submission::{Submission, SubmissionId, Work};
use perennial_workflows::model::backup_id::BackupId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, Outcome};
use tokio::time::Instant;

use crate::commands::args::duration;
use crate::commands::watch::{LOOK_EVERY, Progress, watch};
use crate::failure::Failure;
use crate::installation::config::QueueKind;
use crate::installation::journal_file::{self, Holder};
use crate::installation::{Installation, Role};
use crate::output::{Output, complain, words};

/// A running server answers a submission within milliseconds; after this long there is none, or it is in
/// trouble.
const ANSWER_EXPECTED: Duration = Duration::from_secs(5);

/// How long a command without `--wait` waits for the answer: a running server gives it within milliseconds.
const ANSWER_SOON: Duration = Duration::from_secs(2);

/// Of every command that submits something.
#[derive(Debug, Clone, Args)]
pub(crate) struct SubmitArgs {
    /// Wait until it is done or stuck, and show the progress
    #[arg(long)]
    pub(crate) wait: bool,
    /// Do not wait two seconds for the server's answer; print the submission's id
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// How long --wait waits, such as 90s, 30m or 2h
    #[arg(long, default_value = "30m", value_parser = duration, value_name = "TIME", requires = "wait")]
    pub(crate) timeout: Duration,
    /// The idempotency key; each key is processed once [default: a new UUID]
    #[arg(long = "id", value_name = "KEY", value_parser = submission_id)]
    pub(crate) submission: Option<SubmissionId>,
    /// Who requests it, for the record
    #[arg(long = "as", value_name = "WHO", env = "PERENNIAL_AS", hide_env = true)]
    pub(crate) requested_by: Option<String>,
}

fn submission_id(text: &str) -> Result<SubmissionId, String> {
    SubmissionId::try_from(text.to_owned()).map_err(|error| error.to_string())
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

    /// Makes the message of `workflow` about `node`, sends it and, if asked, follows it.
    pub(crate) async fn submit(
        &self,
        installation: &Installation,
        output: Output,
        (workflow, node): (&str, Option<&NodeName>),
        params: serde_json::Value,
    ) -> Result<(), Failure> {
        let message = self.message(workflow, node.map(NodeName::as_str), params);
        self.send(installation, output, &message).await
    }

    /// Sends a message and, if asked, follows it.
    pub(crate) async fn send(
        &self,
        installation: &Installation,
        output: Output,
        message: &serde_json::Value,
    ) -> Result<(), Failure> {
        self.send_all(installation, output, std::slice::from_ref(message)).await
    }

    /// Sends messages, all before the first answer is waited for. What becomes of each is told where it ends;
    /// one that fails leaves the others alone.
    pub(crate) async fn send_all(
        &self,
        installation: &Installation,
        output: Output,
        messages: &[serde_json::Value],
    ) -> Result<(), Failure> {
        let mut submissions = Vec::new();
        for message in messages {
            // What the server would refuse by its form is refused here, where the operator reads it.
            submissions.push(Submission::parse(&message.to_string()).map_err(Failure::user)?);
        }
        must_have_been_served(installation)?;
        for submission in &submissions {
            must_not_be_another(installation, submission).await?;
        }
        let queue = installation.queue(Role::Submissions).await?;
        for message in messages {
            queue.send(vec![Outgoing::now(message.to_string())]).await?;
        }
        let until = Instant::now() + self.timeout;
        if let [submission] = submissions.as_slice() {
            return Box::pin(self.answer(installation, output, submission, until)).await;
        }
        let mut failures = Vec::new();
        for submission in &submissions {
            if let Err(failure) = Box::pin(self.answer(installation, output, submission, until)).await {
                if failure.is_interruption() {
                    return Err(failure);
                }
                complain(&failure, output.format);
                failures.push(failure);
            }
        }
        Failure::of_several(submissions.len(), failures).map_or(Ok(()), Err)
    }

    /// What becomes of a submission.
    async fn answer(
        &self,
        installation: &Installation,
        output: Output,
        submission: &Submission,
        until: Instant,
    ) -> Result<(), Failure> {
        if !self.wait {
            return self.answered_soon(installation, output, submission).await;
        }
        let id = submission.id.to_string();
        output.say(&format!("submitted {id}"));
        let expected = Expected::of(&submission.work);
        let followed =
            tokio::time::timeout_at(until, Box::pin(follow(installation, output, submission, expected)))
                .await;
        let (disposition, workflow, outcome) = match followed {
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
            check_ended(workflow, &installation.views()?.not_deleted(workflow).await?)?;
        }
        let text = match &workflow {
            Some(workflow) => format!("{id}: workflow {workflow} {outcome}"),
            None => format!("{id}: {disposition}"),
        };
        let state = if workflow.is_some() { outcome.name() } else { "done" };
        let view = SubmissionView {
            submission: id,
            disposition: Some(disposition),
            workflow,
            state: state.to_owned(),
        };
        output.show(&view, || text)
    }
}

impl SubmitArgs {
    /// Tells what the server says to a submission, if it says it soon.
    async fn answered_soon(
        &self,
        installation: &Installation,
        output: Output,
        submission: &Submission,
    ) -> Result<(), Failure> {
        let id = submission.id.to_string();
        let sent = |id: &str| SubmissionView {
            submission: id.to_owned(),
            disposition: None,
            workflow: None,
            state: "sent".to_owned(),
        };
        if self.no_wait {
            return output.show(&sent(&id), || id.clone());
        }
        let is_here = installation.config.queues.submissions.kind == QueueKind::Embedded;
        if is_here && matches!(journal_file::holder(&installation.config.journal_path()), Holder::Nobody) {
            return output.show(&sent(&id), || {
                format!("{id}: kept in the queue until a server runs: `perennial serve`")
            });
        }
        let soon = disposition(installation, output, submission);
        let Ok(answer) = tokio::time::timeout(ANSWER_SOON, soon).await else {
            return output.show(&sent(&id), || {
                format!("{id}: sent, not answered yet: `perennial submission show {id}`")
            });
        };
        let (_, disposition) = answer?;
        if !disposition.is_accepted() {
            return Err(refused(&id, &disposition));
        }
        let workflow = match &disposition {
            Disposition::Started { operation }
            | Disposition::Joined { operation }
            | Disposition::Amended { operation, .. } => Some(operation.clone()),
            _ => None,
        };
        let follow = workflow
            .as_ref()
            .map_or_else(String::new, |workflow| format!("; follow it: perennial workflow watch {workflow}"));
        let text = format!("{id}: {disposition}{follow}");
        let view = SubmissionView {
            submission: id,
            disposition: Some(disposition),
            workflow,
            state: "accepted".to_owned(),
        };
        output.show(&view, || text)
    }
}

/// An embedded queue lies beside the journal: where there never was one, no server will read the message, and
/// the directory is most likely a wrong one. With SQS the commands may run on a machine of their own.
fn must_have_been_served(installation: &Installation) -> Result<(), Failure> {
    let (config, path) = (&installation.config, installation.config.journal_path());
    if config.queues.submissions.kind == QueueKind::Embedded && !path.exists() {
        return Err(OpenError::Missing { path, format: "journal" }.into());
    }
    Ok(())
}

/// An id that was used for something else is refused before anything is sent, where the journal is at hand.
/// Otherwise the server refuses it.
async fn must_not_be_another(installation: &Installation, submission: &Submission) -> Result<(), Failure> {
    let Some(views) = installation.views_if_ready()? else { return Ok(()) };
    let id = submission.id.to_string();
    match views.answer("submissions", &id, &submission.content).await? {
        Some(mismatch @ Disposition::Mismatch { .. }) => Err(refused(&id, &mismatch)),
        _ => Ok(()),
    }
}

fn refused(id: &str, disposition: &Disposition) -> Failure {
    Failure::failed(format!("submission {id} was {disposition}"))
}

/// How a workflow should end, by what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Completed,
    /// A cancellation follows the workflow to its end as well; being cancelled is what was asked for.
    Cancelled,
    /// Also of a workflow that was under way.
    Paused,
    Deleted,
}

impl Expected {
    const fn of(work: &Work) -> Self {
        match work {
            Work::Cancel(_) => Self::Cancelled,
            Work::Pause(_) => Self::Paused,
            Work::Delete(_) => Self::Deleted,
            Work::Apply(_)
            | Work::Replace(_)
            | Work::Backup(_)
            | Work::Recycle(_)
            | Work::Restore(_)
            | Work::Pool(_)
            | Work::ResumeNode(_)
            | Work::Prune(_)
            | Work::Resume(_) => Self::Completed,
        }
    }

    const fn is_met_by(self, outcome: Outcome) -> bool {
        match self {
            Self::Completed | Self::Deleted => matches!(outcome, Outcome::Completed),
            Self::Cancelled => matches!(outcome, Outcome::Cancelled),
            Self::Paused => matches!(outcome, Outcome::Completed | Outcome::Paused),
        }
    }
}

/// Follows a submission: its inbox entry, then the workflow it led to.
async fn follow(
    installation: &Installation,
    output: Output,
    submission: &Submission,
    expected: Expected,
) -> Result<(Disposition, Option<OperationId>, Outcome), Failure> {
    let (views, disposition) = disposition(installation, output, submission).await?;
    if disposition.is_accepted() {
        output.say(&disposition.to_string());
    }
    match &disposition {
        Disposition::Started { operation }
        | Disposition::Joined { operation }
        | Disposition::Amended { operation, .. } => {
            let mut operation = operation.clone();
            let mut outcome = watch((&views, installation), output, Progress::Aside, &operation).await?;
            // A deletion that had to end another workflow first begins with that one's end.
            if expected == Expected::Deleted && outcome == Outcome::Paused {
                operation = operation.next();
                outcome = watch((&views, installation), output, Progress::Aside, &operation).await?;
            }
            if !expected.is_met_by(outcome) {
                return Err(Failure::failed(format!("workflow {operation} ended {outcome}")));
            }
            Ok((disposition, Some(operation), outcome))
        }
        Disposition::BackupBegan { backup } => {
            backup_ends(&views, backup).await?;
            output.say(&format!("{backup} is complete"));
            Ok((disposition, None, Outcome::Completed))
        }
        Disposition::Changed
        | Disposition::ChangedWith { .. }
        | Disposition::PoolDeclared { .. }
        | Disposition::Noted { .. } => {
            // The node is not as its file says before what is under way has ended.
            if let Work::Apply(apply) = &submission.work
                && let Some(open) = views.node(&apply.spec.name, Clock::system().now_ms()).await?.open
            {
                let id = OperationId::parse(&open.workflow).map_err(Failure::internal)?;
                watch((&views, installation), output, Progress::Aside, &id).await?;
            }
            Ok((disposition, None, Outcome::Completed))
        }
        Disposition::Rejected { .. }
        | Disposition::Foreign { .. }
        | Disposition::Past { .. }
        | Disposition::Unknown { .. }
        | Disposition::Mismatch { .. }
        | Disposition::Malformed { .. }
        | Disposition::Oversized { .. } => Err(refused(&submission.id.to_string(), &disposition)),
    }
}

/// Waits until a server has processed a submission.
async fn disposition(
    installation: &Installation,
    output: Output,
    submission: &Submission,
) -> Result<(Views, Disposition), Failure> {
    let id = submission.id.to_string();
    let clock = Clock::system();
    let sent_ms = clock.now_ms();
    let mut told = false;
    loop {
        if let Some(views) = installation.views_if_ready()?
            && let Some(disposition) = views.answer("submissions", &id, &submission.content).await?
        {
            return Ok((views, disposition));
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
    }
}

/// Waits until a backup is complete (good) or has failed.
async fn backup_ends(views: &Views, id: &BackupId) -> Result<(), Failure> {
    loop {
        match views.backup_progress(id).await? {
            BackupProgress::Running => Clock::system().sleep(LOOK_EVERY).await,
            BackupProgress::Complete => return Ok(()),
            BackupProgress::Failed { because } => {
                return Err(Failure::failed(format!("backup {id} has failed: {because}")));
            }
        }
    }
}

/// Checks that a prune that has ended could delete everything.
///
/// # Errors
/// Which volumes it could not delete, and why.
fn check_ended(prune: &OperationId, not_deleted: &[NotDeleted]) -> Result<(), Failure> {
    if not_deleted.is_empty() {
        return Ok(());
    }
    let left: Vec<String> = not_deleted
        .iter()
        .map(|left| format!("{}: {}", left.volume, left.because.as_deref().unwrap_or("not tried")))
        .collect();
    Err(Failure::failed(format!("workflow {prune} has not deleted {}", left.join("; ")))
        .hint("remove the cause, and prune again"))
}
