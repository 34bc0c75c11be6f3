//! Reading the journal: nodes and operations as they are now.

use perennial_engine::domain::{Domain as _, Stamp};
use perennial_engine::engine::load_stream;
use perennial_engine::ids::{Seq, StreamId};
use perennial_engine::journal::{Journal, SummaryRow, Which};
use perennial_store::JournalReader;
use perennial_workflows::backup::{Carried, book_key};
use perennial_workflows::domain::{Event, Perennial, State};
use perennial_workflows::node::{Node, NodeEvent, OperationId, node_stream};
use perennial_workflows::operation::{Operation, OperationEvent};
use perennial_workflows::spec::NodeName;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// How many lines of a list one read takes.
const PAGE: usize = 1_000;

/// A node; a failure if there never was one.
pub(crate) async fn node(journal: &JournalReader, name: &NodeName) -> Result<Node, Failure> {
    match load_stream::<Perennial>(journal, &node_stream(name)).await?.0 {
        State::Node(node) if node.spec.is_some() => Ok(node),
        _ => Err(Failure::user(format!("there is no node {name}"))
            .hint("`perennial node list` shows those there are")),
    }
}

/// An operation; a failure if there is none.
pub(crate) async fn operation(journal: &JournalReader, id: &OperationId) -> Result<Operation, Failure> {
    find_operation(journal, id).await?.ok_or_else(|| {
        Failure::user(format!("there is no workflow {id}"))
            .hint("`perennial workflow list` shows those there are")
    })
}

/// An operation, if there is one.
pub(crate) async fn find_operation(
    journal: &JournalReader,
    id: &OperationId,
) -> Result<Option<Operation>, Failure> {
    match load_stream::<Perennial>(journal, &id.stream()).await?.0 {
        State::Operation(operation) => Ok(operation),
        _ => Ok(None),
    }
}

/// What is known of a node's backups; nothing, when it never had one.
pub(crate) async fn book(journal: &JournalReader, name: &NodeName) -> Result<Carried, Failure> {
    let streams = journal.lookup(&book_key(name)).await?;
    let Some(stream) = streams.first() else { return Ok(Carried::default()) };
    match load_stream::<Perennial>(journal, stream).await?.0 {
        State::Book(book) => Ok(book.known),
        _ => Ok(Carried::default()),
    }
}

/// Every summary of a category, with its line.
pub(crate) async fn summaries<T: DeserializeOwned>(
    journal: &JournalReader,
    category: &str,
    which: Which,
) -> Result<Vec<(SummaryRow, T)>, Failure> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = journal.summaries(category, which, after.take(), PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().map(|row| row.stream.clone());
        for row in page {
            let line = serde_json::from_str(&row.body).map_err(|error| {
                Failure::environment(format!("the summary of {} cannot be read: {error}", row.stream))
                    .hint("run `perennial journal rebuild`")
            })?;
            all.push((row, line));
        }
        if !full {
            return Ok(all);
        }
    }
}

/// Every event of a stream, with its place and time.
async fn events(journal: &JournalReader, stream: &StreamId) -> Result<Vec<(Stamp, Event)>, Failure> {
    let mut all = Vec::new();
    let mut after = Seq::NONE;
    loop {
        let page = journal.read_stream(stream, after, PAGE).await?;
        for event in &page {
            after = event.seq;
            let decoded = Perennial::decode(&event.data).map_err(|error| {
                Failure::environment(format!("event {after} of {stream}: {error}"))
                    .hint("run `perennial journal verify`")
            })?;
            all.push((Stamp { seq: event.seq, at_ms: event.recorded_at_ms }, decoded));
        }
        if page.len() < PAGE {
            return Ok(all);
        }
    }
}

/// Every event of a node's own stream.
pub(crate) async fn node_events(
    journal: &JournalReader,
    name: &NodeName,
) -> Result<Vec<(Stamp, NodeEvent)>, Failure> {
    let events = events(journal, &node_stream(name)).await?.into_iter();
    Ok(events
        .filter_map(|(stamp, event)| match event {
            Event::Node(event) => Some((stamp, event)),
            Event::Operation(_) | Event::Letter(_) | Event::Backup(_) | Event::Pool(_) => None,
        })
        .collect())
}

/// Every event of an operation.
pub(crate) async fn operation_events(
    journal: &JournalReader,
    id: &OperationId,
) -> Result<Vec<(Stamp, OperationEvent)>, Failure> {
    let events = events(journal, &id.stream()).await?.into_iter();
    Ok(events
        .filter_map(|(stamp, event)| match event {
            Event::Operation(event) => Some((stamp, event)),
            Event::Node(_) | Event::Letter(_) | Event::Backup(_) | Event::Pool(_) => None,
        })
        .collect())
}
