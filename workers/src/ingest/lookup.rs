//! Whose an instance is, for what must be known before a command is given.

use perennial_engine::engine::Engine;
use perennial_engine::journal::ReadError;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::keys::instance_key;
use perennial_workflows::domain::reads::node_among;
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::name::NodeName;

/// The node an instance belongs or belonged to.
///
/// # Errors
/// When the journal cannot be read.
pub async fn node_of(
    engine: &Engine<Perennial>,
    instance: &InstanceId,
) -> Result<Option<NodeName>, ReadError> {
    Ok(node_among(&engine.journal().lookup(&instance_key(instance)).await?))
}
