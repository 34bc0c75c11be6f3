//! Reports about the journal's file for people.

use crate::installation::journal_file::VerifyReport;
use crate::output::{pairs, table};

/// The report of `journal verify`; whether it was compared with heads from elsewhere.
pub(crate) fn verdict(report: &VerifyReport, is_anchored: bool) -> String {
    let head = pairs([
        ("events", report.events.to_string()),
        ("streams", report.streams.to_string()),
        ("head", format!("position {}", report.head.position)),
        ("", report.head.hash.to_hex()),
    ]);
    if report.is_sound() {
        let compared = if is_anchored {
            "It goes as far as the heads that were given."
        } else {
            "Whether its end is there only a head that was noted elsewhere shows:\n\
             `perennial journal verify --head POSITION:HASH`."
        };
        return format!(
            "OK: every hash, every stream and every projection is as it was written.\n{compared}\n{head}"
        );
    }
    let mut findings: Vec<_> = report.findings.iter().collect();
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.position));
    let rows = findings.iter().map(|finding| {
        vec![
            finding.severity.to_string(),
            finding.position.map_or_else(|| "-".to_owned(), |position| position.to_string()),
            finding.stream.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            finding.what.clone(),
        ]
    });
    let mut text = table(&["SEVERITY", "POSITION", "STREAM", "WHAT"], &[1], rows);
    if report.more_findings > 0 {
        text.push_str(&format!("\n… and {} more", report.more_findings));
    }
    format!("{text}\n\n{head}")
}
