//! What a step waits for.

use perennial_workflows::operation::state::Waits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a step waits for. It is told after a minute, when it changes, and once an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitsView {
    /// Why.
    pub because: String,
    /// Whether it passes by itself: it is waited for as long as it takes.
    pub by_itself: bool,
    /// How many looks there were by then.
    pub looks: u32,
    /// When this was seen.
    pub at_ms: u64,
}

impl WaitsView {
    pub(crate) fn new(waits: &Waits) -> Self {
        let Waits { because, hindered, looks, at_ms } = waits;
        Self { because: because.clone(), by_itself: *hindered, looks: *looks, at_ms: *at_ms }
    }
}
