//! Times, lengths and long texts in words.

use jiff::Timestamp;

use crate::output::WIDTH;

/// A moment, to the second.
pub(crate) fn time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{at_ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A moment, to the minute.
pub(crate) fn minute(at_ms: u64) -> String {
    let time = time(at_ms);
    time.rsplit_once(':').map_or_else(|| time.clone(), |(minute, _)| format!("{minute}Z"))
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

/// Columns and a text behind them, broken at spaces so that no line is wider than a terminal where ids allow
/// it; further lines begin at `indent`.
pub(crate) fn wrapped(head: &str, text: &str, indent: usize) -> String {
    let mut lines = vec![head.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap_or_else(|| unreachable!("BUG: there is always a line"));
        if line.chars().count() + 1 + word.chars().count() > usize::from(WIDTH) {
            lines.push(format!("{:indent$}{word}", ""));
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}
