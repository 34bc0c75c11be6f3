//! The section `backup` of a node file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::error::SpecError;

/// The shortest interval. EC2 accepts one snapshot of a volume every fifteen seconds, and a few snapshots a
/// second of a fleet. An interval of a minute leaves room for the snapshots of replacements.
pub const EVERY_MIN_LEAST: u32 = 1;

/// The longest interval: a week. A node that needs fewer backups needs no schedule.
pub const EVERY_MIN_MOST: u32 = 7 * 24 * 60;

/// The most backups that are kept: four days of hourly backups. The snapshots of a volume are incremental,
/// but a region allows only 100 000 of them.
pub const KEEP_MOST: u32 = 96;

/// How many backups are kept if the node file does not say.
pub const KEEP_DEFAULT: u32 = 3;

/// How often a backup is taken if the node file does not say, in minutes.
const EVERY_MIN_DEFAULT: u32 = 5;

/// When backups are taken, and how many are kept. `backup: {}` means every five minutes, keeping three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupSpec {
    /// Minutes from one backup to the next. The loss of a volume costs the writes of this interval.
    #[serde(default = "every_min")]
    #[schemars(range(min = 1, max = 10080))]
    pub every_min: u32,
    /// How many complete backups are kept. An older one is deleted when a newer one is complete.
    #[serde(default = "keep")]
    #[schemars(range(min = 1, max = 96))]
    pub keep: u32,
    /// Whether a final backup of each volume is taken as soon as the volume is free: when the node leaves an
    /// instance, is paused, or is deleted with its backups kept. The newest of these is kept in addition to
    /// the others.
    #[serde(default = "at_release", rename = "final", skip_serializing_if = "is_default_at_release")]
    pub at_release: bool,
}

const fn every_min() -> u32 {
    EVERY_MIN_DEFAULT
}

const fn keep() -> u32 {
    KEEP_DEFAULT
}

const fn at_release() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_default_at_release(at_release: &bool) -> bool {
    *at_release
}

impl Default for BackupSpec {
    fn default() -> Self {
        Self { every_min: EVERY_MIN_DEFAULT, keep: KEEP_DEFAULT, at_release: at_release() }
    }
}

impl BackupSpec {
    /// The time from one backup to the next, in milliseconds.
    #[must_use]
    pub fn every_ms(&self) -> u64 {
        u64::from(self.every_min) * 60_000
    }

    /// Checks the interval and the number.
    ///
    /// # Errors
    /// The first field that is wrong, and the values it takes.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let wrong = |field: &str, why: String| Err(SpecError { field: field.to_owned(), why });
        if !(EVERY_MIN_LEAST..=EVERY_MIN_MOST).contains(&self.every_min) {
            let why =
                format!("{} is not between {EVERY_MIN_LEAST} and {EVERY_MIN_MOST} minutes", self.every_min);
            return wrong("backup.every_min", why);
        }
        if !(1..=KEEP_MOST).contains(&self.keep) {
            let why = format!(
                "{} is not between 1 and {KEEP_MOST}; without the section `backup` none are taken",
                self.keep
            );
            return wrong("backup.keep", why);
        }
        Ok(())
    }
}
