//! The parameters of a query call: `Filter.1.Value.2=x` and the like, read as nested lists.
//!
//! Parameters that no handler reads are remembered, so that the list of calls shows the ignored ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::str::FromStr;

use crate::world::ApiError;

/// The most parameters of one call: a thousand instance ids with their filters fit, a flood does not.
const PARAMETERS_MAX: usize = 4_000;

/// All parameters of one call.
#[derive(Debug, Default)]
pub(crate) struct Params {
    all: BTreeMap<String, String>,
    /// Shared with those that were made of these: reading there is reading here.
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl Params {
    /// Parses a form.
    pub(crate) fn parse(form: &[u8]) -> Result<Self, ApiError> {
        let mut all = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(form) {
            if all.len() == PARAMETERS_MAX {
                let message = format!("more than {PARAMETERS_MAX} parameters");
                return Err(ApiError::new("MalformedQueryString", message));
            }
            all.insert(key.into_owned(), value.into_owned());
        }
        Ok(Self::from(all))
    }

    /// Everything, as one scope.
    pub(crate) fn root(&self) -> Scope<'_> {
        Scope { params: self, prefix: String::new() }
    }

    /// The parameters whose names start with `prefix`, without it.
    pub(crate) fn below(&self, prefix: &str) -> BTreeMap<String, String> {
        let mut read = self.read.borrow_mut();
        let found = self.all.iter().filter_map(|(key, value)| {
            let rest = key.strip_prefix(prefix)?;
            read.insert(key.clone());
            Some((rest.to_owned(), value.clone()))
        });
        found.collect()
    }

    /// Every parameter, without counting as read.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The names that no handler has read.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.all.keys().filter(|key| !read.contains(*key)).cloned().collect()
    }

    /// These parameters over others: a parameter here replaces all of the same first name there.
    pub(crate) fn over(&self, others: &BTreeMap<String, String>) -> Self {
        let first = |key: &str| key.split('.').next().unwrap_or_default().to_owned();
        let said: BTreeSet<_> = self.all.keys().map(|key| first(key)).collect();
        let kept = others.iter().filter(|(key, _)| !said.contains(&first(key)));
        let mut all: BTreeMap<_, _> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        all.extend(self.all.clone());
        Self { all, read: Rc::clone(&self.read) }
    }
}

impl From<BTreeMap<String, String>> for Params {
    fn from(all: BTreeMap<String, String>) -> Self {
        Self { all, read: Rc::default() }
    }
}

/// The parameters below a name.
#[derive(Debug, Clone)]
pub(crate) struct Scope<'a> {
    params: &'a Params,
    prefix: String,
}

impl<'a> Scope<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A parameter; an empty one counts as absent.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        let key = self.key(name);
        let found = self.params.all.get(&key).map(String::as_str);
        self.params.read.borrow_mut().insert(key);
        found.filter(|text| !text.is_empty())
    }

    /// Whether a parameter is there, even if empty; for parameters whose presence is their meaning.
    pub(crate) fn is_there(&self, name: &str) -> bool {
        let key = self.key(name);
        let is_there = self.params.all.contains_key(&key);
        self.params.read.borrow_mut().insert(key);
        is_there
    }

    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&'a str, ApiError> {
        self.text(name).ok_or_else(|| {
            let message = format!("The request must contain the parameter {}", self.key(name));
            ApiError::new("MissingParameter", message)
        })
    }

    pub(crate) fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>, ApiError> {
        self.text(name).map(|text| text.parse().map_err(|_| self.bad(name, text))).transpose()
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.text(name)
            .map(|text| match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(self.bad(name, text)),
            })
            .transpose()
    }

    pub(crate) fn is_set(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.flag(name)?.unwrap_or(false))
    }

    fn bad(&self, name: &str, text: &str) -> ApiError {
        let message = format!("Invalid value '{text}' for {}", self.key(name));
        ApiError::new("InvalidParameterValue", message)
    }

    /// The parameters below `name.`.
    pub(crate) fn scope(&self, name: &str) -> Scope<'a> {
        Scope { params: self.params, prefix: format!("{}{name}.", self.prefix) }
    }

    /// The entries `name.1.…`, `name.2.…` by their numbers.
    pub(crate) fn each(&self, name: &str) -> Vec<Scope<'a>> {
        self.numbers(name)
            .into_iter()
            .map(|number| Scope { params: self.params, prefix: format!("{}{name}.{number}.", self.prefix) })
            .collect()
    }

    /// The values `name.1`, `name.2` by their numbers.
    pub(crate) fn texts(&self, name: &str) -> Vec<&'a str> {
        let numbers = self.numbers(name);
        numbers.into_iter().filter_map(|number| self.text(&format!("{name}.{number}"))).collect()
    }

    fn numbers(&self, name: &str) -> BTreeSet<u32> {
        let prefix = format!("{}{name}.", self.prefix);
        let below = self.params.all.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        below.filter_map(|(key, _)| key[prefix.len()..].split('.').next()?.parse().ok()).collect()
    }

    /// Whether there is no parameter below this name.
    pub(crate) fn is_empty(&self) -> bool {
        !self.params.all.keys().any(|key| key.starts_with(&self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_by_number_and_what_is_not_read_is_known() {
        let params =
            Params::parse(b"Id.2=b&Id.10=c&Id.1=a&F.1.Name=n&F.1.Value.1=x%26y&F.1.Value.2=&Other=1")
                .unwrap();
        let root = params.root();
        assert_eq!(root.texts("Id"), ["a", "b", "c"]);
        let [filter] = &root.each("F")[..] else { panic!("one filter") };
        assert_eq!((filter.text("Name"), filter.texts("Value")), (Some("n"), vec!["x&y"]));
        assert!(filter.is_there("Value.2") && !filter.is_there("Value.3"));
        assert_eq!(params.ignored(), ["Other"]);
        assert_eq!(root.required("Nothing").unwrap_err().code, "MissingParameter");
        assert_eq!(root.number::<u32>("F.1.Name").unwrap_err().code, "InvalidParameterValue");
    }

    #[test]
    fn what_a_request_says_replaces_a_whole_list_of_its_template() {
        let template = Params::parse(b"Group.1=a&Group.2=b&Type=t").unwrap();
        let merged = Params::parse(b"Group.1=c").unwrap().over(&template.all);
        assert_eq!(merged.root().texts("Group"), ["c"]);
        assert_eq!(merged.root().text("Type"), Some("t"));

        let own = Params::parse(b"Group.1=c&Nonsense=n").unwrap();
        own.over(&template.all).root().texts("Group");
        assert_eq!(own.ignored(), ["Nonsense"], "what is read of the merged ones is read");
    }
}
