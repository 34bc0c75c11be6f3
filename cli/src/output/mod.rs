//! The only place that prints. Data goes to stdout, everything said about it to stderr; no colours.

pub(crate) mod address_pool;
pub(crate) mod backups;
pub(crate) mod doctor;
pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod narrator;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod prune;
#[cfg(feature = "region")]
pub(crate) mod region;
pub(crate) mod safe;
pub(crate) mod words;
pub(crate) mod workflow;

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use perennial_views::redact::redacted_text;
use serde::Serialize;

use crate::failure::Failure;

/// No table is wider than a terminal of the usual width.
pub(crate) const WIDTH: u16 = 80;

/// The longest cell that is never broken: an id, a moment, a name.
const WHOLE_MAX: u16 = 24;

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one document; of events one per line.
    Json,
}

/// Where a command's results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// The form that was asked for.
    pub(crate) format: Format,
    /// Whether what may be secret is shown.
    pub(crate) secrets: bool,
}

impl Output {
    /// Prints text, safe for a terminal, and a line's end.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        print(&safe::text(text))
    }

    /// Prints a value as JSON.
    pub(crate) fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(Failure::internal)?;
        print(&safe::json(&self.shown(text)))
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json_line<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(Failure::internal)?;
        print(&safe::json(&self.shown(text)))
    }

    /// JSON without what may be secret, unless that was asked for.
    fn shown(self, json: String) -> String {
        if self.secrets { json } else { redacted_text(&json).unwrap_or(json) }
    }

    /// Prints a value in the form that was asked for.
    pub(crate) fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(value),
            Format::Table => self.text(&text()),
        }
    }

    /// Says something to the person at the terminal. Nobody there is no failure.
    pub(crate) fn say(self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{}", safe::text(text));
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// Says why the process fails.
pub(crate) fn complain(failure: &Failure) {
    if let Some(lines) = failure.lines() {
        let _ = writeln!(io::stderr().lock(), "{}", safe::text(&lines));
    }
}

/// A writer to stdout for data that is not built in memory.
pub(crate) fn stdout() -> impl Write {
    io::BufWriter::new(io::stdout().lock())
}

/// The outcome of a write to stdout: a closed pipe ends the command quietly.
pub(crate) fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::closed(),
        _ => Failure::environment(format!("the output cannot be written: {error}")),
    })
}

/// A table of at most [`WIDTH`] columns. Columns named in `right` hold numbers.
pub(crate) fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    if !header.is_empty() {
        table.set_header(header.iter().map(Cell::new));
    }
    for row in rows {
        // A cell may have lines, but not such as a text of others makes.
        table.add_row(row.iter().map(|cell| safe::text(cell)));
    }
    let last = table.column_count().saturating_sub(1);
    let widths = table.column_max_content_widths();
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
        // Ids and times stay whole; what is told about them is broken.
        if index != last && widths.get(index).is_some_and(|width| *width <= WHOLE_MAX) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Two columns: names and values.
pub(crate) fn pairs(rows: impl IntoIterator<Item = (impl Into<String>, String)>) -> String {
    table(&[], &[], rows.into_iter().map(|(name, value)| vec![name.into(), value]))
}
