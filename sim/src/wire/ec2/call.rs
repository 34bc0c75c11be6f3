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
    /// The tags that a call puts on the one kind of resource that it makes (`TagSpecification.N`).
    pub(super) fn tags_for(&self, kind: &'static str) -> Result<Tags, ApiError> {
        let [tags] = specified_tags(&self.params, [kind])?;
        Ok(tags)
    }
}

/// The tags that a call puts on each of the kinds of resources that it makes. Other kinds are an error, and
/// so is a specification without tags.
pub(super) fn specified_tags<const KINDS: usize>(
    params: &Scope<'_>,
    kinds: [&'static str; KINDS],
) -> Result<[Tags; KINDS], ApiError> {
    let wrong = |message: String| ApiError::new("InvalidParameterValue", message);
    let mut tags = [const { Tags::new() }; KINDS];
    for specification in params.each("TagSpecification") {
        let named = specification.text("ResourceType");
        let named =
            named.ok_or_else(|| wrong("Tag specification resource type must have a value".to_owned()))?;
        let index = kinds.iter().position(|kind| *kind == named).ok_or_else(|| {
            wrong(format!("'{named}' is not a valid taggable resource type for this operation."))
        })?;
        let read = read_tags(&specification, "Tag")?;
        if read.is_empty() {
            return Err(wrong("Tag specification must have at least one tag".to_owned()));
        }
        tags[index].extend(read);
    }
    Ok(tags)
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
