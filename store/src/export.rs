//! The journal as JSON Lines, and the check of such a file.
//!
//! One event a line:
//!
//! ```json
//! {"position":7,"stream":"node/db-1","seq":3,"kind":"node.replaced","version":1,"body":{…},
//!  "recorded_at_ms":0,"key":null,"hash":"…"}
//! ```
//!
//! (The line is broken here only to fit the page.)
//!
//! `body` is the exact text that was hashed. The holder of the file can therefore compute every hash again,
//! with [`verify_export`] or with another program. A body that does not fit on a line as it is (line breaks,
//! or no JSON object at all) is written as a JSON *string* that holds the text. An event whose predecessor is
//! not in the file (a filter, or a start in the middle) also carries `previous`, the hash it chains to.
//!
//! A body of which something is left out because it may be secret carries `redacted`: its hash is that of the
//! whole body, and nobody can compute it from the line. The check counts such lines and goes on by the hash
//! that they state; what stands in them is not proven.

use std::io::{BufRead, Read as _, Write};
use std::path::Path;

use perennial_engine::ids::{Position, Seq, StreamId};
use perennial_engine::journal::{EVENT_BODY_MAX, EventData, Hash, Head, ReadError, RecordedEvent, chain};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::file::{self, JOURNAL, OpenError};
use crate::read;
use crate::verify::{Severity, VerifyReport};

/// How many events are read at once; the export holds no long transaction that would keep the WAL from
/// shrinking.
const PAGE: usize = 1_000;

/// The longest line of an export: the largest body, each byte escaped as six, and everything around it.
const LINE_BYTES_MAX: u64 = 8 * EVENT_BODY_MAX as u64;

/// What to export.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only this stream.
    pub stream: Option<StreamId>,
    /// Only events after this position.
    pub after: Position,
}

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// How many events.
    pub events: u64,
    /// The last of them; position 0 if there was none.
    pub last: Head,
}

/// Why an export ended early. The lines written before are right.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An event cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The lines cannot be written, or an export not read.
    #[error("the export's lines cannot be written or read")]
    Io(#[from] std::io::Error),
}

#[derive(Serialize)]
struct LineOut<'a> {
    position: Position,
    stream: &'a StreamId,
    seq: Seq,
    kind: &'a str,
    version: u32,
    body: BodyOut<'a>,
    recorded_at_ms: u64,
    key: Option<&'a str>,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redacted: bool,
}

/// What a body is shown as where something of it may be secret; none where nothing is.
pub type Redact = fn(&str) -> Option<String>;

#[derive(Serialize)]
#[serde(untagged)]
enum BodyOut<'a> {
    AsItIs(&'a RawValue),
    Quoted(&'a str),
}

impl<'a> BodyOut<'a> {
    fn new(body: &'a str) -> Self {
        let fits = body.starts_with('{') && body.ends_with('}') && !body.contains(['\n', '\r']);
        match serde_json::from_str(body) {
            Ok(raw) if fits => Self::AsItIs(raw),
            _ => Self::Quoted(body),
        }
    }
}

/// Writes events as JSON Lines, in order of position.
///
/// # Errors
/// See [`ExportError`].
pub fn export(path: &Path, to: impl Write, filter: &Filter) -> Result<ExportReport, ExportError> {
    export_redacted(path, to, filter, |_| None)
}

/// The same, with what may be secret left out of the bodies.
///
/// # Errors
/// See [`ExportError`].
pub fn export_redacted(
    path: &Path,
    mut to: impl Write,
    filter: &Filter,
    redact: Redact,
) -> Result<ExportReport, ExportError> {
    let conn = file::open_readable(path, &JOURNAL)?;
    let mut report = ExportReport { events: 0, last: Head { position: Position(0), hash: Hash::GENESIS } };
    let (mut after, mut seq) = (filter.after, Seq::NONE);
    loop {
        let page = match &filter.stream {
            Some(stream) => read::stream(&conn, stream, seq, PAGE)?,
            None => read::all(&conn, after, PAGE)?,
        };
        let Some(last) = page.last() else { break };
        (after, seq) = (last.position, last.seq);
        for event in page.iter().filter(|event| event.position > filter.after) {
            let follows = event.position.0 == report.last.position.0 + 1;
            let previous = if follows { None } else { Some(hash_before(&conn, event.position)?.to_hex()) };
            let redacted = redact(&event.data.body);
            let line = LineOut {
                position: event.position,
                stream: &event.stream,
                seq: event.seq,
                kind: &event.data.kind,
                version: event.data.version,
                body: BodyOut::new(redacted.as_deref().unwrap_or(&event.data.body)),
                redacted: redacted.is_some(),
                recorded_at_ms: event.recorded_at_ms,
                key: event.key.as_deref(),
                hash: event.hash.to_hex(),
                previous,
            };
            serde_json::to_writer(&mut to, &line).map_err(std::io::Error::from)?;
            to.write_all(b"\n")?;
            report.events += 1;
            report.last = Head { position: event.position, hash: event.hash };
        }
    }
    to.flush()?;
    Ok(report)
}

fn hash_before(conn: &rusqlite::Connection, position: Position) -> Result<Hash, ReadError> {
    let before = Position(position.0.saturating_sub(2));
    let event = read::all(conn, before, 1)?.pop().filter(|event| event.position.0 + 1 == position.0);
    event.map(|event| event.hash).ok_or_else(|| ReadError::Damaged {
        position: Position(position.0.saturating_sub(1)),
        why: "the event is missing".into(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineIn {
    position: Position,
    stream: StreamId,
    seq: Seq,
    kind: String,
    version: u32,
    body: Box<RawValue>,
    recorded_at_ms: u64,
    key: Option<String>,
    hash: String,
    #[serde(default)]
    previous: Option<String>,
    #[serde(default)]
    redacted: bool,
}

/// A line of an export.
struct Line {
    event: RecordedEvent,
    /// The hash that it says comes before.
    previous: Option<Hash>,
    redacted: bool,
}

impl LineIn {
    fn parse(self) -> Result<Line, String> {
        let body = match self.body.get() {
            text if text.starts_with('"') => serde_json::from_str(text).map_err(|error| error.to_string())?,
            text => text.to_owned(),
        };
        let hex = |text: &str| Hash::from_hex(text).ok_or_else(|| format!("{text:?} is no hash"));
        let previous = self.previous.as_deref().map(hex).transpose()?;
        let event = RecordedEvent {
            position: self.position,
            stream: self.stream,
            seq: self.seq,
            data: EventData { kind: self.kind, version: self.version, body },
            recorded_at_ms: self.recorded_at_ms,
            key: self.key,
            hash: hex(&self.hash)?,
        };
        Ok(Line { event, previous, redacted: self.redacted })
    }
}

/// Computes every hash of an export again. What is wrong is a finding.
///
/// An unfiltered export from position 1 proves itself whole up to its last line, but for what is redacted;
/// compare its head with the journal's. A filtered one proves that each of its events is as it was written,
/// given the hash before it.
///
/// # Errors
/// When the lines cannot be read.
pub fn verify_export(mut from: impl BufRead) -> Result<VerifyReport, std::io::Error> {
    let mut report = VerifyReport::new();
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        if from.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            break;
        }
        let parsed = serde_json::from_str::<LineIn>(&line).map_err(|error| error.to_string());
        match parsed.and_then(LineIn::parse) {
            Ok(line) => check_line(&mut report, &line),
            Err(why) => {
                report.add(Severity::Damaged, None, None, format!("line {number} is no event: {why}"));
            }
        }
    }
    Ok(report)
}

fn check_line(report: &mut VerifyReport, line: &Line) {
    let Line { event, previous, redacted } = line;
    let at = Some(event.position);
    let follows = event.position.0 == report.head.position.0 + 1;
    let before = match previous {
        None if follows => Some(report.head.hash),
        previous => *previous,
    };
    if event.position <= report.head.position {
        let what = format!("stands behind position {}", report.head.position);
        report.add(Severity::Damaged, at, Some(&event.stream), what);
    }
    match before {
        None => {
            let what = "the events before it are missing, and the line does not say what it chains to";
            report.add(Severity::Damaged, at, Some(&event.stream), what);
        }
        Some(_) if *redacted => report.redacted += 1,
        Some(before) if chain(&before, event) != event.hash => {
            let what = "its hash does not follow from the hash before it and its fields";
            report.add(Severity::Damaged, at, Some(&event.stream), what);
        }
        Some(_) => {}
    }
    report.events += 1;
    report.streams += u64::from(event.seq.0 == 1);
    report.head = Head { position: event.position, hash: event.hash };
}
