//! What the journal says of a node or an instance now, for a command that is about to be given.

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::ReadError;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Rejection, Sight};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::backup_id::{CatalogId, catalog_key};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};

/// What can be seen of a node now.
///
/// # Errors
/// When the journal cannot be read.
pub async fn sight(engine: &Engine<Perennial>, name: &NodeName) -> Result<Sight, ExecuteError<Rejection>> {
    let (state, _) = engine.load(&node_stream(name)).await?;
    let catalog = present_catalog(engine, name).await?;
    Ok(match state.as_ref() {
        State::Node(node) => Sight::of(name, node).with_catalog(catalog),
        _ => {
            Sight { node: name.clone(), operations: 0, open: None, pools: Vec::new(), catalog, source: None }
        }
    })
}

/// The node an instance belongs or belonged to.
///
/// # Errors
/// When the journal cannot be read.
pub async fn node_of(
    engine: &Engine<Perennial>,
    instance: &InstanceId,
) -> Result<Option<NodeName>, ExecuteError<Rejection>> {
    let streams = engine.journal().lookup(&format!("instance/{instance}")).await?;
    Ok(streams.iter().find_map(|stream| match stream.category() {
        "node" => NodeName::parse(stream.name()).ok(),
        _ => OperationId::of_stream(stream).map(|id| id.node().clone()),
    }))
}

/// The present segment of a node's backup catalogue.
///
/// # Errors
/// When the journal cannot be read.
pub async fn present_catalog(engine: &Engine<Perennial>, name: &NodeName) -> Result<u64, ReadError> {
    let streams = engine.journal().lookup(&catalog_key(name)).await?;
    Ok(streams.iter().filter_map(CatalogId::of_stream).map(|catalog| catalog.number()).max().unwrap_or(1))
}
