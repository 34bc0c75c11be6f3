//! What is wrong with a node file, by field.

/// One thing that is wrong with a node file whose form is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct SpecError {
    /// Where, such as `data_volumes[1].device`.
    pub field: String,
    /// What is wrong and what to do.
    pub why: String,
}
