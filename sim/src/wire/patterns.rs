//! Event patterns of EventBridge: what they may look like, and what they match (EventBridge User Guide, event
//! patterns, and comparison operators).

use std::net::IpAddr;

use serde_json::{Map, Value as Json};

/// How deep a pattern is followed.
const DEPTH_MAX: usize = 32;

/// Whether it is a pattern; the reason if it is none.
pub(super) fn check(pattern: &Json) -> Result<(), String> {
    let fields = pattern.as_object().ok_or("Filter is not an object")?;
    if fields.is_empty() {
        return Err("Empty event patterns are not allowed".to_owned());
    }
    check_fields(fields, 0)
}

fn check_fields(fields: &Map<String, Json>, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("a pattern is at most {DEPTH_MAX} deep here"));
    }
    for (name, wanted) in fields {
        match wanted {
            Json::Array(branches) if name == "$or" => {
                if branches.len() < 2 {
                    return Err("There must have at least 2 Objects in $or relationship.".to_owned());
                }
                for branch in branches {
                    let branch = branch.as_object().filter(|branch| !branch.is_empty());
                    check_fields(
                        branch.ok_or("Only Object is allowed in array of $or relationship.")?,
                        depth + 1,
                    )?;
                }
            }
            Json::Array(values) if values.is_empty() => return Err("Empty arrays are not allowed".to_owned()),
            Json::Array(values) => values.iter().try_for_each(check_value)?,
            Json::Object(nested) if nested.is_empty() => {
                return Err("Empty objects are not allowed".to_owned());
            }
            Json::Object(nested) => check_fields(nested, depth + 1)?,
            _ => return Err(format!("\"{name}\" must be an object or an array")),
        }
    }
    Ok(())
}

fn check_value(value: &Json) -> Result<(), String> {
    let Json::Object(operator) = value else {
        let is_plain = !value.is_array();
        return is_plain
            .then_some(())
            .ok_or_else(|| "Match value must be String, number, true, false, or null".to_owned());
    };
    let Some((kind, operand)) = operator.iter().next().filter(|_| operator.len() == 1) else {
        return Err("Only one key allowed in match expression".to_owned());
    };
    let is_fine = match kind.as_str() {
        "exists" => operand.is_boolean(),
        "prefix" | "suffix" => operand.is_string() || is_text_of(operand, "equals-ignore-case"),
        "equals-ignore-case" => operand.is_string(),
        "wildcard" => operand.as_str().is_some_and(|glob| !glob.contains("**")),
        "cidr" => operand.as_str().is_some_and(|text| Block::read(text).is_some()),
        "numeric" => operand.as_array().is_some_and(|tests| is_numeric(tests)),
        "anything-but" => is_anything_but(operand),
        other => return Err(format!("Unrecognized match type {other}")),
    };
    is_fine.then_some(()).ok_or_else(|| format!("{kind} match pattern is not valid: {operand}"))
}

fn is_text_of(operand: &Json, kind: &str) -> bool {
    operand.as_object().is_some_and(|inner| inner.len() == 1 && inner.get(kind).is_some_and(Json::is_string))
}

/// Texts or numbers, one or several of a kind, or an operator on texts.
fn is_anything_but(operand: &Json) -> bool {
    let all_of_a_kind = |all: &[Json]| {
        !all.is_empty() && (all.iter().all(Json::is_string) || all.iter().all(Json::is_number))
    };
    let texts = |value: &Json| {
        value.is_string()
            || value.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Json::is_string))
    };
    match operand {
        Json::String(_) | Json::Number(_) => true,
        Json::Array(all) => all_of_a_kind(all),
        Json::Object(inner) if inner.len() == 1 => inner.iter().all(|(kind, value)| {
            matches!(kind.as_str(), "prefix" | "suffix" | "equals-ignore-case" | "wildcard") && texts(value)
        }),
        _ => false,
    }
}

/// One comparison, or a lower and an upper bound.
fn is_numeric(tests: &[Json]) -> bool {
    let parts: Vec<_> =
        tests.chunks(2).map(|test| (test[0].as_str(), test.get(1).and_then(Json::as_f64))).collect();
    match parts[..] {
        [(Some("=" | "<" | "<=" | ">" | ">="), Some(_))] => true,
        [(Some(">" | ">="), Some(least)), (Some("<" | "<="), Some(most))] => least < most,
        _ => false,
    }
}

/// Whether an event matches a pattern: each field of the pattern must be there with one of the values.
pub(super) fn matches(pattern: &Json, event: &Json, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    match pattern {
        Json::Object(fields) => fields.iter().all(|(name, wanted)| {
            if name == "$or" {
                return wanted
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| matches(one, event, depth + 1)));
            }
            match wanted {
                Json::Array(values) => values.iter().any(|value| admits(value, event.get(name))),
                nested => event.get(name).is_some_and(|found| matches(nested, found, depth + 1)),
            }
        }),
        _ => false,
    }
}

/// Whether a field has a value, or one of its values is it.
fn admits(wanted: &Json, found: Option<&Json>) -> bool {
    if let Some(exists) = wanted.get("exists").and_then(Json::as_bool) {
        return found.is_some() == exists;
    }
    match found {
        None => false,
        Some(Json::Array(all)) => all.iter().any(|one| admits_one(wanted, one)),
        Some(one) => admits_one(wanted, one),
    }
}

/// Numbers are equal by value: 2 is 2.0.
fn same(a: &Json, b: &Json) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn admits_one(wanted: &Json, found: &Json) -> bool {
    let Some((kind, value)) = wanted.as_object().and_then(|object| object.iter().next()) else {
        return same(wanted, found);
    };
    if let (Json::Array(all), "prefix" | "suffix" | "equals-ignore-case" | "wildcard") =
        (value, kind.as_str())
    {
        return found.as_str().is_some_and(|text| all.iter().any(|one| is_like(kind, one, text)));
    }
    match kind.as_str() {
        "anything-but" => match value {
            Json::Array(all) => !all.iter().any(|one| same(one, found)),
            Json::Object(_) => !admits_one(value, found),
            one => !same(one, found),
        },
        "numeric" => {
            let (Some(number), Some(tests)) = (found.as_f64(), value.as_array()) else { return false };
            tests.chunks(2).all(|test| match (test[0].as_str(), test.get(1).and_then(Json::as_f64)) {
                (Some("="), Some(bound)) => number == bound,
                (Some("<"), Some(bound)) => number < bound,
                (Some("<="), Some(bound)) => number <= bound,
                (Some(">"), Some(bound)) => number > bound,
                (Some(">="), Some(bound)) => number >= bound,
                _ => false,
            })
        }
        kind => found.as_str().is_some_and(|text| is_like(kind, value, text)),
    }
}

/// The operators on texts.
fn is_like(kind: &str, value: &Json, text: &str) -> bool {
    // Such as { "prefix": { "equals-ignore-case": "AWS." } }.
    let ignores_case = value.get("equals-ignore-case").and_then(Json::as_str);
    let Some(wanted) = ignores_case.or(value.as_str()) else { return false };
    let (text, wanted) = match ignores_case.is_some() || kind == "equals-ignore-case" {
        true => (text.to_lowercase(), wanted.to_lowercase()),
        false => (text.to_owned(), wanted.to_owned()),
    };
    match kind {
        "prefix" => text.starts_with(&wanted),
        "suffix" => text.ends_with(&wanted),
        "equals-ignore-case" => text == wanted,
        "wildcard" => super::ec2::like(&literal_question_marks(&wanted), &text),
        "cidr" => Block::read(&wanted).zip(text.parse().ok()).is_some_and(|(block, ip)| block.holds(ip)),
        _ => false,
    }
}

/// In EventBridge only `*` is a wildcard, which EC2's filters share.
fn literal_question_marks(glob: &str) -> String {
    glob.replace('?', "\\?")
}

/// A range of addresses, such as `10.0.0.0/8`.
struct Block {
    network: u128,
    /// How many bits of 128 are the host's.
    host_bits: u32,
    is_v4: bool,
}

impl Block {
    fn read(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (network, is_v4) = number(address.parse().ok()?);
        let bits = if is_v4 { 32 } else { 128 };
        let prefix: u32 = prefix.parse().ok().filter(|prefix| *prefix <= bits)?;
        Some(Self { network, host_bits: bits - prefix, is_v4 })
    }

    fn holds(&self, address: IpAddr) -> bool {
        let (address, is_v4) = number(address);
        let shifted = |value: u128| value.checked_shr(self.host_bits).unwrap_or(0);
        is_v4 == self.is_v4 && shifted(address) == shifted(self.network)
    }
}

fn number(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), true),
        IpAddr::V6(address) => (u128::from(address), false),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        let event = json!({ "source": "aws.ec2", "detail": {
            "n": 7, "x": 2.0, "z": "us-east-1a", "tags": ["x", "y"], "ip": "10.1.2.3", "six": "2001:db8::7", "none": null,
        } });
        let detail = |field: &str, value: Json| json!({ "detail": { field: [value] } });
        for (pattern, expected) in [
            (json!({ "source": ["aws.ec2", "other"] }), true),
            (json!({ "source": ["other"] }), false),
            (json!({ "source": [{ "prefix": "aws." }] }), true),
            (json!({ "source": [{ "prefix": { "equals-ignore-case": "AWS." } }] }), true),
            (json!({ "source": [{ "suffix": ".ec2" }] }), true),
            (json!({ "source": [{ "equals-ignore-case": "AWS.EC2" }] }), true),
            (json!({ "source": [{ "wildcard": "a*.e*2" }] }), true),
            (json!({ "source": [{ "wildcard": "aws?ec2" }] }), false),
            (detail("n", json!({ "numeric": [">", 5, "<", 8] })), true),
            (detail("n", json!({ "numeric": [">", 7] })), false),
            (detail("n", json!(7.0)), true),
            (detail("x", json!(2)), true),
            (detail("x", json!({ "anything-but": 2 })), false),
            (detail("z", json!({ "anything-but": ["us-east-1b"] })), true),
            (detail("z", json!({ "anything-but": { "prefix": "us-" } })), false),
            (detail("z", json!({ "anything-but": { "suffix": ["a", "b"] } })), false),
            (detail("z", json!({ "anything-but": { "wildcard": "*-1c" } })), true),
            (detail("tags", json!("y")), true),
            (detail("none", json!(null)), true),
            (detail("ip", json!({ "cidr": "10.0.0.0/8" })), true),
            (detail("ip", json!({ "cidr": "10.1.2.0/25" })), true),
            (detail("ip", json!({ "cidr": "10.1.3.0/24" })), false),
            (detail("ip", json!({ "cidr": "0.0.0.0/0" })), true),
            (detail("six", json!({ "cidr": "2001:db8::/32" })), true),
            (detail("six", json!({ "cidr": "0.0.0.0/0" })), false),
            (detail("z", json!({ "cidr": "0.0.0.0/0" })), false),
            (detail("absent", json!({ "exists": false })), true),
            (detail("absent", json!("x")), false),
            (json!({ "$or": [{ "source": ["no"] }, { "detail": { "n": [7] } }] }), true),
        ] {
            assert_eq!(check(&pattern), Ok(()), "{pattern}");
            assert_eq!(matches(&pattern, &event, 0), expected, "{pattern}");
        }
        assert!(!matches(&json!([]), &event, 0));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in [
            json!({}),
            json!([]),
            json!("source"),
            json!({ "source": "aws.ec2" }),
            json!({ "source": [] }),
            json!({ "detail": {} }),
            json!({ "detail": { "a": [{ "foo": 1 }] } }),
            json!({ "detail": { "a": [[1]] } }),
            json!({ "detail": { "a": [{}] } }),
            json!({ "detail": { "a": [{ "prefix": "x", "suffix": "y" }] } }),
            json!({ "source": [{ "prefix": 1 }] }),
            json!({ "source": [{ "suffix": null }] }),
            json!({ "source": [{ "exists": "yes" }] }),
            json!({ "source": [{ "anything-but": [] }] }),
            json!({ "source": [{ "anything-but": ["a", 1] }] }),
            json!({ "source": [{ "anything-but": { "numeric": ["=", 1] } }] }),
            json!({ "source": [{ "wildcard": "a**b" }] }),
            json!({ "source": [{ "cidr": "10.0.0.0" }] }),
            json!({ "source": [{ "cidr": "10.0.0.0/33" }] }),
            json!({ "detail": { "n": [{ "numeric": [] }] } }),
            json!({ "detail": { "n": [{ "numeric": [">"] }] } }),
            json!({ "detail": { "n": [{ "numeric": ["~", 1] }] } }),
            json!({ "detail": { "n": [{ "numeric": ["<", 5, ">", 1] }] } }),
            json!({ "detail": { "n": [{ "numeric": [">", 8, "<", 5] }] } }),
            json!({ "$or": [{ "source": ["a"] }] }),
            json!({ "$or": [{ "source": ["a"] }, "b"] }),
        ] {
            assert!(check(&wrong).is_err(), "{wrong}");
        }
    }
}
