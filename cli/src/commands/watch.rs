//! Follows a workflow: its events as they come, until it is over or stuck.

use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::ids::Seq;
use perennial_views::Views;
use perennial_views::model::progress::Progress as WorkflowState;
use perennial_views::model::workflow::{WatchedEvent, WorkflowProgress};
use perennial_workflows::model::operation_id::{OperationId, Outcome};

use crate::commands::present;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::narrator::Narrator;
use crate::output::{Format, Output, screen, words};

/// Between two looks at the journal. A person does not feel it, and a look costs under a millisecond.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// In how many looks the open steps are told, on a terminal: once a second.
const TOLD_EVERY: u32 = 10;

/// In how many looks one is at the node as well, whose journal may be behind the account.
const BEHIND_EVERY: u32 = 10;

/// Where the progress of a workflow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is what was asked for: stdout.
    Data,
    /// It only passes the time: stderr.
    Aside,
}

/// A failure when the node's journal is behind the account: no step runs until a person has looked.
async fn not_behind(views: &Views, id: &OperationId) -> Result<(), Failure> {
    let node = views.node(id.node(), Clock::system().now_ms()).await?;
    if node.newer.is_empty() {
        return Ok(());
    }
    let why = format!(
        "workflow {id} waits: the account has resources of {} that the journal cannot know: {}",
        id.node(),
        node.newer.join("; ")
    );
    Err(Failure::stuck(why).hint(
        "stop the server and look at `perennial journal adopt --dry-run`, or remove what is not the node's",
    ))
}

/// Prints a workflow's events as they come, until it is over (good), or waits for a person (a failure).
pub(crate) async fn watch(
    (views, installation): (&Views, &Installation),
    output: Output,
    progress: Progress,
    id: &OperationId,
) -> Result<Outcome, Failure> {
    let mut watch = views.watch(id);
    let clock = Clock::system();
    let mut began_ms = None;
    let mut narrator = Narrator::default();
    let mut looks = 0_u32;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let events = watch.next_events().await?;
        if !events.is_empty() {
            output.say_for_now("");
        }
        for event in events {
            let began_ms = *began_ms.get_or_insert(event.line.recorded_at_ms);
            let text = told(&mut narrator, id, &event, began_ms);
            match (progress, output.format, text) {
                (Progress::Data, Format::Json, _) => output.json_line(&event.line)?,
                (Progress::Data, _, Some(text)) => output.words(&text)?,
                (Progress::Aside, _, Some(text)) => output.say(&text),
                (_, _, None) => {}
            }
        }
        match watch.progress() {
            WorkflowProgress::Running => {}
            WorkflowProgress::Finished(outcome) => return Ok(*outcome),
            // A signal may have made it go on: its state knows.
            WorkflowProgress::Stuck(_) if !is_stuck(views, id).await? => {}
            WorkflowProgress::Stuck(stuck) => {
                let why = format!("workflow {id} is stuck at {}: {}", stuck.step, stuck.because);
                let resume = format!("perennial workflow resume {id}");
                let is_told = stuck.needs.contains(&resume);
                let then = if is_told { String::new() } else { format!("; then `{resume}`") };
                return Err(Failure::stuck(why).hint(format!("{}{then}", stuck.needs)));
            }
        }
        if looks.is_multiple_of(BEHIND_EVERY) {
            not_behind(views, id).await?;
        }
        if looks.is_multiple_of(TOLD_EVERY) && looks > 0 {
            let now_ms = present::now_ms(installation).await;
            if let Some(open) = views.progress(id, now_ms).await? {
                output.say_for_now(&live(&open, began_ms.unwrap_or(now_ms), now_ms));
            }
        }
        looks += 1;
        tokio::select! {
            () = clock.sleep(LOOK_EVERY) => {}
            _ = &mut interrupted => {
                output.say_for_now("");
                return Err(Failure::interrupted(format!("{id} goes on without you; follow it: perennial workflow watch {id}")));
            }
        }
    }
}

/// Whether a workflow waits for a person.
async fn is_stuck(views: &Views, id: &OperationId) -> Result<bool, Failure> {
    Ok(views.progress(id, 0).await?.is_some_and(|open| open.stuck.is_some()))
}

/// The open steps of a workflow, in one line.
fn live(open: &WorkflowState, began_ms: u64, now_ms: u64) -> String {
    let at = words::offset(now_ms.saturating_sub(began_ms));
    let what = match &open.capacity {
        Some(wait) => format!("no capacity; {}", screen::tried(wait, now_ms)),
        None => {
            let steps: Vec<String> =
                open.steps.iter().take(2).map(|step| screen::under_way(step, now_ms)).collect();
            steps.join(" · ")
        }
    };
    format!(" {at:>9}  … {what}")
}

/// An event in words, with the time since the workflow began.
fn told(narrator: &mut Narrator, id: &OperationId, event: &WatchedEvent, began_ms: u64) -> Option<String> {
    let (name, what) = narrator.narrate(id, Seq(event.line.seq), &event.event)?;
    let at = words::offset(event.line.recorded_at_ms.saturating_sub(began_ms));
    let head = format!(" {at:>9}  {name:<16} ");
    Some(words::wrapped(&head, &what, 12))
}
