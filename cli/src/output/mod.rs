//! The only place that prints. Data goes to stdout, everything said about it to stderr.
//!
//! On a terminal lines are as wide as it is; in a pipe a row is a line, however long. `COLUMNS` overrides
//! both.

pub(crate) mod address_pool;
pub(crate) mod audit;
pub(crate) mod backups;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod history;
pub(crate) mod journal;
mod moments;
pub(crate) mod narrator;
pub(crate) mod node;
pub(crate) mod paint;
pub(crate) mod plan;
pub(crate) mod prune;
#[cfg(feature = "region")]
pub(crate) mod region;
pub(crate) mod safe;
pub(crate) mod screen;
pub(crate) mod status;
pub(crate) mod words;
pub(crate) mod workflow;

use std::io::{self, ErrorKind, IsTerminal as _, Write};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use perennial_views::redact::redacted_text;
use serde::Serialize;

use crate::failure::Failure;

/// The width of a terminal that does not say its own.
const WIDTH: usize = 80;

/// A column of words is never narrower than this, so that an id fits; a row that needs more, and one with a
/// longer word, is wider than the terminal.
const WORDS_MIN: usize = 22;

/// How wide a line may be: as the terminal is, or as `COLUMNS` says; without a bound in a pipe.
pub(crate) fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    if let Some(columns) = said.filter(|columns| *columns > 0) {
        return Some(columns);
    }
    if !io::stdout().is_terminal() {
        return None;
    }
    Some(terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0)))
}

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// The same, with every column.
    Wide,
    /// For programs: one document; of events one per line.
    Json,
    /// Of a list: one name a line.
    Name,
}

/// Where a command's results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// The form that was asked for.
    pub(crate) format: Format,
    /// Whether what may be secret is shown.
    pub(crate) secrets: bool,
    /// Whether tables and words get colours.
    pub(crate) colours: bool,
}

impl Output {
    /// Prints text, safe for a terminal, and a line's end.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        print(&safe::text(text))
    }

    /// Prints words for people, with colours where they are wanted.
    pub(crate) fn words(self, text: &str) -> Result<(), Failure> {
        if self.colours { print(&paint::painted(&safe::text(text))) } else { self.text(text) }
    }

    /// Says something that is replaced by the next thing that is said; only on a terminal.
    pub(crate) fn say_for_now(self, text: &str) {
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() {
            let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
            let line: String = safe::line(text).chars().take(width.saturating_sub(1)).collect();
            let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
        }
    }

    /// Clears the terminal before a picture that follows another one; in a pipe they follow each other.
    pub(crate) fn clear(self) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        if !stdout.is_terminal() {
            return Ok(());
        }
        written(write!(stdout, "\x1b[2J\x1b[H").and_then(|()| stdout.flush()))
    }

    /// Prints a value as JSON.
    pub(crate) fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failure> {
        let value = moments::beside(serde_json::to_value(value).map_err(Failure::internal)?);
        let text = serde_json::to_string_pretty(&value).map_err(Failure::internal)?;
        print(&safe::json(&self.shown(text)))
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json_line<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failure> {
        let value = moments::beside(serde_json::to_value(value).map_err(Failure::internal)?);
        let text = serde_json::to_string(&value).map_err(Failure::internal)?;
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
            Format::Table | Format::Wide => self.words(&text()),
            Format::Name => Err(Failure::user("only a list has names: `--output name` is of no use here")),
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
pub(crate) fn complain(failure: &Failure, format: Format) {
    let text = match format {
        Format::Json => failure.document().map(|document| document.to_string()),
        _ => failure.lines().map(|lines| safe::text(&lines).to_string()),
    };
    if let Some(text) = text {
        let _ = writeln!(io::stderr().lock(), "{text}");
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

/// A table. Columns named in `right` hold numbers. Everything but the last column stays whole: ids, names and
/// times; the last one is broken between its words where the line ends.
pub(crate) fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.iter().map(Cell::new));
    }
    // A cell may have lines, but not such as a text of others makes.
    let mut rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.iter().map(|cell| safe::text(cell).to_string()).collect()).collect();
    let last = rows.iter().map(Vec::len).chain([header.len()]).max().unwrap_or_default().saturating_sub(1);
    if let Some(width) = width() {
        let whole: usize = (0..last).map(|column| longest(header, &rows, column) + 2).sum();
        let left = width.saturating_sub(whole).max(WORDS_MIN);
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(last)) {
            *cell = words::broken(cell, left);
        }
    }
    for row in rows {
        table.add_row(row);
    }
    table.set_content_arrangement(ContentArrangement::Disabled);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// How wide the widest line of a column is.
fn longest(header: &[&str], rows: &[Vec<String>], column: usize) -> usize {
    let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
    let lines = cells.chain(header.get(column).copied()).flat_map(str::lines);
    lines.map(|line| line.chars().count()).max().unwrap_or_default()
}

/// The widths that a row of these cells would have, to choose columns by.
pub(crate) fn fits(header: &[&str], rows: &[Vec<String>]) -> bool {
    let Some(width) = width() else { return true };
    let whole: usize = (0..header.len()).map(|column| longest(header, rows, column) + 2).sum();
    whole.saturating_sub(2) <= width
}

/// Two columns: names and values.
pub(crate) fn pairs(rows: impl IntoIterator<Item = (impl Into<String>, String)>) -> String {
    table(&[], &[], rows.into_iter().map(|(name, value)| vec![name.into(), value]))
}
