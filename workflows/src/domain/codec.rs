//! The stored form of events: kind and version beside the body; older versions are upcast.

use perennial_engine::domain::DecodeError;
use perennial_engine::journal::EventData;

use crate::domain::states::Event;

/// The version of every event format in this build. An older one is upcast on reading, one version at a time.
pub const EVENT_VERSION: u32 = 1;

/// Writes an event in its newest format.
pub(crate) fn encode(event: &Event) -> EventData {
    // `{"operation": {"step_settled": {…}}}` becomes kind `operation.step_settled` and the inner object.
    let value = serde_json::to_value(event)
        .unwrap_or_else(|error| unreachable!("BUG: every event is plain data: {error}"));
    let (area, inner) = single(value);
    let (name, body) = match inner {
        serde_json::Value::String(name) => (name, serde_json::json!({})),
        inner => single(inner),
    };
    EventData { kind: format!("{area}.{name}"), version: EVENT_VERSION, body: body.to_string() }
}

/// Reads an event of any format ever released.
pub(crate) fn decode(data: &EventData) -> Result<Event, DecodeError> {
    let malformed =
        |why: String| DecodeError::Malformed { kind: data.kind.clone(), version: data.version, why };
    if data.version > EVENT_VERSION {
        return Err(DecodeError::Newer {
            kind: data.kind.clone(),
            version: data.version,
            known: EVENT_VERSION,
        });
    }
    let (area, name) = data.kind.split_once('.').ok_or_else(|| malformed("its kind has no area".into()))?;
    let body: serde_json::Value =
        serde_json::from_str(&data.body).map_err(|error| malformed(error.to_string()))?;
    let body = upcast(&data.kind, data.version, body);
    serde_json::from_value(serde_json::json!({ area: { name: body } }))
        .map_err(|error| malformed(error.to_string()))
}

/// The one field of an object with one field.
fn single(value: serde_json::Value) -> (String, serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.into_iter().next().unwrap_or_else(|| unreachable!("BUG: an enum's object has one field"))
        }
        _ => unreachable!("BUG: an event is an object"),
    }
}

/// Brings an older body to the newest form, one version at a time. There is only one version so far.
const fn upcast(_kind: &str, _version: u32, body: serde_json::Value) -> serde_json::Value {
    body
}
