//! The audit for people: a table, comma-separated values, and one HTML page.

use perennial_views::model::audit::{Audit, AuditLine};
use perennial_workflows::model::name::NodeName;

use crate::output::{pairs, table, words};

/// The columns of an audit, as programs and auditors get them.
const FIELDS: [&str; 12] = [
    "time",
    "who",
    "what",
    "node",
    "why",
    "fate",
    "refused",
    "workflow",
    "submission",
    "position",
    "kind",
    "hash",
];

/// How much of a hash a table shows.
const HASH_SHOWN: usize = 12;

/// A table, and the end of the journal under it.
pub(crate) fn table_of(audit: &Audit) -> String {
    if audit.lines.is_empty() {
        return "nothing".to_owned();
    }
    let or_dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
    let rows = audit.lines.iter().map(|line| {
        vec![
            words::time(line.at_ms),
            line.who.clone(),
            line.what.clone(),
            or_dash(line.workflow.as_ref().or(line.node.as_ref())),
            told(line),
        ]
    });
    let head = &audit.head;
    let hash = head.hash.get(..HASH_SHOWN).unwrap_or(&head.hash);
    format!(
        "{}\n\n{} lines; the journal ends at {}:{hash}…",
        table(&["TIME", "WHO", "WHAT", "ON", "WHY, AND WHAT BECAME OF IT"], &[], rows),
        audit.lines.len(),
        head.position
    )
}

/// Why, and what became of it.
fn told(line: &AuditLine) -> String {
    let refused = if line.refused { "REFUSED " } else { "" };
    match (&line.why, &line.fate) {
        (Some(why), Some(fate)) => format!("{why}; {refused}{fate}"),
        (Some(text), None) | (None, Some(text)) => format!("{refused}{text}"),
        (None, None) => String::new(),
    }
}

/// Submissions, one a row.
pub(crate) fn submissions(lines: &[AuditLine]) -> String {
    if lines.is_empty() {
        return "no submissions".to_owned();
    }
    let or_dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
    let rows = lines.iter().map(|line| {
        vec![
            words::recent(line.at_ms),
            or_dash(line.submission.as_ref()),
            line.who.clone(),
            line.what.clone(),
            or_dash(line.node.as_ref()),
            told(line),
        ]
    });
    table(&["TIME", "SUBMISSION", "WHO", "WHAT", "NODE", "WHAT BECAME OF IT"], &[], rows)
}

/// One submission.
pub(crate) fn one(line: &AuditLine) -> String {
    let fields = fields(line);
    let rows = FIELDS.iter().zip(fields).filter(|(_, value)| !value.is_empty());
    pairs(rows.map(|(name, value)| (*name, value)))
}

fn fields(line: &AuditLine) -> [String; 12] {
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let kind = serde_json::to_value(line.kind).ok();
    [
        words::rfc_3339(line.at_ms),
        line.who.clone(),
        line.what.clone(),
        or_empty(&line.node),
        or_empty(&line.why),
        or_empty(&line.fate),
        line.refused.to_string(),
        or_empty(&line.workflow),
        or_empty(&line.submission),
        line.position.to_string(),
        kind.and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default(),
        line.hash.clone(),
    ]
}

/// Comma-separated values (RFC 4180). A cell that a spreadsheet would take for a formula gets an apostrophe.
pub(crate) fn csv(audit: &Audit) -> String {
    let mut text = FIELDS.join(",");
    text.push_str("\r\n");
    for line in &audit.lines {
        let cells: Vec<String> = fields(line).iter().map(|field| cell(field)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

fn cell(field: &str) -> String {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let field = if formula { format!("'{field}") } else { field.to_owned() };
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

/// One page that needs nothing else: no script, no font, no picture.
pub(crate) fn html(audit: &Audit, node: Option<&NodeName>, now_ms: u64) -> String {
    let title = match node {
        Some(node) => format!("Perennial audit of {node}"),
        None => "Perennial audit".to_owned(),
    };
    let header: String = FIELDS.iter().map(|name| format!("<th>{name}</th>")).collect();
    let row = |line: &AuditLine| {
        let class = if line.refused { " class=\"refused\"" } else { "" };
        let cells: String = fields(line).iter().map(|field| format!("<td>{}</td>", escaped(field))).collect();
        format!("<tr{class}>{cells}</tr>\n")
    };
    let rows: String = audit.lines.iter().map(row).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n<p>{} lines, written {}. The journal ends at position {} with hash <code>{}</code>: \
         <code>perennial journal verify</code> computes it again.</p>\n\
         <table><thead><tr>{header}</tr></thead><tbody>\n{rows}</tbody></table></body></html>",
        audit.lines.len(),
        words::rfc_3339(now_ms),
        audit.head.position,
        audit.head.hash,
    )
}

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}\
th,td{border:1px solid #bbb;padding:.2em .5em;text-align:left;vertical-align:top}th{background:#eee}\
.refused{background:#fdd}td:last-child{font:10px monospace;word-break:break-all}";

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_and_is_no_formula() {
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell("a, \"b\"\nc"), "\"a, \"\"b\"\"\nc\"");
        assert_eq!(cell("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(escaped("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
