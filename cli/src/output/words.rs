//! Times, lengths and long texts in words.

use jiff::Timestamp;

use crate::output::width;

/// A moment, to the second.
pub(crate) fn time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{at_ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A moment as programs write it (RFC 3339), to the millisecond.
pub(crate) fn rfc_3339(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// A moment, to the minute.
pub(crate) fn minute(at_ms: u64) -> String {
    let time = time(at_ms);
    time.rsplit_once(':').map_or_else(|| time.clone(), |(minute, _)| format!("{minute}Z"))
}

/// A moment of this or the last months, to the minute and without the year.
pub(crate) fn recent(at_ms: u64) -> String {
    let minute = minute(at_ms);
    minute.split_once('-').map_or_else(|| minute.clone(), |(_, rest)| rest.to_owned())
}

/// A length of time.
pub(crate) fn length(ms: u64) -> String {
    let seconds = ms as f64 / 1_000.0;
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7_200.0 {
        format!("{:.1} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3_600.0)
    }
}

/// A moment: only its hour if it is of the same day as now.
pub(crate) fn moment(at_ms: u64, now_ms: u64) -> String {
    let (at, now) = (time(at_ms), time(now_ms));
    match (at.split_once(' '), now.split_once(' ')) {
        (Some((day, hour)), Some((today, _))) if day == today => hour.to_owned(),
        _ => at,
    }
}

/// A place in a course of time: `+12.3 s`, after two minutes `+3:14`, and `+1:02:14` after an hour.
pub(crate) fn offset(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..120 => format!("+{:.1} s", ms as f64 / 1_000.0),
        120..3_600 => format!("+{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("+{}:{:02}:{:02}", seconds / 3_600, seconds % 3_600 / 60, seconds % 60),
    }
}

/// A length of time in two units, such as `6 min 12 s`.
pub(crate) fn lasting(ms: u64) -> String {
    let seconds = ms / 1_000;
    let two = |big: u64, unit: &str, rest: u64, small: &str| match rest {
        0 => format!("{big} {unit}"),
        rest => format!("{big} {unit} {rest} {small}"),
    };
    match seconds {
        0..10 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..172_800 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A length of time in its largest unit, for columns.
pub(crate) fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Columns and a text behind them, broken at spaces so that no line is wider than a terminal where ids allow
/// it; further lines begin at `indent`.
pub(crate) fn wrapped(head: &str, text: &str, indent: usize) -> String {
    let width = width().unwrap_or(usize::MAX);
    let mut lines = vec![head.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap_or_else(|| unreachable!("BUG: there is always a line"));
        if line.chars().count() + 1 + word.chars().count() > width {
            lines.push(format!("{:indent$}{word}", ""));
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}
