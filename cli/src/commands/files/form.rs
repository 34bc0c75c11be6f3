//! The form of a file, by its JSON Schema: everything that is wrong with it at once, each with its place
//! and, where a name was meant that is nearly the same, with that name.

use serde_json::Value as Json;

use super::yaml::{Node, Place, Tree, Value};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where.
    pub(crate) at: Option<Place>,
    /// What is wrong.
    pub(crate) what: String,
    /// What may have been meant.
    pub(crate) help: Option<String>,
}

/// Names that differ in more than a third of their letters are not taken for each other.
const LIKENESS_MIN: f64 = 0.66;

/// The name of several that is most like a word, if one is.
pub(crate) fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(&word, &plain(name));
    names
        .into_iter()
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

/// Everything that is wrong with the form of a document.
pub(crate) fn mistakes(schema: &Json, document: &Tree) -> Vec<Mistake> {
    let of_yaml = document.mistakes.iter().cloned();
    let of_yaml = of_yaml.map(|(at, what)| Mistake { at: Some(at), what, help: None }).collect();
    let mut form = Form { root: schema, mistakes: of_yaml };
    form.check(schema, &document.root, "");
    form.mistakes.sort_by_key(|mistake| mistake.at);
    form.mistakes
}

/// A document of the right form as JSON. A plain `1.10` is a text where the schema asks for one, as it
/// stands.
pub(crate) fn json(schema: &Json, document: &Tree) -> Json {
    Form { root: schema, mistakes: Vec::new() }.json(schema, &document.root)
}

struct Form<'s> {
    root: &'s Json,
    mistakes: Vec<Mistake>,
}

impl<'s> Form<'s> {
    /// What a schema says in the end: behind a reference, and without the `null` of what may be left out.
    fn meant(&self, schema: &'s Json) -> &'s Json {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            return self.meant(&self.root["$defs"][name]);
        }
        let choices = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
        if let Some(choices) = choices.filter(|_| schema.get("properties").is_none()) {
            let mut real = choices.iter().filter(|choice| choice["type"] != "null");
            if let (Some(only), None) = (real.next(), real.next()) {
                return self.meant(only);
            }
        }
        schema
    }

    fn wrong(&mut self, at: Place, what: String, help: Option<String>) {
        self.mistakes.push(Mistake { at: Some(at), what, help });
    }

    fn check(&mut self, schema: &'s Json, node: &Node, path: &str) {
        if is_null(node) && may_be_null(schema) {
            return;
        }
        let schema = self.meant(schema);
        if let Some(words) = words_of(schema) {
            return self.check_word(&words, node, path);
        }
        if schema.get("properties").is_some() || schema["additionalProperties"].is_object() {
            return self.check_map(schema, node, path);
        }
        match kind(schema) {
            Some("array") => self.check_list(schema, node, path),
            Some("integer") => self.check_number(schema, node, path),
            Some("boolean") => self.check_flag(node, path),
            Some("string") => self.check_text(node, path),
            _ => {}
        }
    }

    fn check_text(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::List(_) | Value::Map(_) => self.wrong(node.at, format!("{path}: expects a text"), None),
            Value::Scalar { text, quoted: false } if text.is_empty() => {
                self.wrong(node.at, format!("{path}: is empty; write a text, or remove it"), None);
            }
            Value::Scalar { text, .. } if is_null(node) => {
                let what = format!("{path}: expects a text, and {text} stands for none");
                self.wrong(node.at, what, Some(format!("write \"{text}\"")));
            }
            Value::Scalar { .. } => {}
        }
    }

    /// The value of a node by its schema.
    fn json(&self, schema: &'s Json, node: &Node) -> Json {
        if is_null(node) && may_be_null(schema) {
            return Json::Null;
        }
        let schema = self.meant(schema);
        match &node.value {
            Value::Scalar { text, .. } if words_of(schema).is_some() || kind(schema) == Some("string") => {
                text.as_str().into()
            }
            Value::Scalar { .. } => node.json(),
            Value::List(elements) => {
                elements.iter().map(|element| self.json(&schema["items"], element)).collect()
            }
            Value::Map(entries) => {
                let field = |(key, value): &(Node, Node)| {
                    let name = key.text()?;
                    let of = match schema["properties"].get(name) {
                        Some(schema) => schema,
                        None => &schema["additionalProperties"],
                    };
                    Some((name.to_owned(), self.json(of, value)))
                };
                entries.iter().filter_map(field).collect()
            }
        }
    }

    fn check_map(&mut self, schema: &'s Json, node: &Node, path: &str) {
        let Value::Map(entries) = &node.value else {
            let is_empty = matches!(&node.value, Value::Scalar { text, quoted: false } if text.is_empty());
            let what = if is_empty {
                format!("{path}: is empty; write {{}} for its defaults, or remove it")
            } else {
                format!("{path}: expects keys and values")
            };
            return self.wrong(node.at, what, None);
        };
        let properties = schema["properties"].as_object();
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        for (key, value) in entries {
            let Some(name) = key.text() else { continue };
            match properties.and_then(|properties| properties.get(name)) {
                Some(schema) => self.check(schema, value, &below(name)),
                None if schema["additionalProperties"] == false => self.unknown(schema, key, name, path),
                None if schema["additionalProperties"].is_object() => {
                    self.check(&schema["additionalProperties"], value, &below(name));
                }
                None => {}
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            if !entries.iter().any(|(key, _)| key.text() == Some(name)) {
                self.wrong(node.at, format!("{} is missing", below(name)), None);
            }
        }
    }

    fn unknown(&mut self, schema: &'s Json, key: &Node, name: &str, path: &str) {
        let known: Vec<&str> =
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let at = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        let help = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match self.elsewhere(name) {
                Some(section) => format!("it belongs into `{section}`"),
                None => format!("known are {}", known.join(", ")),
            },
        };
        self.wrong(key.at, format!("unknown field `{name}`{at}"), Some(help));
    }

    /// The section at the top that has a key of this name.
    fn elsewhere(&self, name: &str) -> Option<&'s str> {
        let sections = self.root["properties"].as_object()?;
        let has = |schema: &'s Json| self.meant(schema)["properties"].get(name).is_some();
        sections.iter().find(|(_, schema)| has(schema)).map(|(section, _)| section.as_str())
    }

    fn check_list(&mut self, schema: &'s Json, node: &Node, path: &str) {
        match &node.value {
            Value::List(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.check(&schema["items"], element, &format!("{path}[{index}]"));
                }
            }
            Value::Scalar { text, .. } if text.is_empty() => {
                self.wrong(
                    node.at,
                    format!("{path}: is empty; write [] for an empty list, or remove it"),
                    None,
                );
            }
            Value::Scalar { text, .. } => {
                self.wrong(node.at, format!("{path}: expects a list"), Some(format!("write [{text}]")));
            }
            Value::Map(_) => self.wrong(node.at, format!("{path}: expects a list"), None),
        }
    }

    fn check_number(&mut self, schema: &'s Json, node: &Node, path: &str) {
        let found = node.text().unwrap_or_default();
        let number =
            found.parse::<i128>().ok().filter(|_| !matches!(node.value, Value::Scalar { quoted: true, .. }));
        let bound = |name: &str| schema[name].as_i64().map(i128::from);
        let (least, most) = (bound("minimum"), bound("maximum"));
        let Some(number) = number else {
            let example = most.unwrap_or(100).min(100);
            let what = format!("{path}: expects a whole number such as {example}, not {found:?}");
            return self.wrong(node.at, what, None);
        };
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("{least} or more"),
                (None, Some(most)) => format!("at most {most}"),
                (None, None) => String::new(),
            };
            self.wrong(node.at, format!("{path}: is {number}; it takes {range}"), None);
        }
    }

    fn check_flag(&mut self, node: &Node, path: &str) {
        if node.json().is_boolean() {
            return;
        }
        let found = node.text().unwrap_or_default();
        let help = match found.to_lowercase().as_str() {
            "yes" | "on" | "y" | "true" => Some("write true".to_owned()),
            "no" | "off" | "n" | "false" => Some("write false".to_owned()),
            _ => None,
        };
        self.wrong(node.at, format!("{path}: expects true or false, not {found:?}"), help);
    }

    fn check_word(&mut self, words: &[&str], node: &Node, path: &str) {
        let found = node.text().unwrap_or_default();
        if !words.contains(&found) {
            let help = nearest(found, words.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            let what = format!("{path}: {found:?} is none of {}", words.join(", "));
            self.wrong(node.at, what, help);
        }
    }
}

/// Whether a node says that there is nothing.
fn is_null(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, quoted: false } if matches!(text.as_str(), "~" | "null" | "Null" | "NULL"))
}

/// Whether a schema allows nothing, or says nothing at all.
fn may_be_null(schema: &Json) -> bool {
    let is_null = |schema: &Json| schema["type"] == "null";
    let among = |choices: &Json| choices.as_array().is_some_and(|choices| choices.iter().any(is_null));
    let in_types = schema["type"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "null"));
    in_types
        || among(&schema["anyOf"])
        || among(&schema["oneOf"])
        || !schema.is_object()
        || schema.as_object().is_some_and(serde_json::Map::is_empty)
}

/// The type that a schema asks for, besides `null`.
fn kind(schema: &Json) -> Option<&str> {
    match &schema["type"] {
        Json::String(kind) => Some(kind),
        Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).find(|kind| *kind != "null"),
        _ => None,
    }
}

/// The words that a schema allows, if it allows nothing else.
fn words_of(schema: &Json) -> Option<Vec<&str>> {
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(Json::as_str).collect();
    }
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word]);
    }
    let mut words = Vec::new();
    for choice in schema["oneOf"].as_array()? {
        words.extend(words_of(choice)?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::files::yaml::tree;

    fn said(text: &str) -> Vec<String> {
        let schemas = perennial_workflows::view::schemas::all();
        let (_, schema) = schemas.iter().find(|(name, _)| *name == "node").expect("the node file's");
        let found = mistakes(schema.as_value(), &tree(text).unwrap());
        let line = |mistake: Mistake| {
            let at = mistake.at.unwrap();
            let help = mistake.help.map_or_else(String::new, |help| format!(" ({help})"));
            format!("{}:{} {}{help}", at.line, at.column, mistake.what)
        };
        found.into_iter().map(line).collect()
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_with_what_was_meant() {
        let text = "schema: perennial.node/v1\nname: db-1\nimage: ami-1\nsubnet: subnet-1\ncapacity:\n  instance_types: m6i.large\n  \
                    markt: spot_only\n  market: spot-only\n  retain_days: 3\npersit: {root: adopt}\nbackup:\nprotect: maybe\n\
                    data_volumes:\n  - {name: data, size_gib: 100GiB}\n  - {name: more, size_gib: 0}\n";
        let expected = [
            "6:19 capacity.instance_types: expects a list (write [m6i.large])",
            "7:3 unknown field `markt` in `capacity` (did you mean `market`?)",
            "8:11 capacity.market: \"spot-only\" is none of spot_only, spot_then_on_demand, on_demand_only (did you mean `spot_only`?)",
            "9:3 unknown field `retain_days` in `capacity` (it belongs into `persist`)",
            "10:1 unknown field `persit` (did you mean `persist`?)",
            "11:7 backup: is empty; write {} for its defaults, or remove it",
            "12:10 protect: expects true or false, not \"maybe\"",
            "14:28 data_volumes[0].size_gib: expects a whole number such as 100, not \"100GiB\"",
            "15:28 data_volumes[1].size_gib: is 0; it takes 1 to 65536",
        ];
        assert_eq!(said(text), expected);
    }

    #[test]
    fn what_is_right_has_no_mistake() {
        let text = "schema: perennial.node/v1\nname: db-1\nimage: ami-1\nsubnet: subnet-1\ncapacity: {instance_types: [m6i.large]}\n\
                    persist: &p {root: adopt}\ntags: {team: db}\nprivate_ip: 10.0.0.1\nbackup: {}\nprotect: true\n";
        assert_eq!(said(text), [""; 0]);
    }
}
