//! A YAML text as a tree whose nodes know where they stand.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

/// A tree deeper than this is none of ours.
const DEPTH_MAX: usize = 64;

/// A tree with more nodes than this is none of ours: a megabyte has fewer, unless aliases repeat one another.
const NODES_MAX: usize = 1_000_000;

/// A place in a file: lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The line.
    pub(crate) line: usize,
    /// The column.
    pub(crate) column: usize,
    /// How many characters it is about.
    pub(crate) length: usize,
}

impl Place {
    fn new(span: Span, text: &str) -> Self {
        let start: Marker = span.start;
        Self { line: start.line(), column: start.col() + 1, length: text.chars().count().max(1) }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Where it begins.
    pub(crate) at: Place,
    /// What it is.
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A scalar; nothing at all is an empty text.
    Scalar {
        /// Its text.
        text: String,
        /// Whether it was quoted, and so is a text whatever it looks like.
        quoted: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in order.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// The place that a path such as `data_volumes[1].size_gib` leads to, or as much of it as there is. A
    /// part of a path may also be a list element's name.
    pub(crate) fn find(&self, path: &str) -> Place {
        let mut at = self.at;
        let mut node = self;
        for part in path.split(['.', '[']) {
            let index = part.strip_suffix(']').and_then(|index| index.parse::<usize>().ok());
            let next = match (&node.value, index) {
                (Value::List(elements), Some(index)) => {
                    elements.get(index).map(|element| (element.at, element))
                }
                (Value::Map(entries), None) => {
                    let entry = entries.iter().find(|(key, _)| key.text() == Some(part));
                    entry.map(|(key, value)| (key.at, value))
                }
                _ => None,
            };
            let Some((place, value)) = next else { break };
            (at, node) = (place, value);
        }
        at
    }

    /// The same, but the value's place and not that of its key.
    pub(crate) fn find_value(&self, path: &str) -> Place {
        let mut node = self;
        for part in path.split(['.', '[']) {
            let index = part.strip_suffix(']').and_then(|index| index.parse::<usize>().ok());
            let next = match (&node.value, index) {
                (Value::List(elements), Some(index)) => elements.get(index),
                (Value::Map(entries), None) => {
                    entries.iter().find(|(key, _)| key.text() == Some(part)).map(|(_, value)| value)
                }
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node.at
    }

    /// How many nodes it has.
    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::List(elements) => elements.iter().map(Self::size).sum(),
            Value::Map(entries) => {
                entries.iter().map(|(key, value)| key.size() + value.size()).sum::<usize>()
            }
        }
    }

    /// What a plain scalar stands for by itself, where nothing says that it is a text (YAML 1.2, core schema:
    /// `yes` is a text).
    pub(crate) fn scalar(text: &str) -> Json {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Json::Null,
            "true" | "True" | "TRUE" => return true.into(),
            "false" | "False" | "FALSE" => return false.into(),
            _ => {}
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        let plain = text.strip_prefix('+').unwrap_or(text);
        match (plain.parse::<u64>(), plain.parse::<i64>(), plain.parse::<f64>()) {
            (Ok(number), _, _) if is_number => number.into(),
            (_, Ok(number), _) if is_number => number.into(),
            (_, _, Ok(number)) if is_number => number.into(),
            _ => text.into(),
        }
    }

    /// The value that it stands for by itself.
    pub(crate) fn json(&self) -> Json {
        match &self.value {
            Value::Scalar { text, quoted: true } => text.as_str().into(),
            Value::Scalar { text, quoted: false } => Self::scalar(text),
            Value::List(elements) => elements.iter().map(Self::json).collect(),
            Value::Map(entries) => {
                let field = |(key, value): &(Self, Self)| Some((key.text()?.to_owned(), value.json()));
                entries.iter().filter_map(field).collect()
            }
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// A document as a tree, with what is wrong with it whatever it is about.
#[derive(Debug)]
pub(crate) struct Tree {
    /// All of it: what an alias stands for is in its place, and what is merged is among the keys.
    pub(crate) root: Node,
    /// Keys that come twice, keys that are no text, and tags.
    pub(crate) mistakes: Vec<(Place, String)>,
}

/// The tree of a document; `None` if it is no YAML, which its parser says better.
pub(crate) fn tree(text: &str) -> Option<Tree> {
    let mut builder = Builder {
        events: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        nodes: 0,
        mistakes: Vec::new(),
    };
    loop {
        match builder.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (Event::StreamEnd | Event::DocumentEnd, _) => return None,
            (event, span) => {
                let root = builder.node(event, span, 0)?;
                return Some(Tree { root, mistakes: builder.mistakes });
            }
        }
    }
}

struct Builder<E> {
    events: E,
    /// What aliases stand for.
    anchors: BTreeMap<usize, Node>,
    /// How many there are, with those that aliases repeat.
    nodes: usize,
    mistakes: Vec<(Place, String)>,
}

impl<'t, E> Builder<E>
where
    E: Iterator<Item = Result<(Event<'t>, Span), ScanError>>,
{
    /// The next event that is about the tree: comments are not, and stand anywhere.
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        loop {
            let (event, span) = self.events.next()?.ok()?;
            match event {
                Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(..)
                | Event::DocumentEnd
                | Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd => return Some((event, span)),
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Option<Node> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return None;
        }
        let (anchor, tag, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let at = Place::new(span, &text);
                // The parser gives nothing at all the text of an explicit null.
                let text = if span.is_empty() { String::new() } else { text.into_owned() };
                let quoted = style != ScalarStyle::Plain;
                (anchor, tag, Node { at, value: Value::Scalar { text, quoted } })
            }
            Event::SequenceStart(_, anchor, tag) => {
                let mut elements = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    elements.push(self.node(event, span, depth + 1)?);
                }
                (anchor, tag, Node { at: Place::new(span, ""), value: Value::List(elements) })
            }
            Event::MappingStart(_, anchor, tag) => {
                let entries = self.entries(depth)?;
                let at = entries.first().map_or_else(|| Place::new(span, ""), |(key, _)| key.at);
                (anchor, tag, Node { at, value: Value::Map(entries) })
            }
            Event::Alias(of) => {
                let node = Node { at: Place::new(span, ""), ..self.anchors.get(&of)?.clone() };
                self.nodes += node.size();
                return Some(node);
            }
            _ => return None,
        };
        if tag.is_some() {
            self.mistakes.push((node.at, "a tag (`!…`) is not read: remove it".to_owned()));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Some(node)
    }

    /// The keys and values of a map, up to its end.
    fn entries(&mut self, depth: usize) -> Option<Vec<(Node, Node)>> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Some(name) = key.text() else {
                self.mistakes.push((key.at, "a key is a text".to_owned()));
                continue;
            };
            match value.value {
                Value::Map(more) if name == "<<" => merged.extend(more),
                _ if entries.iter().any(|(other, _)| other.text() == Some(name)) => {
                    self.mistakes.push((key.at, format!("the key `{name}` comes twice")));
                }
                _ => entries.push((key, value)),
            }
        }
        for (key, value) in merged {
            if !entries.iter().any(|(own, _)| own.text() == key.text()) {
                entries.push((key, value));
            }
        }
        Some(entries)
    }
}

/// The documents of a text, each with empty lines in the place of the others, so that places stay those of
/// the file. What has nothing but comments is none.
pub(crate) fn documents(text: &str) -> Vec<String> {
    let mut documents: Vec<String> = Vec::new();
    let (mut present, mut before) = (String::new(), 0_usize);
    let is_empty = |document: &str| {
        document.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with(['#', '%']) || matches!(line, "---" | "..." | "\u{feff}")
        })
    };
    let mut ends = |present: &mut String, next_line: usize| {
        if !is_empty(present) {
            documents.push(std::mem::take(present));
        }
        *present = "\n".repeat(next_line);
    };
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            ends(&mut present, before);
        }
        present.push_str(line);
        before += 1;
    }
    ends(&mut present, 0);
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_later_document_are_those_of_the_file() {
        let text = "# first\na: 1\n---\nb:\n  - c: x\n    d: 2\n---\n# nothing\n";
        let documents = documents(text);
        assert_eq!(documents.len(), 2, "{documents:?}");
        let tree = tree(&documents[1]).unwrap().root;
        let at = tree.find("b[0].d");
        assert_eq!((at.line, at.column), (6, 5));
        let near = tree.find("b[0].e");
        assert_eq!((near.line, near.column), (5, 5), "as much of the path as there is");
    }

    #[test]
    fn what_an_alias_stands_for_is_in_its_place_and_keys_come_once() {
        let text = "a: &a {x: 1, y: 007}\nb: {<<: *a, x: 2}\nc: *a\na: 3\nd: !!str 4\n";
        let tree = tree(text).unwrap();
        let expected = serde_json::json!({
            "a": {"x": 1, "y": 7}, "b": {"x": 2, "y": 7}, "c": {"x": 1, "y": 7}, "d": 4
        });
        assert_eq!(tree.root.json(), expected);
        let said: Vec<_> = tree.mistakes.iter().map(|(at, what)| format!("{}: {what}", at.line)).collect();
        assert_eq!(said, ["4: the key `a` comes twice", "5: a tag (`!…`) is not read: remove it"]);
    }

    #[test]
    fn aliases_that_repeat_one_another_have_a_bound() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for number in 1..12 {
            let of = format!("*a{}, ", number - 1).repeat(10);
            text.push_str(&format!("a{number}: &a{number} [{of}]\n"));
        }
        assert!(tree(&text).is_none());
    }
}
