//! A YAML text as a tree whose nodes know where they stand.

use serde_saphyr::granit_parser::{Event, Marker, Parser, Span};

/// A tree deeper than this is none of ours.
const DEPTH_MAX: usize = 64;

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
    /// A repetition of something that stands elsewhere.
    Alias,
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

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) | Value::Alias => None,
        }
    }
}

/// The tree of a document; `None` if it is no YAML, which its parser says better.
pub(crate) fn tree(text: &str) -> Option<Node> {
    let mut events = Parser::new_from_str(text);
    while let Some(event) = events.next() {
        match event.ok()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (Event::StreamEnd | Event::DocumentEnd, _) => return None,
            (event, span) => return node(event, span, &mut events, 0),
        }
    }
    None
}

fn node<'t, E>(event: Event<'t>, span: Span, events: &mut E, depth: usize) -> Option<Node>
where
    E: Iterator<Item = Result<(Event<'t>, Span), serde_saphyr::granit_parser::ScanError>>,
{
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match event {
        Event::Scalar(text, style, ..) => {
            let quoted = style != serde_saphyr::granit_parser::ScalarStyle::Plain;
            let at = Place::new(span, &text);
            // The parser gives nothing at all the text of an explicit null.
            let text = if span.is_empty() { String::new() } else { text.into_owned() };
            Node { at, value: Value::Scalar { text, quoted } }
        }
        Event::SequenceStart(..) => {
            let mut elements = Vec::new();
            loop {
                let (event, span) = events.next()?.ok()?;
                if matches!(event, Event::SequenceEnd) {
                    break;
                }
                elements.push(node(event, span, events, depth + 1)?);
            }
            Node { at: Place::new(span, ""), value: Value::List(elements) }
        }
        Event::MappingStart(..) => {
            let mut entries = Vec::new();
            loop {
                let (event, key_span) = events.next()?.ok()?;
                if matches!(event, Event::MappingEnd) {
                    break;
                }
                let key = node(event, key_span, events, depth + 1)?;
                let (event, value_span) = events.next()?.ok()?;
                entries.push((key, node(event, value_span, events, depth + 1)?));
            }
            let at = entries.first().map_or_else(|| Place::new(span, ""), |(key, _)| key.at);
            Node { at, value: Value::Map(entries) }
        }
        Event::Alias(_) => Node { at: Place::new(span, ""), value: Value::Alias },
        _ => return None,
    })
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
        let tree = tree(&documents[1]).unwrap();
        let at = tree.find("b[0].d");
        assert_eq!((at.line, at.column), (6, 5));
        let near = tree.find("b[0].e");
        assert_eq!((near.line, near.column), (5, 5), "as much of the path as there is");
    }
}
