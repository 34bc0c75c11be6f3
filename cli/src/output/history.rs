//! What happened to a node and in a workflow.

use std::collections::BTreeMap;

use perennial_workflows::model::resources::RecoveryPoint;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::view::history::{Comparison, Entry, NodeHistory, Remark, StepLine, Story};

use crate::output::table;
use crate::output::words::{length, offset, time, wrapped};

/// A history for people.
pub(crate) fn node(history: &NodeHistory, now_ms: u64) -> String {
    let entries: Vec<String> = history
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::Remark { at_ms, text } => wrapped(&time(*at_ms), text, 4),
            Entry::Operation(story) => workflow(story, now_ms),
        })
        .collect();
    entries.join("\n\n")
}

/// One workflow for people.
pub(crate) fn workflow(story: &Story, now_ms: u64) -> String {
    let end = match story.finished_at_ms {
        Some(at_ms) => format!("finished after {}", length(at_ms.saturating_sub(story.started_at_ms))),
        None => story.status.clone(),
    };
    let head = format!("{} {} {}:", time(story.started_at_ms), story.operation, story.kind);
    let mut lines = vec![wrapped(&head, &end, 4), wrapped("  cause   ", &story.cause, 11)];
    if let Some(outage) = &story.outage {
        let from = offset_of(outage.from_ms, story.started_at_ms);
        let lasts = length(outage.length_ms(now_ms));
        let what = match (outage.to_ms, &outage.to) {
            (Some(to_ms), Some(to)) => {
                let until = offset(to_ms.saturating_sub(story.started_at_ms));
                format!("{lasts}, from {from} ({}) to {until} ({to})", outage.from)
            }
            _ => format!("{lasts} so far, from {from} ({}); the node is down", outage.from),
        };
        lines.push(wrapped("  outage  ", &what, 11));
    }
    lines.extend(story.unattended.iter().map(|absence| {
        let killed = if absence.killed { " (it was killed)" } else { "" };
        let from = offset_of(absence.from_ms, story.started_at_ms);
        let what = match absence.until_ms {
            Some(until_ms) => {
                let lasts = length(until_ms.saturating_sub(absence.from_ms));
                format!(
                    "none ran for {lasts}, from {from} to {}{killed}",
                    offset_of(until_ms, story.started_at_ms)
                )
            }
            None => format!("none runs since {from}{killed}"),
        };
        wrapped("  server  ", &what, 11)
    }));
    let losses = losses(&story.recovery_points);
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
pub(crate) fn losses(recovery_points: &BTreeMap<Slot, RecoveryPoint>) -> Vec<String> {
    let lines = recovery_points.iter().map(|(slot, origin)| match origin {
        RecoveryPoint::SameVolume => format!("{slot}: none, the same volume"),
        RecoveryPoint::Clone { of } => format!("{slot}: none, a clone of {of}"),
        RecoveryPoint::FinalSnapshot { snapshot } => format!("{slot}: none, final snapshot {snapshot}"),
        RecoveryPoint::Backup { backup, taken_at_ms, until_ms } => format!(
            "{slot}: since {}, {} at most ({backup})",
            time(*taken_at_ms),
            length(until_ms.saturating_sub(*taken_at_ms))
        ),
        RecoveryPoint::Anew => format!("{slot}: everything, it began anew"),
    });
    lines.collect()
}

/// The steps of an operation, each with when it began, how long it took and what was seen.
pub(crate) fn steps(story: &Story) -> String {
    let mut lines = vec![format!("  {:>9}  {:>8}  STEP, AND WHAT WAS SEEN", "BEGAN", "TOOK")];
    let mut told: Vec<&StepLine> = Vec::new();
    for step in &story.steps {
        let like = |other: &&&StepLine| {
            is_repeated(step) && other.step == step.step && other.evidence == step.evidence
        };
        let alike: Vec<&StepLine> = story.steps.iter().filter(|other| like(&other)).collect();
        if alike.len() < REPEATED_MIN {
            lines.push(step_line(step, story.started_at_ms));
        } else if !told.iter().any(|other| like(&other)) {
            told.push(step);
            lines.extend(repeated(&alike, story.started_at_ms));
        }
    }
    lines.join("\n")
}

/// From how many equal attempts on they are told as one.
const REPEATED_MIN: usize = 3;

/// Whether a step is one of those that are tried again and again.
const fn is_repeated(step: &StepLine) -> bool {
    step.settled_at_ms.is_some()
}

/// Attempts that have seen the same: the first one, and how many followed it.
fn repeated(alike: &[&StepLine], started_at_ms: u64) -> Vec<String> {
    let (Some(first), Some(last)) = (alike.first(), alike.last()) else { return Vec::new() };
    let until = last.settled_at_ms.unwrap_or(last.intended_at_ms);
    let head = format!("  {:>9}  {:>8}  ", "", "");
    let more = format!(
        "the same {} times more, until {}",
        alike.len() - 1,
        offset(until.saturating_sub(started_at_ms))
    );
    vec![step_line(first, started_at_ms), wrapped(&head, &more, 25)]
}

fn step_line(step: &StepLine, started_at_ms: u64) -> String {
    let began = offset(step.intended_at_ms.saturating_sub(started_at_ms));
    let took = step
        .settled_at_ms
        .map_or_else(|| "-".to_owned(), |at_ms| length(at_ms.saturating_sub(step.intended_at_ms)));
    let again = if step.attempt > 1 { format!(" (try {})", step.attempt) } else { String::new() };
    let name = format!("{}{again}", step.step);
    wrapped(&format!("  {began:>9}  {took:>8}  {name:<16} "), &step.evidence, 25)
}

/// A place in an operation; before its start with a minus.
fn offset_of(at_ms: u64, started_at_ms: u64) -> String {
    match at_ms.checked_sub(started_at_ms) {
        Some(after_ms) => offset(after_ms),
        None => offset(started_at_ms - at_ms).replacen('+', "-", 1),
    }
}

/// Remarks in order of time; equal ones are told once, with how many there are.
fn remarks(title: &str, remarks: &[Remark], story: &Story) -> Vec<String> {
    let mut lines = Vec::new();
    if !remarks.is_empty() {
        lines.push(format!("  {title}:"));
    }
    for (index, remark) in remarks.iter().enumerate() {
        let same = |other: &&Remark| other.text == remark.text;
        if remarks[..index].iter().any(|other| same(&other)) {
            continue;
        }
        let alike: Vec<&Remark> = remarks[index..].iter().filter(same).collect();
        let mut text = remark.text.clone();
        if let Some(last) = alike.last().filter(|_| alike.len() > 1) {
            let until = offset(last.at_ms.saturating_sub(story.started_at_ms));
            text.push_str(&format!(" ({} times, the last at {until})", alike.len()));
        }
        let at = offset(remark.at_ms.saturating_sub(story.started_at_ms));
        lines.push(wrapped(&format!("  {at:>9} "), &text, 13));
    }
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
