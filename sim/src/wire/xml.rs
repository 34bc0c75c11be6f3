//! Answers in XML, built as a tree.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

use quick_xml::escape::escape;

/// The content of an element: its children in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element(Vec<(Cow<'static, str>, Node)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Text(String),
    Element(Element),
}

impl Element {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// `<return>true</return>`, the answer of calls that have nothing to say.
    pub(crate) fn done() -> Self {
        Self::new().with("return", true)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.0.push((name.into(), Node::Text(value.to_string())));
        self
    }

    /// The same for a name that is made.
    pub(crate) fn text(mut self, name: String, value: impl Display) -> Self {
        self.0.push((name.into(), Node::Text(value.to_string())));
        self
    }

    /// Nothing at all when there is no value.
    pub(crate) fn maybe(self, name: &'static str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The first child of a name that has content of its own.
    pub(crate) fn part(&self, name: &str) -> Option<Self> {
        self.0.iter().find_map(|(known, node)| match node {
            Node::Element(element) if known == name => Some(element.clone()),
            _ => None,
        })
    }

    pub(crate) fn inside(mut self, name: impl Into<Cow<'static, str>>, element: Self) -> Self {
        self.0.push((name.into(), Node::Element(element)));
        self
    }

    pub(crate) fn maybe_inside(self, name: &'static str, element: Option<Self>) -> Self {
        match element {
            Some(element) => self.inside(name, element),
            None => self,
        }
    }

    /// A list in EC2's form: one `item` each.
    pub(crate) fn list(self, name: &'static str, items: impl IntoIterator<Item = Self>) -> Self {
        let items = items.into_iter().map(|item| (Cow::Borrowed("item"), Node::Element(item))).collect();
        self.inside(name, Self(items))
    }

    /// The same, and no element at all for an empty list.
    pub(crate) fn list_if_any(self, name: &'static str, items: impl IntoIterator<Item = Self>) -> Self {
        let mut items = items.into_iter().peekable();
        if items.peek().is_some() { self.list(name, items) } else { self }
    }

    /// Whether it has a child of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// A list in the form of most other services: one `member` each.
    pub(crate) fn members(self, name: &'static str, items: impl IntoIterator<Item = Self>) -> Self {
        let items = items.into_iter().map(|item| (Cow::Borrowed("member"), Node::Element(item))).collect();
        self.inside(name, Self(items))
    }

    /// A list of texts in EC2's form.
    pub(crate) fn texts<T: Display>(self, name: &'static str, items: impl IntoIterator<Item = T>) -> Self {
        let items =
            items.into_iter().map(|item| (Cow::Borrowed("item"), Node::Text(item.to_string()))).collect();
        self.inside(name, Self(items))
    }

    pub(crate) fn joined(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// A whole document.
    pub(crate) fn document(&self, root: &str, namespace: Option<&str>) -> String {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let namespace = namespace.map(|uri| format!(" xmlns=\"{}\"", escape(uri))).unwrap_or_default();
        _ = write!(text, "<{root}{namespace}>");
        self.write(&mut text);
        _ = write!(text, "</{root}>");
        text
    }

    fn write(&self, text: &mut String) {
        for (name, node) in &self.0 {
            _ = write!(text, "<{name}>");
            match node {
                Node::Text(value) => text.push_str(&escape(value.as_str())),
                Node::Element(element) => element.write(text),
            }
            _ = write!(text, "</{name}>");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_escaped_and_nested() {
        let element = Element::new()
            .with("name", "a<&>\"b")
            .maybe("none", None::<u8>)
            .list("set", [Element::new().with("id", 1)])
            .texts("ids", ["x"]);
        assert_eq!(
            element.document("R", Some("urn:x")),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<R xmlns=\"urn:x\"><name>a&lt;&amp;&gt;&quot;b</name>\
             <set><item><id>1</id></item></set><ids><item>x</item></ids></R>"
        );
    }
}
