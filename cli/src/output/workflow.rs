//! Lists of workflows.

use perennial_views::model::workflow::WorkflowLine;

use crate::output::{table, words};

/// The workflows.
pub(crate) fn list(lines: &[WorkflowLine]) -> String {
    if lines.is_empty() {
        return "no workflows".to_owned();
    }
    table(
        &["WORKFLOW", "KIND", "STATUS", "STARTED", "TOOK", "CAUSE"],
        &[4],
        lines.iter().map(|line| {
            let took = line.ended_at_ms.map(|end| end.saturating_sub(line.started_at_ms));
            vec![
                line.workflow.clone(),
                line.kind.to_string(),
                line.status.clone(),
                words::minute(line.started_at_ms),
                took.map_or_else(|| "-".to_owned(), words::length),
                line.because.clone().unwrap_or_else(|| line.cause.clone()),
            ]
        }),
    )
}
