//! Times, lengths and long texts in words.

use jiff::Timestamp;

use crate::output::{paint, width};

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
/// it; further lines begin at `indent`. An id is never broken, and neither is a command in backticks that
/// fits a line.
pub(crate) fn wrapped(head: &str, text: &str, indent: usize) -> String {
    let width = width().unwrap_or(usize::MAX);
    let mut lines = vec![head.to_owned()];
    for word in words(text, width.saturating_sub(indent)) {
        let line = lines.last_mut().unwrap_or_else(|| unreachable!("BUG: there is always a line"));
        if line.chars().count() + 1 + word.chars().count() > width {
            lines.push(format!("{:indent$}{word}", ""));
        } else {
            line.push(' ');
            line.push_str(&word);
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

/// A text of several lines, each broken in the same way at this width, and so are words that are longer, but
/// ids; a line that begins with spaces (a command) stays as it is.
pub(crate) fn broken(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for given in text.lines() {
        if given.starts_with(' ') || given.chars().count() <= width {
            lines.push(given.to_owned());
            continue;
        }
        lines.push(String::new());
        for word in words(given, width).iter().flat_map(|word| pieces(word, width)) {
            let line = lines.last_mut().unwrap_or_else(|| unreachable!("BUG: there is always a line"));
            if line.is_empty() {
                line.push_str(&word);
            } else if line.chars().count() + 1 + word.chars().count() > width {
                lines.push(word);
            } else {
                line.push(' ');
                line.push_str(&word);
            }
        }
    }
    lines.join("\n")
}

/// The words of a text. What stands in backticks is one of them, if it is no wider than a line.
fn words(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for word in text.split_whitespace() {
        let ticks = word.matches('`').count();
        match words.last_mut() {
            Some(last) if open => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        open ^= ticks % 2 == 1;
    }
    let whole = |word: String| match word.chars().count() {
        count if count > width => word.split(' ').map(str::to_owned).collect(),
        _ => vec![word],
    };
    words.into_iter().flat_map(whole).collect()
}

/// A word that is longer than a line, cut behind its punctuation, but in no id.
fn pieces(word: &str, width: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut rest = word;
    while !rest.is_empty() {
        let end =
            rest.char_indices().find(|(at, sign)| "-/.:,_=".contains(*sign) && !ends_id(&rest[..*at], *sign));
        let (part, after) = rest.split_at(end.map_or(rest.len(), |(at, sign)| at + sign.len_utf8()));
        let fits = |last: &String| last.is_empty() || last.chars().count() + part.chars().count() <= width;
        match pieces.last_mut() {
            Some(last) if fits(last) => last.push_str(part),
            _ => pieces.push(part.to_owned()),
        }
        rest = after;
    }
    pieces
}

/// Whether a dash behind this text is that of an AWS id.
fn ends_id(before: &str, sign: char) -> bool {
    let prefix = before.rsplit(|sign: char| !sign.is_ascii_alphanumeric()).next().unwrap_or_default();
    sign == '-' && paint::IDS.iter().any(|id| id.strip_suffix('-') == Some(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_word_is_cut_behind_its_punctuation_but_in_no_id() {
        assert_eq!(
            broken("(Server.Spot-terminated-no-capacity)", 18),
            "(Server.Spot-\nterminated-no-\ncapacity)"
        );
        assert_eq!(broken("fence:i-0f02cc974e1b681eb,", 12), "fence:\ni-0f02cc974e1b681eb,");
        assert_eq!(
            broken("/var/lib/perennial/journal.sqlite, whole", 22),
            "/var/lib/perennial/\njournal.sqlite, whole"
        );
    }

    #[test]
    fn neither_an_id_nor_a_command_in_backticks_is_broken() {
        let text = "see that vol-0f02cc974e1b681eb leaves: `perennial node pause db-1`, then go on";
        let expected = "see that\nvol-0f02cc974e1b681eb leaves:\n`perennial node pause db-1`,\nthen go on";
        assert_eq!(broken(text, 29), expected);
        // One that does not fit is broken like other words, and an id of any length is not.
        let narrow = broken("`perennial node pause db-1` of vol-0f02cc974e1b681eb", 16);
        assert_eq!(narrow, "`perennial node\npause db-1` of\nvol-0f02cc974e1b681eb");
        assert_eq!(
            broken("first\n  perennial node pause db-1 --reason x", 10),
            "first\n  perennial node pause db-1 --reason x"
        );
    }
}
