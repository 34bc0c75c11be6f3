//! `perennial node history`: what happened to a node.

use perennial_store::JournalReader;
use perennial_workflows::node::OperationId;
use perennial_workflows::spec::NodeName;

use crate::describe;
use crate::failure::Failure;
use crate::output::Output;
use crate::{read, workflow};

/// Prints the history of a node.
pub(crate) async fn run(
    journal: &JournalReader,
    name: &NodeName,
    last: Option<usize>,
    output: Output,
) -> Result<(), Failure> {
    let text = text(journal, name, last).await?;
    output.text(&text)
}

/// The history of a node, for people.
pub(crate) async fn text(
    journal: &JournalReader,
    name: &NodeName,
    last: Option<usize>,
) -> Result<String, Failure> {
    let node = read::node(journal, name).await?;
    let first = node.operations.saturating_sub(last.map_or(u64::MAX, |last| last as u64));
    let mut text = String::new();
    for number in first + 1..=node.operations {
        let id = OperationId::new(name.clone(), number);
        let operation = read::operation(journal, &id).await?;
        text.push_str(&format!(
            "{} {}: {}, {}\n{}\n\n",
            describe::time(operation.started_at_ms),
            id,
            operation.order.kind,
            operation.order.cause,
            workflow::steps(&operation)
        ));
    }
    Ok(text)
}
