//! Workflows for people.

use perennial_views::model::workflow::{WorkflowLine, WorkflowView};
use perennial_workflows::view::history::Story;

use crate::output::words::wrapped;
use crate::output::{history, screen, table, words};

/// Where the text of a row of a workflow begins.
const INDENT: usize = 11;

/// The workflows; `of` is how many there are with those that are left out.
pub(crate) fn list(lines: &[&WorkflowLine], of: usize, now_ms: u64) -> String {
    if lines.is_empty() {
        return if of == 0 { "no workflows".to_owned() } else { format!("none of {of} workflows") };
    }
    let rows = lines.iter().map(|line| {
        // One that is stuck has not ended.
        let ended_ms = line.ended_at_ms.filter(|_| line.status != "stuck").unwrap_or(now_ms);
        let took_ms = ended_ms.saturating_sub(line.started_at_ms);
        vec![
            line.workflow.clone(),
            line.kind.to_string(),
            if line.status == "stuck" { "STUCK".to_owned() } else { line.status.clone() },
            words::recent(line.started_at_ms),
            words::lasting(took_ms),
            line.because.clone().unwrap_or_else(|| line.cause.clone()),
        ]
    });
    let left = of - lines.len();
    let left =
        if left == 0 { String::new() } else { format!("\n\n({left} older or other ones are not shown: -n)") };
    format!("{}{left}", table(&["WORKFLOW", "KIND", "STATUS", "STARTED", "TOOK", "CAUSE"], &[4], rows))
}

/// One workflow: what it does now, and all that happened.
pub(crate) fn show(view: &WorkflowView, story: &Story, now_ms: u64) -> String {
    let mut text = history::workflow(story, now_ms);
    let Some(open) = &view.progress else { return text };
    let mut now = Vec::new();
    if let Some(wait) = &open.capacity {
        let what = format!(
            "waits for capacity: {} had none; {}",
            wait.pools.join(", "),
            screen::tried(wait, now_ms)
        );
        now.push(wrapped("  now     ", &what, INDENT));
    }
    for step in open.steps.iter().filter(|_| open.stuck.is_none() && open.capacity.is_none()) {
        now.push(wrapped("  now     ", &screen::under_way(step, now_ms), INDENT));
    }
    if let Some(ends) = screen::ends(open, now_ms) {
        now.push(wrapped("  ends    ", &ends, INDENT));
    }
    now.push(wrapped("  you     ", &open.advice.text, INDENT));
    now.extend(open.advice.commands.iter().map(|command| format!("{:INDENT$}  {command}", "")));
    text.push_str("\n\n");
    text.push_str(&now.join("\n"));
    text
}
