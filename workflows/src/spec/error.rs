//! The error of a node file or a pool file, with its field.

/// One error in a file whose form is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct SpecError {
    /// The field, such as `data_volumes[1].device`.
    pub field: String,
    /// What is wrong and how to correct it.
    pub why: String,
}
