//! The report of `doctor` for people.

use perennial_views::model::doctor::{DoctorReport, Verdict};

use crate::output::table;

/// The checks, one a row.
pub(crate) fn report(report: &DoctorReport) -> String {
    let rows = report.0.iter().map(|line| {
        let verdict = match line.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let to_do = line.to_do.as_ref().map_or_else(String::new, |to_do| format!("\n→ {to_do}"));
        vec![verdict.to_owned(), line.check.clone(), format!("{}{to_do}", line.found)]
    });
    table(&["", "CHECK", "FOUND"], &[], rows)
}
