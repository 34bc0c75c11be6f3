//! The report of `doctor`: what was checked, what was found, what to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It works, but not as it should in production.
    Warn,
    /// It does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What was checked.
    pub check: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_do: Option<String>,
}

/// The answer of `doctor`: its checks, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DoctorReport(pub Vec<Check>);

impl DoctorReport {
    /// Adds something that is as it should be.
    pub fn ok(&mut self, check: &str, found: impl Into<String>) {
        self.add(check, Verdict::Ok, found.into(), None);
    }

    /// Adds something that works but should be otherwise.
    pub fn warn(&mut self, check: &str, found: impl Into<String>, to_do: &str) {
        self.add(check, Verdict::Warn, found.into(), Some(to_do));
    }

    /// Adds something that does not work.
    pub fn fail(&mut self, check: &str, found: impl Into<String>, to_do: &str) {
        self.add(check, Verdict::Fail, found.into(), Some(to_do));
    }

    fn add(&mut self, check: &str, verdict: Verdict, found: String, to_do: Option<&str>) {
        let to_do = to_do.map(str::to_owned);
        self.0.push(Check { check: check.to_owned(), verdict, found, to_do });
    }

    /// How many checks failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|line| line.verdict == Verdict::Fail).count()
    }
}
