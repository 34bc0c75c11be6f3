//! What may be secret is not shown: user data, which holds keys and passwords more often than it should, and
//! what hooks have printed.
//!
//! Every output, answer and export goes through [`redacted`], unless secrets were asked for. It goes by the
//! name of the field, wherever it is: in an answer, in the body of an event, or in a message that is kept as
//! a text within an event.

use serde::de::IgnoredAny;
use serde_json::Value;

/// The fields whose content is not shown.
const SECRET_FIELDS: [&str; 4] = ["user_data", "UserData", "userData", "hook_output"];

/// How many texts within texts are looked into: a submission within an event within an export takes two.
const DEPTH_MAX: usize = 8;

/// The value with what may be secret replaced by its length.
#[must_use]
pub fn redacted(value: Value) -> Value {
    match redacted_text(&value.to_string()) {
        Some(text) => serde_json::from_str(&text).unwrap_or(Value::Null),
        None => value,
    }
}

/// A JSON text, with what may be secret replaced; none if there is nothing of that kind in it. Everything
/// else stays as it is written.
#[must_use]
pub fn redacted_text(text: &str) -> Option<String> {
    in_text(text, 0)
}

/// Redacts valid JSON.
fn in_json(json: &str, depth: usize) -> Option<String> {
    let mut shown = String::with_capacity(json.len());
    let mut any = false;
    let mut rest = json;
    while let Some(start) = rest.find('"') {
        let (before, from) = rest.split_at(start);
        let (text, after) = from.split_at(text_end(from));
        shown.push_str(before);
        rest = after;
        let is_key = after.trim_start().starts_with(':');
        if !is_key {
            match content(text).and_then(|content| in_text(&content, depth + 1)) {
                Some(redacted) => {
                    shown.push_str(&Value::String(redacted).to_string());
                    any = true;
                }
                None => shown.push_str(text),
            }
            continue;
        }
        shown.push_str(text);
        if !SECRET_FIELDS.contains(&text.trim_matches('"')) {
            continue;
        }
        let colon = after.len() - after.trim_start().len() + 1;
        let space = after[colon..].len() - after[colon..].trim_start().len();
        let (between, value) = after.split_at(colon + space);
        shown.push_str(between);
        let (secret, after) = value.split_at(value_end(value));
        rest = after;
        let is_hidden = |text: &str| text.starts_with("(not shown: ");
        if secret == "null" || content(secret).is_some_and(|text| is_hidden(&text)) {
            shown.push_str(secret);
        } else {
            let bytes = content(secret).map_or(secret.len(), |text| text.len());
            shown.push_str(&format!("\"(not shown: {bytes} bytes; --secrets shows it)\""));
            any = true;
        }
    }
    shown.push_str(rest);
    any.then_some(shown)
}

/// What a JSON text says; none if it is no text.
fn content(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// The end of the JSON text that begins here.
fn text_end(json: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

/// The end of the JSON value that begins here.
fn value_end(json: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = json.as_bytes().get(at) {
        match byte {
            b'"' => {
                at += text_end(&json[at..]);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    json.len()
}

/// A text that may be JSON itself, or the beginning of it.
fn in_text(text: &str, depth: usize) -> Option<String> {
    let first = SECRET_FIELDS.iter().filter_map(|name| text.find(name)).min()?;
    if depth < DEPTH_MAX
        && text.trim_start_matches('\u{feff}').trim_start().starts_with(['{', '[', '"'])
        && serde_json::from_str::<IgnoredAny>(text.trim_start_matches('\u{feff}')).is_ok()
    {
        return in_json(text, depth);
    }
    // A message that cannot be read, or the kept beginning of one: nothing tells where the secret ends. A
    // field's name in a sentence has no colon behind it.
    let is_named = SECRET_FIELDS.iter().any(|name| {
        text.match_indices(name).any(|(at, _)| {
            let rest = text[at + name.len()..].trim_start_matches(['\\', '"', '\'', ' ']);
            rest.starts_with([':', '='])
        })
    });
    is_named.then(|| {
        format!("{}(not shown: the rest, {} bytes; --secrets shows it)", &text[..first], text.len() - first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECRET: &str = "#!/bin/sh\nexport PASSWORD=hunter2\n";

    #[test]
    fn a_secret_is_hidden_wherever_it_is() {
        let submission = json!({"params": {"spec": {"name": "db-1", "user_data": SECRET}}});
        let wrapped = json!({ "Message": submission.to_string() }).to_string();
        let clipped = &submission.to_string()[..60];
        for value in [
            submission.clone(),
            json!([{"spec": {"user_data": SECRET}}, 7]),
            json!({"body": submission.to_string()}),
            json!({"body": wrapped}),
            json!({"body": json!({"body": wrapped}).to_string()}),
            json!({"body": format!("\u{feff} {submission}")}),
            json!({"body": format!("{clipped} … (cut; 900 bytes)")}),
            json!({"body": "schema: v1\nuser_data: hunter2"}),
            json!({"UserData": SECRET}),
            json!({"user_data": {"nested": SECRET}}),
            json!({"step": {"hook_output": "hunter2"}}),
            json!({"user_data": ["hunter2", {"a": "}\"]hunter2"}], "b": [{"UserData": 7, "c": "hunter"}]}),
            Value::String(submission.to_string()),
        ] {
            let shown = redacted(value.clone()).to_string();
            assert!(!shown.contains("hunter2") && shown.contains("not shown"), "{value}\n{shown}");
            assert_eq!(redacted(redacted(value.clone())), redacted(value), "again it is the same");
        }
        let kept = redacted(submission);
        assert_eq!(kept["params"]["spec"]["name"], "db-1");
    }

    #[test]
    fn what_is_no_secret_stays_as_it_was() {
        for value in [
            json!({"user_data": null, "name": "db-1", "text": "{not json", "n": 1.5}),
            json!({"because": "user_data has 17000 bytes; EC2 takes at most 16384"}),
            json!({"body": "{\"a\":  1}"}),
        ] {
            assert_eq!(redacted(value.clone()), value);
        }
        assert_eq!(redacted_text("{\"a\":  1}"), None);
        let written = "{ \"z\": [1.50, \"\\u00fc\"],\n  \"user_data\" : \"hunter2\" , \"a\": {} }";
        let expected = written.replace("hunter2", "(not shown: 7 bytes; --secrets shows it)");
        assert_eq!(redacted_text(written), Some(expected), "the rest is as it was written");
    }
}
