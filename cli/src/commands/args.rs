//! Arguments that several commands share, and how they are read.

use std::time::Duration;

use clap::Args;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::volume::Slot;

/// A node's name.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The node
    #[arg(value_parser = NodeName::parse)]
    pub(crate) name: NodeName,
}

/// Adds a reason to a submission's parameters, if one was given.
pub(crate) fn reasoned(mut params: serde_json::Value, reason: Option<&str>) -> serde_json::Value {
    if let Some(reason) = reason {
        params["reason"] = reason.into();
    }
    params
}

/// Reads `root`, or the name of a data volume.
pub(crate) fn slot(text: &str) -> Result<Slot, String> {
    Slot::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// Reads `90s`, `30m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is no length of time such as 90s, 30m or 2h"))?;
    Duration::try_from(parsed).map_err(|_| "a length of time is not negative".to_owned())
}
