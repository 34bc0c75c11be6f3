//! A call under way, and the tags that it names.

use perennial_workers::port::Tags;

use super::super::params::{Params, Scope};
use crate::world::{ApiError, World};

/// One call under way.
pub(crate) struct Call<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) now_ms: u64,
    pub(crate) all: &'a Params,
    pub(crate) params: Scope<'a>,
}

impl Call<'_> {
    /// The tags a call puts on a kind of resource (`TagSpecification.N`).
    pub(super) fn tags_for(&self, kind: &str) -> Result<Tags, ApiError> {
        let mut tags = Tags::new();
        for specification in self.params.each("TagSpecification") {
            let named = specification.text("ResourceType");
            let read = read_tags(&specification, "Tag")?;
            if named == Some(kind) {
                tags.extend(read);
            }
        }
        Ok(tags)
    }
}

/// `Tag.N.Key` and `Tag.N.Value`.
pub(crate) fn read_tags(scope: &Scope<'_>, name: &str) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for tag in scope.each(name) {
        let key = tag.required("Key")?;
        if key.len() > 128 || tag.text("Value").is_some_and(|value| value.chars().count() > 256) {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "Tag keys have up to 128, values up to 256 characters",
            ));
        }
        if key.starts_with("aws:") {
            let message = "Tag keys starting with 'aws:' are reserved for internal use";
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        tags.insert(key.to_owned(), tag.owned("Value").unwrap_or_default());
    }
    Ok(tags)
}
