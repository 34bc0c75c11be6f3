//! The selection of a describe: ids, filters, pages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use perennial_workers::port::Tags;
use perennial_workflows::model::aws::BadId;

use super::super::params::Scope;
use super::super::xml::Element;
use super::call::Call;
use super::filters::is_known;
use crate::world::ApiError;

/// Values of one filter (EC2 API reference, Filter).
const FILTER_VALUES_MAX: usize = 200;

/// Parses an id as EC2 does: a wrong form is another error than an unknown id.
pub(super) fn id<Id>(text: &str, kind: &str, parse: fn(&str) -> Result<Id, BadId>) -> Result<Id, ApiError> {
    let rest = text.rsplit('-').next().unwrap_or_default();
    let well_formed =
        rest.len() >= 8 && rest.bytes().all(|b| b.is_ascii_hexdigit() || b.is_ascii_alphanumeric());
    match parse(text) {
        Ok(id) if well_formed => Ok(id),
        _ => Err(ApiError::new(&format!("{kind}.Malformed"), format!("Invalid id: \"{text}\""))),
    }
}

pub(super) fn ids<Id>(
    texts: &[&str],
    kind: &str,
    parse: fn(&str) -> Result<Id, BadId>,
) -> Result<Vec<Id>, ApiError> {
    texts.iter().map(|text| id(text, kind, parse)).collect()
}

/// Server-side filters: all must match, any of a filter's values suffices.
pub(super) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    /// Reads those of a describe. A name that is no filter of it is an error, also where there are no
    /// objects.
    pub(super) fn read(params: &Scope<'_>) -> Result<Self, ApiError> {
        let action = params.text("Action").unwrap_or_default();
        let mut filters = Vec::new();
        for filter in params.each("Filter") {
            let name = filter.required("Name")?.to_owned();
            if !is_known(action, &name) {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' is invalid"),
                ));
            }
            let values: Vec<_> = filter.texts("Value").into_iter().map(str::to_owned).collect();
            if values.len() > FILTER_VALUES_MAX {
                let message = "The maximum number of filter values specified on a single call is 200";
                return Err(ApiError::new("FilterLimitExceeded", message));
            }
            filters.push((name, values));
        }
        Ok(Self(filters))
    }

    /// The instance types that a filter names, without wildcards.
    pub(super) fn named_types(&self) -> Option<Vec<String>> {
        let (_, values) = self.0.iter().find(|(name, _)| name == "instance-type")?;
        (!values.iter().any(|value| value.contains(['*', '?']))).then(|| values.clone())
    }

    /// Whether an object matches. `field` gives the values an object has under a filter's name, or nothing
    /// where no object of this region has any.
    pub(super) fn admit(&self, tags: &Tags, field: impl Fn(&str) -> Option<Vec<String>>) -> bool {
        for (name, values) in &self.0 {
            let has = match name.strip_prefix("tag:") {
                Some(key) => tags.get(key).cloned().into_iter().collect(),
                None if name == "tag-key" => tags.keys().cloned().collect(),
                None if name == "tag-value" => tags.values().cloned().collect(),
                None => field(name).unwrap_or_default(),
            };
            if !values.iter().any(|wanted| has.iter().any(|has| like(wanted, has))) {
                return false;
            }
        }
        true
    }
}

/// EC2's wildcards: `*` any characters, `?` one, `\` takes the next literally.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // One step back suffices: to the newest star, which then takes one character more.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some('?') => (p, t) = (p + 1, t + 1),
            Some('\\') if pattern.get(p + 1) == Some(&text[t]) => (p, t) = (p + 2, t + 1),
            Some(c) if *c != '\\' && *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The bounds of `MaxResults`.
pub(super) struct Bounds {
    min: usize,
    max: usize,
    /// Whether more than the most is an error, or as good as the most.
    is_strict: bool,
}

impl Bounds {
    /// Most describes.
    pub(super) const USUAL: Self = Self::strict(5, 1000);
    /// Volumes, their states, and snapshots: "if MaxResults is given a value larger than 1000, only 1000
    /// results are returned" (EC2 API reference of 2016; version 1 and 2 of the AWS CLI ask for 1000).
    pub(super) const STORAGE: Self = Self { is_strict: false, ..Self::USUAL };
    /// "Up to a limit of 500" (EC2 API reference, DescribeVolumesModifications).
    pub(super) const MODIFICATIONS: Self = Self { max: 500, is_strict: false, ..Self::USUAL };

    /// More than the most is an error.
    pub(super) const fn strict(min: usize, max: usize) -> Self {
        Self { min, max, is_strict: true }
    }
}

/// One page of objects that come with their ids in order, and the token of the next one. A token names the
/// last id that was given, so that a page is right after objects were created or deleted meanwhile.
pub(super) fn page<T>(
    call: &Call<'_>,
    bounds: &Bounds,
    items: Vec<(String, T)>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let most: Option<usize> = call.params.number("MaxResults")?;
    let largest = if bounds.is_strict { bounds.max } else { usize::MAX };
    if let Some(most) = most
        && !(bounds.min..=largest).contains(&most)
    {
        let (min, max) = (bounds.min, bounds.max);
        let message =
            format!("Value ( {most} ) for parameter maxResults is invalid. Expecting {min} to {max}.");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    let after = call.params.text("NextToken").map(opened).transpose()?;
    let mut rest: Vec<_> =
        items.into_iter().filter(|(id, _)| after.as_ref().is_none_or(|after| id > after)).collect();
    rest.sort_by(|a, b| a.0.cmp(&b.0));
    let most = most.map_or(usize::MAX, |most| most.min(bounds.max));
    let more = rest.len() > most;
    rest.truncate(most);
    let token = rest.last().filter(|_| more).map(|(id, _)| sealed(id));
    Ok((rest.into_iter().map(|(_, item)| item).collect(), token))
}

/// `MaxResults` and ids do not go together (EC2 API reference).
pub(super) fn not_with_ids(call: &Call<'_>, ids: &[&str], name: &str) -> Result<(), ApiError> {
    if ids.is_empty() || call.params.text("MaxResults").is_none() {
        return Ok(());
    }
    let message = format!("The parameter {name} cannot be used with the parameter maxResults");
    Err(ApiError::new("InvalidParameterCombination", message))
}

pub(super) fn answer(name: &'static str, (items, next): (Vec<Element>, Option<String>)) -> Element {
    Element::new().list(name, items).maybe("nextToken", next)
}

const TOKEN_PREFIX: &str = "after:";

fn sealed(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{TOKEN_PREFIX}{id}"))
}

fn opened(token: &str) -> Result<String, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.strip_prefix(TOKEN_PREFIX).map(str::to_owned))
        .ok_or_else(|| ApiError::new("InvalidNextToken", "The token is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_documented() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "abcd", true),
            ("*d", "abcd", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdf", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            (r"a\*c", "a*c", true),
            (r"a\*c", "abc", false),
            (r"x\*\?\\", r"x*?\", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("**a", "ba", true),
        ] {
            assert_eq!(like(pattern, text), expected, "{pattern} {text}");
        }
    }
}
