//! Moments in JSON: beside milliseconds, as RFC 3339 writes them.

use serde_json::Value;

use crate::output::words;

/// Moments that do not end with `_at_ms`.
const NAMES: [&str; 11] = [
    "at_ms",
    "since_ms",
    "stuck_since_ms",
    "from_ms",
    "to_ms",
    "until_ms",
    "first_ms",
    "last_ms",
    "next_ms",
    "last_event_ms",
    "not_before_ms",
];

/// What stands in these is as the journal has it.
const AS_STORED: [&str; 10] = [
    "resources",
    "spec",
    "intent",
    "evidence",
    "body",
    "cause",
    "recovery_points",
    "signal",
    "delete",
    "stay",
];

/// Earlier than this is a length of time, or nothing: the plans of steps begin at 0.
const FIRST_MS: u64 = 1_000_000_000_000;

/// Adds to each moment `started_at_ms` its `started_at`.
pub(crate) fn beside(value: Value) -> Value {
    match value {
        Value::Array(elements) => Value::Array(elements.into_iter().map(beside).collect()),
        Value::Object(fields) => {
            let mut with = serde_json::Map::new();
            for (name, value) in fields {
                let is_moment = name.ends_with("_at_ms") || NAMES.contains(&name.as_str());
                let moment = value.as_u64().filter(|at_ms| is_moment && *at_ms >= FIRST_MS);
                if let (Some(at_ms), Some(short)) = (moment, name.strip_suffix("_ms")) {
                    with.insert(short.to_owned(), words::rfc_3339(at_ms).into());
                }
                let value = if AS_STORED.contains(&name.as_str()) { value } else { beside(value) };
                with.insert(name, value);
            }
            Value::Object(with)
        }
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_moment_stands_beside_its_milliseconds_and_what_is_stored_stays() {
        let told = json!({
            "started_at_ms": 1_789_372_802_207_u64, "took_ms": 5, "steps": [{"since_ms": 1_789_372_802_207_u64}],
            "resources": {"retained": [{"since_ms": 1_789_372_802_207_u64}]}, "lines": [{"at_ms": 0}]
        });
        let expected = json!({
            "started_at_ms": 1_789_372_802_207_u64, "started_at": "2026-09-14T08:00:02.207Z", "took_ms": 5,
            "steps": [{"since_ms": 1_789_372_802_207_u64, "since": "2026-09-14T08:00:02.207Z"}],
            "resources": {"retained": [{"since_ms": 1_789_372_802_207_u64}]}, "lines": [{"at_ms": 0}]
        });
        assert_eq!(beside(told), expected);
    }
}
