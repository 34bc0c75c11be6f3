//! Maintenance windows: when a healthy node may be moved.
//!
//! A window is given in local time of a named time zone. It begins and ends when the clock of that zone shows
//! its hours. If the clock is set forward past the beginning, the window begins when the clock continues. If
//! an hour occurs twice, the first occurrence counts. The time zone rules are part of the program and are not
//! taken from the machine, so a moment is inside a window on every machine or on none.

use std::fmt;
use std::sync::LazyLock;

use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::error::SpecError;

/// The most windows of a node: one for each hour of a day. A file with more is a mistake.
pub const WINDOWS_MAX: usize = 24;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A local time of day, such as `22:30`. `24:00` is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    #[schemars(with = "String", regex(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"))]
    minutes: u16,
}

/// Why a text is not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a time of day such as \"22:30\" (quote it in YAML)")]
pub struct BadTime {
    text: String,
}

impl TryFrom<String> for TimeOfDay {
    type Error = BadTime;
    fn try_from(text: String) -> Result<Self, BadTime> {
        let two = |part: &str| {
            let shaped = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u16>().ok().filter(|_| shaped)
        };
        let minutes = text
            .split_once(':')
            .and_then(|(hour, minute)| Some(two(hour)? * 60 + two(minute).filter(|minute| *minute < 60)?))
            .filter(|minutes| *minutes <= 24 * 60);
        match minutes {
            Some(minutes) => Ok(Self { minutes }),
            None => Err(BadTime { text: text.chars().take(80).collect() }),
        }
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl TimeOfDay {
    /// When the clock of a zone shows this time on a day, in milliseconds since the Unix epoch.
    fn of(self, day: Date, zone: &TimeZone) -> Option<u64> {
        let (day, minutes) = match self.minutes {
            1_440 => (day.tomorrow().ok()?, 0),
            minutes => (day, minutes),
        };
        let (hour, minute) = (i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?);
        let time = Time::new(hour, minute, 0, 0).ok()?;
        let at = zone.to_timestamp(day.to_datetime(time)).ok()?;
        u64::try_from(at.as_millisecond()).ok()
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    fn of(day: Date) -> Self {
        match day.weekday() {
            jiff::civil::Weekday::Monday => Self::Mon,
            jiff::civil::Weekday::Tuesday => Self::Tue,
            jiff::civil::Weekday::Wednesday => Self::Wed,
            jiff::civil::Weekday::Thursday => Self::Thu,
            jiff::civil::Weekday::Friday => Self::Fri,
            jiff::civil::Weekday::Saturday => Self::Sat,
            jiff::civil::Weekday::Sunday => Self::Sun,
        }
    }
}

/// One maintenance window; it recurs each week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceWindow {
    /// The days on which it begins. None means every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Weekday>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends. A time that is not later than `from` belongs to the next day.
    pub to: TimeOfDay,
    /// The time zone of both times, such as `Europe/Berlin` (IANA time zone database).
    pub time_zone: String,
}

/// A window that is open, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// When it began.
    pub from_ms: u64,
    /// When it ends.
    pub to_ms: u64,
}

impl MaintenanceWindow {
    /// The opening that covers a moment. A window in a zone that this build does not know has none.
    #[must_use]
    pub fn at(&self, now_ms: u64) -> Option<Opening> {
        let zone = ZONES.get(&self.time_zone).ok()?;
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        let today = now.to_zoned(zone.clone()).date();
        // An opening that began yesterday may last until now. No opening is longer than a day.
        [Some(today), today.yesterday().ok()].into_iter().flatten().find_map(|day| {
            if !self.days.is_empty() && !self.days.contains(&Weekday::of(day)) {
                return None;
            }
            let ends = if self.to <= self.from { day.checked_add(Span::new().days(1)).ok()? } else { day };
            let opening = Opening { from_ms: self.from.of(day, &zone)?, to_ms: self.to.of(ends, &zone)? };
            (opening.from_ms <= now_ms && now_ms < opening.to_ms).then_some(opening)
        })
    }
}

impl fmt::Display for MaintenanceWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<String> = self.days.iter().map(|day| format!("{day:?}").to_lowercase()).collect();
        let days = if days.is_empty() { "daily".to_owned() } else { days.join(", ") };
        write!(f, "{days} {} to {} {}", self.from, self.to, self.time_zone)
    }
}

/// The opening that covers a moment; the one that ends last if there are several.
#[must_use]
pub fn open_at(windows: &[MaintenanceWindow], now_ms: u64) -> Option<Opening> {
    windows.iter().filter_map(|window| window.at(now_ms)).max_by_key(|opening| opening.to_ms)
}

/// Checks the rules that the types do not express.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_windows(windows: &[MaintenanceWindow]) -> Result<(), SpecError> {
    let wrong = |field: String, why: String| Err(SpecError { field, why });
    if windows.len() > WINDOWS_MAX {
        return wrong("maintenance_windows".to_owned(), format!("at most {WINDOWS_MAX}"));
    }
    for (i, window) in windows.iter().enumerate() {
        let field = |name: &str| format!("maintenance_windows[{i}].{name}");
        if ZONES.get(&window.time_zone).is_err() {
            let zone: String = window.time_zone.chars().take(80).collect();
            let why = format!("{zone:?} is no time zone such as \"Europe/Berlin\" or \"UTC\"");
            return wrong(field("time_zone"), why);
        }
        if window.from.minutes == 24 * 60 {
            return wrong(field("from"), "a window begins at 00:00 of the next day instead".to_owned());
        }
        if window.from == window.to {
            let why = "the window is empty; for a whole day say `from: \"00:00\"`, `to: \"24:00\"`";
            return wrong(field("to"), why.to_owned());
        }
        let twice = window.days.iter().enumerate().find(|(n, day)| window.days[..*n].contains(day));
        if let Some((_, day)) = twice {
            return wrong(field("days"), format!("{} stands there twice", format!("{day:?}").to_lowercase()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Weekday], from: &str, to: &str, zone: &str) -> MaintenanceWindow {
        let time = |text: &str| TimeOfDay::try_from(text.to_owned()).unwrap();
        MaintenanceWindow { days: days.to_vec(), from: time(from), to: time(to), time_zone: zone.to_owned() }
    }

    /// When the window is open on the way through some days, as texts of UTC.
    fn openings(window: &MaintenanceWindow, from: &str, to: &str) -> Vec<String> {
        let at = |text: &str| u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap();
        let text = |ms: u64| Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap().to_string();
        let mut found: Vec<Opening> = Vec::new();
        for now_ms in (at(from)..at(to)).step_by(60_000) {
            found.extend(window.at(now_ms).filter(|opening| found.last() != Some(opening)));
        }
        found.iter().map(|o| format!("{} to {}", text(o.from_ms), text(o.to_ms))).collect()
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_begins_on() {
        let night = window(&[Weekday::Sat], "22:00", "02:00", "Europe/Berlin");
        assert_eq!(
            openings(&night, "2026-11-20T00:00:00Z", "2026-11-24T00:00:00Z"),
            ["2026-11-21T21:00:00Z to 2026-11-22T01:00:00Z"]
        );
    }

    #[test]
    fn a_window_keeps_to_the_wall_clock_when_the_clocks_change() {
        let night = window(&[], "04:00", "05:00", "Europe/Berlin");
        assert_eq!(
            openings(&night, "2026-03-28T00:00:00Z", "2026-03-30T00:00:00Z"),
            ["2026-03-28T03:00:00Z to 2026-03-28T04:00:00Z", "2026-03-29T02:00:00Z to 2026-03-29T03:00:00Z"]
        );
    }

    #[test]
    fn hours_that_the_clock_leaves_out_or_shows_twice() {
        let over = window(&[], "02:30", "04:00", "Europe/Berlin");
        assert_eq!(
            openings(&over, "2026-03-29T00:00:00Z", "2026-03-29T06:00:00Z"),
            ["2026-03-29T01:30:00Z to 2026-03-29T02:00:00Z"],
            "half past two does not exist: half an hour after the change"
        );
        let within = window(&[], "02:00", "03:00", "Europe/Berlin");
        assert_eq!(
            openings(&within, "2026-03-29T00:00:00Z", "2026-03-29T06:00:00Z"),
            Vec::<String>::new(),
            "the whole window is left out"
        );
        assert_eq!(
            openings(&within, "2026-10-25T00:00:00Z", "2026-10-25T06:00:00Z"),
            ["2026-10-25T00:00:00Z to 2026-10-25T02:00:00Z"],
            "an hour that comes twice is open twice"
        );
    }

    #[test]
    fn a_whole_day_ends_at_24() {
        let sunday = window(&[Weekday::Sun], "00:00", "24:00", "UTC");
        assert_eq!(
            openings(&sunday, "2026-11-20T00:00:00Z", "2026-11-24T00:00:00Z"),
            ["2026-11-22T00:00:00Z to 2026-11-23T00:00:00Z"]
        );
    }

    #[test]
    fn what_is_no_time_or_no_window_is_refused() {
        for text in ["2:30", "24:01", "25:00", "12:60", "12", "", "ab:cd", "+1:30", "1200:0"] {
            assert!(TimeOfDay::try_from(text.to_owned()).is_err(), "{text}");
        }
        let field = |window: MaintenanceWindow| check_windows(&[window]).unwrap_err().field;
        assert_eq!(field(window(&[], "01:00", "02:00", "Mars/Olympus")), "maintenance_windows[0].time_zone");
        assert_eq!(field(window(&[], "01:00", "01:00", "UTC")), "maintenance_windows[0].to");
        assert_eq!(field(window(&[], "24:00", "01:00", "UTC")), "maintenance_windows[0].from");
        assert_eq!(
            field(window(&[Weekday::Mon, Weekday::Mon], "01:00", "02:00", "UTC")),
            "maintenance_windows[0].days"
        );
        check_windows(&[window(&[], "01:00", "02:00", "America/Argentina/Buenos_Aires")]).unwrap();
    }
}
