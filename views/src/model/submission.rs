//! What became of a submission.

use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::model::operation_id::OperationId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer of every command that submits something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubmissionView {
    /// Its idempotency key.
    pub submission: String,
    /// What became of it; none while no server has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disposition: Option<Disposition>,
    /// The workflow it led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<OperationId>,
    /// `sent`, or `accepted` once a server has answered; with `--wait` `done`, or how the workflow ended,
    /// such as `finished` or `cancelled`.
    pub state: String,
}
