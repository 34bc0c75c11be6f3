//! `perennial node history`: what happened to a node, for somebody who was not there.

use std::collections::BTreeMap;

use perennial_store::JournalReader;
use perennial_workflows::backup::{BackupCause, BackupId, Carried};
use perennial_workflows::history::{Comparison, Entry, NodeHistory, Remark, StepLine, Story, node_history};
use perennial_workflows::loss::Origin;
use perennial_workflows::node::OperationId;
use perennial_workflows::spec::NodeName;
use perennial_workflows::steps::Slot;

use crate::failure::Failure;
use crate::output::words::{length, time, wrapped};
use crate::output::{Output, table};
use crate::query;

/// Prints the history of a node.
pub(crate) async fn run(
    journal: &JournalReader,
    name: &NodeName,
    last: Option<usize>,
    output: Output,
) -> Result<(), Failure> {
    let history = load(journal, name, last).await?;
    output.show(&history, || text(&history))
}

/// Folds the history of a node; with `last`, only of its newest operations.
pub(crate) async fn load(
    journal: &JournalReader,
    name: &NodeName,
    last: Option<usize>,
) -> Result<NodeHistory, Failure> {
    let node = query::node(journal, name).await?;
    let first = node.operations.saturating_sub(last.map_or(u64::MAX, |last| last as u64));
    let mut operations = BTreeMap::new();
    for number in first + 1..=node.operations {
        let id = OperationId::new(name.clone(), number);
        operations.insert(id.clone(), query::operation_events(journal, &id).await?);
    }
    let mut history = node_history(name, &query::node_events(journal, name).await?, &operations);
    let began = history.entries.iter().position(|entry| matches!(entry, Entry::Operation(_)));
    if let (Some(_), Some(began)) = (last, began) {
        history.entries.drain(..began);
    }
    add_backups(&mut history, &query::book(journal, name).await?);
    Ok(history)
}

/// What of a node's backups belongs into its history, as far as its present book remembers: those that failed, and those that
/// were not taken by the schedule. The others stand in `perennial node backups`.
fn add_backups(history: &mut NodeHistory, book: &Carried) {
    let id = |number| BackupId::new(history.node.clone(), number);
    let failed = book.failures.iter().map(|failure| {
        (failure.at_ms, format!("backup {} has failed: {}", id(failure.backup), failure.because))
    });
    let asked =
        book.backups.iter().filter(|backup| backup.order.cause != BackupCause::Schedule).map(|backup| {
            let (order, progress) = (&backup.order, backup.progress);
            (backup.began_at_ms, format!("backup {} ({progress}): {}", id(order.number), order.cause))
        });
    let remarks: Vec<Entry> =
        failed.chain(asked).map(|(at_ms, text)| Entry::Remark { at_ms, text }).collect();
    let first_ms = history.entries.first().map_or(0, began_ms);
    history.entries.extend(remarks.into_iter().filter(|remark| began_ms(remark) >= first_ms));
    history.entries.sort_by_key(began_ms);
}

const fn began_ms(entry: &Entry) -> u64 {
    match entry {
        Entry::Remark { at_ms, .. } => *at_ms,
        Entry::Operation(story) => story.started_at_ms,
    }
}

/// A history for people.
pub(crate) fn text(history: &NodeHistory) -> String {
    let entries: Vec<String> = history
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::Remark { at_ms, text } => wrapped(&time(*at_ms), text, 4),
            Entry::Operation(story) => told(story),
        })
        .collect();
    entries.join("\n\n")
}

/// One operation for people.
pub(crate) fn told(story: &Story) -> String {
    let end = match story.finished_at_ms {
        Some(at_ms) => format!("finished after {}", length(at_ms.saturating_sub(story.started_at_ms))),
        None => story.status.clone(),
    };
    let head = format!("{} {} {}:", time(story.started_at_ms), story.operation, story.kind);
    let mut lines = vec![wrapped(&head, &end, 4), wrapped("  cause   ", &story.cause, 11)];
    if let Some(outage) = &story.outage {
        let from = length(outage.from_ms.saturating_sub(story.started_at_ms));
        let to = length(outage.to_ms.saturating_sub(story.started_at_ms));
        let what = format!(
            "{}, from +{from} ({}) to +{to} ({})",
            length(outage.length_ms()),
            outage.from,
            outage.to
        );
        lines.push(wrapped("  outage  ", &what, 11));
    }
    let losses = losses(&story.origins);
    if !losses.is_empty() {
        lines.push(wrapped("  loss    ", &losses.join("; "), 11));
    }
    lines.push(String::new());
    lines.push(steps(story));
    lines.extend(remarks("rejected", &story.rejected, story));
    lines.extend(remarks("also", &story.remarks, story));
    if story.comparison.iter().any(|line| !line.before.is_empty()) {
        lines.push(String::new());
        lines.push(comparison(&story.comparison));
    }
    lines.join("\n")
}

/// What of each of a node's volumes is lost, and why the rest is not: a line for each.
pub(crate) fn losses(origins: &BTreeMap<Slot, Origin>) -> Vec<String> {
    let told = origins.iter().map(|(slot, origin)| match origin {
        Origin::SameVolume => format!("{slot}: none, the same volume"),
        Origin::Clone { of } => format!("{slot}: none, a clone of {of}"),
        Origin::FinalSnapshot { snapshot } => format!("{slot}: none, final snapshot {snapshot}"),
        Origin::Backup { backup, taken_at_ms, until_ms } => format!(
            "{slot}: since {}, {} at most ({backup})",
            time(*taken_at_ms),
            length(until_ms.saturating_sub(*taken_at_ms))
        ),
        Origin::Anew => format!("{slot}: everything, it began anew"),
    });
    told.collect()
}

/// The steps of an operation, each with when it began, how long it took and what was seen.
pub(crate) fn steps(story: &Story) -> String {
    let mut lines = vec![format!("  {:>9}  {:>8}  STEP, AND WHAT WAS SEEN", "BEGAN", "TOOK")];
    lines.extend(story.steps.iter().map(|step| step_line(step, story.started_at_ms)));
    lines.join("\n")
}

fn step_line(step: &StepLine, started_at_ms: u64) -> String {
    let began = length(step.intended_at_ms.saturating_sub(started_at_ms));
    let took = step
        .settled_at_ms
        .map_or_else(|| "-".to_owned(), |at_ms| length(at_ms.saturating_sub(step.intended_at_ms)));
    let again = if step.attempt > 1 { format!(" (try {})", step.attempt) } else { String::new() };
    let name = format!("{}{again}", step.step);
    wrapped(&format!("  {:>9}  {took:>8}  {name:<16} ", format!("+{began}")), &step.evidence, 25)
}

fn remarks(title: &str, remarks: &[Remark], story: &Story) -> Vec<String> {
    let mut lines = Vec::new();
    if !remarks.is_empty() {
        lines.push(format!("  {title}:"));
    }
    lines.extend(remarks.iter().map(|remark| {
        let at = length(remark.at_ms.saturating_sub(story.started_at_ms));
        wrapped(&format!("  {:>9} ", format!("+{at}")), &remark.text, 13)
    }));
    lines
}

/// Before and after.
fn comparison(lines: &[Comparison]) -> String {
    let or_none = |text: &String| if text.is_empty() { "-".to_owned() } else { text.clone() };
    table(
        &["", "BEFORE", "AFTER", ""],
        &[],
        lines.iter().map(|line| {
            let same = if line.same { "same" } else { "" };
            vec![format!("  {}", line.what), or_none(&line.before), or_none(&line.after), same.to_owned()]
        }),
    )
}

#[cfg(test)]
mod tests {
    use perennial_workflows::backup::Failure;

    use super::*;

    #[test]
    fn a_backup_that_failed_stands_in_the_history_at_its_time() {
        let remark = |at_ms, text: &str| Entry::Remark { at_ms, text: text.to_owned() };
        let mut history = NodeHistory {
            node: NodeName::parse("db-1").unwrap(),
            entries: vec![remark(1_000, "registered"), remark(9_000, "spec changed")],
        };
        let failures = [(500, "long ago"), (5_000, "not allowed")];
        let failures = failures.map(|(at_ms, because)| Failure { backup: 4, at_ms, because: because.into() });
        add_backups(&mut history, &Carried { failures: failures.into(), ..Carried::default() });
        let expected = [
            remark(1_000, "registered"),
            remark(5_000, "backup db-1.b4 has failed: not allowed"),
            remark(9_000, "spec changed"),
        ];
        assert_eq!(history.entries, expected, "what lies before the part that is shown is left out");
    }
}
