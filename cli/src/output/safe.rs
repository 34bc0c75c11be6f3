//! Text of others, made safe for a terminal and for a log.
//!
//! Much of what is printed was written by others: reasons, names of requesters, queues of senders, details of
//! events, answers of AWS. A control character in it can clear a screen, set a title or forge a line of a
//! log; a bidirectional one can show another text than there is. So every character of that kind is shown by
//! its number. The output does it where it writes, so that no command can forget it: the only control
//! characters that pass are the end of a line and the tab. Colours are added after that ([`super::paint`]).

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use perennial_workflows::model::text::{clip, is_active};
use tracing::field::{Field, Visit};
use tracing_subscriber::field::{MakeVisitor, RecordFields};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Text of several lines, for a terminal.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |character| matches!(character, '\n' | '\t'))
}

/// One line of text: what would begin another one is shown by its number.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// JSON, in which such a character can only stand in a text; there it has another form, with the same
/// meaning.
pub(crate) fn json(json: &str) -> Cow<'_, str> {
    let passes = |character: char| character == '\n' || !is_active(character);
    if json.chars().all(passes) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if passes(character) {
            safe.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Cow::Owned(safe)
}

fn escaped(text: &str, passes: fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|character| is_active(character) && !passes(character)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_active(character) && !passes(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Writes JSON lines in their safe form. What is written to it is valid UTF-8 as a whole, in whatever pieces.
pub(crate) struct JsonWriter<W> {
    to: W,
    /// The beginning of a character that is not whole yet.
    held: Vec<u8>,
}

impl<W: Write> JsonWriter<W> {
    /// Writes to `to`.
    pub(crate) const fn new(to: W) -> Self {
        Self { to, held: Vec::new() }
    }
}

impl<W: Write> Write for JsonWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.held) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&self.held[..whole]);
        self.to.write_all(json(&text).as_bytes())?;
        self.held.drain(..whole);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The fields of log lines: `message name=value …`, each on its line whatever is in it.
pub(crate) const fn log_fields() -> LogFields {
    LogFields
}

/// See [`log_fields`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogFields;

impl<'writer> FormatFields<'writer> for LogFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = self.make_visitor(writer);
        fields.record(&mut visitor);
        visitor.result
    }
}

impl<'writer> MakeVisitor<Writer<'writer>> for LogFields {
    type Visitor = LogLine<'writer>;
    fn make_visitor(&self, writer: Writer<'writer>) -> LogLine<'writer> {
        LogLine { writer, is_first: true, result: Ok(()) }
    }
}

/// The fields of one line.
pub(crate) struct LogLine<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

/// The longest field of a log line, in characters.
const FIELD_MAX: usize = 2_000;

impl Visit for LogLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        self.record_debug(field, &format_args!("{text}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_err() || field.name().starts_with("log.") {
            return;
        }
        let text = clip(&format!("{value:?}"), FIELD_MAX);
        let text = line(&text);
        let gap = if std::mem::take(&mut self.is_first) { "" } else { " " };
        self.result = match field.name() {
            "message" => write!(self.writer, "{gap}{text}"),
            name => write!(self.writer, "{gap}{}={text}", name.trim_start_matches("r#")),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str =
        "a\u{1b}[2J\u{1b}]0;pwned\u{7}\u{202e}b\r\u{9b}31m\u{2066}\u{feff}\u{0}\u{85}\u{2028}z\u{e0041}";

    #[test]
    fn nothing_active_passes() {
        for safe in [text(EVIL), line(EVIL), line("a\nb\tc")] {
            assert!(!safe.chars().any(is_active), "{safe:?}");
        }
        assert_eq!(text("a\n\u{1b}[31mb\tc"), "a\n\\u{1b}[31mb\tc", "nor does a colour of another's");
        assert!(!text("\u{1b}[8mhidden\u{1b}[1;8m\u{1b}[38;5;1m\u{1b}[m").contains('\u{1b}'));
        assert_eq!(text("grüße, 日本 ✓"), "grüße, 日本 ✓");
        assert_eq!(line("a\nb"), "a\\u{a}b");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "text": EVIL });
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let safe = json(&pretty);
        assert!(!safe.chars().any(|c| is_active(c) && c != '\n'), "{safe:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        let mut written = Vec::new();
        let mut writer = JsonWriter::new(&mut written);
        for byte in pretty.as_bytes() {
            writer.write_all(std::slice::from_ref(byte)).unwrap();
        }
        assert_eq!(String::from_utf8(written).unwrap(), safe);
    }
}
